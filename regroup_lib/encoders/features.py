"""`encode`: images or sentences to feature vectors, cached on disk; `make_encoder` builds an encoder by its name."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from regroup_lib.data.dataset import Dataset
from regroup_lib.encoders.base import Encoder, TrainedEncoder, center_and_normalize, normalized
from regroup_lib.encoders.pixels import AutoencoderEncoder, PCAEncoder, RawEncoder
from regroup_lib.encoders.pretrained import ClipEncoder, OnnxEncoder, onnx_options
from regroup_lib.encoders.simclr import SimCLREncoder
from regroup_lib.encoders.text import MiniLMEncoder, TfidfEncoder
from regroup_lib.files import atomic_path, data_directory, digest_arrays, read_npz, write_npz
from regroup_lib.large import NpyRows, open_rows
from regroup_lib.progress import progress_bar, silence

logger = logging.getLogger(__name__)


IMAGE_ENCODERS: dict[str, type[Encoder]] = {
    "raw": RawEncoder,
    "pca": PCAEncoder,
    "autoencoder": AutoencoderEncoder,
    "simclr": SimCLREncoder,
}
ENCODERS = (*IMAGE_ENCODERS, "clip", "onnx:<file stem>")
TEXT_ENCODERS: dict[str, Callable[[], Encoder]] = {"tfidf": TfidfEncoder, "minilm": MiniLMEncoder}


def check_encoder_name(name: str) -> None:
    """Raise a ValueError if no encoder has this name; its file or weights may still be missing."""
    kind, _, rest = name.partition(":")
    known = (*IMAGE_ENCODERS, "clip", *TEXT_ENCODERS)
    if name not in known and not (kind in ("clip", "onnx") and rest):
        raise ValueError(f"no encoder is called {name!r}; there are {', '.join((*ENCODERS, *TEXT_ENCODERS))}")


def check_encoder_takes(name: str, *, text: bool, data: str) -> None:
    """Raise a ValueError if an encoder is one of images and the data are text, or the reverse."""
    if (name in TEXT_ENCODERS) != text:
        given, fitting = ("text", TEXT_ENCODERS) if text else ("images", ENCODERS)
        raise ValueError(f"encoder {name!r} does not take {given}, which {data} holds; there are {', '.join(fitting)}")


def make_encoder(name: str, *, data_dir: str | Path | None = None, epochs: int | None = None) -> Encoder:
    """Build an encoder from its identifier.

    Parameters
    ----------
    name : str
        ``"raw"``, ``"pca"``, ``"autoencoder"``, ``"simclr"``, ``"clip"`` (or ``"clip:MODEL:TAG_OR_FILE"``),
        ``"onnx:STEM"`` for ``encoders/STEM.onnx`` in the data directory (or ``"onnx:PATH.onnx"``), both with options of
        `OnnxEncoder` if need be, ``"onnx:STEM?size=224&output=NAME"``; for text ``"tfidf"`` and ``"minilm"``.
    data_dir : str or Path, optional
        See `load_data`.
    epochs : int, optional
        Training length, for encoders that are trained here.

    Raises
    ------
    ValueError, FileNotFoundError
        If there is no such encoder, or its file is missing or damaged.
    """
    check_encoder_name(name)
    if name in TEXT_ENCODERS:
        return TEXT_ENCODERS[name]()
    if name in IMAGE_ENCODERS:
        trained = epochs is not None and issubclass(IMAGE_ENCODERS[name], TrainedEncoder)
        return IMAGE_ENCODERS[name](**({"epochs": epochs} if trained else {}))
    kind, _, rest = name.partition(":")
    if kind == "clip":
        model, _, pretrained = rest.partition(":")
        return ClipEncoder(model or "ViT-B-32-quickgelu", pretrained or "openai")
    rest, _, query = rest.partition("?")
    path = Path(rest) if rest.endswith(".onnx") else data_directory(data_dir) / "encoders" / f"{rest}.onnx"
    return OnnxEncoder(path, **onnx_options(query))


@dataclass(frozen=True)
class Features:
    """The features of a data set, and the fitted encoder that made them."""

    splits: dict[str, np.ndarray]  # float32 [n, d] for each split, in the data set's order
    seconds: float  # to fit and encode, when that was done
    encoder: Encoder


def encode(
    dataset: Dataset,
    encoder: str | Encoder,
    *,
    data_dir: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    deadline: float | None = None,
    wait: bool = True,
) -> Features:
    """Fit an encoder on a data set's training inputs, encode every split, and keep the result on disk.

    The cache files are in ``features/`` of the data directory, under a key of encoder, weights and data digest; a
    damaged one is reported and made again. All features are held in memory (see `encode_rows` for larger sets).

    Parameters
    ----------
    dataset : Dataset
    encoder : str or Encoder
        An identifier of `make_encoder`, or an encoder of your own.
    data_dir : path, optional
        See `load_data`.
    checkpoint_dir : path, optional
        Folder for the checkpoint of a resumable encoder (SimCLR). It is kept, so that lost features can be computed
        again without training.
    deadline : float, optional
        A value of `time.monotonic` after which no epoch of such an encoder may end.
    wait : bool
        Whether to wait if another process computes the same features, or to raise.

    Raises
    ------
    OutOfTime
        If the training of the encoder stopped at its deadline.
    ValueError
        If an encoder of images is asked for text, or the reverse, or the data set is a table.
    TimeoutError
        If another process computes them and `wait` is False.
    """
    if dataset.is_table:
        raise ValueError(
            f"{dataset.name} is a table, and encoders take images or text; cluster its columns as they are"
        )
    if isinstance(encoder, str):
        check_encoder_name(encoder)
        check_encoder_takes(encoder, text=dataset.is_text, data=dataset.name)
        encoder = make_encoder(encoder, data_dir=data_dir)
    if encoder.text != dataset.is_text:
        taken, held = ("text", "images") if encoder.text else ("images", "text")
        raise ValueError(f"encoder {encoder.label} takes {taken}, and {dataset.name} holds {held}")
    if not encoder.cached:
        return _features(_fitted_and_encoded(dataset, encoder), encoder)
    root = data_directory(data_dir)
    fingerprint = f"{encoder.fingerprint()} normalize={encoder.normalize} {dataset.digest}"
    key = hashlib.sha256(fingerprint.encode()).hexdigest()[:20]
    path = root / "features" / f"{dataset.name}-{type(encoder).__name__}-{key}.npz"
    (root / ".locks").mkdir(parents=True, exist_ok=True)
    # Encoding takes minutes, so a second process waits for the first.
    with FileLock(root / ".locks" / f"{key}.lock", timeout=-1 if wait else 0):
        kept = _read_cache(path)
        if kept is None:
            checkpoint = None if checkpoint_dir is None else Path(checkpoint_dir) / f"encoder-{key}.pt"
            kept = _fitted_and_encoded(dataset, encoder, checkpoint, deadline)
            arrays = kept | {f"state_{name}": value for name, value in encoder.state().items()}
            write_npz(path, arrays | {"digest": np.array(_digest_of(arrays))})
        else:
            encoder.load_state(_with_prefix(kept, "state_"), dataset.train.inputs.shape[1:])
    return _features(kept, encoder)


def _with_prefix(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _features(kept: dict[str, np.ndarray], encoder: Encoder) -> Features:
    return Features(_with_prefix(kept, "split_"), float(kept["seconds"]), encoder)


def _fitted_and_encoded(
    dataset: Dataset, encoder: Encoder, checkpoint: Path | None = None, deadline: float | None = None
) -> dict[str, np.ndarray]:
    """Fit an encoder and encode every split: ``split_<name>``, and ``seconds``."""
    start = time.perf_counter()
    encoder.fit(dataset.train.inputs, **({"checkpoint": checkpoint, "deadline": deadline} if encoder.resumable else {}))
    names = sorted(dataset.splits, key=lambda name: name != "train")  # whose mean is subtracted from all
    arrays = [encoder.transform(dataset.splits[name].inputs) for name in names]
    if encoder.normalize:
        arrays = center_and_normalize(*arrays)
    seconds = np.array(time.perf_counter() - start + encoder.earlier_seconds_)
    return dict(zip([f"split_{name}" for name in names], arrays, strict=True)) | {"seconds": seconds}


def _digest_of(arrays: dict[str, np.ndarray]) -> str:
    return digest_arrays(*(arrays[name] for name in sorted(arrays)), np.array(sorted(arrays)))


def _read_cache(path: Path) -> dict[str, np.ndarray] | None:
    """Return a cache file's arrays, or None where there is none or it is damaged."""
    try:
        kept = read_npz(path)
        # The checksums of the format do not cover names and headers of the arrays.
        if str(kept.pop("digest", "")) != _digest_of(kept):
            raise ValueError("its digest differs from the one that was written")
        return kept
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("the feature cache %s is damaged and is made again (%s)", path, error)
        return None


def encode_rows(
    images: Any,
    encoder: Encoder,
    path: str | Path,
    *,
    center: np.ndarray | None = None,
    block_rows: int = 4096,
) -> np.ndarray | None:
    """Encode images that do not fit in memory, and write their features to an ``.npy`` file by blocks.

    `encode` holds all features of a data set in memory; here it is one block of images and of features.

    Parameters
    ----------
    images : path, memory map, or an array that `large.open_rows` takes
        uint8 [n, h, w, c], or sentences.
    encoder : Encoder
        A pre-trained one, or one that was fitted on as many images as fit in memory.
    path : path
        The file to write, float32 [n, d]; it appears only when it is complete.
    center : ndarray of float32 [d], optional
        Vector to subtract from features that are normalized; default: their mean. For a test split, pass the return
        value of the call for the training split.
    block_rows : int
        Images at a time.

    Returns
    -------
    ndarray of float32 [d] or None
        The vector that was subtracted; None where `encoder` does not normalize.
    """
    images = open_rows(images)
    n, total = images.shape[0], np.zeros(())
    if n == 0:
        raise ValueError("there are no images to encode")
    with atomic_path(path) as partial, progress_bar(total=n, desc=encoder.label, unit="image") as bar:
        with partial.open("wb") as stream:
            for start in range(0, n, block_rows):
                block = np.asarray(images[start : min(start + block_rows, n)])
                with silence():
                    features = np.ascontiguousarray(encoder.transform(block), np.float32)
                if start == 0:
                    header = {"descr": features.dtype.str, "fortran_order": False, "shape": (n, features.shape[1])}
                    np.lib.format.write_array_header_1_0(stream, header)
                stream.write(features.data)
                total = total + features.sum(axis=0, dtype=np.float64)
                bar.update(len(block))
        if not encoder.normalize:
            return None
        center = np.asarray(total / n if center is None else center, np.float32)  # else wider numbers would be written
        rows = NpyRows.open(partial)
        with partial.open("r+b") as stream:
            stream.seek(rows.offset)
            for start in range(0, n, block_rows):
                stream.write(normalized(rows[start : start + block_rows], center).data)
    return center
