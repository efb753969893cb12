"""What one request to a kdx repository may hold, and how it is spelt: the same for its clients and its models.

The limits keep one request from holding the others up: the time that an image takes goes with its pixels, not with its
bytes (a PNG of one colour has 67 million pixels in 200 KB), and requests are answered in the order of their arrival.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdx.core.errors import KdxError, UsageError
from kdx.core.images import FORMATS, MAX_PIXELS, ImageSource

IMAGE_BATCH, TEXT_BATCH = 16, 64  # max_batch_size of the served models
MAX_REQUEST_BYTES = 32 * 2**20  # of all its images, encoded
# What kdx's own client puts together: a process of the server keeps about twice its largest request of /dev/shm, and
# eight of them have 64 MiB of it in a container. More at once would gain nothing: decoding takes longest.
SENT_BYTES = 2 * 2**20
MAX_REQUEST_PIXELS = (
    MAX_PIXELS  # of all its images: as many as the largest image that is decoded, a second or two
)
MAX_TEXT_BYTES = 16 * 2**10
MAX_PROMPTS = 8192  # labels × templates of one zero-shot request
MAX_JSON_BYTES = 2**20
FIRST, WITH_OTHERS = 1, 2  # priorities of a request
KDX_ERROR = "kdx error: "  # how the served models begin a message; Triton may put words of its own before it
FEWER = "send fewer images at a time, or smaller ones"

Picture = tuple[ImageSource, bytes]  # what the caller gave, and the encoded file that is sent


def in_requests(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Groups for one request each: up to `size` pictures, no more pixels than a request may hold, and SENT_BYTES or
    a single one."""
    group: list[Picture] = []
    num_bytes = num_pixels = 0
    for source, encoded in pictures:
        pixels = count_pixels(encoded)
        if group and (
            len(group) == size
            or num_bytes + len(encoded) > SENT_BYTES
            or num_pixels + pixels > MAX_REQUEST_PIXELS
        ):
            yield group
            group, num_bytes, num_pixels = [], 0, 0
        group.append((source, encoded))
        num_bytes += len(encoded)
        num_pixels += pixels
    if group:
        yield group


def check_size(images: Sequence[bytes]) -> None:
    """Raises UsageError for images that are too much for one request, before any of them is decoded."""
    if len(images) > IMAGE_BATCH:
        raise UsageError(
            f"{len(images)} images are over the limit of {IMAGE_BATCH} for one request", remedy=FEWER
        )
    num_bytes = sum(map(len, images))
    if num_bytes > MAX_REQUEST_BYTES:
        raise UsageError(
            f"images of {num_bytes:,} bytes are over the limit of {MAX_REQUEST_BYTES:,} for one request",
            remedy=FEWER,
        )
    num_pixels = sum(map(count_pixels, images))
    if len(images) > 1 and num_pixels > MAX_REQUEST_PIXELS:  # decoding has the words for a single one
        raise UsageError(
            f"images of {num_pixels:,} pixels are over the limit of {MAX_REQUEST_PIXELS:,} for one request",
            remedy=FEWER,
        )


def count_pixels(image: bytes) -> int:
    """As the header says it; 0 for what is no image, which decoding will say."""
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
            return opened.width * opened.height
    except Image.DecompressionBombError:
        return MAX_REQUEST_PIXELS
    except Exception:  # Pillow's readers raise nearly everything
        return 0


def to_bytes_column(values: Sequence[bytes]) -> npt.NDArray[np.object_]:
    """BYTES [B, 1]. An object array, because numpy's S type would strip trailing NUL bytes."""
    column = np.empty((len(values), 1), dtype=np.object_)
    column[:, 0] = values
    return column


def to_message(error: KdxError) -> str:
    """How a served model spells an error, so that its owner stays the same on the way to the client."""
    return KDX_ERROR + json.dumps(error.to_dict(), ensure_ascii=False)


def from_message(message: str) -> KdxError | None:
    """The error that a served model spelt; None for a message of Triton's own."""
    _, found, fields = message.partition(KDX_ERROR)
    try:
        return KdxError.from_dict(json.loads(fields)) if found else None
    except (ValueError, KeyError, TypeError):
        return None
