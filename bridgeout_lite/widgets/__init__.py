"""The figures that live in the page: one .py, .js and .css each. Each is loaded when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .activations import ActivationExplorer
    from .arena import Arena
    from .geometry import BridgeGeometry
    from .headline import Headline
    from .learn import LearnWhileYouDrag
    from .lineage import Lineage
    from .noise_penalty import NoisePenalty
    from .playground import Playground
    from .proximal import ProximalMaps
    from .pruning_explorer import PruningExplorer
    from .surgery import Surgery

_HOME = {
    "ActivationExplorer": "activations",
    "Arena": "arena",
    "BridgeGeometry": "geometry",
    "Headline": "headline",
    "LearnWhileYouDrag": "learn",
    "Lineage": "lineage",
    "NoisePenalty": "noise_penalty",
    "Playground": "playground",
    "ProximalMaps": "proximal",
    "PruningExplorer": "pruning_explorer",
    "Surgery": "surgery",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return globals()[name]
