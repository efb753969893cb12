"""The student that has scored best so far, kept beside the states of an unfinished run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError, KdxError
from kdx.core.folders import open_sealed
from kdx.evaluate import Evaluation
from kdx.models.checkpoint import KIND

log = logging.getLogger(__name__)

NAME = "best"  # its folder in the finished run
PREFIX = "step-"


@dataclass(frozen=True)
class ScoredStep:
    """What the student of a step scored. metric: the one that decides, Evaluation.metric; score: a fraction."""

    step: int
    metric: str
    score: float
    num_images: int

    @classmethod
    def of(cls, step: int, evaluation: Evaluation) -> ScoredStep:
        return cls(step, evaluation.metric, evaluation.score, evaluation.num_images)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class BestStudent:
    """In `folder` as a checkpoint `step-NNNNNNNNN`, whose manifest says what it scored; in `run` when that is whole.

    A better one is whole before the one before it goes, so that there is one whatever ends the process. What lies there
    counts also for a run that goes on from an earlier state: it was scored in truth.
    """

    def __init__(self, folder: Path, run: Path) -> None:
        self._folder, self._run = folder, run
        self.path: Path | None = None
        self.scored: ScoredStep | None = None
        for hidden in folder.glob(".*"):  # of a process that was killed while it wrote
            shutil.rmtree(hidden)
        for path in (run / NAME, *sorted(folder.glob(f"{PREFIX}*"))):
            if path.exists():
                self._take(path, _read(path))

    def offer(self, scored: ScoredStep, save: Callable[[Path, dict[str, Any]], None]) -> None:
        """Keeps the student if none has scored as much. save: seals it at a place, its manifest having these fields.

        One that cannot be written is a warning, and the one before it stays.
        """
        if self.scored is not None and scored.score <= self.scored.score:
            return
        path = self._folder / f"{PREFIX}{scored.step:09d}"
        try:
            save(path, scored.to_dict())
        except (KdxError, OSError) as error:
            log.warning("the student of step %d, the best so far, cannot be kept: %s", scored.step, error)
        else:
            self._take(path, scored)

    def move_into_run(self) -> None:
        """For sealing it."""
        place = self._run / NAME
        if self.path not in (None, place):
            self.path.rename(place)
            self.path = place

    def _take(self, path: Path, scored: ScoredStep | None) -> None:
        """The better one of this and of what there is; the other goes."""
        if scored is None or (self.scored is not None and scored.score <= self.scored.score):
            shutil.rmtree(path)
            return
        if self.path not in (None, path):
            shutil.rmtree(self.path)
        self.path, self.scored = path, scored


def _read(path: Path) -> ScoredStep | None:
    """None for one that is damaged."""
    try:
        return ScoredStep(**open_sealed(path, KIND).fields)
    except (DataError, TypeError) as error:
        log.warning("the best student so far is lost: %s", error)
        return None
