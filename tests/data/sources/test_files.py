"""Facts of kdx/data/sources/files.py: where an image is looked for, and what is no file."""

from pathlib import Path

import pytest

from kdx.data.sources.files import ImageFiles
from kdx.data.sources.source import Unusable


def test_the_first_folder_that_has_an_image_counts(tmp_path: Path) -> None:
    for folder, content in (("one", b"1"), ("two", b"2")):
        (tmp_path / folder / "a").mkdir(parents=True)
        (tmp_path / folder / "a" / "1.jpg").write_bytes(content)
    files = ImageFiles([tmp_path / "one", tmp_path / "two"])
    assert files.read("a/1.jpg") == b"1" and files.read("a\\1.jpg") == b"1"
    (tmp_path / "one" / "a" / "1.jpg").unlink()
    (tmp_path / "one" / "a").rmdir()
    (tmp_path / "one" / "a").write_bytes(b"a file where the other has a folder")
    assert files.read("a/1.jpg") == b"2"


@pytest.mark.parametrize(
    ("target", "said"), [("/dev/zero", "it is no file"), (".", "it is no file"), ("gone", "no such file")]
)
def test_what_is_no_file_is_not_read_for_ever(tmp_path: Path, target: str, said: str) -> None:
    (tmp_path / "1.jpg").symlink_to(target)
    with pytest.raises(Unusable, match=said):
        ImageFiles([tmp_path]).read("1.jpg")
