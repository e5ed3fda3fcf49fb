"""Which channels of a network are tied together, and cutting them out: by Torch-Pruning (Fang et al. 2023,
arXiv:2301.12900), which traces how layers are connected.

Example:
    >>> model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)), torch.zeros(1, 3, 8, 8)
    >>> [(group.root, group.size, group.readers) for group in channel_groups(model, x)]
    [('0', 8, ('2',))]
    >>> remove_channels(model, {"0": [1, 2]}, x)[2]
    Conv2d(6, 2, kernel_size=(3, 3), stride=(1, 1))
"""

import contextlib
import copy
import dataclasses
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils import prune as masks

from .checks import library
from .modules import agree, device_of, evaluating, run_once

# Layers that a channel may pass through or end in without being tied to its neighbours.
CUTTABLE = (nn.Conv2d, nn.Linear, _BatchNorm, nn.PReLU)


# What still can be done with a model whose channels cannot be told apart.
REMEDY = "prune with silence=False"


@dataclasses.dataclass(frozen=True)
class Member:
    """A layer's part in a group: entry k of ``places`` on its output (``writes``) or input side is channel
    ``channels[k]`` of the group. A layer behind ``nn.Flatten`` reads one channel at many places."""

    layer: str
    writes: bool
    places: Tensor
    channels: Tensor


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels that run through the same layers. ``root`` is the first convolution that makes them, ``size`` their
    number."""

    root: str
    size: int
    members: tuple[Member, ...]

    @property
    def writers(self) -> tuple[str, ...]:
        """Names of the layers that make these channels."""
        return tuple(m.layer for m in self.members if m.writes)

    @property
    def readers(self) -> tuple[str, ...]:
        """Names of the layers that read them."""
        return tuple(m.layer for m in self.members if not m.writes)


def channel_groups(model: nn.Module, example_input: Tensor | None = None) -> list[ChannelGroup]:
    """The groups of a model, in the order of their first convolutions; without the channels that are its outputs.

    Args:
        model: any module with convolutions; it is left as it is.
        example_input: a batch as the model takes it; defaults to one black image of 32x32.

    Raises:
        ValueError: no convolutions, layers that cannot be paired (grouped convolutions, GroupNorm, a model all of whose
            channels are outputs, ...), noise or another parametrization on the weights (detach it first), or an input
            that the model does not take.
        ImportError: Torch-Pruning is missing.
    """
    check_model(model)
    graph = trace(plain_copy(model), example_input)
    groups = _groups(graph)
    try:
        roots = {graph.model.get_submodule(group.root): range(0, group.size, 2) for group in groups}
        check_pairs(graph, {conv: [*channels] for conv, channels in roots.items()}, example_input)
    except ValueError as error:
        raise _unpaired(error) from error
    return groups


def remove_channels(model: nn.Module, picks: Mapping[str, Iterable[int]], example_input: Tensor) -> nn.Module:
    """A smaller network without some channels: filters go with their biases and BatchNorm, with the weights that read
    them, and with whatever additions tie to them. On ``example_input`` it is checked to compute, up to rounding, what
    the model does with all that set to zero. ``model`` is left as it is; masks become ordinary zeros.

    Args:
        model: see :func:`channel_groups`.
        picks: numbers of channels to remove, by the root of their group.
        example_input: a batch as the model takes it.

    Raises:
        ValueError: see :func:`channel_groups`; a name that is not the root of a group; a channel that is not there, or
            every channel of a group; a smaller network whose output differs, which means that the model mixes channels
            where no module shows it.
        ImportError: Torch-Pruning is missing.
    """
    check_model(model)
    silenced, graph = plain_copy(model), trace(plain_copy(model), example_input)
    small: nn.Module = graph.model
    chosen: Any = {small.get_submodule(k): v for k, v in _checked(picks, _groups(graph)).items()}
    check_pairs(graph, chosen, example_input)
    for (layer, name), kept in silencing_masks(graph, chosen).items():
        silenced.get_submodule(layer).get_parameter(name).data.mul_(kept)
    for conv, channels in chosen.items():
        group_of(graph, conv, channels).prune(record_history=False)
    for name, parameter in silenced.named_parameters():
        small.get_parameter(name).requires_grad_(parameter.requires_grad)
    with contextlib.suppress(ValueError):  # it may not even run
        if agree(run_once(small, example_input), run_once(silenced, example_input)):
            return small
    raise ValueError(
        "without these channels the model computes something else: some operation that is no module mixes its "
        "channels; use prune(model, amount), which masks and does not cut, or make that operation a module"
    )


def _checked(picks: Mapping[str, Iterable[int]], groups: Iterable[ChannelGroup]) -> dict[str, list[int]]:
    """``picks`` in order, each channel once, without empty ones."""
    sizes = {group.root: group.size for group in groups}
    result = {root: sorted(set(channels)) for root, channels in picks.items()}
    for root, channels in result.items():
        if root not in sizes:
            raise ValueError(
                f"{root!r} is not the first convolution of a group of channels that can go; those are "
                f"{', '.join(map(repr, sizes))}: name channels under theirs"
            )
        if channels and (channels[0] < 0 or channels[-1] >= sizes[root] or len(channels) == sizes[root]):
            raise ValueError(
                f"{root!r} has the channels 0 to {sizes[root] - 1}, and at least one must remain; got {channels}"
            )
    return {root: channels for root, channels in result.items() if channels}


def apply_masks(model: nn.Module) -> nn.Module:
    """Turn masked numbers into ordinary zeros and remove the masks, so that the state-dict keys are the original ones.
    Changes ``model`` and returns it."""
    for module, name in _masked(model):
        masks.remove(module, name)
        # masked parameters come back last; optimizers expect weight, then bias
        for known in [known for known in ("weight", "bias") if known in module._parameters]:
            module._parameters[known] = module._parameters.pop(known)
    return model


def check_model(model: nn.Module) -> None:
    """ValueError unless the model has convolutions, and only weights that are fixed and finite numbers."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise ValueError(f"this model has no nn.Conv2d, so no filters to prune: it is made of {kinds}")
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module) or "weight_g" in module._parameters:
            raise ValueError(
                f"{name!r} is parametrized (Bridgeout or weight_norm, perhaps), so its weights are not fixed numbers: "
                "call detach_bridgeout(model), or torch's remove_parametrizations or remove_weight_norm, first"
            )
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"{name} holds NaN or infinity, so nothing can be ranked: load a sound checkpoint, or train again with "
                "a lower lr"
            )


# --- how layers are connected -----------------------------------------------------------------------------------------


def trace(plain: nn.Module, example_input: Tensor | None) -> Any:
    """Torch-Pruning's dependency graph of ``plain``, which becomes ``graph.model``."""
    torch_pruning = library("torch_pruning", "tracing channels, to silence or remove them,")
    if example_input is None:
        example_input = black_image(plain)
    run_once(plain, example_input)
    plain.requires_grad_(True)  # Torch-Pruning reads autograd's graph
    example_input = example_input[:1].to(device_of(plain, example_input))
    with torch.enable_grad(), evaluating(plain), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_pruning.DependencyGraph().build_dependency(
            plain, example_input, forward_fn=lambda model, x: model(x), verbose=False
        )


def black_image(model: nn.Module) -> Tensor:
    """A batch of one image of 32x32 zeros, with the channels that the first convolution (of any kind) takes."""
    channels = (getattr(module, "in_channels", None) for module in model.modules())
    return torch.zeros(1, next(c for c in channels if isinstance(c, int)), 32, 32, device="cpu")


def group_of(graph: Any, conv: nn.Conv2d, channels: list[int]) -> Any:
    """What goes with these channels of ``conv``: items with .dep.target.module, .idxs and .root_idxs."""
    return graph.get_pruning_group(conv, graph.get_pruner_of_module(conv).prune_out_channels, channels)


def is_importance(criterion: Any) -> bool:
    """Whether this is an ``Importance`` of Torch-Pruning, which is called with a group."""
    torch_pruning = sys.modules.get("torch_pruning")  # who has one has imported it
    return torch_pruning is not None and isinstance(criterion, torch_pruning.importance.Importance)


def names_of(model: nn.Module) -> dict[Any, str]:
    return {module: name for name, module in model.named_modules()}


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def tied_channels(graph: Any, scores: dict[nn.Conv2d, Tensor], criterion: Any) -> dict[nn.Conv2d, Tensor]:
    """Scores of the channels that can go, under the first convolution that makes them: one score for all that are tied.
    ValueError for layers whose channels cannot be told apart."""
    names = names_of(graph.model)
    for conv in scores:
        if conv.groups > 1 and not _is_depthwise(conv):
            raise ValueError(
                f"{names[conv]!r} is a convolution of {conv.groups} groups, whose filters cannot go one by "
                f"one: only ordinary and depthwise convolutions can be silenced or removed; {REMEDY}"
            )
    power = 1 if criterion == "l1" or callable(criterion) else 2
    result: dict[nn.Conv2d, Tensor] = {}
    seen: set[nn.Module] = set()
    for root in scores:
        # a depthwise convolution that is no member of an earlier group filters the model's input
        if root in seen or root not in graph.module2node or _is_depthwise(root):
            continue
        total = torch.zeros_like(scores[root])
        members = torch.zeros_like(total)
        if any(item.dep.target.module is root and len(item.idxs) > 1 for item in group_of(graph, root, [0])):
            raise ValueError(
                f"the filters of {names[root]!r} are tied to each other (their output is split and joined again): they "
                f"can be neither silenced nor removed; {REMEDY}"
            )
        items = list(group_of(graph, root, list(range(root.out_channels))))
        for item in items:
            module = item.dep.target.module
            if isinstance(module, nn.Conv2d) and graph.is_out_channel_pruning_fn(item.dep.handler):
                seen.add(module)
                if max(item.idxs) >= len(scores[module]):
                    raise ValueError(
                        f"the filters of {names[root]!r} are tied to {names[module]!r}, which has "
                        f"{len(scores[module])} for {len(total)} of them (broadcast, perhaps): they can be neither "
                        f"silenced nor removed; {REMEDY}"
                    )
                if module is not root and (criterion == "random" or is_importance(criterion)):
                    continue  # the score of the root is that of all
                total[item.root_idxs] += scores[module][item.idxs].pow(power)
                members[item.root_idxs] += 1
            elif isinstance(module, nn.Parameter) or (module in names and not isinstance(module, CUTTABLE)):
                raise ValueError(
                    f"the filters of {names[root]!r} reach {names.get(module, 'a bare parameter')!r} "
                    f"({type(module).__name__}), which may tie channels together: they can be neither silenced nor "
                    f"removed; {REMEDY}"
                )
        ends = [item.dep for item in items if not item.dep.target.outputs]
        if not any(graph.is_out_channel_pruning_fn(dep.handler) for dep in ends):  # else it is an output of the model
            result[root] = (total / members).pow(1 / power)
    if not result:
        raise ValueError("every filter of this model is an output of it: there is none to silence or remove")
    return result


def silencing_masks(
    graph: Any, picks: dict[nn.Conv2d, list[int]], sides: tuple[bool, ...] = (True, False)
) -> dict[tuple[str, str], Tensor]:
    """Masks over the numbers that removal would cut, by (layer, parameter); true where a number stays. ``sides``: those
    that make the channels (True), those that read them (False).

    Raises:
        ValueError: a layer does not have the channels that it is told to lose.
    """
    names = names_of(graph.model)
    result: dict[tuple[str, str], Tensor] = {}
    for conv, channels in picks.items():
        for item in group_of(graph, conv, channels) if channels else ():
            module = item.dep.target.module
            produces = graph.is_out_channel_pruning_fn(item.dep.handler)
            if not isinstance(module, nn.Conv2d | nn.Linear | _BatchNorm) or produces not in sides:
                continue
            for parameter in ("weight", "bias"):
                value = getattr(module, parameter)
                if value is None or (parameter == "bias" and not produces):
                    continue
                key = names[module], parameter
                kept = result.setdefault(key, torch.ones_like(value, dtype=torch.bool))
                side = kept if produces else kept.transpose(0, 1)
                if max(item.idxs, default=0) >= len(side):
                    raise ValueError(
                        f"the channels of {names[conv]!r} do not arrive one by one at {names[module]!r}, which has no "
                        f"channel {max(item.idxs)}: they can be neither silenced nor removed; {REMEDY}"
                    )
                side[item.idxs] = False
    return result


def check_pairs(graph: Any, picks: dict[nn.Conv2d, list[int]], example_input: Tensor | None) -> None:
    """ValueError unless, once the weights that read the picked channels are zero, nothing that makes these channels
    acts on the output: else other weights read them, since some operation that is no module has moved them.

    It is tried on noise, with numbers drawn anew for the usual layers: a black image, or a scale that is still zero,
    would hide what happens.
    """
    draws = torch.Generator().manual_seed(0)

    def noise(like: Tensor, low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(like.shape, device="cpu", generator=draws)).to(like)

    x = black_image(graph.model) if example_input is None else example_input[:1]
    x = noise(x, -1.0, 1.0) if x.is_floating_point() else x
    one = copy.deepcopy(graph.model)
    for module in one.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | _BatchNorm):
            for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if value.is_floating_point():
                    reach = (value[0].numel() ** -0.5) if value.dim() > 1 else 1.0
                    value.data = noise(value, 0.5, 1.5) if name == "running_var" else noise(value, -reach, reach)
    for (layer, name), kept in silencing_masks(graph, picks, (False,)).items():
        one.get_submodule(layer).get_parameter(name).data.mul_(kept)
    other = copy.deepcopy(one)
    for (layer, name), kept in silencing_masks(graph, picks, (True,)).items():
        value = other.get_submodule(layer).get_parameter(name)
        value.data = torch.where(kept, value, noise(value, -1.0, 1.0))
    if not agree(run_once(one, x), run_once(other, x)):
        raise ValueError(
            "some operation that is no module mixes or moves the channels of this model, so what reads them is not "
            f"known: they can be neither silenced nor removed; {REMEDY}"
        )


def _groups(graph: Any) -> list[ChannelGroup]:
    convs = [m for m in graph.model.modules() if isinstance(m, nn.Conv2d)]
    try:
        roots = list(tied_channels(graph, {conv: torch.zeros(conv.out_channels, device="cpu") for conv in convs}, "l2"))
    except ValueError as error:
        raise _unpaired(error) from error
    return [_members(graph, root) for root in roots]


def _unpaired(error: ValueError) -> ValueError:
    reason = str(error).removesuffix(f"; {REMEDY}")
    return ValueError(
        f"the layers of this model cannot be paired by their channels: {reason}; GroupLasso needs no pairs"
    )


def _members(graph: Any, root: nn.Conv2d) -> ChannelGroup:
    names = names_of(graph.model)
    members: dict[tuple[str, bool], Member] = {}
    for item in group_of(graph, root, list(range(root.out_channels))):
        module, writes = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
        if isinstance(module, nn.Conv2d | nn.Linear):
            places, channels = (torch.tensor(ids, device="cpu") for ids in (item.idxs, item.root_idxs))
            members[names[module], writes] = Member(names[module], writes, places, channels)
    order = list(names.values())  # the model's, so that sums have the same bits in every run
    in_order = sorted(members.values(), key=lambda m: (order.index(m.layer), m.writes))
    return ChannelGroup(names[root], root.out_channels, tuple(in_order))


# --- copies and masks -------------------------------------------------------------------------------------------------


def _masked(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The masked parameters, as torch.nn.utils.prune keeps them."""
    buffers = [(module, key) for module in model.modules() for key in list(module._buffers) if key.endswith("_mask")]
    named = [(module, key.removesuffix("_mask")) for module, key in buffers]
    return [(module, name) for module, name in named if name + "_orig" in module._parameters]


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy. torch copies no tensor with a history, as masked weights are after a forward pass."""
    for module, name in _masked(model):
        setattr(module, name, getattr(module, name).detach())
    return copy.deepcopy(model)


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy in which masked numbers are ordinary zeros."""
    return apply_masks(_copy(model))
