"""Pruning: the published protocol to the letter, silencing that equals removal, and nothing left half-changed."""

import contextlib
import copy
import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from torch import nn

import bridgeout_lite as bl
from bridgeout_lite import pruning
from bridgeout_lite.channels import apply_masks
from bridgeout_lite.models import MODELS, tied
from bridgeout_lite.pruning import CRITERIA, curve, prune, recalibrate_batchnorm, remove_filters
from bridgeout_lite.sparsity import filter_norms

# The whole zoo but for the largest, whose parts are those of its small sister.
# airnet needs images before it says anything: test_few_images prunes it
NAMES = [name for name in MODELS if name not in ("wrn-28-10", "airnet")]
RESIDUAL = [name for name in NAMES if name.startswith(("resnet", "wrn"))]
IMAGE = torch.zeros(1, 3, 32, 32)
QUICK = bl.Recipe(epochs=1, batch_size=64, lr=0.05, precision="float32")


def spread(model, seed=0):
    """Weights, biases, scales, shifts and statistics as training leaves them: none of them 0 or 1."""
    draws = torch.Generator().manual_seed(seed)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.dim() == 4 and (value == 0).any():  # airnet's convolutions start as the identity
            value.data += torch.empty(value.shape).uniform_(-0.1, 0.1, generator=draws)
        if value.dim() == 1:
            low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-1.0, 1.0)
            value.data.uniform_(low, high, generator=draws)
    return model


def build(name, width=0.125, seed=0):
    torch.manual_seed(seed)
    return spread(bl.build_model(name, width=width)).eval()


def images_like(batch=4, seed=1):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def convolutions(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def zeroed(conv):
    """The filters of a convolution whose weights are all zero."""
    return set((filter_norms(conv.weight) == 0).nonzero().flatten().tolist())


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def one_line(error):
    message = str(error.value)
    assert message and "\n" not in message
    return message


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


# --- which filters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
def test_published_protocol(name, amount):
    """Per layer the int(O * amount) filters with the smallest L2 norm; biases, BatchNorm and the rest stay."""
    model = build(name, width=0.25)
    expected = state(model)
    for layer, conv in convolutions(model).items():
        norms = np.sqrt((conv.weight.detach().double().numpy() ** 2).sum((1, 2, 3)))
        expected[f"{layer}.weight"][np.argsort(norms)[: int(len(norms) * amount)]] = 0
    assert prune(model, amount) is model
    found = {}
    for key, value in model.state_dict().items():
        if not key.endswith("_mask"):
            masked = key.endswith("weight_orig")
            found[key.removesuffix("_orig")] = (
                value * model.state_dict()[key.removesuffix("orig") + "mask"] if masked else value
            )
    assert same(dict(sorted(found.items())), dict(sorted(expected.items())))
    assert same(state(apply_masks(model)), expected)  # the same keys in the same order, too


def test_the_number_of_filters_is_rounded_down():
    model = build("resnet34c", width=1)
    prune(model, 0.1)
    assert len(zeroed(model.conv)) == 1 and len(zeroed(model.stage3[0].conv1)) == 6  # of 16 and of 64


@pytest.fixture
def known():
    """Four filters of two weights, with the BatchNorm behind them: each criterion has another opinion."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
    ).eval()
    pairs = [[3.0, 3.0], [0.0, 4.5], [2.0, -2.0], [5.0, 5.0]]  # L1: 6, 4.5, 4, 10; L2: 4.2, 4.5, 2.8, 7.1
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(pairs).view(4, 2, 1, 1))
        model[1].weight.copy_(torch.tensor([-0.5, 2.0, -3.0, 0.1]))
        model[1].running_var.copy_(torch.tensor([100.0, 1.0, 1.0, 0.0001]))
    return model


@pytest.mark.parametrize(
    "criterion,order", [("l1", [2, 1, 0, 3]), ("l2", [2, 0, 1, 3]), ("bn", [3, 0, 1, 2]), ("folded", [0, 2, 1, 3])]
)
@pytest.mark.parametrize("silence", [False, True])
def test_criteria(known, criterion, order, silence):
    """Folded: 4.2 * 0.5 / 10, 4.5 * 2, 2.8 * 3, 7.1 * 0.1 / sqrt(1.1e-4)."""
    for k in (1, 2, 3):
        model = copy.deepcopy(known)
        prune(model, k / 4, criterion=criterion, silence=silence, example_input=torch.zeros(1, 2, 3, 3))
        assert zeroed(model[0]) == set(order[:k])


@pytest.mark.parametrize("name", ["vgg11", "resnet34c", "wrn-10-2", "airnet"])
@pytest.mark.parametrize("silence", [False, True])
def test_a_criterion_may_be_a_function(name, silence):
    """Here one that says again what the built-in ones say, and one that turns it round."""

    def l1(conv, norms):
        return conv.weight.abs().sum((1, 2, 3))

    options = {"silence": silence, "example_input": IMAGE, "amount": 0.5}
    ours, built_in = prune(build(name), criterion=l1, **options), prune(build(name), criterion="l1", **options)
    assert same(state(apply_masks(ours)), state(apply_masks(built_in)))
    other = prune(build(name), criterion=lambda conv, norms: -l1(conv, norms), **options)
    assert not same(state(apply_masks(other)), state(built_in))


@pytest.mark.parametrize("name", ["smallcnn", "resnet14"])
def test_a_criterion_may_be_an_importance_of_torch_pruning(name):
    """One that says again what "l2" says of filters that stand alone; one that reads gradients; one that cannot."""
    importance = pytest.importorskip("torch_pruning").importance
    norm = importance.GroupMagnitudeImportance(p=2, group_reduction="first", normalizer=None)
    alone = [n for n in convolutions(build(name)) if n not in tied(name)]
    for options in ({}, {"silence": True, "example_input": IMAGE}):
        ours, built_in = prune(build(name), 0.5, criterion=norm, **options), prune(build(name), 0.5, **options)
        for layer in alone:
            assert zeroed(ours.get_submodule(layer)) == zeroed(built_in.get_submodule(layer))
    model = build(name)
    before = state(model)
    refused(lambda: prune(model, 0.5, criterion=norm, granularity="weight"), "GroupMagnitudeImportance", "filter")
    refused(lambda: prune(model, 0.5, criterion=importance.GroupTaylorImportance()), "GroupTaylorImportance", "conv")
    assert same(state(model), before)
    model(images_like()).sum().backward()
    small = remove_filters(model, 0.5, IMAGE, criterion=importance.GroupTaylorImportance())
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())


def test_a_function_sees_the_model_itself_and_the_norms_behind():
    model, seen = build("resnet14"), {}
    model(images_like()).sum().backward()

    def taylor(conv, norms):
        seen[conv] = norms
        return (conv.weight * conv.weight.grad).sum((1, 2, 3)).abs()

    expected = {name: (c.weight * c.weight.grad).sum((1, 2, 3)).abs() for name, c in convolutions(model).items()}
    pruned = prune(model, 0.25, criterion=taylor)
    assert pruned is model and list(seen) == list(convolutions(model).values())
    for name, conv in convolutions(model).items():
        assert zeroed(conv) == set(expected[name].argsort()[: conv.out_channels // 4].tolist())
    assert seen[model.stage1[0].conv1] == [model.stage1[0].norm1]
    weights = prune(build("smallcnn"), 0.5, granularity="weight", criterion=lambda conv, norms: conv.weight.abs())
    assert same(state(weights), state(prune(build("smallcnn"), 0.5, granularity="weight")))
    cut = remove_filters(build("smallcnn"), 0.5, IMAGE, criterion=lambda conv, norms: norms[0].weight)
    assert same(state(cut), state(remove_filters(build("smallcnn"), 0.5, IMAGE, criterion="bn")))


@pytest.mark.parametrize(
    "scores, got", [(torch.ones(3), "(3,)"), ([1.0], "list"), (torch.full((2,), math.nan), "(2,)"), (None, "NoneType")]
)
def test_a_function_that_gives_no_scores(scores, got):
    model = build("smallcnn")
    before = state(model)
    with pytest.raises(ValueError) as error:
        prune(model, 0.5, criterion=lambda conv, norms: scores)
    assert one_line(error) == f"criterion must give 'conv1' finite scores of shape (2,), got {got}"
    assert same(state(model), before)


def test_random_picks_are_those_of_the_generator():
    picks = []
    for seed in (0, 0, 1):
        model = prune(build("vgg11"), 0.5, criterion="random", generator=draws(seed))
        picks.append([zeroed(conv) for conv in convolutions(model).values()])
    assert picks[0] == picks[1] != picks[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        free = prune(build("vgg11", seed=0), 0.5, criterion="random")
        torch.manual_seed(0)
        build("vgg11", seed=0)
        again = prune(build("vgg11", seed=0), 0.5, criterion="random")
    assert same(state(free), state(again))  # torch's global generator otherwise


def test_random_picks_are_uniform():
    """300 draws of 2 filters out of 6, so 100 each with a standard deviation of sqrt(300 * 2/9) = 8.2; a deviation of 6
    of these, 49, has a probability below 6 * 2e-9."""
    conv, generator = nn.Conv2d(1, 6, 1), draws()
    counts = np.zeros(6)
    for _ in range(300):
        counts[
            list(zeroed(prune(nn.Sequential(copy.deepcopy(conv)), 2 / 6, criterion="random", generator=generator)[0]))
        ] += 1
    assert counts.sum() == 600 and np.abs(counts - 100).max() < 49


@pytest.mark.parametrize("name", ["vgg11", "resnet34c"])
@pytest.mark.parametrize("criterion", ["l1", "l2", "folded"])
def test_global_ranking_does_not_see_the_scale_of_a_layer(name, criterion):
    """A factor on the weights that the BatchNorm behind them takes out again does not change the picks."""
    model, scaled, factor = build(name), build(name), 1000.0
    conv = next(m for m in scaled.modules() if isinstance(m, nn.Conv2d))
    norm = next(m for m in scaled.modules() if isinstance(m, nn.BatchNorm2d))
    conv.weight.data *= factor
    norm.running_var.mul_(factor**2).add_(norm.eps * (factor**2 - 1))
    picks = []
    for m in (model, scaled):
        prune(m, 0.5, criterion=criterion, scope="global")
        picks.append([zeroed(conv) for conv in convolutions(m).values()])
    assert picks[0] == picks[1]


@pytest.mark.parametrize("silence", [False, True])
def test_global_ranking_picks_the_share_of_all_filters(silence):
    model = prune(build("vgg16"), 0.4, scope="global", silence=silence)
    shares = [len(zeroed(conv)) / conv.out_channels for conv in convolutions(model).values()]
    total = sum(conv.out_channels for conv in convolutions(model).values())
    assert sum(len(zeroed(conv)) for conv in convolutions(model).values()) == int(0.4 * total)
    assert len(set(shares)) > 3


@pytest.mark.parametrize("name", [name for name in NAMES if name != "smallcnn-plain"])  # the others have BatchNorm
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_layer_never_loses_its_last_filter(name, criterion):
    model = build(name)
    for conv in list(convolutions(model).values())[1::2]:
        conv.weight.data *= 1e-20  # what weight decay does to a layer that nothing needs
    for silence in (False, True):
        options = {"criterion": criterion, "scope": "global", "silence": silence, "generator": draws()}
        pruned = prune(copy.deepcopy(model), 0.99, **options)
        assert all(len(zeroed(conv)) < conv.out_channels for conv in convolutions(pruned).values())


@pytest.mark.parametrize("silence", [False, True])
def test_weights_whose_squares_vanish_are_still_ranked(silence):
    """Weight decay drives the filters that nothing needs towards zero without end."""
    model, tiny = build("vgg11"), build("vgg11")
    tiny.conv3.weight.data *= 1e-30
    for m in (model, tiny):
        prune(m, 0.5, silence=silence)
    assert torch.equal(tiny.conv3.weight_mask, model.conv3.weight_mask)


def test_pruning_again_counts_what_is_gone():
    once, twice = build("vgg11"), build("vgg11")
    prune(once, 0.6)
    prune(prune(twice, 0.3), 0.6)
    assert same(state(apply_masks(once)), state(apply_masks(twice)))


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["layer", "filter", "global"])
@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_weights(scope, criterion):
    model = build("smallcnn")
    plain = {name: conv.weight.detach().clone() for name, conv in convolutions(model).items()}
    prune(model, 0.7, granularity="weight", scope=scope, criterion=criterion)
    if scope == "global":
        pool = torch.cat([(w / w.square().mean().sqrt()).abs().flatten() for w in plain.values()])
        limit = pool.sort().values[int(0.7 * len(pool))]
    for name, conv in convolutions(model).items():
        w = plain[name].double()
        if scope == "layer":
            gone = w.abs() < w.abs().flatten().sort().values[int(w.numel() * 0.7)]
        elif scope == "filter":  # the published way
            kth = w.abs().flatten(1).sort(1).values[:, int(w[0].numel() * 0.7)]
            gone = w.abs() < kth.view(-1, 1, 1, 1)
        else:
            gone = (plain[name] / plain[name].square().mean().sqrt()).abs() < limit * (1 - 1e-6)
        assert torch.equal(conv.weight == 0, gone)


def test_folded_and_random_weights(known):
    folded = prune(
        copy.deepcopy(known), 0.5, granularity="weight", criterion="folded", example_input=torch.zeros(1, 2, 3, 3)
    )
    # |w| gamma / sigma: 0.15 0.15, 0 9, 6 6, 47 47
    assert (folded[0].weight == 0).view(4, 2).tolist() == [[True, True], [True, False], [True, False], [False, False]]
    random = [
        prune(copy.deepcopy(known), 0.5, granularity="weight", criterion="random", generator=draws(s))
        for s in (0, 0, 1)
    ]
    gone = [model[0].weight == 0 for model in random]
    assert torch.equal(gone[0], gone[1]) and not torch.equal(gone[0], gone[2])


def test_a_layer_keeps_its_last_weight():
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.Conv2d(1, 8, 3))
    for scope in ("layer", "global", "filter"):
        pruned = prune(copy.deepcopy(model), 0.999, granularity="weight", scope=scope)
        assert all((m.weight != 0).any() for m in pruned)


# --- silenced and removed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
def test_filters_that_stand_alone_are_picked_alike(criterion):
    """All of VGG; the inner convolution of each block."""
    for name in ("vgg16", *RESIDUAL):
        options = {"criterion": criterion}
        zero = prune(build(name), 0.5, **options, generator=draws())
        silent = prune(build(name), 0.5, **options, generator=draws(), silence=True)
        for layer, conv in convolutions(zero).items():
            if name == "vgg16" or layer.endswith("conv1"):
                assert zeroed(conv) == zeroed(silent.get_submodule(layer)) != set(), (name, layer)


def test_silencing_masks_all_that_serves_the_channel():
    model = prune(build("vgg11"), 0.5, silence=True)
    for number in range(1, 9):
        conv, norm = model.get_submodule(f"conv{number}"), model.get_submodule(f"norm{number}")
        gone = zeroed(conv)
        assert len(gone) == conv.out_channels // 2
        reader = model.get_submodule(f"conv{number + 1}" if number < 8 else "classifier")
        for k in range(conv.out_channels):
            numbers = (conv.bias[k], norm.weight[k], norm.bias[k], reader.weight[:, k].abs().sum())
            assert [float(n) == 0 for n in numbers] == [k in gone] * 4
    out = bl.modules.capture_activations(model, images_like())
    assert all(
        not out[f"relu{number}"][:, sorted(zeroed(model.get_submodule(f"conv{number}")))].any()
        for number in range(1, 9)
    )


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn", "folded"])
def test_channels_tied_by_additions_are_ranked_as_one(criterion):
    """The first stage of the residual network: its stem and the second convolutions of its three blocks."""
    model = build("resnet34c", width=0.5)
    stage = [(model.conv, model.norm), *((block.conv2, block.norm2) for block in model.stage1)]
    scores = torch.zeros(model.conv.out_channels, dtype=torch.float64)
    for conv, norm in stage:
        w = conv.weight.detach().double().flatten(1)
        fold = norm.weight.abs() / (norm.running_var + norm.eps).sqrt()
        each = {"l1": w.abs().sum(1), "l2": w.norm(dim=1), "bn": norm.weight.abs(), "folded": w.norm(dim=1) * fold}
        scores += each[criterion] if criterion == "l1" else each[criterion].square()
    expected = set(scores.argsort()[:4].tolist())
    prune(model, 0.5, criterion=criterion, silence=True)
    assert all(zeroed(conv) == expected for conv, _ in stage)
    assert all(set((norm.weight == 0).nonzero().flatten().tolist()) == expected for _, norm in stage)


def test_a_preactivation_network_has_its_scales_behind_the_addition():
    """Wide-ResNet: the stream of a stage is normalised where the next blocks read it."""
    model = build("wrn-16-2", width=0.5)
    first, second = (norm.weight.detach().double().square() for norm in (model.stage1[1].norm1, model.stage2[0].norm1))
    # block 0 and the shortcut reach both (the mean of the two), block 1 the second alone
    scale = (first + second) / 2 + (first + second) / 2 + second
    expected = set(scale.argsort()[: len(scale) // 2].tolist())
    prune(model, 0.5, criterion="bn", silence=True)
    assert zeroed(model.stage1[0].conv2) == zeroed(model.stage1[1].conv2) == expected
    assert zeroed(model.stage1[0].shortcut) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
def test_the_removed_network_is_the_silenced_one(name, scope, amount):
    x, model = images_like(), build(name)
    before = state(model)
    small = remove_filters(model, amount, x, scope=scope)
    assert same(state(model), before) and small is not model
    silent = prune(model, amount, scope=scope, silence=True)
    assert (small(x) - silent(x)).abs().max() <= 1e-4
    apply_masks(silent)
    # every number that is cut is masked, and no other
    parameters, macs = bl.cost.count(small, IMAGE)
    assert parameters == sum(int(p.count_nonzero()) for p in silent.parameters())
    assert macs < bl.cost.count(silent, IMAGE)[1] or amount == 0.1
    for layer, conv in convolutions(silent).items():
        assert small.get_submodule(layer).out_channels == conv.out_channels - len(zeroed(conv)) >= 1


@pytest.mark.parametrize("name", ["vgg11", "resnet34c", "wrn-10-2"])
def test_they_also_train_alike(name):
    """Same outputs with batch statistics, same gradients where a number stays."""
    x, model = images_like(8), build(name).train()
    small, silent = remove_filters(model, 0.5, x), prune(model, 0.5, silence=True)
    outputs = [m(x) for m in (small, silent)]
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)
    for out in outputs:
        out.square().mean().backward()
    layer = small.get_submodule("classifier").weight.grad
    wide = silent.get_submodule("classifier").weight_orig.grad
    torch.testing.assert_close(layer, wide[:, wide.abs().sum(0) > 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RESIDUAL)
def test_sums_stay_consistent(name):
    small = remove_filters(build(name), 0.5, IMAGE, criterion="random", generator=draws())
    for stage in ("stage1", "stage2", "stage3"):
        blocks = small.get_submodule(stage)
        widths = {block.conv2.out_channels for block in blocks} | {block.conv1.in_channels for block in blocks[1:]}
        assert len(widths) == 1
    assert small(images_like()).shape == (4, 10)


class Net(nn.Module):
    """Two convolutions a and b and a reader; what lies between them is said by ``kind``."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.norm_a = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups={"depthwise": 8, "grouped": 4}.get(kind, 1))
        self.norm_b = nn.GroupNorm(2, 8) if kind == "groupnorm" else nn.BatchNorm2d(8)
        self.reader = nn.Conv2d({"concatenation": 16, "chunks": 4, "slices": 4}.get(kind, 8), 6, 1)
        self.classifier = nn.Linear(6, 5)
        self.squeeze = nn.Linear(8, 8) if kind == "squeeze" else None
        self.prelu = nn.PReLU(8) if kind == "prelu" else None
        self.factor = nn.Parameter(torch.rand(1, 8, 1, 1)) if kind == "parameter" else None
        self.gate = nn.Conv2d(8, 1, 1) if kind == "gate" else None
        self.last = nn.Linear(32, 5) if kind == "channels last" else None

    def forward(self, x):
        kind, a = self.kind, self.norm_a(self.a(x))
        a = torch.sigmoid(a) if kind == "sigmoid" else self.prelu(a) if kind == "prelu" else a.relu()
        b = self.norm_b(self.b(a)).relu()
        if kind == "twice":
            b = self.norm_b(self.b(b)).relu()
        if kind == "addition":
            b = b + a
        if kind == "concatenation":
            b = torch.cat([a, b], 1)
        if kind == "squeeze":
            b = b * torch.sigmoid(self.squeeze(b.mean((2, 3))))[:, :, None, None]
        if kind == "parameter":
            b = b * self.factor
        if kind == "softmax":
            b = 10 * b.softmax(1)
        if kind == "functional":
            b = F.group_norm(b, 2)
        if kind == "chunks":
            b = torch.mul(*b.chunk(2, 1))
        if kind == "slices":
            b = b[:, :4] * b[:, 4:]
        if kind == "shuffle":
            b = b.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        if kind == "roll":
            b = b.roll(1, 1)
        if kind == "gate":
            b = b * self.gate(b).sigmoid()
        if kind == "channels last":
            return self.last(F.adaptive_avg_pool2d(b, 2).permute(0, 2, 3, 1).flatten(1))
        return self.classifier(self.reader(b).relu().mean((2, 3)))


@pytest.mark.parametrize(
    "kind", ["plain", "depthwise", "addition", "concatenation", "squeeze", "sigmoid", "prelu", "twice"]
)
def test_other_networks_work(kind):
    """A depthwise convolution goes with its channel; a sigmoid turns silence into 0.5, which nobody reads."""
    torch.manual_seed(0)
    x, model = images_like(), spread(Net(kind)).eval()
    small, silent = remove_filters(model, 0.5, x), prune(copy.deepcopy(model), 0.5, silence=True, example_input=x)
    assert (small(x) - silent(x)).abs().max() <= 1e-4 < (small(x) - model(x)).abs().max()
    assert small.a.out_channels == small.b.out_channels == 4 and small.reader.out_channels == 3
    if kind == "depthwise":
        assert small.b.groups == 4 and zeroed(silent.a) == zeroed(silent.b)


def test_silence_is_not_refused_for_what_a_black_image_or_a_zero_scale_hides():
    torch.manual_seed(0)
    for kind, mixes in (("addition", False), ("roll", True)):
        model = Net(kind).eval()
        nn.init.zeros_(model.norm_b.weight)
        nn.init.zeros_(model.norm_b.bias)
        with pytest.raises(ValueError, match="moves the channels") if mixes else contextlib.nullcontext():
            prune(model, 0.5, silence=True)


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_models_with_several_outputs_shrink(kind):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.one, self.two = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            h = self.b(self.a(x).relu()).relu()
            outputs = {"one": self.one(h), "two": self.two(h)}
            return outputs if kind is dict else kind(outputs.values())

    x, model = images_like(), Several()
    small, silent = remove_filters(model, 0.5, x), prune(copy.deepcopy(model), 0.5, silence=True, example_input=x)
    assert small.b.out_channels == 4 and small.two.out_channels == 4
    for a, b in zip(*(list(m(x).values()) if kind is dict else m(x) for m in (small, silent)), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_shrinks_within_its_rounding(dtype):
    model = spread(bl.build_model("resnet14", width=0.25)).to(dtype).eval()
    small = remove_filters(model, 0.3, images_like().to(dtype))
    assert bl.cost.count(small.float(), images_like())[0] < bl.cost.count(model.float(), images_like())[0]


@pytest.mark.parametrize(
    "kind,message",
    [
        ("grouped", r"'b' is a convolution of 4 groups.*prune with silence=False"),
        ("groupnorm", r"the filters of 'b' reach 'norm_b' \(GroupNorm\).*prune with silence=False"),
        ("parameter", r"the filters of 'b' reach 'a bare parameter'.*prune with silence=False"),
        ("chunks", r"the filters of 'b' are tied to each other.*prune with silence=False"),
        ("slices", r"the filters of 'b' are tied to each other.*prune with silence=False"),
        ("softmax", r"some operation that is no module mixes or moves the channels.*prune with silence=False"),
        ("functional", r"some operation that is no module mixes or moves the channels.*prune with silence=False"),
        ("shuffle", r"some operation that is no module mixes or moves the channels.*prune with silence=False"),
        ("roll", r"some operation that is no module mixes or moves the channels.*prune with silence=False"),
        ("channels last", r"some operation that is no module mixes or moves the channels.*prune with silence=False"),
        ("gate", r"the filters of 'b' are tied to 'gate', which has 1 for 8 of them.*prune with silence=False"),
    ],
)
def test_what_cannot_be_removed_is_refused_by_name(kind, message):
    torch.manual_seed(0)
    model = spread(Net(kind)).train()
    before = state(model)
    with pytest.raises(ValueError, match=message) as error:
        remove_filters(model, 0.5, images_like())
    one_line(error)
    if "silence" in message:
        with pytest.raises(ValueError, match=message):
            prune(model, 0.5, silence=True, example_input=images_like())
    assert same(state(model), before) and model.training
    prune(model, 0.5)  # the remedy
    assert len(zeroed(model.b)) == 4


def test_filters_that_are_outputs_stay():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 1), nn.Flatten())
    small = remove_filters(model, 0.5, torch.zeros(1, 3, 3, 3))
    assert small[0].out_channels == 4 and small[2].out_channels == 10
    with pytest.raises(ValueError, match="every filter of this model is an output of it"):
        remove_filters(nn.Sequential(nn.Conv2d(3, 8, 3)), 0.5, torch.zeros(1, 3, 3, 3))


def test_the_smaller_model_keeps_modes_and_frozen_parameters():
    model = build("vgg11").train()
    model.norm2.eval()
    model.conv3.weight.requires_grad_(False)
    small = remove_filters(model, 0.5, IMAGE)
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert [n for n, p in small.named_parameters() if not p.requires_grad] == ["conv3.weight"]
    assert sum(p.requires_grad for p in model.parameters()) == len(list(model.parameters())) - 1


def test_a_masked_model_can_be_cut():
    x, model = images_like(), build("vgg11")
    prune(model, 0.5, silence=True)
    small = remove_filters(model, 0.5, x)
    assert (small(x) - model(x)).abs().max() <= 1e-4
    assert list(small.state_dict()) == list(build("vgg11").state_dict())


def test_removal_under_sparseout():
    """Noise on activations is the identity in evaluation and stays attached."""
    model = bl.attach_sparseout(build("vgg11"), 0.2, 1.0)
    small = remove_filters(model, 0.5, IMAGE)
    assert sum(isinstance(m, bl.Sparseout) for m in small.modules()) == 8
    assert not torch.equal(small.train()(images_like()), small(images_like()))


# --- nothing, everything, nonsense ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_amount_zero_changes_nothing(name):
    model = build(name)
    before = state(model)
    for granularity in ("filter", "weight"):
        assert same(state(prune(model, 0, granularity=granularity)), before)
    assert same(state(prune(model, 0.0, silence=True, scope="global")), before)
    assert same(state(remove_filters(model, 0, IMAGE)), before)


@pytest.mark.parametrize("amount", [1, 1.0, -0.1, 1.5, float("nan"), float("inf"), "half", None, True, [0.5]])
def test_bad_amounts(amount, digits):
    model = build("smallcnn")
    before = state(model)
    calls = (
        lambda: prune(model, amount),
        lambda: remove_filters(model, amount, IMAGE),
        lambda: curve(model, digits, [0.1, amount]),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"amount must be a number with 0 <= amount < 1, got") as error:
            call()
        assert repr(amount) in one_line(error)
    assert same(state(model), before)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"granularity": "channel"}, "granularity must be one of 'filter', 'weight', got 'channel'"),
        ({"criterion": "l3"}, "criterion must be one of 'l1', 'l2', 'bn', 'folded', 'random', got 'l3'"),
        ({"scope": "block"}, "scope must be one of 'layer', 'global', 'filter', got 'block'"),
        ({"scope": "filter"}, "scope='filter' compares the weights of one filter.*granularity='weight'"),
        ({"granularity": "weight", "silence": True}, "silence=True is about whole filters: use granularity='filter'"),
        (
            {"granularity": "weight", "criterion": "bn"},
            "criterion='bn' is about whole filters: use granularity='filter'",
        ),
    ],
)
def test_bad_arguments(options, message, digits):
    model = build("smallcnn")
    before = state(model)
    for call in (lambda: prune(model, 0.5, **options), lambda: curve(model, digits, [0.5], **options)):
        with pytest.raises(ValueError, match=message) as error:
            call()
        one_line(error)
    assert same(state(model), before)


def calls_on(model, example=IMAGE):
    return (
        lambda: prune(model, 0.5),
        lambda: prune(model, 0.5, granularity="weight", scope="global"),
        lambda: prune(model, 0.5, silence=True, example_input=example),
        lambda: remove_filters(model, 0.5, example),
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["conv2.weight", "norm1.running_var"])
def test_weights_that_are_not_finite(key, value):
    model = build("smallcnn").train()
    model.state_dict()[key].view(-1)[0] = value
    keys = list(model.state_dict())
    for call in calls_on(model):
        with pytest.raises(ValueError, match=f"{key} holds NaN or infinity.*: load a sound checkpoint") as error:
            call()
        one_line(error)
    assert list(model.state_dict()) == keys and model.training


def test_a_model_without_convolutions():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    for call in calls_on(model):
        with pytest.raises(
            ValueError, match=r"no nn\.Conv2d, so no filters to prune: it is made of Flatten, Linear"
        ) as error:
            call()
        one_line(error)


@pytest.mark.parametrize("criterion", ["bn", "folded"])
def test_a_criterion_without_batchnorm(criterion):
    bare = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten()
    )
    for model, layer in ((build("smallcnn-plain"), "conv1"), (bare, "0")):
        before = state(model)
        message = f"criterion '{criterion}' needs a BatchNorm behind every convolution, and '{layer}' has none.*'l2'"
        for silence in (False, True):
            with pytest.raises(ValueError, match=message) as error:
                prune(model, 0.5, criterion=criterion, silence=silence)
            one_line(error)
        with pytest.raises(ValueError, match=message):
            remove_filters(model, 0.5, IMAGE, criterion=criterion)
        assert same(state(model), before)


@pytest.mark.parametrize(
    "example", [torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 8, 8), torch.zeros(3, 32, 32), IMAGE.byte(), "image"]
)
def test_an_example_input_that_does_not_fit(example):
    model = build("smallcnn").train()
    before = state(model)
    for call in calls_on(model, example)[2:]:
        with pytest.raises(ValueError, match=r"example_input .*images\.normalize\(images\.valid\.x\[:1\]\)") as error:
            call()
        one_line(error)
    assert same(state(model), before) and model.training


def test_without_example_input_an_image_of_32x32_is_tried():
    model = nn.Sequential(nn.Conv2d(5, 8, 3), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
    with pytest.raises(ValueError, match=r"example_input of shape \(1, 5, 32, 32\).*: give one batch"):
        prune(model, 0.5, silence=True)
    prune(model, 0.5, silence=True, example_input=torch.zeros(1, 5, 28, 28))
    assert len(zeroed(model[0])) == 4


def test_noise_on_the_weights_is_refused():
    model = bl.attach_bridgeout(build("smallcnn"), 0.3, 1.5)
    before = state(model)
    for call in calls_on(model):
        with pytest.raises(ValueError, match=r"'conv1' is parametrized .*: call detach_bridgeout\(model\)") as error:
            call()
        one_line(error)
    assert same(state(model), before)
    prune(bl.detach_bridgeout(model), 0.5)


def test_without_torch_pruning(monkeypatch):
    """What does not need it works; the rest says how to get it."""
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    model = build("smallcnn")
    prune(model, 0.5)
    prune(model, 0.5, granularity="weight")
    for call in (
        lambda: prune(model, 0.5, silence=True),
        lambda: prune(model, 0.5, criterion="bn"),
        lambda: remove_filters(model, 0.5, IMAGE),
    ):
        with pytest.raises(ImportError, match=r"needs torch_pruning.*: pip install torch-pruning"):
            call()


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silence", [False, True])
def test_masks_hold_in_training(silence, digits):
    model = prune(build("smallcnn"), 0.5, silence=silence)
    gone = {name: zeroed(conv) for name, conv in convolutions(model).items()}
    values = model.dense.weight.clone()
    bl.fit(model, digits, QUICK, device="cpu", progress=False)
    assert not torch.equal(model.dense.weight, values)
    copied = copy.deepcopy(apply_masks(model))
    assert {name: zeroed(conv) for name, conv in convolutions(copied).items()} == gone
    assert list(copied.state_dict()) == list(build("smallcnn").state_dict())
    assert all(p.requires_grad and p.is_leaf for p in copied.parameters())


def test_apply_masks_keeps_the_order_of_parameters():
    model = build("vgg11")
    keys = list(model.state_dict())
    x = images_like()
    out = prune(model, 0.5, silence=True)(x)
    assert apply_masks(model) is model
    assert torch.equal(model(x), out) and list(model.state_dict()) == keys
    assert same(state(apply_masks(model)), state(model))


# --- recalibration ----------------------------------------------------------------------------------------------------


def test_recalibrated_statistics_are_those_of_the_batches(digits):
    """The plain mean over batches of their mean and unbiased variance, whatever stood there before."""
    norm = nn.BatchNorm2d(3, momentum=0.3)
    model = nn.Sequential(norm, nn.Flatten(), nn.Dropout(0.5), nn.Linear(3072, 10)).train()
    model[2].eval()
    norm.running_mean.fill_(7.0)
    assert recalibrate_batchnorm(model, digits, 3, batch_size=64, flip=False, crop=0, seed=5) is model
    order = torch.randperm(256, generator=draws(5))[:192].view(3, 64)
    batches = [digits.normalize(digits.train.x[index]) for index in order]
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(
        norm.running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0), rtol=1e-3, atol=0
    )
    assert norm.momentum == 0.3 and model.training and norm.training and not model[2].training


@pytest.mark.parametrize("batches,size,seen", [(100, 100, 2), (1, 64, 1), (5, 1000, 1)])
def test_recalibration_takes_at_most_all_training_images(digits, batches, size, seen):
    model = build("smallcnn")
    recalibrate_batchnorm(model, digits, batches, batch_size=size)
    assert model.norm1.num_batches_tracked == seen  # of 256 images; an incomplete batch is left out


def test_recalibration_is_free_of_noise(digits):
    plain = recalibrate_batchnorm(build("smallcnn"), digits, 2)
    noisy = bl.attach_sparseout(bl.attach_bridgeout(build("smallcnn"), 0.3, 1.0), 0.3, 1.0).train()
    recalibrate_batchnorm(noisy, digits, 2)
    assert noisy.training
    assert same(state(bl.detach_bridgeout(bl.detach_sparseout(noisy))), state(plain))


def test_recalibrated_removal_is_recalibrated_silence(digits):
    x = digits.normalize(digits.test.x)
    for name in ("vgg11", "resnet34c", "wrn-10-2"):
        model = build(name, width=0.25)
        small, silent = remove_filters(model, 0.25, x), prune(model, 0.25, silence=True)
        stale = small(x)
        for m in (small, silent):
            recalibrate_batchnorm(m, digits, 2)
        assert (small(x) - silent(x)).abs().max() <= 1e-4 * small(x).abs().max() < (small(x) - stale).abs().max()


def test_recalibration_mends_stale_statistics(digits):
    """A trained network with statistics of another scale is at chance; recalibrated it is where it was, or near."""
    torch.manual_seed(0)
    images, model = bl.load_images("digits", train=512, valid=100), bl.build_model("smallcnn", width=0.5)
    bl.fit(
        model, images, bl.Recipe(epochs=4, batch_size=32, flip=False, precision="float32"), device="cpu", progress=False
    )
    accuracy = bl.evaluate(model, images, "valid")[1]
    model.norm1.running_mean += 10
    stale = bl.evaluate(model, images, "valid")[1]
    assert (
        bl.evaluate(recalibrate_batchnorm(model, images, 8, batch_size=64), images, "valid")[1]
        > accuracy - 10
        > stale + 10
    )


@pytest.mark.parametrize("options", [{"batches": 0}, {"batches": 1.5}, {"batches": -3}, {"batch_size": 0}])
def test_recalibration_wants_whole_numbers(options, digits):
    with pytest.raises(ValueError, match=r"batch(es|_size) must be a whole number >= 1, got"):
        recalibrate_batchnorm(build("smallcnn"), digits, **{"batches": 2, **options})


def test_recalibration_of_a_norm_that_no_longer_tracks_and_of_one_that_no_batch_reaches(digits):
    """In evaluation torch uses the statistics that are there, whether or not they are tracked."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.aside = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return self.aside(x) if self.training else self.norm(x)

    model = Branches()
    for norm in (model.norm, model.aside):
        nn.init.constant_(norm.running_mean, 7.0)
    model.norm.track_running_stats = False
    recalibrate_batchnorm(model, digits, 2, batch_size=64)
    assert (model.norm.running_mean != 7).all() and not model.norm.track_running_stats
    assert (model.aside.running_mean == 7).all() and model.aside.momentum == model.norm.momentum == 0.1


def test_recalibration_without_batchnorm(digits):
    for model in (build("smallcnn-plain"), nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))):
        with pytest.raises(ValueError, match="no BatchNorm with running statistics"):
            recalibrate_batchnorm(model, digits, 2)


@pytest.mark.parametrize("fault", ["nan", "interrupt"])
def test_failed_recalibration_changes_nothing(fault, digits):
    model = build("smallcnn").train()
    if fault == "nan":
        model.conv3.weight.data[0, 0, 0, 0] = float("nan")
    else:

        def stop(module, inputs):
            raise KeyboardInterrupt

        model.conv3.register_forward_pre_hook(stop)
    before = state(model)
    with pytest.raises(ValueError, match="infinite or NaN") if fault == "nan" else pytest.raises(KeyboardInterrupt):
        recalibrate_batchnorm(model, digits, 2)
    after = state(model)
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in after if "norm" in k)
    assert all(m.training for m in model.modules()) and model.norm1.momentum == 0.1


# --- curves -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    model = bl.build_model("smallcnn", width=0.5)
    bl.fit(model, digits, bl.Recipe(epochs=3, batch_size=32, precision="float32"), device="cpu", progress=False)
    return model


def test_curve_of_the_published_protocol(trained, digits):
    before = state(trained)
    frame = curve(trained, digits, [0.5, 0, 0.25], split="test")
    assert list(frame.columns) == ["amount", "treatment", "accuracy", "loss", "parameters", "nonzero", "macs"]
    assert frame["amount"].tolist() == [0.5, 0, 0.25] and set(frame["treatment"]) == {"zeroed"}
    for row in frame.itertuples():  # each amount from the same trained model
        model = prune(copy.deepcopy(trained), row.amount)
        assert (row.loss, row.accuracy) == bl.evaluate(model, digits, "test")
        assert (row.parameters, row.macs) == bl.cost.count(trained, IMAGE)
    assert frame["nonzero"][1] > frame["nonzero"][2] > frame["nonzero"][0]
    assert same(state(trained), before) and trained.training


def test_treatments(trained, digits):
    """Silenced equals removed, before and after recalibration; only removal makes the network smaller."""
    options = {"amounts": [0, 0.5], "split": "valid"}
    frames = {
        name: curve(trained, digits, **options, **knobs)
        for name, knobs in {
            "silenced": {"silence": True},
            "removed": {"remove": True},
            "silenced, recalibrated": {"silence": True, "recalibrate": 2},
            "removed, recalibrated": {"remove": True, "recalibrate": True},
            "zeroed, recalibrated": {"recalibrate": 1},
        }.items()
    }
    for name, frame in frames.items():
        assert set(frame["treatment"]) == {name}
    for more in ("", ", recalibrated"):
        silenced, removed = frames["silenced" + more], frames["removed" + more]
        np.testing.assert_allclose(silenced["loss"], removed["loss"], rtol=1e-4)
        assert silenced["nonzero"].tolist() == removed["nonzero"].tolist() == removed["parameters"].tolist()
        assert removed["macs"][1] < 0.5 * silenced["macs"][1] and removed["macs"][0] == silenced["macs"][0]
    assert frames["zeroed, recalibrated"]["loss"][0] != frames["silenced"]["loss"][0]


@pytest.mark.parametrize("remove", [False, True])
def test_curve_with_fine_tuning(trained, digits, remove):
    frame = curve(trained, digits, [0.5], remove=remove, recipe=QUICK, seed=3)
    assert frame["treatment"].tolist() == [("removed" if remove else "zeroed") + ", fine-tuned"]
    model = remove_filters(trained, 0.5, IMAGE) if remove else prune(copy.deepcopy(trained), 0.5)
    bl.fit(model, digits, QUICK, seed=3, device="cpu", progress=False)
    assert frame["loss"].tolist() == [bl.evaluate(model, digits, "valid")[0]]
    total = sum(p.numel() for p in trained.parameters())
    assert (frame["nonzero"] < total).all()


def test_random_curves_nest_and_repeat(trained, digits):
    options = {"amounts": [0.25, 0.5], "criterion": "random", "granularity": "weight"}
    first, again, other = (curve(trained, digits, **options, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)
    gone = []
    for row in first.itertuples():
        model = prune(copy.deepcopy(trained), row.amount, criterion="random", granularity="weight", generator=draws(0))
        assert row.loss == bl.evaluate(model, digits, "valid")[0]
        gone.append(model.conv3.weight == 0)
    assert not (gone[0] & ~gone[1]).any()


def test_curve_of_a_masked_model(trained, digits):
    """After a forward pass in training a masked weight has a history, which a plain deep copy would refuse."""
    model = prune(copy.deepcopy(trained), 0.25)
    model(digits.normalize(digits.train.x[:4]))
    assert curve(model, digits, [0.5])["nonzero"].equals(curve(trained, digits, [0.5])["nonzero"])


def test_bad_curves(trained, digits):
    for options, message in (
        ({"split": "testing"}, "split must be one of 'train', 'valid', 'test', got 'testing'"),
        ({"recalibrate": -1}, "recalibrate must be a whole number >= 0, got -1"),
        ({"recalibrate": 0.5}, "recalibrate must be a whole number >= 0, got 0.5"),
        (
            {"remove": True, "granularity": "weight"},
            "only filters can be removed: use granularity='filter', got 'weight'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            curve(trained, digits, [0.5], **options)
    empty = dataclasses.replace(digits, test=bl.data.Split(digits.test.x[:0], digits.test.y[:0]))
    with pytest.raises(ValueError, match="the test split of digits is empty"):
        curve(trained, empty, [0.5], split="test")
    with pytest.raises(ValueError, match="amounts is empty"):
        curve(trained, digits, [])


def test_drift_is_zero_where_the_statistics_fit_and_counts_standard_deviations():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.0)).double()
    x = torch.randn(64, 3, 8, 8, dtype=torch.float64)
    y = model[0](x).transpose(0, 1).flatten(1)
    with torch.no_grad():
        model[1].running_mean.copy_(y.mean(1))
        model[1].running_var.copy_(y.var(1))
        fits = pruning.batchnorm_drift(model, x).iloc[0]
        model[1].running_mean.add_(3 * y.std(1))
        model[1].running_var.mul_(4)
        drifted = pruning.batchnorm_drift(model, x).iloc[0]
        model[0].weight[1:] = 0.0  # constant channels do not count
        assert pruning.batchnorm_drift(model, x).iloc[0]["shift"] == pytest.approx(1.5)
        model[0].weight[0] = 0.0
        dead = pruning.batchnorm_drift(model, x).iloc[0]
    assert fits["layer"] == "1" and fits["shift"] < 1e-12 and fits["variance_ratio"] == pytest.approx(1)
    assert drifted["shift"] == pytest.approx(1.5) and drifted["variance_ratio"] == pytest.approx(0.25)
    assert math.isnan(dead["shift"]) and math.isnan(dead["variance_ratio"])
    with pytest.raises(ValueError, match="no BatchNorm with running statistics"):
        pruning.batchnorm_drift(nn.Conv2d(3, 4, 3).double(), x)


def test_recalibration_sees_augmented_images():
    images = bl.load_images("digits", train=128, valid=8, test=8)
    found = []
    for augmented in ({}, {"flip": False, "crop": 0}, {}):
        torch.manual_seed(0)
        model = bl.build_model("smallcnn", width=0.25)
        pruning.recalibrate_batchnorm(model, images, 2, batch_size=64, **augmented)
        found.append(model.norm1.running_mean.clone())
    assert torch.equal(found[0], found[2]) and not torch.allclose(found[0], found[1], rtol=1e-3)
