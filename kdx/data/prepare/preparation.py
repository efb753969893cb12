"""`kdx data prepare`: the images of a list of URLs, as tar shards, through img2dataset.

img2dataset downloads, retries, resizes, respects opt-out headers and spreads the work. Here the list is read, what is
there already is told from what is to be done, and the outcome is judged.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdx.core.digests import file_digest
from kdx.core.errors import DataError, SetupError, UsageError
from kdx.core.progress import Progress, Stages, silent_stages
from kdx.core.spelling import nearest
from kdx.core.workspace import FULL

from .environment import find_downloader
from .folder import SHARD_DIGITS, PreparedFolder
from .scripts import ask, running
from .stats import Counts, read_stats, stats_files
from .url_list import UrlList, choose_columns, is_parquet, list_files, read_text_list

ROWS_A_SHARD = 10_000
ROWS_A_FILE = 10 * ROWS_A_SHARD  # img2dataset holds one file of the list at a time
POLL = 0.5  # seconds
DEFAULTS: dict[str, Any] = {  # of the options that may be given too
    "resize_mode": "keep_ratio",
    "resize_only_if_bigger": True,
    "skip_reencode": True,  # a JPEG that is small enough stays as it is, to the byte
    "encode_quality": 95,
    "min_image_size": 32,  # what stands in for a picture that is gone is often one pixel
    "extract_exif": False,
    "compute_hash": "sha256",  # of the file as it came
    "user_agent_token": "img2dataset",  # says who asks, so that a site can refuse this one
    "disallowed_header_directives": ["noai", "noimageai", "noindex", "noimageindex"],
    "timeout": 10,
}
PASSED = frozenset(  # options of img2dataset that are not decided here
    {
        *DEFAULTS,
        "upscale_interpolation",
        "downscale_interpolation",
        "encode_format",
        "disable_all_reencoding",
        "max_image_area",
        "max_aspect_ratio",
        "max_shard_retry",
        "subjob_size",
    }
)
HOW = frozenset({"timeout", "max_shard_retry", "subjob_size"})  # that decide how, not what is downloaded


@dataclass(frozen=True)
class Settings:
    """image_size: pixels of the shorter side. typed: further options of img2dataset, as they were typed."""

    image_size: int = 288
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    threads: int = 64
    retries: int = 2
    distributor: str = "multiprocessing"
    url_column: str | None = None
    caption_column: str | None = None
    typed: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Prepared:
    """rows: of the list. left_out: rows without a URL, or without a caption where others have one. failed: reason →
    rows. seconds: of this call. bytes: of the shards.
    """

    folder: str
    rows: int
    got: int
    failed: dict[str, int]
    left_out: int
    first_left_out: str | None
    captions: bool
    shards: int
    bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def prepare(path: Path, out: Path, settings: Settings, *, stages: Stages = silent_stages) -> Prepared:
    """Downloads what the list at `path` names into the folder `out`, or goes on with it.

    path: text (TAB, CSV, a URL a line), Parquet, or a folder of Parquet files. Raises UsageError for a folder that
    is somebody else's or another list's, DataError for a list that cannot be read, and SetupError when nothing came,
    or where nothing can be written.
    """
    start = time.monotonic()
    _check_typed(settings.typed)
    folder = PreparedFolder(out)
    folder.check()
    files = list_files(path)
    downloader = find_downloader(settings.distributor)
    if not downloader.is_installed:
        with stages("installing img2dataset"):
            downloader.install()
    python = downloader.python
    url_list = _find_columns(path, files, python, settings)
    with folder.kept_alone():
        record = _begin(folder, path, url_list, python, settings, stages)
        folder.forget_unfinished()
        if folder.counts().rows < record["rows"]:
            if not folder.list.is_dir():  # all was there once
                _write_list(folder, path, url_list, python, stages)
            with stages("downloading") as progress:
                _download(folder, python, record, settings, progress)
        prepared = _judge(folder, record, time.monotonic() - start)
        folder.forget_list()
        return prepared


def _check_typed(typed: Mapping[str, str]) -> None:
    for name in typed:
        if name not in PASSED:
            close = nearest(name, PASSED)
            raise UsageError(
                f"{name} is no option of img2dataset that can be given here",
                where="--",
                remedy=f"did you mean {close}?" if close else f"there are {', '.join(sorted(PASSED))}",
            )


def _find_columns(path: Path, files: tuple[Path, ...], python: Path, settings: Settings) -> UrlList:
    if not is_parquet(files[0]):
        return read_text_list(path, settings.url_column, settings.caption_column)
    shown = ask(python, "convert_list.py", {"show": str(files[0])}, files[0])
    if not shown["rows"]:
        raise DataError("is empty", where=files[0], remedy="give a list with a URL in each row")
    url, caption = choose_columns(
        path, shown["names"], shown["rows"], settings.url_column, settings.caption_column
    )
    return UrlList(files, "parquet", url, caption)


def _begin(
    folder: PreparedFolder, path: Path, url_list: UrlList, python: Path, settings: Settings, stages: Stages
) -> dict[str, Any]:
    """The record of the folder: the old one, if it is of this list and these settings. Where nothing has come yet, a
    new one takes its place.
    """
    content = {name: value for name, value in settings.typed.items() if name not in HOW}
    wanted = {
        "list": [file_digest(file) for file in url_list.files],
        "columns": [url_list.url, url_list.caption],
        "settings": {"image_size": settings.image_size, **content},
    }
    record = folder.read_record()
    if record is not None and all(record[name] == wanted[name] for name in wanted):
        return record
    if record is not None and folder.counts().got:
        raise _other_preparation(folder, path, record, wanted)
    folder.forget_record()
    answer = _write_list(folder, path, url_list, python, stages)
    if not answer["rows"]:
        raise DataError(
            "holds no row with a URL" + (" and a caption" if url_list.caption is not None else ""),
            where=path,
            remedy="name its columns with --url-column and --caption-column",
        )
    folder.write_record({**wanted, **answer})
    return {**wanted, **answer}


def _write_list(
    folder: PreparedFolder, path: Path, url_list: UrlList, python: Path, stages: Stages
) -> dict[str, Any]:
    with folder.making_list() as new, stages("reading the list") as progress:
        job = {
            "files": [str(file.absolute()) for file in url_list.files],
            "format": url_list.format,
            "header": url_list.header,
            "url": url_list.url,
            "caption": url_list.caption,
            "out": str(new),
            "rows_per_file": ROWS_A_FILE,
        }
        return ask(python, "convert_list.py", job, path, progress)


def _other_preparation(
    folder: PreparedFolder, path: Path, record: dict[str, Any], wanted: dict[str, Any]
) -> UsageError:
    if record["list"] != wanted["list"]:
        what = f"holds images of another list than {path}"
    else:
        name = "columns" if record["columns"] != wanted["columns"] else "settings"
        what = f"was begun with other {name}: {record[name]}, now {wanted[name]}"
    remedy = "choose another path for --out, or give the same command as before to go on"
    return UsageError(what, where=folder.path, remedy=remedy)


def _download(
    folder: PreparedFolder, python: Path, record: dict[str, Any], settings: Settings, progress: Progress
) -> None:
    """Raises SetupError when the disk is full or img2dataset ends in the middle."""
    captions = record["columns"][1] is not None
    options = {
        **DEFAULTS,
        "url_list": str(folder.list),
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption" if captions else None,
        "output_folder": str(folder.path),
        "output_format": "webdataset",
        "image_size": settings.image_size,
        "processes_count": settings.processes,
        "thread_count": settings.threads,
        "retries": settings.retries,
        "distributor": settings.distributor,
        "number_sample_per_shard": ROWS_A_SHARD,
        "oom_shard_count": SHARD_DIGITS,
        "incremental_mode": "incremental",
        "enable_wandb": False,
    }
    with running(python, "download.py", {"options": options, "typed": dict(settings.typed)}) as process:
        watcher = _Watcher(process, folder.log)
        seen: dict[int, Counts] = {}
        while True:
            ended = _ended(process)
            for number, path in stats_files(folder.path).items():
                if number not in seen and (counts := read_stats(path)):
                    seen[number] = counts
            total = Counts()
            for counts in seen.values():
                total.add(counts)
            doing = sum(rows for number, rows in list(watcher.rows.items()) if number not in seen)
            progress(
                min(total.rows + doing, record["rows"]),
                record["rows"],
                f"{total.got} images" * bool(total.got),
            )
            if watcher.full:
                raise SetupError(
                    f"cannot be written: {os.strerror(watcher.full)}",
                    where=folder.path,
                    remedy="free space, and give the same command again: it goes on from there",
                )
            if ended:
                break
        watcher.join()
    if process.returncode:
        raise SetupError(
            f"img2dataset has ended: {watcher.last or f'exit code {process.returncode}'}",
            where=folder.log,
            remedy="give the same command again: it goes on from there",
        )


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL)
    except subprocess.TimeoutExpired:
        return False
    return True


class _Watcher(threading.Thread):
    """Keeps what img2dataset says in a log. rows: of the shards it works on. full: the error of a full disk."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        super().__init__(daemon=True)
        self.rows: dict[int, int] = {}
        self.full = 0
        self.last = ""
        self._process = process
        self._log = log
        self.start()

    def run(self) -> None:
        assert self._process.stdout is not None
        with self._log.open("wb", buffering=0) as log:
            for line in self._process.stdout:
                text = line.decode(errors="replace").strip()
                if found := re.fullmatch(r"kdx rows (\d+) (\d+)", text):
                    self.rows[int(found[1])] = int(found[2])
                    continue
                if found := re.match(r"kdx fault \d+ \[Errno (\d+)\]", text):
                    self.full = int(found[1]) if int(found[1]) in FULL else 0
                self.last = text or self.last
                log.write(line)


def _judge(folder: PreparedFolder, record: dict[str, Any], seconds: float) -> Prepared:
    counts = folder.counts()
    if counts.rows < record["rows"]:
        raise SetupError(
            f"img2dataset has left out {record['rows'] - counts.rows} of {record['rows']} rows",
            where=folder.log,
            remedy="give the same command again: it tries these again",
        )
    if not counts.got:
        reason, times = counts.failed.most_common(1)[0]
        raise SetupError(
            f"none of {counts.rows} images could be downloaded; {times} × {reason}",
            where=folder.path,
            remedy="check the network and the list, and give the same command again",
        )
    tars = folder.tars()
    return Prepared(
        folder=str(folder.path),
        rows=record["rows"],
        got=counts.got,
        failed=dict(counts.failed.most_common()),
        left_out=record["left_out"],
        first_left_out=record["first_left_out"],
        captions=record["columns"][1] is not None,
        shards=len(tars),
        bytes=sum(tar.stat().st_size for tar in tars),
        seconds=round(seconds, 1),
    )
