"""A process that builds a teacher cache, for tests that kill it: DATA CACHE TEACHER SECONDS, seconds to wait a batch."""

import sys
import time
from pathlib import Path

from kdx.data.shards import open_split
from kdx.data.views import ViewConfig
from kdx.distill.teacher_cache import open_cache
from kdx.distill.teacher_cache.storage import Pixels
from kdx.distill.teacher_model import TeacherModel


class _Slow(TeacherModel):
    seconds = 0.0

    def embed_pixels(self, pixels: Pixels):  # type: ignore[no-untyped-def]
        time.sleep(self.seconds)
        return super().embed_pixels(pixels)


if __name__ == "__main__":
    data, cache, teacher, seconds = sys.argv[1:]
    _Slow.seconds = float(seconds)
    print("ready", flush=True)
    open_cache(
        Path(cache), _Slow(Path(teacher)), open_split(Path(data), "train"), ViewConfig(), max_bad_share=0
    )
