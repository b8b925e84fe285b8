"""Words: sentences made into numbers that a network reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np

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
