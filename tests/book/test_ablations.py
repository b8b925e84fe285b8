"""Ablations: the plan's sections, and tables and figures from made records."""

import numpy as np
import pytest

from regroup_book import plans
from regroup_book.chapters import ablations
from regroup_book.differences import precision_difference, values
from regroup_lib.runs.specs import Spec


@pytest.fixture
def make(binary_record):
    """Return a function that makes the records of a group: two seeds, positives scoring `lift` higher."""

    def group(spec, lift, *, nmi=0.0):
        groups = {"parent": [0, 0, 0, 1], "counts": [200, 100, 60, 40], "purity": nmi / 2 + 0.2, "nmi": nmi}
        options = {"regrouping": groups} if spec.method.startswith("rg") else {}
        specs = [spec.model_copy(update={"seed": seed}) for seed in (0, 1)]
        return [binary_record(one, lift, rules=("max", "sum"), **options) for one in specs]

    return group


def spec(method, **fields):
    encoder = "pca" if method in ("rg", "rg-shuffled") else None
    return Spec(profile="smoke", task="digits-0", method=method, encoder=encoder, **fields)


@pytest.fixture
def clusterers(make):
    quality = {"kmeans": (3.0, 0.6), "spectral": (5.5, 0.7), "random": (1.0, 0.0)}
    return {name: make(spec("rg", clusterer=name), lift, nmi=nmi) for name, (lift, nmi) in quality.items()}


@pytest.fixture
def controls(make):
    lifts = {"binary": 2.0, "true": 4.5, "clusters": 4.0, "clusters' sizes": 1.5, "equal clusters": 4.0}
    specs = {"binary": spec("ce"), "true": spec("rg-true"), "clusters' sizes": spec("rg-shuffled")}
    made = {label: make(specs.get(label, spec("rg")), lift, nmi=0.5) for label, lift in lifts.items()}
    return made | {"random, equal": make(spec("rg-random", clusterer="random-equal"), 1.5)}


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize("name", plans.ABLATION_SECTIONS)
def test_a_section_changes_one_part_and_has_every_seed(profile, name):
    task = plans.ABLATION_TASKS[profile][0]
    groups = plans.ablation(name, task, profile, [0, 1, 2])
    assert groups
    varied = {
        "clusterer": {"clusterer"},
        "encoder": {"encoder", "encoder_epochs"},
        "loss": {"method"},
        "clusters": {"n_clusters"},
        "imbalance": {"method", "encoder", "imbalance", "epochs"},
        "control": {"method", "encoder", "clusterer", "n_clusters"},
        "length": {"method", "encoder", "clusterer", "epochs"},
    }[name]
    dumped = []
    for specs in groups.values():
        assert [s.seed for s in specs] == [0, 1, 2]
        dumped.append(specs[0].model_dump())
    for field in dumped[0]:
        if field not in varied:
            assert len({str(d[field]) for d in dumped}) == 1, field


def test_sections_share_the_run_that_is_their_reference():
    task, seeds = "cifar10-airplane", [0]
    reference = plans.ablation("clusterer", task, "cpu", seeds)["kmeans"]
    for name, label in (("loss", "rg"), ("clusters", "9"), ("control", "clusters"), ("encoder", plans.INCEPTION)):
        assert plans.ablation(name, task, "cpu", seeds)[label] == reference


def test_the_shortest_training_is_that_of_the_controls():
    groups = plans.ablation("length", "cifar10-airplane", "cpu", [0, 1])
    controls = plans.ablation("control", "cifar10-airplane", "cpu", [0, 1])
    for label in ("binary", "random, equal", "clusters", "true"):
        assert groups[f"{label} 5"] == controls[label]
    assert {specs[0].epochs for specs in groups.values()} == {5, 10, 20}
    assert plans.ablation("length", "cifar100-worm", "cpu", [0]) == {}


def test_the_table_compares_with_the_reference(clusterers):
    table = ablations.ablation_table(clusterers, "kmeans", heading="clusterer")
    assert table.loc["kmeans", "AP − kmeans"] == ""
    assert table.loc["random", "AP − kmeans"].startswith("−")
    assert table.loc["random", "AP − kmeans"].endswith("*")
    assert table.loc["spectral", "NMI"] == "0.70"
    assert table.loc["spectral", "largest : smallest"] == f"{200 / 60:.1f}"
    assert table.loc["kmeans", "AP (max)"] == table.loc["kmeans", "AP (sum)"]  # made so


def test_sentences_are_of_the_settings_that_differ(clusterers, controls, make):
    """A record of two sections counts once; one setting's scores under the two rules are set apart."""
    low, high = (precision_difference(clusterers, name, "kmeans").mean for name in ("random", "spectral"))
    assert ablations.span_over(clusterers, "kmeans") == f"−{-low:.1f} to +{high:.1f}"
    points = ablations.points(clusterers, {"again": clusterers["kmeans"], "binary": controls["binary"]})
    assert points["label"].tolist() == [name for name in (*clusterers, "binary") for _ in range(2)]
    found = ablations.quality_sentence(points.dropna())
    assert "AP rises with the match" in found
    assert "+1.00 with NMI and +1.00 with purity" in found
    apart = make(spec("rg", n_clusters=5), 3.0, nmi=0.5)
    for record in apart:
        by_rule = {rule: record.metrics[rule]["test"]["summary"] for rule in ("max", "sum")}
        by_rule["sum"]["average_precision"] = by_rule["max"]["average_precision"] + 0.02
    text = ablations.rules_sentence(clusterers, {"5": apart}, clusterers)
    assert text.startswith("Sum aggregation ranks better than max in 1 of 4 settings.")
    assert text.endswith("+0.5 points on average, with a range from +0.0 to +2.0.")


METHODS = {"ce": (3.0, 1.0), "wce": (2.9, 1.5), "ros": (4.0, 2.5), "rg": (3.1, 5.0)}
METHODS |= {"ce-longer": (3.0, 1.2), "wce-longer": (2.9, 1.4), "rg-longer": (1.0, 5.0)}


@pytest.fixture
def imbalance(make):
    return {
        f"{method} {ratio:g}": make(
            spec(method.removesuffix("-longer"), imbalance=ratio, epochs=6 if "longer" in method else 3), lift
        )
        for method, lifts in METHODS.items()
        for ratio, lift in zip((10.0, 100.0), lifts, strict=True)
    }


@pytest.mark.parametrize(("methods", "suffix"), [(ablations.EQUAL_EPOCHS, ""), (ablations.EQUAL_STEPS, "-longer")])
def test_each_ratio_has_a_row_with_the_differences_to_ce_and_to_the_best_on_validation(imbalance, methods, suffix):
    found = ablations.ratio_table(imbalance, methods)
    assert list(found.index) == ["10:1", "100:1"]
    expected = values(imbalance[f"rg{suffix} 10"], "average_precision").mean()
    assert found.loc["10:1", "RG"].startswith(f"{expected:.1f} ±")
    assert found.loc["100:1", "best other on validation"] == "ROS"
    for column, other in (("RG − CE", f"ce{suffix}"), ("RG − best other", "ros")):
        for ratio in ("10", "100"):
            difference = precision_difference(imbalance, f"rg{suffix} {ratio}", f"{other} {ratio}")
            assert found.loc[f"{ratio}:1", column].removesuffix(" *") == str(difference)
    assert found.loc["100:1", "RG − CE"].endswith("*")
    shares = np.array([360, 40]) / 400
    learned = 100 * (1 - 0.1 / -(shares * np.log(shares)).sum())
    gains = [precision_difference(imbalance, f"rg{suffix} {ratio}", f"ce{suffix} {ratio}").mean for ratio in (10, 100)]
    where = "With as many steps as ROS" if suffix else "For equally many epochs"
    said = f"{where}, the gain of RG over CE is {gains[0]:+.1f} points at 10:1 and {gains[1]:+.1f} at 100:1, where "
    said += f"CE has learned {learned:.0f}% of its labels. ROS ranks above RG at "
    assert said.replace("-", "−") in ablations.pays_between(imbalance)
    assert "above RG at 10:1." in ablations.pays_between(imbalance)


def test_an_epoch_of_ros_has_the_steps_of_two_epochs_of_the_others():
    groups = plans.ablation("imbalance", "cifar10-airplane", "cpu", [0, 1, 2])
    for ratio in plans.IMBALANCES:
        for method in ("ce", "wce", "rg"):
            longer, once = groups[f"{method}-longer {ratio:g}"], groups[f"{method} {ratio:g}"]
            assert longer == [s.model_copy(update={"epochs": 2 * s.epochs}) for s in once]


@pytest.fixture
def lengths(make):
    lifts = {3: (1.0, 1.2, 4.0, 5.0), 6: (3.0, 3.0, 4.2, 5.0)}
    specs = {"binary": spec("ce"), "random, equal": spec("rg-random"), "clusters": spec("rg"), "true": spec("rg-true")}
    return {
        f"{label} {epochs}": make(one.model_copy(update={"epochs": epochs}), lift)
        for epochs, at in lifts.items()
        for (label, one), lift in zip(specs.items(), at, strict=True)
        if (label, epochs) != ("true", 6)
    }


def test_the_table_of_lengths_compares_at_equal_lengths(lengths):
    table = ablations.length_table(lengths)
    assert list(table.index) == ["3", "6"]
    groups = {"binary": lengths["binary 6"], "clusters": lengths["clusters 6"]}
    gain = precision_difference(groups, "clusters", "binary")
    assert table.loc["6", "clusters − binary"].startswith(str(gain))
    assert table.loc["3", "clusters − binary"].endswith("*")
    assert table.loc["6", "binary"].startswith(f"{values(groups['binary'], 'average_precision').mean():.1f}")
    errors = {label: 100 - values(lengths[f"{label} 6"], "average_precision").mean() for label in groups}
    ratio = f"{errors['clusters'] / errors['binary']:.2f}"
    assert table.loc["6", "error left"] == ratio
    assert f"and {gain.mean:+.1f} after 6." in ablations.length_sentence(lengths)
    assert ablations.length_sentence(lengths).endswith(f" and {ratio} of that of binary labels.")
    assert table.loc["3", "true − binary"].endswith("*")
    assert table.loc["6", "true"] == table.loc["6", "true − binary"] == ""  # not trained so long


def test_parts_of_the_gain_are_differences_of_label_sets(controls):
    table = ablations.parts_of_the_gain(controls)
    expected = precision_difference(controls, "clusters", "binary")
    assert table.loc["all: clusters", "AP, points"].startswith(str(expected))
    assert table.index[table["AP, points"].str.endswith("*")].tolist() == ["all: clusters"]  # after Holm's correction
    assert set(controls) <= set(ablations.CONTROL_PARTS)
    meaning = precision_difference(controls, "clusters", "clusters' sizes")
    text = ablations.parts_sentence(controls)
    assert text.startswith(f"Clusters change the AP of binary labels by {expected} points.")
    assert text.endswith(f"clusters differ by {meaning}: this is the effect of meaning.")


def test_what_ba_says_is_beside_what_is_called_positive(controls):
    table = ablations.balanced_accuracy_table(controls)
    arrays = [record.arrays() for record in controls["random, equal"]]
    called = [100 * np.mean(found["test_scores_max"] >= 0.5) for found in arrays]
    assert table.loc["random, equal", "called positive"].startswith(f"{np.mean(called):.1f} ±")
    assert table.loc["binary", "BA (max)"] == table.loc["binary", "BA (sum)"]
    text = ablations.balanced_accuracy_sentence(controls)
    assert f"is {precision_difference(controls, 'random, equal', 'clusters')} points" in text
    assert f"call {np.mean(called):.0f}% of the test images positive" in text
    ba = values(controls["random, equal"], "balanced_accuracy").mean()
    assert text.startswith(f"Under max, random groups of equal sizes have a BA of {ba:.1f}")


def test_each_use_of_the_encoder_that_was_run_is_ranked_against_regrouping(make):
    rg, equal = make(spec("rg"), 2.0), make(spec("rg", epochs=3), 2.0)
    better = make(spec("ce"), 4.0)
    uses = {
        "digits-0": {"rg": rg, "probe": better, "aux-clusters": equal},
        "a-b": {"rg": better, "probe": rg, "distill": better, "ce": rg},
    }
    assert ablations.uses_sentence(uses) == (
        "Regrouping ranks below a linear probe on the encoder's features on digit 0 and above it on a (b). "
        "Between regrouping and training with the clusters as a second task, the difference is undecided on digit 0. "
        "Between regrouping and training with the features as a second task, the difference is undecided on a (b). "
        "Training with the features as a second task ranks above plain training on a (b)."
    )
