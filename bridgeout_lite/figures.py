"""Matplotlib figures: one style, one message each. A figure takes numbers or records and never trains."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .stats import summarise

# Okabe and Ito's palette, distinguishable with every common colour blindness.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#666666")
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = PALETTE
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# One colour and marker per q, the same in every chapter: blue is sparse, red is dense, grey is dropout.
Q_COLOURS = {0.5: PURPLE, 1.0: BLUE, 1.25: GREEN, 1.5: SKY, 2.0: GREY, 2.5: ORANGE, 3.0: RED, 4.0: GREEN}
Q_MARKERS = {0.5: "v", 1.0: "o", 1.25: "*", 1.5: "s", 2.0: "X", 2.5: "^", 3.0: "D", 4.0: "P"}

# Colour and marker per drop probability of the recorded grid.
P_STYLES = {0.05: (GREEN, "^"), 0.1: (SKY, "o"), 0.2: (BLUE, "s"), 0.3: (PURPLE, "v")}

# Name, colour and marker per method of the pruning chapters.
METHOD_STYLES = {
    "bridgeout": ("Batch Bridgeout", BLUE, "o"),
    "dropout": ("Dropout", ORANGE, "s"),
    "none": ("weight decay only", GREY, "X"),
}


def use_style() -> None:
    """Set the book's matplotlib style."""
    plt.style.use(Path(__file__).with_name("book.mplstyle"))
    plt.rcParams["axes.prop_cycle"] = cycler(color=PALETTE, marker=MARKERS)


def panels(
    count: int = 1, *, rows: int = 1, width: float = 7.2, height: float = 3.2, **kwargs: Any
) -> tuple[Figure, Any]:
    """``(figure, axes)`` with ``count`` axes in ``rows`` rows: one bare axes, or a flat array of several."""
    fig, axes = plt.subplots(rows, count // rows, figsize=(width, height), **kwargs)
    return fig, axes if count == 1 else axes.ravel()


def band(ax: Axes, x: ArrayLike, mean: ArrayLike, low: ArrayLike, high: ArrayLike, **kwargs: Any) -> None:
    """A line of means with its interval as a shaded band; ``kwargs`` go to ``plot``."""
    (line,) = ax.plot(x, mean, **kwargs)
    ax.fill_between(np.asarray(x, float), low, high, color=line.get_color(), alpha=0.18, linewidth=0)


def agreement(
    ax: Axes, expected: ArrayLike, measured: ArrayLike, errors: ArrayLike, *, label: str | None = None, **kwargs: Any
) -> None:
    """Measured against expected values with error bars (4 standard errors), beside the line of equality."""
    expected, measured, errors = (np.asarray(values) for values in (expected, measured, errors))
    ax.errorbar(expected, measured, yerr=4 * errors, fmt="o", capsize=2, label=label, **kwargs)
    low, high = float(expected.min()), float(expected.max())
    ax.plot([low, high], [low, high], color=GREY, linewidth=1, marker="", zorder=0)


def pruning_curves(ax: Axes, rows: pd.DataFrame, *, details: bool = False, **kwargs: Any) -> None:
    """Accuracy against the share pruned, one line per method: mean over seeds with its 95 % interval as a band.

    Args:
        rows: one curve, one setting per method; see :func:`bridgeout_lite.studies.curves.at_best`.
        details: name the setting in the legend too.
        kwargs: passed on to ``plot``.
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
