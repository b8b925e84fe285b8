"""The package's surface: every name is there, and loads no more than it needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import regroup_lib as rg
from regroup_lib.runs.methods import METHODS

# The names that other people's code relies on.
SURFACE = (
    """Dataset Record RegroupClassifier Regrouping Spec aggregate cluster_counts evaluate load_data losses run sweep"""
)
STEPS = """
import sys
def loaded():
    return [m for m in ("torch", "sklearn", "pandas", "matplotlib") if m in sys.modules]
import regroup_lib as rg
print("import:", *loaded())
rg.RegroupClassifier, rg.Regrouping, rg.aggregate, rg.evaluate
print("scikit-learn:", *loaded())
rg.losses.FocalLoss()
print("losses:", *loaded())
"""


def test_the_surface_is_complete_and_each_name_exists():
    assert set(rg.__all__) >= set(SURFACE.split())
    for name in rg.__all__:
        assert getattr(rg, name) is not None
        assert name in dir(rg)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'regroup_lib' has no attribute 'Regroup'"):
        rg.Regroup  # noqa: B018


def test_heavy_packages_are_loaded_where_they_are_used():
    output = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True).stdout
    loaded = dict(line.split(":") for line in output.splitlines())
    assert loaded["import"].split() == []
    assert "torch" not in loaded["scikit-learn"].split()
    assert "torch" in loaded["losses"].split()


def test_the_examples_of_the_page_for_users_run_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes a table
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path / "results"))
    page = Path(__file__).resolve().parents[1] / "book" / "use.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names = {}
    exec(compile("\n".join(blocks), str(page), "exec"), names)
    assert len(names["comparison"].table) == 5
    assert "by chance" in names["comparison"].recommendation.text
    assert names["ap"]["regrouped"] > names["ap"]["plain"]  # the page says so where it can help
    assert "clusters of" in names["diagnosis"].text
    assert names["scores"].shape == (1797, 2)
    assert names["result"]["average_precision"]["1"] > 0.9


def test_the_examples_of_the_guide_for_contributors_run_as_written(tmp_path, monkeypatch):
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path / "data"))
    page = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    names = {}
    try:
        exec(compile("\n".join(blocks), str(page), "exec"), names)
    finally:
        METHODS.pop("rg-focal-ros", None)
    assert 0 < names["record"].metrics["max"]["test"]["summary"]["average_precision"] <= 1
    assert names["features"].splits["train"].shape == (1257, 16)
    assert names["mine"].class_counts() == names["digits"].class_counts()
