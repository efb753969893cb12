"""ClipTokenizer against open_clip's SimpleTokenizer, and its file, edges and padding."""

from __future__ import annotations

import json
import pickle
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from kdx.core.errors import DataError, UsageError
from kdx.core.tokenizers import ClipTokenizer, clip, open_tokenizer
from kdx.core.tokenizers.clip import byte_alphabet
from kdx.models.clip_vocabulary import clip_tokenizer

from .corpus import SPECIALS, Corpus

START_ID, END_ID = 49406, 49407


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return clip_tokenizer()


@pytest.fixture(scope="module")
def reference() -> Callable[[str], list[int]]:
    """open_clip's ids of a text at any length: start, pieces, end."""

    from open_clip import SimpleTokenizer

    simple = SimpleTokenizer()
    return lambda text: [START_ID, *simple.encode(text), END_ID]


def small_tokenizer(
    merges: list[tuple[str, str]] | None = None, changes: dict[str, int] | None = None
) -> ClipTokenizer:
    """A whole vocabulary of bytes, and `ab</w>` as the only merge."""
    merges = [("a", "b</w>")] if merges is None else merges
    letters = list(byte_alphabet().values())
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), "ab</w>", *SPECIALS]
    return ClipTokenizer({symbol: i for i, symbol in enumerate(symbols)} | (changes or {}), merges)


def test_ids_equal_open_clips_on_every_line_of_a_unicode_corpus(
    tokenizer: ClipTokenizer, reference: Callable[[str], list[int]]
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
    tokenizer: ClipTokenizer, reference: Callable[[str], list[int]], text: str
) -> None:
    assert tokenizer.encode(text, 2**20) == reference(text)


def test_cut_texts_equal_open_clips_without_their_padding(tokenizer: ClipTokenizer) -> None:

    from open_clip import SimpleTokenizer

    texts = [*Corpus(seed=1).mixtures(300), *("word " * n for n in (74, 75, 76, 77, 200))]
    padded = SimpleTokenizer()(texts, context_length=77).numpy()
    for text, row in zip(texts, padded, strict=True):
        ids = tokenizer.encode(text, 77)
        assert row.tolist() == [*ids, *[0] * (77 - len(ids))]


def test_known_ids(tokenizer: ClipTokenizer) -> None:
    # OpenAI's CLIP notebook: clip.tokenize("hello world!")
    assert tokenizer.encode("Hello  World!", 77) == [START_ID, 3306, 1002, 256, END_ID]
    assert tokenizer.vocab_size == 49408


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
def test_a_cut_text_ends_with_the_end_id(
    tokenizer: ClipTokenizer, context_length: int, ids: list[int]
) -> None:
    assert tokenizer.encode("hello world!", context_length) == ids


@given(text=st.text(max_size=40), context_length=st.integers(2, 20))
@settings(deadline=None)
def test_a_cut_keeps_the_beginning(tokenizer: ClipTokenizer, text: str, context_length: int) -> None:
    whole, (cut, told) = tokenizer.encode(text, 2**20), tokenizer.encode_and_tell(text, context_length)
    assert cut == (whole if len(whole) <= context_length else [*whole[: context_length - 1], END_ID])
    assert told == (len(whole) > context_length)


def test_a_context_without_room_for_start_and_end_is_a_usage_error(tokenizer: ClipTokenizer) -> None:
    with pytest.raises(UsageError, match="context_length = 1"):
        tokenizer.encode("hello", 1)


@pytest.mark.parametrize("text", [None, 3, b"bytes", ["list"]])
def test_what_is_no_string_is_a_data_error(tokenizer: ClipTokenizer, text: Any) -> None:
    with pytest.raises(DataError, match=type(text).__name__):
        tokenizer.encode(text, 77)


def test_threads_agree_while_the_cache_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "MAX_CACHED_PIECES", 50)
    tokenizer = small_tokenizer()
    texts = [f"w{i} ab <end_of_text> {'x' * (i % 40)}" for i in range(500)]
    expected = [tokenizer.encode(text, 77) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for ids in pool.map(lambda _: [tokenizer.encode(text, 77) for text in texts], range(16)):
            assert ids == expected


def test_the_cache_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "MAX_CACHED_PIECES", 50)
    tokenizer = small_tokenizer()
    for i in range(1000):
        tokenizer.encode("x" * (i % 100) + "y" * (i // 100), 77)
    cache = tokenizer._ids  # pyright: ignore[reportPrivateUsage]
    assert 0 < len(cache) <= 50
    assert max(map(len, cache)) <= 32


def test_a_saved_tokenizer_opens_equal(tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    opened = open_tokenizer(tmp_path)
    assert isinstance(opened, ClipTokenizer) and opened.pad_id == 0
    assert opened.digest == tokenizer.digest
    assert opened.vocab_size == tokenizer.vocab_size
    for text in Corpus(seed=2).mixtures(200):
        assert opened.encode(text, 77) == tokenizer.encode(text, 77)


def test_the_file_is_one_of_hf_tokenizers(tokenizer: ClipTokenizer, tmp_path: Path) -> None:
    import tokenizers

    tokenizer.save(tmp_path)
    model = tokenizers.Tokenizer.from_file(str(tmp_path / "clip_vocabulary.json"))
    assert model.get_vocab_size() == 49408
    assert model.encode("hello").ids == [3306]


def test_the_digest_knows_vocabulary_and_merges() -> None:
    a, b = small_tokenizer().encode("a b", 77)[1:3]
    swapped = small_tokenizer(changes={"a</w>": b, "b</w>": a})
    assert len({small_tokenizer().digest, small_tokenizer(merges=[]).digest, swapped.digest}) == 3
    assert small_tokenizer().digest == small_tokenizer().digest


def damaged_files() -> dict[str, str]:
    """A vocabulary file damaged in every way that opening tells apart."""
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
    path = tmp_path / "clip_vocabulary.json"
    path.write_text(damaged_files()[damage])
    with pytest.raises(DataError) as raised:
        open_tokenizer(tmp_path)
    assert raised.value.where == str(path)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_tokenizer(tmp_path)
    assert caught.value.where == str(tmp_path / "clip_vocabulary.json")
    (tmp_path / "clip_vocabulary.json").mkdir()
    with pytest.raises(DataError):
        open_tokenizer(tmp_path)


def test_an_older_folder_with_the_vocabulary_under_its_old_name_opens(tmp_path: Path) -> None:
    small_tokenizer().save(tmp_path)
    (tmp_path / "clip_vocabulary.json").rename(tmp_path / "tokenizer.json")
    assert open_tokenizer(tmp_path).digest == small_tokenizer().digest


def test_a_pickled_tokenizer_gives_the_same_ids() -> None:
    copy = pickle.loads(pickle.dumps(small_tokenizer()))
    assert copy.digest == small_tokenizer().digest
    assert copy.encode("ab abc", 77) == small_tokenizer().encode("ab abc", 77)


def test_clips_digest_is_that_of_the_models_made_so_far(tokenizer: ClipTokenizer) -> None:
    assert tokenizer.digest == "894dd949cf8c684572260782af17c677ed6884f0b2b8c9a453a33e433f179aa2"
