"""Every command that a page, the README or a help text shows, run as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from sklearn.datasets import load_digits

from regroup_lib.cli import app, main

DIGITS = load_digits()
SCRIPTS = Path(sys.executable).parent

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]
PAGES += sorted((ROOT / "notebooks").glob("*.ipynb"))


def text_of(page):
    """Return a page's Markdown."""
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    cells = nbformat.read(page, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def page_commands():
    """Return (page, command) of each line after a dollar sign in a console block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```console\n(.*?)^```", text_of(page), flags=re.M | re.S):
            found += [(page.name, line) for line in re.findall(r"^\$ (.*)$", block, flags=re.M)]
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


def prints(*command, cwd):
    """Run a program that must succeed, and return what it prints."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def regroup(tmp_path, monkeypatch, capsys):
    """Return a function that runs `regroup` in this process, in an empty directory: exit code and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path / "data"))  # nothing that is here already is fetched again

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["regroup", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out + printed.err

    return command


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
def test_every_shell_reads_a_documented_command_alike(where, command):
    """An interactive zsh takes brackets for a pattern and a comment for arguments, fish has other patterns."""
    outside_quotes = re.sub("'[^']*'", "", command)
    assert not re.search(r"[][*?{}()<>|&;!$`\"\\#~^]", outside_quotes), f"{where}: {command}"


@pytest.mark.parametrize(("where", "command"), documented())
def test_a_documented_command_runs_as_written(where, command, tmp_path, regroup):
    name, *words = shlex.split(command)
    if name == "make":
        # The targets run this test, among others: only what they would do is looked at.
        assert ".venv/bin" in prints("make", "-n", "-C", ROOT, *words, cwd=tmp_path)
        return
    if name in ("python", "dask", "uv"):  # minutes to hours, until it is stopped, or with a network
        paths = {"python": [sys.executable, ROOT / words[0]], "dask": [SCRIPTS / name, words[0]]}
        printed = prints(*paths.get(name, [SCRIPTS / name, *words[:2]]), "--help", cwd=tmp_path)
        assert all(option in printed for option in words[1:] if option.startswith("--"))
        return
    assert name == "regroup", f"{where}: {command}"
    if words[:2] in (["data", "fetch"], ["data", "check"]) and "cifar10" in words:
        code, output = regroup(*words)
        assert code == 0 or (code == 1 and output.startswith("error:"))  # no network, or no data
        return
    # Nobody is at that address; hours on a GPU.
    if "--scheduler" in words or ("paper" in words and "--dry-run" not in words):
        words.append("--dry-run")
    if words[:2] in (["data", "pack"], ["data", "unpack"]):
        make_data_directory(tmp_path)
    if words[:2] == ["data", "unpack"]:
        assert regroup("data", "pack", words[2])[0] == 0
    make_own_data(tmp_path)
    if words[0] in ("results", "sweep"):  # of the committed records
        (tmp_path / "results").symlink_to(ROOT / "results")  # where they are whole nothing is written
    code, output = regroup(*words)
    assert code == 0, output
