"""Facts of an objective with several widths (Matryoshka, arXiv 2205.13147): distill/objective.py, its configuration."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn import functional as F

from kdx.core.config import parse
from kdx.core.errors import UsageError
from kdx.distill import Embeddings, Objective, ObjectiveConfig, read_recipe
from kdx.distill.objective_config import DISTILLING

ALONE: dict[str, dict[str, Any]] = {name: {name: 1.0} for name in DISTILLING}
SUMS: dict[str, dict[str, Any]] = {
    "task": {},
    "clip-kd": {"crd": 0.5, "fd": 3.0, "icl": 2.0},
    "released": {"crd": 1.0, "fd": 3.0, "gd": 9.0, "icl": 1.0, "afd": 1.0, "mfd": 1.0, "compat": "clip-kd"},
    "sigmoid": {"crd": 1.0, "fd": 1.0, "icl": 1.0, "contrast": "sigmoid"},
    "scaled": {"affinity": 1.0, "gd": 1.0, "teacher_scale": (20.0, 70.0)},
}
EVERY: dict[str, Any] = dict.fromkeys(DISTILLING, 1.0)
TERMS = ALONE | SUMS
WIDTH = 8


def _embeddings(width: int, seed: int, *, unit: bool = False) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    image, text, masked = torch.randn(3, 6, width, generator=generator, dtype=torch.float64)
    if unit:
        return Embeddings(
            F.normalize(image, dim=-1), F.normalize(text, dim=-1), torch.tensor(9.0), torch.tensor(-2.0)
        )
    return Embeddings(image, text, torch.tensor(10.0), torch.tensor(-3.0), masked)


TEACHERS = [_embeddings(WIDTH, 1, unit=True), _embeddings(5, 2, unit=True)]


def _first(dim: int, student: Embeddings) -> Embeddings:
    assert student.masked_image is not None
    image, text, masked = (
        rows[:, :dim].contiguous() for rows in (student.image, student.text, student.masked_image)
    )
    return replace(student, image=image, text=text, masked_image=masked)


def _objective(table: dict[str, Any], **widths: Any) -> Objective:
    torch.manual_seed(0)
    config = parse(ObjectiveConfig, {**table, **widths}, "test")
    return Objective(config, WIDTH, (WIDTH, 5) if config.needs_teacher else None).double()


def _taught(objective: Objective) -> list[Embeddings]:
    return TEACHERS if objective.config.needs_teacher else []


BRIDGED = [name for name in TERMS if name not in ("afd", "released")]  # AFD fuses to the whole width


@pytest.mark.parametrize("name", BRIDGED)
def test_the_loss_is_the_weighted_sum_of_what_it_is_for_students_of_these_widths(name: str) -> None:
    """Each with the first columns of the whole width's projections, or of the identity where it has none."""
    student, weights = _embeddings(WIDTH, 0), {2: 0.5, 6: 2.0, WIDTH: 3.0}
    objective = _objective(TERMS[name], dims=[*weights], dim_weights=[*weights.values()])
    loss, terms = objective(student, _taught(objective))
    plain = parse(ObjectiveConfig, TERMS[name], "test")
    expected: dict[str, Tensor] = {}
    for dim, weight in weights.items():
        alone = Objective(plain, dim, (WIDTH, 5) if plain.needs_teacher else None).double()
        state, learnt = alone.state_dict(), objective.state_dict()
        for key, value in state.items():
            if key in learnt:
                state[key] = learnt[key][:, :dim] if value.ndim == 2 else learnt[key]
            else:
                state[key] = torch.eye(WIDTH)[:, :dim] if value.ndim == 2 else torch.zeros(WIDTH)
        alone.load_state_dict(state)
        for term, value in alone(_first(dim, student), _taught(objective))[1].items():
            expected[term] = expected.get(term, torch.tensor(0.0)) + weight * value
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}
    )
    assert loss.item() == pytest.approx(sum(value.item() for value in expected.values()))


@given(
    dims=st.sets(st.integers(1, WIDTH - 1), max_size=4).map(lambda some: [*sorted(some), WIDTH]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_the_gradient_is_the_sum_of_the_widths_gradients(dims: list[int], seed: int) -> None:
    student = _embeddings(WIDTH, seed)
    leaf = student.image.requires_grad_()
    objective, one = _objective(SUMS["clip-kd"], dims=dims), _objective(SUMS["clip-kd"])
    one.load_state_dict(objective.state_dict())
    (found,) = torch.autograd.grad(objective(student, TEACHERS)[0], leaf)
    total = torch.zeros_like(leaf)
    for dim in dims:
        hidden = torch.arange(WIDTH) >= dim
        cut = replace(student, image=leaf.masked_fill(hidden, 0), text=student.text.masked_fill(hidden, 0))
        total += torch.autograd.grad(one(cut, TEACHERS)[0], leaf)[0]
    assert torch.allclose(found, total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_the_whole_width_alone_is_an_objective_without_dims_bit_for_bit(name: str) -> None:
    student = _embeddings(WIDTH, 0)
    plain, whole = _objective(TERMS[name]), _objective(TERMS[name], dims=[WIDTH])
    assert torch.equal(plain(student, _taught(plain))[0], whole(student, _taught(whole))[0])
    assert plain.state_dict().keys() == whole.state_dict().keys()


def test_narrower_widths_learn_nothing_of_their_own() -> None:
    plain, several = _objective(EVERY), _objective(EVERY, dims=[2, 5, WIDTH])
    started = several.state_dict()
    assert plain.state_dict().keys() == started.keys()
    assert all(torch.equal(value, started[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("name", TERMS)
def test_what_the_objective_learns_at_each_width_has_a_gradient(name: str) -> None:
    objective = _objective(TERMS[name], dims=[2, WIDTH])
    student = _embeddings(WIDTH, 0)
    student.image.requires_grad_()
    objective(student, _taught(objective))[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())


def test_the_weights_are_one_each_unless_they_are_set() -> None:
    assert ObjectiveConfig(dims=(2, 8)).widths == {2: 1.0, 8: 1.0}
    assert ObjectiveConfig(dims=(2, 8), dim_weights=(0.5, 3.0)).widths == {2: 0.5, 8: 3.0}
    assert ObjectiveConfig().widths == {}


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"dims": [4, 2, 8]}, "dims"),
        ({"dims": [4, 4, 8]}, "dims"),
        ({"dims": [0, 8]}, "dims"),
        ({"dims": []}, "dims"),
        ({"dims": [2.5, 8]}, "dims"),
        ({"dims": [True, 8]}, "dims"),
        ({"dims": "wide"}, "dims"),
        ({"dim_weights": [1.0]}, "dim_weights"),
        ({"dims": [2, 8], "dim_weights": [1.0]}, "dim_weights"),
        ({"dims": [2, 8], "dim_weights": [0.0, 1.0]}, "dim_weights"),
        ({"dims": [2, 8], "dim_weights": [1.0, float("inf")]}, "dim_weights"),
    ],
)
def test_widths_that_are_none_are_named(table: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(ObjectiveConfig, table, "test")
    assert named in caught.value.what


@pytest.mark.parametrize("dims", ["[8,32]", "[8,128]"])
def test_the_last_of_a_recipes_dims_is_the_students_width(dims: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe("demo-clip-kd", [f"objective.dims={dims}"])
    assert "64 numbers" in caught.value.what and "64]" in str(caught.value.remedy)
    with pytest.raises(UsageError):
        Objective(ObjectiveConfig(dims=(2, 4)), 8)


def test_a_recipe_says_its_widths_where_there_are_several() -> None:
    assert read_recipe("demo-clip-kd", ["objective.dims=[8,64]"]).matryoshka_dims == (8, 64)
    assert read_recipe("demo-clip-kd", ["objective.dims=[64]"]).matryoshka_dims == ()
    assert read_recipe("demo-clip-kd").matryoshka_dims == ()
