"""The noise as building blocks: a drop-in for ``nn.Dropout``, a weight parametrization, and attach / detach.

A model file never mentions a method: :func:`attach_sparseout` and :func:`attach_bridgeout` add the noise to any
``nn.Module`` from outside, and the detach functions take it off again and leave the plain state-dict keys.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .noise import bridgeout, check_noise, sparseout

Where = Callable[[str, nn.Module], bool]

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus)


class Sparseout(nn.Module):
    r"""Sparseout on activations, a drop-in for ``nn.Dropout``: noise of variance :math:`|x|^q\\,p/(1-p)` in training,
    the identity in evaluation. Arguments and errors as in :func:`bridgeout_lite.sparseout`.

    Shape: any; the output has the shape, dtype and device of the input.

    Example:
        >>> layer = Sparseout(p=0.5, q=1.0).eval()
        >>> x = torch.ones(3)
        >>> layer(x) is x
        True
    """

    def __init__(self, p: float = 0.5, q: float = 2.0, *, form: str = "odd", gradient: str = "exact") -> None:
        super().__init__()
        self.p, self.q = check_noise(p, q, form, gradient)
        self.form, self.gradient = form, gradient

    def forward(self, x: Tensor) -> Tensor:
        return sparseout(x, self.p, self.q, self.training, form=self.form, gradient=self.gradient)

    def extra_repr(self) -> str:
        return f"p={self.p:g}, q={self.q:g}, form={self.form!r}, gradient={self.gradient!r}"


class Bridgeout(nn.Module):
    r"""Bridgeout as a parametrization of a weight, for ``torch.nn.utils.parametrize``.

    Each read of the weight in training mode draws a fresh mask; the forward pass of a layer reads it once, so a mask
    is shared by the mini-batch (Batch Bridgeout). Evaluation sees the clean weight. Arguments and errors as in
    :func:`bridgeout_lite.bridgeout`.

    Example:
        >>> layer = parametrize.register_parametrization(nn.Linear(4, 2), "weight", Bridgeout(p=0.5, q=1.0))
        >>> bool((layer.weight == layer.weight).all()), bool((layer.eval().weight == layer.weight).all())
        (False, True)
    """

    def __init__(
        self,
        p: float = 0.5,
        q: float = 2.0,
        *,
        form: str = "even",
        gradient: str = "exact",
        target_fraction: float = 1.0,
    ) -> None:
        super().__init__()
        self.p, self.q = check_noise(p, q, form, gradient)
        self.form, self.gradient, self.target_fraction = form, gradient, target_fraction
        # an empty draw checks the remaining argument in the one place that knows its range
        bridgeout(torch.empty(0), self.p, self.q, target_fraction=target_fraction)

    def forward(self, w: Tensor) -> Tensor:
        return bridgeout(
            w,
            self.p,
            self.q,
            self.training,
            form=self.form,
            gradient=self.gradient,
            target_fraction=self.target_fraction,
        )

    def right_inverse(self, w: Tensor) -> Tensor:
        return w

    def extra_repr(self) -> str:
        return (
            f"p={self.p:g}, q={self.q:g}, form={self.form!r}, gradient={self.gradient!r}, "
            f"target_fraction={self.target_fraction:g}"
        )


def is_activation(name: str, module: nn.Module) -> bool:
    """The default place of Sparseout: behind every nonlinearity."""
    return isinstance(module, ACTIVATIONS)


def is_3x3_convolution(name: str, module: nn.Module) -> bool:
    """The default place of Bridgeout: the weights of every 3x3 convolution."""
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)


def attach_sparseout(
    model: nn.Module,
    p: float,
    q: float,
    *,
    form: str = "odd",
    gradient: str = "exact",
    where: Where | None = None,
) -> nn.Module:
    """Pass the output of every module that ``where(name, module)`` picks (default: every nonlinearity) through a
    :class:`Sparseout` layer, which appears in it as the submodule ``sparseout``. Changes ``model`` and returns it.

    Raises:
        ValueError: bad p, q, form or gradient; nothing is picked; Sparseout is already attached there.
    """
    picked = _pick(model, where or is_activation)
    for name, module in picked:
        if hasattr(module, "sparseout"):
            raise ValueError(f"Sparseout is already attached to {name!r}; call detach_sparseout(model) first")
    for _, module in picked:
        module.add_module("sparseout", Sparseout(p, q, form=form, gradient=gradient).train(module.training))
        module._bridgeout_hook = module.register_forward_hook(_through_sparseout)  # type: ignore[assignment]
    return model


def _through_sparseout(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    noisy: Tensor = module.get_submodule("sparseout")(output)
    return noisy


def detach_sparseout(model: nn.Module) -> nn.Module:
    """Undo :func:`attach_sparseout`. Changes ``model`` and returns it; a model without Sparseout is left as it is."""
    for module in list(model.modules()):
        if "_bridgeout_hook" in module.__dict__:
            module.__dict__.pop("_bridgeout_hook").remove()
            del module.sparseout
    return model


def attach_bridgeout(
    model: nn.Module,
    p: float,
    q: float,
    *,
    form: str = "even",
    gradient: str = "exact",
    target_fraction: float = 1.0,
    where: Where | None = None,
) -> nn.Module:
    """Parametrize the weight of every module that ``where(name, module)`` picks (default: every 3x3 ``Conv2d``)
    by :class:`Bridgeout`. Changes ``model`` and returns it.

    Raises:
        ValueError: bad arguments; nothing is picked; a picked module has no weight or carries Bridgeout already.
    """
    picked = _pick(model, where or is_3x3_convolution)
    for name, module in picked:
        if not isinstance(getattr(module, "weight", None), Tensor):
            raise ValueError(f"Bridgeout needs a module with a weight, but {name!r} is a {type(module).__name__}")
        if _bridgeouts(module):
            raise ValueError(f"Bridgeout is already attached to {name!r}; call detach_bridgeout(model) first")
    for _, module in picked:
        noise = Bridgeout(p, q, form=form, gradient=gradient, target_fraction=target_fraction)
        parametrize.register_parametrization(module, "weight", noise.train(module.training))
    return model


def detach_bridgeout(model: nn.Module) -> nn.Module:
    """Undo :func:`attach_bridgeout`: the clean trained weights under their original state-dict keys.
    Changes ``model`` and returns it."""
    for module in list(model.modules()):
        ours = _bridgeouts(module)
        if not ours:
            continue
        chain = module.parametrizations["weight"]  # type: ignore[index, union-attr]
        if len(ours) < len(chain):  # the user's own parametrizations of this weight stay
            for position in reversed([k for k, p in enumerate(chain) if isinstance(p, Bridgeout)]):
                del chain[position]  # type: ignore[union-attr]
            continue
        # torch keeps the parametrized weight as a property of a class made for the module, which deep copies share
        shared = type(module)
        module.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
        # leave_parametrized=True would freeze one noisy draw into the weight
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        # the weight comes back last; optimizers and state dicts count on its old place, first
        for name in [name for name in module._parameters if name != "weight"]:
            module._parameters[name] = module._parameters.pop(name)
    return model


def _bridgeouts(module: nn.Module) -> list[nn.Module]:
    if not parametrize.is_parametrized(module, "weight"):
        return []
    return [p for p in module.parametrizations["weight"] if isinstance(p, Bridgeout)]  # type: ignore[index, union-attr]


def _pick(model: nn.Module, where: Where) -> list[tuple[str, nn.Module]]:
    picked = [(name, module) for name, module in model.named_modules() if where(name, module)]
    if not picked:
        kinds = sorted({type(m).__name__ for m in model.modules()})
        raise ValueError(f"nothing to attach to: where() picked no module of this model, which has {', '.join(kinds)}")
    return picked
