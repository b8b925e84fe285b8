"""DeepSMOTE: synthetic images of the small classes, by SMOTE in the code space of an autoencoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from imblearn.over_sampling import SMOTE

from regroup_lib.nn.autoencoder import ConvAutoencoder
from regroup_lib.nn.samplers import StratifiedBatches
from regroup_lib.progress import progress_bar

BATCH = 64  # images per step of the reconstruction; half as many of one class for the penalty
PEAK_LR = 5e-3  # Adam, one cycle; on CIFAR-100 in 4 epochs better than 2e-3 and 1e-2
NEIGHBORS = 5  # SMOTE's; a class of m images has at most m - 1
MAX_IMAGES = 10_000  # from which the random batches are drawn, to bound the cost


def deep_smote(
    images: np.ndarray, labels: np.ndarray, *, seed: int, epochs: int = 4, code_size: int = 128, width: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Make the images that bring every class to the size of the largest.

    Source: Dablain, Krawczyk & Chawla (2022), DeepSMOTE: fusing deep learning and SMOTE for imbalanced data.
    An autoencoder is trained on the images; `imbalanced-learn`'s SMOTE interpolates between the codes of neighbors
    in one class; the decoder turns the new codes into images. They are to join the training set, so only
    training images may be passed.

    `images` are uint8 [n, h, w, c], h and w divisible by 4; an epoch passes over at most 10,000 of them. The synthetic
    images alone are returned, uint8 [m, h, w, c], class by class, and their labels, int64 [m]. Those of a class of one
    image, which has no neighbor, are all its reconstruction.

    Notes
    -----
    Each step adds two mean squared errors: the reconstruction of a random batch of a stratified draw, and that of a
    batch of one class, which is drawn uniformly among the classes, from all its images. The paper (Algorithm 1)
    permutes the codes of the second batch and compares with the images in their old order; the best answer to that is
    the class's mean image, and synthetic worms of CIFAR-100 had 7% of the real ones' variance. The authors' published
    code permutes codes and images alike, as is done here: 79%.

    Both batches go through the network together, so that batch normalization sees one distribution. The gradient of
    the second reaches the encoder, where the published code stops it at the decoder: the squared error of the worms is
    0.008 with it and 0.012 without.
    """
    classes, counts = np.unique(labels, return_counts=True)
    missing = counts.max() - counts
    synthetic = [np.empty((0, *images.shape[1:]), np.uint8)]
    if missing.any():
        network = ConvAutoencoder.build(images.shape[1:], code_size=code_size, width=width, seed=seed)
        steps = -(-min(MAX_IMAGES, len(images)) // BATCH) * epochs
        rows = _batches(labels, epochs=epochs, seed=seed)
        with progress_bar(iterable=rows, total=steps, desc="DeepSMOTE autoencoder", unit="batch") as bar:
            network.fit(([images[part] for part in parts] for parts in bar), steps=steps, peak_lr=PEAK_LR)
        small = [(label, n) for label, n in zip(classes, missing, strict=True) if n]
        codes = (_interpolate(network.codes(images[labels == label]), n, seed) for label, n in small)
        synthetic += map(network.images, codes)
    return np.concatenate(synthetic), np.repeat(classes, missing).astype(np.int64)


def _batches(labels: np.ndarray, *, epochs: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of each step's two batches: a random one, and one of a single class."""
    # The first of the stratified batches is a stratified draw.
    drawn = StratifiedBatches(labels, MAX_IMAGES).order(torch.Generator().manual_seed(seed)).numpy()[:MAX_IMAGES]
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(drawn)
        for start in range(0, len(order), BATCH):
            own = members[rng.integers(len(members))]
            yield order[start : start + BATCH], rng.choice(own, min(BATCH // 2, len(own)), replace=False)


def _interpolate(codes: np.ndarray, n_wanted: int, seed: int) -> np.ndarray:
    """Return `n_wanted` codes between neighbors."""
    if len(codes) == 1:
        return np.repeat(codes, n_wanted, axis=0)
    # SMOTE looks at the class that it enlarges alone, but insists on a second one: a row of zeros.
    smote = SMOTE(
        sampling_strategy={1: len(codes) + n_wanted},
        k_neighbors=min(NEIGHBORS, len(codes) - 1),
        random_state=seed,
    )
    both = np.concatenate([np.zeros_like(codes[:1]), codes])
    return smote.fit_resample(both, [0] + [1] * len(codes))[0][len(both) :]
