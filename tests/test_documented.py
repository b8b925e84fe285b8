"""Every command that a page, the README or a help text shows, run as written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from sklearn.datasets import load_digits

from regroup_lib.cli import app

DIGITS = load_digits()

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]


def page_commands():
    """Return (page, command) of each line after a dollar sign in a console block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S):
            lines = re.findall(r"^\$ (.*)$", block, flags=re.M)
            found += [(page.name, re.sub(r"\s{2,}#.*$", "", line).strip()) for line in lines]
    return found


def help_examples(command=None, name="regroup"):
    """Return (command, example) of each example in the help of a command and of those below it."""
    command = typer.main.get_command(app) if command is None else command
    found = []
    for part in re.findall(r"Examples?: (.*?)(?:\n\n|\Z)", command.help or "", flags=re.S):
        found += [(name, " ".join(example.split())) for example in part.split(";")]
    for sub in getattr(command, "commands", {}).values():
        found += help_examples(sub, f"{name} {sub.name}")
    return found


def documented():
    """Return (where, command), each command once."""
    found = {}
    for where, command in [*page_commands(), *help_examples()]:
        found.setdefault(command.removeprefix(".venv/bin/"), where)
    return [(where, command) for command, where in found.items()]


def run(command, cwd):
    """Run a command as a shell would, the project's own `regroup` first; return its exit code and output."""
    settings = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "REGROUP_RESULTS": str(cwd / "results"),
        "OMP_NUM_THREADS": "1",
        "REGROUP_DATA": str(cwd / "data"),  # nothing that is here already is fetched again
    }
    done = subprocess.run(
        command, shell=True, cwd=cwd, env=os.environ | settings, capture_output=True, text=True, timeout=600
    )
    return done.returncode, done.stdout + done.stderr


def make_own_data(folder):
    """Write the files that examples name: a folder of images and a table."""
    for digit, images in ((0, 50), (1, 25)):
        target = folder / "photos" / ("sound", "defect")[digit]
        target.mkdir(parents=True)
        for i, row in enumerate(DIGITS.data[digit == DIGITS.target][:images]):
            Image.fromarray((row.reshape(8, 8) * 15).astype(np.uint8)).save(target / f"{i}.png")
    rows = pd.DataFrame(DIGITS.data[:300, 2:8]).assign(outcome=np.where(DIGITS.target[:300] == 3, "ill", "well"))
    rows.to_csv(folder / "patients.csv", index=False)


def make_data_directory(folder):
    """Write something under each name that examples pack."""
    for name in ("cifar10.npz", "cifar100.npz", "ham10000/a.jpg", "encoders/a.onnx", "features/cifar100-a.npz"):
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_text(name)


def test_the_pages_and_the_help_show_commands():
    assert len(page_commands()) >= 8
    assert len(help_examples()) >= 6


@pytest.mark.parametrize(("where", "command"), documented())
def test_a_documented_command_runs_as_written(where, command, tmp_path):
    name, *words = shlex.split(command)
    if name == "make":
        # The targets run this test, among others: only what they would do is looked at.
        code, output = run(f"make -n -C {ROOT} {shlex.join(words)}", tmp_path)
        assert code == 0, output
        assert ".venv/bin" in output
        return
    if name == "python":  # a benchmark: minutes to hours
        code, output = run(f"{sys.executable} {ROOT / words[0]} --help", tmp_path)
        assert code == 0, output
        assert all(option in output for option in words[1:] if option.startswith("--"))
        return
    if name == "dask":  # it would serve until it is stopped
        code, output = run(f"dask {words[0]} --help", tmp_path)
        assert code == 0, output
        assert all(option in output for option in words[1:] if option.startswith("--"))
        return
    assert Path(name).name == "regroup", f"{where}: {command}"
    if (
        words[:2] in (["data", "fetch"], ["data", "check"]) and "cifar10" in words
    ):  # no network, or no data: said in one line
        code, output = run(f"regroup {shlex.join(words)}", tmp_path)
        assert code in (0, 1), output
        assert code == 0 or output.startswith("error:")
        assert "Traceback" not in output
        return
    # Nobody is at that address; hours on a GPU.
    if "--scheduler" in words or ("paper" in words and "--dry-run" not in words):
        words.append("--dry-run")
    if words[:2] in (["data", "pack"], ["data", "unpack"]):
        make_data_directory(tmp_path)
    if words[:2] == ["data", "unpack"]:
        assert run(f"regroup data pack {words[2]}", tmp_path)[0] == 0
    make_own_data(tmp_path)
    if words[0] in ("results", "sweep"):  # of the committed records
        (tmp_path / "results").symlink_to(ROOT / "results")  # where they are whole nothing is written
    if words[:2] == ["book", "run"]:  # it finds the book from the package, the results stay here
        words += ["--output", str(tmp_path / "executed.ipynb")]
    code, output = run(f"regroup {shlex.join(words)}", tmp_path)
    assert code == 0, output
