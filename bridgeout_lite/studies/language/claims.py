"""Sparsity in language models: what the hidden states are like, and what the perplexity wants."""

import math
from collections.abc import Iterable

import pandas as pd

from ...runs.records import Record
from ...stats import interval, paired_difference
from .. import published
from ..base import (
    CONTRADICTED,
    DIRECTION,
    LEAST_SEEDS,
    NO_NUMBER,
    PUBLISHED,
    QUESTION,
    TOO_FEW,
    UNDECIDED,
    Claim,
    Finding,
    Judge,
    Regime,
    Section,
    count_sides,
    judged,
    list_gaps,
    seeded,
)
from ..images import runs_frame
from ..measures import layers_frame
from .study import SEARCHED_P, SEARCHED_Q, tuned

_LANGUAGE = (
    "Penn Treebank, the first 40,000 of 929,589 training words, vocabulary of 4,000, 0.78 M parameters, 10 epochs of "
    "the LSTM and 4 of the transformer; the paper's networks and settings are not known to us"
)
_TRANSFORMER = "; that it carries over to a transformer is our question, not its claim"


def small_language_runs(records: Iterable[Record], model: str) -> list[Record]:
    """Those runs of a language model ("lstm" or "transformer") that read a part of the training text."""
    return [r for r in records if r.spec.get("task") == "language" and r.spec["model"] == model and r.spec["train"]]


def at_tuned(rows: pd.DataFrame, records: Iterable[Record], model: str) -> pd.DataFrame:
    """Of rows of :func:`small_language_runs`, one or more per run: under Sparseout, and for each q at the p that its
    search chose (:func:`bridgeout_lite.studies.language.study.tuned`)."""
    if not len(rows):
        return rows
    best = {q: p for (name, q), p in tuned(records).items() if name == model}
    return rows[(rows["method"] == "sparseout") & (rows["p"] == rows["q"].map(best))]


def language_runs(records: Iterable[Record]) -> pd.DataFrame:
    """One row per language model: the columns of :func:`bridgeout_lite.studies.images.runs_frame`, train_loss of the
    last epoch, train, width and layers of its spec, and best_p, the p that the search chose for its model and q."""
    records = [r for r in records if r.spec.get("task") == "language"]
    rows = runs_frame(records)
    rows["train_loss"] = [r.metrics.get("history", {}).get("train_loss", [math.nan])[-1] for r in records]
    for name in ("train", "width", "layers"):
        rows[name] = [r.spec[name] for r in records]
    return _with_best_p(rows, records)


def hidden_states(records: Iterable[Record]) -> pd.DataFrame:
    """The rows of :func:`bridgeout_lite.studies.measures.layers_frame` of both models on a part of the text, and best_p
    as :func:`language_runs` has it."""
    records = [*records]
    runs = [r for model in ("lstm", "transformer") for r in small_language_runs(records, model)]
    return _with_best_p(layers_frame(runs), records)


def _with_best_p(rows: pd.DataFrame, records: Iterable[Record]) -> pd.DataFrame:
    best = tuned(records)
    keys = zip(rows["model"], rows["q"], strict=True) if len(rows) else ()
    return rows.assign(best_p=[best.get(key, math.nan) for key in keys])


def _at_best(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    """The rows of a model under Sparseout at the best p of each q; none unless every q of the search has its seeds."""
    rows = rows[(rows["model"] == model) & (rows["method"] == "sparseout") & (rows["p"] == rows["best_p"])]
    return rows if all(seeded(rows[rows["q"] == q]) for q in SEARCHED_Q) else rows.iloc[:0]


def _sparser_is_better(model: str) -> Judge:
    """Is the best q below 2 better than Dropout, and better than the best q above 2?"""

    def find(runs: pd.DataFrame) -> Finding:
        runs = runs[(runs["model"] == model) & runs["train"].notna()]
        rows = _at_best(runs, model)
        if not len(rows):
            return TOO_FEW
        loss, level = (rows.groupby("q")[value].mean().to_dict() for value in ("valid_loss", "test_perplexity"))
        sparse, dense = (min(side, key=loss.__getitem__) for side in ([1.0, 1.25, 1.5], [2.5, 3.0]))
        gaps = {f"minus q={q:g}:": paired_difference(rows, "test_perplexity", sparse, q) for q in (2.0, dense)}
        edge = sorted(set(rows["q"][rows["p"].isin((min(SEARCHED_P), max(SEARCHED_P)))]))
        quiet = runs[runs["method"] == "none"]
        reason = (
            f"p of each q chosen on validation with one seed, the q of each side with all; mean at q={sparse:g} "
            f"{level[sparse]:.1f}, at q=2 {level[2.0]:.1f}, at q={dense:g} {level[dense]:.1f}, without noise "
            f"{quiet['test_perplexity'].mean():.1f}"
        )
        if edge:
            reason += f"; the best p lies at the edge of the grid for q={', '.join(f'{q:g}' for q in edge)}"
        return judged(
            gaps,
            f"test perplexity, n = {next(iter(gaps.values())).n}, q={sparse:g} {list_gaps(gaps)}",
            f"{count_sides(gaps, -1).replace('of 2', 'of two')}; {reason}",
            sign=-1,
            matters=1.0,
            unit="of test perplexity",
            regime=_regime(quiet),
        )

    return find


def _regime(quiet: pd.DataFrame) -> Regime | None:
    """Of runs without noise; a difference of 0.01 nats counts as a point."""
    if quiet["train_loss"].isna().all():
        return None
    train, valid = quiet["train_loss"].mean(), quiet["valid_loss"].mean()
    words = f"without noise the perplexity is {math.exp(train):.1f} in training and {math.exp(valid):.1f} in validation"
    return Regime(-100 * train, -100 * valid, words)


def _sparser_states(places: tuple[str, ...], model: str) -> Judge:
    """Are Hoyer and Gini higher at q = 1 than at q = 3, in every place?"""

    def find(rows: pd.DataFrame) -> Finding:
        rows = _at_best(rows, model)
        gaps = {
            f"{place}, {measure.title()}": paired_difference(rows[rows["layer"] == place], measure, 1.0, 3.0)
            for place in places
            for measure in ("hoyer", "gini")
        }
        power = rows[rows["layer"] == places[-1]].groupby("q")["noise_power"].mean()
        if not len(power):
            return TOO_FEW
        return judged(
            gaps,
            f"q=1 minus q=3, n = {next(iter(gaps.values())).n}; {list_gaps(gaps, '+.3f')}",
            f"{count_sides(gaps)}; each q at its tuned p, so not at the same noise: in {places[-1]} its power is "
            f"{power[1.0]:.2f} and {power[3.0]:.2f} of the signal's",
            matters=0.005,
            unit="of Hoyer and Gini",
            spec="+.3f",
        )

    return find


def _published_perplexity(rows: pd.DataFrame) -> Finding:
    """An LSTM of two layers of 200 units on all training words, beside the published ones."""
    size = (rows["model"] == "lstm") & (rows["width"] == 200) & (rows["layers"] == 2)
    gap = interval(rows["test_perplexity"][size & rows["train"].isna() & (rows["dataset"] == "ptb")])
    if not gap.n:
        return TOO_FEW
    theirs = [value for _, value in published.PTB_PERPLEXITIES]
    off = ", ".join(f"{100 * (gap.mean / value - 1):+.1f} %" for value in theirs)
    reason = f"against the published values {off}, at other budgets"
    if gap.n < LEAST_SEEDS:
        few = f"fewer than {LEAST_SEEDS} seeds, so no interval"
        return Finding(f"{gap.mean:.1f}", UNDECIDED, f"{few}; {reason}", n=gap.n)
    return Finding(f"{gap:.1f}", DIRECTION if gap.low <= max(theirs) else CONTRADICTED, reason, n=gap.n)


SECTION = Section(
    "Sparsity in language models",
    "The other half of the paper on Sparseout. Its tables are not known to us. Perplexities at our scale compare "
    "among themselves only, but for the last row.",
    (
        *(
            Claim(
                f"Language modelling prefers sparser activations (q < 2 over q = 2 and over q > 2): {name}",
                "Khan & Stavness 2019, abstract" + also,
                NO_NUMBER,
                _LANGUAGE,
                "`bridgeout sweep language`",
                _sparser_is_better(model),
                language_runs,
                kind=QUESTION if also else PUBLISHED,
            )
            for name, model, also in (("LSTM", "lstm", ""), ("transformer", "transformer", _TRANSFORMER))
        ),
        *(
            Claim(
                f"Hidden states of a language model are sparser at q = 1 than at q = 3: {name}",
                "Khan & Stavness 2019, README of the released code, on activations in general",
                NO_NUMBER,
                _LANGUAGE,
                "`bridgeout sweep language`",
                _sparser_states(places, model),
                hidden_states,
            )
            for name, places, model in (
                ("outputs of the LSTM's layers", ("hidden.0", "hidden.1"), "lstm"),
                ("activations of the transformer's MLPs", ("blocks.0.relu", "blocks.1.relu"), "transformer"),
            )
        ),
        Claim(
            "Test perplexity of an LSTM of two layers of 200 units on Penn Treebank",
            "; ".join(name for name, _ in published.PTB_PERPLEXITIES) + ": as quoted or copied elsewhere, not read at "
            "the source; copies of the last disagree on the data set",
            "; ".join(f"{value:g}" for _, value in published.PTB_PERPLEXITIES),
            "tied embeddings (2.65 M parameters), Dropout p = 0.2, AdamW, 6 epochs",
            "`bridgeout sweep language`",
            _published_perplexity,
            language_runs,
        ),
    ),
)
