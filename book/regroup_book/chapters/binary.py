"""Table 1's chapter: curves over the decision threshold, and sentences on its tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regroup_book import plans
from regroup_lib.metrics import rates_above
from regroup_lib.runs.differences import Groups, scores_on_test
from regroup_lib.runs.records import Record


def threshold_curves(record: Record, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Return balanced accuracy and precision of a binary record's test set at each threshold."""
    labels, scores = scores_on_test(record)
    true, false = (rates[0] for rates in rates_above(labels == 1, scores[:, 1], thresholds))
    hits, alarms = true * (labels == 1).sum(), false * (labels == 0).sum()
    with np.errstate(invalid="ignore"):
        return {"balanced accuracy": (true + 1 - false) / 2, "precision": hits / (hits + alarms)}


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
