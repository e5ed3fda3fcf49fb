"""Chapter 4: what q does to the activations of a network."""

from .tables import grid

__all__ = ["grid"]
