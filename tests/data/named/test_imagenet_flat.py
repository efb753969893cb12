from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from kdx.core.errors import DataError
from kdx.data.named import open_named

# the first photos of the published list, which all of its spellings agree on: name, synset, label, the devkit's number
KNOWN = [
    ("ILSVRC2012_val_00000001", "n01751748", 65, 490),
    ("ILSVRC2012_val_00000002", "n09193705", 970, 361),
    ("ILSVRC2012_val_00000003", "n02105855", 230, 171),
    ("ILSVRC2012_val_00000004", "n04263257", 809, 822),
    ("ILSVRC2012_val_00000005", "n03125729", 516, 297),
    ("ILSVRC2012_val_00000006", "n01735189", 57, 482),
]


def write_photos(place: Path, picture: bytes, count: int = len(KNOWN)) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, *_ in KNOWN[:count]:
        (place / f"{name}.JPEG").write_bytes(picture)


def write_kaggle(root: Path) -> None:
    rows = "".join(f"{name},{synset} 1 2 3 4 \n" for name, synset, *_ in reversed(KNOWN))
    (root / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")


def write_devkit(root: Path) -> None:
    folder = root / "ILSVRC2012_devkit_t12/data"
    folder.mkdir(parents=True)
    text = "".join(f"{number}\n" for *_, number in KNOWN)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(text)
    rows = np.array(
        [(number, synset, "words") for _, synset, _, number in KNOWN],
        dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")],
    )
    savemat(folder / "meta.mat", {"synsets": rows.reshape(-1, 1)})


def write_caffe(root: Path) -> None:
    (root / "val.txt").write_text("".join(f"{name}.JPEG {label}\n" for name, _, label, _ in KNOWN))


@pytest.mark.parametrize("write", [write_kaggle, write_devkit, write_caffe])
@pytest.mark.parametrize("place", [".", "val", "ILSVRC/Data/CLS-LOC/val"])
def test_each_list_of_classes_gives_the_same_labels(
    write: Callable[[Path], None], place: str, tmp_path: Path, make_photo: Callable[..., bytes]
) -> None:
    write_photos(tmp_path / place, make_photo(0))
    write(tmp_path)
    found = open_named("imagenet", tmp_path)
    assert found.keys == [name for name, *_ in KNOWN]
    assert [found.label(row) for row in range(len(found))] == [label for _, _, label, _ in KNOWN]
    assert found.classes is not None and found.classes[809] == "soup bowl"
    assert not found.skipped


def test_photos_without_a_list_of_classes(tmp_path: Path, make_photo: Callable[..., bytes]) -> None:
    write_photos(tmp_path, make_photo(0))
    with pytest.raises(DataError, match="nothing says what they show") as raised:
        open_named("imagenet", tmp_path)
    assert "devkit" in str(raised.value.remedy)


def test_the_devkits_numbers_are_no_labels(tmp_path: Path, make_photo: Callable[..., bytes]) -> None:
    write_photos(tmp_path, make_photo(0))
    write_devkit(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat").unlink()
    with pytest.raises(DataError, match="is missing beside the ground truth"):
        open_named("imagenet", tmp_path)


def test_an_absent_photo_is_counted_and_named(tmp_path: Path, make_photo: Callable[..., bytes]) -> None:
    more = [(f"ILSVRC2012_val_{number:08d}", "n01440764") for number in range(7, 20)]
    write_photos(tmp_path, make_photo(0))
    for name, _ in more[1:]:
        (tmp_path / f"{name}.JPEG").write_bytes(make_photo(0))
    write_kaggle(tmp_path)
    with (tmp_path / "LOC_val_solution.csv").open("a") as file:
        file.writelines(f"{name},{synset} 1 2 3 4 \n" for name, synset in more)
    found = open_named("imagenet", tmp_path)
    assert found.skipped == [("ILSVRC2012_val_00000007", "the image is absent")]
    assert len(found) == 18


def test_most_photos_absent(tmp_path: Path, make_photo: Callable[..., bytes]) -> None:
    write_photos(tmp_path, make_photo(0), 2)
    write_caffe(tmp_path)
    with pytest.raises(
        DataError, match=r"only 2 of 6 images can be scored \(ILSVRC2012_val_00000003: the image"
    ):
        open_named("imagenet", tmp_path)


@pytest.mark.parametrize("label", ["1000", "-1", "²", "9" * 5000])
def test_a_label_that_is_no_class(tmp_path: Path, make_photo: Callable[..., bytes], label: str) -> None:
    write_photos(tmp_path, make_photo(0), 1)
    (tmp_path / "val.txt").write_text(f"ILSVRC2012_val_00000001.JPEG {label}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1 is .*, not a photo and a label of 0 to 999"):
        open_named("imagenet", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na,1\n", "its columns are file, label, not ImageId, PredictionString"),
        ('"file\nname",label\na,1\n', "its columns are file name, label, not ImageId, PredictionString"),
        ('ImageId,PredictionString\na,"' + "b\n" * 10**5, "a quote that opens in line 2 is never closed"),
    ],
)
def test_another_table_is_said_in_one_line(
    tmp_path: Path, make_photo: Callable[..., bytes], content: str, message: str
) -> None:
    write_photos(tmp_path, make_photo(0))
    (tmp_path / "LOC_val_solution.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        open_named("imagenet", tmp_path)
