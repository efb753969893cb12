"""Facts of kdx/data/index/: an index is built once, says what its shard holds, and is trusted for no other."""

import hashlib
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

from kdx.core.errors import DataError, SetupError
from kdx.data.index import building, opening
from kdx.data.index.opening import find_index, mapped_index, open_indexes
from kdx.data.index.shard_index import CONTEXT, is_undamaged
from kdx.data.places import index_beside
from kdx.data.shards import Sample, open_split, write_shards
from kdx.models.clip_vocabulary import clip_tokenizer

MakeSamples = Callable[..., list[Sample]]
MakePhoto = Callable[..., bytes]
WriteTar = Callable[[Path, list[tuple[str, bytes]]], None]


FEW_FILES = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from kdx.data.shards import open_split
samples = open_split(Path(sys.argv[1]), "train")
print(sum(samples.num_captions(row) for row in range(len(samples))))
"""


@pytest.fixture
def folder(tmp_path: Path, make_samples: MakeSamples) -> Path:
    """Nine samples in three shards."""
    write_shards(tmp_path / "set", "train", make_samples(9), samples_per_shard=3)
    return tmp_path / "set"


@pytest.fixture
def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For root too, as far as the system is asked."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    return folder


@contextmanager
def _building_refused():
    with mock.patch.object(opening, "build_index", side_effect=AssertionError("an index is built")):
        yield


def _states(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((p.name, p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.glob("*.safetensors"))


# What it says


def test_the_index_says_what_the_shard_holds(
    tmp_path: Path, make_photo: MakePhoto, write_tar: WriteTar
) -> None:
    photos = [make_photo(n, size=20 + n, kind=kind) for n, kind in enumerate(("JPEG", "PNG", "WEBP", "AVIF"))]
    members = [
        (f"{n}.{e}", c) for n, photo in enumerate(photos) for e, c in (("jpg", photo), ("txt", b"a photo"))
    ]
    cut = photos[0][:10]
    write_tar(
        tmp_path / "train-0.tar",
        [*members, ("4.jpg", cut), ("4.txt", b"x"), ("4.cls", b"cat"), ("5.txt", b"x")],
    )
    path = tmp_path / "train-0.tar"
    (opened,) = open_indexes([path])
    index, facts = opened.columns(), opened.facts
    assert [index.key(n) for n in range(6)] == list("012345")
    assert index.image_size.tolist()[:4] == [list(Image.open(io.BytesIO(photo)).size) for photo in photos]
    assert index.image_size.tolist()[4:] == [[0, 0], [0, 0]]
    content = path.read_bytes()
    for number, photo in enumerate([*photos, cut]):
        start = int(index.image_offset[number])
        assert content[start : start + int(index.image_bytes[number])] == photo
    assert facts.digest == hashlib.sha256(content).hexdigest() and facts.tokenizer == clip_tokenizer().digest
    assert (facts.samples, facts.captions, facts.bad, facts.classes) == (6, 5, 1, [["cat", 1]])
    assert index.why_bad(5).startswith("no image")


@pytest.mark.parametrize("segment", [b"", b"\xff\xfe" + (5000).to_bytes(2, "big") + b"x" * 4998])
@pytest.mark.parametrize("progressive", [True, False])
def test_the_size_of_a_jpeg_is_found_behind_long_segments(
    tmp_path: Path, write_tar: WriteTar, segment: bytes, progressive: bool
) -> None:
    file = io.BytesIO()
    Image.new("L", (70, 30)).save(file, "JPEG", progressive=progressive)
    photo = file.getvalue()[:2] + segment + file.getvalue()[2:]
    write_tar(tmp_path / "train-0.tar", [("a.jpg", photo), ("a.txt", b"x")])
    assert open_split(tmp_path, "train").image_size(0) == (70, 30)


def test_tokens_that_the_index_lacks_or_cuts_are_made_when_asked_for(
    folder: Path, make_samples: MakeSamples, tmp_path: Path
) -> None:
    long = "word " * 200
    write_shards(tmp_path / "long", "train", make_samples(1, [(long,)]))
    kept = open_split(tmp_path / "long", "train")
    assert kept.tokens(0, 0, CONTEXT + 20).tolist() == clip_tokenizer().encode(long, CONTEXT + 20)
    without = SetupError("open_clip is not installed")
    with mock.patch("kdx.data.index.building.clip_tokenizer", side_effect=without):
        samples = open_split(folder, "train")
    assert samples.shards[0].columns().facts.tokenizer is None
    assert samples.tokens(4, 0, 77).tolist() == clip_tokenizer().encode(samples.captions(4)[0], 77)


# When it is built


def test_it_is_built_once_and_with_progress(folder: Path) -> None:
    told: list[tuple[int, int]] = []

    @contextmanager
    def stages(title: str):
        assert title == "indexing"
        yield lambda done, total, note="": told.append((done, total))

    keys = list(open_split(folder, "train", stages=stages).keys)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    with _building_refused():
        assert open_split(folder, "train", stages=stages).keys == keys
    assert [p.name for p in sorted(folder.glob("*.safetensors"))] == [
        f"train-0000{n}.index.safetensors" for n in range(3)
    ]


@pytest.mark.parametrize("column", ["keys", "captions"])
def test_a_text_that_is_damaged_behind_the_header_is_said(folder: Path, column: str) -> None:
    shard = next(iter(sorted(folder.glob("*.tar"))))
    samples = open_split(folder, "train")
    text = {"keys": samples.keys[0], "captions": samples.captions(0)[0]}[column].encode()
    place = index_beside(shard)
    content = place.read_bytes()
    first = content.index(text)
    assert first > int.from_bytes(content[:8], "little")
    place.write_bytes(content[:first] + b"\xff" * len(text) + content[first + len(text) :])
    mapped_index.cache_clear()
    samples = open_split(folder, "train")
    with pytest.raises(DataError, match="damaged") as error:
        samples.keys[0] if column == "keys" else samples.captions(0)
    assert error.value.where == shard.name and "kdx data verify" in str(error.value.remedy)


@pytest.mark.parametrize("change", ["size", "time", "damage", "cut", "foreign", "format", "no index"])
def test_an_index_that_is_not_its_shards_is_built_anew_and_the_others_stay(folder: Path, change: str) -> None:
    keys = list(open_split(folder, "train").keys)
    shard = folder / "train-00001.tar"
    index = index_beside(shard)
    content = index.read_bytes()
    if change == "size":
        shard.write_bytes(shard.read_bytes() + bytes(512))
    elif change == "time":
        os.utime(shard, ns=(0, 1))
    elif change == "damage":
        index.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif change == "cut":
        index.write_bytes(content[:-1])
    elif change == "foreign":
        shutil.copy(index_beside(folder / "train-00002.tar"), index)
    elif change == "format":
        index.write_bytes(content[:8] + content[8:].replace(b'\\"format\\": 1', b'\\"format\\": 2'))
    else:
        index.write_bytes(b"somebody else's")
    before = _states(folder)
    assert list(open_split(folder, "train").keys) == keys
    after = _states(folder)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    with _building_refused():
        open_split(folder, "train")


def test_a_bad_tar_leaves_no_index_of_it(folder: Path) -> None:
    shard = folder / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(DataError) as error:
        open_split(folder, "train")
    assert error.value.where == str(shard) and not index_beside(shard).exists()


def test_many_shards_are_read_by_several_processes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "same")
    here = open_split(folder, "train")
    monkeypatch.setattr(opening, "WORTH_PROCESSES", 0)
    monkeypatch.setattr(opening, "cpu_count", lambda: 2)
    with mock.patch.object(opening, "bound_pool", wraps=opening.bound_pool) as pool:
        there = open_split(tmp_path / "same", "train")
    pool.assert_called_once_with(2)
    assert there.digest == here.digest
    bad = tmp_path / "same" / "train-00001.tar"
    bad.write_bytes(b"no tar")
    index_beside(tmp_path / "same" / "train-00002.tar").unlink()
    with pytest.raises(DataError) as error:
        open_split(tmp_path / "same", "train")
    assert error.value.where == str(bad)


def test_processes_that_build_at_once_do_no_harm(folder: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork")) as pool:
        digests = {each.result() for each in [pool.submit(_digest, folder) for _ in range(6)]}
    assert digests == {open_split(folder, "train").digest}
    assert all(is_undamaged(path) for path in folder.glob("*.safetensors"))
    assert not list(folder.glob(".*"))


def _digest(folder: Path) -> str:
    return open_split(folder, "train").digest


def test_an_index_that_is_made_again_meanwhile_serves_who_opened_the_old_one(folder: Path) -> None:
    samples = open_split(folder, "train")
    expected = list(samples)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    open_split(folder, "train")
    mapped_index.cache_clear()
    assert list(samples) == expected


def test_an_index_of_another_shard_meanwhile_is_refused(folder: Path) -> None:
    samples = open_split(folder, "train")
    shutil.copy(index_beside(folder / "train-00001.tar"), index_beside(folder / "train-00000.tar"))
    mapped_index.cache_clear()
    with pytest.raises(DataError) as error:
        samples.captions(0)
    assert error.value.where == str(index_beside(folder / "train-00000.tar"))


def test_more_shards_than_a_process_may_open_are_read(tmp_path: Path, make_samples: MakeSamples) -> None:
    write_shards(tmp_path, "train", make_samples(80), samples_per_shard=1)
    open_split(tmp_path, "train")
    ran = subprocess.run([sys.executable, "-c", FEW_FILES, tmp_path], capture_output=True, text=True)
    assert ran.stdout == "80\n", ran.stderr


# Where it lies


def test_beside_what_cannot_be_written_it_lies_in_the_cache_folder(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    before = sorted(read_only.iterdir())
    assert len(open_split(read_only, "train")) == 9
    assert sorted(read_only.iterdir()) == before
    assert len(list((tmp_path / "cache").rglob("*.index.safetensors"))) == 3
    with _building_refused():
        open_split(read_only, "train")


def test_a_folder_that_the_user_names_serves_for_many_sets(
    folder: Path, tmp_path: Path, make_samples: MakeSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "other" / "set", "train", make_samples(2))
    monkeypatch.setenv("KDX_INDEX_DIR", str(tmp_path / "indices"))
    assert [len(open_split(each, "train")) for each in (folder, tmp_path / "other" / "set")] == [9, 2]
    assert len(list((tmp_path / "indices").rglob("*.index.safetensors"))) == 4
    assert not list(folder.glob("*.safetensors"))
    with _building_refused():
        assert len(open_split(folder, "train")) == 9


def test_an_index_beside_its_shard_serves_also_where_nothing_can_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_split(folder, "train")
    monkeypatch.setenv("KDX_INDEX_DIR", str(tmp_path / "nowhere"))
    with _building_refused():
        open_split(folder, "train")


def test_where_no_index_can_be_written_another_folder_can_be_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDX_INDEX_DIR", str(tmp_path / "file"))
    with pytest.raises(SetupError) as error:
        open_split(folder, "train")
    assert "KDX_INDEX_DIR" in str(error.value.remedy)


def test_where_the_disk_is_full_another_folder_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise SetupError("cannot be written: No space left on device", where=path, remedy="free space")

    monkeypatch.setattr(building, "write_atomic", full)
    with pytest.raises(SetupError, match="No space left") as error:
        open_split(folder, "train")
    assert "KDX_INDEX_DIR" in str(error.value.remedy)


def test_of_a_shard_that_is_not_there_there_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        find_index(tmp_path / "train-0.tar")
