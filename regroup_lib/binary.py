"""Table 1's chapter: what balanced accuracy hides, scores and thresholds, and the verdicts on the binary tasks.

A group of records is one method with its chosen settings, a record a seed. Numbers are percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from regroup_lib import plans
from regroup_lib.competition import (
    Groups,
    Interval,
    decided,
    precision_difference,
    title,
    unstable,
    values,
    verdict_table,
    verdict_word,
)
from regroup_lib.metrics import calibrated_average_precision
from regroup_lib.records import Record
from regroup_lib.report import rule_of


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
    arrays = record.arrays()
    positive, scores = arrays["test_labels"] == 1, arrays[f"test_scores_{rule_of(record)}"]
    true = (scores[positive][None, :] >= thresholds[:, None]).sum(axis=1)
    false = (scores[~positive][None, :] >= thresholds[:, None]).sum(axis=1)
    with np.errstate(invalid="ignore"):
        precision = np.where(true + false > 0, true / (true + false), np.nan)
    return {
        "balanced accuracy": (true / positive.sum() + 1 - false / (~positive).sum()) / 2,
        "precision": precision,
    }


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


def threshold_leniency(group: Sequence[Record], tolerance: float = 0.02) -> float:
    """Return the share of thresholds in (0, 1) at which BA is within `tolerance` of its best, mean over seeds."""
    thresholds = np.linspace(0.005, 0.995, 199)
    shares = []
    for record in group:
        accuracy = threshold_curves(record, thresholds)["balanced accuracy"]
        shares.append((accuracy >= accuracy.max() - tolerance).mean())
    return float(np.mean(shares))


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


NO_ENCODER_AT_TEST = tuple(m for m in plans.PAPER_METHODS if m not in ("mlp", "rg", "rg-wce"))


def _family(tasks: Mapping[str, Groups], name: str) -> dict[str, Groups]:
    return {task: groups for task, groups in tasks.items() if task.startswith(name)}


def _mean(group: Sequence[Record], measure: str) -> float:
    """Return the mean over seeds; a method with a diverged run comes last."""
    mean = values(group, measure).mean()
    return float(mean) if np.isfinite(mean) else -np.inf


def _rank(groups: Groups, method: str, measure: str) -> tuple[int, int]:
    """Return a method's place among the paper's methods by the mean of a measure, and how many there are."""
    means = {m: _mean(groups[m], measure) for m in plans.PAPER_METHODS if m in groups}
    better = sum(value > means[method] for value in means.values())
    return better + 1, len(means)


def _hidden_precision(tasks: Mapping[str, Groups]) -> tuple[str, str]:
    texts, passed = [], []
    for task, groups in tasks.items():
        matrices = [confusion(r) for r in groups["rusc"]]
        accuracy = 100 * np.mean([balanced_accuracy_of(m) for m in matrices])
        precision = 100 * np.nanmean([precision_of(m) for m in matrices])
        texts.append(f"{task}: RUSC has BA {accuracy:.1f} and precision {precision:.1f}")
        passed.append(accuracy >= 75 and precision <= 25)
    return "; ".join(texts), verdict_word(passed)


def _divergent_orders(tasks: Mapping[str, Groups]) -> tuple[str, str]:
    texts, passed = [], []
    for task, groups in tasks.items():
        methods = [m for m in plans.PAPER_METHODS if m in groups]
        measured = [[_mean(groups[m], name) for m in methods] for name in ("balanced_accuracy", "average_precision")]
        correlation = float(spearmanr(*measured).statistic)
        texts.append(f"{task}: rank correlation {correlation:+.2f}".replace("-0", "−0").replace("-1", "−1"))
        passed.append(correlation < 0.5)
    return "; ".join(texts), verdict_word(passed)


def _rusc(tasks: Mapping[str, Groups]) -> tuple[str, str]:
    texts, passed = [], []
    for task, groups in tasks.items():
        (by_accuracy, n), (by_precision, _) = (
            _rank(groups, "rusc", m) for m in ("balanced_accuracy", "average_precision")
        )
        texts.append(f"{task}: place {by_accuracy} of {n} by BA, {by_precision} by AP")
        passed.append(by_accuracy <= n / 2 < by_precision)
    return "; ".join(texts), verdict_word(passed)


def _lenient(tasks: Mapping[str, Groups]) -> tuple[str, str]:
    texts, passed = [], []
    for task, groups in tasks.items():
        lenient = {m: 100 * threshold_leniency(groups[m]) for m in ("ce", "rg")}
        precision = {m: values(groups[m], "average_precision").mean() for m in ("ce", "rusc", "rg")}
        worst = min(precision, key=precision.get)
        texts.append(
            f"{task}: BA within 2 points of its best at {lenient['rg']:.0f}% of all thresholds for RG, "
            f"{lenient['ce']:.0f}% for CE; of the three {title(worst)} ranks worst"
        )
        passed += [lenient["rg"] > lenient["ce"], worst == "rusc"]
    return "; ".join(texts), verdict_word(passed)


def tuned_threshold_gain(record: Record) -> float:
    """Return what the threshold with the best validation BA adds to the test BA at 0.5, in percentage points."""
    arrays, rule, thresholds = record.arrays(), rule_of(record), np.linspace(0.005, 0.995, 199)

    def accuracies(part: str, at: np.ndarray) -> np.ndarray:
        positive, scores = arrays[f"{part}_labels"] == 1, arrays[f"{part}_scores_{rule}"]
        called = scores[None, :] >= at[:, None]
        return (called[:, positive].mean(axis=1) + 1 - called[:, ~positive].mean(axis=1)) / 2

    best = thresholds[accuracies("val", thresholds).argmax()]
    tuned, plain = accuracies("test", np.array([best, 0.5]))
    return float(100 * (tuned - plain))


def _threshold_tuning(tasks: Mapping[str, Groups]) -> tuple[str, str]:
    texts, passed = [], []
    for task, groups in tasks.items():
        gain = {m: np.mean([tuned_threshold_gain(r) for r in groups[m]]) for m in ("ce", "rg")}
        texts.append(
            f"{task}: a threshold tuned on validation adds {gain['ce']:+.1f} BA to CE, {gain['rg']:+.1f} to RG"
        )
        passed.append(gain["ce"] > 2)
    return "; ".join(texts), verdict_word(passed)


def _best_without_encoder(tasks: Mapping[str, Groups], candidates: Sequence[str]) -> tuple[str, str]:
    """Compare the best of the candidates with the best method that sees no encoder at test time, by mean AP."""
    differences = {}
    for task, groups in tasks.items():
        ours, other = (
            max(methods, key=lambda m: _mean(groups[m], "average_precision"))
            for methods in (candidates, NO_ENCODER_AT_TEST)
        )
        differences[f"{task}, {title(ours)} − {title(other)}"] = precision_difference(groups, ours, other)
    return decided(differences)


def _collapse(tasks: Mapping[str, Groups]) -> tuple[str, str]:
    """Return text and verdict on the encoder's MLP: less than half of CE's AP, and clearly below RG."""
    texts, passed = [], []
    for task, groups in tasks.items():
        mean = {m: values(groups[m], "average_precision").mean() for m in ("mlp", "ce")}
        difference = precision_difference(groups, "rg", "mlp")
        texts.append(f"{task}: MLP {mean['mlp']:.1f}, CE {mean['ce']:.1f}, RG − MLP {difference} points")
        passed += [mean["mlp"] < mean["ce"] / 2, difference.low > 0]
    return "; ".join(texts), verdict_word(passed)


def _differences(tasks: Mapping[str, Groups], first: str, second: str) -> dict[str, Interval]:
    """Return the difference of two methods' AP by task, under a name that says which is subtracted."""
    return {
        f"{task}, {title(first)} − {title(second)}": precision_difference(groups, first, second)
        for task, groups in tasks.items()
    }


def _in_both(first: Mapping[str, Interval], second: Mapping[str, Interval]) -> tuple[str, str]:
    """Return text and verdict of a claim about two families of tasks; with one of them it holds in part at most."""
    text, word = decided({**first, **second})
    one_sided = bool(first) != bool(second)
    return text, "holds in part" if one_sided and word == "holds" else word


def binary_verdicts(tasks: Mapping[str, Groups]) -> pd.DataFrame:
    """Return what the records say of each claim about Table 1 and Figures 1 and 7.

    Parameters
    ----------
    tasks : mapping of str to groups
        Binary tasks; a claim about a data set that is not among them is "not tested in this profile".

    Returns
    -------
    DataFrame
        Indexed by the claim's number; columns claim, paper, measured, verdict.
    """
    cifar, ham = _family(tasks, "cifar100"), _family(tasks, "ham10000")
    weighted, unweighted = _differences(ham, "rg-wce", "rg"), _differences(cifar, "rg", "rg-wce")
    mlp = _differences(cifar, "mlp", "rg")
    return verdict_table(
        {
            "C1": ("A good BA can hide a very poor precision", "Fig. 1", _hidden_precision(tasks)),
            "C11": ("BA and AP order the methods differently", "Table 1", _divergent_orders(tasks)),
            "C12": ("RUSC is competitive in BA and poor in AP", "BA 84.9 and AP 14.5 on CIFAR-100", _rusc(tasks)),
            "C13": ("RG is more lenient about the threshold than CE; RUSC separates worst", "Fig. 7", _lenient(tasks)),
            "C14": ("CE needs its threshold tuned for a good BA", "Section 4.2", _threshold_tuning(tasks)),
            "C15": ("Encoder+MLP beats RG on CIFAR-100", "+10.4 points", decided(mlp)),
            "C16": ("Encoder+MLP collapses on HAM10000, RG does not", "AP 0.7 against 55.5", _collapse(ham)),
            "C17": (
                "RG has the best AP without an encoder at test time, CIFAR-100",
                "+5.3 over ROS",
                _best_without_encoder(cifar, ["rg"]),
            ),
            "C18": (
                "The same on HAM10000",
                "+1.1, with WCE +9.4 over ROS",
                _best_without_encoder(ham, ["rg", "rg-wce"]),
            ),
            "C19": (
                "RG+WCE improves RG on HAM10000, not on CIFAR-100",
                "+8.3 and −1.1 points",
                _in_both(weighted, unweighted),
            ),
            "C24": ("LDAM is unstable", "std 7.3 and 15.5", unstable(tasks)),
        }
    )
