"""What a competitor changes: the labels that it trains on, its loss, its sampler, its head.

`METHODS` names the combinations. The parts are usable alone: `training_labels`, `make_loss` and `make_sampler` here,
the losses in `losses`, the samplers in `samplers`, `deepsmote.deep_smote`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import rankdata
from torch import nn

from regroup_lib.clusterers import BLIND_CLUSTERERS, make_clusterer
from regroup_lib.data.tasks import Task
from regroup_lib.nn.losses import APLoss, FocalLoss, LDAMLoss, LogitAdjustedLoss, SOAPLoss, weighted_cross_entropy
from regroup_lib.nn.samplers import (
    Sampler,
    ShuffledRows,
    StratifiedBatches,
    cluster_undersampling,
    random_oversampling,
    random_undersampling,
)
from regroup_lib.regroup import Regrouping, cluster_counts

DEFERRED = 0.8  # share of the training before deferred reweighting sets in: 160 of 200 epochs in Cao et al. (2019)


@dataclass(frozen=True)
class Method:
    """One competitor.

    Attributes
    ----------
    title : str
        How tables and figures name it.
    labels : {"task", "regrouped", "shuffled", "random", "true", "mixed"}
        What the network is trained on: the task's classes, clusters of the large classes, groups of the clusters' sizes
        without their meaning, random groups of the same number, the finer classes that the task hides, or these with a
        share of the majority re-assigned (see `mixed_labels`).
    loss : {"ce", "wce", "focal", "ldam", "la", "ap", "soap"}
    sampler : {"shuffled", "stratified", "ros", "rus", "rusc", "dsmt"}
    head : {"linear", "cosine"}
        The last layer, see `models.HEADS`.
    options : tuple of str
        The fields of a spec that tune it.
    features : bool
        Whether the network sees an encoder's features instead of images.
    mixed_by : {"random", "brightness", "features"}, optional
        What the re-assigned share of ``"mixed"`` labels follows.
    auxiliary : {"clusters", "features"}, optional
        What a second head learns to predict beside the task's classes, see `losses.AuxiliaryLoss`.
    """

    title: str
    labels: Literal["task", "regrouped", "shuffled", "random", "true", "mixed"] = "task"
    loss: str = "ce"
    sampler: str = "shuffled"
    head: str = "linear"
    options: tuple[str, ...] = ()
    features: bool = False
    mixed_by: Literal["random", "brightness", "features"] | None = None
    auxiliary: Literal["clusters", "features"] | None = None

    @property
    def needs_encoder(self) -> bool:
        """Whether features of an encoder are clustered or trained on."""
        regroups = self.labels in ("regrouped", "shuffled") or self.mixed_by == "features"
        return regroups or self.sampler == "rusc" or self.features or self.auxiliary is not None

    @property
    def cluster_options(self) -> tuple[str, ...]:
        """The fields of a spec that say how it clusters; none where it does not."""
        if self.sampler == "rusc":  # all classes together, so there is no threshold
            return "clusterer", "n_clusters"
        if self.labels == "true":  # so many groups of true classes
            return ("n_clusters",)
        regroups = self.labels in ("regrouped", "shuffled", "random") or self.auxiliary == "clusters"
        return ("clusterer", "threshold", "n_clusters") if regroups else ()


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
    "probe": Method("linear probe", features=True),
    "knn": Method("kNN on features", features=True),
    "aux-clusters": Method("CE, clusters as a second task", auxiliary="clusters", options=("auxiliary_weight",)),
    "distill": Method("CE, features distilled", auxiliary="features", options=("auxiliary_weight",)),
    "rg": Method("RG", "regrouped"),
    "rg-wce": Method("RG+WCE", "regrouped", loss="wce"),
    "rg-focal": Method("RG+Focal", "regrouped", loss="focal", options=("gamma",)),
    "rg-la": Method("RG+LA", "regrouped", loss="la", options=("tau",)),
    "rg-ros": Method("RG+ROS", "regrouped", sampler="ros"),
    "rg-random": Method("random groups", "random"),
    "rg-shuffled": Method("clusters' sizes alone", "shuffled"),
    "rg-true": Method("true classes", "true"),
    "rg-mixed-random": Method("true classes, mixed at random", "mixed", options=("mixed_share",), mixed_by="random"),
    "rg-mixed-brightness": Method(
        "true classes, mixed by brightness", "mixed", options=("mixed_share",), mixed_by="brightness"
    ),
    "rg-mixed-features": Method(
        "true classes, mixed by clusters", "mixed", options=("mixed_share",), mixed_by="features"
    ),
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
    mixed_share: float | None = None,
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
    mixed_share : float, optional
        See `mixed_labels`.
    """
    labels = task.train.labels
    if method.labels == "task":
        return TrainingLabels(labels, np.arange(task.n_classes))
    if method.labels in ("true", "mixed"):
        if method.labels == "mixed":
            fine = mixed_labels(task, method.mixed_by, mixed_share, features=features, seed=seed)
        else:
            fine = task.train.fine_labels if n_clusters is None else _merged(task, n_clusters, seed)
        # Numbered class by class like pseudo-classes, the task's class before the fine one.
        pairs = np.stack([labels, fine], axis=1)
        found, numbers = np.unique(pairs, axis=0, return_inverse=True)
        return TrainingLabels(numbers.reshape(-1).astype(np.int64), found[:, 0].astype(np.int64))
    if method.labels == "random":
        clusterer = clusterer if clusterer in BLIND_CLUSTERERS else "random"
        features = np.zeros((len(labels), 1), np.float32)
    if features is None:
        raise ValueError("this method clusters features; none were given")
    regrouping = Regrouping(clusterer, threshold=threshold, n_clusters=n_clusters, random_state=seed)
    regrouping.fit(features, labels)
    pseudo_labels = regrouping.pseudo_labels_
    if method.labels == "shuffled":
        pseudo_labels = _shuffled_within(labels, pseudo_labels, seed)
    return TrainingLabels(pseudo_labels, regrouping.parent_)


def _merged(task: Task, n_groups: int, seed: int) -> np.ndarray:
    """Return fine labels merged at random into so many groups a class of the task, equal to within one fine class."""
    rng, fine, labels = np.random.default_rng(seed), task.train.fine_labels, task.train.labels
    merged = np.zeros_like(fine)
    for c in range(task.n_classes):
        of_class = np.unique(fine[labels == c])
        if c == np.bincount(labels).argmax() and n_groups > len(of_class):
            raise ValueError(f"n_clusters is {n_groups}; the largest class hides only {len(of_class)} true classes")
        for position, value in enumerate(rng.permutation(of_class)):
            merged[(labels == c) & (fine == value)] = position % n_groups
    return merged


def mixed_labels(task: Task, by: str, share: float, *, features: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Return the true fine labels of a binary task with a share of the majority's rows re-assigned.

    The rows are drawn at random. Their new group, one of as many as the majority has fine classes, follows something
    else than the true class: nothing, the image's brightness, or its cluster in an encoder's space. So groups of the
    same purity differ in how easily a network learns them.

    Parameters
    ----------
    task : Task
        Binary; its negative class is the majority.
    by : {"random", "brightness", "features"}
    share : float
        0 leaves the true classes, 1 re-assigns every negative.
    features : ndarray [n, d], optional
        Of the training images; clustered by k-means.
    seed : int

    Returns
    -------
    ndarray of int64 [n]
    """
    rng, mixed = np.random.default_rng(seed), task.train.fine_labels.copy()
    rows = np.flatnonzero(task.train.labels == 0)
    classes = np.unique(mixed[rows])
    if by == "random":
        groups = rng.integers(len(classes), size=len(rows))
    elif by == "brightness":
        brightness = task.train.inputs[rows].mean(axis=(1, 2, 3))
        groups = (rankdata(brightness, method="ordinal") - 1) * len(classes) // len(rows)
    else:
        groups = make_clusterer("kmeans", len(classes), random_state=seed).fit_predict(features[rows])
    chosen = rng.permutation(len(rows))[: round(share * len(rows))]
    mixed[rows[chosen]] = classes[groups[chosen].astype(np.int64)]
    return mixed


def _shuffled_within(labels: np.ndarray, pseudo_labels: np.ndarray, seed: int) -> np.ndarray:
    """Return pseudo-labels handed out at random within each class: sizes stay, meaning goes."""
    rng, shuffled = np.random.default_rng(seed), pseudo_labels.copy()
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        shuffled[rows] = rng.permutation(pseudo_labels[rows])
    return shuffled


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
