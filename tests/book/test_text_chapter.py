"""The chapter on text: its runs, its tables and its headline, from real runs on scikit-learn's descriptions."""

import numpy as np
import pytest

from regroup_book import method_tables, plans
from regroup_book.chapters import text
from regroup_book.differences import precision_difference
from regroup_book.plans import chapter_specs, text_grid, text_runs, undecided
from regroup_lib.data.tasks import make_task
from regroup_lib.intervals import Interval
from regroup_lib.runs import looks
from regroup_lib.runs.records import validation_precision
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import Spec

SEEDS = [0, 1]
PROFILES = ["smoke", "cpu", "paper"]
TASK = ("descriptions-breast_cancer", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


@pytest.fixture(scope="module")
def groups(folder):
    """Run some contestants of the first smoke task with one epoch, two seeds each."""
    return run_shortly(TASK, ("CE", "RG", "RG+WCE", "true classes", "encoder+MLP"), folder)


def run_shortly(task, names, folder):
    runs = text_runs(task, "smoke", SEEDS)
    return {
        name: [run(s.model_copy(update={"epochs": 1}), results_dir=folder, data_dir=folder) for s in runs[name]]
        for name in names
    }


@pytest.fixture(scope="module")
def look(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "EMBEDDED_POINTS", 40)
        return run(plans.text_looks("smoke", [0])["tfidf"][0], results_dir=folder, data_dir=folder)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_task_has_the_methods_of_the_comparison_once_a_seed(profile):
    for task in plans.TEXT_TASKS[profile]:
        runs = text_runs(task, profile, [0, 1, 2], choose=lambda specs: specs[0])
        assert {"CE", "WCE", "Focal", "LA", "ROS", "encoder+MLP", "RG", "RG+WCE"} <= set(runs)
        for specs in runs.values():
            assert [spec.seed for spec in specs] == [0, 1, 2]
            assert {(spec.task, spec.imbalance) for spec in specs} == {task}
    for task in plans.FINE_TUNED_TASKS[profile]:
        runs = text_runs(task, profile, [0], fine_tuned=True, choose=lambda specs: specs[0])
        assert list(runs) == ["CE", "WCE", "RG", "RG+WCE"]
        assert {spec.network for specs in runs.values() for spec in specs} == {"minilm"}


def test_the_full_plan_has_three_tasks_two_encoders_and_the_controls():
    assert list(plans.TEXT_TASKS["cpu"]) == [
        ("phrasebank-negative", None),
        ("phrasebank-negative", 30.0),
        ("phrasebank", None),
    ]
    first, second = (
        text_runs(task, "cpu", [0], choose=lambda specs: specs[0]) for task in list(plans.TEXT_TASKS["cpu"])[:2]
    )
    assert set(first) - set(second) == {"random groups", "true classes"}
    assert [first[name][0].encoder for name in ("RG", "RG on TF-IDF")] == ["minilm", "tfidf"]


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_looks_at_the_test_set_before_the_end(profile):
    specs = plans.text(profile, [0, 1], choose=lambda specs: specs[0])
    assert not any(spec.trace_test for spec in specs if spec.kind == "training")


def test_the_clusters_are_chosen_on_the_validation_split_and_the_others_follow(monkeypatch):
    """The chapter names what regroups once the grid of its task is recorded, with the choice in every such run."""
    shelf, options = {}, {"profile": "cpu", "seeds": [3, 4]}
    monkeypatch.setattr(plans, "find_record", lambda spec: shelf.get(spec))
    # The record of a spec is its validation AP here; the last way to regroup is the best.
    monkeypatch.setattr(plans, "validation_precision", lambda record: record)
    before = chapter_specs("text", **options)
    assert not any(spec.label.startswith("rg-wce") for spec in before)
    waiting = undecided("text", **options)
    assert waiting > 0
    for task in plans.TEXT_TASKS["cpu"]:
        shelf |= {spec: 0.1 * place for place, spec in enumerate(text_grid(task, "cpu", 3), start=1)}
    after = chapter_specs("text", **options)
    assert set(before) <= set(after)
    assert len(after) - len(before) == waiting
    assert undecided("text", **options) == 0
    trained = [spec for spec in after if spec.kind == "training"]
    weighted = [spec for spec in trained if spec.method == "rg-wce"]
    assert {spec.n_clusters for spec in weighted if spec.imbalance == 30} == {8}
    assert {spec.threshold for spec in weighted if spec.task == "phrasebank"} == {1692.0}
    assert {spec.n_clusters for spec in trained if spec.network == "minilm" and spec.method == "rg"} == {2}


@pytest.mark.parametrize("profile", ["cpu", "paper"])
def test_the_grids_begin_with_the_natural_number_and_halve_it(profile):
    for task, ways in plans.TEXT_TASKS[profile].items():
        grid = text_grid(task, profile, 0)
        assert len(grid) == len(set(grid)) == len(ways) == 3
        assert grid[0].n_clusters is None
        assert grid[0].threshold is None
    assert [way["n_clusters"] for way in plans.TEXT_TASKS[profile][("phrasebank-negative", 30.0)][1:]] == [15, 8]


def test_without_the_language_model_a_run_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("regroup_lib.nn.tokenizers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"make text"):
        run(EXTRA_SPEC, results_dir=tmp_path, data_dir=tmp_path)


EXTRA_SPEC = Spec(profile="smoke", task=TASK[0], method="ce", network="minilm", epochs=1)


def test_results_come_by_task_and_contestant(monkeypatch):
    monkeypatch.setattr(plans, "find_record", lambda spec: spec)
    results = text.load_results("smoke", SEEDS)
    assert list(results) == ["descriptions (breast cancer)", "descriptions"]
    assert [spec.seed for spec in results["descriptions"]["RG"]] == SEEDS


def test_titles_of_tasks():
    assert text.task_title(("a-b", None)) == "a (b)"
    assert text.task_title(("phrasebank", 30.0)) == "news sentiment, 30:1"
    assert text.task_title(("a", None), fine_tuned=True) == "a, fine-tuned"


def test_the_task_table_counts_training_and_test_sentences(groups):
    task = make_task(TASK[0])
    row = text.task_table({"a task": groups}).loc["a task"]
    negatives, positives = task.class_counts
    assert row["training"] == f"{negatives} not breast_cancer, {positives} breast_cancer"
    assert float(row["AP by chance"]) == pytest.approx(100 * task.test.labels.mean(), abs=0.05)
    assert float(row["largest : smallest"]) == pytest.approx(negatives / positives, abs=0.05)


def test_the_table_has_the_records_numbers_and_differences(groups):
    table = text.text_table(groups)
    assert list(table.index) == list(groups)
    assert table.loc["CE", "AP − CE"] == ""
    for name, group in groups.items():
        for column, rule in (("AP", "max"), ("AP (sum)", "sum")):
            found = [
                100 * r.metrics[rule if rule in r.metrics else "none"]["test"]["summary"]["average_precision"]
                for r in group
            ]
            assert table.loc[name, column].strip("*") == f"{np.mean(found):.1f} ± {np.std(found, ddof=1):.1f}"
    assert sum(cell.startswith("**") for cell in table["AP"]) == 1
    assert not any("AP, " in column for column in table.columns)


def test_a_task_of_several_classes_has_the_precision_of_each(folder):
    groups = run_shortly(("descriptions", None), ("CE", "RG"), folder)
    table = text.text_table(groups)
    found = [100 * r.metrics["none"]["test"]["average_precision"]["iris"] for r in groups["CE"]]
    assert table.loc["CE", "AP, iris"].startswith(f"{np.mean(found):.1f} ±")


def test_comparisons_are_empty_where_a_task_has_no_such_contestant(groups):
    short = {name: groups[name] for name in ("CE", "RG")}
    table = text.comparison_table({"all": groups, "short": short})
    assert table.loc["true classes − CE", "all"]
    assert table.loc["true classes − CE", "short"] == ""
    assert table.loc["RG − CE", "short"] == table.loc["RG − CE", "all"]
    assert table.loc["RG − CE", "all"].startswith(str(precision_difference(groups, "RG", "CE")))
    assert text.text_table(groups).loc["RG", "AP − CE"].startswith(str(precision_difference(groups, "RG", "CE")))


def test_the_tuning_table_marks_the_choice(groups, monkeypatch):
    """The records of two seeds stand in for two ways to regroup."""
    natural, halved = groups["RG"]
    shelf = {record.spec: record for record in (natural, halved)}
    monkeypatch.setattr(plans, "find_record", lambda spec: shelf[spec])
    table = method_tables.tuning_table({"negative news": list(shelf)}, "task")
    precisions = [100 * validation_precision(record) for record in (natural, halved)]
    assert table["validation AP"].tolist() == [f"{value:.1f}" for value in precisions]
    assert table["chosen"].tolist() == (["yes", ""] if precisions[0] >= precisions[1] else ["", "yes"])
    assert table["setting"].tolist() == ["K = 8"] * 2


def test_the_cluster_table_has_the_hidden_classes_terms_and_the_nearest_sentence(look):
    counts, task = text.hidden_counts(look), make_task(TASK[0], validation_fraction=0)
    assert counts.sum(axis=1).tolist() == look.regrouping["counts"][: len(counts)]
    hidden = np.bincount(task.train.fine_labels[task.train.labels == 0], minlength=8)
    assert counts.sum().to_dict() == {n: k for n, k in zip(task.fine_class_names, hidden, strict=True) if k}
    sentences = text.nearest_sentences(look)
    assert set(sentences) <= set(task.train.inputs)
    table = text.cluster_table(look, sentences, n_terms=2)
    shares = table[[c for c in table.columns if c.endswith(", %")]].astype(float)
    assert (shares.sum(axis=1) - 100).abs().max() <= 4  # rounded
    assert table["nearest sentence"].tolist() == sentences[: len(table)]
    assert table.loc[1, "terms"] == ", ".join(look.regrouping["terms"][0][:2])
    assert "nearest sentence" not in text.cluster_table(look)


def test_sentences_of_other_data_are_not_shown(look, monkeypatch, tmp_path):
    monkeypatch.setattr(look, "data_digest", "another")
    assert text.nearest_sentences(look) is None
    monkeypatch.setattr(look, "spec", look.spec.model_copy(update={"task": "phrasebank-negative"}))
    assert text.nearest_sentences(look, tmp_path) is None  # no such data there


def test_the_description_of_clusters_has_the_records_numbers(look):
    said = text.describe_clusters({"tfidf": [look]})
    assert f"NMI of clusters and hidden classes is {look.metrics['nmi']:.2f}" in said
    assert f"class of {look.metrics['neighbor_accuracy']:.0%} of the test sentences" in said
    by_class = text.hidden_counts(look).sum()
    assert f"a single cluster would have {by_class.max() / by_class.sum():.2f}" in said


@pytest.mark.parametrize(
    ("signs", "counted"),
    [
        ([1, 1], "clearly above plain training on 2 of 2 tasks."),
        ([0, -1], "clearly below plain training on 1 of 2 tasks."),
        ([1, -1], "clearly above plain training on 1 of 2 tasks, and clearly below it on 1."),
        ([0, 0], "neither clearly above nor clearly below plain training on any of 2 tasks."),
    ],
)
def test_the_headline_counts_differences_that_leave_0_out(monkeypatch, groups, signs, counted):
    results = {f"task {i}": dict(groups) for i in range(len(signs))}

    def difference(compared, first, second):
        sign = signs[[compared is group for group in results.values()].index(True)]
        return Interval(2 * sign, 2 * sign - 1, 2 * sign + 1, 0.5, 9)

    monkeypatch.setattr(text, "precision_difference", difference)
    headline = text.headline(results)
    assert counted in headline
    assert f"features is {counted.replace('plain training', 'RG')}" in headline
