"""Facts of distill/run.py: what is checked before work, and what an interruption leaves."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import read_manifest
from kdx.core.progress import Stages, silent, silent_stages
from kdx.data.shards import Sample, write_shards
from kdx.distill import loop, read_recipe, run, run_recipe
from kdx.distill.ranks import Ranks
from kdx.models.architectures import count_parameters

TOY = ["steps=4", "batch_size=8", "optimizer.warmup_steps=1", "views.num_views=1"]
RECIPE = read_recipe("demo-clip-kd", TOY)


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def data(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> Path:
    write_shards(tmp_path / "data", "train", make_samples(16))
    return tmp_path / "data"


def test_one_call_goes_from_shards_and_a_teacher_to_a_run_and_its_cache(
    tmp_path: Path, data: Path, mini_checkpoint: Path
) -> None:
    told: list[str] = []
    out = tmp_path / "run"
    result = run_recipe(RECIPE, data, out, teachers=[mini_checkpoint], tell=told.append)
    assert result.student.is_dir() and result.cache_reused is False and (tmp_path / "run.cache").is_dir()
    assert len(told) == 1 and "kdx-mini-teacher" in told[0]  # the weights are set for another teacher
    again = run_recipe(
        RECIPE, data, tmp_path / "again", teachers=[mini_checkpoint], cache=tmp_path / "run.cache"
    )
    assert again.cache_reused and again.final_loss == result.final_loss


def test_a_whole_cache_teaches_without_the_teachers_weights(
    tmp_path: Path, data: Path, mini_checkpoint: Path
) -> None:
    teacher, cache = shutil.copytree(mini_checkpoint, tmp_path / "teacher"), tmp_path / "run.cache"
    first = run_recipe(RECIPE, data, tmp_path / "run", teachers=[teacher])
    (teacher / "model.safetensors").unlink()
    again = run_recipe(RECIPE, data, tmp_path / "again", teachers=[teacher], cache=cache)
    assert again.cache_reused and again.final_loss == first.final_loss
    one, other = (read_manifest(path).fields["teachers"] for path in (first.path, again.path))
    assert one == other
    for place, online in ((tmp_path / "new", False), (None, True)):  # then they are needed
        with pytest.raises(DataError, match="missing") as error:
            run_recipe(
                RECIPE, data, tmp_path / "asked", teachers=[teacher], cache=place, teacher_online=online
            )
        assert error.value.where == str(teacher / "model.safetensors")
    assert not list(tmp_path.glob("asked*")) and not (tmp_path / "new").exists()


@pytest.mark.parametrize(("rank", "expected"), [(0, ["open"]), (1, ["wait", "open"])])
def test_the_first_process_alone_indexes_the_shards_and_shows_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, rank: int, expected: list[str]
) -> None:
    seen: list[str] = []

    def open_split(*_: object, stages: Stages) -> None:
        seen.append("open")
        assert (stages is silent_stages) == (rank > 0)
        raise InterruptedError

    monkeypatch.setattr(run, "open_split", open_split)
    monkeypatch.setattr(Ranks, "wait", lambda self: seen.append("wait"))
    with pytest.raises(InterruptedError):
        run_recipe(
            RECIPE, data, tmp_path / "run", ranks=Ranks(rank, 2), stages=lambda title: nullcontext(silent)
        )
    assert seen == expected


@pytest.mark.parametrize("missing", [1, 10_000])
def test_too_little_space_for_student_and_cache_together_is_said_before_the_teacher_is_asked(
    tmp_path: Path, data: Path, mini_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    needed = 4 * count_parameters(RECIPE.architecture).total_params + 16 * (2 * 64 * (1 + 1) + 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(10**12, 0, needed - missing))
    monkeypatch.setattr(run, "open_teachers", lambda *a, **k: pytest.fail("a teacher was asked"))
    with pytest.raises(SetupError):
        run_recipe(RECIPE, data, tmp_path / "run", teachers=[mini_checkpoint])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data"]


def test_an_interrupted_run_says_that_the_cache_is_kept_and_where(
    tmp_path: Path, data: Path, mini_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    told: list[str] = []
    monkeypatch.setattr(loop.Loop, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(RECIPE, data, tmp_path / "run", teachers=[mini_checkpoint], tell=told.append)
    assert str(tmp_path / "run.cache") in told[-1]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "run.cache"]
    baseline = read_recipe("demo-baseline", TOY)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(baseline, data, tmp_path / "run", tell=told.append)
    assert "cache" not in told[-1]


@pytest.mark.parametrize(("out", "cache"), [("run", "run/cache"), ("cache/run", "cache"), ("run", "run")])
def test_run_and_cache_may_not_lie_in_each_other(
    tmp_path: Path, data: Path, mini_checkpoint: Path, out: str, cache: str
) -> None:
    with pytest.raises(UsageError) as caught:
        run_recipe(RECIPE, data, tmp_path / out, teachers=[mini_checkpoint], cache=tmp_path / cache)
    assert caught.value.where == str(tmp_path / cache)
