"""Comparisons on a user's own data: what is run, what is chosen where, what is advised, and that records are enough."""

import json
import re
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import onnx
import pandas as pd
import pytest
import skops.io
from matplotlib.text import Text
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold

import regroup_lib as rg
from regroup_book import build, examples, plans
from regroup_lib import comparison, intervals, plots
from regroup_lib.data import bundled_tables
from regroup_lib.data.dataset import DataError, Split
from regroup_lib.data.load import load_data
from regroup_lib.files import write_npz
from regroup_lib.intervals import Interval
from regroup_lib.report import operating_points, python_code, write_report
from regroup_lib.runs import networks, prepare, table_methods
from regroup_lib.runs.own import REGROUPED, image_settings, plan
from regroup_lib.runs.records import find_record, load_record, result_on_test
from regroup_lib.runs.saved import fit_model, load_model
from regroup_lib.runs.specs import LookSpec, OwnData, Spec, TableSpec, parse_spec
from regroup_lib.runs.sweeps import SweepError

ROOT = Path(__file__).resolve().parents[1]


def surrounded(n=60, *, seed=0):
    """Return a table whose minority lies between four heaps of the majority: no line parts them, heaps do."""
    rng = np.random.default_rng(seed)
    heaps = np.concatenate([rng.normal(center, 0.4, (n, 2)) for center in ((3, 0), (-3, 0), (0, 3), (0, -3))])
    minority = rng.normal(0, 0.4, (n, 2))
    kinds = [*np.repeat(["east", "west", "north", "south"], n), *["middle"] * n]
    return pd.DataFrame(np.concatenate([heaps, minority]), columns=["x", "y"]).assign(kind=kinds)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a directory with a table on which regrouping helps a linear classifier, and its comparison."""
    folder = tmp_path_factory.mktemp("own")
    surrounded().to_csv(folder / "heaps.csv", index=False)
    found = rg.compare(
        folder / "heaps.csv", positive="middle", estimators=["logreg"], seeds=[0, 1, 2], results_dir=folder / "results"
    )
    return SimpleNamespace(folder=folder, table=folder / "heaps.csv", results=folder / "results", comparison=found)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return a directory with scans of three digits as a folder, and a comparison of two seeds and one epoch."""
    folder = tmp_path_factory.mktemp("pictures")
    scans, digits = load_digits(return_X_y=True)
    counts = {1: 100, 8: 30, 7: 70}
    for digit, count in counts.items():
        (folder / "scans" / f"digit {digit}").mkdir(parents=True)
        for number, scan in enumerate(scans[digits == digit][:count]):
            image = Image.fromarray((scan * 15).astype(np.uint8).reshape(8, 8))
            image.save(folder / "scans" / f"digit {digit}" / f"{number}.png")
    options = {"seeds": [0, 1], "epochs": 1, "results_dir": folder / "results", "data_dir": folder / "data"}
    found = rg.compare(folder / "scans", positive="digit 8", encoder="raw", **options)
    return SimpleNamespace(folder=folder, comparison=found, options=options)


# ---------------------------------------------------------------- specs


def own(**changes):
    values = {"digest": "0" * 64, "classes": ("a", "b", "c"), "positive": "b", "path": "/somewhere/x.csv"}
    return OwnData(**values | changes)


def spec(**changes):
    values = {"task": "own-x-b", "own": own(), "method": "rg", "estimator": "logreg"}
    return TableSpec(**values | changes)


def test_the_key_says_which_data_and_not_where_they_lie():
    assert spec().key == spec(own=own(path=None)).key == spec(own=own(path="/elsewhere", label="b")).key
    reading = {"group": "c", "header": False, "missing": ("?",), "decimal": ","}  # the digest says what these changed
    assert spec().key == spec(own=own(**reading)).key
    others = [own(digest="1" * 64), own(classes=("a", "b", "d")), own(positive="c"), own(grouped=True)]
    assert len({spec().key, *(spec(own=other).key for other in others)}) == 5
    assert spec(threshold=5.0).key != spec().key != spec(encoder="pca").key
    assert TableSpec(profile="smoke", task="iris-versicolor", method="rg", estimator="logreg").key == "acdb045f73f67912"
    written = json.dumps(spec().model_dump(mode="json"))
    assert "somewhere" not in written
    assert parse_spec(json.loads(written)) == spec(own=own(path=None))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: spec(task="wine-1"), "a task on own data is called own-"),
        (lambda: spec(own=None), "a task on own data is called own-"),
        (lambda: spec(task="own-a/../../b"), "should match pattern"),
        (lambda: own(positive="z"), "there is no class 'z'; there are a, b, c"),
        (lambda: spec(encoder="clip"), "no encoder is called 'clip'; there are pca"),
        (lambda: spec(method="ros", encoder="pca"), "method 'ros' does not regroup; leave encoder out"),
        (lambda: spec(method="plain", threshold=3), "method 'plain' does not regroup; leave threshold out"),
        (lambda: LookSpec(task="own-x-b", own=own(), holds="images"), "a look at images needs an encoder"),
        (lambda: LookSpec(task="digits", encoder="pca", holds="images"), "a look is at images of one class against"),
        (lambda: LookSpec(task="digits-0", holds="rows"), "a look at rows is at data of your own"),
        (lambda: LookSpec(task="own-x-b", own=own(), holds="rows", encoder="clip"), "no encoder of tables is called"),
        (lambda: LookSpec(task="own-x-b", own=own(), holds="images", encoder="tfidf"), "does not take images"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_file_named_like_a_data_set_gets_none_of_its_settings():
    common = {"own": own(), "method": "ce", "profile": "cpu"}
    named = Spec(task="own-ham10000-b", **common)
    assert (named.image_size, named.network) == (None, "small-resnet")


def test_the_threshold_and_the_encoder_reach_the_clustering(home):
    table, written = bundled_tables.table_of(load_data(home.table), "middle"), surrounded()
    np.testing.assert_allclose(table.features.to_numpy(), written[["x", "y"]].to_numpy())  # in the order of the file
    assert table.labels.tolist() == (written["kind"] == "middle").astype(int).tolist()
    for options in ({"threshold": 120.0}, {"encoder": "pca"}):
        ours = table_methods.out_of_fold(table, method="rg", estimator="logreg", seed=0, n_folds=2, **options)
        rows = np.arange(len(table.labels))
        train, test = rows[ours.folds == 1], rows[ours.folds == 0]
        preparation = table_methods.make_preparation().fit(table.features.iloc[train])
        X_train, X_test = (preparation.transform(table.features.iloc[part]) for part in (train, test))
        features = table_methods.ENCODERS["pca"]().fit_transform(X_train) if "encoder" in options else X_train
        regrouping = rg.Regrouping(threshold=options.get("threshold"), random_state=0)
        regrouping.fit(features, table.labels[train])
        model = table_methods.ESTIMATORS["logreg"](0).fit(X_train, regrouping.pseudo_labels_)
        scores = rg.aggregate(model.predict_proba(X_test), regrouping.parent_, rule="max")
        np.testing.assert_allclose(ours.scores["max"][test], scores[:, 1], atol=1e-6)


# ---------------------------------------------------------------- records are enough


def test_a_comparison_is_looked_up_and_not_run_again(home, monkeypatch):
    monkeypatch.setattr(table_methods, "out_of_fold", None)
    again = rg.compare(home.table, positive="middle", estimators=["logreg"], seeds=[0, 1, 2], results_dir=home.results)
    assert again.table.equals(home.comparison.table)


def test_records_are_found_and_read_without_the_data(home, tmp_path):
    moved = tmp_path / "results"
    moved.symlink_to(home.results)
    specs = plan(home.table, positive="middle", estimators=["logreg"]).specs
    nowhere = [s.model_copy(update={"own": s.own.model_copy(update={"path": None})}) for s in specs]
    (found,) = comparison.comparisons([find_record(s, moved) for s in nowhere])
    assert found.recommendation.text == home.comparison.recommendation.text
    assert found.class_table.equals(home.comparison.class_table)
    found.plot_clusters()
    found.plot_precision_recall()


def test_data_that_changed_or_have_no_path_are_refused(tmp_path):
    with pytest.raises(DataError, match="the data set with digest 000000000000 has no path here"):
        rg.run(spec(own=own(path=None)), results_dir=tmp_path)
    surrounded().to_csv(tmp_path / "t.csv", index=False)
    (look, *_) = plan(tmp_path / "t.csv", positive="middle").specs
    surrounded(seed=1).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=r"has digest .*, expected .*; it has changed"):
        rg.run(look, results_dir=tmp_path / "results")


def test_rows_stay_together_in_new_records_and_fell_as_they_did_in_the_first(tmp_path):
    frame = surrounded(20)
    pd.concat([frame, frame.iloc[::2]]).to_csv(tmp_path / "t.csv", index=False)
    planned = plan(tmp_path / "t.csv", positive="middle", seeds=[0], estimators=["logreg"])
    first = planned.own.model_copy(update={"grouped": False})
    assert planned.own.grouped
    assert planned.dataset.digest == first.verified().digest
    folds = {}
    for own_data in (planned.own, first):
        run = planned.specs[1].model_copy(update={"own": own_data})
        folds[own_data.grouped] = rg.run(run, results_dir=tmp_path / "results").arrays()["folds"]
    assert (folds[True][:100:2] == folds[True][100:]).all()
    labels = bundled_tables.table_of(first.verified(), "middle").labels
    for fold, (_, rows) in enumerate(StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels)):
        assert (folds[False][rows] == fold).all()


def test_too_few_groups_are_refused_before_anything_is_run(tmp_path):
    surrounded(20).assign(who=np.repeat([*range(16), *[99] * 4], 5)).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="the class 'middle' has samples of 1 groups alone; 5 folds need as many"):
        rg.compare(tmp_path / "t.csv", label="kind", positive="middle", group="who", results_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_automatic_choice_of_clusters_gets_the_groups(monkeypatch):
    given = []

    class Recorded(rg.RegroupClassifier):
        def fit(self, X, y, **fit_params):
            given.append(fit_params.pop("groups", None))
            return super().fit(X, y, **fit_params)

    monkeypatch.setattr(table_methods, "RegroupClassifier", Recorded)
    frame, groups = surrounded(20), np.arange(100) // 2
    labels = (frame["kind"] == "middle").to_numpy().astype(np.int64)
    table = bundled_tables.Table("t", "t", frame[["x", "y"]], labels, "", groups)
    found = table_methods.out_of_fold(table, method="rg-auto", estimator="logreg", n_folds=2)
    for fold, those in enumerate(given):
        np.testing.assert_array_equal(those, groups[found.folds != fold])
    table_methods.out_of_fold(table, method="rg", estimator="logreg", n_folds=2)
    assert [those is None for those in given] == [False, False, True, True]


# ---------------------------------------------------------------- what a comparison says


def test_regrouping_is_advised_where_it_helps(home):
    advice = home.comparison.recommendation
    assert advice.word == "regroup"
    assert advice.headline.startswith("Regroup: RG")
    assert advice.difference.low > 20
    assert f"The difference is {advice.difference} points (95% interval)." in advice.text
    assert "The test samples include 60 positives." in advice.text
    table = home.comparison.table
    assert table.index.get_level_values("method").tolist() == ["CE", "WCE", "ROS", "RG", "RG+WCE"]
    assert home.comparison.chance == pytest.approx(0.2)


def test_the_numbers_are_those_of_cross_validation(home):
    table = bundled_tables.table_of(load_data(home.table), "middle")
    for title, method in (("CE", "plain"), ("RG", "rg")):
        precisions = []
        for seed in (0, 1, 2):
            result = table_methods.out_of_fold(table, method=method, estimator="logreg", seed=seed)
            scores = next(iter(result.scores.values()))  # max, where there are two rules
            rows = [result.folds == fold for fold in range(5)]
            precisions.append(np.mean([average_precision_score(table.labels[f], scores[f]) for f in rows]))
        shown = home.comparison.table.loc[("logistic regression", title), "AP"]
        assert shown == intervals.mean_std(precisions)


def test_the_method_of_a_fold_is_chosen_without_its_rows(home):
    """Each candidate's AP in every fold of every seed, written out, without the rows that are measured."""
    titles = ("CE", "WCE", "ROS")
    found = home.comparison.chosen(titles)
    arrays = [[r.arrays() for r in home.comparison.groups["logistic regression", title]] for title in titles]
    folds, y = [of["folds"] for of in arrays[0]], arrays[0][0]["test_labels"]
    for seed in range(3):
        measured = []
        for fold in range(5):
            kept, means = folds[seed] != fold, []
            for candidate in arrays:
                parts = [(of, (of["folds"] == f) & kept) for of in candidate for f in range(5)]
                scored = [(y[rows], of["test_scores_none"][rows]) for of, rows in parts if rows.any()]
                means.append(np.mean([average_precision_score(*pair) for pair in scored]))
            scores = arrays[np.argmax(means)][seed]["test_scores_none"]
            measured.append(average_precision_score(y[~kept], scores[~kept]))
        assert found.precisions[seed] == pytest.approx(np.mean(measured))


@pytest.mark.parametrize(("error", "title"), [(0.5, "ROS"), (1.5, "WCE"), (2.5, "CE")])
def test_the_method_for_images_is_the_simplest_within_one_standard_error_on_validation(
    pictures, monkeypatch, error, title
):
    """ROS is the best on validation, 1 point ahead of WCE and 2 of CE, with the same error of both differences."""
    moved = error * np.array([0, *[1, -1] * 100])  # the first is the split itself
    found = {"ce": 0 + moved, "wce": 1 + moved, "ros": 2 + 0 * moved}
    monkeypatch.setattr(comparison, "resampled_on_validation", lambda record, _: found[record.spec.method])
    found = pictures.comparison.chosen(("CE", "WCE", "ROS"))
    assert dict(found.picked) == {("tiny-resnet", title): 2}
    expected = [
        result_on_test(record, "average_precision") for record in pictures.comparison.groups["tiny-resnet", title]
    ]
    np.testing.assert_allclose(found.precisions, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "stability", "word", "said"),
    [
        (0.5, 3.0, 0.5, "regroup", "Regroup: RG"),
        (-0.5, 3.0, 0.9, "undecided", "Undecided, so do without regrouping: "),
        (-3.0, 0.5, 0.9, "undecided", "Undecided, so do without regrouping: "),
        (-1.0, 1.0, 0.5, "not worth it", "Not worth it, because the clusters are not stable: use "),
        (-3.0, -0.5, 0.9, "leave the labels as they are", "Leave the labels as they are: "),
    ],
)
def test_advice_follows_the_interval_and_the_stability(home, monkeypatch, low, high, stability, word, said):
    rows = [{"class": "not middle", "stability": stability}]
    look = replace(home.comparison.look, metrics=home.comparison.look.metrics | {"diagnosis": rows})
    monkeypatch.setattr(comparison, "interval", lambda *_, **__: Interval((low + high) / 2, low, high, 1, 9))
    advice = replace(home.comparison, look=look).recommendation
    assert advice.word == word
    assert advice.headline.startswith(said)
    assert (advice.row[1] in REGROUPED) == (word == "regroup")


def test_one_seed_decides_nothing(home):
    one = comparison.Comparison(home.comparison.look, tuple(r for r in home.comparison.records if r.spec.seed == 0))
    assert one.recommendation.word == "undecided"
    assert one.recommendation.difference.low > 0  # for this seed alone
    assert "One seed has no spread" in one.recommendation.text
    assert "nan" not in one.table.to_string()


def test_the_outlook_knows_the_classes_that_the_majority_hides(home):
    assert home.comparison.diagnosis.loc["not middle", ["clusters", "samples"]].tolist() == [4, 240]
    outlook = home.comparison.outlook
    assert "4 clusters of 60 to 60 samples; another seed finds the same clusters" in outlook
    assert "mutual information between the clusters and the classes that make up “not middle” is 1.00" in outlook
    assert home.comparison.class_table.loc["middle"].tolist() == [60, "positive"]
    assert home.comparison.notes[-1] == "every row is scored by cross-validation, five folds for each seed"
    assert not any("80/20" in note for note in home.comparison.notes)


def test_centers_are_those_of_the_prepared_columns(home):
    arrays = home.comparison.look.arrays()
    assert home.comparison.look.metrics["columns"] == ["x", "y"]
    written = surrounded()
    scaled = (written[["x", "y"]] - written[["x", "y"]].mean()) / written[["x", "y"]].std(ddof=0)
    expected = scaled.groupby(written["kind"]).mean()
    for center in expected.drop(index="middle").to_numpy():
        assert np.abs(arrays["centers"][:4] - center).sum(axis=1).min() < 1e-5
    np.testing.assert_allclose(arrays["centers"][4], expected.loc["middle"], atol=1e-5)
    axes = home.comparison.plot_clusters().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["not middle: 60"] * 4 + ["middle: 60"]


def test_the_map_of_centers_shows_the_columns_that_differ_most():
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 0.1, (4, 40))
    centers[:, 33] = (2, -2, 2, -2)
    figure = plots.plot_centers(centers, list("abcd"), [f"c{i}" for i in range(40)])
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(names) == plots.SHOWN_COLUMNS
    assert "c33" in names
    assert [text.get_text() for text in figure.axes[0].texts] == ["+", "−", "+", "−"]
    plt.close(figure)


def test_the_area_under_a_curve_is_its_average_precision(home):
    figure = home.comparison.plot_precision_recall()
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    for title in ("CE", "WCE", "ROS", "RG", "RG+WCE"):
        group = home.comparison.groups["logistic regression", title]
        expected = np.mean([result_on_test(record, "average_precision") for record in group])
        assert lines[title].get_ydata().mean() == pytest.approx(expected, abs=0.03)
        assert lines[title].get_color() == plots.LOOKS[title][0]
    plt.close(figure)


def test_results_are_written(home, tmp_path):
    home.comparison.write(tmp_path / "r.json")
    written = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert written["recommendation"]["word"] == "regroup"
    assert written["chance"] == pytest.approx(0.2)
    precision = {row["method"]: row["average_precision"] for row in written["results"]}
    assert min(precision["RG"]) > max(precision["CE"])
    home.comparison.write(tmp_path / "r.csv")
    frame = pd.read_csv(tmp_path / "r.csv")
    assert len(frame) == 3 * (3 + 2 * 2)
    assert set(frame["task"]) == {"own-heaps-middle"}
    with pytest.raises(ValueError, match=r"r\.xlsx does not end in \.json or \.csv"):
        home.comparison.write(tmp_path / "r.xlsx")


# ---------------------------------------------------------------- a model and a report to take away


@pytest.mark.parametrize(
    ("method", "estimator"), [("rg", "logreg"), ("ros", "forest"), ("balanced-forest", "forest"), ("rg", "boosting")]
)
def test_a_saved_model_predicts_as_it_did_before(home, tmp_path, method, estimator):
    model = fit_model(spec(method=method, estimator=estimator), home.comparison.own)
    model.save(tmp_path / "model")
    new = surrounded(seed=1)[["y", "x"]].assign(other="text")  # in another order, with another column
    new.to_csv(tmp_path / "new.csv", index=False)
    found = load_model(tmp_path / "model").predict(tmp_path / "new.csv")
    pd.testing.assert_frame_equal(found, model.predict(tmp_path / "new.csv"))
    ranked = average_precision_score(surrounded(seed=1)["kind"] == "middle", found["probability"])
    assert ranked > 0.95
    assert set(found["class"]) == {"middle", "not middle"}


def test_new_rows_are_read_as_the_table_was_and_never_guessed(tmp_path):
    """Dates, decimal commas and codes whose new rows alone would be read in another way."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"day": [*pd.date_range("2020-01-01", periods=30).strftime("%d/%m/%Y")] * 2})
    frame["size"] = [f"{x:.3f}".replace(".", ",") for x in rng.normal(3, 1, 60)]
    frame["code"] = rng.choice(["01", "02", "A1"], 60)
    frame["kind"] = ["ill", "well", "well"] * 20
    frame.to_csv(tmp_path / "all.csv", index=False)
    planned = plan(tmp_path / "all.csv", positive="ill", seeds=[0], estimators=["forest"])
    model = fit_model(planned.specs[1], planned.own)
    assert model.about["columns"] == {"day": "day first", "size": "number ,", "code": "text"}
    whole = model.predict(tmp_path / "all.csv")["probability"]
    for row in (2, 5, 11):  # read alone, these days may be months, and codes numbers
        frame.iloc[[row]].to_csv(tmp_path / "one.csv", index=False)
        assert model.predict(tmp_path / "one.csv")["probability"].tolist() == [whole[row]]
    frame.iloc[[2, 5]].to_csv(tmp_path / "gap.csv", index=False)
    first, second = (tmp_path / "gap.csv").read_text().splitlines()[1:]
    head = ",".join(frame)
    (tmp_path / "gap.csv").write_text(f"{head}\n{first}\n,,,\n{second}\n")
    assert model.predict(tmp_path / "gap.csv")[["row", "probability"]].to_numpy().tolist() == [
        [0, whole[2]],
        [2, whole[5]],
    ]
    (tmp_path / "absent.csv").write_text(f"{head}\n,,A1,\n")
    assert len(model.predict(tmp_path / "absent.csv")) == 1
    for column, value in (("day", "2020.13.45"), ("size", "1.5.2")):
        frame.iloc[:3].assign(**{column: value}).to_csv(tmp_path / "odd.csv", index=False)
        with pytest.raises(DataError, match=f"'{column}' has '{value}', which is no"):
            model.predict(tmp_path / "odd.csv")


def test_a_saved_network_predicts_as_the_run_did(pictures, tmp_path):
    record = pictures.comparison.groups["tiny-resnet", "RG"][1]
    fit_model(record.spec, pictures.comparison.own).save(tmp_path / "model")
    found = load_model(tmp_path / "model").predict(pictures.folder / "scans").set_index("file")["probability"]
    dataset = load_data(pictures.folder / "scans")
    expected = record.arrays()["test_scores_sum"]
    np.testing.assert_allclose(found.loc[list(dataset.metadata["test"]["file"])], expected, atol=1e-4)


def test_new_rows_may_lack_constant_columns_and_a_note_counts_what_training_did_not_have(tmp_path):
    rng = np.random.default_rng(0)
    frame = surrounded(20).assign(color=rng.choice(["red", "blue"], 100), unit="mm", zero=0.0)
    frame[["x", "y", "color", "unit", "zero", "kind"]].to_csv(tmp_path / "t.csv", index=False)
    planned = plan(tmp_path / "t.csv", positive="middle", estimators=["forest"], seeds=[0])
    fit_model(planned.specs[1], planned.own).save(tmp_path / "model")
    model = load_model(tmp_path / "model")
    whole = model.predict(tmp_path / "t.csv")
    assert whole.attrs["notes"] == []
    frame[["color", "y", "x"]].to_csv(tmp_path / "less.csv", index=False)
    pd.testing.assert_frame_equal(model.predict(tmp_path / "less.csv"), whole)
    (tmp_path / "new.csv").write_text("x,y,color\n1,,teal\n?,1,\n1,2,red\n")
    assert model.predict(tmp_path / "new.csv").attrs["notes"] == [
        "missing values: 1 of 3 in x, 1 of 3 in y, 1 of 3 in color",
        "categories that the training table did not have: 1 of 3 in color",
    ]


def test_pictures_of_16_bits_are_scaled_as_the_training_pictures_were(tmp_path):
    scans, digits = load_digits(return_X_y=True)
    for name, digit in (("a", 1), ("b", 8)):
        (tmp_path / "x" / name).mkdir(parents=True)
        for number, scan in enumerate(scans[digits == digit][:40]):
            pixels = (scan * 100 + 1000).astype(np.uint16).reshape(8, 8)
            Image.fromarray(pixels).save(tmp_path / "x" / name / f"{number}.png")
    planned = plan(tmp_path / "x", encoder="raw", epochs=1, seeds=[0], data_dir=tmp_path / "data")
    record = rg.run(planned.specs[1], results_dir=tmp_path / "results", data_dir=tmp_path / "data")
    fit_model(record.spec, planned.own, data_dir=tmp_path / "data").save(tmp_path / "model")
    model = load_model(tmp_path / "model")
    found = model.predict(tmp_path / "x").set_index("file")["probability"]
    files = list(planned.dataset.metadata["test"]["file"])
    np.testing.assert_allclose(found.loc[files], record.arrays()["test_scores_none"], atol=1e-4)
    assert model.predict(tmp_path / "x" / files[0])["probability"].tolist() == pytest.approx(
        [found[files[0]]], abs=1e-4
    )
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(tmp_path / "bright.png")
    note = "1 of 1 images have gray values outside of the range of the training images, 1000 to 2600"
    assert model.predict(tmp_path / "bright.png").attrs["notes"] == [note]


def test_a_model_that_is_damaged_or_holds_other_types_is_refused(home, tmp_path):
    fit_model(spec(), home.comparison.own).save(tmp_path / "model")
    with pytest.raises(FileExistsError, match="name a new folder"):
        fit_model(spec(), home.comparison.own).save(tmp_path / "model")
    (tmp_path / "less.csv").write_text("x,z\n1,2\n2,1\n3,1\n")
    with pytest.raises(DataError, match="lacks columns that the model reads: y"):
        load_model(tmp_path / "model").predict(tmp_path / "less.csv")
    (tmp_path / "words.csv").write_text("x,y\n1,far\n2,near\n3,far\n")
    with pytest.raises(DataError, match="'y' has 'far', which is no finite number with a decimal point"):
        load_model(tmp_path / "model").predict(tmp_path / "words.csv")
    about = tmp_path / "model" / "model.json"
    written = about.read_text(encoding="utf-8")
    for changed in (written.replace('"y"', '"z"'), written.replace('"digest": "', '"digest": "0'), "{", "[]"):
        about.write_text(changed, encoding="utf-8")
        with pytest.raises(ValueError, match="model is damaged or was not written by `regroup fit --save`"):
            load_model(tmp_path / "model")
    about.write_text(written, encoding="utf-8")
    skops.io.dump(Path.touch, tmp_path / "model" / "estimator.skops")
    with pytest.raises(ValueError, match="holds types that no saved model has: pathlib"):
        load_model(tmp_path / "model")
    (tmp_path / "model" / "estimator.skops").write_bytes(b"x")
    with pytest.raises(ValueError, match="is damaged"):
        load_model(tmp_path / "model")


def test_a_report_is_one_file_whose_text_is_escaped_and_whose_code_runs(home, tmp_path, monkeypatch, capsys):
    frame = surrounded().replace({"kind": {"east": "<script>alert(1)</script>"}})
    frame.to_csv(tmp_path / "a<b>.csv", index=False)
    options = {"estimators": ["logreg"], "seeds": [0], "results_dir": tmp_path / "results"}
    found = rg.compare(tmp_path / "a<b>.csv", positive="middle", **options)
    write_report(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    for heading in ("The data", "The clusters", "The comparison", "Thresholds", "Calibration", "The same in Python"):
        assert heading in page
    monkeypatch.setenv("REGROUP_RESULTS", str(options["results_dir"]))
    names = {}
    exec(python_code(found), names)
    assert names["comparison"].recommendation == found.recommendation
    assert f"[{len(frame)} rows x 3 columns]" in capsys.readouterr().out


def test_the_code_of_a_report_on_images_fits_the_recommended_network(pictures, monkeypatch, capsys):
    monkeypatch.setenv("REGROUP_RESULTS", str(pictures.options["results_dir"]))
    monkeypatch.setenv("REGROUP_DATA", str(pictures.options["data_dir"]))
    monkeypatch.setattr(networks, "_run_training", None)  # the runs are those that are recorded
    names = {}
    exec(python_code(pictures.comparison), names)
    assert names["comparison"].recommendation == pictures.comparison.recommendation
    assert (names["model"].spec.epochs, names["model"].spec.image_size) == (1, None)
    assert "200 rows" in capsys.readouterr().out


def test_names_of_500_characters_break_no_layout(tmp_path, small_arrays):
    long = ["$" + "a" * 499, "a" * 499 + "<", "c" * 500]
    write_npz(tmp_path / "mine.npz", small_arrays(counts=(60, 15, 30)) | {"class_names": np.array(long)})
    options = {"positive": long[0], "epochs": 1, "seeds": [0], "data_dir": tmp_path, "results_dir": tmp_path / "r"}
    found = rg.compare(tmp_path / "mine.npz", encoder="raw", **options)
    assert found.positive == long[0]
    assert len(found.look.path.parent.name) < 255
    for figure in (found.plot_clusters(), found.plot_precision_recall()):
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert max(map(len, texts)) < 80
    assert "…" in found.outlook
    write_report(found, tmp_path / "report.html")
    assert escape(long[1]) in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_operating_points_reach_what_is_wanted():
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.2
    table = operating_points(labels, labels + rng.normal(size=300))
    for wanted, row in table.iterrows():
        measure, _, share = wanted.partition(" of ")
        assert row[measure] >= float(share.strip("%")) / 100 - 1e-3
    assert table.loc["recall of 95%", "threshold"] < table.loc["recall of 50%", "threshold"]


def test_a_run_that_fails_loses_its_method_alone(home, tmp_path, monkeypatch):
    make_model = table_methods.make_model

    failed = {"weights"}

    def failing(method, *arguments, **options):
        if method in failed:
            raise RuntimeError("out of luck")
        return make_model(method, *arguments, **options)

    monkeypatch.setattr(table_methods, "make_model", failing)
    found = rg.compare(
        home.table, positive="middle", estimators=["logreg"], seeds=[0, 1], results_dir=tmp_path / "results"
    )
    assert [title for _, title in found.groups] == ["CE", "ROS", "RG", "RG+WCE"]
    assert any("out of luck" in note for note in found.notes)
    assert found.recommendation.word == "regroup"
    failed |= {"rg", "rg-weights"}  # nothing is left to compare
    with pytest.raises(SweepError, match="out of luck"):
        rg.compare(home.table, positive="middle", estimators=["logreg"], seeds=[0], results_dir=tmp_path / "other")


# ---------------------------------------------------------------- images


def test_images_are_compared_with_one_schedule_and_their_clusters_shown(pictures):
    found = pictures.comparison
    specs = {record.spec.method: record.spec for record in found.records}
    assert list(specs) == ["ce", "wce", "ros", "rg", "rg-wce"]
    fields = ("network", "epochs", "batch_size", "peak_lr", "shift", "validation_fraction")
    assert all(len({getattr(spec, field) for spec in specs.values()}) == 1 for field in fields)
    assert (specs["rg"].encoder, specs["ce"].encoder) == ("raw", None)
    assert found.class_table.loc["digit 8"].tolist() == [24, 6, "positive"]
    assert found.chance == pytest.approx(6 / 40)
    examples = found.look.arrays()["examples"]
    scans = {image.tobytes() for image in load_data(pictures.folder / "scans").train.inputs}
    assert examples.shape == (7, 8, 8, 8, 1)  # ceil(136 / 24) clusters and the positive class
    assert all(image.tobytes() in scans for image in examples.reshape(-1, 8, 8, 1))
    assert "worth a try before regrouping is given up" in found.recommendation.text
    assert "1 epochs of tiny-resnet" in found.provenance
    labels = [text.get_text() for text in found.plot_clusters().axes[0].get_yticklabels()]
    assert labels[-1] == "digit 8: 24"


@pytest.fixture
def flat(tmp_path):
    """Write an ONNX encoder of 16 x 16 images to a data directory, and a folder of 20 x 24 images of two classes."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Flatten", ["images"], ["features"])],
            "flat",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", "d"])],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    helper.set_model_props(model, {"image_size": "16"})
    (tmp_path / "encoders").mkdir()
    onnx.save(model, tmp_path / "encoders" / "flat.onnx")
    for number in range(80):
        folder = tmp_path / "x" / "ab"[number % 4 == 0]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 200 + 50 * (number % 4 == 0), (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


def test_a_pretrained_encoder_is_compared_with_other_uses_of_its_features(flat, monkeypatch):
    options = {"encoder": "onnx:flat", "image_size": 8, "epochs": 1, "seeds": [0, 1], "profile": "smoke"}
    found = rg.compare(flat / "x", positive="b", **options, data_dir=flat, results_dir=flat / "results")
    shown = [title for classifier, title in found.groups if classifier == "features of onnx:flat"]
    assert shown == ["linear probe", "encoder+MLP"]
    monkeypatch.setattr(comparison, "resampled_on_validation", lambda *_: np.zeros(3))
    equal = {title for _, title in found.groups}
    assert set(found.chosen(equal).picked) == {("features of onnx:flat", "linear probe")}  # the simplest of equals
    others = [found.groups["features of onnx:flat", title][0] for title in shown]
    (second_task,) = (group[0] for (_, title), group in found.groups.items() if title == "CE+features")
    assert second_task.spec.network == "tiny-resnet"
    files = load_data(flat / "x", image_size=8, data_dir=flat).metadata["test"]["file"]
    for record in (*others, second_task):
        fit_model(record.spec, found.own, data_dir=flat).save(flat / record.spec.method)
        predicted = load_model(flat / record.spec.method).predict(flat / "x", data_dir=flat)
        scores = predicted.set_index("file")["probability"]
        np.testing.assert_allclose(scores.loc[list(files)], record.arrays()["test_scores_none"], atol=1e-4)


def test_a_pretrained_encoder_sees_files_at_its_own_size(flat, monkeypatch):
    tmp_path = flat
    seen = []
    encode = prepare.encode

    def watched(data, *arguments, **options):
        seen.append(data.train.inputs.shape)
        return encode(data, *arguments, **options)

    monkeypatch.setattr(prepare, "encode", watched)
    (look, *_) = plan(tmp_path / "x", encoder="onnx:flat", image_size=8, data_dir=tmp_path).specs
    record = rg.run(look, results_dir=tmp_path / "results", data_dir=tmp_path)
    assert "encoder flat: it does not say its mean and std" in record.metrics["notes"][-1]
    assert seen == [(64, 16, 16, 3)]
    assert record.arrays()["examples"].shape[2:] == (8, 8, 3)


SIZES = {"train": 200, "test": 50}


@pytest.mark.parametrize(("side", "network"), [(8, "tiny-resnet"), (28, "slim-resnet"), (64, "slim-resnet-64")])
def test_the_network_is_chosen_by_the_images(side, network):
    splits = {name: Split(np.zeros((n, side, side, 1), np.uint8), np.arange(n) % 2) for name, n in SIZES.items()}
    settings = image_settings(rg.Dataset("x", splits, ("a", "b"), "0" * 64), "b", "cpu")
    assert (settings["network"], settings["epochs"], settings["flip"]) == (network, 40, False)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positive": "midle"}, r"positive is 'midle', and heaps has .*middle \(60\).*; did you mean 'middle'\?"),
        ({"seeds": []}, "seeds is empty"),
        ({"estimators": []}, "estimators is empty"),
        ({"epochs": 3}, "epochs is 3, and heaps is a table"),
        ({"estimators": ["svm"]}, "no estimator is called 'svm'; there are logreg, forest, boosting"),
        ({"encoder": "clip"}, "no encoder is called 'clip'; there are pca"),
        ({"threshold": -1}, "threshold: Input should be greater than 0"),
        ({"label": "color"}, "has no column 'color'"),
        ({"image_size": 8}, "image_size is 8"),
        ({"profile": "gpu"}, "profile: Input should be"),
    ],
)
def test_bad_options_are_refused_before_anything_is_run(home, tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        rg.compare(home.table, **{"results_dir": tmp_path / "none"} | options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "none").exists()


def test_images_that_cannot_be_divided_are_refused_before_anything_is_trained(pictures, tmp_path):
    with pytest.raises(ValueError, match="estimators are logreg, and scans holds images"):
        rg.compare(pictures.folder / "scans", estimators=["logreg"], **pictures.options)
    for name, counts in (("a", (40, 9)), ("b", (1, 9))):  # one positive cannot train and validate
        for part, count in zip(("train", "test"), counts, strict=True):
            (tmp_path / "x" / part / name).mkdir(parents=True)
            for number in range(count):
                image = np.full((8, 8), 2 * number + ord(name), np.uint8)
                Image.fromarray(image).save(tmp_path / "x" / part / name / f"{number}.png")
    with pytest.raises(ValueError, match=r"task 'x-b': a validation split of 0\.2 cannot be cut") as raised:
        rg.compare(tmp_path / "x", positive="b", results_dir=tmp_path / "none", data_dir=tmp_path / "data")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "none").exists()


def test_too_few_samples_and_names_of_the_books_sets_are_refused(tmp_path):
    surrounded(9).to_csv(tmp_path / "few.csv", index=False)
    with pytest.raises(ValueError, match="the class 'east' has 9 samples in all; a comparison needs at least 10"):
        rg.compare(tmp_path / "few.csv", results_dir=tmp_path)
    with pytest.raises(DataError, match="'digits' is a data set of the book"):
        rg.compare("digits")


def test_a_class_that_is_a_number_is_found_and_nothing_is_counted_twice(tmp_path):
    surrounded(12).replace({"kind": {"middle": "5"}}).to_csv(tmp_path / "t.csv", index=False)
    options = {"estimators": ["logreg", "logreg"], "seeds": [0, 0], "results_dir": tmp_path / "results"}
    found = rg.compare(tmp_path / "t.csv", positive=5, **options)
    assert found.positive == "5"
    assert [len(group) for group in found.groups.values()] == [1] * 5


def test_the_smallest_class_is_positive_if_none_is_named(tmp_path):
    frame = pd.concat([surrounded(20), surrounded(12).query("kind == 'north'")])
    frame[frame["kind"] != "south"].to_csv(tmp_path / "t.csv", index=False)
    found = rg.compare(tmp_path / "t.csv", estimators=["logreg"], seeds=[0], results_dir=tmp_path / "results")
    assert found.positive == "east"


# ---------------------------------------------------------------- the chapter


def test_the_chapter_takes_a_users_path(pictures, tmp_path):
    parameters = {"path": str(pictures.folder / "scans"), "positive": "digit 7", "threshold": 60, "seeds": [0, 1]}
    executed = tmp_path / "executed.ipynb"
    environment = {"REGROUP_RESULTS": str(tmp_path / "results"), "REGROUP_DATA": str(tmp_path / "data")}
    build.run_chapter("your-data", parameters | {"profile": "smoke"}, output=executed, environment=environment)
    text = executed.read_text(encoding="utf-8")
    assert "scans-digit_7" in text
    specs = [record.spec for record in rg.load_records(tmp_path / "results")]
    assert {s.threshold for s in specs} == {None, 60.0}


# ---------------------------------------------------------------- examples


def test_examples_are_what_scikit_learn_has(tmp_path):
    scans, digits = load_digits(return_X_y=True)
    dataset = load_data(examples.write_digits(tmp_path), data_dir=tmp_path)
    assert dataset.class_names == tuple("0123456789")
    assert np.add(dataset.class_counts("train"), dataset.class_counts("test")).tolist() == np.bincount(digits).tolist()
    files = dataset.metadata["test"]["file"]
    for row in (0, len(files) - 1):
        number = int(files[row].split("/")[1].removesuffix(".png"))
        np.testing.assert_array_equal(dataset.test.inputs[row].ravel(), np.rint(scans[number] * 255 / 16))
    table = load_data(examples.write_tumors(tmp_path))
    assert np.add(table.class_counts("train"), table.class_counts("test")).tolist() == [357, 212]


def test_the_recorded_example_is_there_without_its_data(monkeypatch, tmp_path):
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path))
    assert plans.missing_records("your-data", profile="cpu", seeds=[0, 1, 2]) == []
    specs = plans.chapter_specs("your-data", profile="cpu", seeds=[0, 1, 2])
    (found,) = comparison.comparisons([load_record(s.path()) for s in specs])
    assert found.name == "page-blocks-5"
    assert found.class_table["rows"].tolist() == [4913, 329, 115, 87, 28]  # as KEEL has them
    assert found.look.data_digest == plans.PAGE_BLOCKS.digest
