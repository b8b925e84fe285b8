"""`regroup results check`: sound records pass, and whatever is done to one is found, by file and by what is wrong."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import flip_bit

from regroup_lib.data.bundled_tables import load_table
from regroup_lib.data.load import load_data
from regroup_lib.files import digest_file, read_npz, write_npz
from regroup_lib.runs import networks, verify
from regroup_lib.runs.records import load_records
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import Spec, TableSpec
from regroup_lib.runs.verify import DATA_DIGESTS, check_results

COMMITTED = Path(__file__).resolve().parents[2] / "results"
# A committed record of each kind; numbers of the first three are of scores, decisions and tables.
REAL = {
    "rg": "cpu/cifar10-airplane/rg-autoencoder-s0-*.json",
    "ce": "cpu/ham10000-bcc/ce-s0-*.json",
    "table": "cpu/iris-versicolor/table-logreg-rg-s0-*.json",
    "encoder": "cpu/cifar10-airplane/encoder-autoencoder-s0-*.json",
    "look": "cpu/own-page-blocks-5/look-columns-s0-*.json",
    "refused": "cpu/diabetes-high/table-*-kmeans-smote*-s0-*.json",
}


def copied(name, folder):
    """Copy a real record to a results directory and return its path; the committed ones have no defect."""
    source = sorted(COMMITTED.glob(REAL[name]))[0]
    path = folder / source.relative_to(COMMITTED)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".json", ".npz"):
        shutil.copy(source.with_suffix(suffix), path.with_suffix(suffix))
    return path


@pytest.fixture
def real(tmp_path):
    """Return a directory with copies of real records, and the path of each by its name in `REAL`."""
    return tmp_path, {name: copied(name, tmp_path) for name in REAL}


def edit(path, change):
    """Change a record's values, without the digest that would tell of any change."""
    values = json.loads(path.read_text())
    values.pop("digest", None)
    change(values)
    path.write_text(json.dumps(values, indent=1))


def edit_arrays(path, change):
    """Change a record's arrays, and its digest of them."""
    arrays = read_npz(path.with_suffix(".npz"))
    change(arrays)
    write_npz(path.with_suffix(".npz"), arrays, compress=True)
    edit(path, lambda values: values.update(arrays_digest=digest_file(path.with_suffix(".npz"))))


def assign(*keys_and_value):
    """Return a change that assigns a value below keys."""
    *keys, last, value = keys_and_value

    def change(values):
        for key in keys:
            values = values[key]
        values[last] = value

    return change


def drop(*keys):
    def change(values):
        for key in keys[:-1]:
            values = values[key]
        del values[keys[-1]]

    return change


def put(name, index, value):
    return lambda arrays: arrays[name].__setitem__(index, value)


def shorter(name):
    return lambda arrays: arrays.__setitem__(name, arrays[name][:-1])


METRICS = ("metrics", "max", "test")
IN_THE_FILE = [
    ("rg", assign("spec", "seed", 7), "its spec has key"),
    ("rg", assign("spec", "method", "sorcery"), "no method is called 'sorcery'"),
    ("rg", assign("format", 2), "its format is not 1"),
    ("rg", drop("format"), "its format is not 1"),
    ("rg", assign("metrics", [1, 2]), "metrics: Input should be a valid dictionary"),
    ("rg", assign("surprise", 1), "surprise: Unexpected keyword argument"),
    ("rg", assign("data_digest", "0" * 64), "data_digest '000000000000' is not that of cifar10"),
    ("rg", assign("seconds", "train", -1.0), "seconds.train: Input should be greater than or equal to 0"),
    ("rg", assign("seconds", {}), "it has no seconds"),
    ("rg", assign("code", "yesterday's"), "code: String should match pattern"),
    ("rg", assign("created", "2026-11-24"), "created: '2026-11-24' is no time with its zone"),
    ("rg", assign("machine", {}), "machine lacks cores, threads"),
    ("rg", drop("versions", "torch"), "versions lacks torch"),
    ("rg", assign("status", "diverged"), "status is 'diverged', with 2 metrics"),
    ("rg", assign("metrics", {}), "status is 'finished', with 0 metrics"),
    ("rg", assign("reason", "none"), "with the reason 'none'"),
    ("refused", assign("reason", ""), "with the reason ''"),
    ("rg", lambda values: values["traces"].pop(), r"epochs \[1, 2, 3, 4, 5, 6, 7\], and the spec has 8"),
    ("rg", lambda values: values["traces"].reverse(), "its traces are of epochs"),
    ("rg", assign("traces", 3, "train_loss", float("inf")), "train_loss is"),
    ("rg", assign("traces", -1, "test_max_average_precision", 0.5), "its last trace has test_max_average_precision"),
    ("rg", drop("traces", -1, "test_sum_balanced_accuracy"), "test_sum_balanced_accuracy = None"),
    ("rg", assign("regrouping", "parent", [0, 2]), "regrouping.parent is"),
    ("rg", lambda values: values["regrouping"]["parent"].reverse(), "regrouping.parent is"),
    ("rg", assign("regrouping", "parent", "many"), "regrouping.parent is many"),
    ("rg", assign("regrouping", "counts", [1, 2]), "regrouping.counts is"),
    ("rg", assign("regrouping", "counts", -1, -5), "regrouping.counts is"),
    ("rg", assign("regrouping", "nmi", 1.2), "regrouping.nmi is 1.2"),
    ("rg", assign(*METRICS, "average_precision", "airplane", 0.99), "average_precision.airplane is 0.99, and"),
    ("rg", assign(*METRICS, "average_precision", "airplane", float("nan")), "average_precision.airplane is nan, and"),
    ("rg", assign(*METRICS, "average_precision", {"plane": 0.9}), "average_precision.airplane is missing"),
    ("rg", assign(*METRICS, "intervals", "balanced_accuracy", [0.1]), r"balanced_accuracy is \[0.1\], and"),
    ("rg", assign(*METRICS, "neighbor_accuracy", 38.0), "max.test.neighbor_accuracy is 38.0"),
    ("rg", assign(*METRICS, "luck", 0.5), "max.test.luck is 0.5, which does not belong here"),
    ("rg", drop("metrics", "sum"), "metrics.sum.test.average_precision.airplane is missing, and"),
    ("rg", assign("metrics", "none", {"test": {}}), "metrics.none.test is {}, which does not belong here"),
    ("ce", drop("metrics", "none", "val"), "metrics.none.val.average_precision.bcc is missing, and"),
    ("look", assign("data_digest", "0" * 64), "data_digest '000000000000' is not that of own-page-blocks-5"),
    ("look", assign("regrouping", "counts", 0, 7), "regrouping.counts add up to"),
    ("look", assign("regrouping", "parent", 0, 2), "regrouping.parent is"),
    ("look", assign("metrics", "diagnosis", 0, "stability", 1.5), "stability is 1.5"),
    ("encoder", assign("metrics", "nmi", -0.1), "metrics.nmi is -0.1"),
    ("encoder", assign("metrics", "neighbor_accuracy", None), "metrics.neighbor_accuracy is None"),
]


@pytest.mark.parametrize(("name", "change", "message"), IN_THE_FILE, ids=[message for _, _, message in IN_THE_FILE])
def test_whatever_is_changed_in_a_record_is_found(tmp_path, name, change, message):
    path = copied(name, tmp_path)
    edit(path, change)
    defects = check_results(tmp_path).defects
    assert {defect.path for defect in defects} == {path}
    assert any(re.search(message, defect.what) for defect in defects), defects
    assert all("\n" not in str(defect) for defect in defects)


IN_THE_ARRAYS = [
    ("look", put("shown", 0, 5000), "shown names cluster 5000"),
    ("rg", drop("test_scores_sum"), r"metrics.sum.test.average_precision.airplane is .*, which does not belong here"),
    ("rg", shorter("test_scores_max"), "it cannot be checked"),
    ("ce", drop("val_labels"), "it cannot be checked"),
    ("refused", lambda arrays: arrays.update(test_scores_none=np.zeros(3)), "it cannot be checked"),
    ("rg", put("test_scores_max", 5, np.nan), "array test_scores_max has 1 values that are NaN or infinite"),
    ("rg", put("test_scores_max", 5, 1.5), "array test_scores_max holds no probabilities"),
    ("rg", put("test_scores_max", slice(0, 50), 0.5), "and the stored scores give"),
    ("rg", put("embedding", (3, 1), np.inf), "array embedding has 1 values"),
    ("table", put("folds", slice(None), 0), "array folds has 1 folds, and a run 5"),
    ("table", put("test_labels", 0, 1), "and the stored scores give"),
]


@pytest.mark.parametrize(("name", "change", "message"), IN_THE_ARRAYS, ids=[message for _, _, message in IN_THE_ARRAYS])
def test_whatever_is_changed_in_arrays_is_found_though_their_digest_fits(tmp_path, name, change, message):
    path = copied(name, tmp_path)
    edit_arrays(path, change)
    defects = check_results(tmp_path).defects
    assert {defect.path for defect in defects} == {path}
    assert any(re.search(message, defect.what) for defect in defects), defects


ON_DISK = [
    (lambda path: path.write_text(path.read_text()[:-40]), "is damaged"),
    (lambda path: path.write_text("[1]"), "is damaged .*its format is not 1"),
    (lambda path: path.write_bytes(b"\xff\xfe" * 20), "is damaged"),
    (lambda path: path.write_text("[" * 100_000), "is damaged"),
    (lambda path: os.truncate(path, 10**8), "has 100,000,000 bytes; expected at most 20,000,000"),
    (lambda path: path.with_suffix(".npz").unlink(), r"\.npz is missing or damaged"),
    (lambda path: flip_bit(path.with_suffix(".npz")), r"\.npz is missing or damaged"),
    (lambda path: write_npz(path.with_suffix(".npz"), {"x": np.zeros(3)}), r"\.npz is missing or damaged"),
]


@pytest.mark.parametrize(("harm", "message"), ON_DISK)
def test_damaged_files_are_found(tmp_path, harm, message):
    path = copied("rg", tmp_path)
    harm(path)
    (defect,) = check_results(tmp_path).defects
    assert defect.path == path
    assert re.search(message, defect.what)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_file_that_never_ends_is_a_defect(tmp_path, suffix, make):
    path = copied("ce", tmp_path).with_suffix(suffix)
    path.unlink()
    make(path)
    (defect,) = check_results(tmp_path).defects
    assert f"{path} is not a regular file; remove it" in str(defect)


def test_a_record_that_is_not_where_it_belongs_and_arrays_without_one_are_found(real):
    root, paths = real
    moved = root / "cpu" / "cifar10-cat" / paths["rg"].name
    moved.parent.mkdir()
    for suffix in (".json", ".npz"):
        paths["rg"].with_suffix(suffix).rename(moved.with_suffix(suffix))
    paths["table"].unlink()
    assert [str(defect) for defect in check_results(root).defects] == [
        f"{moved}: its spec belongs in {paths['rg'].relative_to(root)}",
        f"{paths['table'].with_suffix('.npz')}: arrays without a record",
    ]


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Return a directory of small records: of scores, of decisions (many classes), of a table."""
    common = {"profile": "smoke", "epochs": 1}
    run(Spec(task="digits-0", method="rg", encoder="raw", **common), results_dir=tmp_path)
    for module in (networks, verify):
        monkeypatch.setattr(module, "MANY_CLASSES", 9)
    run(Spec(task="digits", method="ce", **common), results_dir=tmp_path)
    for seed in (0, 1):
        table = {"task": "iris-versicolor", "estimator": "logreg", "method": "rg", "seed": seed}
        run(TableSpec(profile="smoke", **table), results_dir=tmp_path)
    return tmp_path


def numbers_below(value, keys=()):
    """Yield the keys of each number."""
    if isinstance(value, float):
        yield keys
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from numbers_below(part, (*keys, key))


def nudge(path, keys):
    def change(values):
        part = values
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] += -1e-7 if part[keys[-1]] > 0.5 else 1e-7

    edit(path, change)


def test_every_metric_is_computed_again_but_those_that_are_said_not_to_be(recorded):
    """Each number is moved by 1e-7 alone; of many classes the average precisions are kept, with nothing to compare."""
    assert check_results(recorded).defects == []
    found, missed = 0, set()
    for record in load_records(recorded):
        before = record.path.read_bytes()
        for keys in numbers_below(record.metrics):
            nudge(record.path, ("metrics", *keys))
            if check_results(recorded).defects:
                found += 1
            else:
                missed.add((record.spec.task, *keys[2:-1]))
            record.path.write_bytes(before)
    assert found > 100
    assert missed == {("digits", "intervals", "average_precision", str(c)) for c in range(10)}


def test_a_record_says_when_it_is_not_what_was_written(recorded):
    (path,) = recorded.glob("smoke/digits-0/*.json")
    text = path.read_text()
    path.write_text(text.replace('"cores": ', '"cores": 1'))
    with pytest.raises(ValueError, match=r"is damaged .*its digest differs from the one that was written"):
        load_records(recorded)
    assert ["its digest differs" in defect.what for defect in check_results(recorded).defects] == [True]


def test_labels_and_folds_that_are_not_those_of_the_others_are_found(real):
    """Two samples of one class change places: no metric of one record moves."""
    root, paths = real
    for source in sorted(COMMITTED.glob("cpu/iris-versicolor/table-forest-*-s0-*.json"))[:3]:
        for suffix in (".json", ".npz"):
            shutil.copy(source.with_suffix(suffix), paths["table"].parent)
    assert check_results(root).defects == []

    def swap(arrays):
        one, other = (np.flatnonzero(arrays["test_labels"] == c)[0] for c in (0, 1))
        for array in arrays.values():
            array[[one, other]] = array[[other, one]]

    edit_arrays(paths["table"], swap)
    report = check_results(root)
    assert {defect.path for defect in report.defects} == {paths["table"]}
    assert "its test labels are not those of most records of iris-versicolor" in str(report.defects)


def test_the_digests_are_those_of_the_data_that_are_at_hand():
    assert DATA_DIGESTS["digits"] == load_data("digits").digest
    assert DATA_DIGESTS["descriptions"] == load_data("descriptions").digest
    for task in ("iris-versicolor", "wine-1", "digits-8", "breast-cancer-malignant", "diabetes-high"):
        assert DATA_DIGESTS[task] == load_table(task).digest


def test_the_command_prints_a_line_a_kind_and_a_line_a_defect(real, monkeypatch, regroup):
    root, paths = real
    monkeypatch.setenv("REGROUP_RESULTS", str(root))
    code, out, _ = regroup("results", "check")
    assert code == 0
    *summary, last = out.splitlines()
    assert [line.split(":")[0] for line in summary] == ["encoder", "look", "table", "training"]
    assert "4 that no stored array gives back" in summary[0]
    assert re.search(r"2 finished; \d+ numbers computed again", summary[3])
    assert last == "6 records read, 0 defects"
    edit(paths["rg"], assign("metrics", "max", "test", "[bold]", 1))
    code, out, _ = regroup("results", "check")
    assert code == 1
    assert f"{paths['rg']}: metrics.max.test.[bold] is 1, which does not belong here" in out.splitlines()


def test_the_committed_records_have_no_defect():
    report = check_results(COMMITTED)
    assert [str(defect) for defect in report.defects] == []
    assert report.recomputed.total() > 20_000
