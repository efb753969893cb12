"""From a source to a set of shards: resumable, and with nothing half-written under the names of the set."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from kdx.core.digests import value_digest
from kdx.core.errors import DataError, beginning
from kdx.core.folders import write_atomic
from kdx.core.progress import Progress, silent

from .conversion_folder import ConversionFolder, FinishedShard, conversion_folder
from .plan import Plan, Planned, make_plan
from .sample import Sample, image_extension
from .set_folder import CLASSES, SKIPPED, write_checksums
from .sources.source import Source, Unusable
from .tar_writer import TarWriter
from .writing import add_sample

MAX_LEFT_OUT = 0.1  # share of the images
SHOWN = 3
LONGEST_NAME = 200  # characters of an image's name in an error
EVERY = 50  # images between two calls of progress
RULES = "1"  # part of a plan's identity: change it with what a sample is written as


@dataclass
class Converted:
    """splits: (samples, captions) by name. left_out, notes: the first few of each, as (image, reason), and how many;
    all of them are in skipped.jsonl."""

    splits: dict[str, tuple[int, int]] = field(default_factory=dict)
    classes: list[str] | None = None
    left_out: list[tuple[str, str]] = field(default_factory=list)
    num_left_out: int = 0
    notes: list[tuple[str, str]] = field(default_factory=list)
    num_notes: int = 0
    resumed_shards: int = 0


def convert(
    source: Source,
    folder: Path,
    *,
    val: float | None = None,
    overwrite: bool = False,
    samples_per_shard: int = 2000,
    progress: Progress = silent,
) -> Converted:
    """Writes the images of `source` with their captions and classes as a set into `folder`.

    val: share that is held out, chosen by the digests of the keys, so that it stays when images are added. JPEG,
    PNG, WebP and AVIF are copied as they are and not decoded; other images become PNG, of an animation the first
    frame. After a kill the same call goes on behind the last whole shard, if its source has not changed.
    Raises UsageError for what cannot be, DataError where more than a tenth of the images cannot be used.
    """
    folder = folder.resolve()
    with (
        conversion_folder(folder, overwrite=overwrite) as work,
        (work.path / SKIPPED).open("w", encoding="utf-8") as skipped,
    ):
        refused = folder.parent / f"{folder.name}-{SKIPPED}"
        report = _Report(source, skipped, refused)
        plan = make_plan(work.database, source, val=val, leave_out=report.leave_out, note=report.note)
        report.total = plan.num_images + report.result.num_left_out
        report.check()
        work.begin(value_digest([RULES, plan.digest, samples_per_shard]))
        done = 0
        for name, images in _shards(plan, samples_per_shard):
            done = _write_shard(work, name, images, source, report, progress, done, plan.num_images)
        result = report.result
        result.classes = plan.classes
        skipped.flush()
        _write_texts(work, result)
        work.move_to(folder, overwrite=overwrite)
        refused.unlink(missing_ok=True)  # of an earlier try
    return result


class _Report:
    """Counts what is left out, and stops when it is too much. refused: where the list of it is kept then."""

    def __init__(self, source: Source, file: TextIO, refused: Path) -> None:
        self.result = Converted()
        self.total = 0  # images; 0 while it is not known
        self._source = source
        self._file = file
        self._refused = refused

    def leave_out(self, image: str, reason: str) -> None:
        self.result.num_left_out += 1
        if len(self.result.left_out) < SHOWN:
            self.result.left_out.append((image, reason))
        self._write(image=image, reason=reason)
        if self.total:
            self.check()

    def note(self, image: str, note: str) -> None:
        self.result.num_notes += 1
        if len(self.result.notes) < SHOWN:
            self.result.notes.append((image, note))
        self._write(image=image, note=note)

    def check(self) -> None:
        count = self.result.num_left_out
        if count <= MAX_LEFT_OUT * self.total:
            return
        some = "; ".join(
            f"{beginning(image, LONGEST_NAME)}: {reason}" for image, reason in self.result.left_out
        )
        self._file.flush()
        shutil.copyfile(self._file.name, self._refused)
        raise DataError(
            f"{count} of {self.total} images cannot be used so far ({some}{'; …' if count > SHOWN else ''})",
            where=self._source.place,
            remedy=f"repair or remove them, {self._refused} names all; up to a tenth would be left out",
        )

    def _write(self, **fields: str) -> None:
        self._file.write(json.dumps(fields) + "\n")


def _shards(plan: Plan, size: int) -> Iterator[tuple[str, list[Planned]]]:
    for split in plan.splits:
        images = plan.images(split)
        for number in itertools.count():
            group = list(itertools.islice(images, size))
            if not group:
                break
            yield f"{split}-{number:05d}.tar", group


def _write_shard(
    work: ConversionFolder,
    name: str,
    images: list[Planned],
    source: Source,
    report: _Report,
    progress: Progress,
    done: int,
    total: int,
) -> int:
    """Writes one shard, or takes a finished one if its images are still the same. Returns how many images are done."""
    finished = work.finished.get(name)
    if finished is not None and finished.state == _state(source, images):
        report.result.resumed_shards += 1
        for image, reason in finished.left_out:
            report.leave_out(image, reason)
    else:
        finished = _pack(work.new / name, images, source, report, progress, done, total)
        work.note_finished(finished)
    split = name.partition("-")[0]
    samples, captions = report.result.splits.get(split, (0, 0))
    report.result.splits[split] = (samples + finished.samples, captions + finished.captions)
    progress(done + len(images), total)
    return done + len(images)


def _pack(
    path: Path,
    images: list[Planned],
    source: Source,
    report: _Report,
    progress: Progress,
    done: int,
    total: int,
) -> FinishedShard:
    state = _state(source, images)  # before they are read: a change meanwhile makes the shard anew
    samples = captions = 0
    left_out: list[list[str]] = []
    with TarWriter(path) as tar:
        for number, planned in enumerate(images):
            if number % EVERY == 0:
                progress(done + number, total)
            try:
                image = _image(source.read(planned.image))
            except Unusable as reason:
                left_out.append([source.name(planned.image), str(reason)])
                report.leave_out(*left_out[-1])
                continue
            add_sample(tar, Sample(planned.key, image, planned.captions, planned.label))
            samples += 1
            captions += len(planned.captions)
    return FinishedShard(path.name, tar.size, tar.digest, state, samples, captions, left_out)


def _image(content: bytes) -> bytes:
    """The bytes as they are where a shard can hold them, else a PNG of the same pixels. Raises Unusable."""
    if image_extension(content) is not None:
        return content
    if not content:
        raise Unusable("the file is empty")
    from kdx.core.images import decode_image  # most sets need no decoder

    try:
        decoded = decode_image(content)
    except DataError as error:
        raise Unusable(error.what) from None
    png = io.BytesIO()
    decoded.save(png, "PNG")
    return png.getvalue()


def _state(source: Source, images: list[Planned]) -> str:
    digest = hashlib.sha256()
    for planned in images:
        digest.update(repr(source.state(planned.image)).encode())
    return digest.hexdigest()


def _write_texts(work: ConversionFolder, result: Converted) -> None:
    for shard in work.finished.values():
        if shard.samples == 0:
            (work.new / shard.name).unlink()
    write_checksums(work.new, {shard.name: shard.sha256 for shard in work.finished.values() if shard.samples})
    if result.num_left_out or result.num_notes:
        (work.path / SKIPPED).rename(work.new / SKIPPED)
    if result.classes is not None:
        write_atomic(work.new / CLASSES, "\n".join(result.classes) + "\n")
