r"""Pruning: rank the filters or weights of convolutions, mask them or cut them out, and measure what is left.

Every filter (an output channel of a convolution) gets a score, and the ``int(O * amount)`` of a layer's O filters with
the lowest scores go. What happens to them is the *treatment*:

====================== ================================================================================================
zeroed                 ``prune(model, amount)``, the published protocol: the weights of the filter become 0. Its bias
                       and its BatchNorm stay, so the channel still carries a constant.
silenced               ``prune(model, amount, silence=True)``: everything that only serves the channel becomes 0: the
                       filter's weights and bias, scale and shift of its BatchNorm, the weights that read the channel.
removed                ``remove_filters(model, amount, example_input)``: the same numbers are cut out; the network
                       computes what the silenced one does, and is smaller.
recalibrated           ``recalibrate_batchnorm(model, images)``, after any of them: running statistics are estimated
                       anew for the pruned network.
====================== ================================================================================================

Channels that a residual addition (or a depthwise convolution) ties together can only be silenced or removed together.
They share one score, the root mean square over their convolutions (the mean for "l1" and for functions; an importance
of Torch-Pruning scores them together). Filters that stand alone are picked alike by every treatment. Torch-Pruning
(Fang et al. 2023, arXiv:2301.12900) finds the ties and does the cutting; masks are those of ``torch.nn.utils.prune``,
so they hold in fine-tuning.

Source of the protocol: Khan and Stavness 2020, arXiv:2009.10893.

Example:
    >>> from .data import load_images
    >>> images = load_images("digits", train=64, valid=16, test=16)
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(7200, 10))
    >>> curve(model, images, [0.0, 0.5], remove=True, recalibrate=1)["parameters"].tolist()
    [72250, 36130]
    >>> x = images.normalize(images.test.x)
    >>> recalibrate_batchnorm(remove_filters(model, 0.5, x), images)[0]
    Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
    >>> batchnorm_drift(model, x)["layer"].tolist()
    ['1']
"""

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune as masks

from .channels import (
    _copy,
    apply_masks,
    check_model,
    check_pairs,
    group_of,
    is_importance,
    names_of,
    plain_copy,
    remove_channels,
    silencing_masks,
    tied_channels,
    trace,
)
from .checks import check_choice, check_share, check_whole, library
from .cost import count
from .data import Images
from .modules import device_of, doubled, evaluating, run_once
from .sparsity import filter_norms
from .training import Recipe, augment, evaluate, fit

if TYPE_CHECKING:
    import pandas as pd

GRANULARITIES = ("filter", "weight")
CRITERIA = ("l1", "l2", "bn", "folded", "random")
SCOPES = ("layer", "global", "filter")
Criterion = str | Callable[[nn.Conv2d, list[_BatchNorm]], Tensor] | Callable[[Any], Tensor | None]

# Training batches from which BatchNorm's statistics are estimated by default.
BATCHES = 50


def prune(
    model: nn.Module,
    amount: float,
    *,
    granularity: str = "filter",
    criterion: Criterion = "l2",
    scope: str = "layer",
    silence: bool = False,
    example_input: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Mask the lowest-scoring filters or weights of every ``nn.Conv2d``. Changes ``model`` and returns it.

    Args:
        model: any module; it is changed only after everything has been checked.
        amount: share of the filters or weights to prune, 0 <= amount < 1, including those that are zero already. At
            least one per layer remains.
        granularity: "filter" or "weight".
        criterion: the score of a filter w. "l1" and "l2": its norm. "bn": the scale :math:`|\gamma|` of the BatchNorm
            behind it. "folded": :math:`\lVert w\rVert_2\,|\gamma|/\sqrt{\sigma^2+\varepsilon}`, the norm once BatchNorm
            is folded into the weights. "random": uniform. A weight's score is its magnitude, folded or not, or random.
            The BatchNorms behind a filter are those that its output reaches before any other layer, directly or through
            additions; several count by their root mean square. Or a function ``(conv, norms) -> scores`` of the
            convolution and the list of BatchNorms behind it; scores have one number per filter, or per weight. Or an
            ``Importance`` of Torch-Pruning, such as ``tp.importance.LAMPImportance()``, which scores the filters of a
            convolution together with all that is tied to them.
        scope: where scores are compared. "layer": within each layer. "global": over all layers; "l1" and "l2" scores
            are first divided by their root mean square over the layer, since BatchNorm makes the scale of a layer's
            weights arbitrary. "filter" (weights only, the published way): within each filter.
        silence: mask everything that only serves the filter, not just its weights (see the top of this module).
            Channels that are an output of the model stay.
        example_input: a batch as the model takes it, to trace how layers are connected; needed for silencing and for
            the criteria "bn", "folded" and functions. Defaults to one black image of 32x32.
        generator: source of the "random" draws, in the order of ``model.modules()``; defaults to torch's global one.

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
    plain, graph, picked = _picked(model, amount, granularity, criterion, scope, silence, example_input, generator)
    if silence:
        picks = {conv: p.nonzero().flatten().tolist() for conv, p in picked.items()}
        check_pairs(graph, picks, example_input)
        kept = silencing_masks(graph, picks)
    else:  # one truth value per filter, or per weight
        names = names_of(plain)
        shaped = {c: p.view(-1, 1, 1, 1) if p.dim() == 1 else p for c, p in picked.items() if p.any()}
        kept = {(names[c], "weight"): ~p.expand_as(c.weight) for c, p in shaped.items()}
    with torch.no_grad():
        for (layer, parameter), mask in kept.items():
            module = model.get_submodule(layer)
            masks.custom_from_mask(module, parameter, mask.to(module.weight.device))  # type: ignore[arg-type]
    return model


def remove_filters(
    model: nn.Module,
    amount: float,
    example_input: Tensor,
    *,
    criterion: Criterion = "l2",
    scope: str = "layer",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A smaller network without the filters that :func:`prune` with ``silence=True`` masks. Its outputs are the same up
    to rounding, which is checked on ``example_input``. ``model`` is left as it is.

    Arguments and errors: see :func:`prune`. Masks that the model carries become ordinary zeros. ValueError also if the
    outputs differ, which means that the model mixes channels where no module shows it.

    With scope "layer", ``remove_filters(fresh_model, amount, example_input)`` has the same shape, untrained: a control.
    """
    plain, _, picked = _picked(model, amount, "filter", criterion, scope, True, example_input, generator)
    names = names_of(plain)
    return remove_channels(model, {names[c]: p.nonzero().flatten().tolist() for c, p in picked.items()}, example_input)


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

    They become the plain mean over at most ``batches`` batches of training images, drawn without replacement. Only
    BatchNorm is in training mode: dropout and noise are off. If anything fails the old statistics are restored, as are
    those of a BatchNorm that no batch reaches.

    ``flip`` and ``crop`` augment the images as :class:`bridgeout_lite.Recipe` does, and should be those of the
    training: statistics of unshifted images cost a network that was trained on shifted ones about two points of
    accuracy (CIFAR-10, small VGG).

    Raises:
        ValueError: no BatchNorm with running statistics; batches or batch_size < 1; no training images; infinite or NaN
            statistics.
    """
    check_whole(batches, "batches")
    check_whole(batch_size, "batch_size")
    norms = list(_running_norms(model))
    x = images.train.x
    if not len(x):
        raise ValueError(f"the training split of {images.name} is empty: load it with train >= 1")
    device = next(model.parameters()).device
    draws = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=draws, device="cpu")[: batches * batch_size]
    parts = [part for part in order.split(batch_size) if len(part) == min(batch_size, len(x))]
    settings = [(norm.momentum, norm.track_running_stats) for norm in norms]
    before = [(buffer, buffer.clone(), norm) for norm in norms for buffer in norm.buffers()]
    failed = True
    try:
        with evaluating(model), torch.no_grad():
            for norm in norms:
                norm.momentum, norm.track_running_stats = None, True  # the plain mean over batches
                norm.reset_running_stats()
                norm.train()
            for part in parts:
                batch = augment(x[part.to(x.device)].cpu(), flip, crop, draws)  # drawn alike on every device
                model(images.normalize(batch.to(device)))
        if not all(buffer.isfinite().all() for buffer, _, _ in before):
            raise ValueError("the new statistics are infinite or NaN: load a sound checkpoint; the old ones are kept")
        failed = False
    finally:
        idle = {norm for norm in norms if failed or not norm.num_batches_tracked}  # a branch that no batch takes
        for buffer, old, norm in before:
            if norm in idle:
                buffer.copy_(old)
        for norm, (momentum, track) in zip(norms, settings, strict=True):
            norm.momentum, norm.track_running_stats = momentum, track
    return model


def _running_norms(model: nn.Module) -> dict[_BatchNorm, str]:
    """The BatchNorms that keep running statistics, with their names; ValueError if there are none."""
    norms = {m: name for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is not None}
    if not norms:
        raise ValueError("this model has no BatchNorm with running statistics")
    return norms


def batchnorm_drift(model: nn.Module, inputs: Tensor) -> "pd.DataFrame":
    r"""How far the running statistics of each BatchNorm are from those of its present input, in evaluation mode.

    Args:
        model: with BatchNorm that keeps running statistics.
        inputs: one batch, as the model takes it.

    Returns:
        One row per BatchNorm, in the order of execution: layer; shift, the root mean square over channels of
        :math:`(m - \mu)/\sqrt{\sigma^2 + \varepsilon}`, where m is the channel's mean over the batch and
        :math:`\mu, \sigma^2` are the running statistics; variance_ratio, the median over channels of variance over
        running variance. Channels that are constant now are left out; a layer with no other channels gets nan.

    Raises:
        ValueError: no BatchNorm with running statistics; an input that the model does not take.
    """
    pandas = library("pandas", "batchnorm_drift")
    norms = _running_norms(model)
    rows = []

    def look(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        x = doubled(inputs[0].transpose(0, 1).flatten(1))
        mean, variance = doubled(norm.running_mean), doubled(norm.running_var)
        live = x.var(dim=1) > 0
        shift = (x.mean(dim=1) - mean) * (variance + norm.eps).rsqrt()
        ratio = x.var(dim=1) / variance
        mean_square = shift[live].square().mean()
        rows.append((norms[norm], mean_square.sqrt().item(), ratio[live].median().item() if live.any() else math.nan))

    with contextlib.ExitStack() as hooks:
        for norm in norms:
            hooks.enter_context(norm.register_forward_pre_hook(look))
        run_once(model, inputs)
    table: pd.DataFrame = pandas.DataFrame(rows, columns=["layer", "shift", "variance_ratio"])
    return table


def curve(
    model: nn.Module,
    images: Images,
    amounts: Iterable[float],
    *,
    granularity: str = "filter",
    criterion: Criterion = "l2",
    scope: str = "layer",
    silence: bool = False,
    recalibrate: int | bool = False,
    remove: bool = False,
    recipe: Recipe | None = None,
    split: str = "valid",
    precision: str = "float32",
    seed: int = 0,
) -> "pd.DataFrame":
    """Prune copies of one trained model by each of ``amounts`` and evaluate them. ``model`` is left as it is.

    Args:
        model, granularity, criterion, scope, silence: see :func:`prune`.
        images: to evaluate on and, if asked for, to recalibrate and fine-tune with.
        amounts: shares, each 0 <= amount < 1.
        recalibrate: training batches of 128 for :func:`recalibrate_batchnorm`; True is 50, False none.
        remove: cut the filters out instead of masking them (:func:`remove_filters`).
        recipe: last, fine-tune with it by :func:`bridgeout_lite.fit`; masks hold. Default: no fine-tuning.
        split: the images to evaluate on, "train", "valid" or "test".
        precision: "float32" or "bfloat16", of the evaluation.
        seed: seeds random picks (the same order for every amount), the images for recalibration, and fine-tuning.

    Returns:
        One row per amount: amount, treatment (such as "silenced, recalibrated"), accuracy (%), loss (nats), parameters
        and macs (multiply-adds per image) of the evaluated network, and nonzero, its parameters that are not 0.

    Raises:
        ValueError: see the functions above; all amounts are checked first.
    """
    pandas = library("pandas", "curve")
    shares = [check_share(amount, "amount") for amount in amounts]
    if not shares:
        raise ValueError("amounts is empty: name at least one share, such as 0.5")
    check_choice(split, ("train", "valid", "test"), "split")
    if remove and granularity != "filter":
        raise ValueError(f"only filters can be removed: use granularity='filter', got {granularity!r}")
    batches = BATCHES if recalibrate is True else check_whole(recalibrate or 0, "recalibrate", 0)
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
    table: pd.DataFrame = pandas.DataFrame(rows)
    return table


# --- what to prune ----------------------------------------------------------------------------------------------------


def _picked(
    model: nn.Module,
    amount: float,
    granularity: str,
    criterion: Criterion,
    scope: str,
    silence: bool,
    example_input: Tensor | None,
    generator: torch.Generator | None,
) -> tuple[nn.Module, Any, dict[nn.Conv2d, Tensor]]:
    """A plain copy of the model; its graph by Torch-Pruning, if one was needed; and for each convolution of the copy
    (when silencing, the first of each group) true for the filters or weights to prune."""
    amount = check_share(amount, "amount")
    check_choice(granularity, GRANULARITIES, "granularity")
    if not callable(criterion):
        check_choice(criterion, CRITERIA, "criterion")
    check_choice(scope, SCOPES, "scope")
    if granularity == "weight" and (silence or criterion == "bn" or is_importance(criterion)):
        what = "silence=True" if silence else "criterion='bn'" if criterion == "bn" else type(criterion).__name__
        raise ValueError(f"{what} is about whole filters: use granularity='filter', or leave it out")
    if granularity == "filter" and scope == "filter":
        raise ValueError("scope='filter' compares the weights of one filter: it goes with granularity='weight' only")
    check_model(model)
    plain = plain_copy(model)
    graph = trace(plain, example_input) if silence or callable(criterion) or criterion in ("bn", "folded") else None
    if is_importance(criterion):
        for name, parameter in model.named_parameters():  # copies have no gradients
            plain.get_parameter(name.removesuffix("_orig")).grad = parameter.grad
    scores = {}
    for name, conv in plain.named_modules():
        if isinstance(conv, nn.Conv2d):
            shape = conv.weight.shape if granularity == "weight" else conv.weight.shape[:1]
            if callable(criterion):
                scores[conv] = _asked(criterion, model, graph, name, shape)
            else:
                scores[conv] = _score(graph, name, conv, shape, criterion, generator)
    if silence:
        scores = tied_channels(graph, scores, criterion)
    return plain, graph, _lowest_scores(scores, amount, criterion, scope)


def _asked(criterion: Any, model: nn.Module, graph: Any, name: str, shape: torch.Size) -> Tensor:
    """The scores that a function gives a convolution of the model itself, whose gradients it may have, or that an
    importance gives the group of the convolution."""
    conv, names = graph.model.get_submodule(name), names_of(graph.model)
    if is_importance(criterion):
        try:
            found = criterion(group_of(graph, conv, list(range(conv.out_channels))))
        except Exception as error:  # whatever it stumbles over
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{type(criterion).__name__} cannot score {name!r} ({type(error).__name__}: {reason}): give the model "
                "what it needs, such as gradients, or use another criterion"
            ) from error
    else:
        norms = [model.get_submodule(names[norm]) for norm in _norms_behind(graph, conv)]
        found = criterion(model.get_submodule(name), norms)
    if not isinstance(found, Tensor) or found.shape != shape or not found.isfinite().all():
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"criterion must give {name!r} finite scores of shape {tuple(shape)}, got {got}")
    return found.detach().cpu().double()


def _score(
    graph: Any, name: str, conv: nn.Conv2d, shape: torch.Size, criterion: str, generator: torch.Generator | None
) -> Tensor:
    """One number per filter or weight; in float64, as weight decay leaves norms whose squares vanish in float32."""
    if criterion == "random":
        return torch.rand(shape, generator=generator, device=generator.device if generator else None).cpu().double()
    if criterion == "bn":
        return _scale(graph, name, conv, criterion)
    w = conv.weight.detach().cpu().double()
    size = w.abs() if shape == w.shape else filter_norms(w, 1.0 if criterion == "l1" else 2.0)
    if criterion == "folded":
        size *= _scale(graph, name, conv, criterion).view(-1, *(1,) * (size.dim() - 1))
    return size


def _lowest_scores(
    scores: dict[nn.Conv2d, Tensor], amount: float, criterion: Criterion, scope: str
) -> dict[nn.Conv2d, Tensor]:
    """For each layer, true where a score is among the ``int(n * amount)`` lowest of the n it is compared with."""
    if scope != "global":
        rows = {conv: s.flatten(1) if scope == "filter" else s.flatten() for conv, s in scores.items()}
        return {c: _lowest(r, int(r.shape[-1] * amount)).view_as(scores[c]) for c, r in rows.items()}
    flat = []
    for s in scores.values():
        s = s.flatten()
        if criterion in ("l1", "l2"):
            s = s / s.square().mean().sqrt().clamp_min(torch.finfo(s.dtype).tiny)
        flat.append(s.index_fill(0, s.argmax(), math.inf))  # the best of a layer stays
    pool = torch.cat(flat)
    k = min(int(len(pool) * amount), len(pool) - len(flat))
    parts = _lowest(pool, k).split([len(s) for s in flat])
    return {conv: part.view_as(s) for (conv, s), part in zip(scores.items(), parts, strict=True)}


def _lowest(scores: Tensor, k: int) -> Tensor:
    """True at the k lowest of the last dimension; of equal ones the first."""
    order = scores.argsort(dim=-1, stable=True)[..., :k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def _norms_behind(graph: Any, conv: nn.Conv2d) -> list[_BatchNorm]:
    """The BatchNorms that the output of ``conv`` reaches before any other layer with parameters."""
    found: dict[_BatchNorm, None] = {}
    seen = set()
    queue = list(graph.module2node[conv].outputs) if conv in graph.module2node else []
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node.module, _BatchNorm):
            found[node.module] = None
        elif not any(True for _ in getattr(node.module, "parameters", tuple)()):
            queue += node.outputs
    return list(found)


def _scale(graph: Any, name: str, conv: nn.Conv2d, criterion: str) -> Tensor:
    """Root mean square of the scales of the BatchNorms behind each filter of ``conv``."""
    behind = _norms_behind(graph, conv)
    total = torch.zeros(conv.out_channels, dtype=torch.float64, device="cpu")
    members = torch.zeros_like(total)
    for item in group_of(graph, conv, list(range(conv.out_channels))) if behind else ():
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
