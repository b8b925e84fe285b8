"""Classification tasks made of data sets: the positive class, and the samples for training, validation and testing.

The test split is the publisher's, or the data set's committed one, and never moves. The seed moves only the
validation split, and the choice of positives if a task is made more imbalanced. A long-tailed task
(``"<data set>-lt"``) keeps all classes and thins the training split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from regroup_lib.data.dataset import Dataset, composed, did_you_mean, split_by_group
from regroup_lib.data.ham10000 import divided
from regroup_lib.data.load import load_data
from regroup_lib.data.sources import DATASETS, class_names_of

LONG_TAIL = "lt"  # end of a long-tailed task's name
LONG_TAIL_RATIO = 100.0
LONG_TAIL_RATIOS = {"digits": 10.0}  # where a class has no more than 100 images


@dataclass(frozen=True)
class TaskSplit:
    """Images, sentences or rows (see `Split`) with the task's labels and the finer labels that the task hides.

    `labels` are the task's classes, in a binary task 1 for the positive one. `fine_labels` are the data set's own: only
    the control with true classes and the diagnostics may look at them. `index` has the rows of the data set's split, so
    that features of the whole split can be cut to the task. All are int64 [n].
    """

    inputs: np.ndarray | pd.DataFrame
    labels: np.ndarray
    fine_labels: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """A classification task with its splits; `val` has no rows when nothing is held out."""

    name: str
    class_names: tuple[str, ...]
    fine_class_names: tuple[str, ...]
    train: TaskSplit
    val: TaskSplit
    test: TaskSplit
    dataset: Dataset

    @property
    def n_classes(self) -> int:
        """Number of classes of the task."""
        return len(self.class_names)

    @property
    def class_counts(self) -> list[int]:
        """Number of training samples of each class."""
        return np.bincount(self.train.labels, minlength=self.n_classes).tolist()


def parse_task(name: str) -> tuple[str, str | None]:
    """Split a task's name into data set and positive class: ``"cifar10-airplane"`` or, multiclass, ``"cifar10"``.

    A long-tailed task has ``"lt"`` in place of the class.
    """
    for dataset in sorted(DATASETS, key=len, reverse=True):
        if name == dataset:
            return dataset, None
        if name.startswith(f"{dataset}-"):
            return dataset, name.removeprefix(f"{dataset}-")
    raise ValueError(f"task {name!r}: no data set of that name; a task is DATASET or DATASET-CLASS with {DATASETS}")


def long_tail_counts(largest: int, n_classes: int, ratio: float = LONG_TAIL_RATIO) -> list[int]:
    """Return how many samples each class of a long-tailed training set keeps, in class order.

    ``floor(largest * ratio ** (-j / (C - 1)))`` for class j: the exponential profile of Cui et al. (2019,
    Class-balanced loss based on effective number of samples, Section 5.1), rounded down as in their published code.

    >>> long_tail_counts(5000, 10, 100)
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    if n_classes < 2 or not 1 <= ratio < np.inf:
        raise ValueError(f"a long tail needs two classes and a ratio of at least 1; got {n_classes} and {ratio:g}")
    # 1e-9, because rounding must not move the last power, a whole number, below it.
    counts = [int(largest * ratio ** (-j / (n_classes - 1)) + 1e-9) for j in range(n_classes)]
    if min(counts) < 1:
        raise ValueError(f"a ratio of {ratio:g} leaves no sample of the last class, from {largest}; lower the ratio")
    return counts


def make_task(
    name: str | Path | Dataset,
    *,
    positive: str | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    imbalance: float | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    split: str = "published",
) -> Task:
    """Build a task from its name, or from a data set of your own.

    Parameters
    ----------
    name : str, Path or Dataset
        ``"<data set>-<class>"`` for that class against the rest, ``"<data set>"`` for all its classes,
        ``"<data set>-lt"`` for all classes with a long tail: see `long_tail_counts`. Or the path of your own data, or
        the return value of `load_data`.
    positive : str, optional
        Of your own data: the class that is compared with the rest. Default: a task with all classes.
    seed : int
        Moves the validation split, and chooses the positives that are kept for `imbalance`.
    validation_fraction : float
        Part of the training split that is held out, stratified by the task's classes and without dividing a group; 0
        holds out nothing. In a long-tailed task it is held out before the tail is cut. A data set with a validation
        split of its own keeps that one whatever the fraction.
    imbalance : float, optional
        Negatives per positive in the training split of a binary task; the other splits keep the natural ratio: see
        `fewer_positives`. Encoders, which see no labels, still learn from the whole training split. In a long-tailed
        task it is the largest class by the smallest, 100 if it is not given (10 for the digits).
    data_dir, image_size : optional
        See `load_data`.
    split : {"published", "image", "fold-0", ..., "fold-4"}
        Division of a set whose images come in groups: see `divided`.

    Raises
    ------
    ValueError
        If the data set or the class does not exist, a split would lack a class, or there are too few positives for
        the wanted imbalance.

    Examples
    --------
    >>> task = make_task("digits-0")
    >>> task.class_names, task.class_counts
    (('not 0', '0'), [1019, 112])
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction is {validation_fraction}; it must be at least 0 and less than 1")
    name, dataset, positive = _named(name, positive, data_dir, image_size)
    dataset = divided(dataset, split)
    long_tail = positive == LONG_TAIL and LONG_TAIL not in dataset.class_names
    class_names, relabel = _classes(name, None if long_tail else positive, dataset)

    def cut(part: str, rows: np.ndarray) -> TaskSplit:
        source = dataset.splits[part]
        # All rows need no copy, so CIFAR is in memory only once.
        kept = source if len(rows) == len(source) else source.take(rows)
        return TaskSplit(kept.inputs, relabel[kept.labels], kept.labels, rows)

    rows = np.arange(len(dataset.train))
    if "val" in dataset.splits:
        val = cut("val", np.arange(len(dataset.splits["val"])))
    elif validation_fraction == 0:
        val = cut("train", rows[:0])
    else:
        groups = (dataset.metadata or {}).get("train", {}).get("group")
        rows, held_out = _hold_out(rows, relabel[dataset.train.labels], groups, validation_fraction, seed, name)
        val = cut("train", held_out)
    if long_tail:
        rows = _long_tail(rows, dataset.train.labels, imbalance or LONG_TAIL_RATIOS.get(dataset.name, LONG_TAIL_RATIO))
    elif imbalance is not None:
        if positive is None:
            raise ValueError(
                f"task {name!r}: imbalance is {imbalance}, which needs a task of one class against the rest"
            )
        rows = fewer_positives(rows, relabel[dataset.train.labels[rows]], imbalance, seed, name)
    test = cut("test", np.arange(len(dataset.test)))
    task = Task(name, class_names, dataset.class_names, cut("train", rows), val, test, dataset)
    for part, split in (("train", task.train), ("val", val), ("test", test)):
        lacking = [class_names[c] for c in set(range(task.n_classes)) - set(split.labels.tolist())]
        if lacking and not (part == "val" and len(split) == 0):
            raise ValueError(f"task {name!r}: the {part} split has no sample of {lacking}")
    return task


def _named(
    name: str | Path | Dataset, positive: str | None, data_dir: str | Path | None, image_size: int | None
) -> tuple[str, Dataset, str | None]:
    """Return a task's name, data set and positive class; a name of the library has priority over a path."""
    options = {"data_dir": data_dir, "image_size": image_size}
    if isinstance(name, str) and (not Path(name).exists() or _is_task(name)):
        dataset_name, named = parse_task(name)
        if positive is not None:
            raise ValueError(f"task {name!r}: positive is {positive!r}, which needs a path; write DATASET-CLASS")
        return name, load_data(dataset_name, **options), named
    dataset = name if isinstance(name, Dataset) else load_data(name, **options)
    if positive is None:
        return dataset.name, dataset, None
    positive = composed(str(positive))
    if positive not in dataset.class_names:
        classes = did_you_mean(positive, dataset.class_names)
        raise ValueError(f"positive is {positive!r}, and {dataset.name} has the classes {classes}")
    return f"{dataset.name}-{positive}", dataset, positive


def _is_task(name: str) -> bool:
    """Tell whether a text that may be a path is a task's name."""
    try:
        dataset, named = parse_task(name)
    except ValueError:
        return False
    return named in (None, LONG_TAIL, *class_names_of(dataset))


def _classes(name: str, positive: str | None, dataset: Dataset) -> tuple[tuple[str, ...], np.ndarray]:
    """Return a task's class names, and its class for each class of the data set."""
    everything = np.arange(len(dataset.class_names))
    if positive is None:
        return dataset.class_names, everything
    if positive not in dataset.class_names:
        raise ValueError(f"task {name!r}: {dataset.name} has no class {positive!r}; it has {dataset.class_names}")
    return (f"not {positive}", positive), (everything == dataset.class_names.index(positive)).astype(np.int64)


def _long_tail(rows: np.ndarray, labels: np.ndarray, ratio: float) -> np.ndarray:
    """Return the rows of a long-tailed training set; they are part of the task, so no seed moves them."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    shuffled = shuffled[np.isin(shuffled, rows)]
    counts = np.bincount(labels[rows])
    wanted = long_tail_counts(int(counts[0]), len(counts), ratio)
    kept = [shuffled[labels[shuffled] == c][:n] for c, n in enumerate(wanted)]
    return np.sort(np.concatenate(kept))


def _hold_out(
    rows: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    try:
        if groups is None:
            train, held_out = train_test_split(rows, test_size=fraction, random_state=seed, stratify=labels)
        else:
            fractions = {"train": 1 - fraction, "val": fraction}
            part = split_by_group(labels, groups, fractions=fractions, seed=seed)
            train, held_out = rows[part == "train"], rows[part == "val"]
            if any(len(np.unique(labels[part == p])) < len(np.unique(labels)) for p in fractions):
                raise ValueError("a class has too few groups of samples that belong together")
    except ValueError as error:
        raise ValueError(f"task {name!r}: a validation split of {fraction:g} cannot be cut ({error})") from error
    return np.sort(train), np.sort(held_out)


def fewer_positives(rows: np.ndarray, labels: np.ndarray, imbalance: float, seed: int, name: str) -> np.ndarray:
    """Return the rows of all negatives and of as many positives (label 1) as the ratio asks for, in their order.

    With one seed, those kept at a higher ratio are among those kept at a lower one. If there are too few positives,
    or none would be left, the error names the task.
    """
    negatives, positives = rows[labels == 0], rows[labels == 1]
    n_kept = round(len(negatives) / imbalance) if imbalance > 0 else len(rows)
    found = f"task {name!r}: imbalance is {imbalance:g}, with {len(negatives)} training negatives"
    if n_kept > len(positives):
        natural = len(negatives) / len(positives)
        raise ValueError(f"{found} and {len(positives)} positives; it must be at least their ratio, {natural:.4g}")
    if n_kept == 0:
        raise ValueError(f"{found} no positive would be left; it must be at most {len(negatives)}")
    kept = np.random.default_rng(seed).permutation(positives)[:n_kept]
    return np.sort(np.concatenate([negatives, kept]))
