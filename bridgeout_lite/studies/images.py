"""From an experiment to a record: build, attach, train, measure."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import nn

from ..checks import check_choice, check_exponent, check_fraction, check_probability
from ..data import IMAGE_SETS, Images, kept_images
from ..layers import attach_bridgeout, attach_sparseout, detach_bridgeout, detach_sparseout
from ..models import MODELS
from ..noise import FORMS, GRADIENTS, TARGETS
from ..pruning import remove_filters
from ..runs.records import OMITTED_DEFAULTS, Record
from ..training import Recipe, fit
from .activations.measures import MEASURED_IMAGES, activation_maps, measure_activations
from .experiment import ImageExperiment, Run, accuracies, columns
from .pruning.curves import dropout_places, measure_latency, measure_pruning

METHODS = ("none", "sparseout", "bridgeout", "dropout")
MEASURES = ("activations", "pruning")


@dataclasses.dataclass(frozen=True)
class Experiment(ImageExperiment):
    """One run, fully described.

    Attributes:
        dataset, train, valid: as for :func:`bridgeout_lite.load_images` (the split itself is always that of seed 0).
        model, width: as for :func:`bridgeout_lite.build_model`.
        method: "none", "sparseout" (behind every nonlinearity), "bridgeout" (on every 3x3 convolution) or "dropout"
            (Sparseout at q = 2 where the pruning study has Dropout, see :func:`dropout_places`).
        p, q, form, gradient: of the noise. form None is the method's default.
        recipe: of the training. seed: of the initial weights, the order of the images and the noise.
        target_fraction, target: of Bridgeout.
        cut: share of every layer's filters that the untrained network is built without; 0 <= cut < 1.
        measures: what is measured beside accuracy, of "activations" and "pruning".
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
        if isinstance(self.cut, bool) or not isinstance(self.cut, int | float) or not 0 <= self.cut < 1:
            raise ValueError(
                f"cut must be a number with 0 <= cut < 1 (the share of filters left out), got {self.cut!r}"
            )
        self._settle(cut=float(self.cut))
        for measure in self.measures:
            check_choice(measure, MEASURES, "measures")
        self._settle(measures=tuple(self.measures))

    def load(self) -> Images:
        """The images, kept by the process until other ones are needed."""
        return kept_images(self.dataset, self.train, self.valid)

    def on(self, data: Images) -> "Experiment":
        """This experiment on these images; under "auto" it takes their name, since a record names its data."""
        if self.dataset == "auto":
            return dataclasses.replace(self, dataset=data.name)
        super().on(data)
        return self

    def attach(self, model: nn.Module) -> nn.Module:
        """Attach the method to a model."""
        if self.method == "sparseout":
            return attach_sparseout(model, self.p, self.q, form=self.form or "odd", gradient=self.gradient)
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

    def measure(self, images: Images, run: Run) -> dict[str, Any]:
        """Train and measure.

        Returns:
            valid_accuracy, test_accuracy (%), valid_loss, test_loss (nats), history (one list per column). With the
            measure "activations" also maps (see :func:`activation_maps`), and per layer hoyer, gini, zero_fraction, rms
            over a batch of validation images, the same per image, noise_ratio and a histogram. With "pruning" also
            pruning (see :func:`measure_pruning`) and, in the provenance, as times differ from run to run, latency (see
            :func:`measure_latency`).
        """
        model = self.build(images)
        if self.cut:
            model = remove_filters(model, self.cut, images.normalize(images.train.x[:1]).cpu())
        self.attach(model)
        history = run.train(fit, model, images, self.recipe, seed=self.seed)
        detach_bridgeout(detach_sparseout(model))
        metrics: dict[str, Any] = accuracies(model, images, history.precision)
        metrics["history"] = columns(history, "train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
        if "activations" in self.measures:
            metrics["layers"] = measure_activations(model, images.normalize(images.valid.x[:MEASURED_IMAGES]), self.q)
            metrics["maps"] = activation_maps(model, images)
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
    """Train one experiment and measure it. The test split is read once, after training.

    Args:
        experiment: what to run.
        images: already loaded data of that name; defaults to loading it.
        device, checkpoint, progress, on_epoch: as for :func:`bridgeout_lite.fit`.

    Returns:
        A :class:`~bridgeout_lite.Record` with the metrics of :meth:`Experiment.measure`.
    """
    return experiment.run(images, device=device, checkpoint=checkpoint, progress=progress, on_epoch=on_epoch)


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
