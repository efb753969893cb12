"""The layout and protocol with which CLIP-KD scores retrieval: of each image the first caption alone.

    test_captions.pt       torch.save of {image id: [caption, …]}, or of {image id: that list as JSON}
    test_img_keys.tsv      an image id a line, which are scored
    images/val2014/COCO_val2014_000000391895.jpg (COCO), images/1007129816.jpg (Flickr30k)

Facts from its `src/training/data.py`. Both directions are one image to one caption, so the recalls are lower than those
over five captions and not to be compared with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError

from .captioned import Annotation, find_annotations, list_annotated
from .image_list import Listing
from .safe_pickle import read_torch_save
from .table import SetRecord
from .text_files import read_lines

KEYS = "test_img_keys.tsv"


def read_clip_kd(record: SetRecord, root: Path) -> Listing | None:
    """None where `test_captions.pt` is not there."""
    path = find_annotations(record, root)
    return None if path is None else list_annotated(record, root, path, _images(path))


def _images(path: Path) -> Iterator[Annotation]:
    keys = path.with_name(KEYS)
    captions = _captions(path)
    for number, line in enumerate(read_lines(keys), 1):
        if not (line.isascii() and line.isdigit()):
            raise DataError(
                f"line {number:,} is {line[:40]!r}, not an image id", where=keys, remedy="one id a line"
            )
        yield Annotation(line, {"id": int(line)}, captions.get(int(line), []))


def _captions(path: Path) -> dict[int, list[str]]:
    saved: Any = read_torch_save(path)
    try:
        return {int(key): _texts(value) for key, value in saved.items()}
    except (AttributeError, ValueError, TypeError) as error:
        raise DataError(
            f"is no dictionary from image ids to captions: {error}",
            where=path,
            remedy="it should be {id: [caption, …]}, each list as it is or as JSON",
        ) from None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str | bytes):
        value = json.loads(value)
    if not isinstance(value, list):
        raise TypeError(f"captions are {type(value).__name__}")
    return [text.decode() if isinstance(text, bytes) else str(text) for text in value]
