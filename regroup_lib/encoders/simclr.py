"""SimCLR, an image encoder that is trained here on the training images, without labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from regroup_lib.encoders.base import TrainedEncoder
from regroup_lib.nn.models import build_network, default_device
from regroup_lib.nn.samplers import ShuffledRows
from regroup_lib.nn.training import TrainingOptions, predict, train

NETWORK = "slim-resnet"  # of `models.NETWORKS`; "tiny-resnet" for gray images
TEMPERATURE, PEAK_LR = 0.5, 2e-3


def nt_xent_loss(first: torch.Tensor, second: torch.Tensor, *, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Return the normalized temperature-scaled cross-entropy of two views of each image, its mean over the 2n views.

    Among the other 2n - 1 views, each view has to find its partner by cosine similarity. Row i of the
    projections `first` and `second`, float32 [n, d], is one image.
    Source: Chen et al. (2020), A simple framework for contrastive learning of visual representations, Equation 1.
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

    Images are float32 [n, c, h, w] in [0, 1]. Crops have 20 to 100% of the area; brightness, contrast and saturation
    change by up to 40%; one color image of five turns gray. Pass ``flip=False`` if mirror images are another class.
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


class _Views:
    """Images on the device, for `train`: a batch holds one view of each image, followed by a second view of each."""

    def __init__(self, images: np.ndarray):
        self.device = default_device()
        self.pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Return the images themselves."""
        return (self._unit_range(index) - 0.5) / 0.25

    def augmented(self, index: torch.Tensor, generator: torch.Generator, *, flip: bool, shift: int) -> torch.Tensor:
        images = self._unit_range(index)
        return (torch.cat([random_views(images, generator, flip=flip) for _ in range(2)]) - 0.5) / 0.25

    def _unit_range(self, index: torch.Tensor | slice) -> torch.Tensor:
        return self.pixels[index].permute(0, 3, 1, 2).float() / 255


class SimCLREncoder(TrainedEncoder):
    """Penultimate features of a small residual network that was trained by SimCLR on the training images."""

    kind = "simclr"
    label = "SimCLR (trained here)"
    normalize = True
    resumable = True

    def __init__(self, *, epochs: int = 20, batch_size: int = 256, flip: bool = True, seed: int = 0):
        self.options = {"epochs": epochs, "network": NETWORK, "batch_size": batch_size}
        self.options |= {"temperature": TEMPERATURE, "peak_lr": PEAK_LR, "flip": flip}
        self.seed = seed

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
        """Train on images, uint8 [n, h, w, c]; each epoch leaves out an incomplete last batch.

        `checkpoint` and `deadline` are those of `train`; a resumed run ends with the same weights.
        """
        self.network_, n, size = self._network(images.shape[1:]), len(images), self.options["batch_size"]
        options = TrainingOptions(
            epochs=self.options["epochs"],
            batch_size=size,
            optimizer=partial(torch.optim.AdamW, lr=PEAK_LR, weight_decay=1e-4),
            schedule=lambda optimizer, steps: OneCycleLR(optimizer, PEAK_LR, total_steps=steps),
            flip=self.options["flip"],
            precision="bf16",
        )
        self.history_ = train(
            self.network_,
            _Views(images),
            np.zeros(n, np.int64),  # there are no labels
            options=options,
            seed=self.seed,
            loss=lambda projected, _: nt_xent_loss(*projected.chunk(2)),
            sampler=ShuffledRows(np.arange(n), n - n % size or n),
            checkpoint=checkpoint,
            deadline=deadline,
            generator=torch.Generator(default_device()).manual_seed(self.seed),
            description=self.label,
        )
        self.earlier_seconds_ = sum(trace["seconds"] for trace in self.history_.traces[: self.history_.resumed])
        return self

    def transform(self, images: np.ndarray) -> np.ndarray:
        return predict(self.network_, _Views(images), precision="bf16")[1]
