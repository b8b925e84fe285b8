"""Every command in a page, the README or a help text runs as written; long ones with fewer seeds and epochs."""

import re
import runpy
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import typer
from PIL import Image
from sklearn.datasets import load_digits

from regroup_lib.cli import app, main
from regroup_lib.data import load
from regroup_lib.data.dataset import DataError
from regroup_lib.runs.own import plan
from regroup_lib.runs.saved import fit_model

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]
PAGES += sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORTER = {
    "regroup fit photos": ["--epochs", "1", "--seeds", "0"],
    "regroup fit patients.csv": ["--estimator", "logreg", "--seeds", "0"],
    "regroup results check": ["--profile", "paper"],
}


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


def documented(*programs):
    """Return (where, command) for the commands of some programs, each command once; default: all."""
    found = {}
    for where, command in [*page_commands(), *help_examples()]:
        found.setdefault(command.removeprefix(".venv/bin/"), where)
    return [(where, command) for command, where in found.items() if not programs or command.split()[0] in programs]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Return a function that calls a program in this process and an empty directory: exit code and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path / "data"))  # nothing is written beside the real data

    def called(program, *arguments):
        monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        with pytest.raises(SystemExit) as ended:
            program()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out + printed.err

    return called


@pytest.fixture
def own_data(tmp_path, request):
    """Write the files that the examples name: a folder of images and a table."""
    digits = load_digits(as_frame=True)
    for digit, images in ((0, 50), (1, 25)):
        target = tmp_path / "photos" / ("sound", "defect")[digit]
        target.mkdir(parents=True)
        for i, scan in enumerate(digits.images[digits.target == digit][:images]):
            Image.fromarray((scan * 15).astype(np.uint8)).save(target / f"{i}.png")
    rows = digits.data.iloc[:300, 2:8].assign(outcome=np.where(digits.target[:300] == 3, "ill", "well"))
    rows.to_csv(tmp_path / "patients.csv", index=False)
    rows.to_csv(tmp_path / "new-patients.csv", index=False)
    if "regroup predict" not in request.node.name:  # the other examples save a model themselves
        return
    planned = plan(tmp_path / "patients.csv", positive="ill", estimators=["logreg"], seeds=[0])
    fit_model(planned.specs[1], planned.own).save(tmp_path / "model")


def test_the_pages_and_the_help_show_commands():
    assert len(page_commands()) >= 8
    assert len(help_examples()) >= 6
    assert {command.split()[0] for _, command in documented()} <= {"regroup", "make", "python", "dask", "uv"}


@pytest.mark.parametrize(("where", "command"), documented())
def test_every_shell_reads_a_documented_command_alike(where, command):
    """An interactive zsh takes brackets for a pattern and a comment for arguments, fish has other patterns."""
    outside_quotes = re.sub("'[^']*'", "", command)
    assert not re.search(r"[][*?{}()<>|&;!$`\"\\#~^]", outside_quotes), f"{where}: {command}"


@pytest.mark.parametrize(("where", "command"), documented("regroup"))
def test_a_documented_command_runs_as_written(where, command, tmp_path, call, own_data, monkeypatch):
    def no_network(name, **options):
        raise DataError(f"{name}: no network")

    monkeypatch.setattr(load, "fetch_data", no_network)
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: None)  # the parameters are checked before
    words = shlex.split(command)
    words += next((more for start, more in SHORTER.items() if command.startswith(start)), [])
    if "--scheduler" in words or ("paper" in words and words[1] == "sweep" and "--dry-run" not in words):
        words.append("--dry-run")  # nobody is at that address; hours on a GPU
    if words[1] in ("results", "sweep"):  # of the committed records
        (tmp_path / "results").symlink_to(ROOT / "results")  # where they are whole nothing is written
    code, output = call(main, *words)
    if "cifar10" in words:
        assert code == 0 or output.startswith("error: ")  # where the data are not here
    else:
        assert code == 0, output


@pytest.mark.parametrize(("where", "command"), documented("python", "dask"))
def test_a_program_that_takes_hours_has_the_options_that_are_documented(where, command, call):
    name, first, *rest = shlex.split(command)
    if name == "python":
        code, printed = call(lambda: runpy.run_path(str(ROOT / first), run_name="__main__"), first, "--help")
    else:
        (dask,) = entry_points(group="console_scripts", name="dask")
        code, printed = call(dask.load(), name, first, "--help")
    assert code == 0
    assert all(option in printed for option in rest if option.startswith("--"))


def test_programs_outside_the_project_know_what_is_documented(tmp_path):
    """The targets of make run this test, among others: only their commands are looked at."""
    made = [word for _, command in documented("make") for word in shlex.split(command)[1:]]
    commands = [(["make", "-n", "-C", ROOT, *made], [".venv/bin"])]
    for _, command in documented("uv"):
        words = shlex.split(command)
        program = [Path(sys.executable).parent / words[0], *words[1:3], "--help"]
        commands.append((program, [word for word in words if word.startswith("--")]))
    for program, expected in commands:
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True)
        assert all(word in done.stdout + done.stderr for word in expected)
