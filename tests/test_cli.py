"""The `regroup` command: what it prints, what it refuses, and that a refusal is one line."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.main import get_command

from regroup_book import plans
from regroup_lib import cli
from regroup_lib.data.load import load_data
from regroup_lib.files import write_npz
from regroup_lib.nn import training
from regroup_lib.runs import table_methods
from regroup_lib.runs.records import find_record, load_records
from regroup_lib.runs.specs import Spec

SMOKE = ["--set", "profile=smoke", "--set", "task=digits-0", "--set", "epochs=2", "--set", "variation_samples=200"]
COLUMNS = [
    *["key", "profile", "task", "method", "encoder", "clusterer", "aggregation", "n_clusters", "seed", "epochs"],
    *["balanced_accuracy", "average_precision", "calibrated_average_precision", "seconds", "status"],
]


@pytest.fixture
def results_directory(monkeypatch, tmp_path):
    """Let records go to an empty directory."""
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def recorded(monkeypatch, smoke_results):
    """Let the command find the smoke records, and train nothing."""

    def train(*args, **options):
        raise AssertionError("it was trained")

    monkeypatch.setenv("REGROUP_RESULTS", str(smoke_results))
    monkeypatch.setattr(training, "train", train)
    return smoke_results


def table(text):
    """Return the rows of a printed table: cells by column."""
    header, rule, *lines = text.splitlines()
    ends = [match.span() for match in re.finditer("-+", rule)]
    names, *rows = ([line[start:end].strip() for start, end in ends] for line in (header, *lines))
    return [dict(zip(names, cells, strict=True)) for cells in rows]


def words(text):
    """Return a text without line breaks, to look for phrases that help wraps."""
    return " ".join(text.split())


# ---------------------------------------------------------------- help

READING = "--label --image-size --allow-missing --group --no-header --missing --decimal"
OPTIONS = {
    "data": "",
    "data list": "",
    "data fetch": "",
    "data check": READING,
    "run": "--set --recompute",
    "fit": f"--positive --encoder --threshold {READING} --estimator --epochs --seeds --thorough --workers --recompute "
    "--output --report --save --dry-run",
    "predict": "--output",
    "sweep": "--profile --seeds --workers --recompute --scheduler --resource --minutes --dry-run",
    "results": "--profile --task --method",
    "results compare": "--profile",
    "results check": "--profile",
    "results export": "--profile --task --method --long",
    "book": "",
    "book run": "--parameter --output",
    "book smoke": "",
    "book build": "",
    "book pdf": "",
}


def commands_below(group, name=""):
    """Return each command by its name."""
    found = {}
    for child_name, child in getattr(group, "commands", {}).items():
        found |= {f"{name} {child_name}".strip(): child} | commands_below(child, f"{name} {child_name}")
    return found


def test_the_commands_are_those_of_the_documentation():
    assert set(commands_below(get_command(cli.app))) == set(OPTIONS)


@pytest.mark.parametrize(("command", "options"), {"": "--debug --version", **OPTIONS}.items())
def test_help_describes_a_command_and_its_options(regroup, command, options):
    code, out, _ = regroup(*command.split(), "--help")
    assert code == 0
    assert re.search(rf"Usage: .*{command} \[OPTIONS\]", out)
    described = commands_below(get_command(cli.app)).get(command, get_command(cli.app)).help
    assert words(described.split("\n\n")[0]) in words(out)
    found = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", out, flags=re.M))
    assert found - {"--help", "--install-completion", "--show-completion"} == set(options.split())


@pytest.mark.parametrize("group", [[], ["data"], ["book"]])
def test_a_group_without_a_command_shows_its_help(regroup, group):
    _, out, err = regroup(*group)
    assert "Usage:" in out + err
    assert "Commands" in out + err


def test_an_unknown_command_or_option_is_a_usage_error(regroup):
    for arguments in (["frobnicate"], ["sweep", "all", "--frobnicate"], ["sweep"]):
        code, _, err = regroup(*arguments)
        assert code == 2
        assert "Usage:" in err


# ---------------------------------------------------------------- data


def test_data_list_says_what_is_here_and_how_to_get_the_rest(regroup, monkeypatch, tmp_path):
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path))
    (tmp_path / "cifar10.npz").touch()
    code, out, _ = regroup("data", "list")
    assert code == 0
    rows = {row["name"]: row for row in table(out)}
    assert rows["digits"]["state"] == "embedded"
    assert rows["cifar10"]["state"] == str(tmp_path / "cifar10.npz")
    assert rows["cifar100"]["state"] == "missing: regroup data fetch cifar100"
    assert "Krizhevsky 2009" in rows["cifar100"]["publisher"]


def test_data_check_prints_shape_counts_and_digest(regroup):
    code, out, _ = regroup("data", "check", "digits")
    digits = load_data("digits")
    train, test = digits.class_counts("train"), digits.class_counts("test")
    assert code == 0
    assert out.splitlines() == [
        f"digits train: 1257 x 8 x 8 x 1, 10 classes of {min(train)} to {max(train)} images",
        f"digits test: 540 x 8 x 8 x 1, 10 classes of {min(test)} to {max(test)} images",
        f"digits digest: {digits.digest}",
    ]


def test_data_check_takes_a_file_and_without_a_name_all_that_is_here(regroup, monkeypatch, tmp_path, small_arrays):
    write_npz(tmp_path / "mine.npz", small_arrays())
    code, out, _ = regroup("data", "check", "digits", tmp_path / "mine.npz")
    assert code == 0
    assert "mine.npz val: 6 x 8 x 8 x 1, 3 classes of 2 to 2 images" in out
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path))
    _, out, _ = regroup("data", "check")
    assert {line.split()[0] for line in out.splitlines()} == {"digits", "descriptions"}


def test_data_check_says_what_was_done_to_own_files_and_names_those_that_it_cannot_read(regroup, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (9, 7 + number), (40 * number, 0, len(name))).save(tmp_path / f"pets/{name}/{number}.png")
    (tmp_path / "pets" / "cat" / "broken.jpg").write_text("no picture")
    code, out, err = regroup("data", "check", tmp_path / "pets", "--image-size", 8)
    assert (code, out) == (1, "")
    assert "1 of 11 images cannot be read (cat/broken.jpg; the first:" in err
    code, out, _ = regroup("data", "check", tmp_path / "pets", "--image-size", 8, "--allow-missing")
    assert code == 0
    assert "pets train: 8 x 8 x 8 x 3, 2 classes of 4 to 4 images" in out
    assert "pets 10 of 10 images resized to 8 x 8 pixels" in out
    assert "pets left out: 1 of 11 images cannot be read" in out


# ---------------------------------------------------------------- own data


@pytest.fixture
def patients(tmp_path):
    """Write a table whose minority, 15 of 75 rows, lies between four heaps of the majority."""
    rng = np.random.default_rng(0)
    centers = np.repeat([(3, 0), (-3, 0), (0, 3), (0, -3), (0, 0)], 15, axis=0)
    frame = pd.DataFrame(centers + rng.normal(0, 0.3, (75, 2)), columns=["[x]", "y"])
    frame.insert(1, "state", np.where(np.arange(75) < 60, "well", "ill"))
    frame.to_csv(tmp_path / "patients.csv", index=False)
    return tmp_path / "patients.csv"


def test_fit_compares_recommends_and_writes(regroup, results_directory, patients, monkeypatch):
    output, model = patients.with_name("out.json"), patients.with_name("model")
    arguments = ["fit", patients, "--label", "state", "--estimator", "logreg", "--seeds", "0,1", "--output", output]
    code, out, err = regroup(*arguments)
    assert (code, err) == (0, "")
    assert "label: the column 'state'" in out
    assert "patients-ill: percent, over seeds 0, 1; AP by chance 20.0" in words(out)
    assert "not ill: 4 clusters of 15 to 15 samples" in out
    assert sum(line.startswith("logistic regression  ") for line in out.splitlines()) == 5 + 5  # the first answer
    assert "RG with logistic regression" in out
    assert f"records: {results_directory / 'cpu' / 'own-patients-ill'}" in out
    assert f"wrote {output}" in out
    written = json.loads(output.read_text(encoding="utf-8"))
    assert (written["positive"], written["seeds"]) == ("ill", [0, 1])
    assert written["recommendation"]["text"].startswith(("Regroup", "Undecided"))
    assert len(load_records(results_directory)) == 11
    monkeypatch.setattr(table_methods, "out_of_fold", None)  # records are enough
    assert regroup(*arguments)[1] == out
    assert f"wrote {model}" in regroup(*arguments, "--save", model)[1]
    code, out, err = regroup("predict", model, patients)
    assert (code, err, len(out.splitlines())) == (0, "", 2 + 75)
    assert out.splitlines()[-1].split()[-1] == "ill"
    assert "exists; name a new folder" in regroup(*arguments, "--save", model)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.csv"], r"nothing\.csv does not exist or is no file; check the path"),
        (["digits"], r"'digits' is a data set of the book \(`regroup sweep`\); a folder of that name is \./digits"),
        (["TABLE"], "the column 'y' has 75 different values in 75 rows, more like a number to predict"),
        (["TABLE", "--label", "state", "--seeds", "a"], "seeds are 'a'"),
        (["TABLE", "--output", "results.txt"], r"results\.txt does not end in \.json or \.csv"),
    ],
)
def test_fit_refuses_in_one_line(regroup, results_directory, patients, arguments, message):
    code, out, err = regroup("fit", *(patients if part == "TABLE" else part for part in arguments))
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert re.match(rf"error: .*{message}", err)
    assert not results_directory.exists()


def test_fit_refuses_outputs_that_cannot_be_written_before_it_reads_the_data(regroup, results_directory, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "closed").mkdir(mode=0o500)
    cases = [
        (["--report", tmp_path / "file" / "r.html"], "no folder; name another place"),
        (["--save", tmp_path / "file"], "exists; name a new folder"),
        (["--save", tmp_path / "file" / "model"], "no folder; name another place"),
        (["--output", tmp_path / "folder.csv"], "is a folder; name a file"),
        (["--save", tmp_path / "m", "--output", tmp_path / "m" / "r.csv"], "inside"),
    ]
    if not os.access(tmp_path / "closed", os.W_OK):  # root may write everywhere
        cases.append((["--save", tmp_path / "closed" / "new" / "m"], "nothing may be written to"))
    for arguments, message in cases:
        code, out, err = regroup("fit", "nothing.csv", *arguments)
        assert (code, out, len(err.splitlines()), message in err) == (1, "", 1, True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "file", "folder.csv"]


@pytest.mark.parametrize("seeds", ["0", "0,1"])
def test_dry_run_of_fit_says_what_is_to_do_and_starts_nothing(regroup, results_directory, patients, seeds):
    arguments = ["fit", patients, "--label", "state", "--estimator", "logreg", "--dry-run", "--seeds"]
    code, out, err = regroup(*arguments, seeds)
    n = len(seeds.split(","))
    assert (code, err) == (0, "")
    assert out.startswith("label: the column 'state'\n")
    assert "80/20" not in out
    assert f"\n{5 * n} runs, {5 * n} to do: {25 * n} fits\n  {n} x table-logreg-plain\n" in out
    assert re.search(r"\nabout 1 min and \d\.\d GB of memory, estimated on a part of the data\n$", out)
    assert not results_directory.exists()


@pytest.mark.parametrize("command", ["fit", "data check"])
def test_names_from_data_are_printed_as_they_are_and_obeyed_by_nothing(regroup, results_directory, patients, command):
    classes = {"ill": "[/b]ill", "well": "[bold]well"}
    frame = pd.read_csv(patients).replace(classes).rename(columns={"y": "[/red]\x1b[2J"})
    frame = frame.assign(**{"[link=x]\u202e": "[/i]\x1b[1m"}).drop_duplicates()
    frame.to_csv(patients, index=False)
    options = ["--estimator", "logreg", "--seeds", "0"] if command == "fit" else []
    code, out, err = regroup(*command.split(), patients, "--label", "state", *options)
    assert (code, err) == (0, "")
    assert not set("\x1b\x07\u202e") & set(out)
    for name in ("[link=x]\\u202e", *(("[/b]ill",) if command == "fit" else ())):
        assert name in out
    code, out, err = regroup(*command.split(), patients, "--label", "[/b]\x1b[31m", *options)
    assert code == 1
    assert r"has no column '[/b]\x1b[31m'; it has [x], state, [/red]\x1b[2J" in err


def test_fit_reads_as_told_and_prints_what_it_assumed(regroup, results_directory, tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        f"p{i // 3};{f'{x:.3f}'.replace('.', ',')};{'?' if i % 9 == 0 else i % 4};{int(i % 15 < 3)}"
        for i, x in enumerate(rng.normal(size=180))
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    arguments = ["fit", tmp_path / "t.csv", "--estimator", "logreg", "--seeds", "0"]
    code, _, err = regroup(*arguments)
    assert code == 1
    assert "the first line looks like data" in err
    code, out, _ = regroup(*arguments, "--no-header", "--missing", "?", "--group", "column 1")
    assert code == 0
    assert "numbers with a decimal comma: column 2" in out
    assert "missing values: 20 of 180 in column 3" in out
    assert "group: the column 'column 1', 60 groups that stay whole" in out
    assert "every row is scored by cross-validation, five folds for each seed, and no fold divides a group" in out


# ---------------------------------------------------------------- run


def test_run_looks_a_record_up_and_prints_it(regroup, recorded):
    code, out, _ = regroup("run", *SMOKE, "--set", "method=rg", "--set", "encoder=raw", "--set", "seed=1")
    assert code == 0
    spec = Spec(profile="smoke", task="digits-0", method="rg", encoder="raw", epochs=2, variation_samples=200, seed=1)
    record = find_record(spec, recorded)
    for rule in ("max", "sum"):
        result = record.metrics[rule]["test"]["summary"]
        numbers = f"{result['balanced_accuracy']:.4f} {result['average_precision']:.4f}"
        assert f"smoke digits-0 rg raw {rule} 1 {numbers}" in words(out)
    assert out.splitlines()[-1] == f"record: {record.path}"


def test_run_reads_a_file_and_what_is_set_comes_after_it(regroup, recorded, tmp_path):
    (tmp_path / "spec.yaml").write_text(
        "profile: smoke\ntask: digits-0\nmethod: ce\nepochs: 2\nvariation_samples: 200  # a comment\nseed: 0\n"
    )
    _, out, _ = regroup("run", tmp_path / "spec.yaml")
    assert "/ce-s0-" in out
    _, out, _ = regroup("run", tmp_path / "spec.yaml", "--set", "seed=1", "--set", "method=rg-true")
    assert "/rg-true-s1-" in out


def test_run_trains_and_records_and_recomputes_on_request(regroup, results_directory):
    arguments = ["run", *SMOKE[:4], "--set", "method=ce", "--set", "epochs=1"]
    code, out, err = regroup(*arguments)
    assert (code, err) == (0, "")  # no progress bar, no warning: nobody watches
    (record,) = load_records(results_directory)
    assert f"record: {record.path}" in out
    values = json.loads(record.path.read_text())
    del values["digest"]  # an older record has none
    record.path.write_text(json.dumps(values | {"code": "0.0.0+0123456789ab"}))
    regroup(*arguments)
    assert [r.code for r in load_records(results_directory)] == ["0.0.0+0123456789ab"]
    regroup(*arguments, "--recompute")
    assert [r.code for r in load_records(results_directory)] == [record.code]


# ---------------------------------------------------------------- sweep


@pytest.fixture
def small_chapter(monkeypatch):
    """Add a chapter of two quick runs per seed; the second kind diverges."""

    def small(profile, seeds, results_dir=None):
        common = {"profile": profile, "task": "digits-0", "method": "ce", "epochs": 1}
        return [Spec(**common, **rest, seed=seed) for seed in seeds for rest in ({}, {"peak_lr": 1e30})]

    monkeypatch.setitem(plans.PLANS, "small", small)


def test_sweep_runs_what_is_missing_and_counts_what_diverged(regroup, results_directory, small_chapter):
    arguments = ["sweep", "small", "--profile", "smoke", "--seeds"]
    code, out, _ = regroup(*arguments, "0")
    assert code == 0
    assert "small, profile smoke: 2 runs, 2 to do; no record of such a run yet, so no estimate of the time" in out
    assert "2 records, 1 of them diverged" in out
    times = {r.path: r.path.stat().st_mtime_ns for r in load_records(results_directory)}
    _, out, _ = regroup(*arguments, "0, 1")
    assert re.search(r"4 runs, 2 to do, about 0 minutes\n", out)
    assert "4 records, 2 of them diverged" in out
    records = load_records(results_directory)
    assert sorted((r.spec.seed, r.status) for r in records) == [
        (seed, status) for seed in (0, 1) for status in ("diverged", "finished")
    ]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    _, out, _ = regroup(*arguments, "0,1")
    assert "4 runs, 0 to do\n" in out
    _, out, _ = regroup(*arguments, "0", "--recompute")
    assert "2 runs, 2 to do, about" in out
    assert all(path.stat().st_mtime_ns > time for path, time in times.items())


def test_an_estimate_says_how_many_runs_it_leaves_out(regroup, results_directory, small_chapter, monkeypatch):
    known = {0.1: 120.0, 1e30: None}  # by learning rate
    monkeypatch.setattr(plans, "estimate_seconds", lambda spec, records: known[spec.peak_lr])
    _, out, _ = regroup("sweep", "small", "--profile", "smoke", "--seeds", "0,1", "--dry-run")
    assert "4 runs, 4 to do, about 4 minutes and 2 runs unlike all recorded ones\n" in out


def test_dry_run_prints_runs_and_minutes_and_starts_nothing(regroup, recorded, monkeypatch):
    before = sorted(recorded.rglob("*"))
    # Estimates come from all records of the profile, and are added up.
    monkeypatch.setattr(plans, "estimate_seconds", lambda spec, records: 60.0 * len(records))
    arguments = ["sweep", "motivating-example", "--profile", "smoke", "--seeds", "0,1", "--dry-run"]
    code, out, _ = regroup(*arguments)
    assert code == 0
    specs = plans.chapter_specs("motivating-example", profile="smoke", seeds=[0, 1])
    first, *lines = out.splitlines()
    assert first == f"motivating-example, profile smoke: 12 runs, 12 to do, about {12 * 8} minutes"
    assert set(lines) == {f"  2 x digits-0 {spec.label}" for spec in specs}
    assert len(lines) == 6
    assert sorted(recorded.rglob("*")) == before
    assert f"about {12 * 8 // 2} minutes" in regroup(*arguments, "--workers", "2")[1]


@pytest.mark.parametrize("minutes", ["1e-9", "0", "-1"])
def test_fewer_minutes_than_the_start_takes_are_refused(regroup, results_directory, minutes):
    code, _, error = regroup("sweep", "motivating-example", "--profile", "smoke", "--minutes", minutes)
    assert code == 1
    assert f"--minutes is {float(minutes):g}, and the start alone took" in error
    assert not list(results_directory.rglob("*.json"))


def test_a_sweep_with_failures_ends_with_an_error_that_names_them(regroup, results_directory, monkeypatch, tmp_path):
    def failing(profile, seeds, results_dir=None):
        good = Spec(profile="smoke", task="digits-0", method="ce", epochs=1)
        return [Spec(profile="smoke", task="cifar10-cat", method="ce"), good]

    monkeypatch.setitem(plans.PLANS, "failing", failing)
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path))
    code, _, err = regroup("sweep", "failing", "--profile", "smoke", "--seeds", "0")
    assert code == 1
    assert err.startswith("error: 1 of 2 runs failed, the others are recorded:\ncifar10-cat ce seed 0: DataError:")
    assert "Traceback" not in err
    assert len(load_records(results_directory)) == 1


# ---------------------------------------------------------------- results


def test_results_lists_every_training_record(regroup, recorded):
    code, out, _ = regroup("results")
    assert code == 0
    rows = table(out)
    assert len(rows) == 2 + 4 + 4  # two seeds; regrouped methods have a row for either rule
    assert sum((row["task"], row["method"], row["rule"]) == ("digits-0", "rg-true", "max") for row in rows) == 2
    assert {row["status"] for row in rows} == {"finished"}
    assert regroup("results", "--profile", "smoke")[1] == out
    code, _, err = regroup("results", "--profile", "cpu")
    assert (code, "no record has the profile 'cpu'; there are smoke" in err) == (1, True)
    assert {row["method"] for row in table(regroup("results", "--method", "ce")[1])} == {"ce"}


def test_results_export_writes_one_row_a_record_and_rule(regroup, recorded, tmp_path):
    file = tmp_path / "new" / "results.csv"
    code, out, _ = regroup("results", "export", file)
    assert code == 0
    assert out == f"wrote 10 rows to {file}\n"
    frame = pd.read_csv(file, keep_default_na=False)
    assert list(frame.columns)[: len(COLUMNS)] == COLUMNS
    assert list(frame.columns)[len(COLUMNS) :] == ["average_precision_not 0", "average_precision_0"]
    records = {record.key: record for record in load_records(recorded)}
    for row in frame.to_dict("records"):
        record = records[row["key"]]
        spec = record.spec
        assert (row["method"], row["seed"], row["epochs"]) == (spec.method, spec.seed, 2)
        assert (row["encoder"], row["clusterer"]) == (("raw", "kmeans") if spec.method == "rg" else ("", ""))
        assert row["n_clusters"] == {"ce": 1, "rg": 10, "rg-true": 9}[spec.method]
        result = record.metrics[row["aggregation"] or "none"]["test"]
        for measure in ("balanced_accuracy", "average_precision", "calibrated_average_precision"):
            assert row[measure] == pytest.approx(result["summary"][measure])
        assert row["average_precision_0"] == pytest.approx(result["average_precision"]["0"])
        assert row["status"] == "finished"
    rules = frame.groupby("method")["aggregation"].agg(sorted).to_dict()
    assert rules == {"ce": ["", ""], "rg": ["max", "max", "sum", "sum"], "rg-true": ["max", "max", "sum", "sum"]}
    assert set(records) - set(frame["key"]) == {key for key, r in records.items() if r.spec.kind == "encoder"}


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("md", "| --- |"), ("tex", r"\toprule")])
def test_results_are_exported_as_the_suffix_says(regroup, recorded, tmp_path, suffix, mark):
    file = tmp_path / f"results.{suffix}"
    assert regroup("results", "export", file, "--method", "rg")[0] == 0
    text = file.read_text()
    assert mark in text
    assert "rg" in text
    assert "rg-true" not in text
    code, _, err = regroup("results", "export", tmp_path / "results.xls")
    assert code == 1
    assert ".xls is no format; name a .csv, .md or .tex file" in err
    assert not (tmp_path / "results.xls").exists()


def test_what_a_record_says_is_text_and_commands_no_terminal(regroup, smoke_results, monkeypatch, tmp_path):
    root = shutil.copytree(smoke_results, tmp_path / "results")
    path = next(root.glob("smoke/digits-0/ce-s0-*.json"))
    values = json.loads(path.read_text())
    values["metrics"]["none"]["test"]["[bold]\x1b[2J\u202e"] = 1
    del values["digest"]
    path.write_text(json.dumps(values))
    monkeypatch.setenv("REGROUP_RESULTS", str(root))
    assert "[bold]\\x1b[2J\\u202e" in regroup("results", "check")[1]


def test_results_are_compared_over_seeds(regroup, recorded):
    rows = table(regroup("results", "compare", "digits-0")[1])
    assert {row["method"] for row in rows} == {"ce", "rg", "rg-true"}
    assert all(" ± " in row["AP"] for row in rows)
    precision = [float(row["AP"].split("±")[0]) for row in rows]
    assert precision == sorted(precision, reverse=True)


ERRORS = [
    (["run", "--set", "epochs"], "error: 'epochs' is not of the form NAME=VALUE"),
    (["run", "--set", "=3"], "error: '=3' is not of the form NAME=VALUE"),
    (["run", *SMOKE, "--set", "method=sorcery"], "error: method: no method is called 'sorcery'; there are ce"),
    (["run", *SMOKE, "--set", "method=rg"], "error: spec: method 'rg' needs an encoder"),
    (["run", *SMOKE, "--set", "method=ce", "--set", "epoch=3"], "error: epoch: Extra inputs are not permitted"),
    (["run", *SMOKE, "--set", "method=ce", "--set", "epochs=many"], "error: epochs: Input should be a valid integer"),
    (["run", "--set", "method=ce"], "error: task: Field required"),
    (["run", "--set", "epochs=[1"], "error: "),
    (["run", "no-such-file.yaml"], "error: .*No such file or directory: 'no-such-file.yaml'"),
    (["run", "tests"], "error: .*Is a directory"),
    (["run", "CITATION.cff", "--set", "method=ce"], "error: "),
    (["sweep", "nope"], "error: no chapter is called 'nope'; there are motivating-example"),
    (["sweep", "all", "--profile", "huge"], "error: no profile is called 'huge'; there are smoke, cpu, paper"),
    (["sweep", "all", "--seeds", "0,x"], "error: seeds are '0,x'; expected whole numbers with commas"),
    (["sweep", "all", "--seeds", ","], "error: seeds is empty; give at least one"),
    (["sweep", "encoders", "--profile", "smoke", "--workers", "0"], "error: workers is 0; expected at least 1"),
    (["data", "check", "nope"], "error: no data set is called 'nope'; there are digits"),
    (["data", "check", "a [b] c"], r"error: no data set is called 'a \[b\] c'"),
    (["data", "check", "nothing.npz"], r"error: nothing\.npz does not exist; check the path"),
    (["data", "fetch", "digits"], "error: data set 'digits' is embedded and needs no download"),
    (["results", "--task", "cifar10-cat"], "error: no record has the task 'cifar10-cat'; there are none"),
    (["book", "run", "nope"], "error: no chapter is called 'nope'"),
    (["book", "run", "encoders", "-p", "seeds"], "error: 'seeds' is not of the form NAME=VALUE"),
    (["book", "run", "encoders", "-p", "sedes=[1]"], "error: chapter encoders has no parameter sedes; it has"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[" ".join(arguments) for arguments, _ in ERRORS])
def test_an_error_is_one_line_and_exit_code_1(regroup, results_directory, monkeypatch, arguments, message):
    monkeypatch.chdir(Path(__file__).parents[1])
    code, out, err = regroup(*arguments)
    assert code == 1
    assert out == "" or arguments[0] == "sweep"  # a sweep says first what it is about to do
    (line,) = err.splitlines()
    assert re.match(message, line)
    assert load_records(results_directory) == []


@pytest.mark.parametrize(
    ("text", "message"), [("- 1\n- 2\n", ".* does not hold FIELD: VALUE lines"), ("epochs: [1\n", "")]
)
def test_a_file_that_holds_no_spec_is_one_line(regroup, tmp_path, text, message):
    (tmp_path / "spec.yaml").write_text(text)
    code, _, err = regroup("run", tmp_path / "spec.yaml")
    assert (code, len(err.splitlines())) == (1, 1)
    assert re.match(f"error: {message}", err)


def test_no_record_is_an_empty_table_and_a_damaged_one_is_one_line(regroup, results_directory):
    code, out, _ = regroup("results")
    assert (code, table(out), "AP" in out) == (0, [], True)
    path = results_directory / "smoke" / "digits-0" / "ce-s0-0123456789abcdef.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    for arguments in (["results"], ["results", "export", path.with_suffix(".csv")]):
        code, _, err = regroup(*arguments)
        assert code == 1
        assert err.startswith(f"error: the record {path} is damaged")
        assert len(err.splitlines()) == 1


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["regroup", "--debug", "sweep", "nope"])
    with pytest.raises(ValueError, match="no chapter is called 'nope'"):
        cli.main()


# ---------------------------------------------------------------- as a process of its own


def test_the_installed_command_answers_and_explains():
    script = Path(sysconfig.get_path("scripts")) / "regroup"
    done = subprocess.run([script, "data", "check", "digits", "nope"], text=True, capture_output=True, timeout=600)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == f"digits digest: {load_data('digits').digest}"
    assert re.fullmatch(r"error: no data set is called 'nope'; there are digits, .*\n", done.stderr)


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "regroup_lib", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"regroup \d+\.\d+\.\d+\n", done.stdout)
