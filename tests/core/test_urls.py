"""Facts of kdx/core/urls.py: a URL survives as a Path, and nothing secret of it is shown."""

from pathlib import Path

import pytest

from kdx.core.errors import DataError
from kdx.core.urls import file_name, shown, url_of


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/set/{00000..00011}.tar",
        "https://host:8000/a%20b/0.tar?X-Signature=ab/c",
        "hf://datasets/owner/name@main/0.tar",
        "memory://set",
        "file:///data/set",
    ],
)
def test_a_url_is_itself_again_behind_a_path(url: str) -> None:
    assert url_of(Path(url)) == url_of(url) == url == url_of(Path(url) / "x" / "..").removesuffix("/x/..")  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["set", "/data/set", "c:/set", "a:b/c", "C:/x", "./s3", "x{1,2}:/y", ""])
def test_a_path_is_no_url(path: str) -> None:
    assert url_of(Path(path)) is None and shown(Path(path)) == str(Path(path))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("https://ada:word@host/set", "https://host/set"),
        ("https:/token@host/set/0.tar?sig=word#val=0.1", "https://host/set/0.tar?…#val=0.1"),
        ("cc3m::https://h/{0..9}.tar?word=1::s3://key:word@b/x", "cc3m::https://h/{0..9}.tar?…::s3://b/x"),
        ("--data=https://ada:word@host/set", "--data=https://host/set"),
        ("404, url='https://host/0.tar?word'", "404, url='https://host/0.tar?…'"),
        ("abfs://container@account.net/set", "abfs://container@account.net/set"),
        ("hf://datasets/owner/name@main", "hf://datasets/owner/name@main"),
        ("s3://bucket/set?x", "s3://bucket/set?x"),
    ],
)
def test_what_people_read_holds_no_secret(place: str, said: str) -> None:
    assert shown(place) == said and shown(said) == said
    assert DataError("x", where=place).where == said


def test_a_file_is_called_without_its_signature() -> None:
    assert file_name(Path("https://host/set/00000.tar?sig=a/b.tar")) == "00000.tar"
    assert file_name(Path("set/00000.tar?x")) == "00000.tar?x"
