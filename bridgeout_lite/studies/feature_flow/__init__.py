"""Chapter 10: networks trained to keep the paths of their features short and straight."""

from ..base import Study
from .claims import SECTION
from .study import *

STUDY = Study("feature-flow", {"feature-flow": feature_flow}, (SECTION,), table=flow_runs)
