r"""Sparsity penalties and their proximal maps, exact, and elementwise where the penalty is.

The proximal map of a penalty P at w is the point that trades P against the distance to w,

.. math:: \operatorname{prox}_P(w) = \arg\min_v\; P(v) + \tfrac12\lVert v - w\rVert^2 .

With a weight :math:`\mu \ge 0` and, where there is one, a shape a:

==================== ======================================================= ======================================
name                 P(v)                                                    its map
==================== ======================================================= ======================================
``"l1"``             :math:`\mu\sum|v|`                                      soft threshold: all move by :math:`\mu`
``"l0"``             :math:`\mu` times the number of non-zeros               hard threshold at :math:`\sqrt{2\mu}`
``"transformed l1"`` :math:`\mu\sum(a+1)|v|/(a+|v|)`, a = 1                  between the two
``"l1 - l2"``        :math:`\mu(\lVert v\rVert_1 - a\lVert v\rVert_2)`, a=1  of the whole tensor at once
``"scad"``           :math:`\mu|v|` to :math:`\mu`, quadratic on to          soft for small w, none for large w
                     :math:`a\mu`, level beyond; a = 3.7
==================== ======================================================= ======================================

SCAD's own scale is :math:`\mu`, as in the released code: its map at weight :math:`\lambda/\beta` is that of SCAD with
the knees at :math:`\lambda/\beta` and :math:`a\lambda/\beta`, which move when :math:`\beta` grows.

Sources: Bui et al. 2021, arXiv:1912.07868, and the works that it cites: Fan and Li 2001 (SCAD), Zhang and Xin 2017
(transformed l1), Lou and Yan 2018 (l1 - l2). The maps are checked against numerical minimisation in the tests.
"""

import math

import torch
from torch import Tensor

from ..checks import check_choice, check_positive
from ..modules import doubled
from .base import check_weights

PENALTIES = ("l1", "l0", "transformed l1", "l1 - l2", "scad")

# The usual shape of each penalty, and the range of the values that it may take.
_SHAPES = {"transformed l1": (1.0, 0.0, math.inf), "l1 - l2": (1.0, 0.0, 1.0), "scad": (3.7, 2.0, math.inf)}


def prox(w: Tensor, mu: float, kind: str = "l1", shape: float | None = None) -> Tensor:
    """The proximal map of a penalty at ``w``, a new tensor like it; on a threshold, where two points are equally good,
    the sparser one. NaN stays NaN.

    Args:
        w: any floating-point tensor. mu: weight of the penalty, finite and >= 0. kind: one of ``PENALTIES``.
        shape: the penalty's a; defaults to its usual value. "transformed l1" takes a > 0, "l1 - l2" 0 <= a <= 1, "scad"
            a > 2; the others none.

    Raises:
        ValueError: an argument outside of that.

    Example:
        >>> w = torch.tensor([-3.0, 0.5, 1.5])
        >>> prox(w, 1.0, "l1").tolist(), prox(w, 1.0, "l0").tolist()
        ([-2.0, 0.0, 0.5], [-3.0, 0.0, 1.5])
    """
    mu, a = _check(w, mu, kind, shape)
    if mu == 0.0:
        return w.clone()
    if kind == "l1":
        return _soft(w, mu)
    if kind == "l0":
        return torch.where(w.abs() <= math.sqrt(2 * mu), 0.0, w)
    if kind == "transformed l1":
        return _transformed_l1(w, mu, a)
    if kind == "l1 - l2":
        return _l1_minus_l2(w, mu, a)
    size: Tensor = w.abs()
    middle = ((a - 1) * w - w.sign() * a * mu) / (a - 2)
    return torch.where(size <= 2 * mu, _soft(w, mu), torch.where(size <= a * mu, middle, w))


def shrink_groups(w: Tensor, mu: float | Tensor) -> Tensor:
    r"""The proximal map of the group lasso :math:`\mu\sum_g\lVert w_g\rVert_2` with the first dimension as groups:
    every filter or row is shortened by :math:`\mu` (one number, or one per group), and shorter ones become zero.

    Raises:
        ValueError: weights that are no floating-point tensor with at least two dimensions; :math:`\mu` that is not
            finite and >= 0.
    """
    check_weights(w, 2)
    if not isinstance(mu, Tensor):
        mu = check_positive(mu, "mu")
    elif mu.shape not in ((), w.shape[:1]) or not ((mu >= 0) & mu.isfinite()).all():
        raise ValueError(f"mu must be one finite number >= 0, or one for each of {len(w)} groups, got {mu.tolist()}")
    norms: Tensor = torch.linalg.vector_norm(w.flatten(1), dim=1)
    factor = (1 - mu / norms.clamp_min(torch.finfo(w.dtype).tiny)).clamp_min(0.0)
    return w * factor.view(-1, *(1,) * (w.dim() - 1))


def _check(w: Tensor, mu: float, kind: str, shape: float | None) -> tuple[float, float]:
    check_weights(w)
    mu = check_positive(mu, "mu")
    check_choice(kind, PENALTIES, "kind")
    if kind not in _SHAPES:
        if shape is not None:
            raise ValueError(f"{kind!r} has no shape: leave it None, got {shape!r}")
        return mu, 0.0
    usual, low, high = _SHAPES[kind]
    a = usual if shape is None else check_positive(shape, "shape")
    if not low <= a <= high or (a == low and kind != "l1 - l2"):
        allowed = "0 <= shape <= 1" if kind == "l1 - l2" else f"shape > {low:g}"
        raise ValueError(f"{kind!r} needs {allowed}, got {shape!r}")
    return mu, a


def _soft(w: Tensor, mu: float) -> Tensor:
    return w.sign() * (w.abs() - mu).clamp_min(0.0)


def _transformed_l1(w: Tensor, mu: float, a: float) -> Tensor:
    size = doubled(w.abs())  # near the threshold v is the small difference of large numbers
    convex = mu <= a**2 / (2 * (a + 1))
    threshold = mu * (a + 1) / a if convex else math.sqrt(2 * mu * (a + 1)) - a / 2
    # a root of v's cubic equation, by cosines; below the threshold it is not used, and its argument is clamped to 1
    phi = torch.arccos((1 - 27 * mu * a * (a + 1) / (2 * (a + size).pow(3))).clamp(-1.0, 1.0))
    root = 2 / 3 * (a + size) * torch.cos(phi / 3) - 2 / 3 * a + size / 3
    root = torch.where(size <= threshold, 0.0, root.clamp_min(0.0).minimum(size))
    return w.sign() * root.to(w)


def _l1_minus_l2(w: Tensor, mu: float, a: float) -> Tensor:
    size = w.abs()
    largest = size.max() if w.numel() else size.sum()
    if not largest <= mu:  # NaN is neither
        z = _soft(w, mu)
        norm: float = torch.linalg.vector_norm(doubled(z)).item()  # squares of tiny weights stay above 0
        shrunk: Tensor = z * (norm + a * mu) / norm
        return shrunk
    result = torch.zeros_like(w)
    if largest > (1 - a) * mu:  # one entry alone stays, of equal ones the first
        place = torch.unravel_index(size.argmax(), w.shape)
        result[place] = w[place].sign() * (largest + (a - 1) * mu)
    return result
