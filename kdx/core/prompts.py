"""Zero-shot prompts: labels put into templates, and their embeddings averaged into class vectors.

One implementation for evaluation and for the server.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

DEFAULT_TEMPLATES = ("a photo of a {}.",)


def prompt_texts(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Each label in each template's `{}`, label by label: C·T texts."""
    return [template.replace("{}", label) for label in labels for template in templates]


def class_vectors(text_embeddings: npt.NDArray[np.float32], num_templates: int) -> npt.NDArray[np.float32]:
    """text_embeddings: float32 [C·T, D] of prompt_texts. Returns the normalised mean of each label: [C, D]."""
    grouped = text_embeddings.reshape(-1, num_templates, text_embeddings.shape[-1])  # [C, T, D]
    means = grouped.mean(axis=1)
    norms = np.linalg.norm(means, axis=-1, keepdims=True)
    return (means / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)


def best_labels(
    images: npt.NDArray[np.float32],
    vectors: npt.NDArray[np.float32],
    top_k: int,
    logit_scale: float,
    logit_bias: float = 0.0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The `top_k` labels that fit each image best, and their probabilities. images: float32 [B, D]; vectors: of the
    labels, float32 [C, D]. Returns the labels' numbers [B, K], best first, of equal ones the first, and float32 [B, K].

    Of a model with a bias (SigLIP) the sigmoid of logit_scale × cosine + bias: each label is judged by itself, and none
    may fit. Else the softmax of logit_scale × cosine: all C labels share 1. Ranked by cosines, since the probabilities
    of two good labels may both be 1.
    """
    cosines = images @ vectors.T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :top_k]
    probabilities = _probabilities(np.float32(logit_scale) * cosines, np.float32(logit_bias))
    return best, np.take_along_axis(probabilities, best, axis=1)


def _probabilities(logits: npt.NDArray[np.float32], bias: np.float32) -> npt.NDArray[np.float32]:
    if bias:
        # in fp32 exp overflows beyond 88, where the sigmoid is 0 long since
        return np.reciprocal(1 + np.exp(-np.clip(logits + bias, -80, 80)))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
