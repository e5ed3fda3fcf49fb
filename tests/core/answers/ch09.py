"""Answers to the exercises of chapter 9."""

RIGHT = {"ex-09-a": 2.0, "ex-09-b": 0.08**0.5, "ex-09-c": "0"}
WRONG = {
    "ex-09-a": [(6.0, "too high, by over 100 %"), (0.2, "too low, by about 90 %")],
    "ex-09-b": [(0.02**0.5, "too low, by about 50 %"), (-0.283, "wrong sign")],
    "ex-09-c": [("t", "not this one"), ("sqrt(2 s t)", "not this one")],
}
BAD = {
    "ex-09-a": [("takes one finite number", "a lot")],
    "ex-09-b": [("takes one finite number", float("inf"))],
    "ex-09-c": [("did you mean 'sqrt(2 s t)'?", "sqrt(2st)")],
}
