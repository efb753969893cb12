"""Facts of distill/best_student.py: the best student so far is there whatever ends the process."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from kdx.core.errors import SetupError
from kdx.core.folders import read_manifest, sealed_folder
from kdx.distill.best_student import BestStudent, ScoredStep


def _save(path: Path, fields: dict[str, Any]) -> None:
    with sealed_folder(path, "checkpoint", fields=fields, overwrite=True) as folder:
        (folder / "model.safetensors").write_text(str(fields["step"]))


def _at(step: int, score: float) -> ScoredStep:
    return ScoredStep(step, "zero_shot_top1", score, 100)


def _places(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "run").mkdir(exist_ok=True)
    return tmp_path / "best", tmp_path / "run"


def test_the_best_alone_is_kept_and_the_first_of_equal_ones(tmp_path: Path) -> None:
    best = BestStudent(*_places(tmp_path))
    for step, score in ((10, 0.3), (20, 0.5), (30, 0.4), (40, 0.5)):
        best.offer(_at(step, score), _save)
    assert best.scored == _at(20, 0.5)
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-000000020"]
    best.move_into_run()
    assert read_manifest(tmp_path / "run/best").fields == _at(20, 0.5).to_dict()


def test_it_is_found_again_also_where_a_run_was_stopped_while_it_was_sealed(tmp_path: Path) -> None:
    places = _places(tmp_path)
    BestStudent(*places).offer(_at(10, 0.3), _save)
    again = BestStudent(*places)
    assert again.scored == _at(10, 0.3)
    again.move_into_run()
    last = BestStudent(*places)
    assert last.path == tmp_path / "run/best"
    last.offer(_at(20, 0.2), _save)
    assert last.path == tmp_path / "run/best"
    last.offer(_at(30, 0.4), _save)
    assert not (tmp_path / "run/best").exists()
    last.move_into_run()
    assert (tmp_path / "run/best/model.safetensors").read_text() == "30"


def test_of_two_that_a_killed_process_left_the_better_one_counts(tmp_path: Path) -> None:
    for step, score in ((10, 0.5), (20, 0.4)):
        _save(tmp_path / f"best/step-{step:09d}", _at(step, score).to_dict())
    (tmp_path / "best/.step-000000030.building-1234/new").mkdir(parents=True)
    best = BestStudent(*_places(tmp_path))
    assert best.scored == _at(10, 0.5)
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-000000010"]


def test_a_damaged_one_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    places = _places(tmp_path)
    BestStudent(*places).offer(_at(10, 0.3), _save)
    (tmp_path / "best/step-000000010/model.safetensors").write_text("other")
    assert BestStudent(*places).scored is None and "is lost" in caplog.text


def test_one_that_cannot_be_written_is_said_and_the_one_before_it_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, fields: dict[str, Any]) -> None:
        raise SetupError(f"cannot be written: {os.strerror(errno.ENOSPC)}", where=path)

    best = BestStudent(*_places(tmp_path))
    best.offer(_at(10, 0.3), _save)
    best.offer(_at(20, 0.4), refuse)
    assert best.scored == _at(10, 0.3) and best.path and best.path.name == "step-000000010"
    assert "of step 20" in caplog.text and "No space left" in caplog.text
