"""The still picture at the top of README: what q does to the last hidden layer."""

from collections.abc import Iterable

import torch
from matplotlib.figure import Figure

from ..figures import GREY, P_STYLES, Q_COLOURS, Q_MARKERS, band, panels, use_style
from ..runs.records import Record
from ..stats import summarise
from ..studies.images import runs_frame
from ..studies.measures import layers_frame
from ..theory import exact_penalty, relative_noise


def overview(records: Iterable[Record]) -> Figure:
    """The book in one figure: the noise, the penalty it makes, the sparsity it leaves in a network, and its price.

    Args:
        records: the activation grid (chapter 3).
    """
    use_style()
    fig, (noise, penalty, sparsity, accuracy) = panels(4, rows=2, width=11, height=7.4)
    p, x = 0.3, torch.linspace(-2, 2, 401, dtype=torch.float64)
    for q in (1.0, 2.0, 3.0):
        deviation = x.abs() * relative_noise(x, p, q).nan_to_num(posinf=0.0)
        noise.plot(x, deviation, color=Q_COLOURS[q], marker="", label=f"q = {q:g}")
        # E[A(x + noise)] - A(x) for a quadratic loss with weight 1, by summing over both values of the noise
        dots = x[::40]
        exact = [exact_penalty(d.view(1, 1), torch.ones(1, dtype=x.dtype), p, q).item() for d in dots]
        penalty.plot(x, 0.5 * p / (1 - p) * x.abs().pow(q), color=Q_COLOURS[q], marker="", label=f"|x|^{q:g}")
        penalty.plot(dots, exact, color=Q_COLOURS[q], marker=Q_MARKERS[q], linestyle="")
    noise.set(xlabel="activation x", ylabel="standard deviation of the noise")
    noise.set_title("Noise that grows as |x|^(q/2) ...")
    noise.legend(loc="upper center")
    penalty.set(xlabel="activation x", ylabel="what it adds to the loss (nats)", title="... is a penalty |x|^q ...")
    penalty.legend(loc="upper center")

    runs = [r for r in records if r.spec["model"] == "smallcnn"]
    layers = layers_frame(runs)
    tables = {sparsity: (layers[layers["layer"] == "relu5"], "hoyer"), accuracy: (runs_frame(runs), "test_accuracy")}
    for panel, (rows, value) in tables.items():
        quiet = summarise(rows[rows["p"] == 0], ["p"], value).iloc[0]
        panel.axhline(quiet["mean"], color=GREY, linestyle="--", marker="", label="no noise")
        panel.axhspan(quiet["low"], quiet["high"], color=GREY, alpha=0.15, linewidth=0)
        for p, (colour, marker) in P_STYLES.items():
            part = summarise(rows[(rows["p"] == p) & (rows["method"] == "sparseout")], ["q"], value)
            look = {"color": colour, "marker": marker, "label": f"p = {p:g}"}
            band(panel, part["q"], part["mean"], part["low"], part["high"], **look)
        panel.set(xlabel="q")
    sparsity.set(ylabel="Hoyer sparsity, 0 to 1", title="... and low q makes a layer sparse ...")
    sparsity.legend(loc="upper right", title="last hidden layer, CIFAR-10", ncols=2)
    accuracy.set(ylabel="test accuracy (%)", title="... at a price, where nothing overfits")
    return fig
