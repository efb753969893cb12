"""Facts of distill/objective.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from kdx.core.config import parse
from kdx.core.errors import UsageError
from kdx.distill import Embeddings, Objective, ObjectiveConfig
from kdx.distill.objective import INITIAL_LOG_SCALE

ALL = ObjectiveConfig(task=1.0, crd=0.5, fd=3.0, icl=2.0)


def _embeddings(width: int, seed: int, *, unit: bool = False) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(6, width, generator=generator), torch.randn(6, width, generator=generator)
    if unit:
        image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    return Embeddings(image, text, torch.tensor(10.0))


def _doubles(embeddings: Embeddings) -> Embeddings:
    image, text, scale = (t.double() for t in (embeddings.image, embeddings.text, embeddings.scale))
    return Embeddings(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale)


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
        "bridges.0.project_image.weight",
        "bridges.0.project_image.bias",
        "bridges.0.project_text.weight",
        "bridges.0.project_text.bias",
        "bridges.0.icl_logit_scale",
    }


def test_half_precision_embeddings_give_a_float32_loss() -> None:
    student, teacher = _embeddings(8, 0), _embeddings(8, 1, unit=True)
    halves = Embeddings(student.image.bfloat16(), student.text.bfloat16(), student.scale)
    assert Objective(ALL, 8, 8)(halves, teacher)[0].dtype == torch.float32


@pytest.mark.parametrize("table", [{"task": 0.0}, {"fd": -1.0}, {"ckd": 1.0}, {"task": "much"}])
def test_impossible_weights_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        parse(ObjectiveConfig, table, "test")


EVERY = ObjectiveConfig(task=1, crd=1, fd=1, mfd=1, gd=1, icl=1, afd=1, cross_kd=1, affinity=1)


def _masked(student: Embeddings, seed: int = 9) -> Embeddings:
    return replace(student, masked_image=_embeddings(student.image.shape[1], seed).image)


@pytest.mark.parametrize("compat", ["paper", "clip-kd"])
@pytest.mark.parametrize("teacher_dim", [8, 5])
def test_every_method_gives_a_term_and_trains_its_parameters(compat: str, teacher_dim: int) -> None:
    torch.manual_seed(0)
    objective = Objective(EVERY.model_copy(update={"compat": compat}), 8, teacher_dim)
    total, terms = objective(_masked(_embeddings(8, 0)), _embeddings(teacher_dim, 1, unit=True))
    assert set(terms) == {"task", "crd", "affinity", "fd", "mfd", "gd", "icl", "afd", "cross_kd"}
    assert total.item() == pytest.approx(sum(term.item() for term in terms.values()), rel=1e-6)
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())


def _reference(student: Embeddings, teacher: Embeddings) -> dict[str, float]:
    """What the released code computes at equal widths, written anew in loops over rows (clip-kd's own scales)."""
    v, s = F.normalize(student.image, dim=-1), F.normalize(student.text, dim=-1)
    vt, st = teacher.image, teacher.text
    count, width = v.shape
    raw = INITIAL_LOG_SCALE

    def divergence(own: torch.Tensor, other: torch.Tensor) -> float:
        p, q = other.softmax(-1), own.softmax(-1)
        return sum(float((p[k] * (p[k].log() - q[k].log())).sum()) for k in range(count)) / count

    def cross_entropy(logits: torch.Tensor) -> float:
        return sum(float(logits[k].logsumexp(0) - logits[k, k]) for k in range(count)) / count

    def gradients(a: torch.Tensor, b: torch.Tensor, tau: torch.Tensor) -> list[torch.Tensor]:
        p = (a @ b.T / tau).softmax(-1)
        by_a = torch.stack(
            [sum((p[k, j] - float(k == j)) * b[j] for j in range(count)) / tau / count for k in range(count)]
        )
        by_b = torch.stack(
            [sum((p[k, j] - float(k == j)) * a[k] for k in range(count)) / tau / count for j in range(count)]
        )
        return [by_a, by_b]

    own, other = student.scale * v @ s.T, teacher.scale * vt @ st.T
    mine = gradients(v, s, student.scale) + gradients(s, v, student.scale)
    theirs = gradients(vt, st, teacher.scale) + gradients(st, vt, teacher.scale)
    fd = float((v - vt).square().sum() + (s - st).square().sum()) / (count * width)
    return {
        "task": (cross_entropy(own) + cross_entropy(own.T)) / 2,
        "crd": (divergence(own, other) + divergence(own.T, other.T)) / 2,
        "fd": fd,
        "mfd": fd,
        "gd": sum(float((a - b).square().sum()) for a, b in zip(mine, theirs, strict=True)) / (count * width),
        "icl": (cross_entropy(raw * v @ st.T) + cross_entropy(raw * s @ vt.T)) / 2,
        "cross_kd": (divergence(raw * v @ st.T, other) + divergence(raw * s @ vt.T, other.T)) / 2,
    }


def test_compat_computes_what_the_released_code_computes() -> None:
    student, teacher = _doubles(_embeddings(8, 0)), _doubles(_embeddings(8, 1, unit=True))
    config = EVERY.model_copy(update={"compat": "clip-kd", "afd": 0.0, "affinity": 0.0})
    _, terms = Objective(config, 8, 8).double()(student, teacher)  # needs no masked image
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(_reference(student, teacher))


def test_published_weights_mean_the_same_strength_in_both_forms() -> None:
    student, teacher = _doubles(_embeddings(8, 0)), _doubles(_embeddings(8, 1, unit=True))
    released = ObjectiveConfig(crd=1.0, fd=2000.0, compat="clip-kd")
    paper = ObjectiveConfig(crd=0.5, fd=2000.0 / 8)
    _, one = Objective(released, 8, 8)(student, teacher)
    _, two = Objective(paper, 8, 8)(student, teacher)
    assert {k: v.item() for k, v in one.items()} == pytest.approx({k: v.item() for k, v in two.items()})


def test_afd_fuses_unit_embeddings_of_both() -> None:
    torch.manual_seed(1)
    student, teacher = _embeddings(8, 0), _embeddings(5, 1, unit=True)
    objective = Objective(ObjectiveConfig(task=0.0, afd=1.0), 8, 5)
    bridge: Any = objective.bridges[0]
    image = bridge.fuse_image(torch.cat((F.normalize(student.image, dim=-1), teacher.image), dim=-1))
    text = bridge.fuse_text(torch.cat((F.normalize(student.text, dim=-1), teacher.text), dim=-1))
    logits = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T / 0.07
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert objective(student, teacher)[1]["afd"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_mfd_compares_the_masked_image_and_asks_for_it() -> None:
    student, teacher = _masked(_embeddings(8, 0)), _embeddings(8, 1, unit=True)
    config = ObjectiveConfig(fd=1.0, mfd=1.0)
    assert config.masks_patches
    _, terms = Objective(config, 8, 8)(student, teacher)
    _, unmasked = Objective(config, 8, 8)(replace(student, image=student.masked_image), teacher)
    assert terms["mfd"].item() == pytest.approx(unmasked["fd"].item()) != pytest.approx(terms["fd"].item())
    with pytest.raises(ValueError, match="masked_image"):
        Objective(config, 8, 8)(_embeddings(8, 0), teacher)


def test_two_equal_teachers_are_one_and_their_number_is_checked() -> None:
    student, teacher = _masked(_embeddings(8, 0)), _embeddings(8, 1, unit=True)
    config = EVERY.model_copy(update={"afd": 0.0})
    _, one = Objective(config, 8, 8)(student, teacher)
    _, two = Objective(config, 8, (8, 8))(student, [teacher, teacher])
    assert {k: v.item() for k, v in one.items()} == pytest.approx({k: v.item() for k, v in two.items()})
    with pytest.raises(ValueError, match=r"\b2\b.*\b1\b"):
        Objective(config, 8, (8, 8))(student, teacher)


def test_teachers_of_two_widths_have_a_projection_each() -> None:
    student = _embeddings(8, 0)
    objective = Objective(ALL, 8, (8, 5))
    _, terms = objective(student, [_embeddings(8, 1, unit=True), _embeddings(5, 2, unit=True)])
    equal, other = (dict(bridge.named_parameters()) for bridge in objective.bridges)
    assert "project_image.weight" not in equal and other["project_image.weight"].shape == (5, 8)
    _, first = Objective(ALL, 8, 8)(student, _embeddings(8, 1, unit=True))
    assert terms["fd"].item() != pytest.approx(first["fd"].item())


def test_tinyclips_fixed_scale_replaces_the_teachers_own() -> None:
    student, teacher = _embeddings(8, 0), _embeddings(8, 1, unit=True)
    fixed = ObjectiveConfig(affinity=1.0, teacher_scale=50.0)
    _, terms = Objective(fixed, 8, 8)(student, teacher)
    _, expected = Objective(ObjectiveConfig(affinity=1.0), 8, 8)(
        student, replace(teacher, scale=torch.tensor(50.0))
    )
    assert terms["affinity"].item() == expected["affinity"].item()


@pytest.mark.parametrize("term", ["crd", "gd", "cross_kd", "affinity"])
def test_each_of_several_teachers_has_a_scale_of_its_own(term: str) -> None:
    student = _embeddings(8, 0)
    first, second = _embeddings(8, 1, unit=True), _embeddings(8, 2, unit=True)
    set_ = ObjectiveConfig.model_validate({term: 1.0, "teacher_scale": (20.0, 70.0)})
    own = ObjectiveConfig.model_validate({term: 1.0})
    scaled = [replace(first, scale=torch.tensor(20.0)), replace(second, scale=torch.tensor(70.0))]
    got, expected = (
        Objective(config, 8, (8, 8))(student, teachers)[1][term].item()
        for config, teachers in ((set_, [first, second]), (own, scaled))
    )
    assert got == expected != Objective(own, 8, (8, 8))(student, [first, second])[1][term].item()


def test_a_scale_for_each_teacher_needs_as_many_teachers() -> None:
    two = ObjectiveConfig(crd=1.0, teacher_scale=(20.0, 70.0))
    two.check_teachers(2)
    ObjectiveConfig(crd=1.0, teacher_scale=20.0).check_teachers(3)
    with pytest.raises(UsageError) as caught:
        two.check_teachers(1)
    assert "2 numbers for 1 teacher" in caught.value.what


def test_a_sigmoid_student_brings_its_bias_and_a_teacher_need_not() -> None:
    config = ObjectiveConfig(crd=1.0, contrast="sigmoid")
    bias = torch.tensor(-10.0)
    student, teacher = _embeddings(8, 0), _embeddings(8, 1, unit=True)
    _, terms = Objective(config, 8, 8)(replace(student, bias=bias), replace(teacher, bias=bias))
    assert set(terms) == {"task", "crd"}
    same = replace(teacher, bias=bias)
    assert Objective(config, 8, 8)(same, same)[1]["crd"].item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="student"):
        Objective(config, 8, 8)(student, replace(teacher, bias=bias))
    assert Objective(config, 8, 8)(replace(student, bias=bias), teacher)[1]["crd"].item() > 0


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"gd": 1.0, "contrast": "sigmoid"}, "gd = 1"),
        ({"teacher_scale": 50.0}, "teacher_scale"),
        ({"fd": 1.0, "teacher_scale": 50.0}, "teacher_scale"),
        ({"crd": 1.0, "teacher_scale": [50.0, 0.0]}, "teacher_scale"),
        ({"crd": 1.0, "teacher_scale": "hot"}, "teacher_scale"),
        ({"crd": 1.0, "teacher_scale": float("nan")}, "teacher_scale = nan"),
        ({"crd": 1.0, "teacher_scale": []}, "teacher_scale"),
        ({"contrast": "sigmoid", "compat": "clip-kd"}, "contrast"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"compat": "tinyclip"}, "compat"),
    ],
)
def test_what_cannot_go_together_is_named(table: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(ObjectiveConfig, table, "test")
    assert named in caught.value.what and caught.value.where == "test"


def test_teacher_cosine_is_one_for_a_student_that_is_the_teacher() -> None:
    student, teacher = _embeddings(8, 0), _embeddings(8, 0, unit=True)
    cosine = Objective(ALL, 8, 8).teacher_cosine(student, teacher)
    assert cosine is not None and cosine.item() == pytest.approx(1, rel=1e-6)


def test_teacher_cosine_leaves_out_teachers_of_another_width_that_nothing_projects_to() -> None:
    student = _embeddings(8, 0)
    objective = Objective(ObjectiveConfig(crd=1.0), 8, (5, 8))
    teachers = [_embeddings(5, 1, unit=True), _embeddings(8, 0, unit=True)]
    cosine = objective.teacher_cosine(student, teachers)
    assert cosine is not None and cosine.item() == pytest.approx(1, rel=1e-6)
    assert Objective(ObjectiveConfig(crd=1.0), 8, 5).teacher_cosine(student, teachers[:1]) is None
