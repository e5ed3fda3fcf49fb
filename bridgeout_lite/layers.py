"""The noise as building blocks: a drop-in for ``nn.Dropout``, a weight parametrization, and attach / detach.

:func:`attach_sparseout` and :func:`attach_bridgeout` add the noise to any ``nn.Module`` from outside; the detach
functions remove it and leave the original state-dict keys.
"""

import threading
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from .modules import Where, pick
from .noise import bridgeout, check_noise, sparseout

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus)


class Sparseout(nn.Module):
    r"""Sparseout on activations, a drop-in for ``nn.Dropout``: noise of variance :math:`|x|^q\,p/(1-p)` in training,
    the identity in evaluation. It draws from torch's global generator.

    Args:
        p: drop probability, 0 <= p < 1.
        q: exponent of the penalty, finite and >= 0: 2 is Dropout, below 2 makes activations sparser.
        form: ``"odd"`` moves x along its sign, as released; ``"even"`` by the same amount whatever its sign.
        gradient: ``"exact"``, or ``"constant"``, which treats the noise factor :math:`|x|^{q/2-1}\xi` as a constant, as
            the released backward does: the penalty pulls 2/q times as strongly.
        shared: a dimension along which all elements get the same noise, such as time. By default each has its own.
        matched: p is that of q = 2: at any other q it is set batch by batch so that the noise has the same power,
            relative to its input.

    Shape: any; the output has the shape, dtype and device of the input.

    Raises:
        ValueError: an argument outside of that; in training, an input that is no floating-point tensor.

    Example:
        >>> layer = Sparseout(p=0.5, q=1.0)
        >>> x = torch.tensor([0.25, 4.0])
        >>> bool(((layer(x) - x).abs() == x.sqrt()).all())      # the noise is sqrt(x) times +1 or -1
        True
        >>> layer.eval()(x) is x
        True
    """

    def __init__(
        self,
        p: float = 0.5,
        q: float = 2.0,
        *,
        form: str = "odd",
        gradient: str = "exact",
        shared: int | None = None,
        matched: bool = False,
    ) -> None:
        super().__init__()
        self.p, self.q = check_noise(p, q, form, gradient)
        self.form, self.gradient, self.shared, self.matched = form, gradient, shared, matched

    def forward(self, x: Tensor) -> Tensor:
        p = self._matched_p(x.detach()) if self.matched and self.training else self.p
        return sparseout(x, p, self.q, self.training, form=self.form, gradient=self.gradient, shared=self.shared)

    def _matched_p(self, x: Tensor) -> float:
        on = x[x != 0].float().abs()  # |0|^q is 0 here, whatever q
        power = on.pow(self.q).sum().item()
        odds = self.p / (1 - self.p) * on.square().sum().item() / power if power else 0.0
        return odds / (1 + odds)

    def extra_repr(self) -> str:
        knobs = f"p={self.p:g}, q={self.q:g}, form={self.form!r}, gradient={self.gradient!r}"
        return knobs + f", shared={self.shared}" * (self.shared is not None) + ", matched=True" * self.matched


class Bridgeout(nn.Module):
    r"""Bridgeout as a parametrization of a weight: noise of variance :math:`|w|^q\,p/(1-p)` in training, the clean
    weight in evaluation. It draws from torch's global generator.

    Usually :func:`attach_bridgeout` puts it on a model: the mask is then drawn once per forward pass. Registered by
    hand with ``torch.nn.utils.parametrize``, each read of the weight in training mode draws a fresh mask.

    Args:
        p: drop probability, 0 <= p < 1.
        q: exponent of the penalty, finite and >= 0: 2 is a ridge, 1 a lasso.
        form: ``"even"`` moves w by the same amount whatever its sign, as released; ``"odd"`` along its sign.
        gradient: ``"exact"``, or ``"constant"``, which treats the noise factor :math:`|w|^{q/2-1}\xi` as a constant.
        target_fraction: share of the weights to perturb, the smallest ones, 0 <= target_fraction <= 1.
        target: what is ranked by size: the 2-D ``"kernels"`` of each filter, or whole ``"filters"``; see
            :func:`bridgeout_lite.bridgeout`.

    Raises:
        ValueError: an argument outside of that; in training, a weight that is no floating-point tensor.

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
        target: str = "kernels",
    ) -> None:
        super().__init__()
        self.p, self.q = check_noise(p, q, form, gradient)
        self.form, self.gradient, self.target_fraction, self.target = form, gradient, target_fraction, target
        # an empty draw checks the other arguments in the one place that knows what they may be
        bridgeout(torch.empty(0), self.p, self.q, target_fraction=target_fraction, target=target)
        self.calls: _Calls | None = None  # of the model that attach_bridgeout was given

    def forward(self, w: Tensor) -> Tensor:
        if self.calls is None:
            return self._draw(w)
        if not self.training or not self.calls.noisy:
            return w
        noisy = self.calls.noisy[-1]
        if self not in noisy:
            with torch.enable_grad():  # the first use may stand under no_grad, a later one not
                noisy[self] = self._draw(w)
        return noisy[self]

    def _draw(self, w: Tensor) -> Tensor:
        knobs: dict[str, Any] = {"form": self.form, "gradient": self.gradient, "target": self.target}
        return bridgeout(w, self.p, self.q, self.training, target_fraction=self.target_fraction, **knobs)

    def train(self, mode: bool = True) -> "Bridgeout":
        if self.calls is not None:
            self.calls.noisy.clear()  # left behind by a call that was interrupted from the keyboard
        return super().train(mode)

    def right_inverse(self, w: Tensor) -> Tensor:
        return w

    def extra_repr(self) -> str:
        return (
            f"p={self.p:g}, q={self.q:g}, form={self.form!r}, gradient={self.gradient!r}, "
            f"target_fraction={self.target_fraction:g}" + f", target={self.target!r}" * (self.target != "kernels")
        )


class _Calls(threading.local):
    """The calls of one attached model that are under way in this thread, innermost last: for each, the noisy weights
    drawn in it so far. Its methods are the model's hooks.

    A call of the model starts with none. A call of one of its parts shares those of the call around it, and starts with
    none only without such a call (``model.features(x)``). torch's ``parametrize.cached()`` cannot serve here: the
    caller has to open it, all threads share it, and it leaves the weight noisy outside.
    """

    def __init__(self) -> None:
        self.noisy: list[dict[Bridgeout, Tensor]] = []

    def __reduce__(self) -> Any:  # a copy of the model is in no call
        return _Calls, ()

    def enter_model(self, module: nn.Module, inputs: Any) -> None:
        self.noisy.append({})

    def enter_part(self, module: nn.Module, inputs: Any) -> None:
        self.noisy.append(self.noisy[-1] if self.noisy else {})

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        del self.noisy[-1:]


def is_activation(name: str, module: nn.Module) -> bool:
    """Where Sparseout goes by default: behind every nonlinearity."""
    return isinstance(module, ACTIVATIONS)


def is_3x3_convolution(name: str, module: nn.Module) -> bool:
    """Where Bridgeout goes by default: on the weights of every 3x3 convolution."""
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)


def attach_sparseout(
    model: nn.Module,
    p: float,
    q: float,
    *,
    form: str = "odd",
    gradient: str = "exact",
    shared: int | None = None,
    matched: bool = False,
    where: Where | None = None,
) -> nn.Module:
    """Pass the output of chosen modules through a :class:`Sparseout` layer each. Changes ``model`` and returns it.

    The layer becomes the submodule ``sparseout``. A module with children may run through all of them, and count them:
    its layer is held aside and is in training mode when the module is.

    Args:
        model: any module.
        p, q, form, gradient, shared, matched: see :class:`Sparseout`.
        where: ``where(name, module) -> bool`` picks the modules. Default: every nonlinearity.

    Raises:
        ValueError: a bad argument; nothing is picked; Sparseout is already attached to a picked module.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> attach_sparseout(model, p=0.3, q=1.0)[1]
        ReLU(
          (sparseout): Sparseout(p=0.3, q=1, form='odd', gradient='exact')
        )
        >>> detach_sparseout(model)[1]
        ReLU()
    """
    picked = pick(model, where or is_activation)
    for name, module in picked:
        if hasattr(module, "sparseout"):
            raise ValueError(f"Sparseout is already attached to {name!r}; call detach_sparseout(model) first")
    for _, module in picked:
        layer = Sparseout(p, q, form=form, gradient=gradient, shared=shared, matched=matched)
        if list(module.children()):
            module.__dict__["sparseout"] = layer
        else:
            module.add_module("sparseout", layer.train(module.training))
        module._bridgeout_hook = module.register_forward_hook(_through_sparseout)  # type: ignore[assignment]
    return model


def _through_sparseout(module: Any, inputs: Any, output: Tensor) -> Tensor:
    layer = module.sparseout
    if "sparseout" not in module._modules and layer.training != module.training:
        layer.train(module.training)
    noisy: Tensor = layer(output)
    return noisy


def noise_aside(model: nn.Module) -> str:
    """The Sparseout layers that ``repr(model)`` does not show, as text; empty if there are none."""
    aside = {name: module.__dict__.get("sparseout") for name, module in model.named_modules()}
    return ", ".join(f"{name}: {layer}" for name, layer in aside.items() if layer is not None)


def detach_sparseout(model: nn.Module) -> nn.Module:
    """Undo :func:`attach_sparseout`, if it was called. Changes ``model`` and returns it."""
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
    target: str = "kernels",
    where: Where | None = None,
) -> nn.Module:
    """Parametrize the weight of chosen modules by :class:`Bridgeout`. Changes ``model`` and returns it.

    In training mode each call of ``model`` draws one mask per weight, at its first use, for the whole mini-batch (Batch
    Bridgeout); later uses in that call see the same noisy weight, also where several modules share it. A part of the
    model that is called on its own draws for that call. Outside of a call, and in evaluation, ``weight`` is the clean
    weight: what norms, pruning, inspection and the optimizer should see. A part that is recomputed in the backward pass
    (``torch.utils.checkpoint``) draws the same mask again, provided that ``preserve_rng_state`` is on and it shares no
    weight with the rest of the model.

    Args:
        model: any module.
        p, q, form, gradient, target_fraction, target: see :class:`Bridgeout`.
        where: ``where(name, module) -> bool`` picks the modules. Default: every 3x3 ``Conv2d``.

    Raises:
        ValueError: a bad argument; nothing is picked; a picked module has no floating-point weight yet, computes it
            from others (a mask, or weight_norm and spectral_norm by hooks), or carries Bridgeout already.

    Example:
        >>> model = attach_bridgeout(nn.Sequential(nn.Conv2d(3, 8, 3)), p=0.5, q=1.0)
        >>> model[0].parametrizations.weight[0]
        Bridgeout(p=0.5, q=1, form='even', gradient='exact', target_fraction=1)
        >>> detach_bridgeout(model)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        )
    """
    picked = pick(model, where or is_3x3_convolution)
    for name, module in picked:
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            raise ValueError(f"Bridgeout needs a module with a weight, but {name!r} is a {type(module).__name__}")
        if "weight" not in {*module._parameters, *module._buffers, *getattr(module, "parametrizations", ())}:
            cure = "prune.remove" if prune.is_pruned(module) else "remove_weight_norm or remove_spectral_norm"
            raise ValueError(f"the weight of {name!r} is computed from others in each pass: call torch's {cure} first")
        if isinstance(weight, nn.UninitializedParameter):
            raise ValueError(f"the weight of {name!r} has no shape yet: run one batch through the model first")
        if not weight.is_floating_point():
            raise ValueError(f"Bridgeout needs floating-point weights, but those of {name!r} are {weight.dtype}")
        if _bridgeouts(module):
            raise ValueError(f"Bridgeout is already attached to {name!r}; call detach_bridgeout(model) first")
    make = partial(Bridgeout, p, q, form=form, gradient=gradient, target_fraction=target_fraction, target=target)
    make()  # finds bad arguments before anything is changed
    calls = _Calls()
    chosen = {module for _, module in picked}
    for module in [m for m in model.modules() if chosen.intersection(m.modules())]:
        enter = calls.enter_model if module is model else calls.enter_part
        handles = (
            module.register_forward_pre_hook(enter, prepend=True),
            module.register_forward_hook(calls.leave, always_call=True),
        )
        module.__dict__.setdefault("_bridgeout_calls", []).extend(handles)
    noises: dict[Any, Bridgeout] = {}
    for _, module in picked:
        noise = noises.setdefault(module.weight, make())  # one for a weight that several modules share
        noise.calls = calls
        put_on_weight(module, noise.train(module.training))
    return model


def detach_bridgeout(model: nn.Module) -> nn.Module:
    """Undo :func:`attach_bridgeout`: clean trained weights, original state-dict keys. Changes ``model``, returns it."""
    for module in list(model.modules()):
        for handle in module.__dict__.pop("_bridgeout_calls", []):
            handle.remove()
        ours = _bridgeouts(module)
        chain: Any = module.parametrizations["weight"] if ours else []  # type: ignore[index, union-attr]
        if ours and len(ours) == len(chain):
            take_off_weight(module)
        else:  # the user's own parametrizations of this weight stay
            for position in reversed([k for k, p in enumerate(chain) if isinstance(p, Bridgeout)]):
                del chain[position]
    return model


class _InOrder(nn.Identity):
    """Holds a parameter at its place behind a parametrized weight."""


def put_on_weight(module: nn.Module, noise: nn.Module) -> None:
    """Parametrize the weight. An optimizer's saved state goes by the order of parameters, which stays: a parametrized
    weight stands behind what the module itself holds, so what followed it is held as it is."""
    later = list(module._parameters)
    later = later[later.index("weight") + 1 :] if "weight" in later else []
    parametrize.register_parametrization(module, "weight", noise)
    module._modules = {"parametrizations": module._modules.pop("parametrizations")} | module._modules
    for name in later:
        if module._parameters[name] is not None:
            parametrize.register_parametrization(module, name, _InOrder())


def take_off_weight(module: nn.Module) -> None:
    """Give a module its original weight back, as if it had never been parametrized."""
    # torch makes a class for the module, with the weight as a property, which deep copies share
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
    chains: Any = module.parametrizations
    held = [name for name, chain in chains.items() if type(chain[0]) is _InOrder]
    for name in ["weight", *held]:
        # leave_parametrized=True would freeze one noisy draw into the weight
        parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    if "bias" in module._parameters and not held:  # none, or parametrized by hand: it comes behind the weight
        module._parameters["bias"] = module._parameters.pop("bias")


def _bridgeouts(module: nn.Module) -> list[nn.Module]:
    if not parametrize.is_parametrized(module, "weight"):
        return []
    return [p for p in module.parametrizations["weight"] if isinstance(p, Bridgeout)]  # type: ignore[index, union-attr]
