"""Dose and response: how pure groups must be for regrouping to help, from groups whose purity is set by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from regroup_book.show import learned_share, traced
from regroup_lib.intervals import Interval, mean_std, starred
from regroup_lib.runs.differences import Groups, precision_difference, values
from regroup_lib.runs.records import Record

FOLLOWS = {
    "random": ("re-assigned at random", "#E69F00"),
    "brightness": ("re-assigned by brightness", "#8C6D31"),
    "autoencoder": ("re-assigned by autoencoder clusters", "#D55E00"),
}


def purity_of(group: Sequence[Record]) -> float:
    """Return the purity of the majority's groups, the mean over seeds."""
    return float(np.mean([record.regrouping["purity"] for record in group]))


def dose_table(groups: Groups) -> pd.DataFrame:
    """Return one row per set of groups: what the re-assigned share follows, purity, share learned, AP and gain."""
    names = [name for name in groups if name != "binary"]
    rows = []
    for name in names:
        follows, _, share = name.partition(" ")
        rows.append(
            {
                "the share follows": FOLLOWS[follows][0] if share else "nothing re-assigned",
                "share": f"{float(share or 0):.0%}",
                "purity": f"{purity_of(groups[name]):.2f}",
                "learned": f"{np.mean([learned_share(r) for r in groups[name]]):.2f}",
                "AP": mean_std(values(groups[name], "average_precision"), scale=1),
            }
        )
    table = pd.DataFrame(rows)
    table["AP − binary labels"] = starred([precision_difference(groups, name, "binary") for name in names])
    return traced(table.set_index("the share follows"), [groups[name] for name in names])


def levels(groups: Groups, follows: str) -> list[str]:
    """Return the names of the true classes and of the groups whose re-assigned share follows something."""
    return [name for name in groups if name == "true" or name.startswith(f"{follows} ")]


def least_purity(groups: Groups, follows: str) -> tuple[float, Interval] | None:
    """Return the lowest purity at which the gain over binary labels is clear, and that gain; None if none is.

    Only levels above which every purer level gains clearly, too, count.
    """
    found = None
    for name in sorted(levels(groups, follows), key=lambda name: -purity_of(groups[name])):
        gain = precision_difference(groups, name, "binary")
        if not gain.low > 0:
            break
        found = purity_of(groups[name]), gain
    return found


def dose_sentence(groups: Groups) -> str:
    """Return, for each kind of re-assignment, from which purity on the gain is clear."""
    found = {label: least_purity(groups, follows) for follows, (label, _) in FOLLOWS.items()}
    needed = [f"{level[0]:.2f} if images are {label}" for label, level in found.items() if level]
    never = [label for label, level in found.items() if level is None]
    sentences = [f"To help clearly, groups need a purity of {_listed(needed, 'and')}."] if needed else []
    sentences += [f"Groups do not clearly help at any purity if images are {_listed(never, 'or')}."] if never else []
    return " ".join(sentences)


def _listed(parts: Sequence[str], word: str) -> str:
    *others, last = parts
    return f"{', '.join(others)} {word} {last}" if others else last
