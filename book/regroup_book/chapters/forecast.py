"""Will it help? Numbers that are known before training, and how much AP a rule on one of them would have cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from regroup_book import plans
from regroup_book.chapters.tables import FORESEEN, task_title
from regroup_book.differences import precision_difference
from regroup_book.show import encoder_label, task_name
from regroup_lib.data.bundled_tables import parse_table_task
from regroup_lib.runs.records import AVERAGE_PRECISION, Record, find_record, result_on_test
from regroup_lib.runs.table_methods import ESTIMATOR_TITLES

# What is known before training -> how tables name it.
NUMBERS = {
    "stability": "stability of the clusters",
    "silhouette": "silhouette of the clusters",
    "minority neighbors": "positives among the neighbors of a positive",
    "ratio": "negatives for each positive",
    "positives": "number of positives",
}


def table_cases(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per table and classifier: the numbers of `NUMBERS`, and the mean gain in AP (points).

    The gain is that of RG under sum aggregation, the library's default, over the plain classifier.
    """
    groups: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in records:
        key = task_title(record.spec), record.spec.estimator
        groups.setdefault(key, {}).setdefault(record.spec.method, []).append(record)
    rows = []
    for (task, estimator), by_method in groups.items():
        regrouped = by_method["rg"]
        sizes = np.bincount(regrouped[0].regrouping["parent"], regrouped[0].regrouping["counts"])
        row = {"task": task, "classifier": ESTIMATOR_TITLES[estimator], "source": _source(regrouped[0])}
        row |= {name: np.mean([r.regrouping["before"][name] for r in regrouped]) for name in FORESEEN}
        ours, plain = ([result_on_test(r, AVERAGE_PRECISION, "sum") for r in by_method[m]] for m in ("rg", "plain"))
        row |= {"ratio": sizes[0] / sizes[1], "positives": sizes[1], "gain": 100 * (np.mean(ours) - np.mean(plain))}
        rows.append(row)
    return pd.DataFrame(rows)


def _source(record: Record) -> str:
    return record.spec.task if record.spec.own is not None else parse_table_task(record.spec.task)[0]


def best_rule(cases: pd.DataFrame, number: str) -> tuple[float, int]:
    """Return the threshold and the side (1: above it) on which regrouping gains most AP in all."""
    known = np.unique(cases[number])
    cuts = [-np.inf, *(known[1:] + known[:-1]) / 2]
    total = {(cut, side): cases["gain"][side * (cases[number] - cut) > 0].sum() for side in (1, -1) for cut in cuts}
    return max(total, key=total.__getitem__)


def regret(cases: pd.DataFrame, use: np.ndarray) -> float:
    """Return the AP that following a rule loses against the better of both choices: points, mean over cases."""
    gain = cases["gain"].to_numpy()
    return float(np.where(use, -gain, gain).clip(min=0).mean())


def held_out_regret(cases: pd.DataFrame, number: str | None) -> float:
    """Return the `regret` of a rule on one number that is made without the source that it is applied to.

    None: the number, too, is chosen without that source, by the same measure among the others.
    """
    use = np.zeros(len(cases), bool)
    for source in cases["source"].unique():
        here = (cases["source"] == source).to_numpy()
        others = cases[~here]
        chosen = number or min(NUMBERS, key=lambda name, others=others: held_out_regret(others, name))
        cut, side = best_rule(others, chosen)
        use[here] = side * (cases[chosen][here] - cut) > 0
    return regret(cases, use)


def regret_table(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the regret of each rule, and its threshold on all cases."""
    rows = [("never regroup", "", regret(cases, np.zeros(len(cases), bool)))]
    rows += [("always regroup", "", regret(cases, np.ones(len(cases), bool)))]
    for name, title in NUMBERS.items():
        cut, side = best_rule(cases, name)
        rows.append((title, f"{'above' if side > 0 else 'below'} {cut:.2f}", held_out_regret(cases, name)))
    rows += [("best of these numbers, chosen without the source", "", held_out_regret(cases, None))]
    table = pd.DataFrame(rows, columns=["rule", "regroup if", "regret"]).set_index("rule")
    return table.assign(regret=table["regret"].map("{:.2f}".format))


def image_cases(profile: str, seeds: Sequence[int]) -> pd.DataFrame:
    """Return one row per image task and encoder: the stability of the clusters, and RG's gain in AP with its interval.

    Airplane: clusters against binary labels in a short training; the other tasks: RG against CE as in Table 1.
    """
    rows = []
    for look in plans.forecast_looks(profile):
        if look.task in plans.ABLATION_TASKS[profile][:1]:
            plain = plans.ablation("control", look.task, profile, seeds)["binary"]
            runs = {"binary": plain} | plans.ablation("encoder", look.task, profile, seeds)
            gain = precision_difference(plans.records_of(runs, "ablations"), look.encoder, "binary")
        else:
            gain = precision_difference(plans.competitors(look.task, profile, seeds), "rg", "ce")
        found = find_record(look).metrics["diagnosis"][0]
        row = {"task": task_name(look.task), "encoder": encoder_label(look.encoder), "stability": found["stability"]}
        rows.append(row | {"gain": gain.mean, "AP gain, points": str(gain)})
    return pd.DataFrame(rows)


def forecast_sentence(cases: pd.DataFrame) -> str:
    """Return how the rule on stability compares with never and always regrouping, on tables."""
    cut, _ = best_rule(cases, "stability")
    never, always = (regret(cases, np.full(len(cases), use)) for use in (False, True))
    below = cases[cases["stability"] < cut]
    return (
        f"On a table, regroup only if the stability of the clusters is above {cut:.2f}. On sources that it has not "
        f"seen, this rule loses {held_out_regret(cases, 'stability'):.1f} AP points on average against the better "
        f"choice. Never regrouping loses {never:.1f} points, and always regrouping {always:.1f}. Below the threshold, "
        f"the mean gain is negative in {(below['gain'] < 0).sum()} of {len(below)} cases."
    )
