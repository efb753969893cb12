"""Facts of karpathy.py and clip_kd.py, with photos of Flickr8k where they are real."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdx.core.errors import DataError
from kdx.data.named import open_named

CAPTIONS = [f"Caption {n} of a dog ." for n in range(7)]


def sentence(raw: str, imgid: int) -> dict[str, Any]:
    return {"tokens": raw.lower().split(), "raw": raw, "imgid": imgid, "sentid": imgid}


def coco_image(number: int, captions: list[str], split: str = "test") -> dict[str, Any]:
    return {
        "filepath": "val2014" if split != "train" else "train2014",
        "filename": f"COCO_val2014_{number:012d}.jpg",
        "imgid": number,
        "cocoid": number,
        "split": split,
        "sentids": [],
        "sentences": [sentence(raw, number) for raw in captions],
    }


@pytest.fixture
def coco(tmp_path: Path, make_photo: Callable[..., bytes]) -> Path:
    images = [
        coco_image(391895, CAPTIONS),
        coco_image(60623, CAPTIONS[:5]),
        coco_image(7, CAPTIONS[:5], "restval"),
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    (tmp_path / "val2014").mkdir()
    for number in (391895, 60623, 7):
        (tmp_path / "val2014" / f"COCO_val2014_{number:012d}.jpg").write_bytes(make_photo(number))
    return tmp_path


def test_coco_has_five_captions_of_the_test_split(coco: Path, make_photo: Callable[..., bytes]) -> None:
    found = open_named("coco", coco)
    assert found.keys == ["COCO_val2014_000000391895.jpg", "COCO_val2014_000000060623.jpg"]
    assert found.captions(0) == tuple(CAPTIONS[:5])  # the set has seven
    assert found.image(1) == make_photo(60623)
    assert found.protocol == "5 captions an image"
    assert (found.classes, found.label(0)) == (None, None)


def test_flickr30k_from_real_photos(real_photos: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    packed = sorted((real_photos / "flickr8k").glob("test-*.tar.gz"))[0]
    shutil.unpack_archive(packed, shards / "members")
    members = sorted((shards / "members").rglob("*.jpg"))[:20]
    root = tmp_path / "flickr30k"
    (root / "flickr30k-images").mkdir(parents=True)
    images = []
    for number, photo in enumerate(members):
        captions = json.loads(photo.with_suffix(".json").read_text())["captions"]
        shutil.copy(photo, root / "flickr30k-images" / f"{number}.jpg")
        images.append(
            {
                "filename": f"{number}.jpg",
                "split": "test",
                "sentences": [sentence(c, number) for c in captions],
            }
        )
    (root / "caption_datasets").mkdir()
    (root / "caption_datasets/dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    found = open_named("flickr30k", root)
    assert len(found) == 20 and found.protocol == "5 captions an image"
    assert found.image(3) == members[3].read_bytes()


def test_an_annotation_of_an_absent_image_is_counted_and_named(coco: Path) -> None:
    file = coco / "dataset_coco.json"
    parsed = json.loads(file.read_text())
    parsed["images"] += [coco_image(number, CAPTIONS) for number in range(100, 112)]
    file.write_text(json.dumps(parsed))
    with pytest.raises(DataError, match="only 2 of 14 images can be scored"):
        open_named("coco", coco)
    for number in range(101, 112):
        shutil.copy(
            coco / "val2014/COCO_val2014_000000060623.jpg", coco / f"val2014/COCO_val2014_{number:012d}.jpg"
        )
    found = open_named("coco", coco)
    assert found.skipped == [("COCO_val2014_000000000100.jpg", "the image is absent")]
    assert len(found) == 13
    parsed["images"][3]["filename"] = "x" * 300 + ".jpg"  # longer than a file system takes
    file.write_text(json.dumps(parsed))
    assert [reason for _, reason in open_named("coco", coco).skipped] == ["the image is absent"]


def test_annotations_without_images_say_where_these_are_looked_for(coco: Path) -> None:
    shutil.rmtree(coco / "val2014")
    with pytest.raises(
        DataError, match=r"none of the 2 images .* is there; looked for \{filepath\}/\{filename\}"
    ):
        open_named("coco", coco)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b'{"annotations": []}', "is not one of Karpathy's splits: KeyError 'images'"),
        (b'{"images": [{"split": "test", "filename": "a.jpg"}]}', "KeyError 'sentences'"),
        (b'{"images": "\xe9"}', "is not UTF-8 text"),
        (b'{"images": []}', "there are no images of coco"),
    ],
)
def test_files_that_are_no_split(coco: Path, content: bytes, message: str) -> None:
    (coco / "dataset_coco.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_named("coco", coco)


@pytest.mark.parametrize("as_json", [False, True])
def test_clip_kd_takes_the_first_caption(
    as_json: bool, tmp_path: Path, make_photo: Callable[..., bytes]
) -> None:
    every = {391895: ["First.", "Second."], 60623: [" Only one. "], 7: ["Not scored."]}
    saved = {key: json.dumps(texts) for key, texts in every.items()} if as_json else every
    torch.save(saved, tmp_path / "test_captions.pt")
    (tmp_path / "test_img_keys.tsv").write_text("60623\n391895\n")
    (tmp_path / "images/val2014").mkdir(parents=True)
    for number in (391895, 60623):
        (tmp_path / f"images/val2014/COCO_val2014_{number:012d}.jpg").write_bytes(make_photo(number))
        (tmp_path / f"images/{number}.jpg").write_bytes(make_photo(number + 1))
    coco = open_named("coco-clip-kd", tmp_path)
    assert coco.keys == ["60623", "391895"]
    assert [coco.captions(row) for row in range(2)] == [("Only one.",), ("First.",)]
    assert coco.protocol == "first caption"
    assert coco.image(0) == make_photo(60623)
    assert open_named("flickr30k-clip-kd", tmp_path).image(0) == make_photo(60624)


def test_ids_that_are_none(tmp_path: Path) -> None:
    torch.save({1: ["a dog"]}, tmp_path / "test_captions.pt")
    (tmp_path / "test_img_keys.tsv").write_text("1\none\n")
    with pytest.raises(DataError, match="line 2 is 'one', not an image id"):
        open_named("coco-clip-kd", tmp_path)


def test_captions_that_are_no_lists(tmp_path: Path) -> None:
    torch.save({1: 2}, tmp_path / "test_captions.pt")
    (tmp_path / "test_img_keys.tsv").write_text("1\n")
    with pytest.raises(DataError, match="no dictionary from image ids to captions"):
        open_named("coco-clip-kd", tmp_path)


def test_a_copy_in_shards_has_as_many_captions(
    tmp_path: Path, write_wds: Callable[..., None], make_photo: Callable[..., bytes]
) -> None:
    members = [("s0000000.jpg", make_photo(0)), ("s0000000.txt", "\n".join(CAPTIONS).encode())]
    write_wds(tmp_path, [members], dataset_type="retrieval\n")
    assert len(open_named("wds", tmp_path).captions(0)) == 7
    assert open_named("coco", tmp_path).captions(0) == tuple(CAPTIONS[:5])
    assert open_named("coco-clip-kd", tmp_path).captions(0) == tuple(CAPTIONS[:1])
