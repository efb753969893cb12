"""When the state of a run is written: every so many steps or minutes, and when it is interrupted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from kdx.core.folders import fsync

from .interruption import Interruption
from .ranks import Ranks
from .run_state import RunState
from .run_states import RunStates

EVERY_STEPS = 1000
EVERY_SECONDS = 600.0


class Keeper:
    """Called by the loop after each step. metrics: its file. seconds_before: that the run has taken before."""

    def __init__(
        self,
        states: RunStates,
        state: RunState,
        steps: int,
        ranks: Ranks,
        interruption: Interruption,
        metrics: Path,
        seconds_before: float,
    ) -> None:
        self.states, self.state, self.steps = states, state, steps
        self.ranks, self.interruption, self.metrics = ranks, interruption, metrics
        self._bad: dict[int, str] = {}  # images that do not decode, by row
        self._started = time.monotonic() - seconds_before
        self._last_step, self._last_time = state.step, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def after_step(self, bad: dict[int, str] | None) -> None:
        """bad: of all ranks, after a step whose numbers were read, else None: only there the ranks agree on anything.

        Raises KeyboardInterrupt or SystemExit, with the state written, when the run is interrupted.
        """
        if bad is not None:
            self._bad = bad
        if self.state.step == self.steps or (bad is None and self.ranks.size > 1):
            return
        if self._interrupted():
            if self.ranks.is_first:
                self._save()
                self.states.wait()
            self.ranks.wait()
            self.interruption.answer()
        if bad is not None and self.ranks.is_first:
            self.states.finish_if_written()
            due = self.state.step - self._last_step >= EVERY_STEPS
            if due or time.monotonic() - self._last_time >= EVERY_SECONDS:
                self._save()

    def _interrupted(self) -> bool:
        found = self.ranks.merge({self.ranks.rank: self.interruption.signal})
        noted = next((number for number in found.values() if number is not None), None)
        if noted is not None and self.interruption.signal is None:
            self.interruption.signal = noted
        return noted is not None

    def _save(self) -> None:
        """Unless the weights are spoilt: a loss that is not finite is only found some steps later."""
        self._last_step, self._last_time = self.state.step, time.monotonic()
        if not all(bool(torch.isfinite(each).all()) for each in self.state.model.parameters()):
            return
        fsync(self.metrics)
        numbers: dict[str, Any] = {
            "seconds": self.seconds,
            "bad": {str(row): why for row, why in self._bad.items()},
        }
        self.states.save(self.state, **numbers)
