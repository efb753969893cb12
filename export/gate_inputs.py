"""What the parity gate asks, and what the reference answered: made once, where PyTorch is, and kept if need be.

A format whose files are built on another machine carries them there: neither judging nor asking needs torch.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from kdx.core.digests import value_digest
from kdx.core.encoder import Encoder, EncoderSpec, FloatArray
from kdx.core.errors import DataError
from kdx.core.preprocess import Preprocess, read_encoded
from kdx.core.prompts import class_vectors, prompt_texts
from kdx.core.provenance import cpu_count
from kdx.core.tokenizers import Tokenizer

from .candidate import Arrays
from .comparison import Embeddings
from .samples import ParitySamples

# Of a request with samples. ViT-T/16 on a core takes 26 ms an image in batches of 4 or 8 and 38 ms in batches of 64,
# whose activations no cache holds; a text takes 7.6 ms in batches of 8 or 16 and 10 ms in batches of 64.
IMAGES, TEXTS = 8, 16
BATCHES = (1, 2, 3, 7)
LENGTHS = (2, 3, 12)  # and the context length


@dataclass(frozen=True)
class GateInputs:
    """Requests, named `image/…` (pixels) and `text/…` (tokens), and the reference's answers by the same names.

    Samples are asked in order of length: orders has, by kind of request, which sample each row is.
    digest: of the samples, not of the model. num_templates: prompts of each class, 0 where the texts stand in for
    classes. paired: text i belongs to image i. seconds: what the reference took.
    """

    spec: EncoderSpec
    requests: Arrays
    orders: dict[str, list[int]]
    digest: str
    num_templates: int
    paired: bool
    expected: dict[str, FloatArray] = field(default_factory=lambda: {})
    seconds: float = 0.0

    def answered_by(self, reference: Encoder) -> GateInputs:
        """The same requests with this encoder's answers."""
        started = time.monotonic()
        expected = {name: encode(reference, name, array) for name, array in self.requests.items()}
        return replace(self, expected=expected, seconds=time.monotonic() - started)

    def embeddings(self, answers: dict[str, FloatArray]) -> Embeddings:
        """The samples' answers in the samples' order."""
        classes = None
        if self.num_templates:
            classes = class_vectors(self._gather(answers, "text/class"), self.num_templates)
        images, texts = (self._gather(answers, kind) for kind in ("image/sample", "text/sample"))
        return Embeddings(images, texts, classes, self.paired, self.spec.widths[:-1])

    def sample(self, tower: str, index: int) -> npt.NDArray[Any]:
        """What is asked about one sample: [1, …]. tower: image or text."""
        kind = f"{tower}/sample"
        rows = [(name, row) for name in self._names(kind) for row in range(len(self.requests[name]))]
        name, row = rows[self.orders[kind].index(index)]
        return self.requests[name][row : row + 1]

    def _gather(self, answers: dict[str, FloatArray], kind: str) -> FloatArray:
        rows = np.concatenate([answers[name] for name in self._names(kind)])
        gathered = np.empty_like(rows)
        gathered[self.orders[kind]] = rows
        return gathered

    def _names(self, kind: str) -> list[str]:
        return sorted(name for name in self.requests if name.startswith(kind))

    def save(self, path: Path) -> None:
        """Writes one .npz without pickles. Pixels stay float32: every value as the reference saw it."""
        about = {
            "spec": self.spec.to_dict(),
            "orders": self.orders,
            "digest": self.digest,
            "num_templates": self.num_templates,
            "paired": self.paired,
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
    return questions(reference, samples).answered_by(reference)


def questions(reference: Encoder, samples: ParitySamples) -> GateInputs:
    """The requests alone, by the reference's preprocessing and tokenizer. Raises DataError for a damaged image."""
    spec = reference.spec
    pixels = _pixels(reference.preprocess, samples)
    requests = _probes(spec, reference.tokenizer, pixels)
    orders = {"image/sample": list(range(len(pixels)))}
    for start in range(0, len(pixels), IMAGES):
        requests[f"image/sample{start:06d}"] = pixels[start : start + IMAGES]
    kinds = {"text/sample": list(samples.texts)}
    if samples.classes is not None:
        kinds["text/class"] = prompt_texts(samples.classes, samples.templates)
    for kind, texts in kinds.items():
        orders[kind] = _add_texts(requests, kind, texts, reference.tokenizer, spec)
    return GateInputs(
        spec=spec,
        requests=requests,
        orders=orders,
        digest=_digest(samples),
        num_templates=len(samples.templates) if samples.classes is not None else 0,
        paired=samples.paired,
    )


def encode(encoder: Encoder, name: str, array: npt.NDArray[Any]) -> FloatArray:
    """The answer to one request."""
    return encoder.encode_image(array) if name.startswith("image/") else encoder.encode_text(array)


def _pixels(preprocess: Preprocess, samples: ParitySamples) -> FloatArray:
    """float32 [N, 3, S, S]. Pillow decodes and resizes without Python's lock, so threads share the cores."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        return np.stack(list(pool.map(preprocess, samples.images)))


def _probes(spec: EncoderSpec, tokenizer: Tokenizer, pixels: FloatArray) -> Arrays:
    probes = np.resize(pixels[: max(BATCHES)], (max(BATCHES), *pixels.shape[1:]))
    black = (np.zeros(3, np.float32) - spec.mean) / spec.std
    white = (np.ones(3, np.float32) - spec.mean) / spec.std
    constant = np.stack([np.broadcast_to(c[:, None, None], pixels.shape[1:]) for c in (black, white)])
    requests: Arrays = {f"image/batch{size}": probes[:size] for size in BATCHES}
    requests["image/constant"] = constant.astype(np.float32)
    for size, length in zip(BATCHES, (*LENGTHS, spec.context_length), strict=True):
        length = max(spec.min_length, min(length, spec.context_length))
        requests[f"text/batch{size}"] = _probe_tokens(size, length, spec, tokenizer)
    if spec.has_free_length:
        requests["text/padded"] = _padded(requests["text/batch3"], spec)
    requests["text/alone"] = requests["text/batch3"][:1]
    return requests


def _add_texts(
    requests: Arrays, kind: str, texts: Sequence[str], tokenizer: Tokenizer, spec: EncoderSpec
) -> list[int]:
    """Returns which text each row is: short ones come first, so that no request is padded further than it needs."""
    tokens = [tokenizer.encode(text, spec.context_length) for text in texts]
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    for start in range(0, len(order), TEXTS):
        rows = order[start : start + TEXTS]
        requests[f"{kind}{start:06d}"] = spec.pad([tokens[i] for i in rows])
    return order


def _probe_tokens(batch: int, length: int, spec: EncoderSpec, tokenizer: Tokenizer) -> npt.NDArray[np.int32]:
    """int32 [batch, length]: start, arbitrary pieces and, at the last places, the end, which the tower may look for."""
    start, end = tokenizer.start, tokenizer.end
    pieces = np.setdiff1d(np.arange(spec.vocab_size, dtype=np.int32), [spec.pad_id, *start, *end])
    tokens = np.random.default_rng(batch).choice(pieces, (batch, length))
    tokens[:, : len(start)], tokens[:, length - len(end) :] = start, end
    return tokens


def _padded(tokens: npt.NDArray[Any], spec: EncoderSpec) -> npt.NDArray[Any]:
    missing = spec.context_length - tokens.shape[1]
    return np.pad(tokens, ((0, 0), (0, missing)), constant_values=spec.pad_id)


def _digest(samples: ParitySamples) -> str:
    images = [hashlib.sha256(read_encoded(image)).hexdigest() for image in samples.images]
    return value_digest([images, list(samples.texts), list(samples.classes or ()), list(samples.templates)])
