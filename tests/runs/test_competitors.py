"""Every method from its parts to its record, and the tuning that chooses its settings."""

import numpy as np
import pytest
import torch

from regroup_book import plans
from regroup_lib.data.tasks import make_task
from regroup_lib.nn.losses import APLoss, FocalLoss, LDAMLoss, LogitAdjustedLoss, SOAPLoss
from regroup_lib.nn.models import build_network
from regroup_lib.nn.samplers import StratifiedBatches
from regroup_lib.runs import networks
from regroup_lib.runs.methods import METHODS, make_loss, make_sampler
from regroup_lib.runs.records import find_record
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import Spec


def smoke_spec(method, **fields):
    encoder = {"encoder": "pca"} if METHODS[method].needs_encoder else {}
    encoder |= {"mixed_share": 0.5} if METHODS[method].mixed_by else {}
    return Spec(**{"profile": "smoke", "task": "digits-0", "method": method, "epochs": 1, **encoder, **fields})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_to_a_record(method, tmp_path):
    record = run(smoke_spec(method), results_dir=tmp_path)
    assert record.status == "finished"
    regrouped = METHODS[method].labels != "task"
    assert record.rules == (["max", "sum"] if regrouped else ["none"])
    for rule in record.rules:
        assert 0.05 < record.metrics[rule]["test"]["summary"]["average_precision"] <= 1
        assert len(record.arrays()[f"test_scores_{rule}"]) == 540
    images = record.traces[0]["images"]
    if method in ("ros", "dsmt"):
        assert images == 2 * 1019  # both classes as large as the majority
    elif method == "rg-ros":
        assert images == max(record.regrouping["counts"]) * len(record.regrouping["counts"])
    else:
        assert images == 1131


def test_losses_by_name_and_their_settings():
    kinds = {"focal": FocalLoss, "ldam": LDAMLoss, "la": LogitAdjustedLoss, "ap": APLoss, "soap": SOAPLoss}
    assert all(isinstance(make_loss(name, [90, 10]), kind) for name, kind in kinds.items())
    assert make_loss("ce", [9, 1]) is None
    assert make_loss("wce", [90, 10]).weight.tolist() == [1, 9]
    assert make_loss("focal", [9, 1], gamma=0.0).gamma == 0
    assert make_loss("la", [9, 1], tau=0.5).tau == 0.5
    assert make_loss("ldam", [9, 1], max_margin=0.25).margins.max() == 0.25
    assert make_loss("ldam", [9, 1]).deferred is None
    assert make_loss("ldam", [9, 1], deferred=True).deferred == 0.8


LABELS = np.array([0] * 90 + [1] * 10)


def drawn(name, **options):
    sampler = make_sampler(name, LABELS, batch_size=20, seed=0, **options)
    return sampler, LABELS[sampler.order(torch.Generator().manual_seed(0)).numpy()]


def test_samplers_by_name():
    assert np.bincount(drawn("shuffled")[1]).tolist() == [90, 10]
    assert np.bincount(drawn("ros")[1]).tolist() == [90, 90]
    sampler, labels = drawn("rus")
    assert len(labels) == 100  # as many images as the full set
    assert len(set(sampler.rows.tolist())) == 20
    assert abs(np.bincount(labels) - 50).max() == 0
    sampler, labels = drawn("stratified")
    assert isinstance(sampler, StratifiedBatches)
    assert labels.reshape(5, 20).sum(axis=1).tolist() == [2] * 5


def test_rusc_keeps_the_minority_and_clusters_features():
    features = np.random.default_rng(0).normal(size=(100, 3))
    sampler, _ = drawn("rusc", features=features, n_clusters=4)
    assert set(np.flatnonzero(LABELS)) <= set(sampler.rows.tolist())
    assert len(sampler.rows) == 20


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"task": "cifar100-worm", "method": "ce"}, ("slim-resnet", 12, None)),
        ({"task": "cifar10-airplane", "method": "ce"}, ("small-resnet", 8, None)),
        ({"task": "ham10000-bcc", "method": "ce"}, ("slim-resnet-64", 30, 64)),
        ({"task": "ham10000-bcc", "method": "ce", "profile": "paper"}, ("resnet34-224", 100, 224)),
        ({"task": "ham10000-bcc", "method": "mlp", "encoder": "raw"}, ("mlp", 20, 64)),
        ({"task": "cifar100-worm", "method": "ce", "epochs": 2}, ("slim-resnet", 2, None)),
    ],
)
def test_data_set_and_method_refine_the_profile(fields, expected):
    spec = Spec(**fields)
    assert (spec.network, spec.epochs, spec.image_size) == expected


@pytest.mark.parametrize("method", ["soap", "ldam"])
def test_a_run_with_a_stateful_loss_resumes_to_the_same_weights(method, tmp_path, monkeypatch):
    fields = {"epochs": 4} | ({"deferred": True} if method == "ldam" else {})
    spec = smoke_spec(method, **fields)
    whole = run(spec, results_dir=tmp_path / "whole")

    def stop(trainer, network, epoch, trace=networks._Trainer.trace):
        if epoch == 4:
            raise KeyboardInterrupt
        return trace(trainer, network, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(networks._Trainer, "trace", stop)
        with pytest.raises(KeyboardInterrupt):
            run(spec, results_dir=tmp_path / "cut")
    resumed = run(spec, results_dir=tmp_path / "cut")
    np.testing.assert_array_equal(resumed.arrays()["test_scores_none"], whole.arrays()["test_scores_none"])
    assert [t["train_loss"] for t in resumed.traces] == [t["train_loss"] for t in whole.traces]


def test_the_test_set_is_not_traced_when_told_so(tmp_path):
    record = run(smoke_spec("ce", trace_test=False), results_dir=tmp_path)
    assert not [name for name in record.traces[0] if name.startswith("test_")]
    assert "val_none_average_precision" in record.traces[0]
    assert "test" in record.metrics["none"]


def test_cosine_head_is_bounded_and_blind_to_length():
    network = build_network("tiny-resnet", in_channels=1, n_classes=3, seed=0, head="cosine")
    features = torch.randn(5, 32)
    assert network.head(features).abs().max() <= 1 + 1e-6
    torch.testing.assert_close(network.head(7 * features), network.head(features))


def test_a_missing_competitor_is_named_with_the_command_that_makes_it(empty_results):
    with pytest.raises(ValueError, match=r"cifar100-worm: records of ce, .* run `regroup sweep binary --profile cpu`"):
        plans.competitors("cifar100-worm", "cpu", [0, 1, 2])


@pytest.mark.parametrize("task", plans.TRAINING_COUNTS)
def test_the_plans_know_the_classes_of_the_training_splits(task):
    if task.startswith("digits"):
        counts = make_task(task).class_counts
    else:
        (plain,) = plans.tuning_specs("cpu", task, "ce", 0)
        ablated = (
            plans.ablation("control", task, "cpu", [0])["binary"][0] if task in plans.ABLATION_TASKS["cpu"] else plain
        )
        counts = find_record(ablated).regrouping["counts"]
    assert tuple(counts) == plans.TRAINING_COUNTS[task]
