"""Facts of data/prepare/download.py, which runs elsewhere: an answer has an end. img2dataset is stood in for."""

from __future__ import annotations

import http.client
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from kdx.data.prepare import scripts

from .conftest import Web


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, part in (
        ("downloader", "Downloader"),
        ("resizer", "Resizer"),
        ("writer", "WebDatasetSampleWriter"),
    ):
        module = ModuleType(f"img2dataset.{name}")
        setattr(module, part, type(part, (), {"download_shard": lambda self, row: None}))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "img2dataset", ModuleType("img2dataset"))
    spec = importlib.util.spec_from_file_location("download_script", Path(scripts.FOLDER, "download.py"))
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    monkeypatch.setattr(http.client.HTTPConnection, "response_class", http.client.HTTPResponse)
    loaded.BoundedDownloader().download_shard(None)
    assert http.client.HTTPConnection.response_class is loaded.BoundedResponse
    return loaded


def test_what_ends_is_read_as_it_is(script: Any, web: Web, make_photo: Callable[..., bytes]) -> None:
    for path in ("/photo/1", "/moved/1"):
        with urlopen(web.url(path), timeout=10) as answer:
            assert answer.read() == make_photo(1, 48)
    with pytest.raises(http.client.IncompleteRead), urlopen(web.url("/short/1"), timeout=10) as answer:
        answer.read()


def test_a_body_that_drips_has_as_much_time_as_a_whole_file(
    script: Any, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SLOWEST", 0.1)  # each piece comes in time, all of it does not
    with pytest.raises(TimeoutError, match="timed out"), urlopen(web.url("/drip/0"), timeout=10) as answer:
        answer.read()


def test_a_body_without_an_end_is_left(script: Any, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "LARGEST", 2**20)
    with (
        pytest.raises(ValueError, match="larger than 1 MiB"),
        urlopen(web.url("/endless/0"), timeout=60) as answer,
    ):
        answer.read()


@pytest.mark.parametrize(
    ("status", "wait", "seconds"),
    [(429, "3", 3), (429, "99999", 10), (429, None, 1), (503, "2", 2), (503, None, None), (404, "5", None)],
)
def test_who_asks_too_often_waits_before_the_next_try(
    script: Any,
    web: Web,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    wait: str | None,
    seconds: int | None,
) -> None:
    def answer(request: Any) -> None:
        request.send_response(status)
        if wait is not None:
            request.send_header("Retry-After", wait)
        request.end_headers()

    waited: list[int] = []
    web.answer = answer
    monkeypatch.setattr(script, "time", ModuleType("time"))
    monkeypatch.setattr(script.time, "sleep", waited.append, raising=False)
    monkeypatch.setattr(script.time, "monotonic", time.monotonic, raising=False)
    with pytest.raises(HTTPError):
        urlopen(web.url("/x/0"), timeout=10)
    assert waited == ([] if seconds is None else [seconds])
