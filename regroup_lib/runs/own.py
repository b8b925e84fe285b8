"""What is run on a user's own data: `plan` reads them, checks them, and chooses methods and settings."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regroup_lib.data.dataset import DataError, Dataset, composed, did_you_mean
from regroup_lib.data.load import load_data
from regroup_lib.data.sources import DATASETS
from regroup_lib.data.tasks import make_task
from regroup_lib.encoders.features import make_encoder
from regroup_lib.runs import table_methods
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.specs import OWN, PROFILES, AnySpec, OwnData, parse_spec

logger = logging.getLogger(__name__)

# Title -> the method's identifier.
IMAGE_METHODS = {
    "CE": "ce",
    "WCE": "wce",
    "ROS": "ros",
    "linear probe": "probe",
    "encoder+MLP": "mlp",
    "CE+features": "distill",
    "RG": "rg",
    "RG+WCE": "rg-wce",
}
# Classifiers on an encoder's features, which are simpler than networks trained on the images.
FROZEN = tuple(title for title, method in IMAGE_METHODS.items() if METHODS[method].features)
TABLE_METHODS = {
    "CE": "plain",
    "WCE": "weights",
    "ROS": "ros",
    "balanced forest": "balanced-forest",
    "EasyEnsemble": "easy-ensemble",
    "RG": "rg",
    "RG+WCE": "rg-weights",
}
REGROUPED = ("RG", "RG+WCE")
ESTIMATORS = tuple(table_methods.ESTIMATORS)  # for tables: a linear classifier, and two that are not
BOOSTING = "boosting"  # not regrouped unless it is asked for
DIVERGES = "each round grows a tree for each cluster, and clusters of a few rows can make it diverge"
FEWEST = 10  # samples of a side: with fewer, a validation split or folds are too small
STEPS = 3000  # of the training loop, within the bounds of EPOCHS
EPOCHS = (5, 40)
FEW_POSITIVES = 100  # with fewer, a larger part of the training images is held out for validation
AUXILIARY_WEIGHT = 3.0  # of the loss on features; validation chose it in three of four recorded tasks
PIXELS = ("raw", "pca")  # encoders whose clusters follow pixels, not content
LONGEST_FILE_NAME = 255  # bytes; the records of a task have a folder


@dataclass(frozen=True)
class Plan:
    """A user's data set, the class that is compared with the rest, and the runs of the comparison."""

    dataset: Dataset
    own: OwnData
    specs: list[AnySpec]


def plan(
    path: str | Path,
    *,
    positive: str | None = None,
    encoder: str | None = None,
    threshold: float | None = None,
    estimators: Sequence[str] | None = None,
    epochs: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    profile: str = "cpu",
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    **reading: Any,
) -> Plan:
    """Read a data set and return the runs that compare regrouping with the usual remedies; nothing is run.

    Parameters
    ----------
    path : str or Path
        An npz file, a folder of images or a table: see `load_data`.
    positive : str, optional
        The class that is compared with the rest; default: the smallest.
    encoder : str, optional
        The space of the clusters. For images an encoder of `make_encoder`, default ``"pca"``; for a table ``"pca"``,
        default the columns themselves, imputed and scaled.
    threshold : float, optional
        Classes up to this size are not split; default: the size of the smaller class, as in the paper.
    estimators : sequence of {"logreg", "forest", "boosting"}, optional
        For a table: the classifiers. Default: all, and boosting without regrouping: it grows a tree for each cluster
        in each round, which takes long, and clusters of a few rows can make it diverge.
    epochs : int, optional
        For images; default: by their number, 5 to 40.
    seeds : sequence of int
        One run of each method for each seed. A decision needs at least two, and better more than three.
    profile : {"cpu", "smoke"}
        Where the records are filed; ``"smoke"`` trains a few epochs only.
    data_dir, image_size, **reading : optional
        See `load_data`: label, allow_missing, group, header, missing, decimal.

    Raises
    ------
    ValueError
        If the data cannot be read (`DataError`), an option or the class is invalid, or one side of the task has fewer
        than ten samples.
    """
    if str(path) in DATASETS:
        raise DataError(f"{str(path)!r} is a data set of the book (`regroup sweep`); a folder of that name is ./{path}")
    seeds = list(dict.fromkeys(seeds))
    estimators = None if estimators is None else tuple(dict.fromkeys(estimators))
    for name, values in (("seeds", seeds), ("estimators", estimators)):
        if values is not None and not values:
            raise ValueError(f"{name} is empty; give at least one")
    if unknown := set(estimators or ()).difference(ESTIMATORS):
        raise ValueError(f"no estimator is called {min(unknown)!r}; there are {', '.join(ESTIMATORS)}")
    # A YAML file may give numbers, such as 5.
    positive = None if positive is None else composed(str(positive))
    for name in ("label", "group"):
        reading[name] = None if reading.get(name) is None else composed(str(reading[name]))
    missing = reading.get("missing") or ()
    reading["missing"] = (missing,) if isinstance(missing, str) else tuple(map(str, missing))
    dataset = load_data(path, data_dir=data_dir, image_size=image_size, **reading)
    own = own_data(dataset, _positive(dataset, positive), path, **reading)
    common: dict[str, Any] = {"profile": profile, "seeds": seeds, "threshold": threshold}
    if dataset.is_table:
        if epochs is not None:
            raise ValueError(f"epochs is {epochs}, and {dataset.name} is a table; leave it out")
        if BOOSTING in (estimators or ()):
            logger.warning("boosting is regrouped as well: %s", DIVERGES)
        common |= {"encoder": None if encoder == "raw" else encoder, "estimators": estimators}
        return Plan(dataset, own, table_specs(own, dataset.name, **common))
    if estimators is not None:
        raise ValueError(f"estimators are {', '.join(estimators)}, and {dataset.name} holds images; leave them out")
    encoder = encoder or "pca"
    if encoder.startswith("onnx:"):
        make_encoder(encoder, data_dir=data_dir)  # an unusable file is an error before anything is trained
    specs = image_specs(own, dataset, encoder=encoder, epochs=epochs, image_size=image_size, **common)
    # Data that cannot be divided are an error before anything is trained.
    make_task(dataset, positive=own.positive, validation_fraction=specs[-1].validation_fraction)
    return Plan(dataset, own, specs)


def _positive(dataset: Dataset, positive: str | None) -> str:
    """Return the positive class, the smallest by default, if either side has enough samples and groups."""
    totals = np.sum([dataset.class_counts(part) for part in dataset.splits], axis=0)
    counts = dict(zip(dataset.class_names, totals.tolist(), strict=True))
    if positive is None:
        positive = min(counts, key=counts.get)
    elif positive not in counts:
        there = did_you_mean(positive, {name: f"{name} ({count})" for name, count in counts.items()})
        raise ValueError(f"positive is {positive!r}, and {dataset.name} has the classes {there}")
    on_side = np.concatenate([part.labels for part in dataset.splits.values()]) == dataset.class_names.index(positive)
    groups = None
    if dataset.is_table and "group" in dataset.metadata["train"]:
        groups = np.concatenate([dataset.metadata[part]["group"] for part in dataset.splits])
    for side, chosen in ((positive, on_side), (f"not {positive}", ~on_side)):
        if (count := chosen.sum()) < FEWEST:
            raise ValueError(
                f"the class {side!r} has {count} samples in all; a comparison needs at least {FEWEST} to divide"
            )
        if groups is not None and (count := len(np.unique(groups[chosen]))) < (n_folds := table_methods.N_FOLDS):
            raise ValueError(
                f"the class {side!r} has samples of {count} groups alone; {n_folds} folds need as many at least"
            )
    return positive


def own_data(dataset: Dataset, positive: str, path: str | Path, **reading: Any) -> OwnData:
    """Return the description of a user's data set in a spec; `path` and `reading` as in `load_data`."""
    return OwnData(
        digest=dataset.digest,
        classes=dataset.class_names,
        positive=positive,
        grouped="group" in (dataset.metadata or {}).get("train", {}),
        path=str(Path(path).resolve()),
        **reading,
    )


def own_task(name: str, positive: str) -> str:
    """Return the name of a task on own data; characters but letters, digits and hyphens become underscores.

    >>> own_task("My photos (2)", "cat/dog")
    'own-My_photos__2_-cat_dog'
    """
    said = f"{name}-{positive}"
    task = OWN + "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in said)
    if len(task) <= LONGEST_FILE_NAME:
        return task
    return f"{task[:100]}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def table_specs(
    own: OwnData,
    name: str,
    *,
    profile: str,
    seeds: Sequence[int],
    encoder: str | None = None,
    threshold: float | None = None,
    estimators: Sequence[str] | None = None,
    titles: Sequence[str] = tuple(TABLE_METHODS),
) -> list[AnySpec]:
    """Return a look and the runs of a comparison on a table, seed by seed; for the options see `plan`.

    `titles` picks methods of `TABLE_METHODS`.
    """
    regrouping = {"encoder": encoder, "threshold": threshold}
    runs = [
        {"kind": "table", "method": TABLE_METHODS[title], "estimator": estimator}
        | (regrouping if title in REGROUPED else {})
        for estimator in estimators or ESTIMATORS
        for title in titles
        if estimator in table_methods.METHODS[TABLE_METHODS[title]].estimators
        and (estimators or estimator != BOOSTING or title not in REGROUPED)
    ]
    common = {"profile": profile, "task": own_task(name, own.positive), "own": own}
    return _specs(common, regrouping | {"holds": "rows"}, runs, seeds)


def image_specs(
    own: OwnData,
    dataset: Dataset,
    *,
    profile: str,
    seeds: Sequence[int],
    encoder: str = "pca",
    threshold: float | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
) -> list[AnySpec]:
    """Return a look and the runs of a comparison on images, seed by seed; for the options see `plan`.

    Settings that are not given are those of `image_settings`. Methods that use features as they are, are left
    out with an encoder of pixels.
    """
    settings = image_settings(dataset, own.positive, profile)
    settings |= {} if epochs is None else {"epochs": epochs}
    regrouping, runs = {"encoder": encoder, "threshold": threshold}, []
    for title, method in IMAGE_METHODS.items():
        if not METHODS[method].needs_encoder:
            chosen = settings
        elif title in REGROUPED:
            chosen = settings | regrouping
        elif encoder in PIXELS:
            continue
        elif METHODS[method].features:
            chosen = {"encoder": encoder, "validation_fraction": settings["validation_fraction"]}
        else:
            chosen = settings | {"encoder": encoder, "auxiliary_weight": AUXILIARY_WEIGHT}
        runs.append({"method": method} | chosen)
    common = {"profile": profile, "task": own_task(dataset.name, own.positive), "own": own, "image_size": image_size}
    return _specs(common, regrouping | {"holds": "images"}, runs, seeds)


def _specs(
    common: dict[str, Any], look: dict[str, Any], runs: Sequence[dict[str, Any]], seeds: Sequence[int]
) -> list[AnySpec]:
    specs = [parse_spec(common | run | {"seed": seed}) for seed in seeds for run in runs]
    return [parse_spec(common | look | {"kind": "look", "seed": seeds[0]}), *specs]


def image_settings(dataset: Dataset, positive: str, profile: str) -> dict[str, Any]:
    """Return the training settings for a user's images: by their size and number, the same for every method.

    Images are shifted by up to a tenth of their side and not mirrored, as a mirrored image may show another class.
    """
    n, side = len(dataset.train), max(dataset.train.inputs.shape[1:3])
    n_positive = dataset.class_counts()[dataset.class_names.index(positive)]
    batch_size = 64 if n < 5000 else 128
    epochs = min(max(math.ceil(STEPS * batch_size / n), EPOCHS[0]), EPOCHS[1])
    return {
        "network": "tiny-resnet" if side <= 16 else "slim-resnet" if side <= 48 else "slim-resnet-64",
        "epochs": PROFILES["smoke"]["epochs"] if profile == "smoke" else epochs,
        "batch_size": batch_size,
        "peak_lr": 0.1,
        "flip": False,
        "shift": max(1, side // 10),
        "validation_fraction": 0.1 if n_positive >= FEW_POSITIVES else 0.2,
        "trace_test": False,
    }
