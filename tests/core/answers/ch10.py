"""Answers to the exercises of chapter 10."""

from itertools import pairwise


def relative(path):
    return sum(((b - a).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)).mean() for a, b in pairwise(path))


def pixelwise(path):
    return sum(((b - a).norm(dim=1) / a.norm(dim=1)).mean() for a, b in pairwise(path))


RIGHT = {"ex-10-a": "curvature", "ex-10-b": 25, "ex-10-c": relative}
WRONG = {
    "ex-10-a": [("length", "not this one"), ("turning", "not this one")],
    "ex-10-b": [(75, "too high, by over 100 %"), (12.5, "too low, by about 50 %")],
    "ex-10-c": [
        (lambda path: sum((b - a).norm() / a.norm() for a, b in pairwise(path)), "for a path of 2 points it is off by"),
        (pixelwise, "for a path of 2 points it is off by"),
    ],
}
BAD = {
    "ex-10-a": [("did you mean 'curvature'?", "the curvature")],
    "ex-10-b": [("takes one finite number", "a quarter")],
    "ex-10-c": [("takes a function relative(path)", 3)],
}
