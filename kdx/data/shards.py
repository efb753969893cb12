"""Image–text sets as WebDataset tar shards: opening a split of one.

A set is a folder with train-*.tar (or 00000.tar …), val-*.tar (or test-*.tar), and where it is labelled classes.txt.
A sample is KEY.jpg (jpeg, jfif, png, webp, avif), KEY.txt, where labelled KEY.cls (an integer or a class name), and
with several captions KEY.json = {"captions": [...]}, whose first one is KEY.txt. For evaluation a class is enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdx.core.errors import DataError, UsageError
from kdx.core.progress import Stages, silent_stages
from kdx.core.urls import shown, url_of

from .index.opening import IndexedShard, open_indexes
from .index.shard_index import FIRST_REASON, GOOD, ShardFacts, ShardIndex
from .index.unique_keys import find_renamed
from .places import SPLITS, Place, compressed_shards, shard_paths, splits_there
from .sample import NO_CAPTION, BadSample, LabelFinder, Sample, is_index, names_among
from .set_texts import CLASSES, find_text, is_there, read_lines, read_templates
from .shard_set import Shard, ShardSet
from .unpacked import convert_command, quoted
from .writing import write_shards

__all__ = [
    "Sample",
    "Shard",
    "ShardSet",
    "open_split",
    "read_classes",
    "read_templates",
    "shard_paths",
    "write_shards",
]

REASONS_SHOWN = 3
UNKNOWN = -2  # the label of a class text that says none


def open_split(
    folder: Path,
    split: str,
    *,
    need_captions: bool = True,
    min_good_share: float = 0.9,
    stages: Stages = silent_stages,
) -> ShardSet:
    """Opens the shards of a split: "train", "test", or "val", which are test-*.tar where there are no val-*.tar.

    folder: or another place (places.py): a pattern, several places, or one of whose train shards a share is held out.
    Bad samples are skipped and named in `ShardSet.skipped`; need_captions: whether one without a caption is bad.
    stages: shows "indexing", where a shard has no index that is current. Raises DataError when there are no shards,
    when one is no whole tar, or when less than `min_good_share` of the samples are good.
    """
    paths = shard_paths(folder, split)
    if not paths:
        raise DataError(f"there are no {split} shards", where=folder, remedy=_names_to_give(folder, split))
    held_out = Place.parse(folder).val if split in ("train", "val") else None
    opened = open_indexes(paths, stages=stages)
    samples = _select(folder, split, opened, need_captions=need_captions, held_out=held_out)
    if held_out is not None and not len(samples):
        raise UsageError(
            f"#val={held_out:g} leaves no {split} samples", where=folder, remedy="give another share"
        )
    _check_share(samples, min_good_share)
    return samples


def find_shards(folder: Path) -> list[Path]:
    """The shards of all splits, each once. Raises DataError if there are none."""
    paths = dict.fromkeys(path for paths in splits_there(folder).values() for path in paths)
    if not paths:
        raise DataError("there are no shards", where=folder, remedy=_names_to_give(folder, "train"))
    return list(paths)


def read_classes(folder: Path) -> list[str] | None:
    """Class names in label order: the lines of classes.txt, or else the distinct .cls texts of all splits.

    Two classes may have the same name, as ImageNet's "missile" and "sunglasses" have; the published scores count so.
    None if labels are bare integers or there are none. Raises DataError if classes.txt is malformed.
    """
    named = read_lines(find_text(folder, CLASSES))
    return names_among(_count_classes(open_indexes(find_shards(folder)))) if named is None else named


def _select(
    folder: Path, split: str, opened: Sequence[IndexedShard], *, need_captions: bool, held_out: float | None
) -> ShardSet:
    """The good samples of all shards, with rows and labels. held_out: share of the samples that "val" has."""
    names = _class_names(folder, opened)
    renamed = find_renamed(opened)
    labels = _Labels(names)
    shards: list[Shard] = []
    skipped: list[tuple[str, str]] = []
    classless: list[tuple[str, str]] = []
    others: Counter[str] = Counter()
    first = row = 0
    for each in opened:
        facts = each.facts
        own = labels.of(facts)
        bad = _bad(each, need_captions=need_captions)
        unknown = _unknown(each, own, bad)

        good = None
        if len(bad) or len(unknown) or held_out is not None:
            kept = np.ones(facts.samples, dtype=bool)
            if held_out is not None:  # as `kdx data convert --val` chooses
                digests = renamed.apply(each.key_digests, first)
                kept = (digests < np.uint64(held_out * 2**64)) == (split == "val")
                bad, unknown = bad[kept[bad]], unknown[kept[unknown]]
            kept[bad] = kept[unknown] = False
            good = np.flatnonzero(kept).astype(np.int32)

        if len(bad) or len(unknown):
            columns = each.columns()
            keys = {
                sample: renamed.key(first + sample, columns.key(sample), facts.name)
                for sample in (*bad.tolist(), *unknown.tolist())
            }
            skipped += [(keys[sample], columns.why_bad(sample)) for sample in bad.tolist()]
            classless += [(keys[sample], labels.why_unknown(columns, sample)) for sample in unknown.tolist()]
        count = facts.samples if good is None else len(good)
        if count:
            rows = range(row, row + count)
            shards.append(Shard(each.tar, rows, facts.digest, each.place, good, first, own))
        others.update(facts.others)
        first, row = first + facts.samples, row + count
    most = dict(others.most_common())
    return ShardSet(folder, split, tuple(shards), renamed, skipped + classless, most, names)


def _bad(shard: IndexedShard, *, need_captions: bool) -> npt.NDArray[np.int64]:
    """Which samples of a shard are bad whatever the classes are."""
    if not shard.facts.bad and not (need_captions and shard.facts.uncaptioned):
        return np.empty(0, dtype=np.int64)
    reason = shard.columns().reason
    return np.flatnonzero(reason > GOOD if need_captions else reason >= FIRST_REASON)


def _unknown(
    shard: IndexedShard, labels: npt.NDArray[np.int32], bad: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Which of the other samples have a class that is none of the set's."""
    if not (labels == UNKNOWN).any() or (numbers := shard.columns().class_number) is None:
        return np.empty(0, dtype=np.int64)
    return np.setdiff1d(np.flatnonzero(np.append(labels, np.int32(0))[numbers] == UNKNOWN), bad)


class _Labels:
    """What class texts mean; each is looked up once for all shards. names: as `read_classes` has them."""

    def __init__(self, names: list[str] | None) -> None:
        self._finder = LabelFinder(names)
        self._known: dict[str, int] = {}
        self._reasons: dict[str, str] = {}

    def of(self, facts: ShardFacts) -> npt.NDArray[np.int32]:
        """The label of each class text of a shard, UNKNOWN where it says none."""
        return np.array([self._label(text) for text, _ in facts.classes], dtype=np.int32)

    def why_unknown(self, index: ShardIndex, sample: int) -> str:
        assert index.class_number is not None
        text, _ = index.facts.classes[int(index.class_number[sample])]
        return self._reasons[text]

    def _label(self, text: str) -> int:
        if text not in self._known:
            try:
                self._known[text] = self._finder.find(text)
            except BadSample as reason:
                self._known[text], self._reasons[text] = UNKNOWN, str(reason)
        return self._known[text]


def _class_names(folder: Path, opened: Sequence[IndexedShard]) -> list[str] | None:
    """Looks at the other splits only when names occur: labels must mean the same in all of them."""
    if is_there(find_text(folder, CLASSES)) or not all(map(is_index, _count_classes(opened))):
        return read_classes(folder)
    return None


def _count_classes(opened: Sequence[IndexedShard]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for each in opened:
        for text, count in each.facts.classes:
            counts[text] += count
    return counts


def _check_share(samples: ShardSet, min_good_share: float) -> None:
    folder, split, skipped, good = samples.folder, samples.split, samples.skipped, len(samples)
    total = good + len(skipped)
    if total == 0:
        kinds = list(samples.others.items())[:REASONS_SHOWN]
        others = ", ".join(f"{count} × {kind}" for kind, count in kinds)
        raise DataError(
            f"the {split} shards hold no samples{others and f', but {others}'}",
            where=folder,
            remedy="make or copy them again; docs/formats.md says what a sample is",
        )
    if all(reason == NO_CAPTION for _, reason in skipped) and skipped and good == 0:
        raise DataError(
            f"none of the {total} {split} samples has a caption, and these are needed here",
            where=folder,
            remedy="add a KEY.txt to each; without captions a set serves for evaluation, by its classes",
        )
    if good < min_good_share * total:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in skipped[:REASONS_SHOWN])
        more = "; …" if len(skipped) > REASONS_SHOWN else ""
        raise DataError(
            f"only {good} of {total} {split} samples are good ({reasons}{more})",
            where=folder,
            remedy="repair or remove the bad samples; `kdx data info` lists them",
        )


def _names_to_give(place: Path, split: str) -> str:
    folder = Place.parse(place).folders[0]
    if url_of(folder) is not None:
        return f"check the URL, or name the shards: {shown(folder)}/{{00000..00099}}.tar"
    if (command := convert_command(folder)) is not None and not any(folder.glob("*.tar*")):
        return f"pack the pictures into shards first: {command}"
    if not folder.is_dir():
        return "check the path: there is no such folder"
    if split == "val" and shard_paths(folder, "train"):
        convert = f"kdx data convert {quoted(folder)} --val 0.1 --out shards"
        return f"hold some of the images out: {convert}, or as they are: --data '{place}#val=0.1'"
    wanted = " or ".join(f"{prefix}-00000.tar, {prefix}-00001.tar …" for prefix in SPLITS[split])
    packed = next(iter(compressed_shards(folder)), None)
    return f"name the shards {wanted}" + (f", and unpack {packed.name} and its like" if packed else "")
