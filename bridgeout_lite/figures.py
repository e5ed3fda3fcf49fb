"""Matplotlib figures: one style, one message each. A figure takes numbers or records and never trains."""

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .experiments import layers_frame
from .records import Record, summarise
from .theory import exact_penalty, relative_noise

# Okabe and Ito's palette, told apart with every common colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#666666",
)
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# One colour and marker for each q, the same in every chapter: blue is sparse, red is dense, grey is dropout.
Q_COLOURS = {0.5: PURPLE, 1.0: BLUE, 1.25: GREEN, 1.5: SKY, 2.0: GREY, 2.5: ORANGE, 3.0: RED, 4.0: GREEN}
Q_MARKERS = {0.5: "v", 1.0: "o", 1.25: "*", 1.5: "s", 2.0: "X", 2.5: "^", 3.0: "D", 4.0: "P"}

# Colour and marker for each drop probability of the recorded grid.
P_STYLES = {0.05: (GREEN, "^"), 0.1: (SKY, "o"), 0.2: (BLUE, "s"), 0.3: (PURPLE, "v")}

# Name, colour and marker for each method of the pruning chapters.
METHOD_STYLES = {
    "bridgeout": ("Batch Bridgeout", BLUE, "o"),
    "dropout": ("Dropout", ORANGE, "s"),
    "none": ("weight decay only", GREY, "X"),
}


def use_style() -> None:
    """Set the book's matplotlib style for this process."""
    plt.rcParams.update(
        {
            "figure.figsize": (7.2, 3.4),
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "axes.prop_cycle": cycler(color=PALETTE, marker=MARKERS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.labelsize": 10,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "lines.markersize": 4.5,
            "lines.linewidth": 1.6,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "font.size": 10,
        }
    )


def panels(
    count: int = 1, *, rows: int = 1, width: float = 7.2, height: float = 3.2, **kwargs: Any
) -> tuple[Figure, Any]:
    """A figure with ``count`` axes in so many rows: ``(figure, axes)``; one axes comes bare, more as a flat array."""
    fig, axes = plt.subplots(rows, count // rows, figsize=(width, height), **kwargs)
    return fig, axes if count == 1 else axes.ravel()


def band(ax: Axes, x: ArrayLike, mean: ArrayLike, low: ArrayLike, high: ArrayLike, **kwargs: Any) -> None:
    """A line of means with its interval as a shaded band; ``kwargs`` go to ``plot``."""
    (line,) = ax.plot(x, mean, **kwargs)
    ax.fill_between(np.asarray(x, float), low, high, color=line.get_color(), alpha=0.18, linewidth=0)


def agreement(
    ax: Axes,
    expected: ArrayLike,
    measured: ArrayLike,
    errors: ArrayLike,
    *,
    label: str | None = None,
    **kwargs: Any,
) -> None:
    """Measured against expected values with error bars (4 standard errors), beside the line of equality."""
    expected, measured, errors = (np.asarray(values) for values in (expected, measured, errors))
    ax.errorbar(expected, measured, yerr=4 * errors, fmt="o", capsize=2, label=label, **kwargs)
    low, high = float(expected.min()), float(expected.max())
    ax.plot([low, high], [low, high], color=GREY, linewidth=1, marker="", zorder=0)


def pruning_curves(ax: Axes, rows: pd.DataFrame, *, details: bool = False, **kwargs: Any) -> None:
    """Accuracy against the share pruned, a line a method: mean over seeds with its 95 % interval as a band.

    Args:
        rows: of one curve, one setting a method, as :func:`bridgeout_lite.protocol.at_best` gives.
        details: name the setting in the legend too. ``kwargs`` go to ``plot``.
    """
    for method, (label, colour, marker) in METHOD_STYLES.items():
        part = rows[rows["method"] == method]
        if not len(part):
            continue
        if details and part["setting"].iloc[0] != "-":
            label += f", {part['setting'].iloc[0]}"
        line = summarise(part, ["amount"], "accuracy")
        style = {"color": colour, "marker": marker, "label": label} | kwargs
        band(ax, 100 * line["amount"], line["mean"], line["low"], line["high"], **style)


def overview(records: Iterable[Record]) -> Figure:
    """The book in one figure: the noise, the penalty it makes, and the sparsity it leaves in a network.

    Args:
        records: the activation grid (chapter 4).
    """
    use_style()
    fig, (noise, penalty, network) = panels(3, width=11, height=3.5)
    p, x = 0.3, torch.linspace(-2, 2, 401, dtype=torch.float64)
    for q in (1.0, 2.0, 3.0):
        deviation = x.abs() * relative_noise(x, p, q).nan_to_num(posinf=0.0)
        noise.plot(x, deviation, color=Q_COLOURS[q], marker="", label=f"q = {q:g}")
        # E[A(x + noise)] - A(x) for a quadratic loss with weight 1, by summing over both values of the noise
        dots = x[::40]
        exact = [exact_penalty(d.view(1, 1), torch.ones(1, dtype=x.dtype), p, q).item() for d in dots]
        penalty.plot(x, 0.5 * p / (1 - p) * x.abs().pow(q), color=Q_COLOURS[q], marker="", label=f"|x|^{q:g}")
        penalty.plot(dots, exact, color=Q_COLOURS[q], marker=Q_MARKERS[q], linestyle="")
    noise.set(
        xlabel="activation x", ylabel="standard deviation of the noise", title="Noise that grows as |x|^(q/2) ..."
    )
    noise.legend(loc="upper center")
    penalty.set(xlabel="activation x", ylabel="what it adds to the loss (nats)", title="... is a penalty |x|^q ...")
    penalty.legend(loc="upper center")
    rows = layers_frame(r for r in records if r.spec["model"] == "smallcnn" and r.spec["method"] == "sparseout")
    rows = rows[rows["layer"] == "relu5"]
    for p, (colour, marker) in P_STYLES.items():
        part = summarise(rows[rows["p"] == p], ["q"], "hoyer")
        band(
            network, part["q"], part["mean"], part["low"], part["high"], color=colour, marker=marker, label=f"p = {p:g}"
        )
    network.set(xlabel="q", ylabel="Hoyer sparsity, 0 to 1", title="... and low q makes it sparse")
    network.legend(loc="upper right", title="last hidden layer, CIFAR-10")
    return fig
