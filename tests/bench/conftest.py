"""A whole report with made-up numbers."""

import copy
import io
from typing import Any

import pytest
from PIL import Image


def _percentiles(p50: float) -> dict[str, float]:
    return {"p50": p50, "p95": 2 * p50, "p99": 3 * p50, "num_samples": 40}


REPORT: dict[str, Any] = {
    "accuracy": {"metric": "zero_shot_top1", "teacher": 0.8, "baseline": 0.5, "distilled": 0.65},
    "parity": {
        "image": {"max_abs": 1.5e-7, "min_cosine": 0.9999999, "needed_tolerance": 1.5e-7},
        "text": {"max_abs": 2.5e-7, "min_cosine": 1.0000001, "needed_tolerance": 2.5e-7},
        "top1_agreement": 1.0,
    },
    "latency_ms": {
        "torch": {"1": _percentiles(1.5), "8": _percentiles(6.0)},
        "onnx": {"1": _percentiles(0.75), "8": _percentiles(3.0)},
        "triton": {"1": _percentiles(2.0), "8": _percentiles(7.0)},
    },
    "triton": {"version": "2.51.0", "source": "a package"},
    "seconds": {"data": 12.0, "training": 70.5},
    "provenance": {"kdx": "0.1.0", "cpu": "A CPU", "cpu_count": 2, "gpu": []},
}


@pytest.fixture
def report() -> dict[str, Any]:
    return copy.deepcopy(REPORT)


@pytest.fixture
def png() -> bytes:
    encoded = io.BytesIO()
    Image.new("RGBA", (600, 300), (10, 200, 30, 255)).save(encoded, "PNG")
    return encoded.getvalue()
