"""The book's machinery on small notebooks, and the book's own notebooks in profile smoke."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import wait_for

from regroup_book import build, plans
from regroup_lib.runs.specs import Spec

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
chapter = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
TOC_HEAD = "format: jb-book\nroot: index\nparts:\n- caption: all\n  chapters:\n"


def write_notebook(path, *sources, parameters='profile = "smoke"\nseeds = [0, 1]\nrecompute = False'):
    """Write a notebook of code cells, the first of them tagged `parameters`."""
    cells = [nbformat.v4.new_code_cell(source) for source in (parameters, *sources)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture
def small_book(tmp_path, monkeypatch):
    """Go to a book of two chapters: `good` prints what it was given, `bad` raises in its third cell."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_config.yml").touch()
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text(TOC_HEAD + "  - file: good\n  - file: page\n  - file: bad\n")
    printed = "import json, os, sys\nprint(json.dumps([profile, seeds, os.environ.get('REGROUP_RESULTS'), sys.prefix]))"
    write_notebook(tmp_path / "notebooks" / "good.ipynb", printed)
    write_notebook(tmp_path / "notebooks" / "bad.ipynb", "before = 1", "raise KeyError('no such record')", "after = 1")
    return tmp_path


def printed_by(path):
    return json.loads(nbformat.read(path, as_version=4).cells[-1].outputs[0].text)


def test_chapters_come_in_the_order_of_the_table_of_contents(small_book):
    write_notebook(small_book / "notebooks" / "aside.ipynb")
    assert build.chapters() == ["good", "bad", "aside"]


def test_book_root_is_found_from_below_and_missed_with_a_message(small_book, tmp_path_factory):
    assert build.book_root(small_book / "notebooks") == small_book
    with pytest.raises(build.BookError, match=r"no book .* in or above"):
        build.book_root(tmp_path_factory.mktemp("empty"))


@pytest.mark.parametrize(
    ("name", "parameters", "match"),
    [
        ("nope", {}, "no chapter is called 'nope'; there are good, bad"),
        ("good", {"epoch": 3}, "chapter good has no parameter epoch; it has profile, seeds, recompute"),
        ("good", {"seeds": 3}, r"seeds is 3, a number; expected a list like \[0, 1\]"),
        ("good", {"recompute": "no"}, "recompute is 'no', text; expected a truth value"),
        *[
            ("good", {"seeds": seeds}, r"seeds is \[.*\]; expected two or more different whole numbers")
            for seeds in ([], [0], [1, 1], [0, "1"], [0, -1], [0, True])
        ],
    ],
)
def test_unknown_chapters_and_parameters_are_refused_before_anything_runs(small_book, name, parameters, match):
    output = small_book / "out.ipynb"
    with pytest.raises(ValueError, match=match):
        build.run_chapter(name, parameters, output=output)
    assert not output.exists()


def test_notebook_parameters_reads_names_and_defaults(tmp_path):
    source = "a = 1\nb: float = -1e-3  # comment\nlong = [\n    'x',\n    'y',\n]\nnothing = None"
    write_notebook(tmp_path / "n.ipynb", parameters=source)
    expected = {"a": 1, "b": -1e-3, "long": ["x", "y"], "nothing": None}
    assert build.notebook_parameters(tmp_path / "n.ipynb") == expected


@pytest.mark.parametrize("source", ["a = 1 + b", "import os", "a, b = 1, 2", "print(1)", "a += 1", "a: int"])
def test_notebook_parameters_refuses_what_papermill_would_misread(tmp_path, source):
    write_notebook(tmp_path / "n.ipynb", parameters=source)
    with pytest.raises(ValueError, match="may only assign literals"):
        build.notebook_parameters(tmp_path / "n.ipynb")


def test_notebook_without_a_parameters_cell_is_refused(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "n.ipynb")
    with pytest.raises(ValueError, match="has 0 cells tagged 'parameters'"):
        build.notebook_parameters(tmp_path / "n.ipynb")


def test_chapter_runs_with_its_parameters_in_this_interpreter(small_book, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", "/nowhere")
    seconds = build.run_chapter(
        "good", {"seeds": [7, 8]}, output=small_book / "out.ipynb", environment={"REGROUP_RESULTS": "elsewhere"}
    )
    assert printed_by(small_book / "out.ipynb") == ["smoke", [7, 8], "elsewhere", sys.prefix]
    assert seconds > 0


def test_failing_chapter_raises_and_keeps_the_notebook(small_book):
    output = small_book / "kept" / "bad.ipynb"
    with pytest.raises(build.BookError) as caught:
        build.run_chapter("bad", {"seeds": [3, 4]}, output=output)
    first, *traceback, last = str(caught.value).splitlines()
    assert first == "chapter bad: cell 4 raised KeyError: 'no such record'"
    assert "----> 1 raise KeyError('no such record')" in traceback
    assert last == f"the executed notebook: {output}"
    kept = nbformat.read(output, as_version=4)
    errors = [out for cell in kept.cells for out in cell.get("outputs", []) if out.output_type == "error"]
    assert [error.ename for error in errors] == ["KeyError"]


def test_chapter_whose_kernel_dies_raises_and_keeps_the_notebook(small_book):
    write_notebook(small_book / "notebooks" / "dies.ipynb", "import os", "os._exit(1)")
    output = small_book / "dies.ipynb"
    with pytest.raises(build.BookError, match="chapter dies: DeadKernelError"):
        build.run_chapter("dies", {}, output=output)
    assert output.exists()


def test_smoke_tries_every_chapter_in_a_fresh_results_directory(small_book, capfd):
    with pytest.raises(build.BookError, match="chapter bad") as caught:
        build.smoke()
    assert "chapter good" not in str(caught.value)
    _, seeds, results, _ = printed_by(small_book / "_build" / "smoke" / "good.ipynb")
    assert seeds == [0, 1]
    assert Path(results).name.startswith("regroup-smoke-")
    assert not Path(results).exists()
    out, err = capfd.readouterr()
    assert sorted(re.sub(r"\d+ s$", "N s", line)[4:] for line in out.splitlines()) == ["bad failed", "good, N s"]
    assert "ERROR" not in err  # a kernel that ends as it should says nothing


def test_build_names_the_sweep_that_makes_missing_records(small_book, empty_results, monkeypatch):
    monkeypatch.setitem(plans.PLANS, "bad", lambda profile, seeds: [Spec(task="digits-0", method="ce")])
    with pytest.raises(build.BookError, match=r"^bad lacks 1 records: regroup sweep bad --profile cpu$"):
        build.build()


def test_build_stops_at_a_failing_chapter_and_leaves_no_old_page(small_book):
    page = small_book / "_build" / "html" / "index.html"
    page.parent.mkdir(parents=True)
    page.touch()
    with pytest.raises(build.BookError, match="chapter bad"):
        build.build()
    assert not page.exists()
    assert not (small_book / "book" / "bad.ipynb").exists()


@pytest.mark.parametrize("broken", [False, True])
def test_build_renders_pages_and_fails_at_a_warning(small_book, broken):
    (small_book / "notebooks" / "bad.ipynb").unlink()
    (small_book / "_config.yml").write_text(
        "title: Small\nonly_build_toc_files: true\nexecute: {execute_notebooks: off}\n"
    )
    (small_book / "book" / "_toc.yml").write_text(TOC_HEAD + "  - file: good\n")
    (small_book / "book" / "index.md").write_text("# Small\n\n" + ("{doc}`no-such-page`\n" if broken else "Text.\n"))
    source = json.loads((small_book / "notebooks" / "good.ipynb").read_text())
    source["cells"].insert(0, {"id": "t", "cell_type": "markdown", "metadata": {}, "source": "# Good"})
    (small_book / "notebooks" / "good.ipynb").write_text(json.dumps(source))
    if broken:
        with pytest.raises(build.BookError, match=r"index\.md:3: WARNING: unknown document"):
            build.build()
    else:
        write_notebook(small_book / "notebooks" / "aside.ipynb", "raise AssertionError('not in the table of contents')")
        index = build.build()
        assert not (index.parent / "aside.html").exists()
        assert index == small_book / "_build" / "html" / "index.html"
        assert "[0, 1, 2]" in (index.parent / "good.html").read_text()


def test_the_readmes_example_runs_as_written(tmp_path):
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'8':" in done.stdout


@chapter
def test_notebook_has_the_parameters_that_the_book_passes(path):
    parameters = build.notebook_parameters(path)
    known = papermill.inspect_notebook(path)
    assert list(known) == list(parameters)
    assert "None" not in {parameter["inferred_type_name"] for parameter in known.values()}
    if path.stem == "tutorial":  # it shows no records
        assert parameters == {"seeds": [0, 1, 2]}
        return
    assert {"profile", "seeds", "recompute"} <= set(parameters)
    assert parameters["profile"] == "smoke"
    for passed in (build.SMOKE_PARAMETERS, build.BUILD_PARAMETERS):
        build.check_parameters(path.stem, passed)


@chapter
def test_notebook_cells_are_short(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 20, cell.source


def executed_in_smoke(path):
    """Return what `regroup book smoke` made of a chapter, if that is newer than all that it was made from."""
    executed = ROOT / "_build" / "smoke" / path.name
    sources = [path, *(ROOT / "regroup_lib").rglob("*.py")]
    whole = executed.is_file() and executed.stat().st_mtime > max(source.stat().st_mtime for source in sources)
    return executed if whole else None


@pytest.fixture(scope="session")
def failures(request):
    """Execute the selected chapters that `make smoke` has not just executed; return what failed."""
    items = [item for item in request.session.items if "failures" in item.fixturenames]
    names = [item.callspec.params["path"].stem for item in items if not executed_in_smoke(item.callspec.params["path"])]
    try:
        if names:
            build.smoke(names=names)
    except build.BookError as error:
        return str(error)
    return ""


@chapter
def test_chapter_runs_in_profile_smoke(path, failures):
    assert f"chapter {path.stem}:" not in failures, failures
    executed = nbformat.read(ROOT / "_build" / "smoke" / path.name, as_version=4)
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert any("image/png" in out.get("data", {}) for cell in cells for out in cell.outputs), "no figure"


def test_the_scorecard_runs_where_there_is_no_record(tmp_path):
    environment = {"REGROUP_RESULTS": str(tmp_path / "results")}
    build.run_chapter("scorecard", build.SMOKE_PARAMETERS, output=tmp_path / "s.ipynb", environment=environment)


SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Go to an empty directory with a notebook that prints how many committed records it finds."""
    monkeypatch.delenv("REGROUP_RESULTS", raising=False)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.chdir(tmp_path)
    count = "from regroup_lib.files import results_directory\nfound = [*results_directory().glob('paper/*/*.json')]"
    write_notebook(tmp_path / "count.ipynb", count, "print('found', len(found))")
    return f"found {len([*(ROOT / 'results').glob('paper/*/*.json')])}"


def test_papermill_alone_finds_the_committed_records_from_anywhere(elsewhere, tmp_path):
    command = [SCRIPTS / "papermill", "count.ipynb", "done.ipynb"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert nbformat.read(tmp_path / "done.ipynb", as_version=4).cells[-1].outputs[0].text.strip() == elsewhere


def answers(port):
    """Tell whether a server of this machine listens."""
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


@pytest.mark.browser
def test_the_tutorial_runs_in_jupyterlab_and_finds_the_committed_records(elsewhere, tmp_path, browser):
    notebook = nbformat.read(ROOT / "notebooks" / "tutorial.ipynb", as_version=4)
    notebook.cells += nbformat.read(tmp_path / "count.ipynb", as_version=4).cells[1:]
    nbformat.write(notebook, tmp_path / "tutorial.ipynb")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=t", "--LabApp.news_url=None"]
    server = subprocess.Popen([SCRIPTS / "jupyter-lab", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        page = browser.new_page()
        wait_for(lambda: answers(port))
        page.goto(f"http://localhost:{port}/lab/tree/tutorial.ipynb?token=t")
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=120_000)
        page.locator(".jp-Cell").first.click()
        for _ in notebook.cells:  # an error in one would stop the rest
            page.keyboard.press("Shift+Enter")
            page.wait_for_timeout(200)
        page.get_by_text(elsewhere, exact=True).wait_for(timeout=300_000)
        page.close()
    finally:
        server.terminate()
        server.wait()
