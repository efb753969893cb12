"""A TensorRT without a GPU: an engine is an ONNX graph, run by ONNX Runtime between addresses of the fake CUDA.

What the real one was seen to do is done here too: it answers False or None and says why through the logger alone, takes
any profile without a word, parses from a str only, keeps failing after a failed parse. FAKE_TENSORRT chooses the
version; the numbers of flags differ. tests/export/test_tensorrt_members.py holds each name against both tables.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

__version__ = os.environ.get("FAKE_TENSORRT", "11.4.0.106")
_cudart = importlib.import_module("cuda.bindings.runtime")
_MAJOR = int(__version__.split(".")[0])

NetworkDefinitionCreationFlag = IntEnum(
    "NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1 if _MAJOR == 10 else 0}
)
BuilderFlag = IntEnum("BuilderFlag", {"TF32": 6})
MemoryPoolType = IntEnum("MemoryPoolType", {"WORKSPACE": 0})
HardwareCompatibilityLevel = IntEnum("HardwareCompatibilityLevel", {"NONE": 0, "SAME_COMPUTE_CAPABILITY": 2})
ExecutionContextAllocationStrategy = IntEnum(
    "ExecutionContextAllocationStrategy", {"STATIC": 0, "ON_PROFILE_CHANGE": 1, "USER_MANAGED": 2}
)


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self):
        pass


class IHostMemory:
    def __init__(self, content):
        self._content = content
        self.nbytes = len(content)

    def __bytes__(self):  # the real one is a buffer
        return self._content


class ITensor:
    def __init__(self, name, shape):
        self.name, self.shape = name, shape


class INetworkDefinition:
    def __init__(self, flags):
        self._typed = bool(flags & (1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)) or _MAJOR > 10
        self._graph: Any = None
        self.num_inputs = 0

    def get_input(self, index):
        value = self._graph.graph.input[index]
        axes = value.type.tensor_type.shape.dim
        return ITensor(value.name, tuple(-1 if axis.dim_param else axis.dim_value for axis in axes))


class IParserError:
    def __init__(self, desc, node_name="", node_operator=""):
        self._parts = desc, node_name, node_operator

    def desc(self):
        return self._parts[0]

    def node_name(self):
        return self._parts[1]

    def node_operator(self):
        return self._parts[2]


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._errors = network, []
        self.num_errors = 0

    def parse_from_file(self, model):
        if type(model) is not str:
            raise TypeError("parse_from_file(): incompatible function arguments")
        if self._errors:
            return False
        if not Path(model).exists():
            return self._fail(IParserError(f"Failed to open file: {model}"))
        graph = onnx.load(model)
        for node in graph.graph.node:
            if node.domain:
                return self._fail(IParserError("No importer registered for op", node.name, node.op_type))
        self._network._graph, self._network.num_inputs = graph, len(graph.graph.input)
        return True

    def get_error(self, index):
        return self._errors[index]

    def _fail(self, error):
        self._errors.append(error)
        self.num_errors = len(self._errors)
        return False


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def __init__(self, content):
        self._content = content

    def serialize(self):
        return IHostMemory(self._content)


class IBuilderConfig:
    def __init__(self):
        self._profiles, self._flags, self._timings = [], {BuilderFlag.TF32}, None
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.max_aux_streams = -1

    def set_memory_pool_limit(self, pool, pool_size):
        assert pool == MemoryPoolType.WORKSPACE and pool_size > 0

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def add_optimization_profile(self, profile):
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache, ignore_mismatch):
        known = cache._content
        if known and known.partition(b"\n")[0] != _cudart.GPU.name and not ignore_mismatch:
            return False
        self._timings = cache
        return True

    def get_timing_cache(self):
        return self._timings


class Builder:
    def __init__(self, logger):
        self._logger = logger

    def create_network(self, flags=0):
        return INetworkDefinition(flags)

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        if not config._profiles:
            return self._refuse(
                "Network has dynamic or shape inputs, but no optimization profile has been defined."
            )
        if not network._typed:
            return self._refuse("the test builds strongly typed networks alone")
        if BuilderFlag.TF32 in config._flags:
            return self._refuse("the test builds without TF32")
        if config._timings is not None:
            entry = network._graph.graph.input[0].name.encode()
            known = config._timings._content or _cudart.GPU.name
            config._timings._content = known + b"\n" + entry
        head = {"version": __version__, "profiles": config._profiles}
        self._logger.log(ILogger.Severity.WARNING, "a warning of the builder")
        return IHostMemory(json.dumps(head).encode() + b"\n" + network._graph.SerializeToString())

    def _refuse(self, said):
        self._logger.log(ILogger.Severity.ERROR, f"Error Code 4: API Usage Error ({said})")


class Runtime:
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        head, _, graph = bytes(serialized_engine).partition(b"\n")
        try:
            described = json.loads(head)
        except ValueError:
            described = {"version": None}
        if described["version"] != __version__:
            self._logger.log(ILogger.Severity.ERROR, "Error Code 6: the engine plan file is not compatible")
            return None
        return ICudaEngine(described["profiles"], graph)


class ICudaEngine:
    def __init__(self, profiles, graph):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._profiles = profiles
        self._input, self._output = self._session.get_inputs()[0], self._session.get_outputs()[0]
        self.num_io_tensors = 2
        self.num_optimization_profiles = len(profiles)
        self.device_memory_size_v2 = 1024

    def get_tensor_name(self, index):
        return (self._input.name, self._output.name)[index]

    def get_tensor_profile_shape(self, name, profile_index):
        return self._profiles[profile_index][name]

    def create_execution_context(self, strategy=ExecutionContextAllocationStrategy.STATIC):
        return IExecutionContext(self, strategy)


class IExecutionContext:
    def __init__(self, engine, strategy):
        self._engine, self._addresses = engine, {}
        self._profile: Any = None
        self._shape: Any = None
        self._has_memory = strategy != ExecutionContextAllocationStrategy.USER_MANAGED

    def set_device_memory(self, memory, size):
        assert size >= self._engine.device_memory_size_v2 and memory in _cudart.device
        self._has_memory = True

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self._profile = profile_index
        return 0 <= profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name, shape):
        least, _, largest = self._engine.get_tensor_profile_shape(name, self._profile)
        self._shape = tuple(shape)
        return all(low <= size <= high for low, size, high in zip(least, shape, largest, strict=True))

    def infer_shapes(self):
        return [] if self._shape else [self._engine._input.name]

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return memory in _cudart.device

    def get_tensor_shape(self, name):
        return (self._shape[0], self._engine._output.shape[1])

    def execute_async_v3(self, stream_handle):
        if not self._has_memory or len(self._addresses) != 2:
            return False
        _cudart.submit(stream_handle, self._execute)
        return True

    def _execute(self):
        source, target = self._engine._input, self._engine._output
        dtype = np.int32 if "int32" in source.type else np.float32
        count = int(np.prod(self._shape)) * 4
        batch = np.frombuffer(ctypes.string_at(self._addresses[source.name], count), dtype).reshape(
            self._shape
        )
        (answer,) = self._engine._session.run([target.name], {source.name: batch})
        ctypes.memmove(self._addresses[target.name], answer.ctypes.data, answer.nbytes)
