"""Runs img2dataset: a script for its environment, which imports nothing of kdx.

Its input is a JSON object: {"options": of img2dataset's `download` by name, "typed": more of them, as they were typed}.
It adds to img2dataset: an answer has an end in time and in size, and who asks too often waits as long as he is told to;
a JPEG of which the end is missing is refused; a shard gets its name when it is whole, and counts as failed if a sample
of it could not be written; and no process outlives the one that started it.

Every process of img2dataset runs this file's top level, since it starts them anew (spawn).
"""

import ctypes
import http.client
import importlib
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from img2dataset.downloader import Downloader  # pyright: ignore[reportMissingImports]
from img2dataset.resizer import Resizer  # pyright: ignore[reportMissingImports]
from img2dataset.writer import WebDatasetSampleWriter  # pyright: ignore[reportMissingImports]

PARTS = "_tmp"  # img2dataset's own folder for what is not finished, inside the output folder
ROWS_A_REPORT = 50
PR_SET_PDEATHSIG = 1
PARENT = "KDX_PARENT"
START_OF_JPEG, START_OF_SCAN, END_OF_JPEG = (
    b"\xff\xd8",
    b"\xff\xda",
    b"\xff\xd9",
)  # none occurs in compressed data


SLOWEST = 5  # times the timeout: how long a whole answer may take, since the timeout is for each piece of it
LARGEST = 2**26  # bytes of an answer
PIECE = 2**18
TOO_MANY, UNAVAILABLE = 429, 503
PAUSE, LONGEST_PAUSE = 1, 10  # seconds


class BoundedReader(io.RawIOBase):
    """What a socket receives, until the time is up or it is too much."""

    def __init__(self, raw, sock):
        self.raw, self.sock = raw, sock
        self.timeout = sock.gettimeout()
        self.end = time.monotonic() + SLOWEST * self.timeout
        self.size = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.sock.settimeout(min(self.timeout, left))
        got = self.raw.readinto(buffer)
        self.size += got or 0
        if self.size > LARGEST:
            raise ValueError(f"larger than {LARGEST >> 20} MiB")
        return got

    def readall(self):
        parts = []
        while part := self.read(PIECE):
            parts.append(part)
        return b"".join(parts)

    def close(self):
        self.raw.close()
        super().close()


class BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock, *more, **options):
        super().__init__(sock, *more, **options)
        self.fp = io.BufferedReader(BoundedReader(self.fp.detach(), sock))

    def begin(self):
        super().begin()
        wait = self.headers.get("Retry-After", "")
        if self.status == TOO_MANY or (self.status == UNAVAILABLE and wait):
            # it is tried again at once
            time.sleep(min(int(wait), LONGEST_PAUSE) if wait.isdecimal() and len(wait) < 9 else PAUSE)


class BoundedDownloader(Downloader):
    def download_shard(self, row):
        http.client.HTTPConnection.response_class = BoundedResponse  # in whichever process does the work
        super().download_shard(row)


class WholeImageResizer(Resizer):
    """OpenCV would paint what is missing of a JPEG gray. A server that names no length may have sent half of one."""

    def __call__(self, img_stream, *more):
        data = img_stream.getbuffer().tobytes()
        if data.startswith(START_OF_JPEG) and data.rfind(END_OF_JPEG) < data.rfind(START_OF_SCAN):
            return None, None, None, None, None, "image cut short"
        return super().__call__(img_stream, *more)


class WholeShardWriter(WebDatasetSampleWriter):
    """Says on stdout how many rows of its shard are done: `kdx rows SHARD ROWS`, and the first fault of writing."""

    def __init__(self, shard_id, output_folder, *more):
        super().__init__(shard_id, f"{output_folder}/{PARTS}", *more)
        self.place = output_folder
        self.parts = [f"{shard_id:0{self.oom_shard_count}d}.{kind}" for kind in ("parquet", "tar")]
        self.rows = 0
        self.fault = None

    def write(self, *sample):
        self.rows += 1
        if self.rows % ROWS_A_REPORT == 0:
            print(f"kdx rows {self.shard_id} {self.rows}", flush=True)
        try:
            super().write(*sample)
        except OSError as error:  # img2dataset goes on without the sample
            self._note(error)
            raise

    def close(self):
        try:
            super().close()
        except OSError as error:
            self._note(error)
        if self.fault is not None:
            raise self.fault
        for part in self.parts:
            Path(self.place, PARTS, part).replace(Path(self.place, part))

    def _note(self, error):
        if self.fault is None:
            self.fault = error
            print(f"kdx fault {self.shard_id} {error}", flush=True)


def end_with_parent() -> None:
    """For the processes of multiprocessing, which would go on to the end of their shard."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[PARENT]):  # it ended before the call
        os._exit(1)


def main() -> None:
    from fire.parser import DefaultParseValue  # pyright: ignore[reportMissingImports]

    job = json.load(sys.stdin)
    typed = {name: DefaultParseValue(text) for name, text in job["typed"].items()}
    if job["options"]["distributor"] == "pyspark":
        from pyspark.sql import SparkSession  # pyright: ignore[reportMissingImports]

        # by Spark's own configuration; img2dataset would make one for this machine alone
        SparkSession.builder.appName("kdx data prepare").getOrCreate()
    img2dataset: Any = importlib.import_module("img2dataset.main")  # the package has a function of that name
    img2dataset.Downloader = BoundedDownloader
    img2dataset.Resizer = WholeImageResizer
    img2dataset.WebDatasetSampleWriter = WholeShardWriter
    img2dataset.download(**{**job["options"], **typed})


if __name__ == "__mp_main__":
    end_with_parent()
if __name__ == "__main__":
    os.environ[PARENT] = str(os.getpid())
    main()
