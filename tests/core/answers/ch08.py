"""Answers to the exercises of chapter 8."""

RIGHT = {"ex-08-a": 120, "ex-08-b": 501, "ex-08-c": "only better or equal"}
WRONG = {
    "ex-08-a": [(122, "too high, by about 2 %"), (4.79, "too low, by about 100 %")],
    "ex-08-b": [(1e6, "too high, by over 100 %"), (1000, "too high, by about 100 %")],
    "ex-08-c": [("either", "not this one")],
}
BAD = {"ex-08-a": [("takes one finite number", "ten dozen")], "ex-08-c": [("ex-08-c", "better")]}
