"""Shared autoencoders: their weights are really shared, each part of the loss reaches what it should, schedules and
measures are what they say, a resumed run ends with the same bits, and bad input is named."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F

import bridgeout_lite as bl
from bridgeout_lite import CheckpointError
from bridgeout_lite.runs.records import Record, fingerprint
from bridgeout_lite.studies import structured_output
from bridgeout_lite.studies.structured_output import (
    SharedAutoencoders,
    StructuredExperiment,
    StructuredRecipe,
    fit_structured,
    predict,
)
from bridgeout_lite.studies.structured_output.faces import Pairs, face, load_pairs, shapes

QUICK = StructuredRecipe(epochs=4, steps=10, batch_size=16)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 320
    return message


@pytest.fixture(scope="module")
def pairs():
    parts = [shapes(n, size=12, generator=torch.Generator().manual_seed(n)) for n in (40, 30, 31, 50, 60)]
    x, y = ([getattr(p, k).flatten(1) for p in parts] for k in ("images", "landmarks"))
    return Pairs("faces", x[0], y[0], x[1], y[1], x[2], y[2], x[3], y[4], face())


def build(sizes=(144, 32, 24, 16, 40), seed=0, **options):
    torch.manual_seed(seed)
    return SharedAutoencoders(sizes, **options)


def train(model, pairs, recipe=QUICK, **options):
    return fit_structured(model, pairs, recipe, **({"device": "cpu", "progress": False} | options))


# --- the network ------------------------------------------------------------------------------------------------------


def test_autoencoders_are_made_of_the_networks_own_weights():
    model = build((6, 5, 4, 3, 2), k_in=1, k_out=1)
    w1, w4 = model.layers[0].weight, model.layers[3].weight
    x, y = torch.rand(7, 6), torch.rand(7, 2)
    with torch.no_grad():
        for bias in (*model.in_biases, *model.out_biases):
            bias.normal_()
    expected = F.relu(x @ w1.T + model.layers[0].bias) @ w1 + model.in_biases[0]
    torch.testing.assert_close(model.rebuild_input(x), expected)
    expected = F.relu(y @ w4 + model.out_biases[0]) @ w4.T + model.layers[3].bias
    torch.testing.assert_close(model.rebuild_output(y), expected)
    torch.testing.assert_close(model(x), model.code(x) @ w4.T + model.layers[3].bias)


def test_deeper_autoencoders_go_back_layer_by_layer():
    model = build((6, 5, 4, 3, 2, 8), k_in=2, k_out=2)
    w = [layer.weight for layer in model.layers]
    b = [layer.bias for layer in model.layers]
    assert [len(bias) for bias in model.in_biases] == [6, 5] and [len(bias) for bias in model.out_biases] == [3, 2]
    x, y = torch.rand(7, 6), torch.rand(7, 8)
    code = F.relu(F.relu(x @ w[0].T + b[0]) @ w[1].T + b[1])
    torch.testing.assert_close(model.rebuild_input(x), F.relu(code @ w[1] + model.in_biases[1]) @ w[0])
    code = F.relu(F.relu(y @ w[4] + model.out_biases[1]) @ w[3] + model.out_biases[0])
    torch.testing.assert_close(model.rebuild_output(y), F.relu(code @ w[3].T + b[3]) @ w[4].T + b[4])


def reached(model, value):
    model.zero_grad()
    value.square().sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_each_part_of_the_loss_reaches_its_layers_and_no_others():
    model = build((6, 5, 4, 3, 2), k_in=1, k_out=1)
    with torch.no_grad():
        for bias in (*(layer.bias for layer in model.layers), *model.out_biases):
            bias.fill_(0.5)  # no unit is off
    x, y = torch.rand(50, 6), torch.rand(50, 2)
    both = {"layers.0.weight", "layers.0.bias", "in_biases.0"}, {"layers.3.weight", "layers.3.bias", "out_biases.0"}
    assert (reached(model, model.rebuild_input(x)), reached(model, model.rebuild_output(y))) == both
    assert reached(model, model(x)) == {f"layers.{k}.{part}" for k in range(4) for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("sizes", "options", "word"),
    [
        ((6, 5, 4, 2), {"k_in": 2, "k_out": 1}, "k_in + k_out must be less than the 3 layers"),
        ((6, 5, 4, 2), {"k_in": 3, "k_out": 0}, "k_in + k_out must be less than the 3 layers"),
        ((6, 2), {"k_in": 1, "k_out": 0}, "less than the 1 layers"),
        ((6, 5, 4, 2), {"k_in": -1}, "k_in=-1"),
        ((6,), {}, "sizes must be"),
        ((6, 0, 4, 2), {}, "sizes must be"),
    ],
)
def test_autoencoders_that_leave_no_layer_between_them_are_refused(sizes, options, word):
    with pytest.raises(ValueError) as error:
        SharedAutoencoders(sizes, **options)
    assert word in one_line(error)


# --- training ---------------------------------------------------------------------------------------------------------


def test_weights_fall_in_proportion_to_the_released_epochs():
    falling = structured_output.falling
    assert [falling(e / 1000, 0.5) for e in (0, 100, 300, 500, 900)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert [falling(e / 1000, 0.7) for e in (0, 100, 400, 700, 900)] == pytest.approx([1, 1, 0.5, 0, 0])


def test_training_lowers_the_error_and_all_parts_of_the_loss(pairs):
    model = build()
    recipe = dataclasses.replace(QUICK, epochs=10)
    frame = train(model, pairs, recipe, l_in=1.0, l_out=1.0).frame
    assert list(frame["epoch"]) == list(range(1, 11))
    assert frame["train_loss"].iloc[-1] < 0.3 * frame["train_loss"].iloc[0]
    assert frame["valid_error"].iloc[-1] < 0.8 * frame["valid_error"].iloc[0]
    for part, ends in (("in_loss", 5), ("out_loss", 7)):
        assert frame[part].iloc[ends - 2] < frame[part].iloc[0] and (frame[part].iloc[ends:] == 0).all()


def test_what_has_no_weight_is_not_used(pairs):
    """Unlabelled data change nothing without autoencoders: the weights end with the same bits."""
    bare = dataclasses.replace(pairs, more_x=pairs.more_x[:0], more_y=pairs.more_y[:0])
    a, b = build(), build()
    train(a, pairs), train(b, bare)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    before = build().state_dict()
    assert all(torch.equal(a.state_dict()[k], before[k]) for k in before if "biases" in k)


def test_unlabelled_data_feed_their_own_autoencoder(pairs):
    """Other unlabelled inputs change a run with l_in, and not one with l_out alone; the other way round for answers."""
    other_x = dataclasses.replace(pairs, more_x=1 - pairs.more_x)
    other_y = dataclasses.replace(pairs, more_y=-pairs.more_y)
    for weights, changing, same in (({"l_in": 1.0}, other_x, other_y), ({"l_out": 1.0}, other_y, other_x)):
        ends = []
        for data in (pairs, changing, same):
            model = build()
            train(model, data, **weights)
            ends.append(model.layers[1].weight)
        assert not torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def test_a_resumed_run_ends_with_the_same_bits(pairs, tmp_path):
    options = {"l_in": 1.0, "l_out": 1.0, "seed": 3}
    whole, parts = build(), build()
    for model in (whole, parts):
        bl.attach_sparseout(model, 0.3, 1.0, where=lambda name, module, m=model: module is m.code_place)
    train(whole, pairs, **options)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(parts, pairs, checkpoint=path, on_epoch=stop, **options)
    history = train(parts, pairs, checkpoint=path, **options)
    assert len(history.frame) == 4
    assert all(torch.equal(v, parts.state_dict()[k]) for k, v in whole.state_dict().items())
    with pytest.raises(CheckpointError, match="another weights of the loss"):
        train(build_noisy(), pairs, checkpoint=path, **(options | {"l_in": 2.0}))


def build_noisy():
    model = build()
    return bl.attach_sparseout(model, 0.3, 1.0, where=lambda name, module: module is model.code_place)


@pytest.mark.parametrize("name", ["l_sup", "l_in", "l_out"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "1", True])
def test_weights_of_the_loss_that_are_no_weights_are_refused(pairs, name, value):
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        train(model, pairs, **{name: value})
    assert f"{name} must be a finite number >= 0" in one_line(error)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    if name != "l_sup":
        with pytest.raises(ValueError, match=f"{name} must be"):
            StructuredExperiment(**{name: value})


def test_a_weight_without_its_autoencoder_is_refused(pairs):
    with pytest.raises(ValueError) as error:
        train(build(k_in=0), pairs, l_in=1.0)
    assert "l_in = 1 has no autoencoder" in one_line(error) and "k_in >= 1" in one_line(error)
    with pytest.raises(ValueError, match="l_out = 1 has no autoencoder"):
        train(build(k_out=0), pairs, l_out=1.0)


def test_data_of_other_sizes_than_the_network_are_refused(pairs):
    with pytest.raises(ValueError) as error:
        train(build((144, 32, 24, 16, 136)), pairs)
    assert "the network maps 144 numbers to 136, but faces has 144 and 40" in one_line(error)


def test_a_run_that_goes_astray_says_so(pairs):
    with pytest.raises(FloatingPointError) as error:
        train(build(), pairs, dataclasses.replace(QUICK, lr=1e30))
    assert "lower lr" in one_line(error)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"steps": 0}, "steps must"), ({"corruption": 1.0}, "corruption must"), ({"lr": -1.0}, "lr must")],
)
def test_recipes_are_checked(options, word):
    with pytest.raises(ValueError) as error:
        StructuredRecipe(**options)
    assert word in one_line(error)


# --- measures ---------------------------------------------------------------------------------------------------------


def test_the_error_is_in_distances_of_the_eyes(pairs):
    truth = pairs.test_y
    assert structured_output.errors(truth, truth, pairs).max() == 0
    points = truth.unflatten(1, (-1, 2))
    left, right = pairs.model.eyes
    eyes = (points[:, left] - points[:, right]).norm(dim=-1)
    moved = (points + torch.tensor([0.03, 0.04])).flatten(1)
    torch.testing.assert_close(structured_output.errors(moved, truth, pairs), 0.05 / eyes)


def test_without_landmarks_the_error_is_relative_to_knowing_nothing(pairs):
    plain = dataclasses.replace(pairs, model=None, valid_x=pairs.x, valid_y=pairs.y)
    blind = pairs.y.mean(0).expand_as(pairs.y)
    assert structured_output.errors(blind, pairs.y, plain).square().mean() == pytest.approx(1, rel=1e-5)


def test_cdf_and_auc_are_areas_of_a_known_staircase():
    cdf, auc = structured_output.cdf_and_auc(torch.tensor([0.0, 0.1, 0.25, 0.6]))
    assert cdf == pytest.approx(50.0)
    assert auc == pytest.approx(100 * (1 + 0.8 + 0.5 + 0) / 4)
    errors, t = torch.rand(500, generator=torch.Generator().manual_seed(0)), torch.arange(0, 0.5, 1e-3)
    stairs = (errors[None] <= t[:, None]).float().mean(1)
    assert structured_output.cdf_and_auc(errors)[1] == pytest.approx(100 * stairs.mean().item(), abs=0.2)


def test_true_shapes_lie_in_their_space_and_others_do_not(pairs):
    assert structured_output.off_shape(pairs.test_y, pairs).max() < 1e-6
    step = torch.linalg.qr(torch.cat([pairs.model.basis(), torch.eye(40, dtype=torch.float64)], 1)).Q[:, 12]  # outside
    away = structured_output.off_shape(pairs.test_y + 0.2 * step.float(), pairs)
    torch.testing.assert_close(away, torch.full_like(away, 0.2 / 20**0.5))


def test_the_nearest_true_shape_is_found_on_the_curved_surface(pairs):
    truth = pairs.test_y
    assert structured_output.off_surface(truth, pairs).max() < 1e-5
    mixed = (truth[: len(truth) // 2] + truth[len(truth) // 2 : len(truth) // 2 * 2]) / 2
    assert structured_output.off_shape(mixed, pairs).max() < 1e-6, "a mean of two shapes stays in the flat space"
    assert structured_output.off_surface(mixed, pairs).mean() > 1e-3, "and is no shape"
    rough = truth + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    nearest, moved = structured_output.off_surface(rough, pairs), (rough - truth).unflatten(1, (-1, 2))
    assert (nearest >= structured_output.off_shape(rough, pairs) - 1e-6).all()
    assert (nearest <= moved.square().sum(-1).mean(1).sqrt()).all(), "no farther than the shape it was made of"
    assert (structured_output.off_surface(rough, pairs, steps=30) - nearest).min() > -1e-9, "more steps are no worse"


def test_what_the_last_layer_has_captured(pairs):
    model, basis = build(), pairs.model.basis().float()
    with torch.no_grad():
        model.layers[-1].weight[:, :12] = basis
        model.layers[-1].weight[:, 12:] = 0
    share, angle = structured_output.captured(model, pairs)
    assert share == pytest.approx(1) and angle < 0.1
    with torch.no_grad():
        model.layers[-1].weight[:, 12:] = 5 * torch.linalg.qr(torch.cat([basis, torch.eye(40)], 1)).Q[:, 12:16]
    share, angle = structured_output.captured(model, pairs)
    assert share == pytest.approx(8 / 12) and angle == pytest.approx(90, abs=0.1), "four of twelve directions are lost"


def test_the_first_epoch_at_a_target():
    assert structured_output.epochs_to([0.5, 0.3, 0.4, 0.2], 0.3) == 2
    assert structured_output.epochs_to([0.5, 0.3], 0.1) == 3


def test_the_linear_rival_finds_a_linear_truth_and_uses_unlabelled_answers(pairs):
    weights = torch.randn(144, 4, generator=torch.Generator().manual_seed(0)) @ pairs.model.basis()[:, :4].T.float()
    part = {k: getattr(pairs, k) for k in ("x", "valid_x", "test_x")}
    linear = dataclasses.replace(
        pairs, model=None, **part, **{k.replace("x", "y"): v @ weights for k, v in part.items()}
    )
    rival = structured_output.LinearRival(linear)
    assert rival.components >= 4 and structured_output.errors(rival(linear.test_x), linear.test_y, linear).mean() < 0.8


# --- experiments ------------------------------------------------------------------------------------------------------

TINY = StructuredExperiment(
    "digit-halves", 30, 20, (16, 12, 8), l_in=1.0, l_out=1.0, method="sparseout", p=0.1, q=1.0, recipe=QUICK
)


def test_a_run_is_a_record_that_repeats():
    a, b = (TINY.run(device="cpu", progress=False) for _ in range(2))
    assert a.metrics == b.metrics and a.spec == TINY.spec == json.loads(json.dumps(a.spec))
    assert fingerprint(a.spec) == fingerprint(TINY.spec)
    assert len(a.metrics["valid_history"]) == 4 and a.metrics["valid_history"][-1] == a.metrics["valid_error"]
    assert 0 <= a.metrics["hoyer"] <= 1 and a.provenance["data"] == "digit-halves"
    assert a.metrics != dataclasses.replace(TINY, seed=1).run(device="cpu", progress=False).metrics


@pytest.mark.parametrize(
    ("options", "word"),
    [({"dataset": "faces"}, "dataset"), ({"method": "l1"}, "method"), ({"p": 1.0}, "p must"), ({"q": -1.0}, "q must")],
)
def test_experiments_are_checked(options, word):
    with pytest.raises(ValueError) as error:
        StructuredExperiment(**options)
    assert word in one_line(error)


def test_variants_are_named_by_their_weights():
    names = {(0, 0): "sup", (1, 0): "+in", (0, 1): "+out", (1, 1): "+both"}
    for (l_in, l_out), name in names.items():
        assert structured_output.variant(l_in, l_out) == name


def searched_records(error):
    return [Record(e.spec, {"valid_error": error(e)}, {}) for e in structured_output.searched_structured()]


def test_weights_are_chosen_by_validation_in_the_search_alone():
    records = searched_records(lambda e: abs(e.l_in - 10) + abs(e.l_out - 100) / 10)
    better = dataclasses.replace(structured_output.searched_structured()[0], l_in=10.0, seed=7)
    found = structured_output.tuned_weights([*records, Record(better.spec, {"valid_error": -1.0}, {})])
    assert set(found.values()) == {(10.0, 100.0)} and set(found) == set(structured_output.TUNED)


def test_the_sweep_has_every_variant_with_its_seeds():
    experiments = bl.studies.sweeps()["structured-output"]()
    frame = structured_output.structured_frame([Record(e.spec, {"valid_error": 0.0}, {}) for e in experiments])
    for dataset, (counts, more, seeds) in structured_output.TASKS.items():
        part = frame[(frame["dataset"] == dataset) & (frame["method"] == "none")]
        found = part.groupby(["labels", "unlabelled", "variant"])["seed"].nunique().to_dict()
        arms = [(0, "sup"), *((m, name) for m in more for name in structured_output.VARIANTS[1:])]
        alone = {key: n for key, n in found.items() if n > 1}  # the search chose some that the ablation leaves out
        assert alone == {(labels, *arm): seeds for labels in counts for arm in arms}
    noisy = frame[frame["method"] == "sparseout"]
    assert sorted(noisy["q"]) == sorted(structured_output.SEARCHED_Q * structured_output.NOISE_SEEDS)


def test_the_chosen_weights_are_those_of_the_recorded_search():
    records = list(bl.notebook.results("structured-output"))
    assert structured_output.tuned_weights(records) == structured_output.TUNED
    assert structured_output.tuned_p(records) == structured_output.TUNED_P


def test_prediction_is_in_evaluation_mode(pairs):
    model = build_noisy().train()
    assert torch.equal(predict(model, pairs.test_x), predict(model, pairs.test_x)) and model.training


# --- the ledger -------------------------------------------------------------------------------------------------------


def made_up(gain, seeds=3):
    """Records of the sweep in which each autoencoder and unlabelled data change every measure by ``gain``."""
    records = []
    for e in structured_output.structured_output():
        if e.seed < seeds:
            steps = (e.l_in > 0) + (e.l_out > 0) + (e.unlabelled > 0)
            value = 0.5 + gain * steps + 0.001 * e.seed
            history = [2.0, 1.0 + gain * steps, value]
            names = ("valid_error", "test_error", "off_shape", "captured", "hoyer", "zero_fraction")
            records.append(Record(e.spec, {"valid_history": history} | dict.fromkeys(names, value), {}))
    return records


def verdicts(records):
    claims = bl.studies.structured_output.claims.SECTION.claims
    return {claim.claim: claim.judge(records).verdict for claim in claims}


def test_verdicts_follow_the_records():
    better, worse, few = (verdicts(made_up(*how)) for how in ((-0.02,), (0.02,), (-0.02, 2)))
    assert set(few.values()) == set(verdicts([]).values()) == {"not run"}
    for claim in better:
        if "LFPW" in claim:
            assert better[claim] == worse[claim] == "not run"
        elif "flat space" in claim or "faster" in claim:  # whose test could not have decided them
            assert better[claim] == worse[claim] == "undecided"
        else:
            assert (better[claim], worse[claim]) == ("holds in direction", "contradicted")


def test_speed_is_counted_to_a_target_of_the_same_labels_and_seed():
    frame = bl.studies.structured_output.claims.with_speed(structured_output.structured_frame(made_up(-0.02)))
    alone = frame[frame["variant"] == "sup"]
    assert (alone["epochs"] == 3).all() and len(alone) == len(alone.drop_duplicates(["dataset", "labels", "seed"]))


def test_a_space_of_shapes_is_asked_for_where_there_is_none():
    halves = load_pairs("digit-halves", 10)
    for measure in (structured_output.off_shape, structured_output.off_surface):
        with pytest.raises(ValueError, match="the answers of 'digit-halves' are no landmarks"):
            measure(halves.test_y, halves)
