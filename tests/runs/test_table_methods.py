"""Tables: what reaches a classifier, records that come back, refusals."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics import average_precision_score

from regroup_book.chapters import tables
from regroup_lib.data import bundled_tables
from regroup_lib.data.bundled_tables import load_table
from regroup_lib.runs import table_methods
from regroup_lib.runs.export import records_frame
from regroup_lib.runs.records import find_record
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import TableSpec
from regroup_lib.runs.sweeps import sweep
from regroup_lib.runs.table_methods import METHODS, NotApplicable, measure_folds, out_of_fold, resample


def spec(method="plain", estimator="logreg", **options):
    return TableSpec(**{"profile": "smoke", "task": "iris-versicolor"} | options, method=method, estimator=estimator)


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


@pytest.mark.parametrize(
    ("name", "expected"), [("ros", [80, 80]), ("smote", [80, 80]), ("cluster-centroids", [20, 20])]
)
def test_class_counts_after_resampling(numbered, name, expected):
    X, y = resample(name, numbered.features.to_numpy(), numbered.labels, seed=0)
    assert np.bincount(y).tolist() == expected
    assert len(X) == len(y)


def test_smote_takes_as_many_neighbors_as_there_are(numbered):
    rows = np.r_[np.flatnonzero(numbered.labels == 0), np.flatnonzero(numbered.labels)[:3]]
    _, y = resample("smote", numbered.features.to_numpy()[rows], numbered.labels[rows], seed=0)
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
    assert set(record.seconds) == {"prepare", "resample", "train"}
    rows = records_frame([record]).to_dict("records")
    assert [row["aggregation"] for row in rows] == ["max", "sum"]
    assert {(row["n_clusters"], row["clusterer"], row["imbalance"]) for row in rows} == {(10, "kmeans", 10)}
    assert rows[1]["average_precision"] == record.metrics["sum"]["test"]["summary"]["average_precision"]

    def must_not_run(*args, **options):
        raise AssertionError("it was run again")

    monkeypatch.setattr(table_methods, "out_of_fold", must_not_run)
    assert sweep([wanted], results_dir=tmp_path) == [record]


def test_a_method_that_cannot_be_used_leaves_a_record_that_says_why(tmp_path):
    record = run(spec("kmeans-smote", task="wine-1", imbalance=10), results_dir=tmp_path)
    assert (record.status, record.metrics) == ("not applicable", {})
    assert re.match(r"fold \d of 5: No clusters found", record.reason)
    assert find_record(record.spec, tmp_path).reason == record.reason
    assert set(record.arrays()) == {"test_labels", "folds"}
    (row,) = records_frame([record]).to_dict("records")
    assert (row["status"], row["method"], row["estimator"]) == ("not applicable", "kmeans-smote", "logreg")
    assert np.isnan(row["average_precision"])
