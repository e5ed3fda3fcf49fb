"""Networks, plain: no method is mentioned here; noise and penalties are attached from outside."""

from collections import OrderedDict
from collections.abc import Callable
from difflib import get_close_matches

from torch import nn


def smallcnn(width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> nn.Sequential:
    """A small convolutional network for 32x32 images: four 3x3 convolutions and one hidden dense layer.

    At width 1 on 3x32x32 input it has 0.20 M parameters and 5.4 M multiply-adds an image: a few seconds an epoch of
    CIFAR-10 on two CPU cores. The nonlinearities are the modules relu1 ... relu5.
    """
    c1, c2, c3, hidden = (max(1, round(width * c)) for c in (16, 32, 64, 128))
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, c1, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(c1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(c1, c2, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(c2),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(c2, c2, 3, padding=1, bias=False),
            norm3=nn.BatchNorm2d(c2),
            relu3=nn.ReLU(),
            pool3=nn.MaxPool2d(2),
            conv4=nn.Conv2d(c2, c3, 3, padding=1, bias=False),
            norm4=nn.BatchNorm2d(c3),
            relu4=nn.ReLU(),
            pool4=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense=nn.Linear(16 * c3, hidden),
            relu5=nn.ReLU(),
            classifier=nn.Linear(hidden, num_classes),
        )
    )


MODELS: dict[str, Callable[..., nn.Module]] = {"smallcnn": smallcnn}


def build_model(name: str, *, width: float = 1.0, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Build a freshly initialised network by name, for 32x32 images.

    Args:
        name: one of ``MODELS``.
        width: multiplies the number of channels of every hidden layer; > 0.
        num_classes: size of the output.
        in_channels: 3 for colour.

    Raises:
        ValueError: an unknown name (the message lists the known ones), or a size that is not positive.
    """
    if name not in MODELS:
        near = get_close_matches(str(name), MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}{hint}")
    if not width > 0 or num_classes < 1 or in_channels < 1:
        raise ValueError(
            f"width must be > 0, num_classes and in_channels >= 1; got {width=}, {num_classes=}, {in_channels=}"
        )
    return MODELS[name](width=width, num_classes=num_classes, in_channels=in_channels)
