"""Facts of bench/evaluation_peer.py, with a program in the peer's place that reads the peer's files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.bench import evaluation_peer
from kdx.data.shards import Sample, write_shards

# answers as a model would that finds nothing; tells what it was given
PEER = """
import json, pathlib, sys, tarfile
options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
place = pathlib.Path(options["--dataset_root"])
shards = [place / f"test/{n}.tar" for n in range(int((place / "test/nshards.txt").read_text()))]
names = [name for shard in shards for name in tarfile.open(shard).getnames()]
texts = {path.name: path.read_text() for path in place.glob("*.txt")}
print(names, texts, file=open(sys.argv[0] + ".given", "a"))
metrics = {f"{way}_retrieval_recall@{k}": 0.0 for way in ("image", "text") for k in (1, 5, 10)}
if options["--task"] == "zeroshot_classification":
    metrics = {"acc1": 0.0, "acc5": 0.0, "mean_per_class_recall": 0.0}
pathlib.Path(options["--output"]).write_text(json.dumps({"metrics": metrics}))
"""


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    """Called as PYTHON -c PROGRAM OPERATORS eval …"""
    script = tmp_path / "peer.py"
    script.write_text(PEER)
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {script} "$@"\n')
    program.chmod(0o755)
    return program


def test_both_read_the_same_files_and_the_record_tells_speed_and_difference(
    mini_checkpoint: Path, make_samples: Callable[..., list[Sample]], tmp_path: Path, peer: Path
) -> None:
    data = tmp_path / "data"
    samples = make_samples(12, [(f"one {n}", f"two\n{n}") for n in range(12)])
    write_shards(data, "val", samples)
    (data / "classes.txt").write_text("".join(f"{name}\n" for name in ("a", "b", "c", "d", "e", "f")))
    (data / "templates.txt").write_text("a {}\n")
    evaluation_peer.write_record(
        argparse.Namespace(
            models=[mini_checkpoint],
            data=data,
            split="val",
            limit=8,
            peer=peer,
            workers=2,
            turns=1,
            out=tmp_path / "record.json",
        )
    )
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["num_images"] == 8 and len(record["turns"]) == 4
    for summary in record["summary"]:
        assert set(summary["images_per_second"]) == {"kdx, checkpoint", "clip-benchmark"}
        assert summary["times_as_fast"]["clip-benchmark"] == 1.0
    kdx = next(turn for turn in record["turns"] if turn["task"] == "zeroshot_classification")
    assert record["summary"][0]["difference"]["kdx, checkpoint"] == kdx["metrics"]  # the peer's are 0
    given = (tmp_path / "peer.py.given").read_text()
    assert "'zeroshot_classification_templates.txt': 'a {c}\\n'" in given and "'retrieval\\n'" in given
    assert given.count(".jpg'") == 16 and given.count(".cls'") == 8
