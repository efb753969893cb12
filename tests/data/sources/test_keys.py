"""Facts of kdx/data/sources/keys.py: every path gives a key that shards and other readers take."""

import pytest
from hypothesis import given, strategies as st

from kdx.data.sample import Sample, encode_members
from kdx.data.sources.keys import key_of


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("cat.jpg", "cat"),
        ("a/b/cat.JPG", "a/b/cat"),
        ("img_1.5mm.jpg", "img_1_5mm"),
        ("/data/x/1.png", "data/x/1"),
        ("..\\up\\1.png", "up/1"),
        ("Grüße.webp", "Grüße"),
        ("noextension", "noextension"),
    ],
)
def test_a_key_is_the_path_without_its_extension(path: str, key: str) -> None:
    assert key_of(path) == key


@given(st.text(st.characters(codec=None), max_size=200))
def test_any_path_gives_a_key_that_can_be_written(path: str) -> None:
    key = key_of(path)
    assert list(encode_members(Sample(key, b"\xff\xd8\xff", ("a",), None)))
    assert len(key.encode()) <= 90 and "." not in key.rpartition("/")[2] and key == key_of(path)


def test_long_paths_keep_apart() -> None:
    assert key_of("x" * 200 + "1.jpg") != key_of("x" * 200 + "2.jpg")
