"""Faults, in small here and at full size with ``-m slow``: kills, full disks, damaged files, hostile files.

What is done to the files is `benchmarks/faults.py`, whose full run the book's page on trust reports.
"""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from regroup_book.show import measured
from regroup_lib.files import load_yaml
from regroup_lib.intervals import mean_std
from regroup_lib.runs.export import compared_frame, records_frame
from regroup_lib.runs.records import load_records, result_on_test
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import Spec

ROOT = Path(__file__).resolve().parents[2]


def load_benchmark(name):
    """Import a script of benchmarks/ under its own name, by which child processes find it too."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def faults():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # where child processes look, too
        yield load_benchmark("faults")


@pytest.mark.parametrize("n_kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_sweep_that_is_killed_at_random_moments_ends_in_the_same_records(faults, tmp_path, n_kills):
    result = faults.kills(tmp_path, n_kills=n_kills)
    assert result["wrong"] == []
    assert result["kills"] >= n_kills


def test_a_full_disk_is_a_clear_error_and_what_was_there_stays(faults, tmp_path):
    results = faults.full_disk(tmp_path)
    assert [result["file"] for result in results] == ["checkpoint", "arrays", "record", "cache"]
    for result in results:
        assert result["clear"], result
        assert result["intact"], result
        assert result["then"] == "finished"


@pytest.mark.parametrize("n_mutations", [70, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_damaged_file_is_refused_by_name_or_changes_nothing(faults, tmp_path, n_mutations):
    result = faults.mutations(tmp_path, n_mutations=n_mutations)
    assert result["wrong"] == []
    assert result["slowest"][0] < 60
    # Some of each kind are refused: the mutations reach what is read.
    assert all(outcomes.get("refused by name") for name, outcomes in result["outcomes"].items() if name in REFUSING)
    assert all(outcomes["result as before"] for name, outcomes in result["outcomes"].items() if name in MENDING)


REFUSING = ("data file", "record", "arrays", "spec", "notebook parameter")
MENDING = ("checkpoint", "feature cache")  # what can be made again is


def test_hostile_files_are_refused_and_do_nothing(faults, tmp_path):
    results = faults.hostile(tmp_path)
    assert len(results) == 8
    assert [result for result in results if not result["refused"]] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", "has an alias"),
        ("!!python/name:os.system ''", "could not determine a constructor"),
        ("2001-99-99", "month must be in 1"),
        ("[" * 5000, "nested more than 20 deep"),
        ("[1", "expected ',' or ']'"),
    ],
)
def test_yaml_of_more_than_plain_values_is_one_line_that_names_its_source(text, message):
    with pytest.raises(ValueError, match=rf"^the file is not YAML of plain values: .*{message}") as raised:
        load_yaml(text, "the file")
    assert "\n" not in str(raised.value)


def test_the_tables_of_the_page_are_those_of_the_figures_and_show_nothing_wrong(faults):
    folder = ROOT / "results" / "trust"
    result = json.loads((folder / "faults.json").read_text())
    assert (folder / "faults.md").read_text() == faults.page(result)
    assert result["check"]["defects"] == 0
    assert result["kills"]["kills"] >= 50
    assert result["mutations"]["mutations"] >= 200
    assert result["kills"]["wrong"] == result["mutations"]["wrong"] == []
    assert all(offer["refused"] for offer in result["hostile"])
    assert all(f["clear"] and f["intact"] and f["then"] == "finished" for f in result["full_disk"])
    for row in result["same_numbers"]:
        assert row["bit_equal"] == (row["changed"] == "another process")
        assert row["largest_ap_difference"] < 1.5 * row["ap_std_over_seeds"]  # as the page says


# ---------------------------------------------------------------- divergence


def test_a_diverged_run_stops_is_recorded_and_is_averaged_nowhere_in_silence(tmp_path):
    common = {"profile": "smoke", "task": "digits-0", "method": "ce", "epochs": 4}
    diverging = Spec(**common, seed=1, peak_lr=1e30)
    record = run(diverging, results_dir=tmp_path)
    assert record.status == "diverged"
    assert len(record.traces) < 4
    assert not np.isfinite(record.traces[-1]["train_loss"])
    assert record.metrics == {}
    assert set(record.arrays()) == {"test_labels"}
    assert run(diverging, results_dir=tmp_path).seconds == record.seconds  # it is not run again
    sound = run(Spec(**common, seed=0), results_dir=tmp_path)
    records = load_records(tmp_path)
    # One by one: named, without a number. Together: no mean, and never one of the others alone.
    frame = records_frame(records).set_index("key")
    assert frame.loc[record.key, "status"] == "diverged"
    assert pd.isna(frame.loc[record.key, "average_precision"])
    values = measured(records, lambda r: result_on_test(r, "average_precision"))["ce"]
    assert np.isnan(values).tolist() == [False, True]
    assert mean_std(values) == "nan ± nan"
    same_setting = [sound, run(Spec(**common, seed=2), results_dir=tmp_path)]
    lost = replace(record, spec=Spec(**common, seed=1))
    (row,) = compared_frame([*same_setting, lost]).to_dict("records")
    assert (row["seeds"], row["diverged"]) == (2, 1)
