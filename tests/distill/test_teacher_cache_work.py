"""Facts of distill/teacher_cache/: shards are made once, by whoever asks, and what was made outlives who made it."""

import dataclasses
import errno
import fcntl
import functools
import json
import os
import random
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from kdx.core.digests import file_digest
from kdx.core.encoder import IntArray
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.folders import read_manifest
from kdx.data.shards import Sample, ShardSet, open_split, write_shards
from kdx.data.views import ViewConfig
from kdx.distill.teacher_cache import TeacherCache, open_cache, work
from kdx.distill.teacher_cache.description import describe_cache, verify_cache
from kdx.distill.teacher_cache.storage import Pixels, Storage
from kdx.models.clip_vocabulary import clip_tokenizer

from .fake_teacher import FakeTeacher

MakeSamples = Callable[..., list[Sample]]
FORK = get_context("fork")
WIDTH = 8


class _Teacher(FakeTeacher):
    """Projects pixels and tokens at random; waits `pause` seconds a batch and writes a line of images to `seen`."""

    def __init__(self, pause: float = 0, seen: Path | None = None) -> None:
        super().__init__(WIDTH)
        self.pause, self.seen = pause, seen
        self.texts: list[tuple[int, ...]] = []

    def embed_pixels(self, pixels: Pixels) -> torch.Tensor:
        if self.seen is not None:
            with self.seen.open("a") as file:
                file.write("images\n")
        time.sleep(self.pause)
        return _project(pixels.reshape(len(pixels), -1) / 255)

    def embed_tokens(self, tokens: IntArray) -> torch.Tensor:
        self.texts.append(tokens.shape)
        time.sleep(self.pause)
        return _project((np.pad(tokens, ((0, 0), (0, 16 - tokens.shape[1]))) % 97) / 97)


def _project(rows: np.ndarray) -> torch.Tensor:
    weights = np.random.default_rng(0).normal(size=(rows.shape[1], WIDTH))
    return torch.nn.functional.normalize(torch.from_numpy(rows @ weights).float(), dim=1)


@pytest.fixture
def samples(tmp_path: Path, make_samples: MakeSamples) -> ShardSet:
    """Twelve in six shards."""
    write_shards(tmp_path / "data", "train", make_samples(12), samples_per_shard=2)
    return open_split(tmp_path / "data", "train")


def _open(
    samples: ShardSet,
    cache: Path,
    teacher: _Teacher | None = None,
    *,
    storage: Storage | None = None,
    seed: int = 0,
) -> TeacherCache:
    views = ViewConfig(num_views=2, seed=seed)
    return open_cache(cache, teacher or _Teacher(), samples, views, max_bad_share=0, storage=storage)


def _start(samples: ShardSet, cache: Path, teacher: _Teacher) -> BaseProcess:
    child = FORK.Process(target=_open, args=(samples, cache, teacher))
    child.start()
    return child


def _digests(cache: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted(cache.glob("*.safetensors"))}


def _interrupted(samples: ShardSet, cache: Path, after: int) -> None:
    """Ends a builder when `after` shards are finished."""
    write = work.CacheWork.write
    left = [after]

    def writing(self: work.CacheWork, file: str, *args: object, **facts: object) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(self, file, *args, **facts)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(work.CacheWork, "write", writing)
        _open(samples, cache)


def test_builders_killed_at_random_moments_lose_at_most_a_shard_each_and_leave_no_wrong_file(
    tmp_path: Path, samples: ShardSet
) -> None:
    _open(samples, tmp_path / "whole")
    cache, seen, moments = tmp_path / "cache", tmp_path / "seen", random.Random(0)
    kills, finished = 10, 0
    for _ in range(kills):
        child = _start(samples, cache, _Teacher(0.02, seen))
        child.join(moments.uniform(0, 0.15))
        child.kill()  # it may have made the rest already
        child.join()
        if not (cache / "building").exists():
            continue
        records = {path.name: json.loads(path.read_text()) for path in cache.glob("building/train*.json")}
        assert len(records) >= finished
        finished = len(records)
        for name, record in records.items():
            assert file_digest(cache / name.removesuffix(".json")) == record["digest"]
    _open(samples, cache, _Teacher(0, seen))
    assert _digests(cache) == _digests(tmp_path / "whole") == read_manifest(cache).digest
    assert {path.name for path in cache.iterdir()} == {*_digests(cache), "manifest.json"}
    assert len(seen.read_text().splitlines()) <= 6 + kills
    assert _open(samples, cache).reused


def test_processes_that_ask_for_one_cache_at_once_share_the_work(tmp_path: Path, samples: ShardSet) -> None:
    cache, seen = tmp_path / "cache", tmp_path / "seen"
    children = [_start(samples, cache, _Teacher(0.02, seen)) for _ in range(3)]
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(seen.read_text().splitlines()) == 6  # each shard once
    assert _open(samples, cache).reused
    readable = cache.stat().st_mode & 0o666
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {readable}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data", "seen"]


def test_without_locks_ranks_make_their_own_shards_and_wait_for_the_others(
    tmp_path: Path, samples: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    seen, opened = tmp_path / "seen", list[TeacherCache]()
    build = functools.partial(
        open_cache, tmp_path / "cache", _Teacher(0.01, seen), samples, ViewConfig(), max_bad_share=0
    )
    threads = [threading.Thread(target=lambda n=n: opened.append(build(share=(n, 2)))) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(opened) == 2 and len(seen.read_text().splitlines()) == 6


def test_an_interrupted_cache_goes_on_with_the_missing_shards(tmp_path: Path, samples: ShardSet) -> None:
    _interrupted(samples, tmp_path / "cache", after=4)
    seen = tmp_path / "seen"
    cache = _open(samples, tmp_path / "cache", _Teacher(0, seen))
    assert len(seen.read_text().splitlines()) == 2 and not cache.reused
    whole = _open(samples, tmp_path / "whole")
    assert all(torch.equal(a.image, b.image) for a, b in zip(cache.shards, whole.shards, strict=True))


def test_what_is_begun_is_of_one_teacher_views_and_data(tmp_path: Path, samples: ShardSet) -> None:
    _interrupted(samples, tmp_path / "cache", after=2)
    with pytest.raises(UsageError) as error:
        _open(samples, tmp_path / "cache", seed=1)
    assert error.value.where == str(tmp_path / "cache") and "2 of 6" in error.value.what
    _interrupted(samples, tmp_path / "nothing", after=0)
    assert not (tmp_path / "nothing").exists()
    _open(samples, tmp_path / "cache")


def test_what_a_killed_builder_had_begun_and_not_finished_is_no_hindrance(
    tmp_path: Path, samples: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_leave_nothing_unless_begun", lambda folder: False)  # as after a kill
    _interrupted(samples, tmp_path / "cache", after=0)
    assert (tmp_path / "cache" / "building").exists()
    monkeypatch.undo()
    _open(samples, tmp_path / "cache", seed=1)
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_full_disk_is_said_and_what_is_finished_stays(
    tmp_path: Path, samples: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupted(samples, tmp_path / "cache", after=3)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(work, "save_file", refuse)
        with pytest.raises(SetupError) as error:
            _open(samples, tmp_path / "cache")
    assert error.value.where == str(tmp_path / "cache")
    seen = tmp_path / "seen"
    _open(samples, tmp_path / "cache", _Teacher(0, seen))
    assert len(seen.read_text().splitlines()) == 3


def test_equal_captions_are_embedded_once_and_none_is_padded_to_the_context(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    captions = [("a cat", "a dog"), ("a dog",), ("a cat", "a bird on a tree", "a cat")]
    write_shards(tmp_path / "data", "train", make_samples(3, captions))
    teacher = _Teacher()
    cache = _open(open_split(tmp_path / "data", "train"), tmp_path / "cache", teacher)
    assert teacher.texts == [(3, 7)]  # three texts; start, "a bird on a tree", end
    text = cache.shards[0].text
    assert text.shape == (3, 3, WIDTH)
    assert torch.equal(text[0, 0], text[2, 0]) and torch.equal(text[0, 1], text[1, 0])
    assert not torch.equal(text[0, 0], text[0, 1]) and not text[1, 1:].any()


@pytest.mark.parametrize(
    ("storage", "dtype", "limit"), [("fp32", torch.float32, 0), ("int8", torch.int8, 0.01)]
)
def test_a_cache_may_be_stored_in_other_precisions(
    tmp_path: Path, samples: ShardSet, storage: Storage, dtype: torch.dtype, limit: float
) -> None:
    cache = _open(samples, tmp_path / "cache", storage=storage)
    rows, seconds = np.arange(12), np.zeros(12, dtype=np.int64)
    said = cache.embeddings(rows, seconds, seconds, torch.device("cpu"))
    assert cache.shards[0].image.dtype == dtype and said.image.dtype == torch.float32
    torch.testing.assert_close(said.image.norm(dim=1), torch.ones(12))
    tokens = [clip_tokenizer().encode(samples.captions(row)[0], 16) for row in range(12)]
    exact = _Teacher().embed_tokens(_Teacher().spec.pad(tokens))
    assert (said.text - exact).abs().max() <= limit
    assert _open(samples, tmp_path / "cache").reused  # a recipe takes any
    with pytest.raises(UsageError) as error:
        _open(samples, tmp_path / "cache", storage="fp16")
    assert error.value.where == str(tmp_path / "cache")


def test_a_cache_in_work_says_how_far_it_is(tmp_path: Path, samples: ShardSet) -> None:
    _interrupted(samples, tmp_path / "cache", after=4)
    told = describe_cache(tmp_path / "cache")
    assert (told["whole"], told["shards"], told["shards_done"], told["captions"]) == (False, 6, 4, 8)
    file = tmp_path / "cache" / "train-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    (tmp_path / "cache" / "train-00001.safetensors").unlink()
    verified = verify_cache(tmp_path / "cache")
    assert (len(verified.same), verified.changed, verified.missing) == (
        2,
        [file.name],
        ["train-00001.safetensors"],
    )


def test_a_manifest_tells_what_was_made_and_how(tmp_path: Path, samples: ShardSet) -> None:
    _open(samples, tmp_path / "cache")
    fields = read_manifest(tmp_path / "cache").fields
    assert (fields["storage"], fields["precision"], fields["views"], fields["captions"]) == (
        "fp16",
        "fp32",
        2,
        12,
    )


def test_too_many_bad_images_end_the_work_whoever_has_met_them(
    tmp_path: Path, make_samples: MakeSamples
) -> None:
    good = make_samples(8)
    broken = [dataclasses.replace(sample, image=sample.image[:60]) for sample in good[::4]]
    write_shards(tmp_path / "data", "train", [*broken, *good[1:4], *good[5:]], samples_per_shard=1)
    samples = open_split(tmp_path / "data", "train")
    with pytest.raises(DataError) as error:
        open_cache(tmp_path / "cache", _Teacher(), samples, ViewConfig(), max_bad_share=0.2)
    assert "2 of 8" in error.value.what
    with pytest.raises(DataError):  # one is known from before
        open_cache(tmp_path / "cache", _Teacher(), samples, ViewConfig(), max_bad_share=0.2)
    open_cache(tmp_path / "cache", _Teacher(), samples, ViewConfig(), max_bad_share=0.25)


@pytest.mark.parametrize("file", ["plan.json", "train-00000.safetensors.json"])
def test_a_cache_in_work_of_another_version_is_said(tmp_path: Path, samples: ShardSet, file: str) -> None:
    child = _start(samples, tmp_path / "cache", _Teacher(0.2))
    place = tmp_path / "cache" / "building" / file
    while not place.exists():
        time.sleep(0.01)
    child.kill()
    child.join()
    place.write_text(json.dumps({**json.loads(place.read_text()), "new": 1}))
    with pytest.raises(DataError, match="another version"):
        _open(samples, tmp_path / "cache")
