"""Chapter 3: what q does to the activations of a small CNN."""

import itertools

from ...training import Recipe
from ..images import Experiment


def activation_grid(dataset: str = "cifar10") -> list[Experiment]:
    """Chapter 3's grid: the small CNN on all training images, Sparseout behind every nonlinearity; three seeds.

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
