"""DeepSMOTE: synthetic images that balance the classes, look like their class, and are the same every time."""

import numpy as np
import pytest
import torch

from regroup_lib.data.load import load_data
from regroup_lib.data.tasks import make_task
from regroup_lib.nn import deepsmote
from regroup_lib.nn.deepsmote import deep_smote

SMALL = {"epochs": 12, "code_size": 64, "width": 16, "seed": 0}
QUICK = SMALL | {"epochs": 1}


@pytest.fixture(scope="module")
def zeros():
    """Return the images and labels of digits-0: 1,019 others and 112 zeros."""
    train = make_task("digits-0").train
    return train.inputs, train.labels


@pytest.fixture(scope="module")
def made(zeros):
    return deep_smote(*zeros, **SMALL)


def tail(counts):
    """Return `counts[c]` digits of each class c, shuffled."""
    train = load_data("digits").train
    rows = np.concatenate([np.flatnonzero(train.labels == c)[:count] for c, count in counts.items()])
    rows = np.random.default_rng(0).permutation(rows)
    return train.inputs[rows], train.labels[rows]


def test_the_small_class_is_brought_to_the_size_of_the_large_one(zeros, made):
    images, labels = made
    assert (images.shape, images.dtype) == ((1019 - 112, 8, 8, 1), np.uint8)
    assert labels.dtype == np.int64
    assert labels.tolist() == [1] * (1019 - 112)
    assert (images.min(), images.max()) == (0, 255)  # the whole range of pixels, and none beyond it turned round
    ours, others = (zeros[0][zeros[1] == label].astype(float) for label in (1, 0))
    assert np.abs(images.mean(axis=0) - ours.mean(axis=0)).max() < 40
    to_own, to_others = (((images - real.mean(axis=0)) ** 2).mean() for real in (ours, others))
    assert to_own < 0.5 * to_others
    # They are neither copies nor all alike.
    synthetic = [image.tobytes() for image in images]
    assert not {image.tobytes() for image in zeros[0]} & set(synthetic)
    assert len(set(synthetic)) > 0.99 * len(synthetic)
    assert images.var(axis=0).mean() > 0.3 * ours.var(axis=0).mean()


def test_many_classes_class_by_class():
    """Of one image there is only its reconstruction, of two an interpolation, of the largest class nothing."""
    images, labels = tail({7: 50, 2: 90, 4: 20, 0: 1, 5: 2})
    synthetic, made_labels = deep_smote(images, labels, **SMALL | {"epochs": 30})
    assert made_labels.tolist() == [0] * 89 + [4] * 70 + [5] * 88 + [7] * 40
    assert (synthetic[:89] == synthetic[0]).all()
    assert len({image.tobytes() for image in synthetic[made_labels == 5]}) > 1
    means = {c: images[labels == c].mean(axis=0) for c in (2, 4, 7)}
    for c in (4, 7):
        distances = {k: ((synthetic[made_labels == c] - mean) ** 2).mean() for k, mean in means.items()}
        assert min(distances, key=distances.get) == c


def test_shapes_of_images():
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 12, 3), dtype=np.uint8)
    synthetic, labels = deep_smote(images, np.arange(40) // 30, **QUICK)
    assert synthetic.shape == (20, 8, 12, 3)
    assert labels.tolist() == [1] * 20
    balanced, labels = deep_smote(images, np.arange(40) // 20, **QUICK)
    assert (balanced.shape, balanced.dtype, labels.shape, labels.dtype) == ((0, 8, 12, 3), np.uint8, (0,), np.int64)
    with pytest.raises(ValueError, match=r"the autoencoder needs height and width divisible by 4, not \(10, 8\)"):
        deep_smote(np.zeros((6, 10, 8, 1), np.uint8), np.array([0, 0, 0, 0, 1, 1]), seed=0)


def test_the_same_seed_makes_the_same_images_and_the_random_state_is_left_alone():
    images, labels = tail({3: 60, 5: 9})
    before = images.copy(), labels.copy()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    undisturbed = torch.rand(3), np.random.random(3)  # noqa: NPY002
    found = []
    for global_seed, seed in ((5, 0), (6, 0), (5, 1)):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)  # noqa: NPY002
        found.append(deep_smote(images, labels, **QUICK | {"seed": seed})[0])
        if global_seed == 5:
            torch.testing.assert_close(torch.rand(3), undisturbed[0], rtol=0, atol=0)
            np.testing.assert_array_equal(np.random.random(3), undisturbed[1])  # noqa: NPY002
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_an_epoch_is_a_pass_over_a_stratified_draw(zeros, monkeypatch):
    _, labels = zeros
    monkeypatch.setattr(deepsmote, "MAX_IMAGES", 200)
    steps = [batch for batch, _ in deepsmote._batches(labels, epochs=2, seed=0)]
    first, second = np.concatenate(steps[:4]), np.concatenate(steps[4:])
    assert len(set(first)) == len(first) == 200
    assert set(first) == set(second)
    assert first.tolist() != second.tolist()
    assert labels[first].sum() in (19, 20)  # 200 · 112 / 1131 = 19.8
    few = deepsmote._batches(labels[:69], epochs=1, seed=0)
    assert sorted(np.concatenate([batch for batch, _ in few])) == list(range(69))


def test_the_penalty_is_on_one_class_whatever_its_size(zeros, monkeypatch):
    _, labels = zeros
    monkeypatch.setattr(deepsmote, "MAX_IMAGES", 300)
    steps = list(deepsmote._batches(labels, epochs=10, seed=0))
    assert all(len(set(labels[rows])) == 1 and len(set(rows)) == len(rows) == 32 for _, rows in steps)
    assert 0.25 < np.mean([labels[rows[0]] for _, rows in steps]) < 0.75
    drawn = set(np.concatenate([batch for batch, _ in steps]))
    assert not set(np.concatenate([rows for _, rows in steps])) <= drawn  # from all images of the class
