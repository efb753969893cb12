"""A page with pictures of a set and what is said of them: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from kdx.core.errors import DataError, UsageError
from kdx.core.folders import write_atomic
from kdx.core.images import decode_image

from .sampling import spread
from .shards import ShardSet

PICTURES = 60  # of each split
SIDE = 200  # pixels of a thumbnail at most
CAPTIONS = 5  # of an image
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }}
body {{ margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }}
h1 {{ font-size: 1.3rem; }} h2 {{ font-size: 1.05rem; margin-top: 2rem; }}
ul {{ list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }}
li {{ border: 1px solid color-mix(in srgb, currentColor 20%, transparent); border-radius: .4rem; padding: .5rem;
  overflow-wrap: anywhere; }}
li > div {{ height: 10rem; display: grid; place-items: center; }}
img {{ max-width: 100%; max-height: 10rem; border-radius: .2rem; }}
p {{ margin: .4rem 0 0; font-size: .85rem; }} .key, .size {{ opacity: .65; font-size: .75rem; }}
.class {{ font-weight: 600; }} .broken {{ color: #c62828; }}
</style>
<h1>{title}</h1>
{splits}
</html>
"""


def write_sheet(folder: Path, splits: Mapping[str, ShardSet], file: Path) -> None:
    """Writes up to 60 evenly spaced images of each split, with their keys, sizes, classes and captions.

    Raises UsageError for a name that is not HTML's or a folder's, SetupError where nothing can be written.
    """
    check_sheet(file)
    sections = "\n".join(_section(name, samples) for name, samples in splits.items())
    page = PAGE.format(title=html.escape(folder.resolve().name), splits=sections)
    write_atomic(file, page.encode("utf-8", "backslashreplace"))  # a folder's name may be no Unicode


def check_sheet(file: Path) -> None:
    """Raises UsageError for a name that is not HTML's, or in no folder: call before long work."""
    if file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            "a sheet is an HTML file", where=file, remedy=f"call it {file.with_suffix('.html').name}"
        )
    if not file.absolute().parent.is_dir():
        raise UsageError(
            "there is no such folder", where=file.parent, remedy="make it, or choose another path"
        )


def _section(name: str, samples: ShardSet) -> str:
    rows = spread(len(samples), PICTURES)
    shown = f"{len(rows)} of {len(samples):,} images" if len(rows) < len(samples) else "all images"
    items = "\n".join(_item(samples, row) for row in rows)
    return f"<h2>{html.escape(name)}: {shown}</h2>\n<ul>\n{items}\n</ul>"


def _item(samples: ShardSet, row: int) -> str:
    label, captions = samples.label(row), samples.captions(row)
    named = label is not None and samples.classes is not None and label < len(samples.classes)
    lines = [_picture(samples.image(row)), _line("key", samples.keys[row])]
    if label is not None:
        lines.append(
            _line("class", samples.classes[label] if named and samples.classes else f"class {label}")
        )
    lines += [_line("caption", caption) for caption in captions[:CAPTIONS]]
    if len(captions) > CAPTIONS:
        lines.append(_line("caption", f"… {len(captions) - CAPTIONS} more"))
    return "<li>" + "".join(lines) + "</li>"


def _picture(content: bytes) -> str:
    try:
        image = decode_image(content)
    except DataError as error:
        return f'<div class="broken">{html.escape(error.what)}</div>'
    size = f"{image.width} × {image.height}"
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=85)
    encoded = base64.b64encode(jpeg.getvalue()).decode()
    return f'<div><img alt="" src="data:image/jpeg;base64,{encoded}"></div>' + _line("size", size)


def _line(kind: str, text: str) -> str:
    return f'<p class="{kind}" dir="auto">{html.escape(text)}</p>'
