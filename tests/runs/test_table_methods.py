"""Tables: what reaches a classifier, records that come back, ranks against published numbers, refusals."""

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics import average_precision_score

from regroup_book import plans
from regroup_book.chapters import tables
from regroup_book.chapters.tables import TableResults
from regroup_lib import metrics
from regroup_lib.data import bundled_tables
from regroup_lib.data.bundled_tables import load_table
from regroup_lib.files import digest_file, write_npz
from regroup_lib.runs import differences, table_methods
from regroup_lib.runs.export import records_frame
from regroup_lib.runs.records import Record, find_record
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import TableSpec, parse_spec
from regroup_lib.runs.sweeps import sweep
from regroup_lib.runs.table_methods import METHODS, NotApplicable, measure_folds, out_of_fold, resample


def spec(method="plain", estimator="logreg", **options):
    return TableSpec(**{"profile": "smoke", "task": "iris-versicolor"} | options, method=method, estimator=estimator)


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("task", "shape", "positives"),
    [
        ("breast-cancer-malignant", (569, 30), 212),
        ("wine-1", (178, 13), 71),
        ("iris-virginica", (150, 4), 50),
        ("digits-3", (1797, 64), 183),
        ("diabetes-high", (442, 10), 47),
    ],
)
def test_tables_come_with_scikit_learn(task, shape, positives):
    table = load_table(task)
    assert (table.features.shape, int(table.labels.sum())) == (shape, positives)
    assert table.source == task.rpartition("-")[0]
    assert table.digest == load_table(task).digest


def test_a_digest_knows_the_positive_class():
    assert load_table("iris-versicolor").digest != load_table("iris-virginica").digest


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("abalone-7", "no table of that name; a task is SOURCE-CLASS with breast-cancer, wine"),
        ("iris-rose", "iris has no class 'rose'; it has setosa, versicolor, virginica"),
        ("iris", "no table of that name"),
    ],
)
def test_what_is_no_table_is_refused(task, message):
    with pytest.raises(ValueError, match=message):
        load_table(task)
    with pytest.raises(ValueError, match=message):
        spec(task=task)


HAM = """lesion_id,image_id,dx,dx_type,age,sex,localization
L1,I2,nv,histo,50.0,male,back
L1,I1,nv,follow_up,45.0,male,back
L2,I3,bcc,histo,,female,face
L3,I4,nv,consensus,30.0,unknown,back
"""


def test_ham10000_metadata_are_a_row_a_lesion_without_the_way_of_diagnosis(tmp_path):
    (tmp_path / "ham10000").mkdir()
    (tmp_path / "ham10000" / "HAM10000_metadata.csv").write_text(HAM)
    table = load_table("ham10000-metadata-bcc", data_dir=tmp_path)
    assert list(table.features) == ["age", "sex", "localization"]
    assert table.features["age"].tolist()[0] == 45  # the lesion's first image
    assert np.isnan(table.features["age"][1])
    assert table.labels.tolist() == [0, 1, 0]
    prepared = table_methods.make_preparation().fit_transform(table.features)
    assert np.isfinite(prepared).all()
    assert prepared.shape == (3, 1 + 3 + 2)


def test_missing_files_are_named_with_what_brings_them(tmp_path):
    with pytest.raises(ValueError, match=r"HAM10000_metadata.csv does not exist; run `regroup data fetch ham10000`"):
        load_table("ham10000-metadata-bcc", data_dir=tmp_path)


# ---------------------------------------------------------------- nothing learns from the rows held out


class Sentinel(TransformerMixin, BaseEstimator):
    """Notes the rows that it is fitted on, by their number in the first column, and passes hundredths on."""

    fitted: list = []  # noqa: RUF012 - shared by clones on purpose

    def fit(self, X, y=None):
        self.fitted.append(np.asarray(X)[:, 0].astype(int))
        return self

    def transform(self, X):
        return np.asarray(X, float) / 100


def numbers(prepared):
    """Return the rows' numbers from what `Sentinel` passed on."""
    return np.rint(100 * prepared[:, 0]).astype(int)


@pytest.fixture
def numbered():
    """Return a table of 100 rows, 20 of them positive, whose first column is the row's number."""
    rng = np.random.default_rng(0)
    labels = (np.arange(100) % 5 == 0).astype(np.int64)
    features = pd.DataFrame(
        {"row": np.arange(100.0), "a": rng.normal(size=100) + 2 * labels, "b": rng.normal(size=100)}
    )
    return bundled_tables.Table("numbered-1", "numbered", features, labels, "")


@pytest.mark.parametrize(
    ("method", "imbalance"),
    [("plain", None), ("smote", None), ("cluster-centroids", 8), ("rg", None), ("rg", 8), ("rg-auto", 8)],
)
def test_no_row_held_out_reaches_anything_that_is_fitted(numbered, monkeypatch, method, imbalance):
    """Not the preparation, not the resampler, not the classifier, which clusters and chooses K."""
    seen_by_resampler, seen_by_model = [], []
    real_resample, real_model = table_methods.resample, table_methods.make_model

    def watched_resample(name, X, y, seed):
        seen_by_resampler.append(numbers(X))
        return real_resample(name, X, y, seed)

    def watched_model(*args, **options):
        model = real_model(*args, **options)
        fit = model.fit
        model.fit = lambda X, y: (seen_by_model.append(X), fit(X, y))[1]
        return model

    monkeypatch.setattr(Sentinel, "fitted", [])
    monkeypatch.setattr(table_methods, "make_preparation", Sentinel)
    monkeypatch.setattr(table_methods, "resample", watched_resample)
    monkeypatch.setattr(table_methods, "make_model", watched_model)
    result = out_of_fold(numbered, method=method, estimator="logreg", imbalance=imbalance)
    assert len(Sentinel.fitted) == len(seen_by_model) == 5
    for fold, rows in enumerate(Sentinel.fitted):
        held_out = set(np.flatnonzero(result.folds == fold))
        assert not held_out & set(rows)
        positives = int(numbered.labels[rows].sum())
        assert positives == (16 if imbalance is None else 8)
        assert (numbered.labels[rows] == 0).sum() == 64
        if seen_by_resampler:
            assert set(seen_by_resampler[fold]) == set(rows)
        if METHODS[method].sampler is None:
            assert numbers(seen_by_model[fold]).tolist() == rows.tolist()


def test_folds_are_stratified_and_the_same_for_all_methods_with_one_seed(numbered):
    results = [
        out_of_fold(numbered, method=m, estimator="logreg", seed=s) for m, s in (("plain", 3), ("ros", 3), ("ros", 4))
    ]
    assert (results[0].folds == results[1].folds).all()
    assert (results[1].folds != results[2].folds).any()
    for fold in range(5):
        held_out = numbered.labels[results[0].folds == fold]
        assert (len(held_out), held_out.sum()) == (20, 4)


def test_a_score_is_written_to_the_row_that_it_belongs_to(numbered):
    """The labels are in the features here, so a right order separates and a wrong one does not."""
    numbered.features["label"] = numbered.labels * 10.0
    for rule, scores in out_of_fold(numbered, method="rg", estimator="forest").scores.items():
        assert scores.dtype == np.float32
        assert average_precision_score(numbered.labels, scores) == 1, rule


# ---------------------------------------------------------------- methods


@pytest.mark.parametrize(
    ("name", "expected"), [("ros", [80, 80]), ("smote", [80, 80]), ("cluster-centroids", [20, 20])]
)
def test_class_counts_after_resampling(numbered, name, expected):
    X, y = resample(name, numbered.features.to_numpy(), numbered.labels, seed=0)
    assert np.bincount(y).tolist() == expected
    assert len(X) == len(y)


def test_oversampling_keeps_all_rows_and_smote_takes_as_many_neighbors_as_there_are(numbered):
    rows = np.r_[np.flatnonzero(numbered.labels == 0), np.flatnonzero(numbered.labels)[:3]]
    X = numbered.features.to_numpy()[rows]
    for name in ("ros", "smote"):
        made, y = resample(name, X, numbered.labels[rows], seed=0)
        assert (made[: len(X)] == X).all()
        assert np.bincount(y).tolist() == [80, 80]


def counts_of(method, estimator="logreg", **options):
    table = load_table("iris-versicolor")
    return out_of_fold(table, method=method, estimator=estimator, imbalance=8, n_folds=2, **options).regrouping


def test_the_majority_is_divided_by_the_ratio_of_the_training_folds():
    described = counts_of("rg")
    assert described["n_clusters"] == [9, 9]  # 50 negatives by 6 positives
    assert described["parent"] == [0] * 9 + [1]
    assert (sum(described["counts"][:-1]), described["counts"][-1]) == (50, 6)
    assert set(described["before"]) == set(tables.FORESEEN)


def test_the_control_has_equal_groups_and_the_options_of_a_spec_arrive():
    groups = counts_of("rg-random")["counts"]
    assert set(groups[:-1]) == {5, 6}
    assert groups != counts_of("rg")["counts"]
    assert counts_of("rg", threshold=13)["n_clusters"] == [4, 4]


def test_the_automatic_choice_is_one_of_the_ladder():
    assert set(counts_of("rg-auto")["n_clusters"]) <= {1, 2, 3, 5, 9, 17, 18}


@pytest.mark.parametrize("estimator", table_methods.ESTIMATORS)
def test_weights_and_seeds_reach_the_classifier(estimator):
    weighted = table_methods.make_model("weights", estimator, seed=5)
    assert weighted.class_weight == "balanced"
    assert table_methods.make_model("plain", estimator, seed=5).class_weight is None
    assert table_methods.make_model("rg-weights", estimator, seed=5).estimator.class_weight == "balanced"
    if estimator != "logreg":
        assert weighted.random_state == 5


def test_a_balanced_forest_draws_as_many_of_both_classes(numbered):
    model = table_methods.make_model("balanced-forest", "forest", seed=0).fit(numbered.features, numbered.labels)
    assert type(model).__name__ == "BalancedRandomForestClassifier"
    assert set(model.samplers_[0].sampling_strategy_.values()) == {20}


def test_a_refusal_becomes_a_reason(numbered):
    with pytest.raises(NotApplicable, match=r"^No clusters found with sufficient samples of class 1$"):
        resample("kmeans-smote", numbered.features.to_numpy(), numbered.labels, seed=0)
    result = out_of_fold(numbered, method="kmeans-smote", estimator="logreg")
    assert result.scores == {}
    assert result.reason.startswith("fold 1 of 5: No clusters found")


# ---------------------------------------------------------------- measures


def test_average_precision_is_the_mean_over_folds_and_balanced_accuracy_is_pooled():
    labels = np.array([0, 0, 1, 0, 1, 0, 0, 1])
    folds = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.6, 0.8, 0.7], np.float32)
    found = measure_folds(labels, folds, scores)
    by_fold = [average_precision_score(labels[folds == f], scores[folds == f]) for f in (0, 1)]
    assert by_fold == pytest.approx([1 / 2, (1 + 2 / 3) / 2])
    assert found["average_precision_by_fold"] == pytest.approx(by_fold)
    assert found["summary"]["average_precision"] == pytest.approx(np.mean(by_fold))
    assert found["pooled_average_precision"] == pytest.approx(average_precision_score(labels, scores))
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 3 / 5) / 2)


def test_a_fold_whose_scores_are_shifted_costs_nothing_but_in_the_pooled_number():
    labels, folds = np.tile([0, 0, 1], 4), np.repeat([0, 1], 6)
    scores = np.tile([0.1, 0.2, 0.3], 4) + folds * 0.5
    found = measure_folds(labels, folds, scores)
    assert found["summary"]["average_precision"] == 1
    assert found["pooled_average_precision"] < 1


# ---------------------------------------------------------------- records


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, "868400ea6df31dc0"),
        ({"method": "rg", "imbalance": 10, "seed": 2}, "4bb6aee2aa087469"),
        ({"n_folds": 5, "clusterer": None, "n_clusters": None}, "868400ea6df31dc0"),  # fields that specs had once
    ],
)
def test_keys_are_those_of_the_committed_records(options, key):
    """A change here makes every committed record unfindable."""
    values = {"kind": "table", "task": "iris-versicolor", "method": "plain", "estimator": "logreg"} | options
    assert parse_spec(values).key == key


def test_a_field_at_its_default_does_not_enter_the_key():
    for name, field in TableSpec.model_fields.items():
        if not field.is_required() and name not in ("profile", "kind"):
            assert spec(**{name: field.default}).key == spec().key


CHANGES = [
    {"task": "iris-virginica"},
    {"seed": 1},
    {"imbalance": 10},
    {"estimator": "forest"},
    {"method": "rg"},
    {"method": "rg", "threshold": 20},
    {"profile": "cpu"},
]


def test_whatever_decides_a_number_changes_the_key():
    keys = [spec(**change).key for change in [{}, *CHANGES]]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "no method is called 'magic'; there are plain, weights"),
        ({"estimator": "svm"}, "no estimator is called 'svm'; there are logreg, forest, boosting"),
        ({"method": "balanced-forest"}, "method 'balanced-forest' goes with forest"),
        ({"threshold": 20}, "method 'plain' does not regroup"),
        ({"n_folds": 4}, "n_folds: Extra inputs are not permitted"),
        ({"imbalance": 0}, "imbalance"),
        ({"encoder": "raw"}, "encoder"),
    ],
)
def test_a_wrong_spec_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        parse_spec({"kind": "table", "task": "iris-versicolor", "method": "plain", "estimator": "logreg"} | options)


def test_an_imbalance_below_the_tables_own_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"imbalance is 1\.5.* it must be at least their ratio, 2"):
        run(spec(imbalance=1.5), results_dir=tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_a_record_comes_back_whole_and_is_not_run_again(tmp_path, monkeypatch):
    wanted = spec("rg", imbalance=10)
    record = run(wanted, results_dir=tmp_path)
    assert record.path.name == f"table-logreg-rg-1to10-s0-{wanted.key}.json"
    assert find_record(wanted, tmp_path) == record
    arrays = record.arrays()
    assert set(arrays) == {"test_labels", "folds", "test_scores_max", "test_scores_sum"}
    for rule in ("max", "sum"):
        scores = arrays[f"test_scores_{rule}"]
        assert scores.dtype == np.float32
        assert measure_folds(arrays["test_labels"], arrays["folds"], scores) == record.metrics[rule]["test"]
    assert record.data_digest == load_table("iris-versicolor").digest
    assert set(record.seconds) == {"prepare", "resample", "train"}
    assert {"imbalanced-learn", "scikit-learn"} <= set(record.versions)

    def must_not_run(*args, **options):
        raise AssertionError("it was run again")

    monkeypatch.setattr(table_methods, "out_of_fold", must_not_run)
    assert sweep([wanted], results_dir=tmp_path) == [record]


def test_a_run_gives_the_same_numbers_again(tmp_path):
    first = run(spec("rg-random", "logreg"), results_dir=tmp_path)
    again = run(spec("rg-random", "logreg"), results_dir=tmp_path, recompute=True)
    assert first.metrics == again.metrics


def test_a_method_that_cannot_be_used_leaves_a_record_that_says_why(tmp_path):
    record = run(spec("kmeans-smote", task="wine-1", imbalance=10), results_dir=tmp_path)
    assert (record.status, record.metrics) == ("not applicable", {})
    assert re.match(r"fold \d of 5: No clusters found", record.reason)
    assert find_record(record.spec, tmp_path).reason == record.reason
    assert set(record.arrays()) == {"test_labels", "folds"}
    (row,) = records_frame([record]).to_dict("records")
    assert (row["status"], row["method"], row["estimator"]) == ("not applicable", "kmeans-smote", "logreg")
    assert np.isnan(row["average_precision"])


def test_records_of_tables_are_exported_beside_the_others(tmp_path):
    record = run(spec("rg", imbalance=10), results_dir=tmp_path)
    rows = records_frame([record]).to_dict("records")
    assert [row["aggregation"] for row in rows] == ["max", "sum"]
    assert {row["n_clusters"] for row in rows} == {10}
    assert rows[0]["clusterer"] == "kmeans"
    assert rows[0]["imbalance"] == 10
    assert rows[1]["average_precision"] == record.metrics["sum"]["test"]["summary"]["average_precision"]


# ---------------------------------------------------------------- ranks

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


# ---------------------------------------------------------------- the chapter on tables

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
    assert results.source_of == {"iris-versicolor": "iris", "iris-versicolor, 10:1": "iris", "wine-1": "wine"}
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
    assert np.isnan(results.differences("logreg", "kmeans-smote")["wine-1"].mean)
    usable = TableResults([r for r in results.records if r.spec.method != "kmeans-smote"])
    assert tables.reasons_table(usable).empty


def test_resampled_precision_is_the_mean_over_folds_of_the_resampled_folds(results):
    record = results.group("logreg", "wine-1", "rg")[0]
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
    assert str(same) == "neither better nor worse on any of 3 tasks"
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
        (5, 1, "helps and hurts"),
    ],
)
def test_a_tally_in_a_word(better, worse, word):
    assert tables.Tally(("t",) * better, ("t",) * worse, 6).word == word


def test_sentences_follow_the_records(results, tmp_path):
    text = tables.summary(results)
    assert (
        "**Logistic regression: regrouping helps.** Against the plain classifier, regrouping is better on 3 of 3"
        in text
    )
    assert "chosen by cross-validation, it is neither better nor worse on any of 3 tasks." in text
    assert "**Random forest: regrouping helps" not in text
    assert "**A free choice of classifier: regrouping helps.**" in text
    assert "The gains are on iris and wine." in text
    pattern = r"all 7 methods has p (= 0\.\d{3}|< 0\.001)\. RG has a mean rank of 1\.\d"
    assert re.search(pattern, tables.describe_ranks(results, "logreg"))
    blunt = "So the gain need not come from the clusters."
    assert blunt not in text
    for lifts, found in (({"rg": 0.0, "plain": 3.0}, "hurts"), ({"rg": 3.0, "plain": 1.0}, "helps")):
        made = make_results(tmp_path / found, lifts | {"rg-random": 3.0}, ("logreg",), MADE_TASKS[2:], (0,))
        text = tables.summary(made)
        assert f"**Logistic regression: regrouping {found}.**" in text
        assert (blunt in text) == (found == "helps")  # random groups gain as much
        assert "A free choice" not in text


def test_tables_have_a_row_for_each_task_or_contestant(results):
    described = tables.task_table(results)
    assert list(described.index) == results.tasks
    assert described.loc["wine-1", ["training", "chance", "K"]].tolist() == ["160 : 40", "20.0", 2]
    ranked = tables.rank_table(results, "logreg")
    assert set(ranked.index) == {tables.LABELS[name] for name in results.contestants("logreg")}
    assert ranked["mean rank"].astype(float).is_monotonic_increasing
    assert ranked.loc["RG", "better than plain"] == 3
    assert set(tables.choice_table(results)["best, regrouped"]) == {"logistic regression"}
    assert all(difference.mean > 0 for difference in results.free_choice().values())


# ---------------------------------------------------------------- the plan


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
def test_the_plan_has_every_method_with_every_classifier_that_it_goes_with(profile):
    specs = plans.tabular(profile, [0, 1, 2])
    assert len(specs) == len({s.key for s in specs})
    for estimator in plans.TABULAR_ESTIMATORS[profile]:
        methods = {m for m in plans.TABULAR_METHODS[profile] if estimator in METHODS[m].estimators}
        for task, imbalance in plans.TABULAR_TASKS[profile]:
            chosen = [s for s in specs if (s.estimator, s.task, s.imbalance) == (estimator, task, imbalance)]
            assert {s.method for s in chosen} == methods
            assert len(chosen) == 3 * len(methods)
    assert {"plain", "rg", "rg-random"} <= set(plans.TABULAR_METHODS[profile])  # what the sentences compare
