"""In-page figures: sliders that compute in the page, with or without a kernel. One class, one .js and one .css each."""

from .noise_penalty import NoisePenalty

__all__ = ["NoisePenalty"]
