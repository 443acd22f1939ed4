"""TensorRT's bindings without a GPU: as much of them as hilum calls, with their ways to fail.

A plan of this library is JSON. What it computes is its ONNX graph, run by ONNX Runtime; or, in
plans of :func:`make_plan`, what :func:`expected` says. Classes, methods and
argument counts are the real bindings' (``tests/hilum/engines/tensorrt/test_fake.py`` compares
them with stubs of 11.4 and 10.16).
"""

from __future__ import annotations

import base64
import ctypes
import functools
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from support import fake_builder
from support.fake_cuda import FakeCuda
from support.fake_trt_types import (
    BuilderFlag,
    DataType,
    Dims,
    ErrorCode,
    ExecutionContextAllocationStrategy,
    HardwareCompatibilityLevel,
    IHostMemory,
    ILogger,
    IProgressMonitor,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    Severity,
    State,
    TensorIOMode,
)


def make_plan(
    *, size: int, labels: int, grid: tuple[int, int], max_batch: int, **more: Any
) -> bytes:
    """A plan as the builder would give it."""
    tensors = {
        "image": ["INPUT", "UINT8", [1, size, size]],
        "probability": ["OUTPUT", "FLOAT", [labels]],
        "cam": ["OUTPUT", "FLOAT", [labels, *grid]],
    }
    return json.dumps({"max": max_batch, "tensors": tensors, **more}).encode()


def expected(images: npt.NDArray[np.uint8], labels: int, grid: tuple[int, int]) -> Any:
    """What plans compute: (probability, cam) of ``[n, 1, S, S]``."""
    mean = images.mean(axis=(1, 2, 3), dtype=np.float64) / 255
    each = np.arange(1, labels + 1) / labels
    probability = (mean[:, None] * each).astype(np.float32)
    first = images[:, 0, 0, 0].astype(np.float32)[:, None, None, None]
    cam = (first + np.arange(labels)[None, :, None, None] + np.zeros(grid)).astype(np.float32)
    return probability, cam


@functools.cache
def _session(graph: str) -> Any:
    return onnxruntime.InferenceSession(base64.b64decode(graph), providers=["CPUExecutionProvider"])


def library(cuda: FakeCuda, *, version: str = "11.4.0.106") -> Any:
    """A module like ``tensorrt``, with its :class:`State` as ``state``."""
    state = State(cuda)

    class IExecutionContext:
        def __init__(self, engine: Any) -> None:
            self._engine = engine
            self._addresses: dict[str, int] = {}
            self._batch = 0
            self._scratch: int | None = None
            self._profile: int | None = None
            state.contexts.append(self)

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            self._profile = profile_index
            return bool(state.answer("set_optimization_profile_async", True, engine_log(self)))

        def set_device_memory(self, memory: int, size: int) -> None:
            assert memory in state.cuda.live
            assert size >= self._engine.device_memory_size_v2
            self._scratch = memory

        def set_input_shape(self, name: str, shape: Dims) -> bool:
            assert name == "image"
            self._batch = shape[0]
            return bool(state.answer("set_input_shape", True, engine_log(self)))

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return bool(state.answer("set_tensor_address", True, engine_log(self)))

        def infer_shapes(self) -> list[str]:
            return list(state.answer("infer_shapes", []))

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert self._profile == 0
            assert self._scratch in state.cuda.live
            assert set(self._addresses) == set(self._engine.tensors)
            worked = bool(state.answer("execute_async_v3", True, engine_log(self)))
            if worked:
                state.cuda.queue(stream_handle, self._compute)
            return worked

        def _compute(self) -> None:
            state.executions.append(self._batch)
            shapes = {n: (self._batch, *t[2]) for n, t in self._engine.tensors.items()}
            images = self._view("image", ctypes.c_uint8, shapes["image"])
            graph = self._engine.content.get("onnx")
            if graph is None:
                outputs = expected(images, shapes["cam"][1], shapes["cam"][2:])
            else:
                outputs = _session(graph).run(["probability", "cam"], {"image": images})
            for name, values in zip(("probability", "cam"), outputs, strict=True):
                self._view(name, ctypes.c_float, shapes[name])[...] = values

        def _view(self, name: str, kind: Any, shape: tuple[int, ...]) -> Any:
            count = int(np.prod(shape))
            array = (kind * count).from_address(self._addresses[name])
            return np.ctypeslib.as_array(array).reshape(shape)

    def engine_log(context: Any) -> Any:
        return context._engine.logger

    class ICudaEngine:
        def __init__(self, content: dict[str, Any], logger: Any) -> None:
            self.content = content
            self.tensors = content["tensors"]
            self.logger = logger

        @property
        def num_io_tensors(self) -> int:
            return len(self.tensors)

        @property
        def device_memory_size_v2(self) -> int:
            return int(self.content.get("scratch", 4096))

        def get_tensor_name(self, index: int) -> str:
            return [*self.tensors][index]

        def get_tensor_mode(self, name: str) -> Any:
            return TensorIOMode[self.tensors[name][0]]

        def get_tensor_dtype(self, name: str) -> Any:
            return DataType[self.tensors[name][1]]

        def get_tensor_shape(self, name: str) -> Dims:
            return Dims([-1, *self.tensors[name][2]])

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
            assert profile_index == 0
            return [Dims([b, *self.tensors[name][2]]) for b in (1, 1, self.content["max"])]

        def create_execution_context(self, strategy: Any) -> Any:
            assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
            context = IExecutionContext(self)
            return state.answer("create_execution_context", context, self.logger)

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: ILogger) -> None:
            assert state.cuda.devices, "without a driver this object would crash the process"
            state.make("Runtime", logger)
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            try:
                content = json.loads(bytes(serialized_engine))
            except ValueError:
                self._logger.log(Severity.ERROR, "Error Code 1: Serialization (magic tag)")
                return None
            if content.get("host_code") and not self.engine_host_code_allowed:
                self._logger.log(Severity.ERROR, "host code is not allowed")
                return None
            engine = ICudaEngine(content, self._logger)
            return state.answer("deserialize_cuda_engine", engine, self._logger)

    class _Errors:
        """Errors of a parser: none, or one made of what the state says."""

        _failed = False

        @property
        def num_errors(self) -> int:
            return int(self._failed and bool(state.said))

        def get_error(self, index: int) -> Any:
            return ParserError()

    class ParserError:
        def code(self) -> Any:
            return ErrorCode.INVALID_NODE

        def desc(self) -> str:
            return state.said

        def node_name(self) -> str:
            return "conv1"

        def node_operator(self) -> str:
            return "Conv"

    module = type("tensorrt", (), {"__version__": version, "state": state})()
    shared = (
        DataType, TensorIOMode, ExecutionContextAllocationStrategy, BuilderFlag, ErrorCode,
        HardwareCompatibilityLevel, MemoryPoolType, NetworkDefinitionCreationFlag, ILogger,
        IProgressMonitor, Dims, IHostMemory,
    )  # fmt: skip
    own = (IExecutionContext, ICudaEngine, Runtime, ParserError)
    own += fake_builder.classes(state, _Errors)
    for kind in (*shared, *own):
        setattr(module, kind.__name__, kind)
    return module
