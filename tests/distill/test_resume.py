"""Facts of a run that stops and goes on: distill/unfinished.py, run_states.py, keeping.py, interruption.py."""

import ctypes
import errno
import logging
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from kdx.cli import main
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import read_manifest
from kdx.core.log import read_metrics
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.distill import Recipe, keeping, loop, open_teachers, read_recipe, run_states, train, unfinished
from kdx.distill.ranks import join_ranks
from kdx.distill.teachers import ask_at_each_step
from kdx.distill.unfinished import unfinished_step
from kdx.models.checkpoint import open_checkpoint

from .rank_processes import start_ranks

SETTINGS = ("steps=24", "batch_size=8", "optimizer.warmup_steps=2", "views.num_views=2")


@pytest.fixture
def samples(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> ShardSet:
    write_shards(tmp_path / "data", "train", make_samples(20))
    return open_split(tmp_path / "data", "train")


def _write_often(patch: pytest.MonkeyPatch) -> None:
    """Numbers are read every second step, states written every fourth."""
    patch.setattr(loop, "LOG_EVERY", 2)
    patch.setattr(keeping, "EVERY_STEPS", 4)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    _write_often(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., list[Sample]]) -> Path:
    """The run of _recipe() that nothing stops."""
    folder = tmp_path_factory.mktemp("whole")
    write_shards(folder / "data", "train", make_samples(20))
    with pytest.MonkeyPatch.context() as patch:
        _write_often(patch)
        train(_recipe(), open_split(folder / "data", "train"), folder / "run")
    return folder / "run"


def _recipe(*settings: str) -> Recipe:
    return read_recipe("demo-baseline", [*SETTINGS, *settings])


def _curve(run: Path) -> list[dict[str, Any]]:
    """All that is neither a time nor the memory."""
    lines = read_metrics(run / "metrics.jsonl")
    measured = ("second", "peak_mib")
    return [
        {name: value for name, value in line.items() if not any(each in name for each in measured)}
        for line in lines
    ]


def _same(one: Path, other: Path) -> bool:
    weights, others = (open_checkpoint(run).model.state_dict() for run in (one, other))
    return _curve(one) == _curve(other) and all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Callable[[], None]]]:
    """What is put in here is called in the middle of the step with that number, once."""
    calls: dict[int, Callable[[], None]] = {}
    step = loop.Loop.step

    def stepping(self: loop.Loop, batch: Any, pixels: torch.Tensor) -> Any:
        numbers = step(self, batch, pixels)
        calls.pop(batch.step + 1, lambda: None)()
        return numbers

    monkeypatch.setattr(loop.Loop, "step", stepping)
    yield calls


def _fail() -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_after_the_step_and_the_run_goes_on_bit_for_bit(
    tmp_path: Path,
    samples: ShardSet,
    whole: Path,
    at_step: dict[int, Callable[[], None]],
    number: signal.Signals,
) -> None:
    at_step[7] = lambda: signal.raise_signal(number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as stop:
        train(_recipe(), samples, tmp_path / "run")
    assert isinstance(stop.value, KeyboardInterrupt) or stop.value.code == 143
    assert unfinished_step(tmp_path / "run") == 7 and not (tmp_path / "run").exists()
    train(_recipe(), samples, tmp_path / "run", resume=True)
    assert _same(tmp_path / "run", whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run"]


def test_an_error_leaves_the_last_two_states_and_metrics_have_each_line_once(
    tmp_path: Path, samples: ShardSet, at_step: dict[int, Callable[[], None]]
) -> None:
    recipe = _recipe("objective.contrast='sigmoid'", "optimizer.clip_grad_norm=1.0", "ema=0.9")
    train(recipe, samples, tmp_path / "whole")
    at_step[19] = _fail
    with pytest.raises(RuntimeError):
        train(recipe, samples, tmp_path / "run")
    place = tmp_path / "run.unfinished"
    assert sorted(path.name for path in place.glob("state/step-*")) == ["step-000000012", "step-000000016"]
    assert [line["step"] for line in read_metrics(place / "run/metrics.jsonl")] == [
        2,
        4,
        6,
        8,
        10,
        12,
        14,
        16,
        18,
    ]
    train(recipe, samples, tmp_path / "run", resume=True)
    assert _same(tmp_path / "run", tmp_path / "whole")


def test_a_run_is_not_resumed_with_the_other_kind_of_teacher(
    tmp_path: Path, samples: ShardSet, mini_checkpoint: Path, at_step: dict[int, Callable[[], None]]
) -> None:
    recipe, teachers = read_recipe("demo-clip-kd", SETTINGS), [mini_checkpoint]
    caches = open_teachers(recipe, samples, teachers, tmp_path / "cache")
    at_step[6] = _fail
    with pytest.raises(RuntimeError):
        train(recipe, samples, tmp_path / "run", caches=caches, teachers=teachers)
    with pytest.raises(UsageError, match="--teacher-online differ"):
        asked = ask_at_each_step(recipe, samples, teachers)
        train(recipe, samples, tmp_path / "run", caches=asked, teachers=teachers, resume=True)
    train(recipe, samples, tmp_path / "run", caches=caches, teachers=teachers, resume=True)


def test_an_unfinished_run_is_named_and_left_alone_unless_it_may_be_overwritten(
    tmp_path: Path, samples: ShardSet, at_step: dict[int, Callable[[], None]]
) -> None:
    at_step[6] = _fail
    with pytest.raises(RuntimeError):
        train(_recipe(), samples, tmp_path / "run")
    with pytest.raises(UsageError) as named:
        train(_recipe(), samples, tmp_path / "run")
    assert "4 steps" in named.value.what and "--resume" in str(named.value.remedy)
    with pytest.raises(UsageError) as other:
        train(_recipe("seed=1", "optimizer.lr=1e-4"), samples, tmp_path / "run", resume=True)
    assert "recipe.optimizer, recipe.seed" in other.value.what
    assert unfinished_step(tmp_path / "run") == 4
    train(_recipe("seed=1"), samples, tmp_path / "run", overwrite=True)
    assert len(_curve(tmp_path / "run")) == 12


@pytest.mark.parametrize("damaged", ["__0_0.distcp", ".metadata", "numbers.json", "run.json"])
def test_a_damaged_state_is_named_and_the_one_before_it_serves(
    tmp_path: Path, samples: ShardSet, whole: Path, at_step: dict[int, Callable[[], None]], damaged: str
) -> None:
    at_step[10] = _fail
    with pytest.raises(RuntimeError):
        train(_recipe(), samples, tmp_path / "run")
    place = tmp_path / "run.unfinished"
    last = place / "state/step-000000008"
    file = last / damaged if (last / damaged).exists() else place / damaged
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError) as error:
        train(_recipe(), samples, tmp_path / "run", resume=True)
    assert str(error.value.where).startswith(str(place))
    if file.parent == last:
        shutil.rmtree(last)
        train(_recipe(), samples, tmp_path / "run", resume=True)
        assert _same(tmp_path / "run", whole)


def test_what_is_to_be_resumed_and_is_not_there_is_begun(tmp_path: Path, samples: ShardSet) -> None:
    train(_recipe("steps=4"), samples, tmp_path / "run", resume=True)
    assert read_manifest(tmp_path / "run").fields["steps"] == 4


def test_two_processes_do_not_work_on_one_run(
    tmp_path: Path, samples: ShardSet, at_step: dict[int, Callable[[], None]]
) -> None:
    refused: list[str] = []

    def again() -> None:
        with pytest.raises(UsageError) as error:
            train(_recipe(), samples, tmp_path / "run", resume=True)
        refused.append(error.value.what)

    at_step[2] = again
    train(_recipe("steps=4"), samples, tmp_path / "run")
    assert refused == ["another process trains here"]


def test_a_state_that_cannot_be_written_is_said_and_the_run_goes_on(
    tmp_path: Path,
    samples: ShardSet,
    at_step: dict[int, Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    at_step[7] = lambda: monkeypatch.setattr(run_states, "async_save", refuse)
    at_step[15] = _fail
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError):
        train(_recipe(), samples, tmp_path / "run")
    assert "after step 12" in caplog.text and "No space left" in caplog.text and "is of step 4" in caplog.text
    assert unfinished_step(tmp_path / "run") == 4


def test_a_state_is_written_also_after_a_time(
    tmp_path: Path, samples: ShardSet, at_step: dict[int, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "EVERY_STEPS", 10**6)
    monkeypatch.setattr(keeping, "EVERY_SECONDS", 0)
    at_step[5] = _fail
    with pytest.raises(RuntimeError):
        train(_recipe(), samples, tmp_path / "run")
    assert unfinished_step(tmp_path / "run") == 4


def test_weights_that_are_spoilt_are_not_kept_as_a_state(
    tmp_path: Path, samples: ShardSet, at_step: dict[int, Callable[[], None]]
) -> None:
    with pytest.raises(UsageError):
        train(_recipe("optimizer.lr=1e30"), samples, tmp_path / "run")
    assert (
        unfinished_step(tmp_path / "run") is None
        and not unfinished.unfinished_folder(tmp_path / "run").exists()
    )


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_has_the_curve_of_one_that_was_not(
    tmp_path: Path, samples: ShardSet, whole: Path, kills: int
) -> None:
    lasts, moments, out = read_manifest(whole).fields["seconds"], random.Random(kills), tmp_path / "run"
    recipe = _recipe(f"steps={12 * kills}")
    if kills > 2:
        train(recipe, samples, whole := tmp_path / "whole")
    for _ in range(kills):
        child = get_context("fork").Process(
            target=train, args=(recipe, samples, out), kwargs={"resume": True}
        )
        child.start()
        child.join(moments.uniform(0.2, 0.9) * lasts)
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        if out.exists():  # this machine is faster now than before
            break
    else:
        train(recipe, samples, out, resume=True)
    assert _same(out, whole)


@pytest.mark.parametrize("step", [10, 19])
def test_a_killed_run_ends_with_the_best_student_of_one_that_was_not(
    tmp_path: Path,
    samples: ShardSet,
    make_samples: Callable[..., list[Sample]],
    at_step: dict[int, Callable[[], None]],
    step: int,
) -> None:
    write_shards(tmp_path / "held out", "val", make_samples(20))
    val, recipe = open_split(tmp_path / "held out", "val"), _recipe("validate_every=3")
    train(recipe, samples, tmp_path / "whole", val=val)
    at_step[step] = lambda: os.kill(os.getpid(), signal.SIGKILL)  # the last state is of step 8 or 16
    child = get_context("fork").Process(
        target=train, args=(recipe, samples, tmp_path / "run"), kwargs={"val": val}
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    at_step.clear()
    train(recipe, samples, tmp_path / "run", val=val, resume=True)
    assert _same(tmp_path / "run", tmp_path / "whole")
    best, expected = (read_manifest(tmp_path / name / "best") for name in ("run", "whole"))
    assert best.fields == expected.fields
    assert best.digest["model.safetensors"] == expected.digest["model.safetensors"]


# a large eps makes AdamW's steps proportional to the gradient, so that the order of summing stays without effect
ON_RANKS = ("student=kdx-mini-vit", "steps=12", "optimizer.eps=1.0")


def _train_on_ranks(data: Path, out: Path, stop_after: int | None) -> None:
    patch = pytest.MonkeyPatch()
    _write_often(patch)
    with join_ranks() as ranks:
        step = loop.Loop.step

        def stepping(self: loop.Loop, batch: Any, pixels: torch.Tensor) -> Any:
            if batch.step + 1 == stop_after and ranks.rank == ranks.size - 1:  # one of them is enough
                signal.raise_signal(signal.SIGTERM)
            return step(self, batch, pixels)

        patch.setattr(loop.Loop, "step", stepping)
        train(_recipe(*ON_RANKS), open_split(data, "train"), out, resume=True, ranks=ranks)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, samples: ShardSet, before: int, after: int
) -> None:
    train(_recipe(*ON_RANKS), samples, tmp_path / "whole")
    out = tmp_path / "run"
    codes, _, err = start_ranks(before, tmp_path, _train_on_ranks, samples.folder, out, 6)
    assert set(codes) <= {143, -signal.SIGTERM} and unfinished_step(out) == 6, err
    codes, _, err = start_ranks(after, tmp_path, _train_on_ranks, samples.folder, out, None)
    assert not any(codes), err
    assert read_manifest(out).fields["processes"] == after
    lines, expected = _curve(out), _curve(tmp_path / "whole")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-5)


def _give_up_roots_rights(out: Path) -> None:
    """The folder of states is no longer to be written to. For root that holds without CAP_DAC_OVERRIDE alone."""
    (unfinished.unfinished_folder(out) / "state").chmod(0o500)
    if os.geteuid() == 0:
        libc, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert libc.capget(header, sets) == 0
        sets[0] &= ~(1 << 1)
        assert libc.capset(header, sets) == 0


def _limit_files(out: Path) -> None:
    """The kernel then refuses in the middle of a file, as it does on a full disk. The state after step 4 is there."""
    while not any(unfinished.unfinished_folder(out).glob("state/*4/.metadata")):
        time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def _die(out: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _distil_until(data: Path, out: Path, fault: Callable[[Path], None], at: int, rank: int = 0) -> None:
    """In the middle of step `at` the fault occurs on a rank; a run that gets to step 11 ends there in an error."""
    patch = pytest.MonkeyPatch()
    _write_often(patch)
    step = loop.Loop.step

    def stepping(self: loop.Loop, batch: Any, pixels: torch.Tensor) -> Any:
        numbers = step(self, batch, pixels)
        if batch.step + 1 == at and self.ranks.rank == rank:
            fault(out)
        if batch.step + 1 == 11:
            raise SetupError("enough")
        return numbers

    patch.setattr(loop.Loop, "step", stepping)
    settings = [f"--set={each}" for each in (*SETTINGS, *ON_RANKS)]
    main(["distill", "demo-baseline", "--data", str(data), "--out", str(out), *settings])


@pytest.mark.parametrize(
    ("fault", "at", "why"),
    [(_give_up_roots_rights, 9, "Permission denied"), (_limit_files, 7, "File too large")],
)
def test_where_states_can_no_longer_be_written_the_last_one_stays_and_the_run_goes_on(
    tmp_path: Path, samples: ShardSet, fault: Callable[[Path], None], at: int, why: str
) -> None:
    out = tmp_path / "run"
    codes, _, err = start_ranks(1, tmp_path, _distil_until, samples.folder, out, fault, at)
    state = tmp_path / "run.unfinished/state"
    state.chmod(0o700)
    assert codes == [SetupError.exit_code]
    assert [path.name for path in state.glob("step-*")] == ["step-000000004"], err
    (warning,) = [line for line in err.splitlines() if "after step 8 cannot be written" in line]
    assert why in warning and "the last one is of step 4" in warning
    assert "the run after 4 steps is kept: the same command with --resume goes on" in err
    train(_recipe(*ON_RANKS), samples, out, resume=True)
    train(_recipe(*ON_RANKS), samples, tmp_path / "whole")
    assert _same(out, tmp_path / "whole")


def test_a_process_that_dies_ends_the_others_and_they_say_so(tmp_path: Path, samples: ShardSet) -> None:
    out = tmp_path / "run"
    codes, _, err = start_ranks(
        2, tmp_path, _distil_until, samples.folder, out, _die, 7, 1, ends_others=False
    )
    assert codes == [SetupError.exit_code, -signal.SIGKILL], err
    assert err.count("another process of this run has ended") == 1 and "bug" not in err
    assert "the run after 4 steps is kept: the same command with --resume goes on" in err
    assert unfinished_step(out) == 4
    train(_recipe(*ON_RANKS), samples, out, resume=True)
    assert [line["step"] for line in _curve(out)] == [2, 4, 6, 8, 10, 12]
