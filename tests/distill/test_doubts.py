"""Facts of distill/doubts.py: what cannot be right is said, once and in time."""

import logging
from pathlib import Path

import numpy as np
import pytest

from kdx.core.progress import silent
from kdx.data.image_set import ImageSet
from kdx.data.shards import Sample, open_split, write_shards
from kdx.distill import doubts
from kdx.distill.doubts import Doubts, TeacherScore, score_teachers
from kdx.evaluate import Evaluation
from kdx.evaluate.zero_shot import score_zero_shot


def _evaluation(right: int, total: int = 100, classes: int = 10) -> Evaluation:
    corners = np.eye(classes, dtype=np.float32)
    labels = np.arange(total) % classes
    named = np.where(np.arange(total) < right, labels, (labels + 1) % classes)
    scored = score_zero_shot(corners[named], labels, corners, num_templates=1)
    return Evaluation("m", "", "fp32", 32, "set", "", total, 0, 0, scored, None, [], [])


def _teacher(score: float, high: float, at_chance: str | None = None) -> TeacherScore:
    return TeacherScore("ViT", "teacher-run", "zero_shot_top1", score, high, at_chance)


def test_a_student_at_chance_is_named_after_three_scores_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    heard = Doubts([])
    for step, right in enumerate((10, 9, 60, 10, 11), 1):
        heard.hear(step, _evaluation(right), last=False)
    assert not caplog.records
    heard.hear(6, _evaluation(12), last=False)
    heard.hear(7, _evaluation(12), last=True)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "AT CHANCE" in record.getMessage()
    assert "after 6 steps: zero-shot top-1 12.00 % of 100, by chance 10.00 %" in record.getMessage()


def test_in_a_run_that_is_scored_once_chance_is_named_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    Doubts([]).hear(100, _evaluation(10), last=True)
    assert len(caplog.records) == 1


def test_a_teacher_below_the_student_is_named_once_where_it_is_no_accident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard = Doubts([_teacher(0.5, 0.6)])
    heard.hear(10, _evaluation(58), last=False)
    assert not caplog.records
    heard.hear(20, _evaluation(70), last=False)
    heard.hear(30, _evaluation(80), last=True)
    (record,) = caplog.records
    assert "zero_shot_top1 50.0 %, the student 70.0 %" in record.getMessage()
    assert "teacher-run" in record.getMessage()


def test_a_teacher_at_chance_is_named_before_training(caplog: pytest.LogCaptureFixture) -> None:
    Doubts([_teacher(0.1, 0.2, "zero-shot top-1 10.00% of 100, by chance 10.00%")])
    (record,) = caplog.records
    assert "THE TEACHER SCORES AT CHANCE" in record.getMessage() and "kdx import" in record.getMessage()


@pytest.fixture
def held_out(tmp_path: Path, make_samples: object) -> ImageSet:
    samples: list[Sample] = make_samples(12)  # type: ignore[operator]
    write_shards(tmp_path / "data", "val", samples)
    (tmp_path / "data/classes.txt").write_text("circle\nsquare\nstar\n")
    return open_split(tmp_path / "data", "val")


def test_a_teacher_is_scored_once(
    tmp_path: Path, held_out: ImageSet, mini_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))  # its classifier is kept
    file = tmp_path / "teachers.json"
    (first,) = score_teachers([mini_checkpoint], held_out, file, silent)
    assert first.name == "kdx-mini" and 0 <= first.score <= first.high and first.at_chance
    monkeypatch.setattr(doubts, "evaluate_set", lambda *a, **k: pytest.fail("scored again"))
    assert score_teachers([mini_checkpoint], held_out, file, silent) == [first]
