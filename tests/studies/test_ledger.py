"""The ledger's verdicts: what records they need, how they fall, and what is counted."""

import dataclasses
import math
import re

import pandas as pd
import pytest
import torch
from torch import nn

from bridgeout_lite import cost, ledger, models, stats
from bridgeout_lite.ledger import CLAIMS, SECTIONS
from bridgeout_lite.runs.records import Record
from bridgeout_lite.studies import base, published, sweeps
from bridgeout_lite.studies import curves as protocol
from bridgeout_lite.studies.base import LEAST_SEEDS
from bridgeout_lite.studies.experiment import counts
from bridgeout_lite.studies.language import SEARCHED_P, SEARCHED_Q, language_model
from bridgeout_lite.studies.literature.sizes import counted


def claim(*words):
    """The first that has all these words."""
    return next(c for c in CLAIMS if all(word in c.claim for word in words))


PROTOCOL = claim("10 to 40 % of the filters are zeroed: VGG-16, CIFAR-10")
REMOVED = claim("outlives real removal")
FAR = claim("50 to 70 % of the filters")
PRICE = claim("Unpruned")
UNPRUNED = claim("Test accuracy (%) of the unpruned networks: VGG-16, CIFAR-10")
ENDURES = claim("Share of the filters (%)", "VGG-16, CIFAR-10")
DROPOUT = claim("Dropout's network loses more", "VGG-16, CIFAR-10")


def runs(
    gap,
    *,
    seeds=LEAST_SEEDS,
    methods=("none", "dropout", "bridgeout"),
    model="vgg11",
    dataset="cifar10",
    epochs=10,
    width=0.25,
):
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
            spec |= {"width": width, "train": None, "valid": 5000}
            pruning = {"curves": dict.fromkeys(protocol.CHOSEN_BY, curve)}
            metrics = {"pruning": pruning, "valid_accuracy": values[0], "test_accuracy": values[0]}
            records.append(Record(spec | {"recipe": {"epochs": epochs}}, metrics, {}))
    return records


def as_published(seeds=LEAST_SEEDS, network="vgg16", dataset="cifar10"):
    """Runs of the published network and length, whose curves are the published ones give or take a little."""
    records = []
    for method in published.METHODS:
        curve = published.curve(network, dataset, method)
        for seed in range(seeds):
            values = [a + 0.3 * (seed - 1) for a in curve["accuracy"]][:7]
            lists = {"amount": curve["amount"].tolist()[:7], "test": values, "valid": values}
            spec = {"dataset": dataset, "model": network, "method": method, "p": 0.1, "q": 2.0, "seed": seed}
            spec |= {"width": 1.0, "train": None, "valid": 5000, "recipe": {"epochs": published.EPOCHS}}
            metrics = {"pruning": {"curves": dict.fromkeys(protocol.CHOSEN_BY, lists)}}
            records.append(Record(spec, metrics | {"valid_accuracy": values[0], "test_accuracy": values[0]}, {}))
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
    rows = (PROTOCOL, REMOVED, PRICE, FAR, UNPRUNED, ENDURES, DROPOUT)
    assert {row.judge(records).verdict for row in rows} == {"not run"}


def test_the_price_is_that_of_the_unpruned_network():
    found = PRICE.judge(runs(5.0))
    assert found.verdict == "reproduced in direction" and found.ours.startswith("-2.00 points")
    assert PRICE.published == "-1.14 points"


def test_the_published_network_is_preferred_and_its_numbers_can_be_reproduced():
    """However long smaller networks of its family were trained."""
    records = [*runs(-5.0, epochs=1000), *as_published(), *runs(-5.0, model="vgg16", epochs=500)]
    rows = (PROTOCOL, PRICE, UNPRUNED, ENDURES, DROPOUT)
    verdicts = [row.judge(records).verdict for row in rows]
    assert verdicts == ["reproduced in direction", *["reproduced"] * 3, "reproduced in direction"]
    for row in rows:
        assert (
            row.judge(records).scale == "45,000 training images against 50,000, the last epoch and not the best on test"
        )
    assert "of three published values 3 lie in our intervals" in UNPRUNED.judge(records).reason
    assert UNPRUNED.judge(records).reason.endswith("; strengths: Batch Bridgeout p=0.1, q=2; Dropout p=0.1")
    assert ENDURES.published == "Backprop 10.1; Dropout 4.8; Batch Bridgeout 39.6"


def test_too_few_of_the_published_network_leave_the_smaller_one():
    found = UNPRUNED.judge([*runs(5.0), *as_published(seeds=LEAST_SEEDS - 1)])
    assert found.scale.startswith(
        "vgg11 of 0.25 times the channels (0.58 M parameters against 14.73 M), 10 epochs against"
    )
    assert "weight decay 90.1" in found.ours


def test_another_network_reproduces_in_direction_at_best():
    records = [Record(r.spec | {"model": "vgg11"}, r.metrics, {}) for r in as_published()]
    assert {row.judge(records).verdict for row in (PRICE, UNPRUNED, ENDURES)} == {"reproduced in direction"}
    assert UNPRUNED.judge(runs(5.0)).verdict == "not reproduced"  # Dropout is as good as weight decay there
    assert "2 have the published sign" in UNPRUNED.judge(runs(5.0)).reason


def test_dropout_may_be_worse_than_nothing():
    assert DROPOUT.judge(runs(5.0)).verdict == "not reproduced" and DROPOUT.published.startswith("-14.")
    assert DROPOUT.judge(as_published()).ours.startswith("-14.3 points")


def test_far_out_the_mean_over_the_shares_counts():
    assert FAR.judge(runs(5.0)).verdict == "reproduced in direction"
    assert "minus Dropout: +5.0 [+5.0, +5.0]" in FAR.judge(runs(5.0)).ours
    assert FAR.judge(runs(0.0)).verdict == "not reproduced"


def test_each_published_pair_has_its_row():
    rows = [c for c in CLAIMS if "10 to 40 % of the filters are zeroed" in c.claim]
    assert len(rows) == 6 and all("Batch Bridgeout 9" in c.published or "CIFAR-100" in c.claim for c in rows)
    assert "Batch Bridgeout 92.7, 92.7, 92.7, 90.8, 87.5" in PROTOCOL.published


def test_a_published_accuracy_needs_its_network_and_three_seeds():
    row = claim("Test accuracy of VGG-16, without noise", "92.64 %")
    for records in ([], runs(0.0), runs(0.0, model="vgg16"), as_published(seeds=2)):
        assert row.judge(records).verdict == "not run"
    found = row.judge(as_published())
    assert found.verdict == "reproduced in direction" and found.ours == "93.81 [93.07, 94.56], n = 3"
    assert "the published value lies below our interval; setting: -" in found.reason
    assert claim("Test accuracy of VGG-16, without noise", "93.25 %").judge(as_published()).verdict == "reproduced"
    low = runs(0.0, model="vgg16", width=1.0)
    assert row.judge(low).verdict == "not reproduced" and "10 epochs" in row.judge(low).scale


# ---- language models --------------------------------------------------------------------------------------------

PREFERS = {name: claim("Language modelling prefers", name) for name in ("LSTM", "transformer")}
STATES = claim("Hidden states", "LSTM")
PERPLEXITY = claim("Test perplexity of an LSTM")
SMALL = {e.model: e for e in language_model() if e.method == "sparseout" and e.train}


def language_runs(model, perplexity, *, seeds=LEAST_SEEDS, hoyer=lambda q: 0.5, best_p=0.4):
    """The runs of the sweep on a part of the text: test perplexity ``perplexity(q)`` and a spread of 1 over seeds at
    ``best_p``, which only the validation loss tells from the p around it; 200 without noise."""
    records = []
    for seed in range(seeds):
        settings = [(p, q) for q in SEARCHED_Q for p in SEARCHED_P if not seed or p == best_p]
        for p, q in [(0.0, 2.0), *settings]:
            method = "sparseout" if p else "none"
            spec = dataclasses.replace(SMALL[model], method=method, p=p, q=q, seed=seed).spec
            valid = perplexity(q) / 100 + (p != best_p)
            test = (perplexity(q) if p else 200.0) + (seed - 1 if p == best_p else -50)
            places = ("hidden.0", "hidden.1") if model == "lstm" else ("blocks.0.relu", "blocks.1.relu")
            level = {"hoyer": hoyer(q) + 0.01 * seed, "gini": hoyer(q), "zero_fraction": 0.0, "rms": 1.0}
            layers = {place: level | {"noise_ratio": 1.0, "per_sample": level} for place in places}
            metrics = {"valid_loss": valid, "test_loss": 1.0, "test_perplexity": test, "layers": layers}
            records.append(Record(spec, metrics, {}))
    return records


@pytest.mark.parametrize(("name", "model"), [("LSTM", "lstm"), ("transformer", "transformer")])
def test_low_q_must_beat_dropout_and_high_q(name, model):
    found = PREFERS[name].judge(language_runs(model, lambda q: 150 + q))
    assert found.verdict == "reproduced in direction"
    assert found.ours == "test perplexity, n = 3, q=1 minus q=2: -1.0 [-1.0, -1.0]; minus q=2.5: -1.5 [-1.5, -1.5]"
    assert "mean at q=1 151.0, at q=2 152.0, at q=2.5 152.5, without noise 150.0" in found.reason
    assert "edge" not in found.reason
    other = PREFERS[{"LSTM": "transformer", "transformer": "LSTM"}[name]]
    assert other.judge(language_runs(model, lambda q: 150 + q)).verdict == "not run", "each model for itself"


def test_low_q_must_beat_both():
    found = PREFERS["LSTM"].judge(language_runs("lstm", lambda q: 150 - q * (q > 2)))
    assert found.verdict == "not reproduced"
    assert found.reason.startswith("of two intervals 0 lie on the claimed side of zero and 1 on the other")


def test_the_edge_of_the_grid_is_told():
    found = PREFERS["LSTM"].judge(language_runs("lstm", lambda q: 150 + q, best_p=min(SEARCHED_P)))
    assert "edge of the grid for q=1, 1.25, 1.5, 2, 2.5, 3" in found.reason


@pytest.mark.parametrize("seeds", [0, 1, LEAST_SEEDS - 1])
def test_language_needs_its_seeds(seeds):
    records = language_runs("lstm", lambda q: 150 + q, seeds=seeds)
    assert {row.judge(records).verdict for row in (*PREFERS.values(), STATES)} == {"not run"}
    lacking = [r for r in language_runs("lstm", lambda q: 150 + q) if r.spec["q"] != 1.25]
    assert {row.judge(lacking).verdict for row in (*PREFERS.values(), STATES)} == {"not run"}


@pytest.mark.parametrize(("slope", "verdict"), [(-0.1, "reproduced in direction"), (0.1, "not reproduced")])
def test_hidden_states_must_be_sparser_in_every_place(slope, verdict):
    found = STATES.judge(language_runs("lstm", lambda q: 150.0, hoyer=lambda q: 0.5 + slope * q))
    assert found.verdict == verdict
    assert f"hidden.1, Gini {-2 * slope:+.3f}" in found.ours and "its power is 0.67 and 0.67" in found.reason


def test_a_perplexity_of_one_seed_is_shown_and_not_judged():
    whole = next(e for e in language_model() if e.train is None)
    runs = [
        Record(dataclasses.replace(whole, seed=seed).spec, {"test_perplexity": 100.0 + seed}, {}) for seed in range(3)
    ]
    small = language_runs("lstm", lambda q: 150 + q)
    assert PERPLEXITY.judge(small).verdict == "not run"
    one = PERPLEXITY.judge([*small, runs[0]])
    assert (one.ours, one.verdict) == ("100.0, n = 1", "not run") and "-12.7 %, -13.7 %, -9.5 %" in one.reason
    assert PERPLEXITY.judge(runs).verdict == "reproduced in direction"
    high = [Record(r.spec, {"test_perplexity": 2 * r.metrics["test_perplexity"]}, {}) for r in runs]
    assert PERPLEXITY.judge(high).verdict == "not reproduced"


def test_images_and_language_do_not_disturb_each_other():
    language = [*language_runs("lstm", lambda q: 150 + q), *language_runs("transformer", lambda q: 150 + q)]
    alone, both = ledger.ledger_table(runs(5.0)), ledger.ledger_table([*runs(5.0), *language])
    mine = alone["section"] == "Sparsity in language models"
    assert alone[~mine].equals(both[~mine]) and not alone[mine].equals(both[mine])


# ---- what is counted --------------------------------------------------------------------------------------------


class Block(nn.Module):
    """What Li et al. prune: the first convolution has ``inner`` filters; the shortcut learns nothing."""

    def __init__(self, before, inner, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, inner, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(inner, after, 3, padding=1, bias=False)
        self.stride, self.more = stride, after - before

    def forward(self, x):
        shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return self.conv2(self.conv1(x)) + shortcut


@pytest.mark.parametrize("network", published.RESNET_CUTS)
def test_the_counts_of_a_residual_network_are_those_of_a_real_one(network):
    blocks, shares, untouched = published.RESNET_CUTS[network]
    layers, before, number = [nn.Conv2d(3, 16, 3, padding=1, bias=False)], 16, 2
    for width, share in zip((16, 32, 64), shares, strict=True):
        for block in range(blocks):
            inner = width if number in untouched else int(width * (1 - share))
            layers.append(Block(before, inner, width, 2 if width > 16 and block == 0 else 1))
            before, number = width, number + 2
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    assert cost.count(model, torch.zeros(1, 3, 32, 32)) == published.resnet_counts(network)


def test_counting_without_weights_is_counting():
    model = models.build_model("resnet34c", num_classes=100)
    assert counts(lambda: models.build_model("resnet34c", num_classes=100)) == cost.count(
        model, torch.zeros(1, 3, 32, 32)
    )


@pytest.mark.parametrize(("digits", "verdict"), [("14.73 M", "reproduced"), ("14.72 M", "not reproduced")])
def test_counts_are_compared_as_they_are_rounded(digits, verdict):
    found = counted({"parameters": digits}, lambda: {"parameters": 14_728_266})([])
    assert found.verdict == verdict and found.ours == "14,728,266 parameters"


def test_what_others_subtracted_wrongly_is_told():
    assert claim("DepGraph gains").judge([]) == base.Finding(
        "+0.24", "not reproduced", "calculated from the published numbers that it is made of"
    )
    assert claim("OICSR's table").judge([]).verdict == "reproduced"


@pytest.mark.parametrize(("values", "n"), [([], 0), ([5.0], 1), ([4.0, 5.0, 6.0], 3)])
def test_an_interval_needs_two_values(values, n):
    mean, low, high, count = stats.interval(pd.Series(values, dtype=float))
    assert count == n and math.isnan(mean) == (n == 0) and math.isnan(low) == math.isnan(high) == (n < 2)
    assert n < 2 or high - mean == pytest.approx(mean - low) == pytest.approx(4.302653 / 3**0.5)  # t of 2 degrees


# ---- the page ---------------------------------------------------------------------------------------------------


def test_every_row_is_complete_and_tells_itself_apart():
    assert len({c.claim for c in CLAIMS}) == len(CLAIMS) == sum(len(section.claims) for section in SECTIONS)
    known = {*sweeps(), "pruning-published"}
    for row in CLAIMS:
        assert all((row.claim, row.source, row.published, row.scale, row.command))
        assert set(re.findall(r"bridgeout sweep ([\w-]+)", row.command)) <= known


def test_a_run_that_diverged_is_passed_over():
    failed = [Record(r.spec | {"method": "sparseout", "seed": 9}, {"failed": "loss is nan"}, {}) for r in runs(5.0)]
    whole = [Record(r.spec, {"failed": "loss is nan"}, {}) for r in as_published()]
    table, other = ledger.ledger_table([*runs(5.0), *failed, *whole]), ledger.ledger_table(runs(5.0))
    assert table.equals(other) and (table["verdict"] == "reproduced in direction").sum() > 1


def test_chapter_4_has_rows_4_to_7():
    assert [c.command for c in CLAIMS[3:7]] == ["`bridgeout sweep activations`"] * 4


def test_without_records_what_is_measured_says_not_run():
    table = ledger.ledger_table([])
    assert (table["ours"][table["verdict"] == "not run"] == "-").all()
    assert set(table["section"][table["verdict"] != "not run"]) == {
        "Noise is a penalty",
        "Batch Bridgeout and filter pruning",
        "Sizes of networks",
        "Filter pruning by L1 norm",
        "Other pruning, with training afterwards",
        "Older theory and measures",
    }
    page = ledger.ledger_page([])
    assert page.count("| verdict | ") == len(CLAIMS) and page.count("\n## ") == len(SECTIONS) + 1
    for row in CLAIMS:
        assert f"| {row.claim} | " in page and f"({row.slug})=\n### {row.claim}\n" in page


# ---- how a verdict is made --------------------------------------------------------------------------------------

UP, LEVEL, DOWN = stats.Gap(1.0, 0.5, 1.5, 3), stats.Gap(0.1, -0.4, 0.6, 3), stats.Gap(-1.0, -1.5, -0.5, 3)


@pytest.mark.parametrize(
    ("gaps", "options", "verdict"),
    [
        ({}, {}, "not run"),
        ({"a": UP, "b": UP._replace(n=2)}, {}, "not run"),
        ({"a": UP, "b": UP}, {}, "reproduced in direction"),
        ({"a": UP}, {"exact": True}, "reproduced"),
        ({"a": LEVEL}, {"exact": True}, "not reproduced"),
        ({"a": UP, "b": LEVEL}, {}, "not reproduced"),
        ({"a": UP, "b": LEVEL}, {"least": -0.5}, "reproduced in direction"),
        ({"a": DOWN}, {}, "not reproduced"),
        ({"a": DOWN}, {"sign": -1}, "reproduced in direction"),
    ],
)
def test_every_interval_must_lie_on_the_claimed_side(gaps, options, verdict):
    assert base.judged(gaps, "ours", "reason", **options).verdict == verdict


def test_sides_are_counted_and_gaps_are_told():
    gaps = {"a": UP, "b": LEVEL, "c": DOWN, "d": DOWN}
    assert base.count_sides(gaps) == "of 4 intervals 1 lie above zero and 2 below"
    assert base.count_sides(gaps, -1) == "of 4 intervals 2 lie on the claimed side of zero and 1 on the other"
    assert base.list_gaps({"a": UP, "b:": DOWN}) == "a +1.0 [+0.5, +1.5]; b: -1.0 [-1.5, -0.5]"
    assert base.list_gaps({"a": UP}, ".2f", seeds=True) == "a 1.00 [0.50, 1.50], n = 3"


def test_a_table_is_made_once():
    made = []

    def table(records):
        made.append(len(records))
        return pd.DataFrame({"seed": range(len(records))})

    claims = [dataclasses.replace(PROTOCOL, find=lambda rows: base.Finding(str(len(rows)), "not run", ""), table=table)]
    assert [found.ours for found in base.findings(claims * 2, runs(0.0))] == ["9", "9"] and made == [9]
    assert base.findings(claims, []) == [base.TOO_FEW]
