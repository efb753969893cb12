"""Architectures, their construction through open_clip and timm, and Checkpoints."""
