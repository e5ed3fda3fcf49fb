"""Pruning explorer: what is left of recorded networks when filters go, by method, strength, treatment and amount."""

import base64
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from ..figures import BLUE, GREEN, GREY, ORANGE, RED, panels
from ..models import tied
from ..studies.curves import RELEASED
from ..studies.pruning.tables import EVERYTHING, SETTING, TREATMENTS, Comparison, rule
from .base import checked
from .recorded import Recorded, Setting, checked_table, menu, nearest, slider, squeezed

NAMES = {"none": "no noise", "dropout": "dropout", "bridgeout": "Batch Bridgeout", "sparseout": "Sparseout"}
"""What the menu calls the methods."""

COLOURS = {"no noise": GREY, "dropout": ORANGE, "Batch Bridgeout": BLUE, "Sparseout": GREEN}

BESIDE = ("other methods", "other treatments")

_SOURCE = (
    "bridgeout_lite.studies.pruning.tables.comparisons(records) of records such as "
    'bridgeout_lite.notebook.results("pruning-cifar10")'
)


class _Study:
    """A comparison as the figure looks things up in it: accuracies of all seeds by setting, treatment and amount; norms
    by setting and layer; the chosen settings by curve and method; published accuracies by method and amount."""

    def __init__(self, comparison: Comparison) -> None:
        self.tables = comparison
        rows = checked_table(comparison.curves, (*SETTING, "seed", "treatment", "amount"), ["accuracy"], _SOURCE)
        self.seeds: dict[Setting, list[int]] = {}
        self.curves: dict[Setting, dict[str, dict[float, list[float]]]] = {}
        for row in rows.to_dict("records"):
            if row["seed"] not in (seeds := self.seeds.setdefault(_setting(row), [])):
                seeds.append(row["seed"])
            treatments = self.curves.setdefault(_setting(row), {})
            treatments.setdefault(row["treatment"], {}).setdefault(row["amount"], []).append(row["accuracy"])
        for setting, treatments in self.curves.items():
            every = len(self.seeds[setting])
            for name, points in treatments.items():
                treatments[name] = {amount: own for amount, own in sorted(points.items()) if len(own) == every}
        self.norms: dict[Setting, dict[str, NDArray[Any]]] = {}
        for row in comparison.filters.to_dict("records"):
            self.norms.setdefault(_setting(row), {})[row["layer"]] = row["norms"]
        self.layers = {name: len(norms) for name, norms in next(iter(self.norms.values())).items()}
        self.costs: dict[Any, list[float]] = comparison.costs.to_dict("list")
        self.chosen = {
            curve: {NAMES[method]: Setting(NAMES[method], *strength) for method, *strength in best}
            for curve, best in comparison.chosen.items()
        }
        self.published: dict[str, dict[float, float]] = {}
        for row in comparison.published.to_dict("records"):
            self.published.setdefault(NAMES[row["method"]], {})[row["amount"]] = row["accuracy"]


def _setting(row: Mapping[Any, Any]) -> Setting:
    return Setting(NAMES[row["method"]], row["p"], row["q"], row["target"])


def pack(study: _Study) -> dict[str, Any]:
    """A comparison as the page needs it, in JSON values.

    Returns:
        ``layers`` ([name, filters, whether additions tie them to others] each); ``costs`` of the network without that
        share of its filters: amount, parameters, macs, latency (share of the whole network's, median over all runs)
        and in words how that was ``timed``; ``settings``, for each method, p, q, target: ``curves``, by treatment the
        lists amount and test (for each amount the runs' accuracies, %), and ``norms``: base64 of one byte per filter,
        layer by layer, sorted, the mean over the runs in units of the layer's largest / 255, which ``tops`` holds;
        ``chosen`` on validation images, by curve and method the place among the settings; ``scratch`` ([cut,
        accuracies] each); ``published``: by method [amount, accuracy] each, and of which ``network``.
    """
    settings = []
    for setting, curves in study.curves.items():
        known = {t: curves[t] for t in TREATMENTS if t in curves}
        tops = [max(float(norms[-1]), 1e-30) for norms in study.norms[setting].values()]
        levels = [255 * norms / top for norms, top in zip(study.norms[setting].values(), tops, strict=True)]
        settings.append(
            setting._asdict()
            | {"seeds": study.seeds[setting]}
            | {"curves": {t: {"amount": [*own], "test": [*own.values()]} for t, own in known.items()}}
            | {"tops": [float(f"{top:.4g}") for top in tops]}
            | {"norms": base64.b64encode(np.round(np.concatenate(levels)).astype(np.uint8).tobytes()).decode()}
        )
    ties, places = tied(study.tables.model), [*study.curves]
    scratch = study.tables.scratch.groupby("cut")["accuracy"]
    return {
        "layers": [[name, filters, name in ties] for name, filters in study.layers.items()],
        "costs": study.costs,
        "timed": study.tables.timed,
        "settings": settings,
        "chosen": {curve: {m: places.index(s) for m, s in best.items()} for curve, best in study.chosen.items()},
        "scratch": [[cut, own.tolist()] for cut, own in scratch],
        "published": {m: [*map(list, study.published[m].items())] for m in NAMES.values() if m in study.published},
        "network": study.tables.network,
    }


class PruningExplorer(Recorded):
    """Recorded runs of the pruning comparison: accuracy against the share of pruned filters, every recorded setting of
    every method at the chosen share, the filters of one layer sorted by norm, and the network as it thins out, with
    what it costs.

    Few settings are recorded, so p, q and target move together: the one that is moved keeps its value, the others go to
    the nearest that is recorded with it. A method of which nothing is recorded at the present p, q and target starts
    with the setting that was chosen for it on validation images.

    What is drawn of a network is what any treatment does by number: ``int(O * amount)`` of O filters fall in each
    convolution. Parameters and multiply-adds are those recorded of the smaller network; latency is the median over all
    runs of its ratio to the whole network's. Zeroed filters are still computed and save nothing.

    Args:
        comparisons: from :func:`bridgeout_lite.studies.pruning.tables.comparisons`.
        overlay: whether the published curve of the method is drawn.

    Raises:
        ValueError: no run to show; a number that is not finite; a control that is set to what is not recorded.
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

    def __init__(self, comparisons: Iterable[Comparison], **values: Any) -> None:
        self._studies = {one.name: _Study(one) for one in comparisons}
        if not self._studies:
            raise ValueError(f"no recorded run with pruning curves is here: give {_SOURCE}")
        self._following = True  # until all is in place
        first, study = next(iter(self._studies.items()))
        setting = study.chosen["zeroed"].get("Batch Bridgeout", next(iter(study.curves)))
        controls = self._controls(first, setting)
        start = {name: control["value"] for name, control in controls.items()} | {"target": setting.target}
        kept = {name: value for name, value in values.items() if name not in start}
        packed = squeezed({name: pack(one) for name, one in self._studies.items()})
        super().__init__(**start, **kept, controls=controls, packed=packed)
        self._following = False
        for name in start:  # one after the other, as a reader would
            if name in values:
                setattr(self, name, values[name])

    def _controls(self, study: str, setting: Setting) -> dict[str, Any]:
        methods = {one.method for each in self._studies.values() for one in each.curves}
        moving = self._moving(study, setting.method)
        amounts = sorted({amount for each in self._studies.values() for amount in each.costs["amount"]})
        controls: dict[str, Any] = {
            "study": menu("data set, network", self._studies, study),
            "method": menu("method", [name for name in NAMES.values() if name in methods], setting.method),
            "p": slider("drop probability p", moving["p"], setting.p),
            "q": slider("exponent q", moving["q"], setting.q),
            "target": menu("noise on", self._targets(), setting.target),
            "treatment": menu("treatment", TREATMENTS, "zeroed"),
            "amount": slider("share pruned", amounts, min(amounts, key=lambda amount: abs(amount - 0.3))),
            "layer": slider("layer", moving["layer"], len(moving["layer"]) // 2 + 1),
            "beside": menu("beside it", BESIDE, BESIDE[0]),
        }
        if len(self._targets()) == 1:
            del controls["target"]
        return controls

    def _targets(self) -> list[str]:
        targets = {one.target for each in self._studies.values() for one in each.curves}
        return sorted(targets, key=lambda target: (target != EVERYTHING, target))

    def _moving(self, study: str, method: str) -> dict[str, list[Any]]:
        """The stops of the sliders that depend on study and method."""
        own = [one for one in self._studies[study].curves if one.method == method]
        layers = [*range(1, len(self._studies[study].layers) + 1)]
        return {"p": sorted({one.p for one in own}), "q": sorted({one.q for one in own}), "layer": layers}

    _check = checked("study", "method", "p", "q", "target", "treatment", "amount", "layer", "beside")

    def stops(self, name: str) -> Iterable[Any]:
        if name == "target":
            return self._targets()
        return self._moving(self.study, self.method)[name] if name in ("p", "q", "layer") else super().stops(name)

    def hint(self, name: str) -> str:
        method = f", {self.method}" if name != "layer" else ""
        return f" ({self.study}{method})" if name in ("p", "q", "layer") else ""

    @traitlets.observe("study", "method", "p", "q", "target")
    def _follow(self, change: traitlets.Bunch) -> None:
        """Go to the nearest recorded setting."""
        if self._following:
            return
        self._following = True
        try:
            setting = self._nearest(change["name"])
            stops = self._moving(self.study, setting.method)
            layer = min(self.layer, len(self._studies[self.study].layers))
            with self.hold_sync():  # the page gets all of it at once
                self.method = setting.method
                self.controls = {k: c | ({"values": stops[k]} if k in stops else {}) for k, c in self.controls.items()}
                _, self.p, self.q, self.target = setting
                self.layer = layer
        finally:
            self._following = False

    def _setting(self) -> Setting:
        return Setting(self.method, self.p, self.q, self.target)

    def _nearest(self, moved: str) -> Setting:
        study, wanted = self._studies[self.study], self._setting()
        if wanted in study.curves:
            return wanted
        chosen = study.chosen[rule(self.treatment)]
        if moved in ("study", "method") and self.method in chosen:
            return chosen[self.method]
        return nearest(study.curves, wanted, moved)

    def numbers(self) -> dict[str, float]:
        """Test accuracy (%) over the seeds: mean, lowest, highest; what was published; filters that are left; and of
        the network that is run parameters and multiply-adds (millions) and latency (% of the whole network's). nan
        where nothing is recorded."""
        study = self._studies[self.study]
        at = study.curves[self._setting()].get(self.treatment, {}).get(self.amount, [math.nan])
        numbers: dict[str, float] = {"accuracy": statistics.fmean(at), "lowest": min(at), "highest": max(at)}
        numbers["published"] = study.published.get(self.method, {}).get(self.amount, math.nan)
        numbers["filters"] = float(sum(n - int(n * self.amount) for n in study.layers.values()))
        amount = self.amount if "removed" in self.treatment else 0.0
        for name, unit in (("parameters", 1e-6), ("macs", 1e-6), ("latency", 100)):
            costs = dict(zip(study.costs["amount"], study.costs[name], strict=True))
            numbers[name] = unit * costs.get(amount, math.nan)
        return numbers

    def picture(self) -> Picture:
        study, now = self._studies[self.study], self._setting()
        fig, (curves, norms, network) = panels(3, width=10, height=3.2, layout="constrained")

        def line(setting: Setting, treatment: str, colour: str | None, label: str, **style: Any) -> None:
            points = study.curves[setting].get(treatment, {})
            means = [statistics.fmean(values) for values in points.values()]
            curves.plot([*points], means, marker="", color=colour, label=label, **style)

        if self.beside == BESIDE[0]:
            for method, setting in study.chosen[rule(self.treatment)].items():
                if method != self.method:
                    line(setting, self.treatment, COLOURS[method], method)
        else:
            for treatment in [t for t in TREATMENTS if t != self.treatment and ":" not in t and t != RELEASED]:
                line(now, treatment, None, treatment)
        colour, label = COLOURS[self.method], self.method if self.beside == BESIDE[0] else self.treatment
        line(now, self.treatment, colour, label, linewidth=3)
        if self.overlay and (points := study.published.get(self.method)):
            label = f"published, {study.tables.network}"
            curves.plot([*points], [*points.values()], "--", color=colour, marker="", label=label)
        curves.plot(self.amount, self.numbers()["accuracy"], "o", color=RED, markersize=9)
        curves.set(xlabel="share of filters pruned", ylabel="test accuracy (%)", ylim=(0, 100), title=self.treatment)
        curves.legend()
        name = list(study.layers)[self.layer - 1]
        sizes = study.norms[now][name]
        fall = int(len(sizes) * self.amount)
        norms.bar(range(len(sizes)), sizes, width=1, color=[RED] * fall + [BLUE] * (len(sizes) - fall))
        norms.set(xlabel="filters, sorted", ylabel="L2 norm", title=f"{name}: {fall} of {len(sizes)} fall")
        for k, filters in enumerate(study.layers.values()):
            kept = filters - int(filters * self.amount)
            network.bar(k + 1, filters, bottom=-filters / 2, fill=False, edgecolor=GREY)
            network.bar(k + 1, kept, bottom=-kept / 2, color=BLUE)
        network.set(xlabel="layer", yticks=[], title=f"{self.numbers()['parameters']:.3g} M parameters are run")
        return fig
