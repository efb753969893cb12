"""Scores of the student on held-out pairs while it trains.

What is scored is a copy of its weights, or of their average, in fp32 and by what `kdx eval` calls: training goes on as
if nothing had been scored, and the last score is the one that `kdx eval` gives for the run.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kdx.core.errors import KdxError
from kdx.core.progress import Progress
from kdx.core.tokenizers import Tokenizer
from kdx.core.urls import shown
from kdx.data.shards import ShardSet
from kdx.evaluate import Evaluation, evaluate_set
from kdx.models.architecture import Architecture
from kdx.models.architectures import build_model
from kdx.models.checkpoint import Checkpoint, describe, save_checkpoint
from kdx.models.clip import ClipModel
from kdx.runtime.torch import TorchEncoder

from .best_student import BestStudent, ScoredStep
from .doubts import Doubts
from .ranks import Ranks
from .run_state import RunState

log = logging.getLogger(__name__)


class Validation:
    """Scores `samples` after every `every` steps and after the last of `steps`.

    The first rank does it, and the others wait: it takes the time of `kdx eval`, and memory for one more student and
    the embeddings of the set. best, doubts: what takes each score, on the first rank; origin: what else
    `save_checkpoint` is told of the best student: `inputs`, `seeds`, `matryoshka_dims`.
    """

    def __init__(
        self,
        samples: ShardSet,
        architecture: Architecture,
        tokenizer: Tokenizer,
        state: RunState,
        ranks: Ranks,
        best: BestStudent | None,
        doubts: Doubts | None,
        *,
        every: int,
        steps: int,
        origin: Mapping[str, Any],
    ) -> None:
        self.samples, self.architecture, self.tokenizer = samples, architecture, tokenizer
        self._state, self._ranks = state, ranks
        self._every, self._steps = every, steps
        self._best, self._doubts, self._origin = best, doubts, origin
        self._last: ScoredStep | None = None

    def is_due(self, step: int) -> bool:
        return step % self._every == 0 or step == self._steps

    def score(self, step: int, progress: Progress) -> dict[str, float]:
        """The numbers of the student after `step`; none on other ranks, and where it cannot be scored, which is logged.

        Every rank calls it.
        """
        numbers: dict[str, float] = {}
        if self._ranks.is_first:
            started = time.monotonic()
            try:
                evaluation = self._evaluate(progress)
            except (KdxError, torch.OutOfMemoryError) as error:  # which is no reason to lose the run
                log.warning("step %d is not validated: %s", step, error)
            else:
                self._last = ScoredStep.of(step, evaluation)
                assert self._best is not None and self._doubts is not None
                self._doubts.hear(step, evaluation, last=step == self._steps)
                self._best.offer(self._last, self._save)
                numbers = {**_numbers(evaluation), "seconds_validating": time.monotonic() - started}
        self._ranks.wait()
        return numbers

    def finish(self) -> dict[str, Any]:
        """Moves the best student into the run; returns what the run's manifest says of its scores."""
        assert self._best is not None and self._doubts is not None
        self._best.move_into_run()
        return {
            "every": self._every,
            "data": {
                "path": shown(self.samples.place),
                "pairs": len(self.samples),
                "digest": self.samples.digest,
            },
            "best": self._best.scored and self._best.scored.to_dict(),
            "last": self._last and self._last.to_dict(),
            "teachers": [asdict(teacher) for teacher in self._doubts.teachers],
        }

    def _save(self, path: Path, fields: dict[str, Any]) -> None:
        save_checkpoint(
            path,
            self._student,
            self.architecture,
            self.tokenizer,
            overwrite=True,
            fields=fields,
            **self._origin,
        )

    def _evaluate(self, progress: Progress) -> Evaluation:
        self._student.load_state_dict(self._state.student_weights())
        spec = describe(self._student, self.architecture, self.tokenizer, weights_digest="")
        encoder = TorchEncoder(
            Checkpoint(self.samples.place, self._student, spec, self.tokenizer, self.architecture)
        )
        encoder.identity = None  # weights of a moment: nothing of them belongs into kdx's cache folder
        return evaluate_set(encoder, self.samples, progress=progress)

    @functools.cached_property
    def _student(self) -> ClipModel:
        """On the CPU, without what training adds to a model: compiled towers, locks, batch statistics of all ranks."""
        return build_model(self.architecture).eval().requires_grad_(False)


def beside(progress: Progress, step: int, steps: int, what: str) -> Progress:
    """The progress of a piece of work while the run stands at `step`, as a note."""

    def tell(done: int, total: int, note: str = "") -> None:
        progress(step, steps, f"{what}: {done} of {total} {note}".rstrip())

    return tell


def _numbers(evaluation: Evaluation) -> dict[str, float]:
    numbers: dict[str, float] = {}
    if evaluation.zero_shot is not None:
        numbers["val_zero_shot_top1"] = evaluation.zero_shot.top1.value
    if evaluation.retrieval is not None:
        numbers["val_retrieval_recall@1"] = evaluation.retrieval.mean_recall[1]
    return numbers
