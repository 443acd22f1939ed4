"""The CUDA runtime through ``cuda-bindings``, with every error code turned into a typed error.

CUDA is imported on first use. On a machine with no driver, TensorRT's objects may crash the
process, so call :func:`require_device` before creating any of them.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum.errors import (
    DeviceLostError,
    DeviceOutOfMemoryError,
    EngineFailedError,
    EngineUnavailableError,
)

# After these errors the process can never use the GPU again (CUDA runtime API, section "cudaError":
# "the process must be terminated and relaunched"). The numbers are needed because other libraries
# report errors by number.
_LOST: Final = {
    "cudaErrorAssert": 710,
    "cudaErrorContained": 226,
    "cudaErrorContextIsDestroyed": 709,
    "cudaErrorDeviceUninitialized": 201,
    "cudaErrorDevicesUnavailable": 46,
    "cudaErrorECCUncorrectable": 214,
    "cudaErrorHardwareStackError": 714,
    "cudaErrorIllegalAddress": 700,
    "cudaErrorIllegalInstruction": 715,
    "cudaErrorInitializationError": 3,
    "cudaErrorInvalidAddressSpace": 717,
    "cudaErrorInvalidPc": 718,
    "cudaErrorLaunchFailure": 719,
    "cudaErrorLaunchTimeout": 702,
    "cudaErrorMisalignedAddress": 716,
    "cudaErrorNoDevice": 100,
    "cudaErrorNvlinkUncorrectable": 220,
    "cudaErrorSystemNotReady": 802,
    "cudaErrorTensorMemoryLeak": 721,
    "cudaErrorUnknown": 999,
}
_OUT_OF_MEMORY: Final = {"cudaErrorMemoryAllocation": 2}
_ADVICE: Final = {
    "cudaErrorInsufficientDriver": "there is no NVIDIA driver, or it is older than CUDA needs",
    "cudaErrorNoDevice": "the driver sees no GPU (is one assigned to this container?)",
    "cudaErrorSystemDriverMismatch": "the driver and its kernel module have different versions",
    "cudaErrorSystemNotReady": "the GPU's system services are not running",
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """The GPU that this process uses: the first one that it can see."""

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    driver_cuda: str  # newest CUDA version that the driver supports, for example `13.0`

    @property
    def sm(self) -> str:
        """The compute capability as a name, for example ``sm_89``."""
        return f"sm_{self.compute_capability[0]}{self.compute_capability[1]}"


def require_device() -> Device:
    """Return the first GPU.

    Raises:
        EngineUnavailableError: there is no GPU, no usable driver, or no ``cuda-bindings``.
    """
    runtime = load_runtime()
    error, count = runtime.cudaGetDeviceCount()
    if error.name != "cudaSuccess" or not count:
        name = error.name if error.name != "cudaSuccess" else "cudaErrorNoDevice"
        reason = _ADVICE.get(name, "CUDA does not start")
        raise EngineUnavailableError(f"There is no usable GPU: {reason} ({name}).")
    properties = call(runtime.cudaGetDeviceProperties, 0)
    driver = call(runtime.cudaDriverGetVersion)
    return Device(
        name=properties.name.decode(errors="replace").rstrip("\0"),
        compute_capability=(properties.major, properties.minor),
        memory_bytes=properties.totalGlobalMem,
        driver_cuda=f"{driver // 1000}.{driver % 1000 // 10}",
    )


def memory_free() -> int:
    """Free memory of the GPU in bytes.

    Raises:
        EngineUnavailableError, EngineFailedError: there is no GPU, or it does not answer.
    """
    runtime = load_runtime()
    free, _total = call(runtime.cudaMemGetInfo)
    return int(free)


def load_runtime() -> Any:
    """Import and return the module ``cuda.bindings.runtime``.

    Raises:
        EngineUnavailableError: it is not installed or does not load.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        raise EngineUnavailableError(
            "cuda-bindings is not installed." if missing else f"cuda-bindings fails: {error}.",
            next_step="Install `hilum[tensorrt]`, or set HILUM_ENGINE to `onnxruntime`.",
        ) from None


def call(function: Any, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime. Returns ``None``, a value, or a tuple of values.

    Raises:
        DeviceOutOfMemoryError, DeviceLostError, EngineFailedError: it failed, see :func:`failure`.
    """
    error, *values = function(*arguments)
    if error.name != "cudaSuccess":
        # Reading the last error clears it, so that it is not mistaken for one of TensorRT's later.
        load_runtime().cudaGetLastError()
        raise failure(error.name, function.__name__)
    return values[0] if len(values) == 1 else tuple(values) or None


def failure(code: str, where: str) -> EngineFailedError:
    """The typed error for the CUDA error ``code`` that occurred in ``where``."""
    if code in _OUT_OF_MEMORY:
        return DeviceOutOfMemoryError(f"The GPU ran out of memory ({where}).")
    if code in _LOST:
        return DeviceLostError(f"The process lost the GPU in {where} ({code}).")
    return EngineFailedError(f"CUDA failed in {where} ({code}).")


def failure_numbered(number: int, where: str) -> EngineFailedError:
    """Like :func:`failure`, for a library that reports CUDA's errors by number."""
    names = {value: name for name, value in (_LOST | _OUT_OF_MEMORY).items()}
    return failure(names.get(number, f"error {number}"), where)


class Stream:
    """A CUDA stream and the memory of its work. Work queued on it runs in order."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._owned = ExitStack()
        self.handle = int(call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking))
        self._owned.callback(runtime.cudaStreamDestroy, self.handle)

    def allocate(self, size: int) -> int:
        """The address of ``size`` new bytes on the GPU, or 0 if ``size`` is 0."""
        if not size:
            return 0
        address = int(call(self._runtime.cudaMalloc, size))
        self._owned.callback(self._runtime.cudaFree, address)
        return address

    def pin(self, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """An array in page-locked host memory, which the GPU reads and writes directly. It must
        not be used after :meth:`close`."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        address = int(call(self._runtime.cudaHostAlloc, size, self._runtime.cudaHostAllocDefault))
        self._owned.callback(self._runtime.cudaFreeHost, address)
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy of ``size`` bytes between a device and a pinned host address."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        call(self._runtime.cudaMemcpyAsync, target, source, size, kind, self.handle)

    def record(self, queue_work: Callable[[], None]) -> Callable[[], None]:
        """Record the work that ``queue_work`` queues as a CUDA graph, without running it. Returns
        a function that queues it with one launch instead of one per layer."""
        # Thread-local, so that other threads may use CUDA meanwhile.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(self._runtime.cudaStreamBeginCapture, self.handle, mode)
        try:
            queue_work()
        finally:
            error, graph = self._runtime.cudaStreamEndCapture(self.handle)
        if error.name != "cudaSuccess":
            raise failure(error.name, "cudaStreamEndCapture")
        try:
            executable = call(self._runtime.cudaGraphInstantiate, graph, 0)
        finally:
            self._runtime.cudaGraphDestroy(graph)
        self._owned.callback(self._runtime.cudaGraphExecDestroy, executable)
        return lambda: call(self._runtime.cudaGraphLaunch, executable, self.handle)

    def wait(self) -> None:
        """Wait until all queued work has run. Raises the errors of that work."""
        call(self._runtime.cudaStreamSynchronize, self.handle)

    def close(self) -> None:
        """Free everything, in reverse order. Errors are ignored: the device may be lost."""
        self._owned.close()
