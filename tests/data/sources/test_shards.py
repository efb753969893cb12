"""Facts of kdx/data/sources/shards.py: what img2dataset wrote is read as it is, and packed anew."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from kdx.core.errors import DataError, UsageError
from kdx.data.convert import convert
from kdx.data.shards import Sample, open_split, shard_paths, write_shards
from kdx.data.sources.columns import Wanted
from kdx.data.sources.opening import open_source

MakePhoto = Callable[..., bytes]
WriteTar = Callable[[Path, Iterable[tuple[str, bytes]]], None]


@pytest.fixture
def downloaded(tmp_path: Path, make_photo: MakePhoto, write_tar: WriteTar) -> Path:
    """Two shards as img2dataset 1.x writes them, with its counts and tables beside them."""
    folder = tmp_path / "cc3m"
    folder.mkdir()
    for shard in range(2):
        members: list[tuple[str, bytes]] = []
        for row in range(10):
            key = f"{shard:05d}{row:04d}"
            said = {"caption": f"caption {key}", "url": "http://a/b.jpg", "key": key, "status": "success"}
            members += [
                (f"{key}.jpg", make_photo(10 * shard + row)),
                (f"{key}.json", json.dumps({**said, "sha256": "0" * 64, "exif": "{}"}).encode()),
                (f"{key}.txt", f"caption {key}".encode()),
            ]
        write_tar(folder / f"{shard:05d}.tar", members)
        (folder / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (folder / f"{shard:05d}_stats.json").write_text('{"count": 12, "successes": 10}')
    return folder


def test_numbered_shards_are_the_train_split(downloaded: Path) -> None:
    samples = open_split(downloaded, "train")
    assert len(samples) == 20 and samples.skipped == []
    assert samples[13].key == "000010003" and samples[13].captions == ("caption 000010003",)
    with pytest.raises(DataError, match="no val shards") as caught:
        open_split(downloaded, "val")
    assert f"kdx data convert {downloaded} --val 0.1 --out shards" in str(caught.value.remedy)


def test_numbers_are_sorted_as_numbers_and_names_with_a_split_go_first(
    tmp_path: Path, make_photo: MakePhoto
) -> None:
    for name in ("9", "10", "2", "a1"):
        (tmp_path / f"{name}.tar").write_bytes(b"")
    assert [path.name for path in shard_paths(tmp_path, "train")] == ["2.tar", "9.tar", "10.tar"]
    write_shards(tmp_path / "one", "train", [Sample("a", make_photo(1), ("x",), None)])
    (tmp_path / "one" / "train-00000.tar").rename(tmp_path / "train-00000.tar")
    assert [path.name for path in shard_paths(tmp_path, "train")] == ["train-00000.tar"]


def test_a_share_of_downloaded_shards_is_held_out(downloaded: Path, tmp_path: Path) -> None:
    result = convert(open_source([downloaded], [], Wanted()), tmp_path / "out", val=0.3)
    assert sum(images for images, _ in result.splits.values()) == 20 and result.splits.keys() == {
        "train",
        "val",
    }
    before = {sample.key: sample for sample in open_split(downloaded, "train")}
    after = [sample for split in ("train", "val") for sample in open_split(tmp_path / "out", split)]
    assert {sample.key: sample for sample in after} == before


def test_shards_of_kdx_keep_their_splits_and_class_indices(tmp_path: Path, make_photo: MakePhoto) -> None:
    source = tmp_path / "set"
    write_shards(source, "train", [Sample("a", make_photo(1), ("x", "y"), 1)])
    write_shards(source, "val", [Sample("a", make_photo(2), (), 2)])
    (source / "classes.txt").write_text("crane\ncat\ncrane\n")  # two of one name, as ImageNet has
    convert(open_source([source], [], Wanted()), tmp_path / "out")
    assert (tmp_path / "out" / "classes.txt").read_text() == "crane\ncat\ncrane\n"
    assert list(open_split(tmp_path / "out", "train")) == list(open_split(source, "train"))
    (val,) = open_split(tmp_path / "out", "val", need_captions=False)
    assert (val.image, val.captions, val.label) == (make_photo(2), (), 2)
    with pytest.raises(UsageError, match=r"its own split \(val: 1 images\)"):
        convert(open_source([source], [], Wanted()), tmp_path / "again", val=0.5)


def test_bad_samples_are_named_with_their_shard(
    tmp_path: Path, make_photo: MakePhoto, write_tar: WriteTar
) -> None:
    members = [
        (f"{n}.{kind}", make_photo(n) if kind == "jpg" else b"x")
        for n in range(12)
        for kind in ("jpg", "txt")
    ]
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "00000.tar", [*members, ("alone.txt", b"x")])
    result = convert(open_source([tmp_path / "in"], [], Wanted()), tmp_path / "out")
    assert result.num_left_out == 1 and result.left_out[0][0] == "00000.tar: alone"
    assert result.splits == {"train": (12, 12)}


def test_tars_with_other_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"photos\.tar has not the name"):
        open_source([tmp_path], [], Wanted())
