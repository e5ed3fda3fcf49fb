"""The studies on few images that prune and that measure activations: what they run, until nothing is left."""

import pytest

from bridgeout_lite import Record
from bridgeout_lite.runs.records import fingerprint
from bridgeout_lite.studies import activations_few, pruning_few


def play(next_runs, answer):
    """The records of a study that is run to its end, against a made-up truth."""
    records = []
    while runs := next_runs(records):
        keys = [fingerprint(run.spec) for run in runs]
        assert len(set(keys)) == len(keys) and not set(keys) & {record.key for record in records}
        records += [Record(run.spec, answer(run), {}) for run in runs]
    return records


def test_the_pruning_study_repeats_the_best_and_the_released_strength():
    def answer(run):
        best = 0.4 if run.method == "bridgeout" and run.target_fraction < 1 else 0.1
        accuracy = 50 - abs(run.p - best)
        return {"pruning": {"curves": {"removed, recalibrated": {"amount": [0.0, 0.1], "valid": [99.0, accuracy]}}}}

    records = play(lambda records: pruning_few.next_runs(records, 1e-3), answer)
    name = "bridgeout, q = 1.5, 75 %"
    assert pruning_few.ladder(name, 1e-3).best(records) == 0.4
    seeds = {
        p: {r.spec["seed"] for r in records if r.spec["p"] == p and r.spec.get("target_fraction")} for p in (0.3, 0.4)
    }
    assert seeds == {0.3: set(range(5)), 0.4: set(range(5))}
    plain = [r for r in records if r.spec["method"] == "none" and r.spec["recipe"]["weight_decay"] == 1e-3]
    assert len(plain) == 5


def test_a_run_that_diverged_is_never_the_best():
    assert pruning_few.pruned_accuracy(Record({}, {"failed": "loss is nan"}, {})) == 0.0


def test_the_activation_study_ends_with_matched_power():
    records = play(
        lambda records: activations_few.next_runs(records, 1e-3), lambda run: {"valid_accuracy": 60 - abs(run.p - 0.1)}
    )
    matched = [r.spec for r in records if r.spec.get("matched")]
    assert {spec["p"] for spec in matched} == {0.1}
    assert {(spec.get("place", "all"), spec["q"]) for spec in matched} == {
        (place, q) for place in ("all", "last") for q in (1.0, 1.5, 2.5, 3.0)
    }
    assert len(matched) == 5 * 8


@pytest.mark.parametrize("study", [pruning_few, activations_few])
def test_the_search_comes_first(study):
    assert {run.seed for run in study.next_runs([], 1e-3)} == set(range(study.SEARCHED))
