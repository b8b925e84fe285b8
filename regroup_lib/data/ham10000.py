"""HAM10000: a table and a folder of pictures of skin lesions as published, and their division by lesion."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from regroup_lib.data.dataset import (
    FRACTIONS,
    SPLITS,
    Check,
    DataError,
    Dataset,
    Split,
    dataset_of,
    kept_until_changed,
    rows_of,
    some_of,
    split_by_group,
)
from regroup_lib.data.images import LARGE, cached_images, digest_or_reason, in_threads, open_image
from regroup_lib.data.sources import Source
from regroup_lib.files import digest_file

logger = logging.getLogger(__name__)

HAM10000_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
# The publisher offers the table as CSV and tab-separated, the latter also without a suffix.
HAM10000_TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")


def ham10000_split(metadata: pd.DataFrame) -> pd.DataFrame:
    """Return the split of HAM10000, 70/10/20 by lesion and stratified by diagnosis, from its metadata.

    The file ``ham10000_split.csv`` beside this module holds the result, so that all records have the same
    test images, even if NumPy's generator changes: ``ham10000_split(metadata).to_csv(path, index=False)``. It has the
    columns ``lesion_id`` (sorted) and ``split``.
    """
    split = split_by_group(metadata["dx"], metadata["lesion_id"], fractions=FRACTIONS)
    table = pd.DataFrame({"lesion_id": metadata["lesion_id"].to_numpy(), "split": split})
    return table.drop_duplicates().sort_values("lesion_id", ignore_index=True)


def divided(dataset: Dataset, split: str) -> Dataset:
    """Return a data set whose images come in groups with another split of all its images, and so another digest.

    ``"published"`` leaves the set as it is. ``"image"`` divides 70/10/20, stratified by class, as if the images were
    independent, to measure the effect of images of one lesion in several splits. With ``"fold-0"`` to ``"fold-4"``,
    which divide by lesion, the named fold is the test split, and an eighth of the others the validation split.
    """
    if split == "published":
        return dataset
    if dataset.metadata is None or "lesion_id" not in dataset.metadata["train"]:
        raise DataError(f"{dataset.name} has no groups of images, so it has no other division; leave the split out")
    columns = {c: np.concatenate([dataset.metadata[s][c] for s in SPLITS]) for c in dataset.metadata["train"]}
    order = np.argsort(columns["image_id"], kind="stable")
    columns = {c: values[order] for c, values in columns.items()}
    inputs = np.concatenate([dataset.splits[s].inputs for s in SPLITS])[order]
    labels = np.concatenate([dataset.splits[s].labels for s in SPLITS])[order]
    if split == "image":
        part = split_by_group(labels, np.arange(len(labels)), fractions=FRACTIONS)
    else:
        part = _fold(labels, columns["lesion_id"], int(split.removeprefix("fold-")))
    return dataset_of(dataset.name, Split(inputs, labels), rows_of(part), dataset.class_names, columns=columns)


def _fold(labels: np.ndarray, lesions: np.ndarray, fold: int) -> np.ndarray:
    """Return the split of each image, str [n], where one of five folds tests."""
    part = split_by_group(labels, lesions, fractions={f"fold-{k}": 0.2 for k in range(5)})
    others = np.flatnonzero(part != f"fold-{fold}")
    part[:] = "test"
    part[others] = split_by_group(labels[others], lesions[others], fractions={"train": 0.875, "val": 0.125}, seed=fold)
    return part


# One set, because at 224 pixels the images take 1.5 GB.
@kept_until_changed(lambda folder, source, *_: [source.split_file, ham10000_table(folder), *_images(folder)])
def load_ham10000(folder: Path, source: Source, mend: str, cache: Path, size: int, allow_missing: bool) -> Dataset:
    """Load the pictures that a folder holds as published, decoded to `size` pixels, in the committed split."""
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; {mend}")
    mend = f"move {folder} away and run `regroup data fetch ham10000`"
    frame, paths = ham10000_index(folder, source, mend, allow_missing=allow_missing)
    # The key of the cache covers the content of every file.
    key = hashlib.sha256(f"{size} bicubic {digest_file(ham10000_table(folder))}\n".encode())
    for path, digest in zip(paths, in_threads(digest_or_reason, paths), strict=True):
        key.update(f"{path.name} {digest}\n".encode())
    kept_at = cache / f"ham10000-{size}-{key.hexdigest()[:20]}.npz"
    images, reasons = cached_images(paths, (size, size, 3), partial(_read_lesion, size=size), kept_at)
    check, bad = Check(folder, mend), np.flatnonzero(reasons != "")
    if len(bad):
        found = f"unreadable images: {len(bad)} of {len(paths)} ({some_of(paths[row].name for row in bad)}"
        found += f"; the first: {reasons[bad[0]]})"
        check(allow_missing, found, "sound JPEG files", _or_leave_out(mend))
        logger.warning("%s: %s; they are left out", folder, found)
    rows = rows_of(np.where(reasons == "", frame["split"], ""))
    for name in SPLITS:
        check(name in rows, f"the {name} split is empty", "at least one image")
    columns = {c: frame[c].to_numpy().astype(np.float32 if c == "age" else np.str_) for c in HAM10000_COLUMNS}
    del columns["dx"]
    return dataset_of("ham10000", Split(images, frame["label"].to_numpy()), rows, source.class_names, columns=columns)


def _or_leave_out(mend: str) -> str:
    return f"{mend}, or load with allow_missing=True to leave them out"


def _read_lesion(path: Path, *, size: int) -> np.ndarray:
    with open_image(path, ["JPEG"], max_pixels=LARGE) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def ham10000_table(folder: Path) -> Path:
    """Return the table of metadata in a folder, under the first of its names that exists."""
    return next((folder / name for name in HAM10000_TABLES if (folder / name).is_file()), folder / HAM10000_TABLES[0])


def _images(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("ISIC_*.jpg") if path.is_file())
    return sorted(files, key=lambda path: (path.name, path))


def ham10000_index(
    folder: Path, source: Source, mend: str, *, allow_missing: bool = False
) -> tuple[pd.DataFrame, list[Path]]:
    """Check the table against the files, without decoding; return its rows in the order of image_id, and their files.

    The rows have two further columns, ``label`` and ``split``.
    """
    table = ham10000_table(folder)
    check = Check(table, mend)
    check(table.is_file(), "the file does not exist", "the metadata")
    try:
        with table.open(encoding="utf-8-sig") as stream:
            separator = "\t" if "\t" in stream.readline() else ","
        frame = pd.read_csv(table, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig").fillna("")
    except (OSError, ValueError) as error:
        raise DataError(f"{table} is damaged or is not a table ({error}); {mend}") from error
    lacking = [column for column in HAM10000_COLUMNS if column not in frame]
    check(not lacking, f"the columns {', '.join(lacking)} are missing", f"them beside {', '.join(frame)}")
    frame = frame[list(HAM10000_COLUMNS)].sort_values("image_id", ignore_index=True)
    twice = frame["image_id"][frame["image_id"].duplicated()]
    check(twice.empty, f"images with two rows: {some_of(twice)}", "one row per image")
    unknown = sorted(set(frame["dx"]) - set(source.class_names))
    check(not unknown, f"unknown diagnoses: {some_of(map(repr, unknown))}", ", ".join(source.class_names))
    diagnoses = frame.groupby("lesion_id")["dx"].nunique()
    torn = diagnoses.index[diagnoses > 1]
    check(torn.empty, f"lesions with two diagnoses: {some_of(torn)}", "one diagnosis per lesion")

    files: dict[str, Path] = {}
    for path in _images(folder):
        first = files.setdefault(path.stem, path)  # copies of the set often hold each file twice
        same = first == path or digest_file(first) == digest_file(path)
        check(same, f"{first} and {path} differ", "one image of a name")
    without_row = sorted(set(files) - set(frame["image_id"]))
    has_image = frame["image_id"].isin(list(files)).to_numpy()
    without_image = frame["image_id"][~has_image]
    if without_row or len(without_image):
        found = f"rows without an image: {len(without_image)} of {len(frame)} ({some_of(without_image)})"
        found += f", images without a row: {len(without_row)} of {len(files)} ({some_of(without_row)})"
        check(allow_missing, found, "a row for each image and an image for each row", _or_leave_out(mend))
        logger.warning("%s: %s; they are left out", table, found)
        frame = frame[has_image].reset_index(drop=True)
    else:
        counts = frame["dx"].value_counts().reindex(source.class_names, fill_value=0)
        check.counts(source.class_names, counts, source.class_counts["all"])
    frame["split"] = frame["lesion_id"].map(source.split())
    astray = sorted(set(frame["lesion_id"][~frame["split"].isin(SPLITS)]))
    found = f"lesions without a split in {source.split_file}: {some_of(map(repr, astray))}"
    check(not astray, found, f"one of {', '.join(SPLITS)} for each")
    frame["label"] = frame["dx"].map(source.class_names.index).astype(np.int64)
    frame["age"] = pd.to_numeric(frame["age"], errors="coerce")
    return frame, [files[name] for name in frame["image_id"]]
