"""The pt2 builder: each tower compiled by PyTorch's AOTInductor for this machine, with free batch and text length."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from kdx.core.encoder import EncoderSpec
from kdx.core.errors import SetupError, UsageError
from kdx.core.scratch import scratch_folder
from kdx.models.clip import ClipModel
from kdx.models.hugging_face_text import HuggingFaceText
from kdx.runtime.exported_encoder import PIXELS, TOKENS
from kdx.runtime.pt2 import kind_of_machine

from .half_precision import DTYPES, cast_towers
from .job import BuildJob
from .onnx import (
    BATCH,
    EXAMPLE_BATCH,
    ImageTower,
    TextTower,
    example_tokens,
    plain_attention,
    quiet,
    text_axes,
)
from .report import Check

# rows of one call; the runner cuts larger batches. With no bound the compiler cannot know that an index fits 32 bits
MAX_BATCH = 1024
DIGEST = "kdx.model_digest"  # among a package's notes
NOTES = "_metadata.json"


def build_pt2(job: BuildJob) -> dict[str, Any]:
    """The builder of the format pt2. Raises UsageError for what does not export, SetupError if it does not compile."""
    spec, kind = job.checkpoint.spec, kind_of_machine()
    model = cast_towers(job.checkpoint, DTYPES[job.precision]).eval()
    if kind["device"] == "cuda":
        model = copy.deepcopy(model).cuda()  # the caller's checkpoint stays where it is
    pixels = torch.zeros(EXAMPLE_BATCH, 3, spec.image_size, spec.image_size)
    batch = Dim(BATCH, min=1, max=MAX_BATCH)
    towers: list[tuple[str, nn.Module, Tensor, dict[str, dict[int, Any]]]] = [
        ("image_encoder", ImageTower(model), pixels, {PIXELS: {0: batch}}),
        (
            "text_encoder",
            TextTower(_with_one_more_place(model) if spec.has_free_length else model),
            example_tokens(spec),
            {TOKENS: text_axes(spec, batch)},
        ),
    ]
    for name, tower, example, axes in towers:
        _compile(tower, example.to(kind["device"]), axes, job.folder / f"{name}.pt2", spec, kind["device"])
    return {**kind, "max_batch": MAX_BATCH}


def _with_one_more_place(model: ClipModel) -> ClipModel:
    """The same model, sharing its weights, with a position and a row and column of the mask that no text reaches.

    A slice [:length] of a table of as many rows as length may have is, at that length, the table itself: torch.export
    sees two cases and refuses to keep the length free ("length != 77"). A Hugging Face tower looks its positions up and
    is kept as it is.
    """
    tower = model.text_tower
    if isinstance(tower, HuggingFaceText):
        return model
    longer = copy.copy(tower)
    longer._parameters, longer._buffers = dict(tower._parameters), dict(tower._buffers)
    table = tower.positional_embedding.detach()  # [L, W]
    longer._parameters["positional_embedding"] = nn.Parameter(torch.cat([table, table[-1:]]))
    size = len(table) + 1
    mask = torch.full((size, size), float("-inf"), dtype=tower.attn_mask.dtype, device=table.device)
    longer._buffers["attn_mask"] = mask.triu_(1)
    if tower is model:
        return longer
    whole = copy.copy(model)
    whole._modules = {**model._modules, "text": longer}
    return whole


def _compile(
    tower: nn.Module,
    example: Tensor,
    axes: dict[str, dict[int, Any]],
    path: Path,
    spec: EncoderSpec,
    device: str,
) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.exc import CppCompileError
    from torch._inductor.utils import fresh_cache

    settings: dict[str, Any] = {
        # folds batch norm, packs weights for oneDNN: 1.2 to 2.2 × as fast on one thread of an EPYC; not tried on a GPU
        "freezing": device == "cpu",
        "cpp.dynamic_threads": True,  # as many as the process that runs it says, not the one that compiled it
        "aot_inductor.enable_line_tables": False,  # they name folders of this machine
        "aot_inductor.metadata": {DIGEST: spec.model_digest, "kdx.name": spec.name},
    }
    # Inductor keeps what it compiles, weights too, in a cache for ever; this one goes
    with scratch_folder() as folder, quiet(), torch.no_grad():
        try:
            with plain_attention(tower):
                program = torch.export.export(tower, (example,), dynamic_shapes=axes)
        except Exception as error:  # many kinds, for what it cannot trace
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise UsageError(
                f"{spec.name} does not export to pt2: {reason}",
                where=path.stem,
                remedy="choose another architecture",
            ) from error
        try:
            with fresh_cache(dir=str(folder)):
                aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
        except CppCompileError as error:
            reason = next((line for line in str(error).splitlines() if "error" in line.lower()), "")
            raise SetupError(
                f"the C++ compiler does not compile {path.stem}: {reason[:200]}",
                remedy="check the compiler, its headers and the free space in the folder for temporary files",
            ) from error


def check_pt2(folder: Path, spec: EncoderSpec, precision: str) -> list[Check]:
    """What both packages declare, without running the code in them."""
    return [
        check
        for name in ("image_encoder", "text_encoder")
        for check in _check_package(folder / f"{name}.pt2", spec)
    ]


def _check_package(path: Path, spec: EncoderSpec) -> list[Check]:
    whole = f"{path.stem} is a whole package"
    try:
        with zipfile.ZipFile(path) as package:
            damaged = package.testzip()
            names = package.namelist()
            notes = [json.loads(package.read(name)) for name in names if name.endswith(NOTES)]
    except (zipfile.BadZipFile, OSError, json.JSONDecodeError) as error:
        return [Check.holds(whole, str(error) or type(error).__name__)]
    libraries = [name for name in names if name.endswith(".so")]
    fault = f"{damaged} is damaged" if damaged else ""
    if len(libraries) != 1:
        fault = f"it holds {len(libraries)} libraries instead of one"
    digests = {note.get(DIGEST) for note in notes}
    other = "" if digests == {spec.model_digest} else f"its notes name {sorted(map(str, digests))}"
    return [Check.holds(whole, fault), Check.holds(f"{path.stem} is of this model", other)]
