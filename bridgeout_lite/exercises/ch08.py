"""Exercises of chapter 8."""

import math

import torch

from .. import noise
from . import Choice, Number


def _steepest() -> float:
    """The largest slope of Sparseout at q = 1 and p = 1/2, at an x below which the slope is held."""
    x = torch.full((1000,), 1e-9, requires_grad=True)
    noise.sparseout(x, 0.5, 1.0, generator=torch.Generator().manual_seed(0)).sum().backward()
    assert x.grad is not None
    return x.grad.max().item()


a = Number(lambda: math.sqrt(100 * 144))
b = Number(_steepest)
c = Choice(("only better or equal", "only worse or equal", "either"), "c7ea4811bb68")
