r"""Evolutionary synthesis: networks that shrink from generation to generation, by draws from what their parents weigh.

A trained parent says how likely each of its parts is to be in its offspring; an *environmental factor* F makes all of
them less likely; the offspring is drawn, trained, and becomes the next parent. With *stress* the parts that may be
missing in the offspring are weakened at random while the parent is still in training.

=================== ==================================================================================================
weight              survives with probability :math:`F\,e^{|w|/Z-1}`, Z the largest magnitude of its layer
filter              with :math:`F\,e^{s/S-1}`, s the *mean* truncated magnitude of its weights, S the largest such mean
                    of the layer. Truncated: magnitudes below a tenth of Z count as zero.
channel group       filters that additions tie together survive together; their s/S is the mean over the layers
stress              :math:`w(1 - s\,m)` in training, see :class:`bridgeout_lite.rivals.gates.Stress`
=================== ==================================================================================================

This is a reconstruction. As we recall the published rule, the exponent of a filter is :math:`\sum_k
\mathrm{trunc}(w_k)/Z - 1`, a sum of up to thousands of terms of which each may be 1: no probability. Mean for sum and
division by the largest mean of the layer make it one. F, the truncation and all of the stress are our choice.

Sources: Shafiee et al. 2019, arXiv:1801.05387 (stress); Shafiee, Mishra and Wong 2016, arXiv:1606.04393 (synthesis).
"""

from ..base import Study
from .claims import SECTION
from .study import *
from .synthesis import *
from .teacher import *

STUDY = Study("evolution", {"evolution": lineages}, (SECTION,), table=lineages_frame)
