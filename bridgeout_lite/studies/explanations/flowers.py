"""Drawn flowers: small colour images in which the part that tells the class is known to the pixel.

Every image shows a stem with a leaf, petals and a disc before a background. Place, size, tilt, number and length of the
petals, the leaf's side and all colours are random. The class is the colour of one part ("single-6c": the disc, in six
colours) or of two ("double-12c": the disc in four colours times the leaf in three). All other parts take their colours
from the same palette, independently: wherever else a colour stands, it says nothing about the class.

In the spirit of an8Flower, the rendered flowers of Oramas, Wang and Tuytelaars (arXiv:1712.06302), after which the two
variants are named. The drawings are our own, 32x32 pixels, and share nothing with the original pictures.
"""

import dataclasses
import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import check_choice, check_whole
from ...data import Images, Split

# From the bottom to the top: what comes later hides what came before.
PARTS = ("background", "stem", "leaf", "petals", "disc")

# In pixel units. Any two differ by more than 100 in some channel, so that one ninth of a pixel, the least that a part
# can cover, still changes that pixel by 11 and more. With jitter and grain all values stay between 0 and 255.
COLOURS = {
    "red": (205.0, 55.0, 55.0),
    "yellow": (205.0, 195.0, 55.0),
    "green": (60.0, 180.0, 70.0),
    "cyan": (60.0, 190.0, 200.0),
    "blue": (55.0, 75.0, 205.0),
    "magenta": (200.0, 60.0, 190.0),
}
JITTER, GRAIN = 15.0, 10.0

# For each variant the parts that tell the class, with their colours. A class is a combination, the last part fastest.
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "single-6c": {"disc": tuple(COLOURS)},
    "double-12c": {"disc": ("red", "yellow", "green", "blue"), "leaf": ("yellow", "cyan", "magenta")},
}

SIDE = 32
_FINE = 3  # a pixel is _FINE x _FINE points, each of which shows one part
_PART = 250  # flowers drawn at a time


@dataclasses.dataclass(frozen=True)
class MaskedSplit(Split):
    """A :class:`bridgeout_lite.data.Split` with ``mask`` (n, 32, 32), bool: the pixels that tell the class."""

    mask: Tensor

    def to(self, device: str | torch.device) -> "MaskedSplit":
        return MaskedSplit(self.x.to(device), self.y.to(device), self.mask.to(device))


@dataclasses.dataclass(frozen=True)
class Sketch:
    """n flowers before they are drawn: everything that chance decides.

    Attributes:
        variant: one of ``VARIANTS``. y: classes (n,).
        colours: of all parts (n, 5, 3) in pixel units; those of the telling parts follow from ``y``.
        jitter: added to them (n, 5, 3). far: colour of the background's other end (n, 3).
        centre: of the disc (n, 2), x and y in pixels. size, tilt (radians): (n,).
        petals: how many (n,). phase, depth: of their outline (n,). side: of the leaf (n,), -1 or 1.
        grain: noise of every pixel (n, 3, 32, 32).
    """

    variant: str
    y: Tensor
    colours: Tensor
    jitter: Tensor
    far: Tensor
    centre: Tensor
    size: Tensor
    tilt: Tensor
    petals: Tensor
    phase: Tensor
    depth: Tensor
    side: Tensor
    grain: Tensor

    def with_classes(self, y: Tensor) -> "Sketch":
        """The same flowers with the classes ``y`` (n,): only the colours of the telling parts change."""
        colours, rest = self.colours.clone(), y
        palette = torch.tensor(list(COLOURS.values()))
        for part, names in reversed(VARIANTS[self.variant].items()):
            choices = palette[[list(COLOURS).index(name) for name in names]]
            colours[:, PARTS.index(part)] = choices[rest % len(names)]
            rest = rest // len(names)
        return dataclasses.replace(self, y=y, colours=colours)


def sketch(n: int, variant: str = "single-6c", generator: torch.Generator | None = None) -> Sketch:
    """Draw lots for ``n`` flowers. Classes come in turn, so that all are equally frequent, in random order. A
    ValueError for an unknown variant, or n < 1."""
    check_choice(variant, tuple(VARIANTS), "variant")
    n = check_whole(n, "the number of flowers")

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    y = torch.randperm(n, generator=generator) % len(class_names(variant))
    palette = torch.tensor(list(COLOURS.values()))
    colours = palette[torch.randint(len(palette), (n, len(PARTS)), generator=generator)]
    colours[:, 0] = uniform(45, 210, 3)
    flowers = Sketch(
        variant=variant,
        y=y,
        colours=colours,
        jitter=uniform(-JITTER, JITTER, len(PARTS), 3),
        far=uniform(45, 210, 3),
        centre=torch.stack([uniform(9, 23), uniform(8, 16)], 1),
        size=uniform(0.8, 1.15),
        tilt=uniform(-math.pi / 6, math.pi / 6),
        petals=torch.randint(5, 9, (n,), generator=generator),
        phase=uniform(0, 2 * math.pi),
        depth=uniform(1.2, 2.4),
        side=2 * torch.randint(2, (n,), generator=generator) - 1,
        grain=uniform(-GRAIN, GRAIN, 3, SIDE, SIDE),
    )
    return flowers.with_classes(y)


def render(flowers: Sketch) -> tuple[Tensor, Tensor]:
    """Draw the flowers: pixels (n, 3, 32, 32) as uint8, and the mask (n, 32, 32) of what tells the class.

    The mask is exact: a pixel is in it if and only if it would look different in some other class.
    """
    parts = {name: value.split(_PART) for name, value in vars(flowers).items() if name != "variant"}
    drawn = [_render(Sketch(flowers.variant, *few)) for few in zip(*parts.values(), strict=True)]
    pixels, masks = zip(*drawn, strict=True)
    return torch.cat(pixels), torch.cat(masks)


def _render(flowers: Sketch) -> tuple[Tensor, Tensor]:
    cover = F.one_hot(_topmost(flowers), len(PARTS)).permute(0, 3, 1, 2).float()
    cover = F.avg_pool2d(cover, _FINE)  # (n, parts, 32, 32): the share of each pixel that each part has
    parts = torch.einsum("nphw,npc->nchw", cover, flowers.colours + flowers.jitter)
    down = torch.linspace(0, 1, SIDE).view(1, 1, SIDE, 1)
    fade = (flowers.far - flowers.colours[:, 0])[:, :, None, None] * down * cover[:, :1]
    pixels = (parts + fade + flowers.grain).round().clamp(0, 255).to(torch.uint8)
    telling = [PARTS.index(part) for part in VARIANTS[flowers.variant]]
    return pixels, (cover[:, telling] > 0).any(1)


def _topmost(flowers: Sketch) -> Tensor:
    """The number of the part that each point (n, 96, 96) shows."""
    points = (torch.arange(SIDE * _FINE) + 0.5) / _FINE
    y, x = torch.meshgrid(points, points, indexing="ij")
    names = ("centre", "size", "tilt", "petals", "phase", "depth", "side")
    centre, size, tilt, petals, phase, depth, side = (getattr(flowers, name)[..., None, None] for name in names)
    # coordinates of the plant: in units of its size, u to the right and v down its stem
    dx, dy = (x - centre[:, 0]) / size, (y - centre[:, 1]) / size
    u, v = tilt.cos() * dx + tilt.sin() * dy, tilt.cos() * dy - tilt.sin() * dx
    radius, angle = (u.square() + v.square()).sqrt(), torch.atan2(v, u)
    # the leaf is an ellipse that points up and away from the stem
    a, b = side * u - 3.2, v - 9.6
    along, across = (a - 0.5 * b) / 1.25**0.5, (b + 0.5 * a) / 1.25**0.5
    shown = torch.zeros_like(radius, dtype=torch.long)
    shown[(u.abs() < 0.8) & (v > 0) & (v < 16)] = PARTS.index("stem")
    shown[(along / 3.3).square() + (across / 1.7).square() < 1] = PARTS.index("leaf")
    shown[radius < 5.6 + depth * torch.cos(petals * (angle - phase))] = PARTS.index("petals")
    shown[radius < 3.1] = PARTS.index("disc")
    return shown


def class_names(variant: str) -> tuple[str, ...]:
    """The classes of a variant, such as "red disc" or "red disc, cyan leaf"."""
    names: tuple[str, ...] = ("",)
    for part, colours in VARIANTS[variant].items():
        names = tuple(f"{before}, {colour} {part}".lstrip(", ") for before in names for colour in colours)
    return names


def flowers(
    variant: str = "single-6c", *, train: int = 3000, valid: int = 600, test: int = 600, seed: int = 0
) -> Images:
    """An image set of drawn flowers, for :func:`bridgeout_lite.fit` and its like. Its three splits are of
    :class:`MaskedSplit`, each drawn from a generator of its own: another size of one leaves the others as they are. A
    ValueError for an unknown variant, or a size below 1."""
    seeds = torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
    splits, digest = [], hashlib.sha256()
    for n, own in zip((train, valid, test), seeds, strict=True):
        drawn = sketch(n, variant, torch.Generator().manual_seed(own))
        x, mask = render(drawn)
        splits.append(MaskedSplit(x, drawn.y, mask))
        digest.update(x.numpy().data)
        digest.update(drawn.y.numpy().data)
    pixels = splits[0].x.double()
    return Images(
        name=f"flowers-{variant}",
        train=splits[0],
        valid=splits[1],
        test=splits[2],
        classes=class_names(variant),
        mean=tuple(pixels.mean((0, 2, 3)).tolist()),
        std=tuple(pixels.std((0, 2, 3), correction=0).tolist()),
        checksum=digest.hexdigest()[:16],
        embedded=True,
    )
