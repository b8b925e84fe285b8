"""Data sets in memory: where they come from, and that they are what they claim to be.

Images stay uint8 ``[n, height, width, channels]``. Nothing is unpickled here; torchvision reads its own CIFAR
archives, after their checksum, when `fetch_data` fills the data directory.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from regroup_lib.files import data_directory, digest_arrays, read_npz, write_npz

SPLITS = ("train", "val", "test")


class DataError(ValueError):
    """A data set is missing, damaged or not what it claims to be; the message says what mends it."""


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes
    ----------
    inputs : ndarray of uint8 [n, height, width, channels]
        The images.
    labels : ndarray of int64 [n]
        Class indices.
    """

    inputs: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> Split:
        """Return the rows `index` as a split of their own."""
        return Split(self.inputs[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes
    ----------
    name : str
        Identifier (``"cifar10"``), or the stem of the user's file.
    splits : dict of str to Split
        ``"train"``, ``"test"`` and, where the publisher has one, ``"val"``.
    class_names : tuple of str
        Names in label order.
    digest : str
        SHA-256 of all arrays: two data sets with one digest are the same to the bit.
    """

    name: str
    splits: dict[str, Split]
    class_names: tuple[str, ...]
    digest: str

    @property
    def train(self) -> Split:
        """The training split."""
        return self.splits["train"]

    @property
    def test(self) -> Split:
        """The test split."""
        return self.splits["test"]

    def class_counts(self, split: str = "train") -> list[int]:
        """Return the number of samples of each class in a split."""
        return np.bincount(self.splits[split].labels, minlength=len(self.class_names)).tolist()


@dataclass(frozen=True)
class Source:
    """What a named data set must look like, who publishes it, and other names in use for its classes."""

    image_shape: tuple[int, int, int]
    class_counts: dict[str, tuple[int, ...]]
    class_names: tuple[str, ...]
    publisher: str
    aliases: dict[str, str] = field(default_factory=dict)


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
SOURCES = {
    "cifar10": Source(
        (32, 32, 3),
        {"train": (5000,) * 10, "test": (1000,) * 10},
        CIFAR10_NAMES,
        "Krizhevsky 2009, through torchvision.datasets.CIFAR10",
    ),
    "cifar100": Source(
        (32, 32, 3),
        {"train": (500,) * 100, "test": (100,) * 100},
        CIFAR100_NAMES,
        "Krizhevsky 2009, through torchvision.datasets.CIFAR100",
        # Copies sorted into folders often drop the second word of the trees.
        {tree: f"{tree}_tree" for tree in ("maple", "oak", "palm", "pine", "willow")},
    ),
}
EMBEDDED = {"digits": "scikit-learn's copy of the UCI optical digits (Alpaydin & Kaynak 1998)"}
DATASETS = (*EMBEDDED, *SOURCES)


def load_data(name_or_path: str | Path, *, data_dir: str | Path | None = None, download: bool = False) -> Dataset:
    """Load a data set into memory and check it.

    Parameters
    ----------
    name_or_path : str or Path
        ``"digits"`` (embedded), ``"cifar10"``, ``"cifar100"``, or the path of an npz file with the arrays
        ``train_images, train_labels, test_images, test_labels`` (MedMNIST's names; ``val_*`` and
        ``class_names`` are optional).
    data_dir : str or Path, optional
        Where named sets lie; default ``REGROUP_DATA``, else the user's cache directory.
    download : bool
        Fetch a named set that is missing from its publisher.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the set is unknown, missing, truncated, mislabelled or of another shape.

    Examples
    --------
    >>> digits = load_data("digits")
    >>> digits.train.inputs.shape, digits.train.inputs.dtype
    ((1257, 8, 8, 1), dtype('uint8'))
    """
    name = str(name_or_path)
    if name == "digits":
        return _digits()
    if name in SOURCES:
        path = data_directory(data_dir) / f"{name}.npz"
        if download and not path.exists():
            fetch_data(name, data_dir=data_dir)
        mend = f"run `regroup data fetch {name}`, or point REGROUP_DATA at a folder that has {name}.npz"
        return _load_npz(path, name, mend, published=True)
    if Path(name).suffix == ".npz":
        return _load_npz(Path(name), Path(name).stem, "check the path, or write the file again", published=False)
    raise DataError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}, or the path of an .npz file")


def fetch_data(name: str, *, data_dir: str | Path | None = None) -> Path:
    """Download a data set from its publisher into the data directory, as one npz file.

    torchvision downloads the archive, verifies its MD5 and reads it; only then are the arrays written.

    Raises
    ------
    DataError
        If the name is unknown, the set is embedded and needs no download, or the download fails.
    """
    if name not in SOURCES:
        reason = "is embedded and needs no download" if name in EMBEDDED else "is not known"
        raise DataError(f"data set {name!r} {reason}; those that can be fetched: {', '.join(SOURCES)}")
    import torchvision  # heavy, and only needed here

    reader = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    target = data_directory(data_dir) / f"{name}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
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
    _checked(arrays, target, name, SOURCES[name], "the publisher's archive is not what was expected; report it")
    write_npz(target, arrays)
    return target


def _digits() -> Dataset:
    """Return the 1,797 scans of scikit-learn with a fixed 70/30 test split (the set has none of its own)."""
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
