"""Long tails and self-supervision: the paper's future work, in that field's measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import recall_score

from regroup_book.differences import Groups, precision_difference, values
from regroup_book.method_tables import mean_cells, relative_cost
from regroup_book.show import starred_columns, table, traced
from regroup_lib.intervals import Interval, interval, mean_std, minus
from regroup_lib.metrics import bootstrap_counts
from regroup_lib.runs.records import N_RESAMPLES, Record, rule_of

# Training images of a class in "many", "medium" and "few" shots: more than 100, 20 to 100, fewer than 20.
SHOTS = {"many": (101, np.inf), "medium": (20, 100), "few": (0, 19)}


def training_counts(record: Record) -> np.ndarray:
    """Return the training images of each class, pseudo-classes added up."""
    return np.bincount(record.regrouping["parent"], record.regrouping["counts"]).astype(int)


def predictions(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Return test labels and decisions under the paper's rule, int [n] both."""
    arrays, rule = record.arrays(), rule_of(record)
    kept = f"test_predictions_{rule}"
    decided = arrays[kept] if kept in arrays else arrays[f"test_scores_{rule}"].argmax(axis=1)
    return arrays["test_labels"].astype(int), decided.astype(int)


def shot_accuracies(record: Record) -> dict[str, float]:
    """Return accuracy over all test images, and mean recall of the classes with many, medium and few shots.

    NaN where no class has so many, or the run diverged. (The test set is balanced, so mean recall is accuracy.) The
    three groups are those of Liu et al. (2019), Large-scale long-tailed recognition in an open world.
    """
    if record.status != "finished":
        return dict.fromkeys(("all", *SHOTS), float("nan"))
    labels, decided = predictions(record)
    counts = training_counts(record)
    recalls = pd.Series(recall_score(labels, decided, labels=range(len(counts)), average=None, zero_division=0))
    by_shots = {name: recalls[(counts >= low) & (counts <= high)].mean() for name, (low, high) in SHOTS.items()}
    return {"all": float((labels == decided).mean())} | by_shots


def long_tail_table(groups: Groups) -> pd.DataFrame:
    """Return one row per method: accuracy over all classes and by shots, and mean AP, the best in bold.

    Percent, mean ± standard deviation over seeds. Images seen are those of the whole training, relative to CE's.
    """
    columns: dict[str, Iterable[Any]] = {"method": groups}
    columns["pseudo-classes"] = [len(group[0].regrouping["parent"]) for group in groups.values()]
    columns["images seen"] = [f"{relative_cost(group, groups['CE']):.2f}" for group in groups.values()]
    found = [pd.DataFrame([shot_accuracies(record) for record in group]) for group in groups.values()]
    shots = [name for name in SHOTS if not all(f[name].isna().all() for f in found)]
    for name in ("all", *shots) if len(shots) > 1 else ("all",):
        columns[f"accuracy, {name}"] = ["" if f[name].isna().all() else mean_std(f[name]) for f in found]
    columns["mean AP"] = mean_cells(groups, "average_precision", marked=True)
    return table(columns, groups.values())


def chosen_on_validation(groups: Groups) -> str:
    """Return the method with the best mean accuracy on the validation images, which are balanced as the test set is."""

    def accuracy(label: str) -> float:
        if any(r.status != "finished" for r in groups[label]):
            return -1.0
        found = [r.metrics[rule_of(r)]["val"]["summary"]["balanced_accuracy"] for r in groups[label]]
        return float(np.mean(found))

    return max(groups, key=accuracy)


def contests(groups: Groups) -> dict[str, tuple[str, str]]:
    """Return the pairs of methods that are held against one another, by what is compared; validation chooses them.

    ``"RG − CE"``: RG at the chosen threshold, and CE. ``"best with RG − best without"``: the best method that regroups,
    and the best that does not. ``"at equal steps"``: the same among those whose epochs have no more images than CE's,
    which oversampling's have.
    """
    regroups, others = ({n: g for n, g in groups.items() if n.startswith("RG") == with_} for with_ in (True, False))
    alone = {label: group for label, group in regroups.items() if label.startswith("RG,")}
    equal = {label: group for label, group in others.items() if relative_cost(group, groups["CE"]) < 1.05}
    best = chosen_on_validation(regroups)
    return {
        "RG − CE": (chosen_on_validation(alone), "CE"),
        "best with RG − best without": (best, chosen_on_validation(others)),
        "at equal steps": (best, chosen_on_validation(equal)),
    }


def tail_differences(groups: Groups, first: str, second: str) -> dict[str, Interval]:
    """Return first minus second in accuracy and in mean AP, percentage points.

    Records of more than 20 classes keep decisions and no scores: the interval of their mean AP is over seeds alone.
    """
    by_seed = np.subtract(*([100 * shot_accuracies(r)["all"] for r in groups[name]] for name in (first, second)))
    correct = [np.stack([np.equal(*predictions(r)) for r in groups[name]]) for name in (first, second)]
    labels = predictions(groups[first][0])[0]
    counts = bootstrap_counts(labels, N_RESAMPLES)
    resampled = 100 * (correct[0].astype(float) - correct[1]) @ counts.T / len(labels)
    if f"test_scores_{rule_of(groups[first][0])}" in groups[first][0].arrays():
        precision = precision_difference(groups, first, second)
    else:
        precision = interval(np.subtract(*(values(groups[name], "average_precision") for name in (first, second))))
    return {"accuracy": interval(by_seed, resampled, n_units=len(labels)), "mean AP": precision}


def contest_table(tails: Mapping[str, Groups]) -> pd.DataFrame:
    """Return one row per long-tailed set and contest: who is compared, and by how much they differ, in points."""
    rows, found, differences = [], [], []
    for name, groups in tails.items():
        for contest, (first, second) in contests(groups).items():
            rows.append({"training set": name, "contest": contest, "compared": f"{first} − {second}"})
            differences.append(tail_differences(groups, first, second))
            found.append([*groups[first], *groups[second]])
    cells = starred_columns({measure: [of[measure] for of in differences] for measure in differences[0]})
    return traced(pd.DataFrame(rows).assign(**cells).set_index("training set"), found)


def long_tail_sentences(tails: Mapping[str, Groups]) -> dict[str, str]:
    """Return, for each contest, on how many sets the first is clearly above and below the second."""
    titles = {
        "RG − CE": "RG against CE",
        "best with RG − best without": "The best method that regroups against the best that does not",
        "at equal steps": "The same among methods that see as many images as CE",
    }
    sentences = {}
    for contest, compared in titles.items():
        found = [tail_differences(groups, *contests(groups)[contest]) for groups in tails.values()]
        by_measure = {measure: [f[measure] for f in found] for measure in found[0]}
        tallies = [f"{measure} is {_tally(group)}" for measure, group in by_measure.items()]
        sentences[contest] = f"{compared}: {'; '.join(tallies)}."
    return sentences


def _tally(differences: Sequence[Interval]) -> str:
    """Return on how many sets a difference is clear, and its mean: ``"clearly higher on 2 of 4 sets (…)"``."""
    n, counted = len(differences), Counter((d.low > 0) - (d.high < 0) for d in differences)
    parts = [f"clearly {word} on {counted[sign]}" for word, sign in (("higher", 1), ("lower", -1)) if counted[sign]]
    over = f" (on average {interval([d.mean for d in differences])})" if n > 1 else ""
    return (f"{' and '.join(parts)} of {n} sets" if parts else f"not clearly different on any of the {n} sets") + over


def describe_tail(groups: Groups) -> str:
    """Return the size of a long-tailed training set in words."""
    counts = training_counts(next(iter(groups.values()))[0])
    images = f"{counts.sum():,} training images in {len(counts)} classes"
    return f"{images}, {counts.max():,} in the largest and {counts.min():,} in the smallest"


def looks_sentence(looks: Mapping[int, Sequence[Record]]) -> str:
    """Return how NMI moves from the shortest to the longest training, and over the last step."""
    nmi = {epochs: float(np.mean([look.metrics["nmi"] for look in group])) for epochs, group in looks.items()}
    lengths = list(nmi)
    first, before, last = lengths[0], lengths[-2], lengths[-1]
    return minus(
        f"Between {first} and {last} epochs of training, the NMI goes from {nmi[first]:.2f} to {nmi[last]:.2f}. "
        f"The last step, from {before} epochs on, changes it by {nmi[last] - nmi[before]:+.2f}."
    )
