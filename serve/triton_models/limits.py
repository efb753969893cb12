"""What one request may ask for, so that a client can neither fill the memory nor stop the others."""

from __future__ import annotations

MAX_IMAGE_BYTES = 32 * 2**20  # encoded; pixels are bounded by kdx.core.preprocess.MAX_PIXELS
MAX_TEXT_BYTES = 16 * 2**10
MAX_PROMPTS = 8192  # labels × templates of one zero-shot request
MAX_JSON_BYTES = 2**20
CACHED_LABEL_SETS = 64
