"""Records as lists: frames to print and export, the runs behind a page, the page that links every record."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from regroup_lib import tables
from regroup_lib.records import Record
from regroup_lib.report import AVERAGE_PRECISION, BALANCED_ACCURACY, machine_class, mean_std
from regroup_lib.specs import EncoderSpec, LookSpec, Spec, TableSpec


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
    """Return a Markdown list, a line a task and profile: number of records, seeds, epochs, data digest and machines."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.spec.task, record.spec.profile), []).append(record)
    return "\n".join(f"- {_runs_of(group)}" for group in groups.values())


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
        row = {"key": link, "profile": spec.profile, "task": spec.task, "seed": spec.seed}
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
