from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from kdx.core.errors import DataError
from kdx.core.images import decode_image
from kdx.data.named import open_named
from kdx.data.named.table import class_folders, find_set

Pixels = npt.NDArray[np.uint8]


def planes_of(images: list[Image.Image]) -> Pixels:
    """uint8 [N, 3072]: of each image red, green and blue one after the other."""
    return np.stack([np.asarray(image).transpose(2, 0, 1).reshape(-1) for image in images])


def string(content: bytes) -> bytes:
    """A string of Python 2 in a pickle of protocol 2."""
    return (
        b"U" + struct.pack("<B", len(content)) + content
        if len(content) < 256
        else (b"T" + struct.pack("<i", len(content)) + content)
    )


def number(value: int) -> bytes:
    return b"M" + struct.pack("<H", value)


def python_2_batch(pixels: Pixels, labels: dict[bytes, list[int]]) -> bytes:
    """What Python 2's cPickle wrote of the published dictionary, opcode by opcode."""
    count, values = pixels.shape
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        + number(0)
        + b"\x85"
        + string(b"b")
        + b"tR"
        b"(" + number(1) + number(count) + number(values) + b"\x86"
        b"cnumpy\ndtype\n(" + string(b"u1") + number(0) + number(1) + b"tR"
        b"(" + number(3) + string(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + number(0) + b"tb"
        b"\x89" + string(pixels.tobytes()) + b"tb"
    )
    items = string(b"batch_label") + string(b"testing batch 1 of 1")
    for name, values_of in labels.items():
        items += string(name) + b"](" + b"".join(map(number, values_of)) + b"e"
    items += string(b"data") + array
    items += string(b"filenames") + b"](" + b"".join(string(b"photo_%d.png" % n) for n in range(count)) + b"e"
    return b"\x80\x02}(" + items + b"u."


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(12)]


@pytest.fixture(scope="module")
def pixels(images: list[Image.Image]) -> Pixels:
    return planes_of(images)


LABELS = [7, 0, 9, 3, 3, 1, 2, 4, 5, 6, 8, 9]
COARSE = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_the_pickle_is_what_python_2_wrote(pixels: Pixels) -> None:
    batch = pickle.loads(python_2_batch(pixels, {b"labels": LABELS}), encoding="bytes")
    assert batch[b"labels"] == LABELS
    assert (batch[b"data"] == pixels).all() and batch[b"data"].dtype == np.uint8


@pytest.mark.parametrize("folder", ["cifar-10-batches-py/", ""])
def test_cifar10_from_the_python_version(
    folder: str, tmp_path: Path, images: list[Image.Image], pixels: Pixels
) -> None:
    path = tmp_path / f"{folder}test_batch"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(python_2_batch(pixels, {b"labels": LABELS}))
    found = open_named("cifar10", tmp_path)
    assert [found.label(row) for row in range(12)] == LABELS
    assert found.classes is not None and found.classes[7] == "horse"
    assert found.templates is not None and len(found.templates) == 18
    for row, image in enumerate(images):
        assert (np.asarray(decode_image(found.image(row))) == np.asarray(image)).all()


def test_cifar10_from_the_binary_version(tmp_path: Path, images: list[Image.Image], pixels: Pixels) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    rows = b"".join(bytes([label]) + row.tobytes() for label, row in zip(LABELS, pixels, strict=True))
    (tmp_path / "cifar-10-batches-bin/test_batch.bin").write_bytes(rows)
    found = open_named("cifar10", tmp_path)
    assert [found.label(row) for row in range(12)] == LABELS
    assert (np.asarray(decode_image(found.image(11))) == np.asarray(images[11])).all()


def test_cifar100_has_fine_classes(tmp_path: Path, images: list[Image.Image], pixels: Pixels) -> None:
    fine = [99, *LABELS[1:]]
    (tmp_path / "python/cifar-100-python").mkdir(parents=True)
    batch = python_2_batch(pixels, {b"fine_labels": fine, b"coarse_labels": COARSE})
    (tmp_path / "python/cifar-100-python/test").write_bytes(batch)
    (tmp_path / "binary/cifar-100-binary").mkdir(parents=True)
    rows = zip(COARSE, fine, pixels, strict=True)
    content = b"".join(bytes([coarse, label]) + row.tobytes() for coarse, label, row in rows)
    (tmp_path / "binary/cifar-100-binary/test.bin").write_bytes(content)
    for version in ("python", "binary"):
        found = open_named("cifar100", tmp_path / version)
        assert [found.label(row) for row in range(12)] == fine
        assert (
            found.classes is not None and found.classes[99] == "worm" and found.classes[1] == "aquarium fish"
        )
        assert (np.asarray(decode_image(found.image(5))) == np.asarray(images[5])).all()


def test_a_folder_a_class(tmp_path: Path, write_folders: Callable[..., None]) -> None:
    write_folders(tmp_path / "test", class_folders(find_set("cifar100")), suffix="png")
    assert len(open_named("cifar100", tmp_path)) == 100


def test_real_photos(real_photos: Path, tmp_path: Path) -> None:
    sample = sorted((real_photos / "imagenet-sample/small").glob("*.jpg"))[:10]
    pictures = [Image.open(file).convert("RGB").resize((32, 32)) for file in sample]
    (tmp_path / "test_batch").write_bytes(python_2_batch(planes_of(pictures), {b"labels": list(range(10))}))
    found = open_named("cifar10", tmp_path)
    assert all(
        (np.asarray(decode_image(found.image(row))) == np.asarray(picture)).all()
        for row, picture in enumerate(pictures)
    )


def test_a_batch_that_is_cut(tmp_path: Path, pixels: Pixels) -> None:
    (tmp_path / "test_batch").write_bytes(python_2_batch(pixels, {b"labels": LABELS})[:5000])
    with pytest.raises(DataError, match="cannot be read as a pickle"):
        open_named("cifar10", tmp_path)
    (tmp_path / "test_batch").unlink()
    (tmp_path / "test_batch.bin").write_bytes(bytes(4000))
    with pytest.raises(DataError, match="no multiple of 3,073"):
        open_named("cifar10", tmp_path)


def test_a_label_that_is_no_class_is_counted_and_named(tmp_path: Path, pixels: Pixels) -> None:
    labels = [*LABELS[:-1], 10]
    rows = b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True))
    (tmp_path / "test_batch.bin").write_bytes(rows)
    found = open_named("cifar10", tmp_path)
    assert found.skipped == [("00011", "its label is 10, there are only 10 classes")]
    assert len(found) == 11


def test_no_damage_to_a_batch_raises_anything_else(tmp_path: Path, pixels: Pixels) -> None:
    whole = python_2_batch(pixels, {b"labels": LABELS})
    places = [*range(260), *range(len(whole) - 400, len(whole))]  # all but the pixels
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        batch = bytearray(whole)
        for place in random.choice(places, 2):
            batch[place] = random.integers(256)
        (tmp_path / "test_batch").write_bytes(batch)
        try:
            open_named("cifar10", tmp_path)
        except DataError:
            refused += 1
    assert refused > 100


def test_labels_that_do_not_fit_the_data(tmp_path: Path, pixels: Pixels) -> None:
    (tmp_path / "test_batch").write_bytes(python_2_batch(pixels, {b"labels": LABELS[:5]}))
    with pytest.raises(DataError, match=r"data of shape \[12, 3072\] and 5 labels"):
        open_named("cifar10", tmp_path)


def test_cifar100_given_as_cifar10(tmp_path: Path, pixels: Pixels) -> None:
    (tmp_path / "test_batch").write_bytes(python_2_batch(pixels, {b"fine_labels": LABELS}))
    with pytest.raises(DataError, match="no array `data` and list `labels`"):
        open_named("cifar10", tmp_path)
