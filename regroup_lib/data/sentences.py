"""Text on disk made into sentences: files of ``sentence@label`` lines, and the prose that scikit-learn ships.

Sentences are NumPy arrays of str (dtype ``U``), never Python objects: nothing here needs pickle.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from regroup_lib.data.dataset import SPLITS, DataError, Dataset, Split, some_of, split_by_group
from regroup_lib.data.ham10000 import _refuse_to_replace, _unpack
from regroup_lib.data.sources import DESCRIPTION_NAMES, SOURCES, Source
from regroup_lib.files import digest_arrays
from regroup_lib.progress import progress_bar


@dataclass(frozen=True)
class Sentences:
    """Sentences with their labels and where they stand.

    Attributes
    ----------
    texts, labels : ndarray of str [n]
    lines : ndarray of int64 [n]
        Number of the line in the file, from 1.
    """

    texts: np.ndarray
    labels: np.ndarray
    lines: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> Sentences:
        """Return the rows given by index or mask."""
        return Sentences(self.texts[rows], self.labels[rows], self.lines[rows])


def read_labelled_lines(path: str | Path, label_names: Sequence[str], *, encoding: str = "latin-1") -> Sentences:
    """Read a file of ``sentence@label`` lines, Financial PhraseBank's format (Malo et al. 2014).

    A sentence may hold an ``@``: the last one of the line counts. White space around sentence and label is dropped.

    Parameters
    ----------
    path : str or Path
    label_names : sequence of str
        The labels that there are.
    encoding : str
        The publisher's files are Latin-1.

    Raises
    ------
    ValueError
        If a line has no sentence or none of the labels; the message counts these lines and names the first by number.
        ``Sentences_AllAgree.txt`` as published has one: its line 38 is ``1``.
    """
    # Not splitlines: Latin-1 has a character, U+0085, that it takes for the end of a line.
    lines = Path(path).read_bytes().decode(encoding).split("\n")
    if lines[-1] == "":
        lines.pop()
    parts = [line.rpartition("@") for line in lines]
    texts, labels = ([part[side].strip() for part in parts] for side in (0, 2))
    bad = [row for row, text in enumerate(texts) if not text or labels[row] not in label_names]
    if bad:
        shown = "; ".join(f"line {row + 1}: {_shortened(lines[row])!r}" for row in bad[:3])
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        found = f"malformed lines: {len(bad)} of {len(lines)} ({shown}{more})"
        raise ValueError(f"{path}: {found}, expected sentence@label with one of {', '.join(label_names)}")
    return Sentences(np.array(texts, np.str_), np.array(labels, np.str_), np.arange(1, len(lines) + 1))


def _shortened(line: str, length: int = 40) -> str:
    return line if len(line) <= length else f"...{line[-length:]}"


def without_repeats(sentences: Sentences) -> tuple[Sentences, tuple[str, ...]]:
    """Drop what cannot be split into training and test: repeated lines, and sentences with two labels.

    Of a sentence that stands there twice with one label, the first line is kept. A sentence with two labels has
    no true one: all its lines go.

    Returns
    -------
    kept : Sentences
        In the order of the file.
    notes : tuple of str
        What was dropped and how much of it, one text a reason.
    """
    _, first, member = np.unique(sentences.texts, return_index=True, return_inverse=True)
    torn = np.zeros(len(first), bool)
    torn[member[sentences.labels != sentences.labels[first[member]]]] = True
    is_first = np.arange(len(sentences)) == first[member]
    repeated = int((~is_first & ~torn[member]).sum())
    notes = []
    if repeated:
        notes.append(f"repeated lines left out: {repeated}")
    if torn.any():
        notes.append(f"sentences with two labels left out: {torn.sum()} ({torn[member].sum()} lines)")
    return sentences.take(is_first & ~torn[member]), tuple(notes)


def sentence_digest(text: str) -> str:
    """Return sixteen hexadecimal digits that stand for a sentence where the sentence itself may not be copied."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def word_form(text: str) -> str:
    """Return letters and digits in lower case, one space between words: equal for copies that differ in nothing else.

    Examples
    --------
    >>> word_form("Net  sales (EUR 3.1 mn) rose .")
    'net sales eur 3 1 mn rose'
    """
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def read_descriptions(names: Iterable[str] = DESCRIPTION_NAMES) -> Sentences:
    """Return the sentences of scikit-learn's descriptions of data sets, labelled by the set that they describe.

    Some hundred sentences of real prose which need neither network nor licence: enough to see a text classifier
    learn. Other versions of scikit-learn have other sentences. Tables, code and rules are left out, and so are
    sentences of fewer than four words and those that stand in two descriptions. `Sentences.lines` counts the
    sentences of a description.
    """
    rows = []
    for name in names:
        text = files("sklearn.datasets.descr").joinpath(f"{name}.rst").read_text(encoding="utf-8")
        rows += [(sentence, name, number) for number, sentence in enumerate(_prose(text), start=1)]
    texts, labels, lines = zip(*rows, strict=True)
    return without_repeats(Sentences(np.array(texts), np.array(labels), np.array(lines)))[0]


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


@lru_cache(maxsize=1)
def _descriptions() -> Dataset:
    """Return the sentences of scikit-learn's descriptions with a fixed 70/30 test split, like the digits."""
    from sklearn.model_selection import train_test_split

    sentences = read_descriptions()
    labels = np.array([DESCRIPTION_NAMES.index(name) for name in sentences.labels], np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.3, random_state=0, stratify=labels)
    splits = {name: Split(sentences.texts[rows], labels[rows]) for name, rows in (("train", train), ("test", test))}
    return Dataset("descriptions", splits, DESCRIPTION_NAMES, digest_arrays(sentences.texts, labels))


# ---------------------------------------------------------------- Financial PhraseBank: files of labelled lines

PHRASEBANK_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
PHRASEBANK_FILE = "Sentences_50Agree.txt"  # the sentences on whose label half of the annotators agree, which is all
PHRASEBANK_FILES = r"(Sentences_\w+Agree|License|README)\.txt"
PHRASEBANK_BY_HAND = (
    "or get FinancialPhraseBank-v1.0.zip yourself (ResearchGate; Hugging Face data set takala/financial_phrasebank) "
    f"and put its {PHRASEBANK_FILE} into"
)


def phrasebank_split(texts: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Return the split of Financial PhraseBank, 70/10/20 and stratified by label, from its sentences.

    The file ``phrasebank_split.csv`` beside this module holds the result. The licence, CC BY-NC-SA, does not go with
    this project's: the file names sentences by digests. Copies that differ in case, spaces and punctuation alone
    (three pairs) stay together.

    Parameters
    ----------
    texts, labels : sequence of str [n]
        Different sentences, in any order.

    Returns
    -------
    DataFrame
        The columns ``sentence`` (`sentence_digest`, sorted) and ``split``, a row a sentence.
    """
    groups = [word_form(text) for text in texts]
    split = split_by_group(labels, groups, fractions=PHRASEBANK_FRACTIONS, seed=0)
    table = pd.DataFrame({"sentence": [sentence_digest(text) for text in texts], "split": split})
    return table.sort_values("sentence", ignore_index=True)


def _load_phrasebank(folder: Path, source: Source, mend: str) -> Dataset:
    path = folder / PHRASEBANK_FILE
    if not path.is_file():
        raise DataError(f"{path} does not exist; {mend}, {PHRASEBANK_BY_HAND} {folder}")
    # Times and sizes are part of the key: files that changed are read again.
    state = [(file.stat().st_mtime_ns, file.stat().st_size) for file in (path, source.split_file)]
    return _load_phrasebank_once(path, f"{source!r} {state}", f"move {folder} away and {mend}")


@lru_cache(maxsize=1)
def _load_phrasebank_once(path: Path, state: str, mend: str) -> Dataset:
    return _phrasebank(path, SOURCES["phrasebank"], mend)


def _phrasebank(path: Path, source: Source, mend: str) -> Dataset:
    """Read the file, compare it with what was published, and lay it out in the committed split."""
    names = source.class_names
    try:
        published = read_labelled_lines(path, names)
    except (OSError, ValueError) as error:
        raise DataError(f"{error}; {mend}") from error
    for name, expected in zip(names, source.class_counts["all"], strict=True):
        found = int((published.labels == name).sum())
        if found != expected:
            raise DataError(f"{path}: {found} lines are labelled {name!r}, expected {expected}; {mend}")
    sentences, notes = without_repeats(published)
    split_of = dict(pd.read_csv(source.split_file, dtype=str).itertuples(index=False, name=None))
    split = np.array([split_of.get(sentence_digest(text), "") for text in sentences.texts])
    astray = sentences.lines[split == ""]
    if len(astray):
        found = f"sentences that are not the published ones: {len(astray)} (lines {some_of(str(n) for n in astray)})"
        raise DataError(f"{path}: {found}, expected those of {source.split_file.name}, in Latin-1; {mend}")
    splits, metadata = {}, {}
    for part in SPLITS:
        kept = sentences.take(split == part)
        splits[part] = Split(kept.texts, np.array([names.index(label) for label in kept.labels], np.int64))
        metadata[part] = {"line": kept.lines}
    digest = digest_arrays(*(array for part in splits.values() for array in (part.inputs, part.labels)))
    return Dataset("phrasebank", splits, names, digest, metadata, notes)


def _fetch_phrasebank(name: str, source: Source, target: Path) -> None:
    import pooch

    _refuse_to_replace(name, target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        folder = Path(scratch) / name
        folder.mkdir()
        try:
            downloader = pooch.HTTPDownloader(progressbar=progress_bar(total=1, desc=name, unit="B", unit_scale=True))
            archive = pooch.retrieve(
                source.url, f"sha256:{source.sha256}", fname=f"{name}.zip", path=scratch, downloader=downloader
            )
            _unpack(Path(archive), folder, PHRASEBANK_FILES)
        except (OSError, ValueError) as error:  # no network; a wrong checksum; an archive
            reason = f"{name} could not be fetched from its publisher, {source.url} ({error}); nothing was written"
            mend = f"run `regroup data fetch {name}` again, {PHRASEBANK_BY_HAND} {target}"
            raise DataError(f"{reason}, {mend}") from error
        _phrasebank(folder / PHRASEBANK_FILE, source, "the publisher's files are not what was expected; report it")
        os.replace(folder, target)
