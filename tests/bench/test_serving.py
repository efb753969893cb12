"""Facts of bench/serving.py: a server beside processes without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.bench.serving import measure_serving, serving_table


def test_a_server_stands_beside_processes_without_one(
    exported_model: Path, make_photo: Callable[..., bytes]
) -> None:
    images = [make_photo(number) for number in range(3)]
    document = measure_serving(exported_model, images, clients=2, instances=1, seconds=0.5, rounds=2)
    document = json.loads(json.dumps(document))
    served, alone = document["served"], document["alone"]
    for row in (served, alone):
        assert row["images_per_second"] > 2 and 0 < row["cpu_ms"] < 500
    assert 0 < served["p50"] <= served["p95"] and served["client_cpu_ms"] > 0
    # two rounds: the median of two ratios lies between them, as the ratio of medians nearly does
    assert document["throughput_ratio"] == pytest.approx(
        served["images_per_second"] / alone["images_per_second"], rel=0.5
    )
    assert document["instances"] == 1 and document["clients"] == 2
    assert "| Triton, 1 instances |" in serving_table(document)
