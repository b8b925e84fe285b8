"""Several classes: Table 2 from made records, clusters and splits from real runs, long tails by their profile."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import f1_score

from regroup_book import method_tables, plans
from regroup_book.chapters import multiclass
from regroup_book.differences import bootstrap_precisions, scores_on_test, values
from regroup_lib.data.dataset import Dataset, Split
from regroup_lib.data.ham10000 import divided
from regroup_lib.data.load import load_data
from regroup_lib.data.tasks import long_tail_counts, make_task
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import EncoderSpec, Spec, parse_spec

NAMES = ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")
COUNTS = (60, 12, 11, 9, 8, 7, 6)


@pytest.fixture
def make_record(measured_record):
    """Return a function that makes a seven-class record whose true classes score `lift` higher."""

    def make(method, seed=0, *, lift=2.0, images=1.0, **fields):
        uses_encoder = method in ("rusc", "mlp") or method.startswith("rg")
        spec = Spec(task="ham10000", method=method, seed=seed, encoder="pca" if uses_encoder else None, **fields)
        rng = np.random.default_rng([seed, len(method), int(10 * lift)])
        labels = np.repeat(np.arange(7), COUNTS).astype(np.uint8)
        logits = rng.normal(size=(len(labels), 7)) + lift * np.eye(7)[labels]
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        rule = "max" if method.startswith("rg") else "none"
        parent = [0, 0, 0, 1, 2, 3, 4, 5, 6] if rule == "max" else list(range(7))
        seen = {"test_in_training": np.arange(len(labels)) % 2 == 0} if spec.split == "image" else {}
        return measured_record(
            spec,
            labels,
            {rule: {"test": scores, "val": scores}},
            NAMES,
            arrays=seen,
            seconds={"encode": 5.0, "regroup": 0.1, "resample": 0.0, "train": 9.9},
            traces=[{"images": int(1000 * images)}] * 2,
            regrouping={"parent": parent, "counts": [30, 20, 10, *COUNTS[1:]] if rule == "max" else list(COUNTS)},
        )

    return make


@pytest.fixture
def groups(make_record):
    """Make two seeds of each method; RG is good and ROS better, at 4.7 times the images."""
    lifts = {"rg": 3.5, "ros": 5.0, "mlp": 0.5}
    return {
        m: [make_record(m, s, lift=lifts.get(m, 2.0), images=4.7 if m == "ros" else 1.0) for s in (0, 1)]
        for m in plans.TABLE_METHODS["cpu"]
    }


def test_the_class_table_has_ours_over_the_papers_number(groups):
    table = multiclass.class_table(groups, "ham10000")
    assert list(table.columns) == ["BA", *NAMES]
    assert list(table.index) == [method_tables.title(m) for m in groups]
    ours = np.mean([100 * r.metrics["none"]["test"]["average_precision"]["df"] for r in groups["ros"]])
    assert table.loc["ROS", "df"].removeprefix("**").startswith(f"{ours:.1f} ± ")
    assert '<span class="paper">47.0 ± 2.7</span>' in table.loc["ROS", "df"]
    assert "paper" not in table.loc["SOAP", "df"]
    assert sum("**" in cell for cell in table["mel"]) == 1
    assert "<br><span" in method_tables.sortable(table, html_cells=True).data


def test_macro_f1_is_scikit_learns(groups):
    labels, scores = scores_on_test(groups["ce"][0])
    expected = f1_score(labels, scores.argmax(axis=1), average="macro")
    assert values(groups["ce"], "macro_f1")[0] == pytest.approx(100 * expected)


def test_the_bootstrap_of_several_classes_averages_them(groups):
    by_class = [bootstrap_precisions(groups["ce"], [c]) for c in range(7)]
    np.testing.assert_allclose(bootstrap_precisions(groups["ce"]), np.mean(by_class, axis=0))


def test_class_counts_add_up_the_pseudo_classes(make_record):
    whole, parts = multiclass.class_counts(make_record("rg"))
    assert whole.tolist() == list(COUNTS)
    assert parts[0].tolist() == [30, 20, 10]
    assert [len(part) for part in parts] == [3, 1, 1, 1, 1, 1, 1]


def test_the_sensitivity_table_has_a_row_a_threshold(make_record):
    by_threshold = {t: [make_record("rg", s, threshold=t) for s in (0, 1)] for t in (81.0, 162.0)}
    table = multiclass.sensitivity_table(by_threshold)
    assert list(table.index) == ["81", "162"]
    assert (table["pseudo-classes"] == 9).all()


def test_recall_by_exposure_is_that_of_the_two_halves(make_record):
    record = make_record("ce", split="image")
    labels, scores = scores_on_test(record)
    seen = record.arrays()["test_in_training"]
    predicted = scores.argmax(axis=1)
    expected = [np.mean([(predicted[h & (labels == c)] == c).mean() for c in range(7)]) for h in (seen, ~seen)]
    np.testing.assert_allclose(multiclass.recall_by_exposure(record), expected)


def test_the_leakage_table_subtracts_the_honest_split(groups, make_record):
    leaking = {"ce": [make_record("ce", s, lift=4.0, split="image") for s in (0, 1)]}
    table = multiclass.leakage_table(groups, leaking)
    honest, naive = (values(g, "average_precision").mean() for g in (groups["ce"], leaking["ce"]))
    assert table.loc["CE", "mean AP, inflated by"] == f"{naive - honest:+.1f}"
    assert "50%" in multiclass.leakage_sentence(leaking)
    assert "not come in groups" in multiclass.leakage_sentence({})


def test_the_budget_table_has_images_relative_to_ce(groups, make_record):
    table = multiclass.budget_table(groups, [make_record("ros", s, epochs=9) for s in (0, 1)])
    assert table["images seen"].tolist() == ["1.00", "4.70", "1.00"]
    assert table["epochs"].tolist() == [30, 30, 9]


def test_the_headline_says_who_is_first_and_where_rg_stands(groups, make_record):
    ap = {m: values(g, "average_precision").mean() for m, g in groups.items()}
    place = 1 + sum(value > ap["rg"] for value in ap.values())
    first = method_tables.title(max(ap, key=ap.get))
    text = multiclass.headline(groups)
    assert text.startswith(f"By mean AP, RG has rank {place}, and {first} is first of {len(groups)} methods.")
    on_df = {m: values(g, "average_precision_df").mean() for m, g in groups.items()}
    assert (
        f"{method_tables.title(max(on_df, key=on_df.get))} is first with an AP of {max(on_df.values()):.1f} ±" in text
    )
    assert f"RG has {on_df['rg']:.1f} ±" in text
    best = {"ce": groups["ce"], "rg": [make_record("rg", s, lift=9.0) for s in (0, 1)]}
    assert multiclass.headline(best).startswith("By mean AP, RG is first of 2 methods.")
    equal = {"ce": groups["ce"], "rg": groups["ce"]}
    assert multiclass.gains_by_class(equal) == "RG and CE differ clearly on none of the 7 classes."
    assert "nv (" in multiclass.gains_by_class(best)


def test_thresholds_share_the_grids_runs(empty_results):
    by_threshold = plans.threshold_runs("ham10000", "cpu", [0, 1, 2])
    assert next(iter(by_threshold)) == 81
    assert len(by_threshold) >= 5
    first_seed = [runs[0] for runs in by_threshold.values()]
    assert first_seed == plans.tuning_specs("cpu", "ham10000", "rg", 0)
    specs = plans.chapter_specs("multiclass")
    assert {run for runs in by_threshold.values() for run in runs} <= set(specs)


def test_oversampling_at_equal_budget_sees_about_as_many_images_as_ce():
    for run_ in plans.equal_budget_runs("ham10000", "cpu", [0]):
        longer = 7 * 4693 / 7009  # seven classes, each as large as the largest
        assert 30 <= run_.epochs * longer < 30 + longer


@pytest.mark.parametrize(
    ("largest", "n_classes", "ratio", "total"),
    [(5000, 10, 100, 12406), (5000, 10, 10, 20431), (500, 100, 100, 10847), (500, 100, 10, 19573)],
)
def test_long_tails_have_the_published_counts(largest, n_classes, ratio, total):
    counts = long_tail_counts(largest, n_classes, ratio)
    assert sum(counts) == total
    assert counts[0] == largest
    assert counts[-1] == largest // ratio


@pytest.mark.parametrize(("largest", "n", "ratio"), [(10, 1, 10), (10, 5, 0.5), (10, 5, float("nan")), (10, 5, 100)])
def test_a_long_tail_that_cannot_be_is_refused(largest, n, ratio):
    with pytest.raises(ValueError, match=r"long tail|leaves no sample"):
        long_tail_counts(largest, n, ratio)


def test_a_long_tailed_task_thins_the_training_split_alone():
    task, whole = make_task("digits-lt"), make_task("digits")
    assert task.class_counts == long_tail_counts(whole.class_counts[0], 10, 10)
    np.testing.assert_array_equal(task.val.index, whole.val.index)
    np.testing.assert_array_equal(task.test.labels, whole.test.labels)
    assert set(task.train.index) <= set(whole.train.index)
    assert not set(task.train.index) & set(task.val.index)


def grouped_dataset(n=200):
    rng = np.random.default_rng(0)
    lesions = np.sort(rng.integers(0, n // 2, n))
    labels = lesions % 2
    part = np.array(["train", "val", "test"])[np.digitize(lesions % 20 / 20, [0.7, 0.8])]
    images = rng.integers(0, 256, (n, 4, 4, 3)).astype(np.uint8)
    rows = {s: np.flatnonzero(part == s) for s in ("train", "val", "test")}
    metadata = {
        s: {"lesion_id": lesions[r].astype(str), "image_id": np.array([f"i{i:04d}" for i in r])}
        for s, r in rows.items()
    }
    splits = {s: Split(images[r], labels[r].astype(np.int64)) for s, r in rows.items()}
    return Dataset("ham10000", splits, ("a", "b"), "digest", metadata)


def samples(dataset):
    """Return each image's name, lesion, label and pixels, in the order of the names."""
    parts = [(dataset.metadata[name], part) for name, part in dataset.splits.items()]
    rows = [zip(c["image_id"], c["lesion_id"], part.labels, map(bytes, part.inputs), strict=True) for c, part in parts]
    return sorted(itertools.chain(*rows))


def test_a_split_by_image_keeps_all_images_and_tears_lesions_apart():
    honest = grouped_dataset()
    naive = divided(honest, "image")
    assert samples(naive) == samples(honest)
    assert naive.digest != honest.digest
    shared = [set(d.metadata["train"]["lesion_id"]) & set(d.metadata["test"]["lesion_id"]) for d in (honest, naive)]
    assert [bool(lesions) for lesions in shared] == [False, True]
    fractions = [len(naive.splits[s]) / 200 for s in ("train", "val", "test")]
    np.testing.assert_allclose(fractions, [0.7, 0.1, 0.2], atol=0.02)


def test_in_five_folds_every_image_tests_once_and_no_lesion_is_in_two_splits():
    honest, tested = grouped_dataset(), []
    for fold in range(5):
        dataset = divided(honest, f"fold-{fold}")
        lesions = [set(dataset.metadata[s]["lesion_id"]) for s in ("train", "val", "test")]
        assert sum(map(len, lesions)) == len(set.union(*lesions))
        assert dataset.digest != honest.digest
        tested += dataset.metadata["test"]["image_id"].tolist()
    assert sorted(tested) == sorted(np.concatenate([honest.metadata[s]["image_id"] for s in honest.splits]))


@pytest.mark.parametrize("given_as", [{"nv": 4, "mel": 2}, [["nv", 4], ["mel", 2]], (("mel", 2), ("nv", 4))])
def test_clusters_by_class_name_are_one_spec_however_they_are_given(given_as):
    spec = parse_spec({"task": "ham10000", "method": "rg", "encoder": "raw", "n_clusters": given_as})
    assert spec == Spec(task="ham10000", method="rg", encoder="raw", n_clusters={"mel": 2, "nv": 4})
    assert parse_spec(spec.model_dump(mode="json")).key == spec.key
    assert hash(spec)


def test_a_threshold_above_the_largest_class_is_refused(tmp_path):
    spec = Spec(profile="smoke", task="digits-lt", method="rg", encoder="raw", threshold=1000, epochs=1)
    with pytest.raises(
        ValueError, match=r"threshold is 1000\.0; it must be above 0 and at most the largest class, 112"
    ):
        run(spec, results_dir=tmp_path)


def test_clusters_by_class_name_reach_the_regrouping(tmp_path):
    common = {"profile": "smoke", "task": "digits-lt", "method": "rg", "encoder": "raw", "epochs": 1}
    record = run(Spec(n_clusters={"0": 3, "2": 2}, threshold=112, **common), results_dir=tmp_path)
    assert np.bincount(record.regrouping["parent"]).tolist() == [3, 1, 2, 1, 1, 1, 1, 1, 1, 1]
    assert "purity" not in record.regrouping  # a class of the data set is never mixed here


def test_a_look_at_several_classes_keeps_the_largest_clusters(tmp_path):
    record = run(EncoderSpec(profile="smoke", task="digits-lt", encoder="raw", threshold=8), results_dir=tmp_path)
    arrays, counts = record.arrays(), np.asarray(record.regrouping["counts"])
    shown = arrays["example_clusters"]
    assert arrays["examples"].shape == (12, 8, 8, 8, 1)
    assert (np.asarray(record.regrouping["parent"])[shown] == 0).all()
    assert counts[shown].tolist() == sorted(counts[shown], reverse=True)
    contents = record.metrics["contents"]
    assert set(contents["explained"]) == {"brightness", "contrast", "dark corners"}
    assert contents["n"] == load_data("digits").class_counts()[0]
    table = multiclass.cluster_table(record)
    assert table["images"].tolist() == counts[shown].tolist()
    assert multiclass.same_lesion_sentence([record]) == ""
    assert len(multiclass.explained_table([record, record])) == 3
