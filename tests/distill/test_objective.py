"""Facts of distill/objective.py."""

import pytest
import torch
from torch.nn import functional as F

from kdx.core.config import parse
from kdx.core.errors import UsageError
from kdx.distill import Embeddings, Objective, ObjectiveConfig

ALL = ObjectiveConfig(task=1.0, crd=0.5, fd=3.0, icl=2.0)


def _embeddings(width: int, seed: int, *, unit: bool = False) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(6, width, generator=generator), torch.randn(6, width, generator=generator)
    if unit:
        image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    return Embeddings(image, text, torch.tensor(10.0))


def test_the_terms_sum_to_the_total() -> None:
    total, terms = Objective(ALL, 8, 8)(_embeddings(8, 0), _embeddings(8, 1, unit=True))
    assert list(terms) == ["task", "crd", "fd", "icl"]
    assert total.item() == pytest.approx(sum(term.item() for term in terms.values()))


def test_a_weight_scales_its_term_alone() -> None:
    student, teacher = _embeddings(8, 0), _embeddings(8, 1, unit=True)
    _, once = Objective(ALL, 8, 8)(student, teacher)
    _, twice = Objective(ALL.model_copy(update={"fd": 6.0}), 8, 8)(student, teacher)
    assert twice["fd"].item() == pytest.approx(2 * once["fd"].item())
    assert {name: t.item() for name, t in twice.items() if name != "fd"} == {
        name: t.item() for name, t in once.items() if name != "fd"
    }


def test_the_student_is_normalised_and_the_baseline_needs_no_teacher() -> None:
    student = _embeddings(8, 0)
    longer = Embeddings(7 * student.image, 7 * student.text, student.scale)
    objective = Objective(ObjectiveConfig(), 8)
    assert objective(student, None)[0].item() == pytest.approx(objective(longer, None)[0].item(), rel=1e-5)
    assert not list(objective.parameters())


def test_different_widths_are_projected_and_the_projections_learn() -> None:
    torch.manual_seed(0)
    objective = Objective(ALL, 8, 5)
    total, _ = objective(_embeddings(8, 0), _embeddings(5, 1, unit=True))
    total.backward()
    assert {name for name, p in objective.named_parameters() if p.grad is not None} == {
        "project_image.weight",
        "project_image.bias",
        "project_text.weight",
        "project_text.bias",
        "icl_logit_scale",
    }


def test_half_precision_embeddings_give_a_float32_loss() -> None:
    student, teacher = _embeddings(8, 0), _embeddings(8, 1, unit=True)
    halves = Embeddings(student.image.bfloat16(), student.text.bfloat16(), student.scale)
    assert Objective(ALL, 8, 8)(halves, teacher)[0].dtype == torch.float32


@pytest.mark.parametrize("table", [{"task": 0.0}, {"fd": -1.0}, {"ckd": 1.0}, {"task": "much"}])
def test_impossible_weights_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        parse(ObjectiveConfig, table, "test")
