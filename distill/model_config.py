"""How a recipe's student starts: locked towers, gradient checkpointing, weights inherited from a teacher."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kdx.core.config import Config
from kdx.models.tower_choice import TowerChoice

Tower = Literal["image", "text"]
FROM_TEACHER = "teacher"


class ModelConfig(Config):
    """What of the student learns, and how its backward pass finds its activations."""

    lock_image: bool = Field(default=False, description="the image tower stays as it was inherited")
    lock_text: bool = Field(default=False, description="the text tower stays as it was inherited")
    grad_checkpointing: bool = Field(
        default=False, description="compute activations twice instead of keeping them: less memory, more time"
    )

    @property
    def locked(self) -> frozenset[str]:
        """The towers to lock."""
        return frozenset(
            tower for tower, lock in (("image", self.lock_image), ("text", self.lock_text)) if lock
        )

    @model_validator(mode="after")
    def _something_learns(self) -> ModelConfig:
        if self.lock_image and self.lock_text:
            raise ValueError("lock_image and lock_text leave nothing to learn")
        return self


class InheritConfig(Config):
    """Weight inheritance (TinyCLIP, arXiv 2309.12314): see kdx/models/inheritance.py."""

    source: str = Field(
        default=FROM_TEACHER,
        description='"teacher" is the checkpoint of --teacher; else the path of a checkpoint or run',
    )
    towers: tuple[Tower, ...] = Field(
        default=("image", "text"), min_length=1, description="the towers that inherit"
    )
    image: TowerChoice = TowerChoice()
    text: TowerChoice = TowerChoice()

    @property
    def from_teacher(self) -> bool:
        return self.source == FROM_TEACHER

    def choice(self, tower: Tower) -> TowerChoice | None:
        """What a tower takes; None if it does not inherit."""
        if tower not in self.towers:
            return None
        return self.image if tower == "image" else self.text

    @model_validator(mode="after")
    def _choices_are_used(self) -> InheritConfig:
        for tower, choice in (("image", self.image), ("text", self.text)):
            if tower not in self.towers and choice != TowerChoice():
                raise ValueError(f"inherit.{tower} is set, but towers = {list(self.towers)}")
        return self
