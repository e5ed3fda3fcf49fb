"""The deterministic rivals of the noise: penalties on weights, on coupled channels and on features, and learned gates.

Each is a small object that knows nothing of the model and of which the model knows nothing:

* ``penalty(model)`` is a scalar to add to the mean loss of the mini-batch, after the forward pass;
* ``after_step(model, lr)`` is to be called after each step of the optimizer; most do nothing then;
* those that look at features or put gates on weights also have ``attach(model)`` and ``detach(model)``.

=========================== =================================================================== =======================
object                      what it penalises                                                   makes exact zeros
=========================== =================================================================== =======================
:class:`.L1`                single weights                                                      if ``proximal``
:class:`.GroupLasso`        filters                                                             if ``proximal``
:class:`.SparseGroupLasso`  filters and single weights, by variable splitting                   in its copy, ``settle``
:class:`.OICSR`             channels: filters and the weights that read them                    no; ranks for removal
:class:`.FeatureFlow`       length and curvature of the path of features through layers         no
:class:`.L0Gates`           the expected number of open gates, one gate per filter              yes, by ``detach``
:class:`.TargetedDropout`   nothing: it drops the smallest weights at random                    yes, by ``detach``
:class:`.Stress`            nothing: it weakens weights that offspring may lack                 no
=========================== =================================================================== =======================

DropConnect is :func:`.attach_dropconnect`, which is Bridgeout at q = 2 in its odd form. Dropout is
``bl.attach_sparseout(model, p, 2.0)``; filter pruning by L1 norm is
``bl.pruning.prune(model, amount, criterion="l1")``.

A strength here multiplies a term of the *mean* loss. Papers and codes that divide their penalty by the number N of
training examples give strength times N.
"""

from ..channels import ChannelGroup, channel_groups
from ..training import Regulariser
from .base import finish
from .channels import OICSR, group_energy, prune_to_budget
from .gates import (
    LAWS,
    HardConcrete,
    L0Gates,
    Stress,
    TargetedDropout,
    attach_dropconnect,
    stressed,
    survival,
    synapse_probability,
)
from .paths import FeatureFlow, curvature, is_residual_point, length, trajectories, turning
from .penalties import L1, GroupLasso, SparseGroupLasso
from .proximal import PENALTIES, prox, shrink_groups
