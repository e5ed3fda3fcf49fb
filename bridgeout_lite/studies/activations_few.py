"""Sparseout where a network overfits: the activation grid on few images, p chosen for each q, and at matched power.

The network and its training are those of the study of mechanisms. Sparseout sits behind every nonlinearity ("all") or
on the features that the classifier reads ("last"). For each q, p is searched on validation images with two seeds and
run with five; then all q are run at one noise power, that of Dropout at the p that was best for q = 2 there.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from ..runs.records import Record
from ..stats import pooled_gap
from .adaptive import Adaptive
from .base import (
    LEAST_SEEDS,
    NO_NUMBER,
    PUBLISHED,
    QUESTION,
    Claim,
    Finding,
    Judge,
    Regime,
    Section,
    Study,
    count_sides,
    judged,
    list_gaps,
)
from .images import PLACES, Experiment
from .measures import layers_frame
from .mechanisms import FEW_IMAGES, LADDERS, RECIPE, tuned_decay
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


# --- the table and the claims -----------------------------------------------------------------------------------------


def few_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run and layer of the strengths that were run with at least ``LEAST_SEEDS`` seeds: the columns of
    :func:`bridgeout_lite.studies.measures.layers_frame`, place, matched, and {train, valid, test}_accuracy (%)."""
    frames = []
    for record in records:
        spec, metrics = record.spec, record.metrics
        if "layers" in metrics and all(spec.get(k) == v for k, v in COMMON.items() if k != "measures"):
            own = {"place": spec.get("place", "all"), "matched": spec.get("matched", False)}
            own |= {f"{split}_accuracy": metrics[f"{split}_accuracy"] for split in ("train", "valid", "test")}
            frames.append(layers_frame([record]).assign(**own))
    if not frames:
        return pd.DataFrame()
    rows = pd.concat(frames, ignore_index=True)
    dial = ["method", "place", "matched", "q", "p"]
    return rows[rows.groupby(dial)["seed"].transform("nunique") >= LEAST_SEEDS]


def _regime(rows: pd.DataFrame) -> Regime | None:
    plain = rows[rows["method"] == "none"]
    return Regime(plain["train_accuracy"].mean(), plain["test_accuracy"].mean()) if len(plain) else None


def _sparser(place: str, matched: bool) -> Judge:
    """Is Hoyer's measure of the noisy layers higher than Dropout's at q = 1 and lower at q = 3?"""

    def find(rows: pd.DataFrame) -> Finding:
        some = rows[(rows["method"] != "none") & (rows["place"] == place)]
        some = some[(some["matched"] == matched) | (some["q"] == 2)]
        if place == "last":
            some = some[some["layer"] == some["layer"].iloc[-1]] if len(some) else some
        gaps = {f"q={q:g}": pooled_gap(some, "hoyer", "q", q, 2.0) for q in (1.0, 3.0)}
        sparser = {"q=1": gaps["q=1"], "q=3, with its sign turned": gaps["q=3"] * -1}
        powers = some.groupby("q")["noise_power"].mean()
        return judged(
            sparser,
            f"Hoyer minus Dropout's: {list_gaps(gaps, '+.3f', seeds=True)}",
            f"{count_sides(sparser, 1)}; noise power over the signal's: "
            + ", ".join(f"q={q:g} {power:.2f}" for q, power in powers.items()),
            matters=0.01,
            unit="of Hoyer's measure",
            spec="+.3f",
            regime=_regime(rows),
        )

    return find


def _denser_is_better(rows: pd.DataFrame) -> Finding:
    """Is the best q above 2 better in test accuracy than the best below, in both places?"""
    gaps = {}
    for place in PLACES:
        some = rows[(rows["method"] != "none") & (rows["place"] == place) & ~rows["matched"]]
        valid = some.groupby("q")["valid_accuracy"].mean()
        if set(EXPONENTS) <= set(valid.index):
            dense, sparse = valid[valid.index > 2].idxmax(), valid[valid.index < 2].idxmax()
            name = f"{place}, q={dense:g} minus q={sparse:g}:"
            gaps[name] = pooled_gap(some, "test_accuracy", "q", dense, sparse)
    said = f"test accuracy, points: {list_gaps(gaps, '+.2f', seeds=True)}"
    how = "p of each q and the q of each side were chosen on validation"
    return judged(gaps, said, how, matters=0.5, spec="+.2f", regime=_regime(rows))


SECTION = Section(
    "Sparseout where a network overfits",
    "Few images, learned by heart without a regulariser; p is chosen for each q on validation images.",
    tuple(
        Claim(claim, source, NO_NUMBER, FEW_IMAGES, "`bridgeout sweep activations-few`", find, few_frame, kind, name)
        for name, claim, source, kind, find in (
            *(
                (
                    f"few-images-activations-{place}{'-matched' * matched}",
                    "Activations are sparser than Dropout's for q < 2 and denser for q > 2: few images, noise "
                    + ("behind every nonlinearity" if place == "all" else "on the last features")
                    + ", at equal noise power" * matched,
                    "asked by this book" if matched else "Khan & Stavness 2019, README of the released code",
                    QUESTION if matched else PUBLISHED,
                    _sparser(place, matched),
                )
                for place in PLACES
                for matched in (False, True)
            ),
            (
                "few-images-denser-is-better",
                "Image classification prefers denser activations (q > 2 over q < 2): few images",
                "Khan & Stavness 2019, abstract",
                PUBLISHED,
                _denser_is_better,
            ),
        )
    ),
)

STUDY = Study("activations-few", {"activations-few": Adaptive(next_runs)}, (SECTION,), table=few_frame)
