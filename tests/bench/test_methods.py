"""Facts of bench/methods.py and `kdx bench methods` at toy size."""

import functools
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from kdx.bench import methods, methods_work
from kdx.cli.bench import command
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import open_sealed, read_manifest
from kdx.core.progress import silent
from kdx.data.shards import Sample, write_shards
from kdx.distill import read_recipe
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer

TOY = [
    argument
    for setting in ("steps=2", "optimizer.warmup_steps=1", "batch_size=8", "views.num_views=1")
    for argument in ("--set", setting)
]


@pytest.fixture
def job(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> list[str]:
    samples = make_samples(30)
    write_shards(tmp_path / "data", "train", samples[:20])
    write_shards(tmp_path / "data", "val", samples[20:])
    (tmp_path / "data" / "classes.txt").write_text("cat\ndog\nfish\n")
    architecture = read_architecture("kdx-mini")
    save_checkpoint(tmp_path / "teacher", build_model(architecture, 1), architecture, clip_tokenizer())
    paths = {"--pairs": "data", "--data": "data", "--teacher": "teacher", "--out": "out"}
    return [part for option, name in paths.items() for part in (option, str(tmp_path / name))]


def test_methods_are_compared_over_seeds_and_failures_recorded(
    tmp_path: Path, job: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {
        "baseline": (),
        "fd": ("objective.fd=1",),
        "mfd": ("objective.mfd=1",),
        "burst": ("optimizer.lr=1e30", "optimizer.warmup_steps=0", "steps=20"),
    }
    monkeypatch.setattr(methods, "method_settings", lambda dim: few)
    result = CliRunner().invoke(command, ["methods", "demo-baseline", *job, *TOY, "--seeds", "2"])
    assert result.exit_code == 0, result.output
    open_sealed(tmp_path / "out", methods.KIND)
    document = json.loads((tmp_path / "out" / "methods.json").read_text())
    assert list(document["methods"]) == ["baseline", "fd", "burst"]
    assert "no patches to hide" in document["left_out"]["mfd"]
    assert [(run["method"], run["seed"]) for run in document["runs"]] == [
        (name, seed) for seed in (0, 1) for name in ("baseline", "fd", "burst")
    ]
    scores = [run["score"] for run in document["runs"] if run["method"] == "fd"]
    row = document["methods"]["fd"]
    assert row["num_seeds"] == 2 and row["mean"] == pytest.approx(sum(scores) / 2)
    assert -1 <= row["teacher_cosine"] <= 1 and row["settings"] == ["objective.fd=1"]
    assert document["methods"]["burst"]["mean"] is None
    assert all("not finite" in run["error"] for run in document["runs"] if run["method"] == "burst")
    assert (tmp_path / "out" / "runs" / "fd-1" / "student").is_dir()
    assert document["metric"] == "zero_shot_top1" and 0 <= document["teacher"] <= 1
    assert "| fd |" in result.output and "left out: mfd" in result.output and "failed: burst" in result.output


def test_without_classes_recalls_are_compared(
    tmp_path: Path, job: list[str], make_samples: Callable[..., list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    unlabelled = [replace(sample, label=None) for sample in make_samples(30)]
    for split, part in (("train", unlabelled[:20]), ("val", unlabelled[20:])):
        write_shards(tmp_path / "pairs", split, part)
    monkeypatch.setattr(methods, "method_settings", lambda dim: {"baseline": ()})
    places = ["--data", str(tmp_path / "pairs"), "--pairs", str(tmp_path / "pairs")]
    result = CliRunner().invoke(command, ["methods", "demo-baseline", *job, *places, *TOY, "--seeds", "2"])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out" / "methods.json").read_text())
    row = document["methods"]["baseline"]
    assert row["recalls"]["recall@1"] == {"mean": row["mean"], "std": row["std"]}
    assert row["recalls"]["recall@10"] == {"mean": 1.0, "std": 0.0}  # of ten images
    assert "| method | retrieval_recall@1 | gain | recall@5 | recall@10 |" in result.output
    assert "100.0 ± 0.0 %" in result.output


def test_chosen_methods_are_compared_with_the_baseline_and_unknown_ones_refused(
    tmp_path: Path, job: list[str]
) -> None:
    arguments = ["methods", "demo-baseline", *job, *TOY, "--seeds", "1"]
    result = CliRunner().invoke(command, [*arguments, "--method", "ckd"])
    assert isinstance(result.exception, UsageError) and "icl" in str(result.exception.remedy)
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(command, [*arguments, "--method", "icl"])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out" / "methods.json").read_text())
    assert list(document["methods"]) == ["baseline", "icl"]


def test_a_recipe_that_distils_is_no_baseline(job: list[str]) -> None:
    result = CliRunner().invoke(command, ["methods", "demo-clip-kd", *job])
    assert isinstance(result.exception, UsageError) and "baseline" in str(result.exception)


def test_what_no_method_could_train_is_refused_before_any_run(tmp_path: Path, job: list[str]) -> None:
    arguments = ["methods", "demo-baseline", *job, *TOY]
    result = CliRunner().invoke(command, [*arguments, "--set", "batch_size=21"])
    assert isinstance(result.exception, UsageError) and "batch_size = 21" in result.exception.what
    result = CliRunner().invoke(command, [*arguments, "--teacher", "grpc://localhost:8001"])
    assert isinstance(result.exception, DataError) and "no checkpoint folder" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_killed_run_is_no_bug(job: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> futures.Future[None]:
        future: futures.Future[None] = futures.Future()
        future.set_exception(BrokenProcessPool("killed"))
        return future

    monkeypatch.setattr(futures.ProcessPoolExecutor, "submit", killed)
    result = CliRunner().invoke(command, ["methods", "demo-baseline", *job, *TOY])
    assert isinstance(result.exception, SetupError) and "--jobs" in str(result.exception.remedy)


def test_an_interrupted_comparison_ends_its_own_runs_and_no_process_of_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(methods_work, "as_completed", interrupt)
    places = (tmp_path / name for name in ("pairs", "data", "teacher", "cache", "runs"))
    job = methods.Job(
        "demo-baseline", *places, limit=1, threads=1, teacher_images=np.zeros((1, 2), np.float32)
    )
    others = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    others.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            methods_work.run_all(
                functools.partial(methods._run, job), [methods_work.Task("baseline", 0, ())], 1, silent
            )
        assert multiprocessing.active_children() == [others]
    finally:
        others.kill()
        others.join()


def test_every_method_is_a_valid_recipe_of_a_vit() -> None:
    settings = methods.method_settings(64)
    assert read_recipe("demo-baseline", settings["fd"]).objective.fd == pytest.approx(31.25)
    for name, objective in settings.items():
        recipe = read_recipe("demo-baseline", ["student=kdx-mini-vit", *objective])
        assert recipe.objective.needs_teacher == (name != "baseline")


def test_an_interrupted_comparison_goes_on_with_the_runs_that_are_missing(
    tmp_path: Path, job: list[str]
) -> None:
    def interrupt(done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    compare = functools.partial(
        methods.compare_methods,
        "demo-baseline",
        *(tmp_path / name for name in ("data", "data", "teacher", "out")),
    )
    settings = TOY[1::2]
    with pytest.raises(KeyboardInterrupt):
        compare(settings=settings, only=["fd"], seeds=1, progress=interrupt)
    finished = tmp_path / "out.unfinished/new/runs/baseline-0"
    made = read_manifest(finished).created
    with pytest.raises(UsageError) as other:
        compare(settings=settings, only=["fd"], seeds=2)
    assert other.value.where == str(tmp_path / "out.unfinished")
    document = compare(settings=settings, only=["fd"], seeds=1)
    assert [row["error"] for row in document["runs"]] == [None, None]
    assert read_manifest(tmp_path / "out/runs/baseline-0").created == made
    assert read_manifest(tmp_path / "out").kind == methods.KIND
    assert not (tmp_path / "out.unfinished").exists()
