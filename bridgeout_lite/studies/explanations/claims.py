"""What sparse features mean: explanations judged where the truth is drawn, and by what silencing features costs."""

from collections.abc import Callable

import pandas as pd

from ...data import TITLES
from ...runs.records import Record
from ...stats import Gap, interval, paired_difference
from ..base import DIRECTION, LEAST_SEEDS, NO_NUMBER, TOO_FEW, Claim, Finding, Judge, Section
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


def _words(gap: Gap, digits: int) -> str:
    mean, low, high, _ = gap
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _judge(
    measure: Callable[[pd.DataFrame], dict[str, Gap]], sign: int, digits: int, reason: str, *, fit: bool = False
) -> Judge:
    """Reproduced in direction if every interval that ``measure`` finds, of seeds enough, lies on the side of ``sign``.
    With ``fit`` the reason says whether the networks compared fit equally well."""

    def judge(records: list[Record]) -> Finding:
        rows = explanations_frame(records)
        gaps = {name: gap for name, gap in (measure(rows) if len(rows) else {}).items() if gap[3] >= LEAST_SEEDS}
        if not gaps:
            return TOO_FEW
        right = sum(sign * (low if sign > 0 else high) > 0 for _, low, high, _ in gaps.values())
        wrong = sum(sign * (high if sign > 0 else low) < 0 for _, low, high, _ in gaps.values())
        n = min(n for _, _, _, n in gaps.values())
        said = f"{reason}; of {len(gaps)} intervals {right} lie on the claimed side of zero and {wrong} on the other"
        if fit:
            fits = [sparse_gap(rows, dataset, "valid_accuracy") for dataset in ("flowers-single-6c", "cifar10")]
            enough = ", ".join(_words(gap, 1) for gap in fits if gap[3] >= LEAST_SEEDS)
            said += f"; validation accuracy differs by {enough} points"
        return Finding(
            "; ".join(f"{name}: {_words(gap, digits)}" for name, gap in gaps.items()) + f"; n = {n}",
            DIRECTION if right == len(gaps) else "not reproduced",
            said,
        )

    return judge


def _relevant(rows: pd.DataFrame) -> dict[str, Gap]:
    return {NAMES[dataset]: quiet_gap(rows, dataset, "relevance") for dataset in NAMES}


def _covers(rows: pd.DataFrame) -> dict[str, Gap]:
    return {
        f"{NAMES[dataset]}, minus {words}": quiet_gap(rows, dataset, "overlap_selected", f"overlap_{control}")
        for dataset in ("flowers-single-6c", "flowers-double-12c")
        for control, words in (("random", "random channels"), ("usual place", "the usual place"))
    }


def _beats_gradients(rows: pd.DataFrame) -> dict[str, Gap]:
    return {
        f"{NAMES[dataset]}, minus {words}": quiet_gap(rows, dataset, "overlap_selected", f"overlap_{control}")
        for dataset in ("flowers-single-6c", "flowers-double-12c")
        for control, words in (("guided", "guided backpropagation"), ("gradient", "the gradient"))
    }


def _fewer(rows: pd.DataFrame) -> dict[str, Gap]:
    return {NAMES[dataset]: sparse_gap(rows, dataset, "needed") for dataset in ("flowers-single-6c", "cifar10")}


def _more_faithful(rows: pd.DataFrame) -> dict[str, Gap]:
    flowers = sparse_gap(rows, "flowers-single-6c", "overlap_selected")
    return {
        "overlap with the telling part, in hundredths": (*(100 * v for v in flowers[:3]), flowers[3]),  # type: ignore[dict-item]
        **{
            f"points lost beyond random channels, {NAMES[dataset]}": sparse_gap(rows, dataset, "relevance")
            for dataset in ("flowers-single-6c", "cifar10")
        },
    }


_PAPER = "Oramas, Wang & Tuytelaars 2019, abstract; its tables not known to us"
_ASKED = "asked here; we know of no paper that claims it"
_SCALE = (
    "the small CNN at half its width, 0.04 M parameters, 4 or 7 epochs; drawn flowers of 32x32 pixels in the place of "
    "an8Flower, 4,000 images of CIFAR-10"
)

SECTION = Section(
    "What sparse features mean",
    "Explanations by interpretation, tested in chapter 15 on drawn flowers whose telling part is known to the pixel, "
    "and on CIFAR-10.",
    tuple(
        Claim(claim, source, NO_NUMBER, _SCALE, "`bridgeout sweep explanations`", judge)
        for claim, source, judge in (
            (
                "The features that the lasso selects are relevant: silencing them costs a class more than silencing "
                "as many channels of the same layers, drawn at random",
                _PAPER,
                _judge(
                    _relevant,
                    +1,
                    1,
                    "points of accuracy lost beyond random channels, mean over classes; the draws are from all "
                    "channels, selected and silent ones too",
                ),
            ),
            (
                "Explanations from selected features cover the part that tells the class",
                _PAPER,
                _judge(_covers, +1, 3, "intersection over union with the truth, minus that of a control"),
            ),
            (
                "They cover it better than pictures of the class score that select nothing",
                _ASKED,
                _judge(_beats_gradients, +1, 3, "intersection over union with the truth, minus that of a control"),
            ),
            (
                "Networks trained for sparser activations need fewer features a class",
                _ASKED,
                _judge(
                    _fewer, -1, 2, "features for 30 % of the variance, median over classes; q = 1 minus q = 3", fit=True
                ),
            ),
            (
                "Networks trained for sparser activations give more faithful explanations",
                _ASKED,
                _judge(_more_faithful, +1, 1, "q = 1 minus q = 3", fit=True),
            ),
        )
    ),
)
