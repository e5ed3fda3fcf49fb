r"""L1, group lasso, and the sparse group lasso with its nonconvex variants by variable splitting.

A group is a filter of a convolution, or a row of a matrix: the weights of one output. Its norm is weighted by
:math:`\sqrt{\#g}`, where #g is the number of its weights.

As a term of a loss, neither L1 nor group lasso makes exact zeros: gradient steps overshoot zero and come back. There
are two remedies. ``proximal=True`` replaces the gradient of the penalty by its proximal map after each step, which is
proximal gradient descent (for plain SGD). With momentum m it is a heuristic and pulls less: the gradient of a penalty
accumulates to lr/(1-m) times itself, the proximal map moves by lr times it, so give the proximal form 1/(1-m) times the
strength. Variable splitting trains a sparse copy of the weights.

BatchNorm behind a convolution makes the scale of its filters meaningless to the function: a filter can shrink under a
penalty without any change of the output, while its gradient grows.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn

from ..checks import check_choice, check_positive, check_whole
from ..modules import Where
from .base import Rival, is_convolution, parameters, zero_like
from .proximal import PENALTIES, prox, shrink_groups


@dataclasses.dataclass(eq=False)
class _OnWeights(Rival):
    strength: float
    proximal: bool = False
    where: Where = dataclasses.field(default=is_convolution, repr=False)

    def __post_init__(self) -> None:
        self.strength = check_positive(self.strength, "strength")
        if not isinstance(self.proximal, bool):
            raise ValueError(f"proximal must be True or False, got {self.proximal!r}")

    def penalty(self, model: nn.Module) -> Tensor:
        total = zero_like(model)
        if not self.proximal:
            for w in parameters(model, self.where):
                total = total + self._value(w)
        return self.strength * total

    @torch.no_grad()
    def after_step(self, model: nn.Module, lr: float | None = None) -> None:
        if self.proximal:
            if lr is None:
                raise ValueError("proximal=True needs the learning rate: call after_step(model, lr)")
            step = check_positive(lr, "lr") * self.strength
            for w in parameters(model, self.where):
                if w.requires_grad:
                    w.copy_(self._shrunk(w, step))

    def _value(self, w: Tensor) -> Tensor:
        raise NotImplementedError

    def _shrunk(self, w: Tensor, step: float) -> Tensor:
        raise NotImplementedError


@dataclasses.dataclass(eq=False)
class L1(_OnWeights):
    r""":math:`\lambda\sum_j |w_j|` over the weights of the picked layers.

    Args:
        strength: :math:`\lambda`, finite and >= 0.
        proximal: soft-threshold by lr times the strength after each step, and add nothing to the loss.
        where: ``where(name, module)`` picks the layers; default: every ``Conv2d``.

    A weight that several layers share counts once; a frozen one is not moved.

    Raises:
        ValueError: a bad argument; when it acts, nothing is picked, or a module without rows of weights, with a pruning
            mask or with weight_norm; if ``proximal``, a step without its learning rate.
    """

    def _value(self, w: Tensor) -> Tensor:
        return w.abs().sum()

    def _shrunk(self, w: Tensor, step: float) -> Tensor:
        return prox(w, step, "l1")


@dataclasses.dataclass(eq=False)
class GroupLasso(_OnWeights):
    r""":math:`\lambda\sum_g \sqrt{\#g}\,\lVert w_g\rVert_2` over the filters (or rows) of the picked layers.

    Arguments and errors: see :class:`L1`. ``proximal`` shortens every filter by lr times the strength times
    :math:`\sqrt{\#g}` after each step.
    """

    def _value(self, w: Tensor) -> Tensor:
        return _group_lasso(w)

    def _shrunk(self, w: Tensor, step: float) -> Tensor:
        return shrink_groups(w, step * math.sqrt(w[0].numel()))


@dataclasses.dataclass(eq=False)
class SparseGroupLasso(Rival):
    r"""Filters and single weights at once, :math:`\lambda\sum_g\sqrt{\#g}\,\lVert w_g\rVert_2 + \lambda\,r(w)`, with r
    one of :data:`PENALTIES`, by variable splitting: the weights W and a sparse copy V are pulled towards each other,

    .. math:: \lambda\sum_g\sqrt{\#g}\,\lVert w_g\rVert_2 + \lambda\,r(V) + \tfrac\beta2\lVert W - V\rVert^2 .

    The optimizer moves W. V is the exact minimiser, the proximal map of :math:`(\lambda/\beta)\,r` at the present W. V
    has exact zeros and W has none: :meth:`settle` ends the run by replacing W by V. :math:`\beta` grows by a factor at
    regular numbers of steps, which :meth:`after_step` counts.

    A larger :math:`\beta` lowers the threshold of r, for l0 :math:`\sqrt{2\lambda/\beta}`, but also pulls weights whose
    copy is zero harder towards zero. With :math:`w^*` and h the minimum and the curvature of the loss, such a weight
    rests at :math:`hw^*/(h+\beta)`. It crosses the threshold at some :math:`\beta` only if

    .. math:: \tfrac12 hw^{*2} > 4\lambda .

    So of the weights whose copy starts at zero, splitting keeps those that reduce the loss by four times their price;
    the penalty itself would keep those that reduce it by their price. A weight whose copy does not start at zero is not
    pulled, and stays if :math:`\beta_0w^{*2}/2 > \lambda` with the first :math:`\beta`.

    Args:
        strength: :math:`\lambda`, finite and >= 0 (the released code's, divided by the number of training examples).
        inner: r.
        beta: the first :math:`\beta`, > 0; defaults to 25 times the strength, the ratio of the released LeNet script.
            For l0 that is a threshold of :math:`\sqrt{2/25} = 0.28`: layers of smaller weights start with V = 0 and
            need a larger one.
        growth: factor of :math:`\beta`, >= 1.
        every: number of steps between growths (1000 is our choice; the released scripts have 20 or 40 epochs).
        shape: the shape of r, see :func:`prox`.
        where: see :class:`L1`.
        largest: :math:`\beta` stops growing here, > 0; one that starts above it stays. By its pull alone a step of SGD
            multiplies W - V by :math:`1 - \mathrm{lr}\,\beta`: above :math:`\beta = 1/\mathrm{lr}` W passes V, and
            above 2/lr (1.36/lr with Nesterov's momentum 0.9) it moves away and no zero lasts. 10 is 1/lr at the peak of
            :class:`bridgeout_lite.Recipe`.

    One model at a time: it counts the steps of a run, and :meth:`resume` starts another.

    Raises:
        ValueError: a bad argument; a step of another model, or one with :math:`\mathrm{lr}\,\beta > 2`; otherwise see
            :class:`L1`.

    Source: Bui, Park, Zhang, Qi and Xin 2021, arXiv:1912.07868, and its released code. The start of V is ours: the
    proximal map of the weights at the first call.
    """

    strength: float
    inner: str = "l0"
    beta: float | None = None
    growth: float = 1.25
    every: int = 1000
    shape: float | None = None
    where: Where = dataclasses.field(default=is_convolution, repr=False)
    largest: float = 10.0

    def __post_init__(self) -> None:
        self.strength = check_positive(self.strength, "strength")
        check_choice(self.inner, PENALTIES, "inner")
        self.beta = (25 * self.strength or 1.0) if self.beta is None else check_positive(self.beta, "beta", zero=False)
        self.growth = check_positive(self.growth, "growth")
        self.largest = check_positive(self.largest, "largest", zero=False)
        if self.growth < 1:
            raise ValueError(f"growth must be a finite number >= 1, got {self.growth!r}")
        check_whole(self.every, "every")
        prox(torch.zeros(1), 1.0, self.inner, self.shape)  # checks the shape
        self._steps = 0

    @property
    def present_beta(self) -> float:
        r"""The present :math:`\beta`."""
        assert self.beta is not None
        try:
            grown = self.beta * self.growth ** (self._steps // self.every)
        except OverflowError:
            grown = math.inf
        return min(grown, max(self.beta, self.largest))

    def copy_of(self, weight: Tensor) -> Tensor:
        """V for these weights at the present beta."""
        return prox(weight.detach(), self.strength / self.present_beta, self.inner, self.shape)

    def penalty(self, model: nn.Module) -> Tensor:
        lasso, distance = zero_like(model), zero_like(model)
        for w in parameters(model, self.where):
            lasso = lasso + _group_lasso(w)
            distance = distance + (w - self.copy_of(w)).square().sum()
        return self.strength * lasso + self.present_beta / 2 * distance

    def after_step(self, model: nn.Module, lr: float | None = None) -> None:
        self._keep_to(model)
        if lr is not None and check_positive(lr, "lr") * self.present_beta > 2:
            raise ValueError(
                f"beta={self.present_beta:g} times lr={lr:g} is above 2, where weights move away from their sparse "
                "copies: lower beta, largest or lr"
            )
        self._steps += 1

    @torch.no_grad()
    def settle(self, model: nn.Module) -> nn.Module:
        """Replace the weights by their sparse copy. Changes ``model`` and returns it."""
        for w in parameters(model, self.where):
            if w.requires_grad:
                w.copy_(self.copy_of(w))
        return model

    def resume(self, steps: int) -> None:
        self._steps, self._model = steps, None


def _group_lasso(w: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(w.flatten(1), dim=1)
    return math.sqrt(w[0].numel()) * norms.sum()
