"""Plans: which runs a chapter needs, and which of them are still missing."""

from itertools import pairwise

import pytest

from regroup_book import plans
from regroup_book.plans import (
    chapter_specs,
    missing_records,
    run_chapter_specs,
    select,
    tuning_grid,
    tuning_specs,
    undecided,
)
from regroup_lib.runs.records import Record
from regroup_lib.runs.specs import EncoderSpec, Spec

CHAPTERS = list(plans.PLANS)


RUNS_A_SEED = [("motivating-example", profile, 6) for profile in ("smoke", "cpu", "paper")]
RUNS_A_SEED += [("synchronous-learning", "cpu", 6), ("encoders", "smoke", 3), ("encoders", "paper", 4)]


@pytest.mark.parametrize(("chapter", "profile", "runs_a_seed"), RUNS_A_SEED)
@pytest.mark.parametrize("seeds", [[0], [0, 1, 2], [7, 3]])
def test_a_chapter_runs_each_of_its_label_sets_or_encoders_once_a_seed(chapter, profile, runs_a_seed, seeds):
    specs = chapter_specs(chapter, profile=profile, seeds=seeds)
    assert len(specs) == len(set(specs)) == runs_a_seed * len(seeds)
    labels = {spec.label for spec in specs}
    assert len(labels) == runs_a_seed
    for label in labels:
        assert [spec.seed for spec in specs if spec.label == label] == seeds
    assert {spec.profile for spec in specs} == {profile}
    assert {spec.task for spec in specs} == {"digits-0" if profile == "smoke" else "cifar10-airplane"}


def test_the_chapter_on_own_data_compares_the_same_methods_on_each_of_its_sets():
    smoke, cpu = (chapter_specs("your-data", profile=profile, seeds=[0]) for profile in ("smoke", "cpu"))
    found = {}
    for spec in [*smoke, *cpu]:
        found.setdefault((spec.profile, spec.task), []).append(spec)
    digits, tumors = "own-digit-scans-8", "own-breast-cancer-malignant"
    expected = {("smoke", digits): 1 + 5, ("smoke", tumors): 1 + 5 + 6, ("cpu", "own-page-blocks-5"): 1 + 15}
    assert {key: len(specs) for key, specs in found.items()} == expected
    expected = {
        ("smoke", digits): ["ce", "wce", "ros", "rg", "rg-wce"],
        ("smoke", tumors): ["plain", "weights", "ros", "rg", "rg-weights", "balanced-forest"],
        ("cpu", "own-page-blocks-5"): ["plain", "weights", "ros", "rg", "rg-weights"],
    }
    for key, specs in found.items():
        assert list(dict.fromkeys(spec.method for spec in specs if spec.kind != "look")) == expected[key]
        assert sum(spec.kind == "look" for spec in specs) == 1
    assert all(spec.own.path for spec in smoke)


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_chapter_has_runs_in_every_profile_at_the_default_seeds(empty_results, chapter, profile):
    specs = chapter_specs(chapter, profile=profile)
    assert bool(specs) == (chapter not in ("tutorial", "scorecard", "discrepancies", "scale"))  # which train nothing
    if not specs:
        return
    assert {spec.profile for spec in specs} == {profile}
    assert {spec.seed for spec in specs} == {0, 1, 2}  # three at least, says the book


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
def test_all_chapters_together_need_each_run_once(empty_results, profile):
    options = {"profile": profile, "seeds": [0, 1]}
    everything = chapter_specs("all", **options)
    assert len(everything) == len({spec.key for spec in everything})
    assert set(everything) == {spec for chapter in CHAPTERS for spec in chapter_specs(chapter, **options)}
    # Two chapters draw from the same runs.
    assert chapter_specs("synchronous-learning", **options) == chapter_specs("motivating-example", **options)


def test_looks_at_clusters_keep_small_images_in_every_profile():
    for profile in ("cpu", "paper"):
        looks = plans.cluster_looks("ham10000", profile, [0])
        assert [look.image_size for look in looks] == [64]
    default = EncoderSpec(profile="cpu", task="ham10000", encoder=plans.INCEPTION)
    assert plans.cluster_looks("ham10000", "cpu", [0])[0].key == default.key


@pytest.mark.parametrize(
    ("chapter", "options", "message"),
    [
        ("nope", {}, "no chapter is called 'nope'; there are motivating-example, encoders, .*, or all"),
        ("", {}, "no chapter is called ''"),
        ("encoders", {"profile": "huge"}, "no profile is called 'huge'; there are smoke, cpu, paper"),
        ("all", {"profile": ""}, "no profile is called ''"),
        ("encoders", {"seeds": []}, "seeds is empty; give at least one"),
        ("all", {"seeds": ()}, "seeds is empty"),
        ("encoders", {"seeds": [-1]}, "seed"),
    ],
)
def test_what_there_is_not_is_refused(chapter, options, message):
    with pytest.raises(ValueError, match=message):
        chapter_specs(chapter, **options)
    with pytest.raises(ValueError, match=message):
        missing_records(chapter, **options)


def test_missing_records_are_those_without_a_file(empty_results):
    options = {"profile": "smoke", "seeds": [0, 1]}
    specs = chapter_specs("motivating-example", **options)
    assert missing_records("motivating-example", **options) == specs
    for spec in specs[::2]:
        spec.path().parent.mkdir(parents=True, exist_ok=True)
        spec.path().touch()
    for chapter in ("motivating-example", "synchronous-learning"):
        assert missing_records(chapter, **options) == specs[1::2]
    assert missing_records("encoders", **options) == chapter_specs("encoders", **options)
    for spec in specs:
        spec.path().touch()
    assert missing_records("motivating-example", **options) == []


def with_precision(spec, validation, test=0.0, status="finished"):
    """Return a record that says so much of a spec's average precision."""
    results = {part: {"summary": {"average_precision": ap}} for part, ap in (("val", validation), ("test", test))}
    rules = ("max", "sum") if spec.method.startswith("rg") else ("none",)
    metrics = dict.fromkeys(rules, results) if status == "finished" else {}
    return Record(spec=spec, status=status, metrics=metrics, seconds={}, data_digest="")


@pytest.fixture
def shelf(monkeypatch):
    """Return a dict that takes the place of the records on disk, spec -> record."""
    records = {}
    monkeypatch.setattr(plans, "find_record", records.get)
    return records


FOCAL = tuning_specs("cpu", "cifar100-worm", "focal", 0)


def test_a_grid_varies_one_methods_settings_and_begins_with_its_defaults():
    assert len(FOCAL) == len(set(FOCAL)) == len(tuning_grid("cifar100-worm", "focal", "cpu")) == 3
    assert FOCAL[0] == Spec(task="cifar100-worm", method="focal", trace_test=False)
    assert len({spec.gamma for spec in FOCAL}) == 3
    assert len({spec.model_copy(update={"gamma": None}) for spec in FOCAL}) == 1


def test_tuning_never_looks_at_the_test_set_on_its_way():
    """Curves over epochs on the test set are drawn of chosen settings alone."""
    for profile, tasks in plans.BINARY_TASKS.items():
        specs = [spec for task in tasks for spec in tuning_specs(profile, task, "rg", 0)]
        assert all(not spec.trace_test and spec.validation_fraction > 0 for spec in specs)


@pytest.mark.parametrize(
    ("validation", "chosen"), [([0.1, 0.2, 0.3], 2), ([0.3, 0.2, 0.1], 0), ([0.2, 0.2, 0.1], 0), ([0.1, 0.3, 0.3], 1)]
)
def test_the_best_setting_on_the_validation_split_is_chosen_the_first_of_equals(shelf, validation, chosen):
    for spec, value in zip(FOCAL, validation, strict=True):
        shelf[spec] = with_precision(spec, value, test=1 - value)  # the test set says otherwise
    assert select(FOCAL) == FOCAL[chosen]


def test_a_setting_that_diverged_is_not_chosen(shelf):
    for spec in FOCAL:
        shelf[spec] = with_precision(spec, 0.0)
    shelf[FOCAL[0]] = with_precision(FOCAL[0], 0.9, status="diverged")
    assert select(FOCAL) == FOCAL[1]


def test_nothing_is_chosen_before_every_setting_was_tried(shelf):
    shelf[FOCAL[0]] = with_precision(FOCAL[0], 0.9)
    shelf[FOCAL[1]] = with_precision(FOCAL[1], 0.8)
    assert select(FOCAL) is None
    assert select(FOCAL[:1]) == FOCAL[0]  # one alone is chosen without a look
    assert select([]) is None


def test_table_1_is_tuned_with_the_first_seed_and_repeated_with_the_others(shelf):
    """Stage by stage: a chapter names more runs once the ones that decide about them are recorded."""
    seeds, options = [4, 5, 6], {"profile": "cpu", "seeds": [4, 5, 6]}
    stages = [chapter_specs("binary", **options)]
    waiting = [undecided("binary", **options)]
    while True:
        new = [spec for spec in stages[-1] if spec not in shelf]
        if not new:
            break
        # The last setting of either grid is the best.
        shelf |= {spec: with_precision(spec, 0.5 + 0.1 * (spec.n_clusters == 25 or spec.gamma == 5)) for spec in new}
        stages.append(chapter_specs("binary", **options))
        waiting.append(undecided("binary", **options))
    assert len(stages) > 2
    assert all(set(before) <= set(after) for before, after in pairwise(stages))
    assert waiting == [len(stages[-1]) - len(stage) for stage in stages]
    assert waiting[0] > 0 == waiting[-1]
    final = [spec for spec in stages[-1] if spec.task == "cifar100-worm"]
    focal = [spec for spec in final if spec.method == "focal"]
    assert [(spec.seed, spec.gamma) for spec in focal if spec.seed != 4] == [(5, 5.0), (6, 5.0)]
    assert len(focal) == 3 + 2
    # The composed methods take the clusters that were chosen for regrouping alone.
    assert {spec.n_clusters for spec in final if spec.method == "rg" and spec.seed != 4} == {25}
    composed = [spec for spec in final if spec.method == "rg-wce"]
    assert [(spec.seed, spec.n_clusters) for spec in composed] == [(seed, 25) for seed in seeds]
    for method in plans.PAPER_METHODS:
        assert {spec.seed for spec in final if spec.method == method} == set(seeds)


def test_records_that_are_missing_are_named_even_where_their_runs_wait_for_a_choice(shelf):
    with pytest.raises(ValueError, match=r"^records of rg are missing; run `regroup sweep folds`$"):
        plans.records_of({"rg": []}, "folds")
    with pytest.raises(ValueError, match=r"^cifar100-worm: records of a are missing; .* folds --profile cpu`$"):
        plans.records_of({"a": FOCAL}, "folds")


def test_run_chapter_specs_sweeps_until_nothing_new_comes(monkeypatch):
    """What the first records decide is run too, and a spec that several rounds name is run once."""
    first, second = (Spec(profile="smoke", task="digits-0", method="ce", seed=seed) for seed in (0, 1))
    done, calls = [], []

    def staged(profile, seeds):
        assert (profile, seeds) == ("smoke", [7])
        return [first, second] if first in done else [first]

    def sweep(specs, **options):
        calls.append((list(specs), options))
        done.extend(specs)
        return [with_precision(spec, 0.5) for spec in specs]

    monkeypatch.setitem(plans.PLANS, "staged", staged)
    monkeypatch.setattr(plans, "sweep", sweep)
    records = run_chapter_specs("staged", profile="smoke", seeds=[7], workers=2, recompute=True)
    assert [record.spec for record in records] == [first, second]
    options = {"recompute": True, "workers": 2}
    assert calls == [([first], options), ([second], options)]


def test_the_headline_has_the_chapters_runs_and_more_seeds_of_four_of_its_label_sets():
    specs = plans.headline("cpu")
    assert len(specs) == len(set(specs)) == 4 * 10
    assert {spec.label for spec in specs} == {"ce", "rg-true", "rg-random", f"rg-{plans.INCEPTION}"}
    chapter = set(plans.motivating_example("cpu", [0, 1, 2]))
    assert {spec for spec in specs if spec.seed < 3} <= chapter
    assert set(chapter_specs("headline")) == set(specs)
    assert not set(specs) <= set(chapter_specs("all", seeds=[0]))


def test_uses_of_an_encoder_differ_in_the_method_and_share_table_1s_runs(shelf):
    seeds = [4, 5, 6]
    grid = tuning_specs("cpu", "cifar100-worm", "rg", 4)
    shelf |= {spec: with_precision(spec, 0.5 + 0.1 * (spec.n_clusters == 25)) for spec in grid}
    found = plans.encoder_uses("cifar100-worm", "cpu", seeds)
    assert list(found) == ["ce", "rg", "probe", "knn", "mlp", "aux-clusters", "distill"]
    for method in ("ce", "rg", "probe", "knn", "mlp"):
        assert [(spec.method, spec.seed) for spec in found[method]] == [(method, seed) for seed in seeds]
        assert {spec.encoder for spec in found[method]} == {None if method == "ce" else plans.INCEPTION}
    for method in ("ce", "mlp"):
        assert found[method][0] in tuning_specs("cpu", "cifar100-worm", method, 4)
    assert found["rg"][0] in grid
    # Who learns the clusters learns those that validation chose for RG.
    assert {spec.n_clusters for method in ("rg", "aux-clusters") for spec in found[method]} == {25}


def test_the_weight_of_a_second_head_waits_for_its_grid_and_is_chosen_on_validation(shelf):
    options = {"profile": "cpu", "seeds": [4, 5, 6]}
    before = chapter_specs("encoder-uses", **options)
    waiting = plans.encoder_uses("cifar10-airplane", **options)["distill"]
    assert [spec.auxiliary_weight for spec in waiting] == list(plans.AUXILIARY_WEIGHTS)
    assert {spec.seed for spec in waiting} == {4}
    for spec in before:
        shelf[spec] = with_precision(spec, 0.5 + 0.1 * (spec.auxiliary_weight == 3), test=-(spec.auxiliary_weight or 0))
    after = chapter_specs("encoder-uses", **options)
    assert len(after) == len(set(after))
    assert {spec for spec in before if spec.auxiliary_weight} <= set(after)  # the grids stay in the plan
    chosen = plans.encoder_uses("cifar10-airplane", **options)
    for method in ("aux-clusters", "distill"):
        assert [(spec.seed, spec.auxiliary_weight) for spec in chosen[method]] == [(4, 3.0), (5, 3.0), (6, 3.0)]
        assert set(chosen[method]) <= set(after)


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
def test_the_dose_response_curve_varies_the_share_and_what_it_follows(profile):
    groups = plans.dose_runs(profile, [0, 1, 2])
    expected = [f"{name} {share:g}" for name, shares in plans.MIXED_SHARES[profile].items() for share in shares]
    assert list(groups) == ["binary", "true", *expected]
    assert all([spec.seed for spec in specs] == [0, 1, 2] for specs in groups.values())
    controls = plans.ablation("control", plans.ABLATION_TASKS[profile][0], profile, [0, 1, 2])
    assert (groups["binary"], groups["true"]) == (controls["binary"], controls["true"])
    reference = groups["true"][0].model_dump()
    for label in expected:
        changed = {name for name, value in groups[label][0].model_dump().items() if value != reference[name]}
        assert changed - {"encoder", "encoder_epochs"} == {"method", "mixed_share"}
        assert f"{groups[label][0].mixed_share:g}" == label.split(" ")[1]
    assert {spec for group in groups.values() for spec in group} <= set(chapter_specs("dose", profile=profile))


def smoke(method="ce", encoder=None, **options):
    return Spec(**{"profile": "smoke", "task": "digits-0", "epochs": 2, "method": method, "encoder": encoder} | options)


def timed(spec, **seconds):
    return Record(spec=spec, status="finished", metrics={}, seconds=seconds, data_digest="")


def test_an_estimate_is_the_median_of_the_runs_most_alike_scaled_by_epochs():
    records = [
        timed(smoke(epochs=2), train=20.0, evaluate=4.0, encode=1000.0),  # 12 an epoch; encoding is done once
        timed(smoke(epochs=1, seed=5), train=100.0),
        timed(smoke(epochs=3, peak_lr=0.2), train=42.0),  # 14 an epoch
        timed(smoke("rg", "raw", epochs=4), train=40.0),  # 10 an epoch
        timed(smoke(task="digits-1"), train=80.0),  # 40 an epoch
        timed(smoke(network="small-resnet"), train=1e6),
        timed(Spec(task="digits-0", method="ce", network="tiny-resnet"), train=1e6),  # profile cpu
        timed(EncoderSpec(profile="smoke", task="digits-0", encoder="raw"), encode=9.0, regroup=3.0),
    ]
    assert plans.estimate_seconds(smoke(epochs=5), records) == pytest.approx(5 * 14)
    assert plans.estimate_seconds(smoke("rg", "raw", epochs=3), records) == pytest.approx(3 * 10)
    # Without a run of that method those of all methods count, without one of that task those of all tasks.
    assert plans.estimate_seconds(smoke("rg-true", epochs=2), records) == pytest.approx(2 * 13)
    assert plans.estimate_seconds(smoke(task="digits-2", epochs=1), records) == pytest.approx(14)
    assert plans.estimate_seconds(
        EncoderSpec(profile="smoke", task="digits-0", encoder="pca"), records
    ) == pytest.approx(3)
    # Nothing is like a run of another profile, network or kind.
    only = records[:1]
    assert plans.estimate_seconds(smoke(), []) is None
    assert plans.estimate_seconds(smoke(network="small-resnet"), only) is None
    assert plans.estimate_seconds(Spec(task="digits-0", method="ce", network="tiny-resnet"), only) is None
    assert plans.estimate_seconds(EncoderSpec(profile="smoke", task="digits-0", encoder="pca"), only) is None
