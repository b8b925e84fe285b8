"""Records as rows to print, compare and export.

Rows come from an index of the results directory, so that a list needs neither PyTorch nor the records that have not
changed since the last one.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regroup_lib.files import atomic_path, check_regular, digest_file, record_paths, results_directory
from regroup_lib.runs import NOT_AGGREGATED

if TYPE_CHECKING:
    import pandas as pd

    from regroup_lib.runs.records import Record
    from regroup_lib.runs.specs import Spec


MEASURES = ("balanced_accuracy", "average_precision", "calibrated_average_precision")
# Columns of every export. Others are the fields of specs that vary, and each class's average precision.
COLUMNS = ["key", "profile", "task", "method", "encoder", "clusterer", "aggregation", "n_clusters", "seed", "epochs"]
COLUMNS += [*MEASURES, "seconds", "status"]
KEPT = ("imbalance", "estimator")  # shown even if all rows agree
OF_A_CLASS = "average_precision_"
MAX_INDEX = 10**9  # bytes


def indexed_rows(results_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Return the rows of all records of a results directory, in order of their files.

    The index is in the hidden folder ``.index`` of that directory. It holds the time and the size of each file: a
    record that has changed is read again, and so is every record after a change of a module beside this one.
    """
    root = results_directory(results_dir)
    index, known = root / ".index" / "rows.json", {}
    version = [digest_file(module) for module in sorted(Path(__file__).parent.glob("*.py"))]
    with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged index is made again
        check_regular(index, at_most=MAX_INDEX)
        stored = json.loads(index.read_text(encoding="utf-8"))
        known = dict(stored["records"]) if stored["version"] == version else {}
    found = {}
    for path in record_paths(root):
        name, status = path.relative_to(root).as_posix(), path.stat()
        stamp = [status.st_mtime_ns, status.st_size]
        found[name] = known.get(name)
        if found[name] is None or found[name][0] != stamp:
            from regroup_lib.runs.records import load_record

            found[name] = [stamp, record_rows(load_record(path))]
    if found != known:
        with suppress(OSError), atomic_path(index) as partial:  # without the index, lists take longer
            partial.write_text(json.dumps({"version": version, "records": found}), encoding="utf-8")
    return [row for _, rows in found.values() for row in rows]


def record_rows(record: Record) -> list[dict[str, Any]]:
    """Return a row of plain values for each aggregation rule of a record; encoder records and looks have none.

    Numbers of tables are those of the rows held out; a method that could not be used has no numbers. Their clusters
    are those of the first fold.
    """
    from regroup_lib.runs import methods, table_methods

    spec = record.spec
    if spec.kind in ("encoder", "look"):
        return []
    if spec.kind == "table":
        clusterer = table_methods.METHODS[spec.method].clusterer or ""
    else:
        clusterer = methods.METHODS[spec.method].clusterer_of(spec.clusterer)
    fields = spec.model_dump(mode="json", exclude={"own", "kind", "clusterer"})
    # The requested number; the column `n_clusters` has the resulting one.
    fields["requested_clusters"] = fields.pop("n_clusters", None)
    fields |= {"encoder": spec.encoder or "", "clusterer": clusterer, "data": record.data_digest[:12]}
    # The paper's K: clusters of the majority in a binary task, all pseudo-classes in a multiclass one.
    parent = record.regrouping.get("parent", [0, 1])  # none where a method could not be used
    fields |= {"n_clusters": len(parent) - (max(parent) == 1)}
    rows = []
    for rule in record.rules or [""]:
        test = record.metrics[rule]["test"] if rule else {"summary": {}, "average_precision": {}}
        row = {"key": record.key} | fields | {"aggregation": "" if rule == NOT_AGGREGATED else rule}
        row |= {measure: test["summary"].get(measure) for measure in MEASURES}
        row |= {"seconds": record.own_seconds, "status": record.status}
        rows.append(row | {f"{OF_A_CLASS}{name}": value for name, value in test["average_precision"].items()})
    return rows


def rows_frame(rows: Sequence[dict[str, Any]], *, long: bool = False) -> pd.DataFrame:
    """Return rows as a table.

    Its columns are `COLUMNS`, each other field that is not the same in all rows, imbalance and estimator where there
    are any, and each class's average precision. So rows that agree in all columns but key, seed and what was measured
    have the same settings; a setting that a run does not have is empty (group by them with ``dropna=False``). The
    `long` form has one row per metric, with the columns ``metric`` and ``value``, instead of one column per metric.
    """
    import pandas as pd

    names = list(dict.fromkeys(name for row in rows for name in row if name not in COLUMNS))
    classes = [name for name in names if name.startswith(OF_A_CLASS)]
    said = {name: {str(row.get(name)) for row in rows} for name in names if name not in classes}
    fields = [name for name, values in said.items() if len(values) > 1 or (name in KEPT and values != {"None"})]
    values = [*MEASURES, *classes]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *fields, *classes]).astype(dict.fromkeys(values, float))
    if not long:
        return frame
    settings = [name for name in frame.columns if name not in values]
    frame = frame.melt(settings, values, var_name="metric", ignore_index=False).dropna(subset="value")
    return frame.sort_index(kind="stable", ignore_index=True)


def records_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per record and aggregation rule, see `record_rows` and `rows_frame`."""
    return rows_frame([row for record in records for row in record_rows(record)])


# Fields of a spec that a row of `compared_frame` shows only if they are not the default.
_SHOWN_OPTIONS = ("clusterer", "n_clusters", "threshold", "gamma", "tau", "max_margin", "deferred")
_SHOWN_OPTIONS += ("imbalance", "split")


def compared_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per setting and aggregation rule: seeds, and BA and AP in percent, the best mean AP first.

    Records whose specs differ in the seed alone are one setting. Encoder records have no row; of a setting with a
    diverged run the column ``diverged`` says how many did, and its numbers are of the others.
    """
    import numpy as np
    import pandas as pd

    settings: dict[Spec, list[Record]] = {}
    for record in records:
        if record.spec.kind == "training":
            settings.setdefault(record.spec.model_copy(update={"seed": 0}), []).append(record)
    rows = []
    for spec, group in settings.items():
        finished = [r for r in group if r.status == "finished"]
        shown = {name: getattr(spec, name) for name in _SHOWN_OPTIONS}
        options = ", ".join(f"{n}={v}" for n, v in shown.items() if v != type(spec).model_fields[n].default)
        for rule in finished[0].rules if finished else [""]:
            precision = [r.metrics[rule]["test"]["summary"]["average_precision"] for r in finished]
            accuracy = [r.metrics[rule]["test"]["summary"]["balanced_accuracy"] for r in finished]
            row = {"profile": spec.profile, "method": spec.method, "encoder": spec.encoder or "", "settings": options}
            row |= {"rule": "" if rule == NOT_AGGREGATED else rule, "epochs": spec.epochs, "seeds": len(finished)}
            row |= {name: percent(found) for name, found in (("BA", accuracy), ("AP", precision))}
            rows.append(row | {"diverged": len(group) - len(finished), "_": np.mean(precision) if finished else -1})
    columns = ["profile", "method", "encoder", "settings", "rule", "epochs", "seeds", "BA", "AP", "diverged"]
    frame = pd.DataFrame(rows, columns=[*columns, "_"]).sort_values("_", ascending=False, ignore_index=True)
    return frame[columns]


def percent(shares: Sequence[float]) -> str:
    """Return mean ± std in percent; of one number itself, of none nothing."""
    from regroup_lib.intervals import mean_std

    return mean_std(shares) if len(shares) > 1 else "".join(f"{100 * share:.1f}" for share in shares)


def write_frame(frame: pd.DataFrame, path: Path, suffix: str) -> None:
    """Write a table as CSV, Markdown or LaTeX, as the suffix says; CSV alone has all digits."""
    if suffix == ".csv":
        frame.to_csv(path, index=False)
        return
    short = frame.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value))
    if suffix == ".md":
        lines = [[str(name) for name in short.columns], ["---"] * len(short.columns), *short.values.tolist()]
        text = "\n".join("| " + " | ".join(map(markdown_text, line)) + " |" for line in lines) + "\n"
    elif suffix == ".tex":
        text = short.to_latex(index=False, escape=True)
    else:
        raise ValueError(f"{suffix or 'a file without a suffix'} is no format; name a .csv, .md or .tex file")
    path.write_text(text, encoding="utf-8")


def markdown_text(text: str) -> str:
    """Return a text in one line, of which Markdown makes that text and nothing else."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
