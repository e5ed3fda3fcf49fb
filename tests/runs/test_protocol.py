"""The pruning protocol: what is recorded of a trained network is what pruning it shows."""

import json

import pandas as pd
import pytest
import torch
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite import Experiment, Recipe, pruning
from bridgeout_lite import studies as sweeps
from bridgeout_lite.runs.records import Record, fingerprint
from bridgeout_lite.studies import curves as protocol
from bridgeout_lite.studies.images import dropout_places, run
from bridgeout_lite.studies.pruning import study

RECIPE = Recipe(epochs=1, batch_size=32, lr=0.05, precision="float32")
SMALL = {"width": 0.125, "train": 128, "valid": 64, "recipe": RECIPE}
QUICK = Experiment("digits", "vgg11", "bridgeout", 0.3, 1.5, measures=("pruning",), target_fraction=0.75, **SMALL)
DEVICE = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def images():
    return bl.load_images("digits", train=128, valid=64, test=100)


@pytest.fixture(scope="module")
def record(images):
    return run(QUICK, images, **DEVICE)


def test_a_record_holds_every_curve(record):
    kept = record.metrics["pruning"]
    assert set(kept["curves"]) == {*protocol.CURVES, protocol.RELEASED}
    for name, (amounts, _) in protocol.CURVES.items():
        lists = kept["curves"][name]
        assert lists["amount"] == list(amounts) and len(lists["test"]) == len(amounts)
        assert ("valid" in lists) == (name in protocol.CHOSEN_BY)
    assert "layers" not in record.metrics and "maps" not in record.metrics
    assert len(json.dumps(record.metrics)) < 10_000
    latency = record.provenance["latency"]
    assert latency["amount"] == list(protocol.AMOUNTS) and min(latency["latency_ms"]) > 0 and latency["batch"] == 100


def test_the_curves_agree_where_treatments_do(record):
    curves = record.metrics["pruning"]["curves"]
    test, valid = record.metrics["test_accuracy"], record.metrics["valid_accuracy"]
    assert curves["zeroed"]["test"][0] == curves["removed"]["test"][0] == test  # nothing pruned
    assert curves["zeroed"]["valid"][0] == valid
    costs = record.metrics["pruning"]["costs"]
    assert costs["parameters"] == sorted(costs["parameters"], reverse=True)
    assert costs["parameters"][0] == sum(p.numel() for p in bl.build_model("vgg11", width=0.125).parameters())


def test_norms_are_sorted_and_the_noise_ratio_is_its_definition(images):
    torch.manual_seed(0)
    model = bl.build_model("smallcnn", width=0.25)
    short = {"zeroed": ((0.0, 0.5), {})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "CURVES", short)
        found = protocol.measure_pruning(model, images, 1.5, precision="float32")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            w = layer.weight.detach()
            norms = w.flatten(1).norm(dim=1)
            assert found["filters"][name] == pytest.approx(sorted(norms.tolist()), rel=1e-5)
            ratio = (w.abs().pow(1.5).mean() / w.square().mean()).item()
            assert found["weights"][name]["noise_ratio"] == pytest.approx(ratio, rel=1e-5)


def test_as_released_also_zeroes_scales():
    torch.manual_seed(0)
    model = bl.build_model("vgg11", width=0.25)
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    described = pruning.prune(_copy(model), 0.3)
    released = protocol.prune_as_released(_copy(model), 0.3)
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            zeroed = (released.get_submodule(name).weight == 0).nonzero().flatten().tolist()
            smallest = norm.weight.argsort()[: int(0.3 * norm.num_features)].sort().values.tolist()
            assert zeroed == smallest and (described.get_submodule(name).weight != 0).all()
        if isinstance(norm, nn.Conv2d):
            assert torch.equal(released.get_submodule(name).weight, described.get_submodule(name).weight)


def _copy(model):
    twin = bl.build_model("vgg11", width=0.25)
    twin.load_state_dict(model.state_dict())
    return twin


def test_the_scratch_control_has_the_pruned_shape(images, record):
    scratch = Experiment("digits", "vgg11", "none", 0.0, cut=0.5, **SMALL)
    small = run(scratch, images, **DEVICE).spec
    assert small["cut"] == 0.5
    costs = record.metrics["pruning"]["costs"]
    torch.manual_seed(0)
    shape = pruning.remove_filters(bl.build_model("vgg11", width=0.125), 0.5, torch.zeros(1, 3, 32, 32))
    assert sum(p.numel() for p in shape.parameters()) == costs["parameters"][costs["amount"].index(0.5)]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("vgg11", {f"relu{k}" for k in range(1, 9)}),
        (
            "resnet34c",
            {
                f"stage{s}.{b}.{end}"
                for s, n in ((1, 3), (2, 4), (3, 6))
                for b in range(n)
                for end in ("relu1", "norm2")
            },
        ),
        ("wrn-10-2", {f"stage{s}.0.conv1" for s in (1, 2, 3)}),
    ],
)
def test_dropout_sits_where_the_study_has_it(name, places):
    model = bl.build_model(name, width=0.25)
    where = dropout_places(name)
    assert {n for n, m in model.named_modules() if where(n, m)} == places


def _made(method, p, q, seed, valid, **more):
    curves = {"zeroed": {"amount": [0.0, 0.1, 0.2], "test": [90.0, 50.0, 10.0], "valid": valid}}
    spec = {"dataset": "cifar10", "model": "vgg11", "method": method, "p": p, "q": q, "seed": seed, **more}
    spec.setdefault("recipe", {"epochs": 10})
    return Record(spec, {"pruning": {"curves": curves}}, {})


def test_settings_are_chosen_on_validation():
    records = [
        _made("none", 0.0, 2.0, 0, [91, 40, 10]),
        _made("bridgeout", 0.3, 1.5, 0, [80, 70, 60], target_fraction=0.75),
        _made("bridgeout", 0.3, 1.5, 1, [80, 20, 10], target_fraction=0.75),
        _made("bridgeout", 0.1, 2.0, 0, [90, 60, 30]),
        _made("bridgeout", 0.1, 2.0, 1, [90, 60, 30]),
    ]
    frame = protocol.curves_frame(records)
    assert isinstance(frame, pd.DataFrame) and len(frame) == 5 * 2 * 3
    assert protocol.choose_settings(frame, "zeroed") == {"none": "-", "bridgeout": "p=0.1, q=2"}
    strong = protocol.choose_settings(frame, "zeroed", amounts=(0.2,))
    assert strong["bridgeout"] == "p=0.3, q=1.5, 75 % of kernels"
    lucky = _made("bridgeout", 0.2, 1.0, 0, [95, 95, 95])  # one seed of a search does not beat two
    assert protocol.choose_settings(protocol.curves_frame([*records, lucky]), "zeroed")["bridgeout"] == "p=0.1, q=2"
    with pytest.raises(ValueError, match="curve_name must be one of 'zeroed', 'removed, recalibrated'"):
        protocol.choose_settings(frame, "weights: zeroed")
    mixed = protocol.curves_frame([*records, _made("none", 0.0, 2.0, 0, [91, 40, 10], recipe={"epochs": 2})])
    with pytest.raises(ValueError, match="several experiments"):
        protocol.choose_settings(mixed, "zeroed")


def test_the_advantage_is_paired_by_seed():
    tests = {
        ("none", 0): [90, 50, 10],
        ("none", 1): [80, 40, 0],
        ("bridgeout", 0): [85, 60, 30],
        ("bridgeout", 1): [75, 50, 20],
    }
    records = []
    for (method, seed), test in tests.items():
        record = _made(method, 0.1, 2.0, seed, [1, 1, 1])
        record.metrics["pruning"]["curves"]["zeroed"]["test"] = test
        records.append(record)
    rows = protocol.at_best(protocol.curves_frame(records), "zeroed")
    assert set(rows["split"]) == {"test"} and len(rows) == 12
    assert bl.stats.advantage(rows, "bridgeout", "none", (0.1, 0.2)) == (15.0, 15.0, 15.0, 2)
    assert bl.stats.advantage(rows, "bridgeout", "none", (0.0,)) == (-5.0, -5.0, -5.0, 2)
    assert bl.stats.advantage(rows, "bridgeout", "dropout", (0.1,))[3] == 0


@pytest.mark.parametrize(
    ("accuracies", "share"), [([90, 87, 80], 0.1 + 0.1 * 2 / 7), ([90, 80, 88], 0.05), ([90, 89, 88], 0.2)]
)
def test_how_much_pruning_a_network_endures(accuracies, share):
    assert protocol.endures((0.0, 0.1, 0.2), accuracies) == pytest.approx(share)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_comparison_repeats_what_it_compares(name):
    runs = sweeps.sweeps()[f"pruning-{name}"]()
    assert len({fingerprint(e.spec) for e in runs}) == len(runs) and {e.dataset for e in runs} == {name}
    seeds = {}
    for e in runs:
        seeds.setdefault((e.method, e.p, e.q, e.target_fraction, e.cut, e.recipe.epochs), set()).add(e.seed)
    assert all(seen in ({0}, {0, 1, 2}) for seen in seeds.values())
    repeated = {key[:4] for key, seen in seeds.items() if len(seen) == 3 and not key[4] and key[5] == 10}
    assert repeated == set(study.PRUNING_REPEATED) <= set(study.PRUNING_SEARCH)


def test_the_recorded_runs_are_those_of_the_sweep():
    recorded = bl.notebook.results("pruning-cifar10").keys()
    assert recorded == {fingerprint(e.spec) for e in sweeps.sweeps()["pruning-cifar10"]()}


def test_a_front_is_what_no_other_point_beats():
    costs = [3, 1, 2, 2, 4, 1, 5, 3]
    scores = [50.0, 30.0, 60.0, 40.0, 60.0, 30.0, 70.0, 20.0]
    front = bl.stats.pareto_front(costs, scores)
    assert front == [1, 2, 6]  # of the twins 1 and 5 the first
    points = list(zip(costs, scores, strict=True))
    for k, (cost, score) in enumerate(points):
        beaten = any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
        assert beaten == (k not in front) or k == 5
    assert bl.stats.pareto_front([], []) == []


def test_a_front_is_of_whole_points():
    with pytest.raises(ValueError):
        bl.stats.pareto_front([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="must be finite numbers: leave out"):
        bl.stats.pareto_front([1.0, 2.0], [1.0, float("nan")])
