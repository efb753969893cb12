"""Checkpoint: the sealed folder that holds a model's weights and all that is needed to use them.

Files: `model.safetensors` (open_clip's state dict), `clip_vocabulary.json`, and `config.json` =
{"architecture": …, "spec": EncoderSpec}.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from kdx.core.digests import file_digest, value_digest
from kdx.core.encoder import EncoderSpec
from kdx.core.errors import DataError
from kdx.core.folders import MANIFEST, open_sealed, read_json, read_manifest, sealed_folder
from kdx.core.tokenizers import Tokenizer, open_tokenizer

from .architectures import Architecture, build_model
from .clip import ClipModel
from .clip_configuration import check_supported, parse_architecture

KIND = "checkpoint"
CONFIG = "config.json"
RUN_KIND = "run"


@dataclass(frozen=True)
class Checkpoint:
    """A whole, verified checkpoint; the model is in evaluation mode on the CPU, fp32."""

    path: Path
    model: ClipModel
    spec: EncoderSpec
    tokenizer: Tokenizer
    architecture: Architecture


def save_checkpoint(
    path: Path,
    model: ClipModel,
    architecture: Architecture,
    tokenizer: Tokenizer,
    *,
    overwrite: bool = False,
    inputs: dict[str, str] | None = None,
    seeds: dict[str, int] | None = None,
    fields: dict[str, Any] | None = None,
    matryoshka_dims: tuple[int, ...] = (),
) -> EncoderSpec:
    """Seals a model into a Checkpoint folder at `path` and returns its specification. fields: of the manifest.

    matryoshka_dims: see EncoderSpec.
    """
    with sealed_folder(path, KIND, overwrite=overwrite, inputs=inputs, seeds=seeds, fields=fields) as folder:
        save_weights(model.state_dict(), folder / "model.safetensors")
        tokenizer.save(folder)
        digest = file_digest(folder / "model.safetensors")
        spec = describe(model, architecture, tokenizer, digest, matryoshka_dims)
        config = {"architecture": architecture.to_dict(), "spec": spec.to_dict()}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return spec


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a Checkpoint folder, or the student of a finished run. Raises DataError when it is not whole."""
    path = resolve_run(path)
    open_sealed(path, KIND)
    architecture, spec = _read_config(path / CONFIG)
    model = build_model(architecture)
    try:
        weights = safetensors.torch.load_file(path / "model.safetensors")
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"does not hold the weights of {spec.name}: {reason}",
            where=path / "model.safetensors",
            remedy="copy the checkpoint again from where it came",
        ) from None
    return Checkpoint(path, model.eval(), spec, _open_tokenizer(path, spec), architecture)


def read_checkpoint_architecture(path: Path) -> Architecture:
    """The architecture of a Checkpoint folder or finished run. Of its weights nothing is read. Raises DataError."""
    return _read_described(path)[0]


def read_checkpoint_spec(path: Path) -> EncoderSpec:
    """The specification of a Checkpoint folder or finished run. Of its weights nothing is read. Raises DataError."""
    return _read_described(path)[1]


def read_checkpoint_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a Checkpoint folder or finished run. Of its weights nothing is read. Raises DataError."""
    return _open_tokenizer(resolve_run(path), read_checkpoint_spec(path))


def _open_tokenizer(path: Path, spec: EncoderSpec) -> Tokenizer:
    tokenizer = open_tokenizer(path)
    spec.check_tokenizer(tokenizer, path)
    return tokenizer


def save_weights(state: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a whole state dict to a safetensors file.

    safetensors refuses tensors that share memory, as those of modules that share parameters do (timm's coat): each
    name gets a copy, so that the file is loaded strictly, and by tools that know nothing of the sharing.
    """
    whole: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        whole[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    safetensors.torch.save_file(whole, path, metadata)


def resolve_run(path: Path) -> Path:
    """A run's folder stands for its student. Raises DataError for a file, or a folder that kdx did not write."""
    if path.is_file() or (path.is_dir() and not (path / MANIFEST).exists()):
        raise DataError(
            "is no checkpoint of kdx",
            where=path,
            remedy=f"if it holds weights of a CLIP model, run `kdx import {path} --out DIR` and give DIR",
        )
    if (path / MANIFEST).exists() and read_manifest(path).kind == RUN_KIND:
        return path / "student"
    return path


def _read_described(path: Path) -> tuple[Architecture, EncoderSpec]:
    """Weights may have gigabytes: they are compared with their digest when they are loaded."""
    path = resolve_run(path)
    open_sealed(path, KIND, only=[CONFIG])
    return _read_config(path / CONFIG)


def _read_config(file: Path) -> tuple[Architecture, EncoderSpec]:
    """The checkpoint may be anybody's: a description of a model that open_clip would fetch is refused."""
    config = read_json(file)
    architecture = parse_architecture(config.get("architecture"), file)
    check_supported(architecture, file)
    return architecture, EncoderSpec.from_dict(config.get("spec", {}))


def describe(
    model: ClipModel,
    architecture: Architecture,
    tokenizer: Tokenizer,
    weights_digest: str,
    matryoshka_dims: tuple[int, ...] = (),
) -> EncoderSpec:
    """The specification of a model as it stands."""
    preprocess = architecture.preprocess
    bias = model.logit_bias
    return EncoderSpec(
        name=architecture.name,
        embed_dim=architecture.embed_dim,
        image_size=preprocess.image_size,
        mean=preprocess.mean,
        std=preprocess.std,
        interpolation=preprocess.interpolation,
        resize_mode=preprocess.resize_mode,
        context_length=model.context_length,
        vocab_size=model.vocab_size,
        logit_scale=math.exp(model.logit_scale.item()),
        logit_bias=0.0 if bias is None else bias.item(),
        model_digest=value_digest([weights_digest, architecture.to_dict()]),
        preprocess_digest=preprocess.digest,
        tokenizer_digest=tokenizer.digest,
        text_padding=architecture.text_padding,
        pad_id=tokenizer.pad_id,  # also a tower of free length may look for it
        text_pooling=architecture.text_pooling,
        tokenizer_kind=tokenizer.kind,
        matryoshka_dims=matryoshka_dims,
    )
