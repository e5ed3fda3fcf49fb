"""Sweeps that go on by their results: what is run next depends on what is recorded."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..runs.records import Record, Store, fingerprint


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """A sweep whose next runs follow from its records.

    Attributes:
        next_runs: from the records so far, what is to be run next; nothing at the end.
    """

    next_runs: Callable[[list[Record]], Sequence[Any]]

    def __call__(self, records: Iterable[Record] = ()) -> list[Any]:
        """All that was asked for on the way to these records, and what is asked for next."""
        recorded = {record.key: record for record in records}
        plan: dict[str, Any] = {}
        while True:
            asked = self.next_runs([recorded[key] for key in plan if key in recorded])
            new = {key: run for run in asked if (key := fingerprint(run.spec)) not in plan}
            if not new:
                return list(plan.values())
            plan |= new


def run_rounds(
    make: Callable[..., Sequence[Any]],
    store: Store,
    run: Callable[..., list[Record]],
    budget: float | None = None,
) -> tuple[list[Record], list[Any]]:
    """Run a sweep; an :class:`Adaptive` one round after round, until its results ask for nothing more, a run stays
    without a record (time is up, or another process makes it), or the budget is spent.

    Args:
        make: the sweep. store: where its records are. budget: seconds for all rounds (default: no limit).
        run: ``run(experiments, store, budget=seconds)``, such as :func:`bridgeout_lite.sweep`; the records of these.

    Returns:
        The records, and the experiments that were asked for.
    """
    end = None if budget is None else time.monotonic() + budget
    asked: list[Any] = []
    records: list[Record] = []
    while True:
        before, asked = asked, list(make(store) if isinstance(make, Adaptive) else make())
        left = None if end is None else end - time.monotonic()
        if len(records) < len(before) or len(asked) == len(before) or (left is not None and left <= 0):
            return records, asked
        records = run(asked, store, budget=left)
