"""Tables that scikit-learn brings or the data directory holds, as binary tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from regroup_lib.data.dataset import DataError, Dataset
from regroup_lib.data.ham10000 import ham10000_table
from regroup_lib.data.sources import DIGIT_NAMES, SOURCES
from regroup_lib.files import data_directory, digest_arrays

HIGH_PROGRESSION = 265  # the 90th percentile of the diabetes set: 47 of 442 patients reach it

# ---------------------------------------------------------------- tables


@dataclass(frozen=True)
class Table:
    """A binary task on a table.

    Attributes
    ----------
    name, source : str
        The task, and where its rows come from: tasks of one source are not independent.
    features : DataFrame [n, d]
        Numbers, or text for categories; numbers may be missing (NaN).
    labels : ndarray of int64 [n]
        1 for the positive class.
    digest : str
        SHA-256 of features and labels.
    groups : ndarray of int64 [n], optional
        Rows that belong together, which no fold divides.
    """

    name: str
    source: str
    features: pd.DataFrame
    labels: np.ndarray
    digest: str
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class TableSource:
    """Where rows come from.

    Attributes
    ----------
    classes : tuple of str
        Those that a task may make positive.
    load : callable
        Data directory -> features, and the class name of each row.
    """

    classes: tuple[str, ...]
    load: Callable[[Path], tuple[pd.DataFrame, np.ndarray]]


def _bundled(loader: Callable[..., Any], names: Sequence[str], data_dir: Path) -> tuple[pd.DataFrame, np.ndarray]:
    bunch = loader(as_frame=True)
    return bunch.data, np.array(names)[bunch.target]


def _diabetes(data_dir: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the diabetes patients; who progresses most is the rare class, as a screening would ask."""
    bunch = load_diabetes(as_frame=True, scaled=False)
    return bunch.data, np.where(bunch.target >= HIGH_PROGRESSION, "high", "low")


def _ham10000_metadata(data_dir: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return age, sex and site of HAM10000's lesions, one row per lesion; how the diagnosis was made would tell it."""
    table = ham10000_table(data_dir / SOURCES["ham10000"].published)
    if not table.is_file():
        raise DataError(f"{table} does not exist; run `regroup data fetch ham10000`")
    rows = pd.read_csv(table, sep=None, engine="python").sort_values("image_id").drop_duplicates("lesion_id")
    rows = rows.reset_index(drop=True)
    columns = {"age": rows["age"].astype(float)} | {c: rows[c].astype(str) for c in ("sex", "localization")}
    return pd.DataFrame(columns), rows["dx"].to_numpy(str)


TABLE_SOURCES = {
    "breast-cancer": TableSource(
        ("malignant", "benign"), partial(_bundled, load_breast_cancer, ("malignant", "benign"))
    ),
    "wine": TableSource(("0", "1", "2"), partial(_bundled, load_wine, ("0", "1", "2"))),
    "iris": TableSource(
        ("setosa", "versicolor", "virginica"), partial(_bundled, load_iris, ("setosa", "versicolor", "virginica"))
    ),
    "digits": TableSource(DIGIT_NAMES, partial(_bundled, load_digits, DIGIT_NAMES)),
    "diabetes": TableSource(("high",), _diabetes),
    "ham10000-metadata": TableSource(SOURCES["ham10000"].class_names, _ham10000_metadata),
}


def parse_table_task(task: str) -> tuple[str, str]:
    """Split a task's name into source and positive class.

    Raises
    ------
    ValueError
        If there is no such source or class.

    Examples
    --------
    >>> parse_table_task("breast-cancer-malignant")
    ('breast-cancer', 'malignant')
    """
    source, _, positive = task.rpartition("-")
    if source not in TABLE_SOURCES:
        raise ValueError(
            f"task {task!r}: no table of that name; a task is SOURCE-CLASS with {', '.join(TABLE_SOURCES)}"
        )
    classes = TABLE_SOURCES[source].classes
    if positive not in classes:
        raise ValueError(f"task {task!r}: {source} has no class {positive!r}; it has {', '.join(classes)}")
    return source, positive


def load_table(task: str, *, data_dir: str | Path | None = None) -> Table:
    """Load a task's table.

    Parameters
    ----------
    task : str
        ``"<source>-<class>"`` for a class of `TABLE_SOURCES`.
    data_dir : path, optional
        See `data_directory`; most tables come with scikit-learn and need none.

    Raises
    ------
    ValueError
        If there is no such table or class, or its file is missing.

    Examples
    --------
    >>> table = load_table("iris-versicolor")
    >>> table.features.shape, table.labels.sum()
    ((150, 4), np.int64(50))
    """
    source, positive = parse_table_task(task)
    features, classes = TABLE_SOURCES[source].load(data_directory(data_dir))
    labels = (classes == positive).astype(np.int64)
    columns = [features[name].to_numpy() for name in features]
    digest = digest_arrays(*(c if c.dtype.kind in "fiub" else c.astype(str) for c in columns), labels)
    return Table(task, source, features, labels, digest)


def table_of(dataset: Dataset, positive: str) -> Table:
    """Return a class of a user's table against the rest, all rows in the order of the file.

    Parameters
    ----------
    dataset : Dataset
        A table that `load_data` read. Its split is not used: a table is cross-validated.
    positive : str
        One of its classes.
    """
    columns = {
        name: np.concatenate([dataset.metadata[part][name] for part in dataset.splits])
        for name in dataset.metadata["train"]
    }
    order = np.argsort(columns["row"])
    features = pd.concat([split.inputs for split in dataset.splits.values()]).iloc[order].reset_index(drop=True)
    classes = np.concatenate([split.labels for split in dataset.splits.values()])[order]
    labels = (classes == dataset.class_names.index(positive)).astype(np.int64)
    groups = columns["group"][order] if "group" in columns else None
    return Table(f"{dataset.name}-{positive}", dataset.name, features, labels, dataset.digest, groups)
