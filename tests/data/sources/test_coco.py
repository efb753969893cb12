"""Facts of kdx/data/sources/coco.py: COCO's captions and Karpathy's splits in their published structure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdx.core.errors import DataError
from kdx.data.convert import Converted, convert
from kdx.data.shards import open_split
from kdx.data.sources.columns import Wanted
from kdx.data.sources.opening import open_source

MakePhoto = Callable[..., bytes]


def _convert(tmp_path: Path, document: Any) -> Converted:
    file = tmp_path / "annotations.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return convert(open_source([tmp_path / "images"], [file], Wanted()), tmp_path / "out")


def _coco(count: int) -> dict[str, Any]:
    """As captions_val2017.json is; its annotations are not sorted by image."""
    images = [
        {
            "license": 4,
            "file_name": f"{n:012d}.jpg",
            "height": 46,
            "width": 40,
            "id": n,
            "coco_url": "http://a",
        }
        for n in range(count)
    ]
    annotations = [
        {"image_id": n, "id": 100 * k + n, "caption": f"caption {k} of {n}.\n"}
        for k in range(5)
        for n in range(count)
    ]
    info = {"description": "COCO 2017 Dataset", "year": 2017}
    return {"info": info, "licenses": [{"id": 1}], "images": images, "annotations": annotations}


def _photos(folder: Path, make_photo: MakePhoto, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(make_photo(number))


def test_captions_of_coco_are_grouped_by_image(tmp_path: Path, make_photo: MakePhoto) -> None:
    _photos(tmp_path / "images", make_photo, [f"{n:012d}.jpg" for n in range(20)])
    assert _convert(tmp_path, _coco(20)).splits == {"train": (20, 100)}
    samples = open_split(tmp_path / "out", "train")
    assert samples.keys[3] == f"{3:012d}" and samples[3].image == make_photo(3)
    assert samples[3].captions == tuple(f"caption {k} of 3." for k in range(5))


def test_annotations_of_absent_images_and_images_without_one_are_named(
    tmp_path: Path, make_photo: MakePhoto
) -> None:
    document = _coco(30)
    del document["images"][7]
    document["annotations"] = [
        a for a in document["annotations"] if a["image_id"] != 8 and a["id"] % 100 != a["id"]
    ] + [{"image_id": 7, "id": 1, "caption": "x"}]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] != 7 or a["id"] == 1]
    _photos(tmp_path / "images", make_photo, [f"{n:012d}.jpg" for n in range(29)])
    result = _convert(tmp_path, document)
    assert result.num_left_out == 3 and result.splits == {"train": (27, 108)}
    assert {reason for _, reason in result.left_out} == {
        "image 7 is not among the images",
        "has neither a caption nor a class",
        "there is no such file",
    }


@pytest.mark.parametrize("with_folder", [True, False])
def test_splits_of_karpathy_are_kept(tmp_path: Path, make_photo: MakePhoto, with_folder: bool) -> None:
    images: list[dict[str, Any]] = []
    for number, split in enumerate(["train", "restval", "val", "test"]):
        sentences = [{"tokens": ["a"], "raw": f"{split} {k}", "imgid": number, "sentid": k} for k in range(5)]
        images.append({"filename": f"{number}.jpg", "imgid": number, "split": split, "sentences": sentences})
        if with_folder:
            images[-1] |= {"filepath": "val2014", "cocoid": number}
    _photos(
        tmp_path / "images", make_photo, [f"{'val2014/' if with_folder else ''}{n}.jpg" for n in range(4)]
    )
    result = _convert(tmp_path, {"images": images, "dataset": "coco"})
    assert result.splits == {"train": (2, 10), "val": (1, 5), "test": (1, 5)}
    assert open_split(tmp_path / "out", "val")[0].captions == tuple(f"val {k}" for k in range(5))


def test_half_a_character_in_json_is_named_and_does_not_stop_it(
    tmp_path: Path, make_photo: MakePhoto
) -> None:
    document = _coco(20)
    document["images"].append({"id": "odd", "file_name": "\ud800.jpg"})
    document["annotations"] += [
        {"image_id": "odd", "caption": "x"},
        {"image_id": document["images"][0]["id"], "caption": "\ud800"},
    ]
    _photos(tmp_path / "images", make_photo, [image["file_name"] for image in document["images"][:-1]])
    result = _convert(tmp_path, document)
    assert [image for image, _ in result.left_out] == ["\ud800.jpg"]
    assert [note for _, note in result.notes] == ["a caption is not Unicode text"]


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ('[{"file_name": "a", "caption": "x"}]', "is a JSON list"),
        ('{"images": [{"file_name": "a"', "breaks off or is malformed near character"),
        ('{"images": [{"file_name": "a"}} ', "breaks off or is malformed"),
        ("<html>", "no whole JSON object"),
        ({"images": []}, "no JSON of a known kind"),
        ({"annotations": [{"caption": "x"}]}, "no JSON of a known kind"),
        ({"images": [{"file_name": "a", "id": 1}], "annotations": [{"bbox": [1]}]}, "no captions among"),
        ({"images": [{"file_name": "a"}], "annotations": [{"caption": "x"}]}, "images[0] has no 'id'"),
        ({"images": [{"filename": "a", "sentences": ["x"], "split": "val"}]}, "has no 'raw'"),
    ],
)
def test_other_json_is_refused_in_one_line(tmp_path: Path, document: Any, what: str) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError) as caught:
        _convert(tmp_path, document)
    assert what in caught.value.what and "\n" not in str(caught.value) and caught.value.remedy
