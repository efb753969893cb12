from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.core.errors import DataError
from kdx.data.named import open_named
from kdx.data.named.table import class_folders, find_set

Writer = Callable[..., None]


def test_classification(tmp_path: Path, write_wds: Writer, make_photo: Callable[..., bytes]) -> None:
    kinds = {"jpg": "JPEG", "webp": "WEBP", "png": "PNG"}
    pictures = {suffix: make_photo(3, kind=kind) for suffix, kind in kinds.items()}
    shards = [
        [("s0000000.cls", b"1"), ("s0000000.jpg", pictures["jpg"])],
        [("s0000001.cls", b"0"), ("s0000001.webp", pictures["webp"])],
        [("s0000002.cls", b"1"), ("s0000002.png", pictures["png"])],
    ]
    write_wds(
        tmp_path,
        shards,
        classnames="sea snake\ntench\n",
        zeroshot_classification_templates="a photo of a {c}.\nart of {c}.\n",
    )
    found = open_named("wds", tmp_path)
    assert found.classes == ["sea snake", "tench"]
    assert found.templates == ["a photo of a {}.", "art of {}."]
    assert [found.label(row) for row in range(3)] == [1, 0, 1]
    assert [found.image(row) for row in range(3)] == list(pictures.values())
    assert found.keys == ["s0000000", "s0000001", "s0000002"]


def test_shards_count_as_numbers(tmp_path: Path, write_wds: Writer, make_photo: Callable[..., bytes]) -> None:
    picture = make_photo(0)
    shards = [[(f"s{n:07d}.cls", b"0"), (f"s{n:07d}.jpg", picture)] for n in range(12)]
    write_wds(tmp_path, shards, classnames="tench\n")
    assert open_named("wds", tmp_path).keys == [f"s{n:07d}" for n in range(12)]


def test_retrieval_has_a_caption_a_line(
    tmp_path: Path, write_wds: Writer, make_photo: Callable[..., bytes]
) -> None:
    text = "A dog runs.\nEin Hund läuft.\n".encode()
    write_wds(
        tmp_path, [[("s0000000.jpg", make_photo(0)), ("s0000000.txt", text)]], dataset_type="retrieval\n"
    )
    found = open_named("wds", tmp_path)
    assert found.captions(0) == ("A dog runs.", "Ein Hund läuft.")
    assert (found.classes, found.label(0), found.protocol) == (None, None, "2 captions an image")


def test_a_published_set_opens_by_its_name(
    tmp_path: Path, write_wds: Writer, make_photo: Callable[..., bytes]
) -> None:
    members = [("s0000000.jpg", make_photo(0)), ("s0000000.cls", b"199")]
    names = list(class_folders(find_set("imagenet-a")).values())
    write_wds(tmp_path, [members], classnames="\n".join(["another edition's", *names[1:]]))
    found = open_named("imagenet-a", tmp_path)
    assert found.label(0) == 199
    assert (
        found.templates is not None and len(found.templates) == 80
    )  # where the copy brings none, the set's own
    with pytest.raises(DataError, match="has 200 classes, imagenet 1,000"):
        open_named("imagenet", tmp_path)
    with pytest.raises(DataError, match="has other classes than imagenet-r"):
        open_named("imagenet-r", tmp_path)


def test_a_label_that_is_no_class_is_counted_and_named(
    tmp_path: Path, write_wds: Writer, make_photo: Callable[..., bytes]
) -> None:
    labels = [0] * 19 + [7]
    members = [
        (f"s{n:07d}.{suffix}", content)
        for n, label in enumerate(labels)
        for suffix, content in (("jpg", make_photo(0)), ("cls", str(label).encode()))
    ]
    write_wds(tmp_path, [members], classnames="tench\ngoldfish\n")
    found = open_named("wds", tmp_path)
    assert len(found) == 19
    assert found.skipped == [("s0000019", "its label is 7, there are only 2 classes")]


def test_labels_without_names_want_a_file(
    tmp_path: Path, write_wds: Writer, make_photo: Callable[..., bytes]
) -> None:
    write_wds(tmp_path, [[("s0000000.jpg", make_photo(0)), ("s0000000.cls", b"1")]])
    with pytest.raises(DataError, match="the labels are numbers") as raised:
        open_named("wds", tmp_path)
    assert "--classes" in str(raised.value.remedy)
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    assert open_named("wds", tmp_path, classes=names).classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("number", "message"),
    [("3\n", "2 of 3 shards are missing, such as 1.tar"), ("many\n", "number of shards")],
)
def test_a_set_that_is_not_whole(
    number: str, message: str, tmp_path: Path, write_wds: Writer, make_photo: Callable[..., bytes]
) -> None:
    write_wds(tmp_path, [[("s0000000.jpg", make_photo(0)), ("s0000000.cls", b"0")]], classnames="tench\n")
    (tmp_path / "test/nshards.txt").write_text(number)
    with pytest.raises(DataError, match=message):
        open_named("wds", tmp_path)


def test_several_labels_an_image_are_refused(tmp_path: Path, write_wds: Writer) -> None:
    write_wds(tmp_path, [[]], dataset_type="multilabel\n")
    with pytest.raises(DataError, match="multilabel"):
        open_named("wds", tmp_path)
