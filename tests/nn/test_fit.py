"""Regrouping for a PyTorch module: the call, and that it is what one would write by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

import regroup_lib as rg
from regroup_lib.nn.fit import RegroupedNetwork, fit_regrouped
from regroup_lib.nn.training import ResidentFeatures, TrainingOptions, train


@pytest.fixture(scope="module")
def digits():
    X, digit = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), np.where(digit == 8, "eight", "other")


def linear(k):
    return nn.Linear(64, k)


def test_it_is_cluster_train_aggregate(digits):
    X, y = digits
    fitted = fit_regrouped(linear, X, y, epochs=4, peak_lr=0.05, seed=3)
    regrouping = rg.Regrouping(random_state=3).fit(X, y)
    torch.manual_seed(3)
    network = linear(len(regrouping.parent_))
    options = TrainingOptions(epochs=4, batch_size=128, optimizer="adam", peak_lr=0.05)
    train(network, ResidentFeatures(X), regrouping.pseudo_labels_, options=options, seed=3)
    with torch.no_grad():
        probabilities = torch.softmax(network(torch.from_numpy(X)), dim=1).numpy()
    for rule in ("max", "sum"):
        expected = rg.aggregate(probabilities, regrouping.parent_, rule)
        np.testing.assert_allclose(fitted.predict_proba(X, rule=rule), expected, atol=1e-5)
    assert fitted.regrouping.classes_.tolist() == ["eight", "other"]
    assert fitted.network.out_features == len(fitted.regrouping.parent_) == 1 + 10
    assert set(fitted.predict(X)) == {"eight", "other"}
    assert average_precision_score(y == "eight", expected[:, 0]) > 0.5
    assert len(fitted.history.traces) == 4


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


class Named(nn.Linear):
    """A module that returns a mapping, as those of transformers do."""

    def forward(self, batch):
        return {"hidden": batch, "logits": super().forward(batch)}


class Several(nn.Linear):
    """A module that returns its logits and something else."""

    def forward(self, batch):
        return super().forward(batch), batch


@pytest.mark.parametrize("kind", [Named, Several])
def test_modules_that_return_more_than_logits(digits, kind):
    X, y = digits
    plain = fit_regrouped(linear, X, y, epochs=1)
    fitted = fit_regrouped(lambda k: kind(64, k), X, y, epochs=1)
    assert isinstance(fitted.network, kind)
    np.testing.assert_allclose(fitted.predict_proba(X), plain.predict_proba(X), atol=1e-6)


def test_lazy_modules_volumes_and_embeddings(digits):
    X, y = digits
    first, again = (
        fit_regrouped(lambda k: nn.LazyLinear(k), X, y, epochs=1, seed=2, device="cpu").predict_proba(X) for _ in "ab"
    )
    np.testing.assert_array_equal(first, again)
    volumes = X[:200].reshape(-1, 1, 4, 4, 4)
    by_volume = fit_regrouped(
        lambda k: nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.LazyLinear(k)), volumes, y[:200], epochs=1
    )
    assert by_volume.predict_proba(volumes).shape == (200, 2)
    tokens = (X[:, :9] * 16).astype(np.int64)
    with pytest.warns(UserWarning, match="token numbers have been clustered as if they were quantities"):
        fitted = fit_regrouped(lambda k: nn.EmbeddingBag(17, k), tokens, y, epochs=1)
    assert fitted.predict_proba(tokens[:3]).shape == (3, 2)
    numbers = fit_regrouped(linear, (X * 16).astype(np.int64), y, epochs=1)  # whole numbers that are quantities
    assert numbers.dtype == torch.float32


class Pictures(Dataset):
    """Samples that are made when they are asked for."""

    def __init__(self, X, y):
        self.X, self.y, self.n_read = X, y, 0

    def __len__(self):
        return len(self.X)

    def __getitem__(self, row):
        self.n_read += 1
        return torch.from_numpy(self.X[row]), self.y[row]


def test_datasets_and_loaders_are_what_arrays_are(digits):
    X, y = digits
    expected = fit_regrouped(linear, X, y, epochs=2, batch_size=64).predict_proba(X)
    pictures = Pictures(X, y)
    whole = TensorDataset(torch.from_numpy(X), torch.from_numpy((y == "other").astype(int)))
    for inputs in (pictures, whole):
        fitted = fit_regrouped(linear, inputs, epochs=2, batch_size=64)
        np.testing.assert_allclose(fitted.predict_proba(inputs), expected, atol=1e-6)
    assert pictures.n_read > 4 * len(X)  # for labels, clusters, each epoch and the scores
    loader = DataLoader(pictures, batch_size=64, shuffle=True)
    loaded = fit_regrouped(linear, loader, epochs=2)
    assert loaded.history.traces[0]["images"] == len(X)
    np.testing.assert_allclose(fit_regrouped(linear, loader, epochs=2).predict_proba(X), loaded.predict_proba(X))


def test_a_loaders_sampler_draws_the_samples(digits):
    X, y = digits
    means = []
    for weight in (1.0, 20.0):
        sampler = WeightedRandomSampler(np.where(y == "eight", weight, 1.0), len(X))
        loader = DataLoader(Pictures(X, y), batch_size=128, sampler=sampler)
        means.append(fit_regrouped(linear, loader, epochs=2, peak_lr=0.01).predict_proba(X)[:, 0].mean())
    assert means[1] > means[0] + 0.1


def test_weights_of_samples(digits):
    X, y = digits
    plain = fit_regrouped(linear, X, y, epochs=2)
    same = fit_regrouped(linear, X, y, epochs=2, sample_weight=np.full(len(y), 7.0))
    np.testing.assert_allclose(same.predict_proba(X), plain.predict_proba(X), atol=1e-5)
    weighted = fit_regrouped(linear, X, y, epochs=2, sample_weight=np.where(y == "eight", 20.0, 1.0))
    assert weighted.predict_proba(X)[:, 0].mean() > plain.predict_proba(X)[:, 0].mean()


def test_validation_keeps_the_best_epoch_and_stops(digits):
    X, y = digits
    fitted = fit_regrouped(
        linear, X[:900], y[:900], validation=(X[900:], y[900:]), patience=2, epochs=40, peak_lr=0.3, schedule="constant"
    )
    measured = [trace["validation_average_precision"] for trace in fitted.history.traces]
    best = int(np.argmax(measured))
    assert len(measured) == best + 3 < 40
    found = average_precision_score(y[900:] == "eight", fitted.predict_proba(X[900:])[:, 0])
    assert found == pytest.approx(max(measured), abs=1e-6)
    without = fit_regrouped(linear, X[:900], y[:900], epochs=best + 1, peak_lr=0.3, schedule="constant")
    np.testing.assert_allclose(without.predict_proba(X), fitted.predict_proba(X), atol=1e-6)


def test_optimizers_and_schedules(digits):
    X, y = digits
    by_name = fit_regrouped(linear, X, y, epochs=1, optimizer="sgd", peak_lr=0.1)

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

    by_hand = fit_regrouped(linear, X, y, epochs=1, optimizer=sgd, peak_lr=0.1)
    np.testing.assert_allclose(by_hand.predict_proba(X), by_name.predict_proba(X), atol=1e-6)
    steps = []

    def schedule(optimizer, n_steps):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: steps.append(step) or step / n_steps)

    fit_regrouped(linear, X, y, epochs=2, batch_size=450, optimizer=sgd, schedule=schedule)
    assert max(steps) == 8  # two epochs of four batches


def test_it_is_saved_and_read_without_code(digits, tmp_path):
    X, y = digits
    fitted = fit_regrouped(linear, X, y, epochs=1)
    fitted.save(tmp_path / "model")
    again = RegroupedNetwork.load(tmp_path / "model", linear)
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert again.predict(X).tolist() == fitted.predict(X).tolist()
    assert again.history == fitted.history
    with pytest.raises(ValueError, match=r"network\.safetensors has other weights than the module that build makes"):
        RegroupedNetwork.load(tmp_path / "model", lambda k: nn.Linear(63, k))
    path = tmp_path / "model" / "network.safetensors"
    whole = path.read_bytes()
    for changed in (whole[:50], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"network\.safetensors is damaged"):
            RegroupedNetwork.load(tmp_path / "model", linear)


@pytest.mark.parametrize("last", [False, True])
def test_a_save_that_is_interrupted_leaves_the_old_model_or_none(digits, tmp_path, monkeypatch, last):
    X, y = digits
    old, new = (fit_regrouped(linear, X, y, epochs=1, seed=seed) for seed in (0, 1))
    old.save(tmp_path)
    monkeypatch.setattr("regroup_lib.nn.fit.save_file" if last else "regroup_lib.regroup.write_npz", None)
    with pytest.raises(TypeError):
        new.save(tmp_path)
    if last:
        with pytest.raises(ValueError, match=r"it and regrouping\.npz are not as they were written together"):
            RegroupedNetwork.load(tmp_path, linear)
    else:
        np.testing.assert_array_equal(RegroupedNetwork.load(tmp_path, linear).predict_proba(X), old.predict_proba(X))


def test_inputs_that_the_network_cannot_score_are_counted(digits):
    X, y = digits
    fitted = fit_regrouped(linear, X, y, epochs=1.0, validation=[X, y])
    with pytest.raises(ValueError, match="1 of 2 inputs have logits that are not finite; do they hold NaN"):
        fitted.predict_proba(np.stack([X[0], np.full(64, np.nan)]))
    with pytest.raises(ValueError, match=r"inputs are float.* of shape \(0, 64\)"):
        fitted.predict(X[:0])


def test_the_documented_example_with_skorch_runs_as_written():
    pytest.importorskip("skorch", reason="skorch is no dependency")
    page = Path(__file__).resolve().parents[2] / "book" / "use.md"
    (block,) = re.findall(r"^```\{code-block\} python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    X, digit = load_digits(return_X_y=True)
    names = {"X": X, "y": digit == 8, "torch": torch, "rg": rg}
    exec(compile(block, str(page), "exec"), names)
    scores = names["model"].predict_proba(X.astype("float32") / 16)
    assert average_precision_score(digit == 8, scores[:, 1]) > 0.5


class Endless(IterableDataset):
    """Samples without a number."""

    def __iter__(self):
        return iter(())


X_FEW = np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32)
PAIRS = TensorDataset(torch.from_numpy(X_FEW), torch.arange(60) % 2)


@pytest.mark.parametrize(
    ("build", "change", "message"),
    [
        (linear, {"labels": ["a"] * 3}, "1797 inputs but 3 labels"),
        (linear, {"inputs": np.arange(1797)}, r"inputs are int64 of shape \(1797,\); expected numbers \[n, ...\]"),
        (lambda _: nn.Linear(64, 2), {}, r"the module returns \(2,\) for each input, expected 11 logits"),
        (linear, {"regrouping": rg.Regrouping(threshold=5000)}, "threshold is 5000"),
        (
            lambda k: nn.Sequential(nn.Linear(64, k), nn.Softmax(1)),
            {},
            "the module returns probabilities; expected log",
        ),
        (nn.Linear(64, 2), {}, "build is Linear.*; pass a function that makes one for the pseudo-classes"),
        (linear, {"loss": nn.NLLLoss}, "loss is .*NLLLoss.*; pass a function that makes one"),
        (linear, {"loss": nn.CrossEntropyLoss()}, "loss is CrossEntropyLoss.*; pass a function that makes one"),
        (linear, {"regrouping": rg.RegroupClassifier()}, r"regrouping is RegroupClassifier\(\); expected a Regrouping"),
        (linear, {"seed": None}, "seed is None; it must be a whole number of at least 0"),
        (linear, {"inputs": [{"x": row} for row in X_FEW], "labels": [0, 1] * 30}, "inputs are object of shape"),
        (linear, {"optimizer": "AdamW9"}, "optimizer is 'AdamW9'; expected 'adam', 'sgd' or a function"),
        (linear, {"schedule": "cosine"}, "schedule is 'cosine'; expected 'one-cycle', 'constant' or a function"),
        (
            linear,
            {"optimizer": torch.optim.LBFGS},
            "optimizer makes LBFGS; expected an Optimizer that",
        ),
        (
            linear,
            {"schedule": torch.optim.lr_scheduler.ReduceLROnPlateau},
            "schedule makes ReduceLROnPlat",
        ),
        (linear, {"schedule": lambda *_: None}, "schedule makes NoneType; expected a scheduler that steps without"),
        (linear, {"loss": lambda _: None}, "loss makes None; expected a function of logits and targets"),
        (linear, {"peak_lr": 0}, "peak_lr is 0; expected a number above 0"),
        (lambda k: linear(k).requires_grad_(False), {}, "no parameter of the module can be trained"),
        (lambda k: nn.ReLU, {}, "build makes type; expected a module with 11 logits"),
        (None, {}, "build is None; pass a function that makes one"),
        (linear, {"epochs": 0}, "epochs is 0; it must be a whole number of at least 1"),
        (linear, {"batch_size": 0}, "batch_size is 0; it must be a whole number of at least 1"),
        (linear, {"peak_lr": 1e30, "epochs": 2}, "the training diverged in epoch 1; lower peak_lr"),
        (linear, {"patience": 2}, "patience is 2, and there is nothing to stop by; pass validation="),
        (linear, {"validation": (X_FEW, ["a", "other"] * 30)}, r"not the same classes: \['a', 'eight'\]"),
        (linear, {"validation": (X_FEW, ["eight", "other"])}, "60 inputs but 2 labels"),
        (linear, {"sample_weight": -np.ones(1797)}, "sample_weight is float64 of shape .*; expected 1797 finite"),
        (linear, {"sample_weight": np.ones(1797), "loss": lambda _: nn.CrossEntropyLoss()}, "for cross-entropy; weigh"),
        (lambda k: nn.Linear(63, k), {}, r"the module cannot read a batch of inputs of shape \(2, 64\): .*mat1"),
        (linear, {"inputs": Endless(), "labels": None}, "Endless without a length"),
        (linear, {"labels": None}, "labels are missing; only a Dataset"),
        (linear, {"inputs": TensorDataset(torch.from_numpy(X_FEW)), "labels": None}, "no second part; pass labels="),
        (
            linear,
            {"inputs": DataLoader(PAIRS, batch_sampler=[[0, 1], [2, 3]]), "labels": None, "batch_size": 2},
            "batch_sampler of its own",
        ),
    ],
)
def test_bad_input_is_named(digits, build, change, message):
    X, y = digits
    with pytest.raises(ValueError, match=message):
        fit_regrouped(build, **{"inputs": X, "labels": y, "epochs": 1} | change)
