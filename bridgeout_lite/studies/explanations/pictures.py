"""Pictures of what a channel looks for: average patches, back-projections, explanations of predictions."""

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ...checks import check_choice, check_whole
from ...data import Images
from ...layers import Sparseout
from ...modules import capture_activations, evaluating
from .features import PART, Features, Place, channel_features, check_layer, predict

RULES = ("guided", "deconvnet", "gradient")

# Channels that an explanation is made of.
KEEP = 3

# Beside the nonlinearities: layers of which each unit sees what one unit of the layer before sees.
POINTWISE = (nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Identity, Sparseout)


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """What one unit of a layer sees: ``size`` pixels a side; the unit in row i, column j begins at the pixel ``corner``
    + (i, j) ``step``. Fields may reach beyond the image."""

    size: int
    step: int
    corner: int


def receptive_field(model: nn.Module, layer: str, side: int = 32) -> ReceptiveField:
    """The receptive field of ``layer`` in a plain chain of layers, by arithmetic; behind a flatten or an adaptive pool
    it is the image. A ValueError for an unknown layer, a model that is no ``nn.Sequential``, and one with a layer
    before it whose field is not known here, such as a block or a kernel that is not square."""
    if not isinstance(model, nn.Sequential):
        raise ValueError(f"receptive fields need a chain of layers (nn.Sequential), got a {type(model).__name__}")
    check_layer(layer, [name for name, _ in model.named_children()])
    size, step, corner = 1, 1, 0
    for name, module in model.named_children():
        if isinstance(module, nn.Flatten | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            return ReceptiveField(side, side, 0)
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            settings = [getattr(module, k, 1) for k in ("kernel_size", "stride", "padding", "dilation")]
            kernel, stride, padding, dilation = (set(v) if isinstance(v, tuple) else {v} for v in settings)
            if max(map(len, (kernel, stride, padding, dilation))) > 1:
                raise ValueError(f"{name!r} treats rows and columns differently: no square receptive field")
            if not all(isinstance(number, int) for number in padding):
                raise ValueError(f"the padding of {name!r} must be a number, got {module.padding!r}")
            corner -= padding.pop() * step
            size += dilation.pop() * (kernel.pop() - 1) * step
            step *= stride.pop()
        elif not isinstance(module, POINTWISE) and type(module).__module__ != nn.ReLU.__module__:
            raise ValueError(f"what a unit of {name!r} sees is not known for a {type(module).__name__}")
        if name == layer:
            break
    return ReceptiveField(size, step, corner)


def average_visualisation(model: nn.Module, images: Images, x: Tensor, place: Place, count: int = 50) -> Tensor:
    """What a channel (``place``) responds to: the mean of the patches under its strongest responses, one patch from
    each of the ``count`` images that have these: (3, size, size) between 0 and 1, nan where all lie outside of their
    images. ``model`` is a chain as for :func:`receptive_field`, x are uint8 pixels (n, 3, h, w), normalised as
    ``images``."""
    layer, channel = place
    field = receptive_field(model, layer, x.shape[-1])
    peaks, spots, width = [], [], 1
    for start in range(0, len(x), PART):
        inputs = images.normalize(x[start : start + PART])
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
        raise ValueError(f"one place per image is needed, got {len(places)} places for {len(x)} images")
    known = [name for name, _ in model.named_modules()]
    result = torch.zeros(len(x), *x.shape[-2:])
    for layer in dict.fromkeys(place[0] for place in places if place is not None):
        check_layer(layer, known)
        index = torch.tensor([i for i, place in enumerate(places) if place is not None and place[0] == layer])
        channel = torch.tensor([places[i][1] for i in index.tolist()])  # type: ignore[index]
        result[index] = _attribute(model, x[index], rule, layer, functools.partial(_half_power, channel))
    return result


def class_attribution(model: nn.Module, x: Tensor, classes: Tensor, rule: str = "gradient") -> Tensor:
    """The score of one class drawn back into each image, (n, h, w): with "gradient" the usual saliency, with "guided"
    guided backpropagation. No channel is selected: a control for :func:`heatmap`. Arguments as in
    :func:`back_projection`."""
    check_choice(rule, RULES, "rule")
    return _attribute(model, x, rule, None, lambda out: out[torch.arange(len(out)), classes])


def _half_power(channel: Tensor, out: Tensor) -> Tensor:
    chosen = out[torch.arange(len(out)), channel]
    return chosen.reshape(len(out), -1).square().sum(1) / 2


def _attribute(model: nn.Module, x: Tensor, rule: str, layer: str | None, pick: Callable[[Tensor], Tensor]) -> Tensor:
    try:
        from captum.attr import NeuronDeconvolution, NeuronGradient, NeuronGuidedBackprop
    except ImportError as error:
        raise ImportError("explanations need captum: pip install --no-deps captum") from error
    method = {"guided": NeuronGuidedBackprop, "deconvnet": NeuronDeconvolution, "gradient": NeuronGradient}[rule]
    with evaluating(model), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore", UserWarning)  # that it sets hooks, and takes them off again
        attribute = method(model, model if layer is None else model.get_submodule(layer)).attribute
        maps: Tensor = attribute(x.detach().requires_grad_(), neuron_selector=pick).detach().abs().sum(1)
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
        keep: channels an explanation, at most as many as there are features. rule: see :func:`back_projection`.

    Raises:
        ValueError: weights of another number of features; keep < 1; an unknown rule or layer.
    """
    check_whole(keep, "keep")
    features = channel_features(model, x, layers)
    if len(weights) != len(features.places):
        raise ValueError(
            f"weights are for {len(weights)} features, but these layers have {len(features.places)}: "
            "use the layers that they were found on"
        )
    predicted = predict(model, x)
    strength, odd = intensities(features.values, weights, predicted)
    top, chosen = strength.topk(min(keep, strength.shape[1]), dim=1)
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


class _Subsample(torch.autograd.Function):
    """Every s-th row and column. Backwards, every pixel gets the value of the nearest one that was kept, and the mean
    of two that are equally near, over s x s: no value moves to one side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: tuple[int, int]) -> Tensor:
        ctx.shape, ctx.stride = x.shape, stride
        return x[..., :: stride[0], :: stride[1]].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0]
        for dim, s in zip((-2, -1), ctx.stride, strict=True):
            at, last = torch.arange(ctx.shape[dim], device=grad.device), grad.shape[dim] - 1
            below, above = (((at + shift) // s).clamp_max(last) for shift in ((s - 1) // 2, s // 2))
            grad = (grad.index_select(dim, below) + grad.index_select(dim, above)) / (2 * s)
        return grad, None


class _ResampledConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        stride, self.stride = self.stride, (1, 1)
        try:
            dense = self._conv_forward(x, self.weight, self.bias)  # with whatever padding it has
        finally:
            self.stride = stride
        out: Tensor = _Subsample.apply(dense, stride)  # type: ignore[no-untyped-call]
        return out


def resample_strides(model: nn.Module) -> nn.Module:
    """A copy whose strided convolutions compute the same forwards, and backwards step by one pixel.

    Backwards, a convolution with stride s spreads each value over its kernel, s pixels apart: some pixels are reached
    more often than others, which draws a grid into every back-projection. Here the convolution runs at stride 1, of
    which every s-th value is taken; backwards each pixel gets the value of the nearest one that was kept, or the mean
    of two that are equally near, divided by s x s. So what comes back stays where it was; merely repeated s times it
    would move by (s - 1) / 2 pixels. (The paper describes the idea; this way to do it is our reconstruction.)

    Raises:
        ValueError: a strided convolution whose weight is parametrized, by noise for example: detach it first.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            if is_parametrized(module):
                raise ValueError("a strided convolution has a parametrized weight: detach noise and gates first")
            module.__class__ = _ResampledConv
    return model


def grid_strength(maps: Tensor, period: int) -> float:
    """How much of a grid of this period is in maps (n, h, w): the standard deviation of the mean over each of the
    period x period places of a pixel in the grid, over the mean of all. 0 is none. A ValueError for a period below 1 or
    above the maps' size."""
    check_whole(period, "period", 1, min(maps.shape[1:]))
    n, height, width = maps.shape
    cut = maps[:, : height // period * period, : width // period * period]
    means = cut.reshape(n, height // period, period, -1, period).mean((0, 1, 3))
    return float(means.std(correction=0) / means.mean().clamp_min(1e-30))
