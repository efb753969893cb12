"""Facts of distill/teacher_cache/elsewhere.py: a cache at a URL is made once, and is what the same cache here is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdx.core.encoder import IntArray
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import MANIFEST
from kdx.data.remote import files, shard_cache
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.data.views import ViewConfig
from kdx.distill.teacher_cache import TeacherCache, elsewhere, open_cache
from kdx.distill.teacher_cache.description import describe_cache, verify_cache
from kdx.distill.teacher_cache.storage import Pixels

from .fake_teacher import FakeTeacher

MakeSamples = Callable[..., list[Sample]]
VIEWS = ViewConfig(num_views=2)


class _Teacher(FakeTeacher):
    """Counts the images that it is asked for."""

    def __init__(self) -> None:
        super().__init__(embed_dim=4)
        self.asked = 0

    def embed_pixels(self, pixels: Pixels) -> torch.Tensor:
        self.asked += len(pixels)
        means = pixels.reshape(len(pixels), 4, -1).mean(axis=2)
        return torch.nn.functional.normalize(torch.from_numpy(means).float(), dim=1)

    def embed_tokens(self, tokens: IntArray) -> torch.Tensor:
        sums = np.stack([tokens.sum(axis=1) % n + 1 for n in (3, 5, 7, 11)], axis=1)
        return torch.nn.functional.normalize(torch.from_numpy(sums).float(), dim=1)


@pytest.fixture(autouse=True)
def places_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "kdx"))
    monkeypatch.setattr(files, "WAIT", 0.001)
    return tmp_path / "kdx"


@pytest.fixture
def samples(tmp_path: Path, make_samples: MakeSamples) -> ShardSet:
    """Twelve in three shards."""
    write_shards(tmp_path / "data", "train", make_samples(12), samples_per_shard=4)
    return open_split(tmp_path / "data", "train")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return Path(f"file://{tmp_path}/store/teacher.cache")


def _open(place: Path, samples: ShardSet, teacher: _Teacher | None = None) -> TeacherCache:
    return open_cache(place, teacher or _Teacher(), samples, VIEWS, max_bad_share=0)


def _same(a: TeacherCache, b: TeacherCache) -> bool:
    pairs = zip(a.shards, b.shards, strict=True)
    return all(torch.equal(x.image, y.image) and torch.equal(x.text, y.text) for x, y in pairs)


def test_a_cache_at_a_url_is_made_once_and_is_the_same_cache(
    tmp_path: Path, samples: ShardSet, place: Path, places_of_its_own: Path
) -> None:
    teacher = _Teacher()
    made = _open(place, samples, teacher)
    here = _open(tmp_path / "here.cache", samples)
    assert _same(made, here) and not made.reused and teacher.asked == 24
    stored = tmp_path / "store" / "teacher.cache"
    names = sorted(path.name for path in (tmp_path / "here.cache").iterdir())
    assert sorted(path.name for path in stored.iterdir()) == names
    again = _open(place, samples, teacher)
    assert _same(again, here) and again.reused and teacher.asked == 24
    assert (
        _same(_open(stored, samples, teacher), here) and teacher.asked == 24
    )  # it may be copied and used here
    left = [path for path in (places_of_its_own / "teacher-caches").iterdir() if path.suffix != ".storing"]
    assert left == [] and len(list((places_of_its_own / "shards").glob("*.tar"))) == 3


def test_what_was_mapped_outlives_its_file(samples: ShardSet, place: Path, places_of_its_own: Path) -> None:
    cache = _open(place, samples)
    before = [shard.image.clone() for shard in cache.shards]
    for path in (places_of_its_own / "shards").glob("*.tar"):
        path.unlink()
    assert all(torch.equal(shard.image, image) for shard, image in zip(cache.shards, before, strict=True))
    assert _same(_open(place, samples), cache)  # fetched again


def test_a_copy_that_broke_off_goes_on_without_the_teacher(
    samples: ShardSet, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, upload = _Teacher(), elsewhere.upload

    def broken(path: Path, url: str) -> None:
        if path.name == MANIFEST:
            raise SetupError("cannot be read: no network", where=url)
        upload(path, url)

    monkeypatch.setattr(elsewhere, "upload", broken)
    with pytest.raises(SetupError, match="no network"):
        _open(place, samples, teacher)
    monkeypatch.setattr(elsewhere, "upload", upload)
    cache = _open(place, samples, teacher)
    assert teacher.asked == 24 and _same(cache, _open(tmp_path / "here.cache", samples))


def test_another_views_cache_there_is_refused(samples: ShardSet, place: Path) -> None:
    _open(place, samples)
    with pytest.raises(UsageError, match="holds the cache") as error:
        open_cache(place, _Teacher(), samples, ViewConfig(num_views=1), max_bad_share=0)
    assert str(error.value.where).startswith("file:///")


def test_a_cache_that_does_not_fit_names_the_bound(
    samples: ShardSet, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _open(place, samples)
    monkeypatch.setattr(shard_cache, "DEFAULT_SIZE", "100")
    with pytest.raises(SetupError, match="no room") as error:
        _open(place, samples)
    assert "KDX_SHARD_CACHE_SIZE" in str(error.value.remedy)


def test_nothing_is_made_for_a_place_that_cannot_be_written(samples: ShardSet) -> None:
    teacher = _Teacher()
    with pytest.raises((UsageError, SetupError)):
        _open(Path("http://127.0.0.1:1/teacher.cache"), samples, teacher)
    assert teacher.asked == 0


def test_info_and_verify_look_there(samples: ShardSet, place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no teacher cache"):
        describe_cache(place)
    _open(place, samples)
    _open(tmp_path / "here.cache", samples)
    facts, here = describe_cache(place), describe_cache(tmp_path / "here.cache")
    assert facts.pop("folder") == f"file://{tmp_path}/store/teacher.cache" != here.pop("folder")
    assert {**facts, "seconds": 0} == {**here, "seconds": 0} and facts["whole"]
    assert len(verify_cache(place).same) == 3
    stored = tmp_path / "store" / "teacher.cache"
    (stored / "train-00001.safetensors").write_bytes(b"x")
    (stored / "train-00002.safetensors").unlink()
    verified = verify_cache(place)
    assert (verified.same, verified.changed, verified.missing) == (
        ["train-00000.safetensors"],
        ["train-00001.safetensors"],
        ["train-00002.safetensors"],
    )
    with pytest.raises(DataError, match="no such file"):
        _open(place, samples)
