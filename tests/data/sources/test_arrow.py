"""Facts of kdx/data/sources/arrow.py: Parquet and Arrow as `datasets` writes them, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdx.core.errors import DataError, UsageError
from kdx.data.convert import Converted, convert
from kdx.data.shards import open_split
from kdx.data.sources.columns import Wanted
from kdx.data.sources.opening import open_source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MakePhoto = Callable[..., bytes]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None) -> None:
    """In small row groups and batches, so that reading crosses their borders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=4)
        return
    kind = pa.ipc.new_file if "file" in path.name else pa.ipc.new_stream
    with kind(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


def _images(photos: list[bytes | None]) -> Any:
    return pa.array([{"bytes": photo, "path": f"{n}.jpg"} for n, photo in enumerate(photos)], IMAGE)


def _convert(place: Path, out: Path, wanted: Wanted | None = None, **options: Any) -> Converted:
    return convert(open_source([place], [], wanted or Wanted()), out, **options)


@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "data.arrow", "file.arrow"])
def test_images_and_captions_are_read_from_each_format(
    tmp_path: Path, make_photo: MakePhoto, name: str
) -> None:
    photos = [make_photo(n) for n in range(30)]
    _write(tmp_path / name, {"image": _images([*photos]), "caption": [f"c{n}" for n in range(30)]})
    _convert(tmp_path / name, tmp_path / "out", val=0.4, samples_per_shard=5)
    read = {s.key: s for split in ("train", "val") for s in open_split(tmp_path / "out", split)}
    assert [read[f"{n:09d}"].image for n in range(30)] == photos
    assert [read[f"{n:09d}"].captions for n in range(30)] == [(f"c{n}",) for n in range(30)]


def test_a_downloaded_data_set_keeps_its_splits_classes_and_order(
    tmp_path: Path, make_photo: MakePhoto
) -> None:
    features = {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}
    for name, first in (
        ("train-00000-of-00002", 0),
        ("train-00001-of-00002", 12),
        ("test-00000-of-00001", 24),
    ):
        images = pa.array([make_photo(n) for n in range(first, first + 12)], pa.binary())
        labels = [0, 1] * 5 + [1, -1]
        _write(tmp_path / "set/data" / f"{name}.parquet", {"img": images, "label": labels}, features)
    result = _convert(tmp_path / "set", tmp_path / "out")
    assert (tmp_path / "out/classes.txt").read_text() == "dog\ncat\n"
    assert result.splits == {"train": (22, 0), "test": (11, 0)} and result.num_left_out == 3
    train = open_split(tmp_path / "out", "train", need_captions=False)
    assert [s.label for s in train] == ([0, 1] * 5 + [1]) * 2 and train[11].image == make_photo(12)


@pytest.mark.parametrize(
    "captions",
    [
        {"captions": [["a", "b"], ["c", "d"]]},
        {"caption_0": ["a", "c"], "caption_1": ["b", "d"]},
    ],
)
def test_several_captions_of_an_image_are_all_kept(
    tmp_path: Path, make_photo: MakePhoto, captions: dict[str, Any]
) -> None:
    _write(tmp_path / "a.parquet", {"image": _images([make_photo(1), make_photo(2)]), **captions})
    _convert(tmp_path / "a.parquet", tmp_path / "out")
    assert [s.captions for s in open_split(tmp_path / "out", "train")] == [("a", "b"), ("c", "d")]


def test_an_image_without_bytes_is_named(tmp_path: Path, make_photo: MakePhoto) -> None:
    photos = [None if n == 7 else make_photo(n) for n in range(20)]
    _write(tmp_path / "a.parquet", {"image": _images(photos), "text": ["x"] * 20})
    result = _convert(tmp_path / "a.parquet", tmp_path / "out")
    assert result.left_out == [("a.parquet, row 7", "there are no bytes, only the path 7.jpg")]
    assert result.splits == {"train": (19, 19)}


@pytest.mark.parametrize(
    ("columns", "what", "remedy"),
    [
        ({"url": ["https://a/b"], "caption": ["x"]}, "'url' has URLs", "kdx data prepare"),
        ({"image": ["https://a/b"], "caption": ["x"]}, "'image' has URLs", "kdx data prepare"),
        ({"image": ["b.jpg"], "caption": ["x"]}, "has names of images", "CSV"),
        ({"photo_of_it": ["b"], "caption": ["x"]}, "its columns are: photo_of_it, caption", "--image-column"),
        ({"image": [b"x"], "width": [3]}, "its columns are: image, width", "--caption-column"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, columns: dict[str, Any], what: str, remedy: str) -> None:
    _write(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError) as caught:
        open_source([tmp_path / "a.parquet"], [], Wanted())
    assert what in caught.value.what and remedy in str(caught.value.remedy)


def test_columns_are_named_by_the_user(tmp_path: Path, make_photo: MakePhoto) -> None:
    photos = [pa.array([make_photo(n)], pa.binary()) for n in (1, 2)]
    _write(tmp_path / "a.parquet", {"small": photos[0], "large": photos[1], "alt": ["x"]})
    _convert(tmp_path / "a.parquet", tmp_path / "out", Wanted(image="large", caption="alt"))
    assert open_split(tmp_path / "out", "train")[0].image == make_photo(2)
    with pytest.raises(UsageError, match="no column 'huge'"):
        open_source([tmp_path / "a.parquet"], [], Wanted(image="huge"))


def test_files_that_are_none_or_differ_are_refused(tmp_path: Path, make_photo: MakePhoto) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"bad\.parquet: cannot be read"):
        open_source([tmp_path / "bad.parquet"], [], Wanted())
    _write(tmp_path / "set/a.parquet", {"image": _images([make_photo(1)]), "text": ["x"]})
    _write(tmp_path / "set/b.parquet", {"image": _images([make_photo(1)]), "caption": ["x"]})
    with pytest.raises(DataError, match=r"b\.parquet: its column 'text' is not that of a\.parquet"):
        _convert(tmp_path / "set", tmp_path / "out")


def test_damage_behind_the_beginning_is_one_line(tmp_path: Path, make_photo: MakePhoto) -> None:
    path = tmp_path / "a.parquet"
    _write(path, {"image": _images([make_photo(n, 200) for n in range(30)]), "caption": ["c"] * 30})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = b"U" * 20_000
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read") as caught:
        _convert(path, tmp_path / "out")
    assert caught.value.where == str(path) and "\n" not in caught.value.what


def test_a_label_that_is_none_of_the_files_classes_is_named(tmp_path: Path, make_photo: MakePhoto) -> None:
    features = {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}
    columns = {"image": _images([make_photo(n) for n in range(20)]), "label": [7, *([0, 1] * 10)[1:]]}
    _write(tmp_path / "a.parquet", columns, features)
    result = _convert(tmp_path / "a.parquet", tmp_path / "out")
    assert result.left_out == [("a.parquet, row 0", "its class is '7', the file has 0 to 1")]
    assert result.splits == {"train": (19, 0)}


def test_lists_of_lists_are_no_captions_and_lists_no_splits(tmp_path: Path, make_photo: MakePhoto) -> None:
    images = _images([make_photo(n) for n in range(3)])
    _write(tmp_path / "a.parquet", {"image": images, "caption": [[["a"]]] * 3})
    with pytest.raises(DataError, match=r"its column 'caption' holds list<.*, not text"):
        _convert(tmp_path / "a.parquet", tmp_path / "out")
    _write(tmp_path / "b.parquet", {"image": images, "caption": ["a"] * 3, "split": [["train"]] * 3})
    assert _convert(tmp_path / "b.parquet", tmp_path / "out").splits == {"train": (3, 3)}


@pytest.mark.parametrize(
    ("columns", "wanted", "what"),
    [
        ({"label": [[1, 2]]}, Wanted(), "'label' holds list<.*>, not one class a row"),
        ({"label": [{"id": 1}]}, Wanted(), "'label' holds struct<.*>, not one class a row"),
        ({"caption": ["a"], "ids": [[1]]}, Wanted(label="ids"), "'ids' holds list<.*>, not one class a row"),
        ({"caption": [3], "text": ["a"]}, Wanted(caption="caption"), "'caption' holds int64, not text"),
    ],
)
def test_a_column_of_another_kind_is_said_with_what_it_holds(
    tmp_path: Path, make_photo: MakePhoto, columns: dict[str, Any], wanted: Wanted, what: str
) -> None:
    _write(tmp_path / "a.parquet", {"image": _images([make_photo(1)]), **columns})
    with pytest.raises(DataError, match=what):
        open_source([tmp_path / "a.parquet"], [], wanted)


def test_a_list_of_images_is_no_image(tmp_path: Path) -> None:
    _write(tmp_path / "a.parquet", {"image": [[b"x", b"y"]], "caption": ["a"]})
    with pytest.raises(DataError, match=r"its column 'image' holds list<.*>, not an image"):
        open_source([tmp_path / "a.parquet"], [], Wanted())


def test_classes_that_pandas_made_floats_are_integers_and_gaps(tmp_path: Path, make_photo: MakePhoto) -> None:
    images = _images([make_photo(n) for n in range(3)])
    columns = {"image": images, "caption": ["a"] * 3, "label": [1.0, float("nan"), None]}
    _write(tmp_path / "a.parquet", columns)
    _convert(tmp_path / "a.parquet", tmp_path / "out")
    assert [sample.label for sample in open_split(tmp_path / "out", "train")] == [1, None, None]


def test_labels_of_another_kind_do_no_harm_beside_captions(tmp_path: Path, make_photo: MakePhoto) -> None:
    columns = {
        "image": _images([make_photo(1)]),
        "caption": pa.array(["a"], pa.string_view()),
        "label": [[1]],
    }
    _write(tmp_path / "a.parquet", columns)
    _convert(tmp_path / "a.parquet", tmp_path / "out")
    (sample,) = open_split(tmp_path / "out", "train")
    assert (sample.captions, sample.label) == (("a",), None)
