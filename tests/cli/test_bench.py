"""Facts of kdx/cli/bench.py."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from kdx.cli.bench import NUM_IMAGES, command
from kdx.core.errors import DataError
from kdx.data.shards import Sample, write_shards


class _Encoder:
    """Stands in for what kdx.load gives."""

    opened: ClassVar[list["_Encoder"]] = []
    spec = SimpleNamespace(preprocess=lambda: len)

    def __init__(self, path: str) -> None:
        self.path = path
        self.images: set[bytes] = set()
        self.texts: set[str] = set()
        self.closed = False
        self.opened.append(self)

    def __enter__(self) -> "_Encoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def embed_images(self, images: list[bytes]) -> None:
        self.images |= set(images)

    def embed_and_count(self, texts: list[str]) -> tuple[None, int]:
        self.texts |= set(texts)
        return None, 0


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[_Encoder]:
    monkeypatch.setattr(_Encoder, "opened", [])
    monkeypatch.setattr("kdx.load", _Encoder)
    monkeypatch.setattr("kdx.bench.peak_memory", lambda model, images, texts: float(len(images) + len(texts)))
    return _Encoder.opened


@pytest.fixture
def data(tmp_path: Path) -> Path:
    def sample(row: int) -> Sample:
        encoded = io.BytesIO()
        Image.new("RGB", (8, 8), (row, 0, 0)).save(encoded, "PNG")
        return Sample(f"{row:03d}", encoded.getvalue()[: 40 if row == 3 else None], ("a",), None)

    write_shards(tmp_path, "val", map(sample, range(NUM_IMAGES + 6)))
    return tmp_path


def _run(*args: object) -> Result:
    return CliRunner().invoke(command, list(map(str, args)), catch_exceptions=False)


def test_latency_as_json_has_each_model_and_batch(data: Path, loaded: list[_Encoder]) -> None:
    result = _run(
        "latency", "a", "b", "--data", data, "--batch", 1, "--batch", 4, "--seconds", 0.01, "--json"
    )
    document = json.loads(result.stdout)
    assert list(document["latency_ms"]) == ["a", "b", "preprocess"]
    assert list(document["text_latency_ms"]) == ["a", "b"]
    assert document["memory_mib"] == {"a": 8.0, "b": 8.0}  # the largest batch of images and of texts
    for batches in (*document["latency_ms"].values(), *document["text_latency_ms"].values()):
        assert list(batches) == ["1", "4"]
        assert all(row["num_samples"] >= 30 and row["p50"] <= row["p99"] for row in batches.values())
    assert "cpu" in document["provenance"]
    assert [encoder.closed for encoder in loaded] == [True, True]


def test_latency_as_a_table_and_its_conditions_on_stderr(data: Path) -> None:
    result = _run("latency", "model", "--data", data, "--seconds", 0.01)
    assert [line.split()[:3] for line in result.stdout.splitlines()] == [
        ["model", "of", "batch"],
        ["model", "images", "1"],
        ["model", "images", "8"],
        ["preprocess", "images", "1"],
        ["preprocess", "images", "8"],
        ["model", "texts", "1"],
        ["model", "texts", "8"],
    ]
    assert "load average" in result.stderr and "load average" not in result.stdout


def test_the_memory_of_a_server_is_not_measured(data: Path) -> None:
    url = "grpc://localhost:1"
    document = json.loads(_run("latency", "a", url, "--data", data, "--seconds", 0.01, "--json").stdout)
    assert document["memory_mib"] == {"a": 16.0, url: None}
    lines = _run("latency", "a", url, "--data", data, "--seconds", 0.01).stdout.splitlines()
    of_url = [line for line in lines if line.startswith(url)]
    assert len(of_url) == 4 and all(line.endswith("server's") for line in of_url)


def test_only_images_that_decode_are_sent(data: Path, loaded: list[_Encoder]) -> None:
    _run("latency", "a", "--data", data, "--batch", 8, "--seconds", 0.01)
    assert len(loaded[0].images) == NUM_IMAGES - 1


def test_a_model_given_twice_is_refused(data: Path) -> None:
    result = _run("latency", "a", "a", "--data", data)
    assert result.exit_code == 2 and "once" in result.stderr


def test_report_renders_the_page_again(tmp_path: Path) -> None:
    from kdx.bench import write_report

    side = {"max_abs": 0.0, "min_cosine": 1.0, "needed_tolerance": 0.0}
    row = {"p50": 1.0, "p95": 2.0, "p99": 3.0, "num_samples": 30}
    report: dict[str, Any] = {
        "accuracy": {"metric": "zero_shot_top1", "teacher": 0.8, "baseline": 0.5, "distilled": 0.65},
        "parity": {"image": side, "text": side, "top1_agreement": 1.0},
        "latency_ms": {runtime: {"1": row, "8": row} for runtime in ("torch", "onnx", "triton")},
        "triton": {"version": "2.51.0", "source": "a package"},
        "seconds": {"data": 12.0},
        "provenance": {"kdx": "0.1.0"},
    }
    page = write_report(report, tmp_path, curves={})
    before = page.read_bytes()
    page.unlink()
    assert _run("report", tmp_path).stdout.strip() == str(page)
    assert page.read_bytes() == before


def test_report_of_a_folder_without_one_is_bad_data(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        _run("report", tmp_path)
    assert error.value.where == str(tmp_path / "report.json")
