"""A million pairs are opened without reading them: shards that nobody reads, with indices as they are written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdx.data.index.shard_index import IndexedSample, ShardIndexWriter
from kdx.data.index.table import encode_table, map_table
from kdx.data.places import index_beside

SHARDS, SAMPLES = 100, 10_000
OPEN = """
import json, sys, time
from pathlib import Path
from kdx.data.shards import open_split

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

import kdx.core.tokenizers
before, started = anonymous(), time.perf_counter()
samples = open_split(Path(sys.argv[1]), "train")
opened = time.perf_counter() - started
samples.digest, samples.caption_counts.sum(), samples.key_digests
said = time.perf_counter() - started
text = samples.captions(987_654)[0]
import pickle
print(json.dumps({"rows": len(samples), "bytes": anonymous() - before, "opened": opened, "digested": said - opened,
                  "caption": text, "pickled": len(pickle.dumps(samples))}))
"""


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("million")
    captions = [f"a caption of about ten words, which is number {n} of its shard" for n in range(SAMPLES)]
    samples = [
        IndexedSample(f"{n:09d}", n, 1, 1, 1, (captions[n],), ([49406, *[320] * 12, 49407],))
        for n in range(SAMPLES)
    ]
    content = ShardIndexWriter("", 512, 0, "", "", samples).encode({})
    (folder / "one").write_bytes(content)
    table = map_table(folder / "one")
    for number in range(SHARDS):
        shard = folder / f"{number:05d}.tar"
        shard.write_bytes(bytes(512))
        digests = np.random.default_rng(number).integers(2**63, size=(2, SAMPLES), dtype=np.uint64)
        keys = {"key_digest": digests[0], "prefixed_digest": digests[1]}
        own = {"name": shard.name, "modified_ns": shard.stat().st_mtime_ns, "digest": f"{number:064d}"}
        index_beside(shard).write_bytes(encode_table({**table.arrays, **keys}, {**table.about, **own}))
    return folder


@pytest.fixture(scope="module")
def said(million: Path) -> dict[str, object]:
    command = [sys.executable, "-c", OPEN, str(million)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def test_a_million_pairs_cost_a_process_less_than_100_megabytes(said: dict[str, object]) -> None:
    assert said["rows"] == SHARDS * SAMPLES and "number 7654 of its shard" in str(said["caption"])
    assert int(str(said["bytes"])) < 100e6 and int(str(said["pickled"])) < 1e6


@pytest.mark.slow
def test_a_million_pairs_are_opened_in_a_second(said: dict[str, object]) -> None:
    assert float(str(said["opened"])) < 1 and float(str(said["digested"])) < 0.5
