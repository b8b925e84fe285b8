"""The chapter on text: whether regrouping helps there, and what the clusters of sentences are about.

A contestant is a method with the space that it clusters, by the name that `plans.text_runs` gives it. Numbers in
tables are percent; a group's AP is that of the positive class, in a task of three classes the mean over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regroup_book import plans, show
from regroup_book.differences import Groups, best_on_validation, precision_difference
from regroup_book.method_tables import mean_cells
from regroup_lib.data.dataset import DataError
from regroup_lib.data.tasks import make_task
from regroup_lib.intervals import Interval, starred
from regroup_lib.runs.records import AVERAGE_PRECISION, Record
from regroup_lib.runs.specs import task_class_names


def task_title(task: plans.TextTask, *, fine_tuned: bool = False) -> str:
    """Return how tables and figures name a task: ``"negative news, 30:1"``, ``"news sentiment, fine-tuned"``."""
    name, imbalance = task
    thinned = "" if imbalance is None else f", {imbalance:g}:1"
    return show.task_name(name) + thinned + (", fine-tuned" if fine_tuned else "")


def titled(by_task: Mapping[tuple[plans.TextTask, bool], plans.Runs]) -> dict[str, plans.Runs]:
    """Return what `plans.text_results` returns by `task_title`; fine-tuned networks are tasks of their own."""
    return {task_title(task, fine_tuned=tuned): runs for (task, tuned), runs in by_task.items()}


def load_results(profile: str, seeds: Sequence[int]) -> dict[str, dict[str, list[Record]]]:
    """Return the records of each task by contestant, a record per seed; it refuses where one is missing."""
    runs = titled(plans.text_results(profile, seeds))
    return {name: plans.records_of(groups, "text") for name, groups in runs.items()}


# ---------------------------------------------------------------- tables


def task_table(results: Mapping[str, Groups]) -> pd.DataFrame:
    """Return one row per task: its sentences by class in training and test, its ratio, and AP by chance."""
    rows = []
    for task, groups in results.items():
        record = groups["CE"][0]
        names, trained = task_class_names(record.spec.task), record.regrouping["counts"]
        tested = np.bincount(record.arrays()["test_labels"], minlength=len(names))
        row = {"task": task, "training": _counted(names, trained), "test": _counted(names, tested)}
        row["largest : smallest"] = f"{max(trained) / min(trained):.1f}"
        row["AP by chance"] = f"{100 * (tested[1] / tested.sum() if len(names) == 2 else 1 / len(names)):.1f}"
        rows.append(row | {"network": show.network_name(record.spec.network), "epochs": record.spec.epochs})
    return pd.DataFrame(rows).set_index("task")


def _counted(names: Sequence[str], counts: Sequence[int]) -> str:
    return ", ".join(f"{count:,} {name}" for count, name in zip(counts, names, strict=True))


def text_table(groups: Groups) -> pd.DataFrame:
    """Return one row per contestant: BA, AP under both rules, calibrated AP, and AP minus CE's with its interval.

    Mean ± standard deviation over seeds, the best in bold; differences are starred after Holm's correction. A task of
    more than two classes also has the AP of each.
    """
    names = task_class_names(groups["CE"][0].spec.task)
    columns: dict[str, Iterable[Any]] = {"method": groups}
    for column, measure in (("BA", "balanced_accuracy"), ("AP", AVERAGE_PRECISION)):
        columns[column] = mean_cells(groups, measure, marked=True)
    for name in names if len(names) > 2 else ():
        columns[f"AP, {name}"] = mean_cells(groups, f"average_precision_{name}")
    columns["AP (sum)"] = show.rule_cells(groups, AVERAGE_PRECISION, "sum")
    columns["calibrated AP"] = mean_cells(groups, "calibrated_average_precision")
    return show.table(columns | {"AP − CE": show.gain_cells(groups, "CE")}, groups.values())


# What is compared -> the contestants that are subtracted.
COMPARISONS = {
    "RG − CE": ("RG", "CE"),
    "RG − random groups": ("RG", "random groups"),
    "random groups − CE": ("random groups", "CE"),
    "true classes − CE": ("true classes", "CE"),
    "RG on TF-IDF − RG": ("RG on TF-IDF", "RG"),
    "RG+WCE − WCE": ("RG+WCE", "WCE"),
    "encoder+MLP − RG": ("encoder+MLP", "RG"),
}


def comparison_table(results: Mapping[str, Groups]) -> pd.DataFrame:
    """Return differences in AP that tell what the clusters add, one row per comparison, one column per task."""
    differences: dict[tuple[str, str], Interval | None] = {}
    found: dict[str, list[Record]] = {name: [] for name in COMPARISONS}
    for task, groups in results.items():
        for name, (first, second) in COMPARISONS.items():
            there = {first, second} <= set(groups)
            differences[name, task] = precision_difference(groups, first, second) if there else None
            found[name] += [*groups[first], *groups[second]] if there else []
    texts = pd.Series(starred(list(differences.values())), pd.MultiIndex.from_tuples(differences))
    table = texts.unstack(sort=False).reindex(list(COMPARISONS)).rename_axis("difference in AP, points")
    return show.traced(table, found.values())


# ---------------------------------------------------------------- clusters


def nearest_sentences(record: Record, data_dir: str | Path | None = None) -> list[str] | None:
    """Return the sentence nearest to each cluster's center; None where the data set is not at hand.

    Records hold rows and single terms, for its licence may not let sentences be copied.
    """
    try:
        task = make_task(record.spec.task, validation_fraction=0, data_dir=data_dir)
    except DataError:
        return None
    if task.dataset.digest != record.data_digest:
        return None
    return task.train.inputs[record.arrays()["example_rows"][:, 0]].tolist()


def hidden_counts(record: Record) -> pd.DataFrame:
    """Return the sentences of each cluster of the large class by the classes that it hides [clusters, classes].

    The index has each cluster's number and its first terms of one word.
    """
    parent, counts = (np.asarray(record.regrouping[name]) for name in ("parent", "fine_counts"))
    inside = pd.DataFrame(counts[parent == 0], columns=show.fine_class_names(record.spec.task))
    words = [[term for term in terms if " " not in term][:3] for terms in record.regrouping["terms"][: len(inside)]]
    inside.index = [f"{cluster}: {', '.join(found)}" for cluster, found in enumerate(words, start=1)]
    return inside.loc[:, inside.sum() > 0]


def cluster_table(record: Record, sentences: Sequence[str] | None = None, *, n_terms: int = 6) -> pd.DataFrame:
    """Return one row per cluster of the large class: its size, its strongest terms, how its hidden classes are shared.

    The record is a look at an encoder, on a task of sentences; `sentences` come from `nearest_sentences`.
    """
    counts = hidden_counts(record)
    sizes, numbers = counts.sum(axis=1), range(len(counts))
    table = pd.DataFrame({"cluster": [k + 1 for k in numbers], "sentences": sizes.to_numpy()})
    for name, inside in counts.items():
        table[f"{name}, %"] = [f"{share:.0f}" for share in 100 * inside / sizes]
    table["terms"] = [", ".join(record.regrouping["terms"][k][:n_terms]) for k in numbers]
    if sentences is not None:
        table["nearest sentence"] = [sentences[k] for k in numbers]
    return table.set_index("cluster")


def describe_clusters(looks: Mapping[str, Sequence[Record]]) -> str:
    """Return how well clusters and neighbors match the classes, a Markdown list by encoder."""
    texts = []
    for encoder, group in looks.items():
        by_class = hidden_counts(group[0]).sum()
        nmi, purity = (np.mean([r.metrics[name] for r in group]) for name in ("nmi", "purity"))
        tested = np.bincount(group[0].arrays()["embedding_labels"])
        texts.append(
            f"- **{show.encoder_label(encoder)}.** The NMI of clusters and hidden classes is {nmi:.2f}. Purity is "
            f"{purity:.2f}; a single cluster would have {by_class.max() / by_class.sum():.2f}. Five nearest neighbors "
            f"find the class of {group[0].metrics['neighbor_accuracy']:.0%} of the test sentences; the largest class "
            f"alone holds {tested.max() / tested.sum():.0%}."
        )
    return "\n".join(texts)


# ---------------------------------------------------------------- the answer


def headline(results: Mapping[str, Groups]) -> str:
    """Return on how many tasks RG ranks better or worse than CE, than the best other method, than encoder+MLP."""
    found = [precision_difference(groups, "RG", "CE") for groups in results.values()]
    plain, ours = ("CE", "WCE", "Focal", "LA", "ROS"), ("RG", "RG+WCE")
    picks = [[best_on_validation(g, [m for m in some if m in g]) for some in (ours, plain)] for g in results.values()]
    rivals = [precision_difference(groups, *pair) for groups, pair in zip(results.values(), picks, strict=True)]
    direct = [precision_difference(g, "encoder+MLP", "RG") for g in results.values() if "encoder+MLP" in g]
    compared = (
        ("Regrouping (RG)", "plain training", found),
        ("RG, with class weights or not,", "the best method without an encoder, both chosen on validation,", rivals),
        ("A perceptron on the encoder's features", "RG", direct),
    )
    return " ".join(_compared(*parts) for parts in compared if parts[-1])


def _compared(first: str, second: str, differences: Sequence[Interval]) -> str:
    """Return in a sentence on how many tasks the first is clearly above and below the second."""
    above, below = sum(d.low > 0 for d in differences), sum(d.high < 0 for d in differences)
    if not above and not below:
        return f"{first} is neither clearly above nor clearly below {second} on any of {len(differences)} tasks."
    word, number = ("above", above) if above else ("below", below)
    rest = f", and clearly below it on {below}" if above and below else ""
    return f"{first} is clearly {word} {second} on {number} of {len(differences)} tasks{rest}."
