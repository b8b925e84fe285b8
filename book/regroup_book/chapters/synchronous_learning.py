"""Do classes learn at the same pace: total variation over epochs, and the gap between minority and majority."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from regroup_book.show import band, by_method, fine_class_names, ordered_legend, rows_frame, style_of, traced
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
    """Return one row a method: `asynchrony` A, and the signed gap g behind it.

    Of g: the mean over epochs, the first and the last epoch's value, and the mean of `hidden_pace_gap`. Mean ±
    standard deviation over seeds.
    """
    groups, rows = by_method(records), []
    for group in groups.values():
        ends = np.mean([pace_gap(r)[[0, -1]] for r in group], axis=0)
        rows.append(
            {
                "training labels": style_of(group[0].spec).label,
                "A": mean_std([asynchrony(r) for r in group], scale=1, digits=2),
                "g, mean": mean_std([pace_gap(r).mean() for r in group], scale=1, digits=2),
                "g, first → last epoch": minus(" → ".join(f"{value:+.2f}" for value in ends)),
                "g, hidden classes": mean_std([hidden_pace_gap(r).mean() for r in group], scale=1, digits=2),
            }
        )
    return traced(rows_frame(rows), groups.values())


def plot_variation(records: Sequence[Record], *, seed: int | None = None) -> Figure:
    """Draw the total variation of each training class over epochs, one panel a method (Figure 5).

    The minority is the thick line, in its label set's color; each thin line is one class, pseudo-class or group of
    the majority.
    """
    groups = by_method(records)
    columns = 2 if len(groups) in (2, 4) else 3
    rows = -(-len(groups) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(7.6, 2.7 * rows), sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(groups) :]:
        axes.set_visible(False)
    for axes, group in zip(panels.flat, groups.values(), strict=False):
        record = group[0] if seed is None else next(r for r in group if r.spec.seed == seed)
        variation = np.array([epoch["variation"] for epoch in record.traces])
        parent = np.asarray(record.regrouping["parent"])
        minority = parent == parent[-1]
        epochs = np.arange(1, len(variation) + 1)
        axes.plot(epochs, variation[:, ~minority], color="0.55", linewidth=1.1)
        style = style_of(record.spec)
        axes.plot(epochs, variation[:, minority], color=style.color, linewidth=3)
        axes.set_title(style.label)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    for axes in panels[:, 0]:
        axes.set_ylabel("total variation\n(share of the whole set's)")
    panels[0, 0].set_ylim(bottom=0)
    first = panels[0, 0]
    first.plot([], [], color="0.2", linewidth=3, label="minority")
    first.plot([], [], color="0.55", linewidth=1.1, label="majority: one line a training class")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncol=2)
    return figure


def plot_pace_gap(records: Sequence[Record]) -> Figure:
    """Draw `pace_gap` over epochs, mean and range over seeds."""
    figure, axes = plt.subplots(figsize=(7.6, 4))
    axes.axhline(0, color="0.4", linewidth=1)
    for group in by_method(records).values():
        band(axes, [pace_gap(r) for r in group], style_of(group[0].spec))
    axes.set(xlabel="epoch", ylabel="pace gap: log2(minority / majority variation)")
    ordered_legend(axes)
    return figure
