"""Chapters 5 to 7: how networks survive pruning."""

from functools import partial

from ..base import Study
from ..curves import *
from .claims import SECTION
from .study import *

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
