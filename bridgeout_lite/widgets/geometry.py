"""Bridge geometry: two weights, the ball that bounds them, and the loss that pulls them out of it."""

import math
from typing import Any, NamedTuple

import numpy as np
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray
from scipy.optimize import brentq

from ..figures import BLUE, GREY, ORANGE, RED, panels
from .base import Figure, checked

ANGLES = np.linspace(0, np.pi / 2, 4001)
"""Where a quarter of the ball's edge is searched, from the first axis to the second."""

AXIS = 740.0
"""exp(-740) is about the smallest number there is: weights of this log-ratio lie on an axis."""

TINY = 1e-12
"""What rounding leaves of zero."""


class Solution(NamedTuple):
    """A constrained solution: both weights, the loss above least squares, and the multiplier of the constraint."""

    w1: float
    w2: float
    loss: float
    penalty: float


def constrained(q: float, r: float, rho: float, a1: float, a2: float) -> Solution:
    r"""The global minimum of the loss in the ball :math:`|w_1|^q + |w_2|^q \le r^q`.

    The loss is :math:`\tfrac12(w-a)^\top G(w-a)` with 1 on the diagonal of G and rho beside it: linear regression on
    two features of variance 1 whose least-squares solution is a. Outside the ball's reach the minimum is on its edge,
    which is searched as a whole (it is not convex for q < 1) and then refined, so that a zero is exactly zero.
    Of two equal minima the one with a zero is returned, then the one with the larger \|w1\|.

    Args:
        q: exponent > 0. r: budget > 0, where the ball meets the axes for every q. rho: correlation, between -1 and 1.
        a1, a2: least squares.

    Returns:
        The weights, the loss there and the lambda for which :math:`\text{loss} + \lambda\sum_j|w_j|^q` is stationary
        there. For q >= 1 both problems have this solution; for q < 1 the second may have another.
    """
    if abs(a1) ** q + abs(a2) ** q <= r**q * (1 + 1e-12):
        return Solution(a1, a2, 0.0, 0.0)

    def slopes(w1: float, w2: float) -> tuple[float, float]:
        return w1 - a1 + rho * (w2 - a2), w2 - a2 + rho * (w1 - a1)

    def loss(w1: NDArray[Any], w2: NDArray[Any]) -> NDArray[Any]:
        return ((w1 - a1) ** 2 + (w2 - a2) ** 2) / 2 + rho * (w1 - a1) * (w2 - a2)

    def preferred(w1: float, w2: float) -> tuple[float, ...]:
        return (w1 == 0) + (w2 == 0), abs(w1), w1, w2

    quarters = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    x, y = np.cos(ANGLES) ** (2 / q), np.sin(ANGLES) ** (2 / q)
    x[-1] = 0.0
    edge = r * np.array(quarters)[:, :, None] * np.array([x, y])
    heights = loss(edge[:, 0], edge[:, 1])
    rows = np.argwhere(heights <= heights.min() + 4e-15)  # the second of two equal minima differs by rounding
    quarter, k = max(rows, key=lambda at: preferred(*edge[at[0], :, at[1]]))

    def point(s: float, one: int, two: int) -> tuple[float, float]:
        ratio = math.exp(-abs(s))
        large = r * (1 + ratio**q) ** (-1 / q)
        return (one * large, two * ratio * large) if s < 0 else (one * ratio * large, two * large)

    def rise(s: float, one: int, two: int) -> float:
        """A positive multiple of the slope of the loss along the edge, towards the second axis; s is log(w2/w1)."""
        g1, g2 = slopes(*point(s, one, two))
        u = (q - 1) * s
        return two * g2 - one * g1 * math.exp(u) if u < 0 else two * g2 * math.exp(-u) - one * g1

    def log_ratio(k: int) -> float:
        return -AXIS if k <= 0 else AXIS if k >= len(ANGLES) - 1 else 2 / q * math.log(math.tan(ANGLES[k]))

    w1, w2 = (float(w) for w in edge[quarter, :, k])
    # a corner belongs to two quarters: the minimum is beside it, in one of them, unless the loss rises along both
    one, two = quarters[quarter]
    other = (one, -two) if w2 == 0 else (-one, two)
    for signs in [(one, two), *([other] if 0 in (w1, w2) else [])]:
        low, high = log_ratio(k - 1), log_ratio(k + 1)
        if rise(low, *signs) < -TINY and rise(high, *signs) > TINY:
            w1, w2 = point(brentq(rise, low, high, args=signs, xtol=1e-13, rtol=1e-14), *signs)
            break
    g, w = max(zip(slopes(w1, w2), (w1, w2), strict=True), key=lambda pair: abs(pair[1]))
    return Solution(w1, w2, float(loss(np.array(w1), np.array(w2))), -math.copysign(1, w) * g / (q * abs(w) ** (q - 1)))


class BridgeGeometry(Figure):
    r"""Two weights, a loss with correlated features, and the ball :math:`|w_1|^q + |w_2|^q \le r^q`.

    Shows where in the ball the loss is least, which least-squares solutions lead to a weight of exactly zero, and both
    weights against q and against the budget r. See :func:`constrained` for the problem. ``numbers()`` has, for q >= 1,
    the drop probability with which Bridgeout has this solution, p from :math:`\lambda = \tfrac12 p/(1-p)`; for q < 1
    the penalised problem may have another solution, so there is none.

    The arguments are the controls: exponent q, budget r (the ball meets the axes at r for every q), correlation rho of
    the features, and the least-squares solution a1, a2. A ValueError for a number outside its slider.
    """

    file = "geometry"
    q = traitlets.Float().tag(sync=True)
    r = traitlets.Float().tag(sync=True)
    rho = traitlets.Float().tag(sync=True)
    a1 = traitlets.Float().tag(sync=True)
    a2 = traitlets.Float().tag(sync=True)
    title = traitlets.Unicode("Bridge geometry: why low q gives zeros").tag(sync=True)
    controls = traitlets.Dict(
        {
            "q": {"label": "exponent q", "min": 0.5, "max": 4, "step": 0.05, "value": 2.0},
            "r": {"label": "budget r", "min": 0.1, "max": 1.3, "step": 0.05, "value": 0.7},
            "rho": {"label": "correlation", "min": -0.9, "max": 0.9, "step": 0.05, "value": 0.4},
            "a1": {"label": "least squares a₁", "min": -1.6, "max": 1.6, "step": 0.05, "value": 1.2},
            "a2": {"label": "least squares a₂", "min": -1.3, "max": 1.3, "step": 0.05, "value": 0.35},
        }
    ).tag(sync=True)
    presets = traitlets.Dict(
        {"q = 4": {"q": 4.0}, "Ridge, q = 2": {"q": 2.0}, "Lasso, q = 1": {"q": 1.0}, "q = ½": {"q": 0.5}}
    ).tag(sync=True)

    _check = checked("q", "r", "rho", "a1", "a2")

    def solution(self, **changed: float) -> Solution:
        """The solution for the present controls, or with some of them changed."""
        return constrained(**{key: getattr(self, key) for key in self.controls} | changed)

    def numbers(self) -> dict[str, float]:
        w1, w2, loss, penalty = self.solution()
        shown = {"w1": w1, "w2": w2, "exact_zeros": float((w1 == 0) + (w2 == 0)), "loss": loss}
        return shown | ({"drop_probability": 2 * penalty / (1 + 2 * penalty)} if self.q >= 1 else {})

    def picture(self) -> Picture:
        fig, (plan, path) = panels(2, height=3.2, layout="constrained")
        w1, w2, loss, _ = self.solution()
        angles = np.linspace(0, 2 * np.pi, 801)
        edge = [self.r * np.sign(f) * np.abs(f) ** (2 / self.q) for f in (np.cos(angles), np.sin(angles))]
        plan.fill(*edge, facecolor=BLUE, edgecolor=BLUE, alpha=0.25)
        axes = np.array([np.cos(angles) / np.sqrt(1 + self.rho), np.sin(angles) / np.sqrt(1 - self.rho)]) / np.sqrt(2)
        for size, colour in [(0.3, GREY), (0.6, GREY), (0.9, GREY), (1.2, GREY), (math.sqrt(2 * loss), RED)]:
            ring = size * (axes[0] + axes[1]), size * (axes[0] - axes[1])
            plan.plot(self.a1 + ring[0], self.a2 + ring[1], color=colour, marker="", linewidth=0.8)
        plan.plot(self.a1, self.a2, "o", color=GREY, label="least squares")
        plan.plot(w1, w2, "o", color=RED, label="solution")
        plan.set(xlabel="weight w1", ylabel="weight w2", title="The least loss within the ball", aspect="equal")
        plan.set(xlim=(-1.4, 1.8), ylim=(-1.4, 1.4))
        plan.legend(loc="lower left", frameon=False)
        q = np.linspace(0.5, 4, 71)
        curves = np.array([self.solution(q=one)[:2] for one in q])
        curves[1:][(np.abs(np.diff(curves, axis=0)).max(1) > 0.08) & (q[1:] <= 1)] = np.nan  # do not draw the jump
        for weights, now, colour, name in zip(curves.T, (w1, w2), (BLUE, ORANGE), ("w1", "w2"), strict=True):
            path.plot(q, weights, color=colour, marker="", label=name)
            path.plot(self.q, now, "o", color=RED)
        path.set(xlabel="exponent q", title="Both weights against q")
        path.legend()
        return fig
