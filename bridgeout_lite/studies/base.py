"""What a study is made of beside its experiments: claims, what is found of them, and the study that holds them."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..runs.records import Record, Store, find_store

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
        judge: from the study's recorded runs to a :class:`Finding`.
        name: a short permanent name, the claim's anchor in the ledger; defaults to the first words of ``claim``.
    """

    claim: str
    source: str
    published: str
    scale: str
    command: str
    judge: Judge
    name: str = ""

    @property
    def slug(self) -> str:
        """The anchor of the claim: its name or, of what it says and of what it says it of, the first words."""
        if self.name:
            return self.name
        what, _, of = self.claim.lower().replace("'s ", " ").partition(": ")
        words = [re.findall(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", part) for part in (what, of)]
        return "-".join([*words[0][:7], *words[1][:7]])


@dataclasses.dataclass(frozen=True)
class Section:
    """The claims of one paper or of one kind, with a sentence on them."""

    title: str
    text: str
    claims: tuple[Claim, ...]


def not_run(reason: str) -> Judge:
    """The judge of a claim that nothing here tests."""
    return lambda records: Finding("-", "not run", reason)


@dataclasses.dataclass(frozen=True)
class Study:
    """One study.

    Attributes:
        name: that of its module (with hyphens for underscores), of its tests, and of its sweeps, which may add a word.
        sweeps: by the name of sweep and store what makes its experiments.
        sections: of the ledger.
        reads: stores of other studies that its claims are judged by as well.
    """

    name: str
    sweeps: Mapping[str, Callable[[], Sequence[Any]]] = dataclasses.field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    reads: tuple[str, ...] = ()

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
