"""Sparsity in language models: what the hidden states are like, and what the perplexity wants."""

from collections.abc import Iterable

import pandas as pd

from ...runs.records import Record
from ...stats import interval, paired_difference, points
from .. import published
from ..base import DIRECTION, LEAST_SEEDS, NO_NUMBER, TOO_FEW, Claim, Finding, Judge, Section
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
    """Of rows of :func:`small_language_runs`, one or more a run: under Sparseout, and for each q at the p that its
    search chose (:func:`bridgeout_lite.studies.language.study.tuned`)."""
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
            return TOO_FEW
        loss = rows.groupby("q")["valid_loss"].mean().to_dict()
        sparse, dense = (min(side, key=loss.__getitem__) for side in ([1.0, 1.25, 1.5], [2.5, 3.0]))
        gaps = {q: paired_difference(rows, "test_perplexity", sparse, q) for q in (2.0, dense)}
        edge = sorted(set(rows["q"][rows["p"].isin((min(SEARCHED_P), max(SEARCHED_P)))]))
        lines = [f"minus q={q:g}: {points(gap)}" for q, gap in gaps.items()]
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
            DIRECTION if better == len(gaps) else "not reproduced",
            f"of two intervals {better} lie on the claimed side of zero and {worse} on the other; {reason}",
        )

    return judge


def _sparser_states(places: tuple[str, ...], model: str) -> Judge:
    """Are Hoyer and Gini higher at q = 1 than at q = 3, in every place?"""

    def judge(records: list[Record]) -> Finding:
        rows = at_tuned(layers_frame(small_language_runs(records, model)), records, model)
        if not _all_seeds(rows):
            return TOO_FEW
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
            DIRECTION if as_claimed == len(gaps) else "not reproduced",
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
        return TOO_FEW
    mean, low, high, n = interval(rows["test_perplexity"])
    theirs = [value for _, value in published.PTB_PERPLEXITIES]
    off = ", ".join(f"{100 * (mean / value - 1):+.1f} %" for value in theirs)
    reason = f"against the published values {off}, at other budgets"
    if n < LEAST_SEEDS:
        return Finding(
            f"{mean:.1f}, n = {n}",
            "not run",
            f"fewer than {LEAST_SEEDS} seeds, so no interval and no verdict; {reason}",
        )
    ours = f"{mean:.1f} [{low:.1f}, {high:.1f}], n = {n}"
    return Finding(ours, DIRECTION if low <= max(theirs) else "not reproduced", reason)


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
            )
            for name, model, also in (("LSTM", "lstm", ""), ("transformer", "transformer", _TRANSFORMER))
        ),
        *(
            Claim(
                f"Hidden states of a language model are sparser at q = 1 than at q = 3: {name}",
                "README of the released Sparseout code, on activations in general",
                NO_NUMBER,
                _LANGUAGE,
                "`bridgeout sweep language`",
                _sparser_states(places, model),
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
        ),
    ),
)
