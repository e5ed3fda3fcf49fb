"""Chapter 13: networks whose ends are shared with autoencoders of the inputs and of the answers."""

from ..base import Study
from .claims import SECTION
from .faces import *
from .model import *
from .study import *

STUDY = Study("structured-output", {"structured-output": structured_output}, (SECTION,), table=structured_frame)
