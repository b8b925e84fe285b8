"""Rows of the training set that an epoch visits, and their order.

Three functions choose rows once, before training (`random_oversampling`, `random_undersampling`,
`cluster_undersampling`); three classes order the rows of an epoch (`ShuffledRows`, `StratifiedBatches`,
`BlockShuffledRows`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from regroup_lib.clusterers import make_clusterer

# ---------------------------------------------------------------- rows, chosen once


def random_oversampling(labels: Sequence[int], *, seed: int) -> np.ndarray:
    """Repeat rows until every class is as large as the largest (ROS, imbalanced-learn's `RandomOverSampler`).

    Parameters
    ----------
    labels : sequence of int [n]
        Class of each row of the training set; at least two classes, else a ValueError.
    seed : int

    Returns
    -------
    ndarray of int64
        Row numbers, ascending; every row occurs at least once.

    Examples
    --------
    >>> random_oversampling([0, 0, 0, 1], seed=0).tolist()
    [0, 1, 2, 3, 3, 3]
    """
    return _resample(RandomOverSampler(random_state=seed), labels)


def random_undersampling(labels: Sequence[int], *, seed: int) -> np.ndarray:
    """Drop rows until every class is as small as the smallest (RUS, imbalanced-learn's `RandomUnderSampler`).

    Parameters
    ----------
    labels : sequence of int [n]
        Class of each row of the training set; at least two classes, else a ValueError.
    seed : int

    Returns
    -------
    ndarray of int64
        Row numbers, ascending; no row occurs twice.

    Examples
    --------
    >>> labels = np.array([0, 1, 0, 2, 0, 1])
    >>> sorted(labels[random_undersampling(labels, seed=0)].tolist())
    [0, 1, 2]
    """
    return _resample(RandomUnderSampler(random_state=seed), labels)


def _resample(sampler: Any, labels: Sequence[int]) -> np.ndarray:
    labels = _class_indices(labels, n_classes=2)
    sampler.fit_resample(np.arange(len(labels))[:, None], labels)
    return np.sort(sampler.sample_indices_).astype(np.int64)


def _class_indices(labels: Sequence[int], *, n_classes: int) -> np.ndarray:
    """Return labels as int64 [n], if they are class indices of at least so many classes."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iub" or not labels.size:
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}; expected one class index for each row")
    found = np.unique(labels)
    if len(found) < n_classes:
        raise ValueError(f"labels have the classes {found.tolist()}; resampling needs at least two")
    return labels.astype(np.int64)


def _whole(name: str, value: float, expected: str, *, low: int = 1, high: float = np.inf) -> int:
    """Return a whole number as an int, if it is within bounds."""
    if value % 1 or not low <= value <= high:
        raise ValueError(f"{name} is {value}; expected a whole number {expected}")
    return int(value)


def cluster_quotas(majority: Sequence[int], minority: Sequence[int], n_wanted: int) -> np.ndarray:
    """Return how many majority samples are drawn from each cluster (Yen & Lee 2009, SBC).

    The share of cluster i is r_i / Σ r_i, with r_i = majority_i / max(minority_i, 1): the more a cluster belongs to
    the majority, the more is drawn from it.

    The paper leaves three questions open. Here, shares are rounded by the largest remainder (ties go to the first
    cluster), so the quotas sum to `n_wanted` exactly. If a share exceeds the majority samples of its cluster, all of
    them are drawn, and the rest is divided among the other clusters in proportion to their r_i. If `n_wanted` exceeds
    all majority samples, all are drawn.

    Parameters
    ----------
    majority, minority : sequence of int [K]
        Samples of either class in each cluster.
    n_wanted : int
        Majority samples to draw in total: the paper's m · N_min.

    Returns
    -------
    ndarray of int64 [K]
        At most the majority of each cluster; the sum is ``min(n_wanted, sum(majority))``.

    Raises
    ------
    ValueError
        If the lengths differ, a number is negative or not whole, or there is no minority sample in any cluster.

    References
    ----------
    Yen & Lee (2009), Cluster-based under-sampling approaches for imbalanced data distributions.

    Examples
    --------
    The paper's example: 1,000 samples against 100, in three clusters with the ratios 500/10 = 50, 300/50 = 6 and
    200/40 = 5. The first cluster gives 100 · 50 / (50 + 6 + 5) = 81.97 samples, the second 9.84, the third 8.20:

    >>> cluster_quotas([500, 300, 200], [10, 50, 40], 100).tolist()
    [82, 10, 8]
    """
    majority, minority = _cluster_sizes("majority", majority), _cluster_sizes("minority", minority)
    if len(majority) != len(minority):
        raise ValueError(f"majority has {len(majority)} clusters and minority {len(minority)}; expected as many")
    if sum(minority) == 0:
        raise ValueError("minority has no sample in any cluster; expected at least one")
    left = min(_whole("n_wanted", n_wanted, "of at least 0", low=0), sum(majority))
    # Fractions, because rounded divisions could make equal remainders differ.
    ratio = [Fraction(many, max(few, 1)) for many, few in zip(majority, minority, strict=True)]
    quotas = [0] * len(majority)
    unfilled = [i for i, many in enumerate(majority) if many]
    while True:
        total = sum(ratio[i] for i in unfilled)
        exhausted = [i for i in unfilled if left * ratio[i] >= majority[i] * total]
        if not exhausted:
            break
        for i in exhausted:
            quotas[i] = majority[i]
            left -= majority[i]
        unfilled = [i for i in unfilled if not quotas[i]]
    shares = {i: left * ratio[i] / total for i in unfilled}
    quotas = [int(shares.get(i, quota)) for i, quota in enumerate(quotas)]
    left -= sum(quotas[i] for i in unfilled)
    for i in sorted(unfilled, key=lambda i: quotas[i] - shares[i])[:left]:
        quotas[i] += 1
    return np.array(quotas, dtype=np.int64)


def _cluster_sizes(name: str, values: Sequence[int]) -> list[int]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array < 0).any():
        raise ValueError(f"{name} is {values}; expected a whole number of at least 0 for each cluster")
    return array.tolist()


def cluster_undersampling(
    features: np.ndarray,
    labels: Sequence[int],
    *,
    n_clusters: int,
    ratio: float = 1.0,
    seed: int,
    clusterer: str | Any = "kmeans",
) -> np.ndarray:
    """Drop rows of the large classes, more of them in clusters with much of the small class (RUSC; Yen & Lee, SBC).

    All training data, both classes together, are clustered. About ``ratio * N_min * r_i / Σ r_i`` majority samples of
    cluster i are drawn at random without replacement, with r_i = N_maj,i / max(N_min,i, 1); for rounding and small
    clusters see `cluster_quotas`. All minority samples are kept. (imbalanced-learn's `ClusterCentroids` is another
    method: it clusters the majority alone and keeps centers.)

    The paper defines the method for two classes. With more, the smallest class is the minority here, and each larger
    class is undersampled against it separately, in the same clusters: r_i = N_class,i / max(N_min,i, 1).

    Parameters
    ----------
    features : array [n, d]
        Finite numbers, which are clustered.
    labels : sequence of int [n]
        Class of each row. Among several smallest classes the first is the minority; the others are kept whole.
    n_clusters : int
        Clusters of all data together, 1 to n.
    ratio : float
        Samples of each larger class for each sample of the minority (the paper's m), rounded, at least one sample in
        all. A class with fewer samples is kept whole.
    seed : int
        Seed of the clusterer and of the draw.
    clusterer : str or object
        See `Regrouping`.

    Returns
    -------
    ndarray of int64
        Row numbers, ascending; no row twice.

    Raises
    ------
    ValueError
        If lengths differ, features are not finite or not two-dimensional, there are fewer than two classes, or an
        option is out of range.

    References
    ----------
    Yen & Lee (2009), Cluster-based under-sampling approaches for imbalanced data distributions.

    Examples
    --------
    Four negatives are in the cluster of the positive, and four form a cluster of their own; r is 4 in both:

    >>> features = np.array([[0.0], [0.1], [0.2], [0.3], [0.4], [9.0], [9.1], [9.2], [9.3]])
    >>> labels = [0, 0, 1, 0, 0, 0, 0, 0, 0]
    >>> rows = cluster_undersampling(features, labels, n_clusters=2, ratio=4, seed=0)
    >>> features[rows].round().ravel().tolist()
    [0.0, 0.0, 0.0, 9.0, 9.0]
    """
    features, labels = np.asarray(features), _class_indices(labels, n_classes=2)
    _check_features(features, len(labels))
    n_clusters = _whole("n_clusters", n_clusters, f"from 1 to the {len(labels)} samples", high=len(labels))
    if not 0 < ratio < np.inf:  # also refuses NaN
        raise ValueError(f"ratio is {ratio}; expected a finite number above 0")
    clusters = _cluster(features, make_clusterer(clusterer, n_clusters, seed))
    classes, counts = np.unique(labels, return_counts=True)
    smallest = counts.argmin()
    n_wanted = max(round(ratio * counts[smallest]), 1)
    minority = np.bincount(clusters[labels == classes[smallest]], minlength=clusters.max() + 1)
    rng = np.random.default_rng(seed)
    chosen = []
    for label, count in zip(classes, counts, strict=True):
        rows = np.flatnonzero(labels == label)
        if count > counts[smallest]:
            quotas = cluster_quotas(np.bincount(clusters[rows], minlength=len(minority)), minority, n_wanted)
            drawn = [rng.choice(rows[clusters[rows] == i], quota, replace=False) for i, quota in enumerate(quotas)]
            rows = np.concatenate(drawn)
        chosen.append(rows)
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _check_features(features: np.ndarray, n_labels: int) -> None:
    if features.ndim != 2 or features.dtype.kind not in "fiub":
        raise ValueError(f"features are {features.dtype} of shape {features.shape}; expected numbers [n, d]")
    if len(features) != n_labels:
        raise ValueError(f"features have {len(features)} rows and labels {n_labels}; expected as many")
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(axis=1).sum())
        raise ValueError(f"features hold NaN or infinite values in {bad} rows; expected finite numbers")


def _cluster(features: np.ndarray, clusterer: Any) -> np.ndarray:
    """Return clusters 0..K-1, every one with a sample."""
    # One thread, as in Regrouping: a run must be repeatable.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct clusters than asked for do no harm here
        return np.unique(clusterer.fit_predict(features), return_inverse=True)[1]


# ---------------------------------------------------------------- the order of an epoch


class Sampler(Protocol):
    """Interface of samplers; the order depends on the generator alone, so a resumed epoch visits the same rows."""

    def __len__(self) -> int:
        """Return the number of rows an epoch visits."""

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """Return the rows of one epoch in order, int64 [len(self)], on the generator's device."""


class ShuffledRows:
    """Given rows in random order.

    Parameters
    ----------
    rows : sequence of int
        Rows of the training set; a row that occurs twice is visited twice.
    n_drawn : int, optional
        Rows that an epoch visits, in repeated passes over `rows`, each in a new order; an undersampled set can so see
        as many images as the full one. Default: one pass.

    Examples
    --------
    >>> sampler = ShuffledRows([3, 5, 7], n_drawn=8)
    >>> order = sampler.order(torch.Generator().manual_seed(0))
    >>> len(sampler), sorted(order[:3].tolist()), sorted(order[3:6].tolist())
    (8, [3, 5, 7], [3, 5, 7])
    """

    def __init__(self, rows: Sequence[int], n_drawn: int | None = None):
        rows = np.asarray(rows)
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(rows) == 0 or rows.min() < 0:
            raise ValueError(f"rows are {rows.dtype} of shape {rows.shape}; expected row numbers, at least one")
        self.rows = torch.from_numpy(rows.astype(np.int64))
        self.n_drawn = len(rows) if n_drawn is None else _whole("n_drawn", n_drawn, "of at least 1")

    def __len__(self) -> int:
        return self.n_drawn

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """Return the rows of one epoch in order, int64 [n_drawn], on the generator's device."""
        n, device = len(self.rows), generator.device
        n_passes = -(-self.n_drawn // n)
        passes = [torch.randperm(n, generator=generator, device=device) for _ in range(n_passes)]
        return self.rows.to(device)[torch.cat(passes)[: self.n_drawn]]


class StratifiedBatches:
    """Every row once an epoch, each class spread evenly over the batches.

    AP-Loss and SOAP need it: with positives that are 1% of the data, 28% of random batches of 128 have none.

    Parameters
    ----------
    labels : sequence of int [n]
        Class of each row of the training set.
    batch_size : int
        Rows of a batch in the training loop, which cuts `order` into batches. The last one may be smaller.

    Notes
    -----
    The share of a class in a batch is (rows of the batch) · (rows of the class) / n, and its rows in the batch differ
    from that by less than 1. So a class with at least as many rows as there are batches is in every full batch. It is
    in a smaller last batch too, where the first rule allows it; with two classes, whenever that batch has two rows.

    Examples
    --------
    >>> labels = np.array([0, 0, 0, 1, 0, 0, 0, 1])
    >>> order = StratifiedBatches(labels, 4).order(torch.Generator().manual_seed(0))
    >>> labels[order].reshape(2, 4).sum(axis=1).tolist()
    [1, 1]
    """

    def __init__(self, labels: Sequence[int], batch_size: int):
        labels = _class_indices(labels, n_classes=1)
        batch_size = _whole("batch_size", batch_size, "of at least 1")
        classes, counts = np.unique(labels, return_inverse=True, return_counts=True)[1:]
        self.classes = torch.from_numpy(classes)
        self.counts = torch.from_numpy(_batch_counts(counts, batch_size))  # [batches, classes]

    def __len__(self) -> int:
        return len(self.classes)

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """Return the rows of one epoch in order, int64 [n], on the generator's device."""
        n, device = len(self), generator.device
        n_full = len(self.counts) - 1
        # The full batches change places; the last one stays the last.
        full = torch.randperm(n_full, generator=generator, device=device)
        counts = torch.cat([self.counts.to(device)[full], self.counts[-1:].to(device)])
        # Shuffled rows, class by class; the first ones of each class go to the first batch, and so on.
        rows = torch.randperm(n, generator=generator, device=device)
        rows = rows[self.classes.to(device)[rows].argsort(stable=True)]
        batch = torch.arange(n_full + 1, device=device).repeat(counts.shape[1]).repeat_interleave(counts.T.flatten())
        # Within a batch the classes are mixed.
        mixed = torch.randperm(n, generator=generator, device=device)
        return rows[mixed[batch[mixed].argsort(stable=True)]]


def _batch_counts(counts: np.ndarray, size: int) -> np.ndarray:
    """Return the rows of each class in each batch, int64 [batches, classes]; the last batch has the remainder.

    Every full batch holds the whole part of the share of each class. The remaining places of the full batches are
    dealt in turn: class c has E_c <= n_full of them, so no batch gets two from one class, and all get equally many.
    """
    n = int(counts.sum())
    n_full = max(-(-n // size) - 1, 0)  # batches before the last, which may be full too
    whole, part = np.divmod(counts * size, n)  # share of a full batch: whole + part / n
    extra, remainder = np.divmod(part * n_full, n)
    # As many classes get one more as there are places: first those that keep a row for the last batch, and among
    # them those with the largest remainder.
    n_more = n_full * (size - int(whole.sum())) - int(extra.sum())
    emptied = counts - n_full * whole - extra == 1
    more = np.lexsort((-remainder, emptied & (counts > n_full), remainder == 0))[:n_more]
    extra[more] += 1
    table = np.tile(whole, (n_full + 1, 1))
    places = np.arange(extra.sum()) % max(n_full, 1)
    np.add.at(table, (places, np.repeat(np.arange(len(counts)), extra)), 1)
    table[-1] = counts - table[:-1].sum(axis=0)
    return table


class BlockShuffledRows:
    """Every row once an epoch, shuffled as far as a few blocks of a file in memory allow.

    The blocks come in random order, and the rows of `window` blocks at a time are mixed.

    Parameters
    ----------
    n_rows : int
    block_rows : int
        Consecutive rows of a block; the last block may have fewer.
    window : int
        Blocks whose rows are mixed.

    Examples
    --------
    >>> order = BlockShuffledRows(8, block_rows=2, window=2).order(torch.Generator().manual_seed(1))
    >>> [sorted(set((part // 2).tolist())) for part in order.split(4)]
    [[1, 3], [0, 2]]
    """

    def __init__(self, n_rows: int, *, block_rows: int, window: int):
        self.n_rows = _whole("n_rows", n_rows, "of at least 1")
        self.block_rows = _whole("block_rows", block_rows, "of at least 1")
        self.window = _whole("window", window, "of at least 1")

    def __len__(self) -> int:
        return self.n_rows

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """Return the rows of one epoch in order, int64 [n_rows], on the generator's device."""
        draw = {"generator": generator, "device": generator.device}
        starts = torch.randperm(-(-self.n_rows // self.block_rows), **draw) * self.block_rows
        inside = torch.arange(self.block_rows, device=generator.device)
        order = []
        for opened in starts.split(self.window):
            rows = (opened[:, None] + inside).flatten()
            rows = rows[rows < self.n_rows]
            order.append(rows[torch.randperm(len(rows), **draw)])
        return torch.cat(order)
