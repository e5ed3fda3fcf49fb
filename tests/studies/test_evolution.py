"""Evolving networks: probabilities by hand, draws as often as they should be, stress, controls, and what is refused."""

import copy
import dataclasses
import json
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import bridgeout_lite as bl
from bridgeout_lite.channels import channel_groups, remove_channels
from bridgeout_lite.rivals import LAWS, Stress, stressed, survival, synapse_probability
from bridgeout_lite.runs.records import fingerprint
from bridgeout_lite.studies import evolution
from bridgeout_lite.studies.evolution import (
    EvolutionExperiment,
    TeacherExperiment,
    at_size,
    cluster_probability,
    cut,
    lineages_frame,
    stress_moments,
    survivors,
    synthesize,
    teachers_frame,
)
from bridgeout_lite.studies.evolution.claims import SECTION, against_control, stress_gain

IMAGE = torch.zeros(1, 3, 32, 32)
RECIPE = bl.Recipe(epochs=1, batch_size=32, flip=False, crop=1, precision="float32")
QUICK = EvolutionExperiment("digits", "vgg11", 0.0625, generations=2, factor=0.8, train=96, valid=40, recipe=RECIPE)
TEACHER = TeacherExperiment(inputs=6, teacher=2, students=8, generations=2, samples=200, steps=30)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(name="vgg11", width=0.125):
    torch.manual_seed(0)
    return bl.build_model(name, width=width)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 250
    return message


@pytest.fixture(scope="module")
def digits():
    return bl.load_images("digits", train=96, valid=40)


# --- probabilities ----------------------------------------------------------------------------------------------------


def test_synapse_probabilities_by_hand():
    w = torch.tensor([[0.0, -1.0], [2.0, 4.0]], dtype=torch.float64)
    expected = [math.exp(x - 1) for x in (0, 0.25, 0.5, 1)]
    assert synapse_probability(w).flatten().tolist() == pytest.approx(expected, rel=1e-12)
    rescaled = [(math.exp(x) - 1) / (math.e - 1) for x in (0, 0.25, 0.5, 1)]
    assert synapse_probability(w, "rescaled").flatten().tolist() == pytest.approx(rescaled, rel=1e-12)
    assert (synapse_probability(torch.zeros(3)) == synapse_probability(torch.tensor([0.0, 1.0]))[0]).all()


def test_cluster_probabilities_by_hand():
    # Z = 10, so 0.9 is truncated and 1 is not; means 3, 2.75 and 0
    w = torch.tensor([[1.0, -1.0, 10.0, 0.9], [-5.0, 6.0, 0.0, 0.0], [0.9, -0.9, 0.5, 0.0]], dtype=torch.float64)
    assert cluster_probability(w).tolist() == pytest.approx([1, math.exp(2.75 / 3 - 1), math.exp(-1)], rel=1e-12)
    assert cluster_probability(w, law="rescaled")[2] == 0
    whole = [3.225, 2.75, 0.575]
    expected = [math.exp(x / whole[0] - 1) for x in whole]
    assert cluster_probability(w, truncation=0).tolist() == pytest.approx(expected, rel=1e-12)
    assert cluster_probability(w.view(3, 1, 2, 2)).tolist() == cluster_probability(w).tolist()
    assert cluster_probability(torch.zeros(2, 3)).tolist() == pytest.approx([math.exp(-1)] * 2)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_probabilities_are_probabilities_and_rise_with_size(law, dtype):
    w = draw(20, 3, 3, 3).to(dtype)
    floor = math.exp(-1) if law == "exp" else 0.0
    p = synapse_probability(w, law)
    assert p.shape == w.shape and p.dtype == dtype and p.min() >= floor - 0.01
    assert p.max().item() == pytest.approx(1, abs=1e-6)
    order = w.abs().flatten().argsort()
    assert (p.flatten()[order].diff() >= 0).all()
    assert torch.equal(synapse_probability(-w, law), p)
    assert torch.allclose(synapse_probability(w.double() * 1e-9, law), synapse_probability(w.double(), law))
    c = cluster_probability(w, law=law)
    assert c.shape == (20,) and c.min() >= floor - 1e-12 and c.max().item() == pytest.approx(1)


def test_probabilities_have_no_gradient():
    w = draw(4, 4).requires_grad_()
    assert not synapse_probability(w).requires_grad and not cluster_probability(w).requires_grad


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: synapse_probability(torch.ones(3, dtype=torch.int64)), "floating-point tensor, got torch.int64"),
        (lambda: synapse_probability([1.0]), "floating-point tensor, got list"),
        (lambda: synapse_probability(torch.tensor([1.0, float("nan")])), "NaN or infinity"),
        (lambda: cluster_probability(torch.tensor([[1.0, float("inf")]])), "NaN or infinity"),
        (lambda: synapse_probability(torch.ones(2), "log"), "law must be one of 'exp', 'rescaled', got 'log'"),
        (lambda: survival(torch.ones(2), None), "law must be one of"),
        (lambda: survival(torch.tensor([0.5, 1.01])), "share must lie between 0 and 1"),
        (lambda: survival(torch.tensor([-0.01])), "share must lie between 0 and 1"),
        (lambda: survival(torch.tensor([float("nan")])), "share must lie between 0 and 1"),
        (lambda: cluster_probability(torch.ones(4)), r"weights of filters are needed, .*, got shape \(4,\)"),
        (lambda: cluster_probability(torch.ones(0, 4)), r"weights of filters are needed, .*, got shape \(0, 4\)"),
        (lambda: cluster_probability(torch.ones(2, 2), truncation=1.5), "truncation must be .* got 1.5"),
        (lambda: stressed(torch.ones(2), -0.1), r"strength must be .* 0 <= strength <= 1, got -0.1"),
        (lambda: stressed(torch.ones(2), 2), r"strength must be .* got 2"),
        (lambda: stress_moments(torch.ones(2), "much"), r"strength must be .* got 'much'"),
        (lambda: Stress(-0.5), r"strength must be .* got -0.5"),
        (lambda: Stress(0.5, law="linear"), "law must be one of"),
    ],
)
def test_bad_weights_and_strengths(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    one_line(error)


# --- stress -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS)
def test_stress_has_its_mean_and_variance(law):
    w, s, n = draw(40), 0.6, 20_000
    generator = seeded(1)
    draws = torch.stack([stressed(w, s, law=law, generator=generator) for _ in range(n)])
    mean, variance = stress_moments(w, s, law)
    # 6 standard errors of 40 means: exceeded with probability 8e-8; a mean of Bernoulli draws has variance v / n
    assert ((draws.mean(0) - mean).abs() <= 6 * (variance / n).sqrt() + 1e-12).all()
    kept = synapse_probability(w, law)
    hits = (draws != w).double().mean(0)
    assert ((hits - (1 - kept)).abs() <= 6 * (kept * (1 - kept) / n).sqrt() + 1e-12).all()
    two_values = (s * w).square() * hits * (1 - hits)
    assert torch.allclose(draws.var(0, correction=0), two_values, rtol=1e-9, atol=1e-12)
    assert ((draws == w) | torch.isclose(draws, w * (1 - s))).all()


def test_stress_is_nothing_in_evaluation_and_at_zero():
    w = draw(5)
    assert stressed(w, 0.5, False) is w and stressed(w, 0.0) is w
    assert torch.equal(stressed(w, 1.0, generator=seeded()) == 0, stressed(w, 0.5, generator=seeded()) != w)


def test_the_gradient_under_stress_is_the_factor():
    w = draw(50).requires_grad_()
    out = stressed(w, 0.5, generator=seeded())
    out.sum().backward()
    assert torch.equal(w.grad, (out / w).detach().round(decimals=3))
    assert set(w.grad.tolist()) == {0.5, 1.0}


def test_stress_is_attached_and_gone():
    model = build()
    before, x = state(model), torch.randn(4, 3, 32, 32, generator=seeded())
    expected = model.eval()(x)
    method = Stress(0.5)
    assert method.attach(model) is model and method.penalty(model) == 0
    assert torch.equal(model.eval()(x), expected), "evaluation is as before"
    model.train()
    noisy = [model.conv3.weight.detach() for _ in range(2)]
    assert not torch.equal(*noisy) and not torch.equal(noisy[0], before["conv3.weight"])
    assert "strength=0.5" in repr(model)
    method.detach(model)
    assert same(state(model), before) and not any(parametrize.is_parametrized(m) for m in model.modules())


def test_stress_in_the_way_is_refused():
    model = Stress(0.5).attach(build())
    with pytest.raises(ValueError, match="carries a mask, noise or gates already"):
        Stress(0.5).attach(model)
    for call in (lambda: synthesize(model, 0.5), lambda: synthesize(model, 0.5, None, "weight")):
        with pytest.raises(ValueError, match="is parametrized"):
            call()


def test_stress_on_whole_filters_would_be_undone_by_batchnorm():
    """What chapter 12 says: a factor on a filter is divided out again, so stress acts on single weights."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-12)).double().train()
    x = draw(4, 3, 8, 8)
    plain = layers(x)
    with torch.no_grad():
        layers[0].weight[::2] *= 0.5
    assert torch.allclose(layers(x), plain)


# --- synthesis --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS)
def test_weights_survive_as_often_as_they_should(law):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3)).double()
    n, factor, generator = 2000, 0.7, seeded(2)
    kept = sum(synthesize(model, factor, generator, "weight", law=law)[0].weight_mask.double() for _ in range(n)) / n
    expected = factor * synapse_probability(model[0].weight, law)
    expected.view(-1)[model[0].weight.abs().argmax()] = 1  # the strongest always stays
    # 6 standard errors of 90 shares, and 2 / n for shares near 0: exceeded with probability below 1e-6
    assert ((kept - expected).abs() <= 6 * (expected * (1 - expected) / n).sqrt() + 2 / n).all()


def test_filters_survive_as_often_as_they_should():
    model = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 2, 3)).double()
    image, n, factor, generator = IMAGE.double()[:, :, :5, :5], 400, 0.8, seeded(3)
    kept = sum(survivors(model, factor, generator, example_input=image)["0"].double() for _ in range(n)) / n
    expected = factor * cluster_probability(model[0].weight)
    # 6 standard errors of 12 shares: exceeded with probability 3e-8 (that none of 12 survives has probability 1e-4
    # times smaller still, and then the strongest does)
    assert ((kept - expected).abs() <= 6 * (expected * (1 - expected) / n).sqrt() + 2 / n).all()


def test_an_offspring_is_what_its_survivors_say():
    model = build().eval()
    before = state(model)
    kept = survivors(model, 0.7, seeded(4), example_input=IMAGE)
    child = synthesize(model, 0.7, seeded(4), example_input=IMAGE)
    assert same(state(model), before)
    for name, mask in kept.items():
        assert child.get_submodule(name).out_channels == int(mask.sum()) >= 1
    assert torch.equal(child.conv1.weight, model.conv1.weight[kept["conv1"]])
    assert torch.equal(child.conv2.weight, model.conv2.weight[kept["conv2"]][:, kept["conv1"]])
    assert torch.equal(child.norm2.bias, model.norm2.bias[kept["conv2"]])
    assert bl.cost.count(child, IMAGE)[1] < bl.cost.count(model, IMAGE)[1]
    again = synthesize(model, 0.7, seeded(4))
    assert same(state(again), state(child)), "the same draws, the same offspring; a black image will do"


def test_tied_filters_survive_together():
    model = build("resnet34c", 0.25)
    groups = {g.root: g for g in channel_groups(model, IMAGE)}
    child = synthesize(model, 0.8, seeded(5), example_input=IMAGE)
    tied = next(g for g in groups.values() if len(g.writers) > 2)
    assert len({child.get_submodule(name).out_channels for name in tied.writers}) == 1
    assert child(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_nobody_dies_out():
    model = build(width=0.05)
    child = synthesize(model, 1e-9, seeded(), example_input=IMAGE)
    assert all(m.out_channels == 1 for m in child.modules() if isinstance(m, nn.Conv2d))
    best = cluster_probability(model.conv1.weight).argmax()
    assert torch.equal(child.conv1.weight[0], model.conv1.weight[best])
    masked = synthesize(model, 1e-9, seeded(), "weight")
    assert all(int(m.weight_mask.sum()) == 1 for m in masked.modules() if isinstance(m, nn.Conv2d))


def test_what_is_masked_stays_masked():
    model = build(width=0.0625)
    first = synthesize(model, 0.5, seeded(6), "weight")
    second = synthesize(first, 0.5, seeded(7), "weight")
    dead = first.conv3.weight_mask == 0
    assert (
        second.conv3.weight_mask[dead] == 0
    ).all() and second.conv3.weight_mask.sum() < first.conv3.weight_mask.sum()
    small = synthesize(first, 0.9, seeded(8), example_input=IMAGE)
    assert not hasattr(small.conv3, "weight_mask")
    assert (small.conv3.weight == 0).double().mean() > 0.3


@pytest.mark.parametrize("granularity", ["filter", "weight"])
@pytest.mark.parametrize(
    "model, options, says",
    [
        (None, {"factor": 0.0}, "factor must be a number with 0 < factor <= 1, got 0.0"),
        (None, {"factor": 1.2}, "0 < factor <= 1, got 1.2"),
        (None, {"factor": "half"}, "factor must be .* got 'half'"),
        (None, {"factor": True}, "factor must be .* got True"),
        (None, {"law": "tanh"}, "law must be one of"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), {}, "no nn.Conv2d"),
    ],
)
def test_bad_syntheses(model, options, says, granularity):
    model = build(width=0.05) if model is None else model
    before = state(model)
    with pytest.raises(ValueError, match=says) as error:
        synthesize(model, **({"factor": 0.5, "granularity": granularity} | options))
    one_line(error)
    assert same(state(model), before)


def test_bad_granularity_truncation_and_weights():
    model = build(width=0.05)
    with pytest.raises(ValueError, match="granularity must be one of 'filter', 'weight', got 'layer'"):
        synthesize(model, 0.5, granularity="layer")
    with pytest.raises(ValueError, match="truncation"):
        synthesize(model, 0.5, truncation=-1)
    with pytest.raises(ValueError, match=r"example_input of shape \(1, 1, 32, 32\)"):
        synthesize(model, 0.5, example_input=torch.zeros(1, 1, 32, 32))
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = float("nan")
    for granularity in ("filter", "weight"):
        with pytest.raises(ValueError, match=r"conv2\.weight holds NaN"):
            synthesize(model, 0.5, granularity=granularity)


# --- controls ---------------------------------------------------------------------------------------------------------


def test_cutting_keeps_the_largest_filters():
    model = build()
    sizes = {"conv1": 3, "conv4": 1}
    small = cut(model, sizes, "magnitude", IMAGE)
    best = model.conv1.weight.flatten(1).norm(dim=1).argsort(descending=True)[:3].sort().values
    assert torch.equal(small.conv1.weight, model.conv1.weight[best])
    assert small.conv4.out_channels == 1 and small.conv2.out_channels == model.conv2.out_channels
    drawn = [cut(model, sizes, "random", IMAGE, seeded(k)).conv1.weight for k in range(8)]
    assert any(not torch.equal(d, drawn[0]) for d in drawn)  # all alike with probability 56^-7 = 6e-13
    assert torch.equal(drawn[0], cut(model, sizes, "random", IMAGE, seeded(0)).conv1.weight)


@pytest.mark.parametrize(
    "sizes, by, says",
    [
        ({"conv1": 0}, "magnitude", "the size of 'conv1' must be a whole number from 1 to 8, got 0"),
        ({"conv1": 9}, "random", "the size of 'conv1' must be a whole number from 1 to 8, got 9"),
        ({"conv1": 2.0}, "random", "a whole number from 1 to 8, got 2.0"),
        ({"conv1": "2"}, "random", "a whole number from 1 to 8, got '2'"),
        ({"conv1": True}, "random", "a whole number from 1 to 8, got True"),
        ({"conv99": 3}, "magnitude", "the root of sizes must be one of 'conv1', .*, got 'conv99'"),
        ({"conv1": 3}, "age", "by must be one of 'magnitude', 'random', got 'age'"),
    ],
)
def test_bad_cuts(sizes, by, says):
    with pytest.raises(ValueError, match=says):
        cut(build(), sizes, by, IMAGE)


def test_removing_given_channels():
    model = build().eval()
    before, x = state(model), torch.randn(3, 3, 32, 32, generator=seeded())
    small = remove_channels(model, {"conv2": [0, 5, 0], "conv3": ()}, x)
    assert small.conv2.out_channels == 14 and small.conv3.in_channels == 14 and same(state(model), before)
    silenced = copy.deepcopy(model)
    with torch.no_grad():
        silenced.conv3.weight[:, [0, 5]] = 0
    assert torch.allclose(small(x), silenced(x), atol=1e-4)
    assert same(state(remove_channels(model, {}, x)), before)


@pytest.mark.parametrize(
    "picks, says",
    [
        (
            {"conv99": [0]},
            "'conv99' is not the first convolution of a group of channels that can go; those are 'conv1'",
        ),
        ({"classifier": [0]}, "'classifier' is not the first convolution"),
        ({"conv1": [8]}, r"'conv1' has the channels 0 to 7, and at least one must remain; got \[8\]"),
        ({"conv1": [-1]}, r"got \[-1\]"),
        ({"conv1": range(8)}, r"at least one must remain; got \[0, 1, 2, 3, 4, 5, 6, 7\]"),
    ],
)
def test_channels_that_cannot_be_removed(picks, says):
    with pytest.raises(ValueError, match=says):
        remove_channels(build(), picks, IMAGE)


# --- experiments ------------------------------------------------------------------------------------------------------


def test_a_lineage_shrinks_and_is_recorded(digits):
    experiment = dataclasses.replace(QUICK, controls=evolution.CONTROLS)
    record = experiment.run(digits, device="cpu", progress=False)
    json.dumps(dataclasses.asdict(record), allow_nan=False)
    rows, controls = record.metrics["generations"], record.metrics["controls"]
    assert [row["generation"] for row in rows] == [0, 1, 2] and list(controls) == list(evolution.CONTROLS)
    assert rows[0]["macs"] > rows[1]["macs"] > rows[2]["macs"]
    sizes = [(row["generation"], row["macs"], row["parameters"]) for row in rows]
    found = {
        name: [(row["generation"], row["macs"], row["parameters"]) for row in control]
        for name, control in controls.items()
    }
    assert found["whole"] == [(2, *sizes[0][1:])] and found["restarted"] == [(1, *sizes[0][1:]), (2, *sizes[0][1:])]
    for name in ("gradual", "magnitude", "random", "scratch"):
        assert found[name] == sizes[1:], name
    assert record.metrics["test_accuracy"] == rows[2]["test_accuracy"]
    frame = lineages_frame([record, bl.Record({"task": "other"}, {}, {})])
    assert (
        len(frame) == 14 and (frame["macs_share"] <= 1).all() and set(frame["arm"]) == {"lineage", *evolution.CONTROLS}
    )


@pytest.mark.parametrize("changes", [{"stress": 0.5}, {"inherit": False}, {"model": "smallcnn-plain"}])
def test_other_lineages_run_and_repeat(digits, changes):
    experiment = dataclasses.replace(QUICK, generations=1, **changes)
    first, second = (experiment.run(digits, device="cpu", progress=False) for _ in range(2))
    assert first.metrics == second.metrics and first.spec == experiment.spec


def test_an_interrupted_lineage_goes_on_to_the_same_result(digits, tmp_path):
    experiment = dataclasses.replace(QUICK, generations=1, stress=0.5, controls=("gradual", "scratch"))
    whole = experiment.run(digits, device="cpu", progress=False)

    class Stop(Exception):
        pass

    def stop_after(count):
        rows = []

        def on_epoch(row):
            rows.append(row)
            if len(rows) == count:
                raise Stop

        return on_epoch

    options = {"device": "cpu", "progress": False, "checkpoint": tmp_path / "run.pt"}
    trained = []
    for count in (2, 2):  # each call trains two epochs more and is then stopped
        with pytest.raises(Stop):
            experiment.run(digits, on_epoch=stop_after(count), **options)
        trained.append(len(list(tmp_path.iterdir())))
    assert trained[1] > trained[0] >= 1
    rows = []
    record = experiment.run(digits, on_epoch=rows.append, **options)
    assert record.metrics == whole.metrics and list(tmp_path.iterdir()) == []
    assert len(rows) < 2 + 1 + 2, "what was trained before is not trained again"


@pytest.mark.parametrize(
    "make, bad, says",
    [
        (EvolutionExperiment, {"dataset": "auto"}, "dataset must be one of"),
        (EvolutionExperiment, {"model": "vgg12"}, "model must be one of"),
        (EvolutionExperiment, {"generations": 0}, "generations must be a whole number >= 1, got 0"),
        (EvolutionExperiment, {"generations": True}, "generations must be a whole number >= 1, got True"),
        (EvolutionExperiment, {"factor": 0}, "0 < factor <= 1"),
        (EvolutionExperiment, {"stress": -0.1}, "0 <= stress <= 1, got -0.1"),
        (EvolutionExperiment, {"law": "exponential"}, "law must be one of"),
        (EvolutionExperiment, {"controls": ("lottery",)}, "controls must be one of"),
        (TeacherExperiment, {"teacher": 20}, "at most inputs=16, as its units are orthogonal; got 20"),
        (TeacherExperiment, {"students": 0}, "students must be a whole number >= 1, got 0"),
        (TeacherExperiment, {"seed": -1}, "seed must be a whole number >= 0, got -1"),
        (TeacherExperiment, {"decay": "some"}, "decay must be a finite number >= 0, got 'some'"),
        (TeacherExperiment, {"factor": 2}, "0 < factor <= 1"),
        (TeacherExperiment, {"stress": 3}, "0 <= stress <= 1"),
    ],
)
def test_bad_experiments(make, bad, says):
    with pytest.raises(ValueError, match=says) as error:
        make(**bad)
    one_line(error)


def test_specs_tell_experiments_apart():
    settings = [QUICK, *(dataclasses.replace(QUICK, **c) for c in ({"seed": 1}, {"stress": 0.5}, {"inherit": False}))]
    assert len({fingerprint(e.spec) for e in settings}) == 4


def test_a_teacher_is_known_and_its_runs_repeat():
    units, x, y = TEACHER.load()[:3]
    assert torch.allclose(units @ units.T, torch.eye(2), atol=1e-5) and len(x) == len(y) == 400
    model = TEACHER.student()
    with torch.no_grad():  # two units of the teacher, and nothing else
        model[0].weight.zero_()
        model[0].weight[:2] = units[:, :, None, None]
        model[3].weight.fill_(1.0)
        model[3].bias.zero_()
    found = TEACHER.measured(model)
    assert found["units"] == 8 and found["covered"] == 1 and found["error"] < 1e-10
    first, second = TEACHER.run(), TEACHER.run(device="cpu", checkpoint=None)
    assert first.metrics == second.metrics
    arms = first.metrics["arms"]
    assert arms["parent"]["units"] == 8
    assert len({arms[name]["units"] for name in ("evolution", "gradual", "magnitude", "random", "scratch")}) == 1
    json.dumps(dataclasses.asdict(first), allow_nan=False)
    frames = teachers_frame([first])
    assert set(frames[0]["arm"]) == set(arms) and len(frames[1]) in (0, 4)


def test_selection_by_hand():
    model = TEACHER.student()
    with torch.no_grad():
        model[0].weight.fill_(0.1)
        model[0].weight[:2] = TEACHER.load()[:3][0][:, :, None, None]
    chances = TEACHER.selection(model)
    others = cluster_probability(model[0].weight)[2:].mean().item()
    assert chances["exp"][1] == pytest.approx(0.9 * others) and chances["exp"][0] > chances["exp"][1]
    assert chances["magnitude"][0] == 1
    kept = (2 * chances["exp"][0] + 6 * chances["exp"][1]) / 8
    assert chances["random"] == pytest.approx([kept, kept])
    with torch.no_grad():
        model[0].weight[:] = TEACHER.load()[:3][0][:1, :, None, None]
    assert TEACHER.selection(model) is None


def test_accuracy_at_a_size():
    spec = {"task": "evolution", "dataset": "digits", "factor": 0.7, "stress": 0.0, "inherit": True, "seed": 0}
    sizes, accuracies = (1000, 250, 40), (90.0, 80.0, 50.0)
    generations = [
        {"generation": k, "macs": m, "parameters": m, "test_accuracy": a, "valid_accuracy": a, "stale_accuracy": a}
        for k, (m, a) in enumerate(zip(sizes, accuracies, strict=True))
    ]
    rows = lineages_frame([bl.Record(spec, {"generations": generations, "controls": {}}, {})])
    assert at_size(rows, 0.5)["test_accuracy"].tolist() == pytest.approx([85.0])  # half way in the logarithm
    assert at_size(rows, 0.25, size="parameters")["test_accuracy"].tolist() == pytest.approx([80.0])
    assert math.isnan(at_size(rows, 0.01)["test_accuracy"][0])
    assert not len(lineages_frame([])) and list(at_size(lineages_frame([]), 0.5)) == list(at_size(rows, 0.5))


# --- the ledger -------------------------------------------------------------------------------------------------------


def lineage(dataset, seed, stress=0.0, last=90.0, controls=None, sizes=(1000, 200, 10)):
    """A record of three generations, the accuracy falling in equal steps from 98 to ``last``."""
    spec = {"task": "evolution", "dataset": dataset, "factor": 0.7, "stress": stress, "inherit": True, "seed": seed}
    accuracies = (98.0, (98.0 + last) / 2, last)
    rows = [
        {"generation": k, "macs": m, "parameters": m, "test_accuracy": a, "valid_accuracy": a, "stale_accuracy": a}
        for k, (m, a) in enumerate(zip(sizes, accuracies, strict=True))
    ]
    others = {name: [rows[-1] | {"test_accuracy": a}] for name, a in (controls or {}).items()}
    return bl.Record(spec, {"generations": rows, "controls": others}, {})


def runs(last=97.5, gain=0.0, magnitude=90.0):
    records = []
    for dataset in ("digits", "cifar10"):
        for seed in range(3):
            controls = {"whole": 98.0, "restarted": 97.9, "magnitude": magnitude, "random": magnitude}
            records.append(lineage(dataset, seed, 0.0, last + 0.1 * seed, controls))
            records.append(lineage(dataset, seed, 0.5, last + 0.1 * seed + gain + 0.01 * seed))
    return records


def verdicts(records):
    return [claim.judge(records).verdict for claim in SECTION.claims]


def test_verdicts_follow_the_records():
    yes, no, open_, never = "holds in direction", "contradicted", "undecided", "not run"
    assert verdicts(runs(gain=1.0)) == [yes, yes, open_, yes, never, never]
    assert verdicts(runs(last=90.0, gain=-1.0, magnitude=95.0)) == [no, no, open_, no, never, never]
    assert "trained under stress" in SECTION.claims[2].judge(runs(gain=1.0)).reason
    assert set(verdicts([])) == {never} and set(verdicts([r for r in runs() if r.spec["seed"] < 2])) == {never}
    digits = [r for r in runs() if r.spec["dataset"] == "digits"]
    assert verdicts(digits)[0] == yes and "CIFAR" not in SECTION.claims[0].judge(digits).ours, "what is there is judged"
    teachers = [
        bl.Record(
            {"task": "teacher", "seed": k},
            {"arms": {}, "selection": {"exp": [0.7 + 0.01 * k, 0.4], "magnitude": [0.9, 0.1]}},
            {},
        )
        for k in range(3)
    ]
    finding = SECTION.claims[4].judge(teachers)
    assert finding.verdict == yes and "tells them apart better" in finding.reason


def test_differences_are_paired_by_seed():
    rows = lineages_frame(runs(last=97.0, gain=0.5))
    part = rows[rows["dataset"] == "digits"]
    mean, low, high, n = against_control(part[part["stress"] == 0], "whole")
    assert (mean, n) == (pytest.approx(-0.9), 3) and low < mean < high
    strength, share, gap = stress_gain(part)
    assert (strength, share) == (0.5, 0.01) and gap[0] == pytest.approx(0.51) and gap[1] > 0
