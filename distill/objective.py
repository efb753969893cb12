"""The objective: from the embeddings of student and teachers to one loss and its named, weighted terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdx.models.architecture import INITIAL_LOG_SCALE

from . import compat, losses
from .local_rows import LocalRows, Logits
from .objective_config import ObjectiveConfig
from .ranks import ALONE, Ranks


@dataclass(frozen=True)
class Embeddings:
    """What one model says of a batch. image, text: [B, D], any dtype; scale: [], the multiplier exp(logit_scale).

    bias: [], of a sigmoid model. masked_image: [B, D], of the same images with most patches hidden (MFD); student
    only. A student's rows need not be normalised; a teacher's are of unit norm.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None = None
    masked_image: Tensor | None = None


class Objective(nn.Module):
    """Weighted sum of the configured losses; owns the projections and learnable scales that they need.

    teacher_dim: one width for each teacher. Several teachers count as their mean: of probabilities in crd and
    affinity, of losses in all else. Where student and teacher differ in width, all but task, crd, affinity and afd
    see the student's embedding through Linear(student_dim → teacher_dim) before normalisation.

    config.dims (Matryoshka, arXiv 2205.13147): the loss is the weighted sum of what it would be for students whose
    embeddings are the first dims[0], dims[1], … dimensions of this one. All share what is learnt beside the student: a
    narrower one is projected by the first columns of the whole one's projection (MRL-E).

    ranks: the processes over which a batch is spread. Each gives its own b pairs and gets the mean over its own rows;
    the mean of these losses over the processes is the loss of the whole batch, and the mean of their gradients its
    gradient, which is what DistributedDataParallel makes of them.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        student_dim: int,
        teacher_dim: int | Sequence[int] | None = None,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        widths = (teacher_dim,) if isinstance(teacher_dim, int) else tuple(teacher_dim or ())
        if config.needs_teacher and not widths:
            raise ValueError(
                f"{', '.join(config.methods)} need the teacher's embedding width: give teacher_dim"
            )
        config.check_teachers(len(widths))
        config.check_width(student_dim)
        self.config = config
        self.ranks = ranks
        self.bridges = nn.ModuleList(
            _Bridge(config, student_dim, width, ranks) for width in (widths if config.needs_teacher else ())
        )

    def forward(
        self, student: Embeddings, teacher: Embeddings | Sequence[Embeddings] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns (total, weighted terms by name); the terms' sum is the total. Computed in float32 or wider.

        Raises ValueError where an embedding that a term needs is not given.
        """
        given = _teachers(teacher) if self.bridges else []
        teachers = [self._rows(each, self.config.scale_of(number)) for number, each in enumerate(given)]
        if len(teachers) != len(self.bridges):
            raise ValueError(f"the objective was made for {len(self.bridges)} teachers, {len(teachers)} came")
        terms = self._at_all_widths(student, teachers)
        weighted = {name: getattr(self.config, name) * term for name, term in terms.items()}
        return torch.stack(list(weighted.values())).sum(), weighted

    def teacher_cosine(
        self, student: Embeddings, teacher: Embeddings | Sequence[Embeddings]
    ) -> Tensor | None:
        """Mean cosine of student and teacher embeddings of the same image; the paper's measure of mimicry.

        Of this process's part of the batch, and of teachers that are as wide as the student or that it is projected
        to; None if there is none.
        """
        raw = _prepared(student, unit=False).image
        both = zip(self.bridges, _teachers(teacher), strict=True)
        projected = [(cast(_Bridge, bridge).project_image(raw), its.image) for bridge, its in both]
        cosines = [
            F.cosine_similarity(own, their).mean() for own, their in projected if own.shape == their.shape
        ]
        return torch.stack(cosines).mean() if cosines else None

    def _rows(self, embeddings: Embeddings, scale: float | None = None) -> LocalRows:
        """scale: None for the model's own."""
        own, bias = embeddings.scale, embeddings.bias
        if scale is not None:
            # a temperature divides the whole logit: a pair whose logit is 0 keeps it
            bias = None if bias is None else bias * scale / own
            own = torch.full_like(own, scale)
        return LocalRows(embeddings.image, embeddings.text, own, bias, ranks=self.ranks)

    def _at_all_widths(self, student: Embeddings, teachers: list[LocalRows]) -> dict[str, Tensor]:
        """Each term, summed over config.dims with their weights."""
        if not self.config.dims:
            return self._terms(student, teachers)
        weights = self.config.widths
        each = [self._terms(_first(dim, student), teachers) for dim in weights]
        return {
            name: torch.stack(
                [weight * some[name] for weight, some in zip(weights.values(), each, strict=True)]
            ).sum()
            for name in each[0]
        }

    def _terms(self, student: Embeddings, teachers: list[LocalRows]) -> dict[str, Tensor]:
        """Each term for the whole embedding, without its weight. student: rows of any norm."""
        own = self._rows(_prepared(student, unit=True))
        terms: dict[str, Tensor] = {}
        if self.config.task:
            terms["task"] = self._task(own)
        if self.bridges:
            terms |= self._relations(own, teachers)
            raw = _prepared(student, unit=False)
            each = [bridge(raw, its) for bridge, its in zip(self.bridges, teachers, strict=True)]
            terms |= {name: torch.stack([some[name] for some in each]).mean() for name in each[0]}
        return terms

    def _task(self, student: LocalRows) -> Tensor:
        if self.config.contrast == "sigmoid":
            return losses.sigmoid(_pair_logits(student), student.first)
        return losses.contrastive(student.logits(), student.first)

    def _relations(self, student: LocalRows, teachers: list[LocalRows]) -> dict[str, Tensor]:
        """crd and affinity, which see all teachers at once."""
        config = self.config
        terms: dict[str, Tensor] = {}
        if config.crd and config.contrast == "sigmoid":
            terms["crd"] = losses.sigmoid_relational(
                _pair_logits(student), *(losses.match_probabilities(each) for each in teachers)
            )
        elif config.crd:
            divergence = losses.contrastive_relational(
                student.logits(), *(each.logits() for each in teachers)
            )
            terms["crd"] = divergence / 2 if config.compat == "clip-kd" else divergence
        if config.affinity:
            terms["affinity"] = losses.affinity(student.logits(), *(each.logits() for each in teachers))
        return terms


class _Bridge(nn.Module):
    """The terms between the student and one teacher, unweighted, and their parameters."""

    def __init__(self, config: ObjectiveConfig, student_dim: int, teacher_dim: int, ranks: Ranks) -> None:
        super().__init__()
        self.config, self.ranks = config, ranks
        self.raw = config.compat == "clip-kd"  # learnable multipliers are not exponentiated there
        project = student_dim != teacher_dim and any(
            (config.fd, config.mfd, config.gd, config.icl, config.cross_kd)
        )
        self.project_image = nn.Linear(student_dim, teacher_dim) if project else nn.Identity()
        self.project_text = nn.Linear(student_dim, teacher_dim) if project else nn.Identity()
        if config.icl or config.cross_kd:
            self.icl_logit_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))
        if config.afd:
            self.fuse_image = nn.Linear(student_dim + teacher_dim, student_dim)
            self.fuse_text = nn.Linear(student_dim + teacher_dim, student_dim)
            self.afd_logit_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))

    def forward(self, student: Embeddings, teacher: LocalRows) -> dict[str, Tensor]:
        """student: rows of any norm."""
        config = self.config
        terms: dict[str, Tensor] = {}
        image = F.normalize(self.project_image(student.image), dim=-1)  # [b, D of the teacher]
        text = F.normalize(self.project_text(student.text), dim=-1)
        rows = LocalRows(image, text, student.scale, ranks=self.ranks)
        feature = compat.feature if self.raw else losses.feature
        if config.fd:
            terms["fd"] = feature(image, teacher.image) + feature(text, teacher.text)
        if config.mfd:
            masked = F.normalize(self.project_image(self._masked(student)), dim=-1)
            terms["mfd"] = feature(masked, teacher.image) + feature(text, teacher.text)
        if config.gd:
            gradient = compat.gradient if self.raw else losses.gradient
            terms["gd"] = gradient(rows, teacher)
        if config.icl:
            terms["icl"] = losses.contrastive(self._crossed(rows, teacher), rows.first)
        if config.cross_kd:
            terms["cross_kd"] = losses.cross_relational(self._crossed(rows, teacher), teacher.logits())
        if config.afd:
            terms["afd"] = self._fused(student, teacher)
        return terms

    def _crossed(self, rows: LocalRows, teacher: LocalRows) -> Logits:
        """Student images against teacher texts and student texts against teacher images, with ICL's multiplier."""
        return rows.logits_to(teacher, self._multiplier(self.icl_logit_scale))

    def _masked(self, student: Embeddings) -> Tensor:
        if not self.config.masks_patches:
            return student.image
        if student.masked_image is None:
            raise ValueError("mfd needs the student's masked_image: encode the images with hidden patches")
        return student.masked_image

    def _fused(self, student: Embeddings, teacher: LocalRows) -> Tensor:
        """AFD: the task loss of Linear([student; teacher]), normalised, with a learnable scale of its own."""
        own_image, own_text = F.normalize(student.image, dim=-1), F.normalize(student.text, dim=-1)
        image = self.fuse_image(torch.cat((own_image, teacher.image), dim=-1))  # [b, D of the student]
        text = self.fuse_text(torch.cat((own_text, teacher.text), dim=-1))
        scale = self._multiplier(self.afd_logit_scale)
        fused = LocalRows(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale, ranks=self.ranks)
        return losses.contrastive(fused.logits(), fused.first)

    def _multiplier(self, log_scale: Tensor) -> Tensor:
        return log_scale if self.raw else log_scale.exp()


def _teachers(teacher: Embeddings | Sequence[Embeddings] | None) -> list[Embeddings]:
    given = () if teacher is None else (teacher,) if isinstance(teacher, Embeddings) else teacher
    return [_prepared(each, unit=False) for each in given]


def _prepared(embeddings: Embeddings, *, unit: bool) -> Embeddings:
    """In float32 or wider, with rows of unit norm if asked."""
    image, text = _widened(embeddings.image), _widened(embeddings.text)
    masked = embeddings.masked_image
    return Embeddings(
        image=F.normalize(image, dim=-1) if unit else image,
        text=F.normalize(text, dim=-1) if unit else text,
        scale=embeddings.scale,
        bias=embeddings.bias,
        masked_image=None if masked is None else _widened(masked),
    )


def _first(dim: int, embeddings: Embeddings) -> Embeddings:
    """The first `dim` dimensions, then zeros: no similarity sees them, and a projection keeps its first columns."""
    masked = embeddings.masked_image
    return replace(
        embeddings,
        image=_cut(embeddings.image, dim),
        text=_cut(embeddings.text, dim),
        masked_image=None if masked is None else _cut(masked, dim),
    )


def _cut(rows: Tensor, dim: int) -> Tensor:
    return rows if dim == rows.shape[1] else F.pad(rows[:, :dim], (0, rows.shape[1] - dim))


def _widened(embedding: Tensor) -> Tensor:
    return embedding if embedding.dtype == torch.float64 else embedding.float()


def _pair_logits(student: LocalRows) -> Tensor:
    """[b, B]: image → text, with the bias."""
    if student.bias is None:
        raise ValueError('contrast = "sigmoid" needs the student\'s bias: this student has no logit_bias')
    return student.image_to_text() + student.bias
