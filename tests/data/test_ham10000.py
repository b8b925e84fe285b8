"""HAM10000: a table and a folder of pictures become a data set; what is refused; the split by lesion; the download.

Most tests read a made-up folder of 40 tiny pictures. Those that take `ham10000` read the real set where
REGROUP_DATA has it, and the made-up one elsewhere.
"""

import dataclasses
import hashlib
import io
import itertools
import json
import logging
import re
import shutil
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pooch
import pytest
from conftest import REAL_DATA, has_real
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regroup_lib.data import images, load
from regroup_lib.data.dataset import FRACTIONS, DataError, split_by_group
from regroup_lib.data.ham10000 import ham10000_split
from regroup_lib.data.load import fetch_data, load_data
from regroup_lib.data.sources import HAM10000_NAMES, SOURCES
from regroup_lib.data.tasks import make_task
from regroup_lib.files import digest_arrays, read_npz

COUNTS = (14, 6, 6, 5, 3, 3, 3)  # of the made-up set, in the order of HAM10000_NAMES
DOI = "10.7910/DVN/DBW86T"
REMEDY = "away and run `regroup data fetch ham10000`"
LEAVE_OUT = f"{REMEDY}, or load with allow_missing=True to leave them out"


def color(image_id):
    """Return the color that a picture of the made-up set is painted with."""
    number = int(image_id.removeprefix("ISIC_"))
    return np.array([20 + 5 * number, 230 - 4 * number, 60 + 30 * (number % 5)])


def save(picture, path):
    picture.save(path, quality=95, subsampling=0)


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """Make 40 pictures of 20 x 15 pixels in two folders, their table, and a split with each class in each part."""
    home = tmp_path_factory.mktemp("ham")
    rows, lesions = [], {}
    for name, count in zip(HAM10000_NAMES, COUNTS, strict=True):
        n_lesions = max(3, count // 2)
        for index in range(count):
            lesion = f"HAM_{name}_{index % n_lesions}"
            lesions[lesion] = ("train", "test", "val")[index % n_lesions % 3]
            rows.append([lesion, "", name, "histo", f"{30 + index}.0" if index else "", "female", "back"])
    # Image names in an order that neither classes nor lesions follow.
    for number, row in zip(np.random.default_rng(0).permutation(len(rows)), rows, strict=True):
        row[1] = f"ISIC_{number:07}"
        path = home / "ham10000" / f"part_{number % 2}" / f"{row[1]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(Image.new("RGB", (20, 15), tuple(color(row[1]).tolist())), path)
    columns = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    pd.DataFrame(rows, columns=columns).to_csv(home / "ham10000" / "HAM10000_metadata.csv", index=False)
    (home / "ham10000" / "README.txt").write_text("of no matter")
    split = pd.DataFrame(sorted(lesions.items()), columns=["lesion_id", "split"])
    split.to_csv(home / "split.csv", index=False)
    return home


def describe(home):
    """Return the source of the made-up set."""
    return dataclasses.replace(SOURCES["ham10000"], class_counts={"all": COUNTS}, split_file=home / "split.csv")


@pytest.fixture
def made_up(template, tmp_path, monkeypatch):
    """Return a copy of the made-up set that a test may spoil, with `load` and `table` to read it."""
    home = tmp_path / "data"
    shutil.copytree(template, home)
    monkeypatch.setitem(SOURCES, "ham10000", describe(home))
    folder, file = home / "ham10000", home / "ham10000" / "HAM10000_metadata.csv"

    def picture(number):
        return folder / f"part_{number % 2}" / f"ISIC_{number:07}.jpg"

    return SimpleNamespace(
        home=home,
        folder=folder,
        file=file,
        picture=picture,
        load=lambda **options: load_data("ham10000", data_dir=home, **options),
        table=lambda: pd.read_csv(file, dtype=str, keep_default_na=False),
        write=lambda frame: frame.to_csv(file, index=False),
        caches=lambda: sorted((home / "cache").glob("*")),
    )


@pytest.fixture(scope="module")
def ham10000(template):
    """Return the data directory of the real set where there is one, else of the made-up one, split like the real."""
    if has_real("ham10000"):
        yield REAL_DATA
        return
    with pytest.MonkeyPatch.context() as patch:
        source = dataclasses.replace(describe(template), split_file=template / "generated.csv")
        table = pd.read_csv(template / "ham10000" / "HAM10000_metadata.csv")
        ham10000_split(table).to_csv(source.split_file, index=False)
        patch.setitem(SOURCES, "ham10000", source)
        yield template


# ---------------------------------------------------------------- what is loaded


def test_pictures_keep_their_labels_metadata_and_order(made_up):
    dataset, table = made_up.load(image_size=8), made_up.table().set_index("image_id")
    split = dict(pd.read_csv(made_up.home / "split.csv").itertuples(index=False))
    assert dataset.name == "ham10000"
    assert dataset.class_names == ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")
    assert list(dataset.splits) == ["train", "val", "test"]
    for name, part in dataset.splits.items():
        columns = dataset.metadata[name]
        ids = columns["image_id"].tolist()
        assert ids == sorted(image for image, row in table.iterrows() if split[row.lesion_id] == name)
        rows = table.loc[ids]
        assert (part.inputs.shape, part.inputs.dtype) == ((len(ids), 8, 8, 3), np.uint8)
        np.testing.assert_allclose(part.inputs.mean((1, 2)), [color(image) for image in ids], atol=4)
        assert part.labels.dtype == np.int64
        assert [dataset.class_names[label] for label in part.labels] == rows.dx.tolist()
        for column in ("lesion_id", "dx_type", "sex", "localization"):
            assert columns[column].tolist() == rows[column].tolist()
        np.testing.assert_array_equal(columns["age"], pd.to_numeric(rows.age).astype(np.float32))
        assert all(column.dtype.kind in "Uf" for column in columns.values())
    total = np.sum([dataset.class_counts(name) for name in dataset.splits], axis=0)
    assert tuple(total) == COUNTS
    parts = [array for part in dataset.splits.values() for array in (part.inputs, part.labels)]
    assert dataset.digest == digest_arrays(*parts)


def test_the_whole_picture_is_squashed_into_a_square(made_up):
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, :20, 0] = pixels[:, 20:, 2] = 255
    save(Image.fromarray(pixels), made_up.picture(7))
    dataset = made_up.load(image_size=np.int64(8))
    (found,) = [
        part.inputs[list(dataset.metadata[name]["image_id"]).index("ISIC_0000007")]
        for name, part in dataset.splits.items()
        if "ISIC_0000007" in dataset.metadata[name]["image_id"]
    ]
    np.testing.assert_allclose(found[:, :3], [[[255, 0, 0]] * 3] * 8, atol=12)
    np.testing.assert_allclose(found[:, 5:], [[[0, 0, 255]] * 3] * 8, atol=12)


def test_shrinking_averages_and_gray_becomes_rgb(made_up):
    """Without antialiasing a fine checkerboard would come out black or white."""
    board = Image.fromarray((np.indices((120, 160)).sum(0) % 2 * 255).astype(np.uint8))
    for number in range(40):
        save(board, made_up.picture(number))
    np.testing.assert_allclose(made_up.load(image_size=8).train.inputs, 127.5, atol=8)


@pytest.mark.parametrize("image_size", [0, 1025, 64.0, "64", True])
def test_image_size_out_of_range(made_up, image_size):
    with pytest.raises(DataError, match=r"image_size is .*; it must be a whole number of pixels from 1 to 1024"):
        made_up.load(image_size=image_size)


@pytest.mark.parametrize(("option", "value"), [("image_size", 64), ("allow_missing", True)])
@pytest.mark.parametrize("name", ["digits", "cifar100", "phrasebank", "mine.npz"])
def test_options_for_image_files_are_refused_elsewhere(tmp_path, name, option, value):
    with pytest.raises(DataError, match=f"{option} is .*{name}' is not decoded from image files; .*ham10000"):
        load_data(name, data_dir=tmp_path, **{option: value})


@pytest.mark.parametrize("name", ["HAM10000_metadata.tab", "HAM10000_metadata"])
def test_the_repositorys_tab_separated_table_is_read_too(made_up, name):
    """It has quotes, a byte order mark and a column more."""
    before = made_up.load(image_size=4)
    table = made_up.table().assign(dataset="vidir_modern")
    made_up.file.unlink()
    table.to_csv(made_up.folder / name, sep="\t", index=False, quoting=1, encoding="utf-8-sig")
    after = made_up.load(image_size=4)
    assert after.digest == before.digest
    np.testing.assert_array_equal(after.metadata["val"]["lesion_id"], before.metadata["val"]["lesion_id"])


def test_the_order_of_rows_and_the_folders_are_of_no_influence(made_up):
    before = made_up.load(image_size=4)
    made_up.write(made_up.table().iloc[::-1])
    (made_up.folder / "part_0").rename(made_up.folder / "elsewhere")
    shutil.copytree(made_up.folder / "part_1", made_up.folder / "PART_1")  # each file of it twice
    assert made_up.load(image_size=4).digest == before.digest


def test_the_set_in_memory_is_held_once_and_read_again_when_a_file_changes(made_up):
    first, again = made_up.load(image_size=4), made_up.load(image_size=4)
    assert first is again
    save(Image.new("RGB", (9, 9), (1, 2, 3)), made_up.picture(3))
    assert made_up.load(image_size=4).digest != first.digest


# ---------------------------------------------------------------- the cache of decoded images


@pytest.fixture
def no_decoding(monkeypatch):
    """Return a function after which nothing may be decoded."""

    def forbid():
        def refuse(*args, **options):
            raise AssertionError("an image file was opened")

        monkeypatch.setattr(Image, "open", refuse)

    return forbid


def test_pictures_are_decoded_once(made_up, no_decoding):
    before = made_up.load(image_size=4)
    (cache,) = made_up.caches()
    assert cache.name.startswith("ham10000-4-")
    no_decoding()
    for path in made_up.folder.rglob("*.*"):
        path.touch()  # so that the set in memory counts as old
    after = made_up.load(image_size=4)
    assert after is not before
    assert after.digest == before.digest
    assert made_up.caches() == [cache]
    with pytest.raises(DataError, match=r"unreadable images: 40 of 40 .*an image file was opened"):
        made_up.load(image_size=5)


@pytest.mark.parametrize("what", ["image", "name", "metadata", "size"])
def test_the_cache_has_a_key_of_all_that_matters(made_up, what):
    made_up.load(image_size=4)
    table = made_up.table()
    if what == "image":
        made_up.picture(0).write_bytes(made_up.picture(1).read_bytes())
    elif what == "name":
        made_up.picture(0).rename(made_up.picture(100))
        made_up.write(table.replace("ISIC_0000000", "ISIC_0000100"))
    elif what == "metadata":
        made_up.write(table.replace("female", "male"))
    made_up.load(image_size=5 if what == "size" else 4)
    assert len(made_up.caches()) == 2


def changed(function):
    """Return a damage that replaces the arrays of a cache."""
    return lambda path: np.savez(path, allow_pickle=True, **function(read_npz(path)))


CACHE_DAMAGES = {
    "no images": changed(lambda arrays: {"readable": arrays["readable"]}),
    "another type": changed(lambda arrays: arrays | {"images": arrays["images"].astype(np.float32)}),
}


@pytest.mark.parametrize("damage", CACHE_DAMAGES.values(), ids=CACHE_DAMAGES)
def test_a_damaged_cache_is_reported_and_made_again(made_up, caplog, damage):
    before = made_up.load(image_size=4)
    (cache,) = made_up.caches()
    damage(cache)
    for _ in range(2):
        made_up.file.touch()
        assert made_up.load(image_size=4).digest == before.digest
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"the image cache {cache} is damaged and is made again" in record.getMessage()
    assert read_npz(cache).keys() == {"images", "readable"}


def test_a_cache_that_cannot_be_written_is_a_warning(made_up, caplog):
    (made_up.home / "cache").write_text("a file where the folder would be")
    assert made_up.load(image_size=1).class_counts("test")
    assert "the decoded images are not kept" in caplog.text


# ---------------------------------------------------------------- what is refused


def change(column, value, rows=0):
    """Return a defect: another value in a column."""

    def defect(made):
        table = made.table()
        table.loc[rows, column] = value
        made.write(table)

    return defect


def drop(*columns):
    return lambda made: made.write(made.table().drop(columns=list(columns)))


def other_counts(made):
    table = made.table()
    lesion = table.lesion_id[table.dx == "mel"].iloc[0]
    table.loc[table.lesion_id == lesion, "dx"] = "nv"
    made.write(table)


def second_row(made):
    table = made.table()
    made.write(pd.concat([table, table.iloc[[4]]]))


def shorter_split(made):
    path = made.home / "split.csv"
    pd.read_csv(path).iloc[2:].to_csv(path, index=False)


def another_picture(made):
    other = made.folder / "copies" / made.picture(0).name
    other.parent.mkdir()
    other.write_bytes(made.picture(1).read_bytes())


def broken_links(made):
    """Put a link to nothing and a folder where images would be."""
    for number in (6, 7):
        made.picture(number).unlink()
    made.picture(6).symlink_to("nothing.jpg")
    made.picture(7).mkdir()


DEFECTS = [
    (lambda made: made.file.unlink(), "the file does not exist, expected the metadata"),
    (lambda made: made.file.write_bytes(b"\xff\xfe\x00\x81" * 50), "is damaged or is not a table .*utf-8"),
    (lambda made: made.file.write_text('lesion_id,image_id\n"a,b\nc'), "is damaged or is not a table"),
    (drop("dx", "age"), "the columns dx, age are missing, expected them beside lesion_id, image_id, dx_type, sex"),
    (change("dx", "scc"), "unknown diagnoses: 'scc', expected nv, mel, bkl, bcc, akiec, vasc, df"),
    (change("dx", "df"), "lesions with two diagnoses: HAM_nv_0, expected one diagnosis per lesion"),
    (second_row, r"images with two rows: ISIC_\d+, expected one row per image"),
    (other_counts, "2 classes have a wrong count, the first 'nv' with 16, expected 14"),
    (
        shorter_split,
        r"lesions without a split in .*split\.csv: 'HAM_akiec_0', 'HAM_akiec_1', expected one of train, val, test",
    ),
    (another_picture, r"part_0.ISIC_0000000\.jpg and .*ISIC_0000000\.jpg differ|copies.*differ"),
]
MISSING = [
    (
        lambda made: [made.picture(number).unlink() for number in (5, 8, 9, 13)],
        r"rows without an image: 4 of 40 \(ISIC_0000005, ISIC_0000008, ISIC_0000009 and 1 more\), "
        r"images without a row: 0 of 36 \(none\), expected a row for each image and an image for each row",
    ),
    (
        lambda made: made.write(made.table().query("image_id != 'ISIC_0000004'")),
        r"rows without an image: 0 of 39 \(none\), images without a row: 1 of 40 \(ISIC_0000004\)",
    ),
    (
        lambda made: made.picture(0).rename(made.picture(100)),
        r"rows without an image: 1 of 40 \(ISIC_0000000\), images without a row: 1 of 40 \(ISIC_0000100\)",
    ),
    (broken_links, r"rows without an image: 2 of 40 \(ISIC_0000006, ISIC_0000007\)"),
]


@pytest.mark.parametrize("allow_missing", [False, True])
@pytest.mark.parametrize(("defect", "message"), DEFECTS)
def test_a_defect_is_named_with_its_file_and_the_remedy_before_anything_is_decoded(
    made_up, no_decoding, defect, message, allow_missing
):
    defect(made_up)
    no_decoding()
    with pytest.raises(DataError, match=message) as raised:
        made_up.load(allow_missing=allow_missing)
    assert str(raised.value).startswith(str(made_up.file))
    assert str(raised.value).endswith(f"; move {made_up.folder} {REMEDY}")
    assert made_up.caches() == []


@pytest.mark.parametrize(("defect", "message"), MISSING)
def test_missing_images_and_rows_are_refused_before_anything_is_decoded_or_left_out(made_up, caplog, defect, message):
    defect(made_up)
    with pytest.raises(DataError, match=message) as raised:
        made_up.load()
    assert str(raised.value).startswith(str(made_up.file))
    assert str(raised.value).endswith(f"; move {made_up.folder} {LEAVE_OUT}")
    assert made_up.caches() == []
    dataset = made_up.load(image_size=4, allow_missing=True)
    files = {path.stem for path in made_up.folder.rglob("*.jpg") if path.is_file()}
    loaded = [image for columns in dataset.metadata.values() for image in columns["image_id"]]
    assert sorted(loaded) == sorted(files & set(made_up.table().image_id))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("; they are left out")
    assert re.search(message.partition(", expected")[0], record.getMessage())


def oversized(content, width, height):
    """Return a JPEG file whose header claims another size."""
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[start + 4 :]


def png(content):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(content)).save(buffer, "PNG")
    return buffer.getvalue()


UNREADABLE = {
    "truncated": (lambda content: content[:-10], "truncated"),
    "another format": (png, "cannot identify image file"),
    "large": (lambda content: oversized(content, 6000, 5000), "it has 6000 x 5000 pixels, more than 25,000,000"),
    "bomb": (lambda content: oversized(content, 65500, 65500), "decompression bomb"),
}


@pytest.mark.parametrize(("damage", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_pictures_are_refused_or_left_out(made_up, caplog, damage, reason):
    sound = made_up.load(image_size=4)
    for number in (2, 31):
        made_up.picture(number).write_bytes(damage(made_up.picture(number).read_bytes()))
    message = rf"unreadable images: 2 of 40 \(ISIC_0000002\.jpg, ISIC_0000031\.jpg; the first: .*{reason}.*\)"
    for _ in range(2):  # decoded, and from the cache
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with pytest.raises(DataError, match=message + ", expected sound JPEG files") as raised:
                made_up.load(image_size=4)
        assert str(raised.value).startswith(f"{made_up.folder}: ")
        assert str(raised.value).endswith(f"; move {made_up.folder} {LEAVE_OUT}")
    with caplog.at_level(logging.WARNING):
        dataset = made_up.load(image_size=4, allow_missing=True)
    assert "unreadable images: 2 of 40" in caplog.text
    for name, part in dataset.splits.items():
        ids = sound.metadata[name]["image_id"]
        kept = ~np.isin(ids, ["ISIC_0000002", "ISIC_0000031"])
        np.testing.assert_array_equal(part.inputs, sound.splits[name].inputs[kept])
        np.testing.assert_array_equal(part.labels, sound.splits[name].labels[kept])
        np.testing.assert_array_equal(dataset.metadata[name]["image_id"], ids[kept])


def test_a_picture_that_could_not_be_read_once_is_tried_again(made_up, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(images, "MAX_PIXELS", 299)
        with pytest.raises(DataError, match="unreadable images: 40 of 40"):
            made_up.load(image_size=4)
    (cache,) = made_up.caches()
    after = made_up.load(image_size=4)
    cache.unlink()
    made_up.file.touch()
    assert made_up.load(image_size=4).digest == after.digest


def test_nothing_left_is_an_error_even_where_images_may_be_missing(made_up):
    for path in made_up.folder.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="the train split is empty, expected at least one image"):
        made_up.load(allow_missing=True)


# ---------------------------------------------------------------- the split

classes_and_groups = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), min_size=1, max_size=60)
weights = st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any)


@given(classes_and_groups, weights, st.integers(0, 2**32 - 1))
def test_no_group_is_divided_and_each_class_has_its_shares(samples, weights, seed):
    labels = np.array([label for label, _ in samples])
    groups = np.array([f"{label} {group}" for label, group in samples])
    fractions = {f"part {n}": weight / sum(weights) for n, weight in enumerate(weights)}
    split = split_by_group(labels, groups, fractions=fractions, seed=seed)
    assert split.shape == labels.shape
    assert set(split) <= set(fractions)
    for group in np.unique(groups):
        assert len(set(split[groups == group])) == 1
    for label in np.unique(labels):
        largest = np.unique(groups[labels == label], return_counts=True)[1].max()
        found = np.array([np.sum((labels == label) & (split == name)) for name in fractions])
        target = np.array(list(fractions.values())) * np.sum(labels == label)
        assert (abs(found - target) <= largest + 1e-9).all()
        assert (abs(np.cumsum(found - target)) <= largest / 2 + 1e-9).all()


@given(classes_and_groups, st.randoms(use_true_random=False))
def test_the_split_is_the_same_in_any_order_and_by_any_name_of_the_classes(samples, random):
    labels = np.array([label for label, _ in samples])
    groups = np.array([f"{label} {group}" for label, group in samples])
    split = split_by_group(labels, groups, fractions=FRACTIONS, seed=3)
    order = list(range(len(labels)))
    random.shuffle(order)
    names = np.array(["z", "a", "m"])[labels]
    again = split_by_group(names[order], groups[order], fractions=FRACTIONS, seed=3)
    np.testing.assert_array_equal(again, split[order])


def test_the_seed_moves_the_split():
    labels, groups = np.zeros(100, int), np.arange(100)
    splits = {tuple(split_by_group(labels, groups, fractions=FRACTIONS, seed=seed)) for seed in (0, 0, 1)}
    assert len(splits) == 2
    for split in splits:
        assert [split.count(name) for name in FRACTIONS] == [70, 10, 20]


def test_the_committed_split_has_every_lesion_once():
    table = pd.read_csv(SOURCES["ham10000"].split_file)
    assert list(table) == ["lesion_id", "split"]
    assert len(table) == 7470
    assert table.lesion_id.is_monotonic_increasing
    assert table.lesion_id.is_unique
    assert table.lesion_id.str.fullmatch(r"HAM_\d{7}").all()
    assert table.split.value_counts().to_dict() == {"train": 5242, "test": 1495, "val": 733}


def test_the_set_is_split_as_its_function_splits_it(ham10000):
    """On the real set: the committed file is what `ham10000_split` makes of the published metadata."""
    table = pd.read_csv(ham10000 / "ham10000" / "HAM10000_metadata.csv")
    split = ham10000_split(table)
    pd.testing.assert_frame_equal(split, pd.read_csv(SOURCES["ham10000"].split_file), check_dtype=False)
    dataset = load_data("ham10000", data_dir=ham10000)
    expected = dict(split.itertuples(index=False))
    for name, columns in dataset.metadata.items():
        assert {expected[lesion] for lesion in columns["lesion_id"]} == {name}


def test_splits_have_the_sizes_that_the_book_states_and_share_neither_lesion_nor_picture(ham10000):
    dataset = load_data("ham10000", data_dir=ham10000)
    if has_real("ham10000"):
        assert {name: dataset.class_counts(name) for name in dataset.splits} == {
            "train": [4693, 780, 769, 359, 228, 99, 81],
            "val": [671, 111, 111, 53, 33, 15, 10],
            "test": [1341, 222, 219, 102, 66, 28, 24],
        }
    assert dataset.train.inputs.shape == (len(dataset.train), 64, 64, 3)
    pictures = {name: {row.tobytes() for row in part.inputs} for name, part in dataset.splits.items()}
    for one, other in itertools.combinations(dataset.splits, 2):
        assert not set(dataset.metadata[one]["lesion_id"]) & set(dataset.metadata[other]["lesion_id"])
        assert not pictures[one] & pictures[other]
    n_images = sum(len(part) for part in dataset.splits.values())
    assert n_images == sum(SOURCES["ham10000"].class_counts["all"])
    n_copies = 2 if has_real("ham10000") else 0  # the pairs that load_data's notes name
    assert sum(len(rows) for rows in pictures.values()) == n_images - n_copies


# ---------------------------------------------------------------- tasks


def test_the_sets_own_validation_split_stays(made_up):
    for seed, fraction in ((0, 0), (0, 0.5), (1, 0.1)):
        task = make_task("ham10000", data_dir=made_up.home, image_size=4, validation_fraction=fraction, seed=seed)
        assert task.class_names == HAM10000_NAMES
        for name in ("train", "val", "test"):
            np.testing.assert_array_equal(getattr(task, name).inputs, task.dataset.splits[name].inputs)
            np.testing.assert_array_equal(getattr(task, name).labels, task.dataset.splits[name].labels)


# ---------------------------------------------------------------- fetching


@pytest.fixture
def dataverse(monkeypatch, server):
    """Serve a Dataverse repository on this machine; return a function that says which files it has.

    A table `*.tab` is served converted, and as it was uploaded with ``?format=original``, as Dataverse does.
    """
    place = f"{server.address}/dataset.xhtml?persistentId=doi:"
    monkeypatch.setattr(pooch.downloaders, "doi_to_url", lambda doi, **options: place + doi)
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)  # between one try and the next

    def publish(files, *, spoil=None):
        catalog = []
        for number, (name, content) in enumerate(files.items()):
            md5 = hashlib.md5(content).hexdigest()
            catalog.append({"dataFile": {"id": number, "filename": name, "md5": md5}})
            path, answer = f"/api/access/datafile/{number}", content[:-1] + b"?" if name == spoil else content
            if name.endswith(".tab"):
                server.answers[f"{path}?format=original"] = answer
                answer = content.replace(b",", b"\t")
            server.answers[path] = answer
        listing = json.dumps({"data": {"latestVersion": {"files": catalog}}}).encode()
        server.answers[f"/api/datasets/:persistentId?persistentId=doi:{DOI}"] = listing

    return publish


def zip_of(members, compression=zipfile.ZIP_STORED):
    """Return a zip archive of {name or ZipInfo: content}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as bundle, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that occurs twice
        for name, content in members if isinstance(members, list) else members.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


TABLE, PART_1, PART_2 = "HAM10000_metadata.tab", "HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip"


@pytest.fixture
def publication(made_up):
    """Return the made-up set as its publisher would offer it, with files that nobody needs."""
    parts = [
        {f"part/{path.name}": path.read_bytes() for path in (made_up.folder / f"part_{n}").iterdir()} for n in (0, 1)
    ]
    parts[0] |= {"part/": b"", "part/.DS_Store": b"x", "__MACOSX/part/._ISIC_0000000.jpg": b"x", "a/../../x.jpg": b"x"}
    parts[1] = {name.removeprefix("part/"): content for name, content in parts[1].items()}
    return {
        "HAM10000_segmentations.zip": b"of no matter",
        PART_1: zip_of(parts[0]),
        PART_2: zip_of(parts[1], zipfile.ZIP_DEFLATED),
        TABLE: made_up.file.read_bytes(),
    }


def test_fetch_makes_the_folder_that_load_reads(made_up, publication, dataverse, tmp_path):
    dataverse(publication)
    place = tmp_path / "new" / "place"
    dataset = load_data("ham10000", data_dir=place, download=True, image_size=4)
    assert dataset.digest == made_up.load(image_size=4).digest
    assert sorted(path.name for path in place.iterdir()) == ["cache", "ham10000"]
    assert sorted(path.name for path in (place / "ham10000").iterdir()) == ["HAM10000_metadata.csv", "images"]
    assert len(list((place / "ham10000" / "images").iterdir())) == 40
    assert not list(tmp_path.rglob("x.jpg"))  # though its name in the archive leads out of the folder


@pytest.mark.parametrize("name", ["HAM10000_metadata.csv", "HAM10000_metadata"])
def test_fetch_finds_the_table_under_its_other_names(publication, dataverse, tmp_path, name):
    dataverse({name if file == TABLE else file: content for file, content in publication.items()})
    folder = fetch_data("ham10000", data_dir=tmp_path / "place")
    assert (folder / "HAM10000_metadata.csv").read_bytes() == publication[TABLE]


def test_fetch_fills_an_empty_folder_and_leaves_a_full_one_alone(publication, dataverse, tmp_path):
    dataverse(publication)
    folder = tmp_path / "place" / "ham10000"
    folder.mkdir(parents=True)
    assert fetch_data("ham10000", data_dir=folder.parent) == folder
    (folder / "my notes.txt").write_text("a month of work")
    message = "ham10000 exists and is left alone; move it away, then run `regroup data fetch ham10000` again"
    with pytest.raises(DataError, match=message):
        fetch_data("ham10000", data_dir=folder.parent)
    assert (folder / "my notes.txt").read_text() == "a month of work"
    assert [path.name for path in folder.parent.iterdir()] == ["ham10000"]


def lying(content):
    """Return an archive with one member whose checksum is wrong."""
    archive = zip_of({"ISIC_0000000.jpg": content})
    return archive.replace(content, content[:-1] + b"?", 1)


FETCH_FAILURES = {
    "a table with a wrong checksum": ({}, f"hash.*{TABLE}"),
    "a wrong member": ({PART_1: lying(b"0123456789" * 9)}, f"{PART_1} is damaged or is not .*CRC"),
    "a bomb": ({PART_1: zip_of({"ISIC_1.jpg": b"x" * 30_001})}, f"{PART_1} has more than 30,000 bytes unpacked"),
    "a name that occurs twice": (
        {PART_1: zip_of([("a/ISIC_0000000.jpg", b"x"), ("b/ISIC_0000000.jpg", b"y")])},
        "File exists.*ISIC_0000000.jpg",
    ),
}


@pytest.mark.parametrize(("changes", "message"), FETCH_FAILURES.values(), ids=FETCH_FAILURES)
def test_a_failed_fetch_is_one_clear_error_and_leaves_nothing_behind(
    publication, dataverse, tmp_path, monkeypatch, changes, message
):
    monkeypatch.setattr(load, "MAX_ARCHIVE_BYTES", 30_000)
    dataverse(publication | changes, spoil=None if changes else TABLE)
    place = tmp_path / "place"
    with pytest.raises(DataError, match=message) as raised:
        fetch_data("ham10000", data_dir=place)
    assert str(raised.value).startswith("ham10000 could not be fetched from its publisher, doi:10.7910/DVN/DBW86T (")
    assert str(raised.value).endswith("; nothing was written, run `regroup data fetch ham10000` again")
    assert list(place.iterdir()) == []
    assert not list(tmp_path.rglob("ISIC_1.jpg"))
