"""Programs of others that kdx is measured beside: each runs with the Python of an environment of its own."""

from __future__ import annotations

import re
from pathlib import Path

import kdx.models.torchvision_ops as operators

# torchvision's general wheel does not import beside a CPU-only torch, so its missing operators are declared first
DECLARE = 'import runpy, sys\nrunpy.run_path(sys.argv.pop(1))["declare_on_import"]()\n'
ERROR = re.compile(r"error: |[\w.]*(Error|Exception|Exit)\b")


def peer_command(python: Path, program: str, *arguments: object) -> list[str]:
    """Runs the text of a program, which sees `arguments` as its sys.argv[1:]."""
    return [str(python), "-c", DECLARE + program, operators.__file__, *map(str, arguments)]


def told_error(output: str) -> str:
    """The error that a program tells in its output, or what it says last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if ERROR.match(line)), lines[-1] if lines else "nothing")
