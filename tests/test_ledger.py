"""The ledger's verdicts on pruning: what records they need, and how they fall."""

import pytest

from bridgeout_lite import protocol
from bridgeout_lite.ledger import CLAIMS, LEAST_SEEDS
from bridgeout_lite.records import Record

PROTOCOL = next(c for c in CLAIMS if "are zeroed: VGG-16, CIFAR-10" in c.claim and "CIFAR-100" not in c.claim)
REMOVED = next(c for c in CLAIMS if "outlives real removal" in c.claim)
FAR = next(c for c in CLAIMS if "50 to 70 % of the filters" in c.claim)
PRICE = next(c for c in CLAIMS if c.claim.startswith("Unpruned"))


def runs(gap, *, seeds=LEAST_SEEDS, methods=("none", "dropout", "bridgeout"), model="vgg11", dataset="cifar10"):
    """Runs in which Batch Bridgeout is ahead by ``gap`` points at every share of filters and 2 behind before."""
    records = []
    for method in methods:
        for seed in range(seeds):
            ahead = gap if method == "bridgeout" else 0.0
            values = [90.0 - (2.0 if method == "bridgeout" else 0.0) + 0.1 * seed]
            values += [60.0 - 10 * k + ahead + 0.1 * seed for k in range(4)]
            values += [20.0 + ahead + 0.1 * seed] * 3
            curve = {"amount": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], "test": values, "valid": values}
            spec = {"dataset": dataset, "model": model, "method": method, "p": 0.1, "q": 2.0, "seed": seed}
            pruning = {"curves": dict.fromkeys(protocol.CHOSEN_BY, curve)}
            records.append(Record(spec | {"recipe": {"epochs": 10}}, {"pruning": pruning}, {}))
    return records


@pytest.mark.parametrize("claim", [PROTOCOL, REMOVED], ids=["zeroed", "removed"])
def test_ahead_at_every_share_is_reproduced(claim):
    found = claim.judge(runs(5.0))
    assert found.verdict == "reproduced in direction"
    assert "of 8 intervals 8 lie above zero and 0 below" in found.reason
    assert "10 % +5.0 [+5.0, +5.0]" in found.ours and "minus weight decay" in found.ours


def test_behind_or_level_is_not():
    assert PROTOCOL.judge(runs(-5.0)).verdict == "not reproduced"
    assert "0 lie above zero and 8 below" in PROTOCOL.judge(runs(-5.0)).reason
    assert PROTOCOL.judge(runs(0.0)).verdict == "not reproduced"


@pytest.mark.parametrize(
    "records",
    [
        [],
        runs(5.0, seeds=LEAST_SEEDS - 1),
        runs(5.0, methods=("none", "bridgeout")),
        runs(5.0, model="resnet34c"),
        runs(5.0, dataset="cifar100"),
    ],
    ids=["none", "few seeds", "a method missing", "another network", "another data set"],
)
def test_without_the_runs_there_is_no_verdict(records):
    assert {claim.judge(records).verdict for claim in (PROTOCOL, REMOVED, PRICE, FAR)} == {"not run"}


def test_the_price_is_that_of_the_unpruned_network():
    found = PRICE.judge(runs(5.0))
    assert found.verdict == "reproduced in direction" and found.ours.startswith("-2.00 points")
    assert PRICE.published == "-1.14 points"


def test_far_out_the_mean_over_the_shares_counts():
    assert FAR.judge(runs(5.0)).verdict == "reproduced in direction"
    assert "minus Dropout: +5.0 [+5.0, +5.0]" in FAR.judge(runs(5.0)).ours
    assert FAR.judge(runs(0.0)).verdict == "not reproduced"


def test_each_published_pair_has_its_row():
    rows = [c for c in CLAIMS if "10 to 40 % of the filters are zeroed" in c.claim]
    assert len(rows) == 6 and all("Batch Bridgeout 9" in c.published or "CIFAR-100" in c.claim for c in rows)
    assert "Batch Bridgeout 92.7, 92.7, 92.7, 90.8, 87.5" in PROTOCOL.published
