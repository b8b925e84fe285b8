"""What records of tables say: where regrouping helps one, where it does not, and how sure that is.

A contestant is a method with one aggregation rule. AP is that of the positive class, the mean over folds and seeds;
numbers in tables are percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import chi2, f, rankdata, studentized_range

from regroup_book.method_tables import draw_interval
from regroup_book.show import Style, traced
from regroup_lib.data.bundled_tables import parse_table_task
from regroup_lib.intervals import Interval, interval, starred
from regroup_lib.metrics import bootstrap_counts, weighted_average_precisions
from regroup_lib.runs.differences import AVERAGE_PRECISION, N_RESAMPLES
from regroup_lib.runs.records import Record
from regroup_lib.runs.specs import TableSpec
from regroup_lib.runs.table_methods import ESTIMATOR_TITLES, METHODS

# Contestant -> method and rule.
CONTESTANTS = {
    "plain": ("plain", "none"),
    "rg": ("rg", "max"),
    "rg-sum": ("rg", "sum"),
    "rg-auto": ("rg-auto", "max"),
    "rg-weights": ("rg-weights", "max"),
    "rg-random": ("rg-random", "max"),
    "weights": ("weights", "none"),
    "ros": ("ros", "none"),
    "smote": ("smote", "none"),
    "kmeans-smote": ("kmeans-smote", "none"),
    "cluster-centroids": ("cluster-centroids", "none"),
    "balanced-forest": ("balanced-forest", "none"),
}
REGROUPED = ("rg", "rg-sum", "rg-auto", "rg-weights")
# What regroups is blue, what leaves the data alone black, the control orange, the rest grey.
STYLES = {
    name: Style(METHODS[method].title + (", sum" if rule == "sum" else ""), "#555555", "-", ".")
    for name, (method, rule) in CONTESTANTS.items()
}
STYLES |= {name: Style(STYLES[name].label, "#0072B2", "-", "X") for name in REGROUPED}
STYLES |= {"plain": Style("plain", "#000000", "-", "o"), "rg-random": Style("random groups", "#B26A00", ":", "v")}
FORESEEN = ("silhouette", "stability", "minority neighbors")  # numbers known before training


def task_title(spec: TableSpec) -> str:
    """Return how tables and figures name a task: ``"digits-8"``, or with fewer positives ``"digits-8, 20:1"``."""
    return spec.task if spec.imbalance is None else f"{spec.task}, {spec.imbalance:g}:1"


@dataclass
class TableResults:
    """Records of tables by classifier, task and contestant.

    Parameters
    ----------
    records : sequence of Record
        Every method of a classifier on every task, with the same seeds.

    Raises
    ------
    ValueError
        If a method lacks a record that another one has.
    """

    records: Sequence[Record]

    def __post_init__(self) -> None:
        groups: dict[tuple[str, str, str], list[Record]] = {}
        for record in sorted(self.records, key=lambda r: r.spec.seed):
            groups.setdefault((record.spec.estimator, task_title(record.spec), record.spec.method), []).append(record)
        seeds = {key: [r.spec.seed for r in group] for key, group in groups.items()}
        if len(set(map(tuple, seeds.values()))) > 1:
            raise ValueError(f"the methods have different seeds: {seeds}")
        self._groups = groups

    @cached_property
    def estimators(self) -> list[str]:
        """Classifiers, in the order of the records."""
        return list(dict.fromkeys(record.spec.estimator for record in self.records))

    @cached_property
    def tasks(self) -> list[str]:
        """Titles of the tasks, in the order of the records."""
        return list(dict.fromkeys(task_title(record.spec) for record in self.records))

    @cached_property
    def sources(self) -> list[str]:
        """The source of each task."""
        names = {task_title(record.spec): parse_table_task(record.spec.task)[0] for record in self.records}
        return [names[task] for task in self.tasks]

    def contestants(self, estimator: str) -> list[str]:
        """Return the contestants that have records with a classifier."""
        methods = {method for e, _, method in self._groups if e == estimator}
        return [name for name, (method, _) in CONTESTANTS.items() if method in methods]

    def group(self, estimator: str, task: str, method: str) -> list[Record]:
        """Return a record a seed."""
        return self._groups[estimator, task, method]

    def behind(self, estimators: Sequence[str], tasks: Sequence[str], contestants: Sequence[str]) -> list[Record]:
        """Return all records of some classifiers, tasks and contestants, each once."""
        methods = dict.fromkeys(CONTESTANTS[name][0] for name in contestants)
        return [r for e in estimators for task in tasks for method in methods for r in self.group(e, task, method)]

    def values(self, estimator: str, task: str, contestant: str, measure: str = AVERAGE_PRECISION) -> np.ndarray:
        """Return a number a seed; NaN where the method could not be used."""
        method, rule = CONTESTANTS[contestant]
        group = self.group(estimator, task, method)
        return np.array(
            [r.metrics[rule]["test"]["summary"][measure] if r.status == "finished" else np.nan for r in group]
        )

    def means(self, estimator: str, measure: str = AVERAGE_PRECISION) -> pd.DataFrame:
        """Return means over seeds [tasks, contestants]; NaN where a method could not be used with some seed."""
        names = self.contestants(estimator)
        rows = [[self.values(estimator, task, name, measure).mean() for name in names] for task in self.tasks]
        return pd.DataFrame(rows, index=self.tasks, columns=names)

    def ranks(self, estimator: str, measure: str = AVERAGE_PRECISION) -> pd.DataFrame:
        """Return the contestants' ranks on each task; a method that cannot be used ranks last."""
        return rank_methods(self.means(estimator, measure))

    def test(self, estimator: str) -> Friedman:
        """Return Friedman's test of a classifier's contestants."""
        return friedman(self.ranks(estimator).mean().to_list(), len(self.tasks))

    @cached_property
    def _resampled(self) -> dict[tuple[str, str, str], np.ndarray]:
        return {}

    def resampled(self, estimator: str, task: str, contestant: str) -> np.ndarray:
        """Return AP, percent, in resamples of the table's rows: [seeds, N_RESAMPLES].

        Rows are drawn within their class, the same for every seed and contestant, so that differences are paired; the
        folds stay, and AP is their mean.
        """
        key = estimator, task, contestant
        if key not in self._resampled:
            method, rule = CONTESTANTS[contestant]
            group = self.group(estimator, task, method)
            self._resampled[key] = 100 * np.array([resampled_precisions(record, rule) for record in group])
        return self._resampled[key]

    def positives(self, task: str) -> int:
        """Return how many rows of a task's table are positive."""
        return int(self.group(self.estimators[0], task, "plain")[0].arrays()["test_labels"].sum())

    def difference(self, estimator: str, task: str, first: str, second: str = "plain") -> Interval:
        """Return the AP of one contestant minus that of another, in points."""
        first, second = (self.resampled(estimator, task, name) for name in (first, second))
        return interval((first - second)[:, 0], first - second, n_units=self.positives(task))

    def differences(self, estimator: str, first: str, second: str = "plain") -> dict[str, Interval]:
        """Return `difference` by task."""
        return {task: self.difference(estimator, task, first, second) for task in self.tasks}


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
    """On how many tasks a contestant is better or worse than another, an interval that leaves 0 out deciding."""

    better: tuple[str, ...]
    worse: tuple[str, ...]
    n_tasks: int

    @property
    def word(self) -> str:
        """What that amounts to: with an interval of 95% a task, one in forty is better or worse by chance alone."""
        if self.better and self.worse:
            return "helps and hurts"
        for found, word in ((self.better, "helps"), (self.worse, "hurts")):
            if found:
                return word if 2 * len(found) >= self.n_tasks else f"{word} on a few tables"
        return "changes little"

    def __str__(self) -> str:
        open_tasks = self.n_tasks - len(self.better) - len(self.worse)
        return f"better on {len(self.better)}, worse on {len(self.worse)}, undecided on {open_tasks} of {self.n_tasks}"


def tally(differences: Mapping[str, Interval]) -> Tally:
    """Count differences by task."""
    better = tuple(task for task, d in differences.items() if d.low > 0)
    worse = tuple(task for task, d in differences.items() if d.high < 0)
    return Tally(better, worse, len(differences))


# ---------------------------------------------------------------- tables


def _percent(values: np.ndarray) -> str:
    if not np.isfinite(values).all():
        return "n. a."
    deviation = f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.1f}{deviation}"


def task_table(results: TableResults) -> pd.DataFrame:
    """Return one row a task: its size, AP by chance, the ratio in training, the natural K, and what was foreseen."""
    groups = [results.group(results.estimators[0], task, "rg") for task in results.tasks]
    rows = []
    for task, group in zip(results.tasks, groups, strict=True):
        counts, parent = (np.array(group[0].regrouping[name]) for name in ("counts", "parent"))
        negatives, positives = (int(counts[parent == c].sum()) for c in (0, 1))
        labels = group[0].arrays()["test_labels"]
        row = {"task": task, "rows": f"{len(labels):,}", "chance": f"{100 * labels.mean():.1f}"}
        row |= {"training": f"{negatives:,} : {positives:,}", "K": int((parent == 0).sum())}
        before = [r.regrouping["before"] for r in group]
        row |= {name: f"{np.mean([b[name] for b in before]):.2f}" for name in FORESEEN}
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index("task"), groups)


def precision_table(results: TableResults, estimator: str) -> pd.DataFrame:
    """Return AP, mean ± standard deviation over seeds, one row a task, one column a contestant."""
    rows = {
        task: {
            STYLES[name].label: _percent(results.values(estimator, task, name))
            for name in results.contestants(estimator)
        }
        for task in results.tasks
    }
    groups = [results.behind([estimator], [task], results.contestants(estimator)) for task in results.tasks]
    return traced(pd.DataFrame.from_dict(rows, orient="index").rename_axis("task"), groups)


def rank_table(results: TableResults, estimator: str) -> pd.DataFrame:
    """Return one row a contestant, the best first: mean ranks, and how often it is better or worse than plain.

    Ranks are by AP over tasks, by AP over sources, and by balanced accuracy over tasks.
    """
    ranks = results.ranks(estimator)
    by_source = ranks_by_source(ranks, results.sources).mean()
    accuracy = results.ranks(estimator, "balanced_accuracy").mean()
    missing = results.means(estimator).isna().sum()
    names = list(ranks.mean().sort_values(kind="stable").index)
    rows = []
    for name in names:
        counted = tally(results.differences(estimator, name))
        row = {"method": STYLES[name].label, "mean rank": f"{ranks[name].mean():.1f}"}
        row |= {"mean rank over sources": f"{by_source[name]:.1f}", "mean rank by BA": f"{accuracy[name]:.1f}"}
        row |= {"better than plain": len(counted.better), "worse": len(counted.worse)}
        rows.append(row | {"could not be used": int(missing[name]) or ""})
    groups = [results.behind([estimator], results.tasks, [name]) for name in names]
    return traced(pd.DataFrame(rows).set_index("method"), groups)


def reasons_table(results: TableResults) -> pd.DataFrame:
    """Return why methods could not be used: one row a method and reason, with the tasks."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in results.records:
        if record.reason:
            reason = record.reason.split(": ", 1)[1]
            found.setdefault((METHODS[record.spec.method].title, reason), []).append(task_title(record.spec))
    rows = [
        {"method": method, "tasks": "; ".join(dict.fromkeys(tasks)), "it says": reason}
        for (method, reason), tasks in found.items()
    ]
    return pd.DataFrame(rows, columns=["method", "tasks", "it says"]).set_index("method")


def choice_table(results: TableResults) -> pd.DataFrame:
    """Return, one row a task, the best classifier without and with regrouping, and the difference of their AP.

    The best is the one with the highest mean AP on the same folds, so both sides are equally optimistic.
    """
    rows, differences = [], []
    for task, (plain, regrouped, difference) in best_of(results).items():
        row = {"task": task, "best, plain": ESTIMATOR_TITLES[plain]}
        rows.append(row | {"best, regrouped": ESTIMATOR_TITLES[regrouped]})
        differences.append(difference)
    groups = [results.behind(results.estimators, [task], ["plain", "rg"]) for task in results.tasks]
    table = pd.DataFrame(rows).assign(**{"AP, regrouped − plain": starred(differences)})
    return traced(table.set_index("task"), groups)


def best_of(results: TableResults) -> dict[str, tuple[str, str, Interval]]:
    """Return each task's best classifier without and with regrouping (RG, max), and the difference of their AP."""
    found = {}
    for task in results.tasks:
        plain, regrouped = (
            max(results.estimators, key=lambda e, n=name: results.values(e, task, n).mean()) for name in ("plain", "rg")
        )
        difference = results.resampled(regrouped, task, "rg") - results.resampled(plain, task, "plain")
        found[task] = plain, regrouped, interval(difference[:, 0], difference, n_units=results.positives(task))
    return found


# ---------------------------------------------------------------- figures


def plot_gains(results: TableResults, first: str = "rg", second: str = "plain") -> Figure:
    """Draw a contestant's gain in AP over another on every task, with its interval, one panel a classifier."""
    n = len(results.estimators)
    figure, panels = plt.subplots(
        1, n, figsize=(2.4 + 2.2 * n, 1.1 + 0.26 * len(results.tasks)), sharey=True, squeeze=False
    )
    height = np.arange(len(results.tasks))[::-1]
    for axes, estimator in zip(panels[0], results.estimators, strict=True):
        for y, difference in zip(height, results.differences(estimator, first, second).values(), strict=True):
            draw_interval(axes, y, difference)
        axes.axvline(0, color="0.3", linewidth=1)
        axes.set_title(ESTIMATOR_TITLES[estimator])
    panels[0, 0].set(yticks=height, yticklabels=results.tasks)
    figure.supxlabel(f"AP, {STYLES[first].label} − {STYLES[second].label}, percentage points", fontsize=10)
    return figure


# ---------------------------------------------------------------- sentences


def describe_ranks(results: TableResults, estimator: str) -> str:
    """Return what the ranks say of a classifier: do methods differ, and RG from plain."""
    test, means = results.test(estimator), results.ranks(estimator).mean()
    n_sources = len(set(results.sources))
    needed = critical_difference(len(means), len(results.tasks))
    found = means["plain"] - means["rg"]
    apart = "far enough" if abs(found) > needed else "too close"
    by_source = critical_difference(len(means), n_sources)
    return (
        f"**{ESTIMATOR_TITLES[estimator].capitalize()}.** Friedman's test that all {len(means)} are alike: "
        f"p {_probability(test.p_f)} over {len(results.tasks)} tasks. "
        f"RG ranks {means['rg']:.1f}, plain {means['plain']:.1f}; {apart} to tell them apart, as that takes "
        f"{needed:.1f} (over {n_sources} sources {by_source:.1f})."
    )


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def verdict_on(results: TableResults, estimator: str) -> str:
    """Return a classifier's answer in one paragraph: RG against plain, against its control, and its place."""
    counted = tally(results.differences(estimator, "rg"))
    control = tally(results.differences(estimator, "rg", "rg-random"))
    means = results.ranks(estimator).mean().sort_values(kind="stable")
    others = means.drop(labels=[name for name in (*REGROUPED, "rg-random") if name in means])
    place = list(means.index).index("rg") + 1
    text = f"**{ESTIMATOR_TITLES[estimator].capitalize()}: regrouping {counted.word}.** RG against plain: {counted}."
    if "rg-auto" in means:
        text += f" With K chosen by cross-validation: {tally(results.differences(estimator, 'rg-auto'))}."
    if counted.better:
        text += f" RG is better on {_listed(results, counted.better)}."
    if counted.worse:
        text += f" RG is worse on {_listed(results, counted.worse)}."
    text += f" Against random groups of equal size: {control}."
    if counted.better and not control.better:
        text += " So nothing says that it is the clusters that help."
    return text + (
        f" By mean rank RG is number {place} of {len(means)}; the best that does not regroup is "
        f"{STYLES[others.index[0]].label} ({others.iloc[0]:.1f}; RG {means['rg']:.1f})."
    )


def _listed(results: TableResults, tasks: Sequence[str]) -> str:
    """Return tasks with the number of their sources: tasks of one source are one piece of evidence."""
    source_of = dict(zip(results.tasks, results.sources, strict=True))
    n_sources = len({source_of[task] for task in tasks})
    return f"{'; '.join(tasks)} ({n_sources} of {len(set(results.sources))} sources)"


def headline(results: TableResults) -> str:
    """Return the answer in one sentence: what regrouping does to each classifier."""
    found = {e: tally(results.differences(e, "rg")) for e in results.estimators}
    parts = [f"{ESTIMATOR_TITLES[e]}: {t.word} ({t})" for e, t in found.items()]
    text = "; ".join(parts)
    return f"**Regrouping against the plain classifier, on {len(results.tasks)} tasks.** {text[0].upper()}{text[1:]}."


def summary(results: TableResults) -> str:
    """Return the answer as a Markdown list: one point a classifier, then what a free choice of classifier gains."""
    points = [verdict_on(results, estimator) for estimator in results.estimators]
    if len(results.estimators) > 1:
        points.append(_free_choice(results))
    return "\n".join(f"- {point}" for point in points)


def headroom(results: TableResults, enough: float = 0.99) -> str:
    """Say on how many tasks the best plain classifier leaves nothing to gain."""
    best = [max(results.values(e, task, "plain").mean() for e in results.estimators) for task in results.tasks]
    full = sum(value >= enough for value in best)
    return (
        f"On {full} of {len(best)} tasks the best plain classifier has an AP of {100 * enough:.0f} or more: nothing is "
        "left to gain there."
    )


def describe_records(results: TableResults) -> str:
    """Return one sentence: how many records, with which seeds, how many of methods that could not be used."""
    records = results.records
    seeds = ", ".join(map(str, sorted({r.spec.seed for r in records})))
    refused = sum(r.status != "finished" for r in records)
    machines = sorted({f"{r.machine['cores']} cores {r.machine['architecture']}" for r in records})
    return (
        f"{len(records)} records, profile {records[0].spec.profile}, seeds {seeds}; "
        f"{refused} of methods that could not be used; {', '.join(machines)}."
    )


def _free_choice(results: TableResults) -> str:
    """Say what regrouping adds for someone who may take the best of the classifiers."""
    best = best_of(results)
    counted = tally({task: difference for task, (_, _, difference) in best.items()})
    text = f"**With the best classifier of each: regrouping {counted.word}.** The best regrouped one is {counted}."
    if counted.better:
        text += f" It is better on {_listed(results, counted.better)}."
    return text + (f" It is worse on {_listed(results, counted.worse)}." if counted.worse else "")


DIGITS = 9  # of a value; what differs by less is rounding and shares a rank


def rank_methods(values: pd.DataFrame) -> pd.DataFrame:
    """Return the ranks of methods on each task: 1 for the highest value, equal values share the mean of their ranks.

    Parameters
    ----------
    values : DataFrame [tasks, methods]
        The higher the better. NaN, a method that could not be used, ranks last.

    Examples
    --------
    >>> rank_methods(pd.DataFrame({"a": [0.9, 0.5], "b": [0.8, 0.5], "c": [0.7, float("nan")]})).values.tolist()
    [[1.0, 2.0, 3.0], [1.5, 1.5, 3.0]]
    """
    ordered = -values.round(DIGITS).fillna(-np.inf)
    return pd.DataFrame(rankdata(ordered, axis=1), index=values.index, columns=values.columns)


def ranks_by_source(ranks: pd.DataFrame, sources: Sequence[str]) -> pd.DataFrame:
    """Return each source's mean ranks, ranked again: one row a source, so that tasks of one source count once."""
    means = ranks.groupby(list(sources), sort=False).mean()
    return rank_methods(-means)


def critical_difference(n_methods: int, n_tasks: int, alpha: float = 0.05) -> float:
    """Return by how much two mean ranks must differ to tell two methods apart, all pairs being compared (Nemenyi).

    Parameters
    ----------
    n_methods, n_tasks : int
        At least 2 and 1.
    alpha : float

    References
    ----------
    Demšar (2006), Statistical comparisons of classifiers over multiple data sets, Section 3.2.2.

    Examples
    --------
    >>> round(critical_difference(4, 14), 2), round(critical_difference(4, 14, alpha=0.1), 2)
    (1.25, 1.12)
    """
    if n_methods < 2 or n_tasks < 1:
        raise ValueError(f"{n_methods} methods on {n_tasks} tasks; expected at least 2 on 1")
    quantile = studentized_range.ppf(1 - alpha, n_methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_tasks)))


@dataclass(frozen=True)
class Friedman:
    """Friedman's test that all methods are alike, and Iman and Davenport's less conservative form of it."""

    chi_square: float
    p_chi_square: float
    f_statistic: float
    p_f: float


def friedman(mean_ranks: Sequence[float], n_tasks: int) -> Friedman:
    """Test whether methods differ in their ranks at all.

    Parameters
    ----------
    mean_ranks : sequence of float [k]
        Of all methods over the tasks.
    n_tasks : int
        At least 2.

    Notes
    -----
    Ties are not corrected for, which makes the test conservative.

    References
    ----------
    Demšar (2006), Section 3.2.2.
    """
    ranks = np.asarray(mean_ranks, float)
    k = len(ranks)
    if k < 2 or n_tasks < 2:
        raise ValueError(f"{k} methods on {n_tasks} tasks; expected at least 2 on 2")
    statistic = 12 * n_tasks / (k * (k + 1)) * (float((ranks**2).sum()) - k * (k + 1) ** 2 / 4)
    rest = n_tasks * (k - 1) - statistic  # 0 where all tasks agree
    f_statistic = (n_tasks - 1) * statistic / rest if rest > 0 else float("inf")
    p_f = float(f.sf(f_statistic, k - 1, (k - 1) * (n_tasks - 1)))
    return Friedman(statistic, float(chi2.sf(statistic, k - 1)), f_statistic, p_f)


def cliques(mean_ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Return the largest runs of methods that the critical difference does not tell apart.

    Parameters
    ----------
    mean_ranks : sequence of float
        In ascending order.
    difference : float

    Returns
    -------
    list of (int, int)
        First and last position of each run of two or more; none lies within another.

    Examples
    --------
    >>> cliques([1.0, 1.5, 2.4, 4.0], 1.0)
    [(0, 1), (1, 2)]
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(mean_ranks):
        last = max(i for i, other in enumerate(mean_ranks) if other - rank <= difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def plot_ranks(panels: Mapping[str, tuple[pd.Series, int]], styles: Mapping[str, Style]) -> Figure:
    """Draw mean ranks with the critical difference, one panel a group of methods that were compared.

    Parameters
    ----------
    panels : mapping of str to (Series, int)
        Title -> mean rank of each method, and the number of tasks.
    styles : mapping of str to Style
        How each method looks.
    """
    rows = [-(-len(ranks) // 2) for ranks, _ in panels.values()]
    heights = [0.8 + 0.22 * n for n in rows]
    figure, all_axes = plt.subplots(
        len(panels), 1, figsize=(7.6, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    longest = max(len(ranks) for ranks, _ in panels.values())
    for axes, (title, (ranks, n_tasks)) in zip(all_axes[:, 0], panels.items(), strict=True):
        _rank_panel(axes, ranks.sort_values(kind="stable"), n_tasks, styles, longest)
        axes.set_title(title, loc="left")
    return figure


def _rank_panel(axes: Axes, ranks: pd.Series, n_tasks: int, styles: Mapping[str, Style], longest: int) -> None:
    """Draw one axis of ranks: better methods are named on the left, the others on the right."""
    difference = critical_difference(len(ranks), n_tasks)
    half = -(-len(ranks) // 2)
    bars = cliques(ranks.to_list(), difference)
    top = 0.45 * len(bars) + 0.6  # where the names begin, below the bars
    axes.axis("off")
    axes.set(xlim=(-1.6, longest + 2.6), ylim=(top + half, -2.1))
    axes.plot([1, len(ranks)], [0, 0], color="0.2", linewidth=1)
    for tick in range(1, len(ranks) + 1):
        axes.plot([tick, tick], [-0.14, 0], color="0.2", linewidth=1)
        axes.text(tick, -0.3, str(tick), ha="center", va="bottom", fontsize=8)
    axes.plot([1, 1 + difference], [-1.6, -1.6], color="0.2", linewidth=2, marker="|", markersize=6)
    axes.text(1.15 + difference, -1.6, f"critical difference {difference:.1f}", va="center", fontsize=8)
    for row, (first, last) in enumerate(bars):
        ends = [ranks.iloc[first] - 0.06, ranks.iloc[last] + 0.06]
        axes.plot(ends, [0.4 + 0.45 * row] * 2, color="0.45", linewidth=3, solid_capstyle="butt")
    for position, (name, rank) in enumerate(ranks.items()):
        on_left = position < half
        height = top + (position if on_left else len(ranks) - 1 - position)
        _name_rank(axes, rank, height, 0.55 if on_left else longest + 0.45, styles[name])


def _name_rank(axes: Axes, rank: float, height: float, end: float, style: Style) -> None:
    """Draw a marker on the axis and a line from it to the method's name."""
    axes.plot([rank, rank, end], [0, height, height], color=style.color, linewidth=1, linestyle=style.line)
    axes.plot([rank], [0], color=style.color, marker=style.marker, markersize=6.5, clip_on=False)
    right = end > rank
    text = f" {rank:.1f}  {style.label}" if right else f"{style.label}  {rank:.1f} "
    axes.text(end, height, text, ha="left" if right else "right", va="center", fontsize=9, color=style.color)
