"""The reproduction ledger: each published claim beside what we measured, with spread, verdict and reason.

A claim is judged by a function of the records or of exact computation, never by hand. ``bridgeout report`` writes the
page ``book/ledger.md`` from :func:`ledger_page`. The published numbers stand in :mod:`bridgeout_lite.published`, the
rows at the end of this module, in ``SECTIONS``: a new paper is one more :class:`Section`.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping

import pandas as pd
import torch
from torch import nn

from . import cost, models, protocol, published, sparsity, theory
from .experiments import layers_frame, runs_frame
from .language import SEARCHED_P, SEARCHED_Q, tuned
from .noise import keep_mask, sparseout
from .pruning import prune
from .records import Record, summarise
from .tv_compat import import_torchvision

VERDICTS = ("reproduced", "reproduced in direction", "not reproduced", "not run")

# No verdict on fewer.
LEAST_SEEDS = 3

METHOD_NAMES = {"none": "weight decay", "dropout": "Dropout", "bridgeout": "Batch Bridgeout"}

# Shares of the filters at which the pruning curves are compared.
PRUNED = protocol.CHOSEN_AT


@dataclasses.dataclass(frozen=True)
class Finding:
    """What we measured for a claim: ``ours`` (with interval and n), one of ``VERDICTS``, the reason, and the difference
    in scale where that depends on the records."""

    ours: str
    verdict: str
    reason: str
    scale: str | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, got {self.verdict!r}")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A published claim.

    Attributes:
        claim: in our words. source: where it stands. published: its number, or "no number known to us".
        scale: how our test differs in scale. command: what reruns the test.
        judge: from all recorded runs to a :class:`Finding`.
    """

    claim: str
    source: str
    published: str
    scale: str
    command: str
    judge: "Judge"


Judge = Callable[[list[Record]], Finding]


@dataclasses.dataclass(frozen=True)
class Section:
    """The claims of one paper or of one kind, with a sentence on them."""

    title: str
    text: str
    claims: tuple[Claim, ...]


def paired_difference(rows: pd.DataFrame, value: str, a: float, b: float) -> tuple[float, float, float, int]:
    """Mean over seeds of ``value`` at q = a minus at q = b, with its 95 % interval: (mean, low, high, n)."""
    if not len(rows) or not {a, b} <= set(rows["q"]):
        return float("nan"), float("nan"), float("nan"), 0
    table = rows.pivot_table(index="seed", columns="q", values=value)
    gap = pd.DataFrame({"all": 0, "gap": (table[a] - table[b]).dropna()})
    row = summarise(gap, ["all"], "gap").iloc[0]
    return float(row["mean"]), float(row["low"]), float(row["high"]), int(row["n"])


def _double(*shape: int, seed: int) -> torch.Tensor:
    # numbers without a random generator, so that every platform has the same
    return torch.sin(torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64) * (1.7 + seed)).view(shape)


def _worst(family: str, noise_on: str, size: float) -> float:
    """Largest relative difference of the closed form from the sum over all masks, over a grid of p and q."""
    features, weights = _double(12, 6, seed=0), _double(6, seed=1)
    if noise_on == "features":  # scaling what carries no noise scales the noise of the prediction and nothing else
        weights = size * weights
    else:
        features = size * features
    gaps = []
    for p in (0.1, 0.3, 0.5):
        for q in (0.5, 1.0, 1.5, 2.0, 3.0):
            exact = theory.exact_penalty(features, weights, p, q, family, noise_on)
            gaps.append(((theory.lq_penalty(features, weights, p, q, family, noise_on) - exact) / exact).abs().item())
    return max(gaps)


def _equivalence(noise_on: str) -> Judge:
    def judge(records: list[Record]) -> Finding:
        linear = _worst("gaussian", noise_on, 1.0)
        logistic = _worst("bernoulli", noise_on, 0.1)
        holds = linear < 1e-12 and logistic < 0.05
        return Finding(
            f"linear: largest relative error {'below 1e-12' if linear < 1e-12 else f'{linear:.1e}'}; "
            f"logistic at small noise: {100 * logistic:.1f} %",
            "reproduced" if holds else "not reproduced",
            "closed form against the sum over all masks, p in {.1, .3, .5}, q in {.5, 1, 1.5, 2, 3}; exact for linear "
            "regression, second order otherwise; for deep networks it is a heuristic",
        )

    return judge


def _dropout_is_q2(records: list[Record]) -> Finding:
    x = _double(50_000, seed=2).float()
    same = []
    for p in (0.1, 0.3, 0.5, 0.9):
        noisy = sparseout(x, p, 2.0, generator=torch.Generator().manual_seed(0))
        mask = keep_mask(x, p, torch.Generator().manual_seed(0))
        same.append(torch.equal(noisy, x * mask.to(x.dtype).div_(1 - p)))
    return Finding(
        "every bit equal at the same mask" if all(same) else "bits differ",
        "reproduced" if all(same) else "not reproduced",
        "for the odd form, which is the released one; the even form differs for negative values",
    )


def _sparser(layers: tuple[str, ...], model: str) -> Judge:
    def judge(records: list[Record]) -> Finding:
        rows = layers_frame(r for r in records if r.spec["method"] == "sparseout" and r.spec["model"] == model)
        if not len(rows) or rows.groupby(["p", "q"])["seed"].nunique().min() < LEAST_SEEDS:
            return Finding("-", "not run", f"fewer than {LEAST_SEEDS} seeds recorded")
        lines, as_claimed, opposite = [], 0, 0
        for layer in layers:
            part = rows[(rows["p"] == 0.2) & (rows["layer"] == layer)]
            low, high = paired_difference(part, "hoyer", 1.0, 2.0), paired_difference(part, "hoyer", 3.0, 2.0)
            lines.append(
                f"{layer}: q=1 {low[0]:+.3f} [{low[1]:+.3f}, {low[2]:+.3f}], "
                f"q=3 {high[0]:+.3f} [{high[1]:+.3f}, {high[2]:+.3f}]"
            )
            as_claimed += low[1] > 0 and high[2] < 0
            opposite += low[2] < 0 or high[1] > 0
        ours = f"Hoyer minus Dropout's at p = 0.2, n = {low[3]}; " + "; ".join(lines)
        if as_claimed == len(layers):
            return Finding(ours, "reproduced in direction", "both intervals lie on the claimed side of zero")
        return Finding(
            ours,
            "not reproduced",
            f"of {len(layers)} layers, {as_claimed} have both intervals on the claimed side of zero, {opposite} have "
            f"one on the other side, the rest are undecided with {low[3]} seeds",
        )

    return judge


def image_rows(records: Iterable[Record]) -> pd.DataFrame:
    """The small CNN's runs under Sparseout, one row a run: for each q those at its p of best mean validation accuracy.
    None if a setting has fewer than ``LEAST_SEEDS`` seeds."""
    rows = runs_frame(r for r in records if r.spec["method"] == "sparseout" and r.spec["model"] == "smallcnn")
    if not len(rows) or rows.groupby(["p", "q"])["seed"].nunique().min() < LEAST_SEEDS:
        return rows.iloc[:0]
    valid = summarise(rows, ["q", "p"], "valid_accuracy").sort_values("mean").groupby("q").last()  # best p for each q
    return rows[rows["p"] == rows["q"].map(valid["p"])]


def _denser_is_better(records: list[Record]) -> Finding:
    rows = image_rows(records)
    if not len(rows) or rows["q"].nunique() < 5:
        return _TOO_FEW
    accuracy = rows.groupby("q")["valid_accuracy"].mean().to_dict()
    dense, sparse = (max(side, key=accuracy.__getitem__) for side in ((2.5, 3.0), (1.0, 1.5)))
    mean, low, high, n = paired_difference(rows, "test_accuracy", dense, sparse)
    text = f"test accuracy of q={dense:g} minus q={sparse:g}: {mean:+.2f} points [{low:+.2f}, {high:+.2f}], n={n}"
    if low > 0:
        return Finding(text, "reproduced in direction", "p and the q of each side were chosen on validation")
    side = "the sparse side is better" if high < 0 else "the interval contains zero"
    return Finding(text, "not reproduced", f"p and the q of each side were chosen on validation; {side}")


def small_language_runs(records: Iterable[Record], model: str) -> list[Record]:
    """Those runs of a language model ("lstm" or "transformer") that read a part of the training text."""
    return [r for r in records if r.spec.get("task") == "language" and r.spec["model"] == model and r.spec["train"]]


def at_tuned(rows: pd.DataFrame, records: Iterable[Record], model: str) -> pd.DataFrame:
    """Of rows of :func:`small_language_runs`, one or more a run: under Sparseout, and for each q at the p that its
    search chose (:func:`bridgeout_lite.language.tuned`)."""
    if not len(rows):
        return rows
    best = {q: p for (name, q), p in tuned(records).items() if name == model}
    return rows[(rows["method"] == "sparseout") & (rows["p"] == rows["q"].map(best))]


def _all_seeds(rows: pd.DataFrame) -> bool:
    """Has every q of the search its seeds?"""
    return len(rows) > 0 and all(rows["seed"][rows["q"] == q].nunique() >= LEAST_SEEDS for q in SEARCHED_Q)


def _sparser_is_better(model: str) -> Judge:
    """Is the best q below 2 better than Dropout, and better than the best q above 2?"""

    def judge(records: list[Record]) -> Finding:
        runs = runs_frame(small_language_runs(records, model))
        rows = at_tuned(runs, records, model)
        if not _all_seeds(rows):
            return _TOO_FEW
        loss = rows.groupby("q")["valid_loss"].mean().to_dict()
        sparse, dense = (min(side, key=loss.__getitem__) for side in ([1.0, 1.25, 1.5], [2.5, 3.0]))
        gaps = {q: paired_difference(rows, "test_perplexity", sparse, q) for q in (2.0, dense)}
        edge = sorted(set(rows["q"][rows["p"].isin((min(SEARCHED_P), max(SEARCHED_P)))]))
        lines = [f"minus q={q:g}: {_points(gap)}" for q, gap in gaps.items()]
        level = rows.groupby("q")["test_perplexity"].mean().to_dict()
        quiet = runs["test_perplexity"][runs["method"] == "none"]
        reason = (
            f"p of each q chosen on validation with one seed, the q of each side with all; mean at q={sparse:g} "
            f"{level[sparse]:.1f}, at q=2 {level[2.0]:.1f}, at q={dense:g} {level[dense]:.1f}, without noise "
            f"{quiet.mean():.1f}"
        )
        if edge:
            reason += f"; the best p lies at the edge of the grid for q={', '.join(f'{q:g}' for q in edge)}"
        better = sum(high < 0 for _, _, high, _ in gaps.values())
        worse = sum(low > 0 for _, low, _, _ in gaps.values())
        return Finding(
            f"test perplexity, n = {gaps[2.0][3]}, q={sparse:g} {'; '.join(lines)}",
            _DIRECTION if better == len(gaps) else "not reproduced",
            f"of two intervals {better} lie on the claimed side of zero and {worse} on the other; {reason}",
        )

    return judge


def _sparser_states(places: tuple[str, ...], model: str) -> Judge:
    """Are Hoyer and Gini higher at q = 1 than at q = 3, in every place?"""

    def judge(records: list[Record]) -> Finding:
        rows = at_tuned(layers_frame(small_language_runs(records, model)), records, model)
        if not _all_seeds(rows):
            return _TOO_FEW
        some = [(place, measure) for place in places for measure in ("hoyer", "gini")]
        gaps = [paired_difference(rows[rows["layer"] == place], measure, 1.0, 3.0) for place, measure in some]
        as_claimed, opposite = sum(low > 0 for _, low, _, _ in gaps), sum(high < 0 for _, _, high, _ in gaps)
        lines = [
            f"{place}, {measure.title()} {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            for (place, measure), (mean, low, high, _) in zip(some, gaps, strict=True)
        ]
        power = rows[rows["layer"] == places[-1]].groupby("q")["noise_power"].mean().to_dict()
        return Finding(
            f"q=1 minus q=3, n = {gaps[0][3]}; {'; '.join(lines)}",
            _DIRECTION if as_claimed == len(gaps) else "not reproduced",
            f"of {len(gaps)} intervals {as_claimed} lie above zero and {opposite} below; each q at its tuned p, so not "
            f"at the same noise: in {places[-1]} its power is {power[1.0]:.2f} and {power[3.0]:.2f} of the signal's",
        )

    return judge


def _published_perplexity(records: list[Record]) -> Finding:
    """An LSTM of two layers of 200 units on all training words, beside the published ones."""
    runs = [r for r in records if r.spec.get("task") == "language" and r.spec["train"] is None]
    runs = [r for r in runs if (r.spec["model"], r.spec["width"], r.spec["layers"]) == ("lstm", 200, 2)]
    rows = runs_frame(r for r in runs if r.spec["dataset"] == "ptb")
    if not len(rows):
        return _TOO_FEW
    row = summarise(rows.assign(all=0), ["all"], "test_perplexity").iloc[0]
    theirs = [value for _, value in published.PTB_PERPLEXITIES]
    off = ", ".join(f"{100 * (row['mean'] / value - 1):+.1f} %" for value in theirs)
    reason = f"against the published values {off}, at other budgets"
    if row["n"] < LEAST_SEEDS:
        ours = f"{row['mean']:.1f}, n = {row['n']:.0f}"
        return Finding(ours, "not run", f"fewer than {LEAST_SEEDS} seeds, so no interval and no verdict; {reason}")
    ours = f"{row['mean']:.1f} [{row['low']:.1f}, {row['high']:.1f}], n = {row['n']:.0f}"
    return Finding(ours, _DIRECTION if row["low"] <= max(theirs) else "not reproduced", reason)


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
        if record.spec["dataset"] == dataset and record.spec["model"][:3] == network[:3]:
            common = {k: record.spec.get(k) for k in ("model", "width", "train", "valid", "cut", "recipe")}
            groups.setdefault(json.dumps(common, sort_keys=True), []).append(record)

    def rank(group: list[Record]) -> tuple[bool, int]:
        return _is_whole(group[0], network), group[0].spec["recipe"]["epochs"]

    for group in sorted(groups.values(), key=rank, reverse=True):
        frame = protocol.curves_frame(group)
        if len(frame):
            rows = protocol.at_best(frame, curve, amounts=amounts)
            seeds = rows.groupby("method")["seed"].nunique()
            if all(seeds.get(method, 0) >= LEAST_SEEDS for method in METHOD_NAMES):
                whole, epochs = rank(group)
                same = whole and epochs == published.EPOCHS
                return _Pruned(rows, _settings(frame, rows), _scale(group[0], network), same)
    return None


def _is_whole(record: Record, network: str) -> bool:
    spec = record.spec
    return spec["model"] == network and spec.get("width", 1.0) == 1 and spec.get("train") is None


def _scale(record: Record, network: str) -> str:
    """How a run differs from the published ones, in words."""
    spec, epochs = record.spec, record.spec["recipe"]["epochs"]
    parts = []
    if not _is_whole(record, network):
        width = spec.get("width", 1.0)
        wide = "" if width == 1 else f" of {width:g} times the channels"
        classes = 100 if spec["dataset"] == "cifar100" else 10
        ours = _counts(lambda: models.build_model(spec["model"], width=width, num_classes=classes))[0]
        theirs = _counts(lambda: models.build_model(network, num_classes=classes))[0]
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
            return _TOO_FEW
        rows, lines, gaps = found.rows, [], []
        for other in ("none", "dropout"):
            some = [protocol.advantage(rows, "bridgeout", other, [amount]) for amount in PRUNED]
            parts = [f"{100 * a:.0f} % {_points(gap)}" for a, gap in zip(PRUNED, some, strict=True)]
            lines.append(f"minus {METHOD_NAMES[other]}: {', '.join(parts)}")
            gaps += some
        above, below = sum(low > 0 for _, low, _, _ in gaps), sum(high < 0 for _, _, high, _ in gaps)
        best = rows.groupby(["amount", "method"])["accuracy"].mean()[PRUNED[-1]].max()
        return Finding(
            f"points of test accuracy, n = {gaps[0][3]}, Batch Bridgeout {'; '.join(lines)}",
            _DIRECTION if above == len(gaps) else "not reproduced",
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
            return _TOO_FEW
        rows = found.rows
        gaps = {other: protocol.advantage(rows, "bridgeout", other, far) for other in ("none", "dropout")}
        price = protocol.advantage(rows, "bridgeout", "none", [0.0])
        lines = [f"minus {METHOD_NAMES[other]}: {_points(gap)}" for other, gap in gaps.items()]
        return Finding(
            f"points of test accuracy, mean of 50, 60 and 70 %, n = {price[3]}, Batch Bridgeout {'; '.join(lines)}",
            _DIRECTION if all(low > 0 for _, low, _, _ in gaps.values()) else "not reproduced",
            f"unpruned the same network is at {_points(price)} against weight decay; {found.settings}",
            found.scale,
        )

    return judge


def _price(dataset: str, network: str) -> Judge:
    """Is the unpruned Batch Bridgeout network the less accurate one, by as much as published?"""

    def judge(records: list[Record]) -> Finding:
        found = _pruned(records, dataset, network, "zeroed")
        if found is None:
            return _TOO_FEW
        mean, low, high, n = protocol.advantage(found.rows, "bridgeout", "none", [0.0])
        exact = found.same and low <= _published_price(network, dataset) <= high
        return Finding(
            f"{mean:+.2f} points of test accuracy [{low:+.2f}, {high:+.2f}], n = {n}",
            "reproduced" if exact and high < 0 else _DIRECTION if high < 0 else "not reproduced",
            f"at the strength that is best for the pruned network; {found.settings}",
            found.scale,
        )

    return judge


def _dropout_hurts(dataset: str, network: str) -> Judge:
    """Does Dropout's network lose more than that of weight decay when 10 and 20 % of the filters are zeroed?"""

    def judge(records: list[Record]) -> Finding:
        found = _pruned(records, dataset, network, "zeroed")
        if found is None:
            return _TOO_FEW
        mean, low, high, n = protocol.advantage(found.rows, "dropout", "none", [0.1, 0.2])
        return Finding(
            f"{mean:+.1f} points of test accuracy [{low:+.1f}, {high:+.1f}], n = {n}",
            _DIRECTION if high < 0 else "not reproduced",
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
        values.append({"method": method, "seed": seed, "value": 100 * protocol.endures(run["amount"], run["accuracy"])})
    return pd.DataFrame(values)


def _like_published(dataset: str, network: str, measure: Callable[[pd.DataFrame], pd.DataFrame]) -> Judge:
    """Does each method have the published value, and do the methods come in the published order? ``measure`` makes rows
    of method, seed and value from those of a pruning curve."""

    def judge(records: list[Record]) -> Finding:
        found = _pruned(records, dataset, network, "zeroed")
        if found is None:
            return _TOO_FEW
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
            gap = pd.DataFrame({"all": 0, "gap": (table[a] - table[b]).dropna()})
            kept.append(summarise(gap, ["all"], "gap")["low"].iloc[0] > 0)
        exact = found.same and len(within) == len(METHOD_NAMES)
        return Finding(
            "; ".join(words),
            "reproduced" if exact else _DIRECTION if all(kept) else "not reproduced",
            f"of three published values {len(within)} lie in our intervals; of three differences between two methods "
            f"{sum(kept)} have the published sign with intervals that exclude zero; {found.settings}",
            found.scale,
        )

    return judge


def _points(gap: tuple[float, float, float, int]) -> str:
    mean, low, high, _ = gap
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


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


def _pruning_claims() -> tuple[Claim, ...]:
    titles = {"vgg16": "VGG-16", "resnet34c": "CIFAR ResNet", "wrn-28-10": "Wide-ResNet"}
    data = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
    pairs = [(network, dataset) for dataset in data for network in titles]
    digitised = "Khan & Stavness 2020; curves digitised from the authors' figures"
    ours = "by this book; the paper neither removes filters nor recalibrates"

    def rows(
        claim: str, source: str, theirs: Callable[[str, str], str], judge: Callable[[str, str], Judge]
    ) -> list[Claim]:
        """One row for each network and data set."""
        return [
            Claim(
                f"{claim}: {titles[network]}, {data[dataset]}",
                source,
                theirs(network, dataset),
                "-",
                _pruning_command(network, dataset),
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
            lambda n, d: _NO_NUMBER,
            lambda d, n: _keeps(d, n, "removed, recalibrated"),
        ),
        *rows(
            "Batch Bridgeout is ahead when 50 to 70 % of the filters are removed and BatchNorm is recalibrated, but "
            "nothing is trained on",
            f"found {ours}",
            lambda n, d: _NO_NUMBER,
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


def _pruning_command(network: str, dataset: str) -> str:
    small = f"`bridgeout sweep pruning-{dataset}`; at the published scale " if network == "vgg16" else ""
    return f"{small}`bridgeout sweep pruning-published`"


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


def _counts(build: Callable[[], nn.Module], side: int = 32) -> tuple[int, int]:
    """Parameters and multiply-adds of one image, without memory or time for the weights."""
    with torch.device("meta"):
        model, image = build(), torch.empty(1, 3, side, side)
    return cost.count(model, image)


def _network_counts(key: str) -> dict[str, int]:
    """What can be counted of a network of ``published.SIZES``."""
    if key == "resnet20":
        parameters, macs = published.resnet_counts("ResNet-20")
        return {"parameters": parameters, "multiply-adds": macs}
    if key == "resnet50":
        import_torchvision()
        from torchvision.models import resnet50

        parameters, macs = _counts(resnet50, 224)
        return {"parameters": parameters, "multiply-adds": macs}
    with torch.device("meta"):
        convolutions = [m for m in models.build_model(key).modules() if isinstance(m, nn.Conv2d)]
    parameters, macs = _counts(functools.partial(models.build_model, key))
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
    return {"parameters": parameters, "multiply-adds": _counts(build)[1]}


def _counted(theirs: Mapping[str, str], count: Callable[[], dict[str, int]]) -> Judge:
    """Is every count the published one, to the digits that are published?"""
    units = {"": 1.0, "M": 1e6, "x 10^8": 1e8}

    def judge(records: list[Record]) -> Finding:
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


def _size_claims() -> tuple[Claim, ...]:
    return tuple(
        Claim(
            f"Size of {title}",
            source,
            _words(theirs),
            "none",
            "`bridgeout report`",
            _counted(theirs, functools.partial(_network_counts, key)),
        )
        for title, key, theirs, source in published.SIZES
    )


def _words(counts: Mapping[str, str]) -> str:
    return ", ".join(f"{text} {name}" for name, text in counts.items())


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
                _counted(theirs, count),
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
        claims.append(Claim(claim, source, f"CIFAR-10 test accuracy (%): {text}", "-", "-", _not_run(reason)))
    return tuple(claims)


def _accuracy(model: str, dataset: str, method: str, theirs: float) -> Judge:
    """Does our longest training of this network reach the published test accuracy?"""

    def judge(records: list[Record]) -> Finding:
        whole = [r for r in records if _is_whole(r, model) and not r.spec.get("cut") and "failed" not in r.metrics]
        some = [r for r in whole if (r.spec["dataset"], r.spec["method"]) == (dataset, method)]
        longest = max((r.spec["recipe"]["epochs"] for r in some), default=0)
        rows = pd.DataFrame(
            {"setting": protocol.setting(r.spec), "seed": r.spec["seed"]}
            | {split: r.metrics[f"{split}_accuracy"] for split in ("valid", "test")}
            for r in some
            if r.spec["recipe"]["epochs"] == longest
        )
        if len(rows):
            rows = rows[rows.groupby("setting")["seed"].transform("nunique") >= LEAST_SEEDS]
        if not len(rows):
            return _TOO_FEW
        best = rows.groupby("setting")["valid"].mean().idxmax()
        row = summarise(rows[rows["setting"] == best], ["setting"], "test").iloc[0]
        inside = row["low"] <= theirs <= row["high"]
        return Finding(
            f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}], n = {row['n']}",
            "reproduced" if inside else _DIRECTION if row["low"] > theirs else "not reproduced",
            f"the published value lies {'in' if inside else 'below' if row['low'] > theirs else 'above'} our interval; "
            f"setting: {best}",
            f"{longest} epochs of our recipe, 45,000 training images against 50,000",
        )

    return judge


def _anchor_claims() -> tuple[Claim, ...]:
    methods = {"none": "without noise", "dropout": "with Dropout"}
    data = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
    return (
        *(
            Claim(
                f"Test accuracy of {title}, {methods[method]}, {data[dataset]}: {accuracy:.2f} %",
                source,
                f"{accuracy:.2f} %",
                "-",
                _pruning_command(model, dataset),
                _accuracy(model, dataset, method, accuracy),
            )
            for title, model, dataset, method, accuracy, source in published.ACCURACIES
        ),
        *_untested(published.TIMES, "`python benchmarks/airbench.py`"),
        *_untested(published.UNTESTED),
    )


def _untested(rows: Iterable[tuple[str, str, str, str]], command: str = "-") -> tuple[Claim, ...]:
    return tuple(Claim(what, source, theirs, "-", command, _not_run(why)) for what, theirs, source, why in rows)


def _derived_claims() -> tuple[Claim, ...]:
    """Published numbers that follow from other published numbers."""
    claims = []
    for what, theirs, values, source in published.DERIVED:
        ours = [
            f"{value:{'+' if text[0] in '+-' else ''}.{len(text.partition('.')[2])}f}"
            for text, value in zip(theirs, values, strict=True)
        ]
        judge = _calculated(", ".join(ours), tuple(ours) == theirs)
        claims.append(Claim(what, source, ", ".join(theirs), "none", "`bridgeout report`", judge))
    return tuple(claims)


def _calculated(ours: str, same: bool) -> Judge:
    verdict = "reproduced" if same else "not reproduced"
    return lambda records: Finding(ours, verdict, "calculated from the published numbers that it is made of")


def _ridge(records: list[Record]) -> Finding:
    """Dropout in linear regression: the closed form at q = 2 is a ridge penalty with the features' power as weights."""
    features, weights = _double(12, 6, seed=0), _double(6, seed=1)
    gaps = []
    for p in (0.1, 0.3, 0.5):
        exact = theory.exact_penalty(features, weights, p, 2.0, "gaussian", "features")
        ridge = 0.5 * p / (1 - p) * (features.square().mean(0) * weights.square()).sum()
        gaps.append(((ridge - exact) / exact).abs().item())
    return Finding(
        f"largest relative error {'below 1e-12' if max(gaps) < 1e-12 else f'{max(gaps):.1e}'}",
        "reproduced" if max(gaps) < 1e-12 else "not reproduced",
        "ridge penalty against the sum over all masks, linear regression, p in {.1, .3, .5}",
    )


def _cloning(records: list[Record]) -> Finding:
    x = _double(20, seed=3).abs()
    gini, hoyer = (abs(float(f(x.repeat(2)) - f(x))) for f in (sparsity.gini, sparsity.hoyer))
    return Finding(
        f"a vector of 20 repeated: Gini changes by {'less than 1e-12' if gini < 1e-12 else f'{gini:.1e}'}, "
        f"Hoyer by {hoyer:.3f}",
        "reproduced" if gini < 1e-12 and hoyer > 1e-3 else "not reproduced",
        "one vector: it shows that Hoyer fails, and for Gini it is an example and no proof",
    )


def _not_run(reason: str) -> Judge:
    return lambda records: Finding("-", "not run", reason)


_DIRECTION = "reproduced in direction"
_TOO_FEW = Finding("-", "not run", f"fewer than {LEAST_SEEDS} seeds recorded")
_NO_NUMBER = "no number known to us"
_GRID = (
    "small CNN (0.17 M parameters), 5 epochs, CIFAR-10, 45,000 images; "
    "the paper's networks and settings are not known to us"
)
_LANGUAGE = (
    "Penn Treebank, the first 40,000 of 929,589 training words, vocabulary of 4,000, 0.78 M parameters, 10 epochs of "
    "the LSTM and 4 of the transformer; the paper's networks and settings are not known to us"
)
_TRANSFORMER = "; that it carries over to a transformer is our question, not its claim"
_CONVOLUTIONS = ("relu1", "relu2", "relu3", "relu4")
_THEORY = "none: the claim is mathematical"

# All claims, in the order of the page. Chapter 4 calls its verdicts rows 4 to 7: what is new goes behind them.
SECTIONS: tuple[Section, ...] = (
    Section(
        "Noise is a penalty",
        "Checked by exact computation each time this page is written.",
        (
            Claim(
                "Sparseout's noise is an L_q penalty on the features of a generalised linear model",
                "Khan & Stavness 2019, abstract",
                _NO_NUMBER,
                _THEORY,
                "chapter 2; `bridgeout report`",
                _equivalence("features"),
            ),
            Claim(
                "Dropout is Sparseout at q = 2",
                "Khan & Stavness 2019, abstract",
                "equal",
                _THEORY,
                "chapter 2; `bridgeout report`",
                _dropout_is_q2,
            ),
            Claim(
                "Bridgeout's noise is an L_q penalty on the weights of a generalised linear model",
                "Khan, Shah & Stavness 2018, abstract",
                _NO_NUMBER,
                _THEORY,
                "chapter 3; `bridgeout report`",
                _equivalence("weights"),
            ),
        ),
    ),
    Section(
        "Sparseout and Bridgeout in networks",
        "The tables of both papers are not known to us; the claims are those of the abstracts and of released code.",
        (
            *(
                Claim(
                    f"Activations are sparser than Dropout's for q < 2 and denser for q > 2: {where}",
                    "README of the released Sparseout code",
                    _NO_NUMBER,
                    _GRID,
                    "`bridgeout sweep activation-grid`",
                    _sparser(layers, model),
                )
                for where, layers, model in (
                    ("last hidden layer", ("relu5",), "smallcnn"),
                    ("convolutional layers", _CONVOLUTIONS, "smallcnn"),
                    ("convolutional layers without BatchNorm", _CONVOLUTIONS, "smallcnn-plain"),
                )
            ),
            Claim(
                "Image classification prefers denser activations (q > 2 over q < 2)",
                "Khan & Stavness 2019, abstract",
                _NO_NUMBER,
                _GRID,
                "`bridgeout sweep activation-grid`",
                _denser_is_better,
            ),
            Claim(
                "Bridgeout's networks are more accurate, and their weights sparser, than with Dropout or Shakeout",
                "Khan, Shah & Stavness 2018, abstract",
                _NO_NUMBER,
                "-",
                "-",
                _not_run("neither Shakeout nor one mask for each image is in the package"),
            ),
        ),
    ),
    Section(
        "Sparsity in language models",
        "The other half of the paper on Sparseout. Its tables are not known to us. Perplexities at our scale compare "
        "among themselves only, but for the last row.",
        (
            *(
                Claim(
                    f"Language modelling prefers sparser activations (q < 2 over q = 2 and over q > 2): {name}",
                    "Khan & Stavness 2019, abstract" + also,
                    _NO_NUMBER,
                    _LANGUAGE,
                    "`bridgeout sweep language-model`",
                    _sparser_is_better(model),
                )
                for name, model, also in (("LSTM", "lstm", ""), ("transformer", "transformer", _TRANSFORMER))
            ),
            *(
                Claim(
                    f"Hidden states of a language model are sparser at q = 1 than at q = 3: {name}",
                    "README of the released Sparseout code, on activations in general",
                    _NO_NUMBER,
                    _LANGUAGE,
                    "`bridgeout sweep language-model`",
                    _sparser_states(places, model),
                )
                for name, places, model in (
                    ("outputs of the LSTM's layers", ("hidden.0", "hidden.1"), "lstm"),
                    ("activations of the transformer's MLPs", ("blocks.0.relu", "blocks.1.relu"), "transformer"),
                )
            ),
            Claim(
                "Test perplexity of an LSTM of two layers of 200 units on Penn Treebank",
                "; ".join(name for name, _ in published.PTB_PERPLEXITIES)
                + ": as quoted or copied elsewhere, not read at "
                "the source; copies of the last disagree on the data set",
                "; ".join(f"{value:g}" for _, value in published.PTB_PERPLEXITIES),
                "tied embeddings (2.65 M parameters), Dropout p = 0.2, AdamW, 6 epochs",
                "`bridgeout sweep language-model`",
                _published_perplexity,
            ),
        ),
    ),
    Section(
        "Batch Bridgeout and filter pruning",
        "Six pairs of network and data set, judged by the runs nearest to the published ones. The published networks "
        "were chosen on test accuracy; their strengths of noise are not known.",
        _pruning_claims(),
    ),
    Section("Sizes of networks", "Counted each time this page is written.", _size_claims()),
    Section(
        "Filter pruning by L1 norm",
        "The published parameters come out to the digit if those of BatchNorm are left out: our reading of the table.",
        _l1_claims(),
    ),
    Section("Accuracies and times of usual networks", "What others reach without pruning.", _anchor_claims()),
    Section(
        "Other pruning, with training afterwards",
        "None was run. What follows from published numbers alone is calculated.",
        (*_untested(published.FINE_TUNED), *_derived_claims()),
    ),
    Section(
        "Older theory and measures",
        "Checked by exact computation each time this page is written.",
        (
            Claim(
                "Dropout in a generalised linear model is an adaptive ridge penalty, exactly in linear regression",
                "Wager, Wang & Liang 2013",
                "equal",
                _THEORY,
                "chapter 1; `bridgeout report`",
                _ridge,
            ),
            Claim(
                "Repeating a vector leaves its Gini index as it is, and changes Hoyer's measure",
                "Hurley & Rickard 2009, abstract: of fifteen measures only Gini has all six properties",
                _NO_NUMBER,
                _THEORY,
                "`bridgeout report`",
                _cloning,
            ),
        ),
    ),
)

CLAIMS = tuple(claim for section in SECTIONS for claim in section.claims)

# Said at the end of the page.
_LEFT_OUT = (
    "Published numbers known to us that have no row, because nothing here can test them: the error rates of Dropout, "
    "DropConnect and variational dropout on MNIST and SVHN; 40-fold and 33-fold efficiency of StressedNets on AlexNet "
    "and YOLOv2; the counts of the survey behind ShrinkBench. Tables of the papers on Sparseout, Bridgeout, feature "
    "flow, nonconvex group sparsity and OICSR on CIFAR were not available to us."
)


def ledger_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row a claim: section, claim, source, published, ours, verdict, reason, scale, command."""
    records = [record for record in records if "failed" not in record.metrics]  # it diverged: nothing was measured
    rows = []
    for section in SECTIONS:
        for claim in section.claims:
            row = {k: getattr(claim, k) for k in ("claim", "source", "published", "scale", "command")}
            found = {k: v for k, v in dataclasses.asdict(claim.judge(records)).items() if v is not None}
            rows.append({"section": section.title} | row | found)
    return pd.DataFrame(rows)


def ledger_page(records: Iterable[Record]) -> str:
    """The page ``book/ledger.md``, as MyST markdown."""
    table = ledger_table(records)
    counts = table.groupby(["section", "verdict"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=VERDICTS, fill_value=0)
    lines = [
        "# The reproduction ledger",
        "",
        "<!-- Written by `bridgeout report` from results/; do not edit. -->",
        "",
        "Each claim stands beside what we measured: mean and 95 % interval over seeds where there is chance in it. A",
        "measured claim without a published number, or one tested on another network, can at best be *reproduced in",
        "direction*. What was not run says why, and what would run it where something would. A verdict in the tables",
        "below leads to the evidence.",
        "",
        state(table),
        "",
        f"| | {' | '.join(VERDICTS)} |",
        f"| --- |{' --- |' * len(VERDICTS)}",
        *(f"| {s.title} | {' | '.join(str(counts[v][s.title]) for v in VERDICTS)} |" for s in SECTIONS),
        "",
    ]
    numbered = table.assign(number=range(1, len(table) + 1))
    for section in SECTIONS:
        rows = numbered[numbered["section"] == section.title].to_dict("records")
        lines += [
            f"## {section.title}",
            "",
            section.text,
            "",
            "| | claim | verdict |",
            "| --- | --- | --- |",
            *(f"| {n} | {_cell(r['claim'])} | [{r['verdict']}](#claim-{n}) |" for r in rows if (n := r["number"])),
            "",
        ]
        for row in rows:
            told = {
                "ours": row["ours"],
                "published": row["published"],
                "why this verdict": row["reason"],
                "source": row["source"],
                "difference in scale": row["scale"],
                "rerun": row["command"],
            }
            lines += [
                f"(claim-{row['number']})=",
                f"### {row['number']}. {row['claim']}",
                "",
                f"| verdict | {row['verdict']} |",
                "| --- | --- |",
                # what was not run has nothing to show here but the reason
                *(f"| {name} | {_cell(text)} |" for name, text in told.items() if text != "-"),
                "",
            ]
    return "\n".join([*lines, "## Numbers without a row", "", _LEFT_OUT, ""])


def state(table: pd.DataFrame) -> str:
    """How many claims have which verdict, in one sentence."""
    counts = table["verdict"].value_counts()
    parts = ", ".join(f"**{counts[v]}** {v}" for v in VERDICTS if v in counts)
    return f"{len(table)} claims: {parts}."


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|")
