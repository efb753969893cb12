"""From a shard to its index: the tar is read once from its start to its end."""

from __future__ import annotations

import logging
from pathlib import Path

from kdx.core.digests import file_digest
from kdx.core.errors import DataError, SetupError
from kdx.core.folders import write_atomic
from kdx.core.tokenizers import Tokenizer
from kdx.core.urls import file_name, url_of
from kdx.models.clip_vocabulary import clip_tokenizer

from ..drafts import Draft, group_members, read_draft
from ..image_size import image_size
from ..places import INDEX_SUFFIX
from ..remote.files import read_text
from ..sample import BadSample
from ..tar_index import TarFile
from .shard_index import CONTEXT, IndexedSample, ShardIndexWriter, read_shard_index
from .table import DamagedTable, encode_table, map_table

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "KDX_INDEX_DIR"
OTHER_INDEX_FOLDER = f"name another folder for the index: kdx data index --index-dir, or {FOLDER_VARIABLE}"
HEAD = 4096  # bytes of an image in which most say their size


def build_index(shard: TarFile, place: Path) -> None:
    """Writes the index of a shard to `place`, so that a reader sees a whole one or none.

    Raises DataError for a bad tar, and for one that changes meanwhile; SetupError where nothing can be written.
    """
    if (url := url_of(shard.path)) is None or not _take_the_one_beside(shard, url, place):
        _write(place, encode_index(shard))


def encode_index(shard: TarFile) -> bytes:
    """The bytes of a shard's index. Raises DataError as `build_index`."""
    tokenizer = _tokenizer()
    name_digest = None if tokenizer is None else tokenizer.digest
    with shard.on_disk() as file:
        try:
            # from start to end; what is looked at below then lies in the system's file cache
            digest = file_digest(file.path)
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror}", where=file.where, remedy="check the file"
            ) from None
        groups, others = group_members(file)
        writer = ShardIndexWriter(file_name(shard.path), shard.size, shard.modified_ns, digest, name_digest)
        for key, members in groups.items():
            try:
                writer.samples.append(_sample(read_draft(key, file, members), tokenizer))
            except BadSample as reason:
                writer.samples.append(IndexedSample(key, reason=str(reason)))
        if not file.is_current:
            raise DataError(
                "has changed while it was read", where=file.where, remedy="run again when it is written"
            )
    return writer.encode(dict(others.most_common()))


def _take_the_one_beside(shard: TarFile, url: str, place: Path) -> bool:
    """Of a shard at a URL the index that lies there too, if it is of a shard of this name and size: then the shard need
    not be fetched. Returns whether it did."""
    if not url.endswith(".tar") or (content := read_text(url.removesuffix(".tar") + INDEX_SUFFIX)) is None:
        return False
    _write(place, content)
    try:
        table, facts = map_table(place), read_shard_index(place).facts
        if (facts.name, facts.size) != (file_name(shard.path), shard.size) or not table.is_undamaged():
            return False
    except DamagedTable:
        return False
    _write(place, encode_table(table.arrays, table.about | {"modified_ns": shard.modified_ns}))
    return True


def _write(place: Path, content: bytes) -> None:
    try:
        write_atomic(place, content)
    except SetupError as error:
        raise SetupError(
            error.what, where=error.where, remedy=f"free space there, or {OTHER_INDEX_FOLDER}"
        ) from None


def _sample(draft: Draft, tokenizer: Tokenizer | None) -> IndexedSample:
    image = draft.image
    size = image_size(draft.file.read(image.offset, min(image.size, HEAD)))
    if size is None and image.size > HEAD:
        size = image_size(draft.file.read(image.offset, image.size))
    width, height = size or (0, 0)
    return IndexedSample(
        key=draft.key,
        offset=image.offset,
        size=image.size,
        width=width,
        height=height,
        captions=draft.captions,
        tokens=() if tokenizer is None else [tokenizer.encode(text, CONTEXT) for text in draft.captions],
        no_caption=draft.no_caption,
        cls=draft.cls,
    )


def _tokenizer() -> Tokenizer | None:
    """None without open_clip, whose file has the vocabulary: such an index serves for evaluation, and in training
    captions are tokenised when they are asked for."""
    try:
        return clip_tokenizer()
    except SetupError:
        return None
