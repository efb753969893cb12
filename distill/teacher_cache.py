"""The frozen teacher's embeddings of every view and caption, computed once and sealed.

One safetensors file a shard: `image` [n, K, D] and `text` [n, C, D] in fp16 (unit rows; C is the largest number
of captions of a sample, missing ones are zero) and `key` [n], the uint64 digests of the samples' keys, which are
compared whenever a cache is opened. Two roundings of 2⁻¹¹ move a logit at scale 100 by less than 0.1; those of random
rows with D = 512 moved by up to 0.008.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kdx.core.digests import value_digest
from kdx.core.encoder import Encoder, FloatArray
from kdx.core.errors import DataError, UsageError
from kdx.core.folders import MANIFEST, open_sealed, read_manifest, sealed_folder
from kdx.core.preprocess import normalize
from kdx.core.progress import Progress, silent
from kdx.data.loader import ViewReader
from kdx.data.sample import key_digest
from kdx.data.shards import Shard, ShardSet
from kdx.data.views import RULES as VIEW_RULES, ViewConfig

from .objective import Embeddings

KIND = "teacher-cache"
FORMAT = 1
BATCH = 256
ANEW = "remove the cache, so that it is made anew"


@dataclass(frozen=True)
class CachedShard:
    """What the teacher says of one shard: image fp16 [n, K, D], text fp16 [n, C, D]."""

    image: torch.Tensor
    text: torch.Tensor


@dataclass(frozen=True)
class TeacherCache:
    """A cache whose files are mapped: what a batch asks for is read then, so it may be larger than the memory."""

    shards: tuple[CachedShard, ...]
    logit_scale: float
    logit_bias: float | None
    reused: bool

    @property
    def embed_dim(self) -> int:
        return self.shards[0].image.shape[-1]

    @functools.cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """The first row of each shard in the shard set."""
        return np.cumsum([0, *(len(shard.image) for shard in self.shards[:-1])])

    def embeddings(
        self,
        rows: npt.NDArray[np.int64],
        views: npt.NDArray[np.int64],
        captions: npt.NDArray[np.int64],
        device: torch.device,
    ) -> Embeddings:
        """What the teacher says of these pairs: float32 [B, D] twice, its scale and its bias.

        rows: of the shard set; views and captions: which of a row's. All int [B]. Raises DataError for an image that
        did not decode when the cache was made.
        """
        image = torch.empty(len(rows), self.embed_dim, dtype=torch.float16)
        text = torch.empty_like(image)
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            within = torch.from_numpy(rows[here] - self.starts[number])
            shard = self.shards[number]
            image[here] = shard.image[within, torch.from_numpy(views[here])]
            text[here] = shard.text[within, torch.from_numpy(captions[here])]
        if not image.any(dim=1).all():  # zeros stand for images that did not decode when the cache was made
            raise DataError("the teacher cache lacks images that decode now", remedy=ANEW)
        bias = None if self.logit_bias is None else torch.tensor(self.logit_bias, device=device)
        scale = torch.tensor(self.logit_scale, device=device)
        return Embeddings(image.to(device, torch.float32), text.to(device, torch.float32), scale, bias)


def fingerprint(teacher: Encoder, samples: ShardSet, views: ViewConfig) -> str:
    """The identity of a cache: teacher, its preprocessing and tokenizer, the views and the data.

    Preprocessing, tokenizer and views as this kdx applies them, whatever the one that made the teacher did.
    """
    return value_digest(
        {
            "format": FORMAT,
            "model": teacher.spec.model_digest,
            "preprocess": teacher.preprocess.digest,
            "tokenizer": teacher.tokenizer.digest,
            "views": [VIEW_RULES, views.model_dump(mode="json")],
            "data": samples.pairs_digest,
        }
    )


def open_cache(
    folder: Path,
    teacher: Encoder,
    samples: ShardSet,
    views: ViewConfig,
    *,
    max_bad_share: float,
    made_by: Path | None = None,
    progress: Progress = silent,
) -> TeacherCache:
    """Opens the cache at `folder`, or computes and seals it there if nothing lies there.

    made_by: where the teacher was opened from, for the cache's manifest. Its fields tell teacher, data, views,
    captions, bad images and seconds.

    Raises UsageError when a cache of something else lies there, DataError when it is not whole or not of these
    samples.
    """
    identity = fingerprint(teacher, samples, views)
    reused = folder.exists()
    if reused:
        _check_identity(folder, identity)
        open_sealed(folder, KIND, verify_large=False)  # many gigabytes, of which a step reads little
    else:
        _build(folder, identity, teacher, samples, views, max_bad_share, made_by, progress)
    shards: list[CachedShard] = []
    for shard in samples.shards:
        keys = [samples.keys[row] for row in shard.rows]
        shards.append(_open_shard(folder / _file_name(shard), keys, views.num_views, teacher.spec.embed_dim))
    return TeacherCache(
        shards=tuple(shards),
        logit_scale=teacher.spec.logit_scale,
        logit_bias=teacher.spec.logit_bias or None,  # a specification says 0 where a model has none
        reused=reused,
    )


def _open_shard(path: Path, keys: Sequence[str], num_views: int, embed_dim: int) -> CachedShard:
    """Maps a file: of its embeddings nothing is read. Raises DataError unless they are of the samples `keys`."""
    try:
        with safe_open(path, framework="pt") as file:
            image, text, key = (file.get_tensor(name) for name in ("image", "text", "key"))
    except SafetensorError as error:
        raise DataError(f"is damaged: {error}", where=path, remedy=ANEW) from None
    if not np.array_equal(key.numpy(), _key_digests(keys)):
        raise DataError("holds the embeddings of other samples, or in another order", where=path, remedy=ANEW)
    expected = (len(keys), num_views, embed_dim)
    if image.shape != expected or text.ndim != 3 or (text.shape[0], text.shape[2]) != expected[::2]:
        raise DataError(
            f"holds embeddings of the shapes {list(image.shape)} and {list(text.shape)}, not {list(expected)}",
            where=path,
            remedy=ANEW,
        )
    return CachedShard(image, text)


def _key_digests(keys: Sequence[str]) -> npt.NDArray[np.uint64]:
    return np.array([key_digest(key) for key in keys], dtype=np.uint64)


def _file_name(shard: Shard) -> str:
    return f"{Path(shard.name).stem}.safetensors"


def _check_identity(folder: Path, identity: str) -> None:
    if not (folder / MANIFEST).is_file() or (manifest := read_manifest(folder)).kind != KIND:
        raise UsageError(
            "is no teacher cache", where=folder, remedy="give the folder of one, or a new place, to --cache"
        )
    found = manifest.fields.get("fingerprint")
    if found != identity:
        raise UsageError(
            f"holds the cache {str(found)[:12]}, this recipe needs {identity[:12]}: teacher, views or data differ",
            where=folder,
            remedy="give another --cache folder, or remove this one",
        )


def _build(
    folder: Path,
    identity: str,
    teacher: Encoder,
    samples: ShardSet,
    views: ViewConfig,
    max_bad_share: float,
    made_by: Path | None,
    progress: Progress,
) -> None:
    started = time.monotonic()
    reader = ViewReader(samples, teacher.preprocess, views, max_bad_share=max_bad_share)
    inputs = {"teacher": teacher.spec.model_digest, "data": samples.digest}
    total, done = len(samples), 0
    fields: dict[str, Any] = {"fingerprint": identity}
    with sealed_folder(folder, KIND, inputs=inputs, fields=fields) as building:
        for shard in samples.shards:
            tensors: list[dict[str, Any]] = []
            for start in range(shard.rows.start, shard.rows.stop, BATCH):
                rows = range(start, min(start + BATCH, shard.rows.stop))
                tensors.append(_embed_rows(teacher, reader, samples, rows))
                done += len(rows)
                progress(done, total)
            captions = max(part["text"].shape[1] for part in tensors)
            table = {
                "image": np.concatenate([part["image"] for part in tensors]),
                "text": np.concatenate([_with_captions(part["text"], captions) for part in tensors]),
                "key": _key_digests([samples.keys[row] for row in shard.rows]),
            }
            save_file(table, building / _file_name(shard))
        fields |= {
            "teacher": {
                "name": teacher.spec.name,
                "path": None if made_by is None else str(made_by),
                "digest": teacher.spec.model_digest,
            },
            "data": {"path": str(samples.folder), "pairs": total, "digest": samples.digest},
            "views": views.num_views,
            "captions": sum(len(samples.captions(row)) for row in range(total)),
            "bad_images": len(reader.bad),
            "seconds": time.monotonic() - started,
        }


def cache_size(embed_dim: int, pairs: int, views: int, captions: int) -> int:
    """About how many bytes a cache has: fp16 embeddings of all views and captions, and an 8-byte key a pair."""
    return 2 * embed_dim * (pairs * views + captions) + 8 * pairs


def _embed_rows(teacher: Encoder, reader: ViewReader, samples: ShardSet, rows: range) -> dict[str, Any]:
    """image fp16 [n, K, D]; text fp16 [n, C, D]."""
    return {
        "image": np.stack(
            [_embed_view(teacher, reader, rows, view) for view in range(reader.config.num_views)], axis=1
        ),
        "text": _embed_captions(teacher, samples, rows),
    }


def _embed_view(teacher: Encoder, reader: ViewReader, rows: range, view: int) -> npt.NDArray[np.float16]:
    """fp16 [n, D]; rows whose image does not decode stay zero and are never asked for."""
    rendered = [reader.read(row, view) for row in rows]
    good = [index for index, pixels in enumerate(rendered) if pixels is not None]
    embeddings = np.zeros((len(rows), teacher.spec.embed_dim), dtype=np.float16)
    if good:
        pixels = np.stack([pixels for pixels in rendered if pixels is not None])  # uint8 [B, S, S, 3]
        embeddings[good] = teacher.encode_image(normalize(pixels, teacher.spec.mean, teacher.spec.std))
    return embeddings


def _embed_captions(teacher: Encoder, samples: ShardSet, rows: range) -> npt.NDArray[np.float16]:
    """fp16 [n, C, D]."""
    captions = [samples.captions(row) for row in rows]
    flat: FloatArray = teacher.embed_texts([caption for several in captions for caption in several], BATCH)
    embeddings = np.zeros((len(rows), max(map(len, captions)), teacher.spec.embed_dim), dtype=np.float16)
    position = 0
    for index, several in enumerate(captions):
        embeddings[index, : len(several)] = flat[position : position + len(several)]
        position += len(several)
    return embeddings


def _with_captions(text: npt.NDArray[np.float16], captions: int) -> npt.NDArray[np.float16]:
    """[n, c, D] → [n, captions, D], filled with zeros."""
    return np.pad(text, ((0, 0), (0, captions - text.shape[1]), (0, 0)))
