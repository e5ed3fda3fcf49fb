"""Answers to the exercises of chapter 3."""

RIGHT = {"ex-03-a": 0.7091, "ex-03-b": "the share of units that are never on", "ex-03-c": 0.1354}
WRONG = {
    "ex-03-a": [(0.646, "too low, by about 9 %"), (0.875, "too high, by about 20 %")],
    "ex-03-b": [("the rms of the layer", "not this one"), ("the zero fraction image by image", "not this one")],
    "ex-03-c": [(0.2, "too high, by about 50 %"), (0.157, "too high, by about 20 %")],
}
BAD = {"ex-03-b": [("ex-03-b", "zeros")], "ex-03-c": [("takes one finite number", "small")]}
