"""The networks: sizes, shapes, and errors that help."""

import math

import pytest
import torch
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite.models import MODELS


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def smallcnn_parameters(c1: int, c2: int, c3: int, hidden: int, classes: int, colours: int, batchnorm: bool) -> int:
    convolutions = 9 * (colours * c1 + c1 * c2 + c2 * c2 + c2 * c3)
    channels = c1 + c2 + c2 + c3  # scale and shift of BatchNorm, or a bias
    dense = 16 * c3 * hidden + hidden + hidden * classes + classes
    return convolutions + channels * (2 if batchnorm else 1) + dense


def test_smallcnn_has_its_parameters():
    assert count(bl.build_model("smallcnn")) == smallcnn_parameters(16, 32, 64, 128, 10, 3, True) == 165_466
    assert count(bl.build_model("smallcnn-plain")) == smallcnn_parameters(16, 32, 64, 128, 10, 3, False) == 165_322


@pytest.mark.parametrize(
    "width,sizes",
    [(0.5, (8, 16, 32, 64)), (2, (32, 64, 128, 256)), (0.1, (2, 3, 6, 13)), (1e-6, (1, 1, 1, 1))],
)
def test_width_scales_every_hidden_layer(width, sizes):
    model = bl.build_model("smallcnn", width=width, num_classes=7, in_channels=1)
    assert count(model) == smallcnn_parameters(*sizes, 7, 1, True)
    widths = [m.weight.shape[0] for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert widths == [sizes[0], sizes[1], sizes[1], sizes[2], sizes[3], 7]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_runs_and_learns(name):
    model = bl.build_model(name, width=0.25, num_classes=5, in_channels=2)
    x = torch.randn(3, 2, 32, 32)
    y = model(x)
    assert y.shape == (3, 5) and y.isfinite().all()
    y.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    assert torch.equal(model(x), model(x))  # nothing random in it
    torch.testing.assert_close(model(x)[:1], model(x[:1]))  # and no sample sees another


@pytest.mark.parametrize("name", MODELS)
def test_a_model_carries_no_method_but_takes_them(name):
    model = bl.build_model(name, width=0.25)
    assert not any(isinstance(m, bl.Sparseout | bl.Bridgeout | nn.Dropout) for m in model.modules())
    keys = list(model.state_dict())
    bl.attach_sparseout(bl.attach_bridgeout(model, 0.3, 1.0), 0.3, 1.0)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert sorted(bl.detach_sparseout(bl.detach_bridgeout(model)).state_dict()) == sorted(keys)


def test_the_nonlinearities_of_smallcnn_are_named():
    model = bl.build_model("smallcnn")
    assert [n for n, m in model.named_modules() if isinstance(m, nn.ReLU)] == [f"relu{k}" for k in range(1, 6)]
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 4


def test_the_seed_makes_the_model():
    with torch.random.fork_rng(devices=[]):
        states = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            states.append(bl.build_model("smallcnn").state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


def test_without_batchnorm_the_signal_keeps_its_scale():
    """What smallcnn-plain initialises for: the last hidden layer is within a factor 3 of the input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = bl.build_model("smallcnn-plain")
        x = torch.randn(64, 3, 32, 32)
    last = bl.sparsity.record_activations(model, x)["relu5"]["rms"]
    assert 1 / 3 < last < 3


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ValueError, match=r"unknown model 'smalcnn'; known: smallcnn, .*; did you mean 'smallcnn'\?"):
        bl.build_model("smalcnn")
    for name in ("transformer", "", None, 3):
        with pytest.raises(ValueError, match=r"unknown model .*; known: smallcnn") as error:
            bl.build_model(name)
        assert "did you mean" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0},
        {"width": -1.0},
        {"width": math.nan},
        {"num_classes": 0},
        {"num_classes": -3},
        {"in_channels": 0},
    ],
)
def test_bad_sizes(options):
    ((name, value),) = options.items()
    with pytest.raises(
        ValueError, match=r"width must be finite and > 0, num_classes and in_channels >= 1; got"
    ) as error:
        bl.build_model("smallcnn", **options)
    assert f"{name}={value}" in str(error.value)


def test_infinite_width():
    with pytest.raises(ValueError, match="width"):
        bl.build_model("smallcnn", width=math.inf)
