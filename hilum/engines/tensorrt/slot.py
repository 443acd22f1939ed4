"""A slot: one CUDA stream with everything a batch needs on the GPU, allocated once.

Memory is allocated for the largest batch of the profile and never grows. Batches run in buckets
(1, 2, 4, … largest). Each bucket has its own execution context, because a recorded CUDA graph is
valid only as long as the shapes of its context do not change. All contexts share the scratch memory
of the slot, since they run one after the other.
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
    """The batch sizes that run: powers of two, and ``largest``."""
    return (*(1 << i for i in range(largest.bit_length()) if 1 << i < largest), largest)


class _Tensor:
    """An input or output: memory on the device, and pinned memory on the host."""

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
    """Runs batches of exactly ``count`` images of a slot."""

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
            raise self._failure("create_execution_context")
        # TensorRT selects profile 0 by default only in the first context of an engine.
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
            raise EngineFailedError(f"TensorRT cannot infer the shape of {', '.join(missing)}.")
        return context

    def record(self) -> None:
        """Run once, then record the run as a CUDA graph. If it cannot be recorded, batches run
        without a graph: slower, with the same numbers."""
        self._enqueue()  # the first run does set-up work that cannot be recorded
        self._slot.stream.wait()
        graph = Graph(self._slot.runtime, self._slot.stream)
        try:
            with graph:
                self._enqueue()
        except DeviceLostError:
            raise
        except EngineFailedError as error:
            graph.close()
            log.warning("Batches of %d run without a CUDA graph: %s", self._count, error.detail)
            return
        self._graph = graph

    def launch(self) -> None:
        """Queue the copies to the GPU, the network, and the copies from the GPU."""
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
        """Destroy the graph. The context is freed with its last reference."""
        if self._graph is not None:
            self._graph.close()

    def _check(self, worked: bool, where: str) -> None:
        if not worked:
            raise self._failure(where)

    def _failure(self, where: str) -> EngineFailedError:
        """The error of a failed call: CUDA's last error if there is one, else TensorRT's."""
        (error, *_) = self._slot.runtime.cudaGetLastError()
        if error.name != "cudaSuccess":
            return cuda.failure(error.name, where)
        return EngineFailedError(f"TensorRT failed in {where}: {self._loaded.messages.quote()}")


class Slot:
    """See the module. Only one thread may use a slot at a time."""

    def __init__(
        self, runtime: Any, loaded: Loaded, promised: Signature, *, cuda_graphs: bool
    ) -> None:
        """Allocate memory, and run every bucket once, so that no batch pays for the first run.

        Raises:
            DeviceOutOfMemoryError, DeviceLostError, EngineFailedError: the GPU or TensorRT failed.
                All memory has been freed.
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
        """Queue ``[n, 1, S, S]`` with n ≤ :attr:`max_batch`, without waiting for the outputs."""
        count = len(images)
        bucket = next(b for b in self._lanes if b >= count)
        (image,) = self.inputs
        image.host[:count] = images
        image.host[count:bucket] = 0  # overwrite the films of the last batch
        self._lanes[bucket].launch()

    def finish(self, *targets: npt.NDArray[Any]) -> None:
        """Wait for the batch started, and copy the first rows of each output to its target.

        Raises:
            DeviceLostError, EngineFailedError: the run failed.
        """
        self.stream.wait()
        for tensor, target in zip(self.outputs, targets, strict=True):
            target[...] = tensor.host[: len(target)]

    def close(self) -> None:
        """Free everything, in reverse order of allocation."""
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
