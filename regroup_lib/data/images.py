"""Image files decoded into one array: in parallel, each once, and kept in a cache file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from joblib import cpu_count
from PIL import Image

from regroup_lib.data.dataset import DataError
from regroup_lib.files import digest_file, read_npz, write_npz
from regroup_lib.progress import progress_bar

logger = logging.getLogger(__name__)

MAX_IMAGE_SIZE = 1024  # of a decoded image, height and width
MAX_PIXELS = 178_956_970  # of an image file: above it Pillow, too, suspects a decompression bomb
LARGE = 25_000_000  # pixels; larger pictures are decoded one at a time, as each takes hundreds of megabytes
_large_picture = Lock()


def in_threads(function: Callable, items: Sequence, **bar: Any) -> list:
    """Return the results of a function for each item, computed on all cores, with the options of a bar if need be."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        results = pool.map(function, items)
        return list(progress_bar(iterable=results, total=len(items), **bar) if bar else results)


def check_image_size(size: int) -> None:
    """Raise a DataError if `size` is not a number of pixels that images can be resized to."""
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or not 1 <= size <= MAX_IMAGE_SIZE:
        raise DataError(f"image_size is {size!r}; it must be a whole number of pixels from 1 to {MAX_IMAGE_SIZE}")


@contextmanager
def open_image(
    path: Path, formats: Sequence[str], *, draft: tuple[int, int] | None = None, max_pixels: int | None = None
) -> Iterator[Image.Image]:
    """Open an image file of one of Pillow's formats; its pixels are not decoded yet.

    A JPEG file of more than `LARGE` pixels is decoded at a scale above `draft`, the width and height needed.
    A file that is not regular, or has more than `max_pixels` (at most `MAX_PIXELS`), is a ValueError; Pillow raises a
    different class for each other defect.
    """
    if not path.is_file():  # reading a device or a pipe might never end
        raise ValueError("it is a link to nothing, or no regular file")
    with Image.open(path, formats=formats) as image:
        n_pixels = image.width * image.height
        limit = min(max_pixels or MAX_PIXELS, MAX_PIXELS)
        if n_pixels > limit:
            raise ValueError(f"it has {image.width} x {image.height} pixels, more than {limit:,}")
        with _large_picture if n_pixels > LARGE else nullcontext():
            if draft and n_pixels > LARGE:
                image.draft(None, (2 * max(draft), 2 * max(draft)))
            yield image


def digest_or_reason(path: Path) -> str:
    """Return a file's SHA-256, or why it cannot be read; decoding repeats the reason with the file's name."""
    try:
        return digest_file(path)
    except OSError as error:
        return str(error)


def decode_images(
    paths: Sequence[Path], shape: tuple[int, int, int], read: Callable[[Path], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Decode image files in parallel, with a progress bar.

    `read` turns a path into an array of that shape; the text of its error is the reason that a file cannot be read.
    Return the images, uint8 [n, height, width, channels], zero where a file cannot be read, and the reasons, str [n],
    empty elsewhere.
    """
    images = np.zeros((len(paths), *shape), np.uint8)

    def decode(row: int) -> str:
        try:
            images[row] = read(paths[row])
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises a different class for each defect
            return str(error) or type(error).__name__
        return ""

    # Pillow releases the interpreter's lock while it decodes and resizes.
    return images, np.array(in_threads(decode, range(len(paths)), desc="decoding", unit="image"), dtype=object)


def cached_images(
    paths: Sequence[Path], shape: tuple[int, int, int], read: Callable[[Path], np.ndarray], kept_at: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and reasons of `decode_images`, from the cache file `kept_at` if it exists.

    The name of that file contains a key of everything that determines the result.
    """
    try:
        kept = read_npz(kept_at)
        for name, kind, expected in (("images", np.uint8, (len(paths), *shape)), ("readable", bool, (len(paths),))):
            if kept[name].dtype != kind or kept[name].shape != expected:
                raise ValueError(f"{name} is {kept[name].dtype} {kept[name].shape}, not {kind.__name__} {expected}")
    except (FileNotFoundError, ValueError, KeyError) as error:
        if not isinstance(error, FileNotFoundError):
            logger.warning("the image cache %s is damaged and is made again (%s)", kept_at, error)
        images, reasons = decode_images(paths, shape, read)
        try:
            write_npz(kept_at, {"images": images, "readable": reasons == ""})
        except OSError as error:  # a read-only data directory
            logger.warning("the decoded images are not kept: %s cannot be written (%s)", kept_at, error)
        return images, reasons
    images, reasons = kept["images"], np.full(len(paths), "", dtype=object)
    bad = np.flatnonzero(~kept["readable"])
    if len(bad):  # the cache has no reasons, and the machine may have been at fault
        images[bad], reasons[bad] = decode_images([paths[row] for row in bad], shape, read)
    return images, reasons
