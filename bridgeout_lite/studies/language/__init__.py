"""Chapter 8: language models, and what q does to them."""

from ..base import Study
from .claims import SECTION
from .fit import *
from .model import *
from .study import *
from .tables import grid

STUDY = Study("language", {"language": language_model}, (SECTION,), table=grid)
