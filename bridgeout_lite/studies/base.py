"""What a study is made of beside its experiments: claims, what is found of them, and the study that holds them."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ..checks import check_choice
from ..runs.records import Record, Store, find_store
from ..stats import Gap

VERDICTS = ("holds", "holds in direction", "undecided", "contradicted", "not run")
HOLDS, DIRECTION, UNDECIDED, CONTRADICTED, NOT_RUN = VERDICTS

KINDS = ("published claim", "mathematics", "question of this book")
PUBLISHED, MATHEMATICS, QUESTION = KINDS

# No verdict on fewer.
LEAST_SEEDS = 3

# A network overfits if its training accuracy is this many points above its test accuracy. Where it does not, a
# regulariser can only cost, and nothing is decided about it.
OVERFITS = 4.0

# What claims without a published number say for it, and mathematical claims for their scale.
NO_NUMBER = "no number known to us"
THEORY = "none: the claim is mathematical"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What we measured for a claim.

    Attributes:
        ours: all that was measured, with intervals. verdict: one of ``VERDICTS``. reason: why.
        scale: of the networks that were run, where that depends on the records.
        short: ``ours`` in a few words, for the table; empty where ``ours`` is short. n: seeds; 0 where there is no
            chance in it. smallest: the smallest effect that n seeds could show, in words. gaps: the differences that
            were judged, by what they are of.
    """

    ours: str
    verdict: str
    reason: str
    scale: str | None = None
    short: str = ""
    n: int = 0
    smallest: str = ""
    gaps: Mapping[str, Gap] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, got {self.verdict!r}")


Table = Callable[[Iterable[Record]], pd.DataFrame]
Judge = Callable[[pd.DataFrame], Finding]

TOO_FEW = Finding("-", NOT_RUN, f"fewer than {LEAST_SEEDS} seeds recorded")


@dataclasses.dataclass(frozen=True)
class Regime:
    """Training and test accuracy (%) of the network without the method, or another pair of scores of which the first
    is the better one where it overfits; ``words`` if they are no accuracies."""

    train: float
    test: float
    words: str = ""

    @property
    def overfits(self) -> bool:
        """Whether there is something for a regulariser to do."""
        return self.train - self.test >= OVERFITS

    def __str__(self) -> str:
        return self.words or f"without the method {self.train:.1f} % training and {self.test:.1f} % test accuracy"


def judged(
    gaps: Mapping[str, Gap],
    ours: str,
    reason: str,
    *,
    sign: int = 1,
    least: float = 0.0,
    matters: float = 0.0,
    within: float | None = None,
    exact: bool = False,
    scale: str | None = None,
    unit: str = "points",
    spec: str = "+.1f",
    regime: Regime | None = None,
    weak: str = "",
) -> Finding:
    """What is found of a claim that every one of these differences lies on one side.

    It holds if all of them do, with their whole interval; it is contradicted if one does not, with its whole interval;
    else it is undecided, and it always is where the test could not have decided it.

    Args:
        gaps: by what they are of; without any, or with one of fewer than ``LEAST_SEEDS`` seeds, the claim is not run.
        ours, reason, scale: of the :class:`Finding`.
        sign: 1 if the differences are claimed to be above ``least``, -1 if below -``least``.
        matters: the smallest effect that matters; an interval that ends below it contradicts the claim.
        within: if given, the claim is that all differences are smaller than this, whatever their sign.
        exact: whether the claim, if it holds, holds as published and not in direction alone.
        unit, spec: of the differences, for the short form.
        regime: of the network without the method, for claims on what a regulariser does to accuracy.
        weak: why this test could not have decided the claim, if it could not.
    """
    if not gaps or min(gap.n for gap in gaps.values()) < LEAST_SEEDS:
        return TOO_FEW

    def side(gap: Gap) -> int:
        low, high = (gap.low, gap.high) if sign > 0 else (-gap.high, -gap.low)
        if within is not None:
            return 1 if max(-low, high) < within else -1 if low > within or high < -within else 0
        return 1 if low > least else -1 if high < max(least, matters) else 0

    sides = [side(gap) for gap in gaps.values()]
    verdict = CONTRADICTED if -1 in sides else UNDECIDED if 0 in sides else HOLDS if exact else DIRECTION
    if regime is not None:
        reason = f"{reason}; {regime}"
        if not regime.overfits:
            weak = f"these are less than {OVERFITS:g} points apart: there was nothing for a regulariser to do"
    if weak:
        verdict, reason = UNDECIDED, f"{reason}; {weak}"
    means = sorted(gap.mean for gap in gaps.values())
    short = f"{next(iter(gaps.values())):{spec}} {unit}"
    if len(gaps) > 1:
        short = f"{means[0]:{spec}} to {means[-1]:{spec}} {unit}; of {len(gaps)} intervals {sides.count(1)} for it"
        short += f", {sides.count(-1)} against"
    half = max((gap.high - gap.low) / 2 for gap in gaps.values())
    return Finding(
        ours,
        verdict,
        reason,
        scale,
        short=short,
        n=min(gap.n for gap in gaps.values()),
        smallest=f"{half:{spec.replace('+', '')}} {unit}",
        gaps=dict(gaps),
    )


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
    """A claim, most of them published.

    Attributes:
        claim: in our words. source: where it stands. published: its number, or "no number known to us".
        scale: how our test differs in scale. command: what reruns the test.
        find: from the rows of ``table`` to a :class:`Finding`.
        table: the recorded runs as the rows that ``find`` reads; without one it decides by computation and gets none.
        kind: one of ``KINDS``.
        name: a short permanent name, the claim's anchor in the ledger; defaults to the first words of ``claim``.
    """

    claim: str
    source: str
    published: str
    scale: str
    command: str
    find: Judge
    table: Table | None = None
    kind: str = PUBLISHED
    name: str = ""

    def __post_init__(self) -> None:
        check_choice(self.kind, KINDS, "kind")

    @property
    def paper(self) -> str:
        """Authors and year, with which the source of a published claim begins; else "this book"."""
        found = re.match(r".*?\b\d{4}\b", self.source)
        return found[0] if found and self.kind != QUESTION else "this book"

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
    return lambda rows: Finding("-", NOT_RUN, reason)


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
