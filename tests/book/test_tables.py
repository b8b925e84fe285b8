"""The chapter on tables: ranks against published numbers, made records whose sentences are known, its plan."""

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare
from sklearn.metrics import average_precision_score

from regroup_book import differences, plans
from regroup_book.chapters import tables
from regroup_book.chapters.tables import TableResults
from regroup_lib import metrics
from regroup_lib.files import digest_file, write_npz
from regroup_lib.runs.records import Record
from regroup_lib.runs.specs import TableSpec
from regroup_lib.runs.table_methods import METHODS, measure_folds


def spec(method="plain", estimator="logreg", **options):
    return TableSpec(**{"profile": "smoke", "task": "iris-versicolor"} | options, method=method, estimator=estimator)


# Demšar (2006), Table 5 (a): critical values of the Nemenyi test for 2 to 10 classifiers.
NEMENYI = {
    0.05: (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164),
    0.10: (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920),
}


@pytest.mark.parametrize("alpha", NEMENYI)
def test_critical_values_are_those_of_demsars_table(alpha):
    for k, value in enumerate(NEMENYI[alpha], start=2):
        expected = value * np.sqrt(k * (k + 1) / (6 * 20))
        assert tables.critical_difference(k, 20, alpha) == pytest.approx(expected, rel=1e-3)


def test_friedmans_test_is_that_of_demsars_example_and_scipys_where_nothing_ties():
    """Four variants of C4.5 on 14 data sets: F = 3.69, beyond the critical value 2.85 of F(3, 39)."""
    statistic, p_value = tables.friedman([3.143, 2.000, 2.893, 1.964], 14)
    assert statistic == pytest.approx(3.69, abs=0.01)
    assert p_value < 0.05
    values = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 5)))
    chi_square = friedmanchisquare(*values.to_numpy().T).statistic
    statistic, _ = tables.friedman(tables.rank_methods(values).mean(), 9)
    assert statistic == pytest.approx(8 * chi_square / (9 * 4 - chi_square))
    assert tables.friedman([1, 2, 3], 5) == (np.inf, 0)  # all tasks agree


@given(st.permutations(range(5)), st.permutations(range(6)))
def test_ranks_do_not_depend_on_the_order_of_methods_or_tasks(columns, rows):
    values = pd.DataFrame(np.random.default_rng(1).integers(0, 4, size=(6, 5)) / 4, columns=list("abcde"))
    values.iloc[2, 3] = np.nan
    expected = tables.rank_methods(values)
    found = tables.rank_methods(values.iloc[list(rows), list(columns)])
    pd.testing.assert_frame_equal(found.loc[expected.index, expected.columns], expected)
    assert (expected.sum(axis=1) == 15).all()
    assert expected.iloc[2, 3] == 5


def test_a_source_counts_once_however_many_tasks_it_has():
    values = pd.DataFrame({"a": [0.9, 0.9, 0.9, 0.1], "b": [0.5] * 4}, index=list("wxyz"))
    by_source = tables.ranks_by_source(tables.rank_methods(values), ["one", "one", "one", "two"])
    assert by_source.mean().tolist() == [1.5, 1.5]
    assert tables.rank_methods(values).mean().tolist() == [1.25, 1.75]


LIFTS = {"plain": 1.0, "rg": 3.0, "rg-auto": 1.0, "rg-random": 1.0, "cluster-centroids": 0.0, "kmeans-smote": 1.0}
MADE_TASKS = (("iris-versicolor", None), ("iris-versicolor", 10), ("wine-1", None))


def write_record(folder, made, lift, *, n=200, positives=40):
    """Write a record whose positives score `lift` higher, and return it."""
    method = METHODS[made.method]
    rng = np.random.default_rng([made.seed, len(made.task), int(made.imbalance or 0)])
    labels, folds = (np.arange(n) % (n // positives) == 0).astype(np.uint8), (np.arange(n) // 5 % 5).astype(np.uint8)
    scores = {
        rule: (1 / (1 + np.exp(-(rng.normal(size=n) + lift * labels)))).astype(np.float32) for rule in method.rules
    }
    if made.method == "kmeans-smote":
        scores = {}
    path = made.path(folder)
    write_npz(
        path.with_suffix(".npz"),
        {"test_labels": labels, "folds": folds} | {f"test_scores_{rule}": s for rule, s in scores.items()},
    )
    before = {"silhouette": lift / 10, "stability": 0.5, "minority neighbors": 0.1 * len(made.task)}
    return Record(
        spec=made,
        status="finished" if scores else "not applicable",
        reason="" if scores else "fold 1 of 5: no cluster holds enough",
        metrics={rule: {"test": measure_folds(labels, folds, s)} for rule, s in scores.items()},
        seconds={},
        data_digest="",
        regrouping={"parent": [0, 0, 1], "counts": [80, 80, 40], "before": before},
        machine={"cores": 2, "architecture": "x"},
        path=path,
        arrays_digest=digest_file(path.with_suffix(".npz")),
    )


def make_results(folder, lifts=LIFTS, estimators=("logreg", "forest"), made_tasks=MADE_TASKS, seeds=(0, 1)):
    """Make records of every method in `lifts`; they lift a logistic regression alone."""
    wanted = [
        spec(method, estimator, task=task, imbalance=imbalance, seed=seed)
        for seed, (task, imbalance), estimator, method in product(seeds, made_tasks, estimators, lifts)
    ]
    return TableResults(
        [write_record(folder, made, lifts[made.method] if made.estimator == "logreg" else 1.0) for made in wanted]
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("made"))


def test_results_have_their_tasks_sources_and_contestants_and_the_same_seeds(results):
    assert results.estimators == ["logreg", "forest"]
    assert results.source_of == {"iris (versicolor)": "iris", "iris (versicolor), 10:1": "iris", "wine (1)": "wine"}
    assert set(results.contestants("logreg")) == {*LIFTS, "rg-sum"}
    with pytest.raises(ValueError, match="different seeds"):
        TableResults(results.records[:-1])


def test_a_method_that_cannot_be_used_ranks_last_and_is_shown(results):
    found = results.ranks("logreg")
    assert (found["kmeans-smote"] == found.shape[1]).all()
    assert (tables.precision_table(results, "logreg")["KMeansSMOTE"] == "n. a.").all()
    assert tables.rank_table(results, "logreg").loc["KMeansSMOTE", "could not be used"] == 3
    (row,) = tables.reasons_table(results).reset_index().to_dict("records")
    assert row == {"method": "KMeansSMOTE", "tasks": "; ".join(results.tasks), "message": "no cluster holds enough"}
    assert np.isnan(results.differences("logreg", "kmeans-smote")["wine (1)"].mean)
    usable = TableResults([r for r in results.records if r.spec.method != "kmeans-smote"])
    assert tables.reasons_table(usable).empty


def test_resampled_precision_is_the_mean_over_folds_of_the_resampled_folds(results):
    record = results.group("logreg", "wine (1)", "rg")[0]
    arrays = record.arrays()
    counts = metrics.bootstrap_counts(arrays["test_labels"], differences.N_RESAMPLES)
    found = tables.resampled_precisions(record, "max")
    for i in (0, 17):
        expected = [
            average_precision_score(
                arrays["test_labels"][rows], arrays["test_scores_max"][rows], sample_weight=counts[i][rows]
            )
            for rows in (np.flatnonzero(arrays["folds"] == f) for f in range(5))
        ]
        assert found[i] == pytest.approx(np.mean(expected))


def test_differences_are_counted_by_their_intervals(results):
    assert tables.tally(results.differences("logreg", "rg")) == tables.Tally(tuple(results.tasks), (), 3)
    same = tables.tally(results.differences("logreg", "plain"))
    assert str(same) == "0 better, 0 worse"
    found = tables.tally(results.differences("logreg", "cluster-centroids"))
    assert found.better == ()
    assert len(found.worse) >= 2


@pytest.mark.parametrize(
    ("better", "worse", "word"),
    [
        (0, 0, "changes little"),
        (2, 0, "helps on a few tables"),
        (3, 0, "helps"),
        (0, 3, "hurts"),
        (0, 1, "hurts on a few tables"),
        (5, 1, "helps on some tables and hurts on others"),
    ],
)
def test_a_tally_in_a_word(better, worse, word):
    assert tables.Tally(("t",) * better, ("t",) * worse, 6).word == word


def test_the_summary_counts_tasks_and_names_their_sources(results, tmp_path):
    found = tables.summary_table(results)
    assert found.loc["logistic regression"].tolist() == [
        *("3 better, 0 worse", "iris, wine", "", "0 better, 0 worse", "3 better, 0 worse")
    ]
    assert found.iloc[-1].tolist() == ["3 better, 0 worse", "iris, wine", "", "", ""]
    pattern = r"cannot be told apart by rank.*: p (= 0\.\d{3}|< 0\.001)\. Critical difference: \d\.\d, or \d"
    assert re.search(pattern, tables.describe_ranks(results, "logreg"))
    made = make_results(tmp_path, {"rg": 0.0, "plain": 3.0, "rg-random": 3.0}, ("logreg",), MADE_TASKS[2:], (0,))
    assert tables.summary_table(made).iloc[0].tolist()[:4] == ["0 better, 1 worse", "", "wine", "not run"]


def test_tables_have_a_row_for_each_task_or_contestant(results):
    described = tables.task_table(results)
    assert list(described.index) == results.tasks
    assert described.loc["wine (1)", ["training", "chance", "K"]].tolist() == ["160 : 40", "20.0", 2]
    ranked = tables.rank_table(results, "logreg")
    assert set(ranked.index) == {tables.LABELS[name] for name in results.contestants("logreg")}
    assert ranked["mean rank"].astype(float).is_monotonic_increasing
    assert ranked.loc["RG", "better than plain"] == 3
    assert set(tables.choice_table(results)["best, regrouped"]) == {"logistic regression"}
    assert all(difference.mean > 0 for difference in results.free_choice().values())


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
def test_the_plan_has_every_method_with_every_classifier_that_it_goes_with(profile):
    specs = plans.tabular(profile, [0, 1, 2])
    for estimator in plans.TABULAR_ESTIMATORS[profile]:
        methods = {m for m in plans.TABULAR_METHODS[profile] if estimator in METHODS[m].estimators}
        for task, imbalance in plans.TABULAR_TASKS[profile]:
            chosen = [s for s in specs if (s.estimator, s.task, s.imbalance) == (estimator, task, imbalance)]
            assert {s.method for s in chosen} == methods
            assert len(chosen) == 3 * len(methods)
    assert {"plain", "rg", "rg-random"} <= set(plans.TABULAR_METHODS[profile])  # what the sentences compare
