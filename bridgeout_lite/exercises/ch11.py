"""Exercises of chapter 11."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..stats import pooled
from . import Number, Property

METHODS, SEEDS, COMPARISONS = 16, 3, 60


def _worth() -> float:
    """Bonferroni's quantile of a single pair over the one of all methods together."""
    single, many = (
        stats.t.ppf(1 - 0.025 / COMPARISONS, degrees) for degrees in (SEEDS - 1, (METHODS - 1) * (SEEDS - 1))
    )
    return float(single / many)


def _half_width(half_width: Callable[[np.ndarray], Any]) -> str:
    """half_width(y) against the package's pooled interval, on tables with strong shifts of methods and seeds."""
    draws = np.random.default_rng(0)
    for methods, seeds in ((4, 3), (16, 3), (5, 6)):
        y = draws.normal(size=(methods, seeds)) + 3 * draws.normal(size=seeds) + 5 * draws.normal(size=(methods, 1))
        given = half_width(y)
        if given is None or given is ...:
            raise NotImplementedError
        rows = pd.DataFrame(y).stack().rename_axis(["method", "seed"]).reset_index(name="value")  # type: ignore[call-overload]
        row = pooled(rows, "value", "method", 0).iloc[0]
        off = float(given) / ((row["high"] - row["low"]) / 2) - 1
        if abs(off) > 1e-6:
            return f"not yet: for {methods} methods and {seeds} seeds it is off by {100 * off:+.0f} %"
    return ""


a = Number(_worth)
b = Property(_half_width, "a function half_width(y) of an array (methods, seeds)")
