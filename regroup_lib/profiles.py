"""Profiles beside one another: whether what a laptop's runs say holds at the paper's scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from regroup_lib import plans
from regroup_lib.records import Record, load_record
from regroup_lib.report import AVERAGE_PRECISION, evidence, result_on_test

Groups = Mapping[str, Sequence[Record]]

SMALL, LARGE = "cpu", "paper"
NOTHING = (
    f"No runs at the paper's scale (profile `{LARGE}`) are complete for this chapter yet; "
    "the page *How to re-run this book* says how to make them."
)


def both_profiles(
    chapter: str, seeds: Sequence[int], results_dir: str | Path | None = None
) -> dict[str, tuple[Groups, Groups]]:
    """Return the records of each task that is complete in both profiles, small and large scale, by method.

    Parameters
    ----------
    chapter : {"motivating-example", "binary", "multiclass"}
    seeds, results_dir
        See `plans.chapter_specs`.
    """
    if chapter == "motivating-example":
        tasks = [] if any(_lacks(chapter, profile, seeds, results_dir) for profile in (SMALL, LARGE)) else [None]
    elif chapter == "binary":
        large = plans.recorded_tasks(LARGE, seeds, results_dir)
        tasks = [task for task in plans.recorded_tasks(SMALL, seeds, results_dir) if task in large]
    else:
        lacking = any(_lacks(chapter, profile, seeds, results_dir) for profile in (SMALL, LARGE))
        tasks = [] if lacking else list(plans.MULTICLASS_TASKS[LARGE])
    found = {}
    for task in tasks:
        groups = [_groups(chapter, task, profile, seeds, results_dir) for profile in (SMALL, LARGE)]
        found[task or plans.TASKS[LARGE]] = (groups[0], groups[1])
    return found


def _lacks(chapter: str, profile: str, seeds: Sequence[int], results_dir: str | Path | None) -> bool:
    return bool(plans.missing_records(chapter, profile=profile, seeds=seeds, results_dir=results_dir))


def _groups(
    chapter: str, task: str | None, profile: str, seeds: Sequence[int], results_dir: str | Path | None
) -> Groups:
    if task is not None:
        return plans.competitors(task, profile, seeds, results_dir)
    groups: dict[str, list[Record]] = {}
    for spec in plans.chapter_specs(chapter, profile=profile, seeds=seeds, results_dir=results_dir):
        groups.setdefault(spec.label, []).append(load_record(spec.path(results_dir)))
    return groups


def compare_profiles(task: str, small: Groups, large: Groups) -> str:
    """Return in Markdown whether methods order alike in both profiles, and what regrouping gains in each.

    Parameters
    ----------
    task : str
    small, large : mapping of str to records
        A method's records, one a seed, the seeds in the same order for all methods; ``"ce"`` is among them.
    """
    methods = [method for method in small if method in large and method != "ce"]
    means = np.array([[_precision(groups[m]).mean() for m in ("ce", *methods)] for groups in (small, large)])
    finite = np.isfinite(means).all(axis=0)
    gains = means - means[:, :1]
    compared = finite[1:]
    same = int((np.sign(gains[0, 1:]) == np.sign(gains[1, 1:]))[compared].sum())
    order = spearmanr(*means[:, finite]).statistic
    regrouped = [method for method in methods if method == "rg" or method.startswith("rg-onnx")][:1]
    parts = [
        f"{same} of {int(compared.sum())} methods lie on the same side of CE by AP in profiles `{SMALL}` and "
        f"`{LARGE}`; the rank correlation of all methods' AP is {order:.2f}".replace("-", "−")
    ]
    for profile, groups in ((SMALL, small), (LARGE, large)):
        parts += [
            f"{evidence(f'RG − CE, profile `{profile}`', _precision(groups[method]), _precision(groups['ce']))}"
            for method in regrouped
        ]
    return f"**{task}.** " + "; ".join(parts) + "."


def _precision(group: Sequence[Record]) -> np.ndarray:
    return np.array([result_on_test(record, AVERAGE_PRECISION) for record in group])


def profile_section(chapter: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> str:
    """Return `compare_profiles` of each task that both profiles have, or one sentence if there is none."""
    found = both_profiles(chapter, seeds, results_dir)
    return "\n\n".join(compare_profiles(task, *groups) for task, groups in found.items()) or NOTHING
