"""Facts of `kdx demo`: the whole chain at toy size, on a user's own shards, with a real Triton."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.cli import demo, demo_data, main
from kdx.cli.demo_screen import Screen, Stage
from kdx.data.shards import Sample, open_split, write_shards
from kdx.distill import recipe


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps and a short measurement; everything else is the real thing."""
    read = recipe.read_recipe

    def read_short(name: str, settings: tuple[str, ...] = ()) -> recipe.Recipe:
        return read(name, (*settings, "steps=12", "optimizer.warmup_steps=2"))

    monkeypatch.setattr(recipe, "read_recipe", read_short)
    monkeypatch.setattr(demo, "BENCH_SECONDS", 0.1)
    monkeypatch.setattr(demo, "MOST_EPOCHS", 5)  # the toy steps over sixty pairs are more


def _run(*args: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", *args])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def _write_set(folder: Path, samples: list[Sample], labelled: bool) -> None:
    folder.mkdir()
    if not labelled:
        samples = [Sample(s.key, s.image, s.captions, None) for s in samples]
    write_shards(folder, "train", samples[:60])
    write_shards(folder, "val", samples[60:])
    for shard in folder.glob("val-*.tar"):  # the other name of the split
        shard.rename(folder / shard.name.replace("val", "test"))


def _captions(folder: Path) -> dict[str, tuple[str, ...]]:
    return {sample.key: sample.captions for sample in open_split(folder, "train")}


def test_the_chain_on_a_users_own_shards(
    toy: None,
    tmp_path: Path,
    make_samples: Callable[..., list[Sample]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    _write_set(data, make_samples(100), labelled=True)
    (data / "classes.txt").write_text("cat\ndog\nfish\n")
    assert _run("--data", str(data), "--out", str(out)) == 0
    shown = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert report["accuracy"]["metric"] == "zero_shot_top1"
    assert all(0 <= report["accuracy"][run] <= 1 for run in ("teacher", "baseline", "distilled"))
    assert report["parity"]["verdict"] in ("PASS", "INCONCLUSIVE")
    assert report["triton"] == {"version": "2.51.0", "source": "nvidia-pytriton 0.7.0"}
    assert set(report["seconds"]) == {"data", "teacher", "distil", "export", "serve", "query", "bench"}
    assert report["latency_ms"]["triton"]["8"]["num_samples"] >= 30
    assert report["setting"]["pairs of the teacher"] == 60
    assert report["setting"]["pairs of the students"] == 30
    assert report["setting"]["teacher"] == "trained here"
    assert "next:" in shown.out and str(out / "report.html") in shown.out
    for command in ("kdx distill small-clip-kd", "kdx export", "kdx serve build", "kdx query search"):
        assert command in shown.err
    assert _captions(out / "student-pairs").items() <= _captions(data).items()  # none is exchanged
    assert not (out / "teacher-pairs").exists()  # they are all of the user's
    assert _run("--data", str(data), "--out", str(out)) == 2  # an earlier demo is not replaced unasked
    assert "--overwrite" in capsys.readouterr().err


def test_a_users_own_teacher_is_taken_instead_of_training_one(
    toy: None,
    tmp_path: Path,
    make_samples: Callable[..., list[Sample]],
    mini_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    _write_set(data, make_samples(100), labelled=False)
    assert _run("--data", str(data), "--teacher", str(mini_checkpoint), "--out", str(out)) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["accuracy"]["metric"] == "retrieval_recall@1"
    assert set(report["seconds"]) == {"data", "distil", "export", "serve", "query", "bench"}
    assert report["setting"]["teacher"] == f"given: {mini_checkpoint}"
    assert report["setting"]["pairs of the students"] == 60
    assert report["models"]["teacher"]["architecture"] == "kdx-mini"
    assert set(json.loads((out / "report-data.json").read_text())["curves"]) == {"baseline", "distilled"}
    assert f"--teacher {mini_checkpoint}" in capsys.readouterr().err
    assert not (out / "teacher").exists()


def test_only_the_drawn_set_gets_wrong_captions(
    tmp_path: Path, make_samples: Callable[..., list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_data, "TRAIN", 60)
    monkeypatch.setattr(demo_data, "VAL", 8)
    monkeypatch.setattr(demo_data, "STUDENT_PAIRS", 20)
    demo_data.draw_set(tmp_path / "drawn", Screen([]))
    _write_set(tmp_path / "own", make_samples(100), labelled=True)
    for name in ("drawn", "own"):
        data, own_data = tmp_path / name, name == "own"
        pairs = demo_data.choose_pairs(
            data, tmp_path / f"{name}-out", own_data=own_data, own_teacher=False, screen=Screen([])
        )
        assert pairs.teacher is not None
        right = _captions(data)
        for folder, count in ((pairs.teacher, 60), (pairs.student, 20)):
            taken = _captions(folder)
            wrong = sum(taken[key] != right[key] for key in taken)
            assert len(taken) == count
            assert wrong == 0 if own_data else wrong > 0
        assert pairs.setting["captions"] == (
            "as they are" if own_data else "30 % are those of another picture"
        )


@pytest.mark.parametrize("option", ["--data", "--teacher"])
def test_what_lies_inside_the_output_is_refused_and_kept(
    option: str, tmp_path: Path, mini_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "out" / "given"
    shutil.copytree(mini_checkpoint, given)
    (tmp_path / "out" / demo.MARKER).touch()
    assert _run(option, str(given), "--out", str(tmp_path / "out"), "--overwrite") == 2
    assert f"{option} lies inside --out" in capsys.readouterr().err
    assert (given / "config.json").exists()


def test_a_teacher_that_is_none_is_refused_before_anything_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / demo.MARKER).touch()
    assert _run("--teacher", str(tmp_path / "no"), "--out", str(tmp_path / "out"), "--overwrite") == 4
    assert str(tmp_path / "no") in capsys.readouterr().err
    assert (tmp_path / "out" / demo.MARKER).exists()


def test_the_time_left_follows_the_pace_so_far_and_is_not_told_where_it_is_not_known() -> None:
    screen = Screen([Stage("data", "", 10), Stage("teacher", "", 100), Stage("export", "", 50)])
    assert screen.estimate_left() == 160
    screen.seconds["data"] = 30  # with the ten that are counted in, twice the usual
    assert screen.estimate_left() == 300
    screen = Screen([Stage("data", "", 1), Stage("distil", "", None), Stage("export", "", 50)])
    assert screen.estimate_left() is None
    screen.seconds |= {"data": 1, "distil": 999}
    assert screen.estimate_left() == 50


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert _run("--out", str(tmp_path), "--overwrite") == 2
    assert "holds something else than a demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_place_in_a_product_of_kdx_is_refused(
    mini_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("--out", str(mini_checkpoint / "demo")) == 2
    assert "lies in the checkpoint" in capsys.readouterr().err and not (mini_checkpoint / "demo").exists()
