"""What others reach: accuracies and times of usual networks, and pruning with training afterwards."""

from collections.abc import Iterable

import pandas as pd

from ...data import TITLES
from ...runs.records import Record
from ...stats import interval
from .. import curves, published
from ..base import DIRECTION, LEAST_SEEDS, TOO_FEW, Claim, Finding, Judge, Section, not_run
from ..pruning.claims import is_whole, pruning_command


def _accuracy(model: str, dataset: str, method: str, theirs: float) -> Judge:
    """Does our longest training of this network reach the published test accuracy?"""

    def judge(records: list[Record]) -> Finding:
        whole = [r for r in records if is_whole(r, model) and not r.spec.get("cut") and "failed" not in r.metrics]
        some = [r for r in whole if (r.spec["dataset"], r.spec["method"]) == (dataset, method)]
        longest = max((r.spec["recipe"]["epochs"] for r in some), default=0)
        rows = pd.DataFrame(
            {"setting": curves.setting(r.spec), "seed": r.spec["seed"]}
            | {split: r.metrics[f"{split}_accuracy"] for split in ("valid", "test")}
            for r in some
            if r.spec["recipe"]["epochs"] == longest
        )
        if len(rows):
            rows = rows[rows.groupby("setting")["seed"].transform("nunique") >= LEAST_SEEDS]
        if not len(rows):
            return TOO_FEW
        best = rows.groupby("setting")["valid"].mean().idxmax()
        mean, low, high, n = interval(rows["test"][rows["setting"] == best])
        inside = low <= theirs <= high
        return Finding(
            f"{mean:.2f} [{low:.2f}, {high:.2f}], n = {n}",
            "reproduced" if inside else DIRECTION if low > theirs else "not reproduced",
            f"the published value lies {'in' if inside else 'below' if low > theirs else 'above'} our interval; "
            f"setting: {best}",
            f"{longest} epochs of our recipe, 45,000 training images against 50,000",
        )

    return judge


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
            )
            for title, model, dataset, method, accuracy, source in published.ACCURACIES
        ),
        *_untested(published.TIMES, "`python benchmarks/airbench.py`"),
        *_untested(published.UNTESTED),
    )


def _calculated(ours: str, same: bool) -> Judge:
    verdict = "reproduced" if same else "not reproduced"
    return lambda records: Finding(ours, verdict, "calculated from the published numbers that it is made of")


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
