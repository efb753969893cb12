"""The forms of one model score the same through `kdx eval`: a checkpoint, its export, a server of the export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner

from kdx.cli.eval import command
from kdx.data.shards import Sample, write_shards

if TYPE_CHECKING:
    from kdx.serve.supervisor import TritonServer


def test_a_checkpoint_its_export_and_its_server_score_the_same(
    mini_checkpoint: Path,
    exported_model: Path,
    triton_server: TritonServer,
    make_samples: Callable[..., list[Sample]],
    tmp_path: Path,
) -> None:
    write_shards(tmp_path, "val", make_samples(24))
    (tmp_path / "classes.txt").write_text("cat\ndog\nfish\n")
    forms = [mini_checkpoint, exported_model, triton_server.url]
    done = CliRunner().invoke(
        command, [*map(str, forms), "--data", str(tmp_path), "--json"], catch_exceptions=False
    )
    document = json.loads(done.stdout)
    first, *others = ({**model, "path": ""} for model in document["models"])
    assert others == [first, first]
    for comparison in document["comparisons"]:
        assert comparison["same_weights"]
        assert comparison["zero_shot"]["same_class"]["hits"] == 24
        assert comparison["retrieval"]["mean_recall"]["recall@1"]["value"] == 0
