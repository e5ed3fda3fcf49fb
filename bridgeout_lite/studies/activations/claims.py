"""Sparseout and Bridgeout in networks for images: how sparse the activations are, and what accuracy wants."""

from collections.abc import Iterable

import pandas as pd

from ...runs.records import Record
from ...stats import paired_difference, summarise
from ..base import DIRECTION, LEAST_SEEDS, NO_NUMBER, TOO_FEW, Claim, Finding, Judge, Section, judged, not_run
from ..images import runs_frame
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
    """Is Hoyer's measure higher than Dropout's at q = 1 and lower at q = 3, in every layer?"""

    def find(rows: pd.DataFrame) -> Finding:
        rows = rows[rows["model"] == model]
        if not len(rows) or rows.groupby(["p", "q"])["seed"].nunique().min() < LEAST_SEEDS:
            return TOO_FEW
        lines, as_claimed, opposite = [], 0, 0
        for layer in layers:
            part = rows[(rows["p"] == 0.2) & (rows["layer"] == layer)]
            low, high = (paired_difference(part, "hoyer", q, 2.0) for q in (1.0, 3.0))
            lines.append(f"{layer}: q=1 {low:+.3f}, q=3 {high:+.3f}")
            as_claimed += low.above and high.below
            opposite += low.below or high.above
        ours = f"Hoyer minus Dropout's at p = 0.2, n = {low.n}; " + "; ".join(lines)
        if as_claimed == len(layers):
            return Finding(ours, DIRECTION, "both intervals lie on the claimed side of zero")
        return Finding(
            ours,
            "not reproduced",
            f"of {len(layers)} layers, {as_claimed} have both intervals on the claimed side of zero, {opposite} have "
            f"one on the other side, the rest are undecided with {low.n} seeds",
        )

    return find


def image_rows(records: Iterable[Record]) -> pd.DataFrame:
    """The small CNN's runs under Sparseout, one row per run: for each q those at its p of best mean validation
    accuracy. Empty if a setting has fewer than ``LEAST_SEEDS`` seeds."""
    records = (r for r in records if "task" not in r.spec)  # not those that were trained to be explained
    rows = runs_frame(r for r in records if r.spec["method"] == "sparseout" and r.spec["model"] == "smallcnn")
    if not len(rows) or rows.groupby(["p", "q"])["seed"].nunique().min() < LEAST_SEEDS:
        return rows.iloc[:0]
    valid = summarise(rows, ["q", "p"], "valid_accuracy").sort_values("mean").groupby("q").last()  # best p for each q
    return rows[rows["p"] == rows["q"].map(valid["p"])]


def _denser_is_better(rows: pd.DataFrame) -> Finding:
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
    )


SECTION = Section(
    "Sparseout and Bridgeout in networks",
    "The tables of both papers are not known to us; the claims are those of the abstracts and of released code.",
    (
        *(
            Claim(
                f"Activations are sparser than Dropout's for q < 2 and denser for q > 2: {where}",
                "README of the released Sparseout code",
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
            image_rows,
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
