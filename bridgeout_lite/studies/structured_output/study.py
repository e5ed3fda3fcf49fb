r"""Structured outputs: a network that shares its first layers with an autoencoder of its inputs, and its last ones with
an autoencoder of its answers.

The network is K affine layers with nonlinearities between them, :math:`f(x) = W_K h_{K-1} + b_K` with
:math:`h_k = a(W_k h_{k-1} + b_k)`. One loss trains it:

.. math:: J = \lambda_{sup} J_s + \lambda_{in}(t) J_{in} + \lambda_{out}(t) J_{out}

with mean squared errors of :math:`f(x)` against y, of x rebuilt from its code :math:`h_{K_{in}}` with the transposes of
the first K_in weights, and of y rebuilt by the last K_out layers from a code that their transposes make of it. What is
not shared are biases: each autoencoder has its own for its transposed layers. :math:`K_{in} + K_{out} < K`: at least
one layer belongs to the way from one code to the other alone. Inputs without answers feed J_in, answers without inputs
J_out.

Source: Belharbi, Herault, Chatelain and Adam, arXiv:1504.07550, and the code released with it. Ours are: Adam on the
whole J (the released code keeps a momentum for each part, so that shared weights move by another rate than here); ReLU
in place of sigmoids, and an affine output in place of tanh; and sizes.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pandas as pd
import torch

from ...checks import check_choice, check_exponent, check_positive, check_probability
from ...layers import attach_sparseout, detach_sparseout
from ...modules import seeded
from ...runs.records import Record
from ...sparsity import hoyer, zero_fraction
from ..experiment import Experiment, Run, least, runs_of
from .faces import PAIR_SETS, Pairs, load_pairs
from .model import (
    SharedAutoencoders,
    StructuredRecipe,
    captured,
    cdf_and_auc,
    errors,
    fit_structured,
    off_shape,
    predict,
    variant,
)

METHODS = ("none", "sparseout")

# The recorded sweep: numbers of labels, of unlabelled inputs and answers, and of seeds. The digits, which are few, are
# tried with unlabelled data only.
TASKS = {"shapes": ((30, 200, 1000), (0, 1500), 5), "digit-halves": ((100,), (400,), 3)}
SEARCHED_WEIGHTS = (1.0, 10.0, 100.0)

SEARCHED_AT = {"shapes": 200, "digit-halves": 100}

# The weights l_in and l_out of least validation error in the search, each alone, for each data set with that many
# unlabelled inputs and answers, as tuned_weights() finds them.
TUNED: dict[tuple[str, int], tuple[float, float]] = {
    ("shapes", 0): (10.0, 10.0),
    ("shapes", 1500): (10.0, 10.0),
    ("digit-halves", 400): (100.0, 1.0),
}

# The search over Sparseout on the code, where it is done, and the p of least validation error for each q.
NOISE_AT = ("shapes", 200, 1500)
NOISE_SEEDS = 3
SEARCHED_Q = (1.0, 2.0, 3.0)
SEARCHED_P = (0.1, 0.3)
TUNED_P: dict[float, float] = {1.0: 0.1, 2.0: 0.1, 3.0: 0.1}


@dataclasses.dataclass(frozen=True)
class StructuredExperiment(Experiment):
    """One run, fully described.

    Attributes:
        dataset, labels, unlabelled: as for :func:`load_pairs`; the seed picks them.
        hidden: widths of the hidden layers. k_in, k_out: as for :class:`SharedAutoencoders`.
        l_in, l_out: weights of the autoencoders, at the start; 0 and 0 is training on the labels alone.
        method: "none" or "sparseout" on the last hidden layer; q = 2 is Dropout.
        p, q: of the noise.
        recipe: of the training. seed: of the labels, the initial weights, the batches and the noise.
    """

    dataset: str = "shapes"
    labels: int = 100
    unlabelled: int = 0
    hidden: tuple[int, ...] = (128, 64, 32)
    k_in: int = 1
    k_out: int = 1
    l_in: float = 0.0
    l_out: float = 0.0
    method: str = "none"
    p: float = 0.0
    q: float = 2.0
    recipe: StructuredRecipe = dataclasses.field(default_factory=StructuredRecipe)
    seed: int = 0

    PROTOCOL: ClassVar[int] = 1
    TAGS: ClassVar[dict[str, Any]] = {"task": "structured-output", "model": "mlp"}
    DIGITS = 4

    def __post_init__(self) -> None:
        check_choice(self.dataset, PAIR_SETS, "dataset")
        check_choice(self.method, METHODS, "method")
        self._settle(p=check_probability(self.p), q=check_exponent(self.q))
        self._settle(l_in=check_positive(self.l_in, "l_in"), l_out=check_positive(self.l_out, "l_out"))

    def load(self) -> Pairs:
        """The pairs of inputs and answers that the seed picks."""
        return load_pairs(self.dataset, self.labels, self.unlabelled, seed=self.seed)

    def measure(self, pairs: Pairs, run: Run) -> dict[str, Any]:
        """valid_error and test_error (means of :func:`errors`), valid_history (the validation error after each epoch),
        hoyer and zero_fraction of the codes of the validation inputs, code by code; for landmarks also cdf and auc
        (:func:`cdf_and_auc`), off_shape (mean over the test part), captured and largest_angle (:func:`captured`)."""
        model = build_structured(self, pairs)
        if self.method == "sparseout":
            place = model.code_place
            attach_sparseout(model, self.p, self.q, where=lambda name, module: module is place)
        weights = {"l_in": self.l_in, "l_out": self.l_out}
        history = run.train(fit_structured, model, pairs, self.recipe, seed=self.seed, **weights)
        detach_sparseout(model)
        answers = predict(model, pairs.test_x)
        error = errors(answers, pairs.test_y, pairs)
        with torch.inference_mode():
            codes = model.code(pairs.valid_x)
        metrics: dict[str, Any] = {
            "valid_error": history.last_row["valid_error"],
            "test_error": error.mean().item(),
            "hoyer": hoyer(codes, 1).mean().item(),
            "zero_fraction": zero_fraction(codes).item(),
            "valid_history": history.frame["valid_error"].tolist(),
        }
        if pairs.model is not None:
            metrics["cdf"], metrics["auc"] = cdf_and_auc(error)
            metrics["off_shape"] = off_shape(answers, pairs).mean().item()
            metrics["captured"], metrics["largest_angle"] = captured(model, pairs)
        return metrics


def build_structured(experiment: StructuredExperiment, pairs: Pairs) -> SharedAutoencoders:
    """The network of an experiment, with the initial weights of its seed, without noise."""
    sizes = (pairs.x.shape[1], *experiment.hidden, pairs.y.shape[1])
    with seeded(experiment.seed):
        return SharedAutoencoders(sizes, experiment.k_in, experiment.k_out)


def searched_structured() -> list[StructuredExperiment]:
    """The search, one seed: for each data set at its labels of ``SEARCHED_AT``, with and without unlabelled data, each
    autoencoder alone at the weights of ``SEARCHED_WEIGHTS``."""
    return [
        StructuredExperiment(dataset, SEARCHED_AT[dataset], unlabelled, l_in=l_in, l_out=l_out)
        for dataset, (_, more, _) in TASKS.items()
        for unlabelled in more
        for weight in SEARCHED_WEIGHTS
        for l_in, l_out in ((weight, 0.0), (0.0, weight))
    ]


def searched_noise() -> list[StructuredExperiment]:
    """The search over Sparseout on the code, one seed: both autoencoders at their ``TUNED`` weights."""
    dataset, labels, unlabelled = NOISE_AT
    l_in, l_out = TUNED[dataset, unlabelled]
    both = StructuredExperiment(dataset, labels, unlabelled, l_in=l_in, l_out=l_out)
    return [dataclasses.replace(both, method="sparseout", p=p, q=q) for q in SEARCHED_Q for p in SEARCHED_P]


def structured_output() -> list[StructuredExperiment]:
    """Chapter 13's runs: the search, then seed by seed the ablation at the ``TUNED`` weights: labels alone, each
    autoencoder and both, for faces with unlabelled data and without, with five seeds; for halves of digits with
    unlabelled data, and Sparseout of three q on the code, each at its ``TUNED_P``, with three."""
    experiments = searched_structured()
    noisy = searched_noise() if TUNED else []
    experiments += noisy
    noisy = [e for e in noisy if TUNED_P.get(e.q) == e.p]
    for seed in range(max(seeds for _, _, seeds in TASKS.values())):
        for (dataset, unlabelled), (l_in, l_out) in TUNED.items():
            counts, _, seeds = TASKS[dataset]
            for labels in counts if seed < seeds else ():
                alone = StructuredExperiment(dataset, labels, seed=seed)  # makes nothing of unlabelled data
                arms = [(l_in, 0.0), (0.0, l_out), (l_in, l_out)]
                more = [dataclasses.replace(alone, unlabelled=unlabelled, l_in=a, l_out=b) for a, b in arms]
                experiments += [alone, *more]
        experiments += [dataclasses.replace(e, seed=seed) for e in noisy if seed < NOISE_SEEDS]
    return list(dict.fromkeys(experiments))


def tuned_weights(records: Iterable[Record]) -> dict[tuple[str, int], tuple[float, float]]:
    """The weights l_in and l_out of least validation error for each (dataset, unlabelled) in the search."""
    found = least(
        records, searched_structured(), "valid_error", lambda s: (s["dataset"], s["unlabelled"], s["l_in"] > 0)
    )
    keys = dict.fromkeys(key[:2] for key in found)
    return {key: (found[key + (True,)]["l_in"], found[key + (False,)]["l_out"]) for key in keys}


def tuned_p(records: Iterable[Record]) -> dict[float, float]:
    """The p of least validation error for each q in the search over the noise."""
    best = least(records, searched_noise(), "valid_error", lambda spec: spec["q"])
    return {q: spec["p"] for q, spec in best.items()}


def structured_frame(records: Iterable[Record]) -> pd.DataFrame:
    """A row per run of :func:`structured_output` at chosen weights and p, those of the search that were not chosen left
    out: dataset, labels, unlabelled, variant, method, p, q, seed, what was measured, and the experiment's weights."""
    rows = []
    for record in runs_of(records, task="structured-output"):
        spec = record.spec
        l_in, l_out = TUNED.get((spec["dataset"], spec["unlabelled"]), (0.0, 0.0))
        chosen = spec["l_in"] in (0, l_in) and spec["l_out"] in (0, l_out)
        if chosen and (spec["method"] == "none" or spec["p"] == TUNED_P.get(spec["q"])):
            row = {k: spec[k] for k in ("dataset", "labels", "unlabelled", "l_in", "l_out", "method", "p", "q", "seed")}
            rows.append(row | {"variant": variant(spec["l_in"], spec["l_out"])} | record.metrics)
    return pd.DataFrame(rows)


def epochs_to(history: Sequence[float], target: float) -> int:
    """The first epoch, from 1, after which the error is at most ``target``; one more than there are if it never is."""
    return next((k for k, error in enumerate(history, 1) if error <= target), len(history) + 1)
