"""Regrouping: divide large classes into pseudo-classes before training, and aggregate their scores after it."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import check_random_state
from threadpoolctl import ThreadpoolController

from regroup_lib.clusterers import make_clusterer
from regroup_lib.files import read_npz, write_npz
from regroup_lib.inputs import (
    as_matrix,
    by_class_index,
    check_labels,
    check_samples,
    check_whole,
    for_sklearn,
    is_number,
    is_tensor,
)
from regroup_lib.large import Rows


def cluster_counts(
    class_counts: Sequence[int],
    *,
    threshold: float | None = None,
    n_clusters: int | Mapping[int, int] | None = None,
) -> list[int]:
    """Return how many clusters each class is divided into.

    Parameters
    ----------
    class_counts : sequence of int
        Samples of each class, n_j; all at least 1.
    threshold : float, optional
        The class size n' up to which a class stays whole; default: that of the smallest class.
    n_clusters : int or mapping of int to int, optional
        An int replaces the formula for every class larger than n'; a mapping from class index to clusters
        replaces it for the classes it names.

    Returns
    -------
    list of int
        ``ceil(n_j / n')`` for each class (Section 2.2 of the paper), never less than 1 nor more than n_j.

    Raises
    ------
    ValueError
        If a count or a number of clusters is not a whole number of at least 1, the threshold is not within
        (0, largest class], or the mapping names a class that does not exist.

    Examples
    --------
    >>> cluster_counts([45000, 5000])
    [9, 1]
    >>> cluster_counts([6705, 1113, 115], threshold=1000)
    [7, 2, 1]
    """
    listed = isinstance(class_counts, Iterable) and not isinstance(class_counts, Mapping)
    counts = list(for_sklearn(class_counts)) if listed else []
    if not counts or not all(is_number(count) and count >= 1 and count % 1 == 0 for count in counts):
        raise ValueError(f"class_counts is {class_counts}; every class needs at least one sample, in a list of numbers")
    counts = [int(count) for count in counts]
    if threshold is None:
        threshold = min(counts)
    if not (is_number(threshold) and 0 < threshold <= max(counts)):  # also refuses NaN
        raise ValueError(f"threshold is {threshold!r}; it must be above 0 and at most the largest class, {max(counts)}")
    wanted = [math.ceil(count / threshold) for count in counts]
    if isinstance(n_clusters, Mapping):
        unknown = set(n_clusters) - set(range(len(counts)))
        if unknown:
            raise ValueError(f"n_clusters names classes {sorted(unknown, key=str)}; there are 0 to {len(counts) - 1}")
        wanted = [n_clusters.get(index, number) for index, number in enumerate(wanted)]
    elif n_clusters is not None:
        wanted = [n_clusters if count > threshold else 1 for count in counts]
    for number in n_clusters.values() if isinstance(n_clusters, Mapping) else [1 if n_clusters is None else n_clusters]:
        check_whole(n_clusters=number)
    return [min(int(number), count) for number, count in zip(wanted, counts, strict=True)]


class Regrouping(BaseEstimator):
    """Divide large classes into pseudo-classes by clustering their features.

    Parameters
    ----------
    clusterer : str or object
        A name in `clusterers.CLUSTERERS` (``"kmeans"``, ``"constrained-kmeans"``, ``"spectral"``, ``"random"``, ...),
        or any object with scikit-learn's ``fit_predict`` and an ``n_clusters`` (or ``n_components``) parameter; it is
        cloned. `large.BlockKMeans` is one for features that do not fit in memory.
    threshold, n_clusters
        See `cluster_counts`; the keys of a mapping `n_clusters` are class labels here.
    min_cluster_size : int
        A class gets no more clusters than it has room for at this size, and a smaller cluster joins the nearest larger
        one of its class. The paper has no such limit.
    random_state : int, RandomState or None
        Seed of the clusterer; class j of the sorted classes uses ``random_state + j``.

    Attributes
    ----------
    pseudo_labels_ : ndarray of int64 [n]
        Pseudo-class of each sample. They are numbered class by class, in class order, so a class that is not
        divided keeps one number.
    parent_ : ndarray of int64 [K]
        Class index (into ``classes_``) of each pseudo-class.
    classes_ : ndarray [C]
        The class labels, sorted.
    counts_ : ndarray of int64 [K]
        Samples of each pseudo-class.

    Notes
    -----
    A cluster that is left empty, or joins another one, disappears: K is then smaller than `cluster_counts` says, and a
    ``UserWarning`` is issued. A request for more clusters than a class has samples is cut to the class's size.

    References
    ----------
    Mining Latent Labels for Imbalance Classification, Section 2.2.

    Examples
    --------
    >>> features = np.array([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
    >>> regrouping = Regrouping(random_state=0).fit(features, [0, 0, 0, 0, 1, 1])
    >>> regrouping.parent_.tolist(), regrouping.counts_.tolist()
    ([0, 0, 1], [2, 2, 2])
    """

    def __init__(
        self,
        clusterer: str | Any = "kmeans",
        *,
        threshold: float | None = None,
        n_clusters: int | Mapping[Any, int] | None = None,
        min_cluster_size: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.clusterer = clusterer
        self.threshold = threshold
        self.n_clusters = n_clusters
        self.min_cluster_size = min_cluster_size
        self.random_state = random_state

    def fit(self, features: np.ndarray, labels: Sequence[Any]) -> Regrouping:
        """Cluster each large class.

        Parameters
        ----------
        features : array, tensor or SciPy sparse array [n, d]
            Finite numbers; the clusterer sees only rows of classes that are divided. Sparse arrays reach it as CSR,
            which both k-means and ``"random"`` accept. With `large.BlockKMeans` also the path of an ``.npy`` file or
            an array that `large.open_rows` takes, which is read by blocks.
        labels : sequence [n]
            Class of each row.

        Raises
        ------
        ValueError
            If lengths differ, features are not finite or not two-dimensional, labels are not those of two classes or
            more (see `check_labels`), or an option is out of range.
        """
        features = Rows.of(features) if getattr(self.clusterer, "reads_blocks", False) else as_matrix(features)
        check_samples(features, labels)
        labels = check_labels(labels)
        make_clusterer(self.clusterer, 1, None)  # an unknown one is an error even if no class is divided
        check_whole(min_cluster_size=self.min_cluster_size)
        seed = seed_of(self.random_state)
        self.classes_, index, class_counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.pseudo_labels_ = np.empty(len(labels), dtype=np.int64)
        parent: list[int] = []
        for j, k in enumerate(self._wanted(class_counts)):
            rows = index == j
            groups = self._cluster(features[rows], k, j, seed) if k > 1 else np.zeros(class_counts[j], np.int64)
            self.pseudo_labels_[rows] = groups + len(parent)
            parent += [j] * (int(groups.max()) + 1)
        self.parent_ = np.array(parent, dtype=np.int64)
        self.counts_ = np.bincount(self.pseudo_labels_, minlength=len(parent))
        return self

    def _wanted(self, class_counts: np.ndarray) -> list[int]:
        """Return the number of clusters that each class is to have."""
        n_clusters = self.n_clusters
        if isinstance(n_clusters, Mapping):
            n_clusters = by_class_index("n_clusters", n_clusters, self.classes_)
        wanted = cluster_counts(class_counts, threshold=self.threshold, n_clusters=n_clusters)
        alone = self.classes_[class_counts == 1].tolist()
        if alone and self.threshold is None and any(k == n > 1 for k, n in zip(wanted, class_counts, strict=True)):
            warnings.warn(
                f"class {alone[0]!r} has one sample, so each sample of a larger class becomes a cluster of its own; "
                "pass threshold= or n_clusters=, or leave that class out",
                UserWarning,
                stacklevel=3,
            )
        return [max(1, min(k, int(n // self.min_cluster_size))) for k, n in zip(wanted, class_counts, strict=True)]

    def _cluster(self, features: np.ndarray | Rows, k: int, j: int, seed: int | None) -> np.ndarray:
        """Return groups 0..k'-1 of one class, every one with a sample (k' <= k)."""
        seed = None if seed is None else (seed + j) % 2**32
        # One thread, because sums in another order can move a sample to another cluster, and runs must be repeatable.
        with one_thread(), warnings.catch_warnings():
            # The warning below replaces that of k-means about fewer distinct clusters.
            warnings.simplefilter("ignore", ConvergenceWarning)
            groups = make_clusterer(self.clusterer, k, seed).fit_predict(features)
        if np.shape(groups) != features.shape[:1]:
            raise ValueError(f"{self.clusterer} has labels of shape {np.shape(groups)} for {features.shape[0]} samples")
        found, groups = np.unique(groups, return_inverse=True)
        groups, left = merge_small(features, groups, np.full(len(found), j), self.min_cluster_size)
        if len(left) < k:
            least = f" (of at least {self.min_cluster_size} samples)" if self.min_cluster_size > 1 else ""
            message = f"class {self.classes_.tolist()[j]!r} has {len(left)} clusters; {k} were requested{least}"
            warnings.warn(message, UserWarning, stacklevel=3)
        return groups

    def save(self, path: str | Path) -> None:
        """Write the result to an npz file of plain arrays (no pickle)."""
        options = self.get_params(deep=False)
        if isinstance(self.n_clusters, Mapping):
            options["n_clusters"] = list(self.n_clusters.items())  # JSON has only text as keys
        arrays = {name: getattr(self, name) for name in ("pseudo_labels_", "parent_", "classes_", "counts_")}
        if self.classes_.dtype == object:
            arrays["classes_"] = self.classes_.astype(str)
        text = json.dumps(options, default=lambda value: value.item() if isinstance(value, np.generic) else repr(value))
        write_npz(path, arrays | {"options": np.array(text)})

    @classmethod
    def load(cls, path: str | Path) -> Regrouping:
        """Read a file of `save`; of a clusterer object and of a random generator, only their text is restored.

        Raises
        ------
        ValueError
            If the file is damaged or is not such a file.
        """
        arrays = read_npz(path)
        names = {"pseudo_labels_", "parent_", "classes_", "counts_", "options"}
        if names != set(arrays):
            raise ValueError(f"{path} is not a saved Regrouping: it holds {sorted(arrays)}, expected {sorted(names)}")
        try:
            options = json.loads(str(arrays.pop("options")))
            if isinstance(options["n_clusters"], list):
                options["n_clusters"] = dict(options["n_clusters"])
            regrouping = cls(**options)
        except (KeyError, TypeError, ValueError) as error:  # as of another version
            raise ValueError(f"{path} is not a saved Regrouping of this version ({error})") from error
        for name, value in arrays.items():
            setattr(regrouping, name, value)
        return regrouping


def seed_of(random_state: Any) -> int | None:
    """Return the seed; a generator draws one, which then seeds everything in a fit."""
    if random_state is None or (isinstance(random_state, int | np.integer) and random_state >= 0):
        return random_state
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except ValueError:
        expected = "expected a whole number of at least 0, a RandomState or None"
        raise ValueError(f"random_state is {random_state!r}; {expected}") from None


def merge_small(features: Any, labels: np.ndarray, parent: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Join each pseudo-class of fewer than `size` samples to the nearest larger one of its class.

    `features` [n, d] may be sparse or `Rows`, `labels` [n] are indices into `parent` [K]. Return labels, int64 [n], and
    parents [K'] of the remaining pseudo-classes; a class without a large one keeps all of its own.
    """
    counts = np.bincount(labels, minlength=len(parent))
    large, joined = counts >= size, np.arange(len(parent))
    small = np.flatnonzero(~large & (counts > 0) & np.isin(parent, parent[large]))
    if len(small):
        # Means by blocks, since features may be on disk.
        weights, means, start = 1 / counts[labels], 0, 0
        for block in features.blocks(16_384) if isinstance(features, Rows) else [features]:
            rows, start = slice(start, start + block.shape[0]), start + block.shape[0]
            entries = (weights[rows], (labels[rows], np.arange(block.shape[0])))
            means = means + sparse.csr_array(entries, shape=(len(parent), block.shape[0])) @ block
        for k in small:
            near = np.flatnonzero(large & (parent == parent[k]))
            joined[k] = near[euclidean_distances(means[[k]], means[near]).argmin()]
    kept, labels = np.unique(joined[labels], return_inverse=True)
    return labels.astype(np.int64), parent[kept]


@lru_cache(maxsize=1)
def _thread_pools(n_modules: int) -> ThreadpoolController:
    return ThreadpoolController()


def one_thread(user_api: str | None = None) -> AbstractContextManager:
    """Return a context in which thread pools (``"openmp"``, ``"blas"`` or all) have one thread."""
    # The search for thread pools takes longer than a small fit, so it is repeated only after an import.
    return _thread_pools(len(sys.modules)).limit(limits=1, user_api=user_api)


def aggregate(scores: Any, parent: Sequence[int], rule: str = "sum") -> Any:
    """Turn scores of pseudo-classes into scores of classes.

    Parameters
    ----------
    scores : array or tensor [n, K]
        Non-negative scores, usually probabilities.
    parent : sequence of int [K]
        Class index of each pseudo-class; every class 0..C-1 has at least one.
    rule : {"sum", "max"}
        **sum**: p(c) = sum of p(k) over k in c. **max**: m(c) = max of p(k) over k in c, then m(c) / sum of m.

    Returns
    -------
    array or tensor [n, C]
        Rows sum to 1. The argmax and, in the binary case, a threshold of 0.5 on the positive column are the
        paper's two decision rules (Section 2.2).

    Raises
    ------
    ValueError
        If the rule is unknown, shapes disagree, or scores are negative, not finite or all zero in a row.

    Examples
    --------
    >>> aggregate(np.array([[0.3, 0.3, 0.4]]), [0, 0, 1], rule="sum").tolist()
    [[0.6, 0.4]]
    >>> aggregate(np.array([[0.3, 0.3, 0.4]]), [0, 0, 1], rule="max").round(3).tolist()
    [[0.429, 0.571]]
    """
    if rule not in ("max", "sum"):
        raise ValueError(f"rule is {rule!r}; expected 'max' or 'sum'")
    tensors = is_tensor(scores)  # they stay on their device and in their graph
    if not tensors:
        scores = np.asarray(scores)
        scores = scores if scores.dtype.kind == "f" else scores.astype(np.float64)
    parent = np.asarray(for_sklearn(parent))
    if parent.ndim != 1 or len(parent) == 0 or parent.dtype.kind not in "iu" or parent.min() < 0:
        raise ValueError(f"parent is {parent}; expected a class index of at least 0 for each pseudo-class")
    members = [np.flatnonzero(parent == c).tolist() for c in range(int(parent.max()) + 1)]
    if empty := [c for c, group in enumerate(members) if not group]:
        raise ValueError(f"classes {empty} have no pseudo-class in parent")
    if scores.ndim != 2 or scores.shape[1] != len(parent):
        raise ValueError(f"scores have shape {tuple(scores.shape)}; expected [n, {len(parent)}]")
    if not bool((scores >= 0).all()) or not bool((scores < math.inf).all()):
        raise ValueError("scores must be finite and not negative; pass probabilities, not logits")
    library = sys.modules["torch"] if tensors else np  # a tensor's library has been imported
    reduce = library.sum if rule == "sum" else library.amax
    result = library.stack([reduce(scores[:, group], 1) for group in members], 1)
    totals = result.sum(1)[:, None]
    if not bool((totals > 0).all()):
        raise ValueError("a row of scores is all zero; it cannot be turned into probabilities")
    if not bool((totals < math.inf).all()):
        raise ValueError(f"the sum of a row of scores is beyond the range of {scores.dtype}; scale them first")
    return result / totals
