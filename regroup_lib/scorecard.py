"""Every claim of the paper with its verdict, and where regrouping gains: one page over all chapters' records.

A chapter whose runs are not all recorded has no verdict; its claims say so instead.
"""

from __future__ import annotations

import csv
import html
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from regroup_lib import ablation, binary, competition, example, longtail, multiclass, plans, table_report, text_report
from regroup_lib.competition import Interval, bootstrap_difference, bootstrap_precisions
from regroup_lib.records import Record, find_record
from regroup_lib.report import Verdict, encoder_label

NOT_RUN = "not run yet"
WORDS = ("holds", "holds in part", "does not hold", NOT_RUN)

# Claim -> verdict and what was measured; and the records behind them.
Found = tuple[dict[str, tuple[str, str]], list[Record]]


@dataclass(frozen=True)
class Entry:
    """One claim of the paper and what the records say.

    Attributes
    ----------
    claim : str
        ``"C1"`` to ``"C27"``, as this book counts.
    statement, where, paper : str
        The claim in our words, its place in the paper, and the paper's own number.
    chapters : tuple of str
        Notebooks whose records decide; for a claim without a verdict, those that will.
    verdict : str
        One of `WORDS`.
    measured : str
        The numbers that decide; for a claim without a verdict, what is missing.
    records : tuple of Record
        All that the chapter's verdicts rest on.
    """

    claim: str
    statement: str
    where: str
    paper: str
    chapters: tuple[str, ...]
    verdict: str
    measured: str
    records: tuple[Record, ...]


def claims() -> list[dict[str, str]]:
    """Return the paper's claims: claim, statement, where, paper, chapter."""
    source = importlib.resources.files("regroup_lib") / "paper" / "claims.csv"
    with source.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------- verdicts, chapter by chapter


def _of_verdicts(verdicts: Sequence[Verdict]) -> dict[str, tuple[str, str]]:
    return {v.claim: (v.word, "; ".join(map(str, v.evidence))) for v in verdicts}


def _of_frame(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    tested = frame[frame["verdict"].isin(WORDS)]
    return {claim: (row["verdict"], row["measured"]) for claim, row in tested.iterrows()}


def _records(chapter: str, profile: str, seeds: Sequence[int]) -> list[Record]:
    return [find_record(spec) for spec in plans.chapter_specs(chapter, profile=profile, seeds=seeds)]


def _encoders(profile: str, seeds: Sequence[int]) -> Found:
    records = _records("encoders", profile, seeds)
    return _of_verdicts(example.encoder_verdicts(records, plans.ENCODERS[profile][-1])), records


def _example(profile: str, seeds: Sequence[int]) -> Found:
    records = _records("motivating-example", profile, seeds)
    return _of_verdicts(example.label_set_verdicts(records, plans.ENCODERS[profile][-1])), records


def _pace(profile: str, seeds: Sequence[int]) -> Found:
    records = _records("synchronous-learning", profile, seeds)
    return _of_verdicts(example.pace_verdicts(records, plans.ENCODERS[profile][-1])), records


def _binary(profile: str, seeds: Sequence[int]) -> Found:
    tasks = {task: plans.competitors(task, profile, seeds) for task in plans.recorded_tasks(profile, seeds)}
    if not tasks:
        return {}, []
    records = [r for groups in tasks.values() for group in groups.values() for r in group]
    return _of_frame(binary.binary_verdicts(tasks)), records


def _multiclass(profile: str, seeds: Sequence[int]) -> Found:
    groups = plans.competitors(plans.MULTICLASS_TASKS[profile][0], profile, seeds)
    return _of_frame(multiclass.multiclass_verdicts(groups)), [r for group in groups.values() for r in group]


def _ablations(profile: str, seeds: Sequence[int]) -> Found:
    numbers = {
        task: (ablation.section("clusters", task, profile, seeds), plans.NATURAL_K[task])
        for task in plans.ABLATION_TASKS[profile]
    }
    text, word = ablation.natural_number_verdict(numbers)
    return {"C10": (word, text)}, [r for groups, _ in numbers.values() for group in groups.values() for r in group]


def _open_ends(profile: str, seeds: Sequence[int]) -> Found:
    groups = multiclass.records_of(plans.self_supervised_runs(profile, seeds))
    verdict = longtail.self_supervision_verdict(groups)
    return _of_verdicts([verdict]), [r for group in groups.values() for r in group]


def _text(profile: str, seeds: Sequence[int]) -> Found:
    results = text_report.load_results(profile, seeds)
    text, word = text_report.text_verdict(results)
    return {"C25": (word, text)}, [r for groups in results.values() for group in groups.values() for r in group]


CHAPTERS: dict[str, Callable[[str, Sequence[int]], Found]] = {
    "encoders": _encoders,
    "motivating-example": _example,
    "synchronous-learning": _pace,
    "binary": _binary,
    "multiclass": _multiclass,
    "ablations": _ablations,
    "text": _text,
    "open-ends": _open_ends,
}


def _recorded(chapter: str, profile: str, seeds: Sequence[int]) -> tuple[int, int]:
    """Return how many of a chapter's runs have a record, and how many runs there are."""
    setting = {"profile": profile, "seeds": seeds}
    missing = len(plans.missing_records(chapter, **setting))
    total = len(plans.chapter_specs(chapter, **setting))
    waiting = plans.undecided(chapter, **setting)
    return total - missing, total + waiting


def scorecard(profile: str, seeds: Sequence[int]) -> list[Entry]:
    """Return the paper's claims in order, each with the verdict of the records of a profile.

    A claim that two chapters test holds if it does in both, and in part if their verdicts differ.

    Parameters
    ----------
    profile : str
    seeds : sequence of int
    """
    counts = {chapter: _recorded(chapter, profile, seeds) for chapter in CHAPTERS}
    found: dict[str, Found] = {}
    for chapter, verdicts in CHAPTERS.items():
        recorded, total = counts[chapter]
        # The binary chapter has verdicts as soon as one of its tasks is whole.
        found[chapter] = verdicts(profile, seeds) if recorded == total or chapter == "binary" else ({}, [])
    return [_entry(row, found, counts) for row in claims()]


def _entry(row: Mapping[str, str], found: Mapping[str, Found], counts: Mapping[str, tuple[int, int]]) -> Entry:
    claim, chapters = row["claim"], tuple(row["chapter"].split(", "))
    testing = tuple(name for name in chapters if claim in found.get(name, ({},))[0])
    tested = [(*found[name][0][claim], found[name][1]) for name in testing]
    fixed = (claim, row["statement"], row["where"], row["paper"], testing or chapters)
    if not tested:
        missing = [
            f"{name}: {counts[name][0]} of {counts[name][1]} runs recorded" for name in chapters if name in counts
        ]
        return Entry(*fixed, NOT_RUN, "; ".join(missing), ())
    words = {word for word, _, _ in tested}
    word = words.pop() if len(words) == 1 else "holds in part"
    records = tuple(record for _, _, group in tested for record in group)
    return Entry(*fixed, word, "; ".join(text for _, text, _ in tested), records)


def tally(entries: Sequence[Entry]) -> dict[str, int]:
    """Return how many claims have each verdict, in the order of `WORDS`."""
    return {word: sum(entry.verdict == word for entry in entries) for word in WORDS}


def tally_sentence(entries: Sequence[Entry]) -> str:
    """Return the tally in words: "Of 27 claims, 7 hold, 3 hold in part, 2 do not, and 15 are not run yet"."""
    n = tally(entries)
    hold = "holds" if n["holds"] == 1 else "hold"
    tested = f"Of the paper's {len(entries)} claims, {n['holds']} {hold}, {n['holds in part']} in part"
    if not n[NOT_RUN]:
        return f"{tested}, and {n['does not hold']} not"
    return f"{tested}, {n['does not hold']} not, and {n[NOT_RUN]} {'is' if n[NOT_RUN] == 1 else 'are'} not run yet"


def _scale(records: Sequence[Record]) -> str:
    """Return what was trained, in a few words: tasks, network, epochs, seeds."""
    if not records:
        return ""
    specs = [record.spec for record in records]
    tasks = ", ".join(dict.fromkeys(spec.task for spec in specs))
    trained = {(s.network, s.epochs) for s in specs if s.kind == "training" and s.network != "mlp"}
    networks = "; ".join(f"{network}, {epochs} epochs" for network, epochs in sorted(trained))
    seeds = f"{len({spec.seed for spec in specs})} seeds"
    return "; ".join(part for part in (tasks, networks, seeds) if part)


def scorecard_table(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the scorecard as a table; its cells are HTML, with a link to each chapter that tests a claim."""
    rows = []
    for entry in entries:
        links = (f'<a href="{name}.html">{name}</a>' for name in entry.chapters)
        listed = f'; <a href="records.html#records-{entry.chapters[0]}">{len(entry.records)} records</a>'
        run = f"{', '.join(links)}: {html.escape(_scale(entry.records))}{listed}" if entry.records else ""
        rows.append(
            {
                "no.": entry.claim,
                "claim": html.escape(entry.statement),
                "the paper": html.escape(f"{entry.where}: {entry.paper}"),
                "measured here": html.escape(entry.measured),
                "verdict": f"<b>{entry.verdict}</b>",
                "what was run": run,
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
    found = [*_example_gains(profile, seeds), *_own_encoder_gains(profile, seeds)]
    for task in plans.recorded_tasks(profile, seeds):
        groups = plans.competitors(task, profile, seeds)
        found.append(Gain(task, "pre-trained", competition.precision_difference(groups, "rg", "ce")))
    if _complete("multiclass", profile, seeds):
        task = plans.MULTICLASS_TASKS[profile][0]
        groups = plans.competitors(task, profile, seeds)
        found.append(
            Gain(f"{task}, mean of classes", "pre-trained", competition.precision_difference(groups, "rg", "ce"))
        )
    if _complete("text", profile, seeds):
        for task, groups in text_report.load_results(profile, seeds).items():
            found.append(Gain(f"{task}, MiniLM", "pre-trained", competition.precision_difference(groups, "RG", "CE")))
    if _complete("tables", profile, seeds):
        found += _table_gains(profile, seeds)
    return found


def _complete(chapter: str, profile: str, seeds: Sequence[int]) -> bool:
    recorded, total = _recorded(chapter, profile, seeds)
    return recorded == total


def _example_gains(profile: str, seeds: Sequence[int]) -> list[Gain]:
    if not _complete("motivating-example", profile, seeds):
        return []
    groups: dict[str, list[Record]] = {}
    for record in _records("motivating-example", profile, seeds):
        groups.setdefault(record.spec.label, []).append(record)
    plain = bootstrap_precisions(groups["ce"])
    found = []
    for encoder in reversed(plans.ENCODERS[profile]):
        space = "pre-trained" if encoder == plans.INCEPTION else "poor"
        difference = bootstrap_difference(bootstrap_precisions(groups[f"rg-{encoder}"]), plain)
        found.append(Gain(f"{plans.TASKS[profile]}, {encoder_label(encoder)}", space, difference))
    random = bootstrap_difference(bootstrap_precisions(groups["rg-random"]), plain)
    return [*found, Gain(f"{plans.TASKS[profile]}, random groups", "none", random)]


def _own_encoder_gains(profile: str, seeds: Sequence[int]) -> list[Gain]:
    runs = plans.self_supervised_runs(profile, seeds)
    groups = {label: [find_record(spec) for spec in runs[label]] for label in ("simclr", "binary")}
    if any(None in group for group in groups.values()):
        return []
    difference = competition.precision_difference(groups, "simclr", "binary")
    return [Gain(f"{plans.ABLATION_TASKS[profile][0]}, {encoder_label('simclr')}", "own", difference)]


def _table_gains(profile: str, seeds: Sequence[int]) -> list[Gain]:
    results = table_report.TableResults(_records("tables", profile, seeds))
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
