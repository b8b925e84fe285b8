"""The numbers that the paper prints."""

from __future__ import annotations

import importlib.resources
from functools import cache

import pandas as pd

# The paper contradicts itself about the positive class of its second binary task; both candidates are compared.
PAPER_TASKS = {
    "cifar100-worm": "cifar100-worm",
    "ham10000-bcc": "ham10000-binary",
    "ham10000-akiec": "ham10000-binary",
    "ham10000": "ham10000",
}


@cache
def paper_numbers(table: int) -> pd.DataFrame:
    """Return the numbers of the paper's Table 1 or 2: columns task, method, measure, mean, std (percent)."""
    source = importlib.resources.files("regroup_book") / "paper_data" / f"table{table}.csv"
    with source.open(encoding="utf-8") as stream:
        return pd.read_csv(stream)


def paper_number(task: str, method: str, measure: str) -> tuple[float, float] | None:
    """Return mean and standard deviation that the paper prints, or None where it has no such row.

    Task and method are this project's identifiers, measures ``"balanced_accuracy"``, ``"average_precision_positive"``,
    ``"average_precision_negative"``, or in the multiclass task ``"average_precision_<class>"``.
    """
    frame = paper_numbers(2 if task == "ham10000" else 1)
    row = frame[(frame.task == PAPER_TASKS.get(task)) & (frame.method == method) & (frame.measure == measure)]
    return None if row.empty else (float(row["mean"].iloc[0]), float(row["std"].iloc[0]))


def paper_cell(task: str, method: str, measure: str) -> str:
    """Return the paper's number as text, empty where it has none."""
    number = paper_number(task, method, measure)
    return "" if number is None else f"{number[0]:.1f} ± {number[1]:.1f}"
