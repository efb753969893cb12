"""The samples of shards before their labels are looked up: members grouped by key, texts read, bad ones named.

As in WebDataset a key ends at the first dot of a file's name: `cat.jpg`, `cat.txt` and `cat.mask.png` are one sample,
and what is none of its image, caption, class or JSON is a further part that other tools may use. But `img_1.5mm.jpg`
and `img_1.5mm.txt` are a sample too: a name with several dots ends at its last one where an image and a text share it,
or where nothing has the image that it would be a further part of.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .sample import BadSample, NoCaption, parse_captions, parse_class
from .tar_index import Member, TarFile, walk_tar

IMAGE_EXTENSIONS = ("jpg", "jpeg", "jfif", "png", "webp", "avif")
EXTENSIONS = (*IMAGE_EXTENSIONS, "txt", "cls", "json")
MAX_TEXT = 2**20  # bytes of a .txt, .cls or .json
MAX_IMAGE = 2**28
MAX_SUFFIX = 12  # characters; what is longer is no extension that has a name


@dataclass(frozen=True, slots=True)
class Draft:
    """A good sample of a shard before its class is looked up.

    captions: maybe none, and then no_caption says why. cls: the text of its .cls.
    """

    key: str
    file: TarFile
    image: Member
    captions: tuple[str, ...]
    no_caption: str | None
    cls: str | None


@dataclass
class Drafts:
    """good: in their order. skipped: (key, reason) of the bad samples. others: how many members of each kind are no
    part of any sample."""

    good: list[Draft] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def read_drafts(paths: list[Path], *, need_captions: bool) -> Drafts:
    """The samples of shards.

    A key that an earlier shard has too is preceded by its shard's name. Raises DataError for a bad tar.
    """
    drafts = Drafts()
    seen: set[str] = set()
    for path in paths:
        file = TarFile.at(path)
        groups, others = group_members(file)
        drafts.others += others
        for key, members in groups.items():
            unique = key
            while unique in seen:
                unique = f"{path.stem}/{unique}"
            seen.add(unique)
            try:
                draft = read_draft(unique, file, members)
                if need_captions and draft.no_caption is not None:
                    raise NoCaption(draft.no_caption)
                drafts.good.append(draft)
            except BadSample as reason:
                drafts.skipped.append((unique, str(reason)))
    return drafts


def group_members(file: TarFile) -> tuple[dict[str, list[tuple[str, Member]]], Counter[str]]:
    """(extension, member) of samples by key, in the order in which the keys appear; and how many others of each kind.

    Raises DataError for a bad tar.
    """
    others: Counter[str] = Counter()
    known: list[tuple[str, str, Member]] = []  # with the name up to the last dot and the extension behind it
    for member in walk_tar(file):
        stem, extension = _split(member.name)
        if (kind := member.special or _kind_of_other(stem, extension)) is not None:
            others[kind] += 1
        else:
            known.append((stem, extension, member))
    images = {stem for stem, extension, _ in known if extension in IMAGE_EXTENSIONS}
    pairs = images & {stem for stem, extension, _ in known if extension in ("txt", "cls")}
    groups: dict[str, list[tuple[str, Member]]] = {}
    for stem, extension, member in known:
        key = _up_to_first_dot(stem)
        if stem != key and stem not in pairs and key in images:
            others["further part of a sample"] += 1
        else:
            groups.setdefault(stem, []).append((extension, member))
    return groups, others


def _split(name: str) -> tuple[str, str]:
    """`a/b.c.JPG` → `a/b.c`, `jpg`; without a dot no extension."""
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.rpartition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if dot else (name, "")


def _up_to_first_dot(stem: str) -> str:
    folder, slash, file = stem.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _kind_of_other(stem: str, extension: str) -> str | None:
    """Why a plain file is no part of a sample."""
    file = stem.rpartition("/")[2]
    if not file or file.startswith("."):  # `.DS_Store`, and `._cat.jpg`, which macOS writes beside cat.jpg
        return "hidden file"
    if extension in EXTENSIONS:
        return None
    return (
        f".{extension}" if extension.isalnum() and len(extension) <= MAX_SUFFIX else "file without extension"
    )


def read_draft(key: str, file: TarFile, members: list[tuple[str, Member]]) -> Draft:
    """Raises BadSample."""
    images = [member for extension, member in members if extension in IMAGE_EXTENSIONS]
    if len(images) != 1:
        raise BadSample("more than one image" if images else f"no image ({', '.join(IMAGE_EXTENSIONS)})")
    if not 0 < images[0].size <= MAX_IMAGE:
        raise BadSample(f"the image has {images[0].size} bytes")
    txt, json_, cls = (_read_text(file, members, extension) for extension in ("txt", "json", "cls"))
    captions, no_caption = (), None
    try:
        captions = parse_captions(txt, json_)
    except NoCaption as reason:
        no_caption = str(reason)
    return Draft(key, file, images[0], captions, no_caption, None if cls is None else parse_class(cls))


def _read_text(file: TarFile, members: list[tuple[str, Member]], extension: str) -> bytes | None:
    found = [member for of, member in members if of == extension]
    if not found:
        return None
    if len(found) > 1:
        raise BadSample(f"more than one .{extension}")
    if found[0].size > MAX_TEXT:
        raise BadSample(f"its .{extension} is larger than {MAX_TEXT} bytes")
    return file.read(found[0].offset, found[0].size)
