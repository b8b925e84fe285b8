"""Text on disk made into sentences: files of ``sentence@label`` lines, and the prose that scikit-learn ships.

Sentences are NumPy arrays of str (dtype ``U``), never Python objects: nothing here needs pickle.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from regroup_lib.data.dataset import (
    FRACTIONS,
    Check,
    DataError,
    Dataset,
    Split,
    dataset_of,
    kept_until_changed,
    rows_of,
    some_of,
    split_by_group,
)
from regroup_lib.data.sources import DESCRIPTION_NAMES, Source


def read_labelled_lines(path: str | Path, label_names: Sequence[str]) -> pd.DataFrame:
    """Read a file of ``sentence@label`` lines, Financial PhraseBank's format (Malo et al. 2014).

    Return a frame of sentences: columns ``texts``, ``labels``, and ``lines``, the number of each one's line from 1.
    The publisher's files are Latin-1. A sentence may hold an ``@``: the last one of the line counts. Lines without a
    sentence or one of the labels are a ValueError, which counts them and names the first by number; the published
    ``Sentences_AllAgree.txt`` has one: its line 38 is ``1``.
    """
    # Not splitlines: Latin-1 has a character, U+0085, that it takes for the end of a line.
    lines = Path(path).read_bytes().decode("latin-1").split("\n")
    if lines[-1] == "":
        lines.pop()
    parts = [line.rpartition("@") for line in lines]
    texts, labels = ([part[side].strip() for part in parts] for side in (0, 2))
    bad = [row for row, text in enumerate(texts) if not text or labels[row] not in label_names]
    if bad:
        ends = [line if len(line) <= 40 else f"...{line[-40:]}" for line in lines]
        shown = "; ".join(f"line {row + 1}: {ends[row]!r}" for row in bad[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        found = f"malformed lines: {len(bad)} of {len(lines)} ({shown}{more})"
        raise ValueError(f"{path}: {found}, expected sentence@label with one of {', '.join(label_names)}")
    return pd.DataFrame({"texts": texts, "labels": labels, "lines": np.arange(1, len(lines) + 1)})


def without_repeats(sentences: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Drop what cannot be split into training and test, and return one note per reason.

    Of a sentence that stands there twice with one label, the first line is kept. A sentence with two labels has no true
    one: all its lines go.
    """
    torn = sentences.groupby("texts")["labels"].transform("nunique") > 1
    repeated = sentences.duplicated("texts") & ~torn
    found = {
        f"repeated lines left out: {repeated.sum()}": repeated,
        f"sentences with two labels left out: {sentences['texts'][torn].nunique()} ({torn.sum()} lines)": torn,
    }
    kept = sentences[~(torn | repeated)].reset_index(drop=True)
    return kept, tuple(note for note, rows in found.items() if rows.any())


def sentence_digest(text: str) -> str:
    """Return sixteen hexadecimal digits that identify a sentence whose license forbids copies."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def word_form(text: str) -> str:
    """Return letters and digits in lower case, one space between words, so that copies compare equal."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def read_descriptions() -> pd.DataFrame:
    """Return the sentences of scikit-learn's descriptions of data sets, labeled by the set that they describe.

    These are several hundred sentences of real prose that need neither network nor license, enough for a text
    classifier to learn from. Other versions of scikit-learn have other sentences. Tables, code, rules, sentences of
    fewer than four words and those in two descriptions are left out. ``lines`` counts the sentences of a description.
    """
    rows = []
    for name in DESCRIPTION_NAMES:
        text = files("sklearn.datasets.descr").joinpath(f"{name}.rst").read_text(encoding="utf-8")
        rows += [(sentence, name, number) for number, sentence in enumerate(_prose(text), start=1)]
    return without_repeats(pd.DataFrame(rows, columns=["texts", "labels", "lines"]))[0]


# Directives, options, code and rules of reStructuredText.
_NO_PROSE = re.compile(r"(\.\. |:\w+:|>>>|\.\.\.|[|=~*+\-. ]{4,}$)")


def _prose(text: str) -> list[str]:
    """Return the sentences of a text in reStructuredText."""
    sentences = []
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.splitlines()]
        prose = " ".join(line for line in lines if line and not _NO_PROSE.match(line))
        sentences += re.split(r"(?<=[.!?:])\s+(?=[A-Z\-*(])", prose)
    return [sentence for sentence in sentences if len(re.findall(r"[A-Za-z]{2,}", sentence)) >= 4]


# ---------------------------------------------------------------- Financial PhraseBank

PHRASEBANK_FILE = "Sentences_50Agree.txt"  # at least half of the annotators agree on each label: all sentences


def phrasebank_split(texts: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Return the split of Financial PhraseBank, 70/10/20 and stratified by label, from its different sentences.

    The file ``phrasebank_split.csv`` beside this module holds the result. The sentences'
    license (CC BY-NC-SA) differs from this project's, so its column ``sentence`` has digests (`sentence_digest`,
    sorted). Copies that differ only in case, spaces and punctuation (three pairs) stay together.
    """
    split = split_by_group(labels, [word_form(text) for text in texts], fractions=FRACTIONS)
    table = pd.DataFrame({"sentence": [sentence_digest(text) for text in texts], "split": split})
    return table.sort_values("sentence", ignore_index=True)


def by_hand(folder: Path) -> str:
    """Return how to get the set without this library."""
    where = "ResearchGate; Hugging Face data set takala/financial_phrasebank"
    return f"or get FinancialPhraseBank-v1.0.zip yourself ({where}) and put its {PHRASEBANK_FILE} into {folder}"


@kept_until_changed(lambda folder, source, mend: [folder / PHRASEBANK_FILE, source.split_file])
def load_phrasebank(folder: Path, source: Source, mend: str) -> Dataset:
    """Load the set that a folder holds as published, in the committed split."""
    if not (folder / PHRASEBANK_FILE).is_file():
        raise DataError(f"{folder / PHRASEBANK_FILE} does not exist; {mend}, {by_hand(folder)}")
    return read_phrasebank(folder, source, f"move {folder} away and {mend}")


def read_phrasebank(folder: Path, source: Source, mend: str) -> Dataset:
    """Read the file, compare it with the published one, and divide it into the committed split."""
    path, names = folder / PHRASEBANK_FILE, source.class_names
    try:
        published = read_labelled_lines(path, names)
    except (OSError, ValueError) as error:
        raise DataError(f"{error}; {mend}") from error
    check = Check(path, mend)
    for name, expected in zip(names, source.class_counts["all"], strict=True):
        found = int((published["labels"] == name).sum())
        check(found == expected, f"{found} lines are labeled {name!r}", str(expected))
    sentences, notes = without_repeats(published)
    split_of = source.split()
    parts = np.array([split_of.get(sentence_digest(text), "") for text in sentences["texts"]])
    astray = sentences["lines"][parts == ""]
    found = f"sentences that are not the published ones: {len(astray)} (lines {some_of(map(str, astray))})"
    check(len(astray) == 0, found, f"those of {source.split_file.name}, in Latin-1")
    samples = Split(sentences["texts"].to_numpy(str), sentences["labels"].map(names.index).to_numpy(np.int64))
    columns = {"line": sentences["lines"].to_numpy()}
    return dataset_of("phrasebank", samples, rows_of(parts), names, columns=columns, notes=notes)
