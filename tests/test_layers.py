"""Sparseout and Bridgeout as modules, and attaching them to models and taking them off again."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import bridgeout_lite as bl

BOTH = pytest.mark.parametrize(
    "attach,detach",
    [(bl.attach_sparseout, bl.detach_sparseout), (bl.attach_bridgeout, bl.detach_bridgeout)],
    ids=["sparseout", "bridgeout"],
)


def small(bias: bool = False) -> nn.Sequential:
    """Two 3x3 convolutions, a 1x1 one, BatchNorm, a dense layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=bias),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Conv2d(4, 6, 3, bias=bias)),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6 * 4 * 4, 5),
        )


def batch(n: int = 8) -> Tensor:
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def same_state(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


def train_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch()).square().mean().backward()
        optimizer.step()


# ---- the Sparseout module ---------------------------------------------------------------------------------------


def test_sparseout_is_a_drop_in_for_dropout():
    layer = bl.Sparseout(0.5)
    x = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    y = layer(x)
    assert y.shape == x.shape and y.is_contiguous(memory_format=torch.channels_last)
    assert ((y == 0) | (y == 2 * x)).all()
    assert not list(layer.parameters()) and not layer.state_dict()
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2))
    model[1] = bl.Sparseout(0.5, q=1.0)
    model.load_state_dict(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2)).state_dict())
    model(torch.randn(2, 3)).sum().backward()


def test_sparseout_passes_on_all_its_knobs():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(2)).requires_grad_()
    for options in ({}, {"form": "even"}, {"gradient": "constant"}, {"form": "even", "gradient": "constant"}):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            ours = bl.Sparseout(0.3, 1.0, **options)(x)
            torch.manual_seed(3)
            plain = bl.sparseout(x, 0.3, 1.0, **options)
        assert torch.equal(ours, plain)
        assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y in (ours, plain)))


def test_sparseout_train_and_eval():
    layer, x = bl.Sparseout(0.5, 1.0), torch.ones(100)
    assert not torch.equal(layer(x), layer(x))
    assert layer.eval()(x) is x
    assert not torch.equal(layer.train()(x), x)
    assert bl.Sparseout(0.0, 1.0)(x) is x


def test_the_repr_shows_the_knobs():
    assert repr(bl.Sparseout(0.25, 1)) == "Sparseout(p=0.25, q=1, form='odd', gradient='exact')"
    assert repr(bl.Bridgeout(0.5, 1.5, target_fraction=0.75)) == (
        "Bridgeout(p=0.5, q=1.5, form='even', gradient='exact', target_fraction=0.75)"
    )
    assert "p=0.3, q=1" in repr(bl.attach_bridgeout(small(), 0.3, 1.0))
    assert "p=0.3, q=1" in repr(bl.attach_sparseout(small(), 0.3, 1.0))


def test_sparseout_can_be_copied_and_pickled():
    layer = bl.Sparseout(0.3, 1.5, form="even", gradient="constant").eval()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer) and not twin.training


@pytest.mark.parametrize("make", [bl.Sparseout, bl.Bridgeout])
def test_bad_arguments_are_refused_when_the_layer_is_made(make):
    for options, name in [
        ({"p": 1.0}, "p must be"),
        ({"p": True}, "p must be"),
        ({"p": math.nan}, "p must be"),
        ({"q": -1}, "q must be"),
        ({"form": "none"}, "form must be"),
        ({"gradient": "none"}, "gradient must be"),
    ]:
        with pytest.raises(ValueError, match=name):
            make(**options)
    for fraction in (-0.1, 1.1, math.nan, "all"):
        with pytest.raises(ValueError, match="target_fraction must be"):
            bl.Bridgeout(target_fraction=fraction)


def test_wrong_input_is_refused_by_the_layer():
    for layer in (bl.Sparseout(), bl.Sparseout().eval()):
        with pytest.raises(TypeError, match="floating-point"):
            layer(torch.ones(3, dtype=torch.int64))


# ---- the Bridgeout parametrization ------------------------------------------------------------------------------


def test_bridgeout_as_a_parametrization():
    layer = nn.Linear(50, 20)
    clean = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", bl.Bridgeout(0.5, 1.0))
    one, two = layer.weight, layer.weight
    assert not torch.equal(one, two)
    torch.testing.assert_close((one - clean).abs(), clean.abs().sqrt())  # p = 0.5, q = 1: plus or minus sqrt|w|
    with parametrize.cached():
        assert torch.equal(layer.weight, layer.weight)
    layer.eval()
    assert torch.equal(layer.weight, clean)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert torch.equal(layer.weight, clean)


def test_bridgeout_passes_on_all_its_knobs():
    w = torch.randn(6, 8, 3, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    for options in ({}, {"form": "odd", "target_fraction": 0.5}, {"gradient": "constant"}):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            ours = bl.Bridgeout(0.3, 1.0, **options)(w)
            torch.manual_seed(3)
            plain = bl.bridgeout(w, 0.3, 1.0, **options)
        assert torch.equal(ours, plain)
        assert torch.equal(*(torch.autograd.grad(y.sum(), w)[0] for y in (ours, plain)))


def test_assigning_a_weight_sets_the_clean_one():
    model = bl.attach_bridgeout(small(), 0.5, 1.0)
    model[0].weight = torch.ones(4, 3, 3, 3)
    assert (model.eval()[0].weight == 1).all()


# ---- attach and detach ------------------------------------------------------------------------------------------


@BOTH
def test_attach_and_detach_restore_the_model(attach, detach):
    model, plain = small(), small()
    hooks = [len(m._forward_hooks) for m in plain.modules()]
    assert attach(model, 0.3, 1.0) is model
    model.train()(batch())
    assert detach(model) is model
    plain.train()(batch())  # the running statistics of the first BatchNorm see noise from Bridgeout
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_modules()] == [n for n, _ in plain.named_modules()]
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert torch.equal(model.train()(batch()), plain.train()(batch()))
    assert not any("_bridgeout_hook" in m.__dict__ for m in model.modules())


@BOTH
def test_detaching_from_a_plain_model_leaves_it_as_it_is(attach, detach):
    model = small()
    assert detach(model) is model and same_state(model, small())


@BOTH
def test_attaching_twice_is_an_error_and_attaching_again_after_detaching_is_not(attach, detach):
    model = attach(small(), 0.3, 1.0)
    with pytest.raises(ValueError, match=r"already attached to '.+'; call detach_"):
        attach(model, 0.5, 2.0)
    detach(model)
    attach(model, 0.5, 2.0)
    assert same_state(detach(model), small())


@BOTH
def test_picking_nothing_is_an_error_that_says_what_there_is(attach, detach):
    with pytest.raises(ValueError, match=r"picked no module .* Flatten, Linear, Sequential"):
        attach(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), 0.5, 1.0)
    with pytest.raises(ValueError, match="picked no module"):
        attach(small(), 0.5, 1.0, where=lambda name, module: False)


@BOTH
@pytest.mark.parametrize(
    "options,name",
    [
        ({"p": 1.0, "q": 1.0}, "p must be"),
        ({"p": 0.5, "q": -1.0}, "q must be"),
        ({"p": 0.5, "q": 1.0, "form": "odd?"}, "form must be"),
        ({"p": 0.5, "q": 1.0, "gradient": "?"}, "gradient must be"),
    ],
)
def test_bad_arguments_leave_the_model_untouched(attach, detach, options, name):
    model = small()
    with pytest.raises(ValueError, match=name):
        attach(model, **options)
    assert same_state(model, small()) and len(list(model.modules())) == len(list(small().modules()))


def test_bridgeout_needs_a_weight():
    with pytest.raises(ValueError, match="needs a module with a weight, but '2' is a ReLU"):
        bl.attach_bridgeout(small(), 0.5, 1.0, where=lambda name, module: name == "2")
    with pytest.raises(ValueError, match="target_fraction must be"):
        bl.attach_bridgeout(small(), 0.5, 1.0, target_fraction=2)


def test_a_failing_attach_leaves_the_model_untouched():
    model = small()
    with pytest.raises(ValueError, match="needs a module with a weight"):
        bl.attach_bridgeout(model, 0.5, 1.0, where=lambda name, module: name in ("0", "2"))
    assert same_state(model, small())


def test_where_sparseout_goes_by_default_and_by_choice():
    def places(model: nn.Module) -> list[str]:
        return [n for n, m in model.named_modules() if isinstance(m, bl.Sparseout)]

    assert places(bl.attach_sparseout(small(), 0.5, 1.0)) == ["2.sparseout", "3.1.sparseout", "4.sparseout"]
    seen = []
    model = bl.attach_sparseout(
        small(), 0.5, 1.0, where=lambda name, module: seen.append(name) or isinstance(module, nn.BatchNorm2d)
    )
    assert places(model) == ["1.sparseout"]
    assert seen == [name for name, _ in small().named_modules()]


def test_where_bridgeout_goes_by_default_and_by_choice():
    def places(model: nn.Module) -> list[str]:
        return [n for n, m in model.named_modules() if parametrize.is_parametrized(m)]

    assert places(bl.attach_bridgeout(small(), 0.5, 1.0)) == ["0", "3.2"]
    assert places(bl.attach_bridgeout(small(), 0.5, 1.0, where=lambda n, m: isinstance(m, nn.Linear))) == ["6"]
    assert places(bl.attach_bridgeout(small(), 0.5, 1.0, where=lambda name, module: name == "3.0")) == ["3.0"]


def test_attach_passes_on_all_knobs():
    options = {"form": "odd", "gradient": "constant"}
    model = bl.attach_bridgeout(small(), 0.25, 1.5, target_fraction=0.5, **options)
    knobs = "p=0.25, q=1.5, form='odd', gradient='constant'"
    assert str(model[0].parametrizations.weight[0]) == f"Bridgeout({knobs}, target_fraction=0.5)"
    model = bl.attach_sparseout(small(), 0.25, 1.5, form="even", gradient="constant")
    assert str(model[2].sparseout) == "Sparseout(p=0.25, q=1.5, form='even', gradient='constant')"


def test_both_can_be_attached_together():
    model = bl.attach_sparseout(bl.attach_bridgeout(small(), 0.3, 1.0), 0.3, 1.0)
    model.train()(batch()).sum().backward()
    bl.detach_sparseout(model)
    assert parametrize.is_parametrized(model[0])
    assert list(bl.detach_bridgeout(model).state_dict()) == list(small().state_dict())


def test_a_module_used_under_two_names_gets_one_sparseout():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu)
    bl.attach_sparseout(model, 0.5, 1.0)
    assert len(relu._forward_hooks) == 1
    assert not bl.detach_sparseout(model)[1]._forward_hooks


# ---- training with noise attached -------------------------------------------------------------------------------


@BOTH
def test_fresh_noise_in_training_and_none_in_evaluation(attach, detach):
    model, plain = small(), small()
    model[1].momentum = plain[1].momentum = 0.0  # so that training leaves the statistics alone
    attach(model, 0.5, 1.0)
    for _ in range(2):
        model.train()
        assert not torch.equal(model(batch()), model(batch()))
        model.eval()
        assert torch.equal(model(batch()), plain.eval()(batch()))


@pytest.mark.parametrize(
    "attach",
    [
        pytest.param(bl.attach_sparseout),
        bl.attach_bridgeout,
    ],
)
def test_attaching_to_a_model_in_evaluation_keeps_it_there(attach):
    model, plain = attach(small().eval(), 0.5, 1.0), small().eval()
    assert not any(m.training for m in model.modules() if isinstance(m, bl.Sparseout | bl.Bridgeout))
    assert torch.equal(model(batch()), plain(batch()))
    assert all(m.training for m in model.train().modules())


def test_bridgeout_draws_one_mask_a_forward_pass_for_the_whole_batch():
    layer = bl.attach_bridgeout(nn.Conv2d(3, 4, 3), 0.5, 1.0)
    x = batch(1).expand(5, -1, -1, -1)
    first, second = layer(x), layer(x)
    for output in (first, second):
        torch.testing.assert_close(output, output[:1].expand_as(output))
    assert not torch.allclose(first, second)
    assert torch.equal(layer.eval().weight, layer.parametrizations.weight.original)


def test_sparseout_draws_for_every_sample():
    layer = bl.attach_sparseout(nn.Sequential(nn.ReLU()), 0.5, 1.0)
    y = layer(torch.ones(5, 100))
    assert len({tuple(row.tolist()) for row in y}) == 5


@BOTH
def test_detaching_gives_the_trained_weights_without_noise(attach, detach):
    model = attach(small(), 0.3, 1.0)
    train_steps(model, torch.optim.SGD(model.parameters(), lr=0.1))
    trained = {
        k.replace("parametrizations.weight.original", "weight"): v.clone() for k, v in model.state_dict().items()
    }
    expected = model.eval()(batch())
    detach(model)
    state = model.state_dict()
    assert sorted(state) == sorted(trained)
    assert all(torch.equal(state[k], trained[k]) for k in state)
    assert not torch.equal(state["0.weight"], small().state_dict()["0.weight"])
    assert torch.equal(model.eval()(batch()), expected)
    small().load_state_dict(state, strict=True)


@BOTH
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_made_before_attaching_or_detaching_keeps_working(attach, detach, optimizer):
    """The parameters stay the same objects throughout, so it does not matter when the optimizer is made."""
    model = small()
    identity = {id(p) for p in model.parameters()}
    optimiser = optimizer(model.parameters(), lr=0.05)
    attach(model, 0.3, 1.0)
    assert {id(p) for p in model.parameters()} == identity
    before = model.eval()[0].weight.detach().clone()
    train_steps(model, optimiser)
    middle = model.eval()[0].weight.detach().clone()
    detach(model)
    assert {id(p) for p in model.parameters()} == identity
    train_steps(model, optimiser)
    assert not torch.equal(before, middle) and not torch.equal(middle, model[0].weight)
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())


@BOTH
def test_frozen_weights_stay_frozen(attach, detach):
    model = small().requires_grad_(False)
    detach(attach(model, 0.3, 1.0))
    assert not any(p.requires_grad for p in model.parameters())


@BOTH
def test_state_dicts_pass_between_attached_models(attach, detach):
    source, target = attach(small(), 0.3, 1.0), attach(small(), 0.3, 1.0)
    train_steps(source, torch.optim.SGD(source.parameters(), lr=0.1))
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(source.eval()(batch()), target.eval()(batch()))
    assert same_state(detach(source), detach(target))


@BOTH
def test_a_deep_copy_behaves_like_the_original(attach, detach):
    model = attach(small(), 0.5, 1.0)
    twin = copy.deepcopy(model)
    assert torch.equal(twin.eval()(batch()), model.eval()(batch()))
    twin.train()
    assert not torch.equal(twin(batch()), twin(batch()))
    assert not model.training
    train_steps(twin, torch.optim.SGD(twin.parameters(), lr=0.1))
    assert same_state(detach(model), small())  # training the copy did not touch it


@pytest.mark.parametrize(
    "attach,detach",
    [
        (bl.attach_sparseout, bl.detach_sparseout),
        pytest.param(bl.attach_bridgeout, bl.detach_bridgeout),
    ],
    ids=["sparseout", "bridgeout"],
)
def test_detaching_from_a_copy_leaves_the_original_attached(attach, detach):
    model = attach(small(), 0.5, 1.0)
    twin = detach(copy.deepcopy(model))  # say, to prune it while training goes on
    assert list(twin.state_dict()) == list(small().state_dict())
    assert torch.equal(twin.train()(batch()), twin(batch()))
    assert not torch.equal(model.train()(batch()), model(batch()))
    assert list(detach(model).state_dict()) == list(small().state_dict())


def test_a_model_with_sparseout_can_be_pickled_whole():
    model = bl.attach_sparseout(small(), 0.5, 1.0)
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(twin.eval()(batch()), model.eval()(batch()))
    assert not torch.equal(twin.train()(batch()), twin(batch()))
    assert not any(m._forward_hooks for m in bl.detach_sparseout(twin).modules())


@BOTH
def test_p_zero_attached_is_no_noise(attach, detach):
    model, plain = attach(small(), 0.0, 1.0), small()
    assert torch.equal(model.train()(batch()), plain.train()(batch()))


@BOTH
def test_half_precision_models(attach, detach):
    model = attach(small().to(torch.bfloat16), 0.3, 1.0)
    y = model.train()(batch().to(torch.bfloat16))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all() for p in model.parameters())


def test_channels_last_models_keep_their_layout():
    model = small().to(memory_format=torch.channels_last)
    bl.attach_bridgeout(model, 0.3, 1.0, target_fraction=0.5)
    assert model.train()[0].weight.is_contiguous(memory_format=torch.channels_last)
    model(batch().contiguous(memory_format=torch.channels_last)).sum().backward()
    bl.detach_bridgeout(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_detaching_restores_the_order_of_parameters_too():
    """An optimizer's state dict goes by position, so a run resumed after detaching would mix up weight and bias."""
    model = bl.detach_bridgeout(bl.attach_bridgeout(small(bias=True), 0.5, 1.0))
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in small(bias=True).named_parameters()]


def test_other_parametrizations_survive():
    class Double(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return 2 * w

    model = small()
    parametrize.register_parametrization(model[0], "weight", Double())
    before = model[0].weight.detach().clone()
    bl.detach_bridgeout(bl.attach_bridgeout(model, 0.5, 1.0))
    assert torch.equal(model[0].weight, before)
