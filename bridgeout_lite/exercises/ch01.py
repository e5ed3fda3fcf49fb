"""Exercises of chapter 1."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from .. import noise, theory
from . import Number, Property


def _second_order_share() -> float:
    """Second order over exact, in a Poisson model whose natural parameter has Gaussian noise of variance 1/2."""
    v = 0.5
    return 0.5 * v / torch.tensor(v / 2).expm1().item()


def _best(best: Callable[[Tensor, Tensor, float, float], Any]) -> str:
    """Whether the gradient of the expected loss vanishes at best(X, y, p, q)."""
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    y = X @ torch.tensor([1.0, 0.0, -2.0, 0.5], dtype=torch.float64)
    for p, q in ((0.5, 2.0), (0.3, 1.0), (0.6, 3.0)):
        given = best(X, y, p, q)
        if given is None or given is ...:
            raise NotImplementedError
        b = torch.as_tensor(given, dtype=torch.float64).detach().requires_grad_()
        if b.shape != (4,):
            return f"not yet: it should give 4 weights for 4 features, and gives shape {tuple(b.shape)}"
        loss = 0.5 * (y - X @ b).square().mean() + theory.exact_penalty(X, b, p, q)
        (slope,) = torch.autograd.grad(loss, b)
        if slope.abs().max() > 1e-6:
            return f"not yet: at p = {p}, q = {q} the expected loss still has a slope of {slope.abs().max():.1g}"
    return ""


def _effect(scale: float) -> float:
    """How much Sparseout at q = 1 and p = 1/2 moves a normalisation that follows it, of activations so scaled."""
    h = torch.randn(200, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).relu() * scale
    noisy = noise.sparseout(h, 0.5, 1.0, generator=torch.Generator().manual_seed(1))
    moved = layer_norm(noisy, (50,), eps=0.0) - layer_norm(h, (50,), eps=0.0)
    return moved.square().mean().sqrt().item()


a = Number(_second_order_share)
b = Property(_best, "a function best(X, y, p, q) that gives the weights")
c = Number(lambda: _effect(1e8) / _effect(1e6), within=0.02)  # where N is as good as linear
