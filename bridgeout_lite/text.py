"""Text as numbers: vocabularies of words or characters, and a corpus as tokens on a device.

Words are separated by white space, and every line ends with ``<eos>``, as is usual for Penn Treebank and WikiText;
perplexities count these line ends. Other text, where punctuation sticks to its word, is better read by characters.

Example:
    >>> corpus = Corpus("mine", "a b a\\nb a b\\n", "a c\\n", "b\\n", checksum="", embedded=False)
    >>> tokens = tokenize(corpus)
    >>> tokens.vocabulary.symbols, tokens.valid, streams(tokens.train, 2).shape
    (('<unk>', 'a', 'b', '<eos>'), tensor([1, 0, 3]), torch.Size([4, 2]))
    >>> len(build_vocabulary("abab", "char")), len(load_text("python-manual").train) > 100_000
    (3, True)
"""

import dataclasses
import hashlib
import os
import sys
from collections import Counter
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from .checks import check_choice, check_whole
from .data import DataError, data_folder, explained

TEXT_SETS = ("auto", "ptb", "wikitext-2", "tinyshakespeare", "python-manual")
TITLES = {
    "ptb": "Penn Treebank",
    "wikitext-2": "WikiText-2",
    "tinyshakespeare": "tiny Shakespeare",
    "python-manual": "the Python manual",
}
"""What a reader calls the texts."""

_TEXT_FILES = {  # name: (file, md5) for train, valid, test; a single file is split 90 / 5 / 5 in its order
    "ptb": (
        ("ptb/ptb.train.txt", "f26c4b92c5fdc7b3f8c7cdcb991d8420"),
        ("ptb/ptb.valid.txt", "aa0affc06ff7c36e977d7cd49e3839bf"),
        ("ptb/ptb.test.txt", "8b80168b89c18661a38ef683c0dc3721"),
    ),
    "wikitext-2": (  # the articles of the training file are in another order than in the original release
        ("wikitext-2/wiki.train.reordered.tokens", "c311e632ddd73dad465aab3237e77095"),
        ("wikitext-2/wiki.valid.tokens", "d756d22ab2310e7e60c094bea5c5a8eb"),
        ("wikitext-2/wiki.test.tokens", "781c9418ab9414bd09e4aad825aae752"),
    ),
    "tinyshakespeare": (("tinyshakespeare/input.txt", "6fb458f1232090904fb40fe944165e91"),),
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text set: ``name``, the three parts as str, and ``checksum`` (16 hex digits over them)."""

    name: str
    train: str
    valid: str
    test: str
    checksum: str
    embedded: bool

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} training, {len(self.valid)} validation, {len(self.test)} test"
        return f"{self.name}: {sizes} characters"


def load_text(
    name: str | Path = "auto", root: str | os.PathLike[str] | None = None, *, download: bool = True
) -> Corpus:
    """Load a text set.

    Args:
        name: "ptb", "wikitext-2", "tinyshakespeare" (read from ``root``; they are not downloaded), "python-manual"
            (the language reference that ships inside CPython) or "auto": the first of them that is there. Or a
            ``Path``: a text file of your own, in UTF-8, whose last tenth is kept for validation and test.
        root: see :func:`load_images`.
        download: accepted for symmetry with :func:`load_images`; no text set has a verified address yet.

    Raises:
        ValueError: an unknown name.
        DataError: the files are missing or damaged; your own file is empty or not UTF-8.
    """
    if isinstance(name, Path):
        texts, chosen = [_read(name)], name.name
    else:
        check_choice(name, TEXT_SETS, "name")
        folder, chosen = data_folder(root), name
        if name == "auto":
            there = [n for n, files in _TEXT_FILES.items() if all((folder / f).exists() for f, _ in files)]
            chosen = there[0] if there else "python-manual"
            if not there:
                print("No text set is at hand. Using the Python reference manual instead.", file=sys.stderr)
        if chosen == "python-manual":
            from pydoc_data.topics import topics

            texts = ["\n\n".join(topics[key].strip() for key in sorted(topics))]
        else:
            texts = [_read(folder / file, md5) for file, md5 in _TEXT_FILES[chosen]]
    if len(texts) == 1:
        a, b = int(len(texts[0]) * 0.90), int(len(texts[0]) * 0.95)
        texts = [texts[0][:a], texts[0][a:b], texts[0][b:]]
    checksum = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    train, valid, test = texts
    embedded = chosen == "python-manual" and not isinstance(name, Path)
    return Corpus(chosen, train, valid, test, checksum, embedded)


def _read(path: Path, md5: str | None = None) -> str:
    if not path.exists():
        raise DataError(f"{path} is missing: put it there, or use another text set")
    with explained(path.parent):
        content = path.read_bytes()
    if md5 is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} is damaged (wrong md5, {len(content):,} bytes): replace it")
    if not content.strip():
        raise DataError(f"{path} is empty: name a file with text in it")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start} cannot be read): save it as UTF-8, or name another file"
        ) from error


LEVELS = ("word", "char")
END = "<eos>"
UNKNOWN = {"word": "<unk>", "char": "\N{REPLACEMENT CHARACTER}"}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols that a model knows: ``symbols[k]`` is what token k stands for, and the first one stands for all that
    are unknown. ``level`` is "word" or "char". Made by :func:`build_vocabulary`."""

    symbols: tuple[str, ...]
    level: str

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    def encode(self, text: str | list[str]) -> Tensor:
        """Text, or its symbols, to tokens (n,), int64; unknown symbols become token 0."""
        symbols = split(text, self.level) if isinstance(text, str) else text
        return torch.tensor([self._numbers.get(symbol, 0) for symbol in symbols], device="cpu", dtype=torch.long)

    def decode(self, tokens: Tensor) -> str:
        """Tokens (n,) to text. Words come back with single spaces between them."""
        symbols = [self.symbols[k] for k in tokens.tolist()]
        if self.level == "char":
            return "".join(symbols)
        lines = " ".join(symbols).split(END)
        return "\n".join(line.strip() for line in lines)

    def __repr__(self) -> str:
        return f"Vocabulary of {len(self)} {self.level}s"


def split(text: str, level: str) -> list[str]:
    """The symbols of a text: its characters, or its words with ``<eos>`` at the end of each line."""
    check_choice(level, LEVELS, "level")
    if level == "char":
        return list(text)
    return list(chain.from_iterable((*line.split(), END) for line in text.splitlines()))


def build_vocabulary(text: str | list[str], level: str = "word", *, size: int | None = None) -> Vocabulary:
    """The vocabulary of a training text.

    Args:
        text: training text only, or its symbols: a model does not know what stands in the other parts alone.
        level: "word" or "char".
        size: keep at most this many symbols, the unknown one and the most frequent others (default: all).

    Raises:
        ValueError: the text is empty or has only one symbol, or ``size`` is below 3: there is nothing to predict.
    """
    counts = Counter(split(text, level) if isinstance(text, str) else text)
    if not counts:
        raise ValueError("the training text is empty: give a text with at least two different symbols")
    if len(counts) < 2:
        raise ValueError(
            f"the training text has only one {level} ({next(iter(counts))!r}), so there is nothing to predict: "
            "give a text with at least two"
        )
    if size is not None:
        check_whole(size, "size", 3)
    unknown = UNKNOWN[level]
    del counts[unknown]
    kept = [symbol for symbol, _ in counts.most_common(None if size is None else size - 1)]
    return Vocabulary((unknown, *kept), level)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A corpus as tokens.

    Attributes:
        name: the corpus.
        vocabulary: the symbols of the training part.
        train, valid, test: int64 (n,), on one device.
        checksum: 16 hex digits over the vocabulary and the three parts.
    """

    name: str
    vocabulary: Vocabulary
    train: Tensor
    valid: Tensor
    test: Tensor
    checksum: str

    def to(self, device: str | torch.device) -> "Tokens":
        """The same tokens on another device."""
        return dataclasses.replace(self, **{k: getattr(self, k).to(device) for k in ("train", "valid", "test")})

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} training, {len(self.valid)} validation, {len(self.test)} test"
        return f"{self.name}: {sizes} tokens, {self.vocabulary!r}"


def tokenize(
    corpus: Corpus,
    level: str = "word",
    *,
    vocabulary: int | None = None,
    train: int | None = None,
    valid: int | None = None,
    test: int | None = None,
) -> Tokens:
    """A corpus as tokens, with a vocabulary from the training text that is used.

    Args:
        corpus: from :func:`bridgeout_lite.load_text`.
        level: "word" or "char".
        vocabulary: keep at most this many symbols; see :func:`build_vocabulary`.
        train, valid, test: use at most this many tokens, the first ones (default: all).

    Raises:
        ValueError: a part is empty, the training text has one symbol only, or a size does not fit.
    """
    symbols = {}
    for part, wanted in (("train", train), ("valid", valid), ("test", test)):
        symbols[part] = split(getattr(corpus, part), level)
        if not symbols[part]:
            raise ValueError(f"the {part} part of {corpus.name} is empty: give a text in which every part has symbols")
        if wanted is not None:
            most = check_whole(wanted, f"{corpus.name}: {part}", 2, len(symbols[part]))
            symbols[part] = symbols[part][:most]
    known = build_vocabulary(symbols["train"], level, size=vocabulary)
    parts = {part: known.encode(found) for part, found in symbols.items()}
    digest = hashlib.sha256("\0".join(known.symbols).encode())
    for tokens in parts.values():
        digest.update(tokens.numpy().data)
    return Tokens(corpus.name, known, **parts, checksum=digest.hexdigest()[:16])


def streams(tokens: Tensor, count: int) -> Tensor:
    """Cut tokens (n,) into ``count`` consecutive stretches to be read side by side: (n // count, count), time first.
    A remainder of fewer than ``count`` tokens at the end is dropped."""
    rows = len(tokens) // count
    return tokens[: rows * count].view(count, rows).t().contiguous()
