"""Which column of a table means what, by the names that sets use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdx.core.errors import DataError, UsageError, beginning

# the first that a table has counts; compared without case, spaces, - and _
IMAGE = (
    *(
        "filepath",
        "imagepath",
        "imgpath",
        "path",
        "filename",
        "imagefile",
        "file",
        "imagename",
        "image",
        "img",
    ),
    *("imgname", "imageid", "photo", "picture"),
)
CAPTION = ("caption", "captions", "title", "text", "texts", "sentence", "sentences", "description", "comment")
LABEL = (
    "label",
    "labels",
    "class",
    "classname",
    "category",
    "labelname",
    "classindex",
    "classid",
    "finelabel",
)
SPLIT = ("split",)
URL = ("url", "urls", "imageurl", "imgurl", "link")
SHOWN = 12
REMEDY = "name it with --image-column, --caption-column or --label-column"
PREPARE = "fetch the images first: kdx data prepare"


@dataclass(frozen=True)
class Wanted:
    """The names that the user gives; None where the usual ones are looked for."""

    image: str | None = None
    caption: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are used."""

    image: str
    caption: str | None
    label: str | None
    split: str | None


def find_columns(names: Sequence[str], wanted: Wanted, place: Path) -> Columns:
    """Raises DataError, which shows the columns that are there, if images or both captions and labels are missing."""
    image = find(names, wanted.image, IMAGE, place)
    if image is None:
        url = find(names, None, URL, place)
        if url is not None:
            raise DataError(
                f"its column {url!r} has URLs, and no column has images", where=place, remedy=PREPARE
            )
        raise missing("an image", IMAGE, names, place)
    caption = find([n for n in names if n != image], wanted.caption, CAPTION, place)
    label = find([n for n in names if n not in (image, caption)], wanted.label, LABEL, place)
    if caption is None and label is None:
        raise missing("a caption or a class", (*CAPTION[:3], *LABEL[:2]), names, place)
    return Columns(image, caption, label, find(names, None, SPLIT, place))


def has_images(names: Sequence[str], wanted: Wanted) -> bool:
    return wanted.image in names or any(plain(name) in IMAGE + URL for name in names)


def shown(names: Sequence[str]) -> str:
    """The columns that are there, as an error shows them."""
    some = ", ".join(beginning(name, 40) for name in names[:SHOWN])
    return f"its columns are: {some}" + (", …" if len(names) > SHOWN else "")


def is_url(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def find(names: Sequence[str], wanted: str | None, usual: Sequence[str], place: Path) -> str | None:
    """The column that is wanted, or else the first of the usual ones. Raises UsageError for one that is not there."""
    if wanted is not None:
        if wanted not in names:
            raise UsageError(
                f"there is no column {wanted!r}; {shown(names)}", where=place, remedy="name one of these"
            )
        return wanted
    by_plain = {plain(name): name for name in reversed(names)}
    return next((by_plain[name] for name in usual if name in by_plain), None)


def plain(name: str) -> str:
    """As names are compared."""
    return "".join(c for c in name.lower() if c not in " _-")


def missing(what: str, usual: Sequence[str], names: Sequence[str], place: Path) -> DataError:
    return DataError(
        f"no column is called as {what} usually is ({', '.join(usual[:5])}, …); {shown(names)}",
        where=place,
        remedy=REMEDY,
    )
