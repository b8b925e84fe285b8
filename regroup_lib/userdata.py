"""A user's own data set, a folder of images or a table: read, checked, and divided where it is not.

Nothing here guesses in silence: what is left out, resized, converted or divided stands in ``Dataset.notes``.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from regroup_lib.dataset import SPLITS, DataError, Dataset, Split, some_of, split_by_group
from regroup_lib.files import digest_arrays, digest_file
from regroup_lib.images import cached_images, check_image_size, n_threads, open_image

logger = logging.getLogger(__name__)

OWN_FRACTIONS = {"train": 0.8, "test": 0.2}  # of a set without a test split
FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "BMP": (".bmp",), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",)}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
NO_SPLIT = "no test split"
KEPT_SIZE = 128  # images of one size up to this stay as they are
ALLOW = "load with allow_missing=True (--allow-missing) to leave them out"

# ---------------------------------------------------------------- folders of images


@dataclass(frozen=True)
class _Files:
    """Image files of a folder with split ("" where it has none) and class, in the order of split, class and name."""

    folder: Path
    paths: list[Path]
    parts: np.ndarray
    classes: np.ndarray
    notes: list[str]

    def name(self, row: int) -> str:
        return self.paths[row].relative_to(self.folder).as_posix()

    def take(self, rows: np.ndarray) -> _Files:
        return _Files(self.folder, [self.paths[i] for i in rows], self.parts[rows], self.classes[rows], self.notes)


def load_folder(
    folder: str | Path, *, cache: Path, image_size: int | None = None, allow_missing: bool = False
) -> Dataset:
    """Load a folder of image files, one folder a class.

    Parameters
    ----------
    folder : str or Path
        With ``train/<class>/...`` and, where there are any, ``val/`` and ``test/``; or with ``<class>/...`` alone.
        Images may lie in folders below their class's. Without a test split the training images are divided 80/20,
        class by class, by a rule that depends on the images alone; copies of one file stay together.
    cache : Path
        Where decoded images are kept.
    image_size : int, optional
        Height and width to which each whole picture is resized. Default: images stay as they are, which is refused
        where they have several sizes or more than `KEPT_SIZE` pixels a side.
    allow_missing : bool
        Leave files out that cannot be read, instead of refusing the folder.

    Returns
    -------
    Dataset
        Grey if all images are, else RGB. Pictures are turned upright as their camera noted, what is transparent becomes
        white, and 16 bits become 8. ``metadata`` has each image's ``file``; ``notes`` say how often each of that was
        done, and how many images of the test split are also in the training split.

    Raises
    ------
    DataError
        If the layout is another one, there are fewer than two classes, sizes differ and none is given, or files cannot
        be read; the message names them.
    """
    folder = Path(folder)
    if image_size is not None:
        try:
            check_image_size(image_size)
        except ValueError as error:
            raise DataError(str(error)) from None
    files = _listed(folder)
    # Times and sizes are part of the key: files that changed are read again.
    state = hashlib.sha256()
    for path in files.paths:
        status = path.stat()
        state.update(f"{path} {status.st_mtime_ns} {status.st_size}\n".encode())
    return _load_folder_once(folder, cache, image_size, allow_missing, state.hexdigest())


@lru_cache(maxsize=2)  # a comparison asks for the network's size and the encoder's
def _load_folder_once(folder: Path, cache: Path, image_size: int | None, allow_missing: bool, state: str) -> Dataset:
    files = _listed(folder)
    with ThreadPoolExecutor(n_threads()) as pool:
        headers = list(pool.map(_header, files.paths))
    sound = [header for header in headers if not header.reason]
    if not sound:
        raise DataError(f"{folder}: none of {len(headers)} images can be read; the first: {headers[0].reason}")
    shape = (*_shape(folder, sound, image_size), 1 if all(header.grey for header in sound) else 3)
    key = hashlib.sha256(f"{shape} {image_size}\n".encode())
    for row, header in enumerate(headers):
        key.update(f"{files.name(row)} {header.digest}\n".encode())
    kept_at = cache / f"images-{shape[0]}x{shape[1]}-{key.hexdigest()[:20]}.npz"
    images, reasons = cached_images(files.paths, shape, partial(_read_picture, shape=shape), kept_at)
    readable = np.flatnonzero(reasons == "")
    notes = [*files.notes, *_unreadable(files, reasons, allow_missing)]
    headers = [headers[row] for row in readable]
    notes += _conversions(headers, shape, image_size)
    return _folder_dataset(files.take(readable), images[readable], [header.digest for header in headers], notes)


def _listed(folder: Path) -> _Files:
    """Return the image files of a folder by its layout, or raise a DataError that says which layouts there are."""
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist or is no folder; check the path")
    inside = _folders(folder)
    layout = "expected train/<class>/ with val/ and test/ where there are any, or <class>/ alone"
    divided = "train" in {path.name for path in inside} and bool(_folders(folder / "train"))
    if divided:
        others = sorted(path.name for path in inside if path.name not in SPLITS)
        if others:
            raise DataError(f"{folder}: {some_of(others)} beside train/; {layout}")
        of_part = {part: folder / part for part in SPLITS if (folder / part).is_dir()}
    else:
        of_part = {"": folder}
    paths, parts, classes, ignored = [], [], [], []
    for part, parent in of_part.items():
        stray = [path.name for path in parent.iterdir() if _is_image(path)]
        if stray:
            raise DataError(f"{parent}: {len(stray)} images outside of a class's folder ({some_of(stray)}); {layout}")
        for class_folder in _folders(parent):
            found = sorted(path for path in class_folder.rglob("*") if path.is_file() and not _hidden(path, parent))
            pictures = [path for path in found if _is_image(path)]
            ignored += [path for path in found if not _is_image(path)]
            if not pictures:
                raise DataError(f"{class_folder} has no image ({', '.join(SUFFIXES)}); remove it, or fill it")
            paths += pictures
            parts += [part] * len(pictures)
            classes += [class_folder.name] * len(pictures)
    _check_classes(folder, parts, classes, layout)
    notes = [f"left out: {len(ignored)} files that are no images ({some_of(p.name for p in ignored)})"] * bool(ignored)
    return _Files(folder, paths, np.array(parts), np.array(classes), notes)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _hidden(path: Path, parent: Path) -> bool:
    return any(name.startswith(".") for name in path.relative_to(parent).parts)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _check_classes(folder: Path, parts: Sequence[str], classes: Sequence[str], layout: str) -> None:
    of_part = {part: {c for p, c in zip(parts, classes, strict=True) if p == part} for part in dict.fromkeys(parts)}
    known = of_part.get("train", of_part.get("", set()))
    if len(known) < 2:
        found = f"the class {next(iter(known))!r} alone" if known else "no class"
        raise DataError(f"{folder} has {found}, and at least two are needed; {layout}")
    for part, found in of_part.items():
        if found - known:
            raise DataError(f"{folder}: {part}/ has classes that train/ has not: {some_of(sorted(found - known))}")


@dataclass(frozen=True)
class _Header:
    """What an image file says of itself, without its pixels."""

    digest: str
    size: tuple[int, int] = (0, 0)  # height and width, upright
    grey: bool = False
    transparent: bool = False
    deep: bool = False
    turned: bool = False
    reason: str = ""


def _header(path: Path) -> _Header:
    try:
        digest = digest_file(path)
        with open_image(path, list(FORMATS)) as image:
            orientation = image.getexif().get(0x0112, 1)
            size = (image.height, image.width) if orientation < 5 else (image.width, image.height)
            deep = image.mode.startswith("I")
            grey = deep or image.mode in ("1", "L", "LA")
            return _Header(digest, size, grey, image.has_transparency_data, deep, orientation != 1)
    except Exception as error:  # Pillow raises a different class for each defect
        return _Header("", reason=str(error) or type(error).__name__)


def _shape(folder: Path, headers: Sequence[_Header], image_size: int | None) -> tuple[int, int]:
    """Return height and width that all images get."""
    if image_size is not None:
        return image_size, image_size
    sizes = Counter(header.size for header in headers)
    smallest, largest = (f"{width} x {height}" for height, width in (min(sizes), max(sizes)))
    choose = "choose one with image_size=64, say (--image-size 64)"
    if len(sizes) > 1:
        raise DataError(f"{folder}: images have {len(sizes)} sizes, from {smallest} to {largest} pixels; {choose}")
    (size,) = sizes
    if max(size) > KEPT_SIZE:
        raise DataError(f"{folder}: images have {largest} pixels, more than {KEPT_SIZE} a side; {choose}")
    return size


def _read_picture(path: Path, *, shape: tuple[int, int, int]) -> np.ndarray:
    with open_image(path, list(FORMATS)) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers")
        if image.mode.startswith("I"):
            values = np.asarray(image)
            if values.min() < 0 or values.max() > 65535:
                raise ValueError("its pixels have 32 bits")
            image = Image.fromarray((values >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        height, width, channels = shape
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(shape)


def _unreadable(files: _Files, reasons: np.ndarray, allow_missing: bool) -> list[str]:
    """Refuse files that cannot be read, or return a note on them."""
    bad = np.flatnonzero(reasons != "")
    if not len(bad):
        return []
    names = some_of(files.name(row) for row in bad)
    found = f"{len(bad)} of {len(reasons)} images cannot be read ({names}; the first: {reasons[bad[0]]})"
    if not allow_missing:
        raise DataError(f"{files.folder}: {found}; mend or remove them, or {ALLOW}")
    logger.warning("%s: %s; they are left out", files.folder, found)
    return [f"left out: {found}"]


def _conversions(headers: Sequence[_Header], shape: tuple[int, int, int], image_size: int | None) -> list[str]:
    """Return what was done to how many pictures."""
    n, (height, width, channels) = len(headers), shape
    resized = sum(header.size != (height, width) for header in headers)
    counts = {
        f"resized to {width} x {height} pixels, whatever their proportions": resized if image_size else 0,
        "grey, and made RGB as the others are": sum(h.grey for h in headers) if channels == 3 else 0,
        "with transparency, put on white": sum(h.transparent for h in headers),
        "of 16 bits a pixel, reduced to 8": sum(h.deep for h in headers),
        "turned upright as their camera noted": sum(h.turned for h in headers),
    }
    return [f"{count} of {n} images {what}" for what, count in counts.items() if count]


def _folder_dataset(files: _Files, images: np.ndarray, digests: Sequence[str], notes: list[str]) -> Dataset:
    class_names = tuple(sorted(set(files.classes.tolist())))
    labels = np.searchsorted(class_names, files.classes).astype(np.int64)
    parts, digests = files.parts, np.array(digests)
    if "test" not in parts:
        kept = np.isin(parts, ("", "train"))
        copies = [f"{label} {digest}" for label, digest in zip(labels[kept], digests[kept], strict=True)]
        parts = parts.astype("<U5")
        parts[kept] = split_by_group(labels[kept], copies, fractions=OWN_FRACTIONS)
        notes = [*notes, f"{NO_SPLIT}: the training images are divided 80/20, class by class"]
    splits, metadata = {}, {}
    for part in (part for part in SPLITS if part in parts):
        rows = np.flatnonzero(parts == part)
        splits[part] = Split(images[rows], labels[rows])
        metadata[part] = {"file": np.array([files.name(row) for row in rows])}
    copied = int(np.isin(digests[parts == "test"], digests[parts == "train"]).sum())
    if copied:
        notes = [*notes, f"{copied} images of the test split are also in the training split, byte for byte"]
    for part in ("train", "test"):
        if part not in splits:
            raise DataError(f"{files.folder}: the {part} split is empty, expected at least one image")
    digest = _digest(class_names, splits)
    return Dataset(files.folder.resolve().name, splits, class_names, digest, metadata, tuple(notes))


def _digest(class_names: Sequence[str], splits: dict[str, Split]) -> str:
    """Return the digest of class names, inputs and labels; a table's column names are part of it."""
    parts = [np.array(class_names)]
    for split in splits.values():
        if isinstance(split.inputs, pd.DataFrame):
            parts += [np.array(split.inputs.columns.to_list()), *(split.inputs[c].to_numpy() for c in split.inputs)]
        else:
            parts.append(split.inputs)
        parts.append(split.labels)
    return digest_arrays(*(part.astype(np.str_) if part.dtype.kind == "O" else part for part in parts))


# ---------------------------------------------------------------- tables

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
MANY_CLASSES = 100  # beyond that, and beyond a tenth of the rows, a label column is taken for something else
MANY_TEXTS = 0.5  # share of rows: a text column with more different values names rows, it does not sort them
MISSING = "(missing)"


def load_frame(path: str | Path, *, label: str | None = None, allow_missing: bool = False) -> Dataset:
    """Load a table with a row a sample.

    Parameters
    ----------
    path : str or Path
        A ``.csv`` or ``.tsv`` file with a header (separated by commas, semicolons, tabs or bars; UTF-8), or a
        ``.parquet`` file, for which pandas needs pyarrow.
    label : str, optional
        The column with the classes; default: the last one.
    allow_missing : bool
        Leave rows out that have no label, instead of refusing the table.

    Returns
    -------
    Dataset
        ``inputs`` are frames: columns of numbers as float64, NaN where one is missing, and columns of text (and of
        truth values) as str, to be taken as categories; where one is missing, ``"(missing)"``. Columns that name or
        number the rows, or have no value, are left out. Rows are divided 80/20 into training and test, class by class,
        by a rule that does not look at the columns. ``metadata`` has each row's ``row``, counted from 0. The same
        values have the same digest whatever file they come from.

    Raises
    ------
    DataError
        If the file is missing or no table, a column of that name is missing or two have one name, the label looks like
        a number to predict, rows have no label, or numbers are infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist or is no file; check the path")
    status = path.stat()
    return _load_frame_once(path, label, allow_missing, f"{status.st_mtime_ns} {status.st_size}")


@lru_cache(maxsize=4)
def _load_frame_once(path: Path, label: str | None, allow_missing: bool, state: str) -> Dataset:
    frame = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path)
    _check_columns(path, frame)
    column = _label_column(path, frame, label)
    classes, notes = _classes(path, frame[column], allow_missing)
    rows = np.flatnonzero(classes != "")
    features, feature_notes = _features(path, frame.drop(columns=column).iloc[rows])
    class_names = tuple(sorted(set(classes[rows].tolist()), key=_numbers_first))
    labels = np.array([class_names.index(name) for name in classes[rows]], np.int64)
    part = split_by_group(labels, np.arange(len(labels)), fractions=OWN_FRACTIONS)
    splits, metadata = {}, {}
    for name in OWN_FRACTIONS:
        chosen = np.flatnonzero(part == name)
        splits[name] = Split(features.iloc[chosen].reset_index(drop=True), labels[chosen])
        metadata[name] = {"row": rows[chosen]}
        if not len(chosen):
            raise DataError(f"{path}: {len(rows)} rows are too few for a {name} split; a class needs three")
    copies = int(features.assign(label=labels).duplicated().sum())
    notes = [
        f"label: the column {column!r}" + (", the last one" if label is None else ""),
        *notes,
        *feature_notes,
        *[f"{copies} rows repeat another one, label included"] * bool(copies),
        f"{NO_SPLIT}: rows are divided 80/20, class by class",
    ]
    digest = _digest(class_names, splits)
    return Dataset(path.stem, splits, class_names, digest, metadata, tuple(notes))


def _read_text(path: Path) -> pd.DataFrame:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=header.count)
        names = next(csv.reader([header], delimiter=separator), [])  # pandas renames a second column of one name
        frame = pd.read_csv(path, sep=separator, encoding="utf-8-sig", skipinitialspace=True, low_memory=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no table of text in UTF-8 ({' '.join(str(error).split())})") from error
    _check_names(path, names)
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
        return frame.reset_index(drop=frame.index.name is None)  # a filtered frame keeps its numbers
    except ImportError as error:
        mend = "run `pip install pyarrow`, or save the table as CSV"
        raise DataError(f"{path}: pandas reads Parquet with pyarrow, which is not installed; {mend}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no Parquet table ({' '.join(str(error).split())})") from error


def _check_names(path: Path, names: Sequence[object]) -> None:
    twice = [name for name, count in Counter(str(name).strip() for name in names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: two columns are called {some_of(map(repr, twice))}; rename one")


def _check_columns(path: Path, frame: pd.DataFrame) -> None:
    _check_names(path, frame.columns)
    frame.columns = [str(name).strip() for name in frame.columns]
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{path}: rows have more values than the header has names; give every column a name")
    if frame.shape[1] < 2 or not len(frame):
        found = f"{frame.shape[1]} columns and {len(frame)} rows"
        raise DataError(f"{path} has {found}; expected a header, rows, and at least one column beside the label")


def _label_column(path: Path, frame: pd.DataFrame, label: str | None) -> str:
    names = frame.columns.to_list()
    if label is None:
        return names[-1]
    if label not in names:
        close = get_close_matches(label, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(f"{path} has no column {label!r}; it has {', '.join(names)}{hint}")
    return label


def _classes(path: Path, column: pd.Series, allow_missing: bool) -> tuple[np.ndarray, list[str]]:
    """Return the class of each row as text, empty where it has none, and notes."""
    missing = column.isna().to_numpy()
    notes = []
    if missing.any():
        found = f"{missing.sum()} of {len(column)} rows have no label"
        if not allow_missing:
            raise DataError(f"{path}: {found} in {column.name!r}; fill it in, or {ALLOW}")
        logger.warning("%s: %s; they are left out", path, found)
        notes = [f"left out: {found}"]
    known = column[~missing]
    if pd.api.types.is_float_dtype(known) and (known % 1 == 0).all():
        known = known.astype(np.int64)  # whole numbers that stand beside a missing one
    found = known.astype(str).str.strip()
    n_classes = found.nunique()
    if n_classes > max(MANY_CLASSES, len(found) / 10) or (pd.api.types.is_float_dtype(known) and n_classes > 20):
        raise DataError(
            f"{path}: the column {column.name!r} has {n_classes} different values in {len(found)} rows, more like a "
            "number to predict than classes; name the label's column with label= (--label)"
        )
    if n_classes < 2:
        only = f"the class {found.iloc[0]!r} alone" if n_classes else "no class"
        raise DataError(f"{path}: the column {column.name!r} has {only}, and at least two are needed")
    classes = np.full(len(column), "", dtype=object)
    classes[~missing] = found.to_numpy()
    return classes.astype(np.str_), notes


def _numbers_first(name: str) -> tuple[bool, float, str]:
    """Sort 2 before 10, and numbers before words."""
    return (False, int(name), name) if name.lstrip("-").isdecimal() else (True, 0, name)


def _features(path: Path, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return columns as float64 or str, without those that say nothing, and notes."""
    kept, text, names_rows, empty, numbers_rows = {}, [], [], [], []
    missing = {name: int(count) for name, count in frame.isna().sum().items() if count}
    for name in frame:
        column = frame[name]
        if column.isna().all():
            empty.append(name)
        elif pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            numbers = column.to_numpy(np.float64, na_value=np.nan)
            if np.isinf(numbers).any():
                raise DataError(f"{path}: the column {name!r} has infinite numbers; mend them, or leave them empty")
            if any(np.array_equal(numbers, frame.index + first) for first in (0, 1)):
                numbers_rows.append(name)  # in a file that is sorted by class it would tell the class
            else:
                kept[name] = numbers
        elif column.nunique() > max(20, MANY_TEXTS * len(column)):
            names_rows.append(name)
        else:
            kept[name] = column.astype(str).str.strip().where(column.notna(), MISSING).to_numpy(object)
            text.append(name)
    found = {
        "columns of text, taken as categories": text,
        "missing values": [f"{n} of {len(frame)} in {name}" for name, n in missing.items() if name not in empty],
        "left out, columns without a value": empty,
        "left out, columns that number the rows": numbers_rows,
        "left out, columns whose text is another one in most rows": names_rows,
    }
    notes = [f"{what}: {some_of(names)}" for what, names in found.items() if names]
    if not kept:
        raise DataError(f"{path}: no column is left beside the label; {'; '.join(notes)}")
    return pd.DataFrame(kept), notes
