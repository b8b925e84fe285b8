"""Comparison of profiles: whether the findings of a laptop's runs hold at the paper's scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from regroup_book import plans
from regroup_book.differences import Groups, values
from regroup_book.method_tables import mean_cells
from regroup_book.show import gain_cells, network_name, style_of, table, task_name
from regroup_lib.intervals import minus
from regroup_lib.runs.records import AVERAGE_PRECISION, find_record

SMALL, LARGE = "cpu", "paper"
COMPARED_CHAPTERS = ("motivating-example", "binary", "multiclass")
NOTHING = "Its runs for this chapter are not complete yet."


def both_profiles(chapter: str, seeds: Sequence[int]) -> dict[str, tuple[Groups, Groups]]:
    """Return the records of each task of one of `COMPARED_CHAPTERS` that both profiles have, by method.

    A table is compared only if it is complete, because its settings were chosen among all runs. The motivating example
    chooses nothing, so those of its label sets with all seeds in both profiles are compared, if CE is one of them.
    """
    if chapter == "motivating-example":
        small, large = (_label_sets(profile, seeds) for profile in (SMALL, LARGE))
        shared = [label for label in small if label in large]
        if "ce" not in shared or len(shared) < 2:
            return {}
        return {plans.TASKS[LARGE]: tuple({label: groups[label] for label in shared} for groups in (small, large))}
    if chapter == "binary":
        recorded = [plans.recorded_tasks(profile, seeds) for profile in (SMALL, LARGE)]
        tasks = [task for task in recorded[0] if task in recorded[1]]
    else:
        lacking = any(plans.missing_records(chapter, profile=profile, seeds=seeds) for profile in (SMALL, LARGE))
        tasks = [] if lacking else plans.MULTICLASS_TASKS[LARGE]
    return {task: tuple(plans.competitors(task, profile, seeds) for profile in (SMALL, LARGE)) for task in tasks}


def _label_sets(profile: str, seeds: Sequence[int]) -> Groups:
    """Return the label sets of the motivating example that have a record for each seed."""
    groups = {label: list(map(find_record, runs)) for label, runs in plans.label_sets(profile, seeds).items()}
    return {label: group for label, group in groups.items() if all(group)}


def compare_profiles(task: str, small: Groups, large: Groups) -> str:
    """Say in Markdown whether methods, including ``"ce"``, have the same order in both profiles."""
    methods = ["ce", *(method for method in small if method != "ce")]
    means = np.array([[values(groups[m], AVERAGE_PRECISION).mean() for m in methods] for groups in (small, large)])
    means = means[:, np.isfinite(means).all(axis=0)]
    sides = np.sign(means - means[:, :1])[:, 1:]
    order = spearmanr(*means).statistic
    specs = small["ce"][0].spec, large["ce"][0].spec
    settings = [f"{network_name(spec.network)}, {spec.epochs} epochs" for spec in specs]
    return (
        f"**{task_name(task)}.** In both profiles, `{SMALL}` ({settings[0]}) and `{LARGE}` ({settings[1]}), "
        f"the difference in AP from {style_of(specs[0]).label} has the same sign for "
        f"{(sides[0] == sides[1]).sum()} of {sides.shape[1]} methods. "
        f"The rank correlation of all APs is {minus(f'{order:.2f}')}."
    )


def profile_table(small: Groups, large: Groups) -> pd.DataFrame:
    """Return AP in percent in both profiles and its difference from CE, with its 95% interval."""
    columns = {"method": [style_of(group[0].spec).label for group in small.values()]}
    for profile, groups in ((SMALL, small), (LARGE, {method: large[method] for method in small})):
        columns[f"AP, {profile}"] = mean_cells(groups, AVERAGE_PRECISION)
        columns[f"difference, {profile}"] = gain_cells(groups, "ce")
    return table(columns, [[*small[method], *large[method]] for method in small])


def profile_section(chapter: str, seeds: Sequence[int]) -> tuple[str, list[pd.DataFrame]]:
    """Return `compare_profiles` and `profile_table` of each task that both profiles have; one sentence if none is."""
    found = both_profiles(chapter, seeds)
    text = "\n\n".join(compare_profiles(task, *groups) for task, groups in found.items())
    return text or NOTHING, [profile_table(*groups) for groups in found.values()]
