"""Claims that need no run of ours: sizes, and what other papers report."""

from ..base import Study
from ..theory import OLDER
from . import others, sizes

STUDY = Study(
    "literature",
    sections=(*sizes.SECTIONS, *others.SECTIONS, OLDER),
    reads=("pruning-cifar10", "pruning-cifar100"),
)
