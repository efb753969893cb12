"""Facts of distill/schedule.py and of how a recipe resolves to one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import UsageError
from kdx.data.shards import Sample, open_split, write_shards
from kdx.distill.recipe import SMALL, read_recipe, recipe_names
from kdx.distill.schedule import Schedule, default_warmup, fitting_batch_size


def test_the_learning_rate_rises_linearly_then_falls_by_a_half_cosine() -> None:
    schedule = Schedule(steps=110, batch_size=8, warmup_steps=10)
    rates = [schedule.learning_rate(1.0, step) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_warm_up_it_starts_at_the_top() -> None:
    assert Schedule(5, 8, 0).learning_rate(2.0, 0) == 2.0


@pytest.mark.parametrize(
    ("pairs", "batch_size"),
    [(2, 2), (9, 9), (20, 16), (64, 16), (200, 32), (1023, 128), (3000, 256), (12_000, 256)],
)
def test_a_batch_is_a_power_of_two_of_which_an_epoch_has_four(pairs: int, batch_size: int) -> None:
    assert fitting_batch_size(pairs) == batch_size


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (10, 1), (20_000, 2_000), (401_888, 10_000)])
def test_the_warm_up_is_a_tenth_of_the_run_and_at_most_clip_kds(steps: int, warmup: int) -> None:
    assert default_warmup(steps) == warmup
    (schedule,) = {read_recipe(name, [f"steps={steps}"]).schedule(1_000) for name in SMALL}
    assert schedule is not None and schedule.warmup_steps == warmup


def test_every_shipped_recipe_reaches_its_learning_rate() -> None:
    for name in recipe_names():
        schedule = read_recipe(name).schedule(3_000)
        assert schedule is not None and schedule.warmup_steps < schedule.steps / 4, name


@pytest.mark.parametrize("settings", [["steps=50"], ["steps=1"], ["optimizer.warmup_steps=450"]])
def test_a_warm_up_as_long_as_the_run_is_refused_with_one_that_fits(settings: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe("demo-baseline", settings)
    assert "optimizer.warmup_steps" in caught.value.what
    remedy = (caught.value.remedy or "").split(",")[0].removeprefix("--set ")
    assert read_recipe("demo-baseline", [*settings, remedy]).schedule() is not None


def test_a_warm_up_that_only_the_data_shows_to_be_too_long_is_refused_there(
    tmp_path: Path, make_samples: Callable[..., list[Sample]]
) -> None:
    write_shards(tmp_path, "train", make_samples(20))
    recipe = read_recipe("small-baseline", ["epochs=5", "optimizer.warmup_steps=5"])
    assert recipe.schedule() is None
    with pytest.raises(UsageError) as caught:
        recipe.resolve(open_split(tmp_path, "train"))
    assert "optimizer.warmup_steps" in caught.value.what


def test_a_small_recipe_takes_its_numbers_from_the_data_and_writes_them_out(
    tmp_path: Path, make_samples: Callable[..., list[Sample]]
) -> None:
    write_shards(tmp_path, "train", make_samples(70))
    recipe = read_recipe("small-clip-kd", ["epochs=5"])
    resolved, schedule = recipe.resolve(open_split(tmp_path, "train"))
    assert schedule == Schedule(steps=20, batch_size=16, warmup_steps=2)  # 70 pairs are 4 batches of 16
    assert (resolved.steps, resolved.epochs, resolved.batch_size) == (20, None, 16)
    assert resolved.optimizer.warmup_steps == 2
    assert resolved.schedule() == schedule


def test_fewer_samples_than_a_batch_are_refused_naming_the_recipes_for_them(
    tmp_path: Path, make_samples: Callable[..., list[Sample]]
) -> None:
    write_shards(tmp_path, "train", make_samples(20))
    samples = open_split(tmp_path, "train")
    with pytest.raises(UsageError) as caught:
        read_recipe("clip-kd/vit-t-16").resolve(samples)
    assert caught.value.where == str(tmp_path) and all(name in str(caught.value.remedy) for name in SMALL)
    for name in SMALL:
        read_recipe(name).resolve(samples)


def test_of_steps_and_epochs_the_nearer_one_counts(tmp_path: Path) -> None:
    recipe = read_recipe("demo-baseline", ["epochs=3"])
    assert (recipe.steps, recipe.epochs) == (None, 3)
    recipe = read_recipe("small-baseline", ["steps=9"])
    assert (recipe.steps, recipe.epochs) == (9, None)
    path = tmp_path / "mine.toml"
    path.write_text('extends = "demo-baseline"\nepochs = 2\n')
    assert read_recipe(str(path)).epochs == 2
    path.write_text('extends = "demo-baseline"\nepochs = 2\nsteps = 100\n')
    with pytest.raises(UsageError):
        read_recipe(str(path))


def test_epochs_that_make_no_step_are_refused_where_the_pairs_are_known() -> None:
    recipe = read_recipe("small-baseline", ["epochs=0.01"])
    assert recipe.schedule() is None
    with pytest.raises(UsageError) as caught:
        recipe.schedule(100)
    assert "0.01" in caught.value.what and "100" in caught.value.what
