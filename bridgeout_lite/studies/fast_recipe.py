"""How fast a small network learns CIFAR-10 on a CPU: "airnet" by a recipe after airbench."""

import dataclasses
from typing import Any

from ..training import Recipe
from .base import Study
from .images import Experiment, runs_frame

# It brings "airnet" to its accuracy on all images in few epochs.
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


STUDY = Study("fast-recipe", {"fast-recipe": fast_recipe}, table=runs_frame)
