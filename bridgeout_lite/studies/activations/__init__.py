"""Chapter 3: what q does to the activations of a network."""

from ..base import Study
from ..images import runs_frame
from ..measures import HISTOGRAM_EDGES, MAPPED_IMAGES, MEASURED_IMAGES, layers_frame, measure_activations
from .claims import SECTION
from .study import activation_grid
from .tables import grid

STUDY = Study("activations", {"activations": activation_grid}, (SECTION,), table=grid)
