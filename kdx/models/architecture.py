"""An architecture is data: the description from which a model is built, found by name or read from a file.

Shipped ones are one JSON file each in open_clip's layout. Other names are open_clip's (open_clip_architectures.py) or
timm's (timm_architectures.py); torch is imported for those alone, so that recipes are listed in an instant.
"""

from __future__ import annotations

import functools
import json
import math
from importlib.resources import files
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator

from kdx.core.config import Config
from kdx.core.preprocess import Preprocess

from .clip_vocabulary import VOCAB_SIZE

FOLDER = files("kdx.models") / "architectures"
# counted once for all, since building 150 models takes a minute, even without weights; the tests count again
COUNTS = files("kdx.models") / "parameter_counts.json"
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
INITIAL_LOG_SCALE = math.log(1 / 0.07)


def _whole(value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError("is not a whole number above 0")
    return value


def _number(value: Any) -> Any:
    """As it is: a whole number stays one, so that a description read and written again has the same digest."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("is not a finite number")
    return value


def _rgb(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise ValueError("is not three numbers")
    return tuple(map(_number, value))


def _layers(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_whole, value))
    return _whole(value)


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[int | float, BeforeValidator(_number)]
Rgb = Annotated[tuple[Number, Number, Number], BeforeValidator(_rgb)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True)]


class _Description(Config):
    def changed(self, **fields: Any) -> Self:
        """A copy with other values, which are not checked again."""
        return self.model_copy(update=fields)

    def to_dict(self) -> dict[str, Any]:
        """What was given, without defaults: the same JSON that it was read from."""
        return self.model_dump(mode="json", exclude_unset=True)


class TowerConfig(_Description, extra="allow"):
    """What kdx reads of a tower; open_clip's other settings pass through to it (clip_configuration.py checks names)."""

    width: Whole
    mlp_ratio: Number = 4.0
    ls_init_value: Number | None = None


class VisionConfig(TowerConfig):
    """open_clip's CLIPVisionCfg. layers: of a ViT, or of each stage of a ResNet."""

    image_size: Whole = 224
    layers: Annotated[int | tuple[int, ...], BeforeValidator(_layers)] = 12
    width: Whole = 768
    head_width: Whole = 64
    patch_size: Whole | None = 16
    no_ln_pre: Flag = False
    timm_model_name: Text | None = None
    timm_pool: Text = "avg"
    timm_proj: Text | None = "linear"
    timm_act: Literal["gelu", "gelu_tanh"] | None = None  # kdx's: in place of the trunk's own form of GELU
    attentional_pool: Flag = False
    output_tokens: Flag = False

    @field_validator("image_size", mode="before")
    @classmethod
    def _is_square(cls, size: Any) -> Any:
        if isinstance(size, list | tuple) and len(size) == 2:
            if size[0] != size[1]:
                raise ValueError("images are not square")
            return size[0]
        return size


class TextConfig(TowerConfig):
    """open_clip's CLIPTextCfg."""

    context_length: Whole = 77
    vocab_size: Whole = VOCAB_SIZE
    width: Whole = 512
    heads: Whole = 8
    layers: Whole = 12
    pool_type: Literal["first", "last", "argmax", "eos", "none"] = "argmax"
    proj_type: Literal["linear", "none"] = "linear"
    proj_bias: Flag = False
    no_causal_mask: Flag = False
    embed_cls: Flag = False
    hf_model_name: Text | None = None
    hf_pooler_type: Text = "mean_pooler"
    hf_proj_type: Text = "mlp"
    hf_config: dict[str, Any] | None = (
        None  # kdx's: Hugging Face's config.json of a tower that kdx does not know
    )
    hf_tokenizer_name: Text | None = None
    tokenizer_mode: Text | None = None
    tokenizer_kwargs: dict[str, Any] | None = None

    @property
    def tokenizer_name(self) -> str | None:
        """The repository with its tokenizer on the Hugging Face hub; None for CLIP's own."""
        return self.hf_tokenizer_name or self.hf_model_name


class PreprocessConfig(_Description):
    """What of the preprocessing is not CLIP's own."""

    mean: Rgb = OPENAI_MEAN
    std: Rgb = OPENAI_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"

    @field_validator("std")
    @classmethod
    def _divides(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError("none of its numbers may be 0 or less")
        return std


class Architecture(_Description):
    """All that a model is built from, parsed once where it comes in.

    name: its name in kdx, open_clip or timm, or one that tells it apart. The fields down to init_logit_bias are
    open_clip's, with open_clip's defaults. custom_text: the text tower is to be a module of its own, which changes no
    embedding. about: a line for `kdx models`.
    """

    name: Text
    about: Text = ""
    embed_dim: Whole
    vision_cfg: VisionConfig
    text_cfg: TextConfig
    custom_text: Flag = False
    quick_gelu: Flag = False
    init_logit_scale: Number = INITIAL_LOG_SCALE
    init_logit_bias: Number | None = None
    preprocess_cfg: PreprocessConfig = PreprocessConfig()

    @property
    def has_text_module(self) -> bool:
        """Whether the text tower is a module of its own, so that its weights are named `text.…`."""
        return self.custom_text or self.text_cfg.hf_model_name is not None

    @property
    def text_pooling(self) -> str:
        """Which token a text's embedding is read from; of a Hugging Face tower, its pooler."""
        text = self.text_cfg
        if text.hf_model_name:
            return text.hf_pooler_type
        return "class" if text.embed_cls else text.pool_type

    @property
    def text_padding(self) -> Literal["longest", "full"]:
        """longest: a batch of texts may be cut to its longest one, since no padding reaches what is read.

        full: texts are always padded to the context, which the tower sees.
        """
        reads_padding = self.text_cfg.no_causal_mask or self.text_pooling not in ("argmax", "eos", "first")
        return "full" if reads_padding and not self.text_cfg.hf_model_name else "longest"

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing that the model is trained, evaluated and served with."""
        return Preprocess(image_size=self.vision_cfg.image_size, **dict(self.preprocess_cfg))


def shipped_names() -> list[str]:
    """The architectures that kdx ships, in alphabetical order."""
    return sorted(file.name.removesuffix(".json") for file in FOLDER.iterdir() if file.name.endswith(".json"))


@functools.cache
def parameter_counts() -> dict[str, tuple[int, int]]:
    """Parameters of the image tower, and all others, of each architecture that `kdx models` lists. Without torch."""
    return json.loads(COUNTS.read_text(encoding="utf-8"))


@functools.cache
def read_architecture(name: str) -> Architecture:
    """The named architecture: a shipped one, else open_clip's, or `timm:NAME+TEXT`.

    Raises UsageError with the nearest known name, or saying why that model cannot be built as a ClipModel.
    """
    if name in shipped_names():
        text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
        return Architecture.model_validate({"name": name, **json.loads(text)})
    from .architectures import find_architecture

    return find_architecture(name)
