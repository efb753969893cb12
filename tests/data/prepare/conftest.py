"""A server on the loopback interface that answers as the web does: well, slowly, wrongly or not at all."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

SLOW = 8.0  # seconds; the tests wait for less


class Web:
    """url(path): /photo/N answers well. asked: how often each path was asked for. open: set to let /held/N go on."""

    def __init__(self, photos: Callable[[int], bytes]) -> None:
        self.asked: Counter[str] = Counter()
        self.times: dict[str, list[float]] = defaultdict(list)
        self.agents: set[str] = set()
        self.open = threading.Event()
        self.photos = photos
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked[self.path] += 1
                web.times[self.path].append(time.monotonic())
                web.agents.add(self.headers["User-Agent"])
                web.answer(self)

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        _, kind, number = request.path.split("/")
        image = self.photos(int(number))
        if kind == "missing":
            request.send_error(404)
        elif kind == "busy" and self.asked[request.path] == 1:
            request.send_response(429)
            request.send_header("Retry-After", "1")
            request.end_headers()
        elif kind == "html":
            self.send(request, b"<!doctype html><title>gone</title>", "text/html")
        elif kind == "short":
            self.send(request, image[: len(image) // 2], length=len(image))
        elif kind == "half":  # and says that this is all
            self.send(request, image[: len(image) // 2])
        elif kind == "moved":
            request.send_response(302)
            request.send_header("Location", f"/photo/{number}")
            request.end_headers()
        elif kind == "noai":
            self.send(request, image, robots="noai")
        elif kind in ("drip", "endless"):
            self.send_for_ever(request, image[:1] if kind == "drip" else bytes(2**20), kind == "drip")
        else:
            if kind == "slow":
                time.sleep(SLOW)
            if kind == "held":
                self.open.wait(60)
            self.send(request, image)

    @staticmethod
    def send_for_ever(request: BaseHTTPRequestHandler, part: bytes, slowly: bool) -> None:
        try:
            request.send_response(200)
            request.end_headers()
            while True:
                request.wfile.write(part)
                if slowly:
                    time.sleep(0.3)
        except OSError:
            return  # whoever asked has gone

    @staticmethod
    def send(
        request: BaseHTTPRequestHandler,
        body: bytes,
        kind: str = "image/jpeg",
        length: int | None = None,
        robots: str | None = None,
    ) -> None:
        try:
            request.send_response(200)
            request.send_header("Content-Type", kind)
            request.send_header("Content-Length", str(len(body) if length is None else length))
            if robots:
                request.send_header("X-Robots-Tag", robots)
            request.end_headers()
            request.wfile.write(body)
        except OSError:
            return  # whoever asked has gone


@pytest.fixture
def web(make_photo: Callable[..., bytes]) -> Iterator[Web]:
    served = Web(lambda number: make_photo(number, 48))
    thread = threading.Thread(target=served.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield served
    served.open.set()
    served.server.shutdown()
    served.server.server_close()
    thread.join()
