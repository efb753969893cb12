"""Facts of sets at URLs: they are what the same files on the disk are, whole, in parts and in worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pytest

from kdx.core.errors import DataError, SetupError
from kdx.core.preprocess import Preprocess
from kdx.core.progress import Progress
from kdx.data import view_reader
from kdx.data.caption_tokens import CaptionTokens
from kdx.data.checksums import verify_set
from kdx.data.describe import describe_set
from kdx.data.index import opening
from kdx.data.loader import Loader, ViewReader
from kdx.data.places import shard_paths
from kdx.data.shards import Sample, ShardSet, open_split, read_classes, write_shards
from kdx.data.views import ViewConfig

if TYPE_CHECKING:
    from .conftest import Web

MakeSamples = Callable[..., list[Sample]]
PREPROCESS = Preprocess(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def local(web: Web, make_samples: MakeSamples) -> Path:
    """Four shards, as the server has them."""
    write_shards(web.folder / "set", "train", make_samples(16), samples_per_shard=4)
    for path in (web.folder / "set").glob("*.index.safetensors"):
        path.unlink()
    return web.folder / "set"


def _pattern(web: Web) -> Path:
    return Path(f"{web.url}/set/train-{{00000..00003}}.tar")


def _batches(samples: ShardSet, workers: int = 1) -> list[tuple[bytes, bytes]]:
    reader = ViewReader(samples, PREPROCESS, ViewConfig(num_views=2), max_bad_share=0)
    loader = Loader(
        reader, captions=CaptionTokens(reader.samples, 16), batch_size=8, seed=3, num_workers=workers
    )
    return [(batch.pixels.tobytes(), batch.tokens.tobytes()) for batch in loader.batches(0, 4)]


def _fits(monkeypatch: pytest.MonkeyPatch, fits: bool) -> None:
    monkeypatch.setenv("KDX_SHARD_CACHE_SIZE", "1GB" if fits else "1KB")


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_at_a_url_gives_the_batches_of_the_same_set_here(
    web: Web, local: Path, places_of_its_own: Path, fits: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fits(monkeypatch, fits)
    samples, here = open_split(_pattern(web), "train"), open_split(local, "train")
    assert samples.digest == here.digest and list(samples.keys) == list(here.keys)
    if workers:
        monkeypatch.setattr(view_reader, "KEEP_DECODED", 0)
    assert _batches(samples, workers or 1) == _batches(here, workers or 1)
    kept = list(places_of_its_own.glob("*.tar"))
    assert len(kept) == (4 if fits else 0) and not list(places_of_its_own.glob("*.part"))


def test_a_fault_in_a_loading_process_is_said_as_it_is(
    web: Web, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fits(monkeypatch, False)
    samples = open_split(_pattern(web), "train")
    monkeypatch.setattr(view_reader, "KEEP_DECODED", 0)
    web.always["train-00002.tar"] = "403"
    with pytest.raises(SetupError, match="access is refused \\(403\\)") as error:
        _batches(samples, 1)
    assert error.value.where == f"{web.url}/set/train-00002.tar" and error.value.remedy


def test_a_second_start_asks_for_no_shard(web: Web, local: Path) -> None:
    first = open_split(_pattern(web), "train").digest
    web.asked.clear()
    assert open_split(_pattern(web), "train").digest == first
    assert {name: count for name, count in web.asked.items() if name.endswith(".tar")} == {
        f"HEAD train-{number:05d}.tar": 1 for number in range(4)
    }


def test_an_index_beside_the_shards_saves_fetching_them(
    web: Web, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fits(monkeypatch, False)
    digest = open_split(local, "train").digest  # which writes the index beside them
    (local / "train-00001.index.safetensors").write_bytes(b"damaged")
    content = (local / "train-00000.index.safetensors").read_bytes()
    (local / "train-00002.index.safetensors").write_bytes(content)
    samples = open_split(_pattern(web), "train")
    assert samples.digest == digest
    fetched = {name for name in web.asked if name.startswith("GET") and name.endswith(".tar")}
    assert fetched == {"GET train-00001.tar", "GET train-00002.tar"}
    web.asked.clear()
    assert open_split(_pattern(web), "train").digest == digest
    assert not any(name.startswith("GET train") for name in web.asked)


def test_a_set_that_fits_is_fetched_at_once_where_that_is_asked_for(
    web: Web, local: Path, places_of_its_own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    @contextmanager
    def stages(title: str) -> Iterator[Progress]:
        shown.append(title)
        yield lambda done, total, note="": shown.append(f"{done}/{total} {note}")

    open_split(local, "train").fetch(stages)
    assert shown == []
    samples = open_split(_pattern(web), "train")
    assert not places_of_its_own.exists() or not list(places_of_its_own.glob("*.tar"))
    samples.fetch(stages, (1, 2))
    assert shown == ["fetching", *(f"{n}/4 train-0000{k}.tar" for n, k in ((1, 2), (2, 3), (3, 0), (4, 1)))]
    assert len(list(places_of_its_own.glob("*.tar"))) == 4
    web.asked.clear()
    assert samples.image(11) and not web.asked
    _fits(monkeypatch, False)
    open_split(_pattern(web), "train").fetch(stages)
    assert len(shown) == 5


def test_a_shard_that_changed_is_indexed_anew(
    web: Web, local: Path, make_samples: MakeSamples, tmp_path: Path
) -> None:
    before = open_split(_pattern(web), "train")
    digest, image = before.digest, before.image(8)
    write_shards(tmp_path / "other", "train", make_samples(20)[16:], samples_per_shard=4)
    (tmp_path / "other" / "train-00000.tar").replace(local / "train-00002.tar")
    after = open_split(_pattern(web), "train")
    assert after.digest == open_split(local, "train").digest != digest
    assert after.image(8) == open_split(local, "train").image(8) != image


@pytest.mark.parametrize("fits", [True, False])
def test_a_shard_that_changes_in_a_run_is_named(
    web: Web, local: Path, places_of_its_own: Path, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fits(monkeypatch, fits)
    samples = open_split(_pattern(web), "train")
    for path in places_of_its_own.glob("*.tar"):
        path.unlink()
    opening.mapped_index.cache_clear()
    from kdx.data.remote import tars

    tars._open.cache_clear()
    content = (local / "train-00001.tar").read_bytes()
    (local / "train-00001.tar").write_bytes(content)
    os.utime(local / "train-00001.tar", (1, 1))
    assert samples.image(0)
    with pytest.raises(DataError, match="has changed") as error:
        samples.image(5)
    assert error.value.where == f"{web.url}/set/train-00001.tar"


def test_a_server_without_parts_serves_a_set_that_fits(
    web: Web, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.ranges = False
    samples = open_split(_pattern(web), "train")
    assert samples.image(3) == open_split(local, "train").image(3)
    _fits(monkeypatch, False)
    with pytest.raises(SetupError, match="no parts of files"):
        open_split(_pattern(web), "train").image(3)


def test_a_list_of_files_is_read_where_there_is_one(web: Web, local: Path) -> None:
    for place in (web.url + "/set", web.url + "/set/train-*.tar"):
        assert [path.name for path in shard_paths(Path(place), "train")] == [
            f"train-{number:05d}.tar" for number in range(4)
        ]
    assert shard_paths(Path(web.url + "/set"), "val") == []
    web.lists = False
    with pytest.raises(DataError, match="no list of shards") as error:
        open_split(Path(web.url + "/set"), "train")
    assert f"{web.url}/set/{{00000..00099}}.tar" in str(error.value.remedy)


def test_classes_lie_beside_the_shards(web: Web, local: Path) -> None:
    (local / "classes.txt").write_text("cat\ndog\nbird\n")
    assert read_classes(_pattern(web)) == ["cat", "dog", "bird"]
    samples = open_split(_pattern(web), "train")
    assert samples.classes == ["cat", "dog", "bird"] and samples.label(4) == 1
    (local / "classes.txt").unlink()
    assert open_split(_pattern(web), "train").classes is None


def test_a_set_here_and_one_elsewhere_are_one_set(web: Web, local: Path) -> None:
    both = open_split(Path(f"{local}::{_pattern(web)}#val=0.3"), "train")
    alone = open_split(Path(f"{local}::{local}#val=0.3"), "train")
    assert list(both.keys) == list(alone.keys) and both.digest == alone.digest


def test_any_file_system_of_fsspec_serves(local: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(local), "/kdx-test-set/train", recursive=True)
    try:
        samples = open_split(Path("memory://kdx-test-set"), "train")
        assert samples.digest == open_split(local, "train").digest
        assert samples.image(7) == open_split(local, "train").image(7)
        assert describe_set(Path("memory://kdx-test-set"))["folder"] == "memory://kdx-test-set"
        with pytest.raises(DataError, match="no such folder"):
            open_split(Path("memory://kdx-no-set"), "train")
    finally:
        memory.rm("/kdx-test-set", recursive=True)


def test_verifying_reads_what_lies_there_and_not_the_cache(web: Web, local: Path) -> None:
    open_split(_pattern(web), "train")
    assert verify_set(_pattern(web)).whole
    path = local / "train-00003.tar"
    state, content = path.stat(), bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    verified = verify_set(_pattern(web))
    assert [Path(name).name for name in verified.changed] == ["train-00003.tar"] and len(verified.same) == 3


def test_a_damaged_shard_is_named_by_its_url(web: Web, local: Path) -> None:
    path = local / "train-00001.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError) as error:
        open_split(_pattern(web), "train")
    assert error.value.where == f"{web.url}/set/train-00001.tar"


def test_fsspec_is_imported_for_urls_alone(local: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kdx.data.shards import open_split\n"
        "open_split(Path(sys.argv[1]), 'train', need_captions=False)\n"
        "assert 'fsspec' not in sys.modules and 'aiohttp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(local)], check=True, timeout=120)


def test_arrays_of_a_set_at_a_url_are_those_of_the_set_here(web: Web, local: Path) -> None:
    samples, here = open_split(_pattern(web), "train"), open_split(local, "train")
    assert np.array_equal(samples.key_digests, here.key_digests)
    assert [samples.captions(row) for row in range(16)] == [here.captions(row) for row in range(16)]
