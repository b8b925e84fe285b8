"""Encoders without outside knowledge: raw pixels, their principal components, a convolutional autoencoder."""

from __future__ import annotations

import json

import numpy as np
import torch
from sklearn.decomposition import PCA

from regroup_lib.encoders.base import Encoder, TrainedEncoder, in_batches
from regroup_lib.nn.autoencoder import ConvAutoencoder, to_pixels
from regroup_lib.nn.models import default_device, unit_range


class RawEncoder(Encoder):
    """Flattened pixels in [0, 1]."""

    label = "raw pixels"
    cached = False

    def fingerprint(self) -> str:
        return "raw"

    def transform(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32) / 255


class PCAEncoder(Encoder):
    """Principal components of the flattened pixels (scikit-learn's randomized solver)."""

    label = "PCA"

    def __init__(self, n_components: int = 128):
        self.n_components = n_components

    def fingerprint(self) -> str:
        return f"pca {self.n_components}"

    def fit(self, images: np.ndarray) -> PCAEncoder:
        pixels = RawEncoder().transform(images)
        n_components = min(self.n_components, *pixels.shape)
        pca = PCA(n_components, svd_solver="randomized", random_state=0).fit(pixels)
        self.mean_, self.components_ = pca.mean_, pca.components_
        return self

    def transform(self, images: np.ndarray) -> np.ndarray:
        return ((RawEncoder().transform(images) - self.mean_) @ self.components_.T).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean_, "components": self.components_}

    def load_state(self, state: dict[str, np.ndarray], image_shape: tuple[int, ...]) -> None:
        self.mean_, self.components_ = state["mean"], state["components"]


class AutoencoderEncoder(TrainedEncoder):
    """The code of a convolutional autoencoder, trained here on the training images with squared error.

    Parameters
    ----------
    epochs, code_size, width, batch_size, seed : int
        Training length, dimension of the code, channels of the first layer, images per step, initialization.
    """

    label = "autoencoder"

    def __init__(
        self, *, epochs: int = 12, code_size: int = 128, width: int = 48, batch_size: int = 256, seed: int = 0
    ):
        self.options = {"epochs": epochs, "code_size": code_size, "width": width, "batch_size": batch_size}
        self.seed = seed

    def fingerprint(self) -> str:
        return f"autoencoder {json.dumps(self.options)} seed {self.seed}"

    def _network(self, image_shape: tuple[int, ...]) -> ConvAutoencoder:
        sizes = {name: self.options[name] for name in ("code_size", "width")}
        return ConvAutoencoder.build(image_shape, seed=self.seed, **sizes)

    def fit(self, images: np.ndarray) -> AutoencoderEncoder:
        self.network_ = self._network(images.shape[1:])
        size, epochs, rng = self.options["batch_size"], self.options["epochs"], np.random.default_rng(self.seed)
        batches = (
            [batch]
            for epoch in range(epochs)
            for batch in in_batches(images[rng.permutation(len(images))], size, f"autoencoder {epoch + 1}/{epochs}")
        )
        self.network_.fit(batches, steps=-(-len(images) // size) * epochs, peak_lr=2e-3)
        return self

    def transform(self, images: np.ndarray) -> np.ndarray:
        return self.network_.codes(images)

    @torch.no_grad()
    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Return the decoder's images of the encoder's codes, uint8 as the input."""
        return to_pixels(self.network_(unit_range(images, default_device())))
