"""Exercises that take an answer: ``check("ex-01-b", best)`` says right, or what is wrong with it, and not the solution.

The exercises of a chapter stand in a module of its own, ``ch01``, as ``b`` for ``ex-01-b``: a :class:`Number` that code
computes, a :class:`Choice` of which only a salted digest is kept, or a :class:`Property` that a right answer has.
"""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..checks import as_number, check_choice


@dataclass(frozen=True)
class Number:
    """A number: ``compute()`` gives it, ``within`` is the relative error that still counts as right."""

    compute: Callable[[], float]
    within: float = 0.01

    def judge(self, name: str, answer: Any) -> str:
        """ "" if it is right, else how far off it is."""
        given, truth = as_number(answer), self.compute()
        if given is None or not math.isfinite(given):
            raise ValueError(f"{name} takes one finite number, got {answer!r}")
        off = abs(given - truth) / abs(truth)
        if off <= self.within:
            return ""
        if given * truth < 0:
            return "not yet: it has the wrong sign"
        far = "over 100" if off > 1 else f"about {float(f'{100 * off:.1g}'):g}"
        return f"not yet: too {'high' if given > truth else 'low'}, by {far} %"


@dataclass(frozen=True)
class Choice:
    """One of ``options``; ``digest`` is that of the right one, see :func:`seal`."""

    options: tuple[str, ...]
    digest: str

    def judge(self, name: str, answer: Any) -> str:
        """ "" if it is right, else that it is not."""
        return "" if seal(name, check_choice(answer, self.options, name)) == self.digest else "not this one"


@dataclass(frozen=True)
class Property:
    """A function, or a tensor: ``test(answer)`` returns "" if it does what it should, else where it does not."""

    test: Callable[[Any], str]
    takes: str

    def judge(self, name: str, answer: Any) -> str:
        """ "" if it is right, else what ``test`` says."""
        try:
            return self.test(answer)
        except NotImplementedError:
            return "no answer yet"
        except Exception as error:
            raise ValueError(f"{name} takes {self.takes}; yours ends with {type(error).__name__}: {error}") from error


def seal(name: str, choice: str) -> str:
    """The digest of a choice, salted with the exercise's name."""
    return hashlib.sha256(f"{name}: {choice}".encode()).hexdigest()[:12]


def exercise(name: str) -> Number | Choice | Property:
    """The exercise of this name.

    Raises:
        ValueError: there is none that takes an answer.
    """
    parts = re.fullmatch(r"ex-(\d\d)-([a-z])", name) if isinstance(name, str) else None
    try:
        found = getattr(import_module(f".ch{parts[1]}", __name__), parts[2]) if parts else None
    except (ModuleNotFoundError, AttributeError):
        found = None
    if not isinstance(found, Number | Choice | Property):
        raise ValueError(f"no exercise {name!r} takes an answer: give a name such as 'ex-02-c', as over the exercise")
    return found


def verdict(name: str, answer: Any) -> str:
    """ "right", or in a few words what is wrong with the answer; "no answer yet" to None and ``...``.

    Raises:
        ValueError: there is no such exercise, or it takes another kind of answer.
    """
    asked = exercise(name)
    if answer is None or answer is ...:
        return "no answer yet"
    return asked.judge(name, answer) or "right"
