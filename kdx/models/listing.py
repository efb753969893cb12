"""All architectures that have a name of their own, as `kdx models` shows them: kdx's, then open_clip's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import open_clip

from .architecture import Architecture, parameter_counts, read_architecture, shipped_names
from .open_clip_architectures import open_clip_names


@dataclass(frozen=True)
class ListedArchitecture:
    """image_params: the image tower's; text_params: all else, so with the logit scale. tokens: of a text, at most.

    text_padding: "longest" if a batch of texts is as long as its longest, "full" if each is padded to `tokens`; then
    exports have texts of that length alone, which cost the same however short they are.
    needs: what has to be there for its use, besides kdx[train].
    """

    name: str
    image_params: int
    text_params: int
    total_params: int
    image_size: int
    tokens: int
    text_padding: Literal["longest", "full"]
    tokenizer: str
    needs: tuple[str, ...]
    about: str

    @property
    def lengths(self) -> str:
        """Of texts, in tokens: "≤ 77" where shorter ones cost less, "64" where all are that long."""
        return f"≤ {self.tokens}" if self.text_padding == "longest" else str(self.tokens)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_architectures() -> list[ListedArchitecture]:
    counts = parameter_counts()
    names = dict.fromkeys([*shipped_names(), *open_clip_names()])
    return [_listed(read_architecture(name), *counts[name]) for name in names]


def census() -> str:
    """How many of open_clip's models are built, in a line."""
    known = open_clip.list_models()
    return f"{len(open_clip_names())} of the {len(known)} models of open_clip {open_clip.__version__}"


def _listed(architecture: Architecture, image: int, text: int) -> ListedArchitecture:
    words = architecture.text_cfg
    tokenizer = words.hf_tokenizer_name or words.hf_model_name or "CLIP"
    needs = (
        *((f"the tokenizer {tokenizer}",) if tokenizer != "CLIP" else ()),
        *(("kdx[hf]",) if words.hf_model_name else ()),
    )
    return ListedArchitecture(
        name=architecture.name,
        image_params=image,
        text_params=text,
        total_params=image + text,
        image_size=architecture.vision_cfg.image_size,
        tokens=words.context_length,
        text_padding=architecture.text_padding,
        tokenizer=tokenizer,
        needs=needs,
        about=architecture.about,
    )
