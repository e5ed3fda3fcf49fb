r"""What does a trained network look at? Explanation by interpretation, and how to test an explanation.

Each channel's response to an image is one number, so an image is a vector f. A lasso finds, for each class c, the few
channels that tell it from the others:

.. math:: \min_{w_c} \lVert F w_c - l_c\rVert^2 \quad\text{subject to}\quad \lVert w_c\rVert_1 \le \mu,

with the vectors of n images as rows of F and :math:`l_c` = 1 for the images that the network takes for class c, else 0.
An image is then explained by the few of these channels that speak most for its class, each drawn back into the image.

The vectors, the constraint and the choice of the three channels follow the released code of the paper; the statement of
the lasso, the average pictures and the remedy for strides are our reconstruction, as is every detail of the tests.

Source: Oramas, Wang and Tuytelaars, "Visual Explanation by Interpretation", ICLR 2019, arXiv:1712.06302.
"""

import contextlib
import copy
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path_gram
from torch import Tensor, nn

from .data import IMAGE_SETS, Images, load_images
from .flowers import VARIANTS, MaskedSplit, flowers
from .layers import attach_sparseout, detach_sparseout
from .models import build_model
from .noise import check_choice, check_exponent, check_probability
from .records import Record, provenance, rounded
from .sparsity import capture_activations, hoyer
from .training import Recipe, evaluate, fit, pick_device

Place = tuple[str, int]  # a layer's name and a channel in it

RULES = ("guided", "deconvnet", "gradient")

# Channels that an explanation is made of.
KEEP = 3

# Images put through a network at a time.
_PART = 250


@dataclasses.dataclass(frozen=True)
class Features:
    """Images as vectors: ``values`` (n, m), every row of L2 norm 1 (or 0 for a silent network), and for each column the
    layer and channel it comes from, ``places``."""

    values: Tensor
    places: tuple[Place, ...]


def channel_features(model: nn.Module, x: Tensor, layers: Sequence[str] | None = None) -> Features:
    """The squared L2 norm of every channel's response, divided by its sum over the layer; the layers one after another;
    the whole vector divided by its L2 norm.

    Args:
        model: any module; evaluated in evaluation mode.
        x: images as the model takes them (n, ...).
        layers: names of modules that put out (n, channels, ...). None is every nonlinearity.

    Raises:
        ValueError: an unknown layer, no layer, or no image.
    """
    known = [name for name, module in model.named_modules() if name]
    for name in layers or ():
        _check_layer(name, known)
    if layers is not None and not len(layers):
        raise ValueError("layers must name at least one module; None takes every nonlinearity")
    if not len(x):
        raise ValueError("at least one image is needed, got an empty batch")
    parts = []
    for start in range(0, len(x), _PART):
        where = None if layers is None else (lambda name, module: name in layers)
        outputs = capture_activations(model, x[start : start + _PART], where=where)
        parts.append({name: out.float().reshape(*out.shape[:2], -1).square().sum(2) for name, out in outputs.items()})
    names = list(parts[0]) if layers is None else list(layers)
    powers = [torch.cat([part[name] for part in parts]) for name in names]
    values = torch.cat([F.normalize(power, p=1.0, dim=1) for power in powers], 1)
    places = tuple(
        (name, channel) for name, power in zip(names, powers, strict=True) for channel in range(power.shape[1])
    )
    return Features(F.normalize(values, dim=1), places)


def _check_layer(name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"this model has no layer {name!r}; {hint}")


@dataclasses.dataclass(frozen=True)
class LassoPath:
    r"""All solutions for one class, from :math:`\mu = 0` up to least squares: linear between knots.

    Attributes:
        norms: L1 norm at each knot (k,), rising from 0. weights: at each knot (m, k).
        explained: share of the target's variance that each knot explains (k,): 1 is all, 0 what a constant explains.
    """

    norms: Tensor
    weights: Tensor
    explained: Tensor

    def at(self, mu: float) -> Tensor:
        """The solution (m,) under ``||w||_1 <= mu``; least squares where that needs less."""
        if not mu > 0 or not math.isfinite(mu):
            raise ValueError(f"mu must be a finite number > 0 (the largest L1 norm of a class), got {mu!r}")
        if mu >= self.norms[-1]:
            return self.weights[:, -1]
        right = int(torch.searchsorted(self.norms, mu, right=True))
        a, b = self.norms[right - 1], self.norms[right]
        t = (mu - a) / (b - a)  # no sign changes between knots, so the norm is linear there too
        return (1 - t) * self.weights[:, right - 1] + t * self.weights[:, right]

    def needed(self, explained: float) -> int | None:
        """Number of features at the first knot that explains so much; None if least squares does not."""
        enough = (self.explained >= explained).nonzero()
        return int((self.weights[:, enough[0, 0]] != 0).sum()) if len(enough) else None


def lasso_paths(features: Tensor, labels: Tensor, classes: int) -> list[LassoPath]:
    """One :class:`LassoPath` a class, by least angle regression (scikit-learn), in float64.

    Args:
        features: (n, m). labels: (n,), whole numbers from 0 to ``classes`` - 1.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, a label out of range, a class without images.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features must be (n, m) and labels (n,), got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    x = features.detach().double().cpu()
    if not bool(x.isfinite().all()):
        raise ValueError("the features hold values that are not finite: has the network diverged?")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must lie between 0 and {classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    empty = [c for c in range(classes) if not bool((labels == c).any())]
    if empty:
        raise ValueError(f"no image has the label {', '.join(map(str, empty))}: a class without images has no features")
    # a dead channel has no place on a path; of two that always respond alike the first stands for both, because
    # angles between them are nought
    gram = x.T @ x
    power = gram.diagonal()
    twin = (power[:, None] + power - 2 * gram <= 1e-12 * power).triu(1).any(0)
    alive = (power > 0) & ~twin
    used = x[:, alive]
    gram = gram[alive][:, alive]
    paths = []
    for c in range(classes):
        target = (labels == c).double().cpu()
        with warnings.catch_warnings():  # near the end of the path columns can be as good as dependent
            warnings.simplefilter("ignore", ConvergenceWarning)
            _, _, knots = lars_path_gram(
                (used.T @ target).numpy(), gram.numpy(), n_samples=len(x), method="lasso", max_iter=8 * len(gram)
            )
        weights = torch.zeros(x.shape[1], knots.shape[1], dtype=torch.float64)
        weights[alive] = torch.from_numpy(knots)
        weights[weights.abs() <= 1e-10 * weights.abs().sum(0)] = 0.0  # what left the path leaves a rounding error
        residual = (target[:, None] - x @ weights).square().sum(0)
        variance = (target - target.mean()).square().sum().clamp_min(1e-30)
        norms = weights.abs().sum(0).cummax(0).values  # it never falls but for rounding
        paths.append(LassoPath(norms, weights, 1 - residual / variance))
    return paths


def mu_lasso(features: Tensor, labels: Tensor, mu: float, classes: int) -> Tensor:
    """The solutions of all classes as columns, (m, classes) in float64. Arguments and errors as in
    :func:`lasso_paths`, and ``mu`` must be finite and above zero."""
    if not mu > 0 or not math.isfinite(mu):
        raise ValueError(f"mu must be a finite number > 0 (the largest L1 norm of a class), got {mu!r}")
    return torch.stack([path.at(mu) for path in lasso_paths(features, labels, classes)], 1)


def explained_share(features: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The share of each class's target variance that weights (m, classes) explain (classes,): 1 is all of it, 0 what a
    constant explains. Other arguments as in :func:`lasso_paths`."""
    target = F.one_hot(labels, weights.shape[1]).double()
    residual = (target - features.double() @ weights.double()).square().sum(0)
    return 1 - residual / (target - target.mean(0)).square().sum(0).clamp_min(1e-30)


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """What one unit of a layer sees: ``size`` pixels a side; the unit in row i, column j begins at the pixel ``corner``
    + (i, j) ``step``. Fields may reach beyond the image."""

    size: int
    step: int
    corner: int


def receptive_field(model: nn.Module, layer: str, side: int = 32) -> ReceptiveField:
    """The receptive field of ``layer`` in a plain chain of layers, by arithmetic; behind a flatten it is the image.

    Raises:
        ValueError: an unknown layer; a model that is no ``nn.Sequential``, or a kernel that is not square.
    """
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"receptive fields need a chain of layers (nn.Sequential), got a {type(model).__name__}")
    _check_layer(layer, [name for name, _ in model.named_children()])
    size, step, corner = 1, 1, 0
    for name, module in model.named_children():
        if isinstance(module, nn.Flatten):
            return ReceptiveField(side, side, 0)
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            settings = [getattr(module, k, 1) for k in ("kernel_size", "stride", "padding", "dilation")]
            kernel, stride, padding, dilation = (set(v) if isinstance(v, tuple) else {v} for v in settings)
            if max(map(len, (kernel, stride, padding, dilation))) > 1:
                raise ValueError(f"{name!r} treats rows and columns differently: no square receptive field")
            corner -= padding.pop() * step
            size += dilation.pop() * (kernel.pop() - 1) * step
            step *= stride.pop()
        if name == layer:
            break
    return ReceptiveField(size, step, corner)


def average_visualisation(model: nn.Module, images: Images, x: Tensor, place: Place, count: int = 50) -> Tensor:
    """What a channel responds to: the mean of the patches under its strongest responses, one patch an image.

    Args:
        model: a chain of layers, see :func:`receptive_field`. images: for normalisation. x: uint8 pixels (n, 3, h, w).
        place: layer and channel. count: so many images, those with the strongest responses.

    Returns:
        (3, size, size) between 0 and 1; nan where all patches lie outside of their images.
    """
    layer, channel = place
    field = receptive_field(model, layer, x.shape[-1])
    peaks, spots, width = [], [], 1
    for start in range(0, len(x), _PART):
        inputs = images.normalize(x[start : start + _PART])
        out = capture_activations(model, inputs, where=lambda name, module: name == layer)[layer][:, channel]
        width = out.shape[-1] if out.dim() > 1 else 1
        peak, spot = out.flatten(1).max(1) if out.dim() > 1 else (out, torch.zeros(len(out), dtype=torch.long))
        peaks.append(peak)
        spots.append(spot)
    best = torch.cat(peaks).topk(min(count, len(x))).indices
    spot = torch.cat(spots)[best]
    rows, columns = (field.corner + field.step * k + field.size for k in (spot // width, spot % width))
    padded = F.pad(x[best].float() / 255, (field.size,) * 4, value=torch.nan)
    reach = torch.arange(field.size)
    patches = padded[
        torch.arange(len(best))[:, None, None, None],
        torch.arange(3)[None, :, None, None],
        (rows[:, None] + reach)[:, None, :, None],
        (columns[:, None] + reach)[:, None, None, :],
    ]
    return patches.nanmean(0)


def back_projection(model: nn.Module, x: Tensor, places: Sequence[Place | None], rule: str = "guided") -> Tensor:
    r"""For each image, one channel's response drawn back into the image: (n, h, w), not negative.

    It starts from the response map itself (the gradient of half the squared norm, which is what the channel's feature
    is made of) and goes back to the pixels by the library captum: ``rule`` "guided" keeps only what is positive both
    forwards and backwards at every ReLU, "deconvnet" backwards alone, "gradient" is the plain gradient. The colours are
    added up by magnitude. An image whose place is None gets zeros.

    Args:
        model: nonlinearities must be modules. x: as the model takes it (n, channels, h, w). places: n of them.

    Raises:
        ValueError: an unknown rule or layer, or another number of places than of images.
        ImportError: captum is not installed.
    """
    check_choice(rule, RULES, "rule")
    if len(places) != len(x):
        raise ValueError(f"one place an image is needed, got {len(places)} places for {len(x)} images")
    known = [name for name, _ in model.named_modules()]
    result = torch.zeros(len(x), *x.shape[-2:])
    for layer in dict.fromkeys(place[0] for place in places if place is not None):
        _check_layer(layer, known)
        index = torch.tensor([i for i, place in enumerate(places) if place is not None and place[0] == layer])
        channel = torch.tensor([places[i][1] for i in index.tolist()])  # type: ignore[index]
        result[index] = _attribute(model, x[index], rule, layer, functools.partial(_half_power, channel))
    return result


def class_attribution(model: nn.Module, x: Tensor, classes: Tensor, rule: str = "gradient") -> Tensor:
    """The score of one class drawn back into each image, (n, h, w): with "gradient" the usual saliency, with "guided"
    guided backpropagation. No channel is selected: a control for :func:`heatmap`. Arguments as in
    :func:`back_projection`."""
    check_choice(rule, RULES, "rule")
    return _attribute(model, x, rule, None, functools.partial(_score, classes))


def _half_power(channel: Tensor, out: Tensor) -> Tensor:
    chosen = out[torch.arange(len(out)), channel]
    return chosen.reshape(len(out), -1).square().sum(1) / 2


def _score(classes: Tensor, out: Tensor) -> Tensor:
    return out[torch.arange(len(out)), classes]


def _attribute(model: nn.Module, x: Tensor, rule: str, layer: str | None, pick: Callable[[Tensor], Tensor]) -> Tensor:
    try:
        from captum.attr import NeuronDeconvolution, NeuronGradient, NeuronGuidedBackprop
    except ImportError as error:
        raise ImportError("explanations need captum: pip install --no-deps captum") from error
    method = {"guided": NeuronGuidedBackprop, "deconvnet": NeuronDeconvolution, "gradient": NeuronGradient}[rule]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore", UserWarning)  # that it sets hooks, and takes them off again
            attribute = method(model, model if layer is None else model.get_submodule(layer)).attribute
            maps: Tensor = attribute(x.detach().requires_grad_(), neuron_selector=pick).detach().abs().sum(1)
    finally:
        for module, training in modes:
            module.training = training
    return maps


def scaled(maps: Tensor) -> Tensor:
    """Each map (..., h, w) from its least to its largest value onto [0, 1]; a flat one becomes zero."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Explanations of n images.

    Attributes:
        maps: (n, h, w), between 0 and 1. predicted: the class that the network gave, and that is explained (n,).
        chosen: columns of the features, the most intense first, -1 where there was none (n, 3).
        intensity: of each (n, 3); 0 where there was none.
        odd: whether the class's weights summed to nearly zero or less (n,), see :func:`intensities`.
    """

    maps: Tensor
    predicted: Tensor
    chosen: Tensor
    intensity: Tensor
    odd: Tensor


def intensities(values: Tensor, weights: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    r"""How strongly each feature speaks for the class of its image: :math:`f_j W_{jc} / \sum_k W_{kc}`, (n, m), and
    whether the denominator failed, (n,).

    Weights may be negative, and nothing keeps their sum away from zero: there the quotient explodes, and below it
    evidence for the class turns into evidence against it. Where the sum is below a hundredth of the L1 norm, that norm
    is the denominator instead. The order of an image's positive features does not depend on it.
    """
    w = weights.to(values.dtype)
    total, size = w.sum(0), w.abs().sum(0)
    odd = total < 0.01 * size
    scale = torch.where(odd, size, total).clamp_min(torch.finfo(values.dtype).tiny)
    return values * (w / scale).T[classes], odd[classes]


def heatmap(
    model: nn.Module,
    x: Tensor,
    weights: Tensor,
    layers: Sequence[str] | None = None,
    *,
    keep: int = KEEP,
    rule: str = "guided",
) -> Explanation:
    """Explain the class that the network gives to each image: of the class's features that speak for it, the ``keep``
    most intense, each drawn back into the image and scaled to [0, 1]; then the largest value at each pixel.

    Args:
        model, x, layers: as for :func:`channel_features`; x must be images (n, channels, h, w).
        weights: from :func:`mu_lasso` on the same layers (m, classes).
        keep: channels an explanation. rule: see :func:`back_projection`.

    Raises:
        ValueError: weights of another number of features; keep < 1; an unknown rule or layer.
    """
    if keep < 1:
        raise ValueError(f"keep must be a whole number >= 1, got {keep!r}")
    features = channel_features(model, x, layers)
    if len(weights) != len(features.places):
        raise ValueError(
            f"weights are for {len(weights)} features, but these layers have {len(features.places)}: "
            "use the layers that they were found on"
        )
    predicted = predict(model, x)
    strength, odd = intensities(features.values, weights, predicted)
    top, chosen = strength.topk(keep, dim=1)
    chosen = chosen.masked_fill(top <= 0, -1)
    return Explanation(combined(model, x, features.places, chosen, rule), predicted, chosen, top.clamp_min(0), odd)


def combined(model: nn.Module, x: Tensor, places: Sequence[Place], chosen: Tensor, rule: str = "guided") -> Tensor:
    """The pixelwise largest value of the scaled back-projections of ``chosen`` (n, k), columns of the features; -1 is
    none. (n, h, w)."""
    maps = torch.zeros(len(x), *x.shape[-2:])
    for column in chosen.T.tolist():
        picked = [places[j] if j >= 0 else None for j in column]
        maps = maps.maximum(scaled(back_projection(model, x, picked, rule)))
    return maps


def random_choice(features: Features, chosen: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A control for ``chosen`` (n, k): for each channel another of the same layer that responds to the image, drawn at
    random; -1 stays -1."""
    layers = {name: k for k, name in enumerate(dict.fromkeys(name for name, _ in features.places))}
    layer = torch.tensor([layers[name] for name, _ in features.places])
    result = chosen.clone()
    for k in range(chosen.shape[1]):
        same = layer[chosen[:, k].clamp_min(0)][:, None] == layer
        free = same & (features.values > 0) & (torch.arange(len(layer)) != chosen[:, k : k + 1])
        drawn = (torch.rand(free.shape, generator=generator) * free).argmax(1)
        result[:, k] = torch.where((chosen[:, k] >= 0) & free.any(1), drawn, chosen[:, k])
    return result


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """The class of the highest score for each image (n,), in evaluation mode."""
    return _scores(model, x).argmax(1)


@torch.no_grad()
def _scores(model: nn.Module, x: Tensor) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    scores = torch.cat([model(x[start : start + _PART]) for start in range(0, len(x), _PART)])
    for module, training in modes:
        module.training = training
    return scores


class _Subsample(torch.autograd.Function):
    """Every s-th row and column. Backwards, the nearest neighbours of what was left out get their share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: tuple[int, int]) -> Tensor:
        ctx.shape, ctx.share = x.shape, stride[0] * stride[1]
        return x[..., :: stride[0], :: stride[1]].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return F.interpolate(grads[0], size=ctx.shape[-2:], mode="nearest") / ctx.share, None


class _ResampledConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        dense = F.conv2d(x, self.weight, self.bias, 1, self.padding, self.dilation, self.groups)
        out: Tensor = _Subsample.apply(dense, self.stride)  # type: ignore[no-untyped-call]
        return out


def resample_strides(model: nn.Module) -> nn.Module:
    """A copy whose strided convolutions compute the same forwards, and backwards step by one pixel.

    Backwards, a convolution with stride s spreads each value over its kernel, s pixels apart: some pixels are reached
    more often than others, which draws a grid into every back-projection. Here the convolution runs at stride 1, of
    which every s-th value is taken; backwards these are resampled by nearest neighbour to the full size, divided by
    s x s, and go through the convolution at stride 1. Only the picture changes. (The paper describes the idea; this way
    to do it is our reconstruction.)
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            module.__class__ = _ResampledConv
    return model


def grid_strength(maps: Tensor, period: int) -> float:
    """How much of a grid of this period is in maps (n, h, w): the standard deviation of the mean over each of the
    period x period places of a pixel in the grid, over the mean of all. 0 is none."""
    n, height, width = maps.shape
    cut = maps[:, : height // period * period, : width // period * period]
    means = cut.reshape(n, height // period, period, -1, period).mean((0, 1, 3))
    return float(means.std(correction=0) / means.mean().clamp_min(1e-30))


@contextlib.contextmanager
def silenced(model: nn.Module, places: Sequence[Place]) -> Iterator[None]:
    """Within this context the named channels put out zero.

    Raises:
        ValueError: an unknown layer.
    """
    known = [name for name, _ in model.named_modules()]
    channels: dict[str, list[int]] = {}
    for layer, channel in places:
        _check_layer(layer, known)
        channels.setdefault(layer, []).append(channel)

    def silence(off: list[int]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda module, args, out: out.index_fill(1, torch.tensor(off, device=out.device), 0.0)

    handles = [model.get_submodule(name).register_forward_hook(silence(off)) for name, off in channels.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def ablation(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    places: Sequence[Place],
    *,
    draws: int = 3,
    generator: torch.Generator | None = None,
) -> dict[str, list[float]]:
    """Are a class's features relevant to it? Accuracy (%) on the images of each class: with all channels ("whole"),
    with all its features silenced ("selected"), and with as many channels of the same layers drawn at random
    ("random", the mean of ``draws``).

    Args:
        model: classifier. x, y: normalised images (n, ...) and true classes (n,). weights: (m, classes), of
            :func:`mu_lasso`. places: of the m features.

    Raises:
        ValueError: weights and places differ in number; a class without images.
    """
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


def overlap(maps: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union (n,) of the mask and of as many pixels as it has, those of the largest values. No
    threshold needs to be chosen. Ties go by chance, from a fixed seed."""
    ties = torch.rand(maps[0].shape, generator=torch.Generator().manual_seed(0)) * 1e-6
    order = (maps + ties).flatten(1).argsort(1, descending=True)
    hits = masks.flatten(1).gather(1, order).float().cumsum(1)
    area = masks.flatten(1).sum(1)
    inside = hits.gather(1, (area - 1).clamp_min(0)[:, None]).squeeze(1) * (area > 0)
    return inside / (2 * area - inside).clamp_min(1)


def pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """The pointing game (n,): the share of a map's largest pixels that lie in the mask; with one largest, 1 or 0."""
    top = maps == maps.amax((1, 2), keepdim=True)
    return (top & masks).sum((1, 2)) / top.sum((1, 2))


def against_truth(maps: Tensor, split: Any) -> dict[str, float]:
    """Mean of :func:`energy_inside`, :func:`overlap` and :func:`pointing` over a split whose masks are known.

    Raises:
        ValueError: the split has no masks, or another number of images.
    """
    mask = getattr(split, "mask", None)
    if mask is None:
        raise ValueError(
            "these images have no masks, so there is no truth to compare with: use bridgeout_lite.flowers.flowers"
        )
    if len(mask) != len(maps):
        raise ValueError(f"one map an image is needed, got {len(maps)} maps for {len(mask)} images")
    measures = {"energy": energy_inside, "overlap": overlap, "pointing": pointing}
    return {name: float(measure(maps, mask).mean()) for name, measure in measures.items()}


# Shares of the pixels that a deletion curve takes away.
DELETED = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def deletion(model: nn.Module, x: Tensor, maps: Tensor, shares: Sequence[float] = DELETED) -> list[float]:
    """The mean probability of the class first predicted, as the pixels of the largest values are set to the training
    mean (zero, in normalised images), share by share. It falls fast if the map shows what the network uses. Ties go by
    chance, from a fixed seed."""
    predicted = predict(model, x)
    ties = torch.rand(maps[0].shape, generator=torch.Generator().manual_seed(0)) * 1e-6
    rank = (maps + ties).flatten(1).argsort(1, descending=True).argsort(1).view(maps.shape)
    curve = []
    for share in shares:
        kept = (rank >= round(share * maps[0].numel()))[:, None]
        probability = _scores(model, x * kept).softmax(1)
        curve.append(float(probability[torch.arange(len(x)), predicted].mean()))
    return curve


def curve_area(curve: Sequence[float], shares: Sequence[float] = DELETED) -> float:
    """Mean height of a deletion curve (trapezium rule): low is faithful."""
    heights, steps = torch.tensor(curve), torch.tensor(shares)
    return float(torch.trapezoid(heights, steps) / (steps[-1] - steps[0]))


# Data of the recorded runs, images whose features are taken, and images that are explained.
DATASETS = (*(f"flowers-{variant}" for variant in VARIANTS), *(name for name in IMAGE_SETS if name != "auto"))
DESCRIBED_IMAGES = 600
EXPLAINED_IMAGES = 120

# Bounds at which the selection is counted, and shares of the variance for which the needed features are counted.
MUS = (1.0, 2.0, 5.0, 10.0, 20.0)
SHARES = (0.3, 0.5)

# The noise of the recorded sweep. At this p the validation accuracies of chapter 4's network on CIFAR-10 lie within a
# point for all q: networks of about equal fit can be compared.
SWEPT_Q = (1.0, 2.0, 3.0)
SWEPT_P = 0.1


@dataclasses.dataclass(frozen=True)
class ExplanationExperiment:
    """A network that is trained and then explained, fully described.

    Attributes:
        dataset: one of ``DATASETS``. train, valid, test: so many images of it.
        model, width: as for :func:`bridgeout_lite.build_model`.
        method: "none", or "sparseout" behind every nonlinearity. p, q: of the noise.
        mu: of the lasso whose features are tested, one of ``MUS``.
        recipe: of the training. seed: of the initial weights, the order of the images, the noise and the controls.
    """

    dataset: str = "flowers-single-6c"
    train: int = 2000
    valid: int = 600
    test: int = 600
    model: str = "smallcnn"
    width: float = 0.5
    method: str = "sparseout"
    p: float = 0.1
    q: float = 2.0
    mu: float = 5.0
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.dataset, DATASETS, "dataset")
        check_choice(self.method, ("none", "sparseout"), "method")
        object.__setattr__(self, "p", check_probability(self.p))
        object.__setattr__(self, "q", check_exponent(self.q))
        object.__setattr__(self, "width", float(self.width))
        if self.mu not in MUS:
            raise ValueError(f"mu must be one of {', '.join(f'{mu:g}' for mu in MUS)}, got {self.mu!r}")
        object.__setattr__(self, "mu", float(self.mu))

    @property
    def spec(self) -> dict[str, Any]:
        """The experiment as JSON values: what a record is found by."""
        spec = {"task": "explanations", **dataclasses.asdict(self)}
        spec["recipe"]["milestones"] = list(self.recipe.milestones)
        return spec

    def run(self, **options: Any) -> Record:
        """:func:`run_explanation` on this experiment's data, which a process keeps until it needs other data."""
        return run_explanation(self, _load(self.dataset, self.train, self.valid, self.test), **options)


@functools.lru_cache(maxsize=1)
def _load(dataset: str, train: int, valid: int, test: int) -> Images:
    variant = dataset.removeprefix("flowers-")
    if variant in VARIANTS:
        return flowers(variant, train=train, valid=valid, test=test)
    return load_images(dataset, train=train, valid=valid, test=test)


def run_explanation(
    experiment: ExplanationExperiment,
    images: Images,
    *,
    device: str | torch.device = "auto",
    checkpoint: str | Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Record:
    """Train one network and put its explanations to the test.

    Args:
        experiment: what to run. images: its data.
        device, checkpoint, progress, on_epoch: as for :func:`bridgeout_lite.fit`. What comes after training runs on
            the CPU.

    Returns:
        A :class:`~bridgeout_lite.Record` with the metrics valid_accuracy, test_accuracy (%), valid_loss, test_loss
        (nats), and those of :func:`measure_explanations`.
    """
    where = pick_device(device)
    started, origin = time.perf_counter(), provenance(where, images.name, images.checksum)
    with torch.random.fork_rng([]):
        torch.manual_seed(experiment.seed)
        model = build_model(experiment.model, width=experiment.width, num_classes=images.num_classes)
    if experiment.method == "sparseout":
        attach_sparseout(model, experiment.p, experiment.q)
    options: dict[str, Any] = {"checkpoint": checkpoint, "progress": progress, "on_epoch": on_epoch}
    fit(model, images, experiment.recipe, seed=experiment.seed, device=where, **options)
    detach_sparseout(model).cpu()
    metrics: dict[str, Any] = {}
    for split in ("valid", "test"):
        metrics[f"{split}_loss"], metrics[f"{split}_accuracy"] = evaluate(model, images.to("cpu"), split)
    metrics |= measure_explanations(model, images.to("cpu"), experiment.mu, experiment.seed)
    origin |= {"seconds": time.perf_counter() - started}
    return Record(experiment.spec, rounded(metrics, 4), rounded(origin))


def measure_explanations(model: nn.Module, images: Images, mu: float, seed: int = 0) -> dict[str, Any]:
    """How many features a trained network's classes need, whether they matter, and what their pictures show.

    Features are selected on the first ``DESCRIBED_IMAGES`` of the validation split with the network's own predictions
    as labels; everything else is measured on the test split.

    Returns:
        sparsity: Hoyer of each layer's activations. counts, explained: for each of ``MUS`` the mean over classes of the
        number of features and of the explained share. needed: for each of ``SHARES`` the features of each class, None
        where least squares does not get there. by_layer: features at ``mu``, per class and layer, mean. odd: share of
        explanations whose denominator failed. ablation: see :func:`ablation`. deletion: curves of the explanations and
        of controls, on the first ``EXPLAINED_IMAGES``. truth, where there are masks: :func:`against_truth` of the same.
    """
    draws = torch.Generator().manual_seed(seed)
    described = images.normalize(images.valid.x[:DESCRIBED_IMAGES])
    features = channel_features(model, described)
    labels = predict(model, described)
    paths = lasso_paths(features.values, labels, images.num_classes)
    weights = torch.stack([path.at(mu) for path in paths], 1)
    counts, shares = [], []
    for bound in MUS:
        found = torch.stack([path.at(bound) for path in paths], 1)
        counts.append(float((found != 0).sum(0).float().mean()))
        shares.append(float(explained_share(features.values, labels, found).mean()))
    layers = list(dict.fromkeys(name for name, _ in features.places))
    by_layer = dict.fromkeys(layers, 0.0)
    for (name, _), row in zip(features.places, weights, strict=True):
        by_layer[name] += float((row != 0).sum()) / images.num_classes

    few = images.test.to("cpu")
    x = images.normalize(few.x[:EXPLAINED_IMAGES])
    own = heatmap(model, x, weights)
    own_features = channel_features(model, x)
    random = random_choice(own_features, own.chosen, draws)
    maps = {
        "selected": own.maps,
        "random": combined(model, x, features.places, random),
        "guided": class_attribution(model, x, own.predicted, "guided"),
        "gradient": class_attribution(model, x, own.predicted, "gradient"),
        "chance": torch.rand(own.maps.shape, generator=draws),
    }
    result: dict[str, Any] = {
        "sparsity": {name: float(hoyer(out)) for name, out in capture_activations(model, x).items()},
        "counts": counts,
        "explained": shares,
        "needed": {f"{share:g}": [path.needed(share) for path in paths] for share in SHARES},
        "by_layer": by_layer,
        "odd": float(own.odd.float().mean()),
        "ablation": ablation(model, images.normalize(few.x), few.y, weights, features.places, generator=draws),
        "deletion": {name: deletion(model, x, drawn) for name, drawn in maps.items()},
    }
    if isinstance(few, MaskedSplit) and isinstance(images.train, MaskedSplit):
        place = images.train.mask.float().mean(0)  # where the part usually is, without a look at the image
        flat = torch.ones_like(place)
        maps |= {"usual place": place.expand_as(own.maps), "flat": flat.expand_as(own.maps)}
        split = MaskedSplit(few.x[:EXPLAINED_IMAGES], few.y[:EXPLAINED_IMAGES], few.mask[:EXPLAINED_IMAGES])
        result["truth"] = {name: against_truth(drawn, split) for name, drawn in maps.items() if name != "chance"}
    return result


def explanations() -> list[ExplanationExperiment]:
    """Chapter 15's runs of the small CNN at half its width: on flowers whose disc tells the class, and on 4,000 images
    of CIFAR-10, without noise and with Sparseout at ``SWEPT_Q`` and ``SWEPT_P``; then, without noise, on flowers whose
    disc and leaf tell it. Three seeds. The paper's code has mu = 5 for its flowers and 10 for photographs."""
    recipe = Recipe(epochs=7, batch_size=64, crop=2)
    quiet: dict[str, Any] = {"method": "none", "p": 0.0}
    noises: list[dict[str, Any]] = [quiet, *({"p": SWEPT_P, "q": q} for q in SWEPT_Q)]
    photographs: dict[str, Any] = {
        "dataset": "cifar10",
        "train": 4000,
        "valid": 1000,
        "mu": 10.0,
        "recipe": Recipe(epochs=4, batch_size=64),
    }
    double: dict[str, Any] = {"dataset": "flowers-double-12c", "recipe": recipe}
    sets = [({"recipe": recipe}, noises), (double, [quiet]), (photographs, noises)]
    return [
        ExplanationExperiment(seed=seed, **common | noise)
        for common, some in sets
        for noise in some
        for seed in range(3)
    ]


def explanations_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a run of :func:`explanations`: dataset, method, p, q, seed, valid_accuracy and test_accuracy (%), and

    * features, explained: mean over classes at the run's mu, the latter from 0 to 1; needed: features for the first of
      ``SHARES``, mean over the classes that get there;
    * hoyer: of the last hidden layer;
    * selected, random: points of accuracy that a class loses with its features, or with as many others, silenced; mean
      over classes; relevance: the first minus the second;
    * deletion_NAME: area under the deletion curve;
    * energy_NAME, overlap_NAME, pointing_NAME: against the truth, where it is known.
    """
    rows = []
    for record in records:
        spec, metrics = record.spec, record.metrics
        if spec.get("task") != "explanations" or "ablation" not in metrics:
            continue
        row = {k: spec[k] for k in ("dataset", "method", "p", "q", "seed")}
        row |= {k: metrics[k] for k in ("valid_accuracy", "test_accuracy", "odd")}
        at = MUS.index(spec["mu"])
        row |= {"features": metrics["counts"][at], "explained": metrics["explained"][at]}
        needed = [count for count in metrics["needed"][f"{SHARES[0]:g}"] if count is not None]
        row["needed"] = sum(needed) / len(needed) if needed else math.nan
        row["hoyer"] = list(metrics["sparsity"].values())[-1]
        whole, selected, random = (pd.Series(metrics["ablation"][k]).mean() for k in ("whole", "selected", "random"))
        row |= {"selected": whole - selected, "random": whole - random, "relevance": random - selected}
        row |= {f"deletion_{name}": curve_area(curve) for name, curve in metrics["deletion"].items()}
        for name, measures in metrics.get("truth", {}).items():
            row |= {f"{measure}_{name}": value for measure, value in measures.items()}
        rows.append(row)
    return pd.DataFrame(rows)
