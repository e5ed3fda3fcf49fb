r"""OICSR: out-in-channel sparsity. A channel's group has the filters that make it and the weights that read it.

Removing a channel removes a filter of one layer *and* the slice of the next layer's weights that reads it. OICSR
penalises the two together,

.. math:: \lambda\sum_{\text{channels } i} \bigl\lVert W^{l}_{i,:} \oplus W^{l+1}_{:,i}\bigr\rVert_2 ,

and ranks the channels of all layers by the *energy* of their group, its sum of squares. Channels pass through
BatchNorm, nonlinearities and pooling; those that a residual addition ties together are one group with all their writers
and readers. Torch-Pruning (Fang et al. 2023, arXiv:2301.12900) finds which weights belong together.

We did not have the paper's text. The formula is from its abstract, summaries by others and memory, the ranking from
readers' notes; neither is verified. Two choices are ours: BatchNorm's scales and shifts are not in the groups, and tied
channels are merged. With BatchNorm in between, the length of :math:`W^l_{i,:}` does not matter to the function, and
that of :math:`W^{l+1}_{:,i}` does as long as BatchNorm's scale and shift stay the same.

Source: Li et al. 2019, arXiv:1905.11664.
"""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..channels import ChannelGroup, channel_groups, plain_copy, remove_channels
from ..checks import check_fraction, check_positive, check_share
from ..cost import count
from ..modules import doubled
from .base import Rival, clean_weight

_UNPAIRED = "the layers of this model cannot be paired by their channels"


def group_energy(model: nn.Module, group: ChannelGroup) -> Tensor:
    """Sum of squares of each channel's group, shape (size,), differentiable. A weight that makes one channel of a group
    and reads another counts for both.

    Raises:
        ValueError: a group that does not fit the model; weights under a mask, noise or gates.
    """
    return _per_channel(model, group, torch.square)


def _per_channel(model: nn.Module, group: ChannelGroup, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of ``of(weight)`` over the weights of each channel's group."""
    parts = []
    for member in group.members:
        module = model.get_submodule(member.layer)
        if parametrize.is_parametrized(module, "weight"):
            raise ValueError(f"the weight of {member.layer!r} carries noise or gates: take them off first")
        w = clean_weight(member.layer, module)
        values = of(w.to(torch.promote_types(w.dtype, torch.float32)))  # squares of halves would vanish
        side = 0 if member.writes else 1
        if member.places.max() >= w.shape[side]:
            raise ValueError(f"{_UNPAIRED}: {member.layer!r} has no channel {int(member.places.max())}")
        sums = values.sum([d for d in range(values.dim()) if d != side])
        places, channels = member.places.to(sums.device), member.channels.to(sums.device)
        parts.append(torch.zeros(group.size, dtype=sums.dtype, device=sums.device).index_add(0, channels, sums[places]))
    return torch.stack(parts).sum(0)


@dataclasses.dataclass(eq=False)
class OICSR(Rival):
    r"""The penalty :math:`\lambda\sum_i\lVert\text{group } i\rVert_2` over all channels; see the top of this module.
    In the paper training alternates with :func:`prune_to_budget`.

    Args:
        strength: :math:`\lambda`, finite and >= 0.
        example_input: for :func:`channel_groups`, which is called once per model.

    Raises:
        ValueError: a bad strength; when it acts, see :func:`channel_groups` and :func:`group_energy`; also a model in
            which an operation that is no module mixes channels.
    """

    strength: float
    example_input: Tensor | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.strength = check_positive(self.strength, "strength")
        self._known: weakref.WeakKeyDictionary[nn.Module, Sequence[ChannelGroup]] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> Any:  # a copy finds the groups of its models again
        return type(self), (self.strength, self.example_input)

    def penalty(self, model: nn.Module) -> Tensor:
        if model not in self._known:
            self._known[model] = channel_groups(model, self.example_input)
        # the slope of the root would be infinite at an empty group
        norms = [group_energy(model, g).clamp_min(1e-24).sqrt().sum() for g in self._known[model]]
        return self.strength * torch.stack(norms).sum()


def prune_to_budget(
    model: nn.Module, budget: float, example_input: Tensor, *, cap: float = 0.5, per_weight: bool = False
) -> nn.Module:
    """A smaller network within a budget of multiply-adds. As few channels as possible are removed, those with the
    lowest group energy, compared over the whole network. ``model`` is left as it is.

    Args:
        model: see :func:`channel_groups`.
        budget: share of the model's multiply-adds to keep at most, 0 < budget <= 1.
        example_input: a batch as the model takes it.
        cap: largest share of a group's channels to remove in one call, 0 <= cap < 1 (0.5 according to others' notes on
            the paper). At least one channel remains.
        per_weight: divide a channel's energy by the number of its weights, so that large kernels are no advantage.

    Raises:
        ValueError: see :func:`channel_groups`; a bad argument; a budget out of reach of the cap (the message says what
            is within reach).
    """
    budget, cap = check_fraction(budget, "budget", zero=False), check_share(cap, "cap")
    groups = channel_groups(model, example_input)
    order = _order(plain_copy(model), groups, cap, per_weight)
    whole = count(model, example_input)[1]
    allowed = budget * whole

    def smaller(k: int) -> nn.Module:
        picks: dict[str, list[int]] = {}
        for root, channel in order[:k]:
            picks.setdefault(root, []).append(channel)
        return remove_channels(model, picks, example_input)

    def macs(k: int) -> int:
        return count(smaller(k), example_input)[1]

    few, enough = -1, len(order)  # the fewest that suffice are more than the first, at most the second
    if macs(enough) > allowed:
        best = macs(enough) / whole
        raise ValueError(
            f"with cap={cap} one call reaches {best:.3f} of the multiply-adds, and budget={budget} was asked for: "
            "raise cap, or prune, train and prune again"
        )
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if macs(middle) <= allowed else (middle, enough)
    return smaller(enough)


def _order(model: nn.Module, groups: Sequence[ChannelGroup], cap: float, per_weight: bool) -> list[tuple[str, int]]:
    """(root, channel) of all channels that may be removed, lowest energy first."""
    candidates: list[tuple[float, str, int]] = []
    for group in groups:
        energy = doubled(group_energy(model, group).detach())
        if per_weight:
            energy = energy / doubled(_per_channel(model, group, torch.ones_like).detach())
        share = min(int(group.size * cap), group.size - 1)
        lowest = energy.argsort(stable=True)[:share].tolist()
        candidates += [(float(energy[channel]), group.root, channel) for channel in lowest]
    return [(root, channel) for _, root, channel in sorted(candidates, key=lambda c: c[0])]
