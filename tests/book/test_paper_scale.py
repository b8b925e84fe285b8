"""Two profiles of one table: which one the book shows, and what is said where both are recorded.

The runs are real, and tiny: profiles `cpu` and `paper` take the settings of profile `smoke` here.
"""

import shutil

import numpy as np
import pytest

import regroup_lib as rg
from regroup_book import build, paper_scale, plans
from regroup_book.differences import precision_difference
from regroup_book.show import settings_table
from regroup_lib.runs import looks, specs
from regroup_lib.runs.records import AVERAGE_PRECISION, result_on_test

SEEDS = [0, 1]
METHODS = ("ce", "ros", "rg")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return a results directory with a Table 1 of three methods on digits in both profiles."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGROUP_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("REGROUP_RESULTS", str(folder))
        tiny = specs.PROFILES["smoke"]
        for profile, epochs in (("cpu", 1), ("paper", 3)):
            patch.setitem(specs.PROFILES, profile, tiny | {"epochs": epochs})
            patch.setitem(plans.BINARY_TASKS, profile, ("digits-0",))
            patch.setitem(plans.TABLE_METHODS, profile, METHODS)
            patch.setitem(plans.ENCODERS, profile, ("pca",))
        patch.setattr(plans, "tuning_grid", lambda task, method, profile: [{}])
        patch.setitem(build.BUILD_PARAMETERS, "seeds", SEEDS)
        for profile in ("cpu", "paper"):
            plans.run_chapter_specs("binary", profile=profile, seeds=SEEDS)
        yield folder


def test_the_best_profile_that_is_whole_is_shown(both, tmp_path, monkeypatch):
    # Chapters that train nothing, and those with runs in the small profile alone.
    for chapter in ("scorecard", "discrepancies", "motivating-example"):
        assert build.build_parameters(chapter)["profile"] == "cpu"
    assert build.build_parameters("binary") == {"profile": "paper", "seeds": SEEDS}
    copy = tmp_path / "results"
    shutil.copytree(both, copy)
    monkeypatch.setenv("REGROUP_RESULTS", str(copy))
    next((copy / "paper").rglob("ros-*.json")).unlink()
    assert build.build_parameters("binary")["profile"] == "cpu"
    shutil.rmtree(copy / "cpu")
    assert build.build_parameters("binary")["profile"] == "cpu"  # and then records are missing


def test_both_profiles_are_compared_where_both_are_whole(both, tmp_path, monkeypatch):
    found = paper_scale.both_profiles("binary", SEEDS)
    assert list(found) == ["digits-0"]
    small, large = found["digits-0"]
    assert list(small) == list(large) == list(METHODS)
    assert {r.spec.profile for group in small.values() for r in group} == {"cpu"}
    assert {r.spec.epochs for group in large.values() for r in group} == {3}
    text, (table,) = paper_scale.profile_section("binary", SEEDS)
    ap = [
        {method: np.mean([result_on_test(r, AVERAGE_PRECISION) for r in group]) for method, group in groups.items()}
        for groups in (small, large)
    ]
    same = sum((ap[0][m] > ap[0]["ce"]) == (ap[1][m] > ap[1]["ce"]) for m in ("ros", "rg"))
    assert f"the difference in AP from binary labels has the same sign for {same} of 2 methods" in text
    assert "`cpu` (tiny ResNet, 1 epochs) and `paper` (tiny ResNet, 3 epochs)" in text
    assert table.attrs["records"] == [[r.key for r in (*small[method], *large[method])] for method in METHODS]
    for method, (_, row) in zip(METHODS, table.iterrows(), strict=True):
        for profile, values, groups in zip(("cpu", "paper"), ap, (small, large), strict=True):
            assert row[f"AP, {profile}"].startswith(f"{100 * values[method]:.1f} ±")
            expected = "" if method == "ce" else str(precision_difference(groups, method, "ce"))
            assert row[f"difference, {profile}"].removesuffix(" *") == expected

    shutil.copytree(both / "cpu", tmp_path / "cpu")
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path))
    assert paper_scale.both_profiles("binary", SEEDS) == {}
    assert paper_scale.profile_section("binary", SEEDS) == (paper_scale.NOTHING, [])


def test_label_sets_with_all_seeds_in_both_profiles_are_compared(empty_results, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path_factory.mktemp("data")))
    monkeypatch.setattr(looks, "EMBEDDED_POINTS", 100)  # t-SNE of all test digits takes seconds
    tiny = specs.PROFILES["smoke"] | {"epochs": 1}
    for profile in ("cpu", "paper"):
        monkeypatch.setitem(specs.PROFILES, profile, tiny)
        monkeypatch.setitem(plans.TASKS, profile, "digits-0")
        monkeypatch.setitem(plans.ENCODERS, profile, ("pca",))
    monkeypatch.setitem(plans.MOTIVATING_SETTINGS, "paper", {"epochs": 2})
    runs = {profile: plans.motivating_example(profile, SEEDS) for profile in ("cpu", "paper")}
    assert {spec.epochs for spec in runs["paper"]} == {2}
    rg.sweep([*runs["cpu"], *(spec for spec in runs["paper"] if spec.label in ("ce", "rg-true"))])
    rg.sweep([spec for spec in runs["paper"] if spec.label == "rg-random"][:1])
    small, large = paper_scale.both_profiles("motivating-example", SEEDS)["digits-0"]
    assert list(small) == list(large) == ["ce", "rg-true"]
    assert [[record.spec.seed for record in group] for group in large.values()] == [SEEDS, SEEDS]
    for spec in runs["paper"]:
        if spec.label == "rg-true":
            spec.path().unlink(missing_ok=True)
    assert paper_scale.profile_section("motivating-example", SEEDS) == (paper_scale.NOTHING, [])


def test_the_table_of_settings_is_what_a_run_takes():
    tasks = ("cifar100-worm", "ham10000-bcc", "phrasebank-negative")
    head, _, *lines = settings_table("paper", tasks).splitlines()
    names = [cell.strip() for cell in head.strip("|").split("|")]
    for task, line in zip(tasks, lines, strict=True):
        shown = dict(zip(names, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        spec = specs.Spec(profile="paper", task=task, method="ce")
        assert shown["network"] == f"`{spec.network}`"
        assert shown["epochs"] == str(spec.epochs)
        assert float(shown["peak rate"]) == spec.peak_lr
        assert shown["pixels"] == {"ham10000-bcc": "224", "cifar100-worm": "as published"}.get(task, "")
