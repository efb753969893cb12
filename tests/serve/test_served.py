"""Facts of the served models, asked of a real Triton."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.core.encoder import Embedder
from kdx.core.errors import DataError, KdxError, SetupError, UsageError
from kdx.runtime.triton import TritonConnection, TritonEmbedder
from kdx.runtime.triton_requests import MAX_PROMPTS, to_bytes_column
from kdx.serve.probe import find_models, probe
from kdx.serve.search import ExactSearch
from kdx.serve.supervisor import TritonServer

LABELS = ["circle", "square", "star", "naïve 🙂"]


@pytest.fixture(scope="module")
def client(triton_server: TritonServer) -> Iterator[TritonEmbedder]:
    with TritonEmbedder(triton_server.url) as client:
        yield client


@pytest.fixture(scope="module")
def local(exported_model: Path) -> Iterator[Embedder]:
    with kdx.load(exported_model) as embedder:
        yield embedder


def test_images_equal_those_in_process(
    client: TritonEmbedder, local: Embedder, make_photo: Callable[..., bytes]
) -> None:
    images = [make_photo(seed, 20 + 5 * seed, kind) for seed, kind in enumerate(["JPEG", "PNG", "WEBP"] * 7)]
    assert np.abs(client.embed_images(images) - local.embed_images(images)).max() < 1e-5


def test_the_server_says_which_model_and_precision_it_serves(client: TritonEmbedder, local: Embedder) -> None:
    assert client.identity is not None
    assert (client.identity, client.precision) == (local.identity, "fp32")


@pytest.mark.slow  # it looks at the clock
def test_requests_that_follow_each_other_at_once_do_not_wait_for_the_batcher(client: TritonEmbedder) -> None:
    seconds: list[float] = []
    for _ in range(300):
        start = time.perf_counter()
        client.embed_texts(["a star"])
        seconds.append(time.perf_counter() - start)
    # A missed wake-up costs half a second and befell 6 of 300 and more; a busy machine delays one or two that long.
    assert sum(each > 0.45 for each in seconds) < 4


def test_more_prompts_than_a_request_may_hold_are_compared_in_the_client(
    client: TritonEmbedder, local: Embedder, make_photo: Callable[..., bytes]
) -> None:
    labels, templates = (
        [f"thing {number}" for number in range(100)],
        [f"{number} {{}}" for number in range(83)],
    )
    assert len(labels) * len(templates) > MAX_PROMPTS
    (served,) = client.classify([make_photo(1)], labels, templates=templates, top_k=3)
    (own,) = local.classify([make_photo(1)], labels, templates=templates, top_k=3)
    assert [label for label, _ in served] == [label for label, _ in own]
    assert np.allclose([score for _, score in served], [score for _, score in own], atol=1e-5)


@pytest.mark.parametrize(
    "texts", [["a star"], ["", "émile 🙂 你好", "word " * 200, "&amp; \t\x00"], ["x"] * 130]
)
def test_texts_equal_those_in_process(client: TritonEmbedder, local: Embedder, texts: list[str]) -> None:
    assert np.abs(client.embed_texts(texts) - local.embed_texts(texts)).max() < 1e-5


def test_classes_equal_those_in_process(
    client: TritonEmbedder, local: Embedder, make_photo: Callable[..., bytes]
) -> None:
    images = [make_photo(seed) for seed in range(18)]
    templates = ["a {}.", "a drawing of a {}"]
    served = client.classify(images, LABELS, templates=templates, top_k=3)
    own = local.classify(images, LABELS, templates=templates, top_k=3)
    assert [[label for label, _ in best] for best in served] == [[label for label, _ in best] for best in own]
    assert np.allclose(
        [[p for _, p in best] for best in served], [[p for _, p in best] for best in own], atol=1e-5
    )


def test_the_probabilities_of_all_labels_sum_to_one(
    client: TritonEmbedder, make_photo: Callable[..., bytes]
) -> None:
    (best,) = client.classify([make_photo(1)], LABELS, top_k=99)
    assert len(best) == len(LABELS) and sum(score for _, score in best) == pytest.approx(1, abs=1e-5)


def test_the_spec_is_the_models(client: TritonEmbedder, local: Embedder) -> None:
    assert client.spec == local.spec


@pytest.mark.parametrize("image", [b"not an image", b"", b"\xff\xd8\xff\xe0trunc"])
def test_what_is_no_image_is_a_client_error_and_the_server_lives(
    client: TritonEmbedder, local: Embedder, make_photo: Callable[..., bytes], image: bytes
) -> None:
    images = [make_photo(0)] * 20 + [image]  # in the second request of the client
    said = [
        _fault(lambda: client.embed_images(images)),
        _fault(lambda: client.classify(images, LABELS)),
        _fault(lambda: local.embed_images(images)),
    ]
    assert said[0] == said[1] == said[2]
    assert said[0]["class"] == "DataError" and said[0]["where"] == "images[20]"
    assert client.embed_images([make_photo(0)]).shape == (1, client.spec.embed_dim)


def _fault(call: Callable[[], object]) -> dict[str, str | None]:
    with pytest.raises(KdxError) as caught:
        call()
    return caught.value.to_dict()


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
)
def test_a_picture_of_any_mode_is_taken_or_refused_alike(
    client: TritonEmbedder, local: Embedder, mode: str
) -> None:
    picture = Image.linear_gradient("L")
    picture = (
        picture.convert("RGB").convert(mode) if mode in ("HSV", "LAB", "YCbCr") else picture.convert(mode)
    )
    answers: list[Any] = []
    for model in (client, local):
        try:
            answers.append(model.embed_images([picture]))
        except KdxError as error:
            answers.append(error.to_dict())
    if isinstance(answers[1], dict):
        assert answers[0] == answers[1] and answers[0]["where"] == "images[0]"
    else:
        assert np.abs(answers[0] - answers[1]).max() < 1e-5


def test_a_bad_request_does_not_hurt_those_beside_it(
    client: TritonEmbedder, local: Embedder, make_photo: Callable[..., bytes]
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
    ("labels", "where"),
    [
        (b"[]", None),
        (b"{", None),
        (b'"cat"', None),
        (b"[" * 50_000, None),
        (b'["a", 1]', "labels[1]"),
        (b'["a", " "]', "labels[1]"),
        (b'["\\ud800"]', "labels[0]"),
        (json.dumps([f"label {n}" for n in range(9000)]).encode(), None),
    ],
)
def test_bad_labels_are_refused(
    client: TritonEmbedder, make_photo: Callable[..., bytes], labels: bytes, where: str | None
) -> None:
    inputs = {"image": to_bytes_column([make_photo(0)]), "labels": np.array([labels], dtype=np.object_)}
    with pytest.raises(UsageError) as caught:
        client.connection.infer("zero_shot", inputs, ["label", "score"])
    assert caught.value.where == where and (where or "labels" in caught.value.what)


def test_a_label_may_stand_twice(
    client: TritonEmbedder, local: Embedder, make_photo: Callable[..., bytes]
) -> None:
    labels = ["missile", "star", "missile"]
    (served,), (own,) = (model.classify([make_photo(0)], labels) for model in (client, local))
    assert [label for label, _ in served] == [label for label, _ in own]
    twice = [score for label, score in served if label == "missile"]
    assert len(twice) == 2 and twice[0] == twice[1]


@pytest.mark.parametrize("text", [b"\xff\xfe", b"x" * 20_000])
def test_bad_texts_are_refused(client: TritonEmbedder, text: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        client.connection.infer("embed_text", {"text": to_bytes_column([b"good", text])}, ["embedding"])
    assert caught.value.where == "texts[1]"


def test_limits_of_a_request_are_client_errors(
    client: TritonEmbedder, make_photo: Callable[..., bytes]
) -> None:
    column = to_bytes_column([make_photo(0)] * 17)
    with pytest.raises(UsageError) as caught:
        client.connection.infer("embed_image", {"image": column}, ["embedding"])
    assert "batch-size" in caught.value.what
    labels = np.array([b'["a"]'], dtype=np.object_)
    for images, number in ((column, "17"), (column[:0], "empty")):
        with pytest.raises(UsageError) as caught:
            client.connection.infer("zero_shot", {"image": images, "labels": labels}, ["label"])
        assert number in caught.value.what
    with pytest.raises(UsageError) as caught:
        inputs = {"image": column[:1], "labels": labels, "top_k": np.zeros(1, np.int32)}
        client.connection.infer("zero_shot", inputs, ["label"])
    assert "top_k = 0" in caught.value.what


def test_search_finds_what_the_cosines_say_and_leaves_out_bad_images(
    client: TritonEmbedder, local: Embedder, make_photo: Callable[..., bytes]
) -> None:
    images: dict[str, bytes] = {f"image {seed}": make_photo(seed) for seed in range(20)}
    index = ExactSearch(client, {**images, "broken": b"broken"})
    cosines = local.embed_images(list(images.values())) @ local.embed_texts(["a star"])[0]
    hits = index.find("a star", 5)
    assert [name for name, _ in hits] == [f"image {row}" for row in np.argsort(-cosines)[:5]]
    assert list(index.refused) == ["broken"]


def test_the_probe_asks_each_model(triton_server: TritonServer) -> None:
    connection = TritonConnection(triton_server.url)
    assert list(probe(connection, find_models(connection))) == ["embed_image", "embed_text", "zero_shot"]
    assert connection.server_version() == "2.51.0"
    connection.close()


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY"])
def test_a_proxy_does_not_stand_between_a_machine_and_itself(
    triton_server: TritonServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with kdx.load(triton_server.url) as model:
        assert model.embed_texts(["a star"]).shape == (1, model.spec.embed_dim)


def test_no_server_is_said_with_its_remedy() -> None:
    with pytest.raises(SetupError) as caught:
        kdx.load("grpc://127.0.0.1:9")
    assert "kdx serve up" in str(caught.value.remedy)
