"""A part of a set with some captions exchanged: few pairs and noisy text, as a distilled student often has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdx.core.errors import DataError, UsageError
from kdx.core.folders import write_atomic

from .set_folder import building_set
from .set_texts import CLASSES, TEMPLATES
from .shards import Sample, ShardSet, read_templates, write_shards
from .views import philox

ORDER, EXCHANGE = 0, 1  # streams of random numbers


def write_subset(
    source: ShardSet, folder: Path, *, pairs: int, wrong_captions: float, seed: int, overwrite: bool = False
) -> int:
    """Writes `pairs` samples of `source` as train shards and returns how many of them have wrong captions.

    wrong_captions: probability, in [0, 1), that a sample gets the captions of another random sample of the
    source, none of which it has itself. Keys, images and labels stay. The same seed gives nested sets: fewer
    pairs are the beginning of more pairs, with the same wrong captions; a smaller share exchanges captions of
    a part of those that a larger one exchanges. classes.txt and templates.txt of the source come along.
    Raises UsageError for pairs or a share that cannot be, DataError if no caption differs.
    """
    _check(source, pairs, wrong_captions, seed)
    wrong = 0

    def chosen() -> Iterator[Sample]:
        nonlocal wrong
        for index in philox(seed, ORDER).permutation(len(source))[:pairs].tolist():
            sample = source[index]
            captions = _captions(source, index, wrong_captions, seed)
            wrong += captions != sample.captions
            yield Sample(sample.key, sample.image, captions, sample.label)

    templates = read_templates(source.folder)
    with building_set(folder, overwrite=overwrite) as building:
        write_shards(building, "train", chosen())
        if templates is not None:
            write_atomic(building / TEMPLATES, "\n".join(templates) + "\n")
        if source.classes is not None:
            write_atomic(building / CLASSES, "\n".join(source.classes) + "\n")
    return wrong


def _check(source: ShardSet, pairs: int, wrong_captions: float, seed: int) -> None:
    if not 1 <= pairs <= len(source):
        raise UsageError(
            f"{pairs} pairs of a set that has {len(source)}",
            where=source.folder,
            remedy=f"ask for 1 to {len(source)}",
        )
    if not 0 <= wrong_captions < 1:
        raise UsageError(
            f"wrong_captions = {wrong_captions}", remedy="give a share of at least 0 and below 1"
        )
    if seed < 0:
        raise UsageError(f"seed = {seed}", remedy="seeds count from 0")


def _captions(source: ShardSet, index: int, wrong_captions: float, seed: int) -> tuple[str, ...]:
    """The captions that a sample has in the subset: a function of seed and its row in the source alone."""
    random = philox(seed, EXCHANGE, index)
    own = source.captions(index)
    if random.random() >= wrong_captions:
        return own
    start = int(random.integers(len(source)))
    for step in range(len(source)):
        captions = source.captions((start + step) % len(source))
        if not set(captions) & set(own):
            return captions
    raise DataError(
        f"no sample has captions other than those of {source.keys[index]}",
        where=source.folder,
        remedy="leave the captions right: --wrong-captions 0",
    )
