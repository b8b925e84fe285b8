"""Regrouping inside scikit-learn's and imbalanced-learn's conventions."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from functools import partial, update_wrapper
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, softmax
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, OneToOneFeatureMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, check_cv
from sklearn.utils import (
    Bunch,
    InputTags,
    Tags,
    TargetTags,
    _safe_indexing,
    check_array,
    check_consistent_length,
    get_tags,
    indexable,
)
from sklearn.utils.metadata_routing import UNUSED, MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from regroup_lib.clusterers import make_clusterer
from regroup_lib.inputs import (
    GRIDS,
    by_class_index,
    by_pseudo_class,
    check_fit_params,
    check_labels,
    count_rows_not_finite,
    for_pseudo_classes,
    for_sklearn,
)
from regroup_lib.metrics import decide, selection_score
from regroup_lib.regroup import Regrouping, aggregate, cluster_counts, merge_small, one_thread, seed_of

# A fit on fewer numbers than these is over before threads have shared it out: boosting 306 x 4 took 15 times as long.
WORTH_THREADS = 10**6


class _Regroups(BaseEstimator):
    """The part that the classifier and the sampler share: from samples of any kind to a `Regrouping`."""

    def _labels(self, X: Any, y: Any) -> np.ndarray:
        """Check `y` and how many samples there are; X is checked where it is read."""
        y = y if y is None else check_labels(y)
        y = validate_data(self, X="no_validation", y=y)
        validate_data(self, X, y, skip_check_array=True)  # n_features_in_ and feature_names_in_
        check_consistent_length(X, y)
        return y

    def _clusters_sparse(self) -> bool:
        try:
            reader = make_clusterer(self.clusterer, 1, None) if self.encoder is None else self.encoder
            return get_tags(reader).input_tags.sparse
        except (AttributeError, TypeError, ValueError):  # not scikit-learn's, or an option that fit refuses
            return False

    def _regrouping(self, n_clusters: int | Mapping[Any, int] | None, seed: int | None) -> Regrouping:
        return Regrouping(
            self.clusterer,
            threshold=self.threshold,
            n_clusters=n_clusters,
            min_cluster_size=self.min_cluster_size,
            random_state=seed,
        )

    def _regroup(self, X: Any, y: np.ndarray, n_clusters: Any, seed: int | None) -> Regrouping:
        classes, counts = np.unique(y, return_counts=True)
        named = by_class_index("n_clusters", n_clusters, classes) if isinstance(n_clusters, Mapping) else n_clusters
        divided = max(cluster_counts(counts, threshold=self.threshold, n_clusters=named)) > 1
        rarest = int(counts.argmin())
        if isinstance(named, dict) and named.get(rarest, 1) > 1 and int(counts.argmax()) not in named:
            known = "VotingClassifier and StackingClassifier number classes from 0"
            warnings.warn(
                f"n_clusters={n_clusters} divides the smallest class and not the largest; {known}", stacklevel=3
            )
        # Where every class stays whole nobody looks at features, so X may be anything that the classifier takes.
        features = self._features(X, y) if divided else np.zeros((len(y), 1))
        return self._regrouping(n_clusters, seed).fit(features, y)

    def _features(self, X: Any, y: np.ndarray) -> Any:
        """Return the features to cluster, X or the encoder's output, as numbers in rows."""
        features = X if self.encoder is None else _encode(self.encoder, X, y)
        try:
            dtypes = [np.float64, np.float32]
            features = check_array(features, accept_sparse="csr", dtype=dtypes, ensure_all_finite=False, estimator=self)
        except (TypeError, ValueError) as error:
            if self.encoder is None:
                error.add_note("Samples that are not rows of numbers need an encoder: pass encoder=<a transformer>.")
            raise
        if features.shape[0] != len(y):
            raise ValueError(
                f"the encoder made {features.shape[0]} rows out of {len(y)}; it must keep one for each sample"
            )
        bad = count_rows_not_finite(features)
        if bad:
            source = "X" if self.encoder is None else "the encoder's output"
            raise ValueError(
                f"{bad} rows of {source} hold NaN or infinite values and cannot be clustered; "
                "pass encoder=make_pipeline(SimpleImputer(), ...) to fill them in for the clustering alone"
            )
        return features


def _encode(encoder: Any, X: Any, y: np.ndarray) -> Any:
    fresh = clone(encoder, safe=False)
    if isinstance(encoder, type) or not hasattr(fresh, "transform"):
        raise ValueError(f"encoder is {encoder!r}; pass an object with scikit-learn's fit_transform")
    if hasattr(fresh, "fit_transform"):
        return fresh.fit_transform(X, y)
    # One that is fitted already, and this library's encoders of images.
    return (fresh if isinstance(fresh, FrozenEstimator) else fresh.fit(X)).transform(X)


class _Fit:
    """`RegroupClassifier.fit`, which names ``sample_weight`` on an object whose estimator takes it.

    Other estimators look for that name in the signature: AdaBoost refuses a classifier without it, bagging passes
    weights to one with it.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = update_wrapper(self, function).__wrapped__

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        if instance is None:
            return self.function
        fit = self.function.__get__(instance)
        if not has_fit_parameter(instance._unfitted(), "sample_weight"):
            fit, signature = partial(fit), inspect.signature(fit)
            others = [parameter for name, parameter in signature.parameters.items() if name != "sample_weight"]
            fit.__signature__ = signature.replace(parameters=others)
        return fit


class RegroupClassifier(ClassifierMixin, MetaEstimatorMixin, _Regroups):
    """Train any classifier on pseudo-classes and predict classes.

    Classes larger than the threshold are divided by clustering, a clone of the estimator learns to tell the
    pseudo-classes apart, and its scores are aggregated back to the classes.

    Parameters
    ----------
    estimator : classifier, optional
        Any classifier with ``predict_proba`` or ``decision_function``; it is cloned. Decision values are turned into
        probabilities by softmax, or by the logistic function where there is one value per sample; they must come one
        for each class (for `~sklearn.svm.SVC`, ``decision_function_shape="ovr"``). Default:
        `~sklearn.linear_model.LogisticRegression`.
    clusterer, threshold : optional
        See `Regrouping`.
    n_clusters : int, mapping of label to int, "auto" or None
        See `Regrouping`; a number above a class's size is cut to it. ``"auto"`` chooses by cross-validation: see
        Notes. Inside `~sklearn.ensemble.VotingClassifier` and StackingClassifier the labels are numbers from 0.
    min_cluster_size : int
        Smaller clusters join the nearest larger one of their class (see `Regrouping`). The default of 2 is what a
        stratified split needs, such as that of early stopping; SMOTE or calibration inside need more.
    encoder : transformer, optional
        The clusterer gets ``encoder.fit_transform(X, y)`` instead of X; the classifier still gets X. The encoder
        is cloned and used by `fit` alone, and only if a class is divided.
    aggregation : {"sum", "max"}
        The rule of `aggregate`; changed after `fit`, it holds from then on. The columns of sum are probabilities; max
        is the paper's rule.
    random_state : int, RandomState or None
        Seed of the clustering, and of the folds of ``"auto"``; the estimator keeps its own.
    cv : int, cross-validation splitter or iterable of (train, test)
        Folds of ``n_clusters="auto"``. A number means shuffled folds stratified by class, at most as many as the
        smallest class has samples; with `groups` in `fit`, folds that keep each group together as well.

    Attributes
    ----------
    classes_ : ndarray [C]
        The class labels, sorted.
    estimator_ : classifier
        The fitted estimator; its classes are the pseudo-classes.
    regrouping_ : Regrouping
        The fitted regrouping, whose ``pseudo_labels_`` [n] and ``parent_`` [K] are attributes here, too.
    n_clusters_ : dict of label to int
        Pseudo-classes of each class.
    n_clusters_search_ : list of dict
        What ``"auto"`` tried, from few to many clusters: ``n_clusters`` (as ``n_clusters_``),
        ``mean_average_precision``, ``std_average_precision`` and ``average_precision`` (one for each fold). Empty
        without it.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Features of X, where X has columns, and their names, where it has them.

    Notes
    -----
    The decision is the paper's: the class with the largest aggregated score, and of two classes with equal scores the
    second of ``classes_``, as in `evaluate`. There is no ``decision_function``: ``predict_proba`` is the one score.

    **Options that name classes.** The estimator learns pseudo-classes, so options that name your classes are
    translated, also inside pipelines, ensembles and searches: a mapping ``class_weight`` weighs each pseudo-class as
    its class, and the samples that imbalanced-learn's ``sampling_strategy`` asks of a class are divided among its
    pseudo-classes. Options that cannot be translated are refused, such as validation data with labels (``eval_set``,
    ``X_val``) or weights inside `~sklearn.multiclass.OneVsRestClassifier`. ``"balanced"``, and the words that
    imbalanced-learn has, balance pseudo-classes. Early stopping and searches inside hold out samples and measure on
    pseudo-classes.

    The clustering does not weigh samples. With scikit-learn's metadata routing enabled, further arguments of `fit` go
    where the estimator and the folds request them. Missing values cannot be clustered: where the estimator takes them
    pass an encoder that fills them in. Below a million numbers in X, OpenMP (boosting) is given one thread.

    **n_clusters="auto"** compares the paper's number of clusters ``ceil(n_j / n')`` with its double, its half, its
    quarter and so on down to no regrouping at all, which is always among the candidates. Classes up to the threshold
    stay whole. Each candidate is clustered once, on all samples given to `fit`; then the classifier is cross-validated
    on those pseudo-labels. The features of a fold's test samples have therefore moved the centers a little, but
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
        min_cluster_size: int = 2,
        encoder: Any = None,
        aggregation: str = "sum",
        random_state: int | np.random.RandomState | None = None,
        cv: int | Any = 5,
    ):
        self.estimator = estimator
        self.clusterer = clusterer
        self.threshold = threshold
        self.n_clusters = n_clusters
        self.min_cluster_size = min_cluster_size
        self.encoder = encoder
        self.aggregation = aggregation
        self.random_state = random_state
        self.cv = cv

    # Metadata is the estimator's and the folds', as without these names.
    __metadata_request__fit = {"sample_weight": UNUSED, "groups": UNUSED}  # noqa: RUF012 - scikit-learn's way

    @_Fit
    def fit(
        self,
        X: Any,
        y: Sequence[Any],
        sample_weight: Sequence[float] | None = None,
        *,
        groups: Sequence[Any] | None = None,
        **fit_params: Any,
    ) -> RegroupClassifier:
        """Divide large classes and train the estimator on the pseudo-classes.

        Parameters
        ----------
        X : array, tensor, sparse array or frame [n, d]
            Anything that the estimator takes, and the encoder or the clusterer. Tensors reach them as arrays.
        y : sequence [n]
            Class of each sample.
        sample_weight : sequence of float [n], optional
            For the estimator.
        groups : sequence [n], optional
            Samples of one group, such as a patient's, stay in one fold of ``n_clusters="auto"``.
        **fit_params
            For the estimator's ``fit``.

        Raises
        ------
        ValueError
            If an option is out of range, labels are refused by `check_labels`, X cannot be clustered, the estimator
            cannot be trained on the pseudo-classes, or a fit parameter is validation data.
        TypeError
            If the estimator's ``fit`` does not take a fit parameter.
        """
        estimator = self._unfitted()
        self._check_options(estimator)
        X = for_sklearn(X)
        y = self._labels(X, y)
        if sample_weight is not None:
            fit_params["sample_weight"] = np.asarray(for_sklearn(sample_weight))
        if groups is not None:
            fit_params["groups"] = groups
        fit_params, split_params = self._route(estimator, fit_params)
        check_fit_params(y, fit_params)
        seed = seed_of(self.random_state)
        if isinstance(self.n_clusters, str):
            regrouping, search = self._search(estimator, X, y, fit_params, split_params, seed)
        else:
            regrouping, search = self._regroup(X, y, self.n_clusters, seed), []
        labels, parent = regrouping.pseudo_labels_, regrouping.parent_
        self.estimator_ = _trained(estimator, X, labels, regrouping.classes_, parent, fit_params)
        self.regrouping_, self.n_clusters_search_, self.classes_ = regrouping, search, regrouping.classes_
        self.parent_, self.pseudo_labels_, self.n_clusters_ = parent, labels, _found_clusters(regrouping)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return aggregated class probabilities, float64 [n, C], in the order of ``classes_``; rows sum to 1."""
        check_is_fitted(self, "estimator_")
        scores = _pseudo_scores(self.estimator_, for_sklearn(X), len(self.parent_))
        return aggregate(scores, self.parent_, rule=self.aggregation)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each sample [n]; of two equally probable ones the second."""
        chosen = decide(self.predict_proba(X))  # which says first whether there was a fit
        return self.classes_[chosen]

    def get_metadata_routing(self) -> MetadataRouter:
        """Return where metadata goes: from `fit` to the estimator's ``fit``, and to the folds of ``"auto"``."""
        to_fit = MethodMapping().add(caller="fit", callee="fit")
        router = MetadataRouter(owner=self).add_self_request(self)
        router.add(estimator=self._unfitted(), method_mapping=to_fit)
        folds = StratifiedGroupKFold() if isinstance(self.cv, int | np.integer) else self.cv
        if hasattr(folds, "get_metadata_routing"):
            router.add(splitter=folds, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        return router

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        estimator = self._unfitted()
        if isinstance(estimator, type) or not hasattr(estimator, "__sklearn_tags__"):
            return tags
        inner = get_tags(estimator)
        # The estimator gets X unchanged, so its own tags decide; clustered rows need more.
        tags.input_tags = deepcopy(inner.input_tags)
        tags.input_tags.sparse = inner.input_tags.sparse and self._clusters_sparse()
        tags.classifier_tags = deepcopy(inner.classifier_tags) or tags.classifier_tags
        tags.classifier_tags.multi_label = False
        tags.non_deterministic, tags.no_validation = inner.non_deterministic, inner.no_validation
        return tags

    def _unfitted(self) -> Any:
        return LogisticRegression() if self.estimator is None else self.estimator

    def _check_options(self, estimator: Any) -> None:
        """Refuse wrong options before anything is clustered."""
        if self.aggregation not in ("max", "sum"):
            raise ValueError(f"aggregation is {self.aggregation!r}; expected 'max' or 'sum'")
        if isinstance(self.n_clusters, str) and self.n_clusters != "auto":
            raise ValueError(f"n_clusters is {self.n_clusters!r}; expected a number, a mapping, 'auto' or None")
        if isinstance(estimator, type):
            raise ValueError(f"estimator is the class {estimator.__name__}; pass an object, {estimator.__name__}()")
        _score_method(estimator, type(estimator))  # searches and stacks have some methods only after a fit
        kind = get_tags(estimator).estimator_type if hasattr(estimator, "__sklearn_tags__") else "classifier"
        if kind not in ("classifier", None):  # a mixture has predict_proba, an outlier detector decision_function
            raise ValueError(f"{_name(estimator)} is not a classifier (its type is {kind.replace('_', ' ')})")
        options = {} if hasattr(estimator, "predict_proba") else estimator.get_params()
        # Three pseudo-classes make three pairs: the number of columns would not give it away.
        if any(name.endswith("decision_function_shape") and value == "ovo" for name, value in options.items()):
            raise ValueError("decision_function_shape is 'ovo', which scores pairs of classes; 'ovr' is needed")

    def _route(self, estimator: Any, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the parameters of the estimator's ``fit``, and those of the splitter's ``split``."""
        given = {name: for_sklearn(value) for name, value in given.items()}
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", **given)
            return routed.estimator.fit, routed.get("splitter", Bunch(split={})).split
        known = inspect.signature(estimator.fit).parameters.values()
        named = {parameter.name for parameter in known}
        to_split = {"groups": given["groups"]} if "groups" in given else {}
        if not ("groups" in named or set(GRIDS) & set(estimator.get_params(deep=False))):
            given.pop("groups", None)
        unknown = sorted(set(given) - named)
        if unknown and all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in known):
            raise TypeError(f"{_name(estimator)}.fit does not take {', '.join(unknown)}")
        return given, to_split

    def _search(
        self,
        estimator: Any,
        X: Any,
        y: np.ndarray,
        fit_params: dict[str, Any],
        split_params: dict[str, Any],
        seed: int | None,
    ) -> tuple[Regrouping, list[dict[str, Any]]]:
        """Return the regrouping with the largest cross-validated average precision, and what was tried."""
        classes, index, counts = np.unique(y, return_inverse=True, return_counts=True)
        (X,) = indexable(X)  # as CSR where it is sparse: folds take rows
        folds = self._folds(X, y, split_params, seed)
        candidates = _ladder(counts, self.threshold, self.min_cluster_size)
        features = self._features(X, y) if len(candidates) > 1 else np.zeros((len(y), 1))

        def precision(regrouping: Regrouping, train: np.ndarray, test: np.ndarray) -> float:
            """Train on a fold's training samples; return the average precision on its test samples."""
            X_train, _ = _safe_split(estimator, X, None, train)
            X_test, _ = _safe_split(estimator, X, None, test, train)
            params = {
                name: _safe_indexing(value, train) if np.ndim(value) > 0 and len(value) == len(y) else value
                for name, value in fit_params.items()
            }
            # A pseudo-class may have few training samples here, or none.
            labels, parent = regrouping.pseudo_labels_[train], regrouping.parent_
            labels, parent = merge_small(features[train], labels, parent, self.min_cluster_size)
            fitted = _trained(estimator, X_train, labels, classes, parent, params)
            scores = aggregate(_pseudo_scores(fitted, X_test, len(parent)), parent, self.aggregation)
            return selection_score(index[test], scores, counts)

        regroupings, tried = [], []
        for wanted in candidates:
            n_clusters = dict(zip(classes.tolist(), wanted, strict=True))
            regrouping = self._regrouping(n_clusters, seed).fit(features, y)
            try:
                precisions = [precision(regrouping, train, test) for train, test in folds]
            except (ValueError, RuntimeError) as error:
                if not tried:  # without any regrouping: then it is not the clusters
                    raise
                warnings.warn(f"n_clusters={n_clusters} is left out: {error}", UserWarning, stacklevel=3)
                continue
            regroupings.append(regrouping)
            found = {
                "mean_average_precision": float(np.mean(precisions)),
                "std_average_precision": float(np.std(precisions)),
            }
            tried.append({"n_clusters": _found_clusters(regrouping), **found, "average_precision": precisions})
        best = int(np.argmax([entry["mean_average_precision"] for entry in tried]))  # the first of equal ones
        return regroupings[best], tried

    def _folds(
        self, X: Any, y: np.ndarray, split_params: dict[str, Any], seed: int | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the folds, the same for all candidates, with every class on both sides of each."""
        classes, counts = np.unique(y, return_counts=True)
        if counts.min() < 2:
            alone = classes.tolist()[counts.argmin()]
            raise ValueError(f"n_clusters='auto' cross-validates: class {alone!r} needs at least 2 samples and has 1")
        if isinstance(self.cv, int | np.integer):
            kind = StratifiedGroupKFold if split_params else StratifiedKFold
            splitter = kind(min(self.cv, int(counts.min())), shuffle=True, random_state=seed)
        else:
            splitter = check_cv(self.cv, y, classifier=True)
        folds = list(splitter.split(X, y, **split_params))
        if not folds:
            raise ValueError(f"cv is {self.cv}, which has no folds")
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


def _score_method(*places: Any) -> str:
    """Return the method that gives scores, which one of the places must have."""
    for method in ("predict_proba", "decision_function"):
        if any(hasattr(place, method) for place in places):
            return method
    raise ValueError(f"{_name(places[0])} has neither predict_proba nor decision_function; one is needed")


_ABOUT_CLASSES = re.compile(r"(?i)class(?!ifi)|n_samples|members")


def _trained(
    estimator: Any, X: Any, labels: np.ndarray, classes: np.ndarray, parent: np.ndarray, fit_params: dict[str, Any]
) -> Any:
    """Return the estimator, trained on pseudo-labels 0 .. K - 1; what goes wrong with these is said."""
    model = for_pseudo_classes(estimator, classes, parent)
    fit_params = {
        name: by_pseudo_class(name.rpartition("__")[2], value, classes, parent) for name, value in fit_params.items()
    }
    try:
        with _threads(X):
            fitted = model.fit(X, labels, **fit_params)
    except (ValueError, RuntimeError) as error:
        if type(error) not in (ValueError, RuntimeError) or not _ABOUT_CLASSES.search(str(error)):
            raise
        counts = np.bincount(labels)
        k = int(counts.argmin())
        raise type(error)(
            f"{error}\n{_name(estimator)} was trained on {len(parent)} pseudo-classes. The smallest, {k}, is part of "
            f"class {classes.tolist()[parent[k]]!r} and its sample count is {counts[k]}: if that is too few, raise "
            "min_cluster_size or lower n_clusters. What is for two classes, such as a scoring or a threshold, belongs "
            "around RegroupClassifier"
        ) from error
    _score_method(fitted)
    if np.isnan(getattr(fitted, "best_score_", 0.0)):
        raise ValueError(
            f"{_name(estimator)} could not score its candidates on {len(parent)} pseudo-classes; use a scoring for "
            "several classes (average_precision), or search around RegroupClassifier"
        )
    known = getattr(fitted, "classes_", np.arange(len(parent)))
    if not np.array_equal(known, np.arange(len(parent))):
        raise ValueError(
            f"{_name(estimator)} knows {len(known)} of the {len(parent)} pseudo-classes after training; "
            "it must not leave any out, nor keep other classes"
        )
    return fitted


def _threads(X: Any) -> AbstractContextManager:
    """Return a context with one OpenMP thread for a small X, and as many as usual for another."""
    small = math.prod(np.shape(X) if isinstance(X, list | tuple) else getattr(X, "shape", ())) < WORTH_THREADS
    return one_thread("openmp") if small else nullcontext()


def _pseudo_scores(estimator: Any, X: Any, n_pseudo: int) -> np.ndarray:
    """Return probabilities of the pseudo-classes 0 .. n_pseudo - 1."""
    method = _score_method(estimator)
    with _threads(X):
        found = np.asarray(getattr(estimator, method)(X), dtype=np.float64)
    if method == "decision_function":
        found = np.stack([expit(-found), expit(found)], axis=1) if found.ndim == 1 else softmax(found, axis=1)
    if found.shape[1:] != (n_pseudo,):
        raise ValueError(f"{_name(estimator)} gives scores of shape {found.shape} for {n_pseudo} pseudo-classes")
    return found


def _ladder(counts: np.ndarray, threshold: float | None, min_cluster_size: int) -> list[list[int]]:
    """Return the candidates, from no regrouping by doublings to twice the paper's numbers of clusters."""
    paper = np.array(cluster_counts(counts, threshold=threshold))
    threshold = counts.min() if threshold is None else threshold
    # A class that the paper leaves whole stays whole, and none has more clusters than it has room for.
    room = np.where(paper > 1, np.maximum(counts // min_cluster_size, 1), 1)
    factors = 2.0 ** np.arange(-math.ceil(math.log2(counts.max() / threshold)), 2)
    wanted = np.clip(np.ceil(np.outer(factors, counts) / threshold).astype(int), 1, room)
    return [list(rung) for rung in dict.fromkeys(map(tuple, wanted.tolist()))]


class _InputTags(InputTags):
    dataframe = True  # imbalanced-learn's tags, which need not be installed


class _SamplerTags(Tags):
    sampler_tags = SimpleNamespace(sample_indices=False)


class Regrouper(OneToOneFeatureMixin, _Regroups):
    """A sampler of imbalanced-learn that turns classes into pseudo-classes and draws none.

    The steps after it, other samplers included, see pseudo-labels. The pipeline therefore **predicts pseudo-classes**,
    and the way back is the caller's::

        scores = aggregate(pipeline.predict_proba(X), pipeline["regrouper"].parent_)  # and `classes_` names the columns

    Without that last step a score against class labels (`cross_val_score`) has no meaning. Where it is wanted, put
    the rest of the pipeline into `RegroupClassifier` instead: it trains a pipeline of samplers and a classifier on
    pseudo-labels, translates their options that name classes, and predicts classes.

    Parameters
    ----------
    clusterer, threshold, n_clusters, min_cluster_size, encoder, random_state
        See `RegroupClassifier`; there is no ``"auto"``.

    Attributes
    ----------
    regrouping_ : Regrouping
        The fitted regrouping, whose ``classes_`` [C] and ``parent_`` [K] are attributes here, too.
    sampling_strategy_ : dict
        Empty, as no class is sampled: imbalanced-learn's samplers have it.

    Examples
    --------
    >>> from imblearn.over_sampling import RandomOverSampler
    >>> from imblearn.pipeline import make_pipeline
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> pipeline = make_pipeline(
    ...     Regrouper(random_state=0), RandomOverSampler(random_state=0), LogisticRegression(max_iter=1000)
    ... ).fit(X, y == 0)
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
        min_cluster_size: int = 2,
        encoder: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.clusterer = clusterer
        self.threshold = threshold
        self.n_clusters = n_clusters
        self.min_cluster_size = min_cluster_size
        self.encoder = encoder
        self.random_state = random_state

    def __sklearn_tags__(self):
        inputs = _InputTags(sparse=self._clusters_sparse())
        return _SamplerTags(estimator_type="sampler", target_tags=TargetTags(required=True), input_tags=inputs)

    def fit(self, X: Any, y: Sequence[Any]) -> Regrouper:
        """Find the pseudo-classes, as `fit_resample` does."""
        self.fit_resample(X, y)
        return self

    def fit_resample(self, X: Any, y: Sequence[Any]) -> tuple[Any, Any]:
        """Return X as it is, and pseudo-labels, int64 [n], in the kind of container that `y` is."""
        labels = self._labels(X, y)
        self.regrouping_ = self._regroup(for_sklearn(X), labels, self.n_clusters, seed_of(self.random_state))
        self.classes_, self.parent_ = self.regrouping_.classes_, self.regrouping_.parent_
        self.sampling_strategy_: dict[Any, int] = {}
        pseudo = self.regrouping_.pseudo_labels_
        if isinstance(y, pd.Series | pd.DataFrame):
            names = {"name": y.name} if isinstance(y, pd.Series) else {"columns": y.columns}
            return X, type(y)(pseudo, index=y.index, **names)
        return X, pseudo.tolist() if isinstance(y, list) else pseudo
