"""The costs of large data: the arithmetic, from made-up constants, and the benchmark that measures the real ones."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from regroup_book.chapters import scale
from regroup_book.chapters.scale import breaking_points, hours, load_measured, sizes

ROOT = Path(__file__).resolve().parents[2]


def made_up(**changes):
    """Return a machine of round numbers: a pass takes 1 µs per row and 1 ns per row and cluster."""
    passes = [
        {"rows": 1000, "width": 64, "n_clusters": k, "seconds_a_pass": 1000 * (1e-6 + k * 1e-9)}
        for k in (10, 100, 1000)
    ]
    wide = {"rows": 1000, "width": 128, "n_clusters": 100, "seconds_a_pass": 1000 * (1e-6 + 1e-7)}
    speeds = [{"n_classes": k, "images_per_second": 1 / (1e-3 + k * 1e-8)} for k in (2, 1000, 50_000)]
    rows = [
        {"rows": n, "n_clusters": 20, "seconds": 5 + n * 1e-6, "resident_mb": 800.0, "anonymous_mb": 500.0}
        for n in (10**6, 2 * 10**6)
    ]
    values = {
        "width": 64,
        "machine": {"cores": 2, "architecture": "x86_64", "cpu_capability": "AVX512"},
        "numbers": [*passes, wide],
        "rows": rows,
        "regrouping": {"rows": 2 * 10**6, "anonymous_mb": 600.0, "resident_mb": 900.0},
        "heads": speeds,
        "training": {
            "images_per_second": {"resident": 1100.0, "disk": 1000.0},
            "read_images_per_second": 10_000.0,
            "image_bytes": 3072,
        },
        "encoding": {"encoder": "x", "width": 640, "images_per_second": 50.0},
    }
    return values | changes


@pytest.fixture
def measured(tmp_path):
    path = tmp_path / "scale.json"
    path.write_text(json.dumps(made_up()))
    return load_measured(path)


def test_constants_are_found_in_what_was_measured(measured):
    assert measured.seconds_a_row == pytest.approx(1e-6)
    assert measured.seconds_a_row_and_cluster == pytest.approx(1e-9)
    assert measured.seconds_a_class == pytest.approx(1e-8)
    assert measured.bytes_a_row == pytest.approx(50)
    assert measured.bytes_a_second == pytest.approx(30.72e6)
    # Twice as wide was measured to take as long; the rule says twice as long.
    assert scale.wide_error(measured) == (128, pytest.approx(2))


def test_hours_and_bytes_by_hand(measured):
    found = hours(measured, 3.6e6, 1001)
    assert found["encode"] == pytest.approx(3.6e6 / 50 / 3600)
    assert found["cluster"] == pytest.approx(12 * 3.6e6 * (1e-6 + 1001e-9) * 10 / 3600)  # 640 of 64 dimensions
    assert found["train"] == pytest.approx(8 * 3.6e6 * (1e-3 + 1000 * 1e-8) / 3600)
    expected = {"images": 1000 * 3072, "features": 1000 * 640 * 4, "labels": 1000 * 50}
    expected |= {"head": 10 * 256 * 12, "logits": 10 * 256 * 12}
    assert sizes(measured, 1000, 10) == pytest.approx(expected)


def test_at_the_breaking_points_both_sides_are_equal(measured):
    limits = breaking_points(measured, memory_gb=10, smallest_class=500)
    at_cluster = hours(measured, 1e6, limits["cluster"])
    assert at_cluster["cluster"] == pytest.approx(at_cluster["encode"])
    one, other = (hours(measured, 1e6, k)["train"] for k in (1, 1 + limits["head"]))
    assert other == pytest.approx(2 * one)
    assert limits["images"] == pytest.approx(500 * min(limits["head"], limits["cluster"]))
    assert limits["memory"] * measured.bytes_a_row == pytest.approx(10e9)
    assert 3 * limits["side"] ** 2 / measured.bytes_a_second == pytest.approx(measured.seconds_to_train)


def test_the_table_adds_up_and_takes_its_prices(measured):
    table = scale.cost_table(measured, {"a": (10**6, 19), "b": (10**7, 19)}, machine_hour=3, terabyte_month=7)
    number = {name: float(value.replace(",", "")) for name, value in table["b"].items()}
    steps = sum(number[f"{step}, machine hours"] for step in ("encode", "cluster", "train"))
    assert number["machine hours"] == pytest.approx(steps, abs=0.7)
    assert number["price of the machine"] == pytest.approx(3 * steps, abs=2)
    disk = number["images on disk, TB"] + number["features on disk, TB"]
    assert number["price of the disk per month"] == pytest.approx(7 * disk, abs=0.01)


def test_a_file_that_is_missing_or_incomplete_says_how_to_make_it(tmp_path):
    path = tmp_path / "scale.json"
    with pytest.raises(ValueError, match=r"scale\.json does not hold the whole benchmark .*run python benchmarks"):
        load_measured(path)
    for content in ("{", "[]", json.dumps({"rows": []}), json.dumps(made_up(encoding=None))):
        path.write_text(content)
        with pytest.raises(ValueError, match="run python benchmarks"):
            load_measured(path)


def test_the_recorded_measurement_meets_its_targets():
    values = json.loads((ROOT / "benchmarks" / "scale.json").read_text())
    largest = values["rows"][-1]
    assert (largest["rows"], values["width"]) == (20_000_000, 64)
    for found in (largest, values["regrouping"]):
        assert found["resident_mb"] < 2000
    # Time is linear in the rows.
    n, seconds = (np.array([row[name] for row in values["rows"]]) for name in ("rows", "seconds"))
    fitted = np.polyval(np.polyfit(n, seconds, 1), n)
    assert (np.abs(fitted - seconds) < 0.2 * seconds).all()
    assert values["inertia"]["ratio"] < 1.02
    assert values["training"]["ratio"] > 0.8
    limits = breaking_points(load_measured(), memory_gb=16, smallest_class=650)
    assert all(math.isfinite(value) and value > 0 for value in limits.values())


def run_benchmark(*arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / "scale.py"), *map(str, arguments)]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize("parts", [("rows",), pytest.param((), marks=pytest.mark.slow, id="all")])
def test_the_benchmark_in_small(tmp_path, parts):
    output = tmp_path / "scale.json"
    output.write_text(json.dumps({"kept": 1}))
    done = run_benchmark(*parts, "--small", "--output", output)
    assert done.returncode == 0, done.stderr
    values = json.loads(output.read_text())
    assert values["kept"] == 1  # a part that was not measured again stays
    assert [found["rows"] for found in values["rows"]] == [50_000, 100_000]
    if not parts:
        assert {found["width"] for found in values["numbers"]} == {64, 128}
        assert values["encoding"] is None or load_measured(output).bytes_a_second > 0


def test_the_benchmark_names_an_unknown_part():
    done = run_benchmark("nothing")
    assert done.returncode == 2
    assert "there is no part nothing; there are rows, numbers" in done.stderr
