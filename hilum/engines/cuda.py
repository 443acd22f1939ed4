"""CUDA's runtime through ``cuda-bindings``: probed before anything else, every code looked at.

Imports nothing of CUDA until it is called. On a machine with no driver TensorRT's own objects may
crash the process, so :func:`require_device` comes before any of them.
"""

from __future__ import annotations

import ctypes
import importlib
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

# After these the process's context is unusable for good, or the device is gone (CUDA runtime API,
# section "cudaError": «the process must be terminated and relaunched»). With their numbers, which
# is how other libraries quote them.
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
    "cudaErrorNoDevice": "the driver sees no GPU (in a container: was one assigned to it?)",
    "cudaErrorSystemDriverMismatch": "driver and kernel module are of different versions",
    "cudaErrorSystemNotReady": "the GPU's system services are not up",
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """The GPU this process would use: the first one it is given."""

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    driver_cuda: str  # newest CUDA version that the driver runs, for example `13.0`

    @property
    def sm(self) -> str:
        """For example ``sm_89``."""
        return f"sm_{self.compute_capability[0]}{self.compute_capability[1]}"


def require_device() -> Device:
    """The first GPU.

    Raises:
        EngineUnavailableError: there is none, or no driver, or no ``cuda-bindings``; says which.
    """
    runtime = load_runtime()
    error, count = runtime.cudaGetDeviceCount()
    if error.name != "cudaSuccess" or not count:
        name = error.name if error.name != "cudaSuccess" else "cudaErrorNoDevice"
        reason = _ADVICE.get(name, "CUDA cannot be started")
        raise EngineUnavailableError(f"No usable GPU: {reason} ({name}).")
    properties = call(runtime.cudaGetDeviceProperties, 0)
    driver = call(runtime.cudaDriverGetVersion)
    return Device(
        name=properties.name.decode(errors="replace").rstrip("\0"),
        compute_capability=(properties.major, properties.minor),
        memory_bytes=properties.totalGlobalMem,
        driver_cuda=f"{driver // 1000}.{driver % 1000 // 10}",
    )


def memory_free() -> int:
    """Bytes of the GPU's memory that nobody uses.

    Raises:
        EngineUnavailableError, EngineFailedError: there is no GPU, or it does not answer.
    """
    runtime = load_runtime()
    free, _total = call(runtime.cudaMemGetInfo)
    return int(free)


def load_runtime() -> Any:
    """The module ``cuda.bindings.runtime``.

    Raises:
        EngineUnavailableError: it is not installed or does not load.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        raise EngineUnavailableError(
            "cuda-bindings is not installed." if missing else f"cuda-bindings: {error}.",
            next_step="Install `hilum[tensorrt]`, or choose engine `onnxruntime`.",
        ) from None


def call(function: Any, *arguments: Any) -> Any:
    """What a function of the CUDA runtime gives: nothing, a value, or a tuple of them.

    Raises:
        DeviceOutOfMemoryError, DeviceLostError, EngineFailedError: what its error code means.
    """
    error, *values = function(*arguments)
    if error.name != "cudaSuccess":
        # CUDA keeps it as the last error until it is asked: it would be taken for TensorRT's later.
        load_runtime().cudaGetLastError()
        raise failure(error.name, function.__name__)
    return values[0] if len(values) == 1 else tuple(values) or None


def failure(code: str, where: str) -> EngineFailedError:
    """The typed error for the CUDA error ``code``, met in ``where``."""
    if code in _OUT_OF_MEMORY:
        return DeviceOutOfMemoryError(f"The GPU has no memory left ({where}).")
    if code in _LOST:
        return DeviceLostError(f"The GPU was lost in {where} ({code}).")
    return EngineFailedError(f"CUDA failed in {where} ({code}).")


def failure_numbered(number: int, where: str) -> EngineFailedError:
    """:func:`failure` for a library that says no more than CUDA's number."""
    names = {value: name for name, value in (_LOST | _OUT_OF_MEMORY).items()}
    return failure(names.get(number, f"error {number}"), where)


class Stream:
    """A CUDA stream: work queued on it runs in order, beside that of other streams."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.handle = int(call(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking))

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy of ``size`` bytes between a device and a pinned host address."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        call(self._runtime.cudaMemcpyAsync, target, source, size, kind, self.handle)

    def wait(self) -> None:
        """Until all that is queued has run; its errors come up here."""
        call(self._runtime.cudaStreamSynchronize, self.handle)

    def close(self) -> None:
        """Give it back; on a lost device there is nothing left to give."""
        self._runtime.cudaStreamDestroy(self.handle)


class Graph:
    """Work recorded on a stream, to be queued again as one piece: one launch instead of one for
    each layer."""

    def __init__(self, runtime: Any, stream: Stream) -> None:
        self._runtime = runtime
        self._stream = stream
        self._executable: Any = None

    def __enter__(self) -> Graph:
        # Thread-local: what other threads do with CUDA meanwhile is not our business.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(self._runtime.cudaStreamBeginCapture, self._stream.handle, mode)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        error, graph = self._runtime.cudaStreamEndCapture(self._stream.handle)
        if kind is not None:
            return  # the exception that ended the recording says more
        if error.name != "cudaSuccess":
            raise failure(error.name, "cudaStreamEndCapture")
        try:
            self._executable = call(self._runtime.cudaGraphInstantiate, graph, 0)
        finally:
            self._runtime.cudaGraphDestroy(graph)

    def launch(self) -> None:
        """Queue the recorded work on the stream it was recorded on."""
        call(self._runtime.cudaGraphLaunch, self._executable, self._stream.handle)

    def close(self) -> None:
        """Give it back."""
        if self._executable is not None:
            self._runtime.cudaGraphExecDestroy(self._executable)


class DeviceMemory:
    """Bytes on the GPU."""

    def __init__(self, runtime: Any, size: int) -> None:
        self._runtime = runtime
        self.size = size
        self.address = int(call(runtime.cudaMalloc, size)) if size else 0

    def close(self) -> None:
        """Give it back."""
        if self.address:
            self._runtime.cudaFree(self.address)
            self.address = 0


class PinnedMemory:
    """Page-locked host memory, which the GPU reads and writes on its own."""

    def __init__(self, runtime: Any, size: int) -> None:
        self._runtime = runtime
        self.address = int(call(runtime.cudaHostAlloc, size, runtime.cudaHostAllocDefault))
        self._bytes = (ctypes.c_uint8 * size).from_address(self.address)

    def array(self, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The memory as an array of that type and shape; not to be used after :meth:`close`."""
        count = int(np.prod(shape))
        return np.ctypeslib.as_array(self._bytes).view(dtype)[:count].reshape(shape)

    def close(self) -> None:
        """Give it back."""
        if self.address:
            self._runtime.cudaFreeHost(self.address)
            self.address = 0
