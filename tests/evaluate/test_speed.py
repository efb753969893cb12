"""Facts of kdx/evaluate/speed.py: a model measured in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdx.core.errors import DataError, SetupError
from kdx.core.folders import MANIFEST
from kdx.evaluate.speed import ONE_THREAD, Case, SpeedProcess, measure_speed, taken_length
from kdx.runtime.exported_model import open_exported_model
from kdx.runtime.torch import TorchEncoder


def test_a_brief_measurement_tells_each_batch_and_the_peak(exported_model: Path) -> None:
    measured = measure_speed(exported_model, open_exported_model(exported_model).spec)
    for tower in ("image", "text"):
        assert list(measured[tower]) == ["1", "32"]
        for times in measured[tower].values():
            assert 0 < times["min"] <= times["p50"] <= times["p95"] and times["num_samples"] >= 1
    assert measured["threads"] == 1 and measured["cpu"] and 20 < measured["peak_mib"] < 5_000


def test_the_length_that_is_told_is_the_one_that_was_measured(exported_model: Path) -> None:
    spec = open_exported_model(exported_model).spec
    fixed = replace(spec, text_padding="full")
    assert [taken_length(each) for each in (spec, fixed)] == [12, spec.context_length]
    assert Case(1, 12).inputs(fixed).shape == (1, spec.context_length)


def test_the_answers_are_those_of_the_model(mini_checkpoint: Path) -> None:
    case = Case(3, 5)
    with SpeedProcess(mini_checkpoint) as process, TorchEncoder.open(mini_checkpoint) as encoder:
        np.testing.assert_allclose(
            process.embeddings(case), encoder.encode_text(case.inputs(encoder.spec)), rtol=0, atol=1e-6
        )


def test_texts_are_no_longer_than_the_model_takes(exported_model: Path) -> None:
    spec = open_exported_model(exported_model).spec
    assert Case(2, 10_000).inputs(spec).shape == (2, spec.context_length)


def test_a_folder_that_is_not_sealed_yet_is_measured_too(exported_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "new"
    shutil.copytree(exported_model, copy)
    (copy / MANIFEST).unlink()
    with SpeedProcess(copy) as process:
        assert process.milliseconds(Case(1)) > 0


def test_an_error_of_the_model_keeps_its_class_across_the_process(
    exported_model: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(exported_model, damaged)
    (damaged / MANIFEST).unlink()
    (damaged / "image_encoder.onnx").write_bytes(b"nothing")
    with SpeedProcess(damaged) as process, pytest.raises(DataError):
        process.milliseconds(Case(1))


def test_a_killed_process_is_the_machines_fault(exported_model: Path) -> None:
    with SpeedProcess(exported_model) as process:
        process.peak_mib()
        os.kill(process._process.pid or 0, signal.SIGKILL)
        with pytest.raises(SetupError):
            process.milliseconds(Case(1))


def test_the_environment_is_as_before(exported_model: Path) -> None:
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    SpeedProcess(exported_model).close()
    assert {name: os.environ.get(name) for name in ONE_THREAD} == before
