"""The arithmetic behind the paper's inconsistencies, against slow or independent ways of computing it."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import ttest_ind
from sklearn.metrics import average_precision_score

from regroup_book.chapters import discrepancies
from regroup_book.paper import paper_numbers


@pytest.mark.parametrize(("n_positives", "n_negatives"), [(1, 4), (2, 3), (3, 3), (2, 0)])
def test_no_ranking_is_below_the_lowest_average_precision(n_positives, n_negatives):
    n = n_positives + n_negatives
    labels = np.array([1] * n_positives + [0] * n_negatives)
    found = min(average_precision_score(labels, scores) for scores in permutations(range(n)))
    assert discrepancies.lowest_average_precision(n_positives, n_negatives) == pytest.approx(found)


def test_the_lowest_average_precision_needs_a_positive():
    with pytest.raises(ValueError, match="at least one positive"):
        discrepancies.lowest_average_precision(0, 5)


def test_the_papers_number_is_impossible_for_either_class():
    table = discrepancies.class_sizes_table()
    assert list(table.index[table["in Table 1"] == "yes"]) == ["actinic keratoses (akiec)"]
    frame = paper_numbers(1)
    row = frame[(frame.task == "ham10000-binary") & (frame.method == "mlp")]
    printed = float(row[row.measure == "average_precision_positive"]["mean"].iloc[0])
    for name in ("basal cell carcinoma (bcc)", "actinic keratoses (akiec)"):
        assert printed < float(table.loc[name, "lowest AP of any ranking"])


def test_welchs_test_is_that_of_three_runs_with_such_moments():
    def runs(mean, deviation):
        return mean + deviation * np.array([-1.0, 0.0, 1.0])  # standard deviation 1 with n - 1

    expected = ttest_ind(runs(55.5, 3.77), runs(54.4, 2.0), equal_var=False)
    difference, p = discrepancies.welch("ham10000-bcc", "rg", "ros", "average_precision_positive")
    assert difference == pytest.approx(1.1)
    assert p == pytest.approx(expected.pvalue)
    with pytest.raises(ValueError, match="the paper has no"):
        discrepancies.welch("ham10000-bcc", "rg", "soap", "average_precision_positive")


def test_ranks_and_classes_won_are_counted_from_the_table():
    frame = paper_numbers(2)
    classes = frame[frame.measure.str.startswith("average_precision_")]
    means = classes.pivot(index="measure", columns="method", values="mean")
    row = discrepancies.rivals_table().loc["ROS"]
    assert row["classes on which RG is ahead"] == f"{(means['rg'] > means['ros']).sum()} of {len(means)}"
    assert row["mean AP"] == f"{means['ros'].mean():.1f}"
    ranks = discrepancies.paper_ranks()
    assert ranks.loc["CLIP+MLP"].tolist() == [1, 1, 11, 11]
    assert ranks.loc["RG", "CIFAR-100, AP"] == 2
    assert all(sorted(ranks[name]) == list(range(1, 12)) for name in ranks)


def test_every_claimed_difference_has_its_numbers():
    table = discrepancies.claimed_table()
    assert len(table) == len(discrepancies.CLAIMED_BETTER)
    assert table.loc["RG beats ROS, CIFAR-100", "points"] == "+5.3"
    assert (discrepancies.class_sizes_table()["AP by chance"].astype(float) > 1).all()
