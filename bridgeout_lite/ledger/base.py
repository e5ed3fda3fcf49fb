"""What every section of the ledger is made of: claims, findings, and the statistics that judges share."""

import dataclasses
from collections.abc import Callable

import pandas as pd

from ..records import Record, summarise

VERDICTS = ("reproduced", "reproduced in direction", "not reproduced", "not run")

# No verdict on fewer.
LEAST_SEEDS = 3

# What claims without a published number say for it, and mathematical claims for their scale.
NO_NUMBER = "no number known to us"
THEORY = "none: the claim is mathematical"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What we measured for a claim: ``ours`` (with interval and n), one of ``VERDICTS``, the reason, and the difference
    in scale where that depends on the records."""

    ours: str
    verdict: str
    reason: str
    scale: str | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, got {self.verdict!r}")


Judge = Callable[[list[Record]], Finding]

DIRECTION = VERDICTS[1]
TOO_FEW = Finding("-", "not run", f"fewer than {LEAST_SEEDS} seeds recorded")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A published claim.

    Attributes:
        claim: in our words. source: where it stands. published: its number, or "no number known to us".
        scale: how our test differs in scale. command: what reruns the test.
        judge: from all recorded runs to a :class:`Finding`.
    """

    claim: str
    source: str
    published: str
    scale: str
    command: str
    judge: Judge


@dataclasses.dataclass(frozen=True)
class Section:
    """The claims of one paper or of one kind, with a sentence on them."""

    title: str
    text: str
    claims: tuple[Claim, ...]


def not_run(reason: str) -> Judge:
    """The judge of a claim that nothing here tests."""
    return lambda records: Finding("-", "not run", reason)


def interval(values: pd.Series) -> tuple[float, float, float, int]:
    """Mean with its 95 % Student-t interval: (mean, low, high, n). One value has no interval, none has no mean: nan."""
    if not len(values):
        return float("nan"), float("nan"), float("nan"), 0
    row = summarise(pd.DataFrame({"all": 0, "value": values}), ["all"], "value").iloc[0]
    return float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"])


def paired_difference(rows: pd.DataFrame, value: str, a: float, b: float) -> tuple[float, float, float, int]:
    """Mean over seeds of ``value`` at q = a minus at q = b, with its 95 % interval: (mean, low, high, n)."""
    if not len(rows) or not {a, b} <= set(rows["q"]):
        return float("nan"), float("nan"), float("nan"), 0
    table = rows.pivot_table(index="seed", columns="q", values=value)
    return interval((table[a] - table[b]).dropna())


def points(gap: tuple[float, float, float, int]) -> str:
    """A difference and its interval, in words."""
    mean, low, high, _ = gap
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
