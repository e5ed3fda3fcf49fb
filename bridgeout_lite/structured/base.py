"""What every rival is to a training loop, and the checks that they share."""

import math
import numbers
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..layers import Where


class Regulariser:
    """What a training loop needs to know of a method: a term of the loss, and what follows a step."""

    def penalty(self, model: nn.Module) -> Tensor:
        """A scalar to add to the mean loss of the mini-batch that the model has just seen."""
        raise NotImplementedError

    def after_step(self, model: nn.Module, lr: float | None = None) -> None:
        """What the method does once the optimizer has stepped with learning rate ``lr``; most do nothing."""

    def resume(self, steps: int) -> None:
        """Be what the method is after so many steps of a run whose model is as it was then; 0 at the start of one. Most
        have no state beside the model's."""


def finish(model: nn.Module, regulariser: Regulariser | None) -> nn.Module:
    """End a training as the method says: put sparse copies in the place of weights (``settle``), take gates, masks or
    watchers off (``detach``). Changes ``model`` and returns it; nothing happens for a method that asks for neither."""
    for end in ("settle", "detach"):
        if hasattr(regulariser, end):
            getattr(regulariser, end)(model)
    return model


def check_positive(value: Any, name: str, *, zero: bool = True) -> float:
    """Return ``value`` as a float, or raise ValueError unless it is a finite number >= 0 (> 0 without ``zero``)."""
    good = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} must be a finite number {'>= 0' if zero else '> 0'}, got {value!r}")
    return float(value)


def is_convolution(name: str, module: nn.Module) -> bool:
    """The default place of the penalties: the weights of every convolution, groups being its filters."""
    return isinstance(module, nn.Conv2d)


def pick(model: nn.Module, where: Where) -> list[tuple[str, nn.Module]]:
    """The modules that ``where(name, module)`` picks; ValueError if there are none or one has no matrix of weights."""
    picked = [(name, module) for name, module in model.named_modules() if where(name, module)]
    if not picked:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise ValueError(f"where() picked no module of this model, so there is nothing to act on; it has {kinds}")
    for name, module in picked:
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() < 2:
            raise ValueError(
                f"where() picked {name!r}, a {type(module).__name__}, which has no filters or rows of weights: pick "
                "convolutions and linear layers only"
            )
    return picked


def parameters(model: nn.Module, where: Where) -> dict[nn.Module, nn.Parameter]:
    """The weight that the optimizer moves, by module: under a parametrization such as Bridgeout the clean one."""
    result = {}
    for name, module in pick(model, where):
        if hasattr(module, "weight_mask"):
            raise ValueError(f"{name!r} carries a pruning mask: call bl.pruning.apply_masks(model) first")
        if parametrize.is_parametrized(module, "weight"):
            result[module] = module.parametrizations["weight"].original  # type: ignore[index, union-attr]
        else:
            result[module] = module.weight
    return result  # type: ignore[return-value]


def zero_like(model: nn.Module) -> Tensor:
    """A scalar 0 where the model is."""
    return torch.zeros((), device=next(model.parameters()).device)
