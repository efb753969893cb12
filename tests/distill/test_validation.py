"""Facts of distill/validation.py: the student is scored while it trains, as if nobody looked."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kdx
from kdx.cli import main
from kdx.core.errors import DataError
from kdx.core.folders import read_manifest
from kdx.core.log import read_metrics
from kdx.data.shards import Sample, open_split, write_shards
from kdx.distill import Recipe, loop, read_recipe, run_recipe, validation
from kdx.distill.ranks import join_ranks
from kdx.evaluate import evaluate_dataset
from kdx.models.checkpoint import open_checkpoint, read_checkpoint_spec

from .rank_processes import start_ranks

TOY = ("steps=12", "batch_size=8", "optimizer.warmup_steps=2", "views.num_views=2", "validate_every=5")
TOP1, RECALL = "val_zero_shot_top1", "val_retrieval_recall@1"
MEASURED = ("seconds", "per_second", "peak_mib")  # parts of the names of what no two runs share


def _recipe(*settings: str) -> Recipe:
    return read_recipe("demo-baseline", [*TOY, *settings])


@pytest.fixture
def data(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> Path:
    """With classes and captions."""
    samples = make_samples(32)
    write_shards(tmp_path / "data", "train", samples[:20])
    write_shards(tmp_path / "data", "val", samples[20:])
    (tmp_path / "data/classes.txt").write_text("circle\nsquare\nstar\n")
    return tmp_path / "data"


def _lines(run: Path) -> list[dict[str, Any]]:
    return read_metrics(run / "metrics.jsonl")


def _curve(run: Path) -> dict[int, dict[str, float]]:
    """What was learnt, by step: no times and no scores."""
    return {
        line["step"]: {
            name: value
            for name, value in line.items()
            if not name.startswith("val_") and not any(each in name for each in MEASURED)
        }
        for line in _lines(run)
    }


# a trunk with batch statistics, dropout or none of them, and the average of the weights
@pytest.mark.parametrize("settings", [(), ("student=kdx-mini-vit", "ema=0.9"), ("ema=0.5", "accumulate=2")])
def test_a_run_that_is_scored_is_bit_equal_to_one_that_is_not_and_the_last_score_is_that_of_kdx_eval(
    tmp_path: Path, data: Path, settings: tuple[str, ...]
) -> None:
    run_recipe(_recipe(*settings), data, tmp_path / "scored")
    run_recipe(_recipe(*settings, "validate_every=0"), data, tmp_path / "unseen")
    scored, unseen = _curve(tmp_path / "scored"), _curve(tmp_path / "unseen")
    assert list(scored) == [5, 10, 12] and list(unseen) == [10, 12]
    assert {step: scored[step] for step in unseen} == unseen
    weights, others = (open_checkpoint(tmp_path / run).model.state_dict() for run in ("scored", "unseen"))
    assert all(torch.equal(tensor, others[name]) for name, tensor in weights.items())
    with kdx.load(tmp_path / "scored") as student:
        evaluation = evaluate_dataset(student, data)
    assert evaluation.zero_shot and evaluation.retrieval
    last = _lines(tmp_path / "scored")[-1]
    assert last[TOP1] == evaluation.zero_shot.top1.value
    assert last[RECALL] == evaluation.retrieval.mean_recall[1]
    assert read_manifest(tmp_path / "scored").fields["final"][TOP1] == last[TOP1]


@pytest.mark.parametrize(("given", "expected"), [("labels", {TOP1}), ("captions", {RECALL})])
def test_labels_alone_and_captions_alone_are_scored(
    tmp_path: Path, make_samples: Callable[..., list[Sample]], given: str, expected: set[str]
) -> None:
    samples = make_samples(20)
    write_shards(tmp_path / "data", "train", samples)
    if given == "labels":
        held_out = [replace(sample, captions=()) for sample in samples]
        (tmp_path / "data/classes.txt").write_text("circle\nsquare\nstar\n")
    else:
        held_out = [replace(sample, label=None) for sample in samples]
    write_shards(tmp_path / "data", "val", held_out)
    run_recipe(_recipe("steps=4"), tmp_path / "data", tmp_path / "run")
    (line,) = _lines(tmp_path / "run")
    assert {name for name in line if name.startswith("val_")} == expected


def test_that_test_shards_stand_for_the_val_split_is_said_before_training(
    tmp_path: Path, make_samples: Callable[..., list[Sample]]
) -> None:
    write_shards(tmp_path / "data", "train", make_samples(20))
    write_shards(tmp_path / "data", "test", make_samples(6))
    told: list[str] = []
    run_recipe(_recipe(), tmp_path / "data", tmp_path / "run", tell=told.append)
    assert len(told) == 1 and "on test-*.tar" in told[0]


def test_without_a_val_split_that_is_said_before_training(
    tmp_path: Path, make_samples: Callable[..., list[Sample]]
) -> None:
    write_shards(tmp_path / "data", "train", make_samples(20))
    told: list[str] = []
    run_recipe(_recipe(), tmp_path / "data", tmp_path / "run", tell=told.append)
    assert len(told) == 1 and "no val split" in told[0] and "#val=0.01" in told[0]
    assert [line["step"] for line in _lines(tmp_path / "run")] == [10, 12]


def test_a_val_split_that_nothing_can_be_scored_on_is_refused_before_training(
    tmp_path: Path, make_samples: Callable[..., list[Sample]]
) -> None:
    samples = make_samples(20)
    write_shards(tmp_path / "data", "train", samples)
    write_shards(tmp_path / "data", "val", [replace(each, captions=(), label=0) for each in samples])
    with pytest.raises(DataError, match="neither classes with labels nor captions"):
        run_recipe(_recipe(), tmp_path / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.unfinished").exists()


def test_a_share_that_is_held_out_is_scored(
    tmp_path: Path, make_samples: Callable[..., list[Sample]]
) -> None:
    write_shards(tmp_path / "data", "train", make_samples(40))
    run_recipe(_recipe("steps=4"), Path(f"{tmp_path / 'data'}#val=0.3"), tmp_path / "run")
    assert RECALL in _lines(tmp_path / "run")[0]


def test_a_score_that_fails_is_said_and_the_run_goes_on(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DataError("more than a tenth of the images cannot be read")

    monkeypatch.setattr(validation, "evaluate_set", fail)
    with caplog.at_level(logging.WARNING):
        result = run_recipe(_recipe(), data, tmp_path / "run")
    assert result.steps == 12 and caplog.text.count("is not validated: more than a tenth") == 3
    assert not any(name.startswith("val_") for line in _lines(tmp_path / "run") for name in line)


def test_the_best_student_lies_beside_the_last_one_and_the_run_says_which_it_is(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best_at_ten = iter([0.2, 0.5, 0.4])

    def score(*_: object, **__: object) -> Any:
        hits = next(best_at_ten)
        return SimpleNamespace(
            metric="zero_shot_top1", score=hits, num_images=12, zero_shot=None, retrieval=None
        )

    monkeypatch.setattr(validation, "evaluate_set", score)
    monkeypatch.setattr(validation.Doubts, "hear", lambda *a, **k: None)
    kept: list[dict[str, torch.Tensor]] = []
    saving = validation.Validation._save

    def note(self: validation.Validation, path: Path, fields: dict[str, Any]) -> None:
        kept.append({name: each.clone() for name, each in self._state.model.state_dict().items()})
        saving(self, path, fields)

    monkeypatch.setattr(validation.Validation, "_save", note)
    result = run_recipe(_recipe("objective.dims=[8,64]"), data, tmp_path / "run")
    assert read_checkpoint_spec(tmp_path / "run/best").matryoshka_dims == (8, 64)
    told = read_manifest(tmp_path / "run").fields["validation"]
    assert told == result.validation and told["every"] == 5 and told["data"]["pairs"] == 12
    assert told["best"] == {"step": 10, "metric": "zero_shot_top1", "score": 0.5, "num_images": 12}
    assert told["last"]["step"] == 12 and told["last"]["score"] == 0.4
    weights = open_checkpoint(tmp_path / "run/best").model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in kept[-1].items())
    assert not torch.equal(
        weights["text_projection"], open_checkpoint(tmp_path / "run").model.text_tower.text_projection
    )
    for folder, says in (
        ("run", f"the best student is {tmp_path / 'run/best'}"),
        ("run/best", "after step 10"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["info", str(tmp_path / folder)])
        shown = " ".join(capsys.readouterr().out.split())
        assert stopped.value.code == 0 and "50.0 %" in shown and says in shown


def test_what_cannot_be_is_said_while_it_trains(
    tmp_path: Path,
    data: Path,
    mini_checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KDX_CACHE", str(tmp_path / "cache"))  # the teacher's classifier is kept
    recipe = read_recipe("demo-clip-kd", [*TOY, "optimizer.lr=1e-9"])
    run_recipe(recipe, data, tmp_path / "run", teachers=[mini_checkpoint], tell=lambda note: None)
    assert "THE TEACHER SCORES AT CHANCE" in caplog.text and "THE STUDENT SCORES AT CHANCE" in caplog.text
    (teacher,) = read_manifest(tmp_path / "run").fields["validation"]["teachers"]
    assert teacher["path"] == str(mini_checkpoint) and teacher["at_chance"]


def _train_on_ranks(data: Path, out: Path) -> None:
    with join_ranks() as ranks:
        run_recipe(_recipe(), data, out, ranks=ranks)


def test_of_several_processes_the_first_one_scores(tmp_path: Path, data: Path) -> None:
    open_split(data, "train")  # makes the index
    codes, _, err = start_ranks(2, tmp_path, _train_on_ranks, data, tmp_path / "run")
    assert codes == [0, 0], err
    assert [(line["step"], RECALL in line) for line in _lines(tmp_path / "run")] == [
        (5, True),
        (10, True),
        (12, True),
    ]


def test_numbers_of_a_scored_step_and_of_the_tenth_are_read_alone(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    reading = loop.Loop._read

    def note(self: loop.Loop, numbers: Any) -> Any:
        read.append(self.state.step)
        return reading(self, numbers)

    monkeypatch.setattr(loop.Loop, "_read", note)
    run_recipe(_recipe("steps=23", "validate_every=9"), data, tmp_path / "run")
    assert read == [9, 10, 18, 20, 23]
