"""What is measured of the activations of a trained network, kept in records."""

import base64
import zlib
from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Images
from ..modules import capture_activations
from ..runs.records import Record, rounded
from ..sparsity import record_activations

# What is said of the sparsity of a layer.
SPARSITY = ("hoyer", "gini", "zero_fraction", "rms")

# log10 of an activation over its layer's root mean square; the bins of the recorded histograms
HISTOGRAM_EDGES = tuple(round(-3.0 + 0.1 * k, 1) for k in range(46))

# Images whose activations are measured: the first of the validation split.
MEASURED_IMAGES = 1000

# Validation images whose feature maps are kept: on CIFAR-10 a ship, a dog and an automobile.
MAPPED_IMAGES = (1, 3, 14)


def measure_activations(model: nn.Module, inputs: Tensor, q: float) -> dict[str, dict[str, Any]]:
    r"""Per layer: the measures of :func:`bridgeout_lite.sparsity.record_activations` over the whole batch and, under
    ``per_sample``, image by image; ``noise_ratio``, the mean of :math:`|x|^q` over the mean of :math:`x^2` (times
    p/(1-p): noise power over signal power); ``histogram``, the share of all activations in each bin of
    ``HISTOGRAM_EDGES``."""
    layers: dict[str, dict[str, Any]] = dict(record_activations(model, inputs))
    per_sample = record_activations(model, inputs, per_sample=True)
    edges = torch.tensor(HISTOGRAM_EDGES)
    for name, out in capture_activations(model, inputs).items():
        size = out.float().abs().flatten()
        on = size[size > 0]
        logs = (on / max(layers[name]["rms"], 1e-30)).log10().clamp(edges[0], edges[-1] - 1e-6).cpu()
        counts = torch.histogram(logs, edges).hist
        layers[name]["per_sample"] = per_sample[name]
        layers[name]["noise_ratio"] = (on.pow(q).sum() / size.square().sum().clamp_min(1e-30)).item()
        layers[name]["histogram"] = rounded((counts / size.numel()).tolist(), 3)
    return layers


def activation_maps(model: nn.Module, images: Images, *, channels: int = 4, side: int = 16) -> dict[str, Any]:
    """What a few validation images look like inside the network, small enough to keep in a record.

    Returns:
        ``{"images": [index, ...], "layers": {name: {"shape", "top", "levels"}}}``. ``levels`` is base64 of zlib of one
        byte a value, in the order of ``shape``: (images, channels, height, width), the first channels, max-pooled to
        at most ``side`` pixels; or (images, units). Level 15 is ``top``, the layer's largest value; 0 is an activation
        of zero exactly, and whatever is positive is at least 1.
    """
    chosen = [i for i in MAPPED_IMAGES if i < len(images.valid)]
    layers = {}
    for name, out in capture_activations(model, images.normalize(images.valid.x[chosen])).items():
        out = out.float().clamp_min(0)
        if out.dim() == 4:
            out = F.adaptive_max_pool2d(out[:, :channels], min(side, out.shape[-1]))
        top = out.max().item()
        levels = (out / max(top, 1e-30) * 15).ceil().to(torch.uint8).cpu()
        packed = zlib.compress(levels.numpy().tobytes(), 9)
        layers[name] = {"shape": list(out.shape), "top": top, "levels": base64.b64encode(packed).decode()}
    return {"images": chosen, "layers": layers}


def layers_frame(records: Iterable[Record], *, per_sample: bool = False) -> pd.DataFrame:
    """A row per run and layer: model, method, p, q, seed, layer, hoyer, gini, zero_fraction, rms, and noise_power, the
    noise's power over the signal's, p/(1-p) mean|x|^q / mean x^2."""
    rows = []
    for record in records:
        spec = record.spec
        for name, layer in record.metrics.get("layers", {}).items():  # a run that diverged has none
            row = {k: spec[k] for k in ("model", "method", "p", "q", "seed")} | {"layer": name}
            measured = layer["per_sample"] if per_sample else layer
            row |= {k: measured[k] for k in SPARSITY}
            rows.append(row | {"noise_power": spec["p"] / (1 - spec["p"]) * layer["noise_ratio"]})
    return pd.DataFrame(rows)
