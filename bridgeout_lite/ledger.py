"""The reproduction ledger: each published claim beside what we measured, with spread, verdict and reason.

A claim is judged by a function of the records or of exact computation, never by hand. ``bridgeout report`` writes the
page ``book/ledger.md`` from :func:`ledger_page`. The rows stand with the studies that decide them, in the order of
``studies.STUDIES``; the published numbers in :mod:`bridgeout_lite.studies.published`.
"""

import dataclasses
from collections.abc import Iterable

import pandas as pd

from .runs.records import Record
from .studies import STUDIES
from .studies.base import VERDICTS, Claim, Section, findings

SECTIONS: tuple[Section, ...] = tuple(section for study in STUDIES.values() for section in study.sections)

CLAIMS: tuple[Claim, ...] = tuple(claim for section in SECTIONS for claim in section.claims)

# Said at the end of the page.
_LEFT_OUT = (
    "Published numbers known to us that have no row, because nothing here can test them: the error rates of Dropout, "
    "DropConnect and variational dropout on MNIST and SVHN; the counts of the survey behind ShrinkBench. Tables of "
    "the papers on Sparseout, Bridgeout, feature flow, nonconvex group sparsity and OICSR on CIFAR were not available "
    "to us."
)


def ledger_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row per claim: slug, section, claim, source, published, ours, verdict, reason, scale, command."""
    records = [record for record in records if "failed" not in record.metrics]  # it diverged: nothing was measured
    titles = [section.title for section in SECTIONS for _ in section.claims]
    rows = []
    for title, claim, finding in zip(titles, CLAIMS, findings(CLAIMS, records), strict=True):
        row = {k: getattr(claim, k) for k in ("slug", "claim", "source", "published", "scale", "command")}
        found = {k: v for k, v in dataclasses.asdict(finding).items() if v is not None}
        rows.append({"section": title} | row | found)
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
    for section in SECTIONS:
        rows = table[table["section"] == section.title].to_dict("records")
        lines += [
            f"## {section.title}",
            "",
            section.text,
            "",
            "| claim | verdict |",
            "| --- | --- |",
            *(f"| {_cell(row['claim'])} | [{row['verdict']}](#{row['slug']}) |" for row in rows),
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
                f"({row['slug']})=",
                f"### {row['claim']}",
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
