"""A data set in memory: splits of images, sentences or table rows, with their labels."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache, wraps
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from regroup_lib.extras import printable
from regroup_lib.files import digest_arrays

SPLITS = ("train", "val", "test")
FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}  # of a published set that has no split of its own


class DataError(ValueError):
    """A data set is missing, damaged or not the named one; the message names the remedy."""

    def __init__(self, message: str):
        super().__init__(printable(message))


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes
    ----------
    inputs : ndarray of uint8 [n, height, width, channels], ndarray of str [n], or DataFrame [n, d]
        The images, the sentences, or the rows of a table: float64 columns, NaN where a number is missing, and str
        columns of categories.
    labels : ndarray of int64 [n]
        Class indices.
    """

    inputs: np.ndarray | pd.DataFrame
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> Split:
        """Return the rows `index` as a split of their own."""
        inputs = self.inputs.iloc[index] if isinstance(self.inputs, pd.DataFrame) else self.inputs[index]
        return Split(inputs, self.labels[index])


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
        SHA-256 of all inputs and labels, of a user's folder or table also of classes and columns by name: two data
        sets with one digest are the same, bit for bit.
    metadata : dict of str to dict of str to ndarray, optional
        Further columns, by split and name, with one value per sample. HAM10000 has those of its table but the label
        (``age`` float32, years, NaN: unknown; images of one ``lesion_id`` are a group), Financial PhraseBank ``line``,
        a user's folder ``file``, a user's table ``row``, counted from 0 in the order of the file; both have ``group``
        (int64) where samples belong together, such as copies or those of one patient: no split divides a group.
    notes : tuple of str
        The parts of the set that were left out; for a user's own set also how it was read and divided.
    """

    name: str
    splits: dict[str, Split]
    class_names: tuple[str, ...]
    digest: str
    metadata: dict[str, dict[str, np.ndarray]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether the inputs are sentences."""
        return isinstance(self.train.inputs, np.ndarray) and self.train.inputs.dtype.kind == "U"

    @property
    def is_table(self) -> bool:
        """Whether the inputs are rows of a table."""
        return isinstance(self.train.inputs, pd.DataFrame)

    @property
    def holds(self) -> str:
        """Kind of the inputs: ``"images"``, ``"sentences"`` or ``"rows"``."""
        return "rows" if self.is_table else "sentences" if self.is_text else "images"

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


def dataset_of(
    name: str,
    samples: Split,
    rows: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    *,
    columns: Mapping[str, np.ndarray] | None = None,
    notes: Sequence[str] = (),
    digest: str | None = None,
    **digested: Iterable[np.ndarray],
) -> Dataset:
    """Divide samples and the columns of their metadata into splits; the default digest is their `digest_of`."""
    splits = {part: samples.take(index) for part, index in rows.items()}
    if isinstance(samples.inputs, pd.DataFrame):
        splits = {part: Split(split.inputs.reset_index(drop=True), split.labels) for part, split in splits.items()}
    metadata = columns and {part: {c: values[index] for c, values in columns.items()} for part, index in rows.items()}
    return Dataset(
        name,
        splits,
        tuple(class_names),
        digest or digest_of(splits, **digested),
        metadata,
        tuple(map(printable, notes)),
    )


def rows_of(parts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of each split that occurs among the names of splits, [n]."""
    return {part: np.flatnonzero(parts == part) for part in SPLITS if (parts == part).any()}


def digest_of(splits: Mapping[str, Split], *, before: Iterable = (), after: Iterable = ()) -> str:
    """Return the digest of inputs and labels, between other arrays, and of a table's column names."""
    arrays = list(before)
    for split in splits.values():
        if isinstance(split.inputs, pd.DataFrame):
            arrays += [np.array(split.inputs.columns.to_list()), *(split.inputs[c].to_numpy() for c in split.inputs)]
        else:
            arrays.append(split.inputs)
        arrays.append(split.labels)
    return digest_arrays(*(a.astype(np.str_) if a.dtype.kind == "O" else a for a in (*arrays, *after)))


def kept_until_changed(files_of: Callable[..., Iterable[Path]], *, maxsize: int = 1) -> Callable:
    """Keep the last results of a loader until one of its files changes in time or size.

    `files_of` takes the loader's arguments, which must be hashable. Errors are not kept. Arrays of a data set cannot be
    written to, and frames are copied when they are, because the next caller gets the same ones.
    """

    def decorate(load: Callable[..., Dataset]) -> Callable[..., Dataset]:
        @lru_cache(maxsize)
        def load_once(state: tuple, *arguments, **options) -> Dataset:
            found = load(*arguments, **options)
            for split in getattr(found, "splits", {}).values():
                for array in (split.inputs, split.labels):
                    if isinstance(array, np.ndarray):
                        array.flags.writeable = False
            return found

        @wraps(load)
        def kept(*arguments, **options) -> Dataset:
            options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
            status = {path: path.stat() for path in files_of(*arguments, **options) if path.exists()}
            state = tuple((path, s.st_mtime_ns, s.st_size) for path, s in status.items())
            found = load_once(state, *arguments, **options)
            if not getattr(found, "is_table", False):
                return found
            splits = {part: Split(split.inputs.copy(deep=False), split.labels) for part, split in found.splits.items()}
            return replace(found, splits=splits)

        return kept

    return decorate


@dataclass(frozen=True)
class Check:
    """Raise a DataError that names the file, the defect, the expectation and the remedy."""

    path: Path
    mend: str

    def __call__(self, condition: bool, found: str, expected: str, mend: str = "") -> None:
        if not condition:
            raise DataError(f"{self.path}: {found}, expected {expected}; {mend or self.mend}")

    def counts(self, names: Sequence[str], found: Iterable[int], expected: Iterable[int], of: str = "") -> None:
        """Compare the number of samples of each class."""
        wrong = [row for row in zip(names, found, expected, strict=True) if row[1] != row[2]]
        for name, number, wanted in wrong[:1]:
            first = f"the first {name!r} with {number}"
            self(False, f"{len(wrong)} classes{of} have a wrong count, {first}", str(wanted))


def split_by_group(labels: Iterable, groups: Iterable, *, fractions: Mapping[str, float], seed: int = 0) -> np.ndarray:
    """Divide samples into splits, class by class, without dividing a group; return the name of each one's split, [n].

    The groups of a class are put in random order and cut into parts of the given fractions; a group across a cut goes
    to the side that holds its middle. So each split has its share of each class to within the size of the class's
    largest group. A group with samples of several classes counts for the rarest of them. The order of the samples and
    the names of the classes do not matter. With n equal fractions the splits are the folds of a stratified
    cross-validation by group.

    >>> split_by_group([0, 0, 0, 0, 1, 1], [7, 7, 8, 8, 9, 6], fractions={"train": 0.5, "test": 0.5}, seed=1)
    array(['train', 'train', 'test', 'test', 'test', 'train'], dtype='<U5')
    """
    labels, parts = np.asarray(labels), np.array(list(fractions.values()), dtype=float)
    names, member = np.unique(groups, return_inverse=True)
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rarest_first = np.argsort(counts[index], kind="stable")
    classes = labels[rarest_first[np.unique(member[rarest_first], return_index=True)[1]]]
    sizes = np.bincount(member[labels == classes[member]], minlength=len(names))
    order = np.random.default_rng(seed).permutation(len(names))
    split = np.empty(len(names), dtype=np.int64)
    for label in np.unique(classes):
        chosen = order[classes[order] == label]
        middles = np.cumsum(sizes[chosen]) - sizes[chosen] / 2
        cuts = np.cumsum(parts)[:-1] * sizes[chosen].sum()
        split[chosen] = np.searchsorted(cuts, middles, side="left")
    return np.array(list(fractions))[split[member]]


def joined_groups(*divisions: np.ndarray) -> np.ndarray:
    """Return the smallest groups, int64 [n], that divide no group of any of the divisions [n].

    >>> joined_groups(np.array(["a", "a", "b", "c"]), np.array([1, 2, 2, 3]))
    array([0, 0, 0, 1])
    """
    n = len(divisions[0])
    rows, groups, n_nodes = [], [], n
    for division in divisions:
        _, member = np.unique(division, return_inverse=True)
        rows.append(np.arange(n))
        groups.append(member + n_nodes)
        n_nodes += int(member.max(initial=-1)) + 1
    rows, groups = np.concatenate(rows), np.concatenate(groups)
    edges = coo_array((np.ones(len(rows), bool), (rows, groups)), shape=(n_nodes, n_nodes))
    return connected_components(edges, directed=False)[1][:n].astype(np.int64)


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), without spaces around it."""
    return unicodedata.normalize("NFC", text).strip()


def class_notes(where: Path, names: Iterable[str]) -> list[str]:
    """Return notes on classes whose names hardly differ or may mean the same; refuse unprintable names."""
    names = list(dict.fromkeys(names))
    for name in names:
        if {unicodedata.category(c) for c in name} & {"Cc", "Cs"}:
            raise DataError(f"{where}: the class {name!r} has characters that cannot be printed; rename it")
    alike = names_alike(names)
    found = {
        "classes whose names differ in case, spaces, invisible signs, quotes or a full stop alone": alike,
        "classes that may mean the same": [] if alike else names_alike(names, _meaning),
    }
    return [f"warning, {what}: {some_of(pairs)}" for what, pairs in found.items() if pairs]


def names_alike(names: Iterable[str], form: Callable[[str], str] = lambda name: name) -> list[str]:
    """Return the groups of names that agree apart from case, spaces and signs, after a function has simplified them."""
    alike: dict[str, set[str]] = defaultdict(set)
    for name in names:
        folded = unicodedata.normalize("NFKC", name).casefold()
        seen = "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Zs"))
        alike[form(seen.strip("'\".")) or name].add(name)
    return [" and ".join(map(repr, sorted(group))) for group in alike.values() if len(group) > 1]


def _meaning(name: str) -> str:
    with suppress(ValueError):
        name = f"{float(name):g}"
    return {"y": "yes", "true": "yes", "1": "yes", "n": "no", "false": "no", "0": "no"}.get(name, name)


def some_of(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    names = [name if len(name) < 200 else f"{name[:90]}...{name[-90:]}" for name in names] or ["none"]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def did_you_mean(name: str, known: Mapping[str, str] | Sequence[str]) -> str:
    """Return all known names, or what a mapping shows of each, and the one closest to an unknown name."""
    close, shown = get_close_matches(name, known, 1), known.values() if isinstance(known, Mapping) else known
    return ", ".join(shown) + (f"; did you mean {close[0]!r}?" if close else "")
