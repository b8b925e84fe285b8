"""Figures and tables from records. One method has one color, marker and line everywhere, told apart in grey too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regroup_lib.data.sources import class_names_of
from regroup_lib.data.tasks import parse_task
from regroup_lib.intervals import mean_std, minus, starred
from regroup_lib.runs.differences import (
    AVERAGE_PRECISION,
    BALANCED_ACCURACY,
    PAPER_RULE,
    precision_difference,
    result_on_test,
    rule_of,
    trace,
    values,
)
from regroup_lib.runs.records import Record, machine_class
from regroup_lib.runs.specs import EncoderSpec, Spec


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
    "simclr": "SimCLR (trained here)",
    "clip": "CLIP",
    "onnx:inception_v3_mixed_8": "Inception-v3 (ImageNet)",
    "minilm": "MiniLM",
    "tfidf": "TF-IDF",
}


# What readers call the tasks; the identifiers are for code.
TASK_NAMES = {
    "cifar10-airplane": "airplane (CIFAR-10)",
    "cifar100-worm": "worm (CIFAR-100)",
    "ham10000-bcc": "basal cell carcinoma",
    "ham10000-akiec": "actinic keratoses",
    "ham10000": "seven skin lesions",
    "phrasebank-negative": "negative news",
    "phrasebank": "news sentiment",
    "digits-0": "digit 0",
    "digits-lt": "digits, long-tailed",
}


def task_name(task: str) -> str:
    """Return what readers call a task."""
    return TASK_NAMES.get(task, task)


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


def rows_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
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
    for group in groups.values():
        row: dict[str, Any] = {"training labels": style_of(group[0].spec).label}
        for measure, short in ((BALANCED_ACCURACY, "BA"), (AVERAGE_PRECISION, "AP")):
            for rule in ("max", "sum"):
                row[f"{short} ({rule})"] = mean_std([result_on_test(r, measure, rule) for r in group])
        rows.append(row)
    if baseline in groups:
        differences = [None if label == baseline else precision_difference(groups, label, baseline) for label in groups]
        rows = [row | {"AP − binary": text} for row, text in zip(rows, starred(differences), strict=True)]
    return traced(rows_frame(rows), groups.values())


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
    return traced(rows_frame(rows), groups.values())


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
            gain = values(everything, AVERAGE_PRECISION).mean() - values(groups[baseline], AVERAGE_PRECISION).mean()
            row["AP gain"] = "" if label == baseline else minus(f"{gain:+.1f}")
        rows.append(row)
    return traced(rows_frame(rows), groups.values())


def sampling_margin(records: Sequence[Record], rule: str = PAPER_RULE) -> float:
    """Return half the mean width of the 95% intervals of the positive class's AP that come from the test sample.

    Seeds do not move the test set, so a spread over seeds does not contain this uncertainty.
    """
    name = list(records[0].metrics[rule_of(records[0], rule)]["test"]["average_precision"])[1]
    intervals = [r.metrics[rule_of(r, rule)]["test"]["intervals"]["average_precision"][name] for r in records]
    return float(np.mean([(high - low) / 2 for low, high in intervals]))


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
            band(axes, [trace(r, measure, rule=rule) for r in finished], style_of(group[0].spec))
    axes.set(xlabel="\n".join(["epoch", *lost]), ylabel=label)
    ordered_legend(axes)
    return figure


def _diverged(group: Sequence[Record]) -> str:
    """Return what a table or a figure adds to the name of a method of which runs diverged."""
    lost = sum(record.status == "diverged" for record in group)
    return f" ({lost} of {len(group)} seeds diverged)" if lost else ""


def ordered_legend(axes: Axes) -> None:
    """Put the legend beside the panel, in the order in which the lines end: it reads without color."""
    lines = sorted(
        (line for line in axes.get_lines() if not line.get_label().startswith("_")),
        key=lambda line: -line.get_ydata()[-1],
    )
    axes.legend(handles=lines, loc="center left", bbox_to_anchor=(1.01, 0.5), title="training labels", handlelength=3)


def band(axes: Axes, curves: Sequence[np.ndarray], style: Style) -> None:
    """Draw curves over epochs: their mean, and a band from the lowest to the highest."""
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


def fine_class_names(task: str) -> tuple[str, ...]:
    """Return the names of the classes that a task's data set has."""
    dataset, _ = parse_task(task)
    return class_names_of(dataset)
