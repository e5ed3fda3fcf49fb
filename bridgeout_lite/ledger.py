"""The reproduction ledger: each published claim beside what we measured, with spread, verdict and reason.

A claim is judged by a function of the records or of exact computation, never by hand. ``bridgeout report`` writes the
page ``book/ledger.md`` from :func:`ledger_page`.
"""

import dataclasses
from collections.abc import Callable, Iterable

import pandas as pd
import torch

from . import protocol, published, theory
from .experiments import layers_frame, runs_frame
from .noise import keep_mask, sparseout
from .records import Record, summarise

VERDICTS = ("reproduced", "reproduced in direction", "not reproduced", "not run")

# No verdict on fewer.
LEAST_SEEDS = 3

METHOD_NAMES = {"none": "weight decay", "dropout": "Dropout", "bridgeout": "Batch Bridgeout"}

# Shares of the filters at which the pruning curves are compared.
PRUNED = protocol.CHOSEN_AT


@dataclasses.dataclass(frozen=True)
class Finding:
    """What we measured for a claim: ``ours`` (with interval and n), one of ``VERDICTS``, and the reason."""

    ours: str
    verdict: str
    reason: str

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
    judge: Callable[[list[Record]], Finding]


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


def _equivalence(noise_on: str) -> Callable[[list[Record]], Finding]:
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


def _sparser(layers: tuple[str, ...], model: str) -> Callable[[list[Record]], Finding]:
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


def _denser_is_better(records: list[Record]) -> Finding:
    rows = runs_frame(r for r in records if r.spec["method"] == "sparseout" and r.spec["model"] == "smallcnn")
    if not len(rows) or rows.groupby(["p", "q"])["seed"].nunique().min() < LEAST_SEEDS or rows["q"].nunique() < 5:
        return Finding("-", "not run", f"fewer than {LEAST_SEEDS} seeds recorded")
    valid = summarise(rows, ["q", "p"], "valid_accuracy").sort_values("mean").groupby("q").last()  # best p for each q
    best_p, accuracy = valid["p"].to_dict(), valid["mean"].to_dict()
    chosen = rows[[best_p[q] == p for q, p in zip(rows["q"], rows["p"], strict=True)]]
    dense, sparse = (max(side, key=accuracy.__getitem__) for side in ((2.5, 3.0), (1.0, 1.5)))
    mean, low, high, n = paired_difference(chosen, "test_accuracy", dense, sparse)
    text = f"test accuracy of q={dense:g} minus q={sparse:g}: {mean:+.2f} points [{low:+.2f}, {high:+.2f}], n={n}"
    if low > 0:
        return Finding(text, "reproduced in direction", "p and the q of each side were chosen on validation")
    side = "the sparse side is better" if high < 0 else "the interval contains zero"
    return Finding(text, "not reproduced", f"p and the q of each side were chosen on validation; {side}")


def _pruned(
    records: list[Record], dataset: str, family: str, curve: str, amounts: Iterable[float] = PRUNED
) -> pd.DataFrame:
    """The test rows of one curve at each method's best setting over ``amounts``, for the runs of one family of networks
    that were trained longest; empty where a method has fewer than three seeds."""
    some = (r for r in records if r.spec["dataset"] == dataset and r.spec["model"].startswith(family))
    frame = protocol.curves_frame(some)
    if len(frame):
        frame = protocol.at_best(frame[frame["epochs"] == frame["epochs"].max()], curve, amounts=amounts)
        seeds = frame.groupby("method")["seed"].nunique()
        if not all(seeds.get(method, 0) >= LEAST_SEEDS for method in METHOD_NAMES):
            frame = frame.head(0)
    return frame


def _endures(dataset: str, family: str, curve: str) -> Callable[[list[Record]], Finding]:
    """Is Batch Bridgeout above both rivals at every share between 10 and 40 % of the filters?"""

    def judge(records: list[Record]) -> Finding:
        rows = _pruned(records, dataset, family, curve)
        if not len(rows):
            return Finding("-", "not run", f"fewer than {LEAST_SEEDS} seeds recorded")
        lines, gaps = [], []
        for other in ("none", "dropout"):
            some = [protocol.advantage(rows, "bridgeout", other, [amount]) for amount in PRUNED]
            parts = [f"{100 * a:.0f} % {_points(gap)}" for a, gap in zip(PRUNED, some, strict=True)]
            lines.append(f"minus {METHOD_NAMES[other]}: {', '.join(parts)}")
            gaps += some
        above, below = sum(low > 0 for _, low, _, _ in gaps), sum(high < 0 for _, _, high, _ in gaps)
        best = rows.groupby(["amount", "method"])["accuracy"].mean()[PRUNED[-1]].max()
        return Finding(
            f"points of test accuracy, n = {gaps[0][3]}, Batch Bridgeout {'; '.join(lines)}",
            "reproduced in direction" if above == len(gaps) else "not reproduced",
            f"of {len(gaps)} intervals {above} lie above zero and {below} below; at {100 * PRUNED[-1]:.0f} % the best "
            f"method is at {best:.1f} %; {_settings(rows)}",
        )

    return judge


def _ahead_far_out(dataset: str, family: str) -> Callable[[list[Record]], Finding]:
    """Is Batch Bridgeout above both rivals on average between 50 and 70 % of the filters, removed and recalibrated?"""
    far = (0.5, 0.6, 0.7)

    def judge(records: list[Record]) -> Finding:
        rows = _pruned(records, dataset, family, "removed, recalibrated", far)
        if not len(rows):
            return Finding("-", "not run", f"fewer than {LEAST_SEEDS} seeds recorded")
        gaps = {other: protocol.advantage(rows, "bridgeout", other, far) for other in ("none", "dropout")}
        price = protocol.advantage(rows, "bridgeout", "none", [0.0])
        lines = [f"minus {METHOD_NAMES[other]}: {_points(gap)}" for other, gap in gaps.items()]
        return Finding(
            f"points of test accuracy, mean of 50, 60 and 70 %, n = {price[3]}, Batch Bridgeout {'; '.join(lines)}",
            "reproduced in direction" if all(low > 0 for _, low, _, _ in gaps.values()) else "not reproduced",
            f"unpruned the same network is at {_points(price)} against weight decay; {_settings(rows)}",
        )

    return judge


def _points(gap: tuple[float, float, float, int]) -> str:
    mean, low, high, _ = gap
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _settings(rows: pd.DataFrame) -> str:
    chosen = rows[rows["setting"] != "-"].groupby("method")["setting"].first()
    return "strengths chosen on validation: " + "; ".join(f"{METHOD_NAMES[str(m)]} {s}" for m, s in chosen.items())


def _price(dataset: str, family: str) -> Callable[[list[Record]], Finding]:
    """Is the unpruned Batch Bridgeout network the less accurate one?"""

    def judge(records: list[Record]) -> Finding:
        rows = _pruned(records, dataset, family, "zeroed")
        if not len(rows):
            return Finding("-", "not run", f"fewer than {LEAST_SEEDS} seeds recorded")
        mean, low, high, n = protocol.advantage(rows, "bridgeout", "none", [0.0])
        return Finding(
            f"{mean:+.2f} points of test accuracy [{low:+.2f}, {high:+.2f}], n = {n}",
            "reproduced in direction" if high < 0 else "not reproduced",
            f"at the strength that is best for the pruned network; {_settings(rows)}",
        )

    return judge


def _published_curves(network: str, dataset: str) -> str:
    """The published accuracies behind a claim, in words."""
    words = []
    for method, name in published.METHODS.items():
        line = published.curve(network, dataset, method).set_index("amount")["accuracy"]
        values = ", ".join(f"{line[a]:.1f}" for a in (0.0, *PRUNED) if a in line.index)
        words.append(f"{name} {values}")
    return f"test accuracy (%) at 0, 10, 20, 30, 40 % of filters: {'; '.join(words)}"


def _pruning_claims() -> list[Claim]:
    networks = {
        "vgg16": ("VGG-16", "vgg"),
        "resnet34c": ("CIFAR ResNet", "resnet"),
        "wrn-28-10": ("Wide-ResNet", "wrn"),
    }
    claims = []
    for dataset, data in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
        for network, (title, family) in networks.items():
            claims.append(
                Claim(
                    "Batch Bridgeout keeps more accuracy than Dropout and weight decay when 10 to 40 % of the filters "
                    f"are zeroed: {title}, {data}",
                    "Khan & Stavness 2020; curves digitised from the authors' figures",
                    _published_curves(network, dataset),
                    _VGG if family == "vgg" else "-",
                    f"`bridgeout sweep pruning-{dataset}`" if family == "vgg" else "-",
                    _endures(dataset, family, "zeroed"),
                )
            )
    gap = {m: published.curve("vgg16", "cifar10", m)["accuracy"].iloc[0] for m in ("bridgeout", "none")}
    claims.append(
        Claim(
            "Unpruned, Batch Bridgeout's network is less accurate than that of weight decay alone: VGG, CIFAR-10",
            "Khan & Stavness 2020; curves digitised from the authors' figures",
            f"{gap['bridgeout'] - gap['none']:+.2f} points",
            _VGG,
            "`bridgeout sweep pruning-cifar10`",
            _price("cifar10", "vgg"),
        )
    )
    claims.append(
        Claim(
            "Batch Bridgeout's advantage at 10 to 40 % outlives real removal and recalibrated BatchNorm: VGG, CIFAR-10",
            "asked by this book; the paper neither removes filters nor recalibrates",
            _NO_NUMBER,
            _VGG,
            "`bridgeout sweep pruning-cifar10`",
            _endures("cifar10", "vgg", "removed, recalibrated"),
        )
    )
    claims.append(
        Claim(
            "Batch Bridgeout is ahead when 50 to 70 % of the filters are removed and BatchNorm is recalibrated, but "
            "nothing is trained on: VGG, CIFAR-10",
            "found by this book; the paper neither removes filters nor recalibrates",
            _NO_NUMBER,
            _VGG,
            "`bridgeout sweep pruning-cifar10`",
            _ahead_far_out("cifar10", "vgg"),
        )
    )
    return claims


def _not_run(reason: str) -> Callable[[list[Record]], Finding]:
    return lambda records: Finding("-", "not run", reason)


_NO_NUMBER = "no number known to us"
_GRID = (
    "small CNN (0.17 M parameters), 5 epochs, CIFAR-10, 45,000 images; "
    "the paper's networks and settings are not known to us"
)
_VGG = (
    "VGG-11 of a quarter of the channels (0.58 M parameters against 14.7 M), 10 epochs against 230, 45,000 images, "
    "the last epoch and not the best on test"
)
_CONVOLUTIONS = ("relu1", "relu2", "relu3", "relu4")
_THEORY = "none: the claim is mathematical"

CLAIMS = (
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
    Claim(
        "Activations are sparser than Dropout's for q < 2 and denser for q > 2: last hidden layer",
        "README of the released Sparseout code",
        _NO_NUMBER,
        _GRID,
        "`bridgeout sweep activation-grid`",
        _sparser(("relu5",), "smallcnn"),
    ),
    Claim(
        "Activations are sparser than Dropout's for q < 2 and denser for q > 2: convolutional layers",
        "README of the released Sparseout code",
        _NO_NUMBER,
        _GRID,
        "`bridgeout sweep activation-grid`",
        _sparser(_CONVOLUTIONS, "smallcnn"),
    ),
    Claim(
        "Activations are sparser than Dropout's for q < 2 and denser for q > 2: convolutional layers without BatchNorm",
        "README of the released Sparseout code",
        _NO_NUMBER,
        _GRID,
        "`bridgeout sweep activation-grid`",
        _sparser(_CONVOLUTIONS, "smallcnn-plain"),
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
        "Language modelling prefers sparser activations (q < 2)",
        "Khan & Stavness 2019, abstract",
        _NO_NUMBER,
        "-",
        "-",
        _not_run("no language models in the book yet"),
    ),
    *_pruning_claims(),
)


def ledger_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row a claim: claim, source, published, ours, verdict, reason, scale, command."""
    records = list(records)
    rows = []
    for claim in CLAIMS:
        row = {k: getattr(claim, k) for k in ("claim", "source", "published", "scale", "command")}
        rows.append(row | dataclasses.asdict(claim.judge(records)))
    return pd.DataFrame(rows)


def ledger_page(records: Iterable[Record]) -> str:
    """The page ``book/ledger.md``, as MyST markdown."""
    table = ledger_table(records)
    lines = [
        "# The reproduction ledger",
        "",
        "<!-- Written by `bridgeout report` from results/; do not edit. -->",
        "",
        "Each claim stands beside what we measured: mean and 95 % interval over seeds where there is chance in it. A",
        "measured claim without a published number can at best be *reproduced in direction*. What was not run says so.",
        "",
        state(table),
        "",
        "| | claim | verdict |",
        "| --- | --- | --- |",
        *(f"| {n} | {_cell(row.claim)} | {row.verdict} |" for n, row in enumerate(table.itertuples(), 1)),
        "",
    ]
    for number, row in enumerate(table.to_dict("records"), 1):
        lines += [
            f"## {number}. {row['claim']}",
            "",
            f"| verdict | {row['verdict']} |",
            "| --- | --- |",
            f"| ours | {_cell(row['ours'])} |",
            f"| published | {_cell(row['published'])} |",
            f"| why this verdict | {_cell(row['reason'])} |",
            f"| source | {_cell(row['source'])} |",
            f"| difference in scale | {_cell(row['scale'])} |",
            f"| rerun | {row['command']} |",
            "",
        ]
    return "\n".join(lines)


def state(table: pd.DataFrame) -> str:
    """How many claims have which verdict, in one sentence."""
    counts = table["verdict"].value_counts()
    parts = ", ".join(f"**{counts[v]}** {v}" for v in VERDICTS if v in counts)
    return f"{len(table)} claims: {parts}."


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|")
