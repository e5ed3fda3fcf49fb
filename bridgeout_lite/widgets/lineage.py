"""A lineage of weights: who survives when offspring are drawn by size, beside one cut to the same number."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from ..figures import BLUE, GREY, ORANGE, panels
from ..rivals.gates import LAWS, survival
from .base import Figure, checked, uniforms

WEIGHTS, GENERATIONS = 400, 8
"""Weights of the first parent, and generations drawn."""


class Generation(NamedTuple):
    """The sizes that are left, how many were expected, and the shares of the parent's largest and smallest quarter."""

    sizes: NDArray[Any]
    expected: float
    large: float
    small: float


class Lineage(Figure):
    r"""Normal weights of one layer, and offspring drawn generation after generation, without training in between.

    A weight survives with probability :math:`F\,P(|w|/Z)`, where Z is the largest size among those that are left and P
    the published law :math:`e^{x-1}` or the same stretched to start at zero. Shows the law, the sizes of those that are
    left beside those that a cut by size would leave, their number by generation, and the shares that are left of the
    first parent's largest and smallest quarter.

    The arguments are the controls: environmental factor F, law, generation shown, and seed of weights and draws. A
    ValueError for a value outside of its control.
    """

    file = "lineage"
    factor = traitlets.Float().tag(sync=True)
    law = traitlets.Unicode().tag(sync=True)
    generation = traitlets.Int().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    title = traitlets.Unicode("A lineage: who survives the draw").tag(sync=True)
    controls = traitlets.Dict(
        {
            "factor": {"label": "environmental factor F", "min": 0.5, "max": 1, "step": 0.05, "value": 1.0},
            "law": {"label": "survival law", "options": list(LAWS), "value": "exp"},
            "generation": {"label": "generation", "min": 0, "max": GENERATIONS, "step": 1, "value": 2},
            "seed": {"label": "seed", "min": 0, "max": 20, "step": 1, "value": 0},
        }
    ).tag(sync=True)

    _check = checked("factor", "law", "generation")

    def generations(self) -> list[Generation]:
        """The parent and all its offspring."""
        drawn = np.array(uniforms(self.seed, 2 * WEIGHTS + GENERATIONS * WEIGHTS))
        radius, angle = np.sqrt(-2 * np.log1p(-drawn[:WEIGHTS])), 2 * math.pi * drawn[WEIGHTS : 2 * WEIGHTS]
        parent = np.sort(np.abs(radius * np.cos(angle)))  # of standard normal weights, by Box and Muller
        quarter, alive, expected = WEIGHTS // 4, np.ones(WEIGHTS, bool), float(WEIGHTS)
        found = [Generation(parent, expected, 1.0, 1.0)]
        for g in range(GENERATIONS):
            chance = np.zeros(WEIGHTS)
            if alive.any():
                share = torch.from_numpy(parent / parent[alive].max()).clamp_max(1.0)
                chance = self.factor * survival(share, self.law).numpy() * alive
            expected = float(chance.sum())
            alive = drawn[(2 + g) * WEIGHTS : (3 + g) * WEIGHTS] < chance
            large, small = alive[-quarter:].mean(), alive[:quarter].mean()
            found.append(Generation(parent[alive], expected, float(large), float(small)))
        return found

    def numbers(self) -> dict[str, float]:
        sizes, expected, large, small = self.generations()[self.generation]
        parent = self.generations()[0].sizes
        return {
            "left": float(len(sizes)),
            "expected": expected,
            "large": large,
            "small": small,
            "mean_size": float(sizes.mean()) if len(sizes) else 0.0,
            "cut_mean_size": float(parent[WEIGHTS - len(sizes) :].mean()) if len(sizes) else 0.0,
        }

    def picture(self) -> Picture:
        fig, (left, right) = panels(2, height=2.8)
        found = self.generations()
        bins = np.linspace(0, 4, 21)
        left.hist(found[0].sizes, bins, color=GREY, alpha=0.4, label="first parent")
        left.hist(found[self.generation].sizes, bins, color=BLUE, label=f"generation {self.generation}")
        left.set(xlabel="|w|", ylabel="weights", title="Who is left")
        left.legend()
        for values, colour, name in (
            ([g.large for g in found], BLUE, "largest quarter"),
            ([g.small for g in found], ORANGE, "smallest quarter"),
        ):
            right.plot(values, color=colour, label=name)
        right.set(xlabel="generation", ylabel="share left", title="What the draw prefers", ylim=(0, 1.05))
        right.legend()
        return fig
