"""Facts of distill/losses.py: values worked by hand, zeros, an independent reference, gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import DistillClipLoss
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdx.distill import losses
from kdx.distill.local_rows import LocalRows, Logits


def _unit(seed: int, rows: int = 5, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


ONE = torch.tensor(1.0, dtype=torch.float64)


def _both(logits: Tensor) -> Logits:
    return logits, logits.T


def _crossed(
    image: Tensor, text: Tensor, teacher_image: Tensor, teacher_text: Tensor, scale: Tensor
) -> Logits:
    return LocalRows(image, text, scale).logits_to(LocalRows(teacher_image, teacher_text, ONE), scale)


def test_contrastive_by_hand() -> None:
    # Two orthogonal pairs at scale 1: each row's logits are (1, 0), so each cross-entropy is ln(1 + e⁻¹).
    eye = torch.eye(2, dtype=torch.float64)
    assert losses.contrastive(_both(eye @ eye.T)).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_contrastive_counts_both_directions() -> None:
    image, text = _unit(0), _unit(1)
    logits = 3 * image @ text.T
    by_hand = 0.0
    for k in range(5):
        row, column = logits[k], logits[:, k]
        by_hand += torch.logsumexp(row, 0).item() - row[k].item()
        by_hand += torch.logsumexp(column, 0).item() - column[k].item()
    assert losses.contrastive(_both(logits)).item() == pytest.approx(by_hand / 10)


def test_crd_by_hand() -> None:
    # Teacher rows (¾, ¼) and (¼, ¾), student uniform; both directions alike by symmetry.
    teacher = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    student = torch.zeros(2, 2, dtype=torch.float64)
    assert losses.contrastive_relational(_both(student), _both(teacher)).item() == pytest.approx(
        2 * divergence
    )


def test_crd_is_zero_for_equal_logits_and_points_from_teacher_to_student() -> None:
    logits = _unit(0) @ _unit(1).T
    assert losses.contrastive_relational(_both(logits), _both(logits)).item() == pytest.approx(0, abs=1e-12)
    other = _unit(2) @ _unit(3).T
    p, q = logits.softmax(-1), other.softmax(-1)
    rows = (p * (p / q).log()).sum(-1).mean()
    p, q = logits.T.softmax(-1), other.T.softmax(-1)
    columns = (p * (p / q).log()).sum(-1).mean()
    assert losses.contrastive_relational(_both(other), _both(logits)).item() == pytest.approx(
        (rows + columns).item()
    )


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
    actual = losses.contrastive(_crossed(student_image, student_text, teacher_image, teacher_text, 2 * ONE))
    assert actual.item() == pytest.approx(expected / 10)


def test_sigmoid_by_hand() -> None:
    # Orthogonal pairs, scale 2, bias -1: logits 1 on the diagonal (label +1) and -1 beside it (label -1).
    eye = torch.eye(2, dtype=torch.float64)
    expected = 2 * math.log(1 + math.exp(-1))
    assert losses.sigmoid(2 * eye - 1).item() == pytest.approx(expected)


def test_sigmoid_relational_by_hand_and_zero() -> None:
    # Teacher ¾ everywhere, student ½: each of two questions a row costs the same Bernoulli divergence.
    teacher, student = torch.full((2, 2), math.log(3), dtype=torch.float64), torch.zeros(2, 2).double()
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert losses.sigmoid_relational(student, teacher.sigmoid()).item() == pytest.approx(2 * divergence)
    assert losses.sigmoid_relational(teacher, teacher.sigmoid()).item() == pytest.approx(0, abs=1e-12)


def test_affinity_by_hand() -> None:
    # A uniform student answers every distribution with ln B.
    teacher = 3 * _unit(0) @ _unit(1).T
    assert losses.affinity(_both(torch.zeros(5, 5).double()), _both(teacher)).item() == pytest.approx(
        math.log(5)
    )


def test_affinity_is_half_of_crd_plus_the_teachers_entropy() -> None:
    student, teacher = 2 * _unit(0) @ _unit(1).T, 5 * _unit(2) @ _unit(3).T
    entropy = sum(torch.special.entr(t.softmax(-1)).sum(-1).mean() for t in (teacher, teacher.T)) / 2
    expected = losses.contrastive_relational(_both(student), _both(teacher)) / 2 + entropy
    assert losses.affinity(_both(student), _both(teacher)).item() == pytest.approx(float(expected))


def test_affinity_is_the_soft_half_of_open_clips_distiller() -> None:
    image, text, teacher_image, teacher_text = (_unit(seed).float() for seed in range(4))
    hard, soft = DistillClipLoss()(
        image, text, torch.tensor(3.0), teacher_image, teacher_text, torch.tensor(20.0)
    )
    logits = 3 * image @ text.T
    assert losses.contrastive(_both(logits)).item() == pytest.approx(hard.item(), rel=1e-5)
    actual = losses.affinity(_both(logits), _both(20 * teacher_image @ teacher_text.T)).item()
    assert actual == pytest.approx(soft.item(), rel=1e-5)


def test_two_teachers_count_as_the_mean_of_their_probabilities() -> None:
    student = 2 * _unit(0) @ _unit(1).T
    first, second = 5 * _unit(2) @ _unit(3).T, 9 * _unit(4) @ _unit(5).T
    expected = 0.0
    for s, a, b in ((student, first, second), (student.T, first.T, second.T)):
        p, q = (a.softmax(-1) + b.softmax(-1)) / 2, s.softmax(-1)
        expected += (p * (p / q).log()).sum(-1).mean().item()
    assert losses.contrastive_relational(_both(student), _both(first), _both(second)).item() == pytest.approx(
        expected
    )
    both = losses.sigmoid_relational(student, first.sigmoid(), second.sigmoid()).item()
    mean = (first.sigmoid() + second.sigmoid()) / 2
    assert both == pytest.approx(losses.sigmoid_relational(student, mean).item())


def test_cross_kd_by_hand() -> None:
    # Teacher (¾, ¼) by scale ln 3 on orthogonal pairs; student embeddings equal in all rows, so uniform.
    eye = torch.eye(2, dtype=torch.float64)
    flat = torch.full((2, 2), 0.5**0.5, dtype=torch.float64)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    actual = losses.cross_relational(_crossed(flat, flat, eye, eye, 7 * ONE), _both(math.log(3) * eye))
    assert actual.item() == pytest.approx(divergence)


def test_cross_kd_is_zero_for_a_student_that_is_the_teacher() -> None:
    image, text = _unit(0), _unit(1)
    assert losses.cross_relational(
        _crossed(image, text, image, text, 4 * ONE), _both(4 * image @ text.T)
    ).item() == pytest.approx(0)


def test_gd_by_hand() -> None:
    # Orthogonal pairs at scale 1: P − I is [[-e, e], [e, -e]] with e = 1 / (1 + exp 1), so all four gradients of the
    # student are that matrix. A teacher with equal rows has P = ½, and P − I times equal rows is 0.
    eye = torch.eye(2, dtype=torch.float64)
    flat = torch.full((2, 2), 0.5**0.5, dtype=torch.float64)
    e = 1 / (1 + math.e)
    assert losses.gradient(LocalRows(eye, eye, ONE), LocalRows(flat, flat, 9 * ONE)).item() == pytest.approx(
        4 * 2 * e**2
    )


def test_gd_is_zero_for_a_student_that_is_the_teacher() -> None:
    rows = LocalRows(_unit(0), _unit(1), 3 * ONE)
    assert losses.gradient(rows, rows).item() == 0


def test_contrastive_gradients_are_those_of_autograd() -> None:
    image, text = _unit(0).requires_grad_(), _unit(1).requires_grad_()
    logits = 6 * image @ text.T
    target = torch.arange(5)
    rows = F.cross_entropy(logits, target, reduction="sum")
    columns = F.cross_entropy(logits.T, target, reduction="sum")
    expected = (
        *torch.autograd.grad(rows, (image, text), retain_graph=True),
        *torch.autograd.grad(columns, (text, image)),
    )
    actual = losses.contrastive_gradients(LocalRows(image, text, ONE), 6 * ONE)
    assert all(torch.allclose(a, b) for a, b in zip(actual, expected, strict=True))


def test_gd_needs_no_tensor_larger_than_the_logits() -> None:
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor))
            return result

    batch, width = 24, 40
    v, s, vt, st = (_unit(seed, batch, width).requires_grad_(seed < 2) for seed in range(4))
    with Sizes():
        losses.gradient(LocalRows(v, s, ONE), LocalRows(vt, st, ONE)).backward()
    assert max(sizes) == batch * max(batch, width)


def test_gradients_agree_with_finite_differences() -> None:
    image, text = _unit(0).requires_grad_(), _unit(1).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    v, s = _unit(2), _unit(3)
    logits = 4 * v @ s.T

    def each(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        rows = LocalRows(image, text, scale)
        own, teacher, crossed = rows.logits(), _both(logits), _crossed(image, text, v, s, scale)
        return (
            losses.contrastive(own),
            losses.sigmoid(own[0] - 1),
            losses.contrastive_relational(own, teacher),
            losses.sigmoid_relational(own[0] - 1, (logits - 1).sigmoid()),
            losses.affinity(own, teacher),
            losses.feature(image, v) + losses.feature(text, s),
            losses.contrastive(crossed),
            losses.cross_relational(crossed, teacher),
            losses.gradient(rows, LocalRows(v, s, 4 * ONE)),
        )

    assert torch.autograd.gradcheck(each, (image, text, scale))
