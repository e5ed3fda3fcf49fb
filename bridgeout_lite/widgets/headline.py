"""The headline: what q does to the score and the sparsity of networks for images and for language, side by side."""

import dataclasses
import math
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure as Picture
from scipy import stats

from .. import data, text
from ..figures import BLUE, GREY, ORANGE, RED, panels
from ..stats import summarise
from .base import checked
from .recorded import Recorded, Table, checked_table, menu, runs_by_layer, slider

LANGUAGE = {"lstm": "LSTM", "transformer": "transformer"}
"""The language models by the name that the menu shows."""

SETS = data.TITLES | text.TITLES

MEASURES = {"Hoyer": "hoyer", "Gini": "gini"}
COLOURS = {"Hoyer": BLUE, "Gini": ORANGE}

CHOSEN = "by validation"
"""The menu's entry for the p of best validation score at each q."""

_SOURCE = "grid(records) of bridgeout_lite.studies.activations (images) or bridgeout_lite.studies.language"


@dataclasses.dataclass(frozen=True)
class _Task:
    """The runs of one network. ``rows`` has one row per run and layer, ``runs`` the first row of each run; without
    noise p is 0. ``sign`` is 1 where high scores are good."""

    rows: pd.DataFrame
    runs: pd.DataFrame
    layers: list[str]
    dataset: str
    sign: int

    def chosen(self) -> dict[Any, float]:
        """The p of best validation score for each q: the mean over the seeds that every p of this q has, so that no p
        gains from a luckier seed; of equals the lowest."""
        best: dict[Any, Any] = {}
        for q, runs in self.runs[self.runs["p"] > 0].groupby("q"):
            shared = set.intersection(*(set(part["seed"]) for _, part in runs.groupby("p")))
            if not shared:
                raise ValueError(
                    f"the runs of {runs['model'].iloc[0]} with q = {q:g} have no seed in common, so no p can be "
                    "chosen: run the sweep to its end, or leave out a p"
                )
            means = runs[runs["seed"].isin(shared)].groupby("p")["valid"].mean().to_dict()
            best[q] = max(means, key=lambda p: self.sign * means[p])
        return best

    def curve(self, p: str, value: str, layer: str | None = None) -> pd.DataFrame:
        """Columns q, p, mean, low, high, n of a column of a layer's rows, for the menu's p; nan for the interval of one
        seed."""
        rows = self.of(layer)
        table = summarise(rows[rows["p"] > 0], ["q", "p"], value)
        wanted = table["q"].map(self.chosen()) if p == CHOSEN else float(p)
        return table[table["p"] == wanted].set_index("q", drop=False)

    def of(self, layer: str | None) -> pd.DataFrame:
        """The rows of a layer, or those of the runs."""
        return self.runs if layer is None else self.rows[self.rows["layer"] == layer]


def _tasks(table: Table, sign: int) -> dict[str, _Task]:
    """The networks of a table by name, once it is known that they can be shown."""
    tasks = {}
    given = checked_table(table, ("model", "p", "q", "seed", "layer"), (), _SOURCE)
    for model, part in given.groupby("model", sort=False):
        rows, runs, layers = runs_by_layer(part, ("valid", "test", *MEASURES.values()), _SOURCE)
        name, dataset = str(model), rows["dataset"].iloc[0]
        tasks[LANGUAGE.get(name, name)] = _Task(rows, runs, layers, SETS.get(dataset, dataset), sign)
    return tasks


def pack(task: _Task) -> dict[str, Any]:
    """A task as the page needs it, in JSON values: ``layers``, ``dataset``, ``sign``, and ``runs``, one list per run of
    p, q, seed, validation and test score, then Hoyer and Gini of each layer."""
    about = {"layers": task.layers, "dataset": task.dataset, "sign": task.sign}
    scores = task.runs[["p", "q", "seed", "valid", "test"]].to_numpy(float)
    measures = task.rows[[*MEASURES.values()]].to_numpy(float).reshape(len(scores), -1)
    return about | {"runs": np.hstack([scores, measures]).tolist()}


class Headline(Recorded):
    """Recorded runs of two tasks side by side: test accuracy of an image network and test perplexity of a language
    model against q, and below each the sparsity (Hoyer and Gini) of one layer's activations. Points are means over
    seeds with 95 % Student-t intervals; a setting with one seed has a hollow point and no interval.

    The p of each q is the one of best validation score, or the same for all. What was published is the direction alone
    (images gain right of q = 2, language left of it): words in the figure, no data.

    Args:
        images: of one network, from :func:`bridgeout_lite.studies.activations.grid`.
        language: of one model or several, from :func:`bridgeout_lite.studies.language.grid`.

    Raises:
        ValueError: a table that cannot be shown (see :func:`~.recorded.runs_by_layer`); settings of p of which no seed
            is common; a control that is set to what is not recorded.
    """

    file = "headline"
    q = traitlets.Float().tag(sync=True)
    p = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Unicode().tag(sync=True)
    place = traitlets.Unicode().tag(sync=True)
    """Language model and layer, such as "LSTM: hidden.1"."""
    tasks = traitlets.Dict().tag(sync=True)
    quantiles: Any = traitlets.List().tag(sync=True)
    """Of Student's t, 97.5 %, for 2, 3, ... seeds."""
    title = traitlets.Unicode("Sparser or denser? Images and language").tag(sync=True)

    def __init__(self, images: Table, language: Table, **values: Any) -> None:
        pictures, texts = _tasks(images, 1), _tasks(language, -1)
        if len(pictures) > 1:
            raise ValueError(f"the image table is of several networks ({', '.join(pictures)}): give the rows of one")
        self._tasks = pictures | texts
        for task in self._tasks.values():
            task.chosen()  # so that a p that cannot be chosen is told now
        ((self._image, picture),) = pictures.items()
        runs = pd.concat([task.runs for task in self._tasks.values()])
        noisy = runs[runs["p"] > 0]
        exponents = sorted(noisy["q"].unique().tolist())
        places = {name: [f"{name}: {layer}" for layer in task.layers] for name, task in texts.items()}
        strengths = [CHOSEN, *(f"{p:g}" for p in sorted(noisy["p"].unique()))]
        controls = {
            "q": slider("exponent q", exponents, min(exponents, key=lambda q: abs(q - 2))),
            "p": menu("drop probability p", strengths, CHOSEN),
            "layer": menu(f"layer of {self._image}", picture.layers, picture.layers[-1]),
            "place": menu("language model: layer", chain(*places.values()), next(iter(places.values()))[-1]),
        }
        super().__init__(
            **values,
            controls=controls,
            presets={name[0].upper() + name[1:]: {"place": each[-1]} for name, each in places.items()},
            tasks={name: pack(task) for name, task in self._tasks.items()},
            quantiles=stats.t.ppf(0.975, np.arange(1, max(runs["seed"].nunique(), 2))).tolist(),
        )

    _check = checked("q", "p", "layer", "place")

    def _sides(self) -> dict[str, tuple[str, _Task, str]]:
        """By kind: the name of the network that is shown, its runs, and its layer."""
        model, _, layer = self.place.partition(": ")
        image = self._image, self._tasks[self._image], self.layer
        return {"image": image, "language": (model, self._tasks[model], layer)}

    def numbers(self) -> dict[str, float]:
        """For images and language at the present q: p, test accuracy (%) or perplexity with its 95 % interval, number
        of seeds, and mean Hoyer and Gini of the chosen layer; nan where nothing is recorded."""
        numbers: dict[str, float] = {}
        for kind, (_, task, layer) in self._sides().items():
            score = "accuracy" if task.sign > 0 else "perplexity"
            at = task.curve(self.p, "test").reindex([self.q]).iloc[0]
            columns = {"p": "p", score: "mean", "low": "low", "high": "high"}
            numbers |= {f"{kind}_{name}": float(at[column]) for name, column in columns.items()}
            numbers[f"{kind}_seeds"] = float(np.nan_to_num(at["n"]))
            for m in MEASURES.values():
                numbers[f"{kind}_{m}"] = float(task.curve(self.p, m, layer)["mean"].get(self.q, math.nan))
        return numbers

    def picture(self) -> Picture:
        fig, axes = panels(4, rows=2, width=9, height=5.6, layout="constrained")
        for side, (name, task, layer) in enumerate(self._sides().values()):
            score, sparsity, image = axes[side], axes[2 + side], task.sign > 0
            self._line(score, task, None, "test", BLUE)
            score.set(title=f"{name}, {task.dataset}: " + ("images" if image else "language"))
            score.set_ylabel("test accuracy (%)" if image else "test perplexity")
            place = {"x": 0.98, "s": "claim: better here →"} if image else {"x": 0.02, "s": "← claim: better here"}
            score.text(**place, y=0.93, transform=score.transAxes, horizontalalignment="right" if image else "left")
            for measure, column in MEASURES.items():
                self._line(sparsity, task, layer, column, COLOURS[measure], measure)
            sparsity.set(title=f"Sparsity of {layer}", ylabel="0 to 1", ylim=(0, 1))
            sparsity.legend()
            for ax in (score, sparsity):
                ax.axvline(self.q, color=RED, linewidth=1)
                ax.set(xlabel="exponent q (2 is Dropout)")
        return fig

    def _line(self, ax: Any, task: _Task, layer: str | None, value: str, colour: str, label: str | None = None) -> None:
        curve, rows = task.curve(self.p, value, layer), task.of(layer)
        half = (curve["high"] - curve["mean"]).fillna(0)
        ax.errorbar(curve["q"], curve["mean"], yerr=half, color=colour, marker="o", capsize=3, label=label)
        single = curve[curve["n"] == 1]
        ax.plot(single["q"], single["mean"], "o", markerfacecolor="white", color=colour)
        if len(quiet := rows[rows["p"] == 0][value]):
            ax.axhline(quiet.mean(), color=GREY, linestyle="--", linewidth=1)
