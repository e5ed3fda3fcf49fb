"""In-page figures: sliders that compute in the page, with or without a kernel. One class, one .js and one .css each."""

from .activations import ActivationExplorer
from .arena import Arena
from .geometry import BridgeGeometry
from .headline import Headline
from .learn import LearnWhileYouDrag
from .noise_penalty import NoisePenalty
from .pruning_explorer import PruningExplorer

__all__ = [
    "ActivationExplorer",
    "Arena",
    "BridgeGeometry",
    "Headline",
    "LearnWhileYouDrag",
    "NoisePenalty",
    "PruningExplorer",
]
