"""Chapter 11: networks trained to keep the paths of their features short and straight."""

from ..base import Study
from .claims import SECTION
from .study import (
    BLOCK_COUNTS,
    FILTER_AMOUNTS,
    FILTERS,
    PLAIN,
    FlowExperiment,
    against_plain,
    feature_flow,
    flow_layers,
    flow_removal,
    flow_runs,
    measure_layers,
    measure_paths,
    removable_blocks,
    setting,
    weakest_blocks,
    without_blocks,
)

STUDY = Study("feature-flow", {"feature-flow": feature_flow}, (SECTION,), table=flow_runs)
