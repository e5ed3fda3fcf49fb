"""The recorded study: networks trained without noise and with Sparseout, explained and put to the test."""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import nn

from ...checks import check_choice, check_exponent, check_probability
from ...data import IMAGE_SETS, Images, kept_images
from ...layers import attach_sparseout, detach_sparseout
from ...models import build_model
from ...modules import capture_activations
from ...runs.records import Record
from ...sparsity import hoyer
from ...training import Recipe, fit
from ..experiment import Experiment, Run, accuracies, runs_of
from . import flowers
from .faithfulness import ablation, against_truth, curve_area, deletion
from .features import channel_features, explained_share, lasso_paths, predict
from .flowers import VARIANTS, MaskedSplit
from .pictures import class_attribution, combined, heatmap, random_choice

# Data of the recorded runs, images whose features are taken, and images that are explained.
DATASETS = (*(f"flowers-{variant}" for variant in VARIANTS), *(name for name in IMAGE_SETS if name != "auto"))
DESCRIBED_IMAGES = 600
EXPLAINED_IMAGES = 120

# Bounds at which the selection is counted, and shares of the variance for which the needed features are counted.
MUS = (1.0, 2.0, 5.0, 10.0, 20.0)
SHARES = (0.3, 0.5)

# The noise of the recorded sweep. At this p the validation accuracies of chapter 3's network on CIFAR-10 lie within a
# point for all q: networks of about equal fit can be compared.
SWEPT_Q = (1.0, 2.0, 3.0)
SWEPT_P = 0.1


@dataclasses.dataclass(frozen=True)
class ExplanationExperiment(Experiment):
    """A network that is trained and then explained, fully described.

    Attributes:
        dataset: one of ``DATASETS``. train, valid, test: numbers of its images.
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

    PROTOCOL: ClassVar[int] = 1
    TAGS: ClassVar[dict[str, Any]] = {"task": "explanations"}
    DIGITS = 4

    def __post_init__(self) -> None:
        check_choice(self.dataset, DATASETS, "dataset")
        check_choice(self.method, ("none", "sparseout"), "method")
        self._settle(p=check_probability(self.p), q=check_exponent(self.q), width=float(self.width))
        if self.mu not in MUS:
            raise ValueError(f"mu must be one of {', '.join(f'{mu:g}' for mu in MUS)}, got {self.mu!r}")
        self._settle(mu=float(self.mu))

    def load(self) -> Images:
        """The images, kept by the process until other ones are needed."""
        variant = self.dataset.removeprefix("flowers-")
        if variant in VARIANTS:
            return _kept_flowers(variant, train=self.train, valid=self.valid, test=self.test)
        return kept_images(self.dataset, self.train, self.valid, self.test)

    def measure(self, images: Images, run: Run) -> dict[str, Any]:
        """Accuracies (%) and losses (nats), and those of :func:`measure_explanations`. What comes after training runs
        on the CPU."""
        model = build_model(self.model, width=self.width, num_classes=images.num_classes, seed=self.seed)
        if self.method == "sparseout":
            attach_sparseout(model, self.p, self.q)
        run.train(fit, model, images, self.recipe, seed=self.seed)
        detach_sparseout(model).cpu()
        here = images.to("cpu")
        return accuracies(model, here) | measure_explanations(model, here, self.mu, self.seed)


_kept_flowers = functools.lru_cache(maxsize=1)(flowers.flowers)


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
    weights, *bounded = (torch.stack([path.at(bound) for path in paths], 1) for bound in (mu, *MUS))
    by_layer = {name: 0.0 for name, _ in features.places}
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
        "counts": [float((found != 0).sum(0).float().mean()) for found in bounded],
        "explained": [float(explained_share(features.values, labels, found).mean()) for found in bounded],
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
    """Chapter 14's runs of the small CNN at half its width: on flowers whose disc tells the class, and on 4,000 images
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
    """One row per run of :func:`explanations`: dataset, method, p, q, seed, valid_accuracy and test_accuracy (%), and

    * features, explained: mean over classes at the run's mu, the latter from 0 to 1; needed: features for the first of
      ``SHARES``, median over classes, of which one that never gets there counts as more than any (nan if half do not);
    * hoyer: of the last hidden layer;
    * selected, random: points of accuracy that a class loses with its features, or with as many channels drawn at
      random (see :func:`ablation`), silenced; mean over classes; relevance: the first minus the second;
    * deletion_NAME: area under the deletion curve;
    * energy_NAME, overlap_NAME, pointing_NAME: against the truth, where it is known.
    """
    rows = []
    for record in runs_of(records, task="explanations"):
        spec, metrics = record.spec, record.metrics
        row = {k: spec[k] for k in ("dataset", "method", "p", "q", "seed")}
        row |= {k: metrics[k] for k in ("valid_accuracy", "test_accuracy", "odd")}
        at = MUS.index(spec["mu"])
        row |= {"features": metrics["counts"][at], "explained": metrics["explained"][at]}
        needed = [math.inf if count is None else count for count in metrics["needed"][f"{SHARES[0]:g}"]]
        middle = float(pd.Series(needed).median())
        row["needed"] = middle if math.isfinite(middle) else math.nan
        row["hoyer"] = list(metrics["sparsity"].values())[-1]
        whole, selected, random = (pd.Series(metrics["ablation"][k]).mean() for k in ("whole", "selected", "random"))
        row |= {"selected": whole - selected, "random": whole - random, "relevance": random - selected}
        row |= {f"deletion_{name}": curve_area(curve) for name, curve in metrics["deletion"].items()}
        for name, measures in metrics.get("truth", {}).items():
            row |= {f"{measure}_{name}": value for measure, value in measures.items()}
        rows.append(row)
    return pd.DataFrame(rows)
