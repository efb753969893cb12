"""CLIP's byte-pair tokenizer: the ids of open_clip's SimpleTokenizer for every text, without padding.

Cleaning and splitting are Python's (its Unicode tables decide on ids), merging is HF `tokenizers`' bare BPE
model, called once for each new piece of text. HF's own pipeline is not used: its Unicode tables are others.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import regex
import tokenizers
from tokenizers.models import BPE

from ..errors import DataError, UsageError
from .base import Tokenizer, check_text
from .cleaning import cleaner
from .rules import write_rules

START = "<start_of_text>"
END = "<end_of_text>"
END_OF_WORD = "</w>"
RULES = "open_clip 3.3 SimpleTokenizer, clean={}"
CLEAN = "lower"  # of all models but a few, of which the folder says it

VOCABULARY = "clip_vocabulary.json"

MAX_CACHED_PIECES = 2**16
MAX_CACHED_LENGTH = 32  # characters; longer pieces hardly come twice, and would let a client fill the memory

# The two patterns are the same on ASCII in lower case, where `re` is the faster engine.
_PIECES = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)
_ASCII_PIECES = re.compile(rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")


class ClipTokenizer(Tokenizer):
    """The tokenizer of CLIP and of all models that took it over.

    vocab: symbol → id, ids 0 … V-1, with START and END among them. merges: pairs of symbols, the earlier one
    merges first. Symbols are spelled in byte_alphabet(); the last one of a word ends in `</w>`.
    clean: open_clip's name for what is done to a text first, in kdx/core/tokenizers/cleaning.py.
    Raises DataError when they do not fit together.
    """

    kind = "clip"
    pad_id = 0

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], clean: str = CLEAN) -> None:
        if missing := [symbol for symbol in (START, END) if symbol not in vocab]:
            raise DataError(f"the vocabulary lacks {' and '.join(missing)}", remedy="use a CLIP vocabulary")
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise DataError(
                "the vocabulary's ids are not 0, 1, 2 … without gaps", remedy="use a CLIP vocabulary"
            )
        self._vocab = vocab
        self._merges = merges
        self._clean_name = clean
        self._clean = cleaner(clean)
        self._ascii_pieces = _ASCII_PIECES if clean in ("lower", "canonicalize") else _PIECES
        self._bpe = _build_bpe(vocab, merges)
        self._ids = _PieceIds(self._bpe, {START: (vocab[START],), END: (vocab[END],)})
        self._start = vocab[START]
        self._end = vocab[END]
        self.vocab_size = len(vocab)

    @classmethod
    def from_file(cls, path: Path, clean: str = CLEAN) -> ClipTokenizer:
        """Opens a vocabulary file in HF tokenizers' format. Raises DataError if it is damaged or not CLIP's kind."""
        remedy = "take the file that was written with the model"
        if not path.is_file():
            raise DataError("there is no such file", where=path, remedy=remedy)
        try:
            # through the library, which checks the file and brings older spellings into one form
            model: dict[str, Any] = json.loads(tokenizers.Tokenizer.from_file(str(path)).to_str())["model"]
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"is not a tokenizer: {error}", where=path, remedy=remedy) from None
        if model["type"] != "BPE" or model["end_of_word_suffix"] != END_OF_WORD:
            raise DataError(f"is not a byte-pair tokenizer with {END_OF_WORD}", where=path, remedy=remedy)
        try:
            return cls(model["vocab"], [(first, second) for first, second in model["merges"]], clean)
        except DataError as error:
            raise DataError(error.what, where=path, remedy=remedy) from None

    def save(self, folder: Path) -> None:
        """Writes the vocabulary file in HF tokenizers' format.

        It holds the vocabulary and the merges; cleaning and splitting are this class's and not in the file.
        """
        tokenizers.Tokenizer(self._bpe).save(str(folder / VOCABULARY), pretty=False)
        if self._clean_name != CLEAN:
            write_rules(folder, self.kind, {"clean": self._clean_name})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._vocab, self._merges, self._clean_name)

    def encode_and_tell(self, text: str, context_length: int) -> tuple[list[int], bool]:
        """start, pieces, end; cut to context_length with the last id = end; never padded.

        A text that spells out `<end_of_text>` gets that id in its middle, as in open_clip, and an encoder that
        pools at the first end reads no further. Raises DataError if text is not a string, UsageError for a
        context_length below 2.
        """
        if context_length < 2:
            raise UsageError(
                f"context_length = {context_length} has no room for start and end", remedy="77 is usual"
            )
        ids = [self._start]
        cut = False
        text = self._clean(check_text(text))
        for piece in (self._ascii_pieces if text.isascii() else _PIECES).findall(text):
            ids += self._ids[piece]
            if len(ids) >= context_length:
                del ids[context_length - 1 :]
                cut = True
                break
        ids.append(self._end)
        return ids, cut

    def _identity(self) -> object:
        return {"rules": RULES.format(self._clean_name), "vocab": self._vocab, "merges": self._merges}

    @property
    def vocabulary(self) -> dict[str, int]:
        """symbol → id; a copy."""
        return dict(self._vocab)

    @property
    def start(self) -> tuple[int, ...]:
        return (self._start,)

    @property
    def end(self) -> tuple[int, ...]:
        return (self._end,)


def byte_alphabet() -> dict[int, str]:
    """The printable character that spells each byte in a vocabulary (GPT-2's table), in the order of its ids.

    Printable bytes of Latin-1 spell themselves and come first; the other 68 take U+0100 and on.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_BYTE_ALPHABET = byte_alphabet()


class _PieceIds(dict[str, tuple[int, ...]]):
    """piece → ids, filled on demand and emptied when full: `[piece]` stays one look-up in C for what is known.

    Losing a race between threads costs a computation, never a wrong answer.
    """

    def __init__(self, bpe: BPE, specials: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._bpe = bpe
        self._specials = specials

    def __missing__(self, piece: str) -> tuple[int, ...]:
        ids = self._specials.get(piece) or self._merge(piece)
        if len(piece) <= MAX_CACHED_LENGTH:
            if len(self) >= MAX_CACHED_PIECES:
                self.clear()
            self[piece] = ids
        return ids

    def _merge(self, piece: str) -> tuple[int, ...]:
        spelled = piece.encode().decode("latin-1").translate(_BYTE_ALPHABET)
        return tuple(token.id for token in self._bpe.tokenize(spelled))


def _build_bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> BPE:
    try:
        return BPE(
            vocab=vocab,
            merges=merges,
            end_of_word_suffix=END_OF_WORD,
            continuing_subword_prefix="",
            fuse_unk=False,
            cache_capacity=0,
        )
    except Exception as error:  # the library raises bare Exception
        raise DataError(
            f"merges do not fit the vocabulary: {error}", remedy="use a CLIP vocabulary"
        ) from None
