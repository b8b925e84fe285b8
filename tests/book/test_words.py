"""Pages, captions and the sentences that code writes avoid phrases that no American textbook would print."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = ["binary", "discrepancies", "encoders", "explore", "motivating-example", "multiclass", "scorecard"]
CHAPTERS += ["synchronous-learning"]
FORBIDDEN = [
    r"\b(?:one|a) (?:row|line|panel|column|point|marker|label set|class|record|curve) an? \w+",  # "per"
    r"\ba like \w+",
    r"\b(stands?|lies|lie) (at|beside|behind|apart|over)\b",
    r"\bso says\b|\bsays so\b|\ball the same\b|\bone objection has to\b",
    r"\bhas a page\b|\bis left to\b|\bstands? and falls?\b|\bthe number to go by\b",
    r"\b(put|puts) \w+ on one axis\b|\bearns? no word\b|\bclearly (higher|lower) on 0\b",
    r"\bgives? back its\b|\bwent through JPEG\b",
    r"\b(C\d+|page|chapter|figure|table) (finds|says who|never looks)\b",
]


def sentences(chapter):
    """Return what a reader of a notebook reads: Markdown cells, captions and alternative texts."""
    cells = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4).cells
    found = [cell.source for cell in cells if cell.cell_type == "markdown"]
    for cell in cells:
        shown = cell.metadata.get("mystnb", {})
        found += [shown.get("figure", {}).get("caption", ""), shown.get("image", {}).get("alt", "")]
    return "\n\n".join(found)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_phrase_is_translated_word_for_word(chapter):
    module = ROOT / "book" / "regroup_book" / "chapters" / f"{chapter.replace('-', '_')}.py"
    text = sentences(chapter) + (module.read_text(encoding="utf-8") if module.is_file() else "")
    found = re.finditer("|".join(FORBIDDEN), text, flags=re.IGNORECASE)
    assert [text[max(0, m.start() - 40) : m.end() + 40] for m in found] == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_begins_in_short_and_ends_with_take_aways_and_an_exercise_that_is_folded(chapter):
    cells = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4).cells
    assert re.search(r"^```\{(glue\} in_short|admonition\} In short)", cells[0].source, flags=re.M)
    (end,) = (i for i, cell in enumerate(cells) if "## Take-aways" in cell.source)
    take_aways, exercise = cells[end].source.split("## Take-aways")[1].split("## Exercise")
    assert take_aways.count("\n- ") == 3
    assert exercise.strip()
    assert "hide-cell" in cells[end + 1].metadata.tags
    for cell in cells:
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            assert f"{{numref}}`{figure['name']}`" in sentences(chapter), "a figure that no sentence announces"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_plumbing_is_not_shown(chapter):
    cells = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4).cells
    for cell in cells:
        if cell.cell_type == "code" and re.search(r"sortable\(|Markdown\(|glue\(|plt\.", cell.source):
            assert set(cell.metadata.get("tags", [])) & {"hide-input", "remove-input", "remove-cell", "hide-cell"}
