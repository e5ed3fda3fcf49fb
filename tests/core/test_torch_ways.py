"""What torch does with a model that has nn.Dropout in it, it does with the noise: trace, map, transform, move, copy."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import bridgeout_lite as bl
from bridgeout_lite import noise
from bridgeout_lite.modules import seeded

FORMS, GRADIENTS = tuple(noise.FORMS), noise.GRADIENTS


KINDS = ("nn.Dropout", "Sparseout", "attached Bridgeout")
BATCH = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(kind):
    """A small network in training mode with noise of that kind. No BatchNorm: its counters go under no transform."""
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    layers[1:2] = [nn.ReLU(), nn.Dropout(0.5)] if kind == "nn.Dropout" else [nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten()).train()
    if kind == "Sparseout":
        bl.attach_sparseout(model, 0.5, 1.0)
    return bl.attach_bridgeout(model, 0.3, 1.0) if kind == "attached Bridgeout" else model


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("form", "gradient"), list(itertools.product(FORMS, GRADIENTS)))
@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 1.5, 2.0, 2.1, 3.0])
def test_both_ways_to_compute_the_noise_agree(monkeypatch, q, form, gradient, targeted):
    p, x = 0.3, torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    x.view(-1)[:8] = torch.tensor([0.0, -0.0, 1e-7, -1e-7, 1e-9, 5e-7, 1e-30, 2e-6])
    uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "rand_like", lambda *args, **kwargs: uniform)
    target = (x.abs() < 1) if targeted else None
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    fast = noise._Perturb.apply(
        one, (uniform >= p).view(-1).byte(), None if target is None else target.view(-1).byte(), p, q, form, gradient
    )
    plain = noise._plain(two, (p, q, form, gradient), target, None, None)
    for out in (fast, plain):
        (out * torch.arange(1.0, 7.0)).sum().backward()
    assert torch.allclose(fast, plain, rtol=1e-5, atol=1e-7)
    assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("q", [1.0, 1.5, 3.0])
def test_the_traced_noise_has_the_moments_of_the_noise(q):
    """At most one run in 10^6 is further off than five standard errors."""
    x = torch.linspace(-2, 2, 9)
    draws = torch.vmap(lambda _: bl.sparseout(x, 0.3, q), randomness="different")(torch.zeros(40_000))
    variance = x.abs().pow(q) * 0.3 / 0.7
    assert ((draws.mean(0) - x).abs() <= 5 * (variance / 40_000).sqrt() + 1e-6).all()
    kurtosis = (1 / 0.3 + 1 / 0.7) - 3  # E xi^4 / Var^2 of a coin
    error = variance * (abs(kurtosis - 1) / 40_000) ** 0.5
    assert ((draws.var(0) - variance).abs() <= 5 * error + 1e-6).all()


def test_gradients_of_gradients_under_a_transform():
    """A vector with noise of one draw: the second derivative of |x|^(1/2) xi is -|x|^(-3/2) xi / 4."""
    x = torch.tensor([0.25, 1.0, 4.0])
    second = torch.func.vmap(
        torch.func.grad(torch.func.grad(lambda t: bl.sparseout(t, 0.5, 1.0))), randomness="different"
    )(x)
    assert torch.allclose(second.abs(), x.pow(-1.5) / 4, rtol=1e-5)  # xi is +1 or -1


@pytest.mark.parametrize("kind", KINDS)
def test_per_sample_gradients(kind):
    model = network(kind)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x.unsqueeze(0),)).square().sum()

    assert torch.func.grad(loss)(parameters, BATCH[0]).keys() == parameters.keys()
    samples = BATCH[:1].expand(5, *BATCH.shape[1:])
    same = torch.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")(parameters, samples)
    first = next(iter(same.values()))
    assert len(first) == 5
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(first)), "each sample has its own noise"
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, BATCH)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_whole(kind):
    torch._dynamo.reset()
    compiled = torch.compile(network(kind), backend="aot_eager", fullgraph=True)
    compiled(BATCH).sum().backward()
    assert not torch.equal(compiled(BATCH), compiled(BATCH)), "each call draws"


@pytest.mark.parametrize("kind", KINDS)
def test_exported(kind):
    model = network(kind)
    program = torch.export.export(model, (BATCH,)).module()
    assert not torch.equal(program(BATCH), program(BATCH)), "in training mode each call draws"
    still = torch.export.export(model.eval(), (BATCH,)).module()
    assert torch.equal(still(BATCH), model(BATCH))


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_without_memory(kind):
    with FakeTensorMode():
        assert network(kind)(torch.empty(2, 3, 8, 8)).shape == (2, 64)
    assert bl.bridgeout(torch.empty(4, 3, 3, 3, device="meta"), 0.3, 1.0, target_fraction=0.5).device.type == "meta"


def test_a_default_device_does_not_move_what_is_on_the_cpu(offline):
    with torch.device("cpu"):
        model = bl.build_model("vgg11", width=0.125)
        rows, weights = torch.randn(5, 3), torch.randn(3)
    before = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        images = bl.load_images("digits", train=64, valid=32, test=16)
        assert images.train.x.device.type == "cpu"
        bl.attach_bridgeout(model, 0.3, 1.5, target_fraction=0.5)
        bl.fit(model, images, bl.Recipe(epochs=1, batch_size=32), device="cpu", progress=False)
        curve = bl.pruning.curve(bl.detach_bridgeout(model), images, (0.0, 0.5), remove=True, recalibrate=True)
        assert len(curve) > 0
        draws = torch.Generator().manual_seed(0)
        estimate, error = bl.theory.monte_carlo_penalty(rows, weights, 0.3, 1.0, "gaussian", "features", 200, draws)
        assert abs(estimate - bl.theory.exact_penalty(rows, weights, 0.3, 1.0)) < 6 * error
    finally:
        torch.set_default_device(before)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_in_the_backward_pass_with_the_same_noise(kind):
    model = network(kind)
    weights = list(model.parameters())
    with seeded(0):
        plain = torch.autograd.grad(model(BATCH).square().sum(), weights)
    with seeded(0):
        out = torch.utils.checkpoint.checkpoint(model, BATCH, use_reentrant=False)
        again = torch.autograd.grad(out.square().sum(), weights)
    assert all(itertools.starmap(torch.equal, zip(plain, again, strict=True)))


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_keeps_its_dtype(kind):
    with torch.autocast("cpu", torch.bfloat16):
        assert network(kind)(BATCH).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_copied_averaged_and_stored(kind, tmp_path):
    model = network(kind)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = copy.deepcopy(model)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert not torch.equal(other(BATCH), other(BATCH)), "a copy has its noise"
    assert torch.equal(other.eval()(BATCH), model.eval()(BATCH)) and torch.equal(averaged.eval()(BATCH), model(BATCH))
