"""What arithmetic this machine's CPU has."""

from __future__ import annotations

import functools
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16 = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"})  # the last one is ARM's


@functools.cache
def instruction_sets() -> frozenset[str]:
    """The CPU's features as Linux calls them, such as avx512_bf16; empty where the system does not tell."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(named, "").split())


def lacks_bf16() -> bool:
    """Whether the CPU is known to have no bf16 arithmetic."""
    known = instruction_sets()
    return bool(known) and not known & BF16
