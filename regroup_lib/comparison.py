"""Which runs compare regrouping with what people do about imbalance, on a data set of the user's own."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits

from regroup_lib import tables
from regroup_lib.dataset import Dataset
from regroup_lib.files import atomic_path, data_directory
from regroup_lib.specs import OWN, PROFILES, LookSpec, OwnData, Spec, TableSpec, parse_spec

# Title -> the method's identifier for images, and for tables.
COMPARED = {
    "CE": ("ce", "plain"),
    "WCE": ("wce", "weights"),
    "ROS": ("ros", "ros"),
    "RG": ("rg", "rg"),
    "RG+WCE": ("rg-wce", "rg-weights"),
}
REGROUPED = ("RG", "RG+WCE")
ESTIMATORS = tuple(tables.ESTIMATORS)  # for tables: one bends only with clusters, the others bend by themselves
FEWEST = 10  # positives: with fewer, neither a validation split nor folds say anything
STEPS = 3000  # of the training loop, as far as EPOCHS lets
EPOCHS = (5, 40)
FEW_POSITIVES = 100  # below that a larger part of the training images is held out to choose by


def own_data(dataset: Dataset, positive: str, path: str | Path, **reading: Any) -> OwnData:
    """Return what a spec says of a user's data set.

    Parameters
    ----------
    dataset : Dataset
        What `load_data` read.
    positive : str
        One of its classes.
    path, **reading
        How it was read: see `load_data`.
    """
    return OwnData(
        digest=dataset.digest,
        classes=dataset.class_names,
        positive=positive,
        grouped="group" in (dataset.metadata or {}).get("train", {}),
        path=str(Path(path).resolve()),
        **reading,
    )


def own_task(name: str, positive: str) -> str:
    """Return the name of a task on own data: what is no letter, digit, hyphen or underscore becomes one.

    Examples
    --------
    >>> own_task("My photos (2)", "cat/dog")
    'own-My_photos__2_-cat_dog'
    """
    return OWN + "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in f"{name}-{positive}")


def table_specs(
    own: OwnData,
    name: str,
    *,
    profile: str,
    seeds: Sequence[int],
    encoder: str | None = None,
    threshold: float | None = None,
    estimators: Sequence[str] = ESTIMATORS,
) -> list[LookSpec | TableSpec]:
    """Return a look and the runs of a comparison on a table, seed by seed.

    Parameters
    ----------
    own : OwnData
    name : str
        The data set's.
    profile, seeds
        See `Spec`.
    encoder : str, optional
        A key of `tables.ENCODERS`; default: the columns themselves are clustered.
    threshold : float, optional
        Classes up to this size stay whole; default: the positive class's.
    estimators : sequence of str
        Keys of `tables.ESTIMATORS`.
    """
    common = {"profile": profile, "task": own_task(name, own.positive), "own": own}
    regrouping = {"encoder": encoder, "threshold": threshold}
    runs = [
        parse_spec(
            common
            | {"kind": "table", "seed": seed, "method": method, "estimator": e}
            | (regrouping if title in REGROUPED else {})
        )
        for seed in seeds
        for e in estimators
        for title, (_, method) in COMPARED.items()
    ]
    return [parse_spec(common | regrouping | {"kind": "look", "holds": "rows", "seed": seeds[0]}), *runs]


def image_specs(
    own: OwnData,
    dataset: Dataset,
    *,
    profile: str,
    seeds: Sequence[int],
    encoder: str = "pca",
    threshold: float | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
) -> list[LookSpec | Spec]:
    """Return a look and the runs of a comparison on images, seed by seed; see `image_settings`.

    Parameters
    ----------
    own, dataset
        See `own_data`.
    profile, seeds
        See `Spec`.
    encoder : str
        See `make_encoder`.
    threshold : float, optional
        Classes up to this size stay whole; default: the positive class's.
    epochs : int, optional
        Default: see `image_settings`.
    image_size : int, optional
        To which the images were resized, if they were.
    """
    common = {"profile": profile, "task": own_task(dataset.name, own.positive), "own": own, "image_size": image_size}
    settings = image_settings(dataset, own.positive, profile)
    settings |= {} if epochs is None else {"epochs": epochs}
    regrouping = {"encoder": encoder, "threshold": threshold}
    runs = [
        parse_spec(common | settings | {"seed": seed, "method": method} | (regrouping if title in REGROUPED else {}))
        for seed in seeds
        for title, (method, _) in COMPARED.items()
    ]
    return [parse_spec(common | regrouping | {"kind": "look", "holds": "images", "seed": seeds[0]}), *runs]


def image_settings(dataset: Dataset, positive: str, profile: str) -> dict[str, Any]:
    """Return how a network is trained on a user's images: the same for every method, chosen by their size and number.

    Images are shifted by up to a tenth of their side and not mirrored, as a mirrored image may show another class.
    """
    n, side = len(dataset.train), max(dataset.train.inputs.shape[1:3])
    n_positive = dataset.class_counts()[dataset.class_names.index(positive)]
    batch_size = 64 if n < 5000 else 128
    epochs = min(max(math.ceil(STEPS * batch_size / n), EPOCHS[0]), EPOCHS[1])
    return {
        "network": "tiny-resnet" if side <= 16 else "slim-resnet" if side <= 48 else "slim-resnet-64",
        "epochs": PROFILES["smoke"]["epochs"] if profile == "smoke" else epochs,
        "batch_size": batch_size,
        "peak_lr": 0.1,
        "flip": False,
        "shift": max(1, side // 10),
        "validation_fraction": 0.1 if n_positive >= FEW_POSITIVES else 0.2,
        "trace_test": False,
    }


# ---------------------------------------------------------------- examples


def write_example(name: str, data_dir: str | Path | None = None) -> Path:
    """Write a data set that scikit-learn embeds as a user would have it, and return its path.

    Parameters
    ----------
    name : {"digit-scans", "breast-cancer"}
        A folder of PNG files, one folder a digit, or a CSV file whose last column is the diagnosis.
    data_dir : path, optional
        It goes to ``examples/`` of the data directory; what is there is left as it is.
    """
    folder = data_directory(data_dir) / "examples"
    if name == "breast-cancer":
        path = folder / "breast-cancer.csv"
        if not path.exists():
            bunch = load_breast_cancer(as_frame=True)
            frame = bunch.data.assign(diagnosis=np.array(["malignant", "benign"])[bunch.target])
            with atomic_path(path) as partial:
                frame.to_csv(partial, index=False)
        return path
    if name == "digit-scans":
        path = folder / "digit-scans"
        if not path.exists():
            _write_digits(path)
        return path
    raise ValueError(f"no example is called {name!r}; there are digit-scans, breast-cancer")


def _write_digits(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scans, digits = load_digits(return_X_y=True)
    pixels = np.rint(scans * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".digit-scans-") as scratch:
        written = Path(scratch) / path.name
        for number, (scan, digit) in enumerate(zip(pixels, digits, strict=True)):
            (written / str(digit)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(scan).save(written / str(digit) / f"{number:04}.png")
        if not path.exists():  # another process may have been faster
            shutil.move(written, path)
