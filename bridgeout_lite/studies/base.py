"""What every section of the ledger is made of: claims, findings, and the statistics that judges share."""

import dataclasses
from collections.abc import Callable

from ..runs.records import Record

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
