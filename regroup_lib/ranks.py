"""Ranks of methods over tasks: whether they differ at all, by how much they must differ, and a picture of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import chi2, f, rankdata, studentized_range

from regroup_lib.report import Style

DIGITS = 9  # of a value; what differs by less is rounding and shares a rank


def rank_methods(values: pd.DataFrame) -> pd.DataFrame:
    """Return the ranks of methods on each task: 1 for the highest value, equal values share the mean of their ranks.

    Parameters
    ----------
    values : DataFrame [tasks, methods]
        The higher the better. NaN, a method that could not be used, ranks last.

    Examples
    --------
    >>> rank_methods(pd.DataFrame({"a": [0.9, 0.5], "b": [0.8, 0.5], "c": [0.7, float("nan")]})).values.tolist()
    [[1.0, 2.0, 3.0], [1.5, 1.5, 3.0]]
    """
    ordered = -values.round(DIGITS).fillna(-np.inf)
    return pd.DataFrame(rankdata(ordered, axis=1), index=values.index, columns=values.columns)


def ranks_by_source(ranks: pd.DataFrame, sources: Sequence[str]) -> pd.DataFrame:
    """Return each source's mean ranks, ranked again: one row a source, so that tasks of one source count once."""
    means = ranks.groupby(list(sources), sort=False).mean()
    return rank_methods(-means)


def critical_difference(n_methods: int, n_tasks: int, alpha: float = 0.05) -> float:
    """Return by how much two mean ranks must differ to tell two methods apart, all pairs being compared (Nemenyi).

    Parameters
    ----------
    n_methods, n_tasks : int
        At least 2 and 1.
    alpha : float

    References
    ----------
    Demšar (2006), Statistical comparisons of classifiers over multiple data sets, Section 3.2.2.

    Examples
    --------
    >>> round(critical_difference(4, 14), 2), round(critical_difference(4, 14, alpha=0.1), 2)
    (1.25, 1.12)
    """
    if n_methods < 2 or n_tasks < 1:
        raise ValueError(f"{n_methods} methods on {n_tasks} tasks; expected at least 2 on 1")
    quantile = studentized_range.ppf(1 - alpha, n_methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_tasks)))


@dataclass(frozen=True)
class Friedman:
    """Friedman's test that all methods are alike, and Iman and Davenport's less conservative form of it."""

    chi_square: float
    p_chi_square: float
    f_statistic: float
    p_f: float


def friedman(mean_ranks: Sequence[float], n_tasks: int) -> Friedman:
    """Test whether methods differ in their ranks at all.

    Parameters
    ----------
    mean_ranks : sequence of float [k]
        Of all methods over the tasks.
    n_tasks : int
        At least 2.

    Notes
    -----
    Ties are not corrected for, which makes the test conservative.

    References
    ----------
    Demšar (2006), Section 3.2.2.
    """
    ranks = np.asarray(mean_ranks, float)
    k = len(ranks)
    if k < 2 or n_tasks < 2:
        raise ValueError(f"{k} methods on {n_tasks} tasks; expected at least 2 on 2")
    statistic = 12 * n_tasks / (k * (k + 1)) * (float((ranks**2).sum()) - k * (k + 1) ** 2 / 4)
    rest = n_tasks * (k - 1) - statistic  # 0 where all tasks agree
    f_statistic = (n_tasks - 1) * statistic / rest if rest > 0 else float("inf")
    p_f = float(f.sf(f_statistic, k - 1, (k - 1) * (n_tasks - 1)))
    return Friedman(statistic, float(chi2.sf(statistic, k - 1)), f_statistic, p_f)


def cliques(mean_ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Return the largest runs of methods that the critical difference does not tell apart.

    Parameters
    ----------
    mean_ranks : sequence of float
        In ascending order.
    difference : float

    Returns
    -------
    list of (int, int)
        First and last position of each run of two or more; none lies within another.

    Examples
    --------
    >>> cliques([1.0, 1.5, 2.4, 4.0], 1.0)
    [(0, 1), (1, 2)]
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(mean_ranks):
        last = max(i for i, other in enumerate(mean_ranks) if other - rank <= difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def plot_ranks(panels: Mapping[str, tuple[pd.Series, int]], styles: Mapping[str, Style]) -> Figure:
    """Draw mean ranks with the critical difference, one panel a group of methods that were compared.

    Parameters
    ----------
    panels : mapping of str to (Series, int)
        Title -> mean rank of each method, and the number of tasks.
    styles : mapping of str to Style
        How each method looks.
    """
    rows = [-(-len(ranks) // 2) for ranks, _ in panels.values()]
    heights = [0.8 + 0.22 * n for n in rows]
    figure, all_axes = plt.subplots(
        len(panels), 1, figsize=(7.6, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    longest = max(len(ranks) for ranks, _ in panels.values())
    for axes, (title, (ranks, n_tasks)) in zip(all_axes[:, 0], panels.items(), strict=True):
        _rank_panel(axes, ranks.sort_values(kind="stable"), n_tasks, styles, longest)
        axes.set_title(title, loc="left")
    return figure


def _rank_panel(axes: Axes, ranks: pd.Series, n_tasks: int, styles: Mapping[str, Style], longest: int) -> None:
    """Draw one axis of ranks: better methods are named on the left, the others on the right."""
    difference = critical_difference(len(ranks), n_tasks)
    half = -(-len(ranks) // 2)
    bars = cliques(ranks.to_list(), difference)
    top = 0.45 * len(bars) + 0.6  # where the names begin, below the bars
    axes.axis("off")
    axes.set(xlim=(-1.6, longest + 2.6), ylim=(top + half, -2.1))
    axes.plot([1, len(ranks)], [0, 0], color="0.2", linewidth=1)
    for tick in range(1, len(ranks) + 1):
        axes.plot([tick, tick], [-0.14, 0], color="0.2", linewidth=1)
        axes.text(tick, -0.3, str(tick), ha="center", va="bottom", fontsize=8)
    axes.plot([1, 1 + difference], [-1.6, -1.6], color="0.2", linewidth=2, marker="|", markersize=6)
    axes.text(1.15 + difference, -1.6, f"critical difference {difference:.1f}", va="center", fontsize=8)
    for row, (first, last) in enumerate(bars):
        ends = [ranks.iloc[first] - 0.06, ranks.iloc[last] + 0.06]
        axes.plot(ends, [0.4 + 0.45 * row] * 2, color="0.45", linewidth=3, solid_capstyle="butt")
    for position, (name, rank) in enumerate(ranks.items()):
        on_left = position < half
        height = top + (position if on_left else len(ranks) - 1 - position)
        _name_rank(axes, rank, height, 0.55 if on_left else longest + 0.45, styles[name])


def _name_rank(axes: Axes, rank: float, height: float, end: float, style: Style) -> None:
    """Draw a marker on the axis and a line from it to the method's name."""
    axes.plot([rank, rank, end], [0, height, height], color=style.color, linewidth=1, linestyle=style.line)
    axes.plot([rank], [0], color=style.color, marker=style.marker, markersize=6.5, clip_on=False)
    right = end > rank
    text = f" {rank:.1f}  {style.label}" if right else f"{style.label}  {rank:.1f} "
    axes.text(end, height, text, ha="left" if right else "right", va="center", fontsize=9, color=style.color)
