"""Tables that turn the names of one layout into those of another."""

from __future__ import annotations

import re

Renames = tuple[tuple[str, str], ...]  # a regular expression, and what stands in its place


def rename(name: str, table: Renames) -> str:
    """Each line of the table in its order."""
    for old, new in table:
        name = re.sub(old, new, name)
    return name
