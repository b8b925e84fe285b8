"""Every claim of the paper with its verdict, and where regrouping gains: one page over all chapters' records."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from IPython.display import HTML

from regroup_book import plans
from regroup_book.chapters import tables, text
from regroup_book.differences import precision_difference
from regroup_book.evidence import WORDS, Contrast, Verdict, claims, verdict
from regroup_book.show import encoder_label, learned_share, listed, network_name, task_name
from regroup_lib.intervals import Interval
from regroup_lib.runs import table_methods
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.records import Record, find_record
from regroup_lib.runs.specs import FEATURE_NETWORKS, Spec

# ---------------------------------------------------------------- verdicts


def scorecard(profile: str, seeds: Sequence[int], part: str = "claims") -> list[Verdict]:
    """Return the verdicts on the paper's claims, or on the book's own ``"questions"``, in order."""
    return [verdict(claim, profile, seeds) for claim in claims(part)]


def tally(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Return how many claims have each verdict, in the order of `evidence.WORDS`."""
    return {word: sum(v.word == word for v in verdicts) for word in WORDS}


def tally_sentence(verdicts: Sequence[Verdict]) -> str:
    """Return the tally in words: "Of the paper's 27 claims, 9 are supported, 3 contradicted and 15 undecided"."""
    first, *others = (f"{number} {word}" for word, number in tally(verdicts).items() if number)
    number, word = first.split(" ", 1)
    verb = "is" if number == "1" else "are"
    return f"Of the paper's {len(verdicts)} claims, {listed([f'{number} {verb} {word}', *others])}"


def summary_box(verdicts: Sequence[Verdict], *more: str) -> HTML:
    """Return a box for the top of a chapter: the claims that it tests, by their verdict, and `more` lines of HTML."""
    lines = []
    for word in WORDS:
        stated = [f"{html.escape(v.statement)} ({v.claim}).{_other_scale(v)}" for v in verdicts if v.word == word]
        if stated:
            lines.append(f"<b>{word.capitalize()}:</b> {' '.join(stated)}")
    return box([*lines, *more])


def box(lines: Iterable[str]) -> HTML:
    """Return the box "In short" with some lines of HTML."""
    items = "".join(f"<li>{line}</li>" for line in lines)
    return HTML(f'<div class="admonition note"><p class="admonition-title">In short</p><ul>{items}</ul></div>')


# The paper's network, in the runs that were made with it.
LARGE_SCALE = f"ResNet34 after {plans.MOTIVATING_SETTINGS['paper']['epochs']} epochs"


def _other_scale(v: Verdict) -> str:
    """Return the contrasts that runs at the paper's scale decide in the opposite way."""
    here = {c.text: c.word for c in v.contrasts}
    opposite = [c for c in v.elsewhere if {c.word, here.get(c.text)} == {"supported", "contradicted"}]
    found = html.escape("; ".join(map(str, opposite)))
    return f" A {LARGE_SCALE} shows the opposite: {found}." if opposite else ""


def _scale(records: Sequence[Record]) -> str:
    """Return what was trained, in a few words: network, epochs, share of the labels learned, encoder, seeds.

    The share is that of runs with plain cross-entropy; other losses, and that of a second head, have another scale.
    """
    trained: dict[tuple[str, int], list[float]] = {}
    for record in records:
        if record.spec.kind == "training" and record.traces and record.spec.network not in FEATURE_NETWORKS:
            shares = trained.setdefault((record.spec.network, record.spec.epochs), [])
            method = METHODS[record.spec.method]
            if method.loss == "ce" and not method.auxiliary:
                shares.append(round(100 * learned_share(record)))
    parts = [f"{network_name(n)}, {epochs} epochs{_learned(shares)}" for (n, epochs), shares in sorted(trained.items())]
    encoders = ", ".join(dict.fromkeys(encoder_label(r.spec.encoder) for r in records if r.spec.encoder))
    return "; ".join(filter(None, [*parts, encoders, f"{len({record.spec.seed for record in records})} seeds"]))


def _learned(shares: Sequence[int]) -> str:
    ends = sorted({min(shares), max(shares)}) if shares else []
    return f", {' to '.join(map(str, ends))}% of the labels learned" if ends else ""


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Return claims with their verdicts as a table; its cells are HTML, with a link to each chapter that tests one."""
    return pd.DataFrame(map(_verdict_row, verdicts)).set_index("no.")


def _verdict_row(v: Verdict) -> dict[str, str]:
    def lines(contrasts: Sequence[Contrast]) -> str:
        return "<br>".join(f"{html.escape(str(c))} <i>({c.word})</i>" for c in contrasts)

    run = ", ".join(f'<a href="{name}.html">{name}</a>' for name in v.chapters)
    if v.records:
        link = f'<a href="records.html#records-{v.chapters[0]}">{len(v.records)} records</a>'
        run += f": {html.escape(_scale(v.records))}; {link}"
    larger = f"<br>With {LARGE_SCALE}:<br>{lines(v.elsewhere)}" if v.elsewhere else ""
    measured = lines(v.contrasts) + larger or html.escape(v.note)
    paper = html.escape(": ".join(filter(None, (v.where, v.paper))))
    return {
        "no.": v.claim,
        "verdict": f'<b class="verdict {v.word.replace(" ", "-")}">{v.word}</b>',
        "claim": html.escape(v.statement) + (f" <i>({paper})</i>" if paper else ""),
        "measured here": f'<div class="measured">{measured}<br>Runs: {run}</div>',
    }


# ---------------------------------------------------------------- one picture: where regrouping gains


@dataclass(frozen=True)
class Gain:
    """AP of a regrouped method minus that of the plain labels, on one task, in percentage points.

    The tables of one classifier share a `row` of the figure. `space` says in which space the clusters were found:
    ``"pre-trained"``, ``"own"`` (self-supervised on the task's images), ``"poor"`` (raw pixels or an autoencoder's
    codes), ``"columns"`` of a table, or ``"none"`` for random groups.
    """

    row: str
    space: str
    difference: Interval


def gains(profile: str, seeds: Sequence[int]) -> list[Gain]:
    """Return what regrouping adds to the AP of plain labels wherever all runs are recorded, by kind of space."""
    task, (*poor, best), example = plans.TASKS[profile], plans.ENCODERS[profile], plans.label_sets(profile, seeds)
    name = task_name(task)
    found = _gain(example, name, "pre-trained", f"rg-{best}", "ce")
    for other in (*plans.BINARY_TASKS[profile], *plans.MULTICLASS_TASKS[profile]):
        try:
            groups = plans.competitors(other, profile, seeds)
        except ValueError:  # not all recorded
            continue
        found.append(Gain(task_name(other), "pre-trained", precision_difference(groups, "rg", "ce")))
    if not plans.missing_records("text", profile=profile, seeds=seeds):
        for title, groups in text.load_results(profile, seeds).items():
            found.append(Gain(title, "pre-trained", precision_difference(groups, "RG", "CE")))
    found += _gain(plans.self_supervised_runs(profile, seeds), f"{name}, SimCLR", "own", "simclr", "binary")
    for encoder in poor:
        found += _gain(example, f"{name}, {encoder_label(encoder)}", "poor", f"rg-{encoder}", "ce")
    found += _gain(example, f"{name}, random groups", "none", "rg-random", "ce")
    if not plans.missing_records("tables", profile=profile, seeds=seeds):
        results = tables.TableResults([find_record(spec) for spec in plans.tabular(profile, seeds)])
        for estimator in results.estimators:
            row = f"{len(results.tasks)} tasks on tables, {table_methods.ESTIMATOR_TITLES[estimator]}"
            found += [Gain(row, "columns", d) for d in results.differences(estimator, "rg").values()]
    return found


def _gain(runs: Mapping[str, list[Spec]], row: str, space: str, first: str, second: str) -> list[Gain]:
    groups = {name: list(map(find_record, runs[name])) for name in (first, second)}
    complete = all(map(all, groups.values()))
    return [Gain(row, space, precision_difference(groups, first, second))] if complete else []


def gains_sentence(found: Sequence[Gain]) -> str:
    """Return in words on how many tasks with a pre-trained encoder's space the gain over plain labels is supported."""
    group = [gain for gain in found if gain.space == "pre-trained"]
    if not group:
        return "No task with a pre-trained encoder is recorded in this profile."
    better = [gain.row for gain in group if gain.difference.low > 0]
    worse = [gain.row for gain in group if gain.difference.high < 0]
    tasks = f"{len(group)} tasks with a pre-trained encoder"
    if better:
        first = f"Regrouping ranks better than plain training on {len(better)} of {tasks}: {listed(better)}."
    else:
        first = f"Regrouping ranks better than plain training on none of {tasks}."
    if worse:
        return f"{first} It ranks worse on {len(worse)}: {listed(worse)}."
    return first if len(better) == len(group) else f"{first} The other differences are undecided."
