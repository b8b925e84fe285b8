"""Samples, labels and options that name classes, as an estimator of pseudo-classes takes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import accumulate
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import clone
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.semi_supervised import LabelPropagation, LabelSpreading, SelfTrainingClassifier
from sklearn.utils.multiclass import check_classification_targets


def is_tensor(values: Any) -> bool:
    """Tell whether this is a tensor of PyTorch, which is not imported to find out."""
    return hasattr(values, "detach") and any(kind.__module__.startswith("torch") for kind in type(values).__mro__)


def for_sklearn(values: Any) -> Any:
    """Return tensors as arrays (halves as float32) and sparse rows with 32-bit indices; anything else as it is.

    Scikit-learn reads neither tensors of bfloat16, of a GPU or with a gradient, nor most sparse rows with 64-bit
    indices, which SciPy makes in passing even of small arrays. Masked values become NaN, since it reads what is
    behind the mask.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        return values.astype(object).filled(np.nan)
    if is_tensor(values):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() and values.element_size() < 4 else values).numpy()
    index = getattr(values, "indices", getattr(values, "row", None)) if sparse.issparse(values) else None
    if index is not None and index.dtype == np.int64 and max(values.nnz, *values.shape) < 2**31:
        values = values if values.format == "csc" else values.tocsr()
        parts = (values.data, values.indices.astype(np.int32), values.indptr.astype(np.int32))
        values = type(values)(parts, shape=values.shape)
    return values


def check_matrix(features: Any) -> None:
    """Raise a ValueError unless these are numbers in rows and columns."""
    if len(features.shape) != 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; expected [n, d]")
    if np.dtype(features.dtype).kind not in "fiub":
        raise ValueError(f"features are {features.dtype}; expected numbers")


def as_matrix(features: Any) -> Any:
    """Return features [n, d] of numbers as an array, or as CSR where they are sparse."""
    features = for_sklearn(features.tocsr() if sparse.issparse(features) else features)
    features = features if sparse.issparse(features) else np.asarray(features)
    if features.dtype == object:  # numbers in a frame whose columns may have missing values, or in Python's types
        with suppress(TypeError, ValueError):
            features = pd.DataFrame(features).to_numpy(np.float64, na_value=np.nan)
    check_matrix(features)
    return features


def count_rows_not_finite(features: np.ndarray | sparse.csr_array) -> int:
    """Return how many rows hold a NaN or an infinite value."""
    if features.dtype.kind != "f":
        return 0
    if sparse.issparse(features):
        rows = features.tocoo().row
        return len(np.unique(rows[~np.isfinite(features.data)]))
    finite = np.isfinite(features)
    return 0 if finite.all() else int((~finite).any(axis=1).sum())


def check_samples(features: Any, labels: Any) -> None:
    """Raise a ValueError unless there are rows of features, all finite, and as many labels."""
    n_rows = features.shape[0]
    if np.shape(labels) != (n_rows,):
        raise ValueError(f"{n_rows} rows of features but labels of shape {np.shape(labels)}; expected one per row")
    if n_rows == 0:
        raise ValueError("there are no samples")
    bad = count_rows_not_finite(features) if hasattr(features, "dtype") else 0  # rows of a file are checked when read
    if bad:
        raise ValueError(f"{bad} rows of features hold NaN or infinite values; remove or impute them first")


def is_number(value: Any) -> bool:
    """Tell whether this is a real number, and not True or False."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_whole(**options: Any) -> None:
    """Raise a ValueError that names the option unless each is a whole number of at least 1."""
    for name, value in options.items():
        if not (is_number(value) and value >= 1 and value % 1 == 0):  # infinity and NaN have no remainder of 0
            raise ValueError(f"{name} is {value}; it must be a whole number of at least 1")


def check_labels(labels: Any) -> np.ndarray:
    """Return class labels as an array.

    It is a ValueError if one is missing (NaN, None, NA), they are continuous or text mixed with numbers, or there is
    one class.
    """
    labels = for_sklearn(labels)
    labels = labels if hasattr(labels, "__array__") else list(labels)
    missing = int(np.asarray(pd.isna(labels)).sum())  # before NumPy makes the text "nan" of a NaN among texts
    if missing:
        raise ValueError(f"{missing} labels are missing (NaN, None or NA); leave these samples out")
    array = np.asarray(labels)
    if array.dtype.kind in "OU" and array.ndim == 1:
        kind = pd.api.types.infer_dtype(labels if isinstance(labels, list) else array)
        if kind.startswith("mixed"):
            raise ValueError("labels are of several types, such as text and numbers; expected one")
        array = array if kind == "string" else np.array(array.tolist())  # whole numbers that came as objects
    check_classification_targets(array)
    classes = np.unique(array).tolist()
    if len(classes) < 2:
        raise ValueError(f"regrouping needs at least 2 classes; y holds {len(classes)} class: {classes}")
    return array


def by_class_index(option: str, mapping: Mapping[Any, Any], classes: np.ndarray) -> dict[int, Any]:
    """Return an option's values by class index in place of class label, or say which labels do not exist."""
    position = {label: j for j, label in enumerate(classes.tolist())}
    unknown = [label for label in mapping if label not in position]
    if unknown:
        raise ValueError(f"{option} names classes {unknown}; the labels are {list(position)}")
    return {position[label]: value for label, value in mapping.items()}


GRIDS = ("param_grid", "param_distributions", "search_spaces")  # of searches
# Options of the classes in their order, or of two classes alone, with the value that changes nothing.
_BY_PLACE = {"scale_pos_weight": 1, "is_unbalance": False, "priors": None, "class_prior": None}
_ONE_CLASS = ("outlier_label", "constant")  # of neighbors within a radius, and of the dummy classifier
_VALIDATION = re.compile(
    r"(^|_)([xy]?(evals?|val|valid|test|dev|holdout|watchlist)(ation)?(_?(set|data)s?)?|y|labels?|targets?)(_|$)"
)
_SCORES = ("init_score", "base_margin")
_UNLABELED = (SelfTrainingClassifier, LabelPropagation, LabelSpreading)
_BINARY = (OneVsRestClassifier, OneVsOneClassifier, OutputCodeClassifier, ClassifierChain, MultiOutputClassifier)


def for_pseudo_classes(estimator: Any, classes: np.ndarray, parent: np.ndarray) -> Any:
    """Return a clone in which the options that name classes, wherever they are, name pseudo-classes."""
    fresh = clone(estimator)
    options = fresh.get_params()
    for part in (fresh, *options.values()):
        if isinstance(part, _UNLABELED) and -1 in classes.tolist():
            name = type(part).__name__
            raise ValueError(f"{name} takes the label -1 for none, and regrouping for a class; put {name} around it")

    def translated(name: str, value: Any) -> Any:
        *path, option = name.split("__")
        if option in GRIDS:
            prefix = "__".join([*path, "estimator", ""])
            return _mapped(value, lambda key, one: in_grid(prefix + key, one))
        new = by_pseudo_class(option, value, classes, parent)
        outside = [fresh, *(options.get(place) for place in accumulate(path, "{}__{}".format))]
        if option == "func" and value is not None and hasattr(outside[-1], "fit_resample"):
            name = type(outside[-1]).__name__
            raise ValueError(f"{name} would give func pseudo-classes; put it before RegroupClassifier in a pipeline")
        for outer in outside:
            if new is not value and isinstance(outer, _BINARY):
                outer = type(outer).__name__
                raise ValueError(f"{option} is {value} inside {outer}, which makes classes of its own; weigh samples")
        return new

    def in_grid(name: str, value: Any) -> Any:
        a_step = hasattr(value, "get_params") and not isinstance(value, type)
        return for_pseudo_classes(value, classes, parent) if a_step else translated(name, value)

    changed = {name: new for name, value in options.items() if (new := translated(name, value)) is not value}
    return fresh.set_params(**changed) if changed else fresh


def _mapped(grid: Any, change: Callable[[str, Any], Any]) -> Any:
    """Return a search's grid, or list of grids, with `change` applied to each name and value; distributions stay."""
    if not isinstance(grid, Mapping):
        return [_mapped(part, change) for part in grid] if isinstance(grid, list | tuple) else grid
    return {
        name: [change(name, value) for value in values] if isinstance(values, list | tuple | np.ndarray) else values
        for name, values in grid.items()
    }


def by_pseudo_class(option: str, value: Any, classes: np.ndarray, parent: np.ndarray) -> Any:
    """Return an option by pseudo-class where it is one by class; any other as it is."""
    if option in ("class_weight", "class_weights"):
        if isinstance(value, Mapping):
            weights = by_class_index(option, value, classes)
            return {k: weights.get(c, 1) for k, c in enumerate(parent.tolist())}
        if isinstance(value, list | tuple | np.ndarray) and len(value) == len(classes):
            return [value[c] for c in parent]
    if option in _ONE_CLASS and np.ndim(value) == 0 and value in classes.tolist():
        return int(parent.searchsorted(classes.tolist().index(value)))
    if option == "sampling_strategy" and isinstance(value, list):
        named = by_class_index(option, dict.fromkeys(value), classes)
        return np.flatnonzero(np.isin(parent, list(named))).tolist()
    if option == "sampling_strategy" and (isinstance(value, Mapping) or callable(value)):
        return _Shares(value, classes, parent)
    divided = len(parent) > len(classes)
    if divided and option in _BY_PLACE and value is not None and (np.ndim(value) or value != _BY_PLACE[option]):
        raise ValueError(
            f"{option} is {value}, which is for {len(classes)} classes, and {len(parent)} pseudo-classes are learned; "
            "use class_weight or sample_weight"
        )
    if option == "train_split" and isinstance(value, partial):  # skorch's predefined_split
        raise ValueError(f"{option} holds class labels, and pseudo-classes are learned; let a share be split off")
    return value


class _Shares:
    """A ``sampling_strategy`` that divides the samples asked of each class among its pseudo-classes, by their sizes."""

    def __init__(self, wanted: Mapping[Any, int] | Callable[..., Mapping[Any, int]], classes: Any, parent: Any):
        self.wanted, self.classes, self.parent = wanted, classes, parent
        if not callable(wanted):
            by_class_index("sampling_strategy", wanted, classes)

    def __call__(self, y: np.ndarray) -> dict[int, int]:
        y = np.asarray(y, np.int64)
        labels, counts = np.unique(y, return_counts=True)
        wanted = self.wanted(self.classes[self.parent[y]]) if callable(self.wanted) else self.wanted
        shares = {}
        for c, total in by_class_index("sampling_strategy", wanted, self.classes).items():
            ours = self.parent[labels] == c
            n, n_groups = counts[ours], int(ours.sum())
            if total < n_groups:
                name = self.classes.tolist()[c]
                raise ValueError(f"sampling_strategy asks for {total} samples of {n_groups} pseudo-classes ({name!r})")
            # One each, and the rest in proportion to theirs: then no share falls on the wrong side of a size.
            spare = n - 1 if n.max(initial=0) > 1 else n
            ends = np.cumsum(spare) * (int(total) - n_groups) // max(spare.sum(), 1)
            shares |= zip(labels[ours].tolist(), (1 + np.diff(ends, prepend=0)).tolist(), strict=True)
        return shares


def check_fit_params(y: np.ndarray, fit_params: dict[str, Any]) -> None:
    """Refuse validation data and weights that leave one class: the estimator would misunderstand them."""
    for name, value in fit_params.items():
        parts = value if isinstance(value, list | tuple) else [value]
        is_data = not (isinstance(value, Real) or all(isinstance(part, str) or callable(part) for part in parts))
        if is_data and name.rpartition("__")[2] in _SCORES:
            raise ValueError(f"{name} is for classes, and the estimator learns pseudo-classes; leave it out")
        if is_data and _VALIDATION.search(name.lower()):
            raise ValueError(
                f"{name} is validation data for classes, and the estimator learns pseudo-classes; leave it out and let "
                "the estimator split off a share of the training samples (early_stopping, validation_fraction)"
            )
    if fit_params.get("sample_weight") is None:
        return
    weights = np.asarray(fit_params["sample_weight"])
    if weights.shape != y.shape or weights.dtype.kind not in "fiub":
        raise ValueError(
            f"sample_weight is {weights.dtype} of shape {weights.shape}; expected a number for each of {len(y)} samples"
        )
    left = np.unique(y[weights != 0]).tolist()
    if not left:
        raise ValueError("sample_weight is zero for all samples")
    if len(left) < 2:
        raise ValueError(f"regrouping needs at least 2 classes; sample_weight is above 0 in {len(left)} class: {left}")


def words(text: str) -> list[str]:
    """Return a sentence's words in lower case; a number is ``0``, a sign stands for itself.

    >>> words("Sales rose 3.1 % to EUR1,200m.")
    ['sales', 'rose', '0', '%', 'to', 'eur', '0', 'm', '.']
    """
    found = re.findall(r"[^\W\d_]+|\d[\d.,]*|[^\w\s]", text.lower())
    return ["0" if word[0].isdigit() else word for word in found]
