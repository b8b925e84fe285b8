"""Verification of records: specs, keys, digests, arrays, and metrics computed again from scores.

Average precisions and recalls are computed by other code than in the runs: the former by one sort per class
(`metrics.weighted_average_precisions`), the latter from counts.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from regroup_lib.data.sources import SOURCES
from regroup_lib.data.tasks import parse_task
from regroup_lib.files import digest_arrays, record_paths, results_directory
from regroup_lib.metrics import accuracy_interval, decide, precision_interval, weighted_average_precisions
from regroup_lib.progress import progress_bar
from regroup_lib.runs import table_methods
from regroup_lib.runs.networks import FROZEN_ESTIMATORS, MANY_CLASSES, summary
from regroup_lib.runs.records import Record, load_record
from regroup_lib.runs.specs import AnySpec

TOLERANCE = 1e-9
MEASURES = ("average_precision", "calibrated_average_precision")
# SHA-256 of each named data set as it is loaded, which a record's data_digest must equal. A set that is decoded from
# image files has one for each size in pixels and split by image; that of a table covers the labels of one
# class against the rest.
DATA_DIGESTS: dict[str, str] = json.loads(Path(__file__).with_name("data_digests.json").read_text(encoding="utf-8"))


def data_variant(spec: AnySpec) -> str:
    """Return the name in `DATA_DIGESTS` of the data that a spec is run on."""
    if spec.own is not None:
        return f"{spec.task} {spec.own.digest[:12]}"
    if spec.kind == "table":
        return spec.task
    name, _ = parse_task(spec.task)
    if not (name in SOURCES and SOURCES[name].decoded):
        return name
    by_image = ", split by image" if getattr(spec, "split", "") == "image" else ""
    return f"{name} {spec.image_size or SOURCES[name].image_shape[0]} px{by_image}"


class Defect(NamedTuple):
    """A defect of one file."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass
class Report:
    """The result of `check_results`.

    Attributes
    ----------
    defects : list of Defect
        In order of their files.
    statuses : dict of str to Counter
        Records by kind and status.
    recomputed, kept : Counter
        Numbers that were computed again from stored scores, and numbers that could not be, by kind.
    """

    defects: list[Defect] = field(default_factory=list)
    statuses: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    recomputed: Counter = field(default_factory=Counter)
    kept: Counter = field(default_factory=Counter)

    @property
    def summary(self) -> list[str]:
        """One line per kind of record."""
        lines = []
        for kind, statuses in sorted(self.statuses.items()):
            counts = ", ".join(f"{n} {status}" for status, n in statuses.most_common())
            again = f"{self.recomputed[kind]} numbers computed again" if self.recomputed[kind] else ""
            kept = f"{self.kept[kind]} that no stored array gives back" if self.kept[kind] else ""
            lines.append(f"{kind}: {counts}; " + ", ".join(filter(None, (again, kept))))
        return lines


def check_results(results_dir: str | Path | None = None, *, profile: str | None = None) -> Report:
    """Check every record of a results directory, or of one profile in it.

    Parameters
    ----------
    results_dir : path, optional
        Default ``REGROUP_RESULTS``. It is only read.
    profile : str, optional

    Notes
    -----
    The check of each record covers its file (it parses, has the digest that it was written with, which older records
    lack, and is in the place that its spec names), the digest of its data set, its times and provenance, its arrays
    (those that were written, by their digest, and finite), its metrics (each one that the arrays determine equals the
    stored one to 1e-9, and there are no others), and its last trace, which repeats the metrics. Records on one test set
    must have its labels in the same order, and tables with one seed the same folds.

    An encoder's record keeps no features, and a record with more than 20 classes keeps decisions and no scores:
    purity, NMI, ARI and neighbor accuracy, and the average precisions of many classes, are only checked for being
    possible.
    """
    root, report = results_directory(results_dir), Report()
    for path in sorted(root.glob(f"{profile or '*'}/*/*.npz")):
        if not path.name.startswith(".") and not path.with_suffix(".json").exists():
            report.defects.append(Defect(path, "arrays without a record"))
    shared: _Shared = defaultdict(lambda: defaultdict(list))
    for path in progress_bar(iterable=record_paths(root, profile=profile), desc="check", unit="record"):
        try:
            for what in _check(path, root, report, shared):
                report.defects.append(Defect(path, what))
        except Exception as error:  # a record of an unforeseen shape is a defect, too
            report.defects.append(Defect(path, f"it cannot be checked ({type(error).__name__}: {_one_line(error)})"))
    for (what, where, _), by_digest in shared.items():
        _, *others = sorted(by_digest.values(), key=len, reverse=True)
        what = f"its {what} are not those of most records of {where}"
        report.defects += [Defect(path, what) for paths in others for path in paths]
    report.defects.sort(key=lambda defect: str(defect.path))
    return report


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# Paths by digest, of the labels and folds that several records have in common; the keys name these.
_Shared = dict[tuple[str, str, str], dict[str, list[Path]]]


def _check(path: Path, root: Path, report: Report, shared: _Shared) -> Iterator[str]:
    """Yield the defects of a record; count its numbers in the report, and note its arrays that others share."""
    try:
        record = load_record(path)
        report.statuses[record.spec.kind][record.status] += 1
        arrays = record.arrays()
    except (ValueError, OSError) as error:  # a damaged file
        yield _one_line(error)
        return
    spec, variant = record.spec, data_variant(record.spec)
    if path != spec.path(root):
        yield f"its spec belongs in {spec.path(root).relative_to(root)}"
    yield from _wrong_provenance(record)
    yield from _wrong_traces(record)
    if record.status != "not applicable":
        yield from _wrong_regrouping(record)
    wrong = list(_wrong_arrays(arrays))
    yield from wrong
    if not wrong:  # else the metrics that they determine would be wrong, too
        check = {"encoder": _wrong_encoder, "look": _wrong_look}.get(spec.kind, _wrong_metrics)
        yield from check(record, arrays, report)
    owners = dict.fromkeys(("test_labels", "embedding_labels"), spec.task) | {"folds": f"{variant}, seed {spec.seed}"}
    for name in owners.keys() & arrays.keys():
        shared[name.replace("_", " "), owners[name], variant][digest_arrays(arrays[name])].append(path)


def _wrong_provenance(record: Record) -> Iterator[str]:
    spec, status = record.spec, record.status
    variant, applicable = data_variant(spec), status != "not applicable"
    known = spec.own.digest if spec.own else DATA_DIGESTS.get(variant, "")
    stated = f"its data_digest {record.data_digest[:12]!r}"
    wanted = {"machine": ("cores", "threads"), "versions": ("python", "torch", "numpy", "scikit-learn")}
    missing = {name: [key for key in keys if key not in getattr(record, name)] for name, keys in wanted.items()}
    for wrong, what in (
        (not known, f"no digest is known of {variant}"),
        (known and record.data_digest != known, f"{stated} is not that of {variant}, {known[:12]!r}"),
        (applicable and not record.seconds, "it has no seconds"),
        *((keys, f"{name} lacks {', '.join(keys)}") for name, keys in missing.items()),
        ((status == "finished") != bool(record.metrics), f"status is {status!r}, with {len(record.metrics)} metrics"),
        (applicable == bool(record.reason), f"status is {status!r}, with the reason {record.reason!r}"),
    ):
        if wrong:
            yield what


def _wrong_traces(record: Record) -> Iterator[str]:
    """Yield the defects of a record's traces; only records of networks have some."""
    status, traces, n_epochs = record.status, record.traces, getattr(record.spec, "epochs", 0)
    epochs, losses = ([trace.get(name) for trace in traces] for name in ("epoch", "train_loss"))
    n_traces = n_epochs if status == "finished" else min(len(traces), n_epochs)
    if epochs != list(range(1, n_traces + 1)):
        yield f"it is {status}, its traces are of epochs {epochs}, and the spec has {n_epochs}"
    if list(map(_is_number, losses)) != [*[True] * (len(traces) - 1), status != "diverged"][: len(traces)]:
        yield f"status is {status!r}, and train_loss is {losses}"  # a run diverges at its last loss


def _wrong_regrouping(record: Record) -> Iterator[str]:
    described, n_classes = record.regrouping, len(_class_names(record.spec))
    parent, counts = described.get("parent"), described.get("counts")
    if record.spec.kind == "look" and isinstance(parent, list):
        parent = sorted(parent)  # numbered in the order of the classes' names
    if not isinstance(parent, list) or parent != sorted(parent) or set(parent) != set(range(n_classes)):
        yield f"regrouping.parent is {str(parent)[:60]}; expected a class of {n_classes} for each pseudo-class"
    elif len(counts or ()) != len(parent) or not all(isinstance(n, int) and n > 0 for n in counts):
        yield f"regrouping.counts is {str(counts)[:60]}; expected {len(parent)} sizes"
    yield from _impossible({k: described[k] for k in ("purity", "nmi", "ari") if k in described}, "regrouping.")


def _impossible(values: dict[str, Any], where: str) -> Iterator[str]:
    """Yield the values that are not numbers from 0, or the least value of a quantity, to 1."""
    for name, value in values.items():
        low = -1 if name in ("ari", "stability", "silhouette") else 0
        if not (_is_number(value) and low - TOLERANCE <= value <= 1 + TOLERANCE):
            yield f"{where}{name} is {value}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ---------------------------------------------------------------- arrays


def _wrong_arrays(arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield invalid values of arrays; sizes that disagree are found when metrics are computed again."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            yield f"array {name} has {int((~np.isfinite(array)).sum())} values that are NaN or infinite"
        elif "_scores_" in name:
            sums = array.sum(axis=1) if array.ndim == 2 else 1
            if array.min() < 0 or array.max() > 1 or not (np.abs(sums - 1) < 1e-4).all():
                yield f"array {name} holds no probabilities"


def _class_names(spec: AnySpec) -> Sequence[str]:
    return ("negative", "positive") if spec.kind == "table" else spec.class_names


# ---------------------------------------------------------------- metrics


def _wrong_metrics(record: Record, arrays: dict[str, np.ndarray], report: Report) -> Iterator[str]:
    """Compare the metrics of a training run or a table with those that its scores or decisions give."""
    spec, names = record.spec, _class_names(record.spec)
    if "folds" in arrays and (n_folds := len(np.unique(arrays["folds"]))) != table_methods.N_FOLDS:
        yield f"array folds has {n_folds} folds, and a run {table_methods.N_FOLDS}"
        return
    again: dict[str, Any] = {}
    for array in arrays:  # test_scores_max, val_predictions_none
        part, _, rule = array.partition("_scores_" if "_scores_" in array else "_predictions_")
        if not rule:
            continue
        stored, where = record.metrics.get(rule, {}).get(part, {}), f"metrics.{rule}.{part}."
        measured = _measured_again(names, arrays, part, array)
        for measure in MEASURES:  # of many classes as stored
            by_class = (stored | measured).get(measure, {})
            if list(by_class) != list(names) or list(_impossible(by_class, where)):
                yield f"{where}{measure} is not one share for each of the {len(names)} classes"
                return
        again.setdefault(rule, {})[part] = measured | {"summary": summary(stored | measured)}
        yield from _impossible({"neighbor_accuracy": stored.get("neighbor_accuracy", 0)}, where)
        # scikit-learn's estimators have no epochs.
        if spec.kind == "training" and (part == "val" or spec.trace_test) and spec.network not in FROZEN_ESTIMATORS:
            last = record.traces[-1] if record.traces else {}
            for measure, value in stored.get("summary", {}).items():
                traced = last.get(f"{part}_{rule}_{measure}")
                if not _agree(traced, value):
                    yield f"its last trace has {part}_{rule}_{measure} = {traced}, its metrics {value}"
    stored, found = _numbers(record.metrics), _numbers(again)
    report.recomputed[spec.kind] += sum(map(np.size, found.values()))
    report.kept[spec.kind] += len(stored.keys() - found.keys())
    if missing := sorted(found.keys() - stored.keys()):
        yield f"metrics.{missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else "")
    for name in sorted(found.keys() & stored.keys()):
        if not _agree(stored[name], found[name]):
            yield f"metrics.{name} is {stored[name]}, and the stored scores give {found[name]}"
    known = {"neighbor_accuracy", *(MEASURES if len(names) > MANY_CLASSES else ())}  # they may have no second
    for name in sorted(stored.keys() - found.keys()):
        if not known & set(name.split(".")):
            yield f"metrics.{name} is {str(stored[name])[:60]}, which does not belong here"


def _measured_again(names: Sequence[str], arrays: dict[str, np.ndarray], part: str, name: str) -> dict[str, Any]:
    """Return the metrics that the array of this name, scores or decisions of a part, determines."""
    labels, found = arrays[f"{part}_labels"].astype(np.int64), arrays[name]
    if "_predictions_" in name:
        return measure_decisions(labels, found, names)
    if "folds" in arrays:
        return table_methods.measure_folds(labels, arrays["folds"], found, evaluate=measure_scores)
    return measure_scores(labels, found, names)


def _numbers(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return the numbers and lists in nested mappings by their path, ``"max.test.balanced_accuracy"``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, dict) and value  # an empty one is no number either, and is shown as it is
        found |= _numbers(value, f"{before}{name}.") if inner else {f"{before}{name}": value}
    return found


def _agree(stored: Any, again: Any) -> bool:
    try:
        return np.shape(stored) == np.shape(again) and bool((np.abs(np.subtract(stored, again)) <= TOLERANCE).all())
    except (TypeError, ValueError):  # no numbers, or a ragged list of them
        return False


def _wrong_encoder(record: Record, arrays: dict[str, np.ndarray], report: Report) -> Iterator[str]:
    """Check that the numbers of an encoder are possible; the features that would give them are not kept."""
    metrics = {name: value for name, value in record.metrics.items() if name != "contents"}
    report.kept["encoder"] += len(metrics)
    yield from _impossible(metrics, "metrics.")


def _wrong_look(record: Record, arrays: dict[str, np.ndarray], report: Report) -> Iterator[str]:
    """Compare the clusters' sizes with the samples that were clustered; features are not kept."""
    metrics, counts = record.metrics, record.regrouping["counts"]
    rows = record.spec.holds == "rows"  # all rows are clustered, and of images those for training
    by_split = metrics.get("class_counts", {})
    samples = sum(sum(by_split[part].values()) for part in by_split if rows or part == "train")
    if sum(counts) != samples:
        yield f"regrouping.counts add up to {sum(counts)}, and {samples} samples were clustered"
    if (arrays["shown"] >= len(counts)).any():
        yield f"shown names cluster {arrays['shown'].max()} of {len(counts)}"
    for row in metrics.get("diagnosis", ()):
        report.kept["look"] += 2
        known = {k: row[k] for k in ("stability", "silhouette") if pd.notna(row[k])}
        yield from _impossible(known, "metrics.diagnosis: ")


def measure_scores(labels: np.ndarray, scores: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return the result of `metrics.evaluate`, computed in another way, from scores [n, C], or [n] of the positives."""
    scores = scores.astype(np.float64)
    columns = np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores
    result, counts = measure_decisions(labels, decide(columns), names), np.bincount(labels, minlength=len(names))
    result |= {measure: {} for measure in MEASURES}
    intervals = result["intervals"]["average_precision"] = {}
    for c, name in enumerate(names):
        positive = labels == c
        calibrated = np.where(positive, 0.5 / counts[c], 0.5 / (len(labels) - counts[c]))
        weights = np.stack([np.ones(len(labels)), calibrated])
        for measure, value in zip(MEASURES, weighted_average_precisions(positive, columns[:, c], weights), strict=True):
            result[measure][name] = float(value)
        intervals[name] = precision_interval(result["average_precision"][name], int(counts[c]))
    return result


def measure_decisions(labels: np.ndarray, decisions: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return the part of `measure_scores` that decisions int [n] determine."""
    counts = np.bincount(labels, minlength=len(names))
    recalls = np.bincount(labels[labels == decisions], minlength=len(names)) / counts
    return {
        "balanced_accuracy": float(recalls.mean()),
        "prevalence": dict(zip(names, (counts / len(labels)).tolist(), strict=True)),
        "intervals": {"balanced_accuracy": accuracy_interval(recalls, counts)},
    }
