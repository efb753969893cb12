"""What the parity gate asks, and what the reference answered: made once, where PyTorch is, and kept if need be.

A format whose files are built on another machine carries them there: neither judging nor asking needs torch.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from kdx.core.digests import value_digest
from kdx.core.encoder import Encoder, EncoderSpec, FloatArray
from kdx.core.errors import DataError
from kdx.core.preprocess import read_encoded
from kdx.core.prompts import prompt_texts
from kdx.core.tokenizer import Tokenizer

from .candidate import Arrays
from .samples import ParitySamples

CHUNK = 64
BATCHES = (1, 2, 3, 7)
LENGTHS = (2, 3, 12)  # and the context length


@dataclass(frozen=True)
class GateInputs:
    """Requests, named `image/…` (pixels) and `text/…` (tokens), and the reference's answers by the same names.

    digest: of the samples, not of the model. num_templates: prompts of each class, 0 where the texts stand in for
    classes. seconds: what the reference took.
    """

    spec: EncoderSpec
    requests: Arrays
    expected: dict[str, FloatArray]
    digest: str
    num_templates: int
    seconds: float

    def save(self, path: Path) -> None:
        """Writes one .npz without pickles. Pixels stay float32: every value as the reference saw it."""
        about = {
            "spec": self.spec.to_dict(),
            "digest": self.digest,
            "num_templates": self.num_templates,
            "seconds": self.seconds,
        }
        arrays: dict[str, Any] = {
            "about": np.array(json.dumps(about)),
            **{f"requests/{name}": array for name, array in self.requests.items()},
            **{f"expected/{name}": array for name, array in self.expected.items()},
        }
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> GateInputs:
        """Inverse of save. Raises DataError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                parts = {
                    kind: {
                        name.removeprefix(f"{kind}/"): arrays[name]
                        for name in arrays.files
                        if name.startswith(f"{kind}/")
                    }
                    for kind in ("requests", "expected")
                }
            return cls(EncoderSpec.from_dict(about.pop("spec")), **parts, **about)
        except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"does not hold the inputs of a parity gate: {error}", where=path, remedy="export it again"
            ) from None


def prepare(reference: Encoder, samples: ParitySamples) -> GateInputs:
    """Asks the reference everything that a candidate will be asked: probes of shapes and extremes, then the samples."""
    spec = reference.spec
    requests = _probes(reference, samples)
    _add_texts(requests, "sample", samples.texts, reference.tokenizer, spec)
    if samples.classes is not None:
        prompts = prompt_texts(samples.classes, samples.templates)
        _add_texts(requests, "class", prompts, reference.tokenizer, spec)
    started = time.monotonic()
    expected = {name: encode(reference, name, array) for name, array in requests.items()}
    return GateInputs(
        spec=spec,
        requests=requests,
        expected=expected,
        digest=_digest(samples),
        num_templates=len(samples.templates) if samples.classes is not None else 0,
        seconds=time.monotonic() - started,
    )


def encode(encoder: Encoder, name: str, array: npt.NDArray[Any]) -> FloatArray:
    """The answer to one request."""
    return encoder.encode_image(array) if name.startswith("image/") else encoder.encode_text(array)


def _probes(reference: Encoder, samples: ParitySamples) -> Arrays:
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
    return requests


def _add_texts(
    requests: Arrays, kind: str, texts: Sequence[str], tokenizer: Tokenizer, spec: EncoderSpec
) -> None:
    for start in range(0, len(texts), CHUNK):
        requests[f"text/{kind}{start:06d}"] = tokenizer(texts[start : start + CHUNK], spec.context_length)


def _probe_tokens(batch: int, length: int, vocab_size: int) -> npt.NDArray[np.int32]:
    """int32 [batch, length]: start, arbitrary pieces, end of text at the last place."""
    tokens = np.random.default_rng(batch).integers(1, vocab_size - 2, (batch, length), dtype=np.int32)
    tokens[:, 0], tokens[:, -1] = vocab_size - 2, vocab_size - 1
    return tokens


def _padded(tokens: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))


def _digest(samples: ParitySamples) -> str:
    images = [hashlib.sha256(read_encoded(image)).hexdigest() for image in samples.images]
    return value_digest([images, list(samples.texts), list(samples.classes or ()), list(samples.templates)])
