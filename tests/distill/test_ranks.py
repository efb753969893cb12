"""Facts of distill/ranks.py: what the processes of a run tell each other, and what they make together."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from kdx.cli import main
from kdx.core.errors import SetupError, UsageError
from kdx.core.log import read_metrics
from kdx.data.shards import write_shards
from kdx.data.views import philox
from kdx.distill.ranks import Ranks, join_ranks
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import open_checkpoint, save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer

from .rank_processes import start_ranks


def _meet(folder: Path) -> None:
    with join_ranks() as ranks:
        assert ranks.merge({ranks.rank: "bad"}) == dict.fromkeys(range(ranks.size), "bad")
        assert ranks.mean(torch.tensor([1.0, ranks.rank])).tolist() == [1.0, (ranks.size - 1) / 2]
        with ranks.first_ahead():
            if not ranks.is_first:
                assert (folder / "made by the first").exists()
            else:
                (folder / "made by the first").touch()


def test_ranks_have_what_all_give_and_the_first_goes_ahead(tmp_path: Path) -> None:
    codes, _, err = start_ranks(3, tmp_path, _meet, tmp_path)
    assert codes == [0, 0, 0], err


def test_a_batch_that_does_not_split_evenly_is_refused() -> None:
    assert Ranks(1, 4).local_batch_size(12) == 3 and Ranks().local_batch_size(5) == 5
    with pytest.raises(UsageError) as single:
        Ranks(0, 4).local_batch_size(4)
    assert "batch_size=8" in str(single.value.remedy)
    with pytest.raises(UsageError) as caught:
        Ranks(1, 4).local_batch_size(10)
    assert "batch_size=8" in str(caught.value.remedy)


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SetupError) as caught, join_ranks():
        pass
    assert "--nproc-per-node 2" in str(caught.value.remedy)
    assert not chosen and not dist.is_initialized()


@pytest.fixture
def inputs(tmp_path: Path, make_samples: Any) -> Path:
    """A folder with a teacher and two sets: whole, and with one image that does not decode."""
    samples = make_samples(20)
    write_shards(tmp_path / "data", "train", samples)
    row = int(philox(0, 0).permutation(20)[1])  # the second of the first epoch: the second process reads it
    samples[row] = replace(samples[row], image=b"\xff\xd8\xff no image")
    write_shards(tmp_path / "broken", "train", samples)
    architecture = read_architecture("kdx-mini-teacher")
    save_checkpoint(tmp_path / "teacher", build_model(architecture, seed=1), architecture, clip_tokenizer())
    return tmp_path


# torchrun itself starts three interpreters that import torch; forked processes get the same environment
@pytest.mark.parametrize("by_torchrun", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_processes_make_the_student_of_one_also_in_parts(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, by_torchrun: bool
) -> None:
    monkeypatch.chdir(inputs)
    with pytest.raises(SystemExit) as stopped:
        main(_arguments("alone"))
    assert stopped.value.code == 0
    start = _torchrun if by_torchrun else _fork
    codes, out, err = start(inputs, [*_arguments("shared"), "--set=accumulate=2"])
    assert not any(codes), err
    assert out == "shared\n" and "reused" not in err
    (one,), (other,) = (read_metrics(inputs / run / "metrics.jsonl") for run in ("alone", "shared"))
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    weights, others = (open_checkpoint(inputs / run).model.state_dict() for run in ("alone", "shared"))
    for name, tensor in weights.items():
        assert torch.allclose(tensor, others[name], atol=1e-6), name


def test_an_image_that_one_process_cannot_read_stands_in_the_run(inputs: Path) -> None:
    settings = ("--set=steps=1", "--set=optimizer.warmup_steps=0", "--json")
    codes, out, err = _fork(inputs, [*_arguments("run", data="broken"), *settings])
    assert codes == [0, 0], err
    assert json.loads(out)["bad_images"] == 1
    assert len((inputs / "run/skipped.jsonl").read_text().splitlines()) == 1


def test_too_many_bad_images_stop_all_and_are_said_once(inputs: Path) -> None:
    settings = ("--set=max_bad_share=0", "--set=steps=1", "--set=optimizer.warmup_steps=0")
    codes, _, err = start_ranks(
        2, inputs, _distil, inputs, [*_arguments("run", data="broken", recipe="demo-baseline"), *settings]
    )
    assert all(codes) and err.count("1 of 20 images do not decode") == 1, err
    assert "bug" not in err and [path.name for path in inputs.glob("*run*")] == ["run.stopped"]


@pytest.mark.parametrize("option", ["--teacher", "--data"])  # the first process finds out, or every one
def test_what_is_missing_is_said_once(inputs: Path, option: str) -> None:
    codes, _, err = _fork(inputs, [*_arguments("run"), option, "nowhere"])
    assert all(codes) and err.count("nowhere: ") == 1, err
    assert "bug" not in err and not list(inputs.glob("*run*"))


def _arguments(out: str, data: str = "data", recipe: str = "demo-clip-kd") -> list[str]:
    # a large eps makes AdamW's steps proportional to the gradient, so that the order of summing stays without effect
    settings = ("student=kdx-mini-vit", "steps=4", "batch_size=16", "optimizer.warmup_steps=1",
                "optimizer.eps=1.0", "max_bad_share=0.1")  # fmt: skip
    teacher = ("--teacher", "teacher", "--set=objective.mfd=1") if recipe == "demo-clip-kd" else ()
    return [
        "distill",
        recipe,
        *(f"--set={each}" for each in settings),
        "--data",
        data,
        *teacher,
        "--out",
        out,
    ]


def _distil(folder: Path, arguments: list[str]) -> None:
    os.chdir(folder)
    main(arguments)


def _fork(folder: Path, arguments: list[str]) -> tuple[list[int], str, str]:
    return start_ranks(2, folder, _distil, folder, arguments)


def _torchrun(folder: Path, arguments: list[str]) -> tuple[list[int], str, str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    program = [sys.executable, "-c", "from kdx.cli import main; main()"]
    done = subprocess.run(
        [sys.executable, *launch, *program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return [done.returncode], done.stdout, done.stderr
