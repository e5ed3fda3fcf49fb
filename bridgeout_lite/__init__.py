"""Sparsity by noise: the helper package of the book. Sparseout, Bridgeout, and what it takes to test them.

Names are loaded when they are first used (PEP 562): ``bl.Sparseout`` costs torch and numpy, nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers
    from .data import DataError, Images, load_images
    from .layers import Bridgeout, Sparseout, attach_bridgeout, attach_sparseout, detach_bridgeout, detach_sparseout
    from .models import build_model
    from .noise import bridgeout, sparseout
    from .runs.records import Record, Store
    from .runs.runner import sweep
    from .studies.images import Experiment, run
    from .text import Corpus, load_text
    from .training import CheckpointError, History, Recipe, evaluate, fit, pick_device

_HOMES = {
    "data": ("DataError", "Images", "load_images"),
    "layers": (
        *("Bridgeout", "Sparseout", "attach_bridgeout", "attach_sparseout"),
        *("detach_bridgeout", "detach_sparseout"),
    ),
    "models": ("build_model",),
    "noise": ("bridgeout", "sparseout"),
    "runs.records": ("Record", "Store"),
    "runs.runner": ("sweep",),
    "studies.images": ("Experiment", "run"),
    "text": ("Corpus", "load_text"),
    "training": ("CheckpointError", "History", "Recipe", "evaluate", "fit", "pick_device"),
}
_MODULES = (
    *("channels", "cost", "data", "figures", "layers", "ledger", "models", "modules", "noise", "notebook", "pruning"),
    *("rivals", "runs", "sparsity", "stats", "studies", "text", "theory", "training", "widgets"),
)
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    *_HOME,
    *_MODULES,
]


def __getattr__(name: str) -> Any:
    if name not in (*__all__, "__version__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if name in _MODULES:
            return import_module(f".{name}", __name__)
        if name == "__version__":
            value: Any = import_module(".runs.provenance", __name__).package_version()
        else:
            value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    except ModuleNotFoundError as error:  # another package, as the layers alone take torch and numpy only
        from .checks import lacking

        raise ModuleNotFoundError(lacking(f"bl.{name}", error), name=error.name) from error
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
