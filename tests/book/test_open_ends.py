"""Long tails: accuracies by shots against their definition, and the plan's runs."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from regroup_book import plans
from regroup_book.chapters import open_ends
from regroup_book.differences import precision_difference, values
from regroup_lib.intervals import interval
from regroup_lib.metrics import bootstrap_counts
from regroup_lib.runs import networks
from regroup_lib.runs.records import N_RESAMPLES
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import Spec


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Run CE and RG on long-tailed digits for one epoch."""
    folder = tmp_path_factory.mktemp("long-tail")
    common = {"profile": "smoke", "task": "digits-lt", "epochs": 1, "imbalance": 20.0}
    return {
        "CE": [run(Spec(method="ce", seed=seed, **common), results_dir=folder) for seed in (0, 1)],
        "RG, n' = 50": [
            run(Spec(method="rg", encoder="raw", threshold=50, seed=seed, **common), results_dir=folder)
            for seed in (0, 1)
        ],
    }


def test_the_ratio_reaches_the_training_set(records):
    counts = open_ends.training_counts(records["CE"][0])
    assert counts[0] // counts[-1] in (20, 22)  # 112 to 5
    np.testing.assert_array_equal(open_ends.training_counts(records["RG, n' = 50"][0]), counts)


def test_accuracies_by_shots_are_mean_recalls(records):
    for group in records.values():
        record = group[0]
        labels, decided = open_ends.predictions(record)
        counts, found = open_ends.training_counts(record), open_ends.shot_accuracies(record)
        assert found["all"] == pytest.approx((labels == decided).mean())
        few = [np.mean(decided[labels == c] == c) for c in range(10) if counts[c] < 20]
        assert found["few"] == pytest.approx(np.mean(few))
        many = [np.mean(decided[labels == c] == c) for c in range(10) if counts[c] > 100]
        assert found["many"] == pytest.approx(np.mean(many))


def test_shots_cover_every_count_once():
    for count in (0, 5, 19, 20, 100, 101, 5000):
        assert sum(low <= count <= high for low, high in open_ends.SHOTS.values()) == 1


def test_tables_and_sentences_follow_the_records(records):
    table = open_ends.long_tail_table(records)
    assert table.loc["CE", "pseudo-classes"] == 10
    assert table.loc["RG, n' = 50", "pseudo-classes"] > 10
    assert "20 to 100" not in open_ends.describe_tail(records)
    assert open_ends.describe_tail(records).endswith("112 in the largest and 5 in the smallest")


def changed(record, *, validation, precision):
    """Return a record with another accuracy on the validation images, and another mean AP on the test images."""
    metrics = copy.deepcopy(record.metrics)
    (rule,) = metrics.keys() & {"none", "max"}
    metrics[rule]["val"]["summary"]["balanced_accuracy"] = validation
    metrics[rule]["test"]["summary"]["average_precision"] = precision
    return dataclasses.replace(record, metrics=metrics)


def twice_the_images(record):
    return dataclasses.replace(record, traces=[t | {"images": 2 * t["images"]} for t in record.traces])


def by_seed(groups, first, second):
    """Return the difference of mean AP as changed records have it; their scores are the old ones."""
    return interval(np.subtract(*(values(groups[name], "average_precision") for name in (first, second))))


def test_validation_chooses_and_the_test_set_measures(records, monkeypatch):
    def made(label, validation, precision):
        return [
            changed(record, validation=v, precision=p)
            for record, v, p in zip(records[label], validation, precision, strict=True)
        ]

    groups = {
        "CE": made("CE", (0.5, 0.5), (0.50, 0.52)),
        "LA": made("CE", (0.6, 0.7), (0.70, 0.70)),
        "ROS": [twice_the_images(record) for record in made("CE", (0.9, 0.9), (0.80, 0.80))],
        "RG, n' = 50": made("RG, n' = 50", (0.4, 0.4), (0.99, 0.99)),  # best on the test set, not on validation
        "RG, n' = 20": made("RG, n' = 50", (0.4, 0.5), (0.60, 0.62)),
        "RG+LA, n' = 20": made("RG, n' = 50", (0.9, 0.9), (0.60, 0.60)),
    }
    assert open_ends.contests(groups) == {
        "RG − CE": ("RG, n' = 20", "CE"),
        "best with RG − best without": ("RG+LA, n' = 20", "ROS"),
        "at equal steps": ("RG+LA, n' = 20", "LA"),
    }
    monkeypatch.setattr(open_ends, "precision_difference", lambda groups, *pair: by_seed(groups, *pair))
    table = open_ends.contest_table({"digits": groups})
    assert list(table["mean AP"]) == ["+10.0 [+10.0, +10.0] *", "−20.0 [−20.0, −20.0] *", "−10.0 [−10.0, −10.0] *"]
    ours, theirs = ([open_ends.shot_accuracies(r)["all"] for r in records[m]] for m in ("RG, n' = 50", "CE"))
    gained = 100 * np.mean(np.subtract(ours, theirs))
    assert all(
        float(cell.split(" ")[0].replace("−", "-")) == pytest.approx(gained, abs=0.05) for cell in table["accuracy"]
    )
    above, below, equal = open_ends.long_tail_sentences({"digits": groups, "again": groups}).values()
    assert "mean AP is clearly higher on 2 of 2 sets (on average +10.0 [+10.0, +10.0])." in above
    assert "mean AP is clearly lower on 2 of 2 sets (on average −20.0" in below
    assert "mean AP is clearly lower on 2 of 2 sets (on average −10.0" in equal
    assert open_ends.long_tail_table(groups).loc["ROS", "images seen"] == "2.00"


def test_a_method_that_diverged_is_not_chosen(records):
    lost = [dataclasses.replace(r, status="diverged") for r in records["CE"]]
    assert open_ends.chosen_on_validation({"lost": lost, "CE": records["CE"]}) == "CE"


def test_many_classes_keep_decisions_in_the_place_of_scores(records, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "MANY_CLASSES", 5)
    kept = run(records["CE"][0].spec, results_dir=tmp_path)
    assert "test_scores_none" not in kept.arrays()
    for found, expected in zip(open_ends.predictions(kept), open_ends.predictions(records["CE"][0]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert kept.metrics == records["CE"][0].metrics


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
def test_the_plan_has_every_seed_of_every_setting(profile):
    found = plans.long_tails(profile, [0, 1, 2])
    assert list(found) == [(task, ratio) for task, (ratios, _) in plans.LONG_TAILS[profile].items() for ratio in ratios]
    for (task, ratio), groups in found.items():
        thresholds = plans.LONG_TAILS[profile][task][1]
        assert {"CE", "LA", "LDAM-DRW", *(f"RG, n' = {t:g}" for t in thresholds)} <= set(groups)
        for specs in groups.values():
            assert [(s.seed, s.imbalance) for s in specs] == [(seed, ratio) for seed in (0, 1, 2)]


def test_the_longest_self_supervised_encoder_is_the_one_that_is_clustered():
    runs = plans.self_supervised_runs("cpu", [0])
    assert runs["simclr"][0].encoder_epochs == plans.SELF_SUPERVISED_EPOCHS["cpu"][-1]
    assert runs["binary"] == plans.ablation("control", "cifar10-airplane", "cpu", [0])["binary"]
    looks = plans.self_supervised_looks("cpu", [0, 1])
    assert list(looks) == sorted(looks)
    assert all(look.encoder == "simclr" for group in looks.values() for look in group)


def test_the_looks_are_summed_up_by_their_ends_and_their_last_step():
    looks = {2: (0.10, 0.12), 5: (0.2, 0.2), 10: (0.33, 0.31)}
    made = {epochs: [SimpleNamespace(metrics={"nmi": v}) for v in found] for epochs, found in looks.items()}
    assert open_ends.looks_sentence(made) == (
        "Between 2 and 10 epochs of training, the NMI goes from 0.11 to 0.32. "
        "The last step, from 5 epochs on, changes it by +0.12."
    )
    made.pop(10)
    assert open_ends.looks_sentence(made).endswith("from 2 epochs on, changes it by +0.09.")


def test_records_that_keep_scores_have_the_interval_over_images(records):
    found = open_ends.tail_differences(records, "RG, n' = 50", "CE")
    assert found["mean AP"] == precision_difference(records, "RG, n' = 50", "CE")
    right = [[np.equal(*open_ends.predictions(r)) for r in records[m]] for m in ("RG, n' = 50", "CE")]
    assert found["accuracy"].mean == pytest.approx(100 * (np.mean(right[0]) - np.mean(right[1])))
    counts = bootstrap_counts(open_ends.predictions(records["CE"][0])[0], N_RESAMPLES)
    resampled = [[100 * np.average(r, weights=w) for w in counts] for r in np.mean(right, axis=1)]
    by_seed = [100 * (a.mean() - b.mean()) for a, b in zip(*right, strict=True)]
    test = np.var(np.subtract(*resampled), ddof=1)
    assert found["accuracy"].error == pytest.approx((np.var(by_seed, ddof=1) / 2 + test) ** 0.5)


def test_records_of_many_classes_have_the_interval_over_seeds(records, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "MANY_CLASSES", 5)
    kept = {m: [run(r.spec, results_dir=tmp_path) for r in group] for m, group in records.items()}
    found = open_ends.tail_differences(kept, "RG, n' = 50", "CE")["mean AP"]
    assert found == by_seed(kept, "RG, n' = 50", "CE")
    assert found.degrees == 1
