"""Diagnostics: numbers by hand, and figures with names on them."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score

import regroup_lib as rg
from regroup_lib import diagnostics


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    centers = np.array([[0, 0], [8, 0], [0, 8], [8, 8]])
    corner = np.repeat(range(4), 50)
    return centers[corner] + 0.3 * rng.normal(size=(200, 2)), corner


def test_separate_blobs_are_stable_and_apart(blobs):
    features, corner = blobs
    labels = np.where(corner == 3, "small", "large")
    diagnosis = rg.diagnose(features, labels, sub_labels=corner)
    assert list(diagnosis.classes.index) == ["large"]  # the small class is not divided
    row = diagnosis.classes.loc["large"]
    assert (row.samples, row.clusters, row.smallest, row.largest) == (150, 3, 50, 50)
    assert row.stability == 1
    assert row.silhouette > 0.8
    assert (row.purity, row.nmi) == (1, pytest.approx(1))
    assert "the same clusters" in diagnosis.text
    assert "well apart" in diagnosis.text


def test_noise_is_neither(blobs):
    features = np.random.default_rng(1).normal(size=(500, 20))
    diagnosis = rg.diagnose(features, np.arange(500) < 50)
    row = diagnosis.classes.loc[False]
    assert row.stability < 0.5
    assert row.silhouette < 0.1
    assert "purity" not in diagnosis.classes
    assert "other clusters" in diagnosis.text or "similar clusters" in diagnosis.text


def test_nothing_to_divide_is_said(blobs):
    features, corner = blobs
    diagnosis = rg.diagnose(features, corner, seed=None)
    assert diagnosis.classes.empty
    assert "nothing is divided" in diagnosis.text


def test_the_regrouping_that_is_asked_for_is_looked_at(blobs):
    features, corner = blobs
    diagnosis = rg.diagnose(features, corner == 3, regrouping=rg.Regrouping("minibatch-kmeans", n_clusters=2))
    assert diagnosis.classes.loc[False, "clusters"] == 2
    assert diagnosis.regrouping.clusterer == "minibatch-kmeans"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_repeats": 1}, "n_repeats is 1; stability needs at least 2"),
        ({"n_repeats": "3"}, "n_repeats is 3; it must be a whole number"),
        ({"sub_labels": [1, 2, 3]}, "3 sub-labels but 200 labels"),
        ({"sub_labels": [None, 1] * 100}, "100 labels are missing"),
        ({"regrouping": "kmeans"}, "regrouping is 'kmeans'; expected a Regrouping"),
        ({"seed": -1}, "random_state is -1; expected a whole number"),
    ],
)
def test_bad_input_is_named(blobs, options, message):
    features, corner = blobs
    with pytest.raises(ValueError, match=message):
        rg.diagnose(features, corner, **options)


def test_sparse_features_are_described_as_dense_ones(blobs):
    features, corner = blobs
    features = features * (features > 1)
    dense, found = rg.diagnose(features, corner == 3), rg.diagnose(sparse.coo_array(features), corner == 3)
    pd.testing.assert_frame_equal(found.classes, dense.classes)


def test_the_threshold_table_is_scikit_learns():
    rng = np.random.default_rng(0)
    y = rng.random(300) < 0.2
    scores = np.clip(0.3 * y + 0.7 * rng.random(300), 0, 1)
    table = diagnostics.threshold_table(y, scores)
    for threshold in (0.3, 0.5):
        called = scores >= threshold
        assert table.loc[threshold, "recall"] == pytest.approx(recall_score(y, called))
        assert table.loc[threshold, "precision"] == pytest.approx(precision_score(y, called))
        assert table.loc[threshold, "balanced accuracy"] == pytest.approx(balanced_accuracy_score(y, called))
        assert table.loc[threshold, "called positive"] == called.sum()
    assert np.isnan(diagnostics.threshold_table(y, scores, [1.1]).loc[1.1, "precision"])
    with pytest.raises(ValueError, match="both classes"):
        diagnostics.threshold_table([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="scores that are finite"):
        diagnostics.threshold_table([1, 0], [0.1, np.nan])
