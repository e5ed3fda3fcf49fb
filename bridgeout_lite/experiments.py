"""From an experiment to a record: build, attach, train, measure."""

import base64
import dataclasses
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import IMAGE_SETS, Images, kept_images, load_images
from .layers import Where, attach_bridgeout, attach_sparseout, detach_bridgeout, detach_sparseout
from .models import MODELS, build_model
from .noise import (
    FORMS,
    GRADIENTS,
    TARGETS,
    check_choice,
    check_exponent,
    check_fraction,
    check_positive,
    check_probability,
)
from .protocol import dropout_places, measure_latency, measure_pruning
from .pruning import remove_filters
from .records import Record, provenance, rounded
from .sparsity import capture_activations, record_activations
from .structured import L1
from .training import VIEWS, Recipe, check_images, evaluate, fit, pick_device

METHODS = ("none", "sparseout", "bridgeout", "dropout", "l1")
PLACES = ("all", "last")
MEASURES = ("activations", "pruning", "train", "views")

# What a spec leaves out at these values: records made before there was such a choice keep their fingerprints.
LATER: dict[str, Any] = {"target_fraction": 1.0, "target": "kernels", "cut": 0.0, "measures": ["activations"]}
LATER |= {"test": None, "strength": 0.0, "place": "all", "matched": False}

# log10 of an activation over its layer's root mean square; the bins of the recorded histograms
HISTOGRAM_EDGES = tuple(round(-3.0 + 0.1 * k, 1) for k in range(46))

# Images whose activations are measured: the first of the validation split.
MEASURED_IMAGES = 1000

# Validation images whose feature maps are kept: on CIFAR-10 a ship, a dog and an automobile.
MAPPED_IMAGES = (1, 3, 14)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run, fully described.

    Attributes:
        dataset, train, valid, test: as for :func:`bridgeout_lite.load_images` (the split itself is always that of
            seed 0).
        model, width: as for :func:`bridgeout_lite.build_model`.
        method: "none", "sparseout" (behind every nonlinearity), "bridgeout" (on every 3x3 convolution), "dropout"
            (Sparseout at q = 2 where the pruning study has Dropout, see :func:`dropout_places`) or "l1" (``strength``
            times the sum of the sizes of all convolutions' weights).
        p, q, form, gradient: of the noise. form None is the method's default.
        recipe: of the training. seed: of the initial weights, the order of the images and the noise.
        target_fraction, target: of Bridgeout.
        cut: share of every layer's filters that the untrained network is built without; 0 <= cut < 1.
        place: of Sparseout, "all" or "last": on the features that the classifier reads. matched: its p is that of
            q = 2, see :class:`bridgeout_lite.Sparseout`.
        measures: what is measured beside accuracy, of ``MEASURES``.
    """

    dataset: str = "cifar10"
    model: str = "smallcnn"
    method: str = "sparseout"
    p: float = 0.1
    q: float = 2.0
    form: str | None = None
    gradient: str = "exact"
    width: float = 1.0
    train: int | None = None
    valid: int = 5000
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    seed: int = 0
    target_fraction: float = 1.0
    target: str = "kernels"
    cut: float = 0.0
    measures: tuple[str, ...] = ("activations",)
    test: int | None = None
    strength: float = 0.0
    place: str = "all"
    matched: bool = False

    def __post_init__(self) -> None:
        check_choice(self.dataset, IMAGE_SETS, "dataset")
        check_choice(self.model, tuple(MODELS), "model")
        check_choice(self.method, METHODS, "method")
        check_choice(self.gradient, GRADIENTS, "gradient")
        if self.form is not None:
            check_choice(self.form, FORMS, "form")
        # 2 and 2.0 are one experiment and must have one fingerprint
        object.__setattr__(self, "p", check_probability(self.p))
        object.__setattr__(self, "q", check_exponent(self.q))
        object.__setattr__(self, "width", float(self.width))
        object.__setattr__(self, "target_fraction", check_fraction(self.target_fraction))
        check_choice(self.target, TARGETS, "target")
        if self.method == "dropout" and self.q != 2:
            raise ValueError(f"dropout is q = 2, got q={self.q:g}: use method='sparseout' for another q")
        if isinstance(self.cut, bool) or not isinstance(self.cut, int | float) or not 0 <= self.cut < 1:
            raise ValueError(
                f"cut must be a number with 0 <= cut < 1 (the share of filters left out), got {self.cut!r}"
            )
        object.__setattr__(self, "cut", float(self.cut))
        object.__setattr__(self, "strength", check_positive(self.strength, "strength"))
        if (self.strength > 0) != (self.method == "l1"):
            raise ValueError(f"strength > 0 goes with method='l1', got {self.method!r}, strength={self.strength:g}")
        check_choice(self.place, PLACES, "place")
        if (self.place != "all" or self.matched) and self.method != "sparseout":
            raise ValueError(f"place and matched go with method='sparseout', got {self.method!r}")
        for measure in self.measures:
            check_choice(measure, MEASURES, "measures")
        object.__setattr__(self, "measures", tuple(self.measures))

    @property
    def spec(self) -> dict[str, Any]:
        """The experiment as JSON values: what a record is found by."""
        spec = dataclasses.asdict(self)
        spec["recipe"] = self.recipe.spec
        spec["measures"] = list(self.measures)
        return {k: v for k, v in spec.items() if k not in LATER or v != LATER[k]}

    def run(self, **options: Any) -> Record:
        """:func:`run` on this experiment's data, which a process keeps until it needs other data."""
        return run(self, kept_images(self.dataset, self.train, self.valid, self.test), **options)

    def attach(self, model: nn.Module) -> nn.Module:
        """Attach the method to a model."""
        if self.method == "sparseout":
            return attach_sparseout(
                model,
                self.p,
                self.q,
                form=self.form or "odd",
                gradient=self.gradient,
                matched=self.matched,
                where=before_classifier(model) if self.place == "last" else None,
            )
        if self.method == "dropout":
            return attach_sparseout(model, self.p, self.q, where=dropout_places(self.model))
        if self.method == "bridgeout":
            return attach_bridgeout(
                model,
                self.p,
                self.q,
                form=self.form or "even",
                gradient=self.gradient,
                target_fraction=self.target_fraction,
                target=self.target,
            )
        return model


def run(
    experiment: Experiment,
    images: Images | None = None,
    *,
    device: str | torch.device = "auto",
    checkpoint: str | Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Record:
    """Train one experiment and measure it. The test split is read once, after training.

    Args:
        experiment: what to run. images: already loaded data of that name; None loads it.
        device, checkpoint, progress, on_epoch: as for :func:`bridgeout_lite.fit`.

    Returns:
        A :class:`~bridgeout_lite.records.Record` with the metrics valid_accuracy, test_accuracy (%), valid_loss,
        test_loss (nats), history (a column a list). With the measure "activations" also maps (see
        :func:`activation_maps`), and per layer: hoyer, gini, zero_fraction, rms over a batch of validation images, the
        same per image, noise_ratio and a histogram. With "pruning" also pruning (see
        :func:`bridgeout_lite.protocol.measure_pruning`), and in the provenance, as times differ from run to run,
        latency (see :func:`bridgeout_lite.protocol.measure_latency`). With "train" also train_accuracy and train_loss,
        on images as they are; with "views" views, the test accuracy by the views of
        :func:`bridgeout_lite.training.evaluate`.
    """
    where = pick_device(device)
    if images is None:
        images = load_images(experiment.dataset, train=experiment.train, valid=experiment.valid, test=experiment.test)
    if experiment.dataset == "auto":  # a record names its data
        experiment = dataclasses.replace(experiment, dataset=images.name)
    check_images(experiment, images)
    images = images.to(where)
    started, origin = time.perf_counter(), provenance(where, images.name, images.checksum)
    model = build_model(experiment.model, width=experiment.width, num_classes=images.num_classes, seed=experiment.seed)
    if experiment.cut:
        model = remove_filters(model, experiment.cut, images.normalize(images.train.x[:1]).cpu())
    experiment.attach(model)
    history = fit(
        model,
        images,
        experiment.recipe,
        seed=experiment.seed,
        device=where,
        checkpoint=checkpoint,
        progress=progress,
        on_epoch=on_epoch,
        regulariser=L1(experiment.strength) if experiment.method == "l1" else None,
    )
    detach_bridgeout(detach_sparseout(model))
    frame = history.frame
    valid_loss, valid_accuracy = evaluate(model, images, "valid", precision=history.precision)
    test_loss, test_accuracy = evaluate(model, images, "test", precision=history.precision)
    metrics = {
        "valid_loss": valid_loss,
        "valid_accuracy": valid_accuracy,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "history": {k: frame[k].tolist() for k in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")},
    }
    if "activations" in experiment.measures:
        measured = images.normalize(images.valid.x[:MEASURED_IMAGES])
        metrics["layers"] = measure_activations(model, measured, experiment.q)
        metrics["maps"] = activation_maps(model, images)
    if "train" in experiment.measures:
        metrics["train_loss"], metrics["train_accuracy"] = evaluate(model, images, "train", precision=history.precision)
    if "views" in experiment.measures:
        metrics["views"] = {
            views: evaluate(model, images, "test", precision=history.precision, views=views)[1] for views in VIEWS
        }
    if "pruning" in experiment.measures:
        metrics["pruning"] = measure_pruning(
            model, images, experiment.q, precision=history.precision, seed=experiment.seed
        )
        origin["latency"] = measure_latency(model, images)
    origin |= {"precision": history.precision, "seconds": time.perf_counter() - started}
    return Record(experiment.spec, rounded(metrics), rounded(origin))


def before_classifier(model: nn.Module) -> Where:
    """Picks the module whose output the module ``classifier`` of a chain of modules reads."""
    names = [name for name, _ in model.named_children()]
    last = names[names.index("classifier") - 1]
    return lambda name, module: name == last


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


def runs_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a run: dataset, model, method, p, q, seed, epochs, seconds, the accuracies (%) and losses (nats), which
    are missing for a run that diverged."""
    rows = []
    for record in records:
        spec, metrics = record.spec, record.metrics
        row = {k: spec[k] for k in ("dataset", "model", "method", "p", "q", "seed")}
        row |= {"epochs": spec["recipe"]["epochs"], "seconds": record.provenance.get("seconds")}
        rows.append(row | {k: v for k, v in metrics.items() if isinstance(v, float)})
    return pd.DataFrame(rows)


def layers_frame(records: Iterable[Record], *, per_sample: bool = False) -> pd.DataFrame:
    """One row a run and layer: model, method, p, q, seed, layer, hoyer, gini, zero_fraction, rms, and noise_power, the
    noise's power over the signal's, p/(1-p) mean|x|^q / mean x^2."""
    rows = []
    for record in records:
        spec = record.spec
        for name, layer in record.metrics.get("layers", {}).items():  # a run that diverged has none
            row = {k: spec[k] for k in ("model", "method", "p", "q", "seed")} | {"layer": name}
            measured = layer["per_sample"] if per_sample else layer
            row |= {k: measured[k] for k in ("hoyer", "gini", "zero_fraction", "rms")}
            rows.append(row | {"noise_power": spec["p"] / (1 - spec["p"]) * layer["noise_ratio"]})
    return pd.DataFrame(rows)
