"""Width and height of an encoded image by its header: nothing is decoded."""

from __future__ import annotations

import io

from PIL import Image

# markers of a JPEG whose segment says the size: "start of frame" of each coding process (ITU-T T.81, table B.1)
START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")


def image_size(content: bytes) -> tuple[int, int] | None:
    """(width, height) of an encoded image, None for what is none. content: may end behind the header."""
    if content.startswith(b"\xff\xd8") and (size := _jpeg_size(content)) is not None:
        return size
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Pillow reads all tables of a JPEG before it says its size, which takes ten times as long."""
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in START_OF_FRAME:
            height, width = (
                int.from_bytes(content[place + skip : place + skip + 2], "big") for skip in (5, 7)
            )
            return (width, height) if width and height else None
        if marker == 0xFF:  # fill bytes may stand before a marker
            place += 1
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None
