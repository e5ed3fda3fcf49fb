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


TORCH_ONLY = """
import sys
from importlib.machinery import PathFinder

HIDDEN = set('''pandas scipy sklearn matplotlib cycler joblib requests filelock pooch tqdm packaging ipywidgets
    anywidget torchvision torch_pruning captum onnx onnxscript onnxruntime distributed PIL'''.split())

class TorchOnly(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = TorchOnly
import torch
from torch import nn
import bridgeout_lite as bl

def needs(call, package):
    try:
        call()
    except ImportError as error:
        assert f"pip install {package}" in str(error) and "\\n" not in str(error), error
    else:
        raise AssertionError(package)
"""
"""What a Python sees in which nothing is installed but torch and what torch needs."""


def in_torch_only(code):
    subprocess.run([sys.executable, "-c", TORCH_ONLY + code], check=True, timeout=300)


def test_layers_pruning_and_costs_take_torch_only():
    in_torch_only("""
x = torch.randn(2, 3, 16, 16)
assert bl.Sparseout()(x).shape == x.shape
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
bl.attach_bridgeout(bl.attach_sparseout(model, 0.3, 1.0), 0.3, 1.0)(x).sum().backward()
bl.detach_sparseout(bl.detach_bridgeout(model))
assert 0 <= bl.sparsity.record_activations(model, x)["2"]["hoyer"] <= 1
assert bl.theory.lq_penalty(torch.randn(4, 3), torch.randn(3), 0.3, 1.0) > 0
bl.pruning.prune(model, 0.5)
assert bl.cost.count(bl.build_model("smallcnn"), torch.zeros(1, 3, 32, 32))[0] > 0
""")


def test_what_takes_more_says_in_one_line_what_to_install():
    in_torch_only("""
import os
os.environ["BRIDGEOUT_DATA"] = "."  # where it is not set, the cache folder asks for pooch first
model, images = bl.build_model("smallcnn"), None
needs(lambda: bl.pruning.prune(model, 0.5, silence=True), "torch-pruning")
needs(lambda: bl.pruning.curve(model, images, [0.5]), "pandas")
needs(lambda: bl.fit(model, images), "pandas")
needs(lambda: bl.load_images("digits", "."), "scikit-learn")
needs(lambda: bl.load_images("cifar10", "."), "torchvision")
needs(lambda: bl.load_images("digits"), "scikit-learn")
needs(lambda: bl.theory.bridge_prox(1.0, 0.1, 1.5), "scipy")
needs(lambda: bl.stats, "pandas")
needs(lambda: bl.sweep, "joblib")
needs(lambda: bl.run, "filelock")
needs(lambda: bl.notebook, "matplotlib")
""")


def test_public_names_are_listed():
    assert {"Sparseout", "fit", "theory", "studies", "__all__"} <= set(dir(bl))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = bl.nothing
