"""Regret of the advice on own data: AP of the best row of a comparison, minus that of the advised method.

The committed records of the tables chapter stand in for users' tables. The method of a fold is chosen without the rows
that are measured, so the advice has no advantage from the choice; the best row is picked afterwards and has one.

    python benchmarks/advice.py    # writes advice.json, which the chapter on own data shows
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from regroup_book import plans
from regroup_lib.comparison import Comparison
from regroup_lib.files import atomic_path
from regroup_lib.runs.own import REGROUPED, TABLE_METHODS
from regroup_lib.runs.records import find_record


def comparison_of(task: str, imbalance: float | None) -> Comparison:
    """Return the records of a bundled table as a comparison on own data."""
    specs = [s for s in plans.tabular("cpu", (0, 1, 2)) if (s.task, s.imbalance) == (task, imbalance)]
    specs = [s for s in specs if s.method in TABLE_METHODS.values()]
    specs = [s for s in specs if s.estimator != "boosting" or s.method not in ("rg", "rg-weights")]
    records = [find_record(spec) for spec in specs]
    before = [record.regrouping["before"] for record in records if record.spec.method == "rg"]
    diagnosis = [{"class": "rest", "stability": np.mean([values["stability"] for values in before])}]
    spec = SimpleNamespace(holds="rows", encoder=None, task=f"own-{task}")
    return Comparison(SimpleNamespace(spec=spec, metrics={"diagnosis": diagnosis, "notes": []}), tuple(records))


def regret(comparison: Comparison) -> tuple[str, float]:
    """Return the word of the advice, and its regret in points of AP."""
    rows = {row: comparison.scores(*row).precisions.mean() for row in comparison.groups}
    word = comparison.recommendation.word
    titles = {title for _, title in rows}
    advised = comparison.chosen(REGROUPED if word == "regroup" else titles.difference(REGROUPED))
    return word, 100 * (max(rows.values()) - advised.precisions.mean())


if __name__ == "__main__":
    found = {}
    for task, imbalance in plans.TABULAR_TASKS["cpu"]:
        name = task + (f" at {imbalance}:1" if imbalance else "")
        word, found[name] = regret(comparison_of(task, imbalance))
        print(f"{name}: {word}, regret {found[name]:+.2f}")
    print(f"mean of {len(found)} tasks: {np.mean(list(found.values())):+.2f} points of AP")
    with atomic_path(Path(__file__).with_suffix(".json")) as partial:
        partial.write_text(json.dumps({name: round(points, 4) for name, points in found.items()}, indent=1) + "\n")
