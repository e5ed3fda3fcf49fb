"""Exercises of chapter 2."""

import numpy as np

from .. import theory
from . import Choice, Number


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


b = Choice(("every q", "q = 1 only", "q = 2 only", "every q > 1", "no q"), "89f6caee155c")
c = Number(_last_weight, within=0.005)
