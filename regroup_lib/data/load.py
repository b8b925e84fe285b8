"""Load a data set by name or path, check it, and fetch a named one from its publisher."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from regroup_lib.data.dataset import SPLITS, DataError, Dataset, Split
from regroup_lib.data.ham10000 import _fetch_ham10000, _load_ham10000
from regroup_lib.data.images import check_image_size
from regroup_lib.data.own_folders import load_folder
from regroup_lib.data.own_tables import TABLE_SUFFIXES, load_frame
from regroup_lib.data.sentences import _descriptions, _fetch_phrasebank, _load_phrasebank
from regroup_lib.data.sources import DATASETS, DIGIT_NAMES, EMBEDDED, SOURCES, Source
from regroup_lib.files import data_directory, digest_arrays, read_npz, write_npz


def load_data(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    allow_missing: bool = False,
    label: str | None = None,
    group: str | None = None,
    header: bool = True,
    missing: Sequence[str] = (),
    decimal: str | None = None,
) -> Dataset:
    """Load a data set into memory and check it.

    Parameters
    ----------
    name_or_path : str or Path
        ``"digits"`` or ``"descriptions"`` (embedded), ``"cifar10"``, ``"cifar100"``, ``"ham10000"``,
        ``"phrasebank"``, or the path of a set of your own:

        - an npz file with the arrays ``train_images, train_labels, test_images, test_labels`` (MedMNIST's names;
          ``val_*`` and ``class_names`` are optional);
        - a folder of images, ``train/<class>/*.png`` with ``test/`` and ``val/`` if you have them, or
          ``<class>/*.png`` (see `load_folder`);
        - a table, a ``.csv``, ``.tsv`` or ``.parquet`` file with a row a sample (see `load_frame`).

        A name goes before a path: write ``"./digits"`` for a folder of that name.
    data_dir : str or Path, optional
        Where named sets lie; default ``REGROUP_DATA``, else the user's cache directory.
    download : bool
        Fetch a named set that is missing from its publisher.
    image_size : int, optional
        Height and width in pixels to which the whole picture is resized (bicubic, antialiased), for a set that is
        decoded from image files: ``"ham10000"`` (default 64) and folders of images (default: their own size, where
        they have one). The decoded images are kept in ``cache/`` of the data directory.
    allow_missing : bool
        For such a set, and for a table: leave out images that are missing, unreadable or without a row of metadata,
        and rows without a label, and say how many, instead of refusing the set.
    label : str, optional
        The column of a table that holds the classes; default: the last one.
    group : str, optional
        What samples that belong together share, of one patient, say: a column of a table, or a level of folders or a
        pattern of a folder of images. They stay together wherever samples are divided, as copies do.
    header, missing, decimal : optional
        How a table is written: see `load_frame`.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the set is unknown, missing, truncated, mislabelled or of another shape, or an option is not for it.

    Notes
    -----
    HAM10000 has no split of its own; `ham10000_split` says how the one here was made. Two pairs of its images are
    the same to the byte (ISIC_0024366 and ISIC_0029861, ISIC_0024777 and ISIC_0029938). Each pair shows one lesion,
    and a lesion is never divided, so no image has its copy in another split.

    Financial PhraseBank is read from ``Sentences_50Agree.txt``, the file with all 4,846 lines. Six of them repeat
    another, and two sentences stand there with two labels; `without_repeats` drops these, and 4,836 sentences are left.
    It has no split of its own either: see `phrasebank_split`.

    Examples
    --------
    >>> digits = load_data("digits")
    >>> digits.train.inputs.shape, digits.train.inputs.dtype
    ((1257, 8, 8, 1), dtype('uint8'))
    """
    name, path = str(name_or_path), Path(name_or_path)
    source = SOURCES.get(name)
    kind = _kind_of(name, path)
    written = {"header": header, "missing": missing, "decimal": decimal}
    given = {"image_size": image_size, "allow_missing": allow_missing or None, "label": label, "group": group}
    given |= {"header": None if header else header, "missing": missing or None, "decimal": decimal}
    _check_load_options(name, kind, given)
    cache = data_directory(data_dir) / "cache"
    if kind == "embedded":
        return _digits() if name == "digits" else _descriptions()
    if kind == "npz":
        return _load_npz(path, path.stem, "check the path, or write the file again", published=False)
    if kind == "folder":
        return load_folder(path, cache=cache, image_size=image_size, allow_missing=allow_missing, group=group)
    if kind == "table":
        return load_frame(path, label=label, allow_missing=allow_missing, group=group, **written)
    path = source.path(data_dir)
    if download and not path.exists():
        fetch_data(name, data_dir=data_dir)
    mend = f"run `regroup data fetch {name}`, or point REGROUP_DATA at a folder that has {source.published}"
    if source.text:
        return _load_phrasebank(path, source, mend)
    if not source.decoded:
        return _load_npz(path, name, mend, published=True)
    size = source.image_shape[0] if image_size is None else image_size
    try:
        check_image_size(size)
    except ValueError as error:
        raise DataError(str(error)) from None
    return _load_ham10000(path, cache, size, allow_missing, mend)


def _kind_of(name: str, path: Path) -> str:
    """Return what kind of set a name or a path is, or raise a DataError."""
    if name in EMBEDDED:
        return "embedded"
    if name in SOURCES:
        return "decoded" if SOURCES[name].decoded else "published"
    if path.suffix.lower() == ".npz":
        return "npz"
    if path.suffix.lower() in TABLE_SUFFIXES:
        return "table"
    if name and path.is_dir():
        return "folder"
    own = f"an .npz file, a folder of images or a table ({', '.join(TABLE_SUFFIXES)})"
    there = "" if path.exists() else ", and nothing lies at that path"
    raise DataError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}, or the path of {own}{there}")


# Option of `load_data` -> the kinds of set that it is for, what the others are not, and what to say.
_LOAD_OPTIONS = {
    "image_size": (("decoded", "folder"), "decoded from image files", "ham10000 and folders of images"),
    "allow_missing": (("decoded", "folder", "table"), "decoded from image files", "ham10000, folders and tables"),
    "group": (("folder", "table"), "a folder of images or a table", "these"),
} | dict.fromkeys(("label", "header", "missing", "decimal"), (("table",), "a table", "tables"))


def _check_load_options(name: str, kind: str, options: dict[str, Any]) -> None:
    """Refuse an option that would have no effect."""
    for option, value in options.items():
        kinds, what, sets = _LOAD_OPTIONS[option]
        if value is not None and kind not in kinds:
            raise DataError(f"{option} is {value}, and {name!r} is not {what}; leave it out, it is for {sets}")


def fetch_data(name: str, *, data_dir: str | Path | None = None) -> Path:
    """Download a data set from its publisher into the data directory: one npz file, or a folder of images or text.

    torchvision downloads CIFAR's archive, verifies its MD5 and reads it; only then are the arrays written. pooch
    downloads the files behind a DOI and verifies the MD5 that the repository publishes for each, and the archive of a
    text set against a known SHA-256; only when all are unpacked and complete does the folder appear, and a folder
    that is there already is left alone.

    Raises
    ------
    DataError
        If the name is unknown, the set is embedded and needs no download, or the download fails.
    """
    if name not in SOURCES:
        reason = "is embedded and needs no download" if name in EMBEDDED else "is not known"
        raise DataError(f"data set {name!r} {reason}; those that can be fetched: {', '.join(SOURCES)}")
    source = SOURCES[name]
    target = source.path(data_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    fetch = _fetch_phrasebank if source.text else _fetch_ham10000 if source.decoded else _fetch_cifar
    fetch(name, source, target)
    return target


def _fetch_cifar(name: str, source: Source, target: Path) -> None:
    import torchvision  # heavy, and only needed here

    reader = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        for split in ("train", "test"):
            try:
                published = reader(folder, train=split == "train", download=True)
            except (OSError, RuntimeError) as error:  # no network; an archive with a wrong checksum
                reason = f"{name} could not be fetched from its publisher, {reader.url} ({error})"
                raise DataError(f"{reason}; nothing was written, run `regroup data fetch {name}` again") from error
            arrays[f"{split}_images"] = published.data
            arrays[f"{split}_labels"] = np.asarray(published.targets, np.uint8)
        arrays["class_names"] = np.array(published.classes)
    _checked(arrays, target, name, source, "the publisher's archive is not what was expected; report it")
    write_npz(target, arrays)


@lru_cache(maxsize=1)
def _digits() -> Dataset:
    """Return the 1,797 scans of scikit-learn with a fixed 70/30 test split (the set has none of its own)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.3, random_state=0, stratify=labels)
    splits = {name: Split(images[rows], labels[rows]) for name, rows in (("train", train), ("test", test))}
    return Dataset("digits", splits, DIGIT_NAMES, digest_arrays(images, labels))


def _load_npz(path: Path, name: str, mend: str, *, published: bool) -> Dataset:
    if not path.exists():
        raise DataError(f"{path} does not exist; {mend}")
    status = path.stat()
    return _load_npz_once(path, status.st_mtime_ns, status.st_size, name, mend, published)


@lru_cache(maxsize=2)
def _load_npz_once(path: Path, mtime: int, size: int, name: str, mend: str, published: bool) -> Dataset:
    # Time and size are part of the cache key: a file that changed is read again.
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise DataError(f"{error}; {mend}") from error
    return _checked(arrays, path, name, SOURCES[name] if published else None, mend)


def _checked(arrays: dict, path: Path, name: str, source: Source | None, mend: str) -> Dataset:
    """Return the arrays as a Dataset, or raise a DataError that names the file, the defect and the remedy."""

    def require(condition: bool, found: str, expected: str) -> None:
        if not condition:
            raise DataError(f"{path}: {found}, expected {expected}; {mend}")

    names = [split for split in SPLITS if split != "val" or {"val_images", "val_labels"} & set(arrays)]
    for split in names:
        for part in ("images", "labels"):
            require(f"{split}_{part}" in arrays, f"array {split}_{part} is missing", f"it beside {sorted(arrays)}")
    splits = {}
    for split in names:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if labels.ndim == 2 and labels.shape[1] == 1:  # MedMNIST stores a column
            labels = labels[:, 0]
        if images.ndim == 3:  # grey images without a channel axis
            images = images[..., None]
        require(images.dtype == np.uint8, f"{split}_images is {images.dtype}", "uint8")
        require(images.ndim == 4, f"{split}_images has shape {images.shape}", "[n, height, width, channels]")
        require(images.shape[3] in (1, 3), f"{split}_images has {images.shape[3]} channels", "1 or 3")
        require(labels.dtype.kind in "iu", f"{split}_labels is {labels.dtype}", "integers")
        require(labels.ndim == 1, f"{split}_labels has shape {labels.shape}", "[n]")
        require(len(images) == len(labels), f"{len(images)} {split} images but {len(labels)} labels", "as many")
        require(len(labels) > 0, f"the {split} split is empty", "at least one image")
        splits[split] = Split(images, labels.astype(np.int64))
        shape = splits["train"].inputs.shape[1:]
        require(images.shape[1:] == shape, f"{split} images are {images.shape[1:]}", f"{shape} as in train")
    largest = max(int(split.labels.max()) for split in splits.values())
    if "class_names" in arrays:
        names_shape = arrays["class_names"].shape
        require(len(names_shape) == 1, f"class_names has shape {names_shape}", "[C]")
        aliases = source.aliases if source else {}
        class_names = tuple(aliases.get(str(entry), str(entry)) for entry in arrays["class_names"])
        require(len(set(class_names)) == len(class_names), "a class name occurs twice", "different names")
    else:
        class_names = tuple(str(index) for index in range(largest + 1))
    smallest = min(int(split.labels.min()) for split in splits.values())
    span = f"0 to {len(class_names) - 1}"
    require(smallest >= 0 and largest < len(class_names), f"labels run from {smallest} to {largest}", span)
    if source is not None:
        require(class_names == source.class_names, f"class names {class_names[:3]}...", f"{source.class_names[:3]}...")
        for split, counts in source.class_counts.items():
            shape = splits[split].inputs.shape
            require(shape[1:] == source.image_shape, f"{split} images are {shape[1:]}", f"{source.image_shape}")
            found = np.bincount(splits[split].labels, minlength=len(counts))
            wrong = np.flatnonzero(found != counts)
            if len(wrong):
                first = wrong[0]
                require(
                    False,
                    f"{len(wrong)} classes of the {split} split have a wrong count, the first "
                    f"{class_names[first]!r} with {found[first]}",
                    str(counts[first]),
                )
    parts = [part for split in names for part in (splits[split].inputs, splits[split].labels)]
    return Dataset(name, splits, class_names, digest_arrays(*parts))
