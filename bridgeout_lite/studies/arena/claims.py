"""The rivals of the noise, judged by the arena: one small VGG and one small ResNet, equal training."""

from collections.abc import Callable

import pandas as pd

from ... import stats
from ...stats import Gap
from ..base import LEAST_SEEDS, NO_NUMBER, Claim, Finding, Judge, Section, judged, list_gaps
from . import study as arena

RECALIBRATED, FINE_TUNED = arena.TREATMENTS
PRUNED = [amount for amount in arena.AMOUNTS if amount]

# "As accurate as" is: the whole interval lies above minus this many points.
MARGIN = 2.0


def gap(rows: pd.DataFrame, a: str, b: str, treatment: str) -> Gap:
    """Test accuracy of method a minus that of b on one network, the mean over all operating points that lack filters.
    All methods share one spread (:func:`bridgeout_lite.stats.pooled`)."""
    some = rows[(rows["treatment"] == treatment) & rows["amount"].isin(PRUNED)]
    return stats.pooled_gap(some, "accuracy", "method", a, b)


def _by_network(rows: pd.DataFrame, measure: Callable[[pd.DataFrame], Gap]) -> dict[str, Gap]:
    """Networks with enough seeds, and what was measured on them."""
    gaps = {name: measure(arena.final(rows, name)) for name in arena.NETWORKS if name in set(rows["network"])}
    return {name: found for name, found in gaps.items() if found.n >= LEAST_SEEDS}


def _ahead(a: str, b: str, treatment: str, *, enough: str = "ahead", weak: str = "") -> Judge:
    """Is a ahead of b on every network (the interval lies above zero), or as good (above -``MARGIN``)?"""

    def find(rows: pd.DataFrame) -> Finding:
        gaps = _by_network(rows, lambda some: gap(some, a, b, treatment))
        ahead = enough == "ahead"
        return judged(
            gaps,
            f"{list_gaps(gaps, seeds=True)}, points",
            f"{arena.LABELS[a]} minus {arena.LABELS[b]}, {treatment}, mean over {len(PRUNED)} shares of removed "
            f"filters, spread pooled over all methods; {'ahead' if ahead else 'as good'} means above "
            f"{0.0 if ahead else -MARGIN:g}",
            least=0.0 if ahead else -MARGIN,
            matters=1.0 if ahead else -MARGIN,
            weak=weak,
        )

    return find


def _healed(rows: pd.DataFrame) -> Finding:
    """Does the network pruned by L1 norm reach the unpruned one once it is fine-tuned, at the mildest point?"""

    def loss(rows: pd.DataFrame) -> Gap:
        some = rows[(rows["method"] == "l1-norm") & (rows["treatment"] == FINE_TUNED)]
        whole = some[some["amount"] == 0].assign(method="whole", amount=PRUNED[0])
        return stats.advantage(pd.concat([some, whole]), "l1-norm", "whole", PRUNED[:1])

    gaps = _by_network(rows, loss)
    return judged(
        gaps,
        f"{list_gaps(gaps, seeds=True)}, points",
        f"{100 * PRUNED[0]:.0f} % of every layer's filters removed and fine-tuned, minus the whole network; back means "
        f"above -{MARGIN:g}",
        least=-MARGIN,
        matters=-MARGIN,
        weak="one epoch of fine-tuning is not what the paper does",
    )


_SCALE = (
    "VGG-11 of a quarter of the channels, 10,000 images of CIFAR-10, 6 + 1 epochs; ResNet-14 of half the channels, "
    "6,000 images, where it is named"
)

SECTION = Section(
    "Rivals on the same networks",
    "Claims on penalties, gates and pruned networks, tested in the arena of chapter 11, where every method has the "
    "same training and a strength chosen on validation images.",
    tuple(
        Claim(claim, source, published, _SCALE, "`bridgeout sweep arena`", find, arena.arena_frame)
        for claim, source, published, find in (
            (
                "A penalty on out- and in-channels together (OICSR) prepares better for removal than one on filters "
                "alone",
                "Li et al. 2019, abstract (OICSR)",
                NO_NUMBER,
                _ahead("oicsr", "group-lasso", FINE_TUNED),
            ),
            (
                "The sparse group lasso with l0 is as accurate as that with l1",
                "Bui et al. 2019 and 2021, abstracts: better or comparable accuracy at comparable sparsity",
                NO_NUMBER,
                _ahead(
                    "sgl-l0",
                    "sgl-l1",
                    RECALIBRATED,
                    enough="as good",
                    weak="the strengths that validation chose leave very different shares of zero weights, so the "
                    "sparsity is not comparable",
                ),
            ),
            (
                "Filters of the smallest L1 norm can go, and fine-tuning brings the accuracy back",
                "Li et al. 2017, CIFAR-10, as tabulated by JJGO/shrinkbench",
                "VGG-16 93.40 % from 93.25 %; ResNet-56 93.10 % and 93.06 % from 93.04 %",
                _healed,
            ),
            (
                "A small network trained from scratch is as accurate as one of its shape that was pruned by L1 norm "
                "and fine-tuned",
                "Liu et al. 2019, as tabulated by JJGO/shrinkbench",
                "VGG-16 93.78 % against 93.40 %; ResNet-56 93.09 % and 93.05 % against 93.10 % and 93.06 %",
                _ahead("scratch", "l1-norm", FINE_TUNED, enough="as good"),
            ),
            (
                "Rehearsing the loss of the weakest filters (Targeted Dropout) prepares for it better than Dropout",
                "Gomez et al. 2019; tables not known to us",
                NO_NUMBER,
                _ahead("targeted", "dropout", RECALIBRATED),
            ),
            (
                "Gates with a price on open ones (L0) prune at no loss against Dropout",
                "Louizos et al. 2018: WRN-28-10 errors of 3.83 % against 3.89 %, from memory, unverified",
                NO_NUMBER,
                _ahead("l0-gates", "dropout", FINE_TUNED, enough="as good"),
            ),
        )
    ),
)
