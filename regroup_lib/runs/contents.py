"""What the clusters of images hold: how much of each column of metadata, and of the way a picture was taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics.cluster import contingency_matrix


def explained_share(clusters: Sequence[int], values: Sequence[Any]) -> float:
    """Return the share of a quantity's variation that clusters explain, corrected for chance.

    For numbers it is the adjusted R² of their means by cluster; for categories the same of their indicators, which
    is Goodman and Kruskal's tau, adjusted. Random clusters have 0 on average, clusters that determine the quantity 1.

    Parameters
    ----------
    clusters : sequence of int [n]
    values : sequence [n]
        Numbers, or strings for categories. NaN and ``""``, ``"unknown"`` are left out.

    Returns
    -------
    float
        NaN where all values are equal, or there are not more values than clusters.

    Examples
    --------
    >>> explained_share([0, 0, 1, 1, 2, 2], [1.0, 1.0, 5.0, 5.0, 9.0, 9.0])
    1.0
    """
    clusters, values = np.asarray(clusters), np.asarray(values)
    if clusters.shape != values.shape or clusters.ndim != 1:
        raise ValueError(f"clusters have shape {clusters.shape} and values {values.shape}; both must be [n]")
    numeric = values.dtype.kind in "fiub"
    known = np.isfinite(values) if numeric else ~np.isin(values, ("", "unknown"))
    groups = np.unique(clusters[known], return_inverse=True)[1]
    values = values[known]
    n, k = len(values), groups.max(initial=-1) + 1
    table = values[:, None].astype(np.float64) if numeric else (values[:, None] == np.unique(values)).astype(np.float64)
    total = ((table - table.mean(axis=0)) ** 2).sum() if n else 0.0
    if total == 0 or n <= k:
        return float("nan")
    means = np.stack([np.bincount(groups, weights=column) for column in table.T], axis=1) / np.bincount(groups)[:, None]
    within = ((table - means[groups]) ** 2).sum()
    return float(1 - within / total * (n - 1) / (n - k))


def image_statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return statistics that depend on how a picture was taken more than on its subject.

    Parameters
    ----------
    images : ndarray of uint8 [n, height, width, channels]

    Returns
    -------
    dict of str to ndarray of float64 [n]
        ``brightness`` and ``contrast`` (mean and standard deviation of gray, 0 to 1), ``dark corners`` (how much
        darker the corners, an eighth of the sides, are than the whole: a dermatoscope's tube) and, in color,
        ``redness`` (red as a share of red, green and blue).
    """
    pixels = images.astype(np.float32) / 255
    gray = pixels.mean(axis=3)
    height, width = (max(1, side // 8) for side in gray.shape[1:])
    corners = [
        gray[:, rows, columns]
        for rows in (slice(height), slice(-height, None))
        for columns in (slice(width), slice(-width, None))
    ]
    corner = np.mean([part.mean(axis=(1, 2)) for part in corners], axis=0)
    brightness = gray.mean(axis=(1, 2))
    found = {"brightness": brightness, "contrast": gray.std(axis=(1, 2)), "dark corners": brightness - corner}
    if pixels.shape[3] == 3:
        channels = pixels.mean(axis=(1, 2))
        found["redness"] = channels[:, 0] / np.maximum(channels.sum(axis=1), 1e-6)
    return {name: values.astype(np.float64) for name, values in found.items()}


def cluster_contents(
    clusters: Sequence[int], images: np.ndarray, columns: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """Relate the clusters of one class to metadata and statistics of its images.

    Parameters
    ----------
    clusters : sequence of int [n]
    images : ndarray of uint8 [n, height, width, channels]
    columns : mapping of str to ndarray [n], optional
        Metadata. With ``lesion_id``, one image a lesion is looked at, as further ones would count twice;
        ``image_id`` is left out.

    Returns
    -------
    dict
        ``n`` images looked at; ``explained``: `explained_share` of each column and of each of `image_statistics`;
        ``same_lesion``, where lesions are known: the share of pairs of images of one lesion that lie in one cluster,
        and the same share by chance; ``clusters``: a list with, for each, its number, size, and the commonest value
        (with its share) or the median of each column.
    """
    clusters, columns = np.asarray(clusters), dict(columns or {})
    columns.pop("image_id", None)
    lesions = columns.pop("lesion_id", None)
    result: dict[str, Any] = {}
    rows = np.arange(len(clusters))
    if lesions is not None:
        result["same_lesion"] = _pairs_together(clusters, lesions)
        rows = np.unique(lesions, return_index=True)[1]
    everything = {**columns, **image_statistics(images)}
    result["n"] = len(rows)
    result["explained"] = {name: explained_share(clusters[rows], v[rows]) for name, v in everything.items()}
    result["clusters"] = [
        {"cluster": int(k), "size": int((clusters == k).sum())}
        | {name: _typical(values[rows][clusters[rows] == k]) for name, values in everything.items()}
        for k in np.unique(clusters)
    ]
    return result


def _pairs_together(clusters: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Return the share of pairs within a group that are in one cluster, and the share of all pairs that are."""

    def pairs(counts: np.ndarray) -> int:
        return int((counts.astype(np.int64) * (counts - 1) // 2).sum())

    table = contingency_matrix(groups, clusters, sparse=True)
    of_groups, of_clusters = (np.asarray(table.sum(axis=axis)).ravel() for axis in (1, 0))
    n_pairs, n = pairs(of_groups), len(clusters)
    together = pairs(table.data) / n_pairs if n_pairs else float("nan")
    return {"pairs": n_pairs, "together": together, "chance": pairs(of_clusters) / max(1, n * (n - 1) // 2)}


def _typical(values: np.ndarray) -> list[Any] | float | None:
    """Return the commonest category with its share, or the median; None where nothing is known."""
    if values.dtype.kind in "fiub":
        values = values[np.isfinite(values)]
        return round(float(np.median(values)), 4) if len(values) else None
    values = values[~np.isin(values, ("", "unknown"))]
    if not len(values):
        return None
    names, counts = np.unique(values, return_counts=True)
    return [str(names[counts.argmax()]), round(float(counts.max() / len(values)), 4)]
