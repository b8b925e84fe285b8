"""Pictures from records: the spaces of encoders and networks, and the method as a diagram."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from regroup_book.show import encoder_label, fine_class_names, style_of
from regroup_lib.data.tasks import parse_task
from regroup_lib.runs.records import Record
from regroup_lib.runs.specs import EncoderSpec


def plot_embeddings(records: Sequence[Record]) -> Figure:
    """Draw the t-SNE plots that training or encoder records hold, by the data set's own classes (Figure 3)."""
    names, (_, positive) = fine_class_names(records[0].spec.task), parse_task(records[0].spec.task)
    colors = dict(zip(names, itertools.cycle(sns.color_palette("tab10")))) | {positive: "black"}
    look = {"palette": colors, "hue_order": names, "style_order": names, "s": 8, "linewidth": 0, "alpha": 0.8}
    rows = -(-len(records) // 2)
    figure, panels = plt.subplots(rows, 2, figsize=(4.6, 2.4 * rows + 1), squeeze=False)
    for axes in panels.flat[len(records) :]:
        axes.set_visible(False)
    for axes, record in zip(panels.flat, records, strict=False):
        arrays = record.arrays()
        points = pd.DataFrame(arrays["embedding"], columns=["x", "y"])
        points["class"] = np.array(names)[arrays["embedding_labels"]]
        points = points.sort_values("class", key=lambda name: name == positive, kind="stable")  # drawn last, on top
        sns.scatterplot(points, x="x", y="y", hue="class", style="class", ax=axes, **look)
        encoded = isinstance(record.spec, EncoderSpec)
        title = encoder_label(record.spec.encoder) if encoded else style_of(record.spec).label
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="", title=title)
        axes.spines[:].set_visible(True)
        handles, labels = axes.get_legend_handles_labels()
        axes.get_legend().remove()
    figure.legend(
        handles, labels, loc="outside lower center", ncol=4, markerscale=2, columnspacing=1, handletextpad=0.1
    )
    return figure


def plot_pipeline(record: Record) -> Figure:
    """Draw the method with the clusters of an encoder record, which holds the images nearest each center (Figure 2)."""
    parent, counts = np.asarray(record.regrouping["parent"]), np.asarray(record.regrouping["counts"])
    name = record.spec.task.split("-", 1)[1]
    figure, axes = plt.subplots(figsize=(7.6, 4.05))
    axes.set(xlim=(0, 90), ylim=(5.5, 53), aspect="equal")
    axes.axis("off")
    boxes = [
        ("1  Encode", f"an encoder, used once:\n{encoder_label(record.spec.encoder)}"),
        ("2  Regroup", f"k-means on the majority:\nK = {len(parent) - 1} pseudo-classes"),
        ("3  Train", f"an ordinary classifier\nof {len(parent)} classes"),
        ("4  Aggregate", f"max or sum of scores:\n{name} or not"),
    ]
    for i, (heading, text) in enumerate(boxes):
        x = 0.5 + 23 * i
        axes.add_patch(FancyBboxPatch((x, 42.5), 20, 9.5, boxstyle="round,pad=0.3", fc="#f2f6fa", ec="#0072B2"))
        axes.text(x + 10, 50, heading, ha="center", va="center", weight="bold")
        axes.text(x + 10, 45.6, text, ha="center", va="center", fontsize=9)
        if i:
            _arrow(axes, (x - 2.6, 47.3), (x - 0.4, 47.3))
    groups = record.arrays()["examples"], parent == parent[-1], counts
    _pipeline_data(axes, *groups, name)
    _pipeline_groups(axes, *groups, name)
    return figure


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 11, "color": "0.25", "shrinkA": 0, "shrinkB": 0} | style
    axes.add_patch(FancyArrowPatch(start, end, **style))


def _pipeline_data(axes: Axes, examples: np.ndarray, minority: np.ndarray, counts: np.ndarray, name: str) -> None:
    """Draw the classes before regrouping under the first box: one large class and a small one."""
    axes.text(10.5, 38, f"not {name}: {counts[~minority].sum():,}", ha="center", fontsize=9)
    mixed = examples[~minority].swapaxes(0, 1).reshape(-1, *examples.shape[2:])  # one of each cluster, then the next
    _strip(axes, mixed[:16], (1.6, 19), columns=4, side=4.5)
    axes.text(10.5, 13, f"{name}: {counts[minority].sum():,}", ha="center", fontsize=9)
    _strip(axes, examples[minority][0][:4], (1.6, 7.5), columns=4, side=4.5)


def _pipeline_groups(axes: Axes, examples: np.ndarray, minority: np.ndarray, counts: np.ndarray, name: str) -> None:
    """Draw the pseudo-classes under the second box, their probabilities and the aggregation under the others."""
    shown = min(10, int((~minority).sum()))
    step = 34 / (shown + 1.8)
    side = min(step, 3.6)
    middles = []
    for k, images in enumerate([*examples[~minority][:shown], examples[minority][0]]):
        y = 40 - step * (k + 1 if k < shown else shown + 1.8)
        _strip(axes, images[:5], (25.5, y), columns=5, side=side)
        middles.append(y + side / 2)
        last = k == shown
        axes.text(25, middles[-1], "$+$" if last else f"{k + 1}", ha="right", va="center", fontsize=8.5)
        _arrow(axes, (26.5 + 5 * side, middles[-1]), (53, middles[-1]), linewidth=0.8, mutation_scale=7)
        axes.text(55.5, middles[-1], "$p_+$" if last else f"$p_{{{k + 1}}}$", ha="center", va="center", fontsize=10)
    top, bottom, middle = middles[0], middles[-2], (middles[0] + middles[-2]) / 2
    axes.plot([58.5, 60, 60, 58.5], [top, top, bottom, bottom], color="0.25", linewidth=1)
    _arrow(axes, (60, middle), (66, middle), linewidth=1)
    _arrow(axes, (58.5, middles[-1]), (66, middles[-1]), linewidth=1)
    total = int((~minority).sum())
    axes.text(67, middle, f"not {name}:\nmax or sum of\n$p_1, \\ldots, p_{{{total}}}$", va="center", fontsize=9)
    axes.text(67, middles[-1], f"{name}: $p_+$", va="center", fontsize=9)


def _strip(axes: Axes, images: np.ndarray, corner: tuple[float, float], *, columns: int, side: float) -> None:
    """Place images in rows of `columns`, the lower left corner given, each `side` high and wide with its margin."""
    rows = -(-len(images) // columns)
    for i, image in enumerate(images):
        x = corner[0] + side * (i % columns)
        y = corner[1] + side * (rows - 1 - i // columns)
        extent = (x, x + side * 0.94, y, y + side * 0.94)
        axes.imshow(image.squeeze(), extent=extent, cmap="gray", vmin=0, vmax=255, interpolation="nearest", zorder=2)
    axes.set(xlim=(0, 90), ylim=(5.5, 53))  # imshow moves the limits
