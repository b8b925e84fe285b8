"""Pages, captions, docstrings and messages avoid phrases that no American textbook would print."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4).cells for path in sorted(ROOT.glob("notebooks/*.ipynb"))}
OTHERS = ("*.md", "book/*.md", "regroup_lib/**/*.py", "book/regroup_book/**/*.py")
FORBIDDEN = [
    r"\b(?:one|an?) (?:row|line|panel|column|point|marker|label set|class|record|curve|run) an? \w+",  # "per"
    r"\b(?:images|pixels|points|seconds|µs) an? (?:second|step|side|run|row|epoch)\b|\ba like \w+",
    r"\b(?:negatives|one|runs|scores|sort|tree|k-means) an? (?:positive|class|rule|round|lesion|seed|sample)\b",
    r"\bstands? (?:at|beside|behind|apart|over)\b|\blies? (?:beside|behind|apart|over)\b|\bstands? and falls?\b",
    r"\b(?:says|tells) so\b|\bso says\b|\ball the same\b|\bone objection has to\b|\bto the bit\b",
    r"\bhas a page\b|\bis left to\b|\bthe number to go by\b|\bgives? back its\b|\bwent through JPEG\b",
    r"\bputs? \w+ on one axis\b|\bearns? no word\b|\bclearly (?:higher|lower) on 0\b",
    r"\b(?:C\d+|page|chapter|figure|table) (?:finds|says who|never looks)\b",
]


def sentences(cells):
    """Return what a reader of a notebook reads: Markdown cells, captions and alternative texts."""
    shown = [cell.metadata.get("mystnb", {}) for cell in cells]
    labels = [s.get("figure", {}).get("caption", "") + "\n\n" + s.get("image", {}).get("alt", "") for s in shown]
    return "\n\n".join([cell.source for cell in cells if cell.cell_type == "markdown"] + labels)


def test_no_phrase_is_translated_word_for_word():
    texts = {name: sentences(cells) for name, cells in NOTEBOOKS.items()}
    texts |= {str(path): path.read_text(encoding="utf-8") for kind in OTHERS for path in ROOT.glob(kind)}
    for name, text in texts.items():
        words = re.sub(r"\s+(?:# )?", " ", text)
        found = re.finditer("|".join(FORBIDDEN), words, flags=re.IGNORECASE)
        assert [words[max(0, m.start() - 30) : m.end() + 30] for m in found] == [], name


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_a_chapter_begins_in_short_ends_with_take_aways_and_an_exercise_and_hides_its_plumbing(chapter):
    cells = NOTEBOOKS[chapter]
    if chapter != "your-data":  # a tool, which ends with advice
        assert re.search(r"In short|\{glue\} in_short|summary_box", " ".join(cell.source for cell in cells[:5]))
        (end,) = (i for i, cell in enumerate(cells) if "## Take-aways" in cell.source)
        take_aways, exercise = cells[end].source.split("## Take-aways")[1].split("## Exercise")
        assert take_aways.count("\n- ") == 3
        assert exercise.strip()
        assert "hide-cell" in cells[end + 1].metadata.tags
    for cell in cells:
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            assert f"{{numref}}`{figure['name']}`" in sentences(cells), "a figure that no sentence announces"
        plumbing = cell.cell_type == "code" and re.search(r"sortable\(|Markdown\(|glue\(|plt\.", cell.source)
        hidden = {"hide-input", "remove-input", "remove-cell", "hide-cell"} & set(cell.metadata.get("tags", []))
        assert hidden or not plumbing or chapter in ("tutorial", "your-data")  # whose readers change the code
