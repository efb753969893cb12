"""Facts of `kdx demo`: the whole chain at toy size, on a user's own shards, with a real Triton."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.cli import demo, main
from kdx.data.shards import Sample, write_shards
from kdx.distill import recipe


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps and a short measurement; everything else is the real thing."""
    read = recipe.read_recipe

    def read_short(name: str, settings: tuple[str, ...] = ()) -> recipe.Recipe:
        return read(name, (*settings, "steps=12", "optimizer.warmup_steps=2"))

    monkeypatch.setattr(recipe, "read_recipe", read_short)
    monkeypatch.setattr(demo, "BENCH_SECONDS", 0.1)


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


@pytest.mark.parametrize("labelled", [True, False])
def test_the_chain_on_a_users_own_shards(
    toy: None,
    tmp_path: Path,
    make_samples: Callable[..., list[Sample]],
    capsys: pytest.CaptureFixture[str],
    labelled: bool,
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    _write_set(data, make_samples(100), labelled)
    if labelled:
        (data / "classes.txt").write_text("cat\ndog\nfish\n")
    assert _run("--data", str(data), "--out", str(out)) == 0
    shown = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert report["accuracy"]["metric"] == ("zero_shot_top1" if labelled else "retrieval_recall@1")
    assert all(0 <= report["accuracy"][run] <= 1 for run in ("teacher", "baseline", "distilled"))
    assert report["parity"]["verdict"] in ("PASS", "INCONCLUSIVE")
    assert report["triton"] == {"version": "2.51.0", "source": "nvidia-pytriton 0.7.0"}
    assert set(report["seconds"]) == {"data", "teacher", "distil", "export", "serve", "query", "bench"}
    assert report["latency_ms"]["triton"]["8"]["num_samples"] >= 30
    assert "next:" in shown.out and str(out / "report.html") in shown.out
    for command in ("kdx distill demo-clip-kd", "kdx export", "kdx serve build", "kdx query search"):
        assert command in shown.err
    assert _run("--data", str(data), "--out", str(out)) == 2  # an earlier demo is not replaced unasked
    assert "--overwrite" in capsys.readouterr().err


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert _run("--out", str(tmp_path), "--overwrite") == 2
    assert "holds something else than a demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_data_inside_the_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--data", str(tmp_path / "out" / "data"), "--out", str(tmp_path / "out"), "--overwrite") == 2
    assert "lies inside" in capsys.readouterr().err


def test_a_place_in_a_product_of_kdx_is_refused(
    mini_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("--out", str(mini_checkpoint / "demo")) == 2
    assert "lies in the checkpoint" in capsys.readouterr().err and not (mini_checkpoint / "demo").exists()
