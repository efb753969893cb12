"""What the released code of CLIP-KD computes where it departs from the paper (`compat = "clip-kd"`).

Read and recomputed from its class KDClipLoss. CRD is half of the paper's sum, the multipliers of ICL, AFD and
cross-KD are raw parameters, MFD's mask has no effect; the functions here are the two that differ in more.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from . import losses


def feature(student: Tensor, teacher: Tensor) -> Tensor:
    """FD as a mean over B · D."""
    return F.mse_loss(student, teacher)


def gradient(
    student_image: Tensor,
    student_text: Tensor,
    student_scale: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    teacher_scale: Tensor,
) -> Tensor:
    """GD on gradients that are divided by B, as means over B · D, with the temperature inverted.

    exp(logit_scale) is handed on as if it were the temperature, so logits are divided by it.
    """
    count = len(student_image)
    student = losses.contrastive_gradients(student_image, student_text, 1 / student_scale)
    teacher = losses.contrastive_gradients(teacher_image, teacher_text, 1 / teacher_scale)
    distances = [F.mse_loss(own / count, other / count) for own, other in zip(student, teacher, strict=True)]
    return distances[0] + distances[1] + distances[2] + distances[3]
