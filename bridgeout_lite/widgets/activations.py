"""Activation explorer: what p and q did to the activations of a network, layer by layer, from recorded runs."""

import asyncio
import contextlib
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from ..checks import check_exponent, check_probability, check_whole
from ..data import Images
from ..figures import BLUE, GREY, RED, panels
from ..studies.measures import HISTOGRAM_EDGES, MAPPED_IMAGES
from .base import checked
from .recorded import RUN, Recorded, Table, menu, runs_by_layer, slider

MEASURES = {"Hoyer": "hoyer", "Gini": "gini", "zero fraction": "zero_fraction", "rms": "rms"}
"""Measures of one layer, by the name that the menu shows."""

ACCURACY = "validation accuracy"

MAPS = (2, 2)
"""Images and channels whose feature maps are kept: as many as leave the figure of 63 runs below 150 kB."""

Trainer = Callable[[float, float, int, Callable[[float, str], None]], pd.DataFrame]
"""Trains with p, q and seed, tells how far it is (a share, words), and gives the rows of the new run."""

_SOURCE = 'bridgeout_lite.studies.activations.grid(bridgeout_lite.notebook.results("activations"))'


def _runs(table: Table) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    return runs_by_layer(table, ("valid", *MEASURES.values(), "top"), _SOURCE)


def pack(table: pd.DataFrame, images: Images | None = None) -> tuple[dict[str, Any], bytes]:
    """The runs as the page needs them: an index, and zlib of what it points to.

    The bytes hold, without gaps: float32 (little endian), for each run, its validation accuracy and for each layer
    hoyer, gini, zero_fraction, rms and the value of the recorded maps' top level; uint8, for each run and layer, the
    histogram in units of ``top`` / 255; for each layer and run that has them, the feature maps, two levels per byte,
    the first in the upper half; uint8, the mapped images (3, 32, 32).

    Levels of the page double: 0, 1, 2, 3 to 4, 5 to 8, 9 to 15 become 0 to 5.

    Returns:
        The index: ``runs`` ([p, q, seed, place among the runs with maps or -1] each), ``layers``, ``edges``, ``top``,
        ``shapes`` of the maps, ``images`` (names), ``pictured``, ``seconds`` (the median run's); and the bytes.

    Raises:
        ValueError: as :func:`~.recorded.runs_by_layer`; histograms or maps of other shapes than they should have.
    """
    rows, runs, layers = _runs(table)
    shares = np.array([share for share in rows["histogram"] if len(share) == len(HISTOGRAM_EDGES) - 1], float)
    if len(shares) != len(rows) or not np.isfinite(shares).all():
        raise ValueError(
            f"a histogram has not {len(HISTOGRAM_EDGES) - 1} finite numbers: leave the run out, or rerun it"
        )
    numbers = rows[[*MEASURES.values(), "top"]].to_numpy(float).reshape(len(runs), -1)
    top, maps = max(float(shares.max()), 1e-9), {}
    mapped = rows["maps"].notna()
    for name in layers if mapped.any() else ():
        kept = [_reduced(levels) for levels in rows["maps"][mapped & (rows["layer"] == name)]]
        if len({levels.shape for levels in kept}) > 1:
            raise ValueError(f"the feature maps of {name} have not one shape: leave out the runs of another one")
        maps[name] = np.stack(kept)
    flat = [np.pad(levels.ravel(), (0, levels.size % 2)) for levels in maps.values()]
    chosen = [i for i in MAPPED_IMAGES if images is None or i < len(images.valid)][: MAPS[0]] if maps else []
    parts = [
        np.column_stack([runs["valid"], numbers]).astype("<f4").tobytes(),
        np.round(shares / top * 255).astype(np.uint8).tobytes(),
        *((levels[0::2] << 4 | levels[1::2]).tobytes() for levels in flat),
        b"" if images is None else images.valid.x[chosen].cpu().numpy().tobytes(),
    ]
    own = mapped[:: len(layers)]
    places = np.where(own, own.cumsum() - 1, -1)
    index = {
        "runs": [[*run, int(place)] for run, place in zip(runs[[*RUN]].itertuples(index=False), places, strict=True)],
        "layers": layers,
        "edges": list(HISTOGRAM_EDGES),
        "top": top,
        "shapes": {name: list(levels.shape[1:]) for name, levels in maps.items()},
        "images": [images.classes[int(images.valid.y[i])] if images else f"image {i}" for i in chosen],
        "pictured": images is not None,
        "seconds": float(runs["seconds"].median()),
    }
    return index, zlib.compress(b"".join(parts), 9)


def _reduced(levels: NDArray[Any]) -> NDArray[Any]:
    """The first images and channels, with levels that double."""
    levels = levels[: MAPS[0], : MAPS[1]] if levels.ndim == 4 else levels[: MAPS[0]]
    return np.searchsorted([1, 2, 3, 5, 9], levels, side="right").astype(np.uint8)


class ActivationExplorer(Recorded):
    """Recorded runs over the plane of p and q: a measure of sparsity as a heat map, the histogram of the activations of
    one layer, the sparsity of all layers, and feature maps of a few images. Dashed lines are the run with q = 2, which
    is dropout, at the same p and seed.

    With a ``trainer`` a reader who has a kernel can train a setting of their own, by :meth:`train` or by the button in
    the figure.

    Args:
        table: of the activation grid, from :func:`bridgeout_lite.studies.activations.grid`. Rows of trained runs are
            added to it.
        images: adds pictures of the mapped validation images, if it is the very data set of the runs (by checksum).
        trainer: trains one setting more, such as :class:`bridgeout_lite.studies.activations.trainer.Trainer`.

    Raises:
        ValueError: a table that cannot be shown (see :func:`pack`); p, q, seed or layer that is not recorded.
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

    def __init__(
        self, table: Table, images: Images | None = None, trainer: Trainer | None = None, **values: Any
    ) -> None:
        self.table, runs, _ = _runs(table)
        self._images = images if images and images.checksum == runs["checksum"].iloc[0] else None
        self._trainer = trainer
        super().__init__(**self._state(self.table) | values)
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):  # in a notebook's cell: the loop that runs the kernel's cells
            self._loop = asyncio.get_running_loop()
        self.on_msg(self._hear)

    def _state(self, table: pd.DataFrame) -> dict[str, Any]:
        """The traits that follow from the table."""
        index, packed = pack(table, self._images)
        runs, layers = [tuple(run[:3]) for run in index["runs"]], index["layers"]
        # a recorded run to start with: some noise, and of the lowest q
        p, q, seed = min((run for run in runs if run[0]), key=lambda run: (run[2], abs(run[0] - 0.2), run[1]))
        exponents = sorted({q for p, q, _ in runs if p})
        controls = {
            "p": slider("drop probability p", sorted({p for p, _, _ in runs}), p),
            "q": slider("exponent q", exponents, q),
            "layer": menu("layer", layers, layers[-1]),
            "seed": slider("seed", sorted({seed for _, _, seed in runs}), seed),
            "measure": menu("measure in the map", [*MEASURES, ACCURACY], "Hoyer"),
        }
        presets = {f"q = {x:g}": {"p": p, "q": x} for x in (exponents[0], 2.0, exponents[-1]) if x in exponents}
        if any(not p for p, _, _ in runs):
            presets = {"No noise": {"p": 0.0}} | presets
        return {"index": index, "packed": packed, "controls": controls, "presets": presets}

    _check = checked("p", "q", "seed", "layer", "measure")

    def hint(self, name: str) -> str:
        return " (train() adds a setting)" if self._trainer and name in RUN else ""

    def _rows(self, q: float | None = None) -> pd.DataFrame:
        """The rows of the chosen layer at the present p and q, or at another q: one per seed."""
        table, q = self.table, (self.q if q is None else q) if self.p else 0.0
        return table[(table["p"] == self.p) & (table["q"] == q) & (table["layer"] == self.layer)]

    def _run(self, q: float | None = None) -> pd.Series | None:
        """The row that the sliders point at, or that with another q; None if it is not recorded."""
        rows = self._rows(q)
        rows = rows[rows["seed"] == self.seed]
        return rows.iloc[0] if len(rows) else None

    def plane(self) -> dict[tuple[float, float], float]:
        """The heat map: the chosen measure in the chosen layer, mean over the recorded seeds, by (p, q); q of p = 0
        is 0."""
        rows = self.table[self.table["layer"] == self.layer]
        means: dict[Any, float] = rows.groupby(["p", "q"])[MEASURES.get(self.measure, "valid")].mean().to_dict()
        return means

    def numbers(self) -> dict[str, float]:
        """Measures of the present run and layer, and the validation accuracy (%), of it and over the seeds; nan where
        nothing is recorded."""
        run, accuracies = self._run(), self._rows()["valid"]
        shown = {name: name for name in MEASURES.values()} | {"valid_accuracy": "valid"}
        numbers = {name: float("nan") if run is None else float(run[column]) for name, column in shown.items()}
        over = {"mean": accuracies.mean(), "lowest": accuracies.min(), "highest": accuracies.max()}
        return numbers | {f"{name}_accuracy": float(value) for name, value in over.items()}

    def picture(self) -> Picture:
        fig, (heat, shape) = panels(2, width=8, height=3.2, layout="constrained")
        rows, columns = self.controls["p"]["values"], self.controls["q"]["values"]
        cells = self.plane()
        table = np.array([[cells.get((p, q if p else 0.0), np.nan) for q in columns] for p in rows])
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
        now = self._run()
        for run, colour, style in ((self._run(2.0), GREY, "--"), (now, BLUE, "-")):
            if run is not None:
                label = f"q = {run['q']:g}" if self.p else "no noise"
                shares = 100 * np.array(run["histogram"])
                shape.stairs(shares, HISTOGRAM_EDGES, color=colour, linestyle=style, label=label)
        if now is not None:
            shape.legend(title=f"{100 * now['zero_fraction']:.1f} % exactly zero")
        shape.set(xlabel="log10 of activation / rms of the layer", ylabel="share of activations (%)")
        shape.set_title(f"{self.layer}, seed {self.seed}" + (": not recorded" if now is None else ""))
        return fig

    def train(self, p: float, q: float, seed: int = 0) -> pd.DataFrame:
        """Train the recorded experiment with another p, q or seed, in this process; show it and return its rows. A
        setting that is recorded already is only shown.

        Raises:
            ValueError: the figure has no trainer; p, q or seed that no run can have. And what the trainer raises.
        """
        if self._trainer is None:
            raise ValueError("this figure was made to show runs: give it a trainer to add some, as its docstring says")
        p, q = check_probability(p), check_exponent(q)
        check_whole(seed, "seed", 0)
        place = {"p": p, "q": q if p else 0.0, "seed": seed}
        name = f"p = {p:g}, " + (f"q = {q:g}, " if p else "") + f"seed {seed}"
        own, state, words = self._find(place), {}, f"recorded already, and shown: {name}"
        if not len(own):
            rows = self._trainer(p, q, seed, self._tell)
            table = pd.concat([self.table, rows], ignore_index=True)
            state, words = self._state(table), f"added: {name}"
            self.table, _, _ = _runs(table)
            own = self._find(place)
        if not p:
            del place["q"]  # without noise any will do
        with self.hold_sync():  # the page gets all of it at once
            for trait, value in (state | place | {"training": {"words": words}}).items():
                setattr(self, trait, value)
        return own

    def _find(self, place: Mapping[str, float]) -> pd.DataFrame:
        return self.table[(self.table[[*place]] == pd.Series(place)).all(axis=1)]

    def _tell(self, share: float, words: str) -> None:
        self.training = {"share": share, "words": words}

    def _hear(self, _: Any, content: Mapping[str, Any], buffers: Any) -> None:
        """What the page says: "hello" asks whether a kernel listens; "train" is the button."""
        if self._trainer is None:
            return
        if content.get("kind") == "hello":
            self.send({"kind": "here"})
        elif content.get("kind") == "train":
            setting: list[Any] = [content.get(name) for name in RUN]
            if self._loop is None or threading.current_thread() is threading.main_thread():
                self._train(*setting)
            else:  # JupyterLab gives widgets a thread beside the cells; torch's random state they would share
                self._loop.call_soon_threadsafe(self._train, *setting)

    def _train(self, p: Any, q: Any, seed: Any) -> None:
        """What the button asks for. Errors are shown in the figure."""
        self._tell(0.0, "starting")
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
