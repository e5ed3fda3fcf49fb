"""The recorded pruning comparisons as tables, for the figure."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...data import TITLES
from ...models import family
from ...runs.records import Record
from .. import published
from ..curves import CURVES, RELEASED, choose_settings, curves_frame, setting

TREATMENTS = (*(name for name in CURVES if not name.startswith("weights")), RELEASED)
"""The recorded curves that prune filters."""

EVERYTHING = "everything"
"""The target of noise that spares no weight."""

# What a run's place in a comparison is made of; runs that differ in anything else are of different ones.
_OWN = ("method", "p", "q", "target_fraction", "target", "seed", "cut", "measures")

SETTING = ["method", "p", "q", "target"]
"""The columns that name a method and its strength."""

METHODS = ("none", "dropout", "bridgeout", "sparseout")
"""The methods in the order of the tables."""


class Comparison(NamedTuple):
    """The runs of one network on one data set with one recipe, as tables."""

    name: str
    """Data set and network, and what else it takes to tell the comparison from others."""
    dataset: str
    model: str
    curves: pd.DataFrame
    """One row per run, treatment and amount (share of the filters): the columns of ``SETTING``, seed, treatment,
    amount, accuracy (test, %)."""
    filters: pd.DataFrame
    """One row per setting and convolution: the columns of ``SETTING``, layer, norms (sorted, mean over the runs)."""
    costs: pd.DataFrame
    """One row per amount: parameters and macs of the network without these filters, latency (share of the whole
    network's, median over all runs)."""
    timed: str
    """What latency was measured on."""
    chosen: dict[str, list[tuple[Any, ...]]]
    """For "zeroed" and "removed, recalibrated": each method's setting of highest validation accuracy on that curve."""
    scratch: pd.DataFrame
    """One row per run of an untrained smaller network: cut, seed, accuracy (test, %)."""
    network: str | None
    """The network of the published curves that is of the same family."""
    published: pd.DataFrame
    """Its curves on this data set: method, amount, accuracy."""


def rule(treatment: str) -> str:
    """The curve by whose validation accuracies settings are chosen for a treatment."""
    again = "recalibrated" in treatment or "fine-tuned" in treatment
    return "removed, recalibrated" if again else "zeroed"


def accuracies(record: Record, treatment: str) -> dict[float, float]:
    """Test accuracy (%) of one run by amount. Where a curve starts later, the accuracy at amount 0 is that of the same
    network on another curve: with nothing pruned only recalibration makes a difference."""
    curves = record.metrics["pruning"]["curves"]
    lists = curves.get(treatment, {"amount": [], "test": []})
    points = dict(zip(lists["amount"], lists["test"], strict=True))
    whole = curves[rule(treatment)]
    if points and "fine-tuned" not in treatment and whole["amount"][0] == 0:
        points.setdefault(0.0, whole["test"][0])
    return dict(sorted(points.items()))


def comparisons(records: Iterable[Record]) -> list[Comparison]:
    """The comparisons that are recorded, that with most settings first. Of two equal runs the first counts."""
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], Record]] = {}
    for record in records:
        spec = record.spec
        if spec.get("cut") or "pruning" in record.metrics:
            group = groups.setdefault(tuple(sorted(_shared(spec).items(), key=str)), {})
            group.setdefault((*strength(spec), spec["seed"], spec.get("cut")), record)
    kept = [[*group.values()] for group in groups.values() if any("pruning" in r.metrics for r in group.values())]
    shared = [_shared(group[0].spec) for group in kept]
    found = [_comparison(_name(own, shared), group) for own, group in zip(shared, kept, strict=True)]
    return sorted(found, key=lambda one: -len(one.curves[SETTING].drop_duplicates()))


def _shared(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of a comparison share."""
    own = {k: v for k, v in spec.items() if k not in (*_OWN, "recipe")}
    return own | {k: tuple(v) if isinstance(v, list) else v for k, v in spec["recipe"].items()}


def _name(spec: dict[str, Any], others: list[dict[str, Any]]) -> str:
    def short(spec: Mapping[str, Any]) -> str:
        wide = "" if spec["width"] == 1 else f" × {spec['width']:g}"
        return f"{TITLES.get(spec['dataset'], spec['dataset'])}, {spec['model']}{wide}"

    twins = [other for other in others if short(other) == short(spec)]
    differ = [k for k in spec if any(other.get(k) != spec[k] for other in twins)]
    return short(spec) + "".join(f", {spec[k]} epochs" if k == "epochs" else f", {k} {spec[k]}" for k in differ)


def strength(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values of ``SETTING`` for an experiment."""
    fraction = spec.get("target_fraction", 1.0)
    target = EVERYTHING if fraction == 1 else f"{100 * fraction:g} % of {spec.get('target', 'kernels')}"
    return spec["method"], float(spec["p"]), float(spec["q"]), target


def _comparison(name: str, records: list[Record]) -> Comparison:
    small = sorted((r for r in records if r.spec.get("cut")), key=lambda r: r.spec["cut"])
    runs = [r for r in records if "pruning" in r.metrics and not r.spec.get("cut")]
    runs.sort(key=lambda r: (METHODS.index(r.spec["method"]), strength(r.spec)))
    spec, costs, origin = runs[0].spec, runs[0].metrics["pruning"]["costs"], runs[0].provenance
    rows: list[tuple[Any, ...]] = []
    norms: dict[tuple[Any, ...], list[list[float]]] = {}
    for record in runs:
        where = strength(record.spec)
        for layer, own in record.metrics["pruning"]["filters"].items():
            norms.setdefault((*where, layer), []).append(own)
        for treatment in TREATMENTS:
            for amount, accuracy in accuracies(record, treatment).items():
                rows.append((*where, record.spec["seed"], treatment, amount, accuracy))
    times = [np.array(record.provenance["latency"]["latency_ms"]) for record in runs]
    words = {setting(record.spec): strength(record.spec) for record in runs}
    frame = curves_frame(runs)
    chosen = {c: choose_settings(frame, c) for c in dict.fromkeys(map(rule, TREATMENTS))}
    network = next((one for one in published.NETWORKS if family(one) == family(spec["model"])), None)
    return Comparison(
        name=name,
        dataset=spec["dataset"],
        model=spec["model"],
        curves=pd.DataFrame(rows, columns=[*SETTING, "seed", "treatment", "amount", "accuracy"]),
        filters=pd.DataFrame(
            [(*key, np.mean(lists, axis=0)) for key, lists in norms.items()], columns=[*SETTING, "layer", "norms"]
        ),
        costs=pd.DataFrame(
            {name: costs[name] for name in ("amount", "parameters", "macs")}
            | {"latency": np.median([row / row[0] for row in times], axis=0)}
        ),
        timed=f"batches of {origin['latency']['batch']} on {origin['device']}",
        chosen={curve: [words[best[m]] for m in METHODS if m in best] for curve, best in chosen.items()},
        scratch=pd.DataFrame(
            [(r.spec["cut"], r.spec["seed"], r.metrics["test_accuracy"]) for r in small],
            columns=["cut", "seed", "accuracy"],
        ),
        network=network,
        published=_published(network, spec["dataset"]),
    )


def _published(network: str | None, dataset: str) -> pd.DataFrame:
    methods = published.METHODS if network and dataset in published.DATASETS else ()
    curves = [published.curve(str(network), dataset, method).assign(method=method) for method in methods]
    return pd.concat(curves) if curves else pd.DataFrame(columns=["method", "amount", "accuracy"])
