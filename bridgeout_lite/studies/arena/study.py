"""The arena: every method on one network, with equal training, judged by what is left after filters are removed.

A run trains one network by one method for the same number of epochs as all others, takes the method off, really removes
filters at several operating points, recalibrates BatchNorm, and then trains what is left for one more epoch without
any method ("fine-tuned"). An operating point is a share of filters: removing that share in every layer sets how many
multiply-adds may stay, and a ranking over the whole network has to keep to the same number. Where nothing was removed
nothing is trained again.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from ...checks import check_choice, check_exponent, check_fraction, check_positive, check_probability
from ...cost import count, latencies
from ...data import Images
from ...layers import attach_bridgeout, attach_sparseout, detach_bridgeout, detach_sparseout
from ...pruning import recalibrate_batchnorm, remove_filters
from ...rivals import channels, gates, paths, penalties, proximal
from ...rivals.base import Regulariser, finish
from ...rivals.channels import prune_to_budget
from ...runs.records import Record
from ...training import Recipe, evaluate, fit
from ..curves import dropout_places
from ..experiment import ImageExperiment, Run, accuracies, columns, runs_of

# Shares of the filters: the operating points.
AMOUNTS = (0.0, 0.3, 0.5, 0.7)

# How channels are ranked: by the L2 norm of their filter within a layer, an equal share of every layer; or over the
# whole network by the energy of their group (see OICSR). A run is measured by the one that its validation images
# prefer; a network trained without any method also by the L1 norm within a layer, and at random.
RANKINGS = ("layer", "network")
CONTROLS = ("l1", "random")

# After removal: batches of 128 for BatchNorm, and the training that follows.
BATCHES = 10
FINE_TUNING = Recipe(epochs=1, lr=0.02)

TREATMENTS = ("removed, recalibrated", "fine-tuned")

# The most that goes of a layer's channels under the ranking over the whole network.
CAP = 0.9

# beta of variable splitting, and after how many steps it grows, for runs of a few hundred steps.
SPLITTING: dict[str, Any] = {"beta": 0.1, "every": 100}


@dataclasses.dataclass(frozen=True)
class Contender:
    """A method of the arena: the name that figures show, and the strengths to choose from, each as values of
    :class:`ArenaExperiment`'s fields p, q and strength. Those that are ``harsh``, five points and more behind the
    method's best on the first network's validation images, are not tried on the second."""

    label: str
    strengths: tuple[Mapping[str, Any], ...] = ({},)
    harsh: tuple[Mapping[str, Any], ...] = ()


def _strengths(*values: float) -> tuple[Mapping[str, Any], ...]:
    return tuple({"strength": value} for value in values)


def _probabilities(*values: float) -> tuple[Mapping[str, Any], ...]:
    return tuple({"p": value} for value in values)


CONTENDERS: dict[str, Contender] = {
    "none": Contender("weight decay alone"),
    "dropout": Contender("Dropout", _probabilities(0.05, 0.15)),
    "sparseout": Contender("Sparseout", ({"p": 0.1, "q": 1.0}, {"p": 0.1, "q": 1.5}, {"p": 0.1, "q": 3.0})),
    "dropconnect": Contender("DropConnect", _probabilities(0.05), _probabilities(0.2)),
    "bridgeout": Contender("Batch Bridgeout", ({"p": 0.1}, {"p": 0.03, "q": 1.5}, {"p": 0.01, "q": 1.0})),
    "targeted": Contender("Targeted Dropout", ({"p": 0.5, "strength": 0.25},), ({"p": 0.5, "strength": 0.5},)),
    "l0-gates": Contender("L0 gates", _strengths(2e-5, 6e-5)),
    "l1": Contender("L1", _strengths(3e-3, 1e-2)),
    "group-lasso": Contender("group lasso", _strengths(2e-3, 5e-3), _strengths(2e-2)),
    "sgl-l1": Contender("sparse group lasso", _strengths(1e-4), _strengths(3e-4)),
    "sgl-l0": Contender("sparse group l0", _strengths(1e-4), _strengths(3e-4)),
    "sgl-transformed-l1": Contender("sparse group transformed l1", _strengths(1e-4), _strengths(3e-4)),
    "sgl-l1-l2": Contender("sparse group l1 - l2", _strengths(1e-4), _strengths(3e-4)),
    "sgl-scad": Contender("sparse group SCAD", _strengths(1e-4, 3e-4)),
    "oicsr": Contender("OICSR", _strengths(1e-3, 5e-3)),
    "feature-flow": Contender("feature flow", _strengths(3e-4, 3e-3)),
}

# Rows of the arena that need no training of their own, or are no method.
EXTRA_LABELS = {
    "l1-norm": "weight decay, L1-norm pruning",
    "random": "weight decay, random pruning",
    "scratch": "small from scratch",
}

LABELS = {name: contender.label for name, contender in CONTENDERS.items()} | EXTRA_LABELS

SPLIT = {"sgl-" + kind.replace(" - ", " ").replace(" ", "-"): kind for kind in proximal.PENALTIES}


@dataclasses.dataclass(frozen=True)
class ArenaExperiment(ImageExperiment):
    """One run of the arena, fully described; of any network with BatchNorm.

    Attributes:
        method: one of ``CONTENDERS``, or "scratch": the network as it is with ``cut`` of every layer's filters missing,
            trained for as many epochs as the others are in training and fine-tuning.
        p, q: of noise on activations or weights. strength: of a penalty; of Targeted Dropout the targeted share.
        cut: share of the filters, for "scratch". seed: of initial weights, order of images, noise.
    """

    dataset: str = "cifar10"
    model: str = "vgg11"
    method: str = "none"
    p: float = 0.0
    q: float = 2.0
    strength: float = 0.0
    cut: float = 0.0
    width: float = 0.25
    train: int | None = 10000
    valid: int = 2000
    test: int | None = 5000
    recipe: Recipe = dataclasses.field(default_factory=lambda: Recipe(epochs=6))
    seed: int = 0

    PROTOCOL: ClassVar[int] = 1
    TAGS: ClassVar[dict[str, Any]] = {"study": "arena"}

    def __post_init__(self) -> None:
        self.check(needs=nn.BatchNorm2d)
        check_choice(self.method, (*CONTENDERS, "scratch"), "method")
        self._settle(p=check_probability(self.p), q=check_exponent(self.q))
        within = check_fraction if self.method == "targeted" else check_positive
        self._settle(strength=within(self.strength, "strength"), cut=check_positive(self.cut, "cut"))
        if (self.cut > 0) != (self.method == "scratch") or self.cut >= 1:
            raise ValueError(f"cut goes with method='scratch', 0 < cut < 1; got {self.method!r}, cut={self.cut:g}")

    def attach(self, model: nn.Module, example_input: Tensor) -> Regulariser | None:
        """Attach the method to a model; what the training loop has to call, if anything."""
        makers: dict[str, Callable[[], Any]] = {
            "dropout": lambda: attach_sparseout(model, self.p, 2.0, where=dropout_places(self.model)),
            "sparseout": lambda: attach_sparseout(model, self.p, self.q),
            "dropconnect": lambda: gates.attach_dropconnect(model, self.p),
            "bridgeout": lambda: attach_bridgeout(model, self.p, self.q),
            "targeted": lambda: gates.TargetedDropout(self.p, self.strength, "filters"),
            "l0-gates": lambda: gates.L0Gates(self.strength),
            "l1": lambda: penalties.L1(self.strength, proximal=True),
            "group-lasso": lambda: penalties.GroupLasso(self.strength, proximal=True),
            "oicsr": lambda: channels.OICSR(self.strength, example_input),
            "feature-flow": lambda: paths.FeatureFlow(self.strength, self.strength),
        }
        for name, kind in SPLIT.items():
            makers[name] = functools.partial(penalties.SparseGroupLasso, self.strength, kind, **SPLITTING)
        made = makers[self.method]() if self.method in makers else None
        if not isinstance(made, Regulariser):
            return None  # what there is, is in the model
        if hasattr(made, "attach"):
            made.attach(model)
        return made

    def measure(self, images: Images, run: Run) -> dict[str, Any]:
        """Train the contender; choose its ranking on the validation images.

        Returns:
            history; valid_accuracy and test_accuracy (%) of the trained network as it is; zeros, the shares of weights
            and of filters that are exactly 0; ranking, the one of ``RANKINGS`` that the validation images prefer;
            points: for each ranking amount, macs, parameters and, by treatment, valid and test accuracies (test only
            for the preferred one and the controls). In the provenance latency, the milliseconds of a batch of 128 at
            each amount of the preferred ranking.
        """
        example = images.normalize(images.train.x[:1])
        model = self.build(images)
        if self.cut:
            model = remove_filters(model, self.cut, example.cpu())
        model.to(run.device)
        recipe = self.recipe
        if self.method == "scratch":
            recipe = dataclasses.replace(recipe, epochs=recipe.epochs + FINE_TUNING.epochs)
        rival = self.attach(model, example)
        history = run.train(fit, model, images, recipe, seed=self.seed, regulariser=rival)
        detach_bridgeout(detach_sparseout(finish(model, rival)))
        points, ranking = measure_points(model, images, self, history.precision)
        run.origin["latency"] = _latency(model, images, self, ranking)
        measured = accuracies(model, images, history.precision)
        return {
            "history": columns(history, "train_loss", "train_accuracy", "valid_loss", "valid_accuracy"),
            **{name: measured[name] for name in ("valid_accuracy", "test_accuracy")},
            "zeros": exact_zeros(model),
            "ranking": ranking,
            "points": points,
        }


def exact_zeros(model: nn.Module) -> dict[str, float]:
    """Shares of the weights of all convolutions that are exactly 0, and of the filters all of whose weights are."""
    filters = [conv.weight.detach().flatten(1) for conv in model.modules() if isinstance(conv, nn.Conv2d)]
    zeros = {"weights": [f.flatten() == 0 for f in filters], "filters": [(f == 0).all(1) for f in filters]}
    return {name: torch.cat(found).float().mean().item() for name, found in zeros.items()}


def smaller(model: nn.Module, amount: float, example_input: Tensor, ranking: str, seed: int = 0) -> nn.Module:
    """A copy of the model without the channels that a ranking puts last; as many multiply-adds stay, at most, as
    without ``amount`` of every layer's filters.

    Args:
        ranking: "layer" (L2 norm) or "l1", the smallest filters of each layer; "random" ones, picked by ``seed``;
            "network", the channels of the lowest group energy anywhere.

    Raises:
        ValueError: another ranking; otherwise as :func:`bridgeout_lite.pruning.remove_filters` and
            :func:`bridgeout_lite.rivals.channels.prune_to_budget`.
    """
    check_choice(ranking, (*RANKINGS, *CONTROLS), "ranking")
    if not amount:
        return copy.deepcopy(model)
    criterion, draws = ranking if ranking in CONTROLS else "l2", torch.Generator().manual_seed(seed)
    even = remove_filters(model, amount, example_input, criterion=criterion, generator=draws)
    if ranking != "network":
        return even
    budget = count(even, example_input)[1] / count(model, example_input)[1]
    return prune_to_budget(model, budget, example_input, cap=CAP)


def measure_points(
    model: nn.Module, images: Images, experiment: ArenaExperiment, precision: str
) -> tuple[dict[str, Any], str]:
    """points and ranking of :meth:`ArenaExperiment.measure`."""
    example = images.normalize(images.train.x[:1])
    if experiment.method == "scratch":  # it is an operating point of its own
        accuracies = {split: _accuracies([model], images, split, precision) for split in ("valid", "test")}
        return {"layer": _sizes([model], [experiment.cut], example) | {TREATMENTS[1]: accuracies}}, "layer"
    points: dict[str, Any] = {}
    networks: dict[str, list[nn.Module]] = {}
    seed = experiment.seed
    controls = CONTROLS if experiment.method == "none" else ()
    for ranking in (*RANKINGS, *controls):
        networks[ranking] = [smaller(model, amount, example, ranking, seed) for amount in AMOUNTS]
        for network in networks[ranking]:
            recalibrate_batchnorm(network, images, BATCHES, seed=seed)
        points[ranking] = _sizes(networks[ranking], AMOUNTS, example)
        points[ranking][TREATMENTS[0]] = {"valid": _accuracies(networks[ranking], images, "valid", precision)}
    best = max(RANKINGS, key=lambda r: sum(points[r][TREATMENTS[0]]["valid"][1:]))
    for ranking in (best, *controls):
        points[ranking][TREATMENTS[0]]["test"] = _accuracies(networks[ranking], images, "test", precision)
        for network in networks[ranking][1:]:
            fit(network, images, FINE_TUNING, seed=seed, device=example.device, progress=False)
        points[ranking][TREATMENTS[1]] = {
            split: _accuracies(networks[ranking], images, split, precision) for split in ("valid", "test")
        }
    return points, best


def _sizes(networks: Iterable[nn.Module], amounts: Iterable[float], example_input: Tensor) -> dict[str, Any]:
    counts = [count(network, example_input) for network in networks]
    return {"amount": list(amounts), "parameters": [c[0] for c in counts], "macs": [c[1] for c in counts]}


def _accuracies(networks: Iterable[nn.Module], images: Images, split: str, precision: str) -> list[float]:
    return [evaluate(network, images, split, precision=precision)[1] for network in networks]


def _latency(model: nn.Module, images: Images, experiment: ArenaExperiment, ranking: str) -> list[float]:
    x = images.normalize(images.valid.x[:128])
    if experiment.method == "scratch":
        return latencies([model], x, rounds=5)
    networks = [smaller(model, amount, x[:1], ranking) for amount in AMOUNTS]
    return latencies(networks, x, rounds=5)


# The networks of the arena, with the number of training images that the budget allows.
NETWORKS: dict[str, dict[str, Any]] = {
    "vgg11": {"model": "vgg11", "width": 0.25, "train": 10000},
    "resnet14": {"model": "resnet14", "width": 0.5, "train": 6000},
}


def search(network: str) -> list[ArenaExperiment]:
    """Every strength of every contender on one of ``NETWORKS``, with seed 0; on the second without the harsh ones."""
    check_choice(network, tuple(NETWORKS), "network")
    first = network == next(iter(NETWORKS))
    return [
        ArenaExperiment(method=method, **strength, **NETWORKS[network])
        for method, contender in CONTENDERS.items()
        for strength in (*contender.strengths, *(contender.harsh if first else ()))
    ]


# The strength of each contender, by its place in ``CONTENDERS``, that :func:`choose_strengths` finds on the search's
# records; where a network or contender is missing, the first.
CHOSEN: dict[str, dict[str, int]] = {
    "vgg11": {"dropout": 1, "sparseout": 1, "bridgeout": 2, "sgl-scad": 1, "oicsr": 1},
    "resnet14": {"dropout": 1, "sparseout": 1, "l1": 1, "sgl-scad": 1, "oicsr": 1},
}


def repeats(network: str) -> list[ArenaExperiment]:
    """The chosen strengths of one of ``NETWORKS`` with two more seeds, and small networks from scratch with three."""
    check_choice(network, tuple(NETWORKS), "network")
    common, chosen = NETWORKS[network], CHOSEN.get(network, {})
    scratch = [ArenaExperiment(method="scratch", cut=a, seed=s, **common) for s in range(3) for a in AMOUNTS if a]
    return [
        ArenaExperiment(method=method, seed=seed, **contender.strengths[chosen.get(method, 0)], **common)
        for seed in (1, 2)
        for method, contender in CONTENDERS.items()
    ] + scratch


def arena_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run, treatment, split and operating point: network, method, label, setting (its strength in words),
    seed, ranking, treatment (of ``TREATMENTS``), split, amount, accuracy (%), parameters, macs, latency_ms (nan for
    controls on the plain network, of which it was not measured) and latency_share, over that of the same run's whole
    network; for the controls, which are of even shape, the median of all runs of that shape.

    Pruning by L1 norm and at random, measured on networks trained without a method, are methods "l1-norm" and "random".
    Records of other studies, and runs that diverged, are passed over."""
    rows = []
    for record in runs_of(records, study="arena"):
        spec, metrics = record.spec, record.metrics
        names = {metrics["ranking"]: spec["method"], "l1": "l1-norm", "random": "random"}
        for ranking, points in metrics["points"].items():
            if ranking not in names:
                continue
            row = {"network": spec["model"], "method": names[ranking], "label": LABELS[names[ranking]]}
            row |= {"setting": setting(spec), "seed": spec["seed"], "ranking": ranking}
            own = ranking == metrics["ranking"]
            for treatment in [t for t in TREATMENTS if t in points]:
                for split, values in points[treatment].items():
                    for k, accuracy in enumerate(values):
                        sizes = {name: points[name][k] for name in ("amount", "parameters", "macs")}
                        latency = record.provenance["latency"][k] if own else float("nan")
                        more = {"treatment": treatment, "split": split, "accuracy": accuracy, "latency_ms": latency}
                        rows.append(row | sizes | more)
    frame = pd.DataFrame(rows)
    return frame if frame.empty else frame.assign(latency_share=_latency_shares(frame))


def _latency_shares(frame: pd.DataFrame) -> pd.Series:
    run = ["network", "method", "setting", "seed", "treatment", "split"]
    whole = frame[frame["amount"] == 0].set_index(run)["latency_ms"]
    own = frame["latency_ms"] / frame.join(whole.rename("whole"), on=run)["whole"]
    place = ["network", "amount"]
    even = own[frame["ranking"] == "layer"].groupby([frame[name] for name in place]).median()
    return own.fillna(frame.join(even.rename("even"), on=place)["even"])


def setting(spec: Mapping[str, Any]) -> str:
    """A contender's strength in a few characters, such as "p=0.03, q=1.5"; "-" if it has none."""
    words = [f"p={spec['p']:g}"] * bool(spec["p"])
    words += [f"q={spec['q']:g}"] * (spec["method"] in ("sparseout", "bridgeout"))
    name = "targeted share" if spec["method"] == "targeted" else "strength"
    words += [f"{name}={spec['strength']:g}"] * bool(spec["strength"])
    words += [f"{100 * spec['cut']:g} % left out"] * bool(spec["cut"])
    return ", ".join(words) or "-"


def choose_strengths(frame: pd.DataFrame, network: str) -> dict[str, str]:
    """For each contender the setting with the highest *validation* accuracy with the search's seed 0, averaged over
    both treatments and all operating points but the first, on which nothing is removed.

    Raises:
        ValueError: the frame has no such network.
    """
    known = [] if frame.empty else sorted(frame["network"].unique())
    if network not in known:
        raise ValueError(f"no run of the arena on {network!r}; there are {known}")
    rows = frame[frame["network"] == network]
    rows = rows[(rows["split"] == "valid") & (rows["amount"] > 0) & (rows["seed"] == 0) & (rows["method"] != "scratch")]
    table = rows.groupby(["method", "setting"], sort=False)["accuracy"].mean().reset_index()
    best = table.sort_values("accuracy", kind="stable").groupby("method").last()
    return {str(method): str(name) for method, name in best["setting"].items()}


def final(frame: pd.DataFrame, network: str) -> pd.DataFrame:
    """The test rows of one network: each contender at its chosen strength, and the controls.

    Raises:
        ValueError: as :func:`choose_strengths`.
    """
    best = choose_strengths(frame, network)
    rows = frame[(frame["network"] == network) & (frame["split"] == "test")]
    return rows[(rows["method"] == "scratch") | (rows["method"].map(best) == rows["setting"])]


def complete(frame: pd.DataFrame, network: str, seeds: int = 3) -> bool:
    """Whether every contender, at its chosen strength, and every control has at least ``seeds`` seeds on a network."""
    if frame.empty or network not in set(frame["network"]):
        return False
    counts = final(frame, network).groupby("method")["seed"].nunique()
    return bool((counts.reindex(list(LABELS), fill_value=0) >= seeds).all())


def standings(records: Iterable[Record], seeds: int = 3) -> pd.DataFrame:
    """What the arena ends with: :func:`final` of every network that is :func:`complete`, one after the other."""
    frame = arena_frame(records)
    parts = [final(frame, name) for name in NETWORKS if complete(frame, name, seeds)]
    return pd.concat(parts) if parts else frame.iloc[:0]


def arena_runs() -> list[ArenaExperiment]:
    """Chapter 11: on each of the arena's networks every contender at every strength with one seed, then at the chosen
    one with two more, and the controls trained from scratch."""
    return [e for network in NETWORKS for e in (*search(network), *repeats(network))]
