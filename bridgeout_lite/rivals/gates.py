r"""Stochastic gates: DropConnect, targeted dropout, hard-concrete L0 gates and stress, as parametrizations of weights.

How three of them compare with Bridgeout, for one weight w with drop probability p:

================================== ==================================== =============================================
method                             training                             evaluation
================================== ==================================== =============================================
DropConnect                        w r/(1-p), r ~ Bernoulli(1-p)        w
Bridgeout, q = 2, form "odd"       the same, to the bit                 w
Bridgeout, q = 2, form "even"      w + abs(w) xi: same mean, variance   w
Targeted dropout                   w r on the smallest weights, no      0 on the smallest weights, w elsewhere
                                   1/(1-p); w elsewhere
Bridgeout, q = 2, "odd", targeted  w r/(1-p) on the smallest kernels    w
Stress                             w (1 - s m), m = 1 with a            w
                                   probability that falls with abs(w)
================================== ==================================== =============================================

For w >= 0, and for p = 1/2, the even form has the distribution of DropConnect too. Otherwise a negative weight becomes
2w with probability p, and w (1-2p)/(1-p) else. One mask serves the whole mini-batch, as in Batch Bridgeout; the paper's
DropConnect draws one per image, and in evaluation samples from a normal distribution.

Sources: Wan et al. 2013 (DropConnect); Gomez et al. 2019, arXiv:1905.13678, and its released code (targeted dropout);
Louizos, Welling and Kingma 2018, arXiv:1712.01312, and its released code (hard concrete). Stress is our reading of the
abstract of Shafiee et al. 2019, arXiv:1801.05387, its probability that of Shafiee et al. 2016, arXiv:1606.04393; we did
not have the text of either.
"""

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..checks import check_choice, check_fraction, check_positive, check_probability, check_share
from ..layers import attach_bridgeout, put_on_weight, take_off_weight
from ..modules import Where
from ..noise import keep_mask, smallest_mask
from .base import Rival, check_weights, clean_weight, is_convolution, pick_weights, zero_like

# The hard-concrete distribution: its temperature, and the interval to which (0, 1) is stretched before clipping.
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1

LAWS = ("exp", "rescaled")


def attach_dropconnect(model: nn.Module, p: float, *, where: Where | None = None) -> nn.Module:
    """DropConnect with one mask per mini-batch: ``bl.attach_bridgeout(model, p, 2.0, form="odd", where=where)``. Undo
    it with ``bl.detach_bridgeout``."""
    return attach_bridgeout(model, p, 2.0, form="odd", where=where)


class _Parametrized(Rival):
    """A method that is a parametrization of the picked weights, and adds nothing to the loss unless it says so."""

    where: Where
    _kind: ClassVar[type[nn.Module]]

    def _mask(self, w: Tensor) -> nn.Module:
        """A new parametrization for this weight."""
        raise NotImplementedError

    def attach(self, model: nn.Module) -> nn.Module:
        """Put it on the weights. Changes ``model`` and returns it."""
        picked = [(name, module, clean_weight(name, module)) for name, module in pick_weights(model, self.where)]
        for name, module, _ in picked:
            if parametrize.is_parametrized(module, "weight"):
                raise ValueError(f"the weight of {name!r} carries a mask, noise or gates already: take them off first")
        made: dict[nn.Parameter, nn.Module] = {}  # one per weight, also if several modules share it
        for _, module, w in picked:
            if w not in made:
                made[w] = self._mask(w).train(module.training)
            put_on_weight(module, made[w])
        return model

    @torch.no_grad()
    def detach(self, model: nn.Module) -> nn.Module:
        """Take it off; the weights are those of evaluation, with their exact zeros. Changes ``model``, returns it."""
        ours = [(module, chain) for module, chain in _chains(model) if isinstance(chain[0], self._kind)]
        values = {chain.original: chain[0].eval()(chain.original) for _, chain in ours}
        for w, value in values.items():
            w.copy_(value)
        for module, chain in ours:
            if len(chain) > 1:  # what was put on top of it stays
                del chain[0]
            else:
                take_off_weight(module)
        return model

    def penalty(self, model: nn.Module) -> Tensor:
        return zero_like(model)


class TargetedMask(nn.Module):
    """The parametrization behind :class:`TargetedDropout`."""

    def __init__(self, p: float, fraction: float, target: str) -> None:
        super().__init__()
        self.p, self.fraction, self.target = p, fraction, target

    def forward(self, w: Tensor) -> Tensor:
        rows = w.flatten(1)  # smallest_mask ranks the elements of each row of a matrix
        targeted = smallest_mask(rows, self.fraction, "filters" if self.target == "filters" else "kernels").view_as(w)
        if self.training:
            kept = keep_mask(rows, self.p).to(w.device).view_as(rows).bool().view_as(w)
            targeted = targeted & ~kept
        return w.masked_fill(targeted, 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p:g}, fraction={self.fraction:g}, target={self.target!r}"


@dataclasses.dataclass(eq=False)
class TargetedDropout(_Parametrized):
    """Drop the smallest weights at random in training, without rescaling, and always in evaluation, so that the network
    learns to do without them. There is no penalty. :meth:`attach` before training; :meth:`detach` leaves the targeted
    weights at zero.

    Args:
        p: drop probability of a targeted weight (the paper's alpha), 0 <= p < 1.
        fraction: share that is targeted (the paper's gamma), 0 <= fraction <= 1.
        target: "weights": the ``int(n * fraction)`` smallest weights of each filter or row; "filters": the ``int(O *
            fraction)`` filters of each layer with the smallest L2 norm, whose weights drop one by one, as released.
        where: picks the layers; default: every ``Conv2d``. The released code skips the first and the last layer.

    Raises:
        ValueError: a bad argument; on attaching, see :class:`L0Gates`.
    """

    p: float = 0.5
    fraction: float = 0.5
    target: str = "weights"
    where: Where = dataclasses.field(default=is_convolution, repr=False)
    _kind: ClassVar[type[nn.Module]] = TargetedMask

    def __post_init__(self) -> None:
        self.p, self.fraction = check_probability(self.p), check_fraction(self.fraction, "fraction")
        check_choice(self.target, ("weights", "filters"), "target")

    def _mask(self, w: Tensor) -> nn.Module:
        return TargetedMask(self.p, self.fraction, self.target)


class HardConcrete(nn.Module):
    r"""One gate per filter, in [0, 1], as a parametrization: the weight is multiplied by z.

    In training, with u uniform in (0, 1) and one parameter :math:`\log\alpha` per filter,

    .. math:: s = \sigma\bigl((\log u - \log(1-u) + \log\alpha)/\tfrac23\bigr), \quad
              z = \min(1, \max(0,\, 1.2\,s - 0.1)),

    so that z is exactly 0 or 1 with positive probability; in evaluation s is :math:`\sigma(\log\alpha)`.

    Args:
        filters: their number. closed: the share of gates that are closed at the start, 0 < closed < 1 (0.3 as
            released); else a ValueError.
    """

    def __init__(self, filters: int, closed: float = 0.3) -> None:
        super().__init__()
        share = check_share(closed, "closed", zero=False)
        self.log_alpha = nn.Parameter(torch.full((filters,), math.log((1 - share) / share)))

    def open_probability(self) -> Tensor:
        """P(z > 0) of each gate, shape (filters,); its sum is the expected number of open gates."""
        return torch.sigmoid(self.log_alpha - TEMPERATURE * math.log(-LOW / HIGH))

    def gates(self) -> Tensor:
        """z of each filter, shape (filters,): drawn anew in training."""
        logits: Tensor = self.log_alpha
        if self.training:
            u = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            logits = (u.logit() + logits) / TEMPERATURE
        return (logits.sigmoid() * (HIGH - LOW) + LOW).clamp(0.0, 1.0)

    def forward(self, w: Tensor) -> Tensor:
        return w * self.gates().view(-1, *(1,) * (w.dim() - 1)).to(w.dtype)

    def extra_repr(self) -> str:
        return f"filters={len(self.log_alpha)}"


@dataclasses.dataclass(eq=False)
class L0Gates(_Parametrized):
    r"""Hard-concrete gates on filters and a price on open ones, :math:`\lambda\sum_{\text{filters}} \#w\; P(z > 0)`:
    the expected number of weights that are not zero.

    :meth:`attach` before the optimizer is made, as the gates have parameters of their own, which weight decay pulls to
    :math:`\log\alpha = 0`. :meth:`detach` multiplies the gates of evaluation mode into the weights.

    Args:
        strength: :math:`\lambda`, finite and >= 0 (the paper's, divided by the number of training examples).
        closed: see :class:`HardConcrete`. where: picks the layers; default: every ``Conv2d``.

    Raises:
        ValueError: a bad argument; nothing is picked, or a module without rows of weights, or one whose weight is
            parametrized already; later, a model without gates.
    """

    strength: float
    closed: float = 0.3
    where: Where = dataclasses.field(default=is_convolution, repr=False)
    _kind: ClassVar[type[nn.Module]] = HardConcrete

    def __post_init__(self) -> None:
        self.strength = check_positive(self.strength, "strength")
        HardConcrete(1, self.closed)

    def _mask(self, w: Tensor) -> nn.Module:
        return HardConcrete(len(w), self.closed).to(w.device)

    def penalty(self, model: nn.Module) -> Tensor:
        total = zero_like(model)
        for gate, w in _gated(model):
            total = total + w[0].numel() * gate.open_probability().sum()
        return self.strength * total

    @torch.no_grad()
    def after_step(self, model: nn.Module, lr: float | None = None) -> None:
        for gate, _ in _gated(model):  # the released bounds, beyond which the gradient vanishes
            if gate.log_alpha.requires_grad:
                gate.log_alpha.clamp_(math.log(0.01), math.log(100.0))


def survival(share: Tensor, law: str = "exp") -> Tensor:
    r"""How likely an offspring inherits what has this share of its parent's largest strength, 0 <= share <= 1.

    Law "exp", as we recall the published one: :math:`e^{\text{share}-1}`, from 0.37 for nothing at all to 1. Law
    "rescaled": :math:`(e^{\text{share}}-1)/(e-1)`, the same curve from 0 to 1. The result has the shape of ``share``.

    A ValueError for another law, or shares outside of that.
    """
    check_choice(law, LAWS, "law")
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError("share must lie between 0 and 1 everywhere")
    return (share - 1).exp() if law == "exp" else (share.expm1() / math.expm1(1)).clamp_max(1.0)  # no ulp above 1


def synapse_probability(w: Tensor, law: str = "exp") -> Tensor:
    r""":math:`P(w) = e^{\lvert w\rvert/Z - 1}` for each weight, where Z is the largest magnitude of the layer; without
    a gradient. Signs and a common factor do not matter; in a layer of zeros each has the probability of zero.

    Args:
        w: floating-point weights of one layer, finite and of any shape; else a ValueError. law: see :func:`survival`.
    """
    check_weights(w)
    size = w.detach().abs()
    top = size.amax() if size.numel() else size.sum()
    if not top.isfinite():
        raise ValueError("the weights hold NaN or infinity: load a sound checkpoint, or train with a lower lr")
    return survival(size / top.clamp_min(torch.finfo(w.dtype).tiny), law)


def stressed(
    w: Tensor,
    strength: float = 0.5,
    training: bool = True,
    *,
    law: str = "exp",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Weights under stress, :math:`\tilde w = w(1 - s\,m)` with an independent :math:`m \sim
    \mathrm{Bernoulli}(1-P(w))` for each: weights that an offspring may lack are weakened at random.

    .. math:: E[\tilde w] = w\,(1 - s(1-P)), \qquad \mathrm{Var}[\tilde w] = s^2w^2\,P(1-P).

    The formula is ours; we did not find the published one.

    Args:
        w, law: see :func:`synapse_probability`, also for the errors.
        strength: s, 0 <= s <= 1; at 1 a weight that is hit becomes zero.
        training: when false, or s = 0, ``w`` itself is returned.
        generator: source of the draws, on the device of ``w``; defaults to torch's global one.

    Returns:
        A tensor like ``w``; its gradient is :math:`1 - s\,m`.
    """
    s = check_fraction(strength, "strength")
    kept = synapse_probability(w, law)
    if not training or s == 0:
        return w
    hit = torch.rand(w.shape, generator=generator, device=w.device) >= kept
    return w * (1 - s * hit.to(w.dtype))


class StressMask(nn.Module):
    """The parametrization behind :class:`Stress`."""

    def __init__(self, strength: float, law: str) -> None:
        super().__init__()
        self.strength, self.law = strength, law

    def forward(self, w: Tensor) -> Tensor:
        return stressed(w, self.strength, law=self.law) if self.training else w

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}, law={self.law!r}"


@dataclasses.dataclass(eq=False)
class Stress(_Parametrized):
    """Weaken weights that an offspring may lack at random in training: :func:`stressed`, with new draws at each use of
    the weight, once per mini-batch. There is no penalty. :meth:`attach` before training, :meth:`detach` after it.

    In evaluation the weights are larger than on average in training: recalibrate BatchNorm
    (:func:`bridgeout_lite.pruning.recalibrate_batchnorm`) before evaluating.

    Args:
        strength: s, 0 <= s <= 1. law: see :func:`survival`. where: picks the layers; default: every ``Conv2d``.

    Raises:
        ValueError: a bad argument; on attaching, see :class:`L0Gates`.
    """

    strength: float = 0.5
    law: str = "exp"
    where: Where = dataclasses.field(default=is_convolution, repr=False)
    _kind: ClassVar[type[nn.Module]] = StressMask

    def __post_init__(self) -> None:
        self.strength = check_fraction(self.strength, "strength")
        check_choice(self.law, LAWS, "law")

    def _mask(self, w: Tensor) -> nn.Module:
        return StressMask(self.strength, self.law)


def _gated(model: nn.Module) -> list[tuple[HardConcrete, Tensor]]:
    """The gates of a model with the weights behind them."""
    found = {g: chain.original for _, chain in _chains(model) for g in chain if isinstance(g, HardConcrete)}
    if not found:
        raise ValueError("this model has no gates: call L0Gates(...).attach(model) before the optimizer is made")
    return list(found.items())


def _chains(model: nn.Module) -> list[tuple[nn.Module, Any]]:
    modules = [m for m in model.modules() if parametrize.is_parametrized(m, "weight")]
    return [(m, m.parametrizations["weight"]) for m in modules]  # type: ignore[index, union-attr]
