"""Chapters 5 to 8: how networks survive pruning."""

from functools import partial

from ..base import Study
from ..curves import (
    AMOUNTS,
    BATCHES,
    CHOSEN_AT,
    CHOSEN_BY,
    CURVES,
    FINE_TUNING,
    RELEASED,
    RELEASED_AMOUNTS,
    at_best,
    choose_settings,
    curves_frame,
    endures,
    prune_as_released,
    setting,
)
from .claims import SECTION
from .study import pruning_cifar100, pruning_comparison, pruning_published

STUDY = Study(
    "pruning",
    {
        "pruning-cifar10": pruning_comparison,
        "pruning-cifar100": pruning_cifar100,
        "pruning-published": pruning_published,
        "pruning-shortened": partial(pruning_published, 30),
    },
    (SECTION,),
    table=curves_frame,
)
