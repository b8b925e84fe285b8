"""The training loop and its networks: what a seed decides, what augmentation does, and runs that were interrupted."""

import contextlib
import io
import pickle
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from conftest import Trap
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from regroup_lib.nn import checkpoints
from regroup_lib.nn.checkpoints import OutOfTime
from regroup_lib.nn.models import build_network
from regroup_lib.nn.samplers import BlockShuffledRows
from regroup_lib.nn.training import (
    DiskImages,
    ResidentImages,
    TrainingOptions,
    autocast,
    cpu_multiplies_bf16,
    predict,
    softmax,
    train,
)
from regroup_lib.runs.methods import make_loss

EPOCHS = 3
OPTIONS = TrainingOptions(epochs=EPOCHS, batch_size=20, peak_lr=0.1, flip=False, shift=1, precision="fp32")


def small_network(n_classes=3, *, seed=0):
    return build_network("tiny-resnet", in_channels=1, n_classes=n_classes, seed=seed)


@pytest.fixture(scope="module")
def images():
    """Fifty noisy gray images of three kinds, so that the last batch of 20 is a half one."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, (3, 8, 8, 1))
    noise = rng.integers(-40, 41, (50, 8, 8, 1))
    return np.clip(kinds[np.arange(50) % 3] + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def labels():
    return np.arange(50) % 3


def trained(images, labels, *, network_seed=0, seed=1, options=OPTIONS, **rest):
    """Train a fresh small network; return its weights (buffers too) and the history."""
    network = small_network(int(labels.max()) + 1, seed=network_seed)
    history = train(network, ResidentImages(images), labels, options=options, seed=seed, **rest)
    return {name: value.clone() for name, value in network.state_dict().items()}, history


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def without_seconds(history):
    return [{k: v for k, v in trace.items() if k != "seconds"} for trace in history.traces]


@pytest.mark.parametrize(
    ("name", "side", "width", "channels"),
    [("tiny-resnet", 8, 32, 1), ("small-resnet", 32, 256, 3), ("resnet34", 16, 512, 3), ("resnet34-224", 64, 512, 1)],
)
def test_networks_make_features_and_logits_of_images(name, side, width, channels):
    n_classes = 5
    network = build_network(name, in_channels=channels, n_classes=n_classes, seed=0).eval()
    batch = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embedded, logits = network.embed(batch), network(batch)
        assert embedded.shape == (2, width)
        assert logits.shape == (2, n_classes)
        torch.testing.assert_close(network.head(embedded), logits)
    assert not torch.equal(embedded[0], embedded[1])


def test_a_networks_weights_are_its_seeds():
    first, again, other = (small_network(seed=seed).state_dict() for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)


def test_resnet34_is_torchvisions_with_a_stem_for_small_images():
    ours = build_network("resnet34", in_channels=3, n_classes=5, seed=0).eval()
    theirs = torchvision.models.resnet34(num_classes=5).eval()
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = torch.nn.Identity()
    pairs = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict(dict(pairs))
    batch = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(batch), theirs(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_normalized_as_numpy_would(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 5, channels), dtype=np.uint8)
    pixels[..., 0] //= 4  # channels of different scale
    resident = ResidentImages(pixels)
    assert len(resident) == 40
    batch = resident.batch(slice(None))
    assert (batch.dtype, batch.shape) == (torch.float32, (40, channels, 6, 5))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    flat = pixels.reshape(-1, channels).astype(np.float64)
    expected = (pixels - flat.mean(axis=0)) / flat.std(axis=0)
    np.testing.assert_allclose(batch.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)
    chosen = torch.tensor([7, 3, 7])
    torch.testing.assert_close(resident.batch(chosen), batch[chosen])
    # Test images take the training images' statistics.
    test = ResidentImages(np.full((2, 6, 5, channels), 50, np.uint8), statistics=resident).batch(slice(None))
    np.testing.assert_allclose(test[0, :, 0, 0].numpy(), (50 - flat.mean(axis=0)) / flat.std(axis=0), atol=1e-4)


def reflected(position, size):
    """Return where a position outside the image looks, one step at a time: the border pixel is the mirror."""
    while not 0 <= position < size:
        position = -position if position < 0 else 2 * (size - 1) - position
    return position


def moved(image, down, right, mirror):
    """Return an image mirrored, then shifted, pixel by pixel."""
    height, width = image.shape[:2]
    out = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            source_row, source_column = reflected(row + down, height), reflected(column + right, width)
            out[row, column] = image[source_row, width - 1 - source_column if mirror else source_column]
    return out


@pytest.mark.parametrize(("flip", "shift"), [(False, 0), (True, 0), (False, 1), (True, 2)])
def test_augmentation_is_a_mirror_and_a_reflecting_shift(flip, shift):
    """Every image is one of those that a slow reference makes, all of them occur, and all about equally often."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    steps = range(-shift, shift + 1)
    known = {}
    for number, image in enumerate(pixels):
        for move in [
            (down, right, mirror) for down in steps for right in steps for mirror in (False, True)[: flip + 1]
        ]:
            known[moved(image, *move).tobytes()] = (number, *move)
    moves = (2 * shift + 1) ** 2 * (1 + flip)
    assert len(known) == 2 * moves  # no two look alike
    drawn = 2 * moves * 60
    index = torch.arange(drawn) % 2
    resident = ResidentImages(pixels)
    resident.mean, resident.scale = torch.zeros(3), torch.ones(3)
    batch = resident.augmented(index, torch.Generator().manual_seed(0), flip=flip, shift=shift)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    found = [known[image.tobytes()] for image in batch.permute(0, 2, 3, 1).byte().numpy()]
    assert [number for number, *_ in found] == index.tolist()  # an image stays in its place
    counts = Counter(found)
    assert len(counts) == 2 * moves
    assert all(25 < count < 110 for count in counts.values())


@pytest.mark.parametrize("threads", [1, 2])
def test_the_seed_alone_decides_the_weights_bit_for_bit(images, labels, threads):
    options = TrainingOptions(epochs=1, batch_size=20, peak_lr=0.1)
    torch.set_num_threads(threads)
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    try:
        first, history = trained(images[:40], labels[:40], options=options)
        assert torch.equal(before, torch.get_rng_state())
        np.testing.assert_array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002
        torch.manual_seed(6)
        again, history_again = trained(images[:40], labels[:40], options=options)
    finally:
        torch.set_num_threads(1)
    assert same(first, again)
    assert without_seconds(history) == without_seconds(history_again)
    assert not same(first, trained(images[:40], labels[:40], options=options, seed=2)[0])


def test_training_learns(images, labels):
    network = small_network()
    resident = ResidentImages(images)
    with pytest.raises(ValueError, match="50 images but 49 labels"):
        train(network, resident, labels[:49], options=OPTIONS, seed=0)
    history = train(network, resident, labels, options=TrainingOptions(epochs=8, batch_size=10, peak_lr=0.1), seed=0)
    assert history.status == "finished"
    assert history.traces[-1]["train_loss"] < 0.5 * history.traces[0]["train_loss"]
    assert (predict(network, resident)[0].argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.parametrize(
    ("n", "batch_size", "expected"),
    [(50, 25, [25, 25]), (50, 24, [24, 26]), (50, 16, [16, 16, 16, 2]), (49, 16, [16, 16, 17]), (3, 40, [3])],
)
def test_a_last_batch_of_a_few_images_joins_the_one_before(images, labels, n, batch_size, expected):
    """Alone it would move the weights by its noise, and batch norm's statistics with them."""
    sizes = []

    def loss(logits, targets):
        sizes.append(len(targets))
        return F.cross_entropy(logits, targets)

    options = replace(OPTIONS, batch_size=batch_size)
    trained(images[:n], labels[:n], options=options, loss=loss)
    assert sizes == expected * EPOCHS


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own(images):
    seen = []

    def loss(logits, targets):
        assert (logits.dtype, logits.shape) == (torch.float32, (len(targets), 50))
        seen.append(targets.tolist())
        return targets.float().mean() + 0 * logits.sum()

    _, history = trained(images, np.arange(50), loss=loss)
    assert [len(batch) for batch in seen] == [20, 20, 10] * EPOCHS
    drawn = [target for batch in seen for target in batch]
    epochs = [drawn[start : start + 50] for start in range(0, len(drawn), 50)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == EPOCHS
    # The epoch's loss is the mean over images: a half batch counts half.
    assert [trace["train_loss"] for trace in history.traces] == pytest.approx([24.5] * EPOCHS)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_first_step_by_hand(images, labels, optimizer):
    """One-cycle starts at 1/25 of the peak; Nesterov's first step is 1 + momentum gradients, Adam's its sign."""
    common = {"epochs": 8, "batch_size": 50, "flip": False, "shift": 0, "precision": "fp32"}
    options = TrainingOptions(peak_lr=0.5, weight_decay=0.01, optimizer=optimizer, **common)
    heads = []

    def on_epoch(network, epoch):
        heads.append(network.head.weight.detach().clone())
        return {}

    trained(images, labels, options=options, on_epoch=on_epoch)
    network = small_network().train()
    F.cross_entropy(network(ResidentImages(images).batch(slice(None))), torch.from_numpy(labels)).backward()
    before, gradient = network.head.weight.detach(), network.head.weight.grad
    rate, decay = 0.5 / 25, 0.01
    if optimizer == "sgd":
        expected = before - rate * 1.9 * (gradient + decay * before)
    else:
        expected = before * (1 - rate * decay) - rate * gradient.sign()
    torch.testing.assert_close(heads[0], expected, rtol=1e-4, atol=1e-5)


def not_finite_at(epoch, value=float("nan")):
    """Return a loss that is not finite in one batch of an epoch."""
    calls = []

    def loss(logits, targets):
        calls.append(1)
        return F.cross_entropy(logits, targets) * (value if len(calls) == 3 * epoch - 1 else 1.0)

    return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverging_run_ends_and_says_so(images, labels, tmp_path, value):
    looked_at = []

    def on_epoch(network, epoch):
        assert not network.training
        looked_at.append(epoch)
        return {"square": epoch**2}

    options = {"on_epoch": on_epoch, "checkpoint": tmp_path / "a.pt"}
    _, history = trained(images, labels, loss=not_finite_at(2, value), **options)
    assert history.status == "diverged"
    assert len(history.traces) == 2
    assert not np.isfinite(history.traces[1]["train_loss"])
    assert looked_at == [1]  # there is nothing to see in the epoch that diverged
    assert [trace.get("square") for trace in history.traces] == [1, None]
    assert history.seconds == sum(trace["seconds"] for trace in history.traces) > 0
    # Where it diverged it stays: a resumed run trains no further.
    _, again = trained(images, labels, loss=not_finite_at(EPOCHS + 1), **options)
    assert again.status == "diverged"
    assert [trace["epoch"] for trace in again.traces] == [1, 2]
    assert looked_at == [1]


def test_predict_is_a_plain_forward_pass(images, labels):
    network = small_network()
    resident = ResidentImages(images)
    train(network, resident, labels, options=OPTIONS, seed=0)  # leaves it in training mode
    logits, features = predict(network, resident, precision="fp32", batch_size=16)
    assert logits.dtype == features.dtype == np.float32
    network.eval()
    with torch.no_grad():
        batch = resident.batch(slice(None))
        np.testing.assert_allclose(logits, network(batch).numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(features, network.embed(batch).numpy(), rtol=1e-4, atol=1e-5)


def test_predict_in_bf16_keeps_the_head_in_float32(images):
    network = small_network()
    resident = ResidentImages(images)
    logits, features = predict(network, resident, precision="bf16")
    exact, exact_features = predict(network, resident, precision="fp32")
    np.testing.assert_allclose(logits, exact, atol=0.05)
    assert not np.array_equal(features, exact_features)  # it was bf16 indeed
    with torch.no_grad():
        np.testing.assert_allclose(logits, network.head(torch.from_numpy(features)).numpy(), rtol=1e-6, atol=1e-6)


def test_auto_precision_is_bf16_where_the_processor_has_it(images):
    cpu = torch.device("cpu")
    expected = {"auto": torch.bfloat16 if cpu_multiplies_bf16() else torch.float32}
    for precision, dtype in (expected | {"bf16": torch.bfloat16, "fp32": torch.float32}).items():
        with autocast(precision, cpu):
            assert F.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype


def test_softmax_is_exact_to_double_precision():
    logits = np.array([[0.0, 1.0, -30.0], [1000.0, 1000.0, 0.0]], np.float32)
    expected = np.exp(logits[0].astype(float)) / np.exp(logits[0].astype(float)).sum()
    found = softmax(logits)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[0], expected, rtol=1e-14)
    np.testing.assert_allclose(found[1], [0.5, 0.5, 0.0], rtol=1e-14)


def epoch_number(network, epoch):
    return {"looked_at": epoch}


def interrupted_in(epoch):
    """Return an `on_epoch` that is interrupted once the epoch is trained, before its checkpoint is written."""

    def on_epoch(network, finished):
        if finished == epoch:
            raise KeyboardInterrupt
        return epoch_number(network, finished)

    return on_epoch


@pytest.fixture(scope="module")
def uninterrupted(images, labels):
    """Weights and history of a run that nothing interrupted."""
    return trained(images, labels, on_epoch=epoch_number)


@pytest.fixture(scope="module")
def after_one_epoch(images, labels, tmp_path_factory):
    """Return the bytes of the checkpoint of a run that was interrupted in its second epoch."""
    path = tmp_path_factory.mktemp("checkpoint") / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(images, labels, on_epoch=interrupted_in(2), checkpoint=path)
    return path.read_bytes()


@pytest.fixture
def resumed(images, labels, tmp_path):
    """Return a function that resumes from bytes and returns weights, history and the number of batches trained."""

    def resume(content, **options):
        path = tmp_path / "run.pt"
        if content is not None:
            path.write_bytes(content)
        batches = []

        def loss(logits, targets):
            batches.append(1)
            return F.cross_entropy(logits, targets)

        weights, history = trained(images, labels, on_epoch=epoch_number, checkpoint=path, loss=loss, **options)
        return weights, history, len(batches)

    return resume


@pytest.mark.parametrize("finished", range(EPOCHS + 1))
def test_a_resumed_run_trains_what_is_left_and_ends_like_an_uninterrupted_one(
    images, labels, tmp_path, resumed, uninterrupted, finished
):
    path = tmp_path / "deep" / "run.pt"
    with pytest.raises(KeyboardInterrupt) if finished < EPOCHS else contextlib.nullcontext():
        trained(images, labels, on_epoch=interrupted_in(finished + 1), checkpoint=path)
    assert path.exists() == (finished > 0)
    # The network that goes on starts from other weights: everything that counts is in the checkpoint.
    content, network_seed = (path.read_bytes(), 9) if finished else (None, 0)
    weights, history, batches = resumed(content, network_seed=network_seed)
    assert batches == 3 * (EPOCHS - finished)
    assert history.status == "finished"
    assert same(uninterrupted[0], weights)
    assert without_seconds(history) == without_seconds(uninterrupted[1])


def check_started_again(resumed, content, uninterrupted, caplog):
    caplog.clear()
    weights, history, batches = resumed(content)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(messages) == 1
    assert "run.pt is damaged; the run starts again" in messages[0]
    assert batches == 3 * EPOCHS
    assert same(uninterrupted[0], weights)
    assert without_seconds(history) == without_seconds(uninterrupted[1])


def other(change):
    """Return a damage that replaces the state in a checkpoint, as a whole file."""

    def damage(content):
        return saved(change(torch.load(io.BytesIO(content), weights_only=True)))

    return damage


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


DAMAGES = {
    "half": lambda content: content[: len(content) // 2],
    "tensor": other(lambda state: torch.zeros(3)),
    "more-classes": other(lambda state: state | {"network": small_network(4).state_dict()}),
    "other-optimizer": other(lambda state: state | {"optimizer": {}}),
    "without-status": other(lambda state: {part: value for part, value in state.items() if part != "status"}),
}


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # PyTorch, of the tensor
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_the_run_starts_again(
    resumed, after_one_epoch, uninterrupted, caplog, damage
):
    check_started_again(resumed, damage(after_one_epoch), uninterrupted, caplog)


@settings(max_examples=10)
@given(data=st.data())
def test_no_flipped_bit_changes_the_result(images, labels, tmp_path_factory, after_one_epoch, uninterrupted, data):
    content = bytearray(after_one_epoch)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "run.pt"
    path.write_bytes(content)
    weights, history = trained(images, labels, on_epoch=epoch_number, checkpoint=path)
    assert same(uninterrupted[0], weights)
    assert without_seconds(history) == without_seconds(uninterrupted[1])


@pytest.mark.parametrize("save", [saved, pickle.dumps], ids=["torch", "pickle"])
def test_a_checkpoint_never_runs_code(resumed, after_one_epoch, uninterrupted, caplog, tmp_path, save):
    state = torch.load(io.BytesIO(after_one_epoch), weights_only=True)
    content = save(state | {"traces": Trap(tmp_path / "ran")})
    pickle.loads(pickle.dumps(Trap(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()  # the trap works
    check_started_again(resumed, content, uninterrupted, caplog)
    assert not (tmp_path / "ran").exists()


def test_a_run_stops_at_its_deadline_and_goes_on_where_it_was(images, labels, tmp_path, uninterrupted, monkeypatch):
    path, now = tmp_path / "run.pt", [0]
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(network, epoch):
        now[0] += 10
        return epoch_number(network, epoch)

    with pytest.raises(OutOfTime):
        trained(images, labels, on_epoch=slow, checkpoint=path, deadline=25)
    assert len(checkpoints.load_checkpoint(path, torch.device("cpu"))["traces"]) == 2
    weights, history = trained(images, labels, on_epoch=epoch_number, checkpoint=path, network_seed=9)
    assert same(uninterrupted[0], weights)
    assert without_seconds(history) == without_seconds(uninterrupted[1])


def test_an_epoch_that_cannot_end_in_time_is_not_begun(images, labels, tmp_path, after_one_epoch, monkeypatch):
    """A run that goes on knows from its checkpoint how long an epoch takes."""
    path = tmp_path / "run.pt"
    path.write_bytes(after_one_epoch)
    state = checkpoints.load_checkpoint(path, torch.device("cpu"))
    state["traces"][0] |= {"seconds": 20.0, "evaluate_seconds": 20.0}
    checkpoints.save_checkpoint(path, state)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: 0))
    with pytest.raises(OutOfTime):
        trained(images, labels, loss=lambda *_: pytest.fail("an epoch was begun"), checkpoint=path, deadline=30)
    assert len(trained(images, labels, checkpoint=path, deadline=50)[1].traces) == EPOCHS


def test_a_network_is_compiled_where_that_is_asked_for_and_its_weights_are_the_same(images, labels, monkeypatch):
    compiled, compile_ = [], torch.compile
    if not torch.cuda.is_available():  # by itself, nothing is compiled on a CPU
        monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
        trained(images[:6], labels[:6], options=replace(OPTIONS, epochs=30))

    def noted(network, **options):
        compiled.append(network)
        return compile_(network, backend="eager", **options)  # the default backend needs a C++ compiler

    monkeypatch.setattr(torch, "compile", noted)
    weights, history = trained(images, labels, options=replace(OPTIONS, compile=True))
    assert len(compiled) == 1
    plain, plain_history = trained(images, labels, options=replace(OPTIONS, compile=False))
    assert len(compiled) == 1
    assert list(weights) == list(plain)  # checkpoints and records name them as ever
    for name, value in weights.items():
        torch.testing.assert_close(value, plain[name])
    assert history.traces[-1]["train_loss"] == pytest.approx(plain_history.traces[-1]["train_loss"], rel=1e-4)


class CountsReads(TorchDispatchMode):
    """Counts how often a number is taken from a tensor, for which the host waits for the device."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("loss", ["wce", "focal"])
def test_the_host_waits_for_the_device_once_an_epoch_however_many_batches_it_has(images, labels, loss):
    """LDAM is left out: its one-hot targets are checked by value on a CPU, and not on a GPU."""
    reads = []
    for batch_size in (25, 5):
        made = make_loss(loss, np.bincount(labels))
        options = replace(OPTIONS, batch_size=batch_size, peak_lr=1e-3)
        with CountsReads() as counted:
            trained(images, labels, options=options, loss=made)
        reads.append(counted.n)
    assert reads[0] == reads[1] >= EPOCHS


@pytest.fixture
def on_disk(images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    return tmp_path / "images.npy"


def test_images_on_disk_are_those_in_memory(images, on_disk):
    resident, disk = ResidentImages(images), DiskImages(on_disk, block_rows=7, window=2)
    assert len(disk) == 50
    assert torch.allclose(disk.mean, resident.mean)
    assert torch.allclose(disk.scale, resident.scale)
    index = torch.tensor([49, 3, 3, 0, 21])
    disk.mean, disk.scale = resident.mean, resident.scale
    assert torch.equal(disk.batch(index), resident.batch(index))
    assert torch.equal(disk.batch(slice(45, 60)), resident.batch(slice(45, 60)))
    assert disk.batch(index).is_contiguous(memory_format=torch.channels_last)
    test = DiskImages(images[:5], statistics=resident)
    assert torch.equal(test.batch(slice(None)), resident.batch(slice(5)))
    for other in (np.zeros((3, 4, 4, 1), np.float32), np.zeros((3, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"images are .*; expected uint8 \[n, h, w, c\]"):
            DiskImages(other)
    with pytest.raises(ValueError, match="window is 0; it must be a whole number of at least 1"):
        DiskImages(images, window=0)


def test_training_from_disk_is_training_from_memory_in_the_same_order(images, labels, on_disk):
    """Augmentation included, to the bit."""
    resident, disk = ResidentImages(images), DiskImages(on_disk, block_rows=7, window=2)
    disk.mean, disk.scale = resident.mean, resident.scale
    options = TrainingOptions(epochs=2, batch_size=20, peak_lr=0.1, flip=True, shift=2, precision="fp32")
    weights = []
    for source, sampler in ((resident, disk.sampler), (disk, None)):
        network = small_network()
        train(network, source, labels, options=options, seed=1, sampler=sampler)
        weights.append(network.state_dict())
    assert same(*weights)


class CountingRows:
    """Slices of an array, and which were asked for."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.asked = array, array.shape, array.dtype, []

    def __getitem__(self, rows):
        self.asked.append((rows.start, rows.stop))
        return self.array[rows]


def test_an_epoch_reads_every_block_once_and_keeps_few(images, labels):
    rows = CountingRows(images)
    disk = DiskImages(rows, block_rows=5, window=2)
    blocks = [(start, start + 5) for start in range(0, 50, 5)]
    assert rows.asked == blocks  # for mean and deviation
    rows.asked.clear()
    train(small_network(), disk, labels, options=TrainingOptions(epochs=1, batch_size=4, peak_lr=0.1), seed=0)
    assert sorted(rows.asked) == blocks
    assert rows.asked != blocks
    assert disk._block.cache_info().currsize <= 4


@given(n=st.integers(1, 90), block_rows=st.integers(1, 20), window=st.integers(1, 6), seed=st.integers(0, 2**20))
def test_blocks_are_shuffled_and_every_row_is_seen_once(n, block_rows, window, seed):
    sampler = BlockShuffledRows(n, block_rows=block_rows, window=window)

    def order(seed):
        return sampler.order(torch.Generator().manual_seed(seed))

    first = order(seed)
    assert first.dtype == torch.int64
    assert len(first) == len(sampler) == n
    assert sorted(first.tolist()) == list(range(n))
    assert torch.equal(first, order(seed))
    # Rows of a block are no farther apart than the window is wide.
    places = first.argsort()
    for start in range(0, n, block_rows):
        spread = places[start : start + block_rows]
        assert spread.max() - spread.min() < window * block_rows
    if n > 30:
        assert not torch.equal(first, order(seed + 1))


def test_rows_within_a_window_are_mixed():
    order = BlockShuffledRows(4000, block_rows=100, window=10).order(torch.Generator().manual_seed(0))
    for part in order.split(1000):
        assert len((part // 100).unique()) == 10
        assert len((part[:100] // 100).unique()) >= 9  # a batch has rows of all of them
