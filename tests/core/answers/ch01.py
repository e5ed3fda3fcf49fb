"""Answers to the exercises of chapter 1."""

import math

import torch


def growth(a, p):
    return p * torch.exp(-a) + (1 - p) * torch.exp(a * p / (1 - p))


RIGHT = {"ex-01-a": 0.25 / math.expm1(0.25), "ex-01-b": growth}
WRONG = {
    "ex-01-a": [(1.0, "too high, by about 10 %"), (-0.88, "wrong sign"), (torch.tensor(0.5), "too low, by about 40 %")],
    "ex-01-b": [(lambda a, p: 1 + a**2 * p / (1 - p) / 2, "at a = -1.2, p = 0.1 it is off by -4 %")],
}
BAD = {
    "ex-01-a": [("takes one finite number", "a lot"), ("takes one finite number", float("nan"))],
    "ex-01-b": [("takes a function M(a, p)", 3), ("ZeroDivisionError", lambda a, p: 1 / 0)],
}
