"""The public names of the package are a promise: their signatures change only on purpose."""

import inspect
import subprocess
import sys

import pytest

import bridgeout_lite as bl

SIGNATURES = {
    "sparseout": "x, p=0.5, q=2.0, training=True, *, form='odd', gradient='exact', shared=None, generator=None",
    "bridgeout": "w, p=0.5, q=2.0, training=True, *, form='even', gradient='exact', target_fraction=1.0, "
    "target='kernels', generator=None",
    "Sparseout": "p=0.5, q=2.0, *, form='odd', gradient='exact', shared=None",
    "Bridgeout": "p=0.5, q=2.0, *, form='even', gradient='exact', target_fraction=1.0, target='kernels'",
    "attach_sparseout": "model, p, q, *, form='odd', gradient='exact', shared=None, where=None",
    "detach_sparseout": "model",
    "attach_bridgeout": "model, p, q, *, form='even', gradient='exact', target_fraction=1.0, target='kernels', "
    "where=None",
    "detach_bridgeout": "model",
    "theory.lq_penalty": "features, weights, p, q, family='gaussian', noise_on='features'",
    "theory.monte_carlo_penalty": "features, weights, p, q, family='gaussian', noise_on='features', draws=1000, "
    "generator=None",
    "sparsity.hoyer": "x, dim=None",
    "sparsity.gini": "x, dim=None",
    "sparsity.zero_fraction": "x, dim=None",
    "sparsity.record_activations": "model, inputs, *, where=None, per_sample=False",
    "load_images": "name='auto', root=None, *, device='cpu', train=None, valid=5000, test=None, seed=0, download=True",
    "load_text": "name='auto', root=None, *, download=True",
    "build_model": "name, *, width=1.0, num_classes=10, in_channels=3, seed=None",
    "fit": "model, images, recipe=None, *, seed=0, device='auto', checkpoint=None, progress=True, on_epoch=None",
    "run": "experiment, images=None, *, device='auto', checkpoint=None, progress=True, on_epoch=None",
    "sweep": "experiments, store, *, backend='local'",
    "pruning.prune": "model, amount, *, granularity='filter', criterion='l2', scope='layer'",
    "pruning.remove_filters": "model, amount, example_input",
    "pruning.recalibrate_batchnorm": "model, images, batches",
    "pruning.curve": "model, images, amounts, *, granularity, criterion, scope, recalibrate, remove",
    "cost.measure": "model, example_input",
}
"""What must stay: these arguments in this order; keyword arguments may be added."""


def find(name):
    value = bl
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    found = inspect.signature(find(name)).parameters
    promised = [part.strip() for part in SIGNATURES[name].split(", ")]
    keyword_only = promised.index("*") if "*" in promised else len(promised)
    positional = [p.partition("=")[0] for p in promised[:keyword_only]]
    ours = [n for n, p in found.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert ours[: len(positional)] == positional
    for part in promised:
        argument, equals, default = part.partition("=")
        if argument != "*":
            assert argument in found
            if equals:
                assert repr(found[argument].default) == default, argument


HEAVY = "pandas scipy sklearn matplotlib joblib requests filelock pooch ipywidgets torchvision"


@pytest.mark.parametrize("name", ["Sparseout", "attach_bridgeout", "theory.lq_penalty", "sparsity.hoyer"])
def test_the_noise_costs_torch_and_numpy(name):
    """In a fresh Python that refuses everything else that the package may want."""
    code = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY.split()!r}:
            raise ModuleNotFoundError(name)

import torch
sys.meta_path.insert(0, Refuse())
import bridgeout_lite as bl
print(bl.{name})
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120).stdout
    assert name.rpartition(".")[2] in shown


def test_public_names_are_listed():
    assert {"Sparseout", "fit", "theory", "studies", "__all__"} <= set(dir(bl))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = bl.nothing
