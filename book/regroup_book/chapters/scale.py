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
PASSES = 12  # of k-means over all features: one for the subsample, ten that move the centers, one for the labels
EPOCHS, BATCH_SIZE = 8, 256
SIDE = 32  # height and width of the stored images
LAST_LAYER = 256  # the width of the last layer of `small-resnet`


@dataclass(frozen=True)
class Measured:
    """Constants of one machine, and the file that they come from in `values`."""

    machine: str
    values: dict[str, Any]
    # A pass of k-means over features of `width` dimensions takes n · (the first + K · the second).
    seconds_a_row: float
    seconds_a_row_and_cluster: float
    width: int
    # Of one image by the pre-trained encoder, and the dimensions of its features.
    seconds_to_encode: float
    feature_width: int
    # Of one image in one epoch from disk with two classes, and what each further class adds.
    seconds_to_train: float
    seconds_a_class: float
    bytes_a_second: float  # images read from the disk, shuffled and augmented, when nothing else waits for them
    bytes_a_row: float  # memory of `Regrouping` beside that of k-means: labels and pseudo-labels

    @property
    def wider(self) -> float:
        """How many times as wide the encoder's features are as those that were clustered."""
        return self.feature_width / self.width

    def seconds_a_pass(self, k: float) -> float:
        """Return the seconds that a pass of k-means over features of `width` takes for each row."""
        return self.seconds_a_row + k * self.seconds_a_row_and_cluster


def load_measured(path: str | Path | None = None) -> Measured:
    """Read what the benchmark wrote; default: ``benchmarks/scale.json`` of the book's checkout."""
    path = Path(path) if path else book_root() / "benchmarks" / "scale.json"
    try:
        return _constants(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} does not hold the whole benchmark ({type(error).__name__}: {error}); "
            "run python benchmarks/scale.py"
        ) from error


def _constants(values: dict[str, Any]) -> Measured:
    machine, training, encoding = values["machine"], values["training"], values["encoding"]
    passes = [found for found in values["numbers"] if found["width"] == values["width"]]
    heads, regrouping = values["heads"], values["regrouping"]
    a, b = _line([p["n_clusters"] for p in passes], [p["seconds_a_pass"] / p["rows"] for p in passes])
    _, per_class = _line([h["n_classes"] for h in heads], [1 / h["images_per_second"] for h in heads])
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
        bytes_a_row=1e6 * (regrouping["anonymous_mb"] - values["rows"][-1]["anonymous_mb"]) / regrouping["rows"],
    )


def _line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return intercept and slope of the line whose relative errors are least."""
    y = np.asarray(y, float)
    design = np.stack([np.ones(len(x)), np.asarray(x, float)], axis=1) / y[:, None]
    intercept, slope = np.linalg.lstsq(design, np.ones(len(x)), rcond=None)[0]
    return float(intercept), float(slope)


def hours(measured: Measured, n: float, k: float) -> dict[str, float]:
    """Return the hours of each step for n images and K clusters, on one machine similar to the measured one."""
    seconds = {
        "encode": n * measured.seconds_to_encode,
        "cluster": PASSES * n * measured.seconds_a_pass(k) * measured.wider,
        "train": EPOCHS * n * (measured.seconds_to_train + (k - 1) * measured.seconds_a_class),
    }
    return {step: value / 3600 for step, value in seconds.items()}


def sizes(measured: Measured, n: float, k: float) -> dict[str, float]:
    """Return the bytes on disk (``images``, ``features``) and in memory.

    In memory: ``labels`` (one process has those of all rows), ``head`` (weights, gradients and momentum of the last
    layer) and ``logits`` (a batch of them, as float32 and as probabilities, and their gradient).
    """
    return {
        "images": n * SIDE**2 * 3,
        "features": n * measured.feature_width * FLOAT,
        "labels": n * measured.bytes_a_row,
        "head": 3 * k * LAST_LAYER * FLOAT,
        "logits": 3 * k * BATCH_SIZE * FLOAT,
    }


def cost_table(
    measured: Measured, cases: Mapping[str, tuple[int, int]], *, machine_hour: float, terabyte_month: float
) -> pd.DataFrame:
    """Return what data sets of n images and K clusters cost, one column per data set.

    The prices are those of an hour of the machine, and of a terabyte on disk for a month.
    """
    columns = {}
    for name, (n, k) in cases.items():
        time, size = hours(measured, n, k), sizes(measured, n, k)
        total = sum(time.values())
        columns[name] = {
            "images": f"{n:,}",
            "clusters K": f"{k:,}",
            **{f"{step}, machine hours": f"{value:,.1f}" for step, value in time.items()},
            "machine hours": f"{total:,.0f}",
            "price of the machine": f"{total * machine_hour:,.0f}",
            "images on disk, TB": f"{size['images'] / 1e12:,.3f}",
            "features on disk, TB": f"{size['features'] / 1e12:,.3f}",
            "price of the disk per month": f"{(size['images'] + size['features']) / 1e12 * terabyte_month:,.2f}",
            "labels in memory, GB": f"{size['labels'] / 1e9:,.2f}",
            "last layer and logits in memory, GB": f"{(size['head'] + size['logits']) / 1e9:,.2f}",
        }
    return pd.DataFrame(columns).rename_axis("quantity")


def breaking_points(measured: Measured, *, memory_gb: float, smallest_class: float) -> dict[str, float]:
    """Return from where on something other than the usual costs dominates.

    ``head``: K from which the last layer takes longer than the network before it. ``cluster``: K from which clustering
    takes longer than encoding. ``images``: n at which K = n / `smallest_class` is the smaller of the two. ``memory``: n
    whose labels fill the memory. ``side``: side of images that come from the disk just as fast as the network trains.
    """
    head = measured.seconds_to_train / measured.seconds_a_class
    budget = measured.seconds_to_encode / (PASSES * measured.wider)
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
    predicted = wide["rows"] * measured.seconds_a_pass(wide["n_clusters"]) * wide["width"] / measured.width
    return wide["width"], predicted / wide["seconds_a_pass"]
