"""Answers to the exercises of chapter 1."""

import math

import torch


def ridge(X, y, p, q):
    strength = p / (1 - p) * X.abs().pow(q).mean(0)
    return torch.linalg.solve(X.T @ X / len(X) + torch.diag(strength), X.T @ y / len(X))


RIGHT = {"ex-01-a": 0.25 / math.expm1(0.25), "ex-01-b": ridge, "ex-01-c": 0.1}
WRONG = {
    "ex-01-a": [(1.0, "too high, by about 10 %"), (-0.88, "wrong sign"), (torch.tensor(0.5), "too low, by about 40 %")],
    "ex-01-b": [
        (lambda X, y, p, q: torch.linalg.lstsq(X, y[:, None]).solution[:, 0], "at p = 0.5, q = 2.0 the expected loss"),
        (lambda X, y, p, q: ridge(X, y, p, 2.0), "at p = 0.3, q = 1.0 the expected loss still has a slope"),
        (lambda X, y, p, q: ridge(X, y, p, q)[:, None], "4 weights for 4 features, and gives shape (4, 1)"),
    ],
    "ex-01-c": [(10.0, "too high, by over 100 %"), (0.01, "too low, by about 90 %")],
}
BAD = {
    "ex-01-a": [("takes one finite number", "a lot"), ("takes one finite number", float("nan"))],
    "ex-01-b": [
        ("takes a function best(X, y, p, q)", lambda X: X),
        ("takes a function best(X, y, p, q)", 3),
        ("ZeroDivisionError", lambda X, y, p, q: 1 / 0),
    ],
}
