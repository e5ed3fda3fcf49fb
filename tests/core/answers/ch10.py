"""Answers to the exercises of chapter 10."""

from itertools import pairwise


def relative(path):
    return sum(((b - a).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)).mean() for a, b in pairwise(path))


def pixelwise(path):
    return sum(((b - a).norm(dim=1) / a.norm(dim=1)).mean() for a, b in pairwise(path))


RIGHT = {"ex-10-a": 25, "ex-10-b": relative}
WRONG = {
    "ex-10-a": [(75, "too high, by over 100 %"), (12.5, "too low, by about 50 %")],
    "ex-10-b": [
        (lambda path: sum((b - a).norm() / a.norm() for a, b in pairwise(path)), "for a path of 2 points it is off by"),
        (pixelwise, "for a path of 2 points it is off by"),
    ],
}
BAD = {
    "ex-10-a": [("takes one finite number", "a quarter")],
    "ex-10-b": [("takes a function relative(path)", 3)],
}
