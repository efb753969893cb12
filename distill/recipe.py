"""Recipes: a training run as TOML, with `extends`; the shipped ones are package data and found by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from kdx.core.config import Config, override, parse, read_extended
from kdx.core.errors import UsageError
from kdx.data.views import ViewConfig
from kdx.models.architectures import read_architecture

from .model_config import InheritConfig, ModelConfig
from .objective_config import ObjectiveConfig

RECIPES = files(__package__ or "kdx.distill") / "recipes"


class OptimizerConfig(Config):
    """AdamW with linear warm-up and a half-cosine to 0. Defaults: CLIP-KD's (all its scripts alike)."""

    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0, description="not on biases, norms and scales (ndim < 2)")
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(default=1e-6, gt=0)
    warmup_steps: int = Field(default=10_000, ge=0)
    clip_grad_norm: float | None = Field(default=None, gt=0)


class Recipe(Config):
    """One training run. Without a distilling term and a teacher it trains a baseline."""

    about: str = ""
    student: str = Field(
        description="architecture: see `kdx models`, or a name of open_clip's, or timm:NAME+TEXT"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="decides initial weights, order and captions")
    steps: int = Field(ge=1)
    batch_size: int = Field(default=1024, ge=2, description="pairs a step; each is a negative of the others")
    max_bad_share: float = Field(
        default=0.01, ge=0, lt=1, description="share of undecodable images that is tolerated"
    )
    model: ModelConfig = ModelConfig()
    inherit: InheritConfig | None = None
    views: ViewConfig = ViewConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    objective: ObjectiveConfig = ObjectiveConfig()

    @field_validator("student")
    @classmethod
    def _student_is_known(cls, name: str) -> str:
        try:
            read_architecture(name)
        except UsageError as error:
            raise ValueError(f"{error.what}; {error.remedy}") from None
        return name

    @property
    def needs_teacher(self) -> bool:
        """Whether --teacher is needed: to distil from, to inherit from, or both."""
        return self.objective.needs_teacher or (self.inherit is not None and self.inherit.from_teacher)

    @model_validator(mode="after")
    def _locked_towers_are_inherited(self) -> Recipe:
        inherited = () if self.inherit is None else self.inherit.towers
        for tower in sorted(self.model.locked.difference(inherited)):
            raise ValueError(f"model.lock_{tower} would lock random weights: inherit that tower")
        return self


def recipe_names() -> list[str]:
    """The shipped recipes, in alphabetical order."""
    return sorted(
        file.name.removesuffix(".toml") for file in RECIPES.iterdir() if file.name.endswith(".toml")
    )


def read_recipe(name_or_path: str, settings: Iterable[str] = ()) -> Recipe:
    """A shipped recipe by name, or a file by path, with `key=value` settings on top. Raises UsageError."""
    table = override(read_extended(name_or_path, _find), settings)
    return parse(Recipe, table, name_or_path)


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return path
    if name_or_path in recipe_names():
        return Path(str(RECIPES / f"{name_or_path}.toml"))
    close = difflib.get_close_matches(name_or_path, recipe_names(), n=1, cutoff=0.4)
    remedy = f"did you mean {close[0]}?" if close else f"shipped recipes: {', '.join(recipe_names())}"
    raise UsageError(f"there is no recipe {name_or_path!r}", remedy=remedy)
