"""The states of a run on the disk: written while it goes on, each whole or not there, the last two kept.

`step-NNNNNNNNN/` holds what changes from step to step: tensors, as `torch.distributed.checkpoint` writes them, and
`numbers.json`. It is written under another name and renamed when it is on the disk. Reading one unpickles the index of
its tensors, so a state is only for those who wrote it; it is no product, and goes when the run is sealed.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from kdx.core.errors import DataError
from kdx.core.folders import fsync, read_json

from .ranks import Ranks
from .run_state import RunState

log = logging.getLogger(__name__)
# one rank writes for all, as they are equal
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)

KEPT = 2
NUMBERS = "numbers.json"
PREFIX = "step-"
WRITING = "writing-"
FAILURES = (Exception, CheckpointException)  # torch's own is no Exception


class RunStates:
    """The states in `folder`, which the first rank alone writes."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder = folder
        self._ranks = ranks
        self._writing: Future[Any] | None = None
        self._what: tuple[Path, Path] | None = None

    def steps(self) -> list[int]:
        """After which steps there is a state, in their order."""
        return sorted(int(path.name.removeprefix(PREFIX)) for path in self.folder.glob(f"{PREFIX}*"))

    def save(self, state: RunState, **numbers: Any) -> None:
        """Copies the state and writes it while the run goes on. numbers: what else is to be known of it, for JSON.

        A state that cannot be written is a warning: the run goes on, and the ones before it stay.
        """
        self.wait()
        final = self.folder / f"{PREFIX}{state.step:09d}"
        unnamed = self.folder / f"{WRITING}{state.step}"
        whole = state.state_dict()
        said = {"step": whole["step"], "scaler": whole["scaler"], **numbers}
        try:
            for left in self.folder.glob(f"{WRITING}*"):
                shutil.rmtree(left)
            unnamed.mkdir(parents=True)
            (unnamed / NUMBERS).write_text(json.dumps(said), encoding="utf-8")
            writing = async_save(
                _tensors(whole), checkpoint_id=unnamed, no_dist=True, process_group=self._ranks.control
            )
            assert isinstance(writing, Future)  # not of a stager that copies while the run goes on
            self._writing, self._what = writing, (unnamed, final)
        except FAILURES as error:
            self._not_written(state.step, error)

    def wait(self) -> None:
        """Returns when what is being written is whole."""
        if self._writing is None or self._what is None:
            return
        unnamed, final = self._what
        writing, self._writing, self._what = self._writing, None, None
        try:
            writing.result()
            fsync(unnamed / NUMBERS)
            unnamed.rename(final)
            fsync(self.folder)
        except FAILURES as error:
            self._not_written(int(final.name.removeprefix(PREFIX)), error)
            shutil.rmtree(unnamed, ignore_errors=True)
            return
        for step in self.steps()[:-KEPT]:
            shutil.rmtree(self.folder / f"{PREFIX}{step:09d}", ignore_errors=True)

    def finish_if_written(self) -> None:
        """Gives the state that is being written its name, if it is whole."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def load(self, step: int, state: RunState) -> dict[str, Any]:
        """Gives the run the state after `step`, on every rank; returns its numbers.

        Raises DataError for a damaged one.
        """
        folder = self.folder / f"{PREFIX}{step:09d}"
        numbers = read_json(folder / NUMBERS)
        whole = state.state_dict()
        try:
            whole["optimizer"]["state"] = _optimizer_state(folder, state.optimizer)
            load(_tensors(whole), checkpoint_id=folder, no_dist=True)
            state.load_state_dict({**whole, "step": numbers["step"], "scaler": numbers["scaler"]})
        except FAILURES as error:  # whatever torch and pickle say of damaged files
            raise DataError(
                f"is damaged: {_why(error)}",
                where=folder,
                remedy="remove it: --resume then goes on from the state before it, or begins anew",
            ) from None
        return numbers

    def _not_written(self, step: int, error: BaseException) -> None:
        steps = self.steps()
        last = f"the last one is of step {steps[-1]}" if steps else "there is none yet"
        why = _why(error)
        log.warning("the state after step %d cannot be written to %s: %s; %s", step, self.folder, why, last)


def _why(error: BaseException) -> str:
    """In one line. torch's own error has the system's in it, with a traceback."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return str(error).partition("\n")[0] or type(error).__name__


def _tensors(whole: dict[str, Any]) -> dict[str, Any]:
    """Those of a RunState's state_dict, by names alone."""
    optimizer = {str(number): each for number, each in whole["optimizer"]["state"].items()}
    others = {name: whole[name] for name in ("model", "objective", "average") if whole.get(name)}
    return {**others, **({"optimizer": optimizer} if optimizer else {})}


def _optimizer_state(folder: Path, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, torch.Tensor]]:
    """Empty tensors for what is stored: an optimizer that has taken no step has none.

    With the strides of its parameters, which may be channels-last: fused AdamW goes through both by memory.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, stored in FileSystemReader(folder).read_metadata().state_dict_metadata.items():
        room, _, rest = name.partition(".")
        if room == "optimizer" and isinstance(stored, TensorStorageMetadata):
            number, _, field = rest.partition(".")
            like, dtype = parameters[int(number)], stored.properties.dtype
            same = like.shape == stored.size
            empty = torch.empty_like(like, dtype=dtype) if same else torch.empty(stored.size, dtype=dtype)
            state.setdefault(int(number), {})[field] = empty.detach()
    return dict(sorted(state.items()))
