"""Facts of distill/tracking.py, with programs in the trackers' places that write down what they get."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kdx.core.errors import SetupError, UsageError
from kdx.core.log import read_metrics
from kdx.data.shards import Sample, write_shards
from kdx.distill import read_recipe, run_recipe, tracking
from kdx.distill.tracking import check_trackers

RECIPE = read_recipe(
    "demo-baseline", ["steps=20", "batch_size=8", "optimizer.warmup_steps=1", "validate_every=20"]
)


@pytest.fixture
def data(tmp_path: Path, make_samples: Callable[..., list[Sample]]) -> Path:
    write_shards(tmp_path / "data", "train", make_samples(16))
    write_shards(tmp_path / "data", "val", make_samples(8))
    return tmp_path / "data"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the trackers were given, in its order."""
    calls: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            calls.append(("tensorboard", folder))

        def add_scalar(self, *scalar: Any) -> None:
            calls.append(scalar)

        def flush(self) -> None: ...

        def close(self) -> None:
            calls.append(("closed",))

    def init(**settings: Any) -> SimpleNamespace:
        calls.append(("wandb", settings["project"], settings["name"], settings["config"]["steps"]))
        return SimpleNamespace(
            log=lambda numbers, step: calls.append((step, numbers)),
            finish=lambda exit_code=0: calls.append(("finished", exit_code)),
        )

    board, wandb = ModuleType("torch.utils.tensorboard"), ModuleType("wandb")
    board.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    wandb.init, wandb.Settings = init, lambda: SimpleNamespace(project=None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    return calls


def test_trackers_get_the_numbers_of_the_metrics_file(
    data: Path, tmp_path: Path, given: list[tuple[Any, ...]]
) -> None:
    run_recipe(RECIPE, data, tmp_path / "run", trackers=["tensorboard", "wandb"])
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 20]
    expected = [{name: pytest.approx(value) for name, value in row.items() if name != "step"} for row in rows]
    assert [call for call in given if isinstance(call[0], int)] == [(10, expected[0]), (20, expected[1])]
    for name in ("loss", "val_retrieval_recall@1", "pairs_per_second", "peak_mib"):
        assert (name, pytest.approx(rows[1][name]), 20) in given
    assert given[:2] == [("tensorboard", f"{tmp_path / 'run'}.tensorboard"), ("wandb", "kdx", "run", 20)]
    assert given[-2:] == [("finished", 0), ("closed",)]


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(
    data: Path, tmp_path: Path, given: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(numbers: object, step: int) -> None:
        raise ConnectionError("the network is gone")

    sys.modules["wandb"].init = lambda **_: SimpleNamespace(log=refuse, finish=lambda exit_code=0: None)  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        result = run_recipe(RECIPE, data, tmp_path / "run", trackers=["wandb"])
    assert result.steps == 20 and caplog.text.count("wandb takes no more numbers: the network is gone") == 1


def test_what_is_not_there_is_said_before_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no tracker 'mlflow'"):
        check_trackers(["mlflow"])
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="tensorboard is not installed") as error:
        run_recipe(RECIPE, tmp_path / "nothing", tmp_path / "run", trackers=["tensorboard"])
    assert error.value.remedy == "pip install 'kdx[tensorboard]'"
