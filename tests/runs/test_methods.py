"""Methods: what each trains on, and the class that each training label belongs to."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from regroup_lib.clusterers import make_clusterer
from regroup_lib.data.tasks import make_task
from regroup_lib.encoders.pixels import RawEncoder
from regroup_lib.metrics import clustering_quality
from regroup_lib.runs.methods import METHODS, training_labels


@pytest.fixture(scope="module")
def task():
    return make_task("digits-0")


@pytest.fixture(scope="module")
def features(task):
    return RawEncoder().transform(task.train.inputs)


@pytest.fixture
def made(task, features):
    """Return a function from a method's name to its labels on digits, zero against the rest."""

    def make(name, **options):
        method = METHODS[name]
        given_features = {"features": features} if method.needs_encoder else {}
        given_features |= {"mixed_share": 0.5} if method.labels == "mixed" else {}
        return training_labels(task, method, **given_features | options)

    return make


def sizes(made):
    return np.bincount(made.labels, minlength=len(made.parent)).tolist()


def check_laws(made, task):
    """Check what holds for the labels of every method."""
    assert made.labels.dtype == np.int64
    assert made.parent.dtype == np.int64
    assert made.labels.shape == task.train.labels.shape
    np.testing.assert_array_equal(made.parent[made.labels], task.train.labels)  # back to the class, always
    assert (np.diff(made.parent) >= 0).all()  # numbered class by class
    assert set(made.parent.tolist()) == set(range(task.n_classes))
    assert min(sizes(made)) > 0


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_labels_lead_back_to_the_task(made, task, name):
    """K = ceil(1019 / 112) = 10 pseudo-classes for the majority; the true classes are nine."""
    assert task.class_counts == [1019, 112]
    labels, method = made(name), METHODS[name]
    check_laws(labels, task)
    assert len(labels.parent) == {"task": 2, "true": 10, "mixed": 10}.get(method.labels, 11)
    assert sizes(labels)[-1] == 112  # the minority keeps one number
    if method.labels == "task":
        np.testing.assert_array_equal(labels.labels, task.train.labels)


@pytest.mark.parametrize("digit", [0, 3, 9])
def test_true_classes_close_the_gap_that_the_positive_class_leaves(digit):
    task = make_task(f"digits-{digit}")
    labels = training_labels(task, METHODS["rg-true"])
    check_laws(labels, task)
    others = [d for d in range(10) if d != digit]
    for number, fine in enumerate([*others, digit]):
        np.testing.assert_array_equal(labels.labels == number, task.train.fine_labels == fine)


@pytest.mark.parametrize("name", ["ce", "rg-true"])
def test_in_a_multiclass_task_the_true_classes_are_the_tasks(name):
    task = make_task("digits")
    labels = training_labels(task, METHODS[name])
    np.testing.assert_array_equal(labels.labels, task.train.labels)
    assert labels.parent.tolist() == list(range(10))


def test_regrouping_follows_the_images_and_random_groups_do_not(made, task):
    assert purity(made("rg"), task) > 0.6
    assert purity(made("rg-random"), task) < 0.25
    groups = sizes(made("rg-random"))[:-1]
    assert all(70 < size < 140 for size in groups)  # 102 on average


@pytest.mark.parametrize(
    ("options", "n_pseudo"), [({}, 10), ({"n_clusters": 4}, 4), ({"threshold": 300}, 4), ({"threshold": 1019}, 1)]
)
@pytest.mark.parametrize("name", ["rg", "rg-random"])
def test_the_number_of_pseudo_classes_can_be_chosen(made, task, name, options, n_pseudo):
    labels = made(name, **options)
    check_laws(labels, task)
    assert labels.parent.tolist() == [0] * n_pseudo + [1]


def test_features_of_the_training_images_are_needed(task, features):
    with pytest.raises(ValueError, match="1131"):
        training_labels(task, METHODS["rg"], features=features[:-1])


def test_the_clusterer_is_taken_by_name(made):
    np.testing.assert_array_equal(made("rg", clusterer="random", seed=5).labels, made("rg-random", seed=5).labels)
    with pytest.raises(ValueError, match="no-such-clusterer"):
        made("rg", clusterer="no-such-clusterer")


def test_shuffled_groups_have_the_clusters_sizes_and_no_meaning(made, task):
    clusters, shuffled = made("rg"), made("rg-shuffled")
    assert sizes(shuffled) == sizes(clusters)
    assert shuffled.parent.tolist() == clusters.parent.tolist()
    fine, names = task.train.fine_labels, ("rg", "rg-shuffled")
    pure = {name: clustering_quality(fine, made(name).labels)["purity"] for name in names}
    assert pure["rg-shuffled"] < 0.4 < pure["rg"]


@pytest.mark.parametrize(("n_groups", "expected"), [(3, [3, 3, 3]), (5, [1, 2, 2, 2, 2]), (9, [1] * 9)])
def test_true_classes_merge_into_groups_of_whole_classes(task, n_groups, expected):
    labels = training_labels(task, METHODS["rg-true"], n_clusters=n_groups, seed=1)
    assert labels.parent.tolist() == [0] * n_groups + [1]
    groups_of = [set(labels.labels[task.train.fine_labels == fine]) for fine in range(10)]
    assert all(len(groups) == 1 for groups in groups_of)  # no true class is torn
    members = np.bincount([groups.pop() for groups in groups_of[1:]], minlength=n_groups)
    assert sorted(members.tolist()) == expected


def test_merging_into_more_groups_than_classes_is_refused(task):
    with pytest.raises(ValueError, match="n_clusters is 10; the largest class hides only 9 true classes"):
        training_labels(task, METHODS["rg-true"], n_clusters=10)


def test_random_groups_come_in_three_sizes(made):
    halving = sizes(made("rg-random", clusterer="random-halving"))[:-1]
    equal = sizes(made("rg-random", clusterer="random-equal"))[:-1]
    assert halving == sorted(halving, reverse=True)
    assert halving[0] > 3 * halving[2]
    assert max(equal) - min(equal) <= 1


MIXED = ("rg-mixed-random", "rg-mixed-brightness", "rg-mixed-features")


def purity(made, task):
    """Return the share of the majority whose true class is the commonest of its group."""
    table = np.zeros((len(made.parent), 10), int)
    np.add.at(table, (made.labels, task.train.fine_labels), 1)
    return table[:-1].max(axis=1).sum() / table[:-1].sum()


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_so_many_rows_of_the_majority_are_re_assigned_and_no_others(made, task, name, share):
    mixed, true = made(name, mixed_share=share), made("rg-true")
    check_laws(mixed, task)
    moved = mixed.labels != true.labels
    assert not moved[task.train.labels == 1].any()
    assert moved.sum() <= round(share * 1019)  # some of the re-assigned get the class that they had
    assert moved.sum() >= 0.6 * share * 1019
    if name != "rg-mixed-features":
        assert moved.sum() == pytest.approx(share * 1019 * 8 / 9, rel=0.12)  # one group in nine is the old one
        assert purity(mixed, task) == pytest.approx(1 - share * 8 / 9, abs=0.1)


def test_by_brightness_the_groups_are_ordered_by_brightness_and_of_one_size(made, task):
    mixed = made("rg-mixed-brightness", mixed_share=1.0)
    brightness = task.train.inputs.mean(axis=(1, 2, 3))
    groups = [brightness[mixed.labels == k] for k in range(9)]
    assert all(darker.max() <= brighter.min() for darker, brighter in pairwise(groups))
    assert {len(group) for group in groups} == {113, 114}  # 1019 in nine


def test_by_features_the_groups_are_clusters_of_the_features(made, task, features):
    mixed = made("rg-mixed-features", mixed_share=1.0)
    rows = task.train.labels == 0
    clusters = make_clusterer("kmeans", 9, random_state=0).fit_predict(features[rows])
    assert normalized_mutual_info_score(mixed.labels[rows], clusters) == pytest.approx(1)


def test_the_seed_draws_random_groups_and_re_assigned_rows(made):
    for name in ("rg-random", "rg-mixed-random"):
        first, again, other = (made(name, seed=seed).labels for seed in (3, 3, 4))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
