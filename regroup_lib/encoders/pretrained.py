"""Pre-trained encoders: any ONNX file, and CLIP."""

from __future__ import annotations

import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch

from regroup_lib.encoders.base import Encoder, resized
from regroup_lib.files import digest_arrays, digest_file
from regroup_lib.nn.models import default_device


class OnnxEncoder(Encoder):
    """Any image encoder in an ONNX file with one input of pixels and an output of features.

    The input is float32 (or float16) [n, c, h, w] or [n, h, w, c] with three channels or one. Of several outputs a
    pooled one [n, d] is taken. A map [n, d, h, w] or [n, h, w, d] is averaged over its places, and [n, tokens, d] over
    its tokens. The constructor encodes one picture, so that an unusable file is refused before any data are read.

    Parameters
    ----------
    path : str or Path
        The file.
    image_size, mean, std : optional
        Preprocessing. Defaults: the file's own metadata, keys ``image_size``, ``mean`` and ``std``; else the size of
        its input, and if neither mean nor standard deviation is given, ImageNet's.
    output : str, optional
        Name of the output with the features; default: the pooled one.
    batch_size : int
        Images per call, if the file does not fix it.
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
        metadata, self.notes = self.session.get_modelmeta().custom_metadata_map, ()
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
            assumed = "it does not say its mean and std, so those of ImageNet are taken (onnx:PATH?mean=...&std=...)"
            self.notes = (f"encoder {self.label}: {assumed}",)
        if self.image_size < 1 or len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"{self.path} does not say its image_size, mean and std (3 numbers each); pass them")
        if not all(0 <= mean <= 1 for mean in self.mean) or not all(0 < std < 10 for std in self.std):
            raise ValueError(f"{self.path}: mean {self.mean} and std {self.std} are not those of pixels from 0 to 1")
        if isinstance(sides[0], int) and sides != [self.image_size] * 2:
            raise ValueError(f"{self.path} takes pictures of {sides[0]} x {sides[1]} pixels, not of {self.image_size}")

    def _set_output(self, wanted: str | None) -> None:
        """Choose the output, by its shape for one picture, and the axes to average over."""
        outputs = self.session.get_outputs()  # some, such as the number of a class, are no floats
        names = [entry.name for entry in outputs if entry.type in PIXELS or entry.type == "tensor(double)"]
        if not names:
            found = ", ".join(f"{entry.name}: {entry.type}" for entry in outputs)
            raise ValueError(f"{self.path} makes {found}; expected an output of features, float [n, d]")
        if wanted is not None and wanted not in names:
            raise ValueError(f"{self.path} has no output {wanted!r}; it has {', '.join(names)}")
        picture = np.zeros((1, self.image_size, self.image_size, 3), np.uint8)
        try:
            made = dict(zip(names, self.session.run(names, self._feed(picture)), strict=True))
        except Exception as error:  # onnxruntime raises a different class for each defect
            raise ValueError(f"{self.path} cannot encode a picture of {self.image_size} pixels ({error})") from error
        shapes = {name: np.shape(array) for name, array in made.items()}
        flat = [name for name in names if len(shapes[name]) == 2]
        places = [name for name in names if len(shapes[name]) in (3, 4)]
        # Class scores come last, because they tell less than the features from which they are computed.
        by_name = [[name for name in flat if any(w in name.lower() for w in words)] for words in (POOLED, SCORES)]
        self.output = wanted or [*by_name[0], *(f for f in flat if f not in by_name[1]), *places, *flat, *names][0]
        shape, n = shapes[self.output], self.fixed_batch or 1
        if len(shape) not in (2, 3, 4) or shape[0] != n:
            raise ValueError(
                f"{self.path} makes {shape} of {n} images, expected [n, d], [n, tokens, d] or [n, d, h, w]"
            )
        self.pooled_axes, how = _places(shape, self.channels_last)
        if len(names) > 1 or len(shape) == 3 or self.output in by_name[1]:
            taken = f"encoder {self.label}: the output {self.output!r} {list(shape)}{how} is taken"
            others = [name for name in names if name != self.output]
            choose = f", not {', '.join(others)} (onnx:PATH?output=NAME)" if others else ""
            self.notes = (*self.notes, taken + choose)

    def fingerprint(self) -> str:
        weights = "".join(f" {digest_file(path)}" for path in _external_weights(self.path))
        # Nothing is added for the first output, so that older caches stay valid.
        first = self.session.get_outputs()[0].name
        chosen = "" if self.output == first else f" {self.output}"
        places = "" if self.pooled_axes in ((), (2, 3)) else f" mean over {self.pooled_axes}"
        return f"onnx {digest_file(self.path)} {self.image_size} {self.mean} {self.std}{weights}{chosen}{places}"

    def _feed(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = resized(images, self.image_size, self.mean, self.std, "cpu").contiguous().numpy()
        if self.channels == 1:
            pixels = pixels.mean(axis=1, keepdims=True)
        if self.channels_last:
            pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        if self.fixed_batch:
            pixels = np.resize(pixels, (self.fixed_batch, *pixels.shape[1:]))  # repeats images
        return {self.input.name: pixels.astype(PIXELS[self.input.type], copy=False)}

    def _batch(self, images: np.ndarray) -> np.ndarray:
        made = np.asarray(self.session.run([self.output], self._feed(images))[0], dtype=np.float32)[: len(images)]
        if len(made) != len(images):
            raise ValueError(f"{self.path} makes {made.shape} of {len(images)} images, expected a row for each")
        return made.mean(axis=self.pooled_axes) if self.pooled_axes else made


PIXELS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # mean and standard deviation of its pixels
POOLED = ("pool", "embed", "feature")  # in the names of outputs with one row of features per picture, ...
SCORES = ("logit", "prob", "score", "class")  # ... and of those with a row of scores


def _places(shape: Sequence[int], channels_last: bool) -> tuple[tuple[int, ...], str]:
    """Return the axes of an output that are places of the picture, and the words of the note on it."""
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
    """The image tower of a CLIP model by open_clip's name; OpenAI's weights need the ``-quickgelu`` configuration.

    `pretrained` is a tag (``"openai"``; open_clip downloads it) or the path of a local checkpoint.
    Source: Radford et al. (2021), Learning transferable visual models from natural language supervision.
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
    def _batch(self, images: np.ndarray) -> np.ndarray:
        device = default_device()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            pixels = resized(images, self.image_size, self.mean, self.std, device)
            return self.network(pixels).float().cpu().numpy()


def onnx_options(query: str) -> dict[str, Any]:
    """Return the options of an ONNX encoder that follow its path: ``size=224&mean=0,0,0&std=1,1,1&output=NAME``."""
    read = {"size": int, "mean": _numbers, "std": _numbers, "output": str}
    try:
        given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        options = {name: read[name](value) for name, value in given.items()}
    except (KeyError, ValueError) as error:
        example = "size=224&mean=0.5,0.5,0.5&std=0.5,0.5,0.5&output=NAME"
        raise ValueError(f"options of the ONNX encoder are {query!r} ({error}); expected some of {example}") from None
    return {"image_size" if name == "size" else name: value for name, value in options.items()}
