"""Pruning explorer: what is left of recorded networks when filters go, by method, strength, treatment and amount."""

import base64
import dataclasses
import itertools
import json
import math
import statistics
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from ..figures import BLUE, GREEN, GREY, ORANGE, RED, panels
from ..runs.records import Record
from ..studies import published
from ..studies.curves import CHOSEN_BY, CURVES, RELEASED, choose_settings, curves_frame, setting
from .base import Figure

METHODS = {"no noise": "none", "dropout": "dropout", "Batch Bridgeout": "bridgeout", "Sparseout": "sparseout"}
"""The methods of records, by the name that the menu shows."""

COLOURS = {"no noise": GREY, "dropout": ORANGE, "Batch Bridgeout": BLUE, "Sparseout": GREEN}

TREATMENTS = (*(name for name in CURVES if not name.startswith("weights")), RELEASED)
"""The recorded curves that prune filters."""

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits"}

EVERYTHING = "everything"
"""The target of noise that spares no weight."""

BESIDE = ("other methods", "other treatments")

# What a run's place in the figure is made of; runs that differ in anything else are of different studies.
_OWN = ("method", "p", "q", "target_fraction", "target", "seed", "cut", "measures")

_Key = tuple[str, float, float, str]
"""Method, p, q and target, as the controls have them."""


@dataclasses.dataclass
class _Study:
    """The runs on one data set and network: by setting and seed; and untrained smaller networks, by cut and seed."""

    runs: dict[_Key, dict[int, Record]]
    scratch: dict[float, dict[int, Record]]
    chosen: dict[str, dict[str, _Key]]
    """By "zeroed" or "removed, recalibrated": each method's setting of highest validation accuracy on that curve."""

    @property
    def records(self) -> list[Record]:
        return [record for seeds in self.runs.values() for record in seeds.values()]

    @property
    def layers(self) -> dict[str, int]:
        """Filters of each convolution."""
        return {name: len(norms) for name, norms in self.records[0].metrics["pruning"]["filters"].items()}

    @property
    def network(self) -> str | None:
        """The network of the published curves that is nearest to this one."""
        model = self.records[0].spec["model"]
        return next((name for name in published.NETWORKS if model[:3] == name[:3]), None)

    def overlay(self, method: str) -> dict[float, float]:
        """The published accuracies (%) of a method by amount; empty if there are none."""
        dataset, name = self.records[0].spec["dataset"], METHODS[method]
        if self.network is None or dataset not in published.DATASETS or name not in published.METHODS:
            return {}
        frame = published.curve(self.network, dataset, name)
        return dict(zip(frame["amount"], frame["accuracy"], strict=True))


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


def tied(model: str, layer: str) -> bool:
    """Whether an addition ties the layer's channels to those of others, so that they are removed together."""
    alone = layer.endswith("conv1") or (layer == "conv" and not model.startswith("resnet"))
    return model.startswith(("resnet", "wrn")) and not alone


def _key(spec: Mapping[str, Any]) -> _Key:
    method = next(name for name, value in METHODS.items() if value == spec["method"])
    fraction = spec.get("target_fraction", 1.0)
    target = EVERYTHING if fraction == 1 else f"{100 * fraction:g} % of {spec.get('target', 'kernels')}"
    return method, float(spec["p"]), float(spec["q"]), target


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of a study share."""
    own = {k: v for k, v in spec.items() if k not in (*_OWN, "recipe")}
    return own | {k: tuple(v) if isinstance(v, list) else v for k, v in spec["recipe"].items()}


def _named(specs: list[dict[str, Any]]) -> Iterator[str]:
    """A name for each study: data set and network, and what else it takes to tell it from the others."""

    def short(spec: Mapping[str, Any]) -> str:
        wide = "" if spec["width"] == 1 else f" × {spec['width']:g}"
        return f"{DATASETS.get(spec['dataset'], spec['dataset'])}, {spec['model']}{wide}"

    for spec in specs:
        twins = [other for other in specs if short(other) == short(spec)]
        differ = [k for k in spec if any(other.get(k) != spec[k] for other in twins)]
        yield short(spec) + "".join(f", {spec[k]} epochs" if k == "epochs" else f", {k} {spec[k]}" for k in differ)


def _studies(records: Iterable[Record]) -> dict[str, _Study]:
    """The runs with pruning curves by study, that with most settings first; of two equal runs the first."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if record.spec.get("cut") or "pruning" in record.metrics:
            groups.setdefault(tuple(sorted(_flat(record.spec).items(), key=str)), []).append(record)
    groups = {k: group for k, group in groups.items() if any("pruning" in r.metrics for r in group)}
    if not groups:
        raise ValueError(
            "no recorded run with pruning curves is among the records: give "
            'bridgeout_lite.notebook.results("pruning-cifar10"), or record runs with measures=("pruning",)'
        )
    studies = {}
    for name, group in zip(_named([_flat(g[0].spec) for g in groups.values()]), groups.values(), strict=True):
        study = _Study({}, {}, {})
        for record in group:
            spec = record.spec
            place: dict[int, Record] = (
                study.scratch.setdefault(spec["cut"], {})
                if spec.get("cut")
                else study.runs.setdefault(_key(spec), {})
                if "pruning" in record.metrics
                else {}
            )
            place.setdefault(spec["seed"], record)
        order = list(METHODS)
        study.runs = dict(sorted(study.runs.items(), key=lambda item: (order.index(item[0][0]), item[0][1:])))
        for (method, *_), seeds in study.runs.items():
            for seed, record in seeds.items():
                _check_run(record, study, f"{name}, {method}, {setting(record.spec)}, seed {seed}")
        words = {setting(record.spec): key for key, seeds in study.runs.items() for record in seeds.values()}
        frame = curves_frame(study.records)
        for curve in {rule(treatment) for treatment in TREATMENTS}:
            best = choose_settings(frame, curve)
            study.chosen[curve] = {m: words[best[METHODS[m]]] for m in METHODS if METHODS[m] in best}
        studies[name] = study
    return dict(sorted(studies.items(), key=lambda item: -len(item[1].runs)))


def _check_run(record: Record, study: _Study, name: str) -> None:
    """One clear line on what keeps a run from being shown."""
    try:
        kept = record.metrics["pruning"]
        layers = {layer: len(norms) for layer, norms in kept["filters"].items()}
        if not layers or layers != study.layers:
            raise ValueError("its layers are not those of the other runs")
        curves = [curve[split] for curve in kept["curves"].values() for split in curve if split != "amount"]
        numbers = [*itertools.chain(*curves, *kept["filters"].values()), *kept["costs"]["parameters"]]
        latency = record.provenance["latency"]
        numbers += [*kept["costs"]["macs"], *latency["latency_ms"]]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise ValueError("a measurement of it is not a finite number")
        lists = [(curve["amount"], curve["test"]) for curve in kept["curves"].values()]
        lists += [(kept["costs"]["amount"], kept["costs"][name]) for name in ("parameters", "macs")]
        lists.append((kept["costs"]["amount"], latency["latency_ms"]))
        if any(len(amounts) != len(values) for amounts, values in lists):
            raise ValueError("it has not one value for every amount")
        if any("valid" not in kept["curves"][curve] for curve in CHOSEN_BY):
            raise ValueError(f"its curves {', '.join(CHOSEN_BY)} were not measured on validation images")
    except (KeyError, TypeError, ValueError) as error:
        what = f"it has no entry {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"the run {name} cannot be shown: {what}; leave it out or rerun it") from error


def pack(study: _Study) -> dict[str, Any]:
    """A study as the page needs it, in JSON values.

    Returns:
        ``layers`` ([name, filters, tied to others] each); ``costs`` of the network without so many filters: amount,
        parameters, macs, latency (share of the whole network's, median over all runs) and in words how that was
        ``timed``; ``settings``, for each method, p, q, target: ``curves``, by treatment the lists amount and test (for
        each amount the runs' accuracies, %), and ``norms``: base64 of a byte a filter, layer by layer, sorted, the mean
        over the runs in units of the layer's largest / 255, which ``tops`` holds; ``chosen``, see :class:`_Study`, as
        places among the settings; ``scratch`` ([cut, accuracies] each); ``published``: by method [amount, accuracy]
        each, and of which ``network``.
    """
    model, layers, records = study.records[0].spec["model"], study.layers, study.records
    settings = []
    for key, seeds in study.runs.items():
        runs = list(seeds.values())
        curves = {}
        for treatment in TREATMENTS:
            points = [accuracies(run, treatment) for run in runs]
            shared = [amount for amount in points[0] if all(amount in other for other in points)]
            if shared:
                curves[treatment] = {"amount": shared, "test": [[p[amount] for p in points] for amount in shared]}
        norms = [_norms(runs, layer) for layer in layers]
        tops = [max(float(values[-1]), 1e-30) for values in norms]
        levels = [np.round(255 * values / top).astype(np.uint8) for values, top in zip(norms, tops, strict=True)]
        settings.append(
            dict(zip(("method", "p", "q", "target"), key, strict=True))
            | {"seeds": list(seeds), "curves": curves, "tops": [float(f"{top:.4g}") for top in tops]}
            | {"norms": base64.b64encode(np.concatenate(levels).tobytes()).decode()}
        )
    costs, timed = records[0].metrics["pruning"]["costs"], records[0].provenance
    places = list(study.runs)
    return {
        "layers": [[name, filters, tied(model, name)] for name, filters in layers.items()],
        "costs": {name: costs[name] for name in ("amount", "parameters", "macs")} | {"latency": _latency(records)},
        "timed": f"batches of {timed['latency']['batch']} on {timed['device']}",
        "settings": settings,
        "chosen": {curve: {m: places.index(k) for m, k in best.items()} for curve, best in study.chosen.items()},
        "scratch": [[c, [r.metrics["test_accuracy"] for r in s.values()]] for c, s in sorted(study.scratch.items())],
        "published": {m: [list(point) for point in study.overlay(m).items()] for m in METHODS if study.overlay(m)},
        "network": study.network,
    }


def _norms(runs: list[Record], layer: str) -> NDArray[Any]:
    """Sorted norms of a layer's filters, mean over runs."""
    norms: NDArray[Any] = np.mean([run.metrics["pruning"]["filters"][layer] for run in runs], axis=0)
    return norms


def _latency(records: Iterable[Record]) -> list[float]:
    """Share of the whole network's latency, by amount: the median over runs."""
    times = [np.array(record.provenance["latency"]["latency_ms"]) for record in records]
    shares: list[float] = np.median([row / row[0] for row in times], axis=0).tolist()
    return shares


class PruningExplorer(Figure):
    """Recorded runs of the pruning comparison: accuracy against the share of pruned filters, every recorded setting of
    every method at the chosen share, the filters of one layer sorted by norm, and the network as it thins out, with
    what it costs.

    A treatment is a recorded curve (see ``studies.curves``) that prunes filters; those that prune single
    weights are not in this figure. Few settings are recorded, so p, q and target move together: the one that is moved
    keeps its value, the others go to the nearest that is recorded with it. A method of which nothing is recorded at the
    present p, q and target starts with the setting that was chosen for it on validation images.

    What is drawn of a network is what any treatment does by number: ``int(O * amount)`` of O filters fall in each
    convolution. Parameters and multiply-adds are those recorded of the smaller network; latency is the median over all
    runs of its ratio to the whole network's. Zeroed filters are still computed and save nothing.

    Args:
        records: runs with ``measures=("pruning",)``, of one or several data sets, networks and recipes; untrained
            smaller networks (``cut`` > 0) are shown as points; other runs are left out.

    Attributes:
        overlay: whether the published curve of the method is drawn.

    Raises:
        ValueError: no run to show; a run that lacks a measurement or has one that is not a finite number; a control
            that is set to what is not recorded.
    """

    file = "pruning_explorer"
    data = ("overlay",)
    study = traitlets.Unicode().tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)
    p = traitlets.Float().tag(sync=True)
    q = traitlets.Float().tag(sync=True)
    target = traitlets.Unicode().tag(sync=True)
    treatment = traitlets.Unicode().tag(sync=True)
    amount = traitlets.Float().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    beside = traitlets.Unicode().tag(sync=True)
    overlay = traitlets.Bool(True).tag(sync=True)
    packed = traitlets.Bytes().tag(sync=True)
    title = traitlets.Unicode("What is left when filters go").tag(sync=True)
    presets = traitlets.Dict(
        {
            "As published": {"treatment": "zeroed"},
            "Removed": {"treatment": "removed"},
            "Recalibrated": {"treatment": "removed, recalibrated"},
        }
    ).tag(sync=True)
    controls = traitlets.Dict({}).tag(sync=True)

    def __init__(self, records: Iterable[Record], **values: Any) -> None:
        self._studies = _studies(records)
        self._following = True  # until all is in place
        first = next(iter(self._studies))
        study = self._studies[first]
        chosen = study.chosen["zeroed"]
        key = chosen.get("Batch Bridgeout", next(iter(study.runs)))
        controls = self._controls(first, key)
        start = {name: control["value"] for name, control in controls.items()} | {"target": key[3]}
        kept = {name: value for name, value in values.items() if name not in start}
        packed = json.dumps({name: pack(one) for name, one in self._studies.items()}, separators=(",", ":"))
        super().__init__(**start, **kept, controls=controls, packed=zlib.compress(packed.encode(), 9))
        self._following = False
        for name in start:  # one after the other, as a reader would
            if name in values:
                setattr(self, name, values[name])

    def _controls(self, study: str, key: _Key) -> dict[str, Any]:
        keys = [place for each in self._studies.values() for place in each.runs]
        methods = [name for name in METHODS if any(name == method for method, *_ in keys)]
        targets = self._targets()
        amounts = sorted(
            {a for s in self._studies.values() for a in s.records[0].metrics["pruning"]["costs"]["amount"]}
        )
        middle = min(amounts, key=lambda amount: abs(amount - 0.3))
        controls: dict[str, Any] = {
            "study": {"label": "data set, network", "options": list(self._studies), "value": study},
            "method": {"label": "method", "options": methods, "value": key[0]},
            "p": {"label": "drop probability p", "value": key[1]},
            "q": {"label": "exponent q", "value": key[2]},
            "target": {"label": "noise on", "options": targets, "value": key[3]},
            "treatment": {"label": "treatment", "options": list(TREATMENTS), "value": "zeroed"},
            "amount": {"label": "share pruned", "values": amounts, "value": middle},
            "layer": {"label": "layer", "value": len(self._studies[study].layers) // 2 + 1},
            "beside": {"label": "beside it", "options": list(BESIDE), "value": BESIDE[0]},
        }
        if len(targets) == 1:
            del controls["target"]
        for name, stops in self._stops(study, key[0]).items():
            controls[name]["values"] = stops
        return controls

    def _targets(self) -> list[str]:
        targets = {target for study in self._studies.values() for *_, target in study.runs}
        return sorted(targets, key=lambda target: (target != EVERYTHING, target))

    def _stops(self, study: str, method: str) -> dict[str, list[float]]:
        """What the sliders that depend on study and method may be."""
        keys = [key for key in self._studies[study].runs if key[0] == method]
        layers = range(1, len(self._studies[study].layers) + 1)
        return {"p": sorted({p for _, p, _, _ in keys}), "q": sorted({q for _, _, q, _ in keys}), "layer": list(layers)}

    @traitlets.validate("study", "method", "p", "q", "target", "treatment", "amount", "layer", "beside")
    def _check(self, proposal: traitlets.Bunch) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        where = ""
        if name in ("p", "q", "layer"):
            allowed: list[Any] = self._stops(self.study, self.method)[name]
            where = f" ({self.study})" if name == "layer" else f" ({self.study}, {self.method})"
        elif name == "target":
            allowed = self._targets()
        else:
            allowed = self.controls[name].get("values") or self.controls[name]["options"]
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}{where}; got {value!r}")
        return value

    @traitlets.observe("study", "method", "p", "q", "target")
    def _follow(self, change: traitlets.Bunch) -> None:
        """Go to the nearest recorded setting."""
        if self._following:
            return
        self._following = True
        try:
            key = self._nearest(change["name"])
            stops = self._stops(self.study, key[0])
            layer = min(self.layer, len(self._studies[self.study].layers))
            with self.hold_sync():  # the page hears of all of it at once
                self.method = key[0]
                self.controls = {k: c | ({"values": stops[k]} if k in stops else {}) for k, c in self.controls.items()}
                _, self.p, self.q, self.target = key
                self.layer = layer
        finally:
            self._following = False

    def _nearest(self, moved: str) -> _Key:
        study = self._studies[self.study]
        now: dict[str, Any] = {k: getattr(self, k) for k in ("method", "p", "q", "target")}
        if tuple(now.values()) in study.runs:
            return self.method, self.p, self.q, self.target
        chosen = study.chosen[rule(self.treatment)]
        if moved in ("study", "method") and self.method in chosen:
            return chosen[self.method]

        def distance(key: _Key) -> tuple[Any, ...]:
            there: dict[str, Any] = dict(zip(now, key, strict=True))
            stayed = there.get(moved) == now.get(moved)
            far = abs(math.log((there["p"] + 1e-3) / (now["p"] + 1e-3))) + abs(there["q"] - now["q"])
            return there["method"] != now["method"], not stayed, far, there["target"] != now["target"]

        return min(study.runs, key=distance)

    def _now(self) -> tuple[_Study, list[Record]]:
        study = self._studies[self.study]
        return study, list(study.runs[self.method, self.p, self.q, self.target].values())

    def numbers(self) -> dict[str, float]:
        """Test accuracy (%) over the seeds: mean, lowest, highest; what was published; filters that are left; and of
        the network that is run parameters and multiply-adds (millions) and latency (% of the whole network's). nan
        where nothing is recorded."""
        study, runs = self._now()
        at = [accuracies(run, self.treatment).get(self.amount, math.nan) for run in runs]
        numbers: dict[str, float] = {"accuracy": statistics.fmean(at), "lowest": min(at), "highest": max(at)}
        numbers["published"] = study.overlay(self.method).get(self.amount, math.nan)
        numbers["filters"] = float(sum(n - int(n * self.amount) for n in study.layers.values()))
        costs = runs[0].metrics["pruning"]["costs"] | {"latency": _latency(study.records)}
        amount = self.amount if "removed" in self.treatment else 0.0
        for name, unit in (("parameters", 1e-6), ("macs", 1e-6), ("latency", 100)):
            of = dict(zip(costs["amount"], costs[name], strict=True))
            numbers[name] = unit * of.get(amount, math.nan)
        return numbers

    def picture(self) -> Picture:
        study, runs = self._now()
        fig, (curves, norms, network) = panels(3, width=10, height=3.2, layout="constrained")
        for method, key in study.chosen[rule(self.treatment)].items():
            if method != self.method and self.beside == BESIDE[0]:
                self._line(curves, list(study.runs[key].values()), self.treatment, COLOURS[method], method)
        if self.beside == BESIDE[1]:
            for treatment in [t for t in TREATMENTS if t != self.treatment and ":" not in t and t != RELEASED]:
                self._line(curves, runs, treatment, None, treatment)
        label = self.method if self.beside == BESIDE[0] else self.treatment
        self._line(curves, runs, self.treatment, COLOURS[self.method], label, linewidth=3)
        if self.overlay and (points := study.overlay(self.method)):
            label = f"published, {study.network}"
            curves.plot(list(points), list(points.values()), "--", color=COLOURS[self.method], marker="", label=label)
        curves.plot(self.amount, self.numbers()["accuracy"], "o", color=RED, markersize=9)
        curves.set(xlabel="share of filters pruned", ylabel="test accuracy (%)", ylim=(0, 100), title=self.treatment)
        curves.legend()
        name = list(study.layers)[self.layer - 1]
        sizes = _norms(runs, name)
        fall = int(len(sizes) * self.amount)
        norms.bar(range(len(sizes)), sizes, width=1, color=[RED] * fall + [BLUE] * (len(sizes) - fall))
        norms.set(xlabel="filters, sorted", ylabel="L2 norm", title=f"{name}: {fall} of {len(sizes)} fall")
        for k, filters in enumerate(study.layers.values()):
            kept = filters - int(filters * self.amount)
            network.bar(k + 1, filters, bottom=-filters / 2, fill=False, edgecolor=GREY)
            network.bar(k + 1, kept, bottom=-kept / 2, color=BLUE)
        network.set(xlabel="layer", yticks=[], title=f"{self.numbers()['parameters']:.3g} M parameters are run")
        return fig

    @staticmethod
    def _line(axes: Any, runs: list[Record], treatment: str, colour: str | None, label: str, **style: Any) -> None:
        points = [accuracies(run, treatment) for run in runs]
        shared = [amount for amount in points[0] if all(amount in other for other in points)]
        means = [statistics.fmean(p[amount] for p in points) for amount in shared]
        axes.plot(shared, means, marker="", color=colour, label=label, **style)
