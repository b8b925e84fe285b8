"""Dose and response: how pure groups must be for regrouping to help, from groups whose purity is set by hand."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from regroup_book.show import encoder_label, learned_share, traced
from regroup_lib.intervals import Interval, mean_std, starred
from regroup_lib.runs.differences import Groups, precision_difference, values
from regroup_lib.runs.records import Record

FOLLOWS = {
    "random": ("re-assigned at random", "#E69F00"),
    "brightness": ("re-assigned by brightness", "#CC79A7"),
    "autoencoder": ("re-assigned by autoencoder clusters", "#D55E00"),
}


def _purity(group: Sequence[Record]) -> float:
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
                "purity": f"{_purity(groups[name]):.2f}",
                "learned": f"{np.mean([learned_share(r) for r in groups[name]]):.2f}",
                "AP": mean_std(values(groups[name], "average_precision"), scale=1),
            }
        )
    table = pd.DataFrame(rows)
    table["AP − binary labels"] = starred([precision_difference(groups, name, "binary") for name in names])
    return traced(table.set_index("the share follows"), [groups[name] for name in names])


def least_purity(groups: Groups, follows: str) -> tuple[float, Interval] | None:
    """Return the lowest purity at which the gain over binary labels is clear, and that gain; None if none is.

    Only levels above which every purer level gains clearly, too, count.
    """
    levels = [name for name in groups if name == "true" or name.startswith(f"{follows} ")]
    found = None
    for name in sorted(levels, key=lambda name: -_purity(groups[name])):
        gain = precision_difference(groups, name, "binary")
        if not gain.low > 0:
            break
        found = _purity(groups[name]), gain
    return found


def dose_sentence(groups: Groups) -> str:
    """Return, for each kind of re-assignment, from which purity on the gain is clear."""
    parts = []
    for follows, (label, _) in FOLLOWS.items():
        found = least_purity(groups, follows)
        level = "at no purity" if found is None else f"from a purity of {found[0]:.2f} on"
        parts.append(f"{level} where images are {label}")
    return f"Regrouping clearly helps {', '.join(parts[:-1])} and {parts[-1]}."


def plot_dose(groups: Groups, encoders: Groups) -> Figure:
    """Draw the gain in AP over purity, a curve for each kind of re-assignment, and real encoders' clusters beside them.

    Parameters
    ----------
    groups : mapping of str to records
        Of `plans.dose_runs`.
    encoders : mapping of str to records
        Runs regrouped by each encoder, by its name; the same seeds.
    """
    plain, rows = values(groups["binary"], "average_precision"), []
    for follows, (label, _) in FOLLOWS.items():
        for name in (name for name in groups if name == "true" or name.startswith(f"{follows} ")):
            gains = values(groups[name], "average_precision") - plain
            rows += [{"purity": _purity(groups[name]), "gain": gain, "groups": label} for gain in gains]
    figure, axes = plt.subplots(figsize=(7.6, 4.2))
    axes.axhline(0, color="0.3", linewidth=1)
    palette = dict(FOLLOWS.values())
    options = {"hue": "groups", "style": "groups", "palette": palette, "markers": True, "errorbar": ("pi", 100)}
    sns.lineplot(pd.DataFrame(rows), x="purity", y="gain", ax=axes, **options)
    for name, group in encoders.items():
        gain = values(group, "average_precision").mean() - plain.mean()
        axes.plot(_purity(group), gain, "X", color="#0072B2", markersize=9)
        axes.annotate(encoder_label(name), (_purity(group), gain), (7, -3), textcoords="offset points", fontsize=9)
    axes.set(xlabel="purity of the majority's groups", ylabel="AP − AP of binary labels (points)")
    axes.legend(title=None)
    return figure
