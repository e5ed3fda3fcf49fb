"""Chapters 5 to 8: how networks survive pruning."""

from .curves import AMOUNTS, CHOSEN_BY, CURVES, RELEASED
from .tables import comparisons

__all__ = ["AMOUNTS", "CHOSEN_BY", "CURVES", "RELEASED", "comparisons"]
