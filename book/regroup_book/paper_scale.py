"""Profiles beside one another: whether what a laptop's runs say holds at the paper's scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from regroup_book import plans
from regroup_book.show import style_of, task_name, traced
from regroup_lib.intervals import mean_std, minus, starred
from regroup_lib.runs.differences import AVERAGE_PRECISION, Groups, precision_difference, values
from regroup_lib.runs.records import Record, find_record

SMALL, LARGE = "cpu", "paper"
COMPARED_CHAPTERS = ("motivating-example", "binary", "multiclass")
NOTHING = "Its runs for this chapter are not complete yet."


def both_profiles(chapter: str, seeds: Sequence[int]) -> dict[str, tuple[Groups, Groups]]:
    """Return the records of each task that is recorded in both profiles, small and large scale, by method.

    A table is compared when it is whole: its settings were chosen among runs that must all be there. The label sets of
    the motivating example choose nothing; those with all seeds in both profiles are compared, with CE among them.

    Parameters
    ----------
    chapter : {"motivating-example", "binary", "multiclass"}
    seeds
        See `plans.chapter_specs`.
    """
    if chapter == "motivating-example":
        small, large = (_label_sets(profile, seeds) for profile in (SMALL, LARGE))
        shared = [label for label in small if label in large]
        if "ce" not in shared or len(shared) < 2:
            return {}
        small, large = ({label: groups[label] for label in shared} for groups in (small, large))
        return {plans.TASKS[LARGE]: (small, large)}
    if chapter == "binary":
        recorded = [plans.recorded_tasks(profile, seeds) for profile in (SMALL, LARGE)]
        tasks = [task for task in recorded[0] if task in recorded[1]]
    else:
        lacking = any(plans.missing_records(chapter, profile=profile, seeds=seeds) for profile in (SMALL, LARGE))
        tasks = [] if lacking else list(plans.MULTICLASS_TASKS[LARGE])
    found = {}
    for task in tasks:
        small, large = (plans.competitors(task, profile, seeds) for profile in (SMALL, LARGE))
        found[task] = (small, large)
    return found


def _label_sets(profile: str, seeds: Sequence[int]) -> Groups:
    """Return the label sets of the motivating example that have a record for each seed."""
    groups: dict[str, list[Record]] = {}
    for spec in plans.motivating_example(profile, seeds):
        if record := find_record(spec):
            groups.setdefault(spec.label, []).append(record)
    return {label: group for label, group in groups.items() if len(group) == len(seeds)}


def compare_profiles(task: str, small: Groups, large: Groups) -> str:
    """Say in Markdown whether methods order alike in both profiles.

    Parameters
    ----------
    task : str
    small, large : mapping of str to records
        The same methods, ``"ce"`` among them: records, one a seed, the seeds in the same order for all.
    """
    methods = ["ce", *(method for method in small if method != "ce")]
    means = np.array(
        [[values(groups[method], AVERAGE_PRECISION).mean() for method in methods] for groups in (small, large)]
    )
    means = means[:, np.isfinite(means).all(axis=0)]
    sides = np.sign(means - means[:, :1])[:, 1:]
    order = spearmanr(*means).statistic
    settings = [f"{groups['ce'][0].spec.network}, {groups['ce'][0].spec.epochs} epochs" for groups in (small, large)]
    return (
        f"**{task_name(task)}.** In both profiles, `{SMALL}` ({settings[0]}) and `{LARGE}` ({settings[1]}), "
        f"the difference in AP to {style_of(small['ce'][0].spec).label} has the same sign for "
        f"{(sides[0] == sides[1]).sum()} of {sides.shape[1]} methods. "
        f"The rank correlation of all APs is {minus(f'{order:.2f}')}."
    )


def profile_table(small: Groups, large: Groups) -> pd.DataFrame:
    """Return AP in percent in both profiles and its difference to CE, with its 95% interval.

    See `compare_profiles` for the parameters.
    """
    table = pd.DataFrame({"method": [style_of(group[0].spec).label for group in small.values()]})
    for profile, groups in ((SMALL, small), (LARGE, large)):
        table[f"AP, {profile}"] = [mean_std(values(groups[m], AVERAGE_PRECISION), scale=1) for m in small]
        gains = [None if m == "ce" else precision_difference(groups, m, "ce") for m in small]
        table[f"over CE, {profile}"] = starred(gains)
    return traced(table.set_index("method"), [[*small[method], *large[method]] for method in small])


def profile_section(chapter: str, seeds: Sequence[int]) -> str:
    """Return `compare_profiles` of each task that both profiles have, or one sentence if there is none."""
    found = both_profiles(chapter, seeds)
    return "\n\n".join(compare_profiles(task, *groups) for task, groups in found.items()) or NOTHING


def profile_tables(chapter: str, seeds: Sequence[int]) -> list[pd.DataFrame]:
    """Return `profile_table` of each task that both profiles have."""
    return [profile_table(*groups) for groups in both_profiles(chapter, seeds).values()]
