"""Facts of distill/step_flops.py."""

import pytest

from kdx.distill import read_recipe
from kdx.distill.plan import plan_run
from kdx.distill.step_flops import StepFlops
from kdx.models.flops import count_flops


@pytest.mark.parametrize("settings", [(), ("student=kdx-mini-vit", "objective.mfd=1")])
def test_a_step_of_texts_of_one_length_is_what_the_plan_counts(settings: tuple[str, ...]) -> None:
    recipe = read_recipe("demo-clip-kd", settings)
    plan, context = plan_run(recipe), recipe.architecture.text_cfg.context_length
    counted = StepFlops(recipe).of(128, [(100, context), (28, context)])
    assert counted == pytest.approx(plan.step_flops, rel=1e-9)


@pytest.mark.parametrize("length", [2, 11, 31])
def test_texts_of_any_length_cost_what_is_counted_for_that_length(length: int) -> None:
    recipe = read_recipe("demo-clip-kd", ["student=kdx-mini-vit"])
    counts = count_flops(recipe.architecture, length)
    expected = 3 * (5 * counts.image + 5 * counts.text)
    assert StepFlops(recipe).of(5, [(5, length)]) == pytest.approx(expected, rel=1e-9)


def test_what_is_computed_again_for_memory_does_not_count() -> None:
    plain = StepFlops(read_recipe("demo-baseline", ["student=kdx-mini-vit"]))
    again = StepFlops(read_recipe("demo-baseline", ["student=kdx-mini-vit", "model.grad_checkpointing=true"]))
    assert plain.of(8, [(8, 20)]) == again.of(8, [(8, 20)])
