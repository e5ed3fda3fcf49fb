"""Sweeps that go on by their results."""

import dataclasses

import pytest

from bridgeout_lite import Record, Store
from bridgeout_lite.cli import main
from bridgeout_lite.runs.records import fingerprint
from bridgeout_lite.runs.runner import sweep
from bridgeout_lite.studies import STUDIES
from bridgeout_lite.studies.adaptive import Adaptive, run_rounds
from bridgeout_lite.studies.search import Ladder


@dataclasses.dataclass(frozen=True)
class Fake:
    """An experiment that trains nothing: its accuracy is best at 4."""

    value: float
    seed: int

    @property
    def spec(self):
        return dataclasses.asdict(self) | {"dataset": "digits", "method": "fake"}

    def run(self, **options):
        return Record(self.spec, {"valid_accuracy": -abs(self.value - 4.0)}, {})


LADDER = Ladder(Fake, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), beginning=(1.0, 2.0))


def climb(records):
    """The search, then five seeds of the best."""
    known = {record.key for record in records}
    repeats = () if LADDER.to_try(records) else [Fake(LADDER.best(records), seed) for seed in range(5)]
    return LADDER.to_try(records) or [run for run in repeats if fingerprint(run.spec) not in known]


def test_the_command_goes_on_until_nothing_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bridgeout_lite.cli.sweeps", lambda: {"smoke": Adaptive(climb)})
    words = ["sweep", "smoke", "--store", str(tmp_path / "fake.jsonl"), "--device", "cpu"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"13 of 13 runs of smoke are recorded in {tmp_path / 'fake.jsonl'}\n"
    values = [record.spec["value"] for record in Store(tmp_path / "fake.jsonl")]
    assert values == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 4, 4, 4]
    before = (tmp_path / "fake.jsonl").read_bytes()
    assert main(words) == 0 and (tmp_path / "fake.jsonl").read_bytes() == before
    assert main([*words, "--seeds", "2"]) == 1
    assert "--seeds goes with sweeps that are plain lists" in capsys.readouterr().err


def test_what_was_asked_for_is_found_again():
    adaptive = Adaptive(climb)
    records = [run.run() for run in LADDER.at(1.0) + LADDER.at(2.0)]
    assert adaptive() == LADDER.at(1.0) + LADDER.at(2.0)
    assert adaptive(records) == adaptive() + LADDER.at(3.0)
    stranger = Fake(6.0, 0).run()
    assert Fake(6.0, 0) not in adaptive([*records, stranger]), "recorded, but never asked for"


def test_a_run_without_a_record_ends_the_rounds(tmp_path):
    rounds = []

    def run(experiments, store, budget):
        rounds.append(budget)
        return sweep(experiments[:3], store, device="cpu", progress=False)

    records, asked = run_rounds(Adaptive(climb), Store(tmp_path / "fake.jsonl"), run, 60.0)
    assert (len(records), len(asked), len(rounds)) == (3, 4, 1) and 59 < rounds[0] <= 60


@pytest.mark.parametrize("name", ["mechanisms-weights", "pruning-few", "activations-few"])
def test_a_study_that_needs_a_weight_decay_says_what_to_run_first(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bridgeout_lite.studies.mechanisms.find_store", lambda name: None)
    assert isinstance(STUDIES[name].sweeps[name], Adaptive)
    assert main(["sweep", name, "--store", str(tmp_path / "x.jsonl")]) == 1
    said = capsys.readouterr().err
    assert "run bridgeout sweep mechanisms first" in said and said.count("\n") == 1
