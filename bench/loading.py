"""Images a second on one core: kdx's reading of training pairs beside open_clip's, on the same shards, taking turns.

Each program runs in a process of its own that stays, and reads the same photos again in each turn: kdx by the chunks
of its loader, exact and scaled, open_clip by the WebDataset pipeline of its trainer, up to its batch.
What lies between a shard on the disk and the batch is measured: reading, decoding, cropping, tokens.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from kdx.core.errors import SetupError, UsageError
from kdx.core.image_suffixes import SUFFIXES
from kdx.core.images import decode_image
from kdx.core.preprocess import Preprocess
from kdx.core.progress import Progress, silent
from kdx.core.provenance import collect_provenance
from kdx.core.scratch import scratch_folder
from kdx.data.caption_tokens import CaptionTokens
from kdx.data.chunks import CHUNK, Chunks, Request
from kdx.data.sampling import spread
from kdx.data.shards import open_split
from kdx.data.view_reader import ViewReader
from kdx.data.views import ViewConfig

from .peer import peer_command, told_error

EXACT, SCALED, PEER = "kdx, exact", "kdx, scaled", "open_clip"
CAPTION = "a photo of something that nobody has looked at"
IMAGE_SIZE, CONTEXT_LENGTH = 224, 77

# Each answers every line of its stdin with the seconds of processor time and the number of images of one round
KDX_READER = """
import sys, time
import torch
from kdx.bench.loading import Reading
torch.set_num_threads(1)
reading = Reading(sys.argv[1], sys.argv[2])
for _ in sys.stdin:
    started = time.process_time()
    count = reading.read_all()
    print(time.process_time() - started, count, flush=True)
"""
PEER_READER = """
import argparse, time, warnings
warnings.simplefilter("ignore")
import torch
from open_clip import get_tokenizer
from open_clip.transform import image_transform
from open_clip_train.data import get_wds_dataset
torch.set_num_threads(1)
shards, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = argparse.Namespace(
    train_data=shards, train_num_samples=count, train_data_upsampling_factors=None, dataset_resampled=False, seed=0,
    batch_size=32, world_size=1, workers=0,
)
transform = image_transform(size, is_train=True, mean=None, std=None)
data = get_wds_dataset(options, transform, True, tokenizer=get_tokenizer("ViT-B-16"))
for _ in sys.stdin:
    started = time.process_time()
    images = sum(len(batch[0]) for batch in data.dataloader)
    print(time.process_time() - started, images, flush=True)
"""


class Reading:
    """What a training worker of kdx does, with the train shards in a folder. decode: "exact" or "scaled"."""

    def __init__(self, shards: str, decode: str) -> None:
        samples = open_split(Path(shards), "train")
        preprocess = Preprocess(IMAGE_SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        reader = ViewReader(
            samples, preprocess, ViewConfig.model_validate({"decode": decode}), max_bad_share=0
        )
        self._chunks = Chunks(reader.forgetful(), CaptionTokens(samples, CONTEXT_LENGTH), 0, 1, shared=False)
        self._rows = np.random.default_rng(0).permutation(len(samples))

    def read_all(self) -> int:
        """How many pairs were read."""
        requests = (
            Request(0, rows, 0, 0) for rows in np.split(self._rows, range(CHUNK, len(self._rows), CHUNK))
        )
        return sum(len(self._chunks.fill(request).rows) for request in requests)


def measure_loading(
    photos: Path,
    *,
    sizes: Sequence[int] = (500, 1000),
    count: int = 256,
    turns: int = 5,
    peer: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Packs `count` photos, made as long as each of `sizes`, into a shard, and lets the programs read it in turn.

    photos: a folder of pictures. One whose longer side is within a tenth of the size is taken byte for byte, others are
    resized and encoded again at quality 90. peer: the Python of an environment with `open_clip_torch[training]`;
    without it open_clip is left out. Returns, as JSON, for each size `images_per_second` (`median` and `turns` by
    program), `ratios` to open_clip (medians of the turns'), `image_bytes`; and `load_average`, `provenance`.

    Raises UsageError where no picture lies, SetupError where a program fails.
    """
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UsageError("there are no pictures", where=photos, remedy="give a folder of photos")
    load = os.getloadavg()[0]
    measured: dict[str, Any] = {}
    total, done = len(sizes) * (turns + 1), itertools.count()
    for size in sizes:
        tell = functools.partial(_tell, progress, done, total, f"{size} pixels")
        with scratch_folder() as folder:
            image_bytes = _pack(paths, size, count, folder / "train-00000.tar")

            measured[str(size)] = {"image_bytes": image_bytes, **_measure(folder, count, turns, peer, tell)}
    return {
        "sizes": measured,
        "images": count,
        "image_size": IMAGE_SIZE,
        "load_average": load,
        "provenance": collect_provenance(shipped=True),
    }


def _tell(progress: Progress, done: Iterator[int], total: int, note: str) -> None:
    progress(next(done), total, note)


def loading_table(document: Mapping[str, Any]) -> str:
    """The document as Markdown."""
    programs = list(next(iter(document["sizes"].values()))["images_per_second"])
    lines = ["| photos of | " + " | ".join(programs) + " |", "|---" * (len(programs) + 1) + "|"]
    for size, row in document["sizes"].items():
        cells = []
        for name in programs:
            ratio = f" ({row['ratios'][name]:.2f} ×)" if name in row["ratios"] else ""
            cells.append(f"{row['images_per_second'][name]['median']:.0f}{ratio}")
        lines.append(f"| {size} px, {row['image_bytes'] / 1000:.0f} kB | " + " | ".join(cells) + " |")
    provenance = document["provenance"]
    lines += [
        "",
        f"Images a second of processor time on one core, from shards to batches at {document['image_size']} pixels; "
        f"{document['images']} photos; {provenance['cpu']}, load average before {document['load_average']:.1f}.",
    ]
    return "\n".join(lines)


def _pack(photos: Sequence[Path], size: int, count: int, path: Path) -> float:
    """Writes a shard; returns the mean bytes of an image."""
    total = 0
    rows = spread(len(photos), count)
    encoded = [_of_length(photos[row].read_bytes(), size) for row in rows]
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            image = encoded[number % len(encoded)]
            total += len(image)
            for suffix, content in (("jpg", image), ("txt", CAPTION.encode())):
                header = tarfile.TarInfo(f"{number:06d}.{suffix}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return total / count


def _of_length(encoded: bytes, size: int) -> bytes:
    image = decode_image(encoded)
    longest = max(image.size)
    if abs(longest - size) <= size / 10 and encoded.startswith(b"\xff\xd8"):
        return encoded
    width, height = (max(1, round(side * size / longest)) for side in image.size)
    buffer = io.BytesIO()
    image.resize((width, height)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _measure(
    folder: Path, count: int, turns: int, peer: Path | None, tell: Callable[[], None]
) -> dict[str, Any]:
    commands: dict[str, list[str]] = {}
    if peer is not None:
        shard = folder / "train-00000.tar"
        commands[PEER] = peer_command(peer, PEER_READER, shard, count, IMAGE_SIZE)
    commands[EXACT] = [sys.executable, "-c", KDX_READER, str(folder), "exact"]
    commands[SCALED] = [sys.executable, "-c", KDX_READER, str(folder), "scaled"]
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with contextlib.ExitStack() as stack:
        readers: dict[str, _Reader] = {}
        for turn in range(turns + 1):
            tell()
            for name, command in commands.items():
                if name not in readers:
                    said = stack.enter_context(tempfile.TemporaryFile("w+"))
                    reader = _Reader(name, command, said)
                    readers[name] = stack.enter_context(contextlib.closing(reader))
                rate = readers[name].images_per_second()
                if turn:  # the first one is for caches to fill
                    taken[name].append(rate)
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates, taken[PEER], strict=True))
        for name, rates in taken.items()
        if PEER in taken and name != PEER
    }
    rates = {name: {"median": statistics.median(each), "turns": each} for name, each in taken.items()}
    return {"images_per_second": rates, "ratios": ratios}


class _Reader:
    """A process that reads all photos once for each line."""

    def __init__(self, name: str, command: Sequence[str], said: IO[str]) -> None:
        """said: where its stderr goes, a file: a pipe that nobody empties would stop it."""
        self._name, self._program, self._said = name, command[0], said
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        except OSError as error:
            raise SetupError(
                f"{name} does not start: {error}", where=self._program, remedy="check the path"
            ) from None

    def images_per_second(self) -> float:
        """Of processor time. Raises SetupError when the process fails."""
        assert self._process.stdin and self._process.stdout
        try:
            print(file=self._process.stdin, flush=True)
            seconds, images = self._process.stdout.readline().split()
        except (BrokenPipeError, ValueError):
            self.close()
            self._said.seek(0)
            raise SetupError(
                f"{self._name} failed: {told_error(self._said.read())}",
                where=self._program,
                remedy="run it alone to see why",
            ) from None
        return int(images) / float(seconds)

    def close(self) -> None:
        self._process.communicate()  # closes its stdin
