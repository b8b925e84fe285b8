"""Runs that train no classifier: what an encoder clusters, and what its clusters contain."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from sklearn.metrics.cluster import contingency_matrix
from sklearn.model_selection import train_test_split

from regroup_lib.data.tasks import Task
from regroup_lib.diagnostics import cluster_contents, describe_clusters, diagnose, nearest_to_center
from regroup_lib.encoders.features import Features
from regroup_lib.encoders.pixels import AutoencoderEncoder
from regroup_lib.metrics import neighbor_accuracy
from regroup_lib.regroup import Regrouping
from regroup_lib.runs import table_methods
from regroup_lib.runs.methods import METHODS, TrainingLabels, training_labels
from regroup_lib.runs.prepare import _describe, _encoded, _features_of, _Means, _task_of
from regroup_lib.runs.records import Record
from regroup_lib.runs.specs import EncoderSpec, LookSpec

EMBEDDED_POINTS = 2500  # test samples in a t-SNE plot
EXAMPLES = 6  # training samples nearest to a pseudo-class's centre that an encoder's record names


SHOWN_CLUSTERS = 12  # of the largest class: those whose images a record keeps where it does not keep all


def embedded_rows(fine_labels: np.ndarray) -> np.ndarray:
    """Return the test rows in a t-SNE plot, ascending: the same for every encoder and network."""
    rows = np.arange(len(fine_labels))
    if len(rows) <= EMBEDDED_POINTS:
        return rows
    return np.sort(train_test_split(rows, train_size=EMBEDDED_POINTS, random_state=0, stratify=fine_labels)[0])


def _embed(features: np.ndarray, fine_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows in the plot and their t-SNE positions [m, 2]."""
    rows = embedded_rows(fine_labels)
    chosen = features[rows]
    position = TSNE(perplexity=30, init="pca", random_state=0).fit_transform(chosen.astype(np.float32))
    return rows, position.astype(np.float32)


def _run_encoder(spec: EncoderSpec, means: _Means) -> tuple[Record, dict[str, np.ndarray]]:
    task = _task_of(spec, means.data_dir, validation_fraction=0)
    encoded = _encoded(spec, task, means)
    features = _features_of(task, encoded)
    start = time.perf_counter()
    labels = training_labels(
        task,
        METHODS["rg"],
        features=features["train"],
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


def _run_look(spec: LookSpec, means: _Means) -> tuple[Record, dict[str, np.ndarray]]:
    task = _task_of(spec, means.data_dir, validation_fraction=0)
    start, notes = time.perf_counter(), list(task.dataset.notes)
    if task.dataset.is_table:
        # All rows, as all of them train in some fold of the cross-validation.
        columns, names = table_methods.prepared(pd.concat([split.inputs for split in task.dataset.splits.values()]))
        features = table_methods.ENCODERS[spec.encoder]().fit_transform(columns) if spec.encoder else columns
        fine = np.concatenate([split.labels for split in task.dataset.splits.values()])
    else:
        encoded = _encoded(spec, task, means)
        features, names = _features_of(task, encoded)["train"], []
        notes += encoded.encoder.notes
        fine = task.train.fine_labels
    labels, diagnosis = _diagnosed(spec, features, fine, task.dataset.class_names)
    shown = [*_largest_clusters(labels, 0), *_largest_clusters(labels, 1)]
    if task.dataset.is_table:
        arrays = {"centers": np.stack([columns[labels.labels == k].mean(axis=0) for k in shown]).astype(np.float32)}
    else:
        arrays = {"examples": _examples(task, labels, features, shown, n=8)}
    dataset = task.dataset
    counts = {part: dict(zip(dataset.class_names, dataset.class_counts(part), strict=True)) for part in dataset.splits}
    record = Record(
        spec=spec,
        status="finished",
        metrics={"class_counts": counts, "notes": notes, "diagnosis": diagnosis, "columns": names},
        regrouping={"parent": labels.parent.tolist(), "counts": np.bincount(labels.labels).tolist()},
        seconds={"look": time.perf_counter() - start},
        data_digest=dataset.digest,
    )
    return record, arrays | {"shown": np.array(shown)}


def _diagnosed(
    spec: LookSpec, features: np.ndarray, fine_labels: np.ndarray, fine_names: Sequence[str]
) -> tuple[TrainingLabels, list[dict[str, Any]]]:
    """Return the pseudo-classes of a look, and what `diagnose` says of each class that is divided."""
    labels = (fine_labels == list(fine_names).index(spec.class_names[1])).astype(np.int64)
    diagnosis = diagnose(
        features,
        np.array(spec.class_names)[labels],
        regrouping=Regrouping(threshold=spec.threshold),
        sub_labels=fine_labels if len(fine_names) > 2 else None,
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
    """Return one test image of each fine class and what the autoencoder makes of it, and the errors of all test images.

    ``squared_errors`` and ``squared_deviations`` are sums over an image's values, in units of the pixel range: to its
    reconstruction, and to the mean color of the test set.
    """
    if not isinstance(encoded.encoder, AutoencoderEncoder):
        return {}
    images = task.test.inputs
    _, first = np.unique(task.test.fine_labels, return_index=True)
    made = np.concatenate([encoded.encoder.reconstruct(images[i : i + 1000]) for i in range(0, len(images), 1000)])
    mean = images.mean(axis=(0, 1, 2))
    squared = {
        "squared_errors": [((a / 255 - b / 255) ** 2).sum() for a, b in zip(images, made, strict=True)],
        "squared_deviations": [((image / 255 - mean / 255) ** 2).sum() for image in images],
    }
    shown = {"originals": images[first[:10]], "reconstructions": made[first[:10]]}
    return shown | {name: np.array(values, np.float32) for name, values in squared.items()}
