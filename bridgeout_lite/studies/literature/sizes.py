"""Sizes that are counted each time the page is written: usual networks, and those pruned by L1 norm."""

import functools
from collections.abc import Callable, Mapping

import pandas as pd
import torch
from torch import nn

from ... import models
from ...tv_compat import import_torchvision
from .. import published
from ..base import Claim, Finding, Judge, Section, not_run
from ..experiment import counts


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


def counted(theirs: Mapping[str, str], count: Callable[[], dict[str, int]]) -> Judge:
    """Is every count the published one, to the digits that are published?"""
    units = {"": 1.0, "M": 1e6, "x 10^8": 1e8}

    def judge(rows: pd.DataFrame) -> Finding:
        ours, same = count(), []
        for name, text in theirs.items():
            digits, _, unit = text.partition(" ")
            same.append(f"{ours[name] / units[unit]:.{len(digits.partition('.')[2])}f}" == digits)
        return Finding(
            ", ".join(f"{ours[name]:,} {name}" for name in theirs),
            "reproduced" if all(same) else "not reproduced",
            "counted exactly, and compared after rounding as published",
        )

    return judge


def _words(counts: Mapping[str, str]) -> str:
    return ", ".join(f"{text} {name}" for name, text in counts.items())


def _size_claims() -> tuple[Claim, ...]:
    return tuple(
        Claim(
            f"Size of {title}",
            source,
            _words(theirs),
            "none",
            "`bridgeout report`",
            counted(theirs, functools.partial(_network_counts, key)),
        )
        for title, key, theirs, source in published.SIZES
    )


def _l1_claims() -> tuple[Claim, ...]:
    source = "Li et al. 2017, as tabulated by JJGO/shrinkbench; layers from Eric-mingjie/rethinking-network-pruning"
    claims = []
    for network, (parameters, macs, _) in published.L1_PRUNED.items():
        theirs = {"parameters": parameters, "multiply-adds": macs}
        count = functools.partial(_l1_counts, network)
        claims.append(
            Claim(
                f"Size of {network} as Li et al. have it",
                source,
                _words(theirs),
                "none",
                "`bridgeout report`",
                counted(theirs, count),
            )
        )
    for family, reason in (
        ("VGG-16", "the package cannot yet remove another share of the filters in each layer"),
        ("ResNet-56", "no ResNet-56 in the package"),
        ("ResNet-110", "no ResNet-110 in the package"),
    ):
        numbers = {name: row[2] for name, row in published.L1_PRUNED.items() if name.startswith(family)}
        text = "; ".join(f"{name} {accuracy:.2f}" for name, accuracy in numbers.items())
        claim = f"Pruned by L1 norm and fine-tuned, {family} is at least as accurate as before"
        if family == "ResNet-110":
            claim = "Pruned by L1 norm and fine-tuned, ResNet-110 loses no more than 0.3 points"
        claims.append(Claim(claim, source, f"CIFAR-10 test accuracy (%): {text}", "-", "-", not_run(reason)))
    return tuple(claims)


SECTIONS = (
    Section("Sizes of networks", "Counted each time this page is written.", _size_claims()),
    Section(
        "Filter pruning by L1 norm",
        "The published parameters come out to the digit if those of BatchNorm are left out: our reading of the table.",
        _l1_claims(),
    ),
)
