"""One study per recorded experiment: its specs, its measures, its table, its claims."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .activations.study import activation_grid
from .arena.study import arena_runs
from .evolution.study import lineages
from .explanations.study import explanations as explanation_runs
from .fast_recipe import fast_recipe
from .feature_flow.study import feature_flow as flow_runs
from .language.study import language_model
from .mechanisms import mechanisms as mechanism_runs
from .pruning.study import pruning_cifar100, pruning_comparison, pruning_published
from .smoke import smoke as smoke_runs
from .structured_output.study import structured_output as structured_runs

SWEEPS: dict[str, Callable[[], Sequence[Any]]] = {
    "activation-grid": activation_grid,
    "pruning-cifar10": pruning_comparison,
    "pruning-cifar100": pruning_cifar100,
    "pruning-published": pruning_published,
    "pruning-shortened": partial(pruning_published, 30),
    "language-model": language_model,
    "arena": arena_runs,
    "structured-output": structured_runs,
    "evolution": lineages,
    "feature-flow": flow_runs,
    "explanations": explanation_runs,
    "mechanisms": mechanism_runs,
    "fast-recipe": fast_recipe,
    "smoke": smoke_runs,
}
