"""Means with intervals, paired differences, fronts: the statistics that chapters and claims share.

Example:
    >>> rows = pd.DataFrame({"seed": [0, 1, 2] * 2, "q": [1.0] * 3 + [2.0] * 3, "score": [3, 4, 6, 1, 2, 3]})
    >>> points(paired(rows, "score", "q", 1.0, 2.0)), interval(rows["score"]).n
    ('+2.3 [+0.9, +3.8]', 6)
    >>> pooled(rows, "score", "q", 2.0).round(2).to_dict("list")
    {'q': [1.0], 'mean': [2.33], 'low': [0.9], 'high': [3.77], 'n': [3], 'degrees': [2]}
    >>> points(pooled_gap(rows, "score", "q", 1.0, 2.0))
    '+2.3 [+0.9, +3.8]'
    >>> summarise(rows, ["q"], "score")["mean"].round(2).tolist(), pareto_front([1, 2, 3], [5, 4, 6])
    ([4.33, 2.0], [0, 2])
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


class Gap(NamedTuple):
    """A mean with its 95 % Student-t interval over ``n`` seeds: usually a difference, paired by seed.

    One seed has no interval, none has no mean: these are nan. ``f"{gap:+.1f}"`` is "+1.2 [+0.3, +2.1]".
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def above(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low > 0

    @property
    def below(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high < 0

    def __mul__(self, factor: float) -> "Gap":  # type: ignore[override]
        """In another unit, such as percent; with its sign turned for a negative factor."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Gap(self.mean * factor, low, high, self.n)

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


UNKNOWN = Gap(math.nan, math.nan, math.nan, 0)


def interval(values: pd.Series) -> Gap:
    """The mean of ``values``, one per seed, with its interval."""
    if not len(values):
        return UNKNOWN
    row = summarise(pd.DataFrame({"all": 0, "value": values}), ["all"], "value").iloc[0]
    return Gap(float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"]))


def paired(rows: pd.DataFrame, value: str, by: str, a: Any, b: Any) -> Gap:
    """``value`` where ``by`` is a minus ``value`` where it is b, paired by seed; of several rows per seed the mean.

    Args:
        rows: with the columns seed, ``by`` and ``value``.
    """
    if not len(rows) or not {a, b} <= set(rows[by]):
        return UNKNOWN
    table = rows.pivot_table(index="seed", columns=by, values=value)
    return interval((table[a] - table[b]).dropna())


def paired_difference(rows: pd.DataFrame, value: str, a: float, b: float) -> Gap:
    """:func:`paired` by q."""
    return paired(rows, value, "q", a, b)


def advantage(rows: pd.DataFrame, method: str, other: str, amounts: Iterable[float]) -> Gap:
    """Accuracy of ``method`` minus that of ``other``, in points, averaged over ``amounts``, paired by seed.

    Args:
        rows: of one curve and one setting per method, as :func:`bridgeout_lite.studies.curves.at_best` gives.
    """
    return paired(rows[rows["amount"].isin(list(amounts))], "accuracy", "method", method, other)


def points(gap: Gap) -> str:
    """A difference in points with its interval."""
    return f"{gap:+.1f}"


def pareto_front(costs: Iterable[float], scores: Iterable[float]) -> list[int]:
    """The places of the points that no other beats: none is as cheap and as good, and cheaper or better. In the order
    of rising cost; of equal points the first.

    The scores of a front are the best of many: measured with error, they are a little too high.

    Raises:
        ValueError: there is not one score for each cost; one of them is not a finite number.
    """
    points = list(zip(costs, scores, strict=True))
    if not all(math.isfinite(value) for point in points for value in point):
        raise ValueError("costs and scores must be finite numbers: leave out the points that have none")
    front: list[int] = []
    for k in sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1])):
        if not front or points[k][1] > points[front[-1]][1]:
            front.append(k)
    return front


def pooled(rows: pd.DataFrame, value: str, by: str, against: Any) -> pd.DataFrame:
    """Every level of ``by`` minus the level ``against``, all with the residual spread of one additive model (level +
    seed): intervals are shorter and steadier than those of single pairs where there are few seeds.

    Args:
        rows: one row per level and seed, with the columns seed, ``by`` and ``value``; missing pairs are left out.

    Returns:
        One row per other level: ``by``, mean, low, high, n (its seeds), and degrees, those of freedom.

    Raises:
        ValueError: no rows of ``against``, or too few rows to estimate a spread.
    """
    table = rows.groupby(["seed", by])[value].mean().unstack(by)
    if against not in table:
        raise ValueError(f"no rows with {by}={against!r} to compare with; there are {list(table.columns)}")
    seeds, levels = table.shape
    used = table.stack().dropna()
    degrees = len(used) - seeds - levels + 1
    if degrees < 1:
        raise ValueError(f"{len(used)} values are too few to estimate a spread from {levels} levels and {seeds} seeds")
    # least squares of value = level + seed: the residuals' variance is that of one run about both
    design = pd.get_dummies(used.index.to_frame(index=False), columns=["seed", by], dtype=float).to_numpy()
    residuals = used.to_numpy() - design @ np.linalg.lstsq(design, used.to_numpy(), rcond=None)[0]
    variance = float(residuals @ residuals) / degrees
    lines = []
    for level in table.columns.drop(against):
        gap = (table[level] - table[against]).dropna()
        half = stats.t.ppf(0.975, degrees) * math.sqrt(2 * variance / len(gap)) if len(gap) else math.nan
        mean = float(gap.mean()) if len(gap) else math.nan
        lines.append({by: level, "mean": mean, "low": mean - half, "high": mean + half, "n": len(gap)})
    return pd.DataFrame(lines).assign(degrees=degrees)


def pooled_gap(rows: pd.DataFrame, value: str, by: str, a: Any, b: Any) -> Gap:
    """:func:`pooled` for one pair: the level a minus the level b, with the spread of all levels; unknown without rows
    of one of them."""
    if not {a, b} <= set(rows[by]):
        return UNKNOWN
    row = pooled(rows, value, by, b).set_index(by).loc[a]
    return Gap(float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"]))


def summarise(rows: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean and 95 % Student-t interval of ``value`` in each group: columns ``by``, mean, low, high, n.

    A group of one has no interval: low and high are nan.
    """
    groups = rows.groupby(by, sort=True, dropna=False)[value]
    table = groups.agg(["mean", "sem", "count"]).rename(columns={"count": "n"}).reset_index()
    half = stats.t.ppf(0.975, (table["n"] - 1).clip(lower=1)) * table["sem"]
    table["low"], table["high"] = table["mean"] - half, table["mean"] + half
    return table.drop(columns="sem")
