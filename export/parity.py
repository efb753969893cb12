"""The parity gate: is the exported model the trained model?

Three answers: PASS, FAIL, INCONCLUSIVE (the sample cannot decide). Tiers: structure (what the file declares),
shapes (batches, lengths, padding, extremes), numbers (held-out images and texts), decisions (top-1 choices with
an exact bound). The reference is the checkpoint in eager fp32 on the same pixels and tokens. The end-to-end tier,
bytes through a server, belongs to serving.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdx.core.digests import value_digest
from kdx.core.encoder import EncoderSpec, FloatArray
from kdx.core.preprocess import read_encoded
from kdx.core.progress import Progress, silent
from kdx.core.prompts import class_vectors, prompt_texts
from kdx.core.provenance import collect_provenance
from kdx.core.tokenizer import Tokenizer
from kdx.models.checkpoint import Checkpoint
from kdx.runtime.torch import TorchEncoder

from .bounds import lower_bound, samples_needed, upper_bound
from .candidate import Arrays, CandidateFault, run_candidate
from .report import Check, ParityReport, Tier, Verdict
from .samples import ParitySamples
from .structure import check_structure

CHUNK = 64
BATCHES = (1, 2, 3, 7)
LENGTHS = (2, 3, 12)  # and the context length
SLOWER = (
    10  # so many times the seconds of the reference are left to the candidate: a large model may need hours
)
WORST = 10


@dataclass(frozen=True)
class Limits:
    """What an fp32 export may differ by, and what set each limit.

    max_abs: of a component of a unit vector; 1e-7 to 2.4e-7 was seen for eleven trunks in ONNX Runtime.
    norm: deviation of a row's norm from 1 in fp32. margin: share of top-1 choices that may differ, to be shown
    with 95 % confidence; 1 point needs 299 samples without a difference.
    """

    max_abs: float = 1e-5
    norm: float = 1e-5
    margin: float = 0.01
    timeout: float = 600.0  # seconds for the candidate to answer everything, or SLOWER times the reference's


def check_parity(
    checkpoint: Checkpoint,
    folder: Path,
    samples: ParitySamples,
    *,
    limits: Limits | None = None,
    progress: Progress = silent,
) -> ParityReport:
    """Compares the exported model in `folder` (sealed or not yet) with the checkpoint it was made from.

    Raises SetupError when this machine cannot run the exported model: then nothing is known of it.
    """
    limits = limits or Limits()
    structure = Tier("structure", tuple(check_structure(folder, checkpoint.spec)))
    if structure.verdict is Verdict.FAIL:
        return ParityReport((structure,), _header(checkpoint.spec, samples))
    with TorchEncoder(checkpoint) as reference:
        requests = _prepare(reference, samples)
        progress(1, 3, "reference")
        started = time.monotonic()
        expected = {
            name: (reference.encode_image if name.startswith("image/") else reference.encode_text)(array)  # pyright: ignore[reportArgumentType]
            for name, array in requests.items()
        }
    timeout = max(limits.timeout, SLOWER * (time.monotonic() - started))
    progress(2, 3, "candidate")
    try:
        answers = run_candidate(folder, requests, timeout)
    except CandidateFault as fault:
        runs = Tier("shapes", (Check.holds("runs", str(fault)),))
        return ParityReport((structure, runs), _header(checkpoint.spec, samples))
    progress(3, 3)
    return _judge(checkpoint.spec, samples, structure, expected, answers, limits)


# Inputs


def _prepare(reference: TorchEncoder, samples: ParitySamples) -> Arrays:
    """All inputs, named `image/…` and `text/…`: probes of shapes and extremes, then the samples in chunks."""
    spec = reference.spec
    pixels = np.stack([reference.preprocess(image) for image in samples.images])  # [N, 3, S, S]
    probes = np.resize(pixels, (max(BATCHES), *pixels.shape[1:]))
    black = (np.zeros(3, np.float32) - spec.mean) / spec.std
    white = (np.ones(3, np.float32) - spec.mean) / spec.std
    constant = np.stack([np.broadcast_to(c[:, None, None], pixels.shape[1:]) for c in (black, white)])
    requests: Arrays = {f"image/batch{size}": probes[:size] for size in BATCHES}
    requests["image/constant"] = constant.astype(np.float32)
    for size, length in zip(BATCHES, (*LENGTHS, spec.context_length), strict=True):
        requests[f"text/batch{size}"] = _probe_tokens(size, min(length, spec.context_length), spec.vocab_size)
    requests["text/padded"] = _padded(requests["text/batch3"], spec.context_length)
    requests["text/alone"] = requests["text/batch3"][:1]
    for start in range(0, len(pixels), CHUNK):
        requests[f"image/sample{start:06d}"] = pixels[start : start + CHUNK]
    _add_texts(requests, "sample", samples.texts, reference.tokenizer, spec)
    if samples.classes is not None:
        prompts = prompt_texts(samples.classes, samples.templates)
        _add_texts(requests, "class", prompts, reference.tokenizer, spec)
    return requests


def _add_texts(requests: Arrays, kind: str, texts: Any, tokenizer: Tokenizer, spec: EncoderSpec) -> None:
    for start in range(0, len(texts), CHUNK):
        requests[f"text/{kind}{start:06d}"] = tokenizer(texts[start : start + CHUNK], spec.context_length)


def _probe_tokens(batch: int, length: int, vocab_size: int) -> npt.NDArray[np.int32]:
    """int32 [batch, length]: start, arbitrary pieces, end of text at the last place."""
    tokens = np.random.default_rng(batch).integers(1, vocab_size - 2, (batch, length), dtype=np.int32)
    tokens[:, 0], tokens[:, -1] = vocab_size - 2, vocab_size - 1
    return tokens


def _padded(tokens: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))


# Verdicts


def _judge(
    spec: EncoderSpec,
    samples: ParitySamples,
    structure: Tier,
    expected: dict[str, FloatArray],
    answers: dict[str, FloatArray],
    limits: Limits,
) -> ParityReport:
    image, text = (_gather(expected, kind) for kind in ("image/sample", "text/sample"))
    image_answer, text_answer = (_gather(answers, kind) for kind in ("image/sample", "text/sample"))
    numbers = {
        **_header(spec, samples),
        "image": _compare(image, image_answer, _probe_difference(expected, answers, "image/")),
        "text": _compare(text, text_answer, _probe_difference(expected, answers, "text/")),
        "similarity_max_abs": float(np.abs(image @ text.T - image_answer @ text_answer.T).max()),
        "worst_images": _worst(image, image_answer),
        "worst_texts": _worst(text, text_answer),
    }
    number_checks = [
        Check.at_most(f"{tower} {name}", numbers[tower][name], limits.max_abs)
        for tower in ("image", "text")
        for name in ("max_abs", "needed_tolerance")
    ]
    targets = text, text_answer
    if samples.classes is not None:
        targets = tuple(
            class_vectors(_gather(found, "text/class"), len(samples.templates))
            for found in (expected, answers)
        )
    decisions, counts = _decide(
        (image @ targets[0].T).argmax(-1), (image_answer @ targets[1].T).argmax(-1), limits
    )
    return ParityReport(
        (
            structure,
            Tier("shapes", tuple(_check_shapes(answers, limits))),
            Tier("numbers", tuple(number_checks)),
            Tier("decisions", (decisions,)),
            Tier("end_to_end", reason="bytes through a server are compared when the model is served"),
        ),
        {**numbers, **counts},
    )


def _check_shapes(answers: dict[str, FloatArray], limits: Limits) -> list[Check]:
    everything = np.concatenate(list(answers.values()))
    norms = np.linalg.norm(everything, axis=-1)
    image_row = np.abs(answers["image/batch7"][:1] - answers["image/batch1"]).max()
    text_row = np.abs(answers["text/batch3"][:1] - answers["text/alone"]).max()
    padding = np.abs(answers["text/batch3"] - answers["text/padded"]).max()
    return [
        Check.holds("all outputs are finite", "" if np.isfinite(everything).all() else "NaN or infinity"),
        Check.at_most("norm − 1", float(np.abs(norms - 1).max()), limits.norm),
        Check.at_most("an image alone and in a batch", float(image_row), limits.max_abs),
        Check.at_most("a text alone and in a batch", float(text_row), limits.max_abs),
        Check.at_most("a text with and without padding", float(padding), limits.max_abs),
    ]


def _decide(
    reference: npt.NDArray[np.intp], candidate: npt.NDArray[np.intp], limits: Limits
) -> tuple[Check, dict[str, Any]]:
    """Top-1 choices: PASS if at most `margin` may differ with 95 % confidence, FAIL if more surely does."""
    samples, differing = len(reference), int((reference != candidate).sum())
    upper = upper_bound(differing, samples)
    counts = {
        "top1_agreement": 1 - differing / samples,
        "top1_disagreements": differing,
        "disagreement_upper_bound": upper,
        "num_samples": samples,
    }
    name = f"top-1 disagreement, {differing} of {samples}"
    if upper <= limits.margin:
        return Check(name, Verdict.PASS, upper, limits.margin), counts
    if lower_bound(differing, samples) > limits.margin:
        return Check(name, Verdict.FAIL, upper, limits.margin), counts
    needed = samples_needed(differing, limits.margin)
    missing = (
        f"no more than allowed was found, but {samples:,} images are too few to be sure; {needed:,} would do"
        if differing
        else f"no difference was found, but {samples:,} images are too few to be sure; {needed:,} would do"
    )
    return Check(name, Verdict.INCONCLUSIVE, upper, limits.margin, missing), counts


def _compare(reference: FloatArray, candidate: FloatArray, probe_difference: float) -> dict[str, float]:
    """needed_tolerance: the largest difference of any component, probes of shapes and extremes included."""
    distance = 1 - np.einsum("nd,nd->n", reference.astype(np.float64), candidate.astype(np.float64))
    max_abs = float(np.abs(reference - candidate).max())
    return {
        "num_samples": len(reference),
        "max_abs": max_abs,
        "needed_tolerance": max(max_abs, probe_difference),
        "min_cosine": float(1 - distance.max()),
        "cosine_distance_p50": float(np.median(distance)),
        "cosine_distance_p99": float(np.quantile(distance, 0.99)),
        "centred_cosine_distance_p99": float(np.quantile(_centred_distance(reference, candidate), 0.99)),
    }


def _centred_distance(reference: FloatArray, candidate: FloatArray) -> npt.NDArray[np.float64]:
    """1 − cosine after removing the reference's mean: what is left when all embeddings share a direction."""
    mean = reference.mean(axis=0, dtype=np.float64)
    first, second = reference - mean, candidate - mean
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return 1 - np.einsum("nd,nd->n", first, second) / np.maximum(norms, 1e-12)


def _probe_difference(expected: dict[str, FloatArray], answers: dict[str, FloatArray], kind: str) -> float:
    """NaN if an answer holds NaN, so that no limit admits it."""
    differences = [np.abs(expected[name] - answers[name]).max() for name in expected if name.startswith(kind)]
    return float(np.max(differences))


def _gather(arrays: dict[str, FloatArray], kind: str) -> FloatArray:
    return np.concatenate([array for name, array in sorted(arrays.items()) if name.startswith(kind)])


def _worst(reference: FloatArray, candidate: FloatArray) -> list[int]:
    """Row numbers of the samples that differ most: what users wrote stays out of the report, which is handed on."""
    return np.abs(reference - candidate).max(axis=-1).argsort()[::-1][:WORST].tolist()


def _header(spec: EncoderSpec, samples: ParitySamples) -> dict[str, Any]:
    images = [hashlib.sha256(read_encoded(image)).hexdigest() for image in samples.images]
    texts = [list(samples.texts), list(samples.classes or ()), list(samples.templates)]
    return {
        "model_digest": spec.model_digest,
        "inputs_digest": value_digest([images, texts]),
        "provenance": collect_provenance(shipped=True),
    }
