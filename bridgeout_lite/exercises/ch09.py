"""Exercises of chapter 9."""

import math

import torch

from ..rivals import shrink_groups  # type: ignore[attr-defined]
from . import Choice, Number


def _dead_from() -> float:
    """The strength of a group lasso from which one proximal step makes a filter of nine weights zero, by bisection."""
    w = torch.tensor([[0.3] * 4 + [0.0] * 5], dtype=torch.float64)
    low, high = 0.0, 100.0
    for _ in range(40):
        strength = (low + high) / 2
        zero = not shrink_groups(w, 0.1 * strength * math.sqrt(w.numel())).any()
        low, high = (low, strength) if zero else (strength, high)
    return high


def _out_of_the_zone() -> float:
    """The least minimum of a weight's loss, of curvature 1, that some stiffness of the spring lets out of the zone."""
    stiffness = torch.logspace(-2, 2, 4001, dtype=torch.float64)
    return ((2 * 0.01 / stiffness).sqrt() * (1 + stiffness)).min().item()


a = Number(_dead_from)
b = Number(_out_of_the_zone)
c = Choice(("sqrt(2 s t)", "t", "s", "0"), "72f71d5f9dff")
