"""Facts of a real Triton under load: nobody waits long for another's request, and a busy server is not dead."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.core.errors import KdxError, UsageError
from kdx.core.folders import sealed_folder
from kdx.runtime.triton import BusyError, TritonConnection, TritonEmbedder
from kdx.runtime.triton_requests import to_bytes_column
from kdx.serve import liveness
from kdx.serve.liveness import Watch
from kdx.serve.repository import KIND
from kdx.serve.supervisor import TritonServer

HUGE = 8000  # pixels a side: more than a second to decode


@pytest.fixture(scope="module")
def huge_image() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (HUGE, HUGE), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def watched(triton_server: TritonServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Exception]]:
    """Looks at the server all the time; each probe has hardly a moment, so that load makes it late."""
    monkeypatch.setattr(liveness, "PROBE_TIMEOUT", 0.02)
    ended, faults = threading.Event(), list[Exception]()

    def watch() -> None:
        with contextlib.closing(TritonConnection(triton_server.url)) as connection:
            looking = Watch(connection, triton_server.models, triton_server.stubs)
            while not ended.wait(0.05):
                try:
                    looking.look()
                except Exception as error:
                    faults.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    yield faults
    ended.set()
    thread.join()


def test_huge_images_are_asked_one_by_one_and_make_a_server_busy_not_dead(
    triton_server: TritonServer, huge_image: bytes, make_photo: Callable[..., bytes], watched: list[Exception]
) -> None:
    with TritonEmbedder(triton_server.url) as client, ThreadPoolExecutor(3) as pool:
        small = client.embed_images([make_photo(1)])
        waiting = [
            pool.submit(client.classify, [huge_image, huge_image, make_photo(0)], ["a", "b"])
            for _ in range(3)
        ]
        while not all(each.done() for each in waiting):
            assert np.allclose(client.embed_images([make_photo(1)]), small, atol=1e-5)
    assert [len(each.result()) for each in waiting] == [3, 3, 3]
    assert not watched


def test_ten_clients_of_full_batches_make_a_server_busy_not_dead(
    triton_server: TritonServer, make_photo: Callable[..., bytes], watched: list[Exception]
) -> None:
    images = [make_photo(seed, 500) for seed in range(16)]
    with TritonEmbedder(triton_server.url) as client, ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda _: client.classify(images, ["a", "b"], top_k=1), range(20)))
    assert all([best[0][0] for best in each] == [best[0][0] for best in found[0]] for each in found)
    assert not watched


def test_nobody_waits_for_a_request_of_many_prompts(
    triton_server: TritonServer, make_photo: Callable[..., bytes], watched: list[Exception]
) -> None:
    labels = [
        f"label {number} {time.time_ns()}" for number in range(998)
    ]  # of no other test's, so not cached
    templates = [f"{number} {{}}" for number in range(8)]
    with TritonEmbedder(triton_server.url) as client, ThreadPoolExecutor(1) as pool:
        before = client.connection.count_answered()["embed_text"]
        many = pool.submit(client.classify, [make_photo(0)], labels, templates=templates)
        while client.connection.count_answered()["embed_text"] < before + 2:
            assert not many.done()
        assert len(client.classify([make_photo(0)], ["a", f"b {time.time_ns()}"])) == 1
        assert not many.done()
        assert len(many.result()[0]) == 5
    assert not watched


def test_the_work_ends_when_nobody_waits_for_it(
    triton_server: TritonServer, make_photo: Callable[..., bytes]
) -> None:
    labels = [f"label {number} {time.time_ns()}" for number in range(8000)]
    with contextlib.closing(TritonConnection(triton_server.url)) as connection:
        with pytest.raises(BusyError):
            connection.infer("zero_shot", _classification([make_photo(0)], labels), ["label"], timeout=0.3)
        before = connection.count_answered()["embed_text"]
        deadline = time.monotonic() + 60
        answered = -1
        while answered != (answered := connection.count_answered()["embed_text"]):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert answered - before < 8000 / 16 / 2


def test_more_pixels_or_bytes_than_a_request_may_hold_are_refused(
    triton_server: TritonServer, huge_image: bytes
) -> None:
    with contextlib.closing(TritonConnection(triton_server.url)) as connection:
        for images, number in (([huge_image] * 2, "128,000,000"), ([bytes(17 * 2**20)] * 2, "35,651,584")):
            for model, inputs, output in (
                ("embed_image", {"image": to_bytes_column(images)}, "embedding"),
                ("zero_shot", _classification(images, ["a"]), "label"),
            ):
                with pytest.raises(UsageError) as caught:
                    connection.infer(model, inputs, [output])
                assert number in caught.value.what


def test_what_fails_in_the_encoder_is_the_servers_fault_and_tells_no_path(
    triton_server: TritonServer, tmp_path: Path, make_photo: Callable[..., bytes]
) -> None:
    with sealed_folder(tmp_path / "broken", KIND) as folder:
        shutil.copytree(triton_server.repository, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        code = folder / "python/kdx/serve/triton_models/image_encoder.py"
        text = code.read_text()
        code.write_text(text.replace("pieces = batched(images, self._at_once or len(images))", _FAILING))
        assert _FAILING in code.read_text()
    with (
        TritonServer(tmp_path / "broken", tmp_path / "log") as server,
        TritonEmbedder(server.url) as client,
    ):
        for ask in (
            lambda: client.embed_images([make_photo(0, 100)]),
            lambda: client.classify([make_photo(0, 100)], ["a"]),
        ):
            with pytest.raises(KdxError) as caught:
                ask()
            assert caught.value.exit_code == 5
            assert "secret" not in str(caught.value) + str(caught.value.remedy)
        assert "/secret/path" in (tmp_path / "log").read_text()
        with pytest.raises(KdxError) as caught:
            client.classify([b"broken"], ["a"])
        assert caught.value.exit_code == 4


# fails with what the ONNX form raises; the probe's image is let through, so that the server starts
_FAILING = """if images[0].std(axis=(1, 2)).max() > 0.1:
            from kdx.core.errors import DataError

            raise DataError("does not run", where="/secret/path/image_encoder.onnx")
        pieces = batched(images, self._at_once or len(images))"""


def _classification(images: list[bytes], labels: list[str]) -> dict[str, np.ndarray]:
    return {
        "image": to_bytes_column(images),
        "labels": np.array([json.dumps(labels).encode()], dtype=np.object_),
    }
