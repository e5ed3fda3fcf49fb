"""Published numbers to compare with. The numbers are in the CSV files beside this one, each with its source.

**Pruning curves** of Batch Bridgeout, Dropout and plain training: test accuracy (%) against the share of filters set to
zero in every convolution, ``int(O * amount)`` of O filters with the smallest L2 norm, once, without fine-tuning.

They were read from the drawing commands of the vector figures in github.com/najeebkhan/bridgeout-filter-pruning at
cb453ff, which belong to Khan and Stavness 2020, arXiv:2009.10893, to 0.001 points of accuracy. The means fall on
multiples of 1/300 %, as those of three runs on 10,000 test images do ("wrn-28-10" on CIFAR-100 without noise: of
1/200 %, two runs). Points below the visible axis are left out, so curves have 4 to 8 points.

p, q and the targeted share behind the curves are not published. The pruned checkpoint is the one with the best *test*
accuracy. In VGG the released code also zeroes the smallest BatchNorm scales
(:func:`bridgeout_lite.studies.curves.prune_as_released`).

**Sizes** of usual networks, for the ledger.
"""

import csv
import io
from importlib.resources import files

import pandas as pd

from ...checks import check_choice

NETWORKS = ("vgg16", "resnet34c", "wrn-28-10")
DATASETS = ("cifar10", "cifar100")

METHODS = {"none": "Backprop", "dropout": "Dropout", "bridgeout": "Batch Bridgeout"}
"""The methods by their names in this package, and what the figures call them."""

EPOCHS = 230
"""How long the networks behind the curves were trained."""


def _rows(name: str) -> list[dict[str, str]]:
    """The rows of NAME.csv, as text: some numbers are compared to the digits that are published."""
    text = (files(__package__) / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def curve(network: str, dataset: str, method: str) -> pd.DataFrame:
    r"""One published curve: one row per amount (share of filters, 0 to 1), with accuracy and error (points of test
    accuracy).

    The error is the half height of the drawn bar. It fits the population standard deviation over three runs divided by
    :math:`\sqrt 3` (nothing else that was tried fits whole numbers of images): :math:`\sqrt{2/3}` of the usual
    standard error of the mean.

    Raises:
        ValueError: network, dataset or method is not among ``NETWORKS``, ``DATASETS`` and ``METHODS``.
    """
    wanted = {"network": network, "dataset": dataset, "method": method}
    for (name, value), known in zip(wanted.items(), (NETWORKS, DATASETS, METHODS), strict=True):
        if value not in known:
            raise ValueError(f"no curve is published for {name} {value!r}: use one of {', '.join(map(repr, known))}")
    rows = [row for row in _rows("curves") if wanted.items() <= row.items()]
    return pd.DataFrame({name: [float(row[name]) for row in rows] for name in ("amount", "accuracy", "error")})


_COUNTS = ("parameters", "convolutions of 3x3", "multiply-adds")

SIZES = tuple(
    (row["title"], row["network"], {name: row[name] for name in _COUNTS if row[name]}, row["source"])
    for row in _rows("sizes")
)
"""Network in words, key, published counts, source."""

L1_PRUNED = {row["network"]: (row["parameters"], row["multiply-adds"]) for row in _rows("l1_pruned")}
"""Networks pruned by L1 norm, and whole: parameters, multiply-adds of one image."""

VGG16_PRUNED_A = ((32, 64), (128, 128), (256, 256, 256), (256, 256, 256), (256, 256, 256))
"""The filters that pruned-A keeps in each stage of VGG-16 (Eric-mingjie/rethinking-network-pruning)."""

RESNET_CUTS = {
    row["network"]: (
        int(row["blocks"]),
        (float(row["cut1"]), float(row["cut2"]), float(row["cut3"])),
        tuple(map(int, row["untouched"].split())),
    )
    for row in _rows("resnet_cuts")
}
"""Blocks in each of three stages, share of the filters that the first convolution of a block loses in each stage, and
the numbers of the convolutions that lose none."""

PTB_PERPLEXITIES = tuple((row["title"], float(row["perplexity"])) for row in _rows("perplexities"))
"""Test perplexities of LSTMs of two layers of 200 units on Penn Treebank, none of them read at its source."""


def resnet_counts(network: str) -> tuple[int, int]:
    """Parameters and multiply-adds of one 32x32 image of a CIFAR ResNet, whole or pruned (one of ``RESNET_CUTS``).

    Three stages of 16, 32 and 64 channels at 32x32, 16x16 and 8x8; two 3x3 convolutions without bias per block, nothing
    to learn in the shortcuts, ten classes. The published parameters leave out BatchNorm's scales and shifts, and so
    does this.
    """
    check_choice(network, tuple(RESNET_CUTS), "network")
    blocks, shares, untouched = RESNET_CUTS[network]
    parameters, macs, before, number = 9 * 3 * 16, 9 * 3 * 16 * 32**2, 16, 1
    for stage, share in enumerate(shares):
        width, pixels = 16 * 2**stage, (32 // 2**stage) ** 2
        for _ in range(blocks):
            number += 2
            inner = width if number - 1 in untouched else int(width * (1 - share))
            weights = 9 * inner * (before + width)
            parameters, macs, before = parameters + weights, macs + weights * pixels, width
    return parameters + 64 * 10 + 10, macs + 64 * 10
