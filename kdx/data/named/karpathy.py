"""Karpathy's splits of COCO and Flickr30k: `dataset_coco.json`, `dataset_flickr30k.json`.

    {"images": [{"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "split": "test",
                 "sentences": [{"raw": "A man …", "tokens": […]}, …]}, …], "dataset": "coco"}

Flickr30k's images have no `filepath`. Of the split `test` the first five captions of an image count: COCO has a sixth
or seventh of some, and the usual scores are over 5,000 × 25,000. From https://cs.stanford.edu/people/karpathy/deepimagesent/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError

from .captioned import Annotation, find_annotations, list_annotated
from .image_list import Listing
from .table import SetRecord
from .text_files import read_text


def read_karpathy(record: SetRecord, root: Path) -> Listing | None:
    """None where none of the record's annotation files is there."""
    path = find_annotations(record, root)
    return None if path is None else list_annotated(record, root, path, _test_images(path))


def _without_tokens(fields: dict[str, Any]) -> dict[str, Any]:
    """COCO's file spells each of 600,000 captions out word by word, which takes most of the memory."""
    fields.pop("tokens", None)
    return fields


def _test_images(path: Path) -> Iterator[Annotation]:
    try:
        parsed: Any = json.loads(read_text(path), object_hook=_without_tokens)
        for image in parsed["images"]:
            if image["split"] == "test":
                captions = [sentence["raw"] for sentence in image["sentences"]]
                fields = {"filepath": image.get("filepath", "."), "filename": image["filename"]}
                yield Annotation(str(image["filename"]), fields, [str(text) for text in captions])
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}", where=path, remedy="get it again") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"is not one of Karpathy's splits: {type(error).__name__} {error}",
            where=path,
            remedy="images need `filename`, `split` and `sentences` with `raw`",
        ) from None
