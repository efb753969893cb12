"""The embeddings of a data set's images and of many texts, made in pieces (kdx/evaluate/sharing.py)."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdx.core.ahead import embed_ahead
from kdx.core.digests import value_digest
from kdx.core.encoder import EMBED_BATCH, Embedder, FloatArray, concatenate, warn_of_cut
from kdx.core.errors import DataError
from kdx.core.progress import Progress
from kdx.data.image_set import ImageSet

from .pixels import pixels_of
from .sharing import Workplace
from .stored import Arrays

log = logging.getLogger(__name__)

MAX_BATCHES = 16  # a piece
PIECES = 4  # at least, of each process, where there are so many batches
TEXTS_A_PIECE = 4096
MAX_BAD_SHARE = 0.1  # with more images missing the score would say little about the set


@dataclass(frozen=True)
class EmbeddedImages:
    """rows: [N], of the set, those that could be read and decoded; embeddings: float32 [N, D]; refused: how many
    could not.
    """

    rows: npt.NDArray[np.int64]
    embeddings: FloatArray
    refused: int


def images_a_piece(total: int, num_processes: int) -> int:
    """Whole batches, so that a piece is the same whoever makes it."""
    batches = -(-total // (EMBED_BATCH * PIECES * num_processes))
    return EMBED_BATCH * max(1, min(batches, MAX_BATCHES))


def embed_set(
    embedder: Embedder,
    samples: ImageSet,
    rows: npt.NDArray[np.int64],
    work: Workplace,
    progress: Progress,
) -> EmbeddedImages:
    """Each image that cannot be read or decoded is logged, counted and left out.

    Raises DataError when that is more than a tenth.
    """
    size = images_a_piece(len(rows), work.peers.size)
    pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
    images = _Images(embedder, samples, pieces, work, progress)
    made = work.share("images", len(pieces), images.digest, images.embed)
    good = np.concatenate([piece[each["places"]] for piece, each in zip(pieces, made, strict=True)])
    reasons = [str(reason) for each in made for reason in each["reasons"]]
    _check_share(samples, len(rows), reasons)
    embeddings = concatenate([each["embeddings"] for each in made], embedder.spec.embed_dim)
    return EmbeddedImages(good, embeddings, len(reasons))


class _Images:
    """The pieces of a data set's images."""

    def __init__(
        self,
        embedder: Embedder,
        samples: ImageSet,
        pieces: list[npt.NDArray[np.int64]],
        work: Workplace,
        progress: Progress,
    ) -> None:
        self._embedder, self._samples, self._pieces = embedder, samples, pieces
        self._progress = progress
        self._total = sum(map(len, pieces))
        self._mine = sum(map(len, pieces[work.peers.rank :: work.peers.size]))
        self._kept = work.folder is not None
        self._digests: dict[int, bytes] = {}  # of the bytes of each image, while its piece is not whole

    def digest(self, number: int) -> str:
        """Of a piece's bytes; reads them, and decodes nothing."""
        for row in self._pieces[number].tolist():
            with contextlib.suppress(DataError):
                self._read(row)
        return self._take_digest(number)

    def embed(self, numbers: Sequence[int]) -> Iterator[tuple[str, Arrays]]:
        rows = [row for number in numbers for row in self._pieces[number].tolist()]
        done = self._mine - len(rows)
        reasons: list[str] = []
        sources = (functools.partial(self._read, row) for row in rows)
        batches = embed_ahead(self._embedder, sources, pixels_of(self._total))
        for number in numbers:
            embeddings: list[FloatArray] = []
            refused: dict[int, str] = {}
            first = done - self._mine + len(rows)  # among the images that are embedded here
            end = done + len(self._pieces[number])
            while done < end:
                batch = next(batches)
                embeddings.append(batch.embeddings)
                for image, error in batch.refused.items():
                    log.warning("left out sample %s: %s", self._samples.keys[rows[image]], error.what)
                    refused[image - first] = error.what
                    reasons.append(error.what)
                _check_share(self._samples, self._total, reasons)
                done += batch.size
                self._progress(done, self._mine)
            yield self._take_digest(number), self._arrays(number, embeddings, refused)

    def _arrays(self, number: int, embeddings: list[FloatArray], refused: dict[int, str]) -> Arrays:
        """refused: the reason by the place in the piece."""
        places = [place for place in range(len(self._pieces[number])) if place not in refused]
        return {
            "places": np.array(places, dtype=np.int64),
            "embeddings": concatenate(embeddings, self._embedder.spec.embed_dim),
            "reasons": np.array(list(refused.values()), dtype=np.str_),
        }

    def _read(self, row: int) -> bytes:
        """Called in many threads."""
        image = self._samples.image(row)
        if self._kept:
            self._digests[row] = hashlib.blake2b(image, digest_size=16).digest()
        return image

    def _take_digest(self, number: int) -> str:
        return value_digest([self._digests.pop(row, b"").hex() for row in self._pieces[number].tolist()])


def _check_share(samples: ImageSet, total: int, reasons: list[str]) -> None:
    if len(reasons) > MAX_BAD_SHARE * total:
        raise DataError(
            f"more than a tenth of {total} images cannot be read or decoded ({len(reasons)} so far; {reasons[0]})",
            where=samples.place,
            remedy="repair the files; the log names the samples",
        )


def embed_texts(embedder: Embedder, texts: Sequence[str], work: Workplace, progress: Progress) -> FloatArray:
    """Float32 [N, D], unit rows, in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # equal lengths need no padding
    pieces = [order[start : start + TEXTS_A_PIECE] for start in range(0, len(texts), TEXTS_A_PIECE)]

    def digest(number: int) -> str:
        return value_digest([texts[row] for row in pieces[number]])

    def embed(numbers: Sequence[int]) -> Iterator[tuple[str, Arrays]]:
        for number in numbers:
            made, cut = embedder.embed_and_count([texts[row] for row in pieces[number]])
            progress(sum(map(len, pieces[: number + 1])), len(texts), "captions")
            yield digest(number), {"embeddings": made, "cut": np.array(cut or 0)}

    embeddings = np.empty((len(texts), embedder.spec.embed_dim), dtype=np.float32)
    cut = 0
    for rows, made in zip(pieces, work.share("texts", len(pieces), digest, embed), strict=True):
        embeddings[rows] = made["embeddings"]
        cut += int(made.get("cut", 0))  # of an evaluation that an older kdx began it is not known
    if work.peers.rank == 0:
        warn_of_cut(cut, len(texts), embedder.spec)
    return embeddings
