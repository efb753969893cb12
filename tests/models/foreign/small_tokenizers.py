"""Folders with small tokenizers of the kinds that text towers use, trained here, as Hugging Face publishes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

WORDS = (
    *(
        "a",
        "photo",
        "of",
        "the",
        "large",
        "dog",
        "and",
        "two",
        "small",
        "cats",
        "in",
        "New",
        "York,",
        "which",
    ),
    *("is", "not", "far", "from", "Zürich;", "12", "café's", "don't"),
)
TEXTS = [f"{one} {other} {end}" for one in WORDS for other in WORDS for end in ("is", "1st", "naïve!")]
BYTES = [f"<0x{number:02X}>" for number in range(256)]
FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>"]


def t5(folder: Path) -> None:
    """SigLIP's: unigram pieces, padded with the end of text."""
    tokenizer = _unigram(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = _around([], [("</s>", 1)])
    _save(
        folder,
        tokenizer,
        "T5Tokenizer",
        {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "extra_ids": 0},
    )


def gemma(folder: Path) -> None:
    """SigLIP 2's: byte pairs that fall back on bytes."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    _train(tokenizer, trainers.BpeTrainer(vocab_size=600, special_tokens=specials + BYTES))
    tokenizer = _with(tokenizer, lambda content: content | {"added_tokens": content["added_tokens"][:5]})
    tokenizer.post_processor = _around([], [("<eos>", 1)])
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk", "mask")}
    _save(folder, tokenizer, "GemmaTokenizer", names | {"padding_side": "right", "add_eos_token": True})


def roberta(folder: Path) -> None:
    """RoBERTa's: byte pairs of a byte-level alphabet, and nothing said beside it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = [*FAIRSEQ, "<mask>"]
    _train(tokenizer, trainers.BpeTrainer(vocab_size=500, special_tokens=specials, initial_alphabet=alphabet))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    _save(folder, tokenizer, "RobertaTokenizer", {})


def bert(folder: Path) -> None:
    """BERT's, in lower case whatever the file says, as CLIPA uses it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    _train(tokenizer, trainers.WordPieceTrainer(vocab_size=400, special_tokens=specials))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    _save(folder, tokenizer, "BertTokenizer", {"do_lower_case": True})


def xlm_roberta(folder: Path) -> None:
    """XLM-R's: unigram pieces between fairseq's tokens."""
    tokenizer = _unigram(FAIRSEQ)
    tokenizer.post_processor = _around([("<s>", 0)], [("</s>", 2)])
    tokenizer.add_special_tokens(["<mask>"])
    _save(folder, tokenizer, "XLMRobertaTokenizer", {})


def nllb(folder: Path, **settings: Any) -> None:
    """NLLB's, whose class puts the language where the file does not."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = [*FAIRSEQ, "eng_Latn", "fra_Latn", "<mask>"]
    _train(tokenizer, trainers.BpeTrainer(vocab_size=400, special_tokens=specials))
    tokenizer.post_processor = _around([], [("</s>", 2)])
    languages = {"additional_special_tokens": ["eng_Latn", "fra_Latn"]}
    _save(folder, tokenizer, "NllbTokenizer", languages | settings)


def sentencepiece(folder: Path) -> None:
    """A unigram with byte fallback in no class of its own, some of whose special tokens stand beside it alone."""
    tokenizer = _unigram(["<pad>", "</s>", "<unk>", *BYTES], byte_fallback=True)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = _around([], [("</s>", 1)])
    tokenizer = _with(tokenizer, lambda content: content | {"added_tokens": []})
    tokenizer.enable_truncation(7)
    names = {"eos_token": "</s>", "pad_token": {"content": "<pad>", "lstrip": True}, "bos_token": "<new>"}
    _save(folder, tokenizer, "PreTrainedTokenizerFast", {})
    (folder / "special_tokens_map.json").write_text(json.dumps(names))


KINDS: dict[str, Callable[[Path], None]] = {
    each.__name__: each for each in (t5, gemma, roberta, bert, xlm_roberta, nllb, sentencepiece)
}


def _unigram(specials: list[str], byte_fallback: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    size = 120 + len(specials)
    _train(tokenizer, trainers.UnigramTrainer(vocab_size=size, special_tokens=specials, unk_token="<unk>"))
    model = {"byte_fallback": byte_fallback}
    return _with(tokenizer, lambda content: content | {"model": content["model"] | model})


def _train(tokenizer: Tokenizer, trainer: Any) -> None:
    trainer.show_progress = False
    tokenizer.train_from_iterator(TEXTS, trainer)


def _with(tokenizer: Tokenizer, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(change(json.loads(tokenizer.to_str()))))


def _around(start: list[tuple[str, int]], end: list[tuple[str, int]]) -> processors.TemplateProcessing:
    order = [*(token for token, _ in start), "$A", *(token for token, _ in end)]
    return processors.TemplateProcessing(single=order, special_tokens=start + end)


def _save(folder: Path, tokenizer: Tokenizer, name: str, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **settings}))
