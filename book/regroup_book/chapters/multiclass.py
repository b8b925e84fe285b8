"""Table 2 and what stands beside it: a multiclass task class by class, thresholds, clusters, leakage, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, recall_score

from regroup_book.method_tables import best_marks, relative_cost, title
from regroup_book.paper import paper_cell
from regroup_book.show import traced
from regroup_lib.diagnostics import plot_image_rows
from regroup_lib.intervals import mean_std, minus
from regroup_lib.runs.differences import Groups, precision_difference, scores_on_test, values
from regroup_lib.runs.records import Record, find_record
from regroup_lib.runs.specs import task_class_names

LOSS_BASED = ("ce", "wce", "focal", "ldam", "la")


def class_names(groups: Groups) -> tuple[str, ...]:
    """Return the names of the classes of the groups' task."""
    return task_class_names(next(iter(groups.values()))[0].spec.task)


def describe_task(groups: Groups) -> str:
    """Return one sentence on the test set: the images of each class, seeds, epochs and network."""
    record = groups["ce"][0]
    counts = np.bincount(scores_on_test(record)[0])
    listed = ", ".join(f"{name} {count:,}" for name, count in zip(class_names(groups), counts, strict=True))
    return (
        f"The test set has {counts.sum():,} images ({listed}). {len(groups['ce'])} seeds, {record.spec.epochs} epochs "
        f"of {record.spec.network}."
    )


def class_table(groups: Groups, task: str) -> pd.DataFrame:
    """Return BA and each class's AP, ours over the paper's, a row a method (Table 2).

    Mean ± standard deviation over seeds, percent. Two stars mark the best mean of a column, one star those whose
    mean ± std meets the best one's. Cells hold HTML.
    """
    measures = {"BA": "balanced_accuracy"} | {name: f"average_precision_{name}" for name in class_names(groups)}
    rows = []
    marks = {name: best_marks(groups, measure) for name, measure in measures.items()}
    for method, group in groups.items():
        row: dict[str, Any] = {"method": escape(title(method))}
        for name, measure in measures.items():
            stars = {"best": " **", "overlap": " *"}.get(marks[name].get(method, ""), "")
            paper = paper_cell(task, method, measure)
            ours = mean_std(values(group, measure), scale=1) + stars
            row[name] = ours + (f'<br><span class="paper">{paper}</span>' if paper else "")
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index("method"), groups.values())


def average_table(groups: Groups) -> pd.DataFrame:
    """Return what can stand for all classes: mean AP, calibrated mean AP, macro F1, BA, with the ranks they give."""
    measures = {
        "mean AP": "average_precision",
        "calibrated mean AP": "calibrated_average_precision",
        "macro F1": "macro_f1",
        "BA": "balanced_accuracy",
    }
    measured = {name: {m: values(g, measure) for m, g in groups.items()} for name, measure in measures.items()}
    rows = []
    for method in groups:
        row: dict[str, Any] = {"method": title(method)}
        for name, by_method in measured.items():
            row[name] = mean_std(by_method[method], scale=1)
            means = {m: np.nan_to_num(v.mean(), nan=-1) for m, v in by_method.items()}
            row[f"rank, {name}"] = 1 + sum(mean > means[method] for mean in means.values())
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index("method"), groups.values())


def class_counts(record: Record) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the training samples of each class, and of its pseudo-classes, of a regrouped record."""
    parent, counts = np.asarray(record.regrouping["parent"]), np.asarray(record.regrouping["counts"])
    parts = [counts[parent == c] for c in range(parent.max() + 1)]
    return np.array([part.sum() for part in parts]), parts


def plot_class_counts(record: Record) -> Figure:
    """Draw the class sizes before regrouping and those of the pseudo-classes after it."""
    names, (whole, parts) = task_class_names(record.spec.task), class_counts(record)
    figure, axes = plt.subplots(figsize=(6.6, 3.6))
    position = np.arange(len(names))
    axes.bar(position, whole, width=0.72, color="0.85", edgecolor="0.4", label="class, before")
    rng = np.random.default_rng(0)
    for x, part in zip(position, parts, strict=True):
        jitter = np.zeros(1) if len(part) == 1 else rng.uniform(-0.28, 0.28, len(part))
        label = "pseudo-class, after" if x == 0 else None
        axes.plot(x + jitter, part, "o", color="#0072B2", markersize=4, markeredgecolor="white", label=label)
        axes.text(x, whole[x] * 1.15, f"{whole[x]:,}\n→ {len(part)}", ha="center", va="bottom", fontsize=9)
    axes.axhline(record.spec.threshold or whole.min(), color="#D55E00", linestyle="--", linewidth=1.2, label="n'")
    axes.set(
        yscale="log",
        ylabel="training images",
        xlabel="class",
        ylim=(max(0.8, min(map(min, parts)) / 2), whole.max() * 4),
    )
    axes.set_xticks(position, names)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def plot_sensitivity(by_threshold: Mapping[float, Sequence[Record]], baseline: Sequence[Record]) -> Figure:
    """Draw BA, mean AP and calibrated mean AP of RG as the threshold n' moves, with CE as dashed lines.

    CE is the limit: a threshold as large as the largest class regroups nothing.
    """
    thresholds = np.array(list(by_threshold))
    figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.4))
    measures = {
        "BA": "balanced_accuracy",
        "mean AP": "average_precision",
        "calibrated mean AP": "calibrated_average_precision",
    }
    for axes, (name, measure) in zip(panels, measures.items(), strict=True):
        curves = np.array([values(group, measure) for group in by_threshold.values()])
        reference = values(baseline, measure)
        axes.axhline(reference.mean(), color="black", linestyle="--", linewidth=1.3, label="CE (mean)")
        axes.errorbar(
            thresholds,
            curves.mean(axis=1),
            curves.std(axis=1, ddof=1),
            color="#0072B2",
            marker="X",
            capsize=3,
            label="RG (mean ± std)",
        )
        axes.plot(np.repeat(thresholds, curves.shape[1]), curves.ravel(), ".", color="#0072B2", alpha=0.4)
        axes.set(xscale="log", xlabel="threshold n' (training images)", ylabel=f"{name} (%)", title=name)
        axes.set_xticks(thresholds, [f"{t:g}" for t in thresholds])
        axes.minorticks_off()
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncol=2)
    return figure


def sensitivity_table(by_threshold: Mapping[float, Sequence[Record]]) -> pd.DataFrame:
    """Return one row a threshold: the number of pseudo-classes, BA, mean AP and the AP of each class."""
    rows = []
    for threshold, group in by_threshold.items():
        _, parts = class_counts(group[0])
        row: dict[str, Any] = {"n'": f"{threshold:g}", "pseudo-classes": sum(len(part) for part in parts)}
        names = task_class_names(group[0].spec.task)
        measures = {"BA": "balanced_accuracy", "mean AP": "average_precision"}
        measures |= {name: f"average_precision_{name}" for name in names}
        row |= {name: mean_std(values(group, measure), scale=1) for name, measure in measures.items()}
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index("n'"), by_threshold.values())


def plot_confusions(groups: Groups, methods: Sequence[str] = ("ce", "ros", "rg")) -> Figure:
    """Draw each method's confusion matrix: shares of the true class in percent, all seeds together."""
    methods = [m for m in methods if m in groups]
    names = class_names(groups)
    figure, panels = plt.subplots(1, len(methods), figsize=(3.5 * len(methods), 3.7), squeeze=False, sharey=True)
    for axes, method in zip(panels[0], methods, strict=True):
        finished = [scores_on_test(r) for r in groups[method] if r.status == "finished"]
        matrix = sum(confusion_matrix(y, s.argmax(axis=1), labels=range(len(names))) for y, s in finished)
        shares = 100 * matrix / matrix.sum(axis=1, keepdims=True)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for (row, column), share in np.ndenumerate(shares):
            color = "white" if share > 55 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=color)
        ticks = range(len(names))
        axes.set_xticks(ticks, names, rotation=45)
        axes.set_yticks(ticks, names)
        axes.set(xlabel="predicted", title=f"{title(method)}: BA {shares.diagonal().mean():.1f}")
        axes.grid(False)
    panels[0, 0].set_ylabel("true class (rows sum to 100%)")
    return figure


def plot_calibrated_classes(groups: Groups, methods: Sequence[str] = ("ce", "rg")) -> Figure:
    """Draw AP and calibrated AP class by class, with the chance level of each."""
    names = class_names(groups)
    first = groups[methods[0]][0]
    labels, _ = scores_on_test(first)
    prevalence = 100 * np.bincount(labels, minlength=len(names)) / len(labels)
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    position, looks = np.arange(len(names)), {"ce": ("#000000", "o"), "rg": ("#0072B2", "X")}
    kinds = (
        ("average_precision", "AP", prevalence),
        ("calibrated_average_precision", "calibrated AP", [50] * len(names)),
    )
    for axes, (measure, label, chance) in zip(panels, kinds, strict=True):
        axes.bar(position, chance, width=0.8, color="0.88", label="by chance")
        for method in (m for m in methods if m in groups):
            by_class = [_by_class(r, measure) for r in groups[method] if r.status == "finished"]
            color, marker = looks.get(method, ("0.4", "s"))
            axes.plot(position, 100 * np.mean(by_class, axis=0), marker, color=color, label=title(method), markersize=7)
        axes.set_xticks(position, names)
        axes.set(title=label, ylim=(0, 102), xlabel="class, the largest first")
    panels[0].set_ylabel("percent")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=4)
    return figure


def _by_class(record: Record, measure: str) -> np.ndarray:
    rule = "none" if "none" in record.metrics else "max"
    return np.array(list(record.metrics[rule]["test"][measure].values()))


# ---------------------------------------------------------------- what the clusters hold


def plot_cluster_images(look: Record) -> Figure:
    """Draw the images nearest the centres of the largest class's clusters, a row a cluster, the largest first."""
    arrays = look.arrays()
    examples, shown = arrays["examples"], arrays["example_clusters"]
    sizes = np.asarray(look.regrouping["counts"])[shown]
    names = [f"{k}: {size}" for k, size in zip(shown, sizes, strict=True)]
    return plot_image_rows(examples, names, "cluster: its images")


EXPLAINED_NAMES = {"localization": "site on the body", "dx_type": "how the diagnosis was made"}


def explained_table(looks: Sequence[Record]) -> pd.DataFrame:
    """Return how much of each known quantity the clusters of the largest class explain, corrected for chance.

    Percent, mean ± standard deviation over seeds, the most explained first.
    """
    explained = [look.metrics["contents"]["explained"] for look in looks]
    found = {name: 100 * np.array([e[name] for e in explained], float) for name in explained[0]}
    ordered = sorted(found, key=lambda name: -np.nan_to_num(found[name].mean(), nan=-1))
    rows = [
        {"what is known of an image": EXPLAINED_NAMES.get(name, name), "explained": mean_std(found[name], scale=1)}
        for name in ordered
    ]
    return pd.DataFrame(rows).set_index("what is known of an image")


def cluster_table(look: Record) -> pd.DataFrame:
    """Return one row a shown cluster: its size and its commonest or median attributes."""
    shown = look.arrays()["example_clusters"].tolist()
    by_number = {entry["cluster"]: entry for entry in look.metrics["contents"]["clusters"]}
    rows = []
    for number in shown:
        entry = dict(by_number[number])
        row = {"cluster": entry.pop("cluster"), "images": entry.pop("size")}
        rows.append(row | {EXPLAINED_NAMES.get(name, name): _shown(value) for name, value in entry.items()})
    return pd.DataFrame(rows).set_index("cluster")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return f"{value[0]} ({value[1]:.0%})"
    return minus(f"{value:.3f}".removesuffix(".000"))


def same_lesion_sentence(looks: Sequence[Record]) -> str:
    """Return how often two images of one lesion share a cluster, against chance; empty where no lesions are known."""
    found = [look.metrics["contents"].get("same_lesion") for look in looks]
    if None in found:
        return ""
    together = mean_std([f["together"] for f in found])
    chance = np.mean([f["chance"] for f in found])
    return (
        f"Two images of one lesion lie in one cluster in {together}% of {found[0]['pairs']:,} pairs, "
        f"by chance in {100 * chance:.1f}%."
    )


# ---------------------------------------------------------------- leakage, and oversampling's extra data


def leakage_table(groups: Groups, leaking: Groups) -> pd.DataFrame:
    """Return what a split by image does to the results: both splits, and their difference.

    The last two columns are of the split by image alone: recall, mean over classes, of test images whose lesion is in
    the training set too, and of the others.
    """
    rows, found = [], []
    for method, naive in leaking.items():
        honest = groups_at_default(groups, method, naive)
        found.append([*honest, *naive])
        row: dict[str, Any] = {"method": title(method)}
        for name, measure in (("mean AP", "average_precision"), ("BA", "balanced_accuracy")):
            by_lesion, by_image = values(honest, measure), values(naive, measure)
            row[f"{name}, by lesion"] = mean_std(by_lesion, scale=1)
            row[f"{name}, by image"] = mean_std(by_image, scale=1)
            row[f"{name}, inflated by"] = f"{by_image.mean() - by_lesion.mean():+.1f}"
        seen = [recall_by_exposure(record) for record in naive]
        row["recall, lesion seen"] = mean_std([s for s, _ in seen])
        row["recall, lesion new"] = mean_std([s for _, s in seen])
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index("method"), found)


def groups_at_default(groups: Groups, method: str, like: Sequence[Record]) -> list[Record]:
    """Return the records by lesion with the settings of `like`; RG's table row may have another threshold."""
    specs = [record.spec.model_copy(update={"split": "published"}) for record in like]
    known = {record.spec: record for record in groups[method]}
    return [known.get(spec) or find_record(spec) for spec in specs]


def recall_by_exposure(record: Record) -> tuple[float, float]:
    """Return recall, mean over classes, of test images whose lesion was trained on, and of those whose was not.

    Classes with no image of either kind are left out of both means.
    """
    labels, scores = scores_on_test(record)
    seen, predicted = record.arrays()["test_in_training"], scores.argmax(axis=1)
    classes = [c for c in range(scores.shape[1]) if (seen & (labels == c)).any() and (~seen & (labels == c)).any()]
    recalls = [recall_score(labels[part], predicted[part], labels=classes, average="macro") for part in (seen, ~seen)]
    return float(recalls[0]), float(recalls[1])


def leakage_sentence(leaking: Groups) -> str:
    """Return how many test images of the split by image show a lesion that was trained on."""
    if not leaking:
        return "These images come in no groups, so nothing can leak; profile `cpu` has lesions."
    seen = next(iter(leaking.values()))[0].arrays()["test_in_training"]
    return (
        f"In the split by image {seen.mean():.0%} of the {len(seen):,} test images show a lesion of the training set."
    )


def budget_table(groups: Groups, equal_budget: Sequence[Record]) -> pd.DataFrame:
    """Return CE, ROS, and ROS that sees no more images than CE: BA, mean AP, and images seen."""
    shown = {"CE": groups["ce"], "ROS": groups["ros"], "ROS, as many images as CE": equal_budget}
    rows = []
    for name, group in shown.items():
        row = {
            "method": name,
            "epochs": group[0].spec.epochs,
            "images seen": f"{relative_cost(group, groups['ce']):.2f}",
        }
        for label, measure in (("BA", "balanced_accuracy"), ("mean AP", "average_precision")):
            row[label] = mean_std(values(group, measure), scale=1)
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index("method"), shown.values())


def _test_sizes(groups: Groups) -> np.ndarray:
    """Return how many test images each class has."""
    return np.bincount(scores_on_test(groups["ce"][0])[0], minlength=len(class_names(groups)))


def headline(groups: Groups) -> str:
    """Say which place RG takes by mean AP, what it adds to CE, and who is first on the smallest class."""
    sizes = _test_sizes(groups)
    smallest = class_names(groups)[int(sizes.argmin())]
    on_smallest = {m: values(g, f"average_precision_{smallest}") for m, g in groups.items()}
    order = _best_first({m: values(g, "average_precision") for m, g in groups.items()})
    rival = _best_first(on_smallest)[0]
    ahead = "" if order[0] == "rg" else f", {title(order[0])} number 1"
    return (
        f"By mean AP, RG is number {order.index('rg') + 1} of {len(groups)} methods{ahead}; it adds "
        f"{precision_difference(groups, 'rg', 'ce')} points to CE. On the smallest class, {smallest} with "
        f"{sizes.min()} test images, {title(rival)} is first with {mean_std(on_smallest[rival], scale=1)}; RG has "
        f"{mean_std(on_smallest['rg'], scale=1)}."
    )


def _best_first(precisions: Mapping[str, np.ndarray]) -> list[str]:
    return sorted(precisions, key=lambda method: -np.nan_to_num(precisions[method].mean(), nan=-1))
