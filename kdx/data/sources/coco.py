"""Annotations in JSON: COCO's captions, and Karpathy's splits of COCO, Flickr8k and Flickr30k."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError

from .files import OfFiles
from .json_items import read_items
from .keys import key_of
from .source import LeaveOut, Row

COCO_REMEDY = "give COCO's captions_*.json, or Karpathy's dataset_*.json"


class CocoCaptions(OfFiles):
    """`images` = [{"id", "file_name"}], `annotations` = [{"image_id", "caption"}]."""

    def rows(self, leave_out: LeaveOut) -> Iterator[Row]:
        names: dict[Any, str] = {}
        for number, (_, image) in enumerate(read_items(self.place, ("images",))):
            name = _field(image, "file_name", str, f"images[{number}]", self.place)
            names[_field(image, "id", int | str, f"images[{number}]", self.place)] = name
        for name in names.values():  # in their order, and those without a caption are named
            yield Row(name, key_of(name))
        for number, (_, annotation) in enumerate(read_items(self.place, ("annotations",))):
            where = f"annotations[{number}]"
            caption = _field(annotation, "caption", str, where, self.place)
            name = names.get(_field(annotation, "image_id", int | str, where, self.place))
            if name is None:
                leave_out(
                    f"{self.place.name}: {where}", f"image {annotation['image_id']} is not among the images"
                )
            else:
                yield Row(name, key_of(name), (caption,))


class KarpathySplits(OfFiles):
    """`images` = [{"filename", "filepath" (COCO), "split", "sentences": [{"raw"}]}]."""

    def rows(self, leave_out: LeaveOut) -> Iterator[Row]:
        for number, (_, image) in enumerate(read_items(self.place, ("images",))):
            where = f"images[{number}]"
            name = _field(image, "filename", str, where, self.place)
            folder = image.get("filepath")
            if isinstance(folder, str) and folder:
                name = f"{folder}/{name}"
            sentences = _field(image, "sentences", list, where, self.place)
            captions = tuple(_field(sentence, "raw", str, where, self.place) for sentence in sentences)
            yield Row(name, key_of(name), captions, None, _field(image, "split", str, where, self.place))


def open_annotations(file: Path, folders: list[Path]) -> CocoCaptions | KarpathySplits:
    """Which of both it is, by its first image. Raises DataError for other JSON."""
    _, first = next(read_items(file, ("images",)), ("", None))
    if isinstance(first, dict) and "sentences" in first:
        return KarpathySplits(file, folders)
    if isinstance(first, dict) and "file_name" in first:
        annotations = next(read_items(file, ("annotations",)), ("", None))[1]
        if isinstance(annotations, dict) and "caption" in annotations:
            return CocoCaptions(file, folders)
        raise DataError("has no captions among its annotations", where=file, remedy=COCO_REMEDY)
    raise DataError("is no JSON of a known kind with captions", where=file, remedy=COCO_REMEDY)


def _field(record: Any, name: str, kind: Any, where: str, place: Path) -> Any:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise DataError(f"{where} has no {name!r} as it should", where=place, remedy=COCO_REMEDY)
    return value
