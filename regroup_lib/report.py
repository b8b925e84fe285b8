"""Figures and tables from records. One method has one color, marker and line everywhere, told apart in grey too."""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from scipy.stats import t as student

from regroup_lib import tables
from regroup_lib.data import class_names_of
from regroup_lib.records import Record
from regroup_lib.specs import EncoderSpec, LookSpec, Spec, TableSpec
from regroup_lib.tasks import parse_task

AVERAGE_PRECISION = "average_precision"
BALANCED_ACCURACY = "balanced_accuracy"
PAPER_RULE = "max"  # Section 4.1 of the paper: max aggregation


@dataclass(frozen=True)
class Style:
    """How a method looks in every figure."""

    label: str
    color: str
    line: str
    marker: str


# Okabe and Ito's colors, which color-blind readers tell apart; their lightness differs, so does the dash.
STYLES = {
    "ce": Style("binary labels", "#000000", "-", "o"),
    "rg-true": Style("true classes", "#009E73", "--", "s"),
    "rg-random": Style("random groups", "#E69F00", ":", "v"),
    "rg-raw": Style("regrouped, raw pixels", "#CC79A7", "-.", "^"),
    "rg-pca": Style("regrouped, PCA", "#56B4E9", "-", "P"),
    "rg-autoencoder": Style("regrouped, autoencoder", "#D55E00", (0, (5, 1, 1, 1, 1, 1)), "D"),
    "rg-onnx:inception_v3_mixed_8": Style("regrouped, Inception-v3", "#0072B2", "-", "X"),
    "rg-simclr": Style("regrouped, SimCLR", "#999933", "--", "p"),
    "rg-clip": Style("regrouped, CLIP", "#0072B2", "--", "X"),
}
ENCODER_LABELS = {
    "raw": "raw pixels",
    "pca": "PCA",
    "autoencoder": "autoencoder",
    "simclr": "SimCLR, trained here",
    "clip": "CLIP",
    "onnx:inception_v3_mixed_8": "Inception-v3 (ImageNet)",
    "minilm": "MiniLM",
    "tfidf": "TF-IDF",
}


def style_of(spec: Spec) -> Style:
    """Return the style of a spec's method and encoder."""
    return STYLES.get(spec.label, Style(spec.label, "#666666", "-", "."))


def encoder_label(name: str) -> str:
    """Return how tables and figures name an encoder."""
    return ENCODER_LABELS.get(name, name)


def use_style() -> None:
    """Set matplotlib for the book: legible at column width, no boxes that say nothing."""
    plt.rcParams.update(
        {
            "figure.dpi": 130,
            "figure.constrained_layout.use": True,
            "savefig.bbox": "tight",
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
        }
    )


def by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group training records by method and encoder, in order of first appearance, each sorted by seed.

    Raises
    ------
    ValueError
        If methods were run with different seeds: their differences would not be paired.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.spec.label, []).append(record)
    groups = {label: sorted(group, key=lambda r: r.spec.seed) for label, group in groups.items()}
    seeds = {label: [r.spec.seed for r in group] for label, group in groups.items()}
    if len({tuple(s) for s in seeds.values()}) > 1:
        raise ValueError(f"the methods have different seeds: {seeds}")
    return groups


def measured(records: Sequence[Record], measure: Callable[[Record], float]) -> dict[str, np.ndarray]:
    """Return a number of each record by method and encoder: arrays over seeds, in the order of `by_method`."""
    return {label: np.array([measure(r) for r in group], float) for label, group in by_method(records).items()}


def rule_of(record: Record, rule: str = PAPER_RULE) -> str:
    """Return the aggregation rule to read: `rule`, or ``"none"`` where nothing was aggregated."""
    return "none" if "none" in record.metrics else rule


def result_on_test(record: Record, measure: str, rule: str = PAPER_RULE) -> float:
    """Return one number of a record's test set; NaN where the run diverged."""
    if record.status != "finished":
        return float("nan")
    return record.metrics[rule_of(record, rule)]["test"]["summary"][measure]


def trace(record: Record, measure: str, *, split: str = "test", rule: str = PAPER_RULE) -> np.ndarray:
    """Return a measure after each epoch."""
    return np.array([epoch[f"{split}_{rule_of(record, rule)}_{measure}"] for epoch in record.traces])


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds: its mean and Student's interval at 95%."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``"holds"`` if the interval is above 0, ``"does not hold"`` if the mean is not, else ``"holds in part"``."""
        if not self.mean > 0:
            return "does not hold"
        return "holds" if self.low > 0 else "holds in part"

    def __neg__(self) -> Difference:
        return Difference(-self.mean, -self.high, -self.low)


def summary_box(verdicts: Sequence[Verdict] | pd.DataFrame) -> Any:
    """Return a box for the top of a chapter: the claims that it tests, each with its verdict in a word.

    Parameters
    ----------
    verdicts : sequence of Verdict, or DataFrame
        A table is that of `competition.verdict_table`: indexed by the claim's number, columns claim and verdict.
    """
    from IPython.display import HTML  # a notebook's; the library works without it

    if isinstance(verdicts, pd.DataFrame):
        found = [(number, row["claim"], row["verdict"]) for number, row in verdicts.iterrows()]
    else:
        found = [(verdict.claim, verdict.statement, verdict.word) for verdict in verdicts]
    lines = (
        f"<li>{number} {html.escape(claim.removesuffix('.'))}: <b>{html.escape(word)}</b></li>"
        for number, claim, word in found
    )
    title = '<p class="admonition-title">In short: the paper\'s claims that this page tests</p>'
    return HTML(f'<div class="admonition note">{title}<ul>{"".join(lines)}</ul></div>')


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return first minus second, seed by seed, with a 95% interval of the mean (Student, n - 1 degrees).

    With three seeds the interval is the mean plus or minus 2.5 standard deviations: wide, and honest.

    Raises
    ------
    ValueError
        If there are fewer than two pairs, or the lengths differ.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"a paired difference needs two or more pairs; got {len(first)} and {len(second)} values")
    difference = np.asarray(first, float) - np.asarray(second, float)
    n, mean = len(difference), float(difference.mean())
    margin = float(student.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n))
    return Difference(mean, mean - margin, mean + margin)


@dataclass(frozen=True)
class Evidence:
    """One comparison that a verdict rests on: what is subtracted from what, and a difference said to be above 0."""

    text: str
    difference: Difference
    scale: float = 100
    digits: int = 1

    def __str__(self) -> str:
        if self.difference.low == self.difference.high:  # nothing moved between seeds
            return _minus(f"{self.text}: {self.difference.mean * self.scale:+.{self.digits}f}")
        return f"{self.text}: {signed_interval(self.difference, self.scale, self.digits)}"


def evidence(
    text: str, first: Sequence[float], second: Sequence[float] | float, *, scale: float = 100, digits: int = 1
) -> Evidence:
    """Return first minus second, seed by seed, as evidence; `second` may be one number for all seeds."""
    second = np.broadcast_to(np.asarray(second, float), np.shape(first))
    return Evidence(text, paired_difference(first, second), scale, digits)


def bullets(parts: Sequence[Evidence]) -> str:
    """Return evidence as a Markdown list."""
    return "\n".join(f"- {part}" for part in parts)


@dataclass(frozen=True)
class Verdict:
    """What the records say about one claim of the paper.

    Attributes
    ----------
    claim : str
        Its number, as in ``"C5"``.
    statement : str
        The claim in our words.
    evidence : tuple of Evidence
        Differences that are all above 0 if the claim holds.
    """

    claim: str
    statement: str
    evidence: tuple[Evidence, ...]

    @property
    def word(self) -> str:
        """``"holds"`` if every difference does; ``"holds in part"`` if one does or none is below 0; else not."""
        words = {part.difference.verdict for part in self.evidence}
        if len(words) == 1:
            return words.pop()
        return "holds in part" if "holds" in words else "does not hold"

    def _repr_markdown_(self) -> str:
        return f"**{self.claim} {self.word}.** The claim: {self.statement}\n\n{bullets(self.evidence)}"


def measured_difference(
    records: Sequence[Record], first: str, second: str, measure: str = AVERAGE_PRECISION, rule: str = PAPER_RULE
) -> Difference:
    """Return the paired difference of two methods' test measure, methods by label (``"rg-raw"``, ``"ce"``)."""
    groups = by_method(records)
    for label in (first, second):
        if label not in groups:
            raise ValueError(f"no record of method {label!r}; there are {', '.join(groups)}")
    values = [[result_on_test(r, measure, rule) for r in groups[label]] for label in (first, second)]
    return paired_difference(*values)


def mean_std(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Return "mean ± standard deviation" (n - 1 degrees), in percent by default."""
    values = np.asarray(values, float) * scale
    deviation = values.std(ddof=1) if len(values) > 1 else float("nan")
    return _minus(f"{values.mean():.{digits}f} ± {deviation:.{digits}f}")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def signed_interval(difference: Difference, scale: float = 100, digits: int = 1) -> str:
    """Return "+1.2 [+0.3, +2.1]", in percent by default."""
    mean, low, high = (f"{value * scale:+.{digits}f}" for value in (difference.mean, difference.low, difference.high))
    return _minus(f"{mean} [{low}, {high}]")


def _table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a frame whose index is their first entry, named in the same header row as the columns."""
    frame = pd.DataFrame(rows).set_index(next(iter(rows[0])))
    return frame.rename_axis(index=None, columns=frame.index.name)


def traced(frame: pd.DataFrame, rows: Iterable[Sequence[Record]]) -> pd.DataFrame:
    """Note which records each row of a table comes from, in ``attrs``, and return the table.

    Parameters
    ----------
    frame : DataFrame
    rows : iterable of sequence of Record
        In the order of the table's rows.
    """
    frame.attrs["records"] = [[record.key for record in group] for group in rows]
    return frame


def comparison_table(records: Sequence[Record], baseline: str = "ce") -> pd.DataFrame:
    """Return one row a method: BA and AP on the test set under both rules, and the paired AP difference.

    All numbers are percent, mean ± standard deviation over seeds; the difference is to `baseline`, under max
    aggregation, with its 95% interval.
    """
    groups, rows = by_method(records), []
    for label, group in groups.items():
        row: dict[str, Any] = {"training labels": style_of(group[0].spec).label}
        for measure, short in ((BALANCED_ACCURACY, "BA"), (AVERAGE_PRECISION, "AP")):
            for rule in ("max", "sum"):
                row[f"{short} ({rule})"] = mean_std([result_on_test(r, measure, rule) for r in group])
        if label == baseline or baseline not in groups:
            row["AP − binary"] = ""
        else:
            row["AP − binary"] = signed_interval(measured_difference(records, label, baseline))
        rows.append(row)
    return traced(_table(rows), groups.values())


def encoder_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row an encoder: how well k-means in its space finds the classes that the majority hides.

    d is the dimension; seconds are those of encoding all images once and of one k-means.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.spec.encoder, []).append(record)
    rows = []
    for name, group in groups.items():
        row: dict[str, Any] = {"encoder": encoder_label(name), "d": group[0].regrouping["dimension"]}
        for measure, label in (("purity", "purity"), ("nmi", "NMI"), ("ari", "ARI")):
            row[label] = mean_std([r.metrics[measure] for r in group], scale=1, digits=2)
        row["5-NN"] = f"{group[0].metrics['neighbor_accuracy']:.2f}"
        clustering = np.median([r.seconds["regroup"] for r in group])
        row["seconds"] = f"{group[0].seconds['encode']:.0f} + {clustering:.0f}"
        rows.append(row)
    return traced(_table(rows), groups.values())


def space_accuracy(record: Record) -> float:
    """Return how well the data set's own classes separate in a test space: leave-one-out accuracy of 5 neighbors.

    The space is an encoder's, or the penultimate layer of a trained network (NaN where it diverged).
    """
    if isinstance(record.spec, EncoderSpec):
        return record.metrics["neighbor_accuracy"]
    if record.status != "finished":
        return float("nan")
    return record.metrics[rule_of(record)]["test"]["neighbor_accuracy"]


def learned_share(record: Record) -> float:
    """Return how much of the training labels the network has learned at the end: 1 - loss / entropy.

    0: the loss of always answering with the class frequencies; 1: every label known.
    """
    shares = np.asarray(record.regrouping["counts"], float)
    shares = shares / shares.sum()
    return float(1 - record.traces[-1]["train_loss"] / -(shares * np.log(shares)).sum())


def recall_and_precision(record: Record, rule: str = PAPER_RULE) -> tuple[float, float]:
    """Return the positive class's recall and precision on the test set at a threshold of 0.5 (binary tasks)."""
    arrays = record.arrays()
    called = arrays[f"test_scores_{rule_of(record, rule)}"] >= 0.5
    hits = (called & (arrays["test_labels"] == 1)).sum()
    return float(hits / (arrays["test_labels"] == 1).sum()), float(hits / max(1, called.sum()))


def kind_of_groups(purity: float, learned: float) -> str:
    """Say what a division of the majority is like: not learned, or else along its hidden classes ("pure") or not.

    Learned is a `learned_share` of at least one half, pure a purity of at least one half.
    """
    if learned < 0.5:
        return "not learned"
    return "pure" if purity >= 0.5 else "mixed"


def label_set_table(records: Sequence[Record], baseline: str = "ce") -> pd.DataFrame:
    """Return one row a label set: what its groups are like, what became of the network, and which mistakes it makes.

    Means over seeds; where runs diverged, the first column says how many. Purity is the groups' (the majority's
    alone); ``learned`` is `learned_share`; 5-NN is `space_accuracy`; spread is the minority's total variation after the
    last epoch; recall and precision are the positive class's under max aggregation.
    """
    groups, rows = by_method(records), []
    for label, everything in groups.items():
        group = [r for r in everything if r.status == "finished"]
        row = {"training labels": style_of(everything[0].spec).label + _diverged(everything)}
        row |= dict.fromkeys(("groups", "purity", "learned", "5-NN", "spread", "recall", "precision"), "")
        if not group:
            rows.append(row)
            continue
        recall, precision = np.mean([recall_and_precision(r) for r in group], axis=0)
        learned = float(np.mean([learned_share(r) for r in group]))
        if all("purity" in r.regrouping for r in group):
            purity = float(np.mean([r.regrouping["purity"] for r in group]))
            row |= {"groups": kind_of_groups(purity, learned), "purity": f"{purity:.2f}"}
        row |= {
            "learned": f"{learned:.2f}",
            "5-NN": f"{np.mean([space_accuracy(r) for r in group]):.2f}",
            "spread": f"{np.mean([r.traces[-1]['variation'][-1] for r in group]):.2f}",
            "recall": f"{recall:.2f}",
            "precision": f"{precision:.2f}",
        }
        if baseline in groups:
            gain = measured_difference(records, label, baseline).mean
            row["AP gain"] = "" if label == baseline else _minus(f"{gain * 100:+.1f}")
        rows.append(row)
    return traced(_table(rows), groups.values())


def sampling_margin(records: Sequence[Record], rule: str = PAPER_RULE) -> float:
    """Return half the mean width of the 95% intervals of the positive class's AP that come from the test sample.

    Seeds do not move the test set, so a spread over seeds does not contain this uncertainty.
    """
    name = list(records[0].metrics[rule_of(records[0], rule)]["test"]["average_precision"])[1]
    intervals = [r.metrics[rule_of(r, rule)]["test"]["intervals"]["average_precision"][name] for r in records]
    return float(np.mean([(high - low) / 2 for low, high in intervals]))


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
                "g, first → last epoch": _minus(" → ".join(f"{value:+.2f}" for value in ends)),
                "g, hidden classes": mean_std([hidden_pace_gap(r).mean() for r in group], scale=1, digits=2),
            }
        )
    return traced(_table(rows), groups.values())


def settings_table(profile: str, tasks: Sequence[str]) -> str:
    """Return the settings of a profile on some tasks as a Markdown table, read from the specs themselves."""
    specs = [Spec(profile=profile, task=task, method="ce") for task in tasks]
    columns: dict[str, Callable[[Spec], Any]] = {
        "task": lambda spec: f"`{spec.task}`",
        "network": lambda spec: f"`{spec.network}`",
        "pixels": lambda spec: "" if spec.is_text else spec.image_size or "as published",
        "epochs": lambda spec: spec.epochs,
        "batch": lambda spec: spec.batch_size,
        "optimizer": lambda spec: {"sgd": "SGD, Nesterov", "adam": "AdamW"}[spec.optimizer],
        "peak rate": lambda spec: f"{spec.peak_lr:g}",
        "weight decay": lambda spec: f"{spec.weight_decay:g}",
        "mirrored": lambda spec: "yes" if spec.flip else "no",
        "shifted by": lambda spec: f"{spec.shift} pixels" if spec.shift else "0",
    }
    rows = [list(columns), ["---"] * len(columns), *([value(spec) for value in columns.values()] for spec in specs)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows) + "\n"


def provenance(records: Sequence[Record]) -> str:
    """Return one sentence: how many runs, of what, on which data and machines."""
    profiles, tasks = (list(dict.fromkeys(getattr(r.spec, name) for r in records)) for name in ("profile", "task"))
    seeds = sorted({r.spec.seed for r in records})
    lengths = dict.fromkeys(f"{r.spec.epochs} epochs of {r.spec.network}" for r in records if r.spec.kind == "training")
    digests = sorted({r.data_digest[:12] for r in records})
    machines = sorted({machine_class(r) for r in records})
    run = ", ".join([f"seeds {', '.join(map(str, seeds))}", *lengths])
    return (
        f"{len(records)} records, profile {', '.join(profiles)}, task {', '.join(tasks)}, {run}; "
        f"data {', '.join(digests)}; {', '.join(machines)}."
    )


def plot_curves(
    records: Sequence[Record],
    *,
    measure: str = AVERAGE_PRECISION,
    label: str = "test average precision",
    rule: str = PAPER_RULE,
) -> Figure:
    """Draw a measure over epochs: the mean over seeds, and a band from the lowest to the highest seed (Figure 6).

    Seeds whose run diverged are left out, and named under the figure.
    """
    figure, axes = plt.subplots(figsize=(7.6, 4))
    groups = by_method(records)
    lost = [style_of(group[0].spec).label + note for group in groups.values() if (note := _diverged(group))]
    for group in groups.values():
        finished = [r for r in group if r.status == "finished"]
        if finished:
            _band(axes, [trace(r, measure, rule=rule) for r in finished], style_of(group[0].spec))
    axes.set(xlabel="\n".join(["epoch", *lost]), ylabel=label)
    _ordered_legend(axes)
    return figure


def _diverged(group: Sequence[Record]) -> str:
    """Return what a table or a figure adds to the name of a method of which runs diverged."""
    lost = sum(record.status == "diverged" for record in group)
    return f" ({lost} of {len(group)} seeds diverged)" if lost else ""


def _ordered_legend(axes: Axes) -> None:
    """Put the legend beside the panel, in the order in which the lines end: it reads without color."""
    lines = sorted(
        (line for line in axes.get_lines() if not line.get_label().startswith("_")),
        key=lambda line: -line.get_ydata()[-1],
    )
    axes.legend(handles=lines, loc="center left", bbox_to_anchor=(1.01, 0.5), title="training labels", handlelength=3)


def _band(axes: Axes, curves: Sequence[np.ndarray], style: Style) -> None:
    curves = np.array(curves)
    epochs = np.arange(1, curves.shape[1] + 1)
    every = max(1, len(epochs) // 10)
    axes.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=style.color, alpha=0.15, linewidth=0)
    axes.plot(
        epochs,
        curves.mean(axis=0),
        color=style.color,
        linestyle=style.line,
        marker=style.marker,
        markevery=every,
        label=style.label,
    )


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
        _band(axes, [pace_gap(r) for r in group], style_of(group[0].spec))
    axes.set(xlabel="epoch", ylabel="pace gap: log2(minority / majority variation)")
    _ordered_legend(axes)
    return figure


def fine_class_names(task: str) -> tuple[str, ...]:
    """Return the names of the classes that a task's data set has."""
    dataset, _ = parse_task(task)
    return class_names_of(dataset)


def plot_embeddings(records: Sequence[Record], title: Callable[[Record], str] | None = None) -> Figure:
    """Draw the t-SNE plots that records hold, colored by the data set's own classes (Figure 3).

    Parameters
    ----------
    records : sequence of Record
        Training records with ``embedding=True``, or encoder records.
    title : callable, optional
        Record to panel title; default: the method or the encoder.
    """
    columns = 2 if len(records) in (1, 2, 4) else 3
    rows = -(-len(records) // columns)
    side = 7.6 / columns
    figure, panels = plt.subplots(rows, columns, figsize=(7.6, side * rows + 0.7), squeeze=False)
    names = fine_class_names(records[0].spec.task)
    positive = parse_task(records[0].spec.task)[1]
    colors = plt.get_cmap("tab10").colors
    markers = "ov^<>sPXD*"
    order = sorted(range(len(names)), key=lambda c: names[c] == positive)  # the positive class on top
    for axes in panels.flat[len(records) :]:
        axes.set_visible(False)
    for axes, record in zip(panels.flat, records, strict=False):
        arrays = record.arrays()
        for c in order:
            x, y = arrays["embedding"][arrays["embedding_labels"] == c].T
            look = {"s": 7, "color": "black"} if names[c] == positive else {"s": 5, "color": colors[c % 10]}
            axes.scatter(x, y, marker=markers[c % 10], linewidths=0, label=names[c], alpha=0.8, **look)
        axes.set(xticks=[], yticks=[], title=(title or _default_title)(record))
        axes.spines[:].set_visible(True)
        axes.grid(False)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=5, markerscale=2.5)
    return figure


def _default_title(record: Record) -> str:
    if isinstance(record.spec, EncoderSpec):
        return encoder_label(record.spec.encoder)
    return style_of(record.spec).label


def plot_reconstructions(record: Record) -> Figure:
    """Draw test images over what the autoencoder makes of them (Figure 4)."""
    arrays = record.arrays()
    originals, made = arrays["originals"], arrays["reconstructions"]
    figure, panels = plt.subplots(2, len(originals), figsize=(0.76 * len(originals), 1.8))
    for row, images in zip(panels, (originals, made), strict=True):
        for axes, image in zip(row, images, strict=True):
            _show(axes, image)
    panels[0, 0].set_ylabel("original")
    panels[1, 0].set_ylabel("decoded")
    return figure


def reconstructed_share(record: Record) -> float:
    """Return the share of the shown images' pixel variance that their reconstructions keep (R squared)."""
    arrays = record.arrays()
    originals = arrays["originals"].astype(float)
    rest = ((originals - arrays["reconstructions"]) ** 2).sum()
    return float(1 - rest / ((originals - originals.mean(axis=(0, 1, 2))) ** 2).sum())


def reconstruction_error(record: Record) -> float:
    """Return the root mean squared error of the shown reconstructions, as a share of the pixel range."""
    arrays = record.arrays()
    difference = arrays["originals"].astype(float) - arrays["reconstructions"]
    return float(np.sqrt((difference**2).mean()) / 255)


def _show(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def plot_pipeline(record: Record) -> Figure:
    """Draw the method with the clusters that an encoder record found (Figure 2).

    Parameters
    ----------
    record : Record
        An encoder record: it holds the images nearest each cluster's centre.
    """
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
        axes.text(x + 10, 45.6, text, ha="center", va="center", fontsize=8)
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
    """Put what there is before regrouping under the first box: one large class and a small one."""
    axes.text(10.5, 38, f"not {name}: {counts[~minority].sum():,}", ha="center", fontsize=9)
    mixed = examples[~minority].swapaxes(0, 1).reshape(-1, *examples.shape[2:])  # one of each cluster, then the next
    _strip(axes, mixed[:16], (1.6, 19), columns=4, side=4.5)
    axes.text(10.5, 13, f"{name}: {counts[minority].sum():,}", ha="center", fontsize=9)
    _strip(axes, examples[minority][0][:4], (1.6, 7.5), columns=4, side=4.5)


def _pipeline_groups(axes: Axes, examples: np.ndarray, minority: np.ndarray, counts: np.ndarray, name: str) -> None:
    """Put the pseudo-classes under the second box, their probabilities and the way back under the others."""
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


def mosaic(examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images [k, n, h, w, c] as one picture of k rows, and the middle of each row in pixels."""
    k, n, height, width, channels = examples.shape
    gap = max(1, height // 8)
    framed = np.full((k, n, height + gap, width + gap, channels), 255, np.uint8)
    framed[:, :, :height, :width] = examples
    picture = framed.swapaxes(1, 2).reshape(k * (height + gap), n * (width + gap), channels)
    return picture, (height + gap) * np.arange(k) + height / 2


def plot_image_rows(examples: np.ndarray, names: Sequence[str], label: str) -> Figure:
    """Draw images [k, n, h, w, c] in k named rows; `label` says what the names are."""
    picture, middles = mosaic(examples)
    figure, axes = plt.subplots(figsize=(0.62 * examples.shape[1] + 1, 0.62 * len(examples) + 0.2))
    _show(axes, picture)
    axes.set(yticks=middles, yticklabels=names, ylabel=label)
    axes.tick_params(length=0)
    return figure


def plot_clusters(records: Sequence[Record]) -> Figure:
    """Draw the images nearest each cluster's centre, one panel an encoder record, one row a cluster."""
    figure, panels = plt.subplots(1, len(records), figsize=(3.4 * len(records), 4.6), squeeze=False)
    for axes, record in zip(panels[0], records, strict=True):
        parent = np.asarray(record.regrouping["parent"])
        examples = record.arrays()["examples"][parent != parent[-1]]
        image, rows = mosaic(examples)
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        labels = range(1, len(rows) + 1)
        axes.set(xticks=[], yticks=rows, yticklabels=labels, title=encoder_label(record.spec.encoder))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(False)
    panels[0, 0].set_ylabel("cluster")
    return figure


def _clusterer(spec: Spec | TableSpec) -> str:
    """Return the clusterer of a spec that regroups, else nothing."""
    if isinstance(spec, TableSpec):
        return spec.clusterer or tables.METHODS[spec.method].clusterer or ""
    return spec.clusterer if spec.encoder else ""


def records_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row a record and aggregation rule, for export and lists; encoder records and looks have none.

    Numbers of tables are those of the rows held out; ``estimator`` and ``imbalance`` tell their records apart, and a
    method that could not be used has no numbers. Their clusters are those of the first fold.
    """
    rows = []
    for record in records:
        if isinstance(record.spec, EncoderSpec | LookSpec):
            continue
        spec = record.spec
        common = {
            "key": record.key,
            "profile": spec.profile,
            "task": spec.task,
            "method": spec.method,
            "encoder": spec.encoder or "",
            "clusterer": _clusterer(spec),
        }
        if spec.imbalance is not None:
            common["imbalance"] = spec.imbalance
        if isinstance(spec, TableSpec):
            common["estimator"] = spec.estimator
        for rule in record.rules or [""]:
            row = common | {"aggregation": "" if rule == "none" else rule}
            # The paper's K: clusters of the majority in a binary task, all pseudo-classes in a multiclass one.
            parent = record.regrouping.get("parent", [0, 1])  # none where a method could not be used
            row |= {"n_clusters": len(parent) - (max(parent) == 1), "seed": spec.seed}
            row["epochs"] = getattr(spec, "epochs", float("nan"))
            test = record.metrics[rule]["test"] if rule else {"summary": {}, "average_precision": {}}
            for measure in (BALANCED_ACCURACY, AVERAGE_PRECISION, "calibrated_average_precision"):
                row[measure] = test["summary"].get(measure, float("nan"))
            seconds = sum(value for step, value in record.seconds.items() if step != "encode")  # done once for all
            row |= {"seconds": seconds, "status": record.status}
            row |= {f"average_precision_{name}": value for name, value in test["average_precision"].items()}
            rows.append(row)
    columns = ["key", "profile", "task", "method", "encoder", "clusterer", "aggregation", "n_clusters", "seed"]
    columns += ["epochs", BALANCED_ACCURACY, AVERAGE_PRECISION, "calibrated_average_precision", "seconds", "status"]
    extra = [name for row in rows for name in row if name not in columns]
    return pd.DataFrame(rows, columns=[*columns, *dict.fromkeys(extra)])


def runs_behind(records: Sequence[Record]) -> str:
    """Return a Markdown list, a line a task: how many records, profile, seeds, epochs, data digest and machines."""
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.spec.task, []).append(record)
    return "\n".join(f"- {_runs_of(group)}" for group in by_task.values())


def _runs_of(records: Sequence[Record]) -> str:
    specs = [record.spec for record in records]
    epochs = sorted({spec.epochs for spec in specs if isinstance(spec, Spec)})
    parts = {
        "seeds": ", ".join(map(str, sorted({spec.seed for spec in specs}))),
        "epochs": ", ".join(map(str, epochs)),
        "data": ", ".join(sorted({record.data_digest[:12] for record in records})),
        "on": ", ".join(sorted({machine_class(record) for record in records})),
    }
    known = "; ".join(f"{name} {value}" for name, value in parts.items() if value)
    return f"{specs[0].task}: {len(records)} records; profile {specs[0].profile}; {known}"


def machine_class(record: Record) -> str:
    """Return the kind of machine that made a record: ``"2 cores x86_64"``, and the GPU where there was one."""
    machine = record.machine
    return f"{machine['cores']} cores {machine['architecture']}" + (f", {machine['gpu']}" if "gpu" in machine else "")


def record_links(records: Sequence[Record], known: Collection[str] = ()) -> str:
    """Return an HTML table of records whose keys are links to their files, ``records/<task>/<file>.json``.

    Parameters
    ----------
    records : sequence of Record
    known : collection of str
        Keys that already have a row on the page. The others' rows are anchors, by their key.
    """
    rows = []
    for record in records:
        spec = record.spec
        name = f"{record.path.parent.name}/{record.path.name}"
        anchor = "" if record.key in known else f' id="{record.key}"'
        link = f'<a{anchor} href="records/{html.escape(name)}">{record.key}</a>'
        row = {"key": link, "task": spec.task, "seed": spec.seed}
        if spec.kind in ("encoder", "look"):
            row |= {"what": f"look at {spec.encoder or 'the columns'}", "epochs": "", "AP": ""}
        else:
            what = f"{spec.method}, {spec.estimator}" if isinstance(spec, TableSpec) else spec.label
            precision = [record.metrics[rule]["test"]["summary"][AVERAGE_PRECISION] for rule in record.rules]
            shown = "; ".join(f"{100 * value:.1f}" for value in precision)
            row |= {"what": what, "epochs": getattr(spec, "epochs", ""), "AP": shown}
        seconds = sum(value for step, value in record.seconds.items() if step != "encode")
        rows.append(row | {"seconds": f"{seconds:.0f}", "status": record.status, "data": record.data_digest[:12]})
    table = pd.DataFrame(rows).to_html(index=False, classes="sortable records", border=0, escape=False)
    return f'<div class="cell_output">\n{table}\n</div>'


# Fields of a spec that a row of `compared_frame` shows only where they are not the default.
_SHOWN_OPTIONS = (
    "clusterer",
    "n_clusters",
    "threshold",
    "gamma",
    "tau",
    "max_margin",
    "deferred",
    "imbalance",
    "split",
)


def compared_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row a setting and aggregation rule: seeds, and BA and AP in percent, the best mean AP first.

    Records whose specs differ in the seed alone are one setting. Encoder records have no row; of a setting with a
    diverged run the column ``diverged`` says how many did, and its numbers are of the others.
    """
    settings: dict[Spec, list[Record]] = {}
    for record in records:
        if isinstance(record.spec, Spec):
            settings.setdefault(record.spec.model_copy(update={"seed": 0}), []).append(record)
    rows = []
    for spec, group in settings.items():
        finished = [r for r in group if r.status == "finished"]
        shown = {name: getattr(spec, name) for name in _SHOWN_OPTIONS}
        options = ", ".join(f"{n}={v}" for n, v in shown.items() if v != type(spec).model_fields[n].default)
        for rule in finished[0].rules if finished else [""]:
            precision = [r.metrics[rule]["test"]["summary"][AVERAGE_PRECISION] for r in finished]
            accuracy = [r.metrics[rule]["test"]["summary"][BALANCED_ACCURACY] for r in finished]
            row = {"profile": spec.profile, "method": spec.method, "encoder": spec.encoder or "", "settings": options}
            row |= {"rule": "" if rule == "none" else rule, "epochs": spec.epochs, "seeds": len(finished)}
            row |= {name: _mean_of(found) for name, found in (("BA", accuracy), ("AP", precision))}
            rows.append(row | {"diverged": len(group) - len(finished), "_": np.mean(precision) if finished else -1})
    columns = ["profile", "method", "encoder", "settings", "rule", "epochs", "seeds", "BA", "AP", "diverged"]
    frame = pd.DataFrame(rows, columns=[*columns, "_"]).sort_values("_", ascending=False, ignore_index=True)
    return frame[columns]


def _mean_of(shares: Sequence[float]) -> str:
    """Return mean ± std in percent; of one number itself, of none nothing."""
    return mean_std(shares) if len(shares) > 1 else "".join(f"{100 * share:.1f}" for share in shares)


def write_frame(frame: pd.DataFrame, path: Path, suffix: str) -> None:
    """Write a table as CSV, Markdown or LaTeX, as the suffix says; CSV alone has all digits.

    Raises
    ------
    ValueError
        If the suffix is another one.
    """
    if suffix == ".csv":
        frame.to_csv(path, index=False)
        return
    short = frame.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value))
    if suffix == ".md":
        lines = [[str(name) for name in short.columns], ["---"] * len(short.columns), *short.values.tolist()]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
    elif suffix == ".tex":
        text = short.to_latex(index=False, escape=True)
    else:
        raise ValueError(f"{suffix or 'a file without a suffix'} is no format; name a .csv, .md or .tex file")
    path.write_text(text, encoding="utf-8")
