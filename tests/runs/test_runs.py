"""Specs and their keys, records on disk, runs that are killed, and sweeps that share a results directory."""

import itertools
import json
import math
import os
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from threading import Event

import numpy as np
import pytest
import torch
from conftest import flip_bit
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from regroup_lib.data.load import load_data
from regroup_lib.data.tasks import make_task
from regroup_lib.encoders.pixels import PCAEncoder
from regroup_lib.files import read_npz
from regroup_lib.nn.training import ResidentImages
from regroup_lib.runs import looks, networks, records
from regroup_lib.runs.prepare import Busy
from regroup_lib.runs.records import CODE_VERSION, find_record, load_record, load_records
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import PROFILES, EncoderSpec, Spec, parse_spec
from regroup_lib.runs.sweeps import SweepError, sweep
from regroup_lib.runs.verify import check_results

BATCHES = 18  # an epoch of 1131 digits in batches of 64

# Processes that start from one server that has imported the library already, and what an optimizer imports late.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["regroup_lib.runs.networks", "torch._dynamo"])


def smoke(method="ce", encoder=None, **options):
    """Return a spec that trains in a fraction of a second."""
    common = {"profile": "smoke", "task": "digits-0", "epochs": 2}
    return Spec(**common | {"method": method, "encoder": encoder} | options)


@pytest.fixture
def results(smoke_results, tmp_path):
    """Return a copy of the directory of smoke records, to damage."""
    return shutil.copytree(smoke_results, tmp_path / "results")


@pytest.fixture
def no_training(monkeypatch):
    """Fail when something trains."""

    def train(*args, **options):
        raise AssertionError("it was trained")

    monkeypatch.setattr(networks, "train", train)


def seed_spec(seed=0, method="ce", encoder=None):
    """Return the spec of a record in `smoke_results`."""
    return smoke(method, encoder, seed=seed, variation_samples=200)


def files_below(folder):
    """Return the names of all files but locks."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]
    return sorted(str(p.relative_to(folder)) for p in paths)


# ---------------------------------------------------------------- specs

BINARY = {"profile": "smoke", "task": "digits-0", "method": "ce"}


@pytest.mark.parametrize("profile", list(PROFILES))
def test_a_spec_takes_the_settings_of_its_profile_and_keeps_those_it_is_given(profile):
    spec = Spec(profile=profile, task="digits-0", method="rg", encoder="autoencoder")
    said = spec.model_dump()
    assert {name: said[name] for name in PROFILES[profile]} == PROFILES[profile]
    assert Spec(task="digits-0", method="ce").profile == "cpu"
    changed = Spec(profile=profile, task="digits-0", method="rg", encoder="autoencoder", epochs=3, shift=0)
    assert changed.model_dump() == said | {"epochs": 3, "shift": 0}


def test_only_encoders_that_are_trained_here_have_epochs():
    for encoder, expected in {"autoencoder": PROFILES["smoke"]["encoder_epochs"], "raw": None}.items():
        assert smoke("rg", encoder).encoder_epochs == expected
        assert EncoderSpec(profile="smoke", task="digits-0", encoder=encoder).encoder_epochs == expected


TEXT, TABLE = {"task": "descriptions-iris"}, {"kind": "table", "task": "iris-versicolor", "method": "plain"}
TABLE["estimator"] = "logreg"
RUSC, RG = ({"task": "ham10000", "method": method, "encoder": "raw"} for method in ("rusc", "rg"))
REFUSED = [
    ({"epoch": 3}, r"epoch: Extra inputs are not permitted"),
    ({"method": "no-such-method"}, r"no method is called 'no-such-method'; there are .*ce.*rg"),
    ({"network": "resnet99"}, r"no network is called 'resnet99'; there are .*tiny-resnet"),
    ({"clusterer": "nope", "method": "rg", "encoder": "raw"}, r"no clusterer is called 'nope'; there are .*kmeans"),
    ({"method": "rg"}, r"method 'rg' needs an encoder"),
    ({"encoder": "raw"}, r"method 'ce' uses no encoder; leave it out"),
    ({"task": "digits-ten"}, r"task 'digits-ten': digits has no class 'ten'; it has 0, 1"),
    ({"task": "cifar10-worm"}, r"cifar10 has no class 'worm'; it has airplane"),
    ({"task": "imagenet-dog"}, r"task 'imagenet-dog': no data set of that name"),
    ({"profile": "huge"}, r"profile: Input should be 'smoke', 'cpu' or 'paper'"),
    ({"seed": -1}, r"seed: Input should be greater than or equal to 0"),
    ({"seed": 2**31}, r"seed: Input should be less than"),
    ({"seed": "many"}, r"seed: Input should be a valid integer"),
    ({"epochs": 0}, r"epochs: Input should be greater than or equal to 1"),
    ({"peak_lr": 0}, r"peak_lr: Input should be greater than 0"),
    ({"validation_fraction": 1}, r"validation_fraction: Input should be less than 1"),
    ({"n_clusters": 0}, r"n_clusters: expected a whole number of at least 1"),
    ({"threshold": 0}, r"threshold: Input should be greater than 0"),
    ({"kind": "photograph"}, r"(?s)kind.*'training', 'encoder'|'training', 'encoder'"),
    ({"kind": "encoder", "encoder": "raw"}, r"method: Extra inputs are not permitted"),
    # Settings that a method does not have.
    ({"gamma": 1.0}, "method 'ce' has no option gamma; it has none"),
    ({"method": "focal", "gamma": -1.0}, "gamma: Input should be greater than or equal to 0"),
    ({"method": "focal", "gamma": math.nan}, "gamma: "),
    ({"method": "focal", "tau": 1.0}, "method 'focal' has no option tau; it has gamma"),
    ({"method": "ldam", "max_margin": 0.0}, "max_margin: Input should be greater than 0"),
    ({"method": "mlp", "encoder": "pca", "network": "tiny-resnet"}, "does not go with network 'tiny-resnet'"),
    ({"method": "rg", "encoder": "resnet"}, "no encoder is called 'resnet'; there are raw, pca"),
    (RUSC | {"n_clusters": {"nv": 4}}, "method 'rusc' takes one number as n_clusters"),
    (RUSC | {"threshold": 10}, "has no option threshold"),
    (RG | {"n_clusters": {"naevus": 4}}, "n_clusters names .'naevus'.; the classes are nv, mel"),
    (RG | {"n_clusters": {"nv": 0}}, "whole number of at least 1, or one for each"),
    (RG | {"n_clusters": ["nv"]}, "whole number of at least 1"),
    (RG | {"split": "random"}, "split"),
    ({"method": "rg-true", "mixed_share": 0.5}, "has no option mixed_share"),
    ({"method": "rg-mixed-random"}, "mixed_share"),
    ({"method": "rg-mixed-random", "mixed_share": 1.1}, "mixed_share"),
    ({"method": "rg-mixed-random", "mixed_share": 0.5, "task": "digits-lt"}, "mixed_share"),
    # What images or text do not have.
    (TEXT | {"method": "dsmt"}, "method 'dsmt' needs images"),
    (TEXT | {"method": "rg", "encoder": "onnx:x"}, "encoder 'onnx:x' does not take text"),
    ({"method": "rg", "encoder": "tfidf"}, "'tfidf' does not take images"),
    (TEXT | {"network": "tiny-resnet"}, "'tiny-resnet' does not read text; there are"),
    ({"network": "text-cnn"}, "does not read images; there"),
    (TEXT | {"flip": True}, "an option among flip, shift, image_size needs images"),
    (TEXT | {"kind": "encoder", "method": None, "encoder": "raw"}, "encoder 'raw' does not take text"),
    ({"task": "phrasebank-good"}, "phrasebank has no class 'good'; it has neg"),
    ({"task": "phrasebank", "imbalance": 9}, "for a class against the rest"),
    ({"imbalance": 0}, "imbalance: Input should be greater than 0"),
    # Tables.
    (TABLE | {"method": "magic"}, "no method is called 'magic'; there are plain, weights"),
    (TABLE | {"estimator": "svm"}, "no estimator is called 'svm'; there are logreg, forest, boosting"),
    (TABLE | {"method": "balanced-forest"}, "method 'balanced-forest' goes with forest"),
    (TABLE | {"threshold": 20}, "method 'plain' does not regroup"),
    (TABLE | {"n_folds": 4}, "n_folds: Extra inputs are not permitted"),
    (TABLE | {"imbalance": 0}, "imbalance"),
    (TABLE | {"encoder": "raw"}, "encoder"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_a_wrong_spec_is_refused_when_it_is_made(wrong, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse_spec({name: value for name, value in (BINARY | wrong).items() if value is not None})
    assert "\n" not in str(raised.value)


def test_every_defect_of_a_spec_is_named_and_what_is_missing_too():
    with pytest.raises(ValueError, match=r"task: Field required; .*epochs: Input should be greater"):
        parse_spec({"method": "ce", "epochs": 0})


def test_a_spec_does_not_change_after_it_was_made():
    with pytest.raises(ValueError, match="frozen"):
        smoke().seed = 3


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"task": "ham10000-bcc", "method": "ce", "trace_test": False}, "34444a7efa31c32a"),
        ({"kind": "encoder", "task": "cifar10-airplane", "encoder": "raw"}, "2f1ed4cb681d16d7"),
        ({"kind": "table", "task": "iris-versicolor", "method": "plain", "estimator": "logreg"}, "868400ea6df31dc0"),
    ],
)
def test_keys_are_those_of_the_committed_records(values, key):
    """A change of the settings of a profile makes committed records unfindable."""
    assert parse_spec(values).key == key


ALONE = {"profile": "cpu", "task": "digits-1", "seed": 1, "validation_fraction": 0.2, "epochs": 7, "batch_size": 65}
ALONE |= {"peak_lr": 0.11, "weight_decay": 0.0, "network": "small-resnet", "flip": True, "shift": 0}
ALONE |= {"variation_samples": 5, "embedding": True}
RAW = {"method": "rg", "encoder": "raw"}
CHANGES = [{name: value} for name, value in ALONE.items()]
CHANGES += [{"task": "digits"}, {"method": "rg-true"}, {"method": "focal"}, {"method": "focal", "gamma": 1.0}]
CHANGES += [RAW, RAW | {"clusterer": "random"}, RAW | {"n_clusters": 4}, RAW | {"threshold": 300}]
CHANGES += [RAW | {"encoder": "pca"}, *(RAW | {"encoder": "autoencoder", "encoder_epochs": n} for n in (5, 11))]


def test_whatever_decides_a_number_changes_the_key():
    keys = [parse_spec(BINARY | change).key for change in [{}, *CHANGES]]
    keys.append(EncoderSpec(profile="smoke", task="digits-0", encoder="raw").key)
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)


# ---------------------------------------------------------------- what a run leaves


def test_a_record_comes_back_from_disk_as_it_was_and_nothing_else_is_left(tmp_path):
    spec = smoke("rg", "raw", variation_samples=100)
    assert find_record(spec, tmp_path) is None
    record = run(spec, results_dir=tmp_path)
    assert record == load_record(record.path) == find_record(spec, tmp_path)
    assert load_records(tmp_path) == [record]
    assert record.path == spec.path(tmp_path)
    assert files_below(tmp_path) == sorted(
        str(record.path.relative_to(tmp_path).with_suffix(s)) for s in (".json", ".npz")
    )


def test_a_record_says_where_it_comes_from(smoke_results):
    record = find_record(seed_spec(1), smoke_results)
    assert record.key == seed_spec(1).key
    assert record.code == CODE_VERSION
    assert {"regroup", "train", "evaluate"} <= set(record.seconds)
    assert record.versions["torch"] == torch.__version__.split("+")[0]
    assert record.machine["cores"] == os.cpu_count()
    assert record.machine["threads"] == 1
    assert os.uname().nodename not in json.dumps(record.machine)  # nothing that identifies one
    assert record.created.endswith("+00:00")


def check_scores(record):
    """Check that the stored scores of a record, and of those beside it, give the stored metrics."""
    assert check_results(record.path.parents[2]).defects == []


def test_stored_scores_of_regrouped_methods_reproduce_the_metrics_of_both_rules(smoke_results):
    for method, encoder in (("rg", "raw"), ("rg-true", None)):
        record = find_record(seed_spec(0, method, encoder), smoke_results)
        assert set(record.rules) == {"max", "sum"}
        check_scores(record)
        assert all(result["test"]["summary"]["average_precision"] > 0.9 for result in record.metrics.values())


def test_pseudo_class_scores_are_aggregated_under_max_and_sum(tmp_path, monkeypatch):
    """The rules of the paper, from the logits of the last look at the test images."""
    outputs = []

    def predict(network, images, **options):
        outputs.append((len(images), predicted(network, images, **options)[0]))
        return predicted(network, images, **options)

    predicted = networks.predict
    monkeypatch.setattr(networks, "predict", predict)
    record = run(smoke("rg", "raw", epochs=1), results_dir=tmp_path)
    logits = [values for n, values in outputs if n == 540][-1].astype(float)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    negative, positive = p[:, :-1], p[:, -1]
    assert record.regrouping["parent"] == [0] * negative.shape[1] + [1]
    arrays = record.arrays()
    np.testing.assert_allclose(arrays["test_scores_sum"], positive, atol=1e-6)
    strongest = negative.max(axis=1)
    np.testing.assert_allclose(arrays["test_scores_max"], positive / (positive + strongest), atol=1e-6)


@pytest.mark.parametrize(("method", "encoder", "n_labels"), [("ce", None, 2), ("rg", "raw", 11), ("rg-true", None, 10)])
def test_traces_hold_every_measure_after_every_epoch(smoke_results, method, encoder, n_labels):
    record = find_record(seed_spec(0, method, encoder), smoke_results)
    assert [trace["epoch"] for trace in record.traces] == [1, 2]
    for trace in record.traces:
        assert {"train_loss", "seconds", "evaluate_seconds"} <= set(trace)
        for rule, split in itertools.product(record.rules, ("val", "test")):
            assert 0 <= trace[f"{split}_{rule}_average_precision"] <= 1
        assert len(trace["variation"]) == n_labels
        assert len(trace["variation_fine"]) == 10
        assert all(0 <= value < 5 for value in trace["variation"] + trace["variation_fine"])


def test_variation_by_training_class_is_that_by_true_class_where_those_are_trained_on(smoke_results):
    record = find_record(seed_spec(0, "rg-true"), smoke_results)
    for trace in record.traces:
        zero, *others = trace["variation_fine"]
        assert trace["variation"] == pytest.approx([*others, zero])
    # Binary labels: the positive class is a true class, the negative one is spread more widely than its parts.
    for trace in find_record(seed_spec(0), smoke_results).traces:
        zero, *others = trace["variation_fine"]
        assert trace["variation"][1] == pytest.approx(zero)
        assert trace["variation"][0] > np.mean(others)


def test_regrouping_is_described(smoke_results):
    counts = make_task("digits-0").class_counts
    described = find_record(seed_spec(0, "rg", "raw"), smoke_results).regrouping
    assert described["parent"] == [0] * 10 + [1]
    assert sum(described["counts"][:-1]) == counts[0]
    assert described["counts"][-1] == counts[1]
    assert 0.5 < described["purity"] < 1  # of the majority's clusters alone
    true = find_record(seed_spec(0, "rg-true"), smoke_results).regrouping
    assert (true["purity"], true["nmi"], true["ari"]) == pytest.approx((1, 1, 1))
    assert find_record(seed_spec(0), smoke_results).regrouping == {"parent": [0, 1], "counts": counts}


def test_what_is_kept_and_held_out_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(looks, "EMBEDDED_POINTS", 100)
    spec = smoke(epochs=1, validation_fraction=0, embedding=True, variation_samples=10**6)
    record = run(spec, results_dir=tmp_path)
    arrays, (trace,) = record.arrays(), record.traces
    assert set(record.metrics["none"]) == {"test"}
    assert sum(record.regrouping["counts"]) == 1257
    assert "val_labels" not in arrays
    assert "variation" in trace  # of no more images than there are
    assert arrays["embedding"].shape == (100, 2)
    assert np.bincount(arrays["embedding_labels"]).tolist() == [10] * 10  # stratified
    assert record.metrics["none"]["test"]["neighbor_accuracy"] > 0.5


def test_an_encoder_record_holds_what_its_space_is_like(smoke_results):
    record = find_record(EncoderSpec(profile="smoke", task="digits-0", encoder="raw"), smoke_results)
    assert set(record.metrics) == {"purity", "nmi", "ari", "neighbor_accuracy"}
    assert 0.6 < record.metrics["purity"] < 1
    assert 0.9 < record.metrics["neighbor_accuracy"] <= 1
    assert record.regrouping["dimension"] == 64
    assert record.regrouping["label"] == "raw pixels"
    arrays = record.arrays()
    k = len(record.regrouping["parent"])
    assert arrays["embedding"].shape == (100, 2)
    assert arrays["examples"].shape == (k, 6, 8, 8, 1)
    digits = load_data("digits").train
    known = {image.tobytes(): label for image, label in zip(digits.inputs, digits.labels, strict=True)}
    kinds = [[known[image.tobytes()] for image in images] for images in arrays["examples"]]
    assert kinds[-1] == [0] * 6  # the minority
    assert np.mean([Counter(kind).most_common(1)[0][1] for kind in kinds[:-1]]) > 5  # near the centre they agree


# ---------------------------------------------------------------- looking up instead of running


def test_recompute_runs_again_and_replaces_the_record(results):
    spec = seed_spec(0)
    path = spec.path(results)
    old = path.read_text()
    values = json.loads(old)
    del values["digest"]  # as in a record of a version that kept none
    path.write_text(json.dumps(values | {"code": "0.0.0+0123456789ab"}))
    assert run(spec, results_dir=results).code == "0.0.0+0123456789ab"
    record = run(spec, results_dir=results, recompute=True)
    assert record.code == CODE_VERSION
    assert numbers(path) == numbers_of(old)  # the same seed, the same numbers
    check_scores(load_record(path))


def test_recompute_does_not_go_on_from_a_checkpoint(results, monkeypatch):
    """A checkpoint may be what has to be made again."""
    spec = seed_spec(0)
    with monkeypatch.context() as patch:
        patch.setattr(ResidentImages, "augmented", interrupt_at(BATCHES + 1))
        with pytest.raises(KeyboardInterrupt):
            run(spec, results_dir=results, recompute=True)
    assert files_below(results / ".checkpoints") == [f"{spec.key}.pt"]
    batches = count_batches(monkeypatch)
    run(spec, results_dir=results, recompute=True)
    assert len(batches) == 2 * BATCHES
    assert files_below(results / ".checkpoints") == []


def test_a_run_that_fails_leaves_no_record(tmp_path):
    spec = smoke(task="cifar10-airplane")
    with pytest.raises(ValueError, match=r"cifar10\.npz does not exist"):
        run(spec, results_dir=tmp_path / "results", data_dir=tmp_path)
    assert files_below(tmp_path) == []


def test_the_environment_says_where_records_go(smoke_results, monkeypatch, no_training):
    monkeypatch.setenv("REGROUP_RESULTS", str(smoke_results))
    assert run(seed_spec(0)).path == seed_spec(0).path(smoke_results)
    assert len(load_records()) == 8
    assert len(load_records(profile="smoke")) == 8
    assert load_records(profile="cpu") == []


# ---------------------------------------------------------------- damaged records


@pytest.mark.parametrize("renamed", [False, True])
def test_a_damaged_record_is_noticed_and_named(results, no_training, renamed):
    """More damages are in test_verify.py."""
    path = seed_spec(0).path(results)
    if renamed:
        path = path.rename(path.with_name(path.name.replace(path.stem[-16:], "0123456789abcdef")))
    else:
        path.write_text(path.read_text()[:-100])
    message = f"{path} is damaged .*delete it and run its spec again"
    with pytest.raises(ValueError, match=message):
        load_records(results)
    if not renamed:
        with pytest.raises(ValueError, match=message):  # never trained again in silence
            run(seed_spec(0), results_dir=results)


def test_a_record_that_is_being_written_is_not_read(results):
    """Its unfinished file lies hidden beside the others."""
    path = seed_spec(0).path(results)
    path.with_name(f".{path.name}.abc.json").write_text("{")
    assert len(load_records(results)) == 8


# ---------------------------------------------------------------- runs that are killed


def numbers_of(text):
    """Return a record's values without times, and without the digest of the values with them."""
    times = ("seconds", "evaluate_seconds", "created", "digest")

    def timeless(value):
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in times}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    return timeless(json.loads(text))


def numbers(path):
    return numbers_of(path.read_text())


def count_batches(patch):
    """Count the batches that are trained from now on in the list that is returned."""
    batches, augmented = [], ResidentImages.augmented

    def counted(self, *args, **options):
        batches.append(1)
        return augmented(self, *args, **options)

    patch.setattr(ResidentImages, "augmented", counted)
    return batches


def interrupt_at(batch):
    """Return an `augmented` that raises at a batch."""
    calls, augmented = itertools.count(1), ResidentImages.augmented

    def interrupted(self, *args, **options):
        if next(calls) == batch:
            raise KeyboardInterrupt
        return augmented(self, *args, **options)

    return interrupted


def limit_threads():
    torch.set_num_threads(1)
    threadpool_limits(1)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(spec, results_dir, event, number, recompute=False):
    """Run a spec in this process and end it with signal 9 at an event."""
    limit_threads()
    calls, augmented, replace = itertools.count(1), ResidentImages.augmented, os.replace

    def dying_augmented(self, *args, **options):
        if event == "batch" and next(calls) == number:
            die()
        return augmented(self, *args, **options)

    def dying_replace(source, target):
        here = event != "batch" and next(calls) == number
        if here and event == "before file":
            die()
        replace(source, target)
        if here:
            die()

    ResidentImages.augmented, os.replace = dying_augmented, dying_replace
    run(spec, results_dir=results_dir, recompute=recompute)


def launch(target, *arguments):
    """Start a process that ends with this one at the latest."""
    process = PROCESSES.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def ended(process):
    """Wait for a process and return its exit code."""
    process.join(600)
    assert process.exitcode is not None, "it does not end"
    return process.exitcode


@pytest.fixture(scope="module")
def killed_spec():
    return smoke("rg", "raw", variation_samples=100)


@pytest.fixture(scope="module")
def unkilled(killed_spec, tmp_path_factory):
    """Return the record's numbers of a run that nothing killed."""
    return numbers(run(killed_spec, results_dir=tmp_path_factory.mktemp("unkilled")).path)


# Two epochs leave four files: two checkpoints, the arrays, the record.
@pytest.mark.parametrize(
    ("event", "number", "left"),
    [
        ("before file", 1, 2 * BATCHES),
        ("batch", BATCHES + 7, BATCHES),
        ("after file", 3, 0),
        ("after file", 4, 0),  # the record is there, and what is left beside it
    ],
)
def test_a_killed_run_goes_on_and_ends_in_the_same_record(
    tmp_path, monkeypatch, killed_spec, unkilled, event, number, left
):
    process = launch(run_and_die, killed_spec, tmp_path, event, number)
    assert ended(process) == -signal.SIGKILL
    assert len(load_records(tmp_path)) == (number == 4)
    batches = count_batches(monkeypatch)
    record = run(killed_spec, results_dir=tmp_path)
    assert len(batches) == left
    assert numbers(record.path) == unkilled
    check_scores(record)
    assert files_below(tmp_path) == sorted(
        str(record.path.relative_to(tmp_path).with_suffix(s)) for s in (".json", ".npz")
    )


def test_a_run_again_that_is_killed_between_its_two_files_is_finished_by_the_next(tmp_path, killed_spec, unkilled):
    """The arrays are new, the record is the old one: neither goes with the other."""
    path = run(killed_spec, results_dir=tmp_path).path
    values = json.loads(path.read_text())
    del values["digest"]
    path.write_text(json.dumps(values | {"arrays_digest": "0" * 64}))  # as if it had had other arrays
    assert ended(launch(run_and_die, killed_spec, tmp_path, "after file", 3, True)) == -signal.SIGKILL
    assert load_record(path).arrays_digest == "0" * 64
    check_scores(run(killed_spec, results_dir=tmp_path))
    assert numbers(path) == unkilled
    assert len(files_below(tmp_path)) == 2


# ---------------------------------------------------------------- two processes, one results directory


def run_held(spec, results_dir, started, release):
    """Run a spec; training starts when it is released."""
    limit_threads()
    train = networks.train

    def held(*args, **options):
        started.set()
        assert release.wait(600)
        return train(*args, **options)

    networks.train = held
    run(spec, results_dir=results_dir)


def test_a_spec_that_another_process_runs_is_busy_or_waited_for(tmp_path, no_training):
    spec, started, release = smoke(), PROCESSES.Event(), PROCESSES.Event()
    process = launch(run_held, spec, tmp_path, started, release)
    assert started.wait(600)
    with pytest.raises(Busy, match=r"ce \(seed 0\) of digits-0 is run by another process"):
        run(spec, results_dir=tmp_path, wait=False)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run, spec, results_dir=tmp_path)
        release.set()
        record = waiting.result()  # this process does not train
    assert ended(process) == 0
    check_scores(record)
    assert run(spec, results_dir=tmp_path, wait=False) == record


def test_a_run_whose_features_another_process_computes_is_busy(tmp_path, monkeypatch):
    started, release = Event(), Event()
    fit = PCAEncoder.fit

    def held(encoder, images):
        started.set()
        assert release.wait(600)
        return fit(encoder, images)

    monkeypatch.setattr(PCAEncoder, "fit", held)
    options = {"results_dir": tmp_path / "results", "data_dir": tmp_path}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run, smoke("rg", "pca", epochs=1), **options)
        try:
            assert started.wait(600)
            with pytest.raises(Busy, match=r"the features of digits by pca are computed by another process"):
                run(smoke("rg", "pca", epochs=1, seed=1), wait=False, **options)
        finally:
            release.set()
        check_scores(first.result())
    check_scores(run(smoke("rg", "pca", epochs=1, seed=1), wait=False, **options))


def test_a_records_arrays_are_read_once_unless_they_are_replaced(results, monkeypatch):
    record = load_records(results)[0]
    reads = []
    monkeypatch.setattr(records, "read_npz", lambda path: reads.append(path) or read_npz(path))
    for _ in range(3):
        arrays = record.arrays()
    assert len(reads) == 1
    with pytest.raises(ValueError, match="read-only"):
        next(iter(arrays.values()))[:] = 0
    path = record.path.with_suffix(".npz")
    flip_bit(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(ValueError, match=r"is missing or damaged \(its digest is not the one in the record"):
        record.arrays()


# ---------------------------------------------------------------- sweeps


def test_a_sweep_returns_records_in_the_order_of_its_specs(results, no_training):
    specs = [seed_spec(1, "rg-true"), seed_spec(0), seed_spec(0, "rg", "raw")]
    assert [record.spec for record in sweep(iter(specs), results_dir=results)] == specs
    assert sweep([], results_dir=results) == []


def test_a_failing_spec_costs_only_itself(tmp_path):
    bad = [smoke(task="cifar10-airplane"), smoke("rg", "onnx:no-such-file", seed=3)]
    good = [smoke(epochs=1), smoke("rg-true", epochs=1)]
    with pytest.raises(SweepError, match="2 of 4 runs failed, the others are recorded") as raised:
        sweep([bad[0], good[0], bad[1], good[1]], results_dir=tmp_path / "results", data_dir=tmp_path)
    message = str(raised.value)
    assert "cifar10-airplane ce seed 0: DataError" in message
    assert "digits-0 rg-onnx:no-such-file seed 3: FileNotFoundError" in message
    assert {record.key for record in load_records(tmp_path / "results")} == {spec.key for spec in good}


def test_recompute_reaches_every_run_of_a_sweep(results, monkeypatch):
    batches = count_batches(monkeypatch)
    assert [r.key for r in sweep([seed_spec(0), seed_spec(0)], results_dir=results)] == 2 * [seed_spec(0).key]
    assert batches == []
    sweep([seed_spec(0), seed_spec(0)], results_dir=results, recompute=True)
    assert len(batches) == 2 * BATCHES  # a spec that is named twice is run once


# ---------------------------------------------------------------- other uses of an encoder


@pytest.mark.parametrize("method", ["aux-clusters", "distill"])
def test_a_second_head_is_trained_and_only_the_tasks_columns_are_scored(tmp_path, method):
    record = run(smoke(method, "raw", auxiliary_weight=0.5, epochs=4), results_dir=tmp_path)
    arrays = record.arrays()
    assert list(record.metrics) == ["none"]
    assert record.regrouping["parent"] == [0, 1]
    assert arrays["test_scores_none"].shape == arrays["test_labels"].shape
    assert record.metrics["none"]["test"]["summary"]["average_precision"] > 0.8
    plain = run(smoke(epochs=4), results_dir=tmp_path)
    assert "variation" not in plain.traces[-1]
    # The same batches; the loss of the second head comes on top.
    assert record.traces[-1]["train_loss"] > plain.traces[-1]["train_loss"]
    other = run(smoke(method, "raw", auxiliary_weight=3.0, epochs=4), results_dir=tmp_path)
    assert not np.array_equal(other.arrays()["test_scores_none"], arrays["test_scores_none"])


@pytest.mark.parametrize("method", ["probe", "knn"])
def test_classifiers_on_frozen_features_are_chosen_by_their_validation_precision(tmp_path, method):
    spec = Spec(profile="smoke", task="digits-0", method=method, encoder="pca")
    record = run(spec, results_dir=tmp_path)
    task, arrays = make_task("digits-0"), record.arrays()
    dataset = load_data("digits")
    encoder = PCAEncoder().fit(dataset.train.inputs)
    features = {name: encoder.transform(getattr(task, name).inputs) for name in ("train", "val", "test")}
    found = []
    for candidate in networks.FROZEN_ESTIMATORS[spec.network]:
        fitted = candidate.fit(features["train"], task.train.labels)
        scores = {name: fitted.predict_proba(features[name])[:, 1] for name in ("val", "test")}
        found.append((average_precision_score(task.val.labels, scores["val"]), scores["test"]))
    best = max(found, key=lambda pair: pair[0])
    assert record.metrics["none"]["val"]["summary"]["average_precision"] == pytest.approx(best[0], abs=1e-6)
    np.testing.assert_allclose(arrays["test_scores_none"], best[1], atol=1e-4)
    unselected = run(spec.model_copy(update={"validation_fraction": 0.0}), results_dir=tmp_path)
    assert set(unselected.metrics["none"]) == {"test"}  # then the first candidate, which no test set has chosen
    whole = make_task("digits-0", validation_fraction=0)
    first = networks.FROZEN_ESTIMATORS[spec.network][0].fit(encoder.transform(whole.train.inputs), whole.train.labels)
    expected = first.predict_proba(features["test"])[:, 1]
    np.testing.assert_allclose(unselected.arrays()["test_scores_none"], expected, atol=1e-4)
