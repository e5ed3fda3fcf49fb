"""Chapter 9: language models, and what q does to them."""

from .fit import LanguageRecipe, cross_entropy, evaluate_language, fit_language, perplexity, sample
from .model import MODELS, build_language_model, is_noise_place
from .study import (
    METHODS,
    SEARCHED_P,
    SEARCHED_Q,
    TUNED_P,
    LanguageExperiment,
    language_model,
    load_tokens,
    measure_hidden,
    run_language,
    tuned,
)
from .tables import grid

__all__ = [
    "METHODS",
    "MODELS",
    "SEARCHED_P",
    "SEARCHED_Q",
    "TUNED_P",
    "LanguageExperiment",
    "LanguageRecipe",
    "build_language_model",
    "cross_entropy",
    "evaluate_language",
    "fit_language",
    "grid",
    "is_noise_place",
    "language_model",
    "load_tokens",
    "measure_hidden",
    "perplexity",
    "run_language",
    "sample",
    "tuned",
]
