"""Proximal maps: a penalty, the point that trades it against the way to it, and why gradient steps miss zero."""

import math
from typing import Any

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from ..figures import BLUE, GREY, ORANGE, RED, panels
from ..rivals.proximal import prox
from ..theory import bridge_prox
from .base import Figure, checked

KINDS = ("bridge", "L0", "transformed L1", "SCAD")

STEP, STEPS = 0.2, 60
"""Size and number of the steps by gradient and by proximal map."""

SMALL = 0.05
"""Below this size of a weight the slope of a penalty is held, so that a gradient step stays finite."""

SHAPE = 3.7
"""SCAD's a: from a mu on it is level."""


def penalty(kind: str, v: NDArray[Any], mu: float, q: float) -> NDArray[Any]:
    r"""The penalty on v: :math:`\mu|v|^q`, :math:`\mu[v\ne0]`, :math:`2\mu|v|/(1+|v|)`, or SCAD with knees at mu."""
    size = np.abs(v)
    if kind == "bridge":
        return np.asarray(mu * size**q)
    if kind == "L0":
        return np.asarray(mu * (v != 0))
    if kind == "transformed L1":
        return np.asarray(2 * mu * size / (1 + size))
    knee = (2 * SHAPE * mu * size - size**2 - mu**2) / (2 * (SHAPE - 1))
    return np.where(size <= mu, mu * size, np.where(size <= SHAPE * mu, knee, (SHAPE + 1) * mu**2 / 2))


def slope(kind: str, v: float, mu: float, q: float) -> float:
    """Its derivative, 0 at 0, held below ``SMALL``."""
    size = max(abs(v), SMALL)
    if v == 0 or kind == "L0":
        return 0.0
    if kind == "bridge":
        rise = mu * q * size ** (q - 1)
    elif kind == "transformed L1":
        rise = 2 * mu / (1 + size) ** 2
    else:
        rise = mu if abs(v) <= mu else max(SHAPE * mu - abs(v), 0) / (SHAPE - 1)
    return math.copysign(rise, v)


def proximal(kind: str, w: float, mu: float, q: float, step: float = 1.0) -> float:
    """The point that minimises ``step`` times the penalty plus half the squared distance to w."""
    if kind == "bridge":
        return bridge_prox(w, step * mu, q)
    if kind == "SCAD":
        size = abs(w)
        if size > (1 + step) * mu:  # beyond the part where it is L1
            middle = ((SHAPE - 1) * size - step * SHAPE * mu) / (SHAPE - 1 - step)
            return math.copysign(middle if size <= SHAPE * mu else size, w)
        return math.copysign(max(size - step * mu, 0.0), w)
    one = torch.tensor([w], dtype=torch.float64)
    return float(prox(one, step * mu, {"L0": "l0", "transformed L1": "transformed l1"}[kind]))


def dead_zone(kind: str, mu: float, q: float) -> float:
    """The largest w whose proximal map is zero."""
    if kind == "L0":
        return math.sqrt(2 * mu)
    if kind == "transformed L1":
        return 2 * mu if mu <= 0.25 else math.sqrt(4 * mu) - 0.5
    if kind == "SCAD" or q == 1:
        return mu
    if q > 1 or mu == 0:
        return 0.0
    return (2 - q) / (2 * (1 - q)) * (2 * mu * (1 - q)) ** (1 / (2 - q))  # type: ignore[no-any-return]


class ProximalMaps(Figure):
    r"""A penalty P, its proximal map :math:`\arg\min_v P(v) + \tfrac12(v-w)^2`, and two ways down.

    Shows the penalty beside L1; what is minimised, with its least point; the map with its dead zone; and, from least
    squares w, steps of size 0.2 on :math:`P(v) + \tfrac12(v-w)^2` by the gradient of P and by the proximal map of P.

    The arguments are the controls: the penalty, its price mu, the exponent q (of the bridge penalty alone) and w. A
    ValueError for a value outside of its control.
    """

    file = "proximal"
    kind = traitlets.Unicode().tag(sync=True)
    mu = traitlets.Float().tag(sync=True)
    q = traitlets.Float().tag(sync=True)
    w = traitlets.Float().tag(sync=True)
    title = traitlets.Unicode("Proximal maps: which penalties give exact zeros").tag(sync=True)
    controls = traitlets.Dict(
        {
            "kind": {"label": "penalty", "options": list(KINDS), "value": "bridge"},
            "q": {"label": "exponent q, of the bridge", "min": 0.5, "max": 2, "step": 0.05, "value": 1.0},
            "mu": {"label": "price μ", "min": 0, "max": 1.5, "step": 0.05, "value": 0.6},
            "w": {"label": "weight w", "min": -3, "max": 3, "step": 0.05, "value": 0.5},
        }
    ).tag(sync=True)
    presets = traitlets.Dict(
        {
            "Ridge": {"kind": "bridge", "q": 2.0},
            "Lasso": {"kind": "bridge", "q": 1.0},
            "q = ½": {"kind": "bridge", "q": 0.5},
            "Hard threshold": {"kind": "L0"},
        }
    ).tag(sync=True)

    _check = checked("kind", "mu", "q", "w")

    def walks(self) -> tuple[list[float], list[float]]:
        """The weight along steps by the gradient and along steps by the proximal map, both from w."""
        place = (self.mu, self.q)
        down, near = [self.w], [self.w]
        for _ in range(STEPS):
            down.append(down[-1] - STEP * (down[-1] - self.w + slope(self.kind, down[-1], *place)))
            near.append(proximal(self.kind, near[-1] - STEP * (near[-1] - self.w), *place, STEP))
        return down, near

    def numbers(self) -> dict[str, float]:
        v = proximal(self.kind, self.w, self.mu, self.q)
        paid = float(penalty(self.kind, np.array(v), self.mu, self.q))
        down, near = self.walks()
        return {
            "map": v,
            "penalty": paid,
            "least": paid + (v - self.w) ** 2 / 2,
            "dead_zone": dead_zone(self.kind, self.mu, self.q),
            "by_gradient": down[-1],
            "by_map": near[-1],
        }

    def picture(self) -> Picture:
        fig, (left, right) = panels(2, height=2.8)
        v = np.linspace(-3, 3, 241)
        found = [proximal(self.kind, float(w), self.mu, self.q) for w in v]
        left.plot(v, v, color=GREY, marker="", linestyle="--")
        left.plot(v, found, color=BLUE, marker="")
        left.plot(self.w, self.numbers()["map"], "o", color=RED)
        left.set(xlabel="weight w", ylabel="its proximal map", title="The map")
        for walk, colour, name in zip(self.walks(), (ORANGE, BLUE), ("gradient", "proximal map"), strict=True):
            right.plot(walk, color=colour, marker="", label=name)
        right.set(xlabel="step", ylabel="weight", title="Two ways down")
        right.legend()
        return fig
