"""Published pruning curves of Batch Bridgeout, Dropout and plain training, as numbers: what the book's are laid beside.

Test accuracy (%) against the share of filters set to zero in every convolution, ``int(O * amount)`` of O filters with
the smallest L2 norm, once, without fine-tuning.

Source: the vector figures in github.com/najeebkhan/bridgeout-filter-pruning at cb453ff, which belong to Khan and
Stavness 2020, arXiv:2009.10893. Their coordinates were read from the drawing commands, to 0.001 points of accuracy:
the means fall on multiples of 1/300 %, as those of three runs on 10,000 test images do (of "wrn-28-10" on CIFAR-100
without noise: of 1/200 %, two runs). Points below the visible axis are left out, so curves have 4 to 8 points.

To keep in mind: p, q and the targeted share behind the curves are not published. The pruned checkpoint is the one with
the best *test* accuracy. In VGG the released code also zeroes the smallest BatchNorm scales
(:func:`bridgeout_lite.protocol.prune_as_released`).
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
