"""Which tokenizer an architecture reads its texts with, and whether a given one belongs to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError, UsageError
from kdx.core.tokenizers import ClipTokenizer, HuggingFaceTokenizer, Tokenizer
from kdx.core.tokenizers.clip import CLEAN, VOCABULARY
from kdx.core.tokenizers.hugging_face import TOKENIZER_FILE
from kdx.core.tokenizers.rules import RULES_FILE

from .architecture import Architecture, TextConfig
from .clip_vocabulary import clip_tokenizer
from .foreign.hugging_face_tokenizer import Wishes, read_hugging_face_tokenizer

# open_clip's third, `language`, changes nothing there: transformers puts its own back before each call
WISHES: dict[str, type] = {"clean": str, "strip_sep_token": bool}
# T5's sentinels, which no plain text spells: SigLIP's text towers have no rows for them
SENTINEL = re.compile(r"<extra_id_\d+>|▁<extra_id_\d+>")
# of a text tower's vocabulary; some are rounded up: coca_base has 64,000 rows for CLIP's 49,408 ids
SMALLEST = 0.75


def tokenizer_of(architecture: Architecture, folder: Path | None = None) -> Tokenizer:
    """CLIP's, or the one that the architecture names: from a folder with its files, else from the hub.

    Raises UsageError for a folder beside an architecture that reads as CLIP does, DataError for a tokenizer that is not
    the architecture's or that kdx cannot run, SetupError where the hub cannot be reached.
    """
    text, where = architecture.text_cfg, architecture.name
    wishes = _wishes(text.tokenizer_kwargs or {}, where)
    if not text.tokenizer_name:
        if folder is not None:
            raise UsageError(
                f"{where} reads its texts with CLIP's own tokenizer",
                where=folder,
                remedy="leave --tokenizer out",
            )
        if text.tokenizer_mode or wishes.keys() - {"clean"}:
            raise DataError(
                "asks of CLIP's tokenizer what it does not do",
                where=where,
                remedy="take another architecture",
            )
        tokenizer = clip_tokenizer(**wishes)
        check_belongs(tokenizer, architecture, where, "name the model with --architecture")
        return tokenizer
    if folder is None:
        from .foreign.hub import fetch_tokenizer

        folder = fetch_tokenizer(text.tokenizer_name)
    tokenizer = read_hugging_face_tokenizer(folder, Wishes(mode=text.tokenizer_mode, **wishes))
    check_belongs(tokenizer, architecture, folder, f"take the files of {text.tokenizer_name}")
    return tokenizer


def tokenizer_files_of(architecture: Architecture) -> tuple[str, ...]:
    """The names of the files that a checkpoint of it has for its tokenizer, which may not be here yet."""
    text = architecture.text_cfg
    if text.tokenizer_name:
        return TOKENIZER_FILE, RULES_FILE
    other = (text.tokenizer_kwargs or {}).get("clean", CLEAN) != CLEAN
    return (VOCABULARY, RULES_FILE) if other else (VOCABULARY,)


def check_belongs(
    tokenizer: ClipTokenizer | HuggingFaceTokenizer,
    architecture: Architecture,
    where: Path | str,
    remedy: str,
) -> None:
    """Raises DataError for the tokenizer of another model: its ids are not those that the text tower has rows for."""
    text = architecture.text_cfg
    if text.hf_model_name:
        described = _towers_own(text)
        rows, pads = described.get("vocab_size"), described.get("pad_token_id")
    else:
        rows, pads = text.vocab_size, None
    rows, ids = rows or tokenizer.vocab_size, tokenizer.vocab_size
    beyond = tokenizer.vocabulary.items() if ids > rows else ()
    if any(number >= rows and not SENTINEL.fullmatch(symbol) for symbol, number in beyond) or (
        ids < SMALLEST * rows
    ):
        raise DataError(
            f"the tokenizer is that of another model: it has {ids} ids, the text tower {rows}",
            where=where,
            remedy=remedy,
        )
    if pads is not None and pads != tokenizer.pad_id:
        raise DataError(
            f"the tokenizer is that of another model: it pads a text with {tokenizer.pad_id}, the text tower looks"
            f" for {pads}",
            where=where,
            remedy=remedy,
        )
    ends_text: Any = (text.model_extra or {}).get("eos_id", 2)
    if text.pool_type == "eos" and ends_text not in tokenizer.end:
        raise DataError(
            f"the tokenizer is that of another model: it ends a text with {list(tokenizer.end)}, the text tower"
            f" looks for {ends_text}",
            where=where,
            remedy=remedy,
        )


def _towers_own(text: TextConfig) -> dict[str, Any]:
    """The configuration of a Hugging Face tower."""
    from .hugging_face_text import hugging_face_config

    return hugging_face_config(text) or {}


def _wishes(given: dict[str, Any], where: str) -> dict[str, Any]:
    for name, value in given.items():
        if not isinstance(value, WISHES.get(name, ())):
            raise DataError(
                f"its tokenizer is to have {name} = {value!r}",
                where=where,
                remedy=f"kdx knows {', '.join(WISHES)}",
            )
    return given
