"""Data sets in memory: where they come from, and that they are what they claim to be.

Images stay uint8 ``[n, height, width, channels]``, sentences are str ``[n]``, and a user's table is a frame. Nothing is
unpickled here; torchvision reads its own CIFAR archives, after their checksum, when `fetch_data` fills the data
directory. A set published as image files is decoded once, into a cache file in the data directory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from regroup_lib.corpora import (
    DESCRIPTION_NAMES,
    read_descriptions,
    read_labelled_lines,
    sentence_digest,
    without_repeats,
    word_form,
)
from regroup_lib.dataset import SPLITS, DataError, Dataset, Split, some_of, split_by_group
from regroup_lib.files import data_directory, digest_arrays, digest_file, read_npz, write_npz
from regroup_lib.images import LARGE, cached_images, check_image_size, file_digests, open_image
from regroup_lib.progress import progress_bar
from regroup_lib.userdata import load_folder
from regroup_lib.usertables import TABLE_SUFFIXES, load_frame

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a named data set must look like, and who publishes it.

    Attributes
    ----------
    published : str
        Its file or folder in the data directory.
    image_shape : tuple of int, optional
        Height, width, channels; of a set that is decoded from image files, the default. None: the set is text.
    class_counts : dict of str to tuple of int
        Samples of each class, by split; ``"all"`` where the publisher has no splits.
    class_names : tuple of str
        Names in label order.
    publisher : str
        Who to thank.
    aliases : dict of str to str
        Other names in use for classes.
    doi : str
        Where the publisher's files lie, for a set of image files.
    url, sha256 : str
        Where the publisher's archive lies, and its digest, for a set of text.
    split_file : Path, optional
        The split, for a set that has none of its own: a CSV file with a column that names the group (``lesion_id``)
        or the sentence (``sentence``, by `sentence_digest`) and the column ``split``.
    """

    published: str
    image_shape: tuple[int, int, int] | None = None
    class_counts: dict[str, tuple[int, ...]]
    class_names: tuple[str, ...]
    publisher: str
    aliases: dict[str, str] = field(default_factory=dict)
    doi: str = ""
    url: str = ""
    sha256: str = ""
    split_file: Path | None = None

    @property
    def text(self) -> bool:
        """Whether the set holds sentences."""
        return self.image_shape is None

    @property
    def decoded(self) -> bool:
        """Whether the set is decoded from image files, so that their size in memory can be chosen."""
        return self.split_file is not None and not self.text

    def path(self, data_dir: str | Path | None = None) -> Path:
        """Return where the set lies in a data directory."""
        return data_directory(data_dir) / self.published


DIGIT_NAMES = tuple("0123456789")
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_NAMES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)
HAM10000_NAMES = ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")
SOURCES = {
    "cifar10": Source(
        published="cifar10.npz",
        image_shape=(32, 32, 3),
        class_counts={"train": (5000,) * 10, "test": (1000,) * 10},
        class_names=CIFAR10_NAMES,
        publisher="Krizhevsky 2009, through torchvision.datasets.CIFAR10",
    ),
    "cifar100": Source(
        published="cifar100.npz",
        image_shape=(32, 32, 3),
        class_counts={"train": (500,) * 100, "test": (100,) * 100},
        class_names=CIFAR100_NAMES,
        publisher="Krizhevsky 2009, through torchvision.datasets.CIFAR100",
        # Copies sorted into folders often drop the second word of the trees.
        aliases={tree: f"{tree}_tree" for tree in ("maple", "oak", "palm", "pine", "willow")},
    ),
    "ham10000": Source(
        published="ham10000",
        image_shape=(64, 64, 3),
        class_counts={"all": (6705, 1113, 1099, 514, 327, 142, 115)},
        class_names=HAM10000_NAMES,
        publisher="Tschandl et al. 2018, Harvard Dataverse, doi:10.7910/DVN/DBW86T",
        doi="10.7910/DVN/DBW86T",
        split_file=Path(__file__).with_name("ham10000_split.csv"),
    ),
    "phrasebank": Source(
        published="phrasebank",
        class_counts={"all": (604, 2879, 1363)},  # lines of PHRASEBANK_FILE
        class_names=("negative", "neutral", "positive"),
        publisher="Malo et al. 2014, Hugging Face data set takala/financial_phrasebank (Takala is an author)",
        url="https://huggingface.co/datasets/takala/financial_phrasebank/resolve/main/data/FinancialPhraseBank-v1.0.zip",
        sha256="0e1a06c4900fdae46091d031068601e3773ba067c7cecb5b0da1dcba5ce989a6",
        split_file=Path(__file__).with_name("phrasebank_split.csv"),
    ),
}
EMBEDDED = {
    "digits": "scikit-learn's copy of the UCI optical digits (Alpaydin & Kaynak 1998)",
    "descriptions": "sentences of the descriptions that scikit-learn has of data sets",
}
EMBEDDED_NAMES = {"digits": DIGIT_NAMES, "descriptions": DESCRIPTION_NAMES}
DATASETS = (*EMBEDDED, *SOURCES)


def class_names_of(dataset: str) -> tuple[str, ...]:
    """Return the class names of a named data set, in label order, without loading it."""
    return SOURCES[dataset].class_names if dataset in SOURCES else EMBEDDED_NAMES[dataset]


def holds_text(dataset: str) -> bool:
    """Return whether a named data set holds sentences instead of images."""
    return SOURCES[dataset].text if dataset in SOURCES else dataset == "descriptions"


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


@lru_cache(maxsize=1)
def _descriptions() -> Dataset:
    """Return the sentences of scikit-learn's descriptions with a fixed 70/30 test split, like the digits."""
    from sklearn.model_selection import train_test_split

    sentences = read_descriptions()
    labels = np.array([DESCRIPTION_NAMES.index(name) for name in sentences.labels], np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.3, random_state=0, stratify=labels)
    splits = {name: Split(sentences.texts[rows], labels[rows]) for name, rows in (("train", train), ("test", test))}
    return Dataset("descriptions", splits, DESCRIPTION_NAMES, digest_arrays(sentences.texts, labels))


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


# ---------------------------------------------------------------- Financial PhraseBank: files of labelled lines

PHRASEBANK_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
PHRASEBANK_FILE = "Sentences_50Agree.txt"  # the sentences on whose label half of the annotators agree, which is all
PHRASEBANK_FILES = r"(Sentences_\w+Agree|License|README)\.txt"
PHRASEBANK_BY_HAND = (
    "or get FinancialPhraseBank-v1.0.zip yourself (ResearchGate; Hugging Face data set takala/financial_phrasebank) "
    f"and put its {PHRASEBANK_FILE} into"
)


def phrasebank_split(texts: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Return the split of Financial PhraseBank, 70/10/20 and stratified by label, from its sentences.

    The file ``phrasebank_split.csv`` beside this module holds the result. The licence, CC BY-NC-SA, does not go with
    this project's: the file names sentences by digests. Copies that differ in case, spaces and punctuation alone
    (three pairs) stay together.

    Parameters
    ----------
    texts, labels : sequence of str [n]
        Different sentences, in any order.

    Returns
    -------
    DataFrame
        The columns ``sentence`` (`sentence_digest`, sorted) and ``split``, a row a sentence.
    """
    groups = [word_form(text) for text in texts]
    split = split_by_group(labels, groups, fractions=PHRASEBANK_FRACTIONS, seed=0)
    table = pd.DataFrame({"sentence": [sentence_digest(text) for text in texts], "split": split})
    return table.sort_values("sentence", ignore_index=True)


def _load_phrasebank(folder: Path, source: Source, mend: str) -> Dataset:
    path = folder / PHRASEBANK_FILE
    if not path.is_file():
        raise DataError(f"{path} does not exist; {mend}, {PHRASEBANK_BY_HAND} {folder}")
    # Times and sizes are part of the key: files that changed are read again.
    state = [(file.stat().st_mtime_ns, file.stat().st_size) for file in (path, source.split_file)]
    return _load_phrasebank_once(path, f"{source!r} {state}", f"move {folder} away and {mend}")


@lru_cache(maxsize=1)
def _load_phrasebank_once(path: Path, state: str, mend: str) -> Dataset:
    return _phrasebank(path, SOURCES["phrasebank"], mend)


def _phrasebank(path: Path, source: Source, mend: str) -> Dataset:
    """Read the file, compare it with what was published, and lay it out in the committed split."""
    names = source.class_names
    try:
        published = read_labelled_lines(path, names)
    except (OSError, ValueError) as error:
        raise DataError(f"{error}; {mend}") from error
    for name, expected in zip(names, source.class_counts["all"], strict=True):
        found = int((published.labels == name).sum())
        if found != expected:
            raise DataError(f"{path}: {found} lines are labelled {name!r}, expected {expected}; {mend}")
    sentences, notes = without_repeats(published)
    split_of = dict(pd.read_csv(source.split_file, dtype=str).itertuples(index=False, name=None))
    split = np.array([split_of.get(sentence_digest(text), "") for text in sentences.texts])
    astray = sentences.lines[split == ""]
    if len(astray):
        found = f"sentences that are not the published ones: {len(astray)} (lines {some_of(str(n) for n in astray)})"
        raise DataError(f"{path}: {found}, expected those of {source.split_file.name}, in Latin-1; {mend}")
    splits, metadata = {}, {}
    for part in SPLITS:
        kept = sentences.take(split == part)
        splits[part] = Split(kept.texts, np.array([names.index(label) for label in kept.labels], np.int64))
        metadata[part] = {"line": kept.lines}
    digest = digest_arrays(*(array for part in splits.values() for array in (part.inputs, part.labels)))
    return Dataset("phrasebank", splits, names, digest, metadata, notes)


def _fetch_phrasebank(name: str, source: Source, target: Path) -> None:
    import pooch

    _refuse_to_replace(name, target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        folder = Path(scratch) / name
        folder.mkdir()
        try:
            downloader = pooch.HTTPDownloader(progressbar=progress_bar(total=1, desc=name, unit="B", unit_scale=True))
            archive = pooch.retrieve(
                source.url, f"sha256:{source.sha256}", fname=f"{name}.zip", path=scratch, downloader=downloader
            )
            _unpack(Path(archive), folder, PHRASEBANK_FILES)
        except (OSError, ValueError) as error:  # no network; a wrong checksum; an archive
            reason = f"{name} could not be fetched from its publisher, {source.url} ({error}); nothing was written"
            mend = f"run `regroup data fetch {name}` again, {PHRASEBANK_BY_HAND} {target}"
            raise DataError(f"{reason}, {mend}") from error
        _phrasebank(folder / PHRASEBANK_FILE, source, "the publisher's files are not what was expected; report it")
        os.replace(folder, target)
