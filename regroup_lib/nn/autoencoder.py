"""The convolutional autoencoder of images: the network of DeepSMOTE, and an encoder without outside knowledge.

It has its own training loop, because `train` needs a label for each image and a batch of DeepSMOTE has two parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from regroup_lib.nn.models import default_device, unit_range
from regroup_lib.nn.training import take_step


class ConvAutoencoder(nn.Module):
    """Two strided convolutions, the first with `width` channels, a linear code, and their mirror image."""

    @classmethod
    def build(cls, image_shape: tuple[int, ...], *, code_size: int, width: int, seed: int) -> ConvAutoencoder:
        """Return one on the default device; the global random state is unchanged."""
        if image_shape[0] % 4 or image_shape[1] % 4:
            raise ValueError(f"the autoencoder needs height and width divisible by 4, not {image_shape[:2]}")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = cls(image_shape, code_size, width)
        return network.to(default_device(), memory_format=torch.channels_last)

    def __init__(self, image_shape: tuple[int, ...], code_size: int, width: int):
        super().__init__()
        height, side, channels = image_shape
        inner = (2 * width, height // 4, side // 4)
        flat = int(np.prod(inner))
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, code_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(code_size, flat),
            nn.Unflatten(1, inner),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 images [n, c, h, w] decoded from their codes."""
        return self.decoder(self.encoder(images))

    def fit(self, batches: Iterable[Sequence[np.ndarray]], *, steps: int, peak_lr: float) -> None:
        """Train on `steps` batches, by Adam with one cycle.

        A batch is one or more arrays of uint8 images [n, h, w, c], which go through the network together; the sum of
        their mean squared errors is minimized.
        """
        device = default_device()
        optimizer = torch.optim.Adam(self.parameters(), lr=peak_lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak_lr, total_steps=steps)
        self.train()
        for parts in batches:
            target, sizes = unit_range(np.concatenate(parts), device), [len(part) for part in parts]
            with torch.autocast(device.type, torch.bfloat16):
                output = self(target)
            pairs = zip(output.float().split(sizes), target.split(sizes), strict=True)
            take_step(sum(F.mse_loss(*pair) for pair in pairs), optimizer, schedule)
        self.eval()

    @torch.no_grad()
    def codes(self, images: np.ndarray) -> np.ndarray:
        """Return float32 codes [n, code_size] of uint8 images [n, h, w, c]."""
        batches = (unit_range(images[start : start + 1000], default_device()) for start in range(0, len(images), 1000))
        return np.concatenate([self.encoder(batch).cpu().numpy() for batch in batches])

    @torch.no_grad()
    def images(self, codes: np.ndarray) -> np.ndarray:
        """Return uint8 images [n, h, w, c] of float32 codes [n, code_size]."""
        device, parts = default_device(), []
        for batch in torch.from_numpy(codes).split(1000):
            with torch.autocast(device.type, torch.bfloat16):
                pixels = self.decoder(batch.to(device))
            parts.append(to_pixels(pixels.float()))
        return np.concatenate(parts)


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Return float32 images [n, c, h, w] in about [0, 1] as uint8 [n, h, w, c]: the inverse of `unit_range`."""
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
