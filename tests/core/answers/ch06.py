"""Answers to the exercises of chapter 6."""

RIGHT = {
    "ex-06-a": "the mean of its pre-activation is many sigmas below zero",
    "ex-06-b": 0.0442,
}
WRONG = {
    "ex-06-a": [("the mean of its pre-activation is many sigmas above zero", "not this one")],
    "ex-06-b": [(0.08, "too high, by about 80 %"), (1 / 128, "too low, by about 80 %")],
}
BAD = {
    "ex-06-a": [("many sigmas below zero", "far below zero")],
    "ex-06-b": [("takes one finite number", "small")],
}
