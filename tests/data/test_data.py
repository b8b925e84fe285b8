"""Data sets: what loads, what is refused and how the refusal helps; files that are never half written."""

import dataclasses
import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from conftest import Trap
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits

from regroup_lib.data.dataset import DataError
from regroup_lib.data.load import fetch_data, load_data
from regroup_lib.data.sources import CIFAR10_NAMES, CIFAR100_NAMES, SOURCES
from regroup_lib.data.tasks import make_task
from regroup_lib.files import atomic_path, data_directory, digest_arrays, read_npz, results_directory, write_npz
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import Spec

# ---------------------------------------------------------------- digits


def test_digits_are_scikit_learns_scans_scaled_to_uint8():
    digits = load_data("digits")
    scans, labels = load_digits(return_X_y=True)
    ours = np.concatenate([digits.train.inputs, digits.test.inputs])
    assert (ours.shape, ours.dtype) == ((1797, 8, 8, 1), np.uint8)
    # The same scans with the same labels, in another order: 0..16 became 0..255.
    theirs = {(tuple(scan), label) for scan, label in zip(scans, labels, strict=True)}
    back = np.rint(ours.reshape(-1, 64) / 255 * 16)
    ours_labels = np.concatenate([digits.train.labels, digits.test.labels])
    assert {(tuple(scan), label) for scan, label in zip(back, ours_labels, strict=True)} == theirs


def test_digits_split_is_stratified():
    digits = load_data("digits")
    assert digits.class_names == tuple("0123456789")
    train, test = np.array(digits.class_counts()), np.array(digits.class_counts("test"))
    assert (len(digits.train), len(digits.test)) == (1257, 540)
    np.testing.assert_allclose(test / (train + test), 0.3, atol=0.01)


def test_a_caller_cannot_change_the_data_of_the_next_one(tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        load_data("digits").train.labels[:9] = 0  # as for an experiment with noisy labels
    path = tmp_path / "t.csv"
    path.write_text("x,label\n" + "".join(f"{number / 7},{'ab'[number % 2]}\n" for number in range(40)))
    changed = load_data(path)
    changed.train.inputs["x"] *= 2
    assert (load_data(path).train.inputs["x"] * 2).equals(changed.train.inputs["x"])


# ---------------------------------------------------------------- a user's npz file


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_medmnist_file_round_trip(tmp_path, small_arrays, channels):
    arrays = small_arrays(channels=channels)
    write_npz(tmp_path / "mine.npz", arrays, compress=channels == 3)
    dataset = load_data(tmp_path / "mine.npz")
    assert dataset.name == "mine"
    assert list(dataset.splits) == ["train", "val", "test"]
    assert dataset.class_names == ("0", "1", "2")
    for name, split in dataset.splits.items():
        images = arrays[f"{name}_images"]
        np.testing.assert_array_equal(split.inputs, images.reshape(len(images), 8, 8, channels or 1))
        np.testing.assert_array_equal(split.labels, arrays[f"{name}_labels"].ravel())
        assert split.labels.dtype == np.int64
    assert dataset.class_counts("val") == [2, 2, 2]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "uint64"])
def test_flat_labels_of_any_integer_type_without_val_and_with_names(tmp_path, small_arrays, dtype):
    arrays = small_arrays() | {"class_names": np.array(["ab", "c", "a class that no label has"])}
    arrays = {name: array for name, array in arrays.items() if not name.startswith("val")}
    for split in ("train", "test"):
        arrays[f"{split}_labels"] = np.zeros(len(arrays[f"{split}_labels"]), dtype)
        arrays[f"{split}_labels"][::2] = 1
    write_npz(tmp_path / "mine.npz", arrays)
    dataset = load_data(str(tmp_path / "mine.npz"))
    assert list(dataset.splits) == ["train", "test"]
    assert dataset.class_names == ("ab", "c", "a class that no label has")
    assert dataset.class_counts() == [6, 6, 0]


def test_digest_tells_content_and_nothing_else(tmp_path, small_arrays):
    arrays = small_arrays()
    wide = {name: a.astype(np.int32).ravel() if "labels" in name else a for name, a in arrays.items()}
    noted = arrays | {"remark": np.array("drawn by hand")}
    pixel = arrays | {"test_images": arrays["test_images"] ^ (np.arange(9 * 64).reshape(9, 8, 8) == 100)}
    label = arrays | {"train_labels": np.roll(arrays["train_labels"], 1)}
    digests = []
    for content in (arrays, wide, noted, pixel, label):  # one file, which is read again as it changes
        write_npz(tmp_path / "mine.npz", content, compress=content is wide)
        digests.append(load_data(tmp_path / "mine.npz").digest)
        said = load_data(tmp_path / "mine.npz").notes
        assert ("left out, arrays that are no split's: remark" in said) == (content is noted)
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 3


def test_images_that_are_all_dark_are_warned_about(tmp_path, small_arrays):
    write_npz(tmp_path / "dark.npz", {k: a // 200 if "images" in k else a for k, a in small_arrays().items()})
    assert "warning, no pixel is above 1 of 255" in load_data(tmp_path / "dark.npz").notes[0]


def change(name, function):
    """Return a defect: `function` of array `name` (None: without the array)."""

    def defect(arrays):
        arrays = dict(arrays)
        array = arrays.pop(name, None)
        if function is not None:
            arrays[name] = function(array)
        return arrays

    defect.__name__ = name
    return defect


def with_first(value):
    """Return a function that puts `value` in the first place of an int64 copy."""

    def put(array):
        array = array.astype(np.int64)
        array[0] = value
        return array

    return put


NAMED = "class_names"
DEFECTS = [
    (change("train_images", None), "array train_images is missing, expected it beside"),
    (change("val_labels", None), "array val_labels is missing"),
    (change("train_images", lambda a: a.astype(np.float32)), "train_images is float32, expected uint8"),
    (change("test_images", lambda a: a.reshape(9, -1)), r"test_images has shape \(9, 64\), expected \[n, height"),
    (change("test_images", lambda a: a[:, :4, :4]), r"test images are \(4, 4, 1\), expected \(8, 8, 1\) as in train"),
    (change("train_images", lambda a: np.stack([a] * 2, -1)), "train_images has 2 channels, expected 1 or 3"),
    (change("train_images", lambda a: a.reshape(12, 1, 8, 8)), "train_images has 8 channels, expected 1 or 3"),
    (change("train_labels", lambda a: a / 2), "train_labels is float64, expected integers"),
    (change("train_labels", lambda a: a.astype("U1")), "train_labels is <U1, expected integers"),
    (change("train_labels", lambda a: np.hstack([a, a])), r"train_labels has shape \(12, 2\), expected \[n\]"),
    (change("train_labels", lambda a: a[:-1]), "12 train images but 11 labels, expected as many"),
    (
        lambda a: {k: v[:0] if "test" in k else v for k, v in a.items()},
        "the test split is empty, expected at least one",
    ),
    (change("train_labels", with_first(-1)), "labels run from -1 to 2, expected 0 to 2"),
    (change("test_labels", with_first(2**40)), "labels run from 0 to 1099511627776, expected 0 to 2"),
    (change(NAMED, lambda _: np.array(["a", "b"])), "labels run from 0 to 2, expected 0 to 1"),
    (change(NAMED, lambda _: np.array("a")), r"class_names has shape \(\), expected \[C\]"),
    (change(NAMED, lambda _: np.array(["a", "b", "a"])), "a class name occurs twice, expected different names"),
    (change("train_labels", np.zeros_like), "classes without a training image: b, c"),
    (
        lambda a: {k: np.zeros_like(v) if "labels" in k else v for k, v in a.items()} | {NAMED: np.array(["a"])},
        "the class 'a' is alone",
    ),
    (change(NAMED, lambda _: np.array(["a", "b\x1b[31m", "c"])), r"'b\\x1b\[31m' has characters that cannot be print"),
]


@pytest.mark.parametrize(("defect", "message"), DEFECTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_defect_is_named_with_its_file_the_expectation_and_the_remedy(tmp_path, small_arrays, defect, message):
    path = tmp_path / "mine.npz"
    write_npz(path, defect({NAMED: np.array(["a", "b", "c"])} | small_arrays()))
    with pytest.raises(DataError, match=message) as raised:
        load_data(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert str(raised.value).endswith(("; check the path, or write the file again", "; rename it"))


@pytest.mark.parametrize("names", [["1", "2"], ["-7", "4"], ["0", "1000000000000"]])
def test_without_names_the_classes_are_the_labels_that_occur(tmp_path, small_arrays, names):
    arrays = small_arrays()
    for split in ("train", "val", "test"):
        arrays[f"{split}_labels"] = np.array(names, np.int64)[np.arange(len(arrays[f"{split}_labels"])) % 2]
    write_npz(tmp_path / "mine.npz", arrays)
    dataset = load_data(tmp_path / "mine.npz")
    assert dataset.class_names == tuple(names)
    assert dataset.class_counts() == [6, 6]


def test_pickled_class_names_are_refused_and_never_unpickled(tmp_path, small_arrays):
    path, sprung = tmp_path / "mine.npz", tmp_path / "sprung"
    names = np.array([Trap(sprung), "b", "c"], dtype=object)
    np.savez(path, allow_pickle=True, **small_arrays(), class_names=names)
    with pytest.raises(DataError, match=r"mine.npz is damaged or is not an npz file of plain arrays"):
        load_data(path)
    assert not sprung.exists()
    with np.load(path, allow_pickle=True) as archive:  # the trap does work
        archive["class_names"]
    assert sprung.exists()


# ---------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def sound_bytes(tmp_path_factory, small_arrays):
    """Return the bytes of a sound, uncompressed cifar10-like file."""
    path = tmp_path_factory.mktemp("sound") / "sound.npz"
    write_npz(path, small_arrays())
    return path.read_bytes()


DAMAGES = {
    "half": lambda content: content[: len(content) // 2],
    "pickle": lambda content: pickle.dumps({"train_images": 1}),
}


def flip(content, position, mask=0xFF):
    """Return the bytes with those bits of one byte turned over."""
    content = bytearray(content)
    content[position] ^= mask
    return bytes(content)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_refused_with_name_and_remedy(tmp_path, sound_bytes, damage):
    mine, published = tmp_path / "mine.npz", tmp_path / "cifar10.npz"
    for path in (mine, published):
        path.write_bytes(damage(sound_bytes))
    with pytest.raises(DataError, match="is damaged or is not an npz file of plain arrays") as raised:
        load_data(mine)
    assert str(mine) in str(raised.value)
    with pytest.raises(DataError, match=r"is damaged.*; run `regroup data fetch cifar10`") as raised:
        load_data("cifar10", data_dir=tmp_path)
    assert str(published) in str(raised.value)


@pytest.mark.parametrize("compress", [False, True])
def test_every_damaged_byte_is_noticed_or_harmless(tmp_path, compress):
    """The zip format has bytes that nobody reads (times, permissions); all others must raise ValueError."""
    arrays = {"x": np.arange(60, dtype=np.uint8).reshape(20, 3), "names": np.array(["ab", "c"])}
    path = tmp_path / "x.npz"
    write_npz(path, arrays, compress=compress)
    content, refused = path.read_bytes(), 0
    for position in range(len(content)):
        path.write_bytes(flip(content, position, 0xFF if compress else 1 << position % 8))
        try:
            found = read_npz(path)
        except ValueError:
            refused += 1
            continue
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array, strict=True)
    assert refused > len(content) / 2


def test_a_damaged_shape_is_noticed_though_the_array_reads(tmp_path):
    """Fewer rows than were written: zipfile compares no checksum unless the member is read to its end."""
    path = tmp_path / "x.npz"
    write_npz(path, {"x": np.zeros((50000, 8), np.uint8)})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(50000, 8)", b"(40000, 8)"))
    with pytest.raises(ValueError, match=r"x\.npz is damaged"):
        read_npz(path)


# ---------------------------------------------------------------- names and paths


def test_missing_files_say_what_mends_them(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"cifar100\.npz does not exist; run `regroup data fetch cifar100`") as raised:
        load_data("cifar100", data_dir=tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "REGROUP_DATA" in str(raised.value)
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"elsewhere.cifar10\.npz does not exist"):
        load_data("cifar10")
    with pytest.raises(DataError, match=r"nothing\.npz does not exist; check the path"):
        load_data(tmp_path / "nothing.npz")


@pytest.mark.parametrize("name", ["cifar", "CIFAR10", "", "digits-0", "photos.zip", "./photos"])
def test_unknown_sets_are_refused_with_those_that_exist(name):
    with pytest.raises(DataError, match=r"no data set is called .* there are digits, descriptions, cifar10, cifar100"):
        load_data(name)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_refused(tmp_path, make):
    make(tmp_path / "cifar10.npz")
    with pytest.raises(DataError, match=r"cifar10\.npz is damaged .* is not a regular file"):
        load_data("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("function", "variable", "default"),
    [(data_directory, "REGROUP_DATA", "regroup"), (results_directory, "REGROUP_RESULTS", "results")],
)
def test_argument_before_environment_before_default(monkeypatch, tmp_path, function, variable, default):
    monkeypatch.delenv(variable, raising=False)
    assert function().name == default
    monkeypatch.setenv(variable, str(tmp_path / "environment"))
    assert function() == tmp_path / "environment"
    assert function(tmp_path / "argument") == tmp_path / "argument"
    monkeypatch.setenv(variable, "")
    assert function().name == default


def test_records_are_those_of_the_checkout_from_any_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("REGROUP_RESULTS", raising=False)
    here = Path(__file__).resolve().parents[2]
    for directory in (here, here / "notebooks", tmp_path):
        monkeypatch.chdir(directory)
        assert results_directory() == here / "results"


def test_a_results_directory_that_cannot_be_written_is_named_with_what_to_set():
    spec = Spec(profile="smoke", task="digits-0", method="ce", epochs=1)
    with pytest.raises(PermissionError, match=r"/sys/regroup cannot be written \(.*\); set REGROUP_RESULTS"):
        run(spec, results_dir="/sys/regroup")


# ---------------------------------------------------------------- CIFAR


@pytest.mark.parametrize(
    ("name", "n_classes", "tasks"),
    [
        ("cifar10", 10, {"cifar10-airplane": [40500, 4500], "cifar10": [4500] * 10}),
        ("cifar100", 100, {"cifar100-worm": [44550, 450]}),
    ],
)
def test_cifar_is_complete_and_held_once(cifar_directory, name, n_classes, tasks):
    dataset = load_data(name, data_dir=cifar_directory(name))
    assert dataset.name == name
    assert dataset.train.inputs.shape == (50000, 32, 32, 3)
    assert dataset.test.inputs.shape == (10000, 32, 32, 3)
    assert dataset.train.inputs.dtype == np.uint8
    assert dataset.class_counts() == [50000 // n_classes] * n_classes
    assert dataset.class_counts("test") == [10000 // n_classes] * n_classes
    assert dataset.class_names == {10: CIFAR10_NAMES, 100: CIFAR100_NAMES}[n_classes]
    # The digest is a function of the arrays, computed here once more.
    parts = [array for split in ("train", "test") for array in vars(dataset.splits[split]).values()]
    assert dataset.digest == digest_arrays(*parts)
    for task_name, expected in tasks.items():  # the paper's
        task = make_task(task_name, data_dir=cifar_directory(name))
        assert task.class_counts == expected
        assert task.class_names[-1] in ("airplane", "worm", "truck")
        assert (len(task.val), len(task.test)) == (5000, 10000)
        assert task.dataset is dataset


@pytest.fixture
def few(monkeypatch):
    """Let CIFAR have 5 training images and 1 test image of each class, and return a function that makes its arrays."""
    for name, n_classes in (("cifar10", 10), ("cifar100", 100)):
        counts = {"train": (5,) * n_classes, "test": (1,) * n_classes}
        monkeypatch.setitem(SOURCES, name, dataclasses.replace(SOURCES[name], class_counts=counts))

    def arrays(name):
        names = SOURCES[name].class_names
        found = {"class_names": np.array(names)}
        for split, size in (("train", 5), ("test", 1)):
            found[f"{split}_labels"] = np.tile(np.arange(len(names), dtype=np.uint8), size)
            found[f"{split}_images"] = np.zeros((len(names) * size, 32, 32, 3), np.uint8)
        return found

    return arrays


def test_cifar100_from_folders_gets_the_publishers_names(tmp_path, few):
    """Copies sorted into folders say "oak" for "oak_tree"; the set is the same."""
    short = [name.removesuffix("_tree") for name in CIFAR100_NAMES]
    assert short != list(CIFAR100_NAMES)
    write_npz(tmp_path / "cifar100.npz", few("cifar100") | {"class_names": np.array(short)})
    assert load_data("cifar100", data_dir=tmp_path).class_names == CIFAR100_NAMES


CIFAR_DEFECTS = [
    ({}, r"have a wrong count, the first 'airplane' with 1, expected 5000"),
    ({"class_names": np.array(CIFAR10_NAMES[::-1])}, r"class names \('truck',.*expected \('airplane', 'automobile'"),
    ({"train_labels": np.arange(1, 11)}, "labels run from 0 to 10, expected 0 to 9"),
    ({"train_images": np.zeros((10, 32, 32), np.uint8)}, r"test images are \(32, 32, 3\), expected \(32, 32, 1\)"),
    (
        {f"{split}_images": np.zeros((10, 28, 28, 3), np.uint8) for split in ("train", "test")},
        r"train images are \(28, 28, 3\), expected \(32, 32, 3\)",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), CIFAR_DEFECTS)
def test_a_published_set_of_another_kind_is_refused(tmp_path, wrong, message):
    arrays = {"class_names": np.array(CIFAR10_NAMES)}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = np.zeros((10, 32, 32, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(10)
    write_npz(tmp_path / "cifar10.npz", arrays | wrong)
    with pytest.raises(DataError, match=message + ".*; run `regroup data fetch cifar10`"):
        load_data("cifar10", data_dir=tmp_path)


# ---------------------------------------------------------------- fetching


def cifar10_members(spoil=False):
    """Return the official archive's files: six pickled batches of ten images, one of each class, and the names."""
    members = {"batches.meta": {"label_names": list(CIFAR10_NAMES), "num_vis": 3072}}
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        labels = [9, *range(1, 10)] if spoil and name == "data_batch_3" else list(range(10))
        members[name] = {"data": np.zeros((10, 3072), np.uint8), "labels": labels}
        members[name]["data"][:, 1024:2048] = np.array(labels)[:, None]  # green, as the planes lie in the archive
    return {name: pickle.dumps(content, protocol=2) for name, content in members.items()}


def archive_of(members):
    """Return a tar.gz in CIFAR-10's layout."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def publisher(monkeypatch, server):
    """Return a function that serves an archive in place of Toronto's, under its MD5 or another one."""
    reader = torchvision.datasets.CIFAR10
    monkeypatch.setattr(reader, "url", f"{server.address}/{reader.filename}")

    def publish(members, md5=None):
        def digest(content):
            return hashlib.md5(content).hexdigest()

        content = archive_of(members)
        server.answers[f"/{reader.filename}"] = content
        monkeypatch.setattr(reader, "tgz_md5", md5 or digest(content))
        for attribute in ("train_list", "test_list"):
            pairs = [[name, digest(members[name])] for name, _ in getattr(reader, attribute)]
            monkeypatch.setattr(reader, attribute, pairs)
        monkeypatch.setattr(reader, "meta", reader.meta | {"md5": digest(members["batches.meta"])})

    return publish


def test_fetch_writes_the_publishers_arrays_as_one_sound_file(tmp_path, publisher, few):
    publisher(cifar10_members())
    place = tmp_path / "new" / "place"
    dataset = load_data("cifar10", data_dir=place, download=True)
    assert [path.name for path in place.iterdir()] == ["cifar10.npz"]
    np.testing.assert_array_equal(dataset.train.labels, np.tile(np.arange(10), 5))
    green = np.zeros((10, 32, 32, 3), np.uint8)
    green[..., 1] = np.arange(10)[:, None, None]
    np.testing.assert_array_equal(dataset.test.inputs, green)


@pytest.mark.parametrize(
    ("spoil", "md5", "message"),
    [
        (False, "0" * 32, "cifar10 could not be fetched from its publisher, http.*corrupted.*nothing was written"),
        (True, None, r"wrong count.*the publisher's files are not what was expected; report it"),
    ],
    ids=["checksum", "content"],
)
def test_a_bad_archive_leaves_nothing_behind_and_the_old_file_alone(tmp_path, publisher, few, spoil, md5, message):
    publisher(cifar10_members(spoil), md5)
    (tmp_path / "place").mkdir()
    old = tmp_path / "place" / "cifar10.npz"
    old.write_bytes(b"old")
    with pytest.raises(DataError, match=message):
        fetch_data("cifar10", data_dir=old.parent)
    assert old.read_bytes() == b"old"
    assert list(old.parent.iterdir()) == [old]


def test_no_network_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    message = r"cifar10 could not be fetched from its publisher, https://www\.cs\.toronto.*; nothing was written, run "
    with pytest.raises(DataError, match=message + "`regroup data fetch cifar10` again"):
        load_data("cifar10", data_dir=tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "reason"), [("digits", "is embedded"), ("imagenet", "is not known")])
def test_sets_that_cannot_be_fetched(name, reason):
    with pytest.raises(DataError, match=f"{name}.*{reason}.*cifar10, cifar100"):
        fetch_data(name)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_appears_complete_or_not_at_all(tmp_path, error):
    path = tmp_path / "deep" / "file.txt"
    with atomic_path(path) as partial:
        partial.write_text("old")
        assert not path.exists()
        assert partial.parent == path.parent  # the rename stays on one file system
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(error), atomic_path(path) as partial:  # noqa: PT012
        partial.write_text("half of the ne")
        raise error
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@given(
    hnp.arrays(
        dtype=st.sampled_from(["u1", "<i8", ">i4", "<f4", "?", "<U3"]),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    st.booleans(),
)
def test_npz_round_trip(tmp_path_factory, array, compress):
    path = tmp_path_factory.mktemp("round") / "x.npz"
    write_npz(path, {"x": array, "transposed": array.T}, compress=compress)
    found = read_npz(path)
    np.testing.assert_array_equal(found["x"], array, strict=True)
    np.testing.assert_array_equal(found["transposed"], array.T, strict=True)
    assert digest_arrays(found["transposed"].T) == digest_arrays(array)


def test_digest_arrays_tells_types_shapes_values_and_order_apart():
    x = np.arange(6, dtype=np.int32)
    groups = [
        *([y] for y in (x, x.reshape(2, 3), x.reshape(3, 2), x.astype(np.int64), x.view(np.uint32), x + 1)),
        *([x, x], [x[:3], x[3:]], [x[3:], x[:3]], [np.array(["a", "b"])], [np.array(["a", "c"])]),
    ]
    digests = [digest_arrays(*group) for group in groups]
    assert len(set(digests)) == len(groups)
    assert digest_arrays(np.repeat(x, 2)[::2]) == digests[0]  # memory layout is of no matter
