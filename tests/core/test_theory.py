"""The penalties: closed form, exact and simulated, against one another and against things that are none of ours."""

import itertools
import math

import numpy as np
import pytest
import torch
from refusals import refused
from scipy import integrate, stats
from sklearn.linear_model import Lasso, Ridge
from torch import Tensor

import bridgeout_lite as bl
from bridgeout_lite import noise, theory

PLACES = ["features", "weights"]
FAMILIES = ["gaussian", "bernoulli", "poisson", "softmax"]
EXPONENTS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]


def problem(n: int = 7, d: int = 5, classes: int | None = None, scale: float = 0.5, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=g, dtype=torch.float64)
    weights = scale * torch.randn((d, classes) if classes else (d,), generator=g, dtype=torch.float64)
    return features, weights


def for_family(family: str, **options):
    return problem(classes=3 if family == "softmax" else None, **options)


def moves(features: Tensor, weights: Tensor, p: float, q: float, noise_on: str, form: str):
    """All masks one after another: (probability, change of eta). Plain loops, to share nothing with the package."""
    moved = features if noise_on == "features" else weights
    size = torch.where(moved == 0, 0.0, moved.abs().pow(q / 2)) * (moved.sign() if form == "odd" else 1.0)
    count = features.shape[1] if noise_on == "features" else weights.numel()
    for mask in itertools.product((0, 1), repeat=count):
        chance = math.prod(1 - p if kept else p for kept in mask)
        xi = torch.tensor([1 / (1 - p) - 1 if kept else -1.0 for kept in mask], dtype=torch.float64)
        if noise_on == "features":
            yield chance, (size * xi) @ weights
        else:
            yield chance, features @ (size * xi.view_as(weights))


# ---- closed form, exact, Monte Carlo ----------------------------------------------------------------------------


@pytest.mark.parametrize("noise_on", PLACES)
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("p", [0.05, 0.5, 0.8])
def test_gaussian_closed_form_against_monte_carlo(p, q, noise_on):
    """Within 4 standard errors at fixed seeds; with free ones, one of the 36 would fail with probability 0.2 %."""
    features, weights = problem()
    closed = theory.lq_penalty(features, weights, p, q, "gaussian", noise_on).item()
    estimate, error = theory.monte_carlo_penalty(
        features, weights, p, q, "gaussian", noise_on, draws=4000, generator=torch.Generator().manual_seed(1)
    )
    assert error > 0
    assert abs(estimate - closed) < 4 * error
    assert error < 0.2 * closed  # the comparison says something


@pytest.mark.parametrize("noise_on", PLACES)
@pytest.mark.parametrize("q", EXPONENTS)
@pytest.mark.parametrize("form", ["odd", "even", None])
def test_gaussian_closed_form_is_exact(form, q, noise_on):
    features, weights = problem()
    for p in (0.01, 0.5, 0.9):
        closed = theory.lq_penalty(features, weights, p, q, "gaussian", noise_on)
        exact = theory.exact_penalty(features, weights, p, q, "gaussian", noise_on, form)
        assert abs(closed - exact) <= 1e-10 * max(1.0, abs(closed))


def test_gaussian_closed_form_is_the_formula_of_the_book():
    features, weights = problem()
    p, q = 0.3, 1.5
    on_features = 0.5 * p / (1 - p) * (features.abs() ** q @ weights**2).mean()
    on_weights = 0.5 * p / (1 - p) * ((features**2).mean(0) * weights.abs() ** q).sum()
    torch.testing.assert_close(theory.lq_penalty(features, weights, p, q), on_features)
    torch.testing.assert_close(theory.lq_penalty(features, weights, p, q, noise_on="weights"), on_weights)


@pytest.mark.parametrize("noise_on", PLACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_exact_penalty_against_plain_loops(family, noise_on):
    features, weights = for_family(family, d=3)
    for p, q, form in [(0.3, 1.0, "odd"), (0.6, 2.5, "even")]:
        eta = features @ weights
        total = 0.0
        for chance, change in moves(features, weights, p, q, noise_on, form):
            gap = theory.log_partition(eta + change, family) - theory.log_partition(eta, family)
            total += chance * gap.mean().item()
        exact = theory.exact_penalty(features, weights, p, q, family, noise_on, form).item()
        assert exact == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("noise_on", PLACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_monte_carlo_against_exact(family, noise_on):
    """Where the closed form is only second order. Within 4 standard errors at fixed seeds; with free
    ones, one of the 32 would fail with probability 0.2 %."""
    features, weights = for_family(family, d=4)
    for q, form in [(1.0, None), (0.5, "even"), (2.0, "odd"), (3.0, None)]:
        exact = theory.exact_penalty(features, weights, 0.5, q, family, noise_on, form).item()
        estimate, error = theory.monte_carlo_penalty(
            features,
            weights,
            0.5,
            q,
            family,
            noise_on,
            draws=4000,
            generator=torch.Generator().manual_seed(3),
            form=form,
        )
        assert abs(estimate - exact) < 4 * error
        assert error < 0.1 * exact


# The remainder of the Taylor series behind the closed form is at most sup|A'''| E|change of eta|^3 / 6. For bernoulli
# A''' is the third central moment of a variable on {0, 1}, at most 1/(6 sqrt 3); for softmax that of a variable whose
# values are the changes of the classes' etas, at most range^3/(6 sqrt 3); for poisson A''' = e^eta.
THIRD = 1 / (6 * math.sqrt(3))


def remainder_bound(features, weights, p, q, family, noise_on, form) -> float:
    eta = features @ weights
    total = 0.0
    for chance, change in moves(features, weights, p, q, noise_on, form):
        if family == "softmax":
            cube = THIRD * (change.max(-1).values - change.min(-1).values) ** 3
        elif family == "bernoulli":
            cube = THIRD * change.abs() ** 3
        else:
            cube = torch.maximum(eta, eta + change).exp() * change.abs() ** 3
        total += chance * cube.mean().item() / 6
    return total


@pytest.mark.parametrize("noise_on", PLACES)
@pytest.mark.parametrize("family", ["bernoulli", "poisson", "softmax"])
@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
def test_the_error_of_second_order_is_within_its_bound(q, family, noise_on):
    form = "odd" if noise_on == "features" else "even"
    small = 1e-3  # moves etas by about 1e-3 of their size
    for p, scale in [(0.3, 1.0), (0.1, 0.1), (0.5, small)]:
        features, weights = for_family(family, d=4 if noise_on == "features" else 3, scale=scale)
        if noise_on == "weights":
            weights, features = weights / scale, features * scale  # the noise is in the weights: shrink its lever
        closed = theory.lq_penalty(features, weights, p, q, family, noise_on).item()
        exact = theory.exact_penalty(features, weights, p, q, family, noise_on).item()
        bound = remainder_bound(features, weights, p, q, family, noise_on, form)
        assert abs(exact - closed) <= bound + 1e-14
        if scale == small:  # so small a noise that the bound says: equal to 1 %
            assert bound < 0.01 * closed


@pytest.mark.parametrize("noise_on", PLACES)
@pytest.mark.parametrize("q", [0.5, 1.0, 2.0, 3.0])
def test_softmax_penalty_against_the_hessian_of_autograd(q, noise_on):
    """1/2 tr(H C): H the Hessian of logsumexp by autograd, C the covariance of the etas by summing over masks."""
    features, weights = problem(n=3, d=2, classes=3, scale=1.0)
    p, total = 0.4, 0.0
    changes = list(moves(features, weights, p, q, noise_on, "odd"))
    for i, row in enumerate(features):
        hessian = torch.autograd.functional.hessian(lambda eta: eta.logsumexp(-1), row @ weights)
        covariance = sum(chance * torch.outer(change[i], change[i]) for chance, change in changes)
        total += 0.5 * (hessian * covariance).sum().item() / len(features)
    assert theory.lq_penalty(features, weights, p, q, "softmax", noise_on).item() == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_curvature_is_the_second_derivative(family):
    eta = torch.linspace(-3, 3, 9, dtype=torch.float64)
    if family == "softmax":
        hessian = torch.autograd.functional.hessian(lambda e: theory.log_partition(e, family), eta)
        want = hessian.diagonal()
    else:
        want = torch.autograd.functional.hessian(lambda e: theory.log_partition(e, family).sum(), eta).diagonal()
    torch.testing.assert_close(theory.curvature(eta, family), want)


def test_log_partition_does_not_overflow():
    assert theory.log_partition(torch.tensor(1000.0), "bernoulli") == 1000.0
    assert theory.log_partition(torch.tensor([1000.0, 0.0]), "softmax") == 1000.0


def test_softmax_of_two_classes_is_the_logistic():
    features, weights = problem()
    both = torch.stack([torch.zeros_like(weights), weights], 1)
    for q in (1.0, 2.0):
        torch.testing.assert_close(
            theory.lq_penalty(features, both, 0.3, q, "softmax"),
            theory.lq_penalty(features, weights, 0.3, q, "bernoulli"),
        )
        torch.testing.assert_close(
            theory.lq_penalty(features, both, 0.3, q, "softmax", "weights"),
            theory.lq_penalty(features, weights, 0.3, q, "bernoulli", "weights"),
        )


@pytest.mark.parametrize("noise_on", PLACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_noise_no_penalty(family, noise_on):
    features, weights = for_family(family, d=3)
    assert theory.lq_penalty(features, weights, 0.0, 1.0, family, noise_on) == 0
    assert abs(theory.exact_penalty(features, weights, 0.0, 1.0, family, noise_on)) < 1e-15
    drawn = theory.monte_carlo_penalty(features, weights, 0.0, 1.0, family, noise_on, draws=2)
    assert max(map(abs, drawn)) < 1e-15, "zero, but for products that are rounded in another order"
    zero = torch.zeros_like(features), torch.zeros_like(weights)
    for q in (0.0, 1.0, 2.0):
        assert theory.lq_penalty(*zero, 0.5, q, family, noise_on) == 0


@pytest.mark.parametrize("noise_on", PLACES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
def test_the_penalty_is_differentiable(q, family, noise_on):
    features, weights = for_family(family, n=3, d=3)
    features.requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: theory.lq_penalty(x, w, 0.3, q, family, noise_on), (features, weights))
    exact = lambda x, w: theory.exact_penalty(x[:, :2], w[:2], 0.3, q, family, noise_on)  # noqa: E731
    assert torch.autograd.gradcheck(exact, (features, weights))
    with torch.no_grad():
        features[0, 0] = weights.view(-1)[0] = 0.0
    for penalty in (theory.lq_penalty, theory.exact_penalty):
        grads = torch.autograd.grad(penalty(features, weights, 0.3, q, family, noise_on), (features, weights))
        assert all(g.isfinite().all() for g in grads)


def test_monte_carlo_is_reproducible_and_leaves_the_global_stream_alone():
    features, weights = problem()
    state = torch.random.get_rng_state()
    for place in PLACES:
        one, two = (
            theory.monte_carlo_penalty(
                features, weights, 0.5, 1.0, "gaussian", place, 50, torch.Generator().manual_seed(1)
            )
            for _ in range(2)
        )
        assert one == two
        g = torch.Generator().manual_seed(1)
        assert theory.monte_carlo_penalty(features, weights, 0.5, 1.0, noise_on=place, draws=50, generator=g) == one
        assert theory.monte_carlo_penalty(features, weights, 0.5, 1.0, noise_on=place, draws=50, generator=g) != one
    assert torch.equal(torch.random.get_rng_state(), state)


def test_monte_carlo_in_several_blocks():
    """More draws than fit in one block of masks. The standard error falls as 1/sqrt(draws)."""
    features, weights = problem(n=300, d=700, scale=0.03)  # 2^22 / 210000 = 19 draws a block
    closed = theory.lq_penalty(features, weights, 0.5, 1.0).item()
    estimate, error = theory.monte_carlo_penalty(
        features, weights, 0.5, 1.0, draws=50, generator=torch.Generator().manual_seed(0)
    )
    assert abs(estimate - closed) < 4 * error and error < 0.05 * closed


def test_float32_and_gradients_are_accepted_by_monte_carlo():
    features, weights = (t.float().requires_grad_() for t in problem())
    estimate, error = theory.monte_carlo_penalty(features, weights, 0.5, 1.0, draws=10)
    assert isinstance(estimate, float) and isinstance(error, float)


def test_errors_of_the_penalties():
    features, weights = problem()
    for penalty in (theory.lq_penalty, theory.exact_penalty, theory.monte_carlo_penalty):
        with pytest.raises(ValueError, match=r"p must be .* 0 <= p < 1 .*, got 1\.0"):
            penalty(features, weights, 1.0, 1.0)
        with pytest.raises(ValueError, match=r"q must be a finite number >= 0 .*, got -1"):
            penalty(features, weights, 0.5, -1)
        with pytest.raises(ValueError, match=r"family must be one of 'gaussian', .*, got 'gauss'"):
            penalty(features, weights, 0.5, 1.0, "gauss")
        with pytest.raises(ValueError, match=r"noise_on must be one of 'features', 'weights', got 'inputs'"):
            penalty(features, weights, 0.5, 1.0, "gaussian", "inputs")
        for bad in (weights[:-1], weights.unsqueeze(1), torch.tensor(1.0)):
            with pytest.raises(ValueError, match=r"features must be \(n, d\) and weights \(d,\) for gaussian; got"):
                penalty(features, bad, 0.5, 1.0)
        with pytest.raises(ValueError, match=r"weights \(d, C\) for softmax"):
            penalty(features, weights, 0.5, 1.0, "softmax")
        with pytest.raises(ValueError, match=r"features must be \(n, d\)"):
            penalty(features[0], weights, 0.5, 1.0)
    with pytest.raises(ValueError, match="at most 16 noisy coordinates, got 17"):
        theory.exact_penalty(torch.ones(2, 17), torch.ones(17), 0.5, 1.0)
    for draws in (1, 0, -5):
        with pytest.raises(ValueError, match=f"draws must be a whole number >= 2, got {draws}"):
            theory.monte_carlo_penalty(features, weights, 0.5, 1.0, draws=draws)
    with pytest.raises(ValueError, match="form must be one of"):
        theory.monte_carlo_penalty(features, weights, 0.5, 1.0, form="odder")
    for function in (theory.log_partition, theory.curvature):
        with pytest.raises(ValueError, match="family must be one of"):
            function(features, "normal")


@pytest.mark.parametrize("form", ["odder", "", "third"])
def test_a_third_form_is_refused_wherever_there_is_a_form(form):
    features, weights = problem()
    for act in (
        lambda: theory.exact_penalty(features, weights, 0.5, 1.0, form=form),
        lambda: theory.monte_carlo_penalty(features, weights, 0.5, 1.0, form=form),
        lambda: bl.sparseout(features, form=form),
        lambda: bl.bridgeout(weights, form=form),
        lambda: bl.Sparseout(form=form),
        lambda: bl.Bridgeout(form=form),
    ):
        refused(act, f"form must be one of 'odd', 'even', got {form!r}")


def test_theory_reads_the_forms_of_the_noise(monkeypatch):
    """A third form, entered once, is one to both: the exact penalty is that of the noise that the layers make."""
    monkeypatch.setitem(noise.FORMS, "third", noise.Form(lambda x: -x, lambda x: -x.abs()))
    features, weights = problem()
    noisy = bl.sparseout(features, 0.5, 1.0, form="third", generator=torch.Generator().manual_seed(0))
    odd = bl.sparseout(features, 0.5, 1.0, form="odd", generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(noisy - features, features - odd)
    third, odd, even = (
        theory.exact_penalty(features, weights, 0.3, 1.0, "poisson", form=form) for form in ("third", "odd", "even")
    )
    assert abs(third - odd) > 1e-3 < abs(third - even)


def test_noise_ratio_is_the_power_of_the_noise_over_that_of_the_signal():
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[::3] = 0.0
    for q in (0.0, 0.5, 1.0, 2.0, 3.0):
        noisy = bl.sparseout(x, 0.5, q, generator=torch.Generator().manual_seed(1))
        measured = (noisy - x).square().mean() / x.square().mean()  # at p = 1/2 xi is +1 or -1: exact
        assert theory.noise_ratio(x, q) == pytest.approx(measured.item(), rel=1e-9)
    assert theory.noise_ratio(x, 0.0) * x.square().mean().item() == pytest.approx(2 / 3, abs=1e-5)  # zeros count 0
    assert theory.noise_ratio(x, 2) == pytest.approx(1.0)


def test_noise_ratio_of_any_tensor():
    assert theory.noise_ratio(torch.zeros(4), 1.0) == 0.0 == theory.noise_ratio(torch.zeros(4), 0.0)
    half = torch.full((70_000,), 300.0, dtype=torch.float16)  # its squares leave the half precision
    assert theory.noise_ratio(half, 1.0) == pytest.approx(1 / 300, rel=1e-5)
    assert theory.noise_ratio(torch.tensor([1, -2, 0]), 1.0) == pytest.approx(3 / 5)
    assert type(theory.noise_ratio(torch.ones(2, requires_grad=True), 1.0)) is float
    refused(lambda: theory.noise_ratio(torch.ones(2), -1.0), "q must be a finite number >= 0")


# ---- strength of the noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p,q", [(0.5, 1.0), (0.2, 0.5), (0.7, 3.0), (0.3, 2.0), (0.4, 0.0)])
def test_matched_p_gives_the_same_noise_power(p, q):
    """By the formula, and measured: the two mean squares agree within 6 standard errors (chance 2e-9 each)."""
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:1000] = 0.0
    other = theory.matched_p(x, p, q)
    power = {
        2.0: p / (1 - p) * x.square().mean(),
        q: other / (1 - other) * torch.where(x == 0, 0.0, x.abs().pow(q)).mean(),
    }
    assert power[q] == pytest.approx(power[2.0].item(), rel=1e-12)
    squares = [
        (bl.sparseout(x, one_p, one_q, generator=torch.Generator().manual_seed(s)) - x).square()
        for s, (one_p, one_q) in enumerate([(p, 2.0), (other, q)])
    ]
    error = math.sqrt(sum(s.var().item() for s in squares) / len(x))
    assert abs(squares[0].mean() - squares[1].mean()) < 6 * error
    assert theory.matched_p(x, p, q, q) == pytest.approx(p)
    assert theory.matched_p(x, other, 2.0, q) == pytest.approx(p)  # and back
    assert theory.matched_p(x, 0.0, q) == 0.0


def test_matched_p_errors():
    for q in (0.0, 1.0):
        with pytest.raises(ValueError, match="x is all zero"):
            theory.matched_p(torch.zeros(3), 0.5, q)
    with pytest.raises(ValueError, match="p must be"):
        theory.matched_p(torch.ones(3), 1.0, 1.0)
    with pytest.raises(ValueError, match="q must be"):
        theory.matched_p(torch.ones(3), 0.5, math.inf)
    with pytest.raises(ValueError, match="reference_q must be"):
        theory.matched_p(torch.ones(3), 0.5, 1.0, -2)


def test_relative_noise():
    x = torch.tensor([0.25, -4.0], dtype=torch.float64)
    torch.testing.assert_close(theory.relative_noise(x, 0.5, 1.0), torch.tensor([2.0, 0.5], dtype=torch.float64))
    torch.testing.assert_close(theory.relative_noise(x, 0.8, 2.0), torch.tensor([2.0, 2.0], dtype=torch.float64))
    assert theory.relative_noise(torch.zeros(1), 0.5, 1.0).isinf().all()
    with pytest.raises(ValueError, match="p must be"):
        theory.relative_noise(x, -0.1, 1.0)


# ---- expected_relu ----------------------------------------------------------------------------------------------


def test_expected_relu_against_quadrature():
    for mean, deviation in itertools.product([-6.0, -2.0, -0.5, 0.0, 0.1, 1.0, 5.0], [0.01, 0.3, 1.0, 4.0]):
        law = stats.norm(mean, deviation)
        low, high = max(0.0, mean - 12 * deviation), max(0.0, mean + 12 * deviation)
        want, _ = integrate.quad(lambda z, law=law: z * law.pdf(z), low, high, epsabs=1e-14, epsrel=1e-12)
        got = theory.expected_relu(*(torch.tensor(v, dtype=torch.float64) for v in (mean, deviation**2)))
        assert got.item() == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_expected_relu_without_variance_is_relu():
    mean = torch.tensor([-1.0, 0.0, 5.0, 1e10], requires_grad=True)
    variance = torch.zeros(4, requires_grad=True)
    out = theory.expected_relu(mean, variance)
    assert out.tolist() == [0.0, 0.0, 5.0, 1e10]
    out.sum().backward()
    assert mean.grad[[0, 2, 3]].tolist() == [0.0, 1.0, 1.0]
    assert variance.grad.isfinite().all()


def test_expected_relu_in_float32_over_a_grid():
    mean, variance = torch.meshgrid(torch.linspace(-5, 5, 41), torch.logspace(-4, 2, 25), indexing="ij")
    single = theory.expected_relu(mean, variance)
    assert single.dtype == torch.float32 and single.shape == mean.shape
    torch.testing.assert_close(
        single.double(), theory.expected_relu(mean.double(), variance.double()), rtol=1e-4, atol=1e-6
    )
    assert (single >= mean.clamp_min(0) - 1e-6).all()  # Jensen


def test_expected_relu_is_differentiable():
    values = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    spread = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(theory.expected_relu, (values, spread))


# ---- bridge regression ------------------------------------------------------------------------------------------


def test_bridge_prox_against_brute_force():
    """1000 random (z, penalty, q) against a grid of 20001 points: no point is better, and where the minimum is unique
    and the function convex (q >= 1) the best point is next to ours."""
    g = np.random.default_rng(0)
    for k in range(1000):
        z = g.normal() * 10 ** g.uniform(-1, 1)
        penalty = 10 ** g.uniform(-2, 1)
        q = [0.5, 1.0, 1.5, 2.0, 3.0, g.uniform(0.05, 1), g.uniform(1, 4)][k % 7]
        grid = np.linspace(-1.0, 1.0, 20001) * abs(z)
        value = 0.5 * (grid - z) ** 2 + penalty * np.abs(grid) ** q
        w = theory.bridge_prox(z, penalty, q)
        ours = 0.5 * (w - z) ** 2 + penalty * abs(w) ** q
        assert ours <= value.min() + 1e-12 * (1 + z**2), (z, penalty, q)
        assert w == 0 or math.copysign(1, w) == math.copysign(1, z)
        assert abs(w) <= abs(z)
        if q >= 1:
            assert abs(w - grid[value.argmin()]) <= abs(z) / 10000 * 1.0001 + 1e-6, (z, penalty, q)


def test_bridge_prox_closed_forms_and_limits():
    assert theory.bridge_prox(3.0, 1.0, 1.0) == 2.0
    assert theory.bridge_prox(-3.0, 1.0, 1.0) == -2.0
    assert theory.bridge_prox(0.5, 1.0, 1.0) == 0.0
    assert theory.bridge_prox(3.0, 1.0, 2.0) == 1.0
    for q in (0.3, 1.0, 1.5, 2.0, 5.0):
        assert theory.bridge_prox(1.7, 0.0, q) == 1.7
        assert theory.bridge_prox(0.0, 2.0, q) == 0.0
        assert theory.bridge_prox(-0.8, 0.1, q) == -theory.bridge_prox(0.8, 0.1, q)
    # next to q = 1 and 2 it is continuous
    for q in (1.0, 2.0):
        for beside in (q - 1e-7, q + 1e-7):
            assert theory.bridge_prox(2.0, 0.4, beside) == pytest.approx(theory.bridge_prox(2.0, 0.4, q), abs=1e-5)


def test_bridge_prox_jumps_for_q_below_one():
    """The known threshold of the half penalty: zero below (3/2) lambda^(2/3), at least lambda^(2/3) above."""
    threshold = 1.5 * 1.0 ** (2 / 3)
    assert theory.bridge_prox(threshold - 1e-6, 1.0, 0.5) == 0.0
    assert theory.bridge_prox(threshold + 1e-6, 1.0, 0.5) == pytest.approx(1.0, abs=1e-3)


def test_bridge_prox_errors():
    good = {"z": 1.0, "penalty": 1.0, "q": 1.0}
    bad = [("penalty", -0.1), ("penalty", math.nan), ("z", math.nan), ("z", math.inf)]
    for name, value in [*bad, *[("q", q) for q in (0.0, -1.0, math.inf, math.nan, "2")]]:
        refused(lambda: theory.bridge_prox(**good | {name: value}), f"{name} must be", f"got {value!r}")  # noqa: B023


def regression(n: int = 60, d: int = 8):
    g = np.random.default_rng(1)
    x = g.normal(size=(n, d)) * g.uniform(0.3, 3.0, size=d) + 0.5 * g.normal(size=(n, 1))
    w = g.normal(size=d) * (g.uniform(size=d) < 0.6)
    return x, x @ w + 0.5 * g.normal(size=n)


PENALTIES = np.array([0.0, 1e-3, 0.01, 0.1, 0.5, 2.0])


def test_bridge_path_at_q2_is_ridge():
    """With the columns brought to length one, lambda |X_j|^2 w_j^2 is sklearn's alpha u_j^2 with alpha = 2 lambda."""
    x, y = regression()
    length = np.sqrt((x**2).sum(0))
    path = theory.bridge_path(x, y, PENALTIES, 2.0, sweeps=5000, tolerance=1e-13)
    for penalty, w in zip(PENALTIES, path, strict=True):
        want = (
            Ridge(alpha=2 * penalty, fit_intercept=False, solver="cholesky", tol=1e-12).fit(x / length, y).coef_
            / length
        )
        np.testing.assert_allclose(w, want, rtol=1e-7, atol=1e-9)


def test_bridge_path_at_q1_is_lasso():
    """With the columns divided by |X_j|^2, lambda |X_j|^2 |w_j| is sklearn's n alpha |u_j| with alpha = lambda / n."""
    x, y = regression()
    square = (x**2).sum(0)
    path = theory.bridge_path(x, y, PENALTIES[1:], 1.0, sweeps=5000, tolerance=1e-13)
    for penalty, w in zip(PENALTIES[1:], path, strict=True):
        want = Lasso(alpha=penalty / len(y), fit_intercept=False, tol=1e-14, max_iter=200_000).fit(x / square, y).coef_
        np.testing.assert_allclose(w, want / square, rtol=1e-6, atol=1e-8)
    zeros = (path == 0).sum(1)
    assert zeros[-1] > zeros[0] == 0  # the lasso selects


@pytest.mark.parametrize("q", [0.5, 0.8, 1.2, 1.5, 3.0])
def test_bridge_path_is_at_a_minimum(q):
    """No small step and no single coordinate improves it."""
    x, y = regression()
    g = np.random.default_rng(2)

    def objective(w, penalty):
        return 0.5 * ((y - x @ w) ** 2).sum() + penalty * ((x**2).sum(0) * np.abs(w) ** q).sum()

    for penalty, w in zip(PENALTIES, theory.bridge_path(x, y, PENALTIES, q, sweeps=5000, tolerance=1e-12), strict=True):
        ours = objective(w, penalty)
        for _ in range(50):
            step = g.normal(size=len(w)) * 10 ** g.uniform(-6, -2)
            assert objective(w + step, penalty) >= ours - 1e-10 * ours
        for j, value in itertools.product(range(len(w)), (0.0, -0.5, 0.5, 2.0)):
            other = w.copy()
            other[j] = value
            assert objective(other, penalty) >= ours - 1e-10 * ours


def test_bridge_path_starts_at_least_squares_and_ends_at_zero():
    x, y = regression()
    path = theory.bridge_path(x, y, np.array([0.0, 1e9]), 1.0)
    np.testing.assert_allclose(path[0], np.linalg.lstsq(x, y, rcond=None)[0], rtol=1e-8)
    assert (path[1] == 0).all()
    with_empty_column = np.column_stack([x, np.zeros(len(x))])
    assert (theory.bridge_path(with_empty_column, y, PENALTIES, 1.0)[:, -1] == 0).all()


def test_bridge_path_errors():
    x, y = regression()
    for bad in ([0.5, 0.1], [-1.0, 0.0]):
        with pytest.raises(ValueError, match="penalties must be ascending and >= 0"):
            theory.bridge_path(x, y, np.array(bad), 1.0)
    with pytest.raises(ValueError, match="q must be"):
        theory.bridge_path(x, y, PENALTIES, -1.0)


def test_bridge_regression_is_what_bridgeout_does():
    """The expected loss under noise on the weights is least squares plus the bridge penalty of bridge_path at
    lambda = p/(1-p)/2, so its gradient vanishes at that path's point."""
    x, y = regression()
    p, q = 0.2, 1.5
    (w,) = theory.bridge_path(x, y, np.array([0.5 * p / (1 - p)]), q, sweeps=5000, tolerance=1e-13)
    features, target = torch.from_numpy(x), torch.from_numpy(y)
    weights = torch.from_numpy(w).requires_grad_()
    loss = (target - features @ weights).square().mean() / 2
    loss = loss + theory.exact_penalty(features, weights, p, q, "gaussian", "weights")
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().max() < 1e-8
