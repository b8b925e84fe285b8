"""Every claim of the paper with its verdict, and where regrouping gains: one page over all chapters' records."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from regroup_lib import plans, table_report, text_report
from regroup_lib.differences import Groups, precision_difference
from regroup_lib.evidence import WORDS, Verdict, claims, verdict
from regroup_lib.intervals import Interval
from regroup_lib.records import Record, find_record
from regroup_lib.report import encoder_label, learned_share

# ---------------------------------------------------------------- verdicts


def scorecard(profile: str, seeds: Sequence[int], part: str = "claims") -> list[Verdict]:
    """Return the verdicts on the paper's claims, or on the book's own ``"questions"``, in order."""
    return [verdict(claim, profile, seeds) for claim in claims(part)]


def tally(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Return how many claims have each verdict, in the order of `evidence.WORDS`."""
    return {word: sum(v.word == word for v in verdicts) for word in WORDS}


def tally_sentence(verdicts: Sequence[Verdict]) -> str:
    """Return the tally in words: "Of the paper's 27 claims, 9 are supported, 3 contradicted and 15 undecided"."""
    counted = [f"{number} {word}" for word, number in tally(verdicts).items() if number]
    listed = counted[0] if len(counted) == 1 else f"{', '.join(counted[:-1])} and {counted[-1]}"
    number, rest = listed.split(" ", 1)
    return f"Of the paper's {len(verdicts)} claims, {number} {'is' if number == '1' else 'are'} {rest}"


def summary_box(verdicts: Sequence[Verdict]) -> Any:
    """Return a box for the top of a chapter: the claims that it tests, each with its verdict in a word."""
    from IPython.display import HTML  # a notebook's; the library works without it

    lines = "".join(
        f"<li>{v.claim} {html.escape(v.statement)}: <b>{html.escape(v.word)}</b>{_other_scale(v)}</li>"
        for v in verdicts
    )
    title = '<p class="admonition-title">In short: what this page tests</p>'
    return HTML(f'<div class="admonition note">{title}<ul>{lines}</ul></div>')


def _other_scale(v: Verdict) -> str:
    """Return what the runs at the paper's scale say, where it is the opposite of a contrast here."""
    here = {c.text: c.word for c in v.contrasts}
    opposite = [c for c in v.elsewhere if {c.word, here.get(c.text)} == {"supported", "contradicted"}]
    if not opposite:
        return ""
    return f" (the ResNet34 runs say the opposite: {html.escape('; '.join(map(str, opposite)))})"


def _scale(records: Sequence[Record]) -> str:
    """Return what was trained, in a few words: network, epochs, share of the labels learned, encoder, seeds."""
    trained: dict[tuple[str, int], list[float]] = {}
    for record in records:
        if record.spec.kind == "training" and record.traces and record.spec.network != "mlp":
            trained.setdefault((record.spec.network, record.spec.epochs), []).append(learned_share(record))
    parts = [
        f"{network}, {epochs} epochs, {100 * min(shares):.0f} to {100 * max(shares):.0f}% of the labels learned"
        for (network, epochs), shares in sorted(trained.items())
    ]
    encoders = dict.fromkeys(encoder_label(r.spec.encoder) for r in records if r.spec.encoder)
    seeds = len({record.spec.seed for record in records})
    return "; ".join([*parts, *([", ".join(encoders)] if encoders else []), f"{seeds} seeds"])


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return claims with their verdicts as a table; its cells are HTML, with a link to each chapter that tests one."""
    rows = []
    for v in verdicts:
        links = ", ".join(f'<a href="{name}.html">{name}</a>' for name in v.chapters)
        listed = f'<a href="records.html#records-{v.chapters[0]}">{len(v.records)} records</a>'
        measured = "<br>".join(f"{html.escape(str(c))} <i>({c.word})</i>" for c in v.contrasts)
        if v.elsewhere:
            found = "<br>".join(f"{html.escape(str(c))} <i>({c.word})</i>" for c in v.elsewhere)
            measured += f"<br>With ResNet34 after 10 epochs:<br>{found}"
        rows.append(
            {
                "no.": v.claim,
                "verdict": f'<b class="verdict {v.word.replace(" ", "-")}">{v.word}</b>',
                "claim": html.escape(v.statement),
                "the paper": html.escape(": ".join(filter(None, (v.where, v.paper)))),
                "measured here": measured or html.escape(v.note),
                "what was run": f"{links}: {html.escape(_scale(v.records))}; {listed}" if v.records else links,
            }
        )
    return pd.DataFrame(rows).set_index("no.")


# ---------------------------------------------------------------- one picture: where regrouping gains


@dataclass(frozen=True)
class Gain:
    """AP of a regrouped method minus that of the plain labels, on one task.

    Attributes
    ----------
    row : str
        Where the figure draws it; many tasks may share a row.
    space : {"pre-trained", "own", "poor", "columns", "none"}
        What the clusters were found in: a pre-trained encoder's space, that of a self-supervised encoder trained on
        the task's own images, raw pixels or an autoencoder's codes, a table's columns; or the groups are random.
    difference : Interval
        Percentage points.
    """

    row: str
    space: str
    difference: Interval


SPACES = {
    "pre-trained": ("a pre-trained encoder's space", "#0072B2", "X"),
    "own": ("self-supervision on the task's images", "#999933", "p"),
    "poor": ("raw pixels or an autoencoder's codes", "#D55E00", "^"),
    "columns": ("a table's columns", "#009E73", "o"),
    "none": ("random groups", "#E69F00", "v"),
}


def gains(profile: str, seeds: Sequence[int]) -> list[Gain]:
    """Return what regrouping adds to the AP of plain labels wherever all runs are recorded."""
    example = plans.motivating_example(profile, seeds)
    found = []
    for label in [f"rg-{encoder}" for encoder in reversed(plans.ENCODERS[profile])] + ["rg-random"]:
        runs = {name: [spec for spec in example if spec.label == name] for name in (label, "ce")}
        encoder = runs[label][0].encoder
        space = "none" if encoder is None else "pre-trained" if encoder == plans.INCEPTION else "poor"
        name = "random groups" if encoder is None else encoder_label(encoder)
        found += _gain(runs, f"{plans.TASKS[profile]}, {name}", space, label, "ce")
    own = plans.self_supervised_runs(profile, seeds)
    row = f"{plans.ABLATION_TASKS[profile][0]}, {encoder_label('simclr')}"
    found += _gain({name: own[name] for name in ("simclr", "binary")}, row, "own", "simclr", "binary")
    for task in (*plans.recorded_tasks(profile, seeds), *plans.MULTICLASS_TASKS[profile]):
        try:
            groups = plans.competitors(task, profile, seeds)
        except ValueError:  # not all recorded
            continue
        row = f"{task}, mean of classes" if task in plans.MULTICLASS_TASKS[profile] else task
        found.append(Gain(row, "pre-trained", precision_difference(groups, "rg", "ce")))
    if not plans.missing_records("text", profile=profile, seeds=seeds):
        for task, groups in text_report.load_results(profile, seeds).items():
            found.append(Gain(f"{task}, MiniLM", "pre-trained", precision_difference(groups, "RG", "CE")))
    if not plans.missing_records("tables", profile=profile, seeds=seeds):
        found += _table_gains(profile, seeds)
    return found


def _gain(runs: Groups, row: str, space: str, first: str, second: str) -> list[Gain]:
    try:
        groups = plans.records_of(runs, "motivating-example")
    except ValueError:  # not all recorded
        return []
    return [Gain(row, space, precision_difference(groups, first, second))]


def _table_gains(profile: str, seeds: Sequence[int]) -> list[Gain]:
    results = table_report.TableResults([find_record(spec) for spec in plans.tabular(profile, seeds)])
    return [
        Gain(f"{len(results.tasks)} tables, {table_report.ESTIMATOR_TITLES[estimator]}", "columns", difference)
        for estimator in results.estimators
        for difference in results.differences(estimator, "rg").values()
    ]


def plot_gains(found: Sequence[Gain]) -> Figure:
    """Draw the gains, a row a setting; rows of several tasks have a point a task and no intervals."""
    rows = list(dict.fromkeys(gain.row for gain in found)) or ["no run is recorded yet"]
    figure, axes = plt.subplots(figsize=(8.4, 0.42 * len(rows) + 1.5))
    axes.axvline(0, color="0.3", linewidth=1)
    labelled: set[str] = set()
    for y, row in enumerate(rows):
        group = [gain for gain in found if gain.row == row]
        if not group:
            continue
        label, color, marker = SPACES[group[0].space]
        means = [gain.difference.mean for gain in group]
        offsets = np.linspace(-0.25, 0.25, len(group)) if len(group) > 1 else [0.0]
        axes.plot(
            means,
            y + np.array(offsets),
            linestyle="none",
            color=color,
            marker=marker,
            markersize=8 if len(group) == 1 else 5,
            label=None if label in labelled else label,
        )
        labelled.add(label)
        if len(group) == 1:
            axes.hlines(y, group[0].difference.low, group[0].difference.high, color=color, linewidth=2)
    # Most gains are a few points and some are thirty.
    axes.set_xscale("symlog", linthresh=5, linscale=1)
    ticks = [-30, -10, -5, -2, 0, 2, 5, 10, 30]
    axes.set_xticks(ticks, [f"{tick:+d}".replace("-", "−") if tick else "0" for tick in ticks])
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlim=(-45, 45), ylim=(len(rows) - 0.5, -0.5), xlabel="AP, regrouped − plain labels (percentage points)")
    axes.minorticks_off()
    if labelled:
        figure.legend(loc="outside lower center", ncol=2)
    return figure


def gains_sentence(found: Sequence[Gain]) -> str:
    """Return in words how often each kind of space gains clearly, and how often it loses clearly."""
    parts = []
    for space, (label, *_) in SPACES.items():
        group = [gain.difference for gain in found if gain.space == space]
        if group:
            better, worse = sum(d.low > 0 for d in group), sum(d.high < 0 for d in group)
            cases = f"{len(group)} case" + ("s" if len(group) > 1 else "")
            parts.append(f"**{label}**: {cases}, {better} clearly better, {worse} clearly worse")
    return "; ".join(parts or ["No run is recorded yet"]) + "."
