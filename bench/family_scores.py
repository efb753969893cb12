"""What the members of a family have scored, in a file beside its table: each is scored once.

A score counts again for the same weights with their preprocessing and tokenizer, the same data and the same kdx.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

import kdx
from kdx.core.digests import value_digest
from kdx.core.encoder import EncoderSpec
from kdx.core.errors import SetupError
from kdx.core.folders import write_atomic
from kdx.data.image_set import ImageSet
from kdx.evaluate import Evaluation
from kdx.evaluate.sharing import Peers, workplace

log = logging.getLogger(__name__)


class Score(BaseModel):
    """value: a fraction; interval: its 95 % one, None where it has none. recalls: those beside recall@1, by their k."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    dataset: str
    protocol: str
    num_images: int
    metric: str
    value: float
    interval: tuple[float, float] | None
    recalls: dict[int, float]

    @classmethod
    def of(cls, evaluation: Evaluation) -> Score:
        zero_shot, retrieval = evaluation.zero_shot, evaluation.retrieval
        if zero_shot is not None:
            protocol, interval, recalls = zero_shot.protocol, zero_shot.top1.interval, {}
        else:
            assert retrieval is not None
            protocol, interval = f"{retrieval.protocol}, {evaluation.protocol}", None
            recalls = {k: recall for k, recall in retrieval.mean_recall.items() if k > 1}
        return cls(
            model=evaluation.model,
            dataset=evaluation.dataset,
            protocol=protocol,
            num_images=evaluation.num_images,
            metric=evaluation.metric,
            value=evaluation.score,
            interval=interval,
            recalls=recalls,
        )


_FILE = TypeAdapter(dict[str, Score])


class KeptScores:
    """Scores by `score_digests`, in a JSON file that is written anew with each; without one in memory alone."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._scores: dict[str, Score] = {}
        if file is not None:
            with contextlib.suppress(OSError, ValidationError):  # absent, or damaged: all are scored anew
                self._scores = _FILE.validate_json(file.read_bytes())

    def __contains__(self, digest: str) -> bool:
        return digest in self._scores

    def __getitem__(self, digest: str) -> Score:
        return self._scores[digest]

    def keep(self, digest: str, score: Score) -> None:
        """Where the file cannot be written, which is no reason to lose the table, that is logged."""
        self._scores[digest] = score
        if self._file is None:
            return
        content = json.dumps(_FILE.dump_python(self._scores, mode="json"), indent=2) + "\n"
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file, content)
        except (OSError, SetupError) as error:
            log.warning("the score is not kept for the next time: %s", error)

    def known_to_all(self, digests: Sequence[str], peers: Peers) -> set[str]:
        """Those of `digests` that the first of `peers` has: what one process skips, all must skip."""
        known = [digest for digest in digests if digest in self]
        if peers.size == 1:
            return set(known)
        with workplace(value_digest(["kept scores", *digests]), peers) as work:
            mine = value_digest(known), {"known": np.array(known, dtype=np.str_)}
            (shared,) = work.share("known", 1, lambda _: mine[0], lambda numbers: (mine for _ in numbers))
        return set(shared["known"].tolist())


def score_digests(specs: Sequence[EncoderSpec], samples: ImageSet, limit: int | None) -> list[str]:
    """For each model, of all that decides what it scores on the set."""
    data = [samples.digest, samples.templates, samples.protocol, limit]
    return [value_digest([kdx.__version__, spec.to_dict(), data]) for spec in specs]
