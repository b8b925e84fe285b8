"""What large data cost: hours, bytes and money from what `benchmarks/scale.py` has measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regroup_book.build import book_root

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Measured:
    """Constants of one machine.

    Attributes
    ----------
    machine : str
    values : dict
        The file as it is.
    seconds_a_row, seconds_a_row_and_cluster : float
        A pass of k-means over features of `width` dimensions takes n · (the first + K · the second).
    width : int
        Dimensions of the features that were clustered.
    seconds_to_encode, feature_width : float, int
        Of one image by the pre-trained encoder, and what comes out.
    seconds_to_train, seconds_a_class : float
        Of one image in one epoch from disk with two classes, and what each further class adds.
    bytes_a_second : float
        How fast images are read from the disk, shuffled and augmented, when nothing else waits for them.
    bytes_a_row : float
        Memory of `Regrouping` beside that of k-means: labels and pseudo-labels.
    """

    machine: str
    values: dict[str, Any]
    seconds_a_row: float
    seconds_a_row_and_cluster: float
    width: int
    seconds_to_encode: float
    feature_width: int
    seconds_to_train: float
    seconds_a_class: float
    bytes_a_second: float
    bytes_a_row: float


def load_measured(path: str | Path | None = None) -> Measured:
    """Read what the benchmark wrote.

    Parameters
    ----------
    path : path, optional
        Default: ``benchmarks/scale.json`` of the book's checkout.

    Raises
    ------
    ValueError
        If the file is missing or incomplete; the message says how to make it.
    """
    path = Path(path) if path else book_root() / "benchmarks" / "scale.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return _constants(values)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} does not hold the whole benchmark ({type(error).__name__}: {error}); "
            "run python benchmarks/scale.py"
        ) from error


def _constants(values: dict[str, Any]) -> Measured:
    machine, training, encoding = values["machine"], values["training"], values["encoding"]
    passes = [found for found in values["numbers"] if found["width"] == values["width"]]
    rows, heads = values["rows"][-1], values["heads"]
    a, b = _line([p["n_clusters"] for p in passes], [p["seconds_a_pass"] / p["rows"] for p in passes])
    _, per_class = _line([h["n_classes"] for h in heads], [1 / h["images_per_second"] for h in heads])
    regrouping = values["regrouping"]
    return Measured(
        machine=f"{machine['cores']} cores, {machine['architecture']} with {machine['cpu_capability']}",
        values=values,
        seconds_a_row=a,
        seconds_a_row_and_cluster=b,
        width=values["width"],
        seconds_to_encode=1 / encoding["images_per_second"],
        feature_width=encoding["width"],
        seconds_to_train=1 / training["images_per_second"]["disk"],
        seconds_a_class=per_class,
        bytes_a_second=training["read_images_per_second"] * training["image_bytes"],
        bytes_a_row=1e6 * (regrouping["anonymous_mb"] - rows["anonymous_mb"]) / regrouping["rows"],
    )


def _line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return intercept and slope of the line whose relative errors are least."""
    y = np.asarray(y, float)
    design = np.stack([np.ones(len(x)), np.asarray(x, float)], axis=1) / y[:, None]
    intercept, slope = np.linalg.lstsq(design, np.ones(len(x)), rcond=None)[0]
    return float(intercept), float(slope)


@dataclass(frozen=True)
class Plan:
    """What is done with the images.

    Attributes
    ----------
    passes : int
        Of k-means over all features: one for the subsample, ten that move the centers, one for the labels.
    epochs : int
    batch_size : int
    side : int
        Height and width of the stored images.
    """

    passes: int = 12
    epochs: int = 8
    batch_size: int = 256
    side: int = 32


def hours(measured: Measured, n: float, k: float, plan: Plan) -> dict[str, float]:
    """Return the hours of each step on one machine like the measured one.

    Parameters
    ----------
    measured : Measured
    n, k : float
        Images, and clusters of the majority.
    plan : Plan

    Returns
    -------
    dict of str to float
        ``encode``, ``cluster`` (time grows with the dimension of the features) and ``train``.
    """
    wider = measured.feature_width / measured.width
    a_row = (measured.seconds_a_row + k * measured.seconds_a_row_and_cluster) * wider
    an_image = measured.seconds_to_train + (k - 1) * measured.seconds_a_class
    seconds = {
        "encode": n * measured.seconds_to_encode,
        "cluster": plan.passes * n * a_row,
        "train": plan.epochs * n * an_image,
    }
    return {step: value / 3600 for step, value in seconds.items()}


def sizes(measured: Measured, n: float, k: float, plan: Plan) -> dict[str, float]:
    """Return the bytes on disk and in memory.

    Returns
    -------
    dict of str to float
        On disk: ``images``, ``features``. In memory: ``labels`` (one process has those of all rows), ``centers``,
        ``head`` (weights, gradients and momentum of the last layer) and ``logits`` (a batch of them, as float32 and as
        probabilities, and their gradient). The last layer is as wide as ``small-resnet``'s.
    """
    width = 256
    return {
        "images": n * plan.side**2 * 3,
        "features": n * measured.feature_width * FLOAT,
        "labels": n * measured.bytes_a_row,
        "centers": k * measured.feature_width * FLOAT,
        "head": 3 * k * width * FLOAT,
        "logits": 3 * k * plan.batch_size * FLOAT,
    }


def measured_table(measured: Measured) -> pd.DataFrame:
    """Return rows, time and memory of k-means from disk, as measured."""
    found = measured.values["rows"]
    rows = [
        {
            "rows": f"{row['rows'] / 1e6:g} million",
            "GB on disk": f"{row['rows'] * measured.width * FLOAT / 1e9:.2f}",
            "seconds": f"{row['seconds']:.1f}",
            "µs per row": f"{1e6 * row['seconds'] / row['rows']:.2f}",
            "resident MB": f"{row['resident_mb']:.0f}",
        }
        for row in found
    ]
    return pd.DataFrame(rows).set_index("rows")


def cost_table(
    measured: Measured, cases: Mapping[str, tuple[int, int]], plan: Plan, *, machine_hour: float, terabyte_month: float
) -> pd.DataFrame:
    """Return what data sets cost, a column per data set.

    Parameters
    ----------
    measured : Measured
    cases : mapping of str to (n, K)
    plan : Plan
    machine_hour, terabyte_month : float
        Prices of an hour of one machine like the measured one, and of a terabyte on disk for a month.
    """
    columns = {}
    for name, (n, k) in cases.items():
        time, size = hours(measured, n, k, plan), sizes(measured, n, k, plan)
        total = sum(time.values())
        disk = size["images"] + size["features"]
        columns[name] = {
            "images": f"{n:,}",
            "clusters K": f"{k:,}",
            **{f"{step}, machine hours": f"{value:,.1f}" for step, value in time.items()},
            "machine hours": f"{total:,.0f}",
            "price of the machine": f"{total * machine_hour:,.0f}",
            "images on disk, TB": f"{size['images'] / 1e12:,.3f}",
            "features on disk, TB": f"{size['features'] / 1e12:,.3f}",
            "price of the disk, a month": f"{disk / 1e12 * terabyte_month:,.2f}",
            "labels in memory, GB": f"{size['labels'] / 1e9:,.2f}",
            "last layer and logits in memory, GB": f"{(size['head'] + size['logits']) / 1e9:,.2f}",
        }
    return pd.DataFrame(columns).rename_axis("quantity")


def breaking_points(measured: Measured, plan: Plan, *, memory_gb: float, smallest_class: float) -> dict[str, float]:
    """Return from where on something other than the usual costs dominates.

    Parameters
    ----------
    measured : Measured
    plan : Plan
    memory_gb : float
        Of one machine.
    smallest_class : float
        Images of the minority, of which K = n / smallest_class follows.

    Returns
    -------
    dict of str to float
        ``head``: K from which the last layer takes longer than the network before it. ``cluster``: K from which
        clustering takes longer than encoding. ``images``: n at which K is the smaller of the two. ``memory``: n whose
        labels fill the memory. ``side``: side of images that come from the disk just as fast as the measured network
        trains.
    """
    head = measured.seconds_to_train / measured.seconds_a_class
    wider = measured.feature_width / measured.width
    budget = measured.seconds_to_encode / (plan.passes * wider)
    cluster = (budget - measured.seconds_a_row) / measured.seconds_a_row_and_cluster
    return {
        "head": head,
        "cluster": cluster,
        "images": min(head, cluster) * smallest_class,
        "memory": memory_gb * 1e9 / measured.bytes_a_row,
        "side": math.sqrt(measured.bytes_a_second * measured.seconds_to_train / 3),
    }


def wide_error(measured: Measured) -> tuple[int, float]:
    """Return a width at which a pass was measured, and the predicted time over the measured one."""
    (wide,) = [found for found in measured.values["numbers"] if found["width"] != measured.width]
    a_row = measured.seconds_a_row + wide["n_clusters"] * measured.seconds_a_row_and_cluster
    predicted = wide["rows"] * a_row * wide["width"] / measured.width
    return wide["width"], predicted / wide["seconds_a_pass"]
