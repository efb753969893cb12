"""kdx.core.tokenizer against open_clip's SimpleTokenizer, and its file, edges and padding."""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from kdx.core import tokenizer as tokenizer_module
from kdx.core.errors import DataError, UsageError
from kdx.core.tokenizer import Tokenizer, byte_alphabet
from kdx.models.clip_vocabulary import clip_tokenizer

START_ID, END_ID = 49406, 49407
SPECIALS = ("<start_of_text>", "<end_of_text>")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return clip_tokenizer()


@pytest.fixture(scope="module")
def reference() -> Callable[[str], list[int]]:
    """open_clip's ids of a text at any length: start, pieces, end."""

    from open_clip import SimpleTokenizer

    simple = SimpleTokenizer()
    return lambda text: [START_ID, *simple.encode(text), END_ID]


def small_tokenizer(
    merges: list[tuple[str, str]] | None = None, changes: dict[str, int] | None = None
) -> Tokenizer:
    """A whole vocabulary of bytes, and `ab</w>` as the only merge."""
    merges = [("a", "b</w>")] if merges is None else merges
    letters = list(byte_alphabet().values())
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), "ab</w>", *SPECIALS]
    return Tokenizer({symbol: i for i, symbol in enumerate(symbols)} | (changes or {}), merges)


class Corpus:
    """Seeded lines that try what can make two tokenizers disagree."""

    BLOCKS = (
        *((0x20, 0x7F), (0xA0, 0x250), (0x250, 0x370), (0x370, 0x530), (0x530, 0x590), (0x590, 0x700)),
        *((0x900, 0xE00), (0xE00, 0x1000), (0x1000, 0x1400), (0x1780, 0x1800), (0x1E00, 0x2000)),
        *((0x2000, 0x2C00), (0x2C00, 0x2E00), (0x3000, 0x3200), (0x4E00, 0x9FFF), (0xA000, 0xA980)),
        *((0xAC00, 0xD7A4), (0xE000, 0xE100), (0xF900, 0xFE00), (0xFE00, 0x10000), (0x10000, 0x10400)),
        *((0x1D400, 0x1D800), (0x1F000, 0x1FB00), (0x20000, 0x20100), (0xE0000, 0xE01F0)),
    )
    WORDS = (
        "a",
        "photo",
        "of",
        "the",
        "Dog",
        "cats",
        "New",
        "York",
        "it's",
        "we'll",
        "I'M",
        "don't",
        "'s",
        "’ll",
    )
    SPACES = (
        *(" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000"),
        *("\u200b", "\u2028", "\x0b", "\x1c", "\x85"),
    )
    ENTITIES = (
        *("&amp;", "&lt;", "&amp;amp;", "&eacute;", "&#233;", "&#x1F600;"),
        *("&#0;", "&#xD800;", "&nbsp;", "&;", "&copy"),
    )
    EMOJI = ("😀", "👩‍👩‍👧", "🏳️‍🌈", "👍🏽", "🇩🇪", "1️⃣", "❤️", "☺︎", "\ud83d\ude00", "\ud83d", "\ude00")
    ODDITIES = (
        *("ſ", "'ſ", "\u212a", "İ", "ı", "Σ", "ΑΣ", "ß", "ẞ", "ﬁ", "²", "½", "Ⅷ", "٣٤", "०१"),
        *("\u0345", "α\u0345", "\u200d", "\ufeff", "\ufffd", "e\u0301", "é", "ñ", "n\u0303\u0323"),
        *("Ã©", "â€™", "donâ€™t", "schÃ¶n", "\x00", "\x07", "\x1b[31m", "\x7f", "\ud800", "\udfff"),
        *("_", "__", "--", "...", "!!!", "<", ">", "#1", "3.14", "1st", "$5", "a_b", "‘quoted’", "“double”"),
    )

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def characters(self) -> Iterator[str]:
        """Every 29th code point between letters: a class (letter, digit, other) that is wrong shows."""
        for point in range(0, sys.maxunicode + 1, 29):
            if point < 0x30000 or (point >= 0xE0000 and point < 0xE0200) or point % 1013 == 0:
                yield f"a{chr(point)}b {chr(point)}1"

    def scripts(self, count: int) -> Iterator[str]:
        for _ in range(count):
            low, high = self.random.choice(self.BLOCKS)
            letters = [chr(self.random.randrange(low, high)) for _ in range(self.random.randint(1, 24))]
            for _ in range(self.random.randint(0, 4)):
                letters.insert(self.random.randint(0, len(letters)), self.random.choice(self.SPACES))
            yield "".join(letters)

    def mixtures(self, count: int) -> Iterator[str]:
        kinds = (self.WORDS, self.WORDS, self.SPACES, self.ENTITIES, self.EMOJI, self.ODDITIES)
        for _ in range(count):
            yield "".join(
                self.random.choice(self.random.choice(kinds)) + self.random.choice(("", "", " "))
                for _ in range(self.random.randint(1, 12))
            )

    def ascii(self, count: int) -> Iterator[str]:
        for _ in range(count):
            yield "".join(chr(self.random.randrange(0x80)) for _ in range(self.random.randint(0, 40)))

    def captions(self, count: int) -> Iterator[str]:
        for _ in range(count):
            yield " ".join(self.random.choice(self.WORDS) for _ in range(self.random.randint(1, 30))) + "."

    def specials(self) -> Iterator[str]:
        neighbours = ("", " ", "a", "1", "!", "!<", "<", ">", "é", "'s", "\u0345", "&lt;", "\n")
        for special in (
            *SPECIALS,
            "<START_OF_TEXT>",
            "<ſtart_of_text>",
            "<end_of_text",
            "&lt;end_of_text&gt;",
        ):
            for before in neighbours:
                for after in neighbours:
                    yield f"{before}{special}{after}"
        yield "".join(SPECIALS) * 50

    def long(self) -> Iterator[str]:
        yield "a" * 5000
        yield "".join(self.random.choice("abcdefghij") for _ in range(2000))
        yield "1" * 3000
        yield "!?" * 1000
        yield "é" * 1500
        yield "漢字" * 700
        yield "word " * 3000
        yield "\u0301" * 300

    def lines(self) -> list[str]:
        return [
            *("", " ", "\n", "\x00", "\u200b"),
            *self.specials(),
            *self.long(),
            *self.characters(),
            *self.scripts(4000),
            *self.mixtures(5000),
            *self.ascii(2000),
            *self.captions(2000),
        ]


def test_ids_equal_open_clips_on_every_line_of_a_unicode_corpus(
    tokenizer: Tokenizer, reference: Callable[[str], list[int]]
) -> None:
    lines = Corpus(seed=0).lines()
    assert len(lines) >= 10_000
    wrong = [line for line in lines if tokenizer.encode(line, 2**20) != reference(line)]
    assert [ascii(line[:80]) for line in wrong[:10]] == []
    letters = {unicodedata.category(character)[0] for line in lines for character in line}
    assert letters >= set("LMNPSZC")  # the corpus is what it claims


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_ids_equal_open_clips_on_any_text(
    tokenizer: Tokenizer, reference: Callable[[str], list[int]], text: str
) -> None:
    assert tokenizer.encode(text, 2**20) == reference(text)


def test_a_batch_equals_open_clips_without_its_padding(tokenizer: Tokenizer) -> None:

    from open_clip import SimpleTokenizer

    texts = [*Corpus(seed=1).mixtures(300), *("word " * n for n in (74, 75, 76, 77, 200))]
    padded = SimpleTokenizer()(texts, context_length=77).numpy()
    tokens = tokenizer(texts, 77)
    assert tokens.dtype == np.int32
    assert tokens.shape == (len(texts), 77)
    np.testing.assert_array_equal(tokens, padded)


def test_known_ids(tokenizer: Tokenizer) -> None:
    # OpenAI's CLIP notebook: clip.tokenize("hello world!")
    assert tokenizer.encode("Hello  World!", 77) == [START_ID, 3306, 1002, 256, END_ID]
    assert tokenizer.vocab_size == 49408


def test_a_batch_is_no_longer_than_its_longest_text(tokenizer: Tokenizer) -> None:
    np.testing.assert_array_equal(
        tokenizer(["hello", "hello world!"], 77),
        [[START_ID, 3306, END_ID, 0, 0], [START_ID, 3306, 1002, 256, END_ID]],
    )


@pytest.mark.parametrize(
    ("context_length", "ids"),
    [
        (2, [START_ID, END_ID]),
        (3, [START_ID, 3306, END_ID]),
        (4, [START_ID, 3306, 1002, END_ID]),
        (5, [START_ID, 3306, 1002, 256, END_ID]),
        (6, [START_ID, 3306, 1002, 256, END_ID]),
    ],
)
def test_a_cut_text_ends_with_the_end_id(tokenizer: Tokenizer, context_length: int, ids: list[int]) -> None:
    assert tokenizer.encode("hello world!", context_length) == ids


@given(text=st.text(max_size=40), context_length=st.integers(2, 20))
@settings(deadline=None)
def test_a_cut_keeps_the_beginning(tokenizer: Tokenizer, text: str, context_length: int) -> None:
    whole, cut = tokenizer.encode(text, 2**20), tokenizer.encode(text, context_length)
    assert cut == (whole if len(whole) <= context_length else [*whole[: context_length - 1], END_ID])


def test_a_context_without_room_for_start_and_end_is_a_usage_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="context_length = 1"):
        tokenizer.encode("hello", 1)


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["list"]])
def test_what_is_no_string_is_a_data_error(tokenizer: Tokenizer, text: Any) -> None:
    with pytest.raises(DataError, match=type(text).__name__):
        tokenizer([text], 77)


def test_one_string_in_place_of_a_list_is_a_usage_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError) as caught:
        tokenizer("a dog", 77)
    assert "list" in str(caught.value.remedy)


def test_pad_fills_with_zeros_and_keeps_empty_rows() -> None:
    padded = Tokenizer.pad([[1, 2, 3], [], [4]])
    assert padded.dtype == np.int32
    np.testing.assert_array_equal(padded, [[1, 2, 3], [0, 0, 0], [4, 0, 0]])
    assert Tokenizer.pad([]).shape == (0, 0)
    assert Tokenizer.pad([[], []]).shape == (2, 0)


def test_threads_agree_while_the_cache_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "MAX_CACHED_PIECES", 50)
    tokenizer = small_tokenizer()
    texts = [f"w{i} ab <end_of_text> {'x' * (i % 40)}" for i in range(500)]
    expected = [tokenizer.encode(text, 77) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for ids in pool.map(lambda _: [tokenizer.encode(text, 77) for text in texts], range(16)):
            assert ids == expected


def test_the_cache_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "MAX_CACHED_PIECES", 50)
    tokenizer = small_tokenizer()
    for i in range(1000):
        tokenizer.encode("x" * (i % 100) + "y" * (i // 100), 77)
    cache = tokenizer._ids  # pyright: ignore[reportPrivateUsage]
    assert 0 < len(cache) <= 50
    assert max(map(len, cache)) <= 32


def test_a_saved_tokenizer_opens_equal(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    opened = Tokenizer.from_file(path)
    assert opened.digest == tokenizer.digest
    assert opened.vocab_size == tokenizer.vocab_size
    texts = list(Corpus(seed=2).mixtures(200))
    np.testing.assert_array_equal(opened(texts, 77), tokenizer(texts, 77))


def test_the_file_is_one_of_hf_tokenizers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    import tokenizers

    tokenizer.save(tmp_path / "tokenizer.json")
    model = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert model.get_vocab_size() == 49408
    assert model.encode("hello").ids == [3306]


def test_the_digest_knows_vocabulary_and_merges() -> None:
    a, b = small_tokenizer().encode("a b", 77)[1:3]
    swapped = small_tokenizer(changes={"a</w>": b, "b</w>": a})
    assert len({small_tokenizer().digest, small_tokenizer(merges=[]).digest, swapped.digest}) == 3
    assert small_tokenizer().digest == small_tokenizer().digest


def damaged_files() -> dict[str, str]:
    """A tokenizer.json damaged in every way that from_file tells apart."""
    symbols = [*byte_alphabet().values(), *SPECIALS]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    bpe = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": []}
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]], "byte_fallback": False}
    models = {
        "other model": unigram,
        "no end of word": bpe | {"end_of_word_suffix": None},
        "no specials": bpe | {"vocab": {symbol: vocab[symbol] for symbol in symbols[:-2]}},
        "gap in ids": bpe | {"vocab": vocab | {"<end_of_text>": 100_000}},
        "merge of unknowns": bpe | {"merges": [["xx", "yy"]]},
    }
    files = {
        name: json.dumps({"version": "1.0", "added_tokens": [], "model": model})
        for name, model in models.items()
    }
    whole = json.dumps({"version": "1.0", "added_tokens": [], "model": bpe})
    return files | {
        "empty": "",
        "cut": whole[:200],
        "no json": "<html></html>",
        "other json": '{"model": 3}',
        "list": "[]",
    }


@pytest.mark.parametrize("damage", list(damaged_files()))
def test_a_damaged_file_is_a_data_error_that_names_it(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(damaged_files()[damage])
    with pytest.raises(DataError) as raised:
        Tokenizer.from_file(path)
    assert raised.value.where == str(path)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert caught.value.where == str(tmp_path / "tokenizer.json")
    with pytest.raises(DataError) as caught:
        Tokenizer.from_file(tmp_path)
    assert caught.value.where == str(tmp_path)
