"""A page to look at runs: scores, a threshold to move, precision over recall, t-SNE plots that show their images.

The charts are Vega-Lite's, drawn in the browser by scripts that the page brings along. Numbers are counts of test
samples at `N_STEPS` thresholds; the browser adds them up and divides them.
"""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import seaborn as sns
import vl_convert
from IPython.display import HTML
from PIL import Image
from sklearn.metrics import precision_recall_curve

from regroup_book import differences, method_tables, plans, show
from regroup_book.show import encoder_label, style_of
from regroup_lib.data.load import load_data
from regroup_lib.data.tasks import parse_task
from regroup_lib.files import atomic_path, results_directory
from regroup_lib.runs.looks import embedded_rows
from regroup_lib.runs.records import AVERAGE_PRECISION, Record, find_record

N_STEPS = 1000
CURVE_POINTS = 120  # of a precision-recall curve, the others lie between them
SHOWN_IMAGES = 800  # points of a t-SNE plot
BINS = 40  # of the histograms; a divisor of N_STEPS
COLUMNS = 40  # images per row of the sheet of thumbnails

Runs = Mapping[str, Mapping[str, Sequence[Record]]]  # by task and method, one record per seed


def binary_runs(profile: str, seeds: Sequence[int]) -> dict[str, dict[str, list[Record]]]:
    """Return the runs on binary tasks that are all recorded, by task and method, one record per seed.

    They are the methods of Table 1 with their chosen settings, and the label sets of the motivating example.
    """
    found = {}
    for task in plans.recorded_tasks(profile, seeds):
        groups = plans.competitors(task, profile, seeds)
        found[task] = {method_tables.title(name): group for name, group in groups.items()}
    labels = plans.records_of(plans.label_sets(profile, seeds), "explore").values()
    example = {style_of(group[0].spec).label: group for group in labels}
    return found | {plans.TASKS[profile]: found.get(plans.TASKS[profile], {}) | example}


def threshold_counts(labels: np.ndarray, scores: np.ndarray) -> dict[str, list[int]]:
    """Return how many negatives and positives lie between one threshold and the next, where any do.

    ``step`` has i of those with i / `N_STEPS` <= score < (i + 1) / `N_STEPS`. A sample is called positive if its score
    is at least the threshold, so the counts from a step on are exactly what that threshold finds.
    """
    thresholds = np.arange(N_STEPS + 1) / N_STEPS
    step = np.searchsorted(thresholds, scores.astype(np.float64), side="right") - 1
    counts = [np.bincount(step[labels == c], minlength=N_STEPS + 1) for c in (0, 1)]
    (used,) = np.nonzero(counts[0] + counts[1])
    return {"step": used.tolist(), "negatives": counts[0][used].tolist(), "positives": counts[1][used].tolist()}


def precision_recall_points(labels: np.ndarray, scores: np.ndarray) -> dict[str, list[float]]:
    """Return points of the precision-recall curve, from the highest threshold to the lowest, at most `CURVE_POINTS`."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    recall, precision = recall[::-1][1:], precision[::-1][1:]  # without the end that no threshold has
    steps = np.flatnonzero(np.diff(recall, append=2))  # the last point of each recall
    chosen = steps[np.unique(np.linspace(0, len(steps) - 1, CURVE_POINTS).round().astype(int))]
    return {"recall": recall[chosen].round(4).tolist(), "precision": precision[chosen].round(4).tolist()}


def run_data(record: Record) -> dict[str, Any]:
    """Return what the page knows of a binary run, under the paper's rule."""
    labels, scores = differences.scores_on_test(record)
    return {
        "seed": record.spec.seed,
        "key": record.key,
        "record": f"records/{record.path.parent.name}/{record.path.name}",
        "ap": differences.result_on_test(record, AVERAGE_PRECISION),
        "counts": threshold_counts(labels, scores[:, 1]),
        "curve": precision_recall_points(labels, scores[:, 1]),
    }


def runs_data(runs: Runs) -> list[dict[str, Any]]:
    """Return what the page knows of all runs that did not diverge: a task's name, its methods, one run per seed."""
    found = []
    for task, methods in runs.items():
        finished = {name: [r for r in group if r.status == "finished"] for name, group in methods.items()}
        known = [{"name": name, "runs": list(map(run_data, group))} for name, group in finished.items() if group]
        found.append({"name": show.task_name(task), "methods": known})
    return found


# ---------------------------------------------------------------- t-SNE plots and their images


def _shown(n: int) -> np.ndarray:
    """Return which of n points of a t-SNE plot are shown: at most `SHOWN_IMAGES`, evenly spaced, as sets are sorted."""
    return np.linspace(0, n - 1, min(n, SHOWN_IMAGES)).round().astype(int)


def thumbnails(task: str, profile: str, results_dir: str | Path | None = None) -> list[np.ndarray]:
    """Return the images of the points that are shown of a task's t-SNE plots, uint8 [h, w, 3] each.

    They lie on one sheet beside the task's records; where there is none it is made from the data set.
    """
    path = results_directory(results_dir) / profile / task / "thumbnails.webp"
    if not path.exists():
        _write_sheet(task, path)
    with Image.open(path, formats=["WEBP"]) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    side = pixels.shape[1] // COLUMNS
    rows = np.split(pixels, pixels.shape[0] // side)
    return [image for row in rows for image in np.split(row, COLUMNS, axis=1)]


def _write_sheet(task: str, path: Path) -> None:
    test = load_data(parse_task(task)[0]).test
    rows = embedded_rows(test.labels)
    images = test.inputs[rows[_shown(len(rows))]]
    images = np.broadcast_to(images, (*images.shape[:3], 3))  # gray images get three channels
    blank = np.zeros((-len(images) % COLUMNS, *images.shape[1:]), np.uint8)
    grid = np.concatenate([images, blank]).reshape(-1, COLUMNS, *images.shape[1:])
    sheet = grid.swapaxes(1, 2).reshape(-1, COLUMNS * images.shape[2], 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        Image.fromarray(sheet).save(partial, "WEBP", quality=75, method=6)


def data_uri(image: np.ndarray) -> str:
    """Return an image uint8 [h, w, 3] as the address of a WebP picture that holds it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=60, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def space_data(record: Record) -> dict[str, Any]:
    """Return the positions that are shown of a record's t-SNE plot, x and y from 0 to 1000."""
    position = record.arrays()["embedding"]
    low, high = position.min(axis=0), position.max(axis=0)
    x, y = (1000 * (position - low) / (high - low)).round().astype(int)[_shown(len(position))].T.tolist()
    return {"seed": record.spec.seed, "key": record.key, "x": x, "y": y}


def spaces_data(profile: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the t-SNE plots of the motivating example: classes, images with their class, spaces.

    An encoder's space is the same for all seeds, a network's penultimate layer has one plot per seed.
    """
    task = plans.TASKS[profile]
    names = show.fine_class_names(task)
    looks, networks = plans.encoders(profile, seeds[:1]), plans.label_sets(profile, seeds).values()
    runs = {f"encoder: {encoder_label(name)}": group for name, group in looks.items()}
    runs |= {f"network: {style_of(group[0]).label}": group for group in networks}
    found = {name: filter(None, map(find_record, group)) for name, group in runs.items()}
    spaces = {name: [r for r in group if r.status == "finished"] for name, group in found.items()}
    labels = next(group[0] for group in spaces.values() if group).arrays()["embedding_labels"]
    shown = enumerate(zip(labels[_shown(len(labels))].tolist(), thumbnails(task, profile), strict=False), start=1)
    points = [{"number": i, "class": names[label], "image": data_uri(image)} for i, (label, image) in shown]
    plots = [{"name": name, "runs": list(map(space_data, group))} for name, group in spaces.items() if group]
    return {"task": task, "positive": parse_task(task)[1], "points": points, "spaces": plots}


# ---------------------------------------------------------------- charts

NEGATIVE, POSITIVE = "#7a8ca3", "#D55E00"
CLASS_COLORS = sns.color_palette("tab10").as_hex()  # as in `pictures.plot_embeddings`
SHAPES = ["triangle-up", "square", "triangle-down", "diamond", "triangle-left", "cross", "triangle-right", "circle"]
# Text and lines have the color of the page's text, in the light, in the dark and on paper.
TEXT = {"labelColor": "currentColor", "titleColor": "currentColor"}
CONFIG = {
    "background": "transparent",
    "aria": False,  # the chart as a whole has a description, a point alone says nothing
    "view": {"stroke": None},
    "axis": TEXT
    | {"domainColor": "currentColor", "tickColor": "currentColor", "gridColor": "currentColor"}
    | {"gridOpacity": 0.15, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "legend": TEXT | {"orient": "bottom", "labelFontSize": 12, "titleFontSize": 12},
}


def score_chart() -> alt.TopLevelMixin:
    """Return a histogram of the scores of both classes, with the threshold; data sets ``counts`` and ``at``."""
    only_negatives, shares = alt.datum["class"] == "negatives", [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]
    binned = (
        alt.Chart(alt.NamedData("counts"))
        .transform_calculate(bin=f"min(floor(datum.step * {BINS} / {N_STEPS}), {BINS - 1}) / {BINS}")
        .transform_joinaggregate(total="sum(samples)", groupby=["class"])
        .transform_aggregate(samples="sum(samples)", total="max(total)", groupby=["bin", "class"])
        .transform_calculate(share="datum.samples / datum.total", end=f"datum.bin + 1 / {BINS}")
    )
    score, share = alt.X("bin:Q").title("score of the positive class"), alt.Y("share:Q").title("share of the class")
    bars = binned.mark_bar(strokeWidth=1.5).encode(
        x=score.scale(domain=[0, 1]).axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2f"),
        x2=alt.X2("end:Q"),
        y=share.stack(None).scale(type="sqrt", domain=[0, 1]).axis(format="%", values=shares),
        y2=alt.Y2Datum(0),
        color=alt.Color("class:N").title(None).scale(domain=["negatives", "positives"], range=[NEGATIVE, POSITIVE]),
        stroke=alt.Stroke("class:N").legend(None).scale(range=["transparent", POSITIVE]),
        fillOpacity=alt.condition(only_negatives, alt.value(0.7), alt.value(0.25)),
    )
    rule = alt.Chart(alt.NamedData("at")).mark_rule(color="currentColor", strokeWidth=2).encode(x="threshold:Q")
    return _sized(bars + rule, 260)


def curve_chart() -> alt.TopLevelMixin:
    """Return precision over recall, with chance and the threshold's point; data sets ``curve`` and ``at``."""
    line = alt.Chart(alt.NamedData("curve")).mark_line(color=POSITIVE, strokeWidth=2)
    curve = line.encode(
        x=alt.X("recall:Q").title("recall").scale(domain=[0, 1]).axis(format="%"),
        y=alt.Y("precision:Q").title("precision").scale(domain=[0, 1]).axis(format="%"),
        order=alt.Order("index:Q"),
    )
    at = alt.Chart(alt.NamedData("at"))
    chance = at.mark_rule(color="currentColor", strokeDash=[4, 4], opacity=0.7)
    point = at.mark_point(color="currentColor", size=120, filled=True).encode(
        x=alt.X("recall:Q").title("recall"), y=alt.Y("precision:Q").title("precision")
    )
    chance = chance.encode(y=alt.Y("prevalence:Q").title("precision"))
    return _sized(curve + chance + point.transform_filter("isValid(datum.precision)"), 260)


def space_chart(classes: Sequence[str], positive: str) -> alt.TopLevelMixin:
    """Return a t-SNE plot that shows a point's image; data sets ``points`` and ``chosen``."""
    others = [name for name in classes if name != positive]
    names = [*others, positive]
    colors = [CLASS_COLORS[classes.index(name) % len(CLASS_COLORS)] for name in others] + ["currentColor"]
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(others))] + ["circle"]
    place = {"x": alt.X("x:Q").axis(None), "y": alt.Y("y:Q").axis(None)}
    look = {"columns": 3, "symbolSize": 60, "symbolOpacity": 1}
    points = alt.Chart(alt.NamedData("points")).mark_point(filled=True, opacity=0.85)
    points = points.encode(
        **place,
        color=alt.Color("class:N").title(None).scale(domain=names, range=colors).legend(**look),
        shape=alt.Shape("class:N").title(None).scale(domain=names, range=shapes).legend(**look),
        size=alt.condition(alt.datum["class"] == positive, alt.value(45), alt.value(26)),
        tooltip=[alt.Tooltip("class:N"), alt.Tooltip("image:N")],
    )
    ring = alt.Chart(alt.NamedData("chosen")).mark_point(size=260, strokeWidth=3, color=POSITIVE, filled=False)
    return _sized(points + ring.encode(**place), 420)


def _sized(chart: alt.TopLevelMixin, height: int) -> alt.TopLevelMixin:
    """Return a chart as wide as its place on the page."""
    return chart.properties(width="container", height=height).configure(**CONFIG)


# ---------------------------------------------------------------- what a notebook shows


@dataclass(frozen=True)
class Exhibit:
    """Something to look at: live in a browser, and a picture where no script runs."""

    html: str = field(repr=False)
    png: bytes = field(repr=False)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "image/png": base64.b64encode(self.png).decode()}


def scripts() -> HTML:
    """Return the scripts and styles that the exhibits of a page need; shown once, before them."""
    style, script = (_source(f"explore.{suffix}") for suffix in ("css", "js"))
    # In a function, as the bundle's short names would meet those of the page's other scripts.
    bundle = f"(() => {{{vl_convert.javascript_bundle()}}})();"
    return HTML(f"<style>{style}</style>\n<script>{bundle}</script>\n<script>{script}</script>")


def _source(name: str) -> str:
    return importlib.resources.files("regroup_book.chapters").joinpath(name).read_text(encoding="utf-8")


def thresholds(runs: Runs) -> Exhibit:
    """Return the exhibit of `binary_runs`: pick one, move the threshold, see what it does."""
    data = runs_data(runs)
    charts = {"scores": score_chart(), "curve": curve_chart()}
    picture = _picture(charts, chart_data(data[0]["methods"][0]["runs"][0]))
    return Exhibit(_page("thresholds", {"tasks": data, "steps": N_STEPS}, charts, picture), picture)


def spaces(found: Mapping[str, Any]) -> Exhibit:
    """Return the exhibit of `spaces_data`: point at a test image, or step through them, and see it."""
    run = found["spaces"][0]["runs"][0]
    points = [p | {"x": x, "y": y} for p, x, y in zip(found["points"], run["x"], run["y"], strict=True)]
    charts = {"space": space_chart(show.fine_class_names(found["task"]), found["positive"])}
    picture = _picture(charts, {"points": points, "chosen": points[:1]})
    return Exhibit(_page("spaces", found, charts, picture), picture)


def chart_data(run: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return a run's data sets ``counts``, ``curve`` and ``at``, a threshold of 0.5, as the charts take them."""
    counts = pd.DataFrame(run["counts"])
    total, called = counts.sum(), counts[counts["step"] >= N_STEPS / 2].sum()
    at = {"threshold": 0.5, "prevalence": total["positives"] / (total["negatives"] + total["positives"])}
    at["recall"] = called["positives"] / total["positives"]
    n_called = called["negatives"] + called["positives"]
    at["precision"] = called["positives"] / n_called if n_called else None
    return {
        "counts": counts.melt("step", var_name="class", value_name="samples").to_dict("records"),
        "curve": pd.DataFrame(run["curve"]).rename_axis("index").reset_index().to_dict("records"),
        "at": [at],
    }


def _picture(charts: Mapping[str, alt.TopLevelMixin], data: Mapping[str, list[dict[str, Any]]]) -> bytes:
    """Return charts side by side as a PNG picture."""
    specs = [chart.properties(width=380).to_dict() for chart in charts.values()]
    for spec in specs:
        spec.pop("config")
    config = CONFIG | {"background": "white"}
    together = {"$schema": alt.SCHEMA_URL, "hconcat": specs, "datasets": data, "config": config}
    return vl_convert.vegalite_to_png(together, scale=1.5)


def _page(kind: str, data: Mapping[str, Any], charts: Mapping[str, alt.TopLevelMixin], picture: bytes) -> str:
    values = {"data": data, "charts": {name: chart.to_dict() for name, chart in charts.items()}}
    # No "</" may end the script early, whatever a class is called.
    encoded = json.dumps(values, separators=(",", ":")).replace("</", "<\\/")
    address = "data:image/png;base64," + base64.b64encode(picture).decode()
    return Template(_source(f"explore-{kind}.html")).substitute(data=encoded, picture=address)
