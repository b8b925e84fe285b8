"""What large data cost: clustering from disk, training from disk, encoding; time and memory, in one run.

    python benchmarks/scale.py            20 million rows, 5.1 GB on disk, about half an hour
    python benchmarks/scale.py --small    a quick look, under a minute

Writes `benchmarks/scale.json`, from which the book's chapter on scale computes; ``--small`` only where ``--output``
says. Features and images are made up: their values do not change what they cost. Each measurement runs in a process
of its own, so that peak memory is its own. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from sklearn.cluster import KMeans

from regroup_lib.encoders.features import encode_rows, make_encoder
from regroup_lib.files import atomic_path, data_directory
from regroup_lib.large import BlockKMeans
from regroup_lib.nn.models import build_network
from regroup_lib.nn.training import DiskImages, ResidentImages, TrainingOptions, train
from regroup_lib.regroup import Regrouping

OUTPUT = Path(__file__).with_suffix(".json")
ENCODER = "onnx:inception_v3_mixed_8"
D = 64
GROUPS = 200  # that the made-up features have; unequal ones
SIZES = {
    False: {
        "rows": [2_500_000, 5_000_000, 10_000_000, 20_000_000],
        "sample": 500_000,
        "n_clusters": 20,
        "numbers": [20, 100, 1000],
        "number_rows": 250_000,
        "wide": 1024,
        "images": 12_288,
        "classes": [2, 1000, 20_000, 100_000],
        "encoded": 384,
    },
    True: {
        "rows": [50_000, 100_000],
        "sample": 20_000,
        "n_clusters": 5,
        "numbers": [5, 50],
        "number_rows": 20_000,
        "wide": 128,
        "images": 1024,
        "classes": [2, 100],
        "encoded": 8,
    },
}


def write_features(path: Path, n: int, d: int) -> None:
    """Write unequal Gaussian groups, float32 [n, d], in blocks."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(GROUPS, d)).astype(np.float32)
    shares = 1 / np.arange(1, GROUPS + 1)
    with path.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, d)}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, n, 2**17):
            rows = min(2**17, n - start)
            groups = rng.choice(GROUPS, rows, p=shares / shares.sum())
            stream.write((centers[groups] + rng.standard_normal((rows, d), np.float32)).data)


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Fill in the largest memory of this process while the block runs, in megabytes.

    Resident memory counts pages of mapped files too; anonymous memory is what the process has made by itself.
    """
    process, found, done = psutil.Process(), {"resident_mb": 0.0, "anonymous_mb": 0.0}, threading.Event()

    def look() -> None:
        while True:
            memory = process.memory_info()
            found["resident_mb"] = max(found["resident_mb"], memory.rss / 1e6)
            found["anonymous_mb"] = max(found["anonymous_mb"], (memory.rss - memory.shared) / 1e6)
            if done.wait(0.05):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def forget(path: Path) -> None:
    """Drop a file's pages from the system's cache, so that it is read from the disk."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---------------------------------------------------------------- each in a process of its own


def cluster(path: Path, n: int, k: int, *, max_iter: int, n_fitted: int = 200_000) -> dict[str, Any]:
    """Cluster the first rows of a file, with a fixed number of passes."""
    forget(path)
    features = np.load(path, mmap_mode="r")[:n]
    model = BlockKMeans(k, n_fitted=n_fitted, n_init=1, max_iter=max_iter, tol=-1, random_state=0)
    with peak_memory() as memory:
        start = time.perf_counter()
        model.fit(features)
        seconds = time.perf_counter() - start
    return {"rows": n, "n_clusters": k, "seconds": seconds, "inertia_a_row": model.inertia_ / n, **memory}


def regroup(path: Path, n: int, k: int) -> dict[str, Any]:
    """Regroup a binary task of all rows, as a user would."""
    forget(path)
    labels = (np.arange(n) % (k + 1) == 0).astype(np.int8)
    with peak_memory() as memory:
        start = time.perf_counter()
        regrouping = Regrouping(BlockKMeans(n_init=1, max_iter=3, tol=-1), random_state=0).fit(path, labels)
        seconds = time.perf_counter() - start
    return {"rows": n, "pseudo_classes": len(regrouping.parent_), "seconds": seconds, **memory}


def compare(path: Path, n: int, k: int, sample: int) -> dict[str, Any]:
    """Compare centres from all rows with those of scikit-learn's k-means on a subsample, on that subsample."""
    step = n // sample
    inside = np.ascontiguousarray(np.load(path, mmap_mode="r")[: sample * step : step])
    in_memory = KMeans(k, n_init=3, random_state=0).fit(inside)
    centers = BlockKMeans(k, random_state=0).fit(path).cluster_centers_.astype(np.float64)
    inertia = 0.0
    for block in np.array_split(inside, max(1, sample // 10_000)):
        distances = (block**2).sum(axis=1)[:, None] - 2 * block @ centers.T + (centers**2).sum(axis=1)
        inertia += distances.min(axis=1).sum()
    return {"rows": n, "sample": sample, "n_clusters": k, "ratio": float(inertia / in_memory.inertia_)}


def training(folder: Path, n: int) -> dict[str, Any]:
    """Train from memory and from disk, in turns, and read from the disk alone."""
    path = folder / "images.npy"
    images = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    np.save(path, images)
    labels, speeds = np.arange(n) % 10 == 0, {"resident": [], "disk": []}
    sources = {"resident": ResidentImages(images), "disk": DiskImages(path)}
    for _ in range(3):
        for name, source in sources.items():
            forget(path)
            if name == "disk":
                source.kept.clear()
            network = build_network("small-resnet", in_channels=3, n_classes=2, seed=0)
            history = train(network, source, labels, options=TrainingOptions(epochs=1), seed=0)
            speeds[name].append(n / history.seconds)
    forget(path)
    disk, generator = DiskImages(path, statistics=sources["resident"]), torch.Generator().manual_seed(0)
    start = time.perf_counter()
    for index in disk.sampler.order(generator).split(256):
        disk.augmented(index, generator, flip=True, shift=3)
    reading = n / (time.perf_counter() - start)
    medians = {name: float(np.median(found)) for name, found in speeds.items()}
    return {
        "network": "small-resnet",
        "image_bytes": images[0].nbytes,
        "images": n,
        "images_per_second": medians,
        "ratio": medians["disk"] / medians["resident"],
        "read_images_per_second": reading,
    }


def heads(n: int, classes: list[int]) -> list[dict[str, Any]]:
    """Train with ever more classes, as many as pseudo-classes would be."""
    images, found = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), []
    for n_classes in classes:
        network = build_network("small-resnet", in_channels=3, n_classes=n_classes, seed=0)
        labels = np.arange(n) % n_classes
        history = train(network, ResidentImages(images), labels, options=TrainingOptions(epochs=3), seed=0)
        seconds = np.median([trace["seconds"] for trace in history.traces])
        found.append({"n_classes": n_classes, "images_per_second": float(n / seconds)})
    return found


def encoding(folder: Path, n: int) -> dict[str, Any] | None:
    """Encode images to disk with the pre-trained encoder; None where it is not in the data directory."""
    if not (data_directory() / "encoders" / f"{ENCODER.removeprefix('onnx:')}.onnx").exists():
        return None
    images = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    encoder = make_encoder(ENCODER)
    encoder.transform(images[:64])
    with peak_memory() as memory:
        start = time.perf_counter()
        encode_rows(images, encoder, folder / "encoded.npy", block_rows=128)
        seconds = time.perf_counter() - start
    width = np.load(folder / "encoded.npy", mmap_mode="r").shape[1]
    return {"encoder": encoder.label, "width": width, "images": n, "images_per_second": n / seconds, **memory}


# ---------------------------------------------------------------- the parts


def alone(task: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call in a fresh process and return the result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(task, arguments, options)
    print(f"{task.__name__}: {json.dumps(found)}", flush=True)
    return found


def slope(path: Path, n: int, k: int) -> dict[str, Any]:
    """Measure the seconds of one pass: four passes less one, over three."""
    few, many = (alone(cluster, path, n, k, max_iter=passes, n_fitted=5 * k)["seconds"] for passes in (1, 4))
    width = np.load(path, mmap_mode="r").shape[1]
    return {"rows": n, "width": width, "n_clusters": k, "seconds_a_pass": (many - few) / 3}


def part_rows(path: Path, sizes: dict[str, Any]) -> Any:
    return [alone(cluster, path, n, sizes["n_clusters"], max_iter=3) for n in sizes["rows"]]


def part_numbers(path: Path, sizes: dict[str, Any]) -> Any:
    wide = path.with_name("wide.npy")
    n = sizes["number_rows"] * D // sizes["wide"]
    write_features(wide, n, sizes["wide"])
    found = [slope(path, sizes["number_rows"], k) for k in sizes["numbers"]]
    return [*found, slope(wide, n, sizes["numbers"][1])]


def part_regrouping(path: Path, sizes: dict[str, Any]) -> Any:
    return alone(regroup, path, sizes["rows"][-1], sizes["n_clusters"])


def part_inertia(path: Path, sizes: dict[str, Any]) -> Any:
    return alone(compare, path, sizes["rows"][-1], sizes["n_clusters"], sizes["sample"])


def part_training(path: Path, sizes: dict[str, Any]) -> Any:
    return alone(training, path.parent, sizes["images"])


def part_heads(path: Path, sizes: dict[str, Any]) -> Any:
    return alone(heads, sizes["images"] // 4, sizes["classes"])


def part_encoding(path: Path, sizes: dict[str, Any]) -> Any:
    return alone(encoding, path.parent, sizes["encoded"])


PARTS = {name.removeprefix("part_"): part for name, part in list(globals().items()) if name.startswith("part_")}
NEED_FEATURES = ("rows", "numbers", "regrouping", "inertia")


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"some of: {', '.join(PARTS)}; default: all")
    parser.add_argument("--small", action="store_true", help="a quick look")
    parser.add_argument("--folder", type=Path, help="keep the large files here, for parts that are measured later")
    parser.add_argument("--output", type=Path, help="JSON file; parts that are measured again are replaced in it")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    names, sizes = arguments.parts or list(PARTS), SIZES[arguments.small]
    output = arguments.output or (None if arguments.small else OUTPUT)
    values = json.loads(output.read_text(encoding="utf-8")) if output and output.exists() else {}
    with tempfile.TemporaryDirectory(prefix="regroup-scale-") as folder:
        path = (arguments.folder or Path(folder)) / "features.npy"
        if set(names) & set(NEED_FEATURES) and not path.exists():
            write_features(path, sizes["rows"][-1], D)
        for name in names:
            values[name] = PARTS[name](path, sizes)
    values["width"] = D
    values["machine"] = {
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    if output:
        with atomic_path(output) as partial:
            partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
