"""Chapter 9: language models, and what q does to them."""

from ..base import Study
from .claims import SECTION
from .fit import LanguageRecipe, cross_entropy, evaluate_language, fit_language, perplexity, sample
from .model import MODELS, build_language_model, is_noise_place
from .study import (
    METHODS,
    SEARCHED_P,
    SEARCHED_Q,
    TUNED_P,
    LanguageExperiment,
    language_model,
    measure_hidden,
    tuned,
)
from .tables import grid

STUDY = Study("language", {"language": language_model}, (SECTION,), table=grid)
