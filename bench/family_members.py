"""What a run or a checkpoint says of itself: its network, how it was trained, who taught it, and what was published."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.core.digests import value_digest
from kdx.core.encoder import EncoderSpec
from kdx.core.errors import UsageError
from kdx.core.folders import open_sealed, read_manifest
from kdx.models.architectures import count_parameters
from kdx.models.checkpoint import KIND, RUN_KIND, read_checkpoint_architecture, read_checkpoint_spec

BASELINE = "baseline"
CLIP_KD = {"crd", "fd", "icl"}
NOT_THE_METHOD = ("seed", "about", "published")  # of a recipe: what may differ between seeds of one method


@dataclass(frozen=True)
class Member:
    """One model of a family. likeness: the same for the seeds of one method; network_key: for equal networks.

    method, seed: None of a checkpoint, which does not say how it was trained. recipe: as the run has it.
    """

    path: Path
    spec: EncoderSpec
    network_key: str
    method: str | None
    seed: int | None
    teachers: tuple[str, ...]
    teacher_digests: tuple[str, ...]
    recipe: Mapping[str, Any]
    likeness: str
    image_parameters: int
    parameters: int

    @property
    def network(self) -> str:
        return self.spec.name

    @property
    def model_digest(self) -> str:
        return self.spec.model_digest

    def published(self, taught: Sequence[Member]) -> tuple[float | None, str | None]:
        """ImageNet top-1 in percent and where it stands: of its recipe, or as the teacher that a student's names."""
        own = self.recipe.get("published", {})
        if "imagenet_top1" in own:
            return own["imagenet_top1"], own.get("source")
        for student in taught:
            theirs = student.recipe.get("published", {})
            if student.recipe.get("teacher") == self.network and "teacher_imagenet_top1" in theirs:
                return theirs["teacher_imagenet_top1"], theirs.get("source")
        return None, None


def read_members(paths: Sequence[Path]) -> list[Member]:
    """All, before anything is scored. Raises UsageError for a model given twice, or of another kind; DataError."""
    members: list[Member] = []
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UsageError("is given twice", where=path, remedy="give each model once")
        seen.add(path.resolve())
        members.append(_read(path))
    return members


def _read(path: Path) -> Member:
    kind = read_manifest(path).kind
    if kind not in (KIND, RUN_KIND):
        raise UsageError(
            f"is of kind {kind}: the table takes runs and checkpoints",
            where=path,
            remedy="compare exported models with `kdx export --table`, any two models with `kdx eval A B`",
        )
    manifest = open_sealed(path, kind)
    spec, architecture = read_checkpoint_spec(path), read_checkpoint_architecture(path)
    counts = count_parameters(architecture)
    recipe, fields = {}, {}
    if kind == RUN_KIND:
        recipe = tomllib.loads((path / "recipe.toml").read_text(encoding="utf-8"))
        fields = manifest.fields
    teachers = fields.get("teachers", [])
    network_key = value_digest(architecture.to_dict())
    names = tuple(teacher["name"] for teacher in teachers)
    return Member(
        path=path,
        spec=spec,
        network_key=network_key,
        method=_method(recipe, fields["methods"]) if kind == RUN_KIND else None,
        seed=recipe.get("seed"),
        teachers=names,
        teacher_digests=tuple(teacher["digest"] for teacher in teachers),
        recipe=recipe,
        likeness=_likeness(recipe, fields, names, network_key) if kind == RUN_KIND else spec.model_digest,
        image_parameters=counts.image_params,
        parameters=counts.total_params,
    )


def _method(recipe: Mapping[str, Any], methods: Sequence[str]) -> str:
    """Such as "baseline", "CLIP-KD", "fd + icl, inherited weights"."""
    name = "CLIP-KD" if set(methods) == CLIP_KD else " + ".join(methods) or BASELINE
    return f"{name}, inherited weights" if "inherit" in recipe else name


def _likeness(
    recipe: Mapping[str, Any], fields: Mapping[str, Any], teachers: Sequence[str], network_key: str
) -> str:
    """Equal for runs that differ in their seed alone, on the same pairs and with teachers of the same names."""
    method = {key: value for key, value in recipe.items() if key not in NOT_THE_METHOD}
    method["views"] = {key: value for key, value in method.get("views", {}).items() if key != "seed"}
    return value_digest([method, fields.get("data", {}).get("digest"), list(teachers), network_key])
