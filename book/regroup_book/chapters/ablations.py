"""Ablations: what each part of regrouping adds, from records that differ in that part alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from regroup_book import plans
from regroup_book.method_tables import span, title
from regroup_book.show import encoder_label, learned_share, style_of, traced
from regroup_lib.files import results_directory
from regroup_lib.intervals import mean_std, starred
from regroup_lib.metrics import decide
from regroup_lib.runs.differences import (
    Groups,
    best_on_validation,
    precision_difference,
    result_on_test,
    scores_on_test,
    values,
)
from regroup_lib.runs.records import Record


def section(name: str, task: str, profile: str, seeds: Sequence[int]) -> dict[str, list[Record]]:
    """Return the records of one section of the ablations; empty where the task does not have it."""
    runs = plans.ablation(name, task, profile, seeds)
    return plans.records_of(runs, "ablations") if runs else {}


def span_over(groups: Groups, reference: str) -> str:
    """Return how far the settings' AP lies from that of a reference: the smallest and the largest mean difference."""
    return span({label: precision_difference(groups, label, reference) for label in groups if label != reference})


def group_sizes(record: Record) -> np.ndarray:
    """Return the sizes of the pseudo-classes of the divided classes."""
    parent, counts = np.asarray(record.regrouping["parent"]), np.asarray(record.regrouping["counts"])
    return counts[np.isin(parent, np.flatnonzero(np.bincount(parent) > 1))]


def ablation_table(groups: Groups, reference: str, *, heading: str = "setting") -> pd.DataFrame:
    """Return one row a setting: AP under both rules, BA, what its groups are like, and the difference to a reference.

    Percent, mean ± standard deviation over seeds. Groups: purity and NMI against the hidden classes, and the largest
    over the smallest. The difference is that of AP under max aggregation, starred after Holm's correction.
    """
    rows = []
    for label, group in groups.items():
        row: dict[str, Any] = {heading: label}
        row["AP (max)"] = mean_std(values(group, "average_precision"), scale=1)
        row["AP (sum)"] = mean_std([result_on_test(r, "average_precision", "sum") for r in group])
        row["BA"] = mean_std(values(group, "balanced_accuracy"), scale=1)
        row |= {"purity": "", "NMI": "", "largest : smallest": "", "clustering, s": ""}
        if all("purity" in r.regrouping for r in group):
            row["purity"] = f"{np.mean([r.regrouping['purity'] for r in group]):.2f}"
            row["NMI"] = f"{np.mean([r.regrouping['nmi'] for r in group]):.2f}"
            row["largest : smallest"] = f"{np.mean([_spread(r) for r in group]):.1f}"
            row["clustering, s"] = f"{np.median([r.seconds['regroup'] for r in group]):.0f}"
        rows.append(row)
    table = pd.DataFrame(rows)
    differences = [None if label == reference else precision_difference(groups, label, reference) for label in groups]
    table[f"AP − {reference}"] = starred(differences)
    return traced(table.set_index(heading), groups.values())


def _spread(record: Record) -> float:
    sizes = group_sizes(record)
    return float(sizes.max() / sizes.min())


def quality_points(*sections: Groups) -> pd.DataFrame:
    """Return one row a record that regroups: ``label``, ``purity``, ``nmi`` and ``ap`` (percent).

    A record that several sections share counts once, under its first label.
    """
    rows, seen = [], set()
    for groups in sections:
        for label, group in groups.items():
            for record in group:
                if "nmi" in record.regrouping and record.status == "finished" and record.key not in seen:
                    seen.add(record.key)
                    found = {"label": label, "purity": record.regrouping["purity"], "nmi": record.regrouping["nmi"]}
                    rows.append(found | {"ap": 100 * result_on_test(record, "average_precision")})
    return pd.DataFrame(rows)


RULES = ("max", "sum")
MARKERS = "oXs^vDP*<>hp"
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "0.45")


def plot_quality(points: pd.DataFrame, baseline: float) -> Figure:
    """Draw AP against how well the groups match the hidden classes, a marker a setting, with binary labels' AP."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    for i, (label, part) in enumerate(points.groupby("label", sort=False)):
        style = {"marker": MARKERS[i % len(MARKERS)], "color": COLORS[i % len(COLORS)], "linestyle": ""}
        for axes, name in zip(panels, ("nmi", "purity"), strict=True):
            axes.plot(part[name], part["ap"], label=encoder_label(str(label)), **style)
    for axes, name in zip(panels, ("NMI of groups and hidden classes", "purity of the groups"), strict=True):
        axes.axhline(baseline, color="black", linestyle="--", linewidth=1.2, label="binary labels (mean)")
        axes.set(xlabel=name)
    panels[0].set_ylabel("test AP (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=4)
    return figure


def quality_sentence(points: pd.DataFrame) -> str:
    """Return how AP and clustering quality go together: rank correlations over settings (means over seeds)."""
    means = points.groupby("label")[["nmi", "purity", "ap"]].mean()
    by_nmi, by_purity = (float(spearmanr(means[name], means["ap"]).statistic) for name in ("nmi", "purity"))
    return (
        f"Over {len(means)} settings the rank correlation of AP is {by_nmi:+.2f} with NMI "
        f"and {by_purity:+.2f} with purity."
    )


def rules_sentence(*sections: Groups) -> str:
    """Return how AP under sum compares with AP under max, over settings that regroup (means over seeds)."""
    gains: dict[frozenset[str], float] = {}
    for groups in sections:
        for group in groups.values():
            if all("nmi" in record.regrouping and record.status == "finished" for record in group):
                by_rule = [np.mean([result_on_test(r, "average_precision", rule) for r in group]) for rule in RULES]
                gains[frozenset(record.key for record in group)] = 100 * float(by_rule[1] - by_rule[0])
    found = np.array(list(gains.values()))
    return (
        f"AP under sum is above AP under max in {(found > 0).sum()} of {len(found)} settings, "
        f"by {found.min():+.1f} to {found.max():+.1f} points, {found.mean():+.1f} in the mean."
    ).replace("-", "−")


def plot_clusters_curve(groups: Groups, baseline: Sequence[Record], *, natural: int, task: str) -> Figure:
    """Draw AP as the number of clusters K moves, with the natural one and binary labels marked."""
    numbers = [int(label) for label in groups]
    figure, axes = plt.subplots(figsize=(5.6, 3.5))
    for rule, color, marker in zip(RULES, ("#0072B2", "#D55E00"), "Xo", strict=True):
        curve = 100 * np.array([[result_on_test(r, "average_precision", rule) for r in g] for g in groups.values()])
        axes.errorbar(
            numbers,
            curve.mean(axis=1),
            curve.std(axis=1, ddof=1),
            color=color,
            marker=marker,
            linestyle="-" if rule == "max" else "--",
            capsize=3,
            label=f"RG, {rule} (mean ± std)",
        )
    axes.axhline(values(baseline, "average_precision").mean(), color="black", linestyle=":", label="CE (mean)")
    axes.axvline(natural, color="0.6", linewidth=1, label="imbalance ratio")
    axes.set(xscale="log", xlabel="clusters of the majority, K", ylabel="test AP (%)", title=task)
    axes.set_xticks(numbers, [str(k) for k in numbers])
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


LOOKS = {
    "ce": ("#000000", "-", "o"),
    "wce": ("#E69F00", ":", "v"),
    "ros": ("#009E73", "--", "s"),
    "rg": ("#0072B2", "-.", "X"),
}


LONGER = ("ce-longer", "wce-longer", "ros", "rg-longer")  # as many steps as ROS takes


def by_number(groups: Groups) -> dict[str, dict[float, Sequence[Record]]]:
    """Return a section whose labels end in a number, an imbalance ratio or epochs, by the rest, then by the number."""
    found: dict[str, dict[float, Sequence[Record]]] = {}
    for label, group in groups.items():
        name, number = label.rsplit(" ", 1)
        found.setdefault(name, {})[float(number)] = group
    return found


def plot_imbalance(groups: Groups) -> Figure:
    """Draw AP as the training set grows more imbalanced, at equal epochs and at equal steps; the test set stays."""
    curves = {
        method: np.array([values(group, "average_precision") for group in ratios.values()])
        for method, ratios in by_number(groups).items()
    }
    ratios = list(next(iter(by_number(groups).values())))
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    drawn = {"equal epochs": tuple(LOOKS), "as many steps as ROS": LONGER}
    for axes, (heading, methods) in zip(panels, drawn.items(), strict=True):
        for method in methods:
            name, curve = method.removesuffix("-longer"), curves[method]
            color, line, marker = LOOKS[name]
            style = {"color": color, "linestyle": line, "marker": marker, "capsize": 3, "label": title(name)}
            axes.errorbar(ratios, curve.mean(axis=1), curve.std(axis=1, ddof=1), **style)
        axes.set(xscale="log", xlabel="training negatives a positive", title=heading)
        axes.set_xticks(ratios, [f"{r:g}:1" for r in ratios])
        axes.minorticks_off()
    panels[0].set_ylabel("test AP (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=len(LOOKS))
    return figure


def imbalance_table(groups: Groups) -> pd.DataFrame:
    """Return one row per ratio: each method's AP, and RG minus CE and the best of the others on validation."""
    return _ratio_table(groups, tuple(LOOKS), "negatives : positives")


def equal_steps_table(groups: Groups) -> pd.DataFrame:
    """Return the same for methods that take as many steps as ROS does, and the share of the labels that CE learned."""
    return _ratio_table(groups, LONGER, "at equal steps")


def _ratio_table(groups: Groups, methods: Sequence[str], heading: str) -> pd.DataFrame:
    rows, found, over_plain, over_best = [], [], [], []
    for ratio, at in _at_each_ratio(groups, methods):
        plain, *_, regrouped = methods
        rival = best_on_validation(at, [m for m in methods if m != regrouped])
        row: dict[str, Any] = {heading: ratio}
        row |= {_short(m): mean_std(values(at[m], "average_precision"), scale=1) for m in methods}
        row["learned by CE"] = mean_std([learned_share(r) for r in at[plain]], digits=0)
        rows.append(row | {"best other on validation": _short(rival)})
        over_plain.append(precision_difference(at, regrouped, plain))
        over_best.append(precision_difference(at, regrouped, rival))
        found.append([record for group in at.values() for record in group])
    table = pd.DataFrame(rows)
    table["RG − CE"], table["RG − best other"] = starred(over_plain), starred(over_best)
    return traced(table.set_index(heading), found)


def _short(method: str) -> str:
    return title(method.removesuffix("-longer"))


def _at_each_ratio(groups: Groups, methods: Iterable[str]) -> Iterator[tuple[str, dict[str, Sequence[Record]]]]:
    found = by_number(groups)
    for ratio in next(iter(found.values())):
        yield f"{ratio:g}:1", {method: found[method][ratio] for method in methods}


def pays_between(groups: Groups) -> str:
    """Return what RG adds to CE at the smallest and the largest ratio, at equal epochs and at equal steps."""
    sentences = []
    for name, methods in (("epochs", tuple(LOOKS)), ("steps", LONGER)):
        at_each = list(_at_each_ratio(groups, methods))
        (low, first), (high, last) = at_each[0], at_each[-1]
        gains = [precision_difference(at, methods[-1], methods[0]) for at in (first, last)]
        learned = 100 * np.mean([learned_share(r) for r in last[methods[0]]])
        sentences.append(
            f"With as many {name} as ROS, RG adds {gains[0]} points to CE at {low} and {gains[1]} at {high}, where CE "
            f"has learned {learned:.0f}% of its labels."
        )
    return " ".join(sentences).replace("With as many epochs as ROS, RG", "At equal epochs RG", 1)


# ---------------------------------------------------------------- longer training


def _at_each_length(groups: Groups) -> Iterator[tuple[int, dict[str, Sequence[Record]]]]:
    found = by_number(groups)
    for epochs in found["binary"]:
        yield int(epochs), {label: by_epochs[epochs] for label, by_epochs in found.items() if epochs in by_epochs}


def length_table(groups: Groups) -> pd.DataFrame:
    """Return one row per training length: AP of each label set trained so long, and what it adds to binary labels."""
    at_each = dict(_at_each_length(groups))
    labels = list(dict.fromkeys(label for at in at_each.values() for label in at))
    table = pd.DataFrame({"trained epochs": list(map(str, at_each))})
    for label in labels:
        column = (at.get(label) for at in at_each.values())
        table[label] = ["" if g is None else mean_std(values(g, "average_precision"), scale=1) for g in column]
    for label in (label for label in labels if label != "binary"):
        differences = [precision_difference(at, label, "binary") if label in at else None for at in at_each.values()]
        table[f"{label} − binary"] = starred(differences)
    table["error left by clusters"] = [f"{error_ratio(at, 'clusters', 'binary'):.2f}" for at in at_each.values()]
    found = [[record for group in at.values() for record in group] for at in at_each.values()]
    return traced(table.set_index("trained epochs"), found)


def error_ratio(groups: Groups, first: str, second: str) -> float:
    """Return the first group's mean error, 1 − AP, as a share of the second's."""
    errors = [100 - values(groups[name], "average_precision").mean() for name in (first, second)]
    return float(errors[0] / errors[1])


def length_sentence(groups: Groups) -> str:
    """Return what the clusters add at each training length."""
    gained = {epochs: precision_difference(at, "clusters", "binary") for epochs, at in _at_each_length(groups)}
    steps = "; ".join(f"{epochs} epochs {gain}" for epochs, gain in gained.items())
    ratios = [f"{error_ratio(at, 'clusters', 'binary'):.2f}" for _, at in _at_each_length(groups)]
    return (
        f"Clusters add to the AP of binary labels, in points: {steps}. The error that they leave, 1 − AP, is "
        f"{', '.join(ratios)} of that of binary labels."
    )


def plot_length(groups: Groups, task: str) -> Figure:
    """Draw AP by training length, a curve a label set; each length is a training with a schedule of its own."""
    figure, axes = plt.subplots(figsize=(5.6, 3.5))
    for by_epochs in by_number(groups).values():
        curve = np.array([values(group, "average_precision") for group in by_epochs.values()])
        look = style_of(next(iter(by_epochs.values()))[0].spec)
        style = {"color": look.color, "linestyle": look.line, "marker": look.marker, "label": look.label, "capsize": 3}
        axes.errorbar(list(by_epochs), curve.mean(axis=1), curve.std(axis=1, ddof=1), **style)
    epochs = list(by_number(groups)["binary"])
    axes.set(xscale="log", xlabel="epochs of training", ylabel="test AP (%)", title=task)
    axes.set_xticks(epochs, [f"{e:g}" for e in epochs])
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


# ---------------------------------------------------------------- the parts of the gain

# What each control has: more classes, balance, meaning.
CONTROL_PARTS = {
    "binary": "–",
    "true": "classes, meaning",
    "clusters": "classes, meaning",
    "equal clusters": "classes, balance, meaning",
    "clusters' sizes": "classes",
    "random, equal": "classes, balance",
    "random, halving": "classes",
    "true, in 5": "fewer classes, meaning",
    "true, in 3": "fewer classes, meaning",
}


def plot_controls(groups: Groups, task: str) -> Figure:
    """Draw the AP of each label set, a point a seed, sorted by mean, with what each has."""
    means = {label: values(group, "average_precision").mean() for label, group in groups.items()}
    order = sorted(groups, key=lambda label: means[label])
    figure, axes = plt.subplots(figsize=(6.4, 0.42 * len(order) + 1))
    for y, label in enumerate(order):
        found = values(groups[label], "average_precision")
        meaning = "meaning" in CONTROL_PARTS[label]
        color, marker = ("#0072B2", "X") if meaning else ("#E69F00", "v")
        axes.plot(found, np.full(len(found), y), marker, color="black" if label == "binary" else color, alpha=0.8)
        axes.plot([found.mean()] * 2, [y - 0.28, y + 0.28], color="0.2", linewidth=1.5)
    axes.axvline(means["binary"], color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(order)), [f"{label}\n({CONTROL_PARTS[label]})" for label in order], fontsize=8)
    axes.set(xlabel="test AP (%)", title=task)
    return figure


def parts_of_the_gain(groups: Groups) -> pd.DataFrame:
    """Return what more classes, balance and meaning add, each as a difference of two label sets."""
    pairs = {
        "more classes alone": ("clusters' sizes", "binary"),
        "more classes and balance": ("random, equal", "binary"),
        "meaning, given the sizes": ("clusters", "clusters' sizes"),
        "balance, given meaning": ("equal clusters", "clusters"),
        "true classes in place of clusters": ("true", "clusters"),
        "all: clusters": ("clusters", "binary"),
    }
    differences = [precision_difference(groups, *pair) for pair in pairs.values()]
    table = pd.DataFrame({"part": list(pairs), "difference": [f"{a} − {b}" for a, b in pairs.values()]})
    table["AP, points"] = starred(differences)
    found = [[*groups[first], *groups[second]] for first, second in pairs.values()]
    return traced(table.set_index("part"), found)


def parts_sentence(groups: Groups) -> str:
    """Return what the clusters add to binary labels, and what of it more classes, balance and meaning alone do."""
    pairs = (("clusters", "binary"), ("random, equal", "binary"), ("clusters", "clusters' sizes"))
    all_parts, no_meaning, meaning = (precision_difference(groups, *pair) for pair in pairs)
    return (
        f"Clusters change AP by {all_parts} points against binary labels; random groups of equal sizes, which have the "
        f"classes and the balance, by {no_meaning}. Clusters against random groups of the same sizes, which is what "
        f"their meaning adds: {meaning}."
    )


# ---------------------------------------------------------------- what BA says


def called_positive(record: Record) -> float:
    """Return the share of the test images that are called positive under max aggregation."""
    _, scores = scores_on_test(record)
    return float(decide(scores).mean())


def balanced_accuracy_table(groups: Groups) -> pd.DataFrame:
    """Return one row a label set: what it calls positive, BA under both rules, and AP; percent, mean ± std."""
    rows = []
    for label, group in groups.items():
        row: dict[str, Any] = {"label set": label}
        row["called positive"] = mean_std([called_positive(record) for record in group])
        row["BA (max)"] = mean_std(values(group, "balanced_accuracy"), scale=1)
        row["BA (sum)"] = mean_std([result_on_test(r, "balanced_accuracy", "sum") for r in group])
        row["AP (max)"] = mean_std(values(group, "average_precision"), scale=1)
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index("label set"), groups.values())


def balanced_accuracy_sentence(groups: Groups) -> str:
    """Return how random groups compare with clusters in BA under each rule, in AP, and in what they call positive."""
    chosen = {label: groups[label] for label in ("random, equal", "clusters")}
    by_rule = {
        rule: [
            100 * np.mean([result_on_test(r, "balanced_accuracy", rule) for r in group]) for group in chosen.values()
        ]
        for rule in RULES
    }
    called = [100 * np.mean([called_positive(r) for r in group]) for group in chosen.values()]
    lost = precision_difference(groups, "random, equal", "clusters")
    return (
        f"Random groups of equal sizes have a BA of {by_rule['max'][0]:.1f} under max and {by_rule['sum'][0]:.1f} "
        f"under sum, clusters {by_rule['max'][1]:.1f} and {by_rule['sum'][1]:.1f}; their AP differs by {lost} points. "
        f"Random groups call {called[0]:.0f}% of the test images positive, clusters {called[1]:.0f}%."
    )


# ---------------------------------------------------------------- time and memory of the clusterers


def clusterer_costs(results_dir: str | Path | None = None) -> pd.DataFrame | None:
    """Return time and memory of each clusterer as `benchmarks/clusterers.py` measured them; None where it has not.

    Seconds of one clustering, and megabytes above what the process held before it.
    """
    path = results_directory(results_dir) / "benchmarks" / "clusterers.json"
    if not path.exists():
        return None
    measured = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        {
            "clusterer": row["clusterer"],
            "K": row["n_clusters"],
            "seconds": f"{row['seconds']:.0f}",
            "MB": f"{row['mb']:.0f}",
        }
        for row in measured["rows"]
    ]
    frame = pd.DataFrame(rows).set_index("clusterer")
    frame.attrs["text"] = measured["text"]
    return frame
