"""CUDA's runtime without a GPU, for the engine's state machine: asynchronous, and strict.

Work queued on a stream runs when the stream is waited for, not before, so results that are read
too early are wrong. Copies outside of live allocations fail the test. Names, enumerations and
argument counts are the real bindings' (``tests/hilum/engines/test_cuda.py`` compares them).
"""

from __future__ import annotations

import ctypes
import itertools
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from cuda.bindings import runtime as real

OK = real.cudaError_t.cudaSuccess
Work = Callable[[], None]


class FakeCuda:
    """Stands for the module ``cuda.bindings.runtime``."""

    cudaError_t = real.cudaError_t
    cudaMemcpyKind = real.cudaMemcpyKind
    cudaStreamCaptureMode = real.cudaStreamCaptureMode
    cudaStreamNonBlocking = real.cudaStreamNonBlocking
    cudaHostAllocDefault = real.cudaHostAllocDefault

    def __init__(self, *, name: str = "NVIDIA L4", major: int = 8, minor: int = 9) -> None:
        self.properties = SimpleNamespace(
            name=name.encode().ljust(256, b"\0"), major=major, minor=minor, totalGlobalMem=2**34
        )
        self.driver = 13000
        self.devices = 1
        self.room = 2**30  # bytes that may be allocated on the device
        self.failing: dict[str, list[str]] = defaultdict(list)  # function → errors to come
        self.last = OK
        self.live: dict[int, Any] = {}  # address → buffer, device and pinned
        self.on_device: dict[int, int] = {}  # address → bytes
        self.streams: dict[int, list[Work]] = {}
        self.recording: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.launches = 0
        self.copies = 0
        self._handles = itertools.count(1000)

    def fail(self, function: str, error: str, *, after: int = 0) -> None:
        """Have the call of ``function`` after the next ``after`` ones give ``error``."""
        self.failing[function] += ["cudaSuccess"] * after + [error]

    def queue(self, stream: int, work: Work) -> None:
        """Run later, or record."""
        self.recording.get(stream, self.streams[stream]).append(work)

    def _next(self, function: str) -> Any:
        error = (
            getattr(real.cudaError_t, self.failing[function].pop(0))
            if self.failing[function]
            else OK
        )
        if error != OK:
            self.last = error
        return error

    # --- the interface -------------------------------------------------------------------

    def cudaGetDeviceCount(self) -> Any:
        return self._next("cudaGetDeviceCount"), self.devices

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return self._next("cudaGetDeviceProperties"), self.properties

    def cudaDriverGetVersion(self) -> Any:
        return self._next("cudaDriverGetVersion"), self.driver

    def cudaMemGetInfo(self) -> Any:
        free = self.room - sum(self.on_device.values())
        return self._next("cudaMemGetInfo"), free, self.room

    def cudaGetLastError(self) -> Any:
        error, self.last = self.last, OK
        return (error,)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        error = self._next("cudaStreamCreateWithFlags")
        handle = next(self._handles)
        if error == OK:
            self.streams[handle] = []
        return error, handle

    def cudaStreamDestroy(self, stream: int) -> Any:
        del self.streams[stream]
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        assert stream not in self.recording, "a stream that records cannot be waited for"
        work, self.streams[stream] = self.streams[stream], []
        error = self._next("cudaStreamSynchronize")
        if error == OK:
            for step in work:
                step()
        return (error,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> Any:
        assert kind == real.cudaMemcpyKind.cudaMemcpyDefault
        self._inside(dst, count)
        self._inside(src, count)

        def copy() -> None:
            self._inside(dst, count)
            self._inside(src, count)
            self.copies += 1
            ctypes.memmove(dst, src, count)

        error = self._next("cudaMemcpyAsync")
        if error == OK:
            self.queue(stream, copy)
        return (error,)

    def cudaMalloc(self, size: int) -> Any:
        error = self._next("cudaMalloc")
        if sum(self.on_device.values()) + size > self.room:
            error = self.last = real.cudaError_t.cudaErrorMemoryAllocation
        if error != OK:
            return error, None
        address = self._allocate(size)
        self.on_device[address] = size
        return OK, address

    def cudaFree(self, devPtr: int) -> Any:
        del self.on_device[devPtr], self.live[devPtr]
        return (OK,)

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        error = self._next("cudaHostAlloc")
        return (error, self._allocate(size)) if error == OK else (error, None)

    def cudaFreeHost(self, ptr: int) -> Any:
        del self.live[ptr]
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> Any:
        error = self._next("cudaStreamBeginCapture")
        if error == OK:
            self.recording[stream] = []
        return (error,)

    def cudaStreamEndCapture(self, stream: int) -> Any:
        work = self.recording.pop(stream, [])
        return self._next("cudaStreamEndCapture"), work

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        error = self._next("cudaGraphInstantiate")
        handle = next(self._handles)
        if error == OK:
            self.graphs[handle] = graph
        return error, handle

    def cudaGraphDestroy(self, graph: Any) -> Any:
        return (OK,)

    def cudaGraphExecDestroy(self, graphExec: int) -> Any:
        del self.graphs[graphExec]
        return (OK,)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> Any:
        error = self._next("cudaGraphLaunch")
        if error == OK:
            self.launches += 1
            self.streams[stream].extend(self.graphs[graphExec])
        return (error,)

    # --- inside --------------------------------------------------------------------------

    def _allocate(self, size: int) -> int:
        buffer = (ctypes.c_uint8 * size)(*([0xA5] * min(size, 64)))
        address = ctypes.addressof(buffer)
        self.live[address] = buffer
        return address

    def _inside(self, address: int, count: int) -> None:
        assert any(
            begin <= address and address + count <= begin + len(buffer)
            for begin, buffer in self.live.items()
        ), "a copy outside of live memory"
