"""The scorecard: every claim once, its word where all runs are recorded, what is missing where not, and the gains."""

import pytest

from regroup_book import plans, scorecard
from regroup_book.chapters import binary
from regroup_book.differences import values
from regroup_book.evidence import WORDS, Contrast, Verdict, claims
from regroup_lib.intervals import Interval
from regroup_lib.runs import looks
from regroup_lib.runs.records import find_record
from regroup_lib.runs.run import run

SEEDS = [0, 1]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Record the smoke runs of two chapters, and leave the others unrecorded."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "EMBEDDED_POINTS", 100)  # t-SNE of all test digits takes seconds
        for chapter in ("encoders", "motivating-example"):
            for spec in plans.chapter_specs(chapter, profile="smoke", seeds=SEEDS):
                run(spec, results_dir=folder)
    return folder


@pytest.fixture
def entries(recorded, monkeypatch):
    monkeypatch.setenv("REGROUP_RESULTS", str(recorded))
    return scorecard.scorecard("smoke", SEEDS)


def made(word="supported", *, contrasts=(), elsewhere=()):
    """Return a verdict with a statement and words that HTML would misread."""
    return Verdict("C0", "a < b", "Fig. 0", "<b>", ("binary",), contrasts, word, "a & b", (), elsewhere)


def contrast(word, text="RG − CE"):
    sign = {"supported": 1, "contradicted": -1}.get(word, 0)
    return Contrast(text, Interval(2 * sign, 2 * sign - 1, 2 * sign + 1, 0.5, 9), word, 1, "points")


def test_claims_with_records_have_a_word_and_the_others_say_what_is_missing(entries):
    by_claim = {entry.claim: entry for entry in entries}
    assert list(by_claim) == [claim["claim"] for claim in claims()]
    tested = {claim for claim, entry in by_claim.items() if entry.word != "not tested"}
    assert tested == {f"C{i}" for i in range(2, 10)}  # synchronous-learning has the motivating example's runs
    for entry in entries:
        assert entry.word in WORDS
        assert entry.measured
    for claim in tested:
        assert {r.spec.seed for r in by_claim[claim].records} == set(SEEDS)


def test_the_tally_counts_the_words(entries):
    counts = scorecard.tally(entries)
    assert list(counts) == list(WORDS)
    assert sum(counts.values()) == 27
    assert counts["not tested"] == 19
    sentence = scorecard.tally_sentence([made("supported"), made("undecided"), made("supported"), made("mixed")])
    assert sentence == "Of the paper's 4 claims, 2 are supported, 1 mixed and 1 undecided"
    assert scorecard.tally_sentence([made("mixed")]) == "Of the paper's 1 claims, 1 is mixed"


def test_the_table_links_records_and_shows_scale_beside_each_word(entries):
    table = scorecard.verdict_table(entries)
    assert (
        '<br>Runs: <a href="motivating-example.html">motivating-example</a>: tiny ResNet, '
        in table.loc["C5", "measured here"]
    )
    for part in (
        "epochs",
        "% of the labels learned",
        "2 seeds",
        "4 records",
        "records.html#records-motivating-example",
    ):
        assert part in table.loc["C5", "measured here"]
    assert "records.html" not in table.loc["C20", "measured here"]
    assert table.loc["C20", "verdict"] == '<b class="verdict not-tested">not tested</b>'


def test_cells_and_boxes_escape_what_they_show():
    verdicts = [made(contrasts=(contrast("supported", "<i>"),)), made("not tested")]
    row, empty = (row for _, row in scorecard.verdict_table(verdicts).iterrows())
    assert row["claim"] == "a &lt; b <i>(Fig. 0: &lt;b&gt;)</i>"
    assert "&lt;i&gt;: +2.0 [+1.0, +3.0] points <i>(supported)</i>" in row["measured here"]
    assert "a &amp; b" in empty["measured here"]
    stated = "<b>Supported:</b> a &lt; b (C0).</li><li><b>Not tested:</b>"
    assert f"<ul><li>Yes.</li><li>{stated}" in scorecard.summary_box(verdicts, "Yes.", "").data


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        ("supported", "contradicted", True),
        ("contradicted", "supported", True),
        ("supported", "supported", False),
        ("undecided", "contradicted", False),
    ],
)
def test_another_scale_that_says_the_opposite_is_named(here, there, said):
    verdict = made(here, contrasts=(contrast(here),), elsewhere=(contrast(there),))
    assert ("A ResNet34 after 10 epochs shows the opposite" in scorecard.summary_box([verdict]).data) == said
    assert (
        f"With ResNet34 after 10 epochs:<br>{contrast(there)}"
        in scorecard.verdict_table([verdict])["measured here"].iloc[0]
    )


def test_gains_are_those_of_the_records(recorded, monkeypatch):
    monkeypatch.setenv("REGROUP_RESULTS", str(recorded))
    found = scorecard.gains("smoke", SEEDS)
    assert [gain.space for gain in found] == ["pre-trained", *["poor"] * (len(plans.ENCODERS["smoke"]) - 1), "none"]
    runs = plans.motivating_example("smoke", SEEDS)
    mean = {
        label: values([find_record(s) for s in runs if s.label == label], "average_precision").mean()
        for label in ("ce", "rg-random")
    }
    assert found[-1].difference.mean == pytest.approx(mean["rg-random"] - mean["ce"])


@pytest.mark.parametrize(
    ("means", "text"),
    [
        ((3, 2), "Regrouping ranks better than plain training on 2 of 2 tasks with a pre-trained encoder: t0 and t1."),
        ((3, 0), "Regrouping ranks better than plain training on 1 of 2 tasks with a pre-trained encoder: t0."),
        ((-3, 0), "Regrouping ranks better than plain training on none of 2 tasks with a pre-trained encoder."),
    ],
)
def test_the_sentence_names_the_tasks_with_a_gain(means, text):
    group = [scorecard.Gain(f"t{i}", "pre-trained", Interval(m, m - 1, m + 1, 1, 9)) for i, m in enumerate(means)]
    other = scorecard.Gain("tables", "columns", Interval(9, 8, 10, 1, 9))
    assert scorecard.gains_sentence([*group, other]).startswith(text)


def test_the_chapter_of_table_1_takes_some_of_its_tasks_and_no_others():
    specs = plans.chapter_specs("binary", seeds=[0], tasks=["ham10000-bcc"])
    assert {spec.task for spec in specs} == {"ham10000-bcc"}
    with pytest.raises(ValueError, match="expected some of cifar100-worm"):
        plans.chapter_specs("binary", tasks=["cifar10-cat"])
    with pytest.raises(ValueError, match="no choice of tasks"):
        plans.chapter_specs("tables", tasks=["ham10000-bcc"])
    assert binary.left_out(["digits-0"], "smoke") == ""
    assert "worm (CIFAR-100)" in binary.left_out(["ham10000-bcc", "ham10000-akiec"], "cpu")


def test_a_task_counts_as_recorded_when_its_last_run_is(empty_results, monkeypatch):
    monkeypatch.setitem(plans.TABLE_METHODS, "smoke", ("ce", "la", "rg"))
    assert plans.recorded_tasks("smoke", SEEDS) == []
    plans.run_chapter_specs("binary", profile="smoke", seeds=SEEDS)
    assert plans.recorded_tasks("smoke", SEEDS) == ["digits-0"]
    chosen = plans.chapter_specs("binary", profile="smoke", seeds=SEEDS)[-1]
    chosen.path().unlink()
    assert plans.recorded_tasks("smoke", SEEDS) == []
