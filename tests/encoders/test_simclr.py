"""SimCLR: the loss against its formula, views that stay images, an encoder that learns without labels."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regroup_lib.data.load import load_data
from regroup_lib.encoders import simclr
from regroup_lib.encoders.features import encode
from regroup_lib.encoders.simclr import SimCLREncoder, nt_xent_loss, random_views
from regroup_lib.metrics import neighbor_accuracy
from regroup_lib.nn import checkpoints
from regroup_lib.nn.checkpoints import OutOfTime


def written_out(first, second, temperature):
    """Equation 1 of Chen et al. (2020), view by view."""
    views = np.concatenate([first, second]).astype(np.float64)
    n = len(first)

    def cosine(a, b):
        return a @ b / np.sqrt((a @ a) * (b @ b))

    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        others = sum(np.exp(cosine(views[i], views[k]) / temperature) for k in range(2 * n) if k != i)
        total -= np.log(np.exp(cosine(views[i], views[partner]) / temperature) / others)
    return total / (2 * n)


@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(0.1, 2))
def test_the_loss_is_the_papers_formula(seed, n, temperature):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, n, 3)).astype(np.float32)
    found = nt_xent_loss(torch.from_numpy(first), torch.from_numpy(second), temperature=temperature)
    # Float32 at logits of up to 10: six digits of those, not of a loss near zero.
    assert float(found) == pytest.approx(written_out(first, second, temperature), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 5)), ((1, 4), (1, 4)), ((4,), (4,))])
def test_views_that_do_not_pair_are_refused(shapes):
    with pytest.raises(ValueError, match="views have shapes"):
        nt_xent_loss(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("channels", [1, 3])
def test_views_stay_images_and_differ(channels):
    images = torch.rand((16, channels, 12, 10), generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(0)
    first, second = (random_views(images, generator) for _ in range(2))
    assert first.shape == images.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert not torch.allclose(first, second)
    again = random_views(images, torch.Generator().manual_seed(0))
    assert torch.equal(first, again)


def test_a_mirror_image_is_drawn_only_where_it_is_allowed():
    ramp = torch.linspace(0, 1, 16).expand(64, 1, 16, 16).contiguous()
    generator = torch.Generator().manual_seed(0)
    slopes = {
        flip: (v := random_views(ramp, generator, flip=flip))[..., -1].mean(dim=(1, 2)) - v[..., 0].mean(dim=(1, 2))
        for flip in (True, False)
    }
    assert (slopes[False] > 0).all()
    assert 10 < int((slopes[True] < 0).sum()) < 54


def test_it_learns_without_labels_and_comes_back_from_its_cache(tmp_path, monkeypatch):
    digits = load_data("digits")
    encoder = SimCLREncoder(epochs=6, batch_size=64, flip=False)
    features = encode(digits, encoder, data_dir=tmp_path).splits
    assert features["test"].shape == (len(digits.test), 32)
    np.testing.assert_allclose(np.linalg.norm(features["test"], axis=1), 1, rtol=1e-5)
    losses = [trace["train_loss"] for trace in encoder.history_.traces]
    assert losses[-1] < losses[0]
    learned = neighbor_accuracy(features["test"], digits.test.labels)
    with monkeypatch.context() as patch:
        patch.setattr(simclr, "PEAK_LR", 1e-9)
        untrained = SimCLREncoder(epochs=1, batch_size=64, flip=False)
        before = encode(digits, untrained, data_dir=tmp_path).splits["test"]
    assert learned > max(0.8, neighbor_accuracy(before, digits.test.labels))
    kept = encode(digits, SimCLREncoder(epochs=6, batch_size=64, flip=False), data_dir=tmp_path)
    np.testing.assert_array_equal(kept.splits["test"], features["test"])
    # The restored network gives the same features, before they are centered.
    restored, fresh = (e.transform(digits.test.inputs[:5]) for e in (kept.encoder, encoder))
    np.testing.assert_allclose(restored, fresh, atol=1e-5)


def test_training_that_stops_at_its_deadline_goes_on_and_ends_in_the_same_features(tmp_path, monkeypatch):
    splits = {name: split.take(np.arange(128)) for name, split in load_data("digits").splits.items()}
    digits = replace(load_data("digits"), splits=splits)
    options = {"epochs": 3, "batch_size": 64}
    expected = encode(digits, SimCLREncoder(**options), data_dir=tmp_path / "whole").splits
    batches = []

    def slow(first, second):
        batches.append(1)
        time.sleep(0.05)
        return nt_xent_loss(first, second)

    monkeypatch.setattr(simclr, "nt_xent_loss", slow)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: len(batches)))
    all_batches = 3 * 2
    kept = {"checkpoint_dir": tmp_path / "kept"}
    with pytest.raises(OutOfTime):  # there is time to begin an epoch, which takes longer
        encode(digits, SimCLREncoder(**options), data_dir=tmp_path / "a", deadline=1, **kept)
    assert len(batches) == all_batches / 3
    # Another machine: features that were made elsewhere would not be here.
    found = encode(digits, SimCLREncoder(**options), data_dir=tmp_path / "b", **kept)
    assert len(batches) == all_batches
    assert all(np.array_equal(expected[name], found.splits[name]) for name in expected)
    assert found.seconds > 0.05 * all_batches  # of both
    # What was learned is kept: without its features nothing is trained again.
    again = encode(digits, SimCLREncoder(**options), data_dir=tmp_path / "c", **kept)
    assert len(batches) == all_batches
    assert all(np.array_equal(expected[name], again.splits[name]) for name in expected)
