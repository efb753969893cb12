"""The Triton model repository: a sealed folder made from an ExportedModel, whole in itself.

`models/` is what Triton is pointed at; `exported-model/` is what they run; `python/kdx/` holds the few modules that
the python models import, so that the same folder runs wherever a Triton with the packages of
server-requirements.txt is.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kdx
from kdx.core.digests import file_digest
from kdx.core.encoder import EncoderSpec
from kdx.core.errors import GateError, UsageError
from kdx.core.folders import MANIFEST, open_sealed, read_manifest, sealed_folder
from kdx.runtime.exported_model import ExportedModel, open_exported_model
from kdx.runtime.triton_requests import IMAGE_BATCH, TEXT_BATCH, WITH_OTHERS

from .environment import REQUIREMENTS

KIND = "triton-repository"
EXPORTED_MODEL = "exported-model"  # the folder inside a repository
MAX_QUEUE = 256  # waiting requests of a model; more are refused at once instead of answered late
# The dynamic batcher of Triton 2.51 misses a wake-up when its only instance ends a request just as the next one
# arrives, and that one then waits half a second: 2 to 6 of 100 requests that follow each other at once. With a second
# instance none did, for one, two and eight clients, and eight clients got 18 % more answers a second.
BATCHED_INSTANCES = 2
# A request of zero_shot waits for many slices of embed_text; with one instance everybody would wait for it.
ZERO_SHOT_INSTANCES = 4
# Bytes of /dev/shm in which eight clients with requests of 16 MiB had room: each instance holds what it was sent, and
# zero_shot also what it asks embed_image. An instance grows with its largest request and never shrinks.
SHARED_MEMORY_NEEDED = (2 * BATCHED_INSTANCES + ZERO_SHOT_INSTANCES) * 2 * 16 * 2**20
SERVER_CODE = (  # everything that runs in the server
    "__init__.py",
    "core/*.py",
    "runtime/*.py",
    "serve/__init__.py",
    "serve/triton_models/*.py",
)
NOT_SERVED = ("runtime/torch.py", "runtime/triton.py", "runtime/proxy.py")  # what needs torch, and the client
MODEL = '''"""Triton's entry to kdx.serve.triton_models.{name}, from the copy of kdx in this repository."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "python"))

from kdx.serve.triton_models.{name} import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model. dims: without the batch axis where the model has one."""

    name: str
    type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ServedModel:
    """One model of the repository. max_batch_size 0: no batch axis, and requests are not joined."""

    name: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    instances: int
    parameters: dict[str, str]


def write_repository(exported_model: Path, out: Path, *, overwrite: bool = False) -> Path:
    """Writes and seals the repository of an exported model. Returns its path.

    Raises UsageError for a run or checkpoint, DataError if the model is not whole, GateError if its parity gate did
    not let it pass.
    """
    exported = _open(exported_model)
    _check_parity(exported)
    inputs = {"exported-model": file_digest(exported_model / MANIFEST)}
    with sealed_folder(out, KIND, overwrite=overwrite, inputs=inputs, shipped=True) as folder:
        shutil.copytree(exported_model, folder / EXPORTED_MODEL)
        _copy_code(folder / "python/kdx")
        (folder / "requirements.txt").write_text(_requirements(), encoding="utf-8")
        for model in served_models(exported.spec):
            place = folder / "models" / model.name
            (place / "1").mkdir(parents=True)
            (place / "config.pbtxt").write_text(config_text(model), encoding="utf-8")
            (place / "1/model.py").write_text(MODEL.format(name=model.name), encoding="utf-8")
    return out


def open_repository(path: Path) -> Path:
    """Checks that a whole repository lies at `path` and returns the folder for --model-repository."""
    open_sealed(path, KIND)
    return path / "models"


def served_models(spec: EncoderSpec) -> tuple[ServedModel, ...]:
    """The models of a repository, as in docs/serving.md."""
    embedding = Tensor("embedding", "TYPE_FP32", (spec.embed_dim,))
    return (
        ServedModel(
            "embed_image",
            IMAGE_BATCH,
            (Tensor("image", "TYPE_STRING", (1,)),),
            (embedding,),
            BATCHED_INSTANCES,
            {"spec": json.dumps(spec.to_dict())},
        ),
        ServedModel(
            "embed_text",
            TEXT_BATCH,
            (Tensor("text", "TYPE_STRING", (1,)),),
            (embedding,),
            BATCHED_INSTANCES,
            {},
        ),
        ServedModel(
            "zero_shot",
            0,
            (
                Tensor("image", "TYPE_STRING", (-1, 1)),
                Tensor("labels", "TYPE_STRING", (1,)),
                Tensor("templates", "TYPE_STRING", (1,), optional=True),
                Tensor("top_k", "TYPE_INT32", (1,), optional=True),
            ),
            (Tensor("label", "TYPE_STRING", (-1, -1)), Tensor("score", "TYPE_FP32", (-1, -1))),
            ZERO_SHOT_INSTANCES,
            {"logit_scale": repr(spec.logit_scale)},
        ),
    )


def config_text(model: ServedModel) -> str:
    """config.pbtxt, written through Triton's own schema."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    fields: dict[str, Any] = {
        "name": model.name,
        "backend": "python",
        "max_batch_size": model.max_batch_size,
        "input": [
            {"name": t.name, "data_type": t.type, "dims": t.dims, "optional": t.optional}
            for t in model.inputs
        ],
        "output": [{"name": t.name, "data_type": t.type, "dims": t.dims} for t in model.outputs],
        "instance_group": [{"count": model.instances, "kind": "KIND_CPU"}],
        "dynamic_batching": {
            "priority_levels": WITH_OTHERS,
            "default_priority_level": WITH_OTHERS,
            "default_queue_policy": {"max_queue_size": MAX_QUEUE},
        },
        "parameters": {key: {"string_value": value} for key, value in model.parameters.items()},
    }
    config = model_config_pb2.ModelConfig(**fields)  # pyright: ignore[reportAttributeAccessIssue]  made at run time
    return text_format.MessageToString(config)


def _open(path: Path) -> ExportedModel:
    """The exported model at `path`. What is not yet exported is refused with how to export it."""
    kind = read_manifest(path).kind if path.is_dir() else None
    if kind in ("run", "checkpoint"):
        raise UsageError(
            f"is a {kind}; a server takes what was exported from it",
            where=path,
            remedy=f"kdx export {path} --data DIR --out EXPORTED, then kdx serve up EXPORTED",
        )
    return open_exported_model(path)


def _check_parity(exported: ExportedModel) -> None:
    verdict = exported.parity().get("verdict")
    if verdict == "PASS" or (
        verdict == "INCONCLUSIVE" and exported.manifest.fields.get("inconclusive_allowed")
    ):
        return
    raise GateError(
        f"the exported model's parity verdict is {verdict}, so it is not served",
        where=exported.path / "parity.json",
        remedy="export it again with `kdx export`, on more held-out images if it is INCONCLUSIVE",
    )


def _requirements() -> str:
    """What the server's Python needs where Triton itself is there already, as in NVIDIA's container."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith(("#", "nvidia-pytriton")))


def _copy_code(target: Path) -> None:
    package = Path(kdx.__file__).parent
    for pattern in SERVER_CODE:
        for file in package.glob(pattern):
            if file.relative_to(package).as_posix() in NOT_SERVED:
                continue
            copy = target / file.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
