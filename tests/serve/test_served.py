"""Facts of the served models, asked of a real Triton."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.core.encoder import Encoder
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.evaluate import classify
from kdx.runtime.triton import TritonConnection, to_bytes_column
from kdx.serve.client import TritonClient
from kdx.serve.probe import probe
from kdx.serve.search import ExactSearch
from kdx.serve.supervisor import TritonServer

LABELS = ["circle", "square", "star", "naïve 🙂"]


@pytest.fixture(scope="module")
def client(triton_server: TritonServer) -> Iterator[TritonClient]:
    with TritonClient(triton_server.url) as client:
        yield client


@pytest.fixture(scope="module")
def local(exported_model: Path) -> Iterator[Encoder]:
    with kdx.load(exported_model) as encoder:
        yield encoder


def test_images_equal_those_in_process(
    client: TritonClient, local: Encoder, make_photo: Callable[..., bytes]
) -> None:
    images = [make_photo(seed, 20 + 5 * seed, kind) for seed, kind in enumerate(["JPEG", "PNG", "WEBP"] * 7)]
    assert np.abs(client.embed_images(images) - local.embed_images(images)).max() < 1e-5


@pytest.mark.slow  # it looks at the clock
def test_requests_that_follow_each_other_at_once_do_not_wait_for_the_batcher(client: TritonClient) -> None:
    seconds: list[float] = []
    for _ in range(300):
        start = time.perf_counter()
        client.embed_texts(["a star"])
        seconds.append(time.perf_counter() - start)
    # A missed wake-up costs half a second and befell 6 of 300 and more; a busy machine delays one or two that long.
    assert sum(each > 0.45 for each in seconds) < 4


@pytest.mark.parametrize(
    "texts", [["a star"], ["", "émile 🙂 你好", "word " * 200, "&amp; \t\x00"], ["x"] * 130]
)
def test_texts_equal_those_in_process(client: TritonClient, local: Encoder, texts: list[str]) -> None:
    assert np.abs(client.embed_texts(texts) - local.embed_texts(texts)).max() < 1e-5


def test_classes_equal_those_in_process(
    client: TritonClient, local: Encoder, make_photo: Callable[..., bytes]
) -> None:
    images = [make_photo(seed) for seed in range(18)]
    templates = ["a {}.", "a drawing of a {}"]
    served = client.classify(images, LABELS, templates=templates, top_k=3)
    own = classify(local, images, LABELS, templates=templates, top_k=3)
    assert [[label for label, _ in best] for best in served] == [[label for label, _ in best] for best in own]
    assert np.allclose(
        [[p for _, p in best] for best in served], [[p for _, p in best] for best in own], atol=1e-5
    )


def test_the_probabilities_of_all_labels_sum_to_one(
    client: TritonClient, make_photo: Callable[..., bytes]
) -> None:
    (best,) = client.classify([make_photo(1)], LABELS, top_k=99)
    assert len(best) == len(LABELS) and sum(score for _, score in best) == pytest.approx(1, abs=1e-5)


def test_the_spec_is_the_models(client: TritonClient, local: Encoder) -> None:
    assert client.spec == local.spec


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"not an image", "not an image of a known format"),
        (b"", "not an image"),
        (b"\xff\xd8\xff\xe0trunc", "image of 9 bytes"),
    ],
)
def test_what_is_no_image_is_a_client_error_and_the_server_lives(
    client: TritonClient, make_photo: Callable[..., bytes], image: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        client.embed_images([image])
    with pytest.raises(DataError, match=message):
        client.classify([image], LABELS)
    assert client.embed_images([make_photo(0)]).shape == (1, client.spec.embed_dim)


def test_a_bad_request_does_not_hurt_those_beside_it(
    client: TritonClient, local: Encoder, make_photo: Callable[..., bytes]
) -> None:
    good = make_photo(3)
    expected = local.embed_images([good])

    def ask(number: int) -> bool:
        if number % 3 == 0:
            with pytest.raises(DataError):
                client.embed_images([b"broken"])
            return True
        return bool(np.abs(client.embed_images([good]) - expected).max() < 1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(60)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (b"[]", "JSON list of non-empty strings"),
        (b"{", "JSON list of non-empty strings"),
        (b"[" * 50_000, "JSON list of non-empty strings"),
        (b'["a", 1]', "JSON list of non-empty strings"),
        (b'["\\ud800"]', "JSON list of non-empty strings"),
        (b'["a", "a"]', "a label twice"),
        (json.dumps([f"label {n}" for n in range(9000)]).encode(), "over the limit of 8192 prompts"),
    ],
)
def test_bad_labels_are_refused(
    client: TritonClient, make_photo: Callable[..., bytes], labels: bytes, message: str
) -> None:
    inputs = {"image": to_bytes_column([make_photo(0)]), "labels": np.array([labels], dtype=np.object_)}
    with pytest.raises(DataError, match=message):
        client.connection.infer("zero_shot", inputs, ["label", "score"])


@pytest.mark.parametrize(("text", "message"), [(b"\xff\xfe", "not UTF-8"), (b"x" * 20_000, "over the limit")])
def test_bad_texts_are_refused(client: TritonClient, text: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        client.connection.infer("embed_text", {"text": to_bytes_column([text])}, ["embedding"])


def test_limits_of_a_request_are_client_errors(
    client: TritonClient, make_photo: Callable[..., bytes]
) -> None:
    column = to_bytes_column([make_photo(0)] * 17)
    with pytest.raises(DataError, match="batch-size"):
        client.connection.infer("embed_image", {"image": column}, ["embedding"])
    with pytest.raises(DataError, match="17 images are over the limit"):
        labels = np.array([b'["a"]'], dtype=np.object_)
        client.connection.infer("zero_shot", {"image": column, "labels": labels}, ["label"])
    with pytest.raises(DataError, match="top_k = 0"):
        client.classify([make_photo(0)], LABELS, top_k=0)


def test_raw_tensors_are_refused_with_the_right_call(client: TritonClient) -> None:
    with pytest.raises(UsageError, match="encode_image is not possible"):
        client.encode_image(np.zeros((1, 3, 32, 32), np.float32))


def test_search_finds_what_the_cosines_say_and_leaves_out_bad_images(
    client: TritonClient, local: Encoder, make_photo: Callable[..., bytes]
) -> None:
    images: dict[str, bytes] = {f"image {seed}": make_photo(seed) for seed in range(20)}
    index = ExactSearch(client, {**images, "broken": b"broken"})
    cosines = local.embed_images(list(images.values())) @ local.embed_texts(["a star"])[0]
    hits = index.find("a star", 5)
    assert [name for name, _ in hits] == [f"image {row}" for row in np.argsort(-cosines)[:5]]
    assert list(index.refused) == ["broken"]


def test_the_probe_asks_each_model(triton_server: TritonServer) -> None:
    connection = TritonConnection(triton_server.url)
    assert list(probe(connection)) == ["embed_image", "embed_text", "zero_shot"]
    assert connection.server_version() == "2.51.0"
    connection.close()


def test_no_server_is_said_with_its_remedy() -> None:
    with pytest.raises(SetupError, match="no Triton server answers") as caught:
        kdx.load("grpc://127.0.0.1:9")
    assert "kdx serve up" in str(caught.value.remedy)
