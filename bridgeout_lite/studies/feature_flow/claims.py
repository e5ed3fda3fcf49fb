"""Feature flow: does a short and straight path of the features make parameters sparse and networks easy to prune?"""

import pandas as pd

from ...stats import Gap, interval, points
from ..base import LEAST_SEEDS, NO_NUMBER, TOO_FEW, Claim, Finding, Judge, Section, judged, list_gaps, not_run
from .study import BLOCK_COUNTS, FILTER_AMOUNTS, PLAIN, WEIGHT_AMOUNTS, flow_layers, flow_removal

_SOURCE = "Wu, Lan, Zhang & Xiang 2021, abstract"
_SCALE = (
    "our reconstruction of the penalty; residual network of [3, 4, 6] blocks at a quarter of its width, 4,000 images "
    "of CIFAR-10, 4 epochs, no fine-tuning; the paper's strengths, layers and pruning are not known to us"
)
_COMMAND = "`bridgeout sweep feature-flow`"
_WEAK = (
    "in so few steps weight decay takes next to nothing from a weight without gradient, and sparsity would have to "
    "come through that"
)


def _gaps(table: pd.Series) -> dict[str, Gap]:
    """Of a number for each setting and seed: for each penalty with enough seeds its difference from training without
    one, paired by seed."""
    if PLAIN not in table:
        return {}
    plain = table[PLAIN]
    gaps = {
        str(name): interval((part.droplevel("setting") - plain).dropna())
        for name, part in table.groupby("setting")
        if not str(name).startswith("no penalty")
    }
    return {name: gap for name, gap in gaps.items() if gap.n >= LEAST_SEEDS}


def _sparser(value: str) -> Judge:
    """Is Hoyer's measure higher under every penalty, over the convolutions of the penalised branches?"""

    def find(layers: pd.DataFrame) -> Finding:
        table = layers[layers["part"] != "other"].groupby(["setting", "seed"])[value].mean()
        gaps = _gaps(table)
        if not gaps:
            return TOO_FEW
        as_claimed, opposite = sum(g.above for g in gaps.values()), sum(g.below for g in gaps.values())
        gamma = layers[layers["part"] == "second"].groupby("setting")["gamma"].mean()
        shrunk = ", ".join(f"{gamma[name] / gamma[PLAIN]:.2f}" for name in gaps)
        named = {f"{name}:": gap for name, gap in gaps.items()}
        return judged(
            gaps,
            f"Hoyer minus that without a penalty ({table[PLAIN].mean():.4f}), n = {next(iter(gaps.values())).n}; "
            f"{list_gaps(named, '+.4f')}",
            f"penalties with {LEAST_SEEDS} seeds: {len(gaps)}, of them {as_claimed} with an interval above zero and "
            f"{opposite} with one below; the mean scale |gamma| of the last BatchNorm of a block is {shrunk} times "
            "what it is without them",
            unit="of Hoyer's measure",
            spec="+.4f",
            weak=_WEAK,
        )

    return find


def _easier(kinds: tuple[str, ...], amounts: tuple[float, ...], chance: str | None = None) -> Judge:
    """Is accuracy after removal higher under the penalty of best validation accuracy there, and, if there is such a
    control, higher than after a removal by ``chance`` from the same networks?"""

    def find(removal: pd.DataFrame) -> Finding:
        def accuracy(split: str, kinds: tuple[str, ...], amounts: tuple[float, ...]) -> pd.Series:
            some = removal[removal["kind"].isin(kinds) & removal["amount"].isin(amounts) & (removal["split"] == split)]
            return some.groupby(["setting", "seed"])["accuracy"].mean()

        test = accuracy("test", kinds, amounts)
        gaps = _gaps(test)
        if not gaps:
            return TOO_FEW
        best = str(accuracy("valid", kinds, amounts).groupby("setting").mean()[list(gaps)].idxmax())
        gap, needed, more = gaps[best], {best: gaps[best]}, ""
        if chance is not None:
            needed["chance"] = interval((test[best] - accuracy("test", (chance,), amounts)[best]).dropna())
            more = f"; minus removal by chance from the same networks {points(needed['chance'])}"
        whole = _gaps(accuracy("test", kinds, (0,)))[best]
        return judged(
            needed,
            f"test accuracy after removal, {best} minus no penalty, points: {points(gap)}, n = {gap.n}",
            f"the interval {'lies above' if gap.above else 'lies below' if gap.below else 'contains'} zero; penalty "
            f"chosen on validation among {len(gaps)}; without penalty {test[PLAIN].mean():.1f} %; before any removal "
            f"the difference is {points(whole)}{more}",
            matters=1.0,
            weak=_WEAK,
        )

    return find


SECTION = Section(
    "Feature flow",
    "The formula of the penalty, its strengths and the tables of the paper are not known to us: what is judged is our "
    "reconstruction.",
    (
        *(
            Claim(
                f"A penalty on length and curvature of the features' paths makes parameters sparse: {what}",
                _SOURCE,
                NO_NUMBER,
                _SCALE,
                _COMMAND,
                _sparser(value),
                flow_layers,
            )
            for what, value in (("single weights", "hoyer"), ("filters", "filter_hoyer"))
        ),
        *(
            Claim(
                f"It makes a network easier to prune: {what}",
                _SOURCE + also,
                NO_NUMBER,
                _SCALE,
                _COMMAND,
                find,
                flow_removal,
            )
            for what, find, also in (
                ("single weights", _easier(("weights",), WEIGHT_AMOUNTS), ""),
                ("filters", _easier(("filters: l2", "filters: folded"), FILTER_AMOUNTS, "filters: random"), ""),
                (
                    "whole blocks",
                    _easier(("blocks: smallest steps",), BLOCK_COUNTS),
                    "; that structure may be a block is our reading",
                ),
            )
        ),
        Claim(
            "Pruning with it is comparable to or better than the state of the art, with VGGNets and ResNets, on "
            "CIFAR-10, CIFAR-100 and Tiny ImageNet",
            _SOURCE,
            NO_NUMBER,
            "-",
            "-",
            not_run(
                "neither its tables nor its formula are known to us; no VGG was run, "
                "and there is no fine-tuning in our runs"
            ),
        ),
    ),
)
