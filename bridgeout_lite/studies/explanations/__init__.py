r"""What does a trained network look at? Explanation by interpretation, and how to test an explanation.

Each channel's response to an image is one number, so an image is a vector f. A lasso finds, for each class c, the few
channels that tell it from the others:

.. math:: \min_{w_c} \lVert F w_c - l_c\rVert^2 \quad\text{subject to}\quad \lVert w_c\rVert_1 \le \mu,

with the vectors of n images as rows of F and :math:`l_c` = 1 for the images that the network takes for class c, else 0.
An image is then explained by the few of these channels that speak most for its class, each drawn back into the image.

The vectors, the constraint and the choice of the three channels follow the released code of the paper; the statement of
the lasso, the average pictures and the remedy for strides are our reconstruction, as is every detail of the tests.

Source: Oramas, Wang and Tuytelaars, "Visual Explanation by Interpretation", ICLR 2019, arXiv:1712.06302.
"""

from ..base import Study
from .claims import SECTION
from .faithfulness import *
from .features import *
from .pictures import *
from .study import *

STUDY = Study("explanations", {"explanations": explanations}, (SECTION,), table=explanations_frame)
