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


# --- the claims -------------------------------------------------------------------------------------------------------


def pruned(ahead, *, train=97.0, noise_price=0.0):
    """The records of the pruning study in which the best Batch Bridgeout is ahead of all others by ``ahead`` points at
    every share of filters, and starts ``noise_price`` points lower."""

    def answer(run):
        noisy = run.method == "bridgeout"
        best = noisy and run.target_fraction < 1 and run.p == 0.3
        amounts = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
        values = [60 - noise_price * noisy + 0.1 * run.seed]
        values += [50 - 40 * a + ahead * best - noisy * (not best) + 0.1 * run.seed for a in amounts[1:]]
        curve = {"amount": list(amounts), "test": values, "valid": values}
        curves = dict.fromkeys(("zeroed", "removed, recalibrated"), curve)
        whole = {"train_accuracy": train, "test_accuracy": values[0]}
        return whole | {"pruning": {"curves": curves}}

    return play(lambda records: pruning_few.next_runs(records, 4e-3), answer)


def test_every_contender_is_told_by_its_spec():
    for name, (_, dial, values, _) in pruning_few.CONTENDERS.items():
        run = pruning_few.make(name, 4e-3, values[0], 0)
        assert pruning_few.contender_of(run.spec) == (name, values[0] * (4e-3 if dial == "decay" else 1))
    assert pruning_few.contender_of(run.spec | {"train": 10000}) is None


def test_the_pruning_claims_follow_the_records():
    def verdicts(records):
        return [claim.judge(records).verdict for claim in pruning_few.SECTION.claims]

    yes, no = "holds in direction", "contradicted"
    records = pruned(5.0, noise_price=3.0)
    rows = pruning_few.contenders_frame(records)
    assert rows.groupby("contender")["seed"].nunique().min() == pruning_few.REPEATED, "those of the search are left out"
    assert {"weight decay", "l1", "dropout", "bridgeout, q = 2"} <= set(rows["contender"])
    assert verdicts(records) == [yes] * 4
    found = pruning_few.SECTION.claims[0].judge(records)
    assert "minus dropout: +5.0" in found.ours and "97.0 % training and 60.2 % test accuracy" in found.reason
    assert verdicts(pruned(-5.0)) == [no] * 4
    assert verdicts(pruned(5.0, train=61.0)) == ["undecided"] * 4, "a network that does not overfit decides nothing"
    assert verdicts(records[:5]) == verdicts([]) == ["not run"] * 4


def activated(slope, gain):
    """The records of the activation study: Hoyer falls by ``slope`` and accuracy rises by ``gain`` per unit of q."""

    def answer(run):
        noisy = run.method == "sparseout"
        level = {"hoyer": 0.5 - slope * run.q * noisy + 0.01 * run.seed, "gini": 0.5, "zero_fraction": 0.5, "rms": 1.0}
        names = ("relu1", "relu6") if run.place == "all" or not noisy else ("relu6",)
        layers = {name: level | {"noise_ratio": 1.0} for name in names}
        best = abs(run.p - (0.05 if run.place == "all" else 0.3))
        accuracy = 60 + gain * run.q * noisy - best + 0.1 * run.seed
        return {"layers": layers, "train_accuracy": 97.0, "valid_accuracy": accuracy, "test_accuracy": accuracy}

    return play(lambda records: activations_few.next_runs(records, 4e-3), answer)


def test_the_activation_claims_follow_the_records():
    def verdicts(records):
        return [claim.judge(records).verdict for claim in activations_few.SECTION.claims]

    yes, no = "holds in direction", "contradicted"
    assert verdicts(activated(0.1, 1.0)) == [yes] * 5
    assert verdicts(activated(-0.1, -1.0)) == [no] * 5
    assert verdicts([]) == ["not run"] * 5
    found = activations_few.SECTION.claims[-1].judge(activated(0.1, 1.0))
    assert "last, q=3 minus q=1.5: +1.50" in found.ours and "all, q=3" in found.ours
