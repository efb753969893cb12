"""Any fast tokenizer of Hugging Face: its whole tokenizer.json run by `tokenizers`, with open_clip's rules around it.

The ids are those of open_clip's HFTokenizer, which runs the same file through transformers, without its padding.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import tokenizers

from ..errors import DataError, UsageError
from .base import Tokenizer, check_text
from .cleaning import cleaner
from .rules import RULES_FILE, write_rules

TOKENIZER_FILE = "tokenizer.json"
RULES = "open_clip 3.3 HFTokenizer"
PROBES = ("a", "1", "photo", "\u4e00", "!")  # a text that the vocabulary of any language turns into something
Side = Literal["left", "right"]
AGAIN = "take the files that were written with the model"


@dataclass(frozen=True)
class HuggingFaceRules:
    """What is done to a text beside what tokenizer.json does.

    clean: before it, by open_clip's name. cut: the side on which a text that is too long loses ids. zeroed: an id that
    becomes 0 (open_clip's `strip_sep_token`). clips: ids of start, end and class where open_clip puts these around
    a text itself and the class at the very end of the context (`tokenizer_mode` = "clips").
    """

    clean: str
    pad_id: int
    vocab_size: int
    cut: Side = "right"
    zeroed: int | None = None
    clips: tuple[int, int, int] | None = None


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer.json with its rules.

    content: the bytes of the file, without truncation and padding of its own. Raises DataError for what is not a
    tokenizer, or for rules that do not belong to it.
    """

    kind = "hf"

    def __init__(self, content: bytes, rules: HuggingFaceRules) -> None:
        self._content = content
        self._rules = rules
        self._clean = cleaner(rules.clean)
        self._model = _load(content)
        self.vocab_size = rules.vocab_size
        self.pad_id = rules.pad_id
        has = self._model.get_vocab_size()  # fewer than vocab_size where there are gaps between ids
        named = (rules.pad_id, rules.zeroed or 0, *(rules.clips or ()), rules.vocab_size - 1)
        if has > rules.vocab_size or any(self._model.id_to_token(number) is None for number in named):
            raise DataError(f"has {has} ids, not the {rules.vocab_size} that its rules are for", remedy=AGAIN)
        self._start, self._end = _around(self._model)

    @classmethod
    def from_files(cls, folder: Path, rules: dict[str, Any]) -> HuggingFaceTokenizer:
        """Opens tokenizer.json in a folder of kdx. Raises DataError naming the file at fault."""
        path = folder / TOKENIZER_FILE
        checked = _check_rules(rules, folder / RULES_FILE)
        if not path.is_file():
            raise DataError("there is no such file", where=path, remedy=AGAIN)
        try:
            return cls(path.read_bytes(), checked)
        except DataError as error:
            raise DataError(error.what, where=path, remedy=error.remedy or AGAIN) from None

    def save(self, folder: Path) -> None:
        (folder / TOKENIZER_FILE).write_bytes(self._content)
        rules = {name: value for name, value in asdict(self._rules).items() if value is not None}
        write_rules(folder, self.kind, rules)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._content, self._rules)

    def encode_and_tell(self, text: str, context_length: int) -> tuple[list[int], bool]:
        """The ids that the file gives, with its tokens of start and end around a text that is cut to make room.

        With the rule `clips` always context_length of them, the class last. Raises as Tokenizer.encode.
        """
        if (room := context_length - self._reserved) < 1:
            raise UsageError(
                f"context_length = {context_length} has no room for start and end", remedy="64 is usual"
            )
        # truncation of the library is a setting of the object, which threads and context lengths share
        ids = self._model.encode(self._clean(check_text(text)), add_special_tokens=False).ids
        if cut := len(ids) > room:
            ids = ids[:room] if self._rules.cut == "right" else ids[-room:]
        if self._rules.clips:
            start, end, last = self._rules.clips
            padding = [self.pad_id] * (room - len(ids))
            return [start, *ids, end, *padding, last], cut
        ids = [*self._start, *ids, *self._end]
        if (zeroed := self._rules.zeroed) is not None:
            ids = [0 if token == zeroed else token for token in ids]
        return ids, cut

    @property
    def content(self) -> bytes:
        """The bytes of its tokenizer.json."""
        return self._content

    @property
    def rules(self) -> HuggingFaceRules:
        return self._rules

    @property
    def start(self) -> tuple[int, ...]:
        return self._rules.clips[:1] if self._rules.clips else self._start

    @property
    def end(self) -> tuple[int, ...]:
        return self._rules.clips[1:2] if self._rules.clips else self._end

    @property
    def _reserved(self) -> int:
        return 3 if self._rules.clips else len(self._start) + len(self._end)

    @property
    def vocabulary(self) -> dict[str, int]:
        """symbol → id; a copy."""
        return self._model.get_vocab()

    def _identity(self) -> object:
        # of the file's bytes, since another version of the library may write the same tokenizer otherwise
        content = hashlib.sha256(self._content).hexdigest()
        return {"rules": RULES, **asdict(self._rules), "tokenizer": content}


def _load(content: bytes) -> tokenizers.Tokenizer:
    try:
        model = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"is not a tokenizer: {error}", remedy=AGAIN) from None
    model.no_truncation()
    model.no_padding()
    return model


def _around(model: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the file puts before and after every text. Raises DataError if it does more than that."""
    for probe in PROBES:
        ids = model.encode(probe, add_special_tokens=False).ids
        whole = model.encode(probe)
        added = [bool(mask) for mask in whole.special_tokens_mask]
        if not ids or all(added):
            continue
        first = added.index(False)
        start, end = whole.ids[:first], whole.ids[first + len(ids) :]
        if [*start, *ids, *end] != whole.ids or not all(added[first + len(ids) :]):
            break
        return tuple(start), tuple(end)
    raise DataError("does more to a text than to put tokens around it", remedy="kdx reads no such tokenizer")


def _check_rules(described: dict[str, Any], where: Path) -> HuggingFaceRules:
    try:
        rules = HuggingFaceRules(**described)
        clips: Any = rules.clips
        rules = replace(rules, clips=None if clips is None else tuple(clips))
    except TypeError:  # what is missing, surplus or no list
        rules = None
    if rules is None or not _fit(rules):
        raise DataError("does not hold the rules of a tokenizer", where=where, remedy=AGAIN)
    return rules


def _fit(rules: HuggingFaceRules) -> bool:
    numbers: list[Any] = [rules.pad_id, rules.vocab_size, rules.zeroed or 0, *(rules.clips or ())]
    return (
        all(type(number) is int and number >= 0 for number in numbers)
        and len(rules.clips or (0, 0, 0)) == 3
        and rules.cut in get_args(Side)
    )
