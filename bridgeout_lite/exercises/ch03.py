"""Exercises of chapter 3."""

import math

from . import Choice, Number


def _one_in_eight() -> float:
    """Hoyer's measure of 128 units of which 16 are on, equally strong."""
    return (math.sqrt(128) - math.sqrt(16)) / (math.sqrt(128) - 1)


def _matched() -> float:
    """The p at which noise with q = 1 on |z|, z normal with standard deviation 1/2, has the power of Dropout at 0.2."""
    odds = 0.25 * 0.5 * math.sqrt(math.pi / 2)
    return odds / (1 + odds)


a = Number(_one_in_eight)
b = Choice(
    (
        "the Gini index of the batch",
        "the zero fraction image by image",
        "the share of units that are never on",
        "the rms of the layer",
    ),
    "2d7149d3f9dc",
)
c = Number(_matched, within=0.02)
