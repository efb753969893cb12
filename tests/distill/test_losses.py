"""Facts of distill/losses.py: values worked by hand, zeros, an independent reference, gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdx.distill import losses


def _unit(seed: int, rows: int = 5, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


ONE = torch.tensor(1.0, dtype=torch.float64)


def test_contrastive_by_hand() -> None:
    # Two orthogonal pairs at scale 1: each row's logits are (1, 0), so each cross-entropy is ln(1 + e⁻¹).
    eye = torch.eye(2, dtype=torch.float64)
    assert losses.contrastive(eye, eye, ONE).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_contrastive_counts_both_directions() -> None:
    image, text = _unit(0), _unit(1)
    logits = 3 * image @ text.T
    by_hand = 0.0
    for k in range(5):
        row, column = logits[k], logits[:, k]
        by_hand += torch.logsumexp(row, 0).item() - row[k].item()
        by_hand += torch.logsumexp(column, 0).item() - column[k].item()
    assert losses.contrastive(image, text, 3 * ONE).item() == pytest.approx(by_hand / 10)


def test_crd_by_hand() -> None:
    # Teacher rows (¾, ¼) and (¼, ¾), student uniform; both directions alike by symmetry.
    teacher = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    student = torch.zeros(2, 2, dtype=torch.float64)
    assert losses.contrastive_relational(student, teacher).item() == pytest.approx(2 * divergence)


def test_crd_is_zero_for_equal_logits_and_points_from_teacher_to_student() -> None:
    logits = _unit(0) @ _unit(1).T
    assert losses.contrastive_relational(logits, logits).item() == pytest.approx(0, abs=1e-12)
    other = _unit(2) @ _unit(3).T
    p, q = logits.softmax(-1), other.softmax(-1)
    rows = (p * (p / q).log()).sum(-1).mean()
    p, q = logits.T.softmax(-1), other.T.softmax(-1)
    columns = (p * (p / q).log()).sum(-1).mean()
    assert losses.contrastive_relational(other, logits).item() == pytest.approx((rows + columns).item())


def test_fd_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    assert losses.feature(student, teacher).item() == pytest.approx((2 + 0) / 2)


def test_fd_is_zero_for_equal_embeddings_and_two_minus_two_cosines_else() -> None:
    student, teacher = _unit(0), _unit(1)
    assert losses.feature(student, student).item() == 0
    cosine = (student * teacher).sum(-1).mean().item()
    assert losses.feature(student, teacher).item() == pytest.approx(2 - 2 * cosine)


def test_icl_pairs_students_with_the_other_modality_of_the_teacher() -> None:
    student_image, student_text, teacher_image, teacher_text = (_unit(seed) for seed in range(4))
    expected = 0.0
    for own, other in ((student_image, teacher_text), (student_text, teacher_image)):
        for k in range(5):
            logits = 2 * other @ own[k]
            expected += torch.logsumexp(logits, 0).item() - logits[k].item()
    actual = losses.interactive(student_image, student_text, teacher_image, teacher_text, 2 * ONE)
    assert actual.item() == pytest.approx(expected / 10)


def test_gradients_agree_with_finite_differences() -> None:
    student_image, student_text = _unit(0).requires_grad_(), _unit(1).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    teacher_image, teacher_text = _unit(2), _unit(3)
    teacher_logits = 4 * teacher_image @ teacher_text.T

    def total(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return (
            losses.contrastive(image, text, scale)
            + losses.contrastive_relational(scale * image @ text.T, teacher_logits)
            + losses.feature(image, teacher_image)
            + losses.interactive(image, text, teacher_image, teacher_text, scale)
        )

    assert torch.autograd.gradcheck(total, (student_image, student_text, scale))
