"""Exercises of chapter 12."""

import math

import torch

from ..studies.evolution import stress_moments
from . import Number


def _factor() -> float:
    """The environmental factor at which parameters fall 48-fold in four generations, all shares of strength being 0.8
    and parameters quadratic in the filters."""
    return float(48 ** (-1 / 8) * math.exp(1 - 0.8))


def _drop() -> float:
    """The drop probability of DropConnect that has the relative noise of stress 1/2 on a weight near zero."""
    mean, variance = (m[0].item() for m in stress_moments(torch.tensor([1e-9, 1.0], dtype=torch.float64), 0.5))
    return variance / (variance + mean**2)


a = Number(_factor)
b = Number(_drop, within=0.03)
