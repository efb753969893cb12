"""The objective: from the embeddings of student and teacher to one loss and its named, weighted terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from kdx.core.config import Config

from . import losses

DISTILLING = ("crd", "fd", "icl")
INITIAL_LOG_SCALE = math.log(1 / 0.07)


@dataclass(frozen=True)
class Embeddings:
    """What one model says of a batch. image, text: [B, D], any dtype; scale: [], the multiplier exp(logit_scale).

    A student's rows need not be normalised; a teacher's are of unit norm.
    """

    image: Tensor
    text: Tensor
    scale: Tensor


class ObjectiveConfig(Config):
    """Weights of the terms in the paper's form; 0 leaves a term out.

    The published run (task 1, CRD 1, ICL 1, FD 2000 in the released code) means here task 1, crd ½, icl 1,
    fd 2000 / D of the teacher.
    """

    task: float = Field(default=1.0, ge=0, description="CLIP's contrastive loss on the captions")
    crd: float = Field(default=0.0, ge=0, description="contrastive relational distillation")
    fd: float = Field(default=0.0, ge=0, description="feature distillation, per summed squared distance")
    icl: float = Field(default=0.0, ge=0, description="interactive contrastive learning")

    @model_validator(mode="after")
    def _something_is_learnt(self) -> ObjectiveConfig:
        if not any((self.task, *(getattr(self, name) for name in DISTILLING))):
            raise ValueError("all weights are 0, there is nothing to learn")
        return self

    @property
    def needs_teacher(self) -> bool:
        return any(getattr(self, name) for name in DISTILLING)


class Objective(nn.Module):
    """Weighted sum of the configured losses; owns the projections and the learnable scale that they need.

    Where student and teacher differ in width, FD and ICL see the student's embedding through
    Linear(student_dim → teacher_dim) before normalisation; task and CRD see it as it is.
    """

    def __init__(self, config: ObjectiveConfig, student_dim: int, teacher_dim: int | None = None) -> None:
        super().__init__()
        if config.needs_teacher and teacher_dim is None:
            raise ValueError("a distilling objective needs the teacher's embedding width")
        self.config = config
        project = (config.fd or config.icl) and teacher_dim not in (None, student_dim)
        self.project_image = nn.Linear(student_dim, teacher_dim or 0) if project else nn.Identity()
        self.project_text = nn.Linear(student_dim, teacher_dim or 0) if project else nn.Identity()
        self.icl_logit_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE)) if config.icl else None

    def forward(self, student: Embeddings, teacher: Embeddings | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns (total, weighted terms by name); the terms' sum is the total. Computed in float32 or wider."""
        config = self.config
        raw_image, raw_text = _widened(student.image), _widened(student.text)
        image, text = F.normalize(raw_image, dim=-1), F.normalize(raw_text, dim=-1)  # [B, D]
        terms: dict[str, Tensor] = {}
        if config.task:
            terms["task"] = config.task * losses.contrastive(image, text, student.scale)
        if config.needs_teacher:
            assert teacher is not None
            teacher_image, teacher_text = _widened(teacher.image), _widened(teacher.text)  # [B, D teacher]
            if config.crd:
                student_logits = student.scale * image @ text.T  # [B, B]
                teacher_logits = teacher.scale * teacher_image @ teacher_text.T
                terms["crd"] = config.crd * losses.contrastive_relational(student_logits, teacher_logits)
            projected_image = F.normalize(self.project_image(raw_image), dim=-1)  # [B, D teacher]
            projected_text = F.normalize(self.project_text(raw_text), dim=-1)
            if config.fd:
                distance = losses.feature(projected_image, teacher_image) + losses.feature(
                    projected_text, teacher_text
                )
                terms["fd"] = config.fd * distance
            if self.icl_logit_scale is not None:
                scale = self.icl_logit_scale.exp()
                terms["icl"] = config.icl * losses.interactive(
                    projected_image, projected_text, teacher_image, teacher_text, scale
                )
        return torch.stack(list(terms.values())).sum(), terms


def _widened(embedding: Tensor) -> Tensor:
    return embedding if embedding.dtype == torch.float64 else embedding.float()
