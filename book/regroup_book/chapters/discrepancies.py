"""Where the paper contradicts itself or its own tables: the arithmetic, from the numbers that it prints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind_from_stats

from regroup_book.method_tables import title
from regroup_book.paper import paper_number, paper_numbers
from regroup_lib.data.sources import SOURCES
from regroup_lib.intervals import minus

REPEATS = 3  # Section 4.1 of the paper
HAM10000 = SOURCES["ham10000"]
LESIONS = ("melanocytic nevi", "melanoma", "benign keratosis-like lesions", "basal cell carcinoma")
LESIONS += ("actinic keratoses", "vascular lesions", "dermatofibroma")


def lowest_average_precision(n_positives: int, n_negatives: int) -> float:
    """Return the AP of the worst of all rankings, the one with every positive last.

    The i-th positive then has rank ``n_negatives + i``, so the precision there is ``i / (n_negatives + i)``; AP is the
    mean over positives.
    """
    if n_positives < 1 or n_negatives < 0:
        raise ValueError(f"{n_positives} positives and {n_negatives} negatives; expected at least one positive")
    found = np.arange(1, n_positives + 1)
    return float(np.mean(found / (n_negatives + found)))


def class_sizes_table() -> pd.DataFrame:
    """Return each class of HAM10000 against the rest: its size, whether Table 1 prints it, and APs in percent."""
    counts, whole = np.array(HAM10000.class_counts["all"]), sum(HAM10000.class_counts["all"])
    columns = {
        "positive": [f"{lesion} ({name})" for lesion, name in zip(LESIONS, HAM10000.class_names, strict=True)],
        "negatives": whole - counts,
        "positives": counts,
        "in Table 1": np.where(counts == 327, "yes", ""),
        "lowest AP of any ranking": [f"{100 * lowest_average_precision(n, whole - n):.2f}" for n in counts],
        "AP by chance": [f"{100 * n / whole:.1f}" for n in counts],
        "CLIP+MLP in Table 2": [f"{precision:.1f}" for precision in class_precisions("mlp")],
    }
    return pd.DataFrame(columns).set_index("positive")


def paper_ranks() -> pd.DataFrame:
    """Return the rank of each method by BA and by AP on both data sets of the paper's Table 1, 1 the highest mean."""
    tasks = {"cifar100-worm": "CIFAR-100", "ham10000-binary": "HAM10000"}
    measures = {"balanced_accuracy": "BA", "average_precision_positive": "AP"}
    frame = paper_numbers(1)
    frame = frame[frame.measure.isin(measures)]
    ranks = frame.pivot(index="method", columns=["task", "measure"], values="mean").rank(ascending=False, method="min")
    ranks.columns = [f"{tasks[task]}, {measures[measure]}" for task, measure in ranks]
    return ranks.astype(int).rename(index=lambda m: "CLIP+MLP" if m == "mlp" else title(m)).sort_values("CIFAR-100, AP")


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
    ("RG beats WCE on dermatofibroma", "ham10000", "rg", "wce", "average_precision_df"),
    ("RG beats CE on dermatofibroma", "ham10000", "rg", "ce", "average_precision_df"),
    ("RG beats WCE, Table 2, BA", "ham10000", "rg", "wce", "balanced_accuracy"),
)


def claimed_table() -> pd.DataFrame:
    """Return what the paper's own means and deviations say of its statements: difference and p-value."""
    rows = []
    for statement, *compared in CLAIMED_BETTER:
        difference, p = welch(*compared)
        rows.append((statement, minus(f"{difference:+.1f}"), "< 0.001" if p < 0.001 else f"{p:.3f}"))
    return pd.DataFrame(rows, columns=["statement", "points", "p"]).set_index("statement")


def class_precisions(method: str) -> np.ndarray:
    """Return the AP of a method on each class in Table 2."""
    names = HAM10000.class_names
    return np.array([paper_number("ham10000", method, f"average_precision_{name}")[0] for name in names])


def rivals_table(methods: Sequence[str] = ("ros", "dsmt", "ce", "wce", "focal", "la", "ldam")) -> pd.DataFrame:
    """Return RG beside its rivals in Table 2: classes on which RG is ahead, mean AP, balanced accuracy."""
    precisions = {method: class_precisions(method) for method in ("rg", *methods)}
    won = {method: f"{(precisions['rg'] > found).sum()} of {len(found)}" for method, found in precisions.items()}
    columns = {
        "method": map(title, precisions),
        "classes on which RG is ahead": list((won | {"rg": ""}).values()),
        "mean AP": [f"{found.mean():.1f}" for found in precisions.values()],
        "BA": [f"{paper_number('ham10000', method, 'balanced_accuracy')[0]:.1f}" for method in precisions],
    }
    return pd.DataFrame(columns).set_index("method")
