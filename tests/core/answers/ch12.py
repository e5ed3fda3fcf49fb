"""Answers to the exercises of chapter 12."""

import math

P = 1 / math.e
noise = 0.25 * P * (1 - P) / (1 - 0.5 * (1 - P)) ** 2

RIGHT = {"ex-12-a": 0.75, "ex-12-b": noise / (1 + noise)}
WRONG = {
    "ex-12-a": [(48 ** (-1 / 4) * math.exp(0.2), "too low, by about 40 %"), (0.616, "too low, by about 20 %")],
    "ex-12-b": [(noise, "too high, by about 10 %"), (1 - P, "too high, by over 100 %"), (-0.11, "wrong sign")],
}
BAD = {"ex-12-a": [("takes one finite number", "F")], "ex-12-b": [("takes one finite number", float("inf"))]}
