"""One stream with all that a batch needs on its way through the GPU, allocated once.

Memory is laid out for the largest batch of the profile and never grows. Batches go in buckets
(1, 2, 4, … largest): each has an execution context of its own, for a recorded CUDA graph stays
valid only while its context's shapes stay as they were; all contexts of a slot share its scratch
memory, which they use one after the other.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hilum.engines import cuda
from hilum.engines.cuda import DeviceMemory, Graph, PinnedMemory, Stream
from hilum.engines.tensorrt.library import trt
from hilum.engines.tensorrt.network import Signature
from hilum.engines.tensorrt.plan import Loaded
from hilum.errors import DeviceLostError, EngineFailedError

log = logging.getLogger(__name__)

_DTYPES: Final[dict[str, type[np.generic]]] = {"UINT8": np.uint8, "FLOAT": np.float32}


def buckets(largest: int) -> tuple[int, ...]:
    """The batch sizes that run: powers of two, and the largest."""
    return (*(1 << i for i in range(largest.bit_length()) if 1 << i < largest), largest)


class _Tensor:
    """An input or output: on the device and, pinned, on the host."""

    def __init__(
        self, runtime: Any, name: str, dtype: str, shape: tuple[int, ...], batch: int
    ) -> None:
        self.name = name
        kind = _DTYPES[dtype]
        self.bytes_each = int(np.prod(shape)) * np.dtype(kind).itemsize
        self.device = DeviceMemory(runtime, self.bytes_each * batch)
        try:
            self._pinned = PinnedMemory(runtime, self.bytes_each * batch)
        except BaseException:
            self.device.close()
            raise
        self.host: npt.NDArray[Any] = self._pinned.array(kind, (batch, *shape))

    @property
    def host_address(self) -> int:
        return self._pinned.address

    def close(self) -> None:
        self.device.close()
        self._pinned.close()


class _Lane:
    """A slot's way for batches of exactly ``count``."""

    def __init__(self, slot: Slot, loaded: Loaded, count: int) -> None:
        self._slot = slot
        self._loaded = loaded
        self._count = count
        self._graph: Graph | None = None
        self._context = self._prepare()

    def _prepare(self) -> trt.IExecutionContext:
        slot, engine = self._slot, self._loaded.engine
        context = engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise self._failed("create_execution_context")
        # Profile 0 is chosen by itself only in an engine's first context.
        self._check(
            context.set_optimization_profile_async(0, slot.stream.handle),
            "set_optimization_profile_async",
        )
        slot.stream.wait()
        if slot.scratch.size:
            context.set_device_memory(slot.scratch.address, slot.scratch.size)
        for tensor in slot.inputs:
            shape = [self._count, *tensor.host.shape[1:]]
            self._check(context.set_input_shape(tensor.name, trt.Dims(shape)), "set_input_shape")
        for tensor in (*slot.inputs, *slot.outputs):
            self._check(
                context.set_tensor_address(tensor.name, tensor.device.address),
                "set_tensor_address",
            )
        missing = context.infer_shapes()
        if missing:
            raise EngineFailedError(f"TensorRT does not know the shape of {', '.join(missing)}.")
        return context

    def record(self) -> None:
        """Run once, then record the run as a CUDA graph. What cannot be recorded runs unrecorded:
        slower, with the same numbers."""
        self._enqueue()  # the first run sets things up that may not be recorded
        self._slot.stream.wait()
        graph = Graph(self._slot.runtime, self._slot.stream)
        try:
            with graph:
                self._enqueue()
        except DeviceLostError:
            raise
        except EngineFailedError as error:
            graph.close()
            log.warning("batches of %d run without a CUDA graph: %s", self._count, error.detail)
            return
        self._graph = graph

    def launch(self) -> None:
        """Queue copies in, the network, and copies out."""
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        slot, count = self._slot, self._count
        for tensor in slot.inputs:
            size = count * tensor.bytes_each
            slot.stream.copy(tensor.device.address, tensor.host_address, size)
        self._check(self._context.execute_async_v3(slot.stream.handle), "execute_async_v3")
        for tensor in slot.outputs:
            size = count * tensor.bytes_each
            slot.stream.copy(tensor.host_address, tensor.device.address, size)

    def close(self) -> None:
        """Give back the graph; the context goes with its last reference."""
        if self._graph is not None:
            self._graph.close()

    def _check(self, worked: bool, where: str) -> None:
        if not worked:
            raise self._failed(where)

    def _failed(self, where: str) -> EngineFailedError:
        """Why TensorRT said no: CUDA's own error if there is one, else TensorRT's words."""
        (error, *_) = self._slot.runtime.cudaGetLastError()
        if error.name != "cudaSuccess":
            return cuda.failure(error.name, where)
        return EngineFailedError(f"TensorRT failed in {where}: {self._loaded.messages.quote()}")


class Slot:
    """See the module. Used by one thread at a time."""

    def __init__(
        self, runtime: Any, loaded: Loaded, promised: Signature, *, cuda_graphs: bool
    ) -> None:
        """Allocate, and run every bucket once, so that no batch meets a first time.

        Raises:
            DeviceOutOfMemoryError, DeviceLostError, EngineFailedError: as they say; whatever was
                allocated has been given back.
        """
        self.runtime = runtime
        self.max_batch = loaded.max_batch
        self._closing: list[Any] = []
        self._lanes: dict[int, _Lane] = {}
        try:
            self.stream = self._own(Stream(runtime))
            self.scratch = self._own(DeviceMemory(runtime, loaded.engine.device_memory_size_v2))
            self.inputs = self._tensors(promised.inputs)
            self.outputs = self._tensors(promised.outputs)
            for count in buckets(self.max_batch):
                lane = self._lanes[count] = self._own(_Lane(self, loaded, count))
                if cuda_graphs:
                    lane.record()
        except BaseException:
            self.close()
            raise

    def start(self, images: npt.NDArray[np.uint8]) -> None:
        """Queue ``[n, 1, S, S]``, n at most :attr:`max_batch`; returns at once."""
        count = len(images)
        bucket = next(b for b in self._lanes if b >= count)
        (image,) = self.inputs
        image.host[:count] = images
        image.host[count:bucket] = 0  # not the last caller's films
        self._lanes[bucket].launch()

    def finish(self, *targets: npt.NDArray[Any]) -> None:
        """Wait for what was started, and copy the first rows of each output to its target.

        Raises:
            DeviceLostError, EngineFailedError: the run failed.
        """
        self.stream.wait()
        for tensor, target in zip(self.outputs, targets, strict=True):
            target[...] = tensor.host[: len(target)]

    def close(self) -> None:
        """Give everything back, the last first."""
        self._lanes.clear()
        while self._closing:
            self._closing.pop().close()

    def _tensors(self, named: dict[str, tuple[str, tuple[int, ...]]]) -> tuple[_Tensor, ...]:
        return tuple(
            self._own(_Tensor(self.runtime, name, dtype, shape, self.max_batch))
            for name, (dtype, shape) in named.items()
        )

    def _own(self, thing: Any) -> Any:
        self._closing.append(thing)
        return thing
