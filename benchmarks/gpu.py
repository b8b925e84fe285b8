"""How much of a GPU the training loop uses, beside the loop that most people would write, in one run.

Measures the rate of bf16 matrix products, then trains the paper's network on random images of 32 and of 224 pixels
with a plain loop (PIL images, a DataLoader, float32) and with this project's, and counts the operations that a trained
image takes. Random images: the rate does not depend on what they show. Then several small runs share the device.

    python benchmarks/gpu.py                     the rates; needs a GPU
    python benchmarks/gpu.py --target 100        also the time to the AP that 100 plain epochs reach, on CIFAR-10
    python benchmarks/gpu.py --tiny              the same steps at a size for two cores; the numbers say nothing

Prints one table and writes it to a JSON file where ``--output`` names one.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms
from training import PILImages  # the file beside this one

from regroup_lib.data.dataset import DataError
from regroup_lib.data.tasks import make_task
from regroup_lib.files import atomic_path
from regroup_lib.nn.models import build_network, default_device
from regroup_lib.nn.training import ResidentImages, TrainingOptions, predict, train

DEVICE = default_device()


@dataclass(frozen=True)
class Setting:
    """A network, its images, and how many of them each loop sees per epoch."""

    network: str
    size: int
    batch: int
    images: int
    plain_images: int


SETTINGS = {
    False: [Setting("resnet34", 32, 256, 50_000, 20_000), Setting("resnet34-224", 224, 128, 7_000, 2_000)],
    True: [Setting("resnet34", 8, 8, 16, 16), Setting("resnet34-224", 32, 8, 16, 16)],
}
SMALL = {False: Setting("slim-resnet", 32, 256, 50_000, 0), True: Setting("tiny-resnet", 8, 16, 64, 0)}
AT_ONCE = {False: (1, 2, 4), True: (1, 2)}  # small runs that share the device
TARGET = {False: ("cifar10-airplane", "resnet34", 256), True: ("digits-0", "tiny-resnet", 64)}
PRODUCT = {False: 8192, True: 128}  # side of the matrices


def finished():
    """Return the time when the device has done all it was told."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_rate(side, repeats=20):
    """Return the operations a second of bf16 matrix products: the best of five rounds."""
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(6):  # the first warms up
        start = finished()
        for _ in range(repeats):
            a @ b
        seconds.append(finished() - start)
    return 2 * side**3 * repeats / min(seconds[1:])


def operations(setting):
    """Return the operations that training takes for an image: forward and backward, two a multiplication."""
    network = build_network(setting.network, in_channels=3, n_classes=2, seed=0)
    with FlopCounterMode(display=False) as counted:
        network(torch.zeros(2, 3, setting.size, setting.size)).sum().backward()
    return counted.get_total_flops() / 2


def random_images(number, size):
    """Return random color images and labels."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (number, size, size, 3), dtype=np.uint8), np.arange(number) % 2


def plain_loop(network, inputs, labels, *, batch, epochs, flip, on_epoch):
    """Train as tutorials do: PIL images, per-image transforms, a DataLoader with workers, float32."""
    channels, size = inputs.shape[-1], inputs.shape[1]
    normalize = [transforms.ToTensor(), transforms.Normalize((0.48,) * channels, (0.25,) * channels)]
    augment = [transforms.RandomCrop(size, padding=max(1, size // 8), padding_mode="reflect")]
    augment += [transforms.RandomHorizontalFlip()] if flip else []
    workers = min(8, os.cpu_count() or 1)
    data = PILImages(inputs, labels, transforms.Compose([*augment, *normalize]))
    loader = torch.utils.data.DataLoader(
        data, batch, shuffle=True, num_workers=workers, pin_memory=DEVICE.type == "cuda", persistent_workers=True
    )
    network.to(DEVICE)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    loss, seconds = torch.nn.CrossEntropyLoss(), []
    for epoch in range(epochs):
        start = finished()
        network.train()
        for images, targets in loader:
            optimizer.zero_grad()
            loss(network(images.to(DEVICE)), targets.to(DEVICE)).backward()
            optimizer.step()
        schedule.step()
        seconds.append(finished() - start)
        on_epoch(network.eval(), epoch + 1, transforms.Compose(normalize))
    return seconds


def measured_rate(train_some, images):
    """Return images a second after the first epoch, which warms up, and the peak of the device's memory."""
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = train_some()
    row = {"images_per_second": images / min(seconds[1:])}
    return row | ({"memory_mb": torch.cuda.max_memory_allocated() / 2**20} if DEVICE.type == "cuda" else {})


def this_loop(setting, *, epochs=4, compiled=False):
    """Return the seconds of each epoch of `regroup_lib.nn.training.train` on random images."""
    inputs, labels = random_images(setting.images, setting.size)
    network = build_network(setting.network, in_channels=3, n_classes=2, seed=0)
    options = TrainingOptions(epochs=epochs, batch_size=setting.batch, compile=compiled)
    history = train(network, ResidentImages(inputs), labels, options=options, seed=0)
    return [trace["seconds"] for trace in history.traces]


def rates(setting):
    """Return a row a loop for one network and image size."""
    network = build_network(setting.network, in_channels=3, n_classes=2, seed=0)
    inputs, labels = random_images(setting.plain_images, setting.size)

    def plain():
        options = {"batch": setting.batch, "epochs": 2, "flip": True, "on_epoch": lambda *_: None}
        return plain_loop(network, inputs, labels, **options)

    rows = {"plain loop": measured_rate(plain, setting.plain_images)}
    rows["this loop"] = measured_rate(lambda: this_loop(setting), setting.images)
    if DEVICE.type == "cuda":
        rows["this loop, compiled"] = measured_rate(lambda: this_loop(setting, compiled=True), setting.images)
    resident = ResidentImages(random_images(setting.images, setting.size)[0])
    predict(network, resident)
    start = finished()
    predict(network, resident)
    rows["evaluation"] = {"images_per_second": setting.images / (finished() - start)}
    flops = operations(setting)
    for name, row in rows.items():
        row |= {"network": setting.network, "size": setting.size, "batch": setting.batch}
        if name != "evaluation":
            row["flops_per_second"] = flops * row["images_per_second"]
    return {f"{name}, {setting.size} px": row for name, row in rows.items()}


def at_once(number, tiny):
    """Return the images a second of so many small runs together, each in a process of its own."""
    command = [sys.executable, __file__, "--child", *(["--tiny"] if tiny else [])]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    results = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        raise SystemExit("a run of several at once failed")
    setting = SMALL[tiny]
    total = sum(float(result.split()[-1]) for result in results)
    return {"images_per_second": total, "network": setting.network, "size": setting.size, "batch": setting.batch}


def to_target(epochs, short, tiny):
    """Return the test AP of the plain loop after so many epochs, and when each length of this loop reaches it."""
    name, network_name, batch = TARGET[tiny]
    task = make_task(name, validation_fraction=0)
    inputs, truth, flip = task.train.inputs, task.test.labels, not tiny
    curves = {}

    def new_network():
        return build_network(network_name, in_channels=inputs.shape[-1], n_classes=2, seed=0)

    def measured_plainly(network, epoch, transform):
        parts = []
        with torch.no_grad():
            for start in range(0, len(truth), 1000):
                images = [transform(Image.fromarray(i.squeeze())) for i in task.test.inputs[start : start + 1000]]
                parts.append(network(torch.stack(images).to(DEVICE)).softmax(1)[:, 1].cpu())
        note(epoch, torch.cat(parts).numpy())

    def note(epoch, scores):
        curves[key].append([time.perf_counter() - begin, float(average_precision_score(truth, scores))])

    key, begin = f"plain loop, {epochs} epochs", time.perf_counter()
    curves[key] = []
    options = {"batch": batch, "epochs": epochs, "flip": flip, "on_epoch": measured_plainly}
    plain_loop(new_network(), inputs, task.train.labels, **options)
    for length in short:
        key, begin = f"this loop, {length} epochs", time.perf_counter()
        curves[key] = []
        resident = ResidentImages(inputs)
        test = ResidentImages(task.test.inputs, statistics=resident)

        def measure(network, epoch, test=test):
            logits, _ = predict(network, test)
            note(epoch, logits[:, 1] - logits[:, 0])
            return {}

        settings = TrainingOptions(epochs=length, batch_size=batch, shift=max(1, inputs.shape[1] // 8), flip=flip)
        train(new_network(), resident, task.train.labels, options=settings, seed=0, on_epoch=measure)
    return {"task": name, "network": network_name, "curves": curves}


def report(peak, rows, target):
    """Print one table, and a line a curve."""
    table = Table("loop", "network", "batch", "images/s", "ratio", "TFLOP/s", "of the peak", "memory")
    table.add_row("matrix products, bf16", "", "", "", "", f"{peak / 1e12:,.2f}", "100%", "")
    for name, row in rows.items():
        plain = rows.get(f"plain loop, {row['size']} px")
        flops = row.get("flops_per_second")
        table.add_row(
            name,
            row["network"],
            str(row["batch"]),
            f"{row['images_per_second']:,.0f}",
            f"{row['images_per_second'] / plain['images_per_second']:.1f}" if plain and flops else "",
            f"{flops / 1e12:,.2f}" if flops else "",
            f"{flops / peak:.0%}" if flops else "",
            f"{row['memory_mb']:,.0f} MB" if "memory_mb" in row else "",
        )
    Console(width=140).print(table)
    if target:
        (_, plain), *_ = target["curves"].items()
        wanted = plain[-1][1]
        for name, curve in target["curves"].items():
            reached = next((seconds for seconds, ap in curve if ap >= wanted), None)
            when = f"{wanted:.4f} after {reached:.0f} s" if reached else f"{wanted:.4f} not reached"
            print(f"{target['task']}, {name}: AP {curve[-1][1]:.4f} after {curve[-1][0]:.0f} s, {when}")


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a size for two cores, to test the script")
    parser.add_argument("--target", type=int, metavar="EPOCHS", help="also the time to the AP of so many plain epochs")
    parser.add_argument("--short", type=int, nargs="*", default=[10, 20, 40], help="lengths of this loop for --target")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    tiny = arguments.tiny
    if arguments.child:
        print(SMALL[tiny].images / min(this_loop(SMALL[tiny])[1:]))
        return
    if DEVICE.type != "cuda" and not tiny:
        raise SystemExit("there is no GPU here; --tiny runs the same steps on a CPU")
    if arguments.target:
        try:
            make_task(TARGET[tiny][0])
        except DataError as error:
            raise SystemExit(f"--target trains on {TARGET[tiny][0]}: {error}") from None
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.machine()
    machine = {"device": device, "cores": os.cpu_count(), "torch": torch.__version__}
    values = {"date": date.today().isoformat(), "tiny": tiny, "machine": machine, "target": None}
    values |= {"peak_flops_per_second": peak_rate(PRODUCT[tiny]), "rows": {}}
    for setting in SETTINGS[tiny]:
        values["rows"] |= rates(setting)
        keep(values, arguments.output)
    for number in AT_ONCE[tiny]:
        values["rows"][f"{number} small runs at once" if number > 1 else "a small run"] = at_once(number, tiny)
    keep(values, arguments.output)
    if arguments.target:
        values["target"] = to_target(arguments.target, arguments.short, tiny)
        keep(values, arguments.output)
    report(values["peak_flops_per_second"], values["rows"], values["target"])


def keep(values, path):
    """Write what is measured so far: a device may be taken back."""
    if path:
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
