"""Table 1's chapter: curves over the decision threshold, and sentences on its tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regroup_book import plans
from regroup_book.differences import Groups, rates_above, scores_on_test
from regroup_book.show import task_name
from regroup_lib.runs.records import Record


def threshold_curves(record: Record, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Return balanced accuracy and precision of a binary record's test set at each threshold."""
    labels, scores = scores_on_test(record)
    true, false = (rates[0] for rates in rates_above(labels == 1, scores[:, 1], thresholds))
    hits, alarms = true * (labels == 1).sum(), false * (labels == 0).sum()
    with np.errstate(invalid="ignore"):
        return {"balanced accuracy": (true + 1 - false) / 2, "precision": hits / (hits + alarms)}


def describe_task(task: str, groups: Groups) -> str:
    """Return what a task consists of, in Markdown: class sizes in both splits and the chance level of AP."""
    record = groups["ce"][0]
    trained, tested = record.regrouping["counts"], np.bincount(record.arrays()["test_labels"], minlength=2)
    return (
        f"**{task_name(task)}.** Training: {trained[0]:,} negatives and {trained[1]:,} positives. "
        f"Test: {tested[0]:,} and {tested[1]:,}. A random ranking has an AP of {100 * tested[1] / tested.sum():.1f}%."
    )


def left_out(tasks: Sequence[str], profile: str) -> str:
    """Return a sentence that names the binary tasks of a profile that are not among `tasks`; empty if all are."""
    absent = [task_name(task) for task in plans.BINARY_TASKS[profile] if task not in tasks]
    return f"Without all records, and so without a verdict: {', '.join(absent)}." if absent else ""
