"""The state of a run: one object that holds all that changes from step to step."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from kdx.models.clip import ClipModel

from .ema import WeightAverage
from .objective import Objective


class RunState:
    """What a run has become after `step` steps. With its recipe and data, its state_dict() is all that resuming takes.

    Order, views, captions, dropout and masks are functions of the recipe's seeds and the step, so there is no state of
    a loader or of a random generator in it.
    """

    def __init__(
        self,
        model: ClipModel,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: WeightAverage | None = None,
    ) -> None:
        self.step = 0
        self.model, self.objective = model, objective
        self.optimizer, self.scaler, self.average = optimizer, scaler, average

    def student(self) -> contextlib.AbstractContextManager[None]:
        """In this, the model is what the run makes: it has the averaged weights, if there are any."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def student_weights(self) -> dict[str, torch.Tensor]:
        """The state dict of what the run makes; tensors are those of the run itself."""
        return self.model.state_dict() if self.average is None else self.average.weights

    def state_dict(self) -> dict[str, Any]:
        """Tensors are those of the run itself, not copies."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        return state if self.average is None else {**state, "average": self.average.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load(state["average"])
