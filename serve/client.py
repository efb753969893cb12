"""A client of a kdx repository: the embeddings of an Encoder, and zero-shot classification in the server."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdx.core.preprocess import ImageSource
from kdx.runtime.triton import (
    IMAGE_BATCH,
    TritonEncoder,
    encode_utf8,
    read_image_bytes,
    to_bytes_column,
)


class TritonClient(TritonEncoder):
    """TritonClient("grpc://localhost:8001"). Several threads may share it."""

    def classify(
        self,
        images: Sequence[ImageSource],
        labels: Sequence[str],
        *,
        templates: Sequence[str] | None = None,
        top_k: int = 5,
    ) -> list[list[tuple[str, float]]]:
        """For each image its `top_k` best labels with their probabilities over all labels, best first.

        templates: prompts with `{}`; without them the server's "a photo of a {}.". Raises DataError for what
        the server refuses.
        """
        inputs: dict[str, npt.NDArray[np.object_ | np.int32]] = {
            "labels": _json_tensor(labels),
            "top_k": np.array([top_k], dtype=np.int32),
        }
        if templates is not None:
            inputs["templates"] = _json_tensor(templates)
        answers: list[list[tuple[str, float]]] = []
        for start in range(0, len(images), IMAGE_BATCH):
            group = [read_image_bytes(image) for image in images[start : start + IMAGE_BATCH]]
            answer = self.connection.infer(
                "zero_shot", {**inputs, "image": to_bytes_column(group)}, ["label", "score"]
            )
            for names, scores in zip(answer["label"], answer["score"], strict=True):
                answers.append([(name.decode(), float(p)) for name, p in zip(names, scores, strict=True)])
        return answers


def _json_tensor(strings: Sequence[str]) -> npt.NDArray[np.object_]:
    """BYTES [1]: a JSON list."""
    return np.array([encode_utf8(json.dumps(list(strings), ensure_ascii=False))], dtype=np.object_)
