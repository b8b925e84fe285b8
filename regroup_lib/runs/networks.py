"""Runs that train a classifier: a network on images, features or text, and a cross-validated one on a table."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from regroup_lib.data import bundled_tables
from regroup_lib.data.dataset import SPLITS
from regroup_lib.data.tasks import Task
from regroup_lib.metrics import evaluate, neighbor_accuracy, total_variation
from regroup_lib.nn.checkpoints import History
from regroup_lib.nn.deepsmote import deep_smote
from regroup_lib.nn.losses import AuxiliaryLoss
from regroup_lib.nn.models import TOKENIZERS, build_network
from regroup_lib.nn.samplers import Sampler
from regroup_lib.nn.training import (
    Resident,
    ResidentFeatures,
    ResidentImages,
    ResidentTokens,
    TrainingOptions,
    predict,
    softmax,
    train,
)
from regroup_lib.regroup import aggregate
from regroup_lib.runs import NOT_AGGREGATED, rules_of, table_methods
from regroup_lib.runs.looks import _embed
from regroup_lib.runs.methods import METHODS, TrainingLabels, make_loss, make_sampler, training_labels
from regroup_lib.runs.prepare import _by_class, _describe, _encoded, _features_of, _Means, _task_of, _timed
from regroup_lib.runs.records import Record
from regroup_lib.runs.specs import Spec, TableSpec

MANY_CLASSES = 20  # with more, a record keeps decisions and each class's AP instead of all scores


def _run_training(spec: Spec, means: _Means) -> tuple[Record, dict[str, np.ndarray]]:
    seconds: dict[str, float] = {}
    trainer = make_trainer(spec, means, seconds)
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
        regrouping=_describe(trainer.task, trainer.labels),
        seconds=seconds,
        data_digest=trainer.task.dataset.digest,
    )
    return record, arrays


def make_trainer(spec: Spec, means: _Means, seconds: dict[str, float]) -> _Trainer | _FrozenTrainer:
    """Return the classifier of a run, ready to be trained; the time of each step is added to `seconds`."""
    options = {name: getattr(spec, name) for name in ("seed", "validation_fraction", "imbalance", "split")}
    task = _task_of(spec, means.data_dir, **options)
    features: dict[str, np.ndarray] = {}
    if METHODS[spec.method].needs_encoder:
        encoded = _encoded(spec, task, means)
        features, seconds["encode"] = _features_of(task, encoded), encoded.seconds
    options = {"clusterer": spec.clusterer, "threshold": spec.threshold, "n_clusters": _by_class(spec.n_clusters, task)}
    options |= {"features": features.get("train"), "mixed_share": spec.mixed_share, "seed": spec.seed}
    with _timed(seconds, "regroup"):
        labels = training_labels(task, METHODS[spec.method], **options)
        auxiliary = None  # targets of a second head: clusters int64 [n], or features float32 [n, d]
        if METHODS[spec.method].auxiliary == "features":
            auxiliary = features["train"].astype(np.float32)
        elif METHODS[spec.method].auxiliary == "clusters":
            auxiliary = training_labels(task, METHODS["rg"], **options).labels
    with _timed(seconds, "resample"):
        training = _training_set(spec, task, labels, features)
    if spec.network in FROZEN_ESTIMATORS:
        return _FrozenTrainer(spec, task, labels, features)
    return _Trainer(spec, task, labels, training, features, auxiliary)


@dataclass(frozen=True)
class _TrainingSet:
    """Inputs of the training loop: images, features or tokens, their labels, and the order of rows."""

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
    options = {name: getattr(spec, name) for name in ("batch_size", "seed", "clusterer", "n_clusters")}
    sampler = make_sampler(method.sampler, targets, features=features.get("train"), **options)
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
        if auxiliary is not None:  # the second head's outputs follow the first's
            n_classes += auxiliary.shape[1] if auxiliary.ndim == 2 else int(auxiliary.max()) + 1
        self.network = build_network(
            spec.network, in_channels=width, n_classes=n_classes, seed=spec.seed, head=method.head
        )
        if auxiliary is not None:
            self.loss = AuxiliaryLoss(len(labels.parent), auxiliary, spec.auxiliary_weight or 1.0)
            return
        options = {name: getattr(spec, name) for name in method.options}
        self.loss = make_loss(method.loss, np.bincount(training.labels), **options)

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
    # The first is the default if there is no validation split.
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
        some = slice(2000)  # neighbors of all training rows would take longer than everything else
        probabilities = self.estimator.predict_proba(self.features["train"][some])
        loss = log_loss(self.labels.labels[some], probabilities, labels=self.estimator.classes_)
        trace = {"epoch": 1, "train_loss": float(loss), "images": len(self.labels.labels)}
        return History(traces=[trace | {"seconds": time.perf_counter() - start}])

    def scores(self, part: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return class scores by rule, and the features, of a split."""
        logits = np.log(np.maximum(self.estimator.predict_proba(self.features[part]), 1e-12))
        return _scores(logits, self.labels.parent), self.features[part]


def _scores(logits: np.ndarray, parent: np.ndarray) -> dict[str, np.ndarray]:
    """Return class scores by rule, as they are recorded: float32 [n, C], in a binary task the positive column [n]."""
    probabilities = softmax(logits)
    scores = {}
    for rule in rules_of(parent):
        by_class = probabilities if rule == NOT_AGGREGATED else aggregate(probabilities, parent, rule)
        scores[rule] = (by_class[:, 1] if by_class.shape[1] == 2 else by_class).astype(np.float32)
    return scores


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
        arrays[f"{part}_labels"] = truth.astype(np.uint8)
        by_rule, features = trainer.scores(part)
        for rule, scores in by_rule.items():
            result = evaluate(truth, scores, task.class_names)
            metrics.setdefault(rule, {})[part] = result | {"summary": summary(result)}
            if task.n_classes > MANY_CLASSES:
                arrays[f"{part}_predictions_{rule}"] = scores.argmax(axis=1).astype(np.uint8)
            else:
                arrays[f"{part}_scores_{rule}"] = scores
    if spec.embedding:
        # `features` are those of the test split, the last one.
        fine = task.test.fine_labels
        agreeing = neighbor_accuracy(features, fine)
        for by_part in metrics.values():
            by_part["test"]["neighbor_accuracy"] = agreeing
        points, position = _embed(features, fine)
        arrays |= {"embedding": position, "embedding_labels": fine[points].astype(np.uint8)}
    return metrics, arrays


def _run_table(spec: TableSpec, means: _Means) -> tuple[Record, dict[str, np.ndarray]]:
    if spec.own is None:
        table = bundled_tables.load_table(spec.task, data_dir=means.data_dir)
    else:
        table = bundled_tables.table_of(spec.own.verified(data_dir=means.data_dir), spec.own.positive)
    options = ("method", "estimator", "seed", "imbalance", "threshold", "encoder")
    result = table_methods.out_of_fold(table, **{name: getattr(spec, name) for name in options})
    arrays = {"test_labels": table.labels.astype(np.uint8), "folds": result.folds}
    arrays |= {f"test_scores_{rule}": scores for rule, scores in result.scores.items()}
    record = Record(
        spec=spec,
        status="not applicable" if result.reason else "finished",
        metrics={
            rule: {"test": table_methods.measure_folds(table.labels, result.folds, scores)}
            for rule, scores in result.scores.items()
        },
        regrouping=result.regrouping,
        seconds=result.seconds,
        data_digest=table.digest,
        reason=result.reason,
    )
    return record, arrays
