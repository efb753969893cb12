"""Triton model `zero_shot`: which of the labels fits each image.

`image` BYTES [B, 1]; `labels` BYTES [1], a JSON list of strings; `templates` BYTES [1], optional, a JSON list of
prompts with `{}`; `top_k` INT32 [1], optional → `label` BYTES [B, K], `score` FP32 [B, K], best first. The score is
that of kdx.core.prompts.best_labels: the softmax over all labels, or of a sigmoid model each label's own.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

from kdx.core.encoder import FloatArray
from kdx.core.errors import UsageError
from kdx.core.prompts import best_labels, class_vectors, prompt_texts
from kdx.core.requests import check_count, check_labels, check_templates
from kdx.runtime.triton_requests import MAX_JSON_BYTES, MAX_PROMPTS, check_size, to_bytes_column

from .requests import CancelledError, ask, error_response, read_bytes, response

DEFAULT_TOP_K = 5
PROMPTS_AT_ONCE = 16  # asked of embed_text in one request, so that those of other clients get in between
CACHED_LABELS = 2 * MAX_PROMPTS  # over all label sets that are kept

Prompts = tuple[tuple[str, ...], tuple[str, ...]]  # labels, templates


class TritonPythonModel:
    """What Triton calls. It asks embed_image and embed_text; the vectors of recent label sets are kept."""

    def initialize(self, args: dict[str, Any]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._logit_scale, self._logit_bias = (
            float(parameters[name]["string_value"]) for name in ("logit_scale", "logit_bias")
        )
        self._class_vectors: OrderedDict[Prompts, FloatArray] = OrderedDict()

    def execute(self, requests: list[Any]) -> list[Any]:
        responses: list[Any] = []
        for request in requests:
            try:
                responses.append(response(self._classify(request)))
            except Exception as error:
                responses.append(error_response(error))
        return responses

    def _classify(self, request: Any) -> dict[str, npt.NDArray[Any]]:
        images = read_bytes(request, "image")
        check_size(images)
        prompts = _read_prompts(request)
        top_k = _read_top_k(request)
        embeddings = ask("embed_image", "image", to_bytes_column(images))  # [B, D]
        vectors = self._vectors_of(prompts, request)  # [C, D]
        best, scores = best_labels(embeddings, vectors, top_k, self._logit_scale, self._logit_bias)  # [B, K]
        labels = np.array([label.encode() for label in prompts[0]], dtype=np.object_)
        return {"label": labels[best], "score": scores}

    def _vectors_of(self, prompts: Prompts, request: Any) -> FloatArray:
        vectors = self._class_vectors.get(prompts)
        if vectors is None:
            labels, templates = prompts
            texts = [text.encode() for text in prompt_texts(labels, templates)]
            embeddings = [
                _ask_unless_cancelled(texts[start : start + PROMPTS_AT_ONCE], request)
                for start in range(0, len(texts), PROMPTS_AT_ONCE)
            ]
            vectors = class_vectors(np.concatenate(embeddings), len(templates))
            self._class_vectors[prompts] = vectors
            while sum(map(len, self._class_vectors.values())) > CACHED_LABELS:
                self._class_vectors.popitem(last=False)
        self._class_vectors.move_to_end(prompts)
        return vectors


def _ask_unless_cancelled(texts: list[bytes], request: Any) -> FloatArray:
    if request.is_cancelled():
        raise CancelledError
    return ask("embed_text", "text", to_bytes_column(texts))


def _read_prompts(request: Any) -> Prompts:
    labels = check_labels(_read_list(request, "labels"))
    sent = pb_utils.get_input_tensor_by_name(request, "templates") is not None
    templates = check_templates(_read_list(request, "templates") if sent else None)
    if len(labels) * len(templates) > MAX_PROMPTS:
        raise UsageError(
            f"{len(labels)} labels × {len(templates)} templates are over the limit of {MAX_PROMPTS} prompts"
        )
    return tuple(labels), tuple(templates)


def _read_list(request: Any, name: str) -> list[Any]:
    """The list that a JSON text spells. Raises UsageError."""
    (text,) = read_bytes(request, name)
    if len(text) > MAX_JSON_BYTES:
        raise UsageError(f"{name} is over the limit of {MAX_JSON_BYTES:,} bytes")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list):
        raise UsageError(f'{name} is not a JSON list of strings, such as ["cat", "dog"]')
    return values


def _read_top_k(request: Any) -> int:
    tensor = pb_utils.get_input_tensor_by_name(request, "top_k")
    return DEFAULT_TOP_K if tensor is None else check_count(tensor.as_numpy().reshape(-1)[0], "top_k")
