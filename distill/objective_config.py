"""Which losses are summed with which weights. No torch here: recipes are read and listed without it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, model_validator

from kdx.core.config import Config
from kdx.core.errors import UsageError

DISTILLING = ("crd", "fd", "mfd", "gd", "icl", "afd", "cross_kd", "affinity")
SCALED = ("crd", "gd", "cross_kd", "affinity")  # those with the teacher's own similarities


def _scales(value: Any) -> Any:
    several = isinstance(value, list | tuple)
    numbers = cast(list[Any], list(value) if several else [value])
    for number in numbers or [None]:
        if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number < math.inf:
            raise ValueError("is neither a number above 0 nor a list of such")
    return tuple(map(float, numbers)) if several else float(numbers[0])


def _dims(value: Any) -> Any:
    """Ascending, so that each is cut from the next."""
    dims = cast(list[Any], list(value) if isinstance(value, list | tuple) else [value])
    whole = all(isinstance(each, int) and not isinstance(each, bool) and each >= 1 for each in dims)
    if not whole or not dims or dims != sorted(set(dims)):
        raise ValueError("is not a list of whole numbers from 1 on, each greater than the one before it")
    return tuple(dims)


Scales = Annotated[float | tuple[float, ...], BeforeValidator(_scales)]
Dims = Annotated[tuple[int, ...], BeforeValidator(_dims)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ObjectiveConfig(Config):
    """Weights of the terms; 0 leaves a term out.

    compat = "paper": losses in the form of arXiv 2307.12732. The published run (CRD 1, ICL 1, FD 2000 in the
    released code) means there crd ½, icl 1, fd 2000 / D of the teacher; gd 1e8 means 1e8 / (B² · D).
    compat = "clip-kd": exactly what the released code computes, with its weights as published.
    """

    task: float = Field(default=1.0, ge=0, description="CLIP's own loss: each image finds its caption")
    crd: float = Field(
        default=0.0,
        ge=0,
        description="contrastive relational distillation: how alike the teacher finds every image and caption",
    )
    fd: float = Field(
        default=0.0,
        ge=0,
        description="feature distillation: the teacher's embedding of the same image and text",
    )
    mfd: float = Field(
        default=0.0,
        ge=0,
        description="masked feature distillation: as fd, from images with hidden patches; ViT students only",
    )
    gd: float = Field(
        default=0.0,
        ge=0,
        description="gradient distillation: where CLIP's loss would move the teacher's embeddings",
    )
    icl: float = Field(
        default=0.0,
        ge=0,
        description="interactive contrastive learning: each image finds the teacher's caption, and the reverse",
    )
    afd: float = Field(
        default=0.0,
        ge=0,
        description="augmented feature distillation: CLIP's loss on embeddings made of both models' together",
    )
    cross_kd: float = Field(
        default=0.0,
        ge=0,
        description="as crd, with the student's images and the teacher's captions, and the reverse",
    )
    affinity: float = Field(
        default=0.0,
        ge=0,
        description="as crd, by cross-entropy: open_clip's distiller, TinyCLIP's affinity mimicking",
    )
    teacher_scale: Scales | None = Field(
        default=None,
        description="multiplier of the teacher's cosines, the inverse of a temperature, of all teachers or a list with "
        "one for each; TinyCLIP: 50, MobileCLIP 2: tuned for each. Unset: its own",
    )
    dims: Dims | None = Field(
        default=None,
        description="Matryoshka: so many first dimensions are a whole embedding each, and every term is taken at each; "
        "the last one is the student's width. Unset: that one alone",
    )
    dim_weights: tuple[Weight, ...] | None = Field(
        default=None, description="of the terms at each of dims; 1 each if unset (arXiv 2205.13147)"
    )
    mask_ratio: float = Field(
        default=0.75, gt=0, lt=1, description="share of patches that MFD hides from the student"
    )
    contrast: Literal["softmax", "sigmoid"] = Field(
        default="softmax", description="form of task and crd: CLIP's, or SigLIP's with a bias"
    )
    compat: Literal["paper", "clip-kd"] = "paper"

    @property
    def needs_teacher(self) -> bool:
        return bool(self.methods)

    @property
    def methods(self) -> tuple[str, ...]:
        """The distilling terms that are on."""
        return tuple(name for name in DISTILLING if getattr(self, name))

    @property
    def terms(self) -> tuple[str, ...]:
        """All terms that are on, CLIP's own among them."""
        return (("task",) if self.task else ()) + self.methods

    @property
    def masks_patches(self) -> bool:
        """Whether the student encodes a masked image as well; in the released code the mask has no effect."""
        return bool(self.mfd) and self.compat == "paper"

    @model_validator(mode="after")
    def _something_is_learnt(self) -> ObjectiveConfig:
        if not self.task and not self.methods:
            raise UsageError(
                "objective.task = 0 and no distilling term: there is nothing to learn",
                remedy=f"set objective.task, or one of {', '.join(DISTILLING)}",
            )
        return self

    @model_validator(mode="after")
    def _forms_go_together(self) -> ObjectiveConfig:
        if self.contrast == "sigmoid" and self.compat == "clip-kd":
            raise UsageError(
                'objective.contrast = "sigmoid" is not in the released code, objective.compat = "clip-kd"',
                remedy='set objective.compat = "paper"',
            )
        if self.contrast == "sigmoid" and not (self.task or self.crd):
            raise UsageError(
                'objective.contrast = "sigmoid" has no use: no term is of that form, and the bias would learn nothing',
                remedy='set objective.task or objective.crd, or objective.contrast = "softmax"',
            )
        if self.contrast == "sigmoid" and self.gd:
            raise UsageError(
                f'objective.gd = {self.gd:g} is of the softmax loss, objective.contrast = "sigmoid"',
                remedy='set objective.gd = 0, or objective.contrast = "softmax"',
            )
        if self.teacher_scale is not None and not any(getattr(self, name) for name in SCALED):
            raise UsageError(
                "objective.teacher_scale has no use: no term sees the teacher's cosines",
                remedy=f"set one of {', '.join(SCALED)}, or leave teacher_scale out",
            )
        return self

    @model_validator(mode="after")
    def _each_width_has_a_weight(self) -> ObjectiveConfig:
        if self.dim_weights is not None and len(self.dim_weights) != len(self.dims or ()):
            raise UsageError(
                f"objective.dim_weights has {len(self.dim_weights)} numbers for {len(self.dims or ())} dims",
                remedy="give one for each of objective.dims, or leave dim_weights out: then each counts 1",
            )
        return self

    @property
    def widths(self) -> dict[int, float]:
        """The weights of dims, by dimensions; none where they are unset."""
        dims = self.dims or ()
        return dict(zip(dims, self.dim_weights or (1.0,) * len(dims), strict=True))

    def check_width(self, student_dim: int) -> None:
        """Raises UsageError unless the last of dims is the width of the student's embeddings."""
        if self.dims and self.dims[-1] != student_dim:
            fitting = [*(each for each in self.dims if each < student_dim), student_dim]
            raise UsageError(
                f"objective.dims = {list(self.dims)}, but the student's embeddings have {student_dim} numbers",
                remedy=f"set objective.dims = {fitting}: the last one is the whole embedding",
            )

    def scale_of(self, number: int) -> float | None:
        """Of teacher `number`, from 0; None for its own."""
        return self.teacher_scale[number] if isinstance(self.teacher_scale, tuple) else self.teacher_scale

    def check_teachers(self, count: int) -> None:
        """Raises UsageError unless there is a scale for each of so many teachers."""
        if isinstance(self.teacher_scale, tuple) and len(self.teacher_scale) != count:
            raise UsageError(
                f"objective.teacher_scale has {len(self.teacher_scale)} numbers for {count} teachers",
                remedy="give one for each, in the order of --teacher, or a single number",
            )
