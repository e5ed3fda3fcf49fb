"""The named sweeps behind the book's figures, as plain data: ``bridgeout sweep NAME`` runs them."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from . import arena, mechanisms
from .evolution import lineages
from .experiments import Experiment
from .explain import explanations
from .featureflow import feature_flow
from .language import language_model
from .structured_output import structured_output
from .training import Recipe

# Method, p, q and target_fraction of the pruning comparison: a first search, one seed each. Weights are small numbers,
# so noise power grows as q falls, and p is lower there. Published runs do not tell their p, q and targets; the last is
# the default p and target of the released code with the q of its example.
PRUNING_SEARCH = (
    ("none", 0.0, 2.0, 1.0),
    ("dropout", 0.05, 2.0, 1.0),
    ("dropout", 0.1, 2.0, 1.0),
    ("dropout", 0.2, 2.0, 1.0),
    ("bridgeout", 0.1, 2.0, 1.0),
    ("bridgeout", 0.3, 2.0, 1.0),
    ("bridgeout", 0.03, 1.5, 1.0),
    ("bridgeout", 0.1, 1.5, 1.0),
    ("bridgeout", 0.01, 1.0, 1.0),
    ("bridgeout", 0.3, 1.5, 0.75),
)

# Repeated with two more seeds: the best of Dropout and the two best of Bridgeout by the search's validation accuracy
# between 10 and 40 % of the filters (zeroed plus removed and recalibrated), and the released default.
PRUNING_REPEATED = (
    ("none", 0.0, 2.0, 1.0),
    ("dropout", 0.05, 2.0, 1.0),
    ("bridgeout", 0.1, 2.0, 1.0),
    ("bridgeout", 0.01, 1.0, 1.0),
    ("bridgeout", 0.3, 1.5, 0.75),
)


def activation_grid(dataset: str = "cifar10") -> list[Experiment]:
    """Chapter 4's grid: the small CNN on all training images, Sparseout behind every nonlinearity; three seeds.

    "smallcnn" over five q and four p; "smallcnn-plain", which has no BatchNorm, at three q and p = 0.2.
    """
    recipes = {"smallcnn": Recipe(epochs=5), "smallcnn-plain": Recipe(epochs=5, lr=0.05, clip=1.0)}
    grid = [("smallcnn", p, q) for p, q in itertools.product((0.05, 0.1, 0.2, 0.3), (1.0, 1.5, 2.0, 2.5, 3.0))]
    grid += [("smallcnn-plain", 0.2, q) for q in (1.0, 2.0, 3.0)]
    experiments = []
    for seed in range(3):
        experiments += [Experiment(dataset, m, "none", 0.0, recipe=recipes[m], seed=seed) for m in recipes]
        experiments += [Experiment(dataset, m, "sparseout", p, q, recipe=recipes[m], seed=seed) for m, p, q in grid]
    return experiments


def pruning_comparison() -> list[Experiment]:
    """Chapters 5 to 8: a VGG-11 of a quarter of the channels (0.58 M parameters) on all of CIFAR-10's training images,
    by the methods and strengths of ``PRUNING_SEARCH`` with one seed, and of ``PRUNING_REPEATED`` with two more. As
    controls, networks built without 50 % and 70 % of the filters, and networks trained without noise for two epochs,
    which start as low as those under much noise; three seeds."""
    common: dict[str, Any] = {"model": "vgg11", "width": 0.25, "recipe": Recipe(epochs=10)}
    experiments = []
    for seed in range(3):
        for method, p, q, fraction in PRUNING_REPEATED if seed else PRUNING_SEARCH:
            more = common | {"measures": ("pruning",), "target_fraction": fraction}
            experiments.append(Experiment(method=method, p=p, q=q, seed=seed, **more))
        for cut in (0.5, 0.7):
            experiments.append(Experiment(method="none", p=0.0, cut=cut, measures=(), seed=seed, **common))
        short = common | {"recipe": Recipe(epochs=2), "measures": ("pruning",)}
        experiments.append(Experiment(method="none", p=0.0, seed=seed, **short))
    return experiments


def pruning_cifar100() -> list[Experiment]:
    """The methods and strengths of ``PRUNING_REPEATED``, found on CIFAR-10, on CIFAR-100: the same network, three
    seeds. First what the search would choose far out, then the rest, so that a sweep cut short compares all methods."""
    first = [row for row in PRUNING_REPEATED if row[0] != "bridgeout" or row[3] < 1]
    return [
        Experiment(
            "cifar100",
            "vgg11",
            method,
            p,
            q,
            width=0.25,
            recipe=Recipe(epochs=10),
            seed=seed,
            target_fraction=fraction,
            measures=("pruning",),
        )
        for rows in (first, [row for row in PRUNING_REPEATED if row not in first])
        for seed in range(3)
        for method, p, q, fraction in rows
    ]


def pruning_published(epochs: int = 230) -> list[Experiment]:
    """The published pruning study, or a shortened one of so many epochs: VGG-16 and the [3,4,6] ResNet, then the
    Wide-ResNet, on CIFAR-10, then CIFAR-100; weight decay, Dropout and Batch Bridgeout with the defaults of the
    released code (p = 0.3, 75 % of the kernels, q = 1.5 from its example); three seeds. SGD with Nesterov momentum,
    lr 0.1 times 0.2 after 60, 120, 160 and 200 of 230 epochs (in proportion if shortened), batch 128, weight decay
    5e-4. For a GPU."""
    milestones = tuple(max(1, round(m * epochs / 230)) for m in (60, 120, 160, 200))
    recipe = Recipe(epochs=epochs, lr=0.1, schedule="steps", milestones=milestones, gamma=0.2)
    methods = (("none", 0.0, 2.0, 1.0), ("dropout", 0.3, 2.0, 1.0), ("bridgeout", 0.3, 1.5, 0.75))
    return [
        Experiment(
            dataset,
            model,
            method,
            p,
            q,
            recipe=recipe,
            seed=seed,
            target_fraction=fraction,
            measures=("pruning",),
        )
        for models in (("vgg16", "resnet34c"), ("wrn-28-10",))
        for dataset in ("cifar10", "cifar100")
        for model in models
        for seed in range(3)
        for method, p, q, fraction in methods
    ]


# The recipe that brings "airnet" to its accuracy on all images in few epochs.
FAST = Recipe(
    epochs=10,
    batch_size=500,
    lr=0.7,
    momentum=0.85,
    weight_decay=1e-3,
    flip="alternating",
    crop=2,
    label_smoothing=0.2,
)


def fast_search() -> list[Experiment]:
    """What ``FAST`` was chosen by: the same network at half width for half as long, at other learning rates, weight
    decays, and learning rates of biases; one seed."""
    changes: list[dict[str, float]] = [{}, {"lr": 0.35}, {"lr": 1.4}, {"bias_lr": 8.0}, {"weight_decay": 5e-4}]
    changes += [{"weight_decay": 2e-3}, {"label_smoothing": 0.1}]
    recipes = [dataclasses.replace(FAST, epochs=5, **change) for change in changes]  # type: ignore[arg-type]
    common: dict[str, Any] = {"model": "airnet", "method": "none", "p": 0.0, "width": 0.5, "measures": ("train",)}
    return [Experiment(**common, recipe=recipe) for recipe in recipes]


def fast_recipe() -> list[Experiment]:
    """The fast network by its recipe: the search, at half width; then full width with ten seeds, what it reaches with
    one view of a test image and with six, and how long it takes."""
    common: dict[str, Any] = {"model": "airnet", "method": "none", "p": 0.0, "recipe": FAST}
    return [*fast_search(), *(Experiment(**common, measures=("train", "views"), seed=seed) for seed in range(10))]


def arena_runs() -> list[arena.ArenaExperiment]:
    """Chapter 12: on each of the arena's networks every contender at every strength with one seed, then at the chosen
    one with two more, and the controls trained from scratch."""
    return [e for network in arena.NETWORKS for e in (*arena.search(network), *arena.repeats(network))]


def smoke() -> list[Experiment]:
    """Four tiny runs on the embedded digits, one of each kind: does the machinery work?"""
    recipe = Recipe(epochs=2, batch_size=64)
    activations = [Experiment("digits", p=0.2, q=q, width=0.5, recipe=recipe) for q in (1.0, 2.0, 3.0)]
    common: dict[str, Any] = {"width": 0.125, "recipe": recipe, "measures": ("pruning",)}
    return [*activations, Experiment("digits", "vgg11", "bridgeout", 0.1, 1.5, **common)]


SWEEPS: dict[str, Callable[[], Sequence[Any]]] = {
    "activation-grid": activation_grid,
    "pruning-cifar10": pruning_comparison,
    "pruning-cifar100": pruning_cifar100,
    "pruning-published": pruning_published,
    "pruning-shortened": partial(pruning_published, 30),
    "language-model": language_model,
    "arena": arena_runs,
    "structured-output": structured_output,
    "evolution": lineages,
    "feature-flow": feature_flow,
    "explanations": explanations,
    "mechanisms": mechanisms.mechanisms,
    "fast-recipe": fast_recipe,
    "smoke": smoke,
}
