"""Looking into a module from outside: run it once in evaluation mode, pick parts of it, keep what they put out."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

# Largest difference, relative to the largest output (or to 0.01), at which two forms of a network count as the same.
AGREEMENT = 1e-4


def run_once(model: nn.Module, example_input: Tensor) -> Tensor:
    """The output of one forward pass in evaluation mode, on the model's device.

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
            out: Tensor = model(example_input.to(device_of(model, example_input)))
            return out
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the model does not take an example_input of shape {tuple(example_input.shape)} and {example_input.dtype} "
            f"({reason}): give one batch as the model takes it, such as images.normalize(images.valid.x[:1])"
        ) from error


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module, example_input: Tensor) -> torch.device:
    """Where the parameters are; without any, where the input is."""
    return next((p.device for p in model.parameters()), example_input.device)


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs of what should be one network differ by rounding only (see ``AGREEMENT``)."""
    return a.shape == b.shape and bool((a - b).abs().max() <= AGREEMENT * b.abs().max().clamp_min(0.01))


Where = Callable[[str, nn.Module], bool]


@torch.no_grad()
def capture_activations(
    model: nn.Module, inputs: Tensor, *, where: Callable[[str, nn.Module], bool] | None = None
) -> dict[str, Tensor]:
    """The outputs themselves, ``{layer name: tensor}``; arguments and errors as in :func:`record_activations`."""
    leaves = [(n, m) for n, m in model.named_modules() if not list(m.children())]
    if where is None:
        chosen = [(n, m) for n, m in model.named_modules() if type(m).__module__ == "torch.nn.modules.activation"]
        chosen = [(n, m) for n, m in chosen if not isinstance(m, nn.MultiheadAttention)] or leaves
    else:
        chosen = [(n, m) for n, m in model.named_modules() if where(n, m)]
    if not chosen:
        raise ValueError("where() picked no module of this model: nothing to record")
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, args: object, out: object) -> None:
            if name in outputs:
                raise ValueError(
                    f"{name!r} runs twice in one forward pass: give each use a module of its own, or leave it out with "
                    "where"
                )
            if isinstance(out, Tensor):
                outputs[name] = out.detach().clone()  # an in-place nonlinearity behind it would overwrite it

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in chosen]
    modes = [(module, module.training) for module in model.modules()]  # a frozen BatchNorm stays frozen
    try:
        model.eval()(inputs)
    finally:
        for module, training in modes:
            module.training = training
        for handle in handles:
            handle.remove()
    return outputs


def modules_where(model: nn.Module, where: Where) -> list[tuple[str, nn.Module]]:
    """The modules that ``where(name, module)`` picks; ValueError if there are none, or it is no function."""
    if not callable(where):
        raise ValueError(f"where must be a function of a module's name and the module, got {where!r}")
    picked = [(name, module) for name, module in model.named_modules() if where(name, module)]
    if not picked:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise ValueError(f"where() picked no module of this model, so there is nothing to act on; it has {kinds}")
    return picked
