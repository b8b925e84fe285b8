"""Numbers of groups of records: values by seed, scores on the test set, and differences with their interval.

A group is one method with its chosen settings, a record per seed. Numbers are percent, differences are in points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
from sklearn.metrics import f1_score

from regroup_lib.intervals import Interval, interval
from regroup_lib.metrics import bootstrap_counts, weighted_average_precisions
from regroup_lib.runs.records import N_RESAMPLES, PAPER_RULE, Record, result_on_test, rule_of, validation_precision

Groups = Mapping[str, Sequence[Record]]


def trace(record: Record, measure: str, *, split: str = "test", rule: str = PAPER_RULE) -> np.ndarray:
    """Return a measure after each epoch."""
    return np.array([epoch[f"{split}_{rule_of(record, rule)}_{measure}"] for epoch in record.traces])


def values(group: Sequence[Record], measure: str) -> np.ndarray:
    """Return one number per seed, percent, under the paper's rule; NaN if a run diverged.

    A measure is ``"balanced_accuracy"``, ``"average_precision"`` (positive class; in a multiclass task the mean over
    classes), ``"calibrated_average_precision"``, ``"average_precision_negative"``, ``"average_precision_<class>"``, or
    ``"macro_f1"``.
    """
    return 100 * np.array([_value(r, measure) if r.status == "finished" else np.nan for r in group], float)


def _value(record: Record, measure: str) -> float:
    if measure == "macro_f1":
        labels, scores = scores_on_test(record)
        return float(f1_score(labels, scores.argmax(axis=1), average="macro", zero_division=0))
    by_class = record.metrics[rule_of(record)]["test"]["average_precision"]
    if measure == "average_precision_negative":
        return next(iter(by_class.values()))
    name = measure.removeprefix("average_precision_")
    return by_class[name] if name != measure else result_on_test(record, measure)


def scores_on_test(record: Record, rule: str = PAPER_RULE) -> tuple[np.ndarray, np.ndarray]:
    """Return a record's test labels [n] and class scores under a rule [n, C]."""
    arrays = record.arrays()
    scores = arrays[f"test_scores_{rule_of(record, rule)}"]
    return arrays["test_labels"], np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores


def best_on_validation(groups: Groups, names: Iterable[str]) -> str:
    """Return the group with the highest mean average precision on the validation split, the first of equals."""
    return max(names, key=lambda name: np.mean([validation_precision(record) for record in groups[name]]))


@cache  # several tables of a chapter use the same
def _resampled(labels: bytes, label: int, scores: bytes) -> np.ndarray:
    """Return one class's AP in each resample; labels are uint8 and scores float32."""
    classes = np.frombuffer(labels, np.uint8)
    counts = bootstrap_counts(classes, N_RESAMPLES)
    return weighted_average_precisions(classes == label, np.frombuffer(scores, np.float32), counts)


def bootstrap_precisions(
    group: Sequence[Record], classes: Sequence[int] | None = None, rule: str = PAPER_RULE
) -> np.ndarray:
    """Return AP, percent, in resamples of the test set: [seeds, N_RESAMPLES]; NaN where a run diverged.

    It is the mean over `classes`; default: the positive class, in a multiclass task all. All methods of a task see the
    same resamples, so their differences are paired.
    """
    precisions = []
    for record in group:
        if record.status != "finished":
            precisions.append(np.full(N_RESAMPLES, np.nan))
            continue
        labels, scores = scores_on_test(record, rule)
        chosen = classes if classes is not None else range(scores.shape[1]) if scores.shape[1] > 2 else (1,)
        by_class = [_resampled(labels.tobytes(), c, scores[:, c].tobytes()) for c in chosen]
        precisions.append(np.mean(by_class, axis=0))
    return 100 * np.array(precisions)


def precision_difference(
    groups: Groups, first: str, second: str, classes: Sequence[int] | None = None, *, rule: str = PAPER_RULE
) -> Interval:
    """Return the difference of two methods' AP, in points; for `classes` see `bootstrap_precisions`.

    The records of both have the same seeds in the same order.
    """
    resampled = bootstrap_precisions(groups[first], classes, rule) - bootstrap_precisions(groups[second], classes, rule)
    labels = groups[second][0].arrays()["test_labels"]
    return interval(resampled[:, 0], resampled, n_units=int(np.bincount(labels).min()))


def rates_above(
    positive: Sequence[bool], scores: Sequence[float], thresholds: np.ndarray, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the false positive rate at each of T thresholds, in each of B resamples, both [B, T].

    A sample is called positive where its score is at least the threshold. `counts` [B, n] are those of
    `bootstrap_counts`; default: the samples as they are.
    """
    positive, scores, thresholds = np.asarray(positive, bool), np.asarray(scores), np.asarray(thresholds)
    counts = np.ones((1, len(scores)), np.uint16) if counts is None else counts
    rates = []
    for rows in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        order = rows[np.argsort(scores[rows], kind="stable")]
        below = np.searchsorted(scores[order], thresholds, side="left")
        total = np.zeros((len(counts), len(order) + 1))
        np.cumsum(counts[:, order], axis=1, out=total[:, 1:])
        rates.append(1 - total[:, below] / total[:, -1:])
    return rates[0], rates[1]
