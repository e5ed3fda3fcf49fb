r"""Data whose answers have a shape: drawn faces with landmarks, whose space of shapes is known, and halves of digits.

A face is a point of a linear model, moved as a whole. In complex numbers, :math:`z_j = x_j + i y_j` for landmark j,

.. math:: z = c\,\Big(m + \sum_{k=1}^{K} b_k u_k\Big) + t, \qquad b \in \mathbb{R}^K,\; c, t \in \mathbb{C}:

a mean shape m, K modes of deformation u with coefficients b, and a similarity transform (size and turn c, place t). So
the shapes form a surface of K + 4 dimensions in the 2P numbers of P landmarks, and the smallest linear space that holds
it, spanned by m, u_1 .. u_K and 1 over the complex numbers, has 2K + 4. Both are known exactly, which real data never
offer.

Coordinates: x to the right, y downwards, the image is the square from -1 to 1.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...checks import check_choice, check_fraction, check_positive, check_whole

PAIR_SETS = ("shapes", "digit-halves")

# Points of eyes, nose and mouth; the outline has the others.
INNER = 10

# Faces of a set and pixels a side: drawn once from one seed. Every run takes its labels and its unlabelled data from
# the training pool.
POOL = {"train": 4000, "valid": 300, "test": 1000}
POOL_SIZE = 16


@dataclasses.dataclass(frozen=True)
class ShapeModel:
    """The truth behind the faces.

    Attributes:
        mean: landmarks (P, 2) of the mean shape.
        modes: displacements (K, P, 2) of the landmarks at coefficient 1.
        strokes: pairs of landmarks between which a line is drawn.
        eyes: the two landmarks whose distance errors are measured in: the outer corners of the eyes.
    """

    mean: Tensor
    modes: Tensor
    strokes: tuple[tuple[int, int], ...]
    eyes: tuple[int, int]

    @property
    def dimension(self) -> int:
        """2K + 4: dimensions of the smallest linear space that holds all shapes."""
        return 2 * len(self.modes) + 4

    def basis(self) -> Tensor:
        """An orthonormal basis (2P, 2K + 4) of that space, for landmarks flattened as x, y, x, y ..."""
        one = torch.ones_like(self.mean)
        fields = [self.mean, *self.modes, one * torch.tensor([1.0, 0.0], dtype=one.dtype)]
        turned = [torch.stack([-field[:, 1], field[:, 0]], 1) for field in fields]  # times i
        basis: Tensor = torch.linalg.qr(torch.stack([*fields, *turned]).flatten(1).T.double()).Q
        return basis

    def place(self, coefficients: Tensor, scale: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
        """Landmarks (n, P, 2) of shapes with coefficients (n, K), scale and angle in radians (n,), shift (n, 2)."""
        own = self.mean + torch.einsum("nk,kpd->npd", coefficients, self.modes)
        cos, sin = (scale * angle.cos())[:, None], (scale * angle.sin())[:, None]
        x, y = own.unbind(-1)
        return torch.stack([cos * x - sin * y, sin * x + cos * y], -1) + shift[:, None]


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Drawn faces: ``images`` (n, size, size) in [0, 1], their true ``landmarks`` (n, P, 2), the ``coefficients``
    (n, K) of the deformation, all float32, and the :class:`ShapeModel` ``model``."""

    images: Tensor
    landmarks: Tensor
    coefficients: Tensor
    model: ShapeModel


def face(points: int = 20) -> ShapeModel:
    """A face of this many landmarks: an outline from temple to temple by the chin, two corners per eye, two points of
    the nose, four of the mouth. Its K = 4 modes: the head turns (what is inside moves against the outline), it is wide,
    the mouth is open, the chin is long.

    A ValueError for fewer than 14 points.
    """
    check_whole(points, "points", INNER + 4)  # an outline needs four
    t = torch.linspace(-0.12, 1.12, points - INNER) * math.pi
    outline = torch.stack([-0.5 * t.cos(), 0.62 * t.sin()], 1)
    inner = torch.tensor(
        [(-0.33, -0.1), (-0.13, -0.1), (0.13, -0.1), (0.33, -0.1)]  # corners of the eyes, from left to right
        + [(0.0, -0.02), (0.0, 0.17)]  # the nose
        + [(-0.2, 0.34), (0.0, 0.3), (0.2, 0.34), (0.0, 0.38)]  # the mouth, around
    )
    mean = torch.cat([outline, inner])
    x, y = mean.T
    zero, eyes = torch.zeros(len(mean)), points - INNER
    nose, mouth = eyes + 4, eyes + 6
    turn = zero.clone()
    turn[eyes:] = 0.15
    turn[nose + 1] = 0.22
    opened = zero.clone()
    opened[mouth + 1], opened[mouth + 3] = -0.04, 0.14
    long = 0.4 * y.clamp_min(0)
    long[eyes:] = 0
    displacements = [(turn, zero), (0.3 * x, zero), (zero, opened), (zero, long)]
    strokes = [(i, i + 1) for i in range(eyes - 1)]
    strokes += [(eyes, eyes + 1), (eyes + 2, eyes + 3), (nose, nose + 1)]
    strokes += [(mouth, mouth + 1), (mouth + 1, mouth + 2), (mouth + 2, mouth + 3), (mouth + 3, mouth)]
    modes = torch.stack([torch.stack(field, 1) for field in displacements])
    return ShapeModel(mean, modes, tuple(strokes), (eyes, eyes + 3))


def shapes(
    n: int,
    *,
    points: int = 20,
    size: int = 24,
    occlusion: float = 0.3,
    clutter: int = 1,
    noise: float = 0.1,
    generator: torch.Generator | None = None,
) -> Shapes:
    """Draw n faces and tell where their landmarks are.

    The coefficients of the deformation are uniform in [-1, 1], the size in [0.9, 1.3], the turn within 0.35 radians,
    the place within 0.15 of the middle.

    Args:
        n, points, size: faces, landmarks of each, pixels per side.
        occlusion: the share of images of which a grey rectangle hides a part. clutter: lines that belong to no face.
        noise: standard deviation of Gaussian noise on the pixels, which are then cut to [0, 1].
        generator: on the CPU; defaults to torch's own.

    Raises:
        ValueError: sizes that are not whole numbers in range; an occlusion outside [0, 1]; negative noise.
    """
    for name, value, least in (("n", n, 1), ("size", size, 8), ("clutter", clutter, 0)):
        check_whole(value, name, least)
    occlusion = check_fraction(occlusion, "occlusion")
    check_positive(noise, "noise")
    model = face(points)
    coefficients = 2 * torch.rand(n, len(model.modes), generator=generator) - 1
    u = torch.rand(n, 4, generator=generator)
    landmarks = model.place(coefficients, 0.9 + 0.4 * u[:, 0], 0.7 * u[:, 1] - 0.35, 0.3 * u[:, 2:] - 0.15)
    ends = 2 * torch.rand(n, clutter, 2, 2, generator=generator) - 1
    covered = torch.rand(n, generator=generator) < occlusion
    corner, side = torch.rand(2, n, 2, generator=generator)
    images = render(torch.cat([landmarks[:, list(model.strokes)], ends], 1), size)
    grid = pixel_centres(size)
    low, extent = 1.4 * corner - 1, 0.4 + 0.4 * side  # a rectangle of 20 to 40 % of the side
    hidden = ((grid >= low[:, None]) & (grid <= (low + extent)[:, None])).all(-1) & covered[:, None]
    images = images.flatten(1).masked_fill(hidden, 0.5).view(n, size, size)
    images = (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    return Shapes(images, landmarks, coefficients, model)


def pixel_centres(size: int) -> Tensor:
    """Where the pixels of an image (size, size) are, row by row: x and y in (-1, 1), (size^2, 2)."""
    at = (2 * torch.arange(size) + 1) / size - 1
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def render(lines: Tensor, size: int) -> Tensor:
    """Lines (n, s, 2 ends, 2) as images (n, size, size): each pixel is exp(-d^2 / 2w^2) of the distance d to the
    nearest line, w half a pixel but at least 0.07: 1 on a line, 0 far off."""
    grid, width = pixel_centres(size).to(lines.dtype), max(0.07, 1 / size)
    images = []
    for some in lines.split(256):  # as many as keep the temporaries small
        start, along = some[:, :, 0, None], (some[:, :, 1] - some[:, :, 0])[:, :, None]
        to = grid - start  # (n, s, pixels, 2)
        share = (to * along).sum(-1) / along.square().sum(-1).clamp_min(1e-12)
        squared = (to - share.clamp(0, 1)[..., None] * along).square().sum(-1).amin(1)
        images.append((-squared / (2 * width**2)).exp())
    return torch.cat(images).view(-1, size, size)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Inputs and answers as flat vectors, float32, on one device.

    Attributes:
        name: of the set. x, y: the labelled training pairs (n, d) and (n, e), beside those of the other two parts.
        more_x: inputs (m, d) without answers. more_y: answers (k, e) without inputs, of other images. May be empty.
        model: the truth, where it is known.

    Raises:
        ValueError: unpaired data, or unlabelled data of another shape.
    """

    name: str
    x: Tensor
    y: Tensor
    valid_x: Tensor
    valid_y: Tensor
    test_x: Tensor
    test_y: Tensor
    more_x: Tensor
    more_y: Tensor
    model: ShapeModel | None = None

    def __post_init__(self) -> None:
        for part in ("", "valid_", "test_"):
            x, y = getattr(self, part + "x"), getattr(self, part + "y")
            if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
                raise ValueError(
                    f"{part}x and {part}y must be matrices, one row per pair, got {tuple(x.shape)} and {tuple(y.shape)}"
                )
            if not len(x):
                raise ValueError(f"{part}x and {part}y are empty: each part needs at least one pair")
            if (x.shape[1], y.shape[1]) != (self.x.shape[1], self.y.shape[1]):
                raise ValueError(
                    f"{part}x and {part}y have rows of {x.shape[1]} and {y.shape[1]} numbers but those to train on "
                    f"{self.x.shape[1]} and {self.y.shape[1]}: bring all parts to the same size"
                )
        for what, more, labelled in (("inputs", self.more_x, self.x), ("answers", self.more_y, self.y)):
            if more.shape[1:] != labelled.shape[1:]:
                raise ValueError(
                    f"unlabelled {what} have shape {tuple(more.shape)} but the labelled ones {tuple(labelled.shape)}: "
                    f"bring them to vectors of {labelled.shape[1]} numbers (the same size of image, the same landmarks "
                    "in the same order), or leave them out"
                )

    @functools.cached_property
    def checksum(self) -> str:
        """16 hex digits over all numbers."""
        digest = hashlib.sha256()
        for tensor in self._tensors().values():
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def to(self, device: str | torch.device) -> "Pairs":
        """The same on another device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in self._tensors().items()}
        return dataclasses.replace(self, **moved)

    def _tensors(self) -> dict[str, Tensor]:
        return {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}

    def __repr__(self) -> str:
        counts = f"{len(self.x)} labelled, {len(self.more_x)} inputs and {len(self.more_y)} answers on their own"
        return f"{self.name}: {self.x.shape[1]} numbers to {self.y.shape[1]}; {counts}"


def load_pairs(name: str, labels: int, unlabelled: int = 0, *, seed: int = 0) -> Pairs:
    """A task with few labels.

    "shapes": the pixels of drawn faces (256) and their landmarks (40), from a pool of ``POOL`` faces that is the same
    for every seed. "digit-halves": the upper half of scikit-learn's handwritten digits (32 pixels in [0, 1]) and the
    lower one; every fifth image is for testing, a fifth of the others for validation.

    Args:
        labels: labelled training pairs. seed: of the choice among the training pool.
        unlabelled: how many inputs have no answers, and how many answers no inputs. They come from images apart from
            each other and from the labelled ones, so that nothing pairs them.

    Raises:
        ValueError: an unknown name; more images than there are.
    """
    check_choice(name, PAIR_SETS, "name")
    pool = _pool(name)
    for what, value, least in (("labels", labels, 1), ("unlabelled", unlabelled, 0)):
        check_whole(value, what, least)
    if labels + 2 * unlabelled > len(pool.x):
        raise ValueError(
            f"{name} has {len(pool.x)} training images, but labels={labels} and twice unlabelled={unlabelled} ask for "
            f"{labels + 2 * unlabelled}"
        )
    order = torch.randperm(len(pool.x), generator=torch.Generator().manual_seed(seed))
    own, more_x, more_y = order[: labels + 2 * unlabelled].split([labels, unlabelled, unlabelled])
    picked = {"x": pool.x[own], "y": pool.y[own], "more_x": pool.x[more_x], "more_y": pool.y[more_y]}
    return dataclasses.replace(pool, **picked)  # type: ignore[arg-type]


@functools.cache
def _pool(name: str) -> Pairs:
    """A set with all its labels."""
    (x, y), valid, test = _parts(name)
    return Pairs(name, x, y, *valid, *test, x[:0], y[:0], face() if name == "shapes" else None)


def _parts(name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Training, validation and test part of a set."""
    if name == "shapes":
        draws = torch.Generator().manual_seed(0)
        for count in POOL.values():
            drawn = shapes(count, size=POOL_SIZE, generator=draws)
            yield drawn.images.flatten(1), drawn.landmarks.flatten(1)
        return
    from sklearn.datasets import load_digits

    upper, lower = (torch.from_numpy(load_digits().images).float() / 16).flatten(1).split(32, 1)
    index = torch.arange(len(upper))
    test = index % 5 == 4  # the writers come one after another: every fifth image of each
    rest = index[~test][torch.randperm(int((~test).sum()), generator=torch.Generator().manual_seed(0))]
    valid = len(rest) // 5
    for part in (rest[valid:], rest[:valid], index[test]):
        yield upper[part], lower[part]
