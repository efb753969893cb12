"""Recipes: a training run as TOML, with `extends`; the shipped ones are package data and found by name.

torch is imported only to check what is not known without it: a student that kdx does not ship, MFD on one whose
patches are not plain. So the shipped recipes are listed in an instant.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kdx.core.config import Config, override, parse, read_extended
from kdx.core.errors import UsageError
from kdx.data.views import ViewConfig
from kdx.models.shipped import names, read_shipped

from .model_config import InheritConfig, ModelConfig
from .objective_config import ObjectiveConfig

RECIPES = Path(str(files(__package__ or "kdx.distill"))) / "recipes"


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """AdamW with linear warm-up and a half-cosine to 0. Defaults: CLIP-KD's (all its scripts alike)."""

    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0, description="not on biases, norms and scales (ndim < 2)")
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    eps: float = Field(default=1e-6, gt=0)
    warmup_steps: int = Field(default=10_000, ge=0)
    clip_grad_norm: float | None = Field(default=None, gt=0)


class PublishedConfig(Config):
    """What the source of a recipe reports of its run: nothing that kdx measured, and nothing that trains.

    A recipe that extends this one keeps it as what it may be compared with.
    """

    source: str = Field(description="where the numbers stand")
    train_data: str | None = None
    train_pairs: int | None = Field(default=None, ge=1)
    teacher_data: str | None = None
    teacher_imagenet_top1: float | None = Field(default=None, ge=0, le=100, description="zero-shot, in %")
    imagenet_top1: float | None = Field(
        default=None, ge=0, le=100, description="the student's, zero-shot, in %; none was published if unset"
    )


class Recipe(Config):
    """One training run. Without a distilling term and a teacher it trains a baseline."""

    about: str = ""
    student: str = Field(
        description="architecture: see `kdx models`, or a name of open_clip's, or timm:NAME+TEXT"
    )
    teacher: str | None = Field(
        default=None,
        description="architecture that the weights are set for; the checkpoint itself comes with --teacher",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="decides initial weights, order and captions")
    steps: int = Field(ge=1)
    batch_size: int = Field(default=1024, description="pairs a step; each is a negative of the others")
    max_bad_share: float = Field(
        default=0.01, ge=0, lt=1, description="share of undecodable images that is tolerated"
    )
    model: ModelConfig = ModelConfig()
    inherit: InheritConfig | None = None
    views: ViewConfig = ViewConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    published: PublishedConfig | None = None

    @field_validator("student", "teacher")
    @classmethod
    def _architectures_are_known(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and name not in names():
            from kdx.models.architectures import read_architecture

            try:
                read_architecture(name)
            except UsageError as error:
                raise UsageError(f"{info.field_name} = {name!r}: {error.what}", remedy=error.remedy) from None
        return name

    @field_validator("batch_size")
    @classmethod
    def _pairs_have_negatives(cls, size: int) -> int:
        if size < 2:
            raise UsageError(
                f"batch_size = {size}: the losses compare the pairs of a batch; a single one teaches nothing",
                remedy="set batch_size to 2 or more",
            )
        return size

    @property
    def needs_teacher(self) -> bool:
        """Whether --teacher is needed: to distil from, to inherit from, or both."""
        return self.objective.needs_teacher or (self.inherit is not None and self.inherit.from_teacher)

    @model_validator(mode="after")
    def _mfd_has_patches_to_hide(self) -> Recipe:
        if self.objective.masks_patches and not _is_plain_vit(self.student):
            from kdx.models.masking import check_masking

            try:
                check_masking(self.student)
            except UsageError as error:
                what = f"student = {self.student!r} with objective.mfd = {self.objective.mfd:g}: {error.what}"
                raise UsageError(what, remedy=error.remedy) from None
        return self

    @model_validator(mode="after")
    def _locked_towers_are_inherited(self) -> Recipe:
        inherited = () if self.inherit is None else self.inherit.towers
        for tower in sorted(self.model.locked.difference(inherited)):
            raise UsageError(
                f"model.lock_{tower} = true would lock random weights",
                remedy=f"inherit that tower ([inherit] towers), or set model.lock_{tower} = false",
            )
        return self


def recipe_names() -> list[str]:
    """The shipped recipes, in alphabetical order; files whose name begins with _ are only there to be extended."""
    return sorted(name for name in _shipped() if not name.rpartition("/")[2].startswith("_"))


def read_recipe(name_or_path: str, settings: Iterable[str] = ()) -> Recipe:
    """A shipped recipe by name, or a file by path, with `key=value` settings on top. Raises UsageError."""
    table = override(read_extended(name_or_path, _find), settings)
    return parse(Recipe, table, name_or_path)


@functools.cache
def _shipped() -> dict[str, Path]:
    """The files of the package by their names, `folder/name` where they lie in a folder."""
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in RECIPES.rglob("*.toml")}


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return path
    if name_or_path in _shipped():
        return _shipped()[name_or_path]
    close = difflib.get_close_matches(name_or_path, recipe_names(), n=1, cutoff=0.4)
    remedy = f"did you mean {close[0]}?" if close else "see `kdx distill --list`"
    raise UsageError(f"there is no recipe {name_or_path!r}", remedy=remedy)


def _is_plain_vit(architecture: str) -> bool:
    """Whether it is one of kdx's own with open_clip's ViT; that one's patches can always be hidden."""
    return architecture in names() and "patch_size" in read_shipped(architecture)["vision_cfg"]
