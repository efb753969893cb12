"""What the released code of CLIP-KD computes where it departs from the paper (`compat = "clip-kd"`).

Read and recomputed from its class KDClipLoss. CRD is half of the paper's sum, the multipliers of ICL, AFD and
cross-KD are raw parameters, MFD's mask has no effect; the functions here are the two that differ in more.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from . import losses
from .local_rows import LocalRows


def feature(student: Tensor, teacher: Tensor) -> Tensor:
    """FD as a mean over B · D."""
    return F.mse_loss(student, teacher)


def gradient(student: LocalRows, teacher: LocalRows) -> Tensor:
    """GD on gradients that are divided by B, as means over B · D, with the temperature inverted.

    exp(logit_scale) is handed on as if it were the temperature, so logits are divided by it.
    """
    count = student.batch_size
    mine = losses.contrastive_gradients(student, 1 / student.scale)
    theirs = losses.contrastive_gradients(teacher, 1 / teacher.scale)
    distances = [F.mse_loss(own / count, other / count) for own, other in zip(mine, theirs, strict=True)]
    return distances[0] + distances[1] + distances[2] + distances[3]
