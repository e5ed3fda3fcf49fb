"""The reproduction ledger: each published claim beside what we measured, with spread, verdict and reason.

A claim is judged by a function of the records or of exact computation, never by hand. ``bridgeout report`` writes the
page ``book/ledger.md`` from :func:`ledger_page`. The published numbers stand in
:mod:`bridgeout_lite.studies.published`, the rows in one module per group of papers: a new paper is one more
:class:`Section`, and stands in ``SECTIONS``.
"""

import dataclasses
from collections.abc import Iterable

import pandas as pd

from .runs.records import Record
from .stats import interval, paired_difference
from .studies.activations import claims as activations
from .studies.activations.claims import image_rows
from .studies.arena import claims as arena
from .studies.base import LEAST_SEEDS, VERDICTS, Claim, Finding, Judge, Section
from .studies.evolution import claims as evolution
from .studies.explanations import claims as explanations
from .studies.feature_flow import claims as flow
from .studies.language import claims as language
from .studies.language.claims import at_tuned, small_language_runs
from .studies.literature import others, sizes, theory
from .studies.pruning import claims as pruning
from .studies.structured_output import claims as structured_output

__all__ = [
    "CLAIMS",
    "LEAST_SEEDS",
    "SECTIONS",
    "VERDICTS",
    "Claim",
    "Finding",
    "Judge",
    "Section",
    "at_tuned",
    "image_rows",
    "interval",
    "ledger_page",
    "ledger_table",
    "paired_difference",
    "small_language_runs",
    "state",
]

# In the order of the page. Chapter 4 calls its verdicts rows 4 to 7: what is new goes behind them.
SECTIONS: tuple[Section, ...] = (
    theory.SECTION,
    activations.SECTION,
    language.SECTION,
    pruning.SECTION,
    *sizes.SECTIONS,
    *others.SECTIONS,
    theory.OLDER,
    flow.SECTION,
    arena.SECTION,
    evolution.SECTION,
    structured_output.SECTION,
    explanations.SECTION,
)

CLAIMS = tuple(claim for section in SECTIONS for claim in section.claims)

# Said at the end of the page.
_LEFT_OUT = (
    "Published numbers known to us that have no row, because nothing here can test them: the error rates of Dropout, "
    "DropConnect and variational dropout on MNIST and SVHN; the counts of the survey behind ShrinkBench. Tables of "
    "the papers on Sparseout, Bridgeout, feature flow, nonconvex group sparsity and OICSR on CIFAR were not available "
    "to us."
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
