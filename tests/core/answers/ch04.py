"""Answers to the exercises of chapter 4."""


def weaker(p, k):
    return p / (p + k * (1 - p))


RIGHT = {"ex-04-a": weaker, "ex-04-b": "the higher orders of the penalty help"}
WRONG = {
    "ex-04-a": [(lambda p, k: p / k, "at p = 0.1, k = 4 the variance of the noise is off by -8 %")],
    "ex-04-b": [("the random walk of the gradient helps", "not this one"), ("nothing follows", "not this one")],
}
BAD = {"ex-04-a": [("takes a function weaker(p, k)", 3)], "ex-04-b": [("must be one of", "higher orders")]}
