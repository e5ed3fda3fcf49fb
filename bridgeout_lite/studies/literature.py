"""What needs no run: sizes of usual networks and of those pruned by L1 norm, counted each time the page is written, and
older theory."""

import functools
from collections.abc import Callable, Iterator, Mapping

import pandas as pd
import torch
from torch import nn

from .. import models
from ..tv_compat import import_torchvision
from . import published
from .base import CONTRADICTED, HOLDS, MATHEMATICS, THEORY, Claim, Finding, Section, Study
from .experiment import counts
from .theory import OLDER


def _network_counts(key: str) -> dict[str, int]:
    """What can be counted of a network of ``published.SIZES``."""
    if key == "resnet20":
        parameters, macs = published.resnet_counts("ResNet-20")
        return {"parameters": parameters, "multiply-adds": macs}
    if key == "resnet50":
        import_torchvision()
        from torchvision.models import resnet50

        parameters, macs = counts(resnet50, 224)
        return {"parameters": parameters, "multiply-adds": macs}
    with torch.device("meta"):
        convolutions = [m for m in models.build_model(key).modules() if isinstance(m, nn.Conv2d)]
    parameters, macs = counts(functools.partial(models.build_model, key))
    threes = sum(m.kernel_size == (3, 3) for m in convolutions)
    return {"parameters": parameters, "multiply-adds": macs, "convolutions of 3x3": threes}


def _l1_counts(network: str) -> dict[str, int]:
    """The networks of Li et al. 2017, without BatchNorm's parameters: their VGG-16 has no biases in convolutions and a
    hidden layer of 512 before the classifier."""
    if network in published.RESNET_CUTS:
        parameters, macs = published.resnet_counts(network)
        return {"parameters": parameters, "multiply-adds": macs}
    stages = models.VGG16 if network == "VGG-16" else published.VGG16_PRUNED_A

    def build() -> nn.Module:
        model = models.vgg(stages=stages)
        model.classifier = nn.Sequential(nn.Linear(stages[-1][-1], 512), nn.ReLU(), nn.Linear(512, 10))
        return model

    with torch.device("meta"):
        layers = [m for m in build().modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    parameters = sum(m.weight.numel() for m in layers)
    parameters += sum(m.out_features for m in layers if isinstance(m, nn.Linear))
    return {"parameters": parameters, "multiply-adds": counts(build)[1]}


_UNITS = {"": 1.0, "M": 1e6, "x 10^8": 1e8}


def published_counts() -> Iterator[tuple[str, Mapping[str, str], Callable[[], dict[str, int]]]]:
    """Each network with its published counts, as they are written, and what counts them here."""
    for title, key, theirs, _ in published.SIZES:
        yield title, theirs, functools.partial(_network_counts, key)
    for network, (parameters, macs) in published.L1_PRUNED.items():
        yield (
            f"{network} of Li et al.",
            {"parameters": parameters, "multiply-adds": macs},
            functools.partial(_l1_counts, network),
        )


def same_counts(theirs: Mapping[str, str], ours: Mapping[str, int]) -> bool:
    """Whether every count is the published one, to the digits that are published."""

    def rounded(name: str, text: str) -> str:
        digits, _, unit = text.partition(" ")
        return f"{ours[name] / _UNITS[unit]:.{len(digits.partition('.')[2])}f}"

    return all(rounded(name, text) == text.partition(" ")[0] for name, text in theirs.items())


@functools.cache
def _counted() -> Finding:
    lines, same = [], []
    for title, theirs, count in published_counts():
        ours = count()
        same.append(same_counts(theirs, ours))
        lines.append(f"{title}: " + ", ".join(f"{ours[name]:,} {name} ({text})" for name, text in theirs.items()))
    return Finding(
        "; ".join(lines),
        HOLDS if all(same) else CONTRADICTED,
        "counted exactly, and compared with the published number (in brackets) after rounding as there; those of Li "
        "et al. come out to the digit if the parameters of BatchNorm are left out, which is our reading of the table",
        short=f"{sum(same)} of {len(same)} networks to the published digit",
    )


def _sizes(rows: pd.DataFrame) -> Finding:
    return _counted()


SIZES = Section(
    "Sizes of networks",
    "Counted each time this page is written.",
    (
        Claim(
            "Parameters and multiply-adds of usual networks, whole and pruned by L1 norm, are the published ones",
            "Li et al. 2017, as tabulated by JJGO/shrinkbench, and "
            + ", ".join(dict.fromkeys(source for *_, source in published.SIZES)),
            "14.73 M parameters of VGG-16, 1.25 x 10^8 multiply-adds of ResNet-56, and so on",
            THEORY,
            "`bridgeout check sizes-of-networks`",
            _sizes,
            kind=MATHEMATICS,
            name="sizes-of-networks",
        ),
    ),
)

STUDY = Study("literature", sections=(SIZES, OLDER))
