"""Facts of `kdx query` on a local exported model."""

from pathlib import Path

import numpy as np
import pytest

from kdx.cli import main


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


@pytest.mark.parametrize(
    "arguments",
    [("text", "a\udcffb"), ("classify", "x.png", "--label", "\udcff"), ("search", "\udcff", "folder")],
)
def test_text_that_is_not_utf8_is_refused(
    exported_model: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    verb, *rest = arguments
    assert _run(verb, str(exported_model), *rest) == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_a_file_in_a_product_of_kdx_is_a_usage_error(
    exported_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported_model / "texts.npy"
    assert _run("text", str(exported_model), "a star", "--out", str(out)) == 2
    assert "lies in the exported-model" in capsys.readouterr().err and not out.exists()


def test_a_folder_as_output_is_a_usage_error(
    exported_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("text", str(exported_model), "a star", "--out", str(tmp_path)) == 2
    assert "is a directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
