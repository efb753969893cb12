"""Pictures inside the page: small JPEGs as data URIs."""

from __future__ import annotations

import base64
import io

from kdx.core.preprocess import decode_image

MAX_SIDE = 256  # pixels


def shrink(image: bytes) -> bytes:
    """An encoded image of any kind as a JPEG of at most MAX_SIDE pixels. Raises DataError if it does not decode."""
    decoded = decode_image(image)
    decoded.thumbnail((MAX_SIDE, MAX_SIDE))
    encoded = io.BytesIO()
    decoded.save(encoded, "JPEG", quality=90, subsampling=0)
    return encoded.getvalue()


def data_uri(jpeg: bytes) -> str:
    """For `src`. Raises DataError if the bytes are not an image."""
    decode_image(jpeg)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
