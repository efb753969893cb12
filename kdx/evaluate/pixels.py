"""By what the images of a set become pixels: by Pillow, or in large sets by the training loader's way, twice as fast.

The two differ by at most 2 of 255 levels (kdx/data/pixels.py). The size of the set decides, and not the form of the
model, so that a checkpoint and its exports see the same pixels of a set.
"""

from __future__ import annotations

from importlib.util import find_spec

from kdx.core.ahead import PixelsOf, as_defined
from kdx.core.encoder import FloatArray
from kdx.core.images import ImageSource, read_encoded
from kdx.core.preprocess import Preprocess

LARGE = 5000  # images: importing torch takes about as long as is saved with 1,000 photos on two cores


def pixels_of(count: int) -> PixelsOf:
    """The way of a set of so many images."""
    return _fast if reads_fast(count) else as_defined


def reads_fast(count: int) -> bool:
    """Whether a set of so many images is read the fast way, which needs kdx[train]."""
    return count >= LARGE and all(find_spec(name) for name in ("torch", "simplejpeg"))


def _fast(preprocess: Preprocess, image: ImageSource) -> FloatArray:
    from kdx.data.pixels import read_pixels

    return preprocess.normalize(read_pixels(read_encoded(image), preprocess))
