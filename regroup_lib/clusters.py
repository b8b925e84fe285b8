"""What clusters are about: the samples nearest to their centres, and the words of their sentences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

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
