"""Clusterers by name, each usable on 45,000 samples of 1,280 features within minutes.

Those that are too slow at that size in scikit-learn's plain form use principal components, a neighbor graph,
landmarks, or a fit on a subsample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.cluster import AgglomerativeClustering, KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors, kneighbors_graph

REDUCED_DIMENSION = 64  # principal components that the slower clusterers see


def reduce_dimension(features: np.ndarray, random_state: int | None) -> np.ndarray:
    """Return the first principal components, float32 [n, min(64, d)]; features of fewer dimensions as they are."""
    if sparse.issparse(features):
        raise ValueError("features are sparse; reduce them first (TruncatedSVD), or use the clusterer kmeans")
    features = np.asarray(features, np.float32)
    n, d = features.shape
    if d <= REDUCED_DIMENSION or n <= REDUCED_DIMENSION:
        return features
    # A covariance matrix of up to 4,096 × 4,096 is cheap, and exact.
    solver = "covariance_eigh" if d <= 4096 else "randomized"
    return PCA(REDUCED_DIMENSION, svd_solver=solver, random_state=random_state).fit_transform(features)


class RandomClusterer(ClusterMixin, BaseEstimator):
    """Assigns samples to `n_clusters` groups at random, as a control: groups without meaning.

    Parameters
    ----------
    n_clusters : int
    sizes : {"drawn", "equal", "halving"}
        Each sample draws its group independently; or all groups are equal, to within one sample; or each group is half
        as large as the one before it, with at least one sample.
    random_state : int, optional
    """

    def __init__(self, n_clusters: int = 8, *, sizes: str = "drawn", random_state: int | None = None):
        self.n_clusters = n_clusters
        self.sizes = sizes
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: None = None) -> RandomClusterer:
        """Draw ``labels_``, int64 [n]."""
        rng, n = np.random.default_rng(self.random_state), X.shape[0]
        if self.sizes == "drawn":
            self.labels_ = rng.integers(self.n_clusters, size=n)
        elif self.sizes == "equal":
            self.labels_ = rng.permutation(np.arange(n) % self.n_clusters)
        elif self.sizes == "halving":
            shares = 0.5 ** np.arange(self.n_clusters)
            counts = 1 + np.floor((n - self.n_clusters) * shares / shares.sum()).astype(int)
            counts[0] += n - counts.sum()
            self.labels_ = rng.permutation(np.repeat(np.arange(self.n_clusters), counts))
        else:
            raise ValueError(f"sizes is {self.sizes!r}; expected 'drawn', 'equal' or 'halving'")
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def balanced_assignment(distances: np.ndarray, capacity: int) -> np.ndarray:
    """Assign samples to centers that take at most `capacity` each, at a small total cost.

    The optimum is a transport problem. Sinkhorn's iteration finds a price for each center at which all are in equal
    demand. A center that still exceeds its capacity passes samples on to other centers, those with the smallest loss
    first.

    `distances` [n, K] are costs, usually squared distances. The result is int64 [n]; a `capacity` below n / K, without
    room for all samples, is a ValueError. Source: Cuturi (2013), Sinkhorn distances: lightspeed computation of optimal
    transport.

    >>> balanced_assignment(np.array([[0.0, 9.0], [1.0, 9.0], [2.0, 3.0]]), capacity=2).tolist()
    [0, 0, 1]
    """
    costs = np.array(distances, np.float64)
    n, k = costs.shape
    if capacity * k < n:
        raise ValueError(f"capacity is {capacity}; {k} centers of it have no room for {n} samples")
    assigned = costs.argmin(axis=1)
    if np.bincount(assigned, minlength=k).max() <= capacity:
        return assigned.astype(np.int64)
    costs += _prices(costs)
    assigned = costs.argmin(axis=1)
    while True:
        full = np.flatnonzero(np.bincount(assigned, minlength=k) > capacity)
        if len(full) == 0:
            return assigned.astype(np.int64)
        for center in full:
            rows = np.flatnonzero(assigned == center)
            others = costs[rows].copy()
            others[:, center] = np.inf
            loss = others.min(axis=1) - costs[rows, center]
            passed_on = rows[np.argsort(loss, kind="stable")[: len(rows) - capacity]]
            costs[passed_on, center] = np.inf
            assigned[passed_on] = costs[passed_on].argmin(axis=1)


def _prices(costs: np.ndarray) -> np.ndarray:
    """Return the price of each center at which all are in equal demand, with smoothing reduced step by step."""
    n, k = costs.shape
    prices = np.zeros(k)
    scale = float(costs.std()) or 1.0
    for smoothing in (scale, scale / 4, scale / 16, scale / 64):
        for _ in range(25):
            demand = softmax(-(costs + prices) / smoothing, axis=1).sum(axis=0)
            prices += smoothing * np.log(np.maximum(demand, 1e-12) * k / n)
    return prices


class _OnComponents(ClusterMixin, BaseEstimator):
    """A clusterer that sees principal components."""

    def __init__(self, n_clusters: int = 8, *, random_state: int | None = None):
        self.n_clusters = n_clusters
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: None = None) -> _OnComponents:
        """Find ``labels_``, int64 [n]."""
        self.labels_ = np.asarray(self._groups(reduce_dimension(X, self.random_state)), np.int64)
        return self


class BalancedKMeans(_OnComponents):
    """K-means whose clusters have at most ceil(n / K) samples, so that all sizes are equal where K divides n.

    k-means-constrained finds the centers on a subsample; then all samples are assigned by `balanced_assignment`, and
    centers and assignment take turns. The exact method on all samples is a minimum cost flow with n · K arcs in each
    iteration: hours at 45,000 × 99. Source: Bradley, Bennett & Demiriz (2000), Constrained k-means clustering.
    """

    def _groups(self, reduced: np.ndarray) -> np.ndarray:
        centers = self._centers(reduced)
        capacity, labels = -(-len(reduced) // self.n_clusters), None
        for _ in range(10):
            assigned = balanced_assignment(pairwise_distances(reduced, centers, metric="sqeuclidean"), capacity)
            if labels is not None and (assigned == labels).all():
                break
            labels = assigned
            occupied = np.unique(labels)
            centers[occupied] = [reduced[labels == k].mean(axis=0) for k in occupied]
        return labels

    def _centers(self, reduced: np.ndarray) -> np.ndarray:
        from k_means_constrained import KMeansConstrained  # compiled, and only needed here

        rng = np.random.default_rng(self.random_state)
        n_fitted = min(len(reduced), max(2000, 10 * self.n_clusters))
        sample = reduced[rng.choice(len(reduced), n_fitted, replace=False)].astype(np.float64)
        size = n_fitted / self.n_clusters
        model = KMeansConstrained(
            self.n_clusters,
            size_min=int(size),
            size_max=int(np.ceil(size)),
            n_init=1,
            max_iter=20,
            random_state=self.random_state,
        )
        return model.fit(sample).cluster_centers_.astype(np.float32)


class LandmarkSpectralClustering(_OnComponents):
    """Spectral clustering through landmarks: its graph joins each sample to its nearest few of p landmarks.

    The landmarks are centers of mini-batch k-means. The graph between samples is Z Z^T with sparse Z [n, p], so its
    leading eigenvectors come from a p × p matrix instead of an n × n one.
    Source: Chen & Cai (2011), Large scale spectral clustering with landmark-based representation.
    """

    def _groups(self, reduced: np.ndarray) -> np.ndarray:
        graph = self._graph(reduced)
        # Z's leading singular vectors, by the small eigenproblem of Z^T Z.
        values, vectors = np.linalg.eigh((graph.T @ graph).toarray())
        chosen = slice(-self.n_clusters, None)
        scale = np.sqrt(np.maximum(values[chosen], 1e-12))
        embedded = np.asarray(graph @ (vectors[:, chosen] / scale))
        embedded /= np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-12)
        return KMeans(self.n_clusters, n_init=3, random_state=self.random_state).fit_predict(embedded)

    def _graph(self, reduced: np.ndarray) -> sparse.csr_array:
        """Return Z: kernel weights to the nearest landmarks, rows sum to 1, columns scaled by their degree."""
        n_landmarks = min(1000, len(np.unique(reduced, axis=0)))
        landmarks = MiniBatchKMeans(n_landmarks, n_init=1, batch_size=4096, random_state=self.random_state)
        centers = landmarks.fit(reduced).cluster_centers_
        n_neighbors = min(5, n_landmarks)
        distance, index = NearestNeighbors(n_neighbors=n_neighbors).fit(centers).kneighbors(reduced)
        width = max(float(np.median(distance)), 1e-12)
        weights = np.exp(-(distance**2) / (2 * width**2)) + 1e-12
        weights /= weights.sum(axis=1, keepdims=True)
        rows = np.repeat(np.arange(len(reduced)), n_neighbors)
        graph = sparse.csr_array((weights.ravel(), (rows, index.ravel())), shape=(len(reduced), n_landmarks))
        degree = np.maximum(np.asarray(graph.sum(axis=0)).ravel(), 1e-12)
        return sparse.csr_array(graph @ sparse.diags_array(1 / np.sqrt(degree)))


class DiagonalMixture(_OnComponents):
    """Gaussian mixture with diagonal covariances."""

    def _groups(self, reduced: np.ndarray) -> np.ndarray:
        model = GaussianMixture(self.n_clusters, covariance_type="diag", reg_covar=1e-3, random_state=self.random_state)
        scale = float(reduced.std()) or 1.0
        return model.fit_predict((reduced / scale).astype(np.float64))


class GraphAgglomeration(_OnComponents):
    """Ward's agglomeration along a graph of 10 nearest neighbors."""

    def _groups(self, reduced: np.ndarray) -> np.ndarray:
        # Ward's method has no random numbers; the seed permutes the samples, which breaks ties.
        order = np.random.default_rng(self.random_state).permutation(len(reduced))
        n_neighbors = min(10, len(reduced) - 1)
        graph = kneighbors_graph(reduced[order], n_neighbors, include_self=False) if n_neighbors else None
        labels = np.empty(len(reduced), np.int64)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the number of connected components")  # it joins them
            labels[order] = AgglomerativeClustering(self.n_clusters, connectivity=graph).fit_predict(reduced[order])
        return labels


# An identifier -> a clusterer with scikit-learn's fit_predict and an n_clusters (or n_components) parameter.
CLUSTERERS: dict[str, Callable[[], Any]] = {
    # Three starts: the spread of the inertia between starts is below 1% on 45,000 x 1,280 features.
    "kmeans": lambda: KMeans(n_init=3),
    "minibatch-kmeans": lambda: MiniBatchKMeans(n_init=3, batch_size=4096),
    "constrained-kmeans": BalancedKMeans,
    "spectral": LandmarkSpectralClustering,
    "gmm": DiagonalMixture,
    "agglomerative": GraphAgglomeration,
    "random": RandomClusterer,
    "random-equal": lambda: RandomClusterer(sizes="equal"),
    "random-halving": lambda: RandomClusterer(sizes="halving"),
}
BLIND_CLUSTERERS = tuple(name for name in CLUSTERERS if name.startswith("random"))  # those that use no feature


def make_clusterer(clusterer: Any, n_clusters: int, random_state: int | None) -> Any:
    """Return a fresh clusterer for `n_clusters` groups from an identifier or a scikit-learn style object."""
    if isinstance(clusterer, str):
        if clusterer not in CLUSTERERS:
            raise ValueError(f"no clusterer is called {clusterer!r}; there are {', '.join(CLUSTERERS)}")
        fresh = CLUSTERERS[clusterer]()
    elif hasattr(clusterer, "fit_predict") and hasattr(clusterer, "get_params") and not isinstance(clusterer, type):
        fresh = clone(clusterer)
    else:
        raise ValueError(f"clusterer is {clusterer!r}; pass a name or an object with scikit-learn's fit_predict")
    known = fresh.get_params()
    size = next((name for name in ("n_clusters", "n_components") if name in known), None)
    if size is None:
        raise ValueError(f"{fresh!r} has neither an n_clusters nor an n_components parameter")
    fresh.set_params(**{size: n_clusters})
    if "random_state" in known and random_state is not None:
        fresh.set_params(random_state=random_state)
    return fresh
