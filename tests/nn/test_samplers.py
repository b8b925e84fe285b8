"""Samplers: the right rows, the right number of each class, in an order that hangs on the generator alone."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler

from regroup_lib.nn.samplers import (
    ShuffledRows,
    StratifiedBatches,
    _quotas,
    cluster_undersampling,
    random_oversampling,
    random_undersampling,
)

labels_of_classes = st.integers(2, 5).flatmap(
    lambda n_classes: st.lists(st.integers(0, n_classes - 1), max_size=60).map(
        lambda drawn: np.array([*range(n_classes), *drawn])
    )
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(random_oversampling, RandomOverSampler), (random_undersampling, RandomUnderSampler)]
)
def test_resampling_is_imbalanced_learns(ours, theirs):
    labels = np.random.default_rng(0).choice(3, 200, p=[0.7, 0.2, 0.1])
    images = np.random.default_rng(1).integers(0, 256, (200, 12), dtype=np.uint8)
    resampled, _ = theirs(random_state=7).fit_resample(images, labels)
    rows = ours(labels, seed=7)
    assert rows.dtype == np.int64
    assert (np.diff(rows) >= 0).all()
    assert sorted(map(bytes, images[rows])) == sorted(map(bytes, resampled))
    with pytest.raises(ValueError, match="needs to have more than 1 class"):
        ours([3, 3, 3], seed=0)


def slow_quotas(majority, minority, n_wanted):
    """Hand out the shares and take back what a cluster cannot give, until nothing is too much."""
    ratio = [Fraction(many, few if few else 1) for many, few in zip(majority, minority, strict=True)]
    given_out = [Fraction(0)] * len(majority)
    pot = Fraction(min(n_wanted, sum(majority)))
    while pot:
        takers = [i for i in range(len(majority)) if given_out[i] < majority[i]]
        weight = sum(ratio[i] for i in takers)
        share = {i: pot * ratio[i] / weight for i in takers}
        pot = Fraction(0)
        for i in takers:
            taken = min(share[i], majority[i] - given_out[i])
            given_out[i] += taken
            pot += share[i] - taken
    quotas = [value.numerator // value.denominator for value in given_out]
    while sum(quotas) < min(n_wanted, sum(majority)):
        lost = [value - quota for value, quota in zip(given_out, quotas, strict=True)]
        quotas[lost.index(max(lost))] += 1
    return quotas


@given(
    drawn=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=8),
    n_wanted=st.integers(0, 200),
)
def test_quotas_agree_with_the_definition(drawn, n_wanted):
    majority, minority = zip(*drawn, strict=True)
    quotas = _quotas(majority, minority, n_wanted)
    assert sum(quotas) == min(n_wanted, sum(majority))
    assert quotas == slow_quotas(majority, minority, n_wanted)


def blobs(table, seed=0):
    """Return features and labels with `table[cluster][class]` samples of each class around each cluster's center."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(len(row)), row) for row in table])
    place = np.repeat(np.arange(len(table)), [sum(row) for row in table])
    features = 100 * np.eye(len(table))[place] + rng.normal(size=(len(place), len(table)))
    order = rng.permutation(len(labels))
    return features[order], labels[order], place[order]


def counts_of(rows, labels, place):
    """Return the samples among `rows`: one line a cluster, one column a class."""
    table = np.zeros((place.max() + 1, labels.max() + 1), int)
    np.add.at(table, (place[rows], labels[rows]), 1)
    return table.tolist()


def test_the_example_of_the_paper():
    features, labels, place = blobs([(500, 10), (300, 50), (200, 40)])
    rows = cluster_undersampling(features, labels, n_clusters=3, seed=0)
    assert counts_of(rows, labels, place) == [[82, 10], [10, 50], [8, 40]]


def test_every_larger_class_is_undersampled_against_the_smallest():
    # Class 1 is the minority; r is 30/1, 60/3, 40/1 for class 0 and 0, 12/3, 16/1 for class 2.
    features, labels, place = blobs([(30, 0, 0), (60, 3, 12), (40, 1, 16), (0, 6, 0)])
    rows = cluster_undersampling(features, labels, n_clusters=4, seed=3)
    assert counts_of(rows, labels, place) == [[3, 0, 0], [2, 3, 2], [5, 1, 8], [0, 6, 0]]


@given(
    labels=labels_of_classes,
    seed=st.integers(0, 999),
    n_clusters=st.integers(1, 7),
    clusterer=st.sampled_from(["kmeans", "random"]),
)
def test_laws_of_undersampling_by_cluster(labels, seed, n_clusters, clusterer):
    features = np.random.default_rng(seed).normal(size=(len(labels), 2)).round(1)
    options = {"n_clusters": min(n_clusters, len(labels)), "seed": seed, "clusterer": clusterer}
    rows = cluster_undersampling(features, labels, **options)
    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all()  # ascending, none twice
    counts = np.bincount(labels)
    assert np.bincount(labels[rows]).tolist() == [counts.min()] * len(counts)
    np.testing.assert_array_equal(rows, cluster_undersampling(features, labels, **options))


def test_fewer_distinct_samples_than_clusters_do_no_harm(recwarn):
    rows = cluster_undersampling(np.ones((9, 2)), [0] * 7 + [1] * 2, n_clusters=5, seed=0)
    assert len(rows) == 4
    assert not recwarn.list


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": [0] * 6}, "needs at least 2 classes"),
        ({"labels": [0, 0, 0, 1]}, r"6 rows of features but labels of shape \(4,\)"),
        ({"n_clusters": 0}, "n_clusters is 0; it must be a whole number of at least 1"),
        ({"n_clusters": 7}, "n_clusters is 7; there are 6 samples"),
        ({"features": np.array([[np.inf]] + [[0.0]] * 5)}, "1 rows of features hold NaN or infinite values"),
        ({"features": np.zeros(6)}, r"features have shape \(6,\); expected \[n, d\]"),
        ({"clusterer": "mean-shift"}, "no clusterer is called 'mean-shift'"),
    ],
)
def test_undersampling_by_cluster_errors(wrong, message):
    sound = {"features": np.arange(6.0)[:, None], "labels": [0, 0, 0, 0, 1, 1], "n_clusters": 2, "seed": 0}
    assert len(cluster_undersampling(**sound)) == 4
    with pytest.raises(ValueError, match=message):
        cluster_undersampling(**sound | wrong)


@given(
    rows=st.lists(st.integers(0, 50), min_size=1, max_size=30),
    n_drawn=st.none() | st.integers(1, 100),
    seed=st.integers(0, 999),
)
def test_shuffled_rows_are_passes_over_the_rows(rows, n_drawn, seed):
    sampler = ShuffledRows(rows, n_drawn)
    order = sampler.order(seeded(seed))
    assert order.dtype == torch.int64
    assert order.shape == (len(sampler),) == (n_drawn or len(rows),)
    for start in range(0, len(order), len(rows)):
        one_pass = order[start : start + len(rows)].tolist()
        if len(one_pass) == len(rows):
            assert sorted(one_pass) == sorted(rows)
        else:
            assert all(one_pass.count(row) <= rows.count(row) for row in one_pass)


SAMPLERS = [
    ShuffledRows(np.arange(40), n_drawn=100),
    ShuffledRows(np.array([5, 5, 9])),
    StratifiedBatches([0] * 30 + [1] * 9, 8),
    StratifiedBatches([0, 1], 8),
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_order_hangs_on_the_generator_alone(sampler):
    torch.manual_seed(1)
    generator = seeded(11)
    first, state = sampler.order(generator), generator.get_state()
    second = sampler.order(generator)
    torch.manual_seed(2)
    resumed = torch.Generator()
    resumed.set_state(state)
    np.testing.assert_array_equal(sampler.order(resumed), second)
    np.testing.assert_array_equal(sampler.order(seeded(11)), first)
    assert len(sampler) <= 3 or first.tolist() != second.tolist()


def batch_table(labels, order, batch_size):
    """Return the samples of each class in each batch."""
    batches = [labels[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
    return np.array([np.bincount(batch, minlength=labels.max() + 1) for batch in batches])


@given(labels=labels_of_classes, batch_size=st.integers(1, 40), seed=st.integers(0, 999))
def test_laws_of_stratified_batches(labels, batch_size, seed):
    sampler = StratifiedBatches(labels, batch_size)
    order = sampler.order(seeded(seed)).numpy()
    assert order.dtype == np.int64
    assert len(sampler) == len(labels)
    assert sorted(order) == list(range(len(labels)))
    table, counts = batch_table(labels, order, batch_size), np.bincount(labels)
    share = table.sum(axis=1, keepdims=True) * counts / len(labels)
    assert np.abs(table - share).max() < 1
    enough = counts >= len(table)
    assert (table[:-1, enough] > 0).all()
    if len(counts) == 2 and table[-1].sum() >= 2:
        assert (table[-1, enough] > 0).all()


def test_stratified_batches_differ_from_epoch_to_epoch_in_rows_and_places():
    labels = np.repeat([0, 1], [90, 30])
    sampler, generator = StratifiedBatches(labels, 40), seeded()
    first, second = (sampler.order(generator).reshape(3, 40) for _ in range(2))
    assert set(first[0].tolist()) != set(second[0].tolist())
    assert labels[first[0]].tolist() != sorted(labels[first[0]])  # within a batch the classes are mixed
    assert labels[first[0]].tolist() != labels[second[0]].tolist()
