"""Figures and tables from records. One method has one color, marker and line everywhere, told apart in grey too."""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from sklearn.metrics import precision_score, recall_score

from regroup_book.differences import Groups, precision_difference, scores_on_test, values
from regroup_lib.data.sources import class_names_of
from regroup_lib.data.tasks import parse_task
from regroup_lib.intervals import Interval, mean_std, minus, starred
from regroup_lib.plots import LOOKS
from regroup_lib.runs.export import markdown_text
from regroup_lib.runs.records import (
    AVERAGE_PRECISION,
    BALANCED_ACCURACY,
    Record,
    machine_class,
    result_on_test,
    rule_of,
)
from regroup_lib.runs.specs import OWN, EncoderSpec, Spec


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
# Of methods beside regrouping; no label set above has one of their colors.
COLORS = {"ce": LOOKS["CE"][0], "wce": LOOKS["WCE"][0], "ros": LOOKS["ROS"][0], "rusc": "#8C6D31", "rg": LOOKS["RG"][0]}
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
    "ham10000-metadata-bcc": "lesion metadata (basal cell carcinoma)",
    "phrasebank-negative": "negative news",
    "phrasebank": "news sentiment",
    "digits-0": "digit 0",
    "digits-lt": "digits, long-tailed",
    "cifar10-lt": "CIFAR-10-LT",
    "cifar100-lt": "CIFAR-100-LT",
}


def task_name(task: str) -> str:
    """Return what readers call a task: ``"wine (1)"`` where nothing better is known."""
    source, _, positive = task.removeprefix(OWN).replace("-", " ").rpartition(" ")
    return TASK_NAMES.get(task, f"{source} ({positive})".replace("_", " ") if source else task)


def style_of(spec: Spec) -> Style:
    """Return the style of a spec's method and encoder."""
    return STYLES.get(spec.label, Style(spec.label, "#666666", "-", "."))


def encoder_label(name: str) -> str:
    """Return how tables and figures name an encoder."""
    return ENCODER_LABELS.get(name, name)


def network_name(name: str) -> str:
    """Return what readers call a network: `slim-resnet` is "slim ResNet"."""
    name = name.replace("-resnet", " ResNet").replace("resnet34", "ResNet34")
    return name.replace("text-cnn", "text CNN").replace("minilm", "MiniLM")


def use_style() -> None:
    """Set seaborn's theme for the book: legible at column width, no boxes without meaning."""
    shown = {"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "0.2", "legend.frameon": False}
    sizes = {"figure.dpi": 130, "axes.titlesize": 11, "lines.linewidth": 1.8, "lines.markersize": 5}
    layout = {"figure.constrained_layout.use": True, "savefig.bbox": "tight", "grid.color": "0.92"}
    sns.set_theme("paper", "whitegrid", "colorblind", font_scale=1.05, rc=shown | sizes | layout)


def by_method(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group training records by method and encoder, in order of first appearance, each sorted by seed.

    Methods with different seeds are refused: their differences would not be paired.
    """
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.spec.seed):
        groups.setdefault(record.spec.label, []).append(record)
    groups = {label: groups[label] for label in dict.fromkeys(record.spec.label for record in records)}
    seeds = {label: [r.spec.seed for r in group] for label, group in groups.items()}
    if len({tuple(s) for s in seeds.values()}) > 1:
        raise ValueError(f"the methods have different seeds: {seeds}")
    return groups


def measured(records: Sequence[Record], measure: Callable[[Record], float]) -> dict[str, np.ndarray]:
    """Return a number of each record by method and encoder: arrays over seeds, in the order of `by_method`."""
    return {label: np.array([measure(r) for r in group], float) for label, group in by_method(records).items()}


def table(columns: Mapping[str, Iterable[Any]], rows: Iterable[Sequence[Record]]) -> pd.DataFrame:
    """Return a table from its columns, of which the first is the index, and the records behind each of its rows."""
    frame = pd.DataFrame({name: list(cells) for name, cells in columns.items()})
    return traced(frame.set_index(frame.columns[0]), rows)


def traced(frame: pd.DataFrame, rows: Iterable[Sequence[Record]]) -> pd.DataFrame:
    """Note in ``attrs`` which records each row of a table comes from, and return the table."""
    frame.attrs["records"] = [[record.key for record in group] for group in rows]
    return frame


def gain_cells(groups: Groups, reference: str) -> list[str]:
    """Return each group's AP minus that of a reference, starred after Holm's correction; empty for itself."""
    return starred(differences_to(groups, reference))


def differences_to(groups: Groups, reference: str) -> list[Interval | None]:
    """Return each group's AP minus that of a reference, None for itself."""
    return [None if name == reference else precision_difference(groups, name, reference) for name in groups]


def starred_columns(columns: Mapping[str, Sequence[Interval | None]]) -> dict[str, list[str]]:
    """Return several columns of one table as text, as `starred` does, corrected together."""
    texts = iter(starred([found for column in columns.values() for found in column]))
    return {name: [next(texts) for _ in column] for name, column in columns.items()}


def comparison_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per method: BA and AP on the test set under both rules, and the difference in AP from CE.

    All numbers are percent, mean ± standard deviation over seeds; the difference is that under max aggregation,
    with its 95% interval.
    """
    groups = by_method(records)
    columns: dict[str, Iterable[Any]] = {"training labels": [style_of(g[0].spec).label for g in groups.values()]}
    for measure, short in ((BALANCED_ACCURACY, "BA"), (AVERAGE_PRECISION, "AP")):
        for rule in ("max", "sum"):
            columns[f"{short} ({rule})"] = rule_cells(groups, measure, rule)
    return table(columns | {"AP − binary": gain_cells(groups, "ce")}, groups.values())


def rule_cells(groups: Groups, measure: str, rule: str) -> list[str]:
    """Return each group's mean ± standard deviation over seeds under an aggregation rule, percent."""
    return [mean_std([result_on_test(r, measure, rule) for r in group]) for group in groups.values()]


def encoder_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per encoder: how well k-means in its space finds the classes that the majority hides.

    d is the dimension; seconds are those of encoding all images once and of one k-means.
    """
    by_encoder: dict[str, list[Record]] = {}
    for record in records:
        by_encoder.setdefault(record.spec.encoder, []).append(record)
    groups = by_encoder.values()
    columns: dict[str, Iterable[Any]] = {"encoder": map(encoder_label, by_encoder)}
    columns["d"] = [group[0].regrouping["dimension"] for group in groups]
    for measure, heading in (("purity", "purity"), ("nmi", "NMI"), ("ari", "ARI")):
        columns[heading] = [mean_std([r.metrics[measure] for r in group], scale=1, digits=2) for group in groups]
    columns["5-NN"] = [f"{group[0].metrics['neighbor_accuracy']:.2f}" for group in groups]
    clustering = [np.median([r.seconds["regroup"] for r in group]) for group in groups]
    columns["seconds"] = [f"{g[0].seconds['encode']:.0f} + {s:.0f}" for g, s in zip(groups, clustering, strict=True)]
    return table(columns, groups)


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


def label_set_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per label set: its groups, what became of the network, and which mistakes it makes.

    Means over seeds; where runs diverged, the first column says how many. Purity is the groups' (the majority's
    alone), and groups are learned or pure from one half on; ``learned`` is `learned_share`; 5-NN is `space_accuracy`;
    spread is the minority's total variation after the last epoch; recall and precision are the positive class's under
    max aggregation.
    """
    groups, rows = by_method(records), []
    for label, everything in groups.items():
        group = [r for r in everything if r.status == "finished"]
        row = {"training labels": style_of(everything[0].spec).label + _diverged(everything)}
        row |= dict.fromkeys(("groups", "purity", "learned", "5-NN", "spread", "recall", "precision", "AP gain"), "")
        rows.append(row)
        if not group:
            continue
        called = [(labels, scores[:, 1] >= 0.5) for labels, scores in map(scores_on_test, group)]
        measured = {
            "learned": map(learned_share, group),
            "5-NN": map(space_accuracy, group),
            "spread": (r.traces[-1]["variation"][-1] for r in group),
            "recall": (recall_score(*pair) for pair in called),
            "precision": (precision_score(*pair, zero_division=0) for pair in called),
        }
        if all("purity" in r.regrouping for r in group):
            measured["purity"] = (r.regrouping["purity"] for r in group)
        means = {name: np.mean(list(found)) for name, found in measured.items()}
        if "purity" in means:
            kind = "pure" if means["purity"] >= 0.5 else "mixed"
            row["groups"] = kind if means["learned"] >= 0.5 else "not learned"
        row |= {name: f"{mean:.2f}" for name, mean in means.items()}
        if label != "ce":
            gain = values(everything, AVERAGE_PRECISION).mean() - values(groups["ce"], AVERAGE_PRECISION).mean()
            row["AP gain"] = minus(f"{gain:+.1f}")
    return traced(pd.DataFrame(rows).set_index("training labels"), groups.values())


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


def plot_curves(records: Sequence[Record], measure: Callable[[Record], np.ndarray], label: str) -> Axes:
    """Draw a number over epochs for each method: the mean over seeds, and a band from the lowest to the highest seed.

    Seeds whose run diverged are left out, and named under the figure. The legend has the order in which the lines end,
    so it reads without color.
    """
    figure, axes = plt.subplots(figsize=(4.6, 4.6))
    groups = by_method(records)
    for group in groups.values():
        curves = np.array([measure(record) for record in group if record.status == "finished"])
        if len(curves):
            epochs, style = np.arange(1, curves.shape[1] + 1), style_of(group[0].spec)
            look = {"color": style.color, "linestyle": style.line, "marker": style.marker, "label": style.label}
            every, points = max(1, len(epochs) // 10), (np.tile(epochs, len(curves)), curves.ravel())
            sns.lineplot(x=points[0], y=points[1], errorbar=("pi", 100), markevery=every, legend=False, ax=axes, **look)
    lost = [style_of(group[0].spec).label + note for group in groups.values() if (note := _diverged(group))]
    axes.set(xlabel="\n".join(["epoch", *lost]), ylabel=label)
    lines = sorted(axes.get_legend_handles_labels()[0], key=lambda line: -line.get_ydata()[-1])
    figure.legend(handles=lines, loc="outside lower center", ncol=2, title="training labels", handlelength=3)
    return axes


def _diverged(group: Sequence[Record]) -> str:
    """Return what a table or a figure adds to the name of a method of which runs diverged."""
    lost = sum(record.status == "diverged" for record in group)
    return f" ({lost} of {len(group)} seeds diverged)" if lost else ""


def fine_class_names(task: str) -> tuple[str, ...]:
    """Return the names of the classes that a task's data set has."""
    return class_names_of(parse_task(task)[0])


def listed(items: Iterable[Any], word: str = "and") -> str:
    """Return items as text: "a", "a and b", "a, b and c"."""
    *first, last = map(str, items)
    return f" {word} ".join(filter(None, [", ".join(first), last]))


def runs_behind(records: Sequence[Record]) -> str:
    """Return a Markdown list, one line per task and profile: records, seeds, epochs, data digest, machines."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((task_name(record.spec.task), record.spec.profile), []).append(record)
    lines = []
    for (task, profile), group in groups.items():
        seeds = sorted({record.spec.seed for record in group})
        epochs = sorted({record.spec.epochs for record in group if record.spec.kind == "training"})
        parts = [f"{task}: {len(group)} record{_s(len(group))} of profile {profile}"]
        parts += [f"seed{_s(len(seeds))} {listed(seeds)}"]
        parts += [f"{listed(epochs)} epoch{_s(epochs[-1])}"] if epochs else []
        parts += [f"data {listed(sorted({record.data_digest[:12] for record in group}))}"]
        parts += [f"on {listed(sorted(set(map(machine_class, group))), 'or')}"]
        lines.append("- " + markdown_text("; ".join(parts)))
    return "\n".join(lines)


def _s(number: int) -> str:
    return "" if number == 1 else "s"


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
        spec, looks = record.spec, record.spec.kind in ("encoder", "look")
        name = quote(f"{record.path.parent.name}/{record.path.name}")
        anchor = "" if record.key in known else f' id="{record.key}"'
        setting = f"{spec.method}, {spec.estimator}" if spec.kind == "table" else spec.label
        results = [] if looks else [result["test"]["summary"] for result in record.metrics.values()]
        row = {"profile": spec.profile, "task": spec.task, "seed": spec.seed}
        row |= {"setting": f"measures of {spec.encoder or 'the columns'}" if looks else setting}
        row |= {"epochs": getattr(spec, "epochs", "")}
        row |= {"AP": "; ".join(f"{100 * result['average_precision']:.1f}" for result in results)}
        row |= {"seconds": f"{record.own_seconds:.0f}", "status": record.status, "data digest": record.data_digest[:12]}
        row = {name: html.escape(str(cell)) for name, cell in row.items()}
        rows.append({"key": f'<a{anchor} href="records/{name}">{record.key}</a>'} | row)
    table = pd.DataFrame(rows).to_html(index=False, classes="sortable records", border=0, escape=False)
    return f'<div class="cell_output">\n{table}\n</div>'
