"""One experiment, from its description to its record: what all studies share of a run."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..checks import check_choice, check_positive, check_whole
from ..cost import count
from ..data import IMAGE_SETS, Images, kept_images
from ..models import MODELS, build_model
from ..runs.provenance import provenance
from ..runs.records import Record, rounded
from ..training import History, Recipe, evaluate, pick_device


class Run:
    """A run under way: where it trains, and what its record will say of that.

    Attributes:
        device: where to train.
        checkpoint: the file that a training keeps itself in, or None.
        progress: whether to show a bar.
        on_epoch: called after each epoch with its row, or None.
        origin: the provenance; a study adds what differs between runs of the same spec, such as times.
    """

    def __init__(
        self,
        device: torch.device,
        checkpoint: str | Path | None,
        progress: bool,
        on_epoch: Callable[[dict[str, float]], None] | None,
        origin: dict[str, Any],
    ) -> None:
        self.device, self.checkpoint, self.progress, self.on_epoch = device, checkpoint, progress, on_epoch
        self.origin = origin

    def train(self, fit: Callable[..., History], model: nn.Module, data: Any, recipe: Any, **options: Any) -> History:
        """Train ``model`` by ``fit``, such as :func:`bridgeout_lite.fit`, as this run is to be made."""
        mine = {"checkpoint": self.checkpoint, "progress": self.progress, "on_epoch": self.on_epoch}
        history = fit(model, data, recipe, device=self.device, **mine | options)
        self.origin["precision"] = history.precision
        return history


class Experiment:
    """The base of all experiments, which are frozen dataclasses.

    A subclass says what data it needs (:meth:`load`) and what is trained and measured on it (:meth:`measure`). Every
    constant that its results depend on is one of its fields, or is covered by ``PROTOCOL``.
    """

    TAGS: ClassVar[dict[str, Any]] = {}
    """What tells its records from those of other studies."""
    OMITTED_DEFAULTS: ClassVar[dict[str, Any]] = {}
    """Fields added after the first records were made. A spec omits them at these values, so that older fingerprints
    stay valid."""
    PROTOCOL: ClassVar[int] = 1
    """Raised whenever a constant of :meth:`measure` changes; a spec omits it at 1."""
    DIGITS: ClassVar[int] = 6
    """Significant digits of the recorded metrics."""

    seed: int

    @property
    def spec(self) -> dict[str, Any]:
        """The experiment as JSON values, by which its record is found."""
        values = {f.name: _as_json(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        protocol = {"protocol": self.PROTOCOL} if self.PROTOCOL > 1 else {}
        omitted = self.OMITTED_DEFAULTS
        return self.TAGS | protocol | {k: v for k, v in values.items() if k not in omitted or v != omitted[k]}

    def load(self) -> Any:
        """The data, with ``name``, ``checksum`` and ``to(device)``."""
        raise NotImplementedError

    def measure(self, data: Any, run: Run) -> dict[str, Any]:
        """Train and measure; the metrics of the record. The test split is read once, after every choice."""
        raise NotImplementedError

    def run(
        self,
        data: Any = None,
        *,
        device: str | torch.device = "auto",
        checkpoint: str | Path | None = None,
        progress: bool = True,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> Record:
        """Train and measure this experiment.

        Args:
            data: loaded already, of the name that the experiment asks for; defaults to :meth:`load`.
            device, checkpoint, progress, on_epoch: as for :func:`bridgeout_lite.fit`.

        Returns:
            A :class:`~bridgeout_lite.Record` with the metrics of :meth:`measure`.

        Raises:
            ValueError: data of another name.
        """
        chosen = pick_device(device)
        data = self.load() if data is None else data
        named = self.on(data)
        data = data.to(chosen)
        run = Run(chosen, checkpoint, progress, on_epoch, provenance(chosen, data.name, data.checksum))
        started = time.perf_counter()
        metrics = named.measure(data, run)
        run.origin["seconds"] = time.perf_counter() - started
        return Record(named.spec, rounded(metrics, self.DIGITS), rounded(run.origin))

    def on(self, data: Any) -> "Experiment":
        """This experiment on this data; ValueError if it asks for other data."""
        wanted = getattr(self, "dataset", data.name)
        if data.name != wanted:
            raise ValueError(f"the experiment asks for {wanted!r} but the data given is {data.name!r}")
        return self

    def _settle(self, **values: Any) -> None:
        """Set fields of the frozen object: 2 and 2.0 are one experiment and must have one fingerprint."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


class ImageExperiment(Experiment):
    """An experiment on images, with the fields dataset, train, valid and test as for :func:`bridgeout_lite.load_images`
    (but "auto"), model and width as for :func:`bridgeout_lite.build_model`, recipe of the training, and seed.

    A ValueError for a name or a number outside of what it may be, and for a model that lacks what it takes."""

    dataset: str
    train: int | None
    valid: int
    test: int | None
    model: str
    width: float
    recipe: Recipe

    def check(self, needs: type[nn.Module] = nn.Module) -> None:
        """ValueError unless the fields can be run, with a model that has a module of the kind ``needs``."""
        check_choice(self.dataset, IMAGE_SETS[1:], "dataset")  # not "auto": a spec names its data
        check_choice(self.model, tuple(MODELS), "model")
        if not isinstance(self.recipe, Recipe):
            raise ValueError(f"recipe must be a Recipe, got {self.recipe!r}")
        for name, least in (("train", self.recipe.batch_size), ("valid", 1), ("test", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None or name in ("valid", "seed"):
                check_whole(value, name, least)
        self._settle(width=check_positive(self.width, "width", zero=False))
        if needs not in _kinds(self.model, self.width):
            raise ValueError(f"model {self.model!r} has no {needs.__name__}, which this experiment needs")

    def load(self) -> Images:
        """The images, kept by the process until other ones are needed."""
        return kept_images(self.dataset, self.train, self.valid, self.test)

    def build(self, images: Images) -> nn.Module:
        """The untrained network, with the initial weights of the experiment's seed."""
        return build_model(self.model, width=self.width, num_classes=images.num_classes, seed=self.seed)


def accuracies(
    model: nn.Module, images: Images, precision: str = "float32", splits: Iterable[str] = ("valid", "test")
) -> dict[str, float]:
    """The loss (nats) and the accuracy (%) on each split, such as valid_loss and valid_accuracy."""
    measured = {}
    for split in splits:
        measured[f"{split}_loss"], measured[f"{split}_accuracy"] = evaluate(model, images, split, precision=precision)
    return measured


def columns(history: History, *names: str) -> dict[str, list[float]]:
    """Columns of a history as lists."""
    return {name: history.frame[name].tolist() for name in names}


def runs_of(records: Iterable[Record], **tags: Any) -> Iterator[Record]:
    """The runs whose spec has these values, without those that diverged."""
    for record in records:
        if all(record.spec.get(name) == value for name, value in tags.items()) and "failed" not in record.metrics:
            yield record


def least(
    records: Iterable[Record], search: Iterable[Experiment], metric: str, key: Callable[[dict[str, Any]], Any]
) -> dict[Any, dict[str, Any]]:
    """The specs with the least ``metric`` among the runs of a search, one for each ``key(spec)``."""
    searched = [experiment.spec for experiment in search]
    found = [record for record in runs_of(records) if record.spec in searched]
    best: dict[Any, dict[str, Any]] = {}
    for record in sorted(found, key=lambda record: float(record.metrics[metric])):
        best.setdefault(key(record.spec), record.spec)
    return best


def counts(build: Callable[[], nn.Module], side: int = 32) -> tuple[int, int]:
    """Parameters and multiply-adds of one image, without memory or time for the weights."""
    with torch.device("meta"):
        model, image = build(), torch.empty(1, 3, side, side)
    return count(model, image)


@functools.cache
def _kinds(model: str, width: float) -> set[type]:
    """The types of a network's modules."""
    with torch.device("meta"):  # its shape without its numbers
        return {kind for module in build_model(model, width=width).modules() for kind in type(module).__mro__}


def _as_json(value: Any) -> Any:
    """A field of an experiment as JSON."""
    if isinstance(value, Recipe):
        return value.spec
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, tuple) else value
