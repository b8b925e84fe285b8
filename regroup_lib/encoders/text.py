"""Encoders of sentences: TF-IDF, and MiniLM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from regroup_lib.encoders.base import Encoder
from regroup_lib.files import digest_file
from regroup_lib.inputs import words
from regroup_lib.nn import tokenizers
from regroup_lib.nn.models import default_device


class TfidfEncoder(Encoder):
    """Latent semantic analysis: TF-IDF of words and pairs of words, then a truncated singular value decomposition.

    Features have at most `n_components` dimensions, and terms occur in at least `min_count` training sentences.
    Source: Deerwester et al. (1990), Indexing by latent semantic analysis.
    """

    label = "TF-IDF + SVD"
    normalize = True
    text = True

    def __init__(self, n_components: int = 128, *, min_count: int = 2):
        self.n_components, self.min_count = n_components, min_count

    def fingerprint(self) -> str:
        return f"tfidf {self.n_components} {self.min_count}"

    def _vectorizer(self, **options) -> TfidfVectorizer:
        # The same function splits sentences for the networks that read text.
        return TfidfVectorizer(
            tokenizer=words, token_pattern=None, lowercase=False, ngram_range=(1, 2), sublinear_tf=True, **options
        )

    def fit(self, texts: np.ndarray) -> TfidfEncoder:
        self.vectorizer_ = self._vectorizer(min_df=self.min_count)
        weights = self.vectorizer_.fit_transform(texts)
        n_components = min(self.n_components, *weights.shape)
        self.components_ = TruncatedSVD(n_components, random_state=0).fit(weights).components_.astype(np.float32)
        return self

    def transform(self, texts: np.ndarray) -> np.ndarray:
        return np.asarray(self.vectorizer_.transform(texts) @ self.components_.T, dtype=np.float32)

    def state(self) -> dict[str, np.ndarray]:
        terms = self.vectorizer_.get_feature_names_out().astype(np.str_)
        return {"terms": terms, "idf": self.vectorizer_.idf_, "components": self.components_}

    def load_state(self, state: dict[str, np.ndarray], image_shape: tuple[int, ...]) -> None:
        self.vectorizer_ = self._vectorizer(vocabulary={str(term): row for row, term in enumerate(state["terms"])})
        self.vectorizer_.idf_ = state["idf"]
        self.components_ = state["components"]


class MiniLMEncoder(Encoder):
    """Sentence embeddings of all-MiniLM-L6-v2, 384 numbers for each sentence; needs the extra ``text``.

    `folder` may hold another sentence-transformers model; default: `tokenizers.find_model`.
    """

    label = tokenizers.LABEL
    normalize = True
    text = True

    def __init__(self, folder: str | Path | None = None, *, batch_size: int = 64):
        folder = tokenizers.find_model() if folder is None else Path(folder)
        self.model = tokenizers.load_model(folder).to(default_device())
        self.digest = digest_file(folder / "model.safetensors")
        self.batch_size = batch_size

    def fingerprint(self) -> str:
        return f"minilm {self.digest} {self.model.max_seq_length}"

    def transform(self, texts: np.ndarray) -> np.ndarray:
        # Sentences of similar length share a batch, because shorter ones are padded to the longest.
        order = np.argsort([len(text) for text in texts], kind="stable")
        return super().transform(np.asarray(texts)[order])[order.argsort()]

    def _batch(self, texts: np.ndarray) -> np.ndarray:
        return self.model.encode(texts.tolist(), batch_size=self.batch_size, show_progress_bar=False)
