"""Facts of kdx/data/remote/files.py: what goes wrong on the way is tried again, or said in one line."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.data.remote import files
from kdx.data.remote.files import check_unchanged, look_at, read_part, read_pieces, read_text

if TYPE_CHECKING:
    from .conftest import Web

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def url(web: Web) -> str:
    (web.folder / "0.tar").write_bytes(CONTENT)
    return f"{web.url}/0.tar"


def _whole(url: str) -> bytes:
    return b"".join(read_pieces(look_at(url)))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_is_read_in_pieces(web: Web, url: str, ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE", 1000)
    web.ranges = ranges
    assert _whole(url) == CONTENT
    assert web.asked["GET 0.tar"] == (11 if ranges else 1)


@pytest.mark.parametrize("wrong", ["503", "429", "cut"])
def test_what_passes_is_tried_again(web: Web, url: str, wrong: str) -> None:
    web.answers["0.tar"] = [wrong, wrong]
    assert _whole(url) == CONTENT and web.asked["GET 0.tar"] == 3


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ("503", SetupError, "the server answers 503"),
        ("cut", SetupError, "the answer is cut short"),
        ("404", DataError, "there is no such file"),
        ("403", SetupError, "access is refused (403)"),
        ("401", SetupError, "access is refused (401)"),
        ("405", DataError, "the server answers 405"),
    ],
)
def test_what_does_not_pass_is_said_in_one_line(
    web: Web, url: str, wrong: str, kind: type[KdxError], said: str
) -> None:
    file = look_at(url)
    web.asked.clear()
    web.always["0.tar"] = wrong
    with pytest.raises(kind) as error:
        list(read_pieces(file))
    assert said in error.value.what and error.value.where == url and error.value.remedy
    assert web.asked["GET 0.tar"] == (files.ATTEMPTS if wrong in ("503", "cut") else 1)
    if wrong != "cut":
        with pytest.raises(kind) as error:
            look_at(url)
        assert said in error.value.what


def test_a_server_that_does_not_answer_is_given_up(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = look_at(url)
    monkeypatch.setattr(files, "TIMEOUT", 0.1)
    web.always["0.tar"] = "slow"
    started = time.monotonic()
    with pytest.raises(SetupError, match="no answer in time"):
        read_part(file, 0, 10)
    assert time.monotonic() - started < 2 * files.ATTEMPTS


def test_a_server_that_is_not_there_is_the_machines_fault() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(SetupError, match="access fails") as error:
            look_at(f"http://127.0.0.1:{unused.getsockname()[1]}/0.tar")
    assert "network" in str(error.value.remedy)


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changed_is_noticed_at_the_next_part(web: Web, url: str, etags: bool) -> None:
    web.etags = etags
    file = look_at(url)
    assert read_part(file, 5, 9) == CONTENT[5:9]
    check_unchanged(file)
    (web.folder / "0.tar").write_bytes(CONTENT[::-1])
    os.utime(web.folder / "0.tar", (1, 1))
    with pytest.raises(DataError, match="has changed"):
        read_part(file, 5, 9)
    with pytest.raises(DataError, match="has changed"):
        check_unchanged(file)
    assert look_at(url).stamp != file.stamp


def test_no_part_is_taken_for_the_whole(web: Web, url: str) -> None:
    web.ranges = False
    with pytest.raises(SetupError, match="no parts of files") as error:
        read_part(look_at(url), 5, 9)
    assert "KDX_SHARD_CACHE_SIZE" in str(error.value.remedy)


@pytest.mark.parametrize("wrong", ["404", "403"])
def test_a_text_that_is_not_there_or_not_for_us_is_none(web: Web, wrong: str) -> None:
    (web.folder / "classes.txt").write_bytes(b"cat\n")
    assert read_text(f"{web.url}/classes.txt") == b"cat\n"
    web.always["classes.txt"] = wrong
    assert read_text(f"{web.url}/classes.txt") is None


def test_a_password_is_in_no_error(web: Web, url: str) -> None:
    with pytest.raises(KdxError) as error:
        look_at(url.replace("//", "//ada:word@").replace("0.tar", "1.tar?sig=word"))
    assert "word" not in f"{error.value} {error.value.to_dict()}" and "1.tar" in str(error.value)


def test_a_proxy_of_the_environment_is_asked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", web.url)
    with pytest.raises(DataError, match="no such file"):
        look_at("http://elsewhere.invalid/0.tar")
    assert web.asked["HEAD 0.tar"] == 1


def test_a_missing_package_and_a_protocol_that_is_none_are_named() -> None:
    with pytest.raises(SetupError) as missing:
        look_at("s3://bucket/0.tar")
    assert missing.value.remedy == "pip install s3fs"
    with pytest.raises(UsageError, match="no protocol"):
        look_at("nothing://bucket/0.tar")
