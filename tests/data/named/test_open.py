from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import DataError, UsageError
from kdx.data.named import open_named
from kdx.data.named.table import class_folders, find_set

Writer = Callable[..., None]


@pytest.fixture
def adversarial(tmp_path: Path, write_folders: Writer) -> Path:
    write_folders(tmp_path / "set", class_folders(find_set("imagenet-a")))
    return tmp_path / "set"


def test_a_folder_without_the_set_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        open_named("imagenet-a", tmp_path)
    assert "imagenet-a/n01498041/*.jpg" in raised.value.what
    assert "test/nshards.txt" in raised.value.what
    assert "natural-adv-examples" in str(raised.value.remedy)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_named("imagenet", tmp_path / "absent")


def test_own_names_and_templates(adversarial: Path, tmp_path: Path) -> None:
    names, templates = tmp_path / "names.txt", tmp_path / "templates.txt"
    names.write_text("".join(f"name {n}\n" for n in range(200)))
    templates.write_text("ein Foto von {}.\nKunst: {c}\n")
    found = open_named("imagenet-a", adversarial, classes=names, templates=templates)
    assert found.classes is not None and found.classes[199] == "name 199"
    assert found.templates == ["ein Foto von {}.", "Kunst: {}"]


def test_too_few_names(adversarial: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(UsageError, match="names 2 classes, the set has 200"):
        open_named("imagenet-a", adversarial, classes=tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\n\xe9l\xe9phant\n", r"is not UTF-8 text \(byte 0xe9 in line 2\)"),
        (b"cat\n\ndog\n", r"labels\[1\] is blank"),
        (b"", "labels is empty"),
    ],
)
def test_names_that_are_no_list(adversarial: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        open_named("imagenet-a", adversarial, classes=tmp_path / "names.txt")
    assert raised.value.where == str(tmp_path / "names.txt")


def test_templates_without_a_place_for_the_class(adversarial: Path, tmp_path: Path) -> None:
    (tmp_path / "templates.txt").write_text("a photo\n")
    with pytest.raises(DataError, match=r"has no \{\} where the label goes"):
        open_named("imagenet-a", adversarial, templates=tmp_path / "templates.txt")


def test_names_in_another_order_are_refused(tmp_path: Path, write_folders: Writer) -> None:
    write_folders(tmp_path / "set", ["cat", "dog", "horse"])
    (tmp_path / "names.txt").write_text("dog\ncat\nhorse\n")
    with pytest.raises(UsageError, match="line 1 is 'dog', but class 0 of the set is 'cat'"):
        open_named("folder", tmp_path / "set", classes=tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("tabby\ndog\nmare\n")
    assert open_named("folder", tmp_path / "set", classes=tmp_path / "names.txt").classes == [
        "tabby",
        "dog",
        "mare",
    ]


def test_the_digest_tells_another_image_name_or_caption(tmp_path: Path, write_folders: Writer) -> None:
    write_folders(tmp_path / "set", ["cat", "dog"], each=2)
    first = open_named("folder", tmp_path / "set").digest
    assert open_named("folder", tmp_path / "set").digest == first
    digests = {first}
    (tmp_path / "names.txt").write_text("tabby\nhound\n")
    digests.add(open_named("folder", tmp_path / "set", classes=tmp_path / "names.txt").digest)
    image = tmp_path / "set" / "cat" / "cat_00000000.JPEG"
    image.write_bytes(image.read_bytes() + b"more")
    digests.add(open_named("folder", tmp_path / "set").digest)
    for caption in ("one", "another"):
        (tmp_path / "set.csv").write_text(f"title,filepath\n{caption},set/cat/cat_00000000.JPEG\n")
        digests.add(open_named("csv", tmp_path / "set.csv").digest)
    assert len(digests) == 5


def test_names_with_line_breaks_are_shown_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text('title,filepath\na,"one\nname.jpg"\nb,"other\nname.jpg"\n')
    with pytest.raises(DataError, match=r"one name\.jpg: the image is absent") as raised:
        open_named("csv", tmp_path / "set.csv")
    assert "\n" not in str(raised.value)
