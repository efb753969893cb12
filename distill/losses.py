"""The losses of CLIP-KD (arXiv 2307.12732) and of its peers, each a function of embeddings or logits.

Shapes: embeddings are [B, D] with unit rows, logits [B, B], image × text, with their model's multiplier in them;
`scale` is that multiplier, exp(logit_scale). Each returns a scalar, a mean over B in the dtype of what it gets.
Several teachers count as one that gives the mean of their probabilities (MobileCLIP, arXiv 2311.17049). Where
the released code of CLIP-KD computes something else, the docstring says how, and `compat.py` has it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's task loss: ½ (cross-entropy image→text + cross-entropy text→image); pairs stand on the diagonal."""
    logits = scale * image @ text.T  # [B, B]
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP's task loss (arXiv 2303.15343): each of the B × B pairs is a binary question, summed over a row."""
    logits = scale * image @ text.T + bias  # [B, B]
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(signs * logits).sum(dim=-1).mean()


def contrastive_relational(student_logits: Tensor, *teacher_logits: Tensor) -> Tensor:
    """CRD: KL(teacher ‖ student) of the image→text distributions plus that of the text→image ones.

    Each with its model's own scale. The released code takes half of this sum.
    """
    return _row_divergence(student_logits, teacher_logits) + _row_divergence(
        student_logits.T, _transposed(teacher_logits)
    )


def sigmoid_relational(student_logits: Tensor, *teacher_logits: Tensor) -> Tensor:
    """CRD for sigmoid models: KL of the teacher's Bernoulli of each pair to the student's, summed over a row.

    Logits hold their model's bias.
    """
    target = torch.stack([logits.sigmoid() for logits in teacher_logits]).mean(dim=0)
    cross_entropy = F.binary_cross_entropy_with_logits(student_logits, target, reduction="none")
    entropy = torch.special.entr(target) + torch.special.entr(1 - target)
    return (cross_entropy - entropy).sum(dim=-1).mean()


def affinity(student_logits: Tensor, *teacher_logits: Tensor) -> Tensor:
    """Affinity mimicking: ½ (cross-entropy to the teacher's image→text distribution + to its text→image one).

    With the teacher's own scale in its logits this is the soft half of open_clip's DistillClipLoss; TinyCLIP
    (arXiv 2309.12314) fixes that scale at 50. It is ½ CRD plus the teacher's entropy, a constant.
    """
    rows = _soft_cross_entropy(student_logits, teacher_logits)
    columns = _soft_cross_entropy(student_logits.T, _transposed(teacher_logits))
    return (rows + columns) / 2


def feature(student: Tensor, teacher: Tensor) -> Tensor:
    """FD for one modality: squared distance of matching embeddings, summed over features.

    MFD is this with the student's embedding of an image of which it saw a part of the patches. The released
    code averages over D as well: its weight w means w / D here.
    """
    return (student - teacher).square().sum(dim=-1).mean()


def interactive(
    student_image: Tensor, student_text: Tensor, teacher_image: Tensor, teacher_text: Tensor, scale: Tensor
) -> Tensor:
    """ICL: ½ (cross-entropy of student images against teacher texts + of student texts against teacher images).

    scale: a learnable multiplier of its own, as exp of a parameter; the released code takes the parameter itself.
    """
    target = torch.arange(len(student_image), device=student_image.device)
    image_to_text = F.cross_entropy(scale * student_image @ teacher_text.T, target)
    text_to_image = F.cross_entropy(scale * student_text @ teacher_image.T, target)
    return (image_to_text + text_to_image) / 2


def cross_relational(
    student_image: Tensor,
    student_text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    scale: Tensor,
    teacher_scale: Tensor,
) -> Tensor:
    """Cross-KD: ½ KL from the teacher's distributions to those of ICL (student images against teacher texts, …).

    In the released code, not in the paper. scale: ICL's; teacher_scale: the teacher's own.
    """
    teacher_logits = teacher_scale * teacher_image @ teacher_text.T  # [B, B]
    image_to_text = _row_divergence(scale * student_image @ teacher_text.T, (teacher_logits,))
    text_to_image = _row_divergence(scale * student_text @ teacher_image.T, (teacher_logits.T,))
    return (image_to_text + text_to_image) / 2


def gradient(
    student_image: Tensor,
    student_text: Tensor,
    student_scale: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    teacher_scale: Tensor,
) -> Tensor:
    """GD: squared distance of the gradients of both models' contrastive losses by each embedding.

    Four gradients of the summed losses: of image→text by images and texts, of text→image by texts and images. No
    tensor is larger than B × max(B, D). The released code divides each by B, averages over D and uses 1 / scale.
    """
    student = contrastive_gradients(student_image, student_text, student_scale)
    teacher = contrastive_gradients(teacher_image, teacher_text, teacher_scale)
    return torch.stack([feature(own, other) for own, other in zip(student, teacher, strict=True)]).sum()


def contrastive_gradients(
    image: Tensor, text: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients [B, D] of the summed cross-entropies: image→text by (image, text), text→image by (text, image).

    For one row k of image→text, ∂/∂v_k = κ Σ_b (p_k[b] − 1[k = b]) s_b (arXiv 2307.12732, gradient distillation).
    """
    logits = scale * image @ text.T  # [B, B]
    by_image, by_text = _residual(logits), _residual(logits.T)
    return (
        scale * by_image @ text,
        scale * by_image.T @ image,
        scale * by_text @ image,
        scale * by_text.T @ text,
    )


def _residual(logits: Tensor) -> Tensor:
    """softmax(logits) − identity."""
    return logits.softmax(dim=-1) - torch.eye(len(logits), dtype=logits.dtype, device=logits.device)


def _transposed(logits: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.T for each in logits)


def _mean_log_probabilities(logits: tuple[Tensor, ...]) -> Tensor:
    """Log of the mean of the row-wise softmaxes."""
    if len(logits) == 1:
        return F.log_softmax(logits[0], dim=-1)
    each = torch.stack([F.log_softmax(one, dim=-1) for one in logits])  # [teachers, B, B]
    return each.logsumexp(dim=0) - math.log(len(logits))


def _row_divergence(student_logits: Tensor, teacher_logits: tuple[Tensor, ...]) -> Tensor:
    """Mean over rows of KL(teacher ‖ softmax(student))."""
    student = F.log_softmax(student_logits, dim=-1)
    teacher = _mean_log_probabilities(teacher_logits)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _soft_cross_entropy(student_logits: Tensor, teacher_logits: tuple[Tensor, ...]) -> Tensor:
    """Mean over rows of −Σ teacher · log softmax(student)."""
    return F.cross_entropy(student_logits, _mean_log_probabilities(teacher_logits).exp())
