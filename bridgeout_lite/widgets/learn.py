r"""Learn while you drag: linear regression on real data, trained under noise, beside the solution the noise aims at."""

import functools
from typing import Any

import numpy as np
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes

from ..checks import check_whole
from ..figures import BLUE, panels
from ..noise import SLOPE_FLOOR
from ..theory import bridge_path
from .base import Figure, checked, uniforms

Array = NDArray[np.floating[Any]]

METHODS = ("Bridgeout", "Sparseout")
RATES = (0.0005, 0.001, 0.002, 0.005, 0.01)
TRAIN = 100
"""Rows to train on, few enough for noise to pay; the other 342 are held out."""
BATCH = 16
"""Rows a step, drawn with replacement."""
MEMORY = 5000
"""Steps behind the running average."""


@functools.cache
def diabetes() -> tuple[list[str], bytes]:
    """scikit-learn's bundled diabetes data, in a fixed random order: names of the 19 features, and the table.

    The features are the ten measurements and the squares of all but the binary one. Features and target, the last
    column, have mean 0 and variance 1 over the first ``TRAIN`` rows. Little-endian float32, row after row.
    """
    raw = load_diabetes()
    order = np.argsort(uniforms(0, len(raw.target)))

    def standard(columns: Array) -> Array:
        scaled: Array = (columns - columns[:TRAIN].mean(0)) / columns[:TRAIN].std(0)
        return scaled

    x = standard(raw.data[order])
    curved = [j for j, name in enumerate(raw.feature_names) if name != "sex"]
    table = standard(np.column_stack([x, x[:, curved] ** 2, raw.target[order]]))
    return [*raw.feature_names, *(f"{raw.feature_names[j]}²" for j in curved)], table.astype("<f4").tobytes()


class LearnWhileYouDrag(Figure):
    r"""Stochastic gradient descent under noise on 19 weights, and the solution of the penalised problem behind it.

    The loss is half the mean squared error, in nats, of a linear regression on :func:`diabetes`. A step draws 16
    training rows and fresh masks and follows the exact gradient of the noisy loss:

    * "Sparseout": on the features, every element of the batch has its own mask. The noise amounts to the penalty
      :math:`\tfrac12\tfrac p{1-p}\sum_j w_j^2\,\overline{|x_j|^q}`, a ridge whose minimiser is in closed form.
    * "Bridgeout": on the weights, one mask for the batch. The penalty is
      :math:`\tfrac12\tfrac p{1-p}\sum_j\overline{x_j^2}\,|w_j|^q`, whose minimiser :func:`bridge_path` finds.

    The arguments are the controls: ``method`` one of ``METHODS``, ``rate`` the step size, one of ``RATES``, ``seed`` of
    rows and masks. A ValueError for a value outside of its control, or a table that does not fit its features.
    """

    file = "learn"
    method = traitlets.Unicode().tag(sync=True)
    p = traitlets.Float().tag(sync=True)
    q = traitlets.Float().tag(sync=True)
    rate = traitlets.Float().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    title = traitlets.Unicode("Learn while you drag").tag(sync=True)
    features = traitlets.List(traitlets.Unicode()).tag(sync=True)
    table = traitlets.Bytes().tag(sync=True)
    train = traitlets.Int(TRAIN).tag(sync=True)
    controls = traitlets.Dict(
        {
            "p": {"label": "drop probability p", "min": 0.05, "max": 0.7, "step": 0.01, "value": 0.2},
            "q": {"label": "exponent q", "min": 0.5, "max": 3, "step": 0.05, "value": 1.0},
            "method": {"label": "noise", "options": list(METHODS), "value": METHODS[0]},
            "rate": {"label": "step size", "values": list(RATES), "value": 0.002},
            "seed": {"label": "seed", "min": 0, "max": 20, "step": 1, "value": 0},
        }
    ).tag(sync=True)
    presets = traitlets.Dict(
        {
            "Dropout": {"method": METHODS[1], "p": 0.3, "q": 2.0},
            "Ridge by noise": {"method": METHODS[0], "p": 0.3, "q": 2.0},
            "Lasso by noise": {"method": METHODS[0], "p": 0.2, "q": 1.0},
            "Below one": {"method": METHODS[0], "p": 0.1, "q": 0.5},
        }
    ).tag(sync=True)

    @traitlets.default("features")
    def _features(self) -> list[str]:
        return diabetes()[0]

    @traitlets.default("table")
    def _table(self) -> bytes:
        return diabetes()[1]

    _check = checked("method", "p", "q", "rate")

    @traitlets.validate("table")
    def _check_table(self, proposal: traitlets.Bunch) -> bytes:
        value, width = proposal["value"], len(self.features) + 1
        rows, rest = divmod(len(value), 4 * width)
        if rest or rows <= self.train or not np.isfinite(np.frombuffer(value, "<f4")).all():
            raise ValueError(
                f"table must hold more than train = {self.train} rows of {width} finite float32 numbers "
                f"(a row is its features, then its target), got {len(value)} bytes"
            )
        return bytes(value)

    def rows(self) -> tuple[Array, Array, Array, Array]:
        """The numbers that the page has: training features and targets, held-out features and targets."""
        table = np.frombuffer(self.table, "<f4").reshape(-1, len(self.features) + 1).astype(float)
        x, y = table[:, :-1], table[:, -1]
        return x[: self.train], y[: self.train], x[self.train :], y[self.train :]

    def ghost(self) -> Array:
        """What the noise amounts to: the weights that minimise the loss plus its penalty; for Bridgeout at q < 1 the
        local minimum that coordinate descent reaches from least squares."""
        x, y, _, _ = self.rows()
        odds = self.p / (1 - self.p)
        w: Array
        if self.method == METHODS[0]:
            (w,) = bridge_path(x, y, np.array([odds / 2]), self.q)
        else:
            ridge = np.diag(odds * (np.abs(x) ** self.q).mean(0))
            w = np.linalg.solve(x.T @ x / len(x) + ridge, x.T @ y / len(x))
        return w

    def run(self, steps: int) -> tuple[Array, Array]:
        """The weights after ``steps`` steps from zero (0 or more), and their running average, as the page has them."""
        check_whole(steps, "steps", 0)
        x, y, _, _ = self.rows()
        d = x.shape[1]
        shape = (d,) if self.method == METHODS[0] else (BATCH, d)
        count = BATCH + int(np.prod(shape))
        draws = np.reshape(uniforms(self.seed, steps * count), (steps, count))
        w, average = np.zeros(d), np.zeros(d)
        for k, draw in enumerate(draws, 1):
            batch = (draw[:BATCH] * len(x)).astype(int)
            keep = draw[BATCH:].reshape(shape) >= self.p
            w = w - self.rate * noisy_gradient(x[batch], y[batch], w, keep, self.method, self.p, self.q)
            # over the last quarter of the steps at first, over about MEMORY of them later
            average += max(4 / (k + 3), 1 / MEMORY) * (w - average)
        return w, average

    def numbers(self) -> dict[str, float]:
        """The part of the readout that the controls decide; learning adds its own steps, losses and distance."""
        x, y, more_x, more_y = self.rows()
        w = self.ghost()
        return {
            "ghost_train": float(((x @ w - y) ** 2).mean() / 2),
            "ghost_held_out": float(((more_x @ w - more_y) ** 2).mean() / 2),
            # above q = 1 no weight is zero, though the solver may round a tiny one
            "ghost_zeros": float((w == 0).sum()) if self.q <= 1 else 0.0,
            "strength": self.p / (1 - self.p) / 2,
        }

    def picture(self) -> Picture:
        fig, ax = panels(height=3.0, layout="constrained")
        steps, place = 4000, np.arange(len(self.features))
        ax.bar(place, self.run(steps)[1], 0.7, color=BLUE, label=f"average after {steps} steps")
        ax.bar(place, self.ghost(), 0.85, fill=False, edgecolor="black", label="the L_q solution")
        ax.set_xticks(place, self.features, rotation=60)
        ax.set(ylabel="weight", title=self.method)
        ax.legend()
        return fig


def noisy_gradient(x: Array, y: Array, w: Array, keep: NDArray[np.bool_], method: str, p: float, q: float) -> Array:
    """Gradient of half the mean squared error of one batch under noise, with respect to the clean weights.

    Args:
        x: (n, d). y: (n,). w: (d,). keep: the masks, shaped like ``w`` for Bridgeout and like ``x`` for Sparseout.
    """
    xi = np.where(keep, p / (1 - p), -1.0)
    if method == METHODS[1]:
        noisy = x + np.sign(x) * np.abs(x) ** (q / 2) * xi
        slope: Array = noisy.T @ (noisy @ w - y) / len(x)
        return slope
    size = np.abs(w)
    slope = x.T @ (x @ (w + size ** (q / 2) * xi) - y) / len(x)
    if q < 2:
        size = np.maximum(size, SLOPE_FLOOR)
    slope *= 1 + q / 2 * size ** (q / 2 - 1) * np.sign(w) * xi
    return slope
