"""HAM10000: pictures of skin lesions as published, and their division by lesion."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

from regroup_lib.data.dataset import SPLITS, DataError, Dataset, Split, some_of, split_by_group
from regroup_lib.data.images import LARGE, cached_images, file_digests, open_image
from regroup_lib.data.sources import SOURCES, Source, logger
from regroup_lib.files import digest_arrays, digest_file
from regroup_lib.progress import progress_bar

# ---------------------------------------------------------------- HAM10000: a table and a folder of JPEG files

HAM10000_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
HAM10000_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
# The publisher offers the table as CSV and tab-separated; the latter has been without a suffix, too.
HAM10000_TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")
HAM10000_ARCHIVES = ("HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip")
MAX_FILE_BYTES = 20_000_000  # of a file in an archive; HAM10000's have less than 1 MB
MAX_ARCHIVE_BYTES = 4_000_000_000  # of an archive, unpacked; HAM10000's have 1.4 GB


def ham10000_split(metadata: pd.DataFrame) -> pd.DataFrame:
    """Return the split of HAM10000, 70/10/20 by lesion and stratified by diagnosis, from its metadata.

    The file ``ham10000_split.csv`` beside this module holds the result, so that every record is of the same test
    images whatever NumPy's generator becomes: ``ham10000_split(metadata).to_csv(path, index=False)``.

    Parameters
    ----------
    metadata : DataFrame
        The columns ``lesion_id`` and ``dx``, a row an image, in any order.

    Returns
    -------
    DataFrame
        The columns ``lesion_id`` (sorted) and ``split``, a row a lesion.
    """
    split = split_by_group(metadata["dx"], metadata["lesion_id"], fractions=HAM10000_FRACTIONS, seed=0)
    table = pd.DataFrame({"lesion_id": metadata["lesion_id"].to_numpy(), "split": split})
    return table.drop_duplicates().sort_values("lesion_id", ignore_index=True)


def split_by_image(dataset: Dataset, *, seed: int = 0) -> Dataset:
    """Return a data set divided anew as if its images were independent: the naive split that lets lesions leak.

    All splits are put together and divided 70/10/20, stratified by class, image by image. It is here to measure what
    such a split hides; results of the book use the split by lesion.

    Parameters
    ----------
    dataset : Dataset
        One whose images come in groups: its metadata have ``lesion_id``, and there are three splits.
    seed : int
        Of the division; two image sizes of one set are divided alike.

    Returns
    -------
    Dataset
        Its digest differs from that of the set, as its splits do.

    Raises
    ------
    DataError
        If the set has no groups.
    """
    return _divided(
        dataset,
        lambda labels, _: split_by_group(labels, np.arange(len(labels)), fractions=HAM10000_FRACTIONS, seed=seed),
    )


def split_by_fold(dataset: Dataset, fold: int) -> Dataset:
    """Return a data set divided anew by lesion: one of five folds tests, an eighth of the others validates.

    The folds are stratified by class and the same for all; every image tests once. Parameters, errors and the digest
    are those of `split_by_image`, with `fold` from 0 to 4.
    """

    def part(labels: np.ndarray, lesions: np.ndarray) -> np.ndarray:
        found = split_by_group(labels, lesions, fractions={f"fold-{k}": 0.2 for k in range(5)}, seed=0)
        others = np.flatnonzero(found != f"fold-{fold}")
        validates = {"train": 0.875, "val": 0.125}
        found[:] = "test"
        found[others] = split_by_group(labels[others], lesions[others], fractions=validates, seed=fold)
        return found

    return _divided(dataset, part)


def divided(dataset: Dataset, split: str) -> Dataset:
    """Return a data set with the split that a spec names: ``"published"``, ``"image"``, ``"fold-0"``, and so on."""
    if split == "published":
        return dataset
    return split_by_image(dataset) if split == "image" else split_by_fold(dataset, int(split.removeprefix("fold-")))


def _divided(dataset: Dataset, part_of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Dataset:
    """Put all splits together, in the order of the images' names, and divide them by (labels, lesions) -> part [n]."""
    if dataset.metadata is None or "lesion_id" not in dataset.metadata["train"]:
        raise DataError(f"{dataset.name} has no groups of images, so it cannot be divided anew; leave the split out")
    columns = {c: np.concatenate([dataset.metadata[s][c] for s in SPLITS]) for c in dataset.metadata["train"]}
    order = np.argsort(columns["image_id"], kind="stable")
    inputs = np.concatenate([dataset.splits[s].inputs for s in SPLITS])[order]
    labels = np.concatenate([dataset.splits[s].labels for s in SPLITS])[order]
    part = part_of(labels, columns["lesion_id"][order])
    rows = {s: np.flatnonzero(part == s) for s in SPLITS}
    splits = {s: Split(inputs[rows[s]], labels[rows[s]]) for s in SPLITS}
    metadata = {s: {c: values[order][rows[s]] for c, values in columns.items()} for s in SPLITS}
    digest = digest_arrays(*(array for split in splits.values() for array in (split.inputs, split.labels)))
    return Dataset(dataset.name, splits, dataset.class_names, digest, metadata)


def _load_ham10000(folder: Path, cache: Path, size: int, allow_missing: bool, mend: str) -> Dataset:
    source = SOURCES["ham10000"]
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; {mend}")
    # Times and sizes are part of the key: files that changed are read again.
    state = hashlib.sha256(repr(source).encode())
    for path in (source.split_file, *_ham10000_tables(folder), *_ham10000_images(folder)):
        status = path.stat()
        state.update(f"{path} {status.st_mtime_ns} {status.st_size}\n".encode())
    return _load_ham10000_once(folder, cache, size, allow_missing, state.hexdigest())


@lru_cache(maxsize=1)  # at 224 pixels the images take 1.5 GB
def _load_ham10000_once(folder: Path, cache: Path, size: int, allow_missing: bool, state: str) -> Dataset:
    source = SOURCES["ham10000"]
    mend = f"move {folder} away and run `regroup data fetch ham10000`"
    leave_out = f"{mend}, or load with allow_missing=True to leave them out"
    frame, paths = _ham10000_index(folder, source, mend, allow_missing)
    shape, kept_at = (size, size, 3), _ham10000_cache(paths, size, cache, _ham10000_tables(folder)[0])
    images, reasons = cached_images(paths, shape, partial(_read_lesion, size=size), kept_at)
    bad = np.flatnonzero(reasons != "")
    if len(bad):
        found = f"unreadable images: {len(bad)} of {len(paths)} ({some_of(paths[row].name for row in bad)}"
        found += f"; the first: {reasons[bad[0]]})"
        if not allow_missing:
            raise DataError(f"{folder}: {found}, expected sound JPEG files; {leave_out}")
        logger.warning("%s: %s; they are left out", folder, found)
    splits, metadata = {}, {}
    for name in SPLITS:
        rows = np.flatnonzero((frame["split"] == name).to_numpy() & (reasons == ""))
        if not len(rows):
            raise DataError(f"{folder}: the {name} split is empty, expected at least one image; {mend}")
        columns = frame.iloc[rows]
        splits[name] = Split(images[rows], columns["label"].to_numpy())
        metadata[name] = {
            column: columns[column].to_numpy().astype(np.float32 if column == "age" else np.str_)
            for column in HAM10000_COLUMNS
            if column != "dx"
        }
    digest = digest_arrays(*(part for split in splits.values() for part in (split.inputs, split.labels)))
    return Dataset("ham10000", splits, source.class_names, digest, metadata)


def _ham10000_cache(paths: list[Path], size: int, cache: Path, table: Path) -> Path:
    """Return where the decoded images are kept; the key has the content of every file."""
    key = hashlib.sha256(f"{size} bicubic {digest_file(table)}\n".encode())
    for path, digest in zip(paths, file_digests(paths), strict=True):
        key.update(f"{path.name} {digest}\n".encode())
    return cache / f"ham10000-{size}-{key.hexdigest()[:20]}.npz"


def _read_lesion(path: Path, *, size: int) -> np.ndarray:
    with open_image(path, ["JPEG"], max_pixels=LARGE) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def _ham10000_tables(folder: Path) -> list[Path]:
    return [folder / name for name in HAM10000_TABLES if (folder / name).is_file()]


def _ham10000_images(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("ISIC_*.jpg") if path.is_file())
    return sorted(files, key=lambda path: (path.name, path))


def _ham10000_index(
    folder: Path, source: Source, mend: str, allow_missing: bool = False
) -> tuple[pd.DataFrame, list[Path]]:
    """Check the table against the files, without decoding; return its rows in the order of image_id, and their files.

    The rows have two columns more: ``label`` and ``split``.
    """
    table = next(iter(_ham10000_tables(folder)), folder / HAM10000_TABLES[0])

    def require(condition: bool, found: str, expected: str, remedy: str = mend) -> None:
        if not condition:
            raise DataError(f"{table}: {found}, expected {expected}; {remedy}")

    require(table.is_file(), "the file does not exist", "the metadata")
    try:
        with table.open(encoding="utf-8-sig") as stream:
            separator = "\t" if "\t" in stream.readline() else ","
        frame = pd.read_csv(table, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig").fillna("")
    except (OSError, ValueError) as error:
        raise DataError(f"{table} is damaged or is not a table ({error}); {mend}") from error
    lacking = [column for column in HAM10000_COLUMNS if column not in frame]
    require(not lacking, f"the columns {', '.join(lacking)} are missing", f"them beside {', '.join(frame)}")
    frame = frame[list(HAM10000_COLUMNS)].sort_values("image_id", ignore_index=True)
    twice = frame["image_id"][frame["image_id"].duplicated()]
    require(twice.empty, f"images with two rows: {some_of(twice)}", "one row an image")
    unknown = sorted(set(frame["dx"]) - set(source.class_names))
    found = f"unknown diagnoses: {some_of(repr(dx) for dx in unknown)}"
    require(not unknown, found, ", ".join(source.class_names))
    diagnoses = frame.groupby("lesion_id")["dx"].nunique()
    torn = diagnoses.index[diagnoses > 1]
    require(torn.empty, f"lesions with two diagnoses: {some_of(torn)}", "one diagnosis a lesion")

    files: dict[str, Path] = {}
    for path in _ham10000_images(folder):
        first = files.setdefault(path.stem, path)  # copies of the set often hold each file twice
        same = first == path or digest_file(first) == digest_file(path)
        require(same, f"{first} and {path} differ", "one image of a name")
    without_row = sorted(set(files) - set(frame["image_id"]))
    has_image = frame["image_id"].isin(list(files)).to_numpy()
    without_image = frame["image_id"][~has_image]
    complete = not without_row and without_image.empty
    found = f"rows without an image: {len(without_image)} of {len(frame)} ({some_of(without_image)})"
    found += f", images without a row: {len(without_row)} of {len(files)} ({some_of(without_row)})"
    if complete:
        counts = frame["dx"].value_counts()
        wrong = [
            (dx, int(counts.get(dx, 0)), expected)
            for dx, expected in zip(source.class_names, source.class_counts["all"], strict=True)
            if counts.get(dx, 0) != expected
        ]
        for dx, number, expected in wrong[:1]:
            require(False, f"{len(wrong)} classes have a wrong count, the first {dx!r} with {number}", str(expected))
    elif allow_missing:
        logger.warning("%s: %s; they are left out", table, found)
        frame = frame[has_image].reset_index(drop=True)
    else:
        remedy = f"{mend}, or load with allow_missing=True to leave them out"
        require(False, found, "a row for each image and an image for each row", remedy)
    split = dict(pd.read_csv(source.split_file, dtype=str).itertuples(index=False, name=None))
    frame["split"] = frame["lesion_id"].map(split)
    astray = sorted(set(frame["lesion_id"][~frame["split"].isin(SPLITS)]))
    found = f"lesions without a split in {source.split_file}: {some_of(repr(lesion) for lesion in astray)}"
    require(not astray, found, f"one of {', '.join(SPLITS)} for each")
    frame["label"] = frame["dx"].map({dx: label for label, dx in enumerate(source.class_names)}).astype(np.int64)
    frame["age"] = pd.to_numeric(frame["age"], errors="coerce")
    return frame, [files[name] for name in frame["image_id"]]


def _refuse_to_replace(name: str, target: Path) -> None:
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise DataError(f"{target} exists and is left alone; move it away, then run `regroup data fetch {name}` again")


def _fetch_ham10000(name: str, source: Source, target: Path) -> None:
    _refuse_to_replace(name, target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        folder = Path(scratch) / name
        (folder / "images").mkdir(parents=True)
        try:
            _download_ham10000(Path(scratch), folder, source.doi)
        except (OSError, KeyError, ValueError) as error:  # no network; a wrong checksum; another catalogue; an archive
            reason = f"{name} could not be fetched from its publisher, doi:{source.doi} ({error})"
            raise DataError(f"{reason}; nothing was written, run `regroup data fetch {name}` again") from error
        _ham10000_index(folder, source, "the publisher's files are not what was expected; report it")
        os.replace(folder, target)


def _download_ham10000(scratch: Path, folder: Path, doi: str) -> None:
    """Download table and archives, verified by the publisher's checksums, and unpack them."""
    import pooch

    resolver = pooch.DOIDownloader()
    repository = pooch.downloaders.doi_to_repository(doi, headers=resolver.headers, timeout=resolver.timeout)
    catalog = pooch.create(path=scratch, base_url=f"doi:{doi}", retry_if_failed=1)
    repository.populate_registry(catalog)
    table = next((known for known in HAM10000_TABLES if known in catalog.registry), HAM10000_TABLES[0])
    for file in (table, *HAM10000_ARCHIVES):
        catalog.urls[file] = repository.download_url(file)
        if file.endswith(".tab"):
            # Dataverse converts tables; the checksum is of the file that was uploaded.
            catalog.urls[file] += "?format=original"
        bar = progress_bar(total=1, desc=file, unit="B", unit_scale=True)  # pooch sets the total
        downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**20)
        fetched = Path(catalog.fetch(file, downloader=downloader))
        if file == table:
            os.replace(fetched, folder / HAM10000_TABLES[0])
        else:
            _unpack(fetched, folder / "images", r"ISIC_\w+\.jpg")
            fetched.unlink()


def _unpack(archive: Path, folder: Path, pattern: str) -> None:
    """Unpack the files of a zip archive whose names match into one folder; refuse paths that leave it, links, bombs.

    Raises
    ------
    ValueError
        If the archive is damaged or unsafe. The message names it.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = bundle.infolist()
            for member in members:
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename:
                    raise ValueError(f"{archive.name} has a file outside its folder, {member.filename!r}")
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise ValueError(f"{archive.name} has a link, {member.filename!r}")
                if member.file_size > MAX_FILE_BYTES:
                    raise ValueError(f"{archive.name}: {member.filename!r} has {member.file_size:,} bytes unpacked")
            if sum(member.file_size for member in members) > MAX_ARCHIVE_BYTES:
                raise ValueError(f"{archive.name} has more than {MAX_ARCHIVE_BYTES:,} bytes unpacked")
            for member in members:
                name = PurePosixPath(member.filename).name
                if re.fullmatch(pattern, name) and not member.is_dir():
                    with bundle.open(member) as packed, (folder / name).open("xb") as unpacked:
                        shutil.copyfileobj(packed, unpacked, 2**20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{archive.name} is damaged or is not a zip archive ({error})") from error
