"""Exercises of chapter 5."""

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import torch
from torch import nn

from .. import sparsity, theory
from . import Number, Property


def _mostly_noise() -> float:
    """The p at which noise with q = 1 equals the median size of normal weights of standard deviation 0.02."""
    v = NormalDist(0, 0.02).inv_cdf(0.75)
    return v / (1 + v)


def _disguise(disguise: Callable[[nn.Conv2d, nn.BatchNorm2d], Any]) -> str:
    """Whether the weakest filter is the strongest afterwards, and the answers are the same."""
    draws = torch.Generator().manual_seed(0)
    conv = nn.utils.skip_init(nn.Conv2d, 3, 8, 3, dtype=torch.float64)
    norm = nn.BatchNorm2d(8, dtype=torch.float64).eval()
    with torch.no_grad():
        for values in (conv.weight, conv.bias, norm.running_mean, norm.weight, norm.bias):
            assert values is not None
            values.copy_(torch.randn(values.shape, generator=draws, dtype=torch.float64))
        conv.weight *= torch.linspace(1, 3, 8).view(-1, 1, 1, 1)
        x = torch.randn(4, 3, 9, 9, generator=draws, dtype=torch.float64)
        before, old = norm(conv(x)), conv.weight.clone()
    weakest = int(sparsity.filter_norms(old).argmin())
    disguise(conv, norm)
    with torch.no_grad():
        norms, moved = sparsity.filter_norms(conv.weight), (norm.eval()(conv(x)) - before).abs().max()
    if torch.equal(conv.weight, old):
        raise NotImplementedError
    if int(norms.argmax()) != weakest:
        return f"not yet: filter {weakest} was the weakest, and now filter {int(norms.argmax())} is the strongest"
    return f"not yet: the answers move by up to {moved:.1g}" if not moved < 1e-3 else ""


def _power() -> float:
    """Relative power of the noise at q = 1 when the fourth power of the norm has grown by 4, over that before."""
    w = torch.linspace(-1, 1, 100, dtype=torch.float64)
    return theory.noise_ratio(4 ** (1 / 4) * w, 1.0) / theory.noise_ratio(w, 1.0)


a = Number(_mostly_noise)
b = Property(_disguise, "a function disguise(conv, norm) that changes both in place")
c = Number(_power)
