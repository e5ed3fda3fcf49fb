"""The same penalty by several mechanisms: each is what it says, and a run is a record that can be found and resumed."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

import bridgeout_lite as bl
from bridgeout_lite import Recipe, Record, theory
from bridgeout_lite.data import Split
from bridgeout_lite.runs.records import fingerprint
from bridgeout_lite.studies import mechanisms
from bridgeout_lite.studies.mechanisms import Draws, FeaturePenalty, MechanismExperiment, attach_draws, detach_draws
from bridgeout_lite.training import fit, prepare

QUICK = MechanismExperiment(
    "digits", width=0.125, train=96, valid=64, test=64, recipe=Recipe(epochs=2, batch_size=32, lr=0.05)
)


def network(digits, seed=0, width=0.125):
    model = bl.build_model("airnet", width=width, seed=seed)
    prepare(model, digits)
    return model


def head(digits, q):
    """Features and head weights of a network that has seen nothing, and labels; float64."""
    model = network(digits, width=0.25)
    features = mechanisms.last_features(model, digits.normalize(digits.train.x[:64])).double()
    return features, 3 * mechanisms.head_weights(model).double().detach(), digits.train.y[:64]


def test_one_draw_is_sparseout_in_that_place(digits):
    x = digits.normalize(digits.train.x[:16])
    one, other = (network(digits) for _ in range(2))
    attach_draws(one, 0.4, 1.0)
    bl.attach_sparseout(other, 0.4, 1.0, where=lambda name, module: name == "flatten")
    outputs = []
    for model in (one, other):
        torch.manual_seed(3)
        outputs.append(model.train()(x))
    assert torch.equal(*outputs)


def test_several_draws_share_their_features_and_differ_in_their_noise(digits):
    x, plain, model = digits.normalize(digits.train.x[:16]), network(digits), attach_draws(network(digits), 0.4, 1.0, 3)
    logits = model.train()(x).view(3, 16, 10)
    assert not torch.equal(logits[0], logits[1])
    assert model.eval()(x).shape == (16, 10)
    assert detach_draws(model).state_dict().keys() == plain.state_dict().keys()
    assert model.train()(x).shape == (16, 10)


def test_the_loss_of_a_step_is_the_mean_over_the_draws(digits):
    """With a noise that moves nothing, three draws train as none do."""
    recipe = dataclasses.replace(QUICK.recipe, epochs=1, precision="float32")
    few = dataclasses.replace(digits, train=Split(digits.train.x[:96], digits.train.y[:96]))
    plain, drawn = network(digits), attach_draws(network(digits), 0.0, 1.0, 3)
    rows = [fit(model, few, recipe, device="cpu", progress=False).last_row for model in (plain, drawn)]
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=1e-4)
    assert rows[0]["train_accuracy"] == pytest.approx(rows[1]["train_accuracy"])


@pytest.mark.parametrize("q", [1.0, 1.5, 2.0])
def test_the_penalty_is_that_of_theory(digits, q):
    model, x = network(digits).train(), digits.normalize(digits.train.x[:32])
    rival = FeaturePenalty(q, p=0.3).attach(model)
    model(x)
    seen = []
    hook = model.flatten.register_forward_hook(lambda module, inputs, output: seen.append(output))
    value = rival.penalty(model)
    model(x)
    hook.remove()
    weights = model.classifier.weight.T / 9
    torch.testing.assert_close(value, theory.lq_penalty(seen[0], weights, 0.3, q, "softmax"))
    value.backward()
    assert model.conv1.weight.grad.abs().sum() > 0 and model.classifier.weight.grad.abs().sum() > 0
    rival.detach(model)
    assert not model.classifier._forward_pre_hooks


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
def test_the_sum_is_the_sum(digits, q):
    model, x = network(digits).train(), digits.normalize(digits.train.x[:32])
    rival = FeaturePenalty(q, strength=0.2).attach(model)
    model(x)
    features = rival._features
    value = rival.penalty(model)
    on = features[features > 0]
    torch.testing.assert_close(value, 0.2 * on.pow(q).sum() / len(features))
    value.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("q", [1.0, 2.0])
def test_at_small_p_the_noisy_loss_exceeds_the_clean_one_by_the_penalty(digits, q):
    """The mean over many draws, labels included, of the loss that ``fit`` takes."""
    features, weights, y = head(digits, q)
    torch.manual_seed(0)
    draws, p = 4000, 0.01
    noisy = Draws(p, q, draws).train()(features) @ weights
    losses = F.cross_entropy(noisy, y.repeat(draws), reduction="none").view(draws, -1).mean(1)
    clean = F.cross_entropy(features @ weights, y)
    error = (losses.std() / draws**0.5).item()
    predicted = theory.lq_penalty(features, weights, p, q, "softmax").item()
    assert predicted > 3 * error  # there is something to see
    assert abs((losses.mean() - clean).item() - predicted) < 4 * error + 0.02 * predicted


def test_a_run_is_a_record(digits):
    experiment = dataclasses.replace(QUICK, method="noise", p=0.3, q=1.0, draws=4)
    record = experiment.run(progress=False, device="cpu")
    assert record.key == fingerprint(experiment.spec)
    json.dumps(dataclasses.asdict(record), allow_nan=False)
    metrics = record.metrics
    assert {"train_accuracy", "valid_accuracy", "test_accuracy", "features", "probes", "weights"} <= metrics.keys()
    assert all(len(column) == 2 for column in metrics["history"].values())
    assert {"measured", "error", "predicted", "hoyer", "head_rms"} <= metrics["history"].keys()
    assert len(metrics["probes"]) == len(mechanisms.PROBES)
    assert {"commit", "data_checksum", "seconds", "precision"} <= record.provenance.keys()


@pytest.mark.parametrize("method", [{"method": "noise", "p": 0.3, "draws": 2}, {"method": "penalty", "p": 0.3}])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, method):
    experiment = dataclasses.replace(QUICK, q=1.0, **method)

    def stop(row):
        raise KeyboardInterrupt

    whole = experiment.run(progress=False, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        experiment.run(progress=False, device="cpu", checkpoint=tmp_path / "run.pt", on_epoch=stop)
    resumed = experiment.run(progress=False, device="cpu", checkpoint=tmp_path / "run.pt")
    assert resumed.metrics == whole.metrics


def test_every_knob_changes_the_fingerprint():
    noise = dataclasses.replace(QUICK, method="noise", p=0.3)
    others = [{"p": 0.4}, {"q": 1.0}, {"draws": 4}, {"method": "penalty"}, {"seed": 1}, {"width": 0.25}]
    others += [{"recipe": dataclasses.replace(QUICK.recipe, label_smoothing=0.1)}, {"train": 97}, {"valid": 65}]
    experiments = [QUICK, noise, *(dataclasses.replace(noise, **other) for other in others)]
    assert len({fingerprint(e.spec) for e in experiments}) == len(experiments)
    assert fingerprint(dataclasses.replace(noise, q=1).spec) == fingerprint(dataclasses.replace(noise, q=1.0).spec)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "noise"},
        {"method": "penalty", "p": 0.3, "draws": 4},
        {"method": "sum", "p": 0.3},
        {"method": "none", "p": 0.3},
        {"model": "smallcnn"},
        {"draws": 0, "method": "noise", "p": 0.3},
    ],
)
def test_what_does_not_go_together_is_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        MechanismExperiment(**wrong)


def test_dead_units_are_told_from_selective_ones():
    features = torch.zeros(100, 4)
    features[:, 0] = 1.0
    features[:10, 1] = 2.0
    row = mechanisms.measure_features(features)
    assert row["dead"] == 0.5 and row["zero_fraction_all"] == pytest.approx(1 - 110 / 400)
    assert row["zero_fraction"] == pytest.approx(0.45) and row["hoyer"] < row["hoyer_all"]
    assert mechanisms.measure_features(torch.zeros(3, 4))["dead"] == 1


def found(experiment, accuracy):
    return Record(experiment.spec, {"valid_accuracy": accuracy}, {})


def test_the_search_goes_on_until_the_best_lies_between_neighbours():
    """Against a made-up truth: the best weight decay is 8e-3, the best p 0.85 and the best strength 1e-4."""
    truth = {"weight_decay": 8e-3, "p": 0.85, "strength": 1e-4}
    records = []
    while runs := mechanisms.next_runs(records):
        assert len({fingerprint(run.spec) for run in runs} - {record.key for record in records}) == len(runs)
        for run in runs:
            setting = mechanisms.Setting(run.method, run.q, run.draws)
            ladder = mechanisms.LADDERS[setting.dial]
            value = run.recipe.weight_decay if setting.dial == "weight_decay" else getattr(run, setting.dial)
            records.append(found(run, -abs(ladder.index(value) - ladder.index(truth[setting.dial])) + run.seed / 100))
    order = [(r.spec["method"], r.spec["q"], r.spec["draws"]) for r in records if r.spec["method"] != "none"]
    decisive = [(s.method, s.q, s.draws) for s in mechanisms.DECISIVE]
    first_other = next(k for k, one in enumerate(order) if one not in decisive)
    assert set(order[:first_other]) == set(decisive) and not set(order[first_other:]) & set(decisive)
    assert mechanisms.PLAIN.ladder().best(records) == 8e-3
    for setting in mechanisms.SETTINGS:
        assert setting.ladder(8e-3).best(records) == truth[setting.dial]
        tried = setting.ladder(8e-3).tried(records)
        assert min(tried) < truth[setting.dial] < max(tried)
        final = [r for r in records if r.spec == setting.at(truth[setting.dial], r.spec["seed"], 8e-3).spec]
        assert len(final) == mechanisms.REPEATED
    assert len({record.key for record in records}) == len(records)


def test_a_strength_is_chosen_by_all_seeds_of_the_search():
    setting = mechanisms.Setting("noise", 1.0)
    one = [found(setting.at(0.3, 0, 1e-3), 99.0)]
    with pytest.raises(ValueError, match="2 seeds"):
        setting.ladder(1e-3).best(one)
    both = one + [found(setting.at(0.5, seed, 1e-3), 50.0) for seed in range(mechanisms.SEARCHED)]
    assert setting.ladder(1e-3).best(both) == 0.5


def test_tables_have_a_row_for_each_run_and_epoch(digits):
    record = dataclasses.replace(QUICK, method="noise", p=0.3).run(progress=False, device="cpu")
    plain = QUICK.run(progress=False, device="cpu")
    frame = mechanisms.mechanisms_frame([record, plain, Record({"study": "arena"}, {}, {})])
    assert list(frame["method"]) == ["noise", "none"]
    assert {"test_accuracy", "hoyer", "dead", "weight_decay"} <= set(frame)
    rows = mechanisms.probes_frame([record, plain])
    assert len(rows) == QUICK.recipe.epochs and (rows["error"] > 0).all()


def test_the_other_studies_ask_for_the_weight_decay(tmp_path, monkeypatch):
    store = bl.Store(tmp_path / "mechanisms.jsonl")
    monkeypatch.setattr(mechanisms, "find_store", lambda name: store.path if store.path.exists() else None)
    with pytest.raises(ValueError, match="run bridgeout sweep mechanisms first"):
        mechanisms.tuned_decay()
    while runs := mechanisms.PLAIN.ladder().to_try(store):
        for run in runs:
            store.append(found(run, -abs(run.recipe.weight_decay - 2e-3)))
    assert mechanisms.tuned_decay() == 2e-3


def test_whitened_patches_are_white(digits):
    layer = bl.models.Whitening(3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, 32, 32, generator=generator) @ torch.randn(32, 32, generator=generator)
    layer.learn(x, epsilon=0.0)
    out = layer(x)[:, :12].transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(out @ out.T / out.shape[1], torch.eye(12, dtype=torch.float64), rtol=1e-3, atol=1e-3)
    assert torch.equal(layer(x)[:, 12:], -layer(x)[:, :12])


def test_fit_whitens_once_from_training_images(digits):
    recipe = dataclasses.replace(QUICK.recipe, epochs=1)
    model = bl.build_model("airnet", width=0.125, seed=0)
    assert not model.whitening.ready
    fit(model, digits, recipe, device="cpu", progress=False)
    first = model.whitening.weight.clone()
    other = dataclasses.replace(digits, train=Split(digits.train.x.flip(0), digits.train.y.flip(0)))
    fit(model, other, recipe, device="cpu", progress=False)
    assert model.whitening.ready and torch.equal(model.whitening.weight, first)


# --- the claims -------------------------------------------------------------------------------------------------------


def played(noise=0.0, penalty=0.0):
    """The records of the whole study in which noise and penalty change accuracy by these points, and Hoyer's measure
    by a hundredth of them."""
    records = []
    while runs := mechanisms.next_runs(records):
        for run in runs:
            gain = {"noise": noise, "penalty": penalty}.get(run.method, 0.0)
            dial = run.p or run.strength or run.recipe.weight_decay
            accuracy = 60 + gain - abs(dial - (0.3 if run.p else 4e-3)) + (0.1 * run.seed) % 0.7
            row = {"train_accuracy": 97.0, "valid_accuracy": accuracy, "test_accuracy": accuracy}
            features = {"hoyer": 0.5 + gain / 100}
            records.append(Record(run.spec, row | {"features": features}, {}))
    return records


def test_the_claims_compare_mechanisms_at_their_chosen_strengths():
    def verdicts(records):
        return [claim.judge(records).verdict for claim in mechanisms.SECTION.claims]

    yes, no = "holds in direction", "contradicted"
    alike, apart = played(2.0, 2.0), played(3.0, 0.0)
    assert verdicts(alike) == [yes] * 4
    assert verdicts(apart) == [no, no, yes, yes]
    assert verdicts(played()) == [yes, yes, yes, no], "noise that gives nothing gives less than half a point"
    assert verdicts([]) == verdicts(alike[:8]) == ["not run"] * 4
    found = mechanisms.SECTION.claims[0].judge(apart)
    assert found.n == 10 and "q=1.5: +3.00" in found.ours
    assert "noise at q=1.5 0.3" in found.reason and "97.0 % training and 60.2 % test" in found.reason
    rows = mechanisms.chosen(mechanisms.mechanisms_frame(alike))
    assert set(rows["mechanism"]) == {"none", "noise", "penalty", "sum", *(f"noise, {k} draws" for k in (4, 16, 64))}
    assert rows.groupby(["mechanism", "q"], dropna=False)["seed"].nunique().eq(mechanisms.REPEATED).all()
