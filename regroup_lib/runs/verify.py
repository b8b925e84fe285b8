"""Whether records are what they claim to be: specs, keys, digests, arrays, and metrics computed again from scores.

Metrics are not computed by the code that made them: average precisions come from one sort a class
(`metrics.weighted_average_precisions`), recalls from counts.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from regroup_lib.data.sources import SOURCES
from regroup_lib.data.tasks import parse_task
from regroup_lib.files import digest_arrays, record_paths, results_directory
from regroup_lib.metrics import accuracy_interval, decide, precision_interval, weighted_average_precisions
from regroup_lib.progress import progress_bar
from regroup_lib.runs import table_methods
from regroup_lib.runs.looks import EMBEDDED_POINTS
from regroup_lib.runs.networks import FROZEN_ESTIMATORS, MANY_CLASSES
from regroup_lib.runs.records import Record, load_record
from regroup_lib.runs.specs import AnySpec, Spec, TableSpec

TOLERANCE = 1e-9
MEASURES = ("average_precision", "calibrated_average_precision")
STATUSES = {
    "training": ("finished", "diverged"),
    "encoder": ("finished",),
    "look": ("finished",),
    "table": ("finished", "not applicable"),
}
# SHA-256 of each named data set as it is loaded: what a record's data_digest has to be. A set that is decoded from
# image files has one a size in pixels, and one a size for its split by image; that of a table covers the labels of one
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


@dataclass(frozen=True)
class Defect:
    """What is wrong with one file."""

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

    Returns
    -------
    Report

    Notes
    -----
    The check of each record covers its file (it parses, has the digest that it was written with, which older records
    lack, and is in the place that its spec names), the digest of its data set, its times and provenance, its arrays
    (those that were written, no more and no fewer, finite and of the right shape), its metrics (each one that the
    arrays determine equals the stored one to 1e-9), and its last trace, which repeats the metrics. Records on one test
    set must have its labels in the same order, and tables with one seed the same folds.

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
        except Exception as error:  # a record whose shape no check foresees is a defect, not the end
            what = f"it cannot be checked ({type(error).__name__}: {_one_line(error)})"
            report.defects.append(Defect(path, what))
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
    """Yield the defects of a record; count its numbers in the report, and note what it shares with others."""
    try:
        record = load_record(path)
        spec = record.spec
        report.statuses[spec.kind][record.status] += 1
        if path != spec.path(root):
            yield f"its spec belongs in {spec.path(root).relative_to(root)}"
        yield from _wrong_provenance(record)
        yield from _wrong_status(record)
        if spec.kind == "training":
            yield from _wrong_traces(record)
        if record.status != "not applicable":
            yield from _wrong_regrouping(record)
        arrays = record.arrays()
    except (ValueError, OSError) as error:  # a damaged file
        yield _one_line(error)
        return
    wrong = list(_wrong_arrays(record, arrays))
    yield from wrong
    if not wrong:  # else the metrics that they determine would be wrong, too
        check = {"encoder": _wrong_encoder, "look": _wrong_look}.get(spec.kind, _wrong_metrics)
        yield from check(record, arrays, report)
    variant = data_variant(spec)
    owners = dict.fromkeys(("test_labels", "embedding_labels"), spec.task) | {"folds": f"{variant}, seed {spec.seed}"}
    for name in owners.keys() & arrays.keys():
        shared[name.replace("_", " "), owners[name], variant][digest_arrays(arrays[name])].append(path)


def _wrong_provenance(record: Record) -> Iterator[str]:
    variant, own = data_variant(record.spec), record.spec.own
    known = own.digest if own else DATA_DIGESTS.get(variant)
    if known is None:
        yield f"no digest is known of {variant}"
    elif record.data_digest != known:
        yield f"its data_digest {record.data_digest[:12]!r} is not that of {variant}, {known[:12]!r}"
    yield from (f"seconds.{step} is {n}" for step, n in record.seconds.items() if not 0 <= n < math.inf)
    if not record.seconds and record.status != "not applicable":
        yield "it has no seconds"
    if not re.fullmatch(r"\S+\+[0-9a-f]{12}", record.code):
        yield f"code is {record.code!r}, not VERSION+DIGEST"
    if not _is_time(record.created):
        yield f"created is {record.created!r}, not a time with its zone"
    wanted = {"machine": ("cores", "threads"), "versions": ("python", "torch", "numpy", "scikit-learn")}
    for name, keys in wanted.items():
        if missing := [key for key in keys if key not in getattr(record, name)]:
            yield f"{name} lacks {', '.join(missing)}"


def _wrong_status(record: Record) -> Iterator[str]:
    status, kind = record.status, record.spec.kind
    if status not in STATUSES[kind]:
        yield f"status is {status!r}; of {kind} it is {' or '.join(STATUSES[kind])}"
    if (status == "finished") != bool(record.metrics):
        yield f"status is {status!r}, with {len(record.metrics)} metrics"
    if (status == "not applicable") != bool(record.reason):
        yield f"status is {status!r}, with the reason {record.reason!r}"


def _wrong_traces(record: Record) -> Iterator[str]:
    n_epochs, diverged = record.spec.epochs, record.status == "diverged"
    epochs = [trace.get("epoch") for trace in record.traces]
    if epochs != list(range(1, len(epochs) + 1)) or len(epochs) > n_epochs:
        yield f"its traces are of epochs {epochs}, and the spec has {n_epochs}"
    elif record.status == "finished" and len(epochs) < n_epochs:
        yield f"it is finished, with {len(epochs)} traces of {n_epochs} epochs"
    losses = [trace.get("train_loss", math.nan) for trace in record.traces]
    n_finite = max(len(losses) - diverged, 0)  # a run diverges at its last loss
    if list(map(_is_number, losses)) != [True] * n_finite + [False] * (len(losses) - n_finite):
        yield f"status is {record.status!r}, and train_loss is {losses}"
    for epoch, trace in enumerate(record.traces, start=1):
        wrong = {name: value for name, value in trace.items() if not _possible(name, value)}
        yield from (f"its trace of epoch {epoch} has {name} = {value}" for name, value in wrong.items())


def _possible(name: str, value: Any) -> bool:
    """Return whether a trace can have such a value."""
    if name == "train_loss":  # checked with the status
        return True
    if name.startswith("variation"):  # NaN: a class that no sampled image belongs to
        return isinstance(value, list) and all(isinstance(v, float) and not v < 0 and v != math.inf for v in value)
    return _in_unit(value) if name.startswith(("val_", "test_")) else _is_number(value) and value >= 0


def _wrong_regrouping(record: Record) -> Iterator[str]:
    described, n_classes = record.regrouping, len(_class_names(record.spec))
    parent, counts = described.get("parent"), described.get("counts")
    if record.spec.kind == "look" and isinstance(parent, list):
        parent = sorted(parent)  # numbered in the order of the classes' names
    if not isinstance(parent, list) or parent != sorted(parent) or set(parent) != set(range(n_classes)):
        yield f"regrouping.parent is {str(parent)[:60]}; expected a class of {n_classes} for each pseudo-class"
    elif len(counts or ()) != len(parent) or not all(isinstance(n, int) and n > 0 for n in counts):
        yield f"regrouping.counts is {str(counts)[:60]}; expected {len(parent)} sizes"
    yield from _not_in_unit({k: described[k] for k in ("purity", "nmi", "ari") if k in described}, "regrouping")


# ---------------------------------------------------------------- arrays


def _wrong_arrays(record: Record, arrays: dict[str, np.ndarray]) -> Iterator[str]:
    expected = _expected_arrays(record, arrays)
    for name in sorted(set(expected) | set(arrays)):
        if name not in arrays or name not in expected:
            yield f"array {name} is missing" if name in expected else f"array {name} does not belong here"
            continue
        array, (kinds, *shape) = arrays[name], expected[name]
        fits = array.ndim == len(shape) and all(
            size == wanted or (wanted is None and size > 0) for size, wanted in zip(array.shape, shape, strict=True)
        )
        if array.dtype.kind not in kinds or not fits:
            wanted = " x ".join("any" if size is None else str(size) for size in shape)
            yield f"array {name} is {array.dtype} of shape {array.shape}; expected {wanted}"
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            yield f"array {name} has {int((~np.isfinite(array)).sum())} values that are NaN or infinite"
        elif "_scores_" in name and not _are_probabilities(array):
            yield f"array {name} holds no probabilities"


def _are_probabilities(scores: np.ndarray) -> bool:
    in_range = scores.min() >= 0 and scores.max() <= 1
    return in_range and (scores.ndim == 1 or bool(np.abs(scores.sum(axis=1) - 1).max() < 1e-4))


def _expected_arrays(record: Record, arrays: dict[str, np.ndarray]) -> dict[str, tuple]:
    """Return the kinds of dtype and the shape of each array that such a record has; a size of None is any but 0.

    Arrays that are there give the sizes that others share with them.
    """
    spec, images = record.spec, (None, None, None, None)
    n = {name: len(arrays.get(name, ())) for name in ("test_labels", "val_labels", "embedding_labels", "shown")}
    if spec.kind == "look":
        columns = len(record.metrics.get("columns", ()))
        pictures = {"centers": ("f", n["shown"], columns)} if spec.holds == "rows" else {}
        return {"shown": ("iu", None)} | (pictures or {"examples": ("u", n["shown"], *images)})
    if spec.kind == "encoder":
        return _embedding(n["embedding_labels"]) | _examples_of_encoder(record, arrays, images)
    expected: dict[str, tuple] = {"test_labels": ("u", None)}
    if spec.kind == "table":
        expected["folds"] = ("u", n["test_labels"])
    elif spec.split == "image":
        expected["test_in_training"] = ("b", n["test_labels"])
    if record.status != "finished":
        return expected
    parts = ["test"]
    if spec.kind == "training" and (spec.validation_fraction > 0 or n["val_labels"]):
        expected["val_labels"] = ("u", None)
        parts.append("val")
    n_classes = len(_class_names(spec))
    for part, rule in product(parts, _rules(record)):
        if n_classes > MANY_CLASSES:
            expected[f"{part}_predictions_{rule}"] = ("u", n[f"{part}_labels"])
        else:
            expected[f"{part}_scores_{rule}"] = ("f", n[f"{part}_labels"], *([n_classes] if n_classes > 2 else []))
    return expected | (_embedding(min(n["test_labels"], EMBEDDED_POINTS)) if getattr(spec, "embedding", False) else {})


def _embedding(n: int) -> dict[str, tuple]:
    return {"embedding": ("f", n, 2), "embedding_labels": ("u", n or None)}


def _examples_of_encoder(record: Record, arrays: dict[str, np.ndarray], images: tuple) -> dict[str, tuple]:
    n_shown, expected = len(record.regrouping.get("parent", ())), {}
    if record.spec.is_text:
        return {"example_rows": ("iu", n_shown, None)}
    if len(record.spec.class_names) > 2:
        expected["example_clusters"] = ("iu", None)
        n_shown = len(arrays.get("example_clusters", ()))
    expected["examples"] = ("u", n_shown, *images)
    if record.spec.encoder == "autoencoder":
        expected |= dict.fromkeys(("originals", "reconstructions"), ("u", *images))
        expected |= dict.fromkeys(("squared_errors", "squared_deviations"), ("f", None))
    return expected


def _class_names(spec: AnySpec) -> Sequence[str]:
    return ("negative", "positive") if spec.kind == "table" else spec.class_names


def _rules(record: Record) -> Sequence[str]:
    if record.spec.kind == "table":
        return table_methods.METHODS[record.spec.method].rules
    parent = record.regrouping["parent"]
    return ("none",) if len(parent) == max(parent) + 1 else ("max", "sum")


# ---------------------------------------------------------------- metrics


def _wrong_metrics(record: Record, arrays: dict[str, np.ndarray], report: Report) -> Iterator[str]:
    """Compare the metrics of a training run or a table with those that its scores or decisions give."""
    if record.status != "finished":
        return
    if record.spec.kind == "table" and (n_folds := len(np.unique(arrays["folds"]))) != table_methods.N_FOLDS:
        yield f"array folds has {n_folds} folds, and a run {table_methods.N_FOLDS}"
        return
    spec, names = record.spec, _class_names(record.spec)
    again: dict[str, Any] = {}
    for rule, part in product(_rules(record), ("val", "test")):
        if f"{part}_labels" not in arrays:
            continue
        stored, where = record.metrics.get(rule, {}).get(part, {}), f"metrics.{rule}.{part}"
        measured = _measured_again(spec, arrays, part, rule)
        shares = {measure: (stored | measured).get(measure, {}) for measure in MEASURES}  # of many classes as stored
        for measure, by_class in shares.items():
            if list(by_class) != list(names) or not all(map(_in_unit, by_class.values())):
                yield f"{where}.{measure} is not one share for each of the {len(names)} classes"
                return
        means = {m: s[names[1]] if len(names) == 2 else float(np.mean(list(s.values()))) for m, s in shares.items()}
        summary = {"balanced_accuracy": measured["balanced_accuracy"]} | means
        again.setdefault(rule, {})[part] = measured | {"summary": summary}
        yield from _not_in_unit({"neighbor_accuracy": stored.get("neighbor_accuracy", 0)}, where)
        if spec.kind == "training" and (part == "val" or spec.trace_test):
            yield from _wrong_last_trace(record, f"{part}_{rule}", stored.get("summary", {}))
    stored, found = _numbers(record.metrics), _numbers(again)
    report.recomputed[spec.kind] += sum(map(np.size, found.values()))
    report.kept[spec.kind] += len(stored.keys() - found.keys())
    if missing := sorted(found.keys() - stored.keys()):
        yield f"metrics.{missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else "")
    for name in sorted(found.keys() & stored.keys()):
        if not _agree(stored[name], found[name]):
            yield f"metrics.{name} is {stored[name]}, and the stored scores give {found[name]}"
    known = ("neighbor_accuracy", *(MEASURES if len(names) > MANY_CLASSES else ()))  # they may have no second
    for name in sorted(stored.keys() - found.keys()):
        if not set(name.split(".")) & set(known):
            yield f"metrics.{name} is {str(stored[name])[:60]}, which does not belong here"


def _measured_again(spec: Spec | TableSpec, arrays: dict[str, np.ndarray], part: str, rule: str) -> dict[str, Any]:
    labels, names = arrays[f"{part}_labels"].astype(np.int64), _class_names(spec)
    if len(names) > MANY_CLASSES:
        return measure_decisions(labels, arrays[f"{part}_predictions_{rule}"], names)
    scores = arrays[f"{part}_scores_{rule}"]
    return (
        measure_folds(labels, arrays["folds"], scores) if "folds" in arrays else measure_scores(labels, scores, names)
    )


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


def _wrong_last_trace(record: Record, name: str, summary: dict[str, float]) -> Iterator[str]:
    if record.spec.kind == "training" and record.spec.network in FROZEN_ESTIMATORS:
        return  # fitted at once, not in epochs that are measured
    last = record.traces[-1] if record.traces else {}
    for measure, value in summary.items():
        traced = last.get(f"{name}_{measure}")
        if not _agree(traced, value):
            yield f"its last trace has {name}_{measure} = {traced}, its metrics {value}"


def _wrong_encoder(record: Record, arrays: dict[str, np.ndarray], report: Report) -> Iterator[str]:
    """Check that the numbers of an encoder are possible; the features that would give them are not kept."""
    metrics = {name: value for name, value in record.metrics.items() if name != "contents"}
    report.kept["encoder"] += len(metrics)
    yield from _not_in_unit(metrics, "metrics")


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
        for name in ("stability", "silhouette"):
            if not (row[name] is None or math.isnan(row[name]) or _in_unit(row[name], low=-1)):
                yield f"metrics.diagnosis has a {name} of {row[name]}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _in_unit(value: Any, *, low: float = 0.0) -> bool:
    return _is_number(value) and low - TOLERANCE <= value <= 1 + TOLERANCE


def _not_in_unit(values: dict[str, Any], where: str) -> Iterator[str]:
    for name, value in values.items():
        if not _in_unit(value, low=-1 if name == "ari" else 0):
            yield f"{where}.{name} is {value}"


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


# ---------------------------------------------------------------- metrics, a second time


def measure_scores(labels: np.ndarray, scores: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return what `metrics.evaluate` returns, computed another way.

    Parameters
    ----------
    labels : ndarray of int64 [n]
    scores : ndarray of float [n, C], or [n] of the positive class
    names : sequence of str [C]
    """
    columns = _columns(scores)
    result = measure_decisions(labels, decide(columns), names)
    values = [_precisions(labels == c, columns[:, c], np.ones((1, len(labels)))) for c in range(len(names))]
    for measure, (found,) in zip(MEASURES, np.transpose(values, (1, 2, 0)), strict=True):
        result[measure] = dict(zip(names, found.tolist(), strict=True))
    counts = np.bincount(labels, minlength=len(names))
    result["intervals"]["average_precision"] = {
        name: precision_interval(result["average_precision"][name], int(count))
        for name, count in zip(names, counts, strict=True)
    }
    return result


def measure_decisions(labels: np.ndarray, decisions: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return the part of it that decisions int [n] determine."""
    counts = np.bincount(labels, minlength=len(names))
    recalls = np.bincount(labels[labels == decisions], minlength=len(names)) / counts
    return {
        "balanced_accuracy": float(recalls.mean()),
        "prevalence": dict(zip(names, (counts / len(labels)).tolist(), strict=True)),
        "intervals": {"balanced_accuracy": accuracy_interval(recalls, counts)},
    }


def measure_folds(labels: np.ndarray, folds: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return what `table_methods.measure_folds` returns, computed another way."""
    names = ("negative", "positive")
    columns = _columns(scores)
    result = measure_decisions(labels, decide(columns), names)
    del result["intervals"]
    # The first row is all folds together, the others one fold each.
    members = np.stack([np.ones(len(folds)), *(folds == fold for fold in np.unique(folds))])
    values = {name: _precisions(labels == c, columns[:, c], members) for c, name in enumerate(names)}
    for i, measure in enumerate(MEASURES):
        result[measure] = {name: float(found[i][1:].mean()) for name, found in values.items()}
    result["pooled_average_precision"] = float(values["positive"][0][0])
    result["average_precision_by_fold"] = values["positive"][0][1:].tolist()
    return result


def _columns(scores: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float64)
    return np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores


def _precisions(positive: np.ndarray, scores: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return plain and calibrated average precision, [2, m], among each of m choices of samples, [m, n]."""
    calibrated = np.where(
        positive,
        0.5 / (members * positive).sum(axis=1, keepdims=True),
        0.5 / (members * ~positive).sum(axis=1, keepdims=True),
    )
    weights = np.concatenate([members, members * calibrated])
    return weighted_average_precisions(positive, scores, weights).reshape(2, -1)
