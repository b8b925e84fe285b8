"""Dose and response: how pure groups must be for regrouping to help, from groups whose purity is set by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from regroup_book.differences import Groups, precision_difference
from regroup_book.method_tables import mean_cells
from regroup_book.show import encoder_label, learned_share, listed, table
from regroup_lib.intervals import Interval, starred
from regroup_lib.runs.records import Record

FOLLOWS = {
    "random": ("at random", "#E69F00"),
    "brightness": ("by brightness", "#8C6D31"),
    "autoencoder": ("by autoencoder clusters", "#D55E00"),
}
# The same, of the errors that groups then have.
ERRORS = dict(zip(FOLLOWS, ("are random", "follow brightness", "follow an autoencoder's clusters"), strict=True))


def purity_of(group: Sequence[Record]) -> float:
    """Return the purity of the majority's groups, the mean over seeds."""
    return float(np.mean([record.regrouping["purity"] for record in group]))


def dose_table(groups: Groups) -> pd.DataFrame:
    """Return one row per set of groups: what the re-assigned share follows, purity, share learned, AP and gain."""
    shown = {name: group for name, group in groups.items() if name != "binary"}
    follows = {name: name.partition(" ")[::2] for name in shown}
    columns = {
        "re-assigned": [FOLLOWS[f][0] if share else "nothing" for f, share in follows.values()],
        "share": [f"{float(share or 0):.0%}" for _, share in follows.values()],
        "purity": [f"{purity_of(group):.2f}" for group in shown.values()],
        "learned": [f"{np.mean([learned_share(r) for r in group]):.2f}" for group in shown.values()],
        "AP": mean_cells(shown, "average_precision"),
        "AP − binary labels": starred([precision_difference(groups, name, "binary") for name in shown]),
    }
    return table(columns, shown.values())


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
    found = {errors: least_purity(groups, follows) for follows, errors in ERRORS.items()}
    needed = [f"from {level[0]:.2f} on if errors {errors}" for errors, level in found.items() if level]
    never = [errors for errors, level in found.items() if level is None]
    sentences = [f"Of the tested purities, regrouping clearly helps {listed(needed)}."] if needed else []
    sentences += (
        [f"Regrouping does not clearly help at any tested purity if errors {listed(never, 'or')}."] if never else []
    )
    return " ".join(sentences)


def encoders_sentence(groups: Groups, encoders: Groups) -> str:
    """Return how pure the clusters of real encoders are, and by how much they clearly raise or lower AP."""
    gains = {name: precision_difference(groups | encoders, name, "binary") for name in encoders}
    sides = {"raise": [name for name in gains if gains[name].low > 0]}
    sides |= {"lower": [name for name in gains if gains[name].high < 0]}
    return " ".join(
        f"The clusters of {listed(map(encoder_label, names))} have a purity of "
        f"{_ends([purity_of(encoders[name]) for name in names], 2)} and {verb} AP by "
        f"{_ends([abs(gains[name].mean) for name in names], 1)} points."
        for verb, names in sides.items()
        if names
    )


def _ends(numbers: Sequence[float], digits: int) -> str:
    return " to ".join(dict.fromkeys(f"{number:.{digits}f}" for number in (min(numbers), max(numbers))))
