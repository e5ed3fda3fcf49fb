"""Chapter 14: networks whose ends are shared with autoencoders of the inputs and of the answers."""

from ..base import Study
from .claims import SECTION
from .faces import load_pairs, shapes
from .model import (
    INPUT_ENDS,
    OUTPUT_ENDS,
    VARIANTS,
    LinearRival,
    SharedAutoencoders,
    StructuredRecipe,
    captured,
    cdf_and_auc,
    errors,
    falling,
    fit_structured,
    off_shape,
    off_surface,
    predict,
)
from .study import (
    NOISE_AT,
    NOISE_SEEDS,
    SEARCHED_Q,
    TASKS,
    TUNED,
    TUNED_P,
    StructuredExperiment,
    build_structured,
    epochs_to,
    searched_structured,
    structured_frame,
    structured_output,
    tuned_p,
    tuned_weights,
)

STUDY = Study("structured-output", {"structured-output": structured_output}, (SECTION,), table=structured_frame)
