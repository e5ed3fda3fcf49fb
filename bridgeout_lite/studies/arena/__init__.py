"""Chapter 11: every method on one network, with equal training, judged by what is left after filters are removed."""

from ..base import Study
from .claims import SECTION
from .study import *

STUDY = Study("arena", {"arena": arena_runs}, (SECTION,), table=arena_frame)
