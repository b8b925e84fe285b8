"""This project's training loop beside the one that most people would write, on one machine, in one run.

Both train the same network on airplane against the rest of CIFAR-10, with the same batch and number of epochs, and
measure test AP after each epoch. Each loop runs in a process of its own, so that peak memory is its own.

    python benchmarks/training.py                 the full comparison: all 50,000 images
    python benchmarks/training.py --images 5000   a quick look; AP says little then

Prints one table and writes it, with the curves, to a JSON file where ``--output`` names one.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score
from torchvision import transforms

from regroup_lib.data.dataset import DataError
from regroup_lib.data.tasks import make_task
from regroup_lib.encoders.features import encode
from regroup_lib.files import atomic_path, data_directory
from regroup_lib.nn.models import build_network
from regroup_lib.nn.training import ResidentImages, TrainingOptions, predict, train
from regroup_lib.regroup import Regrouping

TASK = "cifar10-airplane"
BATCH = 256
ENCODER = "onnx:inception_v3_mixed_8"


def some(task, images):
    """Return training images and labels of the task, the first `images` of a fixed shuffle."""
    rows = np.random.default_rng(0).permutation(len(task.train))[:images]
    return task.train.inputs[rows], task.train.labels[rows]


class PILImages(torch.utils.data.Dataset):
    """The plain way to hold images, as torchvision's own data sets do."""

    def __init__(self, inputs, labels, transform):
        self.inputs, self.labels, self.transform = inputs, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.inputs[index].squeeze())), int(self.labels[index])


def plain_loop(epochs, images):
    """Train as tutorials do: PIL images, per-image transforms, a DataLoader with two workers, float32."""
    task = make_task(TASK, validation_fraction=0)

    normalize = [transforms.ToTensor(), transforms.Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))]
    augment = [transforms.RandomCrop(32, padding=3, padding_mode="reflect"), transforms.RandomHorizontalFlip()]
    training = PILImages(*some(task, images), transforms.Compose(augment + normalize))
    test = PILImages(task.test.inputs, task.test.labels, transforms.Compose(normalize))
    loader = torch.utils.data.DataLoader(training, BATCH, shuffle=True, num_workers=2)
    test_loader = torch.utils.data.DataLoader(test, 1000, num_workers=2)
    torch.manual_seed(0)
    network = build_network("small-resnet", in_channels=3, n_classes=2, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    loss = torch.nn.CrossEntropyLoss()
    curve, training_seconds, begin = [], 0.0, time.perf_counter()
    for _ in range(epochs):
        start = time.perf_counter()
        network.train()
        for batch, targets in loader:
            optimizer.zero_grad()
            loss(network(batch), targets).backward()
            optimizer.step()
        schedule.step()
        training_seconds += time.perf_counter() - start
        network.eval()
        with torch.no_grad():
            scores = torch.cat([network(batch).softmax(1)[:, 1] for batch, _ in test_loader])
        curve.append([time.perf_counter() - begin, average_precision_score(task.test.labels, scores.numpy())])
    return {"images_per_second": len(training) * epochs / training_seconds, "curve": curve}


def this_loop(epochs, images):
    """Train with `regroup_lib.nn.training.train`."""
    task = make_task(TASK, validation_fraction=0)
    inputs, labels = some(task, images)
    begin = time.perf_counter()
    resident = ResidentImages(inputs)
    test = ResidentImages(task.test.inputs, statistics=resident)
    network = build_network("small-resnet", in_channels=3, n_classes=2, seed=0)

    def measure(network, epoch):
        logits, _ = predict(network, test)
        ap = average_precision_score(task.test.labels, logits[:, 1] - logits[:, 0])
        return {"elapsed": time.perf_counter() - begin, "average_precision": ap}

    options = TrainingOptions(epochs=epochs, batch_size=BATCH)
    history = train(network, resident, labels, options=options, seed=0, on_epoch=measure)
    curve = [[t["elapsed"], t["average_precision"]] for t in history.traces]
    return {"images_per_second": len(labels) * epochs / history.seconds, "curve": curve}


def regrouping(epochs, images):
    """Cluster the cached features of the majority, as a run of `rg` does (reading the cache included)."""
    task = make_task(TASK, validation_fraction=0)
    encoded = encode(task.dataset, ENCODER)
    start = time.perf_counter()
    features = encode(task.dataset, ENCODER).splits["train"][task.train.index]
    Regrouping(random_state=0).fit(features, task.train.labels)
    return {"seconds": time.perf_counter() - start, "encode_seconds": encoded.seconds}


LOOPS = {"plain": plain_loop, "this": this_loop, "regrouping": regrouping}


def measured(name, epochs, images):
    """Run one of `LOOPS` in a process of its own; return its result with the peak memory of its process tree."""
    command = [sys.executable, __file__, "--child", name, "--epochs", str(epochs), "--images", str(images)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    root, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:  # shared pages count in parts, so workers that share the data are not charged twice
            tree = [root, *root.children(recursive=True)]
            peak = max(peak, sum(p.memory_full_info().pss for p in tree))
        except psutil.Error:  # one of them has just ended
            pass
        time.sleep(3)  # a look costs a tenth of a second of one core
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    result = json.loads(process.stdout.read().splitlines()[-1])
    return result | {"peak_memory_mb": peak / 2**20}


def main():
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--short", type=int, nargs="*", default=[4], help="also this loop with so many epochs")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--child", choices=LOOPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(LOOPS[arguments.child](arguments.epochs, arguments.images)))
        return
    try:
        make_task(TASK)
    except DataError as error:
        raise SystemExit(f"the benchmark trains on CIFAR-10: {error}") from None
    rows = {"plain loop": ("plain", arguments.epochs), "this loop": ("this", arguments.epochs)}
    rows |= {f"this loop, {epochs} epochs": ("this", epochs) for epochs in arguments.short}
    results = {}
    for name, (loop, epochs) in rows.items():
        print(f"{name}: {epochs} epochs of {arguments.images:,} images ...", flush=True)
        results[name] = measured(loop, epochs, arguments.images) | {"epochs": epochs}
    if (data_directory() / "encoders" / f"{ENCODER.removeprefix('onnx:')}.onnx").exists():
        results["regrouping step"] = measured("regrouping", 0, 0)
    else:
        print(f"the regrouping step is left out: {ENCODER} is not in the data directory")
    report(results)
    if arguments.output:
        machine = {"cores": os.cpu_count(), "architecture": platform.machine(), "torch": torch.__version__}
        machine["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        values = {"date": date.today().isoformat(), "images": arguments.images, "machine": machine, "rows": results}
        with atomic_path(arguments.output) as partial:
            partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def report(results):
    """Print one table: every number of this loop as a ratio to the plain one's."""
    plain = results["plain loop"]
    target_seconds, target = plain["curve"][-1]
    table = Table("loop", "epochs", "images/s", "ratio", "peak memory", "test AP", "seconds", title="Training")
    table.add_column("time to the plain loop's AP")
    for name, row in results.items():
        if "curve" not in row:
            continue
        reached = next((seconds for seconds, ap in row["curve"] if ap >= target), None)
        speed = f"{row['images_per_second']:,.0f}", f"{row['images_per_second'] / plain['images_per_second']:.2f}"
        memory, (seconds, ap) = f"{row['peak_memory_mb']:,.0f} MB", row["curve"][-1]
        to_target = f"{reached:.0f} s ({target_seconds / reached:.1f} times as fast)" if reached else "not reached"
        table.add_row(name, str(row["epochs"]), *speed, memory, f"{ap:.4f}", f"{seconds:.0f}", to_target)
    Console(width=140).print(table)
    step = results.get("regrouping step")
    if step:
        share = step["seconds"] / results["this loop"]["curve"][-1][0]
        print(f"regrouping step (read cached features, k-means): {step['seconds']:.1f} s, {share:.1%} of this loop")


if __name__ == "__main__":
    main()
