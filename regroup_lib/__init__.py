"""Imbalanced classification by regrouping: large classes into pseudo-classes, scores back to classes."""

from regroup_lib import losses
from regroup_lib.clusters import describe_clusters
from regroup_lib.data import Dataset, load_data
from regroup_lib.encoders import encode, make_encoder
from regroup_lib.experiments import EncoderSpec, Record, Spec, load_records, run, sweep
from regroup_lib.metrics import evaluate, total_variation
from regroup_lib.regroup import Regrouping, aggregate, cluster_counts
from regroup_lib.tasks import make_task

__all__ = [
    "Dataset",
    "EncoderSpec",
    "Record",
    "Regrouping",
    "Spec",
    "aggregate",
    "cluster_counts",
    "describe_clusters",
    "encode",
    "evaluate",
    "load_data",
    "load_records",
    "losses",
    "make_encoder",
    "make_task",
    "run",
    "sweep",
    "total_variation",
]
