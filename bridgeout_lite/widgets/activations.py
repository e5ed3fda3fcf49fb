"""Activation explorer: what p and q did to the activations of a network, layer by layer, from recorded runs."""

import asyncio
import base64
import contextlib
import dataclasses
import signal
import statistics
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from ..data import DataError, Images, load_images
from ..figures import BLUE, GREY, RED, panels
from ..runs.records import Record
from ..studies.images import Experiment, run
from ..studies.measures import HISTOGRAM_EDGES, MAPPED_IMAGES
from ..training import Recipe
from .base import Figure

MODEL = "smallcnn"
"""The network whose runs are explored."""

MEASURES = {"Hoyer": "hoyer", "Gini": "gini", "zero fraction": "zero_fraction", "rms": "rms"}
"""Measures of one layer, by the name that the menu shows."""

ACCURACY = "validation accuracy"

MAPS = (2, 2)
"""Images and channels whose feature maps are kept: as many as leave the figure of 63 runs below 150 kB."""

_Key = tuple[float, float, int]


def _key(p: float, q: float, seed: int) -> _Key:
    """A run's place in the grid. Without noise there is no q."""
    return float(p), float(q) if p else 0.0, seed


def _name(key: _Key) -> str:
    return f"p = {key[0]:g}, " + (f"q = {key[1]:g}, " if key[0] else "") + f"seed {key[2]}"


def _common(record: Record) -> dict[str, Any]:
    """What all runs of one grid share."""
    return {k: v for k, v in record.spec.items() if k not in ("method", "p", "q", "seed")}


def _grid(records: Iterable[Record]) -> dict[_Key, Record]:
    """The runs of the network without noise and with Sparseout, in order; of two equal ones the first."""
    runs: dict[_Key, Record] = {}
    for record in records:
        spec = record.spec
        if spec.get("model") != MODEL or spec.get("method") not in ("none", "sparseout"):
            continue
        other = _common(next(iter(runs.values()), record))
        differ = [k for k, v in _common(record).items() if v != other.get(k)]
        if differ:
            raise ValueError(f"the records are of several experiments ({', '.join(differ)} differ): give those of one")
        runs.setdefault(_key(spec["p"], spec["q"], spec["seed"]), record)
    if not any(p for p, _, _ in runs):
        raise ValueError(
            f'no recorded run of model "{MODEL}" with method "sparseout" and p > 0 is among the records: '
            'give bridgeout_lite.notebook.results("activation-grid"), or record a grid with `bridgeout sweep`'
        )
    return dict(sorted(runs.items()))


def _levels(record: Record, layers: Iterable[str]) -> list[NDArray[Any]] | None:
    """The recorded feature maps of the first images and channels with levels that double: 0, 1, 2, 3 to 4, 5 to 8, 9 to
    15 become 0 to 5. None if there are none."""
    if not record.metrics.get("maps"):
        return None
    kept = []
    for name in layers:
        entry = record.metrics["maps"]["layers"][name]
        flat = np.frombuffer(zlib.decompress(base64.b64decode(entry["levels"])), np.uint8)
        levels = flat.reshape(entry["shape"])[: MAPS[0]]
        levels = levels[:, : MAPS[1]] if levels.ndim == 4 else levels
        kept.append(np.searchsorted([1, 2, 3, 5, 9], levels, side="right").astype(np.uint8))
    return kept


def pack(runs: Mapping[_Key, Record], images: Images | None = None) -> tuple[dict[str, Any], bytes]:
    """The runs as the page needs them: an index, and zlib of what it points to.

    The bytes hold, without gaps: float32 (little endian), for each run, valid_accuracy and for each layer hoyer, gini,
    zero_fraction, rms and the value of the recorded maps' top level; uint8, for each run and layer, the histogram in
    units of ``top`` / 255; for each layer and run that has them, the feature maps, two levels a byte, the first in the
    upper half; uint8, the mapped images (3, 32, 32).

    Returns:
        The index: ``runs`` ([p, q, seed, place among the runs with maps or -1] each), ``layers``, ``edges``, ``top``,
        ``shapes`` of the maps, ``images`` (names), ``pictured``, ``seconds`` (the median run's); and the bytes.

    Raises:
        ValueError: a run lacks a measurement or has one that is not finite, or its layers are not those of the others.
    """
    layers = list(next(iter(runs.values())).metrics.get("layers") or ())
    numbers: list[NDArray[Any]] = []
    shares: list[NDArray[Any]] = []
    maps: list[list[NDArray[Any]]] = []
    entries: list[list[float]] = []
    for key, record in runs.items():
        metrics = record.metrics
        try:
            if list(metrics["layers"]) != layers:
                raise ValueError(f"its layers are {', '.join(metrics['layers'])} and not {', '.join(layers)}")
            levels = _levels(record, layers)
            tops = [metrics["maps"]["layers"][k]["top"] if levels else 0.0 for k in layers]
            values = [[metrics["layers"][k][m] for m in MEASURES.values()] for k in layers]
            numbers.append(np.array([metrics["valid_accuracy"], *np.c_[values, tops].flat], float))  # None becomes nan
            shares.append(np.array([metrics["layers"][k]["histogram"] for k in layers], float))
            if shares[-1].shape != (len(layers), len(HISTOGRAM_EDGES) - 1):
                raise ValueError(f"its histograms have not {len(HISTOGRAM_EDGES) - 1} bins")
            if not np.isfinite([*numbers[-1], *shares[-1].flat]).all():
                raise ValueError("a measurement of it is not a finite number")
            if levels and maps and [a.shape for a in levels] != [a.shape for a in maps[0]]:
                raise ValueError("its feature maps have another shape than those of the other runs")
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            what = f"it has no entry {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"the run with {_name(key)} cannot be shown: {what}; leave it out or rerun it") from error
        entries.append([*key, len(maps) if levels else -1])
        maps += [levels] if levels else []
    top = max(float(np.max(shares)), 1e-9)
    flat = [np.concatenate([a.ravel() for a in layer]) for layer in zip(*maps, strict=True)]
    flat = [np.pad(a, (0, a.size % 2)) for a in flat]
    chosen = [i for i in MAPPED_IMAGES if images is None or i < len(images.valid)][: MAPS[0]] if maps else []
    parts = [
        np.array(numbers, "<f4").tobytes(),
        np.round(np.array(shares) / top * 255).astype(np.uint8).tobytes(),
        *((a[0::2] << 4 | a[1::2]).tobytes() for a in flat),
        b"" if images is None else images.valid.x[chosen].cpu().numpy().tobytes(),
    ]
    index = {
        "runs": entries,
        "layers": layers,
        "edges": list(HISTOGRAM_EDGES),
        "top": top,
        "shapes": {k: list(a.shape) for k, a in zip(layers, maps[0], strict=True)} if maps else {},
        "images": [images.classes[int(images.valid.y[i])] if images else f"image {i}" for i in chosen],
        "pictured": images is not None,
        "seconds": statistics.median(record.provenance["seconds"] for record in runs.values()),
    }
    return index, zlib.compress(b"".join(parts), 9)


class ActivationExplorer(Figure):
    """Recorded runs over the plane of p and q: a measure of sparsity as a heat map, the histogram of the activations of
    one layer, the sparsity of all layers, and feature maps of a few images. Dashed lines are the run with q = 2, which
    is dropout, at the same p and seed.

    A reader with a kernel can train a setting of their own, here by :meth:`train` or by the button in the figure.

    Args:
        records: of the activation grid (chapter 4), whole or in part; runs of other networks and methods are left out.
        images: adds pictures of the mapped validation images, if it is the very data set of the records (by checksum),
            ``load_images(dataset, train=..., valid=...)``; another one is not used.

    Attributes:
        records: the runs shown, a list; trained ones are added.

    Raises:
        ValueError: no run to show; runs of several experiments; a run that lacks a measurement or has one that is not a
            finite number; p, q, seed or layer that is not recorded.
    """

    file = "activations"
    data = ("index",)
    p = traitlets.Float().tag(sync=True)
    q = traitlets.Float().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    layer = traitlets.Unicode().tag(sync=True)
    measure = traitlets.Unicode().tag(sync=True)
    index = traitlets.Dict().tag(sync=True)
    packed = traitlets.Bytes().tag(sync=True)
    training = traitlets.Dict().tag(sync=True)
    title = traitlets.Unicode("What p and q do to the activations").tag(sync=True)
    controls = traitlets.Dict({}).tag(sync=True)

    def __init__(self, records: Iterable[Record], images: Images | None = None, **values: Any) -> None:
        self._runs = _grid(records)
        origin = next(iter(self._runs.values())).provenance
        self._images = images if images and images.checksum == origin["data_checksum"] else None
        values = self._state(self._runs) | values
        for key, control in values["controls"].items():
            values.setdefault(key, control["value"])
        super().__init__(**values)
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):  # in a notebook's cell: the loop that runs the kernel's cells
            self._loop = asyncio.get_running_loop()
        self.on_msg(self._hear)

    @property
    def records(self) -> list[Record]:
        return list(self._runs.values())

    def _state(self, runs: Mapping[_Key, Record]) -> dict[str, Any]:
        """The traits that follow from the runs."""
        index, packed = pack(runs, self._images)
        # a recorded run to start with: some noise, and of the lowest q
        p, q, seed = min((k for k in runs if k[0]), key=lambda k: (k[2], abs(k[0] - 0.2), k[1]))
        exponents = sorted({q for p, q, _ in runs if p})
        seeds = sorted({seed for _, _, seed in runs})
        layers = index["layers"]
        controls = {
            "p": {"label": "drop probability p", "values": sorted({p for p, _, _ in runs}), "value": p},
            "q": {"label": "exponent q", "values": exponents, "value": q},
            "layer": {"label": "layer", "options": layers, "value": layers[-1]},
            "seed": {"label": "seed", "values": seeds, "value": seed},
            "measure": {"label": "measure in the map", "options": [*MEASURES, ACCURACY], "value": "Hoyer"},
        }
        presets = {f"q = {x:g}": {"p": p, "q": x} for x in (exponents[0], 2.0, exponents[-1]) if x in exponents}
        if any(not p for p, _, _ in runs):
            presets = {"No noise": {"p": 0.0}} | presets
        return {"index": index, "packed": packed, "controls": controls, "presets": presets}

    @traitlets.validate("p", "q", "seed", "layer", "measure")
    def _check(self, proposal: traitlets.Bunch) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        control = self.controls[name]
        allowed = control["values"] if "values" in control else control["options"]
        if value not in allowed:
            hint = "; train() adds a setting" if name in ("p", "q", "seed") else ""
            raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}{hint}")
        return value

    def _run(self, q: float | None = None) -> Record | None:
        """The run that the sliders point at, or that with another q."""
        return self._runs.get(_key(self.p, self.q if q is None else q, self.seed))

    def _accuracies(self) -> list[float]:
        """Validation accuracy (%) of every recorded seed of the present setting."""
        here = _key(self.p, self.q, 0)[:2]
        return [record.metrics["valid_accuracy"] for key, record in self._runs.items() if key[:2] == here]

    def plane(self) -> dict[tuple[float, float], float]:
        """The heat map: the chosen measure in the chosen layer, mean over the recorded seeds, by (p, q); q of p = 0
        is 0."""
        cells: dict[tuple[float, float], list[float]] = {}
        for (p, q, _), record in self._runs.items():
            metrics = record.metrics
            accuracy = self.measure == ACCURACY
            value = metrics["valid_accuracy"] if accuracy else metrics["layers"][self.layer][MEASURES[self.measure]]
            cells.setdefault((p, q), []).append(value)
        return {place: statistics.fmean(values) for place, values in cells.items()}

    def numbers(self) -> dict[str, float]:
        """Measures of the present run and layer, and the validation accuracy (%), of it and over the seeds; nan where
        nothing is recorded."""
        record, accuracies = self._run(), self._accuracies()
        layer = record.metrics["layers"][self.layer] if record else {}
        numbers = {name: layer.get(name, float("nan")) for name in MEASURES.values()}
        numbers["valid_accuracy"] = record.metrics["valid_accuracy"] if record else float("nan")
        for name, of in (("mean", statistics.fmean), ("lowest", min), ("highest", max)):
            numbers[f"{name}_accuracy"] = of(accuracies) if accuracies else float("nan")
        return numbers

    def picture(self) -> Picture:
        fig, (heat, shape) = panels(2, width=8, height=3.2, layout="constrained")
        rows, columns = self.controls["p"]["values"], self.controls["q"]["values"]
        cells = self.plane()
        table = np.array([[cells.get(_key(p, q, 0)[:2], np.nan) for q in columns] for p in rows])
        heat.imshow(table, origin="lower", aspect="auto", cmap="Blues", alpha=0.5)
        digits = 1 if self.measure == ACCURACY else 3
        for (row, column), value in np.ndenumerate(table):
            text = "" if np.isnan(value) else f"{value:.{digits}f}"
            heat.text(column, row, text, ha="center", va="center", fontsize=8)
        heat.plot(columns.index(self.q), rows.index(self.p), "s", color=RED, markersize=26, fillstyle="none")
        heat.grid(False)
        heat.set(xticks=range(len(columns)), xticklabels=[f"{q:g}" for q in columns], xlabel="exponent q")
        heat.set(yticks=range(len(rows)), yticklabels=[f"{p:g}" for p in rows], ylabel="drop probability p")
        heat.set_title(self.measure + ("" if self.measure == ACCURACY else f" in {self.layer}") + ", mean of seeds")
        for record, colour, style in ((self._run(2.0), GREY, "--"), (self._run(), BLUE, "-")):
            if record:
                shares = 100 * np.array(record.metrics["layers"][self.layer]["histogram"])
                label = f"q = {record.spec['q']:g}" if self.p else "no noise"
                shape.stairs(shares, HISTOGRAM_EDGES, color=colour, linestyle=style, label=label)
        if self._run():
            shape.legend(title=f"{100 * self.numbers()['zero_fraction']:.1f} % exactly zero")
        shape.set(xlabel="log10 of activation / rms of the layer", ylabel="share of activations (%)")
        shape.set_title(f"{self.layer}, seed {self.seed}" + ("" if self._run() else ": not recorded"))
        return fig

    def train(self, p: float, q: float, seed: int = 0) -> Record:
        """Train the recorded experiment with another p, q or seed, in this process; show it and return its record. A
        setting that is recorded already is only shown.

        Raises:
            ValueError: p, q or seed that no run can have. DataError: the recorded data set is not here.
            FloatingPointError: the training diverged.
        """
        experiment = self._experiment(p, q, seed)
        key = _key(experiment.p, experiment.q, seed)
        if key not in self._runs:
            epochs = experiment.recipe.epochs
            self.training = {"share": 0.0, "words": "loading the data"}
            images = self._data(experiment)
            self.training = {"share": 0.0, "words": f"training, epoch 1 of {epochs}; interrupting the kernel stops it"}

            def tell(row: dict[str, float]) -> None:
                done = f"epoch {row['epoch']} of {epochs} done, validation accuracy {row['valid_accuracy']:.1f} %"
                self.training = {"share": row["epoch"] / epochs, "words": done}

            record = run(experiment, images, progress=False, on_epoch=tell)
            runs = dict(sorted((self._runs | {key: record}).items()))
            state = self._state(runs)
            self._runs, words = runs, f"added: {_name(key)}"
        else:
            state, words = {}, f"recorded already, and shown: {_name(key)}"
        place = {"p": key[0], "seed": seed} | ({"q": key[1]} if key[0] else {})
        with self.hold_sync():  # the page hears of all of it at once
            for name, value in (state | place | {"training": {"words": words}}).items():
                setattr(self, name, value)
        return self._runs[key]

    def _experiment(self, p: Any, q: Any, seed: Any) -> Experiment:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seed must be a whole number >= 0, got {seed!r}")
        spec = next(record.spec for record in self.records if record.spec["p"])
        recorded = Experiment(**spec | {"recipe": Recipe(**spec["recipe"])})
        experiment = dataclasses.replace(recorded, p=p, q=q, seed=seed)
        return experiment if experiment.p else dataclasses.replace(experiment, method="none", q=2.0)

    def _data(self, experiment: Experiment) -> Images:
        if self._images:
            return self._images
        name = experiment.dataset
        try:
            images = load_images(name, train=experiment.train, valid=experiment.valid, download=False)
        except DataError as error:
            what = f"run bridgeout_lite.load_images({name!r}), which fetches it, and train again"
            raise DataError(f"{name}, the data set of the recorded runs, is not here ({error}): {what}") from error
        if images.checksum != self.records[0].provenance["data_checksum"]:
            raise DataError(f"the {name} found here is not the data of the recorded runs: its checksum differs")
        return images

    def _hear(self, _: Any, content: Mapping[str, Any], buffers: Any) -> None:
        """What the page says: "hello" asks whether a kernel listens; "train" is the button."""
        if content.get("kind") == "hello":
            self.send({"kind": "here"})
        elif content.get("kind") == "train":
            setting: list[Any] = [content.get(name) for name in ("p", "q", "seed")]
            if self._loop is None or threading.current_thread() is threading.main_thread():
                self._train(*setting)
            else:  # JupyterLab gives widgets a thread beside the cells; torch's random state they would share
                self._loop.call_soon_threadsafe(self._train, *setting)

    def _train(self, p: Any, q: Any, seed: Any) -> None:
        """What the button asks for; whatever goes wrong is told in the figure."""
        self.training = {"share": 0.0, "words": "starting"}
        try:
            with _interruptible():
                self.train(p, q, seed)
        except KeyboardInterrupt:
            self.training = {"words": "interrupted; nothing was added"}
        except Exception as error:  # raised on, it would end in a log that the reader does not see
            self.training = {"words": f"not trained: {str(error) or type(error).__name__}"}


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let the kernel's interrupt reach what is not a cell: a kernel ignores it there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
