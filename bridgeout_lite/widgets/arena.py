"""The arena: methods against one another on one network, accuracy against the multiply-adds that are left."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import traitlets
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import LogLocator, NullLocator

from ..figures import BLUE, GREEN, GREY, ORANGE, RED, panels
from ..stats import pareto_front, summarise
from ..studies.arena.study import LABELS, TREATMENTS
from .base import checked
from .recorded import Recorded, Table, checked_table, menu, slider

NETWORKS = {"vgg11": "VGG", "resnet14": "ResNet"}
"""What the page calls the networks; another is called by its key."""

STYLES = (
    (BLUE, "o", "-"),
    (ORANGE, "s", "-"),
    (GREEN, "^", "-"),
    (RED, "D", "-"),
    ("black", "v", "-"),
    (BLUE, "s", "--"),
    (ORANGE, "o", "--"),
    (GREEN, "D", "--"),
)
"""Colour, mark and dash of the methods that are shown in colour, as many as can be told apart."""

CHOSEN = ("bridgeout", "sparseout", "none", "scratch", "random")
"""Shown in colour at first, where they are recorded."""

# Points whose multiply-adds differ by less stand at one stop of the slider.
_NEAR = 1.05

_SOURCE = "bridgeout_lite.studies.arena.standings(records), or a table with the columns that Arena's docstring names"

_POINT = ("network", "method", "treatment", "amount")
_NUMBERS = ("amount", "accuracy", "macs", "parameters")
_COSTS = ("macs", "parameters", "latency")
_MEASURED = ("accuracy", "low", "high", "n")


def _points(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each network, method, treatment and amount: accuracy (mean, low, high, n), macs and parameters (means
    over seeds); in % of the whole network's, the share of the multiply-adds, and latency (median over seeds)."""
    by = [*_POINT]
    unknown = sorted(set(frame["treatment"]) - set(TREATMENTS))
    if unknown:
        raise ValueError(f"treatment must be one of {', '.join(map(repr, TREATMENTS))}; the frame has {unknown[0]!r}")
    whole = frame[frame["amount"] == 0].groupby("network")["macs"].max()
    for network in set(frame["network"]) - set(whole.index):
        raise ValueError(f"no row of {network} has amount 0.0, the whole network, of which shares are: add its rows")
    costs = (
        frame.assign(latency=100 * frame["latency_share"])
        .groupby(by)[[*_COSTS]]
        .agg({"macs": "mean", "parameters": "mean", "latency": "median"})
    )
    table = summarise(frame, by, "accuracy").rename(columns={"mean": "accuracy"}).merge(costs.reset_index(), on=by)
    table["share"] = 100 * table["macs"] / table["network"].map(whole)
    numbers = ["accuracy", "low", "high", "share", *_COSTS]
    # seven digits are more than are shown, and half the weight of seventeen
    table[numbers] = table[numbers].map(lambda value: float(f"{value:.7g}"))
    return table


def _stops(shares: Iterable[float]) -> list[float]:
    """The budgets, in %: the largest of each group of near shares, rounded up so that it is within."""
    groups: list[list[float]] = []
    for share in sorted(shares):
        if not groups or share > _NEAR * groups[-1][0]:
            groups.append([])
        groups[-1].append(share)
    return [math.ceil(10 * group[-1] - 1e-9) / 10 for group in groups]


class Arena(Recorded):
    """Methods against one another on one network: test accuracy against the share of multiply-adds that are kept, one
    line per method, with 95 % Student-t intervals over seeds; the Pareto front of the shown methods; and all methods in
    the order of their accuracy within a budget of multiply-adds.

    Within a budget a method stands with the largest of its recorded networks that keeps it: no network is picked by its
    test accuracy. The front is so picked, and its height is that of the best of many means.

    Args:
        frame: one row per seed, as :func:`bridgeout_lite.studies.arena.study.standings` makes them, with columns
            network, method (a key), label (its name), treatment (one of ``TREATMENTS``), amount (share of the filters
            that are removed; 0.0 is the whole network), seed, accuracy (test, %), macs, parameters, latency_share
            (over the whole network's in the same run; nan where it was not measured). What was not run is not there.
        failures: why a method has no row, by its key, or by (network, key) where it failed on one network alone.
        chosen: keys of the methods that are shown in colour, at most eight; "" leaves a colour free.
        timed: on what latency was measured, in words. alone: whether the other methods are hidden.

    Raises:
        ValueError: the frame has no row, lacks a column, has a row twice, a number that is not finite, another
            treatment, or no whole network; a failure or a control is of what is not there.
    """

    file = "arena"
    data = ("chosen", "alone")
    network = traitlets.Unicode().tag(sync=True)
    treatment = traitlets.Unicode().tag(sync=True)
    budget = traitlets.Float().tag(sync=True)
    """Multiply-adds, in % of the whole network's."""
    chosen: Any = traitlets.List(traitlets.Unicode()).tag(sync=True)
    alone = traitlets.Bool(False).tag(sync=True)
    networks: Any = traitlets.List().tag(sync=True)
    """[key, name] each."""
    methods: Any = traitlets.List().tag(sync=True)
    """[key, label] each."""
    points: Any = traitlets.List().tag(sync=True)
    """Places of network, method and treatment, amount, share (%), accuracy, low, high, seeds, macs, parameters, latency
    (%) each; null where there is no interval or no latency."""
    failures: Any = traitlets.List().tag(sync=True)
    """Places of network and method, and the reason, each."""
    timed = traitlets.Unicode().tag(sync=True)
    title = traitlets.Unicode("The arena: what accuracy costs").tag(sync=True)

    def __init__(
        self,
        frame: Table,
        *,
        failures: Mapping[str | tuple[str, str], str] | None = None,
        chosen: Iterable[str] | None = None,
        **values: Any,
    ) -> None:
        frame = checked_table(frame, (*_POINT, "seed"), _NUMBERS, _SOURCE, more=("label", "latency_share"))
        table = _points(frame)
        networks = list(dict.fromkeys(frame["network"]))
        labels = dict(zip(frame["method"], frame["label"], strict=True))
        failed = []
        for key, reason in (failures or {}).items():
            where, method = (networks, key) if isinstance(key, str) else ([key[0]], key[1])
            if not {*where} <= {*networks}:
                raise ValueError(f"a failure is of network {where[0]!r}; the frame has {', '.join(networks)}")
            labels.setdefault(method, LABELS.get(method, method))
            failed += [(network, method, reason) for network in where]
        methods = list(labels)
        table["place"] = table["method"].map(methods.index)
        self._points = table.sort_values(["network", "place", "treatment", "amount"], ignore_index=True)
        treatments = [name for name in TREATMENTS if name in set(frame["treatment"])]
        stops = _stops(table["share"])
        controls = {
            "network": menu("network", networks, networks[0]),
            "treatment": menu("treatment", treatments, treatments[-1]),
            "budget": slider("budget: multiply-adds kept (%)", stops, min(stops, key=lambda stop: abs(stop - 50))),
        }
        places = {"network": networks.index, "method": methods.index, "treatment": treatments.index}
        rows = self._points.assign(**{name: self._points[name].map(place) for name, place in places.items()})
        rows = rows[[*places, "amount", "share", *_MEASURED, *_COSTS]].astype(object)
        super().__init__(
            **values,
            controls=controls,
            chosen=[key for key in CHOSEN if key in labels] if chosen is None else list(chosen),
            networks=[[key, NETWORKS.get(key, key)] for key in networks],
            methods=[[key, str(label)] for key, label in labels.items()],
            points=rows.where(rows.notna(), None).to_numpy().tolist(),
            failures=[[networks.index(network), methods.index(key), reason] for network, key, reason in failed],
        )

    _check = checked("network", "treatment", "budget")

    @traitlets.validate("chosen")
    def _check_chosen(self, proposal: traitlets.Bunch) -> list[str]:
        keys: list[str] = proposal["value"]
        known, named = [key for key, _ in self.methods], [key for key in keys if key]
        for key in named:
            if key not in known or named.count(key) > 1:
                raise ValueError(f"chosen must be of {', '.join(known)}, each once; got {key!r}")
        if len(keys) > len(STYLES):
            raise ValueError(f"at most {len(STYLES)} methods can be told apart by colour; {len(keys)} are chosen")
        return keys

    def _present(self) -> pd.DataFrame:
        """The points of the present network and treatment."""
        return self._points[(self._points["network"] == self.network) & (self._points["treatment"] == self.treatment)]

    def front(self) -> pd.DataFrame:
        """The Pareto front of the shown methods: those points that no other beats in multiply-adds and mean accuracy,
        from the smallest network to the largest."""
        rows = self._present()
        rows = rows[rows["method"].isin(self.chosen)] if self.alone else rows
        return rows.iloc[pareto_front(rows["share"], rows["accuracy"])]

    def ranking(self) -> pd.DataFrame:
        """The methods that have a network within the budget, one row each, by mean accuracy: method, label, accuracy,
        low, high (95 % interval; nan with one seed), n (seeds), amount, share (%), macs, parameters, latency (%)."""
        rows = self._present()
        rows = rows[rows["share"] <= self.budget].sort_values("share", kind="stable").groupby("method").tail(1)
        rows = rows.sort_values(["accuracy", "place"], ascending=[False, True], ignore_index=True)
        rows = rows.assign(label=rows["method"].map(dict(self.methods)))
        return rows[["method", "label", *_MEASURED, "amount", "share", *_COSTS]]

    def numbers(self) -> dict[str, float]:
        """How many methods have a network within the budget, the highest mean accuracy (%) among these with its 95 %
        interval (left out where there is none), and how many points the front has."""
        ranked = self.ranking()
        best = {name: float(ranked[name].get(0, math.nan)) for name in ("accuracy", "low", "high")}
        known = {name: value for name, value in best.items() if not math.isnan(value)}
        return {"methods": float(len(ranked))} | known | {"front": float(len(self.front()))}

    def picture(self) -> Picture:
        fig, (curves, ranks) = panels(2, width=11, height=4.6, layout="constrained")
        styles = dict(zip(self.chosen, STYLES, strict=False))
        present = dict(list(self._present().groupby("method")))
        for method in [*(key for key in self.chosen if key in present), *(key for key in present if key not in styles)]:
            rows = present[method]
            if method in styles:
                colour, marker, dash = styles[method]
                half = (rows["high"] - rows["accuracy"]).fillna(0)
                look = {"color": colour, "marker": marker, "linestyle": dash, "capsize": 2, "zorder": 3}
                curves.errorbar(rows["share"], rows["accuracy"], yerr=half, label=dict(self.methods)[method], **look)
            elif not self.alone:
                curves.plot(rows["share"], rows["accuracy"], color=GREY, alpha=0.4, linewidth=0.8, marker=".")
        front = self.front()
        curves.step(front["share"], front["accuracy"], where="post", color="black", linestyle=":", marker="")
        ring = {"marker": "o", "markersize": 9, "fillstyle": "none", "linestyle": "", "color": "black"}
        curves.plot(front["share"], front["accuracy"], **ring, label="Pareto front")
        curves.axvline(self.budget, color=RED, linewidth=1)
        name = NETWORKS.get(self.network, self.network)
        curves.set(xscale="log", xlabel="multiply-adds kept (%)", ylabel="test accuracy (%)")
        curves.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        curves.xaxis.set_major_formatter("{x:g}")
        curves.xaxis.set_minor_locator(NullLocator())
        curves.set_title(f"{name}: {self.treatment}")
        curves.legend(fontsize=8)
        ranked = self.ranking()
        colours = [styles[method][0] if method in styles else GREY for method in ranked["method"]]
        ranks.hlines(ranked.index, ranked["low"], ranked["high"], colors=colours)
        ranks.scatter(ranked["accuracy"], ranked.index, c=colours, s=20, zorder=3)
        ranks.set_yticks(ranked.index, ranked["label"])
        ranks.invert_yaxis()
        ranks.set(xlabel="test accuracy (%)", title=f"Within {self.budget:g} % of the multiply-adds")
        return fig
