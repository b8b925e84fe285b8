"""A validated spec, its key, and the record on disk that a run of it leaves.

A spec says all that decides a number. Its key is a digest of what it says, and names the record; `run` returns the
record where there is one and makes it where there is none. `sweeps.sweep` does that for many specs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError, model_validator
from sklearn.manifold import TSNE
from sklearn.metrics.cluster import contingency_matrix
from sklearn.model_selection import train_test_split

from regroup_lib import tables
from regroup_lib.clusterers import CLUSTERERS
from regroup_lib.clusters import describe_clusters, nearest_to_center
from regroup_lib.data import DATASETS, SOURCES, class_names_of, holds_text, load_data, split_by_image
from regroup_lib.dataset import SPLITS, DataError, Dataset
from regroup_lib.deepsmote import deep_smote
from regroup_lib.diagnostics import diagnose
from regroup_lib.encoders import (
    AutoencoderEncoder,
    Features,
    check_encoder_name,
    check_encoder_takes,
    encode,
    make_encoder,
)
from regroup_lib.files import atomic_path, digest_file, read_npz, results_directory, room_for, save_arrays
from regroup_lib.methods import METHODS, TrainingLabels, make_loss, make_sampler, training_labels
from regroup_lib.metrics import cluster_contents, clustering_quality, evaluate, neighbor_accuracy, total_variation
from regroup_lib.models import NETWORKS, TOKENIZERS, build_network
from regroup_lib.regroup import Regrouping, aggregate
from regroup_lib.samplers import Sampler
from regroup_lib.tasks import LONG_TAIL, Task, make_task, parse_task
from regroup_lib.training import (
    History,
    Resident,
    ResidentFeatures,
    ResidentImages,
    ResidentTokens,
    TrainingOptions,
    cpu_multiplies_bf16,
    predict,
    softmax,
    train,
)

RECORD_FORMAT = 1


def _code_version() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return f"{importlib.metadata.version('regroup_lib')}+{digest.hexdigest()[:12]}"


# The package's version and a digest of its source as imported, which every record carries.
CODE_VERSION = _code_version()

PROFILES: dict[str, dict[str, Any]] = {
    # The embedded digits: seconds a run, for a first look and for continuous integration.
    "smoke": {
        "network": "tiny-resnet",
        "epochs": 6,
        "batch_size": 64,
        "peak_lr": 0.1,
        "flip": False,  # a mirrored 2 is no 2
        "shift": 1,
        "encoder_epochs": 10,
    },
    # The paper's data sets, complete, in minutes on two cores.
    "cpu": {
        "network": "small-resnet",
        "epochs": 8,
        "batch_size": 256,
        "peak_lr": 0.2,
        "flip": True,
        "shift": 3,
        "encoder_epochs": 12,
    },
    # The paper's network; needs a GPU.
    "paper": {
        "network": "resnet34",
        "epochs": 100,
        "batch_size": 256,
        "peak_lr": 0.2,
        "flip": True,
        "shift": 4,
        "encoder_epochs": 50,
    },
}
# Sentences have no mirror image.
TEXT = {"optimizer": "adam", "flip": False, "shift": 0}
FEW_SENTENCES = TEXT | {"network": "tiny-text-cnn", "epochs": 20, "batch_size": 16, "peak_lr": 1e-2}
# Validation AP of phrasebank-negative, seed 0. CE: 0.58 at 2e-3, 0.63 at 5e-3, 0.62 at this rate. RG, which has more
# to learn: 0.55 at 5e-3, 0.58 at this rate; with 10 epochs at 5e-3 0.46.
CONVOLUTIONS = {"epochs": 15, "batch_size": 64, "peak_lr": 1e-2, "weight_decay": 0.01}
FINE_TUNING = {"epochs": 3, "batch_size": 32, "peak_lr": 5e-5, "weight_decay": 0.01}
# What differs from that for a data set, ...
DATASET_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {
        "descriptions": FEW_SENTENCES,
        "phrasebank": TEXT | CONVOLUTIONS | {"network": "text-cnn", "epochs": 2},
    },
    "cpu": {
        "descriptions": FEW_SENTENCES,
        "phrasebank": TEXT | CONVOLUTIONS | {"network": "text-cnn"},
        # With 450 positives, 12 epochs of the slim network reach a higher validation AP than 5 of the small one,
        # in the same time.
        "cifar100": {"network": "slim-resnet", "epochs": 12},
        "ham10000": {
            "network": "slim-resnet-64",
            "image_size": 64,
            "epochs": 30,
            "batch_size": 128,
            "peak_lr": 0.1,
            "shift": 6,
        },
    },
    "paper": {
        "descriptions": FEW_SENTENCES,
        "phrasebank": TEXT | FINE_TUNING | {"network": "minilm"},
        "ham10000": {"image_size": 224},
    },
}
# ... for a network that is not the profile's, ...
NETWORK_SETTINGS: dict[str, dict[str, Any]] = {"text-cnn": CONVOLUTIONS, "minilm": FINE_TUNING}
# ... and for a method that brings a network of its own.
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "mlp": {"network": "mlp", "epochs": 20, "optimizer": "adam", "peak_lr": 1e-3, "flip": False, "shift": 0},
}
Profile = Literal["smoke", "cpu", "paper"]
TRAINED_ENCODERS = ("autoencoder", "simclr")
EMBEDDED_POINTS = 2500  # test samples in a t-SNE plot
EXAMPLES = 6  # training samples nearest to a pseudo-class's centre that an encoder's record names
MANY_CLASSES = 20  # beyond it a record keeps decisions and each class's AP in the place of all scores
SHOWN_CLUSTERS = 12  # of the largest class: those whose images a record keeps where it does not keep all
OWN = "own-"  # and a name: the task of a spec that is about the user's own data


def default_settings(profile: str, task: str | None, method: str | None, network: str | None = None) -> dict[str, Any]:
    """Return the settings of a profile, a task's data set, a network that was named and a method; later ones win."""
    dataset = next((name for name in DATASETS if task == name or str(task).startswith(f"{name}-")), "")
    specific = DATASET_SETTINGS.get(profile, {}).get(dataset, {})
    named = NETWORK_SETTINGS.get(str(network), {})
    return PROFILES.get(profile, {}) | specific | named | METHOD_SETTINGS.get(str(method), {})


def task_class_names(task: str) -> tuple[str, ...]:
    """Return the names of a task's classes, without loading its data."""
    dataset, positive = parse_task(task)
    multiclass = positive in (None, LONG_TAIL)
    return class_names_of(dataset) if multiclass else (f"not {positive}", str(positive))


class OwnData(BaseModel):
    """A data set of the user's own, and the class of it that is held against the rest.

    Digest and class names say which data set it is, and are part of a spec's key. Where it lies on this machine is
    not, and does not enter a record: a record is found where the data are not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str = Field(pattern="^[0-9a-f]{64}$")
    classes: tuple[str, ...] = Field(min_length=2)
    positive: str
    path: str | None = Field(None, exclude=True)
    label: str | None = Field(None, exclude=True)  # these two: see `load_data`
    allow_missing: bool = Field(False, exclude=True)

    @model_validator(mode="after")
    def _class_exists(self) -> OwnData:
        if self.positive not in self.classes:
            raise ValueError(f"there is no class {self.positive!r}; there are {', '.join(self.classes)}")
        return self

    def load(self, *, data_dir: str | Path | None = None, image_size: int | None = None) -> Dataset:
        """Load the data set from where it lies.

        Raises
        ------
        DataError
            If no path is known: the spec was read from a record.
        """
        if self.path is None:
            raise DataError(f"the data set with digest {self.digest[:12]} has no path here; name it to `compare` again")
        options = {"label": self.label, "image_size": image_size, "allow_missing": self.allow_missing}
        return load_data(self.path, data_dir=data_dir, **options)

    def verified(self, *, data_dir: str | Path | None = None, image_size: int | None = None) -> Dataset:
        """Load the data set, and refuse one that has changed since the spec was made."""
        dataset = self.load(data_dir=data_dir, image_size=image_size)
        if dataset.digest != self.digest:
            raise DataError(
                f"{self.path} has digest {dataset.digest[:12]}, expected {self.digest[:12]}; it has changed, or it is "
                "read with other options"
            )
        return dataset


class _BaseSpec(BaseModel):
    """What all kinds of spec share: the profile's settings, the task's name, the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Profile = "cpu"
    task: str
    own: OwnData | None = None  # in place of a named data set
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="before")
    @classmethod
    def _profile_settings(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        chosen = [values.get(name) for name in ("task", "method", "network")]
        if values.get("own") is not None:
            chosen[0] = None  # whatever the user's file is called
        settings = default_settings(values.get("profile", "cpu"), *chosen)
        settings = {name: value for name, value in settings.items() if name in cls.model_fields}
        if values.get("encoder") not in TRAINED_ENCODERS:
            settings.pop("encoder_epochs", None)
        return settings | values

    @model_validator(mode="after")
    def _names_exist(self) -> _BaseSpec:
        if self._is_own():
            if self.encoder is not None:
                check_encoder_name(self.encoder)
                check_encoder_takes(self.encoder, text=False, data=self.task)
            return self
        dataset, positive = parse_task(self.task)
        names = class_names_of(dataset)
        if positive not in (None, LONG_TAIL, *names):
            raise ValueError(f"task {self.task!r}: {dataset} has no class {positive!r}; it has {', '.join(names)}")
        if self.encoder is not None:
            check_encoder_name(self.encoder)
            check_encoder_takes(self.encoder, text=self.is_text, data=dataset)
        return self

    def _is_own(self) -> bool:
        """Tell whether the spec is about the user's own data; its name and its data must say the same."""
        if (self.own is not None) != self.task.startswith(OWN):
            raise ValueError(f"task {self.task!r}: a task on own data is called {OWN}..., and has `own`")
        return self.own is not None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the task's classes, without loading its data."""
        return task_class_names(self.task) if self.own is None else (f"not {self.own.positive}", self.own.positive)

    @property
    def is_text(self) -> bool:
        """Whether the task is one of sentences."""
        return self.own is None and holds_text(parse_task(self.task)[0])

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name the record.

        Fields at their default do not enter, so a field that a later version adds leaves old keys alone.
        """
        said = {"kind": self.kind} | self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def path(self, results_dir: str | Path | None = None) -> Path:
        """Return where the record lies."""
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{self.label}-s{self.seed}-{self.key}")
        return results_directory(results_dir) / self.profile / self.task / f"{name}.json"


def _cluster_numbers(value: Any) -> Any:
    """Check numbers of clusters; a mapping becomes sorted pairs, as a spec must be hashable."""

    def number(entry: Any) -> bool:
        return isinstance(entry, int) and not isinstance(entry, bool) and entry >= 1

    if value is None or number(value):
        return value
    pairs = value.items() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    pairs = tuple(sorted((tuple(pair) for pair in pairs if isinstance(pair, list | tuple)), key=str))
    if not pairs or not all(len(p) == 2 and isinstance(p[0], str) and number(p[1]) for p in pairs):
        raise ValueError(f"expected a whole number of at least 1, or one for each of some classes; got {value!r}")
    return pairs


# An int for all large classes, or pairs of a class's name and its number; a mapping in a YAML file or in Python.
ClusterNumbers = Annotated[Any, PlainValidator(_cluster_numbers)]


class Spec(_BaseSpec):
    """One training run.

    Parameters left out take the profile's value (`PROFILES`). Unknown fields are refused.
    """

    kind: Literal["training"] = "training"
    method: str
    encoder: str | None = None  # the space that is clustered; only for methods that regroup by meaning
    clusterer: str = "kmeans"
    threshold: float | None = Field(None, gt=0)
    n_clusters: ClusterNumbers = None  # of each large class, or of classes by name
    gamma: float | None = Field(None, ge=0, allow_inf_nan=False)  # of focal loss
    tau: float | None = Field(None, ge=0, allow_inf_nan=False)  # of logit adjustment
    max_margin: float | None = Field(None, gt=0, allow_inf_nan=False)  # of LDAM
    deferred: bool = False  # LDAM's deferred reweighting
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    imbalance: float | None = Field(None, gt=0, allow_inf_nan=False)  # negatives a positive in training, see make_task
    network: str
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    optimizer: Literal["sgd", "adam"] = "sgd"
    peak_lr: float = Field(gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    flip: bool
    shift: int = Field(ge=0)
    image_size: int | None = Field(None, ge=8)  # of images that are decoded from files
    split: Literal["published", "image"] = "published"  # "image": groups of images may lie in several splits
    encoder_epochs: int | None = Field(None, ge=1)  # of an encoder that is trained here
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    variation_samples: int = Field(0, ge=0)  # training images in the total variation a class; 0: not traced
    embedding: bool = False  # keep a t-SNE plot of the test features
    trace_test: bool = True  # measure the test set after each epoch, not only after the last

    @model_validator(mode="after")
    def _parts_exist(self) -> Spec:
        for name, known in (("method", METHODS), ("network", NETWORKS), ("clusterer", CLUSTERERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"no {name} is called {getattr(self, name)!r}; there are {', '.join(known)}")
        method = METHODS[self.method]
        if method.needs_encoder and self.encoder is None:
            raise ValueError(f"method {self.method!r} needs an encoder")
        if not method.needs_encoder and self.encoder is not None:
            raise ValueError(f"method {self.method!r} uses no encoder; leave it out")
        known = {*method.options, *method.cluster_options}
        for name in ("gamma", "tau", "max_margin", "deferred", "clusterer", "threshold", "n_clusters"):
            if name not in known and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"method {self.method!r} has no option {name}; it has {', '.join(known) or 'none'}")
        if isinstance(self.n_clusters, tuple):
            if method.sampler == "rusc" or method.labels == "true":
                raise ValueError(f"method {self.method!r} takes one number as n_clusters, not one by class")
            unknown = [name for name, _ in self.n_clusters if name not in self.class_names]
            if unknown:
                raise ValueError(f"n_clusters names {unknown}; the classes are {', '.join(self.class_names)}")
        if (self.network == "mlp") != method.features:
            raise ValueError(f"method {self.method!r} does not go with network {self.network!r}")
        return self

    @model_validator(mode="after")
    def _fits_the_data(self) -> Spec:
        method, kind = METHODS[self.method], "text" if self.is_text else "images"
        if not method.features and (self.network in TOKENIZERS) != self.is_text:
            fitting = [name for name in NETWORKS if name != "mlp" and (name in TOKENIZERS) == self.is_text]
            raise ValueError(f"network {self.network!r} does not read {kind}; there are {', '.join(fitting)}")
        if self.is_text and (method.sampler == "dsmt" or self.flip or self.shift or self.image_size):
            what = f"method {self.method!r}" if method.sampler == "dsmt" else "an option among flip, shift, image_size"
            raise ValueError(f"{what} needs images, and task {self.task!r} is one of text")
        if self.imbalance is not None and self.own is None and parse_task(self.task)[1] is None:
            raise ValueError(f"imbalance is for a class against the rest, and task {self.task!r} has all classes")
        return self

    @property
    def label(self) -> str:
        """Method and encoder, for files and messages."""
        return self.method if self.encoder is None else f"{self.method}-{self.encoder}"


class EncoderSpec(_BaseSpec):
    """One look at an encoder: how well its space clusters the large class of a task."""

    kind: Literal["encoder"] = "encoder"
    encoder: str
    clusterer: str = "kmeans"
    threshold: float | None = Field(None, gt=0)
    image_size: int | None = Field(None, ge=8)  # of images that are decoded from files
    encoder_epochs: int | None = Field(None, ge=1)  # of an encoder that is trained here

    @property
    def label(self) -> str:
        """Encoder, for files and messages."""
        return f"encoder-{self.encoder}"


class TableSpec(_BaseSpec):
    """One classifier on a table, cross-validated: see `tables.out_of_fold`."""

    kind: Literal["table"] = "table"
    method: str
    estimator: str
    imbalance: float | None = Field(None, gt=0, allow_inf_nan=False)  # negatives a positive in the training folds
    n_folds: int = Field(5, ge=2, le=255)
    clusterer: str | None = None  # None: the method's own
    n_clusters: int | None = Field(None, ge=1)  # of the majority; None: as the method says
    threshold: float | None = Field(None, gt=0)
    encoder: str | None = None  # None: the columns are clustered

    @model_validator(mode="after")
    def _names_exist(self) -> TableSpec:
        if not self._is_own():
            tables.parse_table_task(self.task)
        parts = [("method", tables.METHODS), ("estimator", tables.ESTIMATORS), ("clusterer", (None, *CLUSTERERS))]
        parts += [("encoder", (None, *tables.ENCODERS))]
        for name, known in parts:
            if getattr(self, name) not in known:
                there = ", ".join(filter(None, known))
                raise ValueError(f"no {name} is called {getattr(self, name)!r}; there are {there}")
        method = tables.METHODS[self.method]
        if self.estimator not in method.estimators:
            raise ValueError(f"method {self.method!r} goes with {', '.join(method.estimators)}")
        for name in ("clusterer", "n_clusters", "threshold", "encoder"):
            if method.clusterer is None and getattr(self, name) is not None:
                raise ValueError(f"method {self.method!r} does not regroup; leave {name} out")
        return self

    @property
    def label(self) -> str:
        """Estimator, method and imbalance, for files and messages."""
        rare = "" if self.imbalance is None else f"-1to{self.imbalance:g}"
        return f"table-{self.estimator}-{self.method}{rare}"


class LookSpec(_BaseSpec):
    """One look at a user's own data before anything is trained: its classes, and the clusters of the large one."""

    kind: Literal["look"] = "look"
    own: OwnData
    holds: Literal["images", "rows"]
    encoder: str | None = None  # of a table None: its columns
    threshold: float | None = Field(None, gt=0)
    image_size: int | None = Field(None, ge=8)  # of images that are decoded from files

    @model_validator(mode="after")
    def _names_exist(self) -> LookSpec:
        if self.holds == "images":
            if self.encoder is None:
                raise ValueError("a look at images needs an encoder")
            return super()._names_exist()
        self._is_own()
        if self.encoder not in (None, *tables.ENCODERS):
            raise ValueError(f"no encoder of tables is called {self.encoder!r}; there are {', '.join(tables.ENCODERS)}")
        return self

    @property
    def label(self) -> str:
        """Encoder, for files and messages."""
        return f"look-{self.encoder or 'columns'}"


AnySpec = Annotated[Spec | EncoderSpec | TableSpec | LookSpec, Field(discriminator="kind")]
_ANY_SPEC = TypeAdapter(AnySpec)


def parse_spec(values: dict[str, Any]) -> Spec | EncoderSpec | TableSpec | LookSpec:
    """Build a spec from plain values (a YAML file, a record).

    Raises
    ------
    ValueError
        With one line a defect: the field, what was given, what was expected.
    """
    try:
        return _ANY_SPEC.validate_python({"kind": "training"} | dict(values))
    except ValidationError as error:
        raise ValueError(_defects(error, skip=1)) from error


def _defects(error: ValidationError, *, skip: int = 0) -> str:
    """Return one line: each defect's field, without the first `skip` parts of its place, and what is wrong with it."""
    return "; ".join(
        f"{'.'.join(str(part) for part in defect['loc'][skip:]) or 'spec'}: "
        f"{defect['msg'].removeprefix('Value error, ')}"
        for defect in error.errors()
    )


@dataclass
class Record:
    """What a run leaves: numbers in JSON, arrays in an npz file beside it.

    Attributes
    ----------
    spec : Spec, EncoderSpec, TableSpec or LookSpec
    status : {"finished", "diverged", "not applicable"}
    metrics : dict
        Training: ``metrics[rule][split]`` is what `evaluate` returns, with the rules ``"max"`` and ``"sum"``, or
        ``"none"`` where nothing is aggregated. Table: the same of `tables.measure_folds`, with the out-of-fold
        scores as split ``"test"``. Encoder: clustering quality. Look: ``class_counts`` by split, ``notes``, and the
        ``diagnosis`` of the large class (see `diagnose`), empty where nothing is divided.
    traces : list of dict
        One an epoch.
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
    status: str
    metrics: dict[str, Any]
    seconds: dict[str, float]
    data_digest: str
    traces: list[dict[str, Any]] = field(default_factory=list)
    regrouping: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    code: str = ""
    created: str = ""
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

    def arrays(self) -> dict[str, np.ndarray]:
        """Read the npz file beside the record.

        Raises
        ------
        ValueError
            If it is missing or is not the one that the record was written with.
        """
        path = self.path.with_suffix(".npz")
        if not path.exists() or digest_file(path) != self.arrays_digest:
            raise ValueError(f"{path} is missing or damaged; delete {self.path} and run its spec again")
        return read_npz(path)


_RECORD = TypeAdapter(Record)


def load_record(path: str | Path) -> Record:
    """Read a record.

    Raises
    ------
    ValueError
        If the file is damaged, is no record, or its spec does not have the key in its name.
    """
    path = Path(path)
    try:
        values = _record_values(path)
        key, spec = values.pop("key"), parse_spec(values.pop("spec"))
        if key != spec.key or not path.stem.endswith(f"-{key}"):
            raise ValueError(f"its spec has key {spec.key}, not the one it is filed under")
        return _RECORD.validate_python(values | {"spec": spec, "path": path})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = _defects(error) if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"the record {path} is damaged ({what}); delete it and run its spec again") from error


def _record_values(path: Path) -> dict[str, Any]:
    """Read a record's fields; their digest, which older records do not have, is verified and left out."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.pop("format", None) != RECORD_FORMAT:
        raise ValueError(f"its format is not {RECORD_FORMAT}")
    digest = values.pop("digest", None)
    if digest is not None and digest != _digest_of_values(values):
        raise ValueError("it is not what was written: its digest differs")
    return values


def _digest_of_values(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_records(results_dir: str | Path | None = None, *, profile: str | None = None) -> list[Record]:
    """Read every record of a results directory, or of one profile in it, in order of their files."""
    return [load_record(path) for path in record_paths(results_dir, profile=profile)]


def record_paths(results_dir: str | Path | None = None, *, profile: str | None = None) -> list[Path]:
    """Return the files of all records of a results directory, or of one profile in it, in order."""
    root = results_directory(results_dir)
    # A hidden file is one that another process is writing, or was killed at.
    return sorted(path for path in root.glob(f"{profile or '*'}/*/*.json") if not path.name.startswith("."))


def find_record(spec: AnySpec, results_dir: str | Path | None = None) -> Record | None:
    """Return the record of a spec, or None where there is none."""
    path = spec.path(results_dir)
    return load_record(path) if path.exists() else None


class Busy(Exception):
    """Another process is running this spec."""


def run(
    spec: AnySpec,
    *,
    results_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    recompute: bool = False,
    wait: bool = True,
) -> Record:
    """Return the record of a spec: from disk, or by running it.

    Parameters
    ----------
    spec : Spec, EncoderSpec, TableSpec or LookSpec
    results_dir, data_dir : path, optional
        Default ``REGROUP_RESULTS`` and ``REGROUP_DATA``.
    recompute : bool
        Run again and replace the record.
    wait : bool
        When another process runs the same spec: wait for its record (True) or raise `Busy`.

    Returns
    -------
    Record

    Notes
    -----
    A lock that dies with its process keeps two processes off one spec. A training run that was killed goes on
    from the checkpoint of its last epoch.
    """
    path, root = spec.path(results_dir), results_directory(results_dir)
    checkpoint = checkpoint_path(spec, results_dir)
    if path.exists() and not recompute and not checkpoint.exists():
        return load_record(path)
    (root / ".locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".locks" / f"{spec.key}.lock", timeout=-1 if wait else 0)
    try:
        with lock:
            # Written while this process waited, or just before another was killed.
            if not recompute and _is_whole(path):
                _remove_leftovers(path, checkpoint)
                return load_record(path)
            if recompute:
                checkpoint.unlink(missing_ok=True)
            if spec.kind == "training":
                record, arrays = _run_training(spec, data_dir, checkpoint)
            else:
                others = {"encoder": _run_encoder, "table": _run_table, "look": _run_look}
                record, arrays = others[spec.kind](spec, data_dir)
            _write_record(record, arrays, path)
            _remove_leftovers(path, checkpoint)
            return record
    except Timeout as error:
        raise Busy(f"{spec.label} (seed {spec.seed}) of {spec.task} is run by another process") from error


def _is_whole(path: Path) -> bool:
    """Return whether there is a record with its own arrays, not with those of one that was about to replace it."""
    arrays = path.with_suffix(".npz")
    return path.exists() and arrays.exists() and digest_file(arrays) == load_record(path).arrays_digest


def checkpoint_path(spec: AnySpec, results_dir: str | Path | None = None) -> Path:
    """Return where the training of a spec leaves its last epoch, until the record is written."""
    return results_directory(results_dir) / ".checkpoints" / f"{spec.key}.pt"


def _remove_leftovers(path: Path, checkpoint: Path) -> None:
    """Remove the checkpoint of a record that is written, and what a process that was killed left half written."""
    for file in (path, path.with_suffix(".npz"), checkpoint):
        for partial in file.parent.glob(f".{file.name}.*"):
            partial.unlink(missing_ok=True)
    checkpoint.unlink(missing_ok=True)


def _write_record(record: Record, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write arrays and the JSON file, and only then put the two in the place of older ones, the JSON file last."""
    record.machine, record.versions, record.code = _machine(), _versions(), CODE_VERSION
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
    # As they come back from the file: pairs as lists, keys as text.
    values = json.loads(json.dumps({"key": record.key} | values))
    return json.dumps({"format": RECORD_FORMAT} | values | {"digest": _digest_of_values(values)}, indent=1) + "\n"


def _run_training(spec: Spec, data_dir: str | Path | None, checkpoint: Path) -> tuple[Record, dict[str, np.ndarray]]:
    seconds: dict[str, float] = {}
    task = _task_of(
        spec,
        data_dir,
        seed=spec.seed,
        validation_fraction=spec.validation_fraction,
        imbalance=spec.imbalance,
        split=spec.split,
    )
    features: dict[str, np.ndarray] = {}
    if METHODS[spec.method].needs_encoder:
        encoded = _encoded(spec, task, data_dir)
        features, seconds["encode"] = _features_of(task, encoded), encoded.seconds
    with _timed(seconds, "regroup"):
        labels = training_labels(
            task,
            METHODS[spec.method],
            features=features.get("train"),
            clusterer=spec.clusterer,
            threshold=spec.threshold,
            n_clusters=_by_class(spec.n_clusters, task),
            seed=spec.seed,
        )
    with _timed(seconds, "resample"):
        training = _training_set(spec, task, labels, features)
    trainer = _Trainer(spec, task, labels, training, features)
    history = trainer.train(checkpoint)
    seconds["train"] = history.seconds
    with _timed(seconds, "evaluate"):
        metrics, arrays = _measure(trainer, history)
    seconds["evaluate"] += sum(t.get("evaluate_seconds", 0) for t in history.traces)
    record = Record(
        spec=spec,
        status=history.status,
        metrics=metrics,
        traces=history.traces,
        regrouping=_describe(task, labels),
        seconds=seconds,
        data_digest=task.dataset.digest,
    )
    return record, arrays


def _task_of(spec: Spec | EncoderSpec | LookSpec, data_dir: str | Path | None, **options: Any) -> Task:
    """Return the task of a spec, on a named data set or on the user's own."""
    if spec.own is None:
        return make_task(spec.task, data_dir=data_dir, image_size=spec.image_size, **options)
    dataset = spec.own.verified(data_dir=data_dir, image_size=spec.image_size)
    return make_task(dataset, positive=spec.own.positive, **options)


def _by_class(n_clusters: Any, task: Task) -> int | dict[int, int] | None:
    """Return the clusters of a spec with class indices in place of names."""
    if not isinstance(n_clusters, tuple):
        return n_clusters
    return {task.class_names.index(name): number for name, number in n_clusters}


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def _encoded(spec: Spec | EncoderSpec | LookSpec, task: Task, data_dir: str | Path | None) -> Features:
    """Return the encoded data set of a task."""
    encoder = make_encoder(spec.encoder, data_dir=data_dir, epochs=getattr(spec, "encoder_epochs", None))
    dataset = task.dataset
    if spec.image_size and encoder.image_size:
        # Images decoded from files reach a pre-trained encoder at its own size, not at the network's.
        load = load_data if spec.own is None else lambda name, **options: spec.own.load(**options)
        dataset = load(dataset.name, data_dir=data_dir, image_size=encoder.image_size)
        dataset = split_by_image(dataset) if getattr(spec, "split", "") == "image" else dataset
    return encode(dataset, encoder, data_dir=data_dir)


def _features_of(task: Task, encoded: Features) -> dict[str, np.ndarray]:
    """Return the features of each split of the task."""
    sources = {"train": "train", "val": "val" if "val" in encoded.splits else "train", "test": "test"}
    return {part: encoded.splits[source][getattr(task, part).index] for part, source in sources.items()}


@dataclass(frozen=True)
class _TrainingSet:
    """What the loop goes through: images, features or tokens, their labels, and the order of rows."""

    inputs: Resident
    labels: np.ndarray
    sampler: Sampler


def _resident(spec: Spec, rows: np.ndarray, training: Resident | None = None) -> Resident:
    """Return images, features or sentences on the device, prepared as the training rows were; None: these are they."""
    if METHODS[spec.method].features:
        return ResidentFeatures(rows)
    if spec.network in TOKENIZERS:
        return ResidentTokens(rows, TOKENIZERS[spec.network]().fit(rows) if training is None else training.tokenizer)
    return ResidentImages(rows, statistics=training)


def _training_set(spec: Spec, task: Task, labels: TrainingLabels, features: dict[str, np.ndarray]) -> _TrainingSet:
    method, targets = METHODS[spec.method], labels.labels
    inputs = _resident(spec, features["train"] if method.features else task.train.inputs)
    if method.sampler == "dsmt":
        images, added = deep_smote(task.train.inputs, targets, seed=spec.seed)
        inputs = _resident(spec, np.concatenate([task.train.inputs, images]), inputs)
        targets = np.concatenate([targets, added])
    sampler = make_sampler(
        method.sampler,
        targets,
        batch_size=spec.batch_size,
        seed=spec.seed,
        features=features.get("train"),
        clusterer=spec.clusterer,
        n_clusters=spec.n_clusters,
    )
    return _TrainingSet(inputs, targets, sampler)


class _Trainer:
    """One network with its loss, trained on a training set and measured on the task's splits."""

    def __init__(
        self,
        spec: Spec,
        task: Task,
        labels: TrainingLabels,
        training: _TrainingSet,
        features: dict[str, np.ndarray],
    ):
        self.spec, self.task, self.labels, self.training = spec, task, labels, training
        method = METHODS[spec.method]
        inputs = features if method.features else {name: getattr(task, name).inputs for name in SPLITS}
        held_out = [name for name in ("val", "test") if len(getattr(task, name))]
        self.resident = {name: _resident(spec, inputs[name], training.inputs) for name in held_out}
        self.sample = self._variation_sample()
        self.sampled = _resident(spec, inputs["train"][self.sample], training.inputs)
        width, n_classes = training.inputs.width, len(labels.parent)
        self.network = build_network(
            spec.network, in_channels=width, n_classes=n_classes, seed=spec.seed, head=method.head
        )
        self.loss = make_loss(
            method.loss,
            np.bincount(training.labels),
            gamma=spec.gamma,
            tau=spec.tau,
            max_margin=spec.max_margin,
            deferred=spec.deferred,
        )

    def _variation_sample(self) -> np.ndarray:
        """Return the training rows whose total variation is traced: the same for every method, epoch and seed."""
        n, fine = self.spec.variation_samples, self.task.train.fine_labels
        if 0 < n < len(fine):
            return train_test_split(np.arange(len(fine)), train_size=n, random_state=0, stratify=fine)[0]
        return np.arange(len(fine) if n else 0)

    def train(self, checkpoint: Path) -> History:
        """Train the network, measuring it after each epoch."""
        names = TrainingOptions.__dataclass_fields__
        return train(
            self.network,
            self.training.inputs,
            self.training.labels,
            options=TrainingOptions(**{k: v for k, v in self.spec.model_dump().items() if k in names}),
            seed=self.spec.seed,
            loss=self.loss,
            sampler=self.training.sampler,
            on_epoch=self.trace,
            checkpoint=checkpoint,
            description=f"{self.spec.label} s{self.spec.seed}",
        )

    def scores(self, part: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return class scores by rule, and penultimate features, of a split."""
        logits, features = predict(self.network, self.resident[part], precision=self.spec.precision)
        # LDAM learns `scale` times its logits.
        return _scores(logits * getattr(self.loss, "scale", 1.0), self.labels.parent), features

    def trace(self, network: torch.nn.Module, epoch: int) -> dict[str, Any]:
        """Measure the network after an epoch."""
        start = time.perf_counter()
        trace: dict[str, Any] = {}
        for part in self.resident:
            if part == "test" and not self.spec.trace_test:
                continue
            truth = getattr(self.task, part).labels
            for rule, scores in self.scores(part)[0].items():
                if np.isfinite(scores).all():
                    trace |= {f"{part}_{rule}_{k}": v for k, v in summary(self.task, evaluate(truth, scores)).items()}
        if len(self.sample):
            _, features = predict(network, self.sampled, precision=self.spec.precision)
            trained, fine = self.training.labels[self.sample], self.task.train.fine_labels[self.sample]
            trace["variation"] = total_variation(features, trained).tolist()
            trace["variation_fine"] = total_variation(features, fine).tolist()
        return trace | {"evaluate_seconds": time.perf_counter() - start}


def _describe(task: Task, labels: TrainingLabels) -> dict[str, Any]:
    described = {"parent": labels.parent.tolist(), "counts": np.bincount(labels.labels).tolist()}
    divided = np.isin(labels.parent, np.flatnonzero(np.bincount(labels.parent) > 1))
    rows = divided[labels.labels]
    # Where the data set has no finer classes than the task, all clusters would be pure.
    if rows.any() and len(task.fine_class_names) > task.n_classes:
        described |= clustering_quality(task.train.fine_labels[rows], labels.labels[rows])
    return described


def _scores(logits: np.ndarray, parent: np.ndarray) -> dict[str, np.ndarray]:
    """Return class scores a rule, as they are kept: float32 [n, C], in a binary task the positive column [n]."""
    probabilities = softmax(logits)
    if len(parent) == int(parent.max()) + 1:
        scores = {"none": probabilities}
    else:
        scores = {rule: aggregate(probabilities, parent, rule) for rule in ("max", "sum")}
    binary = int(parent.max()) == 1
    return {rule: (s[:, 1] if binary else s).astype(np.float32) for rule, s in scores.items()}


def summary(task: Task, result: dict[str, Any]) -> dict[str, float]:
    """Return balanced accuracy and the average precisions of an `evaluate` result as single numbers.

    In a binary task they are the positive class's, in a multiclass one the unweighted mean over classes.
    """
    numbers = {"balanced_accuracy": result["balanced_accuracy"]}
    for name in ("average_precision", "calibrated_average_precision"):
        values = list(result[name].values())
        numbers[name] = values[1] if task.n_classes == 2 else float(np.mean(values))
    return numbers


def _measure(trainer: _Trainer, history: History) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    spec, task = trainer.spec, trainer.task
    metrics: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {"test_labels": task.test.labels.astype(np.uint8)}
    if spec.split == "image":
        lesions = task.dataset.metadata
        arrays["test_in_training"] = np.isin(lesions["test"]["lesion_id"], lesions["train"]["lesion_id"])
    if history.status != "finished":
        return metrics, arrays
    for part in trainer.resident:
        truth = getattr(task, part).labels
        by_rule, features = trainer.scores(part)
        for rule, scores in by_rule.items():
            result = evaluate(truth, scores, task.class_names)
            metrics.setdefault(rule, {})[part] = result | {"summary": summary(task, result)}
            if task.n_classes > MANY_CLASSES:
                arrays[f"{part}_predictions_{rule}"] = scores.argmax(axis=1).astype(np.uint8)
            else:
                arrays[f"{part}_scores_{rule}"] = scores
        if part == "val":
            arrays["val_labels"] = truth.astype(np.uint8)
    if spec.embedding:
        # The last split is the test split: its features are at hand.
        fine = task.test.fine_labels
        metrics_of_space = {"neighbor_accuracy": neighbor_accuracy(features, fine)}
        for rule in metrics:
            metrics[rule]["test"] |= metrics_of_space
        points, position = _embed(features, fine)
        arrays |= {"embedding": position, "embedding_labels": fine[points].astype(np.uint8)}
    return metrics, arrays


def _embed(features: np.ndarray, fine_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows in the plot (the same for every encoder and network) and their t-SNE positions [m, 2]."""
    rows = np.arange(len(features))
    if len(rows) > EMBEDDED_POINTS:
        rows, _ = train_test_split(rows, train_size=EMBEDDED_POINTS, random_state=0, stratify=fine_labels)
        rows.sort()
    chosen = features[rows]
    position = TSNE(perplexity=30, init="pca", random_state=0).fit_transform(chosen.astype(np.float32))
    return rows, position.astype(np.float32)


def _run_encoder(spec: EncoderSpec, data_dir: str | Path | None) -> tuple[Record, dict[str, np.ndarray]]:
    task = _task_of(spec, data_dir, validation_fraction=0)
    encoded = _encoded(spec, task, data_dir)
    features = _features_of(task, encoded)
    start = time.perf_counter()
    labels = training_labels(
        task,
        METHODS["rg"],
        features=features["train"],
        clusterer=spec.clusterer,
        threshold=spec.threshold,
        seed=spec.seed,
    )
    seconds = {"encode": encoded.seconds, "regroup": time.perf_counter() - start}
    described = _describe(task, labels)
    metrics: dict[str, Any] = {name: described.pop(name) for name in ("purity", "nmi", "ari") if name in described}
    metrics["neighbor_accuracy"] = neighbor_accuracy(features["test"], task.test.fine_labels)
    rows, position = _embed(features["test"], task.test.fine_labels)
    arrays = {"embedding": position, "embedding_labels": task.test.fine_labels[rows].astype(np.uint8)}
    if task.dataset.is_text:
        # Rows and words, no sentences: their licence may not let them be copied into a record.
        clusters = describe_clusters(task.train.inputs, features["train"], labels.labels, n_nearest=EXAMPLES)
        described["terms"] = [list(cluster.terms) for cluster in clusters]
        described["fine_counts"] = contingency_matrix(labels.labels, task.train.fine_labels).tolist()
        arrays["example_rows"] = np.stack([np.resize(cluster.rows, EXAMPLES) for cluster in clusters])
    elif task.n_classes == 2:
        arrays["examples"] = _examples(task, labels, features["train"], range(len(labels.parent)), n=EXAMPLES)
    else:
        metrics["contents"] = _contents(task, labels)
        shown = _largest_clusters(labels, task.class_counts.index(max(task.class_counts)))
        arrays["examples"] = _examples(task, labels, features["train"], shown, n=8)
        arrays["example_clusters"] = np.array(shown)
    arrays |= _reconstructions(task, encoded)
    record = Record(
        spec=spec,
        status="finished",
        metrics=metrics,
        regrouping=described | {"label": encoded.encoder.label, "dimension": int(features["train"].shape[1])},
        seconds=seconds,
        data_digest=task.dataset.digest,
    )
    return record, arrays


def _run_table(spec: TableSpec, data_dir: str | Path | None) -> tuple[Record, dict[str, np.ndarray]]:
    if spec.own is None:
        table = tables.load_table(spec.task, data_dir=data_dir)
    else:
        table = tables.table_of(spec.own.verified(data_dir=data_dir), spec.own.positive)
    options = ("method", "estimator", "seed", "n_folds", "imbalance")
    options += ("clusterer", "n_clusters", "threshold", "encoder")
    result = tables.out_of_fold(table, **{name: getattr(spec, name) for name in options})
    arrays = {"test_labels": table.labels.astype(np.uint8), "folds": result.folds}
    arrays |= {f"test_scores_{rule}": scores for rule, scores in result.scores.items()}
    record = Record(
        spec=spec,
        status="not applicable" if result.reason else "finished",
        metrics={
            rule: {"test": tables.measure_folds(table.labels, result.folds, scores)}
            for rule, scores in result.scores.items()
        },
        regrouping=result.regrouping,
        seconds=result.seconds,
        data_digest=table.digest,
        reason=result.reason,
    )
    return record, arrays


def _run_look(spec: LookSpec, data_dir: str | Path | None) -> tuple[Record, dict[str, np.ndarray]]:
    task = _task_of(spec, data_dir, validation_fraction=0)
    start = time.perf_counter()
    if task.dataset.is_table:
        # All rows, as all of them train in some fold of the cross-validation.
        columns, names = tables.prepared(pd.concat([split.inputs for split in task.dataset.splits.values()]))
        features = tables.ENCODERS[spec.encoder]().fit_transform(columns) if spec.encoder else columns
        fine = np.concatenate([split.labels for split in task.dataset.splits.values()])
    else:
        features, names = _features_of(task, _encoded(spec, task, data_dir))["train"], []
        fine = task.train.fine_labels
    labels, diagnosis = _diagnosed(spec, features, fine)
    shown = [*_largest_clusters(labels, 0), *_largest_clusters(labels, 1)]
    if task.dataset.is_table:
        arrays = {"centers": np.stack([columns[labels.labels == k].mean(axis=0) for k in shown]).astype(np.float32)}
    else:
        arrays = {"examples": _examples(task, labels, features, shown, n=8)}
    dataset = task.dataset
    counts = {part: dict(zip(spec.own.classes, dataset.class_counts(part), strict=True)) for part in dataset.splits}
    record = Record(
        spec=spec,
        status="finished",
        metrics={"class_counts": counts, "notes": list(dataset.notes), "diagnosis": diagnosis, "columns": names},
        regrouping={"parent": labels.parent.tolist(), "counts": np.bincount(labels.labels).tolist()},
        seconds={"look": time.perf_counter() - start},
        data_digest=dataset.digest,
    )
    return record, arrays | {"shown": np.array(shown)}


def _diagnosed(
    spec: LookSpec, features: np.ndarray, fine_labels: np.ndarray
) -> tuple[TrainingLabels, list[dict[str, Any]]]:
    """Return the pseudo-classes of a look, and what `diagnose` says of each class that is divided."""
    labels = (fine_labels == spec.own.classes.index(spec.own.positive)).astype(np.int64)
    diagnosis = diagnose(
        features,
        np.array(spec.class_names)[labels],
        regrouping=Regrouping(threshold=spec.threshold),
        sub_labels=fine_labels if len(spec.own.classes) > 2 else None,
        seed=spec.seed,
    )
    regrouping = diagnosis.regrouping  # its classes are in the order of their names, the task's are not
    classes = np.array([spec.class_names.index(name) for name in regrouping.classes_.tolist()])
    rows = diagnosis.classes.reset_index().to_dict("records")
    return TrainingLabels(regrouping.pseudo_labels_, classes[regrouping.parent_]), rows


def _largest_clusters(labels: TrainingLabels, parent: int) -> list[int]:
    """Return the pseudo-classes of a class that are shown, the largest first."""
    counts = np.bincount(labels.labels)
    members = np.flatnonzero(labels.parent == parent)
    return members[np.argsort(-counts[members], kind="stable")][:SHOWN_CLUSTERS].tolist()


def _examples(
    task: Task, labels: TrainingLabels, features: np.ndarray, clusters: Iterable[int], *, n: int
) -> np.ndarray:
    """Return the images nearest the centres of the given pseudo-classes, uint8 [K, n, h, w, c]."""
    nearest = []
    for k in clusters:
        order = nearest_to_center(features, np.flatnonzero(labels.labels == k))
        nearest.append(task.train.inputs[np.resize(order, n)])
    return np.stack(nearest)


def _contents(task: Task, labels: TrainingLabels) -> dict[str, Any]:
    """Return what the clusters of the largest class have to do with what else is known of its images."""
    largest = task.class_counts.index(max(task.class_counts))
    rows = np.flatnonzero(task.train.labels == largest)
    known = (task.dataset.metadata or {}).get("train", {})
    columns = {name: values[task.train.index][rows] for name, values in known.items()}
    return cluster_contents(labels.labels[rows], task.train.inputs[rows], columns)


def _reconstructions(task: Task, encoded: Features) -> dict[str, np.ndarray]:
    """Return one test image of each fine class and what the autoencoder makes of it."""
    if not isinstance(encoded.encoder, AutoencoderEncoder):
        return {}
    _, first = np.unique(task.test.fine_labels, return_index=True)
    originals = task.test.inputs[first[:10]]
    return {"originals": originals, "reconstructions": encoded.encoder.reconstruct(originals)}


def _machine() -> dict[str, Any]:
    """Return the class of machine, nothing that identifies one."""
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


def _versions() -> dict[str, str]:
    names = ["torch", "scikit-learn", "imbalanced-learn", "numpy", "onnxruntime"]
    # What the extra `text` brings, where this process has used it.
    names += [name for name in ("sentence-transformers", "transformers") if name.replace("-", "_") in sys.modules]
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def estimate_seconds(spec: AnySpec, records: Sequence[Record]) -> float | None:
    """Return how long a run will take, from the recorded runs most like it; None where no record is like it.

    Like it are runs of the same profile and network: of the same task and method if there are any, else of the same
    task, else of all tasks, a training image and epoch taking as long in one as in the other.
    """
    alike = [
        r
        for r in records
        if (r.spec.kind, r.spec.profile, r.spec.own is None, getattr(r.spec, "network", None))
        == (spec.kind, spec.profile, spec.own is None, getattr(spec, "network", None))
    ]
    same_task = [r for r in alike if r.spec.task == spec.task]
    same_method = [r for r in same_task if r.spec.label == spec.label]
    chosen = same_method or same_task or alike
    if not chosen:
        return None
    return float(np.median([_seconds_a_unit(r) for r in chosen])) * _units(spec)


def _units(spec: AnySpec) -> float:
    """Return training images times epochs; runs that have no epochs are all alike, and so are images of own sets."""
    if spec.kind != "training":
        return 1.0
    if spec.own is not None:
        return float(spec.epochs)
    dataset, _ = parse_task(spec.task)
    if dataset not in SOURCES:
        return float(len(load_data(dataset).train) * spec.epochs)
    counts = SOURCES[dataset].class_counts
    n_images = sum(counts["train"]) if "train" in counts else 0.7 * sum(counts["all"])  # split 70/10/20 here
    return n_images * spec.epochs


def _seconds_a_unit(record: Record) -> float:
    return sum(value for step, value in record.seconds.items() if step != "encode") / _units(record.spec)
