"""Facts of kdx/evaluate/sharing.py: several processes, and one that goes on after an interruption."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdx.core.errors import SetupError
from kdx.data.shards import Sample, open_split, write_shards
from kdx.evaluate import Evaluation, evaluate_set
from kdx.evaluate.sharing import Alone, Workplace, workplace

COLOURS = ["red", "green", "blue"]
COUNT = 300  # five batches
BAD = (65, 299)
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class _Peers:
    rank: int
    size: int
    barrier: Any

    def wait(self) -> None:
        self.barrier.wait(60)


@pytest.fixture
def data(tmp_path: Path, make_image: Callable[[str], bytes]) -> Path:
    samples = [
        Sample(
            key=f"{row:04d}",
            image=b"\xff\xd8\xff damaged" if row in BAD else make_image(COLOURS[row % 3]),
            captions=(f"a {COLOURS[row * row % 3]} picture", f"number {row}"),
            label=row // 2 % 3,
        )
        for row in range(COUNT)
    ]
    write_shards(tmp_path / "data", "val", samples, samples_per_shard=77)
    (tmp_path / "data/classes.txt").write_text("red\ngreen\nblue\n")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def known(encoder: Any) -> Any:
    """The encoder, as one that can be told from others."""
    encoder.identity = "colours"
    return encoder


def _evaluate(encoder: Any, data: Path, peers: Any = None) -> Evaluation:
    return evaluate_set(encoder, open_split(data, "val", need_captions=False), peers=peers or Alone())


def _told(evaluation: Evaluation) -> dict[str, Any]:
    """All of it that can be compared, image by image too."""
    assert evaluation.zero_shot and evaluation.retrieval
    arrays = (evaluation.zero_shot.predictions, evaluation.retrieval.image_ranks)
    keys = [evaluation.labelled_keys, evaluation.captioned_keys]
    return {**evaluation.to_dict(), "keys": keys, "arrays": [array.tolist() for array in arrays]}


@pytest.mark.parametrize("size", [2, 3])
def test_processes_together_score_every_image_once(known: Any, data: Path, cache: Path, size: int) -> None:
    barrier, answers = FORK.Barrier(size), FORK.SimpleQueue()

    def work(rank: int) -> None:
        told = _told(_evaluate(known, data, _Peers(rank, size, barrier)))
        answers.put(json.dumps([told, known.images_embedded]))

    processes = [FORK.Process(target=work, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    each = [json.loads(answers.get()) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    alone = json.loads(json.dumps(_told(_evaluate(known, data))))
    assert [told for told, _ in each] == [alone] * size
    assert alone["num_images"] == COUNT - len(BAD) == sum(embedded for _, embedded in each)
    assert not list((cache / "evaluations").iterdir())


def test_a_killed_process_is_gone_on_from(known: Any, data: Path, cache: Path) -> None:
    whole = _told(_evaluate(known, data))
    embedded = known.images_embedded

    def work() -> None:
        def encode(pixels: np.ndarray) -> np.ndarray:
            if known.images_embedded > embedded + 150:  # within the third batch
                os.kill(os.getpid(), signal.SIGKILL)
            return type(known).encode_image(known, pixels)

        known.encode_image = encode
        _evaluate(known, data)

    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (folder,) = (cache / "evaluations").iterdir()
    kept = sorted(file.name for file in folder.glob("images-*.npz"))
    assert kept == ["images-00000.npz"]  # two batches a piece
    known.images_embedded = 0
    assert _told(_evaluate(known, data)) == whole
    assert known.images_embedded == COUNT - len(BAD) - (2 * 64 - 1)
    assert not folder.exists()


def test_a_piece_counts_only_for_the_bytes_that_it_was_made_of(known: Any, data: Path, cache: Path) -> None:
    work = Workplace(Alone(), cache / "work")
    made: list[int] = []

    def make(numbers: Any, of: str = "a") -> Any:
        for number in numbers:
            made.append(number)
            yield f"{of}{number}", {"embeddings": np.full((1, 2), number, np.float32)}

    def share(of: str) -> list[float]:
        made.clear()
        pieces = work.share("images", 3, lambda n: f"{of}{n}", lambda numbers: make(numbers, of))
        return [float(piece["embeddings"][0, 0]) for piece in pieces]

    assert share("a") == [0, 1, 2] and made == [0, 1, 2]
    assert share("a") == [0, 1, 2] and made == []
    assert share("b") == [0, 1, 2] and made == [0, 1, 2]
    (cache / "work/images-00001.npz").write_bytes(b"cut off")
    assert share("b") == [0, 1, 2] and made == [1]


def test_a_cache_folder_that_is_not_shared_is_said(cache: Path) -> None:
    class Two(Alone):
        pass

    work = Workplace(Two(rank=0, size=2), cache / "work")
    with pytest.raises(SetupError) as raised:
        work.share("images", 2, str, lambda numbers: iter([("", {}) for _ in numbers]))
    assert "KDX_CACHE" in str(raised.value.remedy)


def test_a_second_process_at_the_same_work_keeps_nothing(cache: Path) -> None:
    with workplace("name", Alone()) as first, workplace("name", Alone()) as second:
        assert first.folder == cache / "evaluations/name" and second.folder is None


def test_without_a_place_to_write_an_evaluation_keeps_nothing_and_ends(
    known: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "file"))
    assert _evaluate(known, data).num_images == COUNT - len(BAD)


def test_what_nobody_went_on_with_for_a_month_is_removed(cache: Path) -> None:
    folder = cache / "evaluations/old"
    with contextlib.suppress(KeyboardInterrupt), workplace("old", Alone()):
        (folder / "images-00000.npz").write_bytes(b"")
        raise KeyboardInterrupt
    with workplace("other", Alone()):
        assert folder.exists()
    for path in (*folder.iterdir(), folder):
        os.utime(path, (0, 0))
    with workplace("other", Alone()):
        assert not folder.exists()
