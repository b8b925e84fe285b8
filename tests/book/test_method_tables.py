"""Tables and figures that compare methods: made records, the paper's files, the definitions written out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, precision_score

from regroup_book import method_tables, paper, plans
from regroup_book.chapters import binary
from regroup_book.differences import precision_difference, scores_on_test, values
from regroup_lib.intervals import Interval
from regroup_lib.metrics import bootstrap_counts
from regroup_lib.runs.records import N_RESAMPLES
from regroup_lib.runs.specs import Spec


@pytest.fixture
def make_record(binary_record):
    """Return a function that makes a record of a method whose positives score `lift` higher."""

    def make(method, seed=0, *, lift=2.0, bias=0.0, **fields):
        encoder = "pca" if method in ("rusc", "mlp") or method.startswith("rg") else None
        spec = Spec(profile="smoke", task="digits-0", method=method, seed=seed, encoder=encoder)
        fields |= {
            "seconds": {"regroup": 0.4, "resample": 0.6, "train": 9.0},
            "traces": [{"images": 800 if method == "ros" else 400}],
        }
        return binary_record(spec, lift, bias=bias, **fields)

    return make


@pytest.fixture
def groups(make_record):
    """Make two seeds of every method: RG the best, RUSC with a shifted threshold, LDAM with two very different runs."""
    lifts = {"rg": 4.0, "rusc": 1.0, "mlp": 1.2}
    made = {}
    for method in plans.TABLE_METHODS["cpu"]:
        lift = lifts.get(method, 2.0)
        bias = 2.0 if method == "rusc" else -3.0
        made[method] = [make_record(method, seed, lift=lift, bias=bias) for seed in (0, 1)]
    made["ldam"] = [make_record("ldam", 0, lift=0.1), make_record("ldam", 1, lift=5.0)]
    return made


@pytest.mark.parametrize(
    ("task", "method", "measure", "expected"),
    [
        ("cifar100-worm", "rg", "average_precision_positive", (73.8, 1.1)),
        ("cifar100-worm", "rusc", "balanced_accuracy", (84.9, 0.9)),
        ("ham10000-bcc", "mlp", "average_precision_positive", (0.7, 0.0)),
        ("ham10000-akiec", "mlp", "average_precision_positive", (0.7, 0.0)),
        ("ham10000", "rg", "average_precision_df", (54.5, 4.1)),
        ("cifar100-worm", "soap", "average_precision_positive", None),
        ("digits-0", "rg", "average_precision_positive", None),
    ],
)
def test_the_papers_numbers(task, method, measure, expected):
    assert paper.paper_number(task, method, measure) == expected


def test_the_papers_tables_are_complete_and_use_known_methods():
    first, second = paper.paper_numbers(1), paper.paper_numbers(2)
    assert len(first) == 11 * 6
    assert len(second) == 11 * 8
    assert set(first.method) == set(second.method) == set(plans.PAPER_METHODS)
    assert first["mean"].between(0, 100).all()


def test_the_best_mean_is_bold_and_no_run_that_diverged_is(monkeypatch):
    found = {"ce": [66.0, 70.0], "rg": [70.0, 74.0], "soap": [99.0, np.nan]}
    monkeypatch.setattr(method_tables, "values", lambda group, measure: np.array(group))
    cells = method_tables.mean_cells(found, "", marked=True)
    assert cells[:2] == ["68.0 ± 2.8", "**72.0 ± 2.8**"]
    rows = {"AP": cells[:2] * 2}
    shown = method_tables.sortable(pd.DataFrame(rows, index=pd.Index(["CE", "RG+LA", "RG − CE", "ROS"], name="method")))
    assert "<strong>72.0 ± 2.8</strong>" in shown.data
    assert shown.data.count('class="ours"') == 1
    assert "**" not in method_tables.mean_cells({"soap": found["soap"]}, "", marked=True)[0]


def test_a_diverged_run_leaves_a_gap_and_no_error(groups, make_record):
    groups["soap"] = [make_record("soap", 0), make_record("soap", 1, status="diverged")]
    table = method_tables.competition_table(groups, "digits-0")
    assert table.loc["SOAP", "AP"].startswith("nan")
    assert "SOAP" in method_tables.order_table(groups).index


def test_differences_are_of_one_test_set_for_all(groups):
    same = precision_difference(groups, "ce", "ce")
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    better, reverse = (precision_difference(groups, *pair) for pair in (("rg", "rusc"), ("rusc", "rg")))
    assert better.low > 0
    assert (reverse.low, reverse.high) == pytest.approx((-better.high, -better.low))
    plain = (values(groups[m], "average_precision").mean() for m in ("rg", "rusc"))
    assert better.mean == pytest.approx(np.subtract(*plain))  # the one that a table of AP shows


def test_order_table_ranks_by_mean_and_counts_wins(groups):
    table = method_tables.order_table(groups)
    assert table.index[0] == "RG"
    assert table.loc["RG", "rank"] == 1
    assert list(table["rank"]) == sorted(table["rank"])
    wins = sum(float(cell.rstrip("%")) for cell in table["first in"])
    assert 95 <= wins <= 110  # rounded, and ties count twice


def test_costs_are_those_of_the_fastest_seed_relative_to_ce(groups):
    table = method_tables.cost_table(groups)
    assert table.loc["CE", "images seen"] == "1.00"
    assert table.loc["ROS", "images seen"] == "2.00"
    assert table.loc["RG", "share preparing"] == "10%"
    assert table["settings tried"].to_dict() == {m: 2 if m == "Focal" else 1 for m in table.index}
    slow = replace(groups["ce"][0], seconds={"train": 1e6})
    fast = replace(groups["ce"][0], seconds={"regroup": 1.0, "train": 1.0})
    groups = {"ce": [slow, fast], "ros": [replace(fast, seconds={"train": 3.0}), slow]}
    table = method_tables.cost_table(groups)
    assert list(table["seconds"]) == ["1.00", "1.50"]
    assert table.loc["CE", "share preparing"] == "50%"


def test_threshold_curves_at_half_are_the_decision(groups):
    record = groups["rg"][0]
    labels, scores = scores_on_test(record)
    curves = binary.threshold_curves(record, np.array([0.5, 1.1]))
    called = scores[:, 1] >= 0.5
    assert curves["balanced accuracy"] == pytest.approx([balanced_accuracy_score(labels, called), 0.5])
    assert curves["precision"] == pytest.approx([precision_score(labels, called), np.nan], nan_ok=True)


def test_differences_are_drawn_with_their_intervals():
    """A row for each method, a mark for each task, hollow where 0 is inside."""
    made = {"RG": Interval(2, 1, 3, 1, 9), "ROS": Interval(-2, -3, -1, 1, 9), "LA": Interval(0.5, -1, 2, 1, 9)}
    figure = method_tables.plot_intervals({"one": made, "two, 9:1": {"ROS": made["LA"]}}, "points")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(made)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two, 9:1"]
    bars = [line for line in axes.lines if line.get_marker() == "None"]
    assert [tuple(bar.get_xdata()) for bar in bars[:4]] == [(d.low, d.high) for d in (*made.values(), made["LA"])]
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert [line.get_xdata()[0] for line in points] == [2, -2, 0.5, 0.5]
    assert [line.get_markerfacecolor() == "w" for line in points] == [False, False, True, True]
    assert 1 < points[3].get_ydata()[0] < 1.5


def test_how_often_a_resample_of_the_validation_split_chooses_another_setting(make_record, monkeypatch):
    """Three seeds stand in for three settings of one grid."""
    shelf = {record.spec: record for record in (make_record("rg", seed, lift=1.5) for seed in (0, 1, 2))}
    monkeypatch.setattr(plans, "regrouping_grids", lambda profile, seed: {"digits-0": list(shelf)})
    monkeypatch.setattr(plans, "find_record", lambda spec: shelf[spec])
    table = method_tables.selection_table("smoke", [0])
    arrays = [record.arrays() for record in shelf.values()]
    counts = bootstrap_counts(arrays[0]["val_labels"], N_RESAMPLES)
    precisions = np.array(
        [
            [average_precision_score(a["val_labels"], a["val_scores_max"], sample_weight=w) for w in counts]
            for a in arrays
        ]
    )
    another = np.mean(precisions.argmax(axis=0) != precisions[:, 0].argmax())
    assert 0.1 < another < 0.9
    row = table.loc["digit 0"]
    assert row["another one chosen in"] == f"{another:.0%} of resamples"
    assert row["smallest class on validation"] == 40
    assert method_tables.selection_sentence(table).endswith("in 1 of 1 tasks.")  # all three have one number of clusters


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"method": "focal"}, "γ = 2"),
        ({"method": "focal", "gamma": 5.0}, "γ = 5"),
        ({"method": "ldam", "deferred": True}, "margin = 0.5, DRW = yes"),
        ({"method": "la", "tau": 0.5}, "τ = 0.5"),
        ({"method": "ce"}, ""),
    ],
)
def test_settings_are_named_with_the_fields_signs(make_record, fields, expected):
    record = make_record("ce")
    record.spec = Spec(profile="smoke", task="digits-0", **fields)
    assert method_tables.settings_of(record) == expected


def test_a_sentence_in_a_table_of_numbers_is_broken_into_lines():
    sentence = "a < b and " * 7
    frame = pd.DataFrame({"says": ["short", sentence]}, index=pd.Index(["x", "y"], name="cluster"))
    table = method_tables.sortable(frame).data
    assert "<td>short</td>" in table
    assert f'<td><span class="long">{sentence.replace("<", "&lt;")}</span></td>' in table
    assert "long" not in method_tables.sortable(frame, wrapped=True).data


def test_sortable_links_the_records_of_each_row_and_escapes_the_others_cells():
    frame = pd.DataFrame({"method": ["<b>", "RG"], "AP": ["1.0", "2.0"]}).set_index("method")
    assert 'class="dataframe sortable"' in method_tables.sortable(frame).data
    assert "records" not in method_tables.sortable(frame).data
    frame.attrs["records"] = [["a", "b"], ["c"]]
    table = method_tables.sortable(frame).data
    assert "<td>&lt;b&gt;</td>" in table
    assert '<a href="records.html#a" data-records="a b">2</a>' in table
    assert '<a href="records.html#c" data-records="c">1</a>' in table
    assert 'class="dataframe sortable results"' in table
