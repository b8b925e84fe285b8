"""Regrouping as a scikit-learn classifier and as an imbalanced-learn sampler."""

import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn import FunctionSampler
from imblearn.ensemble import BalancedBaggingClassifier, BalancedRandomForestClassifier
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.pipeline import make_pipeline as make_sampling_pipeline
from imblearn.under_sampling import RandomUnderSampler, TomekLinks
from imblearn.utils.estimator_checks import parametrize_with_checks as parametrize_with_sampler_checks
from scipy import sparse
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.datasets import load_breast_cancer, load_digits, make_blobs
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, make_scorer
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    RandomizedSearchCV,
    StratifiedKFold,
    cross_val_predict,
    train_test_split,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import SVC, LinearSVC
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_info, threadpool_limits

import regroup_lib as rg
from regroup_lib import RegroupClassifier, Regrouper, Regrouping, aggregate

LOGISTIC = LogisticRegression(max_iter=1000)


@pytest.fixture(scope="module")
def digits():
    """Return half of the digits with three classes of text: many digits, few of "0", fewer of "1"."""
    X, y = load_digits(return_X_y=True)
    keep = np.random.default_rng(0).permutation(np.r_[np.flatnonzero(y > 1)[:700], np.flatnonzero(y == 0)[:120]])
    keep = np.r_[keep, np.flatnonzero(y == 1)[:80]]
    return X[keep] / 16, np.array(["one" if k == 1 else "zero" if k == 0 else "more" for k in y[keep]])


@pytest.fixture(scope="module")
def ring():
    """Return a positive class in the middle of a ring of six negative blobs: no line tells the two apart."""
    angles = np.arange(6) * np.pi / 3
    centers = np.r_[4 * np.c_[np.cos(angles), np.sin(angles)], [[0, 0]]]
    X, corner = make_blobs([60] * 6 + [60], centers=centers, cluster_std=0.7, random_state=0)
    return X, (corner == 6).astype(int)


# ---------------------------------------------------------------- scikit-learn's own checks


@parametrize_with_checks(
    [
        RegroupClassifier(),
        RegroupClassifier(HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=5), n_clusters=2),
        RegroupClassifier(make_pipeline(StandardScaler(), LinearSVC()), encoder=PCA(1), aggregation="max"),
        RegroupClassifier(GaussianNB(), clusterer=AgglomerativeClustering(), n_clusters="auto", cv=2),
    ],
    expected_failed_checks=lambda _: {
        f"check_sample_weight_equivalence_on_{kind}_data": "clusters, and how many there are, do not depend on weights"
        for kind in ("dense", "sparse")
    },
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("estimator", "options", "sparse_too", "missing_too"),
    [
        (LogisticRegression(), {}, True, False),
        (HistGradientBoostingClassifier(), {}, False, True),
        (make_pipeline(StandardScaler(), LogisticRegression()), {}, False, False),
        (LogisticRegression(), {"clusterer": AgglomerativeClustering()}, False, False),
        (LogisticRegression(), {"clusterer": AgglomerativeClustering(), "encoder": TruncatedSVD()}, True, False),
        (LogisticRegression(), {"clusterer": "random"}, True, False),
        (LogisticRegression(), {"clusterer": "no such name"}, False, False),
        (LogisticRegression(), {"encoder": object()}, False, False),
        (None, {}, True, False),
    ],
)
def test_tags_say_what_the_parts_take(estimator, options, sparse_too, missing_too):
    tags = get_tags(RegroupClassifier(estimator, **options))
    assert tags.estimator_type == "classifier"
    assert (tags.input_tags.sparse, tags.input_tags.allow_nan) == (sparse_too, missing_too)
    assert not tags.classifier_tags.multi_label  # whatever the classifier can do
    assert not tags.input_tags.positive_only
    assert get_tags(RegroupClassifier(MultinomialNB())).input_tags.positive_only


# ---------------------------------------------------------------- what it computes


@pytest.mark.parametrize("rule", ["max", "sum"])
@pytest.mark.parametrize("estimator", [LOGISTIC, LinearSVC(random_state=0)], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("binary", [False, True])
def test_it_is_regroup_fit_aggregate(digits, estimator, rule, binary):
    X, X_test, y, y_test = train_test_split(*digits, stratify=digits[1], random_state=0)
    n_clusters = 1 if binary else None  # two classes have one column of decision values
    y, y_test = (y == "more", y_test == "more") if binary else (y, y_test)
    regrouping = Regrouping(n_clusters=n_clusters, random_state=3).fit(X, y)
    fitted = clone(estimator).fit(X, regrouping.pseudo_labels_)
    if isinstance(estimator, LinearSVC):
        values = fitted.decision_function(X_test)
        scores = np.c_[expit(-values), expit(values)] if binary else softmax(values, axis=1)
    else:
        scores = fitted.predict_proba(X_test)
    scores = aggregate(scores, regrouping.parent_, rule)
    model = RegroupClassifier(estimator, n_clusters=n_clusters, aggregation=rule, random_state=3).fit(X, y)
    np.testing.assert_array_equal(model.pseudo_labels_, regrouping.pseudo_labels_)
    assert model.n_clusters_ == ({False: 1, True: 1} if binary else {"more": 9, "one": 1, "zero": 2})
    assert model.estimator_.classes_.tolist() == list(range(len(model.parent_)))
    np.testing.assert_allclose(model.predict_proba(X_test), scores, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(model.predict(X_test), model.classes_[scores.argmax(axis=1)])
    assert model.score(X_test, y_test) > 0.9
    model.set_params(aggregation="sum" if rule == "max" else "max")  # from here on
    assert binary or not np.allclose(model.predict_proba(X_test), scores)
    assert not hasattr(estimator, "classes_")  # it was cloned


@st.composite
def small_sets(draw, max_classes=4):
    """Draw features and labels of an imbalanced set: normal points, so that no two rows agree."""
    sizes = draw(st.lists(st.integers(2, 20), min_size=2, max_size=max_classes))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    y = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return rng.normal(size=(len(y), 3)) + y[:, None] / 2, y


@settings(max_examples=20)
@given(drawn=small_sets(), rule=st.sampled_from(["max", "sum"]), k=st.none() | st.integers(1, 4))
def test_predictions_follow_probabilities(drawn, rule, k):
    """Three neighbours make equal scores often, and they are the paper's: a tie is positive."""
    X, y = drawn
    grid = np.random.default_rng(0).normal(size=(40, 3))
    model = RegroupClassifier(KNeighborsClassifier(2), aggregation=rule, n_clusters=k, random_state=0).fit(X, y)
    scores, predicted = model.predict_proba(grid), model.predict(grid)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    np.testing.assert_array_equal(scores[np.arange(40), predicted], scores.max(axis=1))
    if scores.shape[1] == 2:
        np.testing.assert_array_equal(predicted, scores[:, 1] >= 0.5)
    measured = rg.evaluate(y, model.predict_proba(X))["balanced_accuracy"]
    assert measured == pytest.approx(balanced_accuracy_score(y, model.predict(X)))


@settings(max_examples=20)
@given(drawn=small_sets(), k=st.none() | st.integers(1, 5), clusterer=st.sampled_from(["kmeans", "random"]))
def test_the_sum_of_an_additive_model_is_the_plain_model(drawn, k, clusterer):
    """The share of neighbours of a class is the sum of the shares of its pseudo-classes."""
    X, y = drawn
    grid = np.random.default_rng(1).normal(size=(30, 3))
    options = {"clusterer": clusterer, "n_clusters": k, "random_state": 0, "aggregation": "sum"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random groups may be empty
        model = RegroupClassifier(KNeighborsClassifier(3), **options).fit(X, y)
    plain = KNeighborsClassifier(3).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(grid), plain.predict_proba(grid), atol=1e-12)


def test_the_seed_decides(digits):
    seeds = (1, np.int64(1), 2, np.random.RandomState(5), np.random.RandomState(5))
    labels = [RegroupClassifier(GaussianNB(), random_state=seed).fit(*digits).pseudo_labels_ for seed in seeds]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert not np.array_equal(labels[0], labels[2])
    np.testing.assert_array_equal(labels[3], labels[4])


# ---------------------------------------------------------------- encoder


class FirstTwo(BaseEstimator):
    """A transformer that counts its fits in a list of its class's."""

    fits: list = []  # noqa: RUF012 - shared by clones on purpose

    def fit_transform(self, X, y=None):
        FirstTwo.fits.append((np.shape(X), sorted(set(y))))
        return np.asarray(X)[:, :2] * [1, 1000]

    def transform(self, X):
        raise AssertionError("an encoder is needed by fit alone")


def test_the_encoder_is_clustered_and_the_classifier_sees_the_samples(digits):
    X, y = digits
    FirstTwo.fits.clear()
    model = RegroupClassifier(GaussianNB(), encoder=FirstTwo(), random_state=0).fit(X, y)
    assert FirstTwo.fits == [((900, 64), ["more", "one", "zero"])]
    expected = Regrouping(min_cluster_size=2, random_state=0).fit(X[:, :2] * [1, 1000], y)
    np.testing.assert_array_equal(model.pseudo_labels_, expected.pseudo_labels_)
    assert model.estimator_.n_features_in_ == model.n_features_in_ == 64
    # Nobody encodes where every class stays whole.
    RegroupClassifier(GaussianNB(), encoder=FirstTwo(), n_clusters=1).fit(X, y)
    assert len(FirstTwo.fits) == 1


def test_text_is_clustered_through_an_encoder():
    texts = [f"cheap {word} now" for word in ("pills", "watches")] * 6 + [f"dear {name}" for name in "abc"]
    y = ["spam"] * 12 + ["ham"] * 3
    classifier = make_pipeline(TfidfVectorizer(), LogisticRegression())
    encoder = make_pipeline(TfidfVectorizer(), TruncatedSVD(2, random_state=0))
    for chosen in (encoder, TfidfVectorizer()):  # dense and sparse rows
        model = RegroupClassifier(classifier, encoder=chosen, n_clusters=2, random_state=0).fit(texts, y)
        assert model.n_clusters_ == {"ham": 1, "spam": 2}
        assert model.predict(["cheap watches", "dear sir"]).tolist() == ["spam", "ham"]
    assert not hasattr(model, "n_features_in_")
    with pytest.raises(ValueError, match=r"need an encoder: pass encoder="):
        RegroupClassifier(classifier).fit(texts, y)


def test_images_with_an_encoder_of_this_library():
    X, y = load_digits(return_X_y=True)
    images, y = (X[:300].reshape(-1, 8, 8) * 15).astype(np.uint8), y[:300] == 0
    classifier = make_pipeline(FunctionTransformer(lambda images: images.reshape(len(images), -1) / 255), LOGISTIC)
    model = RegroupClassifier(classifier, encoder=rg.make_encoder("raw"), random_state=0).fit(images, y)
    expected = Regrouping(random_state=0).fit(rg.make_encoder("raw").transform(images), y)
    np.testing.assert_array_equal(model.pseudo_labels_, expected.pseudo_labels_)


def test_an_encoder_may_return_frames_or_be_fitted_before(ring):
    X, y = ring
    expected = RegroupClassifier(encoder=PCA(1), random_state=0).fit(X, y)
    for encoder in (PCA(1).set_output(transform="pandas"), FrozenEstimator(PCA(1).fit(X))):
        model = clone(expected).set_params(encoder=encoder).fit(X, y)
        np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))


# ---------------------------------------------------------------- kinds of samples


def test_missing_values_are_filled_by_an_encoder_and_pass_where_nothing_is_clustered(ring):
    X, y = ring[0].copy(), ring[1]
    X[[3, 50, 50], [0, 0, 1]] = np.nan
    boosting = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    filled = make_pipeline(SimpleImputer(), StandardScaler())
    model = RegroupClassifier(boosting, encoder=filled, random_state=0).fit(X, y)
    assert model.n_clusters_ == {0: 6, 1: 1}
    assert model.score(X, y) > 0.95
    whole = RegroupClassifier(boosting, n_clusters=1).fit(X, y)
    np.testing.assert_array_equal(whole.predict_proba(X), clone(boosting).fit(X, y).predict_proba(X))
    for wrong, message in (
        (RegroupClassifier(boosting), r"2 rows of X hold NaN .*pass encoder=make_pipeline\(SimpleImputer\(\), "),
        (RegroupClassifier(LOGISTIC, encoder=filled), "Input X contains NaN"),  # a classifier says so itself
        (RegroupClassifier(boosting, encoder=StandardScaler()), "2 rows of the encoder's output hold NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong.fit(X, y)


def long_indices(X):
    X = sparse.csr_array(X)
    return sparse.csr_array((X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64)), shape=X.shape)


@pytest.mark.parametrize(
    ("kind", "n_clusters"),
    [(sparse.csr_array, 2), (sparse.csc_matrix, 2), (sparse.coo_array, "auto"), (long_indices, "auto")],
)
def test_sparse_samples(ring, kind, n_clusters):
    X, y = ring[0][::3], ring[1][::3]
    options = {"random_state": 0, "n_clusters": n_clusters, "cv": 2}
    model = RegroupClassifier(LOGISTIC, **options).fit(kind(X), y)
    dense = RegroupClassifier(LOGISTIC, **options).fit(X, y)
    np.testing.assert_array_equal(model.pseudo_labels_, dense.pseudo_labels_)
    np.testing.assert_allclose(model.predict_proba(kind(X)), dense.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_tensors_of_any_kind(ring, dtype):
    X, y = torch.tensor(ring[0], dtype=dtype), torch.tensor(ring[1])
    arrays = X.double().numpy(), y.numpy()
    expected = RegroupClassifier(LOGISTIC, random_state=0).fit(arrays[0], arrays[1], sample_weight=1.0 + arrays[1])
    weights = torch.tensor(1.0 + ring[1], requires_grad=True)
    model = clone(expected).fit(X.requires_grad_(), y.to(dtype), sample_weight=weights)
    np.testing.assert_array_equal(model.pseudo_labels_, expected.pseudo_labels_)
    np.testing.assert_allclose(model.predict_proba(X), expected.predict_proba(arrays[0]), atol=1e-3)
    step = Regrouper(random_state=0)
    np.testing.assert_array_equal(step.fit_resample(X, y)[1], expected.pseudo_labels_)


def test_frames_and_text_labels():
    data = load_breast_cancer(as_frame=True)
    X, y = data.data.iloc[:150, :4], data.target.iloc[:150].map({0: "malignant", 1: "benign"})
    options = {"n_clusters": "auto", "threshold": 50, "encoder": StandardScaler(), "random_state": 0, "cv": 2}
    expected = RegroupClassifier(GaussianNB(), **options).fit(X.to_numpy(), y.to_numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # about names that were lost on the way
        model = RegroupClassifier(GaussianNB(), **options).fit(X, y)
        predicted = model.predict(X)
    assert model.feature_names_in_.tolist() == list(X.columns)
    np.testing.assert_array_equal(predicted, expected.predict(np.asarray(X)))
    assert set(predicted) == {"malignant", "benign"}
    assert model.n_clusters_search_ == expected.n_clusters_search_


# ---------------------------------------------------------------- inside other estimators


def test_grid_search_reaches_every_option(ring):
    X, y = ring
    grid = {
        "regroupclassifier__n_clusters": [1, None, {0: 3}],
        "regroupclassifier__aggregation": ["max", "sum"],
        "regroupclassifier__clusterer__n_init": [1],
        "regroupclassifier__estimator__C": [10],
    }
    model = make_pipeline(StandardScaler(), RegroupClassifier(LOGISTIC, clusterer=KMeans(), random_state=0))
    search = GridSearchCV(model, grid, scoring="average_precision", cv=StratifiedKFold(2)).fit(X, y)
    precisions = search.cv_results_["mean_test_score"].reshape(2, 3)
    assert precisions[:, 0].max() < 0.3  # no line tells the classes apart
    assert precisions[:, 1].min() > 0.95
    assert search.best_params_["regroupclassifier__n_clusters"] is None


def test_other_meta_estimators(ring):
    X, y = ring
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    model = RegroupClassifier(LOGISTIC, random_state=0)
    assert (cross_val_predict(model, X, y, cv=folds) == y).mean() > 0.95
    for outer in (
        CalibratedClassifierCV(model, cv=folds),
        BaggingClassifier(model, 3, random_state=0),  # by weights
        BaggingClassifier(RegroupClassifier(KNeighborsClassifier(), random_state=0), 2, random_state=0),  # by rows
        VotingClassifier([("a", model), ("b", clone(model))], voting="soft"),
        RegroupClassifier(model, n_clusters=2, random_state=0),  # clusters of clusters
    ):
        assert outer.fit(X, y).score(X, y) > 0.9


def test_a_second_fit_leaves_nothing_of_the_first(ring):
    X, y = ring
    model = RegroupClassifier(n_clusters="auto", cv=2, random_state=0).fit(X, y)
    model.set_params(n_clusters=2).fit(X[:, :1], np.where(y == 1, "b", "a"))
    assert model.n_clusters_ == {"a": 2, "b": 1}
    assert model.n_clusters_search_ == []
    assert model.n_features_in_ == 1


# ---------------------------------------------------------------- sample weights and metadata routing


class Noting(GaussianNB):
    """A classifier that notes what each fit was given, in a list of its class's, and takes parameters of any name."""

    notes: list = []  # noqa: RUF012 - shared by clones on purpose

    def fit(self, X, y, sample_weight=None, flag=None, **others):
        threads = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"}
        note = {"X": np.asarray(X), "y": np.asarray(y), "weights": sample_weight, "flag": flag, "threads": threads}
        Noting.notes.append(SimpleNamespace(**note))
        return super().fit(X, y)


@pytest.fixture
def notes():
    Noting.notes.clear()
    return Noting.notes


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_sample_weights_change_the_classifier_and_not_the_clusters(ring):
    X, y = ring
    weights = np.random.default_rng(0).random(len(y))
    model = RegroupClassifier(random_state=0).fit(X, y, sample_weight=weights)
    plain = RegroupClassifier(random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.pseudo_labels_, plain.pseudo_labels_)
    expected = LogisticRegression().fit(X, plain.pseudo_labels_, sample_weight=weights)
    np.testing.assert_array_equal(model.estimator_.coef_, expected.coef_)
    inner = make_pipeline("passthrough", LogisticRegression())
    piped = RegroupClassifier(inner, random_state=0).fit(X, y, logisticregression__sample_weight=weights)
    np.testing.assert_array_equal(piped.predict_proba(X), model.predict_proba(X))
    with pytest.raises(ValueError, match="stepname__parameter"):
        RegroupClassifier(inner).fit(X, y, sample_weight=weights)


def test_fit_parameters_of_a_fold_are_its_own(ring, notes):
    X, y = ring
    model = RegroupClassifier(Noting(), n_clusters="auto", cv=3, random_state=0)
    model.fit(X, y, sample_weight=pd.Series(1.0 + np.arange(len(y))), flag="as it is")
    assert len(notes) == 3 * len(model.n_clusters_search_) + 1
    for note in notes:
        assert note.flag == "as it is"
        np.testing.assert_array_equal(note.X, X[np.asarray(note.weights).astype(int) - 1])
        assert sorted(set(note.y.tolist())) == list(range(note.y.max() + 1))
    assert [len(note.y) for note in notes] == [280] * (len(notes) - 1) + [420]


def test_fit_parameters_that_the_classifier_does_not_take(ring):
    X, y = ring
    with pytest.raises(TypeError, match=r"KNeighborsClassifier\.fit does not take sample_weight"):
        RegroupClassifier(KNeighborsClassifier()).fit(X, y, sample_weight=np.ones(len(y)))
    with pytest.raises(TypeError, match=r"LogisticRegression\.fit does not take colour, weights"):
        RegroupClassifier().fit(X, y, weights=1, colour=2, sample_weight=np.ones(len(y)))
    with pytest.raises(ValueError, match=r"at least 2 classes; sample_weight is above 0 in 1 class: \[1\]"):
        RegroupClassifier().fit(X, y, sample_weight=y)
    for weights in (np.ones(3), "balanced", 2.0, {0: 1, 1: 2}):
        with pytest.raises(ValueError, match=r"sample_weight is .* of shape .*; expected a number for each of 420"):
            RegroupClassifier().fit(X, y, sample_weight=weights)
    with pytest.raises(ValueError, match="init_score is for classes, and the estimator learns pseudo-classes"):
        RegroupClassifier(Noting()).fit(X, y, init_score=np.ones(len(y)))
    with pytest.raises(ValueError, match="takes the label -1 for none, and regrouping for a class"):
        RegroupClassifier(SelfTrainingClassifier(LOGISTIC)).fit(X, np.where(y == 0, -1, y))


@pytest.mark.usefixtures("routing")
def test_routing_of_metadata(ring):
    X, y = ring
    weights = np.random.default_rng(0).random(len(y))
    inner = LogisticRegression(max_iter=1000)
    model = RegroupClassifier(inner, random_state=0)
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        model.fit(X, y, sample_weight=weights)
    model.set_params(estimator=clone(inner).set_fit_request(sample_weight="importance"))
    with pytest.raises(TypeError, match="sample_weight"):
        model.fit(X, y, sample_weight=weights)
    model.fit(X, y, importance=weights)
    expected = clone(inner).fit(X, model.pseudo_labels_, sample_weight=weights)
    np.testing.assert_array_equal(model.estimator_.coef_, expected.coef_)


@pytest.mark.usefixtures("routing")
def test_routing_through_pipeline_search_and_score(ring, notes):
    X, y = ring
    weights = 1.0 + np.arange(len(y))
    inner = Noting().set_fit_request(sample_weight=True)
    model = RegroupClassifier(inner, n_clusters="auto", threshold=180, cv=2, random_state=0)
    grid = {"regroupclassifier__aggregation": ["max"]}
    plain_accuracy = make_scorer(accuracy_score).set_score_request(sample_weight=False)
    search = GridSearchCV(make_pipeline("passthrough", model), grid, cv=2, scoring=plain_accuracy)
    search.fit(X, y, sample_weight=weights)
    model.set_score_request(sample_weight=True)
    GridSearchCV(model, {"aggregation": ["sum"]}, cv=2).fit(X, y, sample_weight=weights)
    assert len(notes) > 12
    for note in notes:
        np.testing.assert_array_equal(note.X, X[note.weights.astype(int) - 1])


@pytest.mark.parametrize(
    "outer",
    [AdaBoostClassifier(n_estimators=2), CalibratedClassifierCV(cv=2), MultiOutputClassifier(None)],
    ids=lambda outer: type(outer).__name__,
)
def test_weights_reach_the_classifier_through_other_estimators(ring, notes, outer):
    X, y = ring
    outer = clone(outer).set_params(estimator=RegroupClassifier(Noting(), random_state=0))
    outer.fit(X, np.c_[y, 1 - y] if isinstance(outer, MultiOutputClassifier) else y, sample_weight=1.0 + np.arange(420))
    assert min(len(np.unique(note.weights)) for note in notes) > 100


@pytest.mark.usefixtures("routing")
def test_groups_are_routed_to_the_folds(ring):
    X, y = ring
    model = RegroupClassifier(GaussianNB(), n_clusters="auto", threshold=180, cv=GroupKFold(3), random_state=0)
    groups = np.arange(len(y)) % 20
    search = GridSearchCV(model, {"aggregation": ["max"]}, cv=GroupKFold(2)).fit(X, y, groups=groups)
    assert len(search.best_estimator_.n_clusters_search_) > 1
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        model.fit(X, y)


# ---------------------------------------------------------------- habits of imbalanced learning

WEIGHTS = {0: 1, 1: 20}


class Weighted(LogisticRegression):
    """A classifier with weights as CatBoost and Keras take them, and options of boosting libraries and of skorch."""

    def __init__(self, class_weights=None, scale_pos_weight=None, train_split=None):
        super().__init__()
        self.class_weights, self.scale_pos_weight, self.train_split = class_weights, scale_pos_weight, train_split

    def fit(self, X, y, class_weight=None):
        weights = class_weight or dict(enumerate(self.class_weights))
        return super().fit(X, y, sample_weight=[weights[label] for label in y])


@pytest.mark.parametrize(
    "weighted",
    [
        LogisticRegression(class_weight={1: 20}),
        VotingClassifier([("a", LogisticRegression(class_weight=WEIGHTS))], voting="soft"),
        GridSearchCV(LogisticRegression(class_weight=WEIGHTS), {"C": [1.0]}),
        GridSearchCV(LogisticRegression(), {"class_weight": [WEIGHTS]}),
        RandomizedSearchCV(
            make_pipeline(LogisticRegression()), [{"logisticregression__class_weight": [WEIGHTS]}], n_iter=1
        ),
        RegroupClassifier(LogisticRegression(class_weight=WEIGHTS), n_clusters=1),
        GridSearchCV(make_pipeline(LOGISTIC), {"logisticregression": [LogisticRegression(class_weight=WEIGHTS)]}),
        GridSearchCV(LogisticRegression(), {"class_weight": np.array([WEIGHTS])}),
        Weighted([1, 20]),
    ],
    ids=lambda weighted: type(weighted).__name__,
)
def test_weights_by_class_weigh_classes_wherever_they_are_given(ring, weighted):
    X, y = ring
    model = RegroupClassifier(weighted, random_state=0).fit(X, y)
    if isinstance(weighted, Weighted):
        given_to_fit = RegroupClassifier(Weighted(), random_state=0).fit(X, y, class_weight=WEIGHTS)
        np.testing.assert_array_equal(model.predict_proba(X), given_to_fit.predict_proba(X))
    by_sample = RegroupClassifier(random_state=0).fit(X, y, sample_weight=np.where(y == 1, 20, 1))
    np.testing.assert_allclose(model.predict_proba(X), by_sample.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize(("majority", "n_clusters"), [(1, {1: 3}), (0, {1: 2})])
def test_a_mapping_that_divides_the_smallest_class_alone_is_warned_about(ring, majority, n_clusters):
    """As where an ensemble turned the labels 1 and 2 of a user into 0 and 1."""
    X, y = ring[0], ring[1] + majority
    model = RegroupClassifier(GaussianNB(), n_clusters=n_clusters)
    with pytest.warns(UserWarning, match="divides the smallest class and not the largest; VotingClassifier and"):
        VotingClassifier([("a", model)], voting="soft").fit(X, y)


@pytest.mark.parametrize("label", ["rare", "usual"])
def test_one_class_named_by_an_option_is_that_class(ring, label):
    X, y = ring[0], np.where(ring[1] == 1, "rare", "usual")
    constant = DummyClassifier(strategy="constant", constant=label)
    for estimator in (RadiusNeighborsClassifier(outlier_label=label), constant):
        model = RegroupClassifier(estimator, random_state=0).fit(X, y)
        assert model.predict([[99, 99]]).tolist() == [label]


@pytest.mark.parametrize(
    "weighted",
    [
        lambda weights: BaggingClassifier(LogisticRegression(class_weight=weights), random_state=0),
        lambda weights: RandomForestClassifier(20, max_depth=2, class_weight=weights, random_state=0),
        lambda weights: StackingClassifier([("a", GaussianNB())], LogisticRegression(class_weight=weights)),
    ],
)
def test_weights_by_class_reach_ensembles_and_text_labels(ring, weighted):
    X, y = ring[0][:, :1], np.where(ring[1] == 1, "rare", "usual")
    rare = [
        RegroupClassifier(weighted(weights), n_clusters=2, random_state=0).fit(X, y).predict_proba(X)[:, 0].mean()
        for weights in (None, {"rare": 20})
    ]
    assert rare[1] > rare[0]


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (OneVsRestClassifier(LogisticRegression(class_weight=WEIGHTS)), "inside OneVsRestClassifier, which makes cl"),
        (make_pipeline(OneVsRestClassifier(make_pipeline(SVC(class_weight={1: 2})))), "inside OneVsRestClassifier"),
        (LogisticRegression(class_weight={0: 1, 7: 2}), r"class_weight names classes \[7\]; the labels are \[0, 1\]"),
        (make_sampling_pipeline(SMOTE(sampling_strategy={7: 99}), LOGISTIC), r"sampling_strategy names classes \[7\]"),
        (
            make_sampling_pipeline(RandomUnderSampler(sampling_strategy={0: 5}), LOGISTIC),
            r"5 samples of 6 pseudo-.*\(0\)",
        ),
        (GaussianNB(priors=[0.9, 0.1]), r"priors is \[0.9, 0.1\], which is for 2 classes, and 7 pseudo-classes are"),
        (Weighted(scale_pos_weight=9), "scale_pos_weight is 9, which is for 2 classes, and 7 pseudo-classes"),
        (FixedThresholdClassifier(LOGISTIC), "(?s)Only binary.* 7 pseudo-classes. The .* belongs around RegroupClass"),
        (make_sampling_pipeline(FunctionSampler(func=min), LOGISTIC), "FunctionSampler would give func pseudo-classes"),
        (Weighted(train_split=partial(print)), "train_split holds class labels, and pseudo-classes are learned"),
        (GridSearchCV(LOGISTIC, {"C": [1]}, scoring="f1"), "GridSearchCV could not score its candidates on 7 pseudo-"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_options_about_classes_that_have_no_translation(ring, estimator, message):
    with pytest.raises(ValueError, match=message):
        RegroupClassifier(estimator, random_state=0).fit(*ring)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (RandomOverSampler(sampling_strategy={1: 200}), {0: 360, 1: 200}),
        (RandomOverSampler(sampling_strategy={0: 1000, 1: 61}), {0: 1000, 1: 61}),
        (RandomUnderSampler(sampling_strategy={0: 77}), {0: 77, 1: 60}),
        (RandomUnderSampler(sampling_strategy=lambda y: {0: int((y == 0).sum()) // 2}), {0: 180, 1: 60}),
    ],
)
def test_samples_asked_of_a_class_are_divided_among_its_pseudo_classes(ring, notes, sampler, expected):
    model = RegroupClassifier(make_sampling_pipeline(sampler, Noting()), random_state=0).fit(*ring)
    counts = np.bincount(notes[-1].y)
    assert {c: counts[model.parent_ == c].sum() for c in (0, 1)} == expected
    of_majority = counts[model.parent_ == 0] / model.regrouping_.counts_[model.parent_ == 0]
    np.testing.assert_allclose(of_majority, expected[0] / 360, atol=0.05)


def test_samplers_elsewhere_know_the_classes(ring):
    X, y = ring
    pipeline = make_sampling_pipeline(TomekLinks(sampling_strategy=[0]), GaussianNB())
    cleaned = RegroupClassifier(pipeline, random_state=0).fit(X, y)
    assert cleaned.estimator_[0].sampling_strategy == [0, 1, 2, 3, 4, 5]
    for ensemble in (BalancedBaggingClassifier, BalancedRandomForestClassifier):
        options = {"replacement": True, "n_estimators": 5, "random_state": 0}
        models = (ensemble(**options | {"sampling_strategy": {0: n}}) for n in (60, 300))
        few, many = (RegroupClassifier(model, random_state=0).fit(X, y).predict_proba(X[y == 0]) for model in models)
        assert few[:, 1].mean() > many[:, 1].mean()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step__eval_set", [(np.zeros((2, 2)), [0, 1])]),
        ("validation_data", (np.zeros((2, 2)), [0, 1])),
        ("X_valid", np.zeros((2, 2))),
        ("sample_weight_val", np.ones(2)),
        ("watchlist", [object()]),
        ("y_extra", [0, 1]),
    ],
)
def test_validation_data_are_refused(ring, name, value):
    with pytest.raises(ValueError, match=f"{name} is validation data for classes, and the estimator learns pseudo-cl"):
        RegroupClassifier(Noting()).fit(*ring, **{name: value})
    options = {"eval_metric": "auc", "eval_names": ["a", "b"], "validation_fraction": 0.1, "values": np.ones(3)}
    assert RegroupClassifier(Noting()).fit(*ring, **options).score(*ring) > 0.5


@pytest.mark.parametrize(
    ("estimator", "n_clusters"),
    [
        (HistGradientBoostingClassifier(early_stopping=True, max_iter=5), None),
        (CalibratedClassifierCV(LOGISTIC, cv=2), None),
        (make_sampling_pipeline(SMOTE(k_neighbors=1), LOGISTIC), None),
        (make_sampling_pipeline(SMOTE(k_neighbors=1), LOGISTIC), "auto"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_one_outlier_does_not_stop_what_splits_by_label(estimator, n_clusters):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 3)), np.arange(200) < 40
    X[-1] = 1000
    model = RegroupClassifier(estimator, n_clusters=n_clusters, cv=3, random_state=0).fit(X, y)
    assert model.regrouping_.counts_.min() > 1
    if n_clusters is None:
        message = r"pseudo-classes\. The smallest, \d, is part of class False and its sample c"
        with pytest.raises(ValueError, match=message):
            model.set_params(min_cluster_size=1).fit(X, y)


def test_auto_leaves_out_numbers_of_clusters_that_cannot_be_trained():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 3)), np.arange(200) < 8
    model = RegroupClassifier(SGDClassifier(early_stopping=True, loss="log_loss"), n_clusters="auto", random_state=0)
    with pytest.warns(UserWarning, match=r"n_clusters={False: 48, True: 1} is left out: The test_size = 16 should be"):
        model.fit(X, y)
    assert [entry["n_clusters"][False] for entry in model.n_clusters_search_][-1] <= 16


def test_small_samples_get_one_thread_and_large_ones_all(ring, notes):
    with threadpool_limits(2, user_api="openmp"):
        Noting().fit(*ring)
        RegroupClassifier(Noting()).fit(*ring)
        X = np.zeros((10**6, 1), np.float32)
        RegroupClassifier(Noting(), n_clusters=1).fit(X, np.arange(10**6) % 2)
        assert notes[1].threads == {1}
        assert notes[2].threads == notes[0].threads


# ---------------------------------------------------------------- n_clusters="auto"


def test_auto_finds_the_clusters_that_help(ring):
    X, y = ring
    model = RegroupClassifier(LOGISTIC, n_clusters="auto", random_state=0).fit(X, y)
    tried = model.n_clusters_search_
    assert [entry["n_clusters"] for entry in tried] == [{0: k, 1: 1} for k in (1, 2, 3, 6, 12)]
    means = [entry["mean_average_precision"] for entry in tried]
    assert means[0] < 0.3
    assert model.n_clusters_ == tried[int(np.argmax(means))]["n_clusters"]
    assert max(means) > 0.95
    assert model.n_clusters_[0] >= 3
    expected = Regrouping(random_state=0, n_clusters=model.n_clusters_).fit(X, y)
    np.testing.assert_array_equal(model.pseudo_labels_, expected.pseudo_labels_)
    for entry in tried:
        assert len(entry["average_precision"]) == 5
        assert entry["mean_average_precision"] == pytest.approx(np.mean(entry["average_precision"]))
        assert entry["std_average_precision"] == pytest.approx(np.std(entry["average_precision"]))
    # The numbers that it found can be passed back.
    named = clone(model).set_params(n_clusters=model.n_clusters_).fit(X, y)
    np.testing.assert_array_equal(named.predict_proba(X), model.predict_proba(X))


def test_auto_prefers_fewer_clusters_of_equal_ones():
    X, y = make_blobs([90, 30], centers=[[0, 0], [30, 0]], random_state=0)
    model = RegroupClassifier(n_clusters="auto", random_state=0).fit(X, y)
    assert {entry["mean_average_precision"] for entry in model.n_clusters_search_} == {1.0}
    assert model.n_clusters_ == {0: 1, 1: 1}
    np.testing.assert_array_equal(model.predict_proba(X), LogisticRegression().fit(X, y).predict_proba(X))
    X[0] = np.nan  # where classes are balanced nobody clusters
    model = RegroupClassifier(HistGradientBoostingClassifier(), n_clusters="auto").fit(X, np.arange(120) % 2)
    assert [entry["n_clusters"] for entry in model.n_clusters_search_] == [{0: 1, 1: 1}]


@pytest.mark.parametrize("smaller", [0, 1])
def test_auto_measures_the_plain_classifier_by_the_smaller_class(ring, smaller):
    X, y = ring[0][:, :1], ring[1] if smaller else 1 - ring[1]
    model = RegroupClassifier(n_clusters="auto", random_state=4).fit(X, y)
    precisions = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=4).split(X, y):
        scores = LogisticRegression().fit(X[train], y[train]).predict_proba(X[test])
        precisions.append(average_precision_score(y[test] == smaller, scores[:, smaller]))
    assert model.n_clusters_search_[0]["average_precision"] == pytest.approx(precisions)


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_auto_measures_the_mean_over_several_classes(digits, rule):
    X, y = digits
    model = RegroupClassifier(GaussianNB(), n_clusters="auto", cv=3, aggregation=rule, random_state=0).fit(X, y)
    tried = [list(entry["n_clusters"].values()) for entry in model.n_clusters_search_]
    assert tried == [[1, 1, 1], [2, 1, 1], [3, 1, 1], [5, 1, 1], [9, 1, 2], [18, 1, 3]]
    regrouping = Regrouping(random_state=0, n_clusters={"more": 5, "one": 1, "zero": 1}).fit(X, y)
    precisions = []
    for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(X, y):
        fitted = GaussianNB().fit(X[train], regrouping.pseudo_labels_[train])
        scores = aggregate(fitted.predict_proba(X[test]), regrouping.parent_, rule)
        each = [average_precision_score(y[test] == c, scores[:, j]) for j, c in enumerate(("more", "one", "zero"))]
        precisions.append(np.mean(each))
    assert model.n_clusters_search_[3]["average_precision"] == pytest.approx(precisions)


def test_auto_keeps_the_threshold_and_the_sizes_of_classes():
    y = np.repeat([0, 1, 2], [40, 12, 3])
    X = np.random.default_rng(0).normal(size=(55, 2))
    options = {"n_clusters": "auto", "cv": 2, "min_cluster_size": 1, "random_state": 0}
    by_threshold = RegroupClassifier(GaussianNB(), threshold=12, **options).fit(X, y).n_clusters_search_
    assert [list(entry["n_clusters"].values()) for entry in by_threshold] == [[k, 1, 1] for k in (1, 2, 4, 7)]
    by_default = RegroupClassifier(LOGISTIC, **options).fit(X, y).n_clusters_search_
    assert list(by_default[-1]["n_clusters"].values()) == [27, 8, 1]
    capped = RegroupClassifier(LOGISTIC, threshold=0.75, **options).fit(X, y).n_clusters_search_
    assert list(capped[-1]["n_clusters"].values()) == [40, 12, 3]


def test_auto_with_pseudo_classes_that_a_fold_does_not_have(notes):
    """Some classifiers insist on the labels 0, 1, 2, ... without a gap."""
    X = np.r_[np.random.default_rng(0).normal(size=(30, 2)), [[99, 0], [0, 99]], np.full((4, 2), 3.0)]
    y = [0] * 32 + [1] * 4  # the two far points are clusters of their own
    options = {"n_clusters": "auto", "cv": 4, "min_cluster_size": 1, "random_state": 0}
    model = RegroupClassifier(Noting(var_smoothing=0.01), **options).fit(X, y)
    assert [entry["n_clusters"][0] for entry in model.n_clusters_search_] == [1, 2, 4, 8, 16]
    assert len({note.y.max() for note in notes}) > 5
    assert all(np.unique(note.y).tolist() == list(range(note.y.max() + 1)) for note in notes)


def test_folds_of_ones_own(ring):
    X, y = ring
    groups = np.arange(len(y)) % 7
    folds = list(GroupKFold(3).split(X, y, groups))
    for cv in (folds, iter(folds), StratifiedKFold(4)):
        model = RegroupClassifier(n_clusters="auto", cv=cv, random_state=0).fit(X, y)
        n_folds = 4 if isinstance(cv, StratifiedKFold) else 3
        assert all(len(entry["average_precision"]) == n_folds for entry in model.n_clusters_search_)
    wrong = [(np.flatnonzero(y == 0), np.arange(len(y)))]
    with pytest.raises(ValueError, match=r"fold 0 of cv has no training sample of the classes \[1\]"):
        RegroupClassifier(n_clusters="auto", cv=wrong).fit(X, y)
    with pytest.raises(ValueError, match=r"fold 0 of cv has no test sample of the classes \[1\]"):
        RegroupClassifier(n_clusters="auto", cv=[wrong[0][::-1]]).fit(X, y)


@pytest.mark.parametrize("cv", [3, GroupKFold(3)])
def test_groups_stay_in_one_fold(ring, notes, cv):
    X, y = np.c_[np.arange(420), ring[0]], ring[1]
    groups = np.array([f"patient {k}" for k in np.random.default_rng(0).integers(60, size=420)])
    RegroupClassifier(Noting(), n_clusters="auto", encoder=PCA(2), cv=cv).fit(X, y, groups=groups)
    assert len(notes) > 6
    for note in notes[:-1]:  # the last fit is on all rows
        rows = note.X[:, 0].astype(int)
        assert not set(groups[rows]) & set(np.delete(groups, rows))
    search = GridSearchCV(GaussianNB(), {"var_smoothing": [1e-9]}, cv=GroupKFold(2))  # which needs them too
    assert RegroupClassifier(search, random_state=0).fit(*ring, groups=np.arange(420) % 9).score(*ring) > 0.9


def test_auto_with_a_kernel_matrix(ring):
    X, y = ring
    kernel = X @ X.T
    options = {"n_clusters": "auto", "cv": 2, "random_state": 0, "encoder": FunctionTransformer(lambda K: X)}
    model = RegroupClassifier(SVC(kernel="precomputed"), **options).fit(kernel, y)
    plain = RegroupClassifier(SVC(kernel="linear"), **options).fit(X, y)
    assert model.n_clusters_search_ == plain.n_clusters_search_
    assert get_tags(model).input_tags.pairwise


# ---------------------------------------------------------------- what is refused


class Forgetful(GaussianNB):
    """A classifier that leaves out labels with few samples."""

    def fit(self, X, y, sample_weight=None):
        keep = np.isin(y, np.flatnonzero(np.bincount(y) > 5))
        return super().fit(X[keep], y[keep])


class Narrow(GaussianNB):
    """A classifier with a column too few."""

    def predict_proba(self, X):
        return super().predict_proba(X)[:, 1:]


BAD = [
    ({"aggregation": "mean"}, "aggregation is 'mean'; expected 'max' or 'sum'"),
    ({"n_clusters": "best"}, "n_clusters is 'best'; expected a number, a mapping, 'auto' or None"),
    ({"n_clusters": {7: 2}}, r"n_clusters names classes \[7\]; the labels are \[0, 1\]"),
    ({"threshold": 10**6, "n_clusters": "auto"}, "threshold is 1000000; .* the largest class, 40"),
    ({"clusterer": "k-means"}, "no clusterer is called 'k-means'"),
    ({"estimator": LinearRegression()}, "LinearRegression has neither predict_proba nor decision_func"),
    ({"estimator": VotingClassifier([("a", LOGISTIC)])}, "VotingClassifier has neither predict_proba"),
    ({"estimator": LogisticRegression}, r"estimator is the class .*pass an object, LogisticRegression\(\)"),
    ({"estimator": SVC(decision_function_shape="ovo")}, "decision_function_shape is 'ovo'.* 'ovr' is"),
    ({"estimator": Forgetful(), "n_clusters": 9}, r"Forgetful knows \d of the \d+ pseudo-classes after"),
    ({"estimator": GaussianMixture(2)}, "GaussianMixture is not a classifier"),
    ({"estimator": FrozenEstimator(GaussianNB().fit([[0], [1]], ["a", "b"])), "n_clusters": 1}, "Frozen.* keep"),
    ({"n_clusters": "auto", "cv": []}, r"cv is \[\], which has no folds"),
    ({"encoder": PCA}, "encoder is <class .*PCA'>; pass an object with scikit-learn's fit_transform"),
    ({"encoder": "pca"}, "encoder is 'pca'; pass an object"),
    ({"encoder": FunctionTransformer(lambda X: X[:9])}, "the encoder made 9 rows out of 50; it must keep"),
    ({"encoder": FunctionTransformer(lambda X: X[0])}, "Expected 2D array, got 1D"),
    ({"n_clusters": "auto", "cv": 1}, "n_splits=1"),
    ({"n_clusters": "auto", "cv": "five"}, "Expected .?cv.? as an integer"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_options_that_are_refused(options, message):
    X, y = np.random.default_rng(0).normal(size=(50, 2)), [0] * 40 + [1] * 10
    model = RegroupClassifier(**options)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    with pytest.raises(NotFittedError):
        model.predict(X)


@pytest.mark.parametrize(
    ("X", "y", "n_clusters", "message"),
    [
        (np.zeros((4, 1)), ["x"] * 4, None, r"regrouping needs at least 2 classes; y holds 1 class: \['x'\]"),
        (np.zeros((0, 1)), [], None, r"y holds 0 class: \[\]"),
        (np.zeros((4, 1)), [0.5, 1.5, 0.1, 0.2], None, "Unknown label type"),
        (np.zeros((4, 1)), [0, 1, 0], None, "inconsistent numbers of samples"),
        (np.zeros((4, 1)), [[0, 1]] * 4, None, "y should be a 1d array"),
        (np.zeros((4, 1)), [0, 0, 0, 1], "auto", "cross-validates: class 1 needs at least 2 samples and has 1"),
        (np.zeros((4, 1)), None, None, "requires y to be passed"),
    ],
)
def test_samples_that_are_refused(X, y, n_clusters, message):
    with pytest.raises(ValueError, match=message):
        RegroupClassifier(n_clusters=n_clusters).fit(X, y)
    if n_clusters is None:
        with pytest.raises(ValueError, match=message.replace("RegroupClassifier", "Regrouper")):
            Regrouper().fit_resample(X, y)


def test_scores_that_do_not_fit(ring):
    X, y = ring
    model = RegroupClassifier(Narrow(), random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"Narrow gives scores of shape \(420, 6\) for 7 pseudo-classes"):
        model.predict(X)
    with pytest.raises(NotFittedError):
        clone(model).predict_proba(X)


def test_classifiers_of_ones_own(ring):
    """No scikit-learn base class, no ``classes_``: columns are in the order of the labels."""

    class Nearest:
        def get_params(self, deep=True):
            return {}

        def fit(self, X, y):
            self.centers = np.stack([X[y == k].mean(axis=0) for k in range(y.max() + 1)])
            return self

        def decision_function(self, X):
            return -((X[:, None] - self.centers) ** 2).sum(axis=2)

    X, y = ring
    model = RegroupClassifier(Nearest(), random_state=0).fit(X, y)
    assert model.score(X, y) > 0.98
    assert get_tags(model).classifier_tags is not None


# ---------------------------------------------------------------- imbalanced-learn

DIFFERS = {
    "check_samplers_preserve_dtype": "pseudo-labels are new numbers, int64",
    "check_samplers_multiclass_ova": "pseudo-labels have other indicator columns than labels",
}


@parametrize_with_sampler_checks([Regrouper(random_state=0)], expected_failed_checks=lambda _: DIFFERS)
def test_imbalanced_learns_checks(estimator, check):
    check(estimator)


def test_regrouper_in_a_pipeline_of_samplers(digits):
    X, y = digits
    pipeline = make_sampling_pipeline(
        StandardScaler(), Regrouper(random_state=0), RandomOverSampler(random_state=0), LOGISTIC
    ).fit(X, y)
    step = pipeline["regrouper"]
    assert step.classes_.tolist() == ["more", "one", "zero"]
    assert np.bincount(step.parent_).tolist() == [8, 1, 2]  # a cluster of one sample has joined another
    assert pipeline.classes_.tolist() == list(range(11))  # it predicts pseudo-classes
    scores = aggregate(pipeline.predict_proba(X), step.parent_)
    inner = make_sampling_pipeline(RandomOverSampler(random_state=0), LOGISTIC)
    other = make_pipeline(StandardScaler(), RegroupClassifier(inner, random_state=0)).fit(X, y)
    np.testing.assert_allclose(scores, other.predict_proba(X))
    by_label = step.classes_[step.parent_[pipeline.predict(X)]]
    np.testing.assert_array_equal(by_label, other.predict(X))


def test_regrouper_keeps_the_samples_and_takes_the_same_options():
    data = load_breast_cancer(as_frame=True)
    X, y = data.data.iloc[:200], data.target.iloc[:200]
    options = {"encoder": StandardScaler(), "threshold": 60, "n_clusters": {1: 2}, "random_state": 3}
    step = Regrouper("minibatch-kmeans", **options)
    same, labels = step.fit_resample(X, y)
    assert same is X
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(step.classes_[step.parent_[labels]], y)
    expected = RegroupClassifier(GaussianNB(), clusterer="minibatch-kmeans", **options).fit(X, y)
    np.testing.assert_array_equal(labels, expected.pseudo_labels_)
    np.testing.assert_array_equal(step.regrouping_.counts_, np.bincount(labels))
    assert step.feature_names_in_.tolist() == X.columns.tolist()
    assert clone(step).get_params().keys() == step.get_params().keys()
    with pytest.raises(ValueError, match="n_clusters is auto; it must be a whole number"):
        Regrouper(n_clusters="auto").fit_resample(X, y)
