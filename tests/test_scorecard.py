"""The scorecard: every claim once, a verdict where all runs are recorded, and what is missing where not."""

import pytest

from regroup_lib import binary, competition, plans, scorecard
from regroup_lib.book import book_root, chapters
from regroup_lib.competition import Interval
from regroup_lib.records import find_record
from regroup_lib.sweeps import sweep

SEEDS = [0, 1]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Record the smoke runs of two chapters, and leave the others unrecorded."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGROUP_RESULTS", str(folder))
        for chapter in ("encoders", "motivating-example"):
            sweep(plans.chapter_specs(chapter, profile="smoke", seeds=SEEDS))
    return folder


@pytest.fixture
def entries(recorded, monkeypatch):
    monkeypatch.setenv("REGROUP_RESULTS", str(recorded))
    return scorecard.scorecard("smoke", SEEDS)


def test_every_claim_is_there_once_and_names_a_chapter():
    rows = scorecard.claims()
    assert [row["claim"] for row in rows] == [f"C{i}" for i in range(1, 28)]
    known = set(chapters(book_root()))
    for row in rows:
        assert all(row.values())
        assert set(row["chapter"].split(", ")) <= known


def test_claims_with_records_have_a_verdict_and_the_others_say_what_is_missing(entries):
    by_claim = {entry.claim: entry for entry in entries}
    assert len(by_claim) == 27
    tested = {claim for claim, entry in by_claim.items() if entry.verdict != scorecard.NOT_RUN}
    assert tested == {f"C{i}" for i in range(2, 10)}  # synchronous-learning has the motivating example's runs
    for claim in tested:
        assert by_claim[claim].measured
        assert {r.spec.seed for r in by_claim[claim].records} == set(SEEDS)
    assert by_claim["C20"].measured.startswith("multiclass: 0 of ")
    assert by_claim["C24"].measured.count("0 of ") == 2  # two chapters test it


def test_the_tally_counts_the_verdicts(entries):
    counts = scorecard.tally(entries)
    assert sum(counts.values()) == 27
    assert counts[scorecard.NOT_RUN] == 19
    sentence = scorecard.tally_sentence(entries)
    assert "27 claims" in sentence
    assert f"{counts['holds']} hold" in sentence
    assert "19 are not run yet" in sentence
    whole = scorecard.tally_sentence([entry for entry in entries if entry.verdict != scorecard.NOT_RUN])
    assert whole.startswith("Of the paper's 8 claims")
    assert whole.endswith(f"and {counts['does not hold']} not")


def test_the_table_links_tested_claims_alone_and_escapes(entries):
    table = scorecard.scorecard_table(entries)
    assert table.loc["C5", "what was run"].startswith(
        '<a href="motivating-example.html">motivating-example</a>: digits-0'
    )
    assert "12 records" in table.loc["C5", "what was run"]
    assert table.loc["C20", "what was run"] == ""
    assert table.loc["C5", "verdict"] in {f"<b>{word}</b>" for word in scorecard.WORDS}


def test_a_claim_of_two_chapters_holds_in_part_where_they_differ():
    row = {"claim": "C24", "statement": "s", "where": "w", "paper": "p", "chapter": "binary, multiclass"}
    counts = {"binary": (1, 1), "multiclass": (1, 1)}

    def verdict(first, second):
        found = {"binary": ({"C24": (first, "a")}, []), "multiclass": ({"C24": (second, "b")}, [])}
        return scorecard._entry(row, found, counts)

    assert verdict("holds", "holds").verdict == "holds"
    assert verdict("holds", "does not hold").verdict == "holds in part"
    assert verdict("holds", "does not hold").measured == "a; b"


def test_gains_are_those_of_the_records(recorded, monkeypatch):
    monkeypatch.setenv("REGROUP_RESULTS", str(recorded))
    found = scorecard.gains("smoke", SEEDS)
    assert len(found) == len(plans.ENCODERS["smoke"]) + 1  # each encoder, and random groups
    records = scorecard._records("motivating-example", "smoke", SEEDS)
    mean = {
        label: competition.values([r for r in records if r.spec.label == label], "average_precision").mean()
        for label in ("ce", "rg-random")
    }
    assert found[-1].space == "none"
    assert found[-1].difference.mean == pytest.approx(mean["rg-random"] - mean["ce"], abs=0.3)  # the mean of resamples


def test_the_gain_of_a_self_supervised_encoder_waits_for_its_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path))
    runs = plans.self_supervised_runs("smoke", SEEDS)
    sweep(runs["binary"])
    assert scorecard.gains("smoke", SEEDS) == []
    sweep(runs["simclr"])
    (found,) = scorecard.gains("smoke", SEEDS)
    ours, plain = (
        competition.values([find_record(s) for s in runs[name]], "average_precision") for name in ("simclr", "binary")
    )
    assert found.space == "own"
    assert found.difference.mean == pytest.approx((ours - plain).mean())


def test_the_figure_has_a_row_a_setting_and_survives_no_record():
    found = [
        scorecard.Gain("one", "pre-trained", Interval(3, 1, 5)),
        *(scorecard.Gain("tables", "columns", Interval(d, d - 1, d + 1)) for d in (-5, 0, 30)),
    ]
    axes = scorecard.plot_gains(found).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "tables"]
    low, high = axes.get_xlim()
    assert low < -5
    assert high > 30
    text = scorecard.gains_sentence(found)
    assert "1 case, 1 clearly better, 0 clearly worse" in text
    assert "3 cases, 1 clearly better, 1 clearly worse" in text
    assert scorecard.plot_gains([]).axes[0].get_yticklabels()[0].get_text() == "no run is recorded yet"


def test_the_chapter_of_table_1_takes_some_of_its_tasks_and_no_others():
    specs = plans.chapter_specs("binary", seeds=[0], tasks=["ham10000-bcc"])
    assert {spec.task for spec in specs} == {"ham10000-bcc"}
    with pytest.raises(ValueError, match="expected some of cifar100-worm"):
        plans.chapter_specs("binary", tasks=["cifar10-cat"])
    with pytest.raises(ValueError, match="no choice of tasks"):
        plans.chapter_specs("tables", tasks=["ham10000-bcc"])
    assert binary.left_out(["digits-0"], "smoke") == ""
    assert "cifar100-worm" in binary.left_out(["ham10000-bcc", "ham10000-akiec"], "cpu")


def test_a_task_counts_as_recorded_when_its_last_run_is(tmp_path):
    assert plans.recorded_tasks("smoke", SEEDS, tmp_path) == []
    plans.run_chapter_specs("binary", profile="smoke", seeds=SEEDS, results_dir=tmp_path)
    assert plans.recorded_tasks("smoke", SEEDS, tmp_path) == ["digits-0"]
    chosen = plans.chapter_specs("binary", profile="smoke", seeds=SEEDS, results_dir=tmp_path)[-1]
    chosen.path(tmp_path).unlink()
    assert plans.recorded_tasks("smoke", SEEDS, tmp_path) == []
