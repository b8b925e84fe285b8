"""`Encoder`, the base class of the encoders, and preprocessing of images and features that several of them share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from regroup_lib.progress import progress_bar


def center_and_normalize(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Subtract the training mean from every array and scale each row to unit length.

    Features of pre-trained networks have a large common component; k-means finds better clusters without it.
    """
    center = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    return [normalized(features, center) for features in (train, *others)]


def normalized(features: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return rows minus a center, scaled to unit length."""
    rows = features - center
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def in_batches(images: np.ndarray, size: int, label: str) -> Iterator[np.ndarray]:
    """Yield the images in batches under a progress bar that counts images per second."""
    with progress_bar(total=len(images), desc=label, unit="image") as bar:
        for start in range(0, len(images), size):
            yield images[start : start + size]
            bar.update(min(size, len(images) - start))


def resized(images: np.ndarray, size: int, mean: Sequence[float], std: Sequence[float], device) -> torch.Tensor:
    """Return uint8 [n, h, w, c] as normalized float32 [n, 3, size, size], resized bicubically."""
    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float()
    batch = batch.expand(-1, 3, -1, -1)
    if batch.shape[-2:] != (size, size):
        batch = F.interpolate(batch, size=(size, size), mode="bicubic", antialias=True).clamp_(0, 255)
    shape = (1, 3, 1, 1)
    return (batch / 255 - torch.tensor(mean, device=device).view(shape)) / torch.tensor(std, device=device).view(shape)


class Encoder:
    """Base of all encoders; a subclass defines `transform`, or ``_batch`` for `batch_size` images at a time."""

    label: str  # the name in tables and figures
    batch_size: int
    normalize = False  # whether `encode` centers features and scales them to unit length (pre-trained networks)
    cached = True  # whether the features are cached in a file; flattened pixels are not
    image_size: int | None = None  # side of the images that it expects; None: that of the data set
    text = False  # whether it takes sentences, str [n], instead of images
    resumable = False  # whether `fit` takes a checkpoint and a deadline, as `train` does
    earlier_seconds_ = 0.0  # training time before the checkpoint from which `fit` continued
    notes: tuple[str, ...] = ()  # assumptions about the encoder's file

    def fingerprint(self) -> str:
        """Return a text that identifies the features: the options and the digest of loaded weights."""
        raise NotImplementedError

    def fit(self, images: np.ndarray) -> Encoder:
        """Learn from training images, uint8 [n, h, w, c]; pre-trained encoders learn nothing."""
        return self

    def transform(self, images: np.ndarray) -> np.ndarray:
        """Return float32 features [n, d] of uint8 images [n, h, w, c], `batch_size` of them at a time."""
        return np.concatenate([self._batch(batch) for batch in in_batches(images, self.batch_size, self.label)])

    def state(self) -> dict[str, np.ndarray]:
        """Return the fitted state as arrays."""
        return {}

    def load_state(self, state: dict[str, np.ndarray], image_shape: tuple[int, ...]) -> None:
        """Restore the fitted state from the arrays of `state`."""


class TrainedEncoder(Encoder):
    """Base of the encoders that train a network here, ``network_``, made by ``_network(image_shape)``."""

    network_: nn.Module
    kind: str  # the encoder's identifier
    options: dict[str, Any]
    seed: int

    def fingerprint(self) -> str:
        return f"{self.kind} {json.dumps(self.options)} seed {self.seed}"

    def state(self) -> dict[str, np.ndarray]:
        return {name: value.cpu().numpy() for name, value in self.network_.state_dict().items()}

    def load_state(self, state: dict[str, np.ndarray], image_shape: tuple[int, ...]) -> None:
        self.network_ = self._network(image_shape)
        self.network_.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        self.network_.eval()
