"""A user's own table: values read as people mean them, or refused, or said; rows that belong together stay together."""

import datetime
import re
from decimal import Decimal
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regroup_lib.data import bundled_tables
from regroup_lib.data.dataset import DataError, joined_groups, split_by_group
from regroup_lib.data.load import load_data
from regroup_lib.data.own_tables import read_rows
from regroup_lib.data.tasks import make_task
from regroup_lib.encoders.features import encode
from regroup_lib.runs import table_methods

ROWS = 60
LABELS = np.where(np.arange(ROWS) % 5 == 0, "ill", "well")
X = np.random.default_rng(0).normal(size=ROWS).round(4)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes columns of text as a file, cell by cell, and returns its path."""

    def write(columns, *, separator=",", header=True, name="t.csv", encoding="utf-8"):
        columns = {"x": X, **columns} | ({} if "label" in columns else {"label": LABELS})
        rows = [list(map(str, row)) for row in zip(*columns.values(), strict=True)]
        lines = ([list(columns)] if header else []) + rows
        quoted = [[f'"{cell}"' if separator in cell else cell for cell in line] for line in lines]
        path = tmp_path / name
        path.write_text("".join(separator.join(line) + "\n" for line in quoted), encoding=encoding)
        return path

    return write


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """Return a function that stands for a Parquet file of a frame, and returns its path."""

    def write(frame):
        monkeypatch.setattr(pd, "read_parquet", lambda path: frame)
        (tmp_path / "t.parquet").touch()
        return tmp_path / "t.parquet"

    return write


def column(dataset, name):
    """Return a column in the order of the file."""
    rows = np.concatenate([dataset.metadata[part]["row"] for part in dataset.splits])
    return pd.concat([split.inputs[name] for split in dataset.splits.values()]).to_numpy()[np.argsort(rows)]


def note(dataset, start):
    """Return the one note that begins so."""
    (found,) = (text for text in dataset.notes if text.startswith(start))
    return found


def cycled(values):
    return [values[i % len(values)] for i in range(ROWS)]


# ---------------------------------------------------------------- what is read, what is refused

MIXED = {"site": cycled(["arm", "leg", "arm", ""]), "smoker": np.arange(ROWS) % 3 == 0}


def test_a_table_comes_with_its_columns_classes_and_notes(write):
    path = write({"x": [*X[:-3], "", "", ""], "nothing": [""] * ROWS} | MIXED)
    dataset = load_data(path)
    assert (dataset.name, dataset.holds, dataset.is_table, dataset.is_text) == ("t", "rows", True, False)
    assert dataset.class_names == ("ill", "well")
    assert (dataset.class_counts("train"), dataset.class_counts("test")) == ([10, 38], [2, 10])
    np.testing.assert_array_equal(column(dataset, "x"), [*X[:-3], *[np.nan] * 3])
    assert column(dataset, "site").tolist() == [cell or "(missing)" for cell in MIXED["site"]]
    assert column(dataset, "smoker").tolist() == list(map(str, MIXED["smoker"]))
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    rows = np.concatenate([dataset.metadata[part]["row"] for part in dataset.splits])
    assert np.array(dataset.class_names)[labels[np.argsort(rows)]].tolist() == LABELS.tolist()
    assert dataset.notes == (
        "label: the column 'label', the last one",
        "missing values: 3 of 60 in x, 15 of 60 in site",
        "left out, columns without a value: nothing",
        "columns of text, taken as categories: site, smoker",
        "no test split: rows are divided 80/20, class by class",
    )
    by_name = load_data(path, label="smoker")
    assert by_name.class_names == ("False", "True")
    assert list(by_name.train.inputs) == ["x", "site", "label"]
    assert by_name.notes[0] == "label: the column 'smoker'"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("t.csv", {"separator": ";"}),
        ("t.tsv", {"separator": "\t"}),
        ("t.csv", {"separator": "|", "encoding": "utf-8-sig"}),
        ("T.CSV", {}),
        ("t.csv", {"separator": "\t", "encoding": "utf-16"}),
    ],
)
def test_one_table_has_one_digest_however_it_is_written(write, parquet, name, options):
    frame = pd.read_csv(write(MIXED)).sample(frac=1, random_state=0).sort_index()
    assert load_data(write(MIXED, name=name, **options)).digest == load_data(parquet(frame)).digest


def test_a_name_or_a_value_that_changes_changes_the_digest(write):
    changes = [{"y": X}, {"z": X}, {"y": [5.0, *X[1:]]}, {"y": X, "label": np.where(LABELS == "ill", "sick", "well")}]
    assert len({load_data(write(columns, name=f"{i}.csv")).digest for i, columns in enumerate(changes)}) == 4


def test_parquet_without_its_reader_says_what_to_install(parquet, monkeypatch):
    path = parquet(None)
    monkeypatch.setattr(pd, "read_parquet", Mock(side_effect=ImportError("no engine")))
    with pytest.raises(DataError, match=r"pyarrow, which is not installed; run `pip install 'regroup_lib\[tables\]'`"):
        load_data(path)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.arange(ROWS) % 11, tuple(map(str, range(11)))),
        (np.where(np.arange(ROWS) % 4 == 0, 1.0, -1.0), ("-1", "1")),
        (np.arange(ROWS) % 4 == 0, ("False", "True")),
    ],
)
def test_class_names_are_text_and_numbers_stand_in_their_order(write, values, names):
    assert load_data(write({"label": values})).class_names == names


def test_rows_without_a_label_are_refused_or_left_out(write, caplog):
    labels = np.where(np.isin(np.arange(ROWS), (4, 9)), "", LABELS)
    path = write({"number": np.arange(ROWS), "label": labels})
    with pytest.raises(
        DataError, match="2 of 60 rows have no label in 'label'; fill it in, or load with allow_missing"
    ):
        load_data(path)
    dataset = load_data(path, allow_missing=True)
    assert "2 of 60 rows have no label; they are left out" in caplog.text
    rows = np.concatenate([dataset.metadata[part]["row"] for part in ("train", "test")])
    assert sorted(rows) == np.delete(np.arange(ROWS), [4, 9]).tolist()
    assert "left out: 2 of 60 rows have no label" in dataset.notes
    assert "left out, columns that number the rows: number" in dataset.notes


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"label": "labl"}, r"has no column 'labl'; it has x, z, label; did you mean 'label'\?"),
        ({"label": np.arange(ROWS) / 7}, {}, "has 60 different values in 60 rows, more like a number to predict"),
        ({"label": ["well"] * ROWS}, {}, "the column 'label' has the class 'well' alone, and at least two are needed"),
        ({"z": [np.inf, *X[1:]]}, {}, "the column 'z' has infinite numbers"),
        (lambda text: re.sub(".*,", "", text), {}, "has 1 columns and 60 rows; expected a h"),
        (lambda text: text[:10], {}, "has 3 columns and 0 rows"),
        (lambda text: text.replace("z", "x"), {}, "two columns are called 'x'"),
        (lambda text: "\n".join(text.split()[:3]), {}, "2 rows are too few for a test split"),
        (lambda text: text.replace(",label", ""), {}, "line 2 has 3 values, and those before it have 2; give every"),
        (lambda text: "\ufeff \n", {}, "is empty; expected a header and rows"),
        (lambda text: text + '"', {}, r"cannot be read as a table of text \(.*; save it again as CSV"),
        (lambda text: text.replace("\n0", '\n"0', 2), {}, "'x' holds .* whole rows, as where a quote is not closed"),
        (lambda text: 'a,b\n1,2\n3,4,5,6\n"', {}, "cannot be read as a table of text|line 3 has 4 values"),
        (lambda text: "PK\x03\x04", {}, "is a spreadsheet, Parquet, an archive or compressed; unpack it or save"),
        (lambda text: '[\n {"x": 1}]', {}, "is JSON; unpack it or save it as CSV"),
        (lambda text: "<!DOCTYPE html><p>Log in", {}, "is a web page or XML; unpack it or save it as CSV"),
        (lambda text: "% made by hand\n@RELATION x", {}, "is ARFF; unpack it or save it as CSV"),
        ({"label": [str(10**17 + i % 2) if i else "" for i in range(ROWS)]}, {}, "are numbers that are too long"),
        (lambda text: text.replace(",", " "), {}, "with commas, semicolons, tabs or bars between them"),
        ({"label": cycled(["?", "ill", "well", "well"])}, {"missing": "?"}, "15 of 60 rows have no label"),
        ({"label": cycled(["\x1b[31mred", "blue"])}, {}, r"class '\\x1b\[31mred' has characters that cannot be"),
        ({"z": ["1" * 5000 if i == 5 else i for i in range(ROWS)]}, {}, "the column 'z' has infinite numbers"),
        ({"label": cycled(["1" * 5000, "2"])}, {}, "'label' has values of 5000 characters; classes have short names"),
        ({}, {"group": "label"}, "is the label and cannot be the group too"),
        ({"patient": np.arange(ROWS) // 3}, {"group": "patien"}, "no column 'patien'.*did you mean 'patient'"),
        ({"half": np.arange(ROWS) // 30}, {"group": "half"}, r"60 rows in \d groups that stay whole are too few"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_what_is_wrong(write, change, options, message):
    path = write({"z": np.roll(X, 1)} | (change if isinstance(change, dict) else {}))
    if callable(change):
        path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message) as raised:
        load_data(path, **options)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@settings(max_examples=10)
@given(counts=st.lists(st.integers(3, 40), min_size=2, max_size=4))
def test_every_row_is_in_one_split_and_every_class_in_both(tmp_path_factory, counts):
    path = tmp_path_factory.mktemp("rows") / "t.csv"
    labels = np.repeat([f"c{i}" for i in range(len(counts))], counts)
    pd.DataFrame({"x": np.sin(np.arange(len(labels))), "label": labels}).to_csv(path, index=False)
    dataset = load_data(path)
    rows = np.concatenate([dataset.metadata[part]["row"] for part in ("train", "test")])
    assert sorted(rows) == list(range(len(labels)))
    for n, trained, tested in zip(counts, dataset.class_counts("train"), dataset.class_counts("test"), strict=True):
        assert trained + tested == n
        assert abs(tested - 0.2 * n) <= 1


def test_a_table_makes_a_task_of_rows_and_no_encoder_takes_it(write):
    path = write({"label": np.where(LABELS == "ill", "lt", "well")})
    with pytest.raises(DataError, match=r"image_size is 8, and .* is not .*; leave it out, it is for"):
        load_data(path, image_size=8)
    task = make_task(path, positive="lt", validation_fraction=0.25)
    assert task.class_names == ("not lt", "lt")  # though "lt" stands for a long tail elsewhere
    assert (len(task.train), len(task.val), len(task.test)) == (36, 12, 12)
    pd.testing.assert_frame_equal(task.val.inputs, task.dataset.train.inputs.iloc[task.val.index])
    with pytest.raises(ValueError, match="positive is 'wel', and t has the classes lt, well; did you mean 'well'"):
        make_task(path, positive="wel")
    with pytest.raises(ValueError, match="positive is '0', which needs a path"):
        make_task("digits-0", positive="0")
    with pytest.raises(ValueError, match="t is a table, and encoders take images or text"):
        encode(task.dataset, "pca")


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("separator", "cells", "numbers"),
    [
        (",", ["1,234", "12,000", "7"], [1234, 12000, 7]),
        (",", ["1,234.5", "12.25", "1,000,000"], [1234.5, 12.25, 1e6]),
        (";", ["0,5", "-3,25", "7"], [0.5, -3.25, 7]),
        (";", ["1.234,5", "12.000", "1,5e3"], [1234.5, 12000, 1500]),
        (";", ["1,100", "2,250", "7"], [1.1, 2.25, 7]),  # a comma in a file with semicolons is a decimal one
        ("\t", ["0,5", "1.234,75", "7"], [0.5, 1234.75, 7]),
        (",", ["12 500", "1'000", "7\u00a0250"], [12500, 1000, 7250]),
        (",", ["$1,200", "$15.50", "-$3"], [1200, 15.5, -3]),
        (",", ["45%", "7.5 %", "\u22123%"], [45, 7.5, -3]),
        (",", ["1,00,000", "12,34,567", "7"], [100000, 1234567, 7]),
        (",", ["($200.50)", "$3", "(1,000)"], [-200.5, 3, -1000]),
        (",", ["CHF 1'200", "CHF 15.50", "CHF 3"], [1200, 15.5, 3]),
        (",", ["R$ 12.50", "-R$3", "R$ 7"], [12.5, -3, 7]),
        (",", ["45 kg", "7.5 kg", "80kg"], [45, 7.5, 80]),
        (";", ["7,5 mg/dl", "6 mg/dl"], [7.5, 6]),
        (",", ['="12.5"', '="007"', '="3"'], [12.5, 7, 3]),  # as spreadsheets keep digits as they are
    ],
)
def test_numbers_of_other_countries_are_numbers_and_said(write, separator, cells, numbers):
    path = write(
        {"x": X if separator == "," else [f"{v}".replace(".", ",") for v in X], "z": cycled(cells)}, separator=separator
    )
    dataset = load_data(path)
    np.testing.assert_allclose(column(dataset, "z"), cycled(numbers))
    np.testing.assert_allclose(column(dataset, "x"), X)
    assert f"z ({cells[0]!r} is {numbers[0]:.10g})" in note(dataset, "numbers with")


def test_units_that_differ_make_no_numbers(write):
    assert column(load_data(write({"z": cycled(["45 kg", "99 lb"])})), "z")[0] == "45 kg"


def test_pairs_of_numbers_are_two_columns_in_new_rows_too(write):
    cells = {"z": [f"{120 + i}/{80 + i % 7} mmHg" if i % 20 else "unknown" for i in range(ROWS)]}
    dataset = load_data(write(cells))
    assert column(dataset, "z[0]")[1:4].tolist() == [121, 122, 123]
    assert column(dataset, "z[1]")[1:4].tolist() == [81, 82, 83]
    assert "columns of pairs, such as 120/80, a column each of their numbers: z" in dataset.notes
    kinds = {name: kind for name, kind in dataset.train.inputs.attrs["kinds"].items() if name != "x"}
    new = write({"z": ["unknown"] * 58 + ["130/90", "90/60 mmHg"]}, name="new.csv")
    assert read_rows(new, kinds).tail(2).to_numpy().tolist() == [[130, 90], [90, 60]]
    with pytest.raises(DataError, match=r"the column 'z\[0\]' has 'high'"):
        read_rows(write({"z": ["high"] * ROWS}, name="new.csv"), kinds)
    assert load_data(write({"label": cycled(["1/2", "2/2"])})).class_names == ("1/2", "2/2")


def test_single_quotes_are_no_part_of_values(write):
    dataset = load_data(write({"'z'": [f"'{i % 9}'" for i in range(ROWS)], "label": [f"'{k}'" for k in LABELS]}))
    assert dataset.class_names == ("ill", "well")
    assert column(dataset, "z")[:3].tolist() == [0, 1, 2]


def test_thousands_in_a_file_with_semicolons_are_told_from_decimals_by_the_whole_file(write):
    cells = cycled(["1.234", "2.500", "12.750"])
    dataset = load_data(write({"x": np.arange(ROWS) // 2, "z": cells}, separator=";"))
    assert column(dataset, "z")[0] == 1234
    assert "z ('1.234' is 1234); change this with decimal= (--decimal)" in note(dataset, "numbers with")
    tabs = load_data(write({"x": np.arange(ROWS) // 2, "z": cells}, separator="\t"))
    assert column(tabs, "z")[0] == 1.234
    assert "z (1.234); change this with decimal=" in note(tabs, "numbers read with three decimals and not as thousands")
    for other in (["0.500"], ["0.25"], ["1.2345"]):
        path = write({"x": np.arange(ROWS) // 2, "z": [*other, *cells[1:]]}, separator=";")
        assert column(load_data(path), "z")[1] == 2.5


def test_whole_classes_have_no_decimals_whatever_the_mark(write):
    for separator, cells in ((";", ["1,0", "0,0"]), (",", ["1.0", "0.0"])):
        path = write({"x": np.arange(ROWS) // 2, "label": cycled(cells)}, separator=separator)
        assert load_data(path).class_names == ("0", "1")


def test_the_decimal_mark_can_be_given(write):
    path = write({"z": cycled(["1,100", "2,250"])})
    for mark, number in ((None, 1100), (".", 1100), (",", 1.1)):
        assert column(load_data(path, decimal=mark), "z")[0] == number
    with pytest.raises(DataError, match="decimal is 'x'"):
        load_data(path, decimal="x")


@pytest.mark.parametrize(
    "token", ["?", "-", "--", "unknown", "na", "N/A", "n/a", "#DIV/0!", "None", "TBD", "not recorded"]
)
def test_a_token_among_numbers_is_a_missing_one_and_named(write, token):
    cells = [token if i % 3 == 0 else i / 4 for i in range(ROWS)]
    dataset = load_data(write({"z": cells}))
    np.testing.assert_array_equal(column(dataset, "z"), [np.nan if i % 3 == 0 else i / 4 for i in range(ROWS)])
    assert note(dataset, "taken as missing").startswith(
        f"taken as missing because they are no numbers: {token!r} (20) in z"
    )


def test_few_strays_among_numbers_are_missing_and_many_make_categories_with_a_warning(write):
    few = [{7: "abc", 8: "<5", 9: ">90"}.get(i, i % 11) for i in range(ROWS)]
    many = [f"<{i % 3}" if i % 4 == 0 else i % 11 for i in range(ROWS)]
    dataset = load_data(write({"few": few, "many": many}))
    assert np.flatnonzero(np.isnan(column(dataset, "few"))).tolist() == [7, 8, 9]
    assert column(dataset, "many").tolist() == list(map(str, many))
    assert "many ('<0', '<1', '<2')" in note(dataset, "warning, text although most values are numbers")


@pytest.mark.parametrize(
    ("codes", "others", "said"),
    [
        ([-999], range(7), "-999"),
        ([99], range(8), "99"),
        ([888, 999], range(30), "888 and 999"),
        ([-1], range(20, 50), "-1"),
        ([0], range(40, 70), "0"),
        ([0], range(18, 67), "0"),
        ([0], range(1, 40), None),
        ([1e20], range(11), "1e+20"),
        ([40], range(30), None),
        ([-1], range(-3, 20), None),
    ],
)
def test_codes_of_missing_values_are_suspected(write, codes, others, said):
    cells = [codes[i // 6 % len(codes)] if i % 6 == 0 else others[i % len(others)] for i in range(ROWS)]
    notes = [text for text in load_data(write({"z": cells})).notes if "may mean a missing value" in text]
    assert [text.partition(": ")[2].partition(" in z")[0] for text in notes] == [said] * bool(said)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"z": cycled(["5%", "0.07"])}, "; signs differ, or some numbers have a percent sign alone"),
        ({"z": cycled(["$5", "€7"])}, "; signs differ"),
        ({"when": 20240101 + np.arange(ROWS) % 28}, "columns of numbers that may be dates: when"),
        ({"t": cycled([*(f"2020-01-{i:02d}" for i in range(1, 15)), "9999-12-31"])}, "missing value: 9999-12-31 in t"),
        ({"z": np.where(LABELS == "ill", 9, -9) + X}, "columns whose values alone tell the classes apart"),
        ({"sex": cycled(["M", "F", "m"])}, "categories whose names differ in case, spaces or signs alone: 'M' and 'm'"),
        ({"label": cycled(["Yes", "1", "no", "0.0"])}, "may mean the same: '0.0' and 'no', '1' and 'Yes'"),
        ({"zip": cycled(["01067", "80331"])}, "without the zeros at their beginning: zip (01067); write a"),
        ({"label": cycled([0, 1, -999])}, "names read like a missing value: '-999'"),
        ({"class": LABELS, "label": np.arange(ROWS) % 21}, "the label has 21 classes, most of them with fewer than 5"),
        ({"x": np.arange(ROWS) % 4, "sex": cycled("mfff")}, "no copies, and rows are divided one by one"),
    ],
)
def test_what_may_be_meant_otherwise_is_said(write, columns, said):
    assert any(said in text for text in load_data(write(columns)).notes)


@pytest.mark.parametrize(
    ("cells", "named", "n_missing"),
    [
        ([" ? ", "red", "blue"], "?", 20),  # whatever spaces stand around it
        (["9.0", "3", "4"], "9", 20),
        (["9", "red", "blue"], "9.0", 20),
        (["Unknown", "red", "blue"], "unknown", 0),
    ],
)
def test_missing_values_are_named_as_text_or_number_and_one_that_is_nowhere_is_said(
    write, parquet, cells, named, n_missing
):
    path = write({"z": cycled(cells)})
    frame = pd.read_csv(path, skipinitialspace=True)
    for source in (path, parquet(frame)):
        dataset = load_data(source, missing=[named])
        assert pd.Series(column(dataset, "z")).isin([np.nan, "(missing)"]).sum() == n_missing
        assert (f"warning, no cell has the value that missing= names: {named!r}" in dataset.notes) == (n_missing == 0)


@pytest.mark.parametrize(
    ("cells", "first", "said"),
    [
        (["2024-03-01", "2023-12-31"], "2024-03-01", "dates, as days since 1970: when"),
        (["2024-03-01T06:00", "2023-12-31 18:00"], "2024-03-01T06:00", "dates"),
        (["31.12.2023", "1.3.2024"], "2023-12-31", "dates"),
        (["02.03.2024", "05.06.2024"], "2024-03-02", "dates, as days since 1970, read day first"),
        (["02/03/2024", "05/06/2024"], "2024-02-03", "dates, as days since 1970, read month first"),
        (["02/03/2024", "25/06/2024", "unknown"], "2024-03-02", "dates, as days since 1970: when"),
        (["1 Mar 2024", "12 Oct 2023"], "2024-03-01", "dates"),
        (["9999-12-31", "1677-01-01"], "9999-12-31", "dates"),
        (["1/20/68", "1/20/70"], "2068-01-20", "dates, as days since 1970, years of two digits from 1969 to 2068"),
        (["20-Jan-68", "20-Jan-70"], "2068-01-20", "dates, as days since 1970, years of two digits from 1969 to 2068"),
        (["2024-03", "2023-12"], "2024-03-01", "dates, as days since 1970: when"),
        (["01MAR2024", "12OCT2023"], "2024-03-01", "dates, as days since 1970: when"),
        (["Fri, 1 Mar 2024 06:00:00 GMT", "Thursday, 12 October 2023"], "2024-03-01T06:00", "dates, as days"),
    ],
)
def test_dates_are_days(write, cells, first, said):
    dataset = load_data(write({"when": cycled(cells)}))
    expected = (np.datetime64(first) - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
    assert column(dataset, "when")[0] == expected
    assert any(text.startswith(said) for text in dataset.notes)


def test_dates_of_two_orders_are_none(write):
    cells = cycled(["13/02/2020", "02/13/2020", "01/01/2020"])
    assert column(load_data(write({"when": cells})), "when").tolist() == cells


@pytest.mark.parametrize(
    ("kind", "cell", "read"),
    [
        ("day first", "03/04/2024", "2024-04-03"),
        ("month first", "03/04/2024", "2024-03-04"),
        ("day first", "12/31/2024", "date with the day first"),
        ("month first", "31/12/2024", "date with the month first"),
        ("month first", "2024-12-31", "2024-12-31"),
        ("year first", "2024-12-31", "2024-12-31"),
        ("year first", "03/04/2024", "date with year, month and day"),
        ("number ,", "1.234,5", 1234.5),
        ("number .", "0,5", "finite number with a decimal point"),
        ("number .", "54 kg", "finite number with a decimal point"),
        ("number . kg", "54 kg", 54),
        ("number . kg", "54 lb", "finite number with a decimal point and the unit kg"),
        ("truth", "yes", "True or False"),
    ],
)
def test_new_rows_are_read_as_those_of_the_training_table_or_refused(write, kind, cell, read):
    path = write({"z": [cell] * ROWS, "größe": X}, separator=";", encoding="latin-1")
    if isinstance(read, str) and not read[0].isdecimal():
        with pytest.raises(DataError, match=f"the column 'z' has '{cell}', which is no {read}"):
            read_rows(path, {"z": kind})
        return
    rows = read_rows(path, {"z": kind, "größe": "number ."})
    days = isinstance(read, str) and (np.datetime64(read) - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
    assert rows["z"].tolist() == [days or read] * ROWS
    assert rows.attrs["notes"][0].startswith("text that is not in UTF-8, read as Windows-1252: größe")


def test_new_rows_of_another_file_format_are_read_alike(parquet):
    times = pd.DataFrame(
        {"z": [1.234, 0.5], "stay": pd.to_timedelta([12, 24], unit="h"), "day": pd.Timestamp(2024, 1, 2)}
    )
    table = pd.concat([times] * (ROWS // 2), ignore_index=True).assign(label=LABELS)
    kinds = load_data(parquet(table)).train.inputs.attrs["kinds"]
    assert kinds == {"z": "number .", "stay": "number .", "day": "year first"}
    rows = read_rows(parquet(times), kinds | {"z": "number ,"}, decimal=",")
    assert rows["z"].tolist() == [1.234, 0.5]  # not a thousand
    assert rows["stay"].tolist() == [0.5, 1]
    assert rows["day"].tolist() == [19724, 19724]


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: ["# exported", "# 2024", *lines], "line 3 has 3 values, and those before it have 1; give every"),
        (lambda lines: [*lines, "Total,0.5,60"], r"the last row looks like the sum of those above it \('Total'\)"),
        (lambda lines: ["Report,,", *lines], "the last column has no name; give it one, or choose the label"),
        (lambda lines: [*lines, "1,2,3,4,5"], "line 62 has 5 values, and those before it have 3; .* remove the lines"),
        (
            lambda lines: [lines[0], "kg,cm,text", *lines[1:]],
            r"1 rows have text in each column of numbers \('kg', 'cm'\)",
        ),
        (lambda lines: lines[:30] + lines[:1] + lines[30:], r"1 rows have text in each column of numbers \('x', 'z'\)"),
    ],
)
def test_lines_that_are_no_rows_are_refused(write, change, message):
    path = write({"z": np.roll(X, 1)})
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(DataError, match=message):
        load_data(path)


@pytest.mark.parametrize(
    "columns",
    [
        {"-0.43": X, "0": np.arange(ROWS) % 5 // 4},
        {"39": np.arange(ROWS) % 40, "State-gov": cycled(["State-gov", "Private"]), "<=50K": cycled(["<=50K", ">50K"])},
        {"x": cycled("xyz"), "s": cycled("st"), "p": cycled("ep")},
        {"?": np.arange(ROWS) % 4, "17": np.arange(ROWS) % 20, "1": cycled([0, 1])},
    ],
)
def test_a_first_line_of_data_is_refused_and_read_on_demand(write, columns):
    columns = {"0.01" if name == "x" and "x" not in columns else name: v for name, v in ({"x": X} | columns).items()}
    columns = {name: [name, *map(str, values)] for name, values in columns.items()}
    path = write({}, header=False)
    path.write_text("\n".join(",".join(row) for row in zip(*columns.values(), strict=True)))
    with pytest.raises(DataError, match=r"the first line looks like data \(.*header=False \(--no-header\)"):
        load_data(path)
    dataset = load_data(path, header=False)
    assert sum(map(len, dataset.splits.values())) == ROWS + 1
    assert dataset.notes[0] == f"label: the column 'column {len(columns)}', the last one"


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2", "3", "4", "5"],  # as a frame without names is written
        ["2019", "2020", "2021", "2022", "2023", "outcome"],
        ["a", "b", "c", "d", "e", "f"],
    ],
)
def test_numbers_may_be_names(write, names):
    path = write(dict(zip(names, [*(np.roll(X, i) for i in range(5)), LABELS], strict=True)) | {})
    text = path.read_text().splitlines()
    path.write_text("\n".join(line.split(",", 1)[1].rsplit(",", 1)[0] for line in text))
    dataset = load_data(path)
    assert list(dataset.train.inputs) == names[:-1]
    if names[0] == "a":
        with pytest.raises(DataError, match=r"the first line looks like names of columns .* leave --no-header out"):
            load_data(path, header=False)


def test_separators_in_quoted_names_are_none(write):
    names = ["weight, kg", "a;b", "c|d"]
    for separator in (",", ";", "\t", "|"):
        dataset = load_data(write({name: np.roll(X, i + 1) for i, name in enumerate(names)}, separator=separator))
        assert list(dataset.train.inputs) == ["x", *names]


def test_the_mark_of_a_spreadsheet_and_the_separator_at_the_end_of_lines_are_no_columns(write):
    path = write({"z": np.roll(X, 1)}, separator=";")
    before = load_data(path).digest
    path.write_text("sep=;\n" + path.read_text().replace("\n", ";;\n") + ";;;;\n" * 3)
    dataset = load_data(path)
    assert dataset.digest == before
    assert "left out: 3 empty rows at the end" in dataset.notes


@pytest.mark.parametrize(
    ("word", "encoding", "read"),
    [
        ("größe", "utf-16", ""),
        ("größe", "utf-16-be", None),  # without the mark that says so
        ("größe", "utf-32", None),
        ("größe", "latin-1", "größe"),
        ("“naïve” 5 €", "cp1252", "“, naïve, ” and 1 more"),
        ("здоров", "cp1251", None),
        ("健康", "gbk", None),
        ("größe\udcc3", "utf-8", None),  # a character is cut
    ],
)
def test_text_is_read_in_its_encoding_where_that_can_be_told_or_said(write, word, encoding, read):
    path = write({"z": X % 3, "label": np.where(LABELS == "ill", "?!", LABELS)}, encoding=encoding)
    mark = b"" if encoding == "utf-16-be" else "".encode(encoding)
    content = path.read_bytes().replace("?!".encode(encoding).removeprefix(mark), b"?!")
    path.write_bytes(content.replace(b"?!", word.encode(encoding, "surrogateescape").removeprefix(mark)))
    if read is None:
        with pytest.raises(
            DataError, match=r"is no text in UTF-8 \(.*\); save it as such, in a spreadsheet as 'CSV UTF"
        ):
            load_data(path)
        return
    dataset = load_data(path)
    assert word in dataset.class_names
    said = f"text that is not in UTF-8, read as Windows-1252: {read}; if these are wrong, save the file in UTF-8"
    assert (said in dataset.notes) == bool(read)


def test_long_cells(write):
    dataset = load_data(write({"z": ["w" * 200_000 if i == 5 else "v" for i in range(ROWS)]}))
    assert len(column(dataset, "z")[5]) == 200_000
    images = [" ".join(map(str, range(i, 3000 + i))) for i in range(ROWS)]  # took minutes, as possible names of splits
    assert any("another one in most rows: z" in note for note in load_data(write({"z": images})).notes)


def test_a_column_may_have_the_name_of_an_argument(write):
    assert "self" in load_data(write({"self": X}), missing=["17"]).train.inputs


def test_names_that_begin_with_a_percent_sign_are_not_searched_for_long(tmp_path):
    names, path = [f"% x{number}" for number in range(30)], tmp_path / "t.csv"
    rows = [[*[f"{x + number}" for number in range(30)], label] for x, label in zip(X, LABELS, strict=True)]
    path.write_text("\n".join(", ".join(row) for row in [[*names, "label"], *rows]))
    assert load_data(path).train.inputs.columns.to_list() == names


# ---------------------------------------------------------------- classes


def test_only_an_empty_cell_has_no_label(write):
    labels = cycled(["None", "NA", "null", "nan", "", "x"])
    dataset = load_data(write({"label": labels}), allow_missing=True)
    assert dataset.class_names == ("NA", "None", "nan", "null", "x")
    assert "left out: 10 of 60 rows have no label" in dataset.notes
    assert note(dataset, "classes whose names read like a missing value").count("--missing") == 1


def test_classes_have_one_unicode_form_and_nearly_equal_ones_are_said(write):
    dataset = load_data(
        write({"label": cycled(["caf\u00e9", " cafe\u0301", "Sick", "sick ", "very  sick", "very sick"])})
    )
    assert dataset.class_names == ("Sick", "caf\u00e9", "sick", "very  sick", "very sick")
    alike = "'Sick' and 'sick', 'very  sick' and 'very sick'"
    assert (
        f"warning, classes whose names differ in case, spaces, invisible signs, quotes or a full stop alone: {alike}"
        in dataset.notes
    )
    assert make_task(dataset, positive="cafe\u0301").class_names[1] == "caf\u00e9"
    assert load_data(write({"gro\u00df\u0308e": X % 3, "label": LABELS}), label="label").class_names == ("ill", "well")


def test_names_of_classes_that_hardly_differ_are_said(write):
    dataset = load_data(write({"label": cycled(["ill", "ill\u200b", "'well'", "well", "<=5.", "<=5"])}))
    for pair in ("'<=5' and '<=5.'", "'ill' and 'ill\\u200b'", "\"'well'\" and 'well'"):
        assert pair in note(dataset, "warning, classes")


def test_a_label_that_may_be_another_column_is_said(write):
    path = write({"class": LABELS, "label": np.arange(ROWS) % 3})
    path.write_text(path.read_text().replace("label", "score"))
    said = "warning, the last column is taken for the label, not 'class'; choose the label with label= (--label)"
    assert said in load_data(path).notes


# ---------------------------------------------------------------- columns that name rows


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("", np.random.default_rng(1).permutation(ROWS)),  # a frame's index, shuffled with it
        ("n", np.arange(ROWS) + 17),
        ("patient_id", np.random.default_rng(1).permutation(ROWS) * 7 + 1000),
        ("CustomerID", [f"C{i}" for i in range(ROWS)]),
        ("record number", np.random.default_rng(1).permutation(ROWS) * 3),
        ("patientid", np.arange(ROWS) // 2),
        ("Patienten-Nr", np.arange(ROWS) // 2),
        ("N\u00famero paciente", np.arange(ROWS) // 2),
        ("\u7f16\u53f7", np.random.default_rng(1).permutation(ROWS) * 3),
        ("patient", np.arange(ROWS) % 10),  # each of one class
        ("part", np.where(np.arange(ROWS) % 4 == 0, "Test", "Train")),
    ],
)
def test_names_and_numbers_of_rows_are_left_out_by_name(write, name, values):
    dataset = load_data(write({name: values}))
    assert list(dataset.train.inputs) == ["x"]
    assert (name or "Unnamed: 1") in note(dataset, "left out")


@pytest.mark.parametrize(
    ("name", "values", "warning"),
    [
        ("rank", np.random.default_rng(1).permutation(ROWS), "columns that number the rows in another order"),
        ("ticket", np.arange(ROWS) * 3 + np.arange(ROWS) % 2, "columns that rise or fall from row to row"),
        ("t", np.sort(np.random.default_rng(1).random(ROWS))[::-1], "columns that rise or fall from row to row"),
        ("seen", [f"2024-01-01 10:{i:02d}" for i in range(ROWS)], "columns that rise or fall from row to row"),
        ("city", [f"city {i % 25}" for i in range(ROWS)], "columns that may name groups of rows"),
        ("", np.arange(ROWS) % 3, "columns without a name"),
        ("code", np.arange(ROWS) % 5 // 1, "columns each of whose values has one class alone"),
        ("hash", 2**60 + np.random.default_rng(1).permutation(ROWS), "columns of numbers so long that"),
    ],
)
def test_what_may_name_rows_is_kept_with_a_warning(write, name, values, warning):
    dataset = load_data(write({name: values}))
    name = name or "Unnamed: 1"
    assert list(dataset.train.inputs) == ["x", name]
    assert name in note(dataset, f"warning, {warning}")


@pytest.mark.parametrize("name", ["patient age", "body mass index", "user_rating", "acid", "zip", "year"])
def test_measures_are_not_taken_for_names(write, name):
    notes = load_data(write({name: np.random.default_rng(2).integers(20, 60, ROWS)})).notes
    assert len(notes) == 2  # on the label and the division


# ---------------------------------------------------------------- rows that belong together


def patients(n=40):
    """Return a table of three nearly equal rows a patient, of whom some have both classes."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(n), 3)
    ill = (who % 5 == 0) & ((np.arange(3 * n) % 3 < 2) | (who % 2 == 0))
    values = (rng.normal(size=n)[who] + rng.normal(scale=0.01, size=3 * n)).round(4)
    return pd.DataFrame({"patient": [f"P{p:03d}" for p in who], "x": values, "ill": ill.astype(int)})


def test_what_looks_like_a_group_is_warned_about_and_a_named_group_stays_whole(tmp_path):
    patients().to_csv(tmp_path / "t.csv", index=False)
    without = load_data(tmp_path / "t.csv")
    assert "patient looks like a group" in note(without, "left out, with a warning")
    dataset = load_data(tmp_path / "t.csv", group="patient")
    assert "group: the column 'patient', 40 groups that stay whole" in dataset.notes
    assert list(dataset.train.inputs) == ["x"]
    assert dataset.digest != without.digest
    who = patients()["patient"].to_numpy()
    assert not set(who[dataset.metadata["train"]["row"]]) & set(who[dataset.metadata["test"]["row"]])
    task = make_task(dataset, positive="1", validation_fraction=0.25)
    rows = dataset.metadata["train"]["row"]
    assert not set(who[rows[task.train.index]]) & set(who[rows[task.val.index]])
    table = bundled_tables.table_of(dataset, "1")
    for seed in (0, 1):
        folds = table_methods.out_of_fold(table, method="plain", estimator="logreg", seed=seed).folds
        assert pd.Series(folds).groupby(who).nunique().max() == 1
        assert np.bincount(folds).max() - np.bincount(folds).min() <= 6
        assert np.bincount(folds[table.labels == 1]).min() >= 2


def test_copies_of_rows_stay_together_whatever_their_label(write):
    path = write({"x": [*X[:30], *X[:30]], "z": np.tile(np.roll(X, 1)[:30], 2), "label": ["ill"] * 20 + ["well"] * 40})
    dataset = load_data(path)
    assert "30 rows repeat another one, 20 of them with another label; copies stay together" in note(dataset, "30 rows")
    trained, tested = (set(map(tuple, dataset.splits[part].inputs.to_numpy())) for part in ("train", "test"))
    assert not trained & tested
    folds = table_methods.out_of_fold(bundled_tables.table_of(dataset, "ill"), method="plain", estimator="logreg").folds
    np.testing.assert_array_equal(folds[:30], folds[30:])


def test_rows_without_a_group_stand_alone(write):
    cells = ["" if i % 10 == 0 else f"p{i // 3}" for i in range(ROWS)]
    dataset = load_data(write({"who": cells}), group="who")
    assert "26 groups that stay whole; 6 rows without one stand alone" in note(dataset, "group: the column 'who'")


@given(
    labels=st.lists(st.integers(0, 2), min_size=30, max_size=120),
    seed=st.integers(0, 99),
    n_folds=st.integers(2, 6),
)
def test_groups_of_several_classes_are_divided_class_by_class(labels, seed, n_folds):
    labels = np.array(labels)
    groups = np.random.default_rng(seed).integers(0, 15, len(labels))
    folds = dict.fromkeys(range(n_folds), 1 / n_folds)
    found = split_by_group(labels, groups, fractions=folds, seed=seed)
    assert pd.Series(found).groupby(groups).nunique().max() == 1
    renamed = split_by_group(labels, groups + 100, fractions=folds, seed=seed)
    np.testing.assert_array_equal(found, renamed)
    joined = joined_groups(groups, np.arange(len(labels)) // 2)
    assert pd.Series(joined).groupby(groups).nunique().max() == 1
    assert pd.Series(joined).groupby(np.arange(len(labels)) // 2).nunique().max() == 1


# ---------------------------------------------------------------- Parquet, and many categories


def test_lists_dates_and_exact_numbers_of_parquet_become_columns_of_numbers(parquet):
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(ROWS, 3))
    frame = pd.DataFrame(
        {
            "embedding": list(embedding),
            "day": [datetime.date(1970, 1, 1 + i % 28) for i in range(ROWS)],
            "moment": pd.to_datetime(rng.permutation(ROWS) * 12 // 7, unit="h"),
            "stay": pd.to_timedelta(np.arange(ROWS) % 9, unit="h"),
            "price": [Decimal(i % 9) / 4 for i in range(ROWS)],
            "site": pd.Categorical(cycled(["arm", "leg"])),
            "hand": cycled([b"left", b"right"]),
            "half": (np.arange(ROWS) % 9 / 8).astype(np.float16),
            "label": pd.array([None if i == 3 else i % 2 for i in range(ROWS)], dtype="Int64"),
        }
    )
    dataset = load_data(parquet(frame), allow_missing=True)
    assert dataset.class_names == ("0", "1")
    kept = np.delete(np.arange(ROWS), 3)
    for i in range(3):
        np.testing.assert_allclose(column(dataset, f"embedding[{i}]"), embedding[kept, i])
    np.testing.assert_allclose(column(dataset, "day"), kept % 28)
    np.testing.assert_allclose(column(dataset, "stay"), kept % 9 / 24)
    np.testing.assert_allclose(column(dataset, "price"), kept % 9 / 4)
    np.testing.assert_array_equal(column(dataset, "half"), kept % 9 / 8)
    assert set(column(dataset, "site")) == {"arm", "leg"}
    assert set(column(dataset, "hand")) == {"left", "right"}
    assert "columns of lists, a column each of their numbers: embedding (3)" in dataset.notes


@pytest.mark.parametrize("values", [[[1.0], [1.0, 2.0]], [{"a": 1}], [b"\xff"], [["a", "b"]]])
def test_what_is_no_list_of_numbers_is_refused(parquet, values):
    frame = pd.DataFrame({"x": X, "z": pd.Series(cycled(values), dtype=object), "label": LABELS})
    with pytest.raises(DataError, match="'z' holds something else than text or lists of equally many numbers"):
        load_data(parquet(frame))


def test_a_label_of_lists_is_refused_and_levels_of_an_index_are_columns(parquet):
    frame = pd.DataFrame({"x": X, "label": [[0.0, 1.0]] * ROWS})
    with pytest.raises(DataError, match="the column 'label' has lists, which are neither classes nor groups"):
        load_data(parquet(frame))
    levels = pd.MultiIndex.from_arrays([np.arange(ROWS) // 3, cycled("ab")], names=["patient", "side"])
    dataset = load_data(parquet(pd.DataFrame({"x": X, "label": LABELS}, index=levels)), group="patient")
    assert list(dataset.train.inputs) == ["side", "x"]


def test_options_of_text_are_refused_for_parquet(parquet):
    for options in ({"header": False}, {"decimal": ","}):
        with pytest.raises(DataError, match=r"is no text; leave header and decimal out"):
            load_data(parquet(pd.DataFrame({"x": X, "label": LABELS})), **options)


def test_the_rarest_of_many_categories_share_an_indicator():
    frame = pd.DataFrame({"city": [f"city {i // 2 if i < 100 else 50 + i}" for i in range(3000)]})
    columns, names = table_methods.prepared(frame)
    assert columns.shape == (3000, table_methods.MAX_CATEGORIES)
    assert columns[-1].argmax() == columns[-2].argmax()
    assert names[-1].endswith("infrequent_sklearn")
