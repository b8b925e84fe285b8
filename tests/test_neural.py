"""Regrouping for a PyTorch module: the call, and that it is what one would write by hand."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import nn

import regroup_lib as rg
from regroup_lib.neural import fit_regrouped
from regroup_lib.training import ResidentFeatures, TrainingOptions, train


@pytest.fixture(scope="module")
def digits(one_thread):
    X, digit = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), np.where(digit == 8, "eight", "other")


def linear(k):
    return nn.Linear(64, k)


def test_it_answers_in_classes(digits):
    X, y = digits
    fitted = fit_regrouped(linear, X, y, epochs=4, peak_lr=0.05)
    scores = fitted.predict_proba(X)
    assert scores.shape == (len(X), 2)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert set(fitted.predict(X)) <= {"eight", "other"}
    assert fitted.regrouping.classes_.tolist() == ["eight", "other"]
    assert fitted.network.out_features == len(fitted.regrouping.parent_) == 1 + 10
    assert average_precision_score(y == "eight", scores[:, 0]) > 0.5
    assert len(fitted.history.traces) == 4


def test_it_is_cluster_train_aggregate(digits):
    X, y = digits
    fitted = fit_regrouped(linear, X, y, epochs=2, seed=3)
    regrouping = rg.Regrouping(random_state=3).fit(X, y)
    torch.manual_seed(3)
    network = linear(len(regrouping.parent_))
    options = TrainingOptions(epochs=2, batch_size=128, optimizer="adam", peak_lr=1e-3)
    train(network, ResidentFeatures(X), regrouping.pseudo_labels_, options=options, seed=3)
    with torch.no_grad():
        probabilities = torch.softmax(network(torch.from_numpy(X)), dim=1).numpy()
    for rule in ("max", "sum"):
        expected = rg.aggregate(probabilities, regrouping.parent_, rule)
        np.testing.assert_allclose(fitted.predict_proba(X, rule=rule), expected, atol=1e-5)


def test_a_tensor_of_images_and_features_of_another_space(digits):
    X, y = digits
    images = torch.from_numpy(X).reshape(-1, 1, 8, 8)

    def build(k):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, k))

    features = np.random.default_rng(0).normal(size=(len(X), 3))
    fitted = fit_regrouped(build, images, y, features=features, regrouping=rg.Regrouping(n_clusters=4), epochs=1)
    assert len(fitted.regrouping.parent_) == 5
    by_hand = rg.Regrouping(n_clusters=4, random_state=0).fit(features, y)
    np.testing.assert_array_equal(fitted.regrouping.pseudo_labels_, by_hand.pseudo_labels_)
    assert fitted.predict_proba(images[:3]).shape == (3, 2)


def test_a_loss_is_made_from_the_pseudo_classes(digits):
    X, y = digits
    seen = []

    def loss(counts):
        seen.append(np.asarray(counts).tolist())
        return rg.losses.weighted_cross_entropy(counts)

    weighted = fit_regrouped(linear, X, y, loss=loss, epochs=1)
    assert seen == [weighted.regrouping.counts_.tolist()]
    plain = fit_regrouped(linear, X, y, epochs=1)
    assert not np.allclose(weighted.predict_proba(X), plain.predict_proba(X))


def test_the_seed_decides_and_the_global_state_stays(digits):
    X, y = digits
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first, again = (fit_regrouped(linear, X, y, epochs=1, seed=5).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not np.array_equal(first, fit_regrouped(linear, X, y, epochs=1, seed=6).predict_proba(X))


@pytest.mark.parametrize(
    ("build", "change", "message"),
    [
        (linear, {"labels": ["a"] * 3}, "1797 inputs but 3 labels"),
        (linear, {"inputs": np.arange(1797)}, r"inputs are int64 of shape \(1797,\); expected numbers \[n, ...\]"),
        (lambda _: nn.Linear(64, 2), {}, r"the module returns \(2,\) for each input, expected 11 logits"),
        (linear, {"regrouping": rg.Regrouping(threshold=5000)}, "threshold is 5000"),
    ],
)
def test_bad_input_is_named(digits, build, change, message):
    X, y = digits
    arguments = {"inputs": X, "labels": y} | change
    with pytest.raises(ValueError, match=message):
        fit_regrouped(build, epochs=1, **arguments)
