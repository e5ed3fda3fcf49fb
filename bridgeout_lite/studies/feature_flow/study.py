"""Chapter 10's study: residual networks trained to keep the paths of their features short and straight, then measured
and pruned.

Three kinds of thing are left out of such a network: single weights; filters, by :mod:`bridgeout_lite.pruning`; and
whole blocks whose shortcut is the identity, of which the input stays. After each removal BatchNorm's statistics are
taken anew; nothing is fine-tuned.
"""

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from ...data import Images
from ...models import ResidualBlock
from ...modules import evaluating
from ...pruning import prune, recalibrate_batchnorm, remove_filters
from ...rivals.base import finish
from ...rivals.paths import FeatureFlow, curvature, is_residual_point, length, trajectories, turning
from ...runs.records import Record
from ...sparsity import filter_norms, hoyer
from ...stats import summarise
from ...training import Recipe, evaluate, fit
from ..experiment import ImageExperiment, Run, accuracies, columns, runs_of

# Validation images whose paths are measured, and training batches of 128 for BatchNorm's statistics.
MEASURED_IMAGES = 300
BATCHES = 5

# What is left out of a trained network: shares of each layer's filters or weights by criterion, and numbers of blocks.
FILTERS = ("l2", "folded", "random")
FILTER_AMOUNTS = (0.25, 0.5)
WEIGHT_AMOUNTS = (0.8,)
BLOCK_COUNTS = (3, 6)


@dataclasses.dataclass(frozen=True)
class FlowExperiment(ImageExperiment):
    """One run, fully described, of a model made of :class:`ResidualBlock`. There is no noise: p = 0.

    Attributes:
        length, curvature, norm: as for :class:`~bridgeout_lite.rivals.paths.FeatureFlow` on the network's own steps;
            both strengths 0 is plain training.
        seed: of the initial weights and the order of the images.
    """

    dataset: str = "cifar10"
    model: str = "resnet34c"
    width: float = 0.25
    train: int | None = 4000
    valid: int = 1000
    test: int | None = 1000
    length: float = 0.0
    curvature: float = 0.0
    norm: float = 2.0
    recipe: Recipe = dataclasses.field(default_factory=lambda: Recipe(epochs=4, batch_size=50))
    seed: int = 0

    PROTOCOL: ClassVar[int] = 1
    TAGS: ClassVar[dict[str, Any]] = {"task": "feature flow", "method": "feature flow", "p": 0.0, "q": 2.0}

    def __post_init__(self) -> None:
        self.check(needs=ResidualBlock)
        flow = self.regulariser  # it checks its strengths
        self._settle(**{name: float(getattr(flow, name)) for name in ("length", "curvature", "norm")})

    @property
    def regulariser(self) -> FeatureFlow:
        """A new penalty of these strengths."""
        return FeatureFlow(self.length, self.curvature, self.norm, where=is_residual_point)

    def measure(self, images: Images, run: Run) -> dict[str, Any]:
        """Accuracies (%) and losses (nats), history, paths (see :func:`measure_paths`), layers (see
        :func:`measure_layers`) and removal (see :func:`measure_removal`)."""
        model = self.build(images)
        flow = self.regulariser if self.length or self.curvature else None
        if flow is not None:
            flow.attach(model)
        history = run.train(fit, model, images, self.recipe, seed=self.seed, regulariser=flow)
        finish(model, flow)
        with evaluating(model):
            return {
                **accuracies(model, images),
                "history": columns(history, "train_loss", "valid_loss", "valid_accuracy"),
                "paths": measure_paths(model, images.normalize(images.valid.x[:MEASURED_IMAGES])),
                "layers": measure_layers(model),
                "removal": measure_removal(model, images, seed=self.seed),
            }


def measure_paths(model: nn.Module, inputs: Tensor) -> list[dict[str, Any]]:
    r"""The network's own steps, stage by stage, in evaluation mode; means over the images.

    Returns:
        For each stage: points, the modules' names; sizes :math:`\lVert x_l\rVert`; steps
        :math:`\lVert x_{l+1}-x_l\rVert`; relative, the steps over the sizes they start from; length, curvature and
        turning (radians) of the path. Sizes, steps, length and curvature go with the scale of the features, relative
        and turning do not.
    """
    stages = []
    for path in trajectories(model, inputs, where=is_residual_point):
        points = [x.flatten(1) for x in path.values()]
        sizes = [x.norm(dim=1) for x in points]
        steps = [(b - a).norm(dim=1) for a, b in itertools.pairwise(points)]
        stages.append(
            {
                "points": list(path),
                "sizes": [x.mean().item() for x in sizes],
                "steps": [x.mean().item() for x in steps],
                "relative": [(x / size.clamp_min(1e-12)).mean().item() for x, size in zip(steps, sizes, strict=False)],
                "length": length(points).item(),
                "curvature": curvature(points).item(),
                "turning": turning(points).item(),
            }
        )
    return stages


def measure_layers(model: nn.Module) -> dict[str, dict[str, float]]:
    r"""For each convolution and the BatchNorm behind it (of its name with "norm" for "conv"): norm, the mean L2 norm of
    its filters; hoyer of all its weights and filter_hoyer of the filters' norms; gamma, the mean
    :math:`\lvert\gamma\rvert`, gamma_hoyer, and beta, the mean :math:`\lvert\beta\rvert`; folded_hoyer of the products
    :math:`\lVert w_o\rVert\,\lvert\gamma_o\rvert/\sigma_o`.

    Raises:
        ValueError: a convolution without such a BatchNorm.
    """
    layers = {}
    batchnorms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d):
            norm: Any = batchnorms.get(name.replace("conv", "norm"))
            if norm is None or norm.num_features != conv.out_channels:
                raise ValueError(f"{name!r} has no BatchNorm of its size under its name with 'norm' for 'conv'")
            norms, gamma = filter_norms(conv.weight), norm.weight.detach().abs()
            layers[name] = {
                "norm": norms.mean().item(),
                "hoyer": hoyer(conv.weight.detach()).item(),
                "filter_hoyer": hoyer(norms).item(),
                "gamma": gamma.mean().item(),
                "gamma_hoyer": hoyer(gamma).item(),
                "beta": norm.bias.detach().abs().mean().item(),
                "folded_hoyer": hoyer(norms * gamma * (norm.running_var + norm.eps).rsqrt()).item(),
            }
    return layers


def removable_blocks(model: nn.Module) -> dict[str, ResidualBlock]:
    """The residual blocks whose shortcut is the identity, by name: without one the network still fits together."""
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, ResidualBlock)}
    return {name: block for name, block in blocks.items() if isinstance(block.shortcut, nn.Identity)}


def without_blocks(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy of the model with these blocks cut out: what they got is passed on as it is. A ValueError for a name that
    is not of :func:`removable_blocks`."""
    known, small = removable_blocks(model), copy.deepcopy(model)
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no block that can be cut out; those that can: {', '.join(known) or 'none'}")
        small.set_submodule(name, nn.Identity())
    return small


def weakest_blocks(model: nn.Module, inputs: Tensor) -> list[str]:
    """:func:`removable_blocks` in the order of their relative steps on ``inputs``, the smallest first."""
    relative: dict[str, float] = {}
    for stage in measure_paths(model, inputs):
        relative |= dict(zip(stage["points"][1:], stage["relative"], strict=True))
    return sorted(removable_blocks(model), key=lambda name: relative[name])


def measure_removal(model: nn.Module, images: Images, *, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """Accuracy (%) without a part of the network, BatchNorm recalibrated. ``model`` is left as it is.

    Returns:
        Under "filters: l2", "filters: folded", "filters: random", "weights", "blocks: smallest steps" and "blocks:
        random": amount (share of each layer, or number of blocks), valid and test. Steps are ranked on training images.
    """
    example = images.normalize(images.train.x[:MEASURED_IMAGES])
    draws = torch.Generator().manual_seed(seed)
    names = list(removable_blocks(model))
    shuffled = [names[i] for i in torch.randperm(len(names), generator=draws)]
    blocks = {"smallest steps": weakest_blocks(model, example), "random": shuffled}
    cases: dict[str, dict[float, nn.Module]] = {}
    for criterion in FILTERS:
        cases[f"filters: {criterion}"] = {
            amount: remove_filters(model, amount, example[:1], criterion=criterion, generator=draws)
            for amount in FILTER_AMOUNTS
        }
    cases["weights"] = {
        amount: prune(copy.deepcopy(model), amount, granularity="weight", scope="filter") for amount in WEIGHT_AMOUNTS
    }
    for name, order in blocks.items():
        cases[f"blocks: {name}"] = {count: without_blocks(model, order[:count]) for count in BLOCK_COUNTS}
    result: dict[str, dict[str, list[float]]] = {}
    for name, networks in cases.items():
        result[name] = {"amount": list(networks), "valid": [], "test": []}
        for network in networks.values():
            recalibrate_batchnorm(network, images, BATCHES, seed=seed)
            for split in ("valid", "test"):
                result[name][split].append(evaluate(network, images, split)[1])
    return result


def feature_flow() -> list[FlowExperiment]:
    """Chapter 10's runs: the [3, 4, 6] residual network at a quarter of its width on 4,000 CIFAR-10 images, three
    seeds: without a penalty, also for half as many epochs, which costs accuracy as a strong penalty does; with a
    penalty on length or on curvature at two strengths, the stronger first; and on length in the L1 norm."""
    rounds: list[list[dict[str, Any]]] = [
        [{}, {"length": 6e-4}],
        [{"recipe": Recipe(epochs=2, batch_size=50)}, {"curvature": 6e-4}],
        [{"length": 2e-4}, {"curvature": 2e-4}],
        [{"length": 1e-5, "norm": 1}],
    ]
    return [FlowExperiment(seed=seed, **setting) for some in rounds for seed in range(3) for setting in some]


def setting(spec: Mapping[str, Any]) -> str:
    """The penalty of a run in a few characters, such as "length 0.0003"; without one the number of epochs."""
    words = [f"{name} {spec[name]:g}" for name in ("length", "curvature") if spec[name]]
    if not words:
        epochs = spec["recipe"]["epochs"]
        return f"no penalty, {epochs} epoch{'s' if epochs > 1 else ''}"
    return " and ".join(words) + (", L1 norm" if spec["norm"] == 1 else "")


# What the others are compared with.
PLAIN = setting(FlowExperiment().spec)


def against_plain(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """``value`` minus that of training without a penalty, paired by seed: one row per setting with mean, its 95 %
    interval (Student's t) low and high, and n.

    Args:
        rows: one row per setting and seed, such as :func:`flow_runs`.

    Raises:
        ValueError: no rows of training without a penalty.
    """
    table = rows.set_index(["setting", "seed"])[value]
    if PLAIN not in table.index.get_level_values("setting"):
        raise ValueError(f"no rows of {PLAIN!r} to compare with: record the sweep 'feature-flow' first")
    gap = (table - table.xs(PLAIN)).dropna().rename("gap").reset_index()
    return summarise(gap[gap["setting"] != PLAIN], ["setting"], "gap")


def flow_runs(records: Iterable[Record]) -> pd.DataFrame:
    """A row per run of :func:`feature_flow`: setting, seed, valid_accuracy, test_accuracy (%); means over the stages of
    length, curvature and turning; relative, the mean over all steps."""
    rows = []
    for row, metrics in _measured(records):
        paths = pd.DataFrame(metrics["paths"])
        row |= {k: metrics[k] for k in ("valid_accuracy", "test_accuracy")}
        row |= {k: paths[k].mean() for k in ("length", "curvature", "turning")}
        rows.append(row | {"relative": paths["relative"].explode().astype(float).mean()})
    return pd.DataFrame(rows)


def flow_layers(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run and convolution: setting, seed, layer, part, and what :func:`measure_layers` says of it. part is
    "first" or "second" for the convolutions of the penalised branches, else "other"."""
    rows = []
    for row, metrics in _measured(records):
        starts = {stage["points"][0] for stage in metrics["paths"]}
        inside = {name for stage in metrics["paths"] for name in stage["points"]} - starts
        for name, values in metrics["layers"].items():
            block, _, conv = name.rpartition(".")
            part = {"conv1": "first", "conv2": "second"}.get(conv, "other") if block in inside else "other"
            rows.append(row | {"layer": name, "part": part} | values)
    return pd.DataFrame(rows)


def flow_removal(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run, kind of removal, amount and split: setting, seed, kind, amount, split, accuracy (%). The whole
    network is there as amount 0 of each kind."""
    rows = []
    for row, metrics in _measured(records):
        for kind, curve in metrics["removal"].items():
            for split in ("valid", "test"):
                whole = metrics[f"{split}_accuracy"]
                for amount, accuracy in zip([0, *curve["amount"]], [whole, *curve[split]], strict=True):
                    rows.append(row | {"kind": kind, "amount": amount, "split": split, "accuracy": accuracy})
    return pd.DataFrame(rows)


def _measured(records: Iterable[Record]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for record in runs_of(records, task="feature flow"):
        yield {"setting": setting(record.spec), "seed": record.spec["seed"]}, record.metrics
