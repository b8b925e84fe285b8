"""The networks. Each has `embed` (images to penultimate features) and a linear `head`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016, the basic block)."""

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network for small images.

    Parameters
    ----------
    in_channels, n_classes : int
    widths : tuple of int
        Channels of each stage; every stage after the first halves the image.
    blocks : tuple of int
        Blocks of each stage.
    stem_stride : int
        Stride of the first convolution.
    """

    def __init__(
        self, in_channels: int, n_classes: int, *, widths: tuple[int, ...], blocks: tuple[int, ...], stem_stride: int
    ):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, stride=stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        layers, width = [], widths[0]
        for stage, (stage_width, depth) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(width, stage_width, stride))
                width = stage_width
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(width, n_classes)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return penultimate features [n, d] of normalised images [n, c, h, w]."""
        return self.stages(self.stem(images)).mean(dim=(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n, n_classes]."""
        return self.head(self.embed(images))


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    # 38,000 weights, for 8 x 8 scans.
    "tiny-resnet": lambda c, k: ResNet(c, k, widths=(16, 32), blocks=(1, 1), stem_stride=1),
    # 1.2 million weights; a CIFAR epoch takes about 26 seconds on 2 cores with AMX.
    "small-resnet": lambda c, k: ResNet(c, k, widths=(64, 128, 256), blocks=(1, 1, 1), stem_stride=2),
    # ResNet34 with the CIFAR stem (3x3, stride 1, no pooling): the paper's network at 32 x 32.
    "resnet34": lambda c, k: ResNet(c, k, widths=(64, 128, 256, 512), blocks=(3, 4, 6, 3), stem_stride=1),
}


def build_network(name: str, *, in_channels: int, n_classes: int, seed: int) -> nn.Module:
    """Build a network with weights drawn from `seed`; the global random state is left alone.

    Raises
    ------
    ValueError
        If there is no network of that name.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(NETWORKS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](in_channels, n_classes)
