"""The headline: what q does to the score and the sparsity of networks for images and for language, side by side."""

import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure as Picture
from scipy import stats

from ..figures import BLUE, GREY, ORANGE, RED, panels
from ..runs.records import Record
from ..stats import summarise
from .base import Figure

IMAGES = "smallcnn"
"""The image network whose runs are shown."""

LANGUAGE = {"lstm": "LSTM", "transformer": "transformer"}
"""The language models whose runs are shown, by the name that the menu shows."""

SETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "ptb": "Penn Treebank",
    "wikitext-2": "WikiText-2",
    "tinyshakespeare": "tiny Shakespeare",
    "python-manual": "the Python manual",
}

MEASURES = {"Hoyer": "hoyer", "Gini": "gini"}
COLOURS = {"Hoyer": BLUE, "Gini": ORANGE}

CHOSEN = "by validation"
"""The menu's entry for the p of best validation score at each q."""


@dataclasses.dataclass(frozen=True)
class _Task:
    """The runs of one network. ``rows`` has a row a run, with p, q, seed, valid, test (accuracy in %, or perplexity)
    and "LAYER hoyer", "LAYER gini" for each layer; without noise p is 0. ``sign`` is 1 where high scores are good."""

    rows: pd.DataFrame
    layers: list[str]
    dataset: str
    sign: int

    def chosen(self) -> dict[Any, float]:
        """The p of best validation score for each q: the mean over the seeds that every p of this q has, so that no p
        gains from a luckier seed; of equals the lowest."""
        best: dict[Any, Any] = {}
        for q, rows in self.rows[self.rows["p"] > 0].groupby("q"):
            shared = set.intersection(*(set(part["seed"]) for _, part in rows.groupby("p")))
            means = rows[rows["seed"].isin(shared)].groupby("p")["valid"].mean().to_dict()
            best[q] = max(means, key=lambda p: self.sign * means[p])
        return best

    def curve(self, p: str, value: str) -> pd.DataFrame:
        """Columns q, p, mean, low, high, n of a column of ``rows``, for the menu's p; nan for the interval of one."""
        table = summarise(self.rows[self.rows["p"] > 0], ["q", "p"], value)
        wanted = table["q"].map(self.chosen()) if p == CHOSEN else float(p)
        return table[table["p"] == wanted].set_index("q", drop=False)


def _task(records: Iterable[Record], model: str, score: str, sign: int) -> _Task | None:
    """The runs of a network without noise and with Sparseout; of several studies (runs that differ in more than method,
    p, q and seed) the one with most runs. None if it has none with noise."""
    studies: dict[str, dict[tuple[float, float, int], Record]] = {}
    for record in records:
        spec = record.spec
        if spec.get("model") == model and spec.get("method") in ("none", "sparseout"):
            common = {k: v for k, v in spec.items() if k not in ("method", "p", "q", "seed")}
            key = float(spec["p"]), float(spec["q"]) if spec["p"] else 0.0, spec["seed"]
            studies.setdefault(json.dumps(common, sort_keys=True), {}).setdefault(key, record)
    runs = max(studies.values(), key=len, default={})
    if not any(p for p, _, _ in runs):
        return None
    layers = list(next(iter(runs.values())).metrics.get("layers") or ())
    rows = []
    for (p, q, seed), record in sorted(runs.items(), key=lambda item: item[0]):
        metrics = record.metrics
        row: dict[str, Any] = {"p": p, "q": q, "seed": seed}
        try:
            if not layers or list(metrics["layers"]) != layers:
                raise ValueError("its layers are not those of the other runs")
            row |= {part: metrics[f"{part}_{score}"] for part in ("valid", "test")}
            row |= {f"{k} {m}": metrics["layers"][k][m] for k in layers for m in MEASURES.values()}
            if not all(isinstance(v, int | float) and math.isfinite(v) for v in row.values()):
                raise ValueError("a measurement of it is not a finite number")
        except (KeyError, TypeError, ValueError) as error:
            what = f"it has no entry {error}" if isinstance(error, KeyError) else error
            name = f"{model}, p = {p:g}, q = {q:g}, seed {seed}"
            raise ValueError(f"the run {name} cannot be shown: {what}; leave it out or rerun it") from error
        rows.append(row)
    frame = pd.DataFrame(rows)
    for exponent, part in frame[frame["p"] > 0].groupby("q"):
        if not set.intersection(*(set(one["seed"]) for _, one in part.groupby("p"))):
            raise ValueError(
                f"the runs of {model} with q = {exponent:g} have no seed in common, so no p can be chosen: "
                "run the sweep to its end, or leave out a p"
            )
    dataset = next(iter(runs.values())).spec["dataset"]
    return _Task(frame, layers, SETS.get(dataset, dataset), sign)


def pack(task: _Task) -> dict[str, Any]:
    """A task as the page needs it, in JSON values: ``layers``, ``dataset``, ``sign``, and ``runs``, one list a run of
    p, q, seed, validation and test score, then Hoyer and Gini of each layer."""
    about = {"layers": task.layers, "dataset": task.dataset, "sign": task.sign}
    return about | {"runs": task.rows.to_numpy(float).tolist()}


class Headline(Figure):
    """Recorded runs of two tasks side by side: test accuracy of an image network and test perplexity of a language
    model against q, and below each the sparsity (Hoyer and Gini) of one layer's activations. Points are means over
    seeds with 95 % Student-t intervals; a setting with one seed has a hollow point and no interval.

    The p of each q is the one of best validation score, or the same for all. What was published is the direction alone
    (images gain right of q = 2, language left of it): words in the figure, no data.

    Args:
        images: of the activation grid (chapter 4): the small CNN, without noise and with Sparseout.
        language: of the sweep "language-model" (chapter 9): the LSTM, the transformer, or both. Of runs that differ in
            more than method, p, q and seed those of the study with most runs are shown; other runs are left out.

    Raises:
        ValueError: no run to show; a run that lacks a measurement or has one that is not a finite number; p of which no
            seed is common; a control that is set to what is not recorded.
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
    controls = traitlets.Dict({}).tag(sync=True)

    def __init__(self, images: Iterable[Record], language: Iterable[Record], **values: Any) -> None:
        pictures = _task(images, IMAGES, "accuracy", 1)
        if pictures is None:
            raise ValueError(
                f'no recorded run of model "{IMAGES}" with method "sparseout" and p > 0 is among the image records: '
                'give bridgeout_lite.notebook.results("activation-grid")'
            )
        texts = [*language]
        found = {name: _task(texts, model, "perplexity", -1) for model, name in LANGUAGE.items()}
        known = {name: task for name, task in found.items() if task is not None}
        if not known:
            raise ValueError(
                f'no recorded run of model {" or ".join(map(repr, LANGUAGE))} with method "sparseout" and p > 0 is '
                'among the language records: give bridgeout_lite.notebook.results("language-model"), or record them '
                "with `bridgeout sweep language-model`"
            )
        self._tasks = {IMAGES: pictures} | known
        rows = pd.concat([task.rows for task in self._tasks.values()])
        noisy = rows[rows["p"] > 0]
        seeds = int(rows["seed"].nunique())
        exponents = sorted(noisy["q"].unique().tolist())
        places = {name: [f"{name}: {layer}" for layer in task.layers] for name, task in known.items()}
        controls = {
            "q": {"label": "exponent q", "values": exponents, "value": min(exponents, key=lambda q: abs(q - 2))},
            "p": {
                "label": "drop probability p",
                "options": [CHOSEN, *(f"{p:g}" for p in sorted(noisy["p"].unique()))],
                "value": CHOSEN,
            },
            "layer": {"label": f"layer of {IMAGES}", "options": pictures.layers, "value": pictures.layers[-1]},
            "place": {
                "label": "language model: layer",
                "options": [place for each in places.values() for place in each],
                "value": next(iter(places.values()))[-1],
            },
        }
        for key, control in controls.items():
            values.setdefault(key, control["value"])
        super().__init__(
            **values,
            controls=controls,
            presets={name[0].upper() + name[1:]: {"place": each[-1]} for name, each in places.items()},
            tasks={name: pack(task) for name, task in self._tasks.items()},
            quantiles=stats.t.ppf(0.975, np.arange(1, max(seeds, 2))).tolist(),
        )

    @traitlets.validate("q", "p", "layer", "place")
    def _check(self, proposal: traitlets.Bunch) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        control = self.controls[name]
        allowed = control.get("values") or control["options"]
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")
        return value

    def _sides(self) -> dict[str, tuple[str, _Task, str]]:
        """By kind: the name of the network that is shown, its runs, and its layer."""
        model, _, layer = self.place.partition(": ")
        return {"image": (IMAGES, self._tasks[IMAGES], self.layer), "language": (model, self._tasks[model], layer)}

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
                numbers[f"{kind}_{m}"] = float(task.curve(self.p, f"{layer} {m}")["mean"].get(self.q, math.nan))
        return numbers

    def picture(self) -> Picture:
        fig, axes = panels(4, rows=2, width=9, height=5.6, layout="constrained")
        claims = {"image": "claim: better here →", "language": "← claim: better here"}
        for side, (kind, (name, task, layer)) in enumerate(self._sides().items()):
            score, sparsity = axes[side], axes[2 + side]
            self._line(score, task, "test", BLUE)
            score.set(title=f"{name}, {task.dataset}: " + ("images" if task.sign > 0 else "language"))
            score.set_ylabel("test accuracy (%)" if task.sign > 0 else "test perplexity")
            score.text(0.98 if task.sign > 0 else 0.02, 0.93, claims[kind], transform=score.transAxes)
            score.texts[-1].set_horizontalalignment("right" if task.sign > 0 else "left")
            for measure, column in MEASURES.items():
                self._line(sparsity, task, f"{layer} {column}", COLOURS[measure], measure)
            sparsity.set(title=f"Sparsity of {layer}", ylabel="0 to 1", ylim=(0, 1))
            sparsity.legend()
            for ax in (score, sparsity):
                ax.axvline(self.q, color=RED, linewidth=1)
                ax.set(xlabel="exponent q (2 is Dropout)")
        return fig

    def _line(self, ax: Any, task: _Task, value: str, colour: str, label: str | None = None) -> None:
        curve = task.curve(self.p, value)
        half = (curve["high"] - curve["mean"]).fillna(0)
        ax.errorbar(curve["q"], curve["mean"], yerr=half, color=colour, marker="o", capsize=3, label=label)
        single = curve[curve["n"] == 1]
        ax.plot(single["q"], single["mean"], "o", markerfacecolor="white", color=colour)
        quiet = task.rows[task.rows["p"] == 0][value]
        if len(quiet):
            ax.axhline(quiet.mean(), color=GREY, linestyle="--", linewidth=1)
