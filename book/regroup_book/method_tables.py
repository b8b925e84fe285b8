"""Competitors on one task: tables beside the paper's numbers, differences, orders, costs, verdicts.

A group of records is one method with its chosen settings, a record a seed; all functions take a mapping from method
to group. Numbers in tables are percent.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import rankdata

from regroup_book import plans
from regroup_book.paper import paper_cell
from regroup_book.show import task_name, traced
from regroup_lib.intervals import Interval, mean_std, starred
from regroup_lib.metrics import bootstrap_counts, weighted_average_precisions
from regroup_lib.runs.differences import (
    N_RESAMPLES,
    Groups,
    bootstrap_precisions,
    precision_difference,
    rule_of,
    validation_precision,
    values,
)
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.records import Record, find_record


def title(method: str) -> str:
    """Return how tables and figures name a method."""
    return METHODS[method].title


def best_marks(groups: Groups, measure: str) -> dict[str, str]:
    """Return ``"best"`` for the highest mean and ``"overlap"`` for those whose mean ± std meets the best one's."""
    summary = {
        method: (v.mean(), v.std(ddof=1) if len(v) > 1 else 0.0)
        for method, v in ((m, values(g, measure)) for m, g in groups.items())
        if np.isfinite(v).all()
    }
    if not summary:
        return {}
    best = max(summary, key=lambda method: summary[method][0])
    floor = summary[best][0] - summary[best][1]
    marks = {method: "overlap" for method, (mean, std) in summary.items() if mean + std >= floor}
    return marks | {best: "best"}


def competition_table(groups: Groups, task: str) -> pd.DataFrame:
    """Return one row a method: BA and AP of both classes, ours and the paper's, mean ± std over seeds (Table 1).

    The best mean of a column has two stars, those whose mean ± std meets its mean ± std have one, as the paper
    marks them.
    """
    measures = {
        "BA": ("balanced_accuracy", "balanced_accuracy"),
        "AP, positive": ("average_precision", "average_precision_positive"),
        "AP, negative": ("average_precision_negative", "average_precision_negative"),
    }
    marks = {name: best_marks(groups, ours) for name, (ours, _) in measures.items()}
    rows = []
    for method, group in groups.items():
        row: dict[str, Any] = {"method": title(method)}
        for name, (ours, papers) in measures.items():
            stars = {"best": " **", "overlap": " *"}.get(marks[name].get(method, ""), "")
            row[name] = mean_std(values(group, ours), scale=1) + stars
            row[f"{name} (paper)"] = paper_cell(task, method, papers)
        row["calibrated AP"] = mean_std(values(group, "calibrated_average_precision"), scale=1)
        rows.append(row)
    return traced(pd.DataFrame(rows).set_index("method"), groups.values())


def span(differences: Mapping[str, Interval]) -> str:
    """Return the smallest and the largest mean difference in words."""
    means = [d.mean for d in differences.values()]
    return f"{min(means):+.1f} to {max(means):+.1f}".replace("-", "−")


def draw_interval(axes: Axes, height: float, difference: Interval) -> None:
    """Draw a difference: filled where 0 is outside its interval, hollow where it is not."""
    color = "#0072B2" if difference.low > 0 else "#B2182B" if difference.high < 0 else "0.45"
    marker = ">" if difference.low > 0 else "<" if difference.high < 0 else "o"
    axes.plot([difference.low, difference.high], [height] * 2, color=color, linewidth=1.6)
    axes.plot(difference.mean, height, marker=marker, color=color, markerfacecolor=color if difference.clear else "w")


def difference_table(groups: Groups, baselines: Sequence[str] = ("ce", "rg")) -> pd.DataFrame:
    """Return one row per method: the difference of its AP to each baseline, starred after Holm's correction."""
    table = pd.DataFrame({"method": [title(method) for method in groups]})
    for baseline in (b for b in baselines if b in groups):
        differences = [None if m == baseline else precision_difference(groups, m, baseline) for m in groups]
        table[f"AP − {title(baseline)}"] = starred(differences)
    return traced(table.set_index("method"), groups.values())


def order_table(groups: Groups) -> pd.DataFrame:
    """Return how stable the order by AP is: rank by mean, ranks over seeds, ranks and wins over resamples."""
    methods = list(groups)
    precisions = np.stack([bootstrap_precisions(groups[m]).mean(axis=0) for m in methods])
    ranks = rankdata(-np.nan_to_num(precisions, nan=-1), axis=0, method="min")
    by_seed = np.stack([values(groups[m], "average_precision") for m in methods])
    seed_ranks = rankdata(-np.nan_to_num(by_seed, nan=-1), axis=0, method="min").astype(int)
    mean_ranks = rankdata(-np.nan_to_num(by_seed.mean(axis=1), nan=-1), method="min").astype(int)
    rows = []
    for i, method in enumerate(methods):
        low, high = np.percentile(ranks[i], [2.5, 97.5]).astype(int)
        rows.append(
            {
                "method": title(method),
                "rank": mean_ranks[i],
                "ranks by seed": ", ".join(map(str, seed_ranks[i])),
                "95% of resamples": f"{low} to {high}",
                "first in": f"{(ranks[i] == 1).mean():.0%}",
            }
        )
    order = np.argsort(mean_ranks, kind="stable")
    frame = pd.DataFrame(rows).set_index("method").iloc[order]
    return traced(frame, [groups[methods[i]] for i in order])


def relative_cost(group: Sequence[Record], baseline: Sequence[Record]) -> float:
    """Return how many images a method's training sees, relative to a baseline's, median over seeds."""

    def images(records: Sequence[Record]) -> float:
        return float(np.median([sum(t["images"] for t in r.traces) for r in records]))

    return images(group) / images(baseline)


def cost_table(groups: Groups, baseline: str = "ce", tried: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Return one row a method: images seen and seconds, relative to `baseline`, and how many settings were tried.

    Seconds are those of preparing and training one run (regrouping, resampling, training, not encoding), of the
    fastest seed: other work on the machine only adds to them.
    """

    def spent(record: Record) -> float:
        return _prepared(record) + record.seconds.get("train", 0.0)

    rows = []
    for method, group in groups.items():
        fastest = min(group, key=spent)
        rows.append(
            {
                "method": title(method),
                "settings tried": (tried or {}).get(method, 1),
                "images seen": f"{relative_cost(group, groups[baseline]):.2f}",
                "seconds": f"{spent(fastest) / min(map(spent, groups[baseline])):.2f}",
                "of that preparing": f"{_prepared(fastest) / spent(fastest):.0%}",
            }
        )
    return traced(pd.DataFrame(rows).set_index("method"), groups.values())


def _prepared(record: Record) -> float:
    """Return the seconds before training, without encoding."""
    return record.seconds.get("regroup", 0.0) + record.seconds.get("resample", 0.0)


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


def tuning_table(task: str, profile: str, seeds: Sequence[int]) -> pd.DataFrame:
    """Return one row a setting that was tried: its AP on the validation split, and whether it was chosen."""
    rows, found = [], []
    for method in plans.TABLE_METHODS[profile]:
        specs = plans.tuning_specs(profile, task, method, seeds[0])
        if len(specs) < 2:
            continue
        chosen = plans.select(specs)
        for spec in specs:
            record = find_record(spec)
            row = {"method": title(method), "setting": settings_of(record)}
            row["validation AP"] = f"{100 * validation_precision(record):.1f}"
            found.append([record])
            rows.append(row | {"chosen": "yes" if spec == chosen else ""})
    return traced(pd.DataFrame(rows).set_index("method"), found)


def selection_table(profile: str, seeds: Sequence[int]) -> pd.DataFrame:
    """Return one row per task: which number of clusters validation chose, and how often a resample chooses another.

    The validation samples are resampled within their class; all settings of a grid see the same resample.
    """
    rows, found = [], []
    for task, specs in plans.regrouping_grids(profile, seeds[0]).items():
        records = plans.records_of({"all": specs}, "binary")["all"]
        precisions = np.stack([_validation_precisions(record) for record in records])
        chosen = int(np.argmax([validation_precision(record) for record in records]))
        name, _, ratio = task.partition(", ")
        rows.append(
            {
                "task": task_name(name) + (f", {ratio}" if ratio else ""),
                "smallest class on validation": int(np.bincount(records[0].arrays()["val_labels"]).min()),
                "natural": settings_of(records[0]),
                "chosen": settings_of(records[chosen]),
                "another one chosen in": f"{(precisions.argmax(axis=0) != chosen).mean():.0%} of resamples",
            }
        )
        found.append(records)
    columns = ("task", "smallest class on validation", "natural", "chosen", "another one chosen in")
    return traced(pd.DataFrame(rows, columns=columns).set_index("task"), found)


def selection_sentence(table: pd.DataFrame) -> str:
    """Return in how many tasks validation chose the natural number of clusters."""
    natural = int((table["natural"] == table["chosen"]).sum())
    return f"The validation split chose the natural number of clusters in {natural} of {len(table)} tasks."


def _validation_precisions(record: Record) -> np.ndarray:
    """Return AP, the mean over classes of a multiclass task, in resamples of the validation split."""
    arrays = record.arrays()
    labels, scores = arrays["val_labels"], arrays[f"val_scores_{rule_of(record)}"]
    scores = scores[:, None] if scores.ndim == 1 else scores
    classes = (1,) if scores.shape[1] == 1 else range(scores.shape[1])
    counts = bootstrap_counts(labels, N_RESAMPLES)
    columns = zip(classes, scores.T, strict=True)
    return np.mean([weighted_average_precisions(labels == c, column, counts) for c, column in columns], axis=0)


def sortable(frame: pd.DataFrame, *, html_cells: bool = False, wrapped: bool = False) -> Any:
    """Return a table for a notebook; its columns sort on a click in the rendered book (``sortable.js``).

    Where it is known which records a row comes from (see `show.traced`), a last column links them.

    Parameters
    ----------
    frame : DataFrame
    html_cells : bool
        Cells are HTML already.
    wrapped : bool
        Cells hold sentences and are broken into lines.
    """
    from IPython.display import HTML  # a notebook's; the library works without it

    classes = ["sortable", "wrapped"] if wrapped else ["sortable"]
    rows = frame.reset_index(names=frame.index.name or frame.columns.name)
    if not html_cells:
        rows = rows.map(lambda cell: _html_cell(cell, wrapped) if isinstance(cell, str) else cell)
        rows.columns = [html.escape(str(name), quote=False) for name in rows.columns]
    if "records" in frame.attrs:
        rows["runs"] = [_record_link(keys) for keys in frame.attrs["records"]]
        classes.append("results")
    return HTML(rows.to_html(index=False, classes=classes, border=0, escape=False))


LONG_CELL = 40  # characters on one line; a longer cell is broken into lines, in any table


def _html_cell(text: str, wrapped: bool) -> str:
    escaped = html.escape(text, quote=False)
    return escaped if wrapped or len(text) <= LONG_CELL else f'<span class="long">{escaped}</span>'


def _record_link(keys: Sequence[str]) -> str:
    """Return a link to the first of some records on the page that lists them; the others follow it there."""
    return f'<a href="records.html#{keys[0]}" data-records="{" ".join(keys)}">{len(keys)}</a>' if keys else ""
