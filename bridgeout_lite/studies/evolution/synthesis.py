"""Synthesis: from a trained parent to an offspring, by draws; and cuts to given widths, the controls."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as masks

from ...channels import ChannelGroup, black_image, channel_groups, check_model, plain_copy, remove_channels
from ...checks import check_choice, check_fraction, check_whole
from ...pruning import GRANULARITIES
from ...rivals.gates import LAWS, survival, synapse_probability
from ...sparsity import filter_norms

# Magnitudes below this share of the layer's largest do not count for their filter.
TRUNCATION = 0.1


def cluster_probability(w: Tensor, *, truncation: float = TRUNCATION, law: str = "exp") -> Tensor:
    r"""How likely each filter is to be synthesised, before the environmental factor: the law of
    :func:`bridgeout_lite.rivals.gates.survival` at :math:`s_c/\max_c s_c`, with

    .. math:: s_c = \operatorname{mean}_k\; |w_{ck}|\,[\,|w_{ck}| \ge tZ\,], \qquad Z = \max_{ck}|w_{ck}| .

    ``w`` are the weights of one layer (filters, ...), ``truncation`` is t, 0 <= t <= 1, ``law`` "exp" or "rescaled".
    The result is (filters,) in float64; the strongest filter has probability 1.

    Raises:
        ValueError: no weights, or no filters of them; truncation outside [0, 1]; otherwise as
            :func:`bridgeout_lite.rivals.gates.synapse_probability`.
    """
    return survival(_strength(w, check_fraction(truncation, "truncation")), law)


def _strength(w: Tensor, truncation: float) -> Tensor:
    """s_c over its largest value, (filters,); zeros if all weights are."""
    synapse_probability(w)  # checks the weights
    if w.dim() < 2 or not w.numel():
        raise ValueError(f"weights of filters are needed, (filters, ...), got shape {tuple(w.shape)}")
    size = w.detach().cpu().double().abs().flatten(1)
    mean = (size * (size >= truncation * size.amax())).mean(1)
    return mean / mean.amax().clamp_min(torch.finfo(mean.dtype).tiny)


def stress_moments(w: Tensor, strength: float, law: str = "exp") -> tuple[Tensor, Tensor]:
    r"""Mean :math:`w(1-s(1-P))` and variance :math:`s^2w^2P(1-P)` of a weight under stress, each like ``w``. Errors as
    for :func:`bridgeout_lite.rivals.gates.stressed`."""
    s, kept = check_fraction(strength, "strength"), synapse_probability(w, law)
    return w * (1 - s * (1 - kept)), (s * w).square() * kept * (1 - kept)


def survivors(
    parent: nn.Module,
    factor: float,
    generator: torch.Generator | None = None,
    *,
    example_input: Tensor | None = None,
    truncation: float = TRUNCATION,
    law: str = "exp",
) -> dict[str, Tensor]:
    """Draw which channels of each group an offspring has: {root: truth values (channels,)}, the roots as in
    :func:`bridgeout_lite.channels.channel_groups`. Each channel survives on its own, with its probability times
    ``factor``; of a group that would die out the likeliest stays.

    Arguments and errors as for :func:`synthesize`.
    """
    factor, truncation = check_fraction(factor, "factor", zero=False), check_fraction(truncation, "truncation")
    check_model(parent)
    plain, kept = plain_copy(parent), {}
    for group in channel_groups(plain, example_input):
        chance = survival(_over_writers(plain, group, lambda w: _strength(w, truncation)), law)
        drawn = torch.rand(group.size, generator=generator, dtype=torch.float64) < factor * chance
        if not drawn.any():
            drawn[chance.argmax()] = True
        kept[group.root] = drawn
    return kept


def synthesize(
    parent: nn.Module,
    factor: float,
    generator: torch.Generator | None = None,
    granularity: str = "filter",
    *,
    example_input: Tensor | None = None,
    truncation: float = TRUNCATION,
    law: str = "exp",
) -> nn.Module:
    """An offspring: the parent's weights, less what was not drawn. ``parent`` is left as it is.

    Args:
        parent: any module with convolutions; masks that it carries hold in the offspring too.
        factor: F, the environmental factor, 0 < F <= 1. generator: on the CPU; defaults to torch's global one.
        granularity: "filter": a smaller network, by :func:`bridgeout_lite.channels.remove_channels`. "weight": a copy
            whose missing weights are masked, as by :func:`bridgeout_lite.pruning.prune`; a convolution keeps one.
        example_input: a batch as the model takes it; defaults to one black image of 32x32 with the channels of the
            first convolution. Only filters need it.
        truncation, law: see :func:`cluster_probability`; weights have no truncation.

    Raises:
        ValueError: factor outside (0, 1]; a bad truncation, law or granularity; a model without convolutions, under
            noise or stress (detach it first), with weights that are not finite; with filters also as
            :func:`bridgeout_lite.channels.remove_channels`.
    """
    factor = check_fraction(factor, "factor", zero=False)
    check_choice(granularity, GRANULARITIES, "granularity")
    if granularity == "filter":
        check_model(parent)
        example_input = black_image(parent) if example_input is None else example_input
        kept = survivors(parent, factor, generator, example_input=example_input, truncation=truncation, law=law)
        return remove_channels(parent, {k: (~v).nonzero().flatten().tolist() for k, v in kept.items()}, example_input)
    check_choice(law, LAWS, "law")
    check_model(parent)
    child = plain_copy(parent)
    for conv in [m for m in child.modules() if isinstance(m, nn.Conv2d)]:
        chance = synapse_probability(conv.weight, law).cpu()
        drawn = torch.rand(chance.shape, generator=generator) < factor * chance
        drawn &= (conv.weight != 0).cpu()  # what is gone stays gone
        drawn.view(-1)[chance.argmax()] = True
        masks.custom_from_mask(conv, "weight", drawn.to(conv.weight.device))
    return child


def cut(
    model: nn.Module,
    sizes: Mapping[str, int],
    by: str,
    example_input: Tensor,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A network of given widths cut from ``model``, which is left as it is: the controls of an evolution.

    Args:
        sizes: how many channels stay, by root. by: "magnitude" keeps those of the largest L2 norm (of tied filters the
            root mean square), "random" any.
        example_input, generator: as for :func:`synthesize`.

    Raises:
        ValueError: another ``by``; sizes of no group, below 1 or above what there is, or no whole numbers; otherwise as
            :func:`bridgeout_lite.channels.remove_channels`.
    """
    check_choice(by, ("magnitude", "random"), "by")
    check_model(model)
    plain, picks = plain_copy(model), {}
    groups = channel_groups(plain, example_input)
    for root in sizes:
        check_choice(root, tuple(group.root for group in groups), "the root of sizes")
    for group in groups:
        keep = check_whole(sizes.get(group.root, group.size), f"the size of {group.root!r}", 1, group.size)
        if by == "random":
            score = torch.rand(group.size, generator=generator)
        else:
            score = _over_writers(plain, group, lambda w: filter_norms(w.detach().cpu().double()).square())
        picks[group.root] = score.argsort(stable=True)[: group.size - keep].tolist()
    return remove_channels(plain, picks, example_input)


def _over_writers(model: nn.Module, group: ChannelGroup, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over the layers that make the channels of ``of(weight)``, one number per filter: (channels,), float64."""
    total = torch.zeros(group.size, dtype=torch.float64)
    members = torch.zeros_like(total)
    for member in group.members:
        if member.writes:
            values = of(model.get_parameter(f"{member.layer}.weight"))
            total[member.channels] += values[member.places]
            members[member.channels] += 1
    return total / members


def derived_seed(seed: int, phase: str) -> int:
    """A seed for one part of one run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{phase}".encode()).digest()[:6], "little")
