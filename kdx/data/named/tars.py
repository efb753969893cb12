"""Shards of pairs, as img2dataset writes them: `00000.tar` with KEY.jpg, KEY.txt and KEY.json."""

from __future__ import annotations

from pathlib import Path

from kdx.data.drafts import read_drafts

from .image_list import Entry, Listing, TarMember
from .table import SetRecord

TRAIN = "train-"  # of a set of kdx's, what is not held out


def read_tars(record: SetRecord, root: Path) -> Listing | None:
    """None where no place at the root holds tars."""
    for place in (root / place for place in record.places):
        paths = sorted(path for path in place.glob("*.tar") if not path.name.startswith(TRAIN))
        if paths:
            drafts = read_drafts(paths, need_captions=True)
            entries = [
                Entry(
                    draft.key,
                    TarMember(draft.file, draft.image.offset, draft.image.size),
                    None,
                    draft.captions[: record.captions],
                )
                for draft in drafts.good
            ]
            return Listing(entries, list(drafts.skipped))
    return None


def expected_tars(record: SetRecord) -> str:
    return "*.tar"
