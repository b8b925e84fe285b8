"""What clusters are about: the samples nearest to their centres, the words of their sentences, what images show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.metrics.cluster import contingency_matrix

from regroup_lib.text import words


def nearest_to_center(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a cluster's rows in the order of their distance to its centre."""
    distance = np.linalg.norm(features[rows] - features[rows].mean(axis=0), axis=1)
    return rows[np.argsort(distance, kind="stable")]


@dataclass(frozen=True)
class ClusterDescription:
    """What one cluster of sentences is about, without the sentences: a record may hold it under any data licence.

    Attributes
    ----------
    cluster, size : int
        Its number, and how many sentences it has.
    terms : tuple of str
        Words and pairs of words that set it apart, the strongest first.
    rows : ndarray of int64 [m]
        Rows of the sentences nearest to its centre, the nearest first: ``texts[rows]`` shows them to whoever has the
        data.
    """

    cluster: int
    size: int
    terms: tuple[str, ...]
    rows: np.ndarray


def describe_clusters(
    texts: np.ndarray, features: np.ndarray, labels: np.ndarray, *, n_terms: int = 8, n_nearest: int = 5
) -> list[ClusterDescription]:
    """Describe clusters of sentences by their nearest sentences and by the words that set them apart.

    A term's weight in a cluster is its mean TF-IDF there less its mean TF-IDF in all other sentences.

    Parameters
    ----------
    texts : ndarray of str [n]
    features : ndarray [n, d]
        The space that was clustered.
    labels : ndarray of int64 [n]
        Cluster of each sentence (pseudo-labels), counted from 0.
    n_terms, n_nearest : int
        How many terms and sentences, at most; a term that is not stronger than elsewhere is left out.

    Returns
    -------
    list of ClusterDescription
        One a cluster, in their order.

    Examples
    --------
    >>> texts = np.array(["the ship sails", "the ship sank", "the bird sings"])
    >>> ship, bird = describe_clusters(texts, np.eye(3), np.array([0, 0, 1]))
    >>> ship.terms, texts[bird.rows].tolist()
    (('ship', 'the ship'), ['the bird sings'])
    """
    texts, labels = np.asarray(texts), np.asarray(labels)
    if not len(texts) == len(features) == len(labels):
        raise ValueError(f"{len(texts)} texts, {len(features)} features and {len(labels)} labels; expected as many")
    vectorizer = TfidfVectorizer(
        tokenizer=words, token_pattern=None, lowercase=False, ngram_range=(1, 2), min_df=min(2, len(texts))
    )
    weights = vectorizer.fit_transform(texts)
    names = vectorizer.get_feature_names_out()
    total = np.asarray(weights.sum(axis=0)).ravel()
    described = []
    for cluster in range(int(labels.max()) + 1):
        rows = np.flatnonzero(labels == cluster)
        inside = np.asarray(weights[rows].sum(axis=0)).ravel()
        contrast = inside / max(len(rows), 1) - (total - inside) / max(len(texts) - len(rows), 1)
        strongest = np.argsort(-contrast, kind="stable")
        terms = tuple(str(names[term]) for term in strongest if contrast[term] > 0 and _says_something(names[term]))
        nearest = nearest_to_center(features, rows)[:n_nearest]
        described.append(ClusterDescription(cluster, len(rows), terms[:n_terms], nearest))
    return described


def _says_something(term: str) -> bool:
    """Tell whether every part of a term is a word, and not all of them are so common as to say nothing."""
    parts = term.split()
    return all(len(part) > 1 and part.isalpha() for part in parts) and not set(parts) <= ENGLISH_STOP_WORDS


# ---------------------------------------------------------------- what else is known of the samples


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
    """Return what says how a picture was taken more than what it shows.

    Parameters
    ----------
    images : ndarray of uint8 [n, height, width, channels]

    Returns
    -------
    dict of str to ndarray of float64 [n]
        ``brightness`` and ``contrast`` (mean and standard deviation of grey, 0 to 1), ``dark corners`` (how much
        darker the corners, an eighth of the sides, are than the whole: a dermatoscope's tube) and, in color,
        ``redness`` (red as a share of red, green and blue).
    """
    pixels = images.astype(np.float32) / 255
    grey = pixels.mean(axis=3)
    height, width = (max(1, side // 8) for side in grey.shape[1:])
    corners = [
        grey[:, rows, columns]
        for rows in (slice(height), slice(-height, None))
        for columns in (slice(width), slice(-width, None))
    ]
    corner = np.mean([part.mean(axis=(1, 2)) for part in corners], axis=0)
    brightness = grey.mean(axis=(1, 2))
    found = {"brightness": brightness, "contrast": grey.std(axis=(1, 2)), "dark corners": brightness - corner}
    if pixels.shape[3] == 3:
        channels = pixels.mean(axis=(1, 2))
        found["redness"] = channels[:, 0] / np.maximum(channels.sum(axis=1), 1e-6)
    return {name: values.astype(np.float64) for name, values in found.items()}


def cluster_contents(
    clusters: Sequence[int], images: np.ndarray, columns: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """Say what clusters of one class have to do with what else is known of its images.

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
        and what it is by chance; ``clusters``: a list with, for each, its number, size, and the commonest value
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
