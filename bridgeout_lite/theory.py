r"""The penalties that the noise induces in generalised linear models: closed form, exact, and by Monte Carlo.

A GLM with natural parameter :math:`\eta_i = x_i\cdot\beta` and log-partition function A has the loss
:math:`\ell_i = -y_i\eta_i + A(\eta_i)`. Noise with mean zero leaves the linear term alone in expectation, so what it
adds does not depend on the labels:

.. math:: R_i = E[A(\tilde\eta_i)] - A(\eta_i) \approx \tfrac12 A''(\eta_i)\,\mathrm{Var}[\tilde\eta_i],
    \qquad \mathrm{Var}[\tilde\eta_i] = \frac{p}{1-p}\begin{cases}
    \sum_j \beta_j^2|x_{ij}|^q & \text{noise on features (Sparseout)}\\
    \sum_j x_{ij}^2|\beta_j|^q & \text{noise on weights (Bridgeout).}\end{cases}

Sources: Wager, Wang and Liang 2013, arXiv:1307.1493 (dropout); the same route leads to Sparseout,
arXiv:1904.08050, and Bridgeout, arXiv:1804.08042.

Example:
    >>> x, beta = torch.tensor([[1.0, -4.0], [9.0, 0.0]]), torch.tensor([1.0, 0.5])
    >>> lq_penalty(x, beta, 0.5, 1.0), exact_penalty(x, beta, 0.5, 1.0)     # gaussian: exact to second order
    (tensor(2.7500), tensor(2.7500))
    >>> estimate, error = monte_carlo_penalty(x, beta, 0.5, 1.0, generator=torch.Generator().manual_seed(0))
    >>> abs(estimate - 2.75) < 4 * error
    True
    >>> log_partition(x[0, 0], "poisson"), curvature(x, "gaussian").sum()
    (tensor(2.7183), tensor(4.))
    >>> relative_noise(x[0], 0.5, 1.0), noise_ratio(x, 1.0)
    (tensor([1.0000, 0.5000]), 0.1428571492433548)
    >>> round(matched_p(x, 0.5, 1.0), 3), expected_relu(x[0], torch.zeros(2))
    (0.875, tensor([1., 0.]))
    >>> bridge_prox(3.0, 1.0, 1.0), bridge_path(np.eye(2), np.array([3.0, 0.5]), [0.0, 1.0], 1.0).round(3).tolist()
    (2.0, [[3.0, 0.5], [2.0, 0.0]])
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .checks import check_choice, check_exponent, check_positive, check_probability, check_whole, library
from .modules import doubled
from .noise import FORMS, bridgeout, sparseout

FAMILIES = ("gaussian", "bernoulli", "poisson", "softmax")
PLACES = {"features": "odd", "weights": "even"}  # what carries the noise, and the form that is released for it


def log_partition(eta: Tensor, family: str) -> Tensor:
    r"""A(eta): eta^2/2 (gaussian), log(1 + e^eta) (bernoulli), e^eta (poisson), or logsumexp over the last dimension of
    ``eta``, the classes (softmax). ValueError for another family."""
    check_choice(family, FAMILIES, "family")
    if family == "gaussian":
        return eta.square() / 2
    if family == "bernoulli":
        return F.softplus(eta)
    return eta.exp() if family == "poisson" else eta.logsumexp(-1)


def curvature(eta: Tensor, family: str) -> Tensor:
    r"""A''(eta): 1, s(1-s) with s the logistic function, or e^eta; for "softmax" the diagonal of the Hessian,
    :math:`\pi_c(1-\pi_c)`, one entry per class."""
    check_choice(family, FAMILIES, "family")
    if family == "gaussian":
        return torch.ones_like(eta)
    mean = _mean(eta, family)
    return mean if family == "poisson" else mean * (1 - mean)


def _mean(eta: Tensor, family: str) -> Tensor:
    """A'(eta)."""
    if family == "gaussian":
        return eta
    if family == "poisson":
        return eta.exp()
    return eta.sigmoid() if family == "bernoulli" else eta.softmax(-1)


def lq_penalty(
    features: Tensor, weights: Tensor, p: float, q: float, family: str = "gaussian", noise_on: str = "features"
) -> Tensor:
    r"""The penalty to second order, averaged over the rows of ``features``; exact for the gaussian family.

    .. math:: \frac12\,\frac{p}{1-p}\,\frac1n\sum_i A''(\eta_i)\sum_j \beta_j^2|x_{ij}|^q
        \quad\text{or}\quad \dots\sum_j x_{ij}^2|\beta_j|^q.

    For "softmax" (weights B of shape (d, C)), with :math:`\pi_i` the class probabilities, noise on a feature moves all
    classes together, :math:`\sum_j |x_{ij}|^q\,\mathrm{Var}_{c\sim\pi_i}(B_{jc})`; noise on the weights moves each
    class alone, :math:`\sum_c \pi_{ic}(1-\pi_{ic})\sum_j x_{ij}^2|B_{jc}|^q`.

    Args:
        features: (n, d), floating point.
        weights: (d,), or (d, C) for softmax, floating point.
        p, q: drop probability and exponent of the noise.
        family: one of ``FAMILIES``.
        noise_on: "features" (Sparseout) or "weights" (Bridgeout).

    Returns:
        A scalar in nats, differentiable in features and weights.

    Raises:
        ValueError: bad p, q, family or noise_on, or shapes that do not fit.
    """
    p, q, _ = _check(features, weights, p, q, family, noise_on)
    eta = features @ weights
    amplitude = 0.5 * p / (1 - p)
    if noise_on == "weights":
        spread = features.square() @ _magnitude(weights, q)
        return amplitude * (curvature(eta, family) * spread).reshape(len(features), -1).sum(1).mean()
    size = _magnitude(features, q)
    if family == "softmax":
        probability = eta.softmax(-1)
        variance = probability @ weights.square().T - (probability @ weights.T).square()
        return amplitude * (size * variance).sum(1).mean()
    return amplitude * (curvature(eta, family) * (size @ weights.square())).mean()


def exact_penalty(
    features: Tensor,
    weights: Tensor,
    p: float,
    q: float,
    family: str = "gaussian",
    noise_on: str = "features",
    form: str | None = None,
) -> Tensor:
    r"""The penalty without approximation, by summing over all masks: 2^d for d features (at most 2^16 masks).

    Args:
        form: "odd" or "even"; defaults to the released one, "odd" on features and "even" on weights. Other arguments
            and errors: see :func:`lq_penalty`. Softmax with noise on weights has d*C coordinates.
    """
    p, q, form = _check(features, weights, p, q, family, noise_on, form)
    moved = features if noise_on == "features" else weights
    count = features.shape[1] if noise_on == "features" else weights.numel()
    if count > 16:
        raise ValueError(f"summing over all masks needs at most 16 noisy coordinates, got {count}: use Monte Carlo")
    numbers = torch.arange(2**count, device=features.device)
    masks = (numbers.unsqueeze(1) >> numbers[:count]) & 1  # (2^d, d); 1 keeps
    keep = masks.to(features.dtype)
    chance = (keep * (1 - p) + (1 - keep) * p).prod(1)
    xi = keep / (1 - p) - 1
    move = _magnitude(moved, q / 2) * FORMS[form].value(moved).sign()
    start = log_partition(features @ weights, family)
    total = features.new_zeros(())
    for probability, one in zip(chance, xi, strict=True):
        if noise_on == "features":
            eta = (features + move * one) @ weights
        else:
            eta = features @ (weights + move * one.view_as(weights))
        total = total + probability * (log_partition(eta, family) - start).mean()
    return total


def monte_carlo_penalty(
    features: Tensor,
    weights: Tensor,
    p: float,
    q: float,
    family: str = "gaussian",
    noise_on: str = "features",
    draws: int = 1000,
    generator: torch.Generator | None = None,
    *,
    form: str | None = None,
) -> tuple[float, float]:
    r"""The penalty by simulation: ``(estimate, standard_error)``, in nats.

    A draw is one fresh mask on everything and gives the row average of
    :math:`A(\tilde\eta_i) - A(\eta_i) - A'(\eta_i)(\tilde\eta_i-\eta_i)`. The last term has mean zero; subtracting
    it removes most of the variance and none of the expectation.

    Args:
        draws: number of masks, >= 2.
        generator: source of the masks; defaults to torch's global one.
        form: see :func:`exact_penalty`. Other arguments and errors: see :func:`lq_penalty`.
    """
    p, q, form = _check(features, weights, p, q, family, noise_on, form)
    check_whole(draws, "draws", 2)  # fewer have no standard error
    features, weights = doubled(features.detach()), doubled(weights.detach())
    eta = features @ weights
    start, gradient = log_partition(eta, family), _mean(eta, family)
    values = torch.empty(draws, dtype=torch.float64, device="cpu")
    block = max(1, 2**22 // features.numel())  # as many masks at a time as fit in about 32 MB
    for first in range(0, draws, block):
        many = min(block, draws - first)
        if noise_on == "features":
            noisy = sparseout(features.expand(many, -1, -1), p, q, form=form, generator=generator) @ weights
        else:
            moved = bridgeout(weights.expand(many, *weights.shape), p, q, form=form, generator=generator)
            noisy = torch.einsum("nd,kd...->kn...", features, moved)
        linear = gradient * (noisy - eta)
        gap = log_partition(noisy, family) - start - (linear.sum(-1) if family == "softmax" else linear)
        values[first : first + many] = gap.mean(1)
    return values.mean().item(), (values.std() / math.sqrt(draws)).item()


def relative_noise(x: Tensor, p: float, q: float) -> Tensor:
    r"""Standard deviation of the noise over the value, :math:`|x|^{q/2-1}\sqrt{p/(1-p)}`; infinite at 0 for q < 2."""
    p, q = check_probability(p), check_exponent(q)
    return x.abs().pow(q / 2 - 1) * math.sqrt(p / (1 - p))


def noise_ratio(x: Tensor, q: float) -> float:
    r"""Noise power over signal power at p = 1/2, :math:`\overline{|x|^q}\,/\,\overline{x^2}`; at another p it is
    p/(1-p) times that. Zeros count as 0 for every q, as they carry no noise; an all-zero ``x`` gives 0."""
    x = x.detach() if x.dtype == torch.float64 else x.detach().float()
    return (_magnitude(x, check_exponent(q)).mean() / x.square().mean().clamp_min(1e-30)).item()


def matched_p(x: Tensor, p: float, q: float, reference_q: float = 2.0) -> float:
    r"""The drop probability p' at exponent q that gives values ``x`` the same noise power as p at ``reference_q``:
    :math:`\frac{p'}{1-p'}\,\overline{|x|^{q}} = \frac{p}{1-p}\,\overline{|x|^{q_0}}`.

    Raises:
        ValueError: bad p or q, or ``x`` is all zero (then there is no noise at any p').
    """
    p, q, reference_q = check_probability(p), check_exponent(q), check_exponent(reference_q, "reference_q")
    power = _magnitude(x, q).mean().item()
    if power == 0.0:
        raise ValueError("x is all zero: it carries no noise at any p, so there is nothing to match")
    odds = p / (1 - p) * _magnitude(x, reference_q).mean().item() / power
    return odds / (1 + odds)


def expected_relu(mean: Tensor, variance: Tensor) -> Tensor:
    r"""E[max(0, z)] for :math:`z\sim N(m, v)`: :math:`m\,\Phi(m/\sqrt v) + \sqrt v\,\varphi(m/\sqrt v)`, and max(0, m)
    where v = 0. The moment matching of fast dropout and FastBridgeout, whose released code divides by v, not its root.
    """
    deviation = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
    r = mean / deviation
    density = torch.exp(-r.square() / 2) / math.sqrt(2 * math.pi)
    smooth = mean * torch.special.ndtr(r) + deviation * density
    return torch.where(variance > 0, smooth, mean.clamp_min(0))


def bridge_prox(z: float, penalty: float, q: float) -> float:
    r"""The minimiser over w of :math:`\tfrac12(w-z)^2 + \lambda|w|^q`.

    q = 1 is soft thresholding; q = 2 shrinks by 1/(1 + 2 lambda). For 0 < q < 1 the function has a second minimum at
    zero: beyond a threshold the larger root of :math:`w - z + \lambda q w^{q-1} = 0` is lower, below it zero is.

    Args:
        z: any finite number.
        penalty: lambda, finite and >= 0.
        q: finite and > 0.
    """
    check_positive(q, "q", zero=False)
    check_positive(penalty, "penalty")
    if not math.isfinite(z):
        raise ValueError(f"z must be finite, got {z!r}")
    return _prox(z, penalty, q)


def _prox(z: float, penalty: float, q: float) -> float:
    size = abs(z)
    if penalty == 0 or size == 0:
        return z
    if q == 1:
        return math.copysign(max(size - penalty, 0.0), z)
    if q == 2:
        return z / (1 + 2 * penalty)
    low = 0.0
    if q < 1:
        # the slope has its minimum here; if that is positive, the function only rises
        low = (penalty * q * (1 - q)) ** (1 / (2 - q))
        if low - size + penalty * q * low ** (q - 1) >= 0:
            return 0.0
    w = _root(size, penalty, q, low)
    if q < 1 and 0.5 * size**2 <= 0.5 * (w - size) ** 2 + penalty * w**q:
        return 0.0
    return math.copysign(w, z)


def _root(size: float, penalty: float, q: float, low: float) -> float:
    brentq = library("scipy.optimize", "bridge_prox").brentq

    def slope(w: float) -> float:
        return w - size + penalty * q * math.pow(w, q - 1)

    if q > 1 and slope(low) >= 0:
        return 0.0
    return float(brentq(slope, low, size, xtol=1e-14, rtol=1e-13)) if slope(size) > 0 else size


def bridge_path(
    x: NDArray[Any], y: NDArray[Any], penalties: NDArray[Any], q: float, *, sweeps: int = 500, tolerance: float = 1e-9
) -> NDArray[Any]:
    r"""Bridge regression: the minimiser of
    :math:`\tfrac12\lVert y-Xw\rVert^2 + \lambda\sum_j\lVert X_j\rVert^2|w_j|^q` for each lambda, which is what
    Bridgeout does to linear regression when :math:`\lambda = \tfrac12\,p/(1-p)`.

    Cyclic coordinate descent with :func:`bridge_prox`; each lambda starts from the solution of the next smaller one.
    For q < 1 the problem is not convex, and the result is the local minimum that continues least squares.

    Args:
        x: (n, d).
        y: (n,).
        penalties: ascending lambdas >= 0, shape (k,).
        q: > 0.

    Returns:
        Weights, shape (k, d).
    """
    check_positive(q, "q", zero=False)
    penalties = np.asarray(penalties, dtype=float)
    if (np.diff(penalties) < 0).any() or (penalties < 0).any():
        raise ValueError("penalties must be ascending and >= 0")
    square = (x**2).sum(0)
    gram, target = x.T @ x, x.T @ y
    w = np.linalg.lstsq(x, y, rcond=None)[0]
    path = np.empty((len(penalties), x.shape[1]))
    for k, penalty in enumerate(penalties):
        for _ in range(sweeps):
            before = w.copy()
            for j in np.flatnonzero(square):
                z = w[j] + (target[j] - gram[j] @ w) / square[j]
                w[j] = _prox(z, penalty, q)
            if np.abs(w - before).max() <= tolerance * max(1.0, np.abs(w).max()):
                break
        path[k] = w
    return path


def _magnitude(x: Tensor, power: float) -> Tensor:
    """|x|^power with 0^0 = 0, and gradient 0 at zero."""
    zero = x == 0
    return torch.where(zero, torch.zeros_like(x), torch.where(zero, torch.ones_like(x), x.abs()).pow(power))


def _check(
    features: Tensor, weights: Tensor, p: float, q: float, family: str, noise_on: str, form: str | None = None
) -> tuple[float, float, str]:
    """Check the arguments of a penalty; return p, q and the form."""
    check_choice(family, FAMILIES, "family")
    check_choice(noise_on, PLACES, "noise_on")
    want = 2 if family == "softmax" else 1
    if features.dim() != 2 or weights.dim() != want or features.shape[1] != weights.shape[0]:
        shape = "(d, C)" if family == "softmax" else "(d,)"
        raise ValueError(
            f"features must be (n, d) and weights {shape} for {family}; "
            f"got {tuple(features.shape)} and {tuple(weights.shape)}"
        )
    form = PLACES[noise_on] if form is None else form
    return check_probability(p), check_exponent(q), check_choice(form, FORMS, "form")
