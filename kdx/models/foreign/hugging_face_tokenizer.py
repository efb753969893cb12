"""A tokenizer as Hugging Face keeps it, as the one file and the few rules that kdx runs without transformers.

What transformers 5 does to a `tokenizer.json` when it opens it is done here once: special tokens that the files beside
it name, and the settings of a class that are not in the file. Nothing of the folder is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.processors import TemplateProcessing

from kdx.core.errors import DataError
from kdx.core.folders import read_json
from kdx.core.tokenizers import HuggingFaceRules, HuggingFaceTokenizer
from kdx.core.tokenizers.hugging_face import TOKENIZER_FILE

CONFIG_FILE = "tokenizer_config.json"
SPECIALS_FILE = "special_tokens_map.json"
SLOW = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "vocab.txt", "vocab.json")
NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
USUAL = {"pad_token": ("[PAD]", "<pad>"), "sep_token": ("[SEP]", "</s>"), "eos_token": ("</s>",)}
LANGUAGE = "eng_Latn"  # of NLLB, where nothing is said
AGAIN = "get the tokenizer's files again"


@dataclass(frozen=True)
class Wishes:
    """What an architecture of open_clip asks of a tokenizer: its `tokenizer_kwargs` and `tokenizer_mode`."""

    clean: str = "whitespace"
    strip_sep_token: bool = False
    mode: str | None = None


def holds_tokenizer(folder: Path) -> bool:
    """Whether there is one, be it one that runs in Python alone."""
    return any((folder / name).is_file() for name in (TOKENIZER_FILE, *SLOW))


def read_hugging_face_tokenizer(folder: Path, wishes: Wishes) -> HuggingFaceTokenizer:
    """The tokenizer in a folder with a tokenizer.json, and what may lie beside it.

    Raises DataError for a damaged one, one that exists in Python alone, or one that pads on the left.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise _without_file(folder)
    settings = _settings(folder)
    model = _open(path, settings)
    _add_tokens(model, settings, path)
    if _class(settings) == "NllbTokenizer":
        _put_language(model, settings, path)
    if settings.get("padding_side", "right") != "right":
        raise DataError("pads texts on the left", where=path, remedy="kdx pads them on the right")
    rules = HuggingFaceRules(
        clean=wishes.clean,
        pad_id=_id(model, "pad_token", settings, path),
        vocab_size=max(model.get_vocab().values()) + 1,
        cut="left" if settings.get("truncation_side") == "left" else "right",
        zeroed=_id(model, "sep_token", settings, path) if wishes.strip_sep_token else None,
        clips=_clips(model, settings, wishes, path),
    )
    try:
        return HuggingFaceTokenizer(model.to_str().encode(), rules)
    except DataError as error:
        raise DataError(error.what, where=path, remedy=error.remedy or AGAIN) from None


def write_hugging_face_tokenizer(tokenizer: HuggingFaceTokenizer, folder: Path) -> None:
    """The inverse: files from which transformers, and so open_clip, opens it. open_clip's settings are not in them.

    The class is the one that leaves a tokenizer.json as it is, since what another did to it stands there already.
    """
    rules = tokenizer.rules
    symbols = {number: symbol for symbol, number in tokenizer.vocabulary.items()}
    named = {"pad_token": rules.pad_id, "sep_token": rules.zeroed}
    if rules.clips:
        named |= dict(zip(("bos_token", "eos_token", "cls_token"), rules.clips, strict=True))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": "right",
        "truncation_side": rules.cut,
        **{name: symbols[number] for name, number in named.items() if number is not None},
    }
    (folder / TOKENIZER_FILE).write_bytes(tokenizer.content)
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _without_file(folder: Path) -> DataError:
    slow = next((name for name in SLOW if (folder / name).is_file()), None)
    if slow is None:
        return DataError("holds no tokenizer.json", where=folder, remedy="add the files of its tokenizer")
    if _class(_settings(folder)) == "SiglipTokenizer":  # transformers has no other form of it to write
        remedy = "take the tokenizer.json of timm/ViT-B-16-SigLIP, and give its folder with --tokenizer DIR"
    else:
        remedy = (
            'write the file with transformers: python -c "from transformers import AutoTokenizer as T; '
            f"T.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    return DataError(
        f"holds {slow}, a tokenizer that runs in Python alone, and no tokenizer.json",
        where=folder,
        remedy=remedy,
    )


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with special_tokens_map.json, which counts where the first lists no added tokens."""
    path = folder / CONFIG_FILE
    settings = read_json(path) if path.is_file() else {}
    if settings.get("auto_map"):
        raise DataError(
            "is a tokenizer that runs code of its own (auto_map)",
            where=path,
            remedy="kdx runs no code of a model; remove auto_map if tokenizer.json alone gives the right ids",
        )
    specials = folder / SPECIALS_FILE
    if specials.is_file() and "added_tokens_decoder" not in settings:
        settings |= read_json(specials)
    return settings


def _open(path: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    """The file, with the settings of BERT's and RoBERTa's classes, which count more than those in it."""
    described = read_json(path)
    normalizer, splitter = described.get("normalizer") or {}, described.get("pre_tokenizer") or {}
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        for ours, theirs in (
            ("do_lower_case", "lowercase"),
            ("strip_accents", "strip_accents"),
            ("tokenize_chinese_chars", "handle_chinese_chars"),
        ):
            if ours in settings:
                normalizer[theirs] = settings[ours]
    if isinstance(splitter, dict) and splitter.get("type") == "ByteLevel" and "add_prefix_space" in settings:
        splitter["add_prefix_space"] = settings["add_prefix_space"]
    described |= {"truncation": None, "padding": None}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(described))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"is not a tokenizer: {error}", where=path, remedy=AGAIN) from None


def _add_tokens(model: tokenizers.Tokenizer, settings: dict[str, Any], path: Path) -> None:
    """Registers the special tokens that the settings name, so that a text that spells one out gets its id."""
    known = {token.content: repr(token) for token in model.get_added_tokens_decoder().values()}
    try:
        listed = settings.get("added_tokens_decoder") or {}
        for _, described in sorted(listed.items(), key=lambda item: int(item[0])):
            token = tokenizers.AddedToken(**described)
            if known.get(token.content) != repr(token):
                model.add_tokens([token])
                known[token.content] = repr(token)
        for value in _named(settings):
            content = _content(value)
            if content and content not in known:
                given = value if isinstance(value, dict) else {}
                flags = {
                    name: bool(given[name])
                    for name in ("lstrip", "rstrip", "normalized", "single_word")
                    if name in given
                }
                model.add_special_tokens([tokenizers.AddedToken(content, special=True, **flags)])
                known[content] = ""
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"names tokens that are none: {error}", where=path.with_name(CONFIG_FILE), remedy=AGAIN
        ) from None


def _named(settings: dict[str, Any]) -> Iterator[Any]:
    for name in NAMED:
        yield settings.get(name)
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    yield from extra.values() if isinstance(extra, dict) else extra


def _content(value: Any) -> str | None:
    """A token is given as a string or as a table."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _id(model: tokenizers.Tokenizer, name: str, settings: dict[str, Any], path: Path) -> int:
    """Of the token that the settings name, else of the usual one in the vocabulary."""
    given = _content(settings.get(name))
    for content in (given,) if given else USUAL.get(name, ()):
        if (number := model.token_to_id(content)) is not None:
            return number
    raise DataError(
        f"has no {name}", where=path, remedy=f"{CONFIG_FILE} beside it must name one of its vocabulary"
    )


def _clips(
    model: tokenizers.Tokenizer, settings: dict[str, Any], wishes: Wishes, path: Path
) -> tuple[int, int, int] | None:
    if not wishes.mode:
        return None
    if wishes.mode != "clips":
        raise DataError(
            f"is to be used in the mode {wishes.mode!r}", where=path, remedy="kdx has the mode clips alone"
        )
    start, end, last = (_id(model, name, settings, path) for name in ("bos_token", "eos_token", "cls_token"))
    return start, end, last


def _class(settings: dict[str, Any]) -> str:
    return str(settings.get("tokenizer_class") or "").removesuffix("Fast")


def _put_language(model: tokenizers.Tokenizer, settings: dict[str, Any], path: Path) -> None:
    """NLLB's class puts the language before a text, or after its end in the older way, whatever the file says."""
    language = _content(settings.get("src_lang")) or LANGUAGE
    end = _content(settings.get("eos_token")) or "</s>"
    numbers = {token: model.token_to_id(token) for token in (language, end)}
    if missing := [token for token, number in numbers.items() if number is None]:
        raise DataError(f"lacks the token {missing[0]}", where=path, remedy=AGAIN)
    after = bool(settings.get("legacy_behaviour"))
    order = ["$A", end, language] if after else [language, "$A", end]
    model.post_processor = TemplateProcessing(single=order, special_tokens=list(numbers.items()))
