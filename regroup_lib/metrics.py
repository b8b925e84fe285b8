"""Measures: balanced accuracy, average precision, clustering quality, concentration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.metrics import (
    adjusted_rand_score,
    average_precision_score,
    normalized_mutual_info_score,
    precision_recall_curve,
    recall_score,
)
from sklearn.metrics.cluster import contingency_matrix
from sklearn.neighbors import NearestNeighbors

from regroup_lib.inputs import for_sklearn

Z = float(norm.ppf(0.975))  # of intervals of 95%
BATCH = 64  # weightings at a time


def evaluate(y_true: Sequence[int], scores: np.ndarray, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure a classifier by its scores.

    Parameters
    ----------
    y_true : sequence of int [n]
        Class indices 0..C-1; every class occurs.
    scores : array [n, C] or [n]
        Class scores; a vector is the positive class's probability in a binary task.
    class_names : sequence of str, optional
        Keys of the per-class results; default ``"0"``, ``"1"``, ...

    Returns
    -------
    dict
        ``balanced_accuracy`` (of the argmax; a binary tie goes to the positive class, as in the paper),
        ``average_precision``, ``calibrated_average_precision`` and ``prevalence`` (dict by class) and
        ``intervals`` with the keys ``balanced_accuracy`` and ``average_precision``. Intervals cover the test
        sample's randomness, not the training's, at 95%: a normal one for balanced accuracy, the binomial logit
        interval of Boyd, Eng & Page (2013) for average precision.

    Raises
    ------
    ValueError
        If lengths disagree, a score is not finite, a vector is no probability, a class has no sample, or names are not
        one for each class.

    Examples
    --------
    >>> result = evaluate([0, 0, 1], [0.1, 0.8, 0.7])
    >>> result["balanced_accuracy"], result["average_precision"]["1"]
    (0.75, 0.5)
    """
    y_true, scores = np.asarray(for_sklearn(y_true)), np.asarray(for_sklearn(scores), dtype=np.float64)
    if scores.ndim == 1:
        if (scores < 0).any() or (scores > 1 + 1e-6).any():  # in single precision, a sum of probabilities may exceed 1
            raise ValueError("scores are not probabilities; pass a column for each class, such as [-score, score]")
        scores = np.stack([1 - scores, scores], axis=1)
    if scores.ndim != 2 or y_true.ndim != 1 or len(y_true) != len(scores):
        raise ValueError(f"y_true has shape {y_true.shape} and scores {scores.shape}; expected [n] and [n, C]")
    n_classes = scores.shape[1]
    names = [str(name) for name in (class_names if class_names is not None else range(n_classes))]
    if len(names) != n_classes or len(set(names)) < n_classes:
        raise ValueError(f"{len(set(names))} class names for {n_classes} columns of scores")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).any(axis=1).sum())} rows of scores are NaN or infinite")
    if y_true.dtype.kind not in "iu" or len(y_true) == 0 or y_true.min() < 0 or y_true.max() >= n_classes:
        raise ValueError(f"y_true must be class indices from 0 to {n_classes - 1}: np.searchsorted(classes_, y)")
    counts = np.bincount(y_true, minlength=n_classes)
    if (counts == 0).any():
        raise ValueError(f"classes {[names[c] for c in np.flatnonzero(counts == 0)]} have no sample in y_true")
    recalls = recall_score(y_true, decide(scores), labels=range(n_classes), average=None)
    precision = [float(average_precision_score(y_true == c, scores[:, c])) for c in range(n_classes)]
    calibrated = [calibrated_average_precision(y_true == c, scores[:, c]) for c in range(n_classes)]
    return {
        "balanced_accuracy": float(recalls.mean()),
        "average_precision": dict(zip(names, precision, strict=True)),
        "calibrated_average_precision": dict(zip(names, calibrated, strict=True)),
        "prevalence": dict(zip(names, (counts / len(y_true)).tolist(), strict=True)),
        "intervals": {
            "balanced_accuracy": accuracy_interval(recalls, counts),
            "average_precision": dict(zip(names, map(precision_interval, precision, counts.tolist()), strict=True)),
        },
    }


def selection_score(y_true: Sequence[int], scores: np.ndarray, counts: Sequence[int]) -> float:
    """Return the average precision by which settings are chosen.

    Of two classes it is that of the smaller in `counts` (of equal ones the second), else the mean over classes.
    """
    precisions = list(evaluate(y_true, scores)["average_precision"].values())
    return precisions[int(counts[1] <= counts[0])] if len(precisions) == 2 else float(np.mean(precisions))


def decide(scores: np.ndarray) -> np.ndarray:
    """Return the class index with the largest score, int64 [n]; of two classes a tie goes to the second, the positive.

    The paper's decision rule (Section 2.2) for aggregated scores [n, C].
    """
    return (scores[:, 1] >= scores[:, 0]).astype(np.int64) if scores.shape[1] == 2 else scores.argmax(axis=1)


def accuracy_interval(recalls: np.ndarray, counts: np.ndarray) -> list[float]:
    """Return the normal interval of balanced accuracy, [low, high], from each class's recall and sample count."""
    accuracy = float(np.mean(recalls))
    variance = float((recalls * (1 - recalls) / counts).sum())
    margin = Z * variance**0.5 / len(recalls)
    return [max(0.0, accuracy - margin), min(1.0, accuracy + margin)]


def precision_interval(value: float, n_positives: int) -> list[float]:
    """Return the binomial logit interval of average precision, [low, high].

    0 and 1 are moved by half a positive, where the logit is finite.
    """
    center = min(max(value, 0.5 / n_positives), 1 - 0.5 / n_positives) if n_positives > 1 else 0.5
    margin = Z / np.sqrt(n_positives * center * (1 - center))
    return [min(value, float(expit(logit(center) - margin))), max(value, float(expit(logit(center) + margin)))]


def calibrated_average_precision(
    positive: Sequence[bool], scores: Sequence[float], *, prevalence: float = 0.5
) -> float:
    """Return the average precision that the ranking would have at a reference prevalence.

    Precision at each threshold is computed from the true and false positive rates as if positives made up
    `prevalence` of the data (Williams 2021); a random ranking scores `prevalence`, whatever the class's size.

    Parameters
    ----------
    positive : sequence of bool [n]
    scores : sequence of float [n]
    prevalence : float
        Reference prevalence, between 0 and 1.
    """
    positive = np.asarray(positive, dtype=bool)
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence is {prevalence}; it must lie between 0 and 1")
    if positive.all() or not positive.any():
        raise ValueError("calibrated average precision needs samples of both classes")
    # Weights that give positives and negatives the masses `prevalence` and 1 - `prevalence`.
    weights = np.where(positive, prevalence / positive.sum(), (1 - prevalence) / (~positive).sum())
    precision, recall, _ = precision_recall_curve(positive, scores, sample_weight=weights)
    return float(-np.sum(np.diff(recall) * precision[:-1]))


def weighted_average_precisions(positive: Sequence[bool], scores: Sequence[float], weights: np.ndarray) -> np.ndarray:
    """Return the average precision [m] of one ranking [n] under many weightings of its samples, at least 0, [m, n].

    The result equals `average_precision_score(positive, scores, sample_weight=w)` for each row w, NaN for one that
    leaves no positive, but needs only one sort. A bootstrap of a test set is a matrix of such weights, the counts of
    its samples.
    """
    positive, scores = np.asarray(positive, dtype=bool), np.asarray(scores, dtype=np.float64)
    weights = np.asarray(weights)
    if positive.shape != scores.shape or weights.ndim != 2 or weights.shape[1:] != scores.shape:
        raise ValueError(
            f"positive has shape {positive.shape}, scores {scores.shape} and weights {weights.shape}; "
            "expected [n], [n] and [m, n]"
        )
    result = np.full(len(weights), np.nan)
    if not positive.any():
        return result
    order = np.argsort(-scores, kind="stable")
    places = np.flatnonzero(positive[order])
    # Samples with equal scores are one step of the curve, which ends at the last of them; steps without a positive
    # add nothing and are skipped.
    all_ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    step_of, first_places = np.unique(np.searchsorted(all_ends, places), return_index=True)
    ends = all_ends[step_of]
    starts = np.append(0, ends[:-1] + 1)
    for start in range(0, len(weights), BATCH):
        batch = weights[start : start + BATCH]
        above = np.add.reduceat(batch[:, order[: ends[-1] + 1]], starts, axis=1, dtype=np.float64).cumsum(axis=1)
        steps = np.add.reduceat(batch[:, order[places]], first_places, axis=1, dtype=np.float64)
        true = steps.cumsum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(above > 0, true / above, 0.0)
            result[start : start + BATCH] = (steps * precision).sum(axis=1) / true[:, -1]
    return result


def bootstrap_counts(labels: Sequence[int], n_resamples: int, *, seed: int = 0) -> np.ndarray:
    """Return how often each sample occurs in resamples drawn within its class, uint16 [n_resamples, n].

    Within a class, because average precision depends on the prevalence, which should not change. The first row has
    each sample once, so that the first of the results computed from all rows is the plain value. The array is
    read-only and cached, because all methods of a task use the same resamples.
    """
    return _bootstrap_counts(np.asarray(labels, dtype=np.int64).tobytes(), n_resamples, seed)


@lru_cache(maxsize=16)
def _bootstrap_counts(encoded: bytes, n_resamples: int, seed: int) -> np.ndarray:
    labels, rng = np.frombuffer(encoded, np.int64), np.random.default_rng(seed)
    counts = np.ones((n_resamples, len(labels)), np.uint16)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # Drawing rows and counting them is 30 times as fast as drawing the counts (a multinomial of n categories).
        for resample in counts[1:]:
            resample[rows] = np.bincount(rng.integers(len(rows), size=len(rows)), minlength=len(rows))
    counts.flags.writeable = False
    return counts


def total_variation(features: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Return how widely each class is spread, relative to the whole set (Figure 5 of the paper).

    Parameters
    ----------
    features : array [n, d]
        Penultimate features of the training set.
    labels : sequence of int [n]
        Classes 0..K-1 that the network is trained on.

    Returns
    -------
    ndarray of float64 [K]
        Mean squared distance of a class's features to their center, divided by the same figure over the whole
        set, so that epochs and networks can be compared. NaN for a class without a sample.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or labels.shape != (len(features),):
        raise ValueError(f"features have shape {features.shape} and labels {labels.shape}; expected [n, d] and [n]")
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise ValueError("labels must be class indices from 0")
    if features.dtype not in (np.float32, np.float64):  # integers would truncate the center, and halves overflow
        features = features.astype(np.float64)

    def spread(rows: np.ndarray) -> float:
        if len(rows) == 0:
            return float("nan")
        centered = rows - rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
        return float(np.einsum("ij,ij->i", centered, centered).mean(dtype=np.float64))

    whole = spread(features)
    if whole == 0:
        raise ValueError("all features are equal; their spread cannot be compared")
    return np.array([spread(features[labels == k]) / whole for k in range(int(labels.max()) + 1)])


def clustering_quality(labels: Sequence[int], clusters: Sequence[int]) -> dict[str, float]:
    """Return purity, normalized mutual information (NMI) and adjusted Rand index (ARI) of clusters.

    Purity is the share of samples whose class is the most frequent one of their cluster.
    """
    table = contingency_matrix(labels, clusters)
    return {
        "purity": float(table.max(axis=0).sum() / table.sum()),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
    }


def neighbor_accuracy(features: np.ndarray, labels: Sequence[int], *, n_neighbors: int = 5) -> float:
    """Return the leave-one-out accuracy of the majority vote of the nearest neighbors (cosine distance)."""
    features, labels = np.asarray(features, dtype=np.float32), np.asarray(labels)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(unit)
    neighbors = search.kneighbors(return_distance=False)  # without the point itself
    votes = np.apply_along_axis(np.bincount, 1, labels[neighbors], minlength=labels.max() + 1)
    return float((votes.argmax(axis=1) == labels).mean())
