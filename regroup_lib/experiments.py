"""A spec, run: `run` returns its record where there is one and makes it where there is none.

`sweeps.sweep` does that for many specs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import log_loss
from sklearn.metrics.cluster import contingency_matrix
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from regroup_lib import tables
from regroup_lib.checkpoints import History, remove_checkpoint
from regroup_lib.clusters import cluster_contents, describe_clusters, nearest_to_center
from regroup_lib.data import divided, load_data
from regroup_lib.dataset import SPLITS
from regroup_lib.deepsmote import deep_smote
from regroup_lib.diagnostics import diagnose
from regroup_lib.encoders import AutoencoderEncoder, Features, encode, make_encoder
from regroup_lib.files import results_directory, room_for
from regroup_lib.losses import AuxiliaryLoss
from regroup_lib.methods import METHODS, TrainingLabels, make_loss, make_sampler, training_labels
from regroup_lib.metrics import clustering_quality, evaluate, neighbor_accuracy, total_variation
from regroup_lib.models import TOKENIZERS, build_network
from regroup_lib.records import Record, checkpoint_path, is_whole, load_record, remove_leftovers, write_record
from regroup_lib.regroup import Regrouping, aggregate
from regroup_lib.samplers import Sampler
from regroup_lib.specs import AnySpec, EncoderSpec, LookSpec, Spec, TableSpec
from regroup_lib.tasks import Task, make_task
from regroup_lib.training import (
    Resident,
    ResidentFeatures,
    ResidentImages,
    ResidentTokens,
    TrainingOptions,
    predict,
    softmax,
    train,
)

EMBEDDED_POINTS = 2500  # test samples in a t-SNE plot
EXAMPLES = 6  # training samples nearest to a pseudo-class's centre that an encoder's record names
MANY_CLASSES = 20  # beyond it a record keeps decisions and each class's AP in the place of all scores
SHOWN_CLUSTERS = 12  # of the largest class: those whose images a record keeps where it does not keep all


class Busy(Exception):
    """Another process is running this spec, or computing the features that it needs."""


@dataclass(frozen=True)
class _Means:
    """What a run has beside its spec; the parameters of `run` say what they are."""

    data_dir: str | Path | None
    checkpoint: Path
    deadline: float | None
    wait: bool


def run(
    spec: AnySpec,
    *,
    results_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    recompute: bool = False,
    wait: bool = True,
    deadline: float | None = None,
) -> Record:
    """Return the record of a spec: from disk, or by running it.

    Parameters
    ----------
    spec : Spec, EncoderSpec, TableSpec or LookSpec
    results_dir, data_dir : path, optional
        Default ``REGROUP_RESULTS`` and ``REGROUP_DATA``.
    recompute : bool
        Run again and replace the record.
    wait : bool
        When another process runs the same spec, or computes its features: wait for it (True) or raise `Busy`.
    deadline : float, optional
        A `time.monotonic` after which no epoch is to end, see `train`.

    Returns
    -------
    Record

    Raises
    ------
    OutOfTime
        If the training stopped at its deadline: the same call goes on from there.

    Notes
    -----
    A lock that dies with its process keeps two processes off one spec. A training run that was killed goes on
    from the checkpoint of its last epoch.
    """
    path, root = spec.path(results_dir), results_directory(results_dir)
    checkpoint = checkpoint_path(spec, results_dir)
    if path.exists() and not recompute and not checkpoint.exists():
        return load_record(path)
    with room_for(root):
        (root / ".locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".locks" / f"{spec.key}.lock", timeout=-1 if wait else 0)
    try:
        with lock:
            # Written while this process waited, or just before another was killed.
            if not recompute and is_whole(path):
                remove_leftovers(path, checkpoint)
                return load_record(path)
            if recompute:
                remove_checkpoint(checkpoint)
            if spec.kind == "table":
                record, arrays = _run_table(spec, data_dir)
            else:
                others = {"training": _run_training, "encoder": _run_encoder, "look": _run_look}
                record, arrays = others[spec.kind](spec, _Means(data_dir, checkpoint, deadline, wait))
            write_record(record, arrays, path)
            remove_leftovers(path, checkpoint)
            return record
    except Timeout as error:
        raise Busy(f"{spec.label} (seed {spec.seed}) of {spec.task} is run by another process") from error


def _run_training(spec: Spec, means: _Means) -> tuple[Record, dict[str, np.ndarray]]:
    seconds: dict[str, float] = {}
    task = _task_of(
        spec,
        means.data_dir,
        seed=spec.seed,
        validation_fraction=spec.validation_fraction,
        imbalance=spec.imbalance,
        split=spec.split,
    )
    features: dict[str, np.ndarray] = {}
    if METHODS[spec.method].needs_encoder:
        encoded = _encoded(spec, task, means)
        features, seconds["encode"] = _features_of(task, encoded), encoded.seconds
    with _timed(seconds, "regroup"):
        labels = training_labels(
            task,
            METHODS[spec.method],
            features=features.get("train"),
            clusterer=spec.clusterer,
            threshold=spec.threshold,
            n_clusters=_by_class(spec.n_clusters, task),
            mixed_share=spec.mixed_share,
            seed=spec.seed,
        )
        auxiliary = _auxiliary_targets(spec, task, features)
    with _timed(seconds, "resample"):
        training = _training_set(spec, task, labels, features)
    if spec.network in FROZEN_ESTIMATORS:
        trainer = _FrozenTrainer(spec, task, labels, features)
    else:
        trainer = _Trainer(spec, task, labels, training, features, auxiliary)
    history = trainer.train(means.checkpoint, means.deadline)
    seconds["train"] = history.seconds
    with _timed(seconds, "evaluate"):
        metrics, arrays = _measure(trainer, history)
    seconds["evaluate"] += sum(t.get("evaluate_seconds", 0) for t in history.traces)
    record = Record(
        spec=spec,
        status=history.status,
        metrics=metrics,
        traces=history.traces,
        regrouping=_describe(task, labels),
        seconds=seconds,
        data_digest=task.dataset.digest,
    )
    return record, arrays


def _auxiliary_targets(spec: Spec, task: Task, features: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return what a second head learns: clusters int64 [n], features float32 [n, d], or None."""
    kind = METHODS[spec.method].auxiliary
    if kind == "features":
        return features["train"].astype(np.float32)
    if kind is None:
        return None
    n_clusters = _by_class(spec.n_clusters, task)
    regrouping = Regrouping(spec.clusterer, threshold=spec.threshold, n_clusters=n_clusters, random_state=spec.seed)
    return regrouping.fit(features["train"], task.train.labels).pseudo_labels_


def _task_of(spec: Spec | EncoderSpec | LookSpec, data_dir: str | Path | None, **options: Any) -> Task:
    """Return the task of a spec, on a named data set or on the user's own."""
    if spec.own is None:
        return make_task(spec.task, data_dir=data_dir, image_size=spec.image_size, **options)
    dataset = spec.own.verified(data_dir=data_dir, image_size=spec.image_size)
    return make_task(dataset, positive=spec.own.positive, **options)


def _by_class(n_clusters: Any, task: Task) -> int | dict[int, int] | None:
    """Return the clusters of a spec with class indices in place of names."""
    if not isinstance(n_clusters, tuple):
        return n_clusters
    return {task.class_names.index(name): number for name, number in n_clusters}


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def _encoded(spec: Spec | EncoderSpec | LookSpec, task: Task, means: _Means) -> Features:
    """Return the encoded data set of a task."""
    encoder = make_encoder(spec.encoder, data_dir=means.data_dir, epochs=getattr(spec, "encoder_epochs", None))
    dataset = task.dataset
    if spec.image_size and encoder.image_size:
        # Images decoded from files reach a pre-trained encoder at its own size, not at the network's.
        load = load_data if spec.own is None else lambda name, **options: spec.own.load(**options)
        dataset = load(dataset.name, data_dir=means.data_dir, image_size=encoder.image_size)
        dataset = divided(dataset, getattr(spec, "split", "published"))
    options = {"checkpoint_dir": means.checkpoint.parent, "deadline": means.deadline, "wait": means.wait}
    try:
        return encode(dataset, encoder, data_dir=means.data_dir, **options)
    except Timeout as error:
        raise Busy(f"the features of {dataset.name} by {spec.encoder} are computed by another process") from error


def _features_of(task: Task, encoded: Features) -> dict[str, np.ndarray]:
    """Return the features of each split of the task."""
    sources = {"train": "train", "val": "val" if "val" in encoded.splits else "train", "test": "test"}
    return {part: encoded.splits[source][getattr(task, part).index] for part, source in sources.items()}


@dataclass(frozen=True)
class _TrainingSet:
    """What the loop goes through: images, features or tokens, their labels, and the order of rows."""

    inputs: Resident
    labels: np.ndarray
    sampler: Sampler


def _resident(spec: Spec, rows: np.ndarray, training: Resident | None = None) -> Resident:
    """Return images, features or sentences on the device, prepared as the training rows were; None: these are they."""
    if METHODS[spec.method].features:
        return ResidentFeatures(rows)
    if spec.network in TOKENIZERS:
        return ResidentTokens(rows, TOKENIZERS[spec.network]().fit(rows) if training is None else training.tokenizer)
    return ResidentImages(rows, statistics=training)


def _training_set(spec: Spec, task: Task, labels: TrainingLabels, features: dict[str, np.ndarray]) -> _TrainingSet:
    method, targets = METHODS[spec.method], labels.labels
    inputs = _resident(spec, features["train"] if method.features else task.train.inputs)
    if method.sampler == "dsmt":
        images, added = deep_smote(task.train.inputs, targets, seed=spec.seed)
        inputs = _resident(spec, np.concatenate([task.train.inputs, images]), inputs)
        targets = np.concatenate([targets, added])
    sampler = make_sampler(
        method.sampler,
        targets,
        batch_size=spec.batch_size,
        seed=spec.seed,
        features=features.get("train"),
        clusterer=spec.clusterer,
        n_clusters=spec.n_clusters,
    )
    return _TrainingSet(inputs, targets, sampler)


class _Trainer:
    """One network with its loss, trained on a training set and measured on the task's splits."""

    def __init__(
        self,
        spec: Spec,
        task: Task,
        labels: TrainingLabels,
        training: _TrainingSet,
        features: dict[str, np.ndarray],
        auxiliary: np.ndarray | None,
    ):
        self.spec, self.task, self.labels, self.training = spec, task, labels, training
        method = METHODS[spec.method]
        inputs = features if method.features else {name: getattr(task, name).inputs for name in SPLITS}
        held_out = [name for name in ("val", "test") if len(getattr(task, name))]
        self.resident = {name: _resident(spec, inputs[name], training.inputs) for name in held_out}
        self.sample = self._variation_sample()
        self.sampled = _resident(spec, inputs["train"][self.sample], training.inputs)
        width, n_classes = training.inputs.width, len(labels.parent)
        if auxiliary is not None:  # the second head's outputs stand behind the first's
            n_classes += auxiliary.shape[1] if auxiliary.ndim == 2 else int(auxiliary.max()) + 1
        self.network = build_network(
            spec.network,
            in_channels=width,
            n_classes=n_classes,
            seed=spec.seed,
            head=method.head,
        )
        if auxiliary is not None:
            self.loss = AuxiliaryLoss(len(labels.parent), auxiliary, spec.auxiliary_weight or 1.0)
            return
        self.loss = make_loss(
            method.loss,
            np.bincount(training.labels),
            gamma=spec.gamma,
            tau=spec.tau,
            max_margin=spec.max_margin,
            deferred=spec.deferred,
        )

    def _variation_sample(self) -> np.ndarray:
        """Return the training rows whose total variation is traced: the same for every method, epoch and seed."""
        n, fine = self.spec.variation_samples, self.task.train.fine_labels
        if 0 < n < len(fine):
            return train_test_split(np.arange(len(fine)), train_size=n, random_state=0, stratify=fine)[0]
        return np.arange(len(fine) if n else 0)

    def train(self, checkpoint: Path, deadline: float | None) -> History:
        """Train the network, measuring it after each epoch."""
        names = TrainingOptions.__dataclass_fields__
        return train(
            self.network,
            self.training.inputs,
            self.training.labels,
            options=TrainingOptions(**{k: v for k, v in self.spec.model_dump().items() if k in names}),
            seed=self.spec.seed,
            loss=self.loss,
            sampler=self.training.sampler,
            on_epoch=self.trace,
            checkpoint=checkpoint,
            deadline=deadline,
            description=f"{self.spec.label} s{self.spec.seed}",
        )

    def scores(self, part: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return class scores by rule, and penultimate features, of a split."""
        logits, features = predict(self.network, self.resident[part])
        logits = logits[:, : len(self.labels.parent)]
        # LDAM learns `scale` times its logits.
        return _scores(logits * getattr(self.loss, "scale", 1.0), self.labels.parent), features

    def trace(self, network: torch.nn.Module, epoch: int) -> dict[str, Any]:
        """Measure the network after an epoch."""
        start = time.perf_counter()
        trace: dict[str, Any] = {}
        for part in self.resident:
            if part == "test" and not self.spec.trace_test:
                continue
            truth = getattr(self.task, part).labels
            for rule, scores in self.scores(part)[0].items():
                if np.isfinite(scores).all():
                    trace |= {f"{part}_{rule}_{k}": v for k, v in summary(evaluate(truth, scores)).items()}
        if len(self.sample):
            _, features = predict(network, self.sampled)
            trained, fine = self.training.labels[self.sample], self.task.train.fine_labels[self.sample]
            trace["variation"] = total_variation(features, trained).tolist()
            trace["variation_fine"] = total_variation(features, fine).tolist()
        return trace | {"evaluate_seconds": time.perf_counter() - start}


FROZEN_ESTIMATORS: dict[str, list[Any]] = {
    # The first is the default where nothing is held out to choose on.
    "logreg": [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500)) for c in (1e-2, 1e-3, 1e-1, 1.0)],
    "knn": [KNeighborsClassifier(k, weights="distance", metric="cosine") for k in (20, 5, 100)],
}


class _FrozenTrainer:
    """A scikit-learn classifier on an encoder's features, chosen among a few by its validation AP."""

    def __init__(self, spec: Spec, task: Task, labels: TrainingLabels, features: dict[str, np.ndarray]):
        self.spec, self.task, self.labels, self.features = spec, task, labels, features
        self.resident = {part: features[part] for part in ("val", "test") if len(features[part])}

    def train(self, checkpoint: Path, deadline: float | None) -> History:
        """Fit each candidate and keep the best; it is quick, so there is no checkpoint."""
        start, best = time.perf_counter(), -np.inf
        for candidate in FROZEN_ESTIMATORS[self.spec.network][: None if "val" in self.resident else 1]:
            fitted = clone(candidate).fit(self.features["train"], self.labels.labels)
            held_out = "val" if "val" in self.resident else "test"
            scores = fitted.predict_proba(self.features[held_out])
            reached = summary(evaluate(getattr(self.task, held_out).labels, scores))["average_precision"]
            if reached > best:
                self.estimator, best = fitted, reached
        some = slice(2000)  # neighbors of all training rows among all would take longer than the rest
        probabilities = self.estimator.predict_proba(self.features["train"][some])
        loss = log_loss(self.labels.labels[some], probabilities, labels=self.estimator.classes_)
        trace = {"epoch": 1, "train_loss": float(loss), "images": len(self.labels.labels)}
        return History(traces=[trace | {"seconds": time.perf_counter() - start}])

    def scores(self, part: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return class scores by rule, and the features, of a split."""
        logits = np.log(np.maximum(self.estimator.predict_proba(self.features[part]), 1e-12))
        return _scores(logits, self.labels.parent), self.features[part]


def _describe(task: Task, labels: TrainingLabels) -> dict[str, Any]:
    described = {"parent": labels.parent.tolist(), "counts": np.bincount(labels.labels).tolist()}
    divided = np.isin(labels.parent, np.flatnonzero(np.bincount(labels.parent) > 1))
    rows = divided[labels.labels]
    # Where the data set has no finer classes than the task, all clusters would be pure.
    if rows.any() and len(task.fine_class_names) > task.n_classes:
        described |= clustering_quality(task.train.fine_labels[rows], labels.labels[rows])
    return described


def _scores(logits: np.ndarray, parent: np.ndarray) -> dict[str, np.ndarray]:
    """Return class scores a rule, as they are kept: float32 [n, C], in a binary task the positive column [n]."""
    probabilities = softmax(logits)
    if len(parent) == int(parent.max()) + 1:
        scores = {"none": probabilities}
    else:
        scores = {rule: aggregate(probabilities, parent, rule) for rule in ("max", "sum")}
    binary = int(parent.max()) == 1
    return {rule: (s[:, 1] if binary else s).astype(np.float32) for rule, s in scores.items()}


def summary(result: dict[str, Any]) -> dict[str, float]:
    """Return balanced accuracy and the average precisions of an `evaluate` result as single numbers.

    In a binary task they are the positive class's, in a multiclass one the unweighted mean over classes.
    """
    numbers = {"balanced_accuracy": result["balanced_accuracy"]}
    for name in ("average_precision", "calibrated_average_precision"):
        values = list(result[name].values())
        numbers[name] = values[1] if len(values) == 2 else float(np.mean(values))
    return numbers


def _measure(trainer: _Trainer, history: History) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    spec, task = trainer.spec, trainer.task
    metrics: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {"test_labels": task.test.labels.astype(np.uint8)}
    if spec.split == "image":
        lesions = task.dataset.metadata
        arrays["test_in_training"] = np.isin(lesions["test"]["lesion_id"], lesions["train"]["lesion_id"])
    if history.status != "finished":
        return metrics, arrays
    for part in trainer.resident:
        truth = getattr(task, part).labels
        by_rule, features = trainer.scores(part)
        for rule, scores in by_rule.items():
            result = evaluate(truth, scores, task.class_names)
            metrics.setdefault(rule, {})[part] = result | {"summary": summary(result)}
            if task.n_classes > MANY_CLASSES:
                arrays[f"{part}_predictions_{rule}"] = scores.argmax(axis=1).astype(np.uint8)
            else:
                arrays[f"{part}_scores_{rule}"] = scores
        if part == "val":
            arrays["val_labels"] = truth.astype(np.uint8)
    if spec.embedding:
        # The last split is the test split: its features are at hand.
        fine = task.test.fine_labels
        metrics_of_space = {"neighbor_accuracy": neighbor_accuracy(features, fine)}
        for rule in metrics:
            metrics[rule]["test"] |= metrics_of_space
        points, position = _embed(features, fine)
        arrays |= {"embedding": position, "embedding_labels": fine[points].astype(np.uint8)}
    return metrics, arrays


def embedded_rows(fine_labels: np.ndarray) -> np.ndarray:
    """Return the test rows in a t-SNE plot, ascending: the same for every encoder and network."""
    rows = np.arange(len(fine_labels))
    if len(rows) <= EMBEDDED_POINTS:
        return rows
    return np.sort(train_test_split(rows, train_size=EMBEDDED_POINTS, random_state=0, stratify=fine_labels)[0])


def _embed(features: np.ndarray, fine_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows in the plot and their t-SNE positions [m, 2]."""
    rows = embedded_rows(fine_labels)
    chosen = features[rows]
    position = TSNE(perplexity=30, init="pca", random_state=0).fit_transform(chosen.astype(np.float32))
    return rows, position.astype(np.float32)


def _run_encoder(spec: EncoderSpec, means: _Means) -> tuple[Record, dict[str, np.ndarray]]:
    task = _task_of(spec, means.data_dir, validation_fraction=0)
    encoded = _encoded(spec, task, means)
    features = _features_of(task, encoded)
    start = time.perf_counter()
    labels = training_labels(
        task,
        METHODS["rg"],
        features=features["train"],
        threshold=spec.threshold,
        seed=spec.seed,
    )
    seconds = {"encode": encoded.seconds, "regroup": time.perf_counter() - start}
    described = _describe(task, labels)
    metrics: dict[str, Any] = {name: described.pop(name) for name in ("purity", "nmi", "ari") if name in described}
    metrics["neighbor_accuracy"] = neighbor_accuracy(features["test"], task.test.fine_labels)
    rows, position = _embed(features["test"], task.test.fine_labels)
    arrays = {"embedding": position, "embedding_labels": task.test.fine_labels[rows].astype(np.uint8)}
    if task.dataset.is_text:
        # Rows and words, no sentences: their licence may not let them be copied into a record.
        clusters = describe_clusters(task.train.inputs, features["train"], labels.labels, n_nearest=EXAMPLES)
        described["terms"] = [list(cluster.terms) for cluster in clusters]
        described["fine_counts"] = contingency_matrix(labels.labels, task.train.fine_labels).tolist()
        arrays["example_rows"] = np.stack([np.resize(cluster.rows, EXAMPLES) for cluster in clusters])
    elif task.n_classes == 2:
        arrays["examples"] = _examples(task, labels, features["train"], range(len(labels.parent)), n=EXAMPLES)
    else:
        metrics["contents"] = _contents(task, labels)
        shown = _largest_clusters(labels, task.class_counts.index(max(task.class_counts)))
        arrays["examples"] = _examples(task, labels, features["train"], shown, n=8)
        arrays["example_clusters"] = np.array(shown)
    arrays |= _reconstructions(task, encoded)
    record = Record(
        spec=spec,
        status="finished",
        metrics=metrics,
        regrouping=described | {"label": encoded.encoder.label, "dimension": int(features["train"].shape[1])},
        seconds=seconds,
        data_digest=task.dataset.digest,
    )
    return record, arrays


def _run_table(spec: TableSpec, data_dir: str | Path | None) -> tuple[Record, dict[str, np.ndarray]]:
    if spec.own is None:
        table = tables.load_table(spec.task, data_dir=data_dir)
    else:
        table = tables.table_of(spec.own.verified(data_dir=data_dir), spec.own.positive)
    options = ("method", "estimator", "seed", "imbalance", "threshold", "encoder")
    result = tables.out_of_fold(table, **{name: getattr(spec, name) for name in options})
    arrays = {"test_labels": table.labels.astype(np.uint8), "folds": result.folds}
    arrays |= {f"test_scores_{rule}": scores for rule, scores in result.scores.items()}
    record = Record(
        spec=spec,
        status="not applicable" if result.reason else "finished",
        metrics={
            rule: {"test": tables.measure_folds(table.labels, result.folds, scores)}
            for rule, scores in result.scores.items()
        },
        regrouping=result.regrouping,
        seconds=result.seconds,
        data_digest=table.digest,
        reason=result.reason,
    )
    return record, arrays


def _run_look(spec: LookSpec, means: _Means) -> tuple[Record, dict[str, np.ndarray]]:
    task = _task_of(spec, means.data_dir, validation_fraction=0)
    start, notes = time.perf_counter(), list(task.dataset.notes)
    if task.dataset.is_table:
        # All rows, as all of them train in some fold of the cross-validation.
        columns, names = tables.prepared(pd.concat([split.inputs for split in task.dataset.splits.values()]))
        features = tables.ENCODERS[spec.encoder]().fit_transform(columns) if spec.encoder else columns
        fine = np.concatenate([split.labels for split in task.dataset.splits.values()])
    else:
        encoded = _encoded(spec, task, means)
        features, names = _features_of(task, encoded)["train"], []
        notes += encoded.encoder.notes
        fine = task.train.fine_labels
    labels, diagnosis = _diagnosed(spec, features, fine)
    shown = [*_largest_clusters(labels, 0), *_largest_clusters(labels, 1)]
    if task.dataset.is_table:
        arrays = {"centers": np.stack([columns[labels.labels == k].mean(axis=0) for k in shown]).astype(np.float32)}
    else:
        arrays = {"examples": _examples(task, labels, features, shown, n=8)}
    dataset = task.dataset
    counts = {part: dict(zip(spec.own.classes, dataset.class_counts(part), strict=True)) for part in dataset.splits}
    record = Record(
        spec=spec,
        status="finished",
        metrics={"class_counts": counts, "notes": notes, "diagnosis": diagnosis, "columns": names},
        regrouping={"parent": labels.parent.tolist(), "counts": np.bincount(labels.labels).tolist()},
        seconds={"look": time.perf_counter() - start},
        data_digest=dataset.digest,
    )
    return record, arrays | {"shown": np.array(shown)}


def _diagnosed(
    spec: LookSpec, features: np.ndarray, fine_labels: np.ndarray
) -> tuple[TrainingLabels, list[dict[str, Any]]]:
    """Return the pseudo-classes of a look, and what `diagnose` says of each class that is divided."""
    labels = (fine_labels == spec.own.classes.index(spec.own.positive)).astype(np.int64)
    diagnosis = diagnose(
        features,
        np.array(spec.class_names)[labels],
        regrouping=Regrouping(threshold=spec.threshold),
        sub_labels=fine_labels if len(spec.own.classes) > 2 else None,
        seed=spec.seed,
    )
    regrouping = diagnosis.regrouping  # its classes are in the order of their names, the task's are not
    classes = np.array([spec.class_names.index(name) for name in regrouping.classes_.tolist()])
    rows = diagnosis.classes.reset_index().to_dict("records")
    return TrainingLabels(regrouping.pseudo_labels_, classes[regrouping.parent_]), rows


def _largest_clusters(labels: TrainingLabels, parent: int) -> list[int]:
    """Return the pseudo-classes of a class that are shown, the largest first."""
    counts = np.bincount(labels.labels)
    members = np.flatnonzero(labels.parent == parent)
    return members[np.argsort(-counts[members], kind="stable")][:SHOWN_CLUSTERS].tolist()


def _examples(
    task: Task, labels: TrainingLabels, features: np.ndarray, clusters: Iterable[int], *, n: int
) -> np.ndarray:
    """Return the images nearest the centres of the given pseudo-classes, uint8 [K, n, h, w, c]."""
    nearest = []
    for k in clusters:
        order = nearest_to_center(features, np.flatnonzero(labels.labels == k))
        nearest.append(task.train.inputs[np.resize(order, n)])
    return np.stack(nearest)


def _contents(task: Task, labels: TrainingLabels) -> dict[str, Any]:
    """Return what the clusters of the largest class have to do with what else is known of its images."""
    largest = task.class_counts.index(max(task.class_counts))
    rows = np.flatnonzero(task.train.labels == largest)
    known = (task.dataset.metadata or {}).get("train", {})
    columns = {name: values[task.train.index][rows] for name, values in known.items()}
    return cluster_contents(labels.labels[rows], task.train.inputs[rows], columns)


def _reconstructions(task: Task, encoded: Features) -> dict[str, np.ndarray]:
    """Return one test image of each fine class and what the autoencoder makes of it, and the errors of all test images.

    ``squared_errors`` and ``squared_deviations`` are sums over an image's values, in units of the pixel range: to its
    reconstruction, and to the mean color of the test set.
    """
    if not isinstance(encoded.encoder, AutoencoderEncoder):
        return {}
    images = task.test.inputs
    _, first = np.unique(task.test.fine_labels, return_index=True)
    made = np.concatenate([encoded.encoder.reconstruct(images[i : i + 1000]) for i in range(0, len(images), 1000)])
    mean = images.mean(axis=(0, 1, 2))
    squared = {
        "squared_errors": [((a / 255 - b / 255) ** 2).sum() for a, b in zip(images, made, strict=True)],
        "squared_deviations": [((image / 255 - mean / 255) ** 2).sum() for image in images],
    }
    shown = {"originals": images[first[:10]], "reconstructions": made[first[:10]]}
    return shown | {name: np.array(values, np.float32) for name, values in squared.items()}
