"""Do explanations hold? Features silenced, pixels deleted, maps held against a truth that is known."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import check_whole
from .features import Place, check_layer, predict, scores


@contextlib.contextmanager
def silenced(model: nn.Module, places: Sequence[Place]) -> Iterator[None]:
    """Within this context the named channels put out zero. A ValueError for an unknown layer."""
    known = [name for name, _ in model.named_modules()]
    channels: dict[str, list[int]] = {}
    for layer, channel in places:
        check_layer(layer, known)
        channels.setdefault(layer, []).append(channel)

    def silence(off: list[int]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda module, args, out: out.index_fill(1, torch.tensor(off, device=out.device), 0.0)

    handles = [model.get_submodule(name).register_forward_hook(silence(off)) for name, off in channels.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# Draws of random channels that a control of an ablation is the mean of.
DRAWS = 3


def ablation(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    places: Sequence[Place],
    *,
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> dict[str, list[float]]:
    """Are a class's features relevant to it? Accuracy (%) on the images of each class: with all channels ("whole"),
    with all its features silenced ("selected"), and with as many channels of the same layers drawn at random
    ("random", the mean of ``draws``). The draws are from all channels of a layer: they may hit selected ones, which
    makes the control cost more, and ones that are always silent, which cost nothing.

    Args:
        model: classifier. x, y: normalised images (n, ...) and true classes (n,). weights: (m, classes), of
            :func:`mu_lasso`. places: of the m features.

    Raises:
        ValueError: weights and places differ in number; a class without images; draws < 1.
    """
    check_whole(draws, "draws")
    if len(weights) != len(places):
        raise ValueError(f"weights are for {len(weights)} features, but {len(places)} places are given")
    empty = [c for c in range(weights.shape[1]) if not bool((y == c).any())]
    if empty:
        raise ValueError(f"no image has the class {', '.join(map(str, empty))}: nothing to measure there")
    layers: dict[str, list[Place]] = {}
    for place in places:
        layers.setdefault(place[0], []).append(place)
    found: dict[str, list[float]] = {"whole": [], "selected": [], "random": []}
    for c in range(weights.shape[1]):
        own = x[y == c]

        def accuracy(off: Sequence[Place], own: Tensor = own, c: int = c) -> float:
            with silenced(model, off):
                return 100.0 * float((predict(model, own) == c).float().mean())

        selected = [place for place, w in zip(places, weights[:, c].tolist(), strict=True) if w != 0]
        found["whole"].append(accuracy([]))
        found["selected"].append(accuracy(selected))
        levels = []
        for _ in range(draws):
            off = []
            for name, members in layers.items():
                count = sum(place[0] == name for place in selected)
                order = torch.randperm(len(members), generator=generator).tolist()
                off += [members[i] for i in order[:count]]
            levels.append(accuracy(off))
        found["random"].append(sum(levels) / draws)
    return found


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of each map's sum that lies inside its mask (n,); an empty map scores the mask's area, as a flat one."""
    total = maps.sum((1, 2))
    inside = (maps * masks).sum((1, 2)) / total.clamp_min(1e-30)
    return torch.where(total > 0, inside, masks.float().mean((1, 2)))


def _falling(maps: Tensor) -> Tensor:
    """The pixels of each map from the largest value down, (n, pixels); equal ones in an order drawn once."""
    shuffled = torch.randperm(maps[0].numel(), generator=torch.Generator().manual_seed(0)).to(maps.device)
    return shuffled[maps.flatten(1)[:, shuffled].argsort(stable=True, dim=1, descending=True)]


def overlap(maps: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union (n,) of the mask and of as many pixels as it has, those of the largest values. No
    threshold needs to be chosen. Ties go by chance, from a fixed seed."""
    order = _falling(maps)
    hits = masks.flatten(1).gather(1, order).float().cumsum(1)
    area = masks.flatten(1).sum(1)
    inside = hits.gather(1, (area - 1).clamp_min(0)[:, None]).squeeze(1) * (area > 0)
    return inside / (2 * area - inside).clamp_min(1)


def pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """The pointing game (n,): the share of a map's largest pixels that lie in the mask; with one largest, 1 or 0."""
    top = maps == maps.amax((1, 2), keepdim=True)
    return (top & masks).sum((1, 2)) / top.sum((1, 2))


def against_truth(maps: Tensor, split: Any) -> dict[str, float]:
    """Mean of :func:`energy_inside`, :func:`overlap` and :func:`pointing` over a split whose masks are known. A
    ValueError if it has none, or another number of images."""
    mask = getattr(split, "mask", None)
    if mask is None:
        raise ValueError(
            "these images have no masks, so there is no truth to compare with: use studies.explanations.flowers.flowers"
        )
    if len(mask) != len(maps):
        raise ValueError(f"one map per image is needed, got {len(maps)} maps for {len(mask)} images")
    measures = {"energy": energy_inside, "overlap": overlap, "pointing": pointing}
    return {name: float(measure(maps, mask).mean()) for name, measure in measures.items()}


# Shares of the pixels that a deletion curve takes away.
DELETED = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def deletion(model: nn.Module, x: Tensor, maps: Tensor, shares: Sequence[float] = DELETED) -> list[float]:
    """The mean probability of the class first predicted, as the pixels of the largest values are set to the training
    mean (zero, in normalised images), share by share. It falls fast if the map shows what the network uses. Ties go by
    chance, from a fixed seed."""
    predicted = predict(model, x)
    rank = _falling(maps).argsort(1).view(maps.shape)
    curve = []
    for share in shares:
        kept = (rank >= round(share * maps[0].numel()))[:, None]
        probability = scores(model, x * kept).softmax(1)
        curve.append(float(probability[torch.arange(len(x)), predicted].mean()))
    return curve


def curve_area(curve: Sequence[float], shares: Sequence[float] = DELETED) -> float:
    """Mean height of a deletion curve (trapezium rule): low is faithful."""
    heights, steps = torch.tensor(curve), torch.tensor(shares)
    return float(torch.trapezoid(heights, steps) / (steps[-1] - steps[0]))
