"""Images as vectors of channel responses, and the lasso that finds each class's few relevant ones."""

import dataclasses
import warnings
from collections.abc import Sequence
from difflib import get_close_matches

import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path_gram
from torch import Tensor, nn

from ...checks import check_positive
from ...modules import capture_activations, doubled, evaluating

Place = tuple[str, int]  # a layer's name and a channel in it

# Images put through a network at a time.
PART = 250


@dataclasses.dataclass(frozen=True)
class Features:
    """Images as vectors: ``values`` (n, m), every row of L2 norm 1 (or 0 for a silent network), and for each column the
    layer and channel it comes from, ``places``."""

    values: Tensor
    places: tuple[Place, ...]


def channel_features(model: nn.Module, x: Tensor, layers: Sequence[str] | None = None) -> Features:
    """The squared L2 norm of every channel's response, divided by its sum over the layer; the layers one after another;
    the whole vector divided by its L2 norm.

    Args:
        model: any module; evaluated in evaluation mode.
        x: images as the model takes them (n, ...).
        layers: names of modules that put out (n, channels, ...). Defaults to every nonlinearity.

    Raises:
        ValueError: an unknown layer, one that does not run, no layer, or no image.
    """
    known = [name for name, module in model.named_modules() if name]
    for name in layers or ():
        check_layer(name, known)
    if layers is not None and not len(layers):
        raise ValueError("layers must name at least one module; None takes every nonlinearity")
    if not len(x):
        raise ValueError("at least one image is needed, got an empty batch")
    parts = []
    for start in range(0, len(x), PART):
        where = None if layers is None else (lambda name, module: name in layers)
        outputs = capture_activations(model, x[start : start + PART], where=where)
        silent = [name for name in layers or () if name not in outputs]
        if silent:
            raise ValueError(f"layer {silent[0]!r} puts out no tensor when the model runs: name layers that do")
        parts.append({name: out.float().reshape(*out.shape[:2], -1).square().sum(2) for name, out in outputs.items()})
    names = list(parts[0]) if layers is None else list(layers)
    powers = [torch.cat([part[name] for part in parts]) for name in names]
    values = torch.cat([F.normalize(power, p=1.0, dim=1) for power in powers], 1)
    places = [(name, c) for name, power in zip(names, powers, strict=True) for c in range(power.shape[1])]
    return Features(F.normalize(values, dim=1), tuple(places))


def check_layer(name: str, known: Sequence[str]) -> None:
    """ValueError, with the nearest known name, if a model has no such layer."""
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"this model has no layer {name!r}; {hint}")


@dataclasses.dataclass(frozen=True)
class LassoPath:
    r"""All solutions for one class, from :math:`\mu = 0` up to least squares: linear between knots.

    Attributes:
        norms: L1 norm at each knot (k,), rising from 0. weights: at each knot (m, k).
        explained: share of the target's variance that each knot explains (k,): 1 is all, 0 what a constant explains.
    """

    norms: Tensor
    weights: Tensor
    explained: Tensor

    def at(self, mu: float) -> Tensor:
        """The solution (m,) under ``||w||_1 <= mu``; least squares where that needs less."""
        mu = check_positive(mu, "mu", zero=False)
        if mu >= self.norms[-1]:
            return self.weights[:, -1]
        right = int(torch.searchsorted(self.norms, mu, right=True))
        a, b = self.norms[right - 1], self.norms[right]
        t = (mu - a) / (b - a)  # no sign changes between knots, so the norm is linear there too
        return (1 - t) * self.weights[:, right - 1] + t * self.weights[:, right]

    def needed(self, explained: float) -> int | None:
        """Number of features at the first knot that explains so much; None if least squares does not."""
        enough = (self.explained >= explained).nonzero()
        return int((self.weights[:, enough[0, 0]] != 0).sum()) if len(enough) else None


def lasso_paths(features: Tensor, labels: Tensor, classes: int) -> list[LassoPath]:
    """One :class:`LassoPath` a class, by least angle regression (scikit-learn), in float64.

    A ValueError for shapes that are not (n, m) and (n,), values that are not finite, a label that is not in 0 to
    ``classes`` - 1, a class without images.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features must be (n, m) and labels (n,), got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    x = features.detach().cpu().double()
    if not bool(x.isfinite().all()):
        raise ValueError("the features hold values that are not finite: has the network diverged?")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must lie between 0 and {classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    empty = [c for c in range(classes) if not bool((labels == c).any())]
    if empty:
        raise ValueError(f"no image has the label {', '.join(map(str, empty))}: a class without images has no features")
    # a dead channel has no place on a path; of two that always respond alike the first stands for both, because
    # angles between them are nought
    gram = x.T @ x
    power = gram.diagonal()
    twin = (power[:, None] + power - 2 * gram <= 1e-12 * power).triu(1).any(0)
    alive = (power > 0) & ~twin
    used = x[:, alive]
    gram = gram[alive][:, alive]
    paths = []
    for c in range(classes):
        target = (labels == c).cpu().double()
        with warnings.catch_warnings():  # near the end of the path columns can be as good as dependent
            warnings.simplefilter("ignore", ConvergenceWarning)
            _, _, knots = lars_path_gram(
                (used.T @ target).numpy(), gram.numpy(), n_samples=len(x), method="lasso", max_iter=8 * len(gram)
            )
        weights = torch.zeros(x.shape[1], knots.shape[1], dtype=torch.float64)
        weights[alive] = torch.from_numpy(knots)
        weights[weights.abs() <= 1e-10 * weights.abs().sum(0)] = 0.0  # what left the path leaves a rounding error
        residual = (target[:, None] - x @ weights).square().sum(0)
        variance = (target - target.mean()).square().sum().clamp_min(1e-30)
        norms = weights.abs().sum(0).cummax(0).values  # it never falls but for rounding
        paths.append(LassoPath(norms, weights, 1 - residual / variance))
    return paths


def mu_lasso(features: Tensor, labels: Tensor, mu: float, classes: int) -> Tensor:
    """The solutions of all classes as columns, (m, classes) in float64. Arguments and errors as in
    :func:`lasso_paths`, and ``mu`` must be finite and above zero."""
    mu = check_positive(mu, "mu", zero=False)
    return torch.stack([path.at(mu) for path in lasso_paths(features, labels, classes)], 1)


def explained_share(features: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The share of each class's target variance that weights (m, classes) explain (classes,): 1 is all of it, 0 what a
    constant explains. Other arguments as in :func:`lasso_paths`."""
    target = doubled(F.one_hot(labels, weights.shape[1]))
    residual = (target - doubled(features) @ doubled(weights).to(target.device)).square().sum(0)
    return 1 - residual / (target - target.mean(0)).square().sum(0).clamp_min(1e-30)


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """The class of the highest score for each image (n,), in evaluation mode."""
    return scores(model, x).argmax(1)


@torch.no_grad()
def scores(model: nn.Module, x: Tensor) -> Tensor:
    """What the model puts out, in evaluation mode and in parts."""
    with evaluating(model):
        return torch.cat([model(part) for part in x.split(PART)])
