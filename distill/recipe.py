"""Recipes: a training run as TOML, with `extends`; the shipped ones are package data and found by name.

torch is imported only to check what is not known without it: a student that kdx does not ship, MFD on one whose
patches are not plain. So the shipped recipes are listed in an instant.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kdx.core.config import Config, Table, merge, override, parse, read_extended
from kdx.core.errors import UsageError
from kdx.core.spelling import nearest
from kdx.data.views import ViewConfig
from kdx.models.architecture import Architecture, parameter_counts, read_architecture

from .model_config import InheritConfig, ModelConfig
from .objective_config import ObjectiveConfig
from .schedule import Schedule, default_warmup, fitting_batch_size

if TYPE_CHECKING:
    from kdx.data.shards import ShardSet

RECIPES = Path(str(files(__package__ or "kdx.distill"))) / "recipes"
SMALL = ("small-baseline", "small-clip-kd")  # recipes whose numbers come from the data

Precision = Literal["fp32", "bf16", "fp16"]
Names = str | tuple[str, ...]
Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """AdamW with linear warm-up and a half-cosine to 0. Defaults: CLIP-KD's (all its scripts alike)."""

    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0, description="not on biases, norms and scales (ndim < 2)")
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    eps: float = Field(default=1e-6, gt=0)
    warmup_steps: int | None = Field(
        default=None, ge=0, description="a tenth of the steps, at most CLIP-KD's 10,000, if unset"
    )
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
    teacher: Names | None = Field(
        default=None,
        description="architecture that the weights are set for, or a list of an ensemble's; the checkpoints themselves "
        "come with --teacher",
    )
    teacher_source: Names | None = Field(
        default=None,
        description="what `kdx import` fetches such a teacher by, or a list: named where one is missing, never fetched",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="decides initial weights, order and captions")
    steps: int | None = Field(default=None, ge=1, description="optimiser steps; either these or epochs")
    epochs: float | None = Field(default=None, gt=0, description="passes over the data")
    batch_size: int | Literal["auto"] = Field(
        default=1024,
        description='pairs a step; each is a negative of the others. "auto": 16 to 256, by the number of pairs',
    )
    precision: Precision | None = Field(
        default=None,
        description="of the towers; weights and losses are fp32. Unset: bf16 on a GPU that has it, fp16 on an older "
        "one, fp32 on a CPU",
    )
    compile: bool = Field(
        default=False,
        description="compile the towers with torch.compile, on a GPU; off on a CPU, where it gained nothing",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="parts in which a batch goes through the towers, for memory: the gradients stay those of the whole "
        "batch, for a second forward pass",
    )
    text_blocks: int | None = Field(
        default=None,
        ge=1,
        description="blocks of texts of like length in which a batch goes through the text tower; as many, up to 8, as "
        "save most if unset",
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of the average of the weights, which is then the student; the last weights are if unset",
    )
    validate_every: int = Field(
        default=0,
        ge=0,
        description="steps between scores on the data's val split, the last step being scored too; the best student is "
        "kept beside the last one. 0: none",
    )
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
    def _architectures_are_known(cls, given: Names | None, info: ValidationInfo) -> Names | None:
        for name in _names(given):
            if name in parameter_counts():
                continue  # known without building it, which takes torch
            try:
                read_architecture(name)
            except UsageError as error:
                raise UsageError(f"{info.field_name} = {name!r}: {error.what}", remedy=error.remedy) from None
        return given

    @field_validator("batch_size", mode="plain")
    @classmethod
    def _pairs_have_negatives(cls, size: Any) -> int | Literal["auto"]:
        if size == "auto":
            return "auto"
        if not isinstance(size, int) or size < 2:
            raise UsageError(
                f"batch_size = {size!r}: the losses compare the pairs of a batch, so it takes two or more",
                remedy='set batch_size to 2 or more, or to "auto"',
            )
        return size

    def schedule(self, pairs: int | None = None) -> Schedule | None:
        """Steps, batch and warm-up on so many pairs; None where they depend on the pairs and these are not known.

        Raises UsageError for less than one step, and where the warm-up is no shorter than the run.
        """
        if self.batch_size != "auto":
            batch_size = self.batch_size
        elif pairs is not None:
            batch_size = fitting_batch_size(pairs)
        else:
            return None
        if self.steps is not None:
            steps = self.steps
        elif self.epochs is not None and pairs is not None:
            steps = round(self.epochs * (pairs // batch_size))
            if steps < 1:
                raise UsageError(
                    f"epochs = {self.epochs:g} of {pairs} pairs, {batch_size} a step, are less than one step",
                    remedy="set more epochs, or steps instead",
                )
        else:
            return None
        warmup = self.optimizer.warmup_steps
        if warmup is None:
            warmup = default_warmup(steps)
        elif warmup >= steps:
            raise UsageError(
                f"optimizer.warmup_steps = {warmup} of {steps} steps: the learning rate would never be reached",
                remedy=f"--set optimizer.warmup_steps={default_warmup(steps)}, or train for more steps",
            )
        return Schedule(steps, batch_size, warmup)

    def resolve(self, samples: ShardSet) -> tuple[Recipe, Schedule]:
        """The same recipe with all numbers that depend on the data written into it, and these numbers.

        Raises UsageError for fewer samples than a batch or a step, and for a warm-up as long as the run.
        """
        pairs = len(samples)
        if self.batch_size != "auto" and self.batch_size > pairs:
            raise UsageError(
                f"batch_size = {self.batch_size} is more than the {pairs} samples",
                where=samples.folder,
                remedy=f"--set batch_size={pairs}, or take a recipe for small data: {', '.join(SMALL)}",
            )
        schedule = self.schedule(pairs)
        assert schedule is not None, "pairs are known"
        optimizer = self.optimizer.model_copy(update={"warmup_steps": schedule.warmup_steps})
        numbers = {"steps": schedule.steps, "epochs": None, "batch_size": schedule.batch_size}
        return self.model_copy(update={**numbers, "optimizer": optimizer}), schedule

    @property
    def architecture(self) -> Architecture:
        """The student's; for a sigmoid objective with SigLIP's initial scale and bias (arXiv 2303.15343).

        For softmax it has no bias, which would learn nothing and turn its zero-shot scores into sigmoids.
        """
        architecture = read_architecture(self.student)
        if self.objective.contrast == "softmax":
            has_bias = architecture.init_logit_bias is not None
            return architecture.changed(init_logit_bias=None) if has_bias else architecture
        initial = {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}
        missing = initial.keys() - architecture.model_fields_set
        return architecture.changed(**{field: initial[field] for field in missing})

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """The architectures that the weights are set for."""
        return _names(self.teacher)

    @property
    def teacher_imports(self) -> dict[str, str]:
        """The commands that fetch them, by where each then lies; {} where a recipe does not say."""
        sources = _names(self.teacher_source)
        places = (
            ["teacher"] if len(sources) == 1 else [f"teacher-{number + 1}" for number in range(len(sources))]
        )
        return {
            place: f"kdx import {source} --out {place}" for place, source in zip(places, sources, strict=True)
        }

    @property
    def needs_teacher(self) -> bool:
        """Whether --teacher is needed: to distil from, to inherit from, or both."""
        return self.objective.needs_teacher or (self.inherit is not None and self.inherit.from_teacher)

    @model_validator(mode="after")
    def _length_is_said_once(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            both = "both are set" if self.steps else "neither is set"
            raise UsageError(f"a run has either steps or epochs: {both}", remedy="set one of them")
        self.schedule()  # a warm-up that does not fit is found here, if its steps are known
        return self

    @model_validator(mode="after")
    def _each_teacher_has_its_source(self) -> Recipe:
        named, sources = len(self.teacher_names), len(_names(self.teacher_source))
        if sources not in (0, named):
            raise UsageError(
                f"teacher_source is of {sources} and teacher of {named}",
                remedy="name as many sources as teachers, in their order, or leave teacher_source out",
            )
        return self

    @property
    def matryoshka_dims(self) -> tuple[int, ...]:
        """The widths at which the student's embedding is a whole one; none where it is so only as it is."""
        dims = self.objective.dims or ()
        return dims if len(dims) > 1 else ()

    @model_validator(mode="after")
    def _dims_end_with_the_whole_embedding(self) -> Recipe:
        if self.objective.dims:
            self.objective.check_width(self.architecture.embed_dim)
        return self

    @model_validator(mode="after")
    def _mfd_has_patches_to_hide(self) -> Recipe:
        if self.objective.masks_patches and not _is_plain_vit(self.architecture):
            from kdx.models.masking import check_masking

            try:
                check_masking(self.architecture)
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


def _names(given: Names | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else given


def recipe_names() -> list[str]:
    """The shipped recipes, in alphabetical order; files whose name begins with _ are only there to be extended."""
    return sorted(name for name in _shipped() if not name.rpartition("/")[2].startswith("_"))


def read_recipe(name_or_path: str, settings: Iterable[str] = ()) -> Recipe:
    """A shipped recipe by name, or a file by path, with `key=value` settings on top. Raises UsageError."""
    table = override(read_extended(name_or_path, _find, _merge), settings, _merge)
    return parse(Recipe, table, name_or_path)


def _merge(base: Table, over: Table) -> Table:
    """Steps and epochs say the same thing: the nearer one counts. A source is that of the teacher beside it."""
    merged = merge(base, over)
    for one, other in (("steps", "epochs"), ("epochs", "steps"), ("teacher", "teacher_source")):
        if one in over and other not in over:
            merged.pop(other, None)
    return merged


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
    close = nearest(name_or_path, recipe_names())
    remedy = f"did you mean {close}?" if close else "see `kdx distill --list`"
    raise UsageError(f"there is no recipe {name_or_path!r}", remedy=remedy)


def _is_plain_vit(architecture: Architecture) -> bool:
    """Whether it is open_clip's ViT; that one's patches can always be hidden."""
    return architecture.vision_cfg.timm_model_name is None and isinstance(architecture.vision_cfg.layers, int)
