"""Facts of `kdx query` on a local exported model."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdx.cli import main
from kdx.data.shards import Sample, write_shards


def _run(*args: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["query", *args])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_embeddings_are_saved(exported_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "texts.npy"
    assert _run("text", str(exported_model), "a star", "two stars", "--out", str(out)) == 0
    saved = np.load(out)
    assert saved.dtype == np.float32 and np.allclose(np.linalg.norm(saved, axis=1), 1, atol=1e-5)


def test_a_width_that_the_model_was_not_trained_for_is_a_usage_error(
    exported_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("text", str(exported_model), "a star", "--dimensions", "8") == 2
    assert "trained for embeddings of 64 numbers alone" in capsys.readouterr().err
    assert _run("text", str(exported_model), "a star", "--dimensions", "64") == 0


@pytest.mark.parametrize(
    "arguments",
    [("text", "a\udcffb"), ("classify", "x.png", "--label", "\udcff"), ("search", "\udcff", "folder")],
)
def test_text_that_is_not_utf8_is_refused(
    exported_model: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    verb, *rest = arguments
    assert _run(verb, str(exported_model), *rest) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_a_file_in_a_product_of_kdx_is_a_usage_error(
    exported_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported_model / "texts.npy"
    assert _run("text", str(exported_model), "a star", "--out", str(out)) == 2
    assert str(exported_model) in capsys.readouterr().err and not out.exists()


def test_a_folder_as_output_is_a_usage_error(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("text", str(exported_model), "a star", "--out", str(tmp_path)) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_byte_order_mark_is_no_part_of_a_label(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_photo: Callable[..., bytes]
) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    (tmp_path / "photo.jpg").write_bytes(make_photo(0))
    image, labels = str(tmp_path / "photo.jpg"), str(tmp_path / "labels.txt")
    assert _run("classify", str(exported_model), image, "--labels-from", labels, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert {best["label"] for best in row["top"]} == {"cat", "dog"}


def test_search_takes_what_decodes_and_names_the_kinds_that_it_passes_over(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_photo: Callable[..., bytes]
) -> None:
    for name in ("a.jfif", "b.JPE", "c.heic", "notes.txt", os.fsdecode(b"caf\xe9.jpg")):
        (tmp_path / name).write_bytes(make_photo(0))
    (tmp_path / "d.avif").write_bytes(make_photo(1, 40, "AVIF"))
    assert _run("search", str(exported_model), "a star", str(tmp_path), "--json") == 0
    shown = capsys.readouterr()
    found = {Path(hit["image"]).name for hit in json.loads(shown.out)}
    assert found == {"a.jfif", "b.JPE", "d.avif", "caf\\udce9.jpg"}
    assert ".heic" in shown.err and ".txt" not in shown.err


def test_search_takes_a_set_at_a_url(
    exported_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_samples: Callable[..., list[Sample]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "kdx"))
    write_shards(tmp_path / "set", "val", make_samples(3))
    url = f"file://{tmp_path}/set"
    assert _run("search", str(exported_model), "a star", url, "--json") == 0
    found = {hit["image"] for hit in json.loads(capsys.readouterr().out)}
    assert found == {f"{url}:s{number:04d}" for number in range(3)}
