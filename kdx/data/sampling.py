"""Some samples of a set, evenly spaced: shards may be sorted by class, so that the first ones may be all of one."""

from __future__ import annotations

import logging

from kdx.core.errors import DataError
from kdx.core.preprocess import decode_image

from .sample import Sample
from .shards import ShardSet

log = logging.getLogger(__name__)


def spread(total: int, count: int) -> list[int]:
    """`count` evenly spaced rows of `total`, the first among them; all rows if there are no more than `count`."""
    count = min(count, total)
    return [index * total // count for index in range(count)]


def readable_samples(samples: ShardSet, count: int) -> list[Sample]:
    """Of `count` evenly spaced samples those whose image decodes; the others are logged.

    Raises DataError if none does.
    """
    readable: list[Sample] = []
    for row in spread(len(samples), count):
        sample = samples[row]
        try:
            decode_image(sample.image)
        except DataError as error:
            log.warning("left out sample %s: %s", sample.key, error.what)
        else:
            readable.append(sample)
    if not readable:
        raise DataError(
            f"none of {min(count, len(samples))} images decodes",
            where=samples.folder,
            remedy="repair the shards; the log names the samples",
        )
    return readable
