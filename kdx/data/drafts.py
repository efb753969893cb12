"""The samples of shards before their labels are looked up: members grouped by key, texts read, bad ones named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .sample import BadSample, parse_captions, parse_class
from .tar_index import Member, TarFile, walk_tar

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
EXTENSIONS = (*IMAGE_EXTENSIONS, "txt", "cls", "json")
MAX_TEXT = 2**20  # bytes of a .txt, .cls or .json
MAX_IMAGE = 2**28


@dataclass(frozen=True, slots=True)
class Draft:
    """A good sample of a shard before its class is looked up. cls: the text of its .cls."""

    key: str
    file: TarFile
    image: Member
    captions: tuple[str, ...]
    cls: str | None


def read_drafts(paths: list[Path]) -> tuple[list[Draft], list[tuple[str, str]]]:
    """The good samples of shards in their order, and (key, reason) of the bad ones.

    A key that an earlier shard has too is preceded by its shard's name. Raises DataError for a bad tar.
    """
    drafts: list[Draft] = []
    skipped: list[tuple[str, str]] = []
    seen: set[str] = set()
    for path in paths:
        file = TarFile.at(path)
        for key, members in _group(file).items():
            unique = key
            while unique in seen:
                unique = f"{path.stem}/{unique}"
            seen.add(unique)
            try:
                drafts.append(_draft(unique, file, members))
            except BadSample as reason:
                skipped.append((unique, str(reason)))
    return drafts, skipped


def _group(file: TarFile) -> dict[str, list[Member]]:
    """Members by key, in the order in which the keys appear."""
    groups: dict[str, list[Member]] = {}
    for member in walk_tar(file):
        if member.extension in EXTENSIONS:
            groups.setdefault(member.key, []).append(member)
    return groups


def _draft(key: str, file: TarFile, members: list[Member]) -> Draft:
    images = [member for member in members if member.extension in IMAGE_EXTENSIONS]
    if len(images) != 1:
        raise BadSample("more than one image" if images else f"no image ({', '.join(IMAGE_EXTENSIONS)})")
    if not 0 < images[0].size <= MAX_IMAGE:
        raise BadSample(f"the image has {images[0].size} bytes")
    txt, json_, cls = (_read_text(file, members, extension) for extension in ("txt", "json", "cls"))
    captions = parse_captions(txt, json_)
    return Draft(key, file, images[0], captions, None if cls is None else parse_class(cls))


def _read_text(file: TarFile, members: list[Member], extension: str) -> bytes | None:
    found = [member for member in members if member.extension == extension]
    if not found:
        return None
    if len(found) > 1:
        raise BadSample(f"more than one .{extension}")
    if found[0].size > MAX_TEXT:
        raise BadSample(f"its .{extension} is larger than {MAX_TEXT} bytes")
    return file.read(found[0].offset, found[0].size)
