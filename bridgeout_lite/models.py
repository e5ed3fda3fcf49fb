"""Networks, plain: no method is mentioned here; noise and penalties are attached from outside.

All take images of 32x32 pixels. Nonlinearities are modules, so that they can be found by type and by name; residual
additions are plain sums. ``width`` multiplies the channels of every hidden layer.

The networks of the pruning study (VGG, ResNet, Wide-ResNet) follow its released code where that matters for what is
measured. Every convolution has a bias, though the next BatchNorm cancels it, because the published parameter counts
include it. Convolutions start Xavier-uniform with gain sqrt 2, which is 2.4 times torch's default (for equal numbers of
channels): the same function behind BatchNorm, but not the same to a method that acts on weights by their size.

Sources: Simonyan and Zisserman 2015, arXiv:1409.1556 (VGG); He et al. 2016, arXiv:1512.03385 (ResNet); Zagoruyko and
Komodakis 2016, arXiv:1605.07146 (Wide-ResNet); Khan and Stavness 2020, arXiv:2009.10893 (the study); Jordan 2024,
arXiv:2404.00498 (the network of the fast recipe).

Example:
    >>> model = build_model("resnet14", width=0.25, seed=0)
    >>> model(torch.zeros(2, 3, 32, 32)).shape, family("resnet14"), "stage1.0.conv1" in tied("resnet14")
    (torch.Size([2, 10]), 'resnet', False)
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_choice, check_positive, check_whole
from .modules import doubled, seeded

# Channels of the convolutions of each stage; each stage ends with a max-pool.
VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def smallcnn(
    width: float = 1.0, num_classes: int = 10, in_channels: int = 3, *, batchnorm: bool = True
) -> nn.Sequential:
    """A small convolutional network for 32x32 images: four 3x3 convolutions and one hidden dense layer.

    At width 1 on 3x32x32 input it has 0.17 M parameters and 5.3 M multiply-adds per image: an epoch of CIFAR-10 takes a
    few seconds on two CPU cores. The nonlinearities are the modules relu1 ... relu5. Without ``batchnorm`` the
    convolutions have biases instead, and nothing in the network undoes a change of scale.
    """
    c1, c2, c3, hidden = (_scaled(c, width) for c in (16, 32, 64, 128))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (before, after) in enumerate([(in_channels, c1), (c1, c2), (c2, c2), (c2, c3)], 1):
        layers[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=1, bias=not batchnorm)
        if batchnorm:
            layers[f"norm{number}"] = nn.BatchNorm2d(after)
        layers[f"relu{number}"] = nn.ReLU()
        if number != 2:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
    layers |= {"flatten": nn.Flatten(), "dense": nn.Linear(16 * c3, hidden), "relu5": nn.ReLU()}
    layers["classifier"] = nn.Linear(hidden, num_classes)
    if not batchnorm:
        for layer in layers.values():  # torch's default shrinks the signal from layer to layer
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(layers)


def vgg(
    width: float = 1.0, num_classes: int = 10, in_channels: int = 3, *, stages: tuple[tuple[int, ...], ...] = VGG16
) -> nn.Sequential:
    """VGG with BatchNorm and one linear layer: conv1, norm1, relu1, conv2, ..., classifier.

    "vgg16" has 13 convolutions, 14.73 M parameters and 313 M multiply-adds per image; "vgg11", the same network with 8
    convolutions, 9.23 M and 153 M. Every filter stands alone: no addition ties two layers together.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, number = in_channels, 0
    for stage in stages:
        for after in (_scaled(c, width) for c in stage):
            number += 1
            layers[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=1)
            layers[f"norm{number}"] = nn.BatchNorm2d(after)
            layers[f"relu{number}"] = nn.ReLU()
            before = after
        layers[f"pool{number}"] = nn.MaxPool2d(2)
    return _as_in_study(**layers, flatten=nn.Flatten(), classifier=nn.Linear(before, num_classes))


class Shortcut(nn.Conv2d):
    """A 1x1 convolution that leaves out pixels itself, in place of a stride. With a stride and fewer than 8 channels
    torch calls a kernel of oneDNN that writes beyond its memory in the backward pass, on processors with AVX2 and no
    AVX-512: a crash with one thread, wrong gradients with more (uxlfoundation/oneDNN issue 6035)."""

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


class ResidualBlock(nn.Module):
    """conv1 - norm1 - relu1 - conv2 - norm2, then the input is added and relu2 applied. Where the shape changes, the
    input goes through ``shortcut``, a 1x1 convolution with BatchNorm. The filters of conv1 stand alone; the sum ties
    those of conv2 to other layers."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1)
        self.norm1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride != 1:
            projection = {"conv": Shortcut(before, after, 1, stride), "norm": nn.BatchNorm2d(after)}
            self.shortcut = nn.Sequential(OrderedDict(projection))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.norm1(self.conv1(x)))
        out: Tensor = self.relu2(self.norm2(self.conv2(inner)) + self.shortcut(x))
        return out


class WideBlock(nn.Module):
    """norm1 - relu1 - conv1 - norm2 - relu2 - conv2, then the input is added: BatchNorm and nonlinearity come first
    ("pre-activation"). Where the shape changes, the input goes through ``shortcut``, a bare 1x1 convolution. The
    filters of conv1 stand alone."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride != 1:
            self.shortcut = Shortcut(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(self.relu1(self.norm1(x)))
        out: Tensor = self.conv2(self.relu2(self.norm2(inner))) + self.shortcut(x)
        return out


def resnet(
    width: float = 1.0, num_classes: int = 10, in_channels: int = 3, *, blocks: tuple[int, int, int] = (3, 4, 6)
) -> nn.Sequential:
    """Three stages of :class:`ResidualBlock` of 16, 32 and 64 channels. Modules: conv, norm, relu, stage1.0 ...,
    classifier.

    "resnet34c" is the study's "ResNet-34", with 3, 4 and 6 blocks and 27 convolutions of 3x3: 0.51 M parameters and
    60 M multiply-adds per image. Its widths are those of the CIFAR ResNets; only its first numbers of blocks are those
    of the ImageNet ResNet-34, hence the c. "resnet14" has 2 blocks per stage: 0.18 M and 27 M.
    """
    c1, c2, c3 = (_scaled(c, width) for c in (16, 32, 64))
    return _as_in_study(
        conv=nn.Conv2d(in_channels, c1, 3, padding=1),
        norm=nn.BatchNorm2d(c1),
        relu=nn.ReLU(),
        stage1=_stage(ResidualBlock, blocks[0], c1, c1, 1),
        stage2=_stage(ResidualBlock, blocks[1], c1, c2, 2),
        stage3=_stage(ResidualBlock, blocks[2], c2, c3, 2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(c3, num_classes),
    )


def wide_resnet(
    width: float = 1.0, num_classes: int = 10, in_channels: int = 3, *, depth: int = 28, factor: int = 10
) -> nn.Sequential:
    """Wide-ResNet, "wrn-depth-factor": three stages of (depth - 4) / 6 :class:`WideBlock`, 16, 32 and 64 times
    ``factor`` channels wide.

    Parameters and multiply-adds per image: wrn-28-10 36.5 M and 5.2 G, wrn-16-4 2.75 M and 0.39 G, wrn-16-2 0.69 M and
    0.10 G, wrn-10-2 0.30 M and 0.04 G. Modules: conv, stage1.0 ..., norm, relu, classifier.

    The released code of the study halves the image in the second convolution of a stage, which costs 13 % (28-10) to
    29 % (16-4) more, and gives the last BatchNorm a momentum of 0.9. Here both are as in the Wide-ResNet paper and in
    torch: the first convolution, and 0.1.
    """
    stem, c1, c2, c3 = (_scaled(c, width) for c in (16, 16 * factor, 32 * factor, 64 * factor))
    blocks = (depth - 4) // 6
    return _as_in_study(
        conv=nn.Conv2d(in_channels, stem, 3, padding=1),
        stage1=_stage(WideBlock, blocks, stem, c1, 1),
        stage2=_stage(WideBlock, blocks, c1, c2, 2),
        stage3=_stage(WideBlock, blocks, c2, c3, 2),
        norm=nn.BatchNorm2d(c3),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(c3, num_classes),
    )


class Whitening(nn.Module):
    """A fixed first layer: the principal components of patches of 2x2 pixels of training images, each divided by its
    standard deviation; then the same with opposite sign, so that a ReLU loses neither half.

    It is not trained and not pruned: its weight is a buffer, zero until :meth:`learn` is given images, which
    :func:`bridgeout_lite.fit` does before the first step.
    """

    weight: Tensor

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, 8 * in_channels
        self.register_buffer("weight", torch.zeros(self.out_channels, in_channels, 2, 2))

    @property
    def ready(self) -> bool:
        return bool(self.weight.any())

    @torch.no_grad()
    def learn(self, x: Tensor, epsilon: float = 5e-4) -> None:
        """Learn the filters from a batch of normalised images. ``epsilon`` is added to the variances, as the smallest
        are mostly rounding."""
        patches = F.unfold(doubled(x), 2).transpose(1, 2).flatten(0, 1)
        variance, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        directions *= torch.where(directions.sum(0) < 0, -1.0, 1.0)  # eigh leaves their signs open
        filters = (directions / (variance + epsilon).sqrt()).T.reshape(-1, self.in_channels, 2, 2)
        self.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"


class Scale(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


def airnet(width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> nn.Sequential:
    """A network that learns CIFAR-10 in few epochs, after the smallest of the "airbench" line: a whitening layer, three
    groups of two 3x3 convolutions of 64, 128 and 128 channels with a max-pool after the first of each, and a linear
    layer without bias on each channel's largest value, its output divided by 9.

    At width 1 it has 0.57 M parameters and 54 M multiply-adds per image, at width 0.5 0.15 M and 17 M. Convolutions
    begin by handing their input on as far as their channels go, plus torch's random weights. There: no random weights
    in those channels, GELU, another momentum of BatchNorm, no scale in it, and biases behind the whitening; here ReLU,
    whose zeros are zeros, and BatchNorm as torch has it. The nonlinearities are the modules relu0 ... relu6;
    ``flatten`` puts out the last features.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(whitening=Whitening(in_channels), relu0=nn.ReLU())
    before, number = 8 * in_channels, 0
    for after in (_scaled(c, width) for c in (64, 128, 128)):
        for pooled in (True, False):
            number += 1
            conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
            weight = conv.weight.detach()
            weight += nn.init.dirac_(torch.empty_like(weight))
            layers[f"conv{number}"] = conv
            if pooled:
                layers[f"pool{number}"] = nn.MaxPool2d(2)
            layers[f"norm{number}"] = nn.BatchNorm2d(after)
            layers[f"relu{number}"] = nn.ReLU()
            before = after
    layers |= {"pool": nn.AdaptiveMaxPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(layers | {"classifier": nn.Linear(before, num_classes, bias=False), "scale": Scale(1 / 9)})


def _scaled(channels: int, width: float) -> int:
    return max(1, round(width * channels))


def _stage(
    block: Callable[[int, int, int], nn.Module], count: int, before: int, after: int, stride: int
) -> nn.Sequential:
    return nn.Sequential(block(before, after, stride), *(block(after, after, 1) for _ in range(count - 1)))


def _as_in_study(**layers: nn.Module) -> nn.Sequential:
    """The layers in a row, with the initial weights and biases of the study's convolutions."""
    model = nn.Sequential(OrderedDict(layers))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight, gain=2**0.5)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return model


MODELS: dict[str, Callable[..., nn.Module]] = {
    "smallcnn": smallcnn,
    "smallcnn-plain": partial(smallcnn, batchnorm=False),
    "vgg11": partial(vgg, stages=VGG11),
    "vgg16": vgg,
    "resnet14": partial(resnet, blocks=(2, 2, 2)),
    "resnet34c": resnet,
    "wrn-10-2": partial(wide_resnet, depth=10, factor=2),
    "wrn-16-2": partial(wide_resnet, depth=16, factor=2),
    "wrn-16-4": partial(wide_resnet, depth=16, factor=4),
    "wrn-28-10": partial(wide_resnet, depth=28, factor=10),
    "airnet": airnet,
}


def build_model(
    name: str, *, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, seed: int | None = None
) -> nn.Module:
    """Build a freshly initialised network by name, for 32x32 images.

    Args:
        name: one of ``MODELS``.
        width: multiplies the number of channels of every hidden layer; > 0.
        num_classes: size of the output.
        in_channels: 3 for colour.
        seed: seeds the initial weights, without changing torch's global random state; by default they draw from that.

    Raises:
        ValueError: an unknown name (the message has the known ones and the nearest), or a size that is not positive.
    """
    check_choice(name, MODELS, "name")
    check_positive(width, "width", zero=False)
    check_whole(num_classes, "num_classes")
    check_whole(in_channels, "in_channels")
    with seeded(seed):
        return MODELS[name](width=width, num_classes=num_classes, in_channels=in_channels)


def family(name: str) -> str:
    """The function that builds a model of this name: "smallcnn", "vgg", "resnet", "wide_resnet" or "airnet"."""
    builder: Any = MODELS[check_choice(name, MODELS, "name")]
    return str(getattr(builder, "func", builder).__name__)


def tied(name: str) -> frozenset[str]:
    """Names of the convolutions whose channels an addition ties to those of others, so that they can only be removed
    together: all but the first of each block, and any whose output goes through an identity shortcut."""
    with torch.device("meta"):  # names and shapes alone
        model = build_model(name)
    found, last = set(), ""
    for layer, module in model.named_modules():
        if isinstance(module, ResidualBlock | WideBlock):
            parts = {f"{layer}.{k}" for k, m in module.named_modules() if isinstance(m, nn.Conv2d)}
            found |= parts - {f"{layer}.conv1"} | ({last} if isinstance(module.shortcut, nn.Identity) else set())
        if isinstance(module, nn.Conv2d):
            last = layer
    return frozenset(found)
