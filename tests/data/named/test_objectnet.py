from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kdx.core.errors import DataError
from kdx.core.images import decode_image
from kdx.data.named import open_named
from kdx.data.named.table import class_folders, find_set

RED = (255, 0, 0)


def framed(size: int = 20) -> bytes:
    """A blue picture with ObjectNet's red frame."""
    picture = Image.new("RGB", (size, size), RED)
    picture.paste((0, 0, 200), (2, 2, size - 2, size - 2))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def objectnet(tmp_path: Path) -> Path:
    """The 113 classes and two of those that are not in ImageNet."""
    for folder in [*class_folders(find_set("objectnet")), "coaster", "squeegee"]:
        (tmp_path / "objectnet-1.0/images" / folder).mkdir(parents=True)
        (tmp_path / "objectnet-1.0/images" / folder / "0a1b.png").write_bytes(framed())
    return tmp_path


def test_classes_that_are_not_in_imagenet_are_left_out(objectnet: Path) -> None:
    found = open_named("objectnet", objectnet)
    assert len(found) == 113
    assert found.classes is not None and len(found.classes) == 113
    assert not any("coaster" in key or "squeegee" in key for key in found.keys)
    # the folder's name is not always the class's
    row = found.keys.index("objectnet-1.0/images/full_sized_towel/0a1b.png")
    label = found.label(row)
    assert label is not None and found.classes[label] == "bath towel"


def test_the_red_frame_is_cut(objectnet: Path) -> None:
    found = open_named("objectnet", objectnet)
    image = decode_image(found.image(0))
    assert image.size == (16, 16)
    assert image.getcolors() == [(256, (0, 0, 200))]


def test_an_image_no_larger_than_its_frame_is_bad(objectnet: Path, make_photo: Callable[..., bytes]) -> None:
    (objectnet / "objectnet-1.0/images/alarm_clock/0a1b.png").write_bytes(framed(4))
    found = open_named("objectnet", objectnet)
    with pytest.raises(DataError, match="border of 2 pixels"):
        found.image(0)
