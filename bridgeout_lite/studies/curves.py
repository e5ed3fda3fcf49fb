"""What is measured of a trained network by pruning it: the protocol of chapters 5 to 7, kept in records.

A *curve* is test accuracy against the share of pruned filters or weights under one treatment. All are one-shot except
"fine-tuned", all rank by the L2 norm except where the name says otherwise. The validation accuracies of a few of them
are kept too: by those, and by nothing else, settings are chosen.
"""

import copy
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune as masks

from ..checks import check_choice
from ..cost import latencies
from ..data import Images
from ..layers import is_activation
from ..models import family
from ..modules import Where
from ..pruning import curve, prune, remove_filters
from ..runs.records import Record
from ..sparsity import filter_norms, hoyer
from ..training import Recipe, evaluate, pick_precision

AMOUNTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SOME = (0.1, 0.3, 0.5, 0.7)

# Training batches of 128 that estimate BatchNorm's statistics anew.
BATCHES = 20

# After removal and recalibration; a second training of a sixth of the first one's length.
FINE_TUNING = Recipe(epochs=2, lr=0.02)

WEIGHTS = {"granularity": "weight", "scope": "filter"}

# Each curve by name: the amounts, and the arguments of :func:`bridgeout_lite.pruning.curve`.
CURVES: dict[str, tuple[tuple[float, ...], dict[str, Any]]] = {
    "zeroed": (AMOUNTS, {}),
    "zeroed, recalibrated": (SOME, {"recalibrate": BATCHES}),
    "removed": (AMOUNTS, {"remove": True}),
    "removed, recalibrated": (AMOUNTS, {"remove": True, "recalibrate": BATCHES}),
    "removed, fine-tuned": ((0.5, 0.7), {"remove": True, "recalibrate": BATCHES, "recipe": FINE_TUNING}),
    "random: zeroed": ((0.1, 0.2, 0.3, 0.4), {"criterion": "random"}),
    "random: removed, recalibrated": (SOME, {"criterion": "random", "remove": True, "recalibrate": BATCHES}),
    "folded: removed, recalibrated": (SOME, {"criterion": "folded", "remove": True, "recalibrate": BATCHES}),
    "weights: zeroed": ((0.3, 0.5, 0.7, 0.8, 0.9), WEIGHTS),
    "weights: zeroed, recalibrated": ((0.5, 0.7, 0.8, 0.9), WEIGHTS | {"recalibrate": BATCHES}),
}

# The curves by which settings are chosen: these are measured on the validation images as well.
CHOSEN_BY = ("zeroed", "removed, recalibrated")

# Where they are compared, unless something else is said.
CHOSEN_AT = (0.1, 0.2, 0.3, 0.4)

# What the published code did to VGG beside zeroing filters; see prune_as_released.
RELEASED = "zeroed as released"
RELEASED_AMOUNTS = (0.1, 0.2, 0.3, 0.4)


def prune_as_released(model: nn.Module, amount: float) -> nn.Module:
    r"""Zero filters as the published code does to its VGG: the ``int(O * amount)`` of smallest L2 norm in each layer
    and, independently, as many of the smallest :math:`|\gamma|` of each BatchNorm.

    That code prunes every parameter whose name contains "weight" but not "bn", and its VGG's BatchNorms are called
    "features.k". Changes ``model`` and returns it. Errors as for :func:`bridgeout_lite.pruning.prune`.

    Source: github.com/najeebkhan/bridgeout-filter-pruning at cb453ff.
    """
    prune(model, amount)
    for norm in [m for m in model.modules() if isinstance(m, _BatchNorm)]:
        masks.l1_unstructured(norm, "weight", int(norm.num_features * amount))
    return model


def dropout_places(model: str) -> Where:
    """Where the pruning study's Dropout baseline sits in a model of this name: in the residual nets inside the blocks,
    elsewhere behind every nonlinearity. (Its released code drops only 75 % of the channels, the weakest of each image,
    by default; here all.) ValueError for a name that no model has."""
    names = {"resnet": ("relu1", "norm2"), "wide_resnet": ("conv1",)}.get(family(model), ())
    if not names:
        return is_activation
    return lambda name, module: name.startswith("stage") and name.endswith(names)


def measure_pruning(
    model: nn.Module, images: Images, q: float, *, precision: str = "auto", seed: int = 0
) -> dict[str, Any]:
    r"""Every curve of the protocol for one trained network without noise attached. ``model`` is left as it is.

    Args:
        model: a trained network. images: what it was trained on. q: the exponent it was trained with.
        precision: of the evaluation, "float32", "bfloat16" or "auto". seed: of random picks and fine-tuning.

    Returns:
        JSON values: ``curves``, for each name of ``CURVES`` and "zeroed as released" the lists amount, test and, for
        those of ``CHOSEN_BY``, valid (accuracies, %); ``costs``, parameters and multiply-adds of the network with so
        many filters removed; ``filters``, for each convolution the sorted L2 norms of its filters; ``weights``, for
        each convolution rms and Hoyer sparsity of its weights, and noise_ratio: mean of :math:`|w|^q` over mean of
        :math:`w^2` (times p/(1-p): noise power over signal power).
    """
    where = next(model.parameters()).device
    options: dict[str, Any] = {"precision": pick_precision(precision, where), "seed": seed}
    curves: dict[str, dict[str, list[float]]] = {}
    costs = {}
    for name, (amounts, arguments) in CURVES.items():
        frame = curve(model, images, amounts, split="test", **arguments, **options)
        curves[name] = {"amount": list(amounts), "test": frame["accuracy"].tolist()}
        if name in CHOSEN_BY:
            frame = curve(model, images, amounts, split="valid", **arguments, **options)
            curves[name]["valid"] = frame["accuracy"].tolist()
        if name == "removed":
            costs = {"amount": list(amounts)} | {k: frame[k].tolist() for k in ("parameters", "macs")}
    released = [prune_as_released(copy.deepcopy(model), amount) for amount in RELEASED_AMOUNTS]
    accuracies = [evaluate(pruned, images, "test", precision=options["precision"])[1] for pruned in released]
    curves[RELEASED] = {"amount": list(RELEASED_AMOUNTS), "test": accuracies}
    convs = {name: m.weight.detach() for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    return {
        "curves": curves,
        "costs": costs,
        "filters": {name: filter_norms(w).sort().values.tolist() for name, w in convs.items()},
        "weights": {name: _weights(w, q) for name, w in convs.items()},
    }


def measure_latency(model: nn.Module, images: Images, batch: int = 128) -> dict[str, Any]:
    """Milliseconds (medians of 7) that a batch takes in the network with each share of filters removed: amount,
    latency_ms, and batch. They are measured in turn, so ratios are more reliable than times."""
    x = images.normalize(images.test.x[:batch])
    networks = [remove_filters(model, amount, x[:1]) for amount in AMOUNTS]
    return {"amount": list(AMOUNTS), "latency_ms": latencies(networks, x, rounds=7), "batch": len(x)}


def _weights(w: torch.Tensor, q: float) -> dict[str, float]:
    power = w.square().mean()
    ratio = (w.abs().pow(q).mean() / power.clamp_min(1e-30)).item()
    return {"rms": power.sqrt().item(), "hoyer": float(hoyer(w)), "noise_ratio": ratio}


def curves_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run, curve, split and amount: dataset, model, method, p, q, setting (see :func:`setting`), epochs,
    seed, curve, split, amount, accuracy (%). Records without pruning are passed over."""
    rows = []
    for record in records:
        if "pruning" not in record.metrics:
            continue
        spec = record.spec
        row = {k: spec[k] for k in ("dataset", "model", "method", "p", "q", "seed")}
        row |= {"setting": setting(spec), "epochs": spec["recipe"]["epochs"]}
        for name, lists in record.metrics["pruning"]["curves"].items():
            for split in [split for split in ("valid", "test") if split in lists]:
                for amount, accuracy in zip(lists["amount"], lists[split], strict=True):
                    rows.append(row | {"curve": name, "split": split, "amount": amount, "accuracy": accuracy})
    return pd.DataFrame(rows)


def setting(spec: Mapping[str, Any]) -> str:
    """The strength of a method in a few characters, such as "p=0.3, q=1.5, 75 % of kernels"; without noise "-"."""
    if spec["method"] == "none":
        return "-"
    words = [f"p={spec['p']:g}"]
    if spec["method"] == "bridgeout":
        words.append(f"q={spec['q']:g}")
    if spec.get("target_fraction", 1.0) < 1:
        words.append(f"{100 * spec['target_fraction']:g} % of {spec.get('target', 'kernels')}")
    return ", ".join(words)


def choose_settings(frame: pd.DataFrame, curve_name: str, amounts: Iterable[float] = CHOSEN_AT) -> dict[str, str]:
    """For each method the setting with the highest mean *validation* accuracy over seeds and ``amounts`` on a curve.

    Settings with fewer seeds than others of their method, those of a first search, are passed over.

    Args:
        frame: from :func:`curves_frame`, of one data set, network and number of epochs.
        curve_name: one of ``CHOSEN_BY``.

    Raises:
        ValueError: the curve has no validation accuracies; the frame mixes data sets, networks or lengths of training.
    """
    check_choice(curve_name, CHOSEN_BY, "curve_name")
    for column in ("dataset", "model", "epochs"):
        if frame[column].nunique() > 1:
            values = ", ".join(map(str, sorted(frame[column].unique())))
            raise ValueError(f"the rows are of several experiments ({column} is {values}): give those of one")
    rows = frame[(frame["curve"] == curve_name) & (frame["split"] == "valid") & frame["amount"].isin(list(amounts))]
    table = rows.groupby(["method", "setting"]).agg(seeds=("seed", "nunique"), accuracy=("accuracy", "mean"))
    best = table.reset_index().sort_values(["seeds", "accuracy"]).groupby("method").last()
    return {str(method): str(name) for method, name in best["setting"].items()}


def at_best(
    frame: pd.DataFrame, curve_name: str, *, chosen_by: str | None = None, amounts: Iterable[float] = CHOSEN_AT
) -> pd.DataFrame:
    """The test rows of one curve, each method at the setting that :func:`choose_settings` finds on the curve
    ``chosen_by`` (defaults to the curve itself) over ``amounts``."""
    best = choose_settings(frame, chosen_by or curve_name, amounts)
    rows = frame[(frame["curve"] == curve_name) & (frame["split"] == "test")]
    return rows[rows["method"].map(best) == rows["setting"]]


def endures(amounts: Iterable[float], accuracies: Iterable[float], points: float = 5.0) -> float:
    """The largest share up to which a curve stays within ``points`` of its value at share 0, by linear interpolation
    up to where it first leaves; the last share if it never does."""
    shares, values = list(amounts), list(accuracies)
    floor = values[0] - points
    for (a, high), (b, low) in itertools.pairwise(zip(shares, values, strict=True)):
        if low < floor:
            return a + (b - a) * (high - floor) / (high - low)
    return shares[-1]
