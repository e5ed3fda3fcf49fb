"""Exercises of chapter 4."""

from collections.abc import Callable
from typing import Any

from . import Choice, Property


def _weaker(weaker: Callable[[float, int], Any]) -> str:
    """weaker(p, k) has 1/k of the odds of p."""
    for p in (0.1, 0.5, 0.9):
        for k in (1, 4, 64):
            given = weaker(p, k)
            if given is None or given is ...:
                raise NotImplementedError
            off = float(given) / (1 - float(given)) * k * (1 - p) / p - 1
            if abs(off) > 1e-6:
                return f"not yet: at p = {p}, k = {k} the variance of the noise is off by {100 * off:+.1g} %"
    return ""


a = Property(_weaker, "a function weaker(p, k) of a drop probability and a number of draws")
b = Choice(
    (
        "the random walk of the gradient helps",
        "the higher orders of the penalty help",
        "the second-order penalty is all there is",
        "nothing follows",
    ),
    "1bf9b5ba9142",
)
