"""The networks, by name in `NETWORKS`; `build_network` makes one.

Each has `embed` (images, features or tokens to penultimate features) and a `head` (to logits).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from regroup_lib.nn import tokenizers
from regroup_lib.nn.tokenizers import PADDING, Tokenizer, WordTokenizer

# Data sets are read-only, and nothing here writes to tensors that share their memory.
warnings.filterwarnings("ignore", "The given NumPy array is not writ")


class _Network(nn.Module):
    """A network that applies its `head` to the features of `embed`."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits [n, n_classes]."""
        return self.head(self.embed(inputs))


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


class CosineHead(nn.Module):
    """Cosines between features and one direction for each class: the normalized last layer that LDAM needs.

    Source: Cao et al. (2019), Learning imbalanced datasets with label-distribution-aware margin loss, Section 3.2.
    """

    def __init__(self, width: int, n_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_classes, width))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return cosines [n, n_classes] of features [n, width]."""
        # float32 also under autocast: three digits of a cosine are too few to rank by.
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(F.normalize(features.float(), dim=1), F.normalize(self.weight, dim=1))


HEADS: dict[str, Callable[[int, int], nn.Module]] = {"linear": nn.Linear, "cosine": CosineHead}


class ResNet(_Network):
    """A residual network for small images.

    `widths` and `blocks` are channels and blocks of each stage; every stage after the first halves the image. The
    kernel of the first convolution, of stride `stem_stride`, is 3 wide, or wide enough to overlap its neighbor.
    """

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        *,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        stem_stride: int,
        head: str = "linear",
    ):
        super().__init__()
        kernel = max(3, 2 * stem_stride - 1)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], kernel, stride=stem_stride, padding=kernel // 2, bias=False),
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
        self.head = HEADS[head](width, n_classes)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return penultimate features [n, d] of normalized images [n, c, h, w]."""
        return self.stages(self.stem(images)).mean(dim=(2, 3))


class MLP(_Network):
    """A perceptron with one hidden layer of `width` units on an encoder's features (CLIP+MLP, Section 4.2)."""

    def __init__(self, in_features: int, n_classes: int, *, width: int, head: str = "linear"):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(in_features, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = HEADS[head](width, n_classes)

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Return hidden activations [n, width] of features [n, in_features]."""
        return self.hidden(features)


class TextCNN(_Network):
    """Convolutions of several widths over word vectors, each channel's maximum over the sentence, dropout.

    Word vectors, of dimension `embedding`, are learned from scratch; each convolution has `width` channels; dropout is
    of word vectors and features. The amount of padding does not change the features of a sentence.
    Source: Kim (2014), Convolutional neural networks for sentence classification.
    """

    def __init__(
        self, n_tokens: int, n_classes: int, *, embedding: int, width: int, dropout: float = 0.5, head: str = "linear"
    ):
        super().__init__()
        self.words = nn.Embedding(n_tokens, embedding, padding_idx=PADDING)
        kernels = (1, 3, 5)  # in words
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding, width, k, padding=k // 2) for k in kernels)
        self.dropout = nn.Dropout(dropout)
        self.head = HEADS[head](width * len(kernels), n_classes)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return features [n, channels of all convolutions] of token numbers [n, length]."""
        vectors = self.dropout(self.words(tokens)).transpose(1, 2)
        # Zero is below every activation, so a masked place is no maximum.
        inside = (tokens != PADDING)[:, None]
        maxima = [(F.relu(convolution(vectors)) * inside).amax(dim=2) for convolution in self.convolutions]
        return self.dropout(torch.cat(maxima, dim=1))


class LargeResNet(_Network):
    """torchvision's ResNet34, for images of about 224 pixels: a 7x7 stem that divides their side by four."""

    def __init__(self, in_channels: int, n_classes: int, *, head: str = "linear"):
        super().__init__()
        import torchvision  # heavy, and only needed here

        self.body = torchvision.models.resnet34()
        if in_channels != 3:
            self.body.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        width = self.body.fc.in_features
        self.body.fc = nn.Identity()
        self.head = HEADS[head](width, n_classes)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return penultimate features [n, 512] of normalized images [n, c, h, w]."""
        return self.body(images)


LENGTH_GROUPS = 4  # of a batch of sentences


def _by_length(embed: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Apply `embed` to sentences of similar length together and return the features in the order of the sentences.

    A transformer spends as much time on padding as on words, and the longest sentence of a batch is about twice as
    long as the mean. With four groups, a step takes two thirds of the time.
    """
    lengths = (tokens != PADDING).sum(dim=1)
    order = lengths.argsort()
    groups = [rows for rows in order.tensor_split(LENGTH_GROUPS) if len(rows)]
    features = torch.cat([embed(tokens[rows, : max(1, int(lengths[rows[-1]]))]) for rows in groups])
    return features[order.argsort()]


class MiniLM(_Network):
    """The transformer of all-MiniLM-L6-v2, to be fine-tuned: its last layer averaged over the tokens, and a head.

    `folder` may have another sentence-transformers model.
    """

    def __init__(self, n_tokens: int, n_classes: int, *, head: str = "linear", folder: str | Path | None = None):
        super().__init__()
        self.transformer = tokenizers.load_model(tokenizers.find_model() if folder is None else folder)[0].auto_model
        self.head = HEADS[head](self.transformer.config.hidden_size, n_classes)

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return mean token features [n, width] of token numbers [n, length]."""
        return _by_length(self._means, tokens)

    def _means(self, tokens: torch.Tensor) -> torch.Tensor:
        inside = (tokens != PADDING).long()
        hidden = self.transformer(input_ids=tokens, attention_mask=inside).last_hidden_state
        return (hidden * inside[..., None]).sum(dim=1) / inside.sum(dim=1, keepdim=True).clamp(min=1)


# A name -> a function of channels (or features, or tokens), classes and `head`.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    # 20,000 weights, for 8 x 8 scans.
    "tiny-resnet": partial(ResNet, widths=(16, 32), blocks=(1, 1), stem_stride=1),
    # 1.2 million weights; a CIFAR epoch takes about 26 seconds on 2 cores with AMX.
    "small-resnet": partial(ResNet, widths=(64, 128, 256), blocks=(1, 1, 1), stem_stride=2),
    # 310,000 weights and a third of the time per image, for tasks where many epochs beat a wide network.
    "slim-resnet": partial(ResNet, widths=(32, 64, 128), blocks=(1, 1, 1), stem_stride=2),
    # The same for 64 x 64: the stem reduces the image to 16 x 16, so the cost is that of a CIFAR image.
    "slim-resnet-64": partial(ResNet, widths=(32, 64, 128), blocks=(1, 1, 1), stem_stride=4),
    # ResNet34 with the CIFAR stem (3x3, stride 1, no pooling): the paper's network at 32 x 32.
    "resnet34": partial(ResNet, widths=(64, 128, 256, 512), blocks=(3, 4, 6, 3), stem_stride=1),
    # The same with torchvision's own stem, for 224 x 224.
    "resnet34-224": LargeResNet,
    # On features, not on images.
    "mlp": partial(MLP, width=512),
    # On tokens: 15,000 weights beside the word vectors, for a few hundred sentences.
    "tiny-text-cnn": partial(TextCNN, embedding=32, width=48, dropout=0.2),
    # 115,000 weights, for a few thousand sentences.
    "text-cnn": partial(TextCNN, embedding=100, width=128),
    # 22 million weights, pre-trained.
    "minilm": MiniLM,
}
# The tokenizers of the networks for text; the others take images or features.
TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "tiny-text-cnn": WordTokenizer,
    "text-cnn": WordTokenizer,
    "minilm": tokenizers.WordPieces,
}


def build_network(name: str, *, in_channels: int, n_classes: int, seed: int, head: str = "linear") -> nn.Module:
    """Build a network of `NETWORKS` with weights drawn from `seed`; the global random state is left alone.

    `in_channels` is the number of channels, or of features, or of tokens; `head` is a key of `HEADS`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](in_channels, n_classes, head=head)


def unit_range(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return uint8 images [n, h, w, c] as float32 [n, c, h, w] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255


def default_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
