"""Batch Bridgeout and its rivals where a network overfits: few images, pruned by the protocol of chapters 5 to 7.

The network and its training are those of the study of mechanisms. Each method's strength is searched with one seed and
chosen by the validation accuracy of networks whose filters are removed and BatchNorm recalibrated; weight decay stands
there twice, as tuned for accuracy ("none") and at its best for pruning ("strong decay").
"""

import dataclasses
import functools
import statistics
from collections.abc import Iterable, Mapping
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
    TOO_FEW,
    Claim,
    Finding,
    Judge,
    Regime,
    Section,
    Study,
    judged,
    list_gaps,
)
from .curves import CHOSEN_AT, curves_frame
from .images import Experiment
from .mechanisms import FEW_IMAGES, RECIPE, tuned_decay
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


# --- the table and the claims -----------------------------------------------------------------------------------------

DECAY, STRONG, BRIDGEOUT = "weight decay", "strong decay", "Batch Bridgeout"
_FAR_OUT = (0.5, 0.6, 0.7)


def contender_of(spec: Mapping[str, Any]) -> tuple[str, float] | None:
    """The contender that a run belongs to, and the value of its dial, or None for a run of another study. That of
    "strong decay" is the weight decay itself."""
    if any(spec.get(k) != v for k, v in COMMON.items() if k in ("model", "width", "train", "valid", "test")):
        return None
    for name, (fixed, dial, *_) in CONTENDERS.items():
        if all(spec.get(k) == v for k, v in ({"target_fraction": None} | fixed).items() if k != "p" or dial != "p"):
            return name, spec["recipe"]["weight_decay"] if dial == "decay" else spec[dial]
    return None


def contenders_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Every contender at the strengths that were run with at least ``LEAST_SEEDS`` seeds: the rows of
    :func:`bridgeout_lite.studies.curves.curves_frame`, with contender, value of its dial, and train_accuracy and
    test_accuracy of the unpruned network without noise (%). The least of the weight decays is called "weight decay"."""
    frames = []
    for record in records:
        found = contender_of(record.spec)
        if found is not None and "pruning" in record.metrics:
            whole = {k: record.metrics[k] for k in ("train_accuracy", "test_accuracy")}
            frames.append(curves_frame([record]).assign(contender=found[0], value=found[1], **whole))
    if not frames:
        return pd.DataFrame()
    rows = pd.concat(frames, ignore_index=True)
    rows = rows[rows.groupby(["contender", "value"])["seed"].transform("nunique") >= LEAST_SEEDS]
    plain = (rows["contender"] == STRONG) & (rows["value"] == rows["value"][rows["contender"] == STRONG].min())
    return rows.assign(contender=rows["contender"].mask(plain, DECAY))


def at_chosen(rows: pd.DataFrame, curve: str, amounts: Iterable[float]) -> pd.DataFrame:
    """Of :func:`contenders_frame` the test rows of one curve at these amounts: of the Batch Bridgeouts, with what it
    is targeted at and at all strengths, that of the highest mean validation accuracy there, and all others."""
    rows = rows[(rows["curve"] == curve) & rows["amount"].isin([0.0, *amounts])]
    noisy = rows["contender"].str.startswith("bridgeout")
    valid = rows[noisy & (rows["split"] == "valid") & (rows["amount"] > 0)]
    test = rows[rows["split"] == "test"]
    if not len(valid):
        return test.iloc[:0]
    means = valid.groupby(["contender", "value"], as_index=False)["accuracy"].mean()
    best = means.loc[means["accuracy"].idxmax()]
    own = (test["contender"] == best["contender"]) & (test["value"] == best["value"])
    chosen: pd.DataFrame = pd.concat(
        [test[~test["contender"].str.startswith("bridgeout")], test[own].assign(contender=BRIDGEOUT)]
    )
    return chosen


def _ahead(curve: str, amounts: tuple[float, ...], rivals: tuple[str, ...], *, sign: int = 1) -> Judge:
    """Is Batch Bridgeout ahead of each rival (behind, if ``sign`` is -1), on average over these shares of filters?"""

    def find(rows: pd.DataFrame) -> Finding:
        some = at_chosen(rows, curve, amounts if any(amounts) else CHOSEN_AT)
        some = some[some["amount"].isin(amounts)]
        there = set(some["contender"])
        if not {BRIDGEOUT, *rivals} - {STRONG} <= there:  # the tuned decay may be the best for pruning, too
            return TOO_FEW
        gaps = {f"minus {r}:": pooled_gap(some, "accuracy", "contender", BRIDGEOUT, r) for r in rivals if r in there}
        mean = some.groupby("contender")["accuracy"].mean()
        noise = some[some["contender"] == BRIDGEOUT].iloc[0]
        whole = rows[rows["contender"] == DECAY].groupby("seed")[["train_accuracy", "test_accuracy"]].first().mean()
        return judged(
            gaps,
            f"{BRIDGEOUT} {list_gaps(gaps)}, n = {min(gap.n for gap in gaps.values())}",
            f"mean accuracy: {', '.join(f'{name} {value:.1f} %' for name, value in mean.items())}; noise chosen on "
            f"validation, {noise['setting']}; spread pooled over all methods",
            sign=sign,
            matters=1.0,
            regime=Regime(*whole),
        )

    return find


_SCALE = f"{FEW_IMAGES}; the published networks are VGG-16 and residual ones on all images"
_COMMAND = "`bridgeout sweep pruning-few`"
_PAPER = "Khan & Stavness 2020; on a network that overfits, where noise has something to do"
_ASKED = "asked by this book"
_ALL = (DECAY, STRONG, "dropout", "l1")

SECTION = Section(
    "Batch Bridgeout where a network overfits",
    "Few images, learned by heart without a regulariser. All strengths are chosen on validation images, weight decay "
    "both for accuracy and for pruning (strong decay).",
    tuple(
        Claim(claim, source, theirs, _SCALE, _COMMAND, find, contenders_frame, kind, name)
        for name, claim, source, theirs, kind, find in (
            (
                "few-images-batch-bridgeout-keeps-accuracy",
                "Batch Bridgeout keeps more accuracy than Dropout and weight decay when 10 to 40 % of the filters are "
                "zeroed: few images",
                _PAPER,
                "at other networks, see above",
                PUBLISHED,
                _ahead("zeroed", CHOSEN_AT, (DECAY, "dropout")),
            ),
            (
                "few-images-batch-bridgeout-price",
                "Unpruned, Batch Bridgeout's network is less accurate than that of weight decay alone: few images",
                _PAPER,
                "-4.3 to -0.7 points at other networks",
                PUBLISHED,
                _ahead("zeroed", (0.0,), (DECAY,), sign=-1),
            ),
            (
                "few-images-batch-bridgeout-outlives-removal",
                "Its advantage at 10 to 40 % outlives real removal and recalibrated BatchNorm, and is more than what "
                "stronger decay or L1 give: few images",
                _ASKED,
                NO_NUMBER,
                QUESTION,
                _ahead("removed, recalibrated", CHOSEN_AT, _ALL),
            ),
            (
                "few-images-batch-bridgeout-far-out",
                "Batch Bridgeout is ahead when 50 to 70 % of the filters are removed and BatchNorm is recalibrated, "
                "but nothing is trained on: few images",
                "asked by this book, after the small VGG-11 of chapter 6 had shown it",
                NO_NUMBER,
                QUESTION,
                _ahead("removed, recalibrated", _FAR_OUT, _ALL),
            ),
        )
    ),
)

STUDY = Study("pruning-few", {"pruning-few": Adaptive(next_runs)}, (SECTION,), table=contenders_frame)
