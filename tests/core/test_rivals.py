"""The rivals: exact proximal maps, groups that are what they should be, and objects that a plain loop can use."""

import copy
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from scipy.integrate import quad
from sklearn.linear_model import Lasso
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

import bridgeout_lite as bl
from bridgeout_lite.channels import apply_masks, remove_channels
from bridgeout_lite.rivals import (
    L1,
    OICSR,
    PENALTIES,
    FeatureFlow,
    GroupLasso,
    HardConcrete,
    L0Gates,
    SparseGroupLasso,
    Stress,
    TargetedDropout,
    attach_dropconnect,
    channel_groups,
    curvature,
    finish,
    group_energy,
    length,
    prox,
    prune_to_budget,
    shrink_groups,
    turning,
)

IMAGE = torch.zeros(1, 3, 32, 32)
POINTS = 1000


def draw(*shape, seed=0, low=-3.0, high=3.0):
    return torch.empty(shape, dtype=torch.float64).uniform_(low, high, generator=torch.Generator().manual_seed(seed))


def small(name="smallcnn", width=0.125, seed=0):
    torch.manual_seed(seed)
    return bl.build_model(name, width=width)


def convolutions(model):
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def is_linear(name, module):
    return isinstance(module, nn.Linear)


# --- proximal maps ----------------------------------------------------------------------------------------------------


def minimise(penalty, w, mu, cells):
    """Minimisers over v of penalty(|v|, mu) + |v - w|^2 / 2 for the rows of w, by grids that close in: the first spans
    0 to w in each dimension, each later one two cells about the best point of the last."""
    centre, width = w / 2, w.abs() / 2
    for _ in range(9):
        steps = torch.linspace(-1, 1, cells + 1, dtype=w.dtype)
        grid = torch.cartesian_prod(*[steps] * w.shape[1]).view(1, -1, w.shape[1])
        tried = centre[:, None] + grid * width[:, None]
        tried[tried.abs() < 1e-12] = 0.0  # rounding of the grid
        values = penalty(tried.abs(), mu[:, None]) + (tried - w[:, None]).square().sum(-1) / 2
        centre = tried[torch.arange(len(w)), values.argmin(1)]
        width, cells = width * 4 / cells, 20
    return centre


def l1_minus_l2(a):
    return lambda size, mu: mu * (size.sum(-1) - a * size.square().sum(-1).sqrt())


def transformed_l1(a):
    return lambda size, mu: mu * ((a + 1) * size / (a + size)).sum(-1)


def scad(a):
    def value(size, mu):
        x, mu = size.squeeze(-1), mu.expand(size.shape[:-1])
        x = x.minimum(a * mu)  # level from there on
        return torch.where(x < mu, mu * x, mu * x - (x - mu).square() / (2 * (a - 1)))

    return value


USUAL = {
    "l1": lambda size, mu: mu * size.sum(-1),
    "l0": lambda size, mu: mu * (size != 0).sum(-1),
    "transformed l1": transformed_l1(1.0),
    "l1 - l2": l1_minus_l2(1.0),
    "scad": scad(3.7),
}
OTHERS = [
    ("transformed l1", 0.3, transformed_l1(0.3)),
    ("transformed l1", 4.0, transformed_l1(4.0)),
    ("l1 - l2", 0.5, l1_minus_l2(0.5)),
    ("scad", 2.2, scad(2.2)),
]


def penalty_value(v, mu, kind):
    """The penalty of its usual shape at a tensor."""
    size = v.abs().view(1, -1) if kind == "l1 - l2" else v.abs().view(-1, 1)
    return USUAL[kind](size, torch.tensor([mu], dtype=v.dtype)).sum()


@pytest.mark.parametrize("kind, shape, penalty", [*((kind, None, value) for kind, value in USUAL.items()), *OTHERS])
def test_a_proximal_map_is_the_numerical_minimum(kind, shape, penalty):
    dimensions = 2 if kind == "l1 - l2" else 1
    w, mu = draw(POINTS, dimensions), draw(POINTS, seed=1, low=0.01, high=2.0)
    parts = [minimise(penalty, w[i], mu[i], 60 if dimensions == 2 else 2000) for i in torch.arange(POINTS).split(100)]
    found = torch.stack([prox(x, float(m), kind, shape) for x, m in zip(w, mu, strict=True)])
    assert (found - torch.cat(parts)).abs().max() < 1e-5
    assert 0.03 < (found == 0).double().mean() < 0.97, "both sides of the threshold are met"


def test_every_branch_of_l1_minus_l2():
    w = torch.tensor([0.9, -0.4, 0.0, 0.2])
    assert prox(w, 1.0, "l1 - l2").tolist() == pytest.approx([0.9, 0, 0, 0])  # the largest alone
    assert prox(w, 1.0, "l1 - l2", 0.05).tolist() == [0.0] * 4
    assert prox(w, 1.0, "l1 - l2", 0.5).tolist() == pytest.approx([0.4, 0, 0, 0])
    assert (prox(w, 0.3, "l1 - l2") != 0).tolist() == [True, True, False, False]
    assert prox(-w.view(2, 2), 1.0, "l1 - l2").tolist() == [[pytest.approx(-0.9), 0.0], [0.0, 0.0]]
    assert prox(torch.zeros(3), 1.0, "l1 - l2").tolist() == [0.0] * 3
    assert prox(torch.empty(0), 1.0, "l1 - l2").numel() == 0


@pytest.mark.parametrize("kind", PENALTIES)
def test_a_map_with_no_weight_moves_nothing_and_is_odd(kind):
    w = draw(50)
    assert torch.equal(prox(w, 0.0, kind), w)
    assert torch.equal(prox(-w, 0.7, kind), -prox(w, 0.7, kind))
    assert prox(w.float(), 0.7, kind).dtype == torch.float32


@pytest.mark.parametrize("kind", PENALTIES)
def test_a_map_in_single_precision_is_that_in_double(kind):
    for mu in (1e-4, 0.03, 0.7, 2.5):
        w = torch.cat([draw(POINTS), mu * draw(POINTS, seed=1)]).float()
        found, exact = prox(w, mu, kind), prox(w.double(), mu, kind)
        away = exact.abs() > 1e-4 * mu  # on a threshold rounding decides
        assert (found - exact)[away].abs().max() < 2e-6
        assert ((found == 0) | (found.sign() == w.sign())).all() and (found.abs() <= w.abs()).all()


@pytest.mark.parametrize("mu, threshold", [(1e-3, 2e-3), (0.1, 0.2), (0.25, 0.5), (1.0, 1.5)])
def test_transformed_l1_next_to_its_threshold(mu, threshold):
    w = threshold * torch.linspace(0.999, 1.01, 20001)
    found, exact = prox(w, mu, "transformed l1"), prox(w.double(), mu, "transformed l1")
    assert (found >= 0).all() and (found == 0).any() and (found > 0).any()
    assert (found - exact).abs().max() < 1e-7 * max(1.0, threshold)


@pytest.mark.parametrize("kind", PENALTIES)
def test_weights_that_are_no_numbers_stay_so(kind):
    w = torch.tensor([[0.1, math.nan], [2.0, -1.0]])
    for mu in (0.01, 0.7, 3.0):
        assert prox(w, mu, kind)[0, 1].isnan()
    assert shrink_groups(w, 0.3)[0].isnan().all() and not shrink_groups(w, 0.3)[1].isnan().any()


def test_the_largest_alone_in_any_layout():
    w = draw(4, 3, 3, 3, low=-1.0, high=1.0)
    mu = w.abs().max().item() + 1e-3
    found = prox(w.to(memory_format=torch.channels_last), mu, "l1 - l2")
    assert torch.equal(found, prox(w, mu, "l1 - l2")) and found.count_nonzero() == 1
    assert found.flatten()[w.abs().argmax()] != 0


@pytest.mark.parametrize("w", [[1.0, 2.0], None, True, 3.0, torch.tensor([1, 2]), torch.tensor([True])])
def test_what_are_no_weights_is_refused(w):
    for function in (prox, shrink_groups):
        with pytest.raises(ValueError, match="weights must be a floating-point tensor, got"):
            function(w, 1.0)


def test_bad_groups_and_shrinkages_are_refused():
    with pytest.raises(ValueError, match=r"2 dimensions or more, got shape \(3,\)"):
        shrink_groups(torch.ones(3), 1.0)
    for mu in (-1, math.nan, math.inf, None, torch.tensor(-1.0), torch.tensor([1.0, math.nan]), torch.ones(3)):
        with pytest.raises(ValueError, match="mu must be"):
            shrink_groups(torch.ones(2, 3), mu)


def test_shrunk_groups_are_the_numerical_minimum():
    w, mu = draw(POINTS, 2), draw(POINTS, seed=1, low=0.01, high=3.0)
    parts = [
        minimise(lambda size, m: m * size.square().sum(-1).sqrt(), w[i], mu[i], 60)
        for i in torch.arange(POINTS).split(100)
    ]
    found = shrink_groups(w, mu)
    assert (found - torch.cat(parts)).abs().max() < 1e-5
    assert 0.1 < (found == 0).all(1).double().mean() < 0.9
    assert torch.equal(shrink_groups(torch.zeros(2, 3, 1, 1), 1.0), torch.zeros(2, 3, 1, 1))


@pytest.mark.parametrize(
    "arguments, says",
    [
        ((-1.0,), "mu must be a finite number >= 0, got -1.0"),
        ((math.nan,), "mu must be"),
        ((1.0, "l3"), "kind must be one of 'l1', 'l0'"),
        ((1.0, "l1", 2.0), "'l1' has no shape"),
        ((1.0, "transformed l1", 0.0), "needs shape > 0, got 0"),
        ((1.0, "scad", 2.0), "needs shape > 2, got 2"),
        ((1.0, "l1 - l2", 1.5), "needs 0 <= shape <= 1, got 1.5"),
    ],
)
def test_bad_penalties_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        prox(torch.ones(3), *arguments)


# --- penalties on weights ---------------------------------------------------------------------------------------------


def test_penalties_are_their_sums():
    model = small()
    weights = [conv.weight.detach() for conv in convolutions(model)]
    l1 = sum(w.abs().sum() for w in weights)
    groups = sum(math.sqrt(f.numel()) * f.norm() for w in weights for f in w)
    assert L1(0.5).penalty(model).item() == pytest.approx(0.5 * l1.item(), rel=1e-5)
    assert GroupLasso(0.5).penalty(model).item() == pytest.approx(0.5 * groups.item(), rel=1e-5)
    rows = math.sqrt(model.dense.in_features) * model.dense.weight.norm(dim=1).sum()
    found = GroupLasso(2.0, where=lambda name, module: name == "dense").penalty(model)
    assert found.item() == pytest.approx(2 * rows.item(), rel=1e-5)
    found.backward()
    assert model.dense.weight.grad is not None and model.conv1.weight.grad is None


class Shared(nn.Module):
    """One weight in two modules."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


def test_a_weight_that_layers_share_counts_once():
    model = Shared()
    w = model.first.weight.detach().clone()
    assert L1(1.0).penalty(model).item() == pytest.approx(w.abs().sum().item(), rel=1e-6)
    one = SparseGroupLasso(0.1).penalty(nn.Sequential(model.first)).item()
    assert SparseGroupLasso(0.1).penalty(model).item() == pytest.approx(one, rel=1e-6)
    L1(1.0, proximal=True).after_step(model, 0.01)
    assert torch.equal(model.first.weight, prox(w, 0.01))
    w, x = model.first.weight.detach().clone(), torch.randn(2, 4, 8, 8)
    gates = L0Gates(1.0)
    gates.attach(model)
    chances = model.first.parametrizations.weight[0].open_probability()
    assert gates.penalty(model).item() == pytest.approx(36 * chances.sum().item())
    seen = model.eval()(x)
    gates.detach(model)
    assert torch.allclose(model(x), seen, atol=1e-6) and model.first.weight is model.second.weight
    assert torch.allclose(model.first.weight, w * (0.7 * 1.2 - 0.1), atol=1e-6)


def test_frozen_weights_are_not_moved():
    model = small()
    model.conv1.requires_grad_(False)
    frozen, moved = model.conv1.weight.clone(), model.conv2.weight.clone()
    for method in (L1(1.0, proximal=True), GroupLasso(1.0, proximal=True)):
        method.after_step(model, 0.01)
    assert (SparseGroupLasso(1.0, beta=1.0).settle(model).conv2.weight == 0).all()
    assert torch.equal(model.conv1.weight, frozen) and not torch.equal(model.conv2.weight, moved)


def test_under_noise_the_penalty_is_that_of_the_clean_weight():
    model = small()
    before = GroupLasso(1.0).penalty(model)
    bl.attach_bridgeout(model, 0.3, 1.5).train()
    assert torch.equal(GroupLasso(1.0).penalty(model), before)
    GroupLasso(1.0, proximal=True).after_step(model, 1.0)
    assert all((conv.weight == 0).all() for conv in convolutions(bl.detach_bridgeout(model)))


def descend(model, x, y, regulariser, steps, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (F.mse_loss(model(x), y) / 2 + regulariser.penalty(model)).backward()
        optimizer.step()
        regulariser.after_step(model, lr)


def regression(rows=60, features=8, seed=0):
    x = draw(rows, features, seed=seed, low=-1.0, high=1.0)
    y = x @ torch.tensor([2.0, -1.0, 0.5, 0, 0, 0, 0, 0], dtype=torch.float64) + 0.1 * draw(rows, seed=seed + 1)
    torch.manual_seed(seed)
    return nn.Linear(features, 1, bias=False).double(), x, y[:, None]


def test_proximal_l1_finds_the_lasso_and_its_exact_zeros():
    model, x, y = regression()
    descend(model, x, y, L1(0.1, proximal=True, where=is_linear), 600, 1.0)
    expected = Lasso(alpha=0.1, fit_intercept=False, tol=1e-12).fit(x.numpy(), y.numpy()).coef_
    found = model.weight.detach().numpy().ravel()
    assert abs(found - expected).max() < 1e-6
    assert ((found == 0) == (expected == 0)).all() and (found == 0).sum() >= 3


def test_the_same_penalty_by_gradient_has_no_exact_zeros():
    model, x, y = regression()
    descend(model, x, y, L1(0.1, where=is_linear), 2000, 0.05)
    assert (model.weight != 0).all() and (model.weight.abs() < 0.02).sum() >= 3


def test_proximal_group_lasso_meets_its_optimality_conditions():
    torch.manual_seed(0)
    model, x = nn.Linear(6, 5, bias=False).double(), draw(80, 6, low=-1.0, high=1.0)
    y = x @ draw(6, 5, seed=3) * torch.tensor([1.0, 0.5, 0.05, 0.02, 0.0])
    descend(model, x, y, GroupLasso(0.02, proximal=True, where=is_linear), 1500, 1.0)
    w = model.weight.detach()
    slope = ((x @ w.T - y).T @ x) / y.numel()  # of mse / 2
    strength, norms = 0.02 * math.sqrt(6), w.norm(dim=1)
    alive = norms > 0
    assert alive.tolist() == [True, True, False, False, False]
    assert (slope[~alive].norm(dim=1) <= strength + 1e-9).all()
    assert (slope[alive] + strength * w[alive] / norms[alive, None]).abs().max() < 1e-8


@pytest.mark.parametrize("inner", PENALTIES)
def test_variable_splitting_goes_downhill_and_settles_on_exact_zeros(inner):
    model, x, y = regression()
    method = SparseGroupLasso(0.02, inner, beta=0.5, every=10**6, where=is_linear)
    optimizer, values = torch.optim.SGD(model.parameters(), 0.2), []
    for _ in range(300):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y) / 2 + method.penalty(model)
        loss.backward()
        copied = method.copy_of(model.weight)
        # 0.02 r(V), written as beta times what the map at 0.02 / beta minimises
        values.append(loss.item() + 0.5 * penalty_value(copied, 0.02 / 0.5, inner).item())
        optimizer.step()
        method.after_step(model)
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values))
    assert (model.weight != 0).all()
    expected = method.copy_of(model.weight)
    assert torch.equal(method.settle(model).weight, expected) and (model.weight == 0).any()


def test_splitting_keeps_what_is_worth_four_times_its_price():
    """Five weights that do not see each other, worth more and more of their price."""
    strength, h, worth = 0.01, 1.0, torch.tensor([[0.9], [2.0], [3.8], [4.2], [6.0]], dtype=torch.float64)
    best = (2 * worth * strength / h).sqrt()
    model = nn.Linear(1, 5, bias=False).double()
    model.weight.data.zero_()
    method = SparseGroupLasso(strength, "l0", beta=0.05, growth=1.02, every=10, where=is_linear)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    while method.present_beta < 10:
        optimizer.zero_grad()
        lasso = strength * model.weight.abs().sum()  # groups of one weight: not what this is about
        (h / 2 * (model.weight - best).square().sum() + method.penalty(model) - lasso).backward()
        optimizer.step()
        method.after_step(model)
    assert (method.settle(model).weight != 0).flatten().tolist() == [False, False, False, True, True]


def test_beta_grows_and_the_copy_comes_nearer():
    model = small()
    method = SparseGroupLasso(1e-3, "l0", beta=0.2, growth=2.0, every=3)
    distances = []
    for step in range(7):
        assert method.present_beta == 0.2 * 2 ** (step // 3)
        distances.append((method.copy_of(model.conv1.weight) - model.conv1.weight).norm().item())
        method.after_step(model)
    assert distances[0] > distances[3] > distances[6]
    assert SparseGroupLasso(1e-3).present_beta == 25e-3
    fresh = SparseGroupLasso(1e-3, "l0", beta=0.2, growth=2.0, every=3)
    fresh.resume(7)
    assert torch.equal(fresh.penalty(model), method.penalty(model)), "a resumed run goes on with the same copies"


def test_a_splitting_settles_on_the_present_weights():
    model, method = small(), SparseGroupLasso(1e-3, "l0", beta=0.2)
    best = copy.deepcopy(model.state_dict())
    method.penalty(model)
    with torch.no_grad():
        model.conv1.weight.add_(1.0)
    method.after_step(model)
    model.load_state_dict(best)
    assert torch.equal(method.settle(model).conv1.weight, method.copy_of(best["conv1.weight"]))


def test_a_splitting_counts_the_steps_of_one_model():
    method, first, second = SparseGroupLasso(1e-3, every=1), small(), small(seed=1)
    method.after_step(first)
    for model in (second, copy.deepcopy(first)):
        with pytest.raises(ValueError, match="this SparseGroupLasso has met another model: make one for each"):
            method.after_step(model)
    assert method.present_beta == 25e-3 * 1.25
    method.resume(0)
    method.after_step(second)
    assert method.present_beta == 25e-3 * 1.25


def test_beta_stops_growing_while_steps_still_converge():
    model, method = small(), SparseGroupLasso(1e-3, "l0", beta=0.2, every=1)
    method.resume(10**7)
    assert method.present_beta == 10 and method.penalty(model).isfinite()
    assert SparseGroupLasso(1.0, growth=2.0).present_beta == 25
    with pytest.raises(ValueError, match=r"beta=10 times lr=0.21 is above 2, .*: lower beta, largest or lr$"):
        method.after_step(model, 0.21)
    method.after_step(model, 0.2)


@pytest.mark.parametrize("beta, converges", [(1.9, True), (2.1, False)])
def test_a_pull_of_two_over_lr_is_one_too_many(beta, converges):
    model = nn.Linear(4, 3, bias=False)
    model.weight.data.uniform_(0.01, 0.02, generator=torch.Generator().manual_seed(0))
    method, optimizer = SparseGroupLasso(1e-2, "l0", beta=beta, where=is_linear), torch.optim.SGD(model.parameters(), 1)
    lasso = GroupLasso(1e-2, where=is_linear)
    for _ in range(100):
        optimizer.zero_grad()
        (method.penalty(model) - lasso.penalty(model)).backward()
        optimizer.step()
    assert (method.settle(model).weight == 0).all().item() is converges


@pytest.mark.parametrize("method", [SparseGroupLasso(1e-3, every=1), OICSR(1e-3), L1(0.1)])
def test_methods_can_be_sent_to_another_process(method):
    model = small()
    value = method.penalty(model)
    method.after_step(model)
    value = method.penalty(model)
    for copied in (pickle.loads(pickle.dumps(method)), copy.deepcopy(method)):
        other = copy.deepcopy(model)
        assert repr(copied) == repr(method) and torch.equal(copied.penalty(other), value)
        copied.after_step(other)


def test_finishing_is_what_the_method_says():
    model, method = small(), SparseGroupLasso(1e-3, "l0", beta=0.2)
    expected = method.copy_of(model.conv1.weight)
    assert torch.equal(finish(model, method).conv1.weight, expected) and (expected == 0).any()
    gated = small()
    keys = list(gated.state_dict())
    method = L0Gates(1.0)
    method.attach(gated)
    assert finish(gated, method) is gated and list(gated.state_dict()) == keys
    before = copy.deepcopy(model.state_dict())
    for nothing in (None, L1(1.0)):
        finish(model, nothing)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_strength_zero_switches_a_penalty_off():
    model = small()
    before = copy.deepcopy(model.state_dict())
    for method in (L1(0), GroupLasso(0.0), L1(0, True), GroupLasso(0, True), SparseGroupLasso(0), OICSR(0)):
        assert method.penalty(model) == 0
        method.after_step(model, 0.1)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# --- channels ---------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A stem of 2 channels, one residual block with 3 inside, and a reader behind 2x2 flattened pixels."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.inner, self.inner_norm = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.back, self.back_norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        inner = F.relu(self.inner_norm(self.inner(x)))
        return self.head(self.flatten(self.pool(F.relu(x + self.back_norm(self.back(inner))))))


def test_groups_run_through_batchnorm_and_residual_additions():
    torch.manual_seed(0)
    model = Residual()
    tied, alone = channel_groups(model, torch.zeros(1, 1, 8, 8))
    assert (tied.root, tied.size, tied.writers, tied.readers) == ("stem", 2, ("stem", "back"), ("inner", "head"))
    assert (alone.root, alone.size, alone.writers, alone.readers) == ("inner", 3, ("inner",), ("back",))
    expected = [
        model.stem.weight[i].square().sum()
        + model.back.weight[i].square().sum()
        + model.inner.weight[:, i].square().sum()
        + model.head.weight[:, 4 * i : 4 * i + 4].square().sum()  # a channel is four pixels behind flatten
        for i in range(2)
    ]
    assert torch.allclose(group_energy(model, tied), torch.stack(expected))
    within = [model.inner.weight[i].square().sum() + model.back.weight[:, i].square().sum() for i in range(3)]
    assert torch.allclose(group_energy(model, alone), torch.stack(within))
    penalty = OICSR(0.1, torch.zeros(1, 1, 8, 8)).penalty(model)
    assert penalty.item() == pytest.approx(0.1 * sum(e.sqrt().item() for e in expected + within), rel=1e-5)


def test_groups_of_a_chain_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1), nn.Conv2d(1, 3, 1))
    for layer, weights in ((0, [3.0, 0.0]), (3, [4.0, 12.0]), (4, [1.0, 2.0, 2.0])):
        model[layer].weight.data.copy_(torch.tensor(weights).view_as(model[layer].weight))
    first, second = channel_groups(model, torch.zeros(1, 1, 4, 4))
    assert group_energy(model, first).tolist() == [9 + 16, 144]
    assert group_energy(model, second).tolist() == [16 + 144 + 1 + 4 + 4]
    assert OICSR(1.0, torch.zeros(1, 1, 4, 4)).penalty(model).item() == pytest.approx(5 + 12 + 13)


def test_groups_through_depthwise_convolutions_and_shortcuts():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 3))
    (group,) = channel_groups(model)
    assert (group.writers, group.readers) == (("0", "1"), ("2",))
    groups = channel_groups(small("resnet34c"))
    assert len(groups) == 3 + 13, "one for each stage's sum, one inside of each block"
    stage = next(g for g in groups if "stage2.0.shortcut.conv" in g.writers)
    assert len(stage.writers) == 1 + 4 and "stage3.0.shortcut.conv" in stage.readers
    assert len(channel_groups(small("wrn-10-2"))) == 1 + 3 + 3


def test_an_empty_group_has_no_slope():
    model = small()
    for parameter in model.parameters():
        parameter.data.zero_()
    OICSR(1.0).penalty(model).backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


@pytest.mark.parametrize("name", ["smallcnn", "vgg11", "resnet34c", "wrn-10-2"])
def test_pruning_to_a_budget_takes_the_fewest_channels(name):
    model = small(name)
    state = copy.deepcopy(model.state_dict())
    whole = bl.cost.count(model, IMAGE)[1]
    pruned = prune_to_budget(model, 0.7, IMAGE)
    macs = bl.cost.count(pruned, IMAGE)[1]
    assert 0.5 * whole < macs <= 0.7 * whole
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    pruned.train()(torch.randn(4, 3, 32, 32)).sum().backward()
    order = []  # of all channels that may go
    for group in channel_groups(model):
        energies = group_energy(model, group).tolist()
        order += sorted((energy, group.root, k) for k, energy in enumerate(energies))[: group.size // 2]
    picks = [(root, channel) for _, root, channel in sorted(order)]
    widths = {group.root: group.size for group in channel_groups(pruned)}
    gone = sum(group.size - widths[group.root] for group in channel_groups(model))

    def left(k):
        chosen = {root: [c for r, c in picks[:k] if r == root] for root, _ in picks}
        return bl.cost.count(remove_channels(model, chosen, IMAGE), IMAGE)[1]

    assert left(gone) == macs and left(gone - 1) > 0.7 * whole, "one channel less would not do"


def test_what_goes_has_the_lowest_energy_of_the_network():
    model = small("vgg11")
    low = [("conv3", 1), ("conv5", 0), ("conv5", 7)]
    groups = {g.root: g for g in channel_groups(model)}
    with torch.no_grad():
        for root, channel in low:
            for member in groups[root].members:
                w = model.get_submodule(member.layer).weight
                (w if member.writes else w.transpose(0, 1))[member.places[member.channels == channel]] *= 1e-4
    pruned = prune_to_budget(model, 0.999, IMAGE)
    widths = [
        {n: m.out_channels for n, m in net.named_modules() if isinstance(m, nn.Conv2d)} for net in (model, pruned)
    ]
    reduced = {name for name in widths[0] if widths[0][name] != widths[1][name]}
    assert reduced and reduced <= {"conv3", "conv5"}


def test_energies_per_weight_are_no_advantage_to_large_kernels():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 5))
    for conv, value in zip(model, (1.0, 1.0, 0.5), strict=True):
        conv.weight.data.fill_(value)
    # a channel of the first layer: 7 weights of 1; of the second: 4 of 1 and 200 of a half
    for per_weight, widths in ((False, [3, 4, 8]), (True, [4, 3, 8])):
        pruned = prune_to_budget(model, 0.999, IMAGE, per_weight=per_weight)
        assert [conv.out_channels for conv in pruned] == widths


def test_masked_models_are_ranked_and_never_half_penalised():
    model = bl.pruning.prune(small("vgg11"), 0.3)
    plain = apply_masks(copy.deepcopy(model))
    pruned, expected = prune_to_budget(model, 0.6, IMAGE), prune_to_budget(plain, 0.6, IMAGE)
    assert all(torch.equal(a, b) for a, b in zip(pruned.parameters(), expected.parameters(), strict=True))
    group = channel_groups(model)[0]
    for act in (OICSR(1.0).penalty, lambda m: group_energy(m, group), L1(1.0).penalty, GroupLasso(1.0).penalty):
        with pytest.raises(ValueError, match=r"'conv1' carries a pruning mask: call bl.pruning.apply_masks\(model\)"):
            act(model)
    method = OICSR(1.0)
    method.penalty(plain)
    L0Gates(1.0).attach(plain)
    with pytest.raises(ValueError, match="the weight of 'conv1' carries noise or gates: take them off first"):
        method.penalty(plain)


def test_an_empty_group_has_no_slope_in_half_precision():
    model = small()
    group = channel_groups(model)[0]
    model.half().conv1.weight.data.zero_()
    model.conv2.weight.data.zero_()
    method = OICSR(1e-3)
    method._known[model] = [group]  # halves do not run on every CPU
    method.penalty(model).backward()
    assert (model.conv1.weight.grad == 0).all()
    assert group_energy(model, group).dtype == torch.float32


def test_a_layer_keeps_its_share():
    model = small("vgg11")
    model.conv2.weight.data *= 1e-6
    model.conv3.weight.data *= 1e-6  # nothing of the first three groups would be left without the cap
    pruned = prune_to_budget(model, 0.75, IMAGE, cap=0.25)
    for name, module in pruned.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels >= 0.75 * model.get_submodule(name).out_channels
    with pytest.raises(ValueError, match=r"with cap=0.25 one call reaches 0\.\d+ of the multiply-adds, and budget=0.2"):
        prune_to_budget(model, 0.2, IMAGE, cap=0.25)


class Mixing(nn.Module):
    """Flips its channels where no module shows it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.second(self.first(x).flip(1)).mean((2, 3)))


@pytest.mark.parametrize(
    "model, says",
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), "no nn.Conv2d"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), "cannot be paired by their channels: every filter .* is an output"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2)), "cannot be paired .* 2 groups"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 3)),
            r"cannot be paired .* \(GroupNorm\), which may tie .* removed; GroupLasso needs no pairs$",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 2, 3)),
            "cannot be paired .* the channels of '0' do not arrive one by one at '2', which has no channel",
        ),
    ],
)
def test_layers_that_cannot_be_paired_are_refused(model, says):
    for function in (channel_groups, OICSR(1.0).penalty, lambda m: prune_to_budget(m, 0.5, IMAGE)):
        with pytest.raises(ValueError, match=says):
            function(model)


def test_channels_mixed_out_of_sight_are_refused():
    torch.manual_seed(0)
    for example in (None, IMAGE, IMAGE + torch.randn_like(IMAGE)):
        for function in (channel_groups, lambda m, x: OICSR(1.0, x).penalty(m)):
            with pytest.raises(
                ValueError, match="cannot be paired by their channels: some operation that is no module"
            ):
                function(Mixing(), example)
    with pytest.raises(ValueError, match="some operation that is no module"):
        prune_to_budget(Mixing(), 0.7, IMAGE)


def test_data_of_another_shape_are_refused():
    model, grey = small(), torch.zeros(1, 1, 32, 32)
    for function in (channel_groups, lambda m, x: prune_to_budget(m, 0.5, x), lambda m, x: OICSR(1.0, x).penalty(m)):
        with pytest.raises(ValueError, match=r"does not take an example_input of shape \(1, 1, 32, 32\)"):
            function(model, grey)


@pytest.mark.parametrize("budget, cap", [(0, 0.5), (1.1, 0.5), (-0.1, 0.5), ("half", 0.5), (0.5, 1.0), (0.5, -0.1)])
def test_bad_budgets_are_refused(budget, cap):
    with pytest.raises(ValueError, match=r"budget|cap"):
        prune_to_budget(small(), budget, IMAGE, cap=cap)


# --- feature flow -----------------------------------------------------------------------------------------------------


def test_length_and_curvature_of_paths_by_hand():
    path = [torch.tensor([[x, y]], dtype=torch.float32) for x, y in ((0, 0), (3, 4), (6, 8), (6, 0))]
    assert length(path).item() == 5 + 5 + 8
    assert length(path, 1).item() == 7 + 7 + 8
    assert curvature(path[:3]).item() == 0, "a straight path"
    assert curvature(path).item() == pytest.approx(math.hypot(-3, -12))
    two = [torch.cat([x, 2 * x]) for x in path]
    assert length(two).item() == pytest.approx(1.5 * 18), "the mean over the batch"
    assert curvature(path[:2]).item() == 0 and length(path[:1]).item() == 0


def test_the_steps_of_residual_blocks_are_their_branches():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return x + self.branch(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), Block(), Block())
    flow = FeatureFlow(0.5, 0.25, where=lambda name, module: name in ("0", "1", "2"))
    x = torch.randn(4, 1, 6, 6)
    flow.attach(model)(x)
    first = model[0](x)
    branches = [model[1].branch(first), model[2].branch(model[1](first))]
    expected = 0.5 * sum(b.flatten(1).norm(dim=1).mean() for b in branches)
    expected += 0.25 * (branches[1] - branches[0]).flatten(1).norm(dim=1).mean()
    model(x)
    found = flow.penalty(model)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert model[1].branch.weight.grad.abs().sum() > 0


def test_paths_stay_inside_stages_and_hooks_leave_nothing():
    model, x = small("vgg11"), torch.randn(2, 3, 32, 32)
    keys = list(model.state_dict())
    flow = FeatureFlow(1.0)
    flow.attach(model)
    for _ in range(2):  # each forward pass starts anew
        model.train()(x)
    assert [len(path) for path in flow.paths] == [2, 2, 2]
    with torch.no_grad():
        model(x)
    assert flow.paths == [], "without gradients nothing is kept"
    model.train()(x)
    copied = copy.deepcopy(model)
    copied(x)
    assert len(flow.paths) == 3, "a copy of the model leaves the flow alone"
    assert flow.penalty(model) > 0 and flow.paths == []
    assert list(flow.detach(model).state_dict()) == keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_points_are_what_was_put_out_not_what_became_of_it():
    def build(inplace):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=inplace)]
        return nn.Sequential(*layers, nn.Conv2d(4, 4, 1), nn.ReLU())

    values = []
    for inplace in (False, True):
        model, flow = build(inplace), FeatureFlow(1.0, where=lambda name, module: name in ("1", "2", "3"))
        flow.attach(model)(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
        values.append(flow.penalty(model))
    assert torch.equal(values[0], values[1]) and values[0] > 0


def test_a_flow_belongs_to_one_model():
    first, second, x = small("vgg11"), small("vgg11", seed=1), torch.randn(2, 3, 32, 32)
    flow = FeatureFlow(1.0)
    flow.attach(first)(x)
    for act in (flow.penalty, flow.detach):
        with pytest.raises(ValueError, match="this FeatureFlow has met another model: make one for each"):
            act(second)
    once = flow.penalty(first).item()
    for _ in range(2):
        first[:12](x)
    with pytest.raises(ValueError, match="run the model forward"):  # parts on their own make no path
        flow.penalty(first)
    first(x)
    assert flow.penalty(first).item() == pytest.approx(once, rel=1e-4)
    flow.detach(first)
    flow.attach(second)(x)
    assert flow.penalty(second) > 0 and flow.detach(second) is second


def test_a_flow_that_cannot_be_is_refused():
    model, x = small(), torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"call attach\(model\) before training"):
        FeatureFlow(1.0).penalty(model)
    flow = FeatureFlow(1.0, where=lambda name, module: name in ("relu1", "relu2", "relu5"))
    flow.attach(model)
    with pytest.raises(ValueError, match="attached already"):
        flow.attach(model)
    model.eval()(x)
    with pytest.raises(ValueError, match="run the model forward, in training mode"):
        flow.penalty(model)
    model.train()(x)
    with pytest.raises(ValueError, match="no two consecutive layers have features of one shape"):
        flow.penalty(model)
    with pytest.raises(ValueError, match="picked no module"):
        FeatureFlow(1.0, where=lambda name, module: False).attach(model)
    for function in (length, curvature, turning):
        for path in ([], [torch.zeros(1, 2), torch.zeros(1, 3)]):
            with pytest.raises(ValueError, match="a path needs points of one shape"):
                function(path)


# --- gates ------------------------------------------------------------------------------------------------------------


def test_dropconnect_is_bridgeout_at_two_in_its_odd_form():
    w = draw(4000).requires_grad_()
    torch.manual_seed(0)
    odd = bl.bridgeout(w, 0.3, 2.0, form="odd")
    torch.manual_seed(0)
    even = bl.bridgeout(w, 0.3, 2.0, form="even")
    dropped = odd == 0
    assert torch.equal(odd, w * ((~dropped).double() / 0.7))
    positive = w >= 0
    assert torch.allclose(odd[positive], even[positive])
    assert torch.allclose(even[~positive & dropped], 2 * w[~positive & dropped])
    assert torch.allclose(even[~positive & ~dropped], w[~positive & ~dropped] * (1 - 2 * 0.3) / 0.7)
    half = bl.bridgeout(w, 0.5, 2.0, form="even")
    assert (torch.isclose(half, torch.zeros_like(w)) | torch.isclose(half, 2 * w)).all()
    model = attach_dropconnect(small(), 0.3)
    noise = model.conv1.parametrizations.weight[0]
    assert (noise.p, noise.q, noise.form) == (0.3, 2.0, "odd")


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(6, 5, 3), lambda: nn.Linear(40, 7)])
def test_targeted_dropout_drops_the_smallest_of_each_filter(make):
    torch.manual_seed(0)
    layer = make()
    w = layer.weight.detach().clone()
    model = TargetedDropout(0.4, 0.3, where=lambda name, module: module is layer).attach(layer)
    rows = w.flatten(1)
    count = int(rows.shape[1] * 0.3)
    cut = rows.abs().sort(1).values[:, count - 1 : count]
    expected = torch.where(rows.abs() <= cut, 0.0, rows).view_as(w)
    assert torch.equal(model.eval().weight, expected)
    torch.manual_seed(0)
    model.train()
    draws = torch.stack([model.weight.detach() for _ in range(400)])
    assert torch.equal(draws[:, expected != 0], w[expected != 0].expand(400, -1)), (
        "no rescaling, the others as they are"
    )
    dropped = (draws[:, expected == 0] == 0).double()
    assert ((draws == 0) | (draws == w)).all()
    n = dropped.numel()  # 5.5 standard errors: exceeded with probability 4e-8
    assert abs(dropped.mean() - 0.4) < 5.5 * math.sqrt(0.4 * 0.6 / n)
    copied = copy.deepcopy(model)
    keys = list(nn.Conv2d(1, 1, 1).state_dict())
    assert list(TargetedDropout().detach(model).state_dict()) == keys and torch.equal(model.weight, expected)
    assert parametrize.is_parametrized(copied) and torch.equal(copied.eval().weight, expected)


def test_targeted_filters_are_the_shortest():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    method = TargetedDropout(0.5, 0.5, "filters")
    short = model[0].weight.flatten(1).norm(dim=1).argsort()[:4]
    method.attach(model).eval()
    assert set((model[0].weight == 0).flatten(1).all(1).nonzero().flatten().tolist()) == set(short.tolist())
    torch.manual_seed(0)
    model.train()
    share = (model[0].weight[short] == 0).double().mean()
    assert 0 < share < 1, "weights are dropped one by one"  # 108 coins: all alike with probability 6e-33
    assert method.penalty(model) == 0


def test_gates_have_the_hard_concrete_distribution():
    gate = HardConcrete(200_000, closed=0.4).train()
    torch.manual_seed(0)
    z = gate.gates().detach().double()
    assert gate.log_alpha[0].item() == pytest.approx(math.log(0.6 / 0.4))

    def stretched(u):
        return min(1.0, max(0.0, 1.2 / (1 + (1.5 * u / (1 - u)) ** -1.5) - 0.1))

    closes_below = next(u for u in torch.linspace(0, 1, 100_001)[1:].tolist() if stretched(u) > 0)
    assert gate.open_probability()[0].item() == pytest.approx(1 - closes_below, abs=2e-5)
    error = 5.5 / math.sqrt(len(z))  # 5.5 standard errors of at most 1 a draw: below 4e-8
    assert abs((z > 0).double().mean() - gate.open_probability()[0].item()) < error / 2
    mean = quad(stretched, 0, 1, limit=200)[0]
    assert abs(z.mean() - mean) < error / 2
    assert (z == 0).any() and (z == 1).any()
    assert torch.equal(gate.eval().gates(), gate.gates()), "evaluation draws nothing"
    assert gate.gates()[0].item() == pytest.approx(0.6 * 1.2 - 0.1)


def test_gates_price_weights_and_close_exactly():
    model = small()
    plain = copy.deepcopy(model)
    method = L0Gates(0.01)
    method.attach(model)
    gates = [conv.parametrizations.weight[0] for conv in convolutions(model)]
    expected = sum(
        conv.weight[0].numel() * g.open_probability().sum() for conv, g in zip(convolutions(plain), gates, strict=True)
    )
    assert method.penalty(model).item() == pytest.approx(0.01 * expected.item(), rel=1e-5)
    method.penalty(model).backward()
    assert all((g.log_alpha.grad > 0).all() for g in gates)
    with torch.no_grad():
        gates[1].log_alpha[::2] = -50.0
        gates[1].log_alpha[1::2] = 50.0
    method.after_step(model)
    low, high = gates[1].log_alpha.aminmax()
    assert low.item() == pytest.approx(math.log(0.01)) and high.item() == pytest.approx(math.log(100))
    seen = model.eval()(torch.ones(2, 3, 32, 32))
    method.detach(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(model(torch.ones(2, 3, 32, 32)), seen)
    zero = (model.conv2.weight == 0).flatten(1).all(1)
    assert zero.tolist() == [True, False] * 2 and torch.equal(model.conv2.weight[1::2], plain.conv2.weight[1::2])


def test_gates_are_taken_off_alone():
    model, plain, x = small(), small(), torch.randn(2, 3, 32, 32)
    gates = L0Gates(1.0)
    gates.attach(model)
    bl.attach_bridgeout(model, 0.3, 1.5)
    seen = model.eval()(x)
    gates.detach(model)
    assert [type(p).__name__ for p in model.conv1.parametrizations.weight] == ["Bridgeout"]
    assert torch.allclose(model(x), seen, atol=1e-5) and not torch.equal(model.train()(x), seen)
    assert list(bl.detach_bridgeout(model).state_dict()) == list(plain.state_dict())


def test_gates_keep_the_order_of_parameters():
    """The saved state of an optimizer goes by position; gates themselves are new parameters."""
    plain, model = nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Conv2d(3, 4, 3))
    L0Gates(1.0).attach(model)
    originals = [p.shape for name, p in model.named_parameters() if name.endswith("original")]
    assert originals == [p.shape for p in plain.parameters()]
    L0Gates(1.0).detach(model)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_gates_that_are_not_there_or_in_the_way_are_refused():
    with pytest.raises(ValueError, match=r"no gates: call L0Gates\(...\).attach\(model\)"):
        L0Gates(1.0).penalty(small())
    model = bl.attach_bridgeout(small(), 0.3, 2.0)
    keys = list(model.state_dict())
    for method in (L0Gates(1.0), TargetedDropout()):
        with pytest.raises(ValueError, match="'conv1' carries a mask, noise or gates already"):
            method.attach(model)
    assert list(model.state_dict()) == keys


# --- what they have in common -----------------------------------------------------------------------------------------

METHODS = [
    lambda: L1(1e-4),
    lambda: L1(1e-3, proximal=True),
    lambda: GroupLasso(1e-4),
    lambda: GroupLasso(1e-3, proximal=True),
    *[lambda inner=inner: SparseGroupLasso(1e-4, inner, every=2) for inner in PENALTIES],
    lambda: OICSR(1e-3),
    lambda: FeatureFlow(1e-3, 1e-3),
    lambda: L0Gates(1e-5),
    lambda: TargetedDropout(0.5, 0.5),
]


@pytest.mark.parametrize("make", METHODS)
def test_a_plain_loop_trains_with_every_method(make, digits):
    method, model = make(), small(width=0.25)
    keys = list(model.state_dict())
    if hasattr(method, "attach"):
        method.attach(model)
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), []
    for _ in range(6):
        loss = F.cross_entropy(model.train()(digits.normalize(digits.train.x[:128])), digits.train.y[:128])
        penalty = method.penalty(model)
        assert penalty.shape == () and penalty.isfinite() and penalty >= 0
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
        method.after_step(model, 0.05)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    if hasattr(method, "detach"):
        method.detach(model)
    assert list(model.state_dict()) == keys
    assert " at 0x" not in repr(method), "the same in another process"


@pytest.mark.parametrize("kind", [L1, GroupLasso, SparseGroupLasso, OICSR, L0Gates])
@pytest.mark.parametrize("strength", [-1.0, math.nan, None, True])
def test_bad_strengths_are_refused(kind, strength):
    refused(lambda: kind(strength), f"strength must be a finite number >= 0, got {strength!r}")


BAD = [  # what is made, argument, bad value, part of the message
    *[(SparseGroupLasso, "beta", bad, "beta must be a finite number > 0") for bad in (0.0, -1)],
    *[(SparseGroupLasso, "growth", bad, "growth must be a finite number >= 1") for bad in (0.5, 0)],
    *[(SparseGroupLasso, "every", bad, "every must be a whole number >= 1") for bad in (0, 1.5, True)],
    (SparseGroupLasso, "largest", 0, "largest must be a finite number > 0"),
    (SparseGroupLasso, "inner", "l7", "inner must be one of 'l1', 'l0'"),
    (SparseGroupLasso, "shape", 3.0, "has no shape"),
    (L1, "proximal", "no", "proximal must be True or False"),
    *[(L0Gates, "closed", bad, "closed must be a number with 0 < closed < 1") for bad in (0.0, 1.0, -0.5, "some")],
    (TargetedDropout, "p", 1.0, "p must be a number with 0 <= p < 1"),
    (TargetedDropout, "fraction", 1.5, "fraction must be a number with 0 <= fraction <= 1"),
    (TargetedDropout, "target", "rows", "target must be one of 'weights', 'filters'"),
    (Stress, "strength", 1.5, "strength must be a number with 0 <= strength <= 1"),
    (Stress, "law", "linear", "law must be one of 'exp', 'rescaled'"),
    (FeatureFlow, "length", -1, "length must be a finite number >= 0"),
    (FeatureFlow, "curvature", math.inf, "curvature must be a finite number >= 0"),
    (FeatureFlow, "norm", 3, "norm must be 1 or 2"),
]


@pytest.mark.parametrize("make, argument, bad, says", BAD)
def test_bad_arguments_are_refused(make, argument, bad, says):
    needed = {"strength": 1.0} if make in (SparseGroupLasso, L1, L0Gates) else {}
    refused(lambda: make(**needed | {argument: bad}), says, repr(bad))


def test_weights_that_are_not_there_are_refused():
    dense = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    for method in (L1(1.0), GroupLasso(1.0), SparseGroupLasso(1.0), L0Gates(1.0)):
        act = method.attach if isinstance(method, L0Gates) else method.penalty
        with pytest.raises(ValueError, match=r"picked no module of this model, .* it has Flatten, Linear, Sequential"):
            act(dense)
    everything = GroupLasso(1.0, where=lambda name, module: name == "norm1")
    with pytest.raises(ValueError, match="'norm1', a BatchNorm2d, which has no filters"):
        everything.penalty(small())
    masked = prune.l1_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5)
    with pytest.raises(ValueError, match="carries a pruning mask"):
        L1(1.0).penalty(nn.Sequential(masked))
    with pytest.raises(ValueError, match="needs the learning rate"):
        L1(1.0, proximal=True).after_step(small())


ACTS = [
    *[make(1.0).penalty for make in (L1, GroupLasso, SparseGroupLasso)],
    *[method.attach for method in (L0Gates(1.0), TargetedDropout(), Stress())],
    OICSR(1.0).penalty,
    channel_groups,
    lambda model: prune_to_budget(model, 0.5, IMAGE),
]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", [weight_norm, parametrizations.weight_norm])
def test_weights_made_of_other_parameters_are_refused(wrap, act):
    with pytest.raises(ValueError, match=r"'0' (is made of other parameters|carries a mask|is parametrized)") as error:
        act(nn.Sequential(wrap(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 2, 3)))
    assert "\n" not in str(error.value)


def test_models_and_places_that_make_no_sense_are_refused():
    for method in (L1(1.0), GroupLasso(1.0), SparseGroupLasso(1.0), TargetedDropout(), Stress()):
        with pytest.raises(ValueError, match="this model has no parameters"):
            method.penalty(nn.Sequential(nn.ReLU()))
    for kind in (L1, GroupLasso, SparseGroupLasso, L0Gates, FeatureFlow):
        method = kind(1.0, where="conv1")
        with pytest.raises(ValueError, match="where must be a function of a module's name and the module, got 'conv1'"):
            getattr(method, "attach", method.penalty)(small())
    for kind in (GroupLasso, L0Gates):  # its filters are along the second dimension
        method = kind(1.0, where=lambda name, module: isinstance(module, nn.ConvTranspose2d))
        with pytest.raises(
            ValueError, match="'0', a ConvTranspose2d, which has no filters or rows of weights, one for"
        ):
            getattr(method, "attach", method.penalty)(nn.Sequential(nn.ConvTranspose2d(3, 4, 3)))


# --- in training ------------------------------------------------------------------------------------------------------

RECIPE = bl.Recipe(epochs=2, batch_size=64, lr=0.05, precision="float32")


@pytest.fixture(scope="module")
def digits():
    return bl.load_images("digits", train=256, valid=64)


def trained(digits, rival, epochs=2, **options):
    torch.manual_seed(0)
    model = bl.build_model("smallcnn", width=0.25)
    if hasattr(rival, "attach"):
        rival.attach(model)
    stop = options.pop("stop", None)

    def after(row):
        if row["epoch"] == stop:
            raise KeyboardInterrupt

    try:
        bl.fit(model, digits, RECIPE, device="cpu", progress=False, regulariser=rival, on_epoch=after, **options)
    except KeyboardInterrupt:
        assert stop is not None
    return finish(model, rival)


def test_fit_adds_the_penalty_and_lets_the_rival_act(digits):
    plain, strong = trained(digits, None), trained(digits, GroupLasso(1e-1))
    assert GroupLasso(1.0).penalty(strong) < 0.8 * GroupLasso(1.0).penalty(plain)
    zeros = trained(digits, L1(1e-2, proximal=True))
    assert sum(int((m.weight == 0).sum()) for m in zeros.modules() if isinstance(m, nn.Conv2d)) > 0
    assert all((m.weight != 0).all() for m in plain.modules() if isinstance(m, nn.Conv2d))


RESUMED = [
    GroupLasso(1e-3),
    SparseGroupLasso(1e-4, every=3),
    L0Gates(1e-4),
    TargetedDropout(),
    FeatureFlow(1e-3, 1e-3),
    OICSR(1e-3),
    Stress(),
]


@pytest.mark.parametrize("rival", RESUMED, ids=lambda r: type(r).__name__)
def test_a_resumed_run_with_a_rival_ends_with_the_same_bits(digits, tmp_path, rival, capsys):
    whole = trained(digits, rival)
    file = tmp_path / "run.pt"
    trained(digits, rival, checkpoint=file, stop=1)
    resumed = trained(digits, rival, checkpoint=file)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    with pytest.raises(bl.CheckpointError, match="regulariser"):
        trained(digits, GroupLasso(0.5), checkpoint=file)


def test_a_checkpoint_knows_where_the_rival_acts(digits, tmp_path, capsys):
    trained(digits, GroupLasso(1e-3), checkpoint=tmp_path / "run.pt", stop=1)
    with pytest.raises(bl.CheckpointError, match=r"another run \(another regulariser\)"):
        trained(digits, GroupLasso(1e-3, where=is_linear), checkpoint=tmp_path / "run.pt")
