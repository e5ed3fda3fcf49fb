"""Exercises of chapter 2."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import theory
from . import Choice, Number, Property


def _last_weight() -> float:
    """The drop probability at which the lasso's path on the diabetes data loses its last weight, by bisection."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    low, high = 0.0, 0.9
    for _ in range(20):
        p = (low + high) / 2
        weights = theory.bridge_path(x, y, np.array([0.5 * p / (1 - p)]), 1.0)[0]
        low, high = (p, high) if weights.any() else (low, p)
    return high


def _cheapest(factors: Callable[[float, int], Any]) -> str:
    """factors(w, D): D numbers with the product w and the least sum of squares, which is D |w|^(2/D)."""
    for depth in (2, 3, 4):
        for w in (0.7, -0.2, 5.0):
            given = factors(w, depth)
            if given is None or given is ...:
                raise NotImplementedError
            numbers = [float(number) for number in given]
            at = f"not yet: at w = {w}, D = {depth} "
            if len(numbers) != depth:
                return at + f"it should give {depth} numbers, and gives {len(numbers)}"
            if abs(math.prod(numbers) - w) > 1e-6 * abs(w):
                return at + f"the product of yours is {math.prod(numbers):.3g}"
            excess = sum(number**2 for number in numbers) / (depth * abs(w) ** (2 / depth)) - 1
            if excess > 1e-6:
                return at + f"the sum of squares is {100 * excess:.1g} % above the least"
    return ""


a = Choice(("every q", "q = 1 only", "q = 2 only", "every q > 1", "no q"), "a3a1d4c7f33e")
b = Number(_last_weight, within=0.005)
c = Property(_cheapest, "a function factors(w, D) that gives D numbers")
