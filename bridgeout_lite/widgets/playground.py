r"""The noise playground: a small convolutional network on handwritten digits that trains in the page."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import sparsity
from ..figures import BLUE, GREEN, ORANGE, panels
from ..noise import bridgeout, sparseout
from .base import Figure, checked, script, uniforms

METHODS = ("none", "Dropout", "Sparseout", "Bridgeout", "Batch Bridgeout", "L_q penalty")
RATES = (0.005, 0.01, 0.02, 0.05)
CURVATURE = 0.01
"""What stands for the curvature of the loss in the strength of the explicit penalty."""
TRAIN, HELD_OUT = 800, 400
"""Images to train on and images held out, of the 1,797 digits."""
STEPS, EVERY = 200, 10
"""Steps of the stored run, and steps between its points."""
BATCH, MOMENTUM = 32, 0.9
NEAR_ZERO = 0.1
"""Weights of at most this share of their root mean square count as zero."""
BINS, WIDEST = 24, 0.6
"""Bins of the histogram of |w|, and where its last one ends; it holds what is beyond, too."""
CURVES = ("steps", "train_loss", "loss", "accuracy", "hoyer", "gini", "near_zero", "activations")

_ENGINE = ("maths", "engine/kernel", "engine/machine", "engine/noise", "engine/layers", "engine/network")
_SHAPES = ((8, 1, 3, 3), (16, 8, 3, 3), (32, 256), (10, 32))


def worker(last: str = "engine/trainer") -> str:
    """The script of a worker: the engine's files and that which serves joined, without the imports between them."""
    home = Path(__file__).parent
    parts = [(home / f"{part}.js").read_text(encoding="utf-8") for part in (*_ENGINE, last)]
    code = re.sub(r'^import [^;]*? from "\.\.?/\w+\.js";\n', "", "\n".join(parts), flags=re.M)
    return re.sub(r"^export ", "", code, flags=re.M) + "\nserve(self);\n"


@functools.cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """scikit-learn's digits in a fixed random order: pixels (1200, 64) from 0 to 15, and labels."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = np.argsort(uniforms(0, len(raw.target)))[: TRAIN + HELD_OUT]
    return np.rint(raw.data[order] * 15 / 16).astype(np.uint8), raw.target[order].astype(np.uint8)


class Network:
    """The page's network in torch, with the package's noise: three hidden layers with BatchNorm, then the classifier.

    Args:
        method, p, q: the noise, see :class:`Playground`. seed: of weights and masks.
    """

    def __init__(self, method: str, p: float, q: float, seed: int) -> None:
        self.method, self.p, self.q = method, p, q
        self.draws = torch.Generator().manual_seed(seed)
        self.weights = []
        for shape in _SHAPES:
            bound = (6 / np.prod(shape[1:])) ** 0.5
            self.weights.append((bound * (2 * torch.rand(shape, generator=self.draws) - 1)).requires_grad_())
        self.biases = [torch.zeros(shape[0], requires_grad=True) for shape in _SHAPES]
        self.norms: list[Any] = [nn.BatchNorm2d(8), nn.BatchNorm2d(16), nn.BatchNorm1d(32)]

    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases, *(p for norm in self.norms for p in norm.parameters())]

    def forward(self, x: Tensor, training: bool) -> tuple[Tensor, list[Tensor]]:
        """x: (n, 1, 8, 8). Returns the logits and the outputs of the three nonlinearities."""
        outputs, n, draws = [], len(x), self.draws
        for k, (w, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x.flatten(1) if k == 2 else x
            if k < 3 and training and self.method == "Bridgeout":  # every image has weights of its own
                every = bridgeout(w.expand(n, *w.shape).contiguous(), self.p, self.q, generator=draws).flatten(0, 1)
                if k < 2:
                    x = F.conv2d(x.reshape(1, -1, *x.shape[2:]), every, padding=1, groups=n).view(n, -1, *x.shape[2:])
                else:
                    x = torch.bmm(every.view(n, *w.shape), x[:, :, None])[:, :, 0]
            else:
                noisy = k < 3 and training and self.method == "Batch Bridgeout"
                used = bridgeout(w, self.p, self.q, generator=draws) if noisy else w
                x = F.conv2d(x, used, padding=1) if k < 2 else x @ used.T
            x = x + (bias[:, None, None] if k < 2 else bias)
            if k == 3:
                break
            x = F.relu(self.norms[k].train(training)(x))
            outputs.append(x)
            x = F.max_pool2d(x, 2) if k == 1 else x
            if training and self.method in ("Sparseout", "Dropout"):
                x = sparseout(x, self.p, 2.0 if self.method == "Dropout" else self.q, generator=draws)
        return x, outputs

    def report(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """What the page's engine reports, from images (TRAIN + HELD_OUT) and labels."""
        with torch.no_grad():
            train, _ = self.forward(x[:HELD_OUT], False)
            logits, outputs = self.forward(x[TRAIN:], False)
            w = torch.cat([w.flatten() for w in self.weights[:3]])
            size, rms = w.abs().clamp_max(WIDEST * (1 - 1e-6)), w.square().mean().sqrt().item()
            # filters as the page has them: a patch runs over rows, columns, channels
            filters = [w.permute(2, 3, 1, 0).flatten().tolist() for w in self.weights[:2]]
            active = [(out > 0).float().transpose(0, 1).flatten(1).mean(1).tolist() for out in outputs]
            return {
                "train_loss": F.cross_entropy(train, y[:HELD_OUT]).item(),
                "loss": F.cross_entropy(logits, y[TRAIN:]).item(),
                "accuracy": (logits.argmax(1) == y[TRAIN:]).float().mean().item(),
                "hoyer": sparsity.hoyer(w).item(),
                "gini": sparsity.gini(w).item(),
                "near_zero": sparsity.zero_fraction(w, threshold=NEAR_ZERO * rms).item(),
                "activations": sparsity.hoyer(outputs[2]).item(),
                "histogram": (torch.histc(size, BINS, 0, WIDEST) / len(w)).tolist(),
                "filters": filters,
                "active": active,
            }


@functools.lru_cache(16)
def trained(method: str, p: float, q: float, rate: float, seed: int, steps: int = STEPS) -> list[dict[str, Any]]:
    """Reports of a run in torch, one every ``EVERY`` steps from the first weights on."""
    pixels, labels = digits()
    x, y = torch.tensor(pixels).view(-1, 1, 8, 8) / 15, torch.tensor(labels).long()
    net = Network(method, p, q, seed)
    descent = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM)
    reports = [{"steps": 0, **net.report(x, y)}]
    for step in range(1, steps + 1):
        batch = torch.randint(TRAIN, (BATCH,), generator=net.draws)
        descent.zero_grad()
        F.cross_entropy(net.forward(x[batch], True)[0], y[batch]).backward()
        descent.step()
        if method == METHODS[-1]:
            with torch.no_grad():
                for w in net.weights[:3]:
                    shrink(w, rate * strength(p), q)
        if step % EVERY == 0:
            reports.append({"steps": step, **net.report(x, y)})
    return reports


def strength(p: float) -> float:
    """Of the explicit penalty: half of p/(1-p), as the noise has it, times ``CURVATURE``."""
    return CURVATURE * p / (1 - p) / 2


def shrink(w: Tensor, amount: float, q: float) -> None:
    """A step of ``amount`` against |w|^q, in place; a weight that would cross zero stays there."""
    pull = amount * q * w.abs().clamp_min(torch.finfo(w.dtype).tiny).pow(q - 1)
    w.copy_(w.sign() * (w.abs() - pull).clamp_min(0))


class Playground(Figure):
    r"""A network on 8x8 digits (two 3x3 convolutions, a hidden layer, 9,800 weights) that trains in the page.

    The noise acts on the weights of the three hidden layers ("Bridgeout": every image its own mask; "Batch Bridgeout":
    one mask for the batch), or on their outputs ("Sparseout", and "Dropout", which is Sparseout at q = 2). "L_q
    penalty" adds :math:`\lambda\sum|w|^q` over those weights instead, by a step that stops at zero, with
    :math:`\lambda = 0.01\cdot\tfrac12\tfrac p{1-p}`. Before the reader presses Train the figure shows a stored run of
    ``STEPS`` steps at the starting values, computed in torch.

    Args:
        method: one of ``METHODS``. p: 0.05 to 0.7. q: 0.5 to 3. rate: the step size, one of ``RATES``. seed: 0 to 9,
            of weights, batches and masks.

    Raises:
        ValueError: a control outside these ranges.
    """

    file = "playground"
    method = traitlets.Unicode().tag(sync=True)
    p = traitlets.Float().tag(sync=True)
    q = traitlets.Float().tag(sync=True)
    rate = traitlets.Float().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    title = traitlets.Unicode("Noise playground: a network that trains in this page").tag(sync=True)
    train = traitlets.Int(TRAIN).tag(sync=True)
    labels = traitlets.Unicode().tag(sync=True)
    pixels = traitlets.Bytes().tag(sync=True)
    stored = traitlets.Dict().tag(sync=True)
    controls = traitlets.Dict(
        {
            "method": {"label": "noise, or penalty", "value": METHODS[4], "options": METHODS},
            "p": {"label": "p, share dropped", "value": 0.2, "min": 0.05, "max": 0.7, "step": 0.05},
            "q": {"label": "q, exponent", "value": 1.0, "min": 0.5, "max": 3.0, "step": 0.1},
            "rate": {"label": "step size", "value": 0.02, "values": RATES},
            "seed": {"label": "seed", "value": 0, "min": 0, "max": 9, "step": 1},
        }
    ).tag(sync=True)

    def __init__(self, **values: Any) -> None:
        pixels, labels = digits()
        flat = pixels.ravel()
        controls: Any = self.controls
        start = {key: control["value"] for key, control in controls.items()}
        reports = trained(**start)
        stored = {
            **start,
            **{name: [_short(report[name]) for report in reports] for name in CURVES},
            **{name: _short(reports[-1][name]) for name in ("histogram", "filters", "active")},
        }
        data = {"labels": "".join(map(str, labels)), "pixels": (flat[::2] << 4 | flat[1::2]).tobytes()}
        super().__init__(**data | {"stored": stored} | values)

    _check = checked("method", "p", "q", "rate", "seed")

    def numbers(self) -> dict[str, float]:
        """The part of the readout that the controls decide: p/(1-p), the variance of the noise over |x|^q, or the
        strength of the penalty; for noise on weights the :math:`|w| = (p/(1-p))^{1/(2-q)}` where its standard deviation
        is as large as the weight (there is none at q = 2). Training adds its own numbers."""
        odds = self.p / (1 - self.p)
        if self.method == METHODS[-1]:
            return {"amount": strength(self.p)}
        numbers = {"amount": 0.0 if self.method == METHODS[0] else odds}
        if "Bridgeout" in self.method and self.q != 2:
            numbers["level"] = odds ** (1 / (2 - self.q))
        return numbers

    def picture(self) -> Picture:
        values = {name: getattr(self, name) for name in self.controls}
        reports = trained(**values)
        fig, (left, right) = panels(2, height=3.0, layout="constrained")
        steps = [report["steps"] for report in reports]
        for name, colour, label in (("train_loss", BLUE, "training"), ("loss", GREEN, "held out")):
            left.plot(steps, [report[name] for report in reports], color=colour, label=label)
        left.set(xlabel="steps", ylabel="cross-entropy (nats)", title=f"{self.method}, without noise")
        for name, colour in (("accuracy", GREEN), ("hoyer", BLUE), ("near_zero", ORANGE)):
            right.plot(steps, [report[name] for report in reports], color=colour, label=name.replace("_", " "))
        right.set(xlabel="steps", ylabel="0 to 1", title="held-out accuracy; sparsity of the weights", ylim=(0, 1))
        left.legend()
        right.legend()
        return fig


# the worker travels inside the script, so that a page needs one file and a stored page gets both anew
Playground._esm = f"const WORKER = {json.dumps(worker())};\n{script('playground')}"


def _short(value: Any) -> Any:
    """Numbers as the page needs them: three decimals."""
    return [_short(v) for v in value] if isinstance(value, list) else round(value, 3)
