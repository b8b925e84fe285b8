"""Figures and tables from records. One method has one color, marker and line everywhere, told apart in grey too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from scipy.stats import t as student

from regroup_lib.data import DIGIT_NAMES, SOURCES
from regroup_lib.experiments import EncoderSpec, Record, Spec
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
    "rg-clip": Style("regrouped, CLIP", "#0072B2", "--", "X"),
}
ENCODER_LABELS = {
    "raw": "raw pixels",
    "pca": "PCA",
    "autoencoder": "autoencoder",
    "clip": "CLIP",
    "onnx:inception_v3_mixed_8": "Inception-v3 (ImageNet)",
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
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) if len(values) > 1 else float('nan'):.{digits}f}"


def signed_interval(difference: Difference, scale: float = 100, digits: int = 1) -> str:
    """Return "+1.2 [0.3, 2.1]"."""
    low, high = difference.low * scale, difference.high * scale
    return f"{difference.mean * scale:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


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
    return pd.DataFrame(rows).set_index("training labels")


def encoder_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row an encoder: how well k-means in its space finds the classes that the majority hides."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.spec.encoder, []).append(record)
    rows = []
    for name, group in groups.items():
        row: dict[str, Any] = {"encoder": encoder_label(name), "dimension": group[0].regrouping["dimension"]}
        for measure, label in (("purity", "purity"), ("nmi", "NMI"), ("ari", "ARI")):
            row[label] = mean_std([r.metrics[measure] for r in group], scale=1, digits=3)
        row["5-NN accuracy"] = f"{group[0].metrics['neighbor_accuracy']:.3f}"
        row["encode (s)"] = f"{group[0].seconds['encode']:.0f}"
        row["k-means (s)"] = f"{np.median([r.seconds['regroup'] for r in group]):.1f}"
        rows.append(row)
    return pd.DataFrame(rows).set_index("encoder")


def pace_gap(record: Record) -> np.ndarray:
    """Return, after each epoch, how far the minority lags behind the majority in concentrating.

    The gap is log2 of the minority's total variation over the mean total variation of the majority's training
    classes. 0: in step; 1: the minority is still twice as widely spread; -1: half as widely.
    """
    minority = int(record.regrouping["parent"][-1])
    is_minority = np.asarray(record.regrouping["parent"]) == minority
    variation = np.array([epoch["variation"] for epoch in record.traces])
    return np.log2(variation[:, is_minority].mean(axis=1) / variation[:, ~is_minority].mean(axis=1))


def asynchrony(record: Record) -> float:
    """Return the mean over epochs of the absolute `pace_gap`: 0 when minority and majority learn in step."""
    return float(np.abs(pace_gap(record)).mean())


def asynchrony_table(records: Sequence[Record], baseline: str = "ce") -> pd.DataFrame:
    """Return one row a method: asynchrony, the signed mean gap, and the paired difference to `baseline`."""
    groups, rows = by_method(records), []
    for label, group in groups.items():
        values = [asynchrony(r) for r in group]
        row = {
            "training labels": style_of(group[0].spec).label,
            "asynchrony": mean_std(values, scale=1, digits=2),
            "mean gap": mean_std([pace_gap(r).mean() for r in group], scale=1, digits=2),
            "first epoch": mean_std([pace_gap(r)[0] for r in group], scale=1, digits=2),
            "last epoch": mean_std([pace_gap(r)[-1] for r in group], scale=1, digits=2),
        }
        if label == baseline or baseline not in groups:
            row["asynchrony − binary"] = ""
        else:
            against = [asynchrony(r) for r in groups[baseline]]
            row["asynchrony − binary"] = signed_interval(paired_difference(values, against), scale=1, digits=2)
        rows.append(row)
    return pd.DataFrame(rows).set_index("training labels")


def provenance(records: Sequence[Record]) -> str:
    """Return one sentence: how many runs, of what, on which data and machines."""
    first = records[0]
    seeds = sorted({r.spec.seed for r in records})
    digests = sorted({r.data_digest[:12] for r in records})
    machines = sorted({f"{r.machine['cores']} cores {r.machine['architecture']}" for r in records})
    length = f", {first.spec.epochs} epochs of {first.spec.network}" if isinstance(first.spec, Spec) else ""
    return (
        f"{len(records)} records, profile {first.spec.profile}, task {first.spec.task}, "
        f"seeds {', '.join(map(str, seeds))}{length}; data {', '.join(digests)}; {', '.join(machines)}."
    )


def plot_curves(
    records: Sequence[Record],
    *,
    measure: str = AVERAGE_PRECISION,
    label: str = "test average precision",
    rule: str = PAPER_RULE,
) -> Figure:
    """Draw a measure over epochs: the mean over seeds, and a band from the lowest to the highest seed (Figure 6)."""
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for group in by_method([r for r in records if r.status == "finished"]).values():
        _band(axes, [trace(r, measure, rule=rule) for r in group], style_of(group[0].spec))
    axes.set(xlabel="epoch", ylabel=label)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="training labels")
    return figure


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

    The minority is the thick line; each thin line is one class, pseudo-class or group of the majority.
    """
    groups = by_method(records)
    columns = 3
    rows = -(-len(groups) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(9.5, 2.9 * rows), sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(groups) :]:
        axes.set_visible(False)
    for axes, group in zip(panels.flat, groups.values(), strict=False):
        record = group[0] if seed is None else next(r for r in group if r.spec.seed == seed)
        variation = np.array([epoch["variation"] for epoch in record.traces])
        parent = np.asarray(record.regrouping["parent"])
        minority = parent == parent[-1]
        epochs = np.arange(1, len(variation) + 1)
        axes.plot(epochs, variation[:, ~minority], color="0.55", linewidth=1.1)
        axes.plot(epochs, variation[:, minority], color="#D55E00", linewidth=2.6)
        axes.set_title(style_of(record.spec).label)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    for axes in panels[:, 0]:
        axes.set_ylabel("total variation\n(relative)")
    first = panels[0, 0]
    first.plot([], [], color="#D55E00", linewidth=2.6, label="minority")
    first.plot([], [], color="0.55", linewidth=1.1, label="majority, each class")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncol=2)
    return figure


def plot_pace_gap(records: Sequence[Record]) -> Figure:
    """Draw `pace_gap` over epochs, mean and range over seeds."""
    figure, axes = plt.subplots(figsize=(7, 4.2))
    axes.axhline(0, color="0.4", linewidth=1)
    for group in by_method(records).values():
        _band(axes, [pace_gap(r) for r in group], style_of(group[0].spec))
    axes.set(xlabel="epoch", ylabel="pace gap: log2(minority / majority variation)")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="training labels")
    return figure


def fine_class_names(task: str) -> tuple[str, ...]:
    """Return the names of the classes that a task's data set has."""
    dataset, _ = parse_task(task)
    return SOURCES[dataset].class_names if dataset in SOURCES else DIGIT_NAMES


def plot_embeddings(records: Sequence[Record], title: Callable[[Record], str] | None = None) -> Figure:
    """Draw the t-SNE plots that records hold, colored by the data set's own classes (Figure 3).

    Parameters
    ----------
    records : sequence of Record
        Training records with ``embedding=True``, or encoder records.
    title : callable, optional
        Record to panel title; default: the method or the encoder.
    """
    columns = min(3, len(records))
    rows = -(-len(records) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(3.3 * columns, 3.2 * rows + 0.7), squeeze=False)
    names = fine_class_names(records[0].spec.task)
    colors = plt.get_cmap("tab10").colors
    markers = "ov^<>sPXD*"
    for axes in panels.flat[len(records) :]:
        axes.set_visible(False)
    for axes, record in zip(panels.flat, records, strict=False):
        arrays = record.arrays()
        for c, name in enumerate(names):
            x, y = arrays["embedding"][arrays["embedding_labels"] == c].T
            axes.scatter(x, y, s=6, color=colors[c % 10], marker=markers[c % 10], linewidths=0, label=name, alpha=0.8)
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
    figure, panels = plt.subplots(2, len(originals), figsize=(0.95 * len(originals), 2.2))
    for row, images in zip(panels, (originals, made), strict=True):
        for axes, image in zip(row, images, strict=True):
            _show(axes, image)
    panels[0, 0].set_ylabel("original")
    panels[1, 0].set_ylabel("decoded")
    return figure


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
    examples = record.arrays()["examples"]
    parent = np.asarray(record.regrouping["parent"])
    positive = fine_class_names(record.spec.task).index(record.spec.task.split("-", 1)[1])
    name = fine_class_names(record.spec.task)[positive]
    figure, axes = plt.subplots(figsize=(10, 4.6))
    axes.set(xlim=(0, 100), ylim=(0, 50))
    axes.axis("off")
    boxes = [
        (1, "1  Encode", f"images through a\npre-trained encoder\n({encoder_label(record.spec.encoder)})"),
        (25.5, "2  Regroup", f"k-means on the majority:\nK = {len(parent) - 1} pseudo-classes"),
        (54.5, "3  Classify", f"train a network on the\nbalanced {len(parent)}-class problem"),
        (79, "4  Aggregate", f"max or sum of the\npseudo-class scores:\n{name} or not"),
    ]
    for x, heading, text in boxes:
        axes.add_patch(FancyBboxPatch((x, 34), 19.5, 13, boxstyle="round,pad=0.3", fc="#f2f6fa", ec="#0072B2"))
        axes.text(x + 9.75, 44.6, heading, ha="center", va="center", weight="bold")
        axes.text(x + 9.75, 39, text, ha="center", va="center", fontsize=9)
    for (x, *_), (following, *_) in pairwise(boxes):
        axes.add_patch(FancyArrowPatch((x + 20, 40.5), (following - 0.4, 40.5), arrowstyle="-|>", mutation_scale=14))
    _pipeline_images(axes, examples, parent, name)
    return figure


def _pipeline_images(axes: Axes, examples: np.ndarray, parent: np.ndarray, name: str) -> None:
    """Put under the boxes what the majority looks like before and after regrouping."""
    minority = examples[parent == parent[-1]][0]
    majority = examples[parent != parent[-1]]
    _strip(axes, np.concatenate(majority[:, :1])[:9], (1, 4), columns=3, side=6.3)
    axes.text(10.5, 25.2, f"not {name}: one class", ha="center", fontsize=9)
    shown = majority[:9]
    for k, images in enumerate(shown):
        column, row = divmod(k, -(-len(shown) // 2))
        x, y = 26 + 24 * column, 25 - 5.2 * (row + 1)
        _strip(axes, images[:4], (x + 3, y), columns=4, side=4.8)
        axes.text(x + 2.4, y + 2.4, f"{k + 1}", ha="right", va="center", fontsize=9)
    axes.text(47, 26.6, "not " + name + ": pseudo-classes", ha="center", fontsize=9)
    _strip(axes, minority[:4], (76, 14.6), columns=4, side=5.4)
    axes.text(86.8, 21.6, f"{name}: unchanged", ha="center", fontsize=9)


def _strip(axes: Axes, images: np.ndarray, corner: tuple[float, float], *, columns: int, side: float) -> None:
    rows = -(-len(images) // columns)
    for i, image in enumerate(images):
        x = corner[0] + side * (i % columns)
        y = corner[1] + side * (rows - 1 - i // columns)
        extent = (x, x + side * 0.94, y, y + side * 0.94)
        axes.imshow(image.squeeze(), extent=extent, cmap="gray", aspect="auto", interpolation="nearest", zorder=2)


def records_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row a training record and aggregation rule, for export and lists; encoder records have none."""
    rows = []
    for record in records:
        if not isinstance(record.spec, Spec):
            continue
        spec = record.spec
        common = {
            "key": record.key,
            "profile": spec.profile,
            "task": spec.task,
            "method": spec.method,
            "encoder": spec.encoder or "",
            "clusterer": spec.clusterer if spec.encoder else "",
        }
        for rule in record.rules or [""]:
            row = common | {"aggregation": "" if rule == "none" else rule}
            # The paper's K: clusters of the majority in a binary task, all pseudo-classes in a multiclass one.
            pseudo_classes, classes = len(record.regrouping["parent"]), max(record.regrouping["parent"]) + 1
            row |= {"n_clusters": pseudo_classes - (classes == 2), "seed": spec.seed, "epochs": spec.epochs}
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
