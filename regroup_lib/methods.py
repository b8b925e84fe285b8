"""What a competitor changes. A method is a choice of training labels; losses and samplers join it here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from regroup_lib.regroup import Regrouping
from regroup_lib.tasks import Task


@dataclass(frozen=True)
class Method:
    """One competitor.

    Attributes
    ----------
    labels : {"task", "regrouped", "random", "true"}
        What the network is trained on: the task's classes, clusters of the large classes, random groups of the
        same number, or the finer classes that the task hides.
    """

    labels: Literal["task", "regrouped", "random", "true"]

    @property
    def regroups(self) -> bool:
        """Whether scores of pseudo-classes have to be aggregated."""
        return self.labels != "task"


METHODS = {
    "ce": Method("task"),
    "rg": Method("regrouped"),
    "rg-random": Method("random"),
    "rg-true": Method("true"),
}


@dataclass(frozen=True)
class TrainingLabels:
    """Labels to train on, and the class that each of them belongs to.

    Attributes
    ----------
    labels : ndarray of int64 [n]
    parent : ndarray of int64 [K]
        Class index of each training label.
    """

    labels: np.ndarray
    parent: np.ndarray


def training_labels(
    task: Task,
    method: Method,
    *,
    features: np.ndarray | None = None,
    clusterer: str = "kmeans",
    threshold: float | None = None,
    n_clusters: int | None = None,
    seed: int = 0,
) -> TrainingLabels:
    """Return what a method trains on.

    Parameters
    ----------
    task : Task
    method : Method
    features : ndarray [n, d], optional
        Features of the training images; needed by methods that regroup by meaning.
    clusterer, threshold, n_clusters, seed
        See `Regrouping`.
    """
    labels = task.train.labels
    if method.labels == "task":
        return TrainingLabels(labels, np.arange(task.n_classes))
    if method.labels == "true":
        # Numbered class by class like pseudo-classes, the task's class before the fine one.
        pairs = np.stack([labels, task.train.fine_labels], axis=1)
        found, numbers = np.unique(pairs, axis=0, return_inverse=True)
        return TrainingLabels(numbers.reshape(-1).astype(np.int64), found[:, 0].astype(np.int64))
    if method.labels == "random":
        clusterer, features = "random", np.zeros((len(labels), 1), np.float32)
    if features is None:
        raise ValueError("this method clusters features; none were given")
    regrouping = Regrouping(clusterer, threshold=threshold, n_clusters=n_clusters, random_state=seed)
    regrouping.fit(features, labels)
    return TrainingLabels(regrouping.pseudo_labels_, regrouping.parent_)
