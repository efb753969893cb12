"""From foreign weights to a Checkpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kdx.core.errors import DataError, UsageError
from kdx.core.folders import check_free
from kdx.core.tokenizers import Tokenizer

from ..architectures import Architecture, read_architecture
from ..checkpoint import KIND, save_checkpoint
from ..clip_configuration import check_supported
from ..text_tokenizer import tokenizer_of
from .fitting import fit
from .hugging_face_tokenizer import holds_tokenizer
from .identify import Identified, identify
from .known import named
from .layouts import Normalised, State, normalise, place_text_tower
from .refusals import refuse_unreadable
from .sources import Source, read_source


@dataclass(frozen=True)
class ImportReport:
    """What was read. changes: what was renamed or dropped; assumptions: what nothing in the source says."""

    path: str
    source: str
    architecture: str
    changes: tuple[str, ...]
    assumptions: tuple[str, ...]
    spec: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def import_checkpoint(
    source: str,
    out: Path,
    *,
    architecture: str | None = None,
    quick_gelu: bool = False,
    tokenizer: Path | None = None,
    overwrite: bool = False,
) -> ImportReport:
    """Reads foreign weights and seals a Checkpoint at `out`, float32 whatever they are stored in.

    source: a weight file or the index of its shards, a folder of open_clip or of Hugging Face's CLIPModel,
    MetaClip2Model or SiglipModel, NAME:TAG or hf-hub:OWNER/MODEL.
    architecture: a name of kdx, open_clip or timm, where the weights alone shall not decide. quick_gelu: what they
    cannot show. tokenizer: the folder with the tokenizer of a model that does not have CLIP's; left out, the source's
    own, else the one on the hub that the architecture names. Nothing of the source is executed. Raises UsageError,
    DataError (not a CLIP model, keys that do not fit, a pickle with code, the tokenizer of another model) or SetupError
    (no network); nothing is left at `out` then.
    """
    check_free(out, KIND, overwrite=overwrite)
    named_one = None if architecture is None else read_architecture(architecture)
    found = read_source(source)
    if found.architecture and (named_one or quick_gelu):
        raise UsageError(
            "says itself what its architecture is",
            where=source,
            remedy="leave --architecture and --quick-gelu out",
        )
    normalised = normalise(found.state)
    refuse_unreadable(normalised.state, found.where)
    decided = _decide(found, normalised, named_one, quick_gelu or normalised.from_openai)
    check_supported(decided.architecture, found.where)
    reads_with = _tokenizer(decided.architecture, source, tokenizer)
    state = place_text_tower(normalised.state, own_module=decided.architecture.has_text_module)
    changes = (*found.changes, *normalised.changes, *_widened(normalised.state))
    if state.keys() != normalised.state.keys():
        there = "under `text.`" if decided.architecture.has_text_module else "to the top level"
        changes += (f"moved the text tower {there}",)
    model = fit(state, decided.architecture, found.where)
    spec = save_checkpoint(
        out,
        model,
        decided.architecture,
        reads_with,
        overwrite=overwrite,
        inputs=found.inputs,
        fields={"changes": list(changes), "assumptions": list(decided.assumptions)},
        matryoshka_dims=found.matryoshka_dims,
    )
    return ImportReport(str(out), source, spec.name, changes, decided.assumptions, spec.to_dict())


def _widened(state: State) -> tuple[str, ...]:
    """A line for each form of 16 or 64 bits in which the file keeps numbers."""
    kept = Counter(
        value.dtype
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float32
    )
    return tuple(
        f"turned {count} tensors of {str(dtype).removeprefix('torch.')} into float32"
        for dtype, count in kept.items()
    )


def _tokenizer(architecture: Architecture, source: str, given: Path | None) -> Tokenizer:
    own = Path(source)
    has_own = architecture.text_cfg.tokenizer_name and holds_tokenizer(own)
    if not (given or has_own) and architecture.text_cfg.tokenizer_name == architecture.name:
        raise DataError(  # the folder's name is all that there is to call it by
            "holds no tokenizer, and none of open_clip's models reads texts by so many ids",
            where=own,
            remedy="add its tokenizer.json, or give --tokenizer DIR",
        )
    return tokenizer_of(architecture, given or (own if has_own else None))


def _decide(
    found: Source, normalised: Normalised, named_one: Architecture | None, quick_gelu: bool
) -> Identified:
    if found.architecture:
        return Identified(_as_projected(found.architecture, normalised), ())
    if named_one is None:
        return identify(normalised.state, found.where, quick_gelu=quick_gelu)
    if quick_gelu and not named_one.quick_gelu:
        named_one = named(named_one.changed(name=f"{named_one.name}-quickgelu", quick_gelu=True))
    if "logit_bias" in normalised.state:
        named_one = named_one.changed(init_logit_bias=0.0)
    return Identified(named_one, ())


def _as_projected(architecture: Architecture, normalised: Normalised) -> Architecture:
    """A stated architecture whose trunk ended in the classifier that became the projection."""
    vision = architecture.vision_cfg
    projects = "visual.head.proj.weight" in normalised.state
    if not vision.timm_model_name or vision.timm_proj or not projects:
        return architecture
    return named(architecture.changed(vision_cfg=vision.changed(timm_pool="", timm_proj="linear")))
