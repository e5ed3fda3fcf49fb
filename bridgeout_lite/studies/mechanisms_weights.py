"""The same penalty by several mechanisms, on weights: noise, its mean, explicit penalties and an exact factorisation.

The network, the images and the training are those of the study of mechanisms on features; what is acted on are the
weights of all 3x3 convolutions.

* "noise": Batch Bridgeout. With ``draws`` > 1 each step takes the mean loss over that many independent masks.
* "penalty": the second-order penalty of that noise, p/(1-p) times half the sum of ``|w|^q`` times the curvature of the
  loss in w. The curvature is the diagonal of the Fisher matrix, a running mean estimated from labels drawn from the
  network's own answers, and is held constant in the gradient.
* "sum": ``strength`` times the sum of ``|w|^q``.
* "factors": each weight is the product of 2/q factors, and ``strength`` times the sum of their squares is added: at its
  minimum over all ways to write w as such a product that is 2/q times the sum of ``|w|^q`` (q = 1 or 2/3; Kolb et al.
  2025, arXiv:2502.02496).
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..checks import check_choice, check_exponent, check_positive, check_probability, check_whole
from ..data import Images, Split
from ..layers import attach_bridgeout, detach_bridgeout, is_3x3_convolution
from ..rivals.base import Regulariser, finish
from ..runs.records import Record, rounded
from ..sparsity import hoyer
from ..training import Recipe, fit
from .adaptive import Adaptive
from .base import Section, Study
from .curves import measure_pruning
from .experiment import ImageExperiment, Run, accuracies, columns
from .mechanisms import RECIPE, WATCHED, compare, dial_rows, power, questions, tuned_decay
from .search import Ladder, search_then

NEEDS: dict[str, str] = {"none": "", "noise": "p", "penalty": "p", "sum": "strength", "factors": "strength"}

# How much of the curvature is that of the last step.
NEWS = 0.05

# A weight of 0 is one factor of 0 and others of this size, so that it has a gradient.
FLOOR = 1e-2


@dataclasses.dataclass(frozen=True)
class WeightMechanism(ImageExperiment):
    """One run, fully described, with the attributes of
    :class:`~bridgeout_lite.studies.mechanisms.MechanismExperiment` and "factors" as one more method.

    Raises:
        ValueError: a name or a number outside of what it may be; a method without its strength.
    """

    dataset: str = "cifar10"
    model: str = "airnet"
    method: str = "none"
    p: float = 0.0
    q: float = 2.0
    draws: int = 1
    strength: float = 0.0
    width: float = 0.25
    train: int | None = 2500
    valid: int = 5000
    test: int | None = 5000
    recipe: Recipe = RECIPE
    seed: int = 0

    PROTOCOL: ClassVar[int] = 1
    TAGS: ClassVar[dict[str, Any]] = {"study": "mechanisms-weights", "protocol": 1}  # told at 1 as well

    def __post_init__(self) -> None:
        self.check(needs=nn.BatchNorm2d)
        check_choice(self.method, tuple(NEEDS), "method")
        self._settle(p=check_probability(self.p), q=check_exponent(self.q))
        self._settle(strength=check_positive(self.strength, "strength"))
        check_whole(self.draws, "draws", 1)
        has = [name for name in ("p", "strength") if getattr(self, name)]
        if has != [NEEDS[self.method]] * bool(NEEDS[self.method]) or (self.draws > 1 and self.method != "noise"):
            raise ValueError(
                "noise has p and draws, penalty has p, sum and factors have strength, none has none of them; "
                f"got {self.method!r} with p={self.p:g}, draws={self.draws}, strength={self.strength:g}"
            )
        if self.method == "factors" and round(2 / self.q, 6) not in (2, 3, 4):
            raise ValueError(f"factors have q = 1, 2/3 or 1/2, for 2, 3 or 4 of them; got q={self.q:g}")

    def attach(self, model: nn.Module) -> Regulariser | None:
        """Attach the method to a model; what the training loop has to call, if anything."""
        if self.method == "noise":
            attach_bridgeout(model, self.p, self.q)
        if self.method == "penalty":
            return CurvedPenalty(self.p, self.q).attach(model)
        if self.method == "sum":
            return SumPenalty(self.strength, self.q)
        return Factors(self.strength, round(2 / self.q)).attach(model) if self.method == "factors" else None

    def measure(self, images: Images, run: Run) -> dict[str, Any]:
        """Train the network and measure it.

        Returns:
            {train, valid, test}_{accuracy, loss} (%, nats) of the network without its method, on images as they are;
            history, one list per column; weights, for each convolution hoyer, rms and the share of weights below a
            hundredth of that (``small``); pruning (see :func:`bridgeout_lite.studies.curves.measure_pruning`).
        """
        model = self.build(images)
        rival = self.attach(model)
        trained = Answers(model, self.draws) if self.draws > 1 else model
        some = dataclasses.replace(images, valid=Split(images.valid.x[:WATCHED], images.valid.y[:WATCHED]))
        history = run.train(fit, trained, some, self.recipe, seed=self.seed, regulariser=rival)
        detach_bridgeout(finish(model, rival))
        metrics: dict[str, Any] = dict(accuracies(model, images, history.precision, ("train", "valid", "test")))
        watched = columns(history, "train_loss", "train_accuracy", "valid_accuracy")
        return metrics | {
            "history": {name: rounded(values, 4) for name, values in watched.items()},
            "weights": {name: measure_weights(m.weight.detach()) for name, m in convolutions(model).items()},
            "pruning": measure_pruning(model, images, self.q, precision=history.precision, seed=self.seed),
        }


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The modules whose weights are acted on, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and is_3x3_convolution(n, m)}


class Answers(nn.Module):
    """A model that in training answers each batch several times, one answer after the other, each under its own noise.
    In evaluation it answers once."""

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.model(x) for _ in range(self.draws if self.training else 1)])

    def extra_repr(self) -> str:
        return f"draws={self.draws}"


class SumPenalty(Regulariser):
    """``strength`` times the sum of ``|w|^q`` over the weights of the 3x3 convolutions."""

    def __init__(self, strength: float, q: float) -> None:
        self.strength, self.q = strength, q

    def __repr__(self) -> str:
        return f"SumPenalty({self.strength:g}, q={self.q:g})"

    def penalty(self, model: nn.Module) -> Tensor:
        sums = [power(module.weight, self.q).sum() for module in convolutions(model).values()]
        return self.strength * torch.stack(sums).sum()


class CurvedPenalty(Regulariser):
    """The second-order penalty of Bridgeout on the 3x3 convolutions, with an estimated curvature that is a buffer of
    each of them while the penalty is attached."""

    def __init__(self, p: float, q: float) -> None:
        self.p, self.q = p, q
        self._logits: Tensor | None = None
        self._hook: Any = None

    def __repr__(self) -> str:
        return f"CurvedPenalty(p={self.p:g}, q={self.q:g})"

    def attach(self, model: nn.Module) -> "CurvedPenalty":
        """Give the convolutions their buffers and see what the model answers; returns itself."""
        for module in convolutions(model).values():
            module.register_buffer("curvature", torch.zeros_like(module.weight))
        self._hook = model.register_forward_hook(self._keep)
        return self

    def detach(self, model: nn.Module) -> None:
        """Undo that."""
        self._hook.remove()
        self._logits = None
        for module in convolutions(model).values():
            del module.curvature

    def _keep(self, model: nn.Module, inputs: Any, output: Tensor) -> None:
        self._logits = output if model.training else None

    def penalty(self, model: nn.Module) -> Tensor:
        assert self._logits is not None, "no forward pass in training mode came before"
        logits, modules = self._logits.float(), list(convolutions(model).values())
        drawn = torch.multinomial(logits.detach().softmax(1), 1).squeeze(1)
        weights = [module.weight for module in modules]
        # the gradients of single images have mean zero: the square of their mean is the mean of their squares over n
        slopes = torch.autograd.grad(F.cross_entropy(logits, drawn), weights, retain_graph=True)
        total = logits.new_zeros(())
        for module, slope in zip(modules, slopes, strict=True):
            curvature = module.get_buffer("curvature").lerp_(len(logits) * slope.square(), NEWS)
            total = total + (curvature * power(module.weight, self.q)).sum()
        return 0.5 * self.p / (1 - self.p) * total


class Product(nn.Module):
    """A weight as a product of factors, for ``torch.nn.utils.parametrize``. It begins with all but the first of equal
    size, and as the weight that it replaces."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, *factors: Tensor) -> Tensor:
        return functools.reduce(torch.mul, factors)

    def right_inverse(self, w: Tensor) -> tuple[Tensor, ...]:
        size = w.abs().clamp_min(FLOOR).pow(1 / self.count)
        return (w / size.pow(self.count - 1), *(size.clone() for _ in range(self.count - 1)))

    def extra_repr(self) -> str:
        return f"{self.count}"


class Factors(Regulariser):
    """Factorised 3x3 convolutions: ``strength`` times the sum of the squares of all factors."""

    def __init__(self, strength: float, count: int) -> None:
        self.strength, self.count = strength, count

    def __repr__(self) -> str:
        return f"Factors({self.strength:g}, {self.count})"

    def attach(self, model: nn.Module) -> "Factors":
        """Factorise the convolutions; returns itself."""
        for module in convolutions(model).values():
            parametrize.register_parametrization(module, "weight", Product(self.count))
        return self

    def detach(self, model: nn.Module) -> None:
        """Multiply the factors."""
        for module in convolutions(model).values():
            parametrize.remove_parametrizations(module, "weight")

    def penalty(self, model: nn.Module) -> Tensor:
        factors = [
            factor
            for module in convolutions(model).values()
            for factor in module.get_submodule("parametrizations.weight").parameters()
        ]
        return self.strength * torch.stack([factor.square().sum() for factor in factors]).sum()


def measure_weights(w: Tensor) -> dict[str, float]:
    """How sparse a layer's weights are."""
    rms = w.square().mean().sqrt()
    return {"hoyer": hoyer(w).item(), "rms": rms.item(), "small": (w.abs() <= 0.01 * rms).float().mean().item()}


# --- the plan ---------------------------------------------------------------------------------------------------------

SEARCHED, REPEATED = 1, 5

# Method, q, draws; in the order in which they are searched.
SETTINGS: tuple[tuple[str, float, int], ...] = (
    *(("noise", q, 1) for q in (1.0, 1.5, 2.0)),
    *(("sum", q, 1) for q in (1.0, 1.5, 2.0)),
    *(("factors", q, 1) for q in (1.0, 2 / 3)),
    *(("penalty", q, 1) for q in (1.0, 1.5, 2.0)),
    *(("noise", q, 4) for q in (1.0, 1.5, 2.0)),
)

# Weights are small numbers: the power of noise at a given p grows as q falls.
NOISE = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 0.95)
BEGINNING = {1.0: (1e-3, 0.01), 1.5: (0.01, 0.06), 2.0: (0.06, 0.2)}
STRENGTHS = (1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def at(setting: tuple[str, float, int], decay: float, value: float, seed: int) -> WeightMechanism:
    """One run at a value of the setting's dial and that weight decay."""
    method, q, draws = setting
    dial: dict[str, Any] = {NEEDS[method]: value} if NEEDS[method] else {}
    recipe = dataclasses.replace(RECIPE, weight_decay=decay)
    return WeightMechanism(method=method, q=q, draws=draws, recipe=recipe, seed=seed, **dial)


def ladder(setting: tuple[str, float, int], decay: float) -> Ladder:
    """The search for a setting's strength."""
    noisy = NEEDS[setting[0]] == "p"
    values, beginning = (NOISE, BEGINNING[setting[1]]) if noisy else (STRENGTHS, (1e-5, 1e-4))
    return Ladder(functools.partial(at, setting, decay), values, beginning, SEARCHED)


def next_runs(records: Iterable[Record], decay: float | None = None) -> list[WeightMechanism]:
    """What the study lacks after these records: the search; then five seeds of plain training and of every setting at
    its best. Called again with what these runs give it goes on to the end.

    ``decay`` defaults to what the study of mechanisms has found; ValueError if it has not yet.
    """
    records = list(records)
    decay = tuned_decay() if decay is None else decay
    ladders = {setting: ladder(setting, decay) for setting in SETTINGS}

    def repeats() -> list[WeightMechanism]:
        pairs = [(("none", 2.0, 1), 0.0), *((setting, one.best(records)) for setting, one in ladders.items())]
        return [at(setting, decay, value, seed) for seed in range(REPEATED) for setting, value in pairs]

    return search_then(ladders.values(), repeats, records)


def weights_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run: method, q, draws, p, strength, weight_decay, seed, seconds, {train, valid, test}_{accuracy,
    loss}, means over the convolutions of what :func:`measure_weights` gives. Records of other studies, and runs that
    diverged, are left out."""
    return pd.DataFrame(
        row | {name: values.mean() for name, values in pd.DataFrame(metrics["weights"]).T.items()}
        for row, metrics in dial_rows(records, "mechanisms-weights")
    )


SECTION = Section(
    "Penalty or noise, on weights",
    "As above for Bridgeout's noise on all convolutions, where theory is a heuristic.",
    questions(
        (
            (
                "penalty-or-noise-weights-accuracy",
                "The penalty alone gives the test accuracy that the noise gives: weights",
                compare("test_accuracy", "noise", "penalty", "points", "+.2f", within=1.0),
            ),
            (
                "penalty-or-noise-weights-sparsity",
                "The penalty alone gives the sparsity of weights that the noise gives",
                compare("hoyer", "noise", "penalty", "of Hoyer's measure", "+.3f", within=0.02),
            ),
        ),
        "the weights of its convolutions",
        "mechanisms-weights",
        weights_frame,
    ),
)

STUDY = Study("mechanisms-weights", {"mechanisms-weights": Adaptive(next_runs)}, (SECTION,), table=weights_frame)
