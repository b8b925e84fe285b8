"""Samplers: over- and undersampling, which choose rows once, and the order in which an epoch visits rows."""

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

from regroup_lib.clusterers import make_clusterer
from regroup_lib.inputs import as_matrix, check_labels, check_samples, check_whole
from regroup_lib.regroup import one_thread

# ---------------------------------------------------------------- rows, chosen once


def random_oversampling(labels: Sequence[int], *, seed: int) -> np.ndarray:
    """Repeat rows until every class is as large as the largest (ROS), and return their numbers, int64, ascending.

    >>> random_oversampling([0, 0, 0, 1], seed=0).tolist()
    [0, 1, 2, 3, 3, 3]
    """
    return _resample(RandomOverSampler(random_state=seed), labels)


def random_undersampling(labels: Sequence[int], *, seed: int) -> np.ndarray:
    """Drop rows until every class is as small as the smallest (RUS), and return the others, int64, ascending."""
    return _resample(RandomUnderSampler(random_state=seed), labels)


def _resample(sampler: Any, labels: Sequence[int]) -> np.ndarray:
    """Return the rows that a sampler of imbalanced-learn chooses; labels of one class are a ValueError."""
    sampler.fit_resample(np.arange(len(labels))[:, None], labels)
    return np.sort(sampler.sample_indices_).astype(np.int64)


def cluster_undersampling(
    features: np.ndarray, labels: Sequence[int], *, n_clusters: int, seed: int, clusterer: str | Any = "kmeans"
) -> np.ndarray:
    """Drop rows of the large classes, more of them in clusters with much of the small class (RUSC; Yen & Lee, SBC).

    All training data, features [n, d] of both classes together, are clustered. About ``N_min * r_i / Σ r_i`` majority
    samples of cluster i are drawn at random without replacement, with r_i = N_maj,i / max(N_min,i, 1); all minority
    samples are kept. Return their row numbers, int64, ascending. (imbalanced-learn's `ClusterCentroids` is another
    method: it clusters the majority alone and keeps centers.)

    Shares are rounded by the largest remainder, so that they sum to ``N_min``. If one exceeds the majority samples of
    its cluster, all of them are drawn, and the rest is divided among the other clusters in proportion to their r_i.
    With more than two classes, each that is larger than the smallest (the first of several) is undersampled against it
    separately, in the same clusters. (The paper leaves these questions open.)
    Source: Yen & Lee (2009), Cluster-based under-sampling approaches for imbalanced data distributions.

    Three negatives are in the cluster of the three positives, r = 1, and four form a cluster of their own, r = 4:

    >>> features = np.array([[0.0], [0.1], [0.2], [0.3], [0.3], [0.4], [9.0], [9.1], [9.2], [9.3]])
    >>> labels = [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    >>> rows = cluster_undersampling(features, labels, n_clusters=2, seed=0)
    >>> features[rows].round().ravel().tolist()
    [0.0, 0.0, 0.0, 0.0, 9.0, 9.0]
    """
    features, labels = as_matrix(features), check_labels(labels)
    check_samples(features, labels)
    check_whole(n_clusters=n_clusters)
    if n_clusters > len(labels):
        raise ValueError(f"n_clusters is {n_clusters}; there are {len(labels)} samples")
    # One thread, as in Regrouping: a run must be repeatable.
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer clusters than requested do no harm here
        clusters = make_clusterer(clusterer, n_clusters, seed).fit_predict(features)
    clusters = np.unique(clusters, return_inverse=True)[1]
    classes, counts = np.unique(labels, return_counts=True)
    smallest = counts.argmin()
    minority = np.bincount(clusters[labels == classes[smallest]], minlength=clusters.max() + 1)
    rng = np.random.default_rng(seed)
    chosen = []
    for label, count in zip(classes, counts, strict=True):
        rows = np.flatnonzero(labels == label)
        if count > counts[smallest]:
            quotas = _quotas(np.bincount(clusters[rows], minlength=len(minority)), minority, counts[smallest])
            drawn = [rng.choice(rows[clusters[rows] == i], quota, replace=False) for i, quota in enumerate(quotas)]
            rows = np.concatenate(drawn)
        chosen.append(rows)
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _quotas(majority: Sequence[int], minority: Sequence[int], n_wanted: int) -> list[int]:
    """Return how many majority samples are drawn from each cluster, ``min(n_wanted, sum(majority))`` in total.

    The paper's example: 1,000 samples against 100, in three clusters with the ratios 500/10 = 50, 300/50 = 6 and
    200/40 = 5. The first cluster gives 100 · 50 / (50 + 6 + 5) = 81.97 samples, the second 9.84, the third 8.20:

    >>> _quotas([500, 300, 200], [10, 50, 40], 100)
    [82, 10, 8]
    """
    # Fractions, because rounded divisions could make equal remainders differ; of those the first cluster is rounded up.
    majority, minority = ([int(n) for n in counts] for counts in (majority, minority))
    ratio = [Fraction(many, max(few, 1)) for many, few in zip(majority, minority, strict=True)]
    shares, left, weight = dict.fromkeys(range(len(ratio)), 0), min(n_wanted, sum(majority)), sum(ratio)
    # Clusters with few minority samples are exhausted first.
    for i in sorted(filter(majority.__getitem__, shares), key=minority.__getitem__):
        shares[i] = min(left * ratio[i] / weight, majority[i])
        left, weight = left - shares[i], weight - ratio[i]
    quotas = [int(share) for share in shares.values()]
    n_rest = min(n_wanted, sum(majority)) - sum(quotas)
    for i in sorted(shares, key=lambda i: quotas[i] - shares[i])[:n_rest]:
        quotas[i] += 1
    return quotas


# ---------------------------------------------------------------- the order of an epoch


class Sampler(Protocol):
    """Interface of samplers; the order depends on the generator alone, so a resumed epoch visits the same rows."""

    def __len__(self) -> int:
        """Return the number of rows that an epoch visits."""

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
    >>> order = ShuffledRows([3, 5, 7], n_drawn=8).order(torch.Generator().manual_seed(0))
    >>> len(order), sorted(order[:3].tolist()), sorted(order[3:6].tolist())
    (8, [3, 5, 7], [3, 5, 7])
    """

    def __init__(self, rows: Sequence[int], n_drawn: int | None = None):
        self.rows = torch.from_numpy(np.asarray(rows, np.int64))
        self.n_drawn = len(rows) if n_drawn is None else n_drawn

    def __len__(self) -> int:
        return self.n_drawn

    def order(self, generator: torch.Generator) -> torch.Tensor:
        n, device = len(self.rows), generator.device
        n_passes = -(-self.n_drawn // n)
        passes = [torch.randperm(n, generator=generator, device=device) for _ in range(n_passes)]
        return self.rows.to(device)[torch.cat(passes)[: self.n_drawn]]


class StratifiedBatches:
    """Every row once per epoch, each class spread evenly over the batches.

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
        classes, counts = np.unique(labels, return_inverse=True, return_counts=True)[1:]
        self.classes = torch.from_numpy(classes)
        self.counts = torch.from_numpy(_batch_counts(counts, batch_size))  # [batches, classes]

    def __len__(self) -> int:
        return len(self.classes)

    def order(self, generator: torch.Generator) -> torch.Tensor:
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
    """Every row once per epoch, shuffled as far as a few blocks of a file in memory allow.

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
        check_whole(n_rows=n_rows, block_rows=block_rows, window=window)
        self.n_rows, self.block_rows, self.window = n_rows, block_rows, window

    def __len__(self) -> int:
        return self.n_rows

    def order(self, generator: torch.Generator) -> torch.Tensor:
        draw = {"generator": generator, "device": generator.device}
        starts = torch.randperm(-(-self.n_rows // self.block_rows), **draw) * self.block_rows
        inside = torch.arange(self.block_rows, device=generator.device)
        order = []
        for opened in starts.split(self.window):
            rows = (opened[:, None] + inside).flatten()
            rows = rows[rows < self.n_rows]
            order.append(rows[torch.randperm(len(rows), **draw)])
        return torch.cat(order)
