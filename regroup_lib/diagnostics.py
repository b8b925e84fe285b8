"""Diagnostics: whether regrouping is likely to help, before training, and how good the scores are, after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.metrics import adjusted_rand_score, silhouette_score

from regroup_lib.inputs import as_matrix, check_labels, check_whole, words
from regroup_lib.metrics import clustering_quality
from regroup_lib.regroup import Regrouping, seed_of

if TYPE_CHECKING:  # a user of tables does not need Matplotlib
    from matplotlib.figure import Figure

SILHOUETTE_SAMPLES = 2000
STABLE = 0.69  # below it, regrouping lowered AP in 15 of 18 pairs of a table and a classifier (the book's forecast)


@dataclass(frozen=True)
class Diagnosis:
    """Properties of a clustering of the large classes, before anything is trained.

    Attributes
    ----------
    regrouping : Regrouping
        Fitted, with the first seed.
    classes : DataFrame
        One row for each divided class: ``samples``, ``clusters``, ``smallest`` and ``largest`` cluster, ``stability``
        (mean adjusted Rand index of clusterings with different seeds: 1 the same, 0 unrelated), ``silhouette`` (of at
        most 2,000 samples; near 0: no separate clusters), and with known sub-labels ``purity``, ``nmi``, ``ari``.
    """

    regrouping: Regrouping
    classes: pd.DataFrame

    @property
    def text(self) -> str:
        """The classes in words, one sentence for each divided class."""
        return describe_classes(self.classes)


def describe_classes(classes: pd.DataFrame) -> str:
    """Return the ``classes`` of a `Diagnosis` in words, one sentence for each class."""
    if classes.empty:
        return "No class is above the threshold, so nothing is divided and regrouping changes nothing."
    lines = []
    for name, row in classes.iterrows():
        same = row.stability >= STABLE
        stable = "the same clusters" if row.stability >= 0.8 else "similar clusters" if same else "other clusters"
        apart = "well apart" if row.silhouette >= 0.25 else "overlapping" if row.silhouette >= 0.05 else "not apart"
        lines.append(
            f"{name}: {row.clusters:.0f} clusters of {row.smallest:.0f} to {row.largest:.0f} samples; "
            f"another seed finds {stable} (adjusted Rand index {row.stability:.2f}); "
            f"they are {apart} (silhouette {row.silhouette:.2f})."
        )
        if not same:
            lines.append("On tables, clusters as unstable as these have mostly lowered average precision.")
    return " ".join(lines)


def diagnose(
    features: np.ndarray,
    labels: Sequence[Any],
    *,
    regrouping: Regrouping | None = None,
    sub_labels: Sequence[Any] | None = None,
    n_repeats: int = 3,
    seed: int | None = 0,
) -> Diagnosis:
    """Cluster the large classes several times, and measure how stable, separate and pure the clusters are.

    Parameters
    ----------
    features : array, tensor or SciPy sparse array [n, d]
    labels : sequence [n]
    regrouping : Regrouping, optional
        The clusterer, threshold and number of clusters to look at. Default: the paper's.
    sub_labels : sequence [n], optional
        Finer labels, where they are known for a check.
    n_repeats : int
        Clusterings that are compared, at least 2.
    seed : int or None
        Of the first clustering; the others count up. None draws it.

    Notes
    -----
    Stable clusters do not guarantee a gain, because they may have nothing to do with the classes. Only a comparison on
    held-out data can show it.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> features = np.concatenate([rng.normal(m, 0.1, (50, 2)) for m in (0, 5, 9)])
    >>> diagnosis = diagnose(features, [0] * 100 + [1] * 50)
    >>> diagnosis.classes[["clusters", "smallest"]].values.tolist(), float(diagnosis.classes.stability[0])
    ([[2, 50]], 1.0)
    """
    check_whole(n_repeats=n_repeats)
    if n_repeats < 2:
        raise ValueError(f"n_repeats is {n_repeats}; stability needs at least 2 clusterings")
    if not isinstance(regrouping, Regrouping | None):
        raise ValueError(f"regrouping is {regrouping!r}; expected a Regrouping, such as Regrouping(n_clusters=3)")
    features, labels = as_matrix(features), check_labels(labels)
    if sub_labels is not None:
        sub_labels = check_labels(sub_labels)
        if len(sub_labels) != len(labels):
            raise ValueError(f"{len(sub_labels)} sub-labels but {len(labels)} labels; expected one for each sample")
    seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed_of(seed)
    options = {} if regrouping is None else regrouping.get_params(deep=False)
    fits = [Regrouping(**options | {"random_state": seed + i * 1000}).fit(features, labels) for i in range(n_repeats)]
    rows = {}
    for j, name in enumerate(fits[0].classes_.tolist()):
        if (fits[0].parent_ == j).sum() > 1:
            of_class = np.flatnonzero(labels == fits[0].classes_[j])
            clusterings = [fit.pseudo_labels_[of_class] for fit in fits]
            finer = None if sub_labels is None else sub_labels[of_class]
            rows[name] = _describe(features[of_class], clusterings, finer, seed)
    return Diagnosis(fits[0], pd.DataFrame.from_dict(rows, orient="index").rename_axis("class"))


def _describe(
    features: np.ndarray, clusterings: Sequence[np.ndarray], sub_labels: np.ndarray | None, seed: int
) -> dict[str, Any]:
    first = clusterings[0]
    sizes = np.unique(first, return_counts=True)[1]
    size = min(SILHOUETTE_SAMPLES, len(first))
    described: dict[str, Any] = {
        "samples": len(first),
        "clusters": len(sizes),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "stability": float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(clusterings, 2)])),
        "silhouette": float("nan"),
    }
    rows = np.random.default_rng(seed).choice(len(first), size, replace=False)
    if 1 < len(np.unique(first[rows])) < size:
        described["silhouette"] = float(silhouette_score(features[rows], first[rows]))
    return described | ({} if sub_labels is None else clustering_quality(sub_labels, first))


# ---------------------------------------------------------------- after training


def threshold_table(
    y_true: Sequence[int],
    scores: Sequence[float],
    thresholds: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
) -> pd.DataFrame:
    """Return calls, recall, precision, false alarms and balanced accuracy of a binary decision at each threshold.

    Parameters
    ----------
    y_true : sequence of int [n]
        1 is positive.
    scores : sequence of float [n]
        Of the positive class.
    thresholds : sequence of float
        A sample is called positive at or above one.
    """
    positive, scores = np.asarray(y_true) == 1, np.asarray(scores, float)
    if positive.all() or not positive.any() or not np.isfinite(scores).all():
        raise ValueError("a threshold table needs samples of both classes, and scores that are finite")
    called = scores >= np.asarray(thresholds)[:, None]
    hits, alarms = called[:, positive].sum(axis=1), called[:, ~positive].sum(axis=1)
    table = pd.DataFrame({"called positive": hits + alarms}, index=pd.Index(thresholds, name="threshold"))
    table["recall"], table["precision"] = hits / positive.sum(), hits / table["called positive"]
    table["false alarms"] = alarms / (~positive).sum()
    table["balanced accuracy"] = (table["recall"] + 1 - table["false alarms"]) / 2
    return table


def nearest_to_center(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a cluster's rows in the order of their distance to its center."""
    distance = np.linalg.norm(features[rows] - features[rows].mean(axis=0), axis=1)
    return rows[np.argsort(distance, kind="stable")]


@dataclass(frozen=True)
class ClusterDescription:
    """The subject of one cluster of sentences, without the sentences, whose license may forbid copies.

    Attributes
    ----------
    cluster, size : int
        Its number, and how many sentences it has.
    terms : tuple of str
        Words and pairs of words that set it apart, the strongest first.
    rows : ndarray of int64 [m]
        Rows of the sentences nearest to its center, the nearest first: ``texts[rows]`` are the
        sentences.
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
        One for each cluster, in their order.

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
    """Return whether every part of a term is a word, and not all of them are stop words."""
    parts = term.split()
    return all(len(part) > 1 and part.isalpha() for part in parts) and not set(parts) <= ENGLISH_STOP_WORDS


def mosaic(examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images [k, n, h, w, c] as one picture of k rows, and the middle of each row in pixels."""
    k, n, height, width, channels = examples.shape
    gap = max(1, height // 8)
    framed = np.full((k, n, height + gap, width + gap, channels), 255, np.uint8)
    framed[:, :, :height, :width] = examples
    picture = framed.swapaxes(1, 2).reshape(k * (height + gap), n * (width + gap), channels)
    return picture, (height + gap) * np.arange(k) + height / 2


def plot_image_rows(examples: np.ndarray, names: Sequence[str], label: str) -> Figure:
    """Draw images [k, n, h, w, c] in k rows with names, and `label` beside the names."""
    import matplotlib.pyplot as plt

    picture, middles = mosaic(examples)
    figure, axes = plt.subplots(figsize=(0.62 * examples.shape[1] + 1, 0.62 * len(examples) + 0.2))
    axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=middles, yticklabels=names, ylabel=label)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure
