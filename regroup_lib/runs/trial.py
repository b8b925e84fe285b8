"""Estimates of the time and memory of a comparison, from short fits on a part of the data."""

from __future__ import annotations

import math
import pickle
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from imblearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from regroup_lib.data.bundled_tables import Table, table_of
from regroup_lib.data.tasks import make_task
from regroup_lib.encoders.features import make_encoder
from regroup_lib.nn.models import build_network
from regroup_lib.nn.training import ResidentImages, TrainingOptions, train
from regroup_lib.regroup import Regrouping
from regroup_lib.runs import table_methods
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.own import PIXELS, Plan
from regroup_lib.runs.saved import steps_of
from regroup_lib.runs.specs import AnySpec, LookSpec, Spec, TableSpec

ROWS = 2000  # of a table in a trial, and more if fewer positives than TRIED_POSITIVES are among them
TRIED_POSITIVES = 20
CLUSTERED = 40_000  # rows, or a fifth of them, that are clustered, as the clustering of a few takes far fewer steps
COPIES = {"rows": 7, "pixels": 4}  # how often prepared rows and an encoder's pixels are in memory at a time
N_LOOKS = 3  # clusterings before the runs, which tell how stable the clusters are
MAX_BATCHES = 3  # of images in a trial


def estimate(plan: Plan, *, workers: int | None = None) -> str:
    """Return in words which runs of a comparison have no record, and the minutes and memory that they will take.

    Nothing is recorded. The trial takes some seconds: of a table each classifier is fitted on two samples of the rows,
    of images a network is trained on a few batches. Each of the `workers`, processes, has the data in memory.
    """
    todo = [spec for spec in plan.specs if not spec.path().exists() and spec.kind != "look"]
    n_fits = sum(table_methods.N_FOLDS if isinstance(spec, TableSpec) else 1 for spec in todo)
    lines = [f"{len(plan.specs) - 1} runs, {len(todo)} to do: {n_fits} fits"]
    lines += [f"  {count} x {name}" for name, count in Counter(spec.label for spec in todo).items()]
    if todo:
        try_out = _try_table if plan.dataset.is_table else _try_images
        seconds, extra = try_out(plan, todo)
        gigabytes = (workers or 1) * (_peak() + extra) / 1e9
        minutes = max(1, round(seconds / 60 / (workers or 1)))
        lines.append(f"about {minutes} min and {gigabytes:.1f} GB of memory, estimated on a part of the data")
    return "\n".join(lines)


def _peak() -> int:
    """Return the largest memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _try_table(plan: Plan, todo: Sequence[TableSpec]) -> tuple[float, float]:
    """Return the seconds of all runs, and the bytes that the largest adds to those that are in use."""
    table = table_of(plan.dataset, plan.own.positive)
    n, smaller = len(table.labels), np.bincount(table.labels).min()
    tried = min(n, max(ROWS, math.ceil(n * TRIED_POSITIVES / smaller)))
    kinds = {(spec.method, spec.estimator): spec for spec in todo}
    clustering = _cluster(table, plan.specs[0], max(tried, min(CLUSTERED, n // 5)) / n)
    per_run, memory = {}, 0.0
    for kind, spec in kinds.items():
        (few, short, _), (many, long, needed) = (_fit(table, spec, share * tried / n) for share in (0.5, 1))
        per_row = max(0.0, long - short) / max(1, many - few)
        trained = n * (1 - 1 / table_methods.N_FOLDS)
        clustered = clustering * (table_methods.METHODS[spec.method].clusterer is not None)
        per_run[kind] = table_methods.N_FOLDS * (long + per_row * (trained - many) + clustered * trained / n)
        memory = max(memory, needed * n / many)
    return N_LOOKS * clustering + sum(per_run[spec.method, spec.estimator] for spec in todo), memory


def _share(table: Table, spec: AnySpec, share: float) -> tuple[AnySpec, pd.DataFrame, np.ndarray]:
    """Return a spec for a share of the rows, these rows, and their labels."""
    threshold = spec.threshold and max(1, share * spec.threshold)
    spec, rng = spec.model_copy(update={"threshold": threshold}), np.random.default_rng(0)
    of_class = [rng.permutation(np.flatnonzero(table.labels == label)) for label in (0, 1)]
    rows = np.concatenate([found[: math.ceil(share * len(found))] for found in of_class])
    return spec, table.features.iloc[rows], table.labels[rows]


def _cluster(table: Table, spec: LookSpec, share: float) -> float:
    """Cluster a share of the rows; return the seconds that all of them will take."""
    spec, X, y = _share(table, spec, share)
    with threadpool_limits(1):
        columns, _ = table_methods.prepared(X)
        start = time.perf_counter()
        features = table_methods.ENCODERS[spec.encoder]().fit_transform(columns) if spec.encoder else columns
        Regrouping(threshold=spec.threshold, random_state=0).fit(features, y)
        return (time.perf_counter() - start) * len(table.labels) / len(y)


def _fit(table: Table, spec: TableSpec, share: float) -> tuple[int, float, float]:
    """Fit a run's classifier on a share of the rows; return their number, the seconds, and the bytes."""
    spec, X, y = _share(table, spec, share)
    with threadpool_limits(1):
        start = time.perf_counter()
        columns = table_methods.make_preparation().fit_transform(X)
        model = make_pipeline(*steps_of(spec)).fit(columns, y)
        scores = model.predict_proba(columns[: len(y) // 4])
        seconds = time.perf_counter() - start
    n_classes = len(getattr(model[-1], "parent_", scores[0]))
    cells = columns.shape[1] * COPIES["rows"] + 4 * n_classes
    return len(y), seconds, len(y) * cells * 8 + len(pickle.dumps(model))


def _try_images(plan: Plan, todo: Sequence[Spec]) -> tuple[float, float]:
    """Return the seconds of all runs, and the bytes that the largest adds to those that are in use."""
    task = make_task(plan.dataset, positive=plan.own.positive, validation_fraction=todo[0].validation_fraction)
    images, n = task.train.inputs, len(task.train.inputs)
    trained = [spec for spec in todo if not METHODS[spec.method].features]
    seconds, extra = 0.0, 2.0 * plan.dataset.train.inputs.nbytes  # a copy for the task, and one on the device
    for spec in trained[:1]:
        some = images[: MAX_BATCHES * spec.batch_size]
        network = build_network(spec.network, in_channels=images.shape[3], n_classes=2, seed=0)
        chosen: dict[str, Any] = {"batch_size": spec.batch_size, "flip": spec.flip, "shift": spec.shift}
        options = TrainingOptions(epochs=2, peak_lr=1e-3, **chosen)
        labels = np.arange(len(some)) % 2
        history = train(network, ResidentImages(some), labels, options=options, seed=0)
        per_image = history.traces[-1]["seconds"] / len(some)  # of the second epoch, as the first starts slowly
        held_out = len(task.val.inputs) / 3  # a forward pass alone, after each epoch
        seconds = sum(per_image * (n + held_out) * each.epochs for each in trained)
    encoder = plan.specs[0].encoder
    n_all = sum(map(len, plan.dataset.splits.values()))
    if encoder in PIXELS:
        return seconds, extra + COPIES["pixels"] * n * images[0].size * 4
    tried, start = make_encoder(encoder), time.perf_counter()
    features = tried.fit(images[:32]).transform(images[:32])
    seconds += (time.perf_counter() - start) * n_all / len(features)
    return seconds, extra + n_all * (4 * features[0].nbytes + 3 * (tried.image_size or 0) ** 2)
