"""What sparse features mean: explanations judged where the truth is drawn, and by what silencing features costs."""

from collections.abc import Callable

import pandas as pd

from ...data import TITLES
from ...stats import Gap, interval, paired_difference, points
from ..base import (
    LEAST_SEEDS,
    NO_NUMBER,
    PUBLISHED,
    QUESTION,
    Claim,
    Finding,
    Judge,
    Section,
    count_sides,
    judged,
    list_gaps,
)
from .study import explanations_frame

FLOWERS = {"flowers-single-6c": "one telling part", "flowers-double-12c": "two telling parts"}
NAMES = FLOWERS | {"cifar10": TITLES["cifar10"]}


def quiet_gap(rows: pd.DataFrame, dataset: str, a: str, b: str | None = None) -> Gap:
    """Column a, minus column b if given, over the networks trained without noise: mean, low, high, n."""
    some = rows[(rows["dataset"] == dataset) & (rows["method"] == "none")]
    return interval((some[a] if b is None else some[a] - some[b]).dropna())


def sparse_gap(rows: pd.DataFrame, dataset: str, value: str) -> Gap:
    """A column at q = 1 minus at q = 3, paired by seed: mean, low, high, n."""
    return paired_difference(rows[(rows["dataset"] == dataset) & (rows["method"] == "sparseout")], value, 1.0, 3.0)


def _judge(
    measure: Callable[[pd.DataFrame], dict[str, Gap]],
    sign: int,
    digits: int,
    reason: str,
    *,
    unit: str,
    fit: bool = False,
    weak: str = "",
) -> Judge:
    """It holds if every interval that ``measure`` finds, of seeds enough, lies on the side of ``sign``.
    With ``fit`` the reason says whether the networks compared fit equally well."""

    def find(rows: pd.DataFrame) -> Finding:
        gaps = {f"{name}:": gap for name, gap in measure(rows).items() if gap.n >= LEAST_SEEDS}
        said = f"{reason}; {count_sides(gaps, sign)}"
        if fit:
            fits = [sparse_gap(rows, dataset, "valid_accuracy") for dataset in ("flowers-single-6c", "cifar10")]
            enough = ", ".join(points(gap) for gap in fits if gap.n >= LEAST_SEEDS)
            said += f"; validation accuracy differs by {enough} points"
        ours = f"{list_gaps(gaps, f'+.{digits}f')}; n = {min((gap.n for gap in gaps.values()), default=0)}"
        return judged(gaps, ours, said, sign=sign, unit=unit, spec=f"+.{digits}f", weak=weak)

    return find


def _relevant(rows: pd.DataFrame) -> dict[str, Gap]:
    return {NAMES[dataset]: quiet_gap(rows, dataset, "relevance") for dataset in NAMES}


def _overlap(controls: dict[str, str]) -> Callable[[pd.DataFrame], dict[str, Gap]]:
    """How much better selected features overlap with the truth than each of these controls, by its column."""
    return lambda rows: {
        f"{title}, minus {words}": quiet_gap(rows, dataset, "overlap_selected", f"overlap_{control}")
        for dataset, title in FLOWERS.items()
        for control, words in controls.items()
    }


_covers = _overlap({"random": "random channels", "usual place": "the usual place"})
_beats_gradients = _overlap({"guided": "guided backpropagation", "gradient": "the gradient"})


def _fewer(rows: pd.DataFrame) -> dict[str, Gap]:
    return {NAMES[dataset]: sparse_gap(rows, dataset, "needed") for dataset in ("flowers-single-6c", "cifar10")}


def _more_faithful(rows: pd.DataFrame) -> dict[str, Gap]:
    lost = {
        f"points lost beyond random channels, {NAMES[dataset]}": sparse_gap(rows, dataset, "relevance")
        for dataset in ("flowers-single-6c", "cifar10")
    }
    overlap = sparse_gap(rows, "flowers-single-6c", "overlap_selected") * 100
    return {"overlap with the telling part, in hundredths": overlap} | lost


_PAPER = "Oramas, Wang & Tuytelaars 2019, abstract; its tables not known to us"
_ASKED = "asked by this book; we know of no paper that claims it"
_TRUTH = "intersection over union with the truth, minus that of a control"
_SCALE = (
    "the small CNN at half its width, 0.04 M parameters, 4 or 7 epochs; drawn flowers of 32x32 pixels in the place of "
    "an8Flower, 4,000 images of CIFAR-10"
)

SECTION = Section(
    "What sparse features mean",
    "Explanations by interpretation, tested in chapter 14 on drawn flowers whose telling part is known to the pixel, "
    "and on CIFAR-10.",
    tuple(
        Claim(
            claim,
            source,
            NO_NUMBER,
            _SCALE,
            "`bridgeout sweep explanations`",
            find,
            explanations_frame,
            kind=QUESTION if source == _ASKED else PUBLISHED,
        )
        for claim, source, find in (
            (
                "The features that the lasso selects are relevant: silencing them costs a class more than silencing "
                "as many channels of the same layers, drawn at random",
                _PAPER,
                _judge(
                    _relevant,
                    +1,
                    1,
                    "points of accuracy lost beyond random channels, mean over classes",
                    unit="points",
                    weak="the draws are from all channels, selected and silent ones too: the control is lenient",
                ),
            ),
            (
                "Explanations from selected features cover the part that tells the class",
                _PAPER,
                _judge(_covers, +1, 3, _TRUTH, unit="of overlap"),
            ),
            (
                "They cover it better than pictures of the class score that select nothing",
                _ASKED,
                _judge(_beats_gradients, +1, 3, _TRUTH, unit="of overlap"),
            ),
            (
                "Networks trained for sparser activations need fewer features per class",
                _ASKED,
                _judge(
                    _fewer,
                    -1,
                    2,
                    "features for 30 % of the variance, median over classes; q = 1 minus q = 3",
                    unit="features",
                    fit=True,
                ),
            ),
            (
                "Networks trained for sparser activations give more faithful explanations",
                _ASKED,
                _judge(_more_faithful, +1, 1, "q = 1 minus q = 3", unit="points, or hundredths of overlap", fit=True),
            ),
        )
    ),
)
