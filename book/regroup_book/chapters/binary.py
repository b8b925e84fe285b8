"""Table 1's chapter: what balanced accuracy hides, scores and thresholds, and the verdicts on the binary tasks.

A group of records is one method with its chosen settings, a record a seed. Numbers are percent.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regroup_book import plans
from regroup_book.method_tables import title
from regroup_lib.metrics import calibrated_average_precision, rates_above
from regroup_lib.runs.differences import Groups, rule_of, scores_on_test
from regroup_lib.runs.records import Record


def confusion(record: Record, threshold: float = 0.5) -> np.ndarray:
    """Return [[TN, FP], [FN, TP]] of a binary record's test set."""
    arrays = record.arrays()
    positive, called = arrays["test_labels"] == 1, arrays[f"test_scores_{rule_of(record)}"] >= threshold
    return np.array(
        [
            [(~positive & ~called).sum(), (~positive & called).sum()],
            [(positive & ~called).sum(), (positive & called).sum()],
        ]
    )


def precision_of(matrix: np.ndarray) -> float:
    """Return the precision of a confusion matrix, NaN where nothing is called positive."""
    called = matrix[:, 1].sum()
    return float(matrix[1, 1] / called) if called else float("nan")


def balanced_accuracy_of(matrix: np.ndarray) -> float:
    """Return the balanced accuracy of a confusion matrix."""
    return float((matrix.diagonal() / matrix.sum(axis=1)).mean())


def plot_confusion(record: Record) -> Figure:
    """Draw a test set's confusion matrix with its balanced accuracy and precision (Figure 1)."""
    matrix = confusion(record)
    figure, axes = plt.subplots(figsize=(4.4, 3.6))
    axes.imshow(matrix / matrix.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        share = count / matrix[row].sum()
        axes.text(
            column, row, f"{count:,}\n{share:.1%}", ha="center", va="center", color="white" if share > 0.5 else "black"
        )
    axes.set(xticks=[0, 1], yticks=[0, 1], xlabel="predicted", ylabel="true")
    axes.set_xticklabels(["negative", "positive"])
    axes.set_yticklabels(["negative", "positive"])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(
        f"{title(record.spec.method)}: BA {balanced_accuracy_of(matrix):.1%}, precision {precision_of(matrix):.1%}"
    )
    return figure


def plot_prevalence(record: Record) -> Figure:
    """Draw how BA, precision and AP of one classifier move with the prevalence of the test set.

    The rates within the classes are those of the record; only the share of positives changes.
    """
    arrays = record.arrays()
    positive, scores = arrays["test_labels"] == 1, arrays[f"test_scores_{rule_of(record)}"]
    matrix = confusion(record)
    false_rate, true_rate = matrix[0, 1] / matrix[0].sum(), matrix[1, 1] / matrix[1].sum()
    prevalence = np.geomspace(0.001, 0.5, 40)
    curves = {
        "balanced accuracy": (np.full(40, balanced_accuracy_of(matrix)), "-", "o"),
        "precision at 0.5": (
            prevalence * true_rate / (prevalence * true_rate + (1 - prevalence) * false_rate),
            "--",
            "s",
        ),
        "average precision": (
            [calibrated_average_precision(positive, scores, prevalence=p) for p in prevalence],
            "-.",
            "^",
        ),
        "chance level of AP": (prevalence, ":", ""),
    }
    figure, axes = plt.subplots(figsize=(6.6, 3.8))
    for (name, (curve, line, marker)), color in zip(
        curves.items(), ("#000000", "#D55E00", "#0072B2", "0.5"), strict=True
    ):
        axes.plot(prevalence, curve, linestyle=line, marker=marker, markevery=6, color=color, label=name)
    here = positive.mean()
    axes.axvline(here, color="0.6", linewidth=1)
    axes.text(here * 1.05, 1.03, f"this test set: {here:.1%}", fontsize=9, color="0.3")
    axes.set(xscale="log", ylim=(0, 1.1), xlabel="prevalence (share of positives)", ylabel="value")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


# Methods in the figures on scores: color, line; lightness and dash differ too.
LOOKS = {
    "ce": ("#000000", "-"),
    "rusc": ("#E69F00", ":"),
    "ros": ("#009E73", "--"),
    "rg": ("#0072B2", "-."),
}


def plot_score_distributions(groups: Groups, methods: Sequence[str] = ("ce", "rusc", "rg", "ros")) -> Figure:
    """Draw how the scores of test positives and negatives are distributed, one panel a method (Figure 7).

    Shares within each class, on a logarithmic axis, of all seeds together.
    """
    methods = [m for m in methods if m in groups]
    figure, panels = plt.subplots(1, len(methods), figsize=(2.7 * len(methods), 3.3), sharey=True, squeeze=False)
    bins = np.linspace(0, 1, 26)
    for axes, method in zip(panels[0], methods, strict=True):
        arrays = [(r.arrays(), rule_of(r)) for r in groups[method] if r.status == "finished"]
        labels = np.concatenate([a["test_labels"] for a, _ in arrays])
        scores = np.concatenate([a[f"test_scores_{rule}"] for a, rule in arrays])
        for value, name, color, style in (
            (0, "negative", "0.55", {"fill": True}),
            (1, "positive", "#D55E00", {"fill": False}),
        ):
            chosen = scores[labels == value]
            weights = np.full(len(chosen), 1 / len(chosen))
            axes.hist(
                chosen,
                bins,
                weights=weights,
                histtype="stepfilled" if style["fill"] else "step",
                color=color,
                linewidth=1.8,
                label=name,
            )
        axes.axvline(0.5, color="0.2", linewidth=1, linestyle="--")
        axes.set(yscale="log", ylim=(1e-5, 1.5), xlim=(0, 1), title=title(method), xlabel="score of the positive class")
    panels[0, 0].set_ylabel("share of the class's images")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncol=2)
    return figure


def threshold_curves(record: Record, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Return balanced accuracy and precision of a binary record's test set at each threshold."""
    labels, scores = scores_on_test(record)
    true, false = (rates[0] for rates in rates_above(labels == 1, scores[:, 1], thresholds))
    hits, alarms = true * (labels == 1).sum(), false * (labels == 0).sum()
    with np.errstate(invalid="ignore"):
        return {"balanced accuracy": (true + 1 - false) / 2, "precision": hits / (hits + alarms)}


def plot_thresholds(groups: Groups, methods: Sequence[str] = ("ce", "rusc", "rg", "ros")) -> Figure:
    """Draw balanced accuracy and precision as the decision threshold moves, mean over seeds."""
    thresholds = np.linspace(0.005, 0.995, 100)
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6))
    for method in (m for m in methods if m in groups):
        curves = [threshold_curves(r, thresholds) for r in groups[method] if r.status == "finished"]
        color, line = LOOKS.get(method, ("0.4", "-"))
        for axes, name in zip(panels, curves[0], strict=True):
            axes.plot(
                thresholds, np.mean([c[name] for c in curves], axis=0), color=color, linestyle=line, label=title(method)
            )
            _finish_threshold_panel(axes, name)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=len(methods))
    return figure


def _finish_threshold_panel(axes: Axes, name: str) -> None:
    axes.axvline(0.5, color="0.6", linewidth=1, linestyle="--")
    axes.set(xlabel="decision threshold", ylabel=name, xlim=(0, 1), ylim=(0, 1))


def describe_task(groups: Groups) -> str:
    """Return one sentence on a task: class sizes in the test set, chance level of AP, number of seeds and epochs."""
    record = groups["ce"][0]
    labels = record.arrays()["test_labels"]
    negatives, positives = np.bincount(labels, minlength=2)
    trained = record.regrouping["counts"]
    return (
        f"{trained[0]:,} negatives and {trained[1]:,} positives train the networks; the test set has {negatives:,} and "
        f"{positives:,}, so AP by chance is {100 * positives / len(labels):.1f}. {len(groups['ce'])} seeds, "
        f"{record.spec.epochs} epochs of {record.spec.network}."
    )


def left_out(tasks: Sequence[str], profile: str) -> str:
    """Return a sentence that names the binary tasks of a profile that are not among `tasks`; empty if all are."""
    absent = [task for task in plans.BINARY_TASKS[profile] if task not in tasks]
    if not absent:
        return ""
    return f"\n\n**Not shown: {', '.join(absent)}.** Claims that need more than the tasks shown have no verdict below."
