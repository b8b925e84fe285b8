"""The training loop `train`, its inputs (`ResidentImages`, `DiskImages`, features, tokens), and `predict`.

On two cores it trains `small-resnet` 2.5 times as fast as a DataLoader of PIL images in float32, and reaches that
loop's AP 4.8 times as fast (`benchmarks/README.md`). With a GPU the same code keeps the data there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from regroup_lib.large import open_rows
from regroup_lib.nn.checkpoints import Draws, History, remaining_epochs, resume
from regroup_lib.nn.models import default_device
from regroup_lib.nn.samplers import BlockShuffledRows, Sampler, ShuffledRows
from regroup_lib.nn.tokenizers import PADDING, Tokenizer
from regroup_lib.progress import progress_bar

Loss = Callable[..., torch.Tensor]

MOMENTUM = 0.9  # Nesterov's, of SGD
WARMUP = 0.25  # share of the steps before the peak of the one-cycle schedule
WORTH_COMPILING = 30  # epochs: in fewer, compiling takes longer than it saves


@dataclass(frozen=True)
class TrainingOptions:
    """Hyper-parameters of the loop."""

    epochs: int = 8
    batch_size: int = 256  # a remainder of less than an eighth joins the last batch
    optimizer: str | Callable[..., torch.optim.Optimizer] = "sgd"  # or "adam" (AdamW), or a function of the parameters
    # Or "constant", or a function of the optimizer and the number of steps that returns a scheduler.
    schedule: str | Callable[..., torch.optim.lr_scheduler.LRScheduler] = "one-cycle"
    peak_lr: float = 0.2  # top of the one-cycle schedule
    weight_decay: float = 5e-4
    flip: bool = True  # mirror half of the images
    shift: int = 3  # move by up to so many pixels, reflecting at the border
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the device multiplies it natively
    # torch.compile; "auto": in long runs on images on a GPU, where Triton and a C compiler are there
    compile: bool | Literal["auto"] = "auto"


class Unaugmented:
    """Inputs that are the same in every epoch, such as features and sentences."""

    def augmented(self, index: torch.Tensor, generator: torch.Generator, *, flip: bool, shift: int) -> torch.Tensor:
        return self.batch(index)


class ResidentImages:
    """Images [n, h, w, c] held as one uint8 tensor on the device, and their per-channel mean and deviation.

    With `statistics`, these are those of other images (for training) instead of their own.
    """

    def __init__(self, images: np.ndarray, *, statistics: ResidentImages | None = None):
        self.device, self.width = default_device(), images.shape[-1]
        self.pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        self._set_statistics(statistics, [images])

    def _set_statistics(self, statistics: ResidentImages | None, blocks: Iterable[np.ndarray]) -> None:
        """Take mean and deviation of other images, or compute those of these by histograms, without a float copy."""
        if statistics is not None:
            self.mean, self.scale = statistics.mean, statistics.scale
            return
        channels = (block.reshape(-1, self.width).T for block in blocks)
        counts = sum(np.stack([np.bincount(values, minlength=256) for values in block]) for block in channels)
        values, n = np.arange(256), counts[0].sum()
        mean = counts @ values / n
        std = np.sqrt(np.maximum(counts @ values**2 / n - mean**2, 1e-6))
        self.mean, self.scale = (torch.tensor(v, dtype=torch.float32, device=self.device) for v in (mean, 1 / std))

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Return normalized float32 [b, c, h, w] (channels last in memory)."""
        return self._normalized(self._rows(index))

    def augmented(self, index: torch.Tensor, generator: torch.Generator, *, flip: bool, shift: int) -> torch.Tensor:
        """Return a batch of randomly mirrored and shifted images."""
        return self._normalized(_moved(self.pixels, index, generator, flip=flip, shift=shift))

    def _rows(self, index: torch.Tensor | slice) -> torch.Tensor:
        return self.pixels[index]

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().sub_(self.mean).mul_(self.scale).permute(0, 3, 1, 2)


class DiskImages(ResidentImages):
    """Images on disk, for use instead of `ResidentImages` where they do not fit in memory.

    Blocks of rows are read, and the last ``2 * window`` blocks are kept, ``2 * window * block_rows * h * w * c`` bytes.
    `sampler`, a `BlockShuffledRows`, is the default of `train`; in any other order each block is read many times.

    Parameters
    ----------
    images : path of an ``.npy`` file, or an array that `large.open_rows` takes
        uint8 [n, h, w, c], else a ValueError; in random order: the rows of a batch come from `window` blocks only, so
        images that are sorted by class must be shuffled before they are written.
    statistics : ResidentImages or DiskImages, optional
        See `ResidentImages`; by default the images are read once for their mean and deviation.
    block_rows, window : int
        See `samplers.BlockShuffledRows`.
    """

    def __init__(
        self, images: Any, *, statistics: ResidentImages | None = None, block_rows: int = 256, window: int = 16
    ):
        self.rows = open_rows(images)
        if len(self.rows.shape) != 4 or self.rows.dtype != np.uint8:
            raise ValueError(f"images are {self.rows.dtype} {tuple(self.rows.shape)}; expected uint8 [n, h, w, c]")
        self.device, self.width = default_device(), self.rows.shape[-1]
        self.sampler = BlockShuffledRows(len(self), block_rows=block_rows, window=window)
        # A batch at the border of two windows has rows of both.
        self._block = lru_cache(maxsize=2 * window)(self._read_block)
        numbers = range(-(-len(self) // block_rows))
        self._set_statistics(statistics, (self._read_block(number) for number in numbers))

    def __len__(self) -> int:
        return self.rows.shape[0]

    def augmented(self, index: torch.Tensor, generator: torch.Generator, *, flip: bool, shift: int) -> torch.Tensor:
        places = torch.arange(len(index), device=self.device)
        return self._normalized(_moved(self._rows(index), places, generator, flip=flip, shift=shift))

    def _rows(self, index: torch.Tensor | slice) -> torch.Tensor:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return torch.from_numpy(np.array(self.rows[start:stop])).to(self.device)
        rows, size = index.cpu().numpy(), self.sampler.block_rows
        pixels, block_of = np.empty((len(rows), *self.rows.shape[1:]), np.uint8), rows // size
        for number in np.unique(block_of).tolist():
            here = block_of == number
            pixels[here] = self._block(number)[rows[here] - number * size]
        return torch.from_numpy(pixels).to(self.device)

    def _read_block(self, number: int) -> np.ndarray:
        start = number * self.sampler.block_rows
        return np.array(self.rows[start : min(start + self.sampler.block_rows, len(self))])


class ResidentFeatures(Unaugmented):
    """Feature vectors, float32 [n, d], on the device, for use instead of `ResidentImages`."""

    def __init__(self, features: np.ndarray):
        self.device, self.width = default_device(), features.shape[-1]
        self.features = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)).to(self.device)

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Return float32 [b, d]."""
        return self.features[index]


class ResidentTokens(Unaugmented):
    """Sentences, str [n], as the numbers of a fitted tokenizer on the device, for use instead of `ResidentImages`."""

    def __init__(self, texts: np.ndarray, tokenizer: Tokenizer):
        self.device, self.tokenizer, self.width = default_device(), tokenizer, len(tokenizer)
        self.tokens = torch.from_numpy(tokenizer(texts)).to(self.device)
        self.lengths = (self.tokens != PADDING).sum(dim=1)

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Return int64 [b, length], no longer than the longest sentence among them."""
        longest = max(1, int(self.lengths[index].max()))
        return self.tokens[index, :longest].long()


Resident = ResidentImages | ResidentFeatures | ResidentTokens


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
    generator: torch.Generator | None = None,
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
        Called with the network (in evaluation mode) and the number of finished epochs. Its return value, a dict of
        plain numbers, strings and lists, is added to the trace, and a true ``"stop"`` in it ends the training.
    checkpoint : path, optional
        Written after each epoch. A run continues from an existing one and ends with the same weights.
    deadline : float, optional
        A value of `time.monotonic`. The run stops, with its checkpoint written, if the next epoch would end later.
    generator : torch.Generator, optional
        Draws the order and augmentation of all epochs and is part of the checkpoint; default: a new one for each epoch.
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
    Within an epoch the loop does not wait for the device: the loss is summed there and read once per epoch. Sentences
    and ranking losses are exceptions, because the shapes of their tensors depend on values.
    """
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    device = images.device
    volumes = any(values.ndim == 5 for values in (*network.parameters(), *network.buffers()))  # have no such order
    network.to(device, memory_format=None if volumes else torch.channels_last)
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(device)
    if sampler is None:
        sampler = images.sampler if isinstance(images, DiskImages) else ShuffledRows(np.arange(len(images)))
    bounds = _batch_bounds(len(sampler), options.batch_size)
    steps = len(bounds) - 1
    optimizer = _optimizer(network, options)
    schedule = _schedule(optimizer, options, steps * options.epochs)
    if loss is None:
        loss = nn.CrossEntropyLoss()
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    if isinstance(loss, nn.Module):
        parts["loss"] = loss.to(device)
    if generator is not None:
        parts["draws"] = Draws(generator)
    path = None if checkpoint is None else Path(checkpoint)
    history = History() if path is None else resume(path, parts, device)
    forward = _forward(network, options, images)
    takes_index = getattr(loss, "takes_index", False)

    def step(index: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
        batch = images.augmented(index, draws, flip=options.flip, shift=options.shift)
        with autocast(options.precision, device):
            logits = forward(batch)
        value = loss(logits.float(), targets[index], *([index] if takes_index else []))
        take_step(value, optimizer, schedule)
        return value.detach()

    n_steps = steps * (options.epochs - len(history.traces))
    with progress_bar(total=n_steps, desc=description, unit="batch") as bar:
        for epoch in remaining_epochs(options.epochs, history, parts, path, deadline):
            start = time.perf_counter()
            forward.train()
            if hasattr(loss, "begin_epoch"):
                loss.begin_epoch(epoch / options.epochs)
            # Both seeds depend on the run's seed and the epoch only: a resumed run draws the same numbers.
            draws = generator or torch.Generator(device).manual_seed(seed * 100_003 + epoch)
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed * 100_003 + epoch)  # of dropout
                order, total = sampler.order(draws), torch.zeros((), device=device)
                for first, last in pairwise(bounds):
                    total += step(order[first:last], draws) * (last - first)
                    bar.update()
            mean_loss = float(total) / len(order)
            seconds = time.perf_counter() - start
            trace = {"epoch": epoch + 1, "train_loss": mean_loss, "images": len(sampler), "seconds": seconds}
            if not np.isfinite(mean_loss):
                history.status = "diverged"
            elif on_epoch is not None:
                network.eval()
                trace |= on_epoch(network, epoch + 1)
            history.traces.append(trace)
    return history


def _forward(network: nn.Module, options: TrainingOptions, images: Resident) -> nn.Module:
    """Return the network, compiled where the options ask for that, or where it is possible and saves time."""
    compiles = options.compile
    if compiles == "auto":
        worthwhile = isinstance(images, ResidentImages) and options.epochs >= WORTH_COMPILING
        compiler = find_spec("triton") and any(map(shutil.which, ("cc", "gcc", "clang")))
        compiles = worthwhile and images.device.type == "cuda" and compiler
    if not compiles:
        return network
    # A process compiles a module's code for at most eight shapes, so each run starts afresh, from the cache on disk.
    torch.compiler.reset()
    return torch.compile(network, dynamic=False)


def _optimizer(network: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    if callable(options.optimizer):
        made = options.optimizer(network.parameters())
        if not isinstance(made, torch.optim.Optimizer) or isinstance(made, torch.optim.LBFGS):
            raise ValueError(f"optimizer makes {type(made).__name__}; expected an Optimizer that takes no closure")
        return made
    if options.optimizer not in ("adam", "sgd"):
        raise ValueError(f"optimizer is {options.optimizer!r}; expected 'adam', 'sgd' or a function of the parameters")
    common = {"lr": options.peak_lr, "weight_decay": options.weight_decay}
    common["fused"] = True if next(network.parameters()).is_cuda else None  # one kernel for all weights
    if options.optimizer == "adam":
        return torch.optim.AdamW(network.parameters(), **common)
    return torch.optim.SGD(network.parameters(), momentum=MOMENTUM, nesterov=True, **common)


def _schedule(optimizer: torch.optim.Optimizer, options: TrainingOptions, steps: int):
    if callable(options.schedule):
        by_loss = torch.optim.lr_scheduler.ReduceLROnPlateau
        made = by_loss(optimizer) if options.schedule is by_loss else options.schedule(optimizer, steps)
        if isinstance(made, by_loss) or not hasattr(made, "step"):
            raise ValueError(f"schedule makes {type(made).__name__}; expected a scheduler that steps without a loss")
        return made
    if options.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    if options.schedule != "one-cycle":
        raise ValueError(f"schedule is {options.schedule!r}; expected 'one-cycle', 'constant' or a function")
    # A warm-up of exactly one step makes torch divide by zero, so it is made slightly longer.
    warmup = WARMUP * (1 + 1e-6) if WARMUP * steps == 1 else WARMUP
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=options.peak_lr, total_steps=steps, pct_start=warmup, cycle_momentum=False
    )


def take_step(loss: torch.Tensor, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    """Move the weights down the gradient of a loss, and the learning rate along its schedule."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()


def _batch_bounds(n: int, size: int) -> list[int]:
    """Return the start of each batch of an epoch, and the end; a last batch below an eighth joins the one before.

    A batch of a few images would be a full step in a noisy direction, and a tenth of batch norm's running statistics.
    """
    bounds = [*range(0, n, size), n]
    if len(bounds) > 2 and n - bounds[-2] < size / 8:
        del bounds[-2]
    return bounds


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
