"""Words: sentences to numbers for a network, and what the sentences of a cluster have in common."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

MAX_TOKENS = 64  # five sentences of Financial PhraseBank have more words
PADDING, UNKNOWN = 0, 1


def words(text: str) -> list[str]:
    """Return a sentence's words in lower case; a number is ``0``, a sign stands for itself.

    Examples
    --------
    >>> words("Sales rose 3.1 % to EUR1,200m.")
    ['sales', 'rose', '0', '%', 'to', 'eur', '0', 'm', '.']
    """
    found = re.findall(r"[^\W\d_]+|\d[\d.,]*|[^\w\s]", text.lower())
    return ["0" if word[0].isdigit() else word for word in found]


class Tokenizer(Protocol):
    """Sentences to rows of token numbers; `PADDING` fills a row up."""

    def fit(self, texts: np.ndarray) -> Tokenizer:
        """Learn the vocabulary from training sentences, str [n]."""

    def __call__(self, texts: np.ndarray) -> np.ndarray:
        """Return int32 [n, length]."""

    def __len__(self) -> int:
        """Return the number of tokens that there are."""


class WordTokenizer:
    """The words of the training sentences, numbered from the most frequent on.

    Parameters
    ----------
    max_tokens : int
        Longer sentences are cut.
    min_count : int
        Words that are rarer in the training sentences, like those that are not among them, are `UNKNOWN`.

    Examples
    --------
    >>> tokenizer = WordTokenizer(max_tokens=4, min_count=1).fit(["profit rose", "profit fell"])
    >>> tokenizer(["Profit rose sharply", "fell"])
    array([[2, 4, 1, 0],
           [3, 0, 0, 0]], dtype=int32)
    """

    def __init__(self, *, max_tokens: int = MAX_TOKENS, min_count: int = 2):
        self.max_tokens, self.min_count = max_tokens, min_count

    def fit(self, texts: Sequence[str] | np.ndarray) -> WordTokenizer:
        """Learn the vocabulary from training sentences."""
        counts = Counter(word for text in texts for word in words(text))
        kept = sorted((-count, word) for word, count in counts.items() if count >= self.min_count)
        self.vocabulary_ = {word: number for number, (_, word) in enumerate(kept, start=UNKNOWN + 1)}
        return self

    def __call__(self, texts: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return token numbers, int32 [n, max_tokens], filled up with `PADDING`."""
        tokens = np.full((len(texts), self.max_tokens), PADDING, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            numbers = [self.vocabulary_.get(word, UNKNOWN) for word in words(text)[: self.max_tokens]]
            row[: len(numbers)] = numbers
        return tokens

    def __len__(self) -> int:
        return UNKNOWN + 1 + len(self.vocabulary_)


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


def nearest_to_center(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a cluster's rows in the order of their distance to its centre."""
    distance = np.linalg.norm(features[rows] - features[rows].mean(axis=0), axis=1)
    return rows[np.argsort(distance, kind="stable")]
