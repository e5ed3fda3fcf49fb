"""Batch Bridgeout and its rivals where a network overfits: few images, pruned by the protocol of chapters 5 to 8.

The network and its training are those of the study of mechanisms. Each method's strength is searched with one seed and
chosen by the validation accuracy of networks whose filters are removed and BatchNorm recalibrated; weight decay stands
there twice, as tuned for accuracy ("none") and at its best for pruning ("strong decay").
"""

import dataclasses
import functools
import statistics
from collections.abc import Iterable
from typing import Any

from ..runs.records import Record
from .adaptive import Adaptive
from .base import Study
from .curves import CHOSEN_AT, curves_frame
from .images import Experiment
from .mechanisms import RECIPE, tuned_decay
from .search import Ladder, search_then

SEARCHED, REPEATED = 1, 5

COMMON: dict[str, Any] = {"model": "airnet", "width": 0.25, "train": 2500, "valid": 2000, "test": 5000}
COMMON |= {"measures": ("train", "pruning")}

# By name the fields that are fixed, the field that is the dial, its values, and those that are tried first.
CONTENDERS: dict[str, tuple[dict[str, Any], str, tuple[float, ...], tuple[float, ...]]] = {
    "strong decay": ({"method": "none", "p": 0.0}, "decay", (1, 2, 4, 8, 16, 32, 64), (4, 16)),
    "bridgeout, q = 1.5, 75 %": (
        {"method": "bridgeout", "q": 1.5, "target_fraction": 0.75},
        "p",
        (0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        (0.2, 0.3),
    ),
    "bridgeout, q = 1.5": ({"method": "bridgeout", "q": 1.5}, "p", (0.003, 0.01, 0.03, 0.06, 0.1, 0.2), (0.03, 0.06)),
    "bridgeout, q = 2": ({"method": "bridgeout", "q": 2.0}, "p", (0.03, 0.1, 0.2, 0.3, 0.4, 0.5), (0.1, 0.2)),
    "dropout": ({"method": "dropout"}, "p", (0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4), (0.05, 0.1)),
    "l1": (
        {"method": "l1", "p": 0.0},
        "strength",
        (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        (1e-4, 3e-4),
    ),
}

# Run at its released strength whatever the search prefers.
RELEASED = ("bridgeout, q = 1.5, 75 %", 0.3)


def make(name: str, decay: float, value: float, seed: int) -> Experiment:
    """One run of a contender at a value of its dial; ``decay`` is the weight decay, which "strong decay" multiplies."""
    fixed, dial, _, _ = CONTENDERS[name]
    factor = value if dial == "decay" else 1.0
    own: dict[str, Any] = {} if dial == "decay" else {dial: value}
    recipe = dataclasses.replace(RECIPE, weight_decay=factor * decay)
    return Experiment(**COMMON, **fixed, **own, recipe=recipe, seed=seed)


def pruned_accuracy(record: Record) -> float:
    """Validation accuracy (%) without 10 to 40 % of the filters, removed and recalibrated; 0 if the run diverged."""
    if "pruning" not in record.metrics:
        return 0.0
    curve = record.metrics["pruning"]["curves"]["removed, recalibrated"]
    return statistics.mean(float(v) for a, v in zip(curve["amount"], curve["valid"], strict=True) if a in CHOSEN_AT)


def ladder(name: str, decay: float) -> Ladder:
    """The search for a contender's strength."""
    _, _, values, beginning = CONTENDERS[name]
    return Ladder(functools.partial(make, name, decay), values, beginning, SEARCHED, pruned_accuracy)


def next_runs(records: Iterable[Record], decay: float | None = None) -> list[Experiment]:
    """What the study lacks after these records: the search, then five seeds of plain training, of every contender at
    its best, and of Batch Bridgeout as released. Called again with what these runs give it goes on to the end.

    ``decay`` defaults to what the study of mechanisms has found; ValueError if it has not yet.
    """
    records = list(records)
    decay = tuned_decay() if decay is None else decay
    ladders = {name: ladder(name, decay) for name in CONTENDERS}

    def repeats() -> list[Experiment]:
        pairs = {("strong decay", 1.0), RELEASED} | {(name, one.best(records)) for name, one in ladders.items()}
        return [make(name, decay, value, seed) for seed in range(REPEATED) for name, value in sorted(pairs)]

    return search_then(ladders.values(), repeats, records)


STUDY = Study("pruning-few", {"pruning-few": Adaptive(next_runs)}, table=curves_frame)
