"""What the rivals share: where they act, how a run with one ends, and their checks."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from ..modules import Where, pick
from ..training import Regulariser as Regulariser


class Rival(Regulariser):
    """What rivals share: where they act, and that some can serve one model only."""

    where: Where | None = None
    _model: weakref.ref[nn.Module] | None = None  # the model met, for a method that keeps something about it

    def places(self, model: nn.Module) -> list[str]:
        return [name for name, module in model.named_modules() if self.where and self.where(name, module)]

    def _keep_to(self, model: nn.Module) -> None:
        if self._model is None:
            self._model = weakref.ref(model)
        elif self._model() is not model:
            raise ValueError(f"this {type(self).__name__} has met another model: make one for each")

    def __getstate__(self) -> dict[str, Any]:  # a copy may go with a copy of the model
        return {k: v for k, v in self.__dict__.items() if k != "_model"}


def finish(model: nn.Module, regulariser: Regulariser | None) -> nn.Module:
    """End a training: replace weights by their sparse copies (``settle``), remove gates, masks or hooks (``detach``),
    where the method has such. Changes ``model`` and returns it."""
    for end in ("settle", "detach"):
        if hasattr(regulariser, end):
            getattr(regulariser, end)(model)
    return model


def check_weights(w: Any, dimensions: int = 0) -> None:
    """ValueError unless ``w`` is a floating-point tensor with at least that many dimensions."""
    if not isinstance(w, Tensor) or not w.is_floating_point():
        raise ValueError(f"weights must be a floating-point tensor, got {getattr(w, 'dtype', type(w).__name__)}")
    if w.dim() < dimensions:
        raise ValueError(f"filters or rows need weights of {dimensions} dimensions or more, got shape {tuple(w.shape)}")


def is_convolution(name: str, module: nn.Module) -> bool:
    """Where penalties act by default: on every convolution, whose filters are the groups."""
    return isinstance(module, nn.Conv2d)


def pick_weights(model: nn.Module, where: Where) -> list[tuple[str, nn.Module]]:
    """:func:`bridgeout_lite.modules.pick`; ValueError too if a module has no filters or rows of weights."""
    picked = pick(model, where)
    for name, module in picked:
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() < 2 or isinstance(module, _ConvTransposeNd):
            raise ValueError(
                f"where() picked {name!r}, a {type(module).__name__}, which has no filters or rows of weights, one for "
                "each of its outputs: pick convolutions and linear layers only"
            )
    return picked


def clean_weight(name: str, module: nn.Module) -> nn.Parameter:
    """The weight that the optimizer moves: the clean one under a parametrization such as Bridgeout. ValueError if it is
    computed from other parameters."""
    if parametrize.is_parametrized(module, "weight"):
        weight = getattr(module.parametrizations["weight"], "original", None)  # type: ignore[index, union-attr]
    else:
        weight = module._parameters.get("weight")
    if isinstance(weight, nn.Parameter):
        return weight
    raise ValueError(
        f"{name!r} carries a pruning mask: call bl.pruning.apply_masks(model) first"
        if hasattr(module, "weight_mask")
        else f"the weight of {name!r} is made of other parameters (weight_norm, perhaps): take that off first"
    )


def parameters(model: nn.Module, where: Where) -> list[nn.Parameter]:
    """The clean weights of the picked modules, shared ones once."""
    return list(dict.fromkeys(clean_weight(name, module) for name, module in pick_weights(model, where)))


def zero_like(model: nn.Module) -> Tensor:
    """A scalar 0 on the model's device."""
    first = next(model.parameters(), None)
    if first is None:
        raise ValueError("this model has no parameters: there is nothing to train or to penalise")
    return torch.zeros((), device=first.device)
