"""Networks, plain: no method is mentioned here; noise and penalties are attached from outside."""

from collections import OrderedDict
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from torch import nn


def smallcnn(
    width: float = 1.0, num_classes: int = 10, in_channels: int = 3, *, batchnorm: bool = True
) -> nn.Sequential:
    """A small convolutional network for 32x32 images: four 3x3 convolutions and one hidden dense layer.

    At width 1 on 3x32x32 input it has 0.17 M parameters and 5.3 M multiply-adds an image: a few seconds an epoch of
    CIFAR-10 on two CPU cores. The nonlinearities are the modules relu1 ... relu5. Without ``batchnorm`` the
    convolutions have biases instead, and nothing in the network undoes a change of scale.
    """
    c1, c2, c3, hidden = (max(1, round(width * c)) for c in (16, 32, 64, 128))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (before, after) in enumerate([(in_channels, c1), (c1, c2), (c2, c2), (c2, c3)], 1):
        layers[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=1, bias=not batchnorm)
        if batchnorm:
            layers[f"norm{number}"] = nn.BatchNorm2d(after)
        layers[f"relu{number}"] = nn.ReLU()
        if number != 2:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["dense"] = nn.Linear(16 * c3, hidden)
    layers["relu5"] = nn.ReLU()
    layers["classifier"] = nn.Linear(hidden, num_classes)
    if not batchnorm:
        for layer in layers.values():  # torch's default shrinks the signal from layer to layer
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(layers)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "smallcnn": smallcnn,
    "smallcnn-plain": partial(smallcnn, batchnorm=False),
}


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
    if not 0 < width < float("inf") or num_classes < 1 or in_channels < 1:
        raise ValueError(
            f"width must be finite and > 0, num_classes and in_channels >= 1; "
            f"got {width=}, {num_classes=}, {in_channels=}"
        )
    return MODELS[name](width=width, num_classes=num_classes, in_channels=in_channels)
