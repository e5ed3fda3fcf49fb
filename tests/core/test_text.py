"""Text: vocabularies know the training text and nothing else; bad text is told in one clear line."""

import dataclasses

import pytest
import torch

import bridgeout_lite as bl
from bridgeout_lite.data import DataError
from bridgeout_lite.text import Corpus, build_vocabulary, load_text, split, streams, tokenize

CORPUS = Corpus("verse", "a b\nb c c c", "a d\n", "e e\n", "0" * 16, embedded=True)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 250
    return message


def test_words_and_line_ends():
    assert split("a b\n\n c", "word") == ["a", "b", "<eos>", "<eos>", "c", "<eos>"]
    assert split("a b\n", "char") == ["a", " ", "b", "\n"]


@pytest.mark.parametrize("level", ["word", "char"])
def test_training_text_is_spelt_back(level):
    vocabulary = build_vocabulary(CORPUS.train, level)
    assert vocabulary.decode(vocabulary.encode(CORPUS.train)).strip() == CORPUS.train
    assert len(vocabulary) == len(set(split(CORPUS.train, level))) + 1 and str(len(vocabulary)) in repr(vocabulary)


def test_a_vocabulary_comes_from_the_training_text_alone():
    tokens = tokenize(CORPUS)
    assert set(tokens.vocabulary.symbols) == {"<unk>", "a", "b", "c", "<eos>"}
    end = tokens.vocabulary.symbols.index("<eos>")
    assert tokens.valid.tolist() == [tokens.vocabulary.symbols.index("a"), 0, end]
    assert tokens.test.tolist() == [0, 0, end]
    assert set(tokenize(CORPUS, train=2).vocabulary.symbols) == {"<unk>", "a", "b"}, "of the tokens that are used"


def test_the_most_frequent_symbols_are_kept():
    vocabulary = build_vocabulary("a b b c c c <unk> <unk> <unk> <unk>", size=3)
    assert vocabulary.symbols == ("<unk>", "c", "b")
    assert vocabulary.encode("c a <unk>").tolist() == [1, 0, 0, 0]


def test_sizes_and_checksum():
    tokens = tokenize(CORPUS, "char", train=5, valid=2, test=3)
    assert [len(part) for part in (tokens.train, tokens.valid, tokens.test)] == [5, 2, 3]
    assert tokens.checksum != tokenize(CORPUS, "char", train=6, valid=2, test=3).checksum
    other = dataclasses.replace(CORPUS, train=CORPUS.train.replace("c", "z"))
    assert tokenize(other).checksum != tokenize(CORPUS).checksum, "other symbols with the same numbers"
    assert "5 training" in repr(tokens) and tokens.to("cpu").train is tokens.train


def test_streams_are_consecutive_stretches():
    cut = streams(torch.arange(11), 3)
    assert cut.t().tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]] and cut.is_contiguous()


@pytest.mark.parametrize("text", ["", "   "])
def test_empty_text(text):
    level = "word"
    with pytest.raises(ValueError) as error:
        build_vocabulary(text.strip(), level)
    assert "is empty" in one_line(error)
    with pytest.raises(ValueError) as error:
        tokenize(dataclasses.replace(CORPUS, valid=""), level)
    assert "valid part of verse is empty" in one_line(error)


def test_one_word():
    with pytest.raises(ValueError) as error:
        build_vocabulary("aaaa", "char")
    assert "only one char ('a')" in one_line(error) and "at least two" in one_line(error)
    with pytest.raises(ValueError, match="only one word"):
        build_vocabulary("\n\n\n")


@pytest.mark.parametrize("sizes", [{"train": 1}, {"train": True}, {"valid": 99}, {"test": 2.5}, {"vocabulary": 2}])
def test_sizes_that_do_not_fit(sizes):
    with pytest.raises(ValueError) as error:
        tokenize(CORPUS, **sizes)
    assert ("size" if "vocabulary" in sizes else next(iter(sizes))) in one_line(error)


def test_unknown_level():
    with pytest.raises(ValueError, match="level must be one of 'word', 'char'"):
        tokenize(CORPUS, "syllable")


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("grüße an alle\n".encode() * 20)
    corpus = load_text(path)
    assert corpus.name == "mine.txt" and not corpus.embedded
    assert corpus.train + corpus.valid + corpus.test == path.read_text(encoding="utf-8")


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("grüße".encode("latin-1"))
    with pytest.raises(DataError) as error:
        load_text(path)
    assert "not UTF-8 text (byte 2 " in one_line(error) and "save it as UTF-8" in one_line(error)
    path.write_bytes(b" \n")
    with pytest.raises(DataError, match="is empty"):
        load_text(path)
    with pytest.raises(DataError, match=r"none\.txt is missing"):
        load_text(tmp_path / "none.txt")


def test_penn_treebank_has_its_ten_thousand_words(real_data):
    if not (real_data / "ptb").is_dir():
        pytest.skip("no Penn Treebank in $BRIDGEOUT_DATA")
    tokens = tokenize(bl.load_text("ptb", real_data))
    assert len(tokens.vocabulary) == 10_000
    assert [len(part) for part in (tokens.train, tokens.valid, tokens.test)] == [929_589, 73_760, 82_430]
