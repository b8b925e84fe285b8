"""Records of runs: numbers in a JSON file, and arrays in an npz file beside it.

Reading a record executes no code and checks its digest; writing replaces both files at once.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

import regroup_lib
from regroup_lib.data.dataset import kept_until_changed
from regroup_lib.files import (
    atomic_path,
    check_regular,
    digest_file,
    read_npz,
    record_paths,
    results_directory,
    room_for,
    save_arrays,
)
from regroup_lib.metrics import bootstrap_counts, weighted_average_precisions
from regroup_lib.nn.checkpoints import remove_checkpoint
from regroup_lib.nn.training import cpu_multiplies_bf16
from regroup_lib.runs import NOT_AGGREGATED
from regroup_lib.runs.specs import AnySpec, EncoderSpec, LookSpec, Spec, TableSpec, describe_defects, parse_spec

RECORD_FORMAT = 1
# Limits of a record's two files, in bytes; the largest today have 0.1 and 1.5 million.
MAX_RECORD, MAX_ARRAYS = 2 * 10**7, 10**9
AVERAGE_PRECISION = "average_precision"
BALANCED_ACCURACY = "balanced_accuracy"
PAPER_RULE = "max"  # Section 4.1 of the paper: max aggregation
N_RESAMPLES = 1000  # the relative error of a variance is 4.5%; with 250 and 9%, one verdict was that of the draw


def _code_version() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(regroup_lib.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{importlib.metadata.version('regroup_lib')}+{digest.hexdigest()[:12]}"


def _time_with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} is no time with its zone")
    return text


# The package's version and a digest of its source as imported, which every record carries.
CODE_VERSION = _code_version()


@dataclass
class Record:
    """The result of a run: numbers in JSON, arrays in an npz file beside it.

    Attributes
    ----------
    spec : Spec, EncoderSpec, TableSpec or LookSpec
    status : str
    metrics : dict
        Training: ``metrics[rule][split]`` is a result of `evaluate`, with the rules ``"max"`` and ``"sum"``, or
        ``"none"`` if nothing is aggregated. Table: the same of `table_methods.measure_folds`, with the out-of-fold
        scores as split ``"test"``. Encoder: clustering quality. Look: ``class_counts`` by split, ``notes``, and the
        ``diagnosis`` of the large class (see `diagnose`), empty where nothing is divided.
    traces : list of dict
        One for each epoch.
    regrouping : dict
        Class of each pseudo-class and its size. Table: see `tables.OutOfFold`.
    seconds : dict
        Time of each step.
    machine, versions, data_digest, code, created
        Provenance.
    arrays_digest : str
        SHA-256 of the npz file.
    reason : str
        Why a method is not applicable.
    """

    spec: Spec | EncoderSpec | TableSpec | LookSpec
    status: Literal["finished", "diverged", "not applicable"]
    metrics: dict[str, Any]
    seconds: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    data_digest: str
    traces: list[dict[str, Any]] = field(default_factory=list)
    regrouping: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    code: Annotated[str, Field(pattern=r"^\S+\+[0-9a-f]{12}$")] = ""
    created: Annotated[str, AfterValidator(_time_with_zone)] = ""
    arrays_digest: str = ""
    reason: str = ""
    path: Path | None = None

    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def key(self) -> str:
        """The spec's key."""
        return self.spec.key

    @property
    def rules(self) -> list[str]:
        """The aggregation rules that were measured."""
        return list(self.metrics)

    @property
    def own_seconds(self) -> float:
        """The seconds of all steps but encoding, which is done once for all runs."""
        return sum(value for step, value in self.seconds.items() if step != "encode")

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the npz file beside the record; they are read once and cannot be written to.

        Raises
        ------
        ValueError
            If it is missing or is not the one that the record was written with.
        """
        path = self.path.with_suffix(".npz")
        try:
            return dict(_verified_arrays(path, self.arrays_digest))
        except (ValueError, OSError) as error:
            what = f"{path} is missing or damaged ({error}); delete {self.path} and run its spec again"
            raise ValueError(what) from error


@kept_until_changed(lambda path, digest: [path], maxsize=128)
def _verified_arrays(path: Path, digest: str) -> dict[str, np.ndarray]:
    check_regular(path, at_most=MAX_ARRAYS)
    if digest_file(path) != digest:
        raise ValueError("its digest is not the one in the record")
    arrays = read_npz(path)
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


_RECORD = TypeAdapter(Record)


def load_record(path: str | Path) -> Record:
    """Read a record; a file that is damaged, or whose spec does not have the key in its name, raises a ValueError."""
    path = Path(path)
    try:
        check_regular(path, at_most=MAX_RECORD)
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.pop("format", None) != RECORD_FORMAT:
            raise ValueError(f"its format is not {RECORD_FORMAT}")
        digest = values.pop("digest", None)  # older records have none
        if digest is not None and digest != _digest_of_values(values):
            raise ValueError("its digest differs from the one that was written")
        key, spec = values.pop("key"), parse_spec(values.pop("spec"))
        if key != spec.key or not path.stem.endswith(f"-{key}"):
            raise ValueError(f"its spec has key {spec.key}, not the one it is filed under")
        return _RECORD.validate_python(values | {"spec": spec, "path": path})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = describe_defects(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"the record {path} is damaged ({what}); delete it and run its spec again") from error


def _digest_of_values(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_records(results_dir: str | Path | None = None, *, profile: str | None = None) -> list[Record]:
    """Read every record of a results directory, or of one profile in it, in order of their files."""
    return [load_record(path) for path in record_paths(results_dir, profile=profile)]


def find_record(spec: AnySpec, results_dir: str | Path | None = None) -> Record | None:
    """Return the record of a spec, or None where there is none."""
    path = spec.path(results_dir)
    return load_record(path) if path.exists() else None


def is_whole(path: Path) -> bool:
    """Return whether there is a record with its own arrays, not those of an interrupted replacement."""
    arrays = path.with_suffix(".npz")
    return path.exists() and arrays.exists() and digest_file(arrays) == load_record(path).arrays_digest


def checkpoint_path(spec: AnySpec, results_dir: str | Path | None = None) -> Path:
    """Return the path of the checkpoint of a spec's training, which exists until the record is written."""
    return results_directory(results_dir) / ".checkpoints" / f"{spec.key}.pt"


def remove_leftovers(path: Path, checkpoint: Path) -> None:
    """Remove the checkpoint of a finished record, and the partial files of a killed process."""
    for file in (path, path.with_suffix(".npz")):
        for partial in file.parent.glob(f".{file.name}.*"):
            partial.unlink(missing_ok=True)
    remove_checkpoint(checkpoint)


def write_record(record: Record, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write the arrays and the JSON file, then replace older ones, the JSON file last."""
    record.machine, record.versions, record.code = _machine(), _versions(record.spec), CODE_VERSION
    record.created = datetime.now(UTC).isoformat(timespec="seconds")
    with atomic_path(path) as partial, atomic_path(path.with_suffix(".npz")) as partial_arrays:
        save_arrays(partial_arrays, arrays, compress=True)
        record.arrays_digest = digest_file(partial_arrays)
        with room_for(path):
            partial.write_text(_record_text(record), encoding="utf-8")
    record.path = path


def _record_text(record: Record) -> str:
    values = asdict(record)
    del values["path"]
    values["spec"] = record.spec.model_dump(mode="json")
    # In the form that is read from the file: pairs as lists, keys as text.
    values = json.loads(json.dumps({"key": record.key} | values))
    return json.dumps({"format": RECORD_FORMAT} | values | {"digest": _digest_of_values(values)}, indent=1) + "\n"


def _machine() -> dict[str, Any]:
    """Return the kind of machine, without anything that identifies it."""
    machine: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "native_bf16": cpu_multiplies_bf16(),
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def _versions(spec: AnySpec) -> dict[str, str]:
    names = ["torch", "scikit-learn", "imbalanced-learn", "numpy", "onnxruntime"]
    if "minilm" in (spec.encoder, getattr(spec, "network", None)):
        names += ["sentence-transformers", "transformers"]  # packages of the extra `text`
    found = {"python": platform.python_version()}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):  # an extra that this run does not need
            found[name] = importlib.metadata.version(name)
    return found


def machine_class(record: Record) -> str:
    """Return the kind of machine that made a record: ``"2 cores x86_64"``, and the GPU where there was one."""
    machine = record.machine
    return f"{machine['cores']} cores {machine['architecture']}" + (f", {machine['gpu']}" if "gpu" in machine else "")


def rule_of(record: Record, rule: str = PAPER_RULE) -> str:
    """Return the aggregation rule to read: `rule`, or `NOT_AGGREGATED` where nothing was aggregated."""
    return NOT_AGGREGATED if NOT_AGGREGATED in record.metrics else rule


def result_on_test(record: Record, measure: str, rule: str = PAPER_RULE, *, split: str = "test") -> float:
    """Return one number of a record's test set, or of another split; NaN where the run diverged."""
    if record.status != "finished":
        return math.nan
    return record.metrics[rule_of(record, rule)][split]["summary"][measure]


def resampled_on_validation(record: Record, rule: str = PAPER_RULE) -> np.ndarray:
    """Return AP [N_RESAMPLES], the mean over classes of a multiclass task, in resamples of the validation split.

    The first is that of the split itself, see `bootstrap_counts`.
    """
    arrays = record.arrays()
    labels, scores = arrays["val_labels"], arrays[f"val_scores_{rule_of(record, rule)}"]
    columns = {1: scores} if scores.ndim == 1 else dict(enumerate(scores.T))
    counts = bootstrap_counts(labels, N_RESAMPLES)
    return np.mean([weighted_average_precisions(labels == c, of, counts) for c, of in columns.items()], axis=0)


def validation_precision(record: Record, rule: str = PAPER_RULE) -> float:
    """Return a record's average precision on the validation split; minus infinity where the run diverged."""
    found = result_on_test(record, AVERAGE_PRECISION, rule, split="val")
    return -math.inf if math.isnan(found) else found
