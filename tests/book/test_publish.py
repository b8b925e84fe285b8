"""Launch buttons where a repository is known, notebooks that install the library, the book as one PDF."""

import subprocess
import sys

import nbformat
import pytest
from pypdf import PdfReader

from regroup_book import build, publish

ADDRESS = "https://github.com/someone/some.book"
TOC_HEAD = "format: jb-book\nroot: index\nparts:\n- caption: all\n  chapters:\n"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"GITHUB_REPOSITORY": ""}, None),
        ({"GITHUB_REPOSITORY": "someone/some.book"}, ADDRESS),
        ({"GITHUB_REPOSITORY": "a/b", "GITHUB_SERVER_URL": "https://git.example.org/"}, "https://git.example.org/a/b"),
    ],
)
def test_repository_comes_from_the_workflow(environment, expected):
    assert publish.repository(environment) == expected


@pytest.mark.parametrize("name", ["book", "a/b/c", "a/b c"])
def test_repository_of_another_form_is_refused(name):
    with pytest.raises(ValueError, match=r"GITHUB_REPOSITORY is .* expected owner/name"):
        publish.repository({"GITHUB_REPOSITORY": name})


@pytest.fixture
def small_book(tmp_path, monkeypatch):
    """Go to a book of one page and one chapter, not rendered."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_config.yml").write_text(
        "title: Small\nonly_build_toc_files: true\nexecute: {execute_notebooks: off}\n"
    )
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text(TOC_HEAD + "  - file: good\n")
    (tmp_path / "book" / "index.md").write_text("# Small\n\nSee {doc}`good` and [elsewhere](https://example.org).\n")
    cells = [nbformat.v4.new_markdown_cell("# Good"), nbformat.v4.new_code_cell("print(6 * 7)")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    for folder in ("notebooks", "book"):
        nbformat.write(notebook, tmp_path / folder / "good.ipynb")
    return tmp_path


@pytest.mark.parametrize("known", [True, False])
def test_chapters_have_launch_buttons_where_the_repository_is_known(small_book, monkeypatch, known):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    if known:
        monkeypatch.setenv("GITHUB_REPOSITORY", "someone/some.book")
        monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    page = build.render().with_name("good.html").read_text()
    chapter = "notebooks/good.ipynb"
    assert (f"https://mybinder.org/v2/gh/someone/some.book/launch?urlpath=lab/tree/{chapter}" in page) == known
    assert (f"https://colab.research.google.com/github/someone/some.book/blob/launch/{chapter}" in page) == known
    assert (small_book / "_build" / "launch" / chapter).exists() == known
    assert "mybinder" not in (small_book / "_config.yml").read_text()


def test_launchable_notebook_installs_the_library_where_it_is_missing(small_book):
    (path,) = publish.write_launchable(small_book, ADDRESS)
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "code"]
    condition, command = cells[1].source.split("\n    ")
    assert command == f'%pip install -q "git+{ADDRESS}" "git+{ADDRESS}#subdirectory=book"'
    for name, missing in (("regroup_book", False), ("no_such_library", True)):
        found = {}
        exec(f"{condition.replace('regroup_book', name)}\n    missing = True", found)  # our own text
        assert found.get("missing", False) == missing
    assert nbformat.read(small_book / "notebooks" / "good.ipynb", as_version=4).cells[1].source == "print(6 * 7)"


@pytest.mark.browser
@pytest.mark.usefixtures("browser")
def test_pdf_has_all_pages_with_bookmarks_and_links_within(small_book, monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    build.render()
    command = [sys.executable, "-c", "from regroup_lib.cli import main; main()", "book", "pdf"]
    subprocess.run(command, cwd=small_book, check=True)
    reader = PdfReader(small_book / "_build" / "html" / "regrouping.pdf")
    assert [entry.title for entry in reader.outline] == ["Small", "Good"]
    good = reader.get_destination_page_number(reader.outline[1])
    text = [page.extract_text() for page in reader.pages]
    assert "elsewhere" in text[0]
    assert "6 * 7" in text[good]
    links = [link.get_object() for page in reader.pages for link in page.get("/Annots", ())]
    inside = [link["/Dest"][0].get_object() for link in links if "/Dest" in link and not isinstance(link["/Dest"], str)]
    assert reader.pages[good].get_object() in inside
    outside = {str(link["/A"]["/URI"]) for link in links if "/URI" in link.get("/A", {})}
    assert "https://example.org/" in outside
    assert not any("localhost" in address for address in outside)


def test_pdf_of_a_book_that_is_not_rendered_says_what_to_do(small_book):
    with pytest.raises(build.BookError, match="has no index, good; run `regroup book build` first"):
        build.pdf()
