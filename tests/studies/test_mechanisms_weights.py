"""The same penalty by several mechanisms, on weights."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite import Recipe, Record
from bridgeout_lite.runs.records import fingerprint
from bridgeout_lite.studies import mechanisms_weights
from bridgeout_lite.studies.mechanisms_weights import (
    Answers,
    CurvedPenalty,
    Factors,
    Product,
    SumPenalty,
    WeightMechanism,
)
from bridgeout_lite.training import prepare

QUICK = WeightMechanism(
    "digits", width=0.125, train=128, valid=64, test=64, recipe=Recipe(epochs=2, batch_size=32, lr=0.05)
)


def network(digits):
    model = bl.build_model("airnet", width=0.125, seed=0)
    prepare(model, digits)
    return model


def test_answers_in_training_differ_and_in_evaluation_are_one(digits):
    x = digits.normalize(digits.train.x[:8])
    model = Answers(bl.attach_bridgeout(network(digits), 0.3, 1.5), 3)
    first, second, third = model.train()(x).chunk(3)
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert model.eval()(x).shape == (8, 10)


@pytest.mark.parametrize("count", [2, 3])
def test_factors_begin_as_the_weight_and_have_a_gradient_where_it_is_zero(digits, count):
    plain, model = network(digits), network(digits)
    for one in (plain, model):  # the network itself starts with no zero
        one.conv2.weight.data[0, 0] = 0
    rival = Factors(1e-3, count).attach(model)
    x, y = digits.normalize(digits.train.x[:16]), digits.train.y[:16]
    torch.testing.assert_close(model.train()(x), plain.train()(x), rtol=1e-4, atol=1e-4)
    (F.cross_entropy(model(x), y) + rival.penalty(model)).backward()
    first = model.conv2.parametrizations.weight.original0
    assert (first == 0).any() and (first.grad[first == 0] != 0).any()
    rival.detach(model)
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("count", [2, 3])
def test_at_the_minimum_over_factors_their_squares_are_the_lq_penalty(count):
    w = torch.tensor([0.5, -2.0, 0.1], dtype=torch.float64)
    factors = [f.requires_grad_() for f in Product(count).right_inverse(w)]
    size = w.abs().pow(1 / count)
    balanced = (w.sign() * size, *(size for _ in range(count - 1)))
    best = sum(f.square().sum() for f in balanced)
    torch.testing.assert_close(best, count * w.abs().pow(2 / count).sum())
    unbalanced = (balanced[0] * 1.3, balanced[1] / 1.3, *balanced[2:])
    assert sum(f.square().sum() for f in unbalanced) > best
    torch.testing.assert_close(Product(count)(*factors).detach(), w)


@pytest.mark.parametrize("q", [1.0, 2.0])
def test_the_sum_is_the_sum(digits, q):
    model = network(digits)
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    expected = 0.1 * sum(w.abs().pow(q).sum() for w in weights)
    torch.testing.assert_close(SumPenalty(0.1, q).penalty(model), expected)


def test_the_estimated_curvature_is_the_fisher_matrix():
    """Of one linear layer in place of the convolutions: exact from all labels, and estimated from drawn ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.Flatten())
    x = torch.randn(40, 1, 3, 3)
    probability = model(x).softmax(1).detach()
    exact = torch.einsum("nc,nf->cf", probability * (1 - probability), x.flatten(1).square()) / len(x)
    rival, total = CurvedPenalty(0.5, 2.0).attach(model.train()), torch.zeros(3, 1, 3, 3)
    for _ in range(400):
        model[0].curvature.zero_()
        model(x)
        rival.penalty(model)
        total += model[0].curvature / mechanisms_weights.NEWS
    estimate = (total / 400).view(3, 9)
    torch.testing.assert_close(estimate, exact, rtol=0.35, atol=0)  # each within 5 standard errors
    torch.testing.assert_close(estimate.sum(), exact.sum(), rtol=0.1, atol=0)
    rival.detach(model)
    assert not hasattr(model[0], "curvature")


METHODS = [
    {"method": "noise", "p": 0.1, "q": 1.5, "draws": 2},
    {"method": "penalty", "p": 0.1, "q": 1.5},
    {"method": "factors", "strength": 1e-4, "q": 2 / 3},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["method"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch, method):
    experiment = dataclasses.replace(QUICK, **method)
    if method["method"] != "factors":  # once is enough for what takes longest
        monkeypatch.setattr(mechanisms_weights, "measure_pruning", lambda *args, **options: {})

    def stop(row):
        raise KeyboardInterrupt

    whole = experiment.run(progress=False, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        experiment.run(progress=False, device="cpu", checkpoint=tmp_path / "run.pt", on_epoch=stop)
    resumed = experiment.run(progress=False, device="cpu", checkpoint=tmp_path / "run.pt")
    assert resumed.metrics == whole.metrics
    assert {"train_accuracy", "test_accuracy", "pruning", "weights"} <= whole.metrics.keys()


@pytest.mark.parametrize(
    "wrong", [{"method": "noise"}, {"method": "factors", "strength": 1.0, "q": 1.5}, {"method": "sum", "p": 0.1}]
)
def test_what_does_not_go_together_is_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        WeightMechanism(**wrong)


def test_the_table_has_a_row_per_run():
    spec = WeightMechanism(method="sum", strength=1e-4, q=1.0).spec
    layers = {"a": {"hoyer": 0.2, "rms": 1.0, "small": 0.0}, "b": {"hoyer": 0.4, "rms": 3.0, "small": 0.5}}
    record = Record(spec, {"test_accuracy": 60.0, "weights": layers, "history": {}}, {})
    frame = mechanisms_weights.weights_frame([record, Record(spec, {"failed": "loss is nan"}, {})])
    row = frame.iloc[0]
    assert len(frame) == 1 and (row["method"], row["test_accuracy"], row["weight_decay"]) == ("sum", 60.0, 5e-4)
    assert row["hoyer"] == pytest.approx(0.3) and row["rms"] == 2.0 and row["small"] == 0.25


def test_the_search_goes_on_to_the_repeats():
    records = []
    while runs := mechanisms_weights.next_runs(records, 1e-3):
        keys = {fingerprint(run.spec) for run in runs}
        assert len(keys) == len(runs) and not keys & {record.key for record in records}
        records += [Record(run.spec, {"valid_accuracy": 60.0 - abs(run.p - 0.03) - run.strength}, {}) for run in runs]
    for setting in mechanisms_weights.SETTINGS:
        value = mechanisms_weights.ladder(setting, 1e-3).best(records)
        dial = mechanisms_weights.NEEDS[setting[0]]
        same = [r.spec for r in records if (r.spec["method"], r.spec["q"], r.spec["draws"]) == setting]
        assert {spec["seed"] for spec in same if spec[dial] == value} == set(range(mechanisms_weights.REPEATED))
