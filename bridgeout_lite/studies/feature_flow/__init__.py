"""Chapter 11: networks trained to keep the paths of their features short and straight."""

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

__all__ = [
    "BLOCK_COUNTS",
    "FILTERS",
    "FILTER_AMOUNTS",
    "PLAIN",
    "FlowExperiment",
    "against_plain",
    "feature_flow",
    "flow_layers",
    "flow_removal",
    "flow_runs",
    "measure_layers",
    "measure_paths",
    "removable_blocks",
    "setting",
    "weakest_blocks",
    "without_blocks",
]
