"""Evolving networks: stress-induced evolutionary synthesis and its ancestor, judged by our reconstruction of them."""

from collections.abc import Iterable

import pandas as pd

from ...data import TITLES
from ...runs.records import Record
from ...stats import Gap, interval, paired, points
from ..base import (
    LEAST_SEEDS,
    NO_NUMBER,
    QUESTION,
    TOO_FEW,
    Claim,
    Finding,
    Judge,
    Section,
    count_sides,
    judged,
    list_gaps,
    not_run,
    seeded,
)
from .study import at_size, lineages_frame
from .teacher import teachers_frame

STRESSED = "Shafiee et al. 2019, arXiv:1801.05387, abstract"
ANCESTOR = "Shafiee et al. 2016, arXiv:1606.04393, abstract"
COMMAND = "`bridgeout sweep evolution`"
SCALE = "VGG-11 of an eighth of the channels, digits and 2,000 images of CIFAR-10, three epochs a generation"

# Points of test accuracy that count as a small loss.
LITTLE = 2.0

NAMES = {name: TITLES[name] for name in ("cifar10", "digits")}


def _by_data(rows: pd.DataFrame, **wanted: object) -> dict[str, pd.DataFrame]:
    """The rows of each data set at the given factor, stress, ...; only sets with at least ``LEAST_SEEDS`` seeds."""
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    parts = {name: rows[rows["dataset"] == name] for name in NAMES}
    return {name: part for name, part in parts.items() if seeded(part)}


def lineages(records: list[Record], **wanted: object) -> dict[str, pd.DataFrame]:
    """The lineages of each data set at the given factor, stress, ...; only sets with at least ``LEAST_SEEDS`` seeds."""
    rows = lineages_frame(records)
    return _by_data(rows, **wanted) if len(rows) else {}


def selections(records: Iterable[Record]) -> pd.DataFrame:
    """The second table of :func:`~.teacher.teachers_frame`."""
    return teachers_frame(records)[1]


def last_offspring(rows: pd.DataFrame) -> pd.DataFrame:
    """Of rows of one kind of lineage those of its last generation."""
    last: pd.DataFrame = rows[(rows["generation"] == rows["generation"].max()) & (rows["arm"] == "lineage")]
    return last


def against_control(rows: pd.DataFrame, control: str, generation: int | None = None) -> Gap:
    """Test accuracy of a lineage minus that of a control at the same generation, None for the last, paired by seed:
    (mean, low, high, n)."""
    last = rows[rows["generation"] == (rows["generation"].max() if generation is None else generation)]
    return paired(last, "test_accuracy", "arm", "lineage", control)


def stress_gain(rows: pd.DataFrame) -> tuple[float, float, Gap]:
    """Test accuracy with minus without stress at the smallest size that every lineage reaches, paired by seed. The
    strength is that of the best mean validation accuracy there: (strength, share of the multiply-adds, difference)."""
    rows = rows[(rows["arm"] == "lineage") & rows["inherit"]]
    share = float(rows.groupby(["stress", "seed"])["macs_share"].min().max())
    valid, test = at_size(rows, share, "valid_accuracy"), at_size(rows, share, "test_accuracy")
    means = valid[valid["stress"] > 0].groupby("stress")["valid_accuracy"].mean().dropna()
    best = float(means.index.to_numpy()[means.argmax()])
    return best, share, paired(test, "test_accuracy", "stress", best, 0.0)


def _little_loss(rows: pd.DataFrame) -> Finding:
    parts = _by_data(rows, stress=0.0, inherit=True)
    gaps = {name: against_control(part, "restarted") for name, part in parts.items()}
    lines = []
    for name, gap in gaps.items():
        share = last_offspring(parts[name])["macs_share"].mean()
        whole = against_control(parts[name], "whole")
        lines.append(
            f"{NAMES[name]}, {100 * share:.0f} % of the multiply-adds: {points(gap)}, n = {gap.n} ({points(whole)} "
            "against one schedule in place of restarts)"
        )
    little, large = (sum(g.low > -LITTLE for g in gaps.values()), sum(g.high < -LITTLE for g in gaps.values()))
    return judged(
        gaps,
        f"points of test accuracy, last offspring minus the whole network in the same schedule; {'; '.join(lines)}",
        f"small means at most {LITTLE:g} points: of {len(gaps)} intervals {little} lie within and {large} beyond that",
        least=-LITTLE,
        matters=-LITTLE,
    )


def _fewer_synapses(rows: pd.DataFrame) -> Finding:
    parts = _by_data(rows, stress=0.0, inherit=True)
    if "digits" not in parts:
        return TOO_FEW
    gap, fold = (
        against_control(parts["digits"], "whole"),
        interval(1 / last_offspring(parts["digits"])["parameters_share"]),
    )
    return judged(
        {"whole": gap},
        f"{fold.mean:.0f}-fold [{fold.low:.0f}, {fold.high:.0f}] fewer parameters in generation 4, n = {fold.n}, at "
        f"{points(gap)} points of test accuracy against the whole network trained as long",
        f"asked for: 48-fold or more at a loss of at most {LITTLE:g} points",
        least=-LITTLE,
        matters=-LITTLE,
        weak="" if fold.mean >= 48 else "removing filters did not make it as small",
        scale="handwritten digits, filters removed; the published test is visual saliency, synapses removed",
    )


def _stress_prepares(rows: pd.DataFrame) -> Finding:
    gaps = {}
    for name, part in _by_data(rows).items():
        if {0.0} < set(part["stress"]) and part.groupby("stress")["seed"].nunique().min() >= LEAST_SEEDS:
            best, share, gap = stress_gain(part)
            gaps[f"{NAMES[name]}, stress {best:g}, {100 * share:.0f} % of the multiply-adds:"] = gap
    return judged(
        gaps,
        f"points of test accuracy, with minus without stress at equal size; {list_gaps(gaps, seeds=True)}",
        count_sides(gaps),
        matters=1.0,
        weak="the last generation, too, is trained under stress and compared with one that is not: the price of that "
        "is in the difference",
    )


def _better_than(controls: tuple[str, ...]) -> Judge:
    def find(rows: pd.DataFrame) -> Finding:
        parts = _by_data(rows, stress=0.0, inherit=True)
        gaps = {
            f"{NAMES[name]}, minus {control}:": against_control(part, control)
            for name, part in parts.items()
            for control in controls
        }
        return judged(
            gaps,
            f"points of test accuracy of the last offspring; {list_gaps(gaps, seeds=True)}",
            f"{count_sides(gaps)}; same widths, same epochs in sum",
            matters=1.0,
        )

    return find


def _keeps_what_is_needed(selection: pd.DataFrame) -> Finding:
    if not seeded(selection):
        return TOO_FEW
    informed = selection[selection["rule"] != "random"]
    gaps = {str(rule): interval(part["gap"]) * 100 for rule, part in informed.groupby("rule")}
    behind = paired(selection, "gap", "rule", "exp", "magnitude") * 100
    return judged(
        {"exp": gaps["exp"]},
        f"chance of a needed unit to be kept minus that of another, in points: {list_gaps(gaps)}; exp minus magnitude "
        f"{points(behind)}, n = {behind.n}",
        "chance is 0; magnitude keeps as many units, the largest ones"
        + (", and tells them apart better" if behind.below else ""),
        scale="students of 32 hidden units of teachers of 4, whose needed units are known",
    )


SECTION = Section(
    "Evolving networks",
    "Offspring drawn from the weights of a parent, generation after generation, with and without stress. The formulas "
    "are our reconstruction: of both papers only the abstracts were at hand.",
    (
        Claim(
            "Networks become many times smaller over generations at little loss of accuracy",
            STRESSED,
            NO_NUMBER + " for these data",
            SCALE,
            COMMAND,
            _little_loss,
            lineages_frame,
        ),
        Claim(
            "In the fourth generation synapses are 48-fold fewer at comparable performance",
            ANCESTOR,
            "48-fold",
            SCALE,
            COMMAND,
            _fewer_synapses,
            lineages_frame,
        ),
        Claim(
            "Stress in training prepares a network for the removal to come",
            STRESSED,
            NO_NUMBER,
            SCALE,
            COMMAND,
            _stress_prepares,
            lineages_frame,
        ),
        Claim(
            "An evolved network is better than one cut at once to its size",
            "implied by the method; not stated in the abstracts",
            NO_NUMBER,
            SCALE,
            COMMAND,
            _better_than(("magnitude", "random")),
            lineages_frame,
            kind=QUESTION,
        ),
        Claim(
            "Synthesis probabilities made of a parent's weights keep what the task needs more often than chance",
            ANCESTOR,
            NO_NUMBER,
            "-",
            COMMAND,
            _keeps_what_is_needed,
            selections,
        ),
        Claim(
            "Efficiency grows 40-fold for AlexNet and 33-fold for YOLOv2, which runs 5.5 times as fast on a Tegra X1",
            STRESSED,
            "40-fold, 33-fold, 5.5 times",
            "-",
            "-",
            not_run(
                "these networks, ImageNet, detection data and the board are beyond this book's two cores, and the "
                "settings are not known to us"
            ),
        ),
    ),
)
