"""From an experiment to a record: build, attach, train, measure."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import nn

from ..checks import check_choice, check_exponent, check_fraction, check_positive, check_probability, check_share
from ..data import IMAGE_SETS, Images
from ..layers import attach_bridgeout, attach_sparseout, detach_bridgeout, detach_sparseout
from ..models import MODELS
from ..modules import Where
from ..noise import FORMS, GRADIENTS, TARGETS
from ..pruning import remove_filters
from ..rivals.penalties import L1
from ..runs.records import OMITTED_DEFAULTS, Record
from ..training import VIEWS, Recipe, evaluate, fit
from .curves import dropout_places, measure_latency, measure_pruning
from .experiment import ImageExperiment, Run, accuracies, columns
from .measures import MEASURED_IMAGES, activation_maps, measure_activations

METHODS = ("none", "sparseout", "bridgeout", "dropout", "l1")
PLACES = ("all", "last")
MEASURES = ("activations", "pruning", "train", "views")


@dataclasses.dataclass(frozen=True)
class Experiment(ImageExperiment):
    """One run, fully described.

    Attributes:
        dataset, train, valid, test: as for :func:`bridgeout_lite.load_images` (the split itself is always that of
            seed 0). model, width: as for :func:`bridgeout_lite.build_model`.
        method: "none", "sparseout" (behind every nonlinearity), "bridgeout" (on every 3x3 convolution), "dropout"
            (Sparseout at q = 2 where the pruning study has Dropout, see :func:`dropout_places`) or "l1" (``strength``
            times the sum of the magnitudes of all convolutions' weights).
        p, q, form, gradient: the noise; form defaults to the method's own. target_fraction, target: of Bridgeout.
        recipe: the training. seed: of the initial weights, the order of the images and the noise.
        cut: share of every layer's filters that the untrained network is built without; 0 <= cut < 1.
        place: of Sparseout, "all" or "last": on the features that the classifier reads.
        matched: whether Sparseout's p is that of q = 2, see :class:`bridgeout_lite.Sparseout`.
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

    PROTOCOL: ClassVar[int] = 1
    OMITTED_DEFAULTS: ClassVar[dict[str, Any]] = OMITTED_DEFAULTS

    def __post_init__(self) -> None:
        check_choice(self.dataset, IMAGE_SETS, "dataset")
        check_choice(self.model, tuple(MODELS), "model")
        check_choice(self.method, METHODS, "method")
        check_choice(self.gradient, GRADIENTS, "gradient")
        if self.form is not None:
            check_choice(self.form, FORMS, "form")
        self._settle(p=check_probability(self.p), q=check_exponent(self.q), width=float(self.width))
        self._settle(target_fraction=check_fraction(self.target_fraction))
        check_choice(self.target, TARGETS, "target")
        if self.method == "dropout" and self.q != 2:
            raise ValueError(f"dropout is q = 2, got q={self.q:g}: use method='sparseout' for another q")
        self._settle(cut=check_share(self.cut, "cut"), strength=check_positive(self.strength, "strength"))
        if (self.strength > 0) != (self.method == "l1"):
            raise ValueError(f"strength > 0 goes with method='l1', got {self.method!r}, strength={self.strength:g}")
        check_choice(self.place, PLACES, "place")
        if (self.place != "all" or self.matched) and self.method != "sparseout":
            raise ValueError(f"place and matched go with method='sparseout', got {self.method!r}")
        for measure in self.measures:
            check_choice(measure, MEASURES, "measures")
        self._settle(measures=tuple(self.measures))

    def on(self, data: Images) -> "Experiment":
        """This experiment on these images; under "auto" it takes their name, since a record names its data."""
        if self.dataset == "auto":
            return dataclasses.replace(self, dataset=data.name)
        super().on(data)
        return self

    def attach(self, model: nn.Module) -> nn.Module:
        """Attach the method to a model."""
        noise: dict[str, Any] = {"gradient": self.gradient} | ({"form": self.form} if self.form else {})
        if self.method == "sparseout":
            where = before_classifier(model) if self.place == "last" else None
            return attach_sparseout(model, self.p, self.q, **noise, matched=self.matched, where=where)
        if self.method == "dropout":
            return attach_sparseout(model, self.p, self.q, where=dropout_places(self.model))
        if self.method == "bridgeout":
            targeted: dict[str, Any] = {"target_fraction": self.target_fraction, "target": self.target}
            return attach_bridgeout(model, self.p, self.q, **noise, **targeted)
        return model

    def measure(self, images: Images, run: Run) -> dict[str, Any]:
        """valid_accuracy, test_accuracy (%), valid_loss, test_loss (nats), history (one list per column).

        The measure "activations" adds layers (:func:`measure_activations`) and maps (:func:`activation_maps`);
        "pruning" adds pruning (:func:`measure_pruning`) and, to the provenance, latency (:func:`measure_latency`);
        "train" adds train_accuracy and train_loss on images as they are; "views" the test accuracy by the views of
        :func:`bridgeout_lite.training.evaluate`.
        """
        model = self.build(images)
        if self.cut:
            model = remove_filters(model, self.cut, images.normalize(images.train.x[:1]).cpu())
        self.attach(model)
        rival = L1(self.strength) if self.method == "l1" else None
        history = run.train(fit, model, images, self.recipe, seed=self.seed, regulariser=rival)
        detach_bridgeout(detach_sparseout(model))
        metrics: dict[str, Any] = accuracies(model, images, history.precision)
        metrics["history"] = columns(history, "train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
        if "activations" in self.measures:
            metrics["layers"] = measure_activations(model, images.normalize(images.valid.x[:MEASURED_IMAGES]), self.q)
            metrics["maps"] = activation_maps(model, images)
        if "train" in self.measures:
            metrics |= accuracies(model, images, history.precision, ("train",))
        if "views" in self.measures:
            metrics["views"] = {
                views: evaluate(model, images, "test", precision=history.precision, views=views)[1] for views in VIEWS
            }
        if "pruning" in self.measures:
            metrics["pruning"] = measure_pruning(model, images, self.q, precision=history.precision, seed=self.seed)
            run.origin["latency"] = measure_latency(model, images)
        return metrics


def run(
    experiment: Experiment,
    images: Images | None = None,
    *,
    device: str | torch.device = "auto",
    checkpoint: str | Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Record:
    """Train one experiment and measure it: its :meth:`~bridgeout_lite.studies.experiment.Experiment.run`."""
    return experiment.run(images, device=device, checkpoint=checkpoint, progress=progress, on_epoch=on_epoch)


def before_classifier(model: nn.Module) -> Where:
    """Picks the module whose output the module ``classifier`` of a chain of modules reads."""
    names = [name for name, _ in model.named_children()]
    last = names[names.index("classifier") - 1]
    return lambda name, module: name == last


def runs_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run: dataset, model, method, p, q, seed, epochs, seconds, the accuracies (%) and losses (nats), which
    are missing for a run that diverged."""
    rows = []
    for record in records:
        spec, metrics = record.spec, record.metrics
        row = {k: spec[k] for k in ("dataset", "model", "method", "p", "q", "seed")}
        row |= {"epochs": spec["recipe"]["epochs"], "seconds": record.provenance.get("seconds")}
        rows.append(row | {k: v for k, v in metrics.items() if isinstance(v, float)})
    return pd.DataFrame(rows)


def plain_rows(records: Iterable[Record]) -> pd.DataFrame:
    """Of :func:`runs_frame` the runs without noise, each with train_accuracy (%): that on the training images as they
    are where it was measured, else that of the last epoch, on images as they were trained on."""
    plain = [r for r in records if r.spec["method"] == "none" and "test_accuracy" in r.metrics]
    last = [r.metrics["history"]["train_accuracy"][-1] for r in plain]
    return runs_frame(plain).assign(
        train_accuracy=[r.metrics.get("train_accuracy", seen) for r, seen in zip(plain, last, strict=True)]
    )
