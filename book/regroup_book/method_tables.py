"""Competitors on one task: tables beside the paper's numbers, differences, orders, costs, verdicts.

A group of records is one method with its chosen settings, a record per seed; all functions take a mapping from method
to group. Numbers in tables are percent.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib.figure import Figure
from scipy.stats import rankdata

from regroup_book import plans
from regroup_book.differences import Groups, bootstrap_precisions, values
from regroup_book.paper import paper_cell
from regroup_book.show import differences_to, starred_columns, table, task_name, traced
from regroup_lib.intervals import Interval, mean_std, minus
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.records import Record, resampled_on_validation, validation_precision
from regroup_lib.runs.specs import AnySpec


def title(method: str) -> str:
    """Return how tables and figures name a method."""
    return METHODS[method].title


def mean_cells(groups: Groups, measure: str, *, marked: bool = False) -> list[str]:
    """Return each method's mean ± standard deviation over seeds, percent; `marked`: the best one is bold."""
    found = [values(group, measure) for group in groups.values()]
    cells = [mean_std(by_seed, scale=1) for by_seed in found]
    means = np.nan_to_num([by_seed.mean() for by_seed in found], nan=-1)
    if marked and means.max() >= 0:
        cells[means.argmax()] = f"**{cells[means.argmax()]}**"
    return cells


def competition_table(groups: Groups, task: str) -> pd.DataFrame:
    """Return one row per method: BA and AP of the positive class, ours and the paper's (Table 1)."""
    columns: dict[str, Iterable[Any]] = {"method": map(title, groups)}
    for name, ours, paper in (
        ("BA", "balanced_accuracy", "balanced_accuracy"),
        ("AP", "average_precision", "average_precision_positive"),
    ):
        columns[name] = mean_cells(groups, ours, marked=True)
        columns[f"{name} (paper)"] = [paper_cell(task, method, paper) for method in groups]
    columns["calibrated AP"] = mean_cells(groups, "calibrated_average_precision")
    return table(columns, groups.values())


def span(differences: Mapping[str, Interval]) -> str:
    """Return the smallest and the largest mean difference in words."""
    means = [d.mean for d in differences.values()]
    return minus(f"{min(means):+.1f} to {max(means):+.1f}")


def plot_intervals(series: Mapping[str, Mapping[str, Interval]], label: str) -> Figure:
    """Draw differences with their intervals, a row per name and a mark for each series; hollow where 0 is inside."""
    names = list(dict.fromkeys(name for found in series.values() for name in found))
    figure, axes = plt.subplots(figsize=(5, 1.2 + 0.14 * len(names) * (1 + len(series))))
    colors = dict(zip(series, sns.color_palette("dark"), strict=False))
    for place, ((title, found), marker) in enumerate(zip(series.items(), "osD^v", strict=False)):
        look = {"color": colors[title], "marker": marker, "markersize": 4, "linewidth": 1.2}
        axes.plot([], [], label=title, **look)
        for name, d in found.items():
            height = names.index(name) + 0.8 * ((place + 0.5) / len(series) - 0.5)
            axes.plot([d.low, d.high], [height] * 2, color=look["color"], linewidth=1.2)
            axes.plot(d.mean, height, markerfacecolor="w" if d.low <= 0 <= d.high else look["color"], **look)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set(xlabel=label, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncol=2)
    return figure


def difference_table(groups: Groups) -> pd.DataFrame:
    """Return one row per method: its AP minus CE's and minus RG's, starred after Holm's correction."""
    columns = {f"AP − {title(baseline)}": differences_to(groups, baseline) for baseline in ("ce", "rg")}
    return table({"method": map(title, groups)} | starred_columns(columns), groups.values())


def _ranks(precisions: np.ndarray) -> np.ndarray:
    """Return ranks by AP over the first axis, 1 the best; a run that diverged is the last."""
    return rankdata(-np.nan_to_num(precisions, nan=-1), axis=0, method="min").astype(int)


def order_table(groups: Groups) -> pd.DataFrame:
    """Return how stable the order by AP is: rank by mean, ranks over seeds, ranks and wins over resamples."""
    by_seed = np.stack([values(group, "average_precision") for group in groups.values()])
    ranks = _ranks(np.stack([bootstrap_precisions(group).mean(axis=0) for group in groups.values()]))
    ends = np.percentile(ranks, [2.5, 97.5], axis=1).astype(int)
    by_mean = _ranks(by_seed.mean(axis=1))
    columns = {
        "method": map(title, groups),
        "rank": by_mean,
        "ranks by seed": [", ".join(map(str, row)) for row in _ranks(by_seed)],
        "95% of resamples": [f"{low} to {high}" for low, high in ends.T],
        "first in": [f"{share:.0%}" for share in (ranks == 1).mean(axis=1)],
    }
    order, behind = np.argsort(by_mean, kind="stable"), list(groups.values())
    return traced(table(columns, ()).iloc[order], [behind[i] for i in order])


def relative_cost(group: Sequence[Record], baseline: Sequence[Record]) -> float:
    """Return how many images a method's training sees, relative to a baseline's, median over seeds."""
    images = [np.median([sum(t["images"] for t in r.traces) for r in records]) for records in (group, baseline)]
    return float(images[0] / images[1])


def cost_table(groups: Groups) -> pd.DataFrame:
    """Return one row per method: images seen and seconds, relative to CE's, and how many settings were tried.

    Seconds are those of preparing and training one run (regrouping, resampling, training, not encoding), of the
    fastest seed, because other work on the machine only adds to them.
    """
    fastest = {}
    for method, group in groups.items():
        seconds = [[r.seconds.get(name, 0.0) for name in ("regroup", "resample", "train")] for r in group]
        fastest[method] = np.array(min(seconds, key=sum))
    spec = groups["ce"][0].spec
    columns = {
        "method": map(title, groups),
        "settings tried": [len(plans.tuning_grid(spec.task, method, spec.profile)) for method in groups],
        "images seen": [f"{relative_cost(group, groups['ce']):.2f}" for group in groups.values()],
        "seconds": [f"{seconds.sum() / fastest['ce'].sum():.2f}" for seconds in fastest.values()],
        "share preparing": [f"{seconds[:2].sum() / seconds.sum():.0%}" for seconds in fastest.values()],
    }
    return table(columns, groups.values())


OPTION_SIGNS = {"gamma": "γ", "tau": "τ", "max_margin": "margin", "deferred": "DRW", "n_clusters": "K"}
DEFAULTS = {"gamma": 2.0, "tau": 1.0, "max_margin": 0.5, "deferred": False}


def settings_of(record: Record) -> str:
    """Return the tuned settings of a record as text: ``"γ = 2"``, ``"margin = 0.5, DRW = no"``, ``"K = 99"``."""
    spec = record.spec
    parts = []
    for option in METHODS[spec.method].options:
        value = getattr(spec, option)
        value = DEFAULTS[option] if value is None else value
        shown = ("yes" if value else "no") if isinstance(value, bool) else f"{value:g}"
        parts.append(f"{OPTION_SIGNS[option]} = {shown}")
    if METHODS[spec.method].labels == "regrouped":
        parent = record.regrouping["parent"]
        natural = min(np.bincount(parent, weights=record.regrouping["counts"]))
        parts.append(f"K = {len(parent) - 1}" if max(parent) == 1 else f"n' = {spec.threshold or natural:g}")
    return ", ".join(parts)


def tuning_table(grids: Mapping[str, Sequence[AnySpec]], heading: str = "method") -> pd.DataFrame:
    """Return one row per setting that was tried, by name: its AP on the validation split, and whether it was chosen."""
    choices = {name: plans.select(specs) for name, specs in grids.items()}
    found = [(name, plans.find_record(s), s == choices[name]) for name, specs in grids.items() for s in specs]
    columns = {
        heading: [name for name, _, _ in found],
        "setting": [settings_of(record) for _, record, _ in found],
        "validation AP": [f"{100 * validation_precision(record):.1f}" for _, record, _ in found],
        "chosen": ["yes" if chosen else "" for _, _, chosen in found],
    }
    return table(columns, [[record] for _, record, _ in found])


def tuned(task: str, profile: str, seeds: Sequence[int]) -> pd.DataFrame:
    """Return the `tuning_table` of the methods of a task that have something to tune."""
    grids = {title(m): plans.tuning_specs(profile, task, m, seeds[0]) for m in plans.TABLE_METHODS[profile]}
    return tuning_table({method: specs for method, specs in grids.items() if len(specs) > 1})


def selection_table(profile: str, seeds: Sequence[int]) -> pd.DataFrame:
    """Return one row per task: which number of clusters validation chose, and how often a resample chooses another.

    The validation samples are resampled within their class; all settings of a grid see the same resample.
    """
    grids = plans.records_of(plans.regrouping_grids(profile, seeds[0]), "binary")
    chosen = [int(np.argmax(list(map(validation_precision, records)))) for records in grids.values()]
    others = [
        (np.argmax(list(map(resampled_on_validation, records)), axis=0) != choice).mean()
        for records, choice in zip(grids.values(), chosen, strict=True)
    ]
    smallest = [int(np.bincount(records[0].arrays()["val_labels"]).min()) for records in grids.values()]
    names = [task.partition(", ") for task in grids]
    columns = {
        "task": [task_name(name) + comma + ratio for name, comma, ratio in names],
        "smallest class on validation": smallest,
        "natural": [settings_of(records[0]) for records in grids.values()],
        "chosen": [settings_of(records[choice]) for records, choice in zip(grids.values(), chosen, strict=True)],
        "another one chosen in": [f"{share:.0%} of resamples" for share in others],
    }
    return table(columns, grids.values())


def selection_sentence(table: pd.DataFrame) -> str:
    """Return in how many tasks validation chose the natural number of clusters."""
    natural = int((table["natural"] == table["chosen"]).sum())
    return f"The validation split chose the natural number of clusters in {natural or 'none'} of {len(table)} tasks."


def sortable(frame: pd.DataFrame, *, html_cells: bool = False, wrapped: bool = False) -> HTML:
    """Return a table for a notebook; its columns sort on a click in the rendered book (``sortable.js``).

    Rows of regrouped methods are shaded. Text between two pairs of asterisks is bold. If the records behind the rows
    are known (see `show.traced`), a last column links them.

    `html_cells`: cells are HTML already. `wrapped`: cells hold sentences and are broken into lines.
    """
    classes = ["sortable", "wrapped"] if wrapped else ["sortable"]
    rows = frame.reset_index(names=frame.index.name or frame.columns.name)
    if not html_cells:
        rows = rows.map(lambda cell: _html_cell(cell, wrapped) if isinstance(cell, str) else cell)
        rows.columns = [html.escape(str(name), quote=False) for name in rows.columns]
    rows = rows.map(lambda cell: BOLD.sub(r"<strong>\1</strong>", cell) if isinstance(cell, str) else cell)
    if "records" in frame.attrs:
        rows["runs"] = [_record_link(keys) for keys in frame.attrs["records"]]
        classes.append("results")
    shown = rows.to_html(index=False, classes=classes, border=0, escape=False)
    return HTML(REGROUPED.sub(r'<tr class="ours">\1', shown))


REGROUPED = re.compile(r"<tr>(\s*<td>(?:RG|regrouped)\b[^−<]*</td>)")  # rows of regrouped methods, not differences
BOLD = re.compile(r"\*\*(.+?)\*\*")
LONG_CELL = 40  # characters on one line; a longer cell is broken into lines, in any table


def _html_cell(text: str, wrapped: bool) -> str:
    escaped = html.escape(text, quote=False)
    return escaped if wrapped or len(text) <= LONG_CELL else f'<span class="long">{escaped}</span>'


def _record_link(keys: Sequence[str]) -> str:
    """Return a link to the first of some records on the page that lists them."""
    return f'<a href="records.html#{keys[0]}" data-records="{" ".join(keys)}">{len(keys)}</a>' if keys else ""
