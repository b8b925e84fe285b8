"""Clusterers: shapes, balance, determinism, degenerate input, and that they find what is there."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, pairwise_distances

from regroup_lib.clusterers import (
    BLIND_CLUSTERERS,
    CLUSTERERS,
    REDUCED_DIMENSION,
    RandomClusterer,
    balanced_assignment,
    make_clusterer,
    reduce_dimension,
)

MEANINGFUL = tuple(name for name in CLUSTERERS if name not in BLIND_CLUSTERERS)


def blobs(n=400, k=4, d=100, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centers, labels = rng.normal(size=(k, d)), np.arange(n) % k
    return (centers[labels] + spread * rng.normal(size=(n, d))).astype(np.float32), labels


@pytest.mark.parametrize("name", CLUSTERERS)
@pytest.mark.parametrize(("n", "d", "k"), [(60, 3, 4), (200, 150, 7), (30, 1, 2), (12, 5, 12), (5, 2, 1)])
def test_every_sample_gets_a_group(name, n, d, k):
    features = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    labels = make_clusterer(name, k, 0).fit_predict(features)
    assert labels.shape == (n,)
    assert labels.dtype.kind == "i"
    assert set(labels) <= set(range(k))


@pytest.mark.parametrize("name", MEANINGFUL)
def test_separate_blobs_are_found(name):
    features, truth = blobs()
    assert adjusted_rand_score(truth, make_clusterer(name, 4, 0).fit_predict(features)) > 0.95


@pytest.mark.parametrize("name", BLIND_CLUSTERERS)
def test_random_groups_do_not_look(name):
    features, truth = blobs(4000)
    labels = make_clusterer(name, 4, 0).fit_predict(features)
    assert abs(adjusted_rand_score(truth, labels)) < 0.01
    np.testing.assert_array_equal(labels, make_clusterer(name, 4, 0).fit_predict(np.zeros_like(features)))


@pytest.mark.parametrize("name", ["constrained-kmeans", "random-equal"])
@pytest.mark.parametrize(("n", "k"), [(400, 4), (401, 4), (50, 7), (9, 9)])
def test_equal_groups_are_equal(name, n, k):
    # One blob holds most samples: without the constraint its cluster would, too.
    features = np.concatenate([blobs(n - n // 8, k=1)[0], blobs(n // 8, k=3, seed=1)[0]])[:n]
    counts = np.bincount(make_clusterer(name, k, 0).fit_predict(features), minlength=k)
    assert counts.max() <= -(-n // k)
    assert counts.sum() == n
    if n % k == 0:
        assert (counts == n // k).all()


@pytest.mark.parametrize("name", CLUSTERERS)
@pytest.mark.parametrize("features", [np.zeros((40, 70)), np.repeat(np.eye(70)[:2], 20, axis=0)], ids=["one", "two"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_equal_samples_are_no_error(name, features):
    labels = make_clusterer(name, 5, 0).fit_predict(features.astype(np.float32))
    assert len(labels) == 40
    assert set(labels) <= set(range(5))


@pytest.mark.parametrize("name", ["constrained-kmeans", "spectral", "gmm", "agglomerative"])
def test_sparse_features_are_refused_with_a_way_out(name):
    with pytest.raises(ValueError, match="features are sparse; reduce them first"):
        make_clusterer(name, 2, 0).fit_predict(sparse.csr_array(np.eye(30)))


def test_dimension_is_reduced_where_there_is_one_to_reduce():
    features, _ = blobs(200, d=300)
    reduced = reduce_dimension(features, 0)
    assert reduced.shape == (200, REDUCED_DIMENSION)
    small = features[:, :10]
    np.testing.assert_array_equal(reduce_dimension(small, 0), small)
    few = features[:20]
    np.testing.assert_array_equal(reduce_dimension(few, 0), few)
    # Distances between blobs survive.
    before, after = pairwise_distances(features), pairwise_distances(reduced)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9


@st.composite
def costs(draw):
    k, size = draw(st.integers(2, 5)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    points, centers = rng.normal(size=(k * size, 2)), rng.normal(size=(k, 2))
    return pairwise_distances(points, centers, metric="sqeuclidean"), size


@given(costs())
@settings(max_examples=100)
def test_no_center_is_over_full_and_none_is_refused_without_need(drawn):
    distances, size = drawn
    assigned = balanced_assignment(distances, size)
    assert np.bincount(assigned, minlength=distances.shape[1]).tolist() == [size] * distances.shape[1]
    roomy = balanced_assignment(distances, len(distances))
    np.testing.assert_array_equal(roomy, distances.argmin(axis=1))


def test_balanced_assignment_is_near_the_optimum():
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        points, centers = rng.normal(size=(120, 5)), rng.normal(size=(6, 5))
        distances = pairwise_distances(points, centers, metric="sqeuclidean")
        # Twenty places a center: the transport problem as an assignment problem.
        rows, places = linear_sum_assignment(np.repeat(distances, 20, axis=1))
        optimum = np.repeat(distances, 20, axis=1)[rows, places].sum()
        found = distances[np.arange(120), balanced_assignment(distances, 20)].sum()
        assert found >= optimum - 1e-9
        ratios.append(found / optimum)
    assert np.mean(ratios) < 1.005


def test_too_few_places_are_refused():
    with pytest.raises(ValueError, match="capacity is 2; 3 centers of it have no room for 7 samples"):
        balanced_assignment(np.zeros((7, 3)), 2)


def test_landmarks_find_what_is_not_convex():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 3000)
    ring = np.repeat([0, 1], 1500)
    points = (np.where(ring, 4.0, 1.0) * np.stack([np.cos(angle), np.sin(angle)])).T
    points = (points + 0.1 * rng.normal(size=points.shape)).astype(np.float32)
    rings = make_clusterer("spectral", 2, 0).fit_predict(points)
    assert adjusted_rand_score(ring, rings) > 0.9
    assert adjusted_rand_score(ring, make_clusterer("kmeans", 2, 0).fit_predict(points)) < 0.3


@pytest.mark.parametrize(("n", "k"), [(1000, 5), (64, 4), (10, 10), (7, 1)])
def test_halving_groups_halve(n, k):
    counts = np.bincount(RandomClusterer(k, sizes="halving", random_state=0).fit_predict(np.zeros((n, 1))))
    assert len(counts) == k
    assert counts.sum() == n
    assert (counts >= 1).all()
    for larger, smaller in pairwise(counts):
        if smaller >= 8:
            assert 1.7 <= larger / smaller < 2.6


def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="sizes is 'even'; expected 'drawn', 'equal' or 'halving'"):
        RandomClusterer(3, sizes="even").fit(np.zeros((9, 1)))
