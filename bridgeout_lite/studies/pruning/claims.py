"""Batch Bridgeout and filter pruning: six published pairs of network and data set."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping

import pandas as pd

from ... import models, stats
from ...data import TITLES
from ...pruning import prune
from ...runs.records import Record
from ...stats import interval, points, summarise
from .. import curves, published
from ..base import DIRECTION, LEAST_SEEDS, NO_NUMBER, TOO_FEW, Claim, Finding, Judge, Section
from ..experiment import counts

METHOD_NAMES = {"none": "weight decay", "dropout": "Dropout", "bridgeout": "Batch Bridgeout"}

# Shares of the filters at which the pruning curves are compared.
PRUNED = curves.CHOSEN_AT


@dataclasses.dataclass(frozen=True)
class _Pruned:
    """The runs that stand for a published network: ``rows`` of one curve, their strengths in words, in which way they
    differ in ``scale``, and whether it is the published network and length of training."""

    rows: pd.DataFrame
    settings: str
    scale: str
    same: bool


def _pruned(
    records: list[Record], dataset: str, network: str, curve: str, amounts: Iterable[float] = PRUNED
) -> _Pruned | None:
    """The test rows of one curve at each method's best setting over ``amounts``: of the published network itself if it
    was trained, else of that network of its family that was trained longest. None if none has three seeds of each
    method."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.spec["dataset"] == dataset and models.family(record.spec["model"]) == models.family(network):
            common = {k: record.spec.get(k) for k in ("model", "width", "train", "valid", "cut", "recipe")}
            groups.setdefault(json.dumps(common, sort_keys=True), []).append(record)

    def rank(group: list[Record]) -> tuple[bool, int]:
        return is_whole(group[0], network), group[0].spec["recipe"]["epochs"]

    for group in sorted(groups.values(), key=rank, reverse=True):
        frame = curves.curves_frame(group)
        if len(frame):
            rows = curves.at_best(frame, curve, amounts=amounts)
            seeds = rows.groupby("method")["seed"].nunique()
            if all(seeds.get(method, 0) >= LEAST_SEEDS for method in METHOD_NAMES):
                whole, epochs = rank(group)
                same = whole and epochs == published.EPOCHS
                return _Pruned(rows, _settings(frame, rows), _scale(group[0], network), same)
    return None


def is_whole(record: Record, network: str) -> bool:
    spec = record.spec
    return spec["model"] == network and spec.get("width", 1.0) == 1 and spec.get("train") is None


def _scale(record: Record, network: str) -> str:
    """How a run differs from the published ones, in words."""
    spec, epochs = record.spec, record.spec["recipe"]["epochs"]
    parts = []
    if not is_whole(record, network):
        width = spec.get("width", 1.0)
        wide = "" if width == 1 else f" of {width:g} times the channels"
        classes = 100 if spec["dataset"] == "cifar100" else 10
        ours = counts(lambda: models.build_model(spec["model"], width=width, num_classes=classes))[0]
        theirs = counts(lambda: models.build_model(network, num_classes=classes))[0]
        parts.append(f"{spec['model']}{wide} ({ours / 1e6:.2f} M parameters against {theirs / 1e6:.2f} M)")
    if epochs != published.EPOCHS:
        parts.append(f"{epochs} epochs against {published.EPOCHS}")
    images = spec.get("train") or 50_000 - spec.get("valid", 5000)
    return ", ".join([*parts, f"{images:,} training images against 50,000", "the last epoch and not the best on test"])


def _keeps(dataset: str, network: str, curve: str) -> Judge:
    """Is Batch Bridgeout above both rivals at every share between 10 and 40 % of the filters?"""

    def judge(records: list[Record]) -> Finding:
        found = _pruned(records, dataset, network, curve)
        if found is None:
            return TOO_FEW
        rows, lines, gaps = found.rows, [], []
        for other in ("none", "dropout"):
            some = [stats.advantage(rows, "bridgeout", other, [amount]) for amount in PRUNED]
            parts = [f"{100 * a:.0f} % {points(gap)}" for a, gap in zip(PRUNED, some, strict=True)]
            lines.append(f"minus {METHOD_NAMES[other]}: {', '.join(parts)}")
            gaps += some
        above, below = sum(low > 0 for _, low, _, _ in gaps), sum(high < 0 for _, _, high, _ in gaps)
        best = rows.groupby(["amount", "method"])["accuracy"].mean()[PRUNED[-1]].max()
        return Finding(
            f"points of test accuracy, n = {gaps[0][3]}, Batch Bridgeout {'; '.join(lines)}",
            DIRECTION if above == len(gaps) else "not reproduced",
            f"of {len(gaps)} intervals {above} lie above zero and {below} below; at {100 * PRUNED[-1]:.0f} % the best "
            f"method is at {best:.1f} %; {found.settings}",
            found.scale,
        )

    return judge


def _ahead_far_out(dataset: str, network: str) -> Judge:
    """Is Batch Bridgeout above both rivals on average between 50 and 70 % of the filters, removed and recalibrated?"""
    far = (0.5, 0.6, 0.7)

    def judge(records: list[Record]) -> Finding:
        found = _pruned(records, dataset, network, "removed, recalibrated", far)
        if found is None:
            return TOO_FEW
        rows = found.rows
        gaps = {other: stats.advantage(rows, "bridgeout", other, far) for other in ("none", "dropout")}
        price = stats.advantage(rows, "bridgeout", "none", [0.0])
        lines = [f"minus {METHOD_NAMES[other]}: {points(gap)}" for other, gap in gaps.items()]
        return Finding(
            f"points of test accuracy, mean of 50, 60 and 70 %, n = {price[3]}, Batch Bridgeout {'; '.join(lines)}",
            DIRECTION if all(low > 0 for _, low, _, _ in gaps.values()) else "not reproduced",
            f"unpruned the same network is at {points(price)} against weight decay; {found.settings}",
            found.scale,
        )

    return judge


def _price(dataset: str, network: str) -> Judge:
    """Is the unpruned Batch Bridgeout network the less accurate one, by as much as published?"""

    def judge(records: list[Record]) -> Finding:
        found = _pruned(records, dataset, network, "zeroed")
        if found is None:
            return TOO_FEW
        mean, low, high, n = stats.advantage(found.rows, "bridgeout", "none", [0.0])
        exact = found.same and low <= _published_price(network, dataset) <= high
        return Finding(
            f"{mean:+.2f} points of test accuracy [{low:+.2f}, {high:+.2f}], n = {n}",
            "reproduced" if exact and high < 0 else DIRECTION if high < 0 else "not reproduced",
            f"at the strength that is best for the pruned network; {found.settings}",
            found.scale,
        )

    return judge


def _dropout_hurts(dataset: str, network: str) -> Judge:
    """Does Dropout's network lose more than that of weight decay when 10 and 20 % of the filters are zeroed?"""

    def judge(records: list[Record]) -> Finding:
        found = _pruned(records, dataset, network, "zeroed")
        if found is None:
            return TOO_FEW
        mean, low, high, n = stats.advantage(found.rows, "dropout", "none", [0.1, 0.2])
        return Finding(
            f"{mean:+.1f} points of test accuracy [{low:+.1f}, {high:+.1f}], n = {n}",
            DIRECTION if high < 0 else "not reproduced",
            found.settings,
            found.scale,
        )

    return judge


def _unpruned(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["amount"] == 0].rename(columns={"accuracy": "value"})


def _endurance(rows: pd.DataFrame) -> pd.DataFrame:
    """For each run the share of the filters, in %, up to which it stays within 5 points of its unpruned accuracy."""
    values = []
    for (method, seed), run in rows.sort_values("amount").groupby(["method", "seed"]):
        values.append({"method": method, "seed": seed, "value": 100 * curves.endures(run["amount"], run["accuracy"])})
    return pd.DataFrame(values)


def _like_published(dataset: str, network: str, measure: Callable[[pd.DataFrame], pd.DataFrame]) -> Judge:
    """Does each method have the published value, and do the methods come in the published order? ``measure`` makes rows
    of method, seed and value from those of a pruning curve."""

    def judge(records: list[Record]) -> Finding:
        found = _pruned(records, dataset, network, "zeroed")
        if found is None:
            return TOO_FEW
        theirs = _published_values(network, dataset, measure)
        values = measure(found.rows)
        ours = summarise(values, ["method"], "value").set_index("method")
        words = [
            f"{METHOD_NAMES[m]} {ours['mean'][m]:.1f} [{ours['low'][m]:.1f}, {ours['high'][m]:.1f}], n = {ours['n'][m]}"
            for m in METHOD_NAMES
        ]
        within = [m for m in METHOD_NAMES if ours["low"][m] <= theirs[m] <= ours["high"][m]]
        table = values.pivot_table(index="seed", columns="method", values="value")
        order = sorted(METHOD_NAMES, key=theirs.__getitem__, reverse=True)
        kept = []
        for a, b in itertools.combinations(order, 2):
            _, low, _, _ = interval((table[a] - table[b]).dropna())
            kept.append(low > 0)
        exact = found.same and len(within) == len(METHOD_NAMES)
        return Finding(
            "; ".join(words),
            "reproduced" if exact else DIRECTION if all(kept) else "not reproduced",
            f"of three published values {len(within)} lie in our intervals; of three differences between two methods "
            f"{sum(kept)} have the published sign with intervals that exclude zero; {found.settings}",
            found.scale,
        )

    return judge


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


def _in_words(values: Mapping[str, float]) -> str:
    return "; ".join(f"{published.METHODS[m]} {values[m]:.1f}" for m in published.METHODS)


def _published_dropout(network: str, dataset: str) -> str:
    """Dropout's accuracy minus that of weight decay, mean of 10 and 20 %."""
    means = {m: published.curve(network, dataset, m)["accuracy"][1:3].mean() for m in ("dropout", "none")}
    return f"{means['dropout'] - means['none']:+.1f} points"


def _cut_off(records: list[Record]) -> Finding:
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
    pairs = [(network, dataset) for dataset in published.DATASETS for network in titles]
    digitised = "Khan & Stavness 2020; curves digitised from the authors' figures"
    ours = "by this book; the paper neither removes filters nor recalibrates"

    def rows(
        claim: str, source: str, theirs: Callable[[str, str], str], judge: Callable[[str, str], Judge]
    ) -> list[Claim]:
        """One row for each network and data set."""
        return [
            Claim(
                f"{claim}: {titles[network]}, {TITLES[dataset]}",
                source,
                theirs(network, dataset),
                "-",
                pruning_command(network, dataset),
                judge(dataset, network),
            )
            for network, dataset in pairs
        ]

    return (
        *rows(
            "Batch Bridgeout keeps more accuracy than Dropout and weight decay when 10 to 40 % of the filters "
            "are zeroed",
            digitised,
            _published_curves,
            lambda d, n: _keeps(d, n, "zeroed"),
        ),
        *rows(
            "Unpruned, Batch Bridgeout's network is less accurate than that of weight decay alone",
            digitised,
            lambda n, d: f"{_published_price(n, d):+.2f} points",
            _price,
        ),
        *rows(
            "Test accuracy (%) of the unpruned networks",
            digitised,
            lambda n, d: _in_words(_published_values(n, d, _unpruned)),
            lambda d, n: _like_published(d, n, _unpruned),
        ),
        *rows(
            "Share of the filters (%) that can be zeroed before 5 points of test accuracy are lost",
            digitised,
            lambda n, d: _in_words(_published_values(n, d, _endurance)),
            lambda d, n: _like_published(d, n, _endurance),
        ),
        *[
            c
            for c in rows(
                "Dropout's network loses more than that of weight decay when 10 and 20 % of the filters are zeroed",
                digitised,
                _published_dropout,
                _dropout_hurts,
            )
            if "VGG" in c.claim
        ],
        *rows(
            "Batch Bridgeout's advantage at 10 to 40 % outlives real removal and recalibrated BatchNorm",
            f"asked {ours}",
            lambda n, d: NO_NUMBER,
            lambda d, n: _keeps(d, n, "removed, recalibrated"),
        ),
        *rows(
            "Batch Bridgeout is ahead when 50 to 70 % of the filters are removed and BatchNorm is recalibrated, but "
            "nothing is trained on",
            f"found {ours}",
            lambda n, d: NO_NUMBER,
            _ahead_far_out,
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
