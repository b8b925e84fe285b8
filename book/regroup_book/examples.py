"""Data sets of scikit-learn, written to files like those of a user."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits

from regroup_lib.files import atomic_path, data_directory


def write_digits(data_dir: str | Path | None = None) -> Path:
    """Write scans as PNG files, in one folder for each digit, to the data directory unless they are there."""
    path = data_directory(data_dir) / "examples" / "digit-scans"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    scans, digits = load_digits(return_X_y=True)
    pixels = np.rint(scans * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".digit-scans-") as scratch:
        written = Path(scratch) / path.name
        for number, (scan, digit) in enumerate(zip(pixels, digits, strict=True)):
            (written / str(digit)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(scan).save(written / str(digit) / f"{number:04}.png")
        if not path.exists():  # another process may have written it meanwhile
            shutil.move(written, path)
    return path


def write_tumors(data_dir: str | Path | None = None) -> Path:
    """Write a table whose last column is the diagnosis to the data directory."""
    path = data_directory(data_dir) / "examples" / "breast-cancer.csv"
    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.data.assign(diagnosis=np.array(["malignant", "benign"])[bunch.target])
    with atomic_path(path) as partial:
        frame.to_csv(partial, index=False)
    return path
