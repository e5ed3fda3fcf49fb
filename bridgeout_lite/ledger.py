"""The ledger: each claim beside what we measured, with spread, verdict and reason.

A claim is judged by a function of the records or of exact computation, never by hand. ``bridgeout report`` writes the
page ``book/ledger.md`` from :func:`ledger_page`, ``bridgeout check`` recomputes one row (:func:`check_claim`). The rows
stand with the studies that decide them, in the order of ``studies.STUDIES``; the published numbers in
:mod:`bridgeout_lite.studies.published`.
"""

import dataclasses
import difflib
import html
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from .runs.records import Record, Store, fingerprint
from .studies import STUDIES
from .studies.base import KINDS, OVERFITS, VERDICTS, Claim, Section, Study, findings

SECTIONS: tuple[Section, ...] = tuple(section for study in STUDIES.values() for section in study.sections)

CLAIMS: tuple[Claim, ...] = tuple(claim for section in SECTIONS for claim in section.claims)

_HOW = f"""\
A row is one claim: what a paper says or what this book asks, what we measured, and the verdict that follows from it.

- **Ours** is a mean, or the range of several, with the 95 % interval over *n* seeds; *exact* where there is no chance.
- **Holds**: the whole interval lies on the claimed side, for the published network. *In direction*: for another
  network, or where no number is published.
- **Contradicted**: the whole interval lies on the other side, or below the smallest effect that matters.
- **Undecided**: it holds both, or the test could not have decided; the details say which. Most rows end here, and
  that is no verdict on a paper.
- The smallest effect that *n* seeds could show is half the width of the interval.
- A claim on regularisation is judged only where the network without the method overfits, by {OVERFITS:g} points at
  least.
- *Details* has all numbers, the reason, and a permanent link that ends in the row's name. `bridgeout check NAME`
  computes the row again from the records, `bridgeout check NAME --rerun` repeats its cheapest run.
"""

# Said at the end of the page.
_LEFT_OUT = (
    "Published numbers without a row, because nothing here tests them: accuracies and speed runs of usual networks; "
    "networks that others pruned and trained on (HRank, DepGraph, OICSR on ImageNet); the error rates of Dropout, "
    "DropConnect and variational dropout on MNIST and SVHN; the counts of the survey behind ShrinkBench. Tables of the "
    "papers on Sparseout, Bridgeout, feature flow, nonconvex group sparsity and OICSR on CIFAR are not known to us."
)


def ledger_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row per claim: slug, section, kind, paper, claim, source, published, scale, command, and the fields of its
    :class:`~.studies.base.Finding`."""
    records = [record for record in records if "failed" not in record.metrics]  # it diverged: nothing was measured
    titles = [section.title for section in SECTIONS for _ in section.claims]
    rows = []
    for title, claim, finding in zip(titles, CLAIMS, findings(CLAIMS, records), strict=True):
        names = ("slug", "kind", "paper", "claim", "source", "published", "scale", "command")
        found = {k: v for k, v in dataclasses.asdict(finding).items() if v is not None}
        rows.append({"section": title} | {name: getattr(claim, name) for name in names} | found)
    return pd.DataFrame(rows)


def state(table: pd.DataFrame) -> str:
    """How many claims of each kind have which verdict, in one sentence."""
    parts = []
    for kind in KINDS:
        counts = table["verdict"][table["kind"] == kind].value_counts()
        if len(counts):
            verdicts = ", ".join(f"{counts[v]} {v.replace('holds', 'hold')}" for v in VERDICTS if v in counts)
            parts.append(f"**{counts.sum()}** {PLURALS[kind]}: {verdicts}")
    return "; ".join(parts) + "."


PLURALS = dict(zip(KINDS, ("published claims", "of mathematics", "questions of this book"), strict=True))

_COLUMNS = ("claim", "paper", "published", "ours", "n", "verdict")


def ledger_page(records: Iterable[Record]) -> str:
    """The page ``book/ledger.md``: one table that ``ledger.js`` filters, readable without it."""
    records = [*records]
    table = ledger_table(records)
    evidence = {claim.slug: _evidence(study) for study in STUDIES.values() for claim in study.claims}
    body = []
    for section in SECTIONS:
        rows = table[table["section"] == section.title].to_dict("records")
        heading = f"<b>{_html(section.title)}.</b> {_html(section.text)}"
        body.append(f'<tbody class="section"><tr><th colspan="6" scope="rowgroup">{heading}</th></tr></tbody>')
        body += [_row(row, evidence[row["slug"]]) for row in rows]
    return "\n".join(
        [
            "---",
            "html_theme.sidebar_secondary.remove: true",  # the table needs the width
            "---",
            "# The ledger",
            "",
            "<!-- Written by `bridgeout report` from results/; do not edit. -->",
            "",
            _HOW,
            state(table),
            "",
            "```{raw} html",
            '<div id="ledger-filter" role="search" aria-label="Filter the ledger" hidden></div>',
            '<table class="ledger" id="ledger">',
            "<thead><tr>" + "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS) + "</tr></thead>",
            *body,
            "</table>",
            '<script src="../_static/ledger.js" defer></script>',
            "```",
            "",
            "## Numbers without a row",
            "",
            _LEFT_OUT,
            "",
        ]
    )


def _row(row: dict[Any, Any], evidence: str) -> str:
    """One claim: the cells, and the details that fold behind its name."""
    run = row["verdict"] != "not run"
    ours = row["short"] or row["ours"]
    details = {
        "measured": row["ours"] if row["short"] else "",
        "why": row["reason"],
        "smallest effect that n seeds could show": row["smallest"],
        "networks and data": row["scale"],
        "evidence": evidence if run else "",
        "source": row["source"],
        "run again": row["command"],
        "compute again": f"`bridgeout check {row['slug']}`" if run else "",
    }
    told = "".join(f"<dt>{k}</dt><dd>{_html(v)}</dd>" for k, v in details.items() if v not in ("", "-"))
    cells = {
        "claim": _html(row["claim"]),
        "paper": _html(row["paper"]),
        "published": _html(row["published"]),
        "ours": _html(ours if run else ""),
        "n": str(row["n"] or ("exact" if row["kind"] == KINDS[1] else "")),
        "verdict": row["verdict"],
    }
    marked = "".join(f'<td class="{name}" data-label="{name}">{cells[name]}</td>' for name in _COLUMNS)
    link = f'<a href="#{row["slug"]}">link to this row</a>'
    folded = f'<td colspan="6"><details><summary>details</summary><dl>{told}</dl>{link}</details></td>'
    about = f'data-verdict="{row["verdict"]}" data-kind="{row["kind"]}" data-paper="{html.escape(row["paper"])}"'
    return f'<tbody id="{row["slug"]}" {about}><tr>{marked}</tr><tr class="more">{folded}</tr></tbody>'


def _html(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))


def _evidence(study: Study) -> str:
    """The recorded runs behind a study's claims: how many, how long, on what."""
    about = [record.provenance for record in study.evidence()]
    if not about:
        return ""
    minutes = sum(p.get("seconds") or 0.0 for p in about) / 60
    where = ", ".join(sorted({str(p["device"]) for p in about if p.get("device")}))
    return f"{len(about)} runs, {minutes:.0f} minutes in all, on {where}"


# --- one row, again ---------------------------------------------------------------------------------------------------


def find_claim(slug: str) -> tuple[Study, Claim]:
    """The claim of this name, and its study.

    Raises:
        ValueError: no such claim; the message lists the names most like it.
    """
    known = {claim.slug: (study, claim) for study in STUDIES.values() for claim in study.claims}
    if slug not in known:
        like = ", ".join(difflib.get_close_matches(slug, known, n=5, cutoff=0.0))
        raise ValueError(f"no claim is called {slug!r}; names like it are {like}: see book/ledger.md for all of them")
    return known[slug]


def check_claim(slug: str, *, rerun: bool = False, run: Callable[..., list[Record]] | None = None) -> Iterator[str]:
    """What ``bridgeout check`` prints, line by line: the row computed again from the records and, with ``rerun``, its
    cheapest run repeated in a scratch store beside what is recorded of it.

    Args:
        slug: the claim's name. run: ``run(experiments, store)``, such as :func:`bridgeout_lite.sweep`.

    Raises:
        ValueError: no such claim; a rerun of one that no recorded run decides.
    """
    study, claim = find_claim(slug)
    records = study.evidence()
    found = claim.judge(records)
    yield f"{claim.claim}\n  source     {claim.source}\n  published  {claim.published}"
    yield f"  ours       {found.ours}\n  n          {found.n or '-'}\n  verdict    {found.verdict}: {found.reason}"
    if not rerun:
        return
    used = runs_of(claim, records) or records
    known = {fingerprint(e.spec): e for make in study.sweeps.values() for e in _experiments(make, records)}
    used = [record for record in used if record.key in known]
    if run is None or not used:
        raise ValueError(f"no recorded run decides {slug!r}, so there is none to repeat: leave --rerun out")
    old = min(used, key=lambda record: record.provenance.get("seconds") or float("inf"))
    seconds = old.provenance.get("seconds", 0)
    yield f"repeating the cheapest of its {len(used)} runs, {seconds:.0f} s when it was recorded"
    with tempfile.TemporaryDirectory() as folder:
        (new,) = run([known[old.key]], Store(Path(folder) / "again.jsonl"))
    shared = [k for k, v in old.metrics.items() if isinstance(v, float) and isinstance(new.metrics.get(k), float)]
    for name in shared:
        alike = [r.metrics[name] for r in used if _but_seed(r.spec) == _but_seed(old.spec)]
        yield (
            f"  {name:15} recorded {old.metrics[name]:.4g}, now {new.metrics[name]:.4g}; "
            f"over {len(alike)} seeds {min(alike):.4g} to {max(alike):.4g}"
        )
    same = all(new.metrics[name] == old.metrics[name] for name in shared or old.metrics)
    yield "the same to the last digit" if same else "not the same: another processor or version, as a rule"


def runs_of(claim: Claim, records: Iterable[Record]) -> list[Record]:
    """The records that give the claim's table a row."""
    if claim.table is None:
        return []
    return [record for record in records if len(claim.table([record]))]


def _experiments(make: Callable[..., Iterable[Any]], records: list[Record]) -> Iterable[Any]:
    from .studies.adaptive import Adaptive

    return make(records) if isinstance(make, Adaptive) else make()


def _but_seed(spec: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in spec.items() if k != "seed"}
