"""Which models a repository has, by the backend and device that run the encoders.

`embed_image`, `embed_text` and `zero_shot` are the same for their clients in every layout. With python on a CPU the
first two run the encoders themselves. Otherwise they ask `image_encoder` and `text_encoder`, tensors in, tensors out,
whose batches Triton joins for the GPU or which one of Triton's own backends runs.

They ask by a call from within (BLS) and not as an ensemble: an ensemble has no queue of its own, so it takes requests
without bound, and one that finds the queue of a step full was never answered before February 2026
(triton-inference-server/core, pull request 466). A call costs 0.6 ms, which is why python on a CPU has none.
"""

from __future__ import annotations

import json
from typing import Any

from kdx.core.errors import UsageError
from kdx.runtime.deferred import DeferredExport
from kdx.runtime.exported_encoder import IMAGE_FEATURES, PIXELS, TEXT_FEATURES, TOKENS
from kdx.runtime.exported_model import ExportedModel
from kdx.runtime.onnx import CUDA_OPTIONS
from kdx.runtime.triton_requests import IMAGE_BATCH, TEXT_BATCH

from .served_model import ServedModel, Tensor

ENCODERS = ("image_encoder", "text_encoder")
BACKENDS, DEVICES = ("python", "onnxruntime", "tensorrt"), ("cpu", "gpu")
NATIVE = {"onnxruntime": "onnx", "tensorrt": "trt"}  # the format that one of Triton's own backends runs
DEVICE_OF_PT2 = {"cpu": "cpu", "gpu": "cuda"}  # as PyTorch calls them
# The dynamic batcher of Triton 2.51 misses a wake-up when its only instance ends a request just as the next one
# arrives, and that one then waits half a second: 2 to 6 of 100 requests that follow each other at once. With a second
# instance none did, for one, two and eight clients, and eight clients got 18 % more answers a second. On a GPU a second
# one copies while the first computes.
INSTANCES = 2
# A request of zero_shot waits for many slices of embed_text; with one instance everybody would wait for it.
ZERO_SHOT_INSTANCES = 4
ENCODER_BATCH = 64  # rows that Triton joins for an encoder of its own
# ONNX Runtime's optimisers by the highest level of Triton's backend at which they do no harm: an fp16 graph dies of
# MatmulTransposeFusion only after NchwcTransformer, which is above level 1 (extended); below it is -1 (basic)
LEVEL_WITHOUT = {"MatmulTransposeFusion": 1, "AttentionFusion": -1}


def served_models(
    exported: ExportedModel, *, backend: str = "python", device: str = "cpu", instances: int = INSTANCES
) -> tuple[ServedModel, ...]:
    """The models of a repository, as in docs/serving.md.

    instances: of each model that works on the CPU, beside zero_shot. Raises UsageError for a backend that cannot run
    what was exported on that device.
    """
    check_pairing(exported, backend, device)
    encoders = (
        () if backend == "python" and device == "cpu" else _encoders(exported, backend, device, instances)
    )
    return (*_embedders(exported, instances, apart=bool(encoders)), *encoders)


def check_pairing(exported: ExportedModel | DeferredExport, backend: str, device: str) -> None:
    """Raises UsageError for a backend that cannot run what was exported, or is to be built, on that device."""
    format_ = exported.format.name
    options = exported.options if isinstance(exported, ExportedModel) else {}
    if backend not in BACKENDS or device not in DEVICES:
        raise UsageError(
            f"there is no backend {backend!r} on {device!r}",
            remedy=f"backends are {', '.join(BACKENDS)}; devices {', '.join(DEVICES)}",
        )
    if backend in NATIVE and format_ != NATIVE[backend]:
        raise UsageError(
            f"Triton's {backend} backend runs the format {NATIVE[backend]}, not {format_}",
            where=exported.path,
            remedy=f"give --backend python, or export with --format {NATIVE[backend]}",
        )
    made_for_tensorrt = exported.format.targets[0] == "trt"
    if made_for_tensorrt and device != "gpu":
        raise UsageError(
            f"{format_} runs on an NVIDIA GPU alone", where=exported.path, remedy="give --device gpu"
        )
    if exported.target == "trt" and not made_for_tensorrt:
        raise UsageError(
            f"this {exported.precision} {format_} is made for TensorRT, not for a server of its own",
            where=exported.path,
            remedy=f"export for TensorRT with --format trt --precision {exported.precision}, or with --target cpu",
        )
    if device == "gpu" and format_ == "openvino":
        raise UsageError(
            "kdx runs openvino on the CPU alone", where=exported.path, remedy="give --device cpu"
        )
    if format_ == "pt2" and options.get("device") != DEVICE_OF_PT2[device]:
        compiled_for = next(name for name, of in DEVICE_OF_PT2.items() if of != DEVICE_OF_PT2[device])
        raise UsageError(
            f"is compiled for a {compiled_for.upper()}",
            where=exported.path,
            remedy=f"give --device {compiled_for}",
        )
    unbearable = [
        name for tower in ENCODERS for name in _disabled(options, tower) if name not in LEVEL_WITHOUT
    ]
    if backend == "onnxruntime" and unbearable:
        raise UsageError(
            f"Triton's onnxruntime backend cannot leave out {unbearable[0]}, which this file does not bear",
            where=exported.path,
            remedy="give --backend python",
        )


def _embedders(exported: ExportedModel, instances: int, *, apart: bool) -> tuple[ServedModel, ...]:
    """apart: whether the encoders are models of their own, which these ask."""
    spec = exported.spec
    embedding = Tensor("embedding", "TYPE_FP32", (spec.embed_dim,))
    return (
        ServedModel(
            "embed_image",
            "python",
            IMAGE_BATCH,
            (Tensor("image", "TYPE_STRING", (1,)),),
            (embedding,),
            instances,
            asks=("image_encoder",) if apart else (),
            parameters={
                "spec": json.dumps(spec.to_dict()),
                "parity": exported.parity()["verdict"],
                "precision": exported.precision,
                "identity": exported.identity or "",
            },
        ),
        ServedModel(
            "embed_text",
            "python",
            TEXT_BATCH,
            (Tensor("text", "TYPE_STRING", (1,)),),
            (embedding,),
            instances,
            asks=("text_encoder",) if apart else (),
        ),
        ServedModel(
            "zero_shot",
            "python",
            0,
            (
                Tensor("image", "TYPE_STRING", (-1, 1)),
                Tensor("labels", "TYPE_STRING", (1,)),
                Tensor("templates", "TYPE_STRING", (1,), optional=True),
                Tensor("top_k", "TYPE_INT32", (1,), optional=True),
            ),
            (Tensor("label", "TYPE_STRING", (-1, -1)), Tensor("score", "TYPE_FP32", (-1, -1))),
            ZERO_SHOT_INSTANCES,
            asks=("embed_image", "embed_text"),
            parameters={"logit_scale": repr(spec.logit_scale), "logit_bias": repr(spec.logit_bias)},
        ),
    )


def _encoders(exported: ExportedModel, backend: str, device: str, instances: int) -> tuple[ServedModel, ...]:
    spec = exported.spec
    image = (
        Tensor(PIXELS, "TYPE_FP32", (3, spec.image_size, spec.image_size)),
        Tensor(IMAGE_FEATURES, "TYPE_FP32", (spec.embed_dim,)),
        exported.image_encoder.name,
    )
    text = (
        Tensor(TOKENS, "TYPE_INT32", (-1 if spec.has_free_length else spec.context_length,)),
        Tensor(TEXT_FEATURES, "TYPE_FP32", (spec.embed_dim,)),
        exported.text_encoder.name,
    )
    return tuple(
        ServedModel(
            name,
            backend,
            _batch(exported, name) if backend == "tensorrt" else ENCODER_BATCH,
            (taken,),
            (given,),
            INSTANCES if device == "gpu" else instances,
            device=device,
            file="model.py" if backend == "python" else file,
            warm_up=backend != "python",
            **_settings(exported, name, backend, device),
        )
        for name, (taken, given, file) in zip(ENCODERS, (image, text), strict=True)
    )


def _settings(exported: ExportedModel, encoder: str, backend: str, device: str) -> dict[str, Any]:
    """What one of Triton's own backends must be told."""
    if backend == "tensorrt":
        return {"profiles": tuple(str(number) for number in range(len(_profiles(exported, encoder))))}
    if backend == "onnxruntime":
        level = min((LEVEL_WITHOUT[name] for name in _disabled(exported.options, encoder)), default=0)
        if device == "gpu":
            return {"graph_level": level, "cuda_options": dict(CUDA_OPTIONS)}
        # one thread, since those of a session that wait spin, which that backend cannot switch off
        return {"graph_level": level, "threads": 1}
    return {}


def _disabled(options: dict[str, Any], encoder: str) -> list[str]:
    """ONNX Runtime's optimisers that this encoder's file does not bear."""
    return list(options.get("disabled_optimizers", {}).get(encoder, ()))


def _profiles(exported: ExportedModel, encoder: str) -> list[dict[str, Any]]:
    """Those that the engine was built with; for each batch Triton takes the nearest that admits it."""
    return exported.options["image" if encoder == ENCODERS[0] else "text"]


def _batch(exported: ExportedModel, encoder: str) -> int:
    """The largest batch that each profile of the engine admits."""
    return min(profile["largest"][0] for profile in _profiles(exported, encoder))
