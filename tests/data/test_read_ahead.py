"""Facts of kdx/data/read_ahead.py and chunks.py: processes give what threads give, and none is left or waited for."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from kdx.core.errors import DataError, SetupError
from kdx.core.preprocess import Preprocess
from kdx.data import read_ahead, view_reader
from kdx.data.caption_tokens import CaptionTokens
from kdx.data.loader import Batch, Loader, ViewReader
from kdx.data.shards import Sample, open_split, write_shards
from kdx.data.views import ViewConfig

MakeSamples = Callable[..., list[Sample]]
PREPROCESS = Preprocess(image_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

SCRIPT = """
import sys, time
from pathlib import Path
import psutil
from kdx.core.preprocess import Preprocess
from kdx.data import view_reader
from kdx.data.caption_tokens import CaptionTokens
from kdx.data.loader import Loader, ViewReader
from kdx.data.shards import open_split
from kdx.data.views import ViewConfig
view_reader.KEEP_DECODED = 0
reader = ViewReader(
    open_split(Path(sys.argv[1]), "train"), Preprocess(8, (0, 0, 0), (1, 1, 1)), ViewConfig(), max_bad_share=0
)
captions = CaptionTokens(reader.samples, 8)
batches = Loader(reader, captions=captions, batch_size=8, seed=0, num_workers=2).batches(0, 10**6)
next(batches)
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
time.sleep(60)
"""


@pytest.fixture
def data(tmp_path: Path, make_samples: MakeSamples) -> Path:
    """100 pairs, of which two images do not decode."""
    samples = make_samples(100, captions=[("one", "two words", "three words here")] * 100)
    samples[3] = Sample("broken", samples[3].image[:60], samples[3].captions, None)
    samples[70] = Sample("no image", b"\xff\xd8\xff no image", samples[70].captions, None)
    write_shards(tmp_path, "train", samples, samples_per_shard=40)
    return tmp_path


def _batches(data: Path, steps: int, workers: int = 2) -> Iterator[Batch]:
    config = ViewConfig(num_views=2, flip=True)
    reader = ViewReader(open_split(data, "train"), PREPROCESS, config, max_bad_share=0.5)
    loader = Loader(
        reader, captions=CaptionTokens(reader.samples, 16), batch_size=40, seed=0, num_workers=workers
    )
    return loader.batches(0, steps)


def _decoders() -> list[psutil.Process]:
    """The processes below this one that decode: the fork server's children."""
    children = psutil.Process().children(recursive=True)
    return [
        child for child in children if child.children() == [] and "forkserver" in " ".join(child.cmdline())
    ]


def _wait_for_none(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_processes_give_the_batches_of_threads(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_threads = list(_batches(data, 6))
    monkeypatch.setattr(view_reader, "KEEP_DECODED", 0)
    for expected, batch in zip(by_threads, _batches(data, 6), strict=True):
        for name in ("step", "rows", "views", "captions", "pixels", "tokens"):
            assert np.array_equal(getattr(expected, name), getattr(batch, name)), name


def test_a_decoder_that_is_killed_ends_the_run_in_a_line_and_no_other_stays(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_reader, "KEEP_DECODED", 0)
    monkeypatch.setattr(read_ahead, "CHECK", 0.2)
    batches = _batches(data, 10**6)
    next(batches)
    first, second = _decoders()
    first.kill()
    with pytest.raises(SetupError, match="killed"):
        for _ in batches:
            pass
    _wait_for_none([first, second])


def test_a_decoder_that_hangs_ends_the_run_in_a_line(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(view_reader, "KEEP_DECODED", 0)
    monkeypatch.setattr(read_ahead, "CHECK", 0.2)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # waits so long at the end
    batches = _batches(data, 10**6, workers=1)
    next(batches)
    (decoder,) = _decoders()
    monkeypatch.setattr(read_ahead, "TOLD", 0.4)
    monkeypatch.setattr(read_ahead, "PATIENCE", 1.0)
    decoder.suspend()
    with caplog.at_level(logging.WARNING), pytest.raises(SetupError, match="no image was read for 1 seconds"):
        for _ in batches:
            decoder.suspend()
    decoder.resume()
    assert "is the storage of the shards slow?" in caplog.text
    _wait_for_none([decoder])


def test_a_loader_that_is_given_up_leaves_no_process(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_reader, "KEEP_DECODED", 0)
    batches = _batches(data, 10**6)
    next(batches)
    decoders = _decoders()
    assert len(decoders) == 2
    del batches
    _wait_for_none(decoders)


@pytest.mark.parametrize("keep", [0, 2**30])
def test_a_shard_that_is_cut_short_meanwhile_is_named(
    data: Path, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_reader, "KEEP_DECODED", keep)
    batches = _batches(data, 10**6, workers=1)
    next(batches)
    shard = data / "train-00001.tar"
    with shard.open("r+b") as file:
        file.truncate(30_000)
    with pytest.raises(DataError) as error:
        for _ in itertools.islice(batches, 20):
            pass
    assert error.value.where == str(shard)


def test_its_processes_end_with_a_parent_that_is_killed(data: Path) -> None:
    """A script without `if __name__ == "__main__"`, which is not run again in them."""
    (data / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(data / "script.py"), str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(children) >= 3
        started = time.monotonic()
        parent.kill()
    _wait_for_none(children)
    assert time.monotonic() - started < 4  # not by torch's own look at its parent each 5 s
