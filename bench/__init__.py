"""Benchmarks: latency of several runtimes side by side, and the report of a whole chain as JSON and HTML."""

from .latency import Embed, Latency, measure_latency
from .report import render_report, write_report
from .schema import ClassifyExample, Report, SearchExample

__all__ = [
    "ClassifyExample",
    "Embed",
    "Latency",
    "Report",
    "SearchExample",
    "measure_latency",
    "render_report",
    "write_report",
]
