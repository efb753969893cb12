"""What may be asked of a model: the rules for images, texts, labels, templates and numbers, for every form of it.

A model in this process, the client of a server and the served models all check here, before anything is encoded or
sent, so that the same request is refused with the same words everywhere. What a caller got wrong is a UsageError; a
file or picture that is no good is a DataError, as decoding says it. Both name the item: `images[3]`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

from PIL import Image

from .errors import KdxError, UsageError, beginning
from .preprocess import ImageSource
from .prompts import DEFAULT_TEMPLATES

SHOWN = 60  # characters of a value that an error shows
SHOWN_REASON = 300

_IMAGES = "give a list of paths, encoded bytes or PIL images (of an array: PIL.Image.fromarray)"
_ITEM = re.compile(r"(?P<field>\w+)\[(?P<index>\d+)\]")


def check_images(images: Iterable[ImageSource]) -> Iterable[ImageSource]:
    """The images, each of a type that can be decoded. A list is checked whole, an iterator item by item as it is
    read. Raises UsageError."""
    if isinstance(images, str | bytes | Path | Image.Image) or not _is_iterable(images):
        raise UsageError(f"images is {_kind(images)}, not a list of images", remedy=_IMAGES)
    checked = (_check_image(index, image) for index, image in enumerate(images))
    return list(checked) if isinstance(images, list | tuple) else checked


def check_texts(texts: Iterable[str], field: str = "texts") -> list[str]:
    """The texts as a list. Raises UsageError for one bare string, and for what is no text of Unicode characters."""
    if isinstance(texts, str | bytes) or not _is_iterable(texts):
        raise UsageError(f"{field} is {_kind(texts)}, not a list of strings", remedy="give a list of strings")
    return [_check_text(field, index, text) for index, text in enumerate(texts)]


def check_labels(labels: Iterable[str]) -> list[str]:
    """At least one label, none of them blank. The same label may stand there twice, as "missile" does among
    ImageNet's names. Raises UsageError."""
    checked = check_texts(labels, "labels")
    if not checked:
        raise UsageError("labels is empty", remedy="give at least one label")
    for index, label in enumerate(checked):
        if not label.strip():
            raise UsageError("is blank", where=f"labels[{index}]", remedy="leave it out, or give it a name")
    return checked


def check_templates(templates: Iterable[str] | None) -> list[str]:
    """The prompts, each with `{}` where the label goes; None stands for the default one. Raises UsageError."""
    if templates is None:
        return list(DEFAULT_TEMPLATES)
    checked = check_texts(templates, "templates")
    if not checked:
        raise UsageError("templates is empty", remedy=f"leave it out for {DEFAULT_TEMPLATES[0]!r}")
    for index, template in enumerate(checked):
        if "{}" not in template:
            raise UsageError(
                f"{beginning(template)!r} has no {{}} where the label goes",
                where=f"templates[{index}]",
                remedy=f"write for example {DEFAULT_TEMPLATES[0]!r}",
            )
    return checked


def check_count(value: SupportsIndex, field: str) -> int:
    """A whole number of at least 1, such as top_k and batch_size. Raises UsageError."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise UsageError(f"{field} = {beginning(repr(value))} is not a whole number of 1 or more")
    return number


def at_item(error: KdxError, field: str, index: int, value: object = None) -> KdxError:
    """The error with the item that it is about: `images[3]`, and of a file also its path: `images[3] (cat.jpg)`."""
    where = f"{field}[{index}]"
    if isinstance(value, str | Path):
        where += f" ({beginning(str(value))})"
    return type(error)(beginning(error.what, SHOWN_REASON), where=where, remedy=error.remedy)


def item_index(error: KdxError, field: str) -> int | None:
    """Which item of `field` the error is about; None if it is about none."""
    found = _ITEM.match(error.where or "")
    return int(found["index"]) if found and found["field"] == field else None


def move_item(error: KdxError, field: str, offset: int, values: Sequence[Any]) -> KdxError:
    """An error about an item of a batch, as one about the whole that the batch is part of.

    offset: of the batch's first item. values: the batch.
    """
    index = item_index(error, field)
    if index is None or index >= len(values):
        return error
    return at_item(error, field, offset + index, values[index])


def _check_image(index: int, image: ImageSource) -> ImageSource:
    if isinstance(image, str | bytes | Path | Image.Image):  # pyright: ignore[reportUnnecessaryIsInstance]
        return image
    raise UsageError(f"is {_kind(image)}, not an image", where=f"images[{index}]", remedy=_IMAGES)


def _check_text(field: str, index: int, text: object) -> str:
    where = f"{field}[{index}]"
    if not isinstance(text, str):
        raise UsageError(f"is {_kind(text)}, not a string", where=where, remedy="give a list of strings")
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: half of a character, or a byte of a name that is not UTF-8
        raise UsageError(
            f"{beginning(ascii(text))} is not Unicode text", where=where, remedy="correct it"
        ) from None
    return text


def _is_iterable(values: object) -> bool:
    try:
        iter(values)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownArgumentType]
    except TypeError:  # of a NumPy array without axes too
        return False
    return True


def _kind(value: object) -> str:
    """What a value is, with its beginning: `one string ('a dog')`, `None`, `ndarray [224, 224, 3]`."""
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"one string ({beginning(value)!r})"
    if isinstance(value, bytes):
        return f"bytes ({beginning(repr(value[:SHOWN]))})"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__} {beginning(str(list(shape)))}"
    return f"{type(value).__name__} ({beginning(repr(value))})"
