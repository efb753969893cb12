"""The Triton model repository: a sealed folder made from an ExportedModel, whole in itself.

`models/` is what Triton is pointed at; `exported-model/` is what they run; `python/kdx/` holds the few modules that
the python models import, so that the same folder runs wherever a Triton with the packages of
server-requirements.txt is.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import kdx
from kdx.core.cache import cache_folder
from kdx.core.digests import file_digest
from kdx.core.errors import GateError
from kdx.core.folders import MANIFEST, Manifest, open_sealed, read_manifest, sealed_folder
from kdx.runtime.deferred import KIND as DEFERRED, DeferredExport, finish, open_deferred
from kdx.runtime.exported_model import ExportedModel, open_exported_model
from kdx.runtime.trusted_plans import check_trusted

from .environment import REQUIREMENTS, runner_requirements
from .layout import INSTANCES, ZERO_SHOT_INSTANCES, check_pairing, served_models
from .served_model import CONFIG, config_text

KIND = "triton-repository"
EXPORTED_MODEL, MODELS = "exported-model", "models"  # folders inside a repository
# Bytes of /dev/shm in which eight clients with requests of 16 MiB had room: each instance holds what it was sent, and
# zero_shot also what it asks embed_image. An instance grows with its largest request and never shrinks.
SHARED_MEMORY_NEEDED = (2 * INSTANCES + ZERO_SHOT_INSTANCES) * 2 * 16 * 2**20
SERVER_CODE = (  # everything that runs in the server
    "__init__.py",
    "core/*.py",
    "core/tokenizers/*.py",
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


def write_repository(
    exported_model: Path,
    out: Path,
    *,
    backend: str = "python",
    device: str = "cpu",
    instances: int = INSTANCES,
    overwrite: bool = False,
) -> Path:
    """Writes and seals the repository of an exported model. Returns its path.

    backend, device: what runs the encoders, as in kdx.serve.layout. instances: of each model that works on the CPU. A
    deferred export is built first, on this machine, or found built in the cache folder.

    Raises UsageError for a run or checkpoint, and for a backend that cannot run the model; DataError if the model is
    not whole, GateError if its parity gate did not let it pass.
    """
    found = read_to_serve(exported_model)
    check_pairing(found, backend, device)  # before an engine is built
    exported = _built(found)
    _check_parity(exported)
    models = served_models(exported, backend=backend, device=device, instances=instances)
    inputs = {"exported-model": file_digest(exported.path / MANIFEST)}
    fields = {"backend": backend, "device": device, "format": exported.format.name}
    with sealed_folder(out, KIND, overwrite=overwrite, inputs=inputs, fields=fields, shipped=True) as folder:
        shutil.copytree(exported.path, folder / EXPORTED_MODEL)
        _copy_code(folder / "python/kdx")
        (folder / "requirements.txt").write_text(_requirements(exported, backend, device), encoding="utf-8")
        for model in models:
            place = folder / MODELS / model.name
            (place / "1").mkdir(parents=True)
            (place / CONFIG).write_text(config_text(model), encoding="utf-8")
            if model.backend == "python":
                (place / "1/model.py").write_text(MODEL.format(name=model.name), encoding="utf-8")
            else:
                _link_files(folder / EXPORTED_MODEL, model.file, place / "1")
    return out


def open_repository(path: Path) -> Manifest:
    """Checks that a whole repository lies at `path`, whose folder MODELS is for --model-repository."""
    return open_sealed(path, KIND)


def read_to_serve(path: Path) -> ExportedModel | DeferredExport:
    """What lies at `path`, exported or to be built here. What is neither is refused with how to export it."""
    kind = read_manifest(path).kind if path.is_dir() else None
    return open_deferred(path) if kind == DEFERRED else open_exported_model(path)


def _built(found: ExportedModel | DeferredExport) -> ExportedModel:
    """A deferred export's engines are built for this machine's GPU, or found built."""
    exported = (
        open_exported_model(finish(found.path, cache_folder()))
        if isinstance(found, DeferredExport)
        else found
    )
    for engine in (exported.image_encoder, exported.text_encoder):
        if engine.suffix == ".engine":  # Triton would load any
            check_trusted(file_digest(engine), engine)
    return exported


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


def _requirements(exported: ExportedModel, backend: str, device: str) -> str:
    """What the server's Python needs where Triton itself is there already, as in NVIDIA's container."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    runs_encoders = backend == "python"
    runner = runner_requirements(exported.format.name, device) if runs_encoders else []
    left_out = (
        ("#", "nvidia-pytriton", "onnxruntime==") if runner or not runs_encoders else ("#", "nvidia-pytriton")
    )
    return "".join(f"{line}\n" for line in [*lines, *runner] if not line.startswith(left_out))


def _link_files(exported: Path, file: str, version: Path) -> None:
    """The encoder `file` and its data files, if it has any, without their bytes lying there twice."""
    for source in exported.glob(f"{file}*"):
        try:
            (version / source.name).hardlink_to(source)
        except OSError:  # a disk without links
            shutil.copyfile(source, version / source.name)


def _copy_code(target: Path) -> None:
    package = Path(kdx.__file__).parent
    for pattern in SERVER_CODE:
        for file in package.glob(pattern):
            if file.relative_to(package).as_posix() in NOT_SERVED:
                continue
            copy = target / file.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
