"""The ways to clean a text against open_clip's, and CLIP's tokenizer with each of them."""

import pytest

from kdx.core.errors import DataError
from kdx.core.tokenizers.cleaning import cleaner
from kdx.models.clip_vocabulary import clip_tokenizer

from .corpus import Corpus

WAYS = ("lower", "whitespace", "canonicalize")


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return [*Corpus(seed=3).lines()[::5], "a_b__c! (of) the, {dog}.", "ÀÉ “Quoted” – it's", "&lt;b&gt;"]


@pytest.mark.parametrize("way", WAYS)
def test_texts_are_cleaned_as_open_clip_cleans_them(way: str, lines: list[str]) -> None:
    from open_clip.tokenizer import get_clean_fn

    ours, theirs = cleaner(way), get_clean_fn(way)
    assert [ascii(line) for line in lines if ours(line) != theirs(line)] == []


@pytest.mark.parametrize("way", WAYS[1:])
def test_clips_ids_equal_open_clips_with_other_cleaning(way: str, lines: list[str]) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    reference, tokenizer = SimpleTokenizer(clean=way), clip_tokenizer(way)
    some = [*lines[::4], "A Dog's DON'T", "<END_OF_TEXT> <end_of_text>"]
    wrong = [line for line in some if tokenizer.encode(line, 2**20)[1:-1] != reference.encode(line)]
    assert [ascii(line[:80]) for line in wrong] == []


def test_cleaning_by_hand() -> None:
    text = " A_big\tDog&amp;cat: it's \n"
    assert cleaner("lower")(text) == "a_big dog&cat: it's"
    assert cleaner("whitespace")(text) == "A_big Dog&cat: it's"
    assert cleaner("canonicalize")(text) == "a big dogcat its"
    assert cleaner("none")(text) == text
    assert cleaner("none")("a\ud83d") == "a\ufffd"


@pytest.mark.parametrize("name", ["shiny", "", None, []])
def test_an_unknown_way_is_a_data_error(name: str) -> None:
    with pytest.raises(DataError, match="kdx lacks"):
        cleaner(name)
