"""What a served model is: one record, from which every line of its config.pbtxt derives and which is read back.

The file is written and read through Triton's own schema (model_config.proto, as tritonclient carries it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdx.core.errors import DataError
from kdx.runtime.triton_requests import WITH_OTHERS

MAX_QUEUE = 256  # waiting requests of a model; more are refused at once instead of answered late
CONFIG = "config.pbtxt"
KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU"}
# parameters of a configuration
ASKS = "asks"  # the models that a model asks, by their names with spaces between; each model of kdx has it
THREADS = "intra_op_thread_count"  # as Triton's onnxruntime backend names it


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model. type: Triton's name. dims: without the batch axis where the model has one; -1 is free."""

    name: str
    type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ServedModel:
    """One model of a repository.

    backend: python, onnxruntime or tensorrt. max_batch_size 0: no batch axis, and requests are not joined. instances:
    how many run side by side, on each GPU for the device gpu. file: which of the model's files the backend opens.
    threads: of one instance; without them Triton's backends take all cores, and kdx's python models their share of the
    cores. asks: the models that it asks. profiles: of a TensorRT engine, those that an instance uses. graph_level: how
    far ONNX Runtime optimises, as Triton numbers it. cuda_options: of ONNX Runtime on a GPU. warm_up: whether Triton
    runs it once on zeros before it says READY; kdx's python models do that themselves.
    """

    name: str
    backend: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    instances: int
    device: str = "cpu"
    file: str = "model.py"
    threads: int | None = None
    asks: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    graph_level: int = 0
    cuda_options: Mapping[str, str] = field(default_factory=lambda: {})
    warm_up: bool = False
    parameters: Mapping[str, str] = field(default_factory=lambda: {})


def config_text(model: ServedModel) -> str:
    """config.pbtxt of a model."""
    from google.protobuf import text_format

    parameters = {**model.parameters, ASKS: " ".join(model.asks)}
    if model.threads is not None:
        parameters[THREADS] = str(model.threads)
    fields: dict[str, Any] = {
        "name": model.name,
        "backend": model.backend,
        "default_model_filename": model.file,
        "max_batch_size": model.max_batch_size,
        "input": [
            {"name": t.name, "data_type": t.type, "dims": t.dims, "optional": t.optional}
            for t in model.inputs
        ],
        "output": [{"name": t.name, "data_type": t.type, "dims": t.dims} for t in model.outputs],
        "instance_group": [
            {"count": model.instances, "kind": KINDS[model.device], "profile": model.profiles}
        ],
        "dynamic_batching": {
            "priority_levels": WITH_OTHERS,
            "default_priority_level": WITH_OTHERS,
            "default_queue_policy": {"max_queue_size": MAX_QUEUE},
        },
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }
    optimization: dict[str, Any] = {}
    if model.graph_level:
        optimization["graph"] = {"level": model.graph_level}
    if model.cuda_options:
        accelerator = {"name": "cuda", "parameters": dict(model.cuda_options)}
        optimization["execution_accelerators"] = {"gpu_execution_accelerator": [accelerator]}
    if optimization:
        fields["optimization"] = optimization
    if model.warm_up:
        zeros = {
            t.name: {"data_type": t.type, "dims": example_shape(t), "zero_data": True} for t in model.inputs
        }
        fields["model_warmup"] = [{"name": "first", "batch_size": 1, "inputs": zeros}]
    return text_format.MessageToString(_schema().ModelConfig(**fields))


def read_config(path: Path) -> ServedModel:
    """The model that a config.pbtxt describes. Raises DataError for a file that is not one."""
    from google.protobuf import text_format

    try:
        return from_config(text_format.Parse(path.read_text(encoding="utf-8"), _schema().ModelConfig()))
    except (text_format.ParseError, ValueError) as error:
        raise DataError(
            f"is no configuration of Triton: {error}", where=path, remedy="build the repository again"
        ) from None


def read_models(folder: Path) -> list[ServedModel]:
    """The models of a repository by their configurations, in order of their names. folder: for --model-repository."""
    return [read_config(path) for path in sorted(folder.glob(f"*/{CONFIG}"))]


def from_config(config: Any) -> ServedModel:
    """The model of a ModelConfig message, of a file or from a server."""
    schema = _schema()
    type_name = schema.DataType.Name
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    asks = tuple(parameters.pop(ASKS, "").split())
    threads = parameters.pop(THREADS, None)
    (group,) = config.instance_group or [schema.ModelInstanceGroup(count=1, kind="KIND_CPU")]
    kind = schema.ModelInstanceGroup.Kind.Name(group.kind)
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    return ServedModel(
        name=config.name,
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        inputs=tuple(Tensor(t.name, type_name(t.data_type), tuple(t.dims), t.optional) for t in config.input),
        outputs=tuple(Tensor(t.name, type_name(t.data_type), tuple(t.dims)) for t in config.output),
        instances=group.count,
        device=next((device for device, name in KINDS.items() if name == kind), kind),
        file=config.default_model_filename,
        threads=None if threads is None else int(threads),
        asks=asks,
        profiles=tuple(group.profile),
        graph_level=config.optimization.graph.level,
        cuda_options={key: value for each in accelerators for key, value in each.parameters.items()},
        warm_up=bool(config.model_warmup),
        parameters=parameters,
    )


def is_of_kdx(config: Any) -> bool:
    """Whether a server's model, by its ModelConfig message, comes from a repository of kdx."""
    return ASKS in config.parameters


def example_shape(tensor: Tensor) -> tuple[int, ...]:
    """Without the batch axis. A free axis is 2 long: the shortest text is its start and its end."""
    return tuple(2 if size < 0 else size for size in tensor.dims)


def _schema() -> Any:
    from tritonclient.grpc import model_config_pb2  # pyright: ignore[reportMissingTypeStubs]

    return model_config_pb2
