"""Experiments: a record says all that the run depends on and what was measured; a sweep never does work twice."""

import base64
import dataclasses
import itertools
import json
import math
import zlib

import numpy as np
import pytest
import torch

import bridgeout_lite as bl
from bridgeout_lite import Experiment, Recipe, training
from bridgeout_lite.modules import capture_activations
from bridgeout_lite.runs.records import fingerprint, rounded
from bridgeout_lite.studies import experiment
from bridgeout_lite.studies import images as experiments
from bridgeout_lite.studies.images import run
from bridgeout_lite.studies.measures import measure_activations

RECIPE = Recipe(epochs=2, batch_size=64, lr=0.05, precision="float32")
QUICK = Experiment("digits", width=0.25, p=0.2, q=1.5, train=256, valid=64, recipe=RECIPE)
DEVICE = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def images():
    return bl.load_images("digits", train=256, valid=64)


@pytest.fixture(scope="module")
def record(images):
    return run(QUICK, images, **DEVICE)


def untimed(record):
    """What two runs of the same experiment must share."""
    return record.spec, record.metrics, {k: v for k, v in record.provenance.items() if k not in ("started", "seconds")}


# --- the spec ---------------------------------------------------------------------------------------------------------


def test_the_spec_is_complete():
    assert set(QUICK.spec) == {f.name for f in dataclasses.fields(Experiment)} - set(bl.runs.records.OMITTED_DEFAULTS)
    assert set(QUICK.spec["recipe"]) == {f.name for f in dataclasses.fields(Recipe)} - set(training.OMITTED_DEFAULTS)
    spec = json.loads(json.dumps(QUICK.spec))
    assert spec == QUICK.spec and fingerprint(spec) == fingerprint(QUICK.spec)
    recipe = Recipe(**spec.pop("recipe"))
    assert Experiment(**spec, recipe=recipe) == QUICK  # nothing else is needed to run it again


def test_later_knobs_leave_older_fingerprints_alone():
    old = next(iter(bl.notebook.results("activations")))
    recipe = Recipe(**old.spec["recipe"])
    assert Experiment(**{**old.spec, "recipe": recipe}).spec == old.spec
    later = [
        Experiment(cut=0.5, measures=("pruning",), target="filters", target_fraction=0.5, test=100),
        Experiment(method="l1", p=0.0, strength=1e-4),
        Experiment(place="last", matched=True),
    ]
    assert set(bl.runs.records.OMITTED_DEFAULTS) <= {name for one in later for name in one.spec}
    for one in later:
        assert Experiment(**{**one.spec, "recipe": Recipe(**one.spec["recipe"])}) == one


CHANGES = {
    "dataset": "cifar10",
    "model": "smallcnn-plain",
    "method": "bridgeout",
    "p": 0.3,
    "q": 1.0,
    "form": "even",
    "gradient": "constant",
    "width": 1.0,
    "train": 100,
    "valid": 10,
    "seed": 1,
    "target_fraction": 0.75,
    "target": "filters",
    "cut": 0.5,
    "measures": ("activations", "pruning"),
    "test": 64,
}
RECIPE_CHANGES = {
    "epochs": 3,
    "batch_size": 32,
    "lr": 0.2,
    "momentum": 0.5,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "milestones": (1,),
    "gamma": 0.5,
    "flip": False,
    "crop": 0,
    "clip": 1.0,
    "precision": "auto",
    "label_smoothing": 0.1,
    "bias_lr": 2.0,
}


def test_every_knob_changes_the_fingerprint():
    changed = [dataclasses.replace(QUICK, **{k: v}) for k, v in CHANGES.items()]
    recipes = [dataclasses.replace(RECIPE, **{k: v}) for k, v in RECIPE_CHANGES.items()]
    changed += [dataclasses.replace(QUICK, recipe=r) for r in recipes]
    changed += [dataclasses.replace(QUICK, method="l1", strength=s) for s in (1e-4, 1e-3)]
    noise = dataclasses.replace(QUICK, method="sparseout", p=0.15)
    changed += [noise, dataclasses.replace(noise, place="last"), dataclasses.replace(noise, matched=True)]
    assert {*CHANGES, "recipe"} - set(bl.runs.records.OMITTED_DEFAULTS) <= set(QUICK.spec)
    assert set(RECIPE_CHANGES) - set(training.OMITTED_DEFAULTS) <= set(QUICK.spec["recipe"])
    assert len({fingerprint(e.spec) for e in [QUICK, *changed]}) == 1 + len(changed)


def test_whole_numbers_are_numbers():
    a = Experiment(p=0, q=2, width=1, recipe=Recipe(lr=1, clip=1))
    b = Experiment(p=0.0, q=2.0, width=1.0, recipe=Recipe(lr=1.0, clip=1.0))
    assert fingerprint(a.spec) == fingerprint(b.spec)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"method": "dropin"}, ("method", "'dropin'", "none", "sparseout", "bridgeout", "dropout")),
        ({"method": "none", "place": "last"}, ("place", "'sparseout'", "'none'")),
        ({"place": "first"}, ("place", "'first'", "all", "last")),
        ({"method": "none", "strength": 0.1}, ("strength", "'l1'", "'none'", "0.1")),
        ({"method": "dropout", "q": 1.5}, ("dropout", "q = 2", "1.5", "sparseout")),
        ({"target_fraction": 1.5}, ("target_fraction", "1.5", "<= 1")),
        ({"target": "rows"}, ("target", "'rows'", "kernels", "filters")),
        ({"cut": 1.0}, ("cut", "1.0", "0 <= cut < 1")),
        ({"measures": ("speed",)}, ("measures", "'speed'", "activations", "pruning")),
        ({"form": "round"}, ("form", "'round'", "odd", "even")),
        ({"gradient": "none"}, ("gradient", "'none'", "exact", "constant")),
        ({"p": 1.0}, ("p", "1.0", "0 <= p < 1")),
        ({"p": math.nan}, ("p", "nan", "0 <= p < 1")),
        ({"q": -1.0}, ("q", "-1.0")),
        ({"q": math.inf}, ("q", "inf")),
    ],
)
def test_experiments_that_make_no_sense(knobs, words):
    with pytest.raises(ValueError) as error:
        Experiment(**knobs)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words)


def test_unknown_model_and_data_set():
    with pytest.raises(ValueError, match=r"model must be one of 'smallcnn'.*, got 'resnet99'"):
        dataclasses.replace(QUICK, model="resnet99")
    with pytest.raises(ValueError, match=r"dataset must be one of .*'digits', got 'mnist'"):
        dataclasses.replace(QUICK, dataset="mnist")


def test_a_record_names_the_data_that_it_used(images):
    record = run(dataclasses.replace(QUICK, dataset="auto"), images, **DEVICE)
    assert record.spec["dataset"] == record.provenance["data"] == "digits"


@pytest.mark.parametrize(
    ("method", "expected"),
    [("none", []), ("sparseout", ["Sparseout"] * 5), ("bridgeout", ["Bridgeout"] * 4)],
)
@pytest.mark.parametrize("form", [None, "odd", "even"])
def test_attach(method, expected, form):
    experiment = dataclasses.replace(QUICK, method=method, form=form, gradient="constant")
    model = experiment.attach(bl.build_model("smallcnn", width=0.25))
    noise = [m for m in model.modules() if isinstance(m, bl.Sparseout | bl.Bridgeout)]
    assert [type(m).__name__ for m in noise] == expected
    usual = {"sparseout": "odd", "bridgeout": "even"}
    assert all((m.p, m.q, m.form, m.gradient) == (0.2, 1.5, form or usual[method], "constant") for m in noise)


# --- one run ----------------------------------------------------------------------------------------------------------


def test_a_record_is_json_and_survives_the_store(record, tmp_path):
    line = json.dumps(dataclasses.asdict(record), allow_nan=False)
    assert bl.Record(**json.loads(line)) == record
    store = bl.Store(tmp_path / "runs.jsonl")
    store.append(record)
    assert list(store) == [record] and store.find(QUICK.spec) == record and store.keys() == {record.key}
    assert record.key == fingerprint(QUICK.spec) and len(line) < 20_000


def test_a_record_says_where_it_comes_from(record, images):
    origin = record.provenance
    assert (origin["data"], origin["data_checksum"]) == ("digits", images.checksum)
    assert origin["torch"] == torch.__version__ and origin["precision"] == "float32" and origin["threads"] == 1
    assert origin["package"] == bl.__version__ and {"commit", "dirty", "python", "cuda", "device"} <= set(origin)
    assert origin["seconds"] > 0 and origin["started"].endswith("+00:00")


@pytest.mark.parametrize("method", ["none", "sparseout", "bridgeout"])
def test_a_run_is_build_attach_fit_and_measure(images, method):
    experiment = dataclasses.replace(QUICK, method=method, seed=3)
    metrics = run(experiment, images, **DEVICE).metrics
    torch.manual_seed(3)
    model = bl.build_model("smallcnn", width=0.25, num_classes=10)
    if method == "sparseout":
        bl.attach_sparseout(model, 0.2, 1.5)
    if method == "bridgeout":
        bl.attach_bridgeout(model, 0.2, 1.5)
    frame = bl.fit(model, images, RECIPE, seed=3, **DEVICE).frame
    bl.detach_bridgeout(bl.detach_sparseout(model))
    for split in ("valid", "test"):
        loss, accuracy = bl.evaluate(model, images, split)
        assert metrics[f"{split}_loss"] == pytest.approx(loss, rel=1e-5)
        assert metrics[f"{split}_accuracy"] == pytest.approx(accuracy, rel=1e-5)
    assert set(metrics["history"]) == {"train_loss", "train_accuracy", "valid_loss", "valid_accuracy"}
    for column, values in metrics["history"].items():
        assert values == pytest.approx(frame[column].tolist(), rel=1e-5)
    layers = bl.sparsity.record_activations(model.eval(), images.normalize(images.valid.x))
    assert list(metrics["layers"]) == list(layers) and "relu1" in layers
    for name, measures in layers.items():
        assert {k: metrics["layers"][name][k] for k in measures} == pytest.approx(measures, rel=1e-4, abs=1e-6)


def test_measured_activations_equal_direct_computation(images):
    torch.manual_seed(0)
    model, inputs, q = bl.build_model("smallcnn", width=0.25), images.normalize(images.valid.x), 1.5
    measured = measure_activations(model, inputs, q)
    model.eval()
    with torch.no_grad():
        x = model.relu1(model.norm1(model.conv1(inputs)))
    layer = measured["relu1"]
    assert layer["hoyer"] == pytest.approx(float(bl.sparsity.hoyer(x)), rel=1e-4)
    assert layer["rms"] == pytest.approx(float(x.square().mean().sqrt()), rel=1e-4)
    assert layer["zero_fraction"] == pytest.approx(float((x == 0).float().mean()), rel=1e-4)
    assert layer["noise_ratio"] == pytest.approx(float(x.abs().pow(q).mean() / x.square().mean()), rel=1e-4)
    each = torch.stack([bl.sparsity.gini(image) for image in x]).mean()
    assert layer["per_sample"]["gini"] == pytest.approx(float(each), rel=1e-4)
    edges = 10.0 ** torch.tensor(bl.studies.measures.HISTOGRAM_EDGES) * layer["rms"]
    shares = [float(((x >= low) & (x < high)).float().mean()) for low, high in itertools.pairwise(edges)]
    assert layer["histogram"][1:-1] == pytest.approx(shares[1:-1], rel=6e-3, abs=2e-5)  # three digits are kept
    assert sum(layer["histogram"]) == pytest.approx(1 - layer["zero_fraction"], rel=6e-3)  # the outer bins are open


def test_the_same_experiment_gives_the_same_record(images, record):
    torch.rand(3)
    state = torch.get_rng_state()
    assert untimed(run(QUICK, images, **DEVICE)) == untimed(record)
    assert torch.equal(torch.get_rng_state(), state)
    other = run(dataclasses.replace(QUICK, seed=1), images, **DEVICE)
    assert other.metrics != record.metrics and other.key != record.key


def test_run_loads_the_data_it_is_not_given(record):
    whole = dataclasses.replace(QUICK, recipe=dataclasses.replace(RECIPE, epochs=1))
    assert run(whole, **DEVICE).provenance["data_checksum"] == record.provenance["data_checksum"]


def test_the_test_split_is_read_once_and_after_training(images, monkeypatch):
    order, real_fit, real_evaluate = [], experiments.fit, training.evaluate

    def fit(*arguments, **options):
        history = real_fit(*arguments, **options)
        order.append("trained")
        return history

    def evaluate(model, images, split="test", **options):
        order.append(split)
        assert not any(isinstance(m, bl.Sparseout | bl.Bridgeout) for m in model.modules())
        return real_evaluate(model, images, split, **options)

    monkeypatch.setattr(experiments, "fit", fit)
    for module in (experiments, experiment):  # "train" and "views" are read by the first
        monkeypatch.setattr(module, "evaluate", evaluate)
    run(QUICK, images, **DEVICE)
    assert order[0] == "trained" and order.count("test") == 1


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_rounding_keeps_six_digits_and_drops_what_json_cannot_say():
    assert rounded({"a": [1.23456789, math.nan], "b": (2, "x", None)}) == {"a": [1.23457, None], "b": [2, "x", None]}


def test_activation_maps_keep_the_first_channels_and_exact_zeros(images):
    model = bl.build_model("smallcnn", width=0.5)
    maps = bl.studies.measures.activation_maps(model, images)
    assert maps["images"] == [i for i in bl.studies.measures.MAPPED_IMAGES if i < len(images.valid)]
    outputs = capture_activations(model, images.normalize(images.valid.x[maps["images"]]))
    for name, layer in maps["layers"].items():
        levels = np.frombuffer(zlib.decompress(base64.b64decode(layer["levels"])), np.uint8).reshape(layer["shape"])
        out = outputs[name].float()
        if out.dim() == 4:
            out = torch.nn.functional.adaptive_max_pool2d(out[:, :4], levels.shape[-1])
        assert levels.shape == tuple(out.shape) and levels.max() == 15
        assert ((levels == 0) == (out == 0).numpy()).all()
        error = out.numpy() - layer["top"] * levels / 15
        assert (error <= 1e-5).all() and (error >= -layer["top"] / 15 - 1e-5).all()


# --- noise in other places and at matched power -----------------------------------------------------------------------


@pytest.mark.parametrize(("model", "place"), [("airnet", "flatten"), ("smallcnn", "relu5"), ("resnet14", "flatten")])
def test_noise_on_the_last_features_sits_before_the_classifier(model, place):
    experiment = Experiment(model=model, p=0.2, q=1.0, place="last")
    network = experiment.attach(bl.build_model(model, width=0.25))
    noisy = [name for name, module in network.named_modules() if hasattr(module, "sparseout")]
    assert noisy == [place]


@pytest.mark.parametrize("q", [1.0, 2.0, 3.0])
def test_matched_noise_has_the_power_of_dropout(q):
    x = torch.rand(400, 500, generator=torch.Generator().manual_seed(0)) * 3
    x[x < 1] = 0.0
    layer = bl.Sparseout(0.2, q, matched=True).train()
    torch.manual_seed(0)
    noise = layer(x) - x
    assert (noise.square().mean() / x.square().mean()).item() == pytest.approx(0.25, rel=0.02)
    assert layer.eval()(x) is x and torch.equal(layer.train()(torch.zeros(3)), torch.zeros(3))
