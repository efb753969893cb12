"""Facts of kdx/runtime/torch.py: a checkpoint as an Encoder."""

import copy
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kdx.core.errors import DataError, KdxError, UsageError
from kdx.models.checkpoint import open_checkpoint
from kdx.runtime.torch import TorchEncoder


@pytest.fixture(scope="module")
def encoder(mini_checkpoint: Path) -> Iterator[TorchEncoder]:
    with TorchEncoder.open(mini_checkpoint) as encoder:
        yield encoder


def _pixels(encoder: TorchEncoder, count: int) -> np.ndarray:
    size = encoder.spec.image_size
    return np.random.default_rng(0).standard_normal((count, 3, size, size), dtype=np.float32)


def test_embeddings_are_unit_rows_in_fp32(encoder: TorchEncoder) -> None:
    images = encoder.encode_image(_pixels(encoder, 4))
    texts = encoder.embed_texts(["a star", "", "word " * 200])
    for embeddings, count in ((images, 4), (texts, 3)):
        assert embeddings.shape == (count, encoder.spec.embed_dim) and embeddings.dtype == np.float32
        assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(count), abs=1e-5)


def test_they_are_the_normalised_features_of_the_model(encoder: TorchEncoder, mini_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(mini_checkpoint)
    pixels = _pixels(encoder, 2)
    with torch.no_grad():
        features = checkpoint.model.encode_image(torch.from_numpy(pixels)).numpy()
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert np.abs(encoder.encode_image(pixels) - expected).max() < 1e-5


def test_an_embedding_does_not_depend_on_its_neighbours(encoder: TorchEncoder) -> None:
    pixels = _pixels(encoder, 5)
    together = encoder.encode_image(pixels)
    for row in range(5):
        assert np.abs(encoder.encode_image(pixels[row : row + 1])[0] - together[row]).max() < 1e-5


def test_strided_pixels_and_any_integer_tokens_are_taken(encoder: TorchEncoder) -> None:
    pixels = _pixels(encoder, 4)
    assert np.array_equal(encoder.encode_image(pixels[::-2]), encoder.encode_image(pixels[::-2].copy()))
    tokens = np.array([[49406, 320, 2368, 49407]])
    assert np.array_equal(
        encoder.encode_text(tokens.astype(np.int32)), encoder.encode_text(tokens.astype(np.int64))
    )


def test_what_the_spec_does_not_say_is_the_callers_fault(encoder: TorchEncoder) -> None:
    pixels = _pixels(encoder, 1)
    wrong_pixels: list[Any] = [pixels[0], pixels[..., 1:], pixels.astype(np.float64), pixels * np.nan]
    for wrong in wrong_pixels:
        with pytest.raises(UsageError):
            encoder.encode_image(wrong)
    for tokens in (np.ones((1, 1), int), np.ones(3, int), np.full((1, 4), encoder.spec.vocab_size)):
        with pytest.raises(UsageError):
            encoder.encode_text(tokens)


def test_nothing_gives_no_rows(encoder: TorchEncoder) -> None:
    assert encoder.embed_images([]).shape == (0, encoder.spec.embed_dim)
    assert encoder.embed_texts([]).shape == (0, encoder.spec.embed_dim)


def test_an_image_that_does_not_decode_is_bad_data(
    encoder: TorchEncoder, make_photo: Callable[..., bytes]
) -> None:
    with pytest.raises(DataError):
        encoder.embed_images([make_photo(0), make_photo(1)[:60]])


def test_a_folder_that_is_no_checkpoint_is_bad_data(exported_model: Path, tmp_path: Path) -> None:
    for path in (exported_model, tmp_path / "nowhere"):
        with pytest.raises(DataError) as caught:
            TorchEncoder.open(path)
        assert caught.value.where == str(path)


def test_in_a_forked_process_it_says_what_to_do_instead_of_waiting_for_ever(encoder: TorchEncoder) -> None:
    encoder.embed_texts(["word " * 80] * 64)
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    worker = context.Process(target=_fault_of, args=(encoder, answer))
    worker.start()
    try:
        worker.join(60)
        assert worker.exitcode == 0
        kind, remedy = answer.get()
    finally:
        worker.kill()
    assert kind == "UsageError" and "spawn" in remedy


def _fault_of(encoder: TorchEncoder, answer: Any) -> None:
    try:
        encoder.embed_texts(["a star"])
    except KdxError as error:
        answer.put((type(error).__name__, error.remedy))


def _allow_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def _choose_medium() -> None:
    torch.set_float32_matmul_precision("medium")


def _choose_tf32_by_the_newer_name() -> None:
    torch.backends.fp32_precision = "tf32"  # pyright: ignore[reportAttributeAccessIssue]


COARSE = pytest.mark.parametrize("choose", [_allow_tf32, _choose_medium, _choose_tf32_by_the_newer_name])


def _switches() -> list[str]:
    backends: Any = torch.backends
    places = (
        backends,
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )
    return [place.fp32_precision for place in places]


@pytest.fixture
def switches_restored() -> Iterator[None]:
    backends: Any = torch.backends
    places = (
        backends,
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )
    before = _switches()
    yield
    for place, value in zip(places, before, strict=True):
        place.fp32_precision = value


@COARSE
@pytest.mark.usefixtures("switches_restored")
def test_nothing_is_rounded_to_tf32_while_it_encodes_and_the_switches_come_back(
    encoder: TorchEncoder, monkeypatch: pytest.MonkeyPatch, choose: Callable[[], None]
) -> None:
    seen: list[list[str]] = []

    def look(*_: object, **__: object) -> torch.Tensor:
        seen.append(_switches()[1:])
        return torch.ones(1, encoder.spec.embed_dim)

    monkeypatch.setattr(encoder, "_model", SimpleNamespace(encode_image=look, encode_text=look))
    choose()
    before = _switches()
    encoder.encode_image(_pixels(encoder, 1))
    encoder.encode_text(np.ones((1, 2), np.int64))
    assert seen == [["ieee"] * 4] * 2
    assert _switches() == before != ["ieee"] * 5


@pytest.mark.gpu
@COARSE
@pytest.mark.usefixtures("switches_restored")
def test_on_a_gpu_embeddings_are_those_of_float64(mini_checkpoint: Path, choose: Callable[[], None]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    checkpoint = open_checkpoint(mini_checkpoint)
    choose()
    with TorchEncoder(checkpoint) as encoder:
        pixels, tokens = _pixels(encoder, 16), np.full((16, 9), 49407)
        found = encoder.encode_image(pixels), encoder.encode_text(tokens)
    model = copy.deepcopy(checkpoint.model).double()
    with torch.inference_mode():
        exact = (
            model.encode_image(torch.from_numpy(pixels).double(), normalize=True),
            model.encode_text(torch.from_numpy(tokens), normalize=True),
        )
    for mine, reference in zip(found, exact, strict=True):
        assert np.abs(mine - reference.numpy()).max() < 1e-6
    assert next(checkpoint.model.parameters()).device.type == "cpu"


def test_a_gpu_gets_a_copy_and_the_cpu_none(mini_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(mini_checkpoint)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert TorchEncoder(checkpoint)._model is checkpoint.model
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "device", lambda name: SimpleNamespace(type=name))
    moved: list[object] = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved.append(self) or self)
    assert TorchEncoder(checkpoint)._model is not checkpoint.model
    assert moved and checkpoint.model not in moved
