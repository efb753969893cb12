"""Facts of export/samples.py: which images and texts of a set the gate compares on."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import DataError
from kdx.export.samples import read_parity_samples

MakePhoto = Callable[..., bytes]


def _write(folder: Path, images: list[bytes], *, captions: bool = False) -> None:
    with tarfile.open(folder / "val-0.tar", "w") as archive:
        for row, image in enumerate(images):
            for extension, content in (("jpg", image), ("txt", b"text %d" % row)):
                if extension == "jpg" or captions:
                    header = tarfile.TarInfo(f"{row}.{extension}")
                    header.size = len(content)
                    archive.addfile(header, io.BytesIO(content))


def test_captions_are_the_texts(tmp_path: Path, make_photo: MakePhoto) -> None:
    _write(tmp_path, [make_photo(row) for row in range(6)], captions=True)
    samples = read_parity_samples(tmp_path, limit=3)
    assert len(samples.images) == 3 and samples.texts == ["text 0", "text 2", "text 4"]


def test_without_captions_the_prompts_of_the_classes_are_the_texts(
    tmp_path: Path, make_photo: MakePhoto
) -> None:
    _write(tmp_path, [make_photo(row) for row in range(6)])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "templates.txt").write_text("a {}\nthe {}\n")
    samples = read_parity_samples(tmp_path)
    assert len(samples.images) == 6 and samples.texts == ["a cat", "the cat", "a dog", "the dog"]
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError) as error:
        read_parity_samples(tmp_path)
    assert error.value.where == str(tmp_path)
