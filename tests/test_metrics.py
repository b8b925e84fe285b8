"""Metrics against written-out definitions and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    adjusted_rand_score,
    average_precision_score,
    balanced_accuracy_score,
    normalized_mutual_info_score,
)

from regroup_lib import evaluate, metrics, total_variation
from regroup_lib.metrics import calibrated_average_precision, clustering_quality, neighbor_accuracy


def classified(n, n_classes, seed=0, skill=1.0):
    """Return labels (every class occurs) and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    logits = rng.normal(size=(n, n_classes)) + skill * np.eye(n_classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@st.composite
def ranked(draw):
    """Draw labels of both classes and scores with ties."""
    labels = draw(st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda drawn: 0 < sum(drawn) < len(drawn)))
    values = st.integers(0, 6).map(lambda value: value / 8)
    scores = draw(st.lists(values, min_size=len(labels), max_size=len(labels)))
    return np.array(labels), np.array(scores)


def slow_average_precision(labels, scores, prevalence):
    """Precision at each threshold from the rates, as if positives made up `prevalence`; weighted by recall gained."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        recall = (taken & labels).sum() / labels.sum()
        false_rate = (taken & ~labels).sum() / (~labels).sum()
        precision = prevalence * recall / (prevalence * recall + (1 - prevalence) * false_rate)
        total += (recall - recall_before) * precision
        recall_before = recall
    return total


@given(ranked(), st.floats(0.01, 0.99))
def test_calibrated_average_precision_is_the_definition(drawn, prevalence):
    labels, scores = drawn
    found = calibrated_average_precision(labels, scores, prevalence=prevalence)
    assert found == pytest.approx(slow_average_precision(labels, scores, prevalence), rel=1e-9)
    assert 0 < found <= 1 + 1e-12


@given(ranked())
def test_calibrated_average_precision_at_the_real_prevalence_is_average_precision(drawn):
    labels, scores = drawn
    expected = average_precision_score(labels, scores)
    assert calibrated_average_precision(labels, scores, prevalence=labels.mean()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_evaluate_agrees_with_scikit_learn(n_classes):
    labels, scores = classified(300, n_classes)
    names = [f"class {c}" for c in range(n_classes)]
    result = evaluate(labels, scores, names)
    assert result["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(axis=1)))
    for c, name in enumerate(names):
        assert result["average_precision"][name] == average_precision_score(labels == c, scores[:, c])
        expected = slow_average_precision(labels == c, scores[:, c], 0.5)
        assert result["calibrated_average_precision"][name] == pytest.approx(expected)
        assert result["prevalence"][name] == pytest.approx((labels == c).mean())
    for key in ("average_precision", "calibrated_average_precision", "prevalence"):
        assert list(result[key]) == names


def test_tensors_are_measured_as_arrays():
    labels, scores = torch.tensor([0, 1, 1]), torch.tensor([0.25, 0.5, 0.125], dtype=torch.bfloat16, requires_grad=True)
    assert evaluate(labels, scores) == evaluate([0, 1, 1], [0.25, 0.5, 0.125])


def test_a_vector_of_scores_is_the_positive_class():
    labels, scores = classified(200, 2)
    assert evaluate(labels, scores[:, 1]) == evaluate(labels, np.stack([1 - scores[:, 1], scores[:, 1]], axis=1))
    assert list(evaluate(labels, scores[:, 1])["average_precision"]) == ["0", "1"]


def test_a_binary_tie_is_positive_and_a_multiclass_one_the_first():
    assert evaluate([0, 1], [[0.5, 0.5], [0.5, 0.5]])["balanced_accuracy"] == 0.5
    assert evaluate([0, 1, 1], [0.4, 0.5, 0.6])["balanced_accuracy"] == 1
    tie = evaluate([0, 1, 2], [[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.4, 0.2, 0.4]])
    assert tie["balanced_accuracy"] == pytest.approx(1 / 3)


def test_results_are_plain_numbers():
    def leaves(value):
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [value] if values is None else list(itertools.chain.from_iterable(map(leaves, values)))

    labels, scores = classified(60, 3)
    assert {type(leaf) for leaf in leaves(evaluate(labels, scores.astype(np.float32)))} == {float}


def intervals(result):
    """Yield each estimate with its interval."""
    yield result["balanced_accuracy"], result["intervals"]["balanced_accuracy"]
    for name, value in result["average_precision"].items():
        yield value, result["intervals"]["average_precision"][name]


@given(ranked())
def test_intervals_contain_the_estimate_and_stay_in_range(drawn):
    labels, scores = drawn
    for value, (low, high) in intervals(evaluate(labels.astype(int), scores)):
        assert 0 <= low <= value <= high <= 1


def test_intervals_by_hand():
    labels, scores = classified(400, 2, skill=0.7)
    result, z = evaluate(labels, scores), 1.959964
    value, n_positives = result["average_precision"]["1"], 200
    # Boyd, Eng & Page 2013, the logit interval: eta +- z tau.
    eta, tau = math.log(value / (1 - value)), 1 / math.sqrt(n_positives * value * (1 - value))
    expected = [1 / (1 + math.exp(-(eta + sign * z * tau))) for sign in (-1, 1)]
    assert result["intervals"]["average_precision"]["1"] == pytest.approx(expected, rel=1e-6)
    recalls = [np.mean(scores[labels == c].argmax(axis=1) == c) for c in (0, 1)]
    margin = z * math.sqrt(sum(recall * (1 - recall) / 200 for recall in recalls)) / 2
    accuracy = result["balanced_accuracy"]
    assert result["intervals"]["balanced_accuracy"] == pytest.approx([accuracy - margin, accuracy + margin], rel=1e-6)


def slow_total_variation(features, labels):
    """Write the definition out."""

    def spread(rows):
        center = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        return sum(sum((x - m) ** 2 for x, m in zip(row, center, strict=True)) for row in rows) / len(rows)

    rows = features.tolist()
    return [
        spread([row for row, label in zip(rows, labels, strict=True) if label == k]) / spread(rows)
        for k in range(max(labels) + 1)
    ]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8])
@given(seed=st.integers(0, 999), n_classes=st.integers(1, 5))
def test_total_variation_is_the_definition(dtype, seed, n_classes):
    rng = np.random.default_rng(seed)
    features, labels = rng.integers(0, 250, (40, 3)).astype(dtype), rng.permutation(np.arange(40) % n_classes)
    found = total_variation(features, labels)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, slow_total_variation(features.astype(float), labels.tolist()), rtol=1e-5)


def test_total_variation_of_collapsed_and_single_and_absent_classes():
    features = np.array([[1.0, 1.0], [1.0, 1.0], [5.0, 0.0]])
    np.testing.assert_array_equal(total_variation(features, [0, 0, 3]), [0, np.nan, np.nan, 0])
    assert total_variation(features, [0, 0, 0]) == pytest.approx([1])


def test_total_variation_far_from_the_origin_in_single_precision():
    """The narrow class is a hundred-thousandth of its distance from the origin wide."""
    labels = np.arange(60_000) % 2
    spread = np.where(labels, 0.01, 1)[:, None]
    features = (1000 + spread * np.random.default_rng(0).normal(size=(60_000, 2))).astype(np.float32)
    np.testing.assert_allclose(
        total_variation(features, labels), total_variation(features.astype(np.float64), labels), rtol=1e-3
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=50))
def test_clustering_quality_agrees_with_scikit_learn_and_the_definition(pairs):
    labels, clusters = map(list, zip(*pairs, strict=True))
    found = clustering_quality(labels, clusters)
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert found["ari"] == pytest.approx(adjusted_rand_score(labels, clusters))
    members = [[label for label, c in pairs if c == cluster] for cluster in set(clusters)]
    assert found["purity"] == pytest.approx(sum(max(map(m.count, m)) for m in members) / len(pairs))
    # Names of clusters do not matter.
    assert clustering_quality(labels, [f"group {9 - c}" for c in clusters]) == pytest.approx(found)


def slow_neighbor_accuracy(features, labels, n_neighbors):
    """Vote of the most similar others by cosine; the lower label wins a tie."""
    right = 0
    for i, row in enumerate(features):
        others = [j for j in range(len(features)) if j != i]
        cosine = {j: row @ features[j] / np.linalg.norm(row) / np.linalg.norm(features[j]) for j in others}
        votes = [labels[j] for j in sorted(others, key=cosine.get, reverse=True)[:n_neighbors]]
        right += max(range(max(labels) + 1), key=votes.count) == labels[i]
    return right / len(features)


@pytest.mark.parametrize("n_neighbors", [1, 3, 5])
def test_neighbor_accuracy_is_the_definition(n_neighbors):
    rng = np.random.default_rng(n_neighbors)
    labels = rng.integers(0, 3, 60)
    features = rng.normal(size=(60, 4)) + np.eye(3, 4)[labels]
    found = neighbor_accuracy(features * rng.uniform(0.1, 9, (60, 1)), labels, n_neighbors=n_neighbors)
    assert found == slow_neighbor_accuracy(features, labels.tolist(), n_neighbors)


def test_no_point_is_its_own_neighbor():
    features = np.repeat(np.eye(4), 2, axis=0)  # twins with different labels
    assert neighbor_accuracy(features, [0, 1] * 4, n_neighbors=1) == 0
    assert neighbor_accuracy(features, [0, 0, 1, 1] * 2, n_neighbors=1) == 1


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_weighted_average_precisions_are_scikit_learns(decimals):
    rng = np.random.default_rng(decimals)
    labels = rng.random(300) < 0.1
    scores = np.round(rng.normal(size=300) + labels, decimals)  # with ties
    weights = rng.integers(0, 4, size=(130, 300))
    found = metrics.weighted_average_precisions(labels, scores, weights)
    expected = [average_precision_score(labels, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_weights_without_a_positive_have_no_average_precision():
    found = metrics.weighted_average_precisions([True, False], [0.2, 0.1], np.array([[1, 1], [0, 1]]))
    assert found[0] == 1
    assert np.isnan(found[1])
    assert np.isnan(metrics.weighted_average_precisions([False, False], [0.2, 0.1], np.ones((3, 2)))).all()


def test_bootstrap_resamples_within_each_class():
    labels = np.array([0] * 50 + [1] * 5)
    counts = metrics.bootstrap_counts(labels, 200, seed=3)
    assert counts.shape == (200, 55)
    assert (counts[:, labels == 1].sum(axis=1) == 5).all()
    assert (counts[:, labels == 0].sum(axis=1) == 50).all()
    assert (counts == metrics.bootstrap_counts(labels, 200, seed=3)).all()
    assert counts[:, 0].mean() == pytest.approx(1, abs=0.2)
    assert (counts[0] == 1).all()  # the samples as they are
    assert not (counts[1:] == 1).all(axis=1).any()


PAIR, TWO, calibrated = [[0.4, 0.6], [0.7, 0.3]], [True, False], calibrated_average_precision
REFUSED = [
    *((calibrated, (TWO, [0.1, 0.2]), {"prevalence": p}, "must lie between 0 and 1") for p in (0, 1, math.nan)),
    (calibrated, ([True, True], [0.1, 0.2]), {}, "needs samples of both classes"),
    (calibrated, ([False, False], [0.1, 0.2]), {}, "needs samples of both classes"),
    (calibrated, (TWO, [0.1, math.nan]), {}, "NaN"),
    (calibrated, (TWO, [0.1, 0.2, 0.3]), {}, "inconsistent"),
    (evaluate, ([0, 1], [[0.4, math.nan], [0.5, math.inf]]), {}, "2 rows of scores are NaN or infinite"),
    (evaluate, ([0, 1], [0.3, math.nan]), {}, "1 rows of scores are NaN or infinite"),
    (evaluate, ([0, 0], PAIR, ["rest", "plane"]), {}, r"classes \['plane'\] have no sample in y_true"),
    (evaluate, ([0, 1, 1], PAIR), {}, r"y_true has shape \(3,\) and scores \(2, 2\); expected \[n\] and \[n, C\]"),
    (evaluate, ([[0], [1]], PAIR), {}, r"y_true has shape \(2, 1\)"),
    (evaluate, ([0, 1], [PAIR, PAIR]), {}, r"scores \(2, 2, 2\)"),
    (evaluate, ([0, 2], PAIR), {}, "y_true must be class indices from 0 to 1"),
    (evaluate, ([0, -1], PAIR), {}, "y_true must be class indices from 0 to 1"),
    (evaluate, ([0.0, 1.0], PAIR), {}, "y_true must be class indices from 0 to 1"),
    (evaluate, (np.array([], int), np.zeros((0, 2))), {}, "y_true must be class indices"),
    (evaluate, ([0, 1], PAIR, ["a", "b", "c"]), {}, "3 class names for 2 columns of scores"),
    (evaluate, ([0, 1], PAIR, ["a", "a"]), {}, "1 class names for 2 columns of scores"),
    (evaluate, ([0, 1], [-2.0, 3.0]), {}, "scores are not probabilities; pass a column for each class"),
    (total_variation, (np.zeros((3, 2)), [0, 1]), {}, r"shape \(3, 2\) and labels \(2,\); expected \[n, d\] and \[n\]"),
    (total_variation, (np.zeros(3), [0, 1, 1]), {}, r"features have shape \(3,\)"),
    (total_variation, (np.zeros((3, 2)), [[0], [1], [1]]), {}, r"labels \(3, 1\)"),
    (total_variation, (np.zeros((3, 2)), [-1, 0, 1]), {}, "labels must be class indices from 0"),
    (total_variation, (np.zeros((3, 2)), [0.5, 0, 1]), {}, "labels must be class indices from 0"),
    (total_variation, (np.ones((3, 2)), [0, 1, 1]), {}, "all features are equal; their spread cannot be compared"),
    (metrics.weighted_average_precisions, (TWO, [0.2, 0.1], np.ones((2, 3))), {}, r"weights \(2, 3\); expected \[n\]"),
]


@pytest.mark.parametrize(("measure", "given_to_it", "options", "message"), REFUSED)
def test_bad_input_is_named(measure, given_to_it, options, message):
    with pytest.raises(ValueError, match=message):
        measure(*given_to_it, **options)
