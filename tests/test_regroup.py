"""Regrouping: how many clusters, which pseudo-class, and scores back to classes."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

import regroup_lib as rg
from regroup_lib import Regrouping, aggregate, cluster_counts
from regroup_lib.clusterers import BLIND_CLUSTERERS, CLUSTERERS
from regroup_lib.files import read_npz, write_npz
from regroup_lib.large import BlockKMeans


def fit_linear(features, labels):
    return rg.fit_regrouped(lambda k: torch.nn.Linear(1, k), features, labels, epochs=1)


def ceiling(count, threshold):
    """Return the smallest whole number of thresholds that holds `count`, by counting."""
    number, held = 0, 0
    while held < count:
        number, held = number + 1, held + threshold
    return number


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=8), st.data())
def test_cluster_counts_are_the_papers_formula(counts, data):
    threshold = data.draw(st.integers(1, max(counts)))
    expected = [ceiling(count, threshold) for count in counts]
    assert cluster_counts(counts, threshold=threshold) == expected


@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=12), st.data())
def test_no_cluster_count_is_below_one_or_above_its_class(counts, data):
    threshold = data.draw(st.floats(0.01, max(counts)))
    wanted = data.draw(st.none() | st.integers(1, 10**6))
    found = cluster_counts(counts, threshold=threshold, n_clusters=wanted)
    assert all(type(k) is int and 1 <= k <= n for k, n in zip(found, counts, strict=True))
    for count, k in zip(counts, found, strict=True):
        if count <= threshold:
            assert k == 1


@pytest.mark.parametrize(
    ("counts", "options", "expected"),
    [
        ([45000, 5000], {}, [9, 1]),  # CIFAR-10, airplane
        ([49500, 500], {}, [99, 1]),  # CIFAR-100, worm
        ([9501, 514], {}, [19, 1]),  # HAM10000, bcc: 18.5 rounded up
        ([6705, 1113, 1099, 514, 327, 142, 115], {"threshold": 1000}, [7, 2, 2, 1, 1, 1, 1]),
        ([5000] * 10, {}, [1] * 10),
        ([10, 4], {"threshold": 2.5}, [4, 2]),
        ([10, 4], {"threshold": 0.5}, [10, 4]),  # never more clusters than samples
        ([100, 50, 10], {"n_clusters": 3}, [3, 3, 1]),
        ([100, 50, 10], {"n_clusters": 3, "threshold": 50}, [3, 1, 1]),
        ([5, 2], {"n_clusters": 100}, [5, 1]),
        ([100, 50, 10], {"n_clusters": {1: 2}}, [10, 2, 1]),
        ([100, 50, 10], {"n_clusters": {0: 4, 2: 99}}, [4, 5, 10]),  # a mapping may divide the smallest class
        (np.array([20, 10]), {"n_clusters": np.int64(3)}, [3, 1]),
        (torch.tensor([20, 10]), {}, [2, 1]),
    ],
)
def test_cluster_counts_by_example(counts, options, expected):
    assert cluster_counts(counts, **options) == expected


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([], {}, "every class needs at least one sample"),
        ([5, 2.5], {}, r"class_counts is \[5, 2.5\]; every class"),
        ({7: 5, 3: 2}, {}, "class_counts is {7: 5, 3: 2}; .* in a list of numbers"),
        (5, {}, "class_counts is 5; "),
        ([5, 0], {}, r"class_counts is \[5, 0\]; every class needs at least one sample"),
        ([5, 2], {"threshold": 0}, "threshold is 0; it must be above 0 and at most the largest class, 5"),
        ([5, 2], {"threshold": 5.1}, r"threshold is 5\.1; .* at most the largest class, 5"),
        ([5, 2], {"threshold": math.nan}, "threshold is nan"),
        ([5, 2], {"threshold": "2"}, "threshold is '2'; it must be above 0"),
        ([5, 2], {"threshold": True}, "threshold is True"),
        ([5, 5], {"n_clusters": 0}, "n_clusters is 0; it must be a whole number of at least 1"),  # and none is divided
        ([5, 2], {"n_clusters": 2.5}, r"n_clusters is 2\.5"),
        ([5, 2], {"n_clusters": math.inf}, "n_clusters is inf"),
        ([5, 2], {"n_clusters": "auto"}, "n_clusters is auto; it must be a whole number"),
        ([5, 2], {"n_clusters": {0: 1.5}}, "whole number of at least 1"),
        ([5, 2], {"n_clusters": {-1: 3}}, r"n_clusters names classes \[-1\]; there are 0 to 1"),
        ([5, 2], {"n_clusters": {"a": 3, 7: 1}}, "n_clusters names classes .*'a'"),
    ],
)
def test_cluster_counts_errors(counts, options, message):
    with pytest.raises(ValueError, match=message):
        cluster_counts(counts, **options)


def blobs(sizes, *, spread=0.1, distance=20.0, dimension=4, seed=0):
    """Return points around corners far apart, shuffled, and the corner of each."""
    rng = np.random.default_rng(seed)
    corner = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    corners = np.zeros((len(sizes), dimension))
    corners[:, 0] = distance * np.arange(len(sizes))
    return corners[corner] + rng.normal(scale=spread, size=(len(corner), dimension)), corner


def check_laws(regrouping, labels):
    """Check what holds for every fitted Regrouping."""
    labels = np.asarray(labels.float() if isinstance(labels, torch.Tensor) else labels)
    pseudo, parent = regrouping.pseudo_labels_, regrouping.parent_
    assert pseudo.dtype == parent.dtype == regrouping.counts_.dtype == np.int64
    assert pseudo.shape == labels.shape
    np.testing.assert_array_equal(regrouping.classes_, np.unique(labels))
    np.testing.assert_array_equal(regrouping.classes_[parent[pseudo]], labels)  # back to the class, always
    np.testing.assert_array_equal(regrouping.counts_, np.bincount(pseudo, minlength=len(parent)))
    assert (regrouping.counts_ > 0).all()
    assert (np.diff(parent) >= 0).all()  # numbered class by class
    assert set(parent.tolist()) == set(range(len(regrouping.classes_)))


@given(
    labels=st.lists(st.integers(-3, 5), min_size=2, max_size=80).filter(lambda drawn: len(set(drawn)) > 1),
    n_clusters=st.none() | st.integers(1, 20),
    clusterer=st.sampled_from(["random", "kmeans"]),
    seed=st.integers(0, 1000),
)
def test_laws_of_pseudo_labels(labels, n_clusters, clusterer, seed):
    features = np.random.default_rng(seed).normal(size=(len(labels), 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random groups may be empty
        regrouping = Regrouping(clusterer, n_clusters=n_clusters, random_state=seed).fit(features, labels)
    check_laws(regrouping, labels)
    counts = np.unique(labels, return_counts=True)[1]
    found = np.bincount(regrouping.parent_)
    wanted = cluster_counts(counts, n_clusters=n_clusters)
    assert (found <= wanted).all()
    if clusterer == "kmeans":  # all points differ
        assert found.tolist() == wanted


@pytest.mark.parametrize("clusterer", CLUSTERERS)
def test_same_seed_same_groups(clusterer):
    features = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    labels = np.arange(300) % 10 == 0
    np.random.seed(1)  # noqa: NPY002 - the global state is of no matter
    first = Regrouping(clusterer, random_state=3).fit(features, labels)
    np.random.seed(2)  # noqa: NPY002
    again = Regrouping(clusterer, random_state=3).fit(features, labels)
    other = Regrouping(clusterer, random_state=4).fit(features, labels)
    np.testing.assert_array_equal(first.pseudo_labels_, again.pseudo_labels_)
    # Ward's agglomeration draws no random numbers.
    assert np.array_equal(first.pseudo_labels_, other.pseudo_labels_) == (clusterer == "agglomerative")


def test_classes_do_not_share_their_random_numbers():
    labels = np.repeat([0, 1, 2], [100, 100, 10])
    regrouping = Regrouping("random", n_clusters=10, random_state=0).fit(np.zeros((210, 1)), labels)
    first, second = regrouping.pseudo_labels_[:100], regrouping.pseudo_labels_[100:200] - 10
    assert (first == second).mean() < 0.5


@pytest.mark.parametrize("kind", ["dense", "sparse", "blocks"])
def test_small_clusters_join_the_nearest_of_their_class(tmp_path, kind):
    """Two corners and two outliers, each nearer to another corner; a second class's outlier stays in its class."""
    X = np.array([[0, 0], [0, 1], [1, 0], [50, 0], [51, 0], [50, 1], [9, 0], [40, 1], [0, 0], [0, 1], [50, 50]], float)
    y, options = [0] * 8 + [1] * 3, {"n_clusters": {0: 4, 1: 2}, "random_state": 0}
    clusterer = KMeans(n_init=20)
    if kind == "blocks":
        np.save(tmp_path / "X.npy", X)
        features, clusterer = tmp_path / "X.npy", BlockKMeans(n_init=20, block_rows=3)
    else:
        features = sparse.csc_array(X) if kind == "sparse" else X
    plain = Regrouping(clusterer, **options).fit(features, y)
    assert sorted(plain.counts_.tolist()) == [1, 1, 1, 2, 3, 3]
    with pytest.warns(UserWarning, match=r"class 0 has 2 clusters; 4 were requested \(of at least 2 samples\)"):
        merged = Regrouping(clusterer, min_cluster_size=2, **options).fit(features, y)
    check_laws(merged, y)
    first, second = merged.pseudo_labels_[[0, 3]]
    assert merged.pseudo_labels_.tolist() == [first] * 3 + [second] * 3 + [first, second] + [2] * 3
    assert merged.parent_.tolist() == [0, 0, 1]


@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=4), least=st.integers(1, 6), seed=st.integers(0, 99))
def test_no_cluster_is_below_the_least_size_unless_its_class_is(sizes, least, seed):
    labels = np.repeat(range(len(sizes)), sizes)
    features = np.random.default_rng(seed).standard_cauchy((len(labels), 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        regrouping = Regrouping(min_cluster_size=least, random_state=seed).fit(features, labels)
    check_laws(regrouping, labels)
    assert (regrouping.counts_ >= np.minimum(least, np.array(sizes)[regrouping.parent_])).all()


class OneLabel(ClusterMixin, BaseEstimator):
    """A clusterer that has one label whatever it is given."""

    labels_ = np.zeros(1)

    def __init__(self, n_clusters=2):
        self.n_clusters = n_clusters

    def fit(self, X, y=None):
        return self


class ByFirstFeature(ClusterMixin, BaseEstimator):
    """A clusterer of one's own: equal parts along the first feature, numbered from the far end with gaps."""

    def __init__(self, n_clusters=2):
        self.n_clusters = n_clusters

    def fit(self, X, y=None):
        rank = np.argsort(np.argsort(X[:, 0]))
        self.labels_ = -7 * (rank * self.n_clusters // len(X))
        return self


@pytest.mark.parametrize(
    "clusterer",
    [
        ByFirstFeature(),
        AgglomerativeClustering(linkage="single"),
        GaussianMixture(random_state=0),
        KMeans(n_init=1, random_state=0),
    ],
    ids=lambda clusterer: type(clusterer).__name__,
)
def test_a_clusterer_object_is_cloned_and_told_the_number(clusterer):
    before = dict(clusterer.get_params())
    features, corner = blobs([40, 40, 40])
    regrouping = Regrouping(clusterer, random_state=0).fit(features, corner == 2)
    check_laws(regrouping, corner == 2)
    assert regrouping.parent_.tolist() == [0, 0, 1]
    assert adjusted_rand_score(corner, regrouping.pseudo_labels_) == 1
    assert clusterer.get_params() == before
    assert not hasattr(clusterer, "labels_")


def test_an_objects_own_seed_counts_when_none_is_given():
    features = np.random.default_rng(0).normal(size=(200, 3))
    labels = np.arange(200) < 20
    own = [Regrouping(KMeans(n_init=1, random_state=s)).fit(features, labels).pseudo_labels_ for s in (5, 5, 6)]
    np.testing.assert_array_equal(own[0], own[1])
    assert not np.array_equal(own[0], own[2])


def test_a_class_with_one_sample_makes_every_sample_a_cluster():
    features = np.arange(9.0)[:, None] ** 2
    with pytest.warns(UserWarning, match="class 1 has one sample, so each sample of a larger class"):
        regrouping = Regrouping(random_state=0).fit(features, [0] * 8 + [1])
    check_laws(regrouping, [0] * 8 + [1])
    assert regrouping.parent_.tolist() == [0] * 8 + [1]
    kept = Regrouping(threshold=4, random_state=0).fit(features, [0] * 8 + [1])
    assert kept.parent_.tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
@pytest.mark.parametrize("clusterer", ["kmeans", "minibatch-kmeans", *BLIND_CLUSTERERS], ids=str)
def test_sparse_features_make_the_groups_that_dense_ones_make(kind, clusterer):
    features, corner = blobs([30, 30, 30, 30])
    features *= np.random.default_rng(0).random((120, 1)) < 0.9
    dense = Regrouping(clusterer, random_state=0).fit(features, corner == 3)
    found = Regrouping(clusterer, random_state=0).fit(kind(features), corner == 3)
    assert found.parent_.tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(found.pseudo_labels_, dense.pseudo_labels_)


BAD_LABELS = [
    ([0, 0, 0, 0, 1, np.nan], "1 labels are missing"),
    (["a", "a", "a", "b", None, np.nan], "2 labels are missing"),  # NumPy would make the text "nan" of it
    (("a", "a", "a", "b", "b", None), "1 labels are missing"),
    (pd.Series([0, 0, 0, 0, 1, None], dtype="Int64"), "1 labels are missing"),
    (pd.Series(["a", "a", "a", "b", "b", pd.NA], dtype="string"), "1 labels are missing"),
    (pd.Categorical(["a", "a", "a", "b", "b", None]), "1 labels are missing"),
    (torch.tensor([0, 0, 0, 0, 1, math.nan]), "1 labels are missing"),
    ([0.5, 0.1, 0.2, 0.3, 1.0, 2.0], "Unknown label type: continuous"),
    (torch.tensor([0.5, 0.1, 0.2, 0.3, 1.0, 2.0]), "Unknown label type: continuous"),
    ([0, 0, 0, 0, 1, np.inf], "infinity"),
    ([1, 1, 1, "a", "a", "a"], "labels are of several types"),
    (pd.Series([1, 1, 1, "a", "a", "a"], dtype=object), "labels are of several types"),
    (["x"] * 6, r"at least 2 classes; y holds 1 class: \['x'\]"),
    (np.ma.masked_array([0, 0, 0, 0, 1, 1], [0, 1, 0, 0, 1, 0]), "2 labels are missing"),
    (torch.ones(6), r"at least 2 classes; y holds 1 class: \[1.0\]"),
]


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS)
@pytest.mark.parametrize(
    "fit",
    [Regrouping().fit, rg.RegroupClassifier().fit, rg.Regrouper().fit_resample, rg.diagnose, fit_linear],
    ids=["Regrouping", "RegroupClassifier", "Regrouper", "diagnose", "fit_regrouped"],
)
def test_labels_that_are_none(fit, labels, message):
    with pytest.raises(ValueError, match=message):
        fit(np.arange(6.0)[:, None], labels)


SPARSE = sparse.csr_array(([np.nan, np.inf, np.nan], ([1, 1, 4], [0, 2, 1])), (6, 3))
REFUSED = [
    ({"clusterer": "k-means"}, "no clusterer is called 'k-means'; there are kmeans, minibatch-kmeans"),
    ({"clusterer": None}, "clusterer is None; pass a name or an object with scikit-learn's fit_predict"),
    ({"clusterer": KMeans}, "clusterer is <class .*KMeans'>; pass a name or an object"),
    ({"clusterer": DBSCAN()}, r"DBSCAN\(\) has neither an n_clusters nor an n_components parameter"),
    ({"clusterer": "k-means", "labels": list("aaabbb")}, "no clusterer is called"),  # though nothing is divided
    ({"clusterer": OneLabel()}, r"OneLabel\(\) has labels of shape \(1,\) for 4 samples"),
    ({"clusterer": AgglomerativeClustering(), "features": sparse.eye_array(6)}, r"[Ss]parse"),  # it says so itself
    ({"threshold": 5}, "threshold is 5; .*the largest class, 4"),
    ({"n_clusters": 0}, "n_clusters is 0"),
    ({"n_clusters": {"c": 2}}, r"n_clusters names classes \['c'\]; the labels are \['a', 'b'\]"),
    ({"n_clusters": {0: 2}}, r"n_clusters names classes \[0\]"),  # labels, not positions
    ({"min_cluster_size": 0}, "min_cluster_size is 0; it must be a whole number of at least 1"),
    ({"random_state": "0"}, "random_state is '0'; expected a whole number of at least 0, a RandomState or None"),
    ({"random_state": np.random.default_rng(0)}, r"random_state is Generator\(PCG64\) .*; expected"),
    ({"features": np.zeros(6)}, r"features have shape \(6,\); expected \[n, d\]"),
    ({"features": np.zeros((5, 2))}, r"5 rows of features but labels of shape \(6,\); expected one per row"),
    ({"features": np.zeros((0, 3)), "labels": []}, "there are no samples"),
    ({"features": np.array([["a"]] * 6)}, "features are <U1; expected numbers"),
    ({"features": np.array([["a"]] * 6, dtype=object)}, "features are object; expected numbers"),
    ({"features": np.array([[None]] * 6)}, "6 rows of features hold NaN"),
    ({"features": pd.DataFrame({"a": pd.array([1, 2, 3, 4, 5, None], "Int64")})}, "1 rows of features hold NaN"),
    ({"features": np.ma.masked_array(np.ones((6, 1)), np.eye(6, 1))}, "1 rows of features hold NaN"),
    ({"features": np.array([[np.inf, np.nan], [0, np.nan]] + [[0, 1]] * 4)}, "2 rows of features hold NaN or infinite"),
    ({"features": np.array([[0, 1]] * 5 + [[0, -np.inf]], np.float32)}, "1 rows of features hold NaN or infinite"),
    ({"features": SPARSE}, "2 rows of features hold NaN or infinite values"),
    ({"features": sparse.eye_array(6), "labels": list("aaaab")}, r"6 rows of features but labels of shape \(5,\)"),
    ({"labels": np.zeros((6, 1))}, r"6 rows of features but labels of shape \(6, 1\)"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_what_cannot_be_regrouped_is_named(wrong, message):
    options = {"features": np.arange(6.0)[:, None], "labels": list("aaaabb")} | wrong
    features, labels = options.pop("features"), options.pop("labels")
    with pytest.raises((ValueError, TypeError), match=message):
        Regrouping(**options).fit(features, labels)


@pytest.mark.parametrize(
    "labels",
    [
        [False] * 4 + [True] * 2,
        pd.Series(["x"] * 4 + ["y"] * 2),
        pd.Series([3] * 4 + [5] * 2, dtype=object),
        pd.Series([True] * 2 + [False] * 4, dtype="boolean")[::-1],
        ("None",) * 4 + ("nan",) * 2,  # names of classes like any other
        torch.tensor([1.0] * 4 + [2.0] * 2, dtype=torch.bfloat16),
    ],
    ids=["bool", "series", "objects", "nullable", "tuple", "tensor"],
)
def test_labels_of_any_kind(labels):
    features = pd.DataFrame({"height": [0.0, 0.1, 5.0, 5.1, 9.0, 9.1]})
    regrouping = Regrouping(random_state=0).fit(features, labels)
    check_laws(regrouping, labels)
    assert regrouping.parent_.tolist() == [0, 0, 1]
    first = regrouping.classes_[0].item() if isinstance(labels, torch.Tensor) else np.asarray(labels)[0]
    named = Regrouping(n_clusters={first: 4}, random_state=0).fit(features, labels)
    assert named.parent_.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int64, np.uint8, object, "Int64", torch.tensor])
def test_features_of_any_number_type(kind):
    values = np.array([[0], [1], [50], [51], [90], [91]])
    features = torch.tensor(values) if kind is torch.tensor else pd.DataFrame(values).astype(kind)
    features = features.to_numpy() if isinstance(kind, type) else features
    regrouping = Regrouping(random_state=0).fit(features, [0, 0, 0, 0, 1, 1])
    assert regrouping.counts_.tolist() == [2, 2, 2]


def test_fit_changes_neither_features_nor_labels_nor_options():
    features, labels = np.arange(12.0).reshape(6, 2), np.array([1, 1, 1, 1, 0, 0])
    copies = features.copy(), labels.copy()
    regrouping = Regrouping(n_clusters={1: 3}, random_state=0)
    assert regrouping.fit(features, labels) is regrouping
    np.testing.assert_array_equal(features, copies[0])
    np.testing.assert_array_equal(labels, copies[1])
    assert clone(regrouping).get_params() == Regrouping(n_clusters={1: 3}, random_state=0).get_params()
    regrouping.fit(features[:3], [5, 5, 1])
    assert regrouping.pseudo_labels_.shape == (3,)  # nothing of the first fit is left


@pytest.mark.parametrize("distinct", [1, 2])
def test_duplicates_make_fewer_clusters_with_one_warning(distinct):
    features, labels = (np.arange(24) % distinct).astype(float)[:, None], [0] * 20 + [1] * 4
    with pytest.warns(UserWarning) as caught:  # noqa: PT030 - the text is checked below
        regrouping = Regrouping(random_state=0).fit(features, labels)
    assert len(caught) == 1
    assert f"class 0 has {distinct} clusters; 5 were requested" in str(caught[0].message)
    assert regrouping.parent_.tolist() == [0] * distinct + [1]


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        ([0, 0, 0, 0, 1, 1], {"random_state": 3}),
        (list("aaaabb"), {"n_clusters": {"a": 3}, "random_state": 0}),
        (list("aaaabb"), {"clusterer": "random", "threshold": 1.5, "random_state": 0}),
        (np.array([7, 7, 7, 7, 9, 9]), {"n_clusters": {np.int64(7): np.int64(2)}, "random_state": np.int64(5)}),
        (pd.Series(list("aaaabb"), dtype=object), {"threshold": np.int64(2), "random_state": 1}),
    ],
)
def test_save_and_load(tmp_path, labels, options):
    features = np.array([[0.0], [0.1], [5.0], [5.1], [9.0], [9.1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = Regrouping(**options).fit(features, labels)
        saved.save(tmp_path / "groups.npz")
        loaded = Regrouping.load(tmp_path / "groups.npz")
        assert isinstance(loaded, Regrouping)
        for name in ("pseudo_labels_", "parent_", "counts_"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name), strict=True)
        assert loaded.classes_.tolist() == saved.classes_.tolist()
        assert loaded.get_params() == saved.get_params()
        # It can be fitted again, to the same end.
        np.testing.assert_array_equal(loaded.fit(features, labels).pseudo_labels_, saved.pseudo_labels_)


@pytest.mark.parametrize("options", ["[]", "{", '{"n_clusters": null, "metric": "l1"}'])
def test_options_of_another_version_are_refused(tmp_path, options):
    path = tmp_path / "groups.npz"
    Regrouping(random_state=0).fit(np.arange(6.0)[:, None], [0, 0, 0, 0, 1, 1]).save(path)
    with np.load(path) as archive:
        np.savez(path, **dict(archive) | {"options": np.array(options)})
    with pytest.raises(ValueError, match="is not a saved Regrouping of this version"):
        Regrouping.load(path)


def test_the_file_holds_no_pickle(tmp_path):
    labels = pd.Series(list("aaaabb"), dtype=object)
    generator = np.random.RandomState(0)
    groups = Regrouping(KMeans(n_init=1), random_state=generator).fit(np.arange(6.0)[:, None], labels)
    groups.save(tmp_path / "groups.npz")
    with np.load(tmp_path / "groups.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    assert all(array.dtype != object for array in arrays.values())
    assert "KMeans(n_init=1)" in Regrouping.load(tmp_path / "groups.npz").clusterer  # the text of the object


def test_files_that_are_no_regrouping(tmp_path):
    path = tmp_path / "groups.npz"
    Regrouping(random_state=0).fit(np.arange(6.0)[:, None], [0, 0, 0, 0, 1, 1]).save(path)
    arrays = read_npz(path)
    for wrong in ({"x": np.zeros(3)}, arrays | {"fit": np.zeros(1)}):
        write_npz(path, wrong)
        with pytest.raises(ValueError, match=r"groups\.npz is not a saved Regrouping: it holds .* expected .*parent_"):
            Regrouping.load(path)
    np.savez(path, allow_pickle=True, **arrays | {"classes_": np.array([{}, None], dtype=object)})
    with pytest.raises(ValueError, match=r"groups\.npz is damaged or is not an npz file of plain arrays"):
        Regrouping.load(path)


def slow_aggregate(scores, parent, rule):
    """Write the definition out."""
    n_classes = max(parent) + 1
    rows = []
    for row in scores:
        result = [0.0] * n_classes
        for k, score in enumerate(row):
            c = parent[k]
            result[c] = result[c] + score if rule == "sum" else max(result[c], score)
        total = sum(result)
        rows.append([value / total for value in result])
    return np.array(rows)


@st.composite
def parents(draw, max_classes=4):
    """Draw parents: every class has a pseudo-class, in any order."""
    n_classes = draw(st.integers(1, max_classes))
    extra = draw(st.lists(st.integers(0, n_classes - 1), max_size=5))
    return draw(st.permutations([*range(n_classes), *extra]))


@st.composite
def scores_and_parent(draw, *, normalized=False, max_classes=4):
    parent = draw(parents(max_classes=max_classes))
    score = st.just(0.0) | st.floats(1e-6, 1.0)
    row = st.lists(score, min_size=len(parent), max_size=len(parent)).filter(any)
    scores = np.array(draw(st.lists(row, min_size=1, max_size=6)))
    return scores / scores.sum(axis=1, keepdims=True) if normalized else scores, parent


@pytest.mark.parametrize("rule", ["max", "sum"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@given(drawn=scores_and_parent())
def test_aggregate_agrees_with_the_definition(rule, library, drawn):
    scores, parent = drawn
    given_scores = torch.tensor(scores) if library == "torch" else scores
    found = aggregate(given_scores, parent, rule=rule)
    assert isinstance(found, torch.Tensor if library == "torch" else np.ndarray)
    found = np.asarray(found)
    np.testing.assert_allclose(found, slow_aggregate(scores.tolist(), parent, rule), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-9)
    assert (found >= 0).all()


@given(drawn=scores_and_parent(normalized=True, max_classes=2).filter(lambda drawn: max(drawn[1]) == 1))
def test_half_is_the_threshold_of_the_papers_binary_rules(drawn):
    """Section 2.2: positive if its largest score is at least the largest negative one; sums likewise."""
    scores, parent = drawn
    positive = np.array(parent) == 1
    for rule, reduce in (("max", np.max), ("sum", np.sum)):
        ours = aggregate(scores, parent, rule=rule)[:, 1]
        lead = reduce(scores[:, positive], axis=1) - reduce(scores[:, ~positive], axis=1)
        clear = np.abs(lead) > 1e-12
        np.testing.assert_array_equal((ours >= 0.5)[clear], (lead > 0)[clear])


def test_an_exact_tie_is_positive():
    scores = np.array([[0.25, 0.25, 0.5], [0.5, 0.0, 0.5]])
    assert aggregate(scores, [0, 0, 1], "sum")[0, 1] == 0.5
    assert aggregate(scores, [0, 0, 1], "max")[1, 1] == 0.5


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_tensors_keep_type_and_gradient(rule):
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]], requires_grad=True)
    result = aggregate(logits.softmax(1), torch.tensor([0, 0, 1]), rule)
    assert result.dtype == torch.float32
    result[:, 1].sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 2] > 0).all()
    assert aggregate(np.ones((1, 3), np.float32), [0, 0, 1], rule).dtype == np.float32
    assert aggregate(np.array([[1, 2, 1]]), [0, 0, 1], rule).dtype == np.float64
    assert aggregate([[1, 2, 1]], [0, 0, 1], "sum").tolist() == [[0.75, 0.25]]


def test_no_rows_are_no_rows():
    assert aggregate(np.zeros((0, 3)), [0, 0, 1]).shape == (0, 2)
    assert aggregate(torch.zeros((0, 3)), [0, 0, 1], "sum").shape == (0, 2)


@pytest.mark.parametrize("library", [np.array, torch.tensor])
@pytest.mark.parametrize(
    ("scores", "parent", "rule", "message"),
    [
        ([[0.5, 0.5]], [0, 1], "mean", "rule is 'mean'; expected 'max' or 'sum'"),
        ([[0.5, -0.1]], [0, 1], "max", "scores must be finite and not negative; pass probabilities, not logits"),
        ([[math.inf, math.nan]], [0, 1], "sum", "scores must be finite and not negative"),
        ([[0.5, 0.5], [0.0, 0.0]], [0, 1], "max", "a row of scores is all zero"),
        ([[0.5, 0.5]], [0, 0, 1], "max", r"scores have shape \(1, 2\); expected \[n, 3\]"),
        ([0.5, 0.5], [0, 1], "max", r"scores have shape \(2,\); expected \[n, 2\]"),
        ([[1.5e308, 1.5e308]], [0, 0], "sum", "the sum of a row of scores is beyond the range of .*float"),
        ([[0.5, 0.5]], [0, 2], "max", r"classes \[1\] have no pseudo-class in parent"),
        ([[0.5, 0.5]], [-1, 0], "max", "expected a class index of at least 0"),
        ([[0.5, 0.5]], [0.0, 1.0], "max", "parent is .*; expected a class index"),
        ([[0.5, 0.5]], [[0, 1]], "max", "expected a class index"),
        ([[0.5, 0.5]], [], "max", "expected a class index"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_aggregate_errors(library, scores, parent, rule, message):
    scores = np.array(scores)
    with pytest.raises(ValueError, match=message):
        aggregate(torch.tensor(scores) if library is torch.tensor else scores, parent, rule=rule)
