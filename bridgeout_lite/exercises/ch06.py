"""Exercises of chapter 6."""

import math

from . import Choice, Number

a = Choice(
    (
        "the mean of its pre-activation is many sigmas below zero",
        "the mean of its pre-activation is many sigmas above zero",
        "its weights are large",
        "its bias is large",
    ),
    "75fd64d90ca5",
)
b = Number(lambda: 1 / math.sqrt(128 * 2 * 2), within=0.02)
