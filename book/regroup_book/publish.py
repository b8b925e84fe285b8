"""Launch buttons, notebooks that install the library first, and the book as one PDF."""

from __future__ import annotations

import functools
import http.server
import io
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import yaml

from regroup_lib.files import atomic_path

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from pypdf import PdfWriter


class BookError(RuntimeError):
    """A chapter raised, a record is missing, or the pages could not be rendered; the message says which."""


LAUNCH_BRANCH = "launch"  # the sources, with the notebooks of `write_launchable`
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"]


def repository(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the address of the repository that a workflow runs in, None elsewhere.

    It is read from ``GITHUB_REPOSITORY`` (owner/name) and ``GITHUB_SERVER_URL``.
    """
    name = environment.get("GITHUB_REPOSITORY")
    if not name:
        return None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"GITHUB_REPOSITORY is {name!r}; expected owner/name, or leave it unset: no launch buttons")
    return f"{environment.get('GITHUB_SERVER_URL', 'https://github.com').rstrip('/')}/{name}"


def write_config(root: Path, address: str) -> Path:
    """Write the book's configuration with launch buttons for a repository to ``_build/``, and return its path."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")) or {}
    config["repository"] = {"url": address, "path_to_book": "notebooks", "branch": LAUNCH_BRANCH}
    buttons = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
    config["launch_buttons"] = config.get("launch_buttons", {}) | buttons
    if urlsplit(address).netloc == "github.com":  # Colab opens notebooks from there alone
        config["launch_buttons"]["colab_url"] = "https://colab.research.google.com"
    path = root / "_build" / "_config.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return path


def write_launchable(root: Path, address: str) -> list[Path]:
    """Write the notebooks to ``_build/launch/notebooks/`` with a first cell that installs the library if it is missing.

    `address` is that of the repository from which it is installed.
    """
    import nbformat

    source = (
        "import importlib.util\n\n"
        'if importlib.util.find_spec("regroup_book") is None:\n'
        f'    %pip install -q "git+{address}" "git+{address}#subdirectory=book"'
    )
    target = root / "_build" / "launch" / "notebooks"
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.insert(1, nbformat.v4.new_code_cell(source, id="install"))  # below the title
        nbformat.write(notebook, target / path.name)
        written.append(target / path.name)
    return written


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder to this machine only, and yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Suppress the log."""

    server = http.server.ThreadingHTTPServer(("localhost", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def write_pdf(html: Path, pages: Sequence[str], target: Path) -> None:
    """Print pages of the rendered book to one PDF file, with a bookmark per page and links between them.

    `html` is the folder with the pages, whose names come in order and without suffix.
    """
    missing = [name for name in pages if not (html / f"{name}.html").is_file()]
    if missing:
        raise BookError(f"{html} has no {', '.join(missing)}; run `regroup book build` first")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise BookError(f"none of {', '.join(BROWSERS)} is installed; the PDF is printed with it")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise BookError("Playwright is not installed; it comes with the extra `book`") from None
    from pypdf import PdfWriter

    writer, first = PdfWriter(), {}
    with served(html) as address, sync_playwright() as playwright:
        # Chromium has no sandbox for root, as in a container; the pages are our own.
        flags = FLAGS + (["--no-sandbox"] if os.geteuid() == 0 else [])
        chromium = playwright.chromium.launch(executable_path=browser, args=flags)
        for name in pages:
            first[f"{address}/{name}.html"] = len(writer.pages)
            _print_page(chromium, f"{address}/{name}.html", writer)
        chromium.close()
        _link_pages(writer, address, first)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as partial:
        writer.write(partial)


def _print_page(chromium: Browser, address: str, writer: PdfWriter) -> None:
    """Append a page with a bookmark once its formulas and charts are drawn."""
    from pypdf import PdfReader

    page = chromium.new_page(viewport={"width": 900, "height": 1200})
    page.goto(address, wait_until="networkidle")
    page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise : null")
    for chart in page.locator("[data-chart]").all():
        chart.locator("svg").wait_for()
    margins = dict.fromkeys(("top", "bottom", "left", "right"), "15mm")
    printed = page.pdf(format="A4", margin=margins, print_background=True, tagged=True)
    title = page.title().split(" — ")[0]
    page.close()
    start = len(writer.pages)
    writer.append(PdfReader(io.BytesIO(printed)), import_outline=False)
    writer.add_outline_item(title, start)


def _link_pages(writer: PdfWriter, address: str, first: Mapping[str, int]) -> None:
    """Redirect links to other pages of the book, and remove links to pages outside the PDF, such as records."""
    from pypdf.generic import ArrayObject, NameObject

    for page in writer.pages:
        kept = ArrayObject()
        for reference in page.get("/Annots", ()):
            link = reference.get_object()
            target = str(link.get("/A", {}).get("/URI", ""))
            if target.startswith(address):
                number = first.get(target.partition("#")[0])
                if number is None:
                    continue
                del link["/A"]
                link[NameObject("/Dest")] = ArrayObject([writer.pages[number].indirect_reference, NameObject("/Fit")])
            kept.append(reference)
        page[NameObject("/Annots")] = kept
