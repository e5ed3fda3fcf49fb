"""One study per recorded experiment: its specs, its measures, its table, its claims.

``STUDIES`` is the only list of them, in the order of the ledger. Sweeps, stores, sections and the choices of the
command line are read off it. A new study is a file or folder of its name here, with a ``STUDY``, and one line below.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from ..runs.records import Record
from .base import Study

_NAMES = (
    "theory",
    "activations",
    "language",
    "pruning",
    "literature",
    "feature-flow",
    "arena",
    "evolution",
    "structured-output",
    "explanations",
    "mechanisms",
    "mechanisms-weights",
    "pruning-few",
    "activations-few",
    "fast-recipe",
    "smoke",
)


class _Studies(Mapping[str, Study]):
    """Each study by its name, loaded when it is first asked for."""

    def __getitem__(self, name: str) -> Study:
        if name not in _NAMES:
            raise KeyError(f"no study is called {name!r}; there are {', '.join(_NAMES)}")
        study: Study = import_module(f".{name.replace('-', '_')}", __name__).STUDY
        return study

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


STUDIES: Mapping[str, Study] = _Studies()


def sweeps() -> dict[str, Callable[..., Sequence[Any]]]:
    """What makes the experiments of each sweep, by the sweep's name, which is also its store's. An
    :class:`~.adaptive.Adaptive` one takes the records so far."""
    return {name: make for study in STUDIES.values() for name, make in study.sweeps.items()}


def recorded() -> list[Record]:
    """All recorded runs of the book."""
    return [record for study in STUDIES.values() for record in study.records()]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        return import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error
