"""Means with intervals, paired differences, fronts: the statistics that chapters and claims share."""

import math
from collections.abc import Iterable

import pandas as pd
from scipy import stats


def interval(values: pd.Series) -> tuple[float, float, float, int]:
    """Mean with its 95 % Student-t interval: (mean, low, high, n). One value has no interval, none has no mean: nan."""
    if not len(values):
        return float("nan"), float("nan"), float("nan"), 0
    row = summarise(pd.DataFrame({"all": 0, "value": values}), ["all"], "value").iloc[0]
    return float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"])


def paired_difference(rows: pd.DataFrame, value: str, a: float, b: float) -> tuple[float, float, float, int]:
    """Mean over seeds of ``value`` at q = a minus at q = b, with its 95 % interval: (mean, low, high, n)."""
    if not len(rows) or not {a, b} <= set(rows["q"]):
        return float("nan"), float("nan"), float("nan"), 0
    table = rows.pivot_table(index="seed", columns="q", values=value)
    return interval((table[a] - table[b]).dropna())


def points(gap: tuple[float, float, float, int]) -> str:
    """A difference and its interval, in words."""
    mean, low, high, _ = gap
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def advantage(rows: pd.DataFrame, method: str, other: str, amounts: Iterable[float]) -> tuple[float, float, float, int]:
    """Accuracy of ``method`` minus that of ``other``, in points, averaged over ``amounts``: the mean over seeds, its
    95 % interval (Student's t, paired by seed), and the number of seeds: (mean, low, high, n).

    Args:
        rows: of one curve, one setting a method, as :func:`at_best` gives.
    """
    some = rows[rows["amount"].isin(list(amounts))]
    table = some.pivot_table(index="seed", columns="method", values="accuracy")
    if not {method, other} <= set(table.columns):
        return float("nan"), float("nan"), float("nan"), 0
    gap = pd.DataFrame({"all": 0, "gap": (table[method] - table[other]).dropna()})
    row = summarise(gap, ["all"], "gap").iloc[0]
    return float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"])


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


def summarise(rows: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean and 95 % Student-t interval of ``value`` in each group: columns ``by``, mean, low, high, n.

    A group of one has no interval: low and high are nan.
    """
    groups = rows.groupby(by, sort=True, dropna=False)[value]
    table = groups.agg(["mean", "sem", "count"]).rename(columns={"count": "n"}).reset_index()
    half = stats.t.ppf(0.975, (table["n"] - 1).clip(lower=1)) * table["sem"]
    table["low"], table["high"] = table["mean"] - half, table["mean"] + half
    return table.drop(columns="sem")
