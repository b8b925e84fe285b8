"""Table 1's chapter: curves over the decision threshold, and sentences on its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from regroup_book import plans
from regroup_book.differences import Groups, precision_difference, rates_above, scores_on_test
from regroup_book.paper import paper_number
from regroup_book.show import learned_share, task_name
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


def gain_table(tasks: Mapping[str, Groups]) -> pd.DataFrame:
    """Return RG's gain in AP on each task, the paper's, and what plain training had learned of its labels."""
    rows = {}
    for task, groups in tasks.items():
        printed = [paper_number(task, method, "average_precision_positive") for method in ("rg", "ce")]
        rows[task_name(task)] = {
            "AP, regrouped − plain labels": str(precision_difference(groups, "rg", "ce")),
            "in the paper": f"{printed[0][0] - printed[1][0]:+.1f}" if all(printed) else "",
            "plain labels learned": f"{np.mean(list(map(learned_share, groups['ce']))):.0%}",
        }
    return pd.DataFrame(rows).T


def left_out(tasks: Sequence[str], profile: str) -> str:
    """Return a sentence that names the binary tasks of a profile that are not among `tasks`; empty if all are."""
    absent = [task_name(task) for task in plans.BINARY_TASKS[profile] if task not in tasks]
    return f"Without all records, and so without a verdict: {', '.join(absent)}." if absent else ""
