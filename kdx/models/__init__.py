"""Architectures, their construction through open_clip and timm, and Checkpoints."""

from .torchvision_ops import declare_on_import

declare_on_import()  # before any module of this room imports open_clip or timm
