"""Samplers: the right rows, the right number of each class, in an order that hangs on the generator alone."""

import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from sklearn.cluster import KMeans

from regroup_lib.nn.samplers import (
    ShuffledRows,
    StratifiedBatches,
    cluster_quotas,
    cluster_undersampling,
    random_oversampling,
    random_undersampling,
)

labels_of_classes = st.integers(2, 5).flatmap(
    lambda n_classes: st.lists(st.integers(0, n_classes - 1), max_size=60).map(
        lambda drawn: np.array([*range(n_classes), *drawn])
    )
)


pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- random over- and undersampling


@given(labels=labels_of_classes, seed=st.integers(0, 2**32 - 1))
def test_oversampling_brings_every_class_to_the_largest(labels, seed):
    rows = random_oversampling(labels, seed=seed)
    assert rows.dtype == np.int64
    counts = np.bincount(labels)
    assert np.bincount(labels[rows]).tolist() == [counts.max()] * len(counts)
    visits = np.bincount(rows, minlength=len(labels))
    assert visits.min() == 1  # nothing is lost
    assert (visits[counts[labels] == counts.max()] == 1).all()  # the largest class is left as it is
    assert (np.diff(rows) >= 0).all()


@given(labels=labels_of_classes, seed=st.integers(0, 2**32 - 1))
def test_undersampling_brings_every_class_to_the_smallest(labels, seed):
    rows = random_undersampling(labels, seed=seed)
    assert rows.dtype == np.int64
    counts = np.bincount(labels)
    assert np.bincount(labels[rows]).tolist() == [counts.min()] * len(counts)
    assert (np.diff(rows) > 0).all()  # ascending, none twice
    assert set(np.flatnonzero(counts[labels] == counts.min())) <= set(rows)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(random_oversampling, RandomOverSampler), (random_undersampling, RandomUnderSampler)]
)
def test_resampling_is_imbalanced_learns(ours, theirs):
    labels = np.random.default_rng(0).choice(3, 200, p=[0.7, 0.2, 0.1])
    images = np.random.default_rng(1).integers(0, 256, (200, 12), dtype=np.uint8)
    resampled, _ = theirs(random_state=7).fit_resample(images, labels)
    found = images[ours(labels, seed=7)]
    assert sorted(map(bytes, found)) == sorted(map(bytes, resampled))
    np.testing.assert_array_equal(ours(labels, seed=7), ours(labels.tolist(), seed=7))
    assert ours(labels, seed=7).tolist() != ours(labels, seed=8).tolist()


@pytest.mark.parametrize("resample", [random_oversampling, random_undersampling])
def test_balanced_labels_stay_as_they_are(resample):
    assert resample([1, 0, 0, 1], seed=0).tolist() == [0, 1, 2, 3]
    assert resample(np.array([True, False]), seed=0).tolist() == [0, 1]


BAD_LABELS = [
    ([3, 3, 3], r"labels have the classes \[3\]; resampling needs at least two"),
    (np.zeros(0, int), r"labels have the classes \[\]; resampling needs at least two"),
    ([[0, 1]], r"labels are int64 of shape \(1, 2\); expected one class index a row"),
    ([0.0, 1.0], r"labels are float64 of shape \(2,\); expected one class index a row"),
    (["a", "b"], r"labels are <U1 of shape \(2,\); expected one class index a row"),
]


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS)
@pytest.mark.parametrize("resample", [random_oversampling, random_undersampling])
def test_labels_that_cannot_be_resampled(resample, labels, message):
    with pytest.raises(ValueError, match=message):
        resample(labels, seed=0)


# ---------------------------------------------------------------- quotas of the clusters


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


clusters = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=8).filter(
    lambda drawn: any(few for _, few in drawn)
)


@given(drawn=clusters, n_wanted=st.integers(0, 200))
def test_quotas_agree_with_the_definition(drawn, n_wanted):
    majority, minority = zip(*drawn, strict=True)
    quotas = cluster_quotas(majority, minority, n_wanted)
    assert quotas.dtype == np.int64
    assert quotas.sum() == min(n_wanted, sum(majority))
    assert (quotas >= 0).all()
    assert (quotas <= majority).all()
    assert quotas.tolist() == slow_quotas(majority, minority, n_wanted)


def test_quotas_of_the_papers_example():
    """1,000 majority and 100 minority samples in three clusters, as many of either wanted."""
    majority, minority = np.array([500, 300, 200]), np.array([10, 50, 40])
    ratio = [500 / 10, 300 / 50, 200 / 40]
    assert ratio == [50, 6, 5]
    by_hand = [1 * 100 * r / (50 + 6 + 5) for r in ratio]  # 81.97, 9.84, 8.20
    assert [round(share) for share in by_hand] == [82, 10, 8]
    assert cluster_quotas(majority, minority, 100).tolist() == [82, 10, 8]


@pytest.mark.parametrize(
    ("majority", "minority", "n_wanted", "expected"),
    [
        ([10], [3], 3, [3]),
        ([50, 50], [0, 1], 10, [5, 5]),  # no minority counts as one
        ([50, 50], [0, 5], 12, [10, 2]),
        ([50, 50, 50], [1, 1, 1], 4, [2, 1, 1]),  # equal remainders: the first cluster
        ([0, 50], [9, 1], 10, [0, 10]),  # nothing to draw from
        ([60, 300, 200], [1, 50, 40], 100, [60, 22, 18]),  # 60 of 84.5; then 40 · 6/11 and 40 · 5/11
        ([4, 20, 90], [1, 10, 90], 60, [4, 20, 36]),  # 34, 17, 9; then 4, 37, 19; then 4, 20, 36
        ([5, 5], [1, 9], 10, [5, 5]),  # exactly everything
        ([5, 5], [1, 9], 99, [5, 5]),  # more than everything
        ([5, 5], [1, 9], 0, [0, 0]),
        ([0, 0], [1, 1], 3, [0, 0]),
    ],
)
def test_quotas(majority, minority, n_wanted, expected):
    assert cluster_quotas(majority, minority, n_wanted).tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5, 5], [0, 0], 2), "minority has no sample in any cluster; expected at least one"),
        (([5, 5], [1], 2), "majority has 2 clusters and minority 1; expected as many"),
        (([5, -5], [1, 1], 2), r"majority is \[5, -5\]; expected a whole number of at least 0 for each cluster"),
        (([5, 5], [1, 0.5], 2), r"minority is \[1, 0.5\]; expected a whole number of at least 0 for each cluster"),
        (([[5]], [[1]], 2), r"majority is \[\[5\]\]; expected a whole number"),
        (([5], [1], -1), "n_wanted is -1; expected a whole number of at least 0"),
        (([5], [1], 1.5), "n_wanted is 1.5; expected a whole number of at least 0"),
    ],
)
def test_quotas_that_have_no_meaning(arguments, message):
    with pytest.raises(ValueError, match=message):
        cluster_quotas(*arguments)


# ---------------------------------------------------------------- undersampling by cluster


def blobs(table, seed=0):
    """Return features and labels with `table[cluster][class]` samples of each class around each cluster's centre."""
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


def test_the_papers_example_from_samples_to_samples():
    features, labels, place = blobs([(500, 10), (300, 50), (200, 40)])
    rows = cluster_undersampling(features, labels, n_clusters=3, seed=0)
    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all()
    assert counts_of(rows, labels, place) == [[82, 10], [10, 50], [8, 40]]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (2.0, [[164, 10], [20, 50], [16, 40]]),
        (0.25, [[21, 10], [2, 50], [2, 40]]),  # 20.49, 2.459, 2.049: the largest remainder
        (1e-9, [[1, 10], [0, 50], [0, 40]]),  # a class never disappears
        (7.0, [[500, 10], [109, 50], [91, 40]]),  # 573 of 500; then 200 · 6/11 and 200 · 5/11
        (99.0, [[500, 10], [300, 50], [200, 40]]),
    ],
)
def test_the_ratio_of_majority_to_minority(ratio, expected):
    features, labels, place = blobs([(500, 10), (300, 50), (200, 40)])
    rows = cluster_undersampling(features, labels, n_clusters=3, ratio=ratio, seed=0)
    assert counts_of(rows, labels, place) == expected


def test_every_larger_class_is_undersampled_against_the_smallest():
    # Class 1 is the minority; class 0 has r = 30/1, 60/3, 40/1 and class 2 r = 0, 12/3, 16/1.
    features, labels, place = blobs([(30, 0, 0), (60, 3, 12), (40, 1, 16), (0, 6, 0)])
    rows = cluster_undersampling(features, labels, n_clusters=4, ratio=1, seed=3)
    assert counts_of(rows, labels, place) == [[3, 0, 0], [2, 3, 2], [5, 1, 8], [0, 6, 0]]


def test_among_equally_small_classes_none_is_undersampled():
    features, labels, place = blobs([(20, 4, 2), (10, 1, 3)])
    rows = cluster_undersampling(features, labels, n_clusters=2, ratio=0.4, seed=0)
    assert np.array(counts_of(rows, labels, place)).sum(axis=0).tolist() == [2, 5, 5]


@given(
    labels=labels_of_classes,
    seed=st.integers(0, 999),
    n_clusters=st.integers(1, 7),
    ratio=st.floats(0.1, 5),
    clusterer=st.sampled_from(["kmeans", "random"]),
)
def test_laws_of_undersampling_by_cluster(labels, seed, n_clusters, ratio, clusterer):
    features = np.random.default_rng(seed).normal(size=(len(labels), 2)).round(1)
    options = {"n_clusters": min(n_clusters, len(labels)), "ratio": ratio, "seed": seed, "clusterer": clusterer}
    rows = cluster_undersampling(features, labels, **options)
    assert (np.diff(rows) > 0).all()  # ascending, none twice
    counts = np.bincount(labels)
    wanted = max(round(ratio * counts.min()), 1)
    expected = [count if count == counts.min() else min(count, wanted) for count in counts]
    assert np.bincount(labels[rows]).tolist() == expected
    np.testing.assert_array_equal(rows, cluster_undersampling(features, labels, **options))


def test_undersampling_by_cluster_leaves_its_input_and_the_random_state_alone():
    features, labels, _ = blobs([(50, 3), (20, 4)])
    copies = features.copy(), labels.copy()
    np.random.seed(5)  # noqa: NPY002
    undisturbed = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    first = cluster_undersampling(features, labels, n_clusters=2, seed=0)
    assert np.random.random() == undisturbed  # noqa: NPY002
    np.testing.assert_array_equal(features, copies[0])
    np.testing.assert_array_equal(labels, copies[1])
    assert first.tolist() != cluster_undersampling(features, labels, n_clusters=2, seed=1).tolist()


def test_undersampling_by_cluster_takes_any_clusterer():
    features, labels, place = blobs([(50, 3), (20, 4)])
    by_name = cluster_undersampling(features, labels, n_clusters=2, seed=0, clusterer="kmeans")
    given_one = KMeans(n_clusters=7, n_init=3)
    by_object = cluster_undersampling(features, labels, n_clusters=2, seed=0, clusterer=given_one)
    np.testing.assert_array_equal(by_name, by_object)
    assert given_one.n_clusters == 7  # it is cloned
    assert counts_of(by_name, labels, place) == [[5, 3], [2, 4]]  # 7 · 16.7 / 21.7 and 7 · 5 / 21.7


def test_fewer_distinct_samples_than_clusters_do_no_harm(recwarn):
    rows = cluster_undersampling(np.ones((9, 2)), [0] * 7 + [1] * 2, n_clusters=5, seed=0)
    assert len(rows) == 4
    assert not recwarn.list


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": [0] * 6}, r"labels have the classes \[0\]; resampling needs at least two"),
        ({"labels": [0, 0, 0, 1]}, "features have 6 rows and labels 4; expected as many"),
        ({"labels": np.zeros((6, 1), int)}, r"labels are int64 of shape \(6, 1\); expected one class index a row"),
        ({"n_clusters": 0}, "n_clusters is 0; expected a whole number from 1 to the 6 samples"),
        ({"n_clusters": 7}, "n_clusters is 7; expected a whole number from 1 to the 6 samples"),
        ({"n_clusters": 1.5}, "n_clusters is 1.5; expected a whole number from 1 to the 6 samples"),
        ({"ratio": 0}, "ratio is 0; expected a finite number above 0"),
        ({"ratio": -1.0}, "ratio is -1.0; expected a finite number above 0"),
        ({"ratio": np.nan}, "ratio is nan; expected a finite number above 0"),
        ({"ratio": np.inf}, "ratio is inf; expected a finite number above 0"),
        ({"features": np.full((6, 2), np.nan)}, "features hold NaN or infinite values in 6 rows; expected finite"),
        ({"features": np.array([[np.inf]] + [[0.0]] * 5)}, "features hold NaN or infinite values in 1 rows"),
        ({"features": np.zeros(6)}, r"features are float64 of shape \(6,\); expected numbers \[n, d\]"),
        ({"features": np.array([["a"]] * 6)}, r"features are <U1 of shape \(6, 1\); expected numbers"),
        ({"clusterer": "mean-shift"}, "no clusterer is called 'mean-shift'"),
    ],
)
def test_undersampling_by_cluster_errors(wrong, message):
    sound = {"features": np.arange(6.0)[:, None], "labels": [0, 0, 0, 0, 1, 1], "n_clusters": 2, "seed": 0}
    assert len(cluster_undersampling(**sound)) == 4
    with pytest.raises(ValueError, match=message):
        cluster_undersampling(**sound | wrong)


# ---------------------------------------------------------------- shuffled rows


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


def test_shuffled_rows_are_shuffled_anew_each_pass_and_each_epoch():
    sampler = ShuffledRows(np.arange(100), n_drawn=300)
    generator = seeded()
    passes = [*sampler.order(generator).reshape(3, 100).tolist(), *sampler.order(generator).reshape(3, 100).tolist()]
    assert len({tuple(one_pass) for one_pass in passes}) == 6
    assert list(range(100)) not in passes


def test_all_rows_in_the_order_of_a_plain_permutation():
    np.testing.assert_array_equal(ShuffledRows(np.arange(50)).order(seeded(3)), torch.randperm(50, generator=seeded(3)))


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
    torch.manual_seed(1)
    before = torch.get_rng_state()
    sampler.order(generator)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), r"rows are float64 of shape \(0,\); expected row numbers, at least one"),
        (([0.5],), r"rows are float64 of shape \(1,\); expected row numbers"),
        (([[1]],), r"rows are int64 of shape \(1, 1\); expected row numbers"),
        (([0, -1],), "rows are int64 of shape .*; expected row numbers"),
        (([1], 0), "n_drawn is 0; expected a whole number of at least 1"),
        (([1], 1.5), "n_drawn is 1.5; expected a whole number of at least 1"),
    ],
)
def test_shuffled_rows_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShuffledRows(*arguments)


# ---------------------------------------------------------------- stratified batches


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


@pytest.mark.parametrize("batch_size", [64, 128, 256, 1000])
def test_no_batch_is_without_positives(batch_size):
    labels = np.zeros(45_000, np.int64)
    labels[np.random.default_rng(0).choice(45_000, 450, replace=False)] = 1
    sampler, generator = StratifiedBatches(labels, batch_size), seeded()
    for _ in range(3):
        table = batch_table(labels, sampler.order(generator).numpy(), batch_size)
        positives, share = table[:, 1], table.sum(axis=1) / 100
        assert np.abs(positives - share).max() < 1
        if len(table) <= 450:
            assert positives.min() >= 1
        else:
            assert np.isin(positives, [0, 1]).all()


def test_stratified_batches_of_a_long_tail_keep_the_shares():
    counts = (500 * 0.01 ** (np.arange(100) / 99)).astype(int)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(100), counts))
    table = batch_table(labels, StratifiedBatches(labels, 128).order(seeded()).numpy(), 128)
    assert np.abs(table - table.sum(axis=1, keepdims=True) * counts / len(labels)).max() < 1


def test_stratified_batches_differ_from_epoch_to_epoch_in_rows_and_places():
    labels = np.repeat([0, 1], [90, 30])
    sampler, generator = StratifiedBatches(labels, 40), seeded()
    first, second = (sampler.order(generator).reshape(3, 40) for _ in range(2))
    assert set(first[0].tolist()) != set(second[0].tolist())
    assert labels[first[0]].tolist() != sorted(labels[first[0]])  # within a batch the classes are mixed
    assert labels[first[0]].tolist() != labels[second[0]].tolist()


def test_every_row_comes_to_every_batch():
    labels = np.repeat([0, 1], [7, 3])
    sampler, generator = StratifiedBatches(labels, 4), seeded()
    orders = torch.stack([sampler.order(generator) for _ in range(300)])
    batch = torch.empty_like(orders).scatter_(1, orders, torch.arange(10).expand(300, -1) // 4)
    for row in range(10):
        visits = np.bincount(batch[:, row], minlength=3) / 300
        # The last batch has 2 of the 10 rows; which class has the odd place in it is settled once.
        assert np.abs(visits[0] - visits[1]) < 0.15
        assert visits.min() > 0.1


def test_stratified_batches_are_made_in_milliseconds():
    sampler, generator = StratifiedBatches(np.arange(45_000) % 100, 256), seeded()
    start = time.process_time()
    for _ in range(5):
        sampler.order(generator)
    assert (time.process_time() - start) / 5 < 0.2  # about 0.01 on an idle machine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 4), r"labels are float64 of shape \(0,\); expected one class index a row"),
        (([[0, 1]], 4), r"labels are int64 of shape \(1, 2\); expected one class index a row"),
        (([0, 1], 0), "batch_size is 0; expected a whole number of at least 1"),
        (([0, 1], 2.5), "batch_size is 2.5; expected a whole number of at least 1"),
    ],
)
def test_stratified_batches_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        StratifiedBatches(*arguments)


def test_one_class_is_one_class():
    assert sorted(StratifiedBatches([4] * 7, 3).order(seeded()).tolist()) == list(range(7))
