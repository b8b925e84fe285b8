"""The rendered book in a browser: nothing fails, nothing comes from another host, figures and formulas show."""

import functools
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from conftest import OTHER_VERDICTS
from matplotlib.image import imread

from regroup_book import build
from regroup_book.evidence import WORDS
from regroup_book.publish import served

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
PAGES = [TOC["root"], *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])]
pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def site():
    """Serve the rendered book, built first if it is not there; yield its address."""
    if not (HTML / "index.html").is_file():
        build.build()
    with served(HTML) as address:
        yield address


class Visit:
    """One page, opened and scrolled through, with all that went wrong on the way."""

    def __init__(self, browser, address):
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.errors, self.failed, self.hosts = [], [], set()
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc or request.url[:40]))
        self.page.on("requestfailed", lambda request: self.failed.append((request.url, request.failure)))
        self.page.on(
            "response", lambda answer: answer.status >= 400 and self.failed.append((answer.url, answer.status))
        )
        self.status = self.page.goto(address, wait_until="networkidle").status
        self.page.add_style_tag(content="* { transition: none !important }")  # colors change at once
        self.page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise : null")
        self.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        self.page.wait_for_load_state("networkidle")

    def count(self, selector):
        """Return how many elements match."""
        return self.page.locator(selector).count()


@pytest.fixture(scope="session")
def visit(browser, site):
    """Return a function that opens a page of the book, each page once."""
    return functools.cache(lambda name: Visit(browser, f"{site}/{name}.html"))


@pytest.mark.parametrize("name", [*PAGES, "search", "genindex"])
def test_page_opens_without_an_error_or_another_host(visit, site, name):
    opened = visit(name)
    assert opened.status == 200
    assert opened.errors == []
    assert opened.failed == []
    assert {host for host in opened.hosts if not host.startswith("data:")} == {urlsplit(site).netloc}


@pytest.mark.parametrize("name", PAGES)
def test_page_shows_its_figures_and_formulas(visit, name):
    opened = visit(name)
    widths = opened.page.eval_on_selector_all("main img", "all => all.map(image => [image.src, image.naturalWidth])")
    assert [source for source, width in widths if width == 0] == []
    formulas = opened.count("main .math")
    assert opened.count("main mjx-container") >= formulas
    assert opened.count("mjx-merror") == 0
    if name == "method":
        assert formulas >= 5
    if (ROOT / "notebooks" / f"{name}.ipynb").is_file():
        assert opened.count("main .cell_output img") > 0, "a chapter without a figure"


def barriers(page):
    """Return what axe objects to, and text in the color of its ground, which axe calls hidden on purpose."""
    found = Axe().run(page, options={"resultTypes": ["violations", "incomplete"]}).response
    broken = [(rule, node) for rule in found["violations"] for node in rule["nodes"]]
    broken += [(rule, node) for rule in found["incomplete"] for node in rule["nodes"] if "equalRatio" in str(node)]
    return [f"{rule['id']}: {node['target']} {node['failureSummary']}" for rule, node in broken]


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", "index method explore motivating-example tables use api genindex".split())
def test_page_has_no_barrier_and_fits_a_telephone(visit, name, mode):
    page = visit(name).page
    page.evaluate("mode => { document.documentElement.dataset.theme = mode }", mode)
    found = barriers(page)
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    assert found == []
    page.set_viewport_size({"width": 390, "height": 900})
    width = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size({"width": 1280, "height": 900})
    assert width <= 390


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("document.querySelector('main p').style.color = '#bbb'", "color-contrast"),
        ("document.querySelector('main p').style.cssText = 'color: #222832; background: #222832'", "color-contrast"),
        ("document.querySelector('main img').removeAttribute('alt')", "image-alt"),
    ],
)
def test_barriers_are_found_where_there_are_some(browser, site, change, rule):
    page = browser.new_page()
    page.goto(f"{site}/index.html", wait_until="networkidle")
    page.evaluate(change)
    assert rule in {barrier.partition(":")[0] for barrier in barriers(page)}
    page.close()


def test_readme_opens_with_the_sentences_and_pictures_of_the_front_page(visit):
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("**", "")
    sentences = visit("index").page.locator(".front p:not(td p):has(> strong)").all_inner_texts()
    assert len(sentences) == 5
    without_link = [re.sub(r" \([^()]*\)\.$", ".", sentence.replace("’", "'")) for sentence in sentences]
    assert [sentence for sentence in without_link if sentence not in readme] == []
    for picture in (ROOT / "book" / "readme").iterdir():
        assert f"book/readme/{picture.name}" in readme
        drawn, kept = (imread(folder / picture.name) for folder in (ROOT / "book" / "figures", picture.parent))
        assert drawn.shape == kept.shape, "make book, then copy book/figures to book/readme"
        assert abs(drawn - kept).mean() < 0.002, "make book, then copy book/figures to book/readme"


@functools.cache
def anchors(path):
    """Return what links may point to in a file of the book."""
    return set(re.findall(r'\s(?:id|name)="([^"]+)"', (HTML / path).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", PAGES)
def test_links_within_the_book_end_at_their_anchors(visit, site, name):
    links = visit(name).page.eval_on_selector_all("a[href*='#']", "all => all.map(link => link.href)")
    targets = {urlsplit(link) for link in links if link.startswith(site)}
    dead = {
        f"{target.path}#{target.fragment}"
        for target in targets
        if target.fragment and unquote(target.fragment) not in anchors(unquote(target.path).lstrip("/"))
    }
    assert targets
    assert dead == set()


@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_dead_link_and_no_error_output(visit, site, name):
    opened = visit(name)
    links = opened.page.eval_on_selector_all("a[href]", "all => all.map(link => link.href.split('#')[0])")
    inside = [urlsplit(link).path.lstrip("/") for link in links if link.startswith(site)]
    dead = {path for path in inside if not (HTML / unquote(path)).is_file()}
    assert inside
    assert dead == set()
    assert opened.count("main .output.traceback") == 0
    assert "Traceback" not in opened.page.inner_text("main")


@pytest.mark.parametrize("name", PAGES)
def test_page_gives_a_verdict_in_one_of_the_five_words(visit, name):
    opened = visit(name)
    given = opened.page.eval_on_selector_all("main b.verdict", "all => all.map(word => word.textContent)")
    assert set(given) <= set(WORDS)
    assert name != "scorecard" or len(given) >= 27
    assert OTHER_VERDICTS.search(opened.page.inner_text("main")) is None


def test_each_record_is_listed_with_its_file(visit):
    opened = visit("records")
    links = opened.page.eval_on_selector_all(
        "main table.records a", "all => all.map(link => [link.textContent, link.getAttribute('href')])"
    )
    assert len(links) >= 1000
    for key, target in links[:: len(links) // 40]:
        record = json.loads((HTML / unquote(target)).read_text(encoding="utf-8"))
        assert record["key"] == key
    named = visit("scorecard").page.eval_on_selector_all(
        "main a[href*='records.html#']", "all => all.map(link => link.getAttribute('href').split('#')[1])"
    )
    assert named
    for anchor in set(named):
        assert opened.count(f"[id='{anchor}']") == 1


def test_navigation_opens_on_a_telephone_and_search_finds(browser, site):
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.goto(f"{site}/method.html", wait_until="networkidle")
    page.locator("button.primary-toggle").first.click()
    page.locator("dialog[open] >> text=How to re-run this book").click()
    page.wait_for_url("**/reproduce.html")
    page.goto(f"{site}/search.html?q=regrouping")
    page.locator("ul.search li").first.wait_for()
    page.close()


def test_a_wide_table_fades_until_its_end_and_a_figure_opens(browser, site):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(f"{site}/motivating-example.html", wait_until="networkidle")
    page.locator("table.cut").first.evaluate("table => { table.id = 'wide'; table.scrollLeft = table.scrollWidth }")
    page.locator("#wide:not(.cut)").wait_for()
    table, cell = (page.locator(place).first.bounding_box() for place in ("#wide", "#wide tbody tr > :first-child"))
    assert cell["x"] >= table["x"]
    page.locator("main figure a:has(img)").first.click()
    page.wait_for_url("**/*.png")
    page.close()


def test_paper_is_light_and_the_screen_stays_dark(browser, site):
    page = browser.new_page()
    page.add_init_script("localStorage.setItem('mode', 'dark'); localStorage.setItem('theme', 'dark')")
    page.goto(f"{site}/explore.html", wait_until="networkidle")
    for media, expected in (("screen", "dark"), ("print", "light"), ("screen", "dark")):
        page.emulate_media(media=media)
        page.wait_for_function(f"document.documentElement.dataset.theme === '{expected}'")
    page.close()


def test_tables_of_class_sortable_sort_by_size_on_a_click(browser):
    cells = {"CE": "9.5 ± 1.0", "RG": "73.8 ± 1.1 **", "RUSC": "−2.0 ± 0.1", "SOAP": ""}
    rows = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in cells.items())
    head = "<thead><tr><th>method</th><th>AP</th></tr></thead>"
    script = (ROOT / "book" / "_static" / "sortable.js").read_text()
    page = browser.new_page()
    page.set_content(f"<table class='sortable'>{head}<tbody>{rows}</tbody></table><script>{script}</script>")

    def first_column():
        return page.locator("tbody td:first-child").all_inner_texts()

    page.get_by_role("button", name="AP").click()
    assert first_column() == ["RG", "CE", "RUSC", "SOAP"]
    assert page.locator("th").nth(1).get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="AP").press("Enter")
    assert first_column() == ["RUSC", "CE", "RG", "SOAP"]
    page.get_by_role("button", name="method").click()
    assert first_column() == ["SOAP", "RUSC", "RG", "CE"]
    assert page.locator("th").nth(1).get_attribute("aria-sort") is None
    page.close()
