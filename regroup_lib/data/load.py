"""Load a data set by name or path, check it, and fetch a named one from its publisher."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from regroup_lib.data.dataset import (
    SPLITS,
    Check,
    DataError,
    Dataset,
    Split,
    class_notes,
    composed,
    dataset_of,
    digest_of,
    kept_until_changed,
    some_of,
)
from regroup_lib.data.ham10000 import HAM10000_TABLES, ham10000_index, load_ham10000
from regroup_lib.data.images import check_image_size
from regroup_lib.data.own_folders import load_folder
from regroup_lib.data.own_tables import TABLE_SUFFIXES, load_frame
from regroup_lib.data.sentences import by_hand, load_phrasebank, read_descriptions, read_phrasebank
from regroup_lib.data.sources import DATASETS, EMBEDDED, SOURCES, Source
from regroup_lib.files import data_directory, digest_arrays, read_npz, write_npz
from regroup_lib.progress import progress_bar

MAX_ARCHIVE_BYTES = 4_000_000_000  # of an archive, unpacked; HAM10000's have 1.4 GB


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
        - a table with one row per sample: a ``.csv`` or ``.tsv`` file (separated by commas, semicolons, tabs or bars;
          UTF-8, UTF-16 or Windows-1252), or a ``.parquet`` file, for which pandas needs pyarrow (see `load_frame`).

        A name takes precedence over a path: write ``"./digits"`` for a folder of that name.
    data_dir : str or Path, optional
        Where named sets are; default ``REGROUP_DATA``, else the user's cache directory.
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
        Where samples have the name of their group, such as their patient: a column of a table; of a folder of images
        the level of a folder below their class's (``"1"``: the first), or a regular expression that is searched for in
        their path, of which the first bracket counts. A group stays whole wherever samples are divided, as copies do.
    header : bool
        Whether the first line of a table of text has the names of its columns; else they are ``"column 1"`` and so on.
    missing : sequence of str
        Values that are missing ones, in all columns of a table, the label's included. Default: only an empty cell is
        one, and among numbers also what is commonly written there (``?``, ``NA``, ``unknown``).
    decimal : {".", ","}, optional
        The decimal mark of a table of text, where the file itself leaves it open.

    Raises
    ------
    DataError
        If the set is unknown, missing, truncated, mislabeled or of another shape, or an option is not for it.

    Examples
    --------
    >>> digits = load_data("digits")
    >>> digits.train.inputs.shape, digits.train.inputs.dtype
    ((1257, 8, 8, 1), dtype('uint8'))
    """
    name, path = str(name_or_path), Path(name_or_path)
    kind = _kind_of(name, path)
    images = {"image_size": image_size, "allow_missing": allow_missing, "group": group}
    table = {"label": label, "header": header, "missing": missing or (), "decimal": decimal}
    for option, value in (images | table).items():
        kinds, what, sets = _OPTION_OF.get(option, (("table",), "a table", "tables"))
        if kind not in kinds and value != load_data.__kwdefaults__[option]:
            raise DataError(f"{option} is {value}, and {name!r} is not {what}; leave it out, it is for {sets}")
    if image_size is not None:
        check_image_size(image_size)
    cache = data_directory(data_dir) / "cache"
    if kind == "embedded":
        return _embedded(name)
    if kind == "npz":
        return _load_npz(path, None, "check the path, or write the file again", path.stem)
    if kind == "folder":
        return load_folder(path, cache=cache, **images)
    if kind == "table":
        return load_frame(path, allow_missing=allow_missing, group=group, **table)
    source = SOURCES[name]
    path = source.path(data_dir)
    if download and not path.exists():
        fetch_data(name, data_dir=data_dir)
    mend = f"run `regroup data fetch {name}`, or point REGROUP_DATA at a folder that has {source.published}"
    if source.text:
        return load_phrasebank(path, source, mend)
    if source.decoded:
        size = source.image_shape[0] if image_size is None else image_size
        return load_ham10000(path, source, mend, cache, size, allow_missing)
    return _load_npz(path, source, mend, name)


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
    if name and path.exists():
        raise DataError(f"{name} is not {own}; save it as one of these")
    known = f"{', '.join(DATASETS)}, or the path of {own}, and nothing lies at that path"
    raise DataError(f"no data set is called {name!r}; there are {known}")


_DECODED = "decoded from image files"
# Options of `load_data` that are not for tables alone -> the kinds of set that they are for, and how to say so.
_OPTION_OF = {
    "image_size": (("decoded", "folder"), _DECODED, "ham10000 and folders of images"),
    "allow_missing": (("decoded", "folder", "table"), _DECODED, "ham10000, folders and tables"),
    "group": (("folder", "table"), "a folder of images or a table", "these"),
}


def fetch_data(name: str, *, data_dir: str | Path | None = None) -> Path:
    """Download a data set from its publisher into the data directory: one npz file, or a folder of images or text.

    torchvision downloads CIFAR's archive, pooch the files behind a DOI and the archive of a text set; each is verified
    against the publisher's MD5 or a known SHA-256. Only when all are read and complete does the file or folder appear,
    and a folder that is there already is left alone.
    """
    if name not in SOURCES:
        reason = "is embedded and needs no download" if name in EMBEDDED else "is not known"
        raise DataError(f"data set {name!r} {reason}; those that can be fetched: {', '.join(SOURCES)}")
    source, again = SOURCES[name], f"run `regroup data fetch {name}` again"
    target = source.path(data_dir)
    is_empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
    if target.suffix != ".npz" and os.path.lexists(target) and not is_empty:
        raise DataError(f"{target} exists and is left alone; move it away, then {again}")
    if source.text:
        download, check, again = _download_phrasebank, read_phrasebank, f"{again}, {by_hand(target)}"
    else:
        download, check = (_download_ham10000, ham10000_index) if source.decoded else (_download_cifar, _read_npz)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        fetched = Path(scratch, source.published)
        try:
            download(source, Path(scratch), fetched)
        except (OSError, KeyError, ValueError, RuntimeError) as error:  # no network; a wrong checksum; another catalog
            found = f"{name} could not be fetched from its publisher, {source.url} ({error})"
            raise DataError(f"{found}; nothing was written, {again}") from error
        check(fetched, source, "the publisher's files are not what was expected; report it")
        os.replace(fetched, target)
    return target


def _download_cifar(source: Source, scratch: Path, file: Path) -> None:
    import torchvision  # heavy, and only needed here

    reader = getattr(torchvision.datasets, file.stem.upper())
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        published = reader(scratch, train=split == "train", download=True)
        arrays |= {f"{split}_images": published.data, f"{split}_labels": np.asarray(published.targets, np.uint8)}
    write_npz(file, arrays | {"class_names": np.array(published.classes)})


def _download_ham10000(source: Source, scratch: Path, folder: Path) -> None:
    """Download table and archives, verified by the publisher's checksums, and unpack them."""
    import pooch

    (folder / "images").mkdir(parents=True)
    resolver = pooch.DOIDownloader()
    doi = source.url.removeprefix("doi:")
    repository = pooch.downloaders.doi_to_repository(doi, headers=resolver.headers, timeout=resolver.timeout)
    catalog = pooch.create(path=scratch, base_url=source.url, retry_if_failed=1)
    repository.populate_registry(catalog)
    table = next((known for known in HAM10000_TABLES if known in catalog.registry), HAM10000_TABLES[0])
    for file in (table, "HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip"):
        catalog.urls[file] = repository.download_url(file)
        if file.endswith(".tab"):
            # Dataverse converts tables; the checksum is of the file that was uploaded.
            catalog.urls[file] += "?format=original"
        fetched = Path(catalog.fetch(file, downloader=_downloader(file)))
        if file == table:
            os.replace(fetched, folder / HAM10000_TABLES[0])
        else:
            _unpack(fetched, folder / "images", r"ISIC_\w+\.jpg")
            fetched.unlink()


def _download_phrasebank(source: Source, scratch: Path, folder: Path) -> None:
    import pooch

    folder.mkdir()
    options = {"fname": f"{folder.name}.zip", "path": scratch, "downloader": _downloader(folder.name)}
    archive = pooch.retrieve(source.url, f"sha256:{source.sha256}", **options)
    _unpack(Path(archive), folder, r"(Sentences_\w+Agree|License|README)\.txt")


def _downloader(title: str) -> Callable:
    import pooch

    bar = progress_bar(total=1, desc=title, unit="B", unit_scale=True)  # pooch sets the total
    return pooch.HTTPDownloader(progressbar=bar, chunk_size=2**20)


def _unpack(archive: Path, folder: Path, pattern: str) -> None:
    """Unpack the files of a verified zip archive whose names match, all into one folder; refuse bombs."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = bundle.infolist()
            if sum(member.file_size for member in members) > MAX_ARCHIVE_BYTES:
                raise ValueError(f"{archive.name} has more than {MAX_ARCHIVE_BYTES:,} bytes unpacked")
            for member in members:
                name = PurePosixPath(member.filename).name
                if re.fullmatch(pattern, name):
                    with bundle.open(member) as packed, (folder / name).open("xb") as unpacked:
                        shutil.copyfileobj(packed, unpacked, 2**20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{archive.name} is damaged or is not a zip archive ({error})") from error


@kept_until_changed(lambda name: [], maxsize=2)
def _embedded(name: str) -> Dataset:
    """Return a set that scikit-learn brings, with a fixed 70/30 test split, as it has none of its own."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    class_names = EMBEDDED[name].class_names
    if name == "digits":
        scans, labels = load_digits(return_X_y=True)
        inputs, labels = np.rint(scans * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1), labels.astype(np.int64)
    else:
        sentences = read_descriptions()
        inputs = sentences["texts"].to_numpy(str)
        labels = sentences["labels"].map(class_names.index).to_numpy(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.3, random_state=0, stratify=labels)
    rows = {"train": train, "test": test}
    return dataset_of(name, Split(inputs, labels), rows, class_names, digest=digest_arrays(inputs, labels))


def _read_npz(path: Path, source: Source | None, mend: str, name: str = "") -> Dataset:
    """Return the arrays of a file as a Dataset, or raise a DataError."""
    if not path.exists():
        raise DataError(f"{path} does not exist; {mend}")
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise DataError(f"{error}; {mend}") from error
    check = Check(path, mend)
    names = [split for split in SPLITS if split != "val" or {"val_images", "val_labels"} & set(arrays)]
    for array in (f"{split}_{part}" for split in names for part in ("images", "labels")):
        check(array in arrays, f"array {array} is missing", f"it beside {sorted(arrays)}")
    splits: dict[str, Split] = {}
    for split in names:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if labels.ndim == 2 and labels.shape[1] == 1:  # MedMNIST stores a column
            labels = labels[:, 0]
        if images.ndim == 3:  # grey images without a channel axis
            images = images[..., None]
        check(images.dtype == np.uint8, f"{split}_images is {images.dtype}", "uint8")
        check(images.ndim == 4, f"{split}_images has shape {images.shape}", "[n, height, width, channels]")
        check(images.shape[3] in (1, 3), f"{split}_images has {images.shape[3]} channels", "1 or 3")
        check(0 not in images.shape[1:], f"{split}_images has shape {images.shape}", "pixels")
        check(labels.dtype.kind in "iu", f"{split}_labels is {labels.dtype}", "integers")
        check(labels.ndim == 1, f"{split}_labels has shape {labels.shape}", "[n]")
        check(len(images) == len(labels), f"{len(images)} {split} images but {len(labels)} labels", "as many")
        check(len(labels) > 0, f"the {split} split is empty", "at least one image")
        check(labels.max() < 2**63, f"{split}_labels runs to {labels.max()}", "smaller numbers")
        splits[split] = Split(images, labels.astype(np.int64))
        shape = splits["train"].inputs.shape[1:]
        check(images.shape[1:] == shape, f"{split} images are {images.shape[1:]}", f"{shape} as in train")
    every_label = np.unique(np.concatenate([split.labels for split in splits.values()]))
    if "class_names" in arrays:
        check(arrays["class_names"].ndim == 1, f"class_names has shape {arrays['class_names'].shape}", "[C]")
        aliases = source.aliases if source else {}
        names = (entry.decode() if isinstance(entry, bytes) else str(entry) for entry in arrays["class_names"])
        class_names = tuple(aliases.get(name, name) for name in map(composed, names))
        check(len(set(class_names)) == len(class_names), "a class name occurs twice", "different names")
        in_range = every_label[0] >= 0 and every_label[-1] < len(class_names)
        check(in_range, f"labels run from {every_label[0]} to {every_label[-1]}", f"0 to {len(class_names) - 1}")
    else:
        class_names = tuple(map(str, every_label))
        splits = {s: Split(split.inputs, np.searchsorted(every_label, split.labels)) for s, split in splits.items()}
    check(len(class_names) > 1, f"the class {class_names[0]!r} is alone", "at least two")
    untrained = set(np.concatenate([split.labels for split in splits.values()])) - set(splits["train"].labels)
    check(
        not untrained, f"classes without a training image: {some_of(class_names[label] for label in untrained)}", "one"
    )
    notes = () if source else (*class_notes(path, class_names), *_oddities(arrays, splits))
    dataset = Dataset(name, splits, class_names, digest_of(splits), notes=notes)
    if source is not None:
        check(class_names == source.class_names, f"class names {class_names[:3]}...", f"{source.class_names[:3]}...")
        for split, counts in source.class_counts.items():
            shape = splits[split].inputs.shape[1:]
            check(shape == source.image_shape, f"{split} images are {shape}", f"{source.image_shape}")
            check.counts(class_names, dataset.class_counts(split), counts, of=f" of the {split} split")
    return dataset


_load_npz = kept_until_changed(lambda path, *_: [path], maxsize=2)(_read_npz)


def _oddities(arrays: Mapping[str, np.ndarray], splits: Mapping[str, Split]) -> list[str]:
    """Return notes on other arrays, dark images, and images of the test split that are in the training split too."""
    trained = {hash(image.tobytes()) for image in splits["train"].inputs}
    copied = sum(hash(image.tobytes()) in trained for image in splits["test"].inputs)
    brightest = max(split.inputs.max() for split in splits.values())
    others = sorted(set(arrays) - {f"{split}_{part}" for split in splits for part in ("images", "labels")})
    others = [name for name in others if name != "class_names"]
    found = {
        f"left out, arrays that are no split's: {some_of(others)}": others,
        f"warning, no pixel is above {brightest} of 255; images of 0 to 1 are to be multiplied by 255": brightest < 16,
        f"{copied} images of the test split are also in the training split, pixel for pixel": copied,
    }
    return [note for note, holds in found.items() if holds]
