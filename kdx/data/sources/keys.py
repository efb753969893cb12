"""From the path of an image to the key of its sample."""

from __future__ import annotations

import hashlib
import re

LONGEST = 90  # bytes: with an extension a name of up to 100 fits every tar reader
AS_IT_IS = re.compile(r"((?:[\w-]+/)*[\w-]+)\.\w+", re.ASCII)  # what most paths are


def key_of(path: str) -> str:
    """The path without its extension, as a key that every reader of WebDataset takes.

    A key ends at the first dot of a file's name and its parts may not begin with one, so other dots become
    underscores. A path that is too long, or has characters that are no text, is cut and ends in its digest.
    """
    if (plain := AS_IT_IS.fullmatch(path)) and len(plain[1]) <= LONGEST:
        return plain[1]
    parts = [part.strip() for part in path.replace("\\", "/").split("/")]
    parts = [part for part in parts if part not in ("", ".", "..")]
    if not parts:
        return _digest(path)
    stem = parts[-1].rpartition(".")[0] or parts[-1]
    parts[-1] = stem.replace(".", "_")
    key = "/".join(f"_{part[1:]}" if part.startswith(".") else part for part in parts)
    if not key.isprintable() or len(key.encode("utf-8", "surrogatepass")) > LONGEST:
        kept = "".join(c for c in parts[-1] if c.isascii() and c.isprintable()).lstrip(".")[:40]
        return f"{kept}-{_digest(path)}" if kept else _digest(path)
    return key


def distinct_key(key: str, image: str) -> str:
    """A key for an image whose own one another image has."""
    return f"{key}-{_digest(image)}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
