"""The arena: every contender runs, keeps to the budget, is chosen by validation alone, and says what is wrong."""

import dataclasses

import pandas as pd
import pytest
import torch
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite.runs.records import Record
from bridgeout_lite.studies import arena
from bridgeout_lite.studies.arena import ArenaExperiment
from bridgeout_lite.studies.arena import claims as judged

TINY = {
    "dataset": "digits",
    "width": 0.0625,
    "train": 256,
    "valid": 100,
    "test": 100,
    "recipe": bl.Recipe(epochs=1, batch_size=64, precision="float32"),
}


@pytest.fixture(scope="module", autouse=True)
def fewer_points():
    """Two operating points in place of four, and two batches for BatchNorm: what is tested is the same."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (arena, arena.study):
            patch.setattr(module, "AMOUNTS", (0.0, 0.5))
        patch.setattr(arena.study, "BATCHES", 2)
        yield


@pytest.fixture(scope="module")
def records() -> list[Record]:
    found = []
    for method, contender in arena.CONTENDERS.items():
        found.append(ArenaExperiment(method=method, **contender.strengths[-1], **TINY).run(progress=False))
    return [*found, ArenaExperiment(method="scratch", cut=0.5, **TINY).run(progress=False)]


def test_every_contender_leaves_a_whole_record(records):
    for record in records:
        metrics = record.metrics
        points = metrics["points"][metrics["ranking"]]
        scratch = record.spec["method"] == "scratch"
        assert points["amount"] == ([0.5] if scratch else list(arena.AMOUNTS))
        assert len(record.provenance["latency"]) == len(points["amount"]) == len(points["macs"])
        for treatment in arena.TREATMENTS[scratch:]:
            assert all(0 <= a <= 100 for split in ("valid", "test") for a in points[treatment][split])
        controls = set(metrics["points"]) - {"layer", "network"}
        assert controls == (set(arena.CONTROLS) if record.spec["method"] == "none" else set())
        assert len(metrics["history"]["valid_loss"]) == 1 + scratch


def test_no_ranking_keeps_more_multiply_adds_than_the_even_one(records):
    for record in records:
        if record.spec["method"] != "scratch":
            points = record.metrics["points"]
            pairs = zip(points["network"]["macs"], points["layer"]["macs"], strict=True)
            assert all(ours <= even for ours, even in pairs)
            assert points["layer"]["macs"][0] == points["network"]["macs"][0]


def test_what_is_not_the_validation_choice_has_no_test_accuracy(records):
    for record in records:
        for ranking, points in record.metrics["points"].items():
            seen = "test" in points.get(arena.TREATMENTS[0], {}) or record.spec["method"] == "scratch"
            assert seen == (ranking in (record.metrics["ranking"], *arena.CONTROLS))


def test_the_frame_has_every_contender_and_control(records):
    frame = arena.arena_frame(records)
    assert set(frame["method"]) == set(arena.LABELS)
    assert set(frame["split"]) == {"valid", "test"} and not frame[["accuracy", "macs", "parameters"]].isna().any().any()
    assert not frame[~frame["method"].isin(["l1-norm", "random"])]["latency_ms"].isna().any()
    assert set(frame[frame["method"] == "scratch"]["treatment"]) == {"fine-tuned"}
    assert (frame["latency_share"] > 0).all() and (frame[frame["amount"] == 0]["latency_share"] == 1).all()
    failed = Record(records[0].spec | {"seed": 9}, {"failed": "the loss is nan"}, {})
    other = Record({"study": "another"}, {}, {})
    assert arena.arena_frame([*records, failed, other]).equals(frame)


def test_the_choice_is_by_validation_and_the_search_alone(records):
    rows = []
    for setting, seed, valid, test in (("p=0.1", 0, 50, 90), ("p=0.2", 0, 60, 10), ("p=0.1", 1, 99, 99)):
        for split, accuracy in (("valid", valid), ("test", test)):
            for amount, more in ((0.0, -40 if setting == "p=0.2" else 40), (0.5, 0)):
                row = {"network": "vgg11", "method": "dropout", "setting": setting, "seed": seed, "split": split}
                rows.append(row | {"treatment": "fine-tuned", "amount": amount, "accuracy": accuracy + more})
    frame = pd.DataFrame(rows)
    assert arena.choose_strengths(frame, "vgg11") == {"dropout": "p=0.2"}
    assert set(arena.final(frame, "vgg11")["setting"]) == {"p=0.2"}
    with pytest.raises(ValueError, match="no run of the arena on 'resnet14'; there are \\['vgg11'\\]"):
        arena.choose_strengths(frame, "resnet14")
    assert arena.final(frame[frame["split"] == "valid"], "vgg11").columns.equals(frame.columns)


@pytest.mark.parametrize("function", [arena.choose_strengths, arena.final])
@pytest.mark.parametrize("frame", [pd.DataFrame(), arena.arena_frame([])])
def test_no_runs_are_said_to_be_none(function, frame):
    with pytest.raises(ValueError, match=r"no run of the arena on 'vgg11'; there are \[\]"):
        function(frame, "vgg11")


def test_a_run_repeats_to_the_bit(records):
    again = ArenaExperiment(method="bridgeout", **arena.CONTENDERS["bridgeout"].strengths[-1], **TINY).run(
        progress=False
    )
    first = next(r for r in records if r.spec["method"] == "bridgeout")
    assert again.metrics == first.metrics and again.spec == first.spec


def test_a_run_goes_on_from_its_checkpoint_to_the_same_result(tmp_path):
    class Stop(Exception):
        pass

    def stop(row):
        raise Stop

    tiny = TINY | {"recipe": dataclasses.replace(TINY["recipe"], epochs=2)}
    experiment = ArenaExperiment(method="sgl-l0", strength=1e-3, **tiny)
    path = tmp_path / "run.pt"
    with pytest.raises(Stop):
        experiment.run(progress=False, checkpoint=path, on_epoch=stop)
    assert experiment.run(progress=False, checkpoint=path).metrics == experiment.run(progress=False).metrics


@pytest.mark.parametrize("ranking", [*arena.RANKINGS, *arena.CONTROLS])
@pytest.mark.parametrize("name", ["vgg11", "resnet14"])
def test_smaller_networks_are_smaller_and_the_original_is_left_alone(name, ranking):
    torch.manual_seed(0)
    model, x = bl.build_model(name, width=0.25), torch.rand(1, 3, 32, 32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    whole, even = (bl.cost.count(arena.smaller(model, a, x, "layer"), x)[1] for a in (0.0, 0.5))
    assert bl.cost.count(arena.smaller(model, 0.5, x, ranking), x)[1] <= even < 0.4 * whole
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_exact_zeros_counts_weights_and_filters():
    conv = nn.Conv2d(1, 4, 3)
    with torch.no_grad():
        conv.weight.fill_(1.0)[0] = 0.0
        conv.weight[1, 0, 0, 0] = 0.0
    assert arena.exact_zeros(nn.Sequential(conv)) == {"weights": pytest.approx(10 / 36), "filters": 0.25}


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"method": "magic"}, "method must be one of"),
        ({"method": "l1", "strength": -1.0}, "strength must be a finite number >= 0, got -1.0"),
        ({"method": "l1", "strength": float("nan")}, "strength must be a finite number >= 0, got nan"),
        ({"method": "none", "cut": 0.5}, "cut goes with method='scratch', 0 < cut < 1"),
        ({"method": "scratch"}, "cut goes with method='scratch', 0 < cut < 1; got 'scratch', cut=0"),
        ({"method": "scratch", "cut": 1.0}, "cut goes with method='scratch'"),
        ({"dataset": "imagenet"}, "dataset must be one of"),
        ({"dataset": "auto"}, "dataset must be one of 'cifar10'"),
        ({"p": 1.0}, "p must be"),
        ({"method": "targeted", "p": 0.5, "strength": 1.5}, "0 <= strength <= 1, got 1.5"),
        ({"model": "smallcnn-plain"}, "model 'smallcnn-plain' has no BatchNorm2d, which this experiment needs"),
    ],
)
def test_bad_input_gets_one_clear_line(fields, message):
    with pytest.raises(ValueError, match=message.replace("(", "\\(")) as caught:
        ArenaExperiment(**fields)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="ranking must be one of"):
        arena.smaller(bl.build_model("vgg11", width=0.1), 0.5, torch.zeros(1, 3, 32, 32), "best")


def test_a_search_has_every_strength_once():
    experiments = arena.search("resnet14")
    assert len({str(e.spec) for e in experiments}) == len(experiments)
    assert {e.method for e in experiments} == set(arena.CONTENDERS)
    with pytest.raises(ValueError, match="network must be one of"):
        arena.search("resnet15")


def fake(method, accuracy, *, network="vgg11", seed=0, amounts=(0.0, 0.3, 0.5, 0.7), **fields):
    """A record of the arena with this accuracy everywhere, plus the seed."""
    if method == "scratch":
        fields["cut"] = amounts[0]
    experiment = ArenaExperiment(method=method, seed=seed, **fields, **arena.NETWORKS[network])
    values = {split: [accuracy + seed + 0.1 * k for k in range(len(amounts))] for split in ("valid", "test")}
    sizes = {name: [100 - k for k in range(len(amounts))] for name in ("parameters", "macs")}
    points = {"amount": list(amounts)} | sizes | dict.fromkeys(arena.TREATMENTS, values)
    rankings = ("layer", *arena.CONTROLS) if method == "none" else ("layer",)
    metrics = {"ranking": "layer", "points": dict.fromkeys(rankings, points)}
    return Record(experiment.spec, metrics, {"latency": [1.0] * len(amounts)})


def fakes(**accuracies):
    return [
        fake(method.replace("_", "-"), accuracy + 0.2 * seed * (k % 3), network=network, seed=seed)
        for network in arena.NETWORKS
        for seed in range(3)
        for k, (method, accuracy) in enumerate(accuracies.items())
    ]


def test_a_network_is_complete_with_three_seeds_of_every_method_and_control():
    methods = {method.replace("-", "_"): 50.0 for method in arena.CONTENDERS}
    small = [fake("scratch", 50.0, seed=seed, amounts=(0.5,)) for seed in range(3)]
    whole = [r for r in fakes(**methods) if r.spec["model"] == "vgg11"] + small
    assert arena.complete(arena.arena_frame(whole), "vgg11")
    assert not arena.complete(arena.arena_frame(whole), "resnet14")
    assert not arena.complete(arena.arena_frame(whole[:-1]), "vgg11")
    assert not arena.complete(arena.arena_frame([]), "vgg11")
    other = [r for r in fakes(none=50.0) if r.spec["model"] == "resnet14"]
    assert set(arena.standings(whole + other)["network"]) == {"vgg11"}
    assert arena.standings([]).empty


def test_the_ledger_needs_three_seeds_and_every_network():
    oicsr = next(c for c in judged.SECTION.claims if "OICSR" in c.claim)
    assert oicsr.judge([]).verdict == "not run"
    assert oicsr.judge([r for r in fakes(oicsr=60.0, group_lasso=50.0) if r.spec["seed"] < 2]).verdict == "not run"
    ahead = fakes(oicsr=60.0, group_lasso=50.0)
    found = oicsr.judge(ahead)
    assert found.verdict == "holds in direction" and found.ours.count("n = 3") == 2 and "+9.8" in found.ours
    behind = [r for r in fakes(oicsr=40.0, group_lasso=50.0) if r.spec["model"] == "resnet14"]
    one_of_two = oicsr.judge([r for r in ahead if r.spec["model"] == "vgg11"] + behind)
    assert one_of_two.verdict == "contradicted" and "of 2 intervals 1 for it, 1 against" in one_of_two.short


def test_the_ledger_compares_the_pruned_with_the_whole_and_with_small_ones_from_scratch():
    healed = next(c for c in judged.SECTION.claims if "smallest L1 norm" in c.claim)
    found = healed.judge(fakes(none=60.0))  # 0.1 above the whole network, with every seed alike
    assert found.verdict == "undecided" and "+0.1 [+0.1, +0.1]" in found.ours and "2 for it" in found.short
    scratch = next(c for c in judged.SECTION.claims if "from scratch" in c.claim)
    small = [
        fake("scratch", 50.0, network=network, seed=seed, amounts=(amount,))
        for network in arena.NETWORKS
        for seed in range(3)
        for amount in (0.3, 0.5, 0.7)
    ]
    found = scratch.judge(fakes(none=60.0) + small)
    assert found.verdict == "contradicted" and "-10.2 [-10.2, -10.2]" in found.ours
    assert scratch.judge(fakes(none=40.0) + small).verdict == "holds in direction"


def test_the_recorded_repeats_are_those_of_the_recorded_choice(monkeypatch):
    monkeypatch.setattr(arena.study, "AMOUNTS", (0.0, 0.3, 0.5, 0.7))  # as they are outside of these tests
    frame = arena.arena_frame(bl.notebook.results("arena"))
    for network in [name for name in arena.NETWORKS if arena.complete(frame, name)]:
        best = arena.choose_strengths(frame, network)
        for method, contender in arena.CONTENDERS.items():
            strength = contender.strengths[arena.CHOSEN[network].get(method, 0)]
            experiment = ArenaExperiment(method=method, **strength, **arena.NETWORKS[network])
            assert arena.setting(experiment.spec) == best[method], method
    recorded = {record.key for record in bl.notebook.results("arena")}
    wanted = {bl.runs.records.fingerprint(e.spec) for e in bl.studies.sweeps()["arena"]()}
    assert recorded <= wanted
