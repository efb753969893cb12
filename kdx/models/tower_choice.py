"""What a tower inherits, as configuration. No torch here: recipes are listed with it."""

from __future__ import annotations

from pydantic import Field

from kdx.core.config import Config


class TowerChoice(Config):
    """What a student's tower takes from the teacher's: the teacher's indices, in the order the student holds them."""

    layers: tuple[int, ...] | None = Field(
        default=None, description="blocks; default: evenly spaced, the first and the last kept"
    )
    heads: tuple[int, ...] | None = Field(
        default=None, description="attention heads, in every layer; default: the first"
    )
    channels: tuple[int, ...] | None = Field(
        default=None, description="channels of the residual stream; default: the first"
    )
    units: tuple[int, ...] | None = Field(
        default=None, description="hidden units of the MLPs, in every layer; default: the first"
    )
