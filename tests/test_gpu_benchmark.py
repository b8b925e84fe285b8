"""The benchmark for a GPU, at the size for a machine without one."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch):
    """Return the script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("gpu")


def test_one_command_measures_peak_and_both_loops_and_prints_one_table(gpu, tmp_path, monkeypatch, capsys):
    output = tmp_path / "gpu.json"
    monkeypatch.setitem(gpu.AT_ONCE, True, (1,))  # each is the start of a process
    options = ["--tiny", "--target", "1", "--short", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    gpu.main()
    printed, result = capsys.readouterr().out, json.loads(output.read_text())
    rows = result["rows"]
    loops = [f"{loop}, {size} px" for size in (8, 32) for loop in ("plain loop", "this loop", "evaluation")]
    if torch.cuda.is_available():
        loops += [f"this loop, compiled, {size} px" for size in (8, 32)]
    assert set(rows) == {*loops, "a small run"}
    assert result["peak_flops_per_second"] > 1e9
    for name, row in rows.items():
        assert row["images_per_second"] > 0
        assert name in printed
        if "flops_per_second" in row:
            assert f"{row['flops_per_second'] / result['peak_flops_per_second']:.0%}" in printed
    curves = result["target"]["curves"]
    assert [len(curve) for curve in curves.values()] == [1, 1]
    assert all(0 < ap <= 1 for curve in curves.values() for _, ap in curve)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_full_size_is_refused_in_one_line(gpu, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    with pytest.raises(SystemExit, match="there is no GPU here; --tiny runs the same steps on a CPU"):
        gpu.main()


def test_operations_are_those_that_torchvision_publishes(gpu):
    """3.66 billion multiplications forward at 224 pixels; backward twice as many, but for the image's own gradient."""
    counted = gpu.operations(gpu.Setting("resnet34-224", 224, 2, 2, 2))
    stem = 7 * 7 * 3 * 64 * 112 * 112
    assert counted == pytest.approx(2 * (3 * 3.664e9 - stem), rel=0.01)
