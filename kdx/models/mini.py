"""Small convolutional trunks for 32-pixel images, registered with timm so that open_clip finds them by name.

They are of the size that two CPU cores train in minutes: the demo's student and teacher, and the models of
the tests. The blocks are timm's ByobNet.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

# timm's record of published weights: there are none, but timm warns without it at each build. It tells the image size
# of `timm:kdx_mini+S`
RECORD = {"url": "", "input_size": (3, 32, 32)}
default_cfgs = generate_default_cfgs({"kdx_mini": RECORD, "kdx_mini_teacher": RECORD})


@register_model
def kdx_mini(pretrained: bool = False, **options: Any) -> ByobNet:
    return _trunk("kdx_mini", (16, 32, 64), (1, 1, 1), pretrained, options)


@register_model
def kdx_mini_teacher(pretrained: bool = False, **options: Any) -> ByobNet:
    return _trunk("kdx_mini_teacher", (32, 64, 128, 256), (1, 1, 1, 1), pretrained, options)


def _trunk(
    name: str, widths: tuple[int, ...], depths: tuple[int, ...], pretrained: bool, options: dict[str, Any]
) -> ByobNet:
    """A stem of stride 2, then residual stages; the first keeps the resolution, each further one halves it."""
    stages = enumerate(zip(widths, depths, strict=True))
    config = ByoModelCfg(
        blocks=tuple(
            ByoBlockCfg(type="basic", d=depth, c=width, s=2 if stage else 1, br=1.0)
            for stage, (width, depth) in stages
        ),
        stem_chs=widths[0],
        stem_type="3x3",
        stem_pool="",
    )
    return build_model_with_cfg(
        ByobNet, name, pretrained, model_cfg=config, feature_cfg={"flatten_sequential": True}, **options
    )
