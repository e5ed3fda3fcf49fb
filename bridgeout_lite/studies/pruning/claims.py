"""Batch Bridgeout and filter pruning: six published pairs of network and data set."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from ... import models, stats
from ...data import TITLES
from ...pruning import prune
from ...runs.records import Record
from ...stats import Gap, interval, paired, points
from .. import curves, published
from ..base import (
    DIRECTION,
    LEAST_SEEDS,
    NO_NUMBER,
    TOO_FEW,
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


def _judge(
    say: Callable[[_Pruned], Finding], dataset: str, network: str, curve: str, amounts: Iterable[float] = PRUNED
) -> Judge:
    """What ``say`` finds of the runs that stand for a published network."""

    def find(frame: pd.DataFrame) -> Finding:
        found = _pruned(frame, dataset, network, curve, amounts)
        return TOO_FEW if found is None else say(found)

    return find


def _keeps(found: _Pruned) -> Finding:
    """Is Batch Bridgeout above both rivals at every share between 10 and 40 % of the filters?"""
    lines: list[str] = []
    gaps: dict[str, Gap] = {}
    for other in ("none", "dropout"):
        some = {f"{100 * amount:.0f} %": found.advantage("bridgeout", other, [amount]) for amount in PRUNED}
        lines.append(f"minus {METHOD_NAMES[other]}: {list_gaps(some).replace(';', ',')}")
        gaps |= {f"{other}, {share}": gap for share, gap in some.items()}
    last = found.rows[found.rows["amount"] == PRUNED[-1]]
    best = last.groupby("method")["accuracy"].mean().max()
    return judged(
        gaps,
        f"points of test accuracy, n = {next(iter(gaps.values())).n}, Batch Bridgeout {'; '.join(lines)}",
        f"{count_sides(gaps)}; at {100 * PRUNED[-1]:.0f} % the best method is at {best:.1f} %; {found.settings}",
        scale=found.scale,
    )


# The shares of "far out".
_FAR = (0.5, 0.6, 0.7)


def _ahead_far_out(found: _Pruned) -> Finding:
    """Is Batch Bridgeout above both rivals on average between 50 and 70 % of the filters, removed and recalibrated?"""
    gaps = {f"minus {METHOD_NAMES[o]}:": found.advantage("bridgeout", o, _FAR) for o in ("none", "dropout")}
    price = found.advantage("bridgeout", "none", [0.0])
    return judged(
        gaps,
        f"points of test accuracy, mean of 50, 60 and 70 %, n = {price.n}, Batch Bridgeout {list_gaps(gaps)}",
        f"unpruned the same network is at {points(price)} against weight decay; {found.settings}",
        scale=found.scale,
    )


def _price(found: _Pruned) -> Finding:
    """Is the unpruned Batch Bridgeout network the less accurate one, by as much as published?"""
    gap = found.advantage("bridgeout", "none", [0.0])
    return judged(
        {"unpruned": gap},
        f"{gap.mean:+.2f} points of test accuracy [{gap.low:+.2f}, {gap.high:+.2f}], n = {gap.n}",
        f"at the strength that is best for the pruned network; {found.settings}",
        sign=-1,
        exact=found.same and gap.low <= _published_price(found.network, found.dataset) <= gap.high,
        scale=found.scale,
    )


def _dropout_hurts(found: _Pruned) -> Finding:
    """Does Dropout's network lose more than that of weight decay when 10 and 20 % of the filters are zeroed?"""
    gap = found.advantage("dropout", "none", [0.1, 0.2])
    return judged(
        {"dropout": gap},
        f"{gap.mean:+.1f} points of test accuracy [{gap.low:+.1f}, {gap.high:+.1f}], n = {gap.n}",
        found.settings,
        sign=-1,
        scale=found.scale,
    )


def _unpruned(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["amount"] == 0].rename(columns={"accuracy": "value"})


def _endurance(rows: pd.DataFrame) -> pd.DataFrame:
    """For each run the share of the filters, in %, up to which it stays within 5 points of its unpruned accuracy."""
    values = []
    for (method, seed), run in rows.sort_values("amount").groupby(["method", "seed"]):
        values.append({"method": method, "seed": seed, "value": 100 * curves.endures(run["amount"], run["accuracy"])})
    return pd.DataFrame(values)


def _like_published(measure: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[_Pruned], Finding]:
    """Does each method have the published value, and do the methods come in the published order? ``measure`` makes rows
    of method, seed and value from those of a pruning curve."""

    def say(found: _Pruned) -> Finding:
        theirs = _published_values(found.network, found.dataset, measure)
        values = measure(found.rows)
        ours = {m: interval(values["value"][values["method"] == m]) for m in METHOD_NAMES}
        within = [m for m, gap in ours.items() if gap.low <= theirs[m] <= gap.high]
        order = sorted(METHOD_NAMES, key=theirs.__getitem__, reverse=True)
        kept = [paired(values, "value", "method", a, b).above for a, b in itertools.combinations(order, 2)]
        exact = found.same and len(within) == len(METHOD_NAMES)
        return Finding(
            list_gaps({METHOD_NAMES[m]: gap for m, gap in ours.items()}, ".1f", seeds=True),
            "reproduced" if exact else DIRECTION if all(kept) else "not reproduced",
            f"of three published values {len(within)} lie in our intervals; of three differences between two methods "
            f"{sum(kept)} have the published sign with intervals that exclude zero; {found.settings}",
            found.scale,
        )

    return say


def _settings(frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The strengths in ``rows``, and whether there was a choice among those of ``frame``."""
    strengths = rows[rows["setting"] != "-"].groupby("method")["setting"].first()
    how = " chosen on validation" if (frame.groupby("method")["setting"].nunique() > 1).any() else ""
    return f"strengths{how}: " + "; ".join(f"{METHOD_NAMES[str(m)]} {s}" for m, s in strengths.items())


def _published_curves(network: str, dataset: str) -> str:
    """The published accuracies behind a claim, in words."""
    words = []
    for method, name in published.METHODS.items():
        line = published.curve(network, dataset, method).set_index("amount")["accuracy"]
        values = ", ".join(f"{line[a]:.1f}" for a in (0.0, *PRUNED) if a in line.index)
        words.append(f"{name} {values}")
    return f"test accuracy (%) at 0, 10, 20, 30, 40 % of filters: {'; '.join(words)}"


def _published_price(network: str, dataset: str) -> float:
    with_noise, without = (published.curve(network, dataset, m)["accuracy"].iloc[0] for m in ("bridgeout", "none"))
    return float(with_noise - without)


def _published_values(
    network: str, dataset: str, measure: Callable[[pd.DataFrame], pd.DataFrame]
) -> Mapping[str, float]:
    curves = [published.curve(network, dataset, m).assign(method=m, seed=0) for m in published.METHODS]
    values = measure(pd.concat(curves))
    return dict(zip(values["method"], values["value"], strict=True))


def _in_words(measure: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[str, str], str]:
    """What is published of a measure, by network and data set."""

    def words(network: str, dataset: str) -> str:
        values = _published_values(network, dataset, measure)
        return "; ".join(f"{name} {values[method]:.1f}" for method, name in published.METHODS.items())

    return words


def _published_dropout(network: str, dataset: str) -> str:
    """Dropout's accuracy minus that of weight decay, mean of 10 and 20 %."""
    means = {m: published.curve(network, dataset, m)["accuracy"][1:3].mean() for m in ("dropout", "none")}
    return f"{means['dropout'] - means['none']:+.1f} points"


def _cut_off(rows: pd.DataFrame) -> Finding:
    first = prune(models.build_model("resnet34c"), 0.1).get_submodule("conv")
    share = (first.weight.detach().flatten(1).norm(dim=1) == 0).double().mean().item()  # type: ignore[operator, union-attr]
    return Finding(
        f"{100 * share:g} % of the first layer of the CIFAR ResNet",
        "reproduced" if share == 0.0625 else "not reproduced",
        "the book's pruning rounds down as the released code does",
    )


def pruning_command(network: str, dataset: str) -> str:
    small = f"`bridgeout sweep pruning-{dataset}`; at the published scale " if network == "vgg16" else ""
    return f"{small}`bridgeout sweep pruning-published`"


def _pruning_claims() -> tuple[Claim, ...]:
    titles = {"vgg16": "VGG-16", "resnet34c": "CIFAR ResNet", "wrn-28-10": "Wide-ResNet"}
    digitised = "Khan & Stavness 2020; curves digitised from the authors' figures"
    ours = "by this book; the paper neither removes filters nor recalibrates"

    def rows(
        claim: str,
        source: str,
        theirs: Callable[[str, str], str],
        say: Callable[[_Pruned], Finding],
        curve: str = "zeroed",
        amounts: Iterable[float] = PRUNED,
        networks: Iterable[str] = titles,
    ) -> list[Claim]:
        """One row for each network and data set, judged by what ``say`` finds of the runs that stand for it."""
        return [
            Claim(
                f"{claim}: {titles[network]}, {TITLES[dataset]}",
                source,
                theirs(network, dataset),
                "-",
                pruning_command(network, dataset),
                _judge(say, dataset, network, curve, amounts),
                network_curves,
            )
            for dataset in published.DATASETS
            for network in networks
        ]

    return (
        *rows(
            "Batch Bridgeout keeps more accuracy than Dropout and weight decay when 10 to 40 % of the filters "
            "are zeroed",
            digitised,
            _published_curves,
            _keeps,
        ),
        *rows(
            "Unpruned, Batch Bridgeout's network is less accurate than that of weight decay alone",
            digitised,
            lambda network, dataset: f"{_published_price(network, dataset):+.2f} points",
            _price,
        ),
        *(
            row
            for claim, measure in (
                ("Test accuracy (%) of the unpruned networks", _unpruned),
                ("Share of the filters (%) that can be zeroed before 5 points of test accuracy are lost", _endurance),
            )
            for row in rows(claim, digitised, _in_words(measure), _like_published(measure))
        ),
        *rows(
            "Dropout's network loses more than that of weight decay when 10 and 20 % of the filters are zeroed",
            digitised,
            _published_dropout,
            _dropout_hurts,
            networks=["vgg16"],
        ),
        *rows(
            "Batch Bridgeout's advantage at 10 to 40 % outlives real removal and recalibrated BatchNorm",
            f"asked {ours}",
            lambda network, dataset: NO_NUMBER,
            _keeps,
            "removed, recalibrated",
        ),
        *rows(
            "Batch Bridgeout is ahead when 50 to 70 % of the filters are removed and BatchNorm is recalibrated, but "
            "nothing is trained on",
            f"found {ours}",
            lambda network, dataset: NO_NUMBER,
            _ahead_far_out,
            "removed, recalibrated",
            _FAR,
        ),
        Claim(
            "Zeroing 10 % of the filters zeroes 6.25 % in a layer of 16",
            "released code of Khan & Stavness 2020",
            "int(16 x 0.1) = 1 filter of 16",
            "none",
            "`bridgeout report`",
            _cut_off,
        ),
    )


SECTION = Section(
    "Batch Bridgeout and filter pruning",
    "Six pairs of network and data set, judged by the runs nearest to the published ones. The published networks "
    "were chosen on test accuracy; their strengths of noise are not known.",
    _pruning_claims(),
)
