"""Tasks: who is positive, what is held out, and what a seed may move."""

import math

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
    assert np.shares_memory(task.train.inputs, digits.train.inputs) == (fraction == 0)


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


UNKNOWN = "task 'digits-{0}': digits has no class '{0}'; it has .*'9'"
REFUSED = [
    *(
        ("digits-0", {"validation_fraction": f}, "it must be at least 0 and less than 1")
        for f in (-0.1, 1, 1.5, math.nan)
    ),
    ("digits", {"validation_fraction": 0.002}, r"task 'digits': a validation split of 0\.002 cannot be cut"),
    ("digits-0", {"validation_fraction": 0.002}, r"task 'digits-0': the val split has no sample of \['0'\]"),
    *((f"digits-{positive}", {}, UNKNOWN.format(positive)) for positive in ("10", "zero", "", "0 ")),
    ("digits-0", {"imbalance": math.nan}, "it must be at least their ratio"),
    ("digits-0", {"imbalance": 1e6}, "no positive would be left; it must be at most 1019"),
    ("digits", {"imbalance": 10}, "imbalance is 10, which needs a task of one class against the rest"),
    ("digits-0", {"split": "image"}, "digits has no groups of images"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_a_task_that_cannot_be_made_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, **options)
