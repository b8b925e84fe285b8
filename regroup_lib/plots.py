"""Figures of a comparison on one's own data: clusters, curves, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve

SHOWN_COLUMNS = 15  # of a table, in the map of its clusters
# Title -> color and line style, also in the figures of the book.
LOOKS = {
    "CE": ("#000000", "-"),
    "WCE": ("#44AA99", ":"),
    "ROS": ("#882255", "--"),
    "linear probe": ("#CC79A7", "-"),
    "encoder+MLP": ("#D55E00", ":"),
    "CE+features": ("#CC79A7", "--"),
    "balanced forest": ("#CC79A7", "-"),
    "EasyEnsemble": ("#CC79A7", ":"),
    "RG": ("#0072B2", "-."),
    "RG+WCE": ("#56B4E9", "-"),
}


def shortened(name: str, longest: int = 40) -> str:
    """Return a name, without its middle if it is longer.

    >>> shortened("a name of many letters", 15)
    'a name …letters'
    """
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def plot_centers(centers: np.ndarray, names: Sequence[str], columns: Sequence[str]) -> Figure:
    """Draw cluster centers [k, m], in standard deviations from the mean of each column, as a map.

    Of many columns, those whose centers differ most are shown; `names` [k] and `columns` [m] are the labels.
    """
    shown = np.sort(np.argsort(-centers.std(axis=0), kind="stable")[:SHOWN_COLUMNS])
    centers = centers[:, shown]
    figure, axes = plt.subplots(figsize=(3 + 0.4 * len(shown), 2.2 + 0.28 * len(names)))
    picture = axes.imshow(np.clip(centers, -3, 3), cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto")
    axes.set(yticks=range(len(names)), yticklabels=names, ylabel="class: rows of the cluster")
    ticks = [shortened(columns[i]) for i in shown]
    axes.set_xticks(range(len(shown)), ticks, rotation=60, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(centers):
        if abs(value) >= 1:  # a sign for readers who do not distinguish the colors
            color = "white" if abs(value) > 2 else "black"
            axes.text(column, row, "+" if value > 0 else "−", ha="center", va="center", color=color)
    figure.colorbar(picture, ax=axes, label="standard deviations", extend="both")
    return figure


def plot_curves(curves: Mapping[str, Mapping[str, np.ndarray]], chance: float, positive: str) -> Figure:
    """Draw the precision [m] of each method by title at m recalls from 0 to 1, one panel for each classifier."""
    n = len(curves)
    size = (max(4.4, 2.6 * n), 3.5)
    figure, panels = plt.subplots(1, n, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes, (classifier, lines) in zip(panels[0], curves.items(), strict=True):
        for title, (color, style) in LOOKS.items():
            if title in lines:
                grid = np.linspace(0, 1, len(lines[title]))
                axes.plot(grid, lines[title], color=color, linestyle=style, label=title)
        axes.axhline(chance, color="0.5", linestyle=(0, (1, 3)), linewidth=1.4, label="chance")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=f"recall of “{shortened(positive)}”")
        axes.set_title(fill(classifier, 25))
    panels[0, 0].set_ylabel("precision")
    shown = {line.get_label(): line for axes in panels[0] for line in axes.get_legend_handles_labels()[0]}
    columns = max(3, -(-len(shown) // 2)) if n > 2 else 3
    figure.legend(handles=shown.values(), loc="outside lower center", ncol=columns, handlelength=3)
    return figure


def plot_calibration(labels: np.ndarray, scores: np.ndarray) -> Figure:
    """Draw the share of positives against the mean score, in eight groups of samples; `labels` [n] are 1 or 0."""
    figure, axes = plt.subplots(figsize=(4.2, 4.2))
    share, mean = calibration_curve(labels, scores, n_bins=8, strategy="quantile")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":")
    axes.plot(mean, share, "o-", color="#0072B2")
    axes.set(xlabel="mean probability", ylabel="share of positives", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return figure
