"""Exercises of chapter 1."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import theory
from . import Number, Property


def _growth(M: Callable[[Tensor, float], Any]) -> str:
    """M(a, p) against the sum over the two masks of a Poisson model with one feature: 1 + R / e^a."""
    for p in (0.1, 0.5, 0.8):
        for a in (-1.2, -0.3, 0.4, 1.5):
            given = M(torch.tensor(a, dtype=torch.float64), p)
            if given is None or given is ...:
                raise NotImplementedError
            x, one = torch.tensor([[a]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
            truth = 1 + theory.exact_penalty(x, one, p, 2.0, "poisson") / x.exp().squeeze()
            off = float(given) / truth.item() - 1
            if abs(off) > 1e-6:
                return f"not yet: at a = {a}, p = {p} it is off by {100 * off:+.1g} %"
    return ""


def _second_order_share() -> float:
    """Second order over exact, in a Poisson model whose natural parameter has Gaussian noise of variance 1/2."""
    v = 0.5
    return 0.5 * v / torch.tensor(v / 2).expm1().item()


a = Number(_second_order_share)
b = Property(_growth, "a function M(a, p) of a tensor a and a number p")
