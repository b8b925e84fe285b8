"""Specs of runs: their fields, the settings of each profile, and the key.

A spec holds everything that determines a number. Its key, a digest of the spec, names the record (`records`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from regroup_lib.clusterers import CLUSTERERS
from regroup_lib.data import bundled_tables
from regroup_lib.data.dataset import DataError, Dataset
from regroup_lib.data.load import load_data
from regroup_lib.data.sources import DATASETS, class_names_of, holds_text
from regroup_lib.data.tasks import LONG_TAIL, parse_task
from regroup_lib.encoders.features import check_encoder_name, check_encoder_takes
from regroup_lib.files import results_directory
from regroup_lib.nn.models import NETWORKS, TOKENIZERS
from regroup_lib.runs import table_methods
from regroup_lib.runs.methods import METHODS

# The embedded digits, of which a mirrored 2 is no 2, and the paper's data sets.
DIGITS = {"batch_size": 64, "peak_lr": 0.1, "flip": False, "shift": 1}
PHOTOS = {"batch_size": 256, "peak_lr": 0.2, "flip": True}
PROFILES: dict[str, dict[str, Any]] = {
    # Seconds per run, for a first look and for continuous integration.
    "smoke": DIGITS | {"network": "tiny-resnet", "epochs": 4, "encoder_epochs": 5},
    # Minutes on two cores.
    "cpu": PHOTOS | {"network": "small-resnet", "epochs": 8, "shift": 3, "encoder_epochs": 12},
    # The paper's network; needs a GPU.
    "paper": PHOTOS | {"network": "resnet34", "epochs": 100, "shift": 4, "encoder_epochs": 50},
}
# Sentences have no mirror image.
TEXT = {"optimizer": "adam", "flip": False, "shift": 0}
FEW_SENTENCES = TEXT | {"network": "tiny-text-cnn", "epochs": 20, "batch_size": 16, "peak_lr": 1e-2}
# Validation AP of phrasebank-negative, seed 0. CE: 0.58 at 2e-3, 0.63 at 5e-3, 0.62 at this rate. RG, which has more
# to learn: 0.55 at 5e-3, 0.58 at this rate; with 10 epochs at 5e-3 0.46.
CONVOLUTIONS = {"epochs": 15, "batch_size": 64, "peak_lr": 1e-2, "weight_decay": 0.01}
FINE_TUNING = {"epochs": 3, "batch_size": 32, "peak_lr": 5e-5, "weight_decay": 0.01}
LESIONS = {"batch_size": 128, "peak_lr": 0.1}
# Differences from that for a data set, ...
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
        "ham10000": LESIONS | {"network": "slim-resnet-64", "image_size": 64, "epochs": 30, "shift": 6},
    },
    "paper": {
        "descriptions": FEW_SENTENCES,
        "phrasebank": TEXT | FINE_TUNING | {"network": "minilm"},
        # The shift is the same share of the image.
        "ham10000": LESIONS | {"network": "resnet34-224", "image_size": 224, "shift": 21},
    },
}
# ... for a network that is not the profile's, ...
NETWORK_SETTINGS: dict[str, dict[str, Any]] = {"text-cnn": CONVOLUTIONS, "minilm": FINE_TUNING}
# ... and for a method with a network of its own.
METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "mlp": {"network": "mlp", "epochs": 20, "optimizer": "adam", "peak_lr": 1e-3, "flip": False, "shift": 0},
    # Fitted by scikit-learn, not by the training loop.
    "probe": {"network": "logreg", "epochs": 1, "flip": False, "shift": 0},
    "knn": {"network": "knn", "epochs": 1, "flip": False, "shift": 0},
}
OPTIONS = tuple({name: None for method in METHODS.values() for name in (*method.options, *method.cluster_options)})
FEATURE_NETWORKS = ("mlp", "logreg", "knn")
Profile = Literal["smoke", "cpu", "paper"]
TRAINED_ENCODERS = ("autoencoder", "simclr")
OWN = "own-"  # followed by a name: the task of a spec on the user's own data


def default_settings(profile: str, task: str | None, method: str | None, network: str | None = None) -> dict[str, Any]:
    """Return a profile's settings, changed by a task's data set, a network and a method; later ones win."""
    dataset = next((name for name in DATASETS if task == name or str(task).startswith(f"{name}-")), "")
    specific = DATASET_SETTINGS.get(profile, {}).get(dataset, {})
    named = NETWORK_SETTINGS.get(str(network), {})
    return PROFILES.get(profile, {}) | specific | named | METHOD_SETTINGS.get(str(method), {})


def task_class_names(task: str) -> tuple[str, ...]:
    """Return the names of a task's classes, without loading its data."""
    dataset, positive = parse_task(task)
    multiclass = positive in (None, LONG_TAIL)
    return class_names_of(dataset) if multiclass else (f"not {positive}", str(positive))


READING = ("label", "allow_missing", "group", "header", "missing", "decimal")  # options of `load_data`


class OwnData(BaseModel):
    """A data set of the user's own, and the class of it that is compared with the rest.

    Digest and class names identify the data set and are part of a spec's key. Its path on this machine is not, and
    does not enter a record, so that records are found without the data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str = Field(pattern="^[0-9a-f]{64}$")
    classes: tuple[str, ...] = Field(min_length=2)
    positive: str
    grouped: bool = False  # whether samples that belong together stay together; False in older records
    path: str | None = Field(None, exclude=True)
    # How it is read: see `load_data`. Options that change the data change the digest, too.
    label: str | None = Field(None, exclude=True)
    allow_missing: bool = Field(False, exclude=True)
    group: str | None = Field(None, exclude=True)
    header: bool = Field(True, exclude=True)
    missing: tuple[str, ...] = Field((), exclude=True)
    decimal: str | None = Field(None, exclude=True)

    @model_validator(mode="after")
    def _class_exists(self) -> OwnData:
        if self.positive not in self.classes:
            raise ValueError(f"there is no class {self.positive!r}; there are {', '.join(self.classes)}")
        return self

    def load(self, *, data_dir: str | Path | None = None, image_size: int | None = None) -> Dataset:
        """Load the data set from its path; a spec that was read from a record has none."""
        if self.path is None:
            raise DataError(f"the data set with digest {self.digest[:12]} has no path here; name it to `compare` again")
        options = {name: getattr(self, name) for name in READING}
        dataset = load_data(self.path, data_dir=data_dir, image_size=image_size, **options)
        if self.grouped:
            return dataset
        metadata = dataset.metadata and {
            part: {name: values for name, values in columns.items() if name != "group"}
            for part, columns in dataset.metadata.items()
        }
        return replace(dataset, metadata=metadata)

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
    """Base of all kinds of spec: the profile's settings, the task's name, the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Profile = "cpu"
    task: str = Field(pattern=r"^[^/\\]+$")  # the records of a task have a folder
    own: OwnData | None = None  # in place of a named data set
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="before")
    @classmethod
    def _profile_settings(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        chosen = [values.get(name) for name in ("task", "method", "network")]
        if values.get("own") is not None:
            chosen[0] = None  # even if the user's file has the name of a task
        settings = default_settings(values.get("profile", "cpu"), *chosen)
        settings = {name: value for name, value in settings.items() if name in cls.model_fields}
        if values.get("encoder") not in TRAINED_ENCODERS:
            settings.pop("encoder_epochs", None)
        return settings | values

    @model_validator(mode="after")
    def _fits(self) -> _BaseSpec:
        if (self.own is not None) != self.task.startswith(OWN):
            raise ValueError(f"task {self.task!r}: a task on own data is called {OWN}..., and has `own`")
        self._check()
        return self

    def _check(self) -> None:
        """Raise a ValueError where a name does not exist or fields do not go together."""
        dataset = self.task
        if self.own is None:
            dataset, positive = parse_task(self.task)
            names = class_names_of(dataset)
            if positive not in (None, LONG_TAIL, *names):
                raise ValueError(f"task {self.task!r}: {dataset} has no class {positive!r}; it has {', '.join(names)}")
        if self.encoder is not None:
            check_encoder_name(self.encoder)
            check_encoder_takes(self.encoder, text=self.is_text, data=dataset)

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
        """Return the path of the record."""
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{self.label}-s{self.seed}-{self.key}")
        return results_directory(results_dir) / self.profile / self.task / f"{name}.json"


def _one_of(what: str, known: Collection[str]) -> Any:
    """Return the type of a name that has to be among the `known` ones."""

    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"no {what} is called {name!r}; there are {', '.join(known)}")
        return name

    return Annotated[str, AfterValidator(check)]


_Number = Annotated[int, Field(strict=True, ge=1)]
_NUMBERS = TypeAdapter(_Number | Annotated[dict[str, _Number], Field(min_length=1)] | None)


def _cluster_numbers(value: Any) -> Any:
    """Check numbers of clusters; a mapping becomes sorted pairs, as a spec must be hashable."""
    try:
        number = _NUMBERS.validate_python(dict(value) if isinstance(value, list | tuple) else value)
    except (TypeError, ValueError) as error:
        what = f"expected a whole number of at least 1, or one for each of some classes; got {value!r}"
        raise ValueError(what) from error
    return tuple(sorted(number.items(), key=str)) if isinstance(number, dict) else number


# An int for all large classes, or pairs of a class's name and its number; a mapping in a YAML file or in Python.
ClusterNumbers = Annotated[Any, PlainValidator(_cluster_numbers)]


class Spec(_BaseSpec):
    """One training run.

    Parameters left out take the profile's value (`PROFILES`). Unknown fields are refused.
    """

    kind: Literal["training"] = "training"
    method: _one_of("method", METHODS)
    encoder: str | None = None  # the space that is clustered; only for methods that regroup by meaning
    clusterer: _one_of("clusterer", CLUSTERERS) = "kmeans"
    threshold: float | None = Field(None, gt=0)
    n_clusters: ClusterNumbers = None  # of each large class, or of classes by name
    gamma: float | None = Field(None, ge=0, allow_inf_nan=False)  # of focal loss
    tau: float | None = Field(None, ge=0, allow_inf_nan=False)  # of logit adjustment
    max_margin: float | None = Field(None, gt=0, allow_inf_nan=False)  # of LDAM
    deferred: bool = False  # LDAM's deferred reweighting
    mixed_share: float | None = Field(None, ge=0, le=1)  # of the majority that "mixed" labels re-assign
    auxiliary_weight: float | None = Field(None, gt=0, allow_inf_nan=False)  # of the second head's loss
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    imbalance: float | None = Field(None, gt=0, allow_inf_nan=False)  # negatives per positive, see make_task
    network: _one_of("network", (*NETWORKS, *FEATURE_NETWORKS))
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    optimizer: Literal["sgd", "adam"] = "sgd"
    peak_lr: float = Field(gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    flip: bool
    shift: int = Field(ge=0)
    image_size: int | None = Field(None, ge=8)  # of images that are decoded from files
    # "image": groups of images may lie in several splits; "fold-0" to "fold-4": one of five folds by group tests.
    split: str = Field("published", pattern="^(published|image|fold-[0-4])$")
    encoder_epochs: int | None = Field(None, ge=1)  # of an encoder that is trained here
    variation_samples: int = Field(0, ge=0)  # training images in the total variation per class; 0: not traced
    embedding: bool = False  # keep a t-SNE plot of the test features
    trace_test: bool = True  # measure the test set after each epoch, not only after the last

    def _check(self) -> None:
        super()._check()
        method, kind = METHODS[self.method], "text" if self.is_text else "images"
        if method.needs_encoder and self.encoder is None:
            raise ValueError(f"method {self.method!r} needs an encoder")
        if not method.needs_encoder and self.encoder is not None:
            raise ValueError(f"method {self.method!r} uses no encoder; leave it out")
        known = (*method.options, *method.cluster_options)
        for name in OPTIONS:
            if name not in known and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"method {self.method!r} has no option {name}; it has {', '.join(known) or 'none'}")
        if isinstance(self.n_clusters, tuple):
            if method.sampler == "rusc" or method.labels == "true":
                raise ValueError(f"method {self.method!r} takes one number as n_clusters, not one by class")
            unknown = [name for name, _ in self.n_clusters if name not in self.class_names]
            if unknown:
                raise ValueError(f"n_clusters names {unknown}; the classes are {', '.join(self.class_names)}")
        if method.labels == "mixed" and (self.mixed_share is None or len(self.class_names) != 2):
            raise ValueError(f"method {self.method!r} is for binary tasks and needs a mixed_share between 0 and 1")
        if (self.network in FEATURE_NETWORKS) != method.features:
            raise ValueError(f"method {self.method!r} does not go with network {self.network!r}")
        if not method.features and (self.network in TOKENIZERS) != self.is_text:
            fitting = [n for n in NETWORKS if n not in FEATURE_NETWORKS and (n in TOKENIZERS) == self.is_text]
            raise ValueError(f"network {self.network!r} does not read {kind}; there are {', '.join(fitting)}")
        if self.is_text and (method.sampler == "dsmt" or self.flip or self.shift or self.image_size):
            what = f"method {self.method!r}" if method.sampler == "dsmt" else "an option among flip, shift, image_size"
            raise ValueError(f"{what} needs images, and task {self.task!r} is one of text")
        if self.imbalance is not None and self.own is None and parse_task(self.task)[1] is None:
            raise ValueError(f"imbalance is for a class against the rest, and task {self.task!r} has all classes")

    @property
    def label(self) -> str:
        """Method and encoder, for files and messages."""
        return self.method if self.encoder is None else f"{self.method}-{self.encoder}"


class EncoderSpec(_BaseSpec):
    """One look at an encoder: how well its space clusters the large class of a task."""

    kind: Literal["encoder"] = "encoder"
    encoder: str
    threshold: float | None = Field(None, gt=0)
    image_size: int | None = Field(None, ge=8)  # of images that are decoded from files
    encoder_epochs: int | None = Field(None, ge=1)  # of an encoder that is trained here

    @property
    def label(self) -> str:
        """Encoder, for files and messages."""
        return f"encoder-{self.encoder}"


class TableSpec(_BaseSpec):
    """One classifier on a table, cross-validated: see `table_methods.out_of_fold`."""

    kind: Literal["table"] = "table"
    method: _one_of("method", table_methods.METHODS)
    estimator: _one_of("estimator", table_methods.ESTIMATORS)
    imbalance: float | None = Field(None, gt=0, allow_inf_nan=False)  # negatives per positive in the training folds
    threshold: float | None = Field(None, gt=0)
    encoder: _one_of("encoder", table_methods.ENCODERS) | None = None  # None: the columns are clustered

    def _check(self) -> None:
        if self.own is None:
            bundled_tables.parse_table_task(self.task)
        method = table_methods.METHODS[self.method]
        if self.estimator not in method.estimators:
            raise ValueError(f"method {self.method!r} goes with {', '.join(method.estimators)}")
        for name in ("threshold", "encoder"):
            if method.clusterer is None and getattr(self, name) is not None:
                raise ValueError(f"method {self.method!r} does not regroup; leave {name} out")

    @property
    def label(self) -> str:
        """Estimator, method and imbalance, for files and messages."""
        rare = "" if self.imbalance is None else f"-1to{self.imbalance:g}"
        return f"table-{self.estimator}-{self.method}{rare}"


class LookSpec(_BaseSpec):
    """One look at a task before anything is trained: its classes, and the clusters of the large one."""

    kind: Literal["look"] = "look"
    holds: Literal["images", "rows"]
    encoder: str | None = None  # of a table None: its columns
    threshold: float | None = Field(None, gt=0)
    image_size: int | None = Field(None, ge=8)  # of images that are decoded from files

    def _check(self) -> None:
        if self.holds == "images":
            super()._check()
            if self.encoder is None:
                raise ValueError("a look at images needs an encoder")
            if self.is_text or len(self.class_names) != 2:
                raise ValueError(f"a look is at images of one class against the rest, and task {self.task!r} is not")
            return
        if self.own is None:
            raise ValueError(f"a look at rows is at data of your own; task {self.task!r} has no `own`")
        if self.encoder not in (None, *table_methods.ENCODERS):
            known = ", ".join(table_methods.ENCODERS)
            raise ValueError(f"no encoder of tables is called {self.encoder!r}; there are {known}")

    @property
    def label(self) -> str:
        """Encoder, for files and messages."""
        return f"look-{self.encoder or 'columns'}"


AnySpec = Annotated[Spec | EncoderSpec | TableSpec | LookSpec, Field(discriminator="kind")]
_ANY_SPEC = TypeAdapter(AnySpec)
# Former fields of a kind of spec, with their only value in records.
RETIRED: dict[str, dict[str, Any]] = {
    "training": {"initialization": "random", "label_smoothing": 0.0, "precision": "auto"},
    "encoder": {"clusterer": "kmeans"},
    "table": {"n_folds": 5, "clusterer": None, "n_clusters": None},
}


def parse_spec(values: dict[str, Any]) -> Spec | EncoderSpec | TableSpec | LookSpec:
    """Build a spec from plain values (a YAML file, a record); a retired field at its old default is left out.

    A ValueError names each field that is wrong, and what was expected.
    """
    values = {"kind": "training"} | dict(values)
    retired = RETIRED.get(str(values["kind"]), {}).items()
    values = {name: value for name, value in values.items() if (name, value) not in retired}
    try:
        return _ANY_SPEC.validate_python(values)
    except ValidationError as error:
        raise ValueError(describe_defects(error, skip=1)) from error


def describe_defects(error: ValidationError, *, skip: int = 0) -> str:
    """Return one line: each defect's field, without the first `skip` parts of its place, and what is wrong with it."""
    return "; ".join(
        f"{'.'.join(str(part) for part in defect['loc'][skip:]) or 'spec'}: "
        f"{defect['msg'].removeprefix('Value error, ')}"
        for defect in error.errors()
    )
