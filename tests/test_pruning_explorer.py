"""The pruning explorer: what the page gets against the records, recorded settings alone, and the figure in a browser."""

import base64
import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import traitlets
from browser import chromium, still_page, visit

import bridgeout_lite as bl
from bridgeout_lite import Experiment, Recipe, Record, protocol, published
from bridgeout_lite.pruning import prune
from bridgeout_lite.widgets.pruning_explorer import (
    EVERYTHING,
    METHODS,
    TREATMENTS,
    PruningExplorer,
    accuracies,
    rule,
    tied,
)

# Method, p, q, target_fraction: as many and as irregular as the recorded ones.
SETTINGS = (
    ("none", 0.0, 2.0, 1.0),
    ("dropout", 0.05, 2.0, 1.0),
    ("dropout", 0.1, 2.0, 1.0),
    ("dropout", 0.2, 2.0, 1.0),
    ("bridgeout", 0.1, 2.0, 1.0),
    ("bridgeout", 0.3, 2.0, 1.0),
    ("bridgeout", 0.03, 1.5, 1.0),
    ("bridgeout", 0.1, 1.5, 1.0),
    ("bridgeout", 0.1, 1.5, 0.75),
    ("bridgeout", 0.01, 1.0, 1.0),
)
VGG = {f"conv{k}": n for k, n in enumerate((16, 32, 64, 64, 128, 128, 128, 128), 1)}
BLOCKS = [(s, b) for s, count in ((1, 3), (2, 4), (3, 6)) for b in range(count)]
RESNET = {"conv": 16} | {
    f"stage{s}.{b}.{part}": 8 * 2**s
    for s, b in BLOCKS
    for part in ("conv1", "conv2", *(["shortcut.conv"] if s > 1 and b == 0 else []))
}


def made_up(method="bridgeout", p=0.1, q=1.5, fraction=1.0, seed=0, *, layers=None, **spec):
    """A record of the pruning comparison with smooth made-up curves, a little different in every run."""
    layers = layers or (RESNET if spec.get("model") == "resnet34c" else VGG)
    recipe = Recipe(epochs=spec.pop("epochs", 10))
    common = {"model": "vgg11", "width": 0.25, "recipe": recipe, "measures": ("pruning",), "seed": seed} | spec
    experiment = Experiment(method=method, p=p, q=q, target_fraction=fraction, **common)
    draws = np.random.default_rng([len(method), int(1000 * p), int(10 * q), int(100 * fraction), seed, len(layers)])
    whole, noise = 85 - 30 * p / q - draws.uniform(0, 1), math.sqrt(p)
    curves = {}
    for name, (amounts, arguments) in (protocol.CURVES | {protocol.RELEASED: (protocol.RELEASED_AMOUNTS, {})}).items():
        half = 0.15 + 0.2 * noise + 0.2 * bool(arguments.get("recalibrate")) + 0.05 * bool(arguments.get("remove"))
        half += 0.3 * bool(arguments.get("recipe")) + draws.uniform(0, 0.02)
        fall = [1 / (1 + (amount / half) ** 4) for amount in amounts]
        accuracy = [round(10 + (whole - 10) * share, 2) for share in fall]
        curves[name] = {"amount": list(amounts), "test": accuracy}
        if name in protocol.CHOSEN_BY:
            curves[name]["valid"] = [round(value + draws.uniform(-0.3, 0.3), 2) for value in accuracy]
    left = [1 - amount for amount in protocol.AMOUNTS]
    costs = {
        "parameters": [round(579_786 * share**2) for share in left],
        "macs": [round(9_880_832 * s**2) for s in left],
    }
    norms = {name: sorted((0.6 + draws.gamma(4, 0.2, n)).round(6).tolist()) for name, n in layers.items()}
    pruning = {"curves": curves, "costs": {"amount": list(protocol.AMOUNTS)} | costs, "filters": norms, "weights": {}}
    times = [round(40 * (0.2 + 0.8 * share) * draws.uniform(0.9, 1.1), 4) for share in left]
    latency = {"amount": list(protocol.AMOUNTS), "latency_ms": times, "batch": 128}
    metrics = {"test_accuracy": curves["zeroed"]["test"][0], "valid_accuracy": 80.0, "pruning": pruning}
    return Record(experiment.spec, metrics, {"latency": latency, "device": "AMD EPYC", "seconds": 500.0})


def scratch(cut, seed=0, accuracy=70.0):
    spec = made_up("none", 0.0, 2.0, seed=seed, cut=cut, measures=()).spec
    return Record(spec, {"test_accuracy": accuracy + seed, "valid_accuracy": 70.0}, {"device": "AMD EPYC"})


def comparison(seeds=3, **spec):
    return [made_up(*setting, seed=seed, **spec) for seed in range(seeds) for setting in SETTINGS]


WHOLE = [*comparison(), *(scratch(cut, seed) for cut in (0.5, 0.7) for seed in range(3))]
SECOND = comparison(seeds=2, dataset="cifar100", model="resnet34c", width=1.0)
FIRST_NAME, SECOND_NAME = "CIFAR-10, vgg11 of width 0.25", "CIFAR-100, resnet34c"


def weight(figure):
    """Bytes of the figure in the page's widget state: scripts, styles and data."""
    from ipywidgets.embed import embed_data

    data = embed_data(views=[figure], drop_defaults=False)
    return len(json.dumps(data["manager_state"]["state"][data["view_specs"][0]["model_id"]]))


def of(records, method, p=None, q=None, fraction=1.0):
    """The runs of one setting."""
    return [
        r
        for r in records
        if r.spec["method"] == METHODS[method]
        and "pruning" in r.metrics
        and (p is None or (r.spec["p"], r.spec["q"], r.spec.get("target_fraction", 1.0)) == (p, q, fraction))
    ]


@pytest.fixture
def figure():
    return PruningExplorer([*WHOLE, *SECOND])


# --- what the page gets -----------------------------------------------------------------------------------------------


def test_the_page_gets_what_is_recorded(figure):
    assert list(figure.studies) == [FIRST_NAME, SECOND_NAME]
    study = figure.studies[FIRST_NAME]
    assert [layer[:2] for layer in study["layers"]] == [[name, n] for name, n in VGG.items()]
    assert len(study["settings"]) == len(SETTINGS) and study["network"] == "vgg16"
    for entry in study["settings"]:
        fraction = 1.0 if entry["target"] == EVERYTHING else 0.75
        runs = of(WHOLE, entry["method"], entry["p"], entry["q"], fraction)
        assert len(runs) == 3 == len(entry["seeds"]) and set(entry["curves"]) == set(TREATMENTS)
        for treatment, lists in entry["curves"].items():
            assert all(len(values) == 3 for values in lists["test"])
            for run, values in zip(runs, zip(*lists["test"], strict=True), strict=True):
                assert dict(zip(lists["amount"], values, strict=True)) == accuracies(run, treatment)
        levels = np.frombuffer(base64.b64decode(entry["norms"]), np.uint8).astype(float)
        parts = np.split(levels, np.cumsum(list(VGG.values()))[:-1])
        for name, part, top in zip(VGG, parts, entry["tops"], strict=True):
            expected = np.mean([run.metrics["pruning"]["filters"][name] for run in runs], axis=0)
            assert abs(part * top / 255 - expected).max() <= top * (0.5 / 255 + 1e-3)
            assert (np.diff(part) >= 0).all()
    times = np.array([r.provenance["latency"]["latency_ms"] for r in of(WHOLE, "dropout") + of(WHOLE, "no noise")])
    times = np.concatenate([times, [r.provenance["latency"]["latency_ms"] for r in of(WHOLE, "Batch Bridgeout")]])
    assert study["costs"]["latency"] == pytest.approx(np.median(times / times[:, :1], axis=0).tolist(), rel=1e-12)
    assert study["costs"]["macs"] == WHOLE[0].metrics["pruning"]["costs"]["macs"]
    assert study["scratch"] == [[0.5, [70.0, 71.0, 72.0]], [0.7, [70.0, 71.0, 72.0]]]
    frame = published.curve("vgg16", "cifar10", "dropout")
    assert study["published"]["dropout"] == frame[["amount", "accuracy"]].to_numpy().tolist()
    assert figure.studies[SECOND_NAME]["network"] == "resnet34c" and not figure.studies[SECOND_NAME]["scratch"]


def test_the_chosen_settings_are_those_of_the_protocol(figure):
    frame = protocol.curves_frame([r for r in WHOLE if "pruning" in r.metrics])
    for curve in protocol.CHOSEN_BY:
        best = protocol.choose_settings(frame, curve)
        entries = figure.studies[FIRST_NAME]["settings"]
        for method, place in figure.studies[FIRST_NAME]["chosen"][curve].items():
            runs = of(
                WHOLE,
                method,
                entries[place]["p"],
                entries[place]["q"],
                1 if "every" in entries[place]["target"] else 0.75,
            )
            assert {protocol.setting(run.spec) for run in runs} == {best[METHODS[method]]}
    assert {rule(treatment) for treatment in TREATMENTS} == set(protocol.CHOSEN_BY)
    assert rule("removed, fine-tuned") == "removed, recalibrated" and rule("zeroed as released") == "zeroed"


def test_the_figure_is_small():
    assert weight(PruningExplorer(WHOLE)) < 90_000
    five = [*WHOLE, *SECOND, *comparison(dataset="cifar100"), *comparison(epochs=30), *comparison(width=0.5)]
    assert weight(PruningExplorer(five)) < 230_000
