"""The forecast: rules made without the source that they are applied to, and the AP that they cost."""

import numpy as np
import pandas as pd
import pytest

from regroup_book.chapters import forecast
from regroup_book.plans import chapter_specs
from regroup_lib.diagnostics import STABLE
from regroup_lib.runs.records import find_record


@pytest.fixture
def cases():
    """Return cases of four sources: the gain has the sign of the stability minus 0.5; the other numbers are noise."""
    rng = np.random.default_rng(0)
    stability = np.tile([0.2, 0.4, 0.6, 0.9], 4)
    noise = {name: rng.random(16) for name in forecast.NUMBERS}
    made = {"stability": stability, "source": np.repeat(list("abcd"), 4), "gain": np.sign(stability - 0.5) * 3}
    return pd.DataFrame(noise | made)


def test_a_number_that_decides_costs_nothing_and_noise_does(cases):
    assert forecast.best_rule(cases, "stability") == (0.5, 1)
    assert forecast.held_out_regret(cases, "stability") == 0
    assert forecast.held_out_regret(cases, None) == 0
    assert forecast.held_out_regret(cases, "silhouette") > 0


def test_regret_is_what_the_better_choice_would_have_added():
    made = pd.DataFrame({"gain": [4.0, -2.0]})
    found = [forecast.regret(made, np.array(use)) for use in ([True, False], [False, False], [True, True])]
    assert found == [0, 2, 1]


def test_the_rule_is_made_without_the_source_that_it_is_applied_to():
    """Within each source stability tells nothing of the other: the rule of one is wrong on the other."""
    made = {"stability": [0.2, 0.8, 0.2, 0.8], "source": list("aabb"), "gain": [-1.0, 1.0, 1.0, -1.0]}
    assert forecast.held_out_regret(pd.DataFrame(made), "stability") == 1


def test_the_committed_tables_have_a_case_for_each_classifier():
    records = [find_record(s) for s in chapter_specs("forecast", profile="cpu") if s.kind == "table"]
    found = forecast.table_cases(records)
    assert len(found) == 39
    assert found["source"].nunique() == 7
    assert "in 15 of 18 cases" in forecast.forecast_sentence(found)  # as a comment of `STABLE` says
    assert forecast.best_rule(found, "stability") == (pytest.approx(STABLE, abs=0.005), 1)
    row = found[(found["task"] == "digits (8)") & (found["classifier"] == "logistic regression")].iloc[0]
    by_hand = [
        np.mean([r.metrics[rule]["test"]["summary"]["average_precision"] for r in records if _is(r, method)])
        for method, rule in (("rg", "sum"), ("plain", "none"))
    ]
    assert row["gain"] == pytest.approx(100 * (by_hand[0] - by_hand[1]))


def _is(record, method):
    spec = record.spec
    return (spec.task, spec.imbalance, spec.estimator, spec.method) == ("digits-8", None, "logreg", method)
