"""Benchmarks: latency of runtimes side by side, methods compared over seeds, the report of a chain as JSON and HTML.

`methods` is imported by its own name: it needs torch, the rest does not.
"""

from .latency import Embed, Latency, measure_latency
from .memory import peak_memory
from .report import render_report, write_report
from .schema import ClassifyExample, Report, SearchExample

__all__ = [
    "ClassifyExample",
    "Embed",
    "Latency",
    "Report",
    "SearchExample",
    "measure_latency",
    "peak_memory",
    "render_report",
    "write_report",
]
