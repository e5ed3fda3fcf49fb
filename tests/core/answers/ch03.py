"""Answers to the exercises of chapter 3."""

RIGHT = {"ex-03-b": "q = 2 only", "ex-03-c": 0.53979}
WRONG = {
    "ex-03-b": [("no q", "not this one"), ("every q", "not this one")],
    "ex-03-c": [(0.586, "too high, by about 9 %"), (0.5, "too low, by about 7 %")],
}
BAD = {"ex-03-b": [("did you mean 'q = 2 only'?", "q = 2")]}
