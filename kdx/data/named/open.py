"""Opening a data set by its name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdx.core.errors import DataError, UsageError, beginning
from kdx.data.image_set import captions_an_image
from kdx.data.sample import BadSample, LabelFinder, names_among

from .any_folders import expected_any, read_any_folders
from .captioned import expected_annotations
from .cifar import expected_batch, read_cifar
from .class_folders import expected_folders, read_class_folders
from .clip_kd import read_clip_kd
from .csv_table import expected_table, read_csv_table
from .image_list import Entry, ImageList, Listing
from .imagenet_flat import expected_flat, read_imagenet_flat
from .karpathy import read_karpathy
from .table import SetRecord, class_folders, find_set, prompts
from .tars import expected_tars, read_tars
from .text_files import read_classes, read_prompts
from .wds import NUM_SHARDS, read_wds

log = logging.getLogger(__name__)

MIN_GOOD_SHARE = 0.9  # with more left out the score would say little about the set
SHOWN = 3
NAMED = 20  # of what is left out
LONGEST_KEY = 200  # characters that are shown; in a file of annotations a name may be anything


@dataclass(frozen=True)
class Layout:
    """How a published set lies in its folder.

    read: the images under a root; None where this layout is not there. expected: what is looked for, for an error.
    """

    read: Callable[[SetRecord, Path], Listing | None]
    expected: Callable[[SetRecord], str]


LAYOUTS = {
    "class-folders": Layout(read_class_folders, expected_folders),
    "imagenet-flat": Layout(read_imagenet_flat, expected_flat),
    "any-folders": Layout(read_any_folders, expected_any),
    "cifar": Layout(read_cifar, expected_batch),
    "karpathy": Layout(read_karpathy, expected_annotations),
    "csv": Layout(read_csv_table, expected_table),
    "tars": Layout(read_tars, expected_tars),
    "clip-kd": Layout(read_clip_kd, expected_annotations),
}


def open_named(
    name: str, root: Path, *, classes: Path | None = None, templates: Path | None = None
) -> ImageList:
    """Opens a data set of the table under its root, in a published layout or in clip-benchmark's WebDataset one.

    classes, templates: files that replace the set's class names (in label order) and prompts, one a line.
    Images are not read yet. What the set names but cannot be scored is in `skipped`. Raises UsageError for an unknown
    name, DataError where the set is not there, not whole, or mostly bad.
    """
    record = find_set(name)
    if not root.exists():
        raise DataError(f"there is no {name} here: no such folder", where=root, remedy="check --root")
    listing = _with_names(_list(name, record, root), classes, root)
    _check_share(name, root, listing)
    _tell_skipped(name, listing.skipped)
    if record.images is not None and len(listing.entries) != record.images:
        log.warning(
            "%s: holds %s images, the published %s %s",
            root,
            f"{len(listing.entries):,}",
            name,
            f"{record.images:,}",
        )
    used = listing.templates if templates is None else read_prompts(templates)
    return ImageList(
        name=name,
        place=root,
        entries=listing.entries,
        classes=listing.classes,
        templates=used or prompts(record),
        skipped=listing.skipped,
        protocol=_protocol(record, listing),
    )


def _list(name: str, record: SetRecord, root: Path) -> Listing:
    if (listing := read_wds(root, record.captions)) is not None:
        _check_classes(name, record, root, listing)
        return listing
    layouts = [LAYOUTS[layout] for layout in record.layouts]
    for layout in layouts:
        if (listing := layout.read(record, root)) is not None:
            return listing
    expected = [*(layout.expected(record) for layout in layouts), NUM_SHARDS]
    raise DataError(
        f"there is no {name} here: neither {', nor '.join(expected)}"
        if len(expected) > 1
        else f"there is no {name} here: no {expected[0]}",
        where=root,
        remedy="give the folder that holds it as --root"
        + (f"; it comes from {record.source}" if record.source else ""),
    )


def _check_classes(name: str, record: SetRecord, root: Path, listing: Listing) -> None:
    """A copy in the WebDataset layout that is none of this set would be scored under its name."""
    if record.classes is None or listing.classes is None:
        return
    there, expected = listing.classes, list(class_folders(record).values())
    same = sum(a == b for a, b in zip(there, expected, strict=False))
    if len(there) != len(expected):
        what = f"has {len(there):,} classes, {name} {len(expected):,}"
    elif same < len(expected) / 2:  # editions differ in some names
        what = f"has other classes than {name}: {there[0]!r} first, not {expected[0]!r}"
    else:
        return
    raise DataError(
        what,
        where=root / "classnames.txt",
        remedy="is it another set? any set in this layout opens with --dataset wds",
    )


def _with_names(listing: Listing, file: Path | None, root: Path) -> Listing:
    """With the class names of the user's file, or else the set's. What has a label that is no class is skipped."""
    classes = listing.classes or names_among(Counter(listing.texts.values()))
    if file is not None:
        given = read_classes(file)
        if listing.classes is not None:
            _check_replacement(file, given, listing.classes)
        classes = given
    entries: list[Entry] = []
    skipped = list(listing.skipped)
    labels = LabelFinder(classes, what="its label")
    for entry in listing.entries:
        try:
            entries.append(_labelled(entry, listing.texts.get(entry.key), labels, classes))
        except BadSample as reason:
            skipped.append((entry.key, str(reason)))
    if classes is None and any(entry.label is not None for entry in entries):
        raise DataError(
            "the labels are numbers, and nothing says what they mean",
            where=root,
            remedy="give a file with the class names in label order, one a line, as --classes",
        )
    return replace(listing, entries=entries, skipped=skipped, classes=classes)


def _labelled(entry: Entry, text: str | None, labels: LabelFinder, classes: list[str] | None) -> Entry:
    """Raises BadSample."""
    if text is not None:
        return replace(entry, label=labels.find(text))
    if entry.label is not None and classes is not None and entry.label >= len(classes):
        raise BadSample(f"its label is {entry.label}, there are only {len(classes):,} classes")
    return entry


def _check_replacement(file: Path, given: list[str], classes: list[str]) -> None:
    """A list in another order would give each class the name of another one, and the score of guessing."""
    remedy = "name each class once, in label order"
    if len(given) != len(classes):
        raise UsageError(
            f"names {len(given):,} classes, the set has {len(classes):,}", where=file, remedy=remedy
        )
    own, others = frozenset(given), frozenset(classes)
    for label, (new, old) in enumerate(zip(given, classes, strict=True)):
        if new != old and new in others and old in own:
            raise UsageError(
                f"line {label + 1:,} is {new!r}, but class {label} of the set is {old!r}, which stands elsewhere",
                where=file,
                remedy=remedy,
            )


def _protocol(record: SetRecord, listing: Listing) -> str:
    if record.captions == 1:
        return "first caption"
    return captions_an_image(np.array([len(entry.captions) for entry in listing.entries], dtype=np.int32))


def _tell_skipped(name: str, skipped: list[tuple[str, str]]) -> None:
    for key, reason in skipped[:NAMED]:
        log.warning("left out %s of %s: %s", beginning(key, LONGEST_KEY), name, reason)
    if len(skipped) > NAMED:
        log.warning("left out %s more images of %s", f"{len(skipped) - NAMED:,}", name)


def _check_share(name: str, root: Path, listing: Listing) -> None:
    good, bad = len(listing.entries), len(listing.skipped)
    if not good and not bad:
        raise DataError(f"there are no images of {name}", where=root, remedy="copy the set again")
    if good < MIN_GOOD_SHARE * (good + bad):
        reasons = "; ".join(
            f"{beginning(key, LONGEST_KEY)}: {reason}" for key, reason in listing.skipped[:SHOWN]
        )
        more = "; …" if bad > SHOWN else ""
        raise DataError(
            f"only {good:,} of {good + bad:,} images can be scored ({reasons}{more})",
            where=root,
            remedy="copy what is missing, or correct the list",
        )
