"""Imbalanced classification by regrouping: large classes into pseudo-classes, scores back to classes.

What is named here is imported when it is first used, so that `import regroup_lib` takes no time and a scikit-learn
user does not load PyTorch.
"""

from regroup_lib.extras import import_extra

# Name -> the module that has it; a module itself where the two are one.
_WHERE = {
    "Dataset": "dataset",
    "EncoderSpec": "specs",
    "Record": "records",
    "RegroupClassifier": "estimator",
    "Regrouper": "estimator",
    "Regrouping": "regroup",
    "Spec": "specs",
    "TableSpec": "specs",
    "aggregate": "regroup",
    "cluster_counts": "regroup",
    "compare": "yourdata",
    "describe_clusters": "clusters",
    "diagnose": "diagnostics",
    "encode": "encoders",
    "evaluate": "metrics",
    "fit_regrouped": "neural",
    "load_data": "data",
    "load_records": "records",
    "losses": "losses",
    "make_encoder": "encoders",
    "make_task": "tasks",
    "run": "experiments",
    "sweep": "sweeps",
    "total_variation": "metrics",
}
__all__ = list(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_extra(f"{__name__}.{_WHERE[name]}")
    value = module if name == _WHERE[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
