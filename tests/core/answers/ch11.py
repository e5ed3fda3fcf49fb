"""Answers to the exercises of chapter 11."""

import math

from scipy import stats


def half_width(y):
    rest = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    degrees = (y.shape[0] - 1) * (y.shape[1] - 1)
    return stats.t.ppf(0.975, degrees) * math.sqrt(2 * (rest**2).sum() / degrees / y.shape[1])


def with_seeds(y):
    """Counts the shifts of the seeds as noise."""
    return stats.t.ppf(0.975, y.size - len(y)) * math.sqrt(2 * y.var(1, ddof=1).mean() / y.shape[1])


def of_one(y):
    """Of one mean, and not of a difference."""
    return half_width(y) / math.sqrt(2)


RIGHT = {
    "ex-11-a": stats.t.ppf(1 - 0.025 / 60, 2) / stats.t.ppf(1 - 0.025 / 60, 30),
    "ex-11-b": half_width,
}
WRONG = {
    "ex-11-a": [(stats.t.ppf(0.975, 2) / stats.t.ppf(0.975, 30), "too low"), (34.6, "too high, by over 100 %")],
    "ex-11-b": [(with_seeds, "for 4 methods and 3 seeds it is off by +"), (of_one, "is off by -29 %")],
}
BAD = {
    "ex-11-a": [("takes one finite number", "nine")],
    "ex-11-b": [("takes a function half_width(y)", 3), ("ZeroDivisionError", lambda y: 1 / 0)],
}
