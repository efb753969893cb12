"""Facts of export/pt2.py that need no compiler: what is traced takes every length that the model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor

from kdx.export.job import BuildJob
from kdx.export.pt2 import build_pt2
from kdx.models.checkpoint import open_checkpoint
from kdx.models.foreign.importing import import_checkpoint

from ..models.foreign.small_models import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_tower_of_each_kind_is_traced_with_the_lengths_that_it_takes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KINDS[kind](tmp_path / "published")
    import_checkpoint(str(tmp_path / "published"), tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    programs: list[Any] = []
    monkeypatch.setattr(
        torch._inductor, "aoti_compile_and_package", lambda program, **_: programs.append(program)
    )
    build_pt2(BuildJob(checkpoint, tmp_path, "fp32", "native"))
    text, spec = programs[1].module(), checkpoint.spec
    for batch, length in ((1, spec.min_length), (2, spec.context_length)):
        tokens = torch.randint(3, 30, (batch, length), dtype=torch.int32)
        with torch.no_grad():
            expected = checkpoint.model.encode_text(tokens, normalize=True)
            np.testing.assert_allclose(text(tokens), expected, atol=1e-5)
