"""The losses of CLIP-KD (arXiv 2307.12732) and of its peers, each a function of embeddings or logits.

A batch of B pairs may be spread over processes, b pairs each. Every function returns the mean over the process's own
rows, a scalar in the dtype of what it gets, and the mean of these over the processes is the loss of the batch. Logits
are [b, B], own rows against the columns of the whole batch (`LocalRows`), with their model's multiplier,
exp(logit_scale), in them; `first` is the column of the first row's own pair, 0 in one process.

Several teachers count as one that gives the mean of their probabilities (MobileCLIP, arXiv 2311.17049). Where
the released code of CLIP-KD computes something else, the docstring says how, and `compat.py` has it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .local_rows import LocalRows, Logits


def contrastive(logits: Logits, first: int = 0) -> Tensor:
    """CLIP's task loss: ½ (cross-entropy image→text + cross-entropy text→image); a pair is its own target.

    ICL is this with the logits of the student's rows and the teacher's columns and a learnable multiplier of its own:
    student images against teacher texts, student texts against teacher images. The released code takes the parameter
    as it is for the multiplier, here it is its exp. AFD is this with embeddings of both models fused.
    """
    image_to_text, text_to_image = logits
    target = torch.arange(first, first + len(image_to_text), device=image_to_text.device)
    return (F.cross_entropy(image_to_text, target) + F.cross_entropy(text_to_image, target)) / 2


def sigmoid(logits: Tensor, first: int = 0) -> Tensor:
    """SigLIP's task loss (arXiv 2303.15343): each of the B × B pairs is a binary question, summed over a row.

    logits: image → text, with the bias in them.
    """
    signs = 2 * _identity(logits, first) - 1
    return -F.logsigmoid(signs * logits).sum(dim=-1).mean()


def contrastive_relational(student: Logits, *teachers: Logits) -> Tensor:
    """CRD: KL(teacher ‖ student) of the image→text distributions plus that of the text→image ones.

    Each with its model's own scale. The released code takes half of this sum.
    """
    image_to_text, text_to_image = zip(*teachers, strict=True)
    return _row_divergence(student[0], image_to_text) + _row_divergence(student[1], text_to_image)


def cross_relational(student: Logits, teacher: Logits) -> Tensor:
    """Cross-KD: ½ KL from the teacher's distributions to those of ICL (student images against teacher texts, …).

    In the released code, not in the paper. student: ICL's logits.
    """
    return contrastive_relational(student, teacher) / 2


def sigmoid_relational(student: Tensor, *teachers: Tensor) -> Tensor:
    """CRD for a sigmoid student: KL of the teacher's Bernoulli of each pair to the student's, summed over a row.

    student: logits image → text, with the bias in them. teachers: their `match_probabilities`.
    """
    target = torch.stack(teachers).mean(dim=0)
    cross_entropy = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    entropy = torch.special.entr(target) + torch.special.entr(1 - target)
    return (cross_entropy - entropy).sum(dim=-1).mean()


def match_probabilities(teacher: LocalRows) -> Tensor:
    """How likely an own image and a text of the batch belong together, to a teacher of either kind: [b, B].

    A sigmoid model says so: σ(κ v·s + b). A softmax model says which of the batch's texts is an image's, P, and which
    of its images is a text's, Q. P_kj is the sigmoid of κ v_k·s_j − log Σ_{l ≠ j} exp(κ v_k·s_l): the bias that weighs
    the pair against all others of its row, so that one match a row is expected, as the batch has. Both directions
    count alike, as in a sigmoid model: ½ (P + Qᵀ).
    """
    if teacher.bias is not None:
        return (teacher.image_to_text() + teacher.bias).sigmoid()
    image_to_text, text_to_image = teacher.logits()
    by_column = _column_probabilities(text_to_image, image_to_text, teacher)
    return (image_to_text.softmax(dim=-1) + by_column) / 2


def affinity(student: Logits, *teachers: Logits) -> Tensor:
    """Affinity mimicking: ½ (cross-entropy to the teacher's image→text distribution + to its text→image one).

    With the teacher's own scale in its logits this is the soft half of open_clip's DistillClipLoss; TinyCLIP
    (arXiv 2309.12314) fixes that scale at 50. It is ½ CRD plus the teacher's entropy, a constant.
    """
    image_to_text, text_to_image = zip(*teachers, strict=True)
    return (
        _soft_cross_entropy(student[0], image_to_text) + _soft_cross_entropy(student[1], text_to_image)
    ) / 2


def feature(student: Tensor, teacher: Tensor) -> Tensor:
    """FD for one modality: squared distance of matching embeddings [b, D], summed over features.

    MFD is this with the student's embedding of an image of which it saw a part of the patches. The released
    code averages over D as well: its weight w means w / D here.
    """
    return (student - teacher).square().sum(dim=-1).mean()


def gradient(student: LocalRows, teacher: LocalRows) -> Tensor:
    """GD: squared distance of the gradients of both models' contrastive losses by each embedding.

    Four gradients of the summed losses: of image→text by images and texts, of text→image by texts and images. No
    tensor is larger than b × B or B × D. The released code divides each by B, averages over D and uses 1 / scale.
    """
    mine = contrastive_gradients(student, student.scale)
    theirs = contrastive_gradients(teacher, teacher.scale)
    return torch.stack([feature(own, other) for own, other in zip(mine, theirs, strict=True)]).sum()


def contrastive_gradients(rows: LocalRows, scale: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the whole batch's summed cross-entropies by the own embeddings, [b, D] each.

    Image→text by (image, text), text→image by (text, image). With P the softmax of each row of the B × B logits κ V Sᵀ,
    ∂/∂V = κ (P − I) S and ∂/∂S = κ (P − I)ᵀ V (arXiv 2307.12732, gradient distillation); the mirror with V and S
    exchanged.
    """
    image_to_text, text_to_image = rows.logits(scale)  # [b, B]
    images, texts = rows.all_images, rows.all_texts
    by_image, by_text = (_residual(logits, rows.first) for logits in (image_to_text, text_to_image))
    return (
        scale * by_image @ texts,
        scale * _own_columns(by_image, image_to_text, text_to_image, rows) @ images,
        scale * by_text @ images,
        scale * _own_columns(by_text, text_to_image, image_to_text, rows) @ texts,
    )


def _residual(logits: Tensor, first: int) -> Tensor:
    """softmax(logits) − identity, [b, B]."""
    return logits.softmax(dim=-1) - _identity(logits, first)


def _own_columns(residual: Tensor, logits: Tensor, transposed: Tensor, rows: LocalRows) -> Tensor:
    """The columns of the whole batch's residual [B, B] that belong to the own rows, as rows: [b, B].

    residual, logits, transposed: as `_column_probabilities`.
    """
    if rows.ranks.size == 1:
        return residual.T
    return _column_probabilities(logits, transposed, rows) - _identity(transposed, rows.first)


def _column_probabilities(logits: Tensor, transposed: Tensor, rows: LocalRows) -> Tensor:
    """The own columns of the row-wise softmax of the whole batch's logits [B, B], as rows: [b, B].

    logits: own rows. transposed: the own columns, as rows. Other processes' rows are normalised by sums that they know.
    """
    return (transposed - rows.ranks.gather(logits.logsumexp(dim=-1))).exp()


def _identity(logits: Tensor, first: int) -> Tensor:
    """[b, B]: 1 where a row meets its own pair, 0 elsewhere."""
    identity = torch.zeros_like(logits)
    identity.diagonal(first).fill_(1)
    return identity


def _mean_log_probabilities(logits: tuple[Tensor, ...]) -> Tensor:
    """Log of the mean of the row-wise softmaxes."""
    if len(logits) == 1:
        return F.log_softmax(logits[0], dim=-1)
    each = torch.stack([F.log_softmax(one, dim=-1) for one in logits])  # [teachers, b, B]
    return each.logsumexp(dim=0) - math.log(len(logits))


def _row_divergence(student: Tensor, teachers: tuple[Tensor, ...]) -> Tensor:
    """Mean over rows of KL(teacher ‖ softmax(student))."""
    return F.kl_div(
        F.log_softmax(student, dim=-1),
        _mean_log_probabilities(teachers),
        reduction="batchmean",
        log_target=True,
    )


def _soft_cross_entropy(student: Tensor, teachers: tuple[Tensor, ...]) -> Tensor:
    """Mean over rows of −Σ teacher · log softmax(student)."""
    return F.cross_entropy(student, _mean_log_probabilities(teachers).exp())
