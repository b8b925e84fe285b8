"""The one training loop: data resident or on disk, augmentation on batches, mixed precision, traces, checkpoints.

On two cores it trains `small-resnet` 2.5 times as fast as a DataLoader of PIL images in float32, and reaches that
loop's AP 4.8 times as fast (`benchmarks/README.md`). With a GPU the same code keeps the data there.
"""

from __future__ import annotations

import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from regroup_lib.large import open_rows
from regroup_lib.nn.checkpoints import History, Progress
from regroup_lib.nn.models import default_device
from regroup_lib.nn.samplers import BlockShuffledRows, Sampler, ShuffledRows
from regroup_lib.nn.tokenizers import PADDING, Tokenizer
from regroup_lib.progress import progress_bar

Loss = Callable[..., torch.Tensor]

WORTH_COMPILING = 30  # epochs: in fewer, compiling takes longer than it saves


@dataclass(frozen=True)
class TrainingOptions:
    """Hyper-parameters of the loop."""

    epochs: int = 8
    batch_size: int = 256  # a rest of less than an eighth joins the last batch
    optimizer: str | Callable[..., torch.optim.Optimizer] = "sgd"  # or "adam" (AdamW), or a function of the parameters
    # Or "constant", or a function of the optimizer and the number of steps that returns a scheduler.
    schedule: str | Callable[..., torch.optim.lr_scheduler.LRScheduler] = "one-cycle"
    peak_lr: float = 0.2  # top of the one-cycle schedule
    momentum: float = 0.9  # Nesterov; SGD only
    weight_decay: float = 5e-4
    warmup: float = 0.25  # share of the steps before the peak
    label_smoothing: float = 0.0  # of the default loss, cross-entropy
    flip: bool = True  # mirror half of the images
    shift: int = 3  # move by up to so many pixels, reflecting at the border
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the device multiplies it natively
    # torch.compile; "auto": in long runs on images on a GPU, where Triton and a C compiler are there
    compile: bool | Literal["auto"] = "auto"


class ResidentImages:
    """Images held as one uint8 tensor on the device, and their per-channel mean and deviation.

    Parameters
    ----------
    images : ndarray of uint8 [n, h, w, c]
    statistics : ResidentImages, optional
        Take mean and deviation from these (the training images) instead of from the images themselves.
    """

    def __init__(
        self,
        images: np.ndarray,
        *,
        statistics: ResidentImages | None = None,
        device: torch.device | None = None,
    ):
        self.device = device or default_device()
        self.width = images.shape[-1]
        self.pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        if statistics is None:
            sums = images.reshape(-1, images.shape[-1])
            mean = sums.mean(axis=0, dtype=np.float64)
            std = np.sqrt(np.maximum(_mean_square(sums) - mean**2, 1e-6))
            self.mean, self.scale = (torch.tensor(v, dtype=torch.float32, device=self.device) for v in (mean, 1 / std))
        else:
            self.mean, self.scale = statistics.mean, statistics.scale

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Return normalised float32 [b, c, h, w] (channels last in memory)."""
        return self._normalized(self.pixels[index])

    def augmented(self, index: torch.Tensor, generator: torch.Generator, *, flip: bool, shift: int) -> torch.Tensor:
        """Return a batch of randomly mirrored and shifted images."""
        return self._normalized(_moved(self.pixels, index, generator, flip=flip, shift=shift))

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().sub_(self.mean).mul_(self.scale).permute(0, 3, 1, 2)


class DiskImages(ResidentImages):
    """Images on disk, in the place of `ResidentImages` where they do not fit in memory.

    They are read by blocks of rows, and ``2 * window`` blocks are kept: ``2 * window * block_rows * h * w * c`` bytes.
    Other than with `sampler`'s order the same block is read again and again.

    Parameters
    ----------
    images : path of an ``.npy`` file, or what `large.open_rows` takes
        uint8 [n, h, w, c]. Rows that stand in order of class, or of anything else, are to be shuffled once before they
        are written: a batch has its rows from `window` blocks alone.
    statistics : ResidentImages or DiskImages, optional
        See `ResidentImages`; else the images are read once for their mean and deviation.
    block_rows, window : int
        See `samplers.BlockShuffledRows`.

    Attributes
    ----------
    sampler : BlockShuffledRows
        The order of an epoch, which `train` takes unless told otherwise.

    Raises
    ------
    ValueError
        If the array is not uint8 [n, h, w, c], or cannot be read by blocks.
    """

    def __init__(
        self,
        images: Any,
        *,
        statistics: ResidentImages | None = None,
        block_rows: int = 256,
        window: int = 16,
        device: torch.device | None = None,
    ):
        self.rows = open_rows(images)
        if len(self.rows.shape) != 4 or self.rows.dtype != np.uint8:
            raise ValueError(f"images are {self.rows.dtype} {tuple(self.rows.shape)}; expected uint8 [n, h, w, c]")
        self.device = device or default_device()
        self.width = self.rows.shape[-1]
        self.sampler = BlockShuffledRows(len(self), block_rows=block_rows, window=window)
        self.kept: OrderedDict[int, np.ndarray] = OrderedDict()
        if statistics is None:
            blocks = (self._read(start, start + block_rows) for start in range(0, len(self), block_rows))
            counts = sum(_histograms(block.reshape(-1, self.width)) for block in blocks)
            values, n = np.arange(256), counts[0].sum()
            mean = counts @ values / n
            std = np.sqrt(np.maximum(counts @ values**2 / n - mean**2, 1e-6))
            self.mean, self.scale = (torch.tensor(v, dtype=torch.float32, device=self.device) for v in (mean, 1 / std))
        else:
            self.mean, self.scale = statistics.mean, statistics.scale

    def __len__(self) -> int:
        return self.rows.shape[0]

    def batch(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Return normalised float32 [b, c, h, w] (channels last in memory)."""
        return self._normalized(self._pixels(index))

    def augmented(self, index: torch.Tensor, generator: torch.Generator, *, flip: bool, shift: int) -> torch.Tensor:
        """Return a batch of randomly mirrored and shifted images."""
        places = torch.arange(len(index), device=self.device)
        return self._normalized(_moved(self._pixels(index), places, generator, flip=flip, shift=shift))

    def _pixels(self, index: torch.Tensor | slice) -> torch.Tensor:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return torch.from_numpy(self._read(start, stop)).to(self.device)
        rows, size = index.cpu().numpy(), self.sampler.block_rows
        pixels, block_of = np.empty((len(rows), *self.rows.shape[1:]), np.uint8), rows // size
        for number in np.unique(block_of):
            here = block_of == number
            pixels[here] = self._block(int(number))[rows[here] - number * size]
        return torch.from_numpy(pixels).to(self.device)

    def _block(self, number: int) -> np.ndarray:
        if number not in self.kept:
            # A batch at the border of two windows has rows of both.
            while len(self.kept) >= 2 * self.sampler.window:
                self.kept.popitem(last=False)
            start = number * self.sampler.block_rows
            self.kept[number] = self._read(start, start + self.sampler.block_rows)
        self.kept.move_to_end(number)
        return self.kept[number]

    def _read(self, start: int, stop: int) -> np.ndarray:
        return np.array(self.rows[start : min(stop, len(self))])


class ResidentFeatures:
    """Feature vectors on the device, in the place of `ResidentImages`: nothing is augmented.

    Parameters
    ----------
    features : ndarray of float32 [n, d]
    """

    def __init__(self, features: np.ndarray, *, device: torch.device | None = None):
        self.device = device or default_device()
        self.width = features.shape[-1]
        self.features = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)).to(self.device)

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Return float32 [b, d]."""
        return self.features[index]

    def augmented(self, index: torch.Tensor, generator: torch.Generator, *, flip: bool, shift: int) -> torch.Tensor:
        """Return `batch`: features have no mirror image."""
        return self.batch(index)


class ResidentTokens:
    """Sentences as token numbers on the device, in the place of `ResidentImages`: nothing is augmented.

    Parameters
    ----------
    texts : ndarray of str [n]
    tokenizer : text.Tokenizer
        Fitted already, on training sentences.
    """

    def __init__(self, texts: np.ndarray, tokenizer: Tokenizer, *, device: torch.device | None = None):
        self.device = device or default_device()
        self.tokenizer, self.width = tokenizer, len(tokenizer)
        self.tokens = torch.from_numpy(tokenizer(texts)).to(self.device)
        self.lengths = (self.tokens != PADDING).sum(dim=1)

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Return int64 [b, length], no longer than the longest sentence among them."""
        longest = max(1, int(self.lengths[index].max()))
        return self.tokens[index, :longest].long()

    def augmented(self, index: torch.Tensor, generator: torch.Generator, *, flip: bool, shift: int) -> torch.Tensor:
        """Return `batch`: a sentence has no mirror image."""
        return self.batch(index)


Resident = ResidentImages | ResidentFeatures | ResidentTokens


def _mean_square(values: np.ndarray) -> np.ndarray:
    # By histograms: no float copy of the whole set.
    squares = np.arange(256, dtype=np.float64) ** 2
    return np.array([counts @ squares for counts in _histograms(values)]) / len(values)


def _histograms(values: np.ndarray) -> np.ndarray:
    """Return how often each channel has each value, int64 [c, 256]."""
    return np.stack([np.bincount(channel, minlength=256) for channel in values.T])


def _moved(
    pixels: torch.Tensor, index: torch.Tensor, generator: torch.Generator, *, flip: bool, shift: int
) -> torch.Tensor:
    """Return the images of `index`, randomly mirrored and shifted; one gather does both."""
    n, height, width = len(index), *pixels.shape[1:3]
    draw = {"generator": generator, "device": pixels.device}
    rows = torch.arange(height, device=pixels.device).expand(n, -1)
    columns = torch.arange(width, device=pixels.device).expand(n, -1)
    if shift:
        rows = _reflect(rows + torch.randint(-shift, shift + 1, (n, 1), **draw), height)
        columns = _reflect(columns + torch.randint(-shift, shift + 1, (n, 1), **draw), width)
    if flip:
        mirrored = torch.rand((n, 1), **draw) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    places = ((index[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]).flatten()
    return pixels.flatten(0, 2).index_select(0, places).view(n, height, width, -1)


def _reflect(position: torch.Tensor, size: int) -> torch.Tensor:
    position = position.abs()
    return torch.where(position >= size, 2 * (size - 1) - position, position)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context of a precision on a device; "auto" is bf16 where that is native."""
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_multiplies_bf16()
        precision = "bf16" if native else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def cpu_multiplies_bf16() -> bool:
    """Return whether this processor has bf16 matrix instructions (AMX or AVX512-BF16)."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def train(
    network: nn.Module,
    images: Resident,
    labels: np.ndarray,
    *,
    options: TrainingOptions,
    seed: int,
    loss: Loss | None = None,
    sampler: Sampler | None = None,
    on_epoch: Callable[[nn.Module, int], dict[str, Any]] | None = None,
    checkpoint: str | Path | None = None,
    deadline: float | None = None,
    description: str = "training",
) -> History:
    """Train a network in place.

    Parameters
    ----------
    network : Module
        Moved to the images' device, channels last.
    images : ResidentImages, DiskImages, ResidentFeatures or ResidentTokens
        Training images, or features or tokens for a network that takes those.
    labels : ndarray of int64 [n]
        Labels to train on (pseudo-labels when regrouped).
    options : TrainingOptions
    seed : int
        Seed of batches, augmentation and dropout; with the same seed, options and machine, bit for bit the same
        weights.
    loss : callable, optional
        Mean loss of (logits float32 [b, K], targets int64 [b]); default cross-entropy. A loss with ``takes_index``
        also gets the rows of the batch, one with ``begin_epoch`` is told the finished share of the training, and
        the state of a module is part of the checkpoint.
    sampler : Sampler, optional
        Rows of an epoch and their order; default: every row once, shuffled (images on disk: by blocks).
    on_epoch : callable, optional
        Called with the network (in evaluation mode) and the number of finished epochs; what it returns (plain
        numbers, strings, lists) joins the trace, and a true ``"stop"`` in it ends the training.
    checkpoint : path, optional
        Written after each epoch; where it exists the run goes on from it and ends in the same weights.
    deadline : float, optional
        A `time.monotonic`: when the next epoch would end after it, the checkpoint is written and the run stops.
    description : str
        Text before the progress bar.

    Returns
    -------
    History
        A loss that is not finite at the end of an epoch ends the run with status ``"diverged"``.

    Raises
    ------
    OutOfTime
        If the run stopped at its deadline.

    Notes
    -----
    Within an epoch nothing waits for the device, whose work is queued: the loss is added up there, and looked at once
    an epoch. Sentences and the ranking losses are the exception, as the shapes of their tensors depend on values.
    """
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    device = images.device
    volumes = any(values.ndim == 5 for values in (*network.parameters(), *network.buffers()))  # have no such order
    network.to(device, memory_format=None if volumes else torch.channels_last)
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(device)
    if sampler is None:
        sampler = images.sampler if isinstance(images, DiskImages) else ShuffledRows(np.arange(len(images)))
    steps = len(_batch_bounds(len(sampler), options.batch_size)) - 1
    optimizer = _optimizer(network, options)
    schedule = _schedule(optimizer, options, steps * options.epochs)
    if loss is None:
        loss = nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
    history = History()
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    if isinstance(loss, nn.Module):
        parts["loss"] = loss.to(device)
    progress = Progress(None if checkpoint is None else Path(checkpoint), deadline, parts, history)
    progress.resume(device)
    forward = _compiled(network) if _compiles(options, images) else network
    takes_index = getattr(loss, "takes_index", False)

    def step(index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        batch = images.augmented(index, generator, flip=options.flip, shift=options.shift)
        with autocast(options.precision, device):
            logits = forward(batch)
        value = loss(logits.float(), targets[index], *([index] if takes_index else []))
        take_step(value, optimizer, schedule)
        return value.detach()

    left = range(len(history.traces), options.epochs) if history.status == "finished" else ()
    with progress_bar(total=steps * len(left), desc=description, unit="batch") as bar:
        for epoch in left:
            progress.begin_epoch()
            start = time.perf_counter()
            forward.train()
            if hasattr(loss, "begin_epoch"):
                loss.begin_epoch(epoch / options.epochs)
            # Both generators depend on seed and epoch alone: a resumed run draws what an uninterrupted one would have.
            generator = torch.Generator(device).manual_seed(_epoch_seed(seed, epoch))
            with _own_random_state(_epoch_seed(seed, epoch), device):
                order = sampler.order(generator)
                mean_loss = _train_epoch(step, order, options.batch_size, generator, bar)
            trace = {"epoch": epoch + 1, "train_loss": mean_loss, "images": len(sampler)}
            trace["seconds"] = time.perf_counter() - start
            if np.isfinite(mean_loss) and on_epoch is not None:
                network.eval()
                trace |= on_epoch(network, epoch + 1)
            history.traces.append(trace)
            if not np.isfinite(mean_loss):
                history.status = "diverged"
            progress.end_epoch()
            if history.status == "diverged" or trace.get("stop"):
                break
    return history


def _compiled(network: nn.Module) -> nn.Module:
    # A process compiles a module's code for eight shapes at most, then no longer: each run begins anew, from the cache.
    torch.compiler.reset()
    return torch.compile(network, dynamic=False)


def _compiles(options: TrainingOptions, images: Resident) -> bool:
    if options.compile != "auto":
        return options.compile
    worthwhile = isinstance(images, ResidentImages) and options.epochs >= WORTH_COMPILING
    possible = images.device.type == "cuda" and find_spec("triton") and any(map(shutil.which, ("cc", "gcc", "clang")))
    return bool(worthwhile and possible)


def _optimizer(network: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    if callable(options.optimizer):
        return options.optimizer(network.parameters())
    if options.optimizer not in ("adam", "sgd"):
        raise ValueError(f"optimizer is {options.optimizer!r}; expected 'adam', 'sgd' or a function of the parameters")
    fused = True if next(network.parameters()).is_cuda else None  # one kernel for all weights
    if options.optimizer == "adam":
        return torch.optim.AdamW(
            network.parameters(), lr=options.peak_lr, weight_decay=options.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=options.peak_lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.momentum > 0,
        fused=fused,
    )


def _schedule(optimizer: torch.optim.Optimizer, options: TrainingOptions, steps: int):
    if callable(options.schedule):
        return options.schedule(optimizer, steps)
    if options.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    if options.schedule != "one-cycle":
        raise ValueError(f"schedule is {options.schedule!r}; expected 'one-cycle', 'constant' or a function")
    # A warm-up of exactly one step makes torch divide by zero: it is a hair longer.
    warmup = options.warmup * (1 + 1e-6) if options.warmup * steps == 1 else options.warmup
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.peak_lr, total_steps=steps, pct_start=warmup, cycle_momentum=False
    )


@contextmanager
def _own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what a network draws by itself (dropout) for one epoch, and leave the global state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def take_step(loss: torch.Tensor, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    """Move the weights down the gradient of a loss, and the learning rate along its schedule."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()


def _train_epoch(
    step: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
    order: torch.Tensor,
    batch_size: int,
    generator: torch.Generator,
    bar: Any,
) -> float:
    """Take one step for each batch of rows, and return the mean loss of the samples."""
    total = torch.zeros((), device=order.device)
    for start, stop in pairwise(_batch_bounds(len(order), batch_size)):
        total += step(order[start:stop], generator) * (stop - start)
        bar.update()
    return float(total) / len(order)


def _batch_bounds(n: int, size: int) -> list[int]:
    """Return where the batches of an epoch begin, and the end; a last one below an eighth joins the one before.

    A few images alone would be a step of full length in the direction of their noise, and a tenth of what batch norm
    keeps of the images' statistics.
    """
    bounds = [*range(0, n, size), n]
    if len(bounds) > 2 and n - bounds[-2] < size / 8:
        del bounds[-2]
    return bounds


def _epoch_seed(seed: int, epoch: int) -> int:
    return seed * 100_003 + epoch


@torch.no_grad()
def predict(
    network: nn.Module, images: Resident, *, precision: str = "auto", batch_size: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits float32 [n, K] and penultimate features float32 [n, d], without augmentation."""
    network.eval()
    logits, features = [], []
    for start in range(0, len(images), batch_size):
        with autocast(precision, images.device):
            embedded = network.embed(images.batch(slice(start, start + batch_size)))
        # The head in float32: bf16 logits have three digits, and average precision needs a finer ranking.
        logits.append(network.head(embedded.float()))
        features.append(embedded.float())
    return torch.cat(logits).cpu().numpy(), torch.cat(features).cpu().numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return class probabilities, float64 [n, K]."""
    return F.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
