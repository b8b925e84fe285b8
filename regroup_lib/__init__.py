"""Imbalanced classification by regrouping.

The names here are imported when they are first used, so that `import regroup_lib` takes no time and a scikit-learn
user does not load PyTorch.
"""

from regroup_lib.extras import import_extra

# Name -> its module; `losses` is a module itself.
_WHERE = {
    "Dataset": "data.dataset",
    "EncoderSpec": "runs.specs",
    "Record": "runs.records",
    "RegroupClassifier": "estimator",
    "Regrouper": "estimator",
    "Regrouping": "regroup",
    "Spec": "runs.specs",
    "TableSpec": "runs.specs",
    "aggregate": "regroup",
    "cluster_counts": "regroup",
    "compare": "comparison",
    "describe_clusters": "diagnostics",
    "diagnose": "diagnostics",
    "encode": "encoders.features",
    "evaluate": "metrics",
    "fit_regrouped": "nn.fit",
    "load_data": "data.load",
    "load_records": "runs.records",
    "losses": "nn.losses",
    "make_encoder": "encoders.features",
    "make_task": "data.tasks",
    "run": "runs.run",
    "sweep": "runs.sweeps",
    "total_variation": "metrics",
}
__all__ = list(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_extra(f"{__name__}.{_WHERE[name]}")
    value = getattr(module, name, module)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
