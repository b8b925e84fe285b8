"""The interactive page: its numbers are those of the metrics, in a real browser, by keyboard, without a network."""

import io
import json
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix, precision_recall_curve

from regroup_book import method_tables
from regroup_book.chapters import binary, explore
from regroup_lib.runs.records import load_records, rule_of


@pytest.fixture(scope="module")
def runs(smoke_results):
    """Return runs of the embedded digits by method."""
    records = [r for r in load_records(smoke_results) if r.spec.kind == "training"]
    titles = ("CE", "RG")
    groups = {name: [r for r in records if method_tables.title(r.spec.method) == name] for name in titles}
    assert all(len(group) == 2 for group in groups.values())
    return {"digits-0": groups}


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=40), st.integers(0, 1000))
def test_counts_from_a_threshold_on_are_those_of_the_decision(samples, step):
    labels = np.array([label for label, _ in samples], np.uint8)
    scores = np.array([score for _, score in samples], np.float32)
    counts = explore.threshold_counts(labels, scores)
    called = scores >= step / 1000
    for name, label in (("negatives", 0), ("positives", 1)):
        found = sum(n for at, n in zip(counts["step"], counts[name], strict=True) if at >= step)
        assert found == (called & (labels == label)).sum()


def test_curve_has_points_of_the_curve_and_keeps_its_ends():
    rng = np.random.default_rng(0)
    labels = (rng.random(3000) < 0.2).astype(np.uint8)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1).astype(np.float32)
    points = explore.precision_recall_points(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores)
    exact = set(zip(recall.round(4).tolist(), precision.round(4).tolist(), strict=True))
    assert set(zip(points["recall"], points["precision"], strict=True)) <= exact
    assert points["recall"][0] == recall[recall > 0].min().round(4)
    assert points["recall"][-1] == 1
    assert points["recall"] == sorted(points["recall"])
    assert 50 < len(points["recall"]) <= explore.CURVE_POINTS
    area = np.trapezoid(points["precision"], points["recall"])
    assert area == pytest.approx(average_precision_score(labels, scores), abs=0.02)


def test_diverged_run_is_left_out(runs):
    record = runs["digits-0"]["CE"][0]
    lost = type(record)(**{**vars(record), "status": "diverged"})
    (task,) = explore.runs_data({"t": {"lost": [lost], "one left": [lost, record]}})
    assert [(m["name"], len(m["runs"])) for m in task["methods"]] == [("one left", 1)]


def test_exhibit_has_a_picture_where_no_script_runs(runs):
    shown = explore.thresholds(runs)._repr_mimebundle_()
    assert set(shown) == {"text/html", "image/png"}
    assert Image.open(io.BytesIO(explore.thresholds(runs).png)).width > 500
    (text,) = re.findall(r'<img src="data:image/png[^"]*" alt="([^"]*)"', shown["text/html"])
    assert "precision over recall" in text


def found_spaces(n=12):
    """Return two spaces of n points of digits, every third of them a zero."""
    points = [
        {
            "number": i + 1,
            "class": "0" if i % 3 == 0 else "7",
            "image": explore.data_uri(np.full((8, 8, 3), 20 * i, np.uint8)),
        }
        for i in range(n)
    ]
    places = [[100 * i % 1000 for i in range(n)], [70 * i % 1000 for i in range(n)]]
    spaces = [
        {"name": name, "runs": [{"seed": seed, "key": "k", "x": places[seed], "y": places[1]} for seed in seeds]}
        for name, seeds in (("encoder: PCA", [0]), ("network: binary labels", [0, 1]))
    ]
    return {"task": "digits-0", "positive": "0", "points": points, "spaces": spaces}


@pytest.fixture(scope="module")
def page(browser, runs):
    """Open a page with both exhibits and no network; yield it once they are drawn."""
    # Pages have scripts with names of one letter already.
    parts = [
        "<script>const _ = 1, n = 2, t = 3;</script>",
        explore.scripts().data,
        explore.thresholds(runs).html,
        explore.spaces(found_spaces()).html,
    ]
    opened = browser.new_context(offline=True, viewport={"width": 390, "height": 800}).new_page()
    opened.problems = []
    opened.on("console", lambda m: m.type in ("error", "warning") and opened.problems.append(m.text))
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("requestfailed", lambda request: opened.problems.append(request.url))
    opened.set_content(f"<!doctype html><html lang='en'><body>{''.join(parts)}</body></html>")
    for name in ("scores", "curve", "space"):
        opened.locator(f"[data-chart='{name}'] svg").wait_for()
    yield opened
    assert opened.problems == []
    opened.close()


def shown(page, name):
    return page.locator(f"[data-kind='thresholds'] [data-use='{name}']").inner_text()


def percent(page, name):
    return float(shown(page, name).removesuffix("%"))


def rounded(share):
    """Return a share as a percentage with one digit, a half rounded to either side."""
    return pytest.approx(100 * share, abs=0.05 + 1e-9)


@pytest.mark.browser
@pytest.mark.parametrize("method", ["CE", "RG"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("step", [0, 3, 250, 500, 871, 1000])
def test_numbers_in_the_browser_are_those_of_the_metrics(page, runs, method, seed, step):
    exhibit = page.locator("[data-kind='thresholds']")
    exhibit.get_by_role("combobox", name="Method").select_option(method)
    exhibit.get_by_role("combobox", name="Seed").select_option(str(seed))
    exhibit.get_by_role("slider").fill(str(step))
    record = runs["digits-0"][method][seed]
    arrays = record.arrays()
    labels, scores = arrays["test_labels"], arrays[f"test_scores_{rule_of(record)}"]
    called = scores >= step / 1000
    cells = [shown(page, n) for n in ("true-negatives", "false-positives", "false-negatives", "true-positives")]
    assert [int(cell) for cell in cells] == confusion_matrix(labels, called, labels=[0, 1]).ravel().tolist()
    assert shown(page, "shown") == f"{step / 1000:.3f}"
    result = record.metrics[rule_of(record)]["test"]
    assert percent(page, "balanced-accuracy") == rounded(balanced_accuracy_score(labels, called))
    assert percent(page, "ap") == rounded(result["summary"]["average_precision"])
    if called.any():
        assert percent(page, "precision") == rounded(
            binary.threshold_curves(record, np.array([step / 1000]))["precision"][0]
        )
    else:
        assert shown(page, "precision") == "none called"
    assert shown(page, "record") == record.key
    if step == 500:
        assert percent(page, "balanced-accuracy") == rounded(result["balanced_accuracy"])


@pytest.mark.browser
def test_keyboard_moves_the_threshold_and_the_charts_follow(page):
    exhibit = page.locator("[data-kind='thresholds']")
    slider = exhibit.get_by_role("slider")
    slider.fill("500")
    rule = page.locator("[data-chart='scores'] svg .mark-rule.role-mark line")
    before = rule.evaluate("line => line.getBoundingClientRect().x")
    exhibit.get_by_role("combobox", name="Seed").focus()
    page.keyboard.press("Tab")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("PageDown")
    assert float(shown(page, "shown")) < 0.497
    page.wait_for_function(
        f"document.querySelector('.mark-rule.role-mark line').getBoundingClientRect().x < {before} - 5"
    )
    assert slider.get_attribute("aria-valuetext").startswith(f"{shown(page, 'shown')}: balanced accuracy")
    description = page.locator("[data-chart='curve']").get_attribute("aria-label")
    assert shown(page, "precision") in description


@pytest.mark.browser
def test_pointer_and_keyboard_choose_the_image(page):
    exhibit = page.locator("[data-kind='spaces']")
    points = found_spaces()["points"]
    picture = exhibit.locator("img")
    exhibit.get_by_role("slider").fill("5")
    assert picture.get_attribute("src") == points[4]["image"]
    assert picture.get_attribute("alt") == "test image 5: 7"
    exhibit.get_by_role("slider").press("ArrowLeft")
    assert picture.get_attribute("alt") == "test image 4: 0"
    page.locator("[data-chart='space'] svg .mark-symbol.role-mark path").nth(7).hover(force=True)
    page.wait_for_function("document.querySelector('[data-kind=spaces] img').alt !== 'test image 4: 0'")
    tip = page.locator("#vg-tooltip-element img")
    assert tip.get_attribute("src") == picture.get_attribute("src")


@pytest.mark.browser
def test_spaces_have_the_seeds_that_they_were_recorded_with(page):
    exhibit = page.locator("[data-kind='spaces']")
    seeds = exhibit.get_by_role("combobox", name="Seed").locator("option")
    exhibit.get_by_role("combobox", name="Space").select_option("network: binary labels")
    assert seeds.all_inner_texts() == ["0", "1"]
    exhibit.get_by_role("combobox", name="Space").select_option("encoder: PCA")
    assert seeds.all_inner_texts() == ["0"]


@pytest.mark.browser
def test_exhibits_fit_a_telephone_and_take_the_color_of_the_text(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("document.body.style.width = '300px'")  # as when a sidebar opens
    page.wait_for_function("document.querySelector('[data-chart=curve] svg').getBoundingClientRect().width <= 300")
    page.evaluate("document.body.style.color = 'rgb(1, 2, 3)'")
    labels = page.locator("[data-chart='curve'] svg .role-axis-label text")
    assert labels.first.evaluate("text => getComputedStyle(text).fill") == "rgb(1, 2, 3)"


@pytest.mark.browser
def test_exhibits_have_no_barrier(page):
    inside = {"include": [[".explore"]]}
    found = Axe().run(page, context=inside, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(violation["id"], node["target"]) for violation in found for node in violation["nodes"]] == []


def test_sheet_of_images_is_read_back_where_the_data_are_not(tmp_path, monkeypatch):
    made = explore.thumbnails("digits-0", "smoke", tmp_path)
    monkeypatch.setattr(explore, "load_data", None)
    read = explore.thumbnails("digits-0", "smoke", tmp_path)
    assert len(read) >= 300
    assert np.array_equal(made, read)


def test_names_cannot_end_the_script(runs):
    task = {"</script><b>": runs["digits-0"]}
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', explore.thresholds(task).html, re.DOTALL)
    assert json.loads(data)["data"]["tasks"][0]["name"] == "</script><b>"
