"""Images or sentences to feature vectors, cached on disk under what made them.

Every encoder has ``fit`` (on training inputs, without labels) and ``transform``. `encode` runs one over a data
set's splits and keeps the result; `make_encoder` builds one from its identifier.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch
from filelock import FileLock
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import nn
from torch.nn import functional as F

from regroup_lib import minilm
from regroup_lib.blocks import NpyRows, open_rows
from regroup_lib.dataset import Dataset
from regroup_lib.files import atomic_path, data_directory, digest_arrays, digest_file, read_npz, write_npz
from regroup_lib.progress import progress_bar, silence
from regroup_lib.text import words

logger = logging.getLogger(__name__)


def default_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def center_and_normalize(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Subtract the training mean from every array and scale each row to unit length.

    Features of pre-trained networks share a large common component; k-means clusters them better without it.
    """
    center = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = [features - center for features in (train, *others)]
    return [rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in centered]


def _batches(images: np.ndarray, size: int, label: str) -> Iterator[np.ndarray]:
    """Yield the images in batches under a progress bar that counts images a second."""
    with progress_bar(total=len(images), desc=label, unit="image") as bar:
        for start in range(0, len(images), size):
            yield images[start : start + size]
            bar.update(min(size, len(images) - start))


def _resized(images: np.ndarray, size: int, mean: Sequence[float], std: Sequence[float], device) -> torch.Tensor:
    """Return uint8 [n, h, w, c] as normalised float32 [n, 3, size, size], resized bicubically."""
    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float()
    batch = batch.expand(-1, 3, -1, -1)
    if batch.shape[-2:] != (size, size):
        batch = F.interpolate(batch, size=(size, size), mode="bicubic", antialias=True).clamp_(0, 255)
    shape = (1, 3, 1, 1)
    return (batch / 255 - torch.tensor(mean, device=device).view(shape)) / torch.tensor(std, device=device).view(shape)


class Encoder:
    """Base of all encoders.

    Attributes
    ----------
    label : str
        How tables and figures name it.
    normalize : bool
        Whether `encode` centres the features and scales them to unit length (pre-trained networks).
    cached : bool
        Whether the features are worth a file; flattened pixels are not.
    image_size : int or None
        Side of the images that it was made for; None where it takes those of the data set.
    text : bool
        Whether it takes sentences, str [n], in the place of images.
    resumable : bool
        Whether `fit` takes a checkpoint and a deadline, as `train` does: of encoders that are trained for long.
    earlier_seconds_ : float
        Training time before the checkpoint that `fit` went on from.
    notes : tuple of str
        What was assumed of its file.
    """

    label: str
    normalize = False
    cached = True
    image_size: int | None = None
    text = False
    resumable = False
    earlier_seconds_ = 0.0
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return a text that differs whenever the features would: options, and the digest of loaded weights."""
        raise NotImplementedError

    def fit(self, images: np.ndarray) -> Encoder:
        """Learn from training images, uint8 [n, h, w, c]; pre-trained encoders have nothing to learn."""
        return self

    def transform(self, images: np.ndarray) -> np.ndarray:
        """Return float32 features [n, d] of uint8 images [n, h, w, c]."""
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """Return what `fit` learnt, as arrays."""
        return {}

    def load_state(self, state: dict[str, np.ndarray], image_shape: tuple[int, ...]) -> None:
        """Take back what `state` returned."""


class RawEncoder(Encoder):
    """Flattened pixels in [0, 1]."""

    label = "raw pixels"
    cached = False

    def fingerprint(self) -> str:
        return "raw"

    def transform(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32) / 255


class PCAEncoder(Encoder):
    """Principal components of the flattened pixels (scikit-learn's randomised solver)."""

    label = "PCA"

    def __init__(self, n_components: int = 128):
        self.n_components = n_components

    def fingerprint(self) -> str:
        return f"pca {self.n_components}"

    def fit(self, images: np.ndarray) -> PCAEncoder:
        pixels = RawEncoder().transform(images)
        n_components = min(self.n_components, *pixels.shape)
        pca = PCA(n_components, svd_solver="randomized", random_state=0).fit(pixels)
        self.mean_, self.components_ = pca.mean_, pca.components_
        return self

    def transform(self, images: np.ndarray) -> np.ndarray:
        return ((RawEncoder().transform(images) - self.mean_) @ self.components_.T).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean_, "components": self.components_}

    def load_state(self, state: dict[str, np.ndarray], image_shape: tuple[int, ...]) -> None:
        self.mean_, self.components_ = state["mean"], state["components"]


class ConvAutoencoder(nn.Module):
    """Two strided convolutions, a linear code, and their mirror image; height and width divisible by 4."""

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
        return self.decoder(self.encoder(images))


class AutoencoderEncoder(Encoder):
    """The code of a convolutional autoencoder, trained here on the training images with squared error.

    Parameters
    ----------
    epochs, code_size, width, batch_size, seed : int
        Training length, dimension of the code, channels of the first layer, images a step, initialisation.
    """

    label = "autoencoder"

    def __init__(
        self, *, epochs: int = 12, code_size: int = 128, width: int = 48, batch_size: int = 256, seed: int = 0
    ):
        self.options = {"epochs": epochs, "code_size": code_size, "width": width, "batch_size": batch_size}
        self.seed = seed

    def fingerprint(self) -> str:
        return f"autoencoder {json.dumps(self.options)} seed {self.seed}"

    def _network(self, image_shape: tuple[int, ...]) -> ConvAutoencoder:
        if image_shape[0] % 4 or image_shape[1] % 4:
            raise ValueError(f"the autoencoder needs height and width divisible by 4, not {image_shape[:2]}")
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = ConvAutoencoder(image_shape, self.options["code_size"], self.options["width"])
        return network.to(default_device(), memory_format=torch.channels_last)

    def fit(self, images: np.ndarray) -> AutoencoderEncoder:
        self.network_ = network = self._network(images.shape[1:])
        device, size, epochs = default_device(), self.options["batch_size"], self.options["epochs"]
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        steps = -(-len(images) // size) * epochs
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
        rng = np.random.default_rng(self.seed)
        network.train()
        for epoch in range(epochs):
            shuffled = images[rng.permutation(len(images))]
            for batch in _batches(shuffled, size, f"autoencoder {epoch + 1}/{epochs}"):
                target = _unit_range(batch, device)
                with torch.autocast(device.type, torch.bfloat16):
                    output = network(target)
                loss = F.mse_loss(output.float(), target)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
        network.eval()
        return self

    @torch.no_grad()
    def transform(self, images: np.ndarray) -> np.ndarray:
        device = default_device()
        parts = [self.network_.encoder(_unit_range(b, device)).cpu() for b in _batches(images, 1000, self.label)]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Return the decoder's images of the encoder's codes, uint8 as the input."""
        output = self.network_(_unit_range(images, default_device())).clamp(0, 1)
        return (output * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        return {name: value.cpu().numpy() for name, value in self.network_.state_dict().items()}

    def load_state(self, state: dict[str, np.ndarray], image_shape: tuple[int, ...]) -> None:
        self.network_ = self._network(image_shape)
        self.network_.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        self.network_.eval()


def _unit_range(images: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255


class OnnxEncoder(Encoder):
    """Any image encoder in an ONNX file: one input of pixels, and one output that has features.

    The input is float32 (or float16) [n, c, h, w] or [n, h, w, c] with three channels or one. Of several outputs a
    pooled one [n, d] is taken. A map [n, d, h, w] or [n, h, w, d] is averaged over its places, and [n, tokens, d] over
    its tokens. One picture is encoded at once, so that a file which cannot be used is refused before any data are read.

    Parameters
    ----------
    path : str or Path
        The file.
    image_size, mean, std : optional
        Preprocessing; by default the file's own metadata, keys ``image_size``, ``mean`` and ``std``; else the size that
        its input has, and where neither mean nor standard deviation is given, ImageNet's.
    output : str, optional
        Name of the output with the features; default: the pooled one.
    batch_size : int
        Images a call, where the file leaves it open.

    Attributes
    ----------
    notes : tuple of str
        What was taken and assumed.
    """

    normalize = True

    def __init__(
        self,
        path: str | Path,
        *,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        output: str | None = None,
        batch_size: int = 64,
    ):
        import onnxruntime

        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} does not exist; put the ONNX encoder there or give another path")
        try:
            self.session = onnxruntime.InferenceSession(
                self.path, providers=[p for p in PROVIDERS if p in onnxruntime.get_available_providers()]
            )
        except Exception as error:  # onnxruntime raises a different class for each defect
            raise ValueError(
                f"{self.path} is not an ONNX model that can be run, or its file of weights is missing ({error})"
            ) from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in PIXELS or len(inputs[0].shape) != 4:
            found = ", ".join(f"{entry.name}: {entry.type} {entry.shape}" for entry in inputs)
            raise ValueError(f"{self.path} takes {found}; expected one input of pixels, float [n, channels, h, w]")
        self.input, shape = inputs[0], inputs[0].shape
        self.channels_last = shape[1] not in (1, 3) and shape[3] in (1, 3)
        sides = shape[1:3] if self.channels_last else shape[2:]
        self.channels = shape[3] if self.channels_last else shape[1]
        if self.channels not in (1, 3) and isinstance(self.channels, int):
            raise ValueError(f"{self.path} takes pixels of shape {shape}; expected 3 channels or 1")
        self._set_preprocessing(image_size, mean, std, sides)
        self.fixed_batch = shape[0] if isinstance(shape[0], int) else 0
        self.batch_size = self.fixed_batch or batch_size
        self._set_output(output)

    def _set_preprocessing(
        self, image_size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None, sides: Sequence[Any]
    ) -> None:
        metadata, notes = self.session.get_modelmeta().custom_metadata_map, []
        self.label = metadata.get("label", self.path.stem)
        fixed = sides[0] if isinstance(sides[0], int) and sides[0] == sides[1] else 0
        try:
            self.image_size = image_size or int(metadata.get("image_size", fixed))
            self.mean = list(mean) if mean else _numbers(metadata.get("mean"))
            self.std = list(std) if std else _numbers(metadata.get("std"))
        except ValueError as error:
            raise ValueError(f"{self.path} has unreadable metadata ({error}); pass image_size, mean and std") from error
        if not self.mean and not self.std:
            self.mean, self.std = IMAGENET
            notes.append(
                "it does not say its mean and std, so those of ImageNet are taken (onnx:PATH?mean=...&std=...)"
            )
        if self.image_size < 1 or len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"{self.path} does not say its image_size, mean and std (3 numbers each); pass them")
        if isinstance(sides[0], int) and sides != [self.image_size] * 2:
            raise ValueError(f"{self.path} takes pictures of {sides[0]} x {sides[1]} pixels, not of {self.image_size}")
        self.notes = tuple(f"encoder {self.label}: {note}" for note in notes)

    def _set_output(self, wanted: str | None) -> None:
        """Choose the output, by what it makes of one picture, and the axes to average over."""
        names = [entry.name for entry in self.session.get_outputs()]
        if wanted is not None and wanted not in names:
            raise ValueError(f"{self.path} has no output {wanted!r}; it has {', '.join(names)}")
        picture = np.zeros((1, self.image_size, self.image_size, 3), np.uint8)
        try:
            made = dict(zip(names, self.session.run(None, self._feed(picture)), strict=True))
        except Exception as error:  # onnxruntime raises a different class for each defect
            raise ValueError(f"{self.path} cannot encode a picture of {self.image_size} pixels ({error})") from error
        shapes = {name: np.shape(array) for name, array in made.items()}
        flat = [name for name in names if len(shapes[name]) == 2]
        places = [name for name in names if len(shapes[name]) in (3, 4)]
        # A row of scores for classes comes last: it has less to say than what it was made of.
        by_name = [[name for name in flat if any(w in name.lower() for w in words)] for words in (POOLED, SCORES)]
        self.output = wanted or [*by_name[0], *(f for f in flat if f not in by_name[1]), *places, *names][0]
        shape, n = shapes[self.output], self.fixed_batch or 1
        if len(shape) not in (2, 3, 4) or shape[0] != n:
            raise ValueError(
                f"{self.path} makes {shape} of {n} images, expected [n, d], [n, tokens, d] or [n, d, h, w]"
            )
        self.pooled_axes, how = _places(shape, self.channels_last)
        if len(names) > 1 or len(shape) == 3:
            taken = f"encoder {self.label}: the output {self.output!r} {list(shape)}{how} is taken"
            others = [name for name in names if name != self.output]
            choose = f", not {', '.join(others)} (onnx:PATH?output=NAME)" if others else ""
            self.notes = (*self.notes, taken + choose)

    def fingerprint(self) -> str:
        weights = "".join(f" {digest_file(path)}" for path in _external_weights(self.path))
        # Nothing is added where the first output is taken as it always was: those features are still in caches.
        first = self.session.get_outputs()[0].name
        chosen = "" if self.output == first else f" {self.output}"
        places = "" if self.pooled_axes in ((), (2, 3)) else f" mean over {self.pooled_axes}"
        return f"onnx {digest_file(self.path)} {self.image_size} {self.mean} {self.std}{weights}{chosen}{places}"

    def _feed(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = _resized(images, self.image_size, self.mean, self.std, "cpu").contiguous().numpy()
        if self.channels == 1:
            pixels = pixels.mean(axis=1, keepdims=True)
        if self.channels_last:
            pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        if self.fixed_batch:
            pixels = np.resize(pixels, (self.fixed_batch, *pixels.shape[1:]))  # repeats images
        return {self.input.name: pixels.astype(PIXELS[self.input.type], copy=False)}

    def transform(self, images: np.ndarray) -> np.ndarray:
        parts = []
        for batch in _batches(images, self.batch_size, self.label):
            made = np.asarray(self.session.run([self.output], self._feed(batch))[0], dtype=np.float32)[: len(batch)]
            if len(made) != len(batch):
                raise ValueError(f"{self.path} makes {made.shape} of {len(batch)} images, expected a row for each")
            parts.append(made.mean(axis=self.pooled_axes) if self.pooled_axes else made)
        return np.concatenate(parts)


PIXELS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # mean and standard deviation of its pixels
POOLED = ("pool", "embed", "feature")  # in the names of outputs with a row of features for each picture, ...
SCORES = ("logit", "prob", "score", "class")  # ... and of those with a row of scores


def _places(shape: Sequence[int], channels_last: bool) -> tuple[tuple[int, ...], str]:
    """Return the axes of an output that are places of the picture, and how that is said."""
    if len(shape) == 2:
        return (), ""
    if len(shape) == 4:
        last = shape[1] == shape[2] != shape[3] or (channels_last and shape[1] == shape[2])
        return ((1, 2) if last else (2, 3)), ", averaged over its places,"

    def counts_tokens(size: int) -> bool:  # the squares of a grid, and a few more
        return any(round((size - more) ** 0.5) ** 2 == size - more for more in range(6) if size >= 5 * more)

    turned = shape[2] == 1 or (counts_tokens(shape[2]) and not counts_tokens(shape[1]))
    return ((2,) if turned else (1,)), f", averaged over axis {2 if turned else 1}, its tokens,"


def _external_weights(path: Path) -> list[Path]:
    """Return the files beside an ONNX file that have weights of it; protobuf writes their names as plain text."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names = re.findall(rb"\x0a\x08location\x12([\x01-\x7f])(?=([^\x00]{1,127}))", content)
    found = {path.parent / rest[: length[0]].decode(errors="replace") for length, rest in names}
    return sorted(weights for weights in found if weights.is_file())


PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def _numbers(text: str | None) -> list[float]:
    return [float(part) for part in text.split(",")] if text else []


class ClipEncoder(Encoder):
    """The image tower of a CLIP model (open_clip).

    Parameters
    ----------
    model : str
        open_clip's name; OpenAI's weights need the ``-quickgelu`` configuration.
    pretrained : str
        A tag (``"openai"``; open_clip downloads it) or the path of a local checkpoint.
    batch_size : int
        Images a call.

    References
    ----------
    Radford et al. (2021), Learning transferable visual models from natural language supervision.
    """

    normalize = True

    def __init__(self, model: str = "ViT-B-32-quickgelu", pretrained: str = "openai", *, batch_size: int = 128):
        import open_clip

        try:
            network = open_clip.create_model(model, pretrained=pretrained)
        except Exception as error:  # hub, file and configuration errors all end here
            raise ValueError(
                f"CLIP model {model!r} with weights {pretrained!r} cannot be loaded ({error}); "
                "OpenAI's weights need a network, `clip:MODEL:FILE` takes a local checkpoint"
            ) from error
        self.network = network.visual.eval().to(default_device())
        self.label = f"CLIP {model}"
        size = self.network.image_size
        self.image_size = size if isinstance(size, int) else size[0]
        self.mean = self.network.image_mean or open_clip.OPENAI_DATASET_MEAN
        self.std = self.network.image_std or open_clip.OPENAI_DATASET_STD
        self.batch_size = batch_size

    def fingerprint(self) -> str:
        weights = digest_arrays(*(value.cpu().numpy() for value in self.network.state_dict().values()))
        return f"clip {weights} {self.image_size} {self.mean} {self.std}"

    @torch.no_grad()
    def transform(self, images: np.ndarray) -> np.ndarray:
        device, parts = default_device(), []
        for batch in _batches(images, self.batch_size, self.label):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                parts.append(self.network(_resized(batch, self.image_size, self.mean, self.std, device)).float().cpu())
        return torch.cat(parts).numpy()


class TfidfEncoder(Encoder):
    """Latent semantic analysis: TF-IDF of words and pairs of words, then a truncated singular value decomposition.

    Parameters
    ----------
    n_components : int
        Dimension, at most; small sets have fewer.
    min_count : int
        Sentences that a term must occur in.

    References
    ----------
    Deerwester et al. (1990), Indexing by latent semantic analysis.
    """

    label = "TF-IDF + SVD"
    normalize = True
    text = True

    def __init__(self, n_components: int = 128, *, min_count: int = 2):
        self.n_components, self.min_count = n_components, min_count

    def fingerprint(self) -> str:
        return f"tfidf {self.n_components} {self.min_count}"

    def _vectorizer(self, **options) -> TfidfVectorizer:
        # A function in the place of a pattern: the words are those of the networks that read text.
        return TfidfVectorizer(
            tokenizer=words, token_pattern=None, lowercase=False, ngram_range=(1, 2), sublinear_tf=True, **options
        )

    def fit(self, texts: np.ndarray) -> TfidfEncoder:
        self.vectorizer_ = self._vectorizer(min_df=self.min_count)
        weights = self.vectorizer_.fit_transform(texts)
        n_components = min(self.n_components, *weights.shape)
        self.components_ = TruncatedSVD(n_components, random_state=0).fit(weights).components_.astype(np.float32)
        return self

    def transform(self, texts: np.ndarray) -> np.ndarray:
        return np.asarray(self.vectorizer_.transform(texts) @ self.components_.T, dtype=np.float32)

    def state(self) -> dict[str, np.ndarray]:
        terms = self.vectorizer_.get_feature_names_out().astype(np.str_)
        return {"terms": terms, "idf": self.vectorizer_.idf_, "components": self.components_}

    def load_state(self, state: dict[str, np.ndarray], image_shape: tuple[int, ...]) -> None:
        self.vectorizer_ = self._vectorizer(vocabulary={str(term): row for row, term in enumerate(state["terms"])})
        self.vectorizer_.idf_ = state["idf"]
        self.components_ = state["components"]


class MiniLMEncoder(Encoder):
    """Sentence embeddings of all-MiniLM-L6-v2, 384 numbers a sentence; needs the extra ``text`` (see `minilm`).

    Parameters
    ----------
    folder : path, optional
        Another sentence-transformers model; default: `minilm.find_model`.
    batch_size : int
        Sentences a call.
    """

    label = minilm.LABEL
    normalize = True
    text = True

    def __init__(self, folder: str | Path | None = None, *, batch_size: int = 64):
        folder = minilm.find_model() if folder is None else Path(folder)
        self.model = minilm.load_model(folder).to(default_device())
        self.digest = digest_file(folder / "model.safetensors")
        self.batch_size = batch_size

    def fingerprint(self) -> str:
        return f"minilm {self.digest} {self.model.max_seq_length}"

    def transform(self, texts: np.ndarray) -> np.ndarray:
        # Sentences of like length share a batch: the shorter ones are filled up to the longest.
        order = np.argsort([len(text) for text in texts], kind="stable")
        parts = [
            self.model.encode(batch.tolist(), batch_size=self.batch_size, show_progress_bar=False)
            for batch in _batches(np.asarray(texts)[order], self.batch_size, self.label)
        ]
        features = np.empty((len(texts), parts[0].shape[1]), np.float32)
        features[order] = np.concatenate(parts)
        return features


ENCODERS = ("raw", "pca", "autoencoder", "simclr", "clip", "onnx:<file stem>")
TEXT_ENCODERS: dict[str, Callable[[], Encoder]] = {"tfidf": TfidfEncoder, "minilm": MiniLMEncoder}


def check_encoder_name(name: str) -> None:
    """Raise a ValueError if no encoder is called so; whether its file or weights are there is not looked at."""
    kind, _, rest = name.partition(":")
    known = ("raw", "pca", "autoencoder", "simclr", "clip", *TEXT_ENCODERS)
    if name not in known and not (kind in ("clip", "onnx") and rest):
        raise ValueError(f"no encoder is called {name!r}; there are {', '.join((*ENCODERS, *TEXT_ENCODERS))}")


def check_encoder_takes(name: str, *, text: bool, data: str) -> None:
    """Raise a ValueError if an encoder is one of images and the data are text, or the reverse."""
    if (name in TEXT_ENCODERS) != text:
        given, fitting = ("text", TEXT_ENCODERS) if text else ("images", ENCODERS)
        raise ValueError(f"encoder {name!r} does not take {given}, which {data} holds; there are {', '.join(fitting)}")


def make_encoder(name: str, *, data_dir: str | Path | None = None, epochs: int | None = None) -> Encoder:
    """Build an encoder from its identifier.

    Parameters
    ----------
    name : str
        ``"raw"``, ``"pca"``, ``"autoencoder"``, ``"simclr"``, ``"clip"`` (or ``"clip:MODEL:TAG_OR_FILE"``),
        ``"onnx:STEM"`` for ``encoders/STEM.onnx`` in the data directory (or ``"onnx:PATH.onnx"``), both with options of
        `OnnxEncoder` if need be, ``"onnx:STEM?size=224&output=NAME"``; for text ``"tfidf"`` and ``"minilm"``.
    data_dir : str or Path, optional
        See `load_data`.
    epochs : int, optional
        Training length, for encoders that are trained here.

    Raises
    ------
    ValueError, FileNotFoundError
        If there is no such encoder, or its file is missing or damaged.
    """
    check_encoder_name(name)
    if name in TEXT_ENCODERS:
        return TEXT_ENCODERS[name]()
    kind, _, rest = name.partition(":")
    if name == "raw":
        return RawEncoder()
    if name == "pca":
        return PCAEncoder()
    if name == "autoencoder":
        return AutoencoderEncoder() if epochs is None else AutoencoderEncoder(epochs=epochs)
    if name == "simclr":
        from regroup_lib.simclr import SimCLREncoder  # it builds on this module

        return SimCLREncoder() if epochs is None else SimCLREncoder(epochs=epochs)
    if kind == "clip":
        model, _, pretrained = rest.partition(":")
        return ClipEncoder(model or "ViT-B-32-quickgelu", pretrained or "openai")
    rest, _, query = rest.partition("?")
    path = Path(rest) if rest.endswith(".onnx") else data_directory(data_dir) / "encoders" / f"{rest}.onnx"
    return OnnxEncoder(path, **_onnx_options(query))


def _onnx_options(query: str) -> dict[str, Any]:
    """Return the options of an ONNX encoder that follow its path: ``size=224&mean=0,0,0&std=1,1,1&output=NAME``."""
    read = {"size": int, "mean": _numbers, "std": _numbers, "output": str}
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        options = {name: read[name](value) for name, value in given.items()}
    except (KeyError, ValueError) as error:
        example = "size=224&mean=0.5,0.5,0.5&std=0.5,0.5,0.5&output=NAME"
        raise ValueError(f"options of the ONNX encoder are {query!r} ({error}); expected some of {example}") from None
    return {"image_size" if name == "size" else name: value for name, value in options.items()}


@dataclass(frozen=True)
class Features:
    """What an encoder makes of a data set.

    Attributes
    ----------
    splits : dict of str to ndarray of float32 [n, d]
        Features of each split, in the data set's order.
    seconds : float
        Time it took to fit and encode, when it was done.
    encoder : Encoder
        The fitted encoder.
    """

    splits: dict[str, np.ndarray]
    seconds: float
    encoder: Encoder


def encode(
    dataset: Dataset,
    encoder: str | Encoder,
    *,
    data_dir: str | Path | None = None,
    epochs: int | None = None,
    checkpoint_dir: str | Path | None = None,
    deadline: float | None = None,
    wait: bool = True,
) -> Features:
    """Fit an encoder on a data set's training inputs, encode every split, and keep the result on disk.

    The cache lies in ``features/`` of the data directory, under a key of encoder, weights and data digest. A
    cache file that is damaged is reported and made again. All features are in memory: `encode_rows` is for those that
    do not fit.

    Parameters
    ----------
    dataset : Dataset
    encoder : str or Encoder
        An identifier of `make_encoder`, or an encoder of your own.
    data_dir, epochs
        See `make_encoder`.
    checkpoint_dir : path, optional
        Where the training of a resumable encoder (SimCLR) leaves its last epoch. What it has learnt stays there, so
        that features which are lost, or left behind on another machine, can be made again without training.
    deadline : float, optional
        A `time.monotonic` after which no epoch of such an encoder is to end.
    wait : bool
        When another process computes the same features: wait for them (True) or raise.

    Returns
    -------
    Features

    Raises
    ------
    OutOfTime
        If the training of the encoder stopped at its deadline.
    ValueError
        If an encoder of images is asked for text, or the reverse, or the data set is a table.
    TimeoutError
        If another process computes them and `wait` is False.
    """
    if dataset.is_table:
        raise ValueError(
            f"{dataset.name} is a table, and encoders take images or text; cluster its columns as they are"
        )
    if isinstance(encoder, str):
        check_encoder_name(encoder)
        check_encoder_takes(encoder, text=dataset.is_text, data=dataset.name)
        encoder = make_encoder(encoder, data_dir=data_dir, epochs=epochs)
    if encoder.text != dataset.is_text:
        taken, held = ("text", "images") if encoder.text else ("images", "text")
        raise ValueError(f"encoder {encoder.label} takes {taken}, and {dataset.name} holds {held}")
    if not encoder.cached:
        kept = _encoded(dataset, encoder)
    else:
        fingerprint = f"{encoder.fingerprint()} normalize={encoder.normalize} {dataset.digest}"
        key = hashlib.sha256(fingerprint.encode()).hexdigest()[:20]
        root = data_directory(data_dir)
        path = root / "features" / f"{dataset.name}-{type(encoder).__name__}-{key}.npz"
        (root / ".locks").mkdir(parents=True, exist_ok=True)
        # Minutes of work that two processes shall not both do.
        with FileLock(root / ".locks" / f"{key}.lock", timeout=-1 if wait else 0):
            kept = _read_cache(path, dataset)
            if kept is None:
                checkpoint = None if checkpoint_dir is None else Path(checkpoint_dir) / f"encoder-{key}.pt"
                kept = _encoded(dataset, encoder, checkpoint, deadline)
                arrays = kept | {f"state_{name}": value for name, value in encoder.state().items()}
                write_npz(path, arrays | {"digest": np.array(_digest_of(arrays))})
            else:
                state = {name.removeprefix("state_"): kept[name] for name in kept if name.startswith("state_")}
                encoder.load_state(state, dataset.train.inputs.shape[1:])
    splits = {name.removeprefix("split_"): value for name, value in kept.items() if name.startswith("split_")}
    return Features(splits, float(kept["seconds"]), encoder)


def _encoded(
    dataset: Dataset, encoder: Encoder, checkpoint: Path | None = None, deadline: float | None = None
) -> dict[str, np.ndarray]:
    """Fit an encoder and encode every split: ``split_<name>``, and ``seconds``."""
    start = time.perf_counter()
    encoder.fit(dataset.train.inputs, **({"checkpoint": checkpoint, "deadline": deadline} if encoder.resumable else {}))
    names = ["train", *(name for name in dataset.splits if name != "train")]
    arrays = [encoder.transform(dataset.splits[name].inputs) for name in names]
    if encoder.normalize:
        arrays = center_and_normalize(*arrays)
    return {f"split_{name}": array for name, array in zip(names, arrays, strict=True)} | {
        "seconds": np.array(time.perf_counter() - start + encoder.earlier_seconds_)
    }


def _digest_of(arrays: dict[str, np.ndarray]) -> str:
    return digest_arrays(*(arrays[name] for name in sorted(arrays)), np.array(sorted(arrays)))


def _read_cache(path: Path, dataset: Dataset) -> dict[str, np.ndarray] | None:
    """Return a cache file's arrays, or None where there is none or it is damaged."""
    try:
        kept = read_npz(path)
        digest = kept.pop("digest", None)  # older files have none
        if digest is not None and str(digest) != _digest_of(kept):
            raise ValueError("it is not what was written: its digest differs")
        for name, split in dataset.splits.items():
            if len(kept[f"split_{name}"]) != len(split):
                raise ValueError(f"{path} has {len(kept[f'split_{name}'])} {name} rows, expected {len(split)}")
        float(kept["seconds"])
        return kept
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("the feature cache %s is damaged and is made again (%s)", path, error)
        return None


def encode_rows(
    images: Any,
    encoder: Encoder,
    path: str | Path,
    *,
    center: np.ndarray | None = None,
    block_rows: int = 4096,
) -> np.ndarray | None:
    """Encode images that do not fit in memory, and write their features to an ``.npy`` file by blocks.

    `encode` holds all features of a data set in memory; here it is one block of images and of features.

    Parameters
    ----------
    images : path, memory map, or what `blocks.open_rows` takes
        uint8 [n, h, w, c], or sentences.
    encoder : Encoder
        A pre-trained one, or one that was fitted on as many images as fit in memory.
    path : path
        The file, float32 [n, d]; there when it is whole.
    center : ndarray of float32 [d], optional
        What is subtracted from features that are normalised; default: their mean. For a test split: what the call for
        the training split returned.
    block_rows : int
        Images at a time.

    Returns
    -------
    ndarray of float32 [d] or None
        What was subtracted; None where `encoder` does not normalise.
    """
    images = open_rows(images)
    n, total = images.shape[0], np.zeros(())
    if n == 0:
        raise ValueError("there are no images to encode")
    with atomic_path(path) as partial, progress_bar(total=n, desc=encoder.label, unit="image") as bar:
        with partial.open("wb") as stream:
            for start in range(0, n, block_rows):
                block = np.asarray(images[start : min(start + block_rows, n)])
                with silence():
                    features = np.ascontiguousarray(encoder.transform(block), np.float32)
                if start == 0:
                    header = {"descr": features.dtype.str, "fortran_order": False, "shape": (n, features.shape[1])}
                    np.lib.format.write_array_header_1_0(stream, header)
                stream.write(features.data)
                total = total + features.sum(axis=0, dtype=np.float64)
                bar.update(len(block))
        if not encoder.normalize:
            return None
        center = (total / n).astype(np.float32) if center is None else center
        rows = NpyRows.open(partial)
        with partial.open("r+b") as stream:
            stream.seek(rows.offset)
            for start in range(0, n, block_rows):
                centered = rows[start : start + block_rows] - center
                centered /= np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
                stream.write(centered.data)
    return center
