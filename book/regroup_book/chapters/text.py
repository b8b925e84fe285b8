"""The chapter on text: whether regrouping helps there, and what the clusters of sentences are about.

A contestant is a method with the space that it clusters, by the name that `plans.text_runs` gives it. Numbers in
tables are percent; a group's AP is that of the positive class, in a task of three classes the mean over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regroup_book import plans
from regroup_book.method_tables import best_marks, tuning_table
from regroup_book.show import encoder_label, fine_class_names, task_name, traced
from regroup_lib.data.dataset import DataError
from regroup_lib.data.tasks import make_task
from regroup_lib.intervals import Interval, mean_std, starred
from regroup_lib.runs.differences import (
    Groups,
    best_on_validation,
    precision_difference,
    result_on_test,
    values,
)
from regroup_lib.runs.records import Record
from regroup_lib.runs.specs import task_class_names


def task_title(task: plans.TextTask, *, fine_tuned: bool = False) -> str:
    """Return how tables and figures name a task: ``"negative news, 30:1"``, ``"news sentiment, fine-tuned"``."""
    name, imbalance = task
    thinned = "" if imbalance is None else f", {imbalance:g}:1"
    return task_name(name) + thinned + (", fine-tuned" if fine_tuned else "")


def load_results(profile: str, seeds: Sequence[int]) -> dict[str, dict[str, list[Record]]]:
    """Return the records of each task by contestant, one record per seed; fine-tuned networks are tasks of their own.

    Raises
    ------
    ValueError
        If a record is missing; the message says how to make it.
    """
    wanted = [(task, False) for task in plans.TEXT_TASKS[profile]]
    wanted += [(task, True) for task in plans.FINE_TUNED_TASKS[profile]]
    runs = {
        task_title(task, fine_tuned=tuned): plans.text_runs(task, profile, seeds, fine_tuned=tuned)
        for task, tuned in wanted
    }
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
        rows.append(row | {"network": record.spec.network, "epochs": record.spec.epochs})
    return pd.DataFrame(rows).set_index("task")


def _counted(names: Sequence[str], counts: Sequence[int]) -> str:
    return ", ".join(f"{count:,} {name}" for count, name in zip(counts, names, strict=True))


def text_table(groups: Groups) -> pd.DataFrame:
    """Return one row per contestant: BA, AP under both rules, calibrated AP, and AP minus CE's with its interval.

    Mean ± standard deviation over seeds. Two stars mark a column's best mean, one star those whose mean ± standard
    deviation meets it; differences are starred after Holm's correction. A task of more than two
    classes also has the AP of each.
    """
    measures = {"BA": "balanced_accuracy", "AP": "average_precision"}
    names = task_class_names(groups["CE"][0].spec.task)
    by_class = {f"AP, {name}": f"average_precision_{name}" for name in names} if len(names) > 2 else {}
    marks = {column: best_marks(groups, measure) for column, measure in measures.items()}
    rows = []
    for contestant, group in groups.items():
        row: dict[str, Any] = {"method": contestant}
        for column, measure in (measures | by_class).items():
            row[column] = mean_std(values(group, measure), scale=1) + marks.get(column, {}).get(contestant, "")
        row["AP (sum)"] = mean_std([result_on_test(r, "average_precision", "sum") for r in group])
        row["calibrated AP"] = mean_std(values(group, "calibrated_average_precision"), scale=1)
        rows.append(row)
    table = pd.DataFrame(rows)
    table["AP − CE"] = starred([None if name == "CE" else precision_difference(groups, name, "CE") for name in groups])
    return traced(table.set_index("method"), groups.values())


# What is compared -> the contestants that are subtracted.
COMPARISONS = {
    "RG − CE": ("RG", "CE"),
    "RG − random groups": ("RG", "random groups"),
    "random groups − CE": ("random groups", "CE"),
    "true classes − CE": ("true classes", "CE"),
    "RG on TF-IDF − RG": ("RG, tfidf", "RG"),
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
    return traced(table, found.values())


def text_tuning_table(profile: str, seeds: Sequence[int]) -> pd.DataFrame:
    """Return one row per task and way to regroup that was tried: its AP on the validation split, and the choice."""
    grids = {task_title(task): plans.text_grid(task, profile, seeds[0]) for task in plans.TEXT_TASKS[profile]}
    return tuning_table(grids, "task")


# ---------------------------------------------------------------- clusters


def nearest_sentences(record: Record, data_dir: str | Path | None = None) -> list[str] | None:
    """Return the sentence nearest to each cluster's centre; None where the data set is not at hand.

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
    inside = pd.DataFrame(counts[parent == 0], columns=fine_class_names(record.spec.task))
    words = [[term for term in terms if " " not in term][:3] for terms in record.regrouping["terms"][: len(inside)]]
    inside.index = [f"{cluster}: {', '.join(found)}" for cluster, found in enumerate(words, start=1)]
    return inside.loc[:, inside.sum() > 0]


def cluster_table(record: Record, sentences: Sequence[str] | None = None, *, n_terms: int = 6) -> pd.DataFrame:
    """Return one row per cluster of the large class: its size, its terms, and how its hidden classes are shared.

    Parameters
    ----------
    record : Record
        A look at an encoder, on a task of sentences.
    sentences : sequence of str, optional
        The nearest sentence of each pseudo-class, from `nearest_sentences`.
    n_terms : int
        Terms that are shown, the strongest first.
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
            f"- **{encoder_label(encoder)}.** The NMI of clusters and hidden classes is {nmi:.2f}. Purity is "
            f"{purity:.2f}; a single cluster would have {by_class.max() / by_class.sum():.2f}. Five nearest neighbors "
            f"find the class of {group[0].metrics['neighbor_accuracy']:.0%} of the test sentences; the largest class "
            f"alone holds {tested.max() / tested.sum():.0%}."
        )
    return "\n".join(texts)


# ---------------------------------------------------------------- the answer


def headline(results: Mapping[str, Groups]) -> str:
    """Return on how many tasks RG ranks better or worse than CE, than the best other method, than encoder+MLP."""
    found = [precision_difference(groups, "RG", "CE") for groups in results.values()]
    rivals = [_best_difference(groups) for groups in results.values()]
    direct = [precision_difference(g, "encoder+MLP", "RG") for g in results.values() if "encoder+MLP" in g]
    compared = (
        ("By AP, RG", "plain training (CE)", found),
        ("The better of RG and RG+WCE", "the best of the other methods on words, both chosen on validation,", rivals),
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


def _best_difference(groups: Groups) -> Interval:
    """Return the AP of the better of RG and RG+WCE minus that of the best on words that does not regroup.

    Both are picked on validation.
    """
    others = [name for name in ("CE", "WCE", "Focal", "LA", "ROS") if name in groups]
    ours, rival = (best_on_validation(groups, names) for names in (("RG", "RG+WCE"), others))
    return precision_difference(groups, ours, rival)
