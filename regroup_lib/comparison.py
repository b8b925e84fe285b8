"""Regrouping on your own data: compare it with the usual remedies for imbalance, look at the clusters, get advice.

The command ``regroup fit`` and the chapter on your own data both call `compare`.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.metrics import average_precision_score, precision_recall_curve

from regroup_lib import diagnostics, intervals
from regroup_lib.data.dataset import DataError, Dataset
from regroup_lib.data.load import load_data
from regroup_lib.data.own_folders import NO_SPLIT, composed
from regroup_lib.data.sources import DATASETS
from regroup_lib.data.tasks import make_task
from regroup_lib.diagnostics import describe_classes
from regroup_lib.encoders.features import make_encoder
from regroup_lib.files import atomic_path, data_directory
from regroup_lib.intervals import Interval, interval, starred
from regroup_lib.metrics import bootstrap_counts, weighted_average_precisions
from regroup_lib.runs import export, table_methods
from regroup_lib.runs.differences import (
    AVERAGE_PRECISION,
    BALANCED_ACCURACY,
    N_RESAMPLES,
    result_on_test,
    rule_of,
    validation_precision,
)
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.records import Record, find_record
from regroup_lib.runs.specs import OWN, PROFILES, LookSpec, OwnData, Spec, TableSpec, parse_spec
from regroup_lib.runs.sweeps import SweepError, sweep

if TYPE_CHECKING:
    from regroup_lib.runs.saved import Model

logger = logging.getLogger(__name__)

# Title -> the method's identifier.
IMAGE_METHODS = {
    "CE": "ce",
    "WCE": "wce",
    "ROS": "ros",
    "linear probe": "probe",
    "encoder+MLP": "mlp",
    "RG": "rg",
    "RG+WCE": "rg-wce",
}
TABLE_METHODS = {
    "CE": "plain",
    "WCE": "weights",
    "ROS": "ros",
    "balanced forest": "balanced-forest",
    "EasyEnsemble": "easy-ensemble",
    "RG": "rg",
    "RG+WCE": "rg-weights",
}
REGROUPED = ("RG", "RG+WCE")
ESTIMATORS = tuple(table_methods.ESTIMATORS)  # for tables: a linear classifier, and two that are not
BOOSTING = "boosting"  # not regrouped unless it is asked for
DIVERGES = "each round grows a tree for each cluster, and clusters of a few rows can make it diverge"
RULE = "sum"  # the library's default
FEWEST = 10  # samples of a side: with fewer, a validation split or folds are too small
STEPS = 3000  # of the training loop, within the bounds of EPOCHS
EPOCHS = (5, 40)
FEW_POSITIVES = 100  # with fewer, a larger part of the training images is held out for validation
SHOWN_COLUMNS = 15  # of a table, in the map of its clusters
# Title -> color and line style, those of the book.
LOOKS = {
    "CE": ("#000000", "-"),
    "WCE": ("#E69F00", ":"),
    "ROS": ("#009E73", "--"),
    "linear probe": ("#CC79A7", "-"),
    "encoder+MLP": ("#D55E00", ":"),
    "balanced forest": ("#CC79A7", "-"),
    "EasyEnsemble": ("#CC79A7", ":"),
    "RG": ("#0072B2", "-."),
    "RG+WCE": ("#56B4E9", "-"),
}
PIXELS = ("raw", "pca")  # encoders whose clusters follow pixels, not content

# ---------------------------------------------------------------- the runs


def own_data(dataset: Dataset, positive: str, path: str | Path, **reading: Any) -> OwnData:
    """Return the description of a user's data set in a spec; `path` and `reading` as in `load_data`."""
    return OwnData(
        digest=dataset.digest,
        classes=dataset.class_names,
        positive=positive,
        grouped="group" in (dataset.metadata or {}).get("train", {}),
        path=str(Path(path).resolve()),
        **reading,
    )


def own_task(name: str, positive: str) -> str:
    """Return the name of a task on own data; characters but letters, digits and hyphens become underscores.

    Examples
    --------
    >>> own_task("My photos (2)", "cat/dog")
    'own-My_photos__2_-cat_dog'
    """
    return OWN + "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in f"{name}-{positive}")


def table_specs(
    own: OwnData,
    name: str,
    *,
    profile: str,
    seeds: Sequence[int],
    encoder: str | None = None,
    threshold: float | None = None,
    estimators: Sequence[str] | None = None,
    titles: Sequence[str] = tuple(TABLE_METHODS),
) -> list[LookSpec | TableSpec]:
    """Return a look and the runs of a comparison on a table, seed by seed; for the options see `compare`.

    `titles` picks methods of `TABLE_METHODS`.
    """
    common = {"profile": profile, "task": own_task(name, own.positive), "own": own}
    kinds = [
        (title, {"kind": "table", "method": TABLE_METHODS[title], "estimator": estimator})
        for estimator in estimators or ESTIMATORS
        for title in titles
        if estimator in table_methods.METHODS[TABLE_METHODS[title]].estimators
        and (estimators or estimator != BOOSTING or title not in REGROUPED)
    ]
    regrouping = {"encoder": encoder, "threshold": threshold}
    return _specs(common, dict.fromkeys(REGROUPED, regrouping), "rows", kinds, seeds)


def image_specs(
    own: OwnData,
    dataset: Dataset,
    *,
    profile: str,
    seeds: Sequence[int],
    encoder: str = "pca",
    threshold: float | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
) -> list[LookSpec | Spec]:
    """Return a look and the runs of a comparison on images, seed by seed; for the options see `compare`.

    Settings that are not given are those of `image_settings`.
    """
    common = {"profile": profile, "task": own_task(dataset.name, own.positive), "own": own, "image_size": image_size}
    settings = image_settings(dataset, own.positive, profile)
    settings |= {} if epochs is None else {"epochs": epochs}
    kinds = [
        (title, {"validation_fraction": settings["validation_fraction"]} if METHODS[method].features else settings)
        for title, method in IMAGE_METHODS.items()
        if encoder not in PIXELS or not METHODS[method].features
    ]
    kinds = [(title, fields | {"method": IMAGE_METHODS[title]}) for title, fields in kinds]
    clustered = {title: {"encoder": encoder, "threshold": threshold} for title in REGROUPED}
    features = {title: {"encoder": encoder} for title, method in IMAGE_METHODS.items() if METHODS[method].features}
    return _specs(common, clustered | features, "images", kinds, seeds)


def _specs(
    common: dict[str, Any],
    encoded: dict[str, dict[str, Any]],
    holds: str,
    kinds: Sequence[tuple[str, dict[str, Any]]],
    seeds: Sequence[int],
) -> list[Any]:
    """Return the spec of a look, and for each seed one of each kind of run: a title, its fields, those in `encoded`."""
    runs = [
        parse_spec(common | fields | {"seed": s} | encoded.get(title, {})) for s in seeds for title, fields in kinds
    ]
    return [parse_spec(common | encoded["RG"] | {"kind": "look", "holds": holds, "seed": seeds[0]}), *runs]


def image_settings(dataset: Dataset, positive: str, profile: str) -> dict[str, Any]:
    """Return the training settings for a user's images: by their size and number, the same for every method.

    Images are shifted by up to a tenth of their side and not mirrored, as a mirrored image may show another class.
    """
    n, side = len(dataset.train), max(dataset.train.inputs.shape[1:3])
    n_positive = dataset.class_counts()[dataset.class_names.index(positive)]
    batch_size = 64 if n < 5000 else 128
    epochs = min(max(math.ceil(STEPS * batch_size / n), EPOCHS[0]), EPOCHS[1])
    return {
        "network": "tiny-resnet" if side <= 16 else "slim-resnet" if side <= 48 else "slim-resnet-64",
        "epochs": PROFILES["smoke"]["epochs"] if profile == "smoke" else epochs,
        "batch_size": batch_size,
        "peak_lr": 0.1,
        "flip": False,
        "shift": max(1, side // 10),
        "validation_fraction": 0.1 if n_positive >= FEW_POSITIVES else 0.2,
        "trace_test": False,
    }


# ---------------------------------------------------------------- examples


def write_example(name: str, data_dir: str | Path | None = None) -> Path:
    """Write a data set of scikit-learn as files of a user to ``examples/`` of the data directory; return its path.

    Parameters
    ----------
    name : {"digit-scans", "breast-cancer"}
        A folder of PNG files, one subfolder for each digit, or a CSV file whose last column is the diagnosis; another
        name raises a ValueError. Existing files are not overwritten.
    data_dir : path, optional
        Default: see `data_directory`.
    """
    folder = data_directory(data_dir) / "examples"
    if name == "breast-cancer":
        path = folder / "breast-cancer.csv"
        if not path.exists():
            bunch = load_breast_cancer(as_frame=True)
            frame = bunch.data.assign(diagnosis=np.array(["malignant", "benign"])[bunch.target])
            with atomic_path(path) as partial:
                frame.to_csv(partial, index=False)
        return path
    if name == "digit-scans":
        path = folder / "digit-scans"
        if not path.exists():
            _write_digits(path)
        return path
    raise ValueError(f"no example is called {name!r}; there are digit-scans, breast-cancer")


def _write_digits(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scans, digits = load_digits(return_X_y=True)
    pixels = np.rint(scans * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".digit-scans-") as scratch:
        written = Path(scratch) / path.name
        for number, (scan, digit) in enumerate(zip(pixels, digits, strict=True)):
            (written / str(digit)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(scan).save(written / str(digit) / f"{number:04}.png")
        if not path.exists():  # another process may have written it meanwhile
            shutil.move(written, path)


# ---------------------------------------------------------------- the comparison


def compare(
    path: str | Path,
    *,
    positive: str | None = None,
    encoder: str | None = None,
    threshold: float | None = None,
    label: str | None = None,
    image_size: int | None = None,
    allow_missing: bool = False,
    group: str | None = None,
    header: bool = True,
    missing: Sequence[str] = (),
    decimal: str | None = None,
    estimators: Sequence[str] | None = None,
    epochs: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    profile: str = "cpu",
    results_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    workers: int | None = None,
    recompute: bool = False,
) -> Comparison:
    """Compare regrouping with the usual remedies for imbalance on a data set of your own.

    Images train a small network, chosen by their size: CE, WCE, ROS, RG, RG+WCE; with a pre-trained encoder, a linear
    probe and an MLP on its features are compared as well. Each seed holds out a validation split of the training
    images, unless the data have one; choices are made on it, and the test split is measured once. The rows of a table
    are scored by cross-validation, five folds for each seed, each row by a classifier that was not fitted on it: by
    logistic regression, a random forest and gradient boosting with the same remedies, a balanced forest and
    EasyEnsemble. No method is tuned.

    Parameters
    ----------
    path : str or Path
        An npz file, a folder of images or a table: see `load_data`.
    positive : str, optional
        The class that is compared with the rest; default: the smallest.
    encoder : str, optional
        The space of the clusters. For images an encoder of `make_encoder`, default ``"pca"``; for a table ``"pca"``,
        default the columns themselves, imputed and scaled.
    threshold : float, optional
        Classes up to this size are not split; default: the size of the smaller class, as in the paper.
    label, image_size, allow_missing, group, header, missing, decimal : optional
        See `load_data`.
    estimators : sequence of {"logreg", "forest", "boosting"}, optional
        For a table: the classifiers. Default: all, and boosting without regrouping: it grows a tree for each cluster
        in each round, which takes long, and clusters of a few rows can make it diverge.
    epochs : int, optional
        For images; default: by their number, 5 to 40.
    seeds : sequence of int
        One run of each method for each seed. A decision needs at least two, and better more than three.
    profile : {"cpu", "smoke"}
        Where the records are filed; ``"smoke"`` trains a few epochs only.
    results_dir, data_dir, workers, recompute : optional
        See `sweep`. Runs that have a record in the results directory are not repeated.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If the data cannot be read (`DataError`), an option or the class is invalid, or one side of the task has fewer
        than ten samples.
    SweepError
        If all methods have runs that failed; those of some are named in `Comparison.notes`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from regroup_lib.comparison import write_example
    >>> folder = TemporaryDirectory()
    >>> table = write_example("breast-cancer", folder.name)
    >>> comparison = compare(
    ...     table, positive="malignant", estimators=["logreg"], seeds=[0, 1], results_dir=folder.name
    ... )
    >>> comparison.table.index.get_level_values("method").to_list()
    ['CE', 'WCE', 'ROS', 'RG', 'RG+WCE']
    """
    if str(path) in DATASETS:
        raise DataError(f"{str(path)!r} is a data set of the book (`regroup sweep`); a folder of that name is ./{path}")
    seeds = list(dict.fromkeys(seeds))
    estimators = None if estimators is None else tuple(dict.fromkeys(estimators))
    for name, values in (("seeds", seeds), ("estimators", estimators)):
        if values is not None and not values:
            raise ValueError(f"{name} is empty; give at least one")
    if unknown := set(estimators or ()).difference(ESTIMATORS):
        raise ValueError(f"no estimator is called {min(unknown)!r}; there are {', '.join(ESTIMATORS)}")
    # A YAML file may give numbers, such as 5.
    label, group, positive = (None if name is None else composed(str(name)) for name in (label, group, positive))
    missing = (missing,) if isinstance(missing, str) else tuple(map(str, missing))
    reading: dict[str, Any] = {"label": label, "allow_missing": allow_missing, "group": group, "header": header}
    reading |= {"missing": missing, "decimal": decimal}
    dataset = load_data(path, data_dir=data_dir, image_size=image_size, **reading)
    positive = _positive(dataset, positive)
    own = own_data(dataset, positive, path, **reading)
    common: dict[str, Any] = {"profile": profile, "seeds": seeds, "threshold": threshold}
    if dataset.is_table:
        if epochs is not None:
            raise ValueError(f"epochs is {epochs}, and {dataset.name} is a table; leave it out")
        encoder = None if encoder == "raw" else encoder
        if BOOSTING in (estimators or ()):
            logger.warning("boosting is regrouped as well: %s", DIVERGES)
        specs = table_specs(own, dataset.name, encoder=encoder, estimators=estimators, **common)
    else:
        if estimators is not None:
            raise ValueError(f"estimators are {', '.join(estimators)}, and {dataset.name} holds images; leave them out")
        encoder = encoder or "pca"
        if encoder.startswith("onnx:"):
            make_encoder(encoder, data_dir=data_dir)  # an unusable file is an error before anything is trained
        images = {"encoder": encoder, "epochs": epochs, "image_size": image_size}
        specs = image_specs(own, dataset, **images, **common)
        # Data that cannot be divided are an error before anything is trained.
        make_task(dataset, positive=positive, validation_fraction=specs[-1].validation_fraction)
    try:
        records = sweep(specs, workers=workers, results_dir=results_dir, data_dir=data_dir, recompute=recompute)
        return replace(Comparison.of(records), own=own)
    except SweepError as error:
        # The methods of which every run has a record are still compared.
        lacking = {_row(spec) for spec in specs if not spec.path(results_dir).exists()}
        whole = [find_record(spec, results_dir) for spec in specs if _row(spec) not in lacking]
        if all(record.spec.kind != "look" for record in whole):
            raise
        found = replace(Comparison.of(whole), own=own, failed=str(error))
        plain = {classifier for classifier, title in found.groups if title == "CE"}
        rows = [row for row in found.groups if row[0] in plain or (plain and not found.is_table)]
        if not any(title in REGROUPED for _, title in rows):
            raise
        return replace(found, records=tuple(record for row in rows for record in found.groups[row]))


def _positive(dataset: Dataset, positive: str | None) -> str:
    """Return the positive class, the smallest by default, if either side has enough samples and groups."""
    totals = np.sum([dataset.class_counts(part) for part in dataset.splits], axis=0)
    counts = dict(zip(dataset.class_names, totals.tolist(), strict=True))
    if positive is None:
        positive = min(counts, key=counts.get)
    elif positive not in counts:
        close = get_close_matches(positive, counts, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        there = ", ".join(f"{name} ({count})" for name, count in counts.items())
        raise ValueError(f"positive is {positive!r}, and {dataset.name} has the classes {there}{hint}")
    on_side = np.concatenate([part.labels for part in dataset.splits.values()]) == dataset.class_names.index(positive)
    groups = None
    if dataset.is_table and dataset.metadata and "group" in dataset.metadata["train"]:
        groups = np.concatenate([dataset.metadata[part]["group"] for part in dataset.splits])
    for side, chosen in ((positive, on_side), (f"not {positive}", ~on_side)):
        if (count := chosen.sum()) < FEWEST:
            raise ValueError(
                f"the class {side!r} has {count} samples in all; a comparison needs at least {FEWEST} to divide"
            )
        if groups is not None and (count := len(np.unique(groups[chosen]))) < (n_folds := table_methods.N_FOLDS):
            raise ValueError(
                f"the class {side!r} has samples of {count} groups alone; {n_folds} folds need as many at least"
            )
    return positive


@dataclass(frozen=True)
class Chosen:
    """Test scores of a family of methods, with a method chosen for each seed and fold.

    Attributes
    ----------
    labels, folds, scores : list of ndarray [n]
        One array for each seed. Images have one fold.
    picked : Counter
        How often each pair of classifier and method was chosen.
    """

    labels: list[np.ndarray]
    folds: list[np.ndarray]
    scores: list[np.ndarray]
    picked: Counter

    @classmethod
    def of(cls, groups: dict[tuple[str, str], Sequence[Record]], best: np.ndarray) -> Chosen:
        """Take the scores of the group at position `best`, int [seeds, folds], for each seed and fold."""
        labels, folds, scores = [], [], []
        for best_of_seed, records in zip(best, zip(*groups.values(), strict=True), strict=True):
            arrays = [record.arrays() for record in records]
            y = arrays[0]["test_labels"]
            fold = arrays[0].get("folds", np.zeros(len(y), np.uint8))
            diverged = np.full(len(y), np.nan, np.float32)
            names = [f"test_scores_{rule_of(record, RULE)}" for record in records]
            found = np.array([of.get(name, diverged) for of, name in zip(arrays, names, strict=True)])
            labels.append(y)
            folds.append(fold)
            scores.append(found[best_of_seed[fold], np.arange(len(y))])
        keys = list(groups)
        return cls(labels, folds, scores, Counter(keys[position] for position in best.ravel()))

    def _seeds(self) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
        """Yield labels, scores and the masks of the folds for each seed."""
        for y, fold, scores in zip(self.labels, self.folds, self.scores, strict=True):
            yield y, scores, [fold == number for number in np.unique(fold)]

    @cached_property
    def precisions(self) -> np.ndarray:
        """AP of each seed, the mean over folds."""
        return np.array(
            [np.mean([average_precision_score(y[f] == 1, s[f]) for f in folds]) for y, s, folds in self._seeds()]
        )

    @cached_property
    def resampled(self) -> np.ndarray:
        """AP in resamples of the test samples, drawn within their class [seeds, N_RESAMPLES]."""
        rows = []
        for y, scores, folds in self._seeds():
            counts = bootstrap_counts(y, N_RESAMPLES)
            by_fold = [weighted_average_precisions(y[f] == 1, scores[f], counts[:, f]) for f in folds]
            rows.append(np.nanmean(by_fold, axis=0))  # a resample of a fold may have no positives
        return np.array(rows)

    def curves(self, grid: np.ndarray) -> list[np.ndarray]:
        """Return the precision at each recall of `grid`, one curve for each seed and fold; its area is about the AP."""
        curves = []
        for y, scores, folds in self._seeds():
            for f in [] if np.isnan(scores).any() else folds:
                precision, recall, _ = precision_recall_curve(y[f] == 1, scores[f])
                # From the highest score on, without the last point, which scikit-learn appends.
                precision, recall = precision[-2::-1], recall[-2::-1]
                curves.append(precision[np.minimum(np.searchsorted(recall, grid), len(recall) - 1)])
        return curves

    @property
    def most_often(self) -> tuple[tuple[str, str], str]:
        """The classifier and method that were chosen most often, and how often, in words."""
        (row, times), total = self.picked.most_common(1)[0], sum(self.picked.values())
        return row, f"{times} of {total} times" if times < total else "every time"


@dataclass(frozen=True)
class Recommendation:
    """Advice, and the interval that it is based on.

    Attributes
    ----------
    word : {"regroup", "leave the labels as they are", "not worth it", "undecided"}
        The first two only if the interval excludes 0 and there are at least two seeds; else "not worth it" for a table
        whose clusters are not stable.
    text : str
        The advice in sentences, Markdown.
    difference : Interval
        AP of the chosen regrouped method minus that of the chosen other one, in percentage points.
    row : tuple of str
        The recommended classifier and method, by title.
    """

    word: str
    text: str
    difference: Interval
    row: tuple[str, str]

    @property
    def headline(self) -> str:
        """The advice in one sentence."""
        return self.text.split("**")[1]

    def _repr_markdown_(self) -> str:
        return self.text


@dataclass(frozen=True)
class Comparison:
    """The records of one comparison, and the results that follow from them.

    Attributes
    ----------
    look : Record
        Statistics and clusters of the data, before training.
    records : tuple of Record
        One record for each seed, classifier and method.
    own : OwnData, optional
        The data with their path, which records do not have.
    failed : str
        The error of runs that failed; their methods are left out.
    """

    look: Record
    records: tuple[Record, ...]
    own: OwnData | None = None
    failed: str = ""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Comparison:
        """Make a comparison of the records of `compare`'s specs."""
        (look,) = (record for record in records if record.spec.kind == "look")
        return cls(look, tuple(record for record in records if record.spec.kind != "look"))

    # ------------------------------------------------------------ what was compared

    @property
    def name(self) -> str:
        """Data set and positive class."""
        return self.look.spec.task.removeprefix(OWN)

    @property
    def positive(self) -> str:
        """The positive class."""
        return self.look.spec.own.positive

    @property
    def is_table(self) -> bool:
        """Whether the data are a table."""
        return self.look.spec.holds == "rows"

    @cached_property
    def groups(self) -> dict[tuple[str, str], list[Record]]:
        """Records of each classifier and method by title, sorted by seed."""
        titles = {method: title for title, method in (TABLE_METHODS if self.is_table else IMAGE_METHODS).items()}
        found: dict[tuple[str, str], list[Record]] = {}
        for record in sorted(self.records, key=lambda r: r.spec.seed):
            found.setdefault((_classifier(record), titles[record.spec.method]), []).append(record)
        return found

    @cached_property
    def classifiers(self) -> list[str]:
        """Titles of the classifiers, in the order of the records."""
        return list(dict.fromkeys(_classifier(record) for record in self.records))

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        return sorted({record.spec.seed for record in self.records})

    @cached_property
    def chance(self) -> float:
        """AP of a random order: the share of positives among the test samples."""
        return float(self.records[0].arrays()["test_labels"].mean())

    # ------------------------------------------------------------ before training

    @property
    def notes(self) -> list[str]:
        """Notes on data that were left out, converted or divided."""
        notes = self.look.metrics["notes"] + [f"left out, methods with runs that failed: {self.failed}"] * bool(
            self.failed
        )
        if not self.is_table:
            return notes
        notes = [note for note in notes if not note.startswith(NO_SPLIT)]
        whole = ", and no fold divides a group" if self.look.spec.own.grouped else ""
        notes.append(f"every row is scored by cross-validation, five folds for each seed{whole}")
        boosted = {title for classifier, title in self.groups if classifier == table_methods.ESTIMATOR_TITLES[BOOSTING]}
        if boosted and not boosted.intersection(REGROUPED):
            notes.append(f"gradient boosting is not regrouped unless it is named (--estimator {BOOSTING}): {DIVERGES}")
        return notes

    @property
    def class_table(self) -> pd.DataFrame:
        """One row for each class, the largest first: samples in each split, the positive class marked."""
        counts = pd.DataFrame(self.look.metrics["class_counts"])
        if self.is_table:
            counts = counts.sum(axis=1).to_frame("rows")
        counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
        counts["role"] = ["positive" if name == self.positive else "" for name in counts.index]
        return counts.rename_axis("class")

    @property
    def diagnosis(self) -> pd.DataFrame:
        """One row for each class that is split; see `diagnose`."""
        rows = self.look.metrics["diagnosis"]
        return pd.DataFrame(rows).set_index("class") if rows else pd.DataFrame()

    @property
    def outlook(self) -> str:
        """The clusters, and their agreement with known classes, in sentences."""
        space, diagnosis = self.look.spec.encoder or "the columns", self.diagnosis
        text = f"Space of the clusters: {space}. {describe_classes(diagnosis)}"
        if "nmi" in diagnosis:
            name, nmi = diagnosis.index[0], diagnosis["nmi"].iloc[0]
            text += (
                f" The normalized mutual information between the clusters and the classes that make up “{name}” is "
                f"{nmi:.2f} (0: independent, 1: identical)."
            )
        return text

    def plot_clusters(self) -> Figure:
        """Draw the largest clusters: the images nearest to each center, or each center's columns."""
        arrays, parent = self.look.arrays(), self.look.regrouping["parent"]
        counts, shown = self.look.regrouping["counts"], arrays["shown"]
        names = [f"{'not ' * (parent[k] == 0)}{self.positive}: {counts[k]:,}" for k in shown]
        if not self.is_table:
            return diagnostics.plot_image_rows(arrays["examples"], names, "class: images of the cluster")
        return plot_centers(arrays["centers"], names, self.look.metrics["columns"])

    # ------------------------------------------------------------ after training

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each classifier and method: BA, AP and the paired difference of AP to CE, in percent.

        Mean ± standard deviation over seeds; the difference with a 95% interval. Regrouped scores are aggregated by
        sum. Images have one network: the difference of a probe is to its CE.
        """
        rows, differences = [], []
        for (classifier, title), group in self.groups.items():
            row = {"classifier": classifier, "method": title}
            for column, measure in (("BA", BALANCED_ACCURACY), ("AP", AVERAGE_PRECISION)):
                row[column] = _percent(_over_seeds(group, measure))
            rows.append(row)
            plain = self.scores(classifier if self.is_table else self.classifiers[0], "CE")
            ours = self.scores(classifier, title)
            differences.append(None if title == "CE" else self._difference(ours, plain))
        table = pd.DataFrame(rows).assign(**{"AP − CE": starred(differences)})
        return table.set_index(["classifier", "method"])

    def scores(self, classifier: str, title: str) -> Chosen:
        """Return the test scores of one method."""
        group = self.groups[classifier, title]
        return Chosen.of({(classifier, title): group}, np.zeros((len(group), table_methods.N_FOLDS), np.int64))

    def _difference(self, first: Chosen, second: Chosen) -> Interval:
        resampled = 100 * (first.resampled - second.resampled)
        return interval(resampled[:, 0], resampled, n_units=int((first.labels[0] == 1).sum()))

    def chosen(self, titles: Sequence[str]) -> Chosen:
        """Return the test scores of a family of methods, chosen without the scores that are measured.

        For images it is the method with the best AP on the validation split, the mean over seeds; for a table, in each
        fold, the one with the best mean AP on the folds of all seeds without the rows of this fold. Ties go to the
        first method. Methods with a diverged run are not chosen; if all have one, a ValueError is raised.
        """
        candidates = {
            key: group
            for key, group in self.groups.items()
            if key[1] in titles and all(record.status == "finished" for record in group)
        }
        if not candidates:
            raise ValueError(f"{self.name}: no run of {', '.join(titles)} finished with every seed")
        return Chosen.of(candidates, self._best(list(candidates.values())))

    def _best(self, groups: Sequence[Sequence[Record]]) -> np.ndarray:
        """Return the position of the group that is chosen for each seed and fold [seeds, folds]."""
        if not self.is_table:
            best = np.argmax([np.mean([validation_precision(record, RULE) for record in group]) for group in groups])
            return np.full((len(self.seeds), 1), best)
        arrays = [[record.arrays() for record in group] for group in groups]
        positive = arrays[0][0]["test_labels"] == 1
        masks = np.array([of["folds"] == fold for of in arrays[0] for fold in range(table_methods.N_FOLDS)])
        means = []
        for group, found in zip(groups, arrays, strict=True):
            scores = [of[f"test_scores_{rule_of(r, RULE)}"] for r, of in zip(group, found, strict=True)]
            by_fold = [  # AP in each fold, without the rows of each other fold in turn
                weighted_average_precisions(positive[rows], of_seed[rows], ~masks[:, rows])
                for rows, of_seed in zip(masks, np.repeat(scores, table_methods.N_FOLDS, axis=0), strict=True)
            ]
            means.append(np.nanmean(by_fold, axis=0))
        return np.argmax(means, axis=0).reshape(len(self.seeds), -1)

    @cached_property
    def recommendation(self) -> Recommendation:
        """The advice, computed from the records."""
        titles = {title for _, title in self.groups}
        ours, others = self.chosen(REGROUPED), self.chosen(titles.difference(REGROUPED))
        difference, word = self._difference(ours, others), "undecided"
        if len(self.seeds) > 1 and difference.clear:
            word = "regroup" if difference.low > 0 else "leave the labels as they are"
        elif self.is_table and (self.diagnosis.get("stability", pd.Series([0.0])) < diagnostics.STABLE).all():
            word = "not worth it"
        row = (ours if word == "regroup" else others).most_often[0]
        return Recommendation(word, _recommended(self, word, ours, others, difference), difference, row)

    def fit(self, *, data_dir: str | Path | None = None) -> Model:
        """Fit the recommended classifier on the data; see `fit_model`.

        Raises
        ------
        ValueError
            If the comparison was made from records alone, which do not say where the data are.
        """
        from regroup_lib.runs.saved import fit_model

        if self.own is None:
            raise ValueError(f"the path of {self.name} is not in its records; call compare with it, then fit")
        return fit_model(self.groups[self.recommendation.row][0].spec, self.own, data_dir=data_dir)

    def plot_precision_recall(self) -> Figure:
        """Draw the precision-recall curve of each method, the mean over seeds and folds; one panel per classifier."""
        n = len(self.classifiers)
        figure, panels = plt.subplots(
            1, n, figsize=(max(4.4, 2.6 * n), 3.5), sharey=True, squeeze=False, layout="constrained"
        )
        grid = np.linspace(0, 1, 101)
        for axes, classifier in zip(panels[0], self.classifiers, strict=True):
            for title, (color, line) in LOOKS.items():
                if (classifier, title) in self.groups and (curves := self.scores(classifier, title).curves(grid)):
                    axes.plot(grid, np.mean(curves, axis=0), color=color, linestyle=line, label=title)
            axes.axhline(self.chance, color="0.5", linestyle=(0, (1, 3)), linewidth=1.4, label="chance")
            axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=f"recall of “{self.positive}”", title=classifier)
        panels[0, 0].set_ylabel("precision")
        lines = {line.get_label(): line for axes in panels[0] for line in axes.get_legend_handles_labels()[0]}
        figure.legend(handles=lines.values(), loc="outside lower center", ncol=5 if n > 1 else 3, handlelength=3)
        return figure

    # ------------------------------------------------------------ out

    @property
    def provenance(self) -> str:
        """One sentence on the records: number, task, seeds, data and machines."""
        specs = [record.spec for record in self.records]
        trained = "" if self.is_table else f", {specs[0].epochs} epochs of {specs[0].network}"
        machines = sorted({f"{r.machine['cores']} cores {r.machine['architecture']}" for r in self.records})
        return (
            f"{len(self.records) + 1} records, profile {specs[0].profile}, task {self.look.spec.task}, seeds "
            f"{', '.join(map(str, self.seeds))}{trained}; data {self.look.data_digest[:12]}; {', '.join(machines)}."
        )

    def write(self, path: str | Path) -> None:
        """Write the results to a file.

        Parameters
        ----------
        path : str or Path
            ``.json``: table, recommendation and intervals; ``.csv``: one row for each record and aggregation rule.
            Another suffix raises a ValueError.
        """
        path = Path(path)
        check_output(path)
        with atomic_path(path) as partial:
            if path.suffix == ".csv":
                export.records_frame(self.records).to_csv(partial, index=False)
            else:
                partial.write_text(json.dumps(self._summary(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _summary(self) -> dict[str, Any]:
        advice = self.recommendation
        return {
            "task": self.name,
            "positive": self.positive,
            "data_digest": self.look.data_digest,
            "class_counts": self.look.metrics["class_counts"],
            "notes": self.notes,
            "seeds": self.seeds,
            "chance": self.chance,
            "results": [
                {"classifier": classifier, "method": title}
                | {name: _over_seeds(g, name).tolist() for name in (BALANCED_ACCURACY, AVERAGE_PRECISION)}
                for (classifier, title), g in self.groups.items()
            ],
            "recommendation": {
                "word": advice.word,
                "text": advice.text.replace("**", ""),
                "difference": [advice.difference.mean, advice.difference.low, advice.difference.high],
            },
        }


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Return a comparison for each task that the records are about, in their order."""
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.spec.task, []).append(record)
    return [Comparison.of(group) for group in by_task.values()]


def check_output(output: str | Path | None, report: str | Path | None = None, folder: str | Path | None = None) -> None:
    """Raise a ValueError if results, a report and a model cannot be written under these names."""
    for path, suffixes in ((output, (".json", ".csv")), (report, (".html",))):
        if path is not None and Path(path).suffix not in suffixes:
            raise ValueError(f"{path} does not end in {' or '.join(suffixes)}; name a file that does")
        if path is not None and Path(path).is_dir():
            raise ValueError(f"{path} is a folder; name a file")
    if folder is not None and Path(folder).exists():
        raise ValueError(f"{folder} exists; name a new folder for the model, or remove it")


def plot_centers(centers: np.ndarray, names: Sequence[str], columns: Sequence[str]) -> Figure:
    """Draw cluster centers [k, m], in standard deviations from the mean of each column, as a map.

    Of many columns, those whose centers differ most are shown; `names` [k] and `columns` [m] are the labels.
    """
    shown = np.sort(np.argsort(-centers.std(axis=0), kind="stable")[:SHOWN_COLUMNS])
    centers = centers[:, shown]
    figure, axes = plt.subplots(figsize=(3 + 0.4 * len(shown), 2.2 + 0.28 * len(names)))
    picture = axes.imshow(np.clip(centers, -3, 3), cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto")
    axes.set(yticks=range(len(names)), yticklabels=names, ylabel="class: rows of the cluster")
    axes.set_xticks(range(len(shown)), [columns[i] for i in shown], rotation=60, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(centers):
        if abs(value) >= 1:  # a sign for readers who do not distinguish the colors
            color = "white" if abs(value) > 2 else "black"
            axes.text(column, row, "+" if value > 0 else "−", ha="center", va="center", color=color)
    figure.colorbar(picture, ax=axes, label="standard deviations", extend="both")
    return figure


def _classifier(record: Record) -> str:
    spec = record.spec
    if isinstance(spec, TableSpec):
        return table_methods.ESTIMATOR_TITLES[spec.estimator]
    return f"features of {spec.encoder}" if METHODS[spec.method].features else spec.network


def named(row: tuple[str, str]) -> str:
    """Return a classifier and a method as a phrase."""
    classifier, title = row
    if title in ("balanced forest", "EasyEnsemble"):
        return title
    return f"{title} on {classifier}" if classifier.startswith("features") else f"{title} with {classifier}"


def _row(spec: LookSpec | Spec | TableSpec) -> tuple[str | None, str | None]:
    return getattr(spec, "estimator", None), getattr(spec, "method", None)


def _over_seeds(group: Sequence[Record], measure: str) -> np.ndarray:
    return np.array([result_on_test(record, measure, RULE) for record in group])


def _percent(shares: np.ndarray) -> str:
    return intervals.mean_std(shares) if len(shares) > 1 else f"{100 * shares[0]:.1f}"


def _recommended(comparison: Comparison, word: str, ours: Chosen, others: Chosen, difference: Interval) -> str:
    (our_row, our_times), (other_row, other_times) = ours.most_often, others.most_often
    our_name, other_name = named(our_row), named(other_row)
    where = "on the rows of the other folds" if comparison.is_table else "on the validation split"
    heading = {
        "regroup": f"Regroup: {our_name}.",
        "leave the labels as they are": f"Leave the labels as they are: {other_name}.",
        "not worth it": f"Not worth it, as the clusters are not stable: {other_name}.",
        "undecided": f"Undecided, so do without regrouping: {other_name}.",
    }[word]
    positives = int((ours.labels[0] == 1).sum())
    lines = [
        f"**{heading}** Average precision with regrouping: {_percent(ours.precisions)} ({our_name}, chosen "
        f"{our_times}); without: {_percent(others.precisions)} ({other_name}, chosen {other_times}); by chance: "
        f"{100 * comparison.chance:.1f}.",
        f"The difference is {difference} points (95% interval).",
        f"Both sides were chosen {where}. The test samples include {positives} positives.",
    ]
    if len(comparison.seeds) == 1:
        lines.append("One seed has no spread, so the comparison is undecided.")
    elif not difference.clear:
        lines.append("The interval includes 0; more seeds or more positives would narrow it.")
    if comparison.look.spec.encoder in PIXELS and not comparison.is_table:
        lines.append(
            "The clusters are based on pixels; an encoder of image content (clip, or an ONNX file) is worth a try "
            "before regrouping is given up, or relied on."
        )
    return " ".join(lines)
