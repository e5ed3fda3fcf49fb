"""Noise and penalty: one activation, its two-point law, and the penalty that the noise puts on the whole axis."""

from typing import Any

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from ..figures import BLUE, GREY, RED, panels
from ..noise import FORMS
from ..theory import relative_noise
from .base import Figure, checked, uniforms

DRAWS = 500
"""Draws behind the simulated mean and variance."""


class NoisePenalty(Figure):
    r"""One activation x under :math:`\tilde x = x + \pm|x|^{q/2}\xi`.

    Shows the two values of :math:`\tilde x` with their probabilities; mean and variance of simulated draws beside the
    theory's x and :math:`|x|^q p/(1-p)`; the relative noise :math:`|x|^{q/2-1}\sqrt{p/(1-p)}`; and the penalty
    :math:`\tfrac12\tfrac{p}{1-p}|x|^q` (nats, squared loss, weight 1).

    The arguments are the controls: activation x, drop probability p, exponent q, form, and seed of the draws. A
    ValueError for a value outside of its control.
    """

    file = "noise_penalty"
    x = traitlets.Float().tag(sync=True)
    p = traitlets.Float().tag(sync=True)
    q = traitlets.Float().tag(sync=True)
    form = traitlets.Unicode().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    title = traitlets.Unicode("Noise on one activation, and the penalty it makes").tag(sync=True)
    draws = traitlets.Int(DRAWS).tag(sync=True)
    controls = traitlets.Dict(
        {
            "p": {"label": "drop probability p", "min": 0, "max": 0.9, "step": 0.01, "value": 0.3},
            "q": {"label": "exponent q", "min": 0, "max": 4, "step": 0.05, "value": 1.0},
            "x": {"label": "activation x", "min": -2, "max": 2, "step": 0.01, "value": 0.5},
            "form": {"label": "form", "options": list(FORMS), "value": "odd"},
            "seed": {"label": "seed of the draws", "min": 0, "max": 20, "step": 1, "value": 0},
        }
    ).tag(sync=True)
    presets = traitlets.Dict(
        {
            "Dropout": {"p": 0.5, "q": 2.0, "form": "odd"},
            "Sparseout, sparse": {"p": 0.3, "q": 1.0, "form": "odd"},
            "Sparseout, dense": {"p": 0.3, "q": 3.0, "form": "odd"},
        }
    ).tag(sync=True)

    _check = checked("p", "q", "form", "x")

    def law(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The two values of the noisy activation, dropped and kept, and their probabilities."""
        reach = abs(self.x) ** (self.q / 2) * (np.sign(self.x) if self.form == "odd" else float(self.x != 0))
        return self.x + reach * np.array([-1.0, self.p / (1 - self.p)]), np.array([self.p, 1 - self.p])

    def numbers(self) -> dict[str, float]:
        values, chances = self.law()
        sample = values[(np.array(uniforms(self.seed, self.draws)) >= self.p).astype(int)]
        one = torch.tensor(self.x, dtype=torch.float64)
        variance = float(chances @ (values - self.x) ** 2)
        return {
            "dropped": float(values[0]),
            "kept": float(values[1]),
            "variance": variance,
            "penalty": variance / 2,
            "relative": relative_noise(one, self.p, self.q).item() if self.p else 0.0,
            "sample_mean": float(sample.mean()),
            "sample_variance": float(sample.var()),
        }

    def picture(self) -> Picture:
        fig, (left, right) = panels(2, height=2.8)
        values, chances = self.law()
        left.vlines(values, 0, chances, color=[RED, BLUE], linewidth=4)
        left.axvline(self.x, color=GREY, linestyle="--")
        left.set(xlabel="value of the noisy activation", ylabel="probability", ylim=(0, 1), title="Two values")
        x = torch.linspace(-2, 2, 201, dtype=torch.float64)
        for q, colour in ((2.0, GREY), (self.q, BLUE)):
            right.plot(x, 0.5 * self.p / (1 - self.p) * x.abs() ** q, color=colour, marker="", label=f"q = {q:g}")
        right.plot(self.x, self.numbers()["penalty"], color=RED, marker="o")
        right.set(xlabel="activation x", ylabel="penalty (nats)", title="The penalty")
        right.legend()
        return fig
