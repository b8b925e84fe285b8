"""What a competitor changes: the labels that it trains on, its loss, its sampler, its head.

`METHODS` names the combinations. The parts are usable alone: `training_labels`, `make_loss` and `make_sampler` here,
the losses in `losses`, the samplers in `samplers`, `deepsmote.deep_smote`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from regroup_lib.losses import APLoss, FocalLoss, LDAMLoss, LogitAdjustedLoss, SOAPLoss, weighted_cross_entropy
from regroup_lib.regroup import Regrouping, cluster_counts
from regroup_lib.samplers import (
    Sampler,
    ShuffledRows,
    StratifiedBatches,
    cluster_undersampling,
    random_oversampling,
    random_undersampling,
)
from regroup_lib.tasks import Task

DEFERRED = 0.8  # share of the training before deferred reweighting sets in: 160 of 200 epochs in Cao et al. (2019)


@dataclass(frozen=True)
class Method:
    """One competitor.

    Attributes
    ----------
    title : str
        How tables and figures name it.
    labels : {"task", "regrouped", "random", "true"}
        What the network is trained on: the task's classes, clusters of the large classes, random groups of the
        same number, or the finer classes that the task hides.
    loss : {"ce", "wce", "focal", "ldam", "la", "ap", "soap"}
    sampler : {"shuffled", "stratified", "ros", "rus", "rusc", "dsmt"}
    head : {"linear", "cosine"}
        The last layer, see `models.HEADS`.
    options : tuple of str
        The fields of a spec that tune it.
    features : bool
        Whether the network sees an encoder's features instead of images.
    """

    title: str
    labels: Literal["task", "regrouped", "random", "true"] = "task"
    loss: str = "ce"
    sampler: str = "shuffled"
    head: str = "linear"
    options: tuple[str, ...] = ()
    features: bool = False

    @property
    def needs_encoder(self) -> bool:
        """Whether features of an encoder are clustered or trained on."""
        return self.labels == "regrouped" or self.sampler == "rusc" or self.features

    @property
    def cluster_options(self) -> tuple[str, ...]:
        """The fields of a spec that say how it clusters; none where it does not."""
        if self.sampler == "rusc":  # all classes together, so there is no threshold
            return "clusterer", "n_clusters"
        return ("clusterer", "threshold", "n_clusters") if self.labels in ("regrouped", "random") else ()


METHODS = {
    "ce": Method("CE"),
    "wce": Method("WCE", loss="wce"),
    "focal": Method("Focal", loss="focal", options=("gamma",)),
    "ldam": Method("LDAM", loss="ldam", head="cosine", options=("max_margin", "deferred")),
    "ldam-plain": Method("LDAM, plain head", loss="ldam", options=("max_margin", "deferred")),
    "la": Method("LA", loss="la", options=("tau",)),
    # Logit adjustment with tau = 1, by definition (Ren et al. 2020, Equation 4).
    "balanced-softmax": Method("balanced softmax", loss="la"),
    "ap-loss": Method("AP-Loss", loss="ap", sampler="stratified"),
    "soap": Method("SOAP", loss="soap", sampler="stratified"),
    "rus": Method("RUS", sampler="rus"),
    "rusc": Method("RUSC", sampler="rusc"),
    "ros": Method("ROS", sampler="ros"),
    "dsmt": Method("DSMT", sampler="dsmt"),
    "mlp": Method("encoder+MLP", features=True),
    "rg": Method("RG", "regrouped"),
    "rg-wce": Method("RG+WCE", "regrouped", loss="wce"),
    "rg-focal": Method("RG+Focal", "regrouped", loss="focal", options=("gamma",)),
    "rg-la": Method("RG+LA", "regrouped", loss="la", options=("tau",)),
    "rg-ros": Method("RG+ROS", "regrouped", sampler="ros"),
    "rg-random": Method("random groups", "random"),
    "rg-true": Method("true classes", "true"),
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
    n_clusters: int | Mapping[int, int] | None = None,
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


def make_loss(
    name: str,
    class_counts: Sequence[int],
    *,
    gamma: float | None = None,
    tau: float | None = None,
    max_margin: float | None = None,
    deferred: bool = False,
) -> nn.Module | None:
    """Build a loss from its name; None is the loop's own cross-entropy.

    Parameters
    ----------
    name : str
        See `Method`.
    class_counts : sequence of int [K]
        Training samples of each label that is trained on (of each pseudo-class when regrouped).
    gamma, tau, max_margin : float, optional
        Of focal loss, logit adjustment and LDAM; default: the loss's own (2, 1, 0.5).
    deferred : bool
        LDAM's deferred reweighting.
    """
    if name == "ce":
        return None
    if name == "wce":
        return weighted_cross_entropy(class_counts)
    if name == "focal":
        return FocalLoss() if gamma is None else FocalLoss(gamma)
    if name == "la":
        return LogitAdjustedLoss(class_counts) if tau is None else LogitAdjustedLoss(class_counts, tau)
    if name == "ldam":
        margin = {} if max_margin is None else {"max_margin": max_margin}
        return LDAMLoss(class_counts, **margin, deferred=DEFERRED if deferred else None)
    if name == "ap":
        return APLoss()
    if name == "soap":
        return SOAPLoss(int(sum(class_counts)))
    raise ValueError(f"no loss is called {name!r}; there are ce, wce, focal, la, ldam, ap, soap")


def make_sampler(
    name: str,
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    features: np.ndarray | None = None,
    clusterer: str = "kmeans",
    n_clusters: int | None = None,
) -> Sampler:
    """Build a sampler from its name.

    An undersampled set is passed over again and again until an epoch has as many images as the full set: all
    methods but oversampling see equally many images, and none gets fewer steps.

    Parameters
    ----------
    name : str
        See `Method`; ``"dsmt"`` has added its images already and shuffles.
    labels : ndarray of int64 [n]
        What is trained on.
    batch_size, seed : int
    features : ndarray [n, d], optional
        What RUSC clusters.
    clusterer, n_clusters
        RUSC's; default number: that of regrouping for the labels' class counts.
    """
    everything = np.arange(len(labels))
    if name in ("shuffled", "dsmt"):
        return ShuffledRows(everything)
    if name == "stratified":
        return StratifiedBatches(labels, batch_size)
    if name == "ros":
        return ShuffledRows(random_oversampling(labels, seed=seed))
    if name == "rus":
        return ShuffledRows(random_undersampling(labels, seed=seed), n_drawn=len(labels))
    if name == "rusc":
        if features is None:
            raise ValueError("RUSC clusters features; none were given")
        n_clusters = n_clusters or sum(cluster_counts(np.bincount(labels)))
        rows = cluster_undersampling(features, labels, n_clusters=n_clusters, seed=seed, clusterer=clusterer)
        return ShuffledRows(rows, n_drawn=len(labels))
    raise ValueError(f"no sampler is called {name!r}; there are shuffled, stratified, ros, rus, rusc, dsmt")
