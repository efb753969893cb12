"""Facts of kdx/cli/cache.py."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.cli import main
from kdx.data.shards import Sample, write_shards

SETTINGS = ["--set", "batch_size=8", "--set", "steps=4", "--set", "optimizer.warmup_steps=1"]


def _kdx(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(str(stop.value.code))


@pytest.fixture
def build(tmp_path: Path, make_samples: Callable[..., list[Sample]], mini_checkpoint: Path) -> list[object]:
    """The command that makes a cache of sixteen pairs in two shards at `cache`."""
    write_shards(tmp_path / "data", "train", make_samples(16), samples_per_shard=8)
    places = ["--data", tmp_path / "data", "--teacher", mini_checkpoint, "--out", tmp_path / "cache"]
    return ["cache", "build", "demo-clip-kd", *places, *SETTINGS]


def test_a_cache_is_built_described_and_verified(
    tmp_path: Path, build: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert _kdx(*build, "--storage", "int8", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["whole"], told["shards"], told["shards_done"], told["storage"]) == (True, 2, 2, "int8")
    assert told["teacher"]["name"] == "kdx-mini" and told["data"]["pairs"] == 16
    assert _kdx("cache", "info", cache, "--json") == 0
    assert json.loads(capsys.readouterr().out) == told
    assert _kdx("cache", "info", cache) == 0
    assert "16 pairs" in capsys.readouterr().out
    assert _kdx("cache", "verify", cache) == 0
    file = cache / "train-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert _kdx("cache", "verify", cache) == 4
    assert "changed: train-00001.safetensors" in capsys.readouterr().err
    assert _kdx(*build, "--storage", "fp16") == 2


def test_a_cache_of_an_earlier_kdx_is_described_and_refused_in_one_line(
    tmp_path: Path, build: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _kdx(*build) == 0
    manifest = tmp_path / "cache" / "manifest.json"
    said = json.loads(manifest.read_text())
    for name in ("storage", "precision"):
        del said["fields"][name]
    said["fields"]["fingerprint"] = "1" * 64
    manifest.write_text(json.dumps(said))
    assert _kdx("cache", "info", tmp_path / "cache") == 0
    assert "fp16" in capsys.readouterr().out
    assert _kdx(*build) == 2
    assert "version differ" in capsys.readouterr().err


def test_a_cache_at_a_url_is_built_described_verified_and_trained_from(
    tmp_path: Path,
    build: list[object],
    mini_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "kdx"))
    url = f"file://{tmp_path}/store/teacher.cache"
    places = ["--data", tmp_path / "data", "--teacher", mini_checkpoint]
    assert _kdx("cache", "build", "demo-clip-kd", *places, "--out", url, *SETTINGS) == 0
    assert f"--cache {url}" in capsys.readouterr().err
    assert _kdx("cache", "info", url) == 0 and url in capsys.readouterr().out
    assert _kdx("cache", "verify", url) == 0
    run = ["--cache", url, "--out", tmp_path / "run"]
    assert _kdx("distill", "demo-clip-kd", *places, *run, *SETTINGS) == 0
    assert f"reused the teacher cache {url}" in capsys.readouterr().err


def test_what_is_no_cache_is_said(tmp_path: Path, mini_checkpoint: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path, mini_checkpoint):
        assert _kdx("cache", "info", folder) == _kdx("cache", "verify", folder) == 2
