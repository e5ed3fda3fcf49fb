"""Lineages of image networks and their controls, as recorded runs."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..cost import count
from ..data import Images, kept_images, load_images
from ..models import build_model
from ..noise import check_choice, check_fraction, check_whole
from ..pruning import (
    channel_groups,
    plain_copy,
    recalibrate_batchnorm,
)
from ..records import Record, provenance, rounded
from ..structured import LAWS, Stress
from ..training import Recipe, check_experiment, check_images, evaluate, fit, pick_device
from .synthesis import check_factor, cut, derived_seed, synthesize
from .teacher import TeacherExperiment

CONTROLS = ("whole", "restarted", "gradual", "magnitude", "random", "scratch")


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

    def __post_init__(self) -> None:
        check_experiment(self)
        check_choice(self.law, LAWS, "law")
        for control in self.controls:
            check_choice(control, CONTROLS, "controls")
        check_whole(self.generations, "generations")
        object.__setattr__(self, "factor", check_factor(self.factor))
        object.__setattr__(self, "stress", check_fraction(self.stress, "stress"))
        object.__setattr__(self, "controls", tuple(self.controls))

    @property
    def spec(self) -> dict[str, Any]:
        """The experiment as JSON values: what a record is found by."""
        spec = {"task": "evolution", "method": "evolution", **dataclasses.asdict(self)}
        spec["recipe"] = self.recipe.spec
        return spec | {"controls": list(self.controls)}

    def run(self, **options: Any) -> Record:
        """:func:`run_evolution` on this experiment's data, which a process keeps until it needs other data."""
        return run_evolution(self, kept_images(self.dataset, self.train, self.valid, self.test), **options)


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
        controls, such a list each by name; widths, the channels of the last offspring by root; and valid_accuracy and
        test_accuracy of the last offspring.
    """
    where = pick_device(device)
    if images is None:
        images = load_images(experiment.dataset, train=experiment.train, valid=experiment.valid, test=experiment.test)
    check_images(experiment, images)
    images = images.to(where)
    started, origin = time.perf_counter(), provenance(where, images.name, images.checksum)
    example = images.normalize(images.train.x[:1])
    recipe, last, precision = experiment.recipe, experiment.generations, ""
    files: list[Path] = []

    def seed(phase: str) -> int:
        return derived_seed(experiment.seed, phase)

    def new(phase: str) -> nn.Module:
        model = build_model(
            experiment.model,
            width=experiment.width,
            num_classes=images.num_classes,
            seed=seed(f"weights {phase}"),
        )
        return model.to(where)

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
            recalibrate_batchnorm(model, images, batch_size=recipe.batch_size, flip=bool(recipe.flip), crop=recipe.crop)
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

    controls: dict[str, list[Generation]] = {name: [] for name in experiment.controls}
    for name, found in controls.items():
        draws, step_by_step = torch.Generator().manual_seed(seed(name)), plain_copy(first)
        for generation, sizes in enumerate(widths, 1):
            epochs = generation * recipe.epochs  # what the lineage has had since generation 0
            if name == "whole":
                if generation < last:
                    continue
                model = plain_copy(first)
            elif name in ("restarted", "gradual"):
                model = step_by_step if name == "restarted" else cut(step_by_step, sizes, "magnitude", example)
                step_by_step, epochs = model, recipe.epochs
            elif name == "scratch":
                model, epochs = cut(new(name), sizes, "random", example, draws), epochs + recipe.epochs
            else:
                model = cut(first, sizes, name, example, draws)
            found.append(trained(model, f"{name}-{generation}", generation, epochs))
    metrics = {
        "generations": [dataclasses.asdict(row) for row in rows],
        "controls": {name: [dataclasses.asdict(row) for row in rows] for name, rows in controls.items()},
        "widths": widths[-1],
        "valid_accuracy": rows[-1].valid_accuracy,
        "test_accuracy": rows[-1].test_accuracy,
    }
    origin |= {"precision": precision, "seconds": time.perf_counter() - started}
    for file in files:
        file.unlink(missing_ok=True)
    return Record(experiment.spec, rounded(metrics), rounded(origin))


def lineages() -> list[EvolutionExperiment | TeacherExperiment]:
    """Chapter 13's runs. Six teachers; then a VGG-11 of an eighth of the channels (0.15 M parameters) and four
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
        networks = {"lineage": metrics["generations"]} | metrics["controls"]
        for arm, row in [(arm, row) for arm, found in networks.items() for row in found]:
            shares = {f"{size}_share": row[size] / first[size] for size in ("macs", "parameters")}
            rows.append(run | {"arm": arm} | row | shares)
    return pd.DataFrame(rows)


def at_size(rows: pd.DataFrame, share: float, value: str = "test_accuracy", size: str = "macs") -> pd.DataFrame:
    """``value`` of each lineage among ``rows`` (of :func:`lineages_frame`) at a share of the first network's "macs" or
    "parameters": linear between generations over the logarithm of the size. One row a run: dataset, factor, stress,
    inherit, seed and ``value``, which is nan where no generation is so small."""
    run = ["dataset", "factor", "stress", "inherit", "seed"]
    found: list[dict[str, Any]] = []
    lineage = rows[rows["arm"] == "lineage"].groupby(run) if len(rows) else ()
    for key, part in lineage:
        part = part.sort_values(f"{size}_share")
        at = np.interp(np.log(share), np.log(part[f"{size}_share"]), part[value], left=np.nan)
        found.append(dict(zip(run, key, strict=True)) | {value: float(at)})
    return pd.DataFrame(found, columns=[*run, value])
