"""clip-benchmark's WebDataset layout, which its sets on Hugging Face and its converter have.

    classnames.txt  zeroshot_classification_templates.txt  dataset_type.txt
    test/nshards.txt  test/0.tar  test/1.tar …

with KEY.jpg (webp, png) and KEY.cls, a label; of a retrieval set KEY.txt instead, a caption a line. Facts from
CLIP_benchmark's `datasets/builder.py` and `webdataset_builder.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdx.core.errors import DataError
from kdx.data.drafts import Draft, read_drafts

from .image_list import Entry, Listing, TarMember
from .text_files import read_classes, read_lines, read_prompts

NUM_SHARDS = "test/nshards.txt"


def read_wds(root: Path, max_captions: int | None) -> Listing | None:
    """None where no `test/nshards.txt` lies at the root. max_captions: of an image, the first ones; None: all.

    Raises DataError for a set that is not whole.
    """
    if not (root / NUM_SHARDS).is_file():
        return None
    classes = _optional(root / "classnames.txt", read_classes)
    if _kind(root) == "multilabel":
        raise DataError(
            "is a multilabel set, which is not scored",
            where=root,
            remedy="choose a set with one label an image",
        )
    drafts = read_drafts(_shards(root), need_captions=False)
    entries = [_entry(draft, max_captions) for draft in drafts.good]
    texts = {draft.key: draft.cls for draft in drafts.good if draft.cls is not None}
    templates = _optional(root / "zeroshot_classification_templates.txt", read_prompts)
    return Listing(entries, list(drafts.skipped), classes, templates, texts)


def _kind(root: Path) -> str:
    path = root / "dataset_type.txt"
    return "".join(read_lines(path)).lower() if path.is_file() else "classification"


def _shards(root: Path) -> list[Path]:
    lines = read_lines(root / NUM_SHARDS)
    if len(lines) != 1 or not lines[0].isascii() or not lines[0].isdigit() or len(lines[0]) > 6:
        raise DataError(
            "does not hold the number of shards", where=root / NUM_SHARDS, remedy="copy the set again"
        )
    shards = [root / "test" / f"{number}.tar" for number in range(int(lines[0]))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise DataError(
            f"{len(missing):,} of {len(shards):,} shards are missing, such as {missing[0]}",
            where=root / "test",
            remedy="copy the set again",
        )
    return shards


def _entry(draft: Draft, max_captions: int | None) -> Entry:
    captions = tuple(line.strip() for text in draft.captions for line in text.splitlines() if line.strip())
    image = TarMember(draft.file, draft.image.offset, draft.image.size)
    return Entry(draft.key, image, None, captions[:max_captions])


def _optional(path: Path, read: Callable[[Path], list[str]]) -> list[str] | None:
    return read(path) if path.is_file() else None
