"""The search for a method's strength: a ladder of values, climbed until the best stands between two that were tried."""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Any

from ..runs.records import Record, fingerprint


def valid_accuracy(record: Record) -> float:
    """Accuracy (%) on the validation images; 0 if the run diverged."""
    return float(record.metrics.get("valid_accuracy", 0.0))


@dataclasses.dataclass(frozen=True)
class Ladder:
    """A dial of one method, and how its best value is found.

    Attributes:
        make: ``make(value, seed)``, an experiment at that value.
        values: of the dial, in order. beginning: those that are tried first.
        seeds: 0 to ``seeds`` - 1 are run at every value that is tried.
        score: of a record, by what validation images say; the highest mean over seeds is the best.
    """

    make: Callable[[float, int], Any]
    values: tuple[float, ...]
    beginning: tuple[float, ...]
    seeds: int = 2
    score: Callable[[Record], float] = valid_accuracy

    def at(self, value: float) -> list[Any]:
        """The experiments at one value, all seeds of the search."""
        return [self.make(value, seed) for seed in range(self.seeds)]

    def tried(self, records: Iterable[Record]) -> dict[float, float]:
        """The values of which all seeds are recorded, and their mean score."""
        found = {record.key: record for record in records}
        means = {}
        for value in self.values:
            keys = [fingerprint(experiment.spec) for experiment in self.at(value)]
            if all(key in found for key in keys):
                means[value] = sum(self.score(found[key]) for key in keys) / self.seeds
        return means

    def to_try(self, records: Iterable[Record]) -> list[Any]:
        """What is to be run next: the beginning; then the neighbours of the best so far; nothing once it has been tried
        between both of them, or stands at an end of the ladder."""
        means, wanted = self.tried(records), self.beginning
        if set(wanted) <= means.keys():
            place = self.values.index(max(means, key=lambda value: means[value]))
            wanted = self.values[max(place - 1, 0) : place + 2]
        return [experiment for value in wanted if value not in means for experiment in self.at(value)]

    def best(self, records: Iterable[Record]) -> float:
        """The value with the highest mean score.

        Raises:
            ValueError: no value has all its seeds.
        """
        means = self.tried(records)
        if not means:
            raise ValueError(f"no value is recorded with {self.seeds} seeds: run what to_try() names first")
        return max(means, key=lambda value: means[value])


def search_then(
    ladders: Iterable[Ladder], repeats: Callable[[], Iterable[Any]], records: Collection[Record]
) -> list[Any]:
    """What the searches ask for next; once all have ended, those of the ``repeats`` that have no record yet."""
    runs = [run for ladder in ladders for run in ladder.to_try(records)]
    known = {record.key for record in records}
    return runs or [run for run in dict.fromkeys(repeats()) if fingerprint(run.spec) not in known]
