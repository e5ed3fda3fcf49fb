"""Text as numbers: vocabularies of words or characters, and a corpus as tokens on a device.

Words are what white space separates, and every line ends with ``<eos>``, as is the custom for Penn Treebank and
WikiText; perplexities count these line ends. In text that was not prepared so, punctuation sticks to its word: such
text is better read by characters.
"""

import dataclasses
import hashlib
from collections import Counter
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from .data import Corpus
from .noise import check_choice

LEVELS = ("word", "char")
END = "<eos>"
UNKNOWN = {"word": "<unk>", "char": "\N{REPLACEMENT CHARACTER}"}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols that a model knows: ``symbols[k]`` is what token k stands for; the first one stands for all that is
    unknown. ``level`` is "word" or "char". Made by :func:`build_vocabulary`."""

    symbols: tuple[str, ...]
    level: str

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    def encode(self, text: str) -> Tensor:
        """Text to tokens (n,), int64; what is not in the vocabulary becomes token 0."""
        return self._encode(split(text, self.level))

    def _encode(self, symbols: list[str]) -> Tensor:
        return torch.tensor([self._numbers.get(symbol, 0) for symbol in symbols], dtype=torch.long)

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
    """The symbols of a text: its characters, or its words with ``<eos>`` for each line's end."""
    check_choice(level, LEVELS, "level")
    if level == "char":
        return list(text)
    return list(chain.from_iterable((*line.split(), END) for line in text.splitlines()))


def build_vocabulary(text: str, level: str = "word", *, size: int | None = None) -> Vocabulary:
    """The vocabulary of a training text.

    Args:
        text: training text and nothing else: what only the other parts contain is unknown to a model.
        level: "word" or "char".
        size: keep the most frequent symbols only, so many with the unknown one; None keeps all.

    Raises:
        ValueError: the text is empty, or has only one symbol, or ``size`` leaves only one: nothing is left to predict.
    """
    return _vocabulary(split(text, level), level, size)


def _vocabulary(symbols: list[str], level: str, size: int | None) -> Vocabulary:
    counts = Counter(symbols)
    if not counts:
        raise ValueError("the training text is empty: give a text with at least two different symbols")
    if len(counts) < 2:
        raise ValueError(
            f"the training text has only one {level} ({next(iter(counts))!r}), so there is nothing to predict: "
            "give a text with at least two"
        )
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 3):
        raise ValueError(
            f"size must be a whole number >= 3 (the unknown symbol and two others), or None for all; got {size!r}"
        )
    unknown = UNKNOWN[level]
    del counts[unknown]
    kept = [symbol for symbol, _ in counts.most_common(None if size is None else size - 1)]
    return Vocabulary((unknown, *kept), level)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A corpus as tokens.

    Attributes:
        name: of the corpus. train, valid, test: int64 (n,), on one device.
        vocabulary: of the training part.
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
        vocabulary: how many symbols to keep at most; see :func:`build_vocabulary`.
        train, valid, test: use only so many tokens, the first ones; None is all.

    Raises:
        ValueError: a part is empty, the training text has one symbol only, or a size does not fit.
    """
    texts = {}
    for part, wanted in (("train", train), ("valid", valid), ("test", test)):
        symbols = split(getattr(corpus, part), level)
        if not symbols:
            raise ValueError(f"the {part} part of {corpus.name} is empty: give a text in which every part has symbols")
        if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 2):
            raise ValueError(f"{part} must be a whole number of tokens >= 2, or None for all; got {wanted!r}")
        if wanted is not None and wanted > len(symbols):
            raise ValueError(f"{part}={wanted} tokens, but {corpus.name} has {len(symbols)}: ask for at most so many")
        texts[part] = symbols[:wanted]
    known = _vocabulary(texts["train"], level, vocabulary)
    parts = {part: known._encode(symbols) for part, symbols in texts.items()}
    digest = hashlib.sha256("\0".join(known.symbols).encode())
    for tokens in parts.values():
        digest.update(tokens.numpy().data)
    return Tokens(corpus.name, known, **parts, checksum=digest.hexdigest()[:16])


def streams(tokens: Tensor, count: int) -> Tensor:
    """Cut tokens (n,) into ``count`` consecutive stretches that are read side by side: (n // count, count), time first.
    Fewer than ``count`` tokens at the end are left out."""
    rows = len(tokens) // count
    return tokens[: rows * count].view(count, rows).t().contiguous()
