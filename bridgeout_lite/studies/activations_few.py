"""Sparseout where a network overfits: the activation grid on few images, p chosen for each q, and at matched power.

The network and its training are those of the study of mechanisms. Sparseout sits behind every nonlinearity ("all") or
on the features that the classifier reads ("last"). For each q, p is searched on validation images with two seeds and
run with five; then all q are run at one noise power, that of Dropout at the p that was best for q = 2 there.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

from ..runs.records import Record
from .adaptive import Adaptive
from .base import Study
from .images import PLACES, Experiment
from .measures import layers_frame
from .mechanisms import LADDERS, RECIPE, tuned_decay
from .search import Ladder, search_then

EXPONENTS = (1.0, 1.5, 2.0, 2.5, 3.0)
SEARCHED, REPEATED = 2, 5

COMMON: dict[str, Any] = {"model": "airnet", "width": 0.25, "train": 2500, "valid": 10000}
COMMON |= {"measures": ("train", "activations")}

# The values of p, and those that are tried first: noise behind every nonlinearity has to be weaker.
VALUES = {"all": (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5), "last": LADDERS["p"]}
BEGINNING = {"all": (0.02, 0.1), "last": (0.3, 0.7)}


def make(place: str, q: float, decay: float, p: float, seed: int, matched: bool = False) -> Experiment:
    """One run under noise."""
    recipe = dataclasses.replace(RECIPE, weight_decay=decay)
    return Experiment(method="sparseout", p=p, q=q, place=place, matched=matched, recipe=recipe, seed=seed, **COMMON)


def plain(decay: float, seed: int) -> Experiment:
    """One run without."""
    return Experiment(method="none", p=0.0, recipe=dataclasses.replace(RECIPE, weight_decay=decay), seed=seed, **COMMON)


def ladder(place: str, q: float, decay: float) -> Ladder:
    """The search for p."""
    return Ladder(functools.partial(make, place, q, decay), VALUES[place], BEGINNING[place], SEARCHED)


def next_runs(records: Iterable[Record], decay: float | None = None) -> list[Experiment]:
    """What the study lacks after these records: the search; then five seeds without noise, of every q at its best p,
    and of every q at matched power. Called again with what these runs give it goes on to the end.

    ``decay`` defaults to what the study of mechanisms has found; ValueError if it has not yet.
    """
    records = list(records)
    decay = tuned_decay() if decay is None else decay
    ladders = {(place, q): ladder(place, q, decay) for place in PLACES for q in EXPONENTS}

    def repeats() -> Iterator[Experiment]:
        best = {key: search.best(records) for key, search in ladders.items()}
        for seed in range(REPEATED):
            yield plain(decay, seed)
            yield from (make(place, q, decay, p, seed) for (place, q), p in best.items())
            yield from (make(place, q, decay, best[place, 2.0], seed, matched=q != 2) for place, q in best)

    return search_then(ladders.values(), repeats, records)


STUDY = Study("activations-few", {"activations-few": Adaptive(next_runs)}, table=layers_frame)
