r"""Feature flow: the features of one image, layer by layer, are points on a path, to be kept short and straight.

With :math:`x_0, x_1, \dots` the features of consecutive layers of one shape (a *stage*),

.. math:: k_1 \sum_l \lVert x_{l+1} - x_l\rVert + k_2 \sum_l \lVert x_{l+1} - 2x_l + x_{l-1}\rVert,

averaged over the images of the batch and summed over stages. Features of different shapes cannot be subtracted, so no
path leads from one stage into the next. In a residual network, from block to block, :math:`x_{l+1} - x_l` is the
residual branch, up to the nonlinearity behind the sum: the first term penalises it.

This is our reconstruction. The abstracts say that length and total absolute curvature of such paths are penalised; we
did not find formula, norm, layers and strengths.

Source of the idea: Wu, Lan, Zhang and Xiang 2021, arXiv:2106.02914.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_positive
from ..layers import is_activation
from ..models import ResidualBlock
from ..modules import Where, capture_activations, pick
from .base import Rival


def length(path: Sequence[Tensor], norm: float = 2.0) -> Tensor:
    """Length of the path through features of one shape (batch, ...), averaged over the batch; 0 for one point.

    Raises:
        ValueError: no point, or points of different shapes.
    """
    _check_path(path)
    return _size([after - before for before, after in itertools.pairwise(path)], path, norm)


def curvature(path: Sequence[Tensor], norm: float = 2.0) -> Tensor:
    """Sum of the second differences of the path, averaged over the batch; 0 for fewer than three points. Errors: see
    :func:`length`."""
    _check_path(path)
    return _size([c - 2 * b + a for a, b, c in zip(path, path[1:], path[2:], strict=False)], path, norm)


def turning(path: Sequence[Tensor]) -> Tensor:
    """Sum of the angles (radians) between consecutive steps of the path, averaged over the batch; 0 for fewer than
    three points. A step of length zero has no direction and adds nothing. Errors: see :func:`length`.

    Unlike :func:`curvature` it does not change when all features are multiplied by a constant: in geometry it is the
    total absolute curvature of a polygon.
    """
    _check_path(path)
    steps = [(after - before).float().flatten(1) for before, after in itertools.pairwise(path)]
    total = torch.zeros((), device=path[0].device)
    for a, b in itertools.pairwise(steps):
        moved = (a.norm(dim=1) > 0) & (b.norm(dim=1) > 0)
        # between unit vectors; exact for small angles too, where the cosine is flat
        a, b = (torch.nn.functional.normalize(step, dim=1) for step in (a, b))
        angle = 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))
        total = total + (angle * moved).mean()
    return total


def _check_path(path: Sequence[Tensor]) -> None:
    if len({x.shape for x in path}) != 1:
        raise ValueError(f"a path needs points of one shape, got {[tuple(x.shape) for x in path]}")


def is_residual_point(name: str, module: nn.Module) -> bool:
    """The points between a residual network's own steps: the outputs of its stem, called "relu", and of each
    :class:`bridgeout_lite.models.ResidualBlock`."""
    return name == "relu" or isinstance(module, ResidualBlock)


def trajectories(model: nn.Module, inputs: Tensor, *, where: Where = is_activation) -> list[dict[str, Tensor]]:
    """The paths of ``inputs`` through ``model`` in evaluation mode, without gradients: for each stage the features by
    the name of the module that they come from. A path has at least two points.

    Args:
        model: any module; its modes are restored.
        inputs: one batch, as the model takes it.
        where: see :class:`FeatureFlow`.

    Raises:
        ValueError: ``where`` picks no module, one that runs twice, or no two consecutive ones with features of one
            shape.
    """
    points = capture_activations(model, inputs, where=where)
    paths = [dict(run) for run in _runs(points.items(), key=lambda item: item[1].shape)]
    if not paths:
        raise ValueError(_no_path(points.values()))
    return paths


def _runs(points: Iterable[Any], key: Any) -> list[list[Any]]:
    """The paths among the points, in the order of execution: runs of at least two points of one shape."""
    runs = [list(run) for _, run in itertools.groupby(points, key=key)]
    return [run for run in runs if len(run) > 1]


def _no_path(points: Iterable[Tensor]) -> str:
    shapes = ", ".join(str(tuple(x.shape[1:])) for x in points)
    return (
        f"no two consecutive layers have features of one shape ({shapes}), so there is no path: pick other layers with "
        "where"
    )


def _size(differences: Sequence[Tensor], path: Sequence[Tensor], norm: float) -> Tensor:
    total = torch.zeros((), device=path[0].device)
    for difference in differences:
        total = total + torch.linalg.vector_norm(difference.float().flatten(1), norm, dim=1).mean()
    return total


@dataclasses.dataclass(eq=False)
class FeatureFlow(Rival):
    """Penalty on length and curvature of the features' paths; see the top of this module.

    :meth:`attach` first: in training mode each call of the model then records its paths, and :meth:`penalty` consumes
    them. Calls of a part of the model alone are not recorded. One model at a time; a copy of it is not watched.

    Args:
        length, curvature: k1 and k2, finite and >= 0.
        norm: the norm of the differences, 1 or 2.
        where: ``where(name, module)`` picks the modules whose outputs are the points; default: every nonlinearity.
            :func:`is_residual_point` picks a residual network's own steps. A path is a run of points of equal shape,
            in the order of execution.

    Raises:
        ValueError: a bad argument; nothing is picked; attached twice, or not at all when a penalty is needed; a model
            other than the one attached to; no call of it in training mode since the last penalty; no two consecutive
            points of equal shape.
    """

    length: float = 0.0
    curvature: float = 0.0
    norm: float = 2.0
    where: Where = dataclasses.field(default=is_activation, repr=False)

    def __post_init__(self) -> None:
        self.length = check_positive(self.length, "length")
        self.curvature = check_positive(self.curvature, "curvature")
        if self.norm not in (1, 2):
            raise ValueError(f"norm must be 1 or 2, got {self.norm!r}")
        self._points: list[Tensor] = []
        self._handles: list[Any] = []
        self._inside = False  # of a call of the model

    def attach(self, model: nn.Module) -> nn.Module:
        """Record the model's forward passes from now on. Returns it; parameters and state dict stay the same."""
        if self._handles:
            raise ValueError("this FeatureFlow is attached already: call detach(model) first, or make another")
        picked = pick(model, self.where)
        self._keep_to(model)
        self._handles = [model.register_forward_pre_hook(self._start)]
        self._handles += [module.register_forward_hook(self._visit) for _, module in picked]
        self._handles.append(model.register_forward_hook(self._end, always_call=True))
        return model

    def detach(self, model: nn.Module) -> nn.Module:
        """Undo :meth:`attach`."""
        if self._handles:
            self._keep_to(model)
        for handle in self._handles:
            handle.remove()
        self._handles, self._points, self._model = [], [], None
        return model

    def _start(self, module: nn.Module, inputs: Any) -> None:
        self._points, self._inside = [], True

    def _visit(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._handles and self._inside and module.training and torch.is_grad_enabled():
            self._points.append(output.clone())  # a later in-place operation would move the point

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._inside = False

    def __deepcopy__(self, memo: Any) -> "FeatureFlow":  # features, held by a copied model's hooks, cannot be copied
        return dataclasses.replace(self)

    @property
    def paths(self) -> list[list[Tensor]]:
        """The paths of the last forward pass in training mode: runs of at least two points of equal shape."""
        return _runs(self._points, key=lambda x: x.shape)

    def penalty(self, model: nn.Module) -> Tensor:
        if not self._handles:
            raise ValueError("FeatureFlow sees no features: call attach(model) before training")
        self._keep_to(model)
        if not self._points:
            raise ValueError(
                "no features to look at: run the model forward, in training mode, before each penalty(model)"
            )
        paths = self.paths
        if not paths:
            raise ValueError(_no_path(self._points))
        self._points = []  # lest the graph behind them outlive the step
        total = torch.zeros((), device=paths[0][0].device)
        for path in paths:
            total = total + self.length * length(path, self.norm) + self.curvature * curvature(path, self.norm)
        return total
