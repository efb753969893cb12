"""Opening a cache, and making it where none lies: alone, or together with every process that asks for the same one."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from kdx.core.ahead import decoding_pool
from kdx.core.claims import Claim
from kdx.core.errors import DataError
from kdx.core.progress import Progress, silent
from kdx.core.provenance import cpu_count
from kdx.core.urls import shown
from kdx.data.shards import Shard, ShardSet
from kdx.data.views import ViewConfig

from .elsewhere import is_stored, store, working_folder
from .embedding import ShardEmbedder
from .identity import Teacher, file_names, fingerprint
from .reading import TeacherCache, read_cache
from .storage import Storage
from .work import CacheWork, Gone, WorkPlan, is_whole, join_work

POLL = 0.2  # seconds between looks at what other processes have done
ALONE = (0, 1)


def open_cache(
    folder: Path,
    teacher: Teacher,
    samples: ShardSet,
    views: ViewConfig,
    *,
    max_bad_share: float,
    storage: Storage | None = None,
    made_by: Path | None = None,
    share: tuple[int, int] = ALONE,
    progress: Progress = silent,
) -> TeacherCache:
    """Opens the cache at `folder`, or makes and seals it there if none lies there; goes on with one that was begun.

    folder: or a URL, to which it is copied when it is whole.

    Any number of processes may ask for the same cache at once: they divide its shards among them. storage: None is
    that of what lies there, else fp16. made_by: where the teacher was opened from, for the manifest, whose fields tell
    teacher, data, views, captions, bad images, storage and seconds. share: which of how many processes this is, for
    disks without locks.

    Raises UsageError when a cache of something else lies there, DataError when it is not whole or not of these samples,
    or when too many images do not decode.
    """
    identity = fingerprint(teacher, samples, views)
    reused = is_stored(folder)
    if not reused:
        work = working_folder(folder, identity)
        plan = WorkPlan(
            fingerprint=identity,
            storage=storage or "fp16",
            teacher={
                "name": teacher.spec.name,
                "path": None if made_by is None else str(made_by),
                "digest": teacher.spec.model_digest,
            },
            data={"path": shown(samples.folder), "pairs": len(samples), "digest": samples.digest},
            views=views.num_views,
            files=file_names(samples),
            rows=[len(shard.rows) for shard in samples.shards],
        )
        making = _Making(teacher, samples, views, max_bad_share, share, progress)
        while not is_whole(work) and not is_stored(folder):
            with contextlib.suppress(Gone):
                making.work_on(work, plan, storage)
        if work != folder:
            store(work, folder, progress)
    return read_cache(
        folder, identity, teacher.spec, samples, views.num_views, storage, reused=reused, progress=progress
    )


class _Making:
    def __init__(
        self,
        teacher: Teacher,
        samples: ShardSet,
        views: ViewConfig,
        max_bad_share: float,
        share: tuple[int, int],
        progress: Progress,
    ) -> None:
        self._teacher, self._samples, self._views = teacher, samples, views
        self._max_bad_share, self._progress = max_bad_share, progress
        self._rank, self._size = share
        numbers = range(len(samples.shards))
        first = self._rank * len(numbers) // self._size  # each rank begins elsewhere
        self._order = [*numbers[first:], *numbers[:first]]

    def work_on(self, folder: Path, plan: WorkPlan, storage: Storage | None) -> None:
        """Makes what nobody else makes, waits for the others, and seals. Raises Gone when another has sealed it."""
        with join_work(folder, plan, storage) as work, decoding_pool(cpu_count()) as pool:
            embedder = ShardEmbedder(
                self._teacher, self._samples, self._views, work.plan.storage, self._max_bad_share, pool
            )
            while work.missing():
                if not self._make_what_is_free(work, embedder):
                    self._progress(work.rows_done, len(self._samples), "another process makes the rest")
                    time.sleep(POLL)
            work.seal()

    def _make_what_is_free(self, work: CacheWork, embedder: ShardEmbedder) -> int:
        """Returns how many shards were made."""
        made = 0
        for number in self._order:
            file = work.plan.files[number]
            if file not in work.missing():
                continue
            with work.claimed(file) as found:
                mine = found is Claim.MINE or (found is Claim.UNKNOWN and number % self._size == self._rank)
                if mine and file in work.missing():
                    self._make(work, embedder, file, self._samples.shards[number])
                    made += 1
        return made

    def _make(self, work: CacheWork, embedder: ShardEmbedder, file: str, shard: Shard) -> None:
        started, bad_before, before = time.monotonic(), len(embedder.bad), work.rows_done
        tensors = embedder.embed(shard.rows, lambda rows: self._progress(before + rows, len(self._samples)))
        counts = self._samples.caption_counts[shard.rows.start : shard.rows.stop]
        work.write(
            file,
            tensors,
            captions=int(counts.sum()),
            bad_images=len(embedder.bad) - bad_before,
            seconds=time.monotonic() - started,
            precision=self._teacher.precision,
        )
        self._check_bad(sum(record.bad_images for record in work.records().values()))

    def _check_bad(self, bad: int) -> None:
        if bad > self._max_bad_share * len(self._samples):
            raise DataError(
                f"{bad} of {len(self._samples)} images do not decode",
                where=self._samples.folder,
                remedy="repair the shards, or raise max_bad_share in the recipe",
            )
