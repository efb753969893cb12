"""Facts of bench/family_scores.py: which runs of a family are not scored again."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kdx.bench import family
from kdx.bench.family import compare_family
from kdx.bench.family_scores import KeptScores, Score, score_digests
from kdx.data.shards import Sample, open_split, write_shards
from kdx.evaluate import evaluate_set
from kdx.evaluate.sharing import Alone
from kdx.models.architectures import build_model, read_architecture
from kdx.models.checkpoint import read_checkpoint_spec, save_checkpoint
from kdx.models.clip_vocabulary import clip_tokenizer

SCORE = Score(
    model="m",
    dataset="d",
    protocol="p",
    num_images=1,
    metric="zero_shot_top1",
    value=1,
    interval=(0.5, 1),
    recalls={5: 0.5},
)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def data(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> Path:
    write_shards(tmp_path / "data", "val", make_samples(12))
    (tmp_path / "data" / "classes.txt").write_text("cat\ndog\nfish\n")
    return tmp_path / "data"


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    architecture = read_architecture("kdx-mini")
    paths = [tmp_path / "a", tmp_path / "b"]
    for seed, path in enumerate(paths):
        save_checkpoint(path, build_model(architecture, seed), architecture, clip_tokenizer())
    return paths


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def times(members: Any, *_: Any) -> Any:
        return {member.network_key: {"ms": {"p50": 1.0}, "text_ms": {"p50": 1.0}} for member in members}, 0.0

    monkeypatch.setattr(family, "_time", times)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of the models that were scored in truth."""
    calls: list[str] = []

    def evaluate(embedder: Any, *args: Any, **more: Any) -> Any:
        calls.append(embedder.spec.model_digest)
        return evaluate_set(embedder, *args, **more)

    monkeypatch.setattr(family, "evaluate_set", evaluate)
    return calls


def _compare(models: list[Path], data: Path, scores: Path) -> list[dict[str, Any]]:
    document = compare_family(models, open_split(data, "val"), scores=scores)
    assert document is not None
    return json.loads(json.dumps(document))["rows"]


def _runs(rows: list[dict[str, Any]]) -> dict[str, tuple[float, bool]]:
    runs = [run for row in rows for run in row["runs"]]
    return {Path(run["path"]).name: (run["score"], run["scored_before"]) for run in runs}


def test_a_run_with_a_score_of_the_same_data_is_not_scored_again(
    models: list[Path], data: Path, tmp_path: Path, scored: list[str]
) -> None:
    file = tmp_path / "out" / "scores.json"
    (first,) = _compare(models[:1], data, file)
    assert len(scored) == 1 and not first["runs"][0]["scored_before"]
    both = _compare(models, data, file)
    assert scored == [read_checkpoint_spec(model).model_digest for model in models]
    assert _runs(both)["a"] == (first["score"], True) and not _runs(both)["b"][1]
    assert next(row for row in both if row["runs"][0]["scored_before"])["interval"] == first["interval"]
    file.write_text("{")
    assert not any(before for _, before in _runs(_compare(models, data, file)).values())
    assert all(before for _, before in _runs(_compare(models, data, file)).values())


def test_what_decides_the_score_makes_it_another(models: list[Path], data: Path, tmp_path: Path) -> None:
    specs = [read_checkpoint_spec(model) for model in models]

    def digests(limit: int | None = None) -> list[str]:
        return score_digests(specs, open_split(data, "val", need_captions=False), limit)

    first = digests()
    assert digests() == first
    found = [*first, *digests(5)]
    (data / "templates.txt").write_text("a drawing of {}\n")
    found += digests()
    (data / "classes.txt").write_text("cat\ndog\nbird\n")
    found += digests()
    assert len(set(found)) == len(found)


def test_a_run_that_was_scored_before_an_interruption_is_not_scored_again(
    models: list[Path], data: Path, tmp_path: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "scores.json"
    evaluate = family.evaluate_set

    def interrupted(embedder: Any, *args: Any, **more: Any) -> Any:
        if scored:
            raise KeyboardInterrupt
        return evaluate(embedder, *args, **more)

    monkeypatch.setattr(family, "evaluate_set", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _compare(models, data, file)
    monkeypatch.setattr(family, "evaluate_set", evaluate)
    assert _runs(_compare(models, data, file))["a"][1] and len(scored) == 2


def test_a_score_that_cannot_be_kept_is_no_reason_to_lose_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    kept = KeptScores(tmp_path / "file" / "scores.json")
    kept.keep("a", SCORE)
    assert kept["a"] == SCORE and "is not kept" in caplog.text


@dataclass(frozen=True)
class _Peers:
    rank: int
    size: int
    barrier: Any

    def wait(self) -> None:
        self.barrier.wait(20)


def test_what_the_first_process_skips_all_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))
    kept = KeptScores(tmp_path / "scores.json")
    kept.keep("known", SCORE)
    barrier, answers = FORK.Barrier(2), FORK.SimpleQueue()

    def ask(rank: int) -> None:
        seen = KeptScores(
            tmp_path / "scores.json" if rank == 0 else None
        )  # another machine may not see the file
        answers.put(sorted(seen.known_to_all(["known", "new"], _Peers(rank, 2, barrier))))

    processes = [FORK.Process(target=ask, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [answers.get(), answers.get()] == [["known"], ["known"]]
    assert kept.known_to_all(["known", "new"], Alone()) == {"known"}
