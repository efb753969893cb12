"""A server on the loopback interface that answers as stores do, well and badly."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kdx.data.remote import files, tars


class Web:
    """Serves a folder. answers: by file name what goes wrong with the next requests, "cut", "slow" or a status;
    always: with all of them. asked: method and name of each request, counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, list[str]] = {}
        self.always: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.ranges = self.etags = self.lists = True
        web = self

        class Handler(_Handler):
            pass

        Handler.web = web
        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def wrong(self, method: str, name: str) -> str | None:
        if name in self.always:
            return self.always[name]
        waiting = self.answers.get(name)
        return waiting.pop(0) if waiting and method == "GET" else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has given up."""


class _Handler(BaseHTTPRequestHandler):
    web: Web
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        web = self.web
        path = web.folder / self.path.partition("?")[0].strip("/")
        web.asked[f"{method} {path.name}"] += 1
        wrong = web.wrong(method, path.name)
        if wrong == "slow":
            time.sleep(2)
        if wrong and wrong.isdecimal():
            return self._send(int(wrong), b"", method)
        if path.is_dir() and web.lists:
            links = "".join(f'<a href="{each.name}">x</a>' for each in sorted(path.iterdir()))
            return self._send(200, links.encode(), method, {"Content-Type": "text/html"})
        if not path.is_file():
            return self._send(404, b"", method)
        content, state = path.read_bytes(), path.stat()
        headers = {"Last-Modified": self.date_time_string(int(state.st_mtime))}
        if web.etags:
            headers["ETag"] = f'"{state.st_mtime_ns:x}"'
        if web.etags and self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            return self._send(412, b"", method)
        if self.headers.get("If-Unmodified-Since", headers["Last-Modified"]) != headers["Last-Modified"]:
            return self._send(412, b"", method)
        status = 200
        if web.ranges and (wanted := self.headers.get("Range")):
            start, end = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            status, content = 206, content[start : end + 1]
        return self._send(status, content, method, headers, cut=wrong == "cut")

    def _send(
        self,
        status: int,
        content: bytes,
        method: str,
        headers: dict[str, str] | None = None,
        *,
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if method == "GET":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    (tmp_path / "web").mkdir()
    web = Web(tmp_path / "web")
    yield web
    web.server.shutdown()
    web.server.server_close()


@pytest.fixture(autouse=True)
def places_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of the test alone, and no waiting. Returns the cache of shards."""
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KDX_SHARD_CACHE", raising=False)
    monkeypatch.delenv("KDX_SHARD_CACHE_SIZE", raising=False)
    monkeypatch.setattr(files, "WAIT", 0.001)
    monkeypatch.setattr(tars, "_no_room_until", 0.0)
    return tmp_path / "cache" / "shards"
