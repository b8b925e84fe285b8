"""Data packed for another machine: what comes out is what went in, or nothing, and nothing lands anywhere else."""

import json
import os

import numpy as np
import pytest

from regroup_lib.data import packing
from regroup_lib.data.load import load_data
from regroup_lib.data.packing import pack_data, unpack_data
from regroup_lib.encoders.features import encode
from regroup_lib.files import write_npz


def files_below(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return a data directory with files of many sizes, hidden ones among them, and pieces of 1,000 bytes."""
    monkeypatch.setattr(packing, "PIECE_BYTES", 1000)
    root, rng = tmp_path / "here", np.random.default_rng(0)
    sizes = {"cifar10.npz": 2500, "ham10000/a/ISIC_1.jpg": 0, "ham10000/a/ISIC_2.jpg": 1, "ham10000/table.csv": 999}
    sizes |= {"features/cifar10-x.npz": 1000, "features/cifar100-x.npz": 10, "encoders/e.onnx": 3001}
    for name, size in (sizes | {"cache/made.npz": 5, "features/.half": 5, ".locks/a.lock": 0}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(rng.bytes(size))
    return root


def test_what_is_unpacked_is_what_was_packed(here, tmp_path):
    pieces = pack_data(tmp_path / "pack", data_dir=here)
    assert [piece.stat().st_size for piece in pieces] == [1000] * 7 + [511]
    written = unpack_data(tmp_path / "pack", data_dir=tmp_path / "there")
    left_out = ("cache/made.npz", "features/.half", ".locks/a.lock")
    expected = {name: content for name, content in files_below(here).items() if name not in left_out}
    assert files_below(tmp_path / "there") == expected
    assert len(written) == len(expected) == 7
    assert unpack_data(tmp_path / "pack", data_dir=tmp_path / "there") == []  # all is there
    (tmp_path / "there" / "cifar10.npz").write_bytes(b"other")
    assert len(unpack_data(tmp_path / "pack", data_dir=tmp_path / "there")) == 1
    assert files_below(tmp_path / "there") == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cifar10"], ["cifar10.npz"]),
        (["ham10000"], ["ham10000/a/ISIC_1.jpg", "ham10000/a/ISIC_2.jpg", "ham10000/table.csv"]),
        (["features/cifar100-*", "encoders"], ["encoders/e.onnx", "features/cifar100-x.npz"]),
        (["cache", "cache/made.npz"], ["cache/made.npz"]),
    ],
)
def test_some_of_it_can_be_packed_by_name_and_an_older_pack_is_replaced(here, tmp_path, names, expected):
    pack_data(tmp_path / "pack", data_dir=here)
    pack_data(tmp_path / "pack", names, data_dir=here)
    unpack_data(tmp_path / "pack", data_dir=tmp_path / "there")
    assert sorted(files_below(tmp_path / "there")) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cifar1000"], "nothing is called 'cifar1000' in the data directory"),
        (["cifar100"], "nothing is called 'cifar100' in"),
        (["../here"], "'../here' is outside the data directory"),
        (["/etc"], "'/etc' is outside the data directory"),
    ],
)
def test_names_that_are_not_there_are_refused_before_anything_is_written(here, tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        pack_data(tmp_path / "pack", names, data_dir=here)
    assert not (tmp_path / "pack").exists()


def test_a_folder_with_something_else_is_not_a_place_for_a_pack(here, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "piece-0000.bin").write_bytes(b"mine")
    with pytest.raises(ValueError, match="mine is no pack and is not empty"):
        pack_data(tmp_path / "mine", data_dir=here)
    assert files_below(tmp_path / "mine") == {"piece-0000.bin": b"mine"}
    with pytest.raises(ValueError, match="has no data sets, encoders or features"):
        pack_data(tmp_path / "pack", data_dir=tmp_path / "mine")


def test_pieces_that_are_missing_or_damaged_are_named_and_nothing_is_written(here, tmp_path):
    pieces = pack_data(tmp_path / "pack", data_dir=here)
    pieces[1].unlink()
    pieces[4].write_bytes(pieces[4].read_bytes()[:-1])
    content = bytearray(pieces[6].read_bytes())
    content[500] ^= 1
    pieces[6].write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged: piece-0001\.bin, piece-0004\.bin, piece-0006\.bin; copy"):
        unpack_data(tmp_path / "pack", data_dir=tmp_path / "there")
    assert not (tmp_path / "there").exists()


def changed(pack, change):
    """Rewrite a pack's table of contents."""
    contents = json.loads((pack / "contents.json").read_text())
    change(contents)
    (pack / "contents.json").write_text(json.dumps(contents))


@pytest.mark.parametrize(
    "name", ["../out", "/elsewhere/out", "a/../../out", "C:out", "a\\..\\out", "..", "link/out", ""]
)
def test_nothing_is_written_outside_the_data_directory(here, tmp_path, name):
    pack_data(tmp_path / "pack", ["cifar10"], data_dir=here)
    changed(tmp_path / "pack", lambda contents: contents["files"][0].update(path=name))
    there = tmp_path / "deep" / "there"
    there.mkdir(parents=True)
    os.symlink(tmp_path / "deep", there / "link")
    before = {path for path in tmp_path.rglob("*") if "pack" not in path.parts}
    with pytest.raises(ValueError, match=r"outside the data directory|is damaged"):
        unpack_data(tmp_path / "pack", data_dir=there)
    assert {path for path in tmp_path.rglob("*") if "pack" not in path.parts} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda contents: contents["pieces"][0].update(path="../piece-0000.bin"), "names the piece"),
        (lambda contents: contents["pieces"].pop(), "the files are not as long as the pieces"),
        (lambda contents: contents["files"][0].update(sha256="0" * 64), "cifar10.npz is not what was packed"),
        (lambda contents: contents["files"][0].update(size="2500"), "is damaged"),
        (lambda contents: contents.update(format=2), "is damaged"),
        (lambda contents: contents.clear(), "is damaged"),
    ],
)
def test_a_table_of_contents_that_is_wrong_is_refused(here, tmp_path, change, message):
    pack_data(tmp_path / "pack", ["cifar10"], data_dir=here)
    changed(tmp_path / "pack", change)
    with pytest.raises(ValueError, match=message):
        unpack_data(tmp_path / "pack", data_dir=tmp_path / "there")
    assert files_below(tmp_path / "there") == {}


def test_a_folder_without_a_pack_is_said_so(tmp_path):
    with pytest.raises(ValueError, match=r"contents\.json does not exist; name the folder that `regroup data pack`"):
        unpack_data(tmp_path, data_dir=tmp_path / "there")


def test_packed_data_and_features_are_used_where_they_are_unpacked(tmp_path, blank_cifar, monkeypatch):
    """The other machine loads the data and does not encode again."""
    here, there = tmp_path / "here", tmp_path / "there"
    arrays = blank_cifar("cifar10")
    arrays["train_images"][:, 0, 0, 0] = np.arange(50_000) % 251
    write_npz(here / "cifar10.npz", arrays)
    features = encode(load_data("cifar10", data_dir=here), "pca", data_dir=here).splits
    pieces = pack_data(tmp_path / "pack", data_dir=here)
    assert max(piece.stat().st_size for piece in pieces) < 60e6
    unpack_data(tmp_path / "pack", data_dir=there)
    monkeypatch.setattr("regroup_lib.encoders.features._encoded", lambda *_: pytest.fail("encoded again"))
    found = encode(load_data("cifar10", data_dir=there), "pca", data_dir=there).splits
    assert all(np.array_equal(features[name], found[name]) for name in features)
