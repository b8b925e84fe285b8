"""Whether records are what they claim to be: specs, keys, digests, arrays, and metrics computed again from scores.

Metrics are not computed by the code that made them: average precisions come from one sort a class
(`metrics.weighted_average_precisions`), recalls from counts.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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
from regroup_lib.runs.networks import MANY_CLASSES
from regroup_lib.runs.records import Record, load_record
from regroup_lib.runs.specs import EncoderSpec, Spec, TableSpec

TOLERANCE = 1e-9
MEASURES = ("average_precision", "calibrated_average_precision")
STATUSES = {
    "training": ("finished", "diverged"),
    "encoder": ("finished",),
    "look": ("finished",),
    "table": ("finished", "not applicable"),
}

# SHA-256 of each named data set as it is loaded: what a record's data_digest has to be. A set that is decoded from
# image files has one a size in pixels, and one a size for its split by image.
DATA_DIGESTS = {
    "digits": "ebecda1be494c8317af2fcb5cf3dd954ffb4935cb724195ac497b5239f0a5948",
    "descriptions": "0f5eee8d46969adf1b39e282fb41922b7e2da45e659cb3fc8aec562d98158e24",
    "cifar10": "082fcb77894e626a30c45cbf7763c809b1113cbfaa8100a9b73ddbeb151ecdb5",
    "cifar100": "dabd1564a43addd23a4ec5016a65e2064a6f60a51ce984cc1cd5ae9c263313a5",
    "phrasebank": "8a3ea4d36bc0d4ed57477d0f746d0f6c16ea028250e5e2c09cf50fbec3e3c1e0",
    "ham10000 64 px": "f5108543e01f89741e24091217f8829fcc6fcf59fbf1ff77921bf82dbaf22f75",
    "ham10000 64 px, split by image": "90c1575293fabec86bcc6b6fc2c6f2ef7e48284fd01d9d8c024552dd8cd0448a",
    "ham10000 224 px": "300d6491b0be67e47b73afac17ae1b506a3e9ae1e66818b5978fe7ae776a7109",
    "ham10000 224 px, split by image": "3dac7f3172bfc83712187e9d71d2c6ecc9cfc51cca9df002f5c7e442e7126af6",
}
# The same of tables, whose digest covers the labels of one class against the rest.
TABLE_DIGESTS = {
    "breast-cancer-malignant": "d81bda73507bbe9a3c4d841abc443996ae5431590fbbd21d781311824ec1de51",
    "breast-cancer-benign": "551a61308913416165b2d5fb45ed4b851941658ad4d2ed43e130687d76bd7907",
    "wine-0": "1754326c358b0c92cb0ff3776bb8a139f5864292f858ec0f996577ef9435e405",
    "wine-1": "896b1c6794f7cf9b04edd60135aba153874f60debcf3e2d500c8470b4174e344",
    "wine-2": "696dea190bb0b43106743448fc504de5d81f71c3a22efb60187fed5726fe2745",
    "iris-setosa": "d8c3b395e537862c9382dd02f4bf2ffef70a3a9528379af0ff1552ecbfc19f6c",
    "iris-versicolor": "fffd79a202830bcd7ad0d0646f928fc32dfc6fcd73a11e785c3410049cc6b7cd",
    "iris-virginica": "a11884c80a958e6b6cfd15f7b31edae77b547b00d8931d138ac5c61033663395",
    "digits-0": "f0bb28ce303d5af8e9a5f39c59e311e5f437f12de24b0a182697cc828907c74d",
    "digits-1": "115ed17790e6a648f23972d808a5fcf177bf44bf505c74d1ad78259a14530492",
    "digits-2": "205e58131609fce7959d49b64fcf066e2c0a55515ceee984189027cc5efc7b38",
    "digits-3": "d3858d9183cac5e998912be1ee23e3a9cfcaed2b2d92342a3917f9217413dd39",
    "digits-4": "781686e25c805c8a937a0d9d74c02904f53618933e9a3432fb70a733edf6b282",
    "digits-5": "a60b0e266e2f3528ff18c97bc644c068d05d186731267b944798e6be1cd8f393",
    "digits-6": "795d7a6c353b12467001afdc319666e816062c205b64e9155018abdfcf6a1a36",
    "digits-7": "4eb66b83ee24d57801f28812b0a336d194453212f7cc427fd1f452769635f67d",
    "digits-8": "31eb25d909a8618f8915231e0c3134ce25622f8e117e13160a4aae8a2eb68de4",
    "digits-9": "cd16dc3d1c556efa4c95e29d1c22e706b438b6e94f2dfc1ce49b9a0299d11d46",
    "diabetes-high": "4a12c42e6e7af75535dc3c3fbbe6c8ef7b11c6eb286845e50321bfe1e2055602",
    "ham10000-metadata-nv": "ba921df61fec285beea93e21897fd9f6da9c47e3d35e5900723ca22cd39142a4",
    "ham10000-metadata-mel": "938d0a88c2679d7779d6d4f50b4555d224af35d54e7c9535a2592cbe81e0cbe0",
    "ham10000-metadata-bkl": "c935badadb1df287a22cc8625a2e69bf89da9d0569e1d4232647745cf6a2fb87",
    "ham10000-metadata-bcc": "aaff56de4e88ac25d20bfd67b9d3fc0a0053016e4cf0f325b2fbc093e4b8fe83",
    "ham10000-metadata-akiec": "af4bdf930011ccd3990b84afe516820c76a97f41e7408b640cb387683c388e9e",
    "ham10000-metadata-vasc": "e77f629e32f36c0e14dcf5858dade87878e8ddc2955d96f8d5644c98d06466f4",
    "ham10000-metadata-df": "a4abce930c7b1fea973bec3f42f9798260acc9f795bfb51caf2dbce3e9b4e9c7",
}


def data_variant(spec: Spec | EncoderSpec | TableSpec) -> str:
    """Return the name in `DATA_DIGESTS` or `TABLE_DIGESTS` of the data that a spec is run on."""
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
    """What `check_results` found.

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
        """One line a kind of record."""
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
    Of each record: the file parses, has the digest that it was written with (older records have none), and lies where
    its spec says; the data's digest is that of the named data set; times and provenance are there; arrays are those
    that were written, no more and no fewer, finite and of the right shape; every metric that they determine equals the
    stored one to 1e-9; the last epoch's trace is the metric. Of records together: those on one test set have its
    labels in one order, and tables with one seed the same folds.

    An encoder's record keeps no features, and a record with more than 20 classes decisions and no scores: purity, NMI,
    ARI and neighbor accuracy, and the average precisions of many classes, are only checked for being possible.
    """
    root, report = results_directory(results_dir), Report()
    report.defects += _stray_files(root, profile)
    shared: dict[tuple, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    paths = record_paths(root, profile=profile)
    for path in progress_bar(iterable=paths, desc="check", unit="record"):
        try:
            record = load_record(path)
        except (ValueError, OSError) as error:
            report.defects.append(Defect(path, _one_line(error)))
            continue
        found = _Found(record)
        try:
            found.check(root)
        except Exception as error:  # a record of a shape that nobody thought of is a defect, not the end
            found.add(f"it cannot be checked ({type(error).__name__}: {_one_line(error)})")
        kind = record.spec.kind
        report.statuses[kind][record.status] += 1
        report.recomputed[kind] += found.recomputed
        report.kept[kind] += found.kept
        report.defects += [Defect(path, what) for what in found.defects]
        for name, digest in found.shared.items():
            shared[name][digest].append(path)
    report.defects += _disagreements(shared)
    report.defects.sort(key=lambda defect: str(defect.path))
    return report


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _stray_files(root: Path, profile: str | None) -> Iterator[Defect]:
    """Find arrays without a record."""
    for path in sorted(root.glob(f"{profile or '*'}/*/*.npz")):
        if not path.name.startswith(".") and not path.with_suffix(".json").exists():
            yield Defect(path, "arrays without a record")


def _disagreements(shared: dict[tuple, dict[str, list[Path]]]) -> Iterator[Defect]:
    """Find records whose labels or folds differ from those of most records that share them."""
    for (what, where, *_), by_digest in shared.items():
        _, *others = sorted(by_digest.values(), key=len, reverse=True)
        for path in (path for paths in others for path in paths):
            yield Defect(path, f"its {what} are not those of most records of {where}")


class _Found:
    """The check of one record, and what it has found so far."""

    def __init__(self, record: Record):
        self.record, self.spec = record, record.spec
        self.defects: list[str] = []
        self.recomputed = self.kept = 0
        self.shared: dict[tuple, str] = {}

    def add(self, what: str) -> None:
        self.defects.append(what)

    def check(self, root: Path) -> None:
        if self.record.path != self.spec.path(root):
            self.add(f"its spec belongs in {self.spec.path(root).relative_to(root)}")
        self._provenance()
        self._status()
        self._regrouping()
        try:
            arrays = self.record.arrays()
        except (ValueError, OSError) as error:
            self.add(_one_line(error))
            return
        if self._shapes(arrays):
            {"training": self._training, "encoder": self._encoder, "table": self._table, "look": self._look}[
                self.spec.kind
            ](arrays)
        self._remember(arrays)

    # ---- what needs no arrays

    def _provenance(self) -> None:
        record, variant = self.record, data_variant(self.spec)
        digests = TABLE_DIGESTS if self.spec.kind == "table" else DATA_DIGESTS
        # Of a user's own data the spec has the digest; nobody else knows one.
        known = digests.get(variant) if self.spec.own is None else self.spec.own.digest
        if known is None:
            self.add(f"no digest is known of {variant}")
        elif record.data_digest != known:
            self.add(f"its data_digest {record.data_digest[:12]!r} is not that of {variant}, {known[:12]!r}")
        for step, seconds in record.seconds.items():
            if not 0 <= seconds < math.inf:
                self.add(f"seconds.{step} is {seconds}")
        if not record.seconds and record.status != "not applicable":
            self.add("it has no seconds")
        if not re.fullmatch(r"\S+\+[0-9a-f]{12}", record.code):
            self.add(f"code is {record.code!r}, not VERSION+DIGEST")
        if not _is_time(record.created):
            self.add(f"created is {record.created!r}, not a time with its zone")
        for name, part, wanted in (
            ("machine", record.machine, ("cores", "threads")),
            ("versions", record.versions, ("python", "torch", "numpy", "scikit-learn")),
        ):
            if missing := [key for key in wanted if key not in part]:
                self.add(f"{name} lacks {', '.join(missing)}")

    def _status(self) -> None:
        record, kind = self.record, self.spec.kind
        if record.status not in STATUSES[kind]:
            self.add(f"status is {record.status!r}; of {kind} it is {' or '.join(STATUSES[kind])}")
        if (record.status == "finished") != bool(record.metrics):
            self.add(f"status is {record.status!r}, with {len(record.metrics)} metrics")
        if (record.status == "not applicable") != bool(record.reason):
            self.add(f"status is {record.status!r}, with the reason {record.reason!r}")
        if kind != "training":
            return
        epochs = [trace.get("epoch") for trace in record.traces]
        if epochs != list(range(1, len(epochs) + 1)) or len(epochs) > self.spec.epochs:
            self.add(f"its traces are of epochs {epochs}, and the spec has {self.spec.epochs}")
        elif record.status == "finished" and len(epochs) < self.spec.epochs:
            self.add(f"it is finished, with {len(epochs)} traces of {self.spec.epochs} epochs")
        losses = [trace.get("train_loss", math.nan) for trace in record.traces]
        sound = losses[:-1] if record.status == "diverged" else losses
        if not all(_is_number(loss) for loss in sound):
            self.add(f"train_loss is {losses}")
        if record.status == "diverged" and losses and _is_number(losses[-1]):
            self.add(f"it is diverged, and its last train_loss is {losses[-1]}")
        for trace in record.traces:
            wrong = [name for name, value in trace.items() if not _possible(name, value)]
            if wrong:
                self.add(f"its trace of epoch {trace.get('epoch')} has {wrong[0]} = {trace[wrong[0]]}")

    def _regrouping(self) -> None:
        described = self.record.regrouping
        if self.record.status == "not applicable":
            return
        parent, counts = described.get("parent"), described.get("counts")
        n_classes = 2 if self.spec.kind == "table" else len(self.spec.class_names)
        if self.spec.kind == "look" and isinstance(parent, list):
            parent = sorted(parent)  # numbered in the order of the classes' names
        if not _is_parent(parent, n_classes):
            self.add(f"regrouping.parent is {str(parent)[:60]}; expected a class of {n_classes} for each pseudo-class")
        elif len(counts or ()) != len(parent) or not all(isinstance(n, int) and n > 0 for n in counts):
            self.add(f"regrouping.counts is {str(counts)[:60]}; expected {len(parent)} sizes")
        for name in ("purity", "nmi", "ari"):
            if not _in_unit(described.get(name, 0), low=-1 if name == "ari" else 0):
                self.add(f"regrouping.{name} is {described[name]}")

    # ---- arrays

    def _shapes(self, arrays: dict[str, np.ndarray]) -> bool:
        """Check that the arrays are those of such a record, finite and of their shapes; return whether they are."""
        before = len(self.defects)
        expected = self._expected(arrays)
        for name in sorted(set(expected) ^ set(arrays)):
            self.add(f"array {name} is missing" if name in expected else f"array {name} does not belong here")
        for name in sorted(set(expected) & set(arrays)):
            array, (kind, shape) = arrays[name], expected[name]
            if array.dtype.kind not in kind or not _fits(array.shape, shape):
                wanted = " x ".join("any" if size is None else str(size) for size in shape)
                self.add(f"array {name} is {array.dtype} of shape {array.shape}; expected {wanted}")
            elif array.dtype.kind == "f" and not np.isfinite(array).all():
                self.add(f"array {name} has {int((~np.isfinite(array)).sum())} values that are NaN or infinite")
            elif "_scores_" in name and not _are_scores(array):
                self.add(f"array {name} holds no probabilities")
        return len(self.defects) == before

    def _expected(self, arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, tuple]]:
        """Return kind of dtype and shape of each array that such a record has; None: of any size."""
        if self.spec.kind == "encoder":
            return self._expected_of_encoder(arrays)
        if self.spec.kind == "look":
            return self._expected_of_look(arrays)
        n = {part: len(arrays.get(f"{part}_labels", ())) for part in ("test", "val")}
        expected: dict[str, tuple[str, tuple]] = {"test_labels": ("u", (None,))}
        if self.spec.kind == "table":
            expected["folds"] = ("u", (n["test"],))
        elif self.spec.split == "image":
            expected["test_in_training"] = ("b", (n["test"],))
        if self.record.status != "finished":
            return expected
        splits = ["test"]
        if self.spec.kind == "training" and (self.spec.validation_fraction > 0 or n["val"]):
            expected["val_labels"] = ("u", (None,))
            splits.append("val")
        n_classes = 2 if self.spec.kind == "table" else len(self.spec.class_names)
        for part in splits:
            for rule in self._rules():
                if n_classes > MANY_CLASSES:
                    expected[f"{part}_predictions_{rule}"] = ("u", (n[part],))
                else:
                    shape = (n[part],) if n_classes == 2 else (n[part], n_classes)
                    expected[f"{part}_scores_{rule}"] = ("f", shape)
        if getattr(self.spec, "embedding", False):
            expected |= _embedding(arrays, n["test"])
        return expected

    def _expected_of_encoder(self, arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, tuple]]:
        expected = _embedding(arrays, None)
        parent = self.record.regrouping.get("parent", ())
        if self.spec.is_text:
            return expected | {"example_rows": ("iu", (len(parent), None))}
        shown = len(parent)
        if len(self.spec.class_names) > 2:
            expected["example_clusters"] = ("iu", (None,))
            shown = len(arrays.get("example_clusters", ()))
        expected["examples"] = ("u", (shown, None, None, None, None))
        if self.spec.encoder == "autoencoder":
            expected |= dict.fromkeys(("originals", "reconstructions"), ("u", (None, None, None, None)))
            expected |= dict.fromkeys(("squared_errors", "squared_deviations"), ("f", (None,)))
        return expected

    def _expected_of_look(self, arrays: dict[str, np.ndarray]) -> dict[str, tuple[str, tuple]]:
        shown = len(arrays.get("shown", ()))
        if self.spec.holds == "rows":
            pictures = {"centers": ("f", (shown, len(self.record.metrics.get("columns", ()))))}
        else:
            pictures = {"examples": ("u", (shown, None, None, None, None))}
        return pictures | {"shown": ("iu", (None,))}

    def _rules(self) -> Sequence[str]:
        if self.spec.kind == "table":
            return table_methods.METHODS[self.spec.method].rules
        parent = self.record.regrouping["parent"]
        return ("none",) if len(parent) == max(parent) + 1 else ("max", "sum")

    # ---- metrics

    def _training(self, arrays: dict[str, np.ndarray]) -> None:
        names = self.spec.class_names
        splits = [part for part in ("val", "test") if f"{part}_labels" in arrays]
        expected: dict[str, Any] = {}
        for rule in self._rules() if self.record.status == "finished" else ():
            for part in splits:
                labels = arrays[f"{part}_labels"].astype(np.int64)
                if len(names) > MANY_CLASSES:
                    again = measure_decisions(labels, arrays[f"{part}_predictions_{rule}"], names)
                else:
                    again = measure_scores(labels, arrays[f"{part}_scores_{rule}"], names)
                expected.setdefault(rule, {})[part] = again
                self._summary(rule, part, names)
                self._last_trace(rule, part)
        self._compare(expected, self.record.metrics, "metrics")

    def _table(self, arrays: dict[str, np.ndarray]) -> None:
        if self.record.status != "finished":
            return
        labels, folds = arrays["test_labels"].astype(np.int64), arrays["folds"]
        if len(np.unique(folds)) != table_methods.N_FOLDS:
            self.add(f"array folds has {len(np.unique(folds))} folds, and a run {table_methods.N_FOLDS}")
            return
        again = {rule: {"test": measure_folds(labels, folds, arrays[f"test_scores_{rule}"])} for rule in self._rules()}
        self._compare(again, self.record.metrics, "metrics")
        for rule in self._rules():
            self._summary(rule, "test", ("negative", "positive"))

    def _encoder(self, arrays: dict[str, np.ndarray]) -> None:
        metrics = {name: value for name, value in self.record.metrics.items() if name != "contents"}
        for name, value in metrics.items():
            if not _in_unit(value, low=-1 if name == "ari" else 0):
                self.add(f"metrics.{name} is {value}")
        self.kept += len(metrics)

    def _look(self, arrays: dict[str, np.ndarray]) -> None:
        """Compare the clusters' sizes with the samples that were clustered; features are not kept."""
        metrics, counts = self.record.metrics, self.record.regrouping["counts"]
        rows = self.spec.holds == "rows"  # all rows are clustered, and of images those for training
        by_split = metrics.get("class_counts", {})
        samples = sum(sum(by_split[part].values()) for part in by_split if rows or part == "train")
        if sum(counts) != samples:
            self.add(f"regrouping.counts add up to {sum(counts)}, and {samples} samples were clustered")
        if (arrays["shown"] >= len(counts)).any():
            self.add(f"shown names cluster {arrays['shown'].max()} of {len(counts)}")
        for row in metrics.get("diagnosis", ()):
            for name in ("stability", "silhouette"):
                if not (row[name] is None or math.isnan(row[name]) or _in_unit(row[name], low=-1)):
                    self.add(f"metrics.diagnosis has a {name} of {row[name]}")
            self.kept += 2

    def _summary(self, rule: str, part: str, names: Sequence[str]) -> None:
        """Compare a summary with the metrics that it sums up."""
        result = self.record.metrics.get(rule, {}).get(part, {})
        expected = {"balanced_accuracy": result.get("balanced_accuracy")}
        for measure in MEASURES:
            values = result.get(measure, {})
            if list(values) != list(names) or not all(_in_unit(value) for value in values.values()):
                self.add(f"metrics.{rule}.{part}.{measure} is not one share for each of the {len(names)} classes")
                return
            expected[measure] = values[names[1]] if len(names) == 2 else float(np.mean(list(values.values())))
        self._compare(expected, result.get("summary"), f"metrics.{rule}.{part}.summary")

    def _last_trace(self, rule: str, part: str) -> None:
        """Compare the trace of the last epoch with the metrics after it."""
        last = self.record.traces[-1] if self.record.traces else {}
        if part == "test" and not self.spec.trace_test:
            return
        for name, value in self.record.metrics.get(rule, {}).get(part, {}).get("summary", {}).items():
            traced = last.get(f"{part}_{rule}_{name}")
            if not _is_number(traced) or abs(traced - value) > TOLERANCE:
                self.add(f"its last trace has {part}_{rule}_{name} = {traced}, its metrics {value}")

    def _compare(self, expected: Any, stored: Any, where: str) -> None:
        """Compare what was computed again with what is stored, number by number."""
        if isinstance(expected, dict):
            if not isinstance(stored, dict):
                self.add(f"{where} is {stored!r}; expected a mapping")
                return
            for name in sorted(set(expected) - set(stored)):
                self.add(f"{where}.{name} is missing")
            for name in sorted(set(stored) - set(expected)):
                self._keep(f"{where}.{name}", name, stored[name])
            for name in sorted(set(stored) & set(expected)):
                self._compare(expected[name], stored[name], f"{where}.{name}")
        elif isinstance(expected, list):
            if not isinstance(stored, list) or len(stored) != len(expected):
                self.add(f"{where} is {stored!r}; expected {len(expected)} numbers")
                return
            for i, (one, other) in enumerate(zip(expected, stored, strict=True)):
                self._compare(one, other, f"{where}.{i}")
        else:
            self.recomputed += 1
            if not _is_number(stored) or abs(stored - expected) > TOLERANCE:
                self.add(f"{where} is {stored}, and the stored scores give {expected}")

    def _keep(self, where: str, name: str, value: Any) -> None:
        """Look at a number that no array determines."""
        many = self.spec.kind == "training" and len(self.spec.class_names) > MANY_CLASSES
        known = {"neighbor_accuracy", "summary"} | (set(MEASURES) if many else set())
        if name not in known or (isinstance(value, float) and not _in_unit(value)):
            self.add(f"{where} is {str(value)[:60]}, which does not belong here")
        elif name != "summary":
            self.kept += len(value) if isinstance(value, dict) else 1

    def _remember(self, arrays: dict[str, np.ndarray]) -> None:
        """Note what other records have to have in common with this one."""
        variant = data_variant(self.spec)
        if "test_labels" in arrays:
            self.shared["test labels", self.spec.task, variant] = digest_arrays(arrays["test_labels"])
        if "embedding_labels" in arrays:
            self.shared["embedding labels", self.spec.task, variant] = digest_arrays(arrays["embedding_labels"])
        if "folds" in arrays:
            seed = f"{variant}, seed {self.spec.seed}"
            self.shared["folds", seed] = digest_arrays(arrays["folds"])


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
    """Return what `tables.measure_folds` returns, computed another way."""
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


# ---------------------------------------------------------------- what is possible


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _in_unit(value: Any, *, low: float = 0.0) -> bool:
    return _is_number(value) and low - TOLERANCE <= value <= 1 + TOLERANCE


def _possible(name: str, value: Any) -> bool:
    """Return whether a trace can have such a value."""
    if name == "train_loss":  # looked at before
        return True
    if name.startswith("variation"):
        # A class that no sampled image belongs to has none.
        return isinstance(value, list) and all(isinstance(v, float) and not v < 0 and v != math.inf for v in value)
    if name.startswith(("val_", "test_")):
        return _in_unit(value)
    return _is_number(value) and value >= 0


def _is_parent(parent: Any, n_classes: int) -> bool:
    """Return whether it is the class of each pseudo-class: all classes, in order."""
    if not isinstance(parent, list) or not all(isinstance(c, int) and 0 <= c < n_classes for c in parent):
        return False
    return sorted(set(parent)) == list(range(n_classes)) and parent == sorted(parent)


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _fits(shape: Iterable[int], expected: tuple) -> bool:
    shape = tuple(shape)
    return len(shape) == len(expected) and all(
        size == wanted or (wanted is None and size > 0) for size, wanted in zip(shape, expected, strict=True)
    )


def _are_scores(scores: np.ndarray) -> bool:
    if scores.min() < 0 or scores.max() > 1:
        return False
    return scores.ndim == 1 or bool(np.abs(scores.sum(axis=1) - 1).max() < 1e-4)


def _embedding(arrays: dict[str, np.ndarray], n_test: int | None) -> dict[str, tuple[str, tuple]]:
    n = len(arrays.get("embedding_labels", ())) if n_test is None else min(n_test, EMBEDDED_POINTS)
    return {"embedding": ("f", (n, 2)), "embedding_labels": ("u", (n or None,))}
