"""Chapters 5 to 7: which networks are pruned by the protocol of :mod:`bridgeout_lite.studies.curves`."""

from collections.abc import Iterable
from typing import Any

from ...training import Recipe
from ..images import Experiment

# Method, p, q and target_fraction of the pruning comparison: a first search, one seed each. Weights are small numbers,
# so noise power grows as q falls, and p is lower there. Published runs do not tell their p, q and targets; the last is
# the default p and target of the released code with the q of its example.
PRUNING_SEARCH = (
    ("none", 0.0, 2.0, 1.0),
    ("dropout", 0.05, 2.0, 1.0),
    ("dropout", 0.1, 2.0, 1.0),
    ("dropout", 0.2, 2.0, 1.0),
    ("bridgeout", 0.1, 2.0, 1.0),
    ("bridgeout", 0.3, 2.0, 1.0),
    ("bridgeout", 0.03, 1.5, 1.0),
    ("bridgeout", 0.1, 1.5, 1.0),
    ("bridgeout", 0.01, 1.0, 1.0),
    ("bridgeout", 0.3, 1.5, 0.75),
)

# Repeated with two more seeds: the best of Dropout and the two best of Bridgeout by the search's validation accuracy
# between 10 and 40 % of the filters (zeroed plus removed and recalibrated), and the released default.
PRUNING_REPEATED = (
    ("none", 0.0, 2.0, 1.0),
    ("dropout", 0.05, 2.0, 1.0),
    ("bridgeout", 0.1, 2.0, 1.0),
    ("bridgeout", 0.01, 1.0, 1.0),
    ("bridgeout", 0.3, 1.5, 0.75),
)


def _runs(rows: Iterable[tuple[str, float, float, float]], **common: Any) -> list[Experiment]:
    """A pruned network for each row of method, p, q and target_fraction."""
    return [
        Experiment(method=method, p=p, q=q, target_fraction=fraction, measures=("pruning",), **common)
        for method, p, q, fraction in rows
    ]


def pruning_comparison() -> list[Experiment]:
    """Chapters 5 to 7: a VGG-11 of a quarter of the channels (0.58 M parameters) on all of CIFAR-10's training images,
    by the methods and strengths of ``PRUNING_SEARCH`` with one seed, and of ``PRUNING_REPEATED`` with two more. As
    controls, networks built without 50 % and 70 % of the filters, and networks trained without noise for two epochs,
    which start as low as those under much noise; three seeds."""
    common: dict[str, Any] = {"model": "vgg11", "width": 0.25, "recipe": Recipe(epochs=10)}
    experiments = []
    for seed in range(3):
        experiments += _runs(PRUNING_REPEATED if seed else PRUNING_SEARCH, seed=seed, **common)
        for cut in (0.5, 0.7):
            experiments.append(Experiment(method="none", p=0.0, cut=cut, measures=(), seed=seed, **common))
        experiments += _runs(PRUNING_REPEATED[:1], seed=seed, **common | {"recipe": Recipe(epochs=2)})
    return experiments


def pruning_cifar100() -> list[Experiment]:
    """The methods and strengths of ``PRUNING_REPEATED``, found on CIFAR-10, on CIFAR-100: the same network, three
    seeds. First what the search would choose far out, then the rest, so that a sweep cut short compares all methods."""
    first = [row for row in PRUNING_REPEATED if row[0] != "bridgeout" or row[3] < 1]
    common: dict[str, Any] = {"model": "vgg11", "width": 0.25, "recipe": Recipe(epochs=10)}
    return [
        experiment
        for rows in (first, [row for row in PRUNING_REPEATED if row not in first])
        for seed in range(3)
        for experiment in _runs(rows, dataset="cifar100", seed=seed, **common)
    ]


def pruning_published(epochs: int = 230) -> list[Experiment]:
    """The published pruning study, or a shortened one of fewer epochs: VGG-16 and the [3,4,6] ResNet, then the
    Wide-ResNet, on CIFAR-10, then CIFAR-100; weight decay, Dropout and Batch Bridgeout with the defaults of the
    released code (p = 0.3, 75 % of the kernels, q = 1.5 from its example); three seeds. SGD with Nesterov momentum,
    lr 0.1 times 0.2 after 60, 120, 160 and 200 of 230 epochs (in proportion if shortened), batch 128, weight decay
    5e-4. For a GPU."""
    milestones = tuple(max(1, round(m * epochs / 230)) for m in (60, 120, 160, 200))
    recipe = Recipe(epochs=epochs, lr=0.1, schedule="steps", milestones=milestones, gamma=0.2)
    methods = (("none", 0.0, 2.0, 1.0), ("dropout", 0.3, 2.0, 1.0), ("bridgeout", 0.3, 1.5, 0.75))
    return [
        experiment
        for models in (("vgg16", "resnet34c"), ("wrn-28-10",))
        for dataset in ("cifar10", "cifar100")
        for model in models
        for seed in range(3)
        for experiment in _runs(methods, dataset=dataset, model=model, seed=seed, recipe=recipe)
    ]
