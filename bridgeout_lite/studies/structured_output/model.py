"""A network whose first and last layers are shared with two autoencoders; its training and its linear rival."""

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from ...checks import check_positive, check_probability, check_whole
from ...modules import evaluating
from ...training import History, Recipe, identify, make_scheduler, pick_device, run_epochs
from .faces import Pairs, ShapeModel

VARIANTS = ("sup", "+in", "+out", "+both")

# Shares of the training after which the weights of the autoencoders begin to fall and have fallen to zero: in the
# released code epochs 100, 500 and 700 of 1000.
FALLS_FROM, INPUT_ENDS, OUTPUT_ENDS = 0.1, 0.5, 0.7

# Of the linear rival: strengths of ridge regression, and principal components of the answers.
RIVAL_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
RIVAL_COMPONENTS = (4, 6, 8, 12, 40)


class SharedAutoencoders(nn.Module):
    """The network and its two autoencoders.

    Args:
        sizes: widths of inputs, hidden layers and answers: K + 1 numbers.
        k_in, k_out: how many layers each autoencoder shares, from the front and from the back. 0 is none.

    Raises:
        ValueError: a width that is no whole number >= 1; k_in or k_out negative; k_in + k_out >= K.
    """

    def __init__(self, sizes: Sequence[int], k_in: int = 1, k_out: int = 1) -> None:
        super().__init__()
        if len(sizes) < 2 or not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise ValueError(f"sizes must be two or more whole numbers >= 1, got {tuple(sizes)}")
        if not all(isinstance(k, int) and k >= 0 for k in (k_in, k_out)) or k_in + k_out >= len(sizes) - 1:
            raise ValueError(
                f"k_in + k_out must be less than the {len(sizes) - 1} layers, both whole numbers >= 0, so that a layer "
                f"is left between the two codes; got k_in={k_in!r} and k_out={k_out!r}"
            )
        self.sizes, self.k_in, self.k_out = tuple(sizes), k_in, k_out
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.activations = nn.ModuleList(nn.ReLU() for _ in sizes[1:-1])
        # biases of the transposed layers, at the place of the layer that they turn round
        self.in_biases = nn.ParameterList(torch.zeros(sizes[k]) for k in range(k_in))
        self.out_biases = nn.ParameterList(torch.zeros(size) for size in sizes[len(sizes) - 1 - k_out : -1])

    @property
    def code_place(self) -> nn.Module:
        """The nonlinearity that puts out the last hidden layer, the code of the answers if k_out = 1."""
        return self.activations[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Answers (n, e) to inputs (n, d)."""
        return self._through(x, range(len(self.layers)))

    def code(self, x: Tensor) -> Tensor:
        """The last hidden layer (n, width) at inputs (n, d)."""
        return self._through(x, range(len(self.layers) - 1))

    def rebuild_input(self, x: Tensor) -> Tensor:
        """Inputs (n, d) through the input autoencoder."""
        h = self._through(x, range(self.k_in))
        for k in reversed(range(self.k_in)):
            h = self._activate(k - 1, F.linear(h, self._weight(k).t(), self.in_biases[k]))
        return h

    def rebuild_output(self, y: Tensor) -> Tensor:
        """Answers (n, e) through the output autoencoder."""
        first = len(self.layers) - self.k_out
        h = y
        for k in reversed(range(first, len(self.layers))):
            h = self._activate(k - 1, F.linear(h, self._weight(k).t(), self.out_biases[k - first]))
        return self._through(h, range(first, len(self.layers)))

    def _through(self, h: Tensor, layers: Iterable[int]) -> Tensor:
        for k in layers:
            h = self._activate(k, self.layers[k](h))
        return h

    def _activate(self, k: int, h: Tensor) -> Tensor:
        """The nonlinearity behind layer k; there is none before the first and behind the last."""
        out: Tensor = self.activations[k](h) if 0 <= k < len(self.activations) else h
        return out

    def _weight(self, k: int) -> Tensor:
        weight: Tensor = self.layers[k].get_parameter("weight")
        return weight


def variant(l_in: float, l_out: float) -> str:
    """Which autoencoders have weight: one of ``VARIANTS``."""
    return VARIANTS[(l_in > 0) + 2 * (l_out > 0)]


def falling(progress: float, end: float) -> float:
    """The factor of an autoencoder's weight when a share ``progress`` of the training is done: 1 up to ``FALLS_FROM``,
    then linear to 0 at ``end``."""
    return min(1.0, max(0.0, (end - progress) / (end - FALLS_FROM)))


@dataclasses.dataclass(frozen=True)
class StructuredRecipe:
    """How to train: Adam at a constant rate on the whole loss.

    Attributes:
        epochs, steps: of the training, and per epoch, which is no pass over the labels: few get as many steps as many.
        batch_size: labelled pairs per step, or all if they are fewer; as many unlabelled inputs and answers again.
        lr, weight_decay: of AdamW. corruption: the share of an input that is zero before its autoencoder rebuilds it.
    """

    epochs: int = 15
    steps: int = 50
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 1.0
    corruption: float = 0.2

    def __post_init__(self) -> None:
        check_whole(self.steps, "steps")
        object.__setattr__(self, "corruption", check_probability(self.corruption, "corruption"))
        checked = self.common
        for name in ("lr", "weight_decay"):  # 1 and 1.0 are one recipe, told by its repr
            object.__setattr__(self, name, getattr(checked, name))

    @property
    def common(self) -> Recipe:
        """What this recipe shares with that of images, checked there."""
        names = ("epochs", "batch_size", "lr", "weight_decay")
        return Recipe(schedule="constant", **{name: getattr(self, name) for name in names})


def fit_structured(
    model: SharedAutoencoders,
    pairs: Pairs,
    recipe: StructuredRecipe | None = None,
    *,
    l_sup: float = 1.0,
    l_in: float = 0.0,
    l_out: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> History:
    """Train ``model`` in place on the labelled pairs and, where its autoencoders have weight, on the unlabelled data,
    watching the validation part. The test part is not touched.

    Args:
        model, pairs: of the same numbers of inputs and answers. recipe: defaults to ``StructuredRecipe()``.
        l_sup, l_in, l_out: weights of the three parts of the loss; the last two fall to zero, see :func:`falling`.
        seed: of the batches, the corruption and the noise (not of the model's initial weights).
        device, checkpoint, progress, on_epoch: as for :func:`bridgeout_lite.fit`, whose errors this has too.

    Returns:
        A :class:`~bridgeout_lite.History` whose ``frame`` has epoch, train_loss (J_s, mean over the epoch), in_loss and
        out_loss (J_in and J_out, zero where they have no weight), valid_error (see :func:`errors`) and seconds.

    Raises:
        ValueError: weights below zero, or with no autoencoder to act on; data of other sizes than the network's.
    """
    recipe = recipe or StructuredRecipe()
    check_positive(l_sup, "l_sup")
    for name, weight, shared in (("l_in", l_in, model.k_in), ("l_out", l_out, model.k_out)):
        check_positive(weight, name)
        if weight and not shared:
            raise ValueError(f"{name} = {weight:g} has no autoencoder to act on: build the model with k{name[1:]} >= 1")
    reads, writes = model.sizes[0], model.sizes[-1]
    if (pairs.x.shape[1], pairs.y.shape[1]) != (reads, writes):
        raise ValueError(
            f"the network maps {reads} numbers to {writes}, but {pairs.name} has {pairs.x.shape[1]} and "
            f"{pairs.y.shape[1]}: build it with the sizes of the data"
        )
    where = pick_device(device)
    model.to(where)
    pairs = pairs.to(where)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=where.type in ("cpu", "cuda")
    )
    scheduler = make_scheduler(optimizer, recipe.common, recipe.steps)
    every_x, every_y = torch.cat([pairs.x, pairs.more_x]), torch.cat([pairs.y, pairs.more_y])
    size, total = recipe.batch_size, recipe.epochs * recipe.steps
    more = size if len(pairs.more_x) or len(pairs.more_y) else 0

    def one_epoch(epoch: int, bar: Any) -> dict[str, float]:
        start = time.perf_counter()
        totals = {name: torch.zeros((), device=where) for name in ("train", "in", "out")}
        model.train()
        for step in range(recipe.steps):
            done = (epoch * recipe.steps + step) / total
            now_in, now_out = l_in * falling(done, INPUT_ENDS), l_out * falling(done, OUTPUT_ENDS)
            own = _draw(len(pairs.x), size, where)
            parts = {"train": F.mse_loss(model(pairs.x[own]), pairs.y[own])}
            loss = l_sup * parts["train"]
            if now_in:
                x = every_x[_draw(len(every_x), size + more, where)]
                kept = torch.rand(x.shape, device=where) >= recipe.corruption
                parts["in"] = F.mse_loss(model.rebuild_input(x * kept), x)
                loss = loss + now_in * parts["in"]
            if now_out:
                y = every_y[_draw(len(every_y), size + more, where)]
                parts["out"] = F.mse_loss(model.rebuild_output(y), y)
                loss = loss + now_out * parts["out"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
            for name, part in parts.items():
                totals[name] += part.detach()
            bar.update()
        train_loss, in_loss, out_loss = (torch.stack(list(totals.values())) / recipe.steps).tolist()
        error = errors(predict(model, pairs.valid_x), pairs.valid_y, pairs).mean().item()
        if not math.isfinite(train_loss + in_loss + out_loss + error):
            raise FloatingPointError(
                f"the training loss is {train_loss} and the validation error {error} in epoch {epoch + 1}: lower lr "
                f"(now {recipe.lr:g}), l_in, l_out or p"
            )
        bar.set_postfix(loss=f"{train_loss:.4f}", valid_error=f"{error:.3f}")
        row = {"epoch": epoch + 1, "train_loss": train_loss, "in_loss": in_loss, "out_loss": out_loss}
        return row | {"valid_error": error, "seconds": time.perf_counter() - start}

    identity = identify(model, pairs, recipe, seed, "float32")
    rows = run_epochs(
        one_epoch,
        (model, optimizer, scheduler),
        identity | {"weights of the loss": f"{l_sup:g} {l_in:g} {l_out:g}"},
        epochs=recipe.epochs,
        steps=recipe.steps,
        seed=seed,
        device=where,
        checkpoint=checkpoint,
        progress=progress,
        on_epoch=on_epoch,
    )
    return History(pd.DataFrame(rows), "float32", str(where))


def _draw(count: int, size: int, device: torch.device) -> Tensor:
    """Up to ``size`` different numbers below ``count``."""
    return torch.randperm(count, device=device)[:size]


@torch.inference_mode()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Answers of the model in evaluation mode."""
    with evaluating(model):
        y: Tensor = model(x)
    return y


def errors(predicted: Tensor, truth: Tensor, pairs: Pairs) -> Tensor:
    """The error of each answer, (n,).

    For landmarks NRMSE as in the released code: the mean distance of predicted from true points, over the distance of
    the true outer corners of the eyes. For other answers the root of the mean squared error, over that of the mean of
    the labelled answers on the validation part: 1 is about what knowing nothing of the input gives.
    """
    if pairs.model is None:
        blind = (pairs.valid_y - pairs.y.mean(0)).square().mean().sqrt()
        return (predicted - truth).square().mean(1).sqrt() / blind
    points, true = predicted.unflatten(1, (-1, 2)), truth.unflatten(1, (-1, 2))
    left, right = true[:, list(pairs.model.eyes)].unbind(1)
    distance: Tensor = (points - true).norm(dim=-1).mean(1) / (left - right).norm(dim=-1)
    return distance


def cdf_and_auc(error: Tensor) -> tuple[float, float]:
    """CDF_0.1, the share of errors (n,) up to 0.1, and AUC, the area under the share of errors up to t over t from 0 to
    0.5, as a share of the whole (exactly; the released code adds up steps of 0.001); both in %."""
    return 100 * (error <= 0.1).float().mean().item(), 100 * ((0.5 - error).clamp_min(0) / 0.5).mean().item()


def _shapes_of(pairs: Pairs) -> ShapeModel:
    if pairs.model is None:
        raise ValueError(f"the answers of {pairs.name!r} are no landmarks with a known space of shapes")
    return pairs.model


def off_shape(predicted: Tensor, pairs: Pairs) -> Tensor:
    """How far predicted landmarks (n, 2P) lie from the flat space that holds all shapes: the root mean squared distance
    of a point from its place in the nearest element of that space (n,), in units of the image's half side. True shapes
    have 0, and so have all their weighted sums, most of which are no true shapes: see :func:`off_surface`."""
    basis = _shapes_of(pairs).basis().to(predicted)
    rest = predicted - predicted @ basis @ basis.T
    distance: Tensor = (rest.square().sum(1) / (predicted.shape[1] / 2)).sqrt()
    return distance


def off_surface(predicted: Tensor, pairs: Pairs, steps: int = 100) -> Tensor:
    """How far predicted landmarks (n, 2P) lie from the nearest true shape, one of any coefficients, size, turn and
    place: as :func:`off_shape`, but to the curved surface of true shapes within that flat space, and so no smaller.

    By alternating least squares, ``steps`` times the size, turn and place and then the coefficients. What is found is a
    true shape, if not surely the nearest: the distance is at most this.
    """
    shapes = _shapes_of(pairs)
    z, mean, modes = (
        torch.view_as_complex(points.cpu().double().contiguous())
        for points in (predicted.unflatten(1, (-1, 2)), shapes.mean, shapes.modes)
    )
    z, mean, modes = (points - points.mean(-1, keepdim=True) for points in (z, mean, modes))  # wherever it is placed
    solve = torch.linalg.pinv(torch.view_as_real(modes).flatten(1))
    shape = mean.expand_as(z)
    for step in range(steps + 1):
        c = (shape.conj() * z).sum(1, keepdim=True) / shape.abs().square().sum(1, keepdim=True)
        if step < steps:
            b = torch.view_as_real(z / c - mean).flatten(1) @ solve
            shape = mean + b.to(modes.dtype) @ modes
    distance: Tensor = (z - c * shape).abs().square().mean(1).sqrt()
    return distance


def captured(model: SharedAutoencoders, pairs: Pairs) -> tuple[float, float]:
    """How much of the flat space that holds all shapes the last layer has learned: of its D = 2K + 4 strongest
    directions (left singular vectors of its weight) and the D-dimensional truth, the mean of the squared cosines of the
    principal angles (1: the same space; for random directions D / 2P), and the largest angle in degrees."""
    basis = _shapes_of(pairs).basis()
    weight = model.layers[-1].get_parameter("weight").detach().cpu().double()
    learned = torch.linalg.svd(weight, full_matrices=False).U[:, : basis.shape[1]]
    cosines = torch.linalg.svdvals(basis.T @ learned).clamp(0, 1)
    return cosines.square().mean().item(), math.degrees(math.acos(cosines.min().item()))


class LinearRival:
    """Ridge regression of the principal components of the answers, by scikit-learn: the components from all answers,
    unlabelled ones too; their number ``components`` and the ``strength`` are those of least validation error
    (:func:`errors`) among ``RIVAL_COMPONENTS`` and ``RIVAL_STRENGTHS``."""

    def __init__(self, pairs: Pairs) -> None:
        x, y = pairs.x.numpy(), pairs.y.numpy()
        every_y = torch.cat([pairs.y, pairs.more_y]).numpy()
        some = [PCA(min(k, *every_y.shape)).fit(every_y) for k in RIVAL_COMPONENTS]
        least = math.inf
        for strength in RIVAL_STRENGTHS:
            ridge = Ridge(strength).fit(x, y)
            raw = ridge.predict(pairs.valid_x.numpy())
            for axes in some:  # ridge regression is linear in y: of the components it is the components of it
                answers = torch.from_numpy(axes.inverse_transform(axes.transform(raw)))
                error = errors(answers, pairs.valid_y, pairs).mean().item()
                if error < least:
                    least, self.components, self.strength = error, int(axes.n_components_), strength
                    self._axes, self._ridge = axes, ridge

    def __call__(self, x: Tensor) -> Tensor:
        """Answers (n, e) to inputs (n, d), on the CPU."""
        return torch.from_numpy(
            self._axes.inverse_transform(self._axes.transform(self._ridge.predict(x.numpy())))
        ).float()
