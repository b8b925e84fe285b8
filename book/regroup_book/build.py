"""The book: execute its notebooks, check their parameters, render the pages."""

from __future__ import annotations

import ast
import base64
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import yaml

from regroup_book.publish import BookError, repository, write_config, write_launchable, write_pdf
from regroup_lib.files import checkout

if TYPE_CHECKING:
    from regroup_lib.runs.records import Record


SMOKE_PARAMETERS = {"profile": "smoke", "seeds": [0, 1]}
BUILD_PARAMETERS = {"profile": "cpu", "seeds": [0, 1, 2]}
N_KERNELS = min(os.cpu_count() or 1, 4)  # at a time; each takes about a gigabyte


def book_root(start: str | Path | None = None) -> Path:
    """Return the directory that holds ``_config.yml`` and ``notebooks/``, found by `files.checkout`."""
    found = checkout(start)
    if found is None:
        looked_for, place = "(_config.yml, book/_toc.yml, notebooks/)", Path(start or ".").resolve()
        raise BookError(f"no book {looked_for} in or above {place}; call it from the checkout")
    return found


def chapters() -> list[str]:
    """Return the names of the notebooks, in the order of ``book/_toc.yml``, others last."""
    folder, order = book_root() / "notebooks", _pages()
    names = sorted(path.stem for path in folder.glob("*.ipynb"))
    if not names:
        raise BookError(f"there is no notebook in {folder}")
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _pages() -> list[str]:
    """Return the files in ``book/_toc.yml`` below its root."""
    toc = yaml.safe_load((book_root() / "book" / "_toc.yml").read_text(encoding="utf-8"))
    return [entry["file"] for part in toc["parts"] for entry in part["chapters"]]


def notebook_parameters(path: str | Path) -> dict[str, Any]:
    """Return names and defaults of a notebook's parameters, in the order of its cell.

    One cell has the tag ``parameters``, and only assignments of literals.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{path} has {len(cells)} cells tagged 'parameters'; expected one")
    found: dict[str, Any] = {}
    for statement in ast.parse(cells[0].source).body:
        try:
            targets = [statement.target] if isinstance(statement, ast.AnnAssign) else statement.targets
            found |= {target.id: ast.literal_eval(statement.value) for target in targets}
        except (AttributeError, TypeError, ValueError):
            line = ast.unparse(statement)
            raise ValueError(f"{path}: the cell 'parameters' may only assign literals to names, not {line!r}") from None
    return found


def check_parameters(name: str, parameters: Mapping[str, Any]) -> Path:
    """Check that a chapter exists and takes these parameters; return its notebook.

    A value must be of the same kind as its default (text, number, list, truth value).
    """
    if name not in chapters():
        raise ValueError(f"no chapter is called {name!r}; there are {', '.join(chapters())}")
    path = book_root() / "notebooks" / f"{name}.ipynb"
    known = notebook_parameters(path)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(f"chapter {name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    for key, value in parameters.items():
        expected, given = _kind(known[key]), _kind(value)
        if "nothing" not in (expected, given) and expected != given:
            raise ValueError(f"chapter {name}: {key} is {value!r}, {given}; expected {expected} like {known[key]!r}")
    if "seeds" in parameters:
        check_seeds(parameters["seeds"])
    return path


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds without which no interval exists; every chapter calls this before anything runs."""
    whole = isinstance(seeds, list | tuple) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or len(set(seeds)) < max(2, len(seeds)):
        expected = "two or more different whole numbers, like [0, 1], because an interval needs two runs"
        raise ValueError(f"seeds is {seeds!r}; expected {expected}")


def _kind(value: Any) -> str:
    kinds = {bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list", tuple: "a list"}
    return "nothing" if value is None else kinds.get(type(value), type(value).__name__)


def run_chapter(
    name: str, parameters: Mapping[str, Any], *, output: str | Path, environment: Mapping[str, str] | None = None
) -> float:
    """Execute a chapter's notebook with papermill, by this interpreter, and return the seconds that it took.

    The parameters are checked before anything runs (`check_parameters`). The executed notebook is written to `output`,
    even if it fails; its working directory is the caller's. `environment` has variables for the notebook. If it fails,
    the error names the chapter, the cell and the exception.
    """
    path = check_parameters(name, parameters)
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    from regroup_book.kernels import ENVIRONMENT, ForkedKernelManager

    output = Path(output).resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    options = {"kernel_name": "python3", "kernel_manager_class": ForkedKernelManager}
    options["progress_bar"] = sys.stderr.isatty() and multiprocessing.parent_process() is None
    try:
        with patch.dict(os.environ, ENVIRONMENT | dict(environment or {})):
            execute_notebook(path, output, dict(parameters), **options)
    except PapermillExecutionError as error:
        what = f"chapter {name}: cell {error.exec_count} raised {error.ename}: {error.evalue}"
        parts = [what, "\n".join(error.traceback), f"the executed notebook: {output}"]
        raise BookError(_plain("\n\n".join(parts))) from None
    except Exception as error:  # a dead kernel, a timeout, a disk that is full
        raise BookError(f"chapter {name}: {type(error).__name__}: {error}\nthe executed notebook: {output}") from error
    return time.perf_counter() - start


def _plain(text: str) -> str:
    """Return text without the escape sequences that color it in a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def smoke(names: Sequence[str] | None = None) -> dict[str, float]:
    """Execute chapters (default: all) live in profile ``smoke``, in an empty results directory.

    The executed notebooks are written to ``_build/smoke``. Return the seconds of each. If one fails, the error is
    raised after all others have run.
    """
    target = book_root() / "_build" / "smoke"
    names = list(names or chapters())
    for name in names:
        (target / f"{name}.ipynb").unlink(missing_ok=True)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="regroup-smoke-") as results:
        # Several kernels train at once, and more threads than cores would slow all of them down.
        environment = {"REGROUP_RESULTS": results, "OMP_NUM_THREADS": str((os.cpu_count() or 1) // N_KERNELS)}
        seconds = _execute(dict.fromkeys(names, SMOKE_PARAMETERS), target, environment=environment)
    print(f"{len(seconds)} chapters, {time.perf_counter() - begin:.0f} s")
    return seconds


def build() -> Path:
    """Execute every chapter on its records, render the book to ``_build/html``, and return its ``index.html``.

    A notebook that is not in ``book/_toc.yml`` is left out, for example while its records are being made.
    """
    from regroup_book.show import settings_table

    root, listed = book_root(), _pages()
    parameters = {name: build_parameters(name) for name in chapters() if name in listed}
    records = _records_behind(parameters)
    shutil.rmtree(root / "_build" / "html", ignore_errors=True)  # no old page remains if a build fails
    begin = time.perf_counter()
    executed, pages = root / "_build" / "executed", root / "book"
    _execute(parameters, executed)
    start = time.perf_counter()
    for name in parameters:
        _prepare_page(executed / f"{name}.ipynb", pages / f"{name}.ipynb", records.get(name, ()))
    copied = _write_records_page(records, pages / "records.md")
    tasks = ("cifar10-airplane", "cifar100-worm", "ham10000-bcc", "phrasebank-negative")
    (pages / "settings-paper.txt").write_text(settings_table("paper", tasks), encoding="utf-8")
    index = render()
    for record in copied:
        target = index.parent / "records" / record.path.parent.name / record.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record.path, target)
    print(f"pages, {time.perf_counter() - start:.0f} s; in all {time.perf_counter() - begin:.0f} s")
    print(f"the book: {index.as_uri()}")
    return index


def _execute(parameters: Mapping[str, Mapping[str, Any]], folder: Path, **options: Any) -> dict[str, float]:
    """Execute chapters with their parameters into a folder, a few at a time; return the seconds that each took.

    Each has its own kernel. A chapter waits for a run that another one is making.
    """
    context = multiprocessing.get_context("spawn")
    seconds: dict[str, float] = {}
    failures: list[str] = []
    with ProcessPoolExecutor(max_workers=N_KERNELS, mp_context=context) as pool:
        waiting = {}
        for name, values in parameters.items():
            known = notebook_parameters(book_root() / "notebooks" / f"{name}.ipynb")  # without records there are fewer
            passed = {key: value for key, value in values.items() if key in known}
            waiting[pool.submit(run_chapter, name, passed, output=folder / f"{name}.ipynb", **options)] = name
        try:
            for future in as_completed(waiting):
                name, place = waiting[future], f"{len(seconds) + len(failures) + 1}/{len(waiting)}"
                try:
                    seconds[name] = future.result()
                    print(f"{place} {name}, {seconds[name]:.0f} s", flush=True)
                except BookError as error:
                    failures.append(str(error))
                    print(f"{place} {name} failed", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if failures:
        raise BookError("\n\n".join(failures))
    return {name: seconds[name] for name in parameters}


def render() -> Path:
    """Render ``book/`` to ``_build/html`` with Jupyter Book and return its ``index.html``; a warning is an error.

    In a GitHub workflow the chapters have launch buttons, see `publish.repository`.
    """
    root = book_root()
    address = repository()
    config = "_config.yml"
    if address:
        config = str(write_config(root, address).relative_to(root))
        write_launchable(root, address)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "book"]
    command += ["--config", config, "--path-output", ".", "--all", "-W", "-n", "--keep-going"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    environment = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(command, cwd=root, env=environment, text=True, errors="replace", check=False, **streams)
    log = root / "_build" / "jupyter-book.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(_plain(done.stdout))
    lines = log.read_text().splitlines()
    warnings = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL|SEVERE):", line)]
    index = root / "_build" / "html" / "index.html"
    if done.returncode or warnings or not index.is_file():
        before_traceback = "\n".join(lines).partition("\nTraceback")[0].splitlines()
        shown = "\n".join(warnings or before_traceback[-10:])
        raise BookError(f"Jupyter Book: exit {done.returncode}, {len(warnings)} warnings, all of it in {log}\n{shown}")
    return index


def pdf() -> Path:
    """Print the rendered book to ``regrouping.pdf`` beside its pages, without the list of records."""
    html = book_root() / "_build" / "html"
    # The list of records links to files that the PDF lacks, and would be its longest chapter.
    write_pdf(html, ["index", *(name for name in _pages() if name != "records")], html / "regrouping.pdf")
    return html / "regrouping.pdf"


def build_parameters(name: str) -> dict[str, Any]:
    """Return the parameters with which a chapter is rendered.

    A chapter is shown in profile ``paper`` if all its runs are recorded in it, else in profile ``cpu``. The chapter of
    Table 1 shows the tasks whose runs are all recorded, and names the others.
    """
    from regroup_book.plans import BINARY_TASKS, recorded_profile, recorded_tasks

    profile = recorded_profile(name, seeds=BUILD_PARAMETERS["seeds"])
    parameters = BUILD_PARAMETERS | {"profile": profile}
    if name != "binary":
        return parameters
    recorded = recorded_tasks(**parameters)
    whole = len(recorded) == len(BINARY_TASKS[profile])
    return parameters | ({} if whole or not recorded else {"tasks": recorded})


RECORDS_HEAD = """# Records

**Every number of a chapter comes from the records below.** Each key links to its record: specification, metrics,
curves, seconds, machine, versions and the digest of the data ({doc}`reproduce`). AP is the average precision on the
test set in percent; of two numbers, the first is for max aggregation and the second for sum. Tasks and settings have
the names that commands use ({doc}`data`).
"""


def _records_behind(parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Record]]:
    """Return the records of each chapter that shows any; a missing one is an error."""
    from regroup_book.chapters.ablations import recorded_uses
    from regroup_book.paper_scale import COMPARED_CHAPTERS, both_profiles
    from regroup_book.plans import PLANS, chapter_specs
    from regroup_lib.runs.records import load_record

    specs = {name: chapter_specs(name, **passed) for name, passed in parameters.items() if name in PLANS}
    missing = {name: sum(not spec.path().exists() for spec in group) for name, group in specs.items()}
    lines = [
        f"{name} lacks {n} records: regroup sweep {name} --profile {parameters[name]['profile']}"
        for name, n in missing.items()
        if n
    ]
    if lines:
        raise BookError("\n".join(lines))
    found = {name: [load_record(spec.path()) for spec in group] for name, group in specs.items() if group}
    # These tables show only recorded runs.
    seeds = BUILD_PARAMETERS["seeds"]
    shown = {name: sum(both_profiles(name, seeds).values(), ()) for name in found if name in COMPARED_CHAPTERS}
    if "ablations" in found:
        shown["ablations"] = tuple(recorded_uses(parameters["ablations"]["profile"], seeds).values())
    for name, tables in shown.items():
        more = [record for groups in tables for group in groups.values() for record in group]
        found[name] = list({record.key: record for record in [*found[name], *more]}.values())
    return found


def _write_records_page(records: Mapping[str, Sequence[Record]], page: Path) -> list[Record]:
    """Write the page that lists the records of each chapter, and return them, each once."""
    import nbformat

    from regroup_book.show import record_links

    parts: list[str] = [RECORDS_HEAD]
    listed: dict[str, Record] = {}
    for name, group in records.items():
        # The seeds of a setting follow one another.
        ordered = sorted(group, key=lambda r: (r.spec.task, r.spec.label, r.path.name))
        table = record_links(ordered, known=listed)
        opening = nbformat.read(book_root() / "notebooks" / f"{name}.ipynb", as_version=4).cells[0].source
        title = opening.partition("\n")[0].removeprefix("# ")
        parts.append(f"(records-{name})=\n## {title}\n\n{len(group)} records.\n\n{table}\n")
        listed |= {record.key: record for record in group}
    page.write_text("\n".join(parts), encoding="utf-8")
    return list(listed.values())


def _prepare_page(executed: Path, page: Path, records: Sequence[Record]) -> None:
    """Copy an executed notebook to its page, without the default values of the parameters.

    The runs behind the page are listed at its end, and each figure's caption links that list. The picture of a cell
    tagged ``front-page`` is also written to ``figures/`` beside the page, by its figure's name, because a page
    cannot show a figure that is glued in another one.
    """
    import nbformat

    from regroup_book.show import runs_behind

    notebook = nbformat.read(executed, as_version=4)
    anchor = f"runs-{page.stem}"
    for cell in notebook.cells:
        tags = cell.metadata.setdefault("tags", [])
        if "parameters" in tags:
            tags.append("remove-cell")
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if "front-page" in tags:
            picture = next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {}))
            target = page.parent / "figures" / f"{figure['name']}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(base64.b64decode(picture))
        if figure and records:
            figure["caption"] += f" {{ref}}`Runs <{anchor}>`."
    if records:
        source = f"({anchor})=\n## Runs behind this page\n\n{runs_behind(records)}\n\n"
        source += f"{{ref}}`The records themselves <records-{page.stem}>`."
        notebook.cells.append(nbformat.v4.new_markdown_cell(source))
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("papermill", None)
    page.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, page)
