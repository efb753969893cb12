"""The architectures that kdx ships, as data. No torch here: recipes are listed by it."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

FOLDER = files("kdx.models") / "architectures"

Architecture = dict[str, Any]


def names() -> list[str]:
    """The shipped architectures, in alphabetical order."""
    return sorted(file.name.removesuffix(".json") for file in FOLDER.iterdir() if file.name.endswith(".json"))


def read_shipped(name: str) -> Architecture:
    """The description of one of `names()`."""
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    return {"name": name, **json.loads(text)}
