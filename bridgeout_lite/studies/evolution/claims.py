"""Evolving networks: stress-induced evolutionary synthesis and its ancestor, judged by our reconstruction of them."""

from collections.abc import Iterable

import pandas as pd

from ...data import TITLES
from ...runs.records import Record
from ...stats import Gap, interval, points
from ..base import DIRECTION, LEAST_SEEDS, NO_NUMBER, TOO_FEW, Claim, Finding, Judge, Section, not_run
from .study import at_size, lineages_frame
from .teacher import teachers_frame

STRESSED = "Shafiee et al. 2019, arXiv:1801.05387, abstract"
ANCESTOR = "Shafiee et al. 2016, arXiv:1606.04393, abstract"
COMMAND = "`bridgeout sweep evolution`"
SCALE = "VGG-11 of an eighth of the channels, digits and 2,000 images of CIFAR-10, three epochs a generation"

# Points of test accuracy that count as a small loss.
LITTLE = 2.0

NAMES = {name: TITLES[name] for name in ("cifar10", "digits")}


def lineages(records: list[Record], **wanted: object) -> dict[str, pd.DataFrame]:
    """The rows of each data set at the given factor, stress, ...; only sets with at least ``LEAST_SEEDS`` seeds."""
    rows = lineages_frame(records)
    for name, value in wanted.items():
        rows = rows[rows[name] == value] if len(rows) else rows
    parts = {name: rows[rows["dataset"] == name] for name in NAMES} if len(rows) else {}
    return {name: part for name, part in parts.items() if part["seed"].nunique() >= LEAST_SEEDS}


def last_offspring(rows: pd.DataFrame) -> pd.DataFrame:
    """Of rows of one kind of lineage those of its last generation."""
    return _arm(rows[rows["generation"] == rows["generation"].max()], "lineage")


def _arm(rows: pd.DataFrame, arm: str) -> pd.DataFrame:
    part: pd.DataFrame = rows[rows["arm"] == arm]
    return part


def against_control(rows: pd.DataFrame, control: str, generation: int | None = None) -> Gap:
    """Test accuracy of a lineage minus that of a control at the same generation, None for the last, paired by seed:
    (mean, low, high, n)."""
    last = rows[rows["generation"] == (rows["generation"].max() if generation is None else generation)]
    ends = last[last["arm"].isin(["lineage", control])].pivot_table(index="seed", columns="arm", values="test_accuracy")
    return interval((ends["lineage"] - ends[control]).dropna() if control in ends else pd.Series(dtype=float))


def stress_gain(rows: pd.DataFrame) -> tuple[float, float, Gap]:
    """Test accuracy with minus without stress at the smallest size that every lineage reaches, paired by seed. The
    strength is that of the best mean validation accuracy there: (strength, share of the multiply-adds, difference)."""
    rows = rows[(rows["arm"] == "lineage") & rows["inherit"]]
    share = float(rows.groupby(["stress", "seed"])["macs_share"].min().max())
    tables = {v: at_size(rows, share, v).pivot_table(index="seed", columns="stress", values=v) for v in SPLITS}
    best = float(tables["valid_accuracy"].drop(columns=0.0).mean().idxmax())  # type: ignore[arg-type]
    test = tables["test_accuracy"]
    return best, share, interval((test[best] - test[0.0]).dropna())


SPLITS = ("valid_accuracy", "test_accuracy")


def _enough(gaps: Iterable[Gap]) -> bool:
    counts = [gap[3] for gap in gaps]
    return bool(counts) and min(counts) >= LEAST_SEEDS


def _little_loss(records: list[Record]) -> Finding:
    parts = lineages(records, stress=0.0, inherit=True)
    gaps = {name: against_control(rows, "restarted") for name, rows in parts.items()}
    if not _enough(gaps.values()):
        return TOO_FEW
    lines = []
    for name, gap in gaps.items():
        last = parts[name][parts[name]["generation"] == parts[name]["generation"].max()]
        share = last[last["arm"] == "lineage"]["macs_share"].mean()
        lines.append(f"{NAMES[name]}, {100 * share:.0f} % of the multiply-adds: {points(gap)}, n = {gap[3]}")
        lines[-1] += f" ({points(against_control(parts[name], 'whole'))} against one schedule in place of restarts)"
    little, large = (
        sum(test) for test in zip(*((g[1] >= -LITTLE, g[2] < -LITTLE) for g in gaps.values()), strict=True)
    )
    return Finding(
        f"points of test accuracy, last offspring minus the whole network in the same schedule; {'; '.join(lines)}",
        DIRECTION if little == len(gaps) else "not reproduced",
        f"small means at most {LITTLE:g} points: of {len(gaps)} intervals {little} lie within and {large} beyond that",
    )


def _fewer_synapses(records: list[Record]) -> Finding:
    parts = lineages(records, stress=0.0, inherit=True)
    if "digits" not in parts:
        return TOO_FEW
    rows = parts["digits"]
    fold, gap = interval(1 / last_offspring(rows)["parameters_share"]), against_control(rows, "whole")
    if gap[3] < LEAST_SEEDS:
        return TOO_FEW
    good = fold[0] >= 48 and gap[1] >= -LITTLE
    return Finding(
        f"{fold[0]:.0f}-fold [{fold[1]:.0f}, {fold[2]:.0f}] fewer parameters in generation 4, n = {fold[3]}, at "
        f"{points(gap)} points of test accuracy against the whole network trained as long",
        DIRECTION if good else "not reproduced",
        f"asked for: 48-fold or more at a loss of at most {LITTLE:g} points",
        "handwritten digits, filters removed; the published test is visual saliency, synapses removed",
    )


def _stress_prepares(records: list[Record]) -> Finding:
    gains = {}
    for name, rows in lineages(records).items():
        if {0.0} < set(rows["stress"]) and rows.groupby("stress")["seed"].nunique().min() >= LEAST_SEEDS:
            gains[name] = stress_gain(rows)
    if not _enough(gap for *_, gap in gains.values()):
        return TOO_FEW
    lines = [
        f"{NAMES[name]}, stress {best:g}, {100 * share:.0f} % of the multiply-adds: {points(gap)}, n = {gap[3]}"
        for name, (best, share, gap) in gains.items()
    ]
    better, worse = sum(g[1] > 0 for *_, g in gains.values()), sum(g[2] < 0 for *_, g in gains.values())
    return Finding(
        f"points of test accuracy, with minus without stress at equal size; {'; '.join(lines)}",
        DIRECTION if better == len(gains) else "not reproduced",
        f"of {len(gains)} intervals {better} lie above zero and {worse} below",
    )


def _better_than(controls: tuple[str, ...]) -> Judge:
    def judge(records: list[Record]) -> Finding:
        parts = lineages(records, stress=0.0, inherit=True)
        gaps = {(name, c): against_control(rows, c) for name, rows in parts.items() for c in controls}
        if not _enough(gaps.values()):
            return TOO_FEW
        lines = [
            f"{NAMES[name]}, minus {control}: {points(gap)}, n = {gap[3]}" for (name, control), gap in gaps.items()
        ]
        better, worse = (sum(t) for t in zip(*((g[1] > 0, g[2] < 0) for g in gaps.values()), strict=True))
        return Finding(
            f"points of test accuracy of the last offspring; {'; '.join(lines)}",
            DIRECTION if better == len(gaps) else "not reproduced",
            f"of {len(gaps)} intervals {better} lie above zero and {worse} below; same widths, same epochs in sum",
        )

    return judge


def _keeps_what_is_needed(records: list[Record]) -> Finding:
    selection = teachers_frame(records)[1]
    if not len(selection) or selection["seed"].nunique() < LEAST_SEEDS:
        return TOO_FEW
    informed = selection[selection["rule"] != "random"]
    gaps = {str(rule): interval(part["gap"]) for rule, part in informed.groupby("rule")}
    table = selection.pivot_table(index="seed", columns="rule", values="gap")
    behind = interval((table["exp"] - table["magnitude"]).dropna())
    return Finding(
        "chance of a needed unit to be kept minus that of another, in points: "
        + "; ".join(f"{rule} {points(gap * 100)}" for rule, gap in gaps.items())
        + f"; exp minus magnitude {points(behind * 100)}, n = {behind[3]}",
        DIRECTION if gaps["exp"][1] > 0 else "not reproduced",
        "chance is 0; magnitude keeps as many units, the largest ones"
        + (", and tells them apart better" if behind[2] < 0 else ""),
        "students of 32 hidden units of teachers of 4, whose needed units are known",
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
        ),
        Claim(
            "In the fourth generation synapses are 48-fold fewer at comparable performance",
            ANCESTOR,
            "48-fold",
            SCALE,
            COMMAND,
            _fewer_synapses,
        ),
        Claim(
            "Stress in training prepares a network for the removal to come",
            STRESSED,
            NO_NUMBER,
            SCALE,
            COMMAND,
            _stress_prepares,
        ),
        Claim(
            "An evolved network is better than one cut at once to its size",
            "implied by the method; not stated in the abstracts",
            NO_NUMBER,
            SCALE,
            COMMAND,
            _better_than(("magnitude", "random")),
        ),
        Claim(
            "Synthesis probabilities made of a parent's weights keep what the task needs more often than chance",
            ANCESTOR,
            NO_NUMBER,
            "-",
            COMMAND,
            _keeps_what_is_needed,
        ),
        *(
            Claim(what, STRESSED, theirs, "-", "-", not_run(why))
            for what, theirs, why in (
                (
                    "Efficiency of the architecture of AlexNet, classification: 40-fold",
                    "40-fold",
                    "AlexNet on ImageNet is beyond this book's two cores, and the settings are not known to us",
                ),
                (
                    "Efficiency of the architecture of YOLOv2, detection: 33-fold",
                    "33-fold",
                    "no detector and no detection data here, and the settings are not known to us",
                ),
                (
                    "Inference of an evolved YOLOv2 on a Tegra X1: 5.5 times as fast",
                    "5.5 times",
                    "needs that network and that board; what removal does to the time here is in chapter 8",
                ),
            )
        ),
    ),
)
