"""Ablations: what each part of regrouping adds, from records that differ in that part alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from regroup_lib import plans
from regroup_lib.competition import (
    Groups,
    Interval,
    bootstrap_difference,
    bootstrap_precisions,
    span,
    test_scores,
    title,
    values,
    verdict_word,
)
from regroup_lib.files import results_directory
from regroup_lib.metrics import decide
from regroup_lib.records import Record, find_record
from regroup_lib.report import encoder_label, mean_std, result_on_test, style_of, traced


def section(name: str, task: str, profile: str, seeds: Sequence[int]) -> dict[str, list[Record]]:
    """Return the records of one section of the ablations; empty where the task does not have it.

    Raises
    ------
    ValueError
        If a record is missing; the message says how to make it.
    """
    groups = {
        label: [find_record(spec) for spec in specs]
        for label, specs in plans.ablation(name, task, profile, seeds).items()
    }
    missing = [label for label, group in groups.items() if None in group]
    if missing:
        raise ValueError(
            f"{task}: {name} lacks records of {', '.join(missing)}; run `regroup sweep ablations --profile {profile}`"
        )
    return groups


def difference(groups: Groups, first: str, second: str) -> Interval:
    """Return the paired difference of two groups' AP, percentage points, with its bootstrap interval."""
    return bootstrap_difference(bootstrap_precisions(groups[first]), bootstrap_precisions(groups[second]))


def span_over(groups: Groups, reference: str) -> str:
    """Return how far the settings' AP lies from that of a reference: the smallest and the largest mean difference."""
    return span({label: difference(groups, label, reference) for label in groups if label != reference})


def group_sizes(record: Record) -> np.ndarray:
    """Return the sizes of the pseudo-classes of the divided classes."""
    parent, counts = np.asarray(record.regrouping["parent"]), np.asarray(record.regrouping["counts"])
    return counts[np.isin(parent, np.flatnonzero(np.bincount(parent) > 1))]


def ablation_table(groups: Groups, reference: str, *, heading: str = "setting") -> pd.DataFrame:
    """Return one row a setting: AP under both rules, BA, what its groups are like, and the difference to a reference.

    Percent, mean ± standard deviation over seeds. Groups: purity and NMI against the hidden classes, and the largest
    over the smallest. The difference is that of AP under max aggregation; a star: its 95% interval leaves 0 out.
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
        found = None if label == reference else difference(groups, label, reference)
        row[f"AP − {reference}"] = "" if found is None else f"{found}{' *' if found.clear else ''}"
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index(heading), groups.values())


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
    drawn = {"equal epochs": tuple(LOOKS), "as many steps as ROS": ("ros", "rg-longer")}
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
    """Return one row a ratio: each method's AP, and RG minus CE and the best of the others, with intervals."""
    rows, found = [], []
    for ratio, at in _at_each_ratio(groups, LOOKS):
        found.append([record for group in at.values() for record in group])
        row: dict[str, Any] = {"negatives : positives": ratio}
        row |= {title(m): mean_std(values(group, "average_precision"), scale=1) for m, group in at.items()}
        rival = max(
            (m for m in at if m != "rg"), key=lambda m: np.nan_to_num(values(at[m], "average_precision").mean())
        )
        row["RG − CE"] = _starred(difference(at, "rg", "ce"))
        row["RG − best other"] = f"{_starred(difference(at, 'rg', rival))} ({title(rival)})"
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index("negatives : positives"), found)


def equal_steps_table(groups: Groups) -> pd.DataFrame:
    """Return one row a ratio: AP of ROS and of RG trained for twice the epochs, and their difference."""
    rows, found = [], []
    for ratio, at in _at_each_ratio(groups, ("ros", "rg-longer")):
        found.append([record for group in at.values() for record in group])
        row: dict[str, Any] = {"at equal steps": ratio}
        row |= {
            title(m.removesuffix("-longer")): mean_std(values(group, "average_precision"), scale=1)
            for m, group in at.items()
        }
        row["RG − ROS"] = _starred(difference(at, "rg-longer", "ros"))
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index("at equal steps"), found)


def _at_each_ratio(groups: Groups, methods: Iterable[str]) -> Iterator[tuple[str, dict[str, Sequence[Record]]]]:
    found = by_number(groups)
    for ratio in next(iter(found.values())):
        yield f"{ratio:g}:1", {method: found[method][ratio] for method in methods}


def _starred(interval: Interval) -> str:
    return f"{interval}{' *' if interval.clear else ''}"


def pays_between(groups: Groups) -> str:
    """Return at which ratios RG is clearly above and below the others, at equal epochs and at equal steps."""
    epochs = {m: _clearly_apart(groups, "rg", m) for m in LOOKS if m != "rg"}
    above_ros, below_ros = _clearly_apart(groups, "rg-longer", "ros")
    above_all = [ratio for ratio in epochs["ce"][0] if all(ratio in above for above, _ in epochs.values())]
    return (
        f"At equal epochs RG is clearly above CE at {_listed(epochs['ce'][0])}, "
        f"clearly above all of CE, WCE and ROS at {_listed(above_all)}, "
        f"and clearly below ROS at {_listed(epochs['ros'][1])}. "
        f"With as many steps as ROS, RG is clearly above it at {_listed(above_ros)} "
        f"and clearly below it at {_listed(below_ros)}."
    )


def _clearly_apart(groups: Groups, first: str, second: str) -> tuple[list[str], list[str]]:
    """Return the ratios at which the first method's AP is clearly above that of the second, and clearly below."""
    found = {ratio: difference(at, first, second) for ratio, at in _at_each_ratio(groups, (first, second))}
    return [r for r, d in found.items() if d.low > 0], [r for r, d in found.items() if d.high < 0]


def _listed(ratios: Sequence[str]) -> str:
    return ", ".join(ratios) or "no ratio"


# ---------------------------------------------------------------- longer training


def _at_each_length(groups: Groups) -> Iterator[tuple[int, dict[str, Sequence[Record]]]]:
    found = by_number(groups)
    for epochs in found["binary"]:
        yield int(epochs), {label: by_epochs[epochs] for label, by_epochs in found.items() if epochs in by_epochs}


def length_table(groups: Groups) -> pd.DataFrame:
    """Return one row a training length: AP of each label set trained so long, and what it adds to binary labels."""
    rows, found = [], []
    for epochs, at in _at_each_length(groups):
        found.append([record for group in at.values() for record in group])
        row: dict[str, Any] = {"trained epochs": str(epochs)}
        row |= {label: mean_std(values(group, "average_precision"), scale=1) for label, group in at.items()}
        row |= {f"{label} − binary": _starred(difference(at, label, "binary")) for label in at if label != "binary"}
        rows.append(row)
    return traced(pd.DataFrame(rows).fillna("").set_index("trained epochs"), found)


def length_sentence(groups: Groups) -> str:
    """Return what the clusters add at each training length."""
    gained = {epochs: difference(at, "clusters", "binary") for epochs, at in _at_each_length(groups)}
    steps = "; ".join(f"{epochs} epochs {gain}" for epochs, gain in gained.items())
    return f"What clusters add to the AP of binary labels, in points: {steps}."


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
    rows = []
    for name, (first, second) in pairs.items():
        points = _starred(difference(groups, first, second))
        rows.append({"part": name, "difference": f"{first} − {second}", "AP, points": points})
    found = [[*groups[first], *groups[second]] for first, second in pairs.values()]
    return traced(pd.DataFrame(rows).set_index("part"), found)


def parts_sentence(groups: Groups) -> str:
    """Return what the clusters add to binary labels, and what of it more classes, balance and meaning alone do."""
    pairs = (("clusters", "binary"), ("random, equal", "binary"), ("clusters", "clusters' sizes"))
    all_parts, no_meaning, meaning = (difference(groups, *pair) for pair in pairs)
    return (
        f"Clusters change AP by {all_parts} points against binary labels; random groups of equal sizes, which have the "
        f"classes and the balance, by {no_meaning}. Clusters against random groups of the same sizes, which is what "
        f"their meaning adds: {meaning}."
    )


# ---------------------------------------------------------------- what BA says


def called_positive(record: Record) -> float:
    """Return the share of the test images that are called positive under max aggregation."""
    _, scores = test_scores(record)
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
    lost = difference(groups, "random, equal", "clusters")
    return (
        f"Random groups of equal sizes have a BA of {by_rule['max'][0]:.1f} under max and {by_rule['sum'][0]:.1f} "
        f"under sum, clusters {by_rule['max'][1]:.1f} and {by_rule['sum'][1]:.1f}; their AP differs by {lost} points. "
        f"Random groups call {called[0]:.0f}% of the test images positive, clusters {called[1]:.0f}%."
    )


def natural_number_verdict(by_task: Mapping[str, tuple[Groups, int]]) -> tuple[str, str]:
    """Return text and verdict on C10: K = imbalance ratio is a natural choice, and tunable.

    It holds where no other K is clearly better than the natural one, and the choice matters: the best and the worst K
    differ clearly.
    """
    texts, natural_good, matters = [], [], []
    for task, (groups, natural) in by_task.items():
        means = {label: values(group, "average_precision").mean() for label, group in groups.items()}
        best, worst = max(means, key=means.get), min(means, key=means.get)
        if best == str(natural):
            texts.append(f"{task}: K = {natural} is the best of {len(means)}")
            natural_good.append(True)
        else:
            lost = difference(groups, best, str(natural))
            texts.append(f"{task}: the best, K = {best}, is {lost} points above K = {natural}")
            natural_good.append(not lost.low > 0)
        span = difference(groups, best, worst)
        texts.append(f"best and worst (K = {worst}) differ by {span}")
        matters.append(span.low > 0)
    return "; ".join(texts), verdict_word([*natural_good, *matters])


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
