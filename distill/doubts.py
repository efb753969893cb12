"""What a run says loudly while there is time: that the student learns nothing, or that the teacher cannot teach."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kdx.core.folders import read_json, write_atomic
from kdx.core.progress import Progress
from kdx.data.image_set import ImageSet
from kdx.evaluate import Evaluation, evaluate_set
from kdx.evaluate.chance import chance_test
from kdx.models.checkpoint import read_checkpoint_spec
from kdx.runtime.torch import TorchEncoder

log = logging.getLogger(__name__)

PATIENCE = 3  # scores in a row at chance, before that is said


@dataclass(frozen=True)
class TeacherScore:
    """What a teacher scores on the val split. high: the upper bound of its 95 % interval.

    at_chance: what it scores, in words, where that is no more than chance.
    """

    name: str
    path: str
    metric: str
    score: float
    high: float
    at_chance: str | None


def score_teachers(
    teachers: Sequence[Path], samples: ImageSet, file: Path, progress: Progress
) -> list[TeacherScore]:
    """By what `kdx eval` calls, once: `file` keeps the scores, by the digests of the teachers."""
    kept = read_json(file) if file.exists() else {}
    scores: list[TeacherScore] = []
    for path in teachers:
        digest = read_checkpoint_spec(path).model_digest
        if digest not in kept:
            with TorchEncoder.open(path) as encoder:
                kept[digest] = asdict(_score(path, evaluate_set(encoder, samples, progress=progress)))
            write_atomic(file, json.dumps(kept))
        scores.append(TeacherScore(**kept[digest]))
    return scores


class Doubts:
    """Each is said once. teachers: what they score; a student should not be better."""

    def __init__(self, teachers: Sequence[TeacherScore]) -> None:
        self.teachers = tuple(teachers)
        self._above = list(teachers)  # those that no student was better than
        self._at_chance = 0
        for teacher in teachers:
            if teacher.at_chance:
                log.warning(
                    "THE TEACHER SCORES AT CHANCE on the val split: %s (%s, %s); do its weights, tokenizer and "
                    "preprocessing belong together? import it again with kdx import, or check classes.txt and captions",
                    teacher.at_chance,
                    teacher.name,
                    teacher.path,
                )

    def hear(self, step: int, evaluation: Evaluation, *, last: bool) -> None:
        """Called with each score of the student."""
        test = chance_test(evaluation)
        self._at_chance = 0 if test is None or test.passed else self._at_chance + 1
        if self._at_chance == PATIENCE or (last and 0 < self._at_chance < PATIENCE):
            log.warning(
                "THE STUDENT SCORES AT CHANCE on the val split after %d steps: %s; check that captions belong to "
                "their images (kdx data info --sheet) and classes.txt to the labels, or lower optimizer.lr",
                step,
                test,
            )
        for teacher in list(self._above):
            if evaluation.metric == teacher.metric and evaluation.score > teacher.high:
                self._above.remove(teacher)
                log.warning(
                    "THE TEACHER SCORES BELOW THE STUDENT on the val split after %d steps: %s %.1f %%, the student "
                    "%.1f %%; take a better teacher than %s, or train without one",
                    step,
                    teacher.metric,
                    100 * teacher.score,
                    100 * evaluation.score,
                    teacher.path,
                )


def _score(path: Path, evaluation: Evaluation) -> TeacherScore:
    test = chance_test(evaluation)
    return TeacherScore(
        name=evaluation.model,
        path=str(path),
        metric=evaluation.metric,
        score=evaluation.score,
        high=_high(evaluation),
        at_chance=None if test is None or test.passed else str(test),
    )


def _high(evaluation: Evaluation) -> float:
    if evaluation.zero_shot is not None:
        return evaluation.zero_shot.top1.interval[1]
    assert evaluation.retrieval is not None
    to_text, to_image = evaluation.retrieval.image_to_text[1], evaluation.retrieval.text_to_image[1]
    return (to_text.interval[1] + to_image.interval[1]) / 2
