"""Tasks: who is positive, what is held out, and what a seed may move."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regroup_lib.data.load import load_data
from regroup_lib.data.tasks import make_task, parse_task


def counts(labels):
    return np.bincount(labels).tolist()


@pytest.mark.parametrize("name", ["", "airplane", "cifar", "cifar1000", "digits0", "-digits", "imagenet-dog"])
def test_parse_task_refuses_unknown_sets_and_lists_those_there_are(name):
    with pytest.raises(ValueError, match=r"no data set of that name.*digits.*cifar10.*cifar100"):
        parse_task(name)


@pytest.mark.parametrize("digit", range(10))
def test_binary_task_is_one_class_against_the_rest(digit):
    task = make_task(f"digits-{digit}")
    digits = load_data("digits")
    assert task.class_names == (f"not {digit}", str(digit))
    assert task.n_classes == 2
    for part in (task.train, task.val, task.test):
        assert part.labels.dtype == np.int64
        np.testing.assert_array_equal(part.labels, part.fine_labels == digit)
    positives = digits.class_counts()[digit]
    assert sum(task.train.labels) + sum(task.val.labels) == positives
    assert sum(task.test.labels) == digits.class_counts("test")[digit]
    assert task.class_counts == counts(task.train.labels)


@pytest.mark.parametrize("name", ["digits-3", "digits"])
@pytest.mark.parametrize("fraction", [0, 0.1, 0.5])
def test_splits_are_the_data_sets_rows(name, fraction):
    """Images, fine labels and the index agree; train and val share out the training split, test is all of test."""
    task = make_task(name, validation_fraction=fraction)
    digits = load_data("digits")
    for part, source in ((task.train, digits.train), (task.val, digits.train), (task.test, digits.test)):
        assert len(part) == len(part.index) == len(part.inputs)
        np.testing.assert_array_equal(part.inputs, source.inputs[part.index])
        np.testing.assert_array_equal(part.fine_labels, source.labels[part.index])
    together = np.concatenate([task.train.index, task.val.index])
    np.testing.assert_array_equal(np.sort(together), np.arange(len(digits.train)))
    np.testing.assert_array_equal(task.test.index, np.arange(len(digits.test)))
    assert len(task.val) == np.ceil(fraction * len(digits.train))


@given(seed=st.integers(0, 2**32 - 1), fraction=st.floats(0.05, 0.9))
def test_validation_split_is_stratified_by_the_tasks_classes(seed, fraction):
    task = make_task("digits-0", seed=seed, validation_fraction=fraction)
    share = np.mean(load_data("digits").train.labels == 0)
    for part in (task.train, task.val):
        # The count of positives is the expected one, up to rounding.
        assert abs(part.labels.sum() - share * len(part)) <= 1


def test_seed_moves_validation_and_never_test():
    first, again, other = (make_task("digits-0", seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.val.index, again.val.index)
    np.testing.assert_array_equal(first.train.index, again.train.index)
    assert len(first.val) == len(other.val)
    assert not np.array_equal(first.val.index, other.val.index)
    np.testing.assert_array_equal(first.test.inputs, other.test.inputs)
    np.testing.assert_array_equal(first.test.labels, other.test.labels)


def test_nothing_held_out_leaves_an_empty_validation_split_and_no_copy():
    task = make_task("digits-0", validation_fraction=0)
    assert len(task.val) == 0
    assert task.val.inputs.shape == (0, 8, 8, 1)
    assert len(task.train) == 1257
    assert np.shares_memory(task.train.inputs, task.dataset.train.inputs)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_validation_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=r"validation_fraction is .*; it must be at least 0 and less than 1"):
        make_task("digits-0", validation_fraction=fraction)


def test_a_validation_split_too_small_for_the_classes_is_refused():
    with pytest.raises(ValueError, match=r"task 'digits': a validation split of 0\.002 cannot be cut"):
        make_task("digits", validation_fraction=0.002)


def test_a_validation_split_without_positives_is_refused():
    with pytest.raises(ValueError, match=r"task 'digits-0': the val split has no sample of \['0'\]"):
        make_task("digits-0", validation_fraction=0.002)


@pytest.mark.parametrize("positive", ["10", "zero", "", "0 "])
def test_unknown_class_is_refused_with_those_there_are(positive):
    with pytest.raises(ValueError, match=f"task 'digits-{positive}': digits has no class '{positive}'; it has .*'9'"):
        make_task(f"digits-{positive}")
