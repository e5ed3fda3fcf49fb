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
from bridgeout_lite.runs.records import Record, fingerprint
from bridgeout_lite.studies import base, published, sweeps
from bridgeout_lite.studies import curves as protocol
from bridgeout_lite.studies.base import LEAST_SEEDS
from bridgeout_lite.studies.experiment import counts
from bridgeout_lite.studies.language import SEARCHED_P, SEARCHED_Q, language_model
from bridgeout_lite.studies.literature import same_counts


def claim(*words):
    """The first that has all these words."""
    return next(c for c in CLAIMS if all(word in c.claim for word in words))


NAMED = {c.slug: c for c in CLAIMS}
PROTOCOL = NAMED["batch-bridgeout-keeps-accuracy"]
REMOVED = NAMED["batch-bridgeout-outlives-removal"]
PRICE = NAMED["batch-bridgeout-price"]
ENDURES = NAMED["batch-bridgeout-endures"]
DROPOUT = NAMED["dropout-hurts-pruning"]


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
def test_ahead_of_both_rivals_holds_in_direction(claim):
    found = claim.judge(runs(5.0))
    assert (found.verdict, found.n) == ("holds in direction", 3)
    assert "of 2 intervals 2 lie on the claimed side of zero and 0 on the other" in found.reason
    assert "10 % +5.0 [+5.0, +5.0]" in found.ours and "minus weight decay" in found.ours
    assert found.short == "+5.0 to +5.0 points; of 2 intervals 2 for it, 0 against"


def test_behind_or_level_contradicts_it():
    assert PROTOCOL.judge(runs(-5.0)).verdict == "contradicted"
    assert "0 lie on the claimed side of zero and 2 on the other" in PROTOCOL.judge(runs(-5.0)).reason
    assert PROTOCOL.judge(runs(0.0)).verdict == "contradicted", "an effect of a point is excluded"


def test_the_row_names_what_was_run_and_what_was_not():
    found = PROTOCOL.judge([*runs(5.0), *runs(5.0, model="resnet34c", dataset="cifar100")])
    assert found.ours.startswith("vgg11 on CIFAR-10: minus weight decay") and "; resnet34c on CIFAR-100: " in found.ours
    lacking = found.reason.partition("not run: ")[2]
    assert "VGG-16 on CIFAR-100" in lacking and "Wide-ResNet on CIFAR-10" in lacking and "on CIFAR-10," in lacking
    assert "0.58 M parameters against 14.73 M" in found.scale


@pytest.mark.parametrize(
    "records",
    [[], runs(5.0, seeds=LEAST_SEEDS - 1), runs(5.0, methods=("none", "bridgeout")), runs(5.0, model="smallcnn")],
    ids=["none", "few seeds", "a method missing", "another network"],
)
def test_without_the_runs_there_is_no_verdict(records):
    assert {row.judge(records).verdict for row in (PROTOCOL, REMOVED, PRICE, ENDURES, DROPOUT)} == {"not run"}


def test_the_price_is_that_of_the_unpruned_network():
    found = PRICE.judge(runs(5.0))
    assert found.verdict == "holds in direction" and "vgg11 on CIFAR-10: -2.00 [-2.00, -2.00]" in found.ours
    assert "published -1.14" in found.ours and PRICE.published == "-4.3 to -0.7 points"


def test_a_price_far_beyond_the_published_one_decides_nothing():
    dear = [
        Record(r.spec, r.metrics | {"pruning": {"curves": {k: lower(v, 20.0) for k, v in curves_of(r).items()}}}, {})
        if r.spec["method"] == "bridgeout"
        else r
        for r in runs(5.0)
    ]
    found = PRICE.judge(dear)
    assert found.verdict == "undecided" and "the strength is not theirs" in found.reason


def curves_of(record):
    return record.metrics["pruning"]["curves"]


def lower(curve, by):
    return {"amount": curve["amount"]} | {k: [v - by for v in curve[k]] for k in ("test", "valid")}


def test_the_published_network_is_preferred_and_its_numbers_can_hold():
    """However long smaller networks of its family were trained."""
    records = [*runs(-5.0, epochs=1000), *as_published(), *runs(-5.0, model="vgg16", epochs=500)]
    found = {row: row.judge(records) for row in (PRICE, ENDURES, DROPOUT)}
    assert {f.verdict for f in found.values()} == {"holds"}
    assert PROTOCOL.judge(records).verdict == "holds in direction", (
        "the curve as a whole is not compared number by number"
    )
    scale = "45,000 training images against 50,000, the last epoch and not the best on test"
    assert {f.scale for f in found.values()} == {scale}
    assert "strengths: Batch Bridgeout p=0.1, q=2; Dropout p=0.1" in found[ENDURES].reason
    assert "(published 39.6)" in found[ENDURES].ours and "Batch Bridgeout 12 to 41 %" in ENDURES.published


def test_too_few_of_the_published_network_leave_the_smaller_one():
    found = ENDURES.judge([*runs(5.0), *as_published(seeds=LEAST_SEEDS - 1)])
    assert found.scale.startswith(
        "vgg11 of 0.25 times the channels (0.58 M parameters against 14.73 M), 10 epochs against"
    )


def test_another_network_holds_in_direction_at_best():
    records = [Record(r.spec | {"model": "vgg11"}, r.metrics, {}) for r in as_published()]
    assert {row.judge(records).verdict for row in (PRICE, ENDURES)} == {"holds in direction"}


def test_dropout_may_be_worse_than_nothing():
    assert (
        DROPOUT.judge(runs(5.0)).verdict == "contradicted" and "VGG-16: -14.3 points on CIFAR-10" in DROPOUT.published
    )
    assert "vgg16 on CIFAR-10: -14.3" in DROPOUT.judge(as_published()).ours


# ---- language models --------------------------------------------------------------------------------------------

PREFERS = {name: claim("Language modelling prefers", name) for name in ("LSTM", "transformer")}
STATES = claim("Hidden states", "LSTM")
PERPLEXITY = claim("Test perplexity of an LSTM")
SMALL = {e.model: e for e in language_model() if e.method == "sparseout" and e.train}


def language_runs(model, perplexity, *, seeds=LEAST_SEEDS, hoyer=lambda q: 0.5, best_p=0.4, overfits=0.5):
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
            metrics["history"] = {"train_loss": [9.0, valid - overfits], "valid_loss": [9.0, valid]}
            records.append(Record(spec, metrics, {}))
    return records


@pytest.mark.parametrize(("name", "model"), [("LSTM", "lstm"), ("transformer", "transformer")])
def test_low_q_must_beat_dropout_and_high_q(name, model):
    found = PREFERS[name].judge(language_runs(model, lambda q: 150 + q))
    assert found.verdict == "holds in direction"
    assert found.ours == "test perplexity, n = 3, q=1 minus q=2: -1.0 [-1.0, -1.0]; minus q=2.5: -1.5 [-1.5, -1.5]"
    assert "mean at q=1 151.0, at q=2 152.0, at q=2.5 152.5, without noise 150.0" in found.reason
    assert "edge" not in found.reason
    other = PREFERS[{"LSTM": "transformer", "transformer": "LSTM"}[name]]
    assert other.judge(language_runs(model, lambda q: 150 + q)).verdict == "not run", "each model for itself"


def test_low_q_must_beat_both():
    found = PREFERS["LSTM"].judge(language_runs("lstm", lambda q: 150 - q * (q > 2)))
    assert found.verdict == "contradicted"
    assert found.reason.startswith("of two intervals 0 lie on the claimed side of zero and 1 on the other")


def test_nothing_is_decided_where_the_network_does_not_overfit():
    found = PREFERS["LSTM"].judge(language_runs("lstm", lambda q: 150 + q, overfits=0.01))
    assert found.verdict == "undecided" and found.reason.endswith("there was nothing for a regulariser to do")
    assert "perplexity is 12.3 in training and 12.4 in validation" in found.reason


def test_the_edge_of_the_grid_is_told():
    found = PREFERS["LSTM"].judge(language_runs("lstm", lambda q: 150 + q, best_p=min(SEARCHED_P)))
    assert "edge of the grid for q=1, 1.25, 1.5, 2, 2.5, 3" in found.reason


@pytest.mark.parametrize("seeds", [0, 1, LEAST_SEEDS - 1])
def test_language_needs_its_seeds(seeds):
    records = language_runs("lstm", lambda q: 150 + q, seeds=seeds)
    assert {row.judge(records).verdict for row in (*PREFERS.values(), STATES)} == {"not run"}
    lacking = [r for r in language_runs("lstm", lambda q: 150 + q) if r.spec["q"] != 1.25]
    assert {row.judge(lacking).verdict for row in (*PREFERS.values(), STATES)} == {"not run"}


@pytest.mark.parametrize(("slope", "verdict"), [(-0.1, "holds in direction"), (0.1, "contradicted")])
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
    assert (one.ours, one.n, one.verdict) == ("100.0", 1, "undecided") and "-12.7 %, -13.7 %, -9.5 %" in one.reason
    assert PERPLEXITY.judge(runs).verdict == "holds in direction"
    high = [Record(r.spec, {"test_perplexity": 2 * r.metrics["test_perplexity"]}, {}) for r in runs]
    assert PERPLEXITY.judge(high).verdict == "contradicted"


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


@pytest.mark.parametrize(("digits", "same"), [("14.73 M", True), ("14.72 M", False)])
def test_counts_are_compared_as_they_are_rounded(digits, same):
    assert same_counts({"parameters": digits}, {"parameters": 14_728_266}) == same
    assert NAMED["sizes-of-networks"].judge([]).short == "13 of 13 networks to the published digit"


@pytest.mark.parametrize(("values", "n"), [([], 0), ([5.0], 1), ([4.0, 5.0, 6.0], 3)])
def test_an_interval_needs_two_values(values, n):
    mean, low, high, count = stats.interval(pd.Series(values, dtype=float))
    assert count == n and math.isnan(mean) == (n == 0) and math.isnan(low) == math.isnan(high) == (n < 2)
    assert n < 2 or high - mean == pytest.approx(mean - low) == pytest.approx(4.302653 / 3**0.5)  # t of 2 degrees


# ---- the page ---------------------------------------------------------------------------------------------------


def test_every_row_is_complete_and_tells_itself_apart():
    assert len(NAMED) == len(CLAIMS) == sum(len(section.claims) for section in SECTIONS) <= 70
    known = {*sweeps(), "pruning-published"}
    for row in CLAIMS:
        assert all((row.claim, row.source, row.published, row.scale, row.command))
        assert row.paper == "this book" or re.search(r"[A-Z].* \d{4}$", row.paper), row.source
        assert (row.kind == base.QUESTION) == row.source.startswith(("asked by this book", "implied")) or (
            "our question" in row.source
        )
        assert set(re.findall(r"bridgeout sweep ([\w-]+)", row.command)) <= known


def test_a_run_that_diverged_is_passed_over():
    failed = [Record(r.spec | {"method": "sparseout", "seed": 9}, {"failed": "loss is nan"}, {}) for r in runs(5.0)]
    whole = [Record(r.spec, {"failed": "loss is nan"}, {}) for r in as_published()]
    table, other = ledger.ledger_table([*runs(5.0), *failed, *whole]), ledger.ledger_table(runs(5.0))
    assert table.equals(other) and (table["verdict"] == "holds in direction").sum() > 1


def test_without_records_what_is_measured_says_not_run():
    table = ledger.ledger_table([])
    assert (table["verdict"] == "not run").equals(table["kind"] != base.MATHEMATICS)
    assert (table["ours"][table["verdict"] == "not run"] == "-").all()


def test_each_row_of_the_page_can_be_linked_to_and_filtered():
    page = ledger.ledger_page([])
    assert page.count('<tbody class="section">') == len(SECTIONS)
    for row in CLAIMS:
        assert page.count(f'<tbody id="{row.slug}" data-verdict="') == 1 and page.count(f'href="#{row.slug}"') == 1
        assert f'data-kind="{row.kind}"' in page and ledger._html(row.claim) in page
    assert "no number" in page and "L_q" in page and "q &lt; 2" in page, "text is escaped"


def test_the_state_counts_each_kind_apart():
    sentence = ledger.state(ledger.ledger_table(runs(5.0)))
    published, mathematics, asked = sentence.split("; ")
    assert "published claims: 3 hold in direction" in published and "of mathematics: 6 hold" in mathematics
    assert asked.endswith("not run.") and "questions of this book: 1 hold in direction" in asked


# ---- one row, again ---------------------------------------------------------------------------------------------


def test_an_unknown_row_is_refused_with_names_like_it():
    with pytest.raises(ValueError, match=r"names like it are .*batch-bridgeout-price"):
        ledger.find_claim("batch-bridgeout-cost")


def test_a_row_is_computed_again():
    lines = list(ledger.check_claim("dropout-is-sparseout-at-q-2"))
    assert lines[0].startswith("Dropout is Sparseout at q = 2\n") and "verdict    holds: " in lines[1]
    with pytest.raises(ValueError, match="leave --rerun out"):
        list(ledger.check_claim("dropout-is-sparseout-at-q-2", rerun=True, run=lambda *_: []))


def test_the_cheapest_run_is_repeated_beside_its_record():
    slug = "networks-become-many-times-smaller-over-generations"
    study, row = ledger.find_claim(slug)
    used = ledger.runs_of(row, study.evidence())
    cheapest = min(used, key=lambda r: r.provenance["seconds"])

    name = next(k for k, v in cheapest.metrics.items() if isinstance(v, float))

    def run(experiments, store):
        assert [fingerprint(e.spec) for e in experiments] == [cheapest.key] and not store.path.exists()
        return [dataclasses.replace(cheapest, metrics=cheapest.metrics | {name: 0.5})]

    lines = list(ledger.check_claim(slug, rerun=True, run=run))
    (changed,) = (line for line in lines if line.startswith(f"  {name} "))
    assert f"recorded {cheapest.metrics[name]:.4g}, now 0.5; over " in changed
    assert lines[-1].startswith("not the same")
    assert list(ledger.check_claim(slug, rerun=True, run=lambda *_: [cheapest]))[-1] == "the same to the last digit"


# ---- how a verdict is made --------------------------------------------------------------------------------------

UP, LEVEL, DOWN = stats.Gap(1.0, 0.5, 1.5, 3), stats.Gap(0.1, -0.4, 0.6, 3), stats.Gap(-1.0, -1.5, -0.5, 3)


@pytest.mark.parametrize(
    ("gaps", "options", "verdict"),
    [
        ({}, {}, "not run"),
        ({"a": UP, "b": UP._replace(n=2)}, {}, "not run"),
        ({"a": UP, "b": UP}, {}, "holds in direction"),
        ({"a": UP}, {"exact": True}, "holds"),
        ({"a": LEVEL}, {"exact": True}, "undecided"),
        ({"a": UP, "b": LEVEL}, {}, "undecided"),
        ({"a": UP, "b": LEVEL}, {"least": -0.5}, "holds in direction"),
        ({"a": UP, "b": LEVEL}, {"matters": 0.7}, "contradicted"),
        ({"a": UP, "b": UP}, {"matters": 2.0}, "holds in direction"),
        ({"a": LEVEL}, {"least": -0.2, "matters": -0.2}, "undecided"),
        ({"a": DOWN}, {"least": -0.2, "matters": -0.2}, "contradicted"),
        ({"a": DOWN}, {}, "contradicted"),
        ({"a": UP, "b": DOWN}, {}, "contradicted"),
        ({"a": DOWN}, {"sign": -1}, "holds in direction"),
        ({"a": LEVEL}, {"within": 1.0}, "holds in direction"),
        ({"a": UP}, {"within": 1.0}, "undecided"),
        ({"a": LEVEL, "b": DOWN}, {"within": 0.4}, "contradicted"),
        ({"a": UP}, {"weak": "no chance"}, "undecided"),
        ({"a": UP}, {"regime": base.Regime(90.0, 80.0)}, "holds in direction"),
        ({"a": UP}, {"regime": base.Regime(79.0, 80.0)}, "undecided"),
    ],
)
def test_a_verdict_follows_from_the_intervals(gaps, options, verdict):
    found = base.judged(gaps, "ours", "reason", **options)
    assert found.verdict == verdict
    assert ("nothing for a regulariser" in found.reason) == (options.get("regime") == base.Regime(79.0, 80.0))


def test_a_finding_tells_its_size_in_short():
    one, two = (
        base.judged({"a": UP}, "", "", unit="%"),
        base.judged({"a": UP, "b": DOWN}, "", "", unit="%", spec="+.2f"),
    )
    assert (one.short, one.smallest, one.n) == ("+1.0 [+0.5, +1.5] %", "0.5 %", 3)
    assert two.short == "-1.00 to +1.00 %; of 2 intervals 1 for it, 1 against" and two.smallest == "0.50 %"


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

    claims = [
        dataclasses.replace(PROTOCOL, find=lambda rows: base.Finding(str(len(rows)), "undecided", ""), table=table)
    ]
    assert [found.ours for found in base.findings(claims * 2, runs(0.0))] == ["9", "9"] and made == [9]
    assert base.findings(claims, []) == [base.TOO_FEW]
