"""Regrouping inside scikit-learn's and imbalanced-learn's conventions."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, check_cv
from sklearn.utils import (
    _safe_indexing,
    check_array,
    check_consistent_length,
    check_random_state,
    get_tags,
    indexable,
)
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from regroup_lib.clusterers import make_clusterer
from regroup_lib.metrics import decide, evaluate
from regroup_lib.regroup import Regrouping, aggregate, cluster_counts, count_rows_not_finite


class _Regroups(BaseEstimator):
    """The part that the classifier and the sampler share: from samples of any kind to a `Regrouping`."""

    def _labels(self, X: Any, y: Any) -> np.ndarray:
        """Check `y` and how many samples there are; X itself is left to those who read it."""
        y = validate_data(self, X="no_validation", y=y)
        validate_data(self, X, y, skip_check_array=True)  # n_features_in_ and feature_names_in_
        check_consistent_length(X, y)
        check_classification_targets(y)
        classes = np.unique(y).tolist()
        if len(classes) < 2:
            raise ValueError(f"regrouping needs at least 2 classes; y holds {len(classes)} class: {classes}")
        return y

    def _seed(self) -> int | None:
        """Return the seed; a generator gives one, so that all that is seeded in one fit hangs on one draw."""
        if self.random_state is None or isinstance(self.random_state, int | np.integer):
            return self.random_state
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _regrouping(self, n_clusters: int | Mapping[Any, int] | None, seed: int | None) -> Regrouping:
        return Regrouping(self.clusterer, threshold=self.threshold, n_clusters=n_clusters, random_state=seed)

    def _regroup(self, X: Any, y: np.ndarray, n_clusters: Any, seed: int | None) -> Regrouping:
        regrouping = self._regrouping(n_clusters, seed)
        divided = _divides(y, self.threshold, n_clusters)
        # Where every class stays whole nobody looks at features, so X may be anything that the classifier takes.
        return regrouping.fit(self._features(X, y) if divided else np.zeros((len(y), 1)), y)

    def _features(self, X: Any, y: np.ndarray) -> Any:
        """Return what is clustered: X or what the encoder makes of it, as numbers in rows."""
        features = X if self.encoder is None else _encode(self.encoder, X, y)
        try:
            dtypes = [np.float64, np.float32]
            features = check_array(features, accept_sparse="csr", dtype=dtypes, ensure_all_finite=False, estimator=self)
        except (TypeError, ValueError) as error:
            if self.encoder is None:
                error.add_note("Samples that are not rows of numbers need an encoder: pass encoder=<a transformer>.")
            raise
        if features.shape[0] != len(y):
            raise ValueError(f"the encoder made {features.shape[0]} rows out of {len(y)}; it must keep one a sample")
        bad = count_rows_not_finite(features)
        if bad:
            source = "X" if self.encoder is None else "the encoder's output"
            raise ValueError(
                f"{bad} rows of {source} hold NaN or infinite values and cannot be clustered; "
                "pass encoder=make_pipeline(SimpleImputer(), ...) to fill them in for the clustering alone"
            )
        return features


def _divides(y: np.ndarray, threshold: float | None, n_clusters: Any) -> bool:
    """Tell whether any class is to have more than one cluster."""
    classes, counts = np.unique(y, return_counts=True)
    if isinstance(n_clusters, Mapping):
        n_clusters = {j: n_clusters[label] for j, label in enumerate(classes.tolist()) if label in n_clusters}
    return max(cluster_counts(counts, threshold=threshold, n_clusters=n_clusters)) > 1


def _encode(encoder: Any, X: Any, y: np.ndarray) -> Any:
    fresh = clone(encoder, safe=False)
    if isinstance(encoder, type) or not hasattr(fresh, "transform"):
        raise ValueError(f"encoder is {encoder!r}; pass an object with scikit-learn's fit_transform")
    if hasattr(fresh, "fit_transform"):
        return fresh.fit_transform(X, y)
    return fresh.fit(X).transform(X)  # as this library's encoders of images have it


class RegroupClassifier(ClassifierMixin, MetaEstimatorMixin, _Regroups):
    """Train any classifier on pseudo-classes and predict classes.

    Classes larger than the threshold are divided by clustering, a clone of the estimator learns to tell the
    pseudo-classes apart, and its scores are aggregated back to the classes.

    Parameters
    ----------
    estimator : classifier, optional
        Any classifier with ``predict_proba`` or ``decision_function``; it is cloned. Decision values are turned into
        probabilities by softmax, or by the logistic function where there is one value a sample; they must come one
        for each class (for `~sklearn.svm.SVC`, ``decision_function_shape="ovr"``). Default:
        `~sklearn.linear_model.LogisticRegression`.
    clusterer, threshold : optional
        See `Regrouping`.
    n_clusters : int, mapping of label to int, "auto" or None
        See `Regrouping`; a number above a class's size is cut to it. ``"auto"`` chooses by cross-validation: see
        Notes.
    encoder : transformer, optional
        What is clustered is ``encoder.fit_transform(X, y)`` instead of X; the classifier sees X all the same. It is
        cloned and needed by `fit` alone, and only if a class is divided.
    aggregation : {"max", "sum"}
        The rule of `aggregate`; changed after `fit`, it holds from then on.
    random_state : int, RandomState or None
        Seed of the clustering, and of the folds of ``"auto"``; the estimator keeps its own.
    cv : int, cross-validation splitter or iterable of (train, test)
        Folds of ``n_clusters="auto"``. A number means shuffled folds stratified by class, at most as many as the
        smallest class has samples.

    Attributes
    ----------
    classes_ : ndarray [C]
        The class labels, sorted.
    estimator_ : classifier
        The fitted estimator; its classes are the pseudo-classes.
    regrouping_ : Regrouping
        The fitted regrouping.
    pseudo_labels_, parent_ : ndarray of int64 [n], [K]
        Those of ``regrouping_``.
    n_clusters_ : dict of label to int
        Pseudo-classes of each class.
    n_clusters_search_ : list of dict
        What ``"auto"`` tried, from few to many clusters: ``n_clusters`` (as ``n_clusters_``),
        ``mean_average_precision``, ``std_average_precision`` and ``average_precision`` (one a fold). Empty without it.
    n_features_in_ : int
        Features of X, where X has columns.
    feature_names_in_ : ndarray of str
        Names of the features, where X has them.

    Notes
    -----
    The decision is the paper's: the class with the largest aggregated score, and of two classes with equal scores the
    second of ``classes_``, as in `evaluate`. There is no ``decision_function``: ``predict_proba`` is the one score.

    Further arguments of `fit` such as ``sample_weight`` go to the estimator's ``fit``; the clustering does not weigh
    samples. With scikit-learn's metadata routing enabled they go where the estimator requests them.

    Missing values are the estimator's business where it takes them, but they cannot be clustered: pass an encoder
    that fills them in.

    **n_clusters="auto"** compares the paper's number of clusters ``ceil(n_j / n')`` with its double, its half, its
    quarter and so on down to no regrouping at all, which is always among the candidates. Classes up to the threshold
    stay whole. Each candidate is clustered once, on all samples given to `fit`; then the classifier is cross-validated
    on those pseudo-labels. The features of a fold's test samples have therefore moved the centres a little, but
    neither a test sample's class nor its cluster is used to predict it. The measure is average precision: of the
    smaller class if there are two, the unweighted mean over classes if there are more. The largest mean wins, and of
    equal ones that with the fewest clusters. The winner's mean is optimistic, as in any search: measure on other data.

    References
    ----------
    Mining Latent Labels for Imbalance Classification, Section 2.2.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> X, y = load_digits(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y == 0, stratify=y, random_state=0)
    >>> model = RegroupClassifier(LogisticRegression(max_iter=1000), random_state=0).fit(X_train, y_train)
    >>> model.n_clusters_
    {False: 10, True: 1}
    >>> model.score(X_test, y_test) > 0.98
    True
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        clusterer: str | Any = "kmeans",
        threshold: float | None = None,
        n_clusters: int | Mapping[Any, int] | str | None = None,
        encoder: Any = None,
        aggregation: str = "max",
        random_state: int | np.random.RandomState | None = None,
        cv: int | Any = 5,
    ):
        self.estimator = estimator
        self.clusterer = clusterer
        self.threshold = threshold
        self.n_clusters = n_clusters
        self.encoder = encoder
        self.aggregation = aggregation
        self.random_state = random_state
        self.cv = cv

    def fit(self, X: Any, y: Sequence[Any], **fit_params: Any) -> RegroupClassifier:
        """Divide large classes and train the estimator on the pseudo-classes.

        Parameters
        ----------
        X : array, sparse array or frame [n, d]
            Anything that the estimator takes, and the encoder or the clusterer.
        y : sequence [n]
            Class of each sample.
        **fit_params
            For the estimator's ``fit``, such as ``sample_weight``.

        Raises
        ------
        ValueError
            If an option is out of range, fewer than two classes are left, or X cannot be clustered.
        TypeError
            If the estimator's ``fit`` does not take a fit parameter.
        """
        estimator = self._unfitted()
        self._check_options(estimator)
        y = self._labels(X, y)
        fit_params = self._route(estimator, fit_params)
        _check_weights(y, fit_params)
        seed = self._seed()
        if isinstance(self.n_clusters, str):
            regrouping, search = self._search(estimator, X, y, fit_params, seed)
        else:
            regrouping, search = self._regroup(X, y, self.n_clusters, seed), []
        fitted = clone(estimator).fit(X, regrouping.pseudo_labels_, **fit_params)
        known, n_pseudo = getattr(fitted, "classes_", regrouping.parent_), len(regrouping.parent_)
        if len(known) != n_pseudo:
            raise ValueError(
                f"{_name(estimator)} knows {len(known)} of the {n_pseudo} pseudo-classes after training; "
                "it must not leave any out"
            )
        self.regrouping_, self.estimator_, self.n_clusters_search_ = regrouping, fitted, search
        self.classes_, self.parent_ = regrouping.classes_, regrouping.parent_
        self.pseudo_labels_, self.n_clusters_ = regrouping.pseudo_labels_, _found_clusters(regrouping)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return aggregated class probabilities, float64 [n, C], in the order of ``classes_``; rows sum to 1."""
        check_is_fitted(self, "estimator_")
        return aggregate(_pseudo_scores(self.estimator_, X, len(self.parent_)), self.parent_, rule=self.aggregation)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each sample [n]; of two equally probable ones the second."""
        chosen = decide(self.predict_proba(X))  # which says first whether there was a fit
        return self.classes_[chosen]

    def get_metadata_routing(self) -> MetadataRouter:
        """Return where metadata goes: from `fit` to the estimator's ``fit``."""
        to_fit = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add_self_request(self).add(estimator=self._unfitted(), method_mapping=to_fit)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        estimator = self._unfitted()
        if isinstance(estimator, type) or not hasattr(estimator, "__sklearn_tags__"):
            return tags
        inner = get_tags(estimator)
        # X reaches the estimator as it is, so what the estimator takes decides; rows that are clustered ask for more.
        tags.input_tags = deepcopy(inner.input_tags)
        tags.input_tags.sparse = inner.input_tags.sparse and self._clusters_sparse()
        tags.classifier_tags = deepcopy(inner.classifier_tags) or tags.classifier_tags
        tags.classifier_tags.multi_label = False
        return tags

    def _clusters_sparse(self) -> bool:
        try:
            reader = make_clusterer(self.clusterer, 1, None) if self.encoder is None else self.encoder
            return get_tags(reader).input_tags.sparse
        except (AttributeError, TypeError, ValueError):  # not scikit-learn's, or an option that fit refuses
            return False

    def _unfitted(self) -> Any:
        return LogisticRegression() if self.estimator is None else self.estimator

    def _check_options(self, estimator: Any) -> None:
        """Find what is wrong before anything is clustered."""
        if self.aggregation not in ("max", "sum"):
            raise ValueError(f"aggregation is {self.aggregation!r}; expected 'max' or 'sum'")
        if isinstance(self.n_clusters, str) and self.n_clusters != "auto":
            raise ValueError(f"n_clusters is {self.n_clusters!r}; expected a number, a mapping, 'auto' or None")
        if isinstance(estimator, type):
            raise ValueError(f"estimator is the class {estimator.__name__}; pass an object, {estimator.__name__}()")
        if hasattr(estimator, "predict_proba"):
            return
        if not hasattr(estimator, "decision_function"):
            raise ValueError(f"{_name(estimator)} has neither predict_proba nor decision_function; one is needed")
        options = estimator.get_params().items()
        # Three pseudo-classes make three pairs: the number of columns would not give it away.
        if any(name.endswith("decision_function_shape") and value == "ovo" for name, value in options):
            raise ValueError("decision_function_shape is 'ovo', which scores pairs of classes; 'ovr' is needed")

    def _route(self, estimator: Any, fit_params: dict[str, Any]) -> dict[str, Any]:
        """Return the fit parameters of the estimator."""
        if get_config()["enable_metadata_routing"]:
            return process_routing(self, "fit", **fit_params).estimator.fit
        known = inspect.signature(estimator.fit).parameters.values()
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known):
            return fit_params
        unknown = sorted(set(fit_params) - {parameter.name for parameter in known})
        if unknown:
            raise TypeError(f"{_name(estimator)}.fit does not take {', '.join(unknown)}")
        return fit_params

    def _search(
        self, estimator: Any, X: Any, y: np.ndarray, fit_params: dict[str, Any], seed: int | None
    ) -> tuple[Regrouping, list[dict[str, Any]]]:
        """Return the regrouping with the largest cross-validated average precision, and what was tried."""
        classes, index, counts = np.unique(y, return_inverse=True, return_counts=True)
        (X,) = indexable(X)  # as CSR where it is sparse: folds take rows
        folds = self._folds(X, y, seed)
        candidates = _ladder(counts, self.threshold)
        features = self._features(X, y) if len(candidates) > 1 else np.zeros((len(y), 1))
        regroupings, tried = [], []
        for wanted in candidates:
            n_clusters = dict(zip(classes.tolist(), wanted, strict=True))
            regrouping = self._regrouping(n_clusters, seed).fit(features, y)
            precisions = [
                _fold_precision(estimator, X, index, regrouping, fold, fit_params, self.aggregation) for fold in folds
            ]
            regroupings.append(regrouping)
            tried.append(
                {
                    "n_clusters": _found_clusters(regrouping),
                    "mean_average_precision": float(np.mean(precisions)),
                    "std_average_precision": float(np.std(precisions)),
                    "average_precision": precisions,
                }
            )
        best = int(np.argmax([entry["mean_average_precision"] for entry in tried]))  # the first of equal ones
        return regroupings[best], tried

    def _folds(self, X: Any, y: np.ndarray, seed: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the folds, the same for all candidates, with every class on both sides of each."""
        classes, counts = np.unique(y, return_counts=True)
        if counts.min() < 2:
            alone = classes.tolist()[counts.argmin()]
            raise ValueError(f"n_clusters='auto' cross-validates: class {alone!r} needs at least 2 samples and has 1")
        if isinstance(self.cv, int | np.integer):
            folds = min(self.cv, int(counts.min()))
            return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(X, y))
        folds = list(check_cv(self.cv, y, classifier=True).split(X, y))
        for number, rows in enumerate(folds):
            for part, side in zip(rows, ("training", "test"), strict=True):
                missing = sorted(set(classes.tolist()) - set(y[part].tolist()))
                if missing:
                    raise ValueError(f"fold {number} of cv has no {side} sample of the classes {missing}")
        return folds


def _name(estimator: Any) -> str:
    return type(estimator).__name__


def _found_clusters(regrouping: Regrouping) -> dict[Any, int]:
    return dict(zip(regrouping.classes_.tolist(), np.bincount(regrouping.parent_).tolist(), strict=True))


def _check_weights(y: np.ndarray, fit_params: dict[str, Any]) -> None:
    """Refuse weights that leave one class: the estimator would see its pseudo-classes and not notice."""
    weights = fit_params.get("sample_weight")
    if weights is None or np.shape(weights) != y.shape:  # another shape is the estimator's to refuse
        return
    left = np.unique(y[np.asarray(weights) != 0]).tolist()
    if len(left) < 2:
        raise ValueError(f"regrouping needs at least 2 classes; sample_weight is above 0 in {len(left)} class: {left}")


def _pseudo_scores(estimator: Any, X: Any, n_pseudo: int) -> np.ndarray:
    """Return probabilities of the pseudo-classes 0 .. n_pseudo - 1; one that the estimator does not know gets 0."""
    if hasattr(estimator, "predict_proba"):
        found = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    else:
        found = np.asarray(estimator.decision_function(X), dtype=np.float64)
        found = np.stack([expit(-found), expit(found)], axis=1) if found.ndim == 1 else softmax(found, axis=1)
    known = getattr(estimator, "classes_", np.arange(n_pseudo))
    if found.shape[1:] != (len(known),):
        raise ValueError(f"{_name(estimator)} gives scores of shape {found.shape} for {len(known)} pseudo-classes")
    scores = np.zeros((len(found), n_pseudo))
    scores[:, known] = found
    return scores


def _ladder(counts: np.ndarray, threshold: float | None) -> list[list[int]]:
    """Return the candidates, from no regrouping by doublings to twice the paper's numbers of clusters."""
    paper = cluster_counts(counts, threshold=threshold)
    threshold = counts.min() if threshold is None else threshold
    candidates, factor = [], 2.0
    while max(paper) > 1:
        wanted = np.ceil(factor * counts / threshold).astype(int)
        # A class that the paper leaves whole stays whole, and none has more clusters than samples.
        wanted = np.where(np.array(paper) > 1, np.minimum(wanted, counts), 1).tolist()
        if max(wanted) == 1:
            break
        if wanted not in candidates:
            candidates.append(wanted)
        factor /= 2
    return [[1] * len(counts), *reversed(candidates)]


def _fold_precision(
    estimator: Any,
    X: Any,
    index: np.ndarray,
    regrouping: Regrouping,
    fold: tuple[np.ndarray, np.ndarray],
    fit_params: dict[str, Any],
    rule: str,
) -> float:
    """Train on a fold's training samples; return the average precision on its test samples."""
    train, test = fold
    X_train, _ = _safe_split(estimator, X, None, train)
    X_test, _ = _safe_split(estimator, X, None, test, train)
    # Consecutive numbers, which some classifiers insist on: a small pseudo-class may have no training sample here.
    known, labels = np.unique(regrouping.pseudo_labels_[train], return_inverse=True)
    fitted = clone(estimator).fit(X_train, labels, **_rows_of(fit_params, train, len(index)))
    scores = np.zeros((len(index[test]), len(regrouping.parent_)))
    scores[:, known] = _pseudo_scores(fitted, X_test, len(known))
    precisions = list(evaluate(index[test], aggregate(scores, regrouping.parent_, rule))["average_precision"].values())
    if len(precisions) > 2:
        return float(np.mean(precisions))
    smaller = np.bincount(index)[::-1].argmin()  # of equal classes the second
    return precisions[1 - smaller]


def _rows_of(fit_params: dict[str, Any], rows: Iterable[int], n: int) -> dict[str, Any]:
    """Return the fit parameters of some samples; what does not have one value a sample stays as it is."""
    return {
        name: _safe_indexing(value, rows) if np.ndim(value) > 0 and len(value) == n else value
        for name, value in fit_params.items()
    }


class Regrouper(_Regroups):
    """A step of an imbalanced-learn pipeline that turns classes into pseudo-classes.

    Samples stay as they are; the steps after it, other samplers included, see pseudo-labels. The pipeline therefore
    **predicts pseudo-classes**, and the way back is the caller's::

        scores = aggregate(pipeline.predict_proba(X), pipeline["regrouper"].parent_)  # and `classes_` names the columns

    Without that last step a score against class labels (`cross_val_score`) has no meaning. Where it is wanted, put
    the rest of the pipeline into `RegroupClassifier` instead: it trains a pipeline of samplers and a classifier on
    pseudo-labels and predicts classes.

    Parameters
    ----------
    clusterer, threshold, n_clusters, encoder, random_state
        See `RegroupClassifier`; there is no ``"auto"``.

    Attributes
    ----------
    regrouping_ : Regrouping
        The fitted regrouping.
    classes_ : ndarray [C]
        The class labels, sorted.
    parent_ : ndarray of int64 [K]
        Class index of each pseudo-class.

    Examples
    --------
    >>> from imblearn.over_sampling import RandomOverSampler
    >>> from imblearn.pipeline import make_pipeline
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> pipeline = make_pipeline(
    ...     Regrouper(random_state=0), RandomOverSampler(random_state=0), LogisticRegression(max_iter=1000)
    ... ).fit(X, y == 0)
    >>> pipeline.predict_proba(X).shape
    (1797, 11)
    >>> aggregate(pipeline.predict_proba(X), pipeline["regrouper"].parent_).shape
    (1797, 2)
    """

    _estimator_type = "sampler"  # imbalanced-learn's mark

    def __init__(
        self,
        clusterer: str | Any = "kmeans",
        *,
        threshold: float | None = None,
        n_clusters: int | Mapping[Any, int] | None = None,
        encoder: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.clusterer = clusterer
        self.threshold = threshold
        self.n_clusters = n_clusters
        self.encoder = encoder
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def fit_resample(self, X: Any, y: Sequence[Any]) -> tuple[Any, np.ndarray]:
        """Return X as it is and its pseudo-labels, int64 [n]."""
        y = self._labels(X, y)
        self.regrouping_ = self._regroup(X, y, self.n_clusters, self._seed())
        self.classes_, self.parent_ = self.regrouping_.classes_, self.regrouping_.parent_
        return X, self.regrouping_.pseudo_labels_
