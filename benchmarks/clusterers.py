"""Time and peak memory of every clusterer on 45,000 x 1,280 features, each in a process of its own.

Run it on a machine that does nothing else: ``python benchmarks/clusterers.py``. It writes
``results/benchmarks/clusterers.json``, which the chapter on ablations shows. The features are those of CIFAR-10's
majority (all but airplane) by the pre-trained encoder, where they are in the data directory; else made-up blobs.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import re
import resource
import sys
import time
from pathlib import Path

import numpy as np

from regroup_book.plans import INCEPTION
from regroup_lib.clusterers import CLUSTERERS, make_clusterer
from regroup_lib.data.load import load_data
from regroup_lib.encoders.features import encode
from regroup_lib.files import atomic_path, results_directory

NUMBERS = (9, 99)


def features() -> tuple[np.ndarray, str]:
    """Return what is clustered, float32 [45000, 1280], and where it is from."""
    try:
        dataset = load_data("cifar10")
        encoded = encode(dataset, INCEPTION).splits["train"]
        return encoded[dataset.train.labels != 0], "Inception-v3 features of CIFAR-10 without airplanes"
    except (ValueError, OSError) as error:
        print(f"made-up blobs, as there are no features: {error}", file=sys.stderr)
        rng = np.random.default_rng(0)
        centers = rng.normal(size=(9, 1280)).astype(np.float32)
        return centers[np.arange(45000) % 9] + rng.normal(size=(45000, 1280)).astype(np.float32), "made-up blobs"


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, in megabytes.

    On Linux a new process takes over its parent's `ru_maxrss`, so the kernel's own mark of the process is read there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii"))[1]) * 1024 / 1e6
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(path: str, name: str, n_clusters: int, results) -> None:
    """Cluster once and report; runs in a fresh process."""
    data = np.load(path)
    before, start = peak_mb(), time.perf_counter()
    labels = make_clusterer(name, n_clusters, 0).fit_predict(data)
    seconds = time.perf_counter() - start
    sizes = np.bincount(labels)
    results.put({"seconds": seconds, "mb": max(0.0, peak_mb() - before), "sizes": [int(sizes.min()), int(sizes.max())]})


def main() -> None:
    """Measure all clusterers and write the file."""
    data, source = features()
    folder = results_directory() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".features.npy"
    np.save(scratch, data)
    context, rows = multiprocessing.get_context("spawn"), []
    try:
        for n_clusters in NUMBERS:
            for name in CLUSTERERS:
                results = context.Queue()
                process = context.Process(target=measure, args=(str(scratch), name, n_clusters, results))
                process.start()
                found = results.get(timeout=3600)
                process.join()
                rows.append({"clusterer": name, "n_clusters": n_clusters} | found)
                print(
                    f"{name:20s} K {n_clusters:3d}  {found['seconds']:7.1f} s  {found['mb']:7.0f} MB  {found['sizes']}"
                )
    finally:
        scratch.unlink(missing_ok=True)
    text = f"{data.shape[0]:,} × {data.shape[1]:,} ({source}), {os.cpu_count()} cores {platform.machine()}"
    with atomic_path(Path(folder / "clusterers.json")) as partial:
        partial.write_text(json.dumps({"text": text, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
