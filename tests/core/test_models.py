"""The networks: sizes, shapes, and errors that help."""

import copy
import itertools
import math

import pytest
import torch
from refusals import refused
from torch import Tensor, nn

import bridgeout_lite as bl
from bridgeout_lite.channels import channel_groups
from bridgeout_lite.models import MODELS, ResidualBlock, Shortcut, WideBlock, family, tied

STUDY = [name for name in MODELS if not name.startswith(("smallcnn", "airnet"))]  # the networks of the pruning study
RESIDUAL = [name for name in STUDY if not name.startswith("vgg")]


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


def convolution(before: int, after: int, kernel: int = 3) -> int:
    return (kernel * kernel * before + 1) * after


def vgg_parameters(stages: list[list[int]], width: float, classes: int, colours: int) -> int:
    channels = [colours] + [max(1, round(width * c)) for stage in stages for c in stage]
    hidden = sum(convolution(a, b) + 2 * b for a, b in itertools.pairwise(channels))
    return hidden + (channels[-1] + 1) * classes


def residual_parameters(widths: list[int], blocks: tuple[int, int, int], classes: int, colours: int, wide: bool) -> int:
    """A stem, three stages of two-convolution blocks, a linear layer. A BatchNorm has two numbers a channel."""
    stem, before = widths[0], widths[0]
    total = convolution(colours, stem) + 2 * (widths[3] if wide else stem)
    for stage, (after, count) in enumerate(zip(widths[1:], blocks, strict=True)):
        for block in range(count):
            total += convolution(before, after) + convolution(after, after)
            total += 2 * (before + after if wide else 2 * after)
            if before != after or (block == 0 and stage > 0):
                total += convolution(before, after, kernel=1) + (0 if wide else 2 * after)
            before = after
    return total + (before + 1) * classes


VGG11 = [[64], [128], [256, 256], [512, 512], [512, 512]]
VGG16 = [[64, 64], [128, 128], [256] * 3, [512] * 3, [512] * 3]


def study_parameters(name: str, width: float = 1.0, classes: int = 10, colours: int = 3) -> int:
    if name.startswith("vgg"):
        return vgg_parameters({"vgg11": VGG11, "vgg16": VGG16}[name], width, classes, colours)
    if name.startswith("resnet"):
        widths, blocks, wide = (16, 16, 32, 64), {"resnet14": (2, 2, 2), "resnet34c": (3, 4, 6)}[name], False
    else:
        depth, factor = map(int, name.split("-")[1:])
        widths, blocks, wide = (16, 16 * factor, 32 * factor, 64 * factor), ((depth - 4) // 6,) * 3, True
    widths = [max(1, round(width * c)) for c in widths]
    return residual_parameters(widths, blocks, classes, colours, wide)


@pytest.mark.parametrize("name", STUDY)
@pytest.mark.parametrize("options", [{}, {"num_classes": 100}, {"width": 0.3}, {"width": 1e-6}, {"in_channels": 1}])
def test_the_networks_of_the_study_have_their_parameters(name, options):
    with torch.device("meta"):
        model = bl.build_model(name, **options)
    renamed = {"num_classes": "classes", "in_channels": "colours"}
    assert count(model) == study_parameters(name, **{renamed.get(k, k): v for k, v in options.items()})


def test_published_parameter_counts():
    """In millions, at 10 classes: the pruning study's 14.73 and about 0.51, and the 36.5 of the Wide-ResNet paper.
    VGG-16's needs the biases of the convolutions: without them it is 14.72."""
    millions = {}
    with torch.device("meta"):
        for name in STUDY:
            millions[name] = count(bl.build_model(name)) / 1e6
        assert count(bl.build_model("vgg16", width=1)) == 14_728_266
        assert count(bl.build_model("resnet34c")) == 514_218
    assert round(millions["vgg16"], 2) == 14.73
    assert round(millions["resnet34c"], 2) == 0.51
    assert round(millions["wrn-28-10"], 1) == 36.5
    assert round(millions["wrn-16-4"], 2) == 2.75 and round(millions["vgg11"], 2) == 9.23


@pytest.mark.parametrize(
    "name,convolutions",
    [("vgg11", 8), ("vgg16", 13), ("resnet34c", 27), ("wrn-10-2", 7), ("wrn-16-2", 13), ("wrn-16-4", 13)]
    + [("wrn-28-10", 25)],
)
def test_the_number_of_3x3_convolutions(name, convolutions):
    with torch.device("meta"):
        model = bl.build_model(name)
    kernels = [m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((3, 3)) == convolutions
    assert set(kernels) <= {(3, 3), (1, 1)}


@pytest.mark.parametrize("name,sizes", [("vgg16", [32, 16, 8, 4, 2]), ("vgg11", [32, 16, 8, 4, 2])])
def test_vgg_halves_the_image_after_each_stage(name, sizes):
    model = bl.build_model(name, width=0.05)
    shapes = bl.modules.capture_activations(model, torch.randn(1, 3, 32, 32), where=lambda n, m: "relu" in n)
    stages = {"vgg11": VGG11, "vgg16": VGG16}[name]
    assert [out.shape[-1] for out in shapes.values()] == [
        n for n, stage in zip(sizes, stages, strict=True) for _ in stage
    ]


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_networks_halve_the_image_twice(name):
    model = bl.build_model(name, width=0.1)
    stages = bl.modules.capture_activations(
        model, torch.randn(1, 3, 32, 32), where=lambda n, m: n in ("stage1", "stage2", "stage3")
    )
    assert [tuple(out.shape[-2:]) for out in stages.values()] == [(32, 32), (16, 16), (8, 8)]


def perturbed(module: nn.Module) -> nn.Module:
    """Running statistics, scales and shifts away from their initial 0 and 1, in evaluation mode."""
    draws = torch.Generator().manual_seed(5)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.rand(tensor.shape, generator=draws)
    return module.eval()


def normalise(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (x - norm.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


@pytest.mark.parametrize("before,after,stride", [(4, 4, 1), (4, 6, 1), (4, 4, 2), (4, 8, 2)])
@torch.no_grad()
def test_blocks_compute_what_they_say(before, after, stride):
    def conv(layer: nn.Conv2d, x: Tensor, step: int = 1) -> Tensor:
        return nn.functional.conv2d(x, layer.weight, layer.bias, step, padding=layer.kernel_size[0] // 2)

    x = torch.randn(2, before, 8, 8)
    changes = before != after or stride != 1
    block = perturbed(ResidualBlock(before, after, stride))
    inner = normalise(block.norm1, conv(block.conv1, x, stride)).relu()
    around = normalise(block.shortcut.norm, conv(block.shortcut.conv, x, stride)) if changes else x
    torch.testing.assert_close(block(x), (normalise(block.norm2, conv(block.conv2, inner)) + around).relu())
    block = perturbed(WideBlock(before, after, stride))
    inner = normalise(block.norm2, conv(block.conv1, normalise(block.norm1, x).relu(), stride)).relu()
    around = conv(block.shortcut, x, stride) if changes else x
    torch.testing.assert_close(block(x), conv(block.conv2, inner) + around)


@pytest.mark.parametrize("name", RESIDUAL)
@torch.no_grad()
def test_the_inner_convolution_of_a_block_stands_alone(name):
    """Silencing a filter of conv1 changes nothing but what conv2 of the same block reads."""
    model = perturbed(bl.build_model(name, width=0.1))
    blocks = [m for m in model.modules() if isinstance(m, ResidualBlock | WideBlock)]
    inner = [n for n, m in model.named_modules() if n.endswith(".conv1")]
    assert len(inner) == len(blocks)
    x = torch.randn(2, 3, 32, 32)
    block = blocks[-1]
    norm = block.norm1 if isinstance(block, ResidualBlock) else block.norm2
    norm.weight[0] = norm.bias[0] = 0
    expected = model(x)
    block.conv1.weight[0] += 1
    torch.testing.assert_close(model(x), expected)
    block.conv2.weight[:, 0] += 1
    torch.testing.assert_close(model(x), expected)
    block.conv2.weight[0] += 1
    assert not torch.allclose(model(x), expected)


@pytest.mark.parametrize("name", MODELS)
def test_tied_channels_are_those_that_tracing_finds(name):
    model = bl.build_model(name, width=1 / 16)
    convs = {layer for layer, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    writers = [convs & set(group.writers) for group in channel_groups(model, torch.zeros(1, 3, 32, 32))]
    assert tied(name) == {layer for group in writers if len(group) > 1 for layer in group}
    assert bool(tied(name)) == (family(name) in ("resnet", "wide_resnet"))


def test_a_family_is_what_the_builder_is_called():
    families = {name: family(name) for name in MODELS}
    assert families["vgg11"] == families["vgg16"] == "vgg" and families["wrn-10-2"] == "wide_resnet"
    assert set(families.values()) == {"smallcnn", "vgg", "resnet", "wide_resnet", "airnet"}
    for ask in (family, tied):
        with pytest.raises(ValueError, match=r"name must be one of .*'vgg16'.*, got 'vgg12'"):
            ask("vgg12")


@pytest.mark.parametrize("name", STUDY)
def test_convolutions_start_as_in_the_study(name):
    """Xavier-uniform with gain sqrt 2: within sqrt 2 sqrt(6 / (fan in + fan out)) and reaching 90 % of it; no bias."""
    for layer in bl.build_model(name, width=0.25).modules():
        if isinstance(layer, nn.Conv2d):
            fans = layer.kernel_size[0] ** 2 * (layer.in_channels + layer.out_channels)
            bound = math.sqrt(12 / fans)
            assert layer.weight.abs().max() <= bound
            assert layer.weight.numel() < 200 or layer.weight.abs().max() > 0.9 * bound
            assert (layer.bias == 0).all()


@pytest.mark.parametrize("name", STUDY)
def test_names_of_the_modules(name):
    model = bl.build_model(name, width=0.05)
    nonlinear = [n for n, m in model.named_modules() if isinstance(m, nn.ReLU)]
    if name.startswith("vgg"):
        number = len(nonlinear)
        assert nonlinear == [f"relu{k}" for k in range(1, number + 1)]
        assert all(isinstance(model.get_submodule(f"conv{k}"), nn.Conv2d) for k in range(1, number + 1))
        assert all(isinstance(model.get_submodule(f"norm{k}"), nn.BatchNorm2d) for k in range(1, number + 1))
    else:
        places = [n for n, m in model.named_modules() if isinstance(m, ResidualBlock | WideBlock)]
        assert {n.rpartition(".")[0] for n in places} == {"stage1", "stage2", "stage3"}
        assert sorted(nonlinear) == sorted(["relu"] + [f"{n}.relu{k}" for n in places for k in (1, 2)])
    assert list(bl.sparsity.record_activations(model, torch.randn(2, 3, 32, 32))) == sorted(
        nonlinear, key=nonlinear.index if name != "resnet34c" else lambda n: nonlinear.index(n)
    )
    assert isinstance(model.get_submodule("classifier"), nn.Linear)


@pytest.mark.parametrize(
    "name,where,places",
    [
        ("vgg16", None, 13),
        ("resnet34c", lambda name, module: name.endswith(("relu1", "norm2")), 26),
        ("wrn-28-10", lambda name, module: name.endswith("conv1"), 12),
        ("wrn-16-4", lambda name, module: name.endswith("conv1"), 6),
    ],
)
def test_dropout_goes_where_the_study_has_it(name, where, places):
    """Behind each ReLU of VGG; behind the first ReLU and, before the sum, the second BatchNorm of a ResNet block;
    behind the first convolution of a Wide-ResNet block."""
    model = bl.attach_sparseout(bl.build_model(name, width=0.05), 0.3, 2.0, where=where)
    assert sum(isinstance(m, bl.Sparseout) for m in model.modules()) == places
    model(torch.randn(2, 3, 32, 32)).sum().backward()


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_is_independent(name):
    model = bl.build_model(name, width=0.05)
    twin = copy.deepcopy(model)
    assert list(twin.state_dict()) == list(model.state_dict())
    twin(torch.randn(2, 3, 32, 32)).sum().backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1
    assert all(p.grad is None for p in model.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    model.load_state_dict(twin.state_dict())


WIDTHS = {"wrn-28-10": 0.03, "vgg16": 0.1}  # the large ones, narrow enough to be quick


@pytest.mark.parametrize("name", MODELS)
def test_every_model_runs_and_learns(name):
    model = bl.build_model(name, width=WIDTHS.get(name, 0.25), num_classes=5, in_channels=2)
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
    model = bl.build_model(name, width=WIDTHS.get(name, 0.25))
    assert not any(isinstance(m, bl.Sparseout | bl.Bridgeout | nn.Dropout) for m in model.modules())
    keys = list(model.state_dict())
    bl.attach_sparseout(bl.attach_bridgeout(model, 0.3, 1.0), 0.3, 1.0)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert sorted(bl.detach_sparseout(bl.detach_bridgeout(model)).state_dict()) == sorted(keys)


def test_the_nonlinearities_of_smallcnn_are_named():
    model = bl.build_model("smallcnn")
    assert [n for n, m in model.named_modules() if isinstance(m, nn.ReLU)] == [f"relu{k}" for k in range(1, 6)]
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 4


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_makes_the_model(name):
    with torch.random.fork_rng(devices=[]):
        states = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            states.append(bl.build_model(name, width=0.1).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    drawn = [k for k in states[0] if states[0][k].dim() > 1][
        -1
    ]  # the first layer of "airnet" whitens: no seed draws it
    assert not torch.equal(states[0][drawn], states[2][drawn])


def test_without_batchnorm_the_signal_keeps_its_scale():
    """What smallcnn-plain initialises for: the last hidden layer is within a factor 3 of the input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = bl.build_model("smallcnn-plain")
        x = torch.randn(64, 3, 32, 32)
    last = bl.sparsity.record_activations(model, x)["relu5"]["rms"]
    assert 1 / 3 < last < 3


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(
        ValueError, match=r"name must be one of 'smallcnn', .*, got 'smalcnn'; did you mean 'smallcnn'\?"
    ):
        bl.build_model("smalcnn")
    for given, meant in (
        ("vgg", "vgg16"),
        ("resnet34", "resnet34c"),
        ("wrn-28-1", "wrn-28-10"),
        ("WRN-16-4", "wrn-16-4"),
    ):
        with pytest.raises(ValueError, match=rf"did you mean '{meant}'\?"):
            bl.build_model(given)
    for name in ("transformer", "", None, 3):
        assert "did you mean" not in refused(lambda: bl.build_model(name), "name must be one of 'smallcnn'")  # noqa: B023


@pytest.mark.parametrize(
    "argument, bad",
    [
        *[("width", bad) for bad in (0, -1.0, math.nan, math.inf, "wide", None)],
        *[(name, bad) for name in ("num_classes", "in_channels") for bad in (0, -3, 1.5)],
    ],
)
def test_bad_sizes(argument, bad):
    refused(lambda: bl.build_model("smallcnn", **{argument: bad}), f"{argument} must be a", f"got {bad!r}")


def test_a_shortcut_is_the_convolution_with_its_stride():
    """Its own subsampling keeps narrow networks away from a kernel that crashes (see Shortcut)."""
    x = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shortcut = Shortcut(4, 6, 1, 2).double()
    x.requires_grad_()
    grads = []
    for out in (shortcut(x), torch.nn.functional.conv2d(x, shortcut.weight, shortcut.bias, 2)):
        grads.append([out.detach(), *torch.autograd.grad(out.square().sum(), (x, shortcut.weight, shortcut.bias))])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)
