"""Answers to the exercises of chapter 2."""

import math


def equal(w, D):
    size = abs(w) ** (1 / D)
    return [math.copysign(size, w)] + [size] * (D - 1)


RIGHT = {"ex-02-a": "q = 2 only", "ex-02-b": 0.53979, "ex-02-c": equal}
WRONG = {
    "ex-02-a": [("no q", "not this one"), ("every q", "not this one")],
    "ex-02-b": [(0.586, "too high, by about 9 %"), (0.5, "too low, by about 7 %")],
    "ex-02-c": [
        (lambda w, D: [w] + [1.0] * (D - 1), "at w = 0.7, D = 2 the sum of squares is 6 % above the least"),
        (lambda w, D: [abs(u) for u in equal(w, D)], "at w = -0.2, D = 2 the product of yours is 0.2"),
        (lambda w, D: [w], "it should give 2 numbers, and gives 1"),
    ],
}
BAD = {
    "ex-02-a": [("did you mean 'q = 2 only'?", "q = 2")],
    "ex-02-c": [("takes a function factors(w, D)", 3), ("TypeError", lambda w, D: w)],
}
