"""Methods against imbalance for classifiers of tables, and their out-of-fold scores.

A task names a source and the positive class (``"wine-1"``); all other rows are negative. Whatever learns from data
(filling in, scaling, resampling, clustering, the classifier) is fitted inside the training folds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from imblearn.ensemble import BalancedRandomForestClassifier, EasyEnsembleClassifier
from imblearn.over_sampling import SMOTE, KMeansSMOTE, RandomOverSampler
from imblearn.under_sampling import ClusterCentroids
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from regroup_lib.data.bundled_tables import Table
from regroup_lib.data.dataset import split_by_group
from regroup_lib.data.tasks import fewer_positives
from regroup_lib.diagnostics import diagnose
from regroup_lib.estimator import RegroupClassifier
from regroup_lib.metrics import evaluate
from regroup_lib.runs import NOT_AGGREGATED

N_TREES = 100
N_FOLDS = 5
MAX_CATEGORIES = 50  # of a column of text: thousands of indicators would fill the memory
NEIGHBORS = 5
MANY_ROWS = 50_000  # of training; below, a fit takes one thread


# ---------------------------------------------------------------- classifiers and methods

ESTIMATORS: dict[str, Callable[[int], Any]] = {
    "logreg": lambda seed: LogisticRegression(max_iter=1000),
    "forest": lambda seed: RandomForestClassifier(N_TREES, random_state=seed),
    # Half of scikit-learn's rounds and leaves, because a round grows one tree per pseudo-class. The rate is not
    # higher, because boosting with many pseudo-classes would diverge.
    "boosting": lambda seed: HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=15, random_state=seed),
}
ESTIMATOR_TITLES = {"logreg": "logistic regression", "forest": "random forest", "boosting": "gradient boosting"}


@dataclass(frozen=True)
class TableMethod:
    """A treatment of imbalance."""

    title: str  # in tables and figures
    sampler: str | None = None  # a key of `RESAMPLERS`
    weighted: bool = False  # whether training classes weigh the same
    clusterer: str | None = None  # of a method that regroups
    n_clusters: str | None = None  # "auto": see `RegroupClassifier`
    estimators: tuple[str, ...] = tuple(ESTIMATORS)  # those that it goes with

    @property
    def rules(self) -> tuple[str, ...]:
        """The aggregation rules to measure; the automatic choice of clusters is made for the first alone."""
        if self.clusterer is None:
            return (NOT_AGGREGATED,)
        return ("max",) if self.n_clusters == "auto" else ("max", "sum")


METHODS = {
    "plain": TableMethod("plain"),
    "weights": TableMethod("class weights", weighted=True),
    "ros": TableMethod("ROS", sampler="ros"),
    "smote": TableMethod("SMOTE", sampler="smote"),
    "kmeans-smote": TableMethod("KMeansSMOTE", sampler="kmeans-smote"),
    "cluster-centroids": TableMethod("ClusterCentroids", sampler="cluster-centroids"),
    "balanced-forest": TableMethod("balanced forest", estimators=("forest",)),
    "easy-ensemble": TableMethod("EasyEnsemble", estimators=("boosting",)),  # boosted trees on undersampled sets
    "rg": TableMethod("RG", clusterer="kmeans"),
    # Not with boosting, where the search costs about a hundred plain fits.
    "rg-auto": TableMethod("RG, K chosen", clusterer="kmeans", n_clusters="auto", estimators=("logreg", "forest")),
    "rg-weights": TableMethod("RG + weights", weighted=True, clusterer="kmeans"),
    "rg-random": TableMethod("random groups", clusterer="random-equal"),
}


RESAMPLERS: dict[str, Callable[[int, int], Any]] = {
    "ros": lambda n_positives, seed: RandomOverSampler(random_state=seed),
    # The usual five neighbors, or all there are.
    "smote": lambda n_positives, seed: SMOTE(k_neighbors=min(5, n_positives - 1), random_state=seed),
    "kmeans-smote": lambda n_positives, seed: KMeansSMOTE(random_state=seed),
    "cluster-centroids": lambda n_positives, seed: ClusterCentroids(random_state=seed),
}


class NotApplicable(Exception):
    """A method cannot be used on these data; the message is the reason."""


def resample(name: str, X: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and labels that a resampler makes of training data.

    It is NotApplicable where it refuses them, as KMeansSMOTE does if no cluster holds enough of the minority.
    """
    try:
        return RESAMPLERS[name](int(y.sum()), seed).fit_resample(X, y)
    except (RuntimeError, ValueError) as error:
        raise NotApplicable(str(error).split(". ")[0]) from error


def make_preparation() -> ColumnTransformer:
    """Return the transformer that every method shares: numbers filled in and scaled, categories as indicators.

    The rarest of more than `MAX_CATEGORIES` in a column share one indicator.
    """
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (
            OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES, sparse_output=False),
            make_column_selector(dtype_exclude="number"),
        ),
    )


def prepared(frame: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Return a table's rows as `make_preparation` makes them, float64 [n, m], and the names of these columns."""
    preparation = make_preparation()
    columns = np.asarray(preparation.fit_transform(frame))
    return columns, [name.split("__", 1)[1] for name in preparation.get_feature_names_out()]


# Features that are clustered instead of the prepared columns, which the classifier still sees.
ENCODERS: dict[str, Callable[[], Any]] = {
    # The directions with nine tenths of the variance, so that redundant columns count once.
    "pca": lambda: PCA(0.9, svd_solver="full"),
}


def make_model(
    method: str, estimator: str, *, seed: int, threshold: float | None = None, encoder: str | None = None
) -> Any:
    """Return the unfitted classifier of a method, by keys of `METHODS`, `ESTIMATORS` and `ENCODERS`.

    Without an encoder the columns themselves are clustered. For `threshold` see `RegroupClassifier`.
    """
    chosen = METHODS[method]
    if method == "balanced-forest":
        return BalancedRandomForestClassifier(N_TREES, random_state=seed)
    if method == "easy-ensemble":
        return EasyEnsembleClassifier(random_state=seed)
    model = ESTIMATORS[estimator](seed)
    if chosen.weighted:
        model.set_params(class_weight="balanced")
    if chosen.clusterer is None:
        return model
    return RegroupClassifier(
        model,
        clusterer=chosen.clusterer,
        n_clusters=chosen.n_clusters,
        threshold=threshold,
        min_cluster_size=1,  # the paper's; the records have clusters of one row
        encoder=ENCODERS[encoder]() if encoder else None,
        aggregation="max",  # the paper's, by which the automatic choice is made
        random_state=seed,
        cv=3,  # folds of the automatic choice, inside the training folds
    )


# ---------------------------------------------------------------- cross-validation


@dataclass
class OutOfFold:
    """Scores of all rows of a table, each by a classifier that was not fitted on it."""

    folds: np.ndarray  # uint8 [n], the fold that a row was held out in
    # float32 [n] of the positive class, by aggregation rule; empty where the method cannot be used.
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    reason: str = ""  # why it cannot
    # `parent` and `counts`: class and size of the training classes in the first fold, after resampling; `n_clusters`:
    # clusters of the majority, by fold; `before`: the numbers of `foresee`, mean over folds.
    regrouping: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def out_of_fold(
    table: Table,
    *,
    method: str,
    estimator: str,
    seed: int = 0,
    n_folds: int = N_FOLDS,
    imbalance: float | None = None,
    **options: Any,
) -> OutOfFold:
    """Score every row of a table by cross-validation, stratified by class, without dividing a group.

    The seed moves the folds and everything random in them; methods with one seed have the same folds. For a given
    imbalance, negatives per positive, the training folds lose positives at random; rows held out keep their ratio. The
    other options are those of `make_model`.
    """
    X, y, groups = table.features, table.labels, table.groups
    result = OutOfFold(_folds(table, n_folds, seed))
    splits = [(np.flatnonzero(result.folds != fold), np.flatnonzero(result.folds == fold)) for fold in range(n_folds)]
    fitted: list[_FittedFold] = []
    for fold, (rows, held_out) in enumerate(splits):
        rows = rows if imbalance is None else fewer_positives(rows, y[rows], imbalance, seed, table.name)
        kept_together = None if groups is None else groups[rows]
        data = (X.iloc[rows], y[rows], X.iloc[held_out], kept_together)
        try:
            # In the small loops of boosting and k-means, one thread is up to 15 times as fast as several.
            with threadpool_limits(None if len(rows) > MANY_ROWS else 1):
                fitted.append(_fit_fold(*data, method=method, estimator=estimator, seed=seed, **options))
        except NotApplicable as error:
            result.reason = f"fold {fold + 1} of {n_folds}: {error}"
            return result
    for rule in METHODS[method].rules:
        result.scores[rule] = np.empty(len(y), np.float32)
        for (_, held_out), fold in zip(splits, fitted, strict=True):
            result.scores[rule][held_out] = fold.scores[rule]
    n_clusters = [fold.parent.count(0) for fold in fitted]
    result.regrouping = {"parent": fitted[0].parent, "counts": fitted[0].counts, "n_clusters": n_clusters}
    if fitted[0].before:
        result.regrouping["before"] = pd.DataFrame([fold.before for fold in fitted]).mean(skipna=False).to_dict()
    result.seconds = pd.DataFrame([fold.seconds for fold in fitted]).sum().to_dict()
    return result


def _folds(table: Table, n_folds: int, seed: int) -> np.ndarray:
    """Return the fold that holds each row out."""
    folds = np.empty(len(table.labels), np.uint8)
    if table.groups is None:
        for fold, (_, rows) in enumerate(
            StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(table.features, table.labels)
        ):
            folds[rows] = fold
        return folds
    # scikit-learn's StratifiedGroupKFold takes 3 seconds for 10,000 rows that are mostly groups of one.
    equal = dict.fromkeys(range(n_folds), 1 / n_folds)
    return split_by_group(table.labels, table.groups, fractions=equal, seed=seed).astype(np.uint8)


class _FittedFold(NamedTuple):
    """Scores of the rows held out, by rule, and the classes that the classifier was trained on."""

    scores: dict[str, np.ndarray]
    parent: list[int]
    counts: list[int]
    before: dict[str, float]
    seconds: dict[str, float]


def _fit_fold(
    X: pd.DataFrame,
    y: np.ndarray,
    X_held_out: pd.DataFrame,
    groups: np.ndarray | None,
    *,
    method: str,
    seed: int,
    **options: Any,
) -> _FittedFold:
    """Prepare, resample and fit on training rows alone, and score the rows held out."""
    chosen, times = METHODS[method], [time.perf_counter()]
    preparation = make_preparation()
    X_train = np.asarray(preparation.fit_transform(X))
    X_test = np.asarray(preparation.transform(X_held_out))
    times.append(time.perf_counter())
    X_fit, y_fit = (X_train, y) if chosen.sampler is None else resample(chosen.sampler, X_train, y, seed)
    times.append(time.perf_counter())
    grouped = {"groups": groups} if groups is not None and chosen.n_clusters == "auto" else {}
    model = make_model(method, seed=seed, **options)
    if isinstance(model, RegroupClassifier) and getattr(model.estimator, "early_stopping", "") and len(y_fit) > 10_000:
        model.set_params(min_cluster_size=2)  # boosting holds out rows of every pseudo-class from here on
    model.fit(X_fit, y_fit, **grouped)
    scores = {}
    for rule in chosen.rules:
        if rule != NOT_AGGREGATED:
            model.aggregation = rule
        scores[rule] = model.predict_proba(X_test)[:, 1]
    times.append(time.perf_counter())
    parent = getattr(model, "parent_", np.array([0, 1]))
    counts = np.bincount(getattr(model, "pseudo_labels_", y_fit), minlength=len(parent))
    before = foresee(X_train, y, seed) if method == "rg" else {}
    seconds = dict(zip(("prepare", "resample", "train"), np.diff(times).tolist(), strict=True))
    return _FittedFold(scores, parent.tolist(), counts.tolist(), before, seconds)


def foresee(X: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    """Return numbers that are known before a classifier is trained, from prepared training rows [n, d].

    These are ``silhouette`` and ``stability`` of the majority's natural clusters, as `diagnose` has them (NaN where it
    is not divided), and ``minority neighbors``: the share of the positives among the five nearest of a positive.
    """
    classes = diagnose(X, y, n_repeats=2, seed=seed).classes
    majority = classes.loc[0] if 0 in classes.index else {}
    found = {name: float(majority.get(name, np.nan)) for name in ("silhouette", "stability")}
    nearest = NearestNeighbors(n_neighbors=NEIGHBORS).fit(X).kneighbors(return_distance=False)  # without the row itself
    return found | {"minority neighbors": float(y[nearest[y == 1]].mean())}


# ---------------------------------------------------------------- measures


def measure_folds(
    labels: np.ndarray, folds: np.ndarray, scores: np.ndarray, *, evaluate: Callable[..., dict[str, Any]] = evaluate
) -> dict[str, Any]:
    """Measure out-of-fold scores [n], each fold by `evaluate`.

    Average precision is the mean over folds. It measures a ranking, and scores of different folds come from different
    classifiers, whose scales need not agree because regrouping finds other clusters in each fold. A ranking of all
    scores together would measure a mixture that nobody uses (Forman & Scholz 2010, Apples-to-apples in
    cross-validation studies); it is kept as ``pooled_average_precision``. Balanced accuracy is pooled, because its
    threshold of 0.5 is the same in every fold.
    """
    names = ("negative", "positive")
    by_fold = [evaluate(labels[folds == f], scores[folds == f], names) for f in np.unique(folds)]
    pooled = evaluate(labels, scores, names)
    result: dict[str, Any] = {name: pooled[name] for name in ("balanced_accuracy", "prevalence")}
    for measure in ("average_precision", "calibrated_average_precision"):
        result[measure] = {name: float(np.mean([r[measure][name] for r in by_fold])) for name in names}
    result["pooled_average_precision"] = pooled["average_precision"]["positive"]
    result["average_precision_by_fold"] = [r["average_precision"]["positive"] for r in by_fold]
    result["summary"] = {"balanced_accuracy": result["balanced_accuracy"]} | {
        measure: result[measure]["positive"] for measure in ("average_precision", "calibrated_average_precision")
    }
    return result
