"""Facts of bench/training.py, with a program in the peer's place that logs as open_clip does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.bench import training
from kdx.bench.training import (
    FROM_CACHE,
    ONLINE,
    PEER_ALONE,
    PEER_DISTILLS,
    STUDENT_ALONE,
    measure_training,
    training_table,
)
from kdx.core.errors import SetupError, UsageError
from kdx.data.shards import Sample, write_shards

MakeSamples = Callable[..., list[Sample]]

# tells what it was given, and logs four steps, the first two of them slow
PEER = """
import sys
print(sys.argv[1:], file=open(sys.argv[0] + ".given", "a"))
slow = 3 if "--distill-model" in sys.argv else 1
for seconds in (900, 90, slow, slow):
    print(f"INFO | Train Epoch: 0 [4/16 (25%)] Data (t): 0.001 Batch (t): {seconds}.000, 4/s LR: 0.1")
"""


@pytest.fixture
def data(tmp_path: Path, make_samples: MakeSamples) -> Path:
    write_shards(tmp_path / "data", "train", make_samples(16))
    return tmp_path / "data"


def peer_that(tmp_path: Path, program: str) -> Path:
    """Called as PYTHON -c PROGRAM OPERATORS …"""
    script, python = tmp_path / "peer.py", tmp_path / "python"
    script.write_text(program)
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {script} "$@"\n')
    python.chmod(0o755)
    return python


def test_programs_take_turns_and_the_ratios_are_those_of_their_steps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, str]] = []

    def run_kdx(setting: object, steps: int, program: str) -> None:
        taken.append((steps, program))

    monkeypatch.setattr(training, "_run_kdx", run_kdx)
    clock = iter(
        range(10_000)
    )  # every look at the clock is a second later: a run lasts one, whatever its steps
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock) + sum(steps for steps, _ in taken))
    document = measure_training(
        data,
        student="kdx-mini",
        teacher="kdx-mini",
        batch_size=4,
        steps=2,
        turns=2,
        peer=peer_that(tmp_path, PEER),
    )
    # the cache first; then each program in each turn, kdx in a run of 1 step and one of 3
    assert taken == [(1, FROM_CACHE)] + 2 * [
        (steps, program) for program in (STUDENT_ALONE, FROM_CACHE, ONLINE) for steps in (1, 3)
    ]
    seconds = {name: row["median"] for name, row in document["seconds_a_step"].items()}
    assert seconds == {STUDENT_ALONE: 1, FROM_CACHE: 1, ONLINE: 1, PEER_ALONE: 1, PEER_DISTILLS: 3}
    assert document["ratios"]["open_clip's distiller ÷ kdx from the cache"] == 3
    assert "| open_clip, --distill-model | 3 | 1.33 |" in training_table(document)
    given = (tmp_path / "peer.py.given").read_text().splitlines()
    assert len(given) == 4 and sum("--distill-pretrained" in line for line in given) == 2
    assert all("'--train-num-samples', '16'" in line and "train-00000.tar" in line for line in given)


@pytest.mark.slow
def test_without_a_peer_kdx_is_measured_alone_and_really_trains(data: Path) -> None:
    document = measure_training(data, student="kdx-mini", teacher="kdx-mini", batch_size=4, steps=2, turns=1)
    assert set(document["seconds_a_step"]) == {STUDENT_ALONE, FROM_CACHE, ONLINE}
    assert set(document["ratios"]) == {"kdx from the cache ÷ kdx, no teacher"}
    assert document["cache"]["pairs"] == 16 and document["data"]["caption_tokens"]["median"] > 2


def test_too_few_pairs_and_a_peer_that_fails_are_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="16 pairs"):
        measure_training(data, batch_size=8)
    monkeypatch.setattr(training, "_run_kdx", lambda *_, **__: None)
    for program, says in (
        ("raise SystemExit('no webdataset')", "failed: no webdataset"),
        ("print('hm')", "logged no step"),
    ):
        with pytest.raises(SetupError, match=says):
            measure_training(
                data, student="kdx-mini", teacher="kdx-mini", batch_size=4, peer=peer_that(tmp_path, program)
            )
    with pytest.raises(SetupError, match="does not start"):
        measure_training(
            data, student="kdx-mini", teacher="kdx-mini", batch_size=4, peer=tmp_path / "nothing"
        )
