"""Four tiny runs on the embedded digits: does the machinery work?"""

from typing import Any

from ..training import Recipe
from .base import Study
from .images import Experiment, runs_frame


def smoke() -> list[Experiment]:
    """Four tiny runs on the embedded digits, one of each kind: does the machinery work?"""
    recipe = Recipe(epochs=2, batch_size=64)
    activations = [Experiment("digits", p=0.2, q=q, width=0.5, recipe=recipe) for q in (1.0, 2.0, 3.0)]
    common: dict[str, Any] = {"width": 0.125, "recipe": recipe, "measures": ("pruning",)}
    return [*activations, Experiment("digits", "vgg11", "bridgeout", 0.1, 1.5, **common)]


STUDY = Study("smoke", {"smoke": smoke}, table=runs_frame)
