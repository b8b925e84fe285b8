"""Do classes learn at the same pace: total variation over epochs, and the gap between minority and majority."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

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

    A majority that is one training class mixes many kinds of image and stays wide for that reason alone; here every
    label set is held against the same classes.
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


def plot_variation(records: Sequence[Record]) -> Figure:
    """Draw the total variation of each training class over epochs, first seed, one panel per method (Figure 5).

    The minority is the thick line, in its label set's color; each thin line is one class, pseudo-class or group of
    the majority.
    """
    groups = by_method(records)
    rows = (len(groups) + 1) // 2
    figure, panels = plt.subplots(rows, 2, figsize=(5, 2.1 * rows + 0.5), sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(groups) :]:
        axes.set_visible(False)
    for axes, (record, *_) in zip(panels.flat, groups.values(), strict=False):
        variation = np.array([epoch["variation"] for epoch in record.traces])
        minority = np.asarray(record.regrouping["parent"]) == record.regrouping["parent"][-1]
        epochs, style = np.arange(1, len(variation) + 1), style_of(record.spec)
        axes.plot(epochs, variation[:, ~minority], color="0.55", linewidth=1.1)
        axes.plot(epochs, variation[:, minority], color=style.color, linewidth=3)
        axes.set(title=style.label, xlabel="epoch", ylabel="total variation")
        axes.label_outer()
    first = panels[0, 0]
    first.set_ylim(bottom=0)
    first.plot([], [], color="0.2", linewidth=3, label="minority")
    first.plot([], [], color="0.55", linewidth=1.1, label="majority, one line for each training class")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncol=1)
    return figure
