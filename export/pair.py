"""Any two models on the same encoded images and strings, each with its own preprocessing and tokenizer.

For `kdx parity`, and for the gate's end-to-end tier, where the second one is a server.
"""

from __future__ import annotations

from typing import Any

from kdx.core.encoder import Embedder
from kdx.core.errors import UsageError
from kdx.core.prompts import class_vectors, prompt_texts
from kdx.core.provenance import collect_provenance
from kdx.runtime.formats import Limits

from .comparison import Embeddings, compare
from .report import Check, ParityReport, Tier
from .samples import ParitySamples


def embed_samples(model: Embedder, samples: ParitySamples) -> Embeddings:
    """What the model makes of bytes and strings. Raises what the model raises."""
    classes = None
    if samples.classes is not None:
        prompts = model.embed_texts(prompt_texts(samples.classes, samples.templates))
        classes = class_vectors(prompts, len(samples.templates))
    return Embeddings(
        images=model.embed_images(samples.images),
        texts=model.embed_texts(samples.texts),
        classes=classes,
        paired=samples.paired,
        narrower=model.spec.widths[:-1],
    )


def check_comparable(reference: Embedder, candidate: Embedder) -> None:
    """Raises UsageError for models whose embeddings cannot be subtracted. Call before long work."""
    first, second = reference.spec, candidate.spec
    if first.embed_dim != second.embed_dim:
        raise UsageError(
            f"{first.name} has embeddings of {first.embed_dim} numbers, {second.name} of {second.embed_dim}",
            remedy="compare forms of one model, or judge each by itself with `kdx eval`",
        )


def judge_pair(
    reference: Embeddings, candidate: Embeddings, limits: Limits, about: dict[str, Any]
) -> ParityReport:
    """The tiers `numbers` and `decisions` of two models. about: what the report says of them."""
    numbers, tiers = compare(reference, candidate, limits)
    return ParityReport(tuple(tiers), {**about, "provenance": collect_provenance(), **numbers})


def check_end_to_end(
    reference: Embeddings, served: Embeddings, limits: Limits
) -> tuple[Tier, dict[str, Any]]:
    """The gate's last tier and its numbers: bytes and strings through a server, against the reference's pipeline."""
    numbers, tiers = compare(reference, served, limits)
    checks = [
        Check(f"served, {check.name}", check.verdict, check.value, check.limit, check.detail)
        for tier in tiers
        for check in tier.checks
    ]
    return Tier("end_to_end", tuple(checks)), numbers
