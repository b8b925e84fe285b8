"""Tables of scikit-learn and of the data directory, as binary tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Table:
    """A binary task on a table.

    `source` is the origin of its rows: tasks of one source are not independent. `features` [n, d] are numbers, NaN
    where one is missing, or text for categories; `labels` are 1 for the positive class; `digest` is the SHA-256 of
    both; no fold divides `groups`, int64 [n], of rows that belong together.
    """

    name: str
    source: str
    features: pd.DataFrame
    labels: np.ndarray
    digest: str
    groups: np.ndarray | None = None


def _diabetes(data_dir: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the diabetes patients; the rare class is those who progress most, as in a screening."""
    bunch = load_diabetes(as_frame=True, scaled=False)
    return bunch.data, np.where(bunch.target >= HIGH_PROGRESSION, "high", "low")


def _ham10000_metadata(data_dir: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return age, sex and site, one row per lesion of HAM10000; another column would reveal the diagnosis."""
    table = ham10000_table(data_dir / SOURCES["ham10000"].published)
    if not table.is_file():
        raise DataError(f"{table} does not exist; run `regroup data fetch ham10000`")
    rows = pd.read_csv(table, sep=None, engine="python").sort_values("image_id").drop_duplicates("lesion_id")
    rows = rows.reset_index(drop=True)
    columns = {"age": rows["age"].astype(float)} | {c: rows[c].astype(str) for c in ("sex", "localization")}
    return pd.DataFrame(columns), rows["dx"].to_numpy(str)


def _bundled(names: Sequence[str], loader: Callable[..., Any]) -> tuple[Sequence[str], Callable]:
    def load(data_dir: Path) -> tuple[pd.DataFrame, np.ndarray]:
        bunch = loader(as_frame=True)
        return bunch.data, np.array(names)[bunch.target]

    return names, load


# Source -> its possible positive classes, and a function that loads the features and the class of each row.
TABLE_SOURCES = {
    "breast-cancer": _bundled(("malignant", "benign"), load_breast_cancer),
    "wine": _bundled(("0", "1", "2"), load_wine),
    "iris": _bundled(("setosa", "versicolor", "virginica"), load_iris),
    "digits": _bundled(DIGIT_NAMES, load_digits),
    "diabetes": (("high",), _diabetes),
    "ham10000-metadata": (SOURCES["ham10000"].class_names, _ham10000_metadata),
}


def parse_table_task(task: str) -> tuple[str, str]:
    """Split a task's name into source and positive class: ``"breast-cancer-malignant"``."""
    source, _, positive = task.rpartition("-")
    if source not in TABLE_SOURCES:
        known = ", ".join(TABLE_SOURCES)
        raise ValueError(f"task {task!r}: no table of that name; a task is SOURCE-CLASS with {known}")
    classes = TABLE_SOURCES[source][0]
    if positive not in classes:
        raise ValueError(f"task {task!r}: {source} has no class {positive!r}; it has {', '.join(classes)}")
    return source, positive


def load_table(task: str, *, data_dir: str | Path | None = None) -> Table:
    """Load a task's table, ``"<source>-<class>"`` for a class of `TABLE_SOURCES`; most come with scikit-learn.

    >>> table = load_table("iris-versicolor")
    >>> table.features.shape, table.labels.sum()
    ((150, 4), np.int64(50))
    """
    source, positive = parse_table_task(task)
    features, classes = TABLE_SOURCES[source][1](data_directory(data_dir))
    labels = (classes == positive).astype(np.int64)
    columns = [features[name].to_numpy() for name in features]
    digest = digest_arrays(*(c if c.dtype.kind in "fiub" else c.astype(str) for c in columns), labels)
    return Table(task, source, features, labels, digest)


def table_of(dataset: Dataset, positive: str) -> Table:
    """Return a class of a user's table against the rest, all rows in the order of the file, to be cross-validated."""
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
