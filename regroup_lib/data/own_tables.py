"""A user's own table: its values read as people mean them, columns that name rows left out, copies kept together.

Nothing here guesses in silence: ``Dataset.notes`` name all that is assumed, left out or divided.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regroup_lib.data.dataset import (
    DataError,
    Dataset,
    Split,
    class_notes,
    composed,
    dataset_of,
    did_you_mean,
    digest_of,
    joined_groups,
    kept_until_changed,
    names_alike,
    rows_of,
    some_of,
    split_by_group,
)
from regroup_lib.data.own_folders import ALLOW, NO_SPLIT, OWN_FRACTIONS, SPLIT_NAME

logger = logging.getLogger(__name__)

Notes = dict[str, list[str]]  # what was done or assumed -> the columns concerned, with examples

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
SEPARATORS = (",", ";", "\t", "|")
# How files begin that are no tables of text, and what they are.
OTHER_FORMATS = {
    rb"PK\x03\x04|\xd0\xcf\x11\xe0|\x1f\x8b|BZh|\xfd7zXZ|PAR1": "a spreadsheet, Parquet, an archive or compressed",
    rb'\s*(\[\s*)?\{\s*"': "JSON",
    rb"(?i)\s*<(!doctype|html|\?xml)": "a web page or XML",
    rb"(?i)\s*(%.*\n\s*)*@relation": "ARFF",
    rb"version https://git-lfs": "a pointer of Git LFS, whose file has not been fetched",
}
# Bytes that Western text in Windows-1252 hardly has: other alphabets, broken UTF-8, and characters that it lacks.
NOT_WESTERN = re.compile(rb"[\x80-\xff]{3}|[\xc2-\xf4][\x80-\xbf]|[\0\x81\x8d\x8f\x90\x9d]")
MANY_CLASSES = 100  # beyond that, and beyond a tenth of the rows, a label column is taken for something else
MANY_TEXTS = 0.5  # share of rows: a text column with more different values names rows, it does not sort them
MANY_CATEGORIES = 1000  # of a column; beyond that their names are not compared
MISSING = "(missing)"
LONGEST_NAME = 200  # characters of a class
# Texts that people write instead of a missing number, in lower case.
TOKENS = frozenset(
    "?|-|--|---|–|—|.|..|*|/|na|n/a|n.a.|n.a|<na>|nan|nd|n.d.|nil|none|null|unknown|unk|missing|void|\\n|#n/a|#na|#value!|"
    "#ref!|#div/0!|#name?|#num!|#null!|not available|not applicable|not known|no data".split("|")
)
# Other texts among numbers: how many, and the share of rows that they may have where numbers are not far more numerous.
FEW_TOKENS, FEW_ROWS = 5, 0.1
NEARLY_ALL = 0.9  # share of a column's values that have the same unit, or are pairs
COPIES = 0.25  # share of rows: where more repeat another one, only rows with a fine-grained column are copies
LABEL_NAMES = frozenset("class label labels target outcome diagnosis y".split())
# Words that names of columns consist of where a value stands for a row, or for whom several rows come from.
ID_WORDS = frozenset("id ids uid pid uuid guid mrn identifier".split())
UNIT_WORDS = ID_WORDS | frozenset(
    """index idx nr no number num row rows record records serial key patient patients subject person participant
    individual user customer client case donor animal mouse household family session lesion specimen sample student
    employee member account unnamed rownames nummer lfd patienten proband probanden kunde kunden zeile paciente
    pacientes cliente sujeto sujet numero número numéro fila ligne riga номер пациент клиент 编号 序号 番号""".split()
)

# Decimal mark -> a number as it is written with it, separators of thousands (and of lakhs) included.
NUMBER = {
    mark: rf"[+-]?(?:(?:[1-9]\d{{0,2}}(?:\{other}\d{{2,3}})*\{other}\d{{3}}|\d+)(?:\{mark}\d*)?|\{mark}\d+)"
    rf"(?:[eE][+-]?\d+)?|[+-]?(?i:inf|infinity)"
    for mark, other in (".,", ",.")
}
_TIME = r"(?:[T ]\d{1,2}:\d{2}.*)?"
YEAR_FIRST = rf"\d{{4}}([-/.])\d{{1,2}}\1\d{{1,2}}{_TIME}"
YEAR_LAST = rf"\d{{1,2}}(?:([/.])\d{{1,2}}\1(?:\d{{4}}|\d\d)|-\d{{1,2}}-\d{{4}}){_TIME}"
YEAR_AND_MONTH = r"(?:1[89]|2[01])\d\d-(?:0[1-9]|1[0-2])"
WITH_MONTH = (
    r"(?:[A-Za-z]{3,9},? +)?(?:\d{1,2}[ .-]*[A-Za-z]{3,9}[ .,-]*(?:\d{4}|\d\d)"
    rf"|[A-Za-z]{{3,9}}[ .]+\d{{1,2}}[ .,-]+\d{{4}}){_TIME}"
)
# Signs beside a number, and words at the beginning of a row that sums up those above it.
SIGN = "(?:[A-Z]{0,2}[$€£¥₹₽₩₺₪]|USD|EUR|GBP|CHF|JPY|CAD|AUD|SEK|NOK|DKK|PLN|INR|CNY|BRL|[%‰])"
UNIT = r"\d[.,]?\s*([^\W\d_]\D{0,14}|°\D{0,3})$"  # that it is one is told from its standing in nearly all cells
PAIR = r"(\d[\d.,]*)\s*/\s*(\d[^/]*)"
TOTAL = re.compile("(?:(?:grand |sub-?)?totals?|sums?|averages?|means?|summe|gesamt|somme|suma)[: ]*", re.IGNORECASE)


@kept_until_changed(lambda path, **_: [path], maxsize=4)
def load_frame(
    path: Path,
    *,
    label: str | None = None,
    allow_missing: bool = False,
    header: bool = True,
    missing: Sequence[str] = (),
    decimal: str | None = None,
    group: str | None = None,
) -> Dataset:
    """Load a table with one row per sample; `load_data` describes the options.

    ``inputs`` are frames: columns of numbers as float64, NaN where one is missing (of dates the days since 1970), and
    columns of text (and of truth values) as str, to be taken as categories; where one is missing, ``"(missing)"``.
    Columns that name or number the rows, or have no value, are left out. ``inputs.attrs["kinds"]`` say how `read_rows`
    is to read each: ``"text"`` or a key of `_WRITTEN`, and the unit of numbers (``"number , kg"``).

    Rows are divided 80/20 into training and test, class by class, by a rule that looks at columns only to keep rows
    with equal values together. ``metadata`` has each row's ``row``, counted from 0, and ``group``, where rows belong
    together. The same values have the same digest whatever file they come from.
    """
    found: Notes = defaultdict(list)
    frame, decimal = _read(path, header, decimal, found)
    # Separators at the end of each line make a last column that is none.
    frame = frame.drop(columns=[name for name in frame if name.startswith("Unnamed: ") and frame[name].isna().all()])
    if frame.shape[1] < 2 or not len(frame):
        shape = f"{frame.shape[1]} columns and {len(frame)} rows; expected a header, rows, and at least one column"
        raise DataError(f"{path} has {shape} beside the label, with commas, semicolons, tabs or bars between them")
    label_column = frame.columns[-1] if label is None else composed(str(label))
    chosen = [label_column] if group is None else [label_column, composed(str(group))]
    for name in chosen:
        if name not in frame:
            raise DataError(f"{path} has no column {name!r}; it has {did_you_mean(name, list(frame))}")
    if len(set(chosen)) < len(chosen):
        raise DataError(f"{path}: {label_column!r} is the label and cannot be the group too; name one of them")
    if label is None:
        choose = "choose the label with label= (--label)"
        if label_column.startswith("Unnamed: "):
            raise DataError(f"{path}: the last column has no name; give it one, or {choose}")
        others = [repr(name) for name in frame if name.lower() in LABEL_NAMES]
        if others and repr(label_column) not in others:
            found[f"warning, the last column is taken for the label, not {{}}; {choose}"] = others
    frame = _plain(path, frame, found, whole=chosen)
    for name in set(chosen).difference(frame):
        raise DataError(f"{path}: the column {name!r} has lists, which are neither classes nor groups")
    frame = _blanked(frame, (missing,) if isinstance(missing, str) else missing, found)
    # A spreadsheet writes rows that were once filled, with separators alone.
    n_rows = int(np.flatnonzero(frame.notna().any(axis=1)).max(initial=-1)) + 1
    n_empty, frame = len(frame) - n_rows, frame.iloc[:n_rows]
    classes, notes = _classes(path, frame[label_column], decimal, allow_missing)
    rows = np.flatnonzero(classes != "")
    last = _text(frame.iloc[rows[-1]]).dropna()
    if TOTAL.fullmatch(last.iloc[0]) and (_text(frame[last.index[0]]) == last.iloc[0]).sum() == 1:
        raise DataError(f"{path}: the last row looks like the sum of those above it ({last.iloc[0]!r}); remove it")
    # 2 before 10, and numbers before words.
    numbered = {name: name.lstrip("-").isdecimal() for name in set(classes[rows].tolist())}
    class_names = sorted(numbered, key=lambda name: (0, float(name), name) if numbered[name] else (1, 0, name))
    labels = np.array([class_names.index(name) for name in classes[rows]], np.int64)
    features = _features(path, frame.drop(columns=chosen).iloc[rows], labels, decimal, found)
    groups, group_notes = _groups(features, labels, None if group is None else _text(frame[chosen[1]].iloc[rows]))
    samples, columns = Split(features, labels), {"row": rows} | ({} if groups is None else {"group": groups})
    alone = np.arange(len(labels))
    divisions = (alone, alone if groups is None else groups)
    apart, parts = (rows_of(split_by_group(labels, by, fractions=OWN_FRACTIONS)) for by in divisions)
    for name in OWN_FRACTIONS:
        if name not in parts:
            whole = "" if groups is None else f" in {len(np.unique(groups))} groups that stay whole"
            raise DataError(f"{path}: {len(rows)} rows{whole} are too few for a {name} split; a class needs three")
    # The digest says which data these are, not how they are divided.
    apart = {name: samples.take(index) for name, index in apart.items()}
    digest = digest_of(apart, before=[np.array(class_names)], after=[] if group is None else [groups])
    notes = [
        f"label: the column {label_column!r}" + (", the last one" if label is None else ""),
        *[f"left out: {n_empty} empty rows at the end"] * bool(n_empty),
        *notes,
        *_described(found),
        *group_notes,
        f"{NO_SPLIT}: rows are divided 80/20, class by class",
    ]
    return dataset_of(path.stem, samples, parts, class_names, columns=columns, notes=notes, digest=digest)


def read_rows(
    path: Path,
    columns: Mapping[str, str],
    *,
    header: bool = True,
    missing: Sequence[str] = (),
    decimal: str | None = None,
) -> pd.DataFrame:
    """Return columns of new rows, read as those of the table that a model was fitted on.

    `columns` has the kind of each column by name, see `load_frame`; further columns are left out. Nothing is guessed
    from the new rows: a value of another kind raises a DataError, as do a missing column and a file without rows. The
    index counts the rows of the file from 0, those without any value included, which are left out; ``attrs["notes"]``
    say what was not certain.
    """
    found: Notes = defaultdict(list)
    frame, _ = _read(path, header, decimal, found, as_text=True)
    notes = _described(found)
    frame = _blanked(_plain(path, frame, found), missing, found)
    for name in [name for name in frame if f"{name}[0]" in columns and f"{name}[0]" not in frame]:
        frame = frame.join(_pairs(frame[name]))  # which are too few, or missing, to be told
    if absent := [name for name in columns if name not in frame]:
        raise DataError(f"{path} lacks columns that the model reads: {some_of(absent)}")
    frame = frame[frame.notna().any(axis=1)]
    if not len(frame):
        raise DataError(f"{path} has no rows")
    rows = {}
    for name, kind in columns.items():
        texts = _text(frame[name])
        if kind == "text":
            rows[name] = texts.fillna(MISSING).to_numpy(object)
            continue
        known = texts[~texts.str.lower().isin(TOKENS) & texts.notna()]
        if kind == "truth":
            read = known.str.capitalize().where(known.str.lower().isin(("true", "false")))
        elif kind.startswith("number"):
            read, *_ = _read_numbers(known, kind=kind if _is_text(frame[name]) else "number .")
        else:
            read, *_ = _read_dates(known, kind=kind)
        bad = known[read.isna() | read.isin((np.inf, -np.inf))]
        if len(bad):
            what, unit = (kind[:8], kind[8:]) if kind.startswith("number") else (kind, "")
            expected = f"{_WRITTEN[what]}{' and the unit' * bool(unit)}{unit}"
            raise DataError(f"{path}: the column {name!r} has {bad.iloc[0]!r}, which is no {expected}")
        read = read.reindex(frame.index)
        rows[name] = (read.fillna(MISSING) if kind == "truth" else read.astype(np.float64)).to_numpy()
    read = pd.DataFrame(rows, frame.index)
    read.attrs["notes"] = notes
    return read


_WRITTEN = {
    "truth": "True or False",
    "number .": "finite number with a decimal point",
    "number ,": "finite number with a decimal comma",
    "day first": "date with the day first, or year, month and day",
    "month first": "date with the month first, or year, month and day",
    "year first": "date with year, month and day",
}


# ---------------------------------------------------------------- files


def _read(
    path: Path, header: bool, decimal: str | None, found: Notes, *, as_text: bool = False
) -> tuple[pd.DataFrame, str]:
    """Return the columns of a file, each with a name of its own, and its decimal mark."""
    if not path.is_file():
        raise DataError(f"{path} does not exist or is no file; check the path")
    if decimal not in (None, ".", ","):
        raise DataError(f"decimal is {decimal!r}; expected '.' or ','")
    if path.suffix.lower() != ".parquet":
        frame, decimal = _read_text(path, header, decimal, found, as_text=as_text)
    elif as_text or (header and not decimal):  # a model's options are those of its own table
        frame, decimal = _read_parquet(path), "."
    else:
        raise DataError(f"{path} is no text; leave header and decimal out (--no-header, --decimal)")
    names = [composed(str(name)) for name in frame]
    if twice := [repr(name) for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path}: two columns are called {some_of(twice)}; rename one")
    return frame.set_axis(names, axis=1), decimal


def _read_text(
    path: Path, header: bool, decimal: str | None, found: Notes, *, as_text: bool = False
) -> tuple[pd.DataFrame, str]:
    """Return a text file's columns, as numbers where pandas finds no other text in them, and its decimal mark."""
    options: dict[str, Any] = {
        "encoding": _encoding(path, found),
        "skipinitialspace": True,
        "keep_default_na": False,  # a class may be called None
        "na_values": [""],
        "low_memory": False,
    }
    try:
        with path.open(encoding=options["encoding"], newline="") as stream:
            lines = "".join(islice(stream, 3))
        announced = re.match(r"sep=(.)\r?\n", lines)  # a spreadsheet's own mark
        if '"' not in lines and re.search(r"(^|[,;\t|])\s*'[^']*'\s*([,;\t|]|$)", lines, re.MULTILINE):
            options["quotechar"] = "'"
        options["skiprows"] = 1 if announced else 0
        options["sep"] = announced[1] if announced else _separator(path, options)
        named = options | {"header": 0 if header else None}
        # Of two lines, as a second one that is longer than the first is an error then.
        names = pd.read_csv(path, **options, header=None, nrows=2, dtype=str).iloc[0].fillna("")
        names = [str(name).strip() for name in names]
        frame = pd.read_csv(path, **named)
        # Where semicolons separate values, 1.234 may be a number of thousands, which pandas takes for one below 2.
        texts = pd.read_csv(path, dtype=str, nrows=10_000, **named)
        given, decimal = decimal, decimal or _decimal_mark(texts if options["sep"] == ";" else frame, options["sep"])
        if decimal == "," or as_text:
            frame = pd.read_csv(path, dtype=str, **named)
        for name in texts if decimal == "." and not as_text else ():
            known = texts[name].dropna()
            zeros = [] if _is_text(frame[name]) else known[known.str.fullmatch(r"0\d+").astype(bool)]
            if len(zeros):
                what = "numbers read without the zeros at their beginning: {}; write a letter before codes to keep them"
                found[what].append(f"{name} ({zeros.iloc[0]})")
            pointed = known[known.str.contains(".", regex=False).astype(bool)]
            thousands = r"[+-]?(?:0|[1-9]\d{0,2}(?:\.\d{3})?)"
            if given is None and len(pointed) and known.str.fullmatch(thousands).all():
                what = "numbers read with three decimals and not as thousands"
                found[f"{what}: {{}}; change this with decimal= (--decimal)"].append(f"{name} ({pointed.iloc[0]})")
    except (OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        uneven = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason)
        if uneven:
            what = f"line {uneven[2]} has {uneven[3]} values, and those before it have {uneven[1]}"
            mend = "give every column a name, and remove the lines that are no rows of the table"
            raise DataError(f"{path}: {what}; {mend}") from error
        raise DataError(f"{path} cannot be read as a table of text ({reason}); save it again as CSV") from error
    _check_quotes(path, frame, options["sep"])
    _check_first_line(path, names, frame, header)
    if not header:
        names = [f"column {number + 1}" for number in range(frame.shape[1])]
    return frame.set_axis([name or f"Unnamed: {number}" for number, name in enumerate(names)], axis=1), decimal


def _encoding(path: Path, found: Notes) -> str:
    """Return the encoding of a file of text, and note in `found` where it is not certain."""
    content = path.read_bytes()
    for start, what in OTHER_FORMATS.items():
        if re.match(start, content):
            raise DataError(f"{path} is {what}; unpack it or save it as CSV, a table of text with commas")
    if not content.strip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"):
        raise DataError(f"{path} is empty; expected a header and rows")
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        if "\0" not in content.decode(encoding):
            return encoding
        reason = "it has zero bytes"
    except UnicodeDecodeError as error:
        reason = str(error)
        if encoding == "utf-8-sig" and not NOT_WESTERN.search(content):
            what = "text that is not in UTF-8, read as Windows-1252: {}; if these are wrong, save the file in UTF-8"
            words = re.findall(r"\w*[^\W\0-\x7f]\w*|[^\0-\x7f]", content.decode("cp1252"))
            found[what] = list(dict.fromkeys(words))
            return "cp1252"
    raise DataError(f"{path} is no text in UTF-8 ({reason}); save it as such, in a spreadsheet as 'CSV UTF-8'")


def _check_quotes(path: Path, frame: pd.DataFrame, separator: str) -> None:
    """Refuse cells that hold whole rows, as they do where a quote is not closed."""
    for name in filter(lambda name: _is_text(frame[name]), frame):
        cells = frame[name].dropna().astype(str)
        cells = cells[cells.str.contains("\n", regex=False).astype(bool)]
        n_lines = cells.str.count("\n")
        whole = cells.str.count(re.escape(separator)) == n_lines * (frame.shape[1] - 1)
        if whole.any():
            what = f"a cell of the column {name!r} holds {n_lines[whole].max()} line breaks and whole rows"
            raise DataError(f"{path}: {what}, as where a quote is not closed ({cells[whole].iloc[0][:20]!r}); mend it")


def _separator(path: Path, options: dict[str, Any]) -> str:
    """Return the separator that gives the first rows equally many columns, and most of them."""
    found = {}
    for separator in SEPARATORS:
        first = {"sep": separator, "header": None, "nrows": 20, "dtype": str, "on_bad_lines": "skip"}
        head = pd.read_csv(path, **options | first)
        found[separator] = (head.shape[1] > 1 and head.iloc[:, -1].notna().mean() >= 0.5, head.shape[1])
    return max(found, key=found.get)


def _decimal_mark(frame: pd.DataFrame, separator: str) -> str:
    """Return "," where more values can only be read so than with a point; 1,234 alone is decided by the separator."""
    texts = [frame[name].dropna().drop_duplicates().iloc[:10_000] for name in frame if _is_text(frame[name])]
    values = pd.concat([pd.Series(dtype=object), *(_cleaned(_text(text).dropna()) for text in texts)])
    values = values[values.str.contains("[.,]").astype(bool)]
    point, comma = (values.str.fullmatch(NUMBER[mark]).astype(bool) for mark in (".", ","))
    only_point, only_comma = (point & ~comma).sum(), (comma & ~point).sum()
    if only_point == only_comma == 0 and separator == ";":
        return "," if (point & comma).any() else "."
    return "," if only_comma > only_point else "."


def _check_first_line(path: Path, first: Sequence[str], frame: pd.DataFrame, header: bool) -> None:
    """Refuse a first line of data where names are expected, and the reverse."""
    below = frame if header else frame.iloc[1:]
    data = names = words = 0
    numbers = [int(text) for text in first if text.isascii() and text.isdecimal() and len(text) < 10]
    counted = len(numbers) > 1 and numbers == sorted(set(numbers))  # years, or pixels: numbers may be names
    for position, text in enumerate(first[: frame.shape[1]]):
        if text == "" or text.lower() in TOKENS:
            continue
        column = below.iloc[:, position].dropna()
        values = _text(column.iloc[:1000]).dropna()
        numeric = not _is_text(column) or _read_numbers(values, ".")[0].notna().mean() >= 0.9
        if _read_numbers(pd.Series([text]), ".")[0].notna().all():
            data += not (counted and text.isdecimal())
        elif numeric and len(column):
            names += 1
        elif text in set(values):
            data += 1
        elif values.nunique() <= MANY_TEXTS * len(values):
            words += 1
    consecutive = len(numbers) == len(first) > 4 and np.array_equal(np.diff(numbers), np.ones(len(first) - 1))
    if counted and not consecutive and not names and not words:
        data += len(numbers)
    if header and not names and data > words:
        mend = "add a line of names, or read it with header=False (--no-header)"
        raise DataError(f"{path}: the first line looks like data ({some_of(first)}), not like names of columns; {mend}")
    if not header and names > data:
        raise DataError(f"{path}: the first line looks like names of columns ({some_of(first)}); leave --no-header out")


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        mend = "run `pip install 'regroup_lib[tables]'`, or save the table as CSV"
        raise DataError(f"{path}: pandas reads Parquet with pyarrow, which is not installed; {mend}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no Parquet table ({' '.join(str(error).split())})") from error
    return frame.reset_index(drop=not any(frame.index.names))  # a filtered frame keeps its numbers


# ---------------------------------------------------------------- classes


def _classes(path: Path, column: pd.Series, decimal: str, allow_missing: bool) -> tuple[np.ndarray, list[str]]:
    """Return the class of each row as text, empty where it has none, and notes."""
    if column.dtype.kind == "f" and (column.abs() > 2**53).any():
        raise DataError(f"{path}: classes in {column.name!r} are numbers that are too long; write a letter before")
    found = _text(column)
    absent = found.isna().to_numpy()
    notes = []
    if absent.any():
        lacking = f"{absent.sum()} of {len(column)} rows have no label"
        if not allow_missing:
            raise DataError(f"{path}: {lacking} in {column.name!r}; fill it in, or {ALLOW}")
        logger.warning("%s: %s; they are left out", path, lacking)
        notes = [f"left out: {lacking}"]
    known = found[~absent]
    names = sorted(set(known))
    numbers, *_ = _read_numbers(pd.Series(names, dtype=object), decimal)
    whole = [re.fullmatch(rf"(-?\d{{1,18}})(?:\{decimal}0*)?", name) for name in names]
    if all(whole):  # 1.0 is the class 1
        found = found.map({name: str(int(number[1])) for name, number in zip(names, whole, strict=True)})
        known, names = found[~absent], sorted(set(found[~absent]))
    n_classes = len(names)
    continuous = numbers.notna().all() and (numbers % 1 != 0).any() and n_classes > 20
    if n_classes > max(MANY_CLASSES, len(known) / 10) or continuous:
        defect = f"has {n_classes} different values in {len(known)} rows, more like a number to predict than classes"
        raise DataError(f"{path}: the column {column.name!r} {defect}; name the label's column with label= (--label)")
    if n_classes < 2:
        only = f"the class {known.iloc[0]!r} alone" if n_classes else "no class"
        raise DataError(f"{path}: the column {column.name!r} has {only}, and at least two are needed")
    if n_classes > 20 and known.value_counts().median() < 5:
        many = f"{n_classes} classes, most of them with fewer than 5 rows, as a number to predict has"
        notes.append(f"warning, the label has {many}; choose the label with label= (--label)")
    if (longest := max(map(len, names))) > LONGEST_NAME:
        raise DataError(f"{path}: {column.name!r} has values of {longest} characters; classes have short names")
    codes = {name for name in names if re.fullmatch("-9+|99+", name) and str(int(name) - 1) not in names}
    if unusual := [repr(name) for name in names if name.lower() in TOKENS or name in codes]:
        option = "if they are missing labels, name them with missing= (--missing)"
        notes.append(f"classes whose names read like a missing value: {some_of(unusual)}; {option}")
    notes += class_notes(path, names)
    return found.fillna("").to_numpy(object).astype(np.str_), notes


# ---------------------------------------------------------------- columns


def _is_text(column: pd.Series) -> bool:
    """Tell whether a column may hold anything but numbers and truth values."""
    return column.dtype.kind not in "biufc"


def _text(column: pd.Series) -> pd.Series:
    """Return values as text in one Unicode form, without spaces around them, and NaN where there is none."""
    known = column.dropna()
    values = {value: composed(str(value)) for value in known.unique()}
    return known.map(values).astype(object).replace("", np.nan).reindex(column.index)


def _cleaned(texts: pd.Series) -> pd.Series:
    """Return texts without what may stand in and around a number: spaces of thousands, currencies, percent."""
    texts = texts.astype(object).str.replace("\N{MINUS SIGN}", "-", regex=False)
    texts = texts.str.replace(r'^="(.*)"$', r"\1", regex=True)  # as spreadsheets keep digits as they are
    texts = texts.str.replace(r"(?<=\d)[\s'’](?=\d{3}(?!\d))", "", regex=True)
    texts = texts.str.replace(r"^\((.*\d.*)\)$", r"-\1", regex=True)  # as accountants write what is owed
    return texts.str.replace(rf"^([+-]?){SIGN}\s*|\s*{SIGN}$", r"\1", regex=True)


def _plain(path: Path, frame: pd.DataFrame, found: Notes, whole: Sequence[str | None] = ()) -> pd.DataFrame:
    """Return a frame of texts, times and numbers: bytes become text, durations days, lists and pairs columns.

    Pairs, such as 120/80, stay as they are in the columns named by `whole`.
    """
    columns: list[pd.Series | pd.DataFrame] = []
    for name in frame:
        dtype = frame[name].dtype
        column = frame[name].astype({"category": object, "float16": float}.get(str(dtype), dtype))
        if dtype.kind == "m":
            column = column / pd.Timedelta(days=1)
        known = column.dropna() if _is_text(column) else pd.Series(dtype=object)
        try:
            if any(isinstance(value, bytes) for value in known):
                column = known.map(lambda value: value.decode()).reindex(frame.index)
            elif any(isinstance(value, list | tuple | dict | set | np.ndarray) for value in known):
                values = np.array([np.asarray(value, np.float64).ravel() for value in known])
                names = [f"{name}[{number}]" for number in range(values.shape[1])]
                column = pd.DataFrame(values, known.index, names).reindex(frame.index)
                found["columns of lists, a column each of their numbers"].append(f"{name} ({len(names)})")
            elif name not in whole and _text(known.iloc[:1000]).str.fullmatch(PAIR).mean() >= NEARLY_ALL:
                column = _pairs(column)
                found["columns of pairs, such as 120/80, a column each of their numbers"].append(name)
        except (TypeError, ValueError, AttributeError):
            defect = "holds something else than text or lists of equally many numbers; leave it out"
            raise DataError(f"{path}: the column {name!r} {defect}") from None
        columns.append(column)
    return pd.concat(columns, axis=1)


def _pairs(column: pd.Series) -> pd.DataFrame:
    """Return the two sides of pairs as two columns; any other text is in the first one."""
    texts, names = _text(column), [f"{column.name}[{number}]" for number in (0, 1)]
    sides = texts.astype(object).str.extract(f"^{PAIR}$").set_axis(names, axis=1)
    return sides.assign(**{names[0]: sides[names[0]].fillna(texts)})


def _blanked(frame: pd.DataFrame, missing: Sequence[str], found: Notes) -> pd.DataFrame:
    """Return a frame without the values that are named as missing ones, 9 also where it is written 9.0."""
    unseen = names = {_value(composed(str(name))): repr(name) for name in missing}
    frame = frame.copy(deep=False)
    for column in frame if names else ():
        values = _text(frame[column]).map(_value, na_action="ignore")
        hit = values.isin(list(names))
        unseen = {value: name for value, name in unseen.items() if value not in set(values[hit])}
        frame[column] = frame[column].mask(hit)
    if unseen:
        found["warning, no cell has the value that missing= names: {}"] = list(unseen.values())
    return frame


def _value(text: str) -> float | str:
    """Return the number that a text is, else the text."""
    try:
        number = float(text)
    except ValueError:
        return text
    return text if np.isnan(number) else number


def _described(found: Notes) -> list[str]:
    """Return the notes, with the columns instead of braces, or at the end."""
    return [(what if "{}" in what else f"{what}: {{}}").replace("{}", some_of(names)) for what, names in found.items()]


def _features(path: Path, frame: pd.DataFrame, labels: np.ndarray, decimal: str, found: Notes) -> pd.DataFrame:
    """Return columns as float64 or str, without those that say nothing, and note what was done in `found`."""
    kept, kinds, n_numeric = {}, {}, 0
    strange = np.ones(len(frame), bool)  # rows with text in all columns of numbers
    for name in frame:
        column, kinds[name] = _values(name, frame[name], decimal, found)
        if column.isna().all():
            found["left out, columns without a value"].append(name)
            continue
        numeric = column.dtype == np.float64
        if numeric:
            n_numeric += 1
            strange &= (frame[name].notna() & column.isna()).to_numpy()
            strange[strange] = ~_text(frame[name][strange]).str.lower().isin(TOKENS).to_numpy(bool)
        if numeric and np.isinf(column).any():
            raise DataError(f"{path}: the column {name!r} has infinite numbers; mend them, or leave them empty")
        reason = _names_rows(name, column, labels)
        if reason:
            found[reason].append(name)
        if reason.startswith("left out"):
            continue
        if not numeric:
            found["columns of text, taken as categories"].append(name)
        if column.isna().any():
            found["missing values"].append(f"{column.isna().sum()} of {len(frame)} in {name}")
        if numeric and (sentinels := _sentinels(column)):
            what = "warning, numbers that may mean a missing value: {}; if so, name them with missing= (--missing)"
            written = _text(frame[name]) if _is_text(frame[name]) else column.map("{:.10g}".format)
            found[what].append(f"{' and '.join(written[column == value].iloc[0] for value in sentinels)} in {name}")
        if not numeric and column.nunique() < MANY_CATEGORIES and (alike := names_alike(column.dropna().unique())):
            what = "warning, categories whose names differ in case, spaces or signs alone"
            found[what].append(f"{some_of(alike)} in {name}")
        kept[name] = column.to_numpy() if numeric else column.fillna(MISSING).to_numpy(object)
    if n_numeric > 1 and strange.any():
        shown = some_of(map(repr, _text(frame.iloc[strange.argmax()]).dropna()))
        what = f"{strange.sum()} rows have text in each column of numbers ({shown})"
        raise DataError(f"{path}: {what}, as names and units are; remove them")
    if not kept:
        raise DataError(f"{path}: no column is left beside the label; {'; '.join(_described(found))}")
    features = pd.DataFrame(kept)
    features.attrs["kinds"] = {name: kinds[name] for name in kept}
    return features


def _values(name: str, column: pd.Series, decimal: str, found: Notes) -> tuple[pd.Series, str]:
    """Return a column as float64, or as text where it holds neither numbers nor times, and its kind."""
    if pd.api.types.is_bool_dtype(column):  # also of a column of objects
        return _text(column), "truth"
    if not _is_text(column):
        return pd.Series(column.to_numpy(np.float64, na_value=np.nan), column.index), "number ."
    texts = _text(column)
    counts = texts.value_counts()
    known = counts.index.to_series().reset_index(drop=True)
    for read in (_read_numbers, _read_dates):
        numbers, how, kind = read(known, decimal)
        failed = numbers.isna().to_numpy()
        tokens = known[failed].tolist()
        odd = [token for token in tokens if token.lower() not in TOKENS]
        n_odd, n_good = counts[odd].sum(), counts.to_numpy()[~failed].sum()
        few = n_odd <= FEW_ROWS * (n_good + n_odd) or (n_odd < n_good and (~failed).sum() >= 20 * len(odd))
        if n_good and len(odd) <= FEW_TOKENS and few:
            if tokens:
                shown = some_of(f"{token[:20]!r} ({counts[token]})" for token in tokens)
                what = "taken as missing because they are no numbers: {}; name others with missing= (--missing)"
                found[what].append(f"{shown} in {name}")
            if how:
                found[how].append(f"{name} ({known[~failed].iloc[0]!r} is {numbers[~failed].iloc[0]:.10g})")
            return texts.map(dict(zip(known, numbers, strict=True))).astype(np.float64), kind
        if n_good > n_odd:
            shown = some_of(repr(token[:20]) for token in odd)
            found["warning, text although most values are numbers or dates"].append(f"{name} ({shown})")
    return texts, "text"


def _read_numbers(texts: pd.Series, decimal: str = ".", *, kind: str = "") -> tuple[pd.Series, str, str]:
    """Return the numbers that different texts are, NaN where one is none, how they are written, and their kind.

    `kind` has their decimal mark and unit; without it `decimal` is the likelier mark.
    """
    cleaned = _cleaned(texts)
    _, mark, unit = f"{kind}  ".split(" ", 2)
    if not kind:
        units = cleaned[cleaned.str.contains(r"\d").astype(bool)].str.extract(UNIT)[0]
        unit = units.max() if units.nunique() == 1 and units.notna().mean() >= NEARLY_ALL else ""
    if unit := unit.strip():
        cleaned = cleaned.str.removesuffix(unit).str.rstrip()
    marks = (mark,) if kind else (decimal, "," if decimal == "." else ".")
    mark = max(marks, key=lambda mark: cleaned.str.fullmatch(NUMBER[mark]).sum())  # of equal ones the file's
    good = cleaned.str.fullmatch(NUMBER[mark]).astype(bool)
    plain = cleaned[good].str.replace("," if mark == "." else ".", "", regex=False).str.replace(mark, ".", regex=False)
    numbers = plain.astype(np.float64).reindex(texts.index)
    written = "a decimal comma" if mark == "," else "separators of thousands, signs or a unit"
    how = f"numbers with {written}: {{}}; change this with decimal= (--decimal)"
    signs = set(texts[good & (numbers != 0)].str.extract(f"({SIGN})")[0].fillna(""))
    if len(signs - {""}) > 1 or ("" in signs and "%" in signs):
        how = f"warning, {how}; signs differ, or some numbers have a percent sign alone, and all are read without"
    return numbers, how if (plain != texts[good]).any() else "", f"number {mark} {unit}".strip()


def _read_dates(texts: pd.Series, decimal: str = ".", *, kind: str = "") -> tuple[pd.Series, str, str]:
    """Return the days since 1970 of different texts, NaN where one is no date, how they were read, and their kind.

    Dates of two kinds, as 13/02 and 02/13, are none, unless `kind` says which one they are of.
    """
    first, last, month = (
        texts.str.fullmatch(pattern).astype(bool)
        for pattern in (f"{YEAR_FIRST}|{YEAR_AND_MONTH}", YEAR_LAST, WITH_MONTH)
    )
    how = "dates, as days since 1970"
    parts = texts[last].str.extract(r"(\d+)(\D)(\d+)")
    beyond = parts[[0, 2]].astype(int) > 12  # which cannot be a month
    if not kind and last.any():
        if beyond.any().all():
            return pd.Series(np.nan, texts.index), "", ""
        day_first = beyond[0].any() or (not beyond[2].any() and (parts[1] == ".").all())
        kind = "day first" if day_first else "month first"
        how += "" if beyond.any(axis=None) else f", read {kind}; write YYYY-MM-DD to be sure"
    kind = kind or "year first"
    last[last] = ~beyond[{"day first": 2, "month first": 0}[kind]] if kind != "year first" else False
    if texts[last | month].str.fullmatch(r"[^:]*[^\d:]\d\d(?:[T ]\d+:.*)?").any():
        how += ", years of two digits from 1969 to 2068"
    dates = texts.where(first | last | month)
    dates = pd.to_datetime(dates, format="mixed", dayfirst=kind == "day first", errors="coerce", utc=True)
    dates = dates.dt.as_unit("us")  # nanoseconds end in 2262
    return (dates - pd.Timestamp("1970-01-01", tz="UTC").as_unit("us")) / pd.Timedelta(days=1), how, kind


def _sentinels(column: pd.Series) -> list[float]:
    """Return up to three numbers such as -999, each in several rows and far from all others, or -1 among counts."""
    counts = column.value_counts().sort_index()
    values, often = counts.index.to_numpy(), counts.to_numpy() > 1
    for far in (slice(-3, None), slice(-2, None), slice(-1, None), slice(3), slice(2), slice(1)):
        others = np.delete(values, np.arange(len(values))[far])
        if len(others) < 3 or not often[far].all():
            continue
        coded = all(re.fullmatch(r"-?(7+|8+|9+)", f"{value:.0f}") for value in values[far])
        gap = max(values[far].min() - others.max(), others.min() - values[far].max())
        # A lone zero, as of a blood pressure, is nearer to the others than a code is.
        near = 5 if len(others) >= 20 and values[far].tolist() == [0] else 1
        if (coded or len(others) >= 10) and near * gap > others.max() - others.min():
            return values[far].tolist()
    lone = len(values) > 10 and values[0] in (-1, -9) and values[1] >= 0 and often[0]
    return [values[0]] * bool(lone)


def _names_rows(name: str, column: pd.Series, labels: np.ndarray) -> str:
    """Return why a column may name rows, groups or classes instead of describing rows; empty: it does not."""
    values = column.dropna()
    n, n_different = len(values), values.nunique()
    text = column.dtype != np.float64
    # Names are short, and the pattern takes minutes on a text of thousands of digits.
    some = values.unique()[:9] if text and values.str.len().max() <= LONGEST_NAME else []
    if n_different > 1 and len(some) and all(map(SPLIT_NAME.fullmatch, some)):
        return "left out, columns that name splits, as rows are divided anew"
    alone = 1 < n_different <= min(20, n / 5) and pd.Series(labels, column.index).groupby(column).nunique().max() == 1
    telling = "warning, columns each of whose values has one class alone, as if they were made from it" if alone else ""
    whole = not text and (values % 1 == 0).all()
    if not text and not alone:
        ranges = values.groupby(labels[column.notna()]).agg(["min", "max", "size"]).sort_values("min")
        apart = (ranges["min"].iloc[1:].to_numpy() > ranges["max"].iloc[:-1].to_numpy()).all()
        if apart and len(ranges) > 1 and ranges["size"].min() >= 5:
            telling = "warning, columns whose values alone tell the classes apart, as if they were made from them"
    ordered = values.is_monotonic_increasing or values.is_monotonic_decreasing
    if not telling and not text and n_different == n > 19 and ordered:
        telling = "warning, columns that rise or fall from row to row, which may tell the class"
    if not (whole or text):
        return telling
    named = _is_named_like_a_unit(name)
    if whole and n == len(column) > 1 and (np.diff(values) == np.diff(values.index)).all():
        return "left out, columns that number the rows"  # in a file that is sorted by class it tells the class
    if named and n_different > 0.9 * n:
        return "left out, columns that name or number the rows: {}; rename one to keep it"
    if named and n_different >= max(10, n / 50):
        return (
            "left out, with a warning: {} looks like a group, whose rows may lie on both sides of a division; keep "
            "them together with group= (--group), or rename the column to keep it"
        )
    if text and n_different > max(20, MANY_TEXTS * n):
        return "left out, columns whose text is another one in most rows"
    if text and n_different > 20 and n <= 10 * n_different:
        return "warning, columns that may name groups of rows: {}; to keep a group together use group= (--group)"
    if whole and values.abs().max() > 2**53:
        return "warning, columns of numbers so long that their last digits are lost, which may name rows"
    if whole and n_different == n > 9 and values.max() - values.min() == n - 1:
        return "warning, columns that number the rows in another order, which may tell the class"
    days = values.drop_duplicates() if whole and n_different > 4 and values.between(18000101, 21001231).all() else []
    if len(days) and pd.to_datetime(days.astype(int).astype(str), format="%Y%m%d", errors="coerce").notna().all():
        return "warning, columns of numbers that may be dates: {}; write YYYY-MM-DD to have days"
    return telling or ("warning, columns without a name" if name.startswith("Unnamed: ") else "")


def _is_named_like_a_unit(name: str) -> bool:
    """Tell whether a name is that of an identifier ("PatientID", "customer_no", "Unnamed: 0") and of nothing more."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![^\W\d_A-Z])|[A-Z]?[^\W\d_A-Z]+", name)}
    beginnings = {re.sub("(id|nr|nummer)$", "", word) for word in words} - words
    return bool(words) and (words <= UNIT_WORDS or not words.isdisjoint(ID_WORDS) or bool(beginnings & UNIT_WORDS))


# ---------------------------------------------------------------- groups


def _groups(features: pd.DataFrame, labels: np.ndarray, named: pd.Series | None) -> tuple[np.ndarray | None, list[str]]:
    """Return the group of each row, None where each stands alone, and notes; `named` has the user's groups."""
    values = pd.util.hash_pandas_object(features, index=False).to_numpy()
    counts = np.unique(values, return_counts=True)[1]
    n, n_different = len(values), len(counts)
    copies, notes, divisions = n - n_different, [], []
    if copies:
        # Many equal rows are copies if a column tells rows apart, and far fewer would be equal by chance.
        shares = [features[name].value_counts(normalize=True, dropna=False).to_numpy() for name in features]
        fine = max(map(len, shares)) >= max(20, n_different / 2)
        by_chance = np.prod([(share**2).sum() for share in shares])
        together = copies <= COPIES * n or (fine and ((counts / n) ** 2).sum() > 10 * by_chance)
        note = f"{copies} rows repeat another one"
        torn = len(pd.DataFrame({"values": values, "labels": labels}).drop_duplicates()) - n_different
        note += f", {torn} of them with another label" if torn else ""
        few = "columns have so few values that these are no copies, and rows are divided one by one"
        notes.append(f"{note}; {'copies stay together wherever rows are divided' if together else few}")
        divisions += [values] * bool(together)
    if named is not None:
        absent = named.isna()
        ids = named.where(~absent, [f"\0{row}" for row in range(n)])
        divisions.append(ids.to_numpy(str))
        alone = f"; {absent.sum()} rows without one stand alone" if absent.any() else ""
        notes.append(f"group: the column {named.name!r}, {ids.nunique()} groups that stay whole{alone}")
    return (joined_groups(*divisions) if divisions else None), notes
