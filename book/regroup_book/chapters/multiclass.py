"""A multiclass task class by class (Table 2): thresholds, clusters, leakage between splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import recall_score

from regroup_book.differences import Groups, precision_difference, scores_on_test, values
from regroup_book.method_tables import mean_cells, relative_cost, title
from regroup_book.paper import paper_cell
from regroup_book.show import listed, table
from regroup_lib.intervals import mean_std, minus
from regroup_lib.runs.records import Record, find_record
from regroup_lib.runs.specs import task_class_names


def class_names(groups: Groups) -> tuple[str, ...]:
    """Return the names of the classes of the groups' task."""
    return task_class_names(next(iter(groups.values()))[0].spec.task)


def describe_task(groups: Groups) -> str:
    """Return the images of each class in the test set, in words."""
    counts = np.bincount(scores_on_test(groups["ce"][0])[0])
    listed = ", ".join(f"{name} {count:,}" for name, count in zip(class_names(groups), counts, strict=True))
    return f"Test images of each class: {listed}."


def class_table(groups: Groups, task: str) -> pd.DataFrame:
    """Return BA and each class's AP, ours over the paper's (Table 2), the best in bold; cells are HTML."""
    columns: dict[str, Iterable[Any]] = {"method": [escape(title(method)) for method in groups]}
    for name, measure in {"BA": "balanced_accuracy", **_by_class(class_names(groups))}.items():
        paper = [paper_cell(task, method, measure) for method in groups]
        below = [f'<br><span class="paper">{cell}</span>' if cell else "" for cell in paper]
        columns[name] = [a + b for a, b in zip(mean_cells(groups, measure, marked=True), below, strict=True)]
    return table(columns, groups.values())


def _by_class(names: Sequence[str]) -> dict[str, str]:
    return {name: f"average_precision_{name}" for name in names}


AVERAGES = {
    "mean AP": "average_precision",
    "calibrated mean AP": "calibrated_average_precision",
    "macro F1": "macro_f1",
    "BA": "balanced_accuracy",
}


def average_table(groups: Groups) -> pd.DataFrame:
    """Return averages over classes: mean AP, calibrated mean AP, macro F1 and BA, with the ranks that they give."""
    columns: dict[str, Iterable[Any]] = {"method": map(title, groups)}
    for name, measure in AVERAGES.items():
        means = [np.nan_to_num(values(group, measure).mean(), nan=-1) for group in groups.values()]
        columns[name] = mean_cells(groups, measure)
        columns[f"rank, {name}"] = [1 + sum(other > mean for other in means) for mean in means]
    return table(columns, groups.values())


def class_counts(record: Record) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the training samples of each class, and of its pseudo-classes, of a regrouped record."""
    parent, counts = np.asarray(record.regrouping["parent"]), np.asarray(record.regrouping["counts"])
    parts = [counts[parent == c] for c in range(parent.max() + 1)]
    return np.array([part.sum() for part in parts]), parts


def sensitivity_table(by_threshold: Mapping[float, Sequence[Record]]) -> pd.DataFrame:
    """Return one row per threshold: the number of pseudo-classes, BA, mean AP and the AP of each class."""
    columns: dict[str, Iterable[Any]] = {"n'": [f"{threshold:g}" for threshold in by_threshold]}
    columns["pseudo-classes"] = [len(group[0].regrouping["parent"]) for group in by_threshold.values()]
    measures = {"BA": "balanced_accuracy", "mean AP": "average_precision", **_by_class(class_names(by_threshold))}
    columns |= {name: mean_cells(by_threshold, measure) for name, measure in measures.items()}
    return table(columns, by_threshold.values())


# ---------------------------------------------------------------- contents of the clusters

EXPLAINED_NAMES = {"localization": "site on the body", "dx_type": "how the diagnosis was made"}
ATTRIBUTE_NAMES = {"follow_up": "follow-up", "histo": "histopathology"}


def explained_table(looks: Sequence[Record]) -> pd.DataFrame:
    """Return how much of each known quantity the clusters of the largest class explain, corrected for chance.

    Percent, mean ± standard deviation over seeds, the most explained first.
    """
    explained = pd.DataFrame([look.metrics["contents"]["explained"] for look in looks], dtype=float)
    ordered = explained.mean(skipna=False).fillna(-1).sort_values(ascending=False, kind="stable").index
    columns = {
        "what is known of an image": [EXPLAINED_NAMES.get(name, name) for name in ordered],
        "explained": [mean_std(explained[name]) for name in ordered],
    }
    return pd.DataFrame(columns).set_index("what is known of an image")


def cluster_table(look: Record) -> pd.DataFrame:
    """Return one row per shown cluster: its size and its commonest or median attributes."""
    by_number = {entry["cluster"]: entry for entry in look.metrics["contents"]["clusters"]}
    names = EXPLAINED_NAMES | {"size": "images"}
    rows = [by_number[number] for number in look.arrays()["example_clusters"].tolist()]
    return pd.DataFrame([{names.get(key, key): _shown(value) for key, value in row.items()} for row in rows]).set_index(
        "cluster"
    )


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return "" if value is None else value
    if isinstance(value, list):
        return f"{ATTRIBUTE_NAMES.get(value[0], value[0])} ({value[1]:.0%})"
    return minus(f"{value:.3f}".removesuffix(".000"))


def explained_sentence(looks: Sequence[Record]) -> str:
    """Say which two quantities the clusters of the largest class follow most closely."""
    first, second = explained_table(looks)["explained"].iloc[:2].items()
    return (
        f"The clusters of the largest class follow {first[0]} most closely: they explain {first[1]}% of its variation, "
        f"and {second[1]}% of that of {second[0]}."
    )


def same_lesion_sentence(looks: Sequence[Record]) -> str:
    """Return how often two images of one lesion share a cluster, against chance; empty where no lesions are known."""
    found = [look.metrics["contents"].get("same_lesion") for look in looks]
    if None in found:
        return ""
    together = mean_std([f["together"] for f in found])
    chance = np.mean([f["chance"] for f in found])
    return (
        f"Two images of one lesion are in the same cluster in {together}% of the pairs; by chance it would be "
        f"{100 * chance:.1f}%."
    )


# ---------------------------------------------------------------- leakage, and the extra data of oversampling


def leakage_table(groups: Groups, leaking: Groups) -> pd.DataFrame:
    """Return the effect of a split by image on the results: both splits, and their difference.

    The last two columns are of the split by image alone: recall, mean over classes, of test images whose lesion is in
    the training set too, and of the others.
    """
    honest = {method: _by_lesion(groups[method], naive) for method, naive in leaking.items()}
    columns: dict[str, Iterable[Any]] = {"method": map(title, leaking)}
    for name, measure in (("mean AP", "average_precision"), ("BA", "balanced_accuracy")):
        means = [[values(by[m], measure).mean() for m in leaking] for by in (leaking, honest)]
        columns[f"{name}, by lesion"] = mean_cells(honest, measure)
        columns[f"{name}, by image"] = mean_cells(leaking, measure)
        columns[f"{name}, inflated by"] = [f"{difference:+.1f}" for difference in np.subtract(*means)]
    recalls = [np.transpose([recall_by_exposure(record) for record in naive]) for naive in leaking.values()]
    for i, exposure in enumerate(("seen", "new")):
        columns[f"recall, lesion {exposure}"] = [mean_std(of_method[i]) for of_method in recalls]
    return table(columns, [[*honest[method], *leaking[method]] for method in leaking])


def _by_lesion(group: Sequence[Record], like: Sequence[Record]) -> list[Record]:
    """Return the records by lesion with the settings of `like`; RG's table row may have another threshold."""
    specs = [record.spec.model_copy(update={"split": "published"}) for record in like]
    known = {record.spec: record for record in group}
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
        return "The images of this task do not come in groups, so a split by image hides nothing."
    seen = next(iter(leaking.values()))[0].arrays()["test_in_training"]
    return f"In the split by image, {seen.mean():.0%} of the test images show a lesion of the training set."


def budget_table(groups: Groups, equal_budget: Sequence[Record]) -> pd.DataFrame:
    """Return CE, ROS, and ROS that sees no more images than CE: BA, mean AP, and images seen."""
    shown = {"CE": groups["ce"], "ROS": groups["ros"], "ROS, as many images as CE": equal_budget}
    columns = {
        "method": shown,
        "epochs": [group[0].spec.epochs for group in shown.values()],
        "images seen": [f"{relative_cost(group, groups['ce']):.2f}" for group in shown.values()],
        "BA": mean_cells(shown, "balanced_accuracy"),
        "mean AP": mean_cells(shown, "average_precision"),
    }
    return table(columns, shown.values())


def headline(groups: Groups) -> str:
    """Say which place RG takes by mean AP, and who is first on the smallest class."""
    sizes = np.bincount(scores_on_test(groups["ce"][0])[0])
    smallest = class_names(groups)[int(sizes.argmin())]
    order, first = _best_first(groups, "average_precision"), _best_first(groups, f"average_precision_{smallest}")[0]
    ap = dict(zip(groups, mean_cells(groups, f"average_precision_{smallest}"), strict=True))
    place = order.index("rg") + 1
    by_mean = "is first" if place == 1 else f"has rank {place}, and {title(order[0])} is first"
    by_smallest = f"{title(first)} is first with an AP of {ap[first]}; RG has {ap['rg']}"
    if first == "rg":
        by_smallest = f"RG is first, with an AP of {ap['rg']}"
    return (
        f"By mean AP, RG {by_mean} of {len(groups)} methods. On the smallest class, {smallest} with {sizes.min()} test "
        f"images, {by_smallest}."
    )


def gains_by_class(groups: Groups) -> str:
    """Say on which classes RG's AP differs clearly from that of CE, and by how much."""
    names = class_names(groups)
    gains = {name: precision_difference(groups, "rg", "ce", [c]) for c, name in enumerate(names)}
    clear = [f"{name} ({gain} points)" for name, gain in gains.items() if gain.clear]
    if not clear:
        return f"RG and CE differ clearly on none of the {len(names)} classes."
    return f"RG and CE differ clearly on {len(clear)} of {len(names)} classes: {listed(clear)}."


def _best_first(groups: Groups, measure: str) -> list[str]:
    return sorted(groups, key=lambda method: -np.nan_to_num(values(groups[method], measure).mean(), nan=-1))
