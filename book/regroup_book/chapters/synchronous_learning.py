"""The pace of learning: total variation over epochs, and the gap between minority and majority."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from regroup_book.show import by_method, fine_class_names, style_of, table
from regroup_lib.data.tasks import parse_task
from regroup_lib.intervals import mean_std, minus
from regroup_lib.runs.records import Record


def pace_gap(record: Record) -> np.ndarray:
    """Return, after each epoch, how far the minority lags behind the majority in concentrating.

    The gap is log2 of the minority's total variation over the mean total variation of the majority's training
    classes. 0: in step; 1: the minority is still twice as widely spread; -1: half as widely.
    """
    minority = int(record.regrouping["parent"][-1])
    is_minority = np.asarray(record.regrouping["parent"]) == minority
    variation = np.array([epoch["variation"] for epoch in record.traces])
    return np.log2(variation[:, is_minority].mean(axis=1) / variation[:, ~is_minority].mean(axis=1))


def hidden_pace_gap(record: Record) -> np.ndarray:
    """Return `pace_gap` with the majority divided into the data set's own classes, whatever was trained on.

    A majority that is one training class mixes many kinds of images and stays wide for that reason alone; here all
    label sets are measured on the same classes.
    """
    minority = fine_class_names(record.spec.task).index(parse_task(record.spec.task)[1])
    variation = np.array([epoch["variation_fine"] for epoch in record.traces])
    majority = np.delete(variation, minority, axis=1)
    return np.log2(variation[:, minority] / majority.mean(axis=1))


def asynchrony(record: Record) -> float:
    """Return the mean over epochs of the absolute `pace_gap`: 0 when minority and majority learn in step."""
    return float(np.abs(pace_gap(record)).mean())


def asynchrony_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per method: `asynchrony` A, and the signed gap g behind it.

    Of g: the mean over epochs, the first and the last epoch's value, and the mean of `hidden_pace_gap`. Mean ±
    standard deviation over seeds.
    """
    groups = by_method(records)
    gaps = [[pace_gap(record) for record in group] for group in groups.values()]
    hidden = ([hidden_pace_gap(record).mean() for record in group] for group in groups.values())
    ends = (np.mean(group, axis=0)[[0, -1]] for group in gaps)
    columns = {
        "training labels": [style_of(group[0].spec).label for group in groups.values()],
        "A": [mean_std(np.abs(group).mean(axis=1), scale=1, digits=2) for group in gaps],
        "g, mean": [mean_std(np.mean(group, axis=1), scale=1, digits=2) for group in gaps],
        "g, first → last epoch": [minus(" → ".join(f"{value:+.2f}" for value in pair)) for pair in ends],
        "g, hidden classes": [mean_std(means, scale=1, digits=2) for means in hidden],
    }
    return table(columns, groups.values())
