"""Weight inheritance: a student starts from chosen layers, heads and channels of a teacher.

The manual variant of TinyCLIP (arXiv 2309.12314): depth is cut by leaving out whole blocks, width by leaving out
attention heads, channels of the residual stream and units of the MLPs. All layers share one residual stream, so one
choice of channels holds for every weight that reads or writes it. Defaults: blocks evenly spaced with the first and
the last kept (TinyCLIP's code takes every k-th from the first on and drops the last); of heads, channels and units
the first ones, as in TinyCLIP's code. Nothing is rescaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from kdx.core.errors import UsageError

from .clip import ClipModel, PlainClip
from .tower_choice import TowerChoice

# what a dimension of a weight runs over
CHANNEL, HEAD, QKV, UNIT, EMBED, POSITION = "channel", "head", "qkv", "unit", "embed", "position"
ALL = "all"  # not cut

Pair = tuple[Tensor, Tensor]  # a weight of the student's, and what it becomes

BLOCK = {
    "ln_1.weight": (CHANNEL,),
    "ln_1.bias": (CHANNEL,),
    "attn.in_proj_weight": (QKV, CHANNEL),
    "attn.in_proj_bias": (QKV,),
    "attn.out_proj.weight": (CHANNEL, HEAD),
    "attn.out_proj.bias": (CHANNEL,),
    "ls_1.gamma": (CHANNEL,),
    "ln_2.weight": (CHANNEL,),
    "ln_2.bias": (CHANNEL,),
    "mlp.c_fc.weight": (UNIT, CHANNEL),
    "mlp.c_fc.bias": (UNIT,),
    "mlp.c_proj.weight": (CHANNEL, UNIT),
    "mlp.c_proj.bias": (CHANNEL,),
    "ls_2.gamma": (CHANNEL,),
}
OUTSIDE = {
    "image": {
        "conv1.weight": (CHANNEL, ALL, ALL, ALL),
        "class_embedding": (CHANNEL,),
        "positional_embedding": (ALL, CHANNEL),
        "ln_pre.weight": (CHANNEL,),
        "ln_pre.bias": (CHANNEL,),
        "ln_post.weight": (CHANNEL,),
        "ln_post.bias": (CHANNEL,),
        "proj": (CHANNEL, EMBED),
    },
    "text": {
        "token_embedding.weight": (ALL, CHANNEL),
        "positional_embedding": (POSITION, CHANNEL),
        "ln_final.weight": (CHANNEL,),
        "ln_final.bias": (CHANNEL,),
        "text_projection": (CHANNEL, EMBED),
        "text_projection.weight": (EMBED, CHANNEL),
        "text_projection.bias": (EMBED,),
    },
}


DEFAULTS = TowerChoice()


def inherit(
    student: ClipModel,
    teacher: ClipModel,
    *,
    image: TowerChoice | None = DEFAULTS,
    text: TowerChoice | None = DEFAULTS,
) -> None:
    """Overwrites the student's towers with weights of the teacher's; None leaves that tower as it is.

    Of the embedding's dimensions and of the text positions the first are taken. The logit scale is taken when both
    towers are, and the bias with it. A student of the teacher's shape becomes the teacher. Image towers that are not
    open_clip's vision transformer are taken only whole, by an equal one. Models may lie on torch's meta device: then it
    is only checked.

    Raises UsageError when a tower cannot come from the teacher's, or a choice does not fit.
    """
    with torch.no_grad():
        pairs: list[Pair] = []
        for name, choice in (("image", image), ("text", text)):
            if choice is None:
                continue
            mine, theirs = _transformer(student, name), _transformer(teacher, name)
            if mine is not None and theirs is not None:
                pairs += _Cut(name, mine, theirs, choice).pairs()
            else:
                own, source = (_tower(model, name) for model in (student, teacher))
                pairs += _whole(name, own, source, choice)
        if image is not None and text is not None:
            pairs += _logits(student, teacher)
        for weight, inherited in pairs:
            weight.copy_(inherited)


def _logits(student: ClipModel, teacher: ClipModel) -> list[Pair]:
    """Scale and bias, which belong together: beside a softmax's scale no bias of the student's own would be right."""
    scales = student.logit_scale, teacher.logit_scale
    if student.logit_bias is None:
        return [scales]
    return [] if teacher.logit_bias is None else [scales, (student.logit_bias, teacher.logit_bias)]


def even_layers(wanted: int, available: int) -> tuple[int, ...]:
    """Evenly spaced layers, the first and the last kept: (3, 12) gives 0, 6, 11 (halves round to even)."""
    if wanted == 1:
        return (0,)
    return tuple(round(i * (available - 1) / (wanted - 1)) for i in range(wanted))


@dataclass(frozen=True)
class _Tower:
    """A transformer tower. outside, blocks: its weights by the names of OUTSIDE and BLOCK."""

    outside: dict[str, Tensor]
    blocks: list[dict[str, Tensor]]
    heads: int
    width: int
    units: int
    embed_dim: int
    settings: dict[str, str]  # what its function depends on besides weights


def _tower(model: ClipModel, name: str) -> Any:
    return model.visual if name == "image" else model.text_tower


def _transformer(model: ClipModel, name: str) -> _Tower | None:
    """The named tower, if it is one of open_clip's transformers."""
    module = _tower(model, name)
    if not isinstance(module, VisionTransformer | TextTransformer | PlainClip):
        return None
    tower: Any = module
    blocks = list(tower.transformer.resblocks)
    named: dict[str, Tensor] = dict(tower.named_parameters())
    parts = PlainClip.TOWERS["text"] if isinstance(module, PlainClip) else None
    outside = {
        key: parameter
        for key, parameter in named.items()
        if not key.startswith("transformer.") and (parts is None or key.partition(".")[0] in parts)
    }
    settings = {"activation": repr(blocks[0].mlp.gelu), "block": type(blocks[0]).__name__}
    if name == "image":
        settings["pooling"] = tower.pool_type
        settings["last norm"] = "after pooling" if tower.final_ln_after_pool else "before pooling"
    else:
        settings["pooling"] = tower.text_pool_type if isinstance(module, PlainClip) else tower.pool_type
        settings["attention"] = "to all tokens" if tower.attn_mask is None else "causal"
    return _Tower(
        outside=outside,
        blocks=[dict(block.named_parameters()) for block in blocks],
        heads=blocks[0].attn.num_heads,
        width=tower.transformer.width,
        units=len(blocks[0].mlp.c_fc.bias),
        embed_dim=_embed_dim(tower, "proj" if name == "image" else "text_projection"),
        settings=settings,
    )


def _embed_dim(tower: Any, projection: str) -> int:
    found = getattr(tower, projection)
    if found is None:
        return tower.transformer.width
    return found.out_features if isinstance(found, nn.Linear) else found.shape[1]


class _Cut:
    """One student's tower out of one teacher's; raises UsageError at once if it cannot be."""

    def __init__(self, name: str, student: _Tower, teacher: _Tower, choice: TowerChoice) -> None:
        self.name, self.student, self.teacher = name, student, teacher
        for what, mine in student.settings.items():
            if (theirs := teacher.settings[what]) != mine:
                raise self._unfit(f"{what}: {mine} in the student, {theirs} in the teacher")
        head_width, theirs = student.width // student.heads, teacher.width // teacher.heads
        if head_width != theirs:
            raise self._unfit(f"heads are {head_width} wide in the student, {theirs} in the teacher")
        self.layers = self._choose("layers", choice.layers, len(student.blocks), len(teacher.blocks))
        heads = self._choose("heads", choice.heads, student.heads, teacher.heads)
        inside_heads = [head * head_width + i for head in heads for i in range(head_width)]
        self.indices: dict[str, Tensor] = {
            name: torch.tensor(indices)
            for name, indices in {
                CHANNEL: self._choose("channels", choice.channels, student.width, teacher.width),
                HEAD: inside_heads,
                QKV: [part * teacher.width + row for part in range(3) for row in inside_heads],
                UNIT: self._choose("units", choice.units, student.units, teacher.units),
                EMBED: self._choose("embedding dimensions", None, student.embed_dim, teacher.embed_dim),
            }.items()
        }
        if name == "text":
            positions = [len(tower.outside["positional_embedding"]) for tower in (student, teacher)]
            self.indices[POSITION] = torch.tensor(self._choose("positions", None, *positions))

    def pairs(self) -> list[Pair]:
        found = self._pairs(self.student.outside, self.teacher.outside, OUTSIDE[self.name])
        for mine, layer in zip(self.student.blocks, self.layers, strict=True):
            found += self._pairs(mine, self.teacher.blocks[layer], BLOCK)
        return found

    def _pairs(
        self, student: dict[str, Tensor], teacher: dict[str, Tensor], axes: dict[str, tuple[str, ...]]
    ) -> list[Pair]:
        if different := sorted(student.keys() ^ teacher.keys()):
            raise self._unfit(f"only one of the two has {different[0]}")
        if unknown := sorted(student.keys() - axes.keys()):
            raise self._unfit(f"{unknown[0]} is not a weight of a plain CLIP transformer")
        return [(weight, self._part(key, weight, teacher[key], axes[key])) for key, weight in student.items()]

    def _part(self, key: str, weight: Tensor, part: Tensor, axes: tuple[str, ...]) -> Tensor:
        """What of the teacher's weight the student's becomes."""
        for dim, axis in enumerate(axes):
            if axis != ALL:
                part = part.index_select(dim, self.indices[axis].to(part.device))
        if part.shape != weight.shape:
            raise self._unfit(
                f"{key} needs {list(weight.shape)}, the teacher's gives {list(part.shape)} "
                "(image size, patch size and vocabulary must be equal)"
            )
        return part

    def _choose(self, what: str, chosen: Sequence[int] | None, wanted: int, available: int) -> Sequence[int]:
        """The teacher's indices: the chosen ones if they fit, else the default."""
        if wanted > available:
            raise self._unfit(f"the student has {wanted} {what}, the teacher {available}")
        if chosen is None:
            return even_layers(wanted, available) if what == "layers" else range(wanted)
        key = f"inherit.{self.name}.{what}"
        if len(chosen) != wanted or len(set(chosen)) != wanted:
            raise UsageError(
                f"{key} names {len(set(chosen))} different {what}, the student has {wanted}",
                remedy=f"name {wanted}, or leave {key} out",
            )
        if not 0 <= min(chosen) <= max(chosen) < available:
            raise UsageError(
                f"{key} = {list(chosen)} goes beyond the teacher's {available} {what}",
                remedy=f"choose from 0 to {available - 1}",
            )
        return chosen

    def _unfit(self, reason: str) -> UsageError:
        return _cannot_inherit(self.name, reason)


def _whole(name: str, student: nn.Module, teacher: nn.Module, choice: TowerChoice) -> list[Pair]:
    """All of a tower of the same network, buffers too (batch statistics)."""
    mine, theirs = _network(student), _network(teacher)
    if mine != theirs:
        raise _cannot_inherit(name, f"{mine} in the student, {theirs} in the teacher")
    if choice != DEFAULTS:
        raise _cannot_inherit(name, f"{mine} is inherited only whole, without inherit.{name}")
    state, inherited = student.state_dict(), teacher.state_dict()
    for key in sorted(state.keys() | inherited.keys()):
        shapes = [list(each[key].shape) if key in each else None for each in (state, inherited)]
        if shapes[0] != shapes[1]:
            raise _cannot_inherit(name, f"{key} is {shapes[0]} in the student, {shapes[1]} in the teacher")
    return [(tensor, inherited[key]) for key, tensor in state.items()]


def _network(tower: nn.Module) -> str:
    """The name of the network behind a tower: timm's name, or its class."""
    trunk = getattr(tower, "trunk", None)
    return type(tower).__name__ if trunk is None else str(trunk.default_cfg["architecture"])


def _cannot_inherit(tower: str, reason: str) -> UsageError:
    return UsageError(
        f"the student's {tower} tower cannot inherit from the teacher's: {reason}",
        remedy=f"choose another teacher or student, or leave {tower} out of inherit.towers",
    )
