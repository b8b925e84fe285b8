"""An image encoder that nothing taught: SimCLR, trained on the data set's own training images without labels."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from regroup_lib.encoders.base import TrainedEncoder
from regroup_lib.nn.checkpoints import Progress
from regroup_lib.nn.models import build_network, default_device, unit_range
from regroup_lib.nn.training import take_step
from regroup_lib.progress import progress_bar

NETWORK = "slim-resnet"  # of `models.NETWORKS`; "tiny-resnet" for gray images
TEMPERATURE, PEAK_LR = 0.5, 2e-3


def nt_xent_loss(first: torch.Tensor, second: torch.Tensor, *, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Return the normalized temperature-scaled cross-entropy of two views of each image, its mean over the 2n views.

    Each view has to be told from the other 2n - 1 as the partner of its twin, by cosine similarity. Row i of the
    projections `first` and `second`, float32 [n, d], is one image.

    References
    ----------
    Chen et al. (2020), A simple framework for contrastive learning of visual representations, Equation 1.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(f"views have shapes {tuple(first.shape)} and {tuple(second.shape)}; expected [n, d], n >= 2")
    views = F.normalize(torch.cat([first, second]), dim=1)
    similarity = views @ views.T / temperature
    similarity.fill_diagonal_(float("-inf"))  # a view is not its own partner
    n = len(first)
    partner = torch.arange(2 * n, device=views.device).roll(n)
    return F.cross_entropy(similarity, partner)


def random_views(images: torch.Tensor, generator: torch.Generator, *, flip: bool = True) -> torch.Tensor:
    """Return a random crop of each image at its own size, mirrored half of the time, and with its colors changed.

    Parameters
    ----------
    images : tensor float32 [n, c, h, w]
        In [0, 1].
    generator : torch.Generator
    flip : bool
        Leave it out where a mirror image is another class.

    Returns
    -------
    tensor float32 [n, c, h, w]
        Crops have 20 to 100% of the area; brightness, contrast and saturation change by up to 40%; one color image of
        five turns gray.
    """
    n, channels = images.shape[:2]

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand((n, *shape), generator=generator, device=images.device)

    area, stretch = uniform(0.2, 1.0), torch.exp(uniform(-0.29, 0.29))  # aspect ratios of 3:4 to 4:3
    width, height = (area.sqrt() * stretch).clamp(max=1.0), (area.sqrt() / stretch).clamp(max=1.0)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if flip else torch.ones(n, device=images.device)
    frame = torch.zeros((n, 2, 3), device=images.device)
    frame[:, 0, 0], frame[:, 0, 2] = width * mirror, uniform(-1, 1) * (1 - width)
    frame[:, 1, 1], frame[:, 1, 2] = height, uniform(-1, 1) * (1 - height)
    grid = F.affine_grid(frame, list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    views = views * uniform(0.6, 1.4, 1, 1, 1)
    mean = views.mean(dim=(1, 2, 3), keepdim=True)
    views = mean + (views - mean) * uniform(0.6, 1.4, 1, 1, 1)
    if channels == 3:
        gray = views.mean(dim=1, keepdim=True)
        saturation = torch.where(uniform(0, 1, 1, 1, 1) < 0.2, 0.0, uniform(0.6, 1.4, 1, 1, 1))
        views = gray + (views - gray) * saturation
    return views.clamp(0, 1)


class _GeneratorState:
    """A generator as a part of a checkpoint."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.generator.set_state(state["state"].cpu())


class SimCLREncoder(TrainedEncoder):
    """Penultimate features of a small residual network that was trained by SimCLR on the training images.

    Parameters
    ----------
    epochs : int
    batch_size : int
        Images per step; each has the others' views to be told from.
    flip : bool
        See `random_views`.
    seed : int
        Of weights, batches and views.

    Attributes
    ----------
    losses_ : list of float
        Mean loss of each epoch.
    """

    label = "SimCLR (trained here)"
    normalize = True
    resumable = True

    def __init__(
        self,
        *,
        epochs: int = 20,
        batch_size: int = 256,
        flip: bool = True,
        seed: int = 0,
    ):
        self.options = {"epochs": epochs, "network": NETWORK, "batch_size": batch_size}
        self.options |= {"temperature": TEMPERATURE, "peak_lr": PEAK_LR, "flip": flip}
        self.seed = seed

    def fingerprint(self) -> str:
        return f"simclr {json.dumps(self.options)} seed {self.seed}"

    def _network(self, image_shape: tuple[int, ...]) -> nn.Module:
        channels = image_shape[-1]
        name = "tiny-resnet" if channels == 1 else NETWORK
        network = build_network(name, in_channels=channels, n_classes=64, seed=self.seed)
        width = network.head.in_features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 64))
        return network.to(default_device(), memory_format=torch.channels_last)

    def fit(
        self, images: np.ndarray, *, checkpoint: Path | None = None, deadline: float | None = None
    ) -> SimCLREncoder:
        """Train on images, uint8 [n, h, w, c]; a last batch of one image is left out, as it has no other.

        `checkpoint` and `deadline` are those of `train`; a run that goes on ends in the same weights.
        """
        device, options = default_device(), self.options
        self.network_ = network = self._network(images.shape[1:])
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        size, generator = options["batch_size"], torch.Generator(device).manual_seed(self.seed)
        steps = max(1, len(pixels) // size)
        optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LR, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_LR, total_steps=steps * options["epochs"])
        parts = {"network": network, "optimizer": optimizer, "schedule": schedule, "draws": _GeneratorState(generator)}
        progress = Progress(checkpoint, deadline, parts, device)
        history = progress.history
        self.earlier_seconds_ = history.seconds
        left = options["epochs"] - len(history.traces)
        network.train()
        with progress_bar(total=steps * left, desc=self.label, unit="batch") as bar:
            for _ in progress.epochs(options["epochs"]):
                start = time.perf_counter()
                order = torch.randperm(len(pixels), generator=generator, device=device)
                total = torch.zeros((), dtype=torch.float64, device=device)  # nothing waits for the device
                for step in range(steps):
                    batch = pixels[order[step * size : (step + 1) * size]].permute(0, 3, 1, 2).float() / 255
                    loss = self._step(batch, generator)
                    take_step(loss, optimizer, schedule)
                    total += loss.detach()
                    bar.update()
                history.traces.append({"train_loss": float(total) / steps, "seconds": time.perf_counter() - start})
        self.losses_ = [trace["train_loss"] for trace in history.traces]
        network.eval()
        return self

    def _step(self, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        flip = self.options["flip"]
        views = torch.cat([random_views(batch, generator, flip=flip) for _ in range(2)])
        with torch.autocast(batch.device.type, torch.bfloat16):
            projected = self.network_((views - 0.5) / 0.25)
        return nt_xent_loss(*projected.float().chunk(2))

    @torch.no_grad()
    def transform(self, images: np.ndarray) -> np.ndarray:
        device, parts = default_device(), []
        for start in range(0, len(images), 1000):
            batch = unit_range(images[start : start + 1000], device)
            with torch.autocast(device.type, torch.bfloat16):
                embedded = self.network_.embed((batch - 0.5) / 0.25)
            parts.append(embedded.float().cpu())
        return torch.cat(parts).numpy()
