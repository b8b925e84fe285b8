"""The one interval: by hand, as laws, and its coverage by simulation; Holm's correction against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regroup_lib.intervals import Interval, holm, interval, starred
from regroup_lib.metrics import bootstrap_counts, weighted_average_precisions


def ends(found):
    return found.mean, found.low, found.high


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=10))
def test_without_a_test_set_it_is_students(values):
    found, n = interval(values), len(values)
    margin = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5
    expected = (np.mean(values), np.mean(values) - margin, np.mean(values) + margin)
    assert ends(found) == pytest.approx(expected, abs=1e-9)
    if np.ptp(values) > 1e-3:
        assert found.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=1e-9)


def test_both_parts_by_hand():
    """Seeds 1 and 3: s²/n = 1 with 1 degree. Resampled means 1, 2, 3: v = 1 with 9 degrees of ten positives."""
    found = interval([1.0, 3.0], np.array([[0.0, 2.0, 4.0], [2.0, 2.0, 2.0]]), n_units=10)
    degrees = 2**2 / (1 / 1 + 1 / 9)
    margin = stats.t.ppf(0.975, degrees) * 2**0.5
    assert (found.error, found.degrees) == pytest.approx((2**0.5, degrees))
    assert ends(found) == pytest.approx((2, 2 - margin, 2 + margin))


def test_of_one_seed_it_has_the_test_set_alone():
    resampled = np.array([[4.0, 5.0, 6.0]])
    assert ends(interval([5.0], resampled)) == pytest.approx((5, 5 - 1.959964, 5 + 1.959964), abs=1e-6)
    assert interval([5.0], resampled, n_units=30).degrees == pytest.approx(29)


def test_a_run_that_diverged_leaves_no_number_and_decides_nothing():
    found = interval([1.0, np.nan, 2.0], np.array([[1.0, 2.0], [np.nan, np.nan], [1.0, 2.0]]))
    assert np.isnan(ends(found)).all()
    assert np.isnan(found.p_value)
    assert not found.clear


@pytest.mark.parametrize("values", [[], [1.0]])
def test_what_has_no_spread_is_refused(values):
    with pytest.raises(ValueError, match=f"needs two seeds, or resamples of the test set; got {len(values)} seed"):
        interval(values)


def test_equal_seeds_are_certain():
    assert interval([0.0, 0.0]).p_value == 1
    assert interval([2.0, 2.0]).p_value == 0
    assert ends(interval([2.0, 2.0])) == (2, 2, 2)


@pytest.mark.parametrize(
    ("found", "digits", "text"),
    [
        (Interval(1.25, -0.5, 3.0, 1, 1), 1, "+1.2 [−0.5, +3.0]"),
        (Interval(-0.5, -0.75, 0, 1, 1), 2, "−0.50 [−0.75, +0.00]"),
    ],
)
def test_text(found, digits, text):
    assert found.text(digits) == text


@st.composite
def measured(draw):
    """Return values by seed, and resamples of the test set."""
    n, rng = draw(st.integers(2, 8)), np.random.default_rng(draw(st.integers(0, 10_000)))
    by_seed = rng.normal(draw(st.floats(-5, 5)), draw(st.floats(0.1, 5)), n)
    return by_seed, by_seed[:, None] + rng.normal(0, draw(st.floats(0.1, 5)), (n, 20))


@given(measured())
def test_it_leaves_out_0_where_the_p_value_is_below_its_level(data):
    found = interval(*data, n_units=50)
    assert found.clear == (found.p_value < 0.05)


def slow_holm(p_values):
    """Reject one hypothesis after another: the smallest p-value times those that are left, never below one before."""
    corrected, left, highest = list(p_values), [i for i, p in enumerate(p_values) if not np.isnan(p)], 0.0
    while left:
        smallest = min(left, key=lambda i: p_values[i])
        highest = max(highest, len(left) * p_values[smallest])
        corrected[smallest] = min(1.0, highest)
        left.remove(smallest)
    return corrected


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=8))
def test_holm_is_its_definition(p_values):
    np.testing.assert_allclose(holm(p_values), slow_holm(p_values))


def test_a_table_has_stars_after_holms_correction_alone():
    """One of these is clear by itself, and not among four."""
    clear, near = Interval(5, 4, 6, 0.5, 50), Interval(2.1, 0.1, 4.1, 1, 50)
    lost = interval([1.0, float("nan")])
    assert near.clear
    assert starred([near]) == ["+2.1 [+0.1, +4.1] *"]
    found = starred([None, clear, near, near, near, lost])
    assert found == ["", "+5.0 [+4.0, +6.0] *", *["+2.1 [+0.1, +4.1]"] * 3, "+nan [+nan, +nan]"]


def simulated(n_positives, n_trials, *, n_seeds=10, n_resamples=60, negatives_each=2):
    """Return differences in AP of two methods [trials, seeds, resamples], as the library's bootstrap yields them.

    A score is what the image is like (for both methods), what it is like to this method (for all seeds), and noise; a
    method separates the classes by so much, a little more or less with each seed.
    """
    rng = np.random.default_rng(n_positives)
    labels = np.repeat([1, 0], (n_positives, negatives_each * n_positives))
    found = []
    for trial in range(n_trials):
        counts, image = bootstrap_counts(labels, n_resamples, seed=trial), rng.normal(size=len(labels))
        by_method = []
        for separation in (1.6, 1.9):
            images = image + 0.4 * rng.normal(size=len(labels))
            lifts = separation + 0.1 * rng.normal(size=n_seeds)
            scores = [images + lift * labels + 0.6 * rng.normal(size=len(labels)) for lift in lifts]
            by_method.append([weighted_average_precisions(labels == 1, s, counts) for s in scores])
        found.append(np.subtract(by_method[1], by_method[0]))
    return np.array(found)


def test_coverage_is_at_least_93_percent_of_95():
    """For 3, 5 and 10 seeds and 30 to 1,000 positives; the truth is the mean over all simulated test sets and seeds."""
    covered, by_seeds_alone = [], []
    for n_positives, n_trials in ((30, 200), (100, 200), (300, 80), (1000, 40)):
        differences = simulated(n_positives, n_trials)
        truth = differences[:, :, 0].mean()
        for n_seeds in (3, 5, 10):
            chosen = differences[:, :n_seeds]
            found = [interval(d[:, 0], d, n_units=n_positives) for d in chosen]
            hits = [f.low <= truth <= f.high for f in found]
            # What an interval of exactly 93% falls short of in one of a hundred simulations.
            assert sum(hits) >= stats.binom.ppf(0.01, n_trials, 0.93), (n_positives, n_seeds)
            covered += hits
            alone = [interval(d[:, 0]) for d in chosen]
            by_seeds_alone += [f.low <= truth <= f.high for f in alone]
    assert 0.93 <= np.mean(covered) <= 0.985  # nor so wide that nothing is ever decided
    assert np.mean(by_seeds_alone) < 0.93  # an interval over seeds alone, with the same test set, is too narrow
