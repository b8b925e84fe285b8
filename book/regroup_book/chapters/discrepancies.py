"""Where the paper contradicts itself or its own tables: the arithmetic, from the numbers that it prints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind_from_stats

from regroup_book.method_tables import title
from regroup_book.paper import paper_difference, paper_number, paper_numbers
from regroup_lib.data.sources import SOURCES

REPEATS = 3  # Section 4.1 of the paper


def lowest_average_precision(n_positives: int, n_negatives: int) -> float:
    """Return the AP of the worst of all rankings, the one with every positive last.

    The i-th positive then has rank ``n_negatives + i``, so the precision there is ``i / (n_negatives + i)``; AP is the
    mean over positives.

    Examples
    --------
    >>> round(lowest_average_precision(1, 9), 3)
    0.1
    """
    if n_positives < 1 or n_negatives < 0:
        raise ValueError(f"{n_positives} positives and {n_negatives} negatives; expected at least one positive")
    found = np.arange(1, n_positives + 1)
    return float(np.mean(found / (n_negatives + found)))


def class_sizes_table() -> pd.DataFrame:
    """Return each class of HAM10000 against the rest: negatives and positives, and whether Table 1 prints these."""
    source, printed = SOURCES["ham10000"], (9_688, 327)
    whole = sum(source.class_counts["all"])
    rows = [
        {
            "positive": name,
            "negatives": whole - count,
            "positives": count,
            "in Table 1": "yes" if (whole - count, count) == printed else "",
            "lowest AP of any ranking": f"{100 * lowest_average_precision(count, whole - count):.2f}",
        }
        for name, count in zip(source.class_names, source.class_counts["all"], strict=True)
    ]
    return pd.DataFrame(rows).set_index("positive")


def paper_ranks(task: str) -> pd.DataFrame:
    """Return the rank of each method by BA and by AP in Table 1 of the paper, 1 the highest mean."""
    names = {"balanced_accuracy": "by BA", "average_precision_positive": "by AP"}
    frame = paper_numbers(1)
    means = frame[frame.task == task].pivot(index="method", columns="measure", values="mean")[list(names)]
    ranks = means.rank(ascending=False, method="min").astype(int).rename(index=title, columns=names)
    return ranks.sort_values("by AP").rename_axis(columns=None)


def welch(task: str, first: str, second: str, measure: str) -> tuple[float, float]:
    """Return the difference of two of the paper's means, and Welch's two-sided p-value for three runs each."""
    numbers = [paper_number(task, method, measure) for method in (first, second)]
    if None in numbers:
        raise ValueError(f"the paper has no {measure} of {first} and {second} on {task}")
    (a, sd_a), (b, sd_b) = numbers
    test = ttest_ind_from_stats(a, sd_a, REPEATS, b, sd_b, REPEATS, equal_var=False)
    return a - b, float(test.pvalue)


# What the text calls better: statement, task, the better one, the other one, measure.
CLAIMED_BETTER = (
    ("RG beats ROS, CIFAR-100", "cifar100-worm", "rg", "ros", "average_precision_positive"),
    ("RG beats ROS, HAM10000", "ham10000-akiec", "rg", "ros", "average_precision_positive"),
    ("RG+WCE beats RG, HAM10000", "ham10000-akiec", "rg-wce", "rg", "average_precision_positive"),
    ("RG beats DSMT, HAM10000", "ham10000-akiec", "rg", "dsmt", "average_precision_positive"),
    ("RG beats WCE on df", "ham10000", "rg", "wce", "average_precision_df"),
    ("RG beats CE on df", "ham10000", "rg", "ce", "average_precision_df"),
    ("RG beats WCE, Table 2, BA", "ham10000", "rg", "wce", "balanced_accuracy"),
)


def claimed_table() -> pd.DataFrame:
    """Return what the paper's own means and deviations say of its statements: difference and p-value."""
    rows = []
    for statement, task, first, second, measure in CLAIMED_BETTER:
        difference, p = welch(task, first, second, measure)
        shown = "< 0.001" if p < 0.001 else f"{p:.3f}"
        rows.append({"statement": statement, "points": f"{difference:+.1f}".replace("-", "−"), "p": shown})
    return pd.DataFrame(rows).set_index("statement")


def classes_won(first: str, second: str) -> tuple[int, int]:
    """Return on how many of Table 2's classes one method's AP is above another's, and how many classes there are."""
    names = SOURCES["ham10000"].class_names
    differences = [paper_difference("ham10000", first, second, f"average_precision_{name}") for name in names]
    return sum(d > 0 for d in differences), len(names)


def mean_precision(method: str) -> float:
    """Return the mean of a method's seven class-wise APs in Table 2, which the paper does not print."""
    names = SOURCES["ham10000"].class_names
    return float(np.mean([paper_number("ham10000", method, f"average_precision_{name}")[0] for name in names]))


def rivals_table(methods: Sequence[str] = ("ros", "dsmt", "ce", "wce", "focal", "la", "ldam")) -> pd.DataFrame:
    """Return RG beside its rivals in Table 2: classes on which RG is ahead, mean AP, balanced accuracy."""
    rows = []
    for method in ("rg", *methods):
        won, n_classes = classes_won("rg", method)
        accuracy = paper_number("ham10000", method, "balanced_accuracy")[0]
        rows.append(
            {
                "method": title(method),
                "classes on which RG is ahead": "" if method == "rg" else f"{won} of {n_classes}",
                "mean AP": f"{mean_precision(method):.1f}",
                "BA": f"{accuracy:.1f}",
            }
        )
    return pd.DataFrame(rows).set_index("method")


def chance_table(method: str) -> pd.DataFrame:
    """Return a method's class-wise AP in Table 2 beside the AP of a random ranking, the class's share of the images."""
    source = SOURCES["ham10000"]
    counts = source.class_counts["all"]
    rows = [
        {
            "class": name,
            f"AP of {title(method)}": f"{paper_number('ham10000', method, f'average_precision_{name}')[0]:.1f}",
            "by chance": f"{100 * count / sum(counts):.1f}",
        }
        for name, count in zip(source.class_names, counts, strict=True)
    ]
    return pd.DataFrame(rows).set_index("class")
