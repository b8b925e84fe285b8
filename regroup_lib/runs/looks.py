"""Runs without a classifier: the clusters that an encoder finds, and their contents."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from sklearn.metrics.cluster import contingency_matrix, pair_confusion_matrix
from sklearn.model_selection import train_test_split

from regroup_lib.data.tasks import Task
from regroup_lib.diagnostics import describe_clusters, diagnose, nearest_to_center
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
EXAMPLES = 6  # training samples nearest to a pseudo-class's center in an encoder's record


SHOWN_CLUSTERS = 12  # of the largest class, in a record that does not show all


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
    options = {"threshold": spec.threshold, "seed": spec.seed}
    labels = training_labels(task, METHODS["rg"], features=features["train"], **options)
    seconds = {"encode": encoded.seconds, "regroup": time.perf_counter() - start}
    described = _describe(task, labels)
    metrics: dict[str, Any] = {name: described.pop(name) for name in ("purity", "nmi", "ari") if name in described}
    metrics["neighbor_accuracy"] = neighbor_accuracy(features["test"], task.test.fine_labels)
    rows, position = _embed(features["test"], task.test.fine_labels)
    arrays = {"embedding": position, "embedding_labels": task.test.fine_labels[rows].astype(np.uint8)}
    if task.dataset.is_text:
        # Rows and words instead of sentences, whose license may forbid copies.
        clusters = describe_clusters(task.train.inputs, features["train"], labels.labels, n_nearest=EXAMPLES)
        described["terms"] = [list(cluster.terms) for cluster in clusters]
        described["fine_counts"] = contingency_matrix(labels.labels, task.train.fine_labels).tolist()
        arrays["example_rows"] = np.stack([np.resize(cluster.rows, EXAMPLES) for cluster in clusters])
    elif task.n_classes == 2:
        arrays["examples"] = _examples(task, labels, features["train"], range(len(labels.parent)), n=EXAMPLES)
    else:
        largest = task.class_counts.index(max(task.class_counts))
        rows = np.flatnonzero(task.train.labels == largest)
        known = (task.dataset.metadata or {}).get("train", {})
        columns = {name: values[task.train.index][rows] for name, values in known.items()}
        metrics["contents"] = cluster_contents(labels.labels[rows], task.train.inputs[rows], columns)
        shown = _largest_clusters(labels, largest)
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
        # All rows, because each of them is in the training part of some folds.
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
    """Return the pseudo-classes of a look, and the rows of `diagnose` for the divided classes."""
    labels = (fine_labels == list(fine_names).index(spec.class_names[1])).astype(np.int64)
    diagnosis = diagnose(
        features,
        np.array(spec.class_names)[labels],
        regrouping=Regrouping(threshold=spec.threshold),
        sub_labels=fine_labels if len(fine_names) > 2 else None,
        seed=spec.seed,
    )
    regrouping = diagnosis.regrouping  # its classes are in the order of their names, unlike the task's
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
    """Return the images nearest to the centers of the given pseudo-classes, uint8 [K, n, h, w, c]."""
    nearest = []
    for k in clusters:
        order = nearest_to_center(features, np.flatnonzero(labels.labels == k))
        nearest.append(task.train.inputs[np.resize(order, n)])
    return np.stack(nearest)


UNKNOWN = ("", "unknown")  # uninformative values of a column of text


def cluster_contents(
    clusters: np.ndarray, images: np.ndarray, columns: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """Relate the clusters int [n] of one class to statistics of its images uint8 [n, h, w, c] and to metadata [n].

    With a column ``lesion_id``, only one image per lesion counts.

    Returns
    -------
    dict
        ``n`` images looked at; ``explained``: `explained_share` of each column and of each of `image_statistics`;
        ``same_lesion``, where lesions are known: the share of pairs of images of one lesion that lie in one cluster,
        and the same share by chance; ``clusters``: a list with, for each, its number, size, and the commonest value
        (with its share) or the median of each column.
    """
    known = {name: values for name, values in (columns or {}).items() if name not in ("image_id", "lesion_id")}
    known |= image_statistics(images)
    result: dict[str, Any] = {}
    rows = np.arange(len(clusters))
    if columns and "lesion_id" in columns:
        result["same_lesion"] = _pairs_together(clusters, columns["lesion_id"])
        rows = np.unique(columns["lesion_id"], return_index=True)[1]
    result["n"] = len(rows)
    result["explained"] = {name: explained_share(clusters[rows], v[rows]) for name, v in known.items()}
    result["clusters"] = [
        {"cluster": int(k), "size": int((clusters == k).sum())}
        | {name: _typical(values[rows][clusters[rows] == k]) for name, values in known.items()}
        for k in np.unique(clusters)
    ]
    return result


def explained_share(clusters: Sequence[int], values: Sequence[Any]) -> float:
    """Return the share of a quantity's variation that clusters explain, corrected for chance.

    For numbers it is the adjusted R² of their means by cluster; for categories the same of their indicators, which
    is Goodman and Kruskal's tau, adjusted. Random clusters have 0 on average, clusters that determine the quantity 1.
    It is NaN if all known values are equal, or there are no more of them than clusters.
    """
    column = pd.Series(np.asarray(values))
    numeric = column.dtype.kind in "fiub"
    column = column[np.isfinite(column) if numeric else ~column.isin(UNKNOWN)]
    groups = pd.Series(clusters)[column.index]
    table = column.astype(float).to_frame() if numeric else pd.get_dummies(column, dtype=float)
    n, k = len(column), groups.nunique()
    total = ((table - table.mean()) ** 2).to_numpy().sum()
    if total == 0 or n <= k:
        return float("nan")
    within = ((table - table.groupby(groups).transform("mean")) ** 2).to_numpy().sum()
    return float(1 - within / total * (n - 1) / (n - k))


def image_statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return statistics [n] of images [n, h, w, c] that depend on the photography more than on the subject.

    ``brightness`` and ``contrast`` are mean and standard deviation of gray (0 to 1), ``dark corners`` is how much
    darker the corners, an eighth of the sides, are than the whole (a dermatoscope's tube), and ``redness``, in color,
    is red as a share of red, green and blue.
    """
    pixels = images.astype(np.float32) / 255
    gray = pixels.mean(axis=3)
    height, width = (max(1, side // 8) for side in gray.shape[1:])
    corners = [gray[:, rows, columns] for rows in _ends(height) for columns in _ends(width)]
    corner = np.mean([part.mean(axis=(1, 2)) for part in corners], axis=0)
    brightness = gray.mean(axis=(1, 2))
    found = {"brightness": brightness, "contrast": gray.std(axis=(1, 2)), "dark corners": brightness - corner}
    if pixels.shape[3] == 3:
        channels = pixels.mean(axis=(1, 2))
        found["redness"] = channels[:, 0] / np.maximum(channels.sum(axis=1), 1e-6)
    return {name: values.astype(np.float64) for name, values in found.items()}


def _ends(n: int) -> tuple[slice, slice]:
    return slice(n), slice(-n, None)


def _pairs_together(clusters: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Return the share of pairs within a group that are in one cluster, and the share of all pairs that are."""
    pairs = pair_confusion_matrix(groups, clusters)  # each pair twice, by being in one group and in one cluster
    n_pairs = int(pairs[1].sum() // 2)
    together = float(pairs[1, 1] / pairs[1].sum()) if n_pairs else float("nan")
    return {"pairs": n_pairs, "together": together, "chance": float(pairs[:, 1].sum() / max(1, pairs.sum()))}


def _typical(values: np.ndarray) -> list[Any] | float | None:
    """Return the commonest category with its share, or the median; None where nothing is known."""
    if values.dtype.kind in "fiub":
        values = values[np.isfinite(values)]
        return round(float(np.median(values)), 4) if len(values) else None
    names, counts = np.unique(values[~np.isin(values, UNKNOWN)], return_counts=True)
    return [str(names[counts.argmax()]), round(float(counts.max() / counts.sum()), 4)] if len(names) else None


def _reconstructions(task: Task, encoded: Features) -> dict[str, np.ndarray]:
    """Return a test image of each fine class with its reconstruction, and the errors of all test images.

    ``squared_errors`` and ``squared_deviations`` are sums over an image's values, in units of the pixel range, to its
    reconstruction and to the mean color of the test set.
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
