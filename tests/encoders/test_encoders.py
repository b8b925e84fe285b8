"""Encoders: features of the promised shape and values, the same every time, kept on disk and never trusted blindly."""

import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import open_clip
import pytest
import torch
from conftest import Trap, flip_bit
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from regroup_lib.data.dataset import Dataset, Split
from regroup_lib.data.load import load_data
from regroup_lib.encoders.base import Encoder, center_and_normalize
from regroup_lib.encoders.features import encode, encode_rows, make_encoder
from regroup_lib.encoders.pixels import AutoencoderEncoder, PCAEncoder, RawEncoder
from regroup_lib.encoders.pretrained import ClipEncoder, OnnxEncoder
from regroup_lib.encoders.simclr import SimCLREncoder
from regroup_lib.files import data_directory, digest_arrays, read_npz, write_npz


def make_dataset(n=24, size=16, channels=3, seed=0, order=("train", "test")):
    """Return random images; the splits differ in length and stand in the order given."""
    rng = np.random.default_rng(seed)
    splits = {}
    for number, name in enumerate(order):
        images = rng.integers(0, 256, (n - 5 * number, size, size, channels), dtype=np.uint8)
        splits[name] = Split(images, np.arange(len(images)) % 2)
    return Dataset("noise", splits, ("a", "b"), digest_arrays(*(split.inputs for split in splits.values())))


@pytest.fixture
def digits():
    return load_data("digits")


def test_raw_is_flattened_pixels_in_the_unit_range(digits, tmp_path):
    features = encode(digits, "raw", data_dir=tmp_path)
    for name, split in digits.splits.items():
        found = features.splits[name]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, (split.inputs.reshape(len(split), 64) / 255).astype(np.float32))
    assert not (tmp_path / "features").exists()  # flattened pixels are not worth a file


def test_pca_agrees_with_an_eigendecomposition(digits):
    encoder = PCAEncoder(n_components=10).fit(digits.train.inputs)
    pixels = digits.train.inputs.reshape(-1, 64) / 255
    centered = pixels - pixels.mean(axis=0)
    variances, axes = np.linalg.eigh(centered.T @ centered)
    ours, theirs = encoder.transform(digits.train.inputs), centered @ axes[:, ::-1][:, :10]
    assert (ours.dtype, ours.shape) == (np.float32, (1257, 10))
    np.testing.assert_allclose((ours.astype(float) ** 2).sum(axis=0), variances[::-1][:10], rtol=0.02)
    # Axes have no sign; the first components are well apart.
    np.testing.assert_allclose(np.abs(ours[:, :3]), np.abs(theirs[:, :3]), atol=0.02)
    # Of few images there are as many components as images.
    assert PCAEncoder().fit(digits.train.inputs[:7]).transform(digits.test.inputs).shape == (540, 7)


SMALL = {"epochs": 6, "code_size": 16, "width": 8, "batch_size": 64}


@pytest.fixture(scope="module")
def trained():
    return AutoencoderEncoder(**SMALL).fit(load_data("digits").train.inputs)


def test_autoencoder_codes(trained, digits):
    codes = trained.transform(digits.test.inputs)
    assert (codes.shape, codes.dtype) == ((540, 16), np.float32)
    assert np.isfinite(codes).all()
    assert codes.std(axis=0).min() > 0
    # A code belongs to its image, whatever stands beside it in the batch.
    np.testing.assert_allclose(trained.transform(digits.test.inputs[100:107]), codes[100:107], rtol=1e-3, atol=1e-3)
    # Its decoder reconstructs better than the mean image would.
    images = digits.test.inputs
    decoded = trained.reconstruct(images)
    assert (decoded.shape, decoded.dtype) == (images.shape, np.uint8)
    assert decoded.max() > 200  # the whole range of pixels is used
    chance = np.mean((images - digits.train.inputs.mean(axis=0)) ** 2)
    assert np.mean((decoded.astype(float) - images) ** 2) < 0.9 * chance


def test_autoencoder_is_the_same_for_the_same_seed(digits):
    encoders = [AutoencoderEncoder(**SMALL | {"epochs": 1}, seed=seed) for seed in (0, 0, 1)]
    codes = [e.fit(digits.train.inputs[:128]).transform(digits.test.inputs[:20]) for e in encoders]
    np.testing.assert_array_equal(codes[0], codes[1])
    assert np.abs(codes[0] - codes[2]).max() > 1e-3


def test_autoencoder_comes_back_from_its_cache_with_its_decoder(digits, tmp_path):
    written, read = (encode(digits, AutoencoderEncoder(**SMALL | {"epochs": 1}), data_dir=tmp_path) for _ in range(2))
    assert read.seconds == written.seconds  # of the training, not of reading
    np.testing.assert_array_equal(read.splits["test"], written.splits["test"])
    some = digits.test.inputs[:9]
    np.testing.assert_array_equal(read.encoder.reconstruct(some), written.encoder.reconstruct(some))


MEAN, STD = [0.5, 0.25, 0.125], [0.5, 1.0, 2.0]
METADATA = {"image_size": "16", "mean": "0.5,0.25,0.125", "std": "0.5,1.0,2.0", "label": "tiny net"}


def node(kind, output, *, of="images", **attributes):
    return helper.make_node(kind, [of, *attributes.pop("more", [])], [output], **attributes)


# From pixels to outputs by name, of which the file announces the last axis as "d" or as it is.
FLAT = {"features": ([node("Flatten", "features")], ["n", "d"])}
MAP = {"features": ([node("Identity", "features")], ["n", 3, "h", "w"])}
POOLED = {"pooler_output": ([node("ReduceMean", "pooler_output", axes=[2, 3], keepdims=0)], ["n", 3])}
SCORES = {"logits": ([node("ReduceMax", "logits", axes=[2, 3], keepdims=0)], ["n", 3])}
BY_PLACE = {"by_place": ([node("Reshape", "by_place", more=["places"])], ["n", 3, 256])}
TO_TOKENS = [*BY_PLACE["by_place"][0], node("Transpose", "tokens", of="by_place", perm=[0, 2, 1])]
TOKENS = {"tokens": (TO_TOKENS, ["n", 256, 3])}
LAST = {"map": ([node("Transpose", "map", perm=[0, 2, 3, 1])], ["n", 16, 16, 3])}
NUMBER = {"features": ([node("ReduceMean", "features", axes=[1, 2, 3], keepdims=0)], ["n"])}
MATMUL = [*POOLED["pooler_output"][0], node("MatMul", "features", of="pooler_output", more=["weights"])]
WEIGHTS = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
CLASS = {"label": ([*POOLED["pooler_output"][0], node("ArgMax", "label", of="pooler_output", axis=1)], ["n", 1])}
WEIGHTED = {"features": (MATMUL, ["n", 5])}


OUTPUT_TYPES = {"label": TensorProto.INT64}


def write_onnx(path, outputs=FLAT, *, shape=("n", 3, "h", "w"), metadata=METADATA):
    """Write a model with outputs name -> (nodes from `images`, shape)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nodes = [node for nodes, _ in outputs.values() for node in nodes]
    read = {name for node in nodes for name in node.input}
    constants = {"places": np.array([0, 3, -1]), "weights": WEIGHTS}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, OUTPUT_TYPES.get(name, TensorProto.FLOAT), [shape[0], *form[1:]])
            for name, (_, form) in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def prepared(images):
    """Return what an encoder's network should see of images that have its size: [n, 3, h, w]."""
    pixels = (images / 255 - np.array(MEAN)) / np.array(STD)
    return pixels.transpose(0, 3, 1, 2).astype(np.float32)


def test_onnx_features_are_the_networks(tmp_path):
    images = make_dataset(n=70).train.inputs  # more than one batch
    encoder = OnnxEncoder(write_onnx(tmp_path / "tiny.onnx", WEIGHTED))
    assert (encoder.label, encoder.image_size, encoder.mean, encoder.std) == ("tiny net", 16, MEAN, STD)
    features = encoder.transform(images)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, prepared(images).mean(axis=(2, 3)) @ WEIGHTS, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])  # gray images fill three channels
@pytest.mark.parametrize(  # the last three are files for a fixed number of images
    "shape",
    [("n", 3, "h", "w"), ("n", 1, 16, 16), ("n", 16, 16, 3), (4, 16, 16, 1), (1, 3, "h", "w"), (100, 3, "h", "w")],
)
def test_onnx_pixels_arrive_as_the_file_takes_them(tmp_path, shape, channels):
    images = make_dataset(channels=channels).train.inputs
    expected = prepared(np.broadcast_to(images, (*images.shape[:3], 3)))
    expected = expected.mean(axis=1, keepdims=True) if 1 in shape[1:] else expected
    expected = expected.transpose(0, 2, 3, 1) if shape[1] == 16 else expected
    found = OnnxEncoder(write_onnx(tmp_path / "layout.onnx", shape=shape)).transform(images)
    np.testing.assert_allclose(found, expected.reshape(24, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 24])
def test_onnx_resizes_as_pillow_does(tmp_path, size):
    """Bicubic, antialiased, as encoders are trained: one gray level of 255 apart at most."""
    y, x = np.mgrid[:16, :16]
    # Far enough from 0 and 255: Pillow rounds and clips between its two passes.
    image = np.stack([40 + y * 11, 40 + x * 11, 70 + 110 * ((x + y) % 8 > 3)], axis=-1).astype(np.uint8)
    path = write_onnx(tmp_path / "flat.onnx")
    encoder = OnnxEncoder(path, image_size=size, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0])
    ours = encoder.transform(image[None]).reshape(3, size, size).transpose(1, 2, 0) * 255
    theirs = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(ours - theirs).max() < 1.5
    board = np.kron(np.indices((4, 4)).sum(axis=0) % 2, np.ones((4, 4)))[None, :, :, None] * 255
    pixels = encoder.transform(board.astype(np.uint8))
    assert 0 <= pixels.min() < pixels.max() <= 1  # a bicubic spline overshoots


@pytest.mark.parametrize("lost", ["image_size", "mean", "std"])
def test_onnx_without_metadata_asks_for_it_and_takes_it(tmp_path, lost):
    metadata = {name: value for name, value in METADATA.items() if name != lost}
    path = write_onnx(tmp_path / "bare.onnx", metadata=metadata)
    with pytest.raises(ValueError, match=r"bare\.onnx does not say its image_size, mean and std .*; pass them"):
        OnnxEncoder(path)
    given = {"image_size": 16, "mean": MEAN, "std": STD}[lost]
    images = make_dataset().train.inputs
    features = OnnxEncoder(path, **{lost: given}).transform(images)
    np.testing.assert_allclose(features.reshape(-1, 3, 16, 16), prepared(images), rtol=1e-5, atol=1e-6)


def test_onnx_without_metadata_takes_the_size_of_its_input_and_says_what_it_assumes(tmp_path):
    encoder = OnnxEncoder(write_onnx(tmp_path / "bare.onnx", POOLED, shape=("n", 3, 16, 16), metadata={}))
    assert encoder.image_size == 16
    assert encoder.mean == [0.485, 0.456, 0.406]
    assert encoder.notes == (
        "encoder bare: it does not say its mean and std, so those of ImageNet are taken (onnx:PATH?mean=...&std=...)",
    )


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (TOKENS | POOLED, "'pooler_output' [1, 3] is taken, not"),
        (TOKENS, "'tokens' [1, 256, 3], averaged over axis 1, its tokens, is taken"),
        (BY_PLACE, "'by_place' [1, 3, 256], averaged over axis 2, its tokens, is taken"),
        (CLASS | MAP, ""),
        (SCORES | TOKENS, "averaged over axis 1, its tokens, is taken, not"),
        (MAP, ""),
        (LAST, ""),
    ],
)
def test_onnx_outputs_are_pooled_over_places_and_named(tmp_path, outputs, said):
    encoder = OnnxEncoder(write_onnx(tmp_path / "several.onnx", outputs))
    images = make_dataset().train.inputs
    np.testing.assert_allclose(encoder.transform(images), prepared(images).mean(axis=(2, 3)), rtol=1e-4, atol=1e-5)
    assert said in "; ".join(encoder.notes)


def test_onnx_output_and_preprocessing_can_be_chosen_by_name(tmp_path):
    path = write_onnx(tmp_path / "several.onnx", SCORES | POOLED, metadata={})
    chosen = make_encoder(f"onnx:{path}?size=24&mean=0,0,0&std=1,1,1&output=logits")
    assert (chosen.image_size, chosen.mean, chosen.std, chosen.output) == (24, [0, 0, 0], [1, 1, 1], "logits")
    images = make_dataset().train.inputs
    assert chosen.transform(images).max() > make_encoder(f"onnx:{path}?size=24").transform(images).max()
    assert "the output 'logits' [1, 3] is taken" in chosen.notes[-1]
    assert chosen.fingerprint() != make_encoder(f"onnx:{path}?size=24&mean=0,0,0&std=1,1,1").fingerprint()
    for query, message in (
        ("side=3", "expected some of size=224"),
        ("size=x", "expected some of"),
        ("output=z&size=8", "no output 'z'; it has logits"),
    ):
        with pytest.raises(ValueError, match=message):
            make_encoder(f"onnx:{path}?{query}")


def test_onnx_weights_in_another_file_count_and_may_not_be_missing(tmp_path):
    path = write_onnx(tmp_path / "large.onnx", WEIGHTED)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="large.weights", size_threshold=0)
    before = OnnxEncoder(path).fingerprint()
    (tmp_path / "large.weights").write_bytes((WEIGHTS + 1).tobytes())
    assert OnnxEncoder(path).fingerprint() != before
    (tmp_path / "large.weights").unlink()
    with pytest.raises(ValueError, match=r"large\.onnx is not an ONNX model .*, or its file of weights is missing"):
        OnnxEncoder(path)


SQUARE = ("n", 3, 16, 16)


@pytest.mark.parametrize(
    ("written", "options", "message"),
    [
        ({"outputs": NUMBER, "shape": SQUARE}, {}, r"makes \(1,\) of 1 images, expected \[n, d\], \[n, tokens, d\]"),
        (
            {"outputs": CLASS, "shape": SQUARE},
            {},
            r"makes label: tensor\(int64\); expected an output of features, float",
        ),
        ({"shape": ("n", 4, 16, 16)}, {}, r"takes pixels of shape \['n', 4, 16, 16\]; expected 3 channels or 1"),
        ({"shape": ("n", 3, 256)}, {}, r"expected one input of pixels, float \[n, channels, h, w\]"),
        ({"shape": SQUARE}, {"image_size": 24}, "takes pictures of 16 x 16 pixels, not of 24"),
        (
            {"metadata": METADATA | {"image_size": "large"}},
            {},
            "has unreadable metadata.*; pass image_size, mean and std",
        ),
        ({"metadata": METADATA | {"mean": "a,b,c"}}, {}, "has unreadable metadata"),
        ({"metadata": METADATA | {"std": "1.0,1.0"}}, {}, "does not say"),
        ({"metadata": METADATA | {"image_size": "-16"}}, {}, "does not say"),
        ({"metadata": METADATA | {"mean": "123.7,116.3,103.5"}}, {}, "mean .* are not those of pixels from 0 to 1"),
        ({"metadata": METADATA | {"std": "0,1,1"}}, {}, "mean .* are not those of pixels from 0 to 1"),
    ],
)
def test_onnx_files_that_are_no_encoders_are_refused_before_an_image_is_read(tmp_path, written, options, message):
    path = write_onnx(tmp_path / "odd.onnx", **written)
    with pytest.raises(ValueError, match=rf"odd\.onnx.*{message}"):
        OnnxEncoder(path, **options)


def test_onnx_by_stem_and_by_path(tmp_path):
    path = write_onnx(tmp_path / "encoders" / "tiny.onnx")
    assert make_encoder("onnx:tiny", data_dir=tmp_path).path == path
    assert make_encoder(f"onnx:{path}", data_dir=tmp_path / "elsewhere").path == path
    with pytest.raises(FileNotFoundError, match=r"encoders.absent\.onnx does not exist; put the ONNX encoder there"):
        make_encoder("onnx:absent", data_dir=tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"tiny\.onnx is not an ONNX model that can be run"):
        make_encoder("onnx:tiny", data_dir=tmp_path)


@pytest.mark.skipif(not list((data_directory() / "encoders").glob("*.onnx")), reason="there is no real encoder here")
def test_an_encoder_file_of_the_data_directory_works_on_digits(digits):
    path = sorted((data_directory() / "encoders").glob("*.onnx"))[0]
    assert len(OnnxEncoder(path).transform(digits.test.inputs[:3])) == 3


TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 4}
    | {"patch_dropout": 0.5},  # patches are dropped in training alone
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
}


# On a GPU the image tower runs in bfloat16.
CLOSE = {"rtol": 0.05, "atol": 0.05} if torch.cuda.is_available() else {"rtol": 1e-3, "atol": 1e-5}


@pytest.fixture(scope="module")
def clip_name(tmp_path_factory):
    """Register a CLIP of the real architecture, small enough for a test."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "regroup-test-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(folder)
    return "regroup-test-clip"


@pytest.fixture(scope="module")
def clip_file(clip_name, tmp_path_factory):
    """Return a checkpoint of random weights and the model they belong to."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = open_clip.create_model(clip_name).eval()
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(model.state_dict(), path)
    return path, model


def test_clip_features_are_the_models(clip_name, clip_file):
    path, model = clip_file
    preprocess = open_clip.image_transform(
        16, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    images = make_dataset().train.inputs
    with torch.no_grad():
        expected = model.encode_image(torch.stack([preprocess(Image.fromarray(image)) for image in images])).numpy()
    encoder = ClipEncoder(clip_name, str(path), batch_size=7)
    assert encoder.label == f"CLIP {clip_name}"
    features = encoder.transform(images)
    assert (features.shape, features.dtype) == ((24, 16), np.float32)
    np.testing.assert_allclose(features, expected, **CLOSE)


def test_clip_by_name_through_the_cache(clip_name, clip_file, tmp_path):
    path, model = clip_file
    dataset = make_dataset(order=("test", "train"))
    features = encode(dataset, f"clip:{clip_name}:{path}", data_dir=tmp_path)
    raw = {name: ClipEncoder(clip_name, str(path)).transform(split.inputs) for name, split in dataset.splits.items()}
    for name, split in features.splits.items():
        centered = raw[name] - raw["train"].mean(axis=0)
        np.testing.assert_allclose(split, centered / np.linalg.norm(centered, axis=1, keepdims=True), **CLOSE)
    # The same weights in another file are the same encoder; other weights of the same architecture are another.
    copy, other = tmp_path / "copy.pt", tmp_path / "other.pt"
    copy.write_bytes(path.read_bytes())
    torch.save({name: value * 1.01 for name, value in model.state_dict().items()}, other)
    for weights, n_files in ((copy, 1), (other, 2)):
        encode(dataset, f"clip:{clip_name}:{weights}", data_dir=tmp_path)
        assert len(cached_files(tmp_path)) == n_files


def test_clip_that_cannot_be_loaded(clip_name, clip_file, tmp_path):
    half, other, trap = (tmp_path / name for name in ("half.pt", "other.pt", "trap.pt"))
    half.write_bytes(clip_file[0].read_bytes()[:5000])
    torch.save({"visual.conv1.weight": torch.zeros(8, 3, 4, 4)}, other)  # of another architecture
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, trap)
    wrong = [(clip_name, path) for path in (half, tmp_path / "absent.pt", other, trap)]
    for name, weights in (*wrong, ("no-such-model", clip_file[0])):
        message = f"(?s)CLIP model '{name}' with .* cannot be loaded .*`clip:MODEL:FILE` takes"
        with pytest.raises(ValueError, match=message):
            make_encoder(f"clip:{name}:{weights}")
    assert not (tmp_path / "sprung").exists()
    torch.load(trap, weights_only=False)  # the trap does work
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["raw", "pca", "autoencoder", "simclr"])
def test_encoders_by_name_and_their_training_length(name):
    kind = {"raw": RawEncoder, "pca": PCAEncoder, "autoencoder": AutoencoderEncoder, "simclr": SimCLREncoder}[name]
    assert type(make_encoder(name)) is kind
    assert make_encoder(name).fingerprint() == kind().fingerprint()
    trained = name in ("autoencoder", "simclr")
    longer = kind(epochs=3) if trained else kind()
    assert make_encoder(name, epochs=3).fingerprint() == longer.fingerprint()
    assert (longer.fingerprint() != kind().fingerprint()) == trained


@pytest.mark.parametrize("name", ["", "RAW", "raw:1", "onnx", "onnx:", "dino", "pca:3"])
def test_unknown_encoder_is_refused_with_those_there_are(name, tmp_path):
    with pytest.raises(
        ValueError, match=r"no encoder is called .*; there are raw, pca, autoencoder, simclr, clip, onnx:"
    ):
        encode(make_dataset(), name, data_dir=tmp_path)


class Counting(Encoder):
    """Mean color of each image, less that of the training set; counts how often it works."""

    label = "counting"

    def __init__(self, option=1):
        self.option = option
        self.fitted = self.transformed = 0

    def fingerprint(self):
        return f"counting {self.option}"

    def fit(self, images):
        self.fitted += 1
        self.mean_ = images.mean(axis=(0, 1, 2))
        return self

    def transform(self, images):
        self.transformed += 1
        return (images.mean(axis=(1, 2)) - self.mean_).astype(np.float32)

    def state(self):
        return {"mean": self.mean_}

    def load_state(self, state, image_shape):
        self.mean_ = state["mean"]
        self.image_shape = image_shape


def cached_files(directory):
    return sorted((directory / "features").iterdir())


def test_second_call_reads_what_the_first_one_wrote(tmp_path, caplog):
    dataset, first, second = make_dataset(), Counting(), Counting()
    written = encode(dataset, first, data_dir=tmp_path)
    (path,) = cached_files(tmp_path)
    before = path.stat().st_mtime_ns
    with caplog.at_level(logging.WARNING):
        read = encode(dataset, second, data_dir=tmp_path)
    assert not caplog.records
    assert path.stat().st_mtime_ns == before
    assert (first.fitted, first.transformed) == (1, 2)
    assert (second.fitted, second.transformed) == (0, 0)
    assert read.encoder is second
    assert read.seconds == written.seconds
    assert read.splits.keys() == dataset.splits.keys()
    for name in dataset.splits:
        np.testing.assert_array_equal(read.splits[name], written.splits[name], strict=True)
    assert path.name.startswith("noise-Counting-")
    assert set(read_npz(path)) == {"split_train", "split_test", "state_mean", "seconds", "digest"}
    # What was learned came back: the encoder works on new images.
    new = make_dataset(seed=9).train.inputs
    np.testing.assert_array_equal(second.transform(new), first.transform(new))
    assert second.image_shape == (16, 16, 3)


def test_two_at_once_encode_once(tmp_path):
    """Encoding takes minutes: who comes second waits, and reads what the first one wrote."""
    started, calls = threading.Event(), []

    class Slow(RawEncoder):
        cached = True

        def transform(self, images):
            calls.append(len(images))
            started.set()
            time.sleep(0.3)
            return super().transform(images)

    dataset = make_dataset()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(encode, dataset, Slow(), data_dir=tmp_path)
        started.wait(10)
        second = pool.submit(encode, dataset, Slow(), data_dir=tmp_path)
        features = [future.result().splits["train"] for future in (first, second)]
    assert len(calls) == 2  # train and test, once
    np.testing.assert_array_equal(*features)


def test_what_changes_a_number_has_a_file_of_its_own_and_nothing_else_has(tmp_path):
    class Normalised(Counting):
        normalize = True

    Normalised.__name__ = "Counting"
    path, copy, dataset = write_onnx(tmp_path / "a.onnx"), tmp_path / "b.onnx", make_dataset()
    copy.write_bytes(path.read_bytes())
    variants = [(dataset, Counting()), (make_dataset(seed=1), Counting()), (dataset, Counting(option=2))]
    variants += [(dataset, encoder) for encoder in (Normalised(), PCAEncoder(3), PCAEncoder(4))]
    variants += [(dataset, OnnxEncoder(write_onnx(tmp_path / "c.onnx", MAP)))]
    for options in ({}, {"image_size": 8}, {"mean": [0.0, 0.0, 0.0]}, {"std": [1.0, 1.0, 1.0]}):
        variants.append((dataset, OnnxEncoder(path, **options)))
    for number, (data, encoder) in enumerate(variants, start=1):
        encode(data, encoder, data_dir=tmp_path)
        assert len(cached_files(tmp_path)) == number
    for data, encoder in (*variants, (dataset, OnnxEncoder(copy, batch_size=5))):
        encode(data, encoder, data_dir=tmp_path)
    assert len(cached_files(tmp_path)) == len(variants)


def rewritten(change):
    """Return a damage that changes the arrays of a cache file."""

    def damage(path):
        write_npz(path, change(read_npz(path)))

    return damage


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "bit": flip_bit,
    "order": rewritten(lambda arrays: arrays | {"split_test": arrays["split_test"][::-1]}),
    "rows": rewritten(lambda arrays: {"split_train": arrays["split_train"], "split_test": arrays["split_test"][1:]}),
    "split": rewritten(lambda arrays: {name: array for name, array in arrays.items() if name != "split_test"}),
    "seconds": rewritten(lambda arrays: arrays | {"seconds": np.array(["a", "b"])}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_cache_is_reported_and_made_again(tmp_path, caplog, damage):
    dataset = make_dataset()
    written = encode(dataset, Counting(), data_dir=tmp_path)
    (path,) = cached_files(tmp_path)
    damage(path)
    with caplog.at_level(logging.WARNING):
        mended = encode(dataset, Counting(), data_dir=tmp_path)
    assert f"{path} is damaged and is made again" in caplog.text
    for name in dataset.splits:
        np.testing.assert_array_equal(mended.splits[name], written.splits[name])
    reader = Counting()
    encode(dataset, reader, data_dir=tmp_path)
    assert reader.transformed == 0


@pytest.mark.parametrize("order", [("train", "test"), ("test", "train"), ("val", "train", "test")])
def test_features_stay_with_their_split_and_are_centered_on_train(tmp_path, order):
    class Normalised(Counting):
        normalize = True

    dataset = make_dataset(order=order)
    features = encode(dataset, Normalised(), data_dir=tmp_path)
    means = {name: split.inputs.mean(axis=(1, 2)) for name, split in dataset.splits.items()}
    for name in order:
        centered = means[name] - means["train"].mean(axis=0)
        expected = centered / np.linalg.norm(centered, axis=1, keepdims=True)
        np.testing.assert_allclose(features.splits[name], expected, atol=1e-3)
    assert not center_and_normalize(np.float32([[1, 2], [3, 4]]), np.float32([[2, 3]]))[1].any()  # has no direction


class Summary(Encoder):
    """Means of rows and columns; counts the images that it is given at a time."""

    label = "summary"

    def __init__(self, normalize):
        self.normalize, self.largest = normalize, 0

    def fingerprint(self):
        return "summary"

    def transform(self, images):
        self.largest = max(self.largest, len(images))
        return np.concatenate([images.mean(axis=1), images.mean(axis=2)], axis=1).reshape(len(images), -1)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("block_rows", [1, 7, 100])
def test_features_written_by_blocks_are_those_of_encode(tmp_path, normalize, block_rows):
    dataset = make_dataset()
    expected = encode(dataset, Summary(normalize), data_dir=tmp_path / "data").splits
    encoder, center = Summary(normalize), None
    for name in ("train", "test"):
        images = tmp_path / f"{name}-images.npy"
        np.save(images, dataset.splits[name].inputs)
        path = tmp_path / f"{name}.npy"
        center = encode_rows(images, encoder, path, center=center, block_rows=block_rows)
        found = np.load(path)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5)
    assert encoder.largest <= block_rows
    assert (center is None) != normalize
    encode_rows(images, encoder, path, center=None if center is None else center.astype(np.float64))
    np.testing.assert_allclose(np.load(path), found, rtol=1e-6)


def test_an_encoder_that_fails_half_way_leaves_no_file(tmp_path):
    class Failing(Summary):
        def transform(self, images):
            if self.largest:
                raise RuntimeError("out of order")
            return super().transform(images)

    with pytest.raises(RuntimeError, match="out of order"):
        encode_rows(make_dataset().train.inputs, Failing(True), tmp_path / "features.npy", block_rows=5)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no images"):
        encode_rows(np.zeros((0, 4, 4, 1), np.uint8), Summary(True), tmp_path / "features.npy")
