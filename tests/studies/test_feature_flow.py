"""Paths of features: lengths and angles by hand, blocks that can be cut out, and chapter 10's study."""

import math

import pytest
import torch
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite.rivals import curvature, is_residual_point, length, trajectories, turning
from bridgeout_lite.runs.records import Record, Store, fingerprint
from bridgeout_lite.studies import feature_flow as featureflow
from bridgeout_lite.studies.feature_flow import (
    PLAIN,
    FlowExperiment,
    feature_flow,
    flow_layers,
    flow_removal,
    flow_runs,
    measure_layers,
    measure_paths,
    removable_blocks,
    setting,
    weakest_blocks,
    without_blocks,
)
from bridgeout_lite.studies.feature_flow.claims import SECTION

QUICK = bl.Recipe(epochs=1, batch_size=64, precision="float32")


def path(*points, scale=1.0):
    return [scale * torch.tensor([point], dtype=torch.float32) for point in points]


def resnet(seed=0, width=0.25):
    """With gammas and betas that differ, as after training."""
    torch.manual_seed(seed)
    model = bl.build_model("resnet34c", width=width)
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.1, 1.0)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return model.eval()


def test_turning_by_hand():
    stairs = path((0, 0), (1, 0), (1, 1), (2, 1))
    assert turning(stairs).item() == pytest.approx(math.pi), "two right angles"
    assert turning(path((0, 0), (1, 1), (3, 3))).item() == 0, "straight"
    assert turning(path((0, 0), (2, 0), (1, 0))).item() == pytest.approx(math.pi), "straight back"
    both = [torch.cat([a, b]) for a, b in zip(stairs, path((0, 0), (1, 0), (2, 0), (3, 0)), strict=True)]
    assert turning(both).item() == pytest.approx(math.pi / 2), "the mean over the batch"
    assert turning(stairs[:2]).item() == 0 and turning(stairs[:1]).item() == 0


def test_only_turning_does_not_know_the_scale():
    points = ((0, 0), (1, 0), (1, 2), (5, 1))
    one, ten = path(*points), path(*points, scale=10)
    assert turning(ten).item() == pytest.approx(turning(one).item(), rel=1e-6)
    assert length(ten).item() == pytest.approx(10 * length(one).item())
    assert curvature(ten).item() == pytest.approx(10 * curvature(one).item())


def test_small_angles_and_steps_of_length_zero():
    assert turning(path((0, 0), (1, 0), (2, 1e-4))).item() == pytest.approx(1e-4, rel=1e-3)
    assert turning(path((0, 0), (0, 0), (1, 0))).item() == 0
    assert turning(path((0, 0), (1, 0), (1, 0), (1, 1))).item() == 0


def test_trajectories_are_the_stages_of_a_residual_network():
    model, x = resnet(), torch.randn(4, 3, 32, 32)
    model.train()
    found = trajectories(model, x, where=is_residual_point)
    assert model.training
    assert [list(p) for p in found] == [
        ["relu", "stage1.0", "stage1.1", "stage1.2"],
        ["stage2.0", "stage2.1", "stage2.2", "stage2.3"],
        [f"stage3.{i}" for i in range(6)],
    ]
    model.eval()
    assert torch.equal(found[0]["stage1.0"], model.stage1[0](found[0]["relu"]))
    assert not found[0]["relu"].requires_grad


def test_a_step_is_the_branch_cut_off_where_it_would_go_below_zero():
    model = resnet()
    first = trajectories(model, torch.randn(4, 3, 32, 32), where=is_residual_point)[0]
    block, x = model.stage1[0], first["relu"]
    branch = block.norm2(block.conv2(block.relu1(block.norm1(block.conv1(x)))))
    assert torch.allclose(first["stage1.0"] - x, torch.maximum(branch, -x), atol=1e-5)


def test_a_model_without_paths_is_refused():
    model, x = bl.build_model("smallcnn", width=0.25), torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match="no two consecutive layers have features of one shape"):
        trajectories(model, x, where=lambda name, module: name in ("relu1", "relu2", "relu5"))
    with pytest.raises(ValueError, match="picked no module"):
        trajectories(model, x, where=is_residual_point)


def test_measures_of_a_network_by_hand():
    model, x = resnet(), torch.randn(3, 3, 32, 32)
    stage = measure_paths(model, x)[1]
    points = list(trajectories(model, x, where=is_residual_point)[1].values())
    assert stage["points"] == [f"stage2.{i}" for i in range(4)]
    assert stage["length"] == pytest.approx(sum(stage["steps"]), rel=1e-5)
    step = (points[1] - points[0]).flatten(1).norm(dim=1)
    assert stage["relative"][0] == pytest.approx((step / points[0].flatten(1).norm(dim=1)).mean().item(), rel=1e-5)
    layers = measure_layers(model)
    assert len(layers) == 29 and "stage2.0.shortcut.conv" in layers
    norm = model.stage3[1].norm2
    assert layers["stage3.1.conv2"]["gamma"] == pytest.approx(norm.weight.abs().mean().item())
    assert layers["stage3.1.conv2"]["beta"] == pytest.approx(norm.bias.abs().mean().item())


def test_layers_without_their_batchnorm_are_refused():
    for model in (bl.build_model("smallcnn-plain", width=0.25), bl.build_model("wrn-10-2", width=0.25)):
        with pytest.raises(ValueError, match="has no BatchNorm of its size under its name"):
            measure_layers(model)


def test_a_block_that_says_nothing_can_be_cut_out():
    model, x = resnet(), torch.randn(4, 3, 32, 32)
    assert list(removable_blocks(model)) == [
        *(f"stage1.{i}" for i in range(3)),
        *(f"stage2.{i}" for i in range(1, 4)),
        *(f"stage3.{i}" for i in range(1, 6)),
    ]
    for name in ("stage1.1", "stage3.4"):
        norm = model.get_submodule(name).norm2
        nn.init.zeros_(norm.weight), nn.init.zeros_(norm.bias)
    assert set(weakest_blocks(model, x)[:2]) == {"stage1.1", "stage3.4"}
    small = without_blocks(model, ["stage1.1", "stage3.4"])
    with torch.no_grad():
        assert torch.allclose(small(x), model(x), atol=1e-6)
    assert len(removable_blocks(small)) == 9 and len(removable_blocks(model)) == 11
    with pytest.raises(ValueError, match=r"'stage2.0' is no block that can be cut out; those that can: stage1.0"):
        without_blocks(model, ["stage1.0", "stage2.0"])


def test_an_experiment_says_what_is_wrong():
    for bad, message in (
        ({"dataset": "auto"}, "dataset"),
        ({"model": "resnet"}, "model"),
        ({"model": "vgg11"}, "model 'vgg11' has no ResidualBlock, which this experiment needs"),
        ({"length": -1.0}, "length"),
        ({"curvature": math.nan}, "curvature"),
        ({"norm": 3}, "norm"),
    ):
        with pytest.raises(ValueError, match=message):
            FlowExperiment(**bad)


def test_the_sweep_and_the_names_of_its_settings():
    runs = feature_flow()
    assert len({fingerprint(e.spec) for e in runs}) == len(runs) and {e.seed for e in runs} == {0, 1, 2}
    assert setting(FlowExperiment().spec) == "no penalty, 4 epochs"
    assert (
        setting(FlowExperiment(length=1e-5, curvature=0.25, norm=1).spec) == "length 1e-05 and curvature 0.25, L1 norm"
    )
    assert bl.studies.sweeps()["feature-flow"]() == runs


def test_a_run_is_recorded_and_read(tmp_path, monkeypatch):
    for name, value in (("FILTERS", ("l2",)), ("FILTER_AMOUNTS", (0.5,)), ("BLOCK_COUNTS", (2,))):
        monkeypatch.setattr(featureflow.study, name, value)
    common = {"dataset": "digits", "train": 64, "valid": 32, "test": 32, "recipe": QUICK}
    wanted = [FlowExperiment(**common), FlowExperiment(length=0.01, **common)]
    records = bl.sweep(wanted, tmp_path / "flow.jsonl", progress=False, device="cpu")
    assert [r.spec for r in Store(tmp_path / "flow.jsonl")] == [e.spec for e in wanted]
    built = []
    build = FlowExperiment.build
    monkeypatch.setattr(FlowExperiment, "build", lambda self, images: built.append(build(self, images)) or built[0])
    again = wanted[1].run(bl.load_images("digits", train=64, valid=32, test=32), device="cpu", progress=False)
    assert again.metrics == records[1].metrics, "the same bits"
    assert built[0].training, "the network has its mode back"
    runs = flow_runs(records)
    assert list(runs["setting"]) == ["no penalty, 1 epoch", "length 0.01"] and runs["length"].gt(0).all()
    layers = flow_layers(records)
    assert len(layers) == 2 * 29
    second = layers[layers["part"] == "second"]["layer"]
    assert set(second) == {f"{name}.conv2" for name in removable_blocks(resnet())}
    removal = flow_removal(records)
    assert set(removal["kind"]) == {"filters: l2", "weights", "blocks: smallest steps", "blocks: random"}
    whole = removal[(removal["amount"] == 0) & (removal["split"] == "test") & (removal["setting"] == "length 0.01")]
    assert (whole["accuracy"] == records[1].metrics["test_accuracy"]).all()
    stranger = Record({"method": "none"}, {}, {})
    assert not len(flow_runs([stranger])) and not len(flow_removal([stranger]))


def made_up(experiment, sparser, better, chance=30.0):
    """A record of the sweep: penalties add to Hoyer's measures and to the accuracy after removal, and seeds scatter.
    ``chance``: the accuracy after filters taken at random."""
    on, scatter = bool(experiment.length or experiment.curvature), 0.1 * experiment.seed
    layer = {"norm": 1.0, "gamma": 0.5 if on else 1.0, "hoyer": 0.1 + on * sparser + 1e-4 * scatter}
    stage = {"points": ["relu", "stage1.0"], "relative": [0.5], "length": 1.0, "curvature": 1.0, "turning": 1.0}
    after = [40.0 + on * better + scatter * (1 + on)]
    curve = {"amount": [0.5], "valid": after, "test": after}
    kinds = {"filters: l2": curve, "weights": curve | {"amount": [0.8]}}
    kinds["filters: random"] = curve | {key: [chance + scatter] for key in ("valid", "test")}
    kinds["blocks: smallest steps"] = curve | {"amount": [3]}
    metrics = {"valid_accuracy": 50.0, "test_accuracy": 50.0 + scatter, "paths": [stage], "removal": kinds}
    metrics["layers"] = {"stage1.0.conv2": layer | {"filter_hoyer": layer["hoyer"]}}
    return Record(experiment.spec, metrics, {})


@pytest.mark.parametrize("sign", [1, -1])
def test_the_ledger_judges_the_runs(sign):
    records = [made_up(e, sign * 0.01, sign * 5.0) for e in feature_flow()]
    found = [claim.judge(records) for claim in SECTION.claims]
    assert [f.verdict for f in found] == ["undecided"] * 5 + ["not run"], "so short a training decides nothing"
    side = "5 for it, 0 against" if sign > 0 else "0 for it, 5 against"
    assert f"of 5 intervals {side}" in found[0].short
    assert "n = 3" in found[0].ours and ("+5.1" if sign > 0 else "-4.9") in found[2].ours
    assert "0.50, 0.50" in found[0].reason and "before any removal the difference is +0.0" in found[3].reason
    lucky = [made_up(e, sign * 0.01, sign * 5.0, chance=60.0) for e in feature_flow()]
    by_chance = SECTION.claims[3].judge(lucky)
    assert "1 for it, 1 against" in by_chance.short[-30:] or sign < 0
    assert "removal by chance from the same networks -" in by_chance.reason
    few = [record for record in records if record.spec["seed"] < 2]
    for some in ([], few):
        assert {claim.judge(some).verdict for claim in SECTION.claims} == {"not run"}


def test_differences_from_training_without_a_penalty():
    records = [made_up(e, 0.0, 2.0) for e in feature_flow()]
    after = flow_removal(records).query("kind == 'weights' and amount == 0.8 and split == 'test'")
    table = featureflow.against_plain(after, "accuracy").set_index("setting")
    assert PLAIN not in table.index and len(table) == 6
    assert table.loc["length 0.0002", "mean"] == pytest.approx(2.1) and table.loc["length 0.0002", "n"] == 3
    assert table.loc["length 0.0002", "low"] < 2.1 < table.loc["length 0.0002", "high"]
    with pytest.raises(ValueError, match="no rows of 'no penalty, 4 epochs' to compare with"):
        featureflow.against_plain(after[after["setting"] != PLAIN], "accuracy")
