"""The file beside a vocabulary: which kind of tokenizer it belongs to, and what it does that the vocabulary lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..folders import read_json

RULES_FILE = "tokenizer_rules.json"


def write_rules(folder: Path, kind: str, rules: dict[str, Any]) -> None:
    text = json.dumps({"kind": kind, **rules}, indent=2)
    (folder / RULES_FILE).write_text(text + "\n", encoding="utf-8")


def read_rules(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """The kind and the rest; None where there is no such file, as beside CLIP's own vocabulary. Raises DataError."""
    path = folder / RULES_FILE
    if not path.is_file():
        return None
    rules = read_json(path)
    kind = rules.get("kind")
    if not isinstance(kind, str):
        raise DataError(
            "does not say which kind of tokenizer it is of",
            where=path,
            remedy="take the file that was written with the model",
        )
    return kind, {name: value for name, value in rules.items() if name != "kind"}
