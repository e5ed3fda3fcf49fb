"""Batch Bridgeout and filter pruning: six published pairs of network and data set."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from ... import models, stats
from ...data import TITLES
from ...runs.records import Record
from ...stats import Gap, interval, paired
from .. import curves, published
from ..base import (
    LEAST_SEEDS,
    NO_NUMBER,
    QUESTION,
    Claim,
    Finding,
    Judge,
    Section,
    count_sides,
    judged,
    list_gaps,
)
from ..experiment import counts

METHOD_NAMES = {"none": "weight decay", "dropout": "Dropout", "bridgeout": "Batch Bridgeout"}

# Shares of the filters at which the pruning curves are compared.
PRUNED = curves.CHOSEN_AT


TITLE = {"vgg16": "VGG-16", "resnet34c": "CIFAR ResNet", "wrn-28-10": "Wide-ResNet"}

# The published pairs of data set and network.
PAIRS = [(dataset, network) for dataset in published.DATASETS for network in TITLE]

# What the runs of one network share, beside its data set; the recipe as JSON.
_NETWORK = ["model", "width", "train", "valid", "recipe"]


def network_curves(records: Iterable[Record]) -> pd.DataFrame:
    """The rows of :func:`bridgeout_lite.studies.curves.curves_frame`, each with what the runs of one network share:
    width, train, valid and recipe (as JSON). Networks that were built without a part of their filters are left out."""
    runs = [r for r in records if "pruning" in r.metrics and not r.spec.get("cut")]
    frames = []
    for run in runs:
        spec = run.spec
        own = {"width": spec.get("width", 1.0), "train": spec.get("train"), "valid": spec.get("valid", 5000)}
        frames.append(curves.curves_frame([run]).assign(**own, recipe=json.dumps(spec["recipe"], sort_keys=True)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@dataclasses.dataclass(frozen=True)
class _Pruned:
    """The runs that stand for a published network: ``rows`` of one curve, their strengths in words, in which way they
    differ in ``scale``, and whether it is the published network and length of training."""

    network: str
    dataset: str
    rows: pd.DataFrame
    settings: str
    scale: str
    same: bool

    @property
    def title(self) -> str:
        """What was run: model and data set."""
        return f"{self.rows['model'].iloc[0]} on {TITLES[self.dataset]}"

    def advantage(self, method: str, other: str, amounts: Iterable[float]) -> Gap:
        """The accuracy of a method minus that of another, see :func:`bridgeout_lite.stats.advantage`."""
        return stats.advantage(self.rows, method, other, amounts)


def _pruned(
    frame: pd.DataFrame, dataset: str, network: str, curve: str, amounts: Iterable[float] = PRUNED
) -> _Pruned | None:
    """The test rows of one curve at each method's best setting over ``amounts``: of the published network itself if it
    was trained, else of that network of its family that was trained longest. None if none has three seeds of each
    method."""
    frame = frame[frame["dataset"] == dataset]
    frame = frame[frame["model"].map(models.family) == models.family(network)]
    groups = [group for _, group in frame.groupby(_NETWORK, sort=False, dropna=False)]

    def rank(group: pd.DataFrame) -> tuple[bool, int]:
        run = group.iloc[0].to_dict()
        return is_whole(run, network), run["epochs"]

    for group in sorted(groups, key=rank, reverse=True):
        rows = curves.at_best(group, curve, amounts=amounts)
        seeds = rows.groupby("method")["seed"].nunique()
        if all(seeds.get(method, 0) >= LEAST_SEEDS for method in METHOD_NAMES):
            same = rank(group) == (True, published.EPOCHS)
            return _Pruned(
                network, dataset, rows, _settings(group, rows), _scale(group.iloc[0].to_dict(), network), same
            )
    return None


def is_whole(run: Mapping[Any, Any], network: str) -> bool:
    """Is this run, with model, width and train, one of the whole network on all images?"""
    return run["model"] == network and run["width"] == 1 and bool(pd.isna(run["train"]))


def _scale(run: Mapping[Any, Any], network: str) -> str:
    """How a run differs from the published ones, in words."""
    parts = []
    if not is_whole(run, network):
        wide = "" if run["width"] == 1 else f" of {run['width']:g} times the channels"
        classes = 100 if run["dataset"] == "cifar100" else 10
        ours = counts(lambda: models.build_model(run["model"], width=run["width"], num_classes=classes))[0]
        theirs = counts(lambda: models.build_model(network, num_classes=classes))[0]
        parts.append(f"{run['model']}{wide} ({ours / 1e6:.2f} M parameters against {theirs / 1e6:.2f} M)")
    if run["epochs"] != published.EPOCHS:
        parts.append(f"{run['epochs']} epochs against {published.EPOCHS}")
    images = 50_000 - run["valid"] if pd.isna(run["train"]) else int(run["train"])
    return ", ".join([*parts, f"{images:,} training images against 50,000", "the last epoch and not the best on test"])


@dataclasses.dataclass(frozen=True)
class _Cell:
    """What is found of a question for one network: the differences that must lie on the claimed side, all of what was
    measured in words, whether it is as published, and why it may decide nothing."""

    gaps: dict[str, Gap]
    ours: str
    same: bool = False
    weak: str = ""


def _judge(
    say: Callable[[_Pruned], _Cell],
    curve: str,
    amounts: Iterable[float] = PRUNED,
    *,
    sign: int = 1,
    matters: float = 1.0,
) -> Judge:
    """What ``say`` finds of the runs that stand for each of the published pairs of network and data set."""
    amounts = tuple(amounts)

    def find(frame: pd.DataFrame) -> Finding:
        found = [_pruned(frame, dataset, network, curve, amounts) for dataset, network in PAIRS]
        tested = [one for one in found if one is not None]
        cells = [say(one) for one in tested]
        gaps = {
            f"{one.title}, {name}": gap
            for one, cell in zip(tested, cells, strict=True)
            for name, gap in cell.gaps.items()
        }
        lacking = [
            f"{TITLE[network]} on {TITLES[d]}" for (d, network), one in zip(PAIRS, found, strict=True) if one is None
        ]
        return judged(
            gaps,
            "; ".join(f"{one.title}: {cell.ours}" for one, cell in zip(tested, cells, strict=True)),
            f"{count_sides(gaps, sign)}; "
            + "; ".join(f"{one.title}: {one.settings}" for one in tested)
            + f"; not run: {', '.join(lacking)}" * bool(lacking),
            sign=sign,
            matters=matters,
            exact=all(one.same and cell.same for one, cell in zip(tested, cells, strict=True)),
            scale="; ".join(one.scale for one in tested),
            weak="; ".join(dict.fromkeys(cell.weak for cell in cells if cell.weak)),
        )

    return find


def _keeps(found: _Pruned) -> _Cell:
    """Is Batch Bridgeout above both rivals, on average between 10 and 40 % of the filters?"""
    lines: list[str] = []
    gaps: dict[str, Gap] = {}
    for other in ("none", "dropout"):
        each = {f"{100 * amount:.0f} %": found.advantage("bridgeout", other, [amount]) for amount in PRUNED}
        gaps[f"minus {METHOD_NAMES[other]}"] = found.advantage("bridgeout", other, PRUNED)
        lines.append(f"minus {METHOD_NAMES[other]} {list_gaps(each).replace(';', ',')}")
    last = found.rows[found.rows["amount"] == PRUNED[-1]]
    best = last.groupby("method")["accuracy"].mean().max()
    return _Cell(gaps, f"{'; '.join(lines)}; at {100 * PRUNED[-1]:.0f} % the best method is at {best:.1f} %")


def _price(found: _Pruned) -> _Cell:
    """Is the unpruned Batch Bridgeout network the less accurate one, by as much as published?"""
    gap = found.advantage("bridgeout", "none", [0.0])
    theirs = _published_price(found.network, found.dataset)
    words = f"{gap:+.2f}, at the strength that is best for the pruned network; published {theirs:+.2f}"
    weak = "at several times the published price the strength is not theirs" if gap.high < 3 * theirs else ""
    return _Cell({"unpruned": gap}, words, gap.low <= theirs <= gap.high, weak)


def _dropout_hurts(found: _Pruned) -> _Cell:
    """Does Dropout's network lose more than that of weight decay when 10 and 20 % of the filters are zeroed?"""
    gap = found.advantage("dropout", "none", [0.1, 0.2])
    theirs = _published_dropout(found.network, found.dataset)
    return _Cell({"Dropout": gap}, f"{gap:+.1f}; published {theirs:+.1f}", gap.low <= theirs <= gap.high)


def _endures(found: _Pruned) -> _Cell:
    """Can more of Batch Bridgeout's filters go than of both rivals'?"""
    values, theirs = _endurance(found.rows), _published_endurance(found.network, found.dataset)
    ours = {m: interval(values["value"][values["method"] == m]) for m in METHOD_NAMES}
    gaps = {f"minus {METHOD_NAMES[o]}": paired(values, "value", "method", "bridgeout", o) for o in ("none", "dropout")}
    words = (f"{METHOD_NAMES[m]} {gap:.1f} (published {theirs[m]:.1f})" for m, gap in ours.items())
    return _Cell(gaps, ", ".join(words), all(gap.low <= theirs[m] <= gap.high for m, gap in ours.items()))


def _endurance(rows: pd.DataFrame) -> pd.DataFrame:
    """For each run the share of the filters, in %, up to which it stays within 5 points of its unpruned accuracy."""
    values = []
    for (method, seed), run in rows.sort_values("amount").groupby(["method", "seed"]):
        values.append({"method": method, "seed": seed, "value": 100 * curves.endures(run["amount"], run["accuracy"])})
    return pd.DataFrame(values)


def _settings(frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The strengths in ``rows``, and whether there was a choice among those of ``frame``."""
    strengths = rows[rows["setting"] != "-"].groupby("method")["setting"].first()
    how = " chosen on validation" if (frame.groupby("method")["setting"].nunique() > 1).any() else ""
    return f"strengths{how}: " + "; ".join(f"{METHOD_NAMES[str(m)]} {s}" for m, s in strengths.items())


def _published_price(network: str, dataset: str) -> float:
    with_noise, without = (published.curve(network, dataset, m)["accuracy"].iloc[0] for m in ("bridgeout", "none"))
    return float(with_noise - without)


def _published_endurance(network: str, dataset: str) -> Mapping[str, float]:
    both = [published.curve(network, dataset, m).assign(method=m, seed=0) for m in published.METHODS]
    values = _endurance(pd.concat(both))
    return dict(zip(values["method"], values["value"], strict=True))


def _published_dropout(network: str, dataset: str) -> float:
    """Dropout's accuracy minus that of weight decay, mean of 10 and 20 %."""
    means = {m: published.curve(network, dataset, m)["accuracy"][1:3].mean() for m in ("dropout", "none")}
    return float(means["dropout"] - means["none"])


def _range(values: Iterable[float], spec: str = "+.1f") -> str:
    values = sorted(values)
    return f"{values[0]:{spec}} to {values[-1]:{spec}}"


def _published_gains() -> str:
    """Batch Bridgeout's published advantage at 10 to 40 %, as far as the curves go, over all pairs."""
    gains = {}
    for other in ("none", "dropout"):
        curve = [
            [published.curve(n, d, m).set_index("amount")["accuracy"] for m in ("bridgeout", other)] for d, n in PAIRS
        ]
        gains[other] = [(a - b).reindex(PRUNED).dropna().mean() for a, b in curve]
    return "; ".join(f"{_range(values)} points against {METHOD_NAMES[m]}" for m, values in gains.items())


_COMMAND = (
    "`bridgeout sweep pruning-cifar10`, `pruning-cifar100`; at the published scale, on a GPU, `pruning-published`"
)
_DIGITISED = "Khan & Stavness 2020; curves digitised from the authors' figures"
_ASKED = "asked by this book; the paper neither removes filters nor recalibrates"
_REMOVED = "removed, recalibrated"


def _claims() -> tuple[Claim, ...]:
    prices = _range(_published_price(n, d) for d, n in PAIRS)
    shares = [_published_endurance(n, d) for d, n in PAIRS]
    endured = "; ".join(f"{name} {_range((s[m] for s in shares), '.0f')} %" for m, name in METHOD_NAMES.items())
    hurt = ", ".join(f"{_published_dropout(n, d):+.1f} points on {TITLES[d]}" for d, n in PAIRS if n == "vgg16")
    rows = (
        (
            "batch-bridgeout-keeps-accuracy",
            "Batch Bridgeout keeps more accuracy than Dropout and weight decay when 10 to 40 % of the filters are "
            "zeroed",
            _published_gains(),
            _judge(_keeps, "zeroed"),
        ),
        (
            "batch-bridgeout-price",
            "Unpruned, Batch Bridgeout's network is less accurate than that of weight decay alone",
            f"{prices} points",
            _judge(_price, "zeroed", sign=-1),
        ),
        (
            "batch-bridgeout-endures",
            "More of the filters can be zeroed before 5 points of test accuracy are lost",
            endured,
            _judge(_endures, "zeroed"),
        ),
        (
            "dropout-hurts-pruning",
            "Dropout's network loses more than that of weight decay when 10 and 20 % of the filters are zeroed",
            f"VGG-16: {hurt}",
            _judge(_dropout_hurts, "zeroed", sign=-1),
        ),
    )
    asked = (
        (
            "batch-bridgeout-outlives-removal",
            "Batch Bridgeout's advantage at 10 to 40 % outlives real removal and recalibrated BatchNorm",
            _judge(_keeps, _REMOVED),
        ),
    )
    own: dict[str, Any] = {"scale": "-", "command": _COMMAND, "table": network_curves}
    return (
        *(Claim(claim, _DIGITISED, theirs, find=find, name=name, **own) for name, claim, theirs, find in rows),
        *(Claim(claim, _ASKED, NO_NUMBER, find=find, name=name, kind=QUESTION, **own) for name, claim, find in asked),
    )


SECTION = Section(
    "Batch Bridgeout and filter pruning",
    "Six pairs of network and data set are published, VGG-16, a CIFAR ResNet and a Wide-ResNet on CIFAR-10 and -100; "
    "each is judged by the runs nearest to it, which are named. The published networks were chosen on test accuracy; "
    "their strengths of noise are not known.",
    _claims(),
)
