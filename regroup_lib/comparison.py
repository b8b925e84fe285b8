"""Regrouping on your own data, compared with the usual remedies for imbalance: results and advice, from records alone.

The command ``regroup fit`` and the chapter on own data both call `compare`; `runs.own` says what is run.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve

from regroup_lib import diagnostics, plots
from regroup_lib.data.own_folders import NO_SPLIT
from regroup_lib.diagnostics import describe_classes
from regroup_lib.files import atomic_path
from regroup_lib.intervals import Interval, interval, starred
from regroup_lib.metrics import bootstrap_counts, weighted_average_precisions
from regroup_lib.plots import shortened
from regroup_lib.runs import export, table_methods
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.own import BOOSTING, DIVERGES, FROZEN, IMAGE_METHODS, PIXELS, REGROUPED, TABLE_METHODS, plan
from regroup_lib.runs.records import (
    AVERAGE_PRECISION,
    BALANCED_ACCURACY,
    N_RESAMPLES,
    Record,
    find_record,
    machine_class,
    resampled_on_validation,
    result_on_test,
    rule_of,
)
from regroup_lib.runs.specs import OWN, AnySpec, OwnData, TableSpec
from regroup_lib.runs.sweeps import SweepError, sweep

if TYPE_CHECKING:
    from regroup_lib.runs.saved import Model

RULE = "sum"  # the library's default


def compare(
    path: str | Path,
    *,
    results_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    workers: int | None = None,
    recompute: bool = False,
    **options: Any,
) -> Comparison:
    """Compare regrouping with the usual remedies for imbalance on a data set of your own.

    Images train a small network, chosen by their size: CE, WCE, ROS, RG, RG+WCE; with a pre-trained encoder, a linear
    probe and an MLP on its features, and CE with the features as a second task (CE+features), are compared as well.
    Each seed holds out a validation split of the training images, unless the data have one; choices are made on it, and
    the test split is measured once. The rows of a table are scored by cross-validation, five folds for each seed, each
    row by a classifier that was not fitted on it: by logistic regression, a random forest and gradient boosting with
    the same remedies, a balanced forest and EasyEnsemble. No method is tuned.

    Parameters
    ----------
    path : str or Path
        An npz file, a folder of images or a table: see `load_data`.
    results_dir, data_dir, workers, recompute : optional
        See `sweep`. Runs that have a record in the results directory are not repeated.
    **options
        ``positive``, ``encoder``, ``threshold``, ``estimators``, ``epochs``, ``seeds``, ``profile``, and how the data
        are read: see `plan`, which refuses what is invalid before anything is run.

    Raises
    ------
    SweepError
        If all methods have runs that failed; those of some are named in `Comparison.notes`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn.datasets import load_breast_cancer
    >>> folder = TemporaryDirectory()
    >>> load_breast_cancer(as_frame=True).frame.to_csv(f"{folder.name}/tumors.csv", index=False)
    >>> options = {"positive": "0", "estimators": ["logreg"], "seeds": [0, 1]}
    >>> comparison = compare(f"{folder.name}/tumors.csv", **options, results_dir=folder.name)
    >>> comparison.table.index.get_level_values("method").to_list()
    ['CE', 'WCE', 'ROS', 'RG', 'RG+WCE']
    """
    planned = plan(path, data_dir=data_dir, **options)
    specs, own = planned.specs, planned.own
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
        failed = [f"left out, methods with runs that failed: {self.failed}"] if self.failed else []
        notes = [*self.look.metrics["notes"], *failed]
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
        text = f"Space of the clusters: {space}. {describe_classes(diagnosis.rename(index=shortened))}"
        if "nmi" in diagnosis:
            name, nmi = shortened(diagnosis.index[0]), diagnosis["nmi"].iloc[0]
            text += (
                f" The normalized mutual information between the clusters and the classes that make up “{name}” is "
                f"{nmi:.2f} (0: independent, 1: identical)."
            )
        return text

    def plot_clusters(self) -> Figure:
        """Draw the largest clusters: the images nearest to each center, or each center's columns."""
        arrays, parent = self.look.arrays(), self.look.regrouping["parent"]
        counts, shown = self.look.regrouping["counts"], arrays["shown"]
        names = [f"{'not ' * (parent[k] == 0)}{shortened(self.positive)}: {counts[k]:,}" for k in shown]
        if not self.is_table:
            return diagnostics.plot_image_rows(arrays["examples"], names, "class: images of the cluster")
        return plots.plot_centers(arrays["centers"], names, self.look.metrics["columns"])

    # ------------------------------------------------------------ after training

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each classifier and method: BA, AP and the paired difference in AP from CE, in percent.

        Mean ± standard deviation over seeds; the difference with a 95% interval. Regrouped scores are aggregated by
        sum. Images have one network: the difference of a probe is to its CE.
        """
        rows, differences = [], []
        for (classifier, title), group in self.groups.items():
            measured = [export.percent(_over_seeds(group, name)) for name in (BALANCED_ACCURACY, AVERAGE_PRECISION)]
            rows.append([classifier, title, *measured])
            plain = self.scores(classifier if self.is_table else self.classifiers[0], "CE")
            ours = self.scores(classifier, title)
            differences.append(None if title == "CE" else self._difference(ours, plain))
        table = pd.DataFrame(rows, columns=["classifier", "method", "BA", "AP"])
        return table.assign(**{"AP − CE": starred(differences)}).set_index(["classifier", "method"])

    def scores(self, classifier: str, title: str) -> Chosen:
        """Return the test scores of one method."""
        group = self.groups[classifier, title]
        return Chosen.of({(classifier, title): group}, np.zeros((len(group), table_methods.N_FOLDS), np.int64))

    def _difference(self, first: Chosen, second: Chosen) -> Interval:
        resampled = 100 * (first.resampled - second.resampled)
        return interval(resampled[:, 0], resampled, n_units=int((first.labels[0] == 1).sum()))

    def chosen(self, titles: Sequence[str]) -> Chosen:
        """Return the test scores of a family of methods, chosen without the scores that are measured.

        For a table it is, in each fold, the method with the best mean AP on the folds of all seeds without the rows of
        this fold; ties go to the first. For images it is the simplest method whose AP on the validation split, the mean
        over seeds, is within one standard error of the best (Breiman, Friedman, Olshen & Stone 1984, Section 3.4.3):
        a classifier on frozen features first, then in the order of the records. Methods with a diverged run are not
        chosen; if all have one, a ValueError is raised.
        """
        candidates = {
            key: group
            for key, group in sorted(self.groups.items(), key=lambda item: item[0][1] not in FROZEN)
            if key[1] in titles and all(record.status == "finished" for record in group)
        }
        if not candidates:
            raise ValueError(f"{self.name}: no run of {', '.join(titles)} finished with every seed")
        return Chosen.of(candidates, self._best(list(candidates.values())))

    def _best(self, groups: Sequence[Sequence[Record]]) -> np.ndarray:
        """Return the position of the group that is chosen for each seed and fold [seeds, folds]."""
        if not self.is_table:
            found = np.array([np.mean([resampled_on_validation(r, RULE) for r in group], axis=0) for group in groups])
            behind = found[found[:, 0].argmax()] - found
            return np.full((len(self.seeds), 1), np.argmax(behind[:, 0] <= behind.std(axis=1)))
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
        grid, curves = np.linspace(0, 1, 101), {classifier: {} for classifier in self.classifiers}
        for classifier, title in self.groups:
            if found := self.scores(classifier, title).curves(grid):
                curves[classifier][title] = np.mean(found, axis=0)
        return plots.plot_curves(curves, self.chance, self.positive)

    # ------------------------------------------------------------ out

    @property
    def provenance(self) -> str:
        """One sentence on the records: number, task, seeds, data and machines."""
        specs = [record.spec for record in self.records]
        trained = "" if self.is_table else f", {specs[0].epochs} epochs of {specs[0].network}"
        machines = sorted(set(map(machine_class, self.records)))
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
        advice, measures = self.recommendation, (BALANCED_ACCURACY, AVERAGE_PRECISION)  # diverged runs have none: null
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
                | {name: [None if np.isnan(v) else v for v in _over_seeds(group, name).tolist()] for name in measures}
                for (classifier, title), group in self.groups.items()
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
    """Raise a ValueError if results, a report and a model cannot be written under these names; nothing is made."""
    for path, suffixes in ((output, (".json", ".csv")), (report, (".html",))):
        if path is not None and Path(path).suffix not in suffixes:
            raise ValueError(f"{path} does not end in {' or '.join(suffixes)}; name a file that does")
        if path is not None and Path(path).is_dir():
            raise ValueError(f"{path} is a folder; name a file")
        if None not in (path, folder) and Path(folder).resolve() in Path(path).resolve().parents:
            raise ValueError(f"{path} is inside {folder}, which is to be a new folder for the model; name another file")
    if folder is not None and os.path.lexists(folder):
        raise ValueError(f"{folder} exists; name a new folder for the model, or remove it")
    for path in filter(None, (output, report, folder)):
        there = next(parent for parent in Path(path).absolute().parents if os.path.lexists(parent))
        if not there.is_dir():
            raise ValueError(f"{path} cannot be written, as {there} is no folder; name another place")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"{path} cannot be written, as nothing may be written to {there}; name another place")


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


def _row(spec: AnySpec) -> tuple[str | None, str | None]:
    return getattr(spec, "estimator", None), getattr(spec, "method", None)


def _over_seeds(group: Sequence[Record], measure: str) -> np.ndarray:
    return np.array([result_on_test(record, measure, RULE) for record in group])


def _recommended(comparison: Comparison, word: str, ours: Chosen, others: Chosen, difference: Interval) -> str:
    (our_row, our_times), (other_row, other_times) = ours.most_often, others.most_often
    our_name, other_name = named(our_row), named(other_row)
    where = "on the rows of the other folds"
    if not comparison.is_table:
        where = "on the validation split, as the simplest within one standard error of the best"
    heading = {
        "regroup": f"Regroup: {our_name}.",
        "leave the labels as they are": f"Leave the labels as they are: {other_name}.",
        "not worth it": f"Not worth it, because the clusters are not stable: use {other_name}.",
        "undecided": f"Undecided, so do without regrouping: {other_name}.",
    }[word]
    positives = int((ours.labels[0] == 1).sum())
    lines = [
        f"**{heading}** Average precision with regrouping: {export.percent(ours.precisions)} ({our_name}, chosen "
        f"{our_times}); without: {export.percent(others.precisions)} ({other_name}, chosen {other_times}); by chance: "
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
