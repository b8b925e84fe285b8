"""The one verdict rule: words from intervals, contrasts against a slow written-out form, and the claims file."""

from pathlib import Path

import numpy as np
import pytest
from conftest import OTHER_VERDICTS
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, balanced_accuracy_score, precision_score

from regroup_book import evidence, plans
from regroup_book.build import chapters
from regroup_book.differences import rates_above
from regroup_book.evidence import MEASURES, WORDS, claims, combine, contrast, groups_of, judge, verdict
from regroup_lib.data.load import load_data
from regroup_lib.intervals import Interval, interval
from regroup_lib.metrics import bootstrap_counts
from regroup_lib.runs import looks
from regroup_lib.runs.records import N_RESAMPLES, load_records
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import Spec

ROOT = Path(__file__).resolve().parents[2]
SEEDS = [0, 1, 2]
PARTS = [(claim, part) for claim in (*claims(), *claims("questions")) for part in claim.get("contrasts", ())]


@pytest.mark.parametrize(
    ("low", "high", "negligible", "word"),
    [
        (0.1, 3, None, "supported"),
        (0.1, 0.9, 1.0, "supported"),  # small, and on the claimed side
        (-3, -0.1, None, "contradicted"),
        (-3, -0.1, 1.0, "contradicted"),
        (-0.9, 0.9, 1.0, "contradicted"),  # the claim says that there is a difference, and there is none
        (0.0, 0.0, 1.0, "contradicted"),
        (-0.9, 0.9, None, "undecided"),
        (-0.9, 1.0, 1.0, "undecided"),  # within one point, and not at it
        (-1.0, 0.9, 1.0, "undecided"),
        (-0.1, 3, 1.0, "undecided"),
        (0.0, 3, 1.0, "undecided"),
        (float("nan"), float("nan"), 1.0, "undecided"),  # a run diverged
    ],
)
def test_the_word_of_a_contrast(low, high, negligible, word):
    assert judge(Interval((low + high) / 2, low, high, 1, 9), negligible) == word


SUPPORTED, CONTRADICTED, MIXED, UNDECIDED, NOT_TESTED = WORDS


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ([], NOT_TESTED),
        ([SUPPORTED] * 2, SUPPORTED),
        ([CONTRADICTED] * 2, CONTRADICTED),
        ([UNDECIDED], UNDECIDED),
        ([SUPPORTED, CONTRADICTED], MIXED),
        ([SUPPORTED, UNDECIDED, CONTRADICTED], MIXED),
        ([SUPPORTED, SUPPORTED, UNDECIDED], UNDECIDED),
        ([CONTRADICTED, UNDECIDED], UNDECIDED),
    ],
)
def test_the_word_of_a_claim(words, word):
    assert combine(words) == word


@pytest.fixture
def make(binary_record):
    """Return a function that makes a method's records: positives score `lift` higher, on validation `validation`."""

    def group(method, lift, *, seeds=(0, 1, 2), task="digits-0", **options):
        spec = Spec(profile="smoke", task=task, method=method, encoder="pca" if method == "rg" else None)
        specs = [spec.model_copy(update={"seed": seed}) for seed in seeds]
        return [binary_record(one, lift, n=500, positives=60, **options) for one in specs]

    return group


def rates(labels, scores, threshold):
    called = scores >= threshold
    return called[labels == 1].mean(), called[labels == 0].mean()


def ba_at(labels, scores, threshold):
    true, false = rates(labels, scores, threshold)
    return (true + 1 - false) / 2


# The measures of scores in the words of their definitions: labels and scores of the images of one (re)sample.
THRESHOLDS = np.linspace(0.005, 0.995, 199)
WRITTEN_OUT = {
    "average_precision": lambda y, s: 100 * average_precision_score(y, s),
    "log_error": lambda y, s: np.log(1 - average_precision_score(y, s)),
    "balanced_accuracy": lambda y, s: 100 * balanced_accuracy_score(y, s >= 0.5),
    "precision": lambda y, s: 100 * precision_score(y, s >= 0.5, zero_division=0),
    "separation": lambda y, s: 100 * stats.ks_2samp(s[y == 0], s[y == 1], alternative="greater").statistic,
    "leniency": lambda y, s: (
        100 * np.mean((found := np.array([ba_at(y, s, t) for t in THRESHOLDS])) >= found.max() - 0.02)
    ),
}


def resampled(record, index):
    """Return the test labels and scores of the images that one resample draws, each as often as it is drawn."""
    arrays = record.arrays()
    (scores,) = (arrays[name] for name in arrays if name.startswith("test_scores"))
    rows = np.repeat(np.arange(len(scores)), bootstrap_counts(arrays["test_labels"], N_RESAMPLES)[index])
    return arrays["test_labels"][rows], scores[rows]


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_measures_are_their_definitions_on_every_resample(make, name):
    for record in make("ce", 2.0, seeds=[0]) + make("rg", 3.0, seeds=[0]):
        found = MEASURES[name].of(record)
        assert len(found) == N_RESAMPLES
        for index in (0, 1, 99):
            assert found[index] == pytest.approx(WRITTEN_OUT[name](*resampled(record, index)))


def test_a_tuned_threshold_is_chosen_on_validation_and_measured_on_the_test_set(make):
    (record,) = make("ce", 2.0, validation=4.0, seeds=[0])
    arrays = record.arrays()
    chosen = max(THRESHOLDS, key=lambda t: ba_at(arrays["val_labels"], arrays["val_scores_none"], t))
    for index in (0, 7):
        test = resampled(record, index)
        expected = 100 * (ba_at(*test, chosen) - ba_at(*test, 0.5))
        assert MEASURES["threshold_gain"].of(record)[index] == pytest.approx(expected)


@st.composite
def ranked(draw):
    n = draw(st.integers(2, 12))
    scores = draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.5001, 1.0]), min_size=n, max_size=n))
    counts = draw(st.lists(st.lists(st.integers(1, 3), min_size=n, max_size=n), min_size=1, max_size=3))
    return np.arange(n) < draw(st.integers(1, n - 1)), np.array(scores), np.array(counts)


@given(ranked())
def test_rates_above_thresholds_are_counted(made):
    positive, scores, counts = made
    thresholds = np.array([0.0, 0.2, 0.3, 0.5, 1.0, 1.5])
    true, false = rates_above(positive, scores, thresholds, counts)
    for b, row in enumerate(counts):
        for t, threshold in enumerate(thresholds):
            for found, kind in ((true, positive), (false, ~positive)):
                called = sum(row[i] for i in range(len(scores)) if kind[i] and scores[i] >= threshold)
                assert found[b, t] == pytest.approx(called / row[kind].sum())
    plain = rates_above(positive, scores, thresholds)
    np.testing.assert_allclose(plain, rates_above(positive, scores, thresholds, np.ones((1, len(scores)), int)))


@pytest.mark.parametrize(("terms", "above"), [({"rg": 1, "ce": -0.5}, 0), ({"ros": -1}, -25)])
def test_a_contrast_is_the_weighted_sum_minus_its_bound(make, terms, above):
    """Image by image: AP of each seed on each resample, the sum of both variances, Satterthwaite's degrees."""
    groups = {"rg": make("rg", 3.0), "ce": make("ce", 2.0), "ros": make("ros", 2.2)}
    part = {"measure": "average_precision", "terms": terms, "above": above}
    found, used = contrast(part, groups, "digits")
    matrix = np.zeros((3, N_RESAMPLES))
    for name, weight in terms.items():
        for i, record in enumerate(groups[name]):
            for b in range(N_RESAMPLES):
                matrix[i, b] += weight * WRITTEN_OUT["average_precision"](*resampled(record, b))
    by_seed = matrix[:, 0] - above
    seeds, test = by_seed.var(ddof=1) / 3, matrix.mean(axis=0).var(ddof=1)
    degrees = (seeds + test) ** 2 / (seeds**2 / 2 + test**2 / 59)  # 60 positives
    margin = stats.t.ppf(0.975, degrees) * (seeds + test) ** 0.5
    expected = (by_seed.mean(), by_seed.mean() - margin, by_seed.mean() + margin)
    assert (found.interval.mean, found.interval.low, found.interval.high) == pytest.approx(expected)
    assert used == [record for name in terms for record in groups[name]]


def test_a_difference_within_a_point_contradicts_only_a_claim_of_a_difference(make):
    same = {"rg": make("ce", 2.0), "ce": make("ce", 2.0)}

    def word(measure, **more):
        return contrast({"measure": measure, "terms": {"rg": 1, "ce": -1}} | more, same, "digits")[0].word

    assert word("average_precision") == word("balanced_accuracy") == "contradicted"
    assert word("separation") == "undecided"  # not in points: no size is negligible
    assert word("average_precision", above=-1) == "supported"  # a claim of no loss
    assert word("average_precision", above=0.5) == "contradicted"


def test_a_contrast_says_what_is_subtracted_from_what(make):
    groups = {"rg": make("rg", 4.0), "ce": make("ce", 1.0), "distill": make("ce", 2.0)}

    def text(terms, **more):
        found, _ = contrast({"measure": "average_precision", "terms": terms} | more, groups, "digit 0")
        assert str(found) == f"{found.text}: {found.interval} points"
        return found.text.removeprefix("digit 0, AP: ")

    assert text({"ce": -2, "rg": 1}, above=-25) == "RG − 2 × CE above −25"
    assert text({"rg": 1}, above=75) == "RG above 75"
    assert text({"rg": -1}, above=-0.5) == "RG below 0.5"
    assert text({"rg": 1, "distill": -1}) == "RG − (CE, features distilled)"
    assert text({"rg": 1, "ce": -0.5}, name="{rg} − half of {ce}") == "RG − half of CE"


def test_rivals_are_picked_on_validation_and_never_by_the_test_set(make):
    groups = {
        "rg": make("rg", 2.0),
        "wce": make("wce", 5.0, validation=0.5),  # the best on the test set
        "ros": make("ros", 0.5, validation=5.0),
        "ce": make("ce", 2.0, validation=2.0),
        "focal": make("focal", 9.0, status="diverged"),
    }

    def against(**picks):
        part = {"measure": "average_precision", "terms": {"rg": 1, "rival": -1}} | picks
        found, used = contrast(part, groups, "digits")
        return found.text.split(" − ")[1], {record.spec.method for record in used}

    rivals = ["ce", "wce", "ros", "focal"]
    assert against(best={"rival": rivals}) == ("ROS", {"rg", "ros"})
    assert against(best={"rival": "no encoder"}) == ("ROS", {"rg", "ros"})
    assert against(worst={"rival": rivals[:3]}) == ("WCE", {"rg", "wce"})
    assert against(median={"rival": rivals}) == ("median of 4 methods", {"rg", *rivals})


def test_the_median_of_methods_counts_a_diverged_run_as_the_last(make):
    groups = {"rg": make("rg", 9.0), "ce": make("ce", 1.0), "wce": make("wce", 3.0)}
    groups["focal"] = make("focal", 9.0, status="diverged")
    part = {"measure": "average_precision", "median": {"middle": ["ce", "wce", "focal"]}}
    found, _ = contrast(part | {"terms": {"rg": 1, "middle": -1}}, groups, "digits")
    by_method = {
        m: [WRITTEN_OUT["average_precision"](*resampled(r, 0)) for r in groups[m]] for m in ("rg", "ce", "wce")
    }
    middle = [np.median([ce, wce, -1]) for ce, wce in zip(by_method["ce"], by_method["wce"], strict=True)]
    assert found.interval.mean == pytest.approx(np.mean(by_method["rg"]) - np.mean(middle))


def test_a_run_that_diverged_decides_nothing_by_itself(make):
    groups = {"rg": make("rg", 9.0), "ce": make("ce", 1.0, status="diverged")}
    found, _ = contrast({"measure": "average_precision", "terms": {"rg": 1, "ce": -1}}, groups, "digits")
    assert found.word == "undecided"


def test_the_order_of_methods_by_ba_and_by_ap_is_correlated_by_seed(make):
    """A method that diverged is the last by both."""
    groups = {m: make(m, lift) for m, lift in (("ce", 1.0), ("wce", 4.0), ("ros", 2.0), ("rg", 3.0))}
    measured = list(groups)
    groups["focal"] = make("focal", 9.0, status="diverged")
    part = {"measure": "order_correlation", "terms": {"all": -1}, "above": -0.5}
    found, used = contrast(part, groups, "digits")
    correlations = [
        stats.spearmanr(
            *[
                [*(WRITTEN_OUT[name](*resampled(groups[m][i], 0)) for m in measured), -1]
                for name in ("balanced_accuracy", "average_precision")
            ]
        ).statistic
        for i in range(3)
    ]
    assert found.interval.mean == pytest.approx(0.5 - np.mean(correlations))
    assert len(used) == 15


@pytest.mark.parametrize("over", ["task", "fold"])
def test_over_tasks_and_over_folds_the_interval_has_their_spread_alone(make, over):
    """Three tasks with two seeds each; of folds each record has a test set of its own."""
    tasks = ("digits-0", "digits-1", "digits-2")
    groups = {m: [r for t in tasks for r in make(m, up, seeds=(0, 1), task=t)] for m, up in (("rg", 3.0), ("ce", 2.0))}
    found, _ = contrast({"measure": "average_precision", "over": over, "terms": {"rg": 1, "ce": -1}}, groups, "digits")
    by_record = np.subtract(*([WRITTEN_OUT["average_precision"](*resampled(r, 0)) for r in groups[m]] for m in groups))
    expected = interval(by_record.reshape(3, 2).mean(axis=1) if over == "task" else by_record)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))


def test_an_autoencoders_quality_is_that_of_all_test_images(smoke_results):
    (record,) = [r for r in load_records(smoke_results) if r.spec.encoder == "autoencoder"]
    arrays, test = record.arrays(), load_data("digits").test
    images, squared = test.inputs / 255, arrays["squared_errors"]
    assert len(squared) == len(images)
    shown = np.unique(test.labels, return_index=True)[1]
    np.testing.assert_array_equal(arrays["originals"], test.inputs[shown])
    errors = ((images[shown] - arrays["reconstructions"] / 255) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(squared[shown], errors, rtol=1e-5)
    around = (images - images.mean(axis=(0, 1, 2))) ** 2
    kept, psnr = (MEASURES[name].of(record) for name in ("explained_variance", "psnr"))
    assert kept[0] == pytest.approx(1 - squared.sum() / around.sum(), rel=1e-5)
    assert psnr[0] == pytest.approx(10 * np.log10(1 / (squared.sum() / images.size)), rel=1e-5)
    assert len(kept) == len(psnr) == N_RESAMPLES
    assert 0 < kept.std() < 0.02
    assert 0 < psnr.std() < 1


def test_every_claim_and_question_is_there_once_and_is_decided_by_something():
    listed = {"claims": [f"C{i}" for i in range(1, 28)], "questions": [f"E{i}" for i in range(1, 9)]}
    fields = {"claim", "statement", "where", "paper", "chapter", "contrasts", "not_tested"}
    for part, names in listed.items():
        assert [claim["claim"] for claim in claims(part)] == names
        for claim in claims(part):
            assert set(claim) <= fields
            assert claim["statement"]
            assert ("contrasts" in claim) != ("not_tested" in claim)
    known = set(chapters())
    assert all(set(claim["chapter"].split(", ")) <= known for claim in claims())


@pytest.mark.parametrize(("claim", "part"), PARTS, ids=[f"{claim['claim']}-{part['measure']}" for claim, part in PARTS])
def test_contrasts_compare_what_there_is(claim, part):
    """A measure that is known, groups that the runs have or that a pick makes, picks that validation can choose."""
    picks = {
        name: (kind, chosen) for kind in ("best", "worst", "median") for name, chosen in part.get(kind, {}).items()
    }
    assert set(part) <= {"runs", "measure", "terms", "above", "over", "best", "worst", "median", "name"}
    assert any(part["terms"].values())
    assert set(picks) <= set(part["terms"])
    measure = MEASURES[part["measure"]]
    assert measure.on_validation or not {"best", "worst"} & set(part)
    for name in part["runs"]:
        kind, _, rest = name.partition(" ")
        if name in (*plans.BINARY_TASKS["cpu"], *plans.MULTICLASS_TASKS["cpu"]):
            found = {name: dict.fromkeys(plans.TABLE_METHODS["cpu"])}
        else:
            found = evidence.RUNS[kind](rest, "cpu", SEEDS)
        assert found
        for groups in found.values():
            members = [c for _, chosen in picks.values() if not isinstance(chosen, str) for c in chosen]
            sets = {chosen for _, chosen in picks.values() if isinstance(chosen, str)}
            assert sets <= {*evidence.SETS, "all", "not natural"}
            wanted = {*members, *part["terms"]} - set(picks)
            assert measure.of_groups or "waiting" in groups or wanted <= set(groups)


def test_a_verdict_on_committed_records(monkeypatch):
    """C15: the encoder's features beat regrouping on worm. Its interval is around the difference of the tables."""
    monkeypatch.setenv("REGROUP_RESULTS", str(ROOT / "results"))
    (place, groups), *others = groups_of("cifar100-worm", "cpu", SEEDS).items()
    assert not others
    found = verdict(next(claim for claim in claims() if claim["claim"] == "C15"), "cpu", SEEDS)
    (only,) = found.contrasts
    means = [
        np.mean(
            [(r.metrics.get("none") or r.metrics["max"])["test"]["summary"]["average_precision"] for r in groups[m]]
        )
        for m in ("mlp", "rg")
    ]
    assert only.interval.mean == pytest.approx(100 * (means[0] - means[1]))
    assert only.text.startswith(f"{place}, AP: ")
    assert found.word == only.word == judge(only.interval, 1.0)
    assert {record.key for record in found.records} == {r.key for m in ("mlp", "rg") for r in groups[m]}


def one(name):
    return next(claim for claim in (*claims(), *claims("questions")) if claim["claim"] == name)


@pytest.mark.parametrize(("claim", "missing"), [("C5", "digit 0"), ("C25", "descriptions"), ("E3", "50% re-assigned")])
def test_without_records_a_claim_is_not_tested_and_says_what_is_missing(tmp_path, monkeypatch, claim, missing):
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path))
    found = verdict(one(claim), "smoke", SEEDS)
    assert found.word == "not tested"
    assert found.contrasts == found.records == ()
    assert missing in found.measured
    assert "Not all runs are recorded" in found.measured
    assert "regroup sweep " in found.measured


def test_what_no_run_can_test_says_what_would(tmp_path, monkeypatch):
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path))
    for claim in ("C24", "C27"):
        assert verdict(one(claim), "smoke", SEEDS).measured == one(claim)["not_tested"]
    assert verdict(one("C15"), "smoke", SEEDS).measured == "profile smoke has no runs that test it"


def test_a_question_needs_the_runs_of_its_contrasts_alone(tmp_path, monkeypatch):
    """E4 compares three of the four label sets; the fourth may be missing."""
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path))
    monkeypatch.setitem(plans.HEADLINE_SEEDS, "smoke", (0, 1))
    monkeypatch.setattr(looks, "EMBEDDED_POINTS", 100)  # t-SNE of all test digits takes seconds
    for spec in plans.headline("smoke"):
        if spec.method != "rg-true":
            run(spec)
    found = verdict(one("E4"), "smoke", SEEDS)
    assert len(found.contrasts) == 2
    assert found.word == combine([c.word for c in found.contrasts])
    assert verdict(one("C4"), "smoke", SEEDS).word == "not tested"


def test_no_source_of_a_page_has_another_verdict_word():
    """What cells print is looked at in the rendered pages (test_pages.py)."""
    sources = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("book/*.md"), ROOT / "README.md"]
    assert len(sources) > 20
    found = [f"{path.name}: {match[0]}" for path in sources for match in OTHER_VERDICTS.finditer(path.read_text())]
    assert found == []
