"""Chapter 12: every method on one network, with equal training, judged by what is left after filters are removed."""

from ..base import Study
from .claims import SECTION
from .study import (
    AMOUNTS,
    BATCHES,
    CHOSEN,
    CONTENDERS,
    CONTROLS,
    LABELS,
    NETWORKS,
    RANKINGS,
    TREATMENTS,
    ArenaExperiment,
    arena_frame,
    arena_runs,
    choose_strengths,
    complete,
    exact_zeros,
    final,
    measure_points,
    repeats,
    search,
    setting,
    smaller,
    standings,
)

STUDY = Study("arena", {"arena": arena_runs}, (SECTION,), table=arena_frame)
