"""The source distribution, and the wheel in an environment of its own: what a user gets from ``pip install``."""

import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
UV = str(Path(sys.executable).with_name("uv"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

USE = """
import json
import regroup_lib as rg
from regroup_lib.data.sources import SOURCES
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

X, digit = load_digits(return_X_y=True)
model = rg.RegroupClassifier(LogisticRegression(max_iter=200), random_state=0).fit(X, digit == 8)
print(json.dumps({
    "where": rg.__file__,
    "pseudo-classes": len(model.regrouping_.parent_),
    "splits": [source.split_file.is_file() for source in SOURCES.values() if source.split_file],
}))
"""


def _run(*command, cwd, **environment):
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _build(source, folder, *options):
    isolated = ["--offline", "--no-build-isolation", "--python", sys.executable]
    _run(UV, "build", "--quiet", *isolated, *options, "--out-dir", str(folder), str(source), cwd=source)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Copy what the distributions are built from, so that nothing is left in the source tree."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("regroup_lib", "pyproject.toml", "README.md", "LICENSE"):
        _run("cp", "-r", str(ROOT / name), str(folder), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """Build the source distribution, and the wheel from that."""
    return next(_build(source, tmp_path_factory.mktemp("dist")).glob("*.whl"))


def test_the_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    direct = next(_build(source, tmp_path, "--wheel").glob("*.whl"))
    assert direct.name == wheel.name
    assert contents(direct) == contents(wheel)
    modules = [path for path in (source / "regroup_lib").rglob("*") if path.suffix in (".py", ".csv")]
    assert {str(path.relative_to(source)) for path in modules} <= set(contents(wheel))


def contents(path):
    """Return the files of a wheel and what is in them."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Return the binaries' folder of a fresh environment: the wheel, and the dependencies of this one by a path."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ["pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q", str(wheel)]
    _run(sys.executable, "-m", *install, cwd=folder)
    site = next(folder.glob("lib/python*/site-packages"))
    here = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    for path in here.iterdir():
        # Not the editable installs of this environment, whose commands the wheel would be asked for.
        if not path.name.startswith(("regroup", "__editable__")) and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    return folder / "bin"


def test_the_wheel_regroups_in_an_environment_of_its_own(environment, tmp_path):
    found = json.loads(_run(str(environment / "python"), "-c", USE, cwd=tmp_path))
    assert Path(found["where"]).is_relative_to(environment.parent)
    assert found["pseudo-classes"] == 1 + -(-1623 // 174)
    assert found["splits"] == [True, True]


def test_the_wheel_brings_the_command(environment, tmp_path):
    assert "digits" in _run(str(environment / "regroup"), "data", "list", cwd=tmp_path)


def test_the_citation_file_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    book = tomllib.loads((ROOT / "book" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == PROJECT["version"] == book["version"]
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {PROJECT['version']} - {citation['date-released']}\n" in changelog


@pytest.mark.slow
def test_the_wheel_installs_with_its_dependencies_from_the_registry(wheel, tmp_path):
    python = tmp_path / "fresh" / "bin" / "python"
    _run(UV, "venv", "--python", sys.executable, str(tmp_path / "fresh"), cwd=tmp_path)
    _run(UV, "pip", "install", "--quiet", "--python", str(python), f"{wheel}[runs]", cwd=tmp_path)
    _run(UV, "pip", "check", "--python", str(python), cwd=tmp_path)
    assert json.loads(_run(str(python), "-c", USE, cwd=tmp_path))["splits"] == [True, True]
