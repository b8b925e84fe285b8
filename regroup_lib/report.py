"""A comparison on one's own data as one HTML file, without links to anything else."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve

from regroup_lib.comparison import Comparison, named
from regroup_lib.diagnostics import threshold_table
from regroup_lib.files import atomic_path
from regroup_lib.plots import plot_calibration
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.own import BOOSTING, REGROUPED
from regroup_lib.runs.specs import READING
from regroup_lib.runs.table_methods import ESTIMATOR_TITLES

WANTED = (0.5, 0.7, 0.8, 0.9, 0.95)  # precisions and recalls of the table of thresholds
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
body { overflow-wrap: anywhere }
table { border-collapse: collapse; margin-bottom: 1rem }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ccc; text-align: left; max-width: 20rem }
div, pre { overflow-x: auto } img { max-width: 100%; height: auto } pre { background: #f4f4f4; padding: 1rem }
"""


def write_report(comparison: Comparison, path: str | Path) -> None:
    """Write a comparison to an HTML file.

    The file has the advice, the data as they were read, the clusters, the comparison with its intervals, curves, a
    table of thresholds and the calibration of the recommended classifier, and the Python code that fits it.
    """
    with plt.rc_context({"text.parse_math": False}):  # a dollar sign in a name is no formula
        page = _page(comparison)
    with atomic_path(Path(path)) as partial:
        partial.write_text(page + "\n", encoding="utf-8")


def _page(comparison: Comparison) -> str:
    advice, name = comparison.recommendation, escape(comparison.name)
    measured = comparison.scores(*advice.row)
    labels, scores = measured.labels[0], measured.scores[0]
    parts = [
        f"<h1>Should you regroup {name}?</h1><p>{_sentences(advice.text)}</p>",
        f"<h2>The data</h2><ul>{''.join(f'<li>{escape(note)}</li>' for note in comparison.notes)}</ul>",
        _table(comparison.class_table),
        f"<h2>The clusters</h2><p>{escape(comparison.outlook)}</p>",
        _picture(comparison.plot_clusters(), "the largest clusters"),
        "<h2>The comparison</h2><p>Percent, mean ± standard deviation over seeds; differences with a 95% interval. AP "
        f"by chance: {100 * comparison.chance:.1f}.</p>",
        _table(comparison.table.reset_index().set_index("classifier")),
        _picture(comparison.plot_precision_recall(), "precision against recall"),
        f"<h2>Thresholds of {escape(named(advice.row))}</h2><p>The threshold that reaches a wanted precision with the "
        f"most recall, or a wanted recall with the most precision, on the {len(labels):,} samples that it was measured "
        "on, first seed. On new data expect a little less.</p>",
        _table(operating_points(labels, scores)),
        "<h2>Calibration</h2><p>On the diagonal, predicted probabilities equal observed shares.</p>",
        _picture(plot_calibration(labels, scores), "share of positives against predicted probability"),
        f"<h2>The same in Python</h2><pre>{escape(python_code(comparison))}</pre>",
        f"<p>{escape(comparison.provenance)}</p>",
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
    style = f"<style>{STYLE}</style>"
    return f'<!DOCTYPE html><html lang="en"><head>{head}{style}</head><body>{"".join(parts)}</body></html>'


def operating_points(labels: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """Return a row of `threshold_table` for each of the `WANTED` precisions and recalls that some threshold reaches.

    `labels` [n] are 1 for positives, `scores` [n] are those of the positive class. Of the thresholds that reach a
    precision, it is the one with the most recall, and the reverse.
    """
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    chosen = {}
    for name, reached, other in (("precision", precision[:-1], recall), ("recall", recall[:-1], precision)):
        for wanted in WANTED:
            if len(found := np.flatnonzero(reached >= wanted)):
                best = found[other[found] == other[found].max()][-1]  # of equally good thresholds, the highest
                chosen[f"{name} of {wanted:.0%}"] = _printed_below(thresholds[best])
    table = threshold_table(labels, scores, list(chosen.values())).reset_index()
    rounded = table.round(dict.fromkeys(table.columns.drop("threshold"), 3))
    return rounded.assign(threshold=[f"{t:.4g}" for t in table["threshold"]]).set_index(pd.Index(chosen, name="wanted"))


def _printed_below(threshold: float) -> float:
    """Return a threshold rounded down to four digits, so that it calls at least the same samples."""
    step = 10.0 ** (np.floor(np.log10(threshold)) - 3) if threshold > 0 else 1e-4
    return float(f"{np.floor(threshold / step) * step:.4g}")


def python_code(comparison: Comparison) -> str:
    """Return Python code that makes this comparison again, fits the recommended classifier, and applies it."""
    own, look, spec = comparison.own or comparison.look.spec.own, comparison.look.spec, comparison.records[0].spec
    settings = {"positive": own.positive, "encoder": look.encoder, "threshold": look.threshold}
    if comparison.is_table:
        boosted = [title for classifier, title in comparison.groups if classifier == ESTIMATOR_TITLES[BOOSTING]]
        if not boosted or any(title in REGROUPED for title in boosted):  # else this is the default
            settings["estimators"] = list(dict.fromkeys(record.spec.estimator for record in comparison.records))
    else:
        settings["epochs"] = next(r.spec.epochs for r in comparison.records if not METHODS[r.spec.method].features)
        settings["image_size"] = spec.image_size
    settings |= {"seeds": comparison.seeds, "profile": spec.profile} | {name: getattr(own, name) for name in READING}
    defaults = {"header": True, "allow_missing": False, "missing": ()}
    said = {name: value for name, value in settings.items() if value != defaults.get(name)}
    path = own.path or "your data"
    options = "".join(f", {name}={value!r}" for name, value in said.items())
    lines = ["import regroup_lib as rg", f"comparison = rg.compare({path!r}{options})"]
    lines.append("model = comparison.fit()  # model.save(folder) keeps it")
    return "\n".join([*lines, *([] if path.endswith(".npz") else [f"print(model.predict({path!r}))"])])


def _sentences(markdown: str) -> str:
    """Return escaped text; the part between two pairs of asterisks is bold."""
    before, bold, after = escape(markdown).split("**")
    return f"{before}<strong>{bold}</strong>{after}"


def _table(frame: pd.DataFrame) -> str:
    return f"<div>{frame.reset_index().to_html(index=False, border=0, na_rep='')}</div>"


def _picture(figure: Figure, description: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    plt.close(figure)
    return (
        f'<img alt="{escape(description)}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )
