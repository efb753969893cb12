"""The losses of CLIP-KD (arXiv 2307.12732), each a function of unit embeddings and similarity multipliers.

Shapes: v and s are image and text embeddings [B, D] with unit rows; `scale` is the multiplier exp(logit_scale).
Each returns a scalar, a mean over B.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's task loss: ½ (cross-entropy image→text + cross-entropy text→image); pairs stand on the diagonal."""
    logits = scale * image @ text.T  # [B, B]
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def contrastive_relational(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """CRD: KL(teacher ‖ student) of the image→text distributions plus that of the text→image ones.

    Both [B, B], image × text, each with its model's own scale. The released code takes half of this sum.
    """
    return _row_divergence(student_logits, teacher_logits) + _row_divergence(
        student_logits.T, teacher_logits.T
    )


def feature(student: Tensor, teacher: Tensor) -> Tensor:
    """FD for one modality: squared distance of matching embeddings, summed over features.

    The released code averages over D as well: its weight w means w / D here.
    """
    return (student - teacher).square().sum(dim=-1).mean()


def interactive(
    student_image: Tensor, student_text: Tensor, teacher_image: Tensor, teacher_text: Tensor, scale: Tensor
) -> Tensor:
    """ICL: ½ (cross-entropy of student images against teacher texts + of student texts against teacher images)."""
    target = torch.arange(len(student_image), device=student_image.device)
    image_to_text = F.cross_entropy(scale * student_image @ teacher_text.T, target)
    text_to_image = F.cross_entropy(scale * student_text @ teacher_image.T, target)
    return (image_to_text + text_to_image) / 2


def _row_divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over rows of KL(softmax(teacher) ‖ softmax(student))."""
    student, teacher = F.log_softmax(student_logits, dim=-1), F.log_softmax(teacher_logits, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)
