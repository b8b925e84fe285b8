"""Ablations: what each part of regrouping adds, from records that differ in that part alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from scipy.stats import spearmanr

from regroup_book import plans, show
from regroup_book.differences import Groups, best_on_validation, precision_difference, scores_on_test, values
from regroup_book.method_tables import mean_cells, span, title
from regroup_book.show import gain_cells, learned_share, listed, rule_cells, starred_columns, table
from regroup_lib.intervals import mean_std, minus, starred
from regroup_lib.metrics import decide
from regroup_lib.runs.records import AVERAGE_PRECISION, Record, find_record, result_on_test

T = TypeVar("T")
RULES = ("max", "sum")
EQUAL_EPOCHS = ("ce", "wce", "ros", "rg")
EQUAL_STEPS = ("ce-longer", "wce-longer", "ros", "rg-longer")  # as many steps as ROS takes
# What has a curve of its own -> its color.
COLORS = {title(method): color for method, color in show.COLORS.items()} | {"binary": show.COLORS["ce"]}
COLORS |= dict.fromkeys(("clusters", "max"), show.COLORS["rg"]) | {"sum": "#7FB8DB"}
COLORS |= {"random, equal": show.STYLES["rg-random"].color, "true": show.STYLES["rg-true"].color}
# Clusterer -> what readers call it.
CLUSTERERS = {
    "kmeans": "k-means",
    "minibatch-kmeans": "mini-batch k-means",
    "constrained-kmeans": "balanced k-means",
    "spectral": "spectral",
    "gmm": "Gaussian mixture",
    "agglomerative": "Ward's agglomeration",
    "random": "random groups",
    "random-equal": "random, equal sizes",
    "random-halving": "random, halving sizes",
}
# Control -> what it has: more classes, balance, meaning.
CONTROL_PARTS = {
    "binary": "none of these",
    "true": "classes, meaning",
    "clusters": "classes, meaning",
    "equal clusters": "classes, balance, meaning",
    "clusters' sizes": "classes",
    "random, equal": "classes, balance",
    "random, halving": "classes",
    "true, in 5": "fewer classes, meaning",
    "true, in 3": "fewer classes, meaning",
}
# Part of the gain -> the two controls whose difference it is.
PARTS = {
    "more classes alone": ("clusters' sizes", "binary"),
    "more classes and balance": ("random, equal", "binary"),
    "meaning, given the sizes": ("clusters", "clusters' sizes"),
    "balance, given meaning": ("equal clusters", "clusters"),
    "true classes in place of clusters": ("true", "clusters"),
    "all: clusters": ("clusters", "binary"),
}


def section(name: str, task: str, profile: str, seeds: Sequence[int]) -> dict[str, list[Record]]:
    """Return the records of one section of the ablations; empty where the task does not have it."""
    runs = plans.ablation(name, task, profile, seeds)
    return plans.records_of(runs, "ablations") if runs else {}


def by_number(groups: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Split the last word, a ratio or epochs, from the names of groups: number -> rest of the name -> group."""
    found: dict[str, dict[str, T]] = {}
    for label, group in groups.items():
        name, number = label.rsplit(" ", 1)
        found.setdefault(number, {})[name] = group
    return found


def points(*sections: Groups) -> pd.DataFrame:
    """Return one row per record with its AP, percent, under both rules; a record of several sections counts once.

    Columns: ``key``, ``setting`` (the same for all seeds), ``label``, ``max``, ``sum``, and ``purity`` and ``nmi``
    of the groups, NaN without regrouping.
    """
    rows = [
        {"key": record.key, "setting": group[0].key, "label": label}
        | {rule: 100 * result_on_test(record, AVERAGE_PRECISION, rule) for rule in RULES}
        | {name: record.regrouping.get(name, np.nan) for name in ("purity", "nmi")}
        for groups in sections
        for label, group in groups.items()
        for record in group
    ]
    return pd.DataFrame(rows).drop_duplicates("key")


def draw_curves(axes: Axes, drawn: pd.DataFrame, *, over: str, by: str, ap: str = "max") -> None:
    """Draw AP over a number on a logarithmic axis, mean ± standard deviation over seeds, a curve for each `by`."""
    order = [name for name in COLORS if name in set(drawn[by])]  # a curve looks the same in every panel
    options = {"hue_order": order, "style_order": order, "palette": COLORS, "markers": True}
    options |= {"errorbar": "sd", "err_style": "bars", "err_kws": {"capsize": 3}}
    sns.lineplot(drawn, x=over, y=ap, hue=by, style=by, ax=axes, **options)
    numbers = sorted(drawn[over].unique())
    axes.set(xscale="log", ylabel="test AP (%)")
    axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
    axes.minorticks_off()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=4)


# ---------------------------------------------------------------- tables


def ablation_table(groups: Groups, reference: str, *, heading: str = "setting") -> pd.DataFrame:
    """Return one row per setting: AP under both rules, BA, what its groups are like, and the difference to a reference.

    Percent, mean ± standard deviation over seeds. Groups: purity and NMI against the hidden classes, and the largest
    over the smallest; left out where all settings share the groups. The difference is that of AP under max
    aggregation, starred after Holm's correction.
    """
    columns: dict[str, Iterable[Any]] = {heading: groups, "AP (max)": mean_cells(groups, AVERAGE_PRECISION)}
    columns["AP (sum)"] = rule_cells(groups, AVERAGE_PRECISION, "sum")
    columns["BA"] = mean_cells(groups, "balanced_accuracy")
    if len(set(purity := _means(groups, lambda record: record.regrouping["purity"]))) > 1:
        columns |= {"purity": purity, "NMI": _means(groups, lambda record: record.regrouping["nmi"])}
        columns["largest : smallest"] = _means(groups, _spread, digits=1)
    return table(columns | {f"AP − {reference}": gain_cells(groups, reference)}, groups.values())


def _means(groups: Groups, measure: Callable[[Record], float], digits: int = 2) -> list[str]:
    """Return the mean of a number over the records of each group, empty where labels were not regrouped."""
    regrouped = [group if all("purity" in r.regrouping for r in group) else () for group in groups.values()]
    return [f"{np.mean(list(map(measure, group))):.{digits}f}" if group else "" for group in regrouped]


def _spread(record: Record) -> float:
    """Return the largest over the smallest group of the divided classes."""
    parent, counts = np.asarray(record.regrouping["parent"]), np.asarray(record.regrouping["counts"])
    sizes = counts[np.bincount(parent)[parent] > 1]
    return float(sizes.max() / sizes.min())


def ratio_table(groups: Groups, methods: Sequence[str]) -> pd.DataFrame:
    """Return one row per imbalance ratio: AP of each method, and RG minus CE and minus the best of the others.

    The groups are those of section ``"imbalance"``, the methods `EQUAL_EPOCHS` or `EQUAL_STEPS`; the best of the others
    is chosen on validation.
    """
    plain, *_, regrouped = methods
    at_each = {ratio: {m: at[m] for m in methods} for ratio, at in by_number(groups).items()}
    rivals = [best_on_validation(at, methods[:-1]) for at in at_each.values()]
    cells = zip(*(mean_cells(at, AVERAGE_PRECISION) for at in at_each.values()), strict=True)
    columns: dict[str, Iterable[Any]] = {"ratio": [f"{ratio}:1" for ratio in at_each]}
    columns |= dict(zip(map(short_title, methods), cells, strict=True))
    columns["best other on validation"] = map(short_title, rivals)
    contests = {"RG − CE": [plain] * len(rivals), "RG − best other": rivals}
    differences = {
        name: [precision_difference(at, regrouped, other) for at, other in zip(at_each.values(), others, strict=True)]
        for name, others in contests.items()
    }
    return table(columns | starred_columns(differences), _behind(at_each))


def _behind(at_each: Mapping[str, Groups]) -> list[list[Record]]:
    return [[record for group in at.values() for record in group] for at in at_each.values()]


def short_title(method: str) -> str:
    """Return a method's title, whether it is trained for longer or not."""
    return title(method.removesuffix("-longer"))


def length_table(groups: Groups) -> pd.DataFrame:
    """Return one row per training length: AP of each label set trained so long, and what it adds to binary labels."""
    at_each = by_number(groups)
    labels = list(dict.fromkeys(label for at in at_each.values() for label in at))
    cells = [dict(zip(at, mean_cells(at, AVERAGE_PRECISION), strict=True)) for at in at_each.values()]
    columns = {"epochs": list(at_each)} | {label: [found.get(label, "") for found in cells] for label in labels}
    differences = {
        f"{label} − binary": [
            precision_difference(at, label, "binary") if label in at else None for at in at_each.values()
        ]
        for label in labels[1:]
    }
    columns |= starred_columns(differences)
    columns["error left"] = [f"{error_left(at):.2f}" for at in at_each.values()]
    return table(columns, _behind(at_each))


def error_left(groups: Groups) -> float:
    """Return the mean error of clusters, 1 − AP, as a share of that of binary labels."""
    clusters, binary = (100 - values(groups[name], AVERAGE_PRECISION).mean() for name in ("clusters", "binary"))
    return float(clusters / binary)


def parts_of_the_gain(groups: Groups) -> pd.DataFrame:
    """Return what more classes, balance and meaning add, each as a difference of two label sets."""
    columns = {"part": list(PARTS), "difference": [f"{a} − {b}" for a, b in PARTS.values()]}
    columns["AP, points"] = starred([precision_difference(groups, *pair) for pair in PARTS.values()])
    return table(columns, [[*groups[first], *groups[second]] for first, second in PARTS.values()])


def called_positive(record: Record) -> float:
    """Return the share of the test images that are called positive under max aggregation."""
    _, scores = scores_on_test(record)
    return float(decide(scores).mean())


def balanced_accuracy_table(groups: Groups) -> pd.DataFrame:
    """Return one row per label set: what it calls positive, BA under both rules, and AP; percent, mean ± std."""
    columns: dict[str, Iterable[Any]] = {"label set": groups}
    columns["called positive"] = [mean_std(list(map(called_positive, group))) for group in groups.values()]
    columns |= {f"BA ({rule})": rule_cells(groups, "balanced_accuracy", rule) for rule in RULES}
    return table(columns | {"AP (max)": mean_cells(groups, AVERAGE_PRECISION)}, groups.values())


# ---------------------------------------------------------------- sentences


def span_over(groups: Groups, reference: str) -> str:
    """Return how far the settings' AP lies from that of a reference: the smallest and the largest mean difference."""
    return span({label: precision_difference(groups, label, reference) for label in groups if label != reference})


def quality_sentence(drawn: pd.DataFrame) -> str:
    """Return the rank correlation of AP with clustering quality over the settings of `points` (means over seeds)."""
    means = drawn.groupby("label")[["nmi", "purity", "max"]].mean()
    by_nmi, by_purity = (float(spearmanr(means[name], means["max"]).statistic) for name in ("nmi", "purity"))
    rises = "rises with" if min(by_nmi, by_purity) >= 0.5 else "does not follow"
    return minus(
        f"Over all encoders, clusterers and controls, AP {rises} the match of groups and hidden classes: its rank "
        f"correlation is {by_nmi:+.2f} with NMI and {by_purity:+.2f} with purity."
    )


def rules_sentence(*sections: Groups) -> str:
    """Return how AP under sum compares with AP under max, over settings that regroup (means over seeds)."""
    means = points(*sections).groupby("setting")[["max", "sum", "nmi"]].agg(lambda column: column.mean(skipna=False))
    gains = (means["sum"] - means["max"])[means.notna().all(axis=1)]
    return minus(
        f"Sum aggregation ranks better than max in {(gains > 0).sum()} of {len(gains)} settings. It changes AP by "
        f"{gains.mean():+.1f} points on average, with a range from {gains.min():+.1f} to {gains.max():+.1f}."
    )


def pays_between(groups: Groups) -> str:
    """Return RG's gain over CE at the smallest and the largest ratio, and where ROS ranks above RG, by epochs."""
    at_each = by_number(groups)
    low, *_, high = at_each
    sentences = []
    for beginning, methods in (("For equally many epochs", EQUAL_EPOCHS), ("With as many steps as ROS", EQUAL_STEPS)):
        plain, *_, rg = methods
        first, last = (precision_difference(at_each[ratio], rg, plain).mean for ratio in (low, high))
        learned = 100 * np.mean([learned_share(r) for r in at_each[high][plain]])
        ahead = [f"{ratio}:1" for ratio, at in at_each.items() if precision_difference(at, "ros", rg).low > 0]
        sentences.append(
            f"{beginning}, the gain of RG over CE is {first:+.1f} points at {low}:1 and {last:+.1f} at {high}:1, where "
            f"CE has learned {learned:.0f}% of its labels. "
            + (f"ROS ranks above RG at {listed(ahead)}." if ahead else "ROS does not rank above RG at any ratio.")
        )
    return minus(" ".join(sentences))


_SECOND_TASK = "training with the features as a second task"
COMPARED_USES = (
    ("rg", "regrouping", "probe", "a linear probe on the encoder's features"),
    ("rg", "regrouping", "aux-clusters", "training with the clusters as a second task"),
    ("rg", "regrouping", "distill", _SECOND_TASK),
    ("distill", _SECOND_TASK, "ce", "plain training"),
)
SIDES = {-1: "below", 1: "above"}


def recorded_uses(profile: str, seeds: Sequence[int]) -> dict[str, Groups]:
    """Return the ways to use an encoder of which every seed has a record, by task."""
    found = {}
    for task in plans.USES_TASKS[profile]:
        uses = plans.encoder_uses(task, profile, seeds).items()
        records = {m: [find_record(run) for run in runs] for m, runs in uses if len(runs) == len(seeds)}
        records = {method: group for method, group in records.items() if all(group)}
        if {"rg", "probe"} <= set(records):
            found[task] = records
    return found


def uses_sentence(uses: Mapping[str, Groups]) -> str:
    """Return on which tasks the first of each pair in `COMPARED_USES` ranks above and below the second."""
    sentences = []
    for ours, subject, rival, named in COMPARED_USES:
        signs: dict[int, list[str]] = {}
        for task, groups in uses.items():
            if {ours, rival} <= set(groups):
                difference = precision_difference(groups, ours, rival)
                signs.setdefault((difference.low > 0) - (difference.high < 0), []).append(show.task_name(task))
        sides = [side for side in SIDES if side in signs]
        objects = (named, "it")  # the second side needs no repetition
        ranks = " and ".join(
            f"{SIDES[n]} {what} on {listed(signs[n])}" for n, what in zip(sides, objects, strict=False)
        )
        if ranks:
            undecided = f"; on {listed(signs[0])}, the difference is undecided" if 0 in signs else ""
            sentences.append(f"{subject.capitalize()} ranks {ranks}{undecided}.")
        elif signs:
            sentences.append(f"Between {subject} and {named}, the difference is undecided on {listed(signs[0])}.")
    return " ".join(sentences)


def length_sentence(groups: Groups) -> str:
    """Return what the clusters add at each training length."""
    at_each = by_number(groups)
    short, *_, long = at_each
    first, last = (precision_difference(at_each[epochs], "clusters", "binary").mean for epochs in (short, long))
    errors = [error_left(at) for at in at_each.values()]
    share = f"between {min(errors):.2f} and {max(errors):.2f}"
    return minus(
        f"The gain of clusters over binary labels is {first:+.1f} points after {short} epochs and {last:+.1f} after "
        f"{long}. At every length, their error, 1 − AP, is {share} of that of binary labels."
    )


def parts_sentence(groups: Groups) -> str:
    """Return what the clusters add to binary labels, and what of it more classes, balance and meaning alone do."""
    names = ("all: clusters", "more classes and balance", "meaning, given the sizes")
    all_parts, no_meaning, meaning = (precision_difference(groups, *PARTS[name]) for name in names)
    return (
        f"Clusters change the AP of binary labels by {all_parts} points. Random groups of equal sizes, which bring "
        f"more classes and balance but no meaning, change it by {no_meaning}. Against random groups of their own "
        f"sizes, clusters differ by {meaning}: this is the effect of meaning."
    )


def balanced_accuracy_sentence(groups: Groups) -> str:
    """Return how random groups compare with clusters in BA under each rule, in AP, and in what they call positive."""
    found = []
    for group in (groups["random, equal"], groups["clusters"]):
        by_rule = ([result_on_test(r, "balanced_accuracy", rule) for r in group] for rule in RULES)
        found += [100 * np.mean(numbers) for numbers in (*by_rule, [called_positive(r) for r in group])]
    return (
        "Under max, random groups of equal sizes have a BA of {0:.1f} and clusters one of {3:.1f}. Under sum, they "
        "have {1:.1f} and {4:.1f}. The AP of random groups minus that of clusters is {difference} points. Random "
        "groups call {2:.0f}% of the test images positive, and clusters {5:.0f}%."
    ).format(*found, difference=precision_difference(groups, "random, equal", "clusters"))
