"""Sparseout and Bridgeout as modules, and attaching them to models and taking them off again."""

import contextlib
import copy
import io
import math
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils.checkpoint import checkpoint

import bridgeout_lite as bl

BOTH = pytest.mark.parametrize(
    "attach,detach",
    [(bl.attach_sparseout, bl.detach_sparseout), (bl.attach_bridgeout, bl.detach_bridgeout)],
    ids=["sparseout", "bridgeout"],
)


BAD = [  # what is made, argument, bad value
    *[(make, "p", bad) for make in (bl.Sparseout, bl.Bridgeout) for bad in (1.0, True, math.nan)],
    *[(make, "q", -1) for make in (bl.Sparseout, bl.Bridgeout)],
    *[(make, name, "none") for make in (bl.Sparseout, bl.Bridgeout) for name in ("form", "gradient")],
    *[(bl.Bridgeout, "target_fraction", bad) for bad in (-0.1, 1.1, 2, math.nan, "all")],
    *[(bl.Bridgeout, "target", bad) for bad in ("rows", "channels", "none")],
]


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
    assert repr(bl.Bridgeout(target_fraction=0.5, target="filters")).endswith("target_fraction=0.5, target='filters')")
    assert "p=0.3, q=1" in repr(bl.attach_bridgeout(small(), 0.3, 1.0))
    assert "p=0.3, q=1" in repr(bl.attach_sparseout(small(), 0.3, 1.0))


def test_sparseout_can_be_copied_and_pickled():
    layer = bl.Sparseout(0.3, 1.5, form="even", gradient="constant").eval()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer) and not twin.training


@pytest.mark.parametrize("make, argument, bad", BAD)
def test_bad_arguments_are_refused_when_the_layer_is_made(make, argument, bad):
    refused(lambda: make(**{argument: bad}), f"{argument} must be", f"got {bad!r}")


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
    filters = {"target_fraction": 0.5, "target": "filters"}
    for options in ({}, {"form": "odd", "target_fraction": 0.5}, {"gradient": "constant"}, filters):
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
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in plain.modules()]
    assert attach(model, 0.3, 1.0) is model
    model.train()(batch())
    assert detach(model) is model
    plain.train()(batch())  # the running statistics of the first BatchNorm see noise from Bridgeout
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_modules()] == [n for n, _ in plain.named_modules()]
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert torch.equal(model.train()(batch()), plain.train()(batch()))
    assert not any({"_bridgeout_hook", "_bridgeout_calls"} & m.__dict__.keys() for m in model.modules())


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


@pytest.mark.parametrize("make, argument, bad", BAD)
def test_bad_arguments_leave_the_model_untouched(make, argument, bad):
    model, attach = small(), bl.attach_sparseout if make is bl.Sparseout else bl.attach_bridgeout
    refused(lambda: attach(model, **{"p": 0.5, "q": 1.0, argument: bad}), f"{argument} must be", f"got {bad!r}")
    assert same_state(model, small()) and len(list(model.modules())) == len(list(small().modules()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_bridgeout_needs_a_weight():
    with pytest.raises(ValueError, match="needs a module with a weight, but '2' is a ReLU"):
        bl.attach_bridgeout(small(), 0.5, 1.0, where=lambda name, module: name == "2")


def test_bridgeout_needs_a_weight_that_is_there_and_floating():
    model = small()
    model[0].weight = nn.Parameter(model[0].weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"needs floating-point weights, but those of '0' are torch\.int8"):
        bl.attach_bridgeout(model, 0.5, 1.0)
    lazy = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(ValueError, match="weight of '0' has no shape yet: run one batch through the model first"):
        bl.attach_bridgeout(lazy, 0.5, 1.0)
    lazy(batch())
    bl.attach_bridgeout(lazy, 0.5, 1.0)


def test_a_failing_attach_leaves_the_model_untouched():
    model = small()
    with pytest.raises(ValueError, match=r"needs a module with a weight"):
        bl.attach_bridgeout(model, 0.5, 1.0, where=lambda name, module: name in ("0", "2"))
    assert same_state(model, small())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


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
    model = bl.attach_bridgeout(small(), 0.25, 1.5, target_fraction=0.5, target="filters", **options)
    assert str(model[0].parametrizations.weight[0]) == f"Bridgeout({knobs}, target_fraction=0.5, target='filters')"
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


# ---- one mask a forward pass ------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Uses its weights in several ways, and keeps what it read of them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.inner = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh())
            self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.inner[0].weight
        self.read: list[Tensor] = []
        self.around_first, self.before_second = contextlib.nullcontext, lambda: None

    def forward(self, x: Tensor) -> Tensor:
        with self.around_first():
            self.read = [self.inner[0].weight]
            x = self.inner(x)
        self.before_second()
        x = self.tied(F.linear(x, self.inner[0].weight))
        self.read += [self.inner[0].weight, self.tied.weight]
        return x

    def was_noisy(self) -> bool:
        """All reads were of one noisy weight."""
        first, clean = self.read[0], self.inner[0].parametrizations.weight.original
        return all(w is first for w in self.read) and not torch.equal(first, clean)


def reader() -> Reader:
    return bl.attach_bridgeout(Reader(), 0.5, 1.0, where=lambda name, module: isinstance(module, nn.Linear))


def vector() -> Tensor:
    return torch.linspace(-1, 1, 6).expand(2, 6)


def test_all_uses_in_a_forward_pass_see_one_noisy_weight():
    model = reader()
    model(vector())
    first = model.read[0]
    assert model.was_noisy()
    model(vector())
    assert model.was_noisy() and not torch.equal(model.read[0], first)
    model.eval()(vector())
    assert all(w is model.inner[0].parametrizations.weight.original for w in model.read)


def test_the_gradient_is_that_of_all_uses_of_the_noisy_weight():
    model = reader()
    y = model(vector())
    (noisy,) = {id(w): w for w in model.read}.values()
    w = model.inner[0].parametrizations.weight.original
    slope_of_noise = torch.autograd.grad(noisy.sum(), w, retain_graph=True)[0]
    free = noisy.detach().requires_grad_()
    F.linear(F.linear(F.linear(vector(), free).tanh(), free), free).square().sum().backward()
    y.square().sum().backward()
    torch.testing.assert_close(w.grad, free.grad * slope_of_noise)


def test_outside_of_a_forward_pass_the_weight_is_the_clean_one():
    """What weight decay by hand, norms, pruning and a look at the weights should see, also in training mode."""
    model = bl.attach_bridgeout(small(), 0.5, 1.0)
    clean = model[0].parametrizations.weight.original
    assert model[0].weight is clean
    model(batch()).sum().backward()
    assert model.training and model[0].weight is clean
    with torch.no_grad():
        model[0].weight.mul_(0.5)
    torch.testing.assert_close(clean, 0.5 * small()[0].weight)


def test_a_part_called_on_its_own_has_noise_for_that_call():
    model = reader()
    for part in (model.inner, model.inner[0], model.tied):
        seen = []
        with part.register_forward_hook(lambda *_, seen=seen: seen.append(model.inner[0].weight), prepend=True):
            assert not torch.equal(part(vector()), part(vector()))
        assert len(seen) == 2 and not torch.equal(*seen)
        assert model.inner[0].weight is model.inner[0].parametrizations.weight.original


def test_forward_called_past_the_hooks_still_has_noise():
    model = reader()
    assert not torch.equal(model.forward(vector()), model.forward(vector()))


def test_a_use_without_gradients_does_not_take_them_from_a_later_one():
    model = reader()
    model.around_first = torch.no_grad
    y = model(vector())
    assert model.was_noisy()
    w = model.inner[0].parametrizations.weight.original
    assert torch.autograd.grad(y.sum(), w)[0].abs().sum() > 0


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("call", [lambda m: m(vector()), lambda m: m.train() and m.inner(vector())])
def test_a_forward_pass_that_fails_leaves_no_draw_behind(error, call):
    """A KeyboardInterrupt is not seen by torch's hooks: the next call of the model, or train(), cleans up."""

    def fail() -> None:
        raise error

    model = reader()
    model.before_second = fail
    for _ in range(2):
        with pytest.raises(error):
            model(vector())
    stale = model.read[0]
    assert not torch.equal(stale, model.inner[0].parametrizations.weight.original)
    if error is Interrupted:
        assert model.inner[0].weight is model.inner[0].parametrizations.weight.original
    model.before_second = lambda: None
    assert not torch.equal(call(model), call(model))
    model.eval().train()
    assert model.inner[0].weight is model.inner[0].parametrizations.weight.original


def test_a_model_that_calls_itself():
    """Each call has its own noise, and the outer one goes on with its own."""
    model = reader()
    inner_reads = []

    def recurse() -> None:
        model.before_second = lambda: None
        outer, model.read = model.read, []
        model(vector())
        assert model.was_noisy()
        inner_reads.append(model.read[0])
        model.read = outer

    model.before_second = recurse
    model(vector())
    assert model.was_noisy() and not torch.equal(inner_reads[0], model.read[0])


def test_two_models_inside_each_other_keep_their_own_noise():
    one, two = reader(), reader()
    one.before_second = lambda: two(vector())
    one(vector())
    assert one.was_noisy() and two.was_noisy() and not torch.equal(one.read[0], two.read[0])


def test_threads_do_not_share_noise():
    """As in nn.DataParallel, whose replicas share all but the parameters. Both read while both calls are under way."""
    barrier, reads = threading.Barrier(2, timeout=20), []

    def work(replica: Reader) -> None:
        def meet() -> None:
            barrier.wait()
            replica.read.append(replica.inner[0].weight)
            barrier.wait()

        replica.before_second = meet
        replica(vector())
        reads.append(replica.read)

    model = reader()
    replicas = [model, copy.copy(model)]
    replicas[1].__dict__ = model.__dict__.copy()
    threads = [threading.Thread(target=work, args=(r,)) for r in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 2
    assert all(w is read[0] for read in reads for w in read) and not torch.equal(reads[0][0], reads[1][0])
    assert model.inner[0].weight is model.inner[0].parametrizations.weight.original


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_recomputes_with_the_same_mask(reentrant):
    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small()[:4]
            self.saving = False

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=reentrant) if self.saving else self.body(x)

    grads = []
    for saving in (False, True):
        model = bl.attach_bridgeout(Saving(), 0.5, 1.0)
        model.saving = saving
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model(batch().requires_grad_()).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_model_can_be_copied_in_the_middle_of_a_forward_pass():
    model, copies = reader(), []
    model.before_second = lambda: copies.append(copy.deepcopy(model.inner))
    model(vector())
    assert model.was_noisy()
    assert copies[0][0].weight is copies[0][0].parametrizations.weight.original
    assert not torch.equal(copies[0](vector()), copies[0](vector()))


def test_groups_of_layers_with_different_noise():
    model = small()
    bl.attach_bridgeout(model, 0.5, 1.0, where=lambda name, module: name == "0")
    bl.attach_bridgeout(model, 0.5, 2.0, where=lambda name, module: name == "3.2")
    reads = []
    model[4].register_forward_hook(lambda *_: reads.append((model[0].weight, model[3][2].weight)))
    model(batch())
    plain = small()
    for noisy, clean, q in zip(reads[0], (plain[0].weight, plain[3][2].weight), (1.0, 2.0), strict=True):
        torch.testing.assert_close((noisy - clean).abs(), clean.abs() ** (q / 2))
    assert list(bl.detach_bridgeout(model).state_dict()) == list(plain.state_dict())


def test_tied_weights_stay_tied():
    model, plain = reader(), Reader()
    assert model.inner[0].parametrizations.weight.original is model.tied.parametrizations.weight.original
    train = torch.optim.SGD(model.parameters(), lr=0.1)
    model(vector()).sum().backward()
    train.step()
    bl.detach_bridgeout(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert model.inner[0].weight is model.tied.weight
    assert not torch.equal(model.tied.weight, plain.tied.weight)


def test_compiled_models_draw_afresh():
    model = bl.attach_bridgeout(small(), 0.5, 1.0)
    try:
        compiled = torch.compile(model, backend="eager")
        first, second = compiled(batch()), compiled(batch())
        second.sum().backward()
    finally:
        torch._dynamo.reset()
    assert not torch.equal(first, second)
    assert all(p.grad is not None for p in model.parameters())
    assert model[0].weight is model[0].parametrizations.weight.original


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


# ---- modules that are more than one layer -----------------------------------------------------------------------


class Repeated(nn.Module):
    """Runs through whatever children it has."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


@pytest.mark.parametrize("block", [lambda: nn.Sequential(nn.Identity(), nn.Identity()), Repeated])
def test_a_block_that_runs_through_its_children_gets_the_noise_once(block):
    model = nn.Sequential(block(), nn.Identity())
    names = [name for name, _ in model.named_modules()]
    bl.attach_sparseout(model, 0.5, 2.0, where=lambda name, module: name == "0")
    assert [name for name, _ in model.named_modules()] == names
    x = torch.ones(10_000)
    assert set(model(x).tolist()) == {0.0, 2.0}
    assert model.eval()(x) is x
    assert set(model.train()(x).tolist()) == {0.0, 2.0}
    assert set(copy.deepcopy(model)(x).tolist()) == {0.0, 2.0}
    with pytest.raises(ValueError, match="already attached to '0'"):
        bl.attach_sparseout(model, 0.5, 2.0, where=lambda name, module: name == "0")
    assert bl.detach_sparseout(model)(x) is x
    assert not hasattr(model[0], "sparseout")


def test_a_block_with_noise_compiles_whole():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.Identity())
    bl.attach_sparseout(model, 0.5, 1.0, where=lambda name, module: name == "0").eval()
    compiled, x = torch.compile(model, backend="aot_eager", fullgraph=True), torch.ones(4, 8)
    assert torch.equal(compiled(x), model(x))
    model.train()
    assert not torch.equal(compiled(x), compiled(x))


# ---- weights that torch computes, and the order of parameters -----------------------------------------------------


@pytest.mark.parametrize(
    ("compute", "cure"),
    [
        (lambda conv: nn.utils.weight_norm(conv), "remove_weight_norm"),
        (lambda conv: nn.utils.spectral_norm(conv), "remove_spectral_norm"),
        (lambda conv: prune.l1_unstructured(conv, "weight", 0.5), "prune.remove"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_weight_that_is_computed_by_hooks_is_refused_before_anything_changes(compute, cure):
    model = small()
    compute(model[3][2])
    before = [(type(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    refused(lambda: bl.attach_bridgeout(model, 0.3, 1.0), "weight of '3.2' is computed from others", cure)
    assert [(type(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == before


class Doubled(nn.Module):
    """A module with a weight, a bias and a child that has parameters too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight, self.bias = (nn.Parameter(torch.ones(n)) for n in (2, 3, 5))
        self.child = nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.first.sum() + self.weight.sum() + self.bias.sum() + self.child(x)


@pytest.mark.parametrize("make", [lambda: small(bias=True), Doubled])
def test_the_order_of_parameters_stays(make):
    """The state of an optimizer goes by position: one that was saved without noise can be loaded with it."""
    plain, model = make(), make()
    picked = {"where": lambda name, module: module is model} if make is Doubled else {}
    bl.attach_bridgeout(model, 0.3, 1.0, **picked)
    assert [p.shape for p in model.parameters()] == [p.shape for p in plain.parameters()]
    if make is Doubled:
        assert list(model.children())[-1] is model.child
    else:
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (plain, model)]
        plain(batch()).sum().backward()
        optimizers[0].step()
        optimizers[1].load_state_dict(optimizers[0].state_dict())
        train_steps(model, optimizers[1])
    bl.detach_bridgeout(model)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
