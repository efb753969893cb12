"""Facts of kdx/data/synthetic/drawn_set.py: a drawn set is a function of its arguments, and whole or not there."""

import os
from pathlib import Path
from typing import Any

import pytest

from kdx.core.errors import SetupError, UsageError
from kdx.data.shards import open_split, read_classes, read_templates
from kdx.data.synthetic import draw_sample, drawn_set, write_synthetic
from kdx.data.synthetic.scene import CLASSES, TEMPLATES


def _write(folder: Path, *, train: int = 12, val: int = 5, seed: int = 0, **options: Any) -> dict[str, bytes]:
    """Draws a set and returns its files."""
    write_synthetic(folder, num_train=train, num_val=val, seed=seed, image_size=16, **options)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_set_holds_what_was_asked_for(tmp_path: Path) -> None:
    files = _write(tmp_path / "set")
    assert files.keys() == {"train-00000.tar", "val-00000.tar", "classes.txt", "templates.txt"}
    train, val = open_split(tmp_path / "set", "train"), open_split(tmp_path / "set", "val")
    assert (len(train), len(val), train.skipped, val.skipped) == (12, 5, [], [])
    assert read_classes(tmp_path / "set") == list(CLASSES)
    assert read_templates(tmp_path / "set") == list(TEMPLATES)
    assert {sample.image for sample in train}.isdisjoint(sample.image for sample in val)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_a_sample_depends_on_seed_split_and_number_alone(tmp_path: Path) -> None:
    _write(tmp_path / "set", seed=3)
    assert open_split(tmp_path / "set", "val")[4] == draw_sample("val", 4, seed=3, image_size=16)
    few = _write(tmp_path / "few", train=2, val=5, seed=3)
    assert few["val-00000.tar"] == (tmp_path / "set" / "val-00000.tar").read_bytes()
    assert open_split(tmp_path / "few", "train")[:2] == open_split(tmp_path / "set", "train")[:2]


def test_any_number_of_processes_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn_set, "CHUNK", 5)
    sets: list[dict[str, bytes]] = []
    for processes in (1, 2):
        monkeypatch.setattr(drawn_set, "cpu_count", lambda processes=processes: processes)
        sets.append(_write(tmp_path / str(processes)))
    monkeypatch.setattr(drawn_set, "CHUNK", 250)
    assert sets[0] == sets[1] == _write(tmp_path / "in one chunk")


def test_another_seed_gives_other_samples(tmp_path: Path) -> None:
    one, two = (_write(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert one["train-00000.tar"] != two["train-00000.tar"]
    assert one["classes.txt"] == two["classes.txt"]


def test_progress_counts_the_samples_of_both_splits(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    _write(tmp_path / "set", progress=lambda done, total, note="": seen.append((done, total)))
    assert seen == [(done, 17) for done in range(1, 18)]


def test_a_set_without_held_out_samples_has_no_val_shards(tmp_path: Path) -> None:
    assert "val-00000.tar" not in _write(tmp_path / "set", val=0)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_set_leaves_nothing_and_keeps_the_old_one(tmp_path: Path, overwrite: bool) -> None:
    def interrupt(done: int, total: int, note: str = "") -> None:
        if done == total:
            raise KeyboardInterrupt

    before = _write(tmp_path / "set") if overwrite else {}
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "set", seed=1, progress=interrupt, overwrite=overwrite)
    assert [entry.name for entry in tmp_path.iterdir()] == (["set"] if overwrite else [])
    if overwrite:
        assert {file.name: file.read_bytes() for file in (tmp_path / "set").iterdir()} == before


class _Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)

    def __call__(self, *_: object) -> Any:
        raise AssertionError


def test_a_drawing_process_that_dies_is_a_setup_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn_set, "CHUNK", 5)
    monkeypatch.setattr(drawn_set, "cpu_count", lambda: 2)
    monkeypatch.setattr(drawn_set, "draw_sample", _Deadly())
    with pytest.raises(SetupError):
        _write(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"num_train": 0}, {"num_val": -1}, {"seed": -1}, {"image_size": 15}, {"image_size": 1025}]
)
def test_what_cannot_be_drawn_is_a_usage_error(tmp_path: Path, wrong: dict[str, int]) -> None:
    arguments: dict[str, Any] = {"num_train": 1, "num_val": 1, "seed": 0, "image_size": 16} | wrong
    with pytest.raises(UsageError) as caught:
        write_synthetic(tmp_path / "set", **arguments)
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_an_old_set_is_replaced_only_when_asked_and_other_files_stay(tmp_path: Path) -> None:
    _write(tmp_path, train=3)
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(UsageError) as caught:
        _write(tmp_path, train=3)
    assert caught.value.where == str(tmp_path) and "--overwrite" in (caught.value.remedy or "")
    assert len(open_split(tmp_path, "train")) == 3
    files = _write(tmp_path, train=3, val=0, seed=1, overwrite=True)
    assert files.keys() == {"train-00000.tar", "classes.txt", "templates.txt", "notes.md"}
    assert open_split(tmp_path, "train")[0] == draw_sample("train", 0, seed=1, image_size=16)
