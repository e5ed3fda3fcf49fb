"""What a study is made of beside its experiments: claims, what is found of them, and the study that holds them."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ..runs.records import Record, Store, find_store
from ..stats import Gap

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


Table = Callable[[Iterable[Record]], pd.DataFrame]
Judge = Callable[[pd.DataFrame], Finding]

DIRECTION = VERDICTS[1]
TOO_FEW = Finding("-", "not run", f"fewer than {LEAST_SEEDS} seeds recorded")


def judged(
    gaps: Mapping[str, Gap],
    ours: str,
    reason: str,
    *,
    sign: int = 1,
    least: float = 0.0,
    exact: bool = False,
    scale: str | None = None,
) -> Finding:
    """What is found of a claim that every one of these differences lies on one side.

    Args:
        gaps: by what they are of; without any, or with one of fewer than ``LEAST_SEEDS`` seeds, the claim is not run.
        ours, reason, scale: of the :class:`Finding`.
        sign: 1 if the whole interval is to lie above ``least``, -1 if below.
        exact: whether the claim, if it holds, is reproduced as published and not in direction alone.
    """
    if not gaps or min(gap.n for gap in gaps.values()) < LEAST_SEEDS:
        return TOO_FEW
    holds = all(gap.low > least if sign > 0 else gap.high < least for gap in gaps.values())
    return Finding(ours, VERDICTS[2] if not holds else VERDICTS[0] if exact else DIRECTION, reason, scale)


def count_sides(gaps: Mapping[str, Gap], sign: int = 0) -> str:
    """How many intervals lie on which side of zero; of a ``sign`` the claimed side and the other."""
    above, below = sum(gap.above for gap in gaps.values()), sum(gap.below for gap in gaps.values())
    if not sign:
        return f"of {len(gaps)} intervals {above} lie above zero and {below} below"
    right, wrong = (above, below) if sign > 0 else (below, above)
    return f"of {len(gaps)} intervals {right} lie on the claimed side of zero and {wrong} on the other"


def list_gaps(gaps: Mapping[str, Gap], spec: str = "+.1f", *, seeds: bool = False) -> str:
    """Each difference behind its name, with its number of seeds if asked for."""
    return "; ".join(f"{name} {gap:{spec}}" + f", n = {gap.n}" * seeds for name, gap in gaps.items())


def seeded(rows: pd.DataFrame) -> bool:
    """Whether these rows, which have a column seed, are of at least ``LEAST_SEEDS`` seeds."""
    return len(rows) > 0 and rows["seed"].nunique() >= LEAST_SEEDS


@dataclasses.dataclass(frozen=True)
class Claim:
    """A published claim.

    Attributes:
        claim: in our words. source: where it stands. published: its number, or "no number known to us".
        scale: how our test differs in scale. command: what reruns the test.
        find: from the rows of ``table`` to a :class:`Finding`.
        table: the recorded runs as the rows that ``find`` reads; without one it decides by computation and gets none.
        name: a short permanent name, the claim's anchor in the ledger; defaults to the first words of ``claim``.
    """

    claim: str
    source: str
    published: str
    scale: str
    command: str
    find: Judge
    table: Table | None = None
    name: str = ""

    def judge(self, records: Iterable[Record]) -> Finding:
        """What is found by these runs; "not run" if they leave the table without rows."""
        return findings([self], records)[0]

    @property
    def slug(self) -> str:
        """The anchor of the claim: its name or, of what it says and of what it says it of, the first words."""
        if self.name:
            return self.name
        what, _, of = self.claim.lower().replace("'s ", " ").partition(": ")
        words = [re.findall(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", part) for part in (what, of)]
        return "-".join([*words[0][:7], *words[1][:7]])


def findings(claims: Iterable[Claim], records: Iterable[Record]) -> list[Finding]:
    """What is found of each claim; each table is made once."""
    records = [*records]
    tables: dict[Table | None, pd.DataFrame] = {None: pd.DataFrame()}
    found = []
    for claim in claims:
        if claim.table not in tables:
            assert claim.table is not None
            tables[claim.table] = claim.table(records)
        rows = tables[claim.table]
        found.append(claim.find(rows) if len(rows) or claim.table is None else TOO_FEW)
    return found


@dataclasses.dataclass(frozen=True)
class Section:
    """The claims of one paper or of one kind, with a sentence on them."""

    title: str
    text: str
    claims: tuple[Claim, ...]


def not_run(reason: str) -> Judge:
    """The judge of a claim that nothing here tests."""
    return lambda rows: Finding("-", "not run", reason)


@dataclasses.dataclass(frozen=True)
class Study:
    """One study.

    Attributes:
        name: that of its module (with hyphens for underscores), of its tests, and of its sweeps, which may add a word.
        sweeps: by the name of sweep and store what makes its experiments; see also :class:`~.adaptive.Adaptive`.
        sections: of the ledger.
        table: its recorded runs as a table.
        reads: stores of other studies that its claims are judged by as well.
    """

    name: str
    sweeps: Mapping[str, Callable[..., Sequence[Any]]] = dataclasses.field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    reads: tuple[str, ...] = ()
    table: Table | None = None

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims of all sections."""
        return tuple(claim for section in self.sections for claim in section.claims)

    def records(self) -> list[Record]:
        """Its recorded runs, those that diverged included; none where nothing is recorded yet."""
        return [record for name in self.sweeps if (path := find_store(name)) for record in Store(path)]

    def evidence(self) -> list[Record]:
        """What its claims are judged by: its runs and those of ``reads``, without those that diverged."""
        others = [record for name in self.reads if (path := find_store(name)) for record in Store(path)]
        return [record for record in [*self.records(), *others] if "failed" not in record.metrics]

    def finding(self, slug: str) -> Finding:
        """What is found of the claim with this slug.

        Raises:
            ValueError: no such claim; the message lists those that there are.
        """
        for claim in self.claims:
            if claim.slug == slug:
                return claim.judge(self.evidence())
        raise ValueError(f"no claim of {self.name!r} is called {slug!r}; there are {[c.slug for c in self.claims]}")
