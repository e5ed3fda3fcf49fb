r"""Pruning: rank the filters or weights of convolutions, mask them or cut them out, and see what is left.

Every filter (a channel that a convolution puts out) gets a score, and ``int(O * amount)`` of a layer's O filters, those
with the lowest scores, go. What happens to them is the *treatment*:

====================== ================================================================================================
zeroed                 ``prune(model, amount)``, the published protocol: the weights of the filter become 0. Its bias
                       and its BatchNorm stay, so the channel still carries a constant.
silenced               ``prune(model, amount, silence=True)``: everything that only serves the channel becomes 0: the
                       filter's weights and bias, scale and shift of its BatchNorm, the weights that read the channel.
removed                ``remove_filters(model, amount, example_input)``: the same numbers are cut out; the network
                       computes what the silenced one does, and is smaller.
recalibrated           ``recalibrate_batchnorm(model, images)``, after any of them: running statistics are estimated
                       anew, for the network as it now is.
====================== ================================================================================================

Channels that a residual addition (or a depthwise convolution) ties together can only be silenced or removed together:
there one score is made of all their filters, the root mean square over the convolutions (for L1, the mean). Filters
that stand alone are picked alike by every treatment. Which channels are tied, and the cutting, is the work of
Torch-Pruning (Fang et al. 2023, arXiv:2301.12900); masks are those of ``torch.nn.utils.prune``, so they hold in
fine-tuning.

Source of the protocol: Khan and Stavness 2020, arXiv:2009.10893.
"""

import contextlib
import copy
import dataclasses
import math
import numbers
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils import prune as masks

from .cost import agree, count, device_of, evaluating, run_once
from .data import Images
from .models import Whitening
from .noise import check_choice
from .sparsity import filter_norms
from .training import Recipe, augment, evaluate, fit

GRANULARITIES = ("filter", "weight")
CRITERIA = ("l1", "l2", "bn", "folded", "random")
SCOPES = ("layer", "global", "filter")

# Layers that a channel may pass or end in without being tied to its neighbours.
CUTTABLE = (nn.Conv2d, nn.Linear, _BatchNorm, nn.PReLU)

# Training batches that estimate BatchNorm's statistics, where their number is not given.
BATCHES = 50


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
    """Channels that run through the same layers: how many they are, under the first convolution that makes them."""

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


def prune(
    model: nn.Module,
    amount: float,
    *,
    granularity: str = "filter",
    criterion: str = "l2",
    scope: str = "layer",
    silence: bool = False,
    example_input: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Mask the lowest-scoring filters or weights of every ``nn.Conv2d``. Changes ``model`` and returns it.

    Args:
        model: any module; it is touched only when everything has been checked.
        amount: share of the filters or weights to prune, 0 <= amount < 1; those that are zero already count. A layer
            keeps at least one.
        granularity: "filter" or "weight".
        criterion: the score of a filter w. "l1" and "l2": its norm. "bn": the scale :math:`|\gamma|` of the BatchNorm
            behind it. "folded": :math:`\lVert w\rVert_2\,|\gamma|/\sqrt{\sigma^2+\varepsilon}`, the norm once BatchNorm
            is folded into the weights. "random": uniform. A weight's score is its magnitude, folded or not, or random.
            The BatchNorms behind a filter are those that its output reaches before any other layer, directly or through
            additions; of several the root mean square counts.
        scope: where scores are compared. "layer": within each layer. "global": over all layers; L1 and L2 scores are
            first divided by their root mean square over the layer, since BatchNorm makes the scale of a layer's weights
            arbitrary. "filter" (weights only, the published way): within each filter.
        silence: mask all that only serves the filter, instead of its weights alone (see the head of this module).
            Channels that are an output of the model stay.
        example_input: a batch as the model takes it, to see how layers are connected; only silencing and the criteria
            "bn" and "folded" ask for it. None tries one black image of 32x32.
        generator: of the draws of "random", in the order of ``model.modules()``; None is torch's global one.

    Raises:
        ValueError: a bad argument or combination; a model without convolutions, with weights that are not finite, under
            noise (detach it first), without the BatchNorm that the criterion needs, or, when silencing, with layers
            whose channels cannot be told apart (grouped convolutions, GroupNorm, ...).
        ImportError: Torch-Pruning is needed and missing.

    Example:
        >>> model = prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), 0.5)
        >>> int((filter_norms(model[0].weight) == 0).sum())
        4
    """
    plan = _plan(model, amount, granularity, criterion, scope, silence, example_input, generator)
    with torch.no_grad():
        for (layer, parameter), kept in plan.masks.items():
            masks.custom_from_mask(model.get_submodule(layer), parameter, kept)
    return model


def remove_filters(
    model: nn.Module,
    amount: float,
    example_input: Tensor,
    *,
    criterion: str = "l2",
    scope: str = "layer",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A smaller network without the filters that :func:`prune` with ``silence=True`` masks: same outputs, up to
    rounding, on ``example_input`` (that is checked). ``model`` is left as it is.

    Arguments and errors as for :func:`prune`; masks that the model carries become ordinary zeros. ValueError also
    if the smaller network's output differs, which means that the model mixes channels where no module shows it.

    The same shape untrained, as a control for scope "layer": ``remove_filters(fresh_model, amount, example_input)``.
    """
    plan = _plan(model, amount, "filter", criterion, scope, True, example_input, generator)
    names = _names(plan.graph)
    return remove_channels(model, {names[conv]: channels for conv, channels in plan.picks.items()}, example_input)


def channel_groups(model: nn.Module, example_input: Tensor | None = None) -> list[ChannelGroup]:
    """The groups of a model, in the order of their first convolutions. Channels that are an output of the model are in
    none.

    Args:
        model: any module with convolutions; it is left as it is.
        example_input: a batch as the model takes it; None tries one black image of 32x32.

    Raises:
        ValueError: no convolutions, layers that cannot be paired (grouped convolutions, GroupNorm, a model whose every
            channel is an output, ...), noise or another parametrization on the weights (detach it first), or an input
            that the model does not take.
        ImportError: Torch-Pruning is missing.
    """
    check_model(model)
    return _groups(_trace(plain_copy(model), example_input))


def remove_channels(model: nn.Module, picks: Mapping[str, Iterable[int]], example_input: Tensor) -> nn.Module:
    """A smaller network without the channels named: filters go with their biases and BatchNorm, with the weights that
    read them, and with whatever additions tie to them. It computes what the model does with all that set to zero, up to
    rounding, on ``example_input`` (that is checked). ``model`` is left as it is; masks become ordinary zeros.

    Args:
        model: as for :func:`channel_groups`.
        picks: channels to remove, from 0, by the root of their group: the first convolution that makes them.
        example_input: a batch as the model takes it.

    Raises:
        ValueError: as :func:`channel_groups`; a name that is not the root of a group; a channel that is not there, or
            every channel of a group; a smaller network whose output differs, which means that the model mixes channels
            where no module shows it.
        ImportError: Torch-Pruning is missing.
    """
    check_model(model)
    silenced, graph = plain_copy(model), _trace(plain_copy(model), example_input)
    small: nn.Module = graph.model
    chosen: Any = {small.get_submodule(k): v for k, v in _checked(picks, _groups(graph)).items()}
    for (layer, name), kept in _silencing_masks(graph, chosen).items():
        silenced.get_submodule(layer).get_parameter(name).data.mul_(kept)
    for conv, channels in chosen.items():
        _group(graph, conv, channels).prune(record_history=False)
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
    """``picks`` in order, each channel once, without what is empty."""
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
                f"{root!r} has the channels 0 to {sizes[root] - 1}, of which one at least must stay; got {channels}"
            )
    return {root: channels for root, channels in result.items() if channels}


def recalibrate_batchnorm(
    model: nn.Module,
    images: Images,
    batches: int = BATCHES,
    *,
    batch_size: int = 128,
    flip: bool = True,
    crop: int = Recipe.crop,
    seed: int = 0,
) -> nn.Module:
    """Estimate the running statistics of every BatchNorm anew. Changes ``model`` and returns it.

    Each becomes the plain mean over ``batches`` batches of training images (all there are, if they are fewer), drawn
    without replacement. Only BatchNorm is in training mode: dropout and noise are off. If anything fails the old
    statistics are put back.

    ``flip`` and ``crop`` augment the images as :class:`bridgeout_lite.Recipe` does, and should be those of the
    training: statistics of images as they are cost a network that was trained on shifted ones about two points of
    accuracy (CIFAR-10, small VGG).

    Raises:
        ValueError: no BatchNorm with running statistics; batches or batch_size < 1; no training images; statistics that
            come out infinite or NaN.
    """
    for name, value in (("batches", batches), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        raise ValueError("this model has no BatchNorm with running statistics: there is nothing to recalibrate")
    x = images.train.x
    if not len(x):
        raise ValueError(f"the training split of {images.name} is empty: load it with train >= 1")
    device = next(model.parameters()).device
    draws = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=draws)[: batches * batch_size]
    parts = [part for part in order.split(batch_size) if len(part) == min(batch_size, len(x))]
    momenta = [norm.momentum for norm in norms]
    before = [buffer.clone() for norm in norms for buffer in norm.buffers()]
    try:
        with evaluating(model), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's word for the plain mean over batches
                norm.train()
            for part in parts:
                batch = augment(x[part.to(x.device)].cpu(), flip, crop, draws)  # drawn alike on every device
                model(images.normalize(batch.to(device)))
        if not all(b.isfinite().all() for norm in norms for b in norm.buffers()):
            raise ValueError("the statistics come out infinite or NaN: load a sound checkpoint; the old ones are kept")
    except BaseException:
        for buffer, old in zip((b for norm in norms for b in norm.buffers()), before, strict=True):
            buffer.copy_(old)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model


def batchnorm_drift(model: nn.Module, inputs: Tensor) -> pd.DataFrame:
    r"""How far the running statistics of each BatchNorm are from what passes through it now, in evaluation mode.

    Args:
        model: with BatchNorm that keeps running statistics. inputs: one batch, as the model takes it.

    Returns:
        One row a BatchNorm, in the order in which they are run: layer; shift, the root mean square over channels of
        :math:`(m - \mu)/\sqrt{\sigma^2 + \varepsilon}`, where m is the channel's mean over the batch and
        :math:`\mu, \sigma^2` are the running statistics; variance_ratio, the median over channels of variance over
        running variance. Channels that are constant now are left out; a layer without any other gets nan.

    Raises:
        ValueError: no BatchNorm with running statistics; an input that the model does not take.
    """
    norms = {m: name for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    if not norms:
        raise ValueError("this model has no BatchNorm with running statistics: nothing can have drifted")
    rows = []

    def look(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1).double()
        live = x.var(dim=1) > 0
        shift = (x.mean(dim=1) - norm.running_mean) * (norm.running_var.double() + norm.eps).rsqrt()
        ratio = x.var(dim=1) / norm.running_var.double()
        mean_square = shift[live].square().mean()
        rows.append((norms[norm], mean_square.sqrt().item(), ratio[live].median().item() if live.any() else math.nan))

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        run_once(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return pd.DataFrame(rows, columns=["layer", "shift", "variance_ratio"])


def apply_masks(model: nn.Module) -> nn.Module:
    """Make masked numbers ordinary zeros and take the masks off: the state-dict keys are plain ones again. Changes
    ``model`` and returns it; a model without masks is left as it is."""
    for module, name in _masked(model):
        masks.remove(module, name)
        # masked parameters come back last; optimizers count on weight, then bias
        for known in [known for known in ("weight", "bias") if known in module._parameters]:
            module._parameters[known] = module._parameters.pop(known)
    return model


def curve(
    model: nn.Module,
    images: Images,
    amounts: Iterable[float],
    *,
    granularity: str = "filter",
    criterion: str = "l2",
    scope: str = "layer",
    silence: bool = False,
    recalibrate: int | bool = False,
    remove: bool = False,
    recipe: Recipe | None = None,
    split: str = "valid",
    precision: str = "float32",
    seed: int = 0,
) -> pd.DataFrame:
    """Prune copies of one trained model by each of ``amounts`` and evaluate them. ``model`` is left as it is.

    Args:
        model, granularity, criterion, scope, silence: as for :func:`prune`.
        images: what to evaluate on and, if asked for, to recalibrate and fine-tune with.
        amounts: shares, each 0 <= amount < 1.
        recalibrate: training batches of 128 for :func:`recalibrate_batchnorm`; True is 50, False none.
        remove: cut the filters out instead of masking them (:func:`remove_filters`).
        recipe: fine-tune by :func:`bridgeout_lite.fit` with it after all that; masks hold.
        split: "valid" or "test" ("train" also works): what is evaluated. precision: of the evaluation, "float32" or
            "bfloat16".
        seed: of random picks (the same order for every amount), of the recalibration's images, and of fine-tuning.

    Returns:
        One row an amount: amount, treatment (such as "silenced, recalibrated"), accuracy (%), loss (nats), parameters
        and macs (multiply-adds an image) of the network that is run, and nonzero, its parameters that are not 0.

    Raises:
        ValueError: as the functions above; all amounts are checked first.
    """
    shares = [_check_amount(amount) for amount in amounts]
    if not shares:
        raise ValueError("amounts is empty: name at least one share, such as 0.5")
    check_choice(split, ("train", "valid", "test"), "split")
    if not isinstance(recalibrate, int) or recalibrate < 0:
        raise ValueError(f"recalibrate must be a number of training batches, True or False; got {recalibrate!r}")
    if remove and granularity != "filter":
        raise ValueError(f"only filters can be removed: use granularity='filter', got {granularity!r}")
    batches = BATCHES if recalibrate is True else int(recalibrate)
    treatment = "removed" if remove else "silenced" if silence else "zeroed"
    treatment += ", recalibrated" * bool(batches) + ", fine-tuned" * (recipe is not None)
    part = getattr(images, split)
    if not len(part):
        raise ValueError(f"the {split} split of {images.name} is empty")
    example = images.normalize(part.x[:1])
    rows = []
    for amount in shares:
        options: dict[str, Any] = {"criterion": criterion, "scope": scope}
        options["generator"] = torch.Generator().manual_seed(seed)
        if remove:
            pruned = remove_filters(model, amount, example, **options)
        else:
            options |= {"granularity": granularity, "silence": silence, "example_input": example}
            pruned = prune(_copy(model), amount, **options)
        if batches:
            recalibrate_batchnorm(pruned, images, batches, seed=seed)
        if recipe is not None:
            fit(pruned, images, recipe, seed=seed, device=device_of(pruned, example), progress=False)
        loss, accuracy = evaluate(pruned, images, split, precision=precision)
        parameters, macs = count(apply_masks(pruned), example)
        nonzero = sum(int(p.count_nonzero()) for p in pruned.parameters())
        row = {"amount": amount, "treatment": treatment, "accuracy": accuracy, "loss": loss}
        rows.append(row | {"parameters": parameters, "nonzero": nonzero, "macs": macs})
    return pd.DataFrame(rows)


# --- what to prune ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What would be done: masks by (layer, parameter), true where a number stays; the channels to cut by layer of
    ``graph.model``, a plain copy of the model; and that graph, if one was needed."""

    masks: dict[tuple[str, str], Tensor]
    picks: dict[nn.Conv2d, list[int]]
    graph: Any


def _plan(
    model: nn.Module,
    amount: float,
    granularity: str,
    criterion: str,
    scope: str,
    silence: bool,
    example_input: Tensor | None,
    generator: torch.Generator | None,
) -> _Plan:
    """All checks and all decisions, worked out on a copy of the model."""
    amount = _check_amount(amount)
    check_choice(granularity, GRANULARITIES, "granularity")
    check_choice(criterion, CRITERIA, "criterion")
    check_choice(scope, SCOPES, "scope")
    if granularity == "weight" and (silence or criterion == "bn"):
        what = "silence=True" if silence else "criterion='bn'"
        raise ValueError(f"{what} is about whole filters: use granularity='filter', or leave it out")
    if granularity == "filter" and scope == "filter":
        raise ValueError("scope='filter' compares the weights of one filter: it goes with granularity='weight' only")
    check_model(model)
    plain = plain_copy(model)
    convs = {name: module for name, module in plain.named_modules() if isinstance(module, nn.Conv2d)}
    graph = _trace(plain, example_input) if silence or criterion in ("bn", "folded") else None
    scores = {}
    for name, conv in convs.items():
        scale = _scale(graph, name, conv, criterion) if criterion in ("bn", "folded") else None
        scores[conv] = _score(conv, scale, granularity, criterion, generator)
    if silence:
        channels = _channels(graph, scores, criterion)
        picks = {conv: p.nonzero().flatten().tolist() for conv, p in _pick(channels, amount, criterion, scope).items()}
        return _Plan(_silencing_masks(graph, picks), picks, graph)
    zeroed = {}
    picked = _pick(scores, amount, criterion, scope)
    for name, conv in convs.items():
        if picked[conv].any():  # one truth value a filter, or one a weight
            kept = ~_beside(picked[conv], conv.weight).expand_as(conv.weight)
            zeroed[name, "weight"] = kept.to(conv.weight.device)
    return _Plan(zeroed, {}, graph)


def _check_amount(amount: Any) -> float:
    if isinstance(amount, bool) or not isinstance(amount, numbers.Real) or not 0 <= float(amount) < 1:
        raise ValueError(f"amount must be a number with 0 <= amount < 1 (the share to prune), got {amount!r}")
    return float(amount)


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


def _score(
    conv: nn.Conv2d, scale: Tensor | None, granularity: str, criterion: str, generator: torch.Generator | None
) -> Tensor:
    """What the lowest of goes first: one number a filter, or one a weight. In float64: weight decay leaves norms whose
    squares are below the floats."""
    w = conv.weight.detach().cpu().double()
    if criterion == "random":
        shape = w.shape if granularity == "weight" else w.shape[:1]
        return torch.rand(shape, generator=generator, device=generator.device if generator else None).cpu().double()
    if criterion == "bn":
        assert scale is not None
        return scale
    size = w.abs() if granularity == "weight" else filter_norms(w, 1.0 if criterion == "l1" else 2.0)
    return size if scale is None else size * _beside(scale, size)


def _beside(values: Tensor, other: Tensor) -> Tensor:
    """``values`` with dimensions of 1 appended, as many as ``other`` has more."""
    return values.view(*values.shape, *(1,) * (other.dim() - values.dim()))


def _pick(scores: dict[nn.Conv2d, Tensor], amount: float, criterion: str, scope: str) -> dict[nn.Conv2d, Tensor]:
    """For each layer, true where a score is among the ``int(n * amount)`` lowest of the n that it is compared with."""
    if scope != "global":
        rows = {conv: s.flatten(1) if scope == "filter" else s.flatten() for conv, s in scores.items()}
        return {c: _lowest(r, int(r.shape[-1] * amount)).view_as(scores[c]) for c, r in rows.items()}
    flat = []
    for s in scores.values():
        s = s.flatten()
        if criterion in ("l1", "l2"):
            s = s / s.square().mean().sqrt().clamp_min(torch.finfo(s.dtype).tiny)
        flat.append(s.index_fill(0, s.argmax(), float("inf")))  # the last of a layer stays
    pool = torch.cat(flat)
    k = min(int(len(pool) * amount), len(pool) - len(flat))
    parts = _lowest(pool, k).split([len(s) for s in flat])
    return {conv: part.view_as(s) for (conv, s), part in zip(scores.items(), parts, strict=True)}


def _lowest(scores: Tensor, k: int) -> Tensor:
    """True at the k lowest of the last dimension; of equal ones the first."""
    order = scores.argsort(dim=-1, stable=True)[..., :k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


# --- how layers are connected -----------------------------------------------------------------------------------------


def _trace(plain: nn.Module, example_input: Tensor | None) -> Any:
    """Torch-Pruning's dependency graph of ``plain``, which becomes ``graph.model``."""
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError(
            "removing or silencing filters, and criteria that look at BatchNorm, need Torch-Pruning: "
            "pip install torch-pruning"
        ) from error
    if example_input is None:
        example_input = black_image(plain)
    run_once(plain, example_input)
    plain.requires_grad_(True)  # the graph is read off the one of autograd
    example_input = example_input[:1].to(device_of(plain, example_input))
    with torch.enable_grad(), evaluating(plain), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_pruning.DependencyGraph().build_dependency(
            plain, example_input, forward_fn=lambda model, x: model(x), verbose=False
        )


def black_image(model: nn.Module) -> Tensor:
    """A batch of one image of 32x32 zeros, with the channels that the first convolution (or whitening) takes."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d | Whitening))
    return torch.zeros(1, first.in_channels, 32, 32)


def _group(graph: Any, conv: nn.Conv2d, channels: list[int]) -> Any:
    """All that goes when these channels of ``conv`` go: items with .dep.target.module, .idxs and .root_idxs."""
    return graph.get_pruning_group(conv, graph.get_pruner_of_module(conv).prune_out_channels, channels)


def _names(graph: Any) -> dict[Any, str]:
    return {module: name for name, module in graph.model.named_modules()}


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def _channels(graph: Any, scores: dict[nn.Conv2d, Tensor], criterion: str) -> dict[nn.Conv2d, Tensor]:
    """The channels that can go, each under the first convolution that puts it out, with one score for all that are tied
    to it. Refuses layers whose channels cannot be told apart."""
    names = _names(graph)
    for conv in scores:
        if conv.groups > 1 and not _is_depthwise(conv):
            raise ValueError(
                f"{names[conv]!r} is a convolution of {conv.groups} groups, whose filters cannot go one by "
                "one: only ordinary and depthwise convolutions can be silenced or removed; prune with silence=False"
            )
    power = 1 if criterion == "l1" else 2
    result: dict[nn.Conv2d, Tensor] = {}
    seen: set[nn.Module] = set()
    for root in scores:
        # a depthwise convolution that no other one feeds works on the model's input
        if root in seen or root not in graph.module2node or _is_depthwise(root):
            continue
        total = torch.zeros_like(scores[root])
        members = torch.zeros_like(total)
        if any(item.dep.target.module is root and len(item.idxs) > 1 for item in _group(graph, root, [0])):
            raise ValueError(
                f"the filters of {names[root]!r} are tied to each other (their output is split and joined again): they "
                "can be neither silenced nor removed; prune with silence=False"
            )
        items = list(_group(graph, root, list(range(root.out_channels))))
        for item in items:
            module = item.dep.target.module
            if isinstance(module, nn.Conv2d) and graph.is_out_channel_pruning_fn(item.dep.handler):
                seen.add(module)
                if criterion == "random" and module is not root:
                    continue
                total[item.root_idxs] += scores[module][item.idxs].pow(power)
                members[item.root_idxs] += 1
            elif isinstance(module, nn.Parameter) or (module in names and not isinstance(module, CUTTABLE)):
                raise ValueError(
                    f"the filters of {names[root]!r} reach {names.get(module, 'a bare parameter')!r} "
                    f"({type(module).__name__}), which may tie channels together: they can be neither silenced nor "
                    "removed; prune with silence=False"
                )
        ends = [item.dep for item in items if not item.dep.target.outputs]
        if not any(graph.is_out_channel_pruning_fn(dep.handler) for dep in ends):  # a last layer only reads it
            result[root] = (total / members).pow(1 / power)
    if not result:
        raise ValueError("every filter of this model is an output of it: there is none to silence or remove")
    return result


def _silencing_masks(graph: Any, picks: dict[nn.Conv2d, list[int]]) -> dict[tuple[str, str], Tensor]:
    """Masks over the very numbers that would be cut."""
    names = _names(graph)
    result: dict[tuple[str, str], Tensor] = {}
    for conv, channels in picks.items():
        for item in _group(graph, conv, channels) if channels else ():
            module = item.dep.target.module
            if not isinstance(module, nn.Conv2d | nn.Linear | _BatchNorm):
                continue
            produces = graph.is_out_channel_pruning_fn(item.dep.handler)
            for parameter in ("weight", "bias"):
                value = getattr(module, parameter)
                if value is None or (parameter == "bias" and not produces):
                    continue
                key = names[module], parameter
                kept = result.setdefault(key, torch.ones_like(value, dtype=torch.bool))
                (kept if produces else kept.transpose(0, 1))[item.idxs] = False
    return result


def _groups(graph: Any) -> list[ChannelGroup]:
    names = _names(graph)
    convs = [m for m in graph.model.modules() if isinstance(m, nn.Conv2d)]
    try:
        roots = list(_channels(graph, {conv: torch.zeros(conv.out_channels) for conv in convs}, "l2"))
    except ValueError as error:
        reason = str(error).removesuffix("; prune with silence=False")
        raise ValueError(
            f"the layers of this model cannot be paired by their channels: {reason}; GroupLasso needs no pairs"
        ) from error
    return [_members(graph, root, names) for root in roots]


def _members(graph: Any, root: nn.Conv2d, names: dict[Any, str]) -> ChannelGroup:
    members: dict[tuple[str, bool], Member] = {}
    for item in _group(graph, root, list(range(root.out_channels))):
        module, writes = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
        if isinstance(module, nn.Conv2d | nn.Linear):
            places, channels = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
            members[names[module], writes] = Member(names[module], writes, places, channels)
    order = list(names.values())  # that of the model, so that sums have the same bits in every run
    in_order = sorted(members.values(), key=lambda m: (order.index(m.layer), m.writes))
    return ChannelGroup(names[root], root.out_channels, tuple(in_order))


def _scale(graph: Any, name: str, conv: nn.Conv2d, criterion: str) -> Tensor:
    """Root mean square of the scales of the BatchNorms behind each filter of ``conv``."""
    behind, queue = set(), list(graph.module2node[conv].outputs) if conv in graph.module2node else []
    seen = set()
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node.module, _BatchNorm):
            behind.add(node.module)
        elif not any(True for _ in getattr(node.module, "parameters", tuple)()):
            queue += node.outputs
    total = torch.zeros(conv.out_channels, dtype=torch.float64)
    members = torch.zeros_like(total)
    for item in _group(graph, conv, list(range(conv.out_channels))) if behind else ():
        norm = item.dep.target.module
        if norm in behind and norm.affine and (criterion == "bn" or norm.running_var is not None):
            scale = norm.weight.detach().cpu().double()
            if criterion == "folded":
                scale = scale * (norm.running_var.cpu().double() + norm.eps).rsqrt()
            total[item.root_idxs] += scale[item.idxs].square()
            members[item.root_idxs] += 1
    if not members.all():
        raise ValueError(
            f"criterion {criterion!r} needs a BatchNorm behind every convolution, and {name!r} has none with scales"
            f"{' and running statistics' if criterion == 'folded' else ''}: use criterion='l2'"
        )
    return (total / members).sqrt()


# --- copies and masks -------------------------------------------------------------------------------------------------


def _masked(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """The masked parameters, as torch.nn.utils.prune keeps them."""
    suffix = "_mask"
    return [
        (module, key.removesuffix(suffix))
        for module in model.modules()
        for key in list(module._buffers)
        if key.endswith(suffix) and key.removesuffix(suffix) + "_orig" in module._parameters
    ]


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy. torch copies no tensor with a history, which is what a masked weight is after a forward pass."""
    for module, name in _masked(model):
        setattr(module, name, getattr(module, name).detach())
    return copy.deepcopy(model)


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy in which masked numbers are ordinary zeros."""
    return apply_masks(_copy(model))
