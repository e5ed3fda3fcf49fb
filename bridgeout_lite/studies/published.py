"""Published numbers, as data: what the book's are laid beside.

**Pruning curves** of Batch Bridgeout, Dropout and plain training: test accuracy (%) against the share of filters set to
zero in every convolution, ``int(O * amount)`` of O filters with the smallest L2 norm, once, without fine-tuning.

Source: the vector figures in github.com/najeebkhan/bridgeout-filter-pruning at cb453ff, which belong to Khan and
Stavness 2020, arXiv:2009.10893. Their coordinates were read from the drawing commands, to 0.001 points of accuracy:
the means fall on multiples of 1/300 %, as those of three runs on 10,000 test images do (of "wrn-28-10" on CIFAR-100
without noise: of 1/200 %, two runs). Points below the visible axis are left out, so curves have 4 to 8 points.

To keep in mind: p, q and the targeted share behind the curves are not published. The pruned checkpoint is the one with
the best *test* accuracy. In VGG the released code also zeroes the smallest BatchNorm scales
(:func:`bridgeout_lite.studies.pruning.curves.prune_as_released`).

**Sizes, accuracies and times** of usual networks and of other pruning methods, each with its source, for the rows of
the ledger.
"""

import pandas as pd

NETWORKS = ("vgg16", "resnet34c", "wrn-28-10")
DATASETS = ("cifar10", "cifar100")

METHODS = {"none": "Backprop", "dropout": "Dropout", "bridgeout": "Batch Bridgeout"}
"""The methods by their names in this package, and what the figures call them."""

# Means and half heights of the error bars by network, data set and method, at amounts 0, 0.1, 0.2, ...
_CURVES: dict[tuple[str, str, str], tuple[tuple[float, ...], tuple[float, ...]]] = {
    ("vgg16", "cifar10", "bridgeout"): (
        (92.673, 92.673, 92.65, 90.79, 87.533, 70.317, 41.07, 15.133),
        (0.083, 0.083, 0.074, 0.953, 0.666, 2.317, 1.63, 0.712),
    ),
    ("vgg16", "cifar10", "dropout"): (
        (92.897, 82.433, 42.603, 15.733, 11.913, 10.057, 9.517, 10.057),
        (0.01, 4.11, 5.708, 0.282, 0.528, 0.046, 0.386, 0.046),
    ),
    ("vgg16", "cifar10", "none"): (
        (93.813, 89.14, 64.41, 29.027, 11.263, 10.753, 11.343, 10.0),
        (0.052, 1.124, 6.141, 2.374, 0.688, 0.615, 1.076, 0.0),
    ),
    ("vgg16", "cifar100", "bridgeout"): (
        (70.093, 68.597, 56.753, 36.403, 16.217, 7.437, 2.5),
        (0.174, 0.531, 0.975, 3.505, 2.435, 1.051, 0.571),
    ),
    ("vgg16", "cifar100", "dropout"): (
        (70.257, 27.117, 1.607, 1.23, 1.007, 1.05, 0.987),
        (0.117, 1.87, 0.214, 0.192, 0.005, 0.022, 0.011),
    ),
    ("vgg16", "cifar100", "none"): (
        (74.437, 31.01, 1.41, 1.07, 0.897, 1.0, 1.0),
        (0.071, 1.754, 0.167, 0.209, 0.042, 0.0, 0.0),
    ),
    ("resnet34c", "cifar10", "bridgeout"): (
        (90.947, 90.487, 88.19, 75.32, 47.817, 27.43, 14.977),
        (0.152, 0.108, 0.677, 3.465, 6.207, 4.48, 0.994),
    ),
    ("resnet34c", "cifar10", "dropout"): (
        (92.653, 90.9, 76.763, 46.98, 25.837, 14.89, 11.36),
        (0.185, 0.267, 2.448, 8.614, 3.882, 1.974, 0.614),
    ),
    ("resnet34c", "cifar10", "none"): (
        (93.233, 76.95, 26.19, 13.51, 12.147, 10.0, 10.0),
        (0.077, 5.54, 7.264, 2.748, 0.873, 0.0, 0.0),
    ),
    ("resnet34c", "cifar100", "bridgeout"): (
        (65.99, 62.867, 52.927, 28.513, 10.35, 2.74),
        (0.19, 0.886, 0.819, 4.682, 1.387, 0.16),
    ),
    ("resnet34c", "cifar100", "dropout"): (
        (69.85, 54.19, 26.227, 10.383, 4.127, 1.873),
        (0.033, 5.714, 7.539, 2.294, 0.648, 0.456),
    ),
    ("resnet34c", "cifar100", "none"): (
        (69.953, 36.5, 3.143, 2.063, 1.19, 1.327),
        (0.114, 3.959, 0.809, 0.169, 0.09, 0.166),
    ),
    ("wrn-28-10", "cifar10", "bridgeout"): (
        (95.587, 95.48, 95.24, 94.84, 91.55, 79.533, 53.207),
        (0.047, 0.102, 0.122, 0.155, 1.161, 4.764, 10.993),
    ),
    ("wrn-28-10", "cifar10", "dropout"): (
        (95.62, 93.86, 88.743, 76.553, 45.56),
        (0.024, 0.274, 0.931, 3.121, 4.541),
    ),
    ("wrn-28-10", "cifar10", "none"): (
        (96.31, 95.583, 87.14, 59.697),
        (0.031, 0.151, 1.445, 5.507),
    ),
    ("wrn-28-10", "cifar100", "bridgeout"): (
        (78.95, 78.527, 76.37, 72.473, 54.417, 36.503, 14.887, 1.367),
        (0.128, 0.068, 0.391, 1.436, 5.187, 3.966, 2.108, 0.144),
    ),
    ("wrn-28-10", "cifar100", "dropout"): (
        (78.55, 73.13, 58.367, 30.26, 7.797, 1.62, 1.283, 1.253),
        (0.2, 0.747, 0.682, 1.427, 0.871, 0.417, 0.199, 0.207),
    ),
    ("wrn-28-10", "cifar100", "none"): (
        (81.11, 74.09, 43.03, 8.96, 2.105, 1.52, 1.005, 0.97),
        (0.052, 1.287, 4.936, 0.722, 0.078, 0.231, 0.003, 0.017),
    ),
}


def curve(network: str, dataset: str, method: str) -> pd.DataFrame:
    r"""One published curve: a row an amount (share of filters, 0 to 1), accuracy and error (points of test accuracy).

    The error is the half height of the drawn bar. It fits the population standard deviation over three runs divided by
    :math:`\sqrt 3` (nothing else that was tried fits whole numbers of images): :math:`\sqrt{2/3}` of the usual
    standard error of the mean.

    Raises:
        ValueError: network, dataset or method is not among ``NETWORKS``, ``DATASETS`` and ``METHODS``.
    """
    for name, value, known in (
        ("network", network, NETWORKS),
        ("dataset", dataset, DATASETS),
        ("method", method, tuple(METHODS)),
    ):
        if value not in known:
            raise ValueError(f"no curve is published for {name} {value!r}: use one of {', '.join(map(repr, known))}")
    accuracies, errors = _CURVES[network, dataset, method]
    amounts = [round(0.1 * k, 1) for k in range(len(accuracies))]
    return pd.DataFrame({"amount": amounts, "accuracy": accuracies, "error": errors})


EPOCHS = 230
"""How long the networks behind the curves were trained."""

SIZES = (
    (
        "VGG-16 of the pruning study",
        "vgg16",
        {"parameters": "14.73 M", "convolutions of 3x3": "13"},
        "released code of Khan & Stavness 2020",
    ),
    (
        "ResNet of the pruning study",
        "resnet34c",
        {"parameters": "0.51 M", "convolutions of 3x3": "27"},
        "released code of Khan & Stavness 2020",
    ),
    ("Wide-ResNet 28-10", "wrn-28-10", {"parameters": "36.5 M"}, "Zagoruyko & Komodakis 2016, from memory, unverified"),
    ("ResNet-20 for CIFAR", "resnet20", {"parameters": "0.27 M"}, "akamaster/pytorch_resnet_cifar10"),
    (
        "ResNet-50, image of 224x224",
        "resnet50",
        {"multiply-adds": "4089 M"},
        "released models of OICSR, Li et al. 2019",
    ),
)
"""Network in words, key, published counts, source."""

L1_PRUNED = {
    "VGG-16": ("15.0 M", "3.13 x 10^8", 93.25),
    "VGG-16 pruned-A": ("5.4 M", "2.06 x 10^8", 93.40),
    "ResNet-56": ("0.85 M", "1.25 x 10^8", 93.04),
    "ResNet-56 pruned-A": ("0.77 M", "1.12 x 10^8", 93.10),
    "ResNet-56 pruned-B": ("0.73 M", "0.91 x 10^8", 93.06),
    "ResNet-110": ("1.72 M", "2.53 x 10^8", 93.53),
    "ResNet-110 pruned-A": ("1.68 M", "2.13 x 10^8", 93.55),
    "ResNet-110 pruned-B": ("1.16 M", "1.55 x 10^8", 93.30),
}
"""Filter pruning by L1 norm (Li et al. 2017, arXiv:1608.08710, as tabulated by JJGO/shrinkbench): parameters,
multiply-adds of one image, CIFAR-10 test accuracy (%) after fine-tuning."""

VGG16_PRUNED_A = ((32, 64), (128, 128), (256, 256, 256), (256, 256, 256), (256, 256, 256))
"""The filters that pruned-A keeps in each stage of VGG-16 (Eric-mingjie/rethinking-network-pruning)."""

RESNET_CUTS: dict[str, tuple[int, tuple[float, float, float], tuple[int, ...]]] = {
    "ResNet-20": (3, (0.0, 0.0, 0.0), ()),
    "ResNet-56": (9, (0.0, 0.0, 0.0), ()),
    "ResNet-56 pruned-A": (9, (0.1, 0.1, 0.1), (16, 20, 38, 54)),
    "ResNet-56 pruned-B": (9, (0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54)),
    "ResNet-110": (18, (0.0, 0.0, 0.0), ()),
    "ResNet-110 pruned-A": (18, (0.5, 0.0, 0.0), (36,)),
    "ResNet-110 pruned-B": (18, (0.5, 0.4, 0.3), (36, 38, 74)),
}
"""Blocks in each of three stages, share of the filters that the first convolution of a block loses in each stage, and
the numbers of the convolutions that lose none (Eric-mingjie/rethinking-network-pruning)."""

ACCURACIES = (
    ("VGG-16", "vgg16", "cifar10", "none", 93.25, "Li et al. 2017, before pruning"),
    ("VGG-16", "vgg16", "cifar10", "none", 92.64, "kuangliu/pytorch-cifar, older table"),
    ("Wide-ResNet 28-10", "wrn-28-10", "cifar10", "none", 96.00, "szagoruyko/wide-residual-networks, median of 5"),
    ("Wide-ResNet 28-10", "wrn-28-10", "cifar100", "none", 80.75, "szagoruyko/wide-residual-networks, median of 5"),
    ("Wide-ResNet 28-10", "wrn-28-10", "cifar10", "dropout", 96.11, "szagoruyko/wide-residual-networks, median of 5"),
    ("Wide-ResNet 28-10", "wrn-28-10", "cifar100", "dropout", 81.15, "szagoruyko/wide-residual-networks, median of 5"),
)
"""Network in words and in this package, data set, method, test accuracy (%), source."""

UNTESTED = (
    (
        "CIFAR-10 test accuracy of ResNet-20",
        "91.25 %; 91.73 %; 91.06 % where the epoch was chosen on validation",
        "He et al. 2016; akamaster/pytorch_resnet_cifar10; phlippe/uvadlc_notebooks",
        "no ResNet-20 in the package",
    ),
    (
        "CIFAR-10 test accuracy of ResNet-56",
        "93.03 %; 93.39 %",
        "He et al. 2016; akamaster/pytorch_resnet_cifar10",
        "no ResNet-56 in the package",
    ),
    (
        "CIFAR-10 test accuracy of ResNet-18",
        "93.02 %",
        "kuangliu/pytorch-cifar, older table",
        "no ResNet-18 in the package",
    ),
    (
        "Time to 95 % CIFAR-10 test accuracy",
        "one A100: 10.4 s",
        "KellerJordan/cifar10-airbench",
        "no recipe of ours for it",
    ),
    (
        "Time to 96 % CIFAR-10 test accuracy",
        "one A100: 27.3 s; a standard ResNet-18 7 min",
        "KellerJordan/cifar10-airbench",
        "no recipe of ours for it",
    ),
)
"""What, published numbers, source, why it was not run; also the next two."""

TIMES = (
    (
        "Time to 94 % CIFAR-10 test accuracy",
        "one A100: 3.83 s, compiled 3.09 s, with Muon 2.59 s (n = 200); 6.3 s; one V100: 26 s",
        "KellerJordan/cifar10-airbench; tysam-code/hlb-CIFAR10; ResNet-9 after davidcpage/cifar10-fast",
        "times are no records: the benchmark prints ours, on a GPU, beside the published ones",
    ),
)

FINE_TUNED = (
    (
        "ResNet-56 on CIFAR-10, pruned and trained on",
        "from 93.53 %: group L1 92.93 % at 2.12 times fewer multiply-adds, group BatchNorm 93.29 %, DepGraph 93.77 % "
        "at 2.13 and 93.64 % at 2.57 times, ResRep 93.71 % at 2.12 times; HRank 93.17 % at 50 % fewer; soft filter "
        "pruning 93.35 % at 52.6 % and 93.78 % at 41.1 % fewer; NISP -0.03 points at 43.6 % fewer; AMC 91.9 % at 50 % "
        "fewer",
        "VainF/Torch-Pruning; lmbxmu/HRank; JJGO/shrinkbench",
        "no ResNet-56 in the package, nor these methods",
    ),
    (
        "VGG-16 on CIFAR-10, pruned by HRank and trained on",
        "92.34 % with 65.3 % fewer multiply-adds and 82.1 % fewer parameters",
        "lmbxmu/HRank",
        "HRank is not in the package",
    ),
    (
        "VGG-19 on CIFAR-100, pruned by DepGraph and trained on",
        "from 73.50 to 70.39 % at 8.92 times fewer multiply-adds",
        "VainF/Torch-Pruning",
        "no VGG-19 in the package",
    ),
    (
        "The shapes of Li et al., trained anew for as long, are as accurate as pruned and fine-tuned",
        "VGG-16 93.78 %; ResNet-56 A 93.09 %, B 93.05 %; ResNet-110 A 93.22 %, B 93.60 %",
        "Liu et al. 2019, as tabulated by JJGO/shrinkbench",
        "the package cannot yet build networks of these shapes",
    ),
    (
        "ResNet-50 on ImageNet with channels removed by OICSR",
        "top-1 76.32 % whole; 76.53 %, 76.30 %, 75.95 % at 2563, 2274, 2046 M of 4089 M multiply-adds",
        "released models of OICSR, Li et al. 2019",
        "no ImageNet in the package",
    ),
)

DERIVED = (
    (
        "OICSR's table: the savings and gains that it gives follow from its own counts and accuracies",
        ("37.3", "44.4", "50.0", "+0.21", "-0.02", "-0.37"),
        (*(100 * (1 - left / 4089) for left in (2563, 2274, 2046)), *(top - 76.32 for top in (76.53, 76.30, 75.95))),
        "released models of OICSR, Li et al. 2019",
    ),
    (
        "OICSR's abstract: 37.2 % fewer multiply-adds and 0.22 points more, as in its table",
        ("37.2", "+0.22"),
        (100 * (1 - 2563 / 4089), 76.53 - 76.32),
        "Li et al. 2019, abstract; released models",
    ),
    (
        "DepGraph gains 0.38 points on ResNet-56, from 93.53 to 93.77 %",
        ("+0.38",),
        (93.77 - 93.53,),
        "VainF/Torch-Pruning",
    ),
    (
        "HRank loses 0.09 points on ResNet-56, from 93.26 to 92.17 %",
        ("-0.09",),
        (92.17 - 93.26,),
        "VainF/Torch-Pruning",
    ),
)
"""What, its numbers as published, the same calculated from the published numbers that they are made of, source."""


def resnet_counts(network: str) -> tuple[int, int]:
    """Parameters and multiply-adds of one 32x32 image of a CIFAR ResNet, whole or pruned (one of ``RESNET_CUTS``).

    Three stages of 16, 32 and 64 channels at 32x32, 16x16 and 8x8; two 3x3 convolutions without bias a block, nothing
    to learn in the shortcuts, ten classes. The published parameters leave out BatchNorm's scales and shifts, and so
    does this.
    """
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


PTB_PERPLEXITIES = (
    ("Zaremba, Sutskever & Vinyals 2014, without noise, 13 epochs", 114.5),
    ("TensorFlow's tutorial on that paper, without noise, 13 epochs", 115.91),
    ("PyTorch's word_language_model, tied embeddings, Dropout p = 0.2, 6 epochs", 110.44),
)
"""Test perplexities of LSTMs of two layers of 200 units on Penn Treebank. None was read at its source: the first is as
later works quote it, the others stand in copies of the two examples, and those of the last disagree on whether the text
is Penn Treebank or WikiText-2."""
