"""Whether a score says anything: is it more than answers without any knowledge would reach?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .evaluation import Evaluation
from .retrieval import RetrievalResult
from .zero_shot import ZeroShotResult

LEVEL = 0.01  # chance reaches so many hits in fewer than one case of a hundred
FEW_CAPTIONS = 100  # below which the first ten would be a large part of all


@dataclass(frozen=True)
class ChanceTest:
    """metric: such as "zero-shot top-1". hits of `total` answers, where each is right by chance with `chance`."""

    metric: str
    hits: int
    total: int
    chance: float

    @property
    def passed(self) -> bool:
        """By the exact binomial distribution, of one side."""
        from scipy.stats import binomtest  # not at start: it takes a second

        return bool(binomtest(self.hits, self.total, self.chance, alternative="greater").pvalue < LEVEL)

    def __str__(self) -> str:
        share = 100 * self.hits / self.total
        return f"{self.metric} {share:.2f} % of {self.total:,}, by chance {100 * self.chance:.2f} %"


def chance_test(evaluation: Evaluation) -> ChanceTest | None:
    """Of its classes where it has any, else of its captions. None where nothing can be told."""
    if evaluation.zero_shot is not None:
        return _of_classes(evaluation.zero_shot)
    assert evaluation.retrieval is not None
    return _of_captions(evaluation.retrieval)


def _of_classes(result: ZeroShotResult) -> ChanceTest | None:
    """Chance is what the same answers reach when they are dealt out anew (J. Cohen 1960): 1 / C where all classes have
    as many images, and the share of a class for a model that always names that one.
    """
    total = len(result.labels)
    counts = np.bincount(result.labels)
    if np.count_nonzero(counts) < 2:
        return None
    named = np.bincount(result.predictions, minlength=len(counts))[: len(counts)]
    chance = float(counts @ named) / total**2
    return ChanceTest("zero-shot top-1", result.top1.hits, total, chance)


def _of_captions(result: RetrievalResult) -> ChanceTest | None:
    """Whether one of an image's own captions is among its first k, each image once: those are independent."""
    from scipy.stats import hypergeom

    total, captions = len(result.caption_ranks), len(result.owners)
    if total < 2:
        return None
    k = 1 if captions < FEW_CAPTIONS else 10
    own = np.bincount(result.owners, minlength=total)
    chance = float(hypergeom.sf(0, captions, own, k).mean())
    hits = int((result.caption_ranks < k).sum())
    return ChanceTest(f"image → text recall@{k}", hits, total, chance)
