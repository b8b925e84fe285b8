"""The chapter on tables: where regrouping helps, where it does not, and how sure that is.

A contestant is a method with one aggregation rule. AP is that of the positive class, the mean over folds and seeds;
numbers in tables are percent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import f, rankdata, studentized_range

from regroup_book.show import table, task_name, traced
from regroup_lib.data.bundled_tables import parse_table_task
from regroup_lib.intervals import Interval, interval, mean_std, starred
from regroup_lib.metrics import bootstrap_counts, weighted_average_precisions
from regroup_lib.runs.records import AVERAGE_PRECISION, N_RESAMPLES, Record, result_on_test
from regroup_lib.runs.specs import TableSpec
from regroup_lib.runs.table_methods import ESTIMATOR_TITLES, METHODS

REGROUPED = ("rg", "rg-sum", "rg-auto", "rg-weights")
OTHERS = ("weights", "ros", "smote", "kmeans-smote", "cluster-centroids", "balanced-forest")
# Contestant -> method and rule, in the order of the tables.
CONTESTANTS = {
    name: ("rg", "sum") if name == "rg-sum" else (name, METHODS[name].rules[0])
    for name in ("plain", *REGROUPED, "rg-random", *OTHERS)
}
LABELS = {name: METHODS[method].title for name, (method, _) in CONTESTANTS.items()} | {"rg-sum": "RG, sum"}
FORESEEN = ("silhouette", "stability", "minority neighbors")  # numbers known before training


def task_title(spec: TableSpec) -> str:
    """Return how tables and figures name a task: ``"digits (8)"``, or with fewer positives ``"digits (8), 20:1"``."""
    return task_name(spec.task) + ("" if spec.imbalance is None else f", {spec.imbalance:g}:1")


class TableResults:
    """Records of tables by classifier, task and contestant: every method on every task, with the same seeds.

    `estimators` and `tasks` are classifiers and titles of tasks in the order of the records, and `source_of` has the
    source of each task. A method that lacks a record that another one has is refused.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self._groups: dict[tuple[str, str, str], list[Record]] = {}
        for record in sorted(records, key=lambda r: r.spec.seed):
            key = record.spec.estimator, task_title(record.spec), record.spec.method
            self._groups.setdefault(key, []).append(record)
        seeds = {key: [r.spec.seed for r in group] for key, group in self._groups.items()}
        if len(set(map(tuple, seeds.values()))) > 1:
            raise ValueError(f"the methods have different seeds: {seeds}")
        self.estimators = list(dict.fromkeys(r.spec.estimator for r in records))
        self.source_of = {task_title(r.spec): parse_table_task(r.spec.task)[0] for r in records}
        self.tasks = list(self.source_of)
        self.resampled = cache(self._resampled)

    def contestants(self, estimator: str) -> list[str]:
        """Return the contestants that have records with a classifier."""
        methods = {method for e, _, method in self._groups if e == estimator}
        return [name for name, (method, _) in CONTESTANTS.items() if method in methods]

    def group(self, estimator: str, task: str, contestant: str) -> list[Record]:
        """Return one record per seed."""
        return self._groups[estimator, task, CONTESTANTS[contestant][0]]

    def behind(self, estimators: Sequence[str], tasks: Sequence[str], contestants: Sequence[str]) -> list[Record]:
        """Return all records of some classifiers, tasks and contestants, each once."""
        methods = dict.fromkeys(CONTESTANTS[name][0] for name in contestants)
        return [r for e in estimators for task in tasks for method in methods for r in self._groups[e, task, method]]

    def values(self, estimator: str, task: str, contestant: str, measure: str = AVERAGE_PRECISION) -> np.ndarray:
        """Return one number per seed; NaN where the method could not be used."""
        _, rule = CONTESTANTS[contestant]
        return np.array([result_on_test(r, measure, rule) for r in self.group(estimator, task, contestant)])

    def means(self, estimator: str, measure: str = AVERAGE_PRECISION) -> pd.DataFrame:
        """Return means over seeds [tasks, contestants]; NaN where a method could not be used with some seed."""
        names = self.contestants(estimator)
        rows = [[self.values(estimator, task, name, measure).mean() for name in names] for task in self.tasks]
        return pd.DataFrame(rows, index=self.tasks, columns=names)

    def ranks(self, estimator: str, measure: str = AVERAGE_PRECISION) -> pd.DataFrame:
        """Return the contestants' ranks on each task; a method that cannot be used ranks last."""
        return rank_methods(self.means(estimator, measure))

    def _resampled(self, estimator: str, task: str, contestant: str) -> np.ndarray:
        """Return AP, percent, in resamples of the table's rows: [seeds, N_RESAMPLES].

        Rows are drawn within their class, the same for every seed and contestant, so that differences are paired; the
        folds stay, and AP is their mean.
        """
        group, (_, rule) = self.group(estimator, task, contestant), CONTESTANTS[contestant]
        return 100 * np.array([resampled_precisions(r, rule) for r in group])

    def difference(self, task: str, first: tuple[str, str], second: tuple[str, str]) -> Interval:
        """Return the AP of one classifier and contestant minus that of another pair, in points."""
        resampled = self.resampled(first[0], task, first[1]) - self.resampled(second[0], task, second[1])
        positives = int(self.group(first[0], task, "plain")[0].arrays()["test_labels"].sum())
        return interval(resampled[:, 0], resampled, n_units=positives)

    def differences(self, estimator: str, first: str, second: str = "plain") -> dict[str, Interval]:
        """Return the differences of two contestants with one classifier, by task."""
        return {task: self.difference(task, (estimator, first), (estimator, second)) for task in self.tasks}

    def best(self, task: str, contestant: str) -> str:
        """Return the classifier with which a contestant has the highest mean AP."""
        return max(self.estimators, key=lambda estimator: self.values(estimator, task, contestant).mean())

    def free_choice(self) -> dict[str, Interval]:
        """Return by task the AP of RG with its best classifier minus that of the best plain classifier.

        Both are chosen on the same folds, so both sides are equally optimistic.
        """
        pairs = {task: [(self.best(task, name), name) for name in ("rg", "plain")] for task in self.tasks}
        return {task: self.difference(task, *pair) for task, pair in pairs.items()}


def resampled_precisions(record: Record, rule: str) -> np.ndarray:
    """Return a record's AP, mean over folds, in resamples of its rows [N_RESAMPLES]; NaN where it has no scores."""
    if record.status != "finished":
        return np.full(N_RESAMPLES, np.nan)
    arrays = record.arrays()
    labels, folds, scores = arrays["test_labels"], arrays["folds"], arrays[f"test_scores_{rule}"]
    counts = bootstrap_counts(labels, N_RESAMPLES)
    by_fold = [
        weighted_average_precisions(labels[folds == f] == 1, scores[folds == f], counts[:, folds == f])
        for f in np.unique(folds)
    ]
    return np.nanmean(by_fold, axis=0)  # a fold may lose all of its few positives


@dataclass(frozen=True)
class Tally:
    """The tasks on which a contestant is better or worse than another: those whose interval leaves 0 out."""

    better: tuple[str, ...]
    worse: tuple[str, ...]
    n_tasks: int

    @property
    def word(self) -> str:
        """The tally in words; with 95% intervals, one task in forty is better and one worse by chance alone."""
        if self.better and self.worse:
            return "helps on some tables and hurts on others"
        if not (found := self.better or self.worse):
            return "changes little"
        word = "helps" if self.better else "hurts"
        return word if 2 * len(found) >= self.n_tasks else f"{word} on a few tables"

    def __str__(self) -> str:
        return f"{len(self.better)} better, {len(self.worse)} worse"


def tally(differences: Mapping[str, Interval]) -> Tally:
    """Count differences by task."""
    better = tuple(task for task, d in differences.items() if d.low > 0)
    worse = tuple(task for task, d in differences.items() if d.high < 0)
    return Tally(better, worse, len(differences))


# ---------------------------------------------------------------- ranks


def rank_methods(values: pd.DataFrame) -> pd.DataFrame:
    """Return the ranks of methods on each task [tasks, methods]: 1 for the highest value, a mean rank for equal ones.

    Values that differ in the tenth decimal are equal. NaN, a method that could not be used, ranks last.
    """
    ordered = -values.round(9).fillna(-np.inf)
    return pd.DataFrame(rankdata(ordered, axis=1), index=values.index, columns=values.columns)


def ranks_by_source(ranks: pd.DataFrame, sources: Sequence[str]) -> pd.DataFrame:
    """Return each source's mean ranks, ranked again: tasks of one source count once."""
    return rank_methods(-ranks.groupby(list(sources), sort=False).mean())


def critical_difference(n_methods: int, n_tasks: int, alpha: float = 0.05) -> float:
    """Return by how much two mean ranks must differ to tell two methods apart (Nemenyi; Demšar 2006, Section 3.2.2)."""
    quantile = studentized_range.ppf(1 - alpha, n_methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_tasks)))


def friedman(mean_ranks: Sequence[float], n_tasks: int) -> tuple[float, float]:
    """Return F and its p-value of Iman and Davenport's form of Friedman's test: whether methods differ in their ranks.

    Ties are not corrected for, which makes the test conservative (SciPy's ``friedmanchisquare`` does correct).
    Source: Demšar (2006), Section 3.2.2.
    """
    ranks, k = np.asarray(mean_ranks, float), len(mean_ranks)
    chi_square = 12 * n_tasks / (k * (k + 1)) * (float((ranks**2).sum()) - k * (k + 1) ** 2 / 4)
    rest = n_tasks * (k - 1) - chi_square  # 0 where all tasks agree
    statistic = (n_tasks - 1) * chi_square / rest if rest > 0 else float("inf")
    return statistic, float(f.sf(statistic, k - 1, (k - 1) * (n_tasks - 1)))


# ---------------------------------------------------------------- tables


def task_table(results: TableResults) -> pd.DataFrame:
    """Return one row per task: its size, AP by chance, the ratio in training, the natural K, and `FORESEEN`."""
    groups = [results.group(results.estimators[0], task, "rg") for task in results.tasks]
    rows = []
    for task, group in zip(results.tasks, groups, strict=True):
        parent = group[0].regrouping["parent"]
        negatives, positives = np.bincount(parent, group[0].regrouping["counts"]).astype(int)
        labels = group[0].arrays()["test_labels"]
        row = {"task": task, "rows": f"{len(labels):,}", "chance": f"{100 * labels.mean():.1f}"}
        row |= {"training": f"{negatives:,} : {positives:,}", "K": parent.count(0)}
        before = [r.regrouping["before"] for r in group]
        rows.append(row | {name: f"{np.mean([b[name] for b in before]):.2f}" for name in FORESEEN})
    return traced(pd.DataFrame(rows).set_index("task"), groups)


def precision_table(results: TableResults, estimator: str) -> pd.DataFrame:
    """Return AP, mean ± standard deviation over seeds, one row per task, one column per contestant."""
    columns: dict[str, Iterable[Any]] = {"task": results.tasks}
    names = results.contestants(estimator)
    for name in names:
        by_task = [results.values(estimator, task, name) for task in results.tasks]
        columns[LABELS[name]] = [mean_std(found) if np.isfinite(found).all() else "n. a." for found in by_task]
    return table(columns, [results.behind([estimator], [task], names) for task in results.tasks])


def rank_table(results: TableResults, estimator: str) -> pd.DataFrame:
    """Return one row per contestant, the best first: mean ranks, and how often it is better or worse than plain.

    Ranks are by AP over tasks, by AP over sources, and by balanced accuracy over tasks.
    """
    ranks = results.ranks(estimator)
    means, missing = ranks.mean().sort_values(kind="stable"), results.means(estimator).isna().sum()
    by_source = ranks_by_source(ranks, list(results.source_of.values())).mean()
    accuracy = results.ranks(estimator, "balanced_accuracy").mean()
    counted = [tally(results.differences(estimator, name)) for name in means.index]
    columns: dict[str, Iterable[Any]] = {"method": [LABELS[name] for name in means.index]}
    for heading, found in (("mean rank", means), ("mean rank over sources", by_source), ("mean rank by BA", accuracy)):
        columns[heading] = [f"{found[name]:.1f}" for name in means.index]
    columns |= {"better than plain": [len(c.better) for c in counted], "worse": [len(c.worse) for c in counted]}
    columns["could not be used"] = [int(missing[name]) or "" for name in means.index]
    return table(columns, [results.behind([estimator], results.tasks, [name]) for name in means.index])


def reasons_table(results: TableResults) -> pd.DataFrame:
    """Return why methods could not be used: one row per method and reason, with the tasks."""
    columns = ["method", "message", "tasks"]
    refused = [r for r in results.records if r.reason]
    found = [(METHODS[r.spec.method].title, r.reason.split(": ", 1)[1], task_title(r.spec)) for r in refused]
    groups = pd.DataFrame(found, columns=columns).drop_duplicates().groupby(columns[:2], sort=False)["tasks"]
    return groups.agg("; ".join).reset_index().set_index("method")[["tasks", "message"]]


def choice_table(results: TableResults) -> pd.DataFrame:
    """Return, one row per task, the best classifier without and with regrouping, and the difference of their AP."""
    columns: dict[str, Iterable[Any]] = {"task": results.tasks}
    for column, name in (("best, plain", "plain"), ("best, regrouped", "rg")):
        columns[column] = [ESTIMATOR_TITLES[results.best(task, name)] for task in results.tasks]
    columns["AP, regrouped − plain"] = starred(list(results.free_choice().values()))
    return table(columns, [results.behind(results.estimators, [task], ["plain", "rg"]) for task in results.tasks])


# ---------------------------------------------------------------- sentences


def describe_ranks(results: TableResults, estimator: str) -> str:
    """Return what the ranks say about a classifier: whether methods differ, and RG from plain."""
    means, n_tasks = results.ranks(estimator).mean(), len(results.tasks)
    _, p_value = friedman(means, n_tasks)
    needed, by_source = (critical_difference(len(means), n) for n in (n_tasks, len(set(results.source_of.values()))))
    apart = "differ" if abs(means["plain"] - means["rg"]) > needed else "cannot be told apart"
    return (
        f"**{ESTIMATOR_TITLES[estimator].capitalize()}.** RG and the plain classifier {apart} by rank. Friedman's test "
        f"of equal ranks: p {'< 0.001' if p_value < 0.001 else f'= {p_value:.3f}'}. Critical difference: {needed:.1f}, "
        f"or {by_source:.1f} if each source counts once."
    )


def summary_table(results: TableResults) -> pd.DataFrame:
    """Return on how many tasks RG is better and worse, by classifier and with a free choice of classifier."""

    def counted(estimator: str, first: str, second: str = "plain") -> str:
        return str(tally(results.differences(estimator, first, second))) if first in known[estimator] else "not run"

    known = {estimator: results.contestants(estimator) for estimator in results.estimators}
    gains = {ESTIMATOR_TITLES[e]: tally(results.differences(e, "rg")) for e in known}
    gains["the best of them on each task"] = tally(results.free_choice())
    columns = {"classifier": gains, "RG against plain": map(str, gains.values())}
    columns["better on"] = [_sources(found.better) for found in gains.values()]
    columns["worse on"] = [_sources(found.worse) for found in gains.values()]
    columns["RG, K chosen, against plain"] = [*(counted(e, "rg-auto") for e in known), ""]
    columns["RG against random groups"] = [*(counted(e, "rg", "rg-random") for e in known), ""]
    used = ("plain", "rg", "rg-auto", "rg-random")
    behind = [results.behind([e], results.tasks, [name for name in used if name in known[e]]) for e in known]
    return table(columns, [*behind, results.behind(results.estimators, results.tasks, ["plain", "rg"])])


def _sources(tasks: Sequence[str]) -> str:
    """Name the sources of tasks: tasks of one source are one piece of evidence."""
    return ", ".join(dict.fromkeys(task.partition(" (")[0] for task in tasks))
