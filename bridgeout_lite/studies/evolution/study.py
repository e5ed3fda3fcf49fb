"""Lineages of image networks and their controls, as recorded runs."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from ...channels import channel_groups, plain_copy
from ...checks import check_choice, check_fraction, check_whole
from ...cost import count
from ...data import Images
from ...models import build_model
from ...pruning import recalibrate_batchnorm
from ...rivals.gates import LAWS, Stress
from ...runs.records import Record
from ...training import Recipe, fit
from ..experiment import ImageExperiment, Run, accuracies, runs_of
from .synthesis import cut, derived_seed, synthesize
from .teacher import TeacherExperiment

CONTROLS = ("whole", "restarted", "gradual", "magnitude", "random", "scratch")


@dataclasses.dataclass(frozen=True)
class EvolutionExperiment(ImageExperiment):
    """One lineage of networks, fully described, and the networks that it is compared with.

    Attributes:
        model, width: of generation 0. generations: of offspring, >= 1.
        factor, law: as for :func:`synthesize`, by filters.
        stress: strength of the stress on every convolution in all trainings; 0 is none.
        inherit: offspring begin with the parent's weights that survive; else with new ones.
        controls: networks to train beside the lineage, of ``CONTROLS``, all without stress, each generation's for as
            many epochs in sum as the lineage until then. "restarted": generation 0, trained on in the lineage's
            schedule, a restart a generation; "whole": in one schedule, to the end alone. "magnitude", "random":
            generation 0 cut at once to the widths of a generation, trained on in one schedule. "scratch": those widths
            with new weights. "gradual": cut by magnitude to the widths of each generation in turn, in the lineage's
            schedule.
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

    PROTOCOL: ClassVar[int] = 1
    TAGS: ClassVar[dict[str, Any]] = {"task": "evolution", "method": "evolution"}

    def __post_init__(self) -> None:
        self.check()
        check_choice(self.law, LAWS, "law")
        for control in self.controls:
            check_choice(control, CONTROLS, "controls")
        check_whole(self.generations, "generations")
        self._settle(factor=check_fraction(self.factor, "factor", zero=False), controls=tuple(self.controls))
        self._settle(stress=check_fraction(self.stress, "stress"))

    def measure(self, images: Images, run: Run) -> dict[str, Any]:
        """Train the lineage and its controls. Each training keeps a checkpoint of its own, named after the run's, until
        all are done. No choice is made on the test split, on which each network is measured once.

        Returns:
            generations, one entry per trained network: generation (0 for the first), parameters, macs (multiply-adds
            per image), valid_accuracy and test_accuracy (%, with BatchNorm re-estimated after training) and
            stale_accuracy (on the validation images before that); controls, such a list per control; widths, the
            channels of the last offspring by root; valid_accuracy and test_accuracy of the last offspring.
        """
        example = images.normalize(images.train.x[:1])
        model = self._new("0", images, run)
        rows = [self._trained(model, "0", 0, images, run, stress=self.stress)]
        first, widths = plain_copy(model), []
        for generation in range(1, self.generations + 1):
            draws = self._draws(f"synthesis {generation}")
            model = synthesize(model, self.factor, draws, example_input=example, law=self.law)
            widths.append({group.root: group.size for group in channel_groups(model, example)})
            if not self.inherit:
                model = cut(self._new(str(generation), images, run), widths[-1], "random", example, draws)
            rows.append(self._trained(model, str(generation), generation, images, run, stress=self.stress))
        controls = {name: self._control(name, first, widths, images, run) for name in self.controls}
        phases = range(self.generations + 1)
        for phase in (*phases, *(f"{name}-{generation}" for name in controls for generation in phases)):
            if file := _beside(run.checkpoint, phase):
                file.unlink(missing_ok=True)
        last = {split: rows[-1][split] for split in ("valid_accuracy", "test_accuracy")}
        return {"generations": rows, "controls": controls, "widths": widths[-1]} | last

    def _control(
        self, name: str, first: nn.Module, widths: list[dict[str, int]], images: Images, run: Run
    ) -> list[dict[str, float]]:
        """The networks of one control: one per generation, of "whole" the last alone."""
        example = images.normalize(images.train.x[:1])
        draws, before = self._draws(name), plain_copy(first)
        found = []
        for generation, sizes in enumerate(widths, 1):
            epochs = generation * self.recipe.epochs  # what the lineage has had since generation 0
            if name == "whole":
                if generation < len(widths):
                    continue
                model = before
            elif name in ("restarted", "gradual"):  # trained on from generation to generation, as the lineage is
                model = before = before if name == "restarted" else cut(before, sizes, "magnitude", example)
                epochs = self.recipe.epochs
            elif name == "scratch":  # it lacks the training of generation 0
                model = cut(self._new(name, images, run), sizes, "random", example, draws)
                epochs += self.recipe.epochs
            else:
                model = cut(first, sizes, name, example, draws)
            found.append(self._trained(model, f"{name}-{generation}", generation, images, run, epochs=epochs))
        return found

    def _new(self, phase: str, images: Images, run: Run) -> nn.Module:
        seed = derived_seed(self.seed, f"weights {phase}")
        return build_model(self.model, width=self.width, num_classes=images.num_classes, seed=seed).to(run.device)

    def _draws(self, phase: str) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.seed, phase))

    def _trained(
        self,
        model: nn.Module,
        phase: str,
        generation: int,
        images: Images,
        run: Run,
        *,
        epochs: int | None = None,
        stress: float = 0.0,
    ) -> dict[str, float]:
        """Train ``model`` in place for ``epochs`` (default: the recipe's), re-estimate BatchNorm, and measure it."""
        recipe = self.recipe if epochs is None else dataclasses.replace(self.recipe, epochs=epochs)
        method = Stress(stress, self.law)
        if stress:
            method.attach(model)
        own: dict[str, Any] = {"seed": derived_seed(self.seed, phase), "checkpoint": _beside(run.checkpoint, phase)}
        history = run.train(fit, model, images, recipe, **own)
        if stress:
            method.detach(model)
        if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
            recalibrate_batchnorm(model, images, batch_size=recipe.batch_size, flip=bool(recipe.flip), crop=recipe.crop)
        parameters, macs = count(model, images.normalize(images.train.x[:1]))
        measured = accuracies(model, images, history.precision)
        row: dict[str, float] = {"generation": generation, "parameters": parameters, "macs": macs}
        row |= {name: measured[name] for name in ("valid_accuracy", "test_accuracy")}
        return row | {"stale_accuracy": history.last_row["valid_accuracy"]}


def _beside(checkpoint: str | Path | None, phase: object) -> Path | None:
    """The checkpoint of one training of a run."""
    return None if checkpoint is None else Path(checkpoint).with_name(f"{Path(checkpoint).stem}-{phase}.pt")


def lineages() -> list[EvolutionExperiment | TeacherExperiment]:
    """Chapter 12's runs. Six teachers; then a VGG-11 of an eighth of the channels (0.15 M parameters) and four
    generations of offspring, three epochs each, without stress and with controls, and under stress 0.5: on digits at
    F = 0.7 with five seeds, on 2,000 images of CIFAR-10 at F = 0.9 with three. Last, on digits, five more seeds of
    both kinds without controls: five leave the effect of stress open."""
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
    more = [EvolutionExperiment(stress=s, seed=seed, **settings[5]) for seed in range(5, 10) for s in (0.0, 0.5)]
    return [*experiments, *more]


def lineages_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run and trained network: dataset, factor, stress, inherit, seed, arm ("lineage" or the control), what
    :meth:`EvolutionExperiment.measure` says of it, and macs_share and parameters_share, its size over that of the
    first. Records of other kinds are passed over."""
    rows = []
    for record in runs_of(records, task="evolution"):
        spec, metrics = record.spec, record.metrics
        run = {k: spec[k] for k in ("dataset", "factor", "stress", "inherit", "seed")}
        first = metrics["generations"][0]
        networks = {"lineage": metrics["generations"]} | metrics["controls"]
        for arm, row in [(arm, row) for arm, found in networks.items() for row in found]:
            shares = {f"{size}_share": row[size] / first[size] for size in ("macs", "parameters")}
            rows.append(run | {"arm": arm} | row | shares)
    return pd.DataFrame(rows)


def at_size(rows: pd.DataFrame, share: float, value: str = "test_accuracy", size: str = "macs") -> pd.DataFrame:
    """``value`` of each lineage among ``rows`` (of :func:`lineages_frame`) at a share of the first network's "macs" or
    "parameters": linear between generations over the logarithm of the size. One row per run: dataset, factor, stress,
    inherit, seed and ``value``, which is nan where no generation is so small."""
    run = ["dataset", "factor", "stress", "inherit", "seed"]
    found: list[dict[str, Any]] = []
    lineage = rows[rows["arm"] == "lineage"].groupby(run) if len(rows) else ()
    for key, part in lineage:
        part = part.sort_values(f"{size}_share")
        at = np.interp(np.log(share), np.log(part[f"{size}_share"]), part[value], left=np.nan)
        found.append(dict(zip(run, key, strict=True)) | {value: float(at)})
    return pd.DataFrame(found, columns=[*run, value])
