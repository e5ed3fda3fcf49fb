r"""Evolutionary synthesis: networks that shrink from generation to generation, by draws from what their parents weigh.

A trained parent says how likely each of its parts is to be in its offspring; an *environmental factor* F makes all of
them less likely; the offspring is drawn, trained, and becomes the next parent. With *stress* the parts that may be
missing in the offspring are weakened at random while the parent is still in training.

=================== ==================================================================================================
weight              survives with probability :math:`F\,e^{|w|/Z-1}`, Z the largest magnitude of its layer
filter              with :math:`F\,e^{s/S-1}`, s the *mean* truncated magnitude of its weights, S the largest such mean
                    of the layer. Truncated: magnitudes below a tenth of Z count as zero.
channel group       filters that additions tie together survive together; their s/S is the mean over the layers
stress              :math:`w(1 - s\,m)` in training, see :class:`bridgeout_lite.structured.Stress`
=================== ==================================================================================================

This is a reconstruction. As we recall the published rule, the exponent of a filter is :math:`\sum_k
\mathrm{trunc}(w_k)/Z - 1`, a sum of up to thousands of terms of which each may be 1: no probability. Mean for sum and
division by the largest mean of the layer make it one. F, the truncation and all of the stress are our choice.

Sources: Shafiee et al. 2019, arXiv:1801.05387 (stress); Shafiee, Mishra and Wong 2016, arXiv:1606.04393 (synthesis).
"""

import dataclasses
import functools
import hashlib
import numbers
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as masks

from .cost import count
from .data import IMAGE_SETS, Images, data_folder, load_images
from .models import MODELS, build_model
from .noise import check_choice, check_fraction
from .pruning import (
    GRANULARITIES,
    ChannelGroup,
    black_image,
    channel_groups,
    check_model,
    plain_copy,
    recalibrate_batchnorm,
    remove_channels,
)
from .records import Record, provenance, rounded
from .sparsity import filter_norms
from .structured import LAWS, Stress, survival, synapse_probability
from .training import Recipe, evaluate, fit, pick_device

# Magnitudes below this share of the layer's largest do not count for their filter.
TRUNCATION = 0.1

CONTROLS = ("whole", "gradual", "magnitude", "random", "scratch")

# A student's filter is one of the teacher's from this cosine on.
ALIKE = 0.9


def cluster_probability(w: Tensor, *, truncation: float = TRUNCATION, law: str = "exp") -> Tensor:
    r"""How likely each filter is to be synthesised, before the environmental factor: the law of
    :func:`bridgeout_lite.structured.survival` at :math:`s_c/\max_c s_c`, with

    .. math:: s_c = \operatorname{mean}_k\; |w_{ck}|\,[\,|w_{ck}| \ge tZ\,], \qquad Z = \max_{ck}|w_{ck}| .

    Args:
        w: weights of one layer, (filters, ...). truncation: t, 0 <= t <= 1. law: "exp" or "rescaled".

    Returns:
        (filters,), float64. The strongest filter has probability 1.

    Raises:
        ValueError: truncation outside [0, 1]; otherwise as :func:`bridgeout_lite.structured.synapse_probability`.
    """
    return survival(_strength(w, check_fraction(truncation, "truncation")), law)


def _strength(w: Tensor, truncation: float) -> Tensor:
    """s_c over its largest value, (filters,); zeros if all weights are."""
    synapse_probability(w)  # checks the weights
    size = w.detach().cpu().double().abs().flatten(1)
    mean = (size * (size >= truncation * size.amax())).mean(1)
    return mean / mean.amax().clamp_min(torch.finfo(mean.dtype).tiny)


def stress_moments(w: Tensor, strength: float, law: str = "exp") -> tuple[Tensor, Tensor]:
    r"""Mean :math:`w(1-s(1-P))` and variance :math:`s^2w^2P(1-P)` of a weight under stress, each like ``w``.

    Raises:
        ValueError: as :func:`bridgeout_lite.structured.stressed`.
    """
    s, kept = check_fraction(strength, "strength"), synapse_probability(w, law)
    return w * (1 - s * (1 - kept)), (s * w).square() * kept * (1 - kept)


def survivors(
    parent: nn.Module,
    factor: float,
    generator: torch.Generator | None = None,
    *,
    example_input: Tensor | None = None,
    truncation: float = TRUNCATION,
    law: str = "exp",
) -> dict[str, Tensor]:
    """Draw which channels of each group an offspring has: {root: truth values (channels,)}, the roots as in
    :func:`bridgeout_lite.pruning.channel_groups`. Each channel survives on its own, with its probability times
    ``factor``; of a group that would die out the likeliest stays.

    Arguments and errors as for :func:`synthesize`.
    """
    factor, truncation = _check_factor(factor), check_fraction(truncation, "truncation")
    check_model(parent)
    plain, kept = plain_copy(parent), {}
    for group in channel_groups(plain, example_input):
        chance = survival(_over_writers(plain, group, lambda w: _strength(w, truncation)), law)
        drawn = torch.rand(group.size, generator=generator, dtype=torch.float64) < factor * chance
        if not drawn.any():
            drawn[chance.argmax()] = True
        kept[group.root] = drawn
    return kept


def synthesize(
    parent: nn.Module,
    factor: float,
    generator: torch.Generator | None = None,
    granularity: str = "filter",
    *,
    example_input: Tensor | None = None,
    truncation: float = TRUNCATION,
    law: str = "exp",
) -> nn.Module:
    """An offspring: the parent's weights, less what was not drawn. ``parent`` is left as it is.

    Args:
        parent: any module with convolutions; masks that it carries hold in the offspring too.
        factor: F, the environmental factor, 0 < F <= 1.
        generator: of the draws, on the CPU; None is torch's global one.
        granularity: "filter": a smaller network, by :func:`bridgeout_lite.pruning.remove_channels`. "weight": a copy
            whose missing weights are masked, as by :func:`bridgeout_lite.pruning.prune`; a convolution keeps one.
        example_input: a batch as the model takes it; None is one black image of 32x32 with the channels of the first
            convolution. Only filters ask for it.
        truncation, law: see :func:`cluster_probability`; weights have no truncation.

    Raises:
        ValueError: factor outside (0, 1]; a bad truncation, law or granularity; a model without convolutions, under
            noise or stress (detach it first), with weights that are not finite; with filters also as
            :func:`bridgeout_lite.pruning.remove_channels`.
    """
    factor = _check_factor(factor)
    check_choice(granularity, GRANULARITIES, "granularity")
    if granularity == "filter":
        check_model(parent)
        example_input = black_image(parent) if example_input is None else example_input
        kept = survivors(parent, factor, generator, example_input=example_input, truncation=truncation, law=law)
        return remove_channels(parent, {k: (~v).nonzero().flatten().tolist() for k, v in kept.items()}, example_input)
    check_choice(law, LAWS, "law")
    check_model(parent)
    child = plain_copy(parent)
    for conv in [m for m in child.modules() if isinstance(m, nn.Conv2d)]:
        chance = synapse_probability(conv.weight, law).cpu()
        drawn = torch.rand(chance.shape, generator=generator) < factor * chance
        drawn &= (conv.weight != 0).cpu()  # what is gone stays gone
        drawn.view(-1)[chance.argmax()] = True
        masks.custom_from_mask(conv, "weight", drawn.to(conv.weight.device))
    return child


def cut(
    model: nn.Module,
    sizes: Mapping[str, int],
    by: str,
    example_input: Tensor,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A network of given widths cut from ``model``, which is left as it is: the controls of an evolution.

    Args:
        sizes: how many channels stay, by root. by: "magnitude" keeps those of the largest L2 norm (of tied filters the
            root mean square), "random" any.
        example_input, generator: as for :func:`synthesize`.

    Raises:
        ValueError: another ``by``; sizes below 1 or above what there is; otherwise as
            :func:`bridgeout_lite.pruning.remove_channels`.
    """
    check_choice(by, ("magnitude", "random"), "by")
    check_model(model)
    plain, picks = plain_copy(model), {}
    for group in channel_groups(plain, example_input):
        keep = sizes.get(group.root, group.size)
        if not 1 <= keep <= group.size:
            raise ValueError(
                f"{group.root!r} has {group.size} channels, of which 1 to {group.size} can stay; got {keep}"
            )
        if by == "random":
            score = torch.rand(group.size, generator=generator)
        else:
            score = _over_writers(plain, group, lambda w: filter_norms(w.detach().cpu().double()).square())
        picks[group.root] = score.argsort(stable=True)[: group.size - keep].tolist()
    return remove_channels(plain, picks, example_input)


def _over_writers(model: nn.Module, group: ChannelGroup, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean over the layers that make the channels of ``of(weight)``, one number a filter: (channels,), float64."""
    total = torch.zeros(group.size, dtype=torch.float64)
    members = torch.zeros_like(total)
    for member in group.members:
        if member.writes:
            values = of(model.get_parameter(f"{member.layer}.weight"))
            total[member.channels] += values[member.places]
            members[member.channels] += 1
    return total / members


def _check_factor(factor: Any) -> float:
    if isinstance(factor, bool) or not isinstance(factor, numbers.Real) or not 0 < float(factor) <= 1:
        raise ValueError(
            f"factor must be a number with 0 < factor <= 1 (how well the environment feeds), got {factor!r}"
        )
    return float(factor)


# --- generations on images --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Generation:
    """One trained network of a lineage or of its controls.

    Attributes:
        generation: 0 for the first network.
        parameters, macs: its size; multiply-adds an image.
        valid_accuracy, test_accuracy: in %, with BatchNorm re-estimated after training.
        stale_accuracy: validation accuracy before that, with the statistics that training left, in %.
    """

    generation: int
    parameters: int
    macs: int
    valid_accuracy: float
    test_accuracy: float
    stale_accuracy: float


@dataclasses.dataclass(frozen=True)
class EvolutionExperiment:
    """One lineage of networks, fully described, and the networks that it is compared with.

    Attributes:
        dataset, train, valid, test: as for :func:`bridgeout_lite.load_images`, but "auto".
        model, width: of generation 0, as for :func:`bridgeout_lite.build_model`.
        generations: of offspring, >= 1. factor, law: as for :func:`synthesize`, by filters.
        stress: strength of the stress on every convolution in all trainings; 0 is none.
        inherit: offspring begin with the parent's weights that survive; else with new ones.
        controls: networks to train beside the lineage, of ``CONTROLS``, all without stress and for as many epochs in
            sum. "whole": generation 0, trained on. "magnitude", "random": the first network, cut at once to the widths
            of the last offspring, trained on. "gradual": cut by magnitude to the widths of each generation in turn.
            "scratch": those last widths with new weights.
        recipe: of the training of each generation. seed: of everything drawn.
    """

    dataset: str = "cifar10"
    model: str = "vgg11"
    width: float = 0.25
    generations: int = 4
    factor: float = 0.9
    law: str = "exp"
    stress: float = 0.0
    inherit: bool = True
    controls: tuple[str, ...] = ()
    train: int | None = None
    valid: int = 1000
    test: int | None = None
    recipe: Recipe = dataclasses.field(default_factory=lambda: Recipe(epochs=3, batch_size=64))
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.dataset, IMAGE_SETS[1:], "dataset")  # not "auto": a spec names its data
        check_choice(self.model, tuple(MODELS), "model")
        check_choice(self.law, LAWS, "law")
        for control in self.controls:
            check_choice(control, CONTROLS, "controls")
        if isinstance(self.generations, bool) or not isinstance(self.generations, int) or self.generations < 1:
            raise ValueError(f"generations must be a whole number >= 1, got {self.generations!r}")
        object.__setattr__(self, "factor", _check_factor(self.factor))
        object.__setattr__(self, "stress", check_fraction(self.stress, "stress"))
        object.__setattr__(self, "width", float(self.width))
        object.__setattr__(self, "controls", tuple(self.controls))

    @property
    def spec(self) -> dict[str, Any]:
        """The experiment as JSON values: what a record is found by."""
        spec = {"task": "evolution", "method": "evolution", **dataclasses.asdict(self)}
        spec["recipe"]["milestones"] = list(self.recipe.milestones)
        return spec | {"controls": list(self.controls)}

    def run(self, **options: Any) -> Record:
        """:func:`run_evolution` on this experiment's data, which a process keeps until it needs other data."""
        return run_evolution(self, _images(self.dataset, self.train, self.valid, self.test, data_folder()), **options)


@functools.lru_cache(maxsize=1)
def _images(dataset: str, train: int | None, valid: int, test: int | None, root: Path) -> Images:
    return load_images(dataset, root, train=train, valid=valid, test=test)


def run_evolution(
    experiment: EvolutionExperiment,
    images: Images | None = None,
    *,
    device: str | torch.device = "auto",
    checkpoint: str | Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Record:
    """Train a lineage and its controls. No choice is made on the test split, on which each network is measured once.

    Args:
        experiment: what to run. images: already loaded data of that name; None loads it.
        device, progress, on_epoch: as for :func:`bridgeout_lite.fit`.
        checkpoint: each training keeps a checkpoint of its own beside this file, named after it, until all is done.

    Returns:
        A :class:`~bridgeout_lite.Record` with the metrics generations, a list of :class:`Generation` as dictionaries;
        controls, one such dictionary each by name ("gradual" has its last); widths, the channels of the last offspring
        by root; and valid_accuracy and test_accuracy of the last offspring.
    """
    where = pick_device(device)
    if images is None:
        images = load_images(experiment.dataset, train=experiment.train, valid=experiment.valid, test=experiment.test)
    if images.name != experiment.dataset:
        raise ValueError(f"the experiment asks for {experiment.dataset!r} but the images given are {images.name!r}")
    images = images.to(where)
    started, origin = time.perf_counter(), provenance(where, images.name, images.checksum)
    example = images.normalize(images.train.x[:1])
    recipe, last, precision = experiment.recipe, experiment.generations, ""
    files: list[Path] = []

    def seed(phase: str) -> int:
        return _seed(experiment.seed, phase)

    def new(phase: str) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed(f"weights {phase}"))
            return build_model(experiment.model, width=experiment.width, num_classes=images.num_classes).to(where)

    def trained(model: nn.Module, phase: str, generation: int, epochs: int, stress: float = 0.0) -> Generation:
        nonlocal precision
        if checkpoint is not None:
            files.append(Path(checkpoint).with_name(f"{Path(checkpoint).stem}-{phase}.pt"))
        method = Stress(stress, experiment.law)
        if stress:
            method.attach(model)
        history = fit(
            model,
            images,
            dataclasses.replace(recipe, epochs=epochs),
            seed=seed(phase),
            device=where,
            checkpoint=files[-1] if files else None,
            progress=progress,
            on_epoch=on_epoch,
        )
        if stress:
            method.detach(model)
        precision = history.precision
        if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
            recalibrate_batchnorm(model, images, batch_size=recipe.batch_size, flip=recipe.flip, crop=recipe.crop)
        valid, test = (evaluate(model, images, split, precision=precision)[1] for split in ("valid", "test"))
        return Generation(generation, *count(model, example), valid, test, history.last_row["valid_accuracy"])

    model = new("0")
    rows = [trained(model, "0", 0, recipe.epochs, experiment.stress)]
    first, widths = plain_copy(model), []
    for generation in range(1, last + 1):
        draws = torch.Generator().manual_seed(seed(f"synthesis {generation}"))
        model = synthesize(model, experiment.factor, draws, example_input=example, law=experiment.law)
        widths.append({group.root: group.size for group in channel_groups(model, example)})
        if not experiment.inherit:
            model = cut(new(str(generation)), widths[-1], "random", example, draws)
        rows.append(trained(model, str(generation), generation, recipe.epochs, experiment.stress))

    controls = {}
    for name in experiment.controls:
        draws, epochs = torch.Generator().manual_seed(seed(name)), last * recipe.epochs
        if name == "gradual":
            model = first
            for generation, sizes in enumerate(widths, 1):
                model = cut(model, sizes, "magnitude", example)
                row = trained(model, f"{name}-{generation}", generation, recipe.epochs)
        elif name == "whole":
            row = trained(plain_copy(first), name, last, epochs)
        elif name == "scratch":
            row = trained(cut(new(name), widths[-1], "random", example, draws), name, last, epochs + recipe.epochs)
        else:
            row = trained(cut(first, widths[-1], name, example, draws), name, last, epochs)
        controls[name] = dataclasses.asdict(row)
    metrics = {
        "generations": [dataclasses.asdict(row) for row in rows],
        "controls": controls,
        "widths": widths[-1],
        "valid_accuracy": rows[-1].valid_accuracy,
        "test_accuracy": rows[-1].test_accuracy,
    }
    origin |= {"precision": precision, "seconds": time.perf_counter() - started}
    for file in files:
        file.unlink(missing_ok=True)
    return Record(experiment.spec, rounded(metrics), rounded(origin))


def _seed(seed: int, phase: str) -> int:
    """A seed for one part of one run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{phase}".encode()).digest()[:6], "little")


# --- a task whose truth is known --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TeacherExperiment:
    r"""A lineage of students of a teacher with few hidden units, and its controls: are the needed units kept?

    The teacher is :math:`y = \sum_{k=1}^{K}\max(0, u_k^\top x)` with orthonormal :math:`u_k` and x standard normal. The
    student has many such units with weights of its own, each as one filter of a 1x1 convolution, and no BatchNorm. A
    unit of the student is *needed* if the cosine of its weights with some :math:`u_k` is at least ``ALIKE``.

    Attributes:
        inputs: length of x. teacher, students: hidden units of the two; teacher <= inputs.
        generations, factor: as in :class:`EvolutionExperiment`. stress: of the lineage "stress", but in its last
            generation, which without BatchNorm could not make up for weights that are larger in evaluation.
        samples: training examples, and as many for the test. steps: of the first training; later ones take a third.
        decay: of the squared weights in the loss, which lets units die that nobody reads.
        seed: of everything drawn.
    """

    inputs: int = 16
    teacher: int = 4
    students: int = 32
    generations: int = 3
    factor: float = 0.9
    stress: float = 0.5
    samples: int = 2000
    steps: int = 600
    decay: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("inputs", "teacher", "students", "generations", "samples", "steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
        if self.teacher > self.inputs:
            raise ValueError(
                f"teacher must be at most inputs={self.inputs}, as its units are orthogonal; got {self.teacher}"
            )
        object.__setattr__(self, "factor", _check_factor(self.factor))
        object.__setattr__(self, "stress", check_fraction(self.stress, "stress"))
        object.__setattr__(self, "decay", float(self.decay))

    @property
    def spec(self) -> dict[str, Any]:
        """The experiment as JSON values: what a record is found by."""
        task = {"task": "teacher", "dataset": "teacher", "model": "student", "method": "evolution"}
        return task | dataclasses.asdict(self)

    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """(units, x, y): the teacher's units (teacher, inputs); inputs and targets of training, then of test."""
        draws = torch.Generator().manual_seed(_seed(self.seed, "data"))
        units = torch.linalg.qr(torch.randn(self.inputs, self.inputs, generator=draws))[0].T[: self.teacher]
        x = torch.randn(2 * self.samples, self.inputs, 1, 1, generator=draws)
        return units, x, F.relu(x.flatten(1) @ units.T).sum(1)

    def student(self, phase: str = "first") -> nn.Sequential:
        """A student with new weights."""
        with torch.random.fork_rng([]):
            torch.manual_seed(_seed(self.seed, f"weights {phase}"))
            conv = nn.Conv2d(self.inputs, self.students, 1, bias=False)
            return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(self.students, 1))

    def train(self, model: nn.Module, phase: str, steps: int, stress: float = 0.0) -> nn.Module:
        """Train a student by AdamW in batches of 100. Changes ``model`` and returns it."""
        _, x, y = self.data()
        if stress:
            Stress(stress).attach(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with torch.random.fork_rng([]):
            torch.manual_seed(_seed(self.seed, phase))
            for _ in range(steps):
                batch = torch.randint(self.samples, (100,))
                decay = sum(p.square().sum() for p in model.parameters())
                loss = F.mse_loss(model(x[batch]).squeeze(1), y[batch]) + self.decay * decay
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
        return Stress(stress).detach(model) if stress else model

    def run(self, **options: Any) -> Record:
        """Run the lineages and controls, on the CPU; no option changes anything.

        Returns:
            A :class:`~bridgeout_lite.Record` with the metrics arms: {name: units, covered (share of the teacher's units
            to which a unit of the student is alike), error (test error over the variance of y)} of "parent", the
            lineages "evolution" and "stress", and the controls "gradual", "magnitude", "random" and
            "scratch" at the sizes of "evolution"; and selection: {rule: [chance of a needed unit of the parent to be
            kept, of another one]}, the rule "magnitude" keeping as many as "exp" does on average. None if all are
            needed, or none.
        """
        started, origin = time.perf_counter(), provenance("cpu", "teacher", "")
        image, later = torch.zeros(1, self.inputs, 1, 1), max(1, self.steps // 3)
        parent = self.train(self.student(), "first", self.steps)
        arms, sizes = {"parent": self.measured(parent)}, []
        for name, stress in (("evolution", 0.0), ("stress", self.stress)):
            model = self.train(self.student(), "first", self.steps, stress) if stress else parent
            for generation in range(1, self.generations + 1):
                draws = torch.Generator().manual_seed(_seed(self.seed, f"synthesis {generation}"))
                model = synthesize(model, self.factor, draws, example_input=image)
                if name == "evolution":
                    sizes.append({"0": count(model, image)[0] // (self.inputs + 1)})
                more = stress if generation < self.generations else 0.0
                model = self.train(model, f"{name} {generation}", later, more)
            arms[name] = self.measured(model)
        model = parent
        for generation, widths in enumerate(sizes, 1):
            model = self.train(cut(model, widths, "magnitude", image), f"gradual {generation}", later)
        arms["gradual"] = self.measured(model)
        draws, steps = torch.Generator().manual_seed(_seed(self.seed, "controls")), self.generations * later
        for name in ("magnitude", "random"):
            arms[name] = self.measured(self.train(cut(parent, sizes[-1], name, image, draws), name, steps))
        model = cut(self.student("scratch"), sizes[-1], "random", image, draws)
        arms["scratch"] = self.measured(self.train(model, "scratch", self.steps + steps))
        metrics = {"arms": arms, "selection": self.selection(parent)}
        return Record(self.spec, rounded(metrics), rounded(origin | {"seconds": time.perf_counter() - started}))

    def likeness(self, model: nn.Module) -> Tensor:
        """Cosine of the weights of each unit of a student with each of the teacher's, (units, teacher)."""
        weights = F.normalize(model.get_parameter("0.weight").detach().flatten(1), dim=1)
        return weights @ self.data()[0].T

    @torch.no_grad()
    def measured(self, model: nn.Module) -> dict[str, float]:
        """units, covered and error of a student; see :meth:`run`."""
        _, x, y = self.data()
        x, y = x[self.samples :], y[self.samples :]
        alike = self.likeness(model)
        error = F.mse_loss(model(x).squeeze(1), y) / y.var()
        return {"units": len(alike), "covered": (alike >= ALIKE).any(0).double().mean().item(), "error": error.item()}

    def selection(self, parent: nn.Module) -> dict[str, list[float]] | None:
        """See :meth:`run`."""
        needed = (self.likeness(parent) >= ALIKE).any(1)
        if needed.all() or not needed.any():
            return None
        w = parent.get_parameter("0.weight")
        chance = {law: self.factor * cluster_probability(w, law=law) for law in LAWS}
        order = filter_norms(w.detach().double()).argsort(descending=True)
        chance["magnitude"] = torch.zeros(len(w), dtype=torch.float64)
        chance["magnitude"][order[: round(chance["exp"].sum().item())]] = 1
        return {rule: [c[needed].mean().item(), c[~needed].mean().item()] for rule, c in chance.items()}


def lineages() -> list[EvolutionExperiment | TeacherExperiment]:
    """Chapter 13's runs. Six teachers; then a VGG-11 of an eighth of the channels (0.15 M parameters) and four
    generations of offspring, three epochs each, without stress and with controls, and under stress 0.5: on digits at
    F = 0.7 with five seeds, on 2,000 images of CIFAR-10 at F = 0.9 with three."""
    gentle = Recipe(epochs=3, batch_size=64, flip=False, crop=2)
    settings: dict[int, dict[str, Any]] = {
        5: {"dataset": "digits", "width": 0.125, "factor": 0.7, "recipe": gentle},
        3: {"dataset": "cifar10", "width": 0.125, "factor": 0.9, "train": 2000, "valid": 500, "test": 1000},
    }
    experiments: list[EvolutionExperiment | TeacherExperiment] = [TeacherExperiment(seed=seed) for seed in range(6)]
    for seeds, common in settings.items():
        for seed in range(seeds):
            experiments.append(EvolutionExperiment(controls=CONTROLS, seed=seed, **common))
            experiments.append(EvolutionExperiment(stress=0.5, seed=seed, **common))
    return experiments


# --- records as tables ------------------------------------------------------------------------------------------------


def lineages_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a run and trained network: dataset, factor, stress, inherit, seed, arm ("lineage" or the control), the
    fields of :class:`Generation`, and macs_share and parameters_share, its size over that of generation 0. Records of
    other kinds are passed over."""
    rows = []
    for record in records:
        spec, metrics = record.spec, record.metrics
        if spec.get("task") != "evolution" or "generations" not in metrics:
            continue
        run = {k: spec[k] for k in ("dataset", "factor", "stress", "inherit", "seed")}
        first = metrics["generations"][0]
        networks = [("lineage", row) for row in metrics["generations"]] + list(metrics["controls"].items())
        for arm, row in networks:
            shares = {f"{size}_share": row[size] / first[size] for size in ("macs", "parameters")}
            rows.append(run | {"arm": arm} | row | shares)
    return pd.DataFrame(rows)


def at_size(rows: pd.DataFrame, share: float, value: str = "test_accuracy", size: str = "macs") -> pd.DataFrame:
    """``value`` of each lineage among ``rows`` (of :func:`lineages_frame`) at a share of the first network's "macs" or
    "parameters": linear between generations over the logarithm of the size. One row a run: dataset, factor, stress,
    inherit, seed and ``value``, which is nan where no generation is so small."""
    run = ["dataset", "factor", "stress", "inherit", "seed"]
    found = []
    for key, part in rows[rows["arm"] == "lineage"].groupby(run):
        part = part.sort_values(f"{size}_share")
        at = np.interp(np.log(share), np.log(part[f"{size}_share"]), part[value], left=np.nan)
        found.append(dict(zip(run, key, strict=True)) | {value: float(at)})
    return pd.DataFrame(found, columns=[*run, value])


def teachers_frame(records: Iterable[Record]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of the runs of :class:`TeacherExperiment`, one row a run and arm: seed, arm, units, covered, error; and one row a
    run and rule: seed, rule, needed, other (chance of such a unit to be kept) and their difference, gap."""
    arms, selection = [], []
    for record in records:
        if record.spec.get("task") != "teacher" or "arms" not in record.metrics:
            continue
        seed = {"seed": record.spec["seed"]}
        arms += [seed | {"arm": name} | row for name, row in record.metrics["arms"].items()]
        for rule, (needed, other) in (record.metrics["selection"] or {}).items():
            selection.append(seed | {"rule": rule, "needed": needed, "other": other, "gap": needed - other})
    return pd.DataFrame(arms), pd.DataFrame(selection)
