"""A user's own data: folders of images and tables, read as they are, refused where they are wrong, never in silence."""

import logging
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from regroup_lib.data import images
from regroup_lib.data.dataset import DataError
from regroup_lib.data.load import load_data
from regroup_lib.data.own_folders import read_pictures
from regroup_lib.data.tasks import make_task


def pixels(number, *, size=(6, 5), channels=3):
    """Return an image that no other number has."""
    shape = size if channels == 1 else (*size, channels)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes PNG files: {"a/1.png": array or Image, ...}."""

    def write(files, name="photos"):
        for file, picture in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(picture, bytes):
                path.write_bytes(picture)
            else:
                (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)
        return tmp_path / name

    return write


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep decoded images beside the test's files."""
    monkeypatch.setenv("REGROUP_DATA", str(tmp_path / "data"))


def filled(names, n=4, **options):
    """Return n different pictures in each folder."""
    return {f"{name}/{i}.png": pixels(i + 100 * k, **options) for k, name in enumerate(names) for i in range(n)}


def plain(n=10, **options):
    """Return files of two classes without a split."""
    return filled("ab", n, **options)


def divided(**options):
    """Return files of two classes with a training and a test split."""
    return filled(["train/a", "train/b", "test/a", "test/b"], 3, **options)


def test_a_new_picture_that_is_cut_off_is_named(folder):
    home = folder({"new/a.jpg": Image.fromarray(pixels(1, size=(60, 50)))})
    cut = (home / "new" / "a.jpg").read_bytes()[:-300]
    (home / "new" / "b.jpg").write_bytes(cut)
    with pytest.raises(DataError, match=r"b\.jpg: image file is truncated"):
        read_pictures(home, (6, 5, 3))


def warnings_of(dataset):
    return [note for note in dataset.notes if note.startswith("warning")]


def image_of(dataset, file):
    """Return the image that came from a file."""
    for part, columns in dataset.metadata.items():
        if file in columns["file"]:
            return dataset.splits[part].inputs[columns["file"].tolist().index(file)]
    raise AssertionError(f"{file} is in no split")


# ---------------------------------------------------------------- folders: what is read


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_pixel_by_pixel_with_their_classes_and_splits(folder, channels):
    files = divided(channels=channels) | {
        "val/a/9.png": pixels(9, channels=channels),
        "val/b/8.png": pixels(8, channels=channels),
    }
    dataset = load_data(folder(files))
    assert (dataset.name, dataset.class_names, dataset.notes) == ("photos", ("a", "b"), ())
    counts = {part: dataset.class_counts(part) for part in dataset.splits}
    assert counts == {"train": [3, 3], "val": [1, 1], "test": [3, 3]}
    for file, picture in files.items():
        np.testing.assert_array_equal(image_of(dataset, file), picture.reshape(6, 5, channels))
        assert dataset.class_names[dataset.splits[file.split("/")[0]].labels[0]] in "ab"


def test_images_lie_anywhere_below_their_class_and_hidden_files_are_none(folder):
    files = plain() | {"a/deep/er/x.png": pixels(55)}
    debris = [".DS_Store", "Thumbs.db", "a/._1.png", "a/@eaDir/1.png/THUMB.png"]
    debris += ["__MACOSX/a/._1.png", ".thumbnails/1.png", "b/~$1.png"]
    home = folder(files | dict.fromkeys(debris, b"none of the user's"))
    (home / "b" / "readme.txt").write_text("what it is")
    dataset = load_data(home)
    assert dataset.class_names == ("a", "b")
    assert sum(map(len, dataset.splits.values())) == len(files)
    np.testing.assert_array_equal(image_of(dataset, "a/deep/er/x.png"), pixels(55))
    assert "left out: 1 files that are no images (readme.txt)" in dataset.notes
    (note,) = (note for note in dataset.notes if "of a system or a program" in note)
    assert note.startswith("left out: 7 files and folders")


def test_names_that_steer_a_terminal_are_written_as_codes(folder):
    home = folder(plain() | {"a/x\n\x1b[31m.png": b""})
    with pytest.raises(DataError, match=r"a/x\\n\\x1b\[31m\.png") as raised:
        load_data(home)
    assert str(raised.value).isprintable()
    os.rename(home / "b", os.fsencode(home) + b"/\xff")
    with pytest.raises(DataError, match="has characters that cannot be printed; rename it"):
        load_data(home, allow_missing=True)


def test_links_are_followed_once_and_links_to_nothing_are_not_overlooked(folder):
    home, elsewhere = folder(plain()), folder(plain(3, channels=1), name="elsewhere")
    (home / "a" / "more").symlink_to(elsewhere / "a")
    (home / "b" / "around").symlink_to(home / "b")
    (home / "c").symlink_to(elsewhere / "b")
    dataset = load_data(home)
    assert np.add(dataset.class_counts("train"), dataset.class_counts("test")).tolist() == [13, 10, 3]
    (home / "a" / "gone.png").symlink_to(home / "nowhere.png")
    os.mkfifo(home / "a" / "pipe.png")
    with pytest.raises(
        DataError, match=r"2 of 28 images cannot be read \(a/gone.png, a/pipe.png; .* a link to nothing"
    ):
        load_data(home)
    (home / "d").symlink_to(home / "nowhere")
    with pytest.raises(DataError, match="d is a link to nothing; mend or remove it"):
        load_data(home)


def test_masks_and_names_made_of_other_names_are_warned_about(folder):
    masks = {f"b/{i}_mask.png": np.full((6, 5), i, np.uint8) for i in range(5)}
    (warning,) = warnings_of(load_data(folder(plain() | masks)))
    assert "5 files ending in _mask are in the class b only (b/0_mask.png" in warning
    for place in ("masks/{}.png", "b/Masks/{}.png", "b_masks/{}.png"):
        files = plain() | {place.format(i): np.full((6, 5), i, np.uint8) for i in range(5)}
        assert any("5 files in folders called" in note for note in load_data(folder(files, name=place[:3])).notes)
    patients = {
        f"{c}/patient{i // 4:02d}_slice{i}.png": pixels(40 + i + 100 * (c == "b")) for c in "ab" for i in range(16)
    }
    (warning,) = warnings_of(load_data(folder(patients, name="patients")))
    assert "names begin alike in 4 ways (patient00, patient01, patient02 and 1 more)" in warning
    numbered = {f"{c}/x_a{i:030d}_x.png": pixels(40 + i + 100 * (c == "b")) for c in "ab" for i in range(3)}
    load_data(folder(numbered, name="numbered"))  # took minutes, as the digits were divided in every way
    names = [f"{c}/3{how}.png" for c in "ab" for how in ("_flip", "-rot90", " (1)", "-150x150", "@2x")]
    home = folder(plain() | {name: pixels(300 + i) for i, name in enumerate(names)}, name="altered")
    (warning,) = warnings_of(load_data(home))
    assert "10 files have the name of another one with something added" in warning
    assert "--group PATTERN" in warning
    dataset = load_data(home, group=r"(./\d+)")
    assert not warnings_of(dataset)
    sides = {file: part for part, columns in dataset.metadata.items() for file in columns["file"]}
    for c in "ab":
        assert len({side for file, side in sides.items() if file.startswith(f"{c}/3")}) == 1


def test_grey_becomes_color_and_what_is_transparent_white_and_both_are_said(folder):
    picture, grey = np.concatenate([pixels(3), np.full((6, 5, 1), 255, np.uint8)], axis=2), pixels(3, channels=1)
    picture[0, :, 3] = 0
    dataset = load_data(folder(divided() | {"train/a/alpha.png": picture, "train/a/grey.png": grey}))
    found = image_of(dataset, "train/a/alpha.png")
    assert (found[0] == 255).all()
    np.testing.assert_array_equal(found[1:], picture[1:, :, :3])
    np.testing.assert_array_equal(image_of(dataset, "train/a/grey.png"), np.repeat(grey[..., None], 3, axis=2))
    said = ("gray, and made RGB as the others are", "with transparency, put on white")
    assert dataset.notes == tuple(f"1 of 14 images {how}" for how in said)


@pytest.mark.parametrize(("suffix", "scale"), [("png", 16), ("tif", 257)])
def test_grey_values_beyond_8_bits_are_scaled_by_the_range_of_the_set(folder, suffix, scale):
    deep = {f"{c}/{i}.{suffix}": pixels(i + 9 * (c == "b"), channels=1) for c in "ab" for i in range(5)}
    deep["a/0." + suffix][0, :2] = 0, 255  # the range; the others have parts of it
    deep["b/1." + suffix] //= 4
    home = folder({file: Image.fromarray(picture.astype(np.uint16) * scale) for file, picture in deep.items()})
    dataset = load_data(home)
    for file, picture in deep.items():
        np.testing.assert_array_equal(image_of(dataset, file)[..., 0], picture)
    scaled = f"scaled from 0 to {255 * scale}, the range of all, to 0 to 255"
    assert any(note == f"10 of 10 images of more than 8 bits a pixel, {scaled}" for note in dataset.notes)


def png_of_16_bits(colors):
    """Return a PNG file of 16 bits a color, which Pillow does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = colors.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colors)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colors_of_16_bits_keep_the_upper_8_where_these_say_something(folder):
    colors = pixels(3).astype(int) * 257
    dataset = load_data(folder(divided() | {"train/a/deep.png": png_of_16_bits(colors)}))
    assert dataset.notes == ("1 of 13 images of 16 bits a color, of which the upper 8 are kept",)
    np.testing.assert_array_equal(image_of(dataset, "train/a/deep.png"), colors // 257)
    with pytest.raises(DataError, match=r"a/dark.png; the first: its 16 bits a color hold 12 or fewer"):
        load_data(folder(divided() | {"train/a/dark.png": png_of_16_bits(colors // 17)}, name="dark"))


def test_a_picture_is_turned_as_its_camera_noted(folder):
    upright, exif = Image.fromarray(pixels(4)), Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    home = folder(divided())
    upright.transpose(Image.Transpose.ROTATE_90).save(home / "train" / "a" / "turned.png", exif=exif)
    sideways = upright.transpose(Image.Transpose.ROTATE_90)
    sideways.save(home / "train" / "a" / "turned.tif", tiffinfo={0x0112: 6})  # whose size Pillow turns by itself
    for number, exif[0x0112] in enumerate((0, 9, 1)):  # no orientation, or none that there is
        Image.fromarray(pixels(60 + number)).save(home / "train" / "b" / f"odd{number}.png", exif=exif)
    Image.fromarray(pixels(70)).save(home / "train" / "b" / "damaged.webp", lossless=True, exif=b"Exif\0\0?")
    dataset = load_data(home)
    for file in ("turned.png", "turned.tif"):
        np.testing.assert_array_equal(image_of(dataset, f"train/a/{file}"), pixels(4))
    np.testing.assert_array_equal(image_of(dataset, "train/b/odd1.png"), pixels(61))
    np.testing.assert_array_equal(image_of(dataset, "train/b/damaged.webp"), pixels(70))
    assert dataset.notes == (
        "2 of 18 images turned upright as their camera noted",
        "1 images repeat another one, pixel for pixel; copies stay together",
    )


def test_of_several_frames_the_first_is_read_and_said(folder):
    home = folder(divided())
    first, second = (Image.fromarray(pixels(number)) for number in (5, 6))
    first.save(home / "train" / "a" / "frames.tif", save_all=True, append_images=[second])
    dataset = load_data(home)
    np.testing.assert_array_equal(image_of(dataset, "train/a/frames.tif"), pixels(5))
    assert dataset.notes == ("1 of 13 images of several frames, of which the first is read",)


def test_a_large_picture_is_read(folder, monkeypatch):
    rows, columns = np.indices((80, 160))
    large = np.stack([rows * 3, columns, 255 - columns], axis=-1).astype(np.uint8)
    home = folder(divided())
    Image.fromarray(large).save(home / "train" / "a" / "large.jpg", quality=95)
    monkeypatch.setattr(images, "LARGE", 1000)
    found = image_of(load_data(home, image_size=8), "train/a/large.jpg")
    expected = np.asarray(Image.fromarray(large).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.abs(found.astype(int) - expected).max() < 12
    assert images.MAX_PIXELS > 100_000_000


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "bmp", "tif", "webp", "ppm"])
def test_formats(folder, suffix):
    colors = {f"{c}/{i}.png": np.full((6, 5, 3), 60 * i + ord(c), np.uint8) for c in "ab" for i in range(3)}
    home = folder(colors)
    for path in list(home.rglob("*.png")):
        Image.open(path).save(path.with_suffix(f".{suffix}"), **({"lossless": True} if suffix == "webp" else {}))
        if suffix != "png":
            path.unlink()
    dataset = load_data(home)
    for file, color in colors.items():
        found = image_of(dataset, file.replace("png", suffix)).astype(int)
        assert np.abs(found - color).max() <= (3 if suffix in ("jpg", "JPEG") else 0)


# ---------------------------------------------------------------- folders: sizes


def test_several_sizes_need_a_size_and_the_message_says_how(folder):
    home = folder(plain() | {"a/large.png": pixels(1, size=(30, 40))})
    with pytest.raises(
        DataError, match=r"images have 2 sizes, from 5 x 6 to 40 x 30 pixels; choose one .*--image-size"
    ):
        load_data(home)
    dataset = load_data(home, image_size=12)
    assert dataset.train.inputs.shape[1:] == (12, 12, 3)
    assert "21 of 21 images resized to 12 x 12 pixels, whatever their proportions" in dataset.notes
    expected = Image.fromarray(pixels(1, size=(30, 40))).resize((12, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(image_of(dataset, "a/large.png"), np.asarray(expected))
    with pytest.raises(DataError, match="images have 129 x 8 pixels, more than 128 a side; choose one"):
        load_data(folder(plain(3, size=(8, 129)), name="wide"))


# ---------------------------------------------------------------- folders: defects


def broken(home, *files):
    for file in files:
        path = home / file
        path.write_bytes(path.read_bytes()[:60])


def test_unreadable_files_are_named_counted_and_left_out_on_demand(folder, caplog):
    home = folder(plain())
    broken(home, "a/3.png", "b/5.png")
    (home / "b" / "text.jpg").write_text("no picture")
    found = r"3 of 21 images cannot be read \(a/3.png, b/5.png, b/text.jpg; the first: .+\)"
    with pytest.raises(DataError, match=found + r"; mend or remove them, or load with allow_missing=True \(--allow"):
        load_data(home)
    with caplog.at_level(logging.WARNING):
        dataset = load_data(home, allow_missing=True)
    assert "they are left out" in caplog.text
    assert np.add(dataset.class_counts("train"), dataset.class_counts("test")).tolist() == [9, 9]
    assert any(note.startswith("left out: 3 of 21 images") for note in dataset.notes)
    with pytest.raises(DataError, match=r"1 of 21 images cannot be read \(a/scan.dcm"):
        load_data(folder(plain() | {"a/scan.dcm": b"DICM"}, name="scans"))
    odd = folder(plain() | {"a/odd.tif": Image.fromarray(np.full((6, 5), np.nan, np.float32))}, name="odd")
    with pytest.raises(DataError, match=r"a/odd.tif; the first: its pixels are not all finite numbers"):
        load_data(odd)
    broken(home, *(f"{c}/{i}.png" for c in "ab" for i in range(10)))
    with pytest.raises(DataError, match="none of 21 images can be read"):
        load_data(home, allow_missing=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "does not exist or is no folder|no data set is called"),
        ({"a/1.png": pixels(1)}, "has the class 'a' alone, and at least two are needed; expected train/<class>/"),
        ({"1.png": pixels(1)}, r"1 images outside of a class's folder \(1.png\)"),
        ({"1.png": pixels(1), "a/1.png": pixels(1)}, r"1 images outside of a class's folder \(1.png\)"),
        (divided() | {"extra/a/1.png": pixels(1)}, "extra beside train/; expected train/<class>/ with val/ and test/"),
        (divided() | {"test/c/1.png": pixels(1)}, "test/ has classes that train/ has not: c"),
        (plain() | {"c/notes.txt": b"text"}, r"c has no image \(\.png, .*\); remove it, or fill it"),
    ],
)
def test_another_layout_is_refused_with_those_there_are(folder, files, message):
    with pytest.raises(DataError, match=message):
        load_data(folder(files))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Val", "Test"),
        ("training_set", "validation", "TEST"),
        ("Training Set", "valid", "test_images"),
        ("train2017", "val2017", "images_test"),
        ("TrainData", "dev", "testing"),
        ("seg_train", "seg_val", "seg_test"),
        ("my_trainval", "my_valid", "my_test_v2"),
        ("Entrai\u0302nement", "validation", "test"),
        ("Trainingsdaten", "val", "Testdaten"),
        ("trainen", "validatie", "testen"),
        ("tr\u00e4ning", "val", "test"),
        ("\u043e\u0431\u0443\u0447\u0435\u043d\u0438\u0435", "val", "\u0442\u0435\u0441\u0442\u043e\u0432\u0430\u044f"),
        ("\u8a13\u7df4\u30c7\u30fc\u30bf", "\u691c\u8a3c", "\u30c6\u30b9\u30c8\u30c7\u30fc\u30bf"),
        ("\ud6c8\ub828", "\uac80\uc99d", "\ud14c\uc2a4\ud2b8"),
        ("treino", "valida\u00e7\u00e3o", "teste"),
        ("\u8bad\u7ec3\u96c6", "\u9a8c\u8bc1\u96c6", "\u6d4b\u8bd5\u96c6"),
    ],
)
def test_splits_are_known_under_their_usual_names(folder, train, val, test):
    names = {"train": train, "val": val, "test": test}
    dataset = load_data(folder(filled([f"{name}/{c}" for name in names.values() for c in "ab"])))
    assert dataset.class_names == ("a", "b")
    for part, name in names.items():
        assert set(dataset.metadata[part]["file"]) == {f"{name}/{c}/{i}.png" for c in "ab" for i in range(4)}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["Train", "Test"], "Test, Train: these look like splits, not like classes"),  # and no classes
        (["val/a", "val/b", "test/a", "test/b"], "test, val: these look like splits"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "cat/test, cat/train, .* these look like splits"),
        (["a", "b", "test/a", "test/b"], "test: these look like splits"),
        (["e\u011fitim/a", "e\u011fitim/b", "test/a", "test/b"], "test: these look like splits"),  # one is known
        (["train/a", "train/b", "Training/a", "Training/b"], "Training and train look like one split, train"),
        (["Train/a", "Train/b", "holdout/a"], "holdout beside train/"),
        (["Train/Scratch", "Train/b", "Test/scratch", "Test/b"], r"not: scratch \(.*'Scratch' and 'scratch'"),
    ],
)
def test_what_looks_like_splits_is_never_taken_for_classes(folder, folders, message):
    with pytest.raises(DataError, match=message):
        load_data(folder(filled(folders)))


def test_names_of_classes_have_one_unicode_form_and_may_be_that_of_a_split(folder):
    names = ["train/cafe\u0301", "train/x", "test/caf\u00e9", "test/x"]
    assert load_data(folder(filled(names))).class_names == ("caf\u00e9", "x")
    assert load_data(folder(filled(["train", "plane"]), name="one")).class_names == ("plane", "train")  # no split


def test_folders_that_may_be_splits_and_folders_below_a_class_are_said(folder):
    dataset = load_data(folder(filled(["fold_1/a", "fold_1/b", "fold_2/a", "fold_2/b"])))
    assert "all classes have the same folders below them (a, b)" in warnings_of(dataset)[0]
    assert any("4 folders below their class's and count as that class's (fold_1/a" in note for note in dataset.notes)


# ---------------------------------------------------------------- folders: the split


def test_without_a_split_a_fifth_of_each_class_is_tested(folder):
    home = folder({f"{c}/{i}.png": pixels(i + 1000 * ord(c)) for c, n in (("a", 50), ("b", 10)) for i in range(n)})
    dataset = load_data(home)
    assert (dataset.class_counts("train"), dataset.class_counts("test")) == ([40, 8], [10, 2])
    with_val = filled(["train/a", "train/b"], 10) | {"val/a/v.png": pixels(500), "val/b/v.png": pixels(501)}
    sizes = {part: len(split) for part, split in load_data(folder(with_val, name="val")).splits.items()}
    assert sizes == {"train": 16, "val": 2, "test": 4}
    assert "no test split: the training images are divided 80/20, class by class" in dataset.notes


def test_the_split_hangs_on_the_images_alone(folder):
    renamed = {f"{file.split('/')[0]}/x{97 - i}.png": picture for i, (file, picture) in enumerate(plain(20).items())}
    first, second = (
        {image.tobytes() for image in load_data(home).test.inputs}
        for home in (folder(plain(20)), folder(renamed, name="others"))
    )
    assert first == second


def test_copies_stay_on_one_side_and_copies_across_a_given_split_are_counted(folder):
    copies = plain(20) | {f"a/copy{i}.png": pixels(i) for i in range(20)}
    dataset = load_data(folder(copies))
    tested = {image.tobytes() for image in dataset.test.inputs}
    assert not tested & {image.tobytes() for image in dataset.train.inputs}
    torn = load_data(folder(plain(20) | {f"b/copy{i}.png": pixels(i) for i in range(20)}, name="torn"))
    assert any("20 images lie in several classes, pixel for pixel" in note for note in torn.notes)
    assert not {x.tobytes() for x in torn.test.inputs} & {x.tobytes() for x in torn.train.inputs}
    leaking = load_data(folder(divided() | {"test/a/again.png": divided()["train/a/0.png"]}, name="leaking"))
    assert leaking.notes == ("1 images of the test split are also in the training split, pixel for pixel",)


@pytest.mark.parametrize("group", ["1", r"p(\d+)"])
def test_groups_stay_whole_in_the_test_and_the_validation_split(folder, group):
    # Patients 3 to 5 have images in both classes.
    home = folder(filled([*(f"a/p{p}" for p in range(6)), *(f"b/p{p}" for p in range(3, 12))]))
    dataset = load_data(home, group=group)
    assert "group: 12 groups of images, which stay whole" in dataset.notes
    assert all(min(dataset.class_counts(part)) for part in dataset.splits)
    task = make_task(dataset, positive="b", validation_fraction=0.25, seed=3)
    assert set(np.unique(task.val.labels)) == {0, 1}
    files = {part: columns["file"] for part, columns in dataset.metadata.items()}
    of = {"train": files["train"][task.train.index], "val": files["train"][task.val.index], "test": files["test"]}
    sides = [{name.split("/")[1] for name in names} for names in of.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 12
    without = load_data(home)
    assert dataset.digest != without.digest
    assert "images lie in 15 folders below their class's" in without.notes[0]


@pytest.mark.parametrize(
    ("group", "message"),
    [("2", "80 images have no folder on level 2"), ("(", "no regular expression"), ("q\\d", "no match of")],
)
def test_a_group_that_images_do_not_have_is_refused(folder, group, message):
    with pytest.raises(DataError, match=message):
        load_data(folder(filled([f"{c}/p{p}" for c in "ab" for p in range(8)], 5)), group=group)


# ---------------------------------------------------------------- folders: the cache


def test_images_are_decoded_once_and_a_changed_one_is_another_data_set(folder, monkeypatch):
    home = folder(plain())
    before = load_data(home)
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode_images", None)
        for path in home.rglob("*.png"):
            path.touch()  # so that the set in memory counts as old
        after = load_data(home)
        assert after is not before
        assert after.digest == before.digest
    digests = {before.digest}
    Image.fromarray(pixels(4321)).save(home / "a" / "0.png")
    digests.add(load_data(home).digest)
    shutil.move(home / "a", home / "A")
    digests.add(load_data(home).digest)
    assert len(digests) == 3


# ---------------------------------------------------------------- paths, tasks


def test_a_name_goes_before_a_folder_of_that_name(folder, monkeypatch):
    home = folder(plain(3), name="digits")
    monkeypatch.chdir(home.parent)
    assert load_data("digits").class_names == tuple("0123456789")
    assert load_data("./digits").class_names == ("a", "b")
    assert make_task("digits-0").class_names == ("not 0", "0")


def test_a_path_makes_a_task_of_a_class_against_the_rest(folder):
    home = folder(filled("abc", 20))
    for source in (home, str(home), load_data(home)):
        task = make_task(source, positive="b", seed=1)
        assert (task.name, task.class_names, task.fine_class_names) == ("photos-b", ("not b", "b"), ("a", "b", "c"))
        assert (task.train.labels == (task.train.fine_labels == 1)).all()
        assert len(task.train) + len(task.val) == 48
        np.testing.assert_array_equal(task.train.inputs, task.dataset.train.inputs[task.train.index])
    assert make_task(home).class_names == ("a", "b", "c")
