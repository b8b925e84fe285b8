"""The methods that are compared: each is a combination of training labels, loss, sampler and head (`METHODS`).

The parts can be used alone: `training_labels`, `make_loss` and `make_sampler` here, and the modules `nn.losses`,
`nn.samplers` and `nn.deepsmote`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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

DEFERRED = 0.8  # share of the training before deferred reweighting starts: 160 of 200 epochs in Cao et al. (2019)


@dataclass(frozen=True)
class Method:
    """A treatment of imbalance; its parts are named in `LOSSES`, `make_sampler` and `models.HEADS`."""

    title: str  # in tables and figures
    # The training labels: the classes of the task, clusters of the large classes, random groups of the sizes of the
    # clusters, random groups of the same number, the finer classes that the task merges, or these with a share of the
    # majority re-assigned (see `mixed_labels`).
    labels: Literal["task", "regrouped", "shuffled", "random", "true", "mixed"] = "task"
    loss: str = "ce"
    sampler: Literal["shuffled", "stratified", "ros", "rus", "rusc", "dsmt"] = "shuffled"
    head: str = "linear"
    options: tuple[str, ...] = ()  # the fields of a spec that tune the method
    features: bool = False  # whether the network takes the features of an encoder instead of images
    mixed_by: Literal["random", "brightness", "features"] | None = None  # how "mixed" labels are re-assigned
    auxiliary: Literal["clusters", "features"] | None = None  # targets of a second head, see `losses.AuxiliaryLoss`

    @property
    def needs_encoder(self) -> bool:
        """Whether the method uses the features of an encoder."""
        regroups = self.labels in ("regrouped", "shuffled") or self.mixed_by == "features"
        return regroups or self.sampler == "rusc" or self.features or self.auxiliary is not None

    @property
    def cluster_options(self) -> tuple[str, ...]:
        """The fields of a spec that tune its clusters; none for a method without clusters."""
        if self.sampler == "rusc":  # all classes together, so there is no threshold
            return "clusterer", "n_clusters"
        if self.labels == "true":  # the number of groups of true classes
            return ("n_clusters",)
        regroups = self.labels in ("regrouped", "shuffled", "random") or self.auxiliary == "clusters"
        return ("clusterer", "threshold", "n_clusters") if regroups else ()

    def clusterer_of(self, named: str) -> str:
        """Return the clusterer that is used where a spec has the named one; nothing for a method without clusters."""
        if self.labels == "random" and named not in BLIND_CLUSTERERS:
            return "random"
        return named if "clusterer" in self.cluster_options else ""


_MIXED: dict[str, Any] = {"labels": "mixed", "options": ("mixed_share",)}
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
    "rg-mixed-random": Method("true classes, mixed at random", mixed_by="random", **_MIXED),
    "rg-mixed-brightness": Method("true classes, mixed by brightness", mixed_by="brightness", **_MIXED),
    "rg-mixed-features": Method("true classes, mixed by clusters", mixed_by="features", **_MIXED),
}


@dataclass(frozen=True)
class TrainingLabels:
    """Training labels, int64 [n], and the class index of each label, int64 [K]."""

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
    """Return the labels that a method trains on.

    `features` [n, d] of the training images are needed by methods that cluster them. For `clusterer`, `threshold` and
    `n_clusters` see `Regrouping`, for `mixed_share` see `mixed_labels`.
    """
    labels = task.train.labels
    if method.labels == "task":
        return TrainingLabels(labels, np.arange(task.n_classes))
    if method.labels in ("true", "mixed"):
        if method.labels == "mixed":
            fine = mixed_labels(task, method.mixed_by, mixed_share, features=features, seed=seed)
        else:
            fine = task.train.fine_labels if n_clusters is None else _merged(task, n_clusters, seed)
        # Numbered class by class, as pseudo-classes are.
        pairs = np.stack([labels, fine], axis=1)
        found, numbers = np.unique(pairs, axis=0, return_inverse=True)
        return TrainingLabels(numbers.reshape(-1).astype(np.int64), found[:, 0].astype(np.int64))
    if method.labels == "random":
        clusterer = method.clusterer_of(clusterer)
        features = np.zeros((len(labels), 1), np.float32)
    regrouping = Regrouping(clusterer, threshold=threshold, n_clusters=n_clusters, random_state=seed)
    regrouping.fit(features, labels)
    pseudo_labels, rng = regrouping.pseudo_labels_, np.random.default_rng(seed)
    for c in np.unique(labels) if method.labels == "shuffled" else ():  # groups keep their sizes and lose their meaning
        pseudo_labels[labels == c] = rng.permutation(pseudo_labels[labels == c])
    return TrainingLabels(pseudo_labels, regrouping.parent_)


def _merged(task: Task, n_groups: int, seed: int) -> np.ndarray:
    """Return fine labels merged at random into `n_groups` per class of the task, equal to within one fine class."""
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
    """Return the true fine labels of a binary task, int64 [n], with a share of the rows of the majority re-assigned.

    The rows are drawn at random; a `share` of 1 is every negative. There are as many new groups as the majority has
    fine classes, and a row gets one ``"random"``, by the ``"brightness"`` of the image, or by its k-means cluster in
    the ``"features"`` [n, d] of the training images. So groups of the same purity differ in how easily a network
    learns them.
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


# From the sizes of the training classes and the options of a method; None is the training loop's own cross-entropy.
LOSSES: dict[str, Callable[..., nn.Module | None]] = {
    "ce": lambda counts, **of_the_labels: None,
    "wce": weighted_cross_entropy,
    "focal": lambda counts, gamma=2.0: FocalLoss(gamma),
    "la": LogitAdjustedLoss,
    "ldam": lambda counts, deferred=False, **margin: LDAMLoss(
        counts, **margin, deferred=DEFERRED if deferred else None
    ),
    "ap": lambda counts: APLoss(),
    "soap": lambda counts: SOAPLoss(int(sum(counts))),
}


def make_loss(name: str, class_counts: Sequence[int], **options: Any) -> nn.Module | None:
    """Build a loss of `LOSSES` for training classes (pseudo-classes when regrouped) of these sizes [K].

    The options are the loss's: `gamma`, `tau`, or `max_margin` and `deferred`; one that is None has its default.
    """
    return LOSSES[name](class_counts, **{key: value for key, value in options.items() if value is not None})


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
    """Build a sampler of `Method` from its name; ``"dsmt"`` shuffles, as its images have been added before.

    An undersampled set is repeated until an epoch has as many images as the full set: all methods but oversampling see
    equally many images and take equally many steps. RUSC clusters `features` [n, d]; the default number of clusters is
    that of regrouping.
    """
    if name == "stratified":
        return StratifiedBatches(labels, batch_size)
    if name == "ros":
        return ShuffledRows(random_oversampling(labels, seed=seed))
    rows = np.arange(len(labels))
    if name == "rus":
        rows = random_undersampling(labels, seed=seed)
    elif name == "rusc":
        n_clusters = n_clusters or sum(cluster_counts(np.bincount(labels)))
        rows = cluster_undersampling(features, labels, n_clusters=n_clusters, seed=seed, clusterer=clusterer)
    return ShuffledRows(rows, n_drawn=len(labels))
