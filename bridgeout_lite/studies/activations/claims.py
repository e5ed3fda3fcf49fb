"""Sparseout and Bridgeout in networks for images: how sparse the activations are, and what accuracy wants."""

from collections.abc import Iterable

import pandas as pd

from ...runs.records import Record
from ...stats import paired_difference, summarise
from ..base import (
    LEAST_SEEDS,
    NO_NUMBER,
    TOO_FEW,
    Claim,
    Finding,
    Judge,
    Regime,
    Section,
    count_sides,
    judged,
    list_gaps,
    not_run,
    seeded,
)
from ..images import plain_rows, runs_frame
from ..measures import layers_frame

_GRID = (
    "small CNN (0.17 M parameters), 5 epochs, CIFAR-10, 45,000 images; "
    "the paper's networks and settings are not known to us"
)
_MODELS = ("smallcnn", "smallcnn-plain")
_CONVOLUTIONS = ("relu1", "relu2", "relu3", "relu4")


def image_layers(records: Iterable[Record]) -> pd.DataFrame:
    """The rows of :func:`~bridgeout_lite.studies.measures.layers_frame` of the small CNNs under Sparseout."""
    return layers_frame(r for r in records if r.spec["method"] == "sparseout" and r.spec["model"] in _MODELS)


def _sparser(layers: tuple[str, ...], model: str) -> Judge:
    """Is Hoyer's measure, averaged over these layers, higher than Dropout's at q = 1 and lower at q = 3?"""

    def find(rows: pd.DataFrame) -> Finding:
        rows = rows[(rows["model"] == model) & (rows["p"] == 0.2) & rows["layer"].isin(layers)]
        if not all(seeded(rows[rows["q"] == q]) for q in (1.0, 2.0, 3.0)):
            return TOO_FEW
        gaps = {f"q={q:g}": paired_difference(rows, "hoyer", q, 2.0) for q in (1.0, 3.0)}
        single = (
            f"{layer} " + ", ".join(f"q={q:g} {paired_difference(part, 'hoyer', q, 2.0):+.3f}" for q in (1.0, 3.0))
            for layer, part in rows.groupby("layer")
        )
        sparser = {"q=1": gaps["q=1"], "q=3, with its sign turned": gaps["q=3"] * -1}
        return judged(
            sparser,
            f"Hoyer minus Dropout's at p = 0.2, n = {gaps['q=1'].n}: {list_gaps(gaps, '+.3f')}"
            + (f"; layer by layer: {'; '.join(single)}" if len(layers) > 1 else ""),
            f"{f'mean over {len(layers)} layers; ' * (len(layers) > 1)}{count_sides(sparser, 1)}",
            matters=0.01,
            unit="of Hoyer's measure",
            spec="+.3f",
        )

    return find


def image_rows(records: Iterable[Record]) -> pd.DataFrame:
    """The small CNN's runs under Sparseout, one row per run: for each q those at its p of best mean validation
    accuracy. Empty if a setting has fewer than ``LEAST_SEEDS`` seeds."""
    rows = runs_frame(r for r in _small(records) if r.spec["method"] == "sparseout")
    if not len(rows) or rows.groupby(["p", "q"])["seed"].nunique().min() < LEAST_SEEDS:
        return rows.iloc[:0]
    valid = summarise(rows, ["q", "p"], "valid_accuracy").sort_values("mean").groupby("q").last()  # best p for each q
    return rows[rows["p"] == rows["q"].map(valid["p"])]


def _small(records: Iterable[Record]) -> list[Record]:
    return [r for r in records if "task" not in r.spec and r.spec["model"] == "smallcnn"]  # "task": to be explained


def _with_plain(records: Iterable[Record]) -> pd.DataFrame:
    """The rows of :func:`image_rows`, and those without noise."""
    records = [*records]
    return pd.concat([plain_rows(_small(records)), image_rows(records)])


def _denser_is_better(rows: pd.DataFrame) -> Finding:
    plain, rows = rows[rows["method"] == "none"], rows[rows["method"] != "none"]
    if rows["q"].nunique() < 5:
        return TOO_FEW
    accuracy = rows.groupby("q")["valid_accuracy"].mean().to_dict()
    dense, sparse = (max(side, key=accuracy.__getitem__) for side in ((2.5, 3.0), (1.0, 1.5)))
    gap = paired_difference(rows, "test_accuracy", dense, sparse)
    side = "" if gap.above else "; the sparse side is better" if gap.below else "; the interval contains zero"
    return judged(
        {"dense minus sparse": gap},
        f"test accuracy of q={dense:g} minus q={sparse:g}: {gap.mean:+.2f} points [{gap.low:+.2f}, {gap.high:+.2f}], "
        f"n={gap.n}",
        f"p and the q of each side were chosen on validation{side}",
        matters=0.5,
        spec="+.2f",
        regime=Regime(plain["train_accuracy"].mean(), plain["test_accuracy"].mean()) if len(plain) else None,
    )


SECTION = Section(
    "Sparseout and Bridgeout in networks",
    "The tables of both papers are not known to us; the claims are those of the abstracts and of released code.",
    (
        *(
            Claim(
                f"Activations are sparser than Dropout's for q < 2 and denser for q > 2: {where}",
                "Khan & Stavness 2019, README of the released code",
                NO_NUMBER,
                _GRID,
                "`bridgeout sweep activations`",
                _sparser(layers, model),
                image_layers,
            )
            for where, layers, model in (
                ("last hidden layer", ("relu5",), "smallcnn"),
                ("convolutional layers", _CONVOLUTIONS, "smallcnn"),
                ("convolutional layers without BatchNorm", _CONVOLUTIONS, "smallcnn-plain"),
            )
        ),
        Claim(
            "Image classification prefers denser activations (q > 2 over q < 2)",
            "Khan & Stavness 2019, abstract",
            NO_NUMBER,
            _GRID,
            "`bridgeout sweep activations`",
            _denser_is_better,
            _with_plain,
        ),
        Claim(
            "Bridgeout's networks are more accurate, and their weights sparser, than with Dropout or Shakeout",
            "Khan, Shah & Stavness 2018, abstract",
            NO_NUMBER,
            "-",
            "-",
            not_run("neither Shakeout nor one mask for each image is in the package"),
        ),
    ),
)
