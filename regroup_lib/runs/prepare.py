"""Preparation of a run: its task, features and timings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from regroup_lib.data.ham10000 import divided
from regroup_lib.data.load import load_data
from regroup_lib.data.tasks import Task, make_task
from regroup_lib.encoders.features import Features, encode, make_encoder
from regroup_lib.metrics import clustering_quality
from regroup_lib.runs.methods import TrainingLabels
from regroup_lib.runs.specs import EncoderSpec, LookSpec, Spec


class Busy(Exception):
    """Another process is running this spec, or computing the features that it needs."""


@dataclass(frozen=True)
class _Means:
    """Arguments of a run beside its spec; see the parameters of `run`."""

    data_dir: str | Path | None
    checkpoint: Path
    deadline: float | None
    wait: bool


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


def _encoded(spec: Spec | EncoderSpec | LookSpec, task: Task, means: _Means) -> Features:
    """Return the encoded data set of a task."""
    encoder = make_encoder(spec.encoder, data_dir=means.data_dir, epochs=getattr(spec, "encoder_epochs", None))
    dataset = task.dataset
    if spec.image_size and encoder.image_size:
        # Images decoded from files reach a pre-trained encoder at its own size, not at the network's.
        load = load_data if spec.own is None else lambda name, **options: spec.own.load(**options)
        dataset = load(dataset.name, data_dir=means.data_dir, image_size=encoder.image_size)
        dataset = divided(dataset, getattr(spec, "split", "published"))
    options = {"checkpoint_dir": means.checkpoint.parent, "deadline": means.deadline, "wait": means.wait}
    try:
        return encode(dataset, encoder, data_dir=means.data_dir, **options)
    except Timeout as error:
        raise Busy(f"the features of {dataset.name} by {spec.encoder} are computed by another process") from error


def _features_of(task: Task, encoded: Features) -> dict[str, np.ndarray]:
    """Return the features of each split of the task."""
    sources = {"train": "train", "val": "val" if "val" in encoded.splits else "train", "test": "test"}
    return {part: encoded.splits[source][getattr(task, part).index] for part, source in sources.items()}


def _describe(task: Task, labels: TrainingLabels) -> dict[str, Any]:
    described = {"parent": labels.parent.tolist(), "counts": np.bincount(labels.labels).tolist()}
    divided = np.isin(labels.parent, np.flatnonzero(np.bincount(labels.parent) > 1))
    rows = divided[labels.labels]
    # Where the data set has no finer classes than the task, all clusters would be pure.
    if rows.any() and len(task.fine_class_names) > task.n_classes:
        described |= clustering_quality(task.train.fine_labels[rows], labels.labels[rows])
    return described
