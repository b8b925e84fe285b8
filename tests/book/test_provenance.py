"""Numbers in the rendered book come from records: two chapters' tables again, cell by cell, from the files."""

import csv
import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup

from regroup_book.differences import precision_difference
from regroup_book.show import task_name
from regroup_lib.runs.records import load_record

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
PAGES = [entry["file"] for part in TOC["parts"] for entry in part["chapters"]]
CHAPTERS = [name for name in PAGES if (ROOT / "notebooks" / f"{name}.ipynb").is_file()]
# What is on their pages: other chapters' records with links of their own, the paper's numbers, a benchmark's.
WITHOUT_RECORDS = ("tutorial", "scorecard", "discrepancies", "scale")
PAPER_TASKS = {"cifar100-worm": "cifar100-worm", "ham10000-bcc": "ham10000-binary", "ham10000-akiec": "ham10000-binary"}

pytestmark = pytest.mark.browser


@functools.cache
def files():
    return {path.stem.rsplit("-", 1)[1]: path for path in (ROOT / "results").glob("*/*/*.json")}


@functools.cache
def raw(key):
    return json.loads(files()[key].read_text(encoding="utf-8"))


@functools.cache
def loaded(key):
    return load_record(files()[key])


@functools.cache
def soup(name):
    return BeautifulSoup((HTML / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def measured(key, split="test", rule="max"):
    """Return what a record measured under a rule; None where it diverged."""
    metrics = raw(key)["metrics"]
    return metrics.get("none", metrics.get(rule))[split] if metrics else None


def precisions(keys, rule="max"):
    found = [measured(key, rule=rule) for key in keys]
    return np.array([100 * f["summary"]["average_precision"] if f else np.nan for f in found])


def spread(values, digits=1):
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def mean_std(number, rule="max"):
    """Return a cell of mean ± standard deviation of a number of what each record measured."""
    return lambda row, table: spread([100 * number(f) if (f := measured(k, rule=rule)) else np.nan for k in row])


def of_class(position):
    return mean_std(lambda found: list(found["average_precision"].values())[position])


def in_paper(measure):
    def cell(row, table):
        spec = raw(row[0])["spec"]
        with (ROOT / "book" / "regroup_book" / "paper_data" / "table1.csv").open(
            encoding="utf-8", newline=""
        ) as stream:
            rows = {(r["task"], r["method"], r["measure"]): r for r in csv.DictReader(stream)}
        number = rows.get((PAPER_TASKS[spec["task"]], spec["method"], measure))
        return f"{float(number['mean']):.1f} ± {float(number['std']):.1f}" if number else ""

    return cell


def over(method):
    """Return a cell of the difference in AP from the row of a method: its mean from the files, its interval checked."""

    def cell(row, table):
        baseline = next(other for other in table if raw(other[0])["spec"]["method"] == method)
        if row == baseline:
            return ""
        found = precision_difference({"a": [loaded(k) for k in row], "b": [loaded(k) for k in baseline]}, "a", "b")
        mean = np.mean(precisions(row)) - np.mean(precisions(baseline))
        assert found.mean == pytest.approx(mean, abs=0.005, nan_ok=True)
        return str(found)

    return cell


def of_profile(profile, cell):
    """Return a cell of the records of one of the two profiles that a row compares."""

    def chosen(keys):
        return tuple(key for key in keys if raw(key)["spec"]["profile"] == profile)

    return lambda row, table: cell(chosen(row), [chosen(keys) for keys in table])


def purity(row, table):
    found = [raw(key)["regrouping"].get("purity") for key in row]
    return "" if None in found else f"{np.mean(found):.2f}"


# What a column holds, by its head.
AP, BA = "average_precision", "balanced_accuracy"
COLUMNS = {
    "BA": mean_std(lambda found: found["summary"][BA]),
    "BA (max)": mean_std(lambda found: found["summary"][BA]),
    "BA (sum)": mean_std(lambda found: found["summary"][BA], "sum"),
    "AP (max)": mean_std(lambda found: found["summary"][AP]),
    "AP (sum)": mean_std(lambda found: found["summary"][AP], "sum"),
    "AP": of_class(1),
    "calibrated AP": mean_std(lambda found: found["summary"]["calibrated_average_precision"]),
    "BA (paper)": in_paper(BA),
    "AP (paper)": in_paper(f"{AP}_positive"),
    "AP − binary": over("ce"),
    "AP − CE": over("ce"),
    "AP − RG": over("rg"),
    "AP gain": lambda row, table: over("ce")(row, table).split(" ")[0],
    "validation AP": lambda row, table: f"{100 * measured(row[0], 'val')['summary'][AP]:.1f}",
    "purity": purity,
    "5-NN": lambda row, table: f"{np.mean([measured(key)['neighbor_accuracy'] for key in row]):.2f}",
    "spread": lambda row, table: f"{np.mean([raw(key)['traces'][-1]['variation'][-1] for key in row]):.2f}",
}
for profile in ("cpu", "paper"):
    COLUMNS[f"AP, {profile}"] = of_profile(profile, COLUMNS["AP (max)"])
    COLUMNS[f"difference, {profile}"] = of_profile(profile, over("ce"))
# Words, and numbers whose tests make the records themselves (test_report.py, test_competition.py).
ELSEWHERE = {"groups", "setting", "chosen", "natural", "settings tried", "images seen", "seconds", "share preparing"}
ELSEWHERE |= {"rank", "ranks by seed", "95% of resamples", "first in", "learned", "recall", "precision"}
ELSEWHERE |= {"smallest class on validation", "another one chosen in"}


def results_tables(name):
    """Return the tables of a page whose rows name their records: heads, and (record keys, cells) by row."""
    return [
        (
            [head.get_text() for head in table.select("thead th")],
            [
                (
                    tuple(row.select_one("a[data-records]")["data-records"].split()),
                    [c.get_text() for c in row.select("td")],
                )
                for row in table.select("tbody tr")
            ],
        )
        for table in soup(name).select("table.results")
    ]


def wrong_cells(tables):
    """Return a line for each cell that is not what the records of its row say."""
    wrong = []
    for heads, rows in tables:
        keys = [key for key, _ in rows]
        for row, cells in rows:
            for head, cell in list(zip(heads, cells, strict=True))[1:-1]:
                if head in ELSEWHERE:
                    continue
                expected = COLUMNS[head](row, keys) if head in COLUMNS else f"no column is called {head}"
                if re.sub(r" \*+$", "", cell) != expected.replace("-", "−"):
                    wrong.append(f"{heads[0]} {cells[0]}, {head}: {cell!r}, the records say {expected!r}")
    return wrong


@pytest.mark.parametrize("name", ["motivating-example", "binary"])
def test_each_cell_of_a_results_table_is_yielded_by_the_records_of_its_row(name):
    assert wrong_cells(results_tables(name)) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_rows_lead_to_records_and_other_tables_are_on_a_page_that_names_its_runs(name):
    """A table without records by row holds verdicts, counts or the paper's numbers."""
    assert {key for _, rows in results_tables(name) for keys, _ in rows for key in keys} <= set(files())
    shown = [t for t in soup(name).select("table") if re.search(r"\d ± \d|\[[−+]\d", t.get_text())]
    if any("results" not in t.get("class", []) and not t.select("a") for t in shown):
        runs = soup(name).select_one(f"section#runs-behind-this-page a[href^='records.html#records-{name}']")
        assert runs or name in WITHOUT_RECORDS


@pytest.mark.parametrize("name", CHAPTERS)
def test_page_says_which_runs_are_behind_it_and_each_figure_leads_there(name):
    page, listed = soup(name), soup("records").select_one(f"[id='records-{name}']")
    if listed is None:
        assert name in WITHOUT_RECORDS
        return
    said = page.select_one("section[id^='runs-behind-this-page']").get_text()
    section = listed if listed.name == "section" else listed.find_parent("section")
    for record in (raw(link.get_text()) for link in section.select("table.records td a")):
        assert record["data_digest"][:12] in said
        assert task_name(record["spec"]["task"]) in said
        assert f"profile {record['spec']['profile']}" in said
        assert f"{record['machine']['cores']} cores {record['machine']['architecture']}" in said
    figures = [c for c in page.select("main figcaption") if not c.find_parent(class_="explore")]
    assert all(c.select_one("a[href^='#runs']") for c in figures)


def test_front_page_repeats_numbers_of_results_tables():
    shown = {re.sub(r" \*+$", "", c) for _, rows in results_tables("binary") for _, cells in rows for c in cells}
    (table,) = (t for t in soup("index").select("table") if "plain training (CE)" in t.get_text())
    cells = [c.get_text() for row in table.select("tbody tr") for c in row.select("td")[1:]]
    assert len(cells) == 4 * 3
    assert set(cells) <= shown
