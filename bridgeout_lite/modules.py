"""Looking into a module from outside: pick parts of it, run it once in evaluation mode, capture its outputs."""

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Where = Callable[[str, nn.Module], bool]

# Largest difference, relative to the largest output (or to 0.01), at which two forms of a network count as the same.
AGREEMENT = 1e-4


def pick(model: nn.Module, where: Where) -> list[tuple[str, nn.Module]]:
    """Names and modules for which ``where(name, module)`` is true; ValueError if there are none."""
    if not callable(where):
        raise ValueError(f"where must be a function of a module's name and the module, got {where!r}")
    picked = [(name, module) for name, module in model.named_modules() if where(name, module)]
    if not picked:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise ValueError(
            f"where() picked no module of this model, so there is nothing to act on; it has {kinds}: "
            "choose with where=lambda name, module: ..."
        )
    return picked


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards, also after an error, every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from torch's CPU generator as after ``torch.manual_seed(seed)``; afterwards its state is what it was.
    With None the global state is used and advanced as usual."""
    with torch.random.fork_rng([], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def run_once(model: nn.Module, example_input: Tensor) -> Any:
    """The output, of whatever kind, of one forward pass in evaluation mode, on the model's device.

    Raises:
        ValueError: not a batch of samples, or not one that the model takes.
    """
    if not isinstance(example_input, Tensor) or example_input.dim() < 2 or not len(example_input):
        got = tuple(example_input.shape) if isinstance(example_input, Tensor) else type(example_input).__name__
        raise ValueError(
            f"example_input must be a batch of samples, such as images.normalize(images.valid.x[:1]); got {got}"
        )
    try:
        with evaluating(model), torch.inference_mode():
            return model(example_input.to(device_of(model, example_input)))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the model does not take an example_input of shape {tuple(example_input.shape)} and {example_input.dtype} "
            f"({reason}): give one batch as the model takes it, such as images.normalize(images.valid.x[:1])"
        ) from error


def run_exactly(model: nn.Module, example_input: Tensor) -> Any:
    """:func:`run_once` of a copy, on a CPU and in float32: a GPU may round the inputs of a convolution to 10 bits
    (TF32)."""
    return run_once(copy.deepcopy(model).cpu().float(), example_input.cpu().float())


def doubled(x: Tensor) -> Tensor:
    """``x`` in float64, on its device, or on a CPU if that is an Apple GPU, which has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def device_of(model: nn.Module, example_input: Tensor) -> torch.device:
    """The device of the parameters; of the input if there are none."""
    return next((p.device for p in model.parameters()), example_input.device)


def agree(a: Any, b: Any) -> bool:
    """Whether two outputs, tensors or whatever holds them, differ by rounding only (see ``AGREEMENT``; half precision
    rounds more coarsely)."""
    pairs = [[t for t in tree_leaves(out) if isinstance(t, Tensor)] for out in (a, b)]
    return len(pairs[0]) == len(pairs[1]) and all(itertools.starmap(_close, zip(*pairs, strict=True)))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not a.is_floating_point():
        return torch.equal(a, b)
    limit = max(AGREEMENT, 10 * max(torch.finfo(t.dtype).eps for t in (a, b)))
    a, b = a.float(), b.float()
    return bool((a - b).abs().max() <= limit * b.abs().max().clamp_min(0.01)) if len(a.flatten()) else True


@torch.no_grad()
def capture_activations(model: nn.Module, inputs: Tensor, *, where: Where | None = None) -> dict[str, Tensor]:
    """Run ``model`` on ``inputs`` in evaluation mode and return the outputs of chosen layers.

    Args:
        model: any module; its modes are restored.
        inputs: one batch, as the model takes it.
        where: ``where(name, module) -> bool`` picks the layers. Default: every nonlinearity, or every leaf module if
            the model has no nonlinearity that is a module.

    Returns:
        ``{layer name: output}`` in the order of execution.

    Raises:
        ValueError: nothing is picked; a picked module runs twice in the forward pass, so has no single output.
    """
    chosen = _nonlinearities(model) if where is None else pick(model, where)
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: object, out: object) -> None:
        if name in outputs:
            raise ValueError(
                f"{name!r} runs twice in one forward pass: give each use a module of its own, or leave it out by where"
            )
        if isinstance(out, Tensor):
            outputs[name] = out.detach().clone()  # a later in-place operation would overwrite it

    with evaluating(model), contextlib.ExitStack() as hooks:
        for name, module in chosen:
            hooks.enter_context(module.register_forward_hook(functools.partial(keep, name)))
        model(inputs)
    return outputs


def _nonlinearities(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """torch's activation modules, or all leaves of a model that has none."""
    named = list(model.named_modules())
    found = [(n, m) for n, m in named if type(m).__module__ == "torch.nn.modules.activation"]
    found = [(n, m) for n, m in found if not isinstance(m, nn.MultiheadAttention)]
    return found or [(n, m) for n, m in named if not list(m.children())]
