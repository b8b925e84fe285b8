"""Tables and figures from records: numbers against hand calculation and scipy, and what a figure shows."""

import copy
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from regroup_book import pictures, show
from regroup_book.chapters.synchronous_learning import asynchrony, asynchrony_table, pace_gap
from regroup_book.differences import trace
from regroup_book.show import by_method, comparison_table, encoder_table, style_of
from regroup_lib.intervals import Interval, mean_std
from regroup_lib.runs import records
from regroup_lib.runs.export import compared_frame, records_frame
from regroup_lib.runs.records import Record, load_records, result_on_test, rule_of
from regroup_lib.runs.specs import EncoderSpec, Spec

MEASURES = ("balanced_accuracy", "average_precision", "calibrated_average_precision")


@pytest.fixture(scope="module")
def trained(smoke_results):
    """Training records of three methods and two seeds."""
    return [record for record in load_records(smoke_results) if record.spec.kind == "training"]


@pytest.fixture(scope="module")
def encoded(smoke_results):
    """Return the records of encoders, by name."""
    return {r.spec.encoder: r for r in load_records(smoke_results) if r.spec.kind == "encoder"}


def fake(method="ce", seed=0, *, encoder=None, ap=0.5, ba=0.5, status="finished", variation=None, **rest):
    """Return a record with the numbers given; `ap` and `ba` are one number, or one for max and one for sum."""
    spec = Spec(profile="smoke", task="digits-0", method=method, encoder=encoder, seed=seed)
    rules = ("none",) if method == "ce" else ("max", "sum")
    metrics = {}
    for i, rule in enumerate(rules):
        ap_i, ba_i = (values[i] if isinstance(values, tuple) else values for values in (ap, ba))
        summary = dict(zip(MEASURES, (ba_i, ap_i, ap_i / 2), strict=True))
        metrics[rule] = {"test": {"summary": summary, "average_precision": {"not 0": 0.99, "0": ap_i}}}
    traces = [
        {"epoch": i + 1, "variation": list(values), "variation_fine": [values[-1], *[values[0]] * 9]}
        for i, values in enumerate(variation or [])
    ]
    values = {
        "status": status,
        "metrics": metrics if status == "finished" else {},
        "regrouping": {"parent": [0, 1], "counts": [9, 1]},
        "seconds": {"train": 10.0, "evaluate": 2.5, "encode": 1000.0},
        "data_digest": "abcdef0123456789",
        "machine": {"cores": 2, "architecture": "x86_64"},
        "traces": traces,
    }
    return Record(spec=spec, **values | rest)


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([0.5, 0.7], {}, "60.0 ± 14.1"),
        ([0.1, 0.2, 0.3], {}, "20.0 ± 10.0"),
        ([0.1, 0.2, 0.3], {"scale": 1, "digits": 3}, "0.200 ± 0.100"),
        ([0.8234], {}, "82.3 ± nan"),  # one seed has no spread
        ([0.5, float("nan")], {}, "nan ± nan"),  # a diverged run is not left out in silence
        ([0.25, 0.25], {"digits": 2}, "25.00 ± 0.00"),
    ],
)
def test_mean_std(values, options, expected):
    assert mean_std(values, **options) == expected


def test_methods_come_in_order_of_appearance_and_seeds_sorted():
    records = [fake("rg", 1, encoder="raw"), fake("ce", 2), fake("rg", 2, encoder="raw"), fake("ce", 1)]
    records += [fake("rg", seed, encoder="pca") for seed in (1, 2)]  # another encoder is another method
    groups = by_method(records)
    assert list(groups) == ["rg-raw", "ce", "rg-pca"]
    assert [[r.spec.seed for r in group] for group in groups.values()] == [[1, 2]] * 3


@pytest.mark.parametrize("function", [by_method, comparison_table, asynchrony_table, show.label_set_table])
def test_methods_of_different_seeds_are_refused(function):
    """Their differences would not be paired."""
    records = [fake("ce", seed) for seed in (0, 1)] + [fake("rg-true", seed) for seed in (0, 2)]
    with pytest.raises(ValueError, match=r"the methods have different seeds: .*ce.*\[0, 1\].*rg-true.*\[0, 2\]"):
        function(records)
    with pytest.raises(ValueError, match="the methods have different seeds"):
        function(records[:3])


def test_the_rule_that_is_read():
    assert rule_of(fake("ce")) == rule_of(fake("ce"), "sum") == "none"
    assert (rule_of(fake("rg-true")), rule_of(fake("rg-true"), "sum")) == ("max", "sum")
    record = fake("rg-true", ap=(0.25, 0.75))
    assert result_on_test(record, "average_precision") == 0.25
    assert result_on_test(record, "average_precision", "sum") == 0.75
    assert np.isnan(result_on_test(fake(status="diverged"), "average_precision"))


def test_traces_are_read_by_split_rule_and_measure(trained):
    for record in trained:
        rule = "none" if record.spec.method == "ce" else "max"
        expected = [epoch[f"test_{rule}_average_precision"] for epoch in record.traces]
        np.testing.assert_array_equal(trace(record, "average_precision"), expected)
        rule = "none" if record.spec.method == "ce" else "sum"
        expected = [epoch[f"val_{rule}_balanced_accuracy"] for epoch in record.traces]
        np.testing.assert_array_equal(trace(record, "balanced_accuracy", split="val", rule="sum"), expected)


def test_comparison_table_has_the_records_numbers_under_both_rules():
    """The rendered chapter's cells are held against their records in test_provenance.py."""
    made = {"ce": (0.3, 0.5), "rg-true": ((0.6, 0.7), (0.8, 0.9))}
    records = [fake(method, seed, ap=ap, ba=ba) for method, (ap, ba) in made.items() for seed in (0, 1)]
    cells = [[f"{100 * number:.1f} ± 0.0" for number in row] for row in ((0.5, 0.5, 0.3, 0.3), (0.8, 0.9, 0.6, 0.7))]
    table = comparison_table(records[:2])
    assert table.loc["binary labels"].tolist() == [*cells[0], ""]
    groups = by_method(records)
    assert show.rule_cells(groups, "balanced_accuracy", "sum") == [row[1] for row in cells]
    assert show.rule_cells(groups, "average_precision", "max") == [row[2] for row in cells]


def test_encoder_table_by_hand():
    def look(encoder, seed, purity, seconds):
        return Record(
            spec=EncoderSpec(profile="smoke", task="digits-0", encoder=encoder, seed=seed),
            status="finished",
            metrics={"purity": purity, "nmi": purity / 2, "ari": 0.25, "neighbor_accuracy": 0.875},
            regrouping={"dimension": 64},
            seconds={"encode": 12.0, "regroup": seconds},
            data_digest="",
        )

    table = encoder_table([look("raw", 0, 0.5, 1.0), look("raw", 1, 0.7, 3.0), look("pca", 0, 1.0, 5.0)])
    expected = [64, "0.60 ± 0.14", "0.30 ± 0.07", "0.25 ± 0.00", "0.88", "12 + 2"]  # the median of two k-means
    assert table.loc["raw pixels"].tolist() == expected
    assert table.loc["PCA", "purity"] == "1.00 ± nan"


def test_pace_gap_and_asynchrony_by_hand():
    """Minority 4 against a mean of 2: one doubling behind; then 0.5 against 2: two ahead; then in step."""
    record = fake("rg-true", variation=[(1, 3, 4), (2, 2, 0.5), (5, 1, 3)])
    record.regrouping = {"parent": [0, 0, 1]}
    np.testing.assert_allclose(pace_gap(record), [1, -2, 0], atol=1e-12)
    assert asynchrony(record) == pytest.approx(1)
    binary = fake("ce", variation=[(2, 1), (1, 1)])
    np.testing.assert_allclose(pace_gap(binary), [-1, 0], atol=1e-12)
    assert asynchrony(binary) == pytest.approx(0.5)


def test_asynchrony_table_by_hand():
    records = [fake("ce", seed, variation=[(1, 4), (1, 2**seed)]) for seed in (0, 1)]  # |2|, |seed|: 1 and 1.5
    records += [fake("rg-true", seed, variation=[(1, 2), (1, 1)]) for seed in (0, 1)]  # 0.5
    assert asynchrony_table(records)["A"].to_dict() == {"binary labels": "1.25 ± 0.35", "true classes": "0.50 ± 0.00"}


def test_records_frame_has_a_row_a_record_and_rule():
    rg = fake("rg", 3, encoder="raw", ap=(0.25, 0.75), ba=(0.5, 0.625))
    rg.regrouping = {"parent": [0, 0, 0, 1]}
    frame = records_frame([fake("ce", 1, ap=0.5), rg, fake("rg-true", status="diverged")])
    assert list(frame.columns) == [
        *["key", "profile", "task", "method", "encoder", "clusterer", "aggregation", "n_clusters", "seed", "epochs"],
        *["balanced_accuracy", "average_precision", "calibrated_average_precision", "seconds", "status"],
        *["average_precision_not 0", "average_precision_0"],
    ]
    assert frame["method"].tolist() == ["ce", "rg", "rg", "rg-true"]
    assert frame["aggregation"].tolist() == ["", "max", "sum", ""]
    assert frame["encoder"].tolist() == ["", "raw", "raw", ""]
    assert frame["clusterer"].tolist() == ["", "kmeans", "kmeans", ""]
    assert frame["n_clusters"].tolist() == [1, 3, 3, 1]  # of the majority
    assert frame["seed"].tolist() == [1, 3, 3, 0]
    assert frame["average_precision"].tolist()[:3] == [0.5, 0.25, 0.75]
    assert frame["average_precision_0"].tolist()[:3] == [0.5, 0.25, 0.75]
    assert frame["balanced_accuracy"].tolist()[:3] == [0.5, 0.5, 0.625]
    assert frame["calibrated_average_precision"].tolist()[:3] == [0.25, 0.125, 0.375]
    assert frame["seconds"].tolist() == [12.5] * 4  # encoding is done once for all
    assert frame["status"].tolist() == ["finished"] * 3 + ["diverged"]
    assert frame.iloc[3][list(MEASURES)].isna().all()
    assert frame["key"].tolist() == [fake("ce", 1).key, rg.key, rg.key, fake("rg-true").key]


def test_runs_behind_a_page_have_a_line_a_task_and_profile(trained, encoded):
    other, large = copy.copy(trained[0]), copy.copy(trained[0])
    other.spec = Spec(profile="smoke", task="digits-3", method="ce", epochs=4)
    large.spec = Spec(profile="paper", task="digits-3", method="ce", epochs=9)
    first, second, third = show.runs_behind([*trained, encoded["raw"], other, large]).splitlines()
    assert third.startswith("- digits (3): 1 record of profile paper; seed 0; 9 epochs; data ")
    assert first.startswith("- digit 0: 7 records of profile smoke; seeds 0 and 1; 2 epochs; data ")
    assert trained[0].data_digest[:12] in first
    assert first.endswith(records.machine_class(trained[0]))
    assert second.startswith("- digits (3): 1 record of profile smoke; seed 0; 4 epochs; data ")


def test_machine_class_names_the_gpu_where_there_was_one(trained):
    record = replace(trained[0], machine={"cores": 8, "architecture": "arm64", "gpu": "Some GPU"})
    assert records.machine_class(record) == "8 cores arm64, Some GPU"


def test_record_links_are_text_and_no_markup(trained):
    page = show.record_links([replace(trained[0], status="<script>", path=trained[0].path.with_name('a"b.json'))])
    assert "<script>" not in page
    assert "a%22b.json" in page


def test_record_links_are_anchors_once_on_a_page(trained):
    first, *others = trained
    table = show.record_links(trained, known={first.key})
    assert f'id="{first.key}"' not in table
    for record in others:
        assert table.count(f'id="{record.key}"') == 1
        assert f"records/digits-0/{record.path.name}" in table


def test_tables_say_which_records_their_rows_come_from(trained, encoded):
    keys = show.comparison_table(trained).attrs["records"]
    assert keys == [[record.key for record in group] for group in show.by_method(trained).values()]
    assert show.encoder_table([encoded["raw"]]).attrs["records"] == [[encoded["raw"].key]]


def drawn(figure):
    """Render a figure and return its visible panels."""
    figure.canvas.draw()
    return [axes for axes in figure.axes if axes.get_visible()]


def legend_texts(figure):
    legends = figure.legends + [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert legends, "no legend"
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def test_every_method_has_a_style_of_its_own():
    styles = list(show.STYLES.values())
    assert len({style.label for style in styles}) == len(styles)
    assert len({(style.color, str(style.line)) for style in styles}) == len(styles)
    assert style_of(fake("rg", encoder="pca").spec) == show.STYLES["rg-pca"]
    unknown = style_of(fake("rg", encoder="onnx:mine").spec)
    assert unknown.label == "rg-onnx:mine"


def balanced_accuracy(record):
    return trace(record, "balanced_accuracy")


def test_curves_are_means_over_seeds_with_the_range_as_a_band(trained):
    """A method whose runs diverged has no curve, and is named."""
    diverged = [fake("rg-random", seed, status="diverged") for seed in (0, 1)]
    axes = show.plot_curves([*trained, *diverged], balanced_accuracy, "test BA")
    assert axes.get_xlabel() == "epoch\nrandom groups (2 of 2 seeds diverged)"
    assert axes.get_ylabel() == "test BA"
    groups = by_method(trained)
    assert sorted(legend_texts(axes.figure)) == sorted(style_of(group[0].spec).label for group in groups.values())
    bands = {tuple(band.get_facecolor()[0][:3]): band for band in axes.collections}
    for group in groups.values():
        curves = np.array([balanced_accuracy(record) for record in group])
        (line,) = (line for line in axes.get_lines() if line.get_label() == style_of(group[0].spec).label)
        np.testing.assert_array_equal(line.get_xdata(), [1, 2])
        np.testing.assert_allclose(line.get_ydata(), curves.mean(axis=0))
        corners = bands[plt.matplotlib.colors.to_rgb(line.get_color())].get_paths()[0].vertices
        for epoch in (1, 2):
            edge = corners[corners[:, 0] == epoch, 1]
            assert (edge.min(), edge.max()) == pytest.approx((curves[:, epoch - 1].min(), curves[:, epoch - 1].max()))


def test_a_method_that_diverged_keeps_its_row(trained):
    diverged = [fake("rg-random", seed, status="diverged") for seed in (0, 1)]
    trained = copy.deepcopy(trained)
    for record in trained:
        for by_split in record.metrics.values():
            by_split["test"]["neighbor_accuracy"] = 0.5
    half = [replace(record, status="diverged") if record.spec.seed == 1 else record for record in trained]
    rows = show.label_set_table([*trained, *diverged])
    assert rows.index[-1] == "random groups (2 of 2 seeds diverged)"
    assert rows["learned"].iloc[-1] == ""
    assert "diverged" not in " ".join(rows.index[:-1])
    assert all(title.endswith("(1 of 2 seeds diverged)") for title in show.label_set_table(half).index)


def test_embeddings_show_every_point_by_class(encoded):
    figure = pictures.plot_embeddings(list(encoded.values()))
    panels = drawn(figure)
    assert [axes.get_title() for axes in panels] == [show.encoder_label(name) for name in encoded]
    assert legend_texts(figure) == list("0123456789")
    for axes, record in zip(panels, encoded.values(), strict=True):
        found, expected = axes.collections[0].get_offsets(), record.arrays()["embedding"]
        np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)], rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_the_pipeline_shows_the_clusters_of_a_record(encoded):
    record = encoded["raw"]
    figure = pictures.plot_pipeline(record)
    (axes,) = drawn(figure)
    text = " ".join(text.get_text() for text in axes.texts)
    k = len(record.regrouping["parent"]) - 1
    assert "raw pixels" in text
    assert f"K = {k}" in text
    assert "not 0" in text
    assert all(step in text for step in ("Encode", "Regroup", "Aggregate"))
    examples = {image.squeeze().tobytes() for images in record.arrays()["examples"] for image in images}
    assert len(axes.images) > k
    assert all(np.asarray(image.get_array(), np.uint8).tobytes() in examples for image in axes.images)


def test_settings_of_one_method_are_never_averaged_together():
    """Three settings with seed 0, of which one has seed 1, too: pairs by seed alone would mix them."""
    records = [fake("focal", seed, ap=ap) for seed, ap in ((0, 0.2), (0, 0.4), (0, 0.6), (1, 0.5))]
    for record, gamma in zip(records, (2.0, 1.0, 5.0, 1.0), strict=True):
        record.spec = record.spec.model_copy(update={"gamma": gamma})
        record.metrics = {"none": record.metrics["max"]}
    frame = compared_frame([*records, fake("ce", status="diverged")])
    found = dict(zip(frame["settings"], frame["AP"], strict=True))
    assert found["gamma=1.0"] == "45.0 ± 7.1"
    assert found["gamma=5.0"] == "60.0"
    assert frame["seeds"].tolist() == [1, 2, 1, 0]  # the best first: 60, 45, 20, none
    assert frame["diverged"].tolist() == [0, 0, 0, 1]
    assert compared_frame([]).empty


def test_stars_count_the_differences_of_all_columns():
    """Clear by itself, and not among two."""
    near = Interval(2.1, 0.1, 4.1, 1, 50)
    assert show.starred_columns({"a": [near]}) == {"a": ["+2.1 [+0.1, +4.1] *"]}
    assert show.starred_columns({"a": [near], "b": [None, near]}) == {"a": [str(near)], "b": ["", str(near)]}
