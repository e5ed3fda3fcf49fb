"""What others reach: accuracies and times of usual networks, and pruning with training afterwards."""

from collections.abc import Iterable

import pandas as pd

from ...data import TITLES
from ...runs.records import Record
from ...stats import interval
from .. import curves, published
from ..base import DIRECTION, LEAST_SEEDS, TOO_FEW, Claim, Finding, Judge, Section, not_run
from ..pruning.claims import pruning_command


def trained_runs(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run of a network of ``published.ACCURACIES``: dataset, model, method, width, train, epochs, setting,
    seed, valid and test (accuracies, %)."""
    networks, rows = {model for _, model, *_ in published.ACCURACIES}, []
    for record in records:
        spec, metrics = record.spec, record.metrics
        if spec["model"] in networks and "test_accuracy" in metrics and not spec.get("cut"):
            row = {k: spec[k] for k in ("dataset", "model", "method", "seed")}
            row |= {"width": spec.get("width", 1.0), "train": spec.get("train"), "epochs": spec["recipe"]["epochs"]}
            row |= {split: metrics[f"{split}_accuracy"] for split in ("valid", "test")}
            rows.append(row | {"setting": curves.setting(spec)})
    return pd.DataFrame(rows)


def _accuracy(model: str, dataset: str, method: str, theirs: float) -> Judge:
    """Does our longest training of this network reach the published test accuracy?"""

    def find(rows: pd.DataFrame) -> Finding:
        whole = (rows["model"] == model) & (rows["width"] == 1) & rows["train"].isna()
        rows = rows[whole & (rows["dataset"] == dataset) & (rows["method"] == method)]
        rows = rows[rows["epochs"] == rows["epochs"].max()]
        rows = rows[rows.groupby("setting")["seed"].transform("nunique") >= LEAST_SEEDS]
        if not len(rows):
            return TOO_FEW
        best = rows.groupby("setting")["valid"].mean().idxmax()
        gap = interval(rows["test"][rows["setting"] == best])
        inside, better = gap.low <= theirs <= gap.high, gap.low > theirs
        return Finding(
            f"{gap:.2f}, n = {gap.n}",
            "reproduced" if inside else DIRECTION if better else "not reproduced",
            f"the published value lies {'in' if inside else 'below' if better else 'above'} our interval; "
            f"setting: {best}",
            f"{rows['epochs'].iloc[0]} epochs of our recipe, 45,000 training images against 50,000",
        )

    return find


def _untested(rows: Iterable[tuple[str, str, str, str]], command: str = "-") -> tuple[Claim, ...]:
    return tuple(Claim(what, source, theirs, "-", command, not_run(why)) for what, theirs, source, why in rows)


def _anchor_claims() -> tuple[Claim, ...]:
    methods = {"none": "without noise", "dropout": "with Dropout"}
    return (
        *(
            Claim(
                f"Test accuracy of {title}, {methods[method]}, {TITLES[dataset]}: {accuracy:.2f} %",
                source,
                f"{accuracy:.2f} %",
                "-",
                pruning_command(model, dataset),
                _accuracy(model, dataset, method, accuracy),
                trained_runs,
            )
            for title, model, dataset, method, accuracy, source in published.ACCURACIES
        ),
        *_untested(published.TIMES, "`python benchmarks/airbench.py`"),
        *_untested(published.UNTESTED),
    )


def _calculated(ours: str, same: bool) -> Judge:
    verdict = "reproduced" if same else "not reproduced"
    return lambda rows: Finding(ours, verdict, "calculated from the published numbers that it is made of")


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


SECTIONS = (
    Section("Accuracies and times of usual networks", "What others reach without pruning.", _anchor_claims()),
    Section(
        "Other pruning, with training afterwards",
        "None was run. What follows from published numbers alone is calculated.",
        (*_untested(published.FINE_TUNED), *_derived_claims()),
    ),
)
